//! Trains locally, clips, noises, masks, and trusts nobody.
//!
//! [`round`] is the protocol: a state machine without I/O. [`trainer`] makes the contribution, [`store`] keeps what must
//! not be forgotten, [`policy`], [`config`] and [`conditions`] are what the client's owner says. [`preflight`] looks at all of
//! it before the first round; [`restored`] is how another ledger is accepted; [`local`] is what the client could do alone.

#![forbid(unsafe_code)]

mod budget;
pub mod certificates;
pub mod cli;
pub mod conditions;
pub mod config;
pub mod connection;
pub mod local;
pub mod policy;
pub mod preflight;
pub mod restored;
pub mod round;
pub mod session;
pub mod setup;
pub mod store;
pub mod trainer;
