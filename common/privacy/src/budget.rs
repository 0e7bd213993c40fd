//! A client's durable budget for one data set, as bytes: an append-only log in which each record carries the hash of the one
//! before it. Its limit is on one unit of privacy; what was spent is known for each, since every release is charged to
//! both: a client-level one to records as the replacement of one, a record-level one to the client without bound.
//!
//! This module does no I/O. Every step is asked for ([`Budget::charge`] and its like), which yields an [`Append`]; the
//! client appends [`Append::bytes`] to its file, syncs it, and only then takes the step with [`Budget::commit`]. What
//! was spent is recomputed by the accountant from the charged events; nothing is ever refunded. One budget covers a data
//! set and a unit whatever the task, mode or certificate.
//!
//! A charge without noise costs more than any limit: epsilon is infinite from then on, for this data set and for ever.
//! It is made only where the caller says that its policy allows it, and so is every later charge, with noise or without.
//!
//! Several processes may share one log, each for a session of its own: whoever holds the file's lock takes in what the
//! others wrote ([`Budget::read_on`]) before its own step. An attempt is reserved when its round is begun, so that
//! attempts under way add up: none is begun that could not be charged. What is reserved may be given back while the
//! attempt is not charged, and is by the session's next round; what is charged never is.
//!
//! # The file
//!
//! A sequence of frames: `u32` length n of the body, `u32` its complement (all integers little-endian), n bytes of body,
//! SHA-256 of the body. A body is the canonical encoding under "eranos/privacy/budget/v1" of: index (`u64`, from 0), hash
//! of the body before it (zero for the first), kind (`u8`), and the kind's fields:
//!
//! | kind | fields |
//! |---|---|
//! | 0 created (first, and only there) | unit (`u8`: 0 record, 1 client), data set (text), epsilon limit (`f64`), delta (`f64`) |
//! | 1 begun, nothing reserved (logs from before there were reservations) | session (digest), round (`u64`) |
//! | 2 charged | session, round, attempt (`u32`, from 1), plan (digest), mechanism (its canonical encoding) |
//! | 3 consistency signed | session, round, statement (digest) |
//! | 4 receipt (logs from before survivors were noted) | session, round, ledger entry (digest) |
//! | 5 refused | session, round, reason (text) |
//! | 6 begun | session, round, task (text), mechanism reserved (its canonical encoding) |
//! | 7 given back | session, round |
//! | 8 receipt | session, round, ledger entry (digest), survivors (`u32`) |
//!
//! A crash can leave only a beginning of the last frame: that is a [`TornTail`], to be cut off, and harmless because
//! nothing is done before its record is synced. Anything else that does not fit is damage, and no state is given. What the
//! chain cannot show is a file that was cut between two frames (an older copy restored): for that, the client compares
//! [`Budget::n_charged`] with what the ledger and the coordinator know.

use std::collections::{HashMap, HashSet};

use eranos_base::{
    Digest, RoundNumber, SessionId, TaskId,
    encoding::{Canonical, CanonicalReader, DecodeError},
    limits::REASON_LEN_MAX,
};

use crate::{
    accountant::{Accountant, RdpCurve},
    mechanism::{Mechanism, MechanismError, Promise, View},
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

/// Why a step is not taken, or a file not read.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum BudgetError {
    /// The terms make no budget.
    #[error("budget terms: {what} is out of range")]
    Terms {
        /// Which of them.
        what: &'static str,
    },
    /// The file is empty or ends inside its first record: there is no budget in it.
    #[error("budget file holds no complete record")]
    Empty,
    /// Bytes that neither a whole record nor a torn one explains. No state is given: the file must be looked at.
    #[error("budget file is damaged at byte {offset}, record {index}: {what}")]
    Damaged {
        /// Where the frame begins.
        offset: usize,
        /// Its place in the chain.
        index: u64,
        /// What does not fit.
        what: String,
    },
    /// Charging this would exceed the limit.
    #[error(
        "epsilon {epsilon_after:.4} after this attempt, limit {epsilon_limit} ({epsilon_spent:.4} spent{})",
        reserved_text(*n_reserved)
    )]
    Exceeded {
        /// What is spent.
        epsilon_spent: f64,
        /// How many attempts other sessions have reserved.
        n_reserved: usize,
        /// What would be spent, by them too.
        epsilon_after: f64,
        /// The limit.
        epsilon_limit: f64,
    },
    /// An attempt without noise, after which no guarantee would be left.
    #[error("the attempt adds no noise: after it no guarantee would be left for this data set")]
    NoNoise,
    /// An attempt without noise was charged before: no guarantee is left that another could keep.
    #[error("attempts without noise were charged to this data set: no guarantee is left that noise could keep")]
    GuaranteeLost,
    /// A record-level release, where whole clients are to be protected.
    #[error("a record-level release promises nothing to a client as a whole, which this budget is for")]
    Unit,
    /// A mechanism that is none.
    #[error(transparent)]
    Mechanism(#[from] MechanismError),
    /// Rounds of a session strictly increase, and each is begun once.
    #[error("round {round} cannot be begun, round {begun} was")]
    RoundNotNew {
        /// The round asked for.
        round: RoundNumber,
        /// The last one begun in that session.
        begun: RoundNumber,
    },
    /// A step in a round that was never begun.
    #[error("round {round} was not begun")]
    NotBegun {
        /// The round.
        round: RoundNumber,
    },
    /// A step that is taken once per session and round, ever.
    #[error("round {round} has its {step} already")]
    AlreadyDone {
        /// The round.
        round: RoundNumber,
        /// The step.
        step: &'static str,
    },
    /// Nothing is reserved for this round: its attempt was charged, or given back.
    #[error("round {round} has nothing reserved")]
    NotReserved {
        /// The round.
        round: RoundNumber,
    },
    /// A receipt for an attempt that was not charged.
    #[error("round {round} was not charged")]
    NotCharged {
        /// The round.
        round: RoundNumber,
    },
    /// Attempts of a session strictly increase, up to the plan's number.
    #[error("attempt {attempt}, expected {least} to {most}")]
    Attempt {
        /// The attempt asked for.
        attempt: u32,
        /// The least allowed now.
        least: u32,
        /// The plan's number.
        most: u32,
    },
    /// A session has one mechanism, that of its first charge: what its attempts cost together was accepted by it.
    #[error("the mechanism is not the one under which this session was first charged")]
    OtherMechanism,
    /// A text longer than its limit.
    #[error("text of {len} bytes, limit {max}")]
    TextTooLong {
        /// Its length.
        len: usize,
        /// The limit.
        max: usize,
    },
    /// The log is full.
    #[error("budget log is full at {max} records")]
    Full {
        /// The limit.
        max: u64,
    },
    /// The step was prepared on another state than the one it is taken on.
    #[error("the step was prepared on another state of the budget")]
    Stale,
}

