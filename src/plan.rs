//! `eranos plan`: what a schedule costs in epsilon, and which noise a promise needs, before anybody runs anything.
//!
//! Nothing private is read here, and nothing is charged: the arithmetic is that of the clients and the ledger
//! (`eranos_privacy`), and beside it the least epsilon there is, by privacy loss distributions.

use std::{fs, path::PathBuf};

use clap::{Args, Subcommand, ValueEnum};
use eranos_base::UserError;
use eranos_coordinator::task::Graph;
use eranos_privacy::{
    Accountant, Event, MechanismError, NoiseVariance, Probability, Promise,
    accountant::{
        calibrate::{self, AccountantKind, CalibrationError, Target},
        pld, zcdp,
    },
    mechanism::{NoiseTarget, RecordTarget, design, padded},
    rounding, wrap,
};
use eranos_secagg::Thresholds;
use serde_json::json;

use crate::plot::{Curve, svg};

/// `eranos plan`.
#[derive(Subcommand)]
pub(crate) enum Command {
    /// What a noise multiplier costs in epsilon
    Spend(SpendOptions),
    /// Which noise a target needs, what it costs in bytes, and whether training survives it
    Solve(SolveOptions),
}

/// What is protected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Unit {
    /// One record of one client, added or removed
    Record,
    /// One client's whole update, replaced by zero
    Client,
}

#[derive(Args)]
pub(crate) struct SpendOptions {
    /// What is protected
    #[arg(long, value_enum, default_value = "record")]
    unit: Unit,
    /// The noise's standard deviation over the sensitivity, counting the shares that the adversary does not know
    #[arg(long)]
    noise_multiplier: f64,
    /// With what probability each record (or client) is sampled: a decimal or a fraction
    #[arg(long, default_value = "1", value_parser = probability)]
    sampling_probability: Probability,
    /// Rounds, those that fail included
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
    plot: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
pub(crate) struct SolveOptions {
    /// What is protected
    #[arg(long, value_enum, default_value = "record")]
    unit: Unit,
    /// The promise
    #[arg(long)]
    epsilon: f64,
    /// Its delta
    #[arg(long, default_value_t = 1e-5)]
    delta: f64,
    /// Rounds, those that fail included
    #[arg(long)]
    rounds: u32,
    /// With what probability each record (or client) is sampled: a decimal or a fraction
    #[arg(long, default_value = "1", value_parser = probability)]
    sampling_probability: Probability,
    /// Clients
    #[arg(long)]
    clients: u16,
    /// The least number of clients whose vectors are in a sum; without it all but one
    #[arg(long)]
    survivors_min: Option<u16>,
    /// How many clients may work with the coordinator
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    max_colluders: u16,
    /// Who shares keys with whom
    #[arg(long, value_enum, default_value = "complete")]
    graph: Graph,
    /// Records of all clients together, about as many at each (unit record only)
    #[arg(long)]
    records: Option<u32>,
    /// Parameters of the model; those of the demo's
    #[arg(long, default_value_t = 121_930)]
    parameters: u32,
    /// Draw epsilon over delta into this file, as SVG
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs `eranos plan`.
pub(crate) fn run(command: Command) -> Result<(), UserError> {
    let (report, json, plot) = match command {
        Command::Spend(options) => (spend(&options)?, options.json, options.plot),
        Command::Solve(options) => (solve(&options)?, options.json, options.plot),
    };
    if let Some(path) = plot {
        fs::write(&path, draw(&report.event, report.rounds)).map_err(|error| {
            UserError::new(format!("cannot write {}: {error}", path.display()), "name a file in a folder that exists")
        })?;
    }
    println!("{}", if json { report.json.to_string() } else { report.lines.join("\n") });
    Ok(())
}

/// What is printed, and the releases of the headline, for the drawing.
struct Report {
    lines: Vec<String>,
    json: serde_json::Value,
    event: Event,
    rounds: u64,
}

fn spend(options: &SpendOptions) -> Result<Report, UserError> {
    let SpendOptions { unit, noise_multiplier: z, rounds, delta, .. } = *options;
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
    let views = [
        View::new(COORDINATOR, event(z), z, rounds, delta, 0.0),
        View::new(RECIPIENT, event(outsider), outsider, rounds, delta, 0.0),
    ];
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
    Ok(Report { lines, json, event: event(z), rounds })
}

/// One adversary's view of a schedule.
struct View {
    who: &'static str,
    noise_multiplier: f64,
    epsilon_rdp: f64,
    epsilon_pld: f64,
}

impl View {
    /// `failure` is the probability with which the analysis of a round does not hold.
    fn new(who: &'static str, event: Event, noise_multiplier: f64, rounds: u64, delta: f64, failure: f64) -> Self {
        let mut accountant = Accountant::new();
        accountant.compose_curve(&event.rdp(), rounds, failure);
        let epsilon_rdp = accountant.epsilon(delta);
        // Failures are paid out of delta; the larger epsilon is on the side of caution.
        let paid = if failure > 0.0 { rounds as f64 * failure * (1.0 + epsilon_rdp.exp()) } else { 0.0 };
        let epsilon_pld = pld::epsilon(&[(event, rounds)], delta - paid);
        Self { who, noise_multiplier, epsilon_rdp, epsilon_pld }
    }

