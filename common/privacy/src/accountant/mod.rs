//! From described events to epsilon.
//!
//! An [`Event`] says what was released and under which parameters; an [`Accountant`] composes events by adding their
//! Renyi divergences at each of [`ORDERS`] ([`rdp`]), and converts the total once: what budgets and ledgers are charged
//! by. For the same events [`pld`] finds the least epsilon there is, up to its grid; [`zcdp`] serves what is not sampled,
//! [`gaussian`] is exact for one Gaussian, [`skellam`] is for comparison. [`filter`] stops an adaptive schedule,
//! [`calibrate`] goes from a target to the least noise. Which event a mechanism amounts to is the mechanism's business;
//! what has been spent, and whether more may be, is the budget's.

pub mod calibrate;
pub mod filter;
pub mod gaussian;
pub mod pld;
pub mod rdp;
pub mod skellam;
pub mod zcdp;

mod fft;
#[cfg(test)]
mod properties;
mod special;

use std::f64::consts::PI;

use self::rdp::PoissonGaussian;
pub use self::rdp::{N_ORDERS, ORDERS, RdpCurve};
pub(crate) use self::special::{binomial_at_least, binomial_tail, normal_below};

/// What was released once. Events are composed with those of the same neighbouring relation only.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Event {
    /// A sum with Gaussian noise over a Poisson sample; add or remove one.
    PoissonGaussian {
        /// With what probability a record is in the sample; 1 means no sampling.
        sampling_probability: f64,
        /// The noise's standard deviation over the L2 sensitivity.
        noise_multiplier: f64,
    },
    /// A sum with Gaussian noise over a sample of fixed size, drawn without replacement; replace one.
    FixedSizeGaussian {
        /// The size of the sample over that of the population; 1 means no sampling.
        sampling_fraction: f64,
        /// The noise's standard deviation over the L2 sensitivity to a replacement, twice the clip.
        noise_multiplier: f64,
    },
    /// A sum to which `shares` parties each added discrete Gaussian noise.
    DiscreteGaussianSum {
        /// With what probability a record is in the sample; 1 means no sampling.
        sampling_probability: f64,
        /// The L2 sensitivity, on the integer grid.
        l2_sensitivity: f64,
        /// The L1 sensitivity, on the integer grid.
        l1_sensitivity: f64,
        /// The parameter sg^2 of one share.
        share_variance: f64,
        /// How many shares the adversary does not know.
        shares: u32,
        /// Coordinates of the sum.
        dimension: u32,
    },
    /// A release without noise: nothing is claimed, whatever it is composed with.
    NonPrivate,
}

impl Event {
    /// The event's Renyi divergence at every order.
    ///
    /// A parameter outside its range (no noise, no shares, a probability above 1, a NaN) gives an infinite divergence:
    /// nothing is claimed for it.
    pub fn rdp(&self) -> RdpCurve {
        match *self {
            Self::PoissonGaussian { sampling_probability, noise_multiplier } => {
                let curve = PoissonGaussian::new(sampling_probability, noise_multiplier);
                RdpCurve::from_fn(|order| curve.rdp(order))
            }
            Self::FixedSizeGaussian { sampling_fraction, noise_multiplier } => {
                rdp::fixed_size_gaussian(sampling_fraction, noise_multiplier)
            }
            Self::DiscreteGaussianSum {
                sampling_probability: q,
                l2_sensitivity,
                l1_sensitivity,
                share_variance,
                shares,
                dimension,
            } => {
                let tau = tau(share_variance, shares);
                let d = f64::from(dimension);
                let sum_deviation = (f64::from(shares) * share_variance).sqrt();
                let (d1, d2) = (l1_sensitivity / sum_deviation, l2_sensitivity / sum_deviation);
                let amplified = PoissonGaussian::new(q, d2.recip());
                RdpCurve::from_fn(|order| {
                    let a = f64::from(order);
                    if q < 1.0 {
                        return amplified.rdp(order) + (2.0 * a - 1.0) / (a - 1.0) * tau * d;
                    }
                    // Kairouz, Liu and Steinke 2021, proposition 14, the three bounds of which the least counts.
                    let by_variance = a / 2.0 * d2 * d2 + tau * d;
                    let by_l1 = a / 2.0 * (d2 * d2 + 2.0 * d1 * tau + tau * tau * d);
                    let by_l2 = a / 2.0 * (d2 + d.sqrt() * tau).powi(2);
                    by_variance.min(by_l1).min(by_l2)
                })
            }
            Self::NonPrivate => RdpCurve::from_fn(|_| f64::INFINITY),
        }
    }
}

/// Composes events.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Accountant {
    curve: RdpCurve,
    failure: f64,
}

