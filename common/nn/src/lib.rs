//! Layers, models as data, optimizers, and training with per-example clipping.
//!
//! A model is data: a [`ModelSpec`] in its canonical bytes, imported from the JSON that Keras prints. A [`Network`] is
//! what runs it. Its exact path, [`Network::record_gradient`], gives the gradient of one record as a function of the
//! model and that record alone: no batch enters it, and its bits are the same at any position, on any thread and under
//! any instruction set, because every sum has one fixed order of fused multiply-adds (see [`kernel`]).
//!
//! This crate knows nothing about privacy budgets, rounds or sockets: on the exact path the caller clips, truncates and
//! sums the gradients. It starts no threads: the caller owns the pool. Read [`model`] for what a model may be,
//! [`network`] for how one runs, [`training`] for how one is trained without a claim of privacy, and [`data`] for how
//! records come in.

#![deny(unsafe_code)]

pub mod buffer;
pub mod data;
pub mod error;
pub mod gradient;
pub mod initializers;
#[expect(unsafe_code, reason = "vector instructions chosen at run time; the gain over safe code is measured there")]
pub mod kernel;
mod layers;
pub mod losses;
mod math;
pub mod metrics;
pub mod model;
pub mod network;
pub mod optimizers;
pub mod tensors;
pub mod training;
pub mod weights;

pub use buffer::Buffer;
pub use data::{DataError, DataFile, DataSpec, Dataset};
pub use error::NnError;
pub use gradient::Gradient;
pub use losses::{Loss, Target};
pub use model::{Activation, LayerKind, LayerSpec, ModelError, ModelSpec, Padding};
pub use network::{Evaluation, Network, ParameterEntry, Prepared, Record, Workspace};
pub use optimizers::{LearningRateSchedule, Optimizer, OptimizerError, OptimizerSpec};
pub use tensors::TensorError;
pub use training::{Totals, Training, TrainingError};
