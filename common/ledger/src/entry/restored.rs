//! A log that goes on from a backup of another one.

use eranos_base::{Digest, Signature, TaskId, encoding::Canonical, signing::SigningError};

use crate::{
    entry::{EntryError, fields::Fields, values::Date},
    note::{Checkpoint, LedgerKey, LedgerSigner},
    text::{Lines, parse_hex, parse_u64},
};

/// The coordinator's state was lost and restored from a backup. To go on with the old log would rewind it; so this is another
/// one, which says where the old one's record ends. Whatever that had beyond `old_size` entries is lost, and so is the record
/// of who was charged there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogRestored {
    /// The task that goes on, in another session.
    pub task: TaskId,
    /// The day it was restored, UTC.
    pub date: Date,
    /// The key of the old log that was in force in the backup; its name is the old log's origin.
    pub old_key: LedgerKey,
    /// How many of the old log's entries the backup has.
    pub old_size: u64,
    /// Their root.
    pub old_root: Digest,
    /// Attempts of the task up to there, in the old log and those before it.
    pub attempts_before: u64,
    /// Attempts that may have been made since, as the operator bounds them: they count as charged, and no record of them is
    /// left.
    pub attempts_lost: u64,
    /// The old key's signature: nobody else's log is taken for the one that goes on.
    pub old_signature: Signature,
}

/// What a restoration says but for its signature.
#[derive(Clone, Debug)]
pub struct Restoration {
    /// The task.
    pub task: TaskId,
    /// The day.
    pub date: Date,
    /// The old log's last checkpoint in the backup.
    pub old: Checkpoint,
    /// Attempts up to there.
    pub attempts_before: u64,
    /// Attempts that may have been made since.
    pub attempts_lost: u64,
}

impl LogRestored {
    /// Signs by the old log's key that the log which is opened with `new` goes on from it.
    pub fn sign(restoration: Restoration, old: &LedgerSigner, new: &LedgerKey) -> Self {
        let Restoration { task, date, old: Checkpoint { size, root, .. }, attempts_before, attempts_lost } =
            restoration;
        let mut restored = Self {
            task,
            date,
            old_key: old.ledger_key(),
            old_size: size,
            old_root: root,
            attempts_before,
            attempts_lost,
            old_signature: Signature([0; 64]),
        };
        restored.old_signature = old.signing_key().sign(&restored.statement(new));
        restored
    }

    /// Whether the old log's key signed that the log which was opened with `new` goes on from it.
    ///
    /// # Errors
    /// If it did not.
    pub fn verify(&self, new: &LedgerKey) -> Result<(), SigningError> {
        self.old_key.key().verify(&self.statement(new), &self.old_signature)
    }

    /// Attempts that count as charged before this log's first.
    pub const fn attempts_carried(&self) -> u64 {
        self.attempts_before.saturating_add(self.attempts_lost)
    }

    fn statement(&self, new: &LedgerKey) -> Vec<u8> {
        Canonical::new("eranos/ledger/log-restored/v1")
            .text(new.name().as_str())
            .field(&new.key().0)
            .text(self.task.as_str())
            .text(&self.date.to_string())
            .text(self.old_key.name().as_str())
            .field(&self.old_key.key().0)
            .u64(self.old_size)
            .digest(&self.old_root)
            .u64(self.attempts_before)
            .u64(self.attempts_lost)
            .finish()
    }

    pub(super) fn write(&self, lines: &mut Lines) {
        lines.line("task", &self.task);
        lines.line("date", self.date);
        lines.line("old-key", &self.old_key);
        lines.line("old-size", self.old_size);
        lines.line("old-root", self.old_root);
        lines.line("attempts-before", self.attempts_before);
        lines.line("attempts-lost", self.attempts_lost);
        lines.line("old-signature", self.old_signature);
    }

    pub(super) fn read(fields: &mut Fields<'_, '_>) -> Result<Self, EntryError> {
        Ok(Self {
            task: fields.parsed("task")?,
            date: fields.parsed("date")?,
            old_key: fields.parsed("old-key")?,
            old_size: fields.with("old-size", parse_u64)?,
            old_root: fields.digest("old-root")?,
            attempts_before: fields.with("attempts-before", parse_u64)?,
            attempts_lost: fields.with("attempts-lost", parse_u64)?,
            old_signature: Signature(fields.with("old-signature", parse_hex)?),
        })
    }
}
