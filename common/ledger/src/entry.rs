//! The leaves: canonical text, one kind of entry a domain.
//!
//! The first line is the domain, then each field is a line `name: value` in the one order that `docs/ledger.md` draws.
//! Lines end with a line feed. The parser is strict: what it accepts is encoded to identical bytes. Nothing here counts
//! or measures private data: an entry says who took part, under pseudonyms, and with which public parameters.
//!
//! What grows with the cohort (participants with their counts, and the quorum's signatures) is no part of the leaf, which
//! the tile format limits to 65,535 bytes. It is the entry's attachment: a text of its own, named by its SHA-256 in the
//! leaf, and beside the log ([`EncodedEntry`]).
//!
//! The set of kinds is closed. A reader that meets a domain it does not know refuses the log rather than skip what may
//! matter.

use std::{fmt, str::FromStr};

use eranos_base::{
    Context, Digest, GraphKind, Position, RoundNumber, SessionId, Signature, StatementKind, TaskId, Timestamp,
    TrustDomain, VerifyingKey, encoding::Canonical, limits::COHORT_LEN_MAX,
};
use eranos_privacy::{
    ClientMechanism, Groups, Mechanism, MechanismError, Noise, Promise, RecordMechanism, RotationSeed, View,
    accountant, groups::Share,
};

use crate::{
    note::{LedgerKey, LedgerSigner, Origin},
    plan::PlanTerms,
    text::{ABSENT, LineReader, Lines, parse_f64, parse_hex, parse_u64},
    tile::ENTRY_LEN_MAX,
};

/// Longest attachment in bytes: a line for each of [`COHORT_LEN_MAX`] participants and one for the signature of each. An
/// auditor and a client hold one at a time.
pub const ATTACHMENT_LEN_MAX: usize = 64 + COHORT_LEN_MAX * (PARTICIPANT_LINE_LEN_MAX + SIGNATURE_LINE_LEN_MAX);
/// Longest version text in bytes.
pub const VERSION_LEN_MAX: usize = 64;

const DOMAIN_LOG_OPENED: &str = "eranos/ledger/v1 log-opened";
const DOMAIN_TASK_OPENED: &str = "eranos/ledger/v1 task-opened";
const DOMAIN_ATTEMPT: &str = "eranos/ledger/v1 attempt";
const DOMAIN_KEY_ROTATED: &str = "eranos/ledger/v1 key-rotated";
const DOMAIN_PARTICIPATION: &str = "eranos/ledger/v1 participation";

const PARTICIPANT_LINE_LEN_MAX: usize = "participant: 65535 ".len() + 64 + " 18446744073709551615\n".len();
const SIGNATURE_LINE_LEN_MAX: usize = "signature: 65535 ".len() + 128 + 1;

const NOISE: &str = "distributed discrete gaussian";
const LOCAL_NOISE: &str = "local discrete gaussian";
const NO_NOISE: &str = "none";
/// Epsilon where nothing is promised: without noise, and only there.
const INFINITE: &str = "infinite";
const ACCOUNTANT: &str = "renyi, integer orders";
/// The orders of [`accountant::ORDERS`], as an entry spells them.
const ORDERS: &str = "2-256,512,1024";

/// Why bytes were refused as an entry, or an entry cannot be written.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum EntryError {
    /// It is longer than a leaf may be.
    #[error("entry of {len} bytes, limit {ENTRY_LEN_MAX}")]
    Length {
        /// Its length.
        len: usize,
    },
    /// Its attachment is not the one that it names, or is missing, or it names none.
    #[error("its attachment is not the one that it names")]
    OtherAttachment,
    /// Its attachment is the one that it names, but malformed.
    #[error("attachment: {0}")]
    Attachment(Box<Self>),
    /// It is not UTF-8.
    #[error("entry is not UTF-8")]
    NotText,
    /// Its first line is no domain that this version knows.
    #[error("unknown kind of entry {found:?}")]
    Domain {
        /// The first line, cut short.
        found: String,
    },
    /// A line is not the field that its place calls for, or its value is not in the one form that such a value has.
    #[error("line {line} is not a well-formed {field:?}")]
    Field {
        /// The line, from 1.
        line: usize,
        /// The field expected there.
        field: &'static str,
    },
    /// A field differs from what follows from the others.
    #[error("line {line}, {field:?}, is not what the fields before it imply")]
    Derived {
        /// The line, from 1.
        line: usize,
        /// The field.
        field: &'static str,
    },
    /// Lines follow the last field.
    #[error("line {line} follows the last field")]
    Trailing {
        /// The line, from 1.
        line: usize,
    },
    /// The mechanism's bytes are refused.
    #[error("mechanism: {0}")]
    Mechanism(#[from] MechanismError),
    /// The parts of an attempt contradict each other.
    #[error("{what}")]
    Contradiction {
        /// What is wrong.
        what: &'static str,
    },
}

/// The kind of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EntryKind {
    /// The log's first entry.
    LogOpened,
    /// A task begins.
    TaskOpened,
    /// A round was attempted.
    Attempt,
    /// The log's key was exchanged.
    KeyRotated,
}

impl EntryKind {
    /// Every kind.
    pub const ALL: [Self; 4] = [Self::LogOpened, Self::TaskOpened, Self::Attempt, Self::KeyRotated];

    /// The first line of such an entry.
    pub const fn domain(self) -> &'static str {
        match self {
            Self::LogOpened => DOMAIN_LOG_OPENED,
            Self::TaskOpened => DOMAIN_TASK_OPENED,
            Self::Attempt => DOMAIN_ATTEMPT,
            Self::KeyRotated => DOMAIN_KEY_ROTATED,
        }
    }

    /// The kind whose domain is the first line of `entry`, whatever follows.
    pub fn of(entry: &[u8]) -> Option<Self> {
        let line = entry.split(|byte| *byte == b'\n').next()?;
        Self::ALL.into_iter().find(|kind| kind.domain().as_bytes() == line)
    }
}

