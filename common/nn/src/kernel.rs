//! The hot loops, on the widest vectors that the processor has.
//!
//! Every sum here is a chain of fused multiply-adds in one fixed order, so the results have the same bits under AVX-512, AVX2 with FMA, and plain Rust ([`f32::mul_add`], one instruction on
//! AArch64): the tests compare them. No sum depends on where in a larger product it stands.
//!
//! Convolutions are matrix products whose left matrix is read where it lies ([`Rows`]): no patch is copied out
//! (im2col) and no operand packed. Behind pooling only one position of each window passes a gradient on, which
//! [`scatter_weights`] and [`scatter_input`] use: a quarter of the products for windows of 2 by 2.
//!
//! `unsafe` stands here for vector loads and stores through pointers and for calling code compiled for instructions
//! that were found at run time; every public function checks all bounds before it goes there. What it gains, on one core
//! of a Zen 4 server (AVX-512), for a record's gradient of the mission's CNN: 92 us in all, where the five products of
//! its convolutions alone take 148 us through ndarray (matrixmultiply, which finds AVX-512 as well), patches already
//! copied out. `cargo run --release -p eranos-nn --example record_gradients` measures it again.

#![expect(clippy::needless_range_loop, reason = "loops over registers, whose count the compiler must see")]
#![expect(clippy::extra_unused_type_parameters, reason = "one macro calls every body, vectors of its own or not")]

mod elementwise;
mod vector;

use elementwise::{lstm_step_backward_body, lstm_step_body, relu_backward_body, relu_body, sigmoid_body, tanh_body};
#[cfg(target_arch = "x86_64")]
use vector::{Avx2, Avx512};
use vector::{Portable, Vector};

/// Calls a body compiled for the chosen instructions.
macro_rules! dispatch {
    ($set:expr, $body:ident($($arg:expr),*)) => {
        match $set {
            #[cfg(target_arch = "x86_64")]
            InstructionSet::Avx512 if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512dq") => unsafe {
                avx512::$body($($arg),*)
            },
            #[cfg(target_arch = "x86_64")]
            InstructionSet::Avx2 if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") => unsafe {
                avx2::$body($($arg),*)
            },
            _ => unsafe { $body::<Portable>($($arg),*) },
        }
    };
}
/// Values in a vector, whatever the registers' width.
pub const LANES: usize = 16;

/// Which instructions are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InstructionSet {
    /// AVX-512F: one register holds [`LANES`] values.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// AVX2 and FMA: two registers hold them.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// What the compiler makes of plain Rust for the target.
    Portable,
}

impl InstructionSet {
    /// The best that this processor has.
    pub fn detect() -> Self {
        Self::available()[0]
    }

    /// All that this processor has, the best first.
    pub fn available() -> &'static [Self] {
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512dq") {
                return &[Self::Avx512, Self::Avx2, Self::Portable];
            }
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                return &[Self::Avx2, Self::Portable];
            }
        }
        &[Self::Portable]
    }
}

/// A matrix whose rows are read where they lie: row i, column `s * segment_len + t` is
/// `data[offsets[i] + s * segment_stride + t * stride]`, for s below `n_segments` and t below `segment_len`.
#[derive(Clone, Copy, Debug)]
pub struct Rows<'a> {
    /// Where the values lie.
    pub data: &'a [f32],
    /// Where each row begins.
    pub offsets: &'a [u32],
    /// Runs of a row.
    pub n_segments: usize,
    /// Values of a run.
    pub segment_len: usize,
    /// From one run to the next.
    pub segment_stride: usize,
    /// From one value of a run to the next.
    pub stride: usize,
}

/// What a product is added to.
#[derive(Clone, Copy, Debug)]
pub enum Start<'a> {
    /// Nothing.
    Zero,
    /// A row, the same for all.
    Row(&'a [f32]),
    /// What is there already.
    Add,
}

/// Where the positions lie that a pooled gradient goes to: position p of channel c reads the input at
/// `bases[p * window + choice[p * n_channels + c]]`.
#[derive(Clone, Copy, Debug)]
pub struct Choices<'a> {
    /// The start of each patch, window by window.
    pub bases: &'a [u32],
    /// Patches of a window.
    pub window: usize,
    /// Which patch of its window each pooled position and channel took.
    pub choice: &'a [u32],
    /// The gradient of each pooled position and channel.
    pub gradient: &'a [f32],
    /// How many channels there are.
    pub n_channels: usize,
}

