//! Models as data: what a model may be, its canonical bytes, and its import from Keras.
//!
//! A [`ModelSpec`] is checked where it is made, from canonical bytes ([`ModelSpec::from_canonical`]) or from Keras' JSON
//! ([`ModelSpec::from_keras_json`]): every shape is known, every limit holds, so what runs it later cannot fail on it
//! and cannot be made to allocate more than the named limits. It is a program in no sense: a closed set of layers,
//! nothing registered, nothing evaluated.

mod builtin;
mod canonical;
mod keras;
mod source;
mod summary;

use std::ops::Range;

use eranos_base::{Digest, encoding::DecodeError};

pub use builtin::BUILTIN_NAMES;
pub use canonical::DOMAIN;
pub use source::Source;

use crate::layers::lstm;

/// Most layers of one model.
pub const LAYERS_MAX: usize = 128;
/// Most axes of one record's tensor, the batch not counted.
pub const RANK_MAX: usize = 4;
/// Most parameters of one model. Every process holds a few vectors of this length.
pub const PARAMETERS_MAX: usize = eranos_base::limits::VECTOR_LEN_MAX;
/// Most values that all layers together put out for one record, with those that a convolution pads and an LSTM remembers.
/// A workspace holds a small multiple of it.
pub const ACTIVATIONS_MAX: usize = 1 << 23;
/// Most multiply-adds that one record may cost on its way forward: about a minute of one core.
pub const MULTIPLY_ADDS_MAX: u64 = 1 << 40;
/// Longest Keras JSON that is read, in bytes.
pub const KERAS_JSON_LEN_MAX: usize = 1 << 20;
/// The layers that exist here.
pub const SUPPORTED: &str =
    "InputLayer, Conv2D, MaxPooling2D, Flatten, Dense, Activation, LSTM, Embedding, Concatenate and Dropout";
/// Most ids of an embedding: up to here every whole number is an `f32`.
pub const IDS_MAX: u32 = 1 << 24;

/// Why a model was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ModelError {
    /// The text is not JSON, or not what Keras prints.
    #[error("not a model as Keras prints it: {problem}")]
    Json {
        /// What is wrong with it.
        problem: String,
    },
    /// A kind of model that does not exist here.
    #[error("model of class {found:?}, supported are Sequential and Functional")]
    Class {
        /// Its class.
        found: String,
    },
    /// A kind of layer that does not exist here.
    #[error("layer {layer:?} is of class {found:?}, supported are {SUPPORTED}")]
    UnsupportedLayer {
        /// The layer's name.
        layer: String,
        /// Its class.
        found: String,
    },
    /// An option of a layer that is not honoured here, and is therefore refused.
    #[error("layer {layer:?} sets {option} to {found}, supported is {supported}")]
    UnsupportedOption {
        /// The layer's name.
        layer: String,
        /// The option.
        option: String,
        /// What it is set to.
        found: String,
        /// What it may be set to.
        supported: String,
    },
    /// A layer that cannot stand where it stands, or not with these numbers.
    #[error("layer {layer:?} {problem}")]
    Layer {
        /// The layer's name.
        layer: String,
        /// What is wrong with it: a fragment after the name.
        problem: String,
    },
    /// Something exceeds its named limit.
    #[error("{what} of {found}, limit {max}")]
    Limit {
        /// What is too large.
        what: &'static str,
        /// Its size.
        found: u64,
        /// The limit.
        max: u64,
    },
    /// No built-in model of this name.
    #[error("no built-in model {name:?}, there are {there}", there = BUILTIN_NAMES.join(", "))]
    UnknownBuiltin {
        /// The name.
        name: String,
    },
    /// A model that does not take the data.
    #[error("{problem}")]
    Data {
        /// What does not fit: a fragment after the model's name.
        problem: String,
    },
    /// The canonical bytes are malformed.
    #[error("model bytes: {0}")]
    Decode(#[from] DecodeError),
}

