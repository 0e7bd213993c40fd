//! What attempts cost, as an entry says it.

use std::fmt;

use eranos_privacy::{Mechanism, Promise, View, accountant};

use crate::entry::EntryError;

/// Epsilon where nothing is promised: without noise, and only there.
pub(super) const INFINITE: &str = "infinite";

/// Epsilon at the mechanism's delta, as promised (u_min survivors), in both views; infinite without noise.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Epsilons {
    /// The headline: the coordinator together with the colluders tolerated.
    pub coordinator: f64,
    /// Anyone who has no participant on their side.
    pub outsider: f64,
}

impl Epsilons {
    /// What `n_attempts` attempts of `mechanism` cost, by its promise.
    pub fn promised(mechanism: &Mechanism, n_attempts: u64) -> Self {
        PromisedCurves::new(mechanism).epsilons(n_attempts)
    }
}

/// The Renyi curves of one attempt, made once for a mechanism: converting the sum over any number of attempts is cheap.
#[derive(Clone, Debug)]
pub struct PromisedCurves {
    coordinator: accountant::RdpCurve,
    outsider: accountant::RdpCurve,
    cut_probability: f64,
    delta: f64,
}

impl PromisedCurves {
    /// Those of `mechanism`.
    pub fn new(mechanism: &Mechanism) -> Self {
        let u_min = u32::from(mechanism.common().u_min);
        // No shares would be an infinite divergence: nothing is claimed.
        let curve = |view| mechanism.curve(mechanism.shares(view, u_min).unwrap_or_default());
        Self {
            coordinator: curve(View::CoordinatorWithColluders),
            outsider: curve(View::Outsider),
            cut_probability: mechanism.cut_probability(),
            delta: mechanism.common().delta,
        }
    }

    /// What `n_attempts` attempts cost.
    pub fn epsilons(&self, n_attempts: u64) -> Epsilons {
        let epsilon = |curve| {
            let mut accountant = accountant::Accountant::new();
            accountant.compose_curve(curve, n_attempts, self.cut_probability);
            accountant.epsilon(self.delta)
        };
        Epsilons { coordinator: epsilon(&self.coordinator), outsider: epsilon(&self.outsider) }
    }

    /// How many attempts, `max` at most, cost no more than `epsilon_max`, where there is such a limit.
    pub fn attempts_within(&self, epsilon_max: Option<f64>, max: u64) -> u64 {
        let Some(epsilon_max) = epsilon_max else { return max };
        let (mut affordable, mut beyond) = (0, max.saturating_add(1));
        while affordable + 1 < beyond {
            let middle = affordable + (beyond - affordable) / 2;
            if self.epsilons(middle).coordinator <= epsilon_max {
                affordable = middle;
            } else {
                beyond = middle;
            }
        }
        affordable
    }
}

/// An epsilon as an entry spells it.
pub(super) struct Epsilon(pub(super) f64);

impl fmt::Display for Epsilon {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == f64::INFINITY { f.write_str(INFINITE) } else { self.0.fmt(f) }
    }
}

/// Refuses epsilons that do not belong to the mechanism's noise: without any they are infinite, and with it an infinite
/// one, as a mechanism's may be beyond its plan's attempts, has no place in an entry.
pub(super) fn check_epsilons<const N: usize>(mechanism: &Mechanism, epsilons: [f64; N]) -> Result<(), EntryError> {
    if mechanism.has_noise() {
        return check_finite(epsilons);
    }
    let infinite = epsilons.iter().all(|epsilon| *epsilon == f64::INFINITY);
    if infinite { Ok(()) } else { Err(EntryError::Contradiction { what: "an epsilon is finite without noise" }) }
}

pub(super) fn check_finite<const N: usize>(numbers: [f64; N]) -> Result<(), EntryError> {
    let sound = numbers.iter().all(|number| number.is_finite() && number.is_sign_positive());
    if sound { Ok(()) } else { Err(EntryError::Contradiction { what: "an epsilon or delta is no finite number" }) }
}
