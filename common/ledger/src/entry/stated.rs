//! What the operator states of a task: who answers for it and why, what one client may be charged, and what was promised
//! when it was over.

use eranos_base::{Digest, SessionId, TaskId};

use crate::{
    entry::{
        EntryError, Executable,
        fields::Fields,
        values::{Date, Words},
    },
    text::{Lines, parse_f64, parse_u64},
};

/// Who answers for a task and why, and which program arranges it from here on. What it promises stands where it was
/// opened; this is in the operator's own words, which nothing in the ledger proves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskStated {
    /// The task.
    pub task: TaskId,
    /// The session.
    pub session: SessionId,
    /// The day, UTC.
    pub date: Date,
    /// The program that arranges the attempts that follow.
    pub executable: Executable,
    /// What is made.
    pub product: Option<Words>,
    /// Who is responsible for it.
    pub curator: Option<Words>,
    /// What it is for.
    pub purpose: Option<Words>,
    /// Whom to write to.
    pub contact: Option<Words>,
}

impl TaskStated {
    /// Whether this says the same as `other`, if maybe on another day.
    pub fn repeats(&self, other: &Self) -> bool {
        Self { date: self.date, ..other.clone() } == *self
    }

    pub(super) fn write(&self, lines: &mut Lines) {
        lines.line("task", &self.task);
        lines.line("session", self.session);
        lines.line("date", self.date);
        lines.line("executable", self.executable.sha256);
        lines.line("version", &self.executable.version);
        lines.optional("product", self.product.as_ref());
        lines.optional("curator", self.curator.as_ref());
        lines.optional("purpose", self.purpose.as_ref());
        lines.optional("contact", self.contact.as_ref());
    }

    pub(super) fn read(fields: &mut Fields<'_, '_>) -> Result<Self, EntryError> {
        let words = |text: &str| text.parse().ok();
        Ok(Self {
            task: fields.parsed("task")?,
            session: SessionId(fields.digest("session")?),
            date: fields.parsed("date")?,
            executable: Executable { sha256: fields.digest("executable")?, version: fields.parsed("version")? },
            product: fields.optional("product", words)?,
            curator: fields.optional("curator", words)?,
            purpose: fields.optional("purpose", words)?,
            contact: fields.optional("contact", words)?,
        })
    }
}

/// What the coordinator lets one client be charged from here on: whoever has reached it is not selected any more.
#[derive(Clone, Debug, PartialEq)]
pub struct BudgetSet {
    /// The task.
    pub task: TaskId,
    /// The session.
    pub session: SessionId,
    /// The most epsilon of one client's attempts; the task's own budget alone bounds it if none.
    pub client_epsilon_max: Option<f64>,
    /// As many attempts as that allows.
    pub client_attempts_max: u64,
}

impl BudgetSet {
    pub(super) fn check(&self) -> Result<(), EntryError> {
        super::check_finite([self.client_epsilon_max.unwrap_or_default()])
    }

    pub(super) fn write(&self, lines: &mut Lines) {
        lines.line("task", &self.task);
        lines.line("session", self.session);
        lines.optional("client-epsilon-max", self.client_epsilon_max);
        lines.line("client-attempts-max", self.client_attempts_max);
    }

    pub(super) fn read(fields: &mut Fields<'_, '_>) -> Result<Self, EntryError> {
        Ok(Self {
            task: fields.parsed("task")?,
            session: SessionId(fields.digest("session")?),
            client_epsilon_max: fields.optional("client-epsilon-max", parse_f64)?,
            client_attempts_max: fields.with("client-attempts-max", parse_u64)?,
        })
    }
}

/// The task is over, for now: what was promised, as the privacy statement words it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrivacyStated {
    /// The task.
    pub task: TaskId,
    /// The session.
    pub session: SessionId,
    /// The day, UTC.
    pub date: Date,
    /// The task's attempts so far.
    pub attempts: u64,
    /// Whose words they are: [`crate::statement::WORDING`] of the program that made it.
    pub wording: u64,
    /// SHA-256 of [`crate::statement::entered`] of the log before this entry.
    pub statement: Digest,
}

impl PrivacyStated {
    pub(super) fn write(&self, lines: &mut Lines) {
        lines.line("task", &self.task);
        lines.line("session", self.session);
        lines.line("date", self.date);
        lines.line("attempts", self.attempts);
        lines.line("wording", self.wording);
        lines.line("statement", self.statement);
    }

    pub(super) fn read(fields: &mut Fields<'_, '_>) -> Result<Self, EntryError> {
        Ok(Self {
            task: fields.parsed("task")?,
            session: SessionId(fields.digest("session")?),
            date: fields.parsed("date")?,
            attempts: fields.with("attempts", parse_u64)?,
            wording: fields.with("wording", parse_u64)?,
            statement: fields.digest("statement")?,
        })
    }
}
