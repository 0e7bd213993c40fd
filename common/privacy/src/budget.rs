//! A client's durable budget for one data set, as bytes: an append-only log in which each record carries the hash of the one
//! before it. Its limit is on one unit of privacy; what was spent is known for each, since every release is charged to
//! both: a client-level one to records as the replacement of one, a record-level one to the client without bound.
//!
//! This module does no I/O. Every step is asked for ([`Budget::charge`] and its like), which yields an [`Append`]; the
//! client appends [`Append::bytes`] to its file, syncs it, and only then takes the step with [`Budget::commit`]. What
//! was spent is recomputed by the accountant from the charged events; nothing is ever refunded. One budget covers a data
//! set and a unit whatever the task, mode or certificate.
//!
//! As long as one mechanism alone is charged, whose attempts were fixed before the first of them, epsilon is that of so many
//! attempts. The second mechanism was chosen by somebody who had seen what the first one released. From there on a
//! [`RenyiFilter`] decides, which begins with the first mechanism; there it is proved that the limit holds. It is recorded with
//! the first charge, and stays what it was whatever filter a later version of this software would begin with.
//!
//! A charge without noise costs more than any limit: epsilon is infinite from then on, for this data set and for ever.
//! It is made only where the caller says that its policy allows it, and so is every later charge, with noise or without.
//!
//! Several processes may share one log, each for a session of its own: whoever holds the file's lock takes in what the
//! others wrote ([`Budget::read_on`]) before its own step. An attempt is reserved when its round is begun, so that
//! attempts under way add up: none is begun that could not be charged, once one is charged; until then each is held against the
//! order of its own mechanism, and the first charge may leave no room for another's. What is reserved may be given back while
//! the attempt is not charged, and is by the session's next round; what is charged never is. A round that was given back can be
//! neither begun again nor charged: whoever gives back what a dead process reserved need not ask whether its plan comes again.
//!
//! What stands in the file is in the private module `record`.

mod error;
mod record;

use std::collections::{HashMap, HashSet};

use eranos_base::{Digest, RoundNumber, SessionId, TaskId, limits::REASON_LEN_MAX};

use self::record::{Frame, frame, read_body, read_first, read_frame};
use crate::{
    accountant::{
        Accountant, RdpCurve,
        filter::{Planned, RenyiFilter},
    },
    mechanism::{Mechanism, Promise, View},
};

pub use self::{
    error::BudgetError,
    record::{Record, Reservation},
};

/// What one budget protects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum UnitOfPrivacy {
    /// One record, added or removed.
    Record = 0,
    /// One client, with all of its records.
    Client = 1,
}

impl UnitOfPrivacy {
    /// Its name in files, entries and reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Record => "record",
            Self::Client => "client",
        }
    }
}

/// What a budget is for, and how much there is.
#[derive(Clone, Debug, PartialEq)]
pub struct Terms {
    /// The unit that epsilon speaks of.
    pub unit: UnitOfPrivacy,
    /// The data set, by the client's own name for it; 1 to [`DATA_SET_LEN_MAX`] bytes.
    pub data_set: String,
    /// The most epsilon that may ever be charged.
    pub epsilon_limit: f64,
    /// The delta at which epsilon is stated.
    pub delta: f64,
}

/// What one session of a task has cost.
#[derive(Clone, Debug, PartialEq)]
pub struct SessionReport {
    /// The session.
    pub session: SessionId,
    /// Its task; not known of a session that only a log from before there were reservations tells of.
    pub task: Option<TaskId>,
    /// Its mechanism: that of its first charge, or what is reserved. None where nothing was.
    pub mechanism: Option<Mechanism>,
    /// Attempts charged.
    pub n_charged: u64,
    /// Those of them that are in the ledger as released.
    pub n_receipts: u64,
    /// The round whose attempt is reserved, and not charged yet.
    pub reserved: Option<RoundNumber>,
    /// Epsilon that its charges alone cost one record and one client, at the budget's delta.
    pub epsilon_spent: [f64; 2],
    /// The same to its mechanism's own unit, with the noise that the survivors of each released attempt added in truth:
    /// at most what was charged.
    pub epsilon_attained: Option<f64>,
    /// Attempts that its plan still has.
    pub attempts_left_by_plan: u32,
    /// How many of these the budget's limit allows.
    pub attempts_left: u32,
}

