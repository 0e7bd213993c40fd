//! `eranos plan solve`: which noise a target needs. What is solved for is sized as the coordinator sizes a task's rounds
//! ([`Contribution::mechanism`]).

use std::path::PathBuf;

use clap::Args;
use eranos_base::UserError;
use eranos_coordinator::{
    setup::{LOCAL_TRAINING, METRICS, SILO_TRAINING},
    task::{Contribution, Graph, Noise, Sizing, Unit},
};
use eranos_privacy::{
    Groups, Mechanism, NoiseVariance, Probability, Promise, View as Viewpoint,
    accountant::calibrate::{self, AccountantKind, Target},
    groups::Metrics,
    mechanism::{NoiseTarget, SiloTraining},
};
use eranos_secagg::Thresholds;
use serde_json::json;

use super::{
    Report,
    advice::{uncalibrated, undesigned, warnings},
    cost::{COSTS_HEAD, Cost, costs},
    probability, promise, unit_name,
    view::{COORDINATOR, RECIPIENT, Releases, View},
};

#[derive(Args)]
pub(crate) struct Options {
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
    pub(super) noise: Noise,
    /// Rounds to release
    #[arg(long)]
    pub(super) rounds: u32,
    /// Attempts allowed for them, every one of them charged [default: as many as rounds]
    #[arg(long)]
    attempts: Option<u32>,
    /// Steps that each silo takes by itself in a round, unit record and noise local only [default: 5]
    #[arg(long)]
    local_steps: Option<u32>,
    /// Let loss and accuracy travel beside the model: SHARE of the clip's square is theirs, the rest the model's [SHARE if left
    /// out: 0.01]
    #[arg(long, value_name = "SHARE", num_args = 0..=1, default_missing_value = METRICS_SHARE)]
    metrics: Option<f64>,
    /// With what probability each record (or client) is sampled: a decimal or a fraction
    #[arg(long, default_value = "1", value_parser = probability)]
    sampling_probability: Probability,
    /// Clients
    #[arg(long)]
    pub(super) clients: u16,
    /// The least number of clients whose vectors are in a sum; without it all but one
    #[arg(long)]
    survivors_min: Option<u16>,
    /// How many clients may work with the coordinator
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    pub(super) max_colluders: u16,
    /// Who shares keys with whom
    #[arg(long, value_enum, default_value = "complete")]
    graph: Graph,
    /// Records of all clients together, about as many at each (unit record only)
    #[arg(long)]
    pub(super) records: Option<u32>,
    /// Parameters of the model; those of the demo's
    #[arg(long, default_value_t = 121_930)]
    pub(super) parameters: u32,
    /// Draw epsilon over delta into this file, as SVG
    #[arg(long, value_name = "FILE")]
    pub(super) plot: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
}

pub(super) fn solve(options: &Options) -> Result<Report, UserError> {
    let Options { unit, noise, epsilon, delta, rounds, clients, max_colluders, .. } = *options;
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
    let costs = costs(&plan, &mechanism)?;
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
    let mut warnings = warnings(&plan, noise_to_signal);
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
pub(super) struct Planned<'a> {
    pub(super) options: &'a Options,
    pub(super) survivors_min: u16,
    pub(super) attempts: u32,
    pub(super) contribution: Contribution,
    groups: Groups,
    noise: NoiseTarget,
}

impl<'a> Planned<'a> {
    fn new(options: &'a Options) -> Result<Self, UserError> {
        let Options { epsilon, rounds, clients, max_colluders, .. } = *options;
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
        let groups = metrics.and_then(|metrics| Groups::new(metrics, None)).map_err(|_| {
            UserError::new(
                format!(
                    "--metrics {}: no share of the clip that leaves some of it to the model",
                    options.metrics.unwrap_or_default()
                ),
                "name one of at least 0.000001, and below 1, such as 0.01",
            )
        })?;
        Ok(Self { options, survivors_min, attempts, contribution: contribution(options)?, groups, noise })
    }

    /// What the coordinator would run with this least number of survivors and so many attempts.
    pub(super) fn mechanism(&self, survivors_min: u16, attempts: u32) -> Result<Mechanism, UserError> {
        let Options { parameters, clients, max_colluders, delta, .. } = *self.options;
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
}

/// What a client puts into the sum.
fn contribution(options: &Options) -> Result<Contribution, UserError> {
    let Options { unit, noise, clients, sampling_probability, local_steps, .. } = *options;
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

/// The share of what is measured in the task that `eranos coordinator init` writes.
const METRICS_SHARE: &str = "0.01";
