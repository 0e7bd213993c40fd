//! The client's own policy: what it agrees to, whatever a coordinator plans. Read once, from `policy.toml`.

use std::path::Path;

use clap::ValueEnum;
use eranos_base::UserError;
use eranos_ledger::{WitnessKey, note::NOTE_SIGNATURES_MAX, witnessed::Demand};
use eranos_privacy::budget::UnitOfPrivacy;
use serde::{Deserialize, Deserializer, de::Error as _};

/// What this client agrees to.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// The version of this format; 1.
    pub version: u32,
    /// The unit of privacy demanded: what every epsilon and the noise multiplier here speak of.
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
    /// The least noise multiplier that this client's own noise must reach by itself, whoever else adds any: above 0 it asks
    /// for nobody's honesty, and a large one only plans with local noise offer.
    #[serde(default)]
    pub own_noise_multiplier_min: f64,
    /// Whether plans without any noise are taken part in, and plans with noise on a data set that was used without. Nothing
    /// is promised to this client's records then, now or later; the limits on epsilon and noise above do not apply.
    #[serde(default)]
    pub allow_no_noise: bool,
    /// The most records that this client may hold: a public constant, which a plan's own bound must cover. Whether the
    /// data keeps to it is checked before anybody is dialled, so that no answer to a plan depends on the data.
    pub records_max: u32,
    /// The shortest slot of READY, in milliseconds: a slot as short as the work's own jitter would say how long it took.
    pub ready_slot_ms_min: u32,
    /// The most charged attempts, in all, without a receipt: a coordinator that burns budget is left.
    pub charged_without_receipt_max: u32,
    /// The longest that a plan may let its parties wait in one phase, in milliseconds. A client that has no contribution
    /// by then leaves, so that it bounds for how long a round can keep this machine busy, whatever the model.
    #[serde(default = "phase_timeout_ms_max")]
    pub phase_timeout_ms_max: u32,
    /// The most records, its steps times the records of each, that local training of one round may take; plans with unit =
    /// client have it, and those whose silos add all of their noise.
    #[serde(default = "local_records_max")]
    pub local_records_max: u32,
    /// The largest learning rate of local training.
    #[serde(default = "local_learning_rate_max")]
    pub local_learning_rate_max: f64,
    /// The most parameters of a model. A client that trains holds about a hundred bytes for each.
    #[serde(default = "parameters_max")]
    pub parameters_max: u32,
    /// The witnesses of the ledger that it knows, each by the line in its witness.pub.
    #[serde(default, deserialize_with = "witness_keys")]
    pub witnesses: Vec<WitnessKey>,
    /// How many of them must have cosigned the ledger's history.
    #[serde(default)]
    pub witnesses_min: u16,
    /// How many entries the ledger may have, one for each attempt, beyond what they cosigned: so long may a history that is
    /// shown to this client alone stay unnoticed.
    #[serde(default = "witness_lag_max")]
    pub witness_lag_max: u32,
    /// Which sparse graphs it takes part in; none, if there is no such section: then complete graphs alone.
    pub sparse_graph: Option<SparseGraph>,
}

/// Which sparse graphs a client takes part in. None of them holds against a coordinator that chooses who dropped out, or
/// which of many rosters it takes.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SparseGraph {
    /// gamma: the least share of the plan's largest roster that it must tolerate as colluders.
    pub corrupt_share_min: f64,
    /// delta: the largest share of that roster that it may let drop out.
    pub dropped_share_max: f64,
}

/// The longest phase of a plan where the policy says nothing: ten minutes.
pub const PHASE_TIMEOUT_MS_MAX_DEFAULT: u32 = 600_000;
/// The most work of local training where the policy says nothing.
pub const LOCAL_RECORDS_MAX_DEFAULT: u32 = 1 << 16;
/// The largest learning rate of local training where the policy says nothing.
pub const LOCAL_LEARNING_RATE_MAX_DEFAULT: f64 = 1.0;
/// The most parameters of a model where the policy says nothing.
pub const PARAMETERS_MAX_DEFAULT: u32 = 1 << 24;

/// How far witnesses may be behind where the policy says nothing.
pub const WITNESS_LAG_MAX_DEFAULT: u32 = 100;

fn witness_lag_max() -> u32 {
    WITNESS_LAG_MAX_DEFAULT
}

fn witness_keys<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<WitnessKey>, D::Error> {
    let lines = Vec::<String>::deserialize(deserializer)?;
    lines
        .iter()
        .map(|line| line.parse().map_err(|error| D::Error::custom(format!("witness {line:?}: {error}"))))
        .collect()
}

fn phase_timeout_ms_max() -> u32 {
    PHASE_TIMEOUT_MS_MAX_DEFAULT
}

fn local_records_max() -> u32 {
    LOCAL_RECORDS_MAX_DEFAULT
}

fn local_learning_rate_max() -> f64 {
    LOCAL_LEARNING_RATE_MAX_DEFAULT
}

