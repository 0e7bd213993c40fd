//! What the entries mean: the state of every task, what may follow, and every figure recomputed.

use std::collections::{BTreeMap, HashMap, HashSet};

use eranos_base::{Digest, Position, RoundNumber, SessionId, TaskId, VerifyingKey};
use eranos_privacy::{Mechanism, Promise, View, accountant::Accountant};

use crate::{
    audit::{
        fault::{EntryRef, Fault, Findings},
        summary::{PseudonymSummary, TaskSummary},
    },
    entry::{
        Attempt, Entry, EntryError, EntryKind, EntryParser, Epsilons, Executable, LogOpened, Outcome, PromisedCurves,
        Roster, TaskOpened,
    },
    note::LedgerKey,
};

/// Most tasks in one log; each takes a few kilobytes of the auditor's memory.
pub const TASKS_MAX: usize = 1 << 12;
/// Most pseudonyms in one log; each takes about a hundred bytes of the auditor's memory.
pub const PSEUDONYMS_MAX: usize = 1 << 22;
/// Different programs of one task that are kept; a task that is never restarted has one.
pub const EXECUTABLES_MAX: usize = 16;
/// Relative difference up to which a declared epsilon equals the recomputed one: the last digits of logarithms differ
/// between platforms.
pub const EPSILON_TOLERANCE: f64 = 1e-9;

/// What the entries mean: the state of every task, and what may follow.
pub(super) struct Ledger<'a> {
    pinned: &'a LedgerKey,
    /// The key in force, from the one that the log was opened with on.
    key: LedgerKey,
    /// Whether the pinned key was in force once.
    is_pinned: bool,
    seen: Option<Seen<'a>>,
    parser: EntryParser,
    pub(super) opened: Option<LogOpened>,
    tasks: Vec<Task>,
    by_name: HashMap<TaskId, usize>,
    sessions: HashSet<SessionId>,
    pseudonyms: HashMap<VerifyingKey, Pseudonym>,
}

/// Who is shown each well-formed entry.
pub(super) type Seen<'a> = &'a mut dyn FnMut(EntryRef, &Entry);

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
    pub(super) fn new(pinned: &'a LedgerKey, seen: Option<Seen<'a>>) -> Self {
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

    pub(super) fn take(&mut self, at: EntryRef, leaf: &[u8], attachment: Option<&[u8]>, findings: &mut Findings) {
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
    pub(super) fn finish(&self, findings: &mut Findings) {
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

    pub(super) fn summaries(self) -> Vec<TaskSummary> {
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
