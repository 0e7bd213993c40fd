//! A silo's exact path: each record's gradient becomes integers of bounded norm, and from there on nothing is rounded
//! but once, at the end, the same for everyone.
//!
//! Floating-point sums depend on their order: in a batched f32 sum one record whose own terms cancel can move the sum by
//! many times its clip. Here a record's integers are a function of that record's gradient alone, and integers add up
//! to the same sum in any order, from any number of workers. That the gradient itself is a function of model and record
//! alone is the trainer's part.

use std::{fmt, mem, ops::Range, slice};

use eranos_base::Entropy;
use rayon::prelude::*;
use zeroize::{Zeroize, Zeroizing};

use crate::{
    groups::{Figures, GROUPS_MAX, Groups},
    mechanism::{GRID, Noise, RecordMechanism},
    noise::add_noise,
    rotation::{RotationSeed, reduce, rotate, rotate_back},
    sampler::Weight,
};

/// Why a gradient or a worker's sum was not taken in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SiloError {
    /// The gradient has another length than the model.
    #[error("gradient of {found} values, expected {expected}")]
    GradientLength {
        /// Its length.
        found: usize,
        /// The model's number of parameters.
        expected: usize,
    },
    /// Ranges that overlap, are out of order, or end beyond the gradient.
    #[error("the ranges of the gradient are not in order")]
    Ranges,
    /// More than B_max slots in one attempt.
    #[error("more than {records_per_round} slots in one attempt")]
    TooManySlots {
        /// B_max.
        records_per_round: u32,
    },
    /// Sums of different mechanisms.
    #[error("sums of different mechanisms do not add up")]
    OtherMechanism,
}

/// The sum of clipped record gradients of one attempt, with what travels beside them ([`crate::groups`]): of a silo, or of one
/// of its workers. It is wiped when dropped.
///
/// Memory: 4 bytes a parameter and 8 a coordinate of the padded vector.
pub struct SiloSum {
    arch: pulp::Arch,
    shape: Shape,
    n_slots: u32,
    /// Records since the last flush; at most [`PARTIAL_LEN_MAX`].
    n_partial: u32,
    partial: Vec<i32>,
    total: Vec<i64>,
}

/// What two sums must have in common to be added up.
#[derive(Clone, Copy, PartialEq)]
struct Shape {
    groups: Groups,
    l2_clip_norm: f64,
    shift: u8,
    n_parameters: usize,
    d_pad: usize,
    slots_max: u32,
}

impl Shape {
    fn of(mechanism: &RecordMechanism) -> Self {
        let p = mechanism.parameters();
        Self {
            groups: p.groups,
            l2_clip_norm: p.l2_clip_norm,
            shift: p.shift,
            n_parameters: p.n_parameters as usize,
            d_pad: p.d_pad as usize,
            slots_max: p.records_per_round,
        }
    }

    /// Parameters, and behind them the groups.
    fn n_values(&self) -> usize {
        self.n_parameters + self.groups.len() as usize
    }
}

impl SiloSum {
    /// An empty sum.
    pub fn new(mechanism: &RecordMechanism) -> Self {
        let shape = Shape::of(mechanism);
        // Room for the padding, so that no copy is left behind where the sum becomes a vector.
        let mut total = Vec::with_capacity(shape.d_pad);
        total.resize(shape.n_values(), 0);
        Self { arch: pulp::Arch::new(), shape, n_slots: 0, n_partial: 0, partial: vec![0; shape.n_values()], total }
    }

    /// Takes in the gradient of the record of one slot, with figures of zero. A [`Weight::Dummy`] is worked on in the same
    /// way, and adds nothing.
    ///
    /// # Errors
    /// If the gradient has the wrong length or all slots are used.
    pub fn add(&mut self, gradient: &[f32], weight: Weight) -> Result<(), SiloError> {
        self.add_record(gradient, slice::from_ref(&(0..gradient.len())), &Figures::default(), weight)
    }

