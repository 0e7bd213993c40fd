//! A small federation of seeded keys whose coordinator can be as dishonest as a test wants: it holds the ledger's key.

use std::{
    fs,
    path::Path,
    sync::{Arc, OnceLock},
};

use eranos_base::{
    Context, Digest, GraphKind, Position, RoundNumber, SessionId, Signature, SigningKey, StatementKind, TaskId,
    Timestamp, TrustDomain,
};
use eranos_ledger::{
    Attempt, BudgetSet, Checkpoint, Date, EncodedEntry, Entry, Epsilons, Executable, KeyRotated, LedgerSigner,
    LogOpened, LogRestored, MembershipChange, ModelPublished, Opening, Outcome, Participant, PrivacyStated,
    Restoration, Roster, Sharers, SignedCheckpoint, Survivors, TaskOpened, TaskStated,
    audit::{self, Fault, Options, Report},
    log::Edge,
    statement,
    tile::attachment_path,
};
use eranos_privacy::{
    Mechanism, Probability, Promise, RotationSeed,
    mechanism::{ClientTarget, LocalTraining, NoiseTarget, RecordTarget, design, design_client},
};

pub(crate) const N_CLIENTS: usize = 4;

/// f = 1, u_min = 3, so a roster of 4 has the quorum 3.
pub(crate) fn mechanism() -> Mechanism {
    static MECHANISM: OnceLock<Mechanism> = OnceLock::new();
    MECHANISM.get_or_init(|| mechanism_for(4.0)).clone()
}

pub(crate) fn mechanism_for(epsilon: f64) -> Mechanism {
    mechanism_with(NoiseTarget::Distributed { epsilon })
}

pub(crate) fn mechanism_with(noise: NoiseTarget) -> Mechanism {
    let target = RecordTarget {
        groups: eranos_privacy::Groups::default(),
        l2_clip_norm: 1.0,
        n_parameters: 1000,
        sampling_probability: Probability::new(1, 4).expect("valid"),
        expected_lot: 200,
        record_bound: 200,
        local: None,
        n_max: 255,
        u_min: 3,
        max_colluders: 1,
        max_attempts: 40,
        noise,
        delta: 1e-5,
    };
    design(&target).expect("reachable").into()
}

/// One with unit client, of a model of 16 parameters.
pub(crate) fn client_mechanism(noise: NoiseTarget) -> Mechanism {
    let target = ClientTarget {
        groups: eranos_privacy::Groups::default(),
        l2_clip_norm: 1.0,
        n_parameters: 16,
        n_max: 4,
        u_min: 3,
        max_colluders: 1,
        training: LocalTraining { steps: 3, batch_size: 8, learning_rate: 0.1 },
        max_attempts: 40,
        noise,
        delta: 1e-5,
    };
    design_client(&target).expect("reachable").into()
}

/// Takes attempts down as an honest coordinator would.
pub(crate) struct Federation {
    pub(crate) signer: Arc<LedgerSigner>,
    pub(crate) clients: Vec<SigningKey>,
    pub(crate) entries: Vec<Entry>,
    task: TaskId,
    session: SessionId,
    mechanism: Mechanism,
    weights: Digest,
    attempts: u64,
    stood: [u64; N_CLIENTS],
}

impl Federation {
    pub(crate) fn new() -> Self {
        Self::with_mechanism(mechanism())
    }

    pub(crate) fn with_mechanism(mechanism: Mechanism) -> Self {
        Self::with_origin("ledger.example.org", mechanism)
    }

