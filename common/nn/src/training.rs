//! Ordinary training: steps of an optimizer along the gradients of batches.
//!
//! A step runs on the threads of the rayon pool that it is called in. Its bits do not depend on them: a batch is cut into
//! chunks whose length depends on the model alone, and the chunks' gradients are added in their order. Nothing is
//! copied and little is allocated: the parameters live where the layers read them, and each block of them is summed,
//! changed and updated while it is in the cache.

use rayon::prelude::*;

use crate::{
    Buffer, Gradient, Network, NnError, Optimizer, OptimizerError, OptimizerSpec, Prepared, Record, Target, Workspace,
    network::batch::{Outcome, Weight},
};

/// A network in training: its parameters, and the optimizer that moves them.
#[derive(Debug)]
pub struct Training<'a> {
    network: &'a Network,
    weights: Prepared,
    optimizer: Optimizer,
    workers: Vec<Worker>,
    /// The sum of the chunks before those that the workers hold.
    earlier: Buffer,
}

/// The memory that one chunk of a batch is computed in.
#[derive(Debug)]
struct Worker {
    workspace: Workspace,
    gradient: Gradient,
    outcomes: Vec<Outcome>,
}

/// What the records of a batch came to, added up.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Totals {
    /// The sum of their losses.
    pub loss: f64,
    /// How many were right ([`Outcome::is_right`]).
    pub n_right: usize,
}

