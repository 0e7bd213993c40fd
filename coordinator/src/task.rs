//! The task file: one model trained on one kind of data under one promise of privacy. Checked once, where it is read.

use std::path::{Path, PathBuf};

use clap::ValueEnum;
use eranos_base::{TaskId, UserError, limits::COHORT_LEN_MAX};
use eranos_ledger::Words;
use eranos_nn::{LearningRateSchedule, OptimizerSpec, model::Source};
use eranos_privacy::{
    Groups, Mechanism, MechanismError, Probability,
    groups::{self, AdaptiveClip, Share},
    mechanism::{ClientTarget, LocalTraining, NoiseTarget, RecordTarget, SiloTraining, design, design_client},
};
use eranos_secagg::{GraphKind, ThresholdError, Thresholds};
use serde::{Deserialize, Deserializer, de::Error as _};

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
    /// What is measured of training beside it; nothing if there is no such section.
    pub metrics: Option<Metrics>,
    /// Who takes part.
    pub cohort: Cohort,
    /// How many rounds, and how they are paced.
    pub schedule: Schedule,
    /// Who answers for it and why, as the ledger is to say.
    #[serde(default)]
    pub statement: Statement,
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
    /// The L2 norm that each record's gradient is clipped to; with unit = client, each client's whole update.
    pub l2_clip_norm: f64,
    /// Lets that norm follow a quantile of the norms; it stays as it is if there is no such section.
    pub adaptive_clip: Option<AdaptiveClipping>,
    /// How a client comes to its update; with unit = client, and with unit = record where noise = local, and only there.
    pub local: Option<Local>,
    /// The rule that applies the summed, noised gradient, with its constants.
    pub server_optimizer: OptimizerSpec,
    /// How its learning rate goes from released round to released round.
    #[serde(default)]
    pub learning_rate_schedule: LearningRateSchedule,
}

/// The norm that is clipped to follows a quantile of the norms (Andrew et al. 2021): in each round the count of what was
/// clipped travels inside the masked vectors, and the next round's norm follows from the noised sum.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdaptiveClipping {
    /// The least norm that any round clips to. Every plan names it.
    pub l2_clip_norm_min: f64,
    /// The largest.
    pub l2_clip_norm_max: f64,
    /// The share of gradients (or updates) that are not to be clipped.
    pub target_quantile: f64,
    /// By how much the logarithm of the norm changes where all, or none, are clipped too many.
    pub learning_rate: f64,
    /// The count's share of the squared clip: the model's noise grows by half of it.
    pub share: f64,
}

/// Loss and accuracy on what the clients train on, inside the masked vectors and under the same noise.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Metrics {
    /// What a loss is cut to.
    pub loss_max: f64,
    /// Their share of the squared clip, half for each: the model's noise grows by half of it.
    pub share: f64,
}

/// What a client does by itself in a round.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Local {
    /// How many steps, whatever the client has.
    pub steps: u32,
    /// Records of a step, drawn at random; with unit = client. With unit = record each is drawn by the sampling probability.
    pub batch_size: Option<u32>,
    /// The learning rate of a step.
    pub learning_rate: f64,
    /// With unit = record: the L2 norm that a client's update is clipped to. No privacy rests on it: l2_clip_norm is that of
    /// each record's gradient.
    pub update_clip_norm: Option<f64>,
}

/// What the operator says of the task in its ledger, in words of its own; whatever is missing is "not recorded" in the privacy
/// statement.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Statement {
    /// What is made.
    #[serde(deserialize_with = "words")]
    pub product: Option<Words>,
    /// Who is responsible for it.
    #[serde(deserialize_with = "words")]
    pub curator: Option<Words>,
    /// What it is for.
    #[serde(deserialize_with = "words")]
    pub purpose: Option<Words>,
    /// Whom to write to.
    #[serde(deserialize_with = "words")]
    pub contact: Option<Words>,
}