    pub(crate) fn with_origin(origin: &str, mechanism: Mechanism) -> Self {
        let signer = LedgerSigner::new(origin.parse().expect("name"), SigningKey::from_seed(&[1; 32]));
        let trust_domain: TrustDomain = "example.org".parse().expect("name");
        let task: TaskId = "digits".parse().expect("name");
        let origin = signer.ledger_key().name().clone();
        let nonce = [9; 32];
        let session = SessionId::derive(&trust_domain, origin.as_str(), &task, &nonce);
        let weights = Digest::of(b"weights 0");
        let entries = vec![
            Entry::LogOpened(LogOpened {
                origin,
                trust_domain,
                ledger_key: signer.ledger_key(),
                date: Date::of(Timestamp::from_unix_ms(1_700_000_000_000)),
            }),
            Entry::TaskOpened(Box::new(TaskOpened {
                task: task.clone(),
                nonce,
                session,
                model: Digest::of(b"model"),
                data: Digest::of(b"data"),
                weights,
                budget_epsilon: if mechanism.has_noise() { 4.0 } else { f64::INFINITY },
                mechanism: mechanism.clone(),
                budget_delta: 1e-5,
            })),
        ];
        let clients = (0..N_CLIENTS).map(|i| SigningKey::from_seed(&[100 + i as u8; 32])).collect();
        let signer = Arc::new(signer);
        let (attempts, stood) = (0, [0; N_CLIENTS]);
        Self { signer, clients, entries, task, session, mechanism, weights, attempts, stood }
    }

    /// A log of a few attempts of every outcome: entries 2 to 6.
    pub(crate) fn with_history() -> Self {
        let mut federation = Self::new();
        federation.attempt("released", &[0, 1, 2, 3]);
        federation.attempt("released", &[0, 1, 3]);
        federation.attempt("aborted-before-reveal", &[0, 1]);
        federation.attempt("aborted-after-reveal", &[1, 2, 3]);
        federation.attempt("released", &[0, 1, 2, 3]);
        federation
    }

    /// The same, and then a key exchanged, entry 7, and one attempt more.
    pub(crate) fn with_rotation() -> Self {
        let mut federation = Self::with_history();
        federation.rotate(2);
        federation.attempt("released", &[0, 1, 2, 3]);
        federation
    }

    /// A log with an entry of every kind but a rotation: 2 what the operator says, 3 the budget, 4 to 7 enrolments, 8 an attempt,
    /// 9 a renewal, 10 an attempt, 11 a revocation, 12 the model, 13 the privacy statement.
    pub(crate) fn with_every_kind() -> Self {
        let mut federation = Self::new();
        let (task, session) = (federation.task.clone(), federation.session);
        let words = |text: &str| Some(text.parse().expect("words"));
        federation.entries.push(Entry::TaskStated(Box::new(TaskStated {
            task: task.clone(),
            session,
            date: day(1),
            executable: Executable { sha256: Digest::of(b"exe"), version: "0.1.0".parse().expect("version") },
            product: words("Handwritten *digits* <b>&amp;</b> `x`"),
            curator: words("Example Trust"),
            purpose: None,
            contact: words("privacy@example.org"),
        })));
        let client_epsilon_max = None;
        federation.entries.push(Entry::BudgetSet(BudgetSet {
            task: task.clone(),
            session,
            client_epsilon_max,
            client_attempts_max: 40,
        }));
        let openings = openings(&federation.signer);
        let entry = |place: usize| Entry::Membership(openings[place].membership());
        (0..4).for_each(|place| federation.entries.push(entry(place)));
        federation.attempt("released", &[0, 1, 2, 3]);
        federation.entries.push(entry(4));
        federation.attempt("released", &[0, 1, 3]);
        federation.entries.push(entry(5));
        federation.entries.push(Entry::ModelPublished(ModelPublished {
            task,
            session,
            round: RoundNumber(2),
            weights: federation.weights,
            file: Digest::of(b"file"),
        }));
        federation.state_privacy(day(2));
        federation
    }

