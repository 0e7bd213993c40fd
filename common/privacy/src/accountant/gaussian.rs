//! One Gaussian release, exactly; `n` unamplified releases of noise multiplier z are one of z/sqrt(n).

use super::special::{log_normal_below, normal_below};

/// The least delta of Gaussian noise of `noise_multiplier` deviations a unit of sensitivity, at `epsilon`
/// (Balle and Wang 2018, theorem 8). 1 if the multiplier is not above 0.
pub fn delta(noise_multiplier: f64, epsilon: f64) -> f64 {
    // Written so that a NaN claims nothing.
    if !(noise_multiplier > 0.0 && epsilon >= 0.0) {
        return 1.0;
    }
    let (a, b) = (0.5 / noise_multiplier, epsilon * noise_multiplier);
    (normal_below(a - b) - (epsilon + log_normal_below(-a - b)).exp()).max(0.0)
}

/// The least epsilon at `delta`, infinite unless the multiplier is above 0 and 0 < delta < 1.
pub fn epsilon(noise_multiplier: f64, delta: f64) -> f64 {
    if !(noise_multiplier > 0.0 && delta > 0.0 && delta < 1.0) {
        return f64::INFINITY;
    }
    let holds = |epsilon: f64| self::delta(noise_multiplier, epsilon) <= delta;
    if holds(0.0) {
        return 0.0;
    }
    let (mut low, mut high) = (0.0, 1.0);
    while !holds(high) {
        (low, high) = (high, 2.0 * high);
        if high > EPSILON_MAX {
            return f64::INFINITY;
        }
    }
    while high - low > 1e-15 * high {
        let middle = f64::midpoint(low, high);
        if middle <= low || middle >= high {
            break;
        }
        if holds(middle) { high = middle } else { low = middle }
    }
    high
}

/// Beyond this no epsilon means anything.
const EPSILON_MAX: f64 = 1e9;
