//! What all readers share: a file's bytes, decompressed where they are gzip, and which errors speak of damage.

use std::{
    fs::File,
    io::{self, BufReader, Read},
    path::Path,
};

use flate2::read::MultiGzDecoder;

use super::DataError;

/// The bytes of the file at `path`, decompressed if they are gzip.
pub(super) fn open(path: &Path) -> Result<Box<dyn Read>, DataError> {
    let file = File::open(path).map_err(|source| DataError::Read { path: path.to_owned(), source })?;
    decompressed(BufReader::new(file), path)
}

/// The bytes of `input`, decompressed if they are gzip. All members are read: a file that was put together from several
/// must not end after its first.
pub(super) fn decompressed<'a>(mut input: impl Read + 'a, path: &Path) -> Result<Box<dyn Read + 'a>, DataError> {
    let mut magic = [0; 2];
    let n_read = read_full(&mut input, &mut magic, path)?;
    let input = io::Cursor::new(magic).take(n_read as u64).chain(input);
    Ok(if magic == GZIP_MAGIC { Box::new(MultiGzDecoder::new(input)) } else { Box::new(input) })
}

/// Fills as much of `out` as there is; says how much that was.
pub(super) fn read_full(input: &mut impl Read, out: &mut [u8], path: &Path) -> Result<usize, DataError> {
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
pub(super) fn is_damage(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput)
}

/// Refuses what exceeds its named limit.
pub(super) fn limit(path: &Path, what: &'static str, found: u64, max: u64) -> Result<(), DataError> {
    if found > max { Err(DataError::Limit { path: path.to_owned(), what, found, max }) } else { Ok(()) }
}

const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];
