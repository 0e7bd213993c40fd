//! Models as data: what a model may be, its canonical bytes, and its import from Keras.
//!
//! A [`ModelSpec`] is checked where it is made, from canonical bytes ([`ModelSpec::from_canonical`]) or from Keras' JSON
//! ([`ModelSpec::from_keras_json`]): every shape is known, every limit holds, so what runs it later cannot fail on it
//! and cannot be made to allocate more than the named limits. It is a program in no sense: a closed set of layers,
//! nothing registered, nothing evaluated.

mod canonical;
mod keras;
mod summary;

use eranos_base::{Digest, encoding::DecodeError};

pub use canonical::DOMAIN;

/// Most layers of one model.
pub const LAYERS_MAX: usize = 128;
/// Most axes of one record's tensor, the batch not counted.
pub const RANK_MAX: usize = 4;
/// Most parameters of one model. Every process holds a few vectors of this length.
pub const PARAMETERS_MAX: usize = eranos_base::limits::VECTOR_LEN_MAX;
/// Most values that all layers together put out for one record. A workspace holds a small multiple of it.
pub const ACTIVATIONS_MAX: usize = 1 << 23;
/// Most multiply-adds that one record may cost on its way forward: about a minute of one core.
pub const MULTIPLY_ADDS_MAX: u64 = 1 << 40;
/// Longest Keras JSON that is read, in bytes.
pub const KERAS_JSON_LEN_MAX: usize = 1 << 20;
/// The layers that exist here.
pub const SUPPORTED: &str = "InputLayer, Conv2D, MaxPooling2D, Flatten, Dense and Activation";

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
    #[error("model of class {found:?}, supported is Sequential")]
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
    #[error("no built-in model {name:?}, there is {there}", there = BUILTIN_NAMES.join(", "))]
    UnknownBuiltin {
        /// The name.
        name: String,
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
            Self::Class { .. } => "write the model as keras.Sequential".to_owned(),
            Self::UnsupportedLayer { .. } => format!("build the model from {SUPPORTED}"),
            Self::UnsupportedOption { option, .. } => format!("set {option} to what is supported"),
            Self::Layer { layer, .. } => format!("correct the layer {layer:?}"),
            Self::Limit { .. } => "make the model smaller".to_owned(),
            Self::UnknownBuiltin { .. } => {
                format!("name {}, or give a file of Keras JSON", BUILTIN_NAMES.join(" or "))
            }
        };
        eranos_base::UserError::new(format!("{source}: {self}"), next)
    }
}

/// The names of the models that come with the crate.
pub const BUILTIN_NAMES: &[&str] = &["cnn"];

