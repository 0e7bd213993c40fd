//! LSTM (Hochreiter and Schmidhuber 1997; with the forget gate of Gers, Schmidhuber and Cummins 2000): `[batch_size,
//! time steps, inputs]` to `[batch_size, units]`, the last step's output, or with `return_sequences` to `[batch_size, time
//! steps, units]`. Kernel `[inputs, 4 units]`, recurrent kernel `[units, 4 units]`, bias `[4 units]`, the gates in Keras'
//! order i, f, c, o:
//!
//! z = x_t kernel + bias + h_{t-1} recurrent_kernel; i, f, o = sigmoid of their z, c = tanh of its z;
//! cell_t = f cell_{t-1} + i c; h_t = o tanh(cell_t).
//!
//! A masked step hands cell and output on as they are. What the inputs contribute is one matrix product over all time
//! steps, as are the gradients of both kernels and of the inputs; only the recurrence goes step by step, all records of a
//! chunk at once: its own values lie time step by time step, `[time steps, n_records, ..]`.

use std::ops::Range;

use eranos_base::Entropy;

use super::{
    Backward, Forward, Layer, LayerParameters, Mask, Products, Scratch, ScratchLen,
    products::{self, Order, Strided, row_products},
};
use crate::{
    initializers,
    kernel::{self, Start},
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

/// The parts of its memory, n records in each row.
struct Parts<'a> {
    /// What the gates are computed from, then their values: `[time steps, n, 4 units]`.
    gates: &'a mut [f32],
    /// The gradients with respect to what they are computed from.
    gates_gradient: &'a mut [f32],
    /// `[time steps + 1, n, units]`, the first row zero.
    cells: &'a mut [f32],
    /// tanh of the cells: `[time steps, n, units]`.
    cells_tanh: &'a mut [f32],
    /// `[time steps + 1, n, units]`, the first row zero.
    hidden: &'a mut [f32],
    hidden_gradient: &'a mut [f32],
    cell_gradient: &'a mut [f32],
    /// One record's `gates_gradient`: `[time steps, 4 units]`.
    gathered: &'a mut [f32],
    /// What the norms take: records' gradients, or inner products.
    norms: &'a mut [f32],
}

/// Values of [`Parts`], but for the norms', for each time step and unit; the step before the first and the gradients
/// rounded up.
pub(crate) const WORKING_VALUES: u64 = 4 + 4 + 1 + 1 + 1 + 4;

impl Lstm {
    fn kernel_len(&self) -> usize {
        self.n_inputs * 4 * self.units
    }

    fn recurrent_len(&self) -> usize {
        self.units * 4 * self.units
    }

    /// Whether each record's gradient is kept for its norm, where it is small for the number of time steps.
    fn keeps_gradients(&self) -> bool {
        !products::is_gram_smaller(self.n_steps, self.n_inputs + self.units, 4 * self.units)
    }

    /// Values of each part for `n_records`.
    fn part_sizes(&self, n_records: usize) -> [usize; 9] {
        let (steps, units) = (self.n_steps, self.units);
        let row = n_records * units;
        let norms = if self.keeps_gradients() {
            n_records * self.n_parameters()
        } else {
            products::gram_memory(steps, self.n_inputs.max(4 * units))
        };
        let (gates, hidden) = (4 * steps * row, (steps + 1) * row);
        [gates, gates, hidden, steps * row, hidden, row, row, 4 * steps * units, norms]
    }

