//! `eranos simulate FILE`: what rounds of a task would cost a fleet of clients, before there is one. The scenario's file is
//! read and checked here, and what [`World`] comes to is told.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use eranos_base::{Clock, Entropy, SeededEntropy, SigningKey, SystemClock, Timestamp, TrustDomain, UserError, println};
use eranos_certs::{Approval, Authority, Role, TrustAnchor, party};
use eranos_coordinator::{
    federation::mechanism,
    task::{Graph, Task, parse_toml},
};
use eranos_ledger::LedgerSigner;
use eranos_nn::DataFile;
use eranos_privacy::Promise;
use eranos_secagg::{Identity, StatementKey, VerifiedCertifications};
use eranos_wire::Request;
use serde::Deserialize;
use serde_json::{Value, json};

use super::world::{Attempted, ClientCost, Enrolled, Setup, VECTORS_HELD_MAX, World};
use crate::demo::broken;

/// A scenario as its TOML file says it.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Scenario {
    /// The version of this format; 1.
    version: u32,
    /// The task's file, relative to this one.
    task: PathBuf,
    /// Clients that check in for every attempt.
    clients: usize,
    /// Attempts.
    rounds: u32,
    /// What is drawn comes from it.
    seed: u64,
    /// Who vanishes where.
    #[serde(default)]
    drop_out: BTreeMap<DropOut, f64>,
    /// The lines, and what training takes.
    network: Network,
}

/// What messages go through.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Network {
    /// From end to end, one way.
    pub(super) latency_ms: u32,
    /// From the plan to a client's contribution.
    pub(super) training_s: f64,
    /// Each client's line.
    pub(super) client: Line,
    /// The coordinator's.
    pub(super) coordinator: Line,
}

/// Megabits a second from and to its owner.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Line {
    pub(super) up_mbit_per_s: f64,
    pub(super) down_mbit_per_s: f64,
}

/// The phase that a client does not come to: it vanishes without a word when it should send this.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum DropOut {
    /// Its keys.
    AdvertiseKeys,
    /// Its shares.
    ShareKeys,
    /// That its vector is ready.
    MaskedInput,
    /// Its statement; its vector is in the sum.
    Consistency,
    /// The shares that it releases; its vector is in the sum.
    Unmask,
}

impl DropOut {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::AdvertiseKeys => "advertise_keys",
            Self::ShareKeys => "share_keys",
            Self::MaskedInput => "masked_input",
            Self::Consistency => "consistency",
            Self::Unmask => "unmask",
        }
    }

    /// Whether it is gone before it sends this.
    pub(super) const fn keeps_from(self, request: &Request) -> bool {
        matches!(
            (self, request),
            (Self::AdvertiseKeys, Request::Advertise(_))
                | (Self::ShareKeys, Request::ShareKeys(_))
                | (Self::MaskedInput, Request::Ready(_))
                | (Self::Consistency, Request::Consistency(_))
                | (Self::Unmask, Request::Unmask(_))
        )
    }
}

impl Scenario {
    fn read(path: &Path) -> Result<Self, UserError> {
        let next = "compare with the example that `eranos simulate --help` shows, docs/examples/fleet.toml";
        let text = fs::read_to_string(path)
            .map_err(|error| UserError::new(format!("cannot read the scenario {}: {error}", path.display()), next))?;
        let scenario: Self = parse_toml(&text, path, next)?;
        let refuse =
            |what: String, next: &'static str| Err(UserError::new(format!("{}: {what}", path.display()), next));
        if scenario.version != 1 {
            return refuse(format!("version = {}", scenario.version), "this build reads version 1");
        }
        if let Some((phase, rate)) = scenario.drop_out.iter().find(|(_, rate)| !(0.0..=1.0).contains(*rate)) {
            let what = format!("drop_out.{} = {rate} is no share of the clients", phase.name());
            return refuse(what, "give a number from 0 to 1: 0.05 lets one client in twenty vanish there");
        }
        let Network { training_s, client, coordinator, .. } = &scenario.network;
        let rates = [client, coordinator].map(|line| [line.up_mbit_per_s, line.down_mbit_per_s]).concat();
        if rates.iter().any(|rate| !(rate.is_finite() && *rate > 0.0)) {
            return refuse("a line without bandwidth".to_owned(), "give each a positive number of megabits a second");
        }
        if !(0.0..=TRAINING_S_MAX).contains(training_s) {
            let what = format!("network.training_s = {training_s}");
            return refuse(what, "give seconds, from 0 to a day");
        }
        Ok(scenario)
    }

