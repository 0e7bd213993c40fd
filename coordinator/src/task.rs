//! The task file: one model trained on one kind of data under one promise of privacy. Checked once, where it is read.

use std::path::{Path, PathBuf};

use eranos_base::{TaskId, UserError};
use eranos_nn::{LearningRateSchedule, OptimizerSpec, model::Source};
use eranos_privacy::mechanism::NoiseTarget;
use eranos_secagg::{GraphKind, Thresholds, thresholds::COMPLETE_LEN_MAX};
use serde::Deserialize;

/// A task as its TOML file says it.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Task {
    /// The version of this format; 1.
    pub version: u32,
    /// The task's name: clients opt into it.
    pub name: TaskId,
    /// The file that says what a record is ([`eranos_nn::DataFile`]), relative to the task file.
    pub data: PathBuf,
    /// What is trained.
    pub model: Model,
    /// How a step is taken.
    pub training: Training,
    /// What is promised.
    pub privacy: Privacy,
    /// Who takes part.
    pub cohort: Cohort,
    /// How many rounds, and how they are paced.
    pub schedule: Schedule,
}

/// What is trained.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// One of the built-in models.
    pub builtin: Option<String>,
    /// Or a Keras architecture (`model.to_json()`), relative to the task file.
    pub definition: Option<PathBuf>,
}

impl Model {
    /// Where the model comes from; files are relative to `base`, the task file's folder.
    pub fn source(&self, base: &Path) -> Source {
        match (&self.builtin, &self.definition) {
            (Some(name), _) => Source::Builtin(name.clone()),
            (None, definition) => Source::Definition(base.join(definition.as_deref().unwrap_or(Path::new("")))),
        }
    }
}

/// How a step is taken.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Training {
    /// The L2 norm that each record's gradient is clipped to.
    pub l2_clip_norm: f64,
    /// The rule that applies the summed, noised gradient, with its constants.
    pub server_optimizer: OptimizerSpec,
    /// How its learning rate goes from released round to released round.
    #[serde(default)]
    pub learning_rate_schedule: LearningRateSchedule,
}

/// What is promised to whom.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Privacy {
    /// What is protected.
    pub unit: Unit,
    /// Who adds the noise.
    pub noise: Noise,
    /// Epsilon of all attempts together, at `delta`, against the coordinator with its colluders. Not named without noise:
    /// it is infinite then.
    pub epsilon: Option<f64>,
    /// Delta.
    pub delta: f64,
    /// The probability with which each record enters an attempt: numerator and denominator.
    pub sampling_probability: [u64; 2],
    /// The number of records expected in an attempt, over all silos. A public constant: never computed from the silos'
    /// counts.
    pub expected_lot: u64,
    /// The most records that a silo may hold. A silo with more refuses.
    pub records_per_client_max: u64,
}

/// The unit of privacy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unit {
    /// One record, added or removed.
    Record,
}

/// Who adds the noise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Noise {
    /// Every client a share; only the sum is ever seen.
    Distributed,
    /// Nobody: nothing is promised, and clients refuse unless their policies allow it.
    None,
}

impl Privacy {
    /// The noise, by what it promises.
    ///
    /// # Errors
    /// If epsilon is missing where there is noise, or named where there is none.
    pub fn noise_target(&self) -> Result<NoiseTarget, &'static str> {
        match (self.noise, self.epsilon) {
            (Noise::Distributed, Some(epsilon)) => Ok(NoiseTarget::Distributed { epsilon }),
            (Noise::None, None) => Ok(NoiseTarget::None),
            (Noise::Distributed, None) => Err("privacy.epsilon is missing"),
            (Noise::None, Some(_)) => Err("privacy.epsilon is named, but noise = \"none\" promises none"),
        }
    }
}

/// Who takes part.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cohort {
    /// The most clients in a round.
    pub clients_max: u16,
    /// The least number of survivors of a round; noise is sized for them.
    pub survivors_min: u16,
    /// The most identities of a roster that may work with the coordinator against the others.
    pub max_colluders: u16,
    /// Who shares keys with whom.
    #[serde(default)]
    pub graph: Graph,
}

/// Who shares keys with whom.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Graph {
    /// Everybody with everybody.
    #[default]
    Complete,
    /// Each with a few: only clients whose policy allows it take part.
    Sparse,
}

