//! Every bound of the system that more than one crate must agree on, with what raising it costs.

use std::time::Duration;

/// Longest name of a task or client, in bytes.
pub const NAME_LEN_MAX: usize = 64;
/// Longest trust domain, in bytes (SPIFFE-ID, section 2.1).
pub const TRUST_DOMAIN_LEN_MAX: usize = 255;
/// Most clients in one roster. Positions are `u16`, and 0xFFFF stands for "none".
pub const COHORT_LEN_MAX: usize = 10_000;
/// Most coordinates of one masked vector, after padding. A client holds two such vectors of `i64` while it trains.
pub const VECTOR_LEN_MAX: usize = 1 << 26;
/// Largest control header of a frame, in bytes: as many credentials as are fetched at once. (A roster of
/// [`COHORT_LEN_MAX`] clients, of whom 1,000 share keys with each, has 0.5 MB.) A client holds one at a time.
pub const HEADER_LEN_MAX: usize = 8 << 20;
/// Largest control header of a client's request, in bytes: a bundle of 1,023 parts is 217 KB. The coordinator holds one
/// per open exchange.
pub const REQUEST_HEADER_LEN_MAX: usize = 1 << 20;
/// Largest body of a frame, in bytes; bodies are streamed in chunks, so it bounds time and disk, not memory.
pub const BODY_LEN_MAX: u64 = 1 << 30;
/// Bytes of a body that are read or written at once.
pub const CHUNK_LEN: usize = 1 << 16;
/// Uploads of masked vectors in flight at once. The coordinator stages that many vectors.
pub const UPLOAD_GRANTS_MAX: usize = 16;
/// Largest canonical encoding that is parsed, in bytes.
pub const CANONICAL_LEN_MAX: usize = 1 << 20;
/// Largest certificate that is parsed, in bytes of DER.
pub const CERTIFICATE_LEN_MAX: usize = 8 << 10;
/// Longest free text that a peer may send (a refusal's reason), in bytes.
pub const REASON_LEN_MAX: usize = 512;
/// Most that the clocks of a client and its coordinator may differ. A larger difference would let certificates and
/// revocation lists be believed that much longer than they say.
pub const CLOCK_SKEW_MAX: Duration = Duration::from_secs(300);