/// Why a step was not taken.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum TrainingError {
    /// The batch does not fit the model, or leads nowhere finite.
    #[error(transparent)]
    Model(#[from] NnError),
    /// The optimizer's constants make no sense.
    #[error(transparent)]
    Optimizer(#[from] OptimizerError),
}

impl<'a> Training<'a> {
    /// Training of `network` from `parameters` on.
    ///
    /// # Errors
    /// If there are not [`Network::n_parameters`] of them, or a constant of `optimizer` is outside its range.
    pub fn new(network: &'a Network, parameters: &[f32], optimizer: OptimizerSpec) -> Result<Self, TrainingError> {
        let worker = || Worker {
            workspace: network.workspace(),
            gradient: network.gradient(),
            outcomes: vec![Outcome::default(); network.chunk_len()],
        };
        Ok(Self {
            network,
            weights: network.prepare(parameters)?,
            optimizer: Optimizer::new(optimizer, network.n_parameters())?,
            workers: (0..WORKERS).map(|_| worker()).collect(),
            earlier: Buffer::zeroed(network.n_parameters()),
        })
    }

    /// The parameters as they are now, ready for evaluation.
    pub fn weights(&self) -> &Prepared {
        &self.weights
    }

    /// The parameters as they are now, in one vector.
    pub fn parameters(&self) -> Vec<f32> {
        self.weights.parameters()
    }

    /// Takes one step along the weighted sum of the gradients of `batch`, and gives the sum of the losses.
    ///
    /// # Errors
    /// As [`Network::chunk_gradient`]; nothing has changed then.
    pub fn step(&mut self, batch: &[(Record<'_>, Target<'_>)], weight: Weight) -> Result<f64, TrainingError> {
        self.step_through(batch, weight, |_, _| {})
    }

    /// [`Training::step`] along a gradient that `change` has had in hand, called for its blocks as that of
    /// [`Training::step_along`].
    ///
    /// # Errors
    /// As there.
    pub fn step_through(
        &mut self,
        batch: &[(Record<'_>, Target<'_>)],
        weight: Weight,
        change: impl Fn(usize, &mut [f32]) + Sync,
    ) -> Result<f64, TrainingError> {
        Ok(self.step_by(batch, weight, true, change)?.loss)
    }

    /// [`Training::step`] whose work does not depend on the values: a gradient that is not finite is stepped along as any
    /// other. Then the loss that it gives, or a parameter, is not finite. It gives all that the batch came to.
    ///
    /// # Errors
    /// As [`Network::chunk_gradient`], but for what is not finite.
    pub fn step_unchecked(
        &mut self,
        batch: &[(Record<'_>, Target<'_>)],
        weight: Weight,
    ) -> Result<Totals, TrainingError> {
        self.step_by(batch, weight, false, |_, _| {})
    }

    fn step_by(
        &mut self,
        batch: &[(Record<'_>, Target<'_>)],
        weight: Weight,
        is_checked: bool,
        change: impl Fn(usize, &mut [f32]) + Sync,
    ) -> Result<Totals, TrainingError> {
        let chunk_len = self.network.chunk_len();
        let mut waves = batch.chunks(chunk_len * WORKERS).peekable();
        let (mut totals, mut is_first, mut n_chunks) = (Totals::default(), true, 0);
        // As many chunks at once as there are workers: a batch of any size takes no more memory.
        while let Some(wave) = waves.next() {
            let (network, weights) = (self.network, &self.weights);
            n_chunks = wave.len().div_ceil(chunk_len);
            self.workers.par_iter_mut().zip(wave.par_chunks(chunk_len)).try_for_each(|(worker, chunk)| {
                let Worker { workspace, gradient, outcomes } = worker;
                let outcomes = &mut outcomes[..chunk.len()];
                if is_checked {
                    return network.chunk_gradient(weights, chunk, weight, workspace, outcomes, gradient);
                }
                network.chunk_gradient_unchecked(weights, chunk, weight, workspace, outcomes, gradient).map(|_| ())
            })?;
            for (worker, chunk) in self.workers.iter().zip(wave.chunks(chunk_len)) {
                let outcomes = &worker.outcomes[..chunk.len()];
                totals.loss += outcomes.iter().map(|outcome| f64::from(outcome.loss)).sum::<f64>();
                totals.n_right += outcomes.iter().filter(|outcome| outcome.is_right).count();
            }
            if waves.peek().is_some() {
                let workers = &self.workers;
                self.earlier.par_chunks_mut(BLOCK_LEN).enumerate().for_each(|(i, sum)| {
                    let mut block = [0.0; BLOCK_LEN];
                    let block = &mut block[..sum.len()];
                    let earlier = (!is_first).then_some(&*sum);
                    sum_block(earlier, workers, i * BLOCK_LEN, block);
                    sum.copy_from_slice(block);
                });
                is_first = false;
            }
        }
        let workers = std::mem::take(&mut self.workers);
        let earlier = std::mem::replace(&mut self.earlier, Buffer::zeroed(0));
        self.step_along(|at, gradient| {
            let earlier = (!is_first).then(|| &earlier[at..at + gradient.len()]);
            sum_block(earlier, &workers[..n_chunks], at, gradient);
            change(at, gradient);
        });
        (self.workers, self.earlier) = (workers, earlier);
        Ok(totals)
    }

    /// Takes one step along the gradient that `write` writes. It is called once for every block, with zeros to write to, in
    /// any order and on any thread, and with the place where the block begins; blocks have the same borders in every
    /// step.
    pub fn step_along(&mut self, write: impl Fn(usize, &mut [f32]) + Sync) {
        let (update, moments) = self.optimizer.begin_step(1.0);
        let blocks: Vec<_> = self.network.blocks(&mut self.weights, moments, BLOCK_LEN).collect();
        blocks.into_par_iter().for_each(|Block { at, parameters, moments }| {
            let mut gradient = [0.0; BLOCK_LEN];
            let gradient = &mut gradient[..parameters.len()];
            write(at, gradient);
            update.apply(parameters, gradient, moments);
        });
        self.network.derive(&mut self.weights);
    }
}

/// A range of the parameters, all of one layer, with their moments.
pub(crate) struct Block<'a> {
    /// Where it begins in the flat vector.
    pub(crate) at: usize,
    pub(crate) parameters: &'a mut [f32],
    /// Empty where the optimizer has none.
    pub(crate) moments: [&'a mut [f32]; 2],
}

/// Writes to `out`, which is zero, what of the sum begins at `at`.
fn sum_block(earlier: Option<&[f32]>, workers: &[Worker], at: usize, out: &mut [f32]) {
    if let Some(earlier) = earlier {
        out.copy_from_slice(earlier);
    }
    workers.iter().for_each(|worker| worker.gradient.add_to(at, out));
}

/// Chunks of a batch that are computed at once; each holds one vector of the model's size.
const WORKERS: usize = 8;
/// Parameters that are summed and updated at once: 16 KB of each vector.
const BLOCK_LEN: usize = 4096;

#[cfg(test)]
mod tests {
    use eranos_base::{Entropy, SeededEntropy};

    use super::*;
    use crate::{Activation, Dataset, LayerKind, LayerSpec, Loss, ModelSpec};

    /// Eight values, half of a hidden layer dropped, three classes; more parameters than a block has.
    fn network() -> Network {
        let dense = |units, activation| LayerKind::Dense { units, activation, use_bias: true };
        let kinds = [
            ("x", LayerKind::InputLayer { shape: vec![8] }),
            ("hidden", dense(600, Activation::Tanh)),
            ("dropout", LayerKind::Dropout { rate: 1 << 31 }),
            ("classes", dense(3, Activation::Softmax)),
        ];
        let layer = |(i, (name, kind)): (usize, (&str, LayerKind))| LayerSpec {
            name: name.to_owned(),
            inputs: i.checked_sub(1).map(|before| before as u32).into_iter().collect(),
            kind,
        };
        let spec = ModelSpec::new("small", kinds.into_iter().enumerate().map(layer).collect()).unwrap();
        let loss = Loss::of_classes(&spec).unwrap();
        Network::new(spec, loss).unwrap()
    }

    /// 300 records, their class the place of the largest of their first three values.
    fn data() -> Dataset {
        let mut entropy = SeededEntropy::new(3);
        let values: Vec<f32> = (0..300 * 8).map(|_| f32::from(i16::from_le_bytes(entropy.bytes())) / 32768.0).collect();
        let largest = |record: &[f32]| (0..3).fold(0, |best, j| if record[j] > record[best] { j } else { best }) as u32;
        let labels = values.chunks_exact(8).map(largest).collect();
        Dataset::from_values(values, labels, &[8])
    }

    fn on<T: Send>(n_threads: usize, work: impl FnOnce() -> T + Send) -> T {
        rayon::ThreadPoolBuilder::new().num_threads(n_threads).build().unwrap().install(work)
    }

    /// Batches of more and of fewer chunks than there are workers, larger ones first: what they left behind must not show.
    #[test]
    fn steps_are_the_optimizers_along_the_mean_of_record_gradients_on_any_number_of_threads() {
        let (network, data) = (network(), data());
        assert!(network.n_parameters() > BLOCK_LEN && 2 * network.chunk_len() * WORKERS < 300);
        let sizes = [300, 129, 50, 33, 8, 7, 1, 0];
        let example = |i: usize| {
            let (record, key) = ((7 * i) % 300, Some(i as u64));
            (Record { values: data.record(record), dropout_key: key }, Target::Class(data.label(record)))
        };
        let weight = |n: usize| 1.0 / n.max(1) as f32;
        for spec in [
            OptimizerSpec::Sgd { learning_rate: 0.5 },
            OptimizerSpec::Momentum { learning_rate: 0.1, momentum: 0.9 },
            OptimizerSpec::adam(0.001),
            OptimizerSpec::adamw(0.001),
            OptimizerSpec::Adagrad { learning_rate: 0.01, initial_accumulator_value: 0.1, epsilon: 1e-7 },
            OptimizerSpec::Yogi { learning_rate: 0.01, beta_1: 0.9, beta_2: 0.99, epsilon: 1e-3 },
        ] {
            let start = network.initialise(&mut SeededEntropy::new(5));
            let run = |n_threads| {
                on(n_threads, || {
                    let mut training = Training::new(&network, &start, spec).unwrap();
                    let step = |n: usize| {
                        let batch: Vec<_> = (0..n).map(example).collect();
                        let loss = training.step(&batch, Weight::Equal(weight(n))).unwrap();
                        (loss, training.parameters())
                    };
                    sizes.map(step)
                })
            };
            let steps = run(1);
            assert!(run(3) == steps, "{spec:?}");

            // Each step by itself, from where the step before had led.
            let mut optimizer = Optimizer::new(spec, network.n_parameters()).unwrap();
            let (mut workspace, mut gradient) = (network.workspace(), network.gradient());
            let mut before = start;
            for (n, (loss, after)) in sizes.into_iter().zip(steps) {
                let weights = network.prepare(&before).unwrap();
                let (mut mean, mut expected_loss) = (vec![0.0; network.n_parameters()], 0.0);
                for (record, target) in (0..n).map(example) {
                    let loss = network.record_gradient(&weights, record, target, &mut workspace, &mut gradient);
                    expected_loss += f64::from(loss.unwrap());
                    mean.iter_mut().zip(&*gradient).for_each(|(sum, x)| *sum += x * weight(n));
                }
                let mut expected = before.clone();
                optimizer.step(&mut expected, &mean).unwrap();
                assert!((loss - expected_loss).abs() < 1e-4, "{spec:?} {n}: {loss}, expected {expected_loss}");
                let error = after.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                // Adam moves a parameter by its gradient's sign, however small that is: rounding shows most there.
                assert!(error < 2e-5, "{spec:?} {n}: {error}");
                before = after;
            }
        }
    }

    #[test]
    fn a_change_sees_every_value_of_the_gradient_once() {
        let (network, data) = (network(), data());
        let mut training =
            Training::new(&network, &vec![0.25; network.n_parameters()], OptimizerSpec::Sgd { learning_rate: 1.0 })
                .unwrap();
        let batch = [(Record { values: data.record(0), dropout_key: Some(1) }, Target::Class(data.label(0)))];
        training
            .step_through(&batch, Weight::Equal(1.0), |at, block| {
                block.iter_mut().zip(at..).for_each(|(x, i)| *x = i as f32 / 1024.0);
            })
            .unwrap();
        let expected = |i: usize| 0.25 - i as f32 / 1024.0;
        assert!(training.parameters().iter().enumerate().all(|(i, &w)| w == expected(i)));
    }

    #[test]
    fn a_step_that_fails_changes_nothing() {
        let (network, data) = (network(), data());
        let start = network.initialise(&mut SeededEntropy::new(5));
        let mut training = Training::new(&network, &start, OptimizerSpec::adam(0.1)).unwrap();
        let good = (Record { values: data.record(0), dropout_key: Some(1) }, Target::Class(0));
        let huge = [f32::INFINITY; 8];
        let bad = (Record { values: &huge, dropout_key: Some(2) }, Target::Class(0));
        let batch: Vec<_> = (0..40).map(|i| if i == 30 { bad } else { good }).collect();
        let error = training.step(&batch, Weight::Equal(0.1)).unwrap_err();
        assert!(error.to_string().contains("\"x\""), "{error}");
        assert_eq!((training.parameters(), training.optimizer.n_steps()), (start, 0));
    }

    /// What a client may show by the time that its own training takes: nothing of where its records overflow.
    #[test]
    fn an_unchecked_step_goes_through_the_whole_batch_and_is_taken_whatever_overflows() {
        let (network, data) = (network(), data());
        let start = network.initialise(&mut SeededEntropy::new(5));
        let good =
            |i: usize| (Record { values: data.record(i), dropout_key: Some(i as u64) }, Target::Class(data.label(i)));
        let huge = [f32::INFINITY; 8];
        let n = 2 * network.chunk_len() * WORKERS;
        let sgd = OptimizerSpec::Sgd { learning_rate: 0.1 };
        let mut training = Training::new(&network, &start, sgd).unwrap();
        let mut batch: Vec<_> = (0..n).map(good).collect();
        // In the first chunk of the first of two waves.
        batch[0] = (Record { values: &huge, dropout_key: Some(0) }, Target::Class(0));
        let loss = training.step_unchecked(&batch, Weight::Equal(0.1)).unwrap().loss;
        assert!(!loss.is_finite() && training.optimizer.n_steps() == 1, "{loss}");
        assert!(training.parameters().iter().any(|parameter| !parameter.is_finite()));
        // It goes on from there, by as much work, without an end to what is not finite.
        assert!(!training.step_unchecked(&batch[1..], Weight::Equal(0.1)).unwrap().loss.is_finite());
        // Where nothing overflows it is a step like any other.
        let [mut plain, mut unchecked] = [(); 2].map(|()| Training::new(&network, &start, sgd).unwrap());
        let (prepared, mut workspace) = (network.prepare(&start).unwrap(), network.workspace());
        let mut n_right = 0;
        let each = |_, outcome: Outcome, _: &Gradient| {
            n_right += usize::from(outcome.is_right);
            Ok::<_, NnError>(())
        };
        network.record_gradients(&prepared, &batch[1..], &mut workspace, &mut network.gradient(), each).unwrap();
        let totals = unchecked.step_unchecked(&batch[1..], Weight::Equal(0.1)).unwrap();
        assert_eq!(plain.step(&batch[1..], Weight::Equal(0.1)), Ok(totals.loss));
        assert_eq!(plain.parameters(), unchecked.parameters());
        assert!(totals.n_right == n_right && n_right > 0, "{} and {n_right}", totals.n_right);
    }
}
