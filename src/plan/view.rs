//! What one adversary can tell of a schedule: epsilon by both accountants that know sampling, at one delta and over all.

use eranos_privacy::{Accountant, Event, accountant::pld};
use serde_json::json;

use crate::plot::{Curve, svg};

/// One adversary's view of a schedule.
pub(super) struct View {
    who: &'static str,
    noise_multiplier: f64,
    pub(super) epsilon_rdp: f64,
    pub(super) epsilon_pld: f64,
    releases: Releases,
}

impl View {
    pub(super) fn new(who: &'static str, noise_multiplier: f64, releases: Releases, delta: f64) -> Self {
        let [epsilon_rdp, epsilon_pld] = releases.epsilons(delta);
        Self { who, noise_multiplier, epsilon_rdp, epsilon_pld, releases }
    }

    pub(super) fn line(&self) -> String {
        let Self { who, noise_multiplier: z, epsilon_rdp, epsilon_pld, .. } = self;
        format!(
            "against {who}: noise multiplier {z:.3}, epsilon_rdp {}, epsilon_pld {}",
            shown(*epsilon_rdp),
            shown(*epsilon_pld)
        )
    }

    pub(super) fn json(&self) -> serde_json::Value {
        json!({
            "against": self.who,
            "noise_multiplier": self.noise_multiplier,
            "epsilon_rdp": finite(self.epsilon_rdp),
            "epsilon_pld": finite(self.epsilon_pld),
            "curve": self.releases.curve().map(|(delta, [rdp, pld])| {
                json!({ "delta": delta, "epsilon_rdp": finite(rdp), "epsilon_pld": finite(pld) })
            }).collect::<Vec<_>>(),
        })
    }

    /// Epsilon over delta, as a table for a person.
    pub(super) fn table(&self) -> [String; 3] {
        let mut rows = ["delta      ", "epsilon_rdp", "epsilon_pld"].map(str::to_owned);
        for (delta, [rdp, pld]) in self.releases.curve() {
            let cells = [format!("{delta:.0e}"), brief(rdp), brief(pld)];
            rows.iter_mut().zip(cells).for_each(|(row, cell)| *row += &format!("{cell:>8}"));
        }
        rows
    }

    /// Epsilon over delta, by both accountants that know sampling.
    pub(super) fn draw(&self) -> String {
        let deltas = (0..=DRAWN_POINTS).map(|i| 10f64.powf(-12.0 + 10.0 * f64::from(i) / f64::from(DRAWN_POINTS)));
        let points: Vec<_> = deltas.map(|delta| (delta, self.releases.epsilons(delta))).collect();
        let curve = |name, pick: fn(&[f64; 2]) -> f64| Curve {
            name,
            points: points.iter().map(|(delta, epsilons)| (*delta, pick(epsilons))).collect(),
        };
        let curves = [curve("Renyi divergences", |[rdp, _]| *rdp), curve("privacy losses", |[_, pld]| *pld)];
        svg(&format!("epsilon over {} rounds", self.releases.n), "delta", "epsilon", &curves)
    }
}

/// Releases under one noise, by both accountants that know sampling.
pub(super) struct Releases {
    renyi: Accountant,
    event: Event,
    n: u64,
    /// With what probability the analysis of one of them does not hold.
    failure: f64,
}

impl Releases {
    pub(super) fn new(event: Event, n: u64, failure: f64) -> Self {
        let mut renyi = Accountant::new();
        renyi.compose_curve(&event.rdp(), n, failure);
        Self { renyi, event, n, failure }
    }

    /// Epsilon at `delta` by Renyi divergences and by privacy losses.
    fn epsilons(&self, delta: f64) -> [f64; 2] {
        let epsilon_rdp = self.renyi.epsilon(delta);
        // Failures are paid out of delta; the larger epsilon is on the side of caution.
        let paid = if self.failure > 0.0 { self.n as f64 * self.failure * (1.0 + epsilon_rdp.exp()) } else { 0.0 };
        [epsilon_rdp, pld::epsilon(&[(self.event, self.n)], delta - paid)]
    }

    /// Epsilon over delta, a decade a point.
    fn curve(&self) -> impl Iterator<Item = (f64, [f64; 2])> {
        (DECADES_MIN..=DECADES_MAX).map(|decades| {
            let delta = 10f64.powi(-decades);
            (delta, self.epsilons(delta))
        })
    }
}

/// An epsilon for a person.
pub(super) fn shown(epsilon: f64) -> String {
    if epsilon.is_finite() { format!("{epsilon:.3}") } else { "none can be claimed".into() }
}

/// The same in a cell of a table.
fn brief(epsilon: f64) -> String {
    if epsilon.is_finite() { format!("{epsilon:.3}") } else { "-".into() }
}

/// JSON has no infinity: null.
pub(super) fn finite(epsilon: f64) -> Option<f64> {
    epsilon.is_finite().then_some(epsilon)
}

pub(super) const COORDINATOR: &str = "the coordinator and its colluders";
pub(super) const RECIPIENT: &str = "recipients of the model";
/// The curve goes from 10^-3 to 10^-10.
const DECADES_MIN: i32 = 3;
const DECADES_MAX: i32 = 10;
/// Points of a drawn curve, less one.
const DRAWN_POINTS: u32 = 40;
