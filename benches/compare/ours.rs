//! Our side of `benches/compare/compare.py`: trains or runs a model on random records, whenever it is told to.
//!
//! `compare WAY DEFINITION BATCH THREADS` where WAY is
//!
//! - `plain`: a step of Adam along the mean gradient of the batch, as `eranos client train-local` takes it;
//! - `clipped`: the same, each record's gradient clipped;
//! - `noised`: the same, Gaussian noise in f32 added to the sum: what Opacus does, and like there no claim on its own;
//! - `exact`: the path that a privacy claim rests on, up to the sum: record by record, clipped, truncated to integers,
//!   summed in i64, and a step of Adam along it;
//! - `private`: all of that path: the sum rotated and rounded as for a round, exact discrete Gaussian noise, restored;
//! - `infer`: the outputs of the batch.
//!
//! DEFINITION is Keras JSON. Every line on standard input, a number of seconds, makes it work that long and answer with a
//! line: records done, seconds taken. It ends when standard input does.

#[path = "../../common/nn/examples/shared/mod.rs"]
mod shared;

use std::{io::BufRead, time::Instant};

use chacha20::{ChaCha8Rng, rand_core::SeedableRng};
use eranos_base::{Entropy, OsEntropy, SeededEntropy};
use eranos_nn::{
    Dataset, Gradient, Loss, ModelSpec, Network, OptimizerSpec, Record, Target, Training, Workspace,
    network::batch::Weight,
};
use eranos_privacy::{
    Figures, RecordMechanism, RotationSeed, SiloSum,
    mechanism::{GRID, NoiseTarget, Probability, RecordTarget, design},
    noise::add_noise,
    rotation::{reduce, restore},
    sampler,
};
use rand_distr::{Distribution, StandardNormal};
use rayon::prelude::*;

type Error = Box<dyn std::error::Error + Send + Sync>;
type Example<'a> = (Record<'a>, Target<'a>);

fn main() -> Result<(), Error> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [way, definition, n_batch, n_threads] = &arguments[..] else {
        return Err("run it as: compare plain|clipped|noised|exact|private|infer DEFINITION BATCH THREADS".into());
    };
    let (n_batch, n_threads): (usize, usize) = (n_batch.parse()?, n_threads.parse()?);
    let spec = ModelSpec::from_keras_json(&std::fs::read_to_string(definition)?)?;
    let loss = Loss::of_classes(&spec)?;
    let network = Network::new(spec, loss)?;
    let mut entropy = SeededEntropy::new(1);
    let n_classes = network.n_outputs().max(2);
    let records: Vec<Vec<f32>> = (0..n_batch).map(|_| shared::random_record(network.spec(), &mut entropy)).collect();
    let target = |i: usize| Target::Class((i % n_classes) as u32);
    let batch: Vec<Example<'_>> = records.iter().enumerate().map(|(i, r)| (Record::new(r), target(i))).collect();
    let mut work = work(way, &network, &batch, &mut entropy)?;
    let pool = rayon::ThreadPoolBuilder::new().num_threads(n_threads).build()?;
    for line in std::io::stdin().lock().lines() {
        let seconds: f64 = line?.trim().parse()?;
        let (n_batches, took) = pool.install(|| {
            let (start, mut n_batches) = (Instant::now(), 0);
            while start.elapsed().as_secs_f64() < seconds {
                work()?;
                n_batches += 1;
            }
            Ok::<_, Error>((n_batches, start.elapsed().as_secs_f64()))
        })?;
        println!("{} {took}", n_batches * n_batch);
    }
    Ok(())
}

/// One batch, over and over.
fn work<'a>(
    way: &str,
    network: &'a Network,
    batch: &'a [Example<'a>],
    entropy: &mut SeededEntropy,
) -> Result<Box<dyn FnMut() -> Result<(), Error> + Send + 'a>, Error> {
    let mean = 1.0 / batch.len() as f32;
    let parameters = network.initialise(entropy);
    let adam = OptimizerSpec::adam(LEARNING_RATE);
    let clip = Weight::Clip { l2_clip_norm: L2_CLIP_NORM };
    let mut training = Training::new(network, &parameters, adam)?;
    Ok(match way {
        "plain" => Box::new(move || {
            training.step(batch, Weight::Equal(mean))?;
            Ok(())
        }),
        "clipped" => Box::new(move || {
            training.step_through(batch, clip, |_, gradient| gradient.iter_mut().for_each(|x| *x *= mean))?;
            Ok(())
        }),
        "noised" => Box::new(move || {
            let seed: [u8; 32] = OsEntropy.bytes();
            training.step_through(batch, clip, |at, gradient| {
                // A stream of its own for each block: the same noise on any number of threads.
                let mut generator = ChaCha8Rng::from_seed(seed);
                generator.set_stream(at as u64);
                for x in gradient {
                    let noise: f32 = StandardNormal.sample(&mut generator);
                    *x = (*x + NOISE_MULTIPLIER * L2_CLIP_NORM as f32 * noise) * mean;
                }
            })?;
            Ok(())
        }),
        "exact" | "private" => {
            let mut exact = Exact::new(network, batch, training, way == "private")?;
            Box::new(move || exact.step())
        }
        "infer" => {
            let values = batch.iter().flat_map(|(record, _)| record.values).copied().collect();
            let data = Dataset::from_values(values, vec![0; batch.len()], &[network.input_len()]);
            let weights = network.prepare(&parameters)?;
            // Each thread takes its part of the records.
            let part = batch.len().div_ceil(rayon::current_num_threads()).max(1);
            let mut parts: Vec<(Workspace, Dataset)> = (0..batch.len().div_ceil(part))
                .map(|i| {
                    let rows: Vec<usize> = (i * part..((i + 1) * part).min(batch.len())).collect();
                    (network.workspace(), data.subset(&rows))
                })
                .collect();
            Box::new(move || {
                parts.par_iter_mut().try_for_each(|(workspace, data)| {
                    network
                        .predict(&weights, data.features(), workspace)
                        .map(|outputs| drop(std::hint::black_box(outputs)))
                })?;
                Ok(())
            })
        }
        _ => return Err(format!("no way is called {way}").into()),
    })
}

