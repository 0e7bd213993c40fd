//! Arranges rounds of secure aggregation.
//!
//! [`round`] is the protocol: a state machine without I/O. [`federation`] feeds it and carries out what it asks for;
//! [`store`], [`objects`] and the ledger keep what must outlive the process; [`server`] owns the socket,
//! [`streams`] what goes over it, [`limits`] every bound, and [`offences`] counts who does not keep to them; [`cosigned`]
//! shows clients what witnesses have signed; [`backup`] copies all of it and goes on from a copy; [`export`] gives the trained model away, [`status`] says how things stand, [`metrics`] to machines.

#![forbid(unsafe_code)]

pub mod backup;
pub mod cli;
pub mod cosigned;
pub mod entries;
pub mod exchanges;
pub mod export;
pub mod federation;
pub mod limits;
pub mod metrics;
pub mod model;
pub mod objects;
pub mod offences;
pub mod pace;
pub mod round;
pub mod server;
pub mod setup;
pub mod status;
pub mod store;
pub mod streams;
pub mod task;
