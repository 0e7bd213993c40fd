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
    /// When to ask again; none when the task is over.
    pub after_ms: Option<u32>,
    /// Why, for a person.
    pub reason: String,
}
