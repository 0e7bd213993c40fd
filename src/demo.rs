//! `eranos demo`: a whole federation in one process. Everything is real: certificates, QUIC over loopback, secure
//! aggregation, noise, budgets and ledger; each client has its own certificate, keys, data shard, policy and state.

use std::{
    collections::BTreeMap,
    fs,
    io::IsTerminal,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use clap::Args;
use eranos_base::{Clock, OsEntropy, SystemClock, UserError, println};
use eranos_certs::{Approval, Authority, Role, cli::issue_beside, party};
use eranos_client::{policy::Unit, round::Phase, session::Progress, setup as client_setup, trainer::Pool};
use eranos_coordinator::{
    cli::{NO_NOISE, line, train},
    federation::{RoundReport, Summary},
    model::TestFigures,
    setup as coordinator_setup,
    task::{Contribution, Graph, Metrics},
};
use eranos_ledger::audit;
use eranos_privacy::{Probability, Promise, mechanism::NoiseTarget};
use indicatif::{ProgressBar, ProgressStyle};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};

use crate::trial::{Figure, Folders, Trial};

/// Options of `eranos demo`.
#[derive(Args)]
pub(crate) struct Options {
    /// The model to train: cnn (digits), lstm (movements of the arm), nlp (spam) or recommender (ratings)
    #[arg(long, default_value = "cnn")]
    model: String,
    /// How many organisations take part
    #[arg(long, default_value_t = 8)]
    clients: u16,
    /// Rounds to release; each is one step of DP-SGD over all shards
    #[arg(long, default_value_t = 150)]
    rounds: u32,
    /// How many rounds lose a client on purpose [default: one in ten]
    #[arg(long)]
    drop: Option<u32>,
    /// The same seed gives the same shards; noise and keys always come from the operating system
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The most epsilon that all attempts together may cost, at delta = 1e-5: less of it means more noise [default: 4 for cnn,
    /// 8 for the others]
    #[arg(long, conflicts_with = "no_noise")]
    epsilon: Option<f64>,
    /// NOT PRIVATE: nobody adds noise, and nothing is promised; to compare with. Other training settings, and every client's
    /// policy is made to allow it
    #[arg(long)]
    no_noise: bool,
    /// Leave certificates, state and ledger in this folder
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
    /// Print one JSON object as the last line
    #[arg(long)]
    json: bool,
}

/// Runs the demo.
pub(crate) fn run(options: Options) -> Result<(), UserError> {
    let trial = Trial::of_model(&options.model)?;
    if options.clients < CLIENTS_MIN || options.rounds == 0 {
        let what = format!("{} clients and {} rounds", options.clients, options.rounds);
        return Err(UserError::new(what, format!("ask for at least {CLIENTS_MIN} clients and one round")));
    }
    if let Some(epsilon) = options.epsilon.filter(|epsilon| !(epsilon.is_finite() && *epsilon > 0.0)) {
        return Err(UserError::new(
            format!("--epsilon {epsilon}"),
            "give a positive number; without noise: --no-noise",
        ));
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(|error| {
        UserError::new(format!("cannot start: {error}"), "check the limits on threads of this user")
    })?;
    // Dropped at the end, also after Ctrl-C: nothing stays unless it was asked for.
    let temporary;
    let dir = match &options.keep {
        Some(dir) => {
            if fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some()) {
                let what = format!("{} is not empty", dir.display());
                return Err(UserError::new(what, "give --keep a folder that does not exist yet"));
            }
            fs::create_dir_all(dir).map_err(|error| {
                UserError::new(format!("cannot make {}: {error}", dir.display()), "choose another folder")
            })?;
            dir.clone()
        }
        None => {
            temporary = tempfile::tempdir().map_err(|error| {
                UserError::new(format!("cannot make a temporary folder: {error}"), "set TMPDIR to a writable folder")
            })?;
            temporary.path().to_owned()
        }
    };
    runtime.block_on(federation(&options, trial, &dir))
}

async fn federation(options: &Options, trial: &Trial, dir: &Path) -> Result<(), UserError> {
    let began = Instant::now();
    let n_clients = options.clients;
    let n_drops = options.drop.unwrap_or(options.rounds / 10).min(options.rounds.saturating_sub(1));
    let settings = Settings::of(trial, options.epsilon, options.no_noise);
    let folders = trial.split(n_clients, &dir.join("parties"), options.seed)?;
    let listen = free_port()?;
    enrol(dir, &folders.parties)?;
    let attempts_max = options.rounds + options.rounds.div_ceil(30).max(2);
    let records_max = trial.records_max(n_clients);
    let init = coordinator_setup::Init {
        dir: dir.join("coordinator"),
        listen,
        state: "..".into(),
        model: options.model.clone(),
        task: trial.dataset.to_owned(),
        clients: n_clients,
        survivors_min: n_clients - 1,
        max_colluders: 1,
        graph: Graph::Complete,
        rounds: options.rounds,
        attempts_max,
        noise: settings.noise,
        contribution: Contribution::Records {
            sampling_probability: Probability::QUARTER,
            expected_lot: trial.n_records / 4,
            record_bound: records_max,
            local: None,
        },
        data: Some(std::path::absolute(&folders.data).unwrap_or_else(|_| folders.data.clone())),
        optimizer: settings.optimizer.clone(),
        l2_clip_norm: settings.l2_clip_norm,
        // Twice the loss of a guess.
        metrics: Some(Metrics { loss_max: 2.0 * f64::from(trial.classes).ln(), ..coordinator_setup::METRICS }),
        ready_slot_ms: READY_SLOT_MS,
    };
    let ledger_key = coordinator_setup::init(&init, TRUST_DOMAIN)?;
    write(&dir.join("ledger.pub"), format!("{ledger_key}\n"))?;
    for party in &folders.parties {
        client_setup::init(&client_setup::Init {
            dir: party.clone(),
            coordinator: listen.to_string(),
            ledger_key: ledger_key.clone(),
            task: trial.dataset.to_owned(),
            unit: Unit::Record,
            epsilon_max: settings.epsilon,
            allow_no_noise: options.no_noise,
            survivors_min: n_clients - 1,
            max_colluders: 1,
            records_max,
            records: trial.records.to_owned(),
            labels: trial.labels.map(str::to_owned),
            columns: trial.columns.iter().map(|&name| name.to_owned()).collect(),
            classes: trial.classes,
            budget: None,
            witnesses: Vec::new(),
        })?;
    }
    let coordinator_setup::Coordinator { federation, server, reports, .. } = coordinator_setup::open(&init.dir)?;
    let screen = Screen::new(options, trial, folders.n_private, federation.mechanism().common().max_attempts);
    let (stop_sender, stop) = watch::channel(false);
    let mut stopped = stop.clone();
    let rounds = tokio::spawn(federation.run(server, async move {
        // An error means that nobody can say stop any more.
        let _ = stopped.wait_for(|stop| *stop).await;
    }));
    let parties =
        tokio::spawn(Parties::start(folders.parties.clone(), Faults::new(n_drops, options.rounds), stop)?.run());
    let watching = tokio::spawn(screen.watch(reports));
    let interrupt = tokio::spawn({
        let stop_sender = stop_sender.clone();
        async move {
            if tokio::signal::ctrl_c().await.is_ok() {
                let _ = stop_sender.send(true);
            }
        }
    });
    let summary = rounds.await.map_err(|error| broken(&error))?.map_err(|error| broken(&error))?;
    watching.await.map_err(|error| broken(&error))?;
    let interrupted = interrupt.is_finished();
    interrupt.abort();
    // A client that was not connected when the coordinator said that the task is over would look for it for ever.
    let _ = stop_sender.send(true);
    parties.await.map_err(|error| broken(&error))??;
    if interrupted {
        return Err(UserError::new("interrupted", "nothing was left behind; run `eranos demo` again"));
    }
    let verified = verify(dir, &ledger_key)?;
    conclude(options, trial, &folders, dir, &summary, verified, began.elapsed());
    match verified {
        true => Ok(()),
        false => Err(UserError::new("the ledger does not verify", "report this: the demo's own ledger must verify")),
    }
}

/// Makes the authority, and a key, a request and an approved certificate for everyone.
pub(crate) fn enrol(dir: &Path, parties: &[PathBuf]) -> Result<(), UserError> {
    let now = SystemClock.now();
    let trust_domain = TRUST_DOMAIN.parse().map_err(|error| broken(&error))?;
    let mut authority = Authority::init(&dir.join("ca"), trust_domain, now, &mut OsEntropy)?;
    let mut enrol = |folder: &Path, role: Role, hosts: &[String]| -> Result<(), UserError> {
        let name = folder.file_name().unwrap_or_default().to_string_lossy();
        let requested = party::request(folder, role, &name, hosts, false, &mut OsEntropy)?;
        let bytes = fs::read(&requested.request).map_err(|error| broken(&error))?;
        let request = authority.review(&bytes).map_err(|error| broken(&error))?;
        issue_beside(&mut authority, &requested.request, &request, Approval::default(), now)?;
        Ok(())
    };
    enrol(&dir.join("coordinator"), Role::Coordinator, &["127.0.0.1".to_owned()])?;
    parties.iter().try_for_each(|party| enrol(party, Role::Client, &[]))
}

/// Where in a round a client vanishes.
#[derive(Clone, Copy, PartialEq)]
enum Fault {
    AfterShareKeys,
    AfterMaskedInput,
}

/// Which attempts lose which clients. About one round in ten loses one, alternately after its shares and after its
/// vector; once two go, so that the attempt aborts and another follows.
pub(crate) struct Faults(BTreeMap<u64, Vec<Fault>>);

impl Faults {
    pub(crate) fn new(n_drops: u32, rounds: u32) -> Self {
        let mut faults = BTreeMap::new();
        let every = u64::from(rounds) / u64::from(n_drops.max(1));
        for drop in 0..u64::from(n_drops) {
            let fault = if drop % 2 == 0 { Fault::AfterShareKeys } else { Fault::AfterMaskedInput };
            // The middle of each stretch, never the first round.
            faults.insert((drop * every + every / 2 + 1).max(2), vec![fault]);
        }
        if let Some(twice) = faults.values_mut().nth(n_drops as usize / 2) {
            *twice = vec![Fault::AfterShareKeys; 2];
        }
        Self(faults)
    }

