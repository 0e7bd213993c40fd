//! Tensors in safetensors files: what can be wrong with them, records on their way into a model, and its outputs on their
//! way out. A model's own tensors are in [`weights`](crate::weights).

use std::{fs::File, io::Read, path::Path};

use eranos_base::UserError;
use ndarray::{Array2, s};
use safetensors::{
    Dtype, SafeTensorError, SafeTensors,
    tensor::{TensorView, serialize},
};

use crate::{LayerKind, ModelSpec, data::VALUES_MAX, model::IDS_MAX};

/// The name of the tensor of a model's outputs.
pub const OUTPUT: &str = "output";
/// Longest file that is read, in bytes: it is held in memory. As many 64-bit ids as a data set may have values.
pub const FILE_LEN_MAX: u64 = 8 * VALUES_MAX;

/// Why tensors were refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TensorError {
    /// The bytes are not a safetensors file.
    #[error("not a safetensors file: {problem}")]
    Format {
        /// What is wrong with it.
        problem: String,
    },
    /// A tensor that the model calls for is missing.
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
    #[error("tensor {name:?} has type {found}, expected {expected}")]
    Type {
        /// Its name.
        name: String,
        /// Its type.
        found: String,
        /// The types that it may have.
        expected: &'static str,
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
    /// A tensor is not records of the shape that the model takes.
    #[error("tensor {name:?} has shape {found:?}, expected records of {expected:?} along a first axis")]
    Records {
        /// Its name.
        name: String,
        /// Its shape.
        found: Vec<usize>,
        /// The shape of one record.
        expected: Vec<usize>,
    },
    /// The inputs are not equally many records.
    #[error("tensor {name:?} has {found} records, an earlier input has {expected}")]
    Counts {
        /// Its name.
        name: String,
        /// Its records.
        found: usize,
        /// Those of the first input.
        expected: usize,
    },
    /// The records are more values than a data set may hold.
    #[error("records of {found} values, limit {VALUES_MAX}")]
    Limit {
        /// How many they are.
        found: u64,
    },
    /// A value of a record that the model does not take.
    #[error("tensor {name:?} holds {found} in record {record}, expected {expected}")]
    Value {
        /// Its name.
        name: String,
        /// Which record, counted from 0.
        record: usize,
        /// The value.
        found: String,
        /// What it should be.
        expected: String,
    },
    /// The model puts out a value that is NaN or infinite.
    #[error("the model's output for record {record} is not finite")]
    Output {
        /// Which record, counted from 0.
        record: usize,
    },
}

impl TensorError {
    /// The error as a person reads it, about the file `path`.
    pub fn user_error(&self, path: &Path) -> UserError {
        let next = match self {
            Self::Format { .. } => "write the file with safetensors, and copy it whole",
            Self::Missing { .. } | Self::Unknown { .. } | Self::Shape { .. } | Self::Length { .. } => {
                "give what belongs to this very model; `eranos model show` names its tensors with --json"
            }
            Self::Type { .. } => "convert the tensor before it is written",
            Self::NonFinite { .. } => "take weights of a training that stayed finite: a lower learning rate helps",
            Self::Records { .. } | Self::Counts { .. } => {
                "give each input as [records, ..]; `eranos model show` says what each takes with --json"
            }
            Self::Limit { .. } => "split the records over several files",
            Self::Value { .. } => "correct the record, or leave it out",
            Self::Output { .. } => "scale the records as those that the model was trained on",
        };
        UserError::new(format!("{}: {self}", path.display()), next)
    }
}

/// The bytes of a file of tensors, no more than [`FILE_LEN_MAX`].
///
/// # Errors
/// If it cannot be read, or is longer.
pub fn read_file(path: &Path) -> Result<Vec<u8>, UserError> {
    let mut bytes = Vec::new();
    File::open(path).and_then(|file| file.take(FILE_LEN_MAX + 1).read_to_end(&mut bytes)).map_err(|error| {
        UserError::new(
            format!("cannot read {}: {error}", path.display()),
            "check the path and that the file may be read",
        )
    })?;
    if bytes.len() as u64 > FILE_LEN_MAX {
        let what = format!("{} is longer than {FILE_LEN_MAX} bytes", path.display());
        return Err(UserError::new(what, "split the records over several files"));
    }
    Ok(bytes)
}

