//! IDX, the format of MNIST, plain or gzip: two zero bytes, the type, the number of axes, each axis' length as a
//! big-endian u32, then the values in row-major order (Y. LeCun, "The MNIST database", the section on file formats).

use std::{
    fs::File,
    io::{self, BufReader, Read},
    path::Path,
};

use flate2::read::GzDecoder;
use ndarray::Array2;

use super::{DataError, Dataset, RECORDS_MAX};

/// Most axes of an IDX file that is read: records of up to three axes.
pub const AXES_MAX: usize = 4;
/// Most values of an IDX file that is read. They are held in memory, as `f32` in a [`Dataset`].
pub const VALUES_MAX: u64 = 1 << 30;

/// An IDX file of unsigned bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdxArray {
    /// The length of each axis, the first the number of records.
    pub shape: Vec<usize>,
    /// The values, row-major.
    pub values: Vec<u8>,
}

/// Reads the IDX file at `path`, which may be compressed with gzip.
///
/// # Errors
/// If it cannot be read, is not IDX of unsigned bytes, is shorter or longer than its header claims, or exceeds a limit.
pub fn read(path: &Path) -> Result<IdxArray, DataError> {
    let file = File::open(path).map_err(|source| DataError::Read { path: path.to_owned(), source })?;
    parse(BufReader::new(file), path)
}

/// Reads IDX, plain or gzip, from `input`; `path` is what errors name.
///
/// # Errors
/// As [`read`].
pub fn parse(mut input: impl Read, path: &Path) -> Result<IdxArray, DataError> {
    let mut magic = [0; 2];
    let n_read = read_full(&mut input, &mut magic, path)?;
    let start = &magic[..n_read];
    let input = start.chain(input);
    if start == GZIP_MAGIC { parse_plain(GzDecoder::new(input), path) } else { parse_plain(input, path) }
}

/// Images and their labels from two IDX files, the pixels divided by 255.
///
/// Images without a channel axis get one of length 1: records are `[height, width, 1]`.
///
/// # Errors
/// As [`read`], and if the counts differ, a label is not below `n_classes`, or the axes are not those of images and
/// labels.
pub fn read_images(images: &Path, labels: &Path, n_classes: usize) -> Result<Dataset, DataError> {
    let pixels = read(images)?;
    let classes = read(labels)?;
    let axes = |path: &Path, found, expected| DataError::Axes { path: path.to_owned(), found, expected };
    let (n_records, shape) = match *pixels.shape {
        [n, height, width] => (n, [height, width, 1]),
        [n, height, width, channels] => (n, [height, width, channels]),
        _ => return Err(axes(images, pixels.shape.len(), "3 or 4 for images")),
    };
    let [n_labels] = *classes.shape else {
        return Err(axes(labels, classes.shape.len(), "1 for labels"));
    };
    if n_records != n_labels {
        let (records, labels) = (images.to_owned(), labels.to_owned());
        return Err(DataError::Counts { records, labels, n_records, n_labels });
    }
    if let Some(record) = classes.values.iter().position(|&label| usize::from(label) >= n_classes) {
        let found = u32::from(classes.values[record]);
        return Err(DataError::Label { path: labels.to_owned(), record, found, n_classes });
    }
    let values = pixels.values.into_iter().map(|x| f32::from(x) / 255.0).collect();
    let n_values = shape.iter().product();
    // The header's product was checked against the number of values read.
    let features = Array2::from_shape_vec((n_records, n_values), values).unwrap_or_else(|e| panic!("{e}"));
    Ok(Dataset::new(features, classes.values.into_iter().map(u32::from).collect(), &shape))
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
    if value_type != UNSIGNED_BYTES {
        return Err(DataError::Type { path: path.to_owned(), found: value_type });
    }
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
    // A record length of which no record exists would pass the product above.
    for &length in &shape[1..] {
        limit(path, "an axis", length as u64, VALUES_MAX)?;
    }
    // Grows with what is there, not with what the header claims.
    let mut values = Vec::new();
    let complete = (&mut input).take(n_values).read_to_end(&mut values);
    let found = values.len() as u64;
    match complete {
        Err(source) if !is_damage(&source) => return Err(DataError::Read { path: path.to_owned(), source }),
        Ok(_) if found == n_values => {}
        _ => return Err(DataError::Truncated { path: path.to_owned(), found, expected: n_values }),
    }
    match read_full(&mut input, &mut [0], path)? {
        0 => Ok(IdxArray { shape, values }),
        _ => Err(DataError::Trailing { path: path.to_owned(), expected: n_values }),
    }
}

/// Fills as much of `out` as there is; says how much that was.
fn read_full(input: &mut impl Read, out: &mut [u8], path: &Path) -> Result<usize, DataError> {
    let mut n_read = 0;
    while n_read < out.len() {
        match input.read(&mut out[n_read..]) {
            Ok(0) => break,
            Ok(n) => n_read += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if is_damage(&error) => {
                let (found, expected) = (n_read as u64, out.len() as u64);
                return Err(DataError::Truncated { path: path.to_owned(), found, expected });
            }
            Err(source) => return Err(DataError::Read { path: path.to_owned(), source }),
        }
    }
    Ok(n_read)
}

/// Whether an error speaks of the file's content rather than of the system.
fn is_damage(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput)
}

fn limit(path: &Path, what: &'static str, found: u64, max: u64) -> Result<(), DataError> {
    if found > max { Err(DataError::Limit { path: path.to_owned(), what, found, max }) } else { Ok(()) }
}

const GZIP_MAGIC: &[u8] = &[0x1f, 0x8b];
/// The code of the only type read.
const UNSIGNED_BYTES: u8 = 0x08;
