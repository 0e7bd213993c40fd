//! A client's update on its way into the sum, unit = client: clipped as a whole, rotated, scaled, rounded at random to
//! integers of bounded norm, noised.
//!
//! Floats end where the clip begins: the clipped update is put on a grid of 2^-40 of the clip norm, whose integers the
//! rotation adds up exactly. What privacy rests on is the norm of the integers that come out, which is checked.

use eranos_base::Entropy;
use zeroize::Zeroizing;

use crate::{
    groups::{Figures, Groups},
    mechanism::{ClientMechanism, Promise, RecordMechanism},
    noise::add_noise,
    rotation::{RotationSeed, reduce, rotate},
    rounding::{l2_bound_squared, round_within},
    uniform::generator,
};

/// Why an update was not taken in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UpdateError {
    /// The update has another length than the model.
    #[error("update of {found} values, expected {expected}")]
    Length {
        /// Its length.
        found: usize,
        /// The model's number of parameters.
        expected: usize,
    },
    /// The mechanism's silos take no steps of their own.
    #[error("the mechanism has no training of a silo's own")]
    NoTraining,
}

/// What may be masked and sent of `update`, the change of every parameter of the model, with the `figures` that the
/// mechanism's groups ask for behind it ([`crate::groups`]): clipped, rotated, rounded, with a fresh share of noise from
/// `entropy` where the mechanism has noise, modulo 2^b. An update with a value that is not finite, or a figure that is not
/// a number, counts as zero with all that travels beside it, and its noise is added all the same.
///
/// # Errors
/// If the update has the wrong length.
pub fn contribute(
    update: &[f64],
    figures: &Figures,
    mechanism: &ClientMechanism,
    seed: &RotationSeed,
    entropy: &mut dyn Entropy,
) -> Result<Vec<u32>, UpdateError> {
    let p = mechanism.parameters();
    if update.len() != p.n_parameters as usize {
        return Err(UpdateError::Length { found: update.len(), expected: p.n_parameters as usize });
    }
    let mut vector = integers(update, figures, mechanism, seed, entropy);
    if let Some(variance) = p.noise.share_variance() {
        add_noise(variance, entropy, &mut vector);
    }
    Ok(reduce(&vector, p.bits))
}

/// What may be masked and sent of `update`, the change of every parameter of the model by a silo's own training: clipped,
/// rotated, rounded, modulo 2^b. Its noise is that of its steps ([`crate::SiloSum::noised_mean`]); none is added.
///
/// # Errors
/// If the update has the wrong length, or the mechanism no training of a silo's own.
pub fn contribute_trained(
    update: &[f64],
    mechanism: &RecordMechanism,
    seed: &RotationSeed,
    entropy: &mut dyn Entropy,
) -> Result<Vec<u32>, UpdateError> {
    let p = mechanism.parameters();
    let local = p.local.ok_or(UpdateError::NoTraining)?;
    if update.len() != p.n_parameters as usize {
        return Err(UpdateError::Length { found: update.len(), expected: p.n_parameters as usize });
    }
    let mut grid = clip(update, &Figures::default(), &Groups::default(), local.update_clip_norm, p.d_pad as usize);
    rotate(&mut grid, seed);
    let scaled_clip = mechanism.scaled_update_clip();
    let factor = f64::from(scaled_clip) / (f64::from(p.d_pad).sqrt() * GRID as f64);
    let squared_max = l2_bound_squared(scaled_clip, p.d_pad);
    let vector = Zeroizing::new(round_within(&grid, factor, squared_max, &mut generator(entropy)));
    Ok(reduce(&vector, p.bits))
}

/// The update's integers before noise, of length d: their squares sum to [`ClientMechanism::norm_squared_max`] at most.
fn integers(
    update: &[f64],
    figures: &Figures,
    mechanism: &ClientMechanism,
    seed: &RotationSeed,
    entropy: &mut dyn Entropy,
) -> Zeroizing<Vec<i64>> {
    let common = mechanism.common();
    let mut grid = clip(update, figures, &common.groups, common.l2_clip_norm, common.d_pad as usize);
    rotate(&mut grid, seed);
    // H multiplies the norm by sqrt d, the grid by GRID/C.
    let factor = f64::from(mechanism.parameters().scaled_clip) / (f64::from(common.d_pad).sqrt() * GRID as f64);
    Zeroizing::new(round_within(&grid, factor, mechanism.norm_squared_max(), &mut generator(entropy)))
}

