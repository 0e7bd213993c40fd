//! Weights as safetensors files, by the names that the parameter table gives them.

use safetensors::{Dtype, SafeTensorError, SafeTensors, tensor::TensorView};

use crate::Network;

/// Why weights were refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WeightsError {
    /// The bytes are not a safetensors file.
    #[error("not a safetensors file: {problem}")]
    Format {
        /// What is wrong with it.
        problem: String,
    },
    /// A tensor of the model is missing.
    #[error("tensor {name:?} is missing")]
    Missing {
        /// Its name.
        name: String,
    },
    /// A tensor that the model does not have.
    #[error("tensor {name:?} does not belong to the model")]
    Unknown {
        /// Its name.
        name: String,
    },
    /// A tensor has another shape than the model's.
    #[error("tensor {name:?} has shape {found:?}, expected {expected:?}")]
    Shape {
        /// Its name.
        name: String,
        /// Its shape.
        found: Vec<usize>,
        /// The shape in the model.
        expected: Vec<usize>,
    },
    /// A tensor of another type.
    #[error("tensor {name:?} has type {found}, expected F32")]
    Type {
        /// Its name.
        name: String,
        /// Its type.
        found: String,
    },
    /// A weight is NaN or infinite.
    #[error("tensor {name:?} holds a value that is not finite")]
    NonFinite {
        /// Its name.
        name: String,
    },
    /// The vector is not one of the network's parameters.
    #[error("{found} parameters, expected {expected}")]
    Length {
        /// Its length.
        found: usize,
        /// The number of parameters.
        expected: usize,
    },
}

/// The bytes of a safetensors file of `parameters`.
///
/// # Errors
/// If `parameters` has another length than the network's.
pub fn save(network: &Network, parameters: &[f32]) -> Result<Vec<u8>, WeightsError> {
    let expected = network.n_parameters();
    if parameters.len() != expected {
        return Err(WeightsError::Length { found: parameters.len(), expected });
    }
    let bytes: Vec<u8> = parameters.iter().flat_map(|value| value.to_le_bytes()).collect();
    let mut tensors = Vec::with_capacity(network.parameters().len());
    for entry in network.parameters() {
        let data = &bytes[4 * entry.offset..4 * (entry.offset + entry.len())];
        let view = TensorView::new(Dtype::F32, entry.shape.clone(), data).map_err(format_error)?;
        tensors.push((entry.name.as_str(), view));
    }
    safetensors::serialize(tensors, None).map_err(format_error)
}

/// The flat parameters in the bytes of a safetensors file: exactly the network's tensors, of exactly its shapes, finite.
///
/// # Errors
/// Names the tensor that is missing, unknown, of another shape or type, or not finite.
pub fn load(network: &Network, bytes: &[u8]) -> Result<Vec<f32>, WeightsError> {
    let file = SafeTensors::deserialize(bytes).map_err(format_error)?;
    let mut names = file.names();
    names.sort_unstable();
    for name in names {
        if !network.parameters().iter().any(|entry| entry.name == name) {
            return Err(WeightsError::Unknown { name: name.to_owned() });
        }
    }
    let mut parameters = vec![0.0; network.n_parameters()];
    for entry in network.parameters() {
        let name = entry.name.clone();
        let Ok(tensor) = file.tensor(&entry.name) else {
            return Err(WeightsError::Missing { name });
        };
        if tensor.dtype() != Dtype::F32 {
            return Err(WeightsError::Type { name, found: format!("{:?}", tensor.dtype()) });
        }
        if tensor.shape() != entry.shape {
            return Err(WeightsError::Shape { name, found: tensor.shape().to_vec(), expected: entry.shape.clone() });
        }
        let out = &mut parameters[entry.offset..entry.offset + entry.len()];
        for (value, bytes) in out.iter_mut().zip(tensor.data().as_chunks().0) {
            *value = f32::from_le_bytes(*bytes);
        }
        if out.iter().any(|value| !value.is_finite()) {
            return Err(WeightsError::NonFinite { name });
        }
    }
    Ok(parameters)
}

fn format_error(error: SafeTensorError) -> WeightsError {
    WeightsError::Format { problem: error.to_string() }
}