/// The state of a budget: what its log says.
#[derive(Clone, Debug)]
pub struct Budget {
    terms: Terms,
    n_records: u64,
    n_bytes: u64,
    head: Digest,
    /// What was charged to records, and to the client as a whole.
    accountants: [Accountant; 2],
    n_charged: u64,
    n_without_noise: u64,
    sessions: HashMap<SessionId, Session>,
    /// What the charges have to pass, since the first of them.
    filters: Option<Box<[RenyiFilter; 2]>>,
    /// Whether the log says so itself; else they follow from the first charge.
    filters_recorded: bool,
    /// Every mechanism that was reserved or charged, by the digest of its encoding. One whose clip adapts is one mechanism:
    /// what each attempt costs was fixed before the first.
    mechanisms: HashMap<Digest, Known>,
}

/// A step that has been checked but not taken: bytes for the end of the file.
#[derive(Clone, Debug)]
#[must_use = "a step counts only when its bytes are durable and it is committed"]
pub struct Append {
    record: Record,
    index: u64,
    previous: Digest,
    head: Digest,
    bytes: Vec<u8>,
}

impl Append {
    /// The bytes to append, and to sync, before anything that the step allows is done.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The record.
    pub fn record(&self) -> &Record {
        &self.record
    }
}

/// A beginning of a record at the end of a file: a write that a crash cut off, which nothing was done upon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TornTail {
    /// To how many bytes the file is to be cut before anything is appended.
    pub len_valid: u64,
    /// How many bytes that drops.
    pub n_bytes: u64,
}

impl Budget {
    /// A new budget, and the first bytes of its file.
    ///
    /// # Errors
    /// If the terms are out of range.
    pub fn create(terms: Terms) -> Result<(Self, Vec<u8>), BudgetError> {
        check_terms(&terms)?;
        let (bytes, head) = frame(0, &Digest::ZERO, &Record::Created(terms.clone()));
        Ok((Self::first(terms, head, bytes.len()), bytes))
    }

    /// Reads a whole file: the state that its records amount to, and the torn record at its end if there is one.
    ///
    /// Every record is checked as if it were asked for again, so that a file which no sequence of steps could have
    /// written is damaged too.
    ///
    /// # Errors
    /// If anything in it is damaged, or not even the first record is complete.
    pub fn parse(file: &[u8]) -> Result<(Self, Option<TornTail>), BudgetError> {
        let first = read_first(file).map_err(|what| BudgetError::Damaged { offset: 0, index: 0, what })?;
        let mut budget = first.ok_or(BudgetError::Empty)?;
        let torn = budget.read_on(file.get(budget.n_bytes as usize..).unwrap_or_default())?;
        Ok((budget, torn))
    }

    /// Takes in what follows in the file after the first [`Budget::n_bytes`], which another process may have written.
    /// Gives the torn record at the end, if there is one.
    ///
    /// # Errors
    /// If anything in it is damaged; the records before the damage are taken in.
    pub fn read_on(&mut self, rest: &[u8]) -> Result<Option<TornTail>, BudgetError> {
        let mut at = 0;
        let mut mechanisms = HashMap::new();
        while let Some(bytes) = rest.get(at..).filter(|bytes| !bytes.is_empty()) {
            let (index, previous, offset) = (self.n_records, self.head, self.n_bytes as usize);
            let damaged = |what: String| BudgetError::Damaged { offset, index, what };
            let (body, head, len) = match read_frame(bytes, index, &previous) {
                Frame::Whole { body, head, len } => (body, head, len),
                Frame::Torn => {
                    return Ok(Some(TornTail { len_valid: self.n_bytes, n_bytes: bytes.len() as u64 }));
                }
                Frame::Damaged(what) => return Err(damaged(what.to_owned())),
            };
            let record = read_body(body, index, &previous, &mut mechanisms).map_err(|e| damaged(e.to_string()))?;
            // The limit is not asked again: a charge that was made counts, whatever an accountant says today.
            self.check(&record).map_err(|e| damaged(e.to_string()))?;
            self.apply(&record, head, len);
            at += len;
        }
        Ok(None)
    }

