//! A round of many real clients, a third of whom drop out, beside the same bytes over plain TLS.
//!
//! ```text
//! cargo build --release --example load
//! TMPDIR=/dev/shm target/release/examples/load [clients] [seed]
//! ```
//!
//! The coordinator is a process of its own, as `eranos coordinator run` makes it: database, ledger, model and all. The
//! clients share another one: each has its own folder, certificate, keys, policy, budget, socket and connection, and the
//! session that `eranos client run` has. Only training is left out: what a client puts in is drawn from the seed, so that
//! the sum is known. A third of the clients are gone in the middle of the round, as a killed process is, each at a point
//! of its own; a killed one is started again some seconds later, as a service manager does, and stays out of the round.
//!
//! Then one process sends the same bytes to another over TLS 1.3 on TCP, with the same certificates on both sides, one
//! connection for each client: as many uploads of the same length, and what else went up and down.
//!
//! It ends in an error unless the sum of those whom the ledger names as survivors is exact to the last bit, the ledger
//! verifies, and the coordinator's memory, while vectors come in, grows by no more than a vector for each grant and two.

#![expect(clippy::unwrap_used, reason = "a measurement may stop at whatever goes wrong")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{BufRead, BufReader, Read},
    net::{Ipv4Addr, SocketAddr},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use eranos_base::{
    ClientId, Clock, Digest, Entropy, OsEntropy, Position, SeededEntropy, SystemClock, Timestamp, VerifyingKey,
    limits::UPLOAD_GRANTS_MAX,
};
use eranos_certs::{Approval, Authority, Party, Role, cli::issue_beside, party};
use eranos_client::{
    policy::Unit,
    round::{CertificateCheck, End, Phase, TrainingJob},
    session::{Progress, Session},
    setup as client_setup,
    trainer::{Cancel, Contributor, Done, Pool},
};
use eranos_coordinator::{
    setup as coordinator_setup,
    task::{Contribution, Graph},
};
use eranos_ledger::{Attempt, Entry, audit};
use eranos_privacy::{Promise, mechanism::NoiseTarget};
use eranos_wire::tls::{self, ClientTls, Credentials, ServerIdentity, SharedTrust, TrustMaterial};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{mpsc, watch},
    task::JoinHandle,
};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use zeroize::Zeroizing;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    runtime.enable_all();
    match arguments.next().as_deref() {
        Some("serve") => runtime.build().unwrap().block_on(serve(Path::new(&arguments.next().unwrap()))),
        Some("serve-tls") => runtime.build().unwrap().block_on(serve_tls(Path::new(&arguments.next().unwrap()))),
        clients => {
            let clients = clients.map_or(1000, |clients| clients.parse().unwrap());
            let seed = arguments.next().map_or(1, |seed| seed.parse().unwrap());
            // Each may wait for its turn on a thread of its own, so that all of them hear what comes meanwhile.
            let runtime = runtime.max_blocking_threads(clients + THREADS_SPARE).build().unwrap();
            runtime.block_on(measure(clients, seed));
        }
    }
}

async fn measure(n_clients: usize, seed: u64) {
    let dir = tempfile::tempdir().unwrap();
    let gone = draw_exits(n_clients, seed);
    println!("{n_clients} clients, seed {seed}; {} of them drop out, by phase {}", gone.len(), by_phase(gone.values()));
    let began = Instant::now();
    let federation = Federation::make(dir.path(), n_clients);
    println!("certificates and folders made in {:.0} s", began.elapsed().as_secs_f64());
    let round = federation.round(seed, &gone).await;
    let plain = federation.plain_tls(&round).await;
    println!("\n{:22} {:>10} {:>10} {:>7}", "", "the round", "plain TLS", "ratio");
    for (what, round, plain) in [
        ("seconds in all", round.took.as_secs_f64(), plain.took.as_secs_f64()),
        ("CPU-s, coordinator", round.coordinator_s, plain.coordinator_s),
        ("CPU-s, all clients", round.clients_s, plain.clients_s),
    ] {
        println!("{what:22} {round:10.2} {plain:10.2} {:7.1}", round / plain);
    }
}

/// Where a client is killed: when it comes to this phase, after so long.
#[derive(Clone, Copy)]
struct Exit {
    phase: Phase,
    after: Duration,
}

