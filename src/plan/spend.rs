//! `eranos plan spend`: what a noise multiplier costs.

use std::path::PathBuf;

use clap::Args;
use eranos_base::UserError;
use eranos_coordinator::task::Unit;
use eranos_privacy::{
    Event, Probability,
    accountant::{calibrate, zcdp},
};
use serde_json::json;

use super::{
    Report, probability, promise, unit_name,
    view::{COORDINATOR, RECIPIENT, Releases, View, finite, shown},
};

#[derive(Args)]
pub(crate) struct Options {
    /// What is protected
    #[arg(long, value_enum, default_value = "record")]
    unit: Unit,
    /// The noise's standard deviation over the sensitivity, counting the shares that the adversary does not know
    #[arg(long)]
    noise_multiplier: f64,
    /// With what probability each record (or client) is sampled: a decimal or a fraction
    #[arg(long, default_value = "1", value_parser = probability)]
    sampling_probability: Probability,
    /// Rounds, those that fail included; where silos take steps of their own, each step of each round
    #[arg(long)]
    rounds: u64,
    /// The delta of the promise
    #[arg(long, default_value_t = 1e-5)]
    delta: f64,
    /// Clients that each add a share of the noise; without it one party adds all of it
    #[arg(long)]
    clients: Option<u16>,
    /// Of them, how many work with the coordinator, so that their shares do not count
    #[arg(long, default_value_t = 1, requires = "clients", value_parser = clap::value_parser!(u16).range(1..))]
    max_colluders: u16,
    /// Draw epsilon over delta into this file, as SVG
    #[arg(long, value_name = "FILE")]
    pub(super) plot: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
}

pub(super) fn spend(options: &Options) -> Result<Report, UserError> {
    let Options { unit, noise_multiplier: z, rounds, delta, .. } = *options;
    let in_range = |what: &str, holds: bool, next: &str| if holds { Ok(()) } else { Err(UserError::new(what, next)) };
    in_range("the noise multiplier is not above 0", z > 0.0 && z.is_finite(), "name a number such as 1.1")?;
    in_range("delta is not between 0 and 1", delta > 0.0 && delta < 1.0, "name a number such as 1e-5")?;
    in_range(
        "there are too many rounds, or none",
        (1..=calibrate::ROUNDS_MAX).contains(&rounds),
        "name 1 to 16777216",
    )?;
    let q = options.sampling_probability.to_f64();
    let event = |z: f64| Event::PoissonGaussian { sampling_probability: q, noise_multiplier: z };

    // The multiplier is that of the shares which count for the headline; a recipient of the model knows none.
    let outsider = match options.clients {
        Some(clients) if clients <= options.max_colluders => {
            return Err(UserError::new(
                format!(
                    "of {clients} clients {} work with the coordinator, so that no noise counts",
                    options.max_colluders
                ),
                "name more clients, or fewer with --max-colluders",
            ));
        }
        Some(clients) => z * (f64::from(clients) / f64::from(clients - options.max_colluders)).sqrt(),
        None => z,
    };
    let view = |who, z| View::new(who, z, Releases::new(event(z), rounds, 0.0), delta);
    let views = [view(COORDINATOR, z), view(RECIPIENT, outsider)];
    let [headline, _] = &views;
    let epsilon_zcdp = zcdp::epsilon(&[(event(z), rounds)], delta);

    let mut lines = vec![
        promise(unit, options.sampling_probability),
        format!("noise multiplier {z}, {rounds} rounds, delta {delta:e}"),
        format!(
            "epsilon_rdp {}: Renyi divergences, what budgets and ledgers are charged by",
            shown(headline.epsilon_rdp)
        ),
        format!("epsilon_pld {}: privacy losses, for a schedule fixed in advance", shown(headline.epsilon_pld)),
    ];
    if epsilon_zcdp.is_finite() {
        lines.push(format!("epsilon_zcdp {}: zero-concentrated privacy over all orders", shown(epsilon_zcdp)));
    }
    if options.clients.is_some() {
        lines.extend(views.iter().map(View::line));
    } else {
        lines.push("one party adds all the noise: the same for everyone outside it".into());
    }
    lines.extend(headline.table());
    let json = json!({
        "unit": unit_name(unit),
        "noise_multiplier": z,
        "sampling_probability": q,
        "rounds": rounds,
        "delta": delta,
        "epsilon_rdp": finite(headline.epsilon_rdp),
        "epsilon_pld": finite(headline.epsilon_pld),
        "epsilon_zcdp": finite(epsilon_zcdp),
        "views": views.iter().map(View::json).collect::<Vec<_>>(),
    });
    let [headline, _] = views;
    Ok(Report { lines, json, headline })
}