/// The records for `model` in the bytes of a safetensors file, one a row, `[n_records, record_len]`: for each InputLayer
/// the tensor of its name, `[n_records, ..]`, in F32, I32 or I64. A model with one input takes the only tensor of a file
/// whatever its name.
///
/// # Errors
/// Names the tensor that is missing, unknown, of another shape or type, and the record whose value is not finite, no id of
/// the embedding that reads it, or an integer that F32 does not hold.
pub fn records(model: &ModelSpec, bytes: &[u8]) -> Result<Array2<f32>, TensorError> {
    let file = SafeTensors::deserialize(bytes).map_err(format_error)?;
    let inputs: Vec<usize> = model.inputs().collect();
    let mut names: Vec<String> = inputs.iter().map(|&input| model.layers()[input].name.clone()).collect();
    let mut there = file.names();
    there.sort_unstable();
    if let ([name], [only]) = (&mut names[..], &there[..]) {
        (*only).clone_into(name);
    }
    if let Some(unknown) = there.iter().find(|found| !names.iter().any(|name| name == *found)) {
        return Err(TensorError::Unknown { name: (*unknown).to_owned() });
    }
    let mut tensors = Vec::with_capacity(names.len());
    for (&input, name) in inputs.iter().zip(&names) {
        let tensor = file.tensor(name).map_err(|_| TensorError::Missing { name: name.clone() })?;
        let expected = &model.shapes()[input];
        let n_records = match tensor.shape() {
            [n_records, shape @ ..] if shape == expected => *n_records,
            found => {
                let (found, expected) = (found.to_vec(), expected.clone());
                return Err(TensorError::Records { name: name.clone(), found, expected });
            }
        };
        tensors.push((input, name, tensor, n_records));
    }
    let expected = tensors.first().map_or(0, |(.., n_records)| *n_records);
    if let Some((_, name, _, found)) = tensors.iter().find(|(.., n_records)| *n_records != expected) {
        return Err(TensorError::Counts { name: (*name).clone(), found: *found, expected });
    }
    let n_values = (expected as u64).saturating_mul(model.record_len() as u64);
    if n_values > VALUES_MAX {
        return Err(TensorError::Limit { found: n_values });
    }
    let mut rows = Array2::zeros((expected, model.record_len()));
    for (input, name, tensor, _) in tensors {
        let values = floats(name, &tensor, model.shapes()[input].iter().product(), n_ids(model, input))?;
        // An InputLayer has a range.
        let range = model.record_range(input).unwrap_or_default();
        rows.slice_mut(s![.., range]).iter_mut().zip(values).for_each(|(row, value)| *row = value);
    }
    Ok(rows)
}

/// The bytes of a safetensors file of the tensor `output`, `[n_records, ..]` with the model's output shape.
///
/// # Errors
/// If a value is not finite.
pub fn save_outputs(model: &ModelSpec, outputs: &Array2<f32>) -> Result<Vec<u8>, TensorError> {
    if let Some(record) = outputs.outer_iter().position(|row| row.iter().any(|value| !value.is_finite())) {
        return Err(TensorError::Output { record });
    }
    let bytes: Vec<u8> = outputs.iter().flat_map(|value| value.to_le_bytes()).collect();
    let shape = [&[outputs.nrows()], model.output_shape()].concat();
    let view = TensorView::new(Dtype::F32, shape, &bytes).map_err(format_error)?;
    serialize([(OUTPUT, view)], None).map_err(format_error)
}

pub(crate) fn format_error(error: SafeTensorError) -> TensorError {
    TensorError::Format { problem: error.to_string() }
}

/// How many ids there are for the InputLayer `input` of `model`, where an embedding reads it; the least number of several.
pub fn n_ids(model: &ModelSpec, input: usize) -> Option<u32> {
    let readers = model.layers().iter().filter(|layer| layer.inputs.contains(&(input as u32)));
    let ids = readers.filter_map(|layer| match layer.kind {
        LayerKind::Embedding { input_dim, .. } => Some(input_dim),
        _ => None,
    });
    ids.min()
}

/// The values of a tensor of records of `len` values.
fn floats(name: &str, tensor: &TensorView<'_>, len: usize, n_ids: Option<u32>) -> Result<Vec<f32>, TensorError> {
    let fault = |i: usize, found: String, expected: String| {
        Err(TensorError::Value { name: name.to_owned(), record: i / len, found, expected })
    };
    let integers: Vec<i64> = match tensor.dtype() {
        Dtype::F32 => {
            let values: Vec<f32> = tensor.data().as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
            if let Some(i) = values.iter().position(|value| !value.is_finite()) {
                return fault(i, values[i].to_string(), "finite values".to_owned());
            }
            let is_id = |value: f32| n_ids.is_none_or(|n| value >= 0.0 && value < n as f32 && value.fract() == 0.0);
            return match (values.iter().position(|&value| !is_id(value)), n_ids) {
                (Some(i), Some(n_ids)) => fault(i, values[i].to_string(), ids_below(n_ids)),
                _ => Ok(values),
            };
        }
        Dtype::I32 => tensor.data().as_chunks().0.iter().map(|bytes| i32::from_le_bytes(*bytes).into()).collect(),
        Dtype::I64 => tensor.data().as_chunks().0.iter().map(|bytes| i64::from_le_bytes(*bytes)).collect(),
        other => {
            let (name, found) = (name.to_owned(), format!("{other:?}"));
            return Err(TensorError::Type { name, found, expected: "F32, I32 or I64" });
        }
    };
    let range = match n_ids {
        Some(n_ids) => 0..=i64::from(n_ids) - 1,
        None => -i64::from(IDS_MAX)..=IDS_MAX.into(),
    };
    match integers.iter().position(|value| !range.contains(value)) {
        Some(i) => {
            let expected = n_ids.map_or_else(|| format!("integers from -{IDS_MAX} to {IDS_MAX}"), ids_below);
            fault(i, integers[i].to_string(), expected)
        }
        // Every one of them is exact.
        None => Ok(integers.into_iter().map(|value| value as f32).collect()),
    }
}

fn ids_below(n_ids: u32) -> String {
    format!("whole numbers from 0 to below {n_ids}")
}
