//! The certificate authority: requests, approval, revocation.
