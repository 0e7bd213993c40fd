//! Key agreement, shares, masks, packing and unmasking of one secure sum of up to 10,000 clients: on the complete graph, safe
//! against a malicious coordinator that works with up to f of them; on a sparse one ([`graph`]), with a fraction of the
//! work and the bytes, against f of them and a coordinator that keeps to the protocol.
//!
//! This crate does no I/O, reads no clock and owns no generator of randomness: [`eranos_base::Entropy`] is handed in.
//! It knows nothing of sockets, plans, models or noise. What it takes from a signed plan is a [`Terms`]; what it sums
//! is a vector of integers modulo 2^b.
//!
//! One file per phase, both sides in it. Each state consumes the one before, so that a wrong order does not compile
//! and nothing can be done twice:
//!
//! | phase | client | coordinator |
//! |---|---|---|
//! | advertise_keys | [`Advertised::begin`] | [`RosterEntry::verify`], [`Roster::assemble`] |
//! | share_keys | [`Advertised::share_keys`] gives [`SharedKeys`] | [`ShareRouter`], then [`Routed`] |
//! | masked_input | [`SharedKeys::receive`] gives [`Ready`]; [`Ready::mask`] gives [`Masked`] and its [`Upload`] | [`Accumulator`] |
//! | consistency | [`Masked::sign`] gives [`Consistent`] | [`ConsistencyCollector`] gives a [`Quorum`] |
//! | unmask | [`Consistent::release`] gives an [`UnmaskAnswer`] | [`Unmasker`] gives the [`Sum`] |
//!
//! An error of a client ends its round: the state is gone and its keys are wiped. The caller keeps what must survive
//! the process: "begun" before the advert leaves, the privacy charge before the upload does, the consistency statement
//! before it does.
//!
//! ```compile_fail
//! # fn twice(masked: eranos_secagg::Masked, a: &eranos_secagg::Survivors, b: &eranos_secagg::Survivors) {
//! let first = masked.sign(a);
//! let second = masked.sign(b); // The state is gone: a second consistency statement does not compile.
//! # }
//! ```
//!
//! ```compile_fail
//! # fn twice(ready: eranos_secagg::Ready, x: &[i64]) {
//! let first = ready.mask(x);
//! let second = ready.mask(x); // Nor does a second vector under the same masks.
//! # }
//! ```
//!
//! Sources: Bonawitz et al., "Practical Secure Aggregation for Privacy-Preserving Machine Learning" (CCS 2017), and
//! Bell et al., "Secure Single-Server Aggregation with (Poly)Logarithmic Overhead" (CCS 2020); the quorum, the READY
//! statements and the binding of keys to identities are additions.

#![deny(unsafe_code)]

pub mod advert;
pub mod agreement;
pub mod consistency;
pub mod error;
pub mod graph;
#[expect(unsafe_code, reason = "vector instructions chosen at run time; what they gain is measured there")]
pub mod kernel;
pub mod mask;
pub mod masked_input;
pub mod merkle;
pub mod packing;
pub mod positions;
pub mod roster;
pub mod shamir;
pub mod share_keys;
pub mod terms;
pub mod thresholds;
pub mod unmask;

mod reader;
#[cfg(test)]
mod vectors;
mod workers;

pub use advert::{Advert, Advertised, Identity, RoundSecrets, StatementKey};
pub use agreement::AgreementKey;
pub use consistency::{ConsistencyCollector, Consistent, Quorum, Survivors};
pub use eranos_base::GraphKind;
pub use error::{Arrival, Blame, Incomplete, Misbehaviour, Refusal};
pub use graph::{Graph, GraphError, SparseParameters};
pub use masked_input::{Accumulator, Finished, Masked, Ready, Upload};
pub use packing::Bits;
pub use positions::PositionSet;
pub use roster::{
    Credential, FreshKeys, Member, Roster, RosterEntry, RosterError, ShortName, ShownRoster, VerifiedCertifications,
};
pub use share_keys::{AddressedPart, Bundle, Routed, SharePart, ShareRouter, SharedKeys, Sharers, ShownSharers};
pub use terms::Terms;
pub use thresholds::{ThresholdError, Thresholds};
pub use unmask::{Sum, UnmaskAnswer, Unmasker};
