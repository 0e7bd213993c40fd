//! The adaptive stop: a Renyi privacy filter at one order, for schedules whose next release depends on earlier ones.
//!
//! # What is proved
//!
//! Releases are chosen one after the other, each after the outcomes of those before it; release i has at most the divergence
//! r_i at the filter's order a, but for an event of probability f_i (a sample that is cut to its bound) in either of two
//! neighbouring worlds. Order, epsilon, R and F are fixed before anything is released, and whatever the outcomes, the filter
//! lets pass only what keeps sum r_i <= R and sum f_i <= F. Then the whole is (epsilon, delta)-private:
//!
//! 1. Were no sample cut, the a-th moment of the likelihood ratio of all outcomes, each multiplied by e^(-(a-1) sum r_i), would be
//!    at most 1: release by release it is a supermartingale. As sum r_i <= R along every path, the whole has divergence R at
//!    order a (Feldman and Zrnic 2021, "Individual Privacy Accounting via a Renyi Filter", theorem 3.1), and so
//!    P(E) <= e^epsilon P'(E) + delta_R for every set E of outcomes, with delta_R = (1/a) (1 - 1/a)^(a-1) e^((a-1)(R - epsilon))
//!    (Canonne, Kamath and Steinke 2020, proposition 12).
//! 2. The true run and the one without cuts differ with probability at most F in each world: given the past, attempt i differs
//!    with at most f_i, and the sum of these is at most F along every path. So P(E) <= e^epsilon (P'(E) + F) + delta_R + F.
//!
//! The two parts of delta are delta_R and F (1 + e^epsilon), and the filter takes them such that together they are delta. No
//! outcome is counted in another part: there is one order, and no split of outcomes by what happened to be released.
//!
//! What is proved is the epsilon that the filter was made for. The epsilon of what has been released so far
//! ([`RenyiFilter::epsilon_of`]) is what a filter made for that little would have let pass.
//!
//! # Which order
//!
//! That which lets most of the first mechanism pass ([`RenyiFilter::beginning_with`]): it was named before anything was
//! released, so the order may depend on it. A budget that is charged with one mechanism alone loses nothing by the filter:
//! of n releases fixed in advance, the best of all orders counts, and this order is the best where the limit is reached.
//! The choice is good and no more: what is proved holds of any order, so that a filter that was fixed once is kept as it is
//! ([`RenyiFilter::keeps`]), though a later version of this module would choose another.

use eranos_base::encoding::{Canonical, CanonicalReader, DecodeError};

use super::{Accountant, ORDERS, RdpCurve};

/// Lets releases pass as long as the sum of their divergences at one order, and of their failures, both fixed beforehand, stays
/// within what epsilon at delta allows.
#[derive(Clone, Debug, PartialEq)]
pub struct RenyiFilter {
    order: u32,
    epsilon: f64,
    /// What divergence may cost of delta.
    delta: f64,
    /// F.
    failure_max: f64,
}

/// A mechanism as it was planned.
#[derive(Clone, Copy, Debug)]
pub struct Planned<'a> {
    /// The divergence of one attempt.
    pub curve: &'a RdpCurve,
    /// With what probability the analysis of one attempt does not hold.
    pub failure: f64,
    /// For how many attempts its own epsilon was promised.
    pub attempts: u32,
}

/// The order is none of [`ORDERS`], or too small for the target.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[error("order {order} allows no epsilon {epsilon} at delta {delta:e}")]
pub struct Hopeless {
    /// The order.
    pub order: u32,
    /// The target.
    pub epsilon: f64,
    /// Its delta.
    pub delta: f64,
}

impl RenyiFilter {
    /// A filter at `order` for releases that never fail: r(order) may reach epsilon - ln(1 - 1/a) + ln(delta a)/(a - 1).
    ///
    /// # Errors
    /// If the order is unknown, or too small for the target.
    pub fn new(order: u32, epsilon: f64, delta: f64) -> Result<Self, Hopeless> {
        let filter = Self { order, epsilon, delta, failure_max: 0.0 };
        let nothing = RdpCurve::default().epsilon_at(order, delta);
        if ORDERS.contains(&order) && epsilon.is_finite() && nothing < epsilon {
            return Ok(filter);
        }
        Err(Hopeless { order, epsilon, delta })
    }

    /// The filter for `epsilon` at `delta` that lets most of the mechanism `first` pass: as many attempts of it as would be
    /// private if nothing else were released, and of others what costs no more in divergence and in failures. For failures of
    /// others a part of delta is kept, up to a sixteenth, as far as that costs none of the attempts that `first` was
    /// planned with.
    ///
    /// A filter for an epsilon that nothing could be released at lets nothing pass.
    pub fn beginning_with(first: &Planned<'_>, epsilon: f64, delta: f64) -> Self {
        let after = |n: f64, kept: f64| {
            let accountant = Accountant { curve: first.curve.scaled(n), failure: n * first.failure };
            (accountant.epsilon(delta - kept), accountant)
        };
        let most = most_within(|n| after(n, 0.0).0 <= epsilon);
        let planned = most.floor().min(first.attempts.into());
        let kept = (0..HALVINGS_MAX).map(|n| delta / FAILURES_PART / f64::from(1u32 << n));
        let kept = kept.into_iter().find(|kept| after(planned, *kept).0 <= epsilon).unwrap_or(0.0);
        let most = most_within(|n| after(n, kept).0 <= epsilon);
        let (reached, all) = after(most, kept);
        if reached > epsilon {
            return Self { order: ORDERS[0], epsilon: 0.0, delta: 0.0, failure_max: 0.0 };
        }
        let per_failure = 1.0 + reached.exp();
        // At an epsilon of hundreds a failure costs more than can be told; where there is none, nothing is to be paid.
        let of_first = if all.failure > 0.0 { all.failure * per_failure } else { 0.0 };
        let delta = delta - of_first - kept;
        let failure_max = all.failure + kept / per_failure;
        Self { order: all.curve.best_order(delta), epsilon: reached, delta, failure_max }
    }

