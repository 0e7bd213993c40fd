//! The client's own policy: what it agrees to, whatever a coordinator plans. Read once, from `policy.toml`.

use std::path::Path;

use eranos_base::UserError;
use serde::Deserialize;

/// What this client agrees to.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// The version of this format; 1.
    pub version: u32,
    /// The unit of privacy demanded.
    pub unit: Unit,
    /// The most epsilon that this data set may ever be charged.
    pub epsilon_max: f64,
    /// The most epsilon that one session of a task may plan for, all its attempts together. A coordinator that begins the
    /// task anew begins a new session; what all sessions spend is bounded by `epsilon_max`.
    pub task_epsilon_max: f64,
    /// The delta at which epsilon is stated; a plan with a larger one is refused.
    pub delta_max: f64,
    /// The least number of survivors whose updates are summed.
    pub survivors_min: u16,
    /// The most identities, among ALL that the certificate authority has enrolled, that may work with the coordinator.
    /// A plan that tolerates fewer is refused.
    pub max_colluders: u16,
    /// The least noise multiplier of an attempt, colluders' shares left out.
    pub noise_multiplier_min: f64,
    /// The most records that this client may hold: a public constant, which a plan's own bound must cover. Whether the
    /// data keeps to it is checked before anybody is dialled, so that no answer to a plan depends on the data.
    pub records_max: u32,
    /// The shortest slot of READY, in milliseconds: a slot as short as the work's own jitter would say how long it took.
    pub ready_slot_ms_min: u32,
    /// The most charged attempts, in all, without a receipt: a coordinator that burns budget is left.
    pub charged_without_receipt_max: u32,
}

/// A unit of privacy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unit {
    /// One record, added or removed.
    Record,
}

impl Policy {
    /// Reads a policy file.
    ///
    /// # Errors
    /// If the file is missing, is not TOML, or says something that cannot be.
    pub fn read(path: &Path) -> Result<Self, UserError> {
        let policy: Self = crate::config::read_toml(path, "make one with `eranos client init`")?;
        let refuse = |what: &str, next: &str| Err(UserError::new(format!("{}: {what}", path.display()), next));
        let positive = |value: f64| value.is_finite() && value > 0.0;
        if policy.version != 1 {
            return refuse(&format!("version = {}", policy.version), "this build reads version 1");
        }
        if !positive(policy.epsilon_max) || !positive(policy.task_epsilon_max) {
            return refuse("epsilon_max or task_epsilon_max is not a positive number", "4.0 is a common choice");
        }
        if !positive(policy.delta_max) || policy.delta_max >= 1.0 {
            return refuse("delta_max does not lie between 0 and 1", "stay well below 1 / (number of records): 1e-5");
        }
        if policy.max_colluders == 0 {
            return refuse(
                "max_colluders = 0",
                "at least one identity may always work with the coordinator: 1 or more",
            );
        }
        if !(policy.noise_multiplier_min.is_finite() && policy.noise_multiplier_min >= 0.0) {
            return refuse("noise_multiplier_min is not a number", "0.5 refuses the weakest settings");
        }
        Ok(policy)
    }
}