/// A third of the clients, each with a point of its own, all of it from the seed.
fn draw_exits(n_clients: usize, seed: u64) -> BTreeMap<usize, Exit> {
    let mut dice = SeededEntropy::new(seed);
    let mut below = |n: u64| u64::from_le_bytes(dice.bytes()) % n;
    let mut gone = BTreeMap::new();
    while gone.len() < n_clients / 3 {
        let phase = PHASES[below(PHASES.len() as u64) as usize];
        let after = Duration::from_millis(below(EXIT_AFTER_MS_MAX));
        gone.entry(below(n_clients as u64) as usize).or_insert(Exit { phase, after });
    }
    gone
}

fn by_phase<'a>(exits: impl Iterator<Item = &'a Exit>) -> String {
    let mut counts = PHASES.map(|phase| (phase, 0));
    exits.for_each(|exit| counts.iter_mut().filter(|(phase, _)| *phase == exit.phase).for_each(|(_, n)| *n += 1));
    counts.map(|(phase, n)| format!("{phase:?} {n}")).join(", ")
}

/// The values that client `i` puts in, from -1000 to 1000, as residues modulo 2^b.
fn contribution(seed: u64, i: usize, len: usize, bits: u8) -> Vec<u32> {
    let mut bytes = vec![0; 4 * len];
    SeededEntropy::new(seed ^ (i as u64 + 1) << 32).fill(&mut bytes);
    let value = |bytes: &[u8; 4]| (u32::from_le_bytes(*bytes) % 2001).wrapping_sub(1000) & (u32::MAX >> (32 - bits));
    bytes.as_chunks::<4>().0.iter().map(value).collect()
}

/// In place of a trainer.
struct Drawn {
    seed: u64,
    i: usize,
}

impl Contributor for Drawn {
    fn begin(self: Arc<Self>, job: TrainingJob, done: Done) -> Cancel {
        let common = job.mechanism.common();
        done(Ok(Zeroizing::new(contribution(self.seed, self.i, common.d_pad as usize, common.bits))));
        Cancel::default()
    }
}

/// Clients check everybody's certificate, a tenth of a second each: no more of them at once than there are cores. A thousand
/// at once would leave their connections no time to say that they live, where each has a machine of its own in earnest.
struct InTurn {
    trust: Arc<dyn CertificateCheck>,
    turn: Arc<Mutex<()>>,
}

impl CertificateCheck for InTurn {
    fn check(&self, certificate: &[u8], now: Timestamp) -> Result<(ClientId, VerifyingKey), String> {
        let _turn = self.turn.lock().unwrap();
        self.trust.check(certificate, now)
    }
}

/// Everybody's folders.
struct Federation<'a> {
    dir: &'a Path,
    clients: Vec<PathBuf>,
    ledger_key: String,
}

impl<'a> Federation<'a> {
    fn make(dir: &'a Path, n_clients: usize) -> Self {
        let domain = DOMAIN.parse().unwrap();
        let now = SystemClock.now();
        let mut authority = Authority::init(&dir.join("authority"), domain, now, &mut OsEntropy).unwrap();
        let mut enrol = |name: &str, role: Role, hosts: &[String]| {
            let folder = dir.join(name);
            let requested = party::request(&folder, role, name, hosts, false, &mut OsEntropy).unwrap();
            let request = authority.review(&fs::read(&requested.request).unwrap()).unwrap();
            let approval = Approval { days: 1, replace_key: false };
            issue_beside(&mut authority, &requested.request, &request, approval, now).unwrap();
            folder
        };
        let coordinator = enrol("coordinator", Role::Coordinator, &["127.0.0.1".to_owned()]);
        let clients: Vec<PathBuf> = (0..n_clients).map(|i| enrol(&format!("c{i:04}"), Role::Client, &[])).collect();
        let ledger_key = Self::init_coordinator(coordinator, n_clients);
        for client in &clients {
            init_client(client, n_clients, &ledger_key);
        }
        Self { dir, clients, ledger_key }
    }

