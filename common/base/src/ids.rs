//! Names of the things a federation is made of. Each is a type of its own, checked once where it is parsed.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{
    Digest,
    limits::{NAME_LEN_MAX, TRUST_DOMAIN_LEN_MAX},
};

/// Why a name was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The name is empty or longer than the limit.
    #[error("name of {len} bytes, expected 1 to {max}")]
    Length {
        /// Its length.
        len: usize,
        /// The longest allowed.
        max: usize,
    },
    /// A character outside the allowed set.
    #[error("character {found:?} in a name, expected a-z, 0-9, '-', '_' or '.'")]
    Character {
        /// The character found.
        found: char,
    },
    /// Not the form of a client's identity.
    #[error("identity {found:?}, expected spiffe://<trust domain>/client/<name>")]
    NotAnIdentity {
        /// What was found.
        found: String,
    },
}

/// Checks that `name` is 1 to `max` characters of a-z, 0-9, '-', '_' and '.'.
fn check_name(name: &str, max: usize) -> Result<(), NameError> {
    if name.is_empty() || name.len() > max {
        return Err(NameError::Length { len: name.len(), max });
    }
    match name.chars().find(|c| !matches!(c, 'a'..='z' | '0'..='9' | '-' | '_' | '.')) {
        Some(found) => Err(NameError::Character { found }),
        None => Ok(()),
    }
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident, $max:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                check_name(text, $max)?;
                Ok(Self(text.to_owned()))
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;

            fn try_from(text: String) -> Result<Self, NameError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.0)
            }
        }
    };
}

name_type!(
    /// The name of a task: one model trained on one kind of data.
    TaskId,
    NAME_LEN_MAX
);
name_type!(
    /// The trust domain under which a certificate authority names its members (SPIFFE-ID, section 2.1).
    TrustDomain,
    TRUST_DOMAIN_LEN_MAX
);

/// A client's identity: the one URI of its certificate, `spiffe://<trust domain>/client/<name>`. It outlives the
/// certificate: budgets are kept under it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ClientId(String);

impl ClientId {
    /// The identity of the client `name` in `trust_domain`.
    ///
    /// # Errors
    /// If `name` is not a name.
    pub fn new(trust_domain: &TrustDomain, name: &str) -> Result<Self, NameError> {
        check_name(name, NAME_LEN_MAX)?;
        Ok(Self(format!("spiffe://{trust_domain}/client/{name}")))
    }

    /// The identity as its URI.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The part after `/client/`.
    pub fn name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or_default()
    }

    /// The trust domain's name.
    pub fn trust_domain(&self) -> &str {
        self.0.split('/').nth(2).unwrap_or_default()
    }
}

impl FromStr for ClientId {
    type Err = NameError;

    fn from_str(uri: &str) -> Result<Self, NameError> {
        let not_an_identity = || NameError::NotAnIdentity { found: uri.to_owned() };
        let rest = uri.strip_prefix("spiffe://").ok_or_else(not_an_identity)?;
        let (trust_domain, name) = rest.split_once("/client/").ok_or_else(not_an_identity)?;
        Self::new(&trust_domain.parse()?, name)
    }
}

impl TryFrom<String> for ClientId {
    type Error = NameError;

    fn try_from(uri: String) -> Result<Self, NameError> {
        uri.parse()
    }
}

impl From<ClientId> for String {
    fn from(id: ClientId) -> Self {
        id.0
    }
}

impl fmt::Display for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClientId({})", self.0)
    }
}

/// A client's place in the roster of one round, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Position(pub u16);

impl Position {
    /// What a statement carries for the coordinator, and for a client before the roster is fixed.
    pub const NONE: Self = Self(0xFFFF);

    /// The position as an index.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// The number of a round within its session. Rounds of a session strictly increase at every client; an aborted attempt
/// keeps its number and the next one takes the next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RoundNumber(pub u64);

impl RoundNumber {
    /// The round after this one.
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for RoundNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A session: one run of a task by one coordinator with one ledger.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SessionId(pub Digest);

impl SessionId {
    /// SHA-256 over the canonical encoding of trust domain, ledger origin, task and a random nonce.
    pub fn derive(trust_domain: &TrustDomain, ledger_origin: &str, task: &TaskId, nonce: &[u8; 32]) -> Self {
        let bytes = crate::encoding::Canonical::new("eranos/session/v1")
            .text(trust_domain.as_str())
            .text(ledger_origin)
            .text(task.as_str())
            .field(nonce)
            .finish();
        Self(Digest::of(&bytes))
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Which graph a plan asks for: who shares keys with whom. Degree and threshold are in no plan: every party computes them
/// from the roster's size and the plan's f and u_min, so none can be told weaker ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum GraphKind {
    /// Everybody with everybody: for any coordinator.
    Complete = 0,
    /// The Harary graph on a ring: for a coordinator that keeps to the protocol.
    Sparse = 1,
}

impl GraphKind {
    /// The kind that a plan writes as this number.
    pub const fn from_u8(kind: u8) -> Option<Self> {
        match kind {
            0 => Some(Self::Complete),
            1 => Some(Self::Sparse),
            _ => None,
        }
    }

    /// The kind of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Complete, Self::Sparse].into_iter().find(|kind| kind.name() == name)
    }

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Sparse => "sparse",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_is_parsed_strictly() {
        let check = |uri: &str, valid: bool| assert_eq!(uri.parse::<ClientId>().is_ok(), valid, "{uri}");
        check("spiffe://example.org/client/hospital-1", true);
        check("spiffe://example.org/coordinator/hospital-1", false);
        check("spiffe://example.org/client/", false);
        check("spiffe:///client/a", false);
        check("spiffe://example.org/client/a/client/b", false);
        check("spiffe://example.org/client/A", false);
        check("https://example.org/client/a", false);
        let id: ClientId = "spiffe://example.org/client/a".parse().expect("valid");
        assert_eq!((id.trust_domain(), id.name()), ("example.org", "a"));
    }

    #[test]
    fn a_graph_has_one_number_and_one_name() {
        for kind in [GraphKind::Complete, GraphKind::Sparse] {
            assert_eq!(GraphKind::from_u8(kind as u8), Some(kind));
            assert_eq!(GraphKind::from_name(kind.name()), Some(kind));
        }
        assert_eq!((GraphKind::from_u8(2), GraphKind::from_name("ring")), (None, None));
    }
}