    /// Cuts memory made for `n_records_max` into its parts, each beginning at a cache line, for `n_records`.
    fn split<'a>(&self, memory: &'a mut [f32], n_records_max: usize, n_records: usize) -> Parts<'a> {
        let sizes = self.part_sizes(n_records_max).into_iter().zip(self.part_sizes(n_records));
        let mut rest = memory;
        let mut parts = sizes.map(|(len, used)| {
            let (part, after) = std::mem::take(&mut rest).split_at_mut(len.next_multiple_of(kernel::LANES));
            rest = after;
            &mut part[..used]
        });
        let mut next = || parts.next().unwrap_or_default();
        Parts {
            gates: next(),
            gates_gradient: next(),
            cells: next(),
            cells_tanh: next(),
            hidden: next(),
            hidden_gradient: next(),
            cell_gradient: next(),
            gathered: next(),
            norms: next(),
        }
    }

    fn cut<'a>(&self, parameters: &'a [f32]) -> (&'a [f32], &'a [f32], &'a [f32]) {
        let (kernel, rest) = parameters.split_at(self.kernel_len());
        let (recurrent, bias) = rest.split_at(self.recurrent_len());
        (kernel, recurrent, bias)
    }

    /// In which order the rows of inputs `[n, time steps, inputs]` are those of the gates, time step by time step.
    fn input_order(&self, n_records: usize) -> Order {
        if n_records == 1 {
            return Order { n_segments: 1, segment_stride: 0, segment_len: self.n_steps, stride: self.n_inputs };
        }
        let stride = self.n_steps * self.n_inputs;
        Order { n_segments: self.n_steps, segment_stride: self.n_inputs, segment_len: n_records, stride }
    }

    /// Calls `each` with the neighbouring records, as many as possible, for whom time step `t` counts, and with those for
    /// whom it does not.
    fn for_each_run(
        &self,
        mask: Option<Mask<'_>>,
        n_records: usize,
        t: usize,
        mut each: impl FnMut(Range<usize>, bool),
    ) {
        let is_masked = |record: usize| mask.is_some_and(|mask| mask.ids(record)[t] == 0.0);
        let mut start = 0;
        for end in 1..=n_records {
            if end == n_records || is_masked(end) != is_masked(start) {
                each(start..end, is_masked(start));
                start = end;
            }
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

    fn scratch_len(&self, n_records: usize) -> ScratchLen {
        let floats = self.part_sizes(n_records).iter().map(|len| len.next_multiple_of(kernel::LANES)).sum();
        ScratchLen { floats, indices: self.n_inputs.max(self.units) }
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

    fn derived_len(&self) -> usize {
        self.kernel_len() + self.recurrent_len()
    }

    fn derive(&self, parameters: &[f32], derived: &mut [f32]) {
        // The way back reads both kernels by columns.
        let (kernel, recurrent, _) = self.cut(parameters);
        let (kernel_to, recurrent_to) = derived.split_at_mut(self.kernel_len());
        kernel::transpose(kernel, self.n_inputs, kernel_to);
        kernel::transpose(recurrent, self.units, recurrent_to);
    }

    fn forward(&self, parameters: &LayerParameters, pass: Forward<'_>, scratch: &mut Scratch) {
        let Forward { n_records, input, output, mask, .. } = pass;
        let parts = self.split(&mut scratch.floats, scratch.n_records, n_records);
        let (kernel, recurrent, bias) = self.cut(&parameters.flat);
        let (steps, units, width, k) = (self.n_steps, self.units, 4 * self.units, self.n_inputs);
        let start = if self.use_bias { Start::Row(bias) } else { Start::Zero };
        let place = |row: usize| (row % n_records * steps + row / n_records) * k;
        row_products(input, steps * n_records, place, k, kernel, width, start, parts.gates);
        parts.hidden[..n_records * units].fill(0.0);
        parts.cells[..n_records * units].fill(0.0);
        for t in 0..steps {
            let (before, hidden) = parts.hidden.split_at_mut((t + 1) * n_records * units);
            let hidden_before = &before[t * n_records * units..];
            let (before, cells) = parts.cells.split_at_mut((t + 1) * n_records * units);
            let cells_before = &before[t * n_records * units..];
            let gates = &mut parts.gates[t * n_records * width..(t + 1) * n_records * width];
            let cells_tanh = &mut parts.cells_tanh[t * n_records * units..(t + 1) * n_records * units];
            self.for_each_run(mask, n_records, t, |records, is_masked| {
                let (values, wide) = (records.start * units..records.end * units, records.start * width..);
                let hidden = &mut hidden[values.clone()];
                let (hidden_before, cells_before) = (&hidden_before[values.clone()], &cells_before[values.clone()]);
                if is_masked {
                    hidden.copy_from_slice(hidden_before);
                    cells[values].copy_from_slice(cells_before);
                    return;
                }
                let gates = &mut gates[wide];
                row_products(hidden_before, records.len(), |i| i * units, units, recurrent, width, Start::Add, gates);
                let gates = gates.chunks_exact_mut(width).zip(cells_before.chunks_exact(units));
                let cells = cells[values.clone()].chunks_exact_mut(units);
                let cells = cells.zip(cells_tanh[values].chunks_exact_mut(units));
                for ((gates, before), ((cell, cell_tanh), hidden)) in
                    gates.zip(cells.zip(hidden.chunks_exact_mut(units)))
                {
                    kernel::lstm_step(gates, before, cell, cell_tanh, hidden);
                }
            });
        }
        let n_outputs = self.output_len() / units;
        for (row, output) in output.chunks_exact_mut(units).enumerate() {
            let (record, t) = (row / n_outputs, steps - n_outputs + row % n_outputs);
            output.copy_from_slice(&parts.hidden[((t + 1) * n_records + record) * units..][..units]);
        }
    }

    fn backward(&self, parameters: &LayerParameters, pass: Backward<'_>, scratch: &mut Scratch) {
        let Backward { n_records, output_gradient, input_gradient, mask, .. } = pass;
        let parts = self.split(&mut scratch.floats, scratch.n_records, n_records);
        let (steps, units, width) = (self.n_steps, self.units, 4 * self.units);
        let (kernel_transposed, recurrent_transposed) = parameters.derived.split_at(self.kernel_len());
        let (hidden_gradient, cell_gradient) = (parts.hidden_gradient, parts.cell_gradient);
        hidden_gradient.fill(0.0);
        cell_gradient.fill(0.0);
        for t in (0..steps).rev() {
            if self.return_sequences {
                for (record, sum) in hidden_gradient.chunks_exact_mut(units).enumerate() {
                    products::add(sum, &output_gradient[(record * steps + t) * units..][..units]);
                }
            } else if t + 1 == steps {
                hidden_gradient.copy_from_slice(output_gradient);
            }
            let gates = &parts.gates[t * n_records * width..(t + 1) * n_records * width];
            let gates_gradient = &mut parts.gates_gradient[t * n_records * width..(t + 1) * n_records * width];
            let cells_before = &parts.cells[t * n_records * units..(t + 1) * n_records * units];
            let cells_tanh = &parts.cells_tanh[t * n_records * units..(t + 1) * n_records * units];
            self.for_each_run(mask, n_records, t, |records, is_masked| {
                let gates_gradient = &mut gates_gradient[records.start * width..records.end * width];
                if is_masked {
                    gates_gradient.fill(0.0);
                    return;
                }
                for (gates_gradient, record) in gates_gradient.chunks_exact_mut(width).zip(records.clone()) {
                    let values = record * units..(record + 1) * units;
                    kernel::lstm_step_backward(
                        &gates[record * width..(record + 1) * width],
                        &cells_before[values.clone()],
                        &cells_tanh[values.clone()],
                        &hidden_gradient[values.clone()],
                        &mut cell_gradient[values],
                        gates_gradient,
                    );
                }
                if t > 0 {
                    let (n, out) = (records.len(), &mut hidden_gradient[records.start * units..records.end * units]);
                    let start = Start::Zero;
                    row_products(gates_gradient, n, |i| i * width, width, recurrent_transposed, units, start, out);
                }
            });
        }
        if let Some(input_gradient) = input_gradient {
            let place = |row: usize| (row % steps * n_records + row / steps) * width;
            let (k, n_rows, start) = (self.n_inputs, n_records * steps, Start::Zero);
            row_products(parts.gates_gradient, n_rows, place, width, kernel_transposed, k, start, input_gradient);
        }
    }

    fn add_squared_norms(&self, pass: Products<'_>, scratch: &mut Scratch, squared_norms: &mut [f64]) {
        let parts = self.split(&mut scratch.floats, scratch.n_records, pass.n_records);
        for (record, sum) in squared_norms.iter_mut().enumerate().take(pass.n_records) {
            let [inputs, hidden, gates] = self.operands(&pass, parts.hidden, parts.gates_gradient, record);
            if self.keeps_gradients() {
                let kept = &mut parts.norms[record * self.n_parameters()..(record + 1) * self.n_parameters()];
                self.products([inputs, hidden, gates], parts.gathered, &mut scratch.indices, kept);
                *sum += kernel::squared_norm(kept);
            } else {
                *sum += products::gram_squared_norm(&[inputs, hidden], self.use_bias, gates, parts.norms);
            }
        }
    }

    fn record_gradient(&self, pass: Products<'_>, record: usize, scratch: &mut Scratch, out: &mut [f32]) {
        let parts = self.split(&mut scratch.floats, scratch.n_records, pass.n_records);
        let operands = self.operands(&pass, parts.hidden, parts.gates_gradient, record);
        self.products(operands, parts.gathered, &mut scratch.indices, out);
    }

    fn gradient(&self, pass: Products<'_>, factors: Option<&[f32]>, scratch: &mut Scratch, out: &mut [f32]) {
        let Products { n_records, input, .. } = pass;
        let parts = self.split(&mut scratch.floats, scratch.n_records, n_records);
        let (steps, units, width, k) = (self.n_steps, self.units, 4 * self.units, self.n_inputs);
        if factors.is_some() && self.keeps_gradients() {
            products::sum_records(parts.norms, n_records, factors, out);
            return;
        }
        products::scale_records(parts.gates_gradient, factors, width);
        let (kernel_gradient, rest) = out.split_at_mut(self.kernel_len());
        let (recurrent_gradient, bias_gradient) = rest.split_at_mut(self.recurrent_len());
        let inputs = Strided::new(input, steps * n_records, k, k);
        let hidden = Strided::new(parts.hidden, steps * n_records, units, units);
        let listed = &mut scratch.indices;
        let order = self.input_order(n_records);
        inputs.column_products_in(order, parts.gates_gradient, width, listed, kernel_gradient);
        hidden.column_products(parts.gates_gradient, width, listed, recurrent_gradient);
        products::sum_rows(parts.gates_gradient, bias_gradient);
    }
}

impl Lstm {
    /// What one record's gradient is made of, a row a time step: its inputs, the outputs of the step before, and the
    /// gradients of the gates.
    fn operands<'a>(
        &self,
        pass: &Products<'a>,
        hidden: &'a [f32],
        gates_gradient: &'a [f32],
        record: usize,
    ) -> [Strided<'a>; 3] {
        let (n, steps, units, width, k) = (pass.n_records, self.n_steps, self.units, 4 * self.units, self.n_inputs);
        [
            Strided::new(&pass.input[record * steps * k..], steps, k, k),
            Strided::new(&hidden[record * units..], steps, units, n * units),
            Strided::new(&gates_gradient[record * width..], steps, width, n * width),
        ]
    }

    /// Writes the gradient that those are the factors of to `out`.
    fn products(
        &self,
        [inputs, hidden, gates]: [Strided<'_>; 3],
        gathered: &mut [f32],
        listed: &mut [u32],
        out: &mut [f32],
    ) {
        let (width, together) = (gates.len, gates.n_rows * gates.len);
        let gates = if gates.stride == width {
            &gates.data[..together]
        } else {
            gates.gather(gathered);
            &*gathered
        };
        let (kernel_gradient, rest) = out.split_at_mut(self.kernel_len());
        let (recurrent_gradient, bias_gradient) = rest.split_at_mut(self.recurrent_len());
        inputs.column_products(gates, width, listed, kernel_gradient);
        hidden.column_products(gates, width, listed, recurrent_gradient);
        products::sum_rows(gates, bias_gradient);
    }
}
