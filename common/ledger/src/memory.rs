//! The files of a log in memory, for rounds that are simulated: nothing of them is durable.

use std::{collections::BTreeMap, fs, io, path::Path};

use eranos_base::Digest;

use crate::{
    log::Storage,
    tile::{Tile, TileError, TileSource, attachment_path},
};

/// The files of a log, by path.
#[derive(Clone, Debug, Default)]
pub struct MemoryFolder {
    files: BTreeMap<String, Vec<u8>>,
    checkpoint: Option<Vec<u8>>,
}

impl MemoryFolder {
    /// Puts the files down below `dir`, as an auditor gets them.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn write_to(&self, dir: &Path) -> io::Result<()> {
        let checkpoint = self.checkpoint.iter().map(|bytes| ("checkpoint", bytes));
        for (path, bytes) in self.files.iter().map(|(path, bytes)| (path.as_str(), bytes)).chain(checkpoint) {
            let path = dir.join(path);
            path.parent().map_or(Ok(()), fs::create_dir_all)?;
            fs::write(path, bytes)?;
        }
        Ok(())
    }
}

impl TileSource for MemoryFolder {
    fn read(&self, tile: &Tile) -> Result<Vec<u8>, TileError> {
        let path = tile.path();
        self.files.get(&path).cloned().ok_or(TileError::Missing { path })
    }

    fn read_attachment(&self, digest: &Digest) -> Result<Vec<u8>, TileError> {
        let path = attachment_path(digest);
        self.files.get(&path).cloned().ok_or(TileError::Missing { path })
    }
}

impl Storage for MemoryFolder {
    fn checkpoint(&self) -> io::Result<Option<Vec<u8>>> {
        Ok(self.checkpoint.clone())
    }

    fn has_tiles(&self) -> io::Result<bool> {
        Ok(!self.files.is_empty())
    }

    fn write(&mut self, path: &str, bytes: &[u8]) -> io::Result<()> {
        self.files.insert(path.to_owned(), bytes.to_vec());
        Ok(())
    }

    fn replace_checkpoint(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.checkpoint = Some(bytes.to_vec());
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn remove_narrower(&mut self, tile: &Tile) {
        let narrower = (1..tile.width).map(|width| tile.with_width(width).path());
        narrower.for_each(|path| drop(self.files.remove(&path)));
    }
}
