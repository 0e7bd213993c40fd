//! LSTM (Hochreiter and Schmidhuber 1997; with the forget gate of Gers, Schmidhuber and Cummins 2000): `[batch_size,
//! time steps, inputs]` to `[batch_size, units]`, the last step's output, or with `return_sequences` to `[batch_size, time
//! steps, units]`. Kernel `[inputs, 4 units]`, recurrent kernel `[units, 4 units]`, bias `[4 units]`, the gates in Keras'
//! order i, f, c, o:
//!
//! z = x_t kernel + bias + h_{t-1} recurrent_kernel; i, f, o = sigmoid of their z, c = tanh of its z;
//! cell_t = f cell_{t-1} + i c; h_t = o tanh(cell_t).
//!
//! A masked step hands cell and output on as they are. What the inputs contribute is one matrix product over all time
//! steps, as are the gradients of both kernels and of the inputs; only the recurrence goes step by step.

use eranos_base::Entropy;

use super::{Backward, Forward, Layer, LayerParameters, Scratch, dense::sum_rows};
use crate::{
    Buffer, initializers,
    kernel::{self, Rows, Start},
};

/// A long short-term memory.
#[derive(Debug)]
pub(super) struct Lstm {
    pub(super) n_steps: usize,
    pub(super) n_inputs: usize,
    pub(super) units: usize,
    pub(super) return_sequences: bool,
    pub(super) use_bias: bool,
}

/// The parts of its memory; the rows of `cells` and `hidden` are one more than time steps, the first zero and staying it.
struct Parts<'a> {
    /// What the gates are computed from, then their values: `[time steps, 4 units]`.
    gates: &'a mut [f32],
    /// The gradients with respect to what they are computed from.
    gates_gradient: &'a mut [f32],
    /// `[time steps + 1, units]`.
    cells: &'a mut [f32],
    /// tanh of the cells: `[time steps, units]`.
    cells_tanh: &'a mut [f32],
    /// `[time steps + 1, units]`.
    hidden: &'a mut [f32],
    hidden_gradient: &'a mut [f32],
    cell_gradient: &'a mut [f32],
}

/// Values of [`Parts`] for each time step and unit, with the step before the first and the gradients rounded up.
pub(crate) const WORKING_VALUES: u64 = 4 + 4 + 1 + 1 + 1;

impl Lstm {
    fn kernel_len(&self) -> usize {
        self.n_inputs * 4 * self.units
    }

    fn recurrent_len(&self) -> usize {
        self.units * 4 * self.units
    }

    fn part_sizes(&self) -> [usize; 7] {
        let (steps, units) = (self.n_steps, self.units);
        [4 * steps, 4 * steps, steps + 1, steps, steps + 1, 1, 1]
            .map(|rows| (rows * units).next_multiple_of(kernel::LANES))
    }

