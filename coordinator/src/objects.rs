//! Large objects as files named by their SHA-256: written, fsynced, renamed, and the folder fsynced, before any row of
//! the database names them.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

use eranos_base::Digest;

/// Its name in the folder of a coordinator's state.
pub const FOLDER: &str = "objects";

/// A folder of content-addressed files.
#[derive(Clone, Debug)]
pub struct Objects {
    dir: PathBuf,
}

impl Objects {
    /// Opens the folder, making it if need be.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn open(dir: &Path) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        Ok(Self { dir: dir.to_owned() })
    }

    /// Stores `bytes` durably and returns their digest.
    ///
    /// # Errors
    /// If any write fails; nothing half-written ever has an object's name.
    pub fn put(&self, bytes: &[u8]) -> io::Result<Digest> {
        let digest = Digest::of(bytes);
        let path = self.path(&digest);
        if path.exists() {
            return Ok(digest);
        }
        let temporary = path.with_extension("tmp");
        let mut file = File::create(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, &path)?;
        File::open(&self.dir)?.sync_all()?;
        Ok(digest)
    }

    /// Reads an object and checks it against its name.
    ///
    /// # Errors
    /// If it is missing, or its bytes are not what its name says.
    pub fn read(&self, digest: &Digest) -> io::Result<Vec<u8>> {
        let bytes = fs::read(self.path(digest))?;
        if Digest::of(&bytes) != *digest {
            let what = format!("object {digest} is corrupt: restore it from a backup");
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        Ok(bytes)
    }

    /// Removes an object that no row names any more. One that is gone already is no error.
    ///
    /// # Errors
    /// If the file cannot be removed.
    pub fn remove(&self, digest: &Digest) -> io::Result<()> {
        match fs::remove_file(self.path(digest)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        self.dir.join(digest.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_corrupt_object_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let objects = Objects::open(dir.path()).unwrap();
        let digest = objects.put(b"parameters").unwrap();
        assert_eq!(objects.read(&digest).unwrap(), b"parameters");
        fs::write(objects.path(&digest), b"Parameters").unwrap();
        assert_eq!(objects.read(&digest).unwrap_err().kind(), io::ErrorKind::InvalidData);
        objects.remove(&digest).unwrap();
        objects.remove(&digest).unwrap();
        assert_eq!(objects.read(&digest).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