    /// What the budget is for.
    pub fn terms(&self) -> &Terms {
        &self.terms
    }

    /// How many records the log has.
    pub fn n_records(&self) -> u64 {
        self.n_records
    }

    /// How many bytes of the file they are.
    pub fn n_bytes(&self) -> u64 {
        self.n_bytes
    }

    /// The hash of the last record: the head of the chain.
    pub fn head(&self) -> Digest {
        self.head
    }

    /// How many attempts were ever charged.
    pub fn n_charged(&self) -> u64 {
        self.n_charged
    }

    /// How many of them had no noise. If any had none, nothing is promised of this data set any more.
    pub fn n_without_noise(&self) -> u64 {
        self.n_without_noise
    }

    /// How many attempts of `session` were charged.
    pub fn n_charged_in(&self, session: SessionId) -> u64 {
        self.sessions.get(&session).map_or(0, |s| s.charged.len() as u64)
    }

    /// How many of the charged attempts have a receipt.
    pub fn n_receipts(&self) -> u64 {
        self.sessions.values().map(|s| s.receipts.len() as u64).sum()
    }

    /// The last round of `session` that was begun.
    pub fn last_begun(&self, session: SessionId) -> Option<RoundNumber> {
        self.sessions.get(&session).map(|s| s.last_begun)
    }

    /// A session's last round, if it was begun and its attempt is neither charged nor given back: its keys may have left,
    /// its vector has not.
    pub fn begun_uncharged(&self) -> Option<(SessionId, RoundNumber)> {
        let mut last = self.sessions.iter().map(|(session, s)| (s, (*session, s.last_begun)));
        last.find(|(s, (_, round))| s.begun.contains(round) && !s.charged.contains(round)).map(|(_, place)| place)
    }

    /// The attempts that are reserved, and not charged: one a session at most.
    pub fn reservations(&self) -> Vec<(SessionId, RoundNumber)> {
        self.sessions.iter().filter_map(|(id, session)| Some((*id, session.reserved?.0))).collect()
    }

    /// Whether the attempt of this round is reserved, and not charged.
    pub fn is_reserved(&self, session: SessionId, round: RoundNumber) -> bool {
        self.sessions.get(&session).and_then(|s| s.reserved).is_some_and(|(reserved, _)| reserved == round)
    }

    /// What each session has cost, in the order in which they were begun.
    pub fn sessions(&self) -> Vec<SessionReport> {
        let mut sessions: Vec<_> = self.sessions.iter().collect();
        sessions.sort_by_key(|(_, session)| session.first_record);
        sessions.into_iter().map(|(id, session)| self.session_report(*id, session)).collect()
    }

    fn session_report(&self, id: SessionId, session: &Session) -> SessionReport {
        let key = session.mechanism.or(session.reserved.map(|(_, key)| key));
        let known = key.and_then(|key| self.mechanisms.get(&key));
        let n_charged = session.charged.len() as u64;
        let epsilon_spent = [UnitOfPrivacy::Record, UnitOfPrivacy::Client].map(|unit| match known {
            Some(known) if n_charged > 0 => {
                let mut accountant = Accountant::new();
                let curve = &known.curves[unit as usize];
                accountant.compose_curve(curve, n_charged, known.mechanism.cut_probability());
                accountant.epsilon(self.terms.delta)
            }
            _ => 0.0,
        });
        let mechanism = known.map(|known| known.mechanism.clone());
        let epsilon_attained = mechanism.as_ref().map(|mechanism| {
            let least = u32::from(mechanism.common().u_min);
            // What was not released, or of a sum whose survivors were not noted, counts as it was promised.
            let in_sum = |round| session.receipts.get(round).copied().flatten().unwrap_or(least).max(least);
            let survivors: Vec<u32> = session.charged.iter().map(in_sum).collect();
            mechanism.attained_epsilon(View::CoordinatorWithColluders, &survivors, self.terms.delta)
        });
        let attempts_left_by_plan =
            mechanism.as_ref().map_or(0, |m| m.common().max_attempts.saturating_sub(session.last_attempt));
        SessionReport {
            session: id,
            task: session.task.clone(),
            n_charged,
            n_receipts: session.receipts.len() as u64,
            reserved: session.reserved.map(|(round, _)| round),
            epsilon_spent,
            epsilon_attained,
            attempts_left_by_plan,
            attempts_left: mechanism.as_ref().map_or(0, |m| self.attempts_left(id, m, attempts_left_by_plan)),
            mechanism,
        }
    }

