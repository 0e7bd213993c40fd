//! A silo's exact path: each record's gradient becomes integers of bounded norm, and from there on nothing is rounded
//! but once, at the end, the same for everyone.
//!
//! Floating-point sums depend on their order: in a batched f32 sum one record whose own terms cancel can move the sum by
//! many times its clip. Here a record's integers are a function of that record's gradient alone, and integers add up
//! to the same sum in any order, from any number of workers. That the gradient itself is a function of model and record
//! alone is the trainer's part.

use std::fmt;

use eranos_base::Entropy;
use zeroize::Zeroize;

use crate::{
    mechanism::{GRID, RecordMechanism},
    noise::NoiseSource,
    rotation::{RotationSeed, reduce, rotate},
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

/// The sum of clipped record gradients of one attempt: of a silo, or of one of its workers. It is wiped when dropped.
///
/// Memory: 12 bytes a parameter.
pub struct SiloSum {
    l2_clip_norm: f64,
    shift: u8,
    d_pad: usize,
    slots_max: u32,
    n_slots: u32,
    /// Records since the last flush; at most [`PARTIAL_LEN_MAX`].
    n_partial: u32,
    partial: Vec<i32>,
    total: Vec<i64>,
}

impl SiloSum {
    /// An empty sum.
    pub fn new(mechanism: &RecordMechanism) -> Self {
        let p = mechanism.parameters();
        Self {
            l2_clip_norm: p.l2_clip_norm,
            shift: p.shift,
            d_pad: p.d_pad as usize,
            slots_max: p.records_per_round,
            n_slots: 0,
            n_partial: 0,
            partial: vec![0; p.n_parameters as usize],
            total: vec![0; p.n_parameters as usize],
        }
    }

    /// Takes in the gradient of the record of one slot. A [`Weight::Dummy`] is worked on in the same way, and adds
    /// nothing.
    ///
    /// The record's integers are w = trunc(g K/max(C, |g|)), shrunk until |w|^2 <= K^2; all zero if a value of the
    /// gradient is not finite.
    ///
    /// # Errors
    /// If the gradient has the wrong length or all slots are used.
    pub fn add(&mut self, gradient: &[f32], weight: Weight) -> Result<(), SiloError> {
        if gradient.len() != self.partial.len() {
            return Err(SiloError::GradientLength { found: gradient.len(), expected: self.partial.len() });
        }
        if self.n_slots == self.slots_max {
            return Err(SiloError::TooManySlots { records_per_round: self.slots_max });
        }
        self.n_slots += 1;
        if self.n_partial == PARTIAL_LEN_MAX {
            self.flush();
        }
        self.n_partial += 1;

        let squared = squared_norm(gradient);
        // Squares of finite f32 neither overflow an f64 nor vanish in it, so this sees every infinity and every NaN. The
        // record is zeroed by the mask, not by a multiplication.
        let (factor, keep) = if squared.is_finite() {
            (f64::from(GRID) / squared.sqrt().max(self.l2_clip_norm), weight.mask())
        } else {
            (0.0, 0)
        };
        if add_scaled(gradient, factor, keep, &mut self.partial) > GRID_SQUARED {
            self.add_shrunk(gradient, factor, keep);
        }
        Ok(())
    }

    /// Takes in another worker's sum of the same attempt.
    ///
    /// # Errors
    /// If it is of another mechanism, or both together have more than B_max slots.
    pub fn merge(&mut self, mut other: Self) -> Result<(), SiloError> {
        let key = |s: &Self| (s.l2_clip_norm.to_bits(), s.shift, s.d_pad, s.slots_max, s.total.len());
        if key(self) != key(&other) {
            return Err(SiloError::OtherMechanism);
        }
        if self.n_slots + other.n_slots > self.slots_max {
            return Err(SiloError::TooManySlots { records_per_round: self.slots_max });
        }
        self.n_slots += other.n_slots;
        other.flush();
        for (sum, term) in self.total.iter_mut().zip(&other.total) {
            *sum += term;
        }
        Ok(())
    }

    /// The rotated and rounded sum, before noise: V = (H(D W) + 2^(e-1)) >> e, of length d.
    ///
    /// It is private: [`SiloSum::contribute`] is the way out of the silo. This is for tests and audits.
    pub fn finish(mut self, seed: &RotationSeed) -> Vec<i64> {
        self.flush();
        let mut sum = Vec::with_capacity(self.d_pad);
        sum.extend_from_slice(&self.total);
        sum.resize(self.d_pad, 0);
        rotate(&mut sum, seed);
        let half = 1i64 << (self.shift - 1);
        for value in &mut sum {
            *value = (*value + half) >> self.shift;
        }
        sum
    }

    /// What may be masked and sent: rotated, rounded, with a fresh share of noise from `entropy`, modulo 2^b.
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
        let own = (self.l2_clip_norm.to_bits(), self.shift, self.d_pad, self.slots_max, self.total.len());
        let theirs =
            (p.l2_clip_norm.to_bits(), p.shift, p.d_pad as usize, p.records_per_round, p.n_parameters as usize);
        if own != theirs {
            return Err(SiloError::OtherMechanism);
        }
        let mut sum = self.finish(seed);
        NoiseSource::new(p.noise_variance, entropy).add_to(&mut sum);
        let vector = reduce(&sum, p.bits);
        sum.zeroize();
        Ok(vector)
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
    fn add_shrunk(&mut self, gradient: &[f32], factor: f64, keep: i32) {
        let mut integers: Vec<i32> = gradient.iter().map(|value| scaled(*value, factor)).collect();
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

/// |g|^2 in f64, always in the same order: lane i sums the values i, i + 16, ..., then the lanes are summed in order.
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

/// trunc(g K/max(C, |g|)). |factor g| <= K (1 + 2^-26), so it fits.
#[inline(always)]
fn scaled(value: f32, factor: f64) -> i32 {
    (f64::from(value) * factor) as i32
}

/// Adds the integers of a record to `partial`, masked by `keep`, and returns the square of their norm.
///
/// That is computed in f64 without a rounding: the integers and their squares are exact there, and so are sums up to 2^53.
/// A sum beyond that, whatever its rounding, stays beyond K^2 = 2^48.
fn add_scaled(gradient: &[f32], factor: f64, keep: i32, partial: &mut [i32]) -> f64 {
    let mut lanes = [0.0; ADD_LANES];
    let (blocks, rest) = gradient.as_chunks::<ADD_LANES>();
    let (sums, sums_rest) = partial.as_chunks_mut::<ADD_LANES>();
    for (block, sum) in blocks.iter().zip(sums) {
        let w: [i32; ADD_LANES] = std::array::from_fn(|i| scaled(block[i], factor));
        for i in 0..ADD_LANES {
            lanes[i] += f64::from(w[i]) * f64::from(w[i]);
            sum[i] = sum[i].wrapping_add(w[i] & keep);
        }
    }
    for ((value, sum), lane) in rest.iter().zip(sums_rest).zip(&mut lanes) {
        let w = scaled(*value, factor);
        *lane += f64::from(w) * f64::from(w);
        *sum = sum.wrapping_add(w & keep);
    }
    lanes.iter().sum()
}

/// Multiplies by 1 - 2^-20 and truncates toward zero, until |w|^2 <= K^2.
fn shrink(integers: &mut [i32]) {
    let squared = |w: &[i32]| w.iter().map(|w| i128::from(*w) * i128::from(*w)).sum::<i128>();
    while squared(integers) > 1 << 48 {
        for w in &mut *integers {
            // Integer division truncates toward zero. Every nonzero value gets smaller, so the loop ends.
            *w = (i64::from(*w) * ((1 << 20) - 1) / (1 << 20)) as i32;
        }
    }
}

const NORM_LANES: usize = 16;
const ADD_LANES: usize = 8;
const GRID_SQUARED: f64 = (GRID as f64) * (GRID as f64);
/// 127 integers of at most 2^24 fit an i32.
const PARTIAL_LEN_MAX: u32 = 127;