    /// Takes in the record of one slot: its `figures`, and of its gradient what lies within `ranges`, which are in ascending
    /// order and do not overlap; all else counts as zero and is not looked at.
    ///
    /// The record's integers are w = trunc(g sqrt(rho_0) K/max(C, |g|)), and behind them those of the groups,
    /// trunc(x sqrt(rho_j) K/C_j) of each value x cut to [0, C_j]; 2^-22 taken off before for what rounding may add. All of
    /// them together are shrunk until |w|^2 <= K^2, which is what privacy rests on; all are zero if a value of gradient or
    /// figures is not a number, or one of the gradient is infinite. They are a function of ranges, gradient and figures alone.
    ///
    /// # Errors
    /// As [`SiloSum::add`]; and if the ranges are not as said.
    pub fn add_record(
        &mut self,
        gradient: &[f32],
        ranges: &[Range<usize>],
        figures: &Figures,
        weight: Weight,
    ) -> Result<(), SiloError> {
        let Shape { groups, l2_clip_norm, n_parameters, slots_max, .. } = self.shape;
        if gradient.len() != n_parameters {
            return Err(SiloError::GradientLength { found: gradient.len(), expected: n_parameters });
        }
        // Each begins where the one before has ended, or later; so none is counted twice.
        let end = ranges.iter().try_fold(0, |end, r| (end <= r.start && r.start <= r.end).then_some(r.end));
        if end.is_none_or(|end| end > gradient.len()) {
            return Err(SiloError::Ranges);
        }
        if self.n_slots == slots_max {
            return Err(SiloError::TooManySlots { records_per_round: slots_max });
        }
        self.n_slots += 1;
        if self.n_partial == PARTIAL_LEN_MAX {
            self.flush();
        }
        self.n_partial += 1;

        // The widest vectors that this processor has; the same operations on the same lanes, so the same bits, with any.
        let squared = self.arch.dispatch(SquaredNorm { gradient, ranges });
        let beside = groups.coordinates(figures, squared.sqrt() > l2_clip_norm);
        // Squares of finite f32 neither overflow an f64 nor vanish in it, so this sees every infinity and every NaN. The
        // record is zeroed by the mask, not by a multiplication.
        let (factor, keep) = match squared.is_finite() && beside.iter().all(|value| value.is_finite()) {
            true => (scale(squared, l2_clip_norm, groups.model.root()), weight.mask()),
            false => (0.0, 0),
        };
        let beside = beside.map(|value| (value * f64::from(GRID) * (1.0 - MARGIN)) as i32);
        let (partial, others) = self.partial.split_at_mut(n_parameters);
        let mut squared = self.arch.dispatch(AddScaled { gradient, ranges, factor, keep, partial });
        for (sum, w) in others.iter_mut().zip(beside) {
            *sum = sum.wrapping_add(w & keep);
            squared += f64::from(w) * f64::from(w);
        }
        if squared > GRID_SQUARED {
            self.add_shrunk(gradient, ranges, factor, beside, keep);
        }
        Ok(())
    }

    /// Takes in another worker's sum of the same attempt, and leaves that one empty, with its memory, for another attempt.
    ///
    /// # Errors
    /// If it is of another mechanism, or both together have more than B_max slots; nothing has changed then.
    pub fn merge(&mut self, other: &mut Self) -> Result<(), SiloError> {
        if self.shape != other.shape {
            return Err(SiloError::OtherMechanism);
        }
        if self.n_slots + other.n_slots > self.shape.slots_max {
            return Err(SiloError::TooManySlots { records_per_round: self.shape.slots_max });
        }
        self.n_slots += other.n_slots;
        self.total.par_chunks_mut(BLOCK_LEN).enumerate().for_each(|(i, block)| other.add_to(i * BLOCK_LEN, block));
        other.clear();
        Ok(())
    }