/// The runs of a patch: `n_segments` runs of `segment_len` values, `segment_stride` apart.
#[derive(Clone, Copy, Debug)]
pub struct Patch {
    /// Runs of a patch.
    pub n_segments: usize,
    /// Values of a run.
    pub segment_len: usize,
    /// From one run to the next.
    pub segment_stride: usize,
}

/// c = start + a b: `a` has m rows and k columns, `b` is k by n and `c` m by n, both row-major without gaps.
///
/// # Panics
/// If a slice is too short for these shapes.
pub fn gemm(a: Rows<'_>, b: &[f32], n: usize, start: Start<'_>, c: &mut [f32]) {
    gemm_on(InstructionSet::detect(), a, b, n, start, c);
}

/// [`gemm`] with chosen instructions; those that the processor lacks are replaced by plain Rust.
///
/// # Panics
/// As [`gemm`].
pub fn gemm_on(set: InstructionSet, a: Rows<'_>, b: &[f32], n: usize, start: Start<'_>, c: &mut [f32]) {
    let k = a.n_segments * a.segment_len;
    assert!(b.len() >= k * n && c.len() >= a.offsets.len() * n, "b is k by n, c is m by n");
    if let Start::Row(row) = start {
        assert!(row.len() >= n, "the row has n values");
    }
    if n == 0 || a.offsets.is_empty() {
        return;
    }
    if k > 0 {
        let last = (a.n_segments - 1) * a.segment_stride + (a.segment_len - 1) * a.stride;
        assert!(a.offsets.iter().all(|&offset| (offset as usize) + last < a.data.len()), "every row lies in the data");
    }
    // SAFETY: all that is read and written was checked to lie inside its slice.
    dispatch!(set, gemm_body(a, b, n, start, c));
}

/// out\[i, j\] = x\[i\] y\[j\].
///
/// # Panics
/// If `out` is not `x.len()` by `y.len()`.
pub fn outer(x: &[f32], y: &[f32], out: &mut [f32]) {
    outer_on(InstructionSet::detect(), x, y, out);
}

/// [`outer`] with chosen instructions.
///
/// # Panics
/// As [`outer`].
pub fn outer_on(set: InstructionSet, x: &[f32], y: &[f32], out: &mut [f32]) {
    assert_eq!(out.len(), x.len() * y.len(), "a row per value of x");
    // SAFETY: the lengths agree.
    dispatch!(set, outer_body(x, y, out));
}

/// The gradient of a convolution's kernel, transposed: `out[c, k] = sum_p gradient[p, c] x[base(p, c) + k]` over the
/// patch positions k, in order of p. `out` is channels by patch.
///
/// # Panics
/// If a slice is too short, or a patch lies outside `x`.
pub fn scatter_weights(x: &[f32], patch: Patch, choices: Choices<'_>, scratch: &mut [u32], out: &mut [f32]) {
    scatter_weights_on(InstructionSet::detect(), x, patch, choices, scratch, out);
}

/// [`scatter_weights`] with chosen instructions.
///
/// # Panics
/// As [`scatter_weights`].
pub fn scatter_weights_on(
    set: InstructionSet,
    x: &[f32],
    patch: Patch,
    choices: Choices<'_>,
    scratch: &mut [u32],
    out: &mut [f32],
) {
    choices.check(patch, x.len(), scratch);
    assert!(out.len() >= choices.n_channels * patch.len(), "out is channels by patch");
    // SAFETY: every patch lies inside x, and out has a row per channel.
    dispatch!(set, scatter_weights_body(x, patch, choices, scratch, out));
}

/// Adds the gradient of a convolution's input: `out[base(p, q) + k] += sum_c gradient[p, c] kernel[c, k]` over the channels
/// c that chose q in window p, summed in order of c and then added; in order of the 96-value pieces of the patch's runs,
/// then of p, then of q. `kernel` is channels by patch, `scratch` holds a number per gradient and per patch of a window.
///
/// # Panics
/// If a slice is too short, or a patch lies outside `out`.
pub fn scatter_input(kernel: &[f32], patch: Patch, choices: Choices<'_>, scratch: &mut [u32], out: &mut [f32]) {
    scatter_input_on(InstructionSet::detect(), kernel, patch, choices, scratch, out);
}

/// [`scatter_input`] with chosen instructions.
///
/// # Panics
/// As [`scatter_input`].
pub fn scatter_input_on(
    set: InstructionSet,
    kernel: &[f32],
    patch: Patch,
    choices: Choices<'_>,
    scratch: &mut [u32],
    out: &mut [f32],
) {
    choices.check(patch, out.len(), scratch);
    assert!(scratch.len() >= choices.gradient.len() + choices.window, "room for a window's channels in order");
    assert!(kernel.len() >= choices.n_channels * patch.len(), "the kernel is channels by patch");
    // SAFETY: every patch lies inside out, and the kernel has a row per channel.
    dispatch!(set, scatter_input_body(kernel, patch, choices, scratch, out));
}

