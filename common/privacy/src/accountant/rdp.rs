//! Renyi differential privacy at integer orders: the curve of a release, and its conversion to epsilon.

use std::sync::LazyLock;

use super::special::ln_factorial;

/// The orders of every Renyi curve: 2 to 256, 512 and 1024. The amplification formula below holds at integers only.
pub const ORDERS: [u32; N_ORDERS] = orders();
/// How many orders there are.
pub const N_ORDERS: usize = 257;

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
    /// (Canonne, Kamath and Steinke 2020, proposition 12). Infinite unless 0 < delta < 1; else 0 where nothing diverges at any
    /// order, as of nothing released, though no order's conversion says so.
    pub fn epsilon(&self, delta: f64) -> f64 {
        let nothing = self.0.iter().all(|divergence| *divergence == 0.0);
        match self.best(delta).0 {
            epsilon if epsilon.is_finite() && nothing => 0.0,
            epsilon => epsilon,
        }
    }

    /// The order at which [`RdpCurve::epsilon`] is reached.
    pub fn best_order(&self, delta: f64) -> u32 {
        self.best(delta).1
    }

    /// Epsilon at `delta` by one order alone, fixed beforehand; infinite at one that is none of [`ORDERS`].
    pub fn epsilon_at(&self, order: u32, delta: f64) -> f64 {
        let divergence = self.iter().find(|(known, _)| *known == order).map_or(f64::INFINITY, |(_, r)| r);
        convert(order, divergence, delta)
    }

    /// The divergence of `n_times` such releases, which need not be whole.
    pub(super) fn scaled(&self, n_times: f64) -> Self {
        // Nothing of an infinite divergence is none.
        Self(self.0.map(|r| if n_times > 0.0 { r * n_times } else { 0.0 }))
    }

    fn best(&self, delta: f64) -> (f64, u32) {
        let epsilon = |(order, r): (u32, f64)| (convert(order, r, delta), order);
        let (least, order) = self
            .iter()
            .map(epsilon)
            .fold((f64::INFINITY, ORDERS[0]), |best, one| if one.0 < best.0 { one } else { best });
        (least.max(0.0), order)
    }
}

/// r(a) + ln(1 - 1/a) - ln(delta a)/(a - 1); infinite unless 0 < delta < 1.
fn convert(order: u32, divergence: f64, delta: f64) -> f64 {
    if !(delta > 0.0 && delta < 1.0) {
        return f64::INFINITY;
    }
    let a = f64::from(order);
    divergence + (-1.0 / a).ln_1p() - (delta * a).ln() / (a - 1.0)
}

impl Default for RdpCurve {
    fn default() -> Self {
        Self([0.0; N_ORDERS])
    }
}

/// r(a) = ln( sum_l C(a,l) (1-q)^(a-l) q^l exp(l(l-1)/(2 z^2)) )/(a-1) (Mironov, Talwar and Zhang 2019, section 3.3).
pub(super) struct PoissonGaussian {
    q: f64,
    z: f64,
    /// ln( (q/(1-q))^l (exp(l(l-1)/(2 z^2)) - 1)/l! ), which every order shares.
    log_terms: Vec<f64>,
}

impl PoissonGaussian {
    pub(super) fn new(q: f64, z: f64) -> Self {
        let log_term = |(l, log_factorial): (usize, &f64)| {
            let l = l as f64;
            let x = l * (l - 1.0) / (2.0 * z * z);
            let log_expm1 = if x > 30.0 { x + (-(-x).exp()).ln_1p() } else { x.exp_m1().ln() };
            l * (q.ln() - (-q).ln_1p()) + log_expm1 - log_factorial
        };
        Self { q, z, log_terms: LOG_FACTORIALS.iter().enumerate().map(log_term).collect() }
    }

