//! The auditor, who trusts nobody: reads a copied log from its first entry to its last, recomputes every hash, every
//! quorum and every epsilon, and names the entry at which something does not hold.
//!
//! One pass, one bundle in memory at a time; what is kept grows with the number of tasks and pseudonyms, not with the
//! number of entries. What an audit cannot show is said in `docs/ledger.md`: that the keys of a quorum belong to
//! enrolled clients needs disclosed bindings, and that the log shown to the auditor is the one shown to the clients
//! needs one of their checkpoints ([`Options::known`]).

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fmt, fs, io,
    path::{Path, PathBuf},
};

use eranos_base::{Digest, Position, RoundNumber, SessionId, TaskId, Timestamp, VerifyingKey};
use eranos_privacy::{Mechanism, Noise, Promise, View, accountant::Accountant, budget::UnitOfPrivacy};

use crate::{
    cosignature::WitnessKey,
    entry::{
        Attempt, Entry, EntryError, EntryKind, EntryParser, Epsilons, Executable, LogOpened, Outcome, PromisedCurves,
        Roster, RotationError, TaskOpened, attachment_of,
    },
    log::{CHECKPOINT_FILE, describe, read_checkpoint},
    note::{Checkpoint, LedgerKey, NoteError, Origin, SignedCheckpoint, SignedNote},
    tile::{
        ATTACHMENTS, Folder, TILE_HEIGHT, TILE_LEVELS_MAX, TILE_WIDTH, Tile, TileError, TileKind, TileSource,
        attachment_path, complete_root, parse_entries, parse_hashes, rows,
    },
    tree::{Frontier, leaf_hash},
};

/// Findings that are kept in words; further ones are counted.
pub const FINDINGS_MAX: usize = 64;
/// Most tasks in one log; each takes a few kilobytes of the auditor's memory.
pub const TASKS_MAX: usize = 1 << 12;
/// Most pseudonyms in one log; each takes about a hundred bytes of the auditor's memory.
pub const PSEUDONYMS_MAX: usize = 1 << 22;
/// Different programs of one task that are kept; a task that is never restarted has one.
pub const EXECUTABLES_MAX: usize = 16;
/// Relative difference up to which a declared epsilon equals the recomputed one: the last digits of logarithms differ
/// between platforms.
pub const EPSILON_TOLERANCE: f64 = 1e-9;

/// Why a log could not be audited at all.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// A file or folder cannot be read.
    #[error("cannot read {path}: {source}", path = path.display())]
    Io {
        /// Its path.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// There is no checkpoint: this is no log.
    #[error("{path} has no checkpoint", path = path.display())]
    NotALog {
        /// The folder.
        path: PathBuf,
    },
}

/// What to hold a log against.
#[derive(Clone, Debug)]
pub struct Options {
    /// The ledger's pinned key.
    pub key: LedgerKey,
    /// A signed checkpoint seen elsewhere (a client's, a witness's, last year's), as its note's bytes: the log must
    /// continue it.
    pub known: Option<Vec<u8>>,
    /// The witnesses each of whom must have cosigned the checkpoint.
    pub witnesses: Vec<WitnessKey>,
}

impl Options {
    /// Held against its pinned key alone.
    pub const fn new(key: LedgerKey) -> Self {
        Self { key, known: None, witnesses: Vec::new() }
    }
}

/// What an audit found.
#[derive(Clone, Debug)]
pub struct Report {
    /// The checkpoint, if it is signed by the pinned key.
    pub checkpoint: Option<Checkpoint>,
    /// Who of the witnesses demanded has cosigned it, and when.
    pub witnessed: Vec<(Origin, Timestamp)>,
    /// What the log says of itself.
    pub opened: Option<LogOpened>,
    /// Entries read.
    pub n_entries: u64,
    /// The tasks, in the order in which they were opened.
    pub tasks: Vec<TaskSummary>,
    /// What does not hold; at most [`FINDINGS_MAX`].
    pub findings: Vec<Finding>,
    /// How many findings there are.
    pub n_findings: u64,
}

impl Report {
    /// Whether everything holds.
    pub const fn is_clean(&self) -> bool {
        self.n_findings == 0
    }

    /// Attempts in all tasks.
    pub fn n_attempts(&self) -> u64 {
        self.tasks.iter().map(|task| task.attempts).sum()
    }

    /// The tasks of which nothing is promised, since nobody adds noise in them.
    pub fn without_noise(&self) -> impl Iterator<Item = &TaskSummary> {
        self.tasks.iter().filter(|task| task.noise == Noise::None)
    }

    /// Released rounds in all tasks.
    pub fn n_released(&self) -> u64 {
        self.tasks.iter().map(|task| task.released).sum()
    }
}

/// What a log says of one task, recomputed.
#[derive(Clone, Debug)]
pub struct TaskSummary {
    /// The task.
    pub task: TaskId,
    /// The session.
    pub session: SessionId,
    /// What every epsilon here speaks of.
    pub unit: UnitOfPrivacy,
    /// Which two federations are neighbours.
    pub relation: &'static str,
    /// Who adds noise. Where nobody does, every epsilon here is infinite.
    pub noise: Noise,
    /// What it was opened with.
    pub opened: TaskOpened,
    /// The programs that arranged its rounds, as they report themselves; the first [`EXECUTABLES_MAX`] different ones.
    pub executables: Vec<Executable>,
    /// Attempts.
    pub attempts: u64,
    /// Attempts that released a model.
    pub released: u64,
    /// Attempts that ended before anything was unmasked.
    pub aborted_before_reveal: u64,
    /// Attempts that ended after the sum may have been unmasked.
    pub aborted_after_reveal: u64,
    /// Attempts that the plan allows.
    pub max_attempts: u64,
    /// Epsilon charged: every attempt, at the plan's promise.
    pub charged: Epsilons,
    /// Epsilon attained: every attempt with the survivors it had; those that revealed nothing count with u_min.
    pub attained: Epsilons,
    /// The delta of every epsilon here.
    pub delta: f64,
    /// The budget's epsilon.
    pub budget_epsilon: f64,
    /// SHA-256 of the weights last released.
    pub weights: Digest,
    /// Who took part, by pseudonym.
    pub pseudonyms: Vec<PseudonymSummary>,
    /// What any number of its attempts costs.
    pub(crate) curves: PromisedCurves,
}