/// The maximum of each window and channel. `values` holds the windows' positions one after the other, `window` of them
/// for each output position, each with `n_channels` values; the first of equal values is chosen, and a NaN stays.
///
/// # Panics
/// If the slices' lengths do not fit.
pub fn max_of_windows(values: &[f32], window: usize, n_channels: usize, out: &mut [f32], choice: &mut [u32]) {
    assert_eq!(out.len(), choice.len(), "a choice per value");
    assert_eq!(values.len(), out.len() * window, "a window per value");
    assert!(n_channels > 0 && out.len().is_multiple_of(n_channels), "whole positions");
    // SAFETY: safe code, compiled for more instructions.
    dispatch!(InstructionSet::detect(), max_of_windows_body(values, window, n_channels, out, choice));
}

/// Puts max(x, 0) in the place of each value; a NaN stays.
pub fn relu(values: &mut [f32]) {
    // SAFETY: safe code, compiled for more instructions.
    dispatch!(InstructionSet::detect(), relu_body(values));
}

/// Makes each gradient zero whose output is not above 0: the way back through relu.
pub fn relu_backward(output: &[f32], gradient: &mut [f32]) {
    // SAFETY: safe code, compiled for more instructions.
    dispatch!(InstructionSet::detect(), relu_backward_body(output, gradient));
}

/// Puts 1 / (1 + e^-x) in the place of each value, to an absolute error below 2e-7.
pub fn sigmoid(values: &mut [f32]) {
    // SAFETY: safe code, compiled for more instructions.
    dispatch!(InstructionSet::detect(), sigmoid_body(values));
}

/// Puts the hyperbolic tangent in the place of each value, to a relative error below 4e-7.
pub fn tanh(values: &mut [f32]) {
    // SAFETY: safe code, compiled for more instructions.
    dispatch!(InstructionSet::detect(), tanh_body(values));
}

/// One time step of an LSTM of H = `hidden.len()` units. `gates` holds what the gates are computed from, i, f, c and o
/// one after the other, `[4, H]`, and then their values: i, f, o by [`sigmoid`], c by [`tanh`]. `cell` = f cell_before +
/// i c, `cell_tanh` its tanh, `hidden` = o cell_tanh.
///
/// # Panics
/// If the slices' lengths do not fit.
pub fn lstm_step(gates: &mut [f32], cell_before: &[f32], cell: &mut [f32], cell_tanh: &mut [f32], hidden: &mut [f32]) {
    let units = hidden.len();
    assert_eq!(gates.len(), 4 * units, "four gates");
    assert!([cell_before.len(), cell.len(), cell_tanh.len()] == [units; 3], "a value per unit");
    // SAFETY: safe code, compiled for more instructions.
    dispatch!(InstructionSet::detect(), lstm_step_body(gates, cell_before, cell, cell_tanh, hidden));
}

/// The way back through [`lstm_step`]: from the gradients with respect to `hidden` and, by later steps, to `cell`, to those
/// with respect to what the gates are computed from, `[4, H]`, and to `cell_before`, in the place of that of `cell`.
///
/// # Panics
/// If the slices' lengths do not fit.
pub fn lstm_step_backward(
    gates: &[f32],
    cell_before: &[f32],
    cell_tanh: &[f32],
    hidden_gradient: &[f32],
    cell_gradient: &mut [f32],
    gates_gradient: &mut [f32],
) {
    let units = hidden_gradient.len();
    assert!([gates.len(), gates_gradient.len()] == [4 * units; 2], "four gates");
    assert!([cell_before.len(), cell_tanh.len(), cell_gradient.len()] == [units; 3], "a value per unit");
    let set = InstructionSet::detect();
    // SAFETY: safe code, compiled for more instructions.
    dispatch!(
        set,
        lstm_step_backward_body(gates, cell_before, cell_tanh, hidden_gradient, cell_gradient, gates_gradient)
    );
}

/// Spreads a pooled gradient over the positions before pooling: to the chosen position of each window, and zero to the
/// others. `places` says, window by window, which row of `out` each position is.
///
/// # Panics
/// If the slices' lengths do not fit, or a place is none.
pub fn spread(gradient: &[f32], choice: &[u32], places: &[u32], n_channels: usize, out: &mut [f32]) {
    assert_eq!(gradient.len(), choice.len(), "a choice per value");
    assert_eq!(out.len(), places.len() * n_channels, "a place per position");
    assert!(n_channels > 0 && gradient.len().is_multiple_of(n_channels), "whole positions");
    // SAFETY: safe code, compiled for more instructions.
    dispatch!(InstructionSet::detect(), spread_body(gradient, choice, places, n_channels, out));
}

