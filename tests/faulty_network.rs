//! Federations of real processes over a network that delays, drops, reorders and doubles packets, is cut and comes back, and
//! changes the port under which a client is seen. After each run every released sum is recomputed from the clients' data to
//! the last bit, the ledger is audited, and all budgets are held against each other.
//!
//! The network is a UDP relay in front of each client, whose faults are drawn from a printed seed; when packets come is the
//! machine's to say: a seed repeats the draws, not the run. `ERANOS_FAULTY_ATTEMPTS=200` makes the long run, which
//! also looks at memory: `ERANOS_FAULTY_ATTEMPTS=200 cargo test --workspace --test main attempts_over_a_broken_network`.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    time::{Duration, Instant},
};

use eranos_base::{Digest, Entropy, OsEntropy, SeededEntropy, VerifyingKey};
use eranos_client::{
    round::TrainingJob,
    trainer::{Pool, Trainer},
};
use eranos_coordinator::task::Task;
use eranos_ledger::{
    Binding, Entry,
    audit::{self, Options},
    entry::{Attempt, Outcome},
};
use eranos_nn::{DataFile, Optimizer, data::Files};
use eranos_privacy::{Budget, Promise, rotation::release};
use tokio::{net::UdpSocket, task::JoinHandle, time::sleep};

use crate::budgets::{Running, Trial, set};

#[test]
fn rounds_over_a_bad_network_are_all_released_and_every_account_agrees() {
    // Everybody is needed, and has time: whatever the network does to a packet, no round may fail.
    let trial = trial(3, N_CALM, 60_000, 30_000);
    let mut coordinator = trial.coordinator(&[]);
    coordinator.heard("listening on ");
    let first = Weights::of(&trial);
    let network = Network::before(&trial, Weather::BAD);
    let clients: Vec<Running> = (1..=trial.n).map(|i| trial.client(i, &[])).collect();
    for _ in 0..N_CALM {
        let line = coordinator.heard("round ");
        assert!(!line.contains("aborted: ") && !line.contains("dropped: "), "{line}");
    }
    assert!(coordinator.finish().success());
    for client in clients {
        assert!(client.finish().success());
    }
    network.assert_did_its_worst();
    let accounts = check(&trial, first);
    for (name, account) in accounts {
        let all = u64::from(N_CALM);
        assert_eq!(account, Account { receipts: all, released: all, spent: all, debited: all }, "{name}");
    }
}

#[test]
fn attempts_over_a_broken_network_are_exact_or_cleanly_aborted() {
    let n_attempts: u64 = std::env::var("ERANOS_FAULTY_ATTEMPTS").map_or(N_BROKEN, |n| n.parse().unwrap());
    // One of four may be away; phases are short, so that whoever is cut off for long is left behind. What all have said is
    // shown if an attempt never ends.
    let log = [("RUST_LOG", "info,eranos_client=debug,eranos_coordinator=debug".to_owned())];
    let trial = trial(4, 100_000, 6000, 3000);
    let mut coordinator = trial.coordinator(&log);
    coordinator.heard("listening on ");
    let first = Weights::of(&trial);
    let network = Network::before(&trial, Weather::BROKEN);
    let mut clients: Vec<Running> = (1..=trial.n).map(|i| trial.client(i, &log)).collect();
    let (mut aborted, mut dropped) = (0, 0);
    let mut memory = BTreeMap::new();
    for attempt in 1..=n_attempts {
        let line = coordinator.wait_for("round ").unwrap_or_else(|error| {
            let clients: Vec<String> = clients.iter_mut().map(Running::said).collect();
            panic!("attempt {attempt}: {error}: {}\nclients: {}", coordinator.said(), clients.join("\n"))
        });
        aborted += u64::from(line.contains("aborted: "));
        dropped += u64::from(line.contains("dropped: "));
        if [n_attempts.min(20), n_attempts].contains(&attempt) {
            let of = |running: &Running| resident(running.child.id());
            memory.insert(attempt, [of(&coordinator), of(&clients[0])]);
        }
    }
    coordinator.signal("TERM");
    assert!(coordinator.finish().success());
    for client in clients {
        client.signal("TERM");
        assert!(client.finish().success());
    }
    println!("{aborted} of {n_attempts} attempts aborted, {dropped} with drop-outs; memory {memory:?}");
    network.assert_did_its_worst();
    let accounts = check(&trial, first);
    for (name, account) in &accounts {
        let Account { receipts, released, spent, debited } = *account;
        assert!(receipts <= released && released <= spent && spent <= debited, "{name}: {account:?}");
        // An attempt that was under way when the coordinator was told to end is in the ledger, too.
        assert!(debited <= n_attempts + 1, "{name}: {account:?}");
    }
    assert!(accounts.values().any(|account| account.released > 0), "{accounts:?}");
    if n_attempts >= 200 {
        let (at_20, at_end) = (memory[&20], memory[&n_attempts]);
        for (what, before, after) in [("coordinator", at_20[0], at_end[0]), ("client", at_20[1], at_end[1])] {
            assert!(
                after as f64 <= 1.05 * before as f64,
                "{what}: {before} bytes after 20 attempts, {after} at the end"
            );
        }
    }
}

