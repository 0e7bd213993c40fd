//! `select`: a client asks to take part.

use eranos_base::{
    ClientId, Context, Digest, Position, Signature, SigningKey, StatementKind, TaskId, VerifyingKey,
    encoding::Canonical, signing::SigningError,
};
use serde::{Deserialize, Serialize};

use super::{Blob, RoundRef, abort::Reason};

/// Asks to take part in the next round of a task. The client's identity is its certificate's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckIn {
    /// The task.
    pub task: TaskId,
    /// The version of plans that the client understands.
    pub plan_version: u16,
    /// The coordinator's ledger key, as the client knows it.
    pub ledger_key: VerifyingKey,
    /// The size of the ledger that the client knows; 0 for none.
    pub ledger_size: u64,
    /// Random: two check-ins are never the same request, a resent one is.
    pub nonce: u64,
}

/// The version of plans that this build makes and understands.
pub const PLAN_VERSION: u16 = 2;

/// The coordinator's ledger key is not the one that the client knows any more: the entries by which it was exchanged, from
/// the client's key on, each with its proofs from the ledger that the client knows. A client that follows them checks in
/// again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyRotated {
    /// `eranos_ledger`'s receipts, at most [`ROTATIONS_MAX`], all under one checkpoint.
    pub receipts: Vec<Blob>,
}

/// The coordinator's state was restored from a backup, and goes on in another ledger than the client knows. A client does not
/// follow: its operator has to accept it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogRestored {
    /// The new ledger's first entry, `log-opened`.
    pub opened: Blob,
    /// Its second, `log-restored`, which the old ledger's key signed.
    pub restored: Blob,
    /// How the old ledger's key was exchanged up to the one that signed: at most [`ROTATIONS_MAX`], the last ones.
    pub rotations: Vec<Rotation>,
}

/// An exchange of a ledger's key, by its entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rotation {
    /// The entry's index.
    pub index: u64,
    /// The entry.
    pub entry: Blob,
}

/// Most rotations that a client follows at once; each takes some kilobytes.
pub const ROTATIONS_MAX: usize = 64;

/// The client is not wanted now, under the coordinator's ledger key: whoever holds only its TLS key can send nobody away,
/// and two different ones for one round are evidence that any client may publish.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ComeBackLater {
    /// The round that it is not admitted to.
    pub round: RoundRef,
    /// When to ask again, if ever.
    pub when: ComeBack,
    /// Why, for a person.
    pub reason: Reason,
    /// The coordinator's signature.
    pub signature: Signature,
}

impl ComeBackLater {
    /// Signs the refusal to admit `client` to `round`.
    pub fn sign(
        key: &SigningKey,
        round: RoundRef,
        client: &ClientId,
        when: ComeBack,
        reason: impl Into<Reason>,
    ) -> Self {
        let reason = reason.into();
        let signature = key.sign(&Self::statement(round, client, when, &reason));
        Self { round, when, reason, signature }
    }

    /// Checks that the pinned ledger key signed the refusal, for this client.
    ///
    /// # Errors
    /// If it did not.
    pub fn verify(&self, ledger_key: &VerifyingKey, client: &ClientId) -> Result<(), SigningError> {
        ledger_key.verify(&Self::statement(self.round, client, self.when, &self.reason), &self.signature)
    }

    fn statement(round: RoundRef, client: &ClientId, when: ComeBack, reason: &Reason) -> Vec<u8> {
        let (when, after_ms) = match when {
            ComeBack::AfterMs(ms) => ("after", ms),
            ComeBack::TaskOver => ("task over", 0),
            ComeBack::Spent => ("spent", 0),
            ComeBack::Never => ("never", 0),
        };
        let body = Canonical::new(DOMAIN).text(client.as_str()).text(when).u32(after_ms).text(reason.as_str()).finish();
        // No plan was sent: its digest is zero.
        let context = Context::new(round.session, round.round, Digest::ZERO);
        context.statement(StatementKind::NotAdmitted, Position::NONE, &body)
    }
}

/// When a client that is not wanted now may ask again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ComeBack {
    /// After so many milliseconds.
    AfterMs(u32),
    /// Not for this task: it is over, as planned.
    TaskOver,
    /// Not for this task: what it allows one client is spent.
    Spent,
    /// Not as it is: for another task, with another version, or excluded. Somebody must change something first.
    Never,
}

const DOMAIN: &str = "eranos/not-admitted/v1";