/// trunc(x sqrt(rho_0) GRID/max(C, |x|)) of every value of the update, behind them trunc(x sqrt(rho_j) GRID/C_j) of every
/// figure cut to [0, C_j], padded to `d_pad`, all of it shrunk until the integer norm is at most [`GRID`]; all zero if a
/// value or the norm is not finite.
fn clip(update: &[f64], figures: &Figures, groups: &Groups, l2_clip_norm: f64, d_pad: usize) -> Zeroizing<Vec<i64>> {
    let mut grid = Zeroizing::new(vec![0; d_pad]);
    let norm = update.iter().map(|value| value * value).sum::<f64>().sqrt();
    let beside = groups.coordinates(figures, norm > l2_clip_norm);
    // An infinity or a NaN anywhere shows in the norm. By assignment: a multiplication would keep a NaN.
    if !(norm.is_finite() && beside.iter().all(|value| value.is_finite())) {
        return grid;
    }
    // The norm may be far below 1: the update's own factor is not to be multiplied out before the clip's is known.
    let own = groups.model.root() / norm.max(l2_clip_norm);
    let mut size = GRID as f64;
    loop {
        let mut squared = 0u128;
        let values = update.iter().map(|value| value * own).chain(beside);
        for (integer, value) in grid.iter_mut().zip(values) {
            *integer = (value * size) as i64;
            squared += u128::from(integer.unsigned_abs()).pow(2);
        }
        if squared <= u128::from(GRID) * u128::from(GRID) {
            return grid;
        }
        // Rounding of the norm alone can lead here, and each time a millionth goes.
        size *= 1.0 - SHRINK;
    }
}

/// The integer norm that stands for the clip before the rotation: sqrt(d) times it fits 53 bits at the largest d.
const GRID: u64 = 1 << 40;
/// 2^-20.
const SHRINK: f64 = 1.0 / 1_048_576.0;

#[cfg(test)]
mod tests {
    use eranos_base::SeededEntropy;

    use super::*;
    use crate::{
        mechanism::{ClientTarget, LocalTraining, Noise, NoiseTarget, design_client},
        rotation::restore,
    };

    fn mechanism(n_parameters: u32, noise: NoiseTarget) -> ClientMechanism {
        let training = LocalTraining { steps: 1, batch_size: 1, learning_rate: 0.1 };
        design_client(&ClientTarget {
            groups: Groups::default(),
            l2_clip_norm: 0.5,
            n_parameters,
            n_max: 8,
            u_min: 7,
            max_colluders: 1,
            training,
            max_attempts: 10,
            noise,
            delta: 1e-5,
        })
        .expect("reachable")
    }

    fn noisy(n_parameters: u32) -> ClientMechanism {
        mechanism(n_parameters, NoiseTarget::Distributed { epsilon: 8.0 })
    }

    const SEED: RotationSeed = RotationSeed([5; 32]);
    const NOTHING: Figures = Figures { loss: 0.0, accuracy: 0.0 };

    fn random(len: usize, entropy: &mut SeededEntropy) -> Vec<f64> {
        (0..len).map(|_| f64::from(i32::from_le_bytes(entropy.bytes())) / f64::from(i32::MAX)).collect()
    }

    fn squared(v: &[i64]) -> u128 {
        v.iter().map(|x| u128::from(x.unsigned_abs()).pow(2)).sum()
    }