/// A step along the exact integer sum, as a silo computes it and the coordinator restores it.
struct Exact<'a> {
    network: &'a Network,
    batch: &'a [Example<'a>],
    training: Training<'a>,
    mechanism: RecordMechanism,
    is_private: bool,
    workers: Vec<Worker>,
}

struct Worker {
    workspace: Workspace,
    gradient: Gradient,
    sum: SiloSum,
}

impl<'a> Exact<'a> {
    fn new(
        network: &'a Network,
        batch: &'a [Example<'a>],
        training: Training<'a>,
        is_private: bool,
    ) -> Result<Self, Error> {
        let mechanism = design(&RecordTarget {
            groups: eranos_privacy::Groups::default(),
            l2_clip_norm: L2_CLIP_NORM,
            n_parameters: u32::try_from(network.n_parameters())?,
            sampling_probability: Probability::ONE,
            expected_lot: batch.len() as u32,
            record_bound: batch.len() as u32,
            local: None,
            n_max: 4,
            u_min: 3,
            max_colluders: 1,
            max_attempts: 2,
            noise: NoiseTarget::Distributed { epsilon: 8.0 },
            delta: 1e-5,
        })?;
        Ok(Self { network, batch, training, mechanism, is_private, workers: Vec::new() })
    }

    fn worker(network: &Network, mechanism: &RecordMechanism) -> Worker {
        Worker { workspace: network.workspace(), gradient: network.gradient(), sum: SiloSum::new(mechanism) }
    }

    fn step(&mut self) -> Result<(), Error> {
        let (network, mechanism, training) = (self.network, &self.mechanism, &mut self.training);
        let n_threads = rayon::current_num_threads();
        self.workers.resize_with(n_threads, || Self::worker(network, mechanism));
        let parts = self.batch.par_chunks(self.batch.len().div_ceil(n_threads));
        let weights = training.weights();
        self.workers.par_iter_mut().zip(parts).try_for_each(|(worker, records)| {
            let Worker { workspace, gradient, sum } = worker;
            sum.clear();
            network.record_gradients(weights, records, workspace, gradient, |_, _, gradient| {
                sum.add_record(gradient, gradient.ranges(), &Figures::default(), sampler::Weight::One)
                    .map_err(Error::from)
            })
        })?;
        if !self.is_private {
            let unit = L2_CLIP_NORM / f64::from(GRID) / self.batch.len() as f64;
            training.step_along(|at, gradient| {
                let mut sum = vec![0; gradient.len()];
                self.workers.iter().for_each(|worker| worker.sum.add_to(at, &mut sum));
                gradient.iter_mut().zip(&sum).for_each(|(x, &w)| *x = (w as f64 * unit) as f32);
            });
            return Ok(());
        }
        let mut total = SiloSum::new(mechanism);
        self.workers.iter_mut().try_for_each(|worker| total.merge(&mut worker.sum))?;
        let seed = RotationSeed(OsEntropy.bytes());
        let mut sum = total.finish(&seed);
        let variance = mechanism.parameters().noise.share_variance().ok_or("a mechanism with noise")?;
        add_noise(variance, &mut OsEntropy, &mut sum);
        let restored = restore(&reduce(&sum, mechanism.parameters().bits), mechanism, &seed, 1)?;
        training.step_along(|at, gradient| gradient.copy_from_slice(&restored[at..at + gradient.len()]));
        Ok(())
    }
}

/// Small, so that hours of steps on the same records stay finite.
const LEARNING_RATE: f64 = 1e-5;
const L2_CLIP_NORM: f64 = 1.0;
const NOISE_MULTIPLIER: f32 = 1.0;