    /// One round of one attempt.
    fn init_coordinator(dir: PathBuf, n_clients: usize) -> String {
        let (survivors_min, max_colluders) = (survivors_min(n_clients), colluders(n_clients));
        let init = coordinator_setup::Init {
            dir: dir.clone(),
            listen: (Ipv4Addr::LOCALHOST, 0).into(),
            state: "state".into(),
            model: "cnn".into(),
            task: TASK.to_owned(),
            clients: n_clients as u16,
            survivors_min,
            max_colluders,
            graph: Graph::Sparse,
            rounds: 1,
            attempts_max: 1,
            noise: NoiseTarget::Distributed { epsilon: EPSILON },
            contribution: Contribution::quarter_of(n_clients as u32, RECORDS_MAX),
            data: None,
            optimizer: coordinator_setup::OPTIMIZER.to_owned(),
            l2_clip_norm: coordinator_setup::CLIP,
            metrics: None,
            ready_slot_ms: READY_SLOT_MS,
        };
        let key = coordinator_setup::init(&init, DOMAIN).unwrap();
        // All parties share two cores: whoever is waited for in earnest works for itself.
        edit(&dir.join(coordinator_setup::TASK), "phase_timeout_ms = 60000", &format!("phase_timeout_ms = {PHASE_MS}"));
        key
    }

    /// Runs the round; checks its sum, its ledger and its memory.
    async fn round(&self, seed: u64, gone: &BTreeMap<usize, Exit>) -> Cost {
        let (mut coordinator, mut said, address) = start("serve", self.dir);
        for client in &self.clients {
            edit(&client.join(client_setup::CONFIG), NOWHERE, &address.to_string());
        }
        let pool = Pool::new(Some(1)).unwrap();
        let sessions: Vec<Session> = self.clients.iter().map(|dir| open(dir, &pool)).collect();
        let keys: BTreeMap<VerifyingKey, usize> =
            sessions.iter().enumerate().map(|(i, s)| (s.member.identity.statement_key.verifying_key(), i)).collect();

        let before = (Instant::now(), processor_s(coordinator.id()), processor_s(std::process::id()));
        let turns: Vec<Arc<Mutex<()>>> = (0..CORES).map(|_| Arc::default()).collect();
        let (stop_sender, stop) = watch::channel(false);
        let (ended_sender, mut ended) = mpsc::channel(self.clients.len());
        let running: Vec<JoinHandle<()>> = sessions
            .into_iter()
            .enumerate()
            .map(|(i, mut session)| {
                session.trainer = Arc::new(Drawn { seed, i });
                let member = Arc::make_mut(&mut session.member);
                member.trust = Arc::new(InTurn { trust: member.trust.clone(), turn: turns[i % turns.len()].clone() });
                let life = Life { i, dir: self.clients[i].clone(), exit: gone.get(&i).copied(), pool: pool.clone() };
                tokio::spawn(life.run(session, stop.clone(), ended_sender.clone()))
            })
            .collect();
        drop(ended_sender);
        let (mut n_killed, mut n_settled, mut others) = (0, 0, BTreeMap::<String, usize>::new());
        let mut phases: BTreeMap<&'static str, Duration> = BTreeMap::new();
        let mut took = Duration::ZERO;
        while n_killed + n_settled + others.values().sum::<usize>() < self.clients.len() {
            match ended.recv().await.unwrap() {
                Heard::Phase(phase) => {
                    phases.entry(phase).or_insert_with(|| before.0.elapsed());
                }
                Heard::Killed => n_killed += 1,
                Heard::Ended(End::Settled { .. }) => {
                    n_settled += 1;
                    took = before.0.elapsed();
                }
                Heard::Ended(end) => *others.entry(end.to_string()).or_default() += 1,
            }
        }
        let took = if took.is_zero() { before.0.elapsed() } else { took };
        let coordinator_s = processor_s(coordinator.id()) - before.1;
        let clients_s = processor_s(std::process::id()) - before.2;
        println!("{n_settled} clients have a receipt, {n_killed} were killed; ends of others: {others:?}");
        let mut report = String::new();
        tokio::task::block_in_place(|| said.read_to_string(&mut report)).unwrap();
        coordinator.wait().unwrap();
        stop_sender.send(true).unwrap();
        for client in running {
            client.await.unwrap();
        }
        let report: Value = serde_json::from_str(report.trim()).unwrap();
        assert!(report["aborted"].is_null(), "the round was aborted: {report}");
        let attempt = self.audited();
        let survivors = self.survivors(&attempt, &keys);
        let common = attempt.mechanism.common();
        assert_eq!(report["sum"], plain_sum(seed, &survivors, common.d_pad as usize, common.bits), "the sum is wrong");
        let packed_len = (common.d_pad as usize * usize::from(common.bits)).div_ceil(8) as u64;
        println!(
            "the sum of {} survivors of {} is exact to the last bit; d = {}, b = {}, {} neighbors; the ledger verifies",
            survivors.len(),
            report["selected"],
            common.n_parameters,
            common.bits,
            Graph::Sparse
                .thresholds(common.n_max, common.max_colluders, common.u_min)
                .map_or(0, |thresholds| thresholds.degree()),
        );
        Cost {
            took,
            coordinator_s,
            clients_s,
            n_uploads: survivors.len() as u64,
            packed_len,
            bytes_up: report["bytes_up"].as_u64().unwrap(),
            bytes_down: report["bytes_down"].as_u64().unwrap(),
        }
        .told(&report, &phases, common.d_pad as u64 * 4)
    }