/// What a log says of one pseudonym of a task, recomputed.
#[derive(Clone, Copy, Debug)]
pub struct PseudonymSummary {
    /// The statement key.
    pub pseudonym: VerifyingKey,
    /// Rosters in which it stood.
    pub attempts: u64,
    /// Sums that hold its vector and count as revealed.
    pub revealed: u64,
    /// Epsilon charged to it: every roster, at the plan's promise.
    pub charged: Epsilons,
}

/// Where in a log something does not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryRef {
    /// The entry's index, from 0.
    pub index: u64,
    /// Its kind, as far as its first line says.
    pub kind: Option<EntryKind>,
    /// Its round, as far as it says.
    pub round: Option<u64>,
}

impl EntryRef {
    fn of(index: u64, entry: &[u8]) -> Self {
        let (kind, round) = describe(entry);
        Self { index, kind, round }
    }

    const fn unread(index: u64) -> Self {
        Self { index, kind: None, round: None }
    }
}

impl fmt::Display for EntryRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "entry {}", self.index)?;
        match (self.kind, self.round) {
            (Some(kind), Some(round)) => write!(f, " ({kind}, round {round})"),
            (Some(kind), None) => write!(f, " ({kind})"),
            (None, _) => Ok(()),
        }
    }
}

/// Something that does not hold.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    /// The entry; none where it concerns the log as a whole.
    pub entry: Option<EntryRef>,
    /// What is wrong.
    pub fault: Fault,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.entry {
            Some(entry) => write!(f, "{entry}: {}", self.fault),
            None => write!(f, "the log: {}", self.fault),
        }
    }
}

/// What can be wrong with a log.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Fault {
    /// The checkpoint is malformed, of another log, or not signed by the pinned key.
    #[error("checkpoint: {0}")]
    Checkpoint(NoteError),
    /// The checkpoint known from elsewhere is none of this log's.
    #[error("known checkpoint: {0}")]
    KnownCheckpoint(NoteError),
    /// A witness that is demanded has a key that the log had itself.
    #[error("witness {name} has a key of the ledger itself")]
    WitnessIsLedger {
        /// The witness's name.
        name: Origin,
    },
    /// A witness has not cosigned the checkpoint.
    #[error("witness of the checkpoint: {0}")]
    Witness(NoteError),
    /// The log has fewer entries than a checkpoint that its key signed.
    #[error("its checkpoint covers {size} entries, but its key also signed one of {known}: entries were taken back")]
    Rewind {
        /// The log's size.
        size: u64,
        /// The size known.
        known: u64,
    },
    /// The log does not continue a checkpoint that its key signed.
    #[error("its first {size} entries have another root than the checkpoint of {size} that its key also signed")]
    Fork {
        /// The size known.
        size: u64,
    },
    /// A file is missing, malformed, has the wrong length or is not what its name says.
    #[error("{0}")]
    Tile(String),
    /// A leaf does not have the hash that its tile gives.
    #[error("is not what its hash in {path} stands for")]
    LeafHash {
        /// The tile.
        path: String,
    },
    /// A tile's row is not the root of the tile below.
    #[error("{path} does not follow from the entries below it")]
    TileHash {
        /// The tile.
        path: String,
    },
    /// The entries do not lead to the signed root.
    #[error("its {size} entries do not lead to the root of its checkpoint")]
    Root {
        /// The checkpoint's size.
        size: u64,
    },
    /// A file that belongs to no tile of this log.
    #[error("{path} is no file of a log")]
    UnexpectedFile {
        /// Its path below the log's folder.
        path: String,
    },
    /// Attachments that no entry under the checkpoint names.
    #[error("{ATTACHMENTS} holds {found} files, but its entries name {named}")]
    UnnamedAttachments {
        /// How many there are.
        found: u64,
        /// How many are named.
        named: u64,
    },
    /// A file beyond the checkpoint.
    #[error("{path} goes beyond the checkpoint of {size} entries: no signature covers it")]
    BeyondCheckpoint {
        /// Its path below the log's folder.
        path: String,
        /// The checkpoint's size.
        size: u64,
    },
    /// A superseded partial tile is not the beginning of the one that followed.
    #[error("{path} is not the beginning of the tile that followed it")]
    Superseded {
        /// Its path below the log's folder.
        path: String,
    },
    /// The leaf is not an entry.
    #[error("{0}")]
    Malformed(EntryError),
    /// The first entry is no log-opened, or a later one is.
    #[error("a log begins with log-opened and has it once")]
    Opening,
    /// The log-opened names another log or key.
    #[error("names {found}, but the pinned key is {expected}")]
    OtherLog {
        /// What the entry names.
        found: String,
        /// What is pinned.
        expected: String,
    },
    /// A task or session is opened twice.
    #[error("task {task} or its session was opened before")]
    TaskReopened {
        /// The task.
        task: TaskId,
    },
    /// The session does not follow from trust domain, origin, task and nonce.
    #[error("the session does not follow from trust domain, origin, task and nonce")]
    Session,
    /// An attempt of a task that was not opened, or of another session of it.
    #[error("task {task} was not opened in session {session}")]
    TaskNotOpened {
        /// The task.
        task: TaskId,
        /// The session.
        session: SessionId,
    },
    /// The mechanism's delta is not the budget's.
    #[error("the budget is at delta {budget}, the mechanism at {found}")]
    Delta {
        /// The budget's.
        budget: f64,
        /// The mechanism's.
        found: f64,
    },
    /// What the plan promises exceeds the budget.
    #[error("epsilon {epsilon} exceeds the declared budget of {budget}")]
    Budget {
        /// Epsilon, recomputed.
        epsilon: f64,
        /// The budget's.
        budget: f64,
    },
    /// An attempt has another mechanism than its task.
    #[error("its mechanism is not the task's")]
    Mechanism,
    /// What its fields say is not the plan whose hash it names.
    #[error("its plan is not {found}, which it names: other parameters were planned")]
    Plan {
        /// The hash in the entry.
        found: Digest,
    },
    /// The key in force did not sign its plan.
    #[error("its plan is not signed by the key in force")]
    PlanSignature,
    /// A rotation of the key is none.
    #[error("the key's rotation does not hold: {0}")]
    Rotation(RotationError),
    /// Rounds of the session do not run 1, 2, 3 and on.
    #[error("is round {found}, expected {expected}: a round is missing or repeated")]
    Round {
        /// The round of this attempt.
        found: RoundNumber,
        /// The round expected.
        expected: RoundNumber,
    },
    /// Attempts of the task are not counted up one by one.
    #[error("counts {found} attempts of its task, expected {expected}: an attempt is missing or repeated")]
    Attempts {
        /// The count in the entry.
        found: u64,
        /// The count expected.
        expected: u64,
    },
    /// More attempts than the plan allows.
    #[error("attempt {found} of a plan for {max}")]
    TooManyAttempts {
        /// The attempt.
        found: u64,
        /// What the plan allows.
        max: u64,
    },
    /// Two attempts of a task have one plan.
    #[error("its plan is that of the attempt before")]
    PlanReused,
    /// The round began with other weights than the last release left.
    #[error("began with weights {found}, but the last release left {expected}")]
    Weights {
        /// The weights in the entry.
        found: Digest,
        /// The weights expected.
        expected: Digest,
    },
    /// A roster larger than the mechanism's bits suffice for, or too small for u_min and the quorum.
    #[error("a roster of {n1} with u_min {u_min}, quorum {quorum} and n_max {n_max}")]
    RosterSize {
        /// The roster's size.
        n1: usize,
        /// The least number of survivors.
        u_min: u16,
        /// The quorum.
        quorum: usize,
        /// The largest roster.
        n_max: u16,
    },
    /// A pseudonym stands twice in a roster.
    #[error("pseudonym {pseudonym} stands twice in the roster")]
    PseudonymTwice {
        /// The pseudonym.
        pseudonym: VerifyingKey,
    },
    /// A pseudonym is no public key.
    #[error("pseudonym {pseudonym} is not an ed25519 public key")]
    PseudonymKey {
        /// The pseudonym.
        pseudonym: VerifyingKey,
    },
    /// A pseudonym of one task appears in another.
    #[error("pseudonym {pseudonym} belongs to another task")]
    PseudonymElsewhere {
        /// The pseudonym.
        pseudonym: VerifyingKey,
    },
    /// The attempts of a pseudonym are not counted up one by one.
    #[error("pseudonym {pseudonym} counts {found} attempts, expected {expected}")]
    PseudonymAttempts {
        /// The pseudonym.
        pseudonym: VerifyingKey,
        /// The count in the entry.
        found: u64,
        /// The count expected.
        expected: u64,
    },
    /// A sum was revealed over too few.
    #[error("{found} survivors, fewer than the {least} without whom nothing may be revealed")]
    Survivors {
        /// How many survived.
        found: u32,
        /// The least allowed: u_min, or the quorum if that is more.
        least: usize,
    },
    /// A consistency statement does not verify.
    #[error("the consistency statement of position {position} does not verify over these survivors")]
    Statement {
        /// The signer's position.
        position: Position,
    },
    /// A consistency statement by someone who is not among the survivors.
    #[error("position {position} signs for survivors among whom it is not")]
    Signer {
        /// The signer's position.
        position: Position,
    },
    /// Too few consistency statements.
    #[error("{found} valid consistency statements, but the quorum is {quorum}")]
    Quorum {
        /// How many verify.
        found: usize,
        /// The quorum.
        quorum: usize,
    },
    /// A declared epsilon is not what the parameters give.
    #[error("declares epsilon {declared} ({view}), but its parameters give {recomputed}")]
    Epsilon {
        /// Against whom.
        view: &'static str,
        /// What the entry says.
        declared: f64,
        /// What its parameters give.
        recomputed: f64,
    },
    /// More tasks or pseudonyms than an auditor keeps.
    #[error("more than {max} {what}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// The limit.
        max: usize,
    },
}