impl fmt::Display for EntryKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::LogOpened => "log-opened",
            Self::TaskOpened => "task-opened",
            Self::Attempt => "attempt",
            Self::KeyRotated => "key-rotated",
        })
    }
}

/// One entry of the log.
#[derive(Clone, Debug, PartialEq)]
pub enum Entry {
    /// The log's first entry.
    LogOpened(LogOpened),
    /// A task begins.
    TaskOpened(Box<TaskOpened>),
    /// A round was attempted.
    Attempt(Box<Attempt>),
    /// The log's key was exchanged.
    KeyRotated(KeyRotated),
}

impl Entry {
    /// Its kind.
    pub const fn kind(&self) -> EntryKind {
        match self {
            Self::LogOpened(_) => EntryKind::LogOpened,
            Self::TaskOpened(_) => EntryKind::TaskOpened,
            Self::Attempt(_) => EntryKind::Attempt,
            Self::KeyRotated(_) => EntryKind::KeyRotated,
        }
    }

    /// The entry's one encoding.
    ///
    /// # Errors
    /// If the parts of an attempt contradict each other, or an epsilon is finite without noise or infinite with it.
    pub fn encode(&self) -> Result<EncodedEntry, EntryError> {
        let mut lines = Lines::new(self.kind().domain());
        let mut attachment = None;
        match self {
            Self::LogOpened(entry) => entry.write(&mut lines),
            Self::TaskOpened(entry) => {
                check_epsilons(&entry.mechanism, [entry.budget_epsilon])?;
                check_finite([entry.budget_delta])?;
                entry.write(&mut lines);
            }
            Self::Attempt(entry) => {
                entry.check()?;
                attachment = entry.roster.as_ref().map(Roster::participation);
                entry.write(&mut lines, attachment.as_deref().map(Digest::of));
            }
            Self::KeyRotated(entry) => entry.write(&mut lines),
        }
        let leaf = lines.finish().into_bytes();
        if leaf.len() > ENTRY_LEN_MAX {
            return Err(EntryError::Length { len: leaf.len() });
        }
        Ok(EncodedEntry { leaf, attachment })
    }

    /// Parses an entry.
    ///
    /// # Errors
    /// If leaf and attachment are not the encoding of an entry of a known kind.
    pub fn parse(leaf: &[u8], attachment: Option<&[u8]>) -> Result<Self, EntryError> {
        EntryParser::default().parse(leaf, attachment)
    }
}

/// An entry as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncodedEntry {
    /// What is hashed into the tree.
    pub leaf: Vec<u8>,
    /// What the leaf names by its SHA-256; at most [`ATTACHMENT_LEN_MAX`] bytes.
    pub attachment: Option<Vec<u8>>,
}

/// The attachment that `leaf` names, whether or not the rest of it is well-formed.
pub fn attachment_of(leaf: &[u8]) -> Option<Digest> {
    let value = leaf.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(b"attachment: "))?;
    parse_digest(str::from_utf8(value).ok()?)
}

/// Parses one leaf after another. It remembers the mechanism it saw last: checking one takes milliseconds, and the
/// attempts of a task all have the same.
#[derive(Debug, Default)]
pub struct EntryParser {
    last: Option<(Vec<u8>, Mechanism)>,
}

impl EntryParser {
    /// Parses an entry, as [`Entry::parse`] does.
    ///
    /// # Errors
    /// If leaf and attachment are not the encoding of an entry of a known kind.
    pub fn parse(&mut self, leaf: &[u8], attachment: Option<&[u8]>) -> Result<Entry, EntryError> {
        if leaf.len() > ENTRY_LEN_MAX {
            return Err(EntryError::Length { len: leaf.len() });
        }
        let text = str::from_utf8(leaf).map_err(|_| EntryError::NotText)?;
        let mut fields = Fields { lines: LineReader::new(text), line: 0, parser: self };
        let domain = fields.lines.line().unwrap_or_default();
        let Some(kind) = EntryKind::ALL.into_iter().find(|kind| kind.domain() == domain) else {
            return Err(EntryError::Domain { found: text.chars().take_while(|c| *c != '\n').take(64).collect() });
        };
        fields.line = 1;
        let entry = match kind {
            EntryKind::LogOpened => Entry::LogOpened(LogOpened::read(&mut fields)?),
            EntryKind::TaskOpened => Entry::TaskOpened(Box::new(TaskOpened::read(&mut fields)?)),
            EntryKind::Attempt => Entry::Attempt(Box::new(Attempt::read(&mut fields, attachment)?)),
            EntryKind::KeyRotated => Entry::KeyRotated(KeyRotated::read(&mut fields)?),
        };
        if kind != EntryKind::Attempt && attachment.is_some() {
            return Err(EntryError::OtherAttachment);
        }
        fields.finish()?;
        Ok(entry)
    }

    fn mechanism(&mut self, bytes: Vec<u8>) -> Result<Mechanism, MechanismError> {
        if let Some((last, mechanism)) = &self.last
            && *last == bytes
        {
            return Ok(mechanism.clone());
        }
        let mechanism = Mechanism::decode(&bytes)?;
        self.last = Some((bytes, mechanism.clone()));
        Ok(mechanism)
    }
}

/// The log's first entry: whose it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogOpened {
    /// The log.
    pub origin: Origin,
    /// The trust domain whose clients it is about.
    pub trust_domain: TrustDomain,
    /// The key that signs its checkpoints.
    pub ledger_key: LedgerKey,
    /// The day it was opened, UTC.
    pub date: Date,
}

impl LogOpened {
    fn write(&self, lines: &mut Lines) {
        lines.line("origin", &self.origin);
        lines.line("trust-domain", &self.trust_domain);
        lines.line("ledger-key", &self.ledger_key);
        lines.line("date", self.date);
    }

