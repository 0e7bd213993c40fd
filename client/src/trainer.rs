//! Makes a client's contribution to a round, on one bounded pool of threads that is never tokio's: the exact sum of clipped
//! record gradients of a secret Poisson sample, or, where the client is the unit of privacy, the change of the model by a
//! training of its own; with the loss and accuracy that the plan's groups ask for in the same vector; rotated, rounded and
//! noised (eranos_privacy). Nothing that is measured here goes any other way.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use eranos_base::{Entropy, OsEntropy};
use eranos_nn::{
    DataError, DataSpec, Dataset, Loss, Network, NnError, OptimizerSpec, Record, Target, Totals, Training,
    TrainingError, Workspace,
    data::{Files, Misfit},
    network::batch::Weight,
};
use eranos_privacy::{
    Figures, Mechanism, RecordMechanism, RotationSeed, SiloSum, Slot,
    mechanism::{LocalTraining, SiloTraining},
    sampler,
    sampler::SampleError,
    silo::SiloError,
    update::{self, UpdateError},
};
use rayon::{ThreadPool, ThreadPoolBuilder, prelude::*};
use zeroize::Zeroizing;

use crate::round::TrainingJob;

/// Why there is no contribution.
#[derive(Debug, thiserror::Error)]
pub enum TrainerError {
    /// The model does not run.
    #[error(transparent)]
    Model(#[from] NnError),
    /// The files do not hold such records.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The silo has more records than the plan's public bound.
    #[error(transparent)]
    Sample(#[from] SampleError),
    /// A gradient does not fit the mechanism.
    #[error(transparent)]
    Sum(#[from] SiloError),
    /// An update does not fit the mechanism.
    #[error(transparent)]
    Update(#[from] UpdateError),
    /// Local training cannot be done.
    #[error(transparent)]
    Training(#[from] TrainingError),
    /// The round ended before the contribution was complete.
    #[error("the round is over")]
    Cancelled,
}

/// The threads that train: one pool, however many clients share the process.
#[derive(Clone)]
pub struct Pool(Arc<ThreadPool>);

impl Pool {
    /// A pool of `n_threads`; as many as the machine has cores if none are given.
    ///
    /// # Errors
    /// If the threads cannot be started.
    pub fn new(n_threads: Option<usize>) -> Result<Self, rayon::ThreadPoolBuildError> {
        let builder = ThreadPoolBuilder::new().thread_name(|i| format!("train-{i}"));
        let pool = builder.num_threads(n_threads.unwrap_or(0).min(THREADS_MAX)).build()?;
        Ok(Self(Arc::new(pool)))
    }

    /// Runs `work` on the pool and waits for it: what it does in parallel, these threads do.
    pub(crate) fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.0.install(work)
    }
}

/// One client's private data, and how contributions are made from it.
pub struct Trainer {
    files: Files,
    pool: Pool,
    /// What the last job made of files and model: they rarely change.
    prepared: Mutex<Option<Prepared>>,
}

#[derive(Clone)]
struct Prepared {
    spec: DataSpec,
    data: Arc<Dataset>,
    network: Arc<Network>,
    workspaces: Arc<Mutex<Vec<Workspace>>>,
    /// What a silo without records works on.
    zeros: Arc<[f32]>,
}

/// Whoever makes a client's contributions to rounds. The program has one, [`Trainer`]; a measurement of everything else may
/// have another.
pub trait Contributor: Send + Sync {
    /// Starts a job in the background; `done` is called there with its result: `d_pad` residues modulo 2^b, noised as the
    /// plan says. The handle cancels it when dropped.
    fn begin(self: Arc<Self>, job: TrainingJob, done: Done) -> Cancel;
}

/// What is to be done with a contribution, or with the reason why there is none.
pub type Done = Box<dyn FnOnce(Result<Zeroizing<Vec<u32>>, TrainerError>) + Send>;

/// A job that has been started; dropping it cancels the work.
#[derive(Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Drop for Cancel {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Trainer {
    /// A trainer on what `files` hold.
    pub fn new(files: Files, pool: Pool) -> Self {
        Self { files, pool, prepared: Mutex::new(None) }
    }

    /// Starts a job on the pool; `done` is called there with its result. The handle cancels it when dropped.
    pub fn start(
        self: &Arc<Self>,
        job: TrainingJob,
        done: impl FnOnce(Result<Zeroizing<Vec<u32>>, TrainerError>) + Send + 'static,
    ) -> Cancel {
        let cancelled = Arc::new(AtomicBool::new(false));
        let (trainer, flag) = (self.clone(), cancelled.clone());
        self.pool.0.spawn(move || done(trainer.contribute(&job, &flag)));
        Cancel(cancelled)
    }

    fn contribute(&self, job: &TrainingJob, cancelled: &AtomicBool) -> Result<Zeroizing<Vec<u32>>, TrainerError> {
        let prepared = self.prepare(job)?;
        let parameters: Vec<f32> =
            job.checkpoint.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        let vector = match &job.mechanism {
            Mechanism::Record(mechanism) => match mechanism.parameters().local {
                None => {
                    let sum = record_sum(&prepared, mechanism, &parameters, cancelled)?;
                    sum.contribute(mechanism, &job.rotation_seed, &mut OsEntropy)?
                }
                Some(training) => {
                    let seed = &job.rotation_seed;
                    let update = private_update(&prepared, mechanism, training, seed, &parameters, cancelled)?;
                    update::contribute_trained(&update, mechanism, seed, &mut OsEntropy)?
                }
            },
            Mechanism::Client(mechanism) => {
                let training = mechanism.parameters().training;
                let draw = || prepared.example(any_record(&prepared.data));
                let (update, figures) = local_update(&prepared, training, &parameters, draw, cancelled)?;
                update::contribute(&update, &figures, mechanism, &job.rotation_seed, &mut OsEntropy)?
            }
        };
        Ok(Zeroizing::new(vector))
    }

    fn prepare(&self, job: &TrainingJob) -> Result<Prepared, TrainerError> {
        let mut last = self.prepared.lock().unwrap_or_else(PoisonError::into_inner);
        let is_same = |prepared: &&Prepared| *prepared.network.spec() == job.model && prepared.spec == job.data;
        if let Some(prepared) = last.as_ref().filter(is_same) {
            return Ok(prepared.clone());
        }
        let data = Arc::new(job.data.dataset(&self.files, Misfit::Void)?);
        let network = Arc::new(Network::new(job.model.clone(), Loss::of_classes(&job.model)?)?);
        let zeros = vec![0.0; network.input_len()].into();
        let prepared = Prepared { spec: job.data.clone(), data, network, workspaces: Arc::default(), zeros };
        *last = Some(prepared.clone());
        Ok(prepared)
    }
}

impl Contributor for Trainer {
    fn begin(self: Arc<Self>, job: TrainingJob, done: Done) -> Cancel {
        self.start(job, done)
    }
}

/// The sum of the clipped gradients of a secret sample, each with its own record's loss and whether that was right. The work is the same every round: B_max records, dummies of weight
/// zero among them.
fn record_sum(
    prepared: &Prepared,
    mechanism: &RecordMechanism,
    parameters: &[f32],
    cancelled: &AtomicBool,
) -> Result<SiloSum, TrainerError> {
    let (network, data) = (&*prepared.network, &*prepared.data);
    let weights = network.prepare(parameters)?;
    let n_records = u32::try_from(data.len()).unwrap_or(u32::MAX);
    let slots = sampler::sample(mechanism, n_records, &mut OsEntropy)?;
    let chunks: Result<Vec<SiloSum>, TrainerError> = slots
        .par_chunks(slots.len().div_ceil(WORKERS_MAX).max(RECORDS_PER_TASK_MIN))
        .map(|chunk| {
            let mut workspace = prepared.take_workspace();
            let mut gradient = network.gradient();
            let mut sum = SiloSum::new(mechanism);
            // A dummy works on some real record, so that it takes a record's time, and adds nothing.
            let record = |slot: &Slot| match *slot {
                Slot::Record(i) => Some(i as usize),
                Slot::Dummy => any_record(data),
            };
            let examples: Vec<_> = chunk.iter().map(|slot| prepared.example(record(slot))).collect();
            network.record_gradients(&weights, &examples, &mut workspace, &mut gradient, |i, outcome, gradient| {
                if cancelled.load(Ordering::Relaxed) {
                    return Err(TrainerError::Cancelled);
                }
                let accuracy = f64::from(u8::from(outcome.is_right));
                let figures = Figures { loss: outcome.loss.into(), accuracy };
                Ok(sum.add_record(gradient, gradient.ranges(), &figures, chunk[i].weight())?)
            })?;
            prepared.give_back(workspace);
            Ok(sum)
        })
        .collect();
    let mut sums = chunks?.into_iter();
    let mut total = sums.next().unwrap_or_else(|| SiloSum::new(mechanism));
    for mut sum in sums {
        total.merge(&mut sum)?;
    }
    Ok(total)
}

/// The change of every parameter by DP-SGD inside this silo: each step draws a sample of its own, and goes along the noised
/// mean of its clipped gradients. Whatever the records are, the work is the same.
fn private_update(
    prepared: &Prepared,
    mechanism: &RecordMechanism,
    training: SiloTraining,
    seed: &RotationSeed,
    parameters: &[f32],
    cancelled: &AtomicBool,
) -> Result<Zeroizing<Vec<f64>>, TrainerError> {
    let mut after = parameters.to_vec();
    for _ in 0..training.steps {
        let mean = record_sum(prepared, mechanism, &after, cancelled)?.noised_mean(mechanism, seed, &mut OsEntropy)?;
        for (parameter, slope) in after.iter_mut().zip(&*mean) {
            *parameter = (f64::from(*parameter) - training.learning_rate * slope) as f32;
        }
    }
    // What is not finite becomes an update of zero where it is clipped.
    let change = |(after, before): (&f32, &f32)| f64::from(*after) - f64::from(*before);
    Ok(Zeroizing::new(after.iter().zip(parameters).map(change).collect()))
}

/// The change of every parameter by `training` on the client's own records, as `draw` gives them, as many whatever there
/// are; and the means of their losses and right answers as they were met on the way. A client without records changes
/// nothing and has figures of zero, after the same work; so does one whose training leads nowhere finite: that must not
/// show.
fn local_update<'a>(
    prepared: &'a Prepared,
    training: LocalTraining,
    parameters: &[f32],
    mut draw: impl FnMut() -> (Record<'a>, Target<'a>),
    cancelled: &AtomicBool,
) -> Result<(Zeroizing<Vec<f64>>, Figures), TrainerError> {
    let (network, data) = (&*prepared.network, &*prepared.data);
    let LocalTraining { steps, batch_size, learning_rate } = training;
    let mut local = Training::new(network, parameters, OptimizerSpec::Sgd { learning_rate })?;
    let mut seen = Totals::default();
    for _ in 0..steps {
        if cancelled.load(Ordering::Relaxed) {
            return Err(TrainerError::Cancelled);
        }
        let batch: Vec<_> = (0..batch_size).map(|_| draw()).collect();
        // Unchecked: a step that ended where some record overflows would take another time than others.
        let step = local.step_unchecked(&batch, Weight::Equal(1.0 / batch_size as f32))?;
        seen.loss += step.loss;
        seen.n_right += step.n_right;
    }
    let after = Zeroizing::new(local.parameters());
    // What is not finite in one step stays so in the sum.
    let counts = seen.loss.is_finite() && !data.is_empty();
    let change = |(after, before): (&f32, &f32)| if counts { f64::from(*after) - f64::from(*before) } else { 0.0 };
    let n_seen = f64::from(steps) * f64::from(batch_size);
    let figures = match counts {
        true => Figures { loss: seen.loss / n_seen, accuracy: seen.n_right as f64 / n_seen },
        false => Figures::default(),
    };
    Ok((Zeroizing::new(after.iter().zip(parameters).map(change).collect()), figures))
}

/// A record drawn at random; none in an empty silo.
fn any_record(data: &Dataset) -> Option<usize> {
    let draw = u64::from_le_bytes(OsEntropy.bytes()) as usize;
    draw.checked_rem(data.len())
}

impl Prepared {
    /// A record with its class, or zeros where there is none.
    fn example(&self, record: Option<usize>) -> (Record<'_>, Target<'_>) {
        let (values, class) = match record {
            Some(i) => (self.data.record(i), self.data.label(i)),
            None => (&self.zeros[..], 0),
        };
        // Fresh in every attempt, and only where something is dropped.
        let dropout_key = self.network.has_dropout().then(|| u64::from_le_bytes(OsEntropy.bytes()));
        (Record { values, dropout_key }, Target::Class(class))
    }

    fn take_workspace(&self) -> Workspace {
        let mut free = self.workspaces.lock().unwrap_or_else(PoisonError::into_inner);
        free.pop().unwrap_or_else(|| self.network.workspace())
    }

    fn give_back(&self, workspace: Workspace) {
        let mut free = self.workspaces.lock().unwrap_or_else(PoisonError::into_inner);
        if free.len() < WORKERS_MAX {
            free.push(workspace);
        }
    }
}

/// Most threads of a pool.
const THREADS_MAX: usize = 64;
/// Into how many tasks a job is cut at most; each holds one integer sum of the model's size.
const WORKERS_MAX: usize = 8;
/// Fewest records of a task: below, setting up the sum costs more than the work.
const RECORDS_PER_TASK_MIN: usize = 16;

#[cfg(test)]
mod tests {
    use eranos_nn::{
        Activation, LayerKind, LayerSpec, ModelSpec,
        data::{
            Schema,
            schema::{Input, Label},
        },
    };

    use super::*;

    /// A softmax over two classes of records of three values.
    fn prepared(values: Vec<f32>, labels: Vec<u32>) -> Prepared {
        let kinds = [
            LayerKind::InputLayer { shape: vec![3] },
            LayerKind::Dense { units: 2, activation: Activation::Softmax, use_bias: true },
        ];
        let layers = kinds.into_iter().enumerate().map(|(i, kind)| LayerSpec {
            name: format!("layer-{i}"),
            inputs: (0..i as u32).collect(),
            kind,
        });
        let model = ModelSpec::new("tiny", layers.collect()).expect("a model");
        let columns = ["a", "b", "c"].map(str::to_owned).to_vec();
        let label = Label::Integer { column: "class".to_owned(), n_classes: 2 };
        Prepared {
            spec: DataSpec::Table(Schema::new(vec![Input::Numbers { columns }], label).expect("a schema")),
            data: Arc::new(Dataset::from_values(values, labels, &[3])),
            network: Arc::new(Network::new(model.clone(), Loss::of_classes(&model).expect("a loss")).expect("runs")),
            workspaces: Arc::default(),
            zeros: vec![0.0; 3].into(),
        }
    }

    fn update(prepared: &Prepared, steps: u32, learning_rate: f64) -> Zeroizing<Vec<f64>> {
        update_and_figures(prepared, steps, learning_rate).0
    }

    /// Whatever happens, as many records are drawn.
    fn update_and_figures(prepared: &Prepared, steps: u32, learning_rate: f64) -> (Zeroizing<Vec<f64>>, Figures) {
        let training = LocalTraining { steps, batch_size: 4, learning_rate };
        let mut n_drawn = 0;
        let draw = || {
            n_drawn += 1;
            prepared.example(any_record(&prepared.data))
        };
        let found = local_update(prepared, training, &[0.0; 8], draw, &AtomicBool::new(false)).expect("trained");
        assert_eq!(n_drawn, 4 * steps);
        found
    }

    #[test]
    fn an_update_is_the_change_by_the_plans_steps_at_its_rate() {
        // One record, so that every batch is the same: from zero the first step moves the class's bias by half the rate.
        let one = prepared(vec![1.0, 0.0, -1.0], vec![1]);
        let step = update(&one, 1, 0.1);
        for (found, expected) in step.iter().zip([-0.05, 0.05, 0.0, 0.0, 0.05, -0.05, -0.05, 0.05]) {
            assert!((found - expected).abs() < 1e-6, "{step:?}");
        }
        // More steps go on from there, each a little shorter.
        let three = update(&one, 3, 0.1);
        assert!(three[7] > 2.5 * step[7] && three[7] < 3.0 * step[7], "{three:?}");
    }

    /// A step that was checked, or a training that ended where it led nowhere, would show in its time that some record
    /// overflows.
    #[test]
    fn a_training_that_overflows_in_its_first_step_takes_all_the_others() {
        let finite = prepared(vec![1.0, -1.0, 0.5], vec![1]);
        let overflows = prepared(vec![f32::MAX, f32::INFINITY, f32::NAN], vec![1]);
        let (update, figures) = update_and_figures(&finite, 50, 0.1);
        assert!(update.iter().any(|value| *value != 0.0) && figures.accuracy > 0.0);
        // All 200 records are drawn, and no error says that they overflow.
        let (update, figures) = update_and_figures(&overflows, 50, 0.1);
        assert!(update.iter().all(|value| *value == 0.0) && figures == Figures::default(), "{update:?}, {figures:?}");
    }

    #[test]
    fn a_clients_figures_are_the_means_over_all_records_as_they_were_met() {
        let one = prepared(vec![1.0, 0.0, -1.0], vec![1]);
        // From zero both classes are as likely, and the first among equals is said: wrong, then right.
        let (_, first) = update_and_figures(&one, 1, 0.1);
        assert!((first.loss - 2f64.ln()).abs() < 1e-6 && first.accuracy == 0.0, "{first:?}");
        let (_, both) = update_and_figures(&one, 2, 0.1);
        // After the first step they differ by 0.3: by 0.1 in the bias, and by 0.1 in each of the weights of 1 and -1.
        let second = (1.0 + (-0.3f64).exp()).ln();
        assert!((both.loss - (2f64.ln() + second) / 2.0).abs() < 1e-6, "{both:?}, expected {second}");
        assert_eq!(both.accuracy, 0.5);
    }

    #[test]
    fn a_client_without_records_or_whose_training_overflows_sends_zero() {
        let none = prepared(Vec::new(), Vec::new());
        assert_eq!(*update(&none, 2, 0.1), [0.0; 8]);
        // From the first step on the products overflow: no error, which would show, and nothing that is not finite.
        let huge = prepared(vec![1e30, -1e30, 1e30, -1e30, 1e30, 1e30], vec![0, 1]);
        let overflown = update(&huge, 4, 1e6);
        assert!(overflown.iter().all(|value| *value == 0.0), "{overflown:?}");
        let training = LocalTraining { steps: 1, batch_size: 1, learning_rate: 0.1 };
        let draw = || none.example(None);
        let cancelled = local_update(&none, training, &[0.0; 8], draw, &AtomicBool::new(true));
        assert!(matches!(cancelled, Err(TrainerError::Cancelled)));
    }
}