    /// The round's entry in a ledger that verifies.
    fn audited(&self) -> Attempt {
        let options = audit::Options::new(self.ledger_key.parse().unwrap());
        let mut attempts = Vec::new();
        let mut see = |_, entry: &Entry| {
            if let Entry::Attempt(attempt) = entry {
                attempts.push((**attempt).clone());
            }
        };
        let report = audit::verify_seeing(&self.dir.join("coordinator/state/ledger"), &options, &mut see).unwrap();
        assert!(report.is_clean(), "{:?}", report.findings);
        assert_eq!(attempts.len(), 1);
        attempts.remove(0)
    }

    /// Whose vectors are in the sum, as the ledger says.
    fn survivors(&self, attempt: &Attempt, keys: &BTreeMap<VerifyingKey, usize>) -> BTreeSet<usize> {
        let survivors = attempt.survivors().unwrap();
        let roster = attempt.roster.as_ref().unwrap().participants.iter().enumerate();
        let survivors = roster.filter(|(position, _)| survivors.contains(Position(*position as u16)));
        survivors.map(|(_, participant)| keys[&participant.pseudonym]).collect()
    }

    /// The same bytes over TLS on TCP.
    async fn plain_tls(&self, round: &Cost) -> Cost {
        let (mut server, _said, address) = start("serve-tls", self.dir);
        let configs: Vec<_> = self.clients.iter().map(|dir| client_tls(&Party::load(dir).unwrap())).collect();
        let n = self.clients.len() as u64;
        let (up, down) = ((round.bytes_up - round.n_uploads * round.packed_len) / n, round.bytes_down / n);
        let before = (Instant::now(), processor_s(server.id()), processor_s(std::process::id()));
        let clients: Vec<JoinHandle<()>> = (0..)
            .zip(configs)
            .map(|(i, tls)| {
                let vector = if i < round.n_uploads { round.packed_len } else { 0 };
                tokio::spawn(async move {
                    let tcp = TcpStream::connect(address).await.unwrap();
                    tcp.set_nodelay(true).unwrap();
                    let (config, _) = tls.attempt().unwrap();
                    let host = rustls_pki_types::ServerName::IpAddress(address.ip().into());
                    let mut stream = TlsConnector::from(Arc::new(config)).connect(host, tcp).await.unwrap();
                    // What is to come, then it.
                    for number in [up, down, vector] {
                        stream.write_u64_le(number).await.unwrap();
                    }
                    stream.write_all(&vec![1; up as usize]).await.unwrap();
                    stream.flush().await.unwrap();
                    stream.read_exact(&mut vec![0; down as usize]).await.unwrap();
                    stream.write_all(&vec![1; vector as usize]).await.unwrap();
                    stream.flush().await.unwrap();
                    stream.read_u8().await.unwrap();
                })
            })
            .collect();
        for client in clients {
            client.await.unwrap();
        }
        let took = before.0.elapsed();
        let cost = Cost {
            took,
            coordinator_s: processor_s(server.id()) - before.1,
            clients_s: processor_s(std::process::id()) - before.2,
            ..*round
        };
        server.kill().unwrap();
        server.wait().unwrap();
        cost
    }
}

