//! Large objects as files named by their SHA-256: written, fsynced, renamed, and the folder fsynced, before any row of
//! the database names them.

use std::{
    fs::{self, DirBuilder, File},
    io::{self, Write},
    os::unix::fs::DirBuilderExt,
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
        fs::create_dir_all(dir.parent().unwrap_or(dir))?;
        // The model is its operator's to give away, and without noise it may tell of single records.
        DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        Ok(Self { dir: dir.to_owned() })
    }

    /// Stores several objects durably and returns their digests. Their names become durable together.
    ///
    /// # Errors
    /// If any write fails; nothing half-written ever has an object's name.
    pub fn put<const N: usize>(&self, objects: [&[u8]; N]) -> io::Result<[Digest; N]> {
        let digests = objects.map(Digest::of);
        for (bytes, digest) in objects.iter().zip(&digests) {
            let path = self.path(digest);
            if path.exists() {
                continue;
            }
            let temporary = path.with_extension("tmp");
            let written = File::create(&temporary).and_then(|mut file| {
                file.write_all(bytes)?;
                file.sync_all()?;
                fs::rename(&temporary, &path)
            });
            if let Err(error) = written {
                // A full disk is not filled by what came of trying.
                let _ = fs::remove_file(&temporary);
                return Err(error);
            }
        }
        File::open(&self.dir)?.sync_all()?;
        Ok(digests)
    }

    /// Reads an object and checks it against its name.
    ///
    /// # Errors
    /// If it is missing, or its bytes are not what its name says.
    pub fn read(&self, digest: &Digest) -> io::Result<Vec<u8>> {
        let bytes = fs::read(self.path(digest)).map_err(|error| {
            let what = format!("object {digest}: {error}");
            io::Error::new(error.kind(), what)
        })?;
        if Digest::of(&bytes) != *digest {
            let what = format!("object {digest} is corrupt");
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

    /// Removes every file but these objects: what a crash left half-written, or wrote before any row named it.
    ///
    /// # Errors
    /// If the folder cannot be read or a file not be removed.
    pub fn keep_only(&self, kept: &[Digest]) -> io::Result<()> {
        let kept: Vec<String> = kept.iter().map(Digest::to_string).collect();
        for file in fs::read_dir(&self.dir)? {
            let file = file?;
            if !kept.iter().any(|name| file.file_name() == name.as_str()) {
                fs::remove_file(file.path())?;
            }
        }
        Ok(())
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        self.dir.join(digest.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_crash_left_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let objects = Objects::open(dir.path()).unwrap();
        let [kept, orphan] = objects.put([b"kept".as_slice(), b"orphan"]).unwrap();
        fs::write(objects.path(&Digest::of(b"torn")).with_extension("tmp"), b"to").unwrap();
        objects.keep_only(&[kept]).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        assert_eq!(objects.read(&kept).unwrap(), b"kept");
        assert!(objects.read(&orphan).is_err());
    }

    #[test]
    fn a_corrupt_object_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let objects = Objects::open(dir.path()).unwrap();
        let [digest] = objects.put([b"parameters".as_slice()]).unwrap();
        assert_eq!(objects.read(&digest).unwrap(), b"parameters");
        fs::write(objects.path(&digest), b"Parameters").unwrap();
        assert_eq!(objects.read(&digest).unwrap_err().kind(), io::ErrorKind::InvalidData);
        objects.remove(&digest).unwrap();
        objects.remove(&digest).unwrap();
        assert_eq!(objects.read(&digest).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
