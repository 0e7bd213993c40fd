//! `unmask`: each survivor releases one kind of share for every member of U2.

use serde::{Deserialize, Serialize};

use super::{RoundRef, blob};

/// The shares that the client releases.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unmask {
    /// The round.
    pub round: RoundRef,
    /// `eranos_secagg::UnmaskAnswer`, signed.
    #[serde(with = "blob")]
    pub shares: Vec<u8>,
    /// The size of the ledger at the checkpoint that the client keeps; 0 for none. The receipt proves from there.
    pub ledger_size: u64,
}

impl std::fmt::Debug for Unmask {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Unmask").field("round", &self.round).finish_non_exhaustive()
    }
}
