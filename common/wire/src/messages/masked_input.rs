//! `masked_input`: READY, a grant, the masked vector, and at the end the survivors.

use eranos_base::Signature;
use serde::{Deserialize, Serialize};

use super::{RoundRef, blob};

/// The client masks against exactly the U2 it was shown. Sent before the first byte of the vector.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ready {
    /// The round.
    pub round: RoundRef,
    /// The signature over the root of U2.
    pub signature: Signature,
}

/// The vector may be sent now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {}

/// The masked vector: the body of the frame, packed to b bits a value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MaskedInput {
    /// The round.
    pub round: RoundRef,
    /// `eranos_secagg::Finished`: the hash of the body, complaints, and the signature over both.
    #[serde(with = "blob")]
    pub finished: Vec<u8>,
}

/// The survivors, with the READYs of those who share keys with the client, and its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Survivors {
    /// `eranos_secagg::Survivors`: U3 as a bitmap over the roster, and the READYs.
    #[serde(with = "blob")]
    pub survivors: Vec<u8>,
    /// The coordinator's signature over U3.
    pub signature: Signature,
}
