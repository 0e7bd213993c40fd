//! Round plans, the messages of each phase, framing, and the TLS configuration.

#![forbid(unsafe_code)]

pub mod framing;
pub mod tls;
