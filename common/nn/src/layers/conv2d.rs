//! Conv2D: `[batch_size, height, width, channels]` to `[batch_size, height', width', filters]`,
//! y = activation(bias + x * kernel), kernel `[kernel height, kernel width, channels, filters]`, bias `[filters]`; and,
//! in the same step, the MaxPooling2D behind it where its windows do not overlap.
//!
//! A patch of the input is a few runs of values that lie together, one run per row of the kernel, so the convolution
//! is a matrix product of patches, read where they lie, with the kernel as Keras stores it. With pooling the outputs
//! are computed window by window, relu after the maximum (the same, as relu is monotonic), and outputs that no window
//! covers are not computed. On the way back, one position of each window has a gradient at all.
//!
//! The way back keeps each record's gradient of the kernel: there are many more outputs than it takes for a norm found
//! without it to be cheaper, and what is walked to compute it is another list for every record.

use eranos_base::Entropy;

use super::{Backward, Forward, Layer, LayerParameters, Products, Scratch, ScratchLen, activation, products};
use crate::{
    Activation, LayerKind, Padding, initializers,
    kernel::{self, Choices, Patch, Rows, Start},
    model::padding_before,
};

/// A convolution, with or without the pooling after it.
#[derive(Debug)]
pub(super) struct Conv2D {
    activation: Activation,
    use_bias: bool,
    /// Height, width and channels of the input.
    input: [usize; 3],
    /// The same after padding; equal to `input` where there is none.
    padded: [usize; 3],
    /// Rows and columns of padding before the input.
    before: [usize; 2],
    kernel_size: [usize; 2],
    filters: usize,
    /// Where the patch of each output begins in the padded input: window by window where there is pooling, else
    /// row-major.
    bases: Vec<u32>,
    /// The same in row-major order of the outputs.
    grid: Vec<u32>,
    /// Which output of the grid each of `bases` is.
    places: Vec<u32>,
    /// Rows and columns of the grid: the outputs that are computed.
    grid_size: [usize; 2],
    strides: [usize; 2],
    /// Outputs of a pooling window: 1 without pooling.
    window: usize,
    /// Whether there is pooling.
    is_pooled: bool,
    /// Outputs whose patches are multiplied at once: whole windows.
    chunk_len: usize,
}

/// Height and width of the windows of `next`, if the convolution `kind` of an `input` can run it.
pub(super) fn fusable_pool(kind: &LayerKind, next: &LayerKind) -> Option<[usize; 2]> {
    match (kind, next) {
        (
            LayerKind::Conv2D { activation: Activation::Linear | Activation::Relu, .. },
            LayerKind::MaxPooling2D { pool_size, strides, padding: Padding::Valid },
        ) if pool_size == strides => Some(pool_size.map(|n| n as usize)),
        _ => None,
    }
}

