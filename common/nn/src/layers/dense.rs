//! Dense: `[batch_size, .., inputs]` to `[batch_size, .., units]`, y = activation(x kernel + bias), kernel
//! `[inputs, units]`, bias `[units]`.
//!
//! The gradient of one record's kernel is the outer product of its input and its output's gradient (for an input of
//! rank 1: no sum at all).

use eranos_base::Entropy;

use super::{Backward, Forward, Layer, LayerParameters, Scratch, activation};
use crate::{
    Activation, Buffer, initializers,
    kernel::{self, Rows, Start},
};

/// A matrix product over the last axis.
#[derive(Debug)]
pub(super) struct Dense {
    /// Rows of one record: the product of all axes but the last.
    pub(super) n_rows: usize,
    pub(super) n_inputs: usize,
    pub(super) units: usize,
    pub(super) activation: Activation,
    pub(super) use_bias: bool,
}

impl Dense {
    fn kernel_len(&self) -> usize {
        self.n_inputs * self.units
    }
}

impl Layer for Dense {
    fn output_len(&self) -> usize {
        self.n_rows * self.units
    }

    fn n_parameters(&self) -> usize {
        self.kernel_len() + if self.use_bias { self.units } else { 0 }
    }

    fn scratch(&self) -> Scratch {
        Scratch { floats: Buffer::zeroed(0), indices: vec![0; ROWS_AT_ONCE.max(self.n_inputs)] }
    }

    fn initialise(&self, parameters: &mut [f32], entropy: &mut dyn Entropy) {
        let (kernel, bias) = parameters.split_at_mut(self.kernel_len());
        initializers::glorot_uniform(kernel, self.n_inputs, self.units, entropy);
        bias.fill(0.0);
    }

    fn forward(&self, parameters: &LayerParameters, pass: Forward<'_>, scratch: &mut Scratch) {
        let Forward { n_records, input, output, .. } = pass;
        let (kernel, bias) = parameters.flat.split_at(self.kernel_len());
        let start = if self.use_bias { Start::Row(bias) } else { Start::Zero };
        let mut rows = input.chunks(ROWS_AT_ONCE * self.n_inputs);
        for output in output[..n_records * self.output_len()].chunks_mut(ROWS_AT_ONCE * self.units) {
            let n_rows = output.len() / self.units;
            let data = rows.next().unwrap_or_default();
            let offsets = &mut scratch.indices[..n_rows];
            for (i, offset) in offsets.iter_mut().enumerate() {
                *offset = (i * self.n_inputs) as u32;
            }
            let (segment_len, stride) = (self.n_inputs, 1);
            let rows = Rows { data, offsets, n_segments: 1, segment_len, segment_stride: 0, stride };
            kernel::gemm(rows, kernel, self.units, start, output);
        }
        activation::forward(self.activation, self.units, output);
    }

    fn backward(&self, parameters: &LayerParameters, pass: Backward<'_>, scratch: &mut Scratch) {
        let Backward { input, output, output_gradient, input_gradient, gradient, .. } = pass;
        activation::backward(self.activation, self.units, output, output_gradient);
        let (kernel_gradient, bias_gradient) = gradient.split_at_mut(self.kernel_len());
        if self.n_rows == 1 {
            kernel::outer(input, output_gradient, kernel_gradient);
            bias_gradient.copy_from_slice(&output_gradient[..bias_gradient.len()]);
        } else {
            // Row i of the kernel's gradient is column i of the input times the output's gradient.
            let offsets = &mut scratch.indices[..self.n_inputs];
            for (i, offset) in offsets.iter_mut().enumerate() {
                *offset = i as u32;
            }
            let (segment_len, stride) = (self.n_rows, self.n_inputs);
            let columns = Rows { data: input, offsets, n_segments: 1, segment_len, segment_stride: 0, stride };
            kernel::gemm(columns, output_gradient, self.units, Start::Zero, kernel_gradient);
            sum_rows(output_gradient, bias_gradient);
        }
        if let Some(input_gradient) = input_gradient {
            let rows = output_gradient.chunks_exact(self.units).zip(input_gradient.chunks_exact_mut(self.n_inputs));
            for (output_gradient, input_gradient) in rows {
                kernel::dot_rows(&parameters.flat[..self.kernel_len()], output_gradient, input_gradient);
            }
        }
    }
}

/// Writes the sum of the rows of `rows` to `sum`, whose length is theirs; an empty `sum` wants none.
pub(super) fn sum_rows(rows: &[f32], sum: &mut [f32]) {
    if sum.is_empty() {
        return;
    }
    sum.fill(0.0);
    for row in rows.chunks_exact(sum.len()) {
        for (sum, x) in sum.iter_mut().zip(row) {
            *sum += x;
        }
    }
}

/// Rows of one product.
const ROWS_AT_ONCE: usize = 48;
