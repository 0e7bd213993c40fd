//! `eranos simulate`: what a federation made for the purpose shows of itself. What a file describes is in [`fleet`].
//!
//! `canary` audits privacy by one run (Steinke, Nasr and Jagielski 2023): records that nobody could miss are in or out by a
//! coin, a real round is run over them, and whoever sees the model guesses which were in.

use std::{
    fs,
    path::{Path, PathBuf},
};

use clap::{Args, Subcommand};
use eranos_base::{Entropy, OsEntropy, UserError, println};
use eranos_client::{policy::Unit, setup as client_setup};
use eranos_coordinator::{
    export::export,
    setup::{self as coordinator_setup, METRICS},
    task::{Contribution, Graph},
};
use eranos_nn::{Loss, ModelSpec, Network, weights};
use eranos_privacy::{
    Mechanism, Probability, Promise,
    audit::{Shown, audit_scores},
    mechanism::NoiseTarget,
};
use serde_json::json;
use tokio::sync::watch;

use crate::demo::{Faults, Parties, READY_SLOT_MS, TRUST_DOMAIN, broken, enrol, free_port, write};

mod fleet;
mod world;

/// `eranos simulate`.
#[derive(Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true, after_long_help = EXAMPLE)]
pub(crate) struct Simulate {
    #[command(subcommand)]
    command: Option<Command>,
    /// The scenario: a task, how many clients, who vanishes where, and what the network carries
    #[arg(required = true, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Audit privacy with canaries: how much epsilon one real round shows by itself
    ///
    /// A federation is made in a temporary folder: certificates, QUIC, masks, noise, ledger, all as in earnest. Its records are
    /// canaries. Each has one bright pixel of its own, so that its gradient is as long as the clip allows and at a right
    /// angle to every other's: nothing is easier to find in a model. Each is in the training data or not by a fair coin.
    ///
    /// After one round somebody who sees the model before and after guesses of the canaries that stand out most, and of
    /// those that do so least, which were in. Under a promise of (epsilon, delta) that cannot go right too often; how often
    /// it does go right gives a lower bound on what the code really spends, and a higher one for code whose noise is Gaussian,
    /// whatever its size.
    ///
    /// A bound ABOVE the claim proves, up to the confidence, that something is broken: noise that is missing or too little, a
    /// clip that does not bind, noise that is shared. A bound below it proves nothing, and is not an estimate: it is what this
    /// one attack sees. Claim little: a thousand canaries can show no more than 4.4, so that an audit of a claim of 10
    /// could never fail.
    ///
    /// Example: eranos simulate canary --epsilon 2 --json
    #[command(verbatim_doc_comment)]
    Canary(CanaryOptions),
}

#[derive(Args)]
pub(crate) struct CanaryOptions {
    /// Parties among whom the canaries are dealt out
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(4..=32))]
    clients: u16,
    /// Canaries; each gives the model two parameters
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(800..=4000))]
    canaries: u32,
    /// The claim that is audited: epsilon of the one round, at delta 1e-5
    #[arg(long, default_value_t = 2.0)]
    epsilon: f64,
    /// Let loss and accuracy travel beside the model, as a task's metrics do: the clip then is of all of it together
    #[arg(long)]
    metrics: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Runs `eranos simulate`.
pub(crate) fn run(simulate: Simulate) -> Result<(), UserError> {
    match simulate {
        Simulate { command: Some(Command::Canary(options)), .. } => canary(&options),
        Simulate { command: None, file, json } => fleet::run(&file.unwrap_or_default(), json),
    }
}

