//! `select`: a client asks to take part.

use eranos_base::TaskId;
use serde::{Deserialize, Serialize};

/// Asks to take part in the next round of a task. The client's identity is its certificate's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckIn {
    /// The task.
    pub task: TaskId,
    /// The version of plans that the client understands.
    pub plan_version: u16,
    /// Random: two check-ins are never the same request, a resent one is.
    pub nonce: u64,
}

/// The version of plans that this build makes and understands.
pub const PLAN_VERSION: u16 = 1;

/// The client is not wanted now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ComeBackLater {
    /// When to ask again, if ever.
    pub when: ComeBack,
    /// Why, for a person.
    pub reason: String,
}

/// When a client that is not wanted now may ask again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ComeBack {
    /// After so many milliseconds.
    AfterMs(u32),
    /// Not for this task: it is over, as planned.
    TaskOver,
    /// Not as it is: for another task, with another version, or excluded. Somebody must change something first.
    Never,
}
