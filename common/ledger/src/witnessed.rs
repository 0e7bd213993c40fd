//! What a client demands of witnesses: that enough of them have cosigned the history it is shown, and not too long ago.
//!
//! A witness is somebody else's command, run now and then on a copy of the log. So no client can wait for a cosignature of
//! the checkpoint in a receipt. It demands, before it takes part in a round, cosigned checkpoints that are at most so many
//! entries behind what the log must hold by then, and proofs that chain them and the checkpoint it kept: all of them are
//! beginnings of one log. A log that forks is cosigned in one of its branches alone, so the clients of every other branch
//! stop at the latest when that many entries have come behind the fork. A client that is new to the log, and knows no
//! checkpoint to hold it against, begins with a cosigned one.
//!
//! The cosignatures themselves are in [`crate::cosignature`]; what a witness looks at, in [`crate::witness`].

use eranos_base::Digest;

use crate::{
    cosignature::WitnessKey,
    log::{AppendError, LogWriter, Storage},
    note::{Checkpoint, LedgerKey, NoteError, SignedCheckpoint, SignedNote},
    tree::{empty_root, verify_consistency},
};

/// Most cosigned checkpoints that a client is shown at once: the newest of each witness, where they cosigned different ones.
pub const COSIGNED_MAX: usize = 8;

/// A cosigned checkpoint as a client is shown it: one of a chain of those, by ascending size, in which the checkpoint that
/// the client kept has its place before the first that is as large.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cosigned {
    /// The note.
    pub note: Vec<u8>,
    /// In the place of the chain's first checkpoint the proof that its second continues it, and so on; all have one, since
    /// the client's own is not among them.
    pub consistency: Vec<Digest>,
}

/// What a client demands.
#[derive(Clone, Copy, Debug)]
pub struct Demand<'a> {
    /// The witnesses that it pins; no two of one key.
    pub witnesses: &'a [WitnessKey],
    /// How many of them must have cosigned.
    pub min: usize,
    /// How many entries the log may have beyond what they cosigned.
    pub lag_max: u64,
}

/// Why what is shown does not do.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum DemandError {
    /// It is no chain of cosigned checkpoints of this log.
    #[error("cosigned checkpoint {place} of those shown: {source}")]
    Malformed {
        /// Which, from 0.
        place: usize,
        /// What is wrong with it.
        source: NoteError,
    },
    /// There are too many, or one is no larger than the one before it.
    #[error("the cosigned checkpoints shown do not ascend, or are more than {COSIGNED_MAX}")]
    Order,
    /// The chain breaks: there are two histories, or the proof is wrong. The note that is cosigned and the client's own
    /// checkpoint are the evidence, if the ledger signed the note: that was not looked at.
    #[error("FORK: the ledger of {size} entries does not continue the one of {before}, and {what} was cosigned")]
    Fork {
        /// The size of the checkpoint before the break.
        before: u64,
        /// The size of the one after it.
        size: u64,
        /// Which of the two.
        what: &'static str,
        /// The cosigned note.
        note: Vec<u8>,
    },
    /// Too few have cosigned, or too long ago.
    #[error(
        "{found} of {min} witnesses have cosigned the ledger's first {least} entries, of {size}: no other history of it \
         may be the one that they know"
    )]
    TooFew {
        /// How many have.
        found: usize,
        /// How many must.
        min: usize,
        /// The least size that they must have cosigned.
        least: u64,
        /// How many entries the log has at least.
        size: u64,
    },
}