    /// Whether the client `index` of `n` vanishes now. Each drop-out takes another client.
    fn strikes(&self, round: u64, phase: Phase, index: usize, n: usize) -> bool {
        let Some(faults) = self.0.get(&round) else { return false };
        faults.iter().enumerate().any(|(i, fault)| {
            let victim = (round as usize + i) % n;
            let at = match fault {
                Fault::AfterShareKeys => Phase::Contribute,
                Fault::AfterMaskedInput => Phase::Consistency,
            };
            victim == index && at == phase
        })
    }
}

/// The clients, and who restarts them.
pub(crate) struct Parties {
    folders: Vec<PathBuf>,
    pool: Pool,
    faults: Faults,
    stop: watch::Receiver<bool>,
}

type Running = JoinHandle<Result<(), UserError>>;

impl Parties {
    pub(crate) fn start(folders: Vec<PathBuf>, faults: Faults, stop: watch::Receiver<bool>) -> Result<Self, UserError> {
        let pool = Pool::new(None).map_err(|error| broken(&error))?;
        Ok(Self { folders, pool, faults, stop })
    }

    /// Runs all clients until they are told that the task is over.
    pub(crate) async fn run(self) -> Result<(), UserError> {
        let (heard_sender, mut heard) = mpsc::channel(PROGRESS_QUEUED_MAX);
        let mut running: Vec<Running> = Vec::new();
        for index in 0..self.folders.len() {
            running.push(self.spawn(index, heard_sender.clone())?);
        }
        drop(heard_sender.clone());
        loop {
            tokio::select! {
                Some((index, progress)) = heard.recv() => {
                    let Progress::Phase { phase, round: Some(round) } = progress else { continue };
                    if self.faults.strikes(round.0, phase, index, self.folders.len()) {
                        // The process is gone in the middle of the round, and starts again from its folder.
                        running[index].abort();
                        let _ = (&mut running[index]).await;
                        running[index] = self.spawn(index, heard_sender.clone())?;
                    }
                }
                () = tokio::time::sleep(Duration::from_millis(100)) => {
                    if running.iter().all(JoinHandle::is_finished) {
                        break;
                    }
                    if let Some(index) = running.iter().position(|task| task.is_finished()) && !*self.stop.borrow() {
                        // One that failed ends the demo; one that is done waits for the others.
                        let finished = std::mem::replace(&mut running[index], tokio::spawn(async { Ok(()) }));
                        finished.await.map_err(|error| broken(&error))??;
                    }
                }
            }
        }
        for task in running {
            task.await.map_err(|error| broken(&error))??;
        }
        Ok(())
    }

