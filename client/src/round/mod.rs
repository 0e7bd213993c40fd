//! The client's side of one round: a state machine without sockets, disk, clock or randomness of its own. It trusts
//! nobody: whatever the coordinator sends is held against the client's own policy, its own budget and its own arithmetic,
//! and a refusal ends the round with its reason.
//!
//! ```text
//! select -> configure -> advertise_keys -> share_keys -> masked_input -> consistency -> unmask -> settle
//!                 \____________\_______________\______________\_____________\___________\-> abort
//! ```
//!
//! [`Round::handle`] takes an event, the time and an entropy source, and gives the next state and the actions to carry
//! out in their order: an [`Action::Persist`] must be on disk before the next one. Each phase is a struct that holds
//! only what is true in it; leaving the round drops it, which wipes its keys. The phases have the same file names in
//! `wire::messages` and in the coordinator's `round`.

mod abort;
mod advertise_keys;
mod configure;
mod consistency;
mod masked_input;
mod select;
mod settle;
mod share_keys;
mod unmask;

#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use eranos_base::{ClientId, Digest, Entropy, RoundNumber, SessionId, TaskId, Timestamp, TrustDomain, VerifyingKey};
use eranos_ledger::{Checkpoint, LedgerKey};
use eranos_nn::{DataSpec, ModelSpec, data::Form};
use eranos_privacy::{
    Budget, Mechanism, RotationSeed,
    budget::{self, BudgetError},
};
use eranos_secagg::Identity;
use eranos_wire::{
    Answer, Request, RoundPlan,
    messages::{
        RoundRef,
        abort::Reason,
        advertise_keys::Credential,
        select::{CheckIn, ComeBack, PLAN_VERSION},
    },
};
use zeroize::Zeroizing;

use crate::policy::Policy;

pub use abort::{Refusal, RefusalKind};
pub use advertise_keys::AdvertiseKeys;
pub use consistency::Consistency;
pub use masked_input::{AwaitContribution, AwaitGrant, AwaitSurvivors};
pub use select::Select;
pub use share_keys::ShareKeys;
pub use unmask::Unmask;

/// One round of a client.
pub enum Round {
    /// Checked in; waits for a plan.
    Select(Select),
    /// Sent its keys; waits for the roster.
    AdvertiseKeys(AdvertiseKeys),
    /// Sent its shares; waits for U2.
    ShareKeys(ShareKeys),
    /// Knows U2; waits for its own contribution and for the slot of READY.
    Contribute(AwaitContribution),
    /// Sent READY; waits for the grant.
    Ready(AwaitGrant),
    /// Sent its vector; waits for the survivors.
    Uploaded(AwaitSurvivors),
    /// Signed the survivors; waits for the quorum.
    Consistency(Consistency),
    /// Released its shares; waits for the receipt.
    Unmask(Unmask),
    /// Nothing more happens in this round.
    Over,
}

/// What happens to a round.
pub enum Event {
    /// The coordinator answered.
    Answer {
        /// What.
        answer: Answer,
        /// The body.
        body: Bytes,
    },
    /// The contribution that [`Action::Train`] asked for: noised as the plan says, modulo 2^b.
    Contribution(Zeroizing<Vec<u32>>),
    /// It could not be made.
    TrainingFailed {
        /// Why.
        reason: String,
    },
    /// The budget does not allow the step that an [`Action::Persist`] named: none of the actions after it was carried out.
    Forbidden(BudgetError),
    /// The time that an [`Action::WakeAt`] named has come.
    Wake,
    /// The coordinator could not be reached within the time that the plan allows, or the operator ends the round.
    Leave {
        /// Why.
        reason: String,
    },
}

/// What is to be done, in order.
pub enum Action {
    /// Send a request; its answer comes as [`Event::Answer`].
    Send {
        /// The request.
        request: Request,
        /// Its body.
        body: Bytes,
    },
    /// Append to the budget's file and sync it, before anything after it.
    Persist(Step),
    /// Start training in the background.
    Train(Box<TrainingJob>),
    /// Send [`Event::Wake`] at this time.
    WakeAt(Timestamp),
    /// Keep these credentials for later rounds.
    Remember(Vec<(Digest, Credential)>),
    /// Keep this as the ledger's key from now on, beside those before it: they signed it.
    KeepLedgerKey(LedgerKey),
    /// Keep this checkpoint of the ledger in place of the one before.
    KeepCheckpoint(Vec<u8>),
    /// Keep these first entries of another ledger, which this client's operator has to accept.
    KeepOffer(Vec<u8>),
    /// Keep this as evidence against the coordinator: a signed checkpoint that does not continue the one before.
    KeepEvidence(Vec<u8>),
    /// A phase began.
    Note(Phase),
    /// The round is over.
    Over(End),
}