    /// Adds the exact sum itself, W in units of C/K, to `out`: as many values as it has, from the parameter `at` on; behind
    /// the parameters come the groups.
    ///
    /// It is private: [`SiloSum::contribute`] is the way out of the silo. This is for tests, audits and measurements.
    ///
    /// # Panics
    /// If there are not as many.
    pub fn add_to(&self, at: usize, out: &mut [i64]) {
        let range = at..at + out.len();
        for (sum, partial) in out.iter_mut().zip(&self.partial[range.clone()]) {
            *sum += i64::from(*partial);
        }
        if self.has_total() {
            for (sum, total) in out.iter_mut().zip(&self.total[range]) {
                *sum += total;
            }
        }
    }

    /// Empty again, with the same memory, for another attempt.
    pub fn clear(&mut self) {
        if self.has_total() {
            self.total.fill(0);
        }
        self.partial.fill(0);
        (self.n_slots, self.n_partial) = (0, 0);
    }

    /// Whether anything but the partial sums can be other than zero.
    fn has_total(&self) -> bool {
        self.n_slots > self.n_partial
    }

    /// The rotated and rounded sum, before noise: V = (H(D W) + 2^(e-1)) >> e, of length d.
    ///
    /// It is private: [`SiloSum::contribute`] is the way out of the silo. This is for tests and audits.
    pub fn finish(mut self, seed: &RotationSeed) -> Vec<i64> {
        self.flush();
        let mut sum = mem::take(&mut self.total);
        sum.resize(self.shape.d_pad, 0);
        rotate(&mut sum, seed);
        let shift = self.shape.shift;
        let half = 1i64 << (shift - 1);
        sum.par_chunks_mut(BLOCK_LEN).for_each(|block| {
            for value in block {
                *value = (*value + half) >> shift;
            }
        });
        sum
    }

    /// What may be masked and sent: rotated, rounded, with a fresh share of noise from `entropy` where the mechanism has
    /// noise, modulo 2^b.
    ///
    /// An attempt that is repeated starts from a new sample and a new sum; nothing of this one can be used again.
    ///
    /// # Errors
    /// If `mechanism` is not the one this sum was made under.
    pub fn contribute(
        self,
        mechanism: &RecordMechanism,
        seed: &RotationSeed,
        entropy: &mut dyn Entropy,
    ) -> Result<Vec<u32>, SiloError> {
        let p = mechanism.parameters();
        if self.shape != Shape::of(mechanism) {
            return Err(SiloError::OtherMechanism);
        }
        let mut sum = self.finish(seed);
        if let Some(variance) = p.noise.share_variance() {
            add_noise(variance, entropy, &mut sum);
        }
        let vector = reduce(&sum, p.bits);
        sum.zeroize();
        Ok(vector)
    }

    /// The noised mean over the expected lot, for a step of the silo's own: rotated, rounded and noised with one share, and
    /// brought back at once. No coordinate of the sum itself leaves; of this nobody need be kept from anything.
    ///
    /// # Errors
    /// If `mechanism` is not the one this sum was made under, or has no local noise.
    pub fn noised_mean(
        self,
        mechanism: &RecordMechanism,
        seed: &RotationSeed,
        entropy: &mut dyn Entropy,
    ) -> Result<Zeroizing<Vec<f64>>, SiloError> {
        let Noise::Local(variance) = mechanism.parameters().noise else { return Err(SiloError::OtherMechanism) };
        if self.shape != Shape::of(mechanism) {
            return Err(SiloError::OtherMechanism);
        }
        let n_parameters = self.shape.n_parameters;
        let mut sum = Zeroizing::new(self.finish(seed));
        add_noise(variance, entropy, &mut sum);
        rotate_back(&mut sum, seed);
        let factor = mechanism.lot_factor();
        Ok(Zeroizing::new(sum[..n_parameters].iter().map(|value| *value as f64 * factor).collect()))
    }

    /// Puts the partial sums of 32 bits into those of 64.
    fn flush(&mut self) {
        for (total, partial) in self.total.iter_mut().zip(&mut self.partial) {
            *total += i64::from(*partial);
            *partial = 0;
        }
        self.n_partial = 0;
    }