    fn line(&self) -> String {
        let Self { who, noise_multiplier: z, epsilon_rdp, epsilon_pld } = self;
        format!(
            "against {who}: noise multiplier {z:.3}, epsilon_rdp {}, epsilon_pld {}",
            shown(*epsilon_rdp),
            shown(*epsilon_pld)
        )
    }

    fn json(&self) -> serde_json::Value {
        json!({
            "against": self.who,
            "noise_multiplier": self.noise_multiplier,
            "epsilon_rdp": finite(self.epsilon_rdp),
            "epsilon_pld": finite(self.epsilon_pld),
        })
    }
}

/// The setting that keeps a promise, for either unit.
struct Solution {
    /// The noise of the promised shares over the sensitivity.
    noise_multiplier: f64,
    /// Protected by that many shares.
    event: Box<dyn Fn(u32) -> Event>,
    /// With what probability the analysis of one round does not hold.
    failure: f64,
    /// sg: one share's standard deviation, on the integer grid.
    share_deviation: f64,
    d_pad: u32,
    bits: u32,
    wrap_probability: f64,
    /// By how many clips the sum is divided: the longest possible update is one clip.
    divisor: f64,
}

fn solve(options: &SolveOptions) -> Result<Report, UserError> {
    let SolveOptions { unit, epsilon, delta, rounds, clients, max_colluders, parameters, .. } = *options;
    let survivors_min = options.survivors_min.unwrap_or(clients.saturating_sub(1));
    if survivors_min > clients {
        return Err(UserError::new(
            format!("{survivors_min} survivors of {clients} clients"),
            "name at most as many with --survivors-min as with --clients",
        ));
    }
    if survivors_min.saturating_sub(max_colluders) < 2 {
        return Err(UserError::new(
            format!("{survivors_min} survivors of whom {max_colluders} may collude leave fewer than 2 honest ones"),
            "name more clients with --clients, or fewer colluders with --max-colluders",
        ));
    }
    let least = |accountant| {
        let q = options.sampling_probability.to_f64();
        let target = Target { epsilon, delta, rounds: rounds.into(), sampling_probability: q, accountant };
        calibrate::noise_multiplier(&target).map_err(|error| uncalibrated(&error))
    };
    // Both first: they refuse what is out of range, in the words of the command line.
    let (least_rdp, least_pld) = (least(AccountantKind::Rdp)?, least(AccountantKind::Pld)?);
    let solution = match unit {
        Unit::Record => solve_record(options, survivors_min)?,
        Unit::Client => solve_client(options, survivors_min, least_rdp)?,
    };
    let shares = u32::from(survivors_min - max_colluders);
    let multiplier =
        |shares_counted: u32| solution.noise_multiplier * (f64::from(shares_counted) / f64::from(shares)).sqrt();
    let view = |who, shares| {
        View::new(who, (solution.event)(shares), multiplier(shares), rounds.into(), delta, solution.failure)
    };
    let views = [view(COORDINATOR, shares), view(RECIPIENT, survivors_min.into())];

    // What all survivors add, over what the longest possible update is, both as vectors of the model's length.
    let noise_to_signal = multiplier(survivors_min.into()) * f64::from(parameters).sqrt() / solution.divisor;
    let bytes = (u64::from(solution.d_pad) * u64::from(solution.bits)).div_ceil(8);
    let mut lines = vec![
        promise(unit, options.sampling_probability),
        format!("target: epsilon {epsilon} at delta {delta:e} over {rounds} rounds"),
        format!(
            "noise multiplier {:.3} (least by Renyi divergences {least_rdp:.3}, by privacy losses {least_pld:.3})",
            solution.noise_multiplier
        ),
    ];
    lines.extend(views.iter().map(View::line));
    lines.push(format!("each client adds noise of deviation {:.1} on the grid", solution.share_deviation));
    lines.push(format!("noise to signal in a round: {noise_to_signal:.2}"));
    lines.push(format!(
        "{} bits a coordinate, {bytes} bytes a client and round, wraps around with probability {:.1e}",
        solution.bits, solution.wrap_probability
    ));
    let thresholds = options.graph.thresholds(clients, max_colluders, survivors_min);
    let mut warnings = warnings(options, &solution, noise_to_signal);
    match thresholds {
        Ok(t) => lines.push(format!(
            "{}: each client shares keys with {} others, {} of whom rebuild a secret; {} statements are a quorum",
            graph_promise(options.graph),
            t.degree(),
            t.threshold(),
            t.quorum()
        )),
        Err(error) => warnings.push(format!("no round can run so: {error}")),
    }
    lines.extend(warnings.iter().map(|warning| format!("warning: {warning}")));
    let json = json!({
        "unit": unit_name(unit),
        "epsilon": epsilon,
        "delta": delta,
        "rounds": rounds,
        "sampling_probability": options.sampling_probability.to_f64(),
        "noise_multiplier": solution.noise_multiplier,
        "noise_multiplier_least_rdp": least_rdp,
        "noise_multiplier_least_pld": least_pld,
        "views": views.iter().map(View::json).collect::<Vec<_>>(),
        "share_deviation": solution.share_deviation,
        "noise_to_signal": noise_to_signal,
        "bits": solution.bits,
        "wrap_probability": solution.wrap_probability,
        "bytes_per_client": bytes,
        "graph": graph_name(options.graph),
        "degree": thresholds.as_ref().ok().map(Thresholds::degree),
        "threshold": thresholds.as_ref().ok().map(Thresholds::threshold),
        "quorum": thresholds.as_ref().ok().map(Thresholds::quorum),
        "warnings": warnings,
    });
    Ok(Report { lines, json, event: (solution.event)(shares), rounds: rounds.into() })
}

/// Unit = record: the mechanism that the clients themselves would check.
fn solve_record(options: &SolveOptions, survivors_min: u16) -> Result<Solution, UserError> {
    let Some(records) = options.records else {
        return Err(UserError::new("the number of records is not known", "name it with --records, or --unit client"));
    };
    let lot = options.sampling_probability.to_f64() * f64::from(records);
    if lot < 1.0 {
        return Err(UserError::new(
            format!("{records} records give less than one sampled record a round"),
            "name more with --records, or a larger --sampling-probability",
        ));
    }
    let target = RecordTarget {
        groups: eranos_privacy::Groups::default(),
        l2_clip_norm: 1.0,
        n_parameters: options.parameters,
        sampling_probability: options.sampling_probability,
        expected_lot: lot.round() as u32,
        record_bound: records.div_ceil(options.clients.into()),
        local: None,
        n_max: options.clients,
        u_min: survivors_min,
        max_colluders: options.max_colluders,
        max_attempts: options.rounds,
        noise: NoiseTarget::Distributed { epsilon: options.epsilon },
        delta: options.delta,
    };
    let mechanism = design(&target).map_err(|error| undesigned(&error))?;
    let p = mechanism.parameters().clone();
    let event = mechanism.clone();
    Ok(Solution {
        noise_multiplier: mechanism.promised_noise_multiplier(),
        event: Box::new(move |shares| event.event(shares)),
        failure: mechanism.cut_probability(),
        share_deviation: p.noise.share_variance().map_or(0.0, NoiseVariance::deviation),
        d_pad: p.d_pad,
        bits: p.bits.into(),
        wrap_probability: mechanism.wrap_probability(),
        divisor: f64::from(p.expected_lot),
    })
}

/// Unit = client: every client sends, with probability q its clipped update and else zero, and its noise in any case.
/// The scale is the least at which rounding widens the update by 0.8 %, sC = 4 sqrt d.
fn solve_client(options: &SolveOptions, survivors_min: u16, least: f64) -> Result<Solution, UserError> {
    let q = options.sampling_probability.to_f64();
    let d_pad = padded(options.parameters, &eranos_privacy::Groups::default())
        .map_err(|error| UserError::new(error.to_string(), "name another model's number with --parameters"))?;
    let (d, n) = (f64::from(d_pad), f64::from(options.clients));
    let scaled_clip = CLIP_OVER_ROOT_D * d.sqrt();
    let l2_sensitivity = rounding::l2_bound(scaled_clip, d_pad, (-0.5f64).exp());
    let l1_sensitivity = rounding::l1_bound(l2_sensitivity, d_pad);
    let shares = u32::from(survivors_min - options.max_colluders);
    // The discrete noise costs a little more than the Gaussian for which the multiplier is the least.
    let event = move |deviation: f64, shares: u32| Event::DiscreteGaussianSum {
        sampling_probability: q,
        l2_sensitivity,
        l1_sensitivity,
        share_variance: deviation * deviation,
        shares,
        dimension: d_pad,
    };
    let epsilon = |deviation: f64| {
        let mut accountant = Accountant::new();
        accountant.compose(&event(deviation, shares), options.rounds.into());
        accountant.epsilon(options.delta)
    };
    let around = least * l2_sensitivity / f64::from(shares).sqrt();
    let deviation = calibrate::least(around.max(8.0) / 2.0, around.max(8.0) * 2.0, 1e-3, |deviation| {
        deviation >= DEVIATION_MIN && epsilon(deviation) <= options.epsilon
    })
    .ok_or_else(|| {
        uncalibrated(&CalibrationError::Unreachable {
            max: 2.0 * least,
            epsilon: options.epsilon,
            delta: options.delta,
            rounds: options.rounds.into(),
        })
    })?;
    let variance = (n * scaled_clip).powi(2) / d + n * deviation * deviation;
    let bits = wrap::bits_needed(variance, n, d);
    Ok(Solution {
        noise_multiplier: deviation * f64::from(shares).sqrt() / l2_sensitivity,
        event: Box::new(move |shares| event(deviation, shares)),
        failure: 0.0,
        share_deviation: deviation,
        d_pad,
        bits,
        wrap_probability: wrap::wrap_probability(bits, variance, n, d),
        divisor: q * f64::from(survivors_min),
    })
}

/// What makes the setting a bad one, and what would work instead.
fn warnings(options: &SolveOptions, solution: &Solution, noise_to_signal: f64) -> Vec<String> {
    let mut warnings = Vec::new();
    if options.unit == Unit::Client && options.sampling_probability != Probability::ONE {
        warnings
            .push("client-level plans with sampling can be computed, not run: this version runs them without".into());
    }
    if solution.bits > BITS_MAX {
        warnings.push(format!("{} bits a coordinate are more than the {BITS_MAX} that a plan may have", solution.bits));
    }
    if noise_to_signal <= HARMFUL {
        return warnings;
    }
    let word = if noise_to_signal > HOPELESS { "hopeless" } else { "hard" };
    warnings.push(format!(
        "{word}: in every round the noise is {noise_to_signal:.1} times as long as the longest possible update"
    ));
    // At the same multiplier the ratio falls with the divisor, and with the root of the model's size.
    let needed = (solution.divisor * noise_to_signal / HARMFUL / options.sampling_probability.to_f64()).ceil();
    let parameters = (f64::from(options.parameters) * (HARMFUL / noise_to_signal).powi(2)).floor();
    let smaller =
        if parameters >= MODEL_MIN { format!(", or with a model of {parameters} parameters") } else { String::new() };
    let larger = match options.unit {
        Unit::Record => format!("{needed} records of all clients together"),
        Unit::Client => {
            format!(
                "{needed} clients, or with these clients and as many records, if those are what is protected (--unit record)"
            )
        }
    };
    warnings.push(format!("it would be as long, where training is known to work, with {larger}{smaller}"));
    warnings
}

fn uncalibrated(error: &CalibrationError) -> UserError {
    let next = match error {
        CalibrationError::Range { .. } | CalibrationError::Sampled(_) => "name another number for it",
        CalibrationError::Unreachable { .. } => "name a larger epsilon or delta, or fewer rounds",
    };
    UserError::new(error.to_string(), next)
}

fn undesigned(error: &MechanismError) -> UserError {
    let next = match error {
        MechanismError::Unreachable { .. } | MechanismError::Unbounded { .. } => {
            "name a larger epsilon or delta, fewer rounds, or fewer records at each client"
        }
        MechanismError::SumTooWide { .. } => "name fewer records, or a smaller model with --parameters",
        _ => "name another number for it",
    };
    UserError::new(error.to_string(), next)
}

/// Epsilon over delta, by both accountants that know sampling.
fn draw(event: &Event, rounds: u64) -> String {
    let deltas = || (0..=DRAWN_POINTS).map(|i| 10f64.powf(-12.0 + 10.0 * f64::from(i) / f64::from(DRAWN_POINTS)));
    let mut accountant = Accountant::new();
    accountant.compose(event, rounds);
    let curves = [
        Curve { name: "Renyi divergences", points: deltas().map(|delta| (delta, accountant.epsilon(delta))).collect() },
        Curve {
            name: "privacy losses",
            points: deltas().map(|delta| (delta, pld::epsilon(&[(*event, rounds)], delta))).collect(),
        },
    ];
    svg(&format!("epsilon over {rounds} rounds"), "delta", "epsilon", &curves)
}

/// The unit, its neighbouring relation, and against whom its sampling amplifies.
fn promise(unit: Unit, q: Probability) -> String {
    let relation = match unit {
        Unit::Record => "unit record: one record added or removed",
        Unit::Client => "unit client: one client's update replaced by zero, its noise stays",
    };
    // As it was named; what is reckoned with is rounded up.
    let shown = q.numerator() as f64 / q.denominator() as f64;
    let sampling = match (unit, q == Probability::ONE) {
        (_, true) => "no sampling".into(),
        (Unit::Record, false) => format!("each sampled in secret with probability {shown}"),
        (Unit::Client, false) => format!(
            "with probability {shown} an update and else zero, every client sending its noise (a coordinator that chooses \
             who takes part amplifies nothing)"
        ),
    };
    format!("{relation}; {sampling}")
}

fn unit_name(unit: Unit) -> &'static str {
    match unit {
        Unit::Record => "record",
        Unit::Client => "client",
    }
}

fn graph_name(graph: Graph) -> &'static str {
    match graph {
        Graph::Complete => "complete",
        Graph::Sparse => "sparse",
    }
}

