//! Rounding at random to the integer grid, without bias, and how far it widens a vector: the sensitivity of client-level
//! updates.

use chacha20::rand_core::Rng;

/// Delta2: the L2 norm below which a vector of norm `scaled_clip`, in `dimension` coordinates, stays after randomized
/// rounding that is redrawn while it exceeds the bound:
/// min{ C s + sqrt d, sqrt(C^2 s^2 + d/4 + sqrt(2 ln(1/beta)) (C s + sqrt(d)/2)) }
/// (Kairouz, Liu and Steinke 2021, theorem 1). `beta` is how often it may be redrawn; 0 for never.
pub fn l2_bound(scaled_clip: f64, dimension: u32, beta: f64) -> f64 {
    let (c, d) = (scaled_clip, f64::from(dimension));
    let always = c + d.sqrt();
    if beta <= 0.0 {
        return always;
    }
    let squared = c * c + d / 4.0 + (-2.0 * beta.ln()).sqrt() * (c + d.sqrt() / 2.0);
    always.min(squared.sqrt())
}

/// Delta1 of an integer vector of L2 norm at most `l2_bound`: Delta2 min(sqrt d, Delta2).
pub fn l1_bound(l2_bound: f64, dimension: u32) -> f64 {
    l2_bound * f64::from(dimension).sqrt().min(l2_bound)
}

/// floor(Delta2^2) for an integer `scaled_clip` = C s at beta = e^-1/2, at which sqrt(2 ln(1/beta)) is 1: [`l2_bound`] with
/// operations alone that round the same everywhere, for a figure that every party recomputes.
pub fn l2_bound_squared(scaled_clip: u32, dimension: u32) -> u64 {
    let (c, d) = (f64::from(scaled_clip), f64::from(dimension));
    let always = (c + d.sqrt()) * (c + d.sqrt());
    let redrawn = c * c + d / 4.0 + c + d.sqrt() / 2.0;
    always.min(redrawn).floor() as u64
}

/// Rounds every `values[i] * factor` at random to one of the two integers beside it, without bias, and again until the sum
/// of squares is at most `squared_max`. After [`ATTEMPTS_MAX`] failures (1e-14 where the bound is that of
/// [`l2_bound_squared`]) the vector is zero: what privacy rests on is the integers' norm alone.
pub(crate) fn round_within(values: &[i64], factor: f64, squared_max: u64, rng: &mut impl Rng) -> Vec<i64> {
    let mut rounded = vec![0; values.len()];
    for _ in 0..ATTEMPTS_MAX {
        let mut squared = 0u128;
        for (rounded, value) in rounded.iter_mut().zip(values) {
            let real = *value as f64 * factor;
            let below = real.floor();
            let uniform = (rng.next_u64() >> 11) as f64 * (0.5f64).powi(53);
            *rounded = below as i64 + i64::from(uniform < real - below);
            squared += u128::from(rounded.unsigned_abs()).pow(2);
        }
        if squared <= u128::from(squared_max) {
            return rounded;
        }
    }
    rounded.fill(0);
    rounded
}

/// How often a vector is rounded at most.
const ATTEMPTS_MAX: usize = 64;
