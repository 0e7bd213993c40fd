//! `settle`: the round's entry in the ledger with its proofs, which every client verifies. The entry's attachment, with a
//! line for each participant and signature, is the body.

use serde::{Deserialize, Serialize};

use super::blob;

/// What proves that the round was entered into the ledger.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settled {
    /// `eranos_ledger`'s receipt: entry, checkpoint, inclusion and consistency proofs.
    #[serde(with = "blob")]
    pub receipt: Vec<u8>,
}