/// One record of the log, without its place in the chain.
#[derive(Clone, Debug, PartialEq)]
pub enum Record {
    /// The budget's terms; the first record.
    Created(Terms),
    /// The client takes part in this round; durable before its first message of the round.
    Begun {
        /// The session.
        session: SessionId,
        /// The round.
        round: RoundNumber,
        /// The attempt that it reserves; none in logs from before there were reservations.
        reserved: Option<Reservation>,
    },
    /// The round is over and its attempt was not charged: no byte of its vector left, nor ever will.
    GivenBack {
        /// The session.
        session: SessionId,
        /// The round.
        round: RoundNumber,
    },
    /// One attempt, charged in full; durable before the first byte of the masked vector leaves.
    Charged {
        /// The session.
        session: SessionId,
        /// The round.
        round: RoundNumber,
        /// The attempt's number in the plan's count, from 1.
        attempt: u32,
        /// The plan.
        plan: Digest,
        /// What was released, by its parameters.
        mechanism: Box<Mechanism>,
    },
    /// The one consistency statement of this round; durable before it is sent.
    ConsistencySigned {
        /// The session.
        session: SessionId,
        /// The round.
        round: RoundNumber,
        /// SHA-256 of the signed statement.
        statement: Digest,
    },
    /// The ledger's entry of a charged attempt, seen and verified.
    Receipt {
        /// The session.
        session: SessionId,
        /// The round.
        round: RoundNumber,
        /// SHA-256 of the entry.
        entry: Digest,
        /// How many vectors were in the sum; not known in logs from before it was noted.
        survivors: Option<u32>,
    },
    /// The client refused.
    Refused {
        /// The session.
        session: SessionId,
        /// The round.
        round: RoundNumber,
        /// Why.
        reason: String,
    },
}

