//! Clip, rotate, quantize, discrete noise, accountants, budgets.
//!
//! One attempt, in the order in which a client and the coordinator walk it:
//!
//! 1. [`mechanism`]: the public parameters of the attempt, as the signed plan and the ledger carry them. A
//!    [`Mechanism`] exists only if every refusal has passed, and it knows its unit of privacy, its sensitivity, its
//!    noise multiplier in each [`View`] and its epsilon. [`mechanism::design`] and [`mechanism::design_client`] find the
//!    least noise that keeps a promise.
//! 2. [`sampler`]: the silo's secret Poisson sample, as a constant number of slots.
//! 3. [`silo`]: every record gradient clipped to integers and summed exactly. Where the client is the unit, [`update`]
//!    instead: the whole change of the model clipped, and rounded at random ([`rounding`]). What is measured beside the
//!    model travels in the same vector ([`groups`]). [`rotation`] spreads either and brings the sum back at the
//!    coordinator.
//! 4. [`noise`]: the exact discrete Gaussian that every client adds.
//! 5. [`accountant`]: from described events to epsilon, and from a target to the least noise.
//! 6. [`budget`]: the client's durable record of what was spent, as bytes; the files are the client's.
//!
//! Beside it: [`wrap`], the bits of a sum; [`audit`], what canaries show of a run.
//!
//! This crate does no I/O, reads no clock, and takes randomness only from an [`eranos_base::Entropy`] handed to it. It
//! knows nothing of models, masks or messages.

#![forbid(unsafe_code)]

pub mod accountant;
pub mod audit;
pub mod budget;
pub mod groups;
pub mod mechanism;
pub mod noise;
pub mod rotation;
pub mod rounding;
pub mod sampler;
pub mod silo;
pub mod update;
pub mod wrap;

mod exact_exp;
#[cfg(test)]
mod fractions;
mod uniform;

pub use accountant::{Accountant, Event, RdpCurve};
pub use budget::Budget;
pub use groups::{Figures, Groups};
pub use mechanism::{
    ClientMechanism, ClientParameters, Mechanism, MechanismError, Noise, Probability, Promise, RecordMechanism,
    RecordParameters, View,
};
pub use noise::{DiscreteGaussian, NoiseSource, NoiseVariance};
pub use rotation::RotationSeed;
pub use sampler::{Slot, Weight};
pub use silo::SiloSum;