/// The graph, and against whom what is promised holds.
fn graph_promise(graph: Graph) -> &'static str {
    match graph {
        Graph::Complete => "complete graph, against a coordinator that breaks the rules",
        Graph::Sparse => "sparse graph, against a coordinator that reports drop-outs honestly, and no other",
    }
}

/// An epsilon for a person.
fn shown(epsilon: f64) -> String {
    if epsilon.is_finite() { format!("{epsilon:.3}") } else { "none can be claimed".into() }
}

/// JSON has no infinity: null.
fn finite(epsilon: f64) -> Option<f64> {
    epsilon.is_finite().then_some(epsilon)
}

/// A decimal such as 0.25 or a fraction such as 1/4, exactly.
fn probability(text: &str) -> Result<Probability, String> {
    let refused = || "expected a decimal or a fraction above 0, at most 1, such as 0.25 or 1/4".to_owned();
    let (numerator, denominator) = match text.split_once('/') {
        Some((above, below)) => (above.parse().map_err(|_| refused())?, below.parse().map_err(|_| refused())?),
        None => {
            let (whole, digits) = text.split_once('.').unwrap_or((text, ""));
            let scale = 10u64.checked_pow(u32::try_from(digits.len()).map_err(|_| refused())?).ok_or_else(refused)?;
            (format!("{whole}{digits}").parse::<u64>().map_err(|_| refused())?, scale)
        }
    };
    let divisor = common_divisor(numerator, denominator).max(1);
    Probability::new(numerator / divisor, denominator / divisor).map_err(|_| refused())
}