    /// Whether the attempt of this round was charged.
    pub fn is_charged(&self, session: SessionId, round: RoundNumber) -> bool {
        self.sessions.get(&session).is_some_and(|s| s.charged.contains(&round))
    }

    /// The statement signed for the survivors of this round, if one was.
    pub fn signed_statement(&self, session: SessionId, round: RoundNumber) -> Option<Digest> {
        self.sessions.get(&session)?.signed.get(&round).copied()
    }

    /// Epsilon of all that was charged, at the budget's delta; 0 if nothing was, infinite if anything without noise was.
    pub fn epsilon_spent(&self) -> f64 {
        self.epsilon_spent_of(self.terms.unit)
    }

    /// The same of `unit`. The two are never added: each is the promise to another unit.
    pub fn epsilon_spent_of(&self, unit: UnitOfPrivacy) -> f64 {
        let n_mechanisms = self.mechanisms.values().filter(|known| known.n_charged > 0).count();
        let released = &self.accountants[unit as usize];
        match &self.filters {
            None => 0.0,
            Some(_) if n_mechanisms == 1 => released.epsilon(self.terms.delta),
            Some(filters) => filters[unit as usize].epsilon_of(released),
        }
    }

    /// How many attempts are reserved, and not charged.
    pub fn n_reserved(&self) -> usize {
        self.reserved_by_others(None).len()
    }

    /// Epsilon of all that was charged, and of all that is reserved.
    pub fn epsilon_reserved(&self) -> f64 {
        self.with(None, None).epsilon
    }

    /// Epsilon after `n_attempts` more of `mechanism` in `session`, beside what other sessions have reserved.
    pub fn epsilon_after(&self, session: SessionId, mechanism: &Mechanism, n_attempts: u64) -> f64 {
        self.with(Some(session), Some((mechanism, n_attempts))).epsilon
    }

    /// What is reserved by sessions other than `session`, the first begun first.
    fn reserved_by_others(&self, session: Option<SessionId>) -> Vec<Digest> {
        let others = self.sessions.iter().filter(|(id, _)| Some(**id) != session);
        let mut reserved: Vec<_> = others.filter_map(|(_, s)| Some((s.first_record, s.reserved?.1))).collect();
        reserved.sort_unstable();
        reserved.into_iter().map(|(_, mechanism)| mechanism).collect()
    }

    /// What was charged, what other sessions than `session` have reserved, and `more`.
    fn with(&self, session: Option<SessionId>, more: Option<(&Mechanism, u64)>) -> Total {
        let unit = self.terms.unit as usize;
        let mut accountant = self.accountants[unit].clone();
        let charged = self.mechanisms.iter().filter(|(_, known)| known.n_charged > 0);
        let mut different: HashSet<Digest> = charged.map(|(key, _)| *key).collect();
        // The first charge fixes the filter. Before there is one nothing was released, and it is still open.
        let mut filter = self.filters.as_ref().map(|filters| filters[unit].clone());
        if let Some((mechanism, n_attempts)) = more.filter(|(_, n_attempts)| *n_attempts > 0) {
            let key = Digest::of(&mechanism.session_bytes());
            let known = self.mechanisms.get(&key).cloned().unwrap_or_else(|| Known::new(mechanism, &self.terms));
            accountant.compose_curve(&known.curves[unit], n_attempts, mechanism.cut_probability());
            different.insert(key);
            filter.get_or_insert_with(|| known.filters[unit].clone());
        }
        for key in self.reserved_by_others(session) {
            if let Some(known) = self.mechanisms.get(&key) {
                accountant.compose_curve(&known.curves[unit], 1, known.mechanism.cut_probability());
                different.insert(key);
                filter.get_or_insert_with(|| known.filters[unit].clone());
            }
        }
        let Some(filter) = filter else { return Total { epsilon: 0.0, passes: true } };
        let passes = filter.lets_pass(&accountant);
        let epsilon = match different.len() {
            1 => accountant.epsilon(self.terms.delta),
            _ => filter.epsilon_of(&accountant),
        };
        // Beyond the attempts of its plan even one mechanism alone leaves free the delta that is kept for failures of others.
        Total { epsilon: if passes { epsilon } else { epsilon.max(self.terms.epsilon_limit) }, passes }
    }