/// Audits the log in `dir` against `options`: structure, signature, every tile, every entry, every quorum, every
/// epsilon.
///
/// # Errors
/// If the folder cannot be read or holds no log. What is wrong with a log that can be read is in the report.
pub fn verify(dir: &Path, options: &Options) -> Result<Report, AuditError> {
    pass(dir, options, Some(Ledger::new(&options.key, None)))
}

/// Audits as [`verify`] does, and shows `seen` each well-formed entry on the way, whether or not it will hold.
///
/// # Errors
/// As [`verify`].
pub fn verify_seeing(
    dir: &Path,
    options: &Options,
    seen: &mut dyn FnMut(EntryRef, &Entry),
) -> Result<Report, AuditError> {
    pass(dir, options, Some(Ledger::new(&options.key, Some(seen))))
}

/// Audits only that the log in `dir` is one: signature, every tile, every hash, every file. What the entries say is not
/// looked at, so the report has no tasks. This is what a mirror needs.
///
/// # Errors
/// If the folder cannot be read or holds no log.
pub fn verify_structure(dir: &Path, options: &Options) -> Result<Report, AuditError> {
    pass(dir, options, None)
}

fn pass(dir: &Path, options: &Options, mut ledger: Option<Ledger<'_>>) -> Result<Report, AuditError> {
    let bytes = match read_checkpoint(dir) {
        Ok(Some(bytes)) => bytes,
        Ok(None) => return Err(AuditError::NotALog { path: dir.to_owned() }),
        Err(source) => return Err(AuditError::Io { path: dir.join(CHECKPOINT_FILE), source }),
    };
    let mut findings = Findings::default();
    let folder = Folder::new(dir);
    let keys = Keys::of(&folder, &bytes, &options.key)?;
    let checkpoint = match keys.open(&bytes) {
        Ok(signed) => signed,
        Err(fault) => {
            findings.add(None, Fault::Checkpoint(fault));
            // Without a signed size nothing below it means anything.
            return Ok(Report {
                checkpoint: None,
                witnessed: Vec::new(),
                opened: None,
                n_entries: 0,
                tasks: Vec::new(),
                n_findings: findings.n,
                findings: findings.kept,
            });
        }
    };
    let mut witnessed = Vec::new();
    for witness in &options.witnesses {
        if keys.keys.iter().any(|(_, key)| key.key() == witness.key()) {
            findings.add(None, Fault::WitnessIsLedger { name: witness.name().clone() });
            continue;
        }
        match witness.verify(checkpoint.note()) {
            Ok(at) => witnessed.push((witness.name().clone(), at)),
            Err(fault) => findings.add(None, Fault::Witness(fault)),
        }
    }
    let checkpoint = checkpoint.checkpoint().clone();
    let known = options.known.as_deref().and_then(|note| match keys.open(note) {
        Ok(signed) => Some(signed.checkpoint().clone()),
        Err(fault) => {
            findings.add(None, Fault::KnownCheckpoint(fault));
            None
        }
    });
    if let Some(known) = &known
        && known.size > checkpoint.size
    {
        findings.add(None, Fault::Rewind { size: checkpoint.size, known: known.size });
    }
    let mut structure = Structure::new(&folder, &checkpoint, known.as_ref());
    structure.read(ledger.as_mut(), &mut findings)?;
    if let Some(ledger) = &ledger {
        ledger.finish(&mut findings);
    }
    let found = walk(&folder, checkpoint.size, &mut findings)?;
    let named = structure.n_attachments;
    // No two attempts have the same counts of their participants, so no two entries name the same attachment; and each
    // that is named was read. Where the counts agree, the two sets are one, at no memory for either.
    if structure.frontier.size() == checkpoint.size && found > named {
        findings.add(None, Fault::UnnamedAttachments { found, named });
    }
    let n_entries = structure.frontier.size();
    let Findings { kept, n } = findings;
    let opened = ledger.as_ref().and_then(|ledger| ledger.opened.clone());
    let tasks = ledger.map(Ledger::summaries).unwrap_or_default();
    Ok(Report { checkpoint: Some(checkpoint), witnessed, opened, n_entries, tasks, findings: kept, n_findings: n })
}

