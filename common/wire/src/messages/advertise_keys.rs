//! `advertise_keys`: signed public keys go up, the roster comes down.

use eranos_base::{
    Digest, Signature, VerifyingKey,
    limits::{CERTIFICATE_LEN_MAX, HEADER_LEN_MAX},
};
use serde::{Deserialize, Serialize};

use super::{RoundRef, blob};

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

/// The roster, as the client is shown it, which recomputes R1 from it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Roster {
    /// `eranos_secagg::ShownRoster`: R1, by what each member's credential is found, and fresh keys with their proof.
    #[serde(with = "blob")]
    pub roster: Vec<u8>,
    /// The coordinator's signature over R1.
    pub signature: Signature,
}

/// Asks for credentials of the roster that the client has not seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FetchCredentials {
    /// The round.
    pub round: RoundRef,
    /// Their `eranos_secagg::ShortName`s in this roster, at most [`CREDENTIALS_PER_FETCH_MAX`].
    pub credentials: Vec<[u8; eranos_secagg::ShortName::LEN]>,
}

/// The credentials asked for, in the order asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credentials {
    /// One for each name.
    pub credentials: Vec<Credential>,
}

/// What of a member is the same in every round of a task, and may be kept: the roster's digest binds it, whoever showed it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credential {
    /// The certificate, in DER.
    #[serde(with = "blob")]
    pub certificate: Vec<u8>,
    /// The key of the member's consistency statements.
    pub statement_key: VerifyingKey,
    /// The certificate key's signature over it.
    pub certification: Signature,
}

impl Credential {
    /// The credential with the digest of its certificate in the certificate's place: what a roster's entry is made of.
    pub fn digested(&self) -> eranos_secagg::Credential {
        let Self { certificate, statement_key, certification } = self;
        eranos_secagg::Credential {
            certificate: Digest::of(certificate),
            statement_key: *statement_key,
            certification: *certification,
        }
    }

    /// Under what it is kept.
    pub fn digest(&self) -> Digest {
        self.digested().digest()
    }
}

/// Credentials in one exchange. Together they fit a header, as large as a certificate may be.
pub const CREDENTIALS_PER_FETCH_MAX: usize = 512;

const _: () = assert!(CREDENTIALS_PER_FETCH_MAX * (CERTIFICATE_LEN_MAX + 128) < HEADER_LEN_MAX);
