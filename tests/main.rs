//! Whole federations, attacks, faults and house rules. One binary, so that it links once.

mod errors;
mod house;
mod transport;
