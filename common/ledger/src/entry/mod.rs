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

mod attempt;
mod epsilons;
mod fields;
mod mechanism;
pub(crate) mod membership;
mod opened;
mod published;
mod restored;
mod rotation;
mod stated;
mod values;

use std::fmt;

use eranos_base::Digest;
use eranos_privacy::{Mechanism, MechanismError};

use crate::{
    text::{LineReader, Lines},
    tile::ENTRY_LEN_MAX,
};

pub use self::{
    attempt::{ATTACHMENT_LEN_MAX, Attempt, Executable, Outcome, Participant, Roster, Sharers, Survivors},
    epsilons::{Epsilons, PromisedCurves},
    membership::{Membership, MembershipChange, Opening},
    opened::{LogOpened, TaskOpened},
    published::ModelPublished,
    restored::{LogRestored, Restoration},
    rotation::{KeyRotated, RotationError},
    stated::{BudgetSet, PrivacyStated, TaskStated},
    values::{Date, DateError, VERSION_LEN_MAX, Version, VersionError, WORDS_LEN_MAX, Words, WordsError},
};
use self::{
    epsilons::{check_epsilons, check_finite},
    fields::{Fields, parse_digest},
};

const DOMAIN: &str = "eranos/ledger/v1 ";

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
    /// The log goes on from a backup of another one.
    LogRestored,
    /// A task begins.
    TaskOpened,
    /// A round was attempted.
    Attempt,
    /// The log's key was exchanged.
    KeyRotated,
    /// What the operator says of a task.
    TaskStated,
    /// What one client may be charged.
    BudgetSet,
    /// Somebody was admitted.
    ClientEnrolled,
    /// Somebody came with another certificate.
    CertificateRenewed,
    /// Somebody's certificate was revoked.
    ClientRevoked,
    /// A model was given away.
    ModelPublished,
    /// What a task promised, at its end.
    PrivacyStated,
}

impl EntryKind {
    /// Every kind.
    pub const ALL: [Self; 12] = [
        Self::LogOpened,
        Self::LogRestored,
        Self::TaskOpened,
        Self::Attempt,
        Self::KeyRotated,
        Self::TaskStated,
        Self::BudgetSet,
        Self::ClientEnrolled,
        Self::CertificateRenewed,
        Self::ClientRevoked,
        Self::ModelPublished,
        Self::PrivacyStated,
    ];