/// The transpose of a matrix of `n_rows` rows, 16 by 16 values at a time.
///
/// # Panics
/// If the slices' lengths do not fit.
pub fn transpose(from: &[f32], n_rows: usize, to: &mut [f32]) {
    assert_eq!(from.len(), to.len(), "as many values");
    assert!(n_rows > 0 && from.len().is_multiple_of(n_rows), "whole rows");
    // SAFETY: safe code, compiled for more instructions.
    dispatch!(InstructionSet::detect(), transpose_body(from, n_rows, to));
}

/// The sum of squares in `f64`: eight chains over i = lane, lane + 8, .. folded 4, 2, 1 apart.
pub fn squared_norm(values: &[f32]) -> f64 {
    let mut sum = [0.0];
    // SAFETY: safe code, compiled for more instructions.
    dispatch!(InstructionSet::detect(), squared_norm_body(values, &mut sum));
    sum[0]
}

impl Patch {
    const fn len(&self) -> usize {
        self.n_segments * self.segment_len
    }
}

impl Choices<'_> {
    fn check(&self, patch: Patch, len: usize, scratch: &[u32]) {
        assert!(self.n_channels > 0 && self.window > 0 && patch.len() > 0, "nothing is empty");
        let n_positions = self.gradient.len() / self.n_channels;
        assert_eq!(self.gradient.len(), n_positions * self.n_channels, "whole positions");
        assert_eq!(self.choice.len(), self.gradient.len(), "a choice per value");
        assert_eq!(self.bases.len(), n_positions * self.window, "a window per position");
        assert!(scratch.len() >= 2 * n_positions, "room for a channel's positions");
        let last = (patch.n_segments - 1) * patch.segment_stride + patch.segment_len - 1;
        assert!(self.bases.iter().all(|&base| base as usize + last < len), "every patch lies inside");
        // Choices come out of max_of_windows; one beyond its window would read the next window's base.
        let n = self.window as u32;
        assert!(self.choice.iter().fold(true, |all, &choice| all & (choice < n)), "every choice lies in its window");
    }
}

/// Wraps the bodies for one instruction set.
macro_rules! compile_for {
    ($module:ident, $vector:ident, $features:literal, $(fn $body:ident($($arg:ident: $ty:ty),*);)*) => {
        #[cfg(target_arch = "x86_64")]
        mod $module {
            use super::{Choices, Patch, Rows, Start};

            $(
                #[target_feature(enable = $features)]
                pub(super) unsafe fn $body($($arg: $ty),*) {
                    // SAFETY: the caller has checked the bounds and the instructions.
                    unsafe { super::$body::<super::$vector>($($arg),*) }
                }
            )*
        }
    };
}