    /// Who vanishes where in one attempt. A client that has not vanished before a phase does so there at the phase's rate.
    fn draw_exits(&self, dice: &mut SeededEntropy) -> BTreeMap<usize, DropOut> {
        let mut exits = BTreeMap::new();
        for i in 0..self.clients {
            for (phase, rate) in &self.drop_out {
                let drawn = u64::from_le_bytes(dice.bytes()) as f64 / u64::MAX as f64;
                if drawn < *rate {
                    exits.entry(i).or_insert(*phase);
                }
            }
        }
        exits
    }
}

/// Runs the scenario in `path`.
///
/// # Errors
/// If the scenario or its task say something that cannot be.
pub(super) fn run(path: &Path, as_json: bool) -> Result<(), UserError> {
    let scenario = Scenario::read(path)?;
    let task_path = path.parent().unwrap_or(Path::new("")).join(&scenario.task);
    let task = Task::read(&task_path)?;
    let at = |what: String, next: &'static str| UserError::new(format!("{}: {what}", path.display()), next);
    let (clients, needed) = (scenario.clients, usize::from(task.cohort.survivors_min));
    if clients < needed || clients > CLIENTS_MAX {
        let what = format!("{clients} clients, where the task needs {needed} and this build simulates {CLIENTS_MAX}");
        return Err(at(what, "change `clients`, or cohort.survivors_min in the task"));
    }
    if scenario.rounds == 0 || scenario.rounds > task.schedule.attempts_max {
        let what = format!("rounds = {}, the task allows {} attempts", scenario.rounds, task.schedule.attempts_max);
        return Err(at(what, "change `rounds`, or schedule.attempts_max in the task"));
    }
    let base = task_path.parent().unwrap_or(Path::new(""));
    let data = DataFile::read(&base.join(&task.data))?.spec;
    let model = task.model.source(base).load(Some(&data))?;
    let mechanism = mechanism(&task, model.n_parameters())?;
    let common = mechanism.common();
    let graph = task.cohort.graph;
    let neighbors = graph.thresholds(common.n_max, common.max_colluders, common.u_min);
    let neighbors = neighbors.map_err(|error| {
        UserError::new(format!("{}: {error}", task_path.display()), "take more survivors, or fewer colluders")
    })?;
    let mut dice = SeededEntropy::new(scenario.seed);
    let now = SystemClock.now();
    let trust_domain: TrustDomain = TRUST_DOMAIN.parse().map_err(|error| broken(&error))?;
    eprintln!("{clients} clients are enrolled ...");
    let (anchor, enrolled) = enrol(clients, &task, &trust_domain, &mut dice, now)?;
    let origin = format!("{TRUST_DOMAIN}/{}", task.name).parse().map_err(|error| broken(&error))?;
    let signer = Arc::new(LedgerSigner::new(origin, SigningKey::generate(&mut dice)));
    let name = task.name.to_string();
    let setup = Setup { trust_domain, task, signer, anchor, nonce: dice.bytes(), mechanism, model, data };
    let mut world = World::new(setup, scenario.network.clone(), enrolled, u64::from_le_bytes(dice.bytes()), now)?;
    let mut exits = SeededEntropy::new(scenario.seed);
    let mut attempts = Vec::new();
    for number in 1..=scenario.rounds {
        let attempted = world.attempt(number.into(), &scenario.draw_exits(&mut exits))?;
        eprintln!("{}", line(number, &attempted));
        attempts.push(attempted);
    }
    let values = u64::from(common.d_pad);
    let vector = Vector {
        parameters: common.n_parameters,
        values,
        bits: common.bits,
        packed_len: (values * u64::from(common.bits)).div_ceil(8),
        // As it is added up.
        lanes_len: values * if common.bits <= 16 { 2 } else { 4 },
    };
    let degree = if graph == Graph::Sparse { Some(neighbors.degree()) } else { None };
    match as_json {
        true => println!("{}", report(&scenario, &name, &vector, degree, &attempts)),
        false => print(&scenario, &name, &vector, degree, &attempts),
    }
    Ok(())
}

/// What a client's contribution is.
struct Vector {
    parameters: u32,
    values: u64,
    bits: u8,
    packed_len: u64,
    lanes_len: u64,
}

