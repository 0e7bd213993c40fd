//! Activation: `[batch_size, ..]` to the same shape; relu, sigmoid and tanh on each value, softmax over the
//! last axis.

use super::{Backward, Forward, Layer, LayerParameters, Scratch};
use crate::{Activation, kernel, losses};

/// An activation that is a layer of its own.
#[derive(Debug)]
pub(super) struct ActivationLayer {
    pub(super) activation: Activation,
    /// Values of the last axis.
    pub(super) row_len: usize,
    /// Values of one record.
    pub(super) len: usize,
}

impl Layer for ActivationLayer {
    fn output_len(&self) -> usize {
        self.len
    }

    fn forward(&self, _: &LayerParameters, pass: Forward<'_>, _: &mut Scratch) {
        pass.output.copy_from_slice(pass.input);
        forward(self.activation, self.row_len, pass.output);
    }

    fn backward(&self, _: &LayerParameters, pass: Backward<'_>, _: &mut Scratch) {
        if let Some(input_gradient) = pass.input_gradient {
            backward(self.activation, self.row_len, pass.output, pass.output_gradient);
            input_gradient.copy_from_slice(pass.output_gradient);
        }
    }
}

/// Applies `activation` to `values` in their place, rows of `row_len`.
pub(super) fn forward(activation: Activation, row_len: usize, values: &mut [f32]) {
    match activation {
        Activation::Linear => {}
        Activation::Relu => kernel::relu(values),
        Activation::Sigmoid => kernel::sigmoid(values),
        Activation::Tanh => kernel::tanh(values),
        Activation::Softmax => values.chunks_exact_mut(row_len).for_each(losses::softmax),
    }
}

/// Turns the gradient with respect to `output` into the one with respect to what `activation` was applied to.
pub(super) fn backward(activation: Activation, row_len: usize, output: &[f32], gradient: &mut [f32]) {
    match activation {
        Activation::Linear => {}
        Activation::Relu => kernel::relu_backward(output, gradient),
        Activation::Sigmoid => output.iter().zip(gradient).for_each(|(&y, g)| *g *= y * (1.0 - y)),
        Activation::Tanh => output.iter().zip(gradient).for_each(|(&y, g)| *g *= 1.0 - y * y),
        Activation::Softmax => {
            for (y, g) in output.chunks_exact(row_len).zip(gradient.chunks_exact_mut(row_len)) {
                // dL/dz_j = y_j (g_j - sum_i g_i y_i).
                let mean: f64 = y.iter().zip(&*g).map(|(&y, &g)| f64::from(y) * f64::from(g)).sum();
                for (g, &y) in g.iter_mut().zip(y) {
                    *g = (f64::from(y) * (f64::from(*g) - mean)) as f32;
                }
            }
        }
    }
}
