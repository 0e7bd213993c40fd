//! Embedding: ids `[batch_size, ..]` to `[batch_size, .., output_dim]`, row `id` of the embeddings `[input_dim,
//! output_dim]` for each id. With `mask_zero` an id of 0 masks its time step for the layers behind that know masks.
//!
//! Of the gradient only the rows that were looked up are written. Rows of equal ids are summed in order of the ids, before
//! the norm too. An
//! id that is no whole number from 0 to input_dim - 1 has a row of NaN, which shows in the loss and in the output that
//! names this layer, and no gradient.

use std::ops::Range;

use eranos_base::Entropy;

use super::{Backward, Forward, Layer, LayerParameters, Products, Scratch, ScratchLen, products};
use crate::{initializers, kernel};

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
        is_id.then(|| id as usize * self.output_dim)
    }
}

impl Layer for Embedding {
    fn output_len(&self) -> usize {
        self.n_ids * self.output_dim
    }

    fn n_parameters(&self) -> usize {
        self.input_dim * self.output_dim
    }

    fn scratch_len(&self, _: usize) -> ScratchLen {
        ScratchLen { floats: self.output_dim, indices: self.n_ids }
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

    fn backward(&self, _: &LayerParameters, _: Backward<'_>, _: &mut Scratch) {}

    fn add_squared_norms(&self, pass: Products<'_>, scratch: &mut Scratch, squared_norms: &mut [f64]) {
        let records = pass.input.chunks_exact(self.n_ids).zip(pass.output_gradient.chunks_exact(self.output_len()));
        let (places, sum) = (&mut scratch.indices[..], &mut scratch.floats[..]);
        for ((ids, output_gradient), squared_norm) in records.zip(squared_norms) {
            // Equal ids next to each other, in order of their places.
            for (place, i) in places.iter_mut().zip(0..) {
                *place = i;
            }
            let id = |place: u32| self.row(ids[place as usize]);
            places.sort_unstable_by_key(|&place| (id(place), place));
            for equal in places.chunk_by(|&a, &b| id(a) == id(b)) {
                if id(equal[0]).is_none() {
                    continue;
                }
                sum.fill(0.0);
                for &place in equal {
                    products::add(sum, &output_gradient[place as usize * self.output_dim..][..self.output_dim]);
                }
                *squared_norm += kernel::squared_norm(sum);
            }
        }
    }

    fn gradient(&self, pass: Products<'_>, factors: Option<&[f32]>, _: &mut Scratch, out: &mut [f32]) {
        let Products { input, output_gradient, .. } = pass;
        products::scale_records(output_gradient, factors, self.output_len());
        for (&id, output_gradient) in input.iter().zip(output_gradient.chunks_exact(self.output_dim)) {
            let Some(at) = self.row(id) else { continue };
            products::add(&mut out[at..at + self.output_dim], output_gradient);
        }
    }

    fn rows(&self, input: &[f32], rows: &mut Vec<Range<usize>>) -> bool {
        rows.extend(input.iter().filter_map(|&id| self.row(id)).map(|at| at..at + self.output_dim));
        true
    }
}