fn parameters_max() -> u32 {
    PARAMETERS_MAX_DEFAULT
}

/// A unit of privacy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Unit {
    /// One record, added or removed. Plans that protect whole clients are charged as the replacement of one record.
    Record,
    /// This client, with all of its records. Plans that protect records alone are refused.
    Client,
}

impl From<Unit> for UnitOfPrivacy {
    fn from(unit: Unit) -> Self {
        match unit {
            Unit::Record => Self::Record,
            Unit::Client => Self::Client,
        }
    }
}

impl Policy {
    /// What it demands of witnesses.
    pub fn demand(&self) -> Demand<'_> {
        Demand { witnesses: &self.witnesses, min: self.witnesses_min.into(), lag_max: self.witness_lag_max.into() }
    }

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
        let minima = [policy.noise_multiplier_min, policy.own_noise_multiplier_min];
        if !minima.iter().all(|least| least.is_finite() && *least >= 0.0) {
            return refuse(
                "noise_multiplier_min or own_noise_multiplier_min is not a number",
                "0.5 refuses the weakest settings",
            );
        }
        if !positive(policy.local_learning_rate_max) {
            return refuse("local_learning_rate_max is not a positive number", "1.0 is generous");
        }
        let n_witnesses = policy.witnesses.len();
        if usize::from(policy.witnesses_min) > n_witnesses || n_witnesses > NOTE_SIGNATURES_MAX {
            let what = format!("witnesses_min = {}, and {n_witnesses} witnesses", policy.witnesses_min);
            return refuse(&what, "name as many as must cosign, and no more than 32");
        }
        let mut keys: Vec<_> = policy.witnesses.iter().map(|witness| witness.key().0).collect();
        keys.sort_unstable();
        if let Some(twice) = keys.windows(2).find(|pair| pair[0] == pair[1]) {
            let of = policy.witnesses.iter().rfind(|witness| witness.key().0 == twice[0]);
            let name = of.map(|witness| witness.name().to_string()).unwrap_or_default();
            return refuse(
                &format!("two witnesses have the key of {name}"),
                "name each witness once: they count as one",
            );
        }
        if let Some(SparseGraph { corrupt_share_min, dropped_share_max }) = policy.sparse_graph
            && ![corrupt_share_min, dropped_share_max].iter().all(|share| (0.0..1.0).contains(share))
        {
            return refuse(
                "sparse_graph has a share that does not lie between 0 and 1",
                "corrupt_share_min = 0.1 and dropped_share_max = 0.34 are a start",
            );
        }
        Ok(policy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_from_before_a_limit_was_named_has_the_limit() {
        let dir = tempfile::tempdir().expect("a folder");
        let mut init = crate::setup::Init {
            records: "records".to_owned(),
            labels: Some("labels".to_owned()),
            columns: Vec::new(),
            dir: dir.path().to_owned(),
            coordinator: "localhost:7433".to_owned(),
            ledger_key: eranos_ledger::LedgerSigner::new(
                "example.org/ledger".parse().expect("a name"),
                eranos_base::SigningKey::from_seed(&[1; 32]),
            )
            .ledger_key()
            .to_string(),
            task: "mnist".to_owned(),
            epsilon_max: 4.0,
            unit: Unit::Record,
            allow_no_noise: false,
            survivors_min: 3,
            max_colluders: 1,
            records_max: 10,
            classes: 10,
            budget: None,
            witnesses: Vec::new(),
        };
        crate::setup::init(&init).expect("written");
        let path = dir.path().join(crate::setup::POLICY);
        let written = Policy::read(&path).expect("a policy");
        assert_eq!((written.phase_timeout_ms_max, written.parameters_max), (600_000, 16_777_216));
        let text = std::fs::read_to_string(&path).expect("written");
        // Sparse graphs are to be allowed on purpose, by what stands there as a comment.
        assert_eq!(written.sparse_graph, None);
        let mut allowed = text.clone();
        for line in ["[sparse_graph]", "corrupt_share_min", "dropped_share_max"] {
            allowed = allowed.replace(&format!("# {line}"), line);
        }
        std::fs::write(&path, allowed).expect("written");
        let sparse = SparseGraph { corrupt_share_min: 0.1, dropped_share_max: 0.34 };
        assert_eq!(Policy::read(&path).expect("a policy").sparse_graph, Some(sparse));
        let named = ["phase_timeout_ms_max", "parameters_max", "allow_no_noise"];
        let before = |line: &&str| !named.iter().any(|name| line.starts_with(name));
        std::fs::write(&path, text.lines().filter(before).collect::<Vec<_>>().join("\n")).expect("written");
        assert_eq!(Policy::read(&path).expect("a policy"), written);
        // Nobody goes without noise who did not write so.
        assert!(!written.allow_no_noise);
        (init.allow_no_noise, init.dir) = (true, dir.path().join("bare"));
        crate::setup::init(&init).expect("written");
        assert!(Policy::read(&init.dir.join(crate::setup::POLICY)).expect("a policy").allow_no_noise);
    }
}
