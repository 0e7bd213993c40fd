//! The keys that a log had, one after the other.

use eranos_base::VerifyingKey;

use crate::{
    audit::AuditError,
    entry::{Entry, EntryKind},
    note::{Checkpoint, LedgerKey, NoteError, SignedCheckpoint, SignedNote},
    tile::{Folder, Tile, TileError, TileKind, TileSource, parse_entries},
};

/// The keys of a log, as its rotations exchanged them, from the one that it was opened with.
pub(super) struct Keys {
    /// Each with the size of the first checkpoint that it signs; ascending, never empty.
    keys: Vec<(u64, LedgerKey)>,
}

impl Keys {
    /// The keys of the log whose checkpoint is `note`. Nothing in the log is believed yet but that each key signed its
    /// successor. Where these keys do not include the pinned one, that one alone is left.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub(super) fn of(folder: &Folder, note: &[u8], pinned: &LedgerKey) -> Result<Self, AuditError> {
        let alone = Self { keys: vec![(0, pinned.clone())] };
        let claimed = SignedNote::parse(note).ok().and_then(|note| Checkpoint::parse(note.text()).ok());
        let Some(Checkpoint { size, .. }) = claimed else { return Ok(alone) };
        let mut keys: Vec<(u64, LedgerKey)> = Vec::new();
        let mut first = 0;
        while let Some(tile) = Tile::of_row(TileKind::Entries, first, size) {
            let bytes = match folder.read(&tile) {
                Ok(bytes) => bytes,
                Err(TileError::Io { path, source }) => {
                    return Err(AuditError::Io { path: folder.path().join(path), source });
                }
                // The pass over the tree names it.
                Err(_) => break,
            };
            let Ok(leaves) = parse_entries(&tile, &bytes) else { break };
            for (index, leaf) in (first..).zip(leaves) {
                match (EntryKind::of(leaf), keys.last()) {
                    (Some(EntryKind::LogOpened), None) => {
                        if let Ok(Entry::LogOpened(opened)) = Entry::parse(leaf, None) {
                            keys.push((0, opened.ledger_key));
                        }
                    }
                    (Some(EntryKind::KeyRotated), Some((_, key))) => {
                        if let Ok(Entry::KeyRotated(rotation)) = Entry::parse(leaf, None)
                            && let Ok(new) = rotation.verify(index, key)
                        {
                            keys.push((index + 1, new.clone()));
                        }
                    }
                    _ => {}
                }
            }
            first += u64::from(tile.width);
        }
        Ok(if keys.iter().any(|(_, key)| key == pinned) { Self { keys } } else { alone })
    }

    /// Whether the log ever had this key.
    pub(super) fn includes(&self, key: &VerifyingKey) -> bool {
        self.keys.iter().any(|(_, had)| had.key() == key)
    }

    /// The checkpoint that `note` is, if the key in force at its size signed it.
    pub(super) fn open(&self, note: &[u8]) -> Result<SignedCheckpoint, NoteError> {
        let claimed = Checkpoint::parse(SignedNote::parse(note)?.text())?;
        let in_force = self.keys.iter().rev().find(|(from, _)| *from <= claimed.size).or(self.keys.first());
        let (_, key) = in_force.ok_or(NoteError::Checkpoint { what: "the log has no key" })?;
        SignedCheckpoint::open(note, key)
    }
}