/// A model: its layers and how they hang together, nothing else. It cannot be wrong: see [`ModelSpec::new`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ModelSpec {
    name: String,
    layers: Vec<LayerSpec>,
    shapes: Vec<Vec<usize>>,
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
    /// A model of `layers`, each reading earlier ones: at present a chain, the first layer an `InputLayer`.
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
        let (mut n_activations, mut n_parameters, mut multiply_adds) = (0_u64, 0_u64, 0_u64);
        for (i, layer) in layers.iter().enumerate() {
            check_name(name, &layer.name)?;
            let problem = |problem: &str| ModelError::Layer { layer: layer.name.clone(), problem: problem.to_owned() };
            if layers[..i].iter().any(|earlier| earlier.name == layer.name) {
                return Err(problem("has the name of an earlier layer"));
            }
            let is_chained = match i {
                0 => layer.inputs.is_empty(),
                _ => layer.inputs.len() == 1 && layer.inputs[0] as usize == i - 1,
            };
            if !is_chained {
                return Err(problem("does not read exactly the layer before it, as Sequential has it"));
            }
            if (i == 0) != matches!(layer.kind, LayerKind::InputLayer { .. }) {
                return Err(problem("is misplaced: the first layer, and no other, is an InputLayer"));
            }
            let input = shapes.last().map_or(&[][..], Vec::as_slice);
            let output = layer.kind.output_shape(input).map_err(|p| problem(&p))?;
            let tensors = layer.kind.parameter_shapes(input);
            n_activations = n_activations.saturating_add(product(&output));
            limit("values put out by all layers", n_activations, ACTIVATIONS_MAX as u64)?;
            for (_, shape) in &tensors {
                n_parameters = n_parameters.saturating_add(product(shape));
            }
            limit("number of parameters", n_parameters, PARAMETERS_MAX as u64)?;
            multiply_adds = multiply_adds.saturating_add(layer.kind.multiply_adds(input, &output));
            limit("multiply-adds of one record", multiply_adds, MULTIPLY_ADDS_MAX)?;
            shapes.push(output);
        }
        Ok(Self { name: name.to_owned(), layers, shapes, n_parameters: n_parameters as usize })
    }

    /// A model that comes with the crate.
    ///
    /// # Errors
    /// If there is none of this name.
    pub fn builtin(name: &str) -> Result<Self, ModelError> {
        match name {
            "cnn" => Self::from_keras_json(include_str!("cnn.json")),
            _ => Err(ModelError::UnknownBuiltin { name: name.to_owned() }),
        }
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

    /// The shape of one record.
    pub fn input_shape(&self) -> &[usize] {
        self.shapes.first().map_or(&[], Vec::as_slice)
    }

    /// The shape of one record's output.
    pub fn output_shape(&self) -> &[usize] {
        self.shapes.last().map_or(&[], Vec::as_slice)
    }

    /// How many parameters the model has.
    pub fn n_parameters(&self) -> usize {
        self.n_parameters
    }

    /// Names and shapes of a layer's parameters, in Keras' order.
    pub(crate) fn parameter_shapes(&self, layer: usize) -> Vec<(&'static str, Vec<usize>)> {
        self.layers[layer].kind.parameter_shapes(self.layer_input_shape(layer))
    }

    /// The shape of one record's input of a layer.
    pub(crate) fn layer_input_shape(&self, layer: usize) -> &[usize] {
        match self.layers[layer].inputs.first() {
            Some(&input) => &self.shapes[input as usize],
            None => &[],
        }
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
        }
    }

    /// The activation that the layer ends in.
    pub(crate) const fn activation(&self) -> Activation {
        match self {
            Self::Conv2D { activation, .. } | Self::Dense { activation, .. } | Self::Activation(activation) => {
                *activation
            }
            Self::InputLayer { .. } | Self::MaxPooling2D { .. } | Self::Flatten => Activation::Linear,
        }
    }

    fn output_shape(&self, input: &[usize]) -> Result<Vec<usize>, String> {
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
            Self::Activation(_) => Ok(input.to_vec()),
        }
    }

    fn parameter_shapes(&self, input: &[usize]) -> Vec<(&'static str, Vec<usize>)> {
        let n_inputs = input.last().copied().unwrap_or(0);
        let (kernel, n_outputs, use_bias) = match *self {
            Self::Conv2D { filters, kernel_size: [height, width], use_bias, .. } => {
                (vec![height as usize, width as usize, n_inputs, filters as usize], filters as usize, use_bias)
            }
            Self::Dense { units, use_bias, .. } => (vec![n_inputs, units as usize], units as usize, use_bias),
            Self::InputLayer { .. } | Self::MaxPooling2D { .. } | Self::Flatten | Self::Activation(_) => return vec![],
        };
        let mut tensors = vec![("kernel", kernel)];
        if use_bias {
            tensors.push(("bias", vec![n_outputs]));
        }
        tensors
    }

    fn multiply_adds(&self, input: &[usize], output: &[usize]) -> u64 {
        let per_output = match self {
            Self::Conv2D { kernel_size, .. } => area(*kernel_size).saturating_mul(input[2] as u64),
            Self::MaxPooling2D { pool_size, .. } => area(*pool_size),
            Self::Dense { .. } => input.last().map_or(0, |&n| n as u64),
            Self::InputLayer { .. } | Self::Flatten | Self::Activation(_) => 1,
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