impl Conv2D {
    /// The convolution `kind` of an input of `[height, width, channels]`, followed by pooling over windows of `pool`.
    pub(super) fn new(kind: &LayerKind, pool: Option<[usize; 2]>, input: &[usize]) -> Self {
        let LayerKind::Conv2D { filters, kernel_size, strides, padding, activation, use_bias } = *kind else {
            unreachable!("the caller has matched Conv2D");
        };
        let input = [input[0], input[1], input[2]];
        let (kernel_size, strides) = (kernel_size.map(|n| n as usize), strides.map(|n| n as usize));
        let (mut padded, mut before, mut outputs) = (input, [0; 2], [0; 2]);
        for axis in 0..2 {
            let (n, size, stride) = (input[axis], kernel_size[axis], strides[axis]);
            before[axis] = padding_before(n, size, stride, padding);
            match padding {
                Padding::Valid => outputs[axis] = (n - size) / stride + 1,
                Padding::Same => {
                    outputs[axis] = n.div_ceil(stride);
                    padded[axis] = n.max((outputs[axis] - 1) * stride + size);
                }
            }
        }
        let base = |y: usize, x: usize| ((y * strides[0] * padded[1] + x * strides[1]) * padded[2]) as u32;
        let [window_height, window_width] = pool.unwrap_or([1, 1]);
        let grid_size = [outputs[0] / window_height * window_height, outputs[1] / window_width * window_width];
        let grid = (0..grid_size[0]).flat_map(|y| (0..grid_size[1]).map(move |x| base(y, x))).collect::<Vec<_>>();
        let mut places = Vec::with_capacity(grid.len());
        for window_y in (0..grid_size[0]).step_by(window_height) {
            for window_x in (0..grid_size[1]).step_by(window_width) {
                for y in window_y..window_y + window_height {
                    places.extend((window_x..window_x + window_width).map(|x| (y * grid_size[1] + x) as u32));
                }
            }
        }
        let bases = places.iter().map(|&place| grid[place as usize]).collect::<Vec<_>>();
        let window = window_height * window_width;
        Self {
            activation,
            use_bias,
            input,
            padded,
            before,
            kernel_size,
            filters: filters as usize,
            chunk_len: OUTPUTS_AT_ONCE.next_multiple_of(window).min(bases.len()),
            bases,
            grid,
            places,
            grid_size,
            strides,
            window,
            is_pooled: pool.is_some(),
        }
    }

    fn is_padded(&self) -> bool {
        self.padded != self.input
    }

    fn padded_len(&self) -> usize {
        self.padded.iter().product()
    }

    /// Values of a patch.
    fn patch_len(&self) -> usize {
        self.kernel_size[0] * self.kernel_size[1] * self.input[2]
    }

    fn kernel_len(&self) -> usize {
        self.patch_len() * self.filters
    }

    fn patch(&self) -> Patch {
        Patch {
            n_segments: self.kernel_size[0],
            segment_len: self.kernel_size[1] * self.input[2],
            segment_stride: self.padded[1] * self.padded[2],
        }
    }

    /// Whether the pooled gradients are worth walking one by one: a run must fill a vector.
    fn is_sparse(&self) -> bool {
        self.is_pooled && self.patch().segment_len >= kernel::LANES
    }

    /// The patches whose starts are `offsets`, as rows of a matrix.
    fn patches<'a>(&self, data: &'a [f32], offsets: &'a [u32]) -> Rows<'a> {
        let Patch { n_segments, segment_len, segment_stride } = self.patch();
        Rows { data, offsets, n_segments, segment_len, segment_stride, stride: 1 }
    }

    /// Copies a record's input into the middle of its padding, which is zero and stays it.
    fn pad(&self, input: &[f32], padded: &mut [f32]) {
        let row_len = self.input[1] * self.input[2];
        for (y, row) in input.chunks_exact(row_len).enumerate() {
            let at = ((y + self.before[0]) * self.padded[1] + self.before[1]) * self.padded[2];
            padded[at..at + row_len].copy_from_slice(row);
        }
    }

    /// Cuts `memory` into its parts.
    fn split<'a>(&self, memory: &'a mut [f32], n_records: usize) -> Parts<'a> {
        let mut rest = memory;
        let mut part = |len: usize| {
            let (part, after) = std::mem::take(&mut rest).split_at_mut(len);
            rest = after;
            part
        };
        let [padded, padded_gradient, products, kept, total, spread] = self.part_sizes(n_records).map(&mut part);
        Parts { padded, padded_gradient, products, kept, total, spread }
    }

    fn part_sizes(&self, n_records: usize) -> [usize; 6] {
        let padded = if self.is_padded() { self.padded_len() } else { 0 };
        // Either the outputs of a chunk before pooling, or the gradients of a few patches.
        let products =
            (self.chunk_len * self.filters).max(if self.is_sparse() { 0 } else { PATCHES_AT_ONCE * self.patch_len() });
        let total = if self.is_sparse() { self.kernel_len() } else { 0 };
        let spread = if self.is_pooled && !self.is_sparse() { self.bases.len() * self.filters } else { 0 };
        // Each part begins at a cache line.
        [n_records * padded, padded, products, n_records * self.kernel_len(), total, spread]
            .map(|len| len.next_multiple_of(kernel::LANES))
    }

    /// Which position each pooled output of some records took.
    fn n_choices(&self, n_records: usize) -> usize {
        if self.is_pooled { n_records * self.output_len() } else { 0 }
    }

    fn choices<'a>(&'a self, choice: &'a [u32], gradient: &'a [f32]) -> Choices<'a> {
        Choices { bases: &self.bases, window: self.window, choice, gradient, n_channels: self.filters }
    }
}