/// An authority, and a certificate of it for each client, all from `dice`.
fn enrol(
    n_clients: usize,
    task: &Task,
    trust_domain: &TrustDomain,
    dice: &mut SeededEntropy,
    now: Timestamp,
) -> Result<(Arc<TrustAnchor>, Vec<Enrolled>), UserError> {
    let dir = tempfile::tempdir().map_err(|error| {
        UserError::new(format!("cannot make a temporary folder: {error}"), "set TMPDIR to a writable folder")
    })?;
    let mut authority = Authority::init(&dir.path().join("ca"), trust_domain.clone(), now, dice)?;
    let mut clients = Vec::with_capacity(n_clients);
    for i in 0..n_clients {
        let folder = dir.path().join("client");
        let name = format!("c{i:05}");
        let requested = party::request(&folder, Role::Client, &name, &[], false, dice)?;
        let bytes = fs::read(&requested.request).map_err(|error| broken(&error))?;
        let request = authority.review(&bytes).map_err(|error| broken(&error))?;
        let certificate = authority.approve(&request, Approval::default(), now, dice)?;
        clients.push((certificate.to_vec(), party::load_key(&folder.join(party::KEY_FILE))?));
        fs::remove_dir_all(&folder).map_err(|error| broken(&error))?;
    }
    let anchor = TrustAnchor::from_pem(authority.certificate_pem().as_bytes(), &authority.revocation_list_pem()?);
    let anchor = Arc::new(anchor.map_err(|error| broken(&error))?);
    let enrolled = clients.into_iter().map(|(certificate, certificate_key)| {
        let known = anchor.verify_client(&certificate, now).map_err(|error| broken(&error))?;
        let identity = Identity {
            id: known.id,
            certificate: known.fingerprint,
            certificate_key,
            statement_key: StatementKey::derive(&dice.bytes(), &task.name),
            verified: VerifiedCertifications::default(),
        };
        Ok::<_, UserError>(Enrolled { identity, certificate })
    });
    let enrolled = enrolled.collect::<Result<Vec<_>, _>>()?;
    Ok((anchor, enrolled))
}

fn line(number: u32, attempted: &Attempted) -> String {
    match &attempted.aborted {
        Some(reason) => format!("round {number}: aborted, {reason}"),
        None => format!("round {number}: released, {} in the sum", attempted.n_survivors),
    }
}

/// The middle one of figures that can be compared; 0 of none.
fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or_default()
}

impl Attempted {
    /// The median over the clients that saw the attempt through.
    fn client(&self, figure: impl Fn(&ClientCost) -> f64) -> f64 {
        median(self.clients.iter().map(figure).collect())
    }

    fn client_cpu_s(&self) -> f64 {
        self.client(|client| client.phases.values().sum::<Duration>().as_secs_f64())
    }

    fn coordinator_cpu_s(&self) -> f64 {
        self.coordinator.values().sum::<Duration>().as_secs_f64()
    }

    /// What the network and training take, and after them what one client and the coordinator compute, as if nothing of it
    /// were done while something else is waited for.
    fn estimated_s(&self) -> f64 {
        self.took.as_secs_f64() + self.client_cpu_s() + self.coordinator_cpu_s()
    }

    fn phases(&self) -> BTreeMap<&'static str, (f64, f64)> {
        PHASES
            .into_iter()
            .map(|phase| {
                let of = |phases: &BTreeMap<&str, Duration>| phases.get(phase).map_or(0.0, Duration::as_secs_f64);
                (phase, (self.client(|client| of(&client.phases)), of(&self.coordinator)))
            })
            .collect()
    }

    fn report(&self, number: usize, vector: &Vector) -> Value {
        let phases = |which: fn(&(f64, f64)) -> f64| -> Value {
            self.phases()
                .iter()
                .map(|(phase, both)| ((*phase).to_owned(), json!(which(both))))
                .collect::<serde_json::Map<_, _>>()
                .into()
        };
        json!({
            "round": number,
            "released": self.aborted.is_none(),
            "aborted": self.aborted,
            "selected": self.n_selected,
            "survivors": self.n_survivors,
            "vanished": self.vanished,
            "bytes_up_client_median": self.client(|client| client.bytes_up as f64),
            "bytes_down_client_median": self.client(|client| client.bytes_down as f64),
            "bytes_in_coordinator": self.bytes_up,
            "bytes_out_coordinator": self.bytes_down,
            "network_seconds": self.took.as_secs_f64(),
            // From here on by this machine's clocks: another run has others.
            "cpu_seconds_client_median": self.client_cpu_s(),
            "cpu_seconds_client_median_by_phase": phases(|both| both.0),
            "cpu_seconds_coordinator": self.coordinator_cpu_s(),
            "cpu_seconds_coordinator_by_phase": phases(|both| both.1),
            "estimated_seconds": self.estimated_s(),
            "answers_and_vectors_bytes_max": self.held_bytes(vector),
        })
    }

    fn held_bytes(&self, vector: &Vector) -> u64 {
        let vectors = vector.lanes_len + (VECTORS_HELD_MAX as u64 - 1) * vector.packed_len;
        self.held as u64 + vectors
    }
}