    fn spawn(&self, index: usize, heard: mpsc::Sender<(usize, Progress)>) -> Result<Running, UserError> {
        let session = client_setup::open(&self.folders[index], Some(self.pool.clone()))?;
        let (sender, mut progress) = mpsc::channel(PROGRESS_QUEUED_MAX);
        tokio::spawn(async move {
            while let Some(progress) = progress.recv().await {
                if heard.send((index, progress)).await.is_err() {
                    return;
                }
            }
        });
        let stop = self.stop.clone();
        Ok(tokio::spawn(async move { session.run(sender, stop).await.map_err(|error| error.user_error()) }))
    }
}

/// The terminal: a bar with a line for each round, or plain lines where there is no terminal.
struct Screen {
    bar: Option<ProgressBar>,
}

impl Screen {
    fn new(options: &Options, trial: &Trial, n_private: usize, attempts_max: u32) -> Self {
        if options.no_noise {
            eprintln!("{NO_NOISE}. Updates are still summed under masks, so that only their sum is seen.");
        }
        eprintln!(
            "{} organisations, each with its own certificate, keys, budget and part of {} private {}, train a {} \
             together: {} rounds, at most {attempts_max} attempts. Nobody's data leaves, nobody's update is seen.",
            options.clients,
            grouped(n_private),
            trial.record[1],
            options.model,
            options.rounds,
        );
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(options.rounds.into());
            let style = ProgressStyle::with_template("{bar:40} {pos}/{len} rounds, {eta} to go  {msg}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar
        });
        Self { bar }
    }