    fn read(fields: &mut Fields<'_, '_>) -> Result<Self, EntryError> {
        Ok(Self {
            origin: fields.parsed("origin")?,
            trust_domain: fields.parsed("trust-domain")?,
            ledger_key: fields.parsed("ledger-key")?,
            date: fields.parsed("date")?,
        })
    }
}

/// A task begins: everything about it that no attempt may change.
#[derive(Clone, Debug, PartialEq)]
pub struct TaskOpened {
    /// The task; a log opens each task once.
    pub task: TaskId,
    /// The nonce from which the session follows, with trust domain, origin and task.
    pub nonce: [u8; 32],
    /// The session.
    pub session: SessionId,
    /// SHA-256 of the model's canonical bytes.
    pub model: Digest,
    /// SHA-256 of the canonical bytes that say what a record is.
    pub data: Digest,
    /// SHA-256 of the first checkpoint's weights.
    pub weights: Digest,
    /// The mechanism of every attempt.
    pub mechanism: Mechanism,
    /// The budget's epsilon; infinite if the mechanism has no noise, and only then.
    pub budget_epsilon: f64,
    /// The budget's delta.
    pub budget_delta: f64,
}

impl TaskOpened {
    fn write(&self, lines: &mut Lines) {
        lines.line("task", &self.task);
        lines.line("nonce", hex::encode(self.nonce));
        lines.line("session", self.session);
        lines.line("model", self.model);
        lines.line("data", self.data);
        lines.line("weights", self.weights);
        write_mechanism(&self.mechanism, lines);
        lines.line("accountant", ACCOUNTANT);
        lines.line("orders", ORDERS);
        lines.line("budget-epsilon", Epsilon(self.budget_epsilon));
        lines.line("budget-delta", self.budget_delta);
    }

    fn read(fields: &mut Fields<'_, '_>) -> Result<Self, EntryError> {
        let (task, nonce) = (fields.parsed("task")?, fields.with("nonce", parse_hex)?);
        let session = SessionId(fields.digest("session")?);
        let (model, data, weights) = (fields.digest("model")?, fields.digest("data")?, fields.digest("weights")?);
        let mechanism = fields.mechanism()?;
        fields.exactly("accountant", ACCOUNTANT)?;
        fields.exactly("orders", ORDERS)?;
        let budget_epsilon = fields.epsilon("budget-epsilon", &mechanism)?;
        let budget_delta = fields.with("budget-delta", parse_f64)?;
        Ok(Self { task, nonce, session, model, data, weights, mechanism, budget_epsilon, budget_delta })
    }
}

/// One attempt at a round, whatever became of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Attempt {
    /// The task.
    pub task: TaskId,
    /// The session.
    pub session: SessionId,
    /// The round; rounds of a session strictly increase.
    pub round: RoundNumber,
    /// The task's attempts so far, this one included.
    pub attempts: u64,
    /// SHA-256 of the plan.
    pub plan: Digest,
    /// The coordinator's signature of the plan under its ledger key; see [`PlanTerms`].
    pub plan_signature: Signature,
    /// The program that arranged the round.
    pub executable: Executable,
    /// The mechanism; the task's.
    pub mechanism: Mechanism,
    /// Who shares keys with whom.
    pub graph: GraphKind,
    /// READY's slot.
    pub ready_slot_ms: u32,
    /// The longest wait of a client.
    pub phase_timeout_ms: u32,
    /// The public seed of the round's rotation.
    pub rotation_seed: RotationSeed,
    /// SHA-256 of the weights that the round began with.
    pub weights_before: Digest,
    /// The roster, where one was fixed.
    pub roster: Option<Roster>,
    /// How it ended.
    pub outcome: Outcome,
    /// What the task's attempts so far cost, by the promise of the plan.
    pub epsilons: Epsilons,
}

/// A program, as the coordinator reports it of itself. It proves nothing about what ran; it names what to compare with
/// a published build.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Executable {
    /// SHA-256 of the file.
    pub sha256: Digest,
    /// Its version.
    pub version: Version,
}

/// Who stood in a round, and how far it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Roster {
    /// R1, the roster's digest.
    pub digest: Digest,
    /// Who stood in it, by position.
    pub participants: Vec<Participant>,
    /// Who shared, where that was fixed.
    pub sharers: Option<Sharers>,
}

impl Roster {
    /// The attachment: who stood in it, and what they signed.
    fn participation(&self) -> Vec<u8> {
        let mut lines = Lines::new(DOMAIN_PARTICIPATION);
        for (position, Participant { pseudonym, attempts }) in self.participants.iter().enumerate() {
            lines.line("participant", format_args!("{position} {pseudonym} {attempts}"));
        }
        let survivors = self.sharers.as_ref().and_then(|sharers| sharers.survivors.as_ref());
        for (position, signature) in survivors.map(|survivors| survivors.signatures.as_slice()).unwrap_or_default() {
            lines.line("signature", format_args!("{position} {signature}"));
        }
        lines.finish().into_bytes()
    }
}

/// One member of a roster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Participant {
    /// Its statement key for this task: its pseudonym.
    pub pseudonym: VerifyingKey,
    /// In how many rosters of this task it has stood, this one included. Every one is charged, released or not.
    pub attempts: u64,
}

/// Those whose shares arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sharers {
    /// The root of U2.
    pub root: Digest,
    /// Who survived, where that was announced.
    pub survivors: Option<Survivors>,
}

/// Those whose vectors are in the sum.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Survivors {
    /// The bitmap of U3: position p is bit p mod 8, least significant first, of byte p / 8; it is the body of the
    /// consistency statements.
    pub bitmap: Vec<u8>,
    /// The consistency statements over it, by ascending position.
    pub signatures: Vec<(Position, Signature)>,
}

