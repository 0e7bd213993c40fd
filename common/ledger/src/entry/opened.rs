//! What is said once: whose a log is, and what a task promises.

use eranos_base::{Digest, SessionId, TaskId, TrustDomain};
use eranos_privacy::Mechanism;

use crate::{
    entry::{EntryError, epsilons::Epsilon, fields::Fields, mechanism::write_mechanism, values::Date},
    note::{LedgerKey, Origin},
    text::{Lines, parse_f64, parse_hex},
};

const ACCOUNTANT: &str = "renyi, integer orders";
/// The orders of [`accountant::ORDERS`], as an entry spells them.
const ORDERS: &str = "2-256,512,1024";

/// The log's first entry: whose it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogOpened {
    /// The log.
    pub origin: Origin,
    /// The trust domain whose clients it is about.
    pub trust_domain: TrustDomain,
    /// The key that signs its checkpoints.
    pub ledger_key: LedgerKey,
    /// The day it was opened, UTC.
    pub date: Date,
}

impl LogOpened {
    pub(super) fn write(&self, lines: &mut Lines) {
        lines.line("origin", &self.origin);
        lines.line("trust-domain", &self.trust_domain);
        lines.line("ledger-key", &self.ledger_key);
        lines.line("date", self.date);
    }

    pub(super) fn read(fields: &mut Fields<'_, '_>) -> Result<Self, EntryError> {
        Ok(Self {
            origin: fields.parsed("origin")?,
            trust_domain: fields.parsed("trust-domain")?,
            ledger_key: fields.parsed("ledger-key")?,
            date: fields.parsed("date")?,
        })
    }
}

/// A task begins: everything about it that no attempt may change.
#[derive(Clone, Debug, PartialEq)]
pub struct TaskOpened {
    /// The task; a log opens each task once.
    pub task: TaskId,
    /// The nonce from which the session follows, with trust domain, origin and task.
    pub nonce: [u8; 32],
    /// The session.
    pub session: SessionId,
    /// SHA-256 of the model's canonical bytes.
    pub model: Digest,
    /// SHA-256 of the canonical bytes that say what a record is.
    pub data: Digest,
    /// SHA-256 of the first checkpoint's weights.
    pub weights: Digest,
    /// The mechanism of every attempt.
    pub mechanism: Mechanism,
    /// The budget's epsilon; infinite if the mechanism has no noise, and only then.
    pub budget_epsilon: f64,
    /// The budget's delta.
    pub budget_delta: f64,
}

impl TaskOpened {
    pub(super) fn write(&self, lines: &mut Lines) {
        lines.line("task", &self.task);
        lines.line("nonce", hex::encode(self.nonce));
        lines.line("session", self.session);
        lines.line("model", self.model);
        lines.line("data", self.data);
        lines.line("weights", self.weights);
        write_mechanism(&self.mechanism, lines);
        lines.line("accountant", ACCOUNTANT);
        lines.line("orders", ORDERS);
        lines.line("budget-epsilon", Epsilon(self.budget_epsilon));
        lines.line("budget-delta", self.budget_delta);
    }

    pub(super) fn read(fields: &mut Fields<'_, '_>) -> Result<Self, EntryError> {
        let (task, nonce) = (fields.parsed("task")?, fields.with("nonce", parse_hex)?);
        let session = SessionId(fields.digest("session")?);
        let (model, data, weights) = (fields.digest("model")?, fields.digest("data")?, fields.digest("weights")?);
        let mechanism = fields.mechanism()?;
        fields.exactly("accountant", ACCOUNTANT)?;
        fields.exactly("orders", ORDERS)?;
        let budget_epsilon = fields.epsilon("budget-epsilon", &mechanism)?;
        let budget_delta = fields.with("budget-delta", parse_f64)?;
        Ok(Self { task, nonce, session, model, data, weights, mechanism, budget_epsilon, budget_delta })
    }
}