impl From<Graph> for GraphKind {
    fn from(graph: Graph) -> Self {
        match graph {
            Graph::Complete => Self::Complete,
            Graph::Sparse => Self::Sparse,
        }
    }
}

/// How many rounds, and how they are paced.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Schedule {
    /// Released rounds to train for.
    pub rounds: u32,
    /// The most attempts, released or not: epsilon is stated for them.
    pub attempts_max: u32,
    /// READY leaves at a whole multiple of this after the plan.
    pub ready_slot_ms: u32,
    /// The least time that a phase waits for a client that vanished; it waits 5 times the phase's median if that is
    /// more.
    pub phase_wait_min_ms: u32,
    /// The most time that a phase waits for anybody.
    pub phase_timeout_ms: u32,
}

impl Task {
    /// Reads a task file.
    ///
    /// # Errors
    /// If the file is missing, is not TOML, or says something that cannot be.
    pub fn read(path: &Path) -> Result<Self, UserError> {
        let text = std::fs::read_to_string(path).map_err(|error| {
            UserError::new(
                format!("cannot read the task file {}: {error}", path.display()),
                "make one with `eranos coordinator init`",
            )
        })?;
        Self::parse(&text, path)
    }

    /// Parses the text of a task file; `path` is for the error.
    ///
    /// # Errors
    /// If it is not TOML, or says something that cannot be.
    pub fn parse(text: &str, path: &Path) -> Result<Self, UserError> {
        let task: Self =
            parse_toml(text, path, "compare with the commented example that `eranos coordinator init` writes")?;
        let refuse = |what: &str, next: &str| Err(UserError::new(format!("{}: {what}", path.display()), next));
        if task.version != 1 {
            return refuse(&format!("version = {}", task.version), "this build reads version 1");
        }
        if task.model.builtin.is_some() == task.model.definition.is_some() {
            return refuse("model names neither or both of `builtin` and `definition`", "give exactly one of them");
        }
        if !(task.training.l2_clip_norm.is_finite() && task.training.l2_clip_norm > 0.0) {
            return refuse("training.l2_clip_norm is not a positive number", "1.0 is a common choice");
        }
        if let Err(what) = task.privacy.noise_target() {
            return refuse(what, "name epsilon with noise = \"distributed\", and leave it out with noise = \"none\"");
        }
        if let Err(error) = task.training.learning_rate_schedule.check() {
            return refuse(&format!("training.learning_rate_schedule: {error}"), "compare with the commented example");
        }
        if let Err(error) = task.training.server_optimizer.check() {
            return refuse(&format!("training.server_optimizer: {error}"), "compare with the commented example");
        }
        let Cohort { clients_max, survivors_min, max_colluders, graph } = task.cohort;
        if graph == Graph::Sparse
            && let Err(error) = Thresholds::sparse(clients_max.into(), max_colluders.into(), survivors_min.into())
        {
            return refuse(
                &format!("cohort.graph = \"sparse\": {error}"),
                "take more clients, fewer colluders or more survivors, or graph = \"complete\"",
            );
        }
        if graph == Graph::Complete && usize::from(clients_max) > COMPLETE_LEN_MAX {
            return refuse(
                &format!("cohort.graph = \"complete\" of {clients_max} clients, limit {COMPLETE_LEN_MAX}"),
                "take fewer clients, or graph = \"sparse\", whose promise is a weaker one: see SECURITY.md",
            );
        }
        if task.schedule.rounds == 0 || task.schedule.attempts_max < task.schedule.rounds {
            return refuse(
                "schedule.attempts_max is smaller than schedule.rounds, or there are no rounds",
                "allow a few attempts more than rounds: those that abort are charged too",
            );
        }
        if task.schedule.ready_slot_ms == 0
            || task.schedule.phase_wait_min_ms == 0
            || task.schedule.phase_timeout_ms < task.schedule.phase_wait_min_ms
        {
            return refuse(
                "schedule has a zero time, or phase_timeout_ms below phase_wait_min_ms",
                "compare with the commented example that `eranos coordinator init` writes",
            );
        }
        Ok(task)
    }
}

/// Parses TOML into a type that refuses unknown fields; the error names the line.
pub(crate) fn parse_toml<T: serde::de::DeserializeOwned>(text: &str, path: &Path, next: &str) -> Result<T, UserError> {
    let start = |error: &toml::de::Error| error.span().map(|span| span.start);
    toml::from_str(text).map_err(|error| UserError::in_text(path, text, start(&error), error.message(), next))
}