/// A federation without noise, whose sums can be recomputed.
fn trial(n: usize, rounds: u32, phase_timeout_ms: u32, phase_wait_min_ms: u32) -> Trial {
    let trial = Trial::new(n, "tiny", rounds);
    let task = trial.path("main/task.toml");
    set(&task, "noise = ", "noise = \"none\"");
    set(&task, "epsilon = ", "");
    set(&task, "phase_timeout_ms = ", &format!("phase_timeout_ms = {phase_timeout_ms}"));
    set(&task, "phase_wait_min_ms = ", &format!("phase_wait_min_ms = {phase_wait_min_ms}"));
    for i in 1..=n {
        let policy = trial.path(&format!("silo-{i}/policy.toml"));
        set(&policy, "allow_no_noise = ", "allow_no_noise = true");
    }
    trial
}

/// What both sides know of one client, in attempts.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Account {
    /// Released ones that the client has verified.
    receipts: u64,
    /// Released ones with its vector in the sum, by the ledger.
    released: u64,
    /// What it charged itself.
    spent: u64,
    /// What the coordinator debited to it.
    debited: u64,
}

/// Audits the ledger, recomputes every model in it, and gives everybody's account. Nobody may be running.
fn check(trial: &Trial, mut weights: Weights) -> BTreeMap<String, Account> {
    trial.check_accounts("at the end");
    let status = trial.status();
    let who: HashMap<VerifyingKey, usize> = (1..=trial.n).map(|i| (pseudonym(trial, i), i)).collect();
    let silos = Silos::of(trial);
    let mut released = vec![0; trial.n + 1];
    let mut attempts = 0;
    let key = fs::read_to_string(trial.path("main/ledger.pub")).unwrap();
    let options = Options::new(key.trim().parse().unwrap());
    let report = audit::verify_seeing(&trial.path("main/state/ledger"), &options, &mut |_, entry| {
        let Entry::Attempt(attempt) = entry else { return };
        attempts += 1;
        assert_eq!(
            attempt.weights_before,
            weights.digest(),
            "attempt {attempts} begins with what the last released left"
        );
        let Outcome::Released { weights_after } = attempt.outcome else { return };
        let survivors = survivors(attempt, &who);
        let sum = silos.sum(attempt, &weights, &survivors);
        weights.step(attempt, &sum, survivors.len());
        assert_eq!(weights.digest(), weights_after, "attempt {attempts} is the exact sum over {survivors:?}");
        survivors.iter().for_each(|&i| released[i] += 1);
    });
    assert!(report.unwrap().is_clean());
    assert_eq!(status["attempts"].as_u64(), Some(attempts));
    let account = |i: usize| {
        let bytes = fs::read(trial.path(&format!("silo-{i}/state/budget"))).unwrap();
        let (budget, _) = Budget::parse(&bytes).unwrap();
        let own = &status["clients"][format!("silo-{i}")];
        let debited = own["attempts"].as_u64().unwrap();
        assert_eq!(own["released"].as_u64(), Some(released[i]), "silo-{i}: its account and the ledger");
        let (receipts, spent, released) = (budget.n_receipts(), budget.n_charged(), released[i]);
        // Whoever neither dropped out nor saw an abort.
        if released == attempts {
            assert_eq!((spent, debited), (released, released), "silo-{i}");
        }
        Account { receipts, released, spent, debited }
    };
    (1..=trial.n).map(|i| (format!("silo-{i}"), account(i))).collect()
}