fn report(scenario: &Scenario, task: &str, vector: &Vector, degree: Option<usize>, attempts: &[Attempted]) -> Value {
    let released = attempts.iter().filter(|attempt| attempt.aborted.is_none()).count();
    json!({
        "task": task,
        "clients": scenario.clients,
        "seed": scenario.seed,
        "parameters": vector.parameters,
        "values": vector.values,
        "bits": vector.bits,
        // Null on the complete graph.
        "neighbors": degree,
        "released": released,
        "aborted": attempts.len() - released,
        "rounds": (1..).zip(attempts).map(|(number, attempt)| attempt.report(number, vector)).collect::<Vec<_>>(),
    })
}

fn print(scenario: &Scenario, task: &str, vector: &Vector, degree: Option<usize>, attempts: &[Attempted]) {
    let graph = degree.map_or("complete graph".to_owned(), |degree| format!("{degree} neighbors each"));
    println!(
        "{} clients of {task}, {graph}; {} parameters, {} values of {} bits",
        scenario.clients, vector.parameters, vector.values, vector.bits
    );
    println!(
        "\n{:>5} {:>9} {:>8} {:>8} | {:>11} {:>11} {:>8} | {:>9} {:>9} {:>8} | {:>9} {:>9}",
        "", "", "in the", "", "a client", "", "", "coordi-", "nator", "", "network,", "with all"
    );
    println!(
        "{:>5} {:>9} {:>8} {:>8} | {:>11} {:>11} {:>8} | {:>9} {:>9} {:>8} | {:>9} {:>9}",
        "round", "outcome", "sum", "vanished", "up B", "down B", "CPU-s", "in MB", "out MB", "CPU-s", "s", "CPU, s"
    );
    for (number, attempt) in (1..).zip(attempts) {
        println!(
            "{number:>5} {:>9} {:>8} {:>8} | {:>11} {:>11} {:>8.3} | {:>9.1} {:>9.1} {:>8.2} | {:>9.1} {:>9.1}",
            if attempt.aborted.is_some() { "aborted" } else { "released" },
            attempt.n_survivors,
            attempt.vanished.values().sum::<usize>(),
            attempt.client(|client| client.bytes_up as f64),
            attempt.client(|client| client.bytes_down as f64),
            attempt.client_cpu_s(),
            attempt.bytes_up as f64 / 1e6,
            attempt.bytes_down as f64 / 1e6,
            attempt.coordinator_cpu_s(),
            attempt.took.as_secs_f64(),
            attempt.estimated_s(),
        );
    }
    if let Some(last) = attempts.iter().rev().find(|attempt| attempt.aborted.is_none()) {
        println!("\nCPU-s of the last released round: a client (median), the coordinator");
        let phases = last.phases();
        for phase in PHASES {
            let (client, coordinator) = phases.get(phase).copied().unwrap_or_default();
            println!("{phase:>16} {client:9.4} {coordinator:9.3}");
        }
    }
    let held = attempts.iter().map(|attempt| attempt.held_bytes(vector)).max().unwrap_or_default();
    println!(
        "\nThe coordinator held up to {:.1} MB of answers and vectors at once. Its database, the model, what it keeps of\n\
         everybody's keys, and 33 kB for each connection come on top.",
        held as f64 / 1e6
    );
}

/// In the order of a round.
const PHASES: [&str; 8] =
    ["select", "configure", "advertise_keys", "share_keys", "masked_input", "consistency", "unmask", "settle"];
const TRUST_DOMAIN: &str = "simulated.eranos";
/// Most clients. Each holds about half a megabyte while a thousand share keys, and its vector.
const CLIENTS_MAX: usize = 10_000;
/// The longest training.
const TRAINING_S_MAX: f64 = 86_400.0;