/// The keys of a log, as its rotations exchanged them, from the one that it was opened with.
struct Keys {
    /// Each with the size of the first checkpoint that it signs; ascending, never empty.
    keys: Vec<(u64, LedgerKey)>,
}

impl Keys {
    /// The keys of the log whose checkpoint is `note`. Nothing in the log is believed yet but that each key signed its
    /// successor. Where these keys do not include the pinned one, that one alone is left.
    ///
    /// # Errors
    /// If a file cannot be read.
    fn of(folder: &Folder, note: &[u8], pinned: &LedgerKey) -> Result<Self, AuditError> {
        let alone = Self { keys: vec![(0, pinned.clone())] };
        let claimed = SignedNote::parse(note).ok().and_then(|note| Checkpoint::parse(note.text()).ok());
        let Some(Checkpoint { size, .. }) = claimed else { return Ok(alone) };
        let mut keys: Vec<(u64, LedgerKey)> = Vec::new();
        let mut first = 0;
        while let Some(tile) = Tile::of_row(TileKind::Entries, first, size) {
            let bytes = match folder.read(&tile) {
                Ok(bytes) => bytes,
                Err(TileError::Io { path, source }) => {
                    return Err(AuditError::Io { path: folder.path().join(path), source });
                }
                // The pass over the tree names it.
                Err(_) => break,
            };
            let Ok(leaves) = parse_entries(&tile, &bytes) else { break };
            for (index, leaf) in (first..).zip(leaves) {
                match (EntryKind::of(leaf), keys.last()) {
                    (Some(EntryKind::LogOpened), None) => {
                        if let Ok(Entry::LogOpened(opened)) = Entry::parse(leaf, None) {
                            keys.push((0, opened.ledger_key));
                        }
                    }
                    (Some(EntryKind::KeyRotated), Some((_, key))) => {
                        if let Ok(Entry::KeyRotated(rotation)) = Entry::parse(leaf, None)
                            && let Ok(new) = rotation.verify(index, key)
                        {
                            keys.push((index + 1, new.clone()));
                        }
                    }
                    _ => {}
                }
            }
            first += u64::from(tile.width);
        }
        Ok(if keys.iter().any(|(_, key)| key == pinned) { Self { keys } } else { alone })
    }

    /// The checkpoint that `note` is, if the key in force at its size signed it.
    fn open(&self, note: &[u8]) -> Result<SignedCheckpoint, NoteError> {
        let claimed = Checkpoint::parse(SignedNote::parse(note)?.text())?;
        let in_force = self.keys.iter().rev().find(|(from, _)| *from <= claimed.size).or(self.keys.first());
        let (_, key) = in_force.ok_or(NoteError::Checkpoint { what: "the log has no key" })?;
        SignedCheckpoint::open(note, key)
    }
}

#[derive(Default)]
struct Findings {
    kept: Vec<Finding>,
    n: u64,
}

impl Findings {
    fn add(&mut self, entry: Option<EntryRef>, fault: Fault) {
        self.n += 1;
        if self.kept.len() < FINDINGS_MAX {
            self.kept.push(Finding { entry, fault });
        }
    }
}

/// Reads the tree: entries against hash tiles, hash tiles against those below, the whole against the checkpoint, and each
/// entry's attachment against its name.
struct Structure<'a> {
    folder: &'a Folder,
    checkpoint: &'a Checkpoint,
    known: Option<&'a Checkpoint>,
    frontier: Frontier,
    /// The rows of the tile that is being filled at each level, recomputed.
    levels: [Vec<Digest>; TILE_LEVELS_MAX as usize],
    /// Attachments that entries name.
    n_attachments: u64,
}

impl<'a> Structure<'a> {
    fn new(folder: &'a Folder, checkpoint: &'a Checkpoint, known: Option<&'a Checkpoint>) -> Self {
        let (frontier, levels) = (Frontier::default(), Default::default());
        Self { folder, checkpoint, known, frontier, levels, n_attachments: 0 }
    }

