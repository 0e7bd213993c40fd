//! The model that the coordinator trains: parameters, server optimizer, and the operator's own test set.

use std::sync::Arc;

use bytes::Bytes;
use eranos_base::{Digest, Entropy, encoding::Canonical, encoding::CanonicalReader, encoding::DecodeError};
use eranos_nn::{
    Dataset, Evaluation, LearningRateSchedule, Loss, ModelSpec, Network, NnError, Optimizer, OptimizerError,
    OptimizerSpec, metrics,
};
use eranos_privacy::{
    Mechanism, Promise, RotationSeed,
    groups::{Released, next_clip},
    rotation::{RestoreError, release},
};
use eranos_secagg::Sum;

use crate::task::AdaptiveClipping;

/// Why a sum was not applied, or a model not restored.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The model does not run.
    #[error(transparent)]
    Nn(#[from] NnError),
    /// The optimizer's state does not fit.
    #[error(transparent)]
    Optimizer(#[from] OptimizerError),
    /// The sum is not of this mechanism.
    #[error(transparent)]
    Restore(#[from] RestoreError),
    /// Stored bytes are not what this build writes.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// The new parameters are not finite: the sum is not applied.
    #[error("the update leads to parameters that are not finite; lower the learning rate")]
    NotFinite,
}

/// How a model does on the operator's test set.
#[derive(Clone, Debug, PartialEq)]
pub struct TestFigures {
    /// The share of records that it says right.
    pub accuracy: f64,
    /// The same of each class; none of a class that the test set does not have.
    pub recalls: Vec<Option<f64>>,
    /// The area under the ROC curve; none unless two classes, and both of them, are there.
    pub auc: Option<f64>,
}

/// The model between two rounds.
#[derive(Clone)]
pub struct Model {
    network: Arc<Network>,
    parameters: Vec<f32>,
    optimizer: Optimizer,
    /// What the next attempt clips to, once a released one has said so.
    l2_clip_norm: Option<f64>,
}

impl Model {
    /// A fresh model.
    ///
    /// # Errors
    /// If the specification cannot be trained, or the optimizer's constants make no sense.
    pub fn initialise(
        spec: ModelSpec,
        optimizer: OptimizerSpec,
        entropy: &mut dyn Entropy,
    ) -> Result<Self, ModelError> {
        let loss = Loss::of_classes(&spec)?;
        let network = Arc::new(Network::new(spec, loss)?);
        let parameters = network.initialise(entropy);
        let optimizer = Optimizer::new(optimizer, parameters.len())?;
        Ok(Self { network, parameters, optimizer, l2_clip_norm: None })
    }

    /// The model of a stored checkpoint and optimizer.
    ///
    /// # Errors
    /// If the bytes do not fit the specification.
    pub fn restore(
        spec: ModelSpec,
        optimizer: OptimizerSpec,
        checkpoint: &[u8],
        optimizer_state: &[u8],
    ) -> Result<Self, ModelError> {
        let loss = Loss::of_classes(&spec)?;
        let network = Arc::new(Network::new(spec, loss)?);
        let parameters = floats(checkpoint);
        if parameters.len() != network.n_parameters() || !checkpoint.len().is_multiple_of(4) {
            return Err(DecodeError::Malformed { what: "checkpoint" }.into());
        }
        let (mut reader, has_clip) = match CanonicalReader::new(optimizer_state, OPTIMIZER_DOMAIN_V2) {
            Ok(reader) => (reader, true),
            Err(_) => (CanonicalReader::new(optimizer_state, OPTIMIZER_DOMAIN)?, false),
        };
        let n_steps = reader.u64()?;
        let moments = floats(reader.field()?);
        let l2_clip_norm = if has_clip { Some(reader.f64()?) } else { None };
        reader.finish()?;
        let optimizer = Optimizer::restore(optimizer, parameters.len(), n_steps, moments)?;
        Ok(Self { network, parameters, optimizer, l2_clip_norm })
    }

    /// The specification.
    pub fn spec(&self) -> &ModelSpec {
        self.network.spec()
    }

    /// The number of parameters.
    pub fn n_parameters(&self) -> usize {
        self.parameters.len()
    }

    /// The parameters as they travel: `f32`, little-endian, in schema order.
    pub fn checkpoint(&self) -> Bytes {
        bytes(&self.parameters).into()
    }

    /// The optimizer's state: the canonical encoding of steps (`u64`) and moments (`f32`, little-endian); in version 2 an adaptive
    /// clip (`f64`) behind them.
    pub fn optimizer_state(&self) -> Vec<u8> {
        let domain = if self.l2_clip_norm.is_some() { OPTIMIZER_DOMAIN_V2 } else { OPTIMIZER_DOMAIN };
        let state = Canonical::new(domain).u64(self.optimizer.n_steps()).field(&bytes(self.optimizer.moments()));
        match self.l2_clip_norm {
            Some(l2_clip_norm) => state.f64(l2_clip_norm).finish(),
            None => state.finish(),
        }
    }

    /// The mechanism of the next attempt of a task that was opened with `opened`: that one, or the same with the clip that the
    /// last released sum leads to.
    pub fn next_mechanism(&self, opened: &Mechanism) -> Mechanism {
        let next = self.l2_clip_norm.and_then(|l2_clip_norm| opened.with_clip(l2_clip_norm).ok());
        next.unwrap_or_else(|| opened.clone())
    }

    /// Takes one step: the sum is brought back from its rotation and divided by the public expected lot, or by the number of
    /// survivors where each sent an update; the server optimizer applies it. The mean update points downhill, and counts as
    /// a gradient of the opposite sign (Reddi et al. 2021). An adaptive clip moves by the rule of `clipping`. Gives what was
    /// released beside the model.
    ///
    /// # Errors
    /// If the sum does not fit, or the step leads nowhere finite; the model is unchanged then.
    pub fn apply(
        &mut self,
        sum: &Sum,
        mechanism: &Mechanism,
        seed: &RotationSeed,
        schedule: &LearningRateSchedule,
        clipping: Option<&AdaptiveClipping>,
    ) -> Result<Released, ModelError> {
        let survivors = sum.survivors().len() as u32;
        let (mut gradient, released) = release(&sum.residues(), mechanism, seed, survivors)?;
        if mechanism.sums_updates() {
            for value in &mut gradient {
                *value = -*value;
            }
        }
        let (mut parameters, mut optimizer) = (self.parameters.clone(), self.optimizer.clone());
        let share = schedule.share(optimizer.n_steps());
        optimizer.step_scaled(&mut parameters, &gradient, share)?;
        if !parameters.iter().all(|value| value.is_finite()) {
            return Err(ModelError::NotFinite);
        }
        (self.parameters, self.optimizer) = (parameters, optimizer);
        let common = mechanism.common();
        if let (Some(adaptive), Some(rule), Some(clipped)) = (common.groups.adaptive_clip, clipping, released.clipped) {
            let AdaptiveClipping { target_quantile, learning_rate, .. } = *rule;
            let next = next_clip(&adaptive, common.l2_clip_norm, clipped.value, target_quantile, learning_rate);
            self.l2_clip_norm = Some(next);
        }
        Ok(released)
    }

    /// How well the model does on the operator's test set.
    ///
    /// # Errors
    /// If the test set does not fit the model.
    pub fn evaluate(&self, data: &Dataset) -> Result<Evaluation, ModelError> {
        let prepared = self.network.prepare(&self.parameters)?;
        Ok(self.network.evaluate(&prepared, data, &mut self.network.workspace())?)
    }

    /// The same, class by class.
    ///
    /// # Errors
    /// If the test set does not fit the model.
    pub fn test_figures(&self, data: &Dataset) -> Result<TestFigures, ModelError> {
        let accuracy = self.evaluate(data)?.accuracy;
        let prepared = self.network.prepare(&self.parameters)?;
        let outputs = self.network.predict(&prepared, data.features(), &mut self.network.workspace())?;
        // One output tells two classes apart.
        let classes = 0..(self.network.n_outputs() as u32).max(2);
        Ok(TestFigures {
            accuracy,
            recalls: classes.map(|class| metrics::recall(outputs.view(), data.labels(), class)).collect(),
            auc: metrics::roc_auc(outputs.view(), data.labels()),
        })
    }

    /// The digest of the parameters.
    pub fn digest(&self) -> Digest {
        Digest::of(&self.checkpoint())
    }
}

fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// The values of stored parameters or moments.
pub(crate) fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

const OPTIMIZER_DOMAIN: &str = "eranos/optimizer/v1";
const OPTIMIZER_DOMAIN_V2: &str = "eranos/optimizer/v2";
