//! The canonical bytes of a model: what travels, and what is hashed.
//!
//! | field | type |
//! |---|---|
//! | domain | text `eranos/model/v1` |
//! | name | text |
//! | number of layers | u32 |
//! | then for each layer: class | u8, see below |
//! | name | text |
//! | number of inputs | u32 |
//! | each input | u32, the number of an earlier layer |
//! | options of the class | see below |
//!
//! | class | options |
//! |---|---|
//! | 1 InputLayer | number of axes u32, each length u32 |
//! | 2 Conv2D | filters u32, kernel height and width u32, strides u32 u32, padding u8, activation u8, use_bias u8 |
//! | 3 MaxPooling2D | pool height and width u32, strides u32 u32, padding u8 |
//! | 4 Flatten | none |
//! | 5 Dense | units u32, activation u8, use_bias u8 |
//! | 6 Activation | activation u8 |
//! | 7 LSTM | units u32, return_sequences u8, use_bias u8 |
//! | 8 Embedding | input_dim u32, output_dim u32, mask_zero u8 |
//! | 9 Concatenate | axis u32, counted from 0, the batch not counted |
//! | 10 Dropout | rate u32, in units of 2^-32 |
//!
//! padding: 0 valid, 1 same. activation: 0 linear, 1 relu, 2 softmax, 3 sigmoid, 4 tanh. use_bias, return_sequences,
//! mask_zero: 0 or 1.

use eranos_base::{
    encoding::{Canonical, CanonicalReader, DecodeError},
    limits::CANONICAL_LEN_MAX,
};

use super::{Activation, LAYERS_MAX, LayerKind, LayerSpec, ModelError, ModelSpec, Padding, RANK_MAX};

/// The domain of a model's canonical bytes.
pub const DOMAIN: &str = "eranos/model/v1";

impl ModelSpec {
    /// The canonical bytes.
    pub fn to_canonical(&self) -> Vec<u8> {
        let mut out = Canonical::new(DOMAIN).text(&self.name).u32(self.layers.len() as u32);
        for layer in &self.layers {
            out = out.u8(class(&layer.kind)).text(&layer.name).u32(layer.inputs.len() as u32);
            for &input in &layer.inputs {
                out = out.u32(input);
            }
            out = write_kind(out, &layer.kind);
        }
        out.finish()
    }

    /// Reads canonical bytes, strictly: what this accepts re-encodes to the same bytes.
    ///
    /// # Errors
    /// If the bytes are malformed, truncated or followed by more, or if they say a model that [`ModelSpec::new`]
    /// refuses.
    pub fn from_canonical(bytes: &[u8]) -> Result<Self, ModelError> {
        if bytes.len() > CANONICAL_LEN_MAX {
            let (len, max) = (bytes.len() as u64, CANONICAL_LEN_MAX as u64);
            return Err(DecodeError::Limit { what: "model", len, max }.into());
        }
        let mut reader = CanonicalReader::new(bytes, DOMAIN)?;
        let name = reader.text()?;
        let n_layers = reader.count(LAYERS_MAX)?;
        let mut layers = Vec::with_capacity(n_layers);
        for _ in 0..n_layers {
            let class = reader.u8()?;
            let name = reader.text()?.to_owned();
            let n_inputs = reader.count(LAYERS_MAX)?;
            let inputs = (0..n_inputs).map(|_| reader.u32()).collect::<Result<_, _>>()?;
            let kind = read_kind(&mut reader, class)?;
            layers.push(LayerSpec { name, inputs, kind });
        }
        reader.finish()?;
        Self::new(name, layers)
    }
}

const fn class(kind: &LayerKind) -> u8 {
    match kind {
        LayerKind::InputLayer { .. } => 1,
        LayerKind::Conv2D { .. } => 2,
        LayerKind::MaxPooling2D { .. } => 3,
        LayerKind::Flatten => 4,
        LayerKind::Dense { .. } => 5,
        LayerKind::Activation(_) => 6,
        LayerKind::Lstm { .. } => 7,
        LayerKind::Embedding { .. } => 8,
        LayerKind::Concatenate { .. } => 9,
        LayerKind::Dropout { .. } => 10,
    }
}