macro_rules! compile_bodies {
    ($module:ident, $vector:ident, $features:literal) => {
        compile_for! {
            $module, $vector, $features,
            fn gemm_body(a: Rows<'_>, b: &[f32], n: usize, start: Start<'_>, c: &mut [f32]);
            fn outer_body(x: &[f32], y: &[f32], out: &mut [f32]);
            fn scatter_weights_body(x: &[f32], patch: Patch, choices: Choices<'_>, scratch: &mut [u32], out: &mut [f32]);
            fn scatter_input_body(kernel: &[f32], patch: Patch, choices: Choices<'_>, scratch: &mut [u32], out: &mut [f32]);
            fn max_of_windows_body(values: &[f32], window: usize, n_channels: usize, out: &mut [f32], choice: &mut [u32]);
            fn relu_body(values: &mut [f32]);
            fn relu_backward_body(output: &[f32], gradient: &mut [f32]);
            fn sigmoid_body(values: &mut [f32]);
            fn tanh_body(values: &mut [f32]);
            fn lstm_step_body(gates: &mut [f32], cell_before: &[f32], cell: &mut [f32], cell_tanh: &mut [f32], hidden: &mut [f32]);
            fn lstm_step_backward_body(
                gates: &[f32],
                cell_before: &[f32],
                cell_tanh: &[f32],
                hidden_gradient: &[f32],
                cell_gradient: &mut [f32],
                gates_gradient: &mut [f32]
            );
            fn spread_body(gradient: &[f32], choice: &[u32], places: &[u32], n_channels: usize, out: &mut [f32]);
            fn transpose_body(from: &[f32], n_rows: usize, to: &mut [f32]);
            fn squared_norm_body(values: &[f32], sum: &mut [f64; 1]);
        }
    };
}

compile_bodies!(avx512, Avx512, "avx512f,avx512dq,avx2,fma");
compile_bodies!(avx2, Avx2, "avx2,fma");

#[inline(always)]
unsafe fn gemm_body<V: Vector>(a: Rows<'_>, b: &[f32], n: usize, start: Start<'_>, c: &mut [f32]) {
    let mut column = 0;
    while column < n {
        let width = (n - column).min(V::WIDE * LANES);
        let n_vectors = width.div_ceil(LANES);
        let tail = width - (n_vectors - 1) * LANES;
        // Narrow tiles leave registers for more rows.
        let tall = if V::WIDE >= 4 && n_vectors <= 2 { 2 * TALL } else { TALL };
        let mut row = 0;
        while row < a.offsets.len() {
            let height = (a.offsets.len() - row).min(tall);
            let tile = Tile {
                a,
                row,
                b: b.as_ptr().wrapping_add(column),
                n,
                c: unsafe { c.as_mut_ptr().add(row * n + column) },
                tail,
            };
            let (start, bias) = match start {
                Start::Zero => (ZERO, std::ptr::null()),
                Start::Row(bias) => (ROW, unsafe { bias.as_ptr().add(column) }),
                Start::Add => (ADD, std::ptr::null()),
            };
            // A height and a width known to the compiler keep the tile in registers.
            macro_rules! heights {
                ($width:literal) => {
                    match height {
                        6 => unsafe { tile.run::<V, 6, $width>(start, bias) },
                        5 => unsafe { tile.run::<V, 5, $width>(start, bias) },
                        4 => unsafe { tile.run::<V, 4, $width>(start, bias) },
                        3 => unsafe { tile.run::<V, 3, $width>(start, bias) },
                        2 => unsafe { tile.run::<V, 2, $width>(start, bias) },
                        _ => unsafe { tile.run::<V, 1, $width>(start, bias) },
                    }
                };
            }
            macro_rules! more_heights {
                ($width:literal) => {
                    match height {
                        12 => unsafe { tile.run::<V, 12, $width>(start, bias) },
                        11 => unsafe { tile.run::<V, 11, $width>(start, bias) },
                        10 => unsafe { tile.run::<V, 10, $width>(start, bias) },
                        9 => unsafe { tile.run::<V, 9, $width>(start, bias) },
                        8 => unsafe { tile.run::<V, 8, $width>(start, bias) },
                        7 => unsafe { tile.run::<V, 7, $width>(start, bias) },
                        _ => heights!($width),
                    }
                };
            }
            match n_vectors {
                1 if V::WIDE >= 4 => more_heights!(1),
                2 if V::WIDE >= 4 => more_heights!(2),
                1 => heights!(1),
                3 if V::WIDE >= 4 => heights!(3),
                _ if V::WIDE >= 4 => heights!(4),
                _ => unreachable!("a tile is at most WIDE vectors wide"),
            }
            row += height;
        }
        column += width;
    }
}

/// A block of c, held in registers over all of k.
struct Tile<'a> {
    a: Rows<'a>,
    row: usize,
    b: *const f32,
    n: usize,
    c: *mut f32,
    /// Values of the last vector across, 1 to 16.
    tail: usize,
}

impl Tile<'_> {
    #[inline(always)]
    unsafe fn run<V: Vector, const H: usize, const W: usize>(&self, start: u8, bias: *const f32) {
        unsafe {
            if self.tail == LANES {
                self.run_tail::<V, H, W, false>(start, bias)
            } else {
                self.run_tail::<V, H, W, true>(start, bias)
            }
        }
    }

    #[inline(always)]
    unsafe fn run_tail<V: Vector, const H: usize, const W: usize, const TAIL: bool>(
        &self,
        start: u8,
        bias: *const f32,
    ) {
        unsafe {
            let mut sums = [[V::splat(0.0); W]; H];
            if start != ZERO {
                for i in 0..H {
                    let from = if start == ROW { bias } else { self.c.add(i * self.n).cast_const() };
                    for j in 0..W {
                        sums[i][j] = load::<V, TAIL>(from, j, W, self.tail);
                    }
                }
            }
            let mut rows = [self.a.data.as_ptr(); H];
            for i in 0..H {
                // Without columns nothing is read, wherever the row would lie.
                rows[i] = rows[i].wrapping_add(*self.a.offsets.get_unchecked(self.row + i) as usize);
            }
            let mut b = self.b;
            for s in 0..self.a.n_segments {
                let mut at = s * self.a.segment_stride;
                for _ in 0..self.a.segment_len {
                    let mut across = [V::splat(0.0); W];
                    for j in 0..W {
                        across[j] = load::<V, TAIL>(b, j, W, self.tail);
                    }
                    for i in 0..H {
                        let x = V::splat(*rows[i].add(at));
                        for j in 0..W {
                            sums[i][j] = sums[i][j].add_product(x, across[j]);
                        }
                    }
                    at += self.a.stride;
                    b = b.wrapping_add(self.n);
                }
            }
            for i in 0..H {
                for j in 0..W {
                    let to = self.c.add(i * self.n + j * LANES);
                    if TAIL && j == W - 1 { sums[i][j].store_part(to, self.tail) } else { sums[i][j].store(to) }
                }
            }
        }
    }
}

