//! What a signature of a round covers.
//!
//! Every signed message binds its kind (and with it the role of its signer), the session, the round, the plan, the
//! roster once it is fixed, the set of those who shared once that is fixed, and the signer's position. Nothing signed
//! in one place can be replayed in another.

use crate::{Digest, Position, RoundNumber, SessionId, TaskId, TrustDomain, VerifyingKey, encoding::Canonical};

/// The domain under which every statement of a round is signed.
pub const DOMAIN: &[u8] = b"eranos/secagg/v1";

/// The kind of a signed statement. Those of the coordinator lie below 0x80, those of clients above.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum StatementKind {
    /// The coordinator's plan; body: the plan's canonical bytes.
    Plan = 0x01,
    /// The coordinator's roster; body empty (the roster is R1, in the context).
    Roster = 0x02,
    /// The coordinator's set U2 of those whose bundle arrived; body empty (its root is in the context).
    Sharers = 0x03,
    /// The coordinator's survivors U3; body: the bitmap.
    Survivors = 0x04,
    /// The coordinator's refusal to admit a client to a round; body: identity, when to ask again, reason.
    NotAdmitted = 0x05,
    /// How many of a client's vectors the coordinator has received in the session; body: identity and number.
    Debit = 0x06,
    /// A client's keys; body: the advert.
    Advert = 0x81,
    /// One part of a client's bundle of sealed shares; body: holder, hash of the ciphertext, hashes of both shares.
    SharePart = 0x82,
    /// A client masks against exactly this U2; body empty.
    Ready = 0x83,
    /// A client's finished vector; body: its SHA-256 and the dealers whose shares failed.
    MaskedInput = 0x84,
    /// A client's one statement of the survivors, under its per-task statement key; body: the bitmap.
    Consistency = 0x85,
    /// A client's released shares; body: the shares.
    Unmask = 0x86,
    /// A client leaves the round; body: the reason.
    Abort = 0x87,
    /// A client holds the statement key of its advert, under that key; body: its identity.
    Possession = 0x88,
}

/// Where in a round a statement is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Context {
    /// The session.
    pub session: SessionId,
    /// The round.
    pub round: RoundNumber,
    /// SHA-256 of the plan.
    pub plan: Digest,
    /// R1, the roster's digest; zero before the roster is fixed.
    pub roster: Digest,
    /// The root of U2; zero before it is fixed.
    pub sharers: Digest,
}

impl Context {
    /// The context of a round before its roster.
    pub fn new(session: SessionId, round: RoundNumber, plan: Digest) -> Self {
        Self { session, round, plan, roster: Digest::ZERO, sharers: Digest::ZERO }
    }

    /// The context once the roster is fixed.
    #[must_use]
    pub fn with_roster(self, roster: Digest) -> Self {
        Self { roster, ..self }
    }

    /// The context once U2 is fixed.
    #[must_use]
    pub fn with_sharers(self, sharers: Digest) -> Self {
        Self { sharers, ..self }
    }

    /// The bytes that a signature covers: domain, kind, session, round, plan, R1, root of U2, position, and the body
    /// after its length. All integers little-endian.
    ///
    /// # Panics
    /// If the body is 4 GiB or longer; every body of the system is bounded far below.
    pub fn statement(&self, kind: StatementKind, position: Position, body: &[u8]) -> Vec<u8> {
        let len = u32::try_from(body.len()).expect("bodies are bounded far below 4 GiB");
        let mut bytes = Vec::with_capacity(DOMAIN.len() + 1 + 32 + 8 + 96 + 2 + 4 + body.len());
        bytes.extend_from_slice(DOMAIN);
        bytes.push(kind as u8);
        bytes.extend_from_slice(self.session.0.as_bytes());
        bytes.extend_from_slice(&self.round.0.to_le_bytes());
        bytes.extend_from_slice(self.plan.as_bytes());
        bytes.extend_from_slice(self.roster.as_bytes());
        bytes.extend_from_slice(self.sharers.as_bytes());
        bytes.extend_from_slice(&position.0.to_le_bytes());
        bytes.extend_from_slice(&len.to_le_bytes());
        bytes.extend_from_slice(body);
        bytes
    }
}

/// The bytes by which a client's certificate key certifies its statement key for one task: canonical encoding of trust
/// domain, task, key.
pub fn statement_key_certification(trust_domain: &TrustDomain, task: &TaskId, statement_key: &VerifyingKey) -> Vec<u8> {
    let canonical = Canonical::new("eranos/statement-key/v1").text(trust_domain.as_str()).text(task.as_str());
    canonical.field(&statement_key.0).finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_of_the_context_changes_the_statement() {
        let base = Context::new(SessionId(Digest::of(b"s")), RoundNumber(1), Digest::of(b"p"));
        let statement = |c: Context, k, p, b: &[u8]| c.statement(k, Position(p), b);
        let all = [
            statement(base, StatementKind::Ready, 0, b""),
            statement(base, StatementKind::Consistency, 0, b""),
            statement(base, StatementKind::Ready, 1, b""),
            statement(base, StatementKind::Ready, 0, b"x"),
            statement(Context { session: SessionId(Digest::of(b"t")), ..base }, StatementKind::Ready, 0, b""),
            statement(Context { round: RoundNumber(2), ..base }, StatementKind::Ready, 0, b""),
            statement(Context { plan: Digest::of(b"q"), ..base }, StatementKind::Ready, 0, b""),
            statement(base.with_roster(Digest::of(b"r")), StatementKind::Ready, 0, b""),
            statement(base.with_sharers(Digest::of(b"r")), StatementKind::Ready, 0, b""),
        ];
        for (i, a) in all.iter().enumerate() {
            assert!(all[i + 1..].iter().all(|b| a != b));
        }
        assert_eq!(all[0].len(), 16 + 1 + 32 + 8 + 32 + 32 + 32 + 2 + 4);
    }
}
