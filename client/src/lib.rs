//! Trains locally, clips, noises, masks, and trusts nobody.
//!
//! [`round`] is the protocol: a state machine without I/O. [`trainer`] makes the contribution, [`store`] keeps what must
//! not be forgotten, [`policy`] and [`config`] are what the client's owner says. [`local`]
//! is what the client could do alone.

#![forbid(unsafe_code)]

mod budget;
pub mod certificates;
pub mod cli;
pub mod config;
pub mod connection;
pub mod local;
pub mod policy;
pub mod round;
pub mod session;
pub mod setup;
pub mod store;
pub mod trainer;
