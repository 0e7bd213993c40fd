use std::collections::HashMap;

use super::*;
use crate::{
    Accountant, Event,
    fractions::{exact, exp_bounds, whole},
};

#[test]
fn a_filter_stops_before_its_epsilon_and_not_long_before() {
    let event = |z: f64| Event::PoissonGaussian { sampling_probability: 0.01, noise_multiplier: z };
    let filter = RenyiFilter::new(8, 2.0, 1e-5).expect("possible");
    // The noise falls as long as there is room: what an adaptive schedule may do.
    let mut released = Accountant::new();
    let mut n = 0;
    loop {
        let mut more = released.clone();
        more.compose(&event(1.0 + 1.0 / f64::from(1 + n)), 1);
        if !filter.lets_pass(&more) {
            break;
        }
        (released, n) = (more, n + 1);
    }
    let spent = filter.epsilon_of(&released);
    assert!(n > 100 && spent > 1.97 && spent <= 2.0, "{n} releases, {spent} spent");
    // Over all orders what passed costs no more.
    assert!(released.epsilon(1e-5) <= spent);
    // Something smaller may still pass.
    released.compose(&event(20.0), 1);
    assert!(filter.lets_pass(&released));
}

#[test]
fn of_the_first_mechanism_alone_as_much_passes_as_if_there_were_no_filter() {
    let of = |q: f64, z: f64| Event::PoissonGaussian { sampling_probability: q, noise_multiplier: z }.rdp();
    let settings = [(of(0.25, 3.77), 1e-12), (of(0.001, 0.6), 1e-12), (of(1.0, 9.0), 0.0)];
    for (curve, failure) in settings {
        for (epsilon, delta) in [(0.5, 1e-5), (4.0, 1e-8), (20.0, 1e-5), (1000.0, 1e-5)] {
            let after = |n: u64| {
                let mut accountant = Accountant::new();
                accountant.compose_curve(&curve, n, failure);
                accountant
            };
            let (mut most, mut beyond) = (0, 1 << 24);
            while beyond - most > 1 {
                let middle = u64::midpoint(most, beyond);
                if after(middle).epsilon(delta) <= epsilon { most = middle } else { beyond = middle }
            }
            let planned = Planned { curve: &curve, failure, attempts: PLANNED };
            let filter = RenyiFilter::beginning_with(&planned, epsilon, delta);
            assert!(filter.keeps(epsilon, delta), "{filter:?}");
            let context = format!("epsilon {epsilon}, delta {delta:e}, failure {failure:e}, {most} releases");
            // All that was planned, and hardly less than all.
            assert!(filter.lets_pass(&after(most.min(PLANNED.into()))), "{context}");
            assert!(filter.lets_pass(&after(most * 9 / 10)) && !filter.lets_pass(&after(most + 1)), "{context}");
            // (Where failures take most of delta, none of it may be left to keep.)
            if most > 0 && epsilon < 10.0 {
                let least = RenyiFilter::least(&planned, &after(most), delta);
                assert!((after(most).epsilon(delta)..=epsilon * 1.05).contains(&least), "{context}: {least}");
            }
        }
    }
}