fn pseudonym(trial: &Trial, i: usize) -> VerifyingKey {
    let disclosed = trial.must(&["client", "disclose", "--dir", &format!("silo-{i}")]);
    let [binding] = &Binding::parse_all(&disclosed).unwrap()[..] else { panic!("one: {disclosed}") };
    binding.pseudonym
}

/// Whose vectors are in the sum.
fn survivors(attempt: &Attempt, who: &HashMap<VerifyingKey, usize>) -> Vec<usize> {
    let roster = attempt.roster.as_ref().unwrap();
    let survivors = roster.sharers.as_ref().unwrap().survivors.as_ref().unwrap();
    let is_in = |position: &usize| survivors.bitmap[position / 8] >> (position % 8) & 1 == 1;
    let positions = (0..roster.participants.len()).filter(is_in);
    positions.map(|position| who[&roster.participants[position].pseudonym]).collect()
}

/// The model as an observer follows it through the ledger.
struct Weights {
    task: Task,
    parameters: Vec<f32>,
    optimizer: Optimizer,
}

impl Weights {
    /// Those that a coordinator begins with which has just begun.
    fn of(trial: &Trial) -> Self {
        let task = Task::read(&trial.path("main/task.toml")).unwrap();
        let opened = fs::read_dir(trial.path("main/state/objects")).unwrap();
        // Beside the optimizer's state, which is canonical and says so.
        let mut stored = opened.map(|object| fs::read(object.unwrap().path()).unwrap());
        let checkpoint = stored.find(|bytes| bytes.len() == 4 * N_PARAMETERS).unwrap();
        let parameters: Vec<f32> =
            checkpoint.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        let optimizer = Optimizer::new(task.training.server_optimizer, parameters.len()).unwrap();
        Self { task, parameters, optimizer }
    }

    fn bytes(&self) -> Vec<u8> {
        self.parameters.iter().flat_map(|value| value.to_le_bytes()).collect()
    }

    fn digest(&self) -> Digest {
        Digest::of(&self.bytes())
    }

    fn step(&mut self, attempt: &Attempt, sum: &[u32], n_survivors: usize) {
        let (gradient, _) = release(sum, &attempt.mechanism, &attempt.rotation_seed, n_survivors as u32).unwrap();
        let share = self.task.training.learning_rate_schedule.share(self.optimizer.n_steps());
        self.optimizer.step_scaled(&mut self.parameters, &gradient, share).unwrap();
    }
}

/// What every client trains on, and how.
struct Silos {
    trainers: Vec<Arc<Trainer>>,
    data: eranos_nn::DataSpec,
    model: eranos_nn::ModelSpec,
}

impl Silos {
    fn of(trial: &Trial) -> Self {
        let data = DataFile::read(&trial.path("main/data.toml")).unwrap().spec;
        let task = Task::read(&trial.path("main/task.toml")).unwrap();
        let model = task.model.source(&trial.path("main")).load(Some(&data)).unwrap();
        let pool = Pool::new(Some(1)).unwrap();
        let trainer = |i: usize| {
            let folder = trial.path(&format!("silo-{i}"));
            let files = Files::read(&folder.join("images"), Some(&folder.join("labels")), None, 10).unwrap();
            Arc::new(Trainer::new(files, pool.clone()))
        };
        Self { trainers: (1..=trial.n).map(trainer).collect(), data, model }
    }