/// Vector `j` of `n`, of which with `TAIL` the last holds `tail` values only.
#[inline(always)]
unsafe fn load<V: Vector, const TAIL: bool>(from: *const f32, j: usize, n: usize, tail: usize) -> V {
    unsafe {
        let from = from.add(j * LANES);
        if TAIL && j + 1 == n { V::load_part(from, tail) } else { V::load(from) }
    }
}

#[inline(always)]
unsafe fn outer_body<V: Vector>(x: &[f32], y: &[f32], out: &mut [f32]) {
    let n = y.len();
    let whole = n / LANES * LANES;
    for (i, &x) in x.iter().enumerate() {
        unsafe {
            let row = out.as_mut_ptr().add(i * n);
            let x = V::splat(x);
            let mut j = 0;
            while j < whole {
                x.mul(V::load(y.as_ptr().add(j))).store(row.add(j));
                j += LANES;
            }
            if whole < n {
                x.mul(V::load_part(y.as_ptr().add(whole), n - whole)).store_part(row.add(whole), n - whole);
            }
        }
    }
}

/// Copies one channel's bases and gradients (as bits) next to each other.
#[inline(always)]
fn gather_channel<'a>(choices: &Choices<'_>, channel: usize, scratch: &'a mut [u32]) -> (&'a [u32], &'a [u32]) {
    let n_positions = choices.gradient.len() / choices.n_channels;
    let (bases, gradients) = scratch[..2 * n_positions].split_at_mut(n_positions);
    for p in 0..n_positions {
        let at = p * choices.n_channels + channel;
        bases[p] = choices.bases[p * choices.window + choices.choice[at] as usize];
        gradients[p] = choices.gradient[at].to_bits();
    }
    (bases, gradients)
}

/// Walks the runs of a patch in blocks of up to `BLOCK` vectors: `$full` and then `$part` get the offset in the patch,
/// the offset in the input and the number of vectors (and of values).
macro_rules! for_each_block {
    ($patch:expr, $run:ident) => {
        let patch = $patch;
        for s in 0..patch.n_segments {
            let mut t = 0;
            while t < patch.segment_len {
                let len = (patch.segment_len - t).min(BLOCK * LANES);
                let (k, at) = (s * patch.segment_len + t, s * patch.segment_stride + t);
                let tail = len - (len.div_ceil(LANES) - 1) * LANES;
                match (len.div_ceil(LANES), tail == LANES) {
                    (1, true) => $run!(1, false, k, at, tail),
                    (2, true) => $run!(2, false, k, at, tail),
                    (3, true) => $run!(3, false, k, at, tail),
                    (4, true) => $run!(4, false, k, at, tail),
                    (5, true) => $run!(5, false, k, at, tail),
                    (6, true) => $run!(6, false, k, at, tail),
                    (1, false) => $run!(1, true, k, at, tail),
                    (2, false) => $run!(2, true, k, at, tail),
                    (3, false) => $run!(3, true, k, at, tail),
                    (4, false) => $run!(4, true, k, at, tail),
                    (5, false) => $run!(5, true, k, at, tail),
                    _ => $run!(6, true, k, at, tail),
                }
                t += len;
            }
        }
    };
}

#[inline(always)]
unsafe fn scatter_weights_body<V: Vector>(
    x: &[f32],
    patch: Patch,
    choices: Choices<'_>,
    scratch: &mut [u32],
    out: &mut [f32],
) {
    for channel in 0..choices.n_channels {
        let (bases, gradients) = gather_channel(&choices, channel, scratch);
        let out = &mut out[channel * patch.len()..(channel + 1) * patch.len()];
        macro_rules! run {
            ($n:literal, $tail:literal, $k:ident, $at:ident, $len:ident) => {
                unsafe {
                    weights_block::<V, $n, $tail>(x.as_ptr().add($at), bases, gradients, out.as_mut_ptr().add($k), $len)
                }
            };
        }
        for_each_block!(patch, run);
    }
}

