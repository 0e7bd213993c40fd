//! The exchange of the log's key.

use eranos_base::{Signature, encoding::Canonical};

use crate::{
    entry::{EntryError, fields::Fields},
    note::{LedgerKey, LedgerSigner},
    text::{Lines, parse_hex},
};

/// The log's key was exchanged: what follows, checkpoints and plans, is signed by the new one. Both keys sign, so nobody
/// takes over a log without its key, and nobody's key is put over a log that it never saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRotated {
    /// The key until now.
    pub old: LedgerKey,
    /// The key from this entry on: it signs the first checkpoint that covers the entry.
    pub new: LedgerKey,
    /// The old key's signature.
    pub old_signature: Signature,
    /// The new key's signature.
    pub new_signature: Signature,
}

/// Why a rotation is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RotationError {
    /// It does not start from the key in force.
    #[error("the key that it replaces is not the one in force")]
    OtherKey,
    /// The new key is of another log, or the old one again.
    #[error("the key that it begins is of another log, or the one in force already")]
    NewKey,
    /// The old key did not sign it, for this place in the log.
    #[error("the key in force did not sign it")]
    OldSignature,
    /// The new key did not sign it, for this place in the log.
    #[error("the key that it begins did not sign it")]
    NewSignature,
}

impl KeyRotated {
    /// The rotation as entry number `index` of the log whose key is `old`.
    pub fn sign(index: u64, old: &LedgerSigner, new: &LedgerSigner) -> Self {
        let statement = Self::statement(index, &old.ledger_key(), &new.ledger_key());
        Self {
            old: old.ledger_key(),
            new: new.ledger_key(),
            old_signature: old.signing_key().sign(&statement),
            new_signature: new.signing_key().sign(&statement),
        }
    }

    /// The key that is in force from entry `index` on, which this is, if `current` was before it.
    ///
    /// # Errors
    /// If it does not start from there, or one of the keys did not sign it.
    pub fn verify(&self, index: u64, current: &LedgerKey) -> Result<&LedgerKey, RotationError> {
        if self.old != *current {
            return Err(RotationError::OtherKey);
        }
        if self.new.name() != current.name() || self.new == *current {
            return Err(RotationError::NewKey);
        }
        let statement = Self::statement(index, &self.old, &self.new);
        self.old.key().verify(&statement, &self.old_signature).map_err(|_| RotationError::OldSignature)?;
        self.new.key().verify(&statement, &self.new_signature).map_err(|_| RotationError::NewSignature)?;
        Ok(&self.new)
    }

    /// What both sign: canonical encoding of origin, index, old key, new key.
    fn statement(index: u64, old: &LedgerKey, new: &LedgerKey) -> Vec<u8> {
        let canonical = Canonical::new("eranos/ledger/key-rotation/v1").text(old.name().as_str()).u64(index);
        canonical.field(&old.key().0).field(&new.key().0).finish()
    }

    pub(super) fn write(&self, lines: &mut Lines) {
        lines.line("old-key", &self.old);
        lines.line("new-key", &self.new);
        lines.line("old-signature", self.old_signature);
        lines.line("new-signature", self.new_signature);
    }

    pub(super) fn read(fields: &mut Fields<'_, '_>) -> Result<Self, EntryError> {
        Ok(Self {
            old: fields.parsed("old-key")?,
            new: fields.parsed("new-key")?,
            old_signature: Signature(fields.with("old-signature", parse_hex)?),
            new_signature: Signature(fields.with("new-signature", parse_hex)?),
        })
    }
}