/// A client's process, as a service manager keeps it.
struct Life {
    i: usize,
    dir: PathBuf,
    exit: Option<Exit>,
    pool: Pool,
}

/// What is heard of a client.
enum Heard {
    /// It came to a phase.
    Phase(&'static str),
    /// It is gone, in the middle of the round.
    Killed,
    /// Its round is over.
    Ended(End),
}

impl Life {
    async fn run(self, session: Session, stop: watch::Receiver<bool>, heard: mpsc::Sender<Heard>) {
        let (sender, mut progress) = mpsc::channel(64);
        let running = tokio::spawn(session.run(sender, stop.clone()));
        let mut ended = false;
        while let Some(progress) = progress.recv().await {
            match progress {
                Progress::Phase { phase, round: Some(_) } => {
                    heard.send(Heard::Phase(name(phase))).await.unwrap();
                    let Some(exit) = self.exit.filter(|exit| exit.phase == phase) else { continue };
                    tokio::time::sleep(exit.after).await;
                    running.abort();
                    let _ = running.await;
                    heard.send(Heard::Killed).await.unwrap();
                    drop(heard);
                    return self.run_again(stop).await;
                }
                Progress::End { end, .. } if !ended => {
                    ended = true;
                    // Nobody listens any more if the round is over for all.
                    let _ = heard.send(Heard::Ended(end)).await;
                }
                _ => {}
            }
        }
        if let Ok(Err(error)) = running.await
            && !ended
        {
            panic!("client {}: {error}", self.i);
        }
    }

    /// From its folder, with what it had written down.
    async fn run_again(self, mut stop: watch::Receiver<bool>) {
        if tokio::time::timeout(RESTART_AFTER, stop.wait_for(|stop| *stop)).await.is_ok() {
            return;
        }
        let session = tokio::task::block_in_place(|| open(&self.dir, &self.pool));
        let (sender, progress) = mpsc::channel(1);
        drop(progress);
        // The coordinator may be gone by then.
        let _ = session.run(sender, stop).await;
    }
}

const fn name(phase: Phase) -> &'static str {
    match phase {
        Phase::Select => "0 select",
        Phase::AdvertiseKeys => "1 advertise_keys",
        Phase::ShareKeys => "2 share_keys",
        Phase::Contribute => "3 contribute",
        Phase::Ready => "4 ready",
        Phase::Uploaded => "5 uploaded",
        Phase::Consistency => "6 consistency",
        Phase::Unmask => "7 unmask",
        Phase::Idle => "8 idle",
    }
}

/// What one way of carrying the bytes cost.
#[derive(Clone, Copy)]
struct Cost {
    took: Duration,
    coordinator_s: f64,
    clients_s: f64,
    n_uploads: u64,
    packed_len: u64,
    bytes_up: u64,
    bytes_down: u64,
}

impl Cost {
    /// Prints the round, and holds the coordinator's memory against its bound.
    fn told(self, report: &Value, phases: &BTreeMap<&'static str, Duration>, vector_len: u64) -> Self {
        println!(
            "{:.1} MB up, {:.1} of them in {} uploads of {} bytes; {:.1} MB down",
            self.bytes_up as f64 / 1e6,
            (self.n_uploads * self.packed_len) as f64 / 1e6,
            self.n_uploads,
            self.packed_len,
            self.bytes_down as f64 / 1e6,
        );
        let first = phases.iter().map(|(phase, at)| format!("{phase} {:.1} s", at.as_secs_f64()));
        println!("first client in: {}", first.collect::<Vec<_>>().join(", "));
        println!("coordinator's memory, MB resident: at the phase's beginning, at most");
        for phase in report["memory"].as_array().unwrap() {
            let mb = |name: &str| phase[name].as_u64().unwrap_or_default() as f64 / 1e3;
            println!("{:>20} {:8.1} {:8.1}", phase["phase"].as_str().unwrap(), mb("before_kb"), mb("most_kb"));
            if phase["phase"] == "masked_input" {
                let vectors = (mb("most_kb") - mb("before_kb")) * 1e6 / vector_len as f64;
                println!("{vectors:49.1} vectors of {:.2} MB more", vector_len as f64 / 1e6);
                assert!(vectors <= (UPLOAD_GRANTS_MAX + 2) as f64, "more than a vector for each grant and two");
            }
        }
        self
    }
}

