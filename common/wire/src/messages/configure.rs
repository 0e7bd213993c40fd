//! `configure`: the coordinator sends plan and model, and what it has received of the client so far. The client's answer
//! is its advert, or an abort with the reason.

use eranos_base::{
    ClientId, Context, Digest, Position, Signature, SigningKey, StatementKind, VerifyingKey, encoding::Canonical,
    signing::SigningError,
};
use serde::{Deserialize, Serialize};

use super::Blob;
use crate::plan::SignedPlan;

/// The signed plan. The body of the frame is the checkpoint that the plan names: `f32`, little-endian.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Configure {
    /// The plan.
    pub plan: SignedPlan,
    /// What the coordinator has received of this client in the session.
    pub debit: Debit,
    /// What witnesses have cosigned of the ledger, for a client whose policy demands it: by ascending size, at most
    /// `eranos_ledger::witnessed::COSIGNED_MAX`.
    pub cosigned: Vec<Cosigned>,
}

/// A checkpoint of the ledger as witnesses cosigned it. The proofs chain all of them, and the checkpoint that the client
/// checked in with (`eranos_ledger::witnessed::Cosigned`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cosigned {
    /// The signed note.
    pub note: Blob,
    /// The proof in its place.
    pub consistency: Vec<Digest>,
}

/// How many masked vectors of one client the coordinator has received, complete and verified, in the rounds of the
/// session that are over, under its ledger key. A client charges its budget before a vector leaves: one whose budget
/// counts fewer was restored from an older copy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Debit {
    /// The number of vectors, released or not.
    pub vectors: u64,
    /// The coordinator's signature.
    pub signature: Signature,
}

impl Debit {
    /// Signs the number for a client, in the `context` of the plan that it comes with.
    pub fn sign(key: &SigningKey, context: &Context, client: &ClientId, vectors: u64) -> Self {
        Self { vectors, signature: key.sign(&Self::statement(context, client, vectors)) }
    }

    /// Checks that the pinned ledger key signed the number, for this client and this plan.
    ///
    /// # Errors
    /// If it did not.
    pub fn verify(&self, ledger_key: &VerifyingKey, context: &Context, client: &ClientId) -> Result<(), SigningError> {
        ledger_key.verify(&Self::statement(context, client, self.vectors), &self.signature)
    }

    fn statement(context: &Context, client: &ClientId, vectors: u64) -> Vec<u8> {
        let body = Canonical::new(DOMAIN).text(client.as_str()).u64(vectors).finish();
        context.statement(StatementKind::Debit, Position::NONE, &body)
    }
}

const DOMAIN: &str = "eranos/debit/v1";