    /// Takes out what [`add_scaled`] put in for a record whose integers came out longer than K, and puts in the integers
    /// shrunk by 1 - 2^-20 until they fit. Rounding could do that; it has not been seen to.
    #[cold]
    fn add_shrunk(
        &mut self,
        gradient: &[f32],
        ranges: &[Range<usize>],
        factor: f32,
        beside: [i32; GROUPS_MAX],
        keep: i32,
    ) {
        let mut integers = vec![0; self.partial.len()];
        for range in ranges {
            for (integer, value) in integers[range.clone()].iter_mut().zip(&gradient[range.clone()]) {
                *integer = to_integer(truncated(*value, factor));
            }
        }
        for (integer, w) in integers[gradient.len()..].iter_mut().zip(beside) {
            *integer = w;
        }
        for (sum, w) in self.partial.iter_mut().zip(&integers) {
            *sum = sum.wrapping_sub(w & keep);
        }
        shrink(&mut integers);
        for (sum, w) in self.partial.iter_mut().zip(&integers) {
            *sum = sum.wrapping_add(w & keep);
        }
        integers.zeroize();
    }
}

impl Drop for SiloSum {
    fn drop(&mut self) {
        self.partial.zeroize();
        self.total.zeroize();
    }
}

impl fmt::Debug for SiloSum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SiloSum(omitted)")
    }
}

/// Takes the gradient of the record of one slot into `sum`: [`SiloSum::add`] as a function, for a trainer's hot loop.
///
/// # Errors
/// If the gradient has the wrong length or all slots are used.
pub fn clip_into(gradient: &[f32], weight: Weight, sum: &mut SiloSum) -> Result<(), SiloError> {
    sum.add(gradient, weight)
}

/// [`squared_norm`] for `pulp`, which compiles it for each width of vectors. (A closure would not be inlined there.)
struct SquaredNorm<'a> {
    gradient: &'a [f32],
    ranges: &'a [Range<usize>],
}

impl pulp::NullaryFnOnce for SquaredNorm<'_> {
    type Output = f64;

    #[inline(always)]
    fn call(self) -> f64 {
        // A loop: what an iterator's fold is given would be compiled by itself, for the narrowest vectors.
        let mut squared = 0.0;
        for range in self.ranges {
            squared += squared_norm(&self.gradient[range.clone()]);
        }
        squared
    }
}

/// [`add_scaled`] for `pulp`.
struct AddScaled<'a> {
    gradient: &'a [f32],
    ranges: &'a [Range<usize>],
    factor: f32,
    keep: i32,
    partial: &'a mut [i32],
}

impl pulp::NullaryFnOnce for AddScaled<'_> {
    type Output = f64;

    #[inline(always)]
    fn call(self) -> f64 {
        // Three plain loops over blocks that stay in the first-level cache: each is vectorised, one of all three was not.
        let mut staged = [0.0; STAGE_LEN];
        let mut squared = 0.0;
        for range in self.ranges {
            let (values, sums) = (&self.gradient[range.clone()], &mut self.partial[range.clone()]);
            squared += add_scaled(values, self.factor, self.keep, sums, &mut staged);
        }
        staged.zeroize();
        squared
    }
}

/// |g|^2 in f64, always in the same order: lane i sums the values i, i + 16, ..., then the lanes are summed in order.
#[inline(always)]
fn squared_norm(gradient: &[f32]) -> f64 {
    let mut lanes = [0.0; NORM_LANES];
    let (blocks, rest) = gradient.as_chunks::<NORM_LANES>();
    for block in blocks {
        for (lane, value) in lanes.iter_mut().zip(block) {
            let value = f64::from(*value);
            *lane += value * value;
        }
    }
    for (lane, value) in lanes.iter_mut().zip(rest) {
        *lane += f64::from(*value) * f64::from(*value);
    }
    lanes.iter().sum()
}

