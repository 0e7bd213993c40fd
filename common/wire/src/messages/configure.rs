//! `configure`: the coordinator sends plan and model. The client's answer is its advert, or an abort with the reason.

use serde::{Deserialize, Serialize};

use crate::plan::SignedPlan;

/// The signed plan. The body of the frame is the checkpoint that the plan names: `f32`, little-endian.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Configure {
    /// The plan.
    pub plan: SignedPlan,
}
