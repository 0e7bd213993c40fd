//! How much epsilon a training run shows by itself: the audit by canaries in one run.
//!
//! `m` canaries are each in or out by a fair coin; from the released result somebody guesses for `r` of them which, and is
//! right `v` times. Under (epsilon, delta) that cannot succeed too often (Steinke, Nasr and Jagielski 2023).

use crate::accountant::{binomial_at_least, gaussian, normal_below};

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
/// (Steinke, Nasr and Jagielski 2023, "Privacy Auditing with One (1) Training Run", for approximate privacy). 1 if the counts contradict one another.
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

/// The largest epsilon at `delta` of Gaussian noise that the guesses contradict at level `significance`, to 1e-4: a lower
/// bound of confidence 1 - `significance`, if what is audited is Gaussian noise of some size. Such noise keeps more than one
/// promise of epsilon and delta, so more contradicts it. 0 if nothing does; none unless 0 < delta < 1.
///
/// The analysis is that of `audit_rh_with_cap` in Mahloujifar, Melis and Chaudhuri, "Auditing f-Differential Privacy in One
/// Run" (2025), with the trade-off of N(0, 1) and N(mu, 1).
pub fn audit_bound_gaussian(guesses: Guesses, delta: f64, significance: f64) -> Option<f64> {
    if !(delta > 0.0 && delta < 1.0) {
        return None;
    }
    let contradicts = |mu: f64| contradicts_gaussian(guesses, mu, significance);
    let (mut low, mut high) = (0.0, MU_MAX);
    while high - low > 1e-6 {
        let middle = f64::midpoint(low, high);
        if contradicts(middle) { low = middle } else { high = middle }
    }
    Some(if low > 0.0 { gaussian::epsilon(1.0 / low, delta) } else { 0.0 })
}

/// Whether guesses that good have a probability below `significance` where the sums with a canary and without are no
/// easier to tell apart than N(mu, 1) and N(0, 1).
fn contradicts_gaussian(guesses: Guesses, mu: f64, significance: f64) -> bool {
    let Guesses { canaries, guessed, right } = guesses;
    if guessed > canaries || right > guessed || guessed == 0 {
        return false;
    }
    let share = |count: u32| f64::from(count) / f64::from(canaries);
    // r and h: shares of canaries that are guessed right and wrong in runs with at least i right guesses, i falling.
    let (mut r, mut h) = (significance * share(right), significance * share(guessed - right));
    for i in (0..right).rev() {
        let wrong = h.max(normal_below(normal_quantile(r) - mu));
        r = (r + f64::from(i) / f64::from(guessed - i) * (wrong - h)).min(1.0);
        h = wrong;
    }
    r + h > share(guessed)
}

/// x with P[N(0, 1) <= x] = p.
fn normal_quantile(p: f64) -> f64 {
    let (mut low, mut high) = (-QUANTILE_MAX, QUANTILE_MAX);
    for _ in 0..64 {
        let middle = f64::midpoint(low, high);
        if normal_below(middle) < p { low = middle } else { high = middle }
    }
    low
}

/// What an attack on canaries shows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shown {
    /// A lower bound on what the mechanism spends.
    pub epsilon: f64,
    /// The guesses that show it.
    pub guesses: Guesses,
    /// A lower bound on what it spends if its noise is Gaussian, of whatever size: [`audit_bound_gaussian`].
    pub epsilon_gaussian: f64,
}

/// Guesses from the scores of canaries, and what they show at level `significance`. The higher a canary's score, the more it
/// looks like one that is in; `is_in` says which were. Guessed are the highest as in and as many of the lowest as out, 2, 5,
/// 10, 20 and 40 % of all canaries; the best of the five counts, each at a fifth of the level.
///
/// None if scores and canaries are not as many, or there are too few to guess two.
pub fn audit_scores(scores: &[f64], is_in: &[bool], delta: f64, significance: f64) -> Option<Shown> {
    if scores.len() != is_in.len() {
        return None;
    }
    let canaries = u32::try_from(scores.len()).ok()?;
    let mut order: Vec<(f64, bool)> = scores.iter().copied().zip(is_in.iter().copied()).collect();
    order.sort_by(|a, b| a.0.total_cmp(&b.0));
    let shown = GUESSED_PERCENT.iter().filter_map(|percent| {
        let half = scores.len() * percent / 200;
        let right = order.iter().take(half).filter(|(_, is_in)| !is_in).count()
            + order.iter().rev().take(half).filter(|(_, is_in)| *is_in).count();
        let guesses = Guesses { canaries, guessed: u32::try_from(2 * half).ok()?, right: u32::try_from(right).ok()? };
        let significance = significance / GUESSED_PERCENT.len() as f64;
        let epsilon = audit_bound(guesses, delta, significance);
        let epsilon_gaussian = audit_bound_gaussian(guesses, delta, significance).unwrap_or(0.0);
        (half > 0).then_some(Shown { epsilon, guesses, epsilon_gaussian })
    });
    shown.reduce(|a, b| {
        let best = if b.epsilon > a.epsilon { b } else { a };
        Shown { epsilon_gaussian: a.epsilon_gaussian.max(b.epsilon_gaussian), ..best }
    })
}

/// No number of canaries shows more.
const EPSILON_MAX: f64 = 64.0;
/// Nor is noise of a smaller multiplier than 1/16 told from none.
const MU_MAX: f64 = 16.0;
/// Beyond it a normal variable has no probability that an `f64` holds.
const QUANTILE_MAX: f64 = 38.0;
/// How many of the canaries are guessed; that is fixed before anybody looks at the scores.
const GUESSED_PERCENT: [usize; 5] = [2, 5, 10, 20, 40];

#[cfg(test)]
mod tests {
    use eranos_base::{Entropy, SeededEntropy};

    use super::*;

    #[test]
    fn of_scores_that_tell_all_the_most_is_shown_and_of_scores_that_tell_nothing_nothing() {
        let mut entropy = SeededEntropy::new(3);
        let is_in: Vec<bool> = (0..1000).map(|_| entropy.bytes::<1>()[0] & 1 == 1).collect();
        let telling: Vec<f64> = is_in.iter().map(|is_in| f64::from(u8::from(*is_in))).collect();
        let shown = audit_scores(&telling, &is_in, 1e-5, 0.05).expect("canaries");
        // Whatever is audited, no more than 4.40 can be shown with a thousand.
        assert!((4.3..4.41).contains(&shown.epsilon), "{shown:?}");
        assert_eq!(shown.guesses.right, shown.guesses.guessed);
        assert!(shown.epsilon_gaussian > shown.epsilon, "{shown:?}");
        let silent: Vec<f64> = (0..1000).map(|_| f64::from(entropy.bytes::<1>()[0])).collect();
        let shown = audit_scores(&silent, &is_in, 1e-5, 0.05).expect("canaries");
        assert!(shown.epsilon < 0.3 && shown.epsilon_gaussian < 0.6, "{shown:?}, seed 3");
        // Whoever is always wrong says nothing that this attack hears.
        let lying: Vec<f64> = telling.iter().map(|score| -score).collect();
        assert_eq!(audit_scores(&lying, &is_in, 1e-5, 0.05).expect("canaries").epsilon, 0.0);
        assert_eq!(audit_scores(&silent[..999], &is_in, 1e-5, 0.05), None);
        assert_eq!(audit_scores(&[1.0; 4], &[true; 4], 1e-5, 0.05), None);
    }
}
