//! A model that was given away.

use eranos_base::{Digest, RoundNumber, SessionId, TaskId};

use crate::{
    entry::{EntryError, fields::Fields},
    text::{Lines, parse_u64},
};

/// The model that the last released round left was written to a file, to be given away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelPublished {
    /// The task.
    pub task: TaskId,
    /// The session.
    pub session: SessionId,
    /// The round that released it.
    pub round: RoundNumber,
    /// SHA-256 of its weights, as that round's entry names them.
    pub weights: Digest,
    /// SHA-256 of the file.
    pub file: Digest,
}

impl ModelPublished {
    pub(super) fn write(&self, lines: &mut Lines) {
        lines.line("task", &self.task);
        lines.line("session", self.session);
        lines.line("round", self.round);
        lines.line("weights", self.weights);
        lines.line("file", self.file);
    }

    pub(super) fn read(fields: &mut Fields<'_, '_>) -> Result<Self, EntryError> {
        Ok(Self {
            task: fields.parsed("task")?,
            session: SessionId(fields.digest("session")?),
            round: RoundNumber(fields.with("round", parse_u64)?),
            weights: fields.digest("weights")?,
            file: fields.digest("file")?,
        })
    }
}
