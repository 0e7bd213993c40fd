//! Zero-concentrated differential privacy (Bun and Steinke 2016): for releases without sampling, over all real orders.

use super::{Event, tau};

/// A Renyi divergence of at most xi + rho a at every order a > 1.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Zcdp {
    /// What does not grow with the order.
    pub xi: f64,
    /// What grows with it.
    pub rho: f64,
}

impl Zcdp {
    /// Both together: the guarantees add.
    pub fn compose(self, other: Self, n_times: u64) -> Self {
        let n = n_times as f64;
        Self { xi: self.xi + n * other.xi, rho: self.rho + n * other.rho }
    }

    /// Epsilon at `delta`: xi + min over a > 1 of rho a + ln(1 - 1/a) - ln(delta a)/(a - 1), and no less than 0 (Canonne,
    /// Kamath and Steinke 2020, proposition 12). Infinite unless 0 < delta < 1.
    pub fn epsilon(self, delta: f64) -> f64 {
        let Self { xi, rho } = self;
        if !(delta > 0.0 && delta < 1.0 && rho >= 0.0 && xi >= 0.0) {
            return f64::INFINITY;
        }
        if rho == 0.0 {
            return xi;
        }
        // The derivative is rho + ln(delta a)/(a - 1)^2, whose sign changes once: in b = a - 1, at rho b^2 = -ln(delta a).
        let b = zero_of(|b| rho * b * b + (delta * (1.0 + b)).ln());
        let epsilon = rho * (1.0 + b) - (1.0 / b).ln_1p() - (delta * (1.0 + b)).ln() / b;
        xi + epsilon.max(0.0)
    }

    /// Delta at `epsilon`: min over a > 1 of exp((a - 1)(xi + rho a - epsilon)) (1 - 1/a)^a/(a - 1), and no more than 1.
    pub fn delta(self, epsilon: f64) -> f64 {
        let Self { xi, rho } = self;
        let epsilon = epsilon - xi;
        if !(rho > 0.0 && epsilon >= 0.0) {
            return if rho == 0.0 && epsilon >= 0.0 { 0.0 } else { 1.0 };
        }
        // The logarithm's derivative is (2 a - 1) rho - epsilon + ln(1 - 1/a), which grows.
        let b = zero_of(|b| (2.0 * b + 1.0) * rho - epsilon - (1.0 / b).ln_1p());
        let log = b * (rho * (1.0 + b) - epsilon) - (1.0 + b) * (1.0 / b).ln_1p() - b.ln();
        log.exp().min(1.0)
    }
}

/// Epsilon at `delta` of all of `events`, each with how often it is released; infinite if one is sampled.
pub fn epsilon(events: &[(Event, u64)], delta: f64) -> f64 {
    let mut totals = [Zcdp::default(); 3];
    for (event, n_times) in events.iter().filter(|(_, n_times)| *n_times > 0) {
        let Some(guarantees) = guarantees(event) else { return f64::INFINITY };
        for (total, one) in totals.iter_mut().zip(guarantees) {
            *total = total.compose(one, *n_times);
        }
    }
    totals.into_iter().map(|total| total.epsilon(delta)).fold(f64::INFINITY, f64::min)
}

/// Three guarantees of one release that all hold; none if it is sampled.
///
/// For a sum of discrete Gaussians they are those of Kairouz, Liu and Steinke 2021, proposition 14.
pub fn guarantees(event: &Event) -> Option<[Zcdp; 3]> {
    match *event {
        Event::PoissonGaussian { sampling_probability: q, noise_multiplier: z }
        | Event::FixedSizeGaussian { sampling_fraction: q, noise_multiplier: z } => {
            (q == 1.0 && z > 0.0).then_some([Zcdp { xi: 0.0, rho: 0.5 / (z * z) }; 3])
        }
        Event::DiscreteGaussianSum {
            sampling_probability: q,
            l2_sensitivity,
            l1_sensitivity,
            share_variance,
            shares,
            dimension,
        } => {
            let (tau, d) = (tau(share_variance, shares), f64::from(dimension));
            let deviation = (f64::from(shares) * share_variance).sqrt();
            if q != 1.0 || deviation.is_nan() || deviation <= 0.0 {
                return None;
            }
            let (d1, d2) = (l1_sensitivity / deviation, l2_sensitivity / deviation);
            Some([
                Zcdp { xi: tau * d, rho: 0.5 * d2 * d2 },
                Zcdp { xi: 0.0, rho: 0.5 * (d2 * d2 + 2.0 * d1 * tau + tau * tau * d) },
                Zcdp { xi: 0.0, rho: 0.5 * (d2 + d.sqrt() * tau).powi(2) },
            ])
        }
        Event::NonPrivate => None,
    }
}

/// The zero above 0 of a function that grows from below it to above it.
fn zero_of(grows: impl Fn(f64) -> f64) -> f64 {
    let (mut low, mut high) = (1e-300f64, 1e300f64);
    // On a logarithmic scale first, since the zero may lie anywhere.
    while high > 2.0 * low {
        let middle = low.sqrt() * high.sqrt();
        if grows(middle) < 0.0 { low = middle } else { high = middle }
    }
    for _ in 0..60 {
        let middle = f64::midpoint(low, high);
        if grows(middle) < 0.0 { low = middle } else { high = middle }
    }
    high
}
