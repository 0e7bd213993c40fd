//! What layers with parameters share: products of rows, and the norms and weighted sums of the records' gradients.
//!
//! Each record's gradient of a kernel is `A^T D`: its inputs A, `[T, K]`, times the gradients of its outputs D, `[T, N]`.
//! Its squared norm needs no gradient: `|A^T D|^2` is the sum over s and t of `(A A^T)_st (D D^T)_st` (Goodfellow 2015,
//! "Efficient per-example gradient computations", for T = 1; Li et al. 2022, "Large language models can be strong
//! differentially private learners", section 4). Where T is large, the gradient itself is the smaller of the two.

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

    /// Values of the memory of [`Strided::gram`].
    pub(super) const fn gram_memory(n_rows: usize, len: usize) -> usize {
        2 * n_rows * len
    }

    /// Writes the rows one behind the other.
    pub(super) fn gather(self, to: &mut [f32]) {
        for (i, to) in to.chunks_exact_mut(self.len).enumerate().take(self.n_rows) {
            to.copy_from_slice(&self.data[i * self.stride..i * self.stride + self.len]);
        }
    }

    /// out = start + the products of each row with each, `[T, T]`.
    pub(super) fn gram(self, start: Start<'_>, memory: &mut [f32], out: &mut [f32]) {
        let (rows, rest) = memory.split_at_mut(self.n_rows * self.len);
        let transposed = &mut rest[..self.n_rows * self.len];
        self.gather(rows);
        kernel::transpose(rows, self.n_rows, transposed);
        row_products(rows, self.n_rows, |i| i * self.len, self.len, transposed, self.n_rows, start, out);
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

/// The sum over s and t of (a_st + `more`) b_st, in `f64`.
pub(super) fn gram_product(a: &[f32], b: &[f32], more: f32) -> f64 {
    let mut lanes = [0.0_f64; 8];
    for (a, b) in a.chunks(8).zip(b.chunks(8)) {
        for (lane, (&a, &b)) in lanes.iter_mut().zip(a.iter().zip(b)) {
            *lane += (f64::from(a) + f64::from(more)) * f64::from(b);
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

/// Rows of one product.
const ROWS_AT_ONCE: usize = 48;