/// The parts of a convolution's memory.
struct Parts<'a> {
    /// Each record's padded input.
    padded: &'a mut [f32],
    /// The gradient with respect to one of them.
    padded_gradient: &'a mut [f32],
    /// Outputs before pooling, or gradients of patches.
    products: &'a mut [f32],
    /// Each record's gradient of the kernel, transposed where the way back is sparse.
    kept: &'a mut [f32],
    /// Their sum before it is transposed.
    total: &'a mut [f32],
    /// The gradient with respect to one record's outputs before pooling.
    spread: &'a mut [f32],
}

impl Layer for Conv2D {
    fn output_len(&self) -> usize {
        self.bases.len() / self.window * self.filters
    }

    fn n_parameters(&self) -> usize {
        self.kernel_len() + if self.use_bias { self.filters } else { 0 }
    }

    fn scratch_len(&self, n_records: usize) -> ScratchLen {
        // Lists of the sparse or of the dense way back.
        let n_listed = match self.is_sparse() {
            true => (2 * self.bases.len() / self.window).max(self.output_len() + self.window),
            false => self.patch_len().max(PATCHES_AT_ONCE),
        };
        ScratchLen { floats: self.part_sizes(n_records).iter().sum(), indices: self.n_choices(n_records) + n_listed }
    }

    fn initialise(&self, parameters: &mut [f32], entropy: &mut dyn Entropy) {
        let (kernel, bias) = parameters.split_at_mut(self.kernel_len());
        // Keras counts the receptive field into both fans.
        let field = self.kernel_size[0] * self.kernel_size[1];
        initializers::glorot_uniform(kernel, field * self.input[2], field * self.filters, entropy);
        bias.fill(0.0);
    }

    fn derived_len(&self) -> usize {
        self.kernel_len()
    }

    fn derive(&self, parameters: &[f32], derived: &mut [f32]) {
        // The way back to the input reads the kernel by filters.
        kernel::transpose(&parameters[..self.kernel_len()], self.patch_len(), derived);
    }

    fn forward(&self, parameters: &LayerParameters, pass: Forward<'_>, scratch: &mut Scratch) {
        let Forward { n_records, input, output, .. } = pass;
        let (kernel, bias) = parameters.flat.split_at(self.kernel_len());
        let start = if self.use_bias { Start::Row(bias) } else { Start::Zero };
        let Parts { padded, products, .. } = self.split(&mut scratch.floats, scratch.n_records);
        let records = input.chunks_exact(self.input.iter().product()).zip(output.chunks_exact_mut(self.output_len()));
        for (record, (input, output)) in records.enumerate().take(n_records) {
            let data = if self.is_padded() {
                let padded = &mut padded[record * self.padded_len()..(record + 1) * self.padded_len()];
                self.pad(input, padded);
                &*padded
            } else {
                input
            };
            if !self.is_pooled {
                kernel::gemm(self.patches(data, &self.bases), kernel, self.filters, start, output);
                continue;
            }
            let choices = &mut scratch.indices[record * self.output_len()..(record + 1) * self.output_len()];
            let outputs_len = self.chunk_len / self.window * self.filters;
            let outputs = output.chunks_mut(outputs_len).zip(choices.chunks_mut(outputs_len));
            for (bases, (output, choice)) in self.bases.chunks(self.chunk_len).zip(outputs) {
                let products = &mut products[..bases.len() * self.filters];
                kernel::gemm(self.patches(data, bases), kernel, self.filters, start, products);
                kernel::max_of_windows(products, self.window, self.filters, output, choice);
            }
        }
        activation::forward(self.activation, self.filters, output);
    }

