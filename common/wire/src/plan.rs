//! The plan of one round: everything that a client must know, and may refuse, before it takes part.

use eranos_base::{
    Context, Digest, RoundNumber, SessionId, Signature, SigningKey, TaskId, TrustDomain, VerifyingKey,
    encoding::{Canonical, CanonicalReader, DecodeError},
    signing::SigningError,
};
use eranos_ledger::PlanTerms;
use eranos_privacy::{Mechanism, Promise, RotationSeed};
use eranos_secagg::{Bits, GraphKind, Terms, terms::Dimension};

/// The plan of one round (an attempt: a retry is a new plan in everything).
#[derive(Clone, Debug, PartialEq)]
pub struct RoundPlan {
    /// The trust domain whose certificates the roster may hold.
    pub trust_domain: TrustDomain,
    /// The origin of the ledger that the attempt is entered into.
    pub ledger_origin: String,
    /// The task.
    pub task: TaskId,
    /// The nonce from which the session follows.
    pub session_nonce: [u8; 32],
    /// The session: derived from trust domain, ledger, task and nonce, never read. So a coordinator cannot give one task
    /// the session of another, whose rounds and charges a client already counts.
    pub session: SessionId,
    /// The round; at a client they strictly increase within a session.
    pub round: RoundNumber,
    /// The model's canonical bytes (`eranos_nn::ModelSpec`), opaque here.
    pub model_spec: Vec<u8>,
    /// What a record is, as canonical bytes (`eranos_nn::DataSpec`), opaque here.
    pub data_spec: Vec<u8>,
    /// SHA-256 of the parameters that this round starts from: `f32`, little-endian, in schema order.
    pub checkpoint: Digest,
    /// Mechanism, noise, thresholds and accounting parameters.
    pub mechanism: Mechanism,
    /// Who shares keys with whom. Degree and threshold follow from the roster's size and the mechanism's f and u_min.
    pub graph: GraphKind,
    /// The seed of the public rotation of this round.
    pub rotation_seed: [u8; 32],
    /// READY leaves at the first whole multiple of this after the plan's arrival at which the contribution exists.
    pub ready_slot_ms: u32,
    /// How long a client waits for any one answer before it leaves the round.
    pub phase_timeout_ms: u32,
}

impl RoundPlan {
    /// The canonical bytes: the domain, then the fields in the order of the struct, without the derived session.
    pub fn to_bytes(&self) -> Vec<u8> {
        Canonical::new(DOMAIN)
            .text(self.trust_domain.as_str())
            .text(&self.ledger_origin)
            .text(self.task.as_str())
            .field(&self.session_nonce)
            .u64(self.round.0)
            .field(&self.model_spec)
            .field(&self.data_spec)
            .digest(&self.checkpoint)
            .field(&self.mechanism.encode())
            .u8(self.graph as u8)
            .field(&self.rotation_seed)
            .u32(self.ready_slot_ms)
            .u32(self.phase_timeout_ms)
            .finish()
    }

