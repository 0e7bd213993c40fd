//! What layers with parameters share: products of rows, and the norms and weighted sums of the records' gradients.
//!
//! Each record's gradient of a kernel is `A^T D`: its inputs A, `[T, K]`, times the gradients of its outputs D, `[T, N]`.
//! Its squared norm needs no gradient: `|A^T D|^2` is the sum over s and t of `(A A^T)_st (D D^T)_st` (Goodfellow 2015,
//! "Efficient per-example gradient computations", for T = 1; Li et al. 2022, "Large language models can be strong
//! differentially private learners", section 4). Where T is large, the gradient itself is the smaller of the two.

use std::ops::Range;

use crate::kernel::{self, Rows, Start};

/// Rows of `len` values, `stride` apart: some of those of a larger matrix.
#[derive(Clone, Copy)]
pub(super) struct Strided<'a> {
    pub(super) data: &'a [f32],
    pub(super) n_rows: usize,
    pub(super) len: usize,
    pub(super) stride: usize,
}

/// Whether T^2 values are so much fewer than those of a gradient `[k, n]` that the norm is better found from them.
pub(super) const fn is_gram_smaller(n_rows: usize, k: usize, n: usize) -> bool {
    2 * n_rows * n_rows < k * n
}

impl<'a> Strided<'a> {
    pub(super) const fn new(data: &'a [f32], n_rows: usize, len: usize, stride: usize) -> Self {
        Self { data, n_rows, len, stride }
    }

    /// Writes the rows one behind the other.
    pub(super) fn gather(self, to: &mut [f32]) {
        for (i, to) in to.chunks_exact_mut(self.len).enumerate().take(self.n_rows) {
            to.copy_from_slice(&self.data[i * self.stride..i * self.stride + self.len]);
        }
    }

    /// out = start + the products of the first rows with some of them, `[rows.end, GRAM_WIDTH]`, zero where there is none.
    fn gram(self, rows: Range<usize>, start: Start<'_>, memory: &mut [f32], out: &mut [f32]) {
        // Whole blocks of sixteen by sixteen are transposed quickest.
        let padded_len = self.len.next_multiple_of(kernel::LANES);
        let (gathered, rest) = memory.split_at_mut(GRAM_WIDTH * padded_len);
        let transposed = &mut rest[..GRAM_WIDTH * padded_len];
        for (i, to) in gathered.chunks_exact_mut(padded_len).enumerate() {
            let row = rows.start + i;
            if row < rows.end {
                to[..self.len].copy_from_slice(&self.data[row * self.stride..row * self.stride + self.len]);
                to[self.len..].fill(0.0);
            } else {
                to.fill(0.0);
            }
        }
        kernel::transpose(gathered, GRAM_WIDTH, transposed);
        row_products(self.data, rows.end, |i| i * self.stride, self.len, transposed, GRAM_WIDTH, start, out);
    }

    /// out\[i\] = sum over the rows, in their order, of value i times the row of `b`, which has `n` columns; `listed` has
    /// room for a number per column.
    pub(super) fn column_products(self, b: &[f32], n: usize, listed: &mut [u32], out: &mut [f32]) {
        let order = Order { n_segments: 1, segment_stride: 0, segment_len: self.n_rows, stride: self.stride };
        self.column_products_in(order, b, n, listed, out);
    }

    /// The same with the rows in another order, which those of `b` have.
    pub(super) fn column_products_in(self, order: Order, b: &[f32], n: usize, listed: &mut [u32], out: &mut [f32]) {
        let offsets = &mut listed[..self.len];
        for (i, offset) in offsets.iter_mut().enumerate() {
            *offset = i as u32;
        }
        let Order { n_segments, segment_stride, segment_len, stride } = order;
        let columns = Rows { data: self.data, offsets, n_segments, segment_len, segment_stride, stride };
        kernel::gemm(columns, b, n, Start::Zero, out);
    }
}

/// In which order rows are walked: `n_segments` times `segment_len` of them, `stride` apart, `segment_stride` from one
/// time to the next.
#[derive(Clone, Copy)]
pub(super) struct Order {
    pub(super) n_segments: usize,
    pub(super) segment_stride: usize,
    pub(super) segment_len: usize,
    pub(super) stride: usize,
}

/// Values of the memory of [`gram_squared_norm`] for `n_rows` rows of up to `len` values.
pub(super) const fn gram_memory(n_rows: usize, len: usize) -> usize {
    2 * GRAM_WIDTH * (n_rows + len.next_multiple_of(kernel::LANES))
}

