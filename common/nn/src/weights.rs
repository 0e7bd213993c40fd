//! Weights as safetensors files, by the names that the parameter table gives them.

use safetensors::{Dtype, SafeTensors, tensor::TensorView};

use crate::{
    Network,
    tensors::{TensorError, format_error},
};

/// The bytes of a safetensors file of `parameters`.
///
/// # Errors
/// If `parameters` has another length than the network's.
pub fn save(network: &Network, parameters: &[f32]) -> Result<Vec<u8>, TensorError> {
    let expected = network.n_parameters();
    if parameters.len() != expected {
        return Err(TensorError::Length { found: parameters.len(), expected });
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
pub fn load(network: &Network, bytes: &[u8]) -> Result<Vec<f32>, TensorError> {
    let file = SafeTensors::deserialize(bytes).map_err(format_error)?;
    let mut names = file.names();
    names.sort_unstable();
    for name in names {
        if !network.parameters().iter().any(|entry| entry.name == name) {
            return Err(TensorError::Unknown { name: name.to_owned() });
        }
    }
    let mut parameters = vec![0.0; network.n_parameters()];
    for entry in network.parameters() {
        let name = entry.name.clone();
        let Ok(tensor) = file.tensor(&entry.name) else {
            return Err(TensorError::Missing { name });
        };
        if tensor.dtype() != Dtype::F32 {
            return Err(TensorError::Type { name, found: format!("{:?}", tensor.dtype()), expected: "F32" });
        }
        if tensor.shape() != entry.shape {
            return Err(TensorError::Shape { name, found: tensor.shape().to_vec(), expected: entry.shape.clone() });
        }
        let out = &mut parameters[entry.offset..entry.offset + entry.len()];
        for (value, bytes) in out.iter_mut().zip(tensor.data().as_chunks().0) {
            *value = f32::from_le_bytes(*bytes);
        }
        if out.iter().any(|value| !value.is_finite()) {
            return Err(TensorError::NonFinite { name });
        }
    }
    Ok(parameters)
}