#[test]
fn the_two_parts_of_delta_are_together_no_more_than_delta() {
    // In fractions, with e^x bounded from above: nothing of the filter's own arithmetic.
    let exp_above = |x| exp_bounds(&x).1;
    let of = |q: f64, z: f64| Event::PoissonGaussian { sampling_probability: q, noise_multiplier: z }.rdp();
    let mut n_checked = 0;
    for (curve, failure) in
        [(of(0.25, 3.77), 1e-12), (of(0.004, 1.1), 1e-12), (of(0.1, 2.0), 1e-9), (of(1.0, 9.0), 0.0)]
    {
        for (epsilon, delta) in [(0.5, 1e-5), (4.0, 1e-5), (4.0, 1e-8), (12.0, 1e-5)] {
            let planned = Planned { curve: &curve, failure, attempts: PLANNED };
            let filter = RenyiFilter::beginning_with(&planned, epsilon, delta);
            let passes = |divergence: f64, failure: f64| {
                let mut accountant = Accountant::new();
                accountant.compose_curve(&RdpCurve::from_fn(|_| divergence), 1, failure);
                filter.lets_pass(&accountant)
            };
            assert!(!passes(0.0, 1.0) && !passes(f64::MAX, 0.0), "a filter that lets everything pass is none");
            let most = |passes: &dyn Fn(f64) -> bool| {
                let (mut low, mut high) = (0.0, 1.0);
                while passes(high) {
                    high *= 2.0;
                }
                while high - low > 1e-15 * high {
                    let middle = f64::midpoint(low, high);
                    if passes(middle) { low = middle } else { high = middle }
                }
                low
            };
            if !passes(0.0, 0.0) {
                continue;
            }
            let (divergence, failures) = (most(&|r| passes(r, 0.0)), most(&|f| passes(0.0, f)));
            let a = whole(filter.order());
            // (1/a) (1 - 1/a)^(a-1) e^((a-1)(R - epsilon)) + F (1 + e^epsilon).
            let base = num_traits::pow(whole(1) - whole(1) / &a, filter.order() as usize - 1) / &a;
            let of_divergence = base * exp_above((&a - whole(1)) * (exact(divergence) - exact(filter.epsilon)));
            let of_failures = exact(failures) * (whole(1) + exp_above(exact(filter.epsilon)));
            let together = of_divergence + of_failures;
            let rounding = whole(1) + exact(1e-9);
            assert!(together <= exact(delta) * rounding, "epsilon {epsilon}, delta {delta:e}, failure {failure:e}");
            // And nothing of delta is left unused.
            assert!(
                together >= exact(delta) * exact(1.0 - 1e-4),
                "epsilon {epsilon}, delta {delta:e}, failure {failure:e}"
            );
            assert!(
                filter.keeps(epsilon, delta),
                "epsilon {epsilon}, delta {delta:e}, failure {failure:e}: {filter:?}"
            );
            for more in [
                RenyiFilter { order: 257, ..filter.clone() },
                RenyiFilter { epsilon: epsilon * (1.0 + 1e-9), ..filter.clone() },
                RenyiFilter { delta: filter.delta + 1e-9 * delta, ..filter.clone() },
                RenyiFilter { failure_max: filter.failure_max + 1e-9 * delta, ..filter.clone() },
                RenyiFilter { delta: f64::NAN, ..filter.clone() },
            ] {
                assert!(!more.keeps(epsilon, delta), "{more:?}");
            }
            n_checked += 1;
        }
    }
    assert!(n_checked >= 14, "{n_checked}");
}

/// Answers that are right with probability `right`, and with probability `failure` give the secret away.
#[derive(Clone, Copy)]
struct RandomizedResponse {
    right: f64,
    failure: f64,
}

impl RandomizedResponse {
    fn curve(self) -> RdpCurve {
        let (p, q) = (self.right, 1.0 - self.right);
        RdpCurve::from_fn(|order| {
            let a = f64::from(order);
            (p.powf(a) * q.powf(1.0 - a) + q.powf(a) * p.powf(1.0 - a)).ln() / (a - 1.0)
        })
    }
}

/// An adversary who chooses every next mechanism by all that came out so far, as well as can be.
struct Adversary {
    mechanisms: [RandomizedResponse; 2],
    curves: [RdpCurve; 2],
    filter: RenyiFilter,
    epsilon: f64,
    /// The best from here on, by how often each mechanism was asked and was right.
    best: HashMap<[[u32; 2]; 2], f64>,
}