impl ModelError {
    /// The error as a person reads it.
    pub fn user_error(&self, source: &str) -> eranos_base::UserError {
        let next = match self {
            Self::Json { .. } | Self::Decode(_) => "write the file with `model.to_json()` of Keras 3".to_owned(),
            Self::Class { .. } => "write the model as keras.Sequential or with Keras' functional API".to_owned(),
            // What Keras makes of `mask_zero` in a Functional model.
            Self::UnsupportedLayer { found, .. } if found == "NotEqual" => {
                "write a model with mask_zero as keras.Sequential".to_owned()
            }
            Self::UnsupportedLayer { .. } => format!("build the model from {SUPPORTED}"),
            Self::UnsupportedOption { option, .. } => format!("set {option} to what is supported"),
            Self::Layer { layer, .. } => format!("correct the layer {layer:?}"),
            Self::Limit { .. } => "make the model smaller".to_owned(),
            Self::Data { .. } => "use a model whose inputs and outputs are those of the data".to_owned(),
            Self::UnknownBuiltin { .. } => {
                format!("name {}, or give a file of Keras JSON", BUILTIN_NAMES.join(" or "))
            }
        };
        eranos_base::UserError::new(format!("{source}: {self}"), next)
    }
}

/// A model: its layers and how they hang together, nothing else. It cannot be wrong: see [`ModelSpec::new`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ModelSpec {
    name: String,
    layers: Vec<LayerSpec>,
    shapes: Vec<Vec<usize>>,
    /// For each layer the InputLayer whose ids mask the time steps of its output.
    masks: Vec<Option<usize>>,
    input_shape: Vec<usize>,
    n_parameters: usize,
}

/// One layer of a model.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LayerSpec {
    /// Its name, unique in the model: 1 to 64 characters of A-Z, a-z, 0-9, '_', '-' and '.'.
    pub name: String,
    /// Which earlier layers it reads, by their number.
    pub inputs: Vec<u32>,
    /// What it does.
    pub kind: LayerKind,
}

/// What a layer does, with Keras' names and semantics, channels last.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum LayerKind {
    /// Where a record comes in.
    InputLayer {
        /// The shape of one record.
        shape: Vec<u32>,
    },
    /// Two-dimensional convolution: `[height, width, channels]` to `[height', width', filters]`.
    Conv2D {
        /// How many filters.
        filters: u32,
        /// Height and width of a filter.
        kernel_size: [u32; 2],
        /// Steps down and across.
        strides: [u32; 2],
        /// What happens at the edge.
        padding: Padding,
        /// Applied to the output.
        activation: Activation,
        /// Whether a bias is added.
        use_bias: bool,
    },
    /// The maximum of each window and channel: `[height, width, channels]` to `[height', width', channels]`.
    MaxPooling2D {
        /// Height and width of a window.
        pool_size: [u32; 2],
        /// Steps down and across.
        strides: [u32; 2],
        /// What happens at the edge.
        padding: Padding,
    },
    /// Any shape to one axis.
    Flatten,
    /// A matrix product over the last axis: `[.., inputs]` to `[.., units]`.
    Dense {
        /// How many outputs.
        units: u32,
        /// Applied to the output.
        activation: Activation,
        /// Whether a bias is added.
        use_bias: bool,
    },
    /// An activation alone.
    Activation(Activation),
    /// Long short-term memory: `[time steps, inputs]` to `[units]`, or to `[time steps, units]`.
    Lstm {
        /// How many units.
        units: u32,
        /// Whether the outputs of all time steps are put out, not only the last one's.
        return_sequences: bool,
        /// Whether a bias is added.
        use_bias: bool,
    },
    /// A row of numbers for each id: `[..]` to `[.., output_dim]`.
    Embedding {
        /// How many ids there are: whole numbers from 0 on.
        input_dim: u32,
        /// The length of a row.
        output_dim: u32,
        /// Whether an id of 0 says that its time step does not count.
        mask_zero: bool,
    },
    /// Several inputs one behind the other, equal but for one axis.
    Concatenate {
        /// Along which axis, counted from 0, the batch not counted.
        axis: u32,
    },
    /// Values dropped at random in training.
    Dropout {
        /// The probability that a value is dropped, in units of 2^-32.
        rate: u32,
    },
}

