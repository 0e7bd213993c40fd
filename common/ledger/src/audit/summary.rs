//! What an audit found: the tasks of a log and who took part in them, everything recomputed.

use eranos_base::{Digest, SessionId, TaskId, Timestamp, VerifyingKey};
use eranos_privacy::{Noise, budget::UnitOfPrivacy};

use crate::{
    audit::fault::Finding,
    entry::{Epsilons, Executable, LogOpened, PromisedCurves, TaskOpened},
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
    /// Epsilon charged to it: every roster, at the plan's promise.
    pub charged: Epsilons,
}