    #[test]
    fn no_update_is_longer_than_the_sensitivity() {
        // At every scale: within the clip, at it, a million times beyond, and one that only all layers together exceed.
        let mut entropy = SeededEntropy::new(41);
        for len in [1, 3, 64, 1000] {
            let m = noisy(len as u32);
            for scale in [1e-3, 0.1, 1.0, 1e6, 1e30, f64::MAX] {
                let update: Vec<f64> = random(len, &mut entropy).iter().map(|x| x * scale).collect();
                let v = integers(&update, &NOTHING, &m, &SEED, &mut entropy);
                assert!(squared(&v) <= u128::from(m.norm_squared_max()), "{len} values, scale {scale}, seed 41");
            }
            // Ten layers, each of which would pass a clip of its own.
            let layers = vec![0.5 / (len as f64 / 10.0).sqrt(); len];
            let v = integers(&layers, &NOTHING, &m, &SEED, &mut entropy);
            assert!(squared(&v) <= u128::from(m.norm_squared_max()), "{len} values in layers");
            // The clip alone, without the slack that rounding may use.
            let grid = clip(&layers, &NOTHING, &Groups::default(), 0.5, m.common().d_pad as usize);
            assert!(squared(&grid) <= u128::from(GRID).pow(2));
        }
    }

