//! One attempt at a round: the plan, who stood in its roster, what they signed, how it ended.

use eranos_base::{
    Context, Digest, GraphKind, Position, RoundNumber, SessionId, Signature, StatementKind, TaskId, VerifyingKey,
    limits::COHORT_LEN_MAX,
};
use eranos_privacy::{Mechanism, Promise, RotationSeed};

use crate::{
    entry::{
        EntryError, EntryParser, LogOpened, TaskOpened,
        epsilons::{Epsilon, Epsilons, check_epsilons},
        fields::{Fields, parse_digest},
        mechanism::write_mechanism,
        values::Version,
    },
    plan::PlanTerms,
    text::{LineReader, Lines, parse_hex, parse_u64},
};

/// Longest attachment in bytes: a line for each of [`COHORT_LEN_MAX`] participants and one for the signature of each. An
/// auditor and a client hold one at a time.
pub const ATTACHMENT_LEN_MAX: usize = 64 + COHORT_LEN_MAX * (PARTICIPANT_LINE_LEN_MAX + SIGNATURE_LINE_LEN_MAX);

const DOMAIN_PARTICIPATION: &str = "eranos/ledger/v1 participation";

const PARTICIPANT_LINE_LEN_MAX: usize = "participant: 65535 ".len() + 64 + " 18446744073709551615\n".len();
const SIGNATURE_LINE_LEN_MAX: usize = "signature: 65535 ".len() + 128 + 1;

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
    pub(super) fn participation(&self) -> Vec<u8> {
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
    pub(super) fn check(&self) -> Result<(), EntryError> {
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

    pub(super) fn write(&self, lines: &mut Lines, attachment: Option<Digest>) {
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

    pub(super) fn read(fields: &mut Fields<'_, '_>, attachment: Option<&[u8]>) -> Result<Self, EntryError> {
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