    fn read(&mut self, mut ledger: Option<&mut Ledger<'_>>, findings: &mut Findings) -> Result<(), AuditError> {
        let size = self.checkpoint.size;
        self.compare_known(findings);
        while self.frontier.size() < size {
            let first = self.frontier.size();
            let Some(tile) = Tile::of_row(TileKind::Entries, first, size) else { break };
            let bytes = match self.folder.read(&tile) {
                Ok(bytes) => bytes,
                Err(error) => return self.stop(first, error, findings),
            };
            let entries = match parse_entries(&tile, &bytes) {
                Ok(entries) => entries,
                Err(error) => {
                    let index = if let TileError::Bundle { index, .. } = error { index } else { first };
                    return self.stop(index, error, findings);
                }
            };
            let hashes = self.read_hashes(Tile { kind: TileKind::Hashes { level: 0 }, ..tile }, findings)?;
            for (row, entry) in entries.iter().enumerate() {
                let at = EntryRef::of(first + row as u64, entry);
                let hash = leaf_hash(entry);
                if let Some((path, hashes)) = &hashes
                    && hashes.get(row) != Some(&hash)
                {
                    findings.add(Some(at), Fault::LeafHash { path: path.clone() });
                }
                self.levels[0].push(hash);
                self.frontier.push(hash);
                self.compare_known(findings);
                let attachment = self.read_attachment(at, entry, findings)?;
                if let Some(ledger) = &mut ledger {
                    ledger.take(at, entry, attachment.as_deref(), findings);
                }
            }
            self.close_full_tiles(findings)?;
        }
        // Level 0 was compared entry by entry; what is left above it are the partial tiles of the edge.
        for level in 1..TILE_LEVELS_MAX {
            let rows = std::mem::take(&mut self.levels[usize::from(level)]);
            if let Some(tile) = Tile::last(TileKind::Hashes { level }, size).filter(|_| !rows.is_empty()) {
                self.compare_tile(tile, &rows, findings)?;
            }
        }
        if self.frontier.root() != self.checkpoint.root {
            findings.add(None, Fault::Root { size });
        }
        if size == 0 && ledger.is_some() {
            findings.add(None, Fault::Opening);
        }
        Ok(())
    }

    /// Without the entries from `index` on nothing further can be computed.
    fn stop(&self, index: u64, error: TileError, findings: &mut Findings) -> Result<(), AuditError> {
        let fault = self.tile_fault(error)?;
        findings.add(Some(EntryRef::unread(index)), fault);
        Ok(())
    }

    /// A failure to read is the auditor's problem; a missing or malformed file is the log's.
    fn tile_fault(&self, error: TileError) -> Result<Fault, AuditError> {
        match error {
            TileError::Io { path, source } => Err(AuditError::Io { path: self.folder.path().join(path), source }),
            error => Ok(Fault::Tile(error.to_string())),
        }
    }

    fn read_hashes(&self, tile: Tile, findings: &mut Findings) -> Result<Option<(String, Vec<Digest>)>, AuditError> {
        match self.folder.read(&tile).and_then(|bytes| parse_hashes(&tile, &bytes)) {
            Ok(hashes) => Ok(Some((tile.path(), hashes))),
            Err(error) => {
                let TileKind::Hashes { level } = tile.kind else { return Ok(None) };
                let fault = self.tile_fault(error)?;
                let first = (tile.index << TILE_HEIGHT) << (TILE_HEIGHT * level);
                findings.add(Some(EntryRef::unread(first)), fault);
                Ok(None)
            }
        }
    }

    /// What the entry names as its attachment, if that is there and what its name says.
    fn read_attachment(
        &mut self,
        at: EntryRef,
        entry: &[u8],
        findings: &mut Findings,
    ) -> Result<Option<Vec<u8>>, AuditError> {
        let Some(digest) = attachment_of(entry) else { return Ok(None) };
        self.n_attachments += 1;
        match self.folder.read_attachment(&digest) {
            Ok(attachment) => Ok(Some(attachment)),
            Err(error) => {
                let fault = self.tile_fault(error)?;
                findings.add(Some(at), fault);
                Ok(None)
            }
        }
    }

    fn close_full_tiles(&mut self, findings: &mut Findings) -> Result<(), AuditError> {
        for level in 0..TILE_LEVELS_MAX {
            let rows = &mut self.levels[usize::from(level)];
            if rows.len() < usize::from(TILE_WIDTH) {
                break;
            }
            let rows = std::mem::take(rows);
            let kind = TileKind::Hashes { level };
            if level > 0
                && let Some(tile) = Tile::last(kind, self.frontier.size())
            {
                self.compare_tile(tile, &rows, findings)?;
            }
            if let Some(above) = self.levels.get_mut(usize::from(level) + 1) {
                above.push(complete_root(&rows));
            }
        }
        Ok(())
    }

    fn compare_tile(&self, tile: Tile, rows: &[Digest], findings: &mut Findings) -> Result<(), AuditError> {
        if let Some((path, found)) = self.read_hashes(tile, findings)?
            && found != rows
        {
            let TileKind::Hashes { level } = tile.kind else { return Ok(()) };
            // Names the first entry under the first row that differs.
            let row = found.iter().zip(rows).position(|(found, row)| found != row).unwrap_or_default() as u64;
            let first = ((tile.index << TILE_HEIGHT) + row) << (TILE_HEIGHT * level);
            findings.add(Some(EntryRef::unread(first)), Fault::TileHash { path });
        }
        Ok(())
    }

    fn compare_known(&self, findings: &mut Findings) {
        if let Some(known) = self.known
            && known.size == self.frontier.size()
            && known.root != self.frontier.root()
        {
            findings.add(None, Fault::Fork { size: known.size });
        }
    }
}

