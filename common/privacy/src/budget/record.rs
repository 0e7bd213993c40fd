//! The records of a budget, and the file that they stand in.
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
//! | 9 charged, and the filters fixed | as 2; then for records and for clients: order (`u32`), epsilon, delta of its divergence, failures (each `f64`) |
//!
//! The first charge fixes the filters, and no other does. In a log from before they were recorded the next charge does: until
//! then they are those that begin with its first mechanism.
//!
//! A crash can leave only a beginning of the last frame: that is a [`TornTail`], to be cut off, and harmless because
//! nothing is done before its record is synced. Anything else that does not fit is damage, and no state is given. What the
//! chain cannot show is a file that was cut between two frames (an older copy restored): for that, the client compares
//! [`Budget::n_charged`] with what the ledger and the coordinator know.

use std::collections::HashMap;

use eranos_base::{
    Digest, RoundNumber, SessionId, TaskId,
    encoding::{Canonical, CanonicalReader, DecodeError},
};

use super::{Budget, Terms, UnitOfPrivacy, check_terms};
use crate::{
    accountant::filter::RenyiFilter,
    mechanism::{Mechanism, MechanismError},
};

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
        /// What all charges, this one and every later, have to pass, for records and for clients; with the first charge alone.
        filters: Option<Box<[RenyiFilter; 2]>>,
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

/// A record as it stands in the file, and the hash of its body.
pub(super) fn frame(index: u64, previous: &Digest, record: &Record) -> (Vec<u8>, Digest) {
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
        Record::Charged { session, round, attempt, plan, mechanism, filters } => {
            let kind = if filters.is_some() { KIND_CHARGED_FIRST } else { KIND_CHARGED };
            let body = place(body, kind, session, round).u32(*attempt).digest(plan).field(&mechanism.encode());
            filters.iter().flat_map(|filters| filters.iter()).fold(body, |body, filter| filter.encode(body))
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
pub(super) fn read_first(file: &[u8]) -> Result<Option<Budget>, String> {
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

pub(super) enum Frame<'a> {
    Whole { body: &'a [u8], head: Digest, len: usize },
    Torn,
    Damaged(&'static str),
}

/// The first frame of `bytes`, which are not empty.
pub(super) fn read_frame<'a>(bytes: &'a [u8], index: u64, previous: &Digest) -> Frame<'a> {
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
pub(super) fn read_body<'a>(
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
            KIND_CHARGED | KIND_CHARGED_FIRST => Record::Charged {
                session,
                round,
                attempt: reader.u32()?,
                plan: reader.digest()?,
                mechanism: mechanism(&mut reader)?,
                filters: match kind {
                    KIND_CHARGED => None,
                    _ => Some(Box::new([RenyiFilter::decode(&mut reader)?, RenyiFilter::decode(&mut reader)?])),
                },
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
pub(super) enum BodyError {
    #[error(transparent)]
    Decode(#[from] DecodeError),
    #[error(transparent)]
    Mechanism(#[from] MechanismError),
    #[error("it says that it is record {found}, expected {expected}")]
    Index { found: u64, expected: u64 },
    #[error("it does not follow the record before it")]
    Chain,
}

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
const KIND_CHARGED_FIRST: u8 = 9;
