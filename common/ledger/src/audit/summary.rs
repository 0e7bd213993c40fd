//! What an audit found: the tasks of a log and who took part in them, everything recomputed.

use eranos_base::{Digest, SessionId, TaskId, Timestamp, VerifyingKey};
use eranos_privacy::{Noise, budget::UnitOfPrivacy};

use crate::{
    audit::fault::Finding,
    entry::{
        BudgetSet, Date, Epsilons, Executable, LogOpened, LogRestored, Membership, MembershipChange, ModelPublished,
        PrivacyStated, PromisedCurves, TaskOpened, TaskStated,
    },
    note::{Checkpoint, Origin},
};

/// What an audit found.
#[derive(Clone, Debug)]
pub struct Report {
    /// The checkpoint, if it is signed by the pinned key.
    pub checkpoint: Option<Checkpoint>,
    /// Who of the witnesses demanded has cosigned it, and when.
    pub witnessed: Vec<(Origin, Timestamp)>,
    /// What the log says of itself.
    pub opened: Option<LogOpened>,
    /// Entries read.
    pub n_entries: u64,
    /// The tasks, in the order in which they were opened.
    pub tasks: Vec<TaskSummary>,
    /// Who was enrolled, renewed or revoked, in this order, without names; at most [`MEMBERS_MAX`](super::MEMBERS_MAX).
    pub members: Vec<(u64, Membership)>,
    /// What does not hold; at most [`FINDINGS_MAX`](super::FINDINGS_MAX).
    pub findings: Vec<Finding>,
    /// How many findings there are.
    pub n_findings: u64,
}

impl Report {
    /// Whether everything holds.
    pub const fn is_clean(&self) -> bool {
        self.n_findings == 0
    }

    /// Attempts in all tasks.
    pub fn n_attempts(&self) -> u64 {
        self.tasks.iter().map(|task| task.attempts).sum()
    }

    /// The tasks of which nothing is promised, since nobody adds noise in them.
    pub fn without_noise(&self) -> impl Iterator<Item = &TaskSummary> {
        self.tasks.iter().filter(|task| task.noise == Noise::None)
    }

    /// How many clients were enrolled. None is either a log without attempts or one that does not say.
    pub fn n_enrolled(&self) -> usize {
        self.members.iter().filter(|(_, member)| member.change == MembershipChange::Enrolled).count()
    }

    /// Released rounds in all tasks.
    pub fn n_released(&self) -> u64 {
        self.tasks.iter().map(|task| task.released).sum()
    }
}

/// What a log says of one task, recomputed.
#[derive(Clone, Debug)]
pub struct TaskSummary {
    /// The task.
    pub task: TaskId,
    /// The session.
    pub session: SessionId,
    /// What every epsilon here speaks of.
    pub unit: UnitOfPrivacy,
    /// Which two federations are neighbours.
    pub relation: &'static str,
    /// Who adds noise. Where nobody does, every epsilon here is infinite.
    pub noise: Noise,
    /// What it was opened with.
    pub opened: TaskOpened,
    /// What it goes on from, where its beginning stands in another log, restored from a backup.
    pub restored: Option<LogRestored>,
    /// What its operator says of it, and since when: the first day, and the words in force.
    pub stated: Option<(Date, TaskStated)>,
    /// What one client may be charged.
    pub client_budget: Option<BudgetSet>,
    /// The model that was given away last.
    pub published: Option<ModelPublished>,
    /// The privacy statement that was entered last, with the entry's index; and whether it was made anew and is the same. It is
    /// not made anew where it is in older words than this build's.
    pub privacy_stated: Option<(u64, PrivacyStated, bool)>,
    /// Whether an attempt ran on a sparse graph.
    pub is_sparse: bool,
    /// The programs that arranged its rounds, as they report themselves; the first
    /// [`EXECUTABLES_MAX`](super::EXECUTABLES_MAX) different ones.
    pub executables: Vec<Executable>,
    /// Attempts.
    pub attempts: u64,
    /// Attempts that released a model.
    pub released: u64,
    /// Attempts that ended before anything was unmasked.
    pub aborted_before_reveal: u64,
    /// Attempts that ended after the sum may have been unmasked.
    pub aborted_after_reveal: u64,
    /// Attempts that the plan allows.
    pub max_attempts: u64,
    /// Epsilon charged: every attempt, at the plan's promise.
    pub charged: Epsilons,
    /// The same together with the attempts of the logs before this one, those lost included.
    pub charged_in_all: Epsilons,
    /// Epsilon attained: every attempt with the survivors it had; those that revealed nothing count with u_min.
    pub attained: Epsilons,
    /// The delta of every epsilon here.
    pub delta: f64,
    /// The budget's epsilon.
    pub budget_epsilon: f64,
    /// SHA-256 of the weights last released.
    pub weights: Digest,
    /// Who took part, by pseudonym.
    pub pseudonyms: Vec<PseudonymSummary>,
    /// What any number of its attempts costs.
    pub(crate) curves: PromisedCurves,
}

/// What a log says of one pseudonym of a task, recomputed.
#[derive(Clone, Copy, Debug)]
pub struct PseudonymSummary {
    /// The statement key.
    pub pseudonym: VerifyingKey,
    /// Rosters in which it stood.
    pub attempts: u64,
    /// Sums that hold its vector and count as revealed.
    pub revealed: u64,
    /// The first and the last entry in whose roster it stood.
    pub entries: (u64, u64),
    /// Epsilon charged to it: every roster, at the plan's promise.
    pub charged: Epsilons,
}
