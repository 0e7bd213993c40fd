//! The adaptive stop: a Renyi privacy filter at one order, for schedules whose next release depends on earlier ones.

use super::{Event, ORDERS, RdpCurve};

/// Lets releases pass as long as the sum of their divergences at one order, fixed beforehand, stays within what epsilon
/// at delta allows; then the whole is (epsilon, delta)-private although each release was chosen after the ones before it
/// (Feldman and Zrnic 2021, "Individual Privacy Accounting via a Renyi Filter"). Choosing the order afterwards would not be
/// covered.
#[derive(Clone, Debug, PartialEq)]
pub struct RenyiFilter {
    index: usize,
    limit: f64,
    spent: f64,
}

/// Why a release did not pass.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
pub enum FilterError {
    /// The order is none of [`ORDERS`].
    #[error("order {order} is none of the accountant's")]
    Order {
        /// The order asked for.
        order: u32,
    },
    /// At this order nothing may be spent.
    #[error("order {order} allows no epsilon {epsilon} at delta {delta:e}")]
    Hopeless {
        /// The order.
        order: u32,
        /// The target.
        epsilon: f64,
        /// Its delta.
        delta: f64,
    },
    /// The release would exceed the limit.
    #[error("the release costs {cost}, but {left} is left")]
    Full {
        /// Its divergence.
        cost: f64,
        /// What may still be spent.
        left: f64,
    },
}

impl RenyiFilter {
    /// A filter at `order`: r(order) may reach epsilon - ln(1 - 1/a) + ln(delta a)/(a - 1).
    ///
    /// # Errors
    /// If the order is unknown, or too small for the target.
    pub fn new(order: u32, epsilon: f64, delta: f64) -> Result<Self, FilterError> {
        let index = ORDERS.iter().position(|known| *known == order).ok_or(FilterError::Order { order })?;
        let a = f64::from(order);
        let limit = epsilon - (-1.0 / a).ln_1p() + (delta * a).ln() / (a - 1.0);
        if !(limit > 0.0 && limit.is_finite() && delta < 1.0) {
            return Err(FilterError::Hopeless { order, epsilon, delta });
        }
        Ok(Self { index, limit, spent: 0.0 })
    }

    /// Lets `event` pass and counts it, or refuses and counts nothing.
    ///
    /// # Errors
    /// If it would exceed the limit.
    pub fn pass(&mut self, event: &Event) -> Result<(), FilterError> {
        self.pass_curve(&event.rdp())
    }

    /// The same for a release of divergence `curve`.
    ///
    /// # Errors
    /// If it would exceed the limit.
    pub fn pass_curve(&mut self, curve: &RdpCurve) -> Result<(), FilterError> {
        let cost = curve.iter().nth(self.index).map_or(f64::INFINITY, |(_, r)| r);
        let spent = self.spent + cost;
        if spent <= self.limit {
            self.spent = spent;
            return Ok(());
        }
        Err(FilterError::Full { cost, left: self.limit - self.spent })
    }

    /// The share of the limit that is spent, from 0 to 1.
    pub fn spent(&self) -> f64 {
        self.spent / self.limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Accountant;

    #[test]
    fn a_filter_stops_before_its_epsilon_and_not_long_before() {
        let event = |z: f64| Event::PoissonGaussian { sampling_probability: 0.01, noise_multiplier: z };
        let (mut filter, mut accountant) = (RenyiFilter::new(8, 2.0, 1e-5).expect("possible"), Accountant::new());
        // The noise falls as long as there is room: what an adaptive schedule may do.
        let noise = |n: u32| 1.0 + 1.0 / f64::from(1 + n);
        let mut n = 0;
        while filter.pass(&event(noise(n))).is_ok() {
            accountant.compose(&event(noise(n)), 1);
            n += 1;
        }
        assert!(n > 100 && filter.spent() > 0.99, "{n} releases, {} spent", filter.spent());
        // Over all orders what passed costs no more, and one more release at this order too much.
        assert!(accountant.epsilon(1e-5) <= 2.0, "{}", accountant.epsilon(1e-5));
        let spent = filter.spent();
        assert!(matches!(filter.pass(&event(0.5)), Err(FilterError::Full { .. })));
        assert_eq!(filter.spent(), spent);
        // Something smaller may still pass.
        filter.pass(&event(20.0)).expect("there is room");
    }

    #[test]
    fn impossible_filters_are_refused() {
        assert_eq!(RenyiFilter::new(1, 2.0, 1e-5), Err(FilterError::Order { order: 1 }));
        assert!(matches!(RenyiFilter::new(2, 2.0, 1e-5), Err(FilterError::Hopeless { .. })));
        assert!(matches!(RenyiFilter::new(8, f64::NAN, 1e-5), Err(FilterError::Hopeless { .. })));
        let mut filter = RenyiFilter::new(8, 2.0, 1e-5).expect("possible");
        let none = Event::PoissonGaussian { sampling_probability: 0.01, noise_multiplier: 0.0 };
        assert!(matches!(filter.pass(&none), Err(FilterError::Full { .. })));
    }
}
