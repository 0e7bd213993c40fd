//! `advertise_keys`: signed public keys go up, the roster comes down.

use eranos_base::{Digest, Signature};
use serde::{Deserialize, Serialize};

use super::{Blob, RoundRef, blob};

/// The client accepts the plan: its keys for this round.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Advertise {
    /// The round.
    pub round: RoundRef,
    /// `eranos_secagg::Advert`, signed.
    #[serde(with = "blob")]
    pub advert: Vec<u8>,
    /// The statement key's signature over the client's identity: it has the key that it advertises.
    pub possession: Signature,
}

/// The roster, in its order. A client recomputes R1 from it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Roster {
    /// `eranos_secagg::roster::entries_to_bytes`: identity, certificate digest and advert of every member.
    #[serde(with = "blob")]
    pub entries: Vec<u8>,
    /// The coordinator's signature over R1.
    pub signature: Signature,
}

/// Asks for certificates of the roster that the client has not seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FetchCertificates {
    /// The round.
    pub round: RoundRef,
    /// Their digests.
    pub certificates: Vec<Digest>,
}

/// The certificates asked for, in the order asked, in DER.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificates {
    /// One certificate each.
    pub certificates: Vec<Blob>,
}
