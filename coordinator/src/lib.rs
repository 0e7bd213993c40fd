//! Arranges rounds of secure aggregation.

#![forbid(unsafe_code)]

pub mod exchanges;
pub mod objects;
pub mod round;
pub mod store;
pub mod task;
