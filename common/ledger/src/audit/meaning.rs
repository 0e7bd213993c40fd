//! What the entries mean: the state of every task, what may follow, and every figure recomputed.

use std::collections::{HashMap, HashSet};

use eranos_base::{Digest, Position, SessionId, TaskId, VerifyingKey};
use eranos_privacy::Promise;

use crate::{
    audit::{
        fault::{EntryRef, Fault, Findings},
        members::Members,
        summary::{PseudonymSummary, TaskSummary},
        task::{Task, exceeds},
    },
    entry::{
        Attempt, Entry, EntryError, EntryKind, EntryParser, LogOpened, LogRestored, Membership, PrivacyStated,
        PromisedCurves, Roster, TaskOpened,
    },
    note::LedgerKey,
    statement,
};

/// Most tasks in one log; each takes a few kilobytes of the auditor's memory.
pub const TASKS_MAX: usize = 1 << 12;
/// Most pseudonyms in one log; each takes about a hundred bytes of the auditor's memory.
pub const PSEUDONYMS_MAX: usize = 1 << 22;

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
    restored: Option<LogRestored>,
    tasks: Vec<Task>,
    by_name: HashMap<TaskId, usize>,
    sessions: HashSet<SessionId>,
    pseudonyms: HashMap<VerifyingKey, Pseudonym>,
    members: Members,
}

/// Who is shown each well-formed entry.
pub(super) type Seen<'a> = &'a mut dyn FnMut(EntryRef, &Entry);

struct Pseudonym {
    task: usize,
    attempts: u64,
    revealed: u64,
    /// The first and the last entry in whose roster it stood.
    entries: (u64, u64),
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
            restored: None,
            tasks: Vec::new(),
            by_name: HashMap::new(),
            sessions: HashSet::new(),
            pseudonyms: HashMap::new(),
            members: Members::default(),
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
            Entry::LogRestored(restored) => {
                let Some(opened) =
                    self.opened.as_ref().filter(|opened| at.index == 1 && opened.origin != *restored.old_key.name())
                else {
                    return fault(Fault::Restoration);
                };
                if restored.verify(&opened.ledger_key).is_err() {
                    fault(Fault::RestorationSignature);
                }
                if restored.date < opened.date {
                    fault(Fault::Date { found: restored.date, before: opened.date });
                }
                self.restored = Some(*restored);
            }
            Entry::KeyRotated(rotation) => match rotation.verify(at.index, &self.key) {
                Ok(new) => {
                    self.key = new.clone();
                    self.is_pinned |= self.key == *self.pinned;
                }
                Err(error) => fault(Fault::Rotation(error)),
            },
            Entry::TaskOpened(opened) => self.open_task(*opened, &mut fault),
            Entry::Attempt(attempt) => self.attempt(at, &attempt, &mut fault),
            Entry::TaskStated(stated) => {
                let opened_on = self.opened.as_ref().map(|opened| opened.date);
                if let Some(task) = self.task(&stated.task, stated.session, &mut fault) {
                    task.state(*stated, opened_on, &mut fault);
                }
            }
            Entry::BudgetSet(set) => {
                if let Some(task) = self.task(&set.task, set.session, &mut fault) {
                    task.set_budget(set, &mut fault);
                }
            }
            Entry::Membership(membership) => self.members.take(at.index, membership, &mut fault),
            Entry::ModelPublished(published) => {
                if let Some(task) = self.task(&published.task, published.session, &mut fault) {
                    task.publish(published, &mut fault);
                }
            }
            Entry::PrivacyStated(stated) => self.privacy_stated(at, stated, &mut fault),
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
        let restored = self.restored.clone().filter(|restored| restored.task == opened.task);
        self.tasks.push(Task::new(opened, restored, curves));
    }

    /// The task that an entry names, if it was opened in this session.
    fn task(&mut self, name: &TaskId, session: SessionId, fault: &mut dyn FnMut(Fault)) -> Option<&mut Task> {
        let place = self.by_name.get(name).copied();
        let task = place.and_then(|place| self.tasks.get_mut(place)).filter(|task| task.opened.session == session);
        if task.is_none() {
            fault(Fault::TaskNotOpened { task: name.clone(), session });
        }
        task
    }

    /// Makes the statement anew that the entry names, from what the ledger says up to here.
    fn privacy_stated(&mut self, at: EntryRef, stated: PrivacyStated, fault: &mut dyn FnMut(Fault)) {
        let log = self.opened.clone();
        let by_name = self.by_name.get(&stated.task).copied();
        let Some(task) = self.task(&stated.task, stated.session, fault) else { return };
        if !task.may_state(&stated, fault) {
            return;
        }
        let is_known = stated.wording == statement::WORDING;
        if is_known {
            let mut summary = task.summary();
            let members = std::mem::take(&mut task.members);
            summary.pseudonyms = members.iter().filter_map(|key| self.summary_of(key)).collect();
            summary.pseudonyms.sort_by_key(|one| one.pseudonym);
            let recomputed = Digest::of(statement::entered(log.as_ref(), &summary).as_bytes());
            if stated.statement != recomputed {
                fault(Fault::PrivacyStatement { found: stated.statement, recomputed });
            }
            if let Some(task) = by_name.and_then(|place| self.tasks.get_mut(place)) {
                task.members = members;
            }
        } else if stated.wording > statement::WORDING {
            fault(Fault::Wording { found: stated.wording });
        }
        if let Some(task) = by_name.and_then(|place| self.tasks.get_mut(place)) {
            task.privacy_stated = Some((at.index, stated, is_known));
        }
    }

    fn attempt(&mut self, at: EntryRef, attempt: &Attempt, fault: &mut dyn FnMut(Fault)) {
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
        self.roster(at, place, attempt, roster, fault);
    }

    fn roster(&mut self, at: EntryRef, place: usize, attempt: &Attempt, roster: &Roster, fault: &mut dyn FnMut(Fault)) {
        let p = attempt.mechanism.common();
        let n1 = roster.participants.len();
        let client_attempts_max = self.tasks.get(place).and_then(Task::client_attempts_max);
        self.members.check_roster(n1, fault);
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
                if let Some(task) = self.tasks.get_mut(place) {
                    task.members.push(pseudonym);
                }
            }
            let entries = (at.index, at.index);
            let new = Pseudonym { task: place, attempts: 0, revealed: 0, entries };
            let state = self.pseudonyms.entry(pseudonym).or_insert(new);
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
            state.entries.1 = at.index;
            if let Some(max) = client_attempts_max.filter(|max| state.attempts > *max) {
                fault(Fault::ClientBudget { pseudonym, found: state.attempts, max });
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

    /// What is known of a pseudonym.
    fn summary_of(&self, pseudonym: &VerifyingKey) -> Option<PseudonymSummary> {
        let Pseudonym { task, attempts, revealed, entries } = *self.pseudonyms.get(pseudonym)?;
        let charged = self.tasks.get(task)?.curves.epsilons(attempts);
        Some(PseudonymSummary { pseudonym: *pseudonym, attempts, revealed, entries, charged })
    }

    /// What is known of every task, and of the members.
    pub(super) fn summaries(self) -> (Vec<TaskSummary>, Vec<(u64, Membership)>) {
        let summary = |task: &Task| {
            let mut summary = task.summary();
            summary.pseudonyms = task.members.iter().filter_map(|key| self.summary_of(key)).collect();
            summary.pseudonyms.sort_by_key(|one| one.pseudonym);
            summary
        };
        let summaries = self.tasks.iter().map(summary).collect();
        (summaries, self.members.changes)
    }
}