impl Accountant {
    /// An accountant that has seen nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes in `event`, released `n_times`.
    pub fn compose(&mut self, event: &Event, n_times: u64) {
        self.compose_curve(&event.rdp(), n_times, 0.0);
    }

    /// Takes in `n_times` a release of Renyi divergence `curve`, whose analysis holds but for an event of probability
    /// `failure` (a sample cut to its bound) each time.
    pub fn compose_curve(&mut self, curve: &RdpCurve, n_times: u64, failure: f64) {
        self.curve.add(curve, n_times);
        self.failure += failure * n_times as f64;
    }

    /// The composed Renyi divergence.
    pub fn curve(&self) -> &RdpCurve {
        &self.curve
    }

    /// Epsilon at `delta`; infinite where nothing can be claimed.
    ///
    /// Failures of total probability f are paid out of delta: eps = eps_renyi(delta - f (1 + e^eps)).
    pub fn epsilon(&self, delta: f64) -> f64 {
        let mut epsilon = self.curve.epsilon(delta);
        if self.failure == 0.0 {
            return epsilon;
        }
        // The right side grows with epsilon, so iterating from below reaches the least solution; the last step is taken
        // a little above it, where the inequality is known to hold.
        for _ in 0..FIXED_POINT_STEPS_MAX {
            let above = epsilon * (1.0 + 1e-12) + 1e-12;
            let next = self.curve.epsilon(delta - self.failure * (1.0 + above.exp()));
            if next <= above {
                return above;
            }
            epsilon = next;
        }
        f64::INFINITY
    }
}

/// tau = 10 sum_{j=1}^{u-1} exp(-2 pi^2 sg^2 j/(j+1)): how far the sum of `shares` discrete Gaussians is from one
/// (Kairouz, Liu and Steinke 2021, theorem 1).
pub fn tau(share_variance: f64, shares: u32) -> f64 {
    let term = |j: u32| (-2.0 * PI * PI * share_variance * f64::from(j) / (f64::from(j) + 1.0)).exp();
    10.0 * (1..shares).map(term).sum::<f64>()
}

const FIXED_POINT_STEPS_MAX: usize = 1000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_claimed_for_parameters_out_of_range() {
        let check = |q: f64, z: f64| {
            let curve = Event::PoissonGaussian { sampling_probability: q, noise_multiplier: z }.rdp();
            assert_eq!(curve.epsilon(1e-5), f64::INFINITY, "q = {q}, z = {z}");
        };
        check(0.5, 0.0);
        check(0.5, -1.0);
        check(0.5, f64::NAN);
        check(1.5, 1.0);
        check(-0.1, 1.0);
        check(f64::NAN, 1.0);
        let no_shares = Event::DiscreteGaussianSum {
            sampling_probability: 0.25,
            l2_sensitivity: 10.0,
            l1_sensitivity: 10.0,
            share_variance: 100.0,
            shares: 0,
            dimension: 8,
        };
        assert_eq!(no_shares.rdp().epsilon(1e-5), f64::INFINITY);
        let good = Event::PoissonGaussian { sampling_probability: 0.25, noise_multiplier: 4.0 };
        let epsilons = |n| {
            let mut accountant = Accountant::new();
            accountant.compose(&good, 10);
            accountant.compose_curve(&Event::NonPrivate.rdp(), n, 1e-12);
            let events = [(good, 10), (Event::NonPrivate, n)];
            [accountant.epsilon(1e-5), pld::epsilon(&events, 1e-5), zcdp::epsilon(&events[1..], 1e-5)]
        };
        assert_eq!(epsilons(1), [f64::INFINITY; 3]);
        // A release that did not happen costs nothing.
        assert!(epsilons(0).iter().all(|epsilon| epsilon.is_finite()), "{:?}", epsilons(0));
        assert_eq!(Accountant::new().epsilon(0.0), f64::INFINITY);
        assert_eq!(Accountant::new().epsilon(1e-5), 0.0, "what was not released costs nothing");
    }

    #[test]
    fn failures_are_paid_out_of_delta() {
        let curve = Event::PoissonGaussian { sampling_probability: 0.25, noise_multiplier: 3.77 }.rdp();
        let epsilon = |failure: f64| {
            let mut accountant = Accountant::new();
            accountant.compose_curve(&curve, 155, failure);
            accountant.epsilon(1e-5)
        };
        let with = epsilon(1e-10);
        let delta_left = 1e-5 - 155e-10 * (1.0 + with.exp());
        let mut accountant = Accountant::new();
        accountant.compose_curve(&curve, 155, 0.0);
        assert!((with - accountant.epsilon(delta_left)).abs() < 1e-9);
        assert!(with > epsilon(0.0));
        assert_eq!(epsilon(1e-7), f64::INFINITY);
    }
}