    /// A log that goes on from a backup of another one, which had two attempts; three may have been lost. Entry 1 says so, 3 is
    /// an attempt.
    pub(crate) fn restored() -> Self {
        let mut federation = Self::new();
        let old = LedgerSigner::new("before.example.org".parse().expect("name"), SigningKey::from_seed(&[7; 32]));
        let restoration = Restoration {
            task: federation.task.clone(),
            date: day(1),
            old: Checkpoint { origin: old.ledger_key().name().clone(), size: 4, root: Digest::of(b"old root") },
            attempts_before: 2,
            attempts_lost: 3,
        };
        let restored = LogRestored::sign(restoration, &old, &federation.signer.ledger_key());
        federation.attempt("released", &[0, 1, 2, 3]);
        federation.entries.insert(1, Entry::LogRestored(Box::new(restored)));
        federation
    }

    /// Enters the privacy statement of what the entries say by now.
    pub(crate) fn state_privacy(&mut self, date: Date) {
        let report = self.audit();
        let statement = statement::entered(report.opened.as_ref(), &report.tasks[0]);
        self.entries.push(Entry::PrivacyStated(PrivacyStated {
            task: self.task.clone(),
            session: self.session,
            date,
            attempts: self.attempts,
            wording: statement::WORDING,
            statement: Digest::of(statement.as_bytes()),
        }));
    }

    pub(crate) fn attempt(&mut self, outcome: &str, survivors: &[u16]) {
        self.attempts += 1;
        self.stood.iter_mut().for_each(|n| *n += 1);
        let round = RoundNumber(self.attempts);
        let weights_before = self.weights;
        let outcome = match outcome {
            "released" => {
                self.weights = Digest::of(format!("weights {round}").as_bytes());
                Outcome::Released { weights_after: self.weights }
            }
            "aborted-before-reveal" => Outcome::AbortedBeforeReveal,
            _ => Outcome::AbortedAfterReveal,
        };
        let participants = self.clients.iter().zip(self.stood);
        let participants =
            participants.map(|(key, attempts)| Participant { pseudonym: key.verifying_key(), attempts }).collect();
        let bitmap = survivors.iter().fold(0, |bits, position| bits | 1 << position);
        let signers = survivors.iter().copied();
        let mut attempt = Attempt {
            task: self.task.clone(),
            session: self.session,
            round,
            attempts: self.attempts,
            plan: Digest::ZERO,
            plan_signature: Signature([0; 64]),
            executable: Executable { sha256: Digest::of(b"exe"), version: "0.1.0".parse().expect("version") },
            mechanism: self.mechanism.clone(),
            graph: GraphKind::Complete,
            ready_slot_ms: 250,
            phase_timeout_ms: 60_000,
            rotation_seed: RotationSeed([3; 32]),
            weights_before,
            roster: Some(Roster {
                digest: Digest::of(format!("roster {round}").as_bytes()),
                participants,
                sharers: Some(Sharers {
                    root: Digest::of(format!("sharers {round}").as_bytes()),
                    survivors: Some(Survivors { bitmap: vec![bitmap], signatures: Vec::new() }),
                }),
            }),
            outcome,
            epsilons: Epsilons::promised(&self.mechanism, self.attempts),
        };
        let (Entry::LogOpened(log), Entry::TaskOpened(task)) = (&self.entries[0], &self.entries[1]) else {
            panic!("a log and a task were opened")
        };
        let terms = attempt.plan_terms(log, task);
        let (plan, statement) = (terms.digest(), terms.statement());
        (attempt.plan, attempt.plan_signature) = (plan, self.signer.signing_key().sign(&statement));
        sign(&mut attempt, &self.clients, signers);
        self.entries.push(Entry::Attempt(Box::new(attempt)));
    }

    /// Exchanges the log's key for that of `seed`.
    pub(crate) fn rotate(&mut self, seed: u8) {
        let new = LedgerSigner::new(self.signer.ledger_key().name().clone(), SigningKey::from_seed(&[seed; 32]));
        let rotated = KeyRotated::sign(self.entries.len() as u64, &self.signer, &new);
        self.entries.push(Entry::KeyRotated(rotated));
        self.signer = Arc::new(new);
    }

