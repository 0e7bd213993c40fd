//! Whole federations, attacks, faults and house rules. One binary, so that it links once.

#![expect(clippy::unwrap_used, reason = "a test may panic wherever something is not as it should be")]

mod backup;
mod budgets;
mod certificates;
mod data;
mod errors;
#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod faults;
mod faulty_network;
mod fuzz;
mod hostile;
mod house;
mod live;
mod local;
mod model;
mod observed;
mod plan;
mod processes;
mod reader;
mod reservations;
mod rights;
mod simulate;
mod simulation;
mod taking_part;
mod transport;
mod white_box;
mod witness;
