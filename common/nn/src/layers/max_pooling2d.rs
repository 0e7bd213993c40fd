//! MaxPooling2D: `[batch_size, height, width, channels]` to `[batch_size, height', width', channels]`, the maximum of
//! each window; the gradient goes to the first maximum in row-major order. Padding counts as nothing at all.

use super::{Backward, Forward, Layer, LayerParameters, Scratch, ScratchLen};
use crate::{Padding, model::padding_before};

/// Pooling that stands alone; behind a convolution it usually runs with it.
#[derive(Debug)]
pub(super) struct MaxPooling2D {
    n_channels: usize,
    /// Columns of the input.
    width: usize,
    input_len: usize,
    /// The input rows of each row of windows: first, and one past the last. What lies beyond the edge is left out.
    down: Vec<(usize, usize)>,
    /// The input columns of each column of windows.
    across: Vec<(usize, usize)>,
}

impl MaxPooling2D {
    /// Pooling of an input of `[height, width, channels]`.
    pub(super) fn new(input: &[usize], pool_size: [u32; 2], strides: [u32; 2], padding: Padding) -> Self {
        let axis = |i: usize| {
            let (n, size, stride) = (input[i], pool_size[i] as usize, strides[i] as usize);
            let before = padding_before(n, size, stride, padding);
            let n_windows = match padding {
                Padding::Valid => (n - size) / stride + 1,
                Padding::Same => n.div_ceil(stride),
            };
            (0..n_windows)
                .map(|w| ((w * stride).saturating_sub(before), (w * stride + size - before).min(n)))
                .collect::<Vec<_>>()
        };
        let (n_channels, input_len) = (input[2], input.iter().product());
        Self { n_channels, width: input[1], input_len, down: axis(0), across: axis(1) }
    }
}

impl Layer for MaxPooling2D {
    fn output_len(&self) -> usize {
        self.down.len() * self.across.len() * self.n_channels
    }

    fn scratch_len(&self, n_records: usize) -> ScratchLen {
        ScratchLen { floats: 0, indices: n_records * self.output_len() }
    }

    fn forward(&self, _: &LayerParameters, pass: Forward<'_>, scratch: &mut Scratch) {
        let Forward { n_records, input, output, .. } = pass;
        let outputs =
            output.chunks_exact_mut(self.output_len()).zip(scratch.indices.chunks_exact_mut(self.output_len()));
        for (input, (output, choice)) in input.chunks_exact(self.input_len).zip(outputs).take(n_records) {
            let mut outputs = output.chunks_exact_mut(self.n_channels).zip(choice.chunks_exact_mut(self.n_channels));
            for &(top, bottom) in &self.down {
                // A row of windows has as many outputs as there are columns of them.
                for (&(left, right), (output, choice)) in self.across.iter().zip(&mut outputs) {
                    let positions = (top..bottom).flat_map(|y| (left..right).map(move |x| y * self.width + x));
                    self.max(input, positions, output, choice);
                }
            }
        }
    }

    fn backward(&self, _: &LayerParameters, pass: Backward<'_>, scratch: &mut Scratch) {
        let Some(input_gradient) = pass.input_gradient else { return };
        input_gradient.fill(0.0);
        let choices = scratch.indices.chunks_exact(self.output_len());
        let gradients = pass.output_gradient.chunks_exact(self.output_len()).zip(choices);
        for (input_gradient, (gradient, choice)) in input_gradient.chunks_exact_mut(self.input_len).zip(gradients) {
            for (i, (gradient, position)) in gradient.iter().zip(choice).enumerate() {
                input_gradient[*position as usize + i % self.n_channels] += gradient;
            }
        }
    }
}

impl MaxPooling2D {
    /// Writes the maximum of each channel over `positions`, the first of equal ones, and where its value lies. A NaN stays.
    fn max(&self, input: &[f32], positions: impl Iterator<Item = usize>, output: &mut [f32], choice: &mut [u32]) {
        for (n, position) in positions.enumerate() {
            let at = position * self.n_channels;
            let values = &input[at..at + self.n_channels];
            for ((best, choice), &value) in output.iter_mut().zip(choice.iter_mut()).zip(values) {
                if n == 0 || !best.is_nan() && (value > *best || value.is_nan()) {
                    (*best, *choice) = (value, at as u32);
                }
            }
        }
    }
}
