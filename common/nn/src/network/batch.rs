//! The fast path: the gradient of a batch, for training without a claim of privacy.
//!
//! A batch is cut into chunks of [`Network::chunk_len`] records, a number that depends on the model alone. Each chunk's
//! gradient is computed by itself ([`Network::chunk_gradient`]), in a buffer of its own, and the buffers are added in
//! order of the chunks ([`Gradient::add_to`]): the caller may spread the chunks over its threads as it likes, and the bits of
//! the sum stay the same. [`Network::batch_gradient`] does it on one thread.
//!
//! Within a chunk the way back has two phases. The first computes the gradients with respect to what all layers put
//! out, and each layer's share of the records' squared norms; that gives every record its factor, min(1, C / norm). The
//! second multiplies each layer's inputs with the gradients of its outputs, scaled by the factors, all records in one
//! product: no gradient of a single record need ever exist (Lee and Kifer 2021, "Scaling up differentially private deep
//! learning with fast per-example gradient clipping"). Where every record has the same factor, the loss is scaled by it.
//!
//! Here values of many records enter one sum, so that a record's share in it is rounded by the others: the sensitivity
//! that privacy accounting speaks of holds exactly only for [`Network::record_gradient`], which these gradients agree
//! with up to rounding.

use super::{Network, Prepared, Record, Records, Workspace, expect_len};
use crate::{Gradient, NnError, Target, kernel, layers::N_RECORDS_MAX};

/// What the gradient of each record of a batch is multiplied with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Weight {
    /// The same for all: 1 / B for the mean over B records.
    Equal(f32),
    /// min(1, C / norm), so that no record's share has an L2 norm above C.
    Clip {
        /// C.
        l2_clip_norm: f64,
    },
}

/// What is found out about a record on the way.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Outcome {
    /// Its loss.
    pub loss: f32,
    /// Whether its class had the largest output, the first among equals; of a single output, whether that lay on the
    /// class's side of one half. Never with a target that is no class.
    pub is_right: bool,
    /// The L2 norm of its gradient, where that is clipped.
    pub norm: Option<f64>,
}

/// A chunk's records, one behind the other.
#[derive(Debug, Default)]
pub(super) struct Memory {
    values: Vec<f32>,
    dropout_keys: Vec<u64>,
}

impl Memory {
    /// Puts `records` there; their keys too, where the network drops something.
    pub(super) fn hold(&mut self, network: &Network, records: &[(Record<'_>, Target<'_>)]) -> Records<'_> {
        self.values.clear();
        self.dropout_keys.clear();
        for (record, _) in records {
            self.values.extend_from_slice(record.values);
            self.dropout_keys.extend(record.dropout_key.filter(|_| network.has_dropout()));
        }
        Records { values: &self.values, n: records.len(), dropout_keys: &self.dropout_keys }
    }
}

impl Network {
    /// Most records of a chunk, the number that a batch is cut by.
    pub fn chunk_len(&self) -> usize {
        self.chunk_len
    }

    /// Writes the weighted sum of the gradients of `records` to `out`, one chunk after the other on this thread; `aside`
    /// is as long as `out`. Writes what is found out about each record to `outcomes`.
    ///
    /// # Errors
    /// As [`Network::chunk_gradient`].
    #[expect(clippy::too_many_arguments, reason = "memory of the caller's, so that nothing is allocated")]
    pub fn batch_gradient(
        &self,
        prepared: &Prepared,
        records: &[(Record<'_>, Target<'_>)],
        weight: Weight,
        workspace: &mut Workspace,
        aside: &mut Gradient,
        outcomes: &mut [Outcome],
        out: &mut [f32],
    ) -> Result<(), NnError> {
        expect_len("gradient", out.len(), self.n_parameters())?;
        expect_len("outcomes", outcomes.len(), records.len())?;
        out.fill(0.0);
        for (records, outcomes) in records.chunks(self.chunk_len).zip(outcomes.chunks_mut(self.chunk_len)) {
            self.chunk_gradient(prepared, records, weight, workspace, outcomes, aside)?;
            aside.add_to(0, out);
        }
        Ok(())
    }

    /// Writes the weighted sum of the gradients of `records`, one chunk, to `out`, and what is found out about each record to
    /// `outcomes`.
    ///
    /// Both are functions of the parameters, the records with their keys and targets, and the weight, bit for bit. Nothing
    /// of what `out` held before is left; after an error it holds nothing of use.
    ///
    /// # Errors
    /// If there are more than [`Network::chunk_len`] records, a slice has the wrong length, a target does not fit the
    /// loss, a key for Dropout is missing, the clip norm is not positive, or `prepared` or `workspace` is of another
    /// network. [`NnError::NonFinite`] names the layer where a NaN or an infinity comes from.
    pub fn chunk_gradient(
        &self,
        prepared: &Prepared,
        records: &[(Record<'_>, Target<'_>)],
        weight: Weight,
        workspace: &mut Workspace,
        outcomes: &mut [Outcome],
        out: &mut Gradient,
    ) -> Result<(), NnError> {
        let overflown = self.chunk_gradient_unchecked(prepared, records, weight, workspace, outcomes, out)?;
        if overflown.is_none() && outcomes.iter().all(|outcome| outcome.loss.is_finite()) {
            return Ok(());
        }
        let mut losses = [0.0; N_RECORDS_MAX];
        losses.iter_mut().zip(&*outcomes).for_each(|(loss, outcome)| *loss = outcome.loss);
        let memory = std::mem::take(&mut workspace.batch);
        let found = self.check_finite(prepared, &memory.values, records.len(), &losses, workspace, out);
        workspace.batch = memory;
        found?;
        // All values are finite, but inner products of them are not.
        let index = self.steps[overflown.unwrap_or_default()].index;
        Err(NnError::NonFinite { layer: self.spec.layers()[index].name.clone(), what: "norm of the gradient" })
    }