    /// Cuts `memory` into its parts, each beginning at a cache line.
    fn split<'a>(&self, memory: &'a mut [f32]) -> Parts<'a> {
        let (steps, units) = (self.n_steps, self.units);
        let mut rest = memory;
        let mut part = |(len, used): (usize, usize)| {
            let (part, after) = std::mem::take(&mut rest).split_at_mut(len);
            rest = after;
            &mut part[..used * units]
        };
        let [a, b, c, d, e, f, g] = self.part_sizes();
        Parts {
            gates: part((a, 4 * steps)),
            gates_gradient: part((b, 4 * steps)),
            cells: part((c, steps + 1)),
            cells_tanh: part((d, steps)),
            hidden: part((e, steps + 1)),
            hidden_gradient: part((f, 1)),
            cell_gradient: part((g, 1)),
        }
    }

    fn cut<'a>(&self, parameters: &'a [f32]) -> (&'a [f32], &'a [f32], &'a [f32]) {
        let (kernel, rest) = parameters.split_at(self.kernel_len());
        let (recurrent, bias) = rest.split_at(self.recurrent_len());
        (kernel, recurrent, bias)
    }

    fn forward_one(&self, parameters: &LayerParameters, input: &[f32], ids: Option<&[f32]>, parts: &mut Parts<'_>) {
        let (kernel, recurrent, bias) = self.cut(&parameters.flat);
        let (units, width) = (self.units, 4 * self.units);
        let start = if self.use_bias { Start::Row(bias) } else { Start::Zero };
        row_products(input, self.n_inputs, kernel, width, start, parts.gates);
        for t in 0..self.n_steps {
            let (before, after) = parts.hidden.split_at_mut((t + 1) * units);
            let (hidden_before, hidden) = (&before[t * units..], &mut after[..units]);
            let (before, after) = parts.cells.split_at_mut((t + 1) * units);
            let (cell_before, cell) = (&before[t * units..], &mut after[..units]);
            if is_masked(ids, t) {
                hidden.copy_from_slice(hidden_before);
                cell.copy_from_slice(cell_before);
                continue;
            }
            let gates = &mut parts.gates[t * width..(t + 1) * width];
            row_products(hidden_before, units, recurrent, width, Start::Add, gates);
            let cell_tanh = &mut parts.cells_tanh[t * units..(t + 1) * units];
            kernel::lstm_step(gates, cell_before, cell, cell_tanh, hidden);
        }
    }
}

impl Layer for Lstm {
    fn output_len(&self) -> usize {
        self.units * if self.return_sequences { self.n_steps } else { 1 }
    }

    fn n_parameters(&self) -> usize {
        self.kernel_len() + self.recurrent_len() + if self.use_bias { 4 * self.units } else { 0 }
    }

    fn scratch(&self) -> Scratch {
        Scratch {
            floats: Buffer::zeroed(self.part_sizes().iter().sum()),
            indices: vec![0; self.n_inputs.max(self.units)],
        }
    }

    fn initialise(&self, parameters: &mut [f32], entropy: &mut dyn Entropy) {
        let (kernel, rest) = parameters.split_at_mut(self.kernel_len());
        let (recurrent, bias) = rest.split_at_mut(self.recurrent_len());
        initializers::glorot_uniform(kernel, self.n_inputs, 4 * self.units, entropy);
        initializers::orthogonal(recurrent, self.units, 4 * self.units, entropy);
        for (gate, bias) in bias.chunks_exact_mut(self.units).enumerate() {
            // The forget gate begins open (Jozefowicz, Zaremba and Sutskever 2015; Keras' `unit_forget_bias`).
            bias.fill(if gate == 1 { 1.0 } else { 0.0 });
        }
    }

    fn prepare(&self, parameters: &[f32]) -> LayerParameters {
        // The way back reads both kernels by columns.
        let (kernel, recurrent, _) = self.cut(parameters);
        let mut derived = Buffer::zeroed(self.kernel_len() + self.recurrent_len());
        let (kernel_to, recurrent_to) = derived.split_at_mut(self.kernel_len());
        kernel::transpose(kernel, self.n_inputs, kernel_to);
        kernel::transpose(recurrent, self.units, recurrent_to);
        LayerParameters { flat: Buffer::from(parameters), derived }
    }

    fn forward(&self, parameters: &LayerParameters, pass: Forward<'_>, scratch: &mut Scratch) {
        let mut parts = self.split(&mut scratch.floats);
        let inputs = pass.input.chunks_exact(self.n_steps * self.n_inputs);
        let outputs = pass.output.chunks_exact_mut(self.output_len());
        for (record, (input, output)) in inputs.zip(outputs).enumerate().take(pass.n_records) {
            self.forward_one(parameters, input, pass.mask.map(|mask| mask.ids(record)), &mut parts);
            output.copy_from_slice(&parts.hidden[parts.hidden.len() - output.len()..]);
        }
    }