    /// Its name, which ends the first line of such an entry.
    pub const fn name(self) -> &'static str {
        match self {
            Self::LogOpened => "log-opened",
            Self::LogRestored => "log-restored",
            Self::TaskOpened => "task-opened",
            Self::Attempt => "attempt",
            Self::KeyRotated => "key-rotated",
            Self::TaskStated => "task-stated",
            Self::BudgetSet => "budget-set",
            Self::ClientEnrolled => "client-enrolled",
            Self::CertificateRenewed => "certificate-renewed",
            Self::ClientRevoked => "client-revoked",
            Self::ModelPublished => "model-published",
            Self::PrivacyStated => "privacy-stated",
        }
    }

    /// The kind whose domain is the first line of `entry`, whatever follows.
    pub fn of(entry: &[u8]) -> Option<Self> {
        let line = entry.split(|byte| *byte == b'\n').next()?;
        Self::of_domain(str::from_utf8(line).ok()?)
    }

    fn of_domain(line: &str) -> Option<Self> {
        let name = line.strip_prefix(DOMAIN)?;
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

impl fmt::Display for EntryKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One entry of the log.
#[derive(Clone, Debug, PartialEq)]
pub enum Entry {
    /// The log's first entry.
    LogOpened(LogOpened),
    /// The log goes on from a backup of another one.
    LogRestored(Box<LogRestored>),
    /// A task begins.
    TaskOpened(Box<TaskOpened>),
    /// A round was attempted.
    Attempt(Box<Attempt>),
    /// The log's key was exchanged.
    KeyRotated(KeyRotated),
    /// What the operator says of a task.
    TaskStated(Box<TaskStated>),
    /// What one client may be charged.
    BudgetSet(BudgetSet),
    /// Somebody was enrolled or revoked, or came with a renewed certificate.
    Membership(Membership),
    /// A model was given away.
    ModelPublished(ModelPublished),
    /// What a task promised, at its end.
    PrivacyStated(PrivacyStated),
}

impl Entry {
    /// Its kind.
    pub const fn kind(&self) -> EntryKind {
        match self {
            Self::LogOpened(_) => EntryKind::LogOpened,
            Self::LogRestored(_) => EntryKind::LogRestored,
            Self::TaskOpened(_) => EntryKind::TaskOpened,
            Self::Attempt(_) => EntryKind::Attempt,
            Self::KeyRotated(_) => EntryKind::KeyRotated,
            Self::TaskStated(_) => EntryKind::TaskStated,
            Self::BudgetSet(_) => EntryKind::BudgetSet,
            Self::Membership(membership) => membership.change.kind(),
            Self::ModelPublished(_) => EntryKind::ModelPublished,
            Self::PrivacyStated(_) => EntryKind::PrivacyStated,
        }
    }

    /// The entry's one encoding.
    ///
    /// # Errors
    /// If the parts of an attempt contradict each other, or an epsilon is finite without noise or infinite with it.
    pub fn encode(&self) -> Result<EncodedEntry, EntryError> {
        let mut lines = Lines::new(&format!("{DOMAIN}{}", self.kind()));
        let mut attachment = None;
        match self {
            Self::LogOpened(entry) => entry.write(&mut lines),
            Self::LogRestored(entry) => entry.write(&mut lines),
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
            Self::TaskStated(entry) => entry.write(&mut lines),
            Self::BudgetSet(entry) => {
                entry.check()?;
                entry.write(&mut lines);
            }
            Self::Membership(entry) => entry.write(&mut lines),
            Self::ModelPublished(entry) => entry.write(&mut lines),
            Self::PrivacyStated(entry) => entry.write(&mut lines),
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
        let Some(kind) = EntryKind::of_domain(domain) else {
            return Err(EntryError::Domain { found: text.chars().take_while(|c| *c != '\n').take(64).collect() });
        };
        fields.line = 1;
        let entry = match kind {
            EntryKind::LogOpened => Entry::LogOpened(LogOpened::read(&mut fields)?),
            EntryKind::LogRestored => Entry::LogRestored(Box::new(LogRestored::read(&mut fields)?)),
            EntryKind::TaskOpened => Entry::TaskOpened(Box::new(TaskOpened::read(&mut fields)?)),
            EntryKind::Attempt => Entry::Attempt(Box::new(Attempt::read(&mut fields, attachment)?)),
            EntryKind::KeyRotated => Entry::KeyRotated(KeyRotated::read(&mut fields)?),
            EntryKind::TaskStated => Entry::TaskStated(Box::new(TaskStated::read(&mut fields)?)),
            EntryKind::BudgetSet => Entry::BudgetSet(BudgetSet::read(&mut fields)?),
            EntryKind::ClientEnrolled => read_membership(MembershipChange::Enrolled, &mut fields)?,
            EntryKind::CertificateRenewed => read_membership(MembershipChange::Renewed, &mut fields)?,
            EntryKind::ClientRevoked => read_membership(MembershipChange::Revoked, &mut fields)?,
            EntryKind::ModelPublished => Entry::ModelPublished(ModelPublished::read(&mut fields)?),
            EntryKind::PrivacyStated => Entry::PrivacyStated(PrivacyStated::read(&mut fields)?),
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

fn read_membership(change: MembershipChange, fields: &mut Fields<'_, '_>) -> Result<Entry, EntryError> {
    Ok(Entry::Membership(Membership::read(change, fields)?))
}