    /// The sum of what these clients contribute to an attempt without noise, in the clear.
    fn sum(&self, attempt: &Attempt, weights: &Weights, of: &[usize]) -> Vec<u32> {
        let bits = attempt.mechanism.common().bits;
        let mut sum = vec![0u32; attempt.mechanism.common().d_pad as usize];
        for i in of {
            let job = TrainingJob {
                model: self.model.clone(),
                data: self.data.clone(),
                checkpoint: weights.bytes().into(),
                mechanism: attempt.mechanism.clone(),
                rotation_seed: attempt.rotation_seed,
            };
            let (sender, done) = mpsc::channel();
            let _working = self.trainers[i - 1].start(job, move |result| sender.send(result.unwrap()).unwrap());
            for (total, value) in sum.iter_mut().zip(done.recv().unwrap().iter()) {
                *total = total.wrapping_add(*value) & (u32::MAX >> (32 - u32::from(bits)));
            }
        }
        sum
    }
}

/// What a network does to packets, and how often.
#[derive(Clone, Copy)]
struct Weather {
    /// Of a thousand packets.
    dropped: u64,
    doubled: u64,
    delayed: u64,
    delay_ms_max: u64,
    /// Of a thousand packets of a client: how many are its last for a while, and for how long at most.
    cut: u64,
    cut_ms_max: u64,
    /// Of a thousand packets of a client: before how many it gets another port under which it is seen.
    moved: u64,
}

impl Weather {
    const BAD: Self =
        Self { dropped: 20, doubled: 20, delayed: 200, delay_ms_max: 20, cut: 20, cut_ms_max: 400, moved: 15 };
    const BROKEN: Self = Self { cut: 8, cut_ms_max: 6000, ..Self::BAD };
}

/// A relay in front of each client.
struct Network {
    runtime: Option<tokio::runtime::Runtime>,
    faults: Arc<Faults>,
}

/// The draws of one seed, and what came of them.
struct Faults {
    weather: Weather,
    dice: Mutex<SeededEntropy>,
    n_passed: AtomicU64,
    n_dropped: AtomicU64,
    n_doubled: AtomicU64,
    n_delayed: AtomicU64,
    n_cuts: AtomicU64,
    n_moves: AtomicU64,
}

impl Network {
    /// Puts a relay before each client of the trial, who must not have been started yet.
    fn before(trial: &Trial, weather: Weather) -> Self {
        let seed = u64::from_le_bytes(OsEntropy.bytes());
        println!("seed {seed}");
        let config = fs::read_to_string(trial.path("main/coordinator.toml")).unwrap();
        let listen = config.lines().find_map(|line| line.strip_prefix("listen = ")).unwrap();
        let coordinator: SocketAddr = listen.trim_matches('"').parse().unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let zero = AtomicU64::default;
        let faults = Arc::new(Faults {
            weather,
            dice: Mutex::new(SeededEntropy::new(seed)),
            n_passed: zero(),
            n_dropped: zero(),
            n_doubled: zero(),
            n_delayed: zero(),
            n_cuts: zero(),
            n_moves: zero(),
        });
        for i in 1..=trial.n {
            let relay = runtime.block_on(bind());
            let address = relay.local_addr().unwrap();
            set(
                &trial.path(&format!("silo-{i}/client.toml")),
                "coordinator = ",
                &format!("coordinator = \"{address}\""),
            );
            runtime.spawn(Relay::new(relay, coordinator, faults.clone()).run());
        }
        Self { runtime: Some(runtime), faults }
    }