/// trunc(value factor), the product rounded to f32 before: off by 2^-24 of itself at most, less than [`scale`] takes off.
#[inline(always)]
fn truncated(value: f32, factor: f32) -> f32 {
    (value * factor).trunc()
}

/// What [`truncated`] gave, as an integer; of a value that is not finite, anything.
///
/// A cast would have to care for infinities and is not vectorised. Adding 1.5 2^52 leaves the integer in the low bits.
#[inline(always)]
fn to_integer(truncated: f32) -> i32 {
    (f64::from(truncated) + ROUNDER).to_bits() as i32
}

/// `root` K/max(C, |g|), less a margin for what rounding this factor and the products with it may add; `root` is that of the
/// model's share.
fn scale(squared_norm: f64, l2_clip_norm: f64, root: f64) -> f32 {
    (f64::from(GRID) * (1.0 - MARGIN) * root / squared_norm.sqrt().max(l2_clip_norm)) as f32
}

/// Adds the integers of a record to `partial`, masked by `keep`, and returns the square of their norm.
///
/// That is computed in f64 without a rounding: the integers and their squares are exact there, and so are sums up to 2^53.
/// A sum beyond that, whatever its rounding, stays beyond K^2 = 2^48.
#[inline(always)]
fn add_scaled(gradient: &[f32], factor: f32, keep: i32, partial: &mut [i32], staged: &mut [f32; STAGE_LEN]) -> f64 {
    let mut lanes = [0.0; NORM_LANES];
    for (values, sums) in gradient.chunks(STAGE_LEN).zip(partial.chunks_mut(STAGE_LEN)) {
        let staged = &mut staged[..values.len()];
        for (staged, value) in staged.iter_mut().zip(values) {
            *staged = truncated(*value, factor);
        }
        for (sum, staged) in sums.iter_mut().zip(&*staged) {
            *sum = sum.wrapping_add(to_integer(*staged) & keep);
        }
        let (blocks, rest) = staged.as_chunks::<NORM_LANES>();
        for block in blocks {
            for (lane, w) in lanes.iter_mut().zip(block) {
                *lane += f64::from(*w) * f64::from(*w);
            }
        }
        for (lane, w) in lanes.iter_mut().zip(rest) {
            *lane += f64::from(*w) * f64::from(*w);
        }
    }
    lanes.iter().sum()
}

/// Multiplies by 1 - 2^-20 and truncates toward zero, until |w|^2 <= K^2. What rounding can have added is far less than one
/// step takes off; integers that [`SHRINK_STEPS_MAX`] steps do not fit become zero.
fn shrink(integers: &mut [i32]) {
    let fits = |w: &[i32]| w.iter().map(|w| i128::from(*w) * i128::from(*w)).sum::<i128>() <= 1 << 48;
    for _ in 0..SHRINK_STEPS_MAX {
        if fits(integers) {
            return;
        }
        for w in &mut *integers {
            // Integer division truncates toward zero.
            *w = (i64::from(*w) * ((1 << 20) - 1) / (1 << 20)) as i32;
        }
    }
    if !fits(integers) {
        integers.fill(0);
    }
}

const SHRINK_STEPS_MAX: usize = 64;
/// What [`scale`] takes off the factor, 2^-22: above the 2^-24 of its own rounding and the 2^-24 of each product's.
const MARGIN: f64 = 1.0 / 4_194_304.0;
/// 1.5 2^52: numbers of its binade have steps of 1.
const ROUNDER: f64 = 6_755_399_441_055_744.0;
const NORM_LANES: usize = 16;
/// Values that are scaled, added and squared at once; 2 KiB on the stack.
const STAGE_LEN: usize = 512;
/// Values that one task adds up or rounds.
const BLOCK_LEN: usize = 1 << 14;
const GRID_SQUARED: f64 = (GRID as f64) * (GRID as f64);
/// 127 integers of at most 2^24 fit an i32.
const PARTIAL_LEN_MAX: u32 = 127;

#[cfg(test)]
mod tests;
