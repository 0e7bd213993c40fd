//! Whole federations, attacks, faults and house rules. One binary, so that it links once.

mod house;
mod processes;
mod simulation;