/// What a layer applies to its output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Activation {
    /// Nothing.
    Linear,
    /// max(x, 0).
    Relu,
    /// e^x / sum e^x over the last axis.
    Softmax,
    /// 1 / (1 + e^-x).
    Sigmoid,
    /// The hyperbolic tangent.
    Tanh,
}

/// What a window does at the edge of its input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Padding {
    /// It stays inside.
    Valid,
    /// The input is padded so that a stride of 1 keeps its height and width; odd padding goes below and to the right.
    Same,
}

impl ModelSpec {
    /// A model of `layers`, each reading earlier ones. Its output is that of the last layer, and every other is read by
    /// some layer. A record is what its InputLayers take, one after the other in their order.
    ///
    /// # Errors
    /// Names the layer that cannot stand where it stands, or the limit exceeded. Nothing larger than the specification
    /// itself is allocated before every limit has been checked.
    pub fn new(name: &str, layers: Vec<LayerSpec>) -> Result<Self, ModelError> {
        check_name(name, name)?;
        limit("number of layers", layers.len() as u64, LAYERS_MAX as u64)?;
        if layers.len() < 2 {
            let problem = "has no layers after its input".to_owned();
            return Err(ModelError::Layer { layer: name.to_owned(), problem });
        }
        let mut shapes: Vec<Vec<usize>> = Vec::with_capacity(layers.len());
        let mut masks: Vec<Option<usize>> = Vec::with_capacity(layers.len());
        let (mut n_values, mut n_parameters, mut multiply_adds) = (0_u64, 0_u64, 0_u64);
        for (i, layer) in layers.iter().enumerate() {
            check_name(name, &layer.name)?;
            let problem = |problem: &str| ModelError::Layer { layer: layer.name.clone(), problem: problem.to_owned() };
            if layers[..i].iter().any(|earlier| earlier.name == layer.name) {
                return Err(problem("has the name of an earlier layer"));
            }
            layer.kind.check_number_of_inputs(layer.inputs.len()).map_err(|p| problem(&p))?;
            let Some(inputs) = layer.inputs.iter().map(|&input| shapes.get(input as usize)).collect::<Option<Vec<_>>>()
            else {
                return Err(problem("reads a layer that does not come before it"));
            };
            let inputs: Vec<&[usize]> = inputs.into_iter().map(Vec::as_slice).collect();
            let output = layer.kind.output_shape(&inputs).map_err(|p| problem(&p))?;
            n_values = n_values.saturating_add(product(&output)).saturating_add(layer.kind.n_working_values(&inputs));
            limit("values that all layers hold for a record", n_values, ACTIVATIONS_MAX as u64)?;
            for (_, shape) in layer.kind.parameter_shapes(&inputs) {
                n_parameters = n_parameters.saturating_add(product(&shape));
            }
            limit("number of parameters", n_parameters, PARAMETERS_MAX as u64)?;
            multiply_adds = multiply_adds.saturating_add(layer.kind.multiply_adds(&inputs, &output));
            limit("multiply-adds of one record", multiply_adds, MULTIPLY_ADDS_MAX)?;
            let kind_of = |input: usize| &layers[input].kind;
            masks.push(layer.kind.mask(&layer.inputs, kind_of, &masks).map_err(|p| problem(&p))?);
            shapes.push(output);
        }
        let last = layers.len() - 1;
        for (i, layer) in layers[..last].iter().enumerate() {
            if !layers.iter().any(|reader| reader.inputs.contains(&(i as u32))) {
                let problem = "is read by no other layer, and is not the last".to_owned();
                return Err(ModelError::Layer { layer: layer.name.clone(), problem });
            }
        }
        if masks[last].is_some() {
            let problem = "hands its mask on to the loss, which takes none: end with an LSTM that returns no sequences, \
                           or set mask_zero to false";
            return Err(ModelError::Layer { layer: layers[last].name.clone(), problem: problem.to_owned() });
        }
        let mut spec = Self {
            name: name.to_owned(),
            layers,
            shapes,
            masks,
            input_shape: Vec::new(),
            n_parameters: n_parameters as usize,
        };
        spec.input_shape = match &spec.inputs().collect::<Vec<_>>()[..] {
            &[input] => spec.shapes[input].clone(),
            _ => vec![spec.record_len()],
        };
        Ok(spec)
    }

