//! `eranos plan`: what a schedule costs in epsilon, and which noise a promise needs, before anybody runs anything.
//!
//! Nothing private is read here, and nothing is charged: the arithmetic is that of the clients and the ledger
//! (`eranos_privacy`), and beside it the least epsilon there is, by privacy loss distributions. What is solved for is sized
//! as the coordinator sizes a task's rounds ([`Contribution::mechanism`]).

use std::{fs, path::PathBuf};

use clap::{Args, Subcommand};
use eranos_base::UserError;
use eranos_coordinator::{
    setup::{LOCAL_TRAINING, METRICS, SILO_TRAINING},
    task::{Contribution, Graph, Noise, Sizing, Unit},
};
use eranos_privacy::{
    Accountant, Event, Groups, Mechanism, MechanismError, NoiseVariance, Probability, Promise, View as Viewpoint,
    accountant::{
        calibrate::{self, AccountantKind, CalibrationError, Target},
        pld, zcdp,
    },
    groups::Metrics,
    mechanism::{NoiseTarget, SiloTraining},
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
    /// Who adds the noise: all clients together, or each all of it by itself, which costs more
    #[arg(long, value_enum, default_value = "distributed")]
    noise: Noise,
    /// Rounds to release
    #[arg(long)]
    rounds: u32,
    /// Attempts allowed for them, every one of them charged [default: as many as rounds]
    #[arg(long)]
    attempts: Option<u32>,
    /// Steps that each silo takes by itself in a round, unit record and noise local only [default: 5]
    #[arg(long)]
    local_steps: Option<u32>,
    /// Loss and accuracy travel beside the model, with this share of the clip's square
    #[arg(long, value_name = "SHARE", num_args = 0..=1, default_missing_value = METRICS_SHARE)]
    metrics: Option<f64>,
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
        fs::write(&path, draw(&report.headline)).map_err(|error| {
            UserError::new(format!("cannot write {}: {error}", path.display()), "name a file in a folder that exists")
        })?;
    }
    println!("{}", if json { report.json.to_string() } else { report.lines.join("\n") });
    Ok(())
}

/// What is printed, and what the headline's adversary sees, for the drawing.
struct Report {
    lines: Vec<String>,
    json: serde_json::Value,
    headline: View,
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
    lines.extend(headline.releases.table());
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

/// Releases under one noise, by both accountants that know sampling.
struct Releases {
    renyi: Accountant,
    event: Event,
    n: u64,
    /// With what probability the analysis of one of them does not hold.
    failure: f64,
}

impl Releases {
    fn new(event: Event, n: u64, failure: f64) -> Self {
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

    /// The same for a person.
    fn table(&self) -> [String; 3] {
        let mut rows = ["delta      ", "epsilon_rdp", "epsilon_pld"].map(str::to_owned);
        for (delta, [rdp, pld]) in self.curve() {
            let cells = [format!("{delta:.0e}"), brief(rdp), brief(pld)];
            rows.iter_mut().zip(cells).for_each(|(row, cell)| *row += &format!("{cell:>8}"));
        }
        rows
    }
}

/// One adversary's view of a schedule.
struct View {
    who: &'static str,
    noise_multiplier: f64,
    epsilon_rdp: f64,
    epsilon_pld: f64,
    releases: Releases,
}

impl View {
    fn new(who: &'static str, noise_multiplier: f64, releases: Releases, delta: f64) -> Self {
        let [epsilon_rdp, epsilon_pld] = releases.epsilons(delta);
        Self { who, noise_multiplier, epsilon_rdp, epsilon_pld, releases }
    }

    fn line(&self) -> String {
        let Self { who, noise_multiplier: z, epsilon_rdp, epsilon_pld, .. } = self;
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
            "curve": self.releases.curve().map(|(delta, [rdp, pld])| {
                json!({ "delta": delta, "epsilon_rdp": finite(rdp), "epsilon_pld": finite(pld) })
            }).collect::<Vec<_>>(),
        })
    }
}