impl Survivors {
    /// How many survived.
    pub fn n(&self) -> u32 {
        self.bitmap.iter().map(|byte| byte.count_ones()).sum()
    }

    /// Whether the client at `position` survived.
    pub fn contains(&self, position: Position) -> bool {
        self.bitmap.get(position.index() / 8).is_some_and(|byte| byte >> (position.index() % 8) & 1 == 1)
    }
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The sum was unmasked and the weights updated.
    Released {
        /// SHA-256 of the new weights.
        weights_after: Digest,
    },
    /// Nothing was unmasked. Charged all the same.
    AbortedBeforeReveal,
    /// The sum may have been unmasked, but no new weights came of it.
    AbortedAfterReveal,
}

impl Outcome {
    /// Its name in an entry.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Released { .. } => "released",
            Self::AbortedBeforeReveal => "aborted-before-reveal",
            Self::AbortedAfterReveal => "aborted-after-reveal",
        }
    }

    /// Whether the sum counts as known to the coordinator.
    pub const fn reveals(&self) -> bool {
        !matches!(self, Self::AbortedBeforeReveal)
    }
}

/// Epsilon at the mechanism's delta, as promised (u_min survivors), in both views; infinite without noise.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Epsilons {
    /// The headline: the coordinator together with the colluders tolerated.
    pub coordinator: f64,
    /// Anyone who has no participant on their side.
    pub outsider: f64,
}

impl Epsilons {
    /// What `n_attempts` attempts of `mechanism` cost, by its promise.
    pub fn promised(mechanism: &Mechanism, n_attempts: u64) -> Self {
        PromisedCurves::new(mechanism).epsilons(n_attempts)
    }
}

/// The Renyi curves of one attempt, made once for a mechanism: converting the sum over any number of attempts is cheap.
#[derive(Clone, Debug)]
pub struct PromisedCurves {
    coordinator: accountant::RdpCurve,
    outsider: accountant::RdpCurve,
    cut_probability: f64,
    delta: f64,
}

impl PromisedCurves {
    /// Those of `mechanism`.
    pub fn new(mechanism: &Mechanism) -> Self {
        let u_min = u32::from(mechanism.common().u_min);
        // No shares would be an infinite divergence: nothing is claimed.
        let curve = |view| mechanism.curve(mechanism.shares(view, u_min).unwrap_or_default());
        Self {
            coordinator: curve(View::CoordinatorWithColluders),
            outsider: curve(View::Outsider),
            cut_probability: mechanism.cut_probability(),
            delta: mechanism.common().delta,
        }
    }

    /// What `n_attempts` attempts cost.
    pub fn epsilons(&self, n_attempts: u64) -> Epsilons {
        let epsilon = |curve| {
            let mut accountant = accountant::Accountant::new();
            accountant.compose_curve(curve, n_attempts, self.cut_probability);
            accountant.epsilon(self.delta)
        };
        Epsilons { coordinator: epsilon(&self.coordinator), outsider: epsilon(&self.outsider) }
    }
}

/// The log's key was exchanged: what follows, checkpoints and plans, is signed by the new one. Both keys sign, so nobody
/// takes over a log without its key, and nobody's key is put over a log that it never saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRotated {
    /// The key until now.
    pub old: LedgerKey,
    /// The key from this entry on: it signs the first checkpoint that covers the entry.
    pub new: LedgerKey,
    /// The old key's signature.
    pub old_signature: Signature,
    /// The new key's signature.
    pub new_signature: Signature,
}

/// Why a rotation is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RotationError {
    /// It does not start from the key in force.
    #[error("the key that it replaces is not the one in force")]
    OtherKey,
    /// The new key is of another log, or the old one again.
    #[error("the key that it begins is of another log, or the one in force already")]
    NewKey,
    /// The old key did not sign it, for this place in the log.
    #[error("the key in force did not sign it")]
    OldSignature,
    /// The new key did not sign it, for this place in the log.
    #[error("the key that it begins did not sign it")]
    NewSignature,
}

impl KeyRotated {
    /// The rotation as entry number `index` of the log whose key is `old`.
    pub fn sign(index: u64, old: &LedgerSigner, new: &LedgerSigner) -> Self {
        let statement = Self::statement(index, &old.ledger_key(), &new.ledger_key());
        Self {
            old: old.ledger_key(),
            new: new.ledger_key(),
            old_signature: old.signing_key().sign(&statement),
            new_signature: new.signing_key().sign(&statement),
        }
    }

    /// The key that is in force from entry `index` on, which this is, if `current` was before it.
    ///
    /// # Errors
    /// If it does not start from there, or one of the keys did not sign it.
    pub fn verify(&self, index: u64, current: &LedgerKey) -> Result<&LedgerKey, RotationError> {
        if self.old != *current {
            return Err(RotationError::OtherKey);
        }
        if self.new.name() != current.name() || self.new == *current {
            return Err(RotationError::NewKey);
        }
        let statement = Self::statement(index, &self.old, &self.new);
        self.old.key().verify(&statement, &self.old_signature).map_err(|_| RotationError::OldSignature)?;
        self.new.key().verify(&statement, &self.new_signature).map_err(|_| RotationError::NewSignature)?;
        Ok(&self.new)
    }

    /// What both sign: canonical encoding of origin, index, old key, new key.
    fn statement(index: u64, old: &LedgerKey, new: &LedgerKey) -> Vec<u8> {
        let canonical = Canonical::new("eranos/ledger/key-rotation/v1").text(old.name().as_str()).u64(index);
        canonical.field(&old.key().0).field(&new.key().0).finish()
    }

    fn write(&self, lines: &mut Lines) {
        lines.line("old-key", &self.old);
        lines.line("new-key", &self.new);
        lines.line("old-signature", self.old_signature);
        lines.line("new-signature", self.new_signature);
    }

