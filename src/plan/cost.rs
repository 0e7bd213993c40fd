//! What drop-outs, colluders and failed attempts cost in noise.

use eranos_base::UserError;
use eranos_privacy::{Mechanism, Promise, View};
use serde_json::json;

use super::solve::{Options, Planned};

/// What the noise would be if nobody dropped out, nobody colluded, or no attempt failed.
pub(super) fn costs(plan: &Planned<'_>, mechanism: &Mechanism) -> Result<[Cost; 4], UserError> {
    let Options { clients, max_colluders, rounds, .. } = *plan.options;
    let planned = mechanism.noise_multiplier(1);
    let cost = |what, planned_at: u32, least: u32, each: f64| {
        let all = each * f64::from(clients).sqrt();
        Cost { what, planned: planned_at, least, each, all, saves: 1.0 - each / planned }
    };
    // No plan has k = 0. Its noise would be that of the same promised multiplier over all u_min shares.
    let shares = mechanism.shares(View::Outsider, plan.survivors_min.into()).unwrap_or(1);
    let honest = mechanism.promised_noise_multiplier() / f64::from(shares).sqrt();
    let of = |mechanism: Mechanism| mechanism.noise_multiplier(1);
    let (all_live, none_failed) =
        (of(plan.mechanism(clients, plan.attempts)?), of(plan.mechanism(plan.survivors_min, rounds)?));
    Ok([
        cost("as planned", 0, 0, planned),
        cost("survivors_min", plan.survivors_min.into(), clients.into(), all_live),
        cost("max_colluders", max_colluders.into(), 0, honest),
        cost("attempts", plan.attempts, rounds, none_failed),
    ])
}

/// The noise of a plan, or of one that expects less trouble of one kind.
pub(super) struct Cost {
    what: &'static str,
    /// The plan's number, and the one at which it costs nothing; both 0 for the plan itself.
    planned: u32,
    least: u32,
    /// One client's noise over the sensitivity.
    each: f64,
    /// That of all clients together, none having dropped out.
    all: f64,
    /// Which part of the plan's noise would not be needed.
    saves: f64,
}

impl Cost {
    pub(super) fn line(&self) -> String {
        let Self { what, planned, least, each, all, saves } = self;
        let (change, saved) = match planned == &0 {
            true => ((*what).to_owned(), String::new()),
            false => (format!("{what} {least} for {planned}"), format!("{:>9.1} %", saves * 100.0)),
        };
        format!("  {change:<28}{each:>8.3}{all:>10.3}{saved}")
    }

    pub(super) fn json(&self) -> serde_json::Value {
        let Self { what, planned, least, each, all, saves } = self;
        let number = |n: u32| (*planned > 0).then_some(n);
        json!({
            "what": what,
            "planned": number(*planned),
            "least": number(*least),
            "noise_multiplier_each": each,
            "noise_multiplier_all": all,
            "saves": saves,
        })
    }
}

/// What stands above the costs.
pub(super) const COSTS_HEAD: &str = "noise over the sensitivity      each  all live     saves";