    /// [`Network::chunk_gradient`] without a look for the source of what is not finite: a NaN or an infinity goes on to
    /// losses and gradient, so that the work is the same whatever the values. Gives the step at which a norm overflowed.
    pub(crate) fn chunk_gradient_unchecked(
        &self,
        prepared: &Prepared,
        records: &[(Record<'_>, Target<'_>)],
        weight: Weight,
        workspace: &mut Workspace,
        outcomes: &mut [Outcome],
        out: &mut Gradient,
    ) -> Result<Option<usize>, NnError> {
        self.check_call(prepared, workspace, Some(out))?;
        expect_len("outcomes", outcomes.len(), records.len())?;
        if records.len() > self.chunk_len {
            return Err(NnError::Length { what: "chunk", found: records.len(), expected: self.chunk_len });
        }
        if let Weight::Clip { l2_clip_norm } = weight
            && (l2_clip_norm.is_nan() || l2_clip_norm <= 0.0)
        {
            return Err(NnError::ClipNorm { l2_clip_norm: l2_clip_norm.to_string() });
        }
        records.iter().try_for_each(|&(record, target)| self.check_example(record, target))?;
        if records.is_empty() {
            out.begin();
            out.values_mut(0..self.n_parameters()).fill(0.0);
            return Ok(None);
        }
        let mut memory = std::mem::take(&mut workspace.batch);
        let chunk = memory.hold(self, records);
        for i in 0..self.steps.len() {
            self.step_forward(i, prepared, chunk, workspace);
        }
        self.copy_logits(chunk, workspace);
        let logits = workspace.logits.chunks_exact_mut(self.n_outputs);
        for ((logits, &(_, target)), outcome) in logits.zip(records).zip(&mut *outcomes) {
            *outcome = self.outcome(logits, target);
        }
        let overflown = self.two_phases(prepared, chunk, weight, workspace, outcomes, out);
        workspace.batch = memory;
        Ok(overflown)
    }

    /// The way back, from the gradients with respect to the logits. Gives the step at which a norm overflowed.
    fn two_phases(
        &self,
        prepared: &Prepared,
        chunk: Records<'_>,
        weight: Weight,
        workspace: &mut Workspace,
        outcomes: &mut [Outcome],
        out: &mut Gradient,
    ) -> Option<usize> {
        out.begin();
        let logits = &mut workspace.logits[..chunk.n * self.n_outputs];
        if let Weight::Equal(factor) = weight {
            logits.iter_mut().for_each(|x| *x *= factor);
        }
        if let Some(last) = workspace.gradients.last_mut() {
            last[..logits.len()].copy_from_slice(logits);
        }
        let mut overflown = None;
        match weight {
            Weight::Equal(_) => {
                for i in (0..self.steps.len()).rev() {
                    self.step_backward(i, prepared, chunk, workspace);
                    self.step_gradient(i, chunk, None, workspace, out);
                }
                self.touch(chunk, 0..chunk.n, workspace, out);
                let squared_norm: f64 = out.nonzero().map(kernel::squared_norm).sum();
                overflown = (!squared_norm.is_finite()).then_some(0);
            }
            Weight::Clip { l2_clip_norm } => {
                let mut squared_norms = [0.0; N_RECORDS_MAX];
                let squared_norms = &mut squared_norms[..chunk.n];
                for i in (0..self.steps.len()).rev() {
                    self.step_backward(i, prepared, chunk, workspace);
                    if let Some((layer, pass, scratch)) = self.products(i, chunk, workspace) {
                        layer.add_squared_norms(pass, scratch, squared_norms);
                    }
                    if overflown.is_none() && !squared_norms.iter().all(|norm| norm.is_finite()) {
                        overflown = Some(i);
                    }
                }
                let mut factors = [0.0; N_RECORDS_MAX];
                for ((outcome, squared_norm), factor) in outcomes.iter_mut().zip(squared_norms).zip(&mut factors) {
                    // Rounding may leave a norm found from inner products a little below zero.
                    let norm = if *squared_norm < 0.0 { 0.0 } else { squared_norm.sqrt() };
                    outcome.norm = Some(norm);
                    *factor = (l2_clip_norm / norm).min(1.0) as f32;
                }
                for i in 0..self.steps.len() {
                    self.step_gradient(i, chunk, Some(&factors[..chunk.n]), workspace, out);
                }
                self.touch(chunk, 0..chunk.n, workspace, out);
            }
        }
        overflown
    }
}
