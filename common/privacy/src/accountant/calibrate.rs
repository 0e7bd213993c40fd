//! From a target to the least noise: bisection over the noise multiplier.

use super::{Accountant, Event, pld, zcdp};

/// Which accountant counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccountantKind {
    /// Renyi divergence at integer orders: what budgets and ledgers are charged by.
    Rdp,
    /// Privacy loss distributions: for schedules fixed in advance.
    Pld,
    /// Zero-concentrated privacy: without sampling only.
    Zcdp,
}

/// What noise is sought for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Target {
    /// The promise.
    pub epsilon: f64,
    /// Its delta.
    pub delta: f64,
    /// Releases.
    pub rounds: u64,
    /// q.
    pub sampling_probability: f64,
    /// Which accountant counts.
    pub accountant: AccountantKind,
}

/// Why there is no noise multiplier.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
pub enum CalibrationError {
    /// A number of the target lies outside its range.
    #[error("{what} is {found}, expected {expected}")]
    Range {
        /// Which.
        what: &'static str,
        /// Its value.
        found: f64,
        /// What was expected.
        expected: &'static str,
    },
    /// The accountant needs a schedule without sampling.
    #[error("zCDP knows no sampling, but the sampling probability is {0}")]
    Sampled(f64),
    /// Not even the most noise reaches the target.
    #[error("no noise multiplier up to {max} reaches epsilon {epsilon} at delta {delta:e} over {rounds} rounds")]
    Unreachable {
        /// [`NOISE_MULTIPLIER_MAX`].
        max: f64,
        /// The target.
        epsilon: f64,
        /// Its delta.
        delta: f64,
        /// Its rounds.
        rounds: u64,
    },
}

/// Epsilon of `rounds` Gaussian releases over Poisson samples; infinite where nothing can be claimed.
pub fn epsilon(
    accountant: AccountantKind,
    noise_multiplier: f64,
    sampling_probability: f64,
    rounds: u64,
    delta: f64,
) -> f64 {
    let event = Event::PoissonGaussian { sampling_probability, noise_multiplier };
    match accountant {
        AccountantKind::Rdp => {
            let mut accountant = Accountant::new();
            accountant.compose(&event, rounds);
            accountant.epsilon(delta)
        }
        AccountantKind::Pld => pld::epsilon(&[(event, rounds)], delta),
        AccountantKind::Zcdp => zcdp::epsilon(&[(event, rounds)], delta),
    }
}

/// The least noise multiplier that reaches `target`, up to one part in a thousand above it.
///
/// # Errors
/// If the target is out of range, or no noise up to [`NOISE_MULTIPLIER_MAX`] reaches it.
pub fn noise_multiplier(target: &Target) -> Result<f64, CalibrationError> {
    let Target { epsilon: wanted, delta, rounds, sampling_probability: q, accountant } = *target;
    let range = |what, found, expected, holds: bool| {
        if holds { Ok(()) } else { Err(CalibrationError::Range { what, found, expected }) }
    };
    range("epsilon", wanted, "a number above 0", wanted > 0.0 && wanted.is_finite())?;
    range("delta", delta, "a number between 0 and 1", delta > 0.0 && delta < 1.0)?;
    range("rounds", rounds as f64, "1 to 2^24", (1..=ROUNDS_MAX).contains(&rounds))?;
    range("sampling probability", q, "a number above 0, at most 1", q > 0.0 && q <= 1.0)?;
    if accountant == AccountantKind::Zcdp && q < 1.0 {
        return Err(CalibrationError::Sampled(q));
    }
    let reaches = |z: f64| epsilon(accountant, z, q, rounds, delta) <= wanted;
    least(NOISE_MULTIPLIER_MIN, NOISE_MULTIPLIER_MAX, PRECISION, reaches).ok_or(CalibrationError::Unreachable {
        max: NOISE_MULTIPLIER_MAX,
        epsilon: wanted,
        delta,
        rounds,
    })
}

/// The least value from `min` to `max`, both above 0, for which `holds`, given that every larger value holds too; at most
/// one part in 1/`precision` above it, and itself one that holds. None if `max` does not hold.
pub fn least(min: f64, max: f64, precision: f64, holds: impl Fn(f64) -> bool) -> Option<f64> {
    if holds(min) {
        return Some(min);
    }
    if !holds(max) {
        return None;
    }
    let (mut low, mut high) = (min, max);
    while high > low * (1.0 + precision) {
        let middle = (low * high).sqrt();
        if middle <= low || middle >= high {
            break;
        }
        if holds(middle) { high = middle } else { low = middle }
    }
    Some(high)
}

/// The least noise multiplier that is tried.
pub const NOISE_MULTIPLIER_MIN: f64 = 0.05;
/// The largest noise multiplier that is tried.
pub const NOISE_MULTIPLIER_MAX: f64 = 1e5;
/// The most releases: as many as a plan may have attempts.
pub const ROUNDS_MAX: u64 = 1 << 24;
const PRECISION: f64 = 1e-3;
