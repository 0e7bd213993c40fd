//! Writing files so that a crash leaves the old one or the new one, and secrets so that only their owner reads them.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use base64::{Engine, engine::general_purpose::STANDARD};

/// A file that could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}: {source}", path.display())]
pub struct FileError {
    /// What was tried.
    pub action: &'static str,
    /// Where.
    pub path: PathBuf,
    /// What the operating system said.
    pub source: io::Error,
}

impl FileError {
    pub(crate) fn new(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self { action, path: path.to_owned(), source }
    }
}

/// Replaces `path` as a whole: the bytes are durable before they carry the name.
pub(crate) fn write_atomic(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    replace(path, bytes, OpenOptions::new())
}

/// The same, readable by its owner alone.
pub(crate) fn write_private(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    replace(path, bytes, private())
}

fn replace(path: &Path, bytes: &[u8], mut options: OpenOptions) -> Result<(), FileError> {
    let temporary = path.with_extension("tmp");
    let mut write = || -> io::Result<()> {
        let mut file = options.write(true).create(true).truncate(true).open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        sync_folder(path)
    };
    write().map_err(|source| FileError::new("write", path, source))
}

/// Moves a file over another, durably.
pub(crate) fn rename(from: &Path, to: &Path) -> Result<(), FileError> {
    let renamed = fs::rename(from, to).and_then(|()| sync_folder(to));
    renamed.map_err(|source| FileError::new("write", to, source))
}

/// Removes a file, durably; none need be there.
pub(crate) fn remove(path: &Path) -> Result<(), FileError> {
    let removed = match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => sync_folder(path),
    };
    removed.map_err(|source| FileError::new("remove", path, source))
}

/// Writes a secret where nothing is yet, readable by its owner alone from the first byte on.
pub(crate) fn write_new_secret(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    let write = || -> io::Result<()> {
        let mut file = private().write(true).create_new(true).open(path)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        sync_folder(path)
    };
    write().map_err(|source| FileError::new("write", path, source))
}

/// How a file is made that its owner alone may read.
fn private() -> OpenOptions {
    #[cfg_attr(not(unix), expect(unused_mut, reason = "there are no such modes"))]
    let mut options = OpenOptions::new();
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

/// Reads a file of at most `len_max` bytes.
pub(crate) fn read_limited(path: &Path, len_max: usize) -> Result<Vec<u8>, FileError> {
    let read = || -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        File::open(path)?.take(len_max as u64 + 1).read_to_end(&mut bytes)?;
        if bytes.len() > len_max {
            return Err(io::Error::other(format!("more than {len_max} bytes")));
        }
        Ok(bytes)
    };
    read().map_err(|source| FileError::new("read", path, source))
}

/// Makes a folder with all above it.
pub(crate) fn make_folder(path: &Path) -> Result<(), FileError> {
    fs::create_dir_all(path).map_err(|source| FileError::new("make the folder", path, source))
}

/// PEM text (RFC 7468).
pub(crate) fn pem(label: &str, der: &[u8]) -> zeroize::Zeroizing<String> {
    let encoded = zeroize::Zeroizing::new(STANDARD.encode(der));
    // The capacity is exact enough never to grow: a growing buffer would leave copies of a secret behind.
    let mut text = zeroize::Zeroizing::new(String::with_capacity(encoded.len() + encoded.len() / 64 + 128));
    text.push_str(&format!("-----BEGIN {label}-----\n"));
    for line in encoded.as_bytes().chunks(64) {
        text.extend(line.iter().map(|byte| char::from(*byte)));
        text.push('\n');
    }
    text.push_str(&format!("-----END {label}-----\n"));
    text
}

fn sync_folder(path: &Path) -> io::Result<()> {
    // A rename is durable once the folder is; elsewhere than on Unix a folder cannot be synced this way.
    #[cfg(unix)]
    if let Some(folder) = path.parent() {
        let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
        File::open(folder)?.sync_all()?;
    }
    Ok(())
}