    /// Whether one more attempt of `mechanism` in `session`, beside what other sessions have reserved, stays within the
    /// limit. With `allow_no_noise`, the policy's word, an attempt that leaves no guarantee is allowed too: one without
    /// noise, or any after such a one.
    ///
    /// # Errors
    /// If it does not, or promises nothing to this budget's unit.
    pub fn can_afford(
        &self,
        session: SessionId,
        mechanism: &Mechanism,
        allow_no_noise: bool,
    ) -> Result<(), BudgetError> {
        self.protects_by(mechanism)?;
        match (mechanism.has_noise(), self.n_without_noise) {
            (true, 0) => {}
            _ if allow_no_noise => return Ok(()),
            (false, _) => return Err(BudgetError::NoNoise),
            (true, _) => return Err(BudgetError::GuaranteeLost),
        }
        let Total { epsilon: epsilon_after, passes } = self.with(Some(session), Some((mechanism, 1)));
        if passes {
            return Ok(());
        }
        let n_reserved = self.reserved_by_others(Some(session)).len();
        let (epsilon_spent, epsilon_limit) = (self.epsilon_spent(), self.terms.epsilon_limit);
        Err(BudgetError::Exceeded { epsilon_spent, n_reserved, epsilon_after, epsilon_limit })
    }

    /// A client-level attempt bounds what each record may show, a record-level one not what a client may.
    fn protects_by(&self, mechanism: &Mechanism) -> Result<(), BudgetError> {
        match (self.terms.unit, mechanism.unit()) {
            (UnitOfPrivacy::Client, UnitOfPrivacy::Record) => Err(BudgetError::Unit),
            _ => Ok(()),
        }
    }

    /// How many more attempts of `mechanism` in `session` stay within the limit, beside what other sessions have reserved;
    /// counted up to `most`.
    pub fn attempts_left(&self, session: SessionId, mechanism: &Mechanism, most: u32) -> u32 {
        let (mut affordable, mut beyond) = (0, u64::from(most) + 1);
        while affordable + 1 < beyond {
            let middle = affordable + (beyond - affordable) / 2;
            if self.with(Some(session), Some((mechanism, middle))).passes {
                affordable = middle;
            } else {
                beyond = middle;
            }
        }
        affordable as u32
    }

    /// Prepares to take part in `round`, and reserves its attempt. What the session reserved before, and did not charge,
    /// is given back by it.
    ///
    /// # Errors
    /// If the session has begun this round or a later one, was charged under another mechanism, or the attempt cannot be
    /// afforded ([`Budget::can_afford`]).
    pub fn begin(
        &self,
        session: SessionId,
        round: RoundNumber,
        task: &TaskId,
        mechanism: &Mechanism,
        allow_no_noise: bool,
    ) -> Result<Append, BudgetError> {
        let reserved = Some(Reservation { task: task.clone(), mechanism: Box::new(mechanism.clone()) });
        let append = self.prepare(Record::Begun { session, round, reserved })?;
        self.can_afford(session, mechanism, allow_no_noise)?;
        Ok(append)
    }

    /// Prepares to give back what is reserved for `round`, which is over.
    ///
    /// # Errors
    /// If nothing is: it was charged, or given back already.
    pub fn give_back(&self, session: SessionId, round: RoundNumber) -> Result<Append, BudgetError> {
        self.prepare(Record::GivenBack { session, round })
    }

