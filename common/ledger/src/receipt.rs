//! What a client is handed at the end of a round, and how it convinces itself: the entry is in the log, and the log
//! only grew since the last checkpoint the client stored.

use eranos_base::{
    Digest,
    encoding::{Canonical, CanonicalReader, DecodeError},
};

use crate::{
    entry::{Entry, EntryError},
    note::{Checkpoint, LedgerKey, NOTE_LEN_MAX, NoteError, SignedCheckpoint},
    tile::ENTRY_LEN_MAX,
    tree::{PROOF_LEN_MAX, ProofError, leaf_hash, verify_consistency, verify_inclusion},
};

/// Longest canonical encoding of a receipt, in bytes.
pub const RECEIPT_LEN_MAX: usize = ENTRY_LEN_MAX + NOTE_LEN_MAX + 2 * PROOF_LEN_MAX * (Digest::LEN + 4) + 128;

const DOMAIN: &str = "eranos/ledger/receipt/v1";

/// A leaf with the proofs that it is in the log and that the log only grew. Its attachment, which the leaf names, is
/// handed over beside the receipt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// The leaf.
    pub entry: Vec<u8>,
    /// Its index.
    pub index: u64,
    /// The signed checkpoint, as its note's bytes.
    pub checkpoint: Vec<u8>,
    /// The leaf's audit path in the checkpoint's tree.
    pub inclusion: Vec<Digest>,
    /// The size of the checkpoint that the client has; 0 for none.
    pub old_size: u64,
    /// The proof that the tree of that size is the beginning of the checkpoint's.
    pub consistency: Vec<Digest>,
}

/// What a receipt proved.
#[derive(Clone, Debug, PartialEq)]
pub struct Verified {
    /// The entry.
    pub entry: Entry,
    /// The checkpoint to store in place of the previous one.
    pub checkpoint: SignedCheckpoint,
}

/// Why a receipt was refused.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ReceiptError {
    /// The bytes are not a receipt's encoding.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// The checkpoint is malformed or not signed by the ledger's key.
    #[error("receipt's checkpoint: {0}")]
    Checkpoint(#[from] NoteError),
    /// The entry is not one.
    #[error("receipt's entry: {0}")]
    Entry(#[from] EntryError),
    /// The entry is not in the checkpoint's tree.
    #[error("entry {index} is not in the log: {source}")]
    Inclusion {
        /// The index claimed.
        index: u64,
        /// What the proof failed on.
        source: ProofError,
    },
    /// The receipt starts from another size than the client's checkpoint has.
    #[error("consistency proof from size {found}, but the stored checkpoint has {expected}")]
    OldSize {
        /// The size it starts from.
        found: u64,
        /// The stored checkpoint's.
        expected: u64,
    },
    /// The log is smaller than it was. Both signed checkpoints are the evidence.
    #[error("the log shrank from {previous} to {presented} entries")]
    Rewind {
        /// The stored checkpoint's size.
        previous: u64,
        /// The size presented.
        presented: u64,
    },
    /// The log is no continuation of what it was: two histories were signed, or the proof is wrong. Both signed
    /// checkpoints are the evidence.
    #[error("the log of {presented} entries does not continue the one of {previous}: {source}")]
    Fork {
        /// The stored checkpoint's size.
        previous: u64,
        /// The size presented.
        presented: u64,
        /// What the proof failed on.
        source: ProofError,
    },
}

impl ReceiptError {
    /// Whether the checkpoint, which the ledger's key signed, was not shown to continue the client's own: they may be of two
    /// histories, and both are kept. An entry's place, form or attachment that is wrong convicts nobody.
    pub const fn is_of_two_histories(&self) -> bool {
        matches!(self, Self::Rewind { .. } | Self::Fork { .. } | Self::OldSize { .. })
    }
}

impl Receipt {
    /// The canonical encoding: entry, index (`u64`), note, audit path, old size (`u64`), consistency proof; each proof
    /// as its count (`u32`) and its hashes.
    pub fn encode(&self) -> Vec<u8> {
        let proof = |canonical: Canonical, hashes: &[Digest]| {
            hashes.iter().fold(canonical.u32(hashes.len() as u32), |canonical, hash| canonical.digest(hash))
        };
        let canonical = Canonical::new(DOMAIN).field(&self.entry).u64(self.index).field(&self.checkpoint);
        let canonical = proof(canonical, &self.inclusion).u64(self.old_size);
        proof(canonical, &self.consistency).finish()
    }

    /// Reads the canonical encoding.
    ///
    /// # Errors
    /// If the bytes are not one, or a part exceeds its limit.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let limit = |what, len: usize, max: usize| {
            if len > max { Err(DecodeError::Limit { what, len: len as u64, max: max as u64 }) } else { Ok(()) }
        };
        limit("receipt", bytes.len(), RECEIPT_LEN_MAX)?;
        let mut reader = CanonicalReader::new(bytes, DOMAIN)?;
        let entry = reader.field()?.to_vec();
        limit("receipt's entry", entry.len(), ENTRY_LEN_MAX)?;
        let index = reader.u64()?;
        let checkpoint = reader.field()?.to_vec();
        limit("receipt's checkpoint", checkpoint.len(), NOTE_LEN_MAX)?;
        let inclusion = read_proof(&mut reader)?;
        let old_size = reader.u64()?;
        let consistency = read_proof(&mut reader)?;
        reader.finish()?;
        Ok(Self { entry, index, checkpoint, inclusion, old_size, consistency })
    }

    /// Verifies everything that can be verified with the pinned `key` and the checkpoint stored last: the checkpoint's
    /// signature, the form of the entry and its `attachment`, its place in the log, and that the log only grew. Whether the
    /// entry says what happened in the round is for the caller, who was there.
    ///
    /// # Errors
    /// The first thing that does not hold. After [`ReceiptError::Rewind`] and [`ReceiptError::Fork`] keep both
    /// checkpoints.
    pub fn verify(
        &self,
        attachment: Option<&[u8]>,
        key: &LedgerKey,
        previous: Option<&Checkpoint>,
    ) -> Result<Verified, ReceiptError> {
        let signed = SignedCheckpoint::open(&self.checkpoint, key)?;
        let checkpoint = signed.checkpoint();
        let index = self.index;
        verify_inclusion(&leaf_hash(&self.entry), index, checkpoint.size, &checkpoint.root, &self.inclusion)
            .map_err(|source| ReceiptError::Inclusion { index, source })?;
        let (expected, old_root) = previous.map_or((0, crate::tree::empty_root()), |p| (p.size, p.root));
        if let Some(previous) = previous {
            if previous.origin != checkpoint.origin {
                let (found, expected) = (checkpoint.origin.clone(), previous.origin.clone());
                return Err(NoteError::Origin { found, expected }.into());
            }
            if previous.size > checkpoint.size {
                return Err(ReceiptError::Rewind { previous: previous.size, presented: checkpoint.size });
            }
        }
        if self.old_size != expected {
            return Err(ReceiptError::OldSize { found: self.old_size, expected });
        }
        verify_consistency(expected, &old_root, checkpoint.size, &checkpoint.root, &self.consistency)
            .map_err(|source| ReceiptError::Fork { previous: expected, presented: checkpoint.size, source })?;
        let entry = Entry::parse(&self.entry, attachment)?;
        Ok(Verified { entry, checkpoint: signed })
    }
}

fn read_proof(reader: &mut CanonicalReader<'_>) -> Result<Vec<Digest>, DecodeError> {
    let count = reader.count(PROOF_LEN_MAX)?;
    (0..count).map(|_| reader.digest()).collect()
}