    fn backward(&self, parameters: &LayerParameters, pass: Backward<'_>, scratch: &mut Scratch) {
        let Backward { n_records, input, output, output_gradient, mut input_gradient, .. } = pass;
        activation::backward(self.activation, self.filters, output, output_gradient);
        let parts = self.split(&mut scratch.floats, scratch.n_records);
        let (choice, listed) = scratch.indices.split_at_mut(self.n_choices(scratch.n_records));
        let (input_len, len) = (self.input.iter().product::<usize>(), self.output_len());
        for record in 0..n_records {
            let gradient = &output_gradient[record * len..(record + 1) * len];
            let choice = if self.is_pooled { &choice[record * len..(record + 1) * len] } else { &[] };
            let data = if self.is_padded() {
                &parts.padded[record * self.padded_len()..(record + 1) * self.padded_len()]
            } else {
                &input[record * input_len..(record + 1) * input_len]
            };
            let kernel_gradient = &mut parts.kept[record * self.kernel_len()..(record + 1) * self.kernel_len()];
            let mut spread = gradient;
            if self.is_sparse() {
                kernel::scatter_weights(data, self.patch(), self.choices(choice, gradient), listed, kernel_gradient);
            } else {
                if self.is_pooled {
                    let all = &mut parts.spread[..self.grid.len() * self.filters];
                    kernel::spread(gradient, choice, &self.places, self.filters, all);
                    spread = all;
                }
                self.dense_kernel_gradient(data, spread, listed, kernel_gradient);
            }
            let Some(input_gradient) = &mut input_gradient else { continue };
            let input_gradient = &mut input_gradient[record * input_len..(record + 1) * input_len];
            let padded_gradient = &mut parts.padded_gradient[..if self.is_padded() { self.padded_len() } else { 0 }];
            let target = if self.is_padded() { &mut *padded_gradient } else { &mut *input_gradient };
            target.fill(0.0);
            if self.is_sparse() {
                let choices = self.choices(choice, gradient);
                kernel::scatter_input(&parameters.derived, self.patch(), choices, listed, target);
            } else {
                self.dense_input_gradient(&parameters.derived, spread, parts.products, listed, target);
            }
            if self.is_padded() {
                let row_len = self.input[1] * self.input[2];
                for (y, row) in input_gradient.chunks_exact_mut(row_len).enumerate() {
                    let at = ((y + self.before[0]) * self.padded[1] + self.before[1]) * self.padded[2];
                    row.copy_from_slice(&padded_gradient[at..at + row_len]);
                }
            }
        }
    }

    fn add_squared_norms(&self, pass: Products<'_>, scratch: &mut Scratch, squared_norms: &mut [f64]) {
        let parts = self.split(&mut scratch.floats, scratch.n_records);
        products::add_squared_norms(parts.kept, self.kernel_len(), squared_norms);
        if !self.use_bias {
            return;
        }
        // The outputs of a chunk, if not its window, have room for one sum.
        let bias_gradient = &mut parts.products[..self.filters];
        for (sum, output_gradient) in squared_norms.iter_mut().zip(pass.output_gradient.chunks_exact(self.output_len()))
        {
            products::sum_rows(output_gradient, bias_gradient);
            *sum += kernel::squared_norm(bias_gradient);
        }
    }