fn write_kind(out: Canonical, kind: &LayerKind) -> Canonical {
    let pair = |out: Canonical, [a, b]: [u32; 2]| out.u32(a).u32(b);
    match *kind {
        LayerKind::InputLayer { ref shape } => {
            shape.iter().fold(out.u32(shape.len() as u32), |out, &length| out.u32(length))
        }
        LayerKind::Conv2D { filters, kernel_size, strides, padding, activation, use_bias } => {
            let out = pair(pair(out.u32(filters), kernel_size), strides);
            out.u8(padding_code(padding)).u8(activation_code(activation)).u8(u8::from(use_bias))
        }
        LayerKind::MaxPooling2D { pool_size, strides, padding } => {
            pair(pair(out, pool_size), strides).u8(padding_code(padding))
        }
        LayerKind::Flatten => out,
        LayerKind::Dense { units, activation, use_bias } => {
            out.u32(units).u8(activation_code(activation)).u8(u8::from(use_bias))
        }
        LayerKind::Activation(activation) => out.u8(activation_code(activation)),
        LayerKind::Lstm { units, return_sequences, use_bias } => {
            out.u32(units).u8(u8::from(return_sequences)).u8(u8::from(use_bias))
        }
        LayerKind::Embedding { input_dim, output_dim, mask_zero } => {
            out.u32(input_dim).u32(output_dim).u8(u8::from(mask_zero))
        }
        LayerKind::Concatenate { axis } => out.u32(axis),
        LayerKind::Dropout { rate } => out.u32(rate),
    }
}

fn read_kind(reader: &mut CanonicalReader<'_>, class: u8) -> Result<LayerKind, DecodeError> {
    let pair = |reader: &mut CanonicalReader<'_>| Ok::<_, DecodeError>([reader.u32()?, reader.u32()?]);
    Ok(match class {
        1 => {
            let rank = reader.count(RANK_MAX)?;
            LayerKind::InputLayer { shape: (0..rank).map(|_| reader.u32()).collect::<Result<_, _>>()? }
        }
        2 => LayerKind::Conv2D {
            filters: reader.u32()?,
            kernel_size: pair(reader)?,
            strides: pair(reader)?,
            padding: read_padding(reader)?,
            activation: read_activation(reader)?,
            use_bias: read_bool(reader, "use_bias")?,
        },
        3 => {
            LayerKind::MaxPooling2D { pool_size: pair(reader)?, strides: pair(reader)?, padding: read_padding(reader)? }
        }
        4 => LayerKind::Flatten,
        5 => LayerKind::Dense {
            units: reader.u32()?,
            activation: read_activation(reader)?,
            use_bias: read_bool(reader, "use_bias")?,
        },
        6 => LayerKind::Activation(read_activation(reader)?),
        7 => LayerKind::Lstm {
            units: reader.u32()?,
            return_sequences: read_bool(reader, "return_sequences")?,
            use_bias: read_bool(reader, "use_bias")?,
        },
        8 => LayerKind::Embedding {
            input_dim: reader.u32()?,
            output_dim: reader.u32()?,
            mask_zero: read_bool(reader, "mask_zero")?,
        },
        9 => LayerKind::Concatenate { axis: reader.u32()? },
        10 => LayerKind::Dropout { rate: reader.u32()? },
        _ => return Err(DecodeError::Malformed { what: "class of a layer" }),
    })
}

const fn padding_code(padding: Padding) -> u8 {
    match padding {
        Padding::Valid => 0,
        Padding::Same => 1,
    }
}

fn read_padding(reader: &mut CanonicalReader<'_>) -> Result<Padding, DecodeError> {
    match reader.u8()? {
        0 => Ok(Padding::Valid),
        1 => Ok(Padding::Same),
        _ => Err(DecodeError::Malformed { what: "padding" }),
    }
}

const fn activation_code(activation: Activation) -> u8 {
    match activation {
        Activation::Linear => 0,
        Activation::Relu => 1,
        Activation::Softmax => 2,
        Activation::Sigmoid => 3,
        Activation::Tanh => 4,
    }
}

fn read_activation(reader: &mut CanonicalReader<'_>) -> Result<Activation, DecodeError> {
    match reader.u8()? {
        0 => Ok(Activation::Linear),
        1 => Ok(Activation::Relu),
        2 => Ok(Activation::Softmax),
        3 => Ok(Activation::Sigmoid),
        4 => Ok(Activation::Tanh),
        _ => Err(DecodeError::Malformed { what: "activation" }),
    }
}

fn read_bool(reader: &mut CanonicalReader<'_>, what: &'static str) -> Result<bool, DecodeError> {
    match reader.u8()? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(DecodeError::Malformed { what }),
    }
}
