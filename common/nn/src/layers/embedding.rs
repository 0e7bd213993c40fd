//! Embedding: ids `[batch_size, ..]` to `[batch_size, .., output_dim]`, row `id` of the embeddings `[input_dim,
//! output_dim]` for each id. With `mask_zero` an id of 0 masks its time step for the layers behind that know masks.
//!
//! The gradient is dense: rows that were not looked up are zero, and rows of equal ids are summed in order of the ids. An
//! id that is no whole number from 0 to input_dim - 1 has a row of NaN, which shows in the loss and in the output that
//! names this layer, and no gradient.

use eranos_base::Entropy;

use super::{Backward, Forward, Layer, LayerParameters, Scratch};
use crate::initializers;

/// A table of rows by id.
#[derive(Debug)]
pub(super) struct Embedding {
    /// Ids of one record.
    pub(super) n_ids: usize,
    pub(super) input_dim: usize,
    pub(super) output_dim: usize,
}

impl Embedding {
    /// The row of `id`, if there is one.
    fn row(&self, id: f32) -> Option<usize> {
        // Every id below 2^24 is exact.
        let is_id = id >= 0.0 && id < self.input_dim as f32 && id.fract() == 0.0;
        is_id.then_some(id as usize * self.output_dim)
    }
}

impl Layer for Embedding {
    fn output_len(&self) -> usize {
        self.n_ids * self.output_dim
    }

    fn n_parameters(&self) -> usize {
        self.input_dim * self.output_dim
    }

    fn initialise(&self, parameters: &mut [f32], entropy: &mut dyn Entropy) {
        initializers::random_uniform(parameters, 0.05, entropy);
    }

    fn forward(&self, parameters: &LayerParameters, pass: Forward<'_>, _: &mut Scratch) {
        for (&id, output) in pass.input.iter().zip(pass.output.chunks_exact_mut(self.output_dim)) {
            match self.row(id) {
                Some(at) => output.copy_from_slice(&parameters.flat[at..at + self.output_dim]),
                None => output.fill(f32::NAN),
            }
        }
    }

    fn backward(&self, _: &LayerParameters, pass: Backward<'_>, _: &mut Scratch) {
        pass.gradient.fill(0.0);
        for (&id, output_gradient) in pass.input.iter().zip(pass.output_gradient.chunks_exact(self.output_dim)) {
            let Some(at) = self.row(id) else { continue };
            for (sum, x) in pass.gradient[at..at + self.output_dim].iter_mut().zip(output_gradient) {
                *sum += x;
            }
        }
    }
}
