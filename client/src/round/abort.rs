//! `abort`: from anywhere. The client says why, its keys are wiped with the phase that held them, and the refusal goes
//! into its own log. What was charged stays charged.

use eranos_base::{Digest, encoding::DecodeError};
use eranos_ledger::{LedgerKey, witnessed::DemandError};
use eranos_privacy::budget::BudgetError;
use eranos_secagg::ShortName;
use eranos_wire::{
    messages::{
        RoundRef,
        abort::{Abort, Aborted, Reason},
    },
    plan::PlanError,
};

use super::{Action, End, Round, Step, send};

/// Why this client left a round.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{kind}")]
pub struct Refusal {
    /// What it refused.
    pub kind: RefusalKind,
}

/// What a client refuses.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum RefusalKind {
    /// The plan is malformed or not signed by the pinned key.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The plan is for somebody else.
    #[error("plan is for another {what}: {found}")]
    Other {
        /// What differs.
        what: &'static str,
        /// What it is, as the plan says.
        found: Reason,
    },
    /// The plan offers less than the policy demands.
    #[error("policy: {what} is {found}, at least {least} is demanded")]
    TooLittle {
        /// What.
        what: &'static str,
        /// How much.
        found: f64,
        /// The least.
        least: f64,
    },
    /// The plan takes more than the policy allows.
    #[error("policy: {what} is {found}, at most {most} is allowed")]
    TooMuch {
        /// What.
        what: &'static str,
        /// How much.
        found: f64,
        /// The most.
        most: f64,
    },
    /// The plan protects records, where the policy demands that whole clients are.
    #[error("policy: the plan protects single records, and promises nothing to this client as a whole")]
    Unit,
    /// The plan adds no noise, and the policy allows none without.
    #[error("policy: the plan adds no noise, so that it promises nothing to anybody's records")]
    NoNoise,
    /// The plan runs on a sparse graph, and the policy has no section for those.
    #[error("policy: the plan runs on a sparse graph, complete ones alone are accepted")]
    SparseGraph,
    /// The budget does not allow it.
    #[error("budget: {0}")]
    Budget(BudgetError),
    /// The budget is an older copy, or a new one: it does not know of vectors that left under this identity.
    #[error(
        "budget: the coordinator has received {received} vectors of this client in this session, {charged} are charged"
    )]
    OlderBudget {
        /// How many vectors the coordinator says, signed, that it has received.
        received: u64,
        /// How many attempts of the session this client has charged.
        charged: u64,
    },
    /// The model cannot be trained here.
    #[error("model: {0}")]
    Model(String),
    /// The records are not what this client has.
    #[error("data: {0}")]
    Data(String),
    /// A message is malformed.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// Something that the coordinator must sign is not signed by its ledger key.
    #[error("the {what} is not signed by the pinned ledger key")]
    NotSigned {
        /// What.
        what: &'static str,
    },
    /// A credential of the roster that the coordinator does not show.
    #[error("credential {credential} of the roster is not shown")]
    CredentialMissing {
        /// Its name in the roster.
        credential: ShortName,
    },
    /// More credentials than were asked for.
    #[error("credentials are shown that were not asked for")]
    CredentialsUnasked,
    /// A certificate of the roster that is not believed.
    #[error("certificate {certificate} in the roster is not believed: {reason}")]
    Certificate {
        /// Its digest. Whose it is nobody knows.
        certificate: Digest,
        /// Why not.
        reason: String,
    },
    /// The secure sum would not be one.
    #[error(transparent)]
    SecureSum(#[from] eranos_secagg::Refusal),
    /// Too few of the policy's witnesses have cosigned the ledger, or too long ago.
    #[error("policy: {0}")]
    Witnesses(DemandError),
    /// The coordinator goes on in another ledger, from a backup.
    #[error(
        "the coordinator was restored from a backup and goes on in another ledger, {key}: of the one that this client knows \
         up to entry {known}, whatever follows entry {kept} is lost"
    )]
    LogRestored {
        /// The new ledger's key.
        key: LedgerKey,
        /// How many of the old ledger's entries the backup has.
        kept: u64,
        /// How many this client knows.
        known: u64,
    },
    /// The ledger does not show the round as it was.
    #[error("ledger: {0}")]
    Ledger(String),
    /// A message that does not belong in the phase.
    #[error("the coordinator's message does not belong in {phase}")]
    OutOfPhase {
        /// The phase.
        phase: &'static str,
    },
}

impl Refusal {
    /// What the coordinator hears. What the client has spent elsewhere is none of its business.
    pub fn public_reason(&self) -> String {
        match &self.kind {
            RefusalKind::Budget(_) => "the budget does not allow this attempt".to_owned(),
            kind => kind.to_string(),
        }
    }