fn words<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Words>, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?;
    text.map(|text| text.parse().map_err(D::Error::custom)).transpose()
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
    /// The most epsilon, by the same promise, of the attempts that one client is selected for: whoever has reached it is not
    /// selected any more. As much as all attempts cost, if left out.
    pub client_epsilon_max: Option<f64>,
    /// With unit = record: the probability with which each record enters an attempt, numerator and denominator.
    pub sampling_probability: Option<[u64; 2]>,
    /// With unit = record: the number of records expected in an attempt, over all silos; with local noise in a step of one
    /// silo. A public constant: never computed from the silos' counts.
    pub expected_lot: Option<u64>,
    /// With unit = record: the most records that a silo may hold. A silo with more refuses.
    pub records_per_client_max: Option<u64>,
}

/// What a client puts into the sum.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Contribution {
    /// unit = record: the gradients of a secret sample of its records.
    Records {
        /// With what probability each is in the sample.
        sampling_probability: Probability,
        /// How many are expected, over all silos.
        expected_lot: u32,
        /// The most records that a silo may hold.
        record_bound: u32,
        /// The silo's own training, where it adds all of its noise. The lot is of one silo's step then.
        local: Option<SiloTraining>,
    },
    /// unit = client: the change of the model by a training of its own.
    Update(LocalTraining),
}

impl Contribution {
    /// A quarter of the records of `clients`, each of whom may hold `record_bound`.
    pub fn quarter_of(clients: u32, record_bound: u32) -> Self {
        let expected_lot = u32::try_from(u64::from(clients) * u64::from(record_bound) / 4).unwrap_or(u32::MAX);
        Self::Records { sampling_probability: Probability::QUARTER, expected_lot, record_bound, local: None }
    }

    /// A quarter of one silo's own records in each step of a training of its own.
    pub fn quarter_of_each(record_bound: u32, training: SiloTraining) -> Self {
        let (sampling_probability, expected_lot) = (Probability::QUARTER, (record_bound / 4).max(1));
        Self::Records { sampling_probability, expected_lot, record_bound, local: Some(training) }
    }

    /// The mechanism of least noise for it: what a task's rounds run with, and what `eranos plan` shows beforehand.
    ///
    /// # Errors
    /// If the sizing is out of range, or no noise keeps its promise.
    pub fn mechanism(&self, sizing: &Sizing) -> Result<Mechanism, MechanismError> {
        let Sizing { groups, l2_clip_norm, n_parameters, clients_max, survivors_min, .. } = *sizing;
        let Sizing { max_colluders, attempts_max, noise, delta, .. } = *sizing;
        let (n_max, u_min, max_attempts) = (clients_max, survivors_min, attempts_max);
        match *self {
            Self::Records { sampling_probability, expected_lot, record_bound, local } => design(&RecordTarget {
                groups,
                l2_clip_norm,
                n_parameters,
                sampling_probability,
                expected_lot,
                record_bound,
                local,
                n_max,
                u_min,
                max_colluders,
                max_attempts,
                noise,
                delta,
            })
            .map(Mechanism::from),
            Self::Update(training) => design_client(&ClientTarget {
                groups,
                l2_clip_norm,
                n_parameters,
                n_max,
                u_min,
                max_colluders,
                training,
                max_attempts,
                noise,
                delta,
            })
            .map(Mechanism::from),
        }
    }
}

/// What else decides how much noise there is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sizing {
    /// What travels beside the gradient or update.
    pub groups: Groups,
    /// C.
    pub l2_clip_norm: f64,
    /// Coordinates of the model.
    pub n_parameters: u32,
    /// The most clients in a round.
    pub clients_max: u16,
    /// The least number of survivors of a round.
    pub survivors_min: u16,
    /// The most identities that may work with the coordinator.
    pub max_colluders: u16,
    /// Attempts over which the promise holds.
    pub attempts_max: u32,
    /// The promise.
    pub noise: NoiseTarget,
    /// Its delta.
    pub delta: f64,
}

/// The unit of privacy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Unit {
    /// One record, added or removed.
    Record,
    /// One client, with all of its records.
    Client,
}