#[inline(always)]
unsafe fn weights_block<V: Vector, const N: usize, const TAIL: bool>(
    x: *const f32,
    bases: &[u32],
    gradients: &[u32],
    out: *mut f32,
    tail: usize,
) {
    unsafe {
        let mut sums = [V::splat(0.0); N];
        for (&base, &gradient) in bases.iter().zip(gradients) {
            let gradient = V::splat(f32::from_bits(gradient));
            let x = x.add(base as usize);
            for j in 0..N {
                sums[j] = sums[j].add_product(gradient, load::<V, TAIL>(x, j, N, tail));
            }
        }
        for j in 0..N {
            let to = out.add(j * LANES);
            if TAIL && j == N - 1 { sums[j].store_part(to, tail) } else { sums[j].store(to) }
        }
    }
}

/// Lists each position's channels by their choice, and by number among equal choices.
#[inline(always)]
fn sort_channels<'a>(choices: &Choices<'_>, scratch: &'a mut [u32]) -> &'a [u32] {
    let (starts, rest) = scratch.split_at_mut(choices.window);
    let sorted = &mut rest[..choices.gradient.len()];
    let rows = choices.choice.chunks_exact(choices.n_channels);
    for (choice, sorted) in rows.zip(sorted.chunks_exact_mut(choices.n_channels)) {
        starts.fill(0);
        for &q in choice {
            starts[q as usize] += 1;
        }
        let mut start = 0;
        for count in starts.iter_mut() {
            (*count, start) = (start, start + *count);
        }
        for (channel, &q) in choice.iter().enumerate() {
            let at = &mut starts[q as usize];
            sorted[*at as usize] = channel as u32;
            *at += 1;
        }
    }
    sorted
}

#[inline(always)]
unsafe fn scatter_input_body<V: Vector>(
    kernel: &[f32],
    patch: Patch,
    choices: Choices<'_>,
    scratch: &mut [u32],
    out: &mut [f32],
) {
    let sorted = sort_channels(&choices, scratch);
    let patch_len = patch.len();
    macro_rules! run {
        ($n:literal, $tail:literal, $k:ident, $at:ident, $len:ident) => {
            unsafe {
                let kernel = kernel.as_ptr().add($k);
                input_block::<V, $n, $tail>(kernel, patch_len, choices, sorted, out.as_mut_ptr().add($at), $len)
            }
        };
    }
    for_each_block!(patch, run);
}

#[inline(always)]
unsafe fn input_block<V: Vector, const N: usize, const TAIL: bool>(
    kernel: *const f32,
    patch_len: usize,
    choices: Choices<'_>,
    sorted: &[u32],
    out: *mut f32,
    tail: usize,
) {
    let n_channels = choices.n_channels;
    for (p, sorted) in sorted.chunks_exact(n_channels).enumerate() {
        unsafe {
            let gradient = choices.gradient.as_ptr().add(p * n_channels);
            let choice = choices.choice.as_ptr().add(p * n_channels);
            let mut i = 0;
            while i < n_channels {
                let q = *choice.add(*sorted.get_unchecked(i) as usize);
                let mut sums = [V::splat(0.0); N];
                while i < n_channels {
                    let channel = *sorted.get_unchecked(i) as usize;
                    if *choice.add(channel) != q {
                        break;
                    }
                    let gradient = V::splat(*gradient.add(channel));
                    let kernel = kernel.add(channel * patch_len);
                    for j in 0..N {
                        sums[j] = sums[j].add_product(gradient, load::<V, TAIL>(kernel, j, N, tail));
                    }
                    i += 1;
                }
                let out = out.add(*choices.bases.get_unchecked(p * choices.window + q as usize) as usize);
                for j in 0..N {
                    let at = out.add(j * LANES);
                    let sum = load::<V, TAIL>(out, j, N, tail).add(sums[j]);
                    if TAIL && j == N - 1 { sum.store_part(at, tail) } else { sum.store(at) }
                }
            }
        }
    }
}