impl Adversary {
    /// max over strategies of the sum over outcomes of (P - e^epsilon P')+, from where P and P' are those of one path.
    fn gains(&mut self, asked: [[u32; 2]; 2]) -> f64 {
        if let Some(best) = self.best.get(&asked) {
            return *best;
        }
        let (mut p, mut other) = (1.0, 1.0);
        let mut released = Accountant::new();
        for ((m, curve), [n, right]) in self.mechanisms.iter().zip(&self.curves).zip(asked) {
            let wrong = n - right;
            let power = |x: f64, n: u32| x.powi(n as i32);
            p *= power(m.right, right) * power(1.0 - m.right, wrong) * power(1.0 - m.failure, n);
            other *= power(1.0 - m.right, right) * power(m.right, wrong);
            released.compose_curve(curve, n.into(), m.failure);
        }
        let mut best = (p - self.epsilon.exp() * other).max(0.0);
        for i in 0..2 {
            let m = self.mechanisms[i];
            let mut more = released.clone();
            more.compose_curve(&self.curves[i], 1, m.failure);
            if !self.filter.lets_pass(&more) {
                continue;
            }
            let next = |right: u32| {
                let mut asked = asked;
                asked[i][0] += 1;
                asked[i][1] += right;
                asked
            };
            best = best.max(p * m.failure + self.gains(next(0)) + self.gains(next(1)));
        }
        self.best.insert(asked, best);
        best
    }
}

#[test]
fn no_choice_of_the_next_release_by_the_outcomes_so_far_gains_more_than_delta() {
    let check = |weak: f64, strong: f64, failure: f64, allowed: f64| {
        let mechanisms = [weak, strong].map(|right| RandomizedResponse { right, failure });
        let (epsilon, delta) = (1.0, 0.2);
        let first = mechanisms[0];
        let filter = RenyiFilter::beginning_with(
            &Planned { curve: &first.curve(), failure: first.failure, attempts: 5 },
            allowed,
            delta,
        );
        let curves = mechanisms.map(RandomizedResponse::curve);
        Adversary { mechanisms, curves, filter, epsilon, best: HashMap::new() }.gains([[0; 2]; 2]) / delta
    };
    for (weak, strong, failure) in
        [(0.55, 0.6, 0.0), (0.55, 0.6, 1e-4), (0.54, 0.62, 1e-3), (0.62, 0.55, 1e-4), (0.55, 0.7, 0.0)]
    {
        let gained = check(weak, strong, failure, 1.0);
        assert!((0.2..=1.0).contains(&gained), "{weak}, {strong}, {failure}: {gained} of delta");
        // What passes a filter for three times as much would be too much: the adversary does use what it is given.
        let more = check(weak, strong, failure, 3.0);
        assert!(more > if failure > 1e-4 { gained } else { 1.0 }, "{weak}, {strong}, {failure}: {more} of delta");
    }
}

#[test]
fn impossible_filters_are_refused() {
    fn planned(curve: &RdpCurve) -> Planned<'_> {
        Planned { curve, failure: 0.0, attempts: PLANNED }
    }
    let hopeless = |order, epsilon| RenyiFilter::new(order, epsilon, 1e-5).is_err();
    assert!(hopeless(1, 2.0) && hopeless(2, 2.0) && hopeless(8, f64::NAN) && !hopeless(8, 2.0));
    // Nor does anything pass where no epsilon that small can be claimed, nor a release without noise anywhere.
    let curve = Event::PoissonGaussian { sampling_probability: 0.01, noise_multiplier: 1.0 }.rdp();
    let none = Event::PoissonGaussian { sampling_probability: 0.01, noise_multiplier: 0.0 }.rdp();
    let mut released = Accountant::new();
    assert!(!RenyiFilter::beginning_with(&planned(&curve), 1e-6, 1e-5).lets_pass(&released));
    let filter = RenyiFilter::beginning_with(&planned(&curve), 2.0, 1e-5);
    assert!(filter.lets_pass(&released));
    released.compose_curve(&none, 1, 0.0);
    assert!(!filter.lets_pass(&released));
    assert!(!RenyiFilter::beginning_with(&planned(&none), 2.0, 1e-5).lets_pass(&released));
    assert_eq!(RenyiFilter::least(&planned(&curve), &released, 1e-5), f64::INFINITY);
}

/// Attempts of a plan.
const PLANNED: u32 = 155;
