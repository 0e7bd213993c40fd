//! From described events to epsilon: Renyi differential privacy at integer orders.
//!
//! An [`Event`] says what was released and under which parameters; an [`Accountant`] composes events by adding their
//! Renyi divergences at each of [`ORDERS`], and converts the total once. Which event a mechanism amounts to is the
//! mechanism's business; what has been spent, and whether more may be, is the budget's.

use std::{f64::consts::PI, sync::LazyLock};

/// The orders of every Renyi curve: 2 to 256, 512 and 1024. The amplification formula below holds at integers only.
pub const ORDERS: [u32; N_ORDERS] = orders();
/// How many orders there are.
pub const N_ORDERS: usize = 257;

/// What was released once.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Event {
    /// A sum with Gaussian noise over a Poisson sample; add or remove one.
    PoissonGaussian {
        /// With what probability a record is in the sample; 1 means no sampling.
        sampling_probability: f64,
        /// The noise's standard deviation over the L2 sensitivity.
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

/// Renyi divergences at [`ORDERS`].
#[derive(Clone, Debug, PartialEq)]
pub struct RdpCurve([f64; N_ORDERS]);

impl RdpCurve {
    /// The curve whose value at each order `value` gives.
    pub fn from_fn(value: impl Fn(u32) -> f64) -> Self {
        // A NaN must never look like a small divergence.
        Self(ORDERS.map(|order| Some(value(order)).filter(|r| *r >= 0.0).unwrap_or(f64::INFINITY)))
    }

    /// The orders with their divergences.
    pub fn iter(&self) -> impl Iterator<Item = (u32, f64)> {
        ORDERS.into_iter().zip(self.0)
    }

    /// Adds `other` `n_times`.
    pub fn add(&mut self, other: &Self, n_times: u64) {
        if n_times > 0 {
            for (sum, term) in self.0.iter_mut().zip(other.0) {
                *sum += term * n_times as f64;
            }
        }
    }

    /// Epsilon at `delta`: the least over the orders of r(a) + ln(1 - 1/a) - ln(delta a)/(a - 1), and no less than 0
    /// (Canonne, Kamath and Steinke 2020, proposition 12). Infinite unless 0 < delta < 1.
    pub fn epsilon(&self, delta: f64) -> f64 {
        self.best(delta).0
    }

    /// The order at which [`RdpCurve::epsilon`] is reached.
    pub fn best_order(&self, delta: f64) -> u32 {
        self.best(delta).1
    }

    fn best(&self, delta: f64) -> (f64, u32) {
        if !(delta > 0.0 && delta < 1.0) {
            return (f64::INFINITY, ORDERS[0]);
        }
        let epsilon = |(order, r): (u32, f64)| {
            let a = f64::from(order);
            (r + (-1.0 / a).ln_1p() - (delta * a).ln() / (a - 1.0), order)
        };
        let (least, order) = self
            .iter()
            .map(epsilon)
            .fold((f64::INFINITY, ORDERS[0]), |best, one| if one.0 < best.0 { one } else { best });
        (least.max(0.0), order)
    }
}

impl Default for RdpCurve {
    fn default() -> Self {
        Self([0.0; N_ORDERS])
    }
}

/// r(a) = ln( sum_l C(a,l) (1-q)^(a-l) q^l exp(l(l-1)/(2 z^2)) )/(a-1) (Mironov, Talwar and Zhang 2019, section 3.3).
struct PoissonGaussian {
    q: f64,
    z: f64,
    /// ln( (q/(1-q))^l (exp(l(l-1)/(2 z^2)) - 1)/l! ), which every order shares.
    log_terms: Vec<f64>,
}

impl PoissonGaussian {
    fn new(q: f64, z: f64) -> Self {
        let log_term = |(l, log_factorial): (usize, &f64)| {
            let l = l as f64;
            let x = l * (l - 1.0) / (2.0 * z * z);
            let log_expm1 = if x > 30.0 { x + (-(-x).exp()).ln_1p() } else { x.exp_m1().ln() };
            l * (q.ln() - (-q).ln_1p()) + log_expm1 - log_factorial
        };
        Self { q, z, log_terms: LOG_FACTORIALS.iter().enumerate().map(log_term).collect() }
    }

    /// r(order).
    fn rdp(&self, order: u32) -> f64 {
        let (q, z, a) = (self.q, self.z, f64::from(order));
        if !((0.0..=1.0).contains(&q) && z > 0.0) {
            return f64::INFINITY;
        }
        if q == 1.0 {
            return a / (2.0 * z * z);
        }
        if q == 0.0 {
            return 0.0;
        }
        // The binomial weights sum to 1, so the sum minus 1 has the terms with e^x - 1 instead of e^x, none of them
        // negative: summing those keeps every digit where the divergence is tiny. The terms of l = 0 and 1 vanish.
        let n = order as usize;
        let log_terms = || self.log_terms[2..=n].iter().zip(LOG_FACTORIALS[..=n - 2].iter().rev()).map(|(t, f)| t - f);
        let max = log_terms().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = log_terms().map(|t| (t - max).exp()).sum();
        let log_excess = max + sum.ln() + LOG_FACTORIALS[n] + a * (-q).ln_1p();
        let log_sum =
            if log_excess > 0.0 { log_excess + (-log_excess).exp().ln_1p() } else { log_excess.exp().ln_1p() };
        log_sum / (a - 1.0)
    }
}

/// ln l! up to the largest order.
static LOG_FACTORIALS: LazyLock<Vec<f64>> =
    LazyLock::new(|| (0..=u64::from(ORDERS[N_ORDERS - 1])).map(ln_factorial).collect());

/// tau = 10 sum_{j=1}^{u-1} exp(-2 pi^2 sg^2 j/(j+1)): how far the sum of `shares` discrete Gaussians is from one
/// (Kairouz, Liu and Steinke 2021, theorem 1).
pub fn tau(share_variance: f64, shares: u32) -> f64 {
    let term = |j: u32| (-2.0 * PI * PI * share_variance * f64::from(j) / (f64::from(j) + 1.0)).exp();
    10.0 * (1..shares).map(term).sum::<f64>()
}

/// P[Bin(n, p) > k], for k + 1 above the mean; 1 otherwise (an upper bound, and never needed there).
pub(crate) fn binomial_tail(n: u64, p: f64, k: u64) -> f64 {
    if k >= n {
        return 0.0;
    }
    let (n_f, first) = (n as f64, (k + 1) as f64);
    if first <= n_f * p || p >= 1.0 {
        return 1.0;
    }
    let log_choose = ln_factorial(n) - ln_factorial(k + 1) - ln_factorial(n - k - 1);
    let mut term = (log_choose + first * p.ln() + (n_f - first) * (-p).ln_1p()).exp();
    let mut sum = 0.0;
    // Above the mean each term is smaller than the one before it, by a factor that falls too.
    for j in k + 1..=n {
        sum += term;
        if term <= sum * 1e-18 {
            break;
        }
        term *= (n - j) as f64 / (j + 1) as f64 * p / (1.0 - p);
    }
    sum
}

fn ln_factorial(n: u64) -> f64 {
    if n < 32 {
        return (2..=n).map(|i| (i as f64).ln()).sum();
    }
    // Stirling's series; the first term left out is below 1e-15 here.
    let x = n as f64;
    let series = 1.0 / (12.0 * x) - 1.0 / (360.0 * x.powi(3)) + 1.0 / (1260.0 * x.powi(5));
    (x + 0.5) * x.ln() - x + 0.5 * (2.0 * PI).ln() + series
}

const FIXED_POINT_STEPS_MAX: usize = 1000;

const fn orders() -> [u32; N_ORDERS] {
    let mut orders = [0; N_ORDERS];
    let mut i = 0;
    while i < 255 {
        orders[i] = 2 + i as u32;
        i += 1;
    }
    orders[255] = 512;
    orders[256] = 1024;
    orders
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_orders_are_two_to_256_then_512_and_1024() {
        assert_eq!((ORDERS[0], ORDERS[254], ORDERS[255], ORDERS[256]), (2, 256, 512, 1024));
        assert!(ORDERS.windows(2).all(|w| w[0] < w[1]));
    }

    #[test]
    fn a_binomial_tail_equals_the_sum_of_its_terms() {
        // By Python's integers: sum(comb(750, k) 3^(750-k) for k in range(B+1, 751)) / 4^750.
        let check = |k: u64, expected: f64| {
            let found = binomial_tail(750, 0.25, k);
            assert!((found / expected - 1.0).abs() < 1e-9, "P[Bin > {k}] = {found}, expected {expected}");
        };
        check(273, 1.682_439_997_8e-12);
        check(274, 9.634_718_262e-13);
        assert_eq!(binomial_tail(750, 0.25, 750), 0.0);
        assert_eq!(binomial_tail(10_000_000, 0.25, 3), 1.0);
    }

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
        assert_eq!(Accountant::new().epsilon(0.0), f64::INFINITY);
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
