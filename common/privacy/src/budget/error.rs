//! Why a step of a budget is not taken, or its file not read.

use eranos_base::RoundNumber;

use crate::mechanism::MechanismError;

/// Why a step is not taken, or a file not read.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum BudgetError {
    /// The terms make no budget.
    #[error("budget terms: {what} is out of range")]
    Terms {
        /// Which of them.
        what: &'static str,
    },
    /// The file is empty or ends inside its first record: there is no budget in it.
    #[error("budget file holds no complete record")]
    Empty,
    /// Bytes that neither a whole record nor a torn one explains. No state is given: the file must be looked at.
    #[error("budget file is damaged at byte {offset}, record {index}: {what}")]
    Damaged {
        /// Where the frame begins.
        offset: usize,
        /// Its place in the chain.
        index: u64,
        /// What does not fit.
        what: String,
    },
    /// Charging this would exceed the limit.
    #[error(
        "epsilon {epsilon_after:.4} after this attempt, limit {epsilon_limit} ({epsilon_spent:.4} spent{})",
        reserved_text(*n_reserved)
    )]
    Exceeded {
        /// What is spent.
        epsilon_spent: f64,
        /// How many attempts other sessions have reserved.
        n_reserved: usize,
        /// What would be spent, by them too.
        epsilon_after: f64,
        /// The limit.
        epsilon_limit: f64,
    },
    /// An attempt without noise, after which no guarantee would be left.
    #[error("the attempt adds no noise: after it no guarantee would be left for this data set")]
    NoNoise,
    /// An attempt without noise was charged before: no guarantee is left that another could keep.
    #[error("attempts without noise were charged to this data set: no guarantee is left that noise could keep")]
    GuaranteeLost,
    /// A record-level release, where whole clients are to be protected.
    #[error("a record-level release promises nothing to a client as a whole, which this budget is for")]
    Unit,
    /// A mechanism that is none.
    #[error(transparent)]
    Mechanism(#[from] MechanismError),
    /// Rounds of a session strictly increase, and each is begun once.
    #[error("round {round} cannot be begun, round {begun} was")]
    RoundNotNew {
        /// The round asked for.
        round: RoundNumber,
        /// The last one begun in that session.
        begun: RoundNumber,
    },
    /// A step in a round that was never begun, or whose reservation was given back.
    #[error("round {round} was not begun, or what was reserved for it was given back")]
    NotBegun {
        /// The round.
        round: RoundNumber,
    },
    /// A step that is taken once per session and round, ever.
    #[error("round {round} has its {step} already")]
    AlreadyDone {
        /// The round.
        round: RoundNumber,
        /// The step.
        step: &'static str,
    },
    /// Nothing is reserved for this round: its attempt was charged, or given back.
    #[error("round {round} has nothing reserved")]
    NotReserved {
        /// The round.
        round: RoundNumber,
    },
    /// A receipt for an attempt that was not charged.
    #[error("round {round} was not charged")]
    NotCharged {
        /// The round.
        round: RoundNumber,
    },
    /// Attempts of a session strictly increase, up to the plan's number.
    #[error("attempt {attempt}, expected {least} to {most}")]
    Attempt {
        /// The attempt asked for.
        attempt: u32,
        /// The least allowed now.
        least: u32,
        /// The plan's number.
        most: u32,
    },
    /// A session has one mechanism, that of its first charge: what its attempts cost together was accepted by it.
    #[error("the mechanism is not the one under which this session was first charged")]
    OtherMechanism,
    /// A filter that is recorded where one is fixed already, or that would let more pass than the budget's terms.
    #[error("the filter recorded with a charge {what}")]
    Filter {
        /// What is wrong with it.
        what: &'static str,
    },
    /// A text longer than its limit.
    #[error("text of {len} bytes, limit {max}")]
    TextTooLong {
        /// Its length.
        len: usize,
        /// The limit.
        max: usize,
    },
    /// The log is full.
    #[error("budget log is full at {max} records")]
    Full {
        /// The limit.
        max: u64,
    },
    /// The step was prepared on another state than the one it is taken on.
    #[error("the step was prepared on another state of the budget")]
    Stale,
}

impl BudgetError {
    /// Whether the step alone is at fault: the budget is sound, and knows what it knew.
    pub const fn is_of_the_step(&self) -> bool {
        !matches!(self, Self::Damaged { .. } | Self::Empty | Self::Full { .. } | Self::Stale | Self::Terms { .. })
    }
}

/// What an error says of reservations.
fn reserved_text(n_reserved: usize) -> String {
    match n_reserved {
        0 => String::new(),
        n => format!(", {n} reserved by other sessions"),
    }
}
