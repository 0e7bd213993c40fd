//! `consistency`: one statement of each survivor on U3, and the quorum of them.

use eranos_base::Signature;
use serde::{Deserialize, Serialize};

use super::{RoundRef, blob};

/// The client's one statement on the survivors, under its per-task statement key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Consistency {
    /// The round.
    pub round: RoundRef,
    /// The signature over U3.
    pub signature: Signature,
}

/// At least q statements on the identical set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quorum {
    /// `eranos_secagg::Quorum`: who signed, and the signatures.
    #[serde(with = "blob")]
    pub quorum: Vec<u8>,
}