fn canary(options: &CanaryOptions) -> Result<(), UserError> {
    let most = most_that_can_be_shown(options.canaries);
    if !(options.epsilon > 0.0 && options.epsilon < most) {
        return Err(UserError::new(
            format!(
                "a claim of epsilon {}: {} canaries can show at most {most:.2}, so that the audit could not fail",
                options.epsilon, options.canaries
            ),
            "claim something above 0 and well below that with --epsilon, such as 2",
        ));
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(|error| {
        UserError::new(format!("cannot start: {error}"), "check the limits on threads of this user")
    })?;
    let dir = tempfile::tempdir().map_err(|error| {
        UserError::new(format!("cannot make a temporary folder: {error}"), "set TMPDIR to a writable folder")
    })?;
    let is_in = toss(options.canaries);
    let run = runtime.block_on(train(options, &is_in, dir.path()))?;
    let Some(shown) = audit_scores(&run.scores, &is_in, DELTA, SIGNIFICANCE) else {
        return Err(broken(&"the model does not have the canaries' parameters"));
    };
    report(options, &is_in, &shown, &run.mechanism)
}

/// Whose gradients show in which parameters, and what the round did to them.
struct Run {
    /// One a canary: about 1 more for one that was in.
    scores: Vec<f64>,
    mechanism: Mechanism,
}

fn toss(n: u32) -> Vec<bool> {
    (0..n).map(|_| OsEntropy.bytes::<1>()[0] & 1 == 1).collect()
}

fn most_that_can_be_shown(canaries: u32) -> f64 {
    // Half are in, and every guess is right.
    let is_in: Vec<bool> = (0..canaries).map(|i| i % 2 == 1).collect();
    let scores: Vec<f64> = is_in.iter().map(|is_in| f64::from(u8::from(*is_in))).collect();
    audit_scores(&scores, &is_in, DELTA, SIGNIFICANCE).map_or(0.0, |shown| shown.epsilon)
}

/// One round of a whole federation on the canaries that are in.
async fn train(options: &CanaryOptions, is_in: &[bool], dir: &Path) -> Result<Run, UserError> {
    let n_clients = usize::from(options.clients);
    let parties: Vec<PathBuf> = (1..=n_clients).map(|i| dir.join(format!("parties/party-{i}"))).collect();
    for (i, party) in parties.iter().enumerate() {
        let own = (0..is_in.len()).filter(|canary| is_in[*canary] && canary % n_clients == i);
        write_canaries(party, is_in.len(), &own.collect::<Vec<_>>())?;
    }
    let listen = free_port()?;
    enrol(dir, &parties)?;
    let records_max = options.canaries.div_ceil(options.clients.into());
    let coordinator = dir.join("coordinator");
    let init = coordinator_setup::Init {
        dir: coordinator.clone(),
        listen,
        state: "state".into(),
        model: "cnn".into(),
        task: TASK.to_owned(),
        clients: options.clients,
        survivors_min: options.clients,
        max_colluders: 1,
        graph: Graph::Complete,
        rounds: 1,
        attempts_max: 1,
        noise: NoiseTarget::Distributed { epsilon: options.epsilon },
        contribution: Contribution::Records {
            sampling_probability: Probability::ONE,
            expected_lot: options.canaries,
            record_bound: records_max,
            local: None,
        },
        data: None,
        optimizer: coordinator_setup::OPTIMIZER.to_owned(),
        l2_clip_norm: CLIP,
        metrics: None,
        ready_slot_ms: READY_SLOT_MS,
    };
    let ledger_key = coordinator_setup::init(&init, TRUST_DOMAIN)?;
    // The example task is another one: this one takes every record, and its model is the canaries'.
    let definition = definition(options.canaries);
    write(&coordinator.join(coordinator_setup::TASK), task_text(options, records_max))?;
    write(&coordinator.join(coordinator_setup::DATA), data_text(options.canaries))?;
    write(&coordinator.join("model.json"), &definition)?;
    for party in &parties {
        client_setup::init(&client_setup::Init {
            dir: party.clone(),
            coordinator: listen.to_string(),
            ledger_key: ledger_key.clone(),
            task: TASK.to_owned(),
            unit: Unit::Record,
            epsilon_max: options.epsilon,
            allow_no_noise: false,
            survivors_min: options.clients,
            max_colluders: 1,
            records_max,
            records: RECORDS.to_owned(),
            labels: Some(LABELS.to_owned()),
            columns: Vec::new(),
            classes: 2,
            budget: None,
            witnesses: Vec::new(),
        })?;
    }
    let coordinator_setup::Coordinator { federation, server, mut reports, .. } = coordinator_setup::open(&coordinator)?;
    let (before, mechanism) = (federation.checkpoint(), federation.mechanism().clone());
    let watching = tokio::spawn(async move {
        let mut aborted = None;
        while let Some(report) = reports.recv().await {
            aborted = report.aborted;
        }
        aborted
    });
    let (stop_sender, stop) = watch::channel(false);
    let clients = tokio::spawn(Parties::start(parties, Faults::new(0, 1), stop)?.run());
    let summary = federation.run(server, std::future::pending()).await.map_err(|error| broken(&error))?;
    // A client that was not connected when the coordinator said that the task is over would look for it for ever.
    let _ = stop_sender.send(true);
    clients.await.map_err(|error| broken(&error))??;
    let aborted = watching.await.map_err(|error| broken(&error))?;
    if summary.released == 0 {
        let reason = aborted.unwrap_or_else(|| "no reason was given".to_owned());
        return Err(UserError::new(format!("the round was not released: {reason}"), "run it again on an idle machine"));
    }
    let exported = dir.join("model.safetensors");
    export(&coordinator, &exported, false)?;
    let spec = ModelSpec::from_keras_json(&definition).map_err(|error| broken(&error))?;
    let loss = Loss::of_classes(&spec).map_err(|error| broken(&error))?;
    let network = Network::new(spec, loss).map_err(|error| broken(&error))?;
    let bytes = fs::read(&exported).map_err(|error| broken(&error))?;
    let after = weights::load(&network, &bytes).map_err(|error| broken(&error))?;
    let before: Vec<f32> = before.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    // The step was the sum of gradients, downhill: a canary's own is C (-1, 1)/sqrt 2 in its two parameters.
    let gradient: Vec<f64> = before.iter().zip(&after).map(|(b, a)| f64::from(b - a)).collect();
    let scores = gradient.chunks_exact(2).map(|row| (row[1] - row[0]) / (2f64.sqrt() * CLIP)).collect();
    Ok(Run { scores, mechanism })
}

/// A party's files in IDX: images of one row, with one bright pixel each, all of class 0.
fn write_canaries(party: &Path, n_canaries: usize, own: &[usize]) -> Result<(), UserError> {
    fs::create_dir_all(party).map_err(|error| broken(&error))?;
    #[expect(clippy::big_endian_bytes, reason = "IDX's own order")]
    let len = |n: usize| (n as u32).to_be_bytes();
    let mut images = [&[0, 0, 8, 3][..], &len(own.len()), &len(1), &len(n_canaries)].concat();
    for canary in own {
        let at = images.len() + canary;
        images.resize(images.len() + n_canaries, 0);
        images[at] = u8::MAX;
    }
    let mut labels = [&[0, 0, 8, 1][..], &len(own.len())].concat();
    labels.resize(labels.len() + own.len(), 0);
    write(&party.join(RECORDS), &images)?;
    write(&party.join(LABELS), &labels)
}

/// A softmax layer on every pixel, without a bias: a record's gradient lies in its bright pixel's row alone.
fn definition(n_canaries: u32) -> String {
    let layer = |class: &str, config: serde_json::Value| json!({ "module": "keras.layers", "class_name": class, "config": config, "registered_name": null });
    let input = json!({
        "batch_shape": [null, 1, n_canaries, 1], "dtype": "float32", "sparse": false, "ragged": false, "name": "input",
    });
    let flatten = json!({ "name": "flatten", "trainable": true, "dtype": "float32", "data_format": "channels_last" });
    let initializer = |class: &str| json!({ "module": "keras.initializers", "class_name": class, "config": {}, "registered_name": null });
    let dense = json!({
        "name": "dense", "trainable": true, "dtype": "float32", "units": 2, "activation": "softmax", "use_bias": false,
        "kernel_initializer": initializer("GlorotUniform"), "bias_initializer": initializer("Zeros"),
    });
    let layers = [layer("InputLayer", input), layer("Flatten", flatten), layer("Dense", dense)];
    let config = json!({ "name": "canaries", "trainable": true, "dtype": "float32", "layers": layers });
    json!({ "module": "keras", "class_name": "Sequential", "config": config, "registered_name": null }).to_string()
}

fn task_text(options: &CanaryOptions, records_max: u32) -> String {
    let (lot, epsilon) = (f64::from(options.canaries), options.epsilon);
    let metrics = match options.metrics {
        true => format!("\n[metrics]\nloss_max = {:?}\nshare = {:?}\n", METRICS.loss_max, METRICS.share),
        false => String::new(),
    };
    format!(
        "version = 1\nname = \"{TASK}\"\ndata = \"data.toml\"\n\n[model]\ndefinition = \"model.json\"\n\n\
         # The step is the sum: the mean over the expected lot, times the lot.\n\
         [training]\nl2_clip_norm = {CLIP:?}\nserver_optimizer = {{ name = \"sgd\", learning_rate = {lot:?} }}\n\n\
         [privacy]\nunit = \"record\"\nnoise = \"distributed\"\nepsilon = {epsilon:?}\ndelta = {DELTA:?}\n\
         sampling_probability = [1, 1]\nexpected_lot = {}\nrecords_per_client_max = {}\n\n\
         [cohort]\nclients_max = {n}\nsurvivors_min = {n}\nmax_colluders = 1\n\n\
         [schedule]\nrounds = 1\nattempts_max = 1\nready_slot_ms = {}\nphase_wait_min_ms = 10000\n\
         phase_timeout_ms = 60000\n{metrics}",
        options.canaries,
        records_max,
        READY_SLOT_MS,
        n = options.clients,
    )
}

fn data_text(n_canaries: u32) -> String {
    format!("version = 1\n\n[records]\nformat = \"images\"\nshape = [1, {n_canaries}, 1]\nclasses = 2\n")
}

fn report(options: &CanaryOptions, is_in: &[bool], shown: &Shown, mechanism: &Mechanism) -> Result<(), UserError> {
    let (claim, metrics) = (mechanism.epsilon(), mechanism.common().groups.metrics.is_some());
    let Shown { epsilon, guesses, epsilon_gaussian } = shown;
    let contradicted = epsilon.max(*epsilon_gaussian) > claim;
    let n_in = is_in.iter().filter(|is_in| **is_in).count();
    let text = match options.json {
        true => json!({
            "canaries": options.canaries,
            "canaries_in": n_in,
            "clients": options.clients,
            "metrics": metrics,
            "claim_epsilon": claim,
            "delta": DELTA,
            "shown_epsilon": epsilon,
            "shown_epsilon_if_gaussian": epsilon_gaussian,
            "confidence": 1.0 - SIGNIFICANCE,
            "guessed": guesses.guessed,
            "right": guesses.right,
            "contradicted": contradicted,
        })
        .to_string(),
        false => {
            let meaning = match contradicted {
                true => {
                    "The claim does NOT hold: guesses this good are all but impossible under it. Do not train with this build."
                }
                false => {
                    "Nothing contradicts the claim. That does not prove it: this is what one attack on one round sees, and \
                     the claim must hold against all."
                }
            };
            format!(
                "{} canaries among {} clients, {n_in} of them in, one round\n\
                 claim: epsilon at most {claim:.3} at delta {DELTA:e}, record level\n\
                 shown: epsilon at least {epsilon:.3}, with confidence {} % ({} of {} guesses right)\n\
                 if the noise is Gaussian, of whatever size: at least {epsilon_gaussian:.3}, with the same confidence\n{meaning}",
                options.canaries,
                options.clients,
                100.0 * (1.0 - SIGNIFICANCE),
                guesses.right,
                guesses.guessed,
            )
        }
    };
    println!("{text}");
    if contradicted {
        return Err(UserError::new(
            format!("the canaries show epsilon {:.3}, {claim:.3} is claimed", epsilon.max(*epsilon_gaussian)),
            "report this: noise, clip or their sum is broken",
        ));
    }
    Ok(())
}

/// What a scenario says.
const EXAMPLE: &str = concat!("Example, every key of it:\n\n", include_str!("../docs/examples/fleet.toml"));
const TASK: &str = "canaries";
const RECORDS: &str = "images-idx3-ubyte";
const LABELS: &str = "labels-idx1-ubyte";
const DELTA: f64 = 1e-5;
const SIGNIFICANCE: f64 = 0.05;
/// Below any canary's gradient, so that the clip always binds: half a pixel's brightness at fresh weights.
const CLIP: f64 = 0.05;