    /// The model's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The layers, each after those it reads.
    pub fn layers(&self) -> &[LayerSpec] {
        &self.layers
    }

    /// The shape of one record's output of each layer.
    pub fn shapes(&self) -> &[Vec<usize>] {
        &self.shapes
    }

    /// The numbers of the InputLayers.
    pub fn inputs(&self) -> impl Iterator<Item = usize> {
        (0..self.layers.len()).filter(|&i| matches!(self.layers[i].kind, LayerKind::InputLayer { .. }))
    }

    /// The shape of one record: that of the only InputLayer, or one axis of all their values.
    pub fn input_shape(&self) -> &[usize] {
        &self.input_shape
    }

    /// Values of one record.
    pub fn record_len(&self) -> usize {
        self.inputs().map(|input| product(&self.shapes[input]) as usize).sum()
    }

    /// Where the values of the InputLayer `layer` lie in a record; none if it is no InputLayer.
    pub fn record_range(&self, layer: usize) -> Option<Range<usize>> {
        let len = |input: usize| product(&self.shapes[input]) as usize;
        self.inputs().find(|&input| input == layer)?;
        let start = self.inputs().take_while(|&input| input != layer).map(len).sum();
        Some(start..start + len(layer))
    }

    /// The shape of one record's output.
    pub fn output_shape(&self) -> &[usize] {
        self.shapes.last().map_or(&[], Vec::as_slice)
    }

    /// How many parameters the model has.
    pub fn n_parameters(&self) -> usize {
        self.n_parameters
    }

    /// Whether training a record needs a key for Dropout.
    pub fn has_dropout(&self) -> bool {
        self.layers.iter().any(|layer| matches!(layer.kind, LayerKind::Dropout { rate } if rate > 0))
    }

    /// Names and shapes of a layer's parameters, in Keras' order.
    pub(crate) fn parameter_shapes(&self, layer: usize) -> Vec<(&'static str, Vec<usize>)> {
        let inputs = self.layers[layer].inputs.iter().map(|&input| &*self.shapes[input as usize]);
        self.layers[layer].kind.parameter_shapes(&inputs.collect::<Vec<_>>())
    }

    /// The InputLayer whose ids mask the time steps of what a layer reads.
    pub(crate) fn mask_of_input(&self, layer: usize) -> Option<usize> {
        self.layers[layer].inputs.first().and_then(|&input| self.masks[input as usize])
    }

    /// SHA-256 of the canonical bytes.
    pub fn digest(&self) -> Digest {
        Digest::of(&self.to_canonical())
    }
}