/// A step of the budget that must be durable.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// The client takes part in this round, and reserves its attempt.
    Begin {
        /// The task.
        task: TaskId,
        /// What is to be released.
        mechanism: Box<Mechanism>,
        /// Whether the policy allows to reserve an attempt without noise.
        allow_no_noise: bool,
    },
    /// The round is over, and its attempt was not charged.
    GiveBack,
    /// One attempt is charged in full.
    Charge {
        /// The attempt's number.
        attempt: u32,
        /// The plan.
        plan: Digest,
        /// What is released.
        mechanism: Box<Mechanism>,
        /// Whether the policy allows an attempt that leaves no guarantee.
        allow_no_noise: bool,
    },
    /// The one consistency statement.
    SignConsistency {
        /// Its digest.
        statement: Digest,
    },
    /// The verified entry of the ledger.
    Receipt {
        /// Its digest.
        entry: Digest,
        /// How many vectors were in the sum.
        survivors: u32,
    },
    /// A refusal.
    Refuse {
        /// The round refused.
        round: RoundRef,
        /// Why.
        reason: String,
    },
}

/// What the trainer needs for one contribution.
pub struct TrainingJob {
    /// The model.
    pub model: ModelSpec,
    /// What a record is.
    pub data: DataSpec,
    /// Its parameters: `f32`, little-endian.
    pub checkpoint: Bytes,
    /// Clip, sample, noise.
    pub mechanism: Mechanism,
    /// The round's rotation.
    pub rotation_seed: RotationSeed,
}

/// How a round ended for this client.
#[derive(Clone, Debug, PartialEq)]
pub enum End {
    /// The sum was released with this client's vector in it, and the ledger shows it.
    Settled {
        /// The round.
        round: RoundNumber,
    },
    /// The coordinator ended the round, or left this client out.
    Aborted {
        /// Why, as it says.
        reason: Reason,
    },
    /// The client refused.
    Refused(Refusal),
    /// The client left: it lost the coordinator, its training failed, or its operator said so.
    Left {
        /// Why.
        reason: String,
    },
    /// The ledger's key was exchanged, and the client follows it: it checks in again under the new one.
    KeyRotated,
    /// Not now.
    ComeBackLater {
        /// When to ask again, if ever.
        when: ComeBack,
        /// Why, as the coordinator says.
        reason: Reason,
    },
}

impl std::fmt::Display for End {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Settled { round } => write!(f, "round {round} settled"),
            Self::Aborted { reason } => write!(f, "round aborted: {reason}"),
            Self::Refused(refusal) => write!(f, "refused: {refusal}"),
            Self::Left { reason } => write!(f, "left the round: {reason}"),
            Self::ComeBackLater { reason, .. } => write!(f, "{reason}"),
            Self::KeyRotated => f.write_str("the coordinator's ledger has a new key, which the old one signed"),
        }
    }
}

/// The phase that a client is in, for whoever watches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Waits for a plan.
    Select,
    /// Sent its keys.
    AdvertiseKeys,
    /// Sent its shares.
    ShareKeys,
    /// Waits for its contribution.
    Contribute,
    /// Sent READY.
    Ready,
    /// Sent its vector.
    Uploaded,
    /// Signed the survivors.
    Consistency,
    /// Released its shares.
    Unmask,
    /// Is in no round.
    Idle,
}

/// Who this client is and what it agrees to: what outlives rounds.
#[derive(Clone)]
pub struct Member {
    /// Its identity, certificate and keys.
    pub identity: Arc<Identity>,
    /// The trust domain.
    pub trust_domain: TrustDomain,
    /// The task it takes part in.
    pub task: TaskId,
    /// The coordinator's ledger key: the pinned one, or the one that it led to.
    pub ledger_key: LedgerKey,
    /// What it agrees to.
    pub policy: Policy,
    /// Whose certificates it believes.
    pub trust: Arc<dyn CertificateCheck>,
    /// How many classes its labels name: a public constant.
    pub n_classes: u32,
    /// The form of its files: all that a plan's answer may depend on.
    pub form: Form,
}

/// Checks certificates of a roster: chain, validity, revocation, identity.
pub trait CertificateCheck: Send + Sync {
    /// Whom the certificate names, and its public key.
    ///
    /// # Errors
    /// Why it is not believed.
    fn check(&self, certificate: &[u8], now: Timestamp) -> Result<(ClientId, VerifyingKey), String>;
}

/// What a client knows when a round begins.
#[derive(Clone)]
pub struct Memory {
    /// The budget.
    pub budget: Arc<Budget>,
    /// The last checkpoint of the ledger that it verified.
    pub checkpoint: Option<Checkpoint>,
    /// The ledger's keys that it knows: the pinned one and those that it led to, the newest last.
    pub ledger_keys: Vec<LedgerKey>,
    /// Credentials seen before, by digest.
    pub credentials: Arc<BTreeMap<Digest, Credential>>,
}

impl Member {
    /// The check-in to the next round.
    pub fn check_in(&self, memory: &Memory, nonce: u64) -> CheckIn {
        CheckIn {
            task: self.task.clone(),
            plan_version: PLAN_VERSION,
            ledger_key: *self.ledger_key.key(),
            ledger_size: memory.checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.size),
            nonce,
        }
    }
}

