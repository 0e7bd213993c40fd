//! Probabilities and factorials that the accountants share.

use std::f64::consts::{FRAC_1_SQRT_2, PI, TAU};

/// An upper bound on P[Bin(n, p) > k], for k + 1 above the mean and n up to 2^26 less than a hundred-thousandth above it;
/// 1 otherwise, where it is never needed.
pub(crate) fn binomial_tail(n: u64, p: f64, k: u64) -> f64 {
    if k >= n {
        return 0.0;
    }
    let (n_f, first) = (n as f64, (k + 1) as f64);
    if first <= n_f * p || p >= 1.0 {
        return 1.0;
    }
    let factorials = [ln_factorial(n), -ln_factorial(k + 1), -ln_factorial(n - k - 1)];
    let powers = [first * p.ln(), (n_f - first) * (-p).ln_1p()];
    let logs = factorials.into_iter().chain(powers);
    // Logarithms in the billions cancel to one of some tens; no less than what rounds to 0.
    let mut term = logs.clone().sum::<f64>().exp().max(f64::MIN_POSITIVE);
    let (mut sum, mut n_terms) = (0.0, 0.0);
    // Above the mean each term is smaller than the one before it, by a factor that falls too.
    for j in k + 1..=n {
        sum += term;
        n_terms += 1.0;
        if term <= sum * 1e-18 {
            break;
        }
        term *= (n - j) as f64 / (j + 1) as f64 * p / (1.0 - p);
    }
    // Each logarithm and its sum err by less than eight roundings of their size, each term by five more than the one before
    // it. What was left out is at most k + 2 times the last term.
    let size: f64 = logs.map(f64::abs).sum();
    let error = f64::EPSILON * (4.0 * size + 3.0 * n_terms) + 1e-18 * (first + 1.0) + 1e-12;
    (sum * error.exp()).min(1.0)
}

/// P[Bin(n, p) >= k] for every k from 0 to n + 1.
pub(crate) fn binomial_at_least(n: u32, p: f64) -> Vec<f64> {
    let log_probability = |k: u32| {
        let (left, k_f) = (f64::from(n - k), f64::from(k));
        let log_choose = ln_factorial(n.into()) - ln_factorial(k.into()) - ln_factorial((n - k).into());
        // 0 ln 0 is 0.
        let power = |count: f64, log: f64| if count > 0.0 { count * log } else { 0.0 };
        log_choose + power(k_f, p.ln()) + power(left, (-p).ln_1p())
    };
    let mut at_least = vec![0.0; n as usize + 2];
    for k in (0..=n).rev() {
        at_least[k as usize] = at_least[k as usize + 1] + log_probability(k).exp();
    }
    at_least
}

/// ln n!.
pub(crate) fn ln_factorial(n: u64) -> f64 {
    if n < 32 {
        return (2..=n).map(|i| (i as f64).ln()).sum();
    }
    // Stirling's series; the first term left out is below 2e-14 here.
    let x = n as f64;
    let series = 1.0 / (12.0 * x) - 1.0 / (360.0 * x.powi(3)) + 1.0 / (1260.0 * x.powi(5));
    (x + 0.5) * x.ln() - x + 0.5 * (2.0 * PI).ln() + series
}

/// P[N(0, 1) <= x].
pub(crate) fn normal_below(x: f64) -> f64 {
    0.5 * libm::erfc(-x * FRAC_1_SQRT_2)
}

/// ln P[N(0, 1) <= x], also where the probability is too small for an `f64`.
pub(super) fn log_normal_below(x: f64) -> f64 {
    if x > -30.0 {
        return normal_below(x).ln();
    }
    // The asymptotic series of Mills' ratio; the first term left out is 945/x^10, below 2e-12.
    let w = 1.0 / (x * x);
    -0.5 * x * x - (-x * TAU.sqrt()).ln() + (-w * (1.0 - w * (3.0 - w * (15.0 - w * 105.0)))).ln_1p()
}

