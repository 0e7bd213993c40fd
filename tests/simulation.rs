//! Whole rounds without a socket: the coordinator's and the clients' state machines, a fake clock, a seeded network that
//! delays, repeats and drops, and adversaries on either side.
//!
//! What these tests can find is whatever the protocol does wrong in any order of events: a wrong sum, a charge without a
//! vector, a message before its record, a refusal that is none, a panic. What they cannot find is what sockets, disks
//! and training do: contributions are random vectors whose sum is known. [`world`] drives both machines as
//! `coordinator/src/federation.rs` and `client/src/session.rs` do, and every message travels as bytes.

mod admission_attacks;
mod adversary;
mod canaries;
mod client_attacks;
mod coordinator_attacks;
mod key_rotation;
mod large;
mod ledger;
mod modes;
mod rounds;
mod secrecy;
mod sparse_graph;
mod witnesses;
pub(crate) mod world;