    /// r(order).
    pub(super) fn rdp(&self, order: u32) -> f64 {
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

/// Gaussian noise on a sum over a sample of fixed size, drawn without replacement as the share q of all records, where one
/// record is replaced by another; `z` counts the replacement's sensitivity, twice the clip.
///
/// r(a) = ln( 1 + sum_{j=2}^a C(a,j) q^j t(j) )/(a-1), with t(2) = min{4 (e^r(2) - 1), 2 e^r(2)} and, for j > 2,
/// t(j) = min{4 sqrt(B(2 floor(j/2)) B(2 ceil(j/2))), 2 e^((j-1) r(j))}, r the unsampled divergence j/(2 z^2) and B(l) the
/// l-th moment of the likelihood ratio less 1 (Wang, Balle and Kasiviswanathan 2019, theorem 27).
pub(super) fn fixed_size_gaussian(q: f64, z: f64) -> RdpCurve {
    if !((0.0..=1.0).contains(&q) && z > 0.0) {
        return RdpCurve::from_fn(|_| f64::INFINITY);
    }
    let unsampled = |order: f64| order / (2.0 * z * z);
    if q == 0.0 {
        return RdpCurve::default();
    }
    if q == 1.0 {
        return RdpCurve::from_fn(|order| unsampled(order.into()));
    }
    let order_max = ORDERS[N_ORDERS - 1] as usize;
    // ln B(2 m), which two or three j share.
    let log_moments: Vec<f64> = log_ratio_moments(z, order_max / 2);
    let log_t = |j: usize| {
        let plain = 2f64.ln() + (j as f64 - 1.0) * unsampled(j as f64);
        let fine = if j == 2 {
            unsampled(2.0).exp_m1().ln()
        } else {
            f64::midpoint(log_moments[j / 2], log_moments[j.div_ceil(2)])
        };
        plain.min(4f64.ln() + fine)
    };
    // ln( q^j t(j)/j! ), which every order shares.
    let log_terms: Vec<f64> = (0..=order_max)
        .map(|j| if j < 2 { f64::NEG_INFINITY } else { j as f64 * q.ln() + log_t(j) - LOG_FACTORIALS[j] })
        .collect();
    RdpCurve::from_fn(|order| {
        let n = order as usize;
        let log_excess = LOG_FACTORIALS[n] + log_sum((2..=n).map(|j| log_terms[j] - LOG_FACTORIALS[n - j]));
        log_one_plus_exp(log_excess) / (f64::from(order) - 1.0)
    })
}

/// ln E[(p/q - 1)^(2 m)] for m from 0 to `m_max`, p/q = exp(t/z - 1/(2 z^2)) and t normal; infinite where the moments are
/// so large that nobody asks for them.
///
/// The alternating sum of exponentials that defines them loses every digit. The integrand is nowhere negative, and the
/// trapezoidal rule with step h errs by exp(-2 pi^2/h^2) of those exponentials.
fn log_ratio_moments(z: f64, m_max: usize) -> Vec<f64> {
    let node = |k: i32| {
        let t = f64::from(k) * NODE_STEP;
        let y = t / z - 0.5 / (z * z);
        // ln |e^y - 1|.
        (t, if y > 30.0 { y } else { y.exp_m1().abs().ln() })
    };
    let nodes: Vec<(f64, f64)> = (-NODE_MIN..=NODE_MAX).map(node).collect();
    (0..=m_max)
        .map(|m| {
            let l = 2.0 * m as f64;
            // |e^y - 1|^l phi(t) is largest within l/z + sqrt l of 0, and about as wide as phi.
            let furthest = l / z + l.sqrt() + 12.0;
            if furthest > f64::from(NODE_MAX) * NODE_STEP {
                return f64::INFINITY;
            }
            let log_values = || nodes.iter().map(|(t, log)| if m == 0 { 0.0 } else { l * log } - 0.5 * t * t);
            log_sum(log_values()) + (NODE_STEP / std::f64::consts::TAU.sqrt()).ln()
        })
        .collect()
}

/// ln of the sum of exponentials.
fn log_sum(logs: impl Iterator<Item = f64> + Clone) -> f64 {
    let max = logs.clone().fold(f64::NEG_INFINITY, f64::max);
    if max.is_finite() { max + logs.map(|log| (log - max).exp()).sum::<f64>().ln() } else { max }
}

/// ln(1 + e^x).
fn log_one_plus_exp(x: f64) -> f64 {
    if x > 0.0 { x + (-x).exp().ln_1p() } else { x.exp().ln_1p() }
}

/// Of the trapezoidal rule: exp(-2 pi^2/0.1^2) is nothing.
const NODE_STEP: f64 = 0.1;
/// -sqrt(1024) - 12.
const NODE_MIN: i32 = 440;
const NODE_MAX: i32 = 4000;

/// ln l! up to the largest order.
static LOG_FACTORIALS: LazyLock<Vec<f64>> =
    LazyLock::new(|| (0..=u64::from(ORDERS[N_ORDERS - 1])).map(ln_factorial).collect());

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
}