    /// Whether attempts of `session` may be charged under `mechanism`: a session keeps the mechanism of its first charge, all
    /// but an adaptive clip, so that the epsilon of its plan, which is for all its attempts, bounds what the session spends.
    ///
    /// # Errors
    /// If an attempt of the session was charged under another mechanism.
    pub fn keeps_mechanism(&self, session: SessionId, mechanism: &Mechanism) -> Result<(), BudgetError> {
        match self.sessions.get(&session).and_then(|s| s.mechanism) {
            Some(first) if first != Digest::of(&mechanism.session_bytes()) => Err(BudgetError::OtherMechanism),
            _ => Ok(()),
        }
    }

    /// Prepares to charge one attempt.
    ///
    /// # Errors
    /// If the round was not begun, is charged already, the session was charged under another mechanism, or the charge cannot
    /// be afforded ([`Budget::can_afford`]).
    pub fn charge(
        &self,
        session: SessionId,
        round: RoundNumber,
        attempt: u32,
        plan: Digest,
        mechanism: &Mechanism,
        allow_no_noise: bool,
    ) -> Result<Append, BudgetError> {
        self.can_afford(session, mechanism, allow_no_noise)?;
        let filters = (!self.filters_recorded).then(|| self.filters_from(mechanism));
        self.prepare(Record::Charged { session, round, attempt, plan, mechanism: Box::new(mechanism.clone()), filters })
    }

    /// Prepares to sign the one consistency statement of `round`.
    ///
    /// # Errors
    /// If the round was not begun, or has a statement: even the same one is not signed twice, its bytes are resent.
    pub fn sign_consistency(
        &self,
        session: SessionId,
        round: RoundNumber,
        statement: Digest,
    ) -> Result<Append, BudgetError> {
        self.prepare(Record::ConsistencySigned { session, round, statement })
    }

    /// Prepares to note the ledger's entry of a charged attempt, which released a sum of `survivors` vectors.
    ///
    /// # Errors
    /// If the attempt was not charged, or has its receipt.
    pub fn receipt(
        &self,
        session: SessionId,
        round: RoundNumber,
        entry: Digest,
        survivors: u32,
    ) -> Result<Append, BudgetError> {
        self.prepare(Record::Receipt { session, round, entry, survivors: Some(survivors) })
    }

    /// Prepares to note a refusal.
    ///
    /// # Errors
    /// If the reason is longer than [`REASON_LEN_MAX`].
    pub fn refuse(&self, session: SessionId, round: RoundNumber, reason: &str) -> Result<Append, BudgetError> {
        self.prepare(Record::Refused { session, round, reason: reason.to_owned() })
    }

    /// Takes a prepared step, once its bytes are durable.
    ///
    /// # Errors
    /// If the step was prepared on another state.
    pub fn commit(&mut self, append: Append) -> Result<(), BudgetError> {
        if append.index != self.n_records || append.previous != self.head {
            return Err(BudgetError::Stale);
        }
        self.apply(&append.record, append.head, append.bytes.len());
        Ok(())
    }

    fn first(terms: Terms, head: Digest, n_bytes: usize) -> Self {
        Self {
            terms,
            n_records: 1,
            n_bytes: n_bytes as u64,
            head,
            accountants: Default::default(),
            n_charged: 0,
            n_without_noise: 0,
            sessions: HashMap::new(),
            filters: None,
            filters_recorded: false,
            mechanisms: HashMap::new(),
        }
    }

    fn prepare(&self, record: Record) -> Result<Append, BudgetError> {
        self.check(&record)?;
        let (index, previous) = (self.n_records, self.head);
        let (bytes, head) = frame(index, &previous, &record);
        Ok(Append { record, index, previous, head, bytes })
    }