/// Looks at every file of the log's folder: each must be the checkpoint, a tile that the pass above has read, the
/// beginning of one, or an attachment. Gives the number of attachments.
fn walk(folder: &Folder, size: u64, findings: &mut Findings) -> Result<u64, AuditError> {
    const DEPTH_MAX: usize = 10;
    let mut n_attachments = 0;
    let mut pending = vec![(String::new(), 0)];
    while let Some((below, depth)) = pending.pop() {
        let dir = folder.path().join(&below);
        let io = |source| AuditError::Io { path: dir.clone(), source };
        let mut names: Vec<(String, fs::FileType, bool)> = Vec::new();
        for file in fs::read_dir(&dir).map_err(io)? {
            let file = file.map_err(io)?;
            let name = file.file_name();
            let separator = if below.is_empty() { "" } else { "/" };
            let path = format!("{below}{separator}{}", name.to_string_lossy());
            names.push((path, file.file_type().map_err(io)?, name.to_str().is_some()));
        }
        // The order of a report must not depend on the file system.
        names.sort_by(|(a, ..), (b, ..)| a.cmp(b));
        for (path, file_type, is_text) in names {
            if !is_text {
                // What is printed of its name is not its name: nothing can be opened by it.
                findings.add(None, Fault::UnexpectedFile { path });
            } else if file_type.is_dir() && depth < DEPTH_MAX {
                pending.push((path, depth + 1));
            } else if file_type.is_file() && is_attachment(&path) {
                n_attachments += 1;
            } else if path != CHECKPOINT_FILE || !file_type.is_file() {
                let tile = Tile::parse(&path).filter(|_| file_type.is_file());
                check_file(folder, path, tile, size, findings)?;
            }
        }
    }
    Ok(n_attachments)
}

/// Whether `path` is the one spelling of an attachment's.
fn is_attachment(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or_default();
    name.parse().is_ok_and(|digest: Digest| attachment_path(&digest) == path)
}

fn check_file(
    folder: &Folder,
    path: String,
    tile: Option<Tile>,
    size: u64,
    findings: &mut Findings,
) -> Result<(), AuditError> {
    let Some(tile) = tile else {
        findings.add(None, Fault::UnexpectedFile { path });
        return Ok(());
    };
    let first_row = tile.index << TILE_HEIGHT;
    let present = Tile::of_row(tile.kind, first_row, size);
    match present {
        Some(present) if present == tile => Ok(()),
        Some(present) if tile.width < present.width => {
            // A reader of an earlier checkpoint may still be using it.
            let bytes = |tile| match folder.read(tile) {
                Ok(bytes) => Ok(Some(bytes)),
                Err(TileError::Io { path, source }) => Err(AuditError::Io { path: folder.path().join(path), source }),
                Err(_) => Ok(None),
            };
            let whole = |narrow: &[u8]| match tile.kind {
                TileKind::Entries => parse_entries(&tile, narrow).is_ok(),
                TileKind::Hashes { .. } => parse_hashes(&tile, narrow).is_ok(),
            };
            let holds = match (bytes(&tile)?, bytes(&present)?) {
                (Some(narrow), Some(wide)) => wide.starts_with(&narrow) && whole(&narrow),
                // The pass over the tree has reported the wider one.
                (Some(_), None) => true,
                (None, _) => false,
            };
            if !holds {
                findings.add(first_entry(&tile), Fault::Superseded { path });
            }
            Ok(())
        }
        _ => {
            let row = first_row.max(rows(tile.kind, size));
            let entry = match tile.kind {
                TileKind::Entries => Some(EntryRef::unread(row)),
                TileKind::Hashes { level } => Some(EntryRef::unread(row << (TILE_HEIGHT * level))),
            };
            findings.add(entry, Fault::BeyondCheckpoint { path, size });
            Ok(())
        }
    }
}

fn first_entry(tile: &Tile) -> Option<EntryRef> {
    let height = match tile.kind {
        TileKind::Entries => 0,
        TileKind::Hashes { level } => TILE_HEIGHT * level,
    };
    Some(EntryRef::unread((tile.index << TILE_HEIGHT) << height))
}

/// What the entries mean: the state of every task, and what may follow.
struct Ledger<'a> {
    pinned: &'a LedgerKey,
    /// The key in force, from the one that the log was opened with on.
    key: LedgerKey,
    /// Whether the pinned key was in force once.
    is_pinned: bool,
    seen: Option<Seen<'a>>,
    parser: EntryParser,
    opened: Option<LogOpened>,
    tasks: Vec<Task>,
    by_name: HashMap<TaskId, usize>,
    sessions: HashSet<SessionId>,
    pseudonyms: HashMap<VerifyingKey, Pseudonym>,
}

/// Who is shown each well-formed entry.
type Seen<'a> = &'a mut dyn FnMut(EntryRef, &Entry);

struct Task {
    opened: TaskOpened,
    curves: PromisedCurves,
    attempts: u64,
    /// The highest round so far; 0 before the first.
    last_round: RoundNumber,
    last_plan: Option<Digest>,
    weights: Digest,
    released: u64,
    aborted_before_reveal: u64,
    aborted_after_reveal: u64,
    /// How many attempts revealed a sum over so many survivors; at most n_max different numbers.
    by_survivors: BTreeMap<u32, u64>,
    executables: Vec<Executable>,
}

struct Pseudonym {
    task: usize,
    attempts: u64,
    revealed: u64,
}

impl<'a> Ledger<'a> {
    fn new(pinned: &'a LedgerKey, seen: Option<Seen<'a>>) -> Self {
        Self {
            pinned,
            key: pinned.clone(),
            is_pinned: false,
            seen,
            parser: EntryParser::default(),
            opened: None,
            tasks: Vec::new(),
            by_name: HashMap::new(),
            sessions: HashSet::new(),
            pseudonyms: HashMap::new(),
        }
    }