fn solve(options: &SolveOptions) -> Result<Report, UserError> {
    let SolveOptions { unit, noise, epsilon, delta, rounds, clients, max_colluders, .. } = *options;
    let plan = Planned::new(options)?;
    let Planned { survivors_min, attempts, contribution, .. } = plan;
    let steps = match contribution {
        Contribution::Records { local: Some(local), .. } => local.steps,
        Contribution::Records { local: None, .. } | Contribution::Update(_) => 1,
    };
    let least = |accountant| {
        let (q, rounds) = (options.sampling_probability.to_f64(), u64::from(attempts) * u64::from(steps));
        let target = Target { epsilon, delta, rounds, sampling_probability: q, accountant };
        calibrate::noise_multiplier(&target).map_err(|error| uncalibrated(&error))
    };
    // Both first: they refuse what is out of range, in the words of the command line.
    let (least_rdp, least_pld) = (least(AccountantKind::Rdp)?, least(AccountantKind::Pld)?);
    let mechanism = plan.mechanism(survivors_min, attempts)?;
    let view = |who, viewpoint| {
        let shares = mechanism.shares(viewpoint, survivors_min.into()).unwrap_or_else(|| mechanism.promised_shares());
        let n = u64::from(mechanism.n_releases());
        let releases =
            Releases::new(mechanism.event(shares), u64::from(attempts) * n, mechanism.cut_probability() / n as f64);
        View::new(who, mechanism.noise_multiplier(shares), releases, delta)
    };
    let views = [view(COORDINATOR, Viewpoint::CoordinatorWithColluders), view(RECIPIENT, Viewpoint::Outsider)];

    let common = mechanism.common();
    let noise_multiplier = mechanism.promised_noise_multiplier();
    let share_deviation = common.noise.share_variance().map_or(0.0, NoiseVariance::deviation);
    let noise_to_signal = mechanism.noise_to_signal(survivors_min.into());
    let bytes = (u64::from(common.d_pad) * u64::from(common.bits)).div_ceil(8);
    let wrap_probability = match &mechanism {
        Mechanism::Record(mechanism) => mechanism.wrap_probability(),
        Mechanism::Client(mechanism) => mechanism.wrap_probability(),
    };
    let costs = plan.costs(&mechanism)?;
    let mut lines = vec![
        promise(unit, options.sampling_probability),
        format!("target: epsilon {epsilon} at delta {delta:e} over {attempts} attempts for {rounds} rounds"),
        format!(
            "noise multiplier {noise_multiplier:.3} (least by Renyi divergences {least_rdp:.3}, by privacy losses \
             {least_pld:.3})"
        ),
    ];
    if noise == Noise::Local {
        let of_steps = if steps > 1 { format!("; {steps} steps a round are each charged") } else { String::new() };
        lines.push(format!("each client adds all of the noise that protects it{of_steps}"));
    }
    lines.extend(views.iter().map(View::line));
    lines.push(format!("each client adds noise of deviation {share_deviation:.1} on the grid"));
    lines.push(COSTS_HEAD.into());
    lines.extend(costs.iter().map(Cost::line));
    lines.push(format!("noise to signal in a round: {noise_to_signal:.2}"));
    if let Some(share) = options.metrics {
        let more = 100.0 * (1.0 / common.groups.model.root() - 1.0);
        lines.push(format!("loss and accuracy with a share of {share} make the model's noise {more:.2} % larger"));
    }
    lines.push(format!(
        "{} bits a coordinate, {bytes} bytes a client and round, wraps around with probability {wrap_probability:.1e}",
        common.bits
    ));
    let thresholds = options.graph.thresholds(clients, max_colluders, survivors_min);
    let mut warnings = warnings(options, &plan, noise_to_signal);
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
        "noise": common.noise.name(),
        "epsilon": epsilon,
        "delta": delta,
        "rounds": rounds,
        "attempts": attempts,
        "local_steps": (steps > 1 || options.local_steps.is_some()).then_some(steps),
        "metrics_share": options.metrics,
        "sampling_probability": options.sampling_probability.to_f64(),
        "noise_multiplier": noise_multiplier,
        "noise_multiplier_least_rdp": least_rdp,
        "noise_multiplier_least_pld": least_pld,
        "views": views.iter().map(View::json).collect::<Vec<_>>(),
        "share_deviation": share_deviation,
        "costs": costs.iter().map(Cost::json).collect::<Vec<_>>(),
        "noise_to_signal": noise_to_signal,
        "bits": common.bits,
        "wrap_probability": wrap_probability,
        "bytes_per_client": bytes,
        "graph": graph_name(options.graph),
        "degree": thresholds.as_ref().ok().map(Thresholds::degree),
        "threshold": thresholds.as_ref().ok().map(Thresholds::threshold),
        "quorum": thresholds.as_ref().ok().map(Thresholds::quorum),
        "warnings": warnings,
    });
    let [headline, _] = views;
    Ok(Report { lines, json, headline })
}