    /// What its operator can do about it.
    pub fn next_step(&self) -> &'static str {
        match &self.kind {
            RefusalKind::OlderBudget { .. } => {
                "restore the newest copy of this client's state folder: without it nobody knows what was spent"
            }
            RefusalKind::NoNoise => {
                "ask the operator for a plan with noise; if no record here needs protection, now or later, set \
                 allow_no_noise = true in policy.toml"
            }
            RefusalKind::Budget(BudgetError::GuaranteeLost) => {
                "use a data set that was never trained on without noise; if no record here needs protection, set \
                 allow_no_noise = true in policy.toml"
            }
            RefusalKind::Budget(BudgetError::Exceeded { n_reserved: 1.., .. }) => {
                "wait until the other tasks on this data set are over, and start this client again; `eranos client budget` \
                 shows what each has spent and reserved"
            }
            RefusalKind::Budget(BudgetError::Exceeded { .. }) => {
                "the limit is fixed with the budget: other records have another one, and attempts with more noise cost less; \
                 `eranos client budget` shows what was spent"
            }
            RefusalKind::Budget(BudgetError::NotBegun { .. }) => {
                "another client took this one for gone, and gave back what it had reserved; the next round is reserved anew. If \
                 it comes again, let nobody remove files in the budget's folder, and keep it on a disk that knows locks"
            }
            RefusalKind::Unit => {
                "ask the operator for a plan with unit = client; unit = record in policy.toml, with a new state folder, \
                 would count single records alone"
            }
            RefusalKind::SparseGraph => {
                "ask the operator for the complete graph, or uncomment sparse_graph in policy.toml after reading what is said there"
            }
            RefusalKind::Witnesses(_) => {
                "let the witnesses of policy.toml cosign a copy of the ledger as it is now, and the operator put what they \
                 give into the coordinator's folder state/cosigned"
            }
            RefusalKind::LogRestored { .. } => {
                "ask the coordinator's operator whether that is so; then stop this client, look and accept: `eranos client \
                 accept-ledger`"
            }
            RefusalKind::Ledger(_) => {
                "keep this client's state folder, where the signed checkpoints are (ledger-checkpoint, evidence-*), and \
                 compare with the other parties before going on"
            }
            _ => "talk to the operator about the plan, or change policy.toml if you agree to it",
        }
    }

    /// Whether the next round would be refused as well: plan, policy, budget and ledger do not mend themselves. A bad
    /// message or a bad member of the roster ends the round alone.
    pub fn is_final(&self) -> bool {
        match &self.kind {
            // What was reserved for this round was given back; the next one can be reserved anew.
            RefusalKind::Budget(BudgetError::NotBegun { .. }) => false,
            RefusalKind::Plan(_)
            | RefusalKind::Other { .. }
            | RefusalKind::TooLittle { .. }
            | RefusalKind::TooMuch { .. }
            | RefusalKind::Unit
            | RefusalKind::NoNoise
            | RefusalKind::SparseGraph
            | RefusalKind::Budget(_)
            | RefusalKind::OlderBudget { .. }
            | RefusalKind::Model(_)
            | RefusalKind::Data(_)
            | RefusalKind::Ledger(_) => true,
            RefusalKind::Decode(_)
            | RefusalKind::NotSigned { .. }
            | RefusalKind::CredentialMissing { .. }
            | RefusalKind::CredentialsUnasked
            | RefusalKind::Certificate { .. }
            | RefusalKind::SecureSum(_)
            // Somebody may cosign meanwhile.
            | RefusalKind::Witnesses(_)
            // Its operator may accept the ledger meanwhile.
            | RefusalKind::LogRestored { .. }
            | RefusalKind::OutOfPhase { .. } => false,
        }
    }
}

impl Refusal {
    /// Whether what to do about it is worth saying to this client's own operator, though the client goes on.
    pub fn is_for_its_operator(&self) -> bool {
        self.waits_for_people() || (!self.is_final() && matches!(self.kind, RefusalKind::Budget(_)))
    }

    /// Whether it waits for what a person does: then it asks again after a while, and not at once.
    pub const fn waits_for_people(&self) -> bool {
        matches!(self.kind, RefusalKind::Witnesses(_) | RefusalKind::LogRestored { .. })
    }
}

impl From<RefusalKind> for Refusal {
    fn from(kind: RefusalKind) -> Self {
        Self { kind }
    }
}

impl From<eranos_secagg::Refusal> for Refusal {
    fn from(refusal: eranos_secagg::Refusal) -> Self {
        RefusalKind::SecureSum(refusal).into()
    }
}

/// Ends the round with a refusal. The coordinator hears why if it named a round.
pub(super) fn refuse(round: Option<RoundRef>, refusal: Refusal, log: bool) -> (Round, Vec<Action>) {
    let mut actions = Vec::new();
    if let Some(round) = round {
        if log {
            let reason = Reason::from(refusal.to_string()).as_str().to_owned();
            actions.push(Action::Persist(Step::Refuse { round, reason }));
        }
        actions.push(send(Abort { round, reason: refusal.public_reason().into() }));
    }
    actions.push(Action::Over(End::Refused(refusal)));
    (Round::Over, actions)
}

/// Leaves the round: the coordinator was lost, training failed, or the operator said so.
pub(super) fn leave(round: Round, reason: String) -> (Round, Vec<Action>) {
    let mut actions = Vec::new();
    if matches!(round, Round::Over) {
        return (round, actions);
    }
    if let Some(common) = round.common() {
        actions.push(send(Abort { round: common.round_ref(), reason: reason.clone().into() }));
    }
    actions.push(Action::Over(End::Left { reason }));
    (Round::Over, actions)
}

/// The budget allows less than it did when the plan was accepted: other processes charge it too.
pub(super) fn forbidden(round: Round, error: BudgetError) -> (Round, Vec<Action>) {
    match round.common() {
        Some(common) => common.refuse(RefusalKind::Budget(error)),
        None => (round, Vec::new()),
    }
}

/// The coordinator ended the round, or left this client out of it.
pub(super) fn aborted(round: Round, aborted: &Aborted) -> (Round, Vec<Action>) {
    if matches!(round, Round::Over) {
        return (round, Vec::new());
    }
    (Round::Over, vec![Action::Over(End::Aborted { reason: aborted.reason.clone() })])
}