    #[test]
    fn an_update_that_is_not_finite_is_zero_and_still_noised() {
        let m = noisy(64);
        let mut entropy = SeededEntropy::new(42);
        for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            // Well within the clip: whatever else were kept of it would be sent.
            let mut update: Vec<f64> = random(64, &mut entropy).iter().map(|x| x * 0.01).collect();
            update[17] = bad;
            assert!(integers(&update, &NOTHING, &m, &SEED, &mut entropy).iter().all(|x| *x == 0), "{bad}");
            let sent = contribute(&update, &NOTHING, &m, &SEED, &mut entropy).expect("of the right length");
            assert!(sent.iter().filter(|value| **value != 0).count() > 32, "{bad}: noise is added");
        }
        let wrong = contribute(&[0.0; 63], &NOTHING, &m, &SEED, &mut entropy);
        assert_eq!(wrong, Err(UpdateError::Length { found: 63, expected: 64 }));
    }

    #[test]
    fn rounding_is_without_bias_and_redrawn_until_it_fits() {
        let mut entropy = SeededEntropy::new(43);
        let mut rng = generator(&mut entropy);
        let n = 20_000;
        let mut totals = [0i64; 4];
        for _ in 0..n {
            for (total, value) in totals.iter_mut().zip(round_within(&[1, -3, 6, 0], 0.25, 1000, &mut rng)) {
                *total += value;
            }
        }
        for (total, mean) in totals.iter().zip([0.25, -0.75, 1.5, 0.0]) {
            let error = *total as f64 - f64::from(n) * mean;
            assert!(error.abs() < 5.0 * (f64::from(n) * 0.25).sqrt(), "{total}, expected {n} times {mean}, seed 43");
        }
        // 16 halves: on average 8 become 1; one that allows 3 is drawn again, and one that allows none leaves nothing.
        let halves = [1; 16];
        for _ in 0..50 {
            assert!(squared(&round_within(&halves, 0.5, 6, &mut rng)) <= 6);
        }
        assert_eq!(round_within(&[1; 1024], 0.5, 3, &mut rng), vec![0; 1024]);
    }

    #[test]
    fn the_mean_of_the_updates_comes_back() {
        let m = mechanism(300, NoiseTarget::None);
        let mut entropy = SeededEntropy::new(44);
        let updates: Vec<Vec<f64>> = (0..8).map(|_| random(300, &mut entropy)).collect();
        let mut sum = vec![0u32; m.common().d_pad as usize];
        for update in &updates {
            let sent = contribute(update, &NOTHING, &m, &SEED, &mut entropy).expect("of the right length");
            for (sum, value) in sum.iter_mut().zip(sent) {
                *sum = sum.wrapping_add(value) & (u32::MAX >> (32 - m.parameters().bits));
            }
        }
        let restored = restore(&sum, &m, &SEED, 8).expect("a sum");
        let norm = |v: &[f64]| v.iter().map(|x| x * x).sum::<f64>().sqrt();
        let clipped: Vec<f64> =
            (0..300).map(|i| updates.iter().map(|u| u[i] * 0.5 / norm(u)).sum::<f64>() / 8.0).collect();
        let error: Vec<f64> = clipped.iter().zip(&restored).map(|(a, b)| a - f64::from(*b)).collect();
        // Rounding of 8 vectors: at most half a step each and coordinate in deviation.
        let bound =
            1.2 * (f64::from(m.common().d_pad) * 8.0 / 4.0).sqrt() * 0.5 / f64::from(m.parameters().scaled_clip) / 8.0;
        assert!(norm(&error) < bound, "{} of {}, seed 44", norm(&error), norm(&clipped));
    }

    #[test]
    fn the_sum_of_zero_updates_has_the_noise_of_all_shares() {
        let m = noisy(1 << 14);
        let mut entropy = SeededEntropy::new(45);
        let d = m.common().d_pad as usize;
        let mut sum = vec![0i64; d];
        for _ in 0..7 {
            let sent = contribute(&vec![0.0; d], &NOTHING, &m, &SEED, &mut entropy).expect("of the right length");
            let unused = 64 - u32::from(m.parameters().bits);
            for (sum, value) in sum.iter_mut().zip(sent) {
                *sum += (i64::from(value) << unused) >> unused;
            }
        }
        let variance = m.parameters().noise.share_variance().expect("noise").to_f64();
        let ratio = squared(&sum) as f64 / (d as f64 * 7.0 * variance);
        assert!(((ratio - 1.0) * (d as f64 / 2.0).sqrt()).abs() < 5.0, "{ratio}, seed 45");
        assert!(matches!(m.parameters().noise, Noise::Distributed(_)));
    }

    #[test]
    fn a_silos_own_update_is_clipped_and_rounded_and_no_noise_is_added() {
        use crate::mechanism::{Probability, RecordTarget, SiloTraining, design};
        let m = design(&RecordTarget {
            groups: Groups::default(),
            l2_clip_norm: 1.0,
            n_parameters: 200,
            sampling_probability: Probability::ONE,
            expected_lot: 40,
            record_bound: 40,
            local: Some(SiloTraining { steps: 2, learning_rate: 0.1, update_clip_norm: 3.0 }),
            n_max: 8,
            u_min: 7,
            max_colluders: 1,
            max_attempts: 2,
            noise: NoiseTarget::Local { epsilon: 8.0 },
            delta: 1e-5,
        })
        .expect("reachable");
        let mut entropy = SeededEntropy::new(47);
        let d = m.common().d_pad as usize;
        let mut send =
            |update: &[f64]| contribute_trained(update, &m, &SEED, &mut entropy).expect("of the right length");
        assert_eq!(send(&[0.0; 200]), vec![0; d]);
        assert_eq!(send(&[f64::NAN; 200]), vec![0; d], "by assignment");
        // Ten times the clip comes back at its length.
        let mut sum = vec![0u32; d];
        for _ in 0..8 {
            let sent = send(&[30.0 / 200.0f64.sqrt(); 200]);
            sum.iter_mut()
                .zip(sent)
                .for_each(|(sum, x)| *sum = sum.wrapping_add(x) & (u32::MAX >> (32 - m.parameters().bits)));
        }
        let mean = restore(&sum, &m, &SEED, 8).expect("a sum");
        let norm = mean.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
        assert!((norm / 3.0 - 1.0).abs() < 0.01, "{norm}, seed 47");
        assert_eq!(
            contribute_trained(&[0.0; 199], &m, &SEED, &mut entropy),
            Err(UpdateError::Length { found: 199, expected: 200 })
        );
    }

    #[test]
    fn a_retry_has_other_noise_and_other_rounding() {
        let m = noisy(64);
        let mut entropy = SeededEntropy::new(46);
        let update = random(64, &mut entropy);
        let rounded = || integers(&update, &NOTHING, &m, &SEED, &mut eranos_base::OsEntropy);
        assert_ne!(rounded(), rounded());
        let mut draw = || contribute(&update, &NOTHING, &m, &SEED, &mut entropy).expect("of the right length");
        assert_ne!(draw(), draw());
    }
}