    /// Whether `record` may follow.
    fn check(&self, record: &Record) -> Result<(), BudgetError> {
        if self.n_records >= RECORDS_LEN_MAX {
            return Err(BudgetError::Full { max: RECORDS_LEN_MAX });
        }
        let begun = |session: &SessionId, round: &RoundNumber| {
            self.sessions
                .get(session)
                .filter(|s| s.begun.contains(round))
                .ok_or(BudgetError::NotBegun { round: *round })
        };
        match record {
            Record::Created(_) => Err(BudgetError::Terms { what: "a second creation" }),
            Record::Begun { session, round, reserved } => {
                if let Some(begun) = self.last_begun(*session).filter(|begun| round <= begun) {
                    return Err(BudgetError::RoundNotNew { round: *round, begun });
                }
                if let Some(Reservation { mechanism, .. }) = reserved {
                    self.protects_by(mechanism)?;
                    self.keeps_mechanism(*session, mechanism)?;
                }
                Ok(())
            }
            Record::GivenBack { session, round } if self.is_reserved(*session, *round) => Ok(()),
            Record::GivenBack { round, .. } => Err(BudgetError::NotReserved { round: *round }),
            Record::Charged { session, round, attempt, mechanism, filters, .. } => {
                self.protects_by(mechanism)?;
                self.keeps_mechanism(*session, mechanism)?;
                if let Some(filters) = filters {
                    if self.filters_recorded {
                        return Err(BudgetError::Filter { what: "is not the first" });
                    }
                    if !filters.iter().all(|filter| filter.keeps(self.terms.epsilon_limit, self.terms.delta)) {
                        return Err(BudgetError::Filter { what: "lets more pass than the limit" });
                    }
                }
                let session = begun(session, round)?;
                if session.charged.contains(round) {
                    return Err(BudgetError::AlreadyDone { round: *round, step: "charge" });
                }
                let (least, most) = (session.last_attempt.saturating_add(1), mechanism.common().max_attempts);
                if !(least..=most).contains(attempt) {
                    return Err(BudgetError::Attempt { attempt: *attempt, least, most });
                }
                Ok(())
            }
            Record::ConsistencySigned { session, round, .. } => {
                if begun(session, round)?.signed.contains_key(round) {
                    return Err(BudgetError::AlreadyDone { round: *round, step: "consistency signature" });
                }
                Ok(())
            }
            Record::Receipt { session, round, .. } => {
                let session = begun(session, round)?;
                if !session.charged.contains(round) {
                    return Err(BudgetError::NotCharged { round: *round });
                }
                if session.receipts.contains_key(round) {
                    return Err(BudgetError::AlreadyDone { round: *round, step: "receipt" });
                }
                Ok(())
            }
            Record::Refused { reason, .. } if reason.len() > REASON_LEN_MAX => {
                Err(BudgetError::TextTooLong { len: reason.len(), max: REASON_LEN_MAX })
            }
            Record::Refused { .. } => Ok(()),
        }
    }

    /// Takes in a checked record of `n_bytes`.
    fn apply(&mut self, record: &Record, head: Digest, n_bytes: usize) {
        let index = self.n_records;
        self.n_records += 1;
        self.n_bytes += n_bytes as u64;
        self.head = head;
        match record {
            Record::Created(_) | Record::Refused { .. } => {}
            Record::Begun { session, round, reserved } => {
                let key = reserved.as_ref().map(|reserved| self.remember(&reserved.mechanism));
                let session = self
                    .sessions
                    .entry(*session)
                    .or_insert_with(|| Session { first_record: index, ..Session::default() });
                session.last_begun = *round;
                session.begun.insert(*round);
                session.reserved = key.map(|key| (*round, key));
                session.task = reserved.as_ref().map(|reserved| reserved.task.clone()).or(session.task.take());
            }
            Record::GivenBack { session, round } => {
                let session = self.sessions.entry(*session).or_default();
                session.begun.remove(round);
                session.reserved = None;
            }
            Record::Charged { session, round, attempt, mechanism, filters, .. } => {
                let key = self.remember(mechanism);
                self.filters = Some(filters.clone().unwrap_or_else(|| self.filters_from(mechanism)));
                self.filters_recorded |= filters.is_some();
                if let Some(known) = self.mechanisms.get_mut(&key) {
                    known.n_charged += 1;
                    for (accountant, curve) in self.accountants.iter_mut().zip(&known.curves) {
                        accountant.compose_curve(curve, 1, mechanism.cut_probability());
                    }
                }
                self.n_charged += 1;
                self.n_without_noise += u64::from(!mechanism.has_noise());
                let session = self.sessions.entry(*session).or_default();
                session.charged.insert(*round);
                session.last_attempt = *attempt;
                session.mechanism.get_or_insert(key);
                session.reserved = session.reserved.filter(|(reserved, _)| reserved != round);
            }
            Record::ConsistencySigned { session, round, statement } => {
                self.sessions.entry(*session).or_default().signed.insert(*round, *statement);
            }
            Record::Receipt { session, round, survivors, .. } => {
                self.sessions.entry(*session).or_default().receipts.insert(*round, *survivors);
            }
        }
    }