/// A task that nobody runs yet.
struct Planned<'a> {
    options: &'a SolveOptions,
    survivors_min: u16,
    attempts: u32,
    contribution: Contribution,
    groups: Groups,
    noise: NoiseTarget,
}

impl<'a> Planned<'a> {
    fn new(options: &'a SolveOptions) -> Result<Self, UserError> {
        let SolveOptions { epsilon, rounds, clients, max_colluders, .. } = *options;
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
        let attempts = options.attempts.unwrap_or(rounds);
        if attempts < rounds {
            return Err(UserError::new(
                format!("{attempts} attempts for {rounds} rounds"),
                "name at least as many with --attempts as with --rounds",
            ));
        }
        let noise = match options.noise {
            Noise::Distributed => NoiseTarget::Distributed { epsilon },
            Noise::Local => NoiseTarget::Local { epsilon },
            Noise::None => {
                return Err(UserError::new(
                    "without noise no epsilon is kept",
                    "name --noise distributed or --noise local",
                ));
            }
        };
        let metrics = options.metrics.map(|share| Metrics::new(METRICS.loss_max, share)).transpose();
        let groups = metrics.and_then(|metrics| Groups::new(metrics, None)).map_err(|error| {
            UserError::new(format!("--metrics: {error}"), "name a share above 0, below 1, such as 0.01")
        })?;
        Ok(Self { options, survivors_min, attempts, contribution: contribution(options)?, groups, noise })
    }

    /// What the coordinator would run with this least number of survivors and so many attempts.
    fn mechanism(&self, survivors_min: u16, attempts: u32) -> Result<Mechanism, UserError> {
        let SolveOptions { parameters, clients, max_colluders, delta, .. } = *self.options;
        let sizing = Sizing {
            groups: self.groups,
            // Epsilon knows nothing of the clip's length.
            l2_clip_norm: 1.0,
            n_parameters: parameters,
            clients_max: clients,
            survivors_min,
            max_colluders,
            attempts_max: attempts,
            noise: self.noise,
            delta,
        };
        self.contribution.mechanism(&sizing).map_err(|error| undesigned(&error))
    }

    /// What the noise would be if nobody dropped out, nobody colluded, or no attempt failed.
    fn costs(&self, mechanism: &Mechanism) -> Result<[Cost; 4], UserError> {
        let SolveOptions { clients, max_colluders, rounds, .. } = *self.options;
        let planned = mechanism.noise_multiplier(1);
        let cost = |what, planned_at: u32, least: u32, each: f64| {
            let all = each * f64::from(clients).sqrt();
            Cost { what, planned: planned_at, least, each, all, saves: 1.0 - each / planned }
        };
        // No plan has k = 0. Its noise would be that of the same promised multiplier over all u_min shares.
        let shares = mechanism.shares(Viewpoint::Outsider, self.survivors_min.into()).unwrap_or(1);
        let honest = mechanism.promised_noise_multiplier() / f64::from(shares).sqrt();
        let of = |mechanism: Mechanism| mechanism.noise_multiplier(1);
        let (all_live, none_failed) =
            (of(self.mechanism(clients, self.attempts)?), of(self.mechanism(self.survivors_min, rounds)?));
        Ok([
            cost("as planned", 0, 0, planned),
            cost("survivors_min", self.survivors_min.into(), clients.into(), all_live),
            cost("max_colluders", max_colluders.into(), 0, honest),
            cost("attempts", self.attempts, rounds, none_failed),
        ])
    }
}

/// The noise of a plan, or of one that expects less trouble of one kind.
struct Cost {
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
    fn line(&self) -> String {
        let Self { what, planned, least, each, all, saves } = self;
        let (change, saved) = match planned == &0 {
            true => ((*what).to_owned(), String::new()),
            false => (format!("{what} {least} for {planned}"), format!("{:>9.1} %", saves * 100.0)),
        };
        format!("  {change:<28}{each:>8.3}{all:>10.3}{saved}")
    }