    fn read(fields: &mut Fields<'_, '_>) -> Result<Self, EntryError> {
        Ok(Self {
            old: fields.parsed("old-key")?,
            new: fields.parsed("new-key")?,
            old_signature: Signature(fields.with("old-signature", parse_hex)?),
            new_signature: Signature(fields.with("new-signature", parse_hex)?),
        })
    }
}

impl Attempt {
    /// The terms of its plan, in the task that `task` opened in the log that `log` opened: what the plan's hash is of, and
    /// what the coordinator signed.
    pub fn plan_terms<'a>(&'a self, log: &'a LogOpened, task: &'a TaskOpened) -> PlanTerms<'a> {
        PlanTerms {
            trust_domain: &log.trust_domain,
            ledger_origin: log.origin.as_str(),
            task: &task.task,
            session_nonce: &task.nonce,
            round: self.round,
            model: task.model,
            data: task.data,
            checkpoint: self.weights_before,
            mechanism: &self.mechanism,
            graph: self.graph,
            rotation_seed: self.rotation_seed,
            ready_slot_ms: self.ready_slot_ms,
            phase_timeout_ms: self.phase_timeout_ms,
        }
    }

    /// Where in the protocol the consistency statements were made; none before U2 was fixed.
    pub fn context(&self) -> Option<Context> {
        let roster = self.roster.as_ref()?;
        let sharers = roster.sharers.as_ref()?;
        let context = Context::new(self.session, self.round, self.plan);
        Some(context.with_roster(roster.digest).with_sharers(sharers.root))
    }

    /// The survivors, where they were announced.
    pub fn survivors(&self) -> Option<&Survivors> {
        self.roster.as_ref()?.sharers.as_ref()?.survivors.as_ref()
    }

    /// The bytes that the consistency statement of the client at `position` covers.
    pub fn consistency_statement(&self, position: Position) -> Option<Vec<u8>> {
        let bitmap = &self.survivors()?.bitmap;
        Some(self.context()?.statement(StatementKind::Consistency, position, bitmap))
    }

    /// The quorum that a roster of this mechanism's f needs: floor((n1 + f)/2) + 1.
    pub fn quorum(mechanism: &Mechanism, n1: usize) -> usize {
        (n1 + usize::from(mechanism.common().max_colluders)) / 2 + 1
    }

    /// Refuses parts that contradict each other.
    fn check(&self) -> Result<(), EntryError> {
        let contradiction = |what| Err(EntryError::Contradiction { what });
        check_epsilons(&self.mechanism, [self.epsilons.coordinator, self.epsilons.outsider])?;
        if self.outcome.reveals() && self.survivors().is_none() {
            return contradiction("a sum was revealed without survivors");
        }
        let Some(roster) = &self.roster else { return Ok(()) };
        let n1 = roster.participants.len();
        if n1 == 0 || n1 > COHORT_LEN_MAX {
            return contradiction("the roster's size is out of range");
        }
        let Some(survivors) = self.survivors() else { return Ok(()) };
        let last_bits = survivors.bitmap.last().copied().unwrap_or_default();
        if survivors.bitmap.len() != n1.div_ceil(8) || (!n1.is_multiple_of(8) && last_bits >> (n1 % 8) != 0) {
            return contradiction("the survivors' bitmap is not one of the roster");
        }
        if !survivors.signatures.is_sorted_by(|(a, _), (b, _)| a < b) {
            return contradiction("a position signs twice, or out of order");
        }
        if survivors.signatures.iter().any(|(position, _)| position.index() >= n1) {
            return contradiction("a signature is by no position of the roster");
        }
        Ok(())
    }

    fn write(&self, lines: &mut Lines, attachment: Option<Digest>) {
        lines.line("task", &self.task);
        lines.line("session", self.session);
        lines.line("round", self.round);
        lines.line("attempts", self.attempts);
        lines.line("outcome", self.outcome.name());
        lines.line("plan", self.plan);
        lines.line("plan-signature", self.plan_signature);
        lines.line("executable", self.executable.sha256);
        lines.line("version", &self.executable.version);
        write_mechanism(&self.mechanism, lines);
        lines.line("graph", self.graph.name());
        lines.line("ready-slot-ms", self.ready_slot_ms);
        lines.line("phase-timeout-ms", self.phase_timeout_ms);
        lines.line("rotation-seed", hex::encode(self.rotation_seed.0));
        lines.line("weights-before", self.weights_before);
        let weights_after = match self.outcome {
            Outcome::Released { weights_after } => Some(weights_after),
            Outcome::AbortedBeforeReveal | Outcome::AbortedAfterReveal => None,
        };
        lines.optional("weights-after", weights_after);
        let roster = self.roster.as_ref();
        let survivors = self.survivors();
        let participants = roster.map(|roster| roster.participants.as_slice()).unwrap_or_default();
        lines.optional("n1", roster.map(|_| participants.len()));
        lines.optional("quorum", roster.map(|_| Self::quorum(&self.mechanism, participants.len())));
        lines.optional("roster", roster.map(|roster| roster.digest));
        lines.optional("sharers", roster.and_then(|roster| roster.sharers.as_ref()).map(|sharers| sharers.root));
        lines.optional("survivors", survivors.map(Survivors::n));
        lines.optional("bitmap", survivors.map(|survivors| hex::encode(&survivors.bitmap)));
        lines.optional("attachment", attachment);
        lines.line("epsilon-coordinator", Epsilon(self.epsilons.coordinator));
        lines.line("epsilon-outsider", Epsilon(self.epsilons.outsider));
    }

    fn read(fields: &mut Fields<'_, '_>, attachment: Option<&[u8]>) -> Result<Self, EntryError> {
        let task = fields.parsed("task")?;
        let session = SessionId(fields.digest("session")?);
        let round = RoundNumber(fields.with("round", parse_u64)?);
        let attempts = fields.with("attempts", parse_u64)?;
        let outcome_name = fields.value("outcome")?;
        let outcome_line = fields.line;
        let plan = fields.digest("plan")?;
        let plan_signature = Signature(fields.with("plan-signature", parse_hex)?);
        let executable = Executable { sha256: fields.digest("executable")?, version: fields.parsed("version")? };
        let mechanism = fields.mechanism()?;
        let graph = fields.with("graph", GraphKind::from_name)?;
        let (ready_slot_ms, phase_timeout_ms) = (fields.parsed("ready-slot-ms")?, fields.parsed("phase-timeout-ms")?);
        let rotation_seed = RotationSeed(fields.with("rotation-seed", parse_hex)?);
        let weights_before = fields.digest("weights-before")?;
        let weights_after = fields.optional("weights-after", parse_digest)?;
        let outcome = [Outcome::AbortedBeforeReveal, Outcome::AbortedAfterReveal]
            .into_iter()
            .chain([Outcome::Released { weights_after: weights_after.unwrap_or_default() }])
            .find(|outcome| outcome.name() == outcome_name)
            .ok_or(EntryError::Field { line: outcome_line, field: "outcome" })?;
        if weights_after.is_some() != matches!(outcome, Outcome::Released { .. }) {
            return Err(fields.derived("weights-after"));
        }
        let roster = read_roster(fields, &mechanism, attachment)?;
        let epsilons = Epsilons {
            coordinator: fields.epsilon("epsilon-coordinator", &mechanism)?,
            outsider: fields.epsilon("epsilon-outsider", &mechanism)?,
        };
        let attempt = Self {
            task,
            session,
            round,
            attempts,
            plan,
            plan_signature,
            executable,
            mechanism,
            graph,
            ready_slot_ms,
            phase_timeout_ms,
            rotation_seed,
            weights_before,
            roster,
            outcome,
            epsilons,
        };
        attempt.check()?;
        Ok(attempt)
    }
}

