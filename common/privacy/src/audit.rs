//! How much epsilon a training run shows by itself: the audit by canaries in one run.
//!
//! `m` canaries are each in or out by a fair coin; from the released result somebody guesses for `r` of them which, and is
//! right `v` times. Under (epsilon, delta) that cannot succeed too often (Steinke, Nasr and Jagielski 2023).

use crate::accountant::binomial_at_least;

/// What an audit saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Guesses {
    /// m: canaries.
    pub canaries: u32,
    /// r: canaries that were guessed, at most m.
    pub guessed: u32,
    /// v: guesses that were right, at most r.
    pub right: u32,
}

/// The probability, at most, of guesses that good or better under (epsilon, delta):
/// P[Bin(r, p) >= v] + 2 m delta max_i P[v > Bin(r, p) >= v - i]/i, p = e^epsilon/(1 + e^epsilon)
/// (Steinke, Nasr and Jagielski 2023, theorem 5.2). 1 if the counts contradict one another.
pub fn p_value(guesses: Guesses, epsilon: f64, delta: f64) -> f64 {
    let Guesses { canaries, guessed, right } = guesses;
    if guessed > canaries || right > guessed || !(epsilon >= 0.0 && (0.0..=1.0).contains(&delta)) {
        return 1.0;
    }
    let p = 1.0 / (1.0 + (-epsilon).exp());
    let at_least = binomial_at_least(guessed, p);
    let beta = at_least[right as usize];
    let one = |i: u32| (at_least[(right - i) as usize] - beta) / f64::from(i);
    let alpha = (1..=right).map(one).fold(0.0, f64::max);
    (beta + 2.0 * f64::from(canaries) * delta * alpha).min(1.0)
}

/// The largest epsilon that the guesses contradict at level `significance`, to 1e-6: a lower bound of confidence
/// 1 - `significance` on what the mechanism really spends at `delta`. 0 if they contradict none.
pub fn audit_bound(guesses: Guesses, delta: f64, significance: f64) -> f64 {
    let contradicts = |epsilon: f64| p_value(guesses, epsilon, delta) <= significance;
    if !contradicts(0.0) {
        return 0.0;
    }
    let (mut low, mut high) = (0.0, EPSILON_MAX);
    while high - low > 1e-6 {
        let middle = f64::midpoint(low, high);
        if contradicts(middle) { low = middle } else { high = middle }
    }
    low
}

/// No number of canaries shows more.
const EPSILON_MAX: f64 = 64.0;
