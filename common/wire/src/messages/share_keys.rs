//! `share_keys`: sealed shares go up, one part a holder; the set U2 and the parts addressed to the client come down.

use eranos_base::Signature;
use serde::{Deserialize, Serialize};

use super::{RoundRef, blob};

/// The client's bundle: one signed part for every other member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShareKeys {
    /// The round.
    pub round: RoundRef,
    /// `eranos_secagg::Bundle`.
    #[serde(with = "blob")]
    pub bundle: Vec<u8>,
}

/// U2, and what its members sent to this client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sharers {
    /// `eranos_secagg::ShownSharers`: who is in U2, and that the client's own bundle is.
    #[serde(with = "blob")]
    pub sharers: Vec<u8>,
    /// The coordinator's signature over the root of U2.
    pub signature: Signature,
    /// `eranos_secagg::share_keys::parts_to_bytes`: the parts addressed to this client.
    #[serde(with = "blob")]
    pub parts: Vec<u8>,
}