impl LayerKind {
    /// The class name that Keras gives it.
    pub const fn class_name(&self) -> &'static str {
        match self {
            Self::InputLayer { .. } => "InputLayer",
            Self::Conv2D { .. } => "Conv2D",
            Self::MaxPooling2D { .. } => "MaxPooling2D",
            Self::Flatten => "Flatten",
            Self::Dense { .. } => "Dense",
            Self::Activation(_) => "Activation",
            Self::Lstm { .. } => "LSTM",
            Self::Embedding { .. } => "Embedding",
            Self::Concatenate { .. } => "Concatenate",
            Self::Dropout { .. } => "Dropout",
        }
    }

    /// The activation that the layer ends in.
    pub(crate) const fn activation(&self) -> Activation {
        match self {
            Self::Conv2D { activation, .. } | Self::Dense { activation, .. } | Self::Activation(activation) => {
                *activation
            }
            _ => Activation::Linear,
        }
    }

    /// Puts `activation` in the place of the one that the layer ends in, if it can have one.
    pub(crate) fn replace_activation(&mut self, new: Activation) {
        match self {
            Self::Conv2D { activation, .. } | Self::Dense { activation, .. } | Self::Activation(activation) => {
                *activation = new;
            }
            _ => {}
        }
    }

    fn check_number_of_inputs(&self, n: usize) -> Result<(), String> {
        match self {
            Self::InputLayer { .. } if n > 0 => Err("is an InputLayer, but reads a layer".to_owned()),
            Self::InputLayer { .. } => Ok(()),
            Self::Concatenate { .. } if n < 2 => Err(format!("reads {n} layers, expected 2 or more")),
            Self::Concatenate { .. } => Ok(()),
            _ if n != 1 => Err(format!("reads {n} layers, expected 1")),
            _ => Ok(()),
        }
    }

    /// The InputLayer whose ids mask the time steps of the output, as Keras hands masks on.
    fn mask<'a>(
        &self,
        inputs: &[u32],
        kind_of: impl Fn(usize) -> &'a Self,
        masks: &[Option<usize>],
    ) -> Result<Option<usize>, String> {
        let handed_on = inputs.first().and_then(|&input| masks[input as usize]);
        match self {
            Self::Embedding { mask_zero, .. } => match inputs.first() {
                Some(&input) if matches!(kind_of(input as usize), Self::InputLayer { .. }) => {
                    Ok(mask_zero.then_some(input as usize))
                }
                _ => Err("reads computed values as ids: let it read an InputLayer".to_owned()),
            },
            Self::Dense { .. } | Self::Activation(_) | Self::Dropout { .. } => Ok(handed_on),
            Self::Lstm { return_sequences, .. } => Ok(handed_on.filter(|_| *return_sequences)),
            Self::Concatenate { .. } if inputs.iter().any(|&input| masks[input as usize].is_some()) => {
                Err("joins inputs with a mask, which is not supported: set mask_zero to false".to_owned())
            }
            // What reads a mask and does not know masks loses it in Keras, too.
            _ => Ok(None),
        }
    }

    fn output_shape(&self, inputs: &[&[usize]]) -> Result<Vec<usize>, String> {
        let input = inputs.first().copied().unwrap_or_default();
        match self {
            Self::InputLayer { shape } => {
                if shape.is_empty() || shape.len() > RANK_MAX {
                    return Err(format!("has {} axes, expected 1 to {RANK_MAX}", shape.len()));
                }
                if shape.contains(&0) {
                    return Err("has an axis of length 0".to_owned());
                }
                Ok(shape.iter().map(|&n| n as usize).collect())
            }
            Self::Conv2D { filters, kernel_size, strides, padding, .. } => {
                if *filters == 0 {
                    return Err("has no filters".to_owned());
                }
                let [height, width] = windows(input, *kernel_size, *strides, *padding)?;
                Ok(vec![height, width, *filters as usize])
            }
            Self::MaxPooling2D { pool_size, strides, padding } => {
                let [height, width] = windows(input, *pool_size, *strides, *padding)?;
                Ok(vec![height, width, input[2]])
            }
            Self::Flatten => Ok(vec![product(input) as usize]),
            Self::Dense { units, .. } => {
                if *units == 0 {
                    return Err("has no units".to_owned());
                }
                let mut shape = input.to_vec();
                if let Some(last) = shape.last_mut() {
                    *last = *units as usize;
                }
                Ok(shape)
            }
            Self::Activation(_) | Self::Dropout { .. } => Ok(input.to_vec()),
            Self::Lstm { units, return_sequences, .. } => {
                let &[n_steps, _] = input else {
                    return Err(format!("reads {} axes, expected time steps and inputs", input.len()));
                };
                if *units == 0 {
                    return Err("has no units".to_owned());
                }
                let units = *units as usize;
                Ok(if *return_sequences { vec![n_steps, units] } else { vec![units] })
            }
            Self::Embedding { input_dim, output_dim, .. } => {
                if *input_dim == 0 || *input_dim > IDS_MAX || *output_dim == 0 {
                    return Err(format!(
                        "has {input_dim} rows of {output_dim}, expected 1 to {IDS_MAX} rows of 1 or more"
                    ));
                }
                if input.len() == RANK_MAX {
                    return Err(format!("puts out {} axes, expected at most {RANK_MAX}", RANK_MAX + 1));
                }
                Ok([input, &[*output_dim as usize]].concat())
            }
            Self::Concatenate { axis } => {
                let axis = *axis as usize;
                if axis >= input.len() {
                    return Err(format!("joins axis {axis} of {} axes, counted from 0", input.len()));
                }
                let mut shape = input.to_vec();
                shape[axis] = 0;
                for other in inputs {
                    let is_alike =
                        other.len() == shape.len() && (0..shape.len()).all(|i| i == axis || other[i] == shape[i]);
                    if !is_alike {
                        return Err(format!("joins {input:?} and {other:?}, which differ beside axis {axis}"));
                    }
                    shape[axis] = shape[axis].saturating_add(other[axis]);
                }
                Ok(shape)
            }
        }
    }

    fn parameter_shapes(&self, inputs: &[&[usize]]) -> Vec<(&'static str, Vec<usize>)> {
        let n_inputs = inputs.first().and_then(|input| input.last()).copied().unwrap_or(0);
        let (mut tensors, n_outputs, bias, use_bias) = match *self {
            Self::Conv2D { filters, kernel_size: [height, width], use_bias, .. } => {
                let shape = vec![height as usize, width as usize, n_inputs, filters as usize];
                (vec![("kernel", shape)], filters as usize, "bias", use_bias)
            }
            Self::Dense { units, use_bias, .. } => {
                (vec![("kernel", vec![n_inputs, units as usize])], units as usize, "bias", use_bias)
            }
            Self::Lstm { units, use_bias, .. } => {
                let (units, width) = (units as usize, (units as usize).saturating_mul(4));
                let kernel = ("lstm_cell/kernel", vec![n_inputs, width]);
                let recurrent = ("lstm_cell/recurrent_kernel", vec![units, width]);
                (vec![kernel, recurrent], width, "lstm_cell/bias", use_bias)
            }
            Self::Embedding { input_dim, output_dim, .. } => {
                return vec![("embeddings", vec![input_dim as usize, output_dim as usize])];
            }
            Self::InputLayer { .. }
            | Self::MaxPooling2D { .. }
            | Self::Flatten
            | Self::Activation(_)
            | Self::Concatenate { .. }
            | Self::Dropout { .. } => return vec![],
        };
        if use_bias {
            tensors.push((bias, vec![n_outputs]));
        }
        tensors
    }

    /// Values that the layer holds for one record beside its output, where they may be many more.
    fn n_working_values(&self, inputs: &[&[usize]]) -> u64 {
        let input = inputs.first().copied().unwrap_or_default();
        match (self, input) {
            (Self::Lstm { units, .. }, &[n_steps, _]) => {
                (n_steps as u64 + 2).saturating_mul(u64::from(*units)).saturating_mul(lstm::WORKING_VALUES)
            }
            // The padded input and the gradient with respect to it.
            (Self::Conv2D { kernel_size, strides, padding: Padding::Same, .. }, &[height, width, n_channels]) => {
                let [height, width] = [(height, 0), (width, 1)].map(|(n, axis)| {
                    let (n, size, stride) = (n as u64, u64::from(kernel_size[axis]), u64::from(strides[axis]));
                    n.max((n.div_ceil(stride) - 1) * stride + size)
                });
                height.saturating_mul(width).saturating_mul(n_channels as u64).saturating_mul(2)
            }
            _ => 0,
        }
    }

    fn multiply_adds(&self, inputs: &[&[usize]], output: &[usize]) -> u64 {
        let input = inputs.first().copied().unwrap_or_default();
        let per_output = match self {
            Self::Conv2D { kernel_size, .. } => area(*kernel_size).saturating_mul(input[2] as u64),
            Self::MaxPooling2D { pool_size, .. } => area(*pool_size),
            Self::Dense { .. } => input.last().map_or(0, |&n| n as u64),
            Self::Lstm { units, .. } => {
                let &[n_steps, n_inputs] = input else { return u64::MAX };
                let per_unit = 4 * (n_inputs as u64).saturating_add(u64::from(*units));
                return per_unit.saturating_mul(u64::from(*units)).saturating_mul(n_steps as u64);
            }
            Self::InputLayer { .. }
            | Self::Flatten
            | Self::Activation(_)
            | Self::Embedding { .. }
            | Self::Concatenate { .. }
            | Self::Dropout { .. } => 1,
        };
        per_output.saturating_mul(product(output))
    }
}

