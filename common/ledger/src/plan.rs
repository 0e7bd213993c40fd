//! What the coordinator signs of a round's plan, and what every statement of the round names by its hash: the plan with
//! SHA-256 in place of the model's and the records' definitions, which are kilobytes and the same in every round. All of
//! it is in the ledger, so an auditor makes the signed bytes anew and needs no plan.

use eranos_base::{
    Context, Digest, GraphKind, Position, RoundNumber, SessionId, StatementKind, TaskId, TrustDomain,
    encoding::Canonical,
};
use eranos_privacy::{Mechanism, RotationSeed};

/// The terms of one round's plan.
#[derive(Clone, Copy, Debug)]
pub struct PlanTerms<'a> {
    /// The trust domain whose certificates the roster may hold.
    pub trust_domain: &'a TrustDomain,
    /// The origin of the ledger that the attempt is entered into.
    pub ledger_origin: &'a str,
    /// The task.
    pub task: &'a TaskId,
    /// The nonce from which the session follows.
    pub session_nonce: &'a [u8; 32],
    /// The round.
    pub round: RoundNumber,
    /// SHA-256 of the model's canonical bytes.
    pub model: Digest,
    /// SHA-256 of the canonical bytes that say what a record is.
    pub data: Digest,
    /// SHA-256 of the parameters that the round starts from.
    pub checkpoint: Digest,
    /// Mechanism, noise, thresholds and accounting parameters.
    pub mechanism: &'a Mechanism,
    /// Who shares keys with whom.
    pub graph: GraphKind,
    /// The seed of the public rotation.
    pub rotation_seed: RotationSeed,
    /// READY's slot.
    pub ready_slot_ms: u32,
    /// The longest wait of a client.
    pub phase_timeout_ms: u32,
}

impl PlanTerms<'_> {
    /// The canonical bytes: the domain, then the fields in the order of the struct.
    pub fn encode(&self) -> Vec<u8> {
        Canonical::new(DOMAIN)
            .text(self.trust_domain.as_str())
            .text(self.ledger_origin)
            .text(self.task.as_str())
            .field(self.session_nonce)
            .u64(self.round.0)
            .digest(&self.model)
            .digest(&self.data)
            .digest(&self.checkpoint)
            .field(&self.mechanism.encode())
            .u8(self.graph as u8)
            .field(&self.rotation_seed.0)
            .u32(self.ready_slot_ms)
            .u32(self.phase_timeout_ms)
            .finish()
    }

    /// SHA-256 of the canonical bytes: what every statement of the round carries.
    pub fn digest(&self) -> Digest {
        Digest::of(&self.encode())
    }

    /// The bytes that the coordinator's signature of the plan covers.
    pub fn statement(&self) -> Vec<u8> {
        let terms = self.encode();
        let session = SessionId::derive(self.trust_domain, self.ledger_origin, self.task, self.session_nonce);
        let context = Context::new(session, self.round, Digest::of(&terms));
        context.statement(StatementKind::Plan, Position::NONE, &terms)
    }
}

const DOMAIN: &str = "eranos/plan-terms/v1";