/// An epsilon as an entry spells it.
struct Epsilon(f64);

impl fmt::Display for Epsilon {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == f64::INFINITY { f.write_str(INFINITE) } else { self.0.fmt(f) }
    }
}

/// Refuses epsilons that do not belong to the mechanism's noise: without any they are infinite, and with it an infinite
/// one, as a mechanism's may be beyond its plan's attempts, has no place in an entry.
fn check_epsilons<const N: usize>(mechanism: &Mechanism, epsilons: [f64; N]) -> Result<(), EntryError> {
    if mechanism.has_noise() {
        return check_finite(epsilons);
    }
    let infinite = epsilons.iter().all(|epsilon| *epsilon == f64::INFINITY);
    if infinite { Ok(()) } else { Err(EntryError::Contradiction { what: "an epsilon is finite without noise" }) }
}

fn check_finite<const N: usize>(numbers: [f64; N]) -> Result<(), EntryError> {
    let sound = numbers.iter().all(|number| number.is_finite() && number.is_sign_positive());
    if sound { Ok(()) } else { Err(EntryError::Contradiction { what: "an epsilon or delta is no finite number" }) }
}

fn read_roster(
    fields: &mut Fields<'_, '_>,
    mechanism: &Mechanism,
    attachment: Option<&[u8]>,
) -> Result<Option<Roster>, EntryError> {
    let n1 = fields.optional("n1", parse_u64)?;
    let quorum = fields.optional("quorum", parse_u64)?;
    if quorum != n1.map(|n1| Attempt::quorum(mechanism, n1.min(1 << 16) as usize) as u64) {
        return Err(fields.derived("quorum"));
    }
    let digest = fields.optional("roster", parse_digest)?;
    if digest.is_some() != n1.is_some() {
        return Err(fields.derived("roster"));
    }
    let root = fields.optional("sharers", parse_digest)?;
    if root.is_some() && digest.is_none() {
        return Err(fields.derived("sharers"));
    }
    let n_survivors = fields.optional("survivors", parse_u64)?;
    if n_survivors.is_some() && root.is_none() {
        return Err(fields.derived("survivors"));
    }
    let bitmap = fields.optional("bitmap", |text| {
        let bytes = hex::decode(text).ok()?;
        (hex::encode(&bytes) == text).then_some(bytes)
    })?;
    let n_in_bitmap = bitmap.as_ref().map(|bitmap| bitmap.iter().map(|byte| u64::from(byte.count_ones())).sum());
    if n_in_bitmap != n_survivors {
        return Err(fields.derived("bitmap"));
    }
    let named = fields.optional("attachment", parse_digest)?;
    if named.is_some() != n1.is_some() {
        return Err(fields.derived("attachment"));
    }
    if named != attachment.map(Digest::of) {
        return Err(EntryError::OtherAttachment);
    }
    let (participants, signatures) = match attachment {
        Some(bytes) => read_participation(bytes, fields.parser, bitmap.is_some())
            .map_err(|error| EntryError::Attachment(Box::new(error)))?,
        None => (Vec::new(), Vec::new()),
    };
    if n1.unwrap_or_default() != participants.len() as u64 {
        return Err(fields.derived("n1"));
    }
    let survivors = bitmap.map(|bitmap| Survivors { bitmap, signatures });
    let sharers = root.map(|root| Sharers { root, survivors });
    Ok(digest.map(|digest| Roster { digest, participants, sharers }))
}

type Participation = (Vec<Participant>, Vec<(Position, Signature)>);