/// P[a <= N(0, 1) <= b], each digit of it: the relative error is below [`INTERVAL_ERROR`] for |a| or |b| up to 15.
pub(super) fn normal_between(a: f64, b: f64) -> f64 {
    // By symmetry to the side where the smaller tail is above.
    let (a, b) = if a + b < 0.0 { (-b, -a) } else { (a, b) };
    let (width, m) = (b - a, f64::midpoint(a, b));
    if width <= 0.0 {
        return 0.0;
    }
    if width * b.max(1.0) < 0.1 {
        // A difference of tails would cancel; Taylor's series about the middle has Hermite polynomials, and the first
        // term left out is below 1e-16.
        let (m2, w2) = (m * m, width * width);
        let (he2, he4) = (m2 - 1.0, (m2 - 6.0) * m2 + 3.0);
        let he6 = ((m2 - 15.0) * m2 + 45.0) * m2 - 15.0;
        let series = 1.0 + w2 * (he2 / 24.0 + w2 * (he4 / 1920.0 + w2 * he6 / 322_560.0));
        return (-0.5 * m2).exp() / TAU.sqrt() * width * series;
    }
    if a > 0.0 {
        return normal_below(-a) - normal_below(-b);
    }
    0.5 * (libm::erf(b * FRAC_1_SQRT_2) - libm::erf(a * FRAC_1_SQRT_2))
}

/// By how much a probability of [`normal_between`] may err, relatively: tails lose at most 12 times their error in the
/// difference, and a tail at 15 deviations errs by 15^2 roundings of its argument.
pub(super) const INTERVAL_ERROR: f64 = 1e-12;

#[cfg(test)]
mod tests {
    use super::*;

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
    fn a_binomial_tail_is_never_below_what_it_bounds() {
        // By mpmath with 40 digits, of which thirteen are here, rounded down: all near the bound that a sample's size keeps, and
        // some where sums in floating point come out too small.
        for (n, p, k, expected) in [
            (750, 0.25, 271, 5.044_265_618_846e-12),
            (60_000, 0.01, 774, 3.473_901_768_153e-12),
            (1_000_000, 0.25, 253_076, 6.448_335_919_258e-13),
            (1 << 26, 0.25, 16_802_401, 6.289_184_152_690e-13),
            (1 << 26, 0.75, 50_356_834, 6.171_811_147_331e-13),
            (1 << 26, 0.5, 33_583_515, 6.216_922_454_146e-13),
            (50_000_000, 0.125, 6_266_605, 6.320_893_826_314e-13),
            (1 << 25, 1.0 / 1024.0, 34_054, 7.994_757_197_776e-13),
        ] {
            let found = binomial_tail(n, p, k);
            let least = expected * (1.0 + 4.0 * f64::EPSILON);
            assert!((least..least * (1.0 + 1e-5)).contains(&found), "{found:e} for {n}, {p}, {k}: {expected:e}");
        }
        // What is too small for an `f64` is not 0, and what is probable is not above 1.
        assert!(binomial_tail(1 << 26, 0.25, 60_000_000) > 0.0);
        assert!(binomial_tail(1 << 26, 0.5, 1 << 25) <= 1.0);
    }

    #[test]
    fn the_normal_distribution_has_its_known_values_and_is_additive() {
        // 1 - Phi(6), by mpmath to 20 digits.
        assert!((normal_below(-6.0) / 9.865_876_450_376_98e-10 - 1.0).abs() < 1e-14);
        // ln Phi(-40), by mpmath; and both ways meet.
        assert!((log_normal_below(-40.0) + 804.608_442_013_753_8).abs() < 1e-9, "{}", log_normal_below(-40.0));
        assert!((log_normal_below(-30.0) - normal_below(-30.0).ln()).abs() < 1e-11);
        assert_eq!(normal_between(1.0, 1.0), 0.0);
        assert!(normal_between(f64::NAN, 1.0).is_nan());
        // Narrow intervals by the series add up to a wide one by the tails, on both sides and far out.
        for (a, b) in [(-0.5, 1.5), (3.0, 4.0), (-11.0, -10.0), (12.0, 12.5)] {
            let n = 1000;
            let edge = |i: i32| a + (b - a) * f64::from(i) / f64::from(n);
            let sum: f64 = (0..n).map(|i| normal_between(edge(i), edge(i + 1))).sum();
            assert!((sum / normal_between(a, b) - 1.0).abs() < INTERVAL_ERROR, "{a} to {b}");
        }
    }
}
