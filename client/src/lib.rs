//! Trains locally, clips, noises, masks, and trusts nobody.

#![forbid(unsafe_code)]

pub mod config;
pub mod policy;
pub mod round;