    /// Changes the attempt that is entry `index`.
    pub(crate) fn change(&mut self, index: usize, change: impl FnOnce(&mut Attempt)) {
        match &mut self.entries[index] {
            Entry::Attempt(attempt) => change(attempt),
            other => panic!("entry {index} is {}", other.kind()),
        }
    }

    /// Plans entry `index` as it has become: signs its plan anew, and its survivors that plan.
    pub(crate) fn replan(&mut self, index: usize) {
        let (Entry::LogOpened(log), Entry::TaskOpened(task)) = (self.entries[0].clone(), self.entries[1].clone())
        else {
            panic!("a log and a task were opened")
        };
        let clients: Vec<SigningKey> = self.clients.iter().map(|key| SigningKey::from_seed(&key.seed())).collect();
        let signer = self.signer.clone();
        self.change(index, |attempt| {
            let terms = attempt.plan_terms(&log, &task);
            let (plan, statement) = (terms.digest(), terms.statement());
            (attempt.plan, attempt.plan_signature) = (plan, signer.signing_key().sign(&statement));
            let signers: Vec<u16> = survivors(attempt).signatures.iter().map(|(position, _)| position.0).collect();
            sign(attempt, &clients, signers.into_iter());
        });
    }

    pub(crate) fn change_task(&mut self, change: impl FnOnce(&mut TaskOpened)) {
        match &mut self.entries[1] {
            Entry::TaskOpened(opened) => change(opened),
            other => panic!("entry 1 is {}", other.kind()),
        }
    }

    pub(crate) fn encoded(&self) -> Vec<EncodedEntry> {
        self.entries.iter().map(|entry| entry.encode().expect("consistent")).collect()
    }

    pub(crate) fn options(&self) -> Options {
        Options::new(self.signer.ledger_key())
    }

    pub(crate) fn write(&self, dir: &Path) {
        write_log(dir, &self.encoded(), &self.signer);
    }

    pub(crate) fn audit(&self) -> Report {
        let dir = tempfile::tempdir().expect("a folder");
        self.write(dir.path());
        audit::verify(dir.path(), &self.options()).expect("readable")
    }
}

/// A day after the log was opened.
pub(crate) fn day(after: u64) -> Date {
    Date::of(Timestamp::from_unix_ms(1_700_000_000_000 + after * 86_400_000))
}

/// What opens the entries about members of [`Federation::with_every_kind`]: four enrolments, the first one's renewal, and the
/// revocation of the third.
pub(crate) fn openings(signer: &LedgerSigner) -> Vec<Opening> {
    let opening = |(change, client, certificate, salt): (MembershipChange, usize, &[u8], u8)| Opening {
        change,
        origin: signer.ledger_key().name().clone(),
        client: format!("spiffe://example.org/client/party-{client}").parse().expect("an identity"),
        certificate: Digest::of(certificate),
        salt: [salt; 32],
    };
    let enrolled = (0..4).map(|i| (MembershipChange::Enrolled, i, [b"0", b"1", b"2", b"3"][i].as_slice(), 1 + i as u8));
    let later = [(MembershipChange::Renewed, 0, b"new".as_slice(), 9), (MembershipChange::Revoked, 2, b"2", 10)];
    enrolled.chain(later).map(opening).collect()
}

/// Signs the attempt's survivors anew, by the clients at `signers`.
pub(crate) fn sign(attempt: &mut Attempt, clients: &[SigningKey], signers: impl Iterator<Item = u16>) {
    let signatures = signers
        .map(|position| {
            let position = Position(position);
            let statement = attempt.consistency_statement(position).expect("survivors");
            (position, clients[position.index()].sign(&statement))
        })
        .collect();
    survivors(attempt).signatures = signatures;
}

pub(crate) fn survivors(attempt: &mut Attempt) -> &mut Survivors {
    let sharers = attempt.roster.as_mut().and_then(|roster| roster.sharers.as_mut());
    sharers.and_then(|sharers| sharers.survivors.as_mut()).expect("survivors")
}