/// Who adds the noise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Noise {
    /// Every client a share; only the sum is ever seen.
    Distributed,
    /// Every client all of it, alone.
    Local,
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
            (Noise::Local, Some(epsilon)) => Ok(NoiseTarget::Local { epsilon }),
            (Noise::None, None) => Ok(NoiseTarget::None),
            (Noise::Distributed | Noise::Local, None) => Err("privacy.epsilon is missing"),
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

/// Who shares keys with whom. The variants' words are what the command line says of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Graph {
    /// Everybody with everybody: holds against a coordinator that breaks the rules
    #[default]
    Complete,
    /// Each with a few, for less work and fewer bytes: holds only while the coordinator reports drop-outs honestly and takes
    /// the cohort as it comes, so that clients refuse it unless their policies allow it
    Sparse,
}

impl Graph {
    /// The thresholds of a round with as many clients as the cohort may have.
    ///
    /// # Errors
    /// If no such round keeps its promises.
    pub fn thresholds(
        self,
        clients_max: u16,
        max_colluders: u16,
        survivors_min: u16,
    ) -> Result<Thresholds, ThresholdError> {
        let (n, f, u_min) = (clients_max.into(), max_colluders.into(), survivors_min.into());
        match self {
            Self::Complete => Thresholds::complete(n, f, u_min),
            Self::Sparse => Thresholds::sparse(n, f, u_min),
        }
    }
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
            return refuse(
                what,
                "name epsilon with noise = \"distributed\" or \"local\", and leave it out with noise = \"none\"",
            );
        }
        if task.privacy.client_epsilon_max.is_some()
            && (task.privacy.noise == Noise::None || !task.privacy.client_epsilon_max.is_some_and(|most| most > 0.0))
        {
            return refuse(
                "privacy.client_epsilon_max is not a positive number, or noise = \"none\" promises none",
                "leave it out: a client is then selected for all attempts",
            );
        }
        if let Err((what, next)) = task.contribution() {
            return refuse(&what, next);
        }
        if let Err(what) = task.groups() {
            return refuse(
                &what,
                "give each a share of about 0.01, and bounds as the commented example has them, or leave the sections out",
            );
        }
        if let Err(error) = task.training.learning_rate_schedule.check() {
            return refuse(&format!("training.learning_rate_schedule: {error}"), "compare with the commented example");
        }
        if let Err(error) = task.training.server_optimizer.check() {
            return refuse(&format!("training.server_optimizer: {error}"), "compare with the commented example");
        }
        let Cohort { clients_max, survivors_min, max_colluders, graph } = task.cohort;
        if graph == Graph::Sparse
            && let Err(error) = graph.thresholds(clients_max, max_colluders, survivors_min)
        {
            return refuse(&format!("cohort.graph = \"sparse\": {error}"), NO_SPARSE_GRAPH);
        }
        if usize::from(clients_max) > COHORT_LEN_MAX {
            return refuse(
                &format!("cohort.clients_max = {clients_max}, limit {COHORT_LEN_MAX}"),
                "take fewer clients",
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

impl Task {
    /// What travels beside the model in every vector.
    ///
    /// # Errors
    /// If shares or bounds are out of range, or leave the model nothing.
    pub fn groups(&self) -> Result<Groups, String> {
        let metrics = self.metrics.map(|metrics| {
            groups::Metrics::new(metrics.loss_max, metrics.share).map_err(|error| format!("metrics.share: {error}"))
        });
        let adaptive = self.training.adaptive_clip.map(|adaptive| {
            let positive = |value: f64| value.is_finite() && value > 0.0;
            if !(positive(adaptive.target_quantile) && adaptive.target_quantile < 1.0) {
                return Err("training.adaptive_clip.target_quantile does not lie between 0 and 1".to_owned());
            }
            if !positive(adaptive.learning_rate) {
                return Err("training.adaptive_clip.learning_rate is not a positive number".to_owned());
            }
            let clip = self.training.l2_clip_norm;
            if !(adaptive.l2_clip_norm_min..=adaptive.l2_clip_norm_max).contains(&clip) {
                return Err(format!(
                    "training.l2_clip_norm = {clip} does not lie within training.adaptive_clip's {} to {}",
                    adaptive.l2_clip_norm_min, adaptive.l2_clip_norm_max
                ));
            }
            let share = Share::nearest(adaptive.share).map_err(|error| format!("training.adaptive_clip: {error}"))?;
            Ok(AdaptiveClip {
                l2_clip_norm_min: adaptive.l2_clip_norm_min,
                l2_clip_norm_max: adaptive.l2_clip_norm_max,
                share,
            })
        });
        let groups = Groups::new(metrics.transpose()?, adaptive.transpose()?)
            .map_err(|error| format!("metrics or training.adaptive_clip: {error}"))?;
        if !groups.is_empty() && (self.privacy.unit, self.privacy.noise) == (Unit::Record, Noise::Local) {
            return Err("metrics or training.adaptive_clip is named, which unit = \"record\" with noise = \"local\" does not run"
                .to_owned());
        }
        Ok(groups)
    }

    /// What a client puts into the sum.
    ///
    /// # Errors
    /// If the unit's parameters are missing or out of range, or the other unit's are named; and what to do.
    pub fn contribution(&self) -> Result<Contribution, (String, &'static str)> {
        let Privacy { unit, noise, sampling_probability, expected_lot, records_per_client_max, .. } = self.privacy;
        match (unit, self.training.local, sampling_probability, expected_lot, records_per_client_max) {
            (Unit::Record, Some(_), ..) if noise != Noise::Local => Err((
                "training.local is named, but with unit = \"record\" nobody trains by itself unless noise = \"local\""
                    .to_owned(),
                "leave the section out, or let each client add all of its noise with noise = \"local\"",
            )),
            (Unit::Record, local, Some([numerator, denominator]), Some(lot), Some(bound)) => {
                let local = match (noise, local) {
                    (
                        Noise::Local,
                        Some(Local {
                            steps,
                            learning_rate,
                            batch_size: None,
                            update_clip_norm: Some(update_clip_norm),
                        }),
                    ) => Some(SiloTraining { steps, learning_rate, update_clip_norm }),
                    (Noise::Local, _) => {
                        return Err((
                            "training.local is missing, has no update_clip_norm, or has a batch_size".to_owned(),
                            "with unit = \"record\" and noise = \"local\" name its steps, learning_rate and update_clip_norm",
                        ));
                    }
                    _ => None,
                };
                let number = |what: &str, value: u64| {
                    u32::try_from(value).map_err(|_| (format!("{what} = {value} is too large"), "use a smaller number"))
                };
                let probability = Probability::new(numerator, denominator);
                Ok(Contribution::Records {
                    sampling_probability: probability.map_err(|error| {
                        (format!("privacy.sampling_probability: {error}"), "a quarter is [1, 4], all records [1, 1]")
                    })?,
                    expected_lot: number("privacy.expected_lot", lot)?,
                    record_bound: number("privacy.records_per_client_max", bound)?,
                    local,
                })
            }
            (Unit::Record, ..) => Err((
                "privacy.sampling_probability, expected_lot or records_per_client_max is missing".to_owned(),
                "name all three with unit = \"record\"; compare with what `eranos coordinator init` writes",
            )),
            (Unit::Client, _, Some(_), ..) => Err((
                "privacy.sampling_probability is named, but with unit = \"client\" this version samples nobody"
                    .to_owned(),
                "leave it out: every client sends its update in every round",
            )),
            (Unit::Client, _, _, Some(_), _) | (Unit::Client, _, _, _, Some(_)) => Err((
                "privacy.expected_lot or records_per_client_max is named, but unit = \"client\" counts no records"
                    .to_owned(),
                "leave them out",
            )),
            (
                Unit::Client,
                Some(Local { steps, batch_size: Some(batch_size), learning_rate, update_clip_norm: None }),
                ..,
            ) => Ok(Contribution::Update(LocalTraining { steps, batch_size, learning_rate })),
            (Unit::Client, ..) => Err((
                "training.local is missing, has no batch_size, or has an update_clip_norm".to_owned(),
                "say how a client trains; compare with what `eranos coordinator init --unit client` writes",
            )),
        }
    }
}

/// What to do where no sparse graph keeps its promises.
pub(crate) const NO_SPARSE_GRAPH: &str =
    "take more clients, fewer colluders or more survivors, or graph = \"complete\"";

/// Parses TOML into a type that refuses unknown fields; the error names the line.
///
/// # Errors
/// If it is not TOML, or not of this type; `next` says what to do.
pub fn parse_toml<T: serde::de::DeserializeOwned>(text: &str, path: &Path, next: &str) -> Result<T, UserError> {
    let start = |error: &toml::de::Error| error.span().map(|span| span.start);
    toml::from_str(text).map_err(|error| UserError::in_text(path, text, start(&error), error.message(), next))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A task of this unit, with these lines in `[training]`, `[training.local]` and `[privacy]`.
    fn parse(training: &str, privacy: &str) -> Result<Task, UserError> {
        let text = format!(
            "version = 1\nname = \"tiny\"\ndata = \"data.toml\"\n[model]\nbuiltin = \"cnn\"\n[training]\n\
             l2_clip_norm = 1.0\nserver_optimizer = {{ name = \"sgd\", learning_rate = 1.0 }}\n{training}\n\
             [privacy]\ndelta = 1e-5\n{privacy}\n[cohort]\nclients_max = 4\nsurvivors_min = 3\nmax_colluders = 1\n\
             [schedule]\nrounds = 2\nattempts_max = 4\nready_slot_ms = 100\nphase_wait_min_ms = 1000\n\
             phase_timeout_ms = 10000\n"
        );
        Task::parse(&text, Path::new("task.toml"))
    }

    const LOCAL: &str = "[training.local]\nsteps = 10\nbatch_size = 32\nlearning_rate = 0.1";
    const SAMPLE: &str = "sampling_probability = [1, 4]\nexpected_lot = 40\nrecords_per_client_max = 40";
    const CLIENT: &str = "unit = \"client\"\nnoise = \"distributed\"\nepsilon = 8.0\n";
    const RECORD: &str = "unit = \"record\"\nnoise = \"distributed\"\nepsilon = 8.0\n";

    #[test]
    fn each_unit_has_its_own_parameters_and_no_others() {
        let training = LocalTraining { steps: 10, batch_size: 32, learning_rate: 0.1 };
        let contribution = |training: &str, privacy: &str| parse(training, privacy).map(|task| task.contribution());
        let record = format!("{RECORD}{SAMPLE}");
        assert_eq!(contribution(LOCAL, CLIENT).ok(), Some(Ok(Contribution::Update(training))));
        let records = contribution("", &record).ok();
        assert!(matches!(records, Some(Ok(Contribution::Records { expected_lot: 40, .. }))), "{records:?}");
        for noise in ["local", "none"] {
            let epsilon = if noise == "none" { "" } else { "epsilon = 8.0\n" };
            assert!(parse(LOCAL, &format!("unit = \"client\"\nnoise = \"{noise}\"\n{epsilon}")).is_ok());
        }

        let refused = |training: &str, privacy: &str, says: &str| {
            let error = parse(training, privacy).map(|_| ()).expect_err(says).to_string();
            assert!(error.lines().count() == 2 && error.contains(says), "{error}, expected {says}");
        };
        // Amplification that the rounds do not have is refused by its name.
        refused(LOCAL, &format!("{CLIENT}sampling_probability = [1, 4]"), "this version samples nobody");
        refused(LOCAL, &format!("{CLIENT}expected_lot = 40"), "counts no records");
        refused(LOCAL, &format!("{CLIENT}records_per_client_max = 40"), "counts no records");
        refused("", CLIENT, "training.local is missing");
        refused(LOCAL, &record, "nobody trains by itself");
        refused("", RECORD, "is missing");
        refused("", &record.replace("[1, 4]", "[2, 8]"), "lowest terms");
        let local = record.replace("distributed", "local");
        let own = "[training.local]\nsteps = 10\nlearning_rate = 0.1\nupdate_clip_norm = 2.0";
        let records = contribution(own, &local).ok();
        let expected = SiloTraining { steps: 10, learning_rate: 0.1, update_clip_norm: 2.0 };
        assert!(
            matches!(records, Some(Ok(Contribution::Records { local: Some(found), .. })) if found == expected),
            "{records:?}"
        );
        refused("", &local, "training.local is missing");
        refused(LOCAL, &local, "has no update_clip_norm");
        refused(&format!("{own}\nbatch_size = 8"), &local, "has a batch_size");
        refused(own, CLIENT, "has an update_clip_norm");
        refused(own, &format!("{local}\n[metrics]\nloss_max = 4.0\nshare = 0.01"), "does not run");
        refused(LOCAL, &CLIENT.replace("epsilon = 8.0", ""), "epsilon is missing");
        refused(LOCAL, &CLIENT.replace("distributed", "none"), "promises none");
        refused(LOCAL, &CLIENT.replace("client", "household"), "household");
    }

    #[test]
    fn what_an_operator_says_is_one_line_each_and_may_be_left_out() {
        let with = |statement: &str| parse("", &format!("{RECORD}{SAMPLE}\n{statement}"));
        assert_eq!(with("").expect("a task").statement, Statement::default());
        let said = with("[statement]\ncurator = \"Example Trust\"").expect("a task").statement;
        assert_eq!(
            (said.curator.map(|words| words.to_string()), said.purpose),
            (Some("Example Trust".to_owned()), None)
        );
        for refused in ["curator = \"a\\nb\"", "contact = \"-\"", "purpose = \" x\"", "owner = \"x\""] {
            let error = with(&format!("[statement]\n{refused}")).map(|_| ()).expect_err(refused).to_string();
            assert!(error.lines().count() == 2 && error.contains("task.toml"), "{error}");
        }
    }

    #[test]
    fn what_travels_beside_the_model_is_nothing_unless_it_is_asked_for_and_adds_up() {
        let record = format!("{RECORD}{SAMPLE}");
        let groups = |training: &str, metrics: &str| {
            parse(training, &format!("{record}\n{metrics}")).map(|task| task.groups().expect("checked"))
        };
        assert_eq!(groups("", "").expect("a task"), Groups::default());
        let metrics = "[metrics]\nloss_max = 4.0\nshare = 0.01";
        let adaptive = "[training.adaptive_clip]\nl2_clip_norm_min = 0.1\nl2_clip_norm_max = 10.0\ntarget_quantile = 0.5\n\
                        learning_rate = 0.2\nshare = 0.02";
        let both = groups(adaptive, metrics).expect("a task");
        assert_eq!(both.model.millionths(), 970_000);
        assert_eq!(both.iter().map(|group| group.share.millionths()).collect::<Vec<_>>(), [5_000, 5_000, 20_000]);
        let refused = |training: &str, metrics: &str, says: &str| {
            let error = groups(training, metrics).expect_err(says).to_string();
            assert!(error.lines().count() == 2 && error.contains(says), "{error}, expected {says}");
        };
        refused("", &metrics.replace("0.01", "1.0"), "metrics");
        refused("", &metrics.replace("0.01", "0.0"), "metrics.share");
        refused("", &metrics.replace("4.0", "0.0"), "loss_max");
        refused("", &metrics.replace("4.0", "nan"), "loss_max");
        refused(&adaptive.replace("0.02", "0.995"), metrics, "metrics or training.adaptive_clip");
        refused(&adaptive.replace("0.5", "1.0"), "", "target_quantile");
        refused(&adaptive.replace("0.2", "-0.2"), "", "learning_rate");
        refused(&adaptive.replace("10.0", "0.9"), "", "l2_clip_norm = 1 does not lie within");
        refused(&adaptive.replace("_min = 0.1", "_min = 0.0"), "", "l2_clip_norm_min");
    }
}