fn plain_sum(seed: u64, of: &BTreeSet<usize>, len: usize, bits: u8) -> String {
    let mut sum = vec![0u32; len];
    for i in of {
        for (sum, value) in sum.iter_mut().zip(contribution(seed, *i, len, bits)) {
            *sum = sum.wrapping_add(value) & (u32::MAX >> (32 - bits));
        }
    }
    let bytes: Vec<u8> = sum.iter().flat_map(|value| value.to_le_bytes()).collect();
    Digest::of(&bytes).to_string()
}

fn init_client(dir: &Path, n_clients: usize, ledger_key: &str) {
    #[expect(clippy::big_endian_bytes, reason = "IDX's own order")]
    let len = |n: u32| n.to_be_bytes();
    let images = [&[0, 0, 8, 3][..], &len(1), &len(28), &len(28), &[0; 28 * 28]].concat();
    fs::write(dir.join("images"), images).unwrap();
    fs::write(dir.join("labels"), [&[0, 0, 8, 1][..], &len(1), &[0]].concat()).unwrap();
    let init = client_setup::Init {
        dir: dir.to_owned(),
        coordinator: NOWHERE.to_owned(),
        ledger_key: ledger_key.to_owned(),
        task: TASK.to_owned(),
        unit: Unit::Record,
        epsilon_max: EPSILON,
        allow_no_noise: false,
        survivors_min: survivors_min(n_clients),
        max_colluders: colluders(n_clients),
        records_max: RECORDS_MAX,
        records: "images".to_owned(),
        labels: Some("labels".to_owned()),
        columns: Vec::new(),
        classes: 10,
        budget: None,
        witnesses: Vec::new(),
    };
    client_setup::init(&init).unwrap();
    let policy = dir.join(client_setup::POLICY);
    edit(&policy, "# [sparse_graph]", "[sparse_graph]");
    edit(&policy, "# corrupt_share_min", "corrupt_share_min");
    edit(&policy, "# dropped_share_max", "dropped_share_max");
}

fn edit(path: &Path, from: &str, to: &str) {
    let text = fs::read_to_string(path).unwrap();
    assert!(text.contains(from), "{} has no {from:?}", path.display());
    fs::write(path, text.replace(from, to)).unwrap();
}

fn open(dir: &Path, pool: &Pool) -> Session {
    client_setup::open(dir, Some(pool.clone())).unwrap_or_else(|error| panic!("{}: {error}", dir.display()))
}

fn survivors_min(n_clients: usize) -> u16 {
    (n_clients - n_clients / 3) as u16
}

fn colluders(n_clients: usize) -> u16 {
    (n_clients / 10) as u16
}

/// A process of this program, what it says, and where it listens.
fn start(as_what: &str, dir: &Path) -> (Child, BufReader<ChildStdout>, SocketAddr) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    let mut child = command.arg(as_what).arg(dir).stdout(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    said.read_line(&mut line).unwrap();
    let address = line.trim().parse().unwrap();
    (child, said, address)
}

/// The coordinator's process: it says where it listens, and at the end what became of the round.
async fn serve(dir: &Path) {
    let dir = dir.join("coordinator");
    let opened = coordinator_setup::open(&dir).unwrap_or_else(|error| panic!("{error}"));
    let coordinator_setup::Coordinator { federation, server, mut reports, .. } = opened;
    println!("{}", server.local_address());
    let watched = std::thread::spawn(move || watch_memory(&dir.join("state/status.sock")));
    federation.run(server, std::future::pending()).await.unwrap();
    let report = reports.recv().await.unwrap();
    let memory: Vec<Value> = watched.join().unwrap();
    let report = json!({
        "aborted": report.aborted,
        "sum": report.sum.map(|sum| sum.to_string()),
        "selected": report.n_selected,
        "bytes_up": report.bytes_up,
        "bytes_down": report.bytes_down,
        "memory": memory,
    });
    println!("{report}");
}