    fn take(&mut self, at: EntryRef, leaf: &[u8], attachment: Option<&[u8]>, findings: &mut Findings) {
        let entry = match self.parser.parse(leaf, attachment) {
            Ok(entry) => entry,
            // That it is missing or another one was found when it was read.
            Err(EntryError::OtherAttachment) if attachment.is_none() => return,
            Err(error) => return findings.add(Some(at), Fault::Malformed(error)),
        };
        if let Some(seen) = &mut self.seen {
            seen(at, &entry);
        }
        let mut fault = |fault| findings.add(Some(at), fault);
        if (at.index == 0) != (entry.kind() == EntryKind::LogOpened) {
            fault(Fault::Opening);
        }
        match entry {
            Entry::LogOpened(opened) => {
                if opened.origin != *self.pinned.name() || opened.origin != *opened.ledger_key.name() {
                    fault(self.other_log(&opened));
                }
                if self.opened.is_none() {
                    self.key = opened.ledger_key.clone();
                    self.is_pinned = self.key == *self.pinned;
                    self.opened = Some(opened);
                }
            }
            Entry::KeyRotated(rotation) => match rotation.verify(at.index, &self.key) {
                Ok(new) => {
                    self.key = new.clone();
                    self.is_pinned |= self.key == *self.pinned;
                }
                Err(error) => fault(Fault::Rotation(error)),
            },
            Entry::TaskOpened(opened) => self.open_task(*opened, &mut fault),
            Entry::Attempt(attempt) => self.attempt(&attempt, &mut fault),
        }
    }

    fn other_log(&self, opened: &LogOpened) -> Fault {
        Fault::OtherLog {
            found: format!("{} and {}", opened.origin, opened.ledger_key),
            expected: format!("{} and {}", self.pinned.name(), self.pinned),
        }
    }

    /// What is known only at the end: whether the pinned key was ever this log's.
    fn finish(&self, findings: &mut Findings) {
        if let Some(opened) = self.opened.as_ref().filter(|opened| {
            !self.is_pinned && opened.origin == *self.pinned.name() && opened.origin == *opened.ledger_key.name()
        }) {
            let at = EntryRef { index: 0, kind: Some(EntryKind::LogOpened), round: None };
            findings.add(Some(at), self.other_log(opened));
        }
    }

    fn open_task(&mut self, opened: TaskOpened, fault: &mut dyn FnMut(Fault)) {
        if let Some(LogOpened { origin, trust_domain, .. }) = &self.opened
            && opened.session != SessionId::derive(trust_domain, origin.as_str(), &opened.task, &opened.nonce)
        {
            fault(Fault::Session);
        }
        if self.by_name.contains_key(&opened.task) || !self.sessions.insert(opened.session) {
            return fault(Fault::TaskReopened { task: opened.task });
        }
        if self.tasks.len() == TASKS_MAX {
            return fault(Fault::TooMany { what: "tasks", max: TASKS_MAX });
        }
        let p = opened.mechanism.common();
        if p.delta != opened.budget_delta {
            fault(Fault::Delta { budget: opened.budget_delta, found: p.delta });
        }
        let curves = PromisedCurves::new(&opened.mechanism);
        let epsilon = curves.epsilons(p.max_attempts.into()).coordinator;
        if exceeds(epsilon, opened.budget_epsilon) {
            fault(Fault::Budget { epsilon, budget: opened.budget_epsilon });
        }
        self.by_name.insert(opened.task.clone(), self.tasks.len());
        self.tasks.push(Task {
            curves,
            attempts: 0,
            last_round: RoundNumber(0),
            last_plan: None,
            weights: opened.weights,
            released: 0,
            aborted_before_reveal: 0,
            aborted_after_reveal: 0,
            by_survivors: BTreeMap::new(),
            executables: Vec::new(),
            opened,
        });
    }

    fn attempt(&mut self, attempt: &Attempt, fault: &mut dyn FnMut(Fault)) {
        let place = self.by_name.get(&attempt.task).copied();
        let Some((place, task)) = place.and_then(|place| Some((place, self.tasks.get_mut(place)?))) else {
            return fault(Fault::TaskNotOpened { task: attempt.task.clone(), session: attempt.session });
        };
        if attempt.session != task.opened.session {
            return fault(Fault::TaskNotOpened { task: attempt.task.clone(), session: attempt.session });
        }
        // An adaptive clip is each attempt's own; that it lies within the task's bounds, reading the entry has shown.
        if attempt.mechanism.session_bytes() != task.opened.mechanism.session_bytes() {
            fault(Fault::Mechanism);
        }
        if let Some(log) = &self.opened {
            let terms = attempt.plan_terms(log, &task.opened);
            if terms.digest() != attempt.plan {
                fault(Fault::Plan { found: attempt.plan });
            } else if self.key.key().verify(&terms.statement(), &attempt.plan_signature).is_err() {
                fault(Fault::PlanSignature);
            }
        }
        task.take(attempt, fault);
        let Some(roster) = &attempt.roster else { return };
        self.roster(place, attempt, roster, fault);
    }

    fn roster(&mut self, place: usize, attempt: &Attempt, roster: &Roster, fault: &mut dyn FnMut(Fault)) {
        let p = attempt.mechanism.common();
        let n1 = roster.participants.len();
        let quorum = Attempt::quorum(&attempt.mechanism, n1);
        if n1 > usize::from(p.n_max) || n1 < usize::from(p.u_min) || quorum > usize::from(p.u_min) {
            fault(Fault::RosterSize { n1, u_min: p.u_min, quorum, n_max: p.n_max });
        }
        let survivors = attempt.survivors();
        let mut seen = HashSet::with_capacity(n1);
        for (position, participant) in (0..).map(Position).zip(&roster.participants) {
            let pseudonym = participant.pseudonym;
            if !seen.insert(pseudonym) {
                fault(Fault::PseudonymTwice { pseudonym });
                continue;
            }
            if !self.pseudonyms.contains_key(&pseudonym) {
                if self.pseudonyms.len() == PSEUDONYMS_MAX {
                    fault(Fault::TooMany { what: "pseudonyms", max: PSEUDONYMS_MAX });
                    continue;
                }
                if pseudonym.check().is_err() {
                    fault(Fault::PseudonymKey { pseudonym });
                }
            }
            let state = self.pseudonyms.entry(pseudonym).or_insert(Pseudonym { task: place, attempts: 0, revealed: 0 });
            if state.task != place {
                fault(Fault::PseudonymElsewhere { pseudonym });
                continue;
            }
            state.attempts = state.attempts.saturating_add(1);
            if participant.attempts != state.attempts {
                let (found, expected) = (participant.attempts, state.attempts);
                fault(Fault::PseudonymAttempts { pseudonym, found, expected });
                // Goes on from the larger figure, so that one gap is one finding and nothing is under-counted.
                state.attempts = state.attempts.max(participant.attempts);
            }
            if attempt.outcome.reveals() && survivors.is_some_and(|survivors| survivors.contains(position)) {
                state.revealed += 1;
            }
        }
        let Some(survivors) = survivors else { return };
        let least = quorum.max(usize::from(p.u_min));
        if attempt.outcome.reveals() && (survivors.n() as usize) < least {
            fault(Fault::Survivors { found: survivors.n(), least });
        }
        let mut n_valid = 0;
        for (position, signature) in &survivors.signatures {
            let signer = roster.participants.get(position.index());
            let statement = attempt.consistency_statement(*position);
            let verifies = signer
                .zip(statement)
                .is_some_and(|(signer, statement)| signer.pseudonym.verify(&statement, signature).is_ok());
            match (verifies, survivors.contains(*position)) {
                (true, true) => n_valid += 1,
                (true, false) => fault(Fault::Signer { position: *position }),
                (false, _) => fault(Fault::Statement { position: *position }),
            }
        }
        if attempt.outcome.reveals() && n_valid < quorum {
            fault(Fault::Quorum { found: n_valid, quorum });
        }
    }

