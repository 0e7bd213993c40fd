//! What can be wrong with a log, and where.

use std::fmt;

use eranos_base::{Digest, Position, RoundNumber, SessionId, TaskId, VerifyingKey};

use crate::{
    entry::{Date, EntryError, EntryKind, RotationError},
    log::describe,
    note::{NoteError, Origin},
    tile::ATTACHMENTS,
};

/// Findings that are kept in words; further ones are counted.
pub const FINDINGS_MAX: usize = 64;

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
    pub(super) fn of(index: u64, entry: &[u8]) -> Self {
        let (kind, round) = describe(entry);
        Self { index, kind, round }
    }

    pub(super) const fn unread(index: u64) -> Self {
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
    /// A restoration in another place, or from this very log.
    #[error("a log says once, as its second entry, which other log it goes on from")]
    Restoration,
    /// The old log's key did not sign that this log goes on from it.
    #[error("the old log's key did not sign that this log goes on from it")]
    RestorationSignature,
    /// An entry says again what is in force already.
    #[error("says again what the ledger already says")]
    Repeated,
    /// A date before one that an earlier entry has.
    #[error("is dated {found}, but an earlier entry {before}")]
    Date {
        /// The date of this entry.
        found: Date,
        /// The date before.
        before: Date,
    },
    /// An attempt was arranged by another program than was stated.
    #[error("was arranged by the program {found}, but the one stated is {stated}")]
    OtherExecutable {
        /// SHA-256 in the attempt.
        found: Digest,
        /// SHA-256 stated before.
        stated: Digest,
    },
    /// The attempts that a client is allowed are not those that its epsilon allows.
    #[error("allows a client {declared} attempts, but its epsilon allows {allowed}")]
    ClientAttempts {
        /// What the entry says.
        declared: u64,
        /// What its epsilon gives.
        allowed: u64,
    },
    /// A client was selected beyond what one may be charged.
    #[error("pseudonym {pseudonym} stands in {found} rosters, but a client may stand in {max}")]
    ClientBudget {
        /// The pseudonym.
        pseudonym: VerifyingKey,
        /// Its attempts.
        found: u64,
        /// The most allowed.
        max: u64,
    },
    /// Two entries about members have one commitment.
    #[error("its commitment is that of entry {before}")]
    CommitmentTwice {
        /// The entry before.
        before: u64,
    },
    /// More certificates are renewed or revoked than there are.
    #[error("only {enrolled} clients were enrolled, with {certificates} certificates, of which {revoked} were revoked")]
    Membership {
        /// Clients enrolled before.
        enrolled: u64,
        /// Certificates that they came with.
        certificates: u64,
        /// How many of these were revoked.
        revoked: u64,
    },
    /// The first enrolment comes after a roster.
    #[error("enrols the ledger's first client after rosters of clients that nobody enrolled")]
    LateEnrolment,
    /// A roster of more clients than were enrolled.
    #[error("a roster of {n1}, but only {enrolled} clients were enrolled")]
    NotEnrolled {
        /// The roster's size.
        n1: usize,
        /// Clients enrolled before.
        enrolled: u64,
    },
    /// A model was published that the last released round did not release.
    #[error("publishes weights {weights} of round {round}, which are not what the last released round left")]
    Published {
        /// The round in the entry.
        round: RoundNumber,
        /// The weights in the entry.
        weights: Digest,
    },
    /// A privacy statement for another number of attempts.
    #[error("states a promise over {found} attempts, expected {expected}")]
    StatedAttempts {
        /// The count in the entry.
        found: u64,
        /// The count expected.
        expected: u64,
    },
    /// A privacy statement that the ledger does not lead to.
    #[error("its privacy statement has the SHA-256 {found}, but what the ledger says up to here has {recomputed}")]
    PrivacyStatement {
        /// The hash in the entry.
        found: Digest,
        /// The hash of the statement made anew.
        recomputed: Digest,
    },
    /// A privacy statement in words that this build does not know yet.
    #[error("its privacy statement is in wording {found}, which this build is too old to make anew")]
    Wording {
        /// The wording in the entry.
        found: u64,
    },
    /// Two attempts name one attachment.
    #[error("names the attachment of entry {before}: no two attempts have the same participants with the same counts")]
    AttachmentAgain {
        /// The entry that named it first.
        before: u64,
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

#[derive(Default)]
pub(super) struct Findings {
    pub(super) kept: Vec<Finding>,
    pub(super) n: u64,
}

impl Findings {
    pub(super) fn add(&mut self, entry: Option<EntryRef>, fault: Fault) {
        self.n += 1;
        if self.kept.len() < FINDINGS_MAX {
            self.kept.push(Finding { entry, fault });
        }
    }
}