#[inline(always)]
unsafe fn max_of_windows_body<V>(
    values: &[f32],
    window: usize,
    n_channels: usize,
    out: &mut [f32],
    choice: &mut [u32],
) {
    let positions = out.chunks_exact_mut(n_channels).zip(choice.chunks_exact_mut(n_channels));
    for ((out, choice), values) in positions.zip(values.chunks_exact(window * n_channels)) {
        // The usual window by itself, so that nothing is stored on the way.
        if window == 4 {
            let (upper, lower) = values.split_at(2 * n_channels);
            let ((a, b), (c, d)) = (upper.split_at(n_channels), lower.split_at(n_channels));
            let all = a.iter().zip(b).zip(c.iter().zip(d));
            for ((out, choice), ((&a, &b), (&c, &d))) in out.iter_mut().zip(choice.iter_mut()).zip(all) {
                (*out, *choice) = larger(larger(larger((a, 0), (b, 1)), (c, 2)), (d, 3));
            }
            continue;
        }
        let (first, others) = values.split_at(n_channels);
        out.copy_from_slice(first);
        choice.fill(0);
        for (q, values) in others.chunks_exact(n_channels).enumerate() {
            for ((best, choice), &value) in out.iter_mut().zip(choice.iter_mut()).zip(values) {
                (*best, *choice) = larger((*best, *choice), (value, q as u32 + 1));
            }
        }
    }
}

/// The larger of two values with their positions, the first of equal ones. A NaN that is best stays best, and one that
/// comes becomes it.
#[inline(always)]
#[expect(clippy::neg_cmp_op_on_partial_ord, reason = "NaN counts as larger")]
fn larger(best: (f32, u32), next: (f32, u32)) -> (f32, u32) {
    let is_larger = !(next.0 <= best.0) & !best.0.is_nan();
    (if is_larger { next.0 } else { best.0 }, if is_larger { next.1 } else { best.1 })
}

#[inline(always)]
unsafe fn spread_body<V>(gradient: &[f32], choice: &[u32], places: &[u32], n_channels: usize, out: &mut [f32]) {
    let positions = gradient.chunks_exact(n_channels).zip(choice.chunks_exact(n_channels));
    let window = places.len() / (gradient.len() / n_channels).max(1);
    for ((gradient, choice), places) in positions.zip(places.chunks_exact(window.max(1))) {
        for (q, &place) in places.iter().enumerate() {
            let q = q as u32;
            let out = &mut out[place as usize * n_channels..][..n_channels];
            for ((out, &gradient), &choice) in out.iter_mut().zip(gradient).zip(choice) {
                *out = if choice == q { gradient } else { 0.0 };
            }
        }
    }
}

#[inline(always)]
unsafe fn transpose_body<V: Vector>(from: &[f32], n_rows: usize, to: &mut [f32]) {
    let n_columns = from.len() / n_rows;
    for row in (0..n_rows).step_by(LANES) {
        let height = (n_rows - row).min(LANES);
        for column in (0..n_columns).step_by(LANES) {
            let width = (n_columns - column).min(LANES);
            if height == LANES && width == LANES {
                unsafe {
                    let mut rows = [V::splat(0.0); LANES];
                    for i in 0..LANES {
                        rows[i] = V::load(from.as_ptr().add((row + i) * n_columns + column));
                    }
                    if let Some(columns) = V::transpose(rows) {
                        for j in 0..LANES {
                            columns[j].store(to.as_mut_ptr().add((column + j) * n_rows + row));
                        }
                        continue;
                    }
                }
            }
            for j in column..column + width {
                let to = &mut to[j * n_rows + row..][..height];
                for (to, i) in to.iter_mut().zip(row..) {
                    *to = from[i * n_columns + j];
                }
            }
        }
    }
}

#[inline(always)]
unsafe fn squared_norm_body<V>(values: &[f32], sum: &mut [f64; 1]) {
    let mut lanes = [0.0_f64; 8];
    let (chunks, rest) = values.as_chunks::<8>();
    for chunk in chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            // The square of an f32 is exact in f64, so that it makes no difference whether it is fused.
            *lane += f64::from(x) * f64::from(x);
        }
    }
    for (lane, &x) in lanes.iter_mut().zip(rest) {
        *lane += f64::from(x) * f64::from(x);
    }
    for half in [4, 2, 1] {
        for i in 0..half {
            lanes[i] += lanes[i + half];
        }
    }
    sum[0] = lanes[0];
}

/// Rows of a tile: 6 by 4 vectors of sums, 4 of b and one of a are 29 of the 32 registers of AVX-512.
const TALL: usize = 6;
/// Vectors of a patch that are held at once: part of the order of sums, so the same for all instruction sets.
const BLOCK: usize = 6;
const ZERO: u8 = 0;
const ROW: u8 = 1;
const ADD: u8 = 2;

#[cfg(test)]
mod tests;