    fn record_gradient(&self, pass: Products<'_>, record: usize, scratch: &mut Scratch, out: &mut [f32]) {
        let parts = self.split(&mut scratch.floats, scratch.n_records);
        let kept = &parts.kept[record * self.kernel_len()..(record + 1) * self.kernel_len()];
        let (kernel_gradient, bias_gradient) = out.split_at_mut(self.kernel_len());
        if self.is_sparse() {
            kernel::transpose(kept, self.filters, kernel_gradient);
        } else {
            kernel_gradient.copy_from_slice(kept);
        }
        products::sum_rows(pass.of(record).output_gradient, bias_gradient);
    }

    fn gradient(&self, pass: Products<'_>, factors: Option<&[f32]>, scratch: &mut Scratch, out: &mut [f32]) {
        let Products { n_records, output_gradient, .. } = pass;
        let parts = self.split(&mut scratch.floats, scratch.n_records);
        let (kernel_gradient, bias_gradient) = out.split_at_mut(self.kernel_len());
        if self.is_sparse() {
            let mut total = &parts.kept[..self.kernel_len()];
            if n_records > 1 || factors.is_some() {
                let sum = &mut parts.total[..self.kernel_len()];
                products::sum_records(parts.kept, n_records, factors, sum);
                total = sum;
            }
            kernel::transpose(total, self.filters, kernel_gradient);
        } else {
            products::sum_records(parts.kept, n_records, factors, kernel_gradient);
        }
        products::scale_records(output_gradient, factors, self.output_len());
        products::sum_rows(output_gradient, bias_gradient);
    }
}

impl Conv2D {
    /// kernel gradient\[k, f\] = sum over outputs o of x\[base(o) + k\] spread\[o, f\], in order of o.
    fn dense_kernel_gradient(&self, data: &[f32], spread: &[f32], listed: &mut [u32], out: &mut [f32]) {
        let patch = self.patch();
        let offsets = &mut listed[..self.patch_len()];
        for (k, offset) in offsets.iter_mut().enumerate() {
            *offset = (k / patch.segment_len * patch.segment_stride + k % patch.segment_len) as u32;
        }
        let columns = Rows {
            data,
            offsets,
            n_segments: self.grid_size[0],
            segment_len: self.grid_size[1],
            segment_stride: self.strides[0] * patch.segment_stride,
            stride: self.strides[1] * self.padded[2],
        };
        kernel::gemm(columns, spread, self.filters, Start::Zero, out);
    }

    /// Adds each output's patch gradient, kernel times spread, to where the patch lies; in order of the outputs.
    fn dense_input_gradient(
        &self,
        transposed: &[f32],
        spread: &[f32],
        products: &mut [f32],
        listed: &mut [u32],
        out: &mut [f32],
    ) {
        let patch = self.patch();
        let bases = self.grid.chunks(PATCHES_AT_ONCE);
        for (bases, spread) in bases.zip(spread.chunks(PATCHES_AT_ONCE * self.filters)) {
            let offsets = &mut listed[..bases.len()];
            for (i, offset) in offsets.iter_mut().enumerate() {
                *offset = (i * self.filters) as u32;
            }
            let (segment_len, stride) = (self.filters, 1);
            let rows = Rows { data: spread, offsets, n_segments: 1, segment_len, segment_stride: 0, stride };
            let products = &mut products[..bases.len() * self.patch_len()];
            kernel::gemm(rows, transposed, self.patch_len(), Start::Zero, products);
            for (&base, product) in bases.iter().zip(products.chunks_exact(self.patch_len())) {
                for (s, run) in product.chunks_exact(patch.segment_len).enumerate() {
                    let at = base as usize + s * patch.segment_stride;
                    for (out, x) in out[at..at + patch.segment_len].iter_mut().zip(run) {
                        *out += x;
                    }
                }
            }
        }
    }
}

/// Outputs whose products are held at once: they and their patches stay in the first cache.
const OUTPUTS_AT_ONCE: usize = 100;
/// Patches whose gradients are held at once.
const PATCHES_AT_ONCE: usize = 24;