    /// The filters of the first charge; where nothing was charged, those of a budget that begins with `mechanism`.
    fn filters_from(&self, mechanism: &Mechanism) -> Box<[RenyiFilter; 2]> {
        if let Some(filters) = &self.filters {
            return filters.clone();
        }
        let known = self.mechanisms.get(&Digest::of(&mechanism.session_bytes()));
        Box::new(known.map_or_else(|| Known::new(mechanism, &self.terms).filters, |known| known.filters.clone()))
    }

    /// Keeps the curves of `mechanism`, so that a long log is not recomputed record by record. Gives the mechanism's key.
    fn remember(&mut self, mechanism: &Mechanism) -> Digest {
        let key = Digest::of(&mechanism.session_bytes());
        let terms = &self.terms;
        self.mechanisms.entry(key).or_insert_with(|| Known::new(mechanism, terms));
        key
    }
}

/// What some releases cost together.
struct Total {
    epsilon: f64,
    /// Whether they are within the limit.
    passes: bool,
}

/// What happened in one session. Mechanisms are named by their keys.
#[derive(Clone, Debug, Default)]
struct Session {
    /// The record that began it.
    first_record: u64,
    task: Option<TaskId>,
    last_begun: RoundNumber,
    last_attempt: u32,
    /// That of the first charge.
    mechanism: Option<Digest>,
    reserved: Option<(RoundNumber, Digest)>,
    begun: HashSet<RoundNumber>,
    charged: HashSet<RoundNumber>,
    signed: HashMap<RoundNumber, Digest>,
    /// With the number of survivors, where it was noted.
    receipts: HashMap<RoundNumber, Option<u32>>,
}

/// A mechanism that was reserved or charged.
#[derive(Clone, Debug)]
struct Known {
    mechanism: Mechanism,
    /// For each unit.
    curves: [RdpCurve; 2],
    /// For each unit, of a budget that begins with this mechanism.
    filters: [RenyiFilter; 2],
    n_charged: u64,
}

impl Known {
    fn new(mechanism: &Mechanism, terms: &Terms) -> Self {
        let curves = [UnitOfPrivacy::Record, UnitOfPrivacy::Client].map(|unit| mechanism.curve_for(unit));
        let filters = curves.each_ref().map(|curve| {
            let (failure, attempts) = (mechanism.cut_probability(), mechanism.common().max_attempts);
            RenyiFilter::beginning_with(&Planned { curve, failure, attempts }, terms.epsilon_limit, terms.delta)
        });
        Self { mechanism: mechanism.clone(), curves, filters, n_charged: 0 }
    }
}

fn check_terms(terms: &Terms) -> Result<(), BudgetError> {
    let refuse = |what| Err(BudgetError::Terms { what });
    if !(1..=DATA_SET_LEN_MAX).contains(&terms.data_set.len()) {
        return refuse("data_set");
    }
    if !(terms.epsilon_limit >= 0.0 && terms.epsilon_limit.is_finite()) {
        return refuse("epsilon_limit");
    }
    if !(terms.delta > 0.0 && terms.delta < 1.0) {
        return refuse("delta");
    }
    Ok(())
}

/// Longest name of a data set, in bytes.
pub const DATA_SET_LEN_MAX: usize = 255;
/// Most records of one log: a hundred times a long task's. The client reads the whole file at its start.
pub const RECORDS_LEN_MAX: u64 = 1 << 24;

#[cfg(test)]
mod tests;