/// This process's memory in each phase, until the coordinator answers no more.
fn watch_memory(socket: &Path) -> Vec<Value> {
    let (mut phases, mut present, mut before) = (Vec::new(), String::new(), 0);
    loop {
        let live = UnixStream::connect(socket).ok().and_then(|stream| serde_json::from_reader::<_, Value>(stream).ok());
        let phase = live.as_ref().and_then(|live| live["phase"].as_str()).unwrap_or_default();
        if phase != present {
            if !present.is_empty() {
                phases.push(json!({ "phase": present, "before_kb": before, "most_kb": status_kb("VmHWM:") }));
            }
            fs::write("/proc/self/clear_refs", "5").unwrap();
            (present, before) = (phase.to_owned(), status_kb("VmRSS:"));
        }
        if live.is_none() && !phases.is_empty() {
            return phases;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn status_kb(line: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let found = status.lines().find_map(|found| found.strip_prefix(line)).unwrap();
    found.split_whitespace().next().unwrap().parse().unwrap()
}

/// Takes what is sent over TLS on TCP and sends what is asked for.
async fn serve_tls(dir: &Path) {
    let party = Party::load(&dir.join("coordinator")).unwrap();
    let identity = ServerIdentity::new(&Credentials::new(party.certificate.clone(), party.key_pkcs8.clone())).unwrap();
    let config = tls::server_config(&identity, &trust(&party), Arc::new(SystemClock)).unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    println!("{}", listener.local_addr().unwrap());
    loop {
        let (tcp, _) = listener.accept().await.unwrap();
        let acceptor = acceptor.clone();
        tokio::spawn(async move {
            tcp.set_nodelay(true).unwrap();
            let mut stream = acceptor.accept(tcp).await.unwrap();
            let (up, down) = (stream.read_u64_le().await.unwrap(), stream.read_u64_le().await.unwrap());
            let vector = stream.read_u64_le().await.unwrap();
            stream.read_exact(&mut vec![0; up as usize]).await.unwrap();
            stream.write_all(&vec![1; down as usize]).await.unwrap();
            stream.flush().await.unwrap();
            stream.read_exact(&mut vec![0; vector as usize]).await.unwrap();
            stream.write_u8(1).await.unwrap();
            stream.shutdown().await.ok();
        });
    }
}

fn client_tls(party: &Party) -> ClientTls {
    let credentials = Credentials::new(party.certificate.clone(), party.key_pkcs8.clone());
    ClientTls::new(credentials, trust(party), Arc::new(SystemClock))
}

fn trust(party: &Party) -> SharedTrust {
    let anchor = &party.anchor;
    let authorities = anchor.authorities().cloned().collect();
    SharedTrust::new(&TrustMaterial { authorities, revoked: anchor.revoked().cloned().collect() }).unwrap()
}

/// User and system time of a process, in seconds.
fn processor_s(process: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    // The 14th and 15th fields, in hundredths of a second; the name before them has no space.
    let ticks: u64 = stat.split(' ').skip(13).take(2).map(|ticks| ticks.parse::<u64>().unwrap()).sum();
    ticks as f64 / 100.0
}

const DOMAIN: &str = "load.example";
const TASK: &str = "digits";
/// Until the coordinator's port is known.
const NOWHERE: &str = "127.0.0.1:1";
const EPSILON: f64 = 8.0;
const RECORDS_MAX: u32 = 64;
const READY_SLOT_MS: u32 = 250;
/// The longest that a phase waits for anybody.
const PHASE_MS: u32 = 600_000;
/// The phases in which a client may be killed.
const PHASES: [Phase; 7] = [
    Phase::AdvertiseKeys,
    Phase::ShareKeys,
    Phase::Contribute,
    Phase::Ready,
    Phase::Uploaded,
    Phase::Consistency,
    Phase::Unmask,
];
/// How long after it came to its phase a client is killed at most.
const EXIT_AFTER_MS_MAX: u64 = 500;
/// How long a killed client is away.
const RESTART_AFTER: Duration = Duration::from_secs(5);
/// Clients that check certificates at once.
const CORES: usize = 2;
/// Threads for what is done beside clients.
const THREADS_SPARE: usize = 64;
