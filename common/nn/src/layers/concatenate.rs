//! Concatenate: several inputs `[batch_size, .., n_k, ..]`, equal but for one axis, to `[batch_size, .., sum n_k, ..]`,
//! one behind the other along that axis.

use super::{Backward, Forward, Layer, LayerParameters, Scratch};

/// Several inputs as one.
#[derive(Debug)]
pub(super) struct Concatenate {
    /// Rows of one record: the product of all axes before the one that grows.
    n_rows: usize,
    /// Where each input's values lie in a row, and at the end the length of a row.
    bounds: Vec<usize>,
}

impl Concatenate {
    /// `inputs` along `axis`, the batch not counted.
    pub(super) fn new(inputs: &[&[usize]], axis: usize) -> Self {
        let n_rows = inputs.first().map_or(1, |shape| shape[..axis].iter().product());
        let mut bounds = vec![0];
        for shape in inputs {
            bounds.push(bounds[bounds.len() - 1] + shape[axis..].iter().product::<usize>());
        }
        Self { n_rows, bounds }
    }

    fn row_len(&self) -> usize {
        self.bounds[self.bounds.len() - 1]
    }
}

impl Layer for Concatenate {
    fn output_len(&self) -> usize {
        self.n_rows * self.row_len()
    }

    fn forward(&self, _: &LayerParameters, pass: Forward<'_>, _: &mut Scratch) {
        let (start, end) = (self.bounds[pass.part], self.bounds[pass.part + 1]);
        let rows = pass.output.chunks_exact_mut(self.row_len()).zip(pass.input.chunks_exact(end - start));
        for (output, input) in rows {
            output[start..end].copy_from_slice(input);
        }
    }

    fn backward(&self, _: &LayerParameters, pass: Backward<'_>, _: &mut Scratch) {
        let Some(input_gradient) = pass.input_gradient else { return };
        let (start, end) = (self.bounds[pass.part], self.bounds[pass.part + 1]);
        let rows = pass.output_gradient.chunks_exact(self.row_len()).zip(input_gradient.chunks_exact_mut(end - start));
        for (output_gradient, input_gradient) in rows {
            input_gradient.copy_from_slice(&output_gradient[start..end]);
        }
    }
}