    /// The least epsilon for which a filter that begins with a mechanism, as [`beginning_with`](Self::beginning_with) makes
    /// it, lets all of `released` pass; infinite if none does.
    pub fn least(first: &Planned<'_>, released: &Accountant, delta: f64) -> f64 {
        let made_for = |epsilon: f64| Self::beginning_with(first, epsilon, delta);
        let passes = |epsilon: f64| made_for(epsilon).lets_pass(released);
        let (mut low, mut high) = (0.0, 1.0);
        while !passes(high) {
            if high >= EPSILON_MAX {
                return f64::INFINITY;
            }
            (low, high) = (high, 2.0 * high);
        }
        while high - low > PRECISION * high {
            let middle = f64::midpoint(low, high);
            if passes(middle) { high = middle } else { low = middle }
        }
        high
    }

    /// Whether all that passes it is (epsilon, delta)-private, if it was fixed before anything was released: by whatever rule,
    /// since what is proved asks nothing of a filter but that its two parts of delta are together no more than delta.
    pub fn keeps(&self, epsilon: f64, delta: f64) -> bool {
        let Self { order, epsilon: of_filter, delta: of_divergence, failure_max } = *self;
        let of_failures = if failure_max > 0.0 { failure_max * (1.0 + of_filter.exp()) } else { 0.0 };
        ORDERS.contains(&order)
            && [of_filter, of_divergence, failure_max].iter().all(|bound| (0.0..f64::INFINITY).contains(bound))
            && of_filter <= epsilon
            && of_divergence + of_failures <= delta * (1.0 + ROUNDING)
    }

    /// Its order (`u32`), epsilon, what divergence may cost of delta, and the most that may fail (`f64`), behind what `canonical`
    /// holds.
    pub fn encode(&self, canonical: Canonical) -> Canonical {
        canonical.u32(self.order).f64(self.epsilon).f64(self.delta).f64(self.failure_max)
    }

    /// Reads one that [`encode`](Self::encode) wrote. What it [`keeps`](Self::keeps), is for the caller to ask.
    ///
    /// # Errors
    /// If there are not so many bytes.
    pub fn decode(reader: &mut CanonicalReader<'_>) -> Result<Self, DecodeError> {
        Ok(Self { order: reader.u32()?, epsilon: reader.f64()?, delta: reader.f64()?, failure_max: reader.f64()? })
    }

    /// The order.
    pub fn order(&self) -> u32 {
        self.order
    }

    /// Whether all that `released` has composed is within the filter.
    pub fn lets_pass(&self, released: &Accountant) -> bool {
        self.epsilon_of(released) <= self.epsilon * (1.0 + ROUNDING)
    }

    /// Epsilon of all that `released` has composed, at the filter's order; infinite where more can fail than it allows.
    pub fn epsilon_of(&self, released: &Accountant) -> f64 {
        match released.failure <= self.failure_max * (1.0 + ROUNDING) {
            true => released.curve.epsilon_at(self.order, self.delta).max(0.0),
            false => f64::INFINITY,
        }
    }
}

/// The most that `holds`, which holds from 0 up to some number: a part of one included, since what is left after the last
/// whole one may serve another mechanism.
fn most_within(holds: impl Fn(f64) -> bool) -> f64 {
    let (mut most, mut beyond) = (0.0, 1.0);
    while beyond < RELEASES_MAX && holds(beyond) {
        (most, beyond) = (beyond, 2.0 * beyond);
    }
    // Among whole numbers first, for which arithmetic is exact.
    while beyond - most > PRECISION.max(ROUNDING * beyond) {
        let middle = f64::midpoint(most, beyond);
        let middle = if beyond - most > 1.0 { middle.floor() } else { middle };
        if holds(middle) { most = middle } else { beyond = middle }
    }
    most
}

/// The largest part of delta that is kept for failures of others than the first mechanism: at epsilon 4 that is for 11,000
/// attempts.
const FAILURES_PART: f64 = 16.0;
/// How small a part is kept at least; less is nothing.
const HALVINGS_MAX: u32 = 20;
/// More releases than there can ever be.
const RELEASES_MAX: f64 = 1e12;
/// A larger one promises nothing.
const EPSILON_MAX: f64 = 1e6;
/// Of what is found by halving: a part of a release, or of epsilon.
const PRECISION: f64 = 1e-6;
/// Of sums that are added up in another order.
const ROUNDING: f64 = 1e-12;

#[cfg(test)]
mod tests;