impl Demand<'_> {
    /// Checks what is `shown` to a client that kept the checkpoint `known` of the log with this `key`, which must have at
    /// least `size` entries by now. Gives the checkpoint to keep in the place of `known`, if a larger one was cosigned.
    ///
    /// # Errors
    /// If it is not what is demanded.
    pub fn check(
        &self,
        shown: &[Cosigned],
        key: &LedgerKey,
        known: Option<&Checkpoint>,
        size: u64,
    ) -> Result<Option<SignedCheckpoint>, DemandError> {
        if self.min == 0 {
            return Ok(None);
        }
        if shown.len() > COSIGNED_MAX {
            return Err(DemandError::Order);
        }
        let (known_size, known_root) = known.map_or((0, empty_root()), |known| (known.size, known.root));
        // The largest tree that each witness cosigned, and the note to keep.
        let mut cosigned = vec![0; self.witnesses.len()];
        let mut newest = None;
        // The tree before the one looked at, and the proof that leads from it to that; the client's own, until it had its place.
        let mut before: Option<(u64, Digest)> = None;
        let mut own = Some((known_size, known_root));
        let mut proofs = shown.iter().map(|one| one.consistency.as_slice());
        let mut link = |before: &mut Option<(u64, Digest)>, next: (u64, Digest), place: usize| {
            let Some((old, old_root)) = before.replace(next) else { return Ok(()) };
            let proof = proofs.next().unwrap_or_default();
            verify_consistency(old, &old_root, next.0, &next.1, proof).map_err(|_| {
                let what = if old == known_size && old_root == known_root { "the larger" } else { "the smaller" };
                let note = shown.get(place).map(|one| one.note.clone()).unwrap_or_default();
                DemandError::Fork { before: old, size: next.0, what, note }
            })
        };
        let mut last_size = 0;
        for (place, one) in shown.iter().enumerate() {
            let malformed = |source| DemandError::Malformed { place, source };
            let note = SignedNote::parse(&one.note).map_err(malformed)?;
            let checkpoint = Checkpoint::parse(note.text()).map_err(malformed)?;
            if checkpoint.origin != *key.name() {
                let (found, expected) = (checkpoint.origin, key.name().clone());
                return Err(malformed(NoteError::Origin { found, expected }));
            }
            if checkpoint.size <= last_size {
                return Err(DemandError::Order);
            }
            last_size = checkpoint.size;
            if let Some(own) = own.take_if(|(size, _)| *size <= checkpoint.size) {
                link(&mut before, own, place.saturating_sub(1))?;
            }
            link(&mut before, (checkpoint.size, checkpoint.root), place)?;
            // A witness of the ledger's own key is none.
            let pinned =
                self.witnesses.iter().map(|witness| witness.key() != key.key() && witness.verify(&note).is_ok());
            let mut is_cosigned = false;
            for (largest, _) in cosigned.iter_mut().zip(pinned).filter(|(_, holds)| *holds) {
                (*largest, is_cosigned) = (checkpoint.size, true);
            }
            if is_cosigned && checkpoint.size > known_size {
                // It is kept, and shown to others as evidence: under the key that the client knows.
                newest = Some(SignedCheckpoint::open(&one.note, key).map_err(malformed)?);
            }
        }
        if let Some(own) = own {
            link(&mut before, own, shown.len().saturating_sub(1))?;
        }
        let size = size.max(known_size);
        let least = size.saturating_sub(self.lag_max);
        let found = cosigned.iter().filter(|largest| **largest >= least).count();
        if found < self.min {
            return Err(DemandError::TooFew { found, min: self.min, least, size });
        }
        Ok(newest)
    }
}

/// The chain of `notes`, cosigned checkpoints of `log` by ascending size, for a client that kept one of `known` entries (0 for
/// none). Whoever claims to know more of the log than there is gets none: it was shown a fork, or is wrong.
///
/// # Errors
/// If a tile cannot be read, or a note is of more entries than the log.
pub fn chain<S: Storage>(
    log: &LogWriter<S>,
    notes: &[(u64, Vec<u8>)],
    known: u64,
) -> Result<Vec<Cosigned>, AppendError> {
    if known > log.size() {
        return Ok(Vec::new());
    }
    let place = notes.iter().position(|(size, _)| *size >= known).unwrap_or(notes.len());
    let mut sizes: Vec<u64> = notes.iter().map(|(size, _)| *size).collect();
    sizes.insert(place, known);
    let links = notes.iter().zip(sizes.windows(2));
    links
        .map(|((_, note), pair)| {
            Ok(Cosigned { note: note.clone(), consistency: log.consistency_proof(pair[0], pair[1])? })
        })
        .collect()
}
