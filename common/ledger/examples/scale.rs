//! How fast a long log is audited, and in how much memory, beside what its hashes and signatures alone would take:
//!
//! ```text
//! cargo run --release -p eranos-ledger --example scale -- [rounds] [folder]
//! ```
//!
//! Writes a log of so many released rounds (100,000 unless said otherwise; each takes about 8 KB of disk) of four clients
//! into a folder of its own, which is removed, or into the folder named, which is kept. Then verifies all of it: structure,
//! every attachment, every plan, every quorum, every epsilon. The limits are measured in the same run, on the same bytes:
//! SHA-256 over every leaf, node and attachment, and as many Ed25519 verifications, one by one, as the log has signatures.
//!
//! At last it appends rounds as a coordinator does, whose database is the journal: files are flushed together, once in 64.

#![expect(clippy::unwrap_used, reason = "a measurement may stop at whatever goes wrong")]

use std::{
    fs,
    hint::black_box,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use eranos_base::{
    Digest, GraphKind, Position, RoundNumber, SessionId, Signature, SigningKey, TaskId, Timestamp, TrustDomain,
};
use eranos_ledger::{
    Attempt, Checkpoint, Date, EncodedEntry, Entry, Executable, LedgerSigner, LogOpened, LogWriter, Outcome,
    Participant, Roster, Sharers, SignedCheckpoint, Survivors, TaskOpened,
    audit::{self, Options},
    entry::PromisedCurves,
    log::{Edge, UNSYNCED_ENTRIES_MAX},
    tile::attachment_path,
    tree::{leaf_hash, node_hash},
};
use eranos_privacy::{
    Groups, Mechanism, RotationSeed,
    mechanism::{ClientTarget, LocalTraining, NoiseTarget, design_client},
};

fn main() {
    let mut arguments = std::env::args().skip(1);
    let n_rounds: u32 = arguments.next().map_or(100_000, |n| n.parse().unwrap());
    let (folder, kept) = match arguments.next() {
        Some(folder) => (PathBuf::from(folder), true),
        None => (std::env::temp_dir().join(format!("eranos-scale-{}", std::process::id())), false),
    };
    let mut federation = Federation::new(n_rounds + N_APPENDED);
    let began = Instant::now();
    let n_bytes = federation.write(&folder, n_rounds);
    println!("{n_rounds} rounds of {N_CLIENTS} clients written in {:.1} s, {} MB", seconds(began), n_bytes >> 20);

    let written = peak_memory();
    let options = Options::new(federation.signer.ledger_key());
    let began = processor_time();
    let report = audit::verify(&folder, &options).unwrap();
    let audited = processor_time() - began;
    assert!(report.is_clean() && report.n_released() == u64::from(n_rounds), "{:#?}", report.findings);
    let (hashing, verifying) = (federation.hashing(n_rounds, n_bytes), federation.verifying(n_rounds));
    let rate = |time: Duration| f64::from(n_rounds) / time.as_secs_f64();
    println!("audit:                 {:>9.0} entries a second of processor time", rate(audited));
    println!("limit of signatures:   {:>9.0}", rate(verifying));
    println!("limit of hashes:       {:>9.0}", rate(hashing));
    println!("limit of both:         {:>9.0}", rate(hashing + verifying));
    println!("audit over both:       {:>9.1} %", 100.0 * rate(audited) / rate(hashing + verifying));
    println!("peak memory:           {:>9} KB, of which {written} KB before the audit", peak_memory());

    let mut writer = LogWriter::open(&folder, federation.signer.clone()).unwrap();
    let began = Instant::now();
    for _ in 0..N_APPENDED {
        let entry = federation.attempt();
        writer.append(writer.size(), &entry).unwrap();
    }
    println!(
        "append:                {:>9.0} entries a second, of which {} flushes",
        f64::from(N_APPENDED) / began.elapsed().as_secs_f64(),
        u64::from(N_APPENDED) / UNSYNCED_ENTRIES_MAX
    );
    let size = writer.size();
    let (began, n_proofs) = (Instant::now(), 1000);
    for i in 0..n_proofs {
        black_box(writer.inclusion_proof(i * 7919 % size, size).unwrap());
    }
    let longest = writer.consistency_proof(size / 3, size).unwrap().len();
    println!(
        "inclusion proof:       {:>9.1} µs, at most {longest} hashes of consistency",
        1e6 * seconds(began) / n_proofs as f64
    );
    drop(writer);
    if !kept {
        fs::remove_dir_all(&folder).unwrap();
    }
}

struct Federation {
    signer: Arc<LedgerSigner>,
    clients: Vec<SigningKey>,
    log: LogOpened,
    task: TaskOpened,
    curves: PromisedCurves,
    weights: Digest,
    attempts: u64,
}

impl Federation {
    fn new(max_attempts: u32) -> Self {
        let signer =
            Arc::new(LedgerSigner::new("ledger.example.org".parse().unwrap(), SigningKey::from_seed(&[1; 32])));
        let (trust_domain, task): (TrustDomain, TaskId) = ("example.org".parse().unwrap(), "scale".parse().unwrap());
        let mechanism: Mechanism = design_client(&ClientTarget {
            l2_clip_norm: 1.0,
            n_parameters: 16,
            n_max: 4,
            u_min: 3,
            max_colluders: 1,
            groups: Groups::default(),
            training: LocalTraining { steps: 3, batch_size: 8, learning_rate: 0.1 },
            max_attempts,
            noise: NoiseTarget::Distributed { epsilon: 8.0 },
            delta: 1e-5,
        })
        .unwrap()
        .into();
        let origin = signer.ledger_key().name().clone();
        let (nonce, weights) = ([9; 32], Digest::of(b"weights 0"));
        let session = SessionId::derive(&trust_domain, origin.as_str(), &task, &nonce);
        let date = Date::of(Timestamp::from_unix_ms(1_700_000_000_000));
        Self {
            clients: (0..N_CLIENTS).map(|i| SigningKey::from_seed(&[100 + i as u8; 32])).collect(),
            curves: PromisedCurves::new(&mechanism),
            log: LogOpened { origin, trust_domain, ledger_key: signer.ledger_key(), date },
            task: TaskOpened {
                task,
                nonce,
                session,
                model: Digest::of(b"model"),
                data: Digest::of(b"data"),
                weights,
                mechanism,
                budget_epsilon: 8.0,
                budget_delta: 1e-5,
            },
            signer,
            weights,
            attempts: 0,
        }
    }

    /// The next round: everybody survives and signs.
    fn attempt(&mut self) -> EncodedEntry {
        self.attempts += 1;
        let round = RoundNumber(self.attempts);
        let weights_before = self.weights;
        self.weights = Digest::of(&round.0.to_le_bytes());
        let participants = self.clients.iter().map(SigningKey::verifying_key);
        let mut attempt = Attempt {
            task: self.task.task.clone(),
            session: self.task.session,
            round,
            attempts: self.attempts,
            plan: Digest::ZERO,
            plan_signature: Signature([0; 64]),
            executable: Executable { sha256: Digest::of(b"exe"), version: "0.1.0".parse().unwrap() },
            mechanism: self.task.mechanism.clone(),
            graph: GraphKind::Complete,
            ready_slot_ms: 250,
            phase_timeout_ms: 60_000,
            rotation_seed: RotationSeed([3; 32]),
            weights_before,
            roster: Some(Roster {
                digest: Digest::of(b"roster"),
                participants: participants
                    .map(|pseudonym| Participant { pseudonym, attempts: self.attempts })
                    .collect(),
                sharers: Some(Sharers {
                    root: Digest::of(b"sharers"),
                    survivors: Some(Survivors { bitmap: vec![(1 << N_CLIENTS) - 1], signatures: Vec::new() }),
                }),
            }),
            outcome: Outcome::Released { weights_after: self.weights },
            epsilons: self.curves.epsilons(self.attempts),
        };
        let terms = attempt.plan_terms(&self.log, &self.task);
        let (plan, statement) = (terms.digest(), terms.statement());
        (attempt.plan, attempt.plan_signature) = (plan, self.signer.signing_key().sign(&statement));
        let signatures = (0..)
            .map(Position)
            .zip(&self.clients)
            .map(|(position, key)| (position, key.sign(&attempt.consistency_statement(position).unwrap())));
        let signatures = signatures.collect();
        let sharers = attempt.roster.as_mut().and_then(|roster| roster.sharers.as_mut()).unwrap();
        sharers.survivors.as_mut().unwrap().signatures = signatures;
        Entry::Attempt(Box::new(attempt)).encode().unwrap()
    }

    /// Writes the log without a sync, one entry in memory at a time. Gives its bytes.
    fn write(&mut self, dir: &Path, n_rounds: u32) -> u64 {
        let mut edge = Edge::default();
        let mut n_bytes = 0;
        let mut put = |path: String, bytes: &[u8]| {
            let path = dir.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
            n_bytes += bytes.len() as u64;
        };
        let opening = [Entry::LogOpened(self.log.clone()), Entry::TaskOpened(Box::new(self.task.clone()))];
        let mut opening = opening.iter().map(|entry| entry.encode().unwrap());
        for _ in 0..n_rounds + 2 {
            let entry = opening.next().unwrap_or_else(|| self.attempt());
            if let Some(attachment) = &entry.attachment {
                put(attachment_path(&Digest::of(attachment)), attachment);
            }
            edge.push(&entry.leaf).unwrap().iter().for_each(|(tile, bytes)| put(tile.path(), bytes));
        }
        edge.partial().iter().for_each(|(tile, bytes)| put(tile.path(), bytes));
        let checkpoint = Checkpoint { origin: self.log.origin.clone(), size: edge.size(), root: edge.root() };
        let note = SignedCheckpoint::sign(checkpoint, &self.signer).unwrap().note().encode();
        put("checkpoint".to_owned(), note.as_bytes());
        n_bytes
    }

    /// How long SHA-256 takes over as many bytes as leaves and attachments have, and over as many nodes and plans.
    fn hashing(&mut self, n_rounds: u32, n_bytes: u64) -> Duration {
        let average = vec![0x61; (n_bytes / u64::from(n_rounds)) as usize];
        let (left, right) = (Digest::of(b"left"), Digest::of(b"right"));
        let began = processor_time();
        for _ in 0..n_rounds {
            black_box(leaf_hash(black_box(&average)));
            black_box(node_hash(black_box(&left), &right));
        }
        processor_time() - began
    }

    /// How long it takes to verify one plan and a statement of each client for every round, one by one.
    fn verifying(&self, n_rounds: u32) -> Duration {
        // Statement lengths are those of the log; which bytes they are changes no time.
        let (plan, statement) = ([1; 600], [2; 180]);
        let key = self.signer.signing_key();
        let plan_signature = key.sign(&plan);
        let signed: Vec<_> = self.clients.iter().map(|key| (key.verifying_key(), key.sign(&statement))).collect();
        let n = n_rounds.min(VERIFIED_MAX);
        let began = processor_time();
        for _ in 0..n {
            key.verifying_key().verify(black_box(&plan), &plan_signature).unwrap();
            for (key, signature) in &signed {
                key.verify(black_box(&statement), signature).unwrap();
            }
        }
        (processor_time() - began) * n_rounds / n
    }
}

fn seconds(began: Instant) -> f64 {
    began.elapsed().as_secs_f64()
}

/// The processor time of this process, in ticks of 10 ms, where Linux tells it; else the clock's. Other work on the
/// machine does not count.
fn processor_time() -> Duration {
    static BEGAN: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    let clock = BEGAN.get_or_init(Instant::now).elapsed();
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The name in parentheses may hold spaces; user and system time are the 12th and 13th fields after it.
    let fields = stat.rsplit(") ").next().unwrap_or_default();
    let ticks: Vec<u64> = fields.split(' ').skip(11).take(2).filter_map(|ticks| ticks.parse().ok()).collect();
    if ticks.len() == 2 { Duration::from_millis(10 * (ticks[0] + ticks[1])) } else { clock }
}

/// The most memory that this process has had resident, in KB; 0 where Linux does not tell.
fn peak_memory() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or_default()
}

const N_CLIENTS: usize = 4;
/// Rounds appended.
const N_APPENDED: u32 = 256;
/// Rounds whose signatures are verified for the limit; more would only take longer.
const VERIFIED_MAX: u32 = 20_000;
