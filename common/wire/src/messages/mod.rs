//! The messages of a round. Every exchange is one request of a client and one answer of the coordinator, which may come
//! late: when the phase is over for all.
//!
//! A message is a control header (`base::encoding`, never signed or hashed as such); what is signed travels inside it
//! as the bytes that were signed. The three large things travel as bodies: the checkpoint (answer of `configure`), the
//! masked vector (request of `masked_input`), and the attachment of the ledger's entry (answer of `unmask`).

pub mod abort;
pub mod advertise_keys;
pub mod configure;
pub mod consistency;
pub mod masked_input;
pub mod select;
pub mod settle;
pub mod share_keys;
pub mod unmask;

use eranos_base::{
    RoundNumber, SessionId,
    encoding::{DecodeError, decode_header, encode_header},
    limits::{BODY_LEN_MAX, HEADER_LEN_MAX, REQUEST_HEADER_LEN_MAX},
};
use eranos_ledger::entry::ATTACHMENT_LEN_MAX;
use serde::{Deserialize, Serialize};

use crate::framing::{Kind, Limits};

/// Which round a message belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoundRef {
    /// The session.
    pub session: SessionId,
    /// The round.
    pub round: RoundNumber,
}

macro_rules! messages {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident($body:ty) = $kind:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq)]
        pub enum $name {
            $($(#[$variant_doc])* $variant($body),)+
        }

        impl $name {
            /// The kind byte of the message's frame.
            pub const fn kind(&self) -> u8 {
                match self {
                    $(Self::$variant(_) => $kind,)+
                }
            }

            /// The control header.
            ///
            /// # Errors
            /// If it exceeds its limit.
            pub fn encode(&self) -> Result<Vec<u8>, DecodeError> {
                match self {
                    $(Self::$variant(body) => encode_header(body),)+
                }
            }

            /// Reads a message of `kind`.
            ///
            /// # Errors
            /// If the kind is unknown or the header malformed.
            pub fn decode(kind: u8, header: &[u8]) -> Result<Self, DecodeError> {
                match kind {
                    $($kind => decode_header(header).map(Self::$variant),)+
                    _ => Err(DecodeError::Malformed { what: "message kind" }),
                }
            }
        }

        $(impl From<$body> for $name {
            fn from(body: $body) -> Self {
                Self::$variant(body)
            }
        })+
    };
}

messages! {
    /// What a client sends.
    Request {
        /// Asks to take part in the next round.
        CheckIn(select::CheckIn) = 0x10,
        /// Asks for credentials it has not seen.
        FetchCredentials(advertise_keys::FetchCredentials) = 0x11,
        /// Accepts the plan and gives its keys.
        Advertise(advertise_keys::Advertise) = 0x12,
        /// Its sealed shares.
        ShareKeys(share_keys::ShareKeys) = 0x13,
        /// It is about to send its vector.
        Ready(masked_input::Ready) = 0x14,
        /// Its masked vector (in the body) and the signature over it.
        MaskedInput(masked_input::MaskedInput) = 0x15,
        /// Its one statement of the survivors.
        Consistency(consistency::Consistency) = 0x16,
        /// The shares it releases.
        Unmask(unmask::Unmask) = 0x17,
        /// It leaves the round.
        Abort(abort::Abort) = 0x18,
    }
}

messages! {
    /// What the coordinator answers.
    Answer {
        /// Not now.
        ComeBackLater(select::ComeBackLater) = 0x90,
        /// Selected: the signed plan; the body is the checkpoint.
        Configure(configure::Configure) = 0x91,
        /// Credentials asked for.
        Credentials(advertise_keys::Credentials) = 0x92,
        /// The roster.
        Roster(advertise_keys::Roster) = 0x93,
        /// Who shared, and the parts addressed to this client.
        Sharers(share_keys::Sharers) = 0x94,
        /// The vector may be sent.
        Grant(masked_input::Grant) = 0x95,
        /// Who survived.
        Survivors(masked_input::Survivors) = 0x96,
        /// A quorum of statements on one set of survivors.
        Quorum(consistency::Quorum) = 0x97,
        /// The round's entry in the ledger, with its proofs; the body is the entry's attachment.
        Settled(settle::Settled) = 0x98,
        /// The round is over without a result, or over for this client.
        Aborted(abort::Aborted) = 0x99,
        /// The ledger key was exchanged; an answer to a check-in.
        KeyRotated(select::KeyRotated) = 0x9a,
        /// The coordinator goes on in another ledger, from a backup; an answer to a check-in.
        LogRestored(select::LogRestored) = 0x9b,
    }
}

impl Request {
    /// The round that the message belongs to; none for a check-in.
    pub fn round(&self) -> Option<RoundRef> {
        match self {
            Self::CheckIn(_) => None,
            Self::FetchCredentials(message) => Some(message.round),
            Self::Advertise(message) => Some(message.round),
            Self::ShareKeys(message) => Some(message.round),
            Self::Ready(message) => Some(message.round),
            Self::MaskedInput(message) => Some(message.round),
            Self::Consistency(message) => Some(message.round),
            Self::Unmask(message) => Some(message.round),
            Self::Abort(message) => Some(message.round),
        }
    }
}

impl Request {
    /// The kind of a check-in.
    pub const CHECK_IN: u8 = 0x10;

    /// The longest header and body of a request of `kind`; none if there is no such request.
    pub fn limits(kind: Kind) -> Option<Limits> {
        match kind.0 {
            0x10..=0x14 | 0x16..=0x18 => Some(Limits::new(REQUEST_HEADER_LEN_MAX, 0)),
            0x15 => Some(Limits::new(REQUEST_HEADER_LEN_MAX, BODY_LEN_MAX)),
            _ => None,
        }
    }
}

impl Answer {
    /// Whether it answers a check-in, and nothing else.
    pub const fn is_to_check_in(&self) -> bool {
        matches!(self, Self::Configure(_) | Self::ComeBackLater(_) | Self::KeyRotated(_) | Self::LogRestored(_))
    }

    /// The longest header and body of an answer of `kind`.
    pub fn limits(kind: Kind) -> Option<Limits> {
        let body_len_max = match kind.0 {
            0x91 => BODY_LEN_MAX,
            0x98 => ATTACHMENT_LEN_MAX as u64,
            _ => 0,
        };
        Some(Limits::new(HEADER_LEN_MAX, body_len_max))
    }
}

/// Bytes that serialize as one block rather than one element at a time.
pub(crate) mod blob {
    use std::fmt;

    use serde::{Deserializer, Serializer, de};

    pub(crate) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(bytes)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        struct Bytes;

        impl de::Visitor<'_> for Bytes {
            type Value = Vec<u8>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bytes")
            }

            fn visit_byte_buf<E: de::Error>(self, bytes: Vec<u8>) -> Result<Self::Value, E> {
                Ok(bytes)
            }

            fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<Self::Value, E> {
                Ok(bytes.to_vec())
            }
        }

        deserializer.deserialize_byte_buf(Bytes)
    }
}

/// A block of bytes in a list of blocks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blob(#[serde(with = "blob")] pub Vec<u8>);