impl Round {
    /// A client that has checked in.
    pub fn new(member: Arc<Member>, memory: Memory) -> Self {
        Self::Select(Select::new(member, memory))
    }

    /// Takes one event.
    #[must_use]
    pub fn handle(self, event: Event, now: Timestamp, entropy: &mut dyn Entropy) -> (Self, Vec<Action>) {
        let event = match event {
            Event::Leave { reason } => return abort::leave(self, reason),
            Event::Forbidden(error) => return abort::forbidden(self, error),
            // The coordinator does not hear why: the reason could depend on the data.
            Event::TrainingFailed { .. } => return abort::leave(self, "training failed".to_owned()),
            Event::Answer { answer: Answer::Aborted(aborted), .. } => return abort::aborted(self, &aborted),
            event => event,
        };
        match self {
            Self::Select(phase) => phase.handle(event, now, entropy),
            Self::AdvertiseKeys(phase) => phase.handle(event, now, entropy),
            Self::ShareKeys(phase) => phase.handle(event, now),
            Self::Contribute(phase) => phase.handle(event, now),
            Self::Ready(phase) => phase.handle(event),
            Self::Uploaded(phase) => phase.handle(event),
            Self::Consistency(phase) => phase.handle(event),
            Self::Unmask(phase) => phase.handle(event),
            Self::Over => (Self::Over, Vec::new()),
        }
    }

    /// Takes what the client knows by now, if no plan has come yet: other processes may have charged the same budget since
    /// it checked in.
    #[must_use]
    pub fn knowing(self, memory: Memory) -> Self {
        match self {
            Self::Select(phase) => Self::Select(phase.knowing(memory)),
            round => round,
        }
    }

    /// The phase.
    pub fn phase(&self) -> Phase {
        match self {
            Self::Select(_) => Phase::Select,
            Self::AdvertiseKeys(_) => Phase::AdvertiseKeys,
            Self::ShareKeys(_) => Phase::ShareKeys,
            Self::Contribute(_) => Phase::Contribute,
            Self::Ready(_) => Phase::Ready,
            Self::Uploaded(_) => Phase::Uploaded,
            Self::Consistency(_) => Phase::Consistency,
            Self::Unmask(_) => Phase::Unmask,
            Self::Over => Phase::Idle,
        }
    }

    /// What the round knows since its plan was accepted.
    fn common(&self) -> Option<&Common> {
        match self {
            Self::Select(_) | Self::Over => None,
            Self::AdvertiseKeys(phase) => Some(&phase.common),
            Self::ShareKeys(phase) => Some(&phase.common),
            Self::Contribute(phase) => Some(&phase.common),
            Self::Ready(phase) => Some(&phase.common),
            Self::Uploaded(phase) => Some(&phase.common),
            Self::Consistency(phase) => Some(&phase.common),
            Self::Unmask(phase) => Some(&phase.common),
        }
    }

    /// The plan that was accepted, if one was.
    pub fn plan(&self) -> Option<&RoundPlan> {
        self.common().map(|common| &common.plan)
    }
}

/// What every phase after `configure` knows.
struct Common {
    member: Arc<Member>,
    memory: Memory,
    plan: RoundPlan,
    plan_digest: Digest,
    /// When the plan came: READY's slots are counted from here.
    configured: Timestamp,
}

impl Common {
    fn round_ref(&self) -> RoundRef {
        RoundRef { session: self.plan.session, round: self.plan.round }
    }

    /// Ends the round with a refusal.
    fn refuse(&self, refusal: impl Into<Refusal>) -> (Round, Vec<Action>) {
        abort::refuse(Some(self.round_ref()), refusal.into(), true)
    }

    /// Ends the round because an event does not belong in the phase.
    fn out_of_phase(&self, phase: &'static str) -> (Round, Vec<Action>) {
        self.refuse(RefusalKind::OutOfPhase { phase })
    }
}

/// Sends a request without a body.
fn send(request: impl Into<Request>) -> Action {
    Action::Send { request: request.into(), body: Bytes::new() }
}

impl Step {
    /// The step on `budget`, ready to be appended.
    ///
    /// # Errors
    /// If the budget does not allow it.
    pub fn prepare(
        &self,
        budget: &Budget,
        session: SessionId,
        round: RoundNumber,
    ) -> Result<budget::Append, BudgetError> {
        match self {
            Self::Begin { task, mechanism, allow_no_noise } => {
                budget.begin(session, round, task, mechanism, *allow_no_noise)
            }
            Self::GiveBack => budget.give_back(session, round),
            Self::Charge { attempt, plan, mechanism, allow_no_noise } => {
                budget.charge(session, round, *attempt, *plan, mechanism, *allow_no_noise)
            }
            Self::SignConsistency { statement } => budget.sign_consistency(session, round, *statement),
            Self::Receipt { entry, survivors } => budget.receipt(session, round, *entry, *survivors),
            Self::Refuse { round, reason } => budget.refuse(round.session, round.round, reason),
        }
    }
}
