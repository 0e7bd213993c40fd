//! A client's durable budget for one data set and one unit of privacy, as bytes: an append-only log in which each record
//! carries the hash of the one before it.
//!
//! This module does no I/O. Every step is asked for ([`Budget::charge`] and its like), which yields an [`Append`]; the
//! client appends [`Append::bytes`] to its file, syncs it, and only then takes the step with [`Budget::commit`]. What
//! was spent is recomputed by the accountant from the charged events; nothing is ever refunded. One budget covers a data
//! set and a unit whatever the task, mode or certificate.
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
//! | 1 begun | session (digest), round (`u64`) |
//! | 2 charged | session, round, attempt (`u32`, from 1), plan (digest), mechanism (its canonical encoding) |
//! | 3 consistency signed | session, round, statement (digest) |
//! | 4 receipt | session, round, ledger entry (digest) |
//! | 5 refused | session, round, reason (text) |
//!
//! A crash can leave only a beginning of the last frame: that is a [`TornTail`], to be cut off, and harmless because
//! nothing is done before its record is synced. Anything else that does not fit is damage, and no state is given. What the
//! chain cannot show is a file that was cut between two frames (an older copy restored): for that, the client compares
//! [`Budget::n_charged`] with what the ledger and the coordinator know.

use std::collections::{HashMap, HashSet};

use eranos_base::{
    Digest, RoundNumber, SessionId,
    encoding::{Canonical, CanonicalReader, DecodeError},
    limits::REASON_LEN_MAX,
};

use crate::{
    accountant::{Accountant, RdpCurve},
    mechanism::{MechanismError, RecordMechanism},
};

/// What one budget protects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum UnitOfPrivacy {
    /// One record, added or removed.
    Record = 0,
    /// One client.
    Client = 1,
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
    #[error("epsilon {epsilon_after:.4} after this attempt, limit {epsilon_limit} ({epsilon_spent:.4} spent)")]
    Exceeded {
        /// What is spent.
        epsilon_spent: f64,
        /// What would be spent.
        epsilon_after: f64,
        /// The limit.
        epsilon_limit: f64,
    },
    /// A budget of another unit.
    #[error("a record-level release cannot be charged to a budget of unit client")]
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
        mechanism: Box<RecordMechanism>,
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