/// How many windows fit down and across.
fn windows(input: &[usize], size: [u32; 2], strides: [u32; 2], padding: Padding) -> Result<[usize; 2], String> {
    let &[height, width, _] = input else {
        return Err(format!("reads {} axes, expected height, width and channels", input.len()));
    };
    if size.contains(&0) || strides.contains(&0) {
        return Err("has a window or stride of 0".to_owned());
    }
    let mut counts = [0; 2];
    for (axis, n) in [height, width].into_iter().enumerate() {
        let (size, stride) = (size[axis] as usize, strides[axis] as usize);
        counts[axis] = match padding {
            Padding::Valid if size > n => return Err(format!("has a window of {size} over a length of {n}")),
            Padding::Valid => (n - size) / stride + 1,
            // A window far beyond its input would pad without end.
            Padding::Same if size > 2 * n => return Err(format!("has a window of {size} over a length of {n}")),
            Padding::Same => n.div_ceil(stride),
        };
    }
    Ok(counts)
}

/// How many rows or columns lie before the input when `Same` pads: the smaller half.
pub(crate) fn padding_before(n: usize, size: usize, stride: usize, padding: Padding) -> usize {
    match padding {
        Padding::Valid => 0,
        Padding::Same => ((n.div_ceil(stride) - 1) * stride + size).saturating_sub(n) / 2,
    }
}

pub(crate) fn product(shape: &[usize]) -> u64 {
    shape.iter().fold(1, |product, &n| product.saturating_mul(n as u64))
}

fn area([height, width]: [u32; 2]) -> u64 {
    u64::from(height) * u64::from(width)
}

fn limit(what: &'static str, found: u64, max: u64) -> Result<(), ModelError> {
    if found > max { Err(ModelError::Limit { what, found, max }) } else { Ok(()) }
}

fn check_name(model: &str, name: &str) -> Result<(), ModelError> {
    let max = eranos_base::limits::NAME_LEN_MAX;
    if name.is_empty() || name.len() > max {
        // The offending name may be huge: say how long it is, not what it is.
        let layer = model.chars().take(max).collect();
        let problem = format!("has a name of {} bytes, expected 1 to {max}", name.len());
        return Err(ModelError::Layer { layer, problem });
    }
    match name.chars().find(|c| !c.is_ascii_alphanumeric() && !"_-.".contains(*c)) {
        None => Ok(()),
        Some(found) => {
            let problem = format!("has {found:?} in its name, expected A-Z, a-z, 0-9, '_', '-' or '.'");
            Err(ModelError::Layer { layer: name.to_owned(), problem })
        }
    }
}
