//! The certificate authority: requests, approval, revocation; and what a certificate is believed to say.
//!
//! A party makes its key where it runs and sends a request ([`party::request`]). The authority's operator compares the
//! key's fingerprint with what the party reads out and approves ([`Authority::approve`]); a revocation
//! ([`Authority::revoke`]), a renewed certificate ([`party::renew`]) and a new authority ([`Authority::roll_over`]) take
//! effect at the next look at a party's folder ([`watch`]). Everybody else asks a [`TrustAnchor`] who a certificate's
//! holder is. This crate knows nothing of sockets and of rounds; keys lie in files, never in git.

#![forbid(unsafe_code)]

pub mod authority;
pub mod cli;
mod files;
pub mod party;
pub mod trust;
pub mod watch;

pub use authority::{Approval, Authority, AuthorityError, Enrolment, Request};
pub use files::FileError;
pub use party::{Own, Party, PartyError, Role};
pub use trust::{ClientIdentity, Standing, TrustAnchor, TrustError};
