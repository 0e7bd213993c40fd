//! MaxPooling2D: `[batch_size, height, width, channels]` to `[batch_size, height', width', channels]`, the maximum of
//! each window; the gradient goes to the first maximum in row-major order. Padding counts as nothing at all.

use super::{Backward, Forward, Layer, LayerParameters, Scratch};
use crate::{Buffer, Padding, model::padding_before};

/// Pooling that stands alone; behind a convolution it usually runs with it.
#[derive(Debug)]
pub(super) struct MaxPooling2D {
    n_channels: usize,
    input_len: usize,
    /// The input positions of each window, row-major; one beyond the edge is left out.
    windows: Vec<Vec<u32>>,
}

impl MaxPooling2D {
    /// Pooling of an input of `[height, width, channels]`.
    pub(super) fn new(input: &[usize], pool_size: [u32; 2], strides: [u32; 2], padding: Padding) -> Self {
        let (n_channels, input_len) = (input[2], input.iter().product());
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
        let (down, across) = (axis(0), axis(1));
        let mut windows = Vec::with_capacity(down.len() * across.len());
        for &(top, bottom) in &down {
            for &(left, right) in &across {
                let rows = (top..bottom).flat_map(|y| (left..right).map(move |x| y * input[1] + x));
                windows.push(rows.map(|position| (position * n_channels) as u32).collect());
            }
        }
        Self { n_channels, input_len, windows }
    }
}

impl Layer for MaxPooling2D {
    fn output_len(&self) -> usize {
        self.windows.len() * self.n_channels
    }

    fn scratch(&self) -> Scratch {
        Scratch { floats: Buffer::zeroed(0), indices: vec![0; self.output_len()] }
    }

    fn forward(&self, _: &LayerParameters, pass: Forward<'_>, scratch: &mut Scratch) {
        let Forward { n_records, input, output, .. } = pass;
        let records = input.chunks_exact(self.input_len).zip(output.chunks_exact_mut(self.output_len()));
        for (input, output) in records.take(n_records) {
            let outputs =
                output.chunks_exact_mut(self.n_channels).zip(scratch.indices.chunks_exact_mut(self.n_channels));
            for (window, (output, choice)) in self.windows.iter().zip(outputs) {
                output.fill(f32::NEG_INFINITY);
                choice.fill(window[0]);
                for &position in window {
                    let values = &input[position as usize..][..self.n_channels];
                    for ((best, choice), &value) in output.iter_mut().zip(choice.iter_mut()).zip(values) {
                        if !best.is_nan() && (value > *best || value.is_nan()) {
                            (*best, *choice) = (value, position);
                        }
                    }
                }
            }
        }
    }

    fn backward(&self, _: &LayerParameters, pass: Backward<'_>, scratch: &mut Scratch) {
        let Some(input_gradient) = pass.input_gradient else { return };
        input_gradient.fill(0.0);
        for (i, (gradient, position)) in pass.output_gradient.iter().zip(&scratch.indices).enumerate() {
            input_gradient[*position as usize + i % self.n_channels] += gradient;
        }
    }
}
