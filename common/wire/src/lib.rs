//! What travels between coordinator and client: the signed plan of a round, the messages of each phase, framing, and the
//! TLS configuration of both ends.
//!
//! This crate opens no connection and reads no clock. The phases have the same file names here, in the coordinator's
//! `round` and in the client's `round`.

#![forbid(unsafe_code)]

pub mod framing;
pub mod messages;
pub mod plan;
pub mod tls;

pub use messages::{Answer, Request};
pub use plan::{RoundPlan, SignedPlan};