    /// Reads the canonical bytes.
    ///
    /// # Errors
    /// If they are malformed, or a value in them could not be a plan's.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, PlanError> {
        let mut reader = CanonicalReader::new(bytes, DOMAIN)?;
        let (trust_domain, ledger_origin, task) = (reader.parse()?, reader.text()?.to_owned(), reader.parse()?);
        let session_nonce = reader.array()?;
        let plan = Self {
            session: SessionId::derive(&trust_domain, &ledger_origin, &task, &session_nonce),
            trust_domain,
            ledger_origin,
            task,
            session_nonce,
            round: RoundNumber(reader.u64()?),
            model_spec: reader.field()?.to_vec(),
            data_spec: reader.field()?.to_vec(),
            checkpoint: reader.digest()?,
            mechanism: Mechanism::decode(reader.field()?).map_err(|error| PlanError::Mechanism(error.to_string()))?,
            graph: GraphKind::from_u8(reader.u8()?).ok_or(DecodeError::Malformed { what: DOMAIN })?,
            rotation_seed: reader.array()?,
            ready_slot_ms: reader.u32()?,
            phase_timeout_ms: reader.u32()?,
        };
        reader.finish()?;
        if plan.ready_slot_ms == 0 || plan.phase_timeout_ms == 0 || plan.phase_timeout_ms > PHASE_TIMEOUT_MS_MAX {
            return Err(PlanError::Decode(DecodeError::Malformed { what: DOMAIN }));
        }
        Ok(plan)
    }

    /// What of the plan is signed and hashed: all of it, model and records by their SHA-256.
    pub fn plan_terms(&self) -> PlanTerms<'_> {
        PlanTerms {
            trust_domain: &self.trust_domain,
            ledger_origin: &self.ledger_origin,
            task: &self.task,
            session_nonce: &self.session_nonce,
            round: self.round,
            model: Digest::of(&self.model_spec),
            data: Digest::of(&self.data_spec),
            checkpoint: self.checkpoint,
            mechanism: &self.mechanism,
            graph: self.graph,
            rotation_seed: RotationSeed(self.rotation_seed),
            ready_slot_ms: self.ready_slot_ms,
            phase_timeout_ms: self.phase_timeout_ms,
        }
    }

    /// The hash of the plan's terms: what every statement of the round carries.
    pub fn digest(&self) -> Digest {
        self.plan_terms().digest()
    }

    /// The context of the round's first statements.
    pub fn context(&self) -> Context {
        Context::new(self.session, self.round, self.digest())
    }

    /// What a secure sum takes from the plan.
    ///
    /// # Errors
    /// If its numbers make no secure sum.
    pub fn terms(&self) -> Result<Terms, PlanError> {
        let parameters = self.mechanism.common();
        let not_a_sum = |error: &dyn std::fmt::Display| PlanError::Mechanism(error.to_string());
        Ok(Terms {
            session: self.session,
            round: self.round,
            plan: self.digest(),
            trust_domain: self.trust_domain.clone(),
            task: self.task.clone(),
            graph: self.graph,
            max_colluders: usize::from(parameters.max_colluders),
            u_min: usize::from(parameters.u_min),
            n_max: usize::from(parameters.n_max),
            dimension: Dimension::new(parameters.d_pad as usize).map_err(|error| not_a_sum(&error))?,
            bits: Bits::new(parameters.bits).map_err(|error| not_a_sum(&error))?,
        })
    }

    /// Signs the plan with the coordinator's ledger key.
    pub fn sign(&self, key: &SigningKey) -> SignedPlan {
        SignedPlan { plan: self.to_bytes(), signature: key.sign(&self.plan_terms().statement()) }
    }
}

/// A plan's canonical bytes, under the coordinator's signature of its terms.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct SignedPlan {
    #[serde(with = "crate::messages::blob")]
    plan: Vec<u8>,
    signature: Signature,
}

impl SignedPlan {
    /// The coordinator's signature.
    pub fn signature(&self) -> Signature {
        self.signature
    }

    /// The plan's canonical bytes.
    pub fn plan_bytes(&self) -> &[u8] {
        &self.plan
    }

    /// The plan, if the pinned ledger key signed it.
    ///
    /// # Errors
    /// If it is malformed or another key signed it.
    pub fn verify(&self, ledger_key: &VerifyingKey) -> Result<RoundPlan, PlanError> {
        let plan = RoundPlan::from_bytes(&self.plan)?;
        ledger_key.verify(&plan.plan_terms().statement(), &self.signature)?;
        Ok(plan)
    }
}

/// Why a plan was not taken for one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// The bytes are malformed.
    #[error("plan: {0}")]
    Decode(#[from] DecodeError),
    /// The mechanism's parameters contradict each other or fall short.
    #[error("plan's mechanism: {0}")]
    Mechanism(String),
    /// The pinned ledger key did not sign it.
    #[error("plan is not signed by the pinned ledger key")]
    Signature(#[from] SigningError),
}

const DOMAIN: &str = "eranos/plan/v1";
/// Longest wait for one answer that a plan may ask of a client: a day.
const PHASE_TIMEOUT_MS_MAX: u32 = 24 * 3600 * 1000;