    fn backward(&self, parameters: &LayerParameters, pass: Backward<'_>, scratch: &mut Scratch) {
        let parts = self.split(&mut scratch.floats);
        let (units, width) = (self.units, 4 * self.units);
        let ids = pass.mask.map(|mask| mask.ids(0));
        let (kernel_transposed, recurrent_transposed) = parameters.derived.split_at(self.kernel_len());
        parts.hidden_gradient.fill(0.0);
        parts.cell_gradient.fill(0.0);
        for t in (0..self.n_steps).rev() {
            if self.return_sequences {
                add(parts.hidden_gradient, &pass.output_gradient[t * units..(t + 1) * units]);
            } else if t + 1 == self.n_steps {
                parts.hidden_gradient.copy_from_slice(pass.output_gradient);
            }
            let gates_gradient = &mut parts.gates_gradient[t * width..(t + 1) * width];
            if is_masked(ids, t) {
                gates_gradient.fill(0.0);
                continue;
            }
            kernel::lstm_step_backward(
                &parts.gates[t * width..(t + 1) * width],
                &parts.cells[t * units..(t + 1) * units],
                &parts.cells_tanh[t * units..(t + 1) * units],
                parts.hidden_gradient,
                parts.cell_gradient,
                gates_gradient,
            );
            if t > 0 {
                let start = Start::Zero;
                row_products(gates_gradient, width, recurrent_transposed, units, start, parts.hidden_gradient);
            }
        }
        let (kernel_gradient, rest) = pass.gradient.split_at_mut(self.kernel_len());
        let (recurrent_gradient, bias_gradient) = rest.split_at_mut(self.recurrent_len());
        let listed = &mut scratch.indices;
        let hidden_before = &parts.hidden[..self.n_steps * units];
        column_products(pass.input, self.n_inputs, parts.gates_gradient, width, listed, kernel_gradient);
        column_products(hidden_before, units, parts.gates_gradient, width, listed, recurrent_gradient);
        sum_rows(parts.gates_gradient, bias_gradient);
        if let Some(input_gradient) = pass.input_gradient {
            let start = Start::Zero;
            row_products(parts.gates_gradient, width, kernel_transposed, self.n_inputs, start, input_gradient);
        }
    }
}

/// Whether time step `t` does not count.
fn is_masked(ids: Option<&[f32]>, t: usize) -> bool {
    ids.is_some_and(|ids| ids[t] == 0.0)
}

fn add(sum: &mut [f32], values: &[f32]) {
    for (sum, x) in sum.iter_mut().zip(values) {
        *sum += x;
    }
}

/// out = start + rows b, for rows of `k` values and a `b` of `n` columns.
fn row_products(rows: &[f32], k: usize, b: &[f32], n: usize, start: Start<'_>, out: &mut [f32]) {
    let mut offsets = [0; ROWS_AT_ONCE];
    for (rows, out) in rows.chunks(ROWS_AT_ONCE * k).zip(out.chunks_mut(ROWS_AT_ONCE * n)) {
        let offsets = &mut offsets[..rows.len() / k];
        for (i, offset) in offsets.iter_mut().enumerate() {
            *offset = (i * k) as u32;
        }
        let rows = Rows { data: rows, offsets, n_segments: 1, segment_len: k, segment_stride: 0, stride: 1 };
        kernel::gemm(rows, b, n, start, out);
    }
}

/// out\[i\] = sum over the rows of `rows`, in their order, of value i times the row of `b`.
fn column_products(rows: &[f32], k: usize, b: &[f32], n: usize, listed: &mut [u32], out: &mut [f32]) {
    let offsets = &mut listed[..k];
    for (i, offset) in offsets.iter_mut().enumerate() {
        *offset = i as u32;
    }
    let (segment_len, stride) = (rows.len() / k, k);
    let columns = Rows { data: rows, offsets, n_segments: 1, segment_len, segment_stride: 0, stride };
    kernel::gemm(columns, b, n, Start::Zero, out);
}

/// Rows of one product.
const ROWS_AT_ONCE: usize = 48;