pub(crate) fn participants(attempt: &mut Attempt) -> &mut Vec<Participant> {
    &mut attempt.roster.as_mut().expect("a roster").participants
}

/// Writes any entries as a log that its key signed, without asking what they say.
pub(crate) fn write_log(dir: &Path, entries: &[EncodedEntry], signer: &LedgerSigner) {
    let mut edge = Edge::default();
    let mut files = Vec::new();
    for EncodedEntry { leaf, attachment } in entries {
        let tiles = edge.push(leaf).expect("short enough");
        files.extend(tiles.into_iter().map(|(tile, bytes)| (tile.path(), bytes)));
        files.extend(attachment.iter().map(|bytes| (attachment_path(&Digest::of(bytes)), bytes.clone())));
    }
    files.extend(edge.partial().into_iter().map(|(tile, bytes)| (tile.path(), bytes)));
    for (path, bytes) in files {
        let path = dir.join(path);
        fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
        fs::write(path, bytes).expect("written");
    }
    let origin = signer.ledger_key().name().clone();
    let checkpoint = Checkpoint { origin, size: edge.size(), root: edge.root() };
    let signed = SignedCheckpoint::sign(checkpoint, signer).expect("signs");
    fs::write(dir.join("checkpoint"), signed.note().encode()).expect("written");
}

/// The entry with `from` replaced by `to`, in its leaf or else in its attachment, which the leaf then names.
pub(crate) fn replaced(entry: &EncodedEntry, from: &str, to: &str) -> EncodedEntry {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("text");
    let leaf = text(&entry.leaf);
    if leaf.contains(from) {
        return EncodedEntry { leaf: leaf.replacen(from, to, 1).into_bytes(), ..entry.clone() };
    }
    let intact = entry.attachment.as_deref().expect("an attachment");
    assert!(text(intact).contains(from), "{from:?} is not in the entry");
    let changed = text(intact).replacen(from, to, 1).into_bytes();
    let (before, after) = (Digest::of(intact).to_string(), Digest::of(&changed).to_string());
    EncodedEntry { leaf: leaf.replace(&before, &after).into_bytes(), attachment: Some(changed) }
}

/// Every file below `dir`, sorted.
pub(crate) fn files(dir: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    let mut pending = vec![dir.to_owned()];
    while let Some(dir) = pending.pop() {
        for file in fs::read_dir(dir).expect("a folder") {
            let path = file.expect("a file").path();
            if path.is_dir() { pending.push(path) } else { found.push(path) }
        }
    }
    found.sort();
    found
}

pub(crate) fn copy(from: &Path, to: &Path) {
    for file in files(from) {
        let target = to.join(file.strip_prefix(from).expect("below"));
        fs::create_dir_all(target.parent().expect("a parent")).expect("a folder");
        fs::copy(file, target).expect("copied");
    }
}

/// Checks that exactly `expected` says no, and where.
#[track_caller]
pub(crate) fn assert_found(report: &Report, entry: Option<u64>, expected: impl Fn(&Fault) -> bool) {
    let found = report.findings.iter().any(|f| f.entry.as_ref().map(|at| at.index) == entry && expected(&f.fault));
    assert!(found, "not found at entry {entry:?}: {:#?}", report.findings);
}

/// The context of an attempt's statements, rebuilt from its fields and not from the code under test.
pub(crate) fn statement(attempt: &Attempt, position: u16) -> Vec<u8> {
    let roster = attempt.roster.as_ref().expect("a roster");
    let sharers = roster.sharers.as_ref().expect("sharers");
    let survivors = sharers.survivors.as_ref().expect("survivors");
    let context = Context::new(attempt.session, attempt.round, attempt.plan);
    let context = context.with_roster(roster.digest).with_sharers(sharers.root);
    context.statement(StatementKind::Consistency, Position(position), &survivors.bitmap)
}
