//! What every other crate stands on: identities, the canonical encoding and the statements signed over it, digests,
//! named limits, and the two seams through which time and randomness enter.
//!
//! This crate knows nothing of sockets, files, models or privacy. Read [`statement`] for what a signature of a round
//! covers, and [`encoding`] for how anything signed or hashed becomes bytes.

#![forbid(unsafe_code)]

pub mod clock;
pub mod digest;
pub mod encoding;
pub mod entropy;
pub mod ids;
pub mod limits;
pub mod signing;
pub mod statement;
pub mod user_error;

pub use clock::{Clock, SteadyClock, SystemClock, Timestamp};
pub use digest::Digest;
pub use entropy::{Entropy, OsEntropy, SeededEntropy};
pub use ids::{ClientId, GraphKind, Position, RoundNumber, SessionId, TaskId, TrustDomain};
pub use signing::{Signature, SigningKey, VerifyingKey};
pub use statement::{Context, StatementKind};
pub use user_error::UserError;
