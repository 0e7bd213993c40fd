//! The certificate authority: requests, approval, revocation; and what a certificate is believed to say.
//!
//! A party makes its key where it runs and sends a request ([`party::request`]). The authority's operator compares the
//! key's fingerprint with what the party reads out and approves ([`Authority::approve`]); a revocation takes effect at
//! the next look at the revocation list ([`Authority::revoke`]). Everybody else asks a [`TrustAnchor`] who a
//! certificate's holder is. This crate knows nothing of sockets and of rounds; keys lie in files, never in git.

#![forbid(unsafe_code)]

pub mod authority;
pub mod cli;
mod files;
pub mod party;
pub mod trust;

pub use authority::{Approval, Authority, AuthorityError, Enrolment, Request};
pub use files::FileError;
pub use party::{Party, PartyError, Role};
pub use trust::{ClientIdentity, TrustAnchor, TrustError};