/// The squared norm of `A^T D`, by inner products: the rows of A are those of `inputs` one behind the other, and a one
/// where there is a bias; those of D are `outputs`.
pub(super) fn gram_squared_norm(
    inputs: &[Strided<'_>],
    has_bias: bool,
    outputs: Strided<'_>,
    memory: &mut [f32],
) -> f64 {
    let n_rows = outputs.n_rows;
    let (grams, memory) = memory.split_at_mut(2 * GRAM_WIDTH * n_rows);
    let (before, after) = grams.split_at_mut(GRAM_WIDTH * n_rows);
    let one = if has_bias { 1.0 } else { 0.0 };
    let mut squared_norm = 0.0;
    for first in (0..n_rows).step_by(GRAM_WIDTH) {
        let rows = first..(first + GRAM_WIDTH).min(n_rows);
        let mut start = Start::Zero;
        for input in inputs {
            input.gram(rows.clone(), start, memory, before);
            start = Start::Add;
        }
        outputs.gram(rows.clone(), Start::Zero, memory, after);
        // The rows above are met once, and count for their mirror images too.
        let (above, all) = (GRAM_WIDTH * first, GRAM_WIDTH * rows.end);
        squared_norm += 2.0 * product_sum(&before[..above], &after[..above], one);
        squared_norm += product_sum(&before[above..all], &after[above..all], one);
    }
    squared_norm
}

/// The sum of (a + `more`) b, in `f64`.
fn product_sum(a: &[f32], b: &[f32], more: f64) -> f64 {
    let mut lanes = [0.0_f64; 8];
    for (a, b) in a.as_chunks::<8>().0.iter().zip(b.as_chunks::<8>().0) {
        for (lane, (&a, &b)) in lanes.iter_mut().zip(a.iter().zip(b)) {
            *lane += (f64::from(a) + more) * f64::from(b);
        }
    }
    lanes.iter().sum()
}

/// out = start + rows b, for `n_rows` rows of `k` values that begin where `offset` says, and a `b` of `n` columns.
#[expect(clippy::too_many_arguments, reason = "a product's operands and their shapes")]
pub(super) fn row_products(
    data: &[f32],
    n_rows: usize,
    offset: impl Fn(usize) -> usize,
    k: usize,
    b: &[f32],
    n: usize,
    start: Start<'_>,
    out: &mut [f32],
) {
    let mut offsets = [0; ROWS_AT_ONCE];
    for (first, out) in (0..n_rows).step_by(ROWS_AT_ONCE).zip(out.chunks_mut(ROWS_AT_ONCE * n)) {
        let offsets = &mut offsets[..(n_rows - first).min(ROWS_AT_ONCE)];
        for (i, at) in offsets.iter_mut().enumerate() {
            *at = offset(first + i) as u32;
        }
        let rows = Rows { data, offsets, n_segments: 1, segment_len: k, segment_stride: 0, stride: 1 };
        kernel::gemm(rows, b, n, start, out);
    }
}

/// Writes the sum of the rows of `rows` to `sum`, whose length is theirs; an empty `sum` wants none.
pub(super) fn sum_rows(rows: &[f32], sum: &mut [f32]) {
    if sum.is_empty() {
        return;
    }
    sum.fill(0.0);
    for row in rows.chunks_exact(sum.len()) {
        add(sum, row);
    }
}

/// Adds `values` to `sum`, one by one.
pub(super) fn add(sum: &mut [f32], values: &[f32]) {
    for (sum, x) in sum.iter_mut().zip(values) {
        *sum += x;
    }
}

/// Multiplies the values of each record by its factor; `values` are laid out `[.., n_records, len]`.
pub(super) fn scale_records(values: &mut [f32], factors: Option<&[f32]>, len: usize) {
    let Some(factors) = factors else { return };
    for (values, factor) in values.chunks_exact_mut(len).zip(factors.iter().cycle()) {
        for x in values {
            *x *= factor;
        }
    }
}

/// Adds the squared norms of gradients that are kept, one record's behind the other's.
pub(super) fn add_squared_norms(kept: &[f32], len: usize, squared_norms: &mut [f64]) {
    for (sum, kept) in squared_norms.iter_mut().zip(kept.chunks_exact(len)) {
        *sum += kernel::squared_norm(kept);
    }
}

/// Writes the sum of gradients that are kept, each times its factor. A single one without a factor keeps its bits.
pub(super) fn sum_records(kept: &[f32], n_records: usize, factors: Option<&[f32]>, out: &mut [f32]) {
    if n_records == 1 && factors.is_none() {
        out.copy_from_slice(&kept[..out.len()]);
        return;
    }
    let ones = [1.0; super::N_RECORDS_MAX];
    let data = factors.unwrap_or(&ones);
    let rows = Rows { data, offsets: &[0], n_segments: 1, segment_len: n_records, segment_stride: 0, stride: 1 };
    kernel::gemm(rows, kept, out.len(), Start::Zero, out);
}

/// Rows that others are multiplied with at once, for a norm by inner products: whole vectors.
const GRAM_WIDTH: usize = 32;
/// Rows of one product.
const ROWS_AT_ONCE: usize = 48;