const fn common_divisor(mut a: u64, mut b: u64) -> u64 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

const COORDINATOR: &str = "the coordinator and its colluders";
const RECIPIENT: &str = "recipients of the model";
/// sC over sqrt d.
const CLIP_OVER_ROOT_D: f64 = 4.0;
/// The least deviation of a share on the grid.
const DEVIATION_MIN: f64 = 4.0;
/// The most bits of a coordinate in a plan.
const BITS_MAX: u32 = 32;
/// Up to this ratio of noise to signal training is known to work: the demo's is 0.95.
const HARMFUL: f64 = 1.0;
/// Above this ratio it is known not to.
const HOPELESS: f64 = 5.0;
/// No smaller model is worth a word.
const MODEL_MIN: f64 = 1000.0;
/// Points of a drawn curve, less one.
const DRAWN_POINTS: u32 = 40;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probability_is_read_exactly() {
        let fraction = |text: &str| probability(text).map(|q| (q.numerator(), q.denominator()));
        assert_eq!(fraction("0.25"), Ok((1, 4)));
        assert_eq!(fraction("2/8"), Ok((1, 4)));
        assert_eq!(fraction("0.004267"), Ok((4267, 1_000_000)));
        assert_eq!(fraction("1"), Ok((1, 1)));
        assert_eq!(fraction(".5"), Ok((1, 2)));
        for refused in ["0", "1.5", "-0.1", "1/0", "0/0", "", ".", "a", "0.1e-3", "nan", "0.00000000000000000000001"] {
            assert!(fraction(refused).is_err(), "{refused}");
        }
    }
}