    fn json(&self) -> serde_json::Value {
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

/// What a client puts into the sum.
fn contribution(options: &SolveOptions) -> Result<Contribution, UserError> {
    let SolveOptions { unit, noise, clients, sampling_probability, local_steps, .. } = *options;
    if local_steps.is_some() && (unit, noise) != (Unit::Record, Noise::Local) {
        return Err(UserError::new(
            "--local-steps counts only where each silo adds its own noise in each of its steps",
            "name it with --unit record and --noise local: elsewhere epsilon does not depend on it",
        ));
    }
    if unit == Unit::Client {
        if sampling_probability != Probability::ONE {
            return Err(UserError::new(
                "with unit client this version samples nobody",
                "leave --sampling-probability out; `eranos plan spend` says what a sampled schedule would cost",
            ));
        }
        return Ok(Contribution::Update(LOCAL_TRAINING));
    }
    let Some(records) = options.records else {
        return Err(UserError::new("the number of records is not known", "name it with --records, or --unit client"));
    };
    let (record_bound, local) = (records.div_ceil(clients.into()), noise == Noise::Local);
    let lot = sampling_probability.to_f64() * f64::from(if local { record_bound } else { records });
    if lot < 1.0 {
        let whose = if local { " at a silo" } else { "" };
        return Err(UserError::new(
            format!("{records} records give less than one sampled record a round{whose}"),
            "name more with --records, or a larger --sampling-probability",
        ));
    }
    let steps = local_steps.unwrap_or(SILO_TRAINING.steps);
    Ok(Contribution::Records {
        sampling_probability,
        expected_lot: lot.round() as u32,
        record_bound,
        local: local.then_some(SiloTraining { steps, ..SILO_TRAINING }),
    })
}

/// What makes the setting a bad one, and what would work instead.
fn warnings(options: &SolveOptions, plan: &Planned<'_>, noise_to_signal: f64) -> Vec<String> {
    if noise_to_signal <= HARMFUL {
        return Vec::new();
    }
    let word = if noise_to_signal > HOPELESS { "hopeless" } else { "hard" };
    let trouble = format!(
        "{word}: in every round the noise is {noise_to_signal:.1} times as long as the longest possible update"
    );
    let excess = noise_to_signal / HARMFUL;
    let parameters = (f64::from(options.parameters) / excess.powi(2)).floor();
    let smaller =
        if parameters >= MODEL_MIN { format!(", or with a model of {parameters} parameters") } else { String::new() };
    let larger = match (plan.contribution, options.noise) {
        // At the same multiplier the ratio falls with the lot;
        (Contribution::Records { .. }, _) => {
            let records = f64::from(options.records.unwrap_or(0));
            format!("{} records of all clients together", (records * excess).ceil())
        }
        // with the clients, whose shares become smaller as they become more; and with their root, where none does.
        (Contribution::Update(_), noise) => {
            let needed = f64::from(plan.survivors_min) * if noise == Noise::Local { excess.powi(2) } else { excess };
            format!(
                "{} clients, or with these clients and as many records, if those are what is protected (--unit record)",
                needed.ceil()
            )
        }
    };
    let shared = if options.noise == Noise::Local {
        "; noise that all add together (--noise distributed) needs less"
    } else {
        ""
    };
    vec![trouble, format!("it would be as long, where training is known to work, with {larger}{smaller}{shared}")]
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
            "name a larger epsilon or delta, fewer attempts, or fewer records at each client"
        }
        MechanismError::SumTooWide { .. } => "name fewer records, or a smaller model with --parameters",
        MechanismError::NotRun { .. } => "leave --metrics out: a silo's own steps measure nothing",
        _ => "name another number for it",
    };
    UserError::new(error.to_string(), next)
}

/// Epsilon over delta, by both accountants that know sampling.
fn draw(headline: &View) -> String {
    let deltas = (0..=DRAWN_POINTS).map(|i| 10f64.powf(-12.0 + 10.0 * f64::from(i) / f64::from(DRAWN_POINTS)));
    let points: Vec<_> = deltas.map(|delta| (delta, headline.releases.epsilons(delta))).collect();
    let curve = |name, pick: fn(&[f64; 2]) -> f64| Curve {
        name,
        points: points.iter().map(|(delta, epsilons)| (*delta, pick(epsilons))).collect(),
    };
    let curves = [curve("Renyi divergences", |[rdp, _]| *rdp), curve("privacy losses", |[_, pld]| *pld)];
    svg(&format!("epsilon over {} rounds", headline.releases.n), "delta", "epsilon", &curves)
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

/// The same in a cell of a table.
fn brief(epsilon: f64) -> String {
    if epsilon.is_finite() { format!("{epsilon:.3}") } else { "-".into() }
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
/// What stands above the costs.
const COSTS_HEAD: &str = "noise over the sensitivity      each  all live     saves";
/// The share of what is measured in the task that `eranos coordinator init` writes.
const METRICS_SHARE: &str = "0.01";
/// The curve goes from 10^-3 to 10^-10.
const DECADES_MIN: i32 = 3;
const DECADES_MAX: i32 = 10;
/// Up to this ratio of noise to signal training is known to work: the demo's is 0.96.
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