    fn summaries(self) -> Vec<TaskSummary> {
        let mut summaries: Vec<TaskSummary> = self.tasks.iter().map(Task::summary).collect();
        for (pseudonym, state) in self.pseudonyms {
            if let (Some(task), Some(summary)) = (self.tasks.get(state.task), summaries.get_mut(state.task)) {
                let charged = task.curves.epsilons(state.attempts);
                let Pseudonym { attempts, revealed, .. } = state;
                summary.pseudonyms.push(PseudonymSummary { pseudonym, attempts, revealed, charged });
            }
        }
        summaries.iter_mut().for_each(|task| task.pseudonyms.sort_by_key(|one| one.pseudonym));
        summaries
    }
}

impl Task {
    fn take(&mut self, attempt: &Attempt, fault: &mut dyn FnMut(Fault)) {
        let expected = self.last_round.next();
        if attempt.round != expected {
            fault(Fault::Round { found: attempt.round, expected });
        }
        // Goes on from the larger figure, so that one gap is one finding.
        self.last_round = self.last_round.max(attempt.round);
        self.attempts = self.attempts.saturating_add(1);
        if attempt.attempts != self.attempts {
            fault(Fault::Attempts { found: attempt.attempts, expected: self.attempts });
            self.attempts = self.attempts.max(attempt.attempts);
        }
        let max = u64::from(self.opened.mechanism.common().max_attempts);
        if self.attempts > max {
            fault(Fault::TooManyAttempts { found: self.attempts, max });
        }
        if self.executables.len() < EXECUTABLES_MAX && !self.executables.contains(&attempt.executable) {
            self.executables.push(attempt.executable.clone());
        }
        if self.last_plan.replace(attempt.plan) == Some(attempt.plan) {
            fault(Fault::PlanReused);
        }
        if attempt.weights_before != self.weights {
            fault(Fault::Weights { found: attempt.weights_before, expected: self.weights });
        }
        match attempt.outcome {
            Outcome::Released { weights_after } => {
                self.released += 1;
                self.weights = weights_after;
            }
            Outcome::AbortedBeforeReveal => self.aborted_before_reveal += 1,
            Outcome::AbortedAfterReveal => self.aborted_after_reveal += 1,
        }
        let survivors = attempt.survivors().filter(|_| attempt.outcome.reveals()).map_or(0, |survivors| survivors.n());
        let u_min = u32::from(self.opened.mechanism.common().u_min);
        // Fewer than u_min is a finding of its own, and nothing is claimed for it; the map's keys stay few.
        *self.by_survivors.entry(survivors.max(u_min).min(u16::MAX.into())).or_default() += 1;
        let recomputed = self.curves.epsilons(self.attempts);
        for (view, declared, recomputed) in [
            ("the coordinator with colluders", attempt.epsilons.coordinator, recomputed.coordinator),
            ("outsiders", attempt.epsilons.outsider, recomputed.outsider),
        ] {
            if exceeds(declared, recomputed) || exceeds(recomputed, declared) {
                fault(Fault::Epsilon { view, declared, recomputed });
            }
        }
        let budget = self.opened.budget_epsilon;
        if exceeds(recomputed.coordinator, budget) {
            fault(Fault::Budget { epsilon: recomputed.coordinator, budget });
        }
    }

    fn summary(&self) -> TaskSummary {
        let mechanism = &self.opened.mechanism;
        TaskSummary {
            task: self.opened.task.clone(),
            session: self.opened.session,
            unit: mechanism.unit(),
            relation: mechanism.relation(),
            noise: mechanism.common().noise,
            opened: self.opened.clone(),
            executables: self.executables.clone(),
            attempts: self.attempts,
            released: self.released,
            aborted_before_reveal: self.aborted_before_reveal,
            aborted_after_reveal: self.aborted_after_reveal,
            max_attempts: mechanism.common().max_attempts.into(),
            charged: self.curves.epsilons(self.attempts),
            attained: Epsilons {
                coordinator: self.attained(mechanism, View::CoordinatorWithColluders),
                outsider: self.attained(mechanism, View::Outsider),
            },
            delta: mechanism.common().delta,
            budget_epsilon: self.opened.budget_epsilon,
            weights: self.weights,
            pseudonyms: Vec::new(),
            curves: self.curves.clone(),
        }
    }

    fn attained(&self, mechanism: &Mechanism, view: View) -> f64 {
        let mut accountant = Accountant::new();
        for (survivors, n_attempts) in &self.by_survivors {
            let Some(shares) = mechanism.shares(view, *survivors) else { return f64::INFINITY };
            accountant.compose_curve(&mechanism.curve(shares), *n_attempts, mechanism.cut_probability());
        }
        accountant.epsilon(mechanism.common().delta)
    }
}

/// Whether `a` exceeds `b` by more than platforms differ. A NaN exceeds everything.
fn exceeds(a: f64, b: f64) -> bool {
    a.is_nan() || b.is_nan() || a > b + EPSILON_TOLERANCE * b.abs().max(1.0)
}