    async fn watch(self, mut reports: mpsc::Receiver<RoundReport>) {
        while let Some(report) = reports.recv().await {
            let line = line(&report);
            match &self.bar {
                Some(bar) => {
                    bar.println(line);
                    bar.set_position(report.released.into());
                }
                None => eprintln!("{line}"),
            }
        }
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Audits the ledger as a stranger would: from the files and the pinned key alone.
fn verify(dir: &Path, ledger_key: &str) -> Result<bool, UserError> {
    let key = ledger_key.parse().map_err(|error| broken(&error))?;
    let options = audit::Options::new(key);
    let report = audit::verify(&dir.join("ledger"), &options).map_err(|error| broken(&error))?;
    for finding in &report.findings {
        eprintln!("ledger: {finding}");
    }
    Ok(report.is_clean())
}

fn conclude(
    options: &Options,
    trial: &Trial,
    folders: &Folders,
    dir: &Path,
    summary: &Summary,
    verified: bool,
    took: Duration,
) {
    let n_clients = u64::from(options.clients);
    let (up, down) = (summary.bytes_up / n_clients, summary.bytes_down / n_clients);
    let (accuracy, figure) = figures(trial, summary.test.as_ref());
    let told = figure.as_ref().map(|(name, value)| match (trial.figure, value) {
        (Some(Figure::Auc), Some(auc)) => format!(", {name} {auc:.3}"),
        _ => format!(", {name} {}", share(*value)),
    });
    let told = told.unwrap_or_default();
    let train = train(&summary.train).map_or(String::new(), |train| {
        format!("The last round's own {train}, summed under masks like everything else; ± is the noise in them.\n")
    });
    let (epsilon, promise) = match options.no_noise {
        true => (None, format!("WITHOUT NOISE.\n{NO_NOISE}")),
        false => {
            let promise = format!(
                "at epsilon = {:.3}, delta = {:e}\n(record level, add or remove one {}; against a coordinator that works \
                 with one of the organisations)",
                summary.epsilon, summary.delta, trial.record[0],
            );
            (Some(summary.epsilon), promise)
        }
    };
    eprintln!(
        "\n{} organisations, {} private {}, nobody's data seen: {} right on {} {}{told} {promise}.\n{} rounds in {} attempts, {} times a client dropped out; {:.1} MB up and {:.1} MB down for each \
         client; {:.0} s.\n{train}Ledger: {}.",
        options.clients,
        grouped(folders.n_private),
        trial.record[1],
        share(accuracy),
        grouped(folders.n_test),
        trial.tested_on,
        summary.released,
        summary.attempts,
        summary.n_dropped,
        up as f64 / 1e6,
        down as f64 / 1e6,
        took.as_secs_f64(),
        match (verified, options.no_noise) {
            (true, false) => "verified, every epsilon recomputed",
            (true, true) => "verified, and it says that there was no noise",
            (false, _) => "DOES NOT VERIFY",
        },
    );
    if options.keep.is_some() {
        let dir = dir.display();
        eprintln!("Look for yourself: eranos audit verify {dir}/ledger --key {dir}/ledger.pub");
        eprintln!("The model's weights: eranos coordinator export --dir {dir}/coordinator --output model.safetensors");
    }
    if options.json {
        let mut report = serde_json::json!({
            "model": options.model,
            "clients": options.clients,
            "rounds": summary.released,
            "dropped": summary.n_dropped,
            "unit": "record",
            "noise": if options.no_noise { "none" } else { "distributed" },
            // Null where nothing is promised.
            "epsilon": epsilon,
            "delta": summary.delta,
            "test_accuracy": accuracy,
            // Of the last released round, on what the organisations trained on, as noised as the model.
            "train_loss": summary.train.loss.map(|loss| loss.value),
            "train_loss_noise_deviation": summary.train.loss.map(|loss| loss.deviation),
            "train_accuracy": summary.train.accuracy.map(|accuracy| accuracy.value),
            "train_accuracy_noise_deviation": summary.train.accuracy.map(|accuracy| accuracy.deviation),
            "ledger_verified": verified,
            "seconds": took.as_secs_f64(),
            "bytes_up_per_client": up,
            "bytes_down_per_client": down,
            "attempts": summary.attempts,
        });
        if let Some((name, value)) = figure {
            report[format!("test_{}", name.replace(' ', "_").to_lowercase())] = value.into();
        }
        println!("{report}");
    }
}

/// Accuracy on the test set, and the trial's own figure by its name; none where it cannot be computed.
fn figures(trial: &Trial, test: Option<&TestFigures>) -> (Option<f64>, Option<(String, Option<f64>)>) {
    let figure = trial.figure.map(|figure| match figure {
        Figure::Recall { class, of } => {
            let recall = test.and_then(|test| *test.recalls.get(class as usize)?);
            (format!("{of} recall"), recall)
        }
        Figure::Auc => ("AUC".to_owned(), test.and_then(|test| test.auc)),
    });
    (test.map(|test| test.accuracy), figure)
}

fn share(value: Option<f64>) -> String {
    value.map_or("no figure".to_owned(), |value| format!("{:.1} %", 100.0 * value))
}

/// A number with a comma at every third digit.
fn grouped(n: usize) -> String {
    match n {
        0..1000 => n.to_string(),
        _ => format!("{},{:03}", grouped(n / 1000), n % 1000),
    }
}

/// What a model's demo trains with.
struct Settings {
    noise: NoiseTarget,
    /// The most that each client lets its data set be charged.
    epsilon: f64,
    l2_clip_norm: f64,
    /// The server optimizer, as a task file has it.
    optimizer: String,
}

impl Settings {
    fn of(trial: &Trial, epsilon: Option<f64>, no_noise: bool) -> Self {
        // With noise the cnn's were chosen on digits outside the sample; the others', and all without noise, on a held-out
        // part of the parties' own records, which stands as public knowledge here: benches/README.md.
        let epsilon = epsilon.unwrap_or(if trial.model == "cnn" { 4.0 } else { 8.0 });
        let promise = NoiseTarget::Distributed { epsilon };
        let (noise, l2_clip_norm, optimizer) = match (no_noise, trial.model) {
            (true, _) => (NoiseTarget::None, 1.0, adam(0.01)),
            (false, "cnn") => (promise, coordinator_setup::CLIP, coordinator_setup::OPTIMIZER.to_owned()),
            (false, "lstm") => (promise, 1.0, sgd(2.0)),
            (false, _) => (promise, 1.0, sgd(8.0)),
        };
        Self { noise, epsilon, l2_clip_norm, optimizer }
    }
}

fn sgd(learning_rate: f64) -> String {
    format!("{{ name = \"sgd\", learning_rate = {learning_rate:?} }}")
}

/// With the constants that Kingma and Ba propose but for epsilon, which is Keras'.
fn adam(learning_rate: f64) -> String {
    format!("{{ name = \"adam\", learning_rate = {learning_rate:?}, beta_1 = 0.9, beta_2 = 0.999, epsilon = 1e-7 }}")
}

/// A port that nobody listens on. Another program could take it before the coordinator does; then the demo says so.
pub(crate) fn free_port() -> Result<SocketAddr, UserError> {
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    UdpSocket::bind(any).and_then(|socket| socket.local_addr()).map_err(|error| broken(&error))
}

pub(crate) fn write(path: &Path, bytes: impl AsRef<[u8]>) -> Result<(), UserError> {
    fs::write(path, bytes).map_err(|error| {
        UserError::new(format!("cannot write {}: {error}", path.display()), "choose a folder that can be written")
    })
}

/// What must not happen in a federation that was made here entirely.
pub(crate) fn broken(error: &dyn std::fmt::Display) -> UserError {
    UserError::new(format!("the federation broke: {error}"), "free some memory and disk space and run it again")
}

pub(crate) const TRUST_DOMAIN: &str = "demo.eranos";
/// Fewer clients cannot lose one and still hide the others from one that works with the coordinator.
const CLIENTS_MIN: u16 = 4;
/// READY leaves at whole multiples of this after the plan.
pub(crate) const READY_SLOT_MS: u32 = 250;
/// Events of clients that nobody has taken yet.
const PROGRESS_QUEUED_MAX: usize = 256;