/// Reads an attempt's attachment; only one with survivors has signatures.
fn read_participation(
    bytes: &[u8],
    parser: &mut EntryParser,
    has_survivors: bool,
) -> Result<Participation, EntryError> {
    if bytes.len() > ATTACHMENT_LEN_MAX {
        return Err(EntryError::Length { len: bytes.len() });
    }
    let text = str::from_utf8(bytes).map_err(|_| EntryError::NotText)?;
    let mut fields = Fields { lines: LineReader::new(text), line: 1, parser };
    if fields.lines.line() != Some(DOMAIN_PARTICIPATION) {
        return Err(EntryError::Domain { found: text.chars().take_while(|c| *c != '\n').take(64).collect() });
    }
    // The attachment's own length bounds both lists.
    let (mut participants, mut signatures) = (Vec::new(), Vec::new());
    while let Some(value) = fields.next_if("participant") {
        let participant = positioned(value, participants.len() as u64).and_then(|rest| {
            let (pseudonym, attempts) = rest.split_once(' ')?;
            Some(Participant { pseudonym: VerifyingKey(parse_hex(pseudonym)?), attempts: parse_u64(attempts)? })
        });
        participants.push(participant.ok_or(EntryError::Field { line: fields.line, field: "participant" })?);
    }
    while let Some(value) = fields.next_if("signature") {
        let signature = value.split_once(' ').and_then(|(position, signature)| {
            let position = u16::try_from(parse_u64(position)?).ok()?;
            Some((Position(position), Signature(parse_hex(signature)?)))
        });
        signatures.push(signature.ok_or(EntryError::Field { line: fields.line, field: "signature" })?);
    }
    if !has_survivors && !signatures.is_empty() {
        return Err(fields.derived("signature"));
    }
    fields.finish()?;
    Ok((participants, signatures))
}

/// What follows `position` and a space.
fn positioned(value: &str, position: u64) -> Option<&str> {
    value.strip_prefix(position.to_string().as_str())?.strip_prefix(' ')
}

fn parse_digest(text: &str) -> Option<Digest> {
    parse_hex(text).map(Digest)
}

/// Writes the mechanism: its canonical bytes, and then everything that they say, for a person to read and for a reader
/// to hold against them.
fn write_mechanism(mechanism: &Mechanism, lines: &mut Lines) {
    lines.line("mechanism", hex::encode(mechanism.encode()));
    for (name, value) in mechanism_fields(mechanism) {
        lines.line(name, value);
    }
}

fn mechanism_fields(mechanism: &Mechanism) -> Vec<(&'static str, String)> {
    let common = mechanism.common();
    let (noise, variance) = match common.noise {
        Noise::Distributed(variance) => (NOISE, format!("{}/1024", variance.numerator())),
        Noise::Local(variance) => (LOCAL_NOISE, format!("{}/1024", variance.numerator())),
        Noise::None => (NO_NOISE, ABSENT.to_owned()),
    };
    let (clip, contribution) = match mechanism {
        Mechanism::Record(mechanism) => record_fields(mechanism),
        Mechanism::Client(mechanism) => client_fields(mechanism),
    };
    let mut fields = vec![
        ("unit", mechanism.unit().name().to_owned()),
        ("relation", mechanism.relation().to_owned()),
        ("noise", noise.to_owned()),
    ];
    fields.extend(clip);
    fields.extend(group_fields(&common.groups));
    fields.extend([
        ("n-parameters", common.n_parameters.to_string()),
        ("d-pad", common.d_pad.to_string()),
        ("sensitivity-squared", mechanism.sensitivity_squared().to_string()),
        ("noise-variance", variance),
        ("bits", common.bits.to_string()),
        ("u-min", common.u_min.to_string()),
        ("max-colluders", common.max_colluders.to_string()),
        ("n-max", common.n_max.to_string()),
    ]);
    fields.extend(contribution);
    fields.extend([("max-attempts", common.max_attempts.to_string()), ("delta", common.delta.to_string())]);
    fields
}

type MechanismFields = Vec<(&'static str, String)>;

/// What travels beside the gradient or update; nothing where it travels alone.
fn group_fields(groups: &Groups) -> MechanismFields {
    if groups.is_empty() {
        return Vec::new();
    }
    let share = |share: Share| format!("{}/1000000", share.millionths());
    let mut fields = vec![("model-share", share(groups.model))];
    fields.extend(groups.iter().map(|g| (g.subject.name(), format!("{} {}", g.bound, share(g.share)))));
    if let Some(adaptive) = groups.adaptive_clip {
        fields.extend([
            ("l2-clip-norm-min", adaptive.l2_clip_norm_min.to_string()),
            ("l2-clip-norm-max", adaptive.l2_clip_norm_max.to_string()),
        ]);
    }
    fields
}

/// How a record's gradient is clipped, and how many are in a sum.
fn record_fields(mechanism: &RecordMechanism) -> (MechanismFields, MechanismFields) {
    let p = mechanism.parameters();
    let q = p.sampling_probability;
    let clip = vec![
        ("l2-clip-norm", p.l2_clip_norm.to_string()),
        ("grid", p.grid.to_string()),
        ("shift", p.shift.to_string()),
    ];
    let sample = [
        ("sampling-probability", format!("{}/{}", q.numerator(), q.denominator())),
        ("expected-lot", p.expected_lot.to_string()),
        ("records-per-round", p.records_per_round.to_string()),
        ("record-bound", p.record_bound.to_string()),
    ];
    let steps = p.local.map(|local| {
        [
            ("local-steps", local.steps.to_string()),
            ("client-learning-rate", local.learning_rate.to_string()),
            ("update-clip-norm", local.update_clip_norm.to_string()),
        ]
    });
    let sample = sample.into_iter().chain(steps.into_iter().flatten()).collect();
    (clip, sample)
}

/// How a client's update is clipped, and how it comes about.
fn client_fields(mechanism: &ClientMechanism) -> (MechanismFields, MechanismFields) {
    let p = mechanism.parameters();
    let clip = vec![("l2-clip-norm", p.l2_clip_norm.to_string()), ("scaled-clip", p.scaled_clip.to_string())];
    let training = vec![
        ("local-steps", p.training.steps.to_string()),
        ("batch-size", p.training.batch_size.to_string()),
        ("client-learning-rate", p.training.learning_rate.to_string()),
    ];
    (clip, training)
}

/// A version: 1 to 64 letters, digits, dots, pluses and hyphens.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Version(String);

/// A text that is no version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a version, expected 1 to {VERSION_LEN_MAX} letters, digits, '.', '+' and '-'")]
pub struct VersionError;

impl FromStr for Version {
    type Err = VersionError;

    fn from_str(text: &str) -> Result<Self, VersionError> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'+' | b'-');
        let valid = (1..=VERSION_LEN_MAX).contains(&text.len()) && text.bytes().all(allowed);
        if valid { Ok(Self(text.to_owned())) } else { Err(VersionError) }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A day of the Gregorian calendar, as `YYYY-MM-DD`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Date {
    year: u16,
    month: u8,
    day: u8,
}

/// A text that is no day from 1970 to 9999.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a date, expected YYYY-MM-DD")]
pub struct DateError;

impl Date {
    /// The day of `timestamp`, UTC; at most 9999-12-31.
    pub fn of(timestamp: Timestamp) -> Self {
        let mut days = timestamp.unix_ms() / 86_400_000;
        let mut date = Self { year: 1970, month: 1, day: 1 };
        while date.year < 9999 {
            let len = if is_leap_year(date.year) { 366 } else { 365 };
            if days < len {
                break;
            }
            days -= len;
            date.year += 1;
        }
        while date.month < 12 && days >= u64::from(days_in(date.year, date.month)) {
            days -= u64::from(days_in(date.year, date.month));
            date.month += 1;
        }
        date.day = days.min(30) as u8 + 1;
        date
    }
}

const fn is_leap_year(year: u16) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

const fn days_in(year: u16, month: u8) -> u8 {
    match month {
        4 | 6 | 9 | 11 => 30,
        2 if is_leap_year(year) => 29,
        2 => 28,
        _ => 31,
    }
}

impl fmt::Display for Date {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}-{:02}-{:02}", self.year, self.month, self.day)
    }
}