/// The state of a budget: what its log says.
#[derive(Clone, Debug)]
pub struct Budget {
    terms: Terms,
    n_records: u64,
    head: Digest,
    accountant: Accountant,
    n_charged: u64,
    sessions: HashMap<SessionId, Session>,
    curves: Curves,
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
        Ok((Self::first(terms, head), bytes))
    }

    /// Reads a whole file: the state that its records amount to, and the torn record at its end if there is one.
    ///
    /// Every record is checked as if it were asked for again, so that a file which no sequence of steps could have
    /// written is damaged too.
    ///
    /// # Errors
    /// If anything in it is damaged, or not even the first record is complete.
    pub fn parse(file: &[u8]) -> Result<(Self, Option<TornTail>), BudgetError> {
        let mut offset = 0;
        let mut budget: Option<Self> = None;
        let mut mechanisms = HashMap::new();
        while offset < file.len() {
            let (index, previous) = budget.as_ref().map_or((0, Digest::ZERO), |b| (b.n_records, b.head));
            let damaged = |what: String| BudgetError::Damaged { offset, index, what };
            let (body, head, len) = match read_frame(&file[offset..], index, &previous) {
                Frame::Whole { body, head, len } => (body, head, len),
                Frame::Torn => break,
                Frame::Damaged(what) => return Err(damaged(what.to_owned())),
            };
            let record = read_body(body, index, &previous, &mut mechanisms).map_err(|e| damaged(e.to_string()))?;
            match (&mut budget, record) {
                (None, Record::Created(terms)) => {
                    check_terms(&terms).map_err(|e| damaged(e.to_string()))?;
                    budget = Some(Self::first(terms, head));
                }
                (None, _) => return Err(damaged("the first record does not create a budget".to_owned())),
                (Some(budget), record) => {
                    // The limit is not asked again: a charge that was made counts, whatever an accountant says today.
                    budget.check(&record).map_err(|e| damaged(e.to_string()))?;
                    budget.apply(&record, head);
                }
            }
            offset += len;
        }
        let budget = budget.ok_or(BudgetError::Empty)?;
        let n_bytes = (file.len() - offset) as u64;
        Ok((budget, (n_bytes > 0).then_some(TornTail { len_valid: offset as u64, n_bytes })))
    }

    /// What the budget is for.
    pub fn terms(&self) -> &Terms {
        &self.terms
    }

    /// How many records the log has.
    pub fn n_records(&self) -> u64 {
        self.n_records
    }

    /// The hash of the last record: the head of the chain.
    pub fn head(&self) -> Digest {
        self.head
    }

    /// How many attempts were ever charged.
    pub fn n_charged(&self) -> u64 {
        self.n_charged
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

    /// Whether the attempt of this round was charged.
    pub fn is_charged(&self, session: SessionId, round: RoundNumber) -> bool {
        self.sessions.get(&session).is_some_and(|s| s.charged.contains(&round))
    }

    /// The statement signed for the survivors of this round, if one was.
    pub fn signed_statement(&self, session: SessionId, round: RoundNumber) -> Option<Digest> {
        self.sessions.get(&session)?.signed.get(&round).copied()
    }

    /// Epsilon of all that was charged, at the budget's delta; 0 if nothing was.
    pub fn epsilon_spent(&self) -> f64 {
        if self.n_charged == 0 { 0.0 } else { self.accountant.epsilon(self.terms.delta) }
    }

    /// Epsilon after `n_attempts` more of `mechanism`.
    pub fn epsilon_after(&self, mechanism: &RecordMechanism, n_attempts: u64) -> f64 {
        if n_attempts == 0 {
            return self.epsilon_spent();
        }
        let mut accountant = self.accountant.clone();
        accountant.compose_curve(&self.curves.of(mechanism), n_attempts, mechanism.cut_probability());
        accountant.epsilon(self.terms.delta)
    }

    /// Whether one more attempt of `mechanism` stays within the limit.
    ///
    /// # Errors
    /// If it does not, or this budget is of another unit.
    pub fn can_afford(&self, mechanism: &RecordMechanism) -> Result<(), BudgetError> {
        if self.terms.unit != UnitOfPrivacy::Record {
            return Err(BudgetError::Unit);
        }
        let epsilon_after = self.epsilon_after(mechanism, 1);
        if epsilon_after <= self.terms.epsilon_limit {
            return Ok(());
        }
        let (epsilon_spent, epsilon_limit) = (self.epsilon_spent(), self.terms.epsilon_limit);
        Err(BudgetError::Exceeded { epsilon_spent, epsilon_after, epsilon_limit })
    }

    /// How many more attempts of `mechanism` stay within the limit, counted up to `most`.
    pub fn attempts_left(&self, mechanism: &RecordMechanism, most: u32) -> u32 {
        let (mut affordable, mut beyond) = (0, u64::from(most) + 1);
        while affordable + 1 < beyond {
            let middle = affordable + (beyond - affordable) / 2;
            if self.epsilon_after(mechanism, middle) <= self.terms.epsilon_limit {
                affordable = middle;
            } else {
                beyond = middle;
            }
        }
        affordable as u32
    }

    /// Prepares to take part in `round`.
    ///
    /// # Errors
    /// If the session has begun this round or a later one.
    pub fn begin(&self, session: SessionId, round: RoundNumber) -> Result<Append, BudgetError> {
        self.prepare(Record::Begun { session, round })
    }

    /// Prepares to charge one attempt.
    ///
    /// # Errors
    /// If the round was not begun, is charged already, or the charge would exceed the limit.
    pub fn charge(
        &self,
        session: SessionId,
        round: RoundNumber,
        attempt: u32,
        plan: Digest,
        mechanism: &RecordMechanism,
    ) -> Result<Append, BudgetError> {
        self.can_afford(mechanism)?;
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

    /// Prepares to note the ledger's entry of a charged attempt.
    ///
    /// # Errors
    /// If the attempt was not charged, or has its receipt.
    pub fn receipt(&self, session: SessionId, round: RoundNumber, entry: Digest) -> Result<Append, BudgetError> {
        self.prepare(Record::Receipt { session, round, entry })
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
        self.apply(&append.record, append.head);
        Ok(())
    }

    fn first(terms: Terms, head: Digest) -> Self {
        Self {
            terms,
            n_records: 1,
            head,
            accountant: Accountant::new(),
            n_charged: 0,
            sessions: HashMap::new(),
            curves: Curves::default(),
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
            Record::Begun { session, round } => match self.last_begun(*session) {
                Some(begun) if *round <= begun => Err(BudgetError::RoundNotNew { round: *round, begun }),
                _ => Ok(()),
            },
            Record::Charged { session, round, attempt, mechanism, .. } => {
                if self.terms.unit != UnitOfPrivacy::Record {
                    return Err(BudgetError::Unit);
                }
                let session = begun(session, round)?;
                if session.charged.contains(round) {
                    return Err(BudgetError::AlreadyDone { round: *round, step: "charge" });
                }
                let (least, most) = (session.last_attempt.saturating_add(1), mechanism.parameters().max_attempts);
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
                if session.receipts.contains(round) {
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

    /// Takes in a checked record.
    fn apply(&mut self, record: &Record, head: Digest) {
        self.n_records += 1;
        self.head = head;
        match record {
            Record::Created(_) | Record::Refused { .. } => {}
            Record::Begun { session, round } => {
                let session = self.sessions.entry(*session).or_default();
                session.last_begun = *round;
                session.begun.insert(*round);
            }
            Record::Charged { session, round, attempt, mechanism, .. } => {
                let curve = self.curves.remember(mechanism);
                self.accountant.compose_curve(&curve, 1, mechanism.cut_probability());
                self.n_charged += 1;
                let session = self.sessions.entry(*session).or_default();
                session.charged.insert(*round);
                session.last_attempt = *attempt;
            }
            Record::ConsistencySigned { session, round, statement } => {
                self.sessions.entry(*session).or_default().signed.insert(*round, *statement);
            }
            Record::Receipt { session, round, .. } => {
                self.sessions.entry(*session).or_default().receipts.insert(*round);
            }
        }
    }
}

/// What happened in one session.
#[derive(Clone, Debug, Default)]
struct Session {
    last_begun: RoundNumber,
    last_attempt: u32,
    begun: HashSet<RoundNumber>,
    charged: HashSet<RoundNumber>,
    signed: HashMap<RoundNumber, Digest>,
    receipts: HashSet<RoundNumber>,
}

/// The curve of each mechanism seen, so that a long log is not recomputed record by record.
#[derive(Clone, Debug, Default)]
struct Curves(HashMap<Vec<u8>, RdpCurve>);

impl Curves {
    fn of(&self, mechanism: &RecordMechanism) -> RdpCurve {
        self.0.get(&mechanism.encode()).cloned().unwrap_or_else(|| mechanism.promised_curve())
    }

    fn remember(&mut self, mechanism: &RecordMechanism) -> RdpCurve {
        self.0.entry(mechanism.encode()).or_insert_with(|| mechanism.promised_curve()).clone()
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
        Record::Begun { session, round } => place(body, KIND_BEGUN, session, round),
        Record::Charged { session, round, attempt, plan, mechanism } => {
            place(body, KIND_CHARGED, session, round).u32(*attempt).digest(plan).field(&mechanism.encode())
        }
        Record::ConsistencySigned { session, round, statement } => {
            place(body, KIND_CONSISTENCY, session, round).digest(statement)
        }
        Record::Receipt { session, round, entry } => place(body, KIND_RECEIPT, session, round).digest(entry),
        Record::Refused { session, round, reason } => place(body, KIND_REFUSED, session, round).text(reason),
    }
    .finish();
    let head = Digest::of(&body);
    let len = body.len() as u32;
    let bytes = [&len.to_le_bytes()[..], &(!len).to_le_bytes(), &body, head.as_bytes()].concat();
    (bytes, head)
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
    mechanisms: &mut HashMap<&'a [u8], Box<RecordMechanism>>,
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
        match kind {
            KIND_BEGUN => Record::Begun { session, round },
            KIND_CHARGED => Record::Charged {
                session,
                round,
                attempt: reader.u32()?,
                plan: reader.digest()?,
                mechanism: {
                    let bytes = reader.field()?;
                    match mechanisms.get(bytes) {
                        Some(mechanism) => mechanism.clone(),
                        None => {
                            let mechanism = Box::new(RecordMechanism::decode(bytes)?);
                            mechanisms.insert(bytes, mechanism.clone());
                            mechanism
                        }
                    }
                },
            },
            KIND_CONSISTENCY => Record::ConsistencySigned { session, round, statement: reader.digest()? },
            KIND_RECEIPT => Record::Receipt { session, round, entry: reader.digest()? },
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
