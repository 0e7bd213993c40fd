//! IDX, the format of MNIST, plain or gzip: two zero bytes, the type, the number of axes, each axis' length as a
//! big-endian u32, then the values in row-major order (Y. LeCun, "The MNIST database", the section on file formats).

use std::{io::Read, path::Path};

use ndarray::Array2;

use super::{
    DataError, Dataset, RECORDS_MAX, VALUES_MAX,
    input::{self, is_damage, limit, read_full},
};

/// Most axes of an IDX file that is read: records of up to three axes.
pub const AXES_MAX: usize = 4;

/// The content of an IDX file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdxArray {
    /// The length of each axis, the first the number of records.
    pub shape: Vec<usize>,
    /// The values, row-major.
    pub values: IdxValues,
}

/// The values of an IDX file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IdxValues {
    /// Type 0x08.
    U8(Vec<u8>),
    /// Type 0x0b, big-endian in the file.
    I16(Vec<i16>),
}

impl IdxValues {
    /// The values as floats, each of them exact.
    pub fn into_f32(self) -> Vec<f32> {
        match self {
            Self::U8(values) => values.into_iter().map(f32::from).collect(),
            Self::I16(values) => values.into_iter().map(f32::from).collect(),
        }
    }

    /// How many values there are.
    pub fn len(&self) -> usize {
        match self {
            Self::U8(values) => values.len(),
            Self::I16(values) => values.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Reads the IDX file at `path`, which may be compressed with gzip.
///
/// # Errors
/// If it cannot be read, is not IDX of one of the types in [`IdxValues`], is shorter or longer than its header claims,
/// or exceeds a limit.
pub fn read(path: &Path) -> Result<IdxArray, DataError> {
    parse_plain(input::open(path)?, path)
}

/// Reads IDX, plain or gzip, from `input`; `path` is what errors name.
///
/// # Errors
/// As [`read`].
pub fn parse(input: impl Read, path: &Path) -> Result<IdxArray, DataError> {
    parse_plain(input::decompressed(input, path)?, path)
}

/// One unsigned byte per record, such as labels or the numbers of clients.
///
/// # Errors
/// As [`read`], and if there is more than one axis, or values of another type.
pub fn read_column(path: &Path) -> Result<Vec<u8>, DataError> {
    let IdxArray { shape, values } = read(path)?;
    if shape.len() != 1 {
        return Err(DataError::Axes { path: path.to_owned(), found: shape.len(), expected: "1 for labels" });
    }
    bytes(values, path)
}

/// Records of any shape and their labels from two IDX files, the values as they stand: scale them afterwards, for
/// example with [`Standardization`](super::Standardization).
///
/// # Errors
/// As [`read`], and if the counts differ, a label is not below `n_classes`, or labels have more than one axis.
pub fn read_records(records: &Path, labels: &Path, n_classes: usize) -> Result<Dataset, DataError> {
    let IdxArray { shape, values } = read(records)?;
    with_labels(records, &shape, values.into_f32(), labels, n_classes)
}

/// Images and their labels from two IDX files, the pixels divided by 255.
///
/// Images without a channel axis get one of length 1: records are `[height, width, 1]`.
///
/// # Errors
/// As [`read_records`], and if the images are not unsigned bytes, or have no height and width.
pub fn read_images(images: &Path, labels: &Path, n_classes: usize) -> Result<Dataset, DataError> {
    let IdxArray { mut shape, values } = read(images)?;
    match shape.len() {
        3 => shape.push(1),
        4 => {}
        found => return Err(DataError::Axes { path: images.to_owned(), found, expected: "3 or 4 for images" }),
    }
    let pixels = bytes(values, images)?.into_iter().map(|x| f32::from(x) / 255.0).collect();
    with_labels(images, &shape, pixels, labels, n_classes)
}

fn with_labels(
    records: &Path,
    shape: &[usize],
    values: Vec<f32>,
    labels: &Path,
    n_classes: usize,
) -> Result<Dataset, DataError> {
    let classes = read_column(labels)?;
    let (n_records, n_labels) = (shape[0], classes.len());
    if n_records != n_labels {
        let (records, labels) = (records.to_owned(), labels.to_owned());
        return Err(DataError::Counts { records, labels, n_records, n_labels });
    }
    if let Some(record) = classes.iter().position(|&label| usize::from(label) >= n_classes) {
        let found = u32::from(classes[record]);
        return Err(DataError::Label { path: labels.to_owned(), record, found, n_classes });
    }
    let shape = &shape[1..];
    // The header's product was checked against the number of values read.
    let features = Array2::from_shape_vec((n_records, shape.iter().product()), values);
    let features = features.unwrap_or_else(|e| panic!("{e}"));
    Ok(Dataset::new(features, classes.into_iter().map(u32::from).collect(), shape))
}

/// The values if they are unsigned bytes.
fn bytes(values: IdxValues, path: &Path) -> Result<Vec<u8>, DataError> {
    match values {
        IdxValues::U8(values) => Ok(values),
        IdxValues::I16(_) => {
            Err(DataError::Type { path: path.to_owned(), found: SHORTS, expected: "0x08 (unsigned bytes)" })
        }
    }
}

fn parse_plain(mut input: impl Read, path: &Path) -> Result<IdxArray, DataError> {
    let mut header = [0; 4];
    let n_read = read_full(&mut input, &mut header, path)?;
    let [zero, also_zero, value_type, n_axes] = header;
    let n_axes = usize::from(n_axes);
    if n_read < 4 || zero != 0 || also_zero != 0 || n_axes == 0 {
        let found = header[..n_read].iter().map(|b| format!("{b:02x}")).collect::<Vec<_>>().join(" ");
        return Err(DataError::Magic { path: path.to_owned(), found });
    }
    let value_len = match value_type {
        UNSIGNED_BYTES => 1,
        SHORTS => 2,
        found => {
            let expected = "0x08 (unsigned bytes) and 0x0b (16-bit integers)";
            return Err(DataError::Type { path: path.to_owned(), found, expected });
        }
    };
    limit(path, "a number of axes", n_axes as u64, AXES_MAX as u64)?;
    let mut lengths = [0; 4 * AXES_MAX];
    let lengths = &mut lengths[..4 * n_axes];
    let n_read = read_full(&mut input, lengths, path)?;
    if n_read < lengths.len() {
        let (found, expected) = (4 + n_read as u64, 4 + lengths.len() as u64);
        return Err(DataError::Truncated { path: path.to_owned(), found, expected });
    }
    let mut shape = Vec::with_capacity(n_axes);
    let mut n_values = 1_u64;
    for length in lengths.chunks_exact(4) {
        // IDX is big-endian by definition; the lint guards our own formats.
        let length = length.iter().fold(0_u32, |n, &byte| n << 8 | u32::from(byte));
        n_values = n_values.saturating_mul(u64::from(length));
        shape.push(length as usize);
    }
    limit(path, "a number of records", shape[0] as u64, RECORDS_MAX as u64)?;
    limit(path, "a number of values", n_values, VALUES_MAX)?;
    // A record of which none exists would pass the product above, whatever its length.
    let record_len = shape[1..].iter().fold(1_u64, |n, &length| n.saturating_mul(length as u64));
    limit(path, "a record length", record_len, VALUES_MAX)?;
    // Grows with what is there, not with what the header claims.
    let n_bytes = n_values * value_len;
    let mut bytes = Vec::new();
    let complete = (&mut input).take(n_bytes).read_to_end(&mut bytes);
    let found = bytes.len() as u64;
    match complete {
        Err(source) if !is_damage(&source) => return Err(DataError::Read { path: path.to_owned(), source }),
        Ok(_) if found == n_bytes => {}
        _ => return Err(DataError::Truncated { path: path.to_owned(), found, expected: n_bytes }),
    }
    if read_full(&mut input, &mut [0], path)? > 0 {
        return Err(DataError::Trailing { path: path.to_owned(), expected: n_bytes });
    }
    let values = match value_type {
        UNSIGNED_BYTES => IdxValues::U8(bytes),
        // Big-endian, as the lengths above.
        _ => IdxValues::I16(bytes.as_chunks().0.iter().map(|&[high, low]| i16::from_le_bytes([low, high])).collect()),
    };
    Ok(IdxArray { shape, values })
}

/// The codes of the types that are read.
const UNSIGNED_BYTES: u8 = 0x08;
const SHORTS: u8 = 0x0b;