impl FromStr for Date {
    type Err = DateError;

    fn from_str(text: &str) -> Result<Self, DateError> {
        let mut parts = text.splitn(3, '-');
        let mut part = || parts.next().and_then(|part| part.parse::<u16>().ok()).ok_or(DateError);
        let (year, month, day) = (part()?, part()?, part()?);
        if !(1970..=9999).contains(&year) || !(1..=12).contains(&month) {
            return Err(DateError);
        }
        let month = month as u8;
        if day == 0 || day > u16::from(days_in(year, month)) {
            return Err(DateError);
        }
        let date = Self { year, month, day: day as u8 };
        if date.to_string() == text { Ok(date) } else { Err(DateError) }
    }
}

/// The fields of one entry, read in their order.
struct Fields<'a, 'p> {
    lines: LineReader<'a>,
    /// The line read last, from 1.
    line: usize,
    parser: &'p mut EntryParser,
}

impl<'a> Fields<'a, '_> {
    fn next_if(&mut self, field: &'static str) -> Option<&'a str> {
        let value = self.lines.value(field)?;
        self.line += 1;
        Some(value)
    }

    fn value(&mut self, field: &'static str) -> Result<&'a str, EntryError> {
        let line = self.line + 1;
        self.next_if(field).ok_or(EntryError::Field { line, field })
    }

    /// A field in the form that `parse` accepts.
    fn with<T>(&mut self, field: &'static str, parse: impl FnOnce(&'a str) -> Option<T>) -> Result<T, EntryError> {
        let value = self.value(field)?;
        parse(value).ok_or(EntryError::Field { line: self.line, field })
    }

    fn optional<T>(
        &mut self,
        field: &'static str,
        parse: impl FnOnce(&'a str) -> Option<T>,
    ) -> Result<Option<T>, EntryError> {
        self.with(field, |value| if value == ABSENT { Some(None) } else { parse(value).map(Some) })
    }

    /// A field of a type whose `FromStr` accepts one spelling only; that it does is checked.
    fn parsed<T: FromStr + fmt::Display>(&mut self, field: &'static str) -> Result<T, EntryError> {
        self.with(field, |value| value.parse::<T>().ok().filter(|parsed| parsed.to_string() == value))
    }

    fn digest(&mut self, field: &'static str) -> Result<Digest, EntryError> {
        self.with(field, parse_digest)
    }

    /// An epsilon, of a sum with this mechanism's noise.
    fn epsilon(&mut self, field: &'static str, mechanism: &Mechanism) -> Result<f64, EntryError> {
        match mechanism.has_noise() {
            true => self.with(field, parse_f64),
            false => self.exactly(field, INFINITE).map(|()| f64::INFINITY),
        }
    }

    fn exactly(&mut self, field: &'static str, expected: &str) -> Result<(), EntryError> {
        let value = self.value(field)?;
        if value == expected { Ok(()) } else { Err(self.derived(field)) }
    }

    fn mechanism(&mut self) -> Result<Mechanism, EntryError> {
        let bytes = self.with("mechanism", |value| {
            let bytes = hex::decode(value).ok()?;
            (hex::encode(&bytes) == value).then_some(bytes)
        })?;
        let mechanism = self.parser.mechanism(bytes)?;
        for (field, expected) in mechanism_fields(&mechanism) {
            self.exactly(field, &expected)?;
        }
        Ok(mechanism)
    }

    fn derived(&self, field: &'static str) -> EntryError {
        EntryError::Derived { line: self.line, field }
    }

    fn finish(&self) -> Result<(), EntryError> {
        if self.lines.is_empty() { Ok(()) } else { Err(EntryError::Trailing { line: self.line + 1 }) }
    }
}