/// An attempt that is kept free.
#[derive(Clone, Debug, PartialEq)]
pub struct Reservation {
    /// The task.
    pub task: TaskId,
    /// What is to be released, by its parameters.
    pub mechanism: Box<Mechanism>,
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
            match survivors.is_empty() {
                true => 0.0,
                false => mechanism.attained_epsilon(View::CoordinatorWithColluders, &survivors, self.terms.delta),
            }
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
        match self.n_charged {
            0 => 0.0,
            _ => self.epsilon_of(&self.accountants[unit as usize], n_mechanisms),
        }
    }

    /// How many attempts are reserved, and not charged.
    pub fn n_reserved(&self) -> usize {
        self.reserved_by_others(None).count()
    }

    /// Epsilon of all that was charged, and of all that is reserved.
    pub fn epsilon_reserved(&self) -> f64 {
        self.epsilon_with(None, None)
    }

    /// Epsilon after `n_attempts` more of `mechanism` in `session`, beside what other sessions have reserved.
    pub fn epsilon_after(&self, session: SessionId, mechanism: &Mechanism, n_attempts: u64) -> f64 {
        self.epsilon_with(Some(session), Some((mechanism, n_attempts)))
    }

    /// What is reserved by sessions other than `session`.
    fn reserved_by_others(&self, session: Option<SessionId>) -> impl Iterator<Item = Digest> {
        let others = self.sessions.iter().filter(move |(id, _)| Some(**id) != session);
        others.filter_map(|(_, s)| s.reserved).map(|(_, mechanism)| mechanism)
    }

    /// Epsilon of what was charged, of what other sessions than `session` have reserved, and of `more`.
    fn epsilon_with(&self, session: Option<SessionId>, more: Option<(&Mechanism, u64)>) -> f64 {
        let unit = self.terms.unit as usize;
        let mut accountant = self.accountants[unit].clone();
        let charged = self.mechanisms.iter().filter(|(_, known)| known.n_charged > 0);
        let mut different: HashSet<Digest> = charged.map(|(key, _)| *key).collect();
        for key in self.reserved_by_others(session) {
            if let Some(known) = self.mechanisms.get(&key) {
                accountant.compose_curve(&known.curves[unit], 1, known.mechanism.cut_probability());
                different.insert(key);
            }
        }
        if let Some((mechanism, n_attempts)) = more.filter(|(_, n_attempts)| *n_attempts > 0) {
            let key = Digest::of(&mechanism.session_bytes());
            let curve = match self.mechanisms.get(&key) {
                Some(known) => known.curves[unit].clone(),
                None => mechanism.curve_for(self.terms.unit),
            };
            accountant.compose_curve(&curve, n_attempts, mechanism.cut_probability());
            different.insert(key);
        }
        if different.is_empty() { 0.0 } else { self.epsilon_of(&accountant, different.len()) }
    }

    /// Epsilon of what has been charged, by so many different mechanisms. Of one alone it is clear beforehand at which order
    /// the limit is reached. The second was chosen by somebody who had seen what the first one released.
    fn epsilon_of(&self, accountant: &Accountant, n_mechanisms: usize) -> f64 {
        match n_mechanisms {
            0 | 1 => accountant.epsilon(self.terms.delta),
            _ => accountant.adaptive_epsilon(self.terms.delta),
        }
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
        let epsilon_after = self.epsilon_after(session, mechanism, 1);
        if epsilon_after <= self.terms.epsilon_limit {
            return Ok(());
        }
        let n_reserved = self.reserved_by_others(Some(session)).count();
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
            if self.epsilon_after(session, mechanism, middle) <= self.terms.epsilon_limit {
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
        self.prepare(Record::Charged { session, round, attempt, plan, mechanism: Box::new(mechanism.clone()) })
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
            Record::Charged { session, round, attempt, mechanism, .. } => {
                self.protects_by(mechanism)?;
                self.keeps_mechanism(*session, mechanism)?;
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
            Record::Charged { session, round, attempt, mechanism, .. } => {
                let key = self.remember(mechanism);
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

    /// Keeps the curves of `mechanism`, so that a long log is not recomputed record by record. Gives the mechanism's key.
    fn remember(&mut self, mechanism: &Mechanism) -> Digest {
        let key = Digest::of(&mechanism.session_bytes());
        self.mechanisms.entry(key).or_insert_with(|| Known {
            mechanism: mechanism.clone(),
            curves: [UnitOfPrivacy::Record, UnitOfPrivacy::Client].map(|unit| mechanism.curve_for(unit)),
            n_charged: 0,
        });
        key
    }
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
    n_charged: u64,
}

/// What an error says of reservations.
fn reserved_text(n_reserved: usize) -> String {
    match n_reserved {
        0 => String::new(),
        n => format!(", {n} reserved by other sessions"),
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

/// A record as it stands in the file, and the hash of its body.
fn frame(index: u64, previous: &Digest, record: &Record) -> (Vec<u8>, Digest) {
    let body = Canonical::new(DOMAIN).u64(index).digest(previous);
    let place = |body: Canonical, kind: u8, session: &SessionId, round: &RoundNumber| {
        body.u8(kind).digest(&session.0).u64(round.0)
    };
    let body = match record {
        Record::Created(terms) => {
            body.u8(KIND_CREATED).u8(terms.unit as u8).text(&terms.data_set).f64(terms.epsilon_limit).f64(terms.delta)
        }
        Record::Begun { session, round, reserved: None } => place(body, KIND_BEGUN, session, round),
        Record::Begun { session, round, reserved: Some(Reservation { task, mechanism }) } => {
            place(body, KIND_RESERVED, session, round).text(task.as_str()).field(&mechanism.encode())
        }
        Record::GivenBack { session, round } => place(body, KIND_GIVEN_BACK, session, round),
        Record::Charged { session, round, attempt, plan, mechanism } => {
            place(body, KIND_CHARGED, session, round).u32(*attempt).digest(plan).field(&mechanism.encode())
        }
        Record::ConsistencySigned { session, round, statement } => {
            place(body, KIND_CONSISTENCY, session, round).digest(statement)
        }
        Record::Receipt { session, round, entry, survivors: None } => {
            place(body, KIND_RECEIPT, session, round).digest(entry)
        }
        Record::Receipt { session, round, entry, survivors: Some(survivors) } => {
            place(body, KIND_RECEIPT_OF_SUM, session, round).digest(entry).u32(*survivors)
        }
        Record::Refused { session, round, reason } => place(body, KIND_REFUSED, session, round).text(reason),
    }
    .finish();
    let head = Digest::of(&body);
    let len = body.len() as u32;
    let bytes = [&len.to_le_bytes()[..], &(!len).to_le_bytes(), &body, head.as_bytes()].concat();
    (bytes, head)
}

/// The budget that the first record of `file` creates; none if that is not complete.
fn read_first(file: &[u8]) -> Result<Option<Budget>, String> {
    if file.is_empty() {
        return Ok(None);
    }
    let (body, head, len) = match read_frame(file, 0, &Digest::ZERO) {
        Frame::Whole { body, head, len } => (body, head, len),
        Frame::Torn => return Ok(None),
        Frame::Damaged(what) => return Err(what.to_owned()),
    };
    match read_body(body, 0, &Digest::ZERO, &mut HashMap::new()) {
        Ok(Record::Created(terms)) => {
            check_terms(&terms).map_err(|error| error.to_string())?;
            Ok(Some(Budget::first(terms, head, len)))
        }
        Ok(_) => Err("the first record does not create a budget".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

enum Frame<'a> {
    Whole { body: &'a [u8], head: Digest, len: usize },
    Torn,
    Damaged(&'static str),
}

/// The first frame of `bytes`, which are not empty.
fn read_frame<'a>(bytes: &'a [u8], index: u64, previous: &Digest) -> Frame<'a> {
    // A crash may have extended the file before the data was there: then all that follows is zero.
    if bytes.iter().all(|byte| *byte == 0) {
        return Frame::Torn;
    }
    let Some((len, rest)) = bytes.split_first_chunk::<4>() else { return Frame::Torn };
    let len = u32::from_le_bytes(*len);
    // The complement tells a length that a crash left alone from one that was changed afterwards, which could otherwise
    // pass off the last record as torn.
    let complement = (!len).to_le_bytes();
    let n_there = rest.len().min(4);
    if rest[..n_there] != complement[..n_there] || len as usize > BODY_LEN_MAX {
        return Frame::Damaged("the length is not a record's");
    }
    let Some((_, rest)) = rest.split_first_chunk::<4>() else { return Frame::Torn };
    let Some((body, rest)) = rest.split_at_checked(len as usize) else {
        return match is_beginning(rest, index, previous) {
            true => Frame::Torn,
            false => Frame::Damaged("the record is cut and not the next of the chain"),
        };
    };
    let head = Digest::of(body);
    let Some((found, _)) = rest.split_first_chunk::<32>() else {
        return match head.as_bytes().starts_with(rest) && is_beginning(body, index, previous) {
            true => Frame::Torn,
            false => Frame::Damaged("the record's hash is cut and not its own"),
        };
    };
    if found != head.as_bytes() {
        return Frame::Damaged("the record's hash is not its own");
    }
    Frame::Whole { body, head, len: 8 + body.len() + 32 }
}

/// Whether `part` agrees, as far as it goes, with the beginning of the body at this place of the chain.
fn is_beginning(part: &[u8], index: u64, previous: &Digest) -> bool {
    let beginning = Canonical::new(DOMAIN).u64(index).digest(previous).finish();
    part.iter().zip(&beginning).all(|(a, b)| a == b)
}

/// The record in `body`. `mechanisms` keeps what was decoded, since checking a mechanism takes a millisecond and a log
/// repeats the same one.
fn read_body<'a>(
    body: &'a [u8],
    index: u64,
    previous: &Digest,
    mechanisms: &mut HashMap<&'a [u8], Box<Mechanism>>,
) -> Result<Record, BodyError> {
    let mut reader = CanonicalReader::new(body, DOMAIN)?;
    let found = reader.u64()?;
    if found != index {
        return Err(BodyError::Index { found, expected: index });
    }
    if reader.digest()? != *previous {
        return Err(BodyError::Chain);
    }
    let kind = reader.u8()?;
    let record = if kind == KIND_CREATED {
        let unit = match reader.u8()? {
            0 => UnitOfPrivacy::Record,
            1 => UnitOfPrivacy::Client,
            _ => return Err(DecodeError::Malformed { what: "unit" }.into()),
        };
        let data_set = reader.text()?.to_owned();
        Record::Created(Terms { unit, data_set, epsilon_limit: reader.f64()?, delta: reader.f64()? })
    } else {
        let (session, round) = (SessionId(reader.digest()?), RoundNumber(reader.u64()?));
        let mut mechanism = |reader: &mut CanonicalReader<'a>| -> Result<Box<Mechanism>, BodyError> {
            let bytes = reader.field()?;
            if let Some(mechanism) = mechanisms.get(bytes) {
                return Ok(mechanism.clone());
            }
            let mechanism = Box::new(Mechanism::decode(bytes)?);
            mechanisms.insert(bytes, mechanism.clone());
            Ok(mechanism)
        };
        match kind {
            KIND_BEGUN => Record::Begun { session, round, reserved: None },
            KIND_RESERVED => {
                let (task, mechanism) = (reader.parse()?, mechanism(&mut reader)?);
                Record::Begun { session, round, reserved: Some(Reservation { task, mechanism }) }
            }
            KIND_GIVEN_BACK => Record::GivenBack { session, round },
            KIND_CHARGED => Record::Charged {
                session,
                round,
                attempt: reader.u32()?,
                plan: reader.digest()?,
                mechanism: mechanism(&mut reader)?,
            },
            KIND_CONSISTENCY => Record::ConsistencySigned { session, round, statement: reader.digest()? },
            KIND_RECEIPT => Record::Receipt { session, round, entry: reader.digest()?, survivors: None },
            KIND_RECEIPT_OF_SUM => {
                Record::Receipt { session, round, entry: reader.digest()?, survivors: Some(reader.u32()?) }
            }
            KIND_REFUSED => Record::Refused { session, round, reason: reader.text()?.to_owned() },
            _ => return Err(DecodeError::Malformed { what: "kind" }.into()),
        }
    };
    reader.finish()?;
    Ok(record)
}

/// Why a body whose hash is right is not the next record.
#[derive(Debug, thiserror::Error)]
enum BodyError {
    #[error(transparent)]
    Decode(#[from] DecodeError),
    #[error(transparent)]
    Mechanism(#[from] MechanismError),
    #[error("it says that it is record {found}, expected {expected}")]
    Index { found: u64, expected: u64 },
    #[error("it does not follow the record before it")]
    Chain,
}

/// Longest name of a data set, in bytes.
pub const DATA_SET_LEN_MAX: usize = 255;
/// Most records of one log: a hundred times a long task's. The client reads the whole file at its start.
pub const RECORDS_LEN_MAX: u64 = 1 << 24;

const DOMAIN: &str = "eranos/privacy/budget/v1";
/// The longest body is a refusal's or a charge's, both far below.
const BODY_LEN_MAX: usize = 4096;
const KIND_CREATED: u8 = 0;
const KIND_BEGUN: u8 = 1;
const KIND_CHARGED: u8 = 2;
const KIND_CONSISTENCY: u8 = 3;
const KIND_RECEIPT: u8 = 4;
const KIND_REFUSED: u8 = 5;
const KIND_RESERVED: u8 = 6;
const KIND_GIVEN_BACK: u8 = 7;
const KIND_RECEIPT_OF_SUM: u8 = 8;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        groups::{AdaptiveClip, Groups, Share},
        mechanism::{
            ClientTarget, LocalTraining, Noise, NoiseTarget, Probability, RecordMechanism, RecordParameters,
            RecordTarget, design, design_client,
        },
    };

    fn mechanism() -> Mechanism {
        static MECHANISM: std::sync::LazyLock<Mechanism> =
            std::sync::LazyLock::new(|| mechanism_with(NoiseTarget::Distributed { epsilon: 4.0 }));
        MECHANISM.clone()
    }

    fn mechanism_with(noise: NoiseTarget) -> Mechanism {
        let mechanism = design(&RecordTarget {
            groups: Groups::default(),
            l2_clip_norm: 1.0,
            n_parameters: 121_930,
            sampling_probability: Probability::new(1, 4).expect("a probability"),
            expected_lot: 1500,
            record_bound: 750,
            local: None,
            n_max: 8,
            u_min: 7,
            max_colluders: 1,
            max_attempts: 155,
            noise,
            delta: 1e-5,
        });
        mechanism.expect("reachable").into()
    }

    fn terms() -> Terms {
        Terms { unit: UnitOfPrivacy::Record, data_set: "digits".to_owned(), epsilon_limit: 4.0, delta: 1e-5 }
    }

    fn session(name: &[u8]) -> SessionId {
        SessionId(Digest::of(name))
    }

    fn task() -> TaskId {
        "digits".parse().expect("a name")
    }

    /// Begins a round of the usual mechanism.
    fn begin(budget: &Budget, session: SessionId, round: RoundNumber) -> Result<Append, BudgetError> {
        budget.begin(session, round, &task(), &mechanism(), false)
    }

    /// A budget with its file, as a client keeps them.
    struct File {
        budget: Budget,
        bytes: Vec<u8>,
    }

    impl File {
        fn new(terms: Terms) -> Self {
            let (budget, bytes) = Budget::create(terms).expect("terms in range");
            Self { budget, bytes }
        }

        fn take(&mut self, append: Result<Append, BudgetError>) {
            let append = append.expect("allowed");
            self.bytes.extend_from_slice(append.bytes());
            self.budget.commit(append).expect("on its state");
        }

        /// A round that is begun, charged, signed and receipted.
        fn round(&mut self, session: SessionId, round: u64) {
            let round = RoundNumber(round);
            self.take(begin(&self.budget, session, round));
            self.take(self.budget.charge(session, round, round.0 as u32, Digest::of(b"plan"), &mechanism(), false));
            self.take(self.budget.sign_consistency(session, round, Digest::of(b"u3")));
            self.take(self.budget.receipt(session, round, Digest::of(b"entry"), 8));
        }
    }

    /// Where each frame begins, and the end.
    fn frames(bytes: &[u8]) -> Vec<usize> {
        let mut at = vec![0];
        while let Some(offset) = at.last().copied().filter(|offset| *offset < bytes.len()) {
            let len = u32::from_le_bytes(bytes[offset..offset + 4].try_into().expect("four bytes"));
            at.push(offset + 8 + len as usize + 32);
        }
        at
    }

    fn small() -> File {
        let mut file = File::new(terms());
        file.round(session(b"a"), 1);
        file.take(file.budget.refuse(session(b"a"), RoundNumber(2), "epsilon too high"));
        file.round(session(b"b"), 1);
        file
    }

    #[test]
    fn what_is_read_is_what_was_written() {
        let file = small();
        let (read, torn) = Budget::parse(&file.bytes).expect("sound");
        assert_eq!(torn, None);
        assert_eq!((read.head(), read.n_records(), read.n_charged()), (file.budget.head(), 10, 2));
        assert_eq!(read.terms(), &terms());
        assert_eq!(read.epsilon_spent(), file.budget.epsilon_spent());
        assert_eq!(read.epsilon_spent(), mechanism().promised_epsilon(2, 1e-5));
        assert_eq!(read.signed_statement(session(b"a"), RoundNumber(1)), Some(Digest::of(b"u3")));
        assert_eq!((read.n_charged_in(session(b"a")), read.n_receipts()), (1, 2));
        assert!(read.is_charged(session(b"b"), RoundNumber(1)) && !read.is_charged(session(b"b"), RoundNumber(2)));
        assert_eq!(read.last_begun(session(b"a")), Some(RoundNumber(1)));
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let bytes = small().bytes;
        let at = frames(&bytes);
        // Every bit up to the end of the first charge, and then, since reading a charge takes its time, one of each byte.
        let later = (at[3]..bytes.len()).map(|byte| byte * 8 + byte % 8);
        for bit in (0..at[3] * 8).chain(later) {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let read = Budget::parse(&flipped);
            assert!(matches!(read, Err(BudgetError::Damaged { .. })), "bit {bit}: {read:?}");
        }
    }

    #[test]
    fn a_cut_inside_the_last_record_is_a_torn_tail_and_a_cut_elsewhere_an_older_state() {
        let file = small();
        let at = frames(&file.bytes);
        for len in 0..file.bytes.len() {
            let n_whole = at.iter().filter(|offset| **offset <= len).count() as u64 - 1;
            match Budget::parse(&file.bytes[..len]) {
                Err(BudgetError::Empty) => assert_eq!(n_whole, 0, "cut to {len}"),
                Ok((budget, torn)) => {
                    assert_eq!(budget.n_records(), n_whole, "cut to {len}");
                    let valid = at[n_whole as usize] as u64;
                    let n_bytes = len as u64 - valid;
                    assert_eq!(torn, (n_bytes > 0).then_some(TornTail { len_valid: valid, n_bytes }), "cut to {len}");
                    assert_ne!(budget.head(), file.budget.head());
                }
                Err(error) => panic!("cut to {len}: {error}"),
            }
        }
    }

    #[test]
    fn a_cut_in_the_middle_a_reordering_and_a_splice_are_damage() {
        let file = small();
        let at = frames(&file.bytes);
        let frame = |i: usize| &file.bytes[at[i]..at[i + 1]];
        let n = at.len() - 1;
        let join = |order: &[usize]| order.iter().flat_map(|i| frame(*i).to_vec()).collect::<Vec<u8>>();
        let damaged = |bytes: &[u8], what: &str| {
            let read = Budget::parse(bytes);
            assert!(matches!(read, Err(BudgetError::Damaged { .. })), "{what}: {read:?}");
        };
        let all: Vec<usize> = (0..n).collect();
        assert!(Budget::parse(&join(&all)).is_ok());
        for out in 0..n - 1 {
            let mut order = all.clone();
            order.remove(out);
            damaged(&join(&order), "a record taken out");
            let mut order = all.clone();
            order.swap(out, out + 1);
            damaged(&join(&order), "two records swapped");
            let mut order = all.clone();
            order.insert(out, out);
            damaged(&join(&order), "a record twice");
        }
        let other = File::new(Terms { data_set: "letters".to_owned(), ..terms() });
        let spliced = [other.bytes.as_slice(), &file.bytes[at[1]..]].concat();
        damaged(&spliced, "another budget's beginning");
        // A cut record that belongs elsewhere is no torn write of this file.
        let strange = [&file.bytes[..at[5]], &frame(7)[..frame(7).len() - 1]].concat();
        damaged(&strange, "a cut record of another place");
        damaged(&[file.bytes.as_slice(), b"garbage that is no record at all"].concat(), "garbage");
        // Zeros are what a crash leaves where a file grew before its data was written.
        let (budget, torn) = Budget::parse(&[file.bytes.as_slice(), &[0; 100]].concat()).expect("a torn tail");
        assert_eq!((budget.n_records(), torn.map(|t| t.n_bytes)), (n as u64, Some(100)));
    }

    #[test]
    fn a_forged_record_with_a_right_hash_still_has_to_be_allowed() {
        let mut file = File::new(terms());
        let forge = |file: &File, record: Record| {
            let (bytes, _) = frame(file.budget.n_records(), &file.budget.head(), &record);
            Budget::parse(&[file.bytes.as_slice(), &bytes].concat())
        };
        let (session, round) = (session(b"a"), RoundNumber(1));
        let receipt = Record::Receipt { session, round, entry: Digest::ZERO, survivors: None };
        assert!(forge(&file, receipt.clone()).is_err());
        assert!(forge(&file, Record::Created(terms())).is_err());
        file.take(begin(&file.budget, session, round));
        assert!(forge(&file, receipt).is_err());
        assert!(forge(&file, Record::Begun { session, round, reserved: None }).is_err());
        assert!(forge(&file, Record::Begun { session, round: RoundNumber(2), reserved: None }).is_ok());
    }

    #[test]
    fn once_only_steps_are_taken_once_even_after_a_restart() {
        let mut file = File::new(terms());
        let (session, round) = (session(b"a"), RoundNumber(5));
        let plan = Digest::of(b"plan");
        let m = mechanism();
        assert!(matches!(file.budget.charge(session, round, 1, plan, &m, false), Err(BudgetError::NotBegun { .. })));
        assert!(matches!(file.budget.sign_consistency(session, round, plan), Err(BudgetError::NotBegun { .. })));
        file.take(begin(&file.budget, session, round));
        assert!(matches!(file.budget.receipt(session, round, plan, 8), Err(BudgetError::NotCharged { .. })));
        file.take(file.budget.charge(session, round, 3, plan, &m, false));
        file.take(file.budget.sign_consistency(session, round, plan));
        file.take(file.budget.receipt(session, round, plan, 8));

        let (restarted, _) = Budget::parse(&file.bytes).expect("sound");
        for budget in [&file.budget, &restarted] {
            for earlier in [0, 4, 5] {
                assert!(matches!(begin(budget, session, RoundNumber(earlier)), Err(BudgetError::RoundNotNew { .. })));
            }
            assert!(matches!(budget.charge(session, round, 4, plan, &m, false), Err(BudgetError::AlreadyDone { .. })));
            // Neither another statement nor the same one.
            for statement in [plan, Digest::ZERO] {
                let signed = budget.sign_consistency(session, round, statement);
                assert!(matches!(signed, Err(BudgetError::AlreadyDone { .. })));
            }
            assert!(matches!(budget.receipt(session, round, plan, 8), Err(BudgetError::AlreadyDone { .. })));
        }
        let next = RoundNumber(6);
        file.take(begin(&file.budget, session, next));
        for attempt in [0, 3, 156] {
            let charge = file.budget.charge(session, next, attempt, plan, &m, false);
            assert!(matches!(charge, Err(BudgetError::Attempt { least: 4, most: 155, .. })), "{attempt}: {charge:?}");
        }
        assert!(file.budget.charge(session, next, 155, plan, &m, false).is_ok());
    }

    #[test]
    fn a_session_keeps_the_mechanism_of_its_first_charge_even_after_a_restart() {
        let mut file = File::new(terms());
        file.round(session(b"task"), 1);
        let other = NoiseDoubled::of(&mechanism());
        for budget in [file.budget.clone(), Budget::parse(&file.bytes).expect("whole").0] {
            let mut budget = budget;
            assert_eq!(budget.keeps_mechanism(session(b"task"), &mechanism()), Ok(()));
            assert_eq!(budget.keeps_mechanism(session(b"task"), &other), Err(BudgetError::OtherMechanism));
            assert_eq!(budget.keeps_mechanism(session(b"next task"), &other), Ok(()));
            let round = RoundNumber(2);
            let begin = begin(&budget, session(b"task"), round).expect("allowed");
            budget.commit(begin).expect("on its state");
            let charge = budget.charge(session(b"task"), round, 2, Digest::of(b"plan"), &other, false);
            assert_eq!(charge.err(), Some(BudgetError::OtherMechanism));
        }
    }

    #[test]
    fn the_limit_holds_over_every_task_and_is_never_refunded() {
        let m = mechanism();
        let limit = m.promised_epsilon(4, 1e-5);
        let mut file = File::new(Terms { epsilon_limit: limit, ..terms() });
        assert_eq!(file.budget.epsilon_spent(), 0.0);
        assert_eq!(file.budget.attempts_left(session(b"next"), &m, 100), 4);
        file.round(session(b"a"), 1);
        file.round(session(b"b"), 1);
        // Charged and never released: counted all the same, also after a restart.
        let (s, round) = (session(b"c"), RoundNumber(9));
        file.take(begin(&file.budget, s, round));
        file.take(file.budget.charge(s, round, 1, Digest::ZERO, &m, false));
        file.round(session(b"d"), 3);
        let (restarted, _) = Budget::parse(&file.bytes).expect("sound");
        for budget in [&file.budget, &restarted] {
            assert_eq!(budget.epsilon_spent(), limit);
            assert_eq!(budget.attempts_left(session(b"next"), &m, 100), 0);
            match budget.can_afford(session(b"next"), &m, false) {
                Err(BudgetError::Exceeded { epsilon_spent, n_reserved, epsilon_after, epsilon_limit }) => {
                    assert_eq!((epsilon_spent, n_reserved, epsilon_limit), (limit, 0, limit));
                    assert_eq!(epsilon_after, m.promised_epsilon(5, 1e-5));
                }
                other => panic!("{other:?}"),
            }
        }
        let (s, round) = (session(b"e"), RoundNumber(1));
        assert!(matches!(begin(&file.budget, s, round), Err(BudgetError::Exceeded { .. })), "its keys never leave");
        // A log from before there were reservations may have begun it: it is not charged.
        let begun = file.budget.prepare(Record::Begun { session: s, round, reserved: None });
        file.take(begun);
        assert!(matches!(file.budget.charge(s, round, 1, Digest::ZERO, &m, false), Err(BudgetError::Exceeded { .. })));
    }

    #[test]
    fn attempts_under_way_add_up_until_they_are_charged_or_given_back() {
        let m = mechanism();
        let limit = m.promised_epsilon(3, 1e-5);
        let mut file = File::new(Terms { epsilon_limit: limit, ..terms() });
        let [a, b, c, d] = [b"a", b"b", b"c", b"d"].map(|name| session(name));
        let one = RoundNumber(1);
        for s in [a, b, c] {
            file.take(begin(&file.budget, s, one));
        }
        let exceeded = |budget: &Budget| match begin(budget, d, one) {
            Err(BudgetError::Exceeded { epsilon_spent, n_reserved, epsilon_after, .. }) => {
                Some((epsilon_spent, n_reserved, epsilon_after))
            }
            _ => None,
        };
        for budget in [&file.budget, &Budget::parse(&file.bytes).expect("sound").0] {
            assert_eq!((budget.n_reserved(), budget.epsilon_spent(), budget.epsilon_reserved()), (3, 0.0, limit));
            assert_eq!(exceeded(budget), Some((0.0, 3, m.promised_epsilon(4, 1e-5))));
            assert_eq!(budget.attempts_left(a, &m, 100), 1, "its own is not in its way");
            assert!(budget.can_afford(a, &m, false).is_ok() && budget.can_afford(d, &m, false).is_err());
        }
        // A charge takes the reservation's place.
        file.take(file.budget.charge(a, one, 1, Digest::ZERO, &m, false));
        assert_eq!((file.budget.n_reserved(), file.budget.epsilon_reserved()), (2, limit));
        assert_eq!(exceeded(&file.budget), Some((m.promised_epsilon(1, 1e-5), 2, m.promised_epsilon(4, 1e-5))));
        assert_eq!(file.budget.give_back(a, one).err(), Some(BudgetError::NotReserved { round: one }), "for ever");
        // The session's next round does, too: the round before can no longer be charged for it.
        file.take(begin(&file.budget, b, RoundNumber(2)));
        assert_eq!((file.budget.n_reserved(), file.budget.epsilon_reserved()), (2, limit));
        // What is given back is free, and its round is over: nothing of it can be charged or given back again.
        file.take(file.budget.give_back(c, one));
        assert_eq!(file.budget.give_back(c, one).err(), Some(BudgetError::NotReserved { round: one }));
        let charge = file.budget.charge(c, one, 1, Digest::ZERO, &m, false);
        assert_eq!(charge.err(), Some(BudgetError::NotBegun { round: one }));
        assert!(matches!(begin(&file.budget, c, one), Err(BudgetError::RoundNotNew { .. })));
        file.take(begin(&file.budget, d, one));
        let (read, _) = Budget::parse(&file.bytes).expect("sound");
        assert_eq!((read.n_reserved(), read.epsilon_reserved(), read.is_reserved(d, one)), (2, limit, true));
        assert_eq!(read.begun_uncharged().map(|(s, _)| s == b || s == d), Some(true));
    }

    #[test]
    fn what_another_process_appends_is_read_on() {
        let mut file = File::new(terms());
        let (mut other, _) = Budget::parse(&file.bytes).expect("sound");
        file.round(session(b"a"), 1);
        let n_known = other.n_bytes() as usize;
        assert_eq!(other.read_on(&file.bytes[n_known..]), Ok(None));
        assert_eq!((other.head(), other.n_bytes()), (file.budget.head(), file.bytes.len() as u64));
        assert_eq!(other.epsilon_spent(), file.budget.epsilon_spent());
        // A torn write of the other process is named by its place in the whole file, and damage by its own.
        let next = begin(&file.budget, session(b"b"), RoundNumber(1)).expect("allowed");
        let torn = TornTail { len_valid: file.bytes.len() as u64, n_bytes: 20 };
        assert_eq!(other.read_on(&next.bytes()[..20]), Ok(Some(torn)));
        let damaged = other.read_on(b"not a record, whatever else");
        assert!(matches!(damaged, Err(BudgetError::Damaged { offset, index: 5, .. }) if offset == file.bytes.len()));
        assert_eq!(other.read_on(next.bytes()), Ok(None));
        assert!(other.is_reserved(session(b"b"), RoundNumber(1)));
    }

    #[test]
    fn a_log_from_before_there_were_reservations_is_read_and_gone_on_with() {
        let mut file = File::new(terms());
        let (session, round) = (session(b"a"), RoundNumber(1));
        file.take(file.budget.prepare(Record::Begun { session, round, reserved: None }));
        file.take(file.budget.charge(session, round, 1, Digest::of(b"plan"), &mechanism(), false));
        file.take(file.budget.prepare(Record::Receipt { session, round, entry: Digest::ZERO, survivors: None }));
        file.take(begin(&file.budget, session, RoundNumber(2)));
        let (read, _) = Budget::parse(&file.bytes).expect("sound");
        assert_eq!((read.n_charged(), read.n_receipts(), read.n_reserved()), (1, 1, 1));
        let report = &read.sessions()[0];
        assert_eq!((report.task.as_ref(), report.reserved), (Some(&task()), Some(RoundNumber(2))));
        assert_eq!(report.epsilon_attained, Some(report.epsilon_spent[0]), "nobody noted more than the least noise");
    }

    #[test]
    fn each_session_tells_what_it_cost_what_was_attained_and_what_is_left() {
        let m = mechanism();
        let limit = m.promised_epsilon(10, 1e-5) + 1e-9;
        let mut file = File::new(Terms { epsilon_limit: limit, ..terms() });
        file.round(session(b"z"), 1);
        file.round(session(b"a"), 1);
        file.round(session(b"a"), 4);
        let (s, round) = (session(b"a"), RoundNumber(5));
        file.take(begin(&file.budget, s, round));
        file.take(file.budget.charge(s, round, 5, Digest::ZERO, &m, false));
        let reports = Budget::parse(&file.bytes).expect("sound").0.sessions();
        assert_eq!(reports.iter().map(|report| report.session).collect::<Vec<_>>(), [session(b"z"), s]);
        let report = &reports[1];
        assert_eq!((report.n_charged, report.n_receipts, report.reserved), (3, 2, None));
        assert_eq!(report.epsilon_spent, [m.promised_epsilon(3, 1e-5), f64::INFINITY]);
        // Eight survivors of two attempts; the third was not released and counts with the least, seven.
        let attained = m.attained_epsilon(View::CoordinatorWithColluders, &[8, 8, 7], 1e-5);
        assert_eq!(report.epsilon_attained, Some(attained));
        assert!(attained < report.epsilon_spent[0]);
        assert_eq!(
            (report.attempts_left, report.attempts_left_by_plan),
            (6, 150),
            "the accountant says, four are charged"
        );
    }

    #[test]
    fn a_charge_without_noise_leaves_no_guarantee_for_ever() {
        let (noisy, bare) = (mechanism(), mechanism_with(NoiseTarget::None));
        let mut file = File::new(terms());
        file.round(session(b"a"), 1);
        let spent = file.budget.epsilon_spent();
        let (s, round, plan) = (session(b"b"), RoundNumber(1), Digest::of(b"plan"));
        file.take(begin(&file.budget, s, round));
        let reserve = |allow| file.budget.begin(session(b"c"), round, &task(), &bare, allow).err();
        assert_eq!((reserve(false), reserve(true)), (Some(BudgetError::NoNoise), None));
        let refused = file.budget.charge(s, round, 1, plan, &bare, false);
        assert_eq!(refused.err(), Some(BudgetError::NoNoise));
        // What was refused cost nothing.
        assert_eq!((file.budget.epsilon_spent(), file.budget.n_without_noise()), (spent, 0));
        file.take(file.budget.charge(s, round, 1, plan, &bare, true));
        let (restarted, _) = Budget::parse(&file.bytes).expect("sound");
        for budget in [&file.budget, &restarted] {
            assert_eq!((budget.epsilon_spent(), budget.n_without_noise()), (f64::INFINITY, 1));
            assert_eq!(budget.attempts_left(session(b"next"), &noisy, 10), 0);
            // Nor does noise bring it back, in this task or another.
            assert_eq!(budget.can_afford(session(b"next"), &noisy, false), Err(BudgetError::GuaranteeLost));
            assert_eq!(
                (budget.can_afford(session(b"next"), &noisy, true), budget.can_afford(session(b"next"), &bare, true)),
                (Ok(()), Ok(()))
            );
            assert_eq!(begin(budget, session(b"c"), round).err(), Some(BudgetError::GuaranteeLost));
            let next = budget.begin(session(b"c"), round, &task(), &noisy, true).expect("allowed");
            let mut budget = budget.clone();
            budget.commit(next).expect("on its state");
            let charge = |allow| budget.charge(session(b"c"), round, 1, plan, &noisy, allow).map(|_| ());
            assert_eq!(charge(false), Err(BudgetError::GuaranteeLost));
            assert_eq!(charge(true), Ok(()));
        }
    }

    #[test]
    fn a_permission_to_go_without_noise_raises_no_limit() {
        let m = mechanism();
        let file = File::new(Terms { epsilon_limit: m.promised_epsilon(1, 1e-5) / 2.0, ..terms() });
        assert!(matches!(file.budget.can_afford(session(b"next"), &m, true), Err(BudgetError::Exceeded { .. })));
    }

    #[test]
    fn different_mechanisms_compose_by_their_curves_and_pay_for_being_chosen_one_after_the_other() {
        let m = mechanism();
        let more_noise = NoiseDoubled::of(&m);
        let mut file = File::new(terms());
        file.round(session(b"a"), 1);
        let (s, round) = (session(b"b"), RoundNumber(1));
        file.take(begin(&file.budget, s, round));
        file.take(file.budget.charge(s, round, 1, Digest::ZERO, &more_noise, false));
        let mut accountant = Accountant::new();
        accountant.compose_curve(&m.promised_curve(), 1, 1e-12);
        accountant.compose_curve(&more_noise.promised_curve(), 1, 1e-12);
        assert_eq!(file.budget.epsilon_spent(), accountant.adaptive_epsilon(1e-5));
        assert!(accountant.adaptive_epsilon(1e-5) > accountant.epsilon(1e-5));
        let (read, _) = Budget::parse(&file.bytes).expect("sound");
        assert_eq!(read.epsilon_spent(), file.budget.epsilon_spent());
        // What it would come to is known before: the first mechanism alone, however often, is no choice; the second is.
        let mut alone = File::new(Terms { epsilon_limit: accountant.epsilon(1e-5), ..terms() });
        alone.round(session(b"a"), 1);
        assert_eq!(alone.budget.epsilon_after(session(b"next"), &m, 1), m.promised_epsilon(2, 1e-5));
        assert_eq!(alone.budget.epsilon_after(session(b"next"), &more_noise, 1), file.budget.epsilon_spent());
        assert!(matches!(
            alone.budget.can_afford(session(b"next"), &more_noise, false),
            Err(BudgetError::Exceeded { .. })
        ));
    }

    fn client_mechanism() -> Mechanism {
        static MECHANISM: std::sync::LazyLock<Mechanism> = std::sync::LazyLock::new(|| {
            let mechanism = design_client(&ClientTarget {
                groups: Groups::default(),
                l2_clip_norm: 1.0,
                n_parameters: 1000,
                n_max: 100,
                u_min: 90,
                max_colluders: 2,
                training: LocalTraining { steps: 1, batch_size: 8, learning_rate: 0.1 },
                max_attempts: 20,
                noise: NoiseTarget::Distributed { epsilon: 1.0 },
                delta: 1e-5,
            });
            mechanism.expect("reachable").into()
        });
        MECHANISM.clone()
    }

    #[test]
    fn a_session_whose_clip_adapts_is_charged_as_one_mechanism() {
        let share = Share::from_millionths(10_000).expect("a share");
        let adaptive = AdaptiveClip { l2_clip_norm_min: 0.1, l2_clip_norm_max: 10.0, share };
        let Mechanism::Record(fixed) = mechanism() else { panic!("unit = record") };
        let groups = Groups::new(None, Some(adaptive)).expect("groups");
        let first: Mechanism =
            RecordMechanism::new(RecordParameters { groups, ..fixed.parameters().clone() }).expect("sound").into();
        let mut file = File::new(terms());
        for (round, clip) in [(1, 1.0), (2, 1.5), (3, 0.7)] {
            let mechanism = first.with_clip(clip).expect("within the bounds");
            let begun = file.budget.begin(session(b"task"), RoundNumber(round), &task(), &mechanism, false);
            file.take(begun);
            let epsilon_after = file.budget.epsilon_after(session(b"task"), &mechanism, 1);
            assert_eq!(epsilon_after, first.promised_epsilon(round as u32, 1e-5));
            let plan = Digest::of(b"plan");
            let (round, attempt) = (RoundNumber(round), round as u32);
            file.take(file.budget.charge(session(b"task"), round, attempt, plan, &mechanism, false));
        }
        // No more than three attempts of one mechanism, since none was chosen by what another released: the same read back.
        let (read, _) = Budget::parse(&file.bytes).expect("sound");
        assert_eq!(read.epsilon_spent(), first.promised_epsilon(3, 1e-5));
        assert_eq!(read.epsilon_spent(), mechanism().promised_epsilon(3, 1e-5), "nor more than without groups");
        // Other bounds, or none, are another mechanism.
        assert_eq!(read.keeps_mechanism(session(b"task"), &mechanism()), Err(BudgetError::OtherMechanism));
        let wider = AdaptiveClip { l2_clip_norm_max: 20.0, ..adaptive };
        let groups = Groups::new(None, Some(wider)).expect("groups");
        let wider = RecordMechanism::new(RecordParameters { groups, ..fixed.parameters().clone() }).expect("sound");
        assert_eq!(read.keeps_mechanism(session(b"task"), &wider.into()), Err(BudgetError::OtherMechanism));
    }

    #[test]
    fn every_release_is_charged_to_records_and_to_the_client_alike() {
        let (of_record, of_client) = (mechanism(), client_mechanism());
        let mut file = File::new(terms());
        let charge = |file: &mut File, name: &[u8], mechanism: &Mechanism| {
            let (session, round) = (session(name), RoundNumber(1));
            file.take(begin(&file.budget, session, round));
            file.take(file.budget.charge(session, round, 1, Digest::ZERO, mechanism, false));
        };
        let spent = |file: &File| {
            let (read, _) = Budget::parse(&file.bytes).expect("sound");
            let units = [UnitOfPrivacy::Record, UnitOfPrivacy::Client];
            let spent = units.map(|unit| file.budget.epsilon_spent_of(unit));
            assert_eq!(units.map(|unit| read.epsilon_spent_of(unit)), spent);
            assert_eq!(file.budget.epsilon_spent(), spent[0]);
            spent
        };
        let epsilon = |curves: &[RdpCurve], failure: f64| {
            let mut accountant = Accountant::new();
            curves.iter().for_each(|curve| accountant.compose_curve(curve, 1, 0.0));
            accountant.compose_curve(&RdpCurve::default(), 1, failure);
            accountant.epsilon(1e-5)
        };
        // A client-level release: its own epsilon to the client, that of a replacement to each record.
        charge(&mut file, b"a", &of_client);
        let replaced = of_client.curve_for(UnitOfPrivacy::Record);
        assert_eq!(
            spent(&file),
            [epsilon(std::slice::from_ref(&replaced), 0.0), epsilon(&[of_client.promised_curve()], 0.0)]
        );
        assert!(spent(&file)[0] > 2.0 * spent(&file)[1]);
        // A record-level release on top: the total of records has both, and nothing is promised to the client any more.
        charge(&mut file, b"b", &of_record);
        let mut both = Accountant::new();
        both.compose_curve(&replaced, 1, 0.0);
        both.compose_curve(&of_record.promised_curve(), 1, 1e-12);
        let [record, client] = spent(&file);
        assert_eq!(record, both.adaptive_epsilon(1e-5));
        assert!(record > epsilon(&[of_record.promised_curve()], 1e-12));
        assert_eq!(client, f64::INFINITY);
        // The limit is on records: it counts both.
        let mut tight = File::new(Terms { epsilon_limit: record - 1e-6, ..terms() });
        charge(&mut tight, b"a", &of_client);
        assert!(matches!(
            tight.budget.can_afford(session(b"next"), &of_record, false),
            Err(BudgetError::Exceeded { .. })
        ));
    }

    #[test]
    fn a_budget_for_clients_counts_client_level_releases_at_their_own_price() {
        let of_client = client_mechanism();
        let limit = of_client.promised_epsilon(3, 1e-5);
        let budget = File::new(Terms { unit: UnitOfPrivacy::Client, epsilon_limit: limit, ..terms() }).budget;
        assert_eq!(budget.attempts_left(session(b"next"), &of_client, 100), 3);
        let budget = File::new(Terms { epsilon_limit: limit, ..terms() }).budget;
        assert_eq!(budget.attempts_left(session(b"next"), &of_client, 100), 0);
    }

    struct NoiseDoubled;

    impl NoiseDoubled {
        fn of(mechanism: &Mechanism) -> Mechanism {
            let Mechanism::Record(mechanism) = mechanism else { panic!("a record-level mechanism") };
            let mut parameters = mechanism.parameters().clone();
            let variance = parameters.noise.share_variance().expect("noise");
            let doubled = crate::NoiseVariance::from_numerator(variance.numerator() * 2).expect("in range");
            parameters.noise = Noise::Distributed(doubled);
            parameters.bits += 1;
            RecordMechanism::new(parameters).expect("sound").into()
        }
    }

    #[test]
    fn a_step_prepared_on_an_older_state_is_not_taken() {
        let mut file = File::new(terms());
        let begin = |round| begin(&file.budget, session(b"a"), RoundNumber(round)).expect("allowed");
        let (first, second) = (begin(1), begin(2));
        file.budget.commit(first).expect("on its state");
        assert_eq!(file.budget.commit(second), Err(BudgetError::Stale));
    }

    #[test]
    fn terms_out_of_range_and_other_units_are_refused() {
        for bad in [
            Terms { data_set: String::new(), ..terms() },
            Terms { data_set: "x".repeat(256), ..terms() },
            Terms { epsilon_limit: f64::NAN, ..terms() },
            Terms { epsilon_limit: -1.0, ..terms() },
            Terms { epsilon_limit: f64::INFINITY, ..terms() },
            Terms { delta: 0.0, ..terms() },
            Terms { delta: 1.0, ..terms() },
        ] {
            assert!(Budget::create(bad).is_err());
        }
        let file = File::new(Terms { unit: UnitOfPrivacy::Client, ..terms() });
        assert_eq!(file.budget.can_afford(session(b"next"), &mechanism(), false), Err(BudgetError::Unit));
        assert_eq!(file.budget.can_afford(session(b"next"), &mechanism(), true), Err(BudgetError::Unit));
        let long = file.budget.refuse(session(b"a"), RoundNumber(1), &"x".repeat(REASON_LEN_MAX + 1));
        assert!(matches!(long, Err(BudgetError::TextTooLong { .. })));
    }

    #[test]
    fn no_bytes_make_the_reader_panic() {
        use eranos_base::Entropy;
        let bytes = small().bytes;
        let mut entropy = eranos_base::SeededEntropy::new(13);
        for _ in 0..3000 {
            let mut mutated = bytes.clone();
            for _ in 0..4 {
                let at = u32::from_le_bytes(entropy.bytes()) as usize % mutated.len();
                mutated[at] = entropy.bytes::<1>()[0];
            }
            mutated.truncate(u32::from_le_bytes(entropy.bytes()) as usize % (2 * bytes.len()));
            let _ = Budget::parse(&mutated);
        }
        let mut random = vec![0; 400];
        for _ in 0..1000 {
            entropy.fill(&mut random);
            assert!(Budget::parse(&random).is_err());
        }
    }
}