    /// Every kind of fault happened, so that the run shows something.
    fn assert_did_its_worst(&self) {
        let Faults { n_passed, n_dropped, n_doubled, n_delayed, n_cuts, n_moves, .. } = &*self.faults;
        let counts = [n_passed, n_dropped, n_doubled, n_delayed, n_cuts, n_moves].map(|n| n.load(Ordering::Relaxed));
        println!("passed, dropped, doubled, delayed packets, cuts, moves: {counts:?}");
        assert!(counts.iter().all(|&n| n > 0), "{counts:?}");
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Faults {
    fn below(&self, most: u64) -> u64 {
        u64::from_le_bytes(self.dice.lock().unwrap().bytes()) % most
    }

    fn happens(&self, of_a_thousand: u64, count: &AtomicU64) -> bool {
        let happens = self.below(1000) < of_a_thousand;
        count.fetch_add(u64::from(happens), Ordering::Relaxed);
        happens
    }

    /// Sends a packet on, as the weather is.
    fn pass(self: &Arc<Self>, packet: &[u8], through: &Arc<UdpSocket>, to: SocketAddr) {
        if self.happens(self.weather.dropped, &self.n_dropped) {
            return;
        }
        let copies = 1 + usize::from(self.happens(self.weather.doubled, &self.n_doubled));
        for _ in 0..copies {
            self.n_passed.fetch_add(1, Ordering::Relaxed);
            if self.happens(self.weather.delayed, &self.n_delayed) {
                let wait = Duration::from_millis(self.below(self.weather.delay_ms_max));
                let (through, packet) = (through.clone(), packet.to_vec());
                tokio::spawn(async move {
                    sleep(wait).await;
                    // A network that cannot send drops.
                    let _ = through.send_to(&packet, to).await;
                });
            } else {
                let _ = through.try_send_to(packet, to);
            }
        }
    }
}

/// One client's way to the coordinator: an address that it dials, and a port for each of its sockets under which the
/// coordinator sees it, as a home router gives one out.
struct Relay {
    listen: Arc<UdpSocket>,
    coordinator: SocketAddr,
    faults: Arc<Faults>,
    flows: HashMap<SocketAddr, (Arc<UdpSocket>, JoinHandle<()>)>,
    cut_until: Arc<Mutex<Instant>>,
}

impl Relay {
    fn new(listen: UdpSocket, coordinator: SocketAddr, faults: Arc<Faults>) -> Self {
        let cut_until = Arc::new(Mutex::new(Instant::now()));
        Self { listen: Arc::new(listen), coordinator, faults, flows: HashMap::new(), cut_until }
    }

    async fn run(mut self) {
        let Weather { cut, cut_ms_max, moved, .. } = self.faults.weather;
        let mut packet = vec![0; 1 << 16];
        loop {
            // An unreachable port is told of as an error, once.
            let Ok((len, from)) = self.listen.recv_from(&mut packet).await else { continue };
            if !self.flows.contains_key(&from) || self.faults.happens(moved, &self.faults.n_moves) {
                let flow = self.flow(from).await;
                if let Some((_, before)) = self.flows.insert(from, flow) {
                    before.abort();
                }
            }
            if *self.cut_until.lock().unwrap() > Instant::now() {
                continue;
            }
            self.faults.pass(&packet[..len], &self.flows[&from].0, self.coordinator);
            if self.faults.happens(cut, &self.faults.n_cuts) {
                *self.cut_until.lock().unwrap() = Instant::now() + Duration::from_millis(self.faults.below(cut_ms_max));
            }
        }
    }

    /// A port under which the coordinator sees a socket of the client, and the way back from it.
    async fn flow(&self, client: SocketAddr) -> (Arc<UdpSocket>, JoinHandle<()>) {
        let socket = Arc::new(bind().await);
        let (from, listen, faults) = (socket.clone(), self.listen.clone(), self.faults.clone());
        let cut_until = self.cut_until.clone();
        let back = tokio::spawn(async move {
            let mut packet = vec![0; 1 << 16];
            loop {
                let Ok((len, _)) = from.recv_from(&mut packet).await else { continue };
                if *cut_until.lock().unwrap() <= Instant::now() {
                    faults.pass(&packet[..len], &listen, client);
                }
            }
        });
        (socket, back)
    }
}

async fn bind() -> UdpSocket {
    UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap()
}

/// The memory of a process that is in use, in bytes.
fn resident(process: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    1024 * line.trim().trim_end_matches(" kB").parse::<u64>().unwrap()
}

/// Rounds over a bad network.
const N_CALM: u32 = 8;
/// Attempts over a broken one, if nobody asks for more.
const N_BROKEN: u64 = 15;
/// Parameters of the trial's model.
const N_PARAMETERS: usize = 1910;
