//! Dense: `[batch_size, .., inputs]` to `[batch_size, .., units]`, y = activation(x kernel + bias), kernel
//! `[inputs, units]`, bias `[units]`.
//!
//! The gradient of one record's kernel is the outer product of its input and its output's gradient (for an input of
//! rank 1: no sum at all), so that its squared norm is the product of theirs.

use eranos_base::Entropy;

use super::{
    Backward, Forward, Layer, LayerParameters, Products, Scratch, ScratchLen, activation,
    products::{self, Strided},
};
use crate::{
    Activation, initializers,
    kernel::{self, Start},
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

    /// Whether each record's gradient is kept for its norm, where it is small for the number of its rows.
    fn keeps_gradients(&self) -> bool {
        self.n_rows > 1 && !products::is_gram_smaller(self.n_rows, self.n_inputs, self.units)
    }
}

impl Layer for Dense {
    fn output_len(&self) -> usize {
        self.n_rows * self.units
    }

    fn n_parameters(&self) -> usize {
        self.kernel_len() + if self.use_bias { self.units } else { 0 }
    }

    fn scratch_len(&self, n_records: usize) -> ScratchLen {
        let floats = match (self.n_rows, self.keeps_gradients()) {
            (1, _) => 0,
            (_, true) => n_records * self.n_parameters(),
            (n, false) => products::gram_memory(n, self.n_inputs.max(self.units)),
        };
        ScratchLen { floats, indices: self.n_inputs }
    }

    fn initialise(&self, parameters: &mut [f32], entropy: &mut dyn Entropy) {
        let (kernel, bias) = parameters.split_at_mut(self.kernel_len());
        initializers::glorot_uniform(kernel, self.n_inputs, self.units, entropy);
        bias.fill(0.0);
    }

    fn derived_len(&self) -> usize {
        self.kernel_len()
    }

    fn derive(&self, parameters: &[f32], derived: &mut [f32]) {
        // The way back reads the kernel by columns.
        kernel::transpose(&parameters[..self.kernel_len()], self.n_inputs, derived);
    }

    fn forward(&self, parameters: &LayerParameters, pass: Forward<'_>, _: &mut Scratch) {
        let Forward { n_records, input, output, .. } = pass;
        let (kernel, bias) = parameters.flat.split_at(self.kernel_len());
        let start = if self.use_bias { Start::Row(bias) } else { Start::Zero };
        let (n_rows, k) = (n_records * self.n_rows, self.n_inputs);
        products::row_products(input, n_rows, |i| i * k, k, kernel, self.units, start, output);
        activation::forward(self.activation, self.units, output);
    }

    fn backward(&self, parameters: &LayerParameters, pass: Backward<'_>, _: &mut Scratch) {
        let Backward { n_records, output, output_gradient, input_gradient, .. } = pass;
        activation::backward(self.activation, self.units, output, output_gradient);
        let Some(input_gradient) = input_gradient else { return };
        let (n_rows, n, k) = (n_records * self.n_rows, self.n_inputs, self.units);
        products::row_products(
            output_gradient,
            n_rows,
            |i| i * k,
            k,
            &parameters.derived,
            n,
            Start::Zero,
            input_gradient,
        );
    }

    fn add_squared_norms(&self, pass: Products<'_>, scratch: &mut Scratch, squared_norms: &mut [f64]) {
        let (k, n) = (self.n_inputs, self.units);
        let records = pass.input.chunks_exact(self.n_rows * k).zip(pass.output_gradient.chunks_exact(self.n_rows * n));
        for (i, ((input, output_gradient), sum)) in records.zip(&mut *squared_norms).enumerate() {
            if self.n_rows == 1 {
                let squared_norm = kernel::squared_norm(output_gradient);
                let one = if self.use_bias { 1.0 } else { 0.0 };
                *sum += (kernel::squared_norm(input) + one) * squared_norm;
            } else if self.keeps_gradients() {
                let kept = &mut scratch.floats[i * self.n_parameters()..(i + 1) * self.n_parameters()];
                let (kernel_gradient, bias_gradient) = kept.split_at_mut(self.kernel_len());
                Strided::new(input, self.n_rows, k, k).column_products(
                    output_gradient,
                    n,
                    &mut scratch.indices,
                    kernel_gradient,
                );
                products::sum_rows(output_gradient, bias_gradient);
                *sum += kernel::squared_norm(kept);
            } else {
                let inputs = [Strided::new(input, self.n_rows, k, k)];
                let outputs = Strided::new(output_gradient, self.n_rows, n, n);
                *sum += products::gram_squared_norm(&inputs, self.use_bias, outputs, &mut scratch.floats);
            }
        }
    }

    fn gradient(&self, pass: Products<'_>, factors: Option<&[f32]>, scratch: &mut Scratch, out: &mut [f32]) {
        let Products { n_records, input, output_gradient } = pass;
        if factors.is_some() && self.keeps_gradients() {
            products::sum_records(&scratch.floats, n_records, factors, out);
            return;
        }
        products::scale_records(output_gradient, factors, self.output_len());
        let (kernel_gradient, bias_gradient) = out.split_at_mut(self.kernel_len());
        if n_records * self.n_rows == 1 {
            kernel::outer(input, output_gradient, kernel_gradient);
            bias_gradient.copy_from_slice(&output_gradient[..bias_gradient.len()]);
        } else {
            let (k, n) = (self.n_inputs, self.units);
            let rows = Strided::new(input, n_records * self.n_rows, k, k);
            rows.column_products(output_gradient, n, &mut scratch.indices, kernel_gradient);
            products::sum_rows(output_gradient, bias_gradient);
        }
    }
}
