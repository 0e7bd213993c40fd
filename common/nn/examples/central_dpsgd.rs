//! Central DP-SGD of the demo's CNN: which settings to train with, found without the demo's own data.
//!
//! `cargo run --release -p eranos-nn --example central_dpsgd -- [--digits DIR] [--optimizer sgd|momentum|adam]
//! [--learning-rates R,..] [--clips C,..] [--decays D,..] [--seeds S,..] [--noise Z] [--steps N] [--threads N]`
//!
//! Each step is one round of the demo as if all data lay in one place: it draws a Poisson sample (q = 1/4 of 6,000
//! images), clips each record's gradient to C in the L2 norm, adds Gaussian noise of standard deviation Z C to every
//! coordinate of the SUM, and divides by the expected lot, 1,500. The learning rate falls along a line from R to D R
//! (D = 1: it stays). Z = 4.36 is the noise of all eight silos of the demo together. Floats and a plain generator: this
//! compares settings, and makes no privacy claim; the federation clips in integers and draws exact discrete noise.
//!
//! With `--digits`, DIR holds the training files of the whole MNIST. The sample's images, which the demo trains and
//! reports on, are taken out of them by their digests; each seed draws 6,000 others to train on and 5,000 to validate
//! on, and the table has every combination of R, C and D. That is the way to choose: neither a silo's record nor the
//! reported test set enters a choice. Without it, one setting is trained on the sample and measured on its test set, to
//! compare with the federation; the sample is not there to choose from, so more than one setting is refused.

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
    process::ExitCode,
    thread,
};

use eranos_base::{Digest, SeededEntropy, UserError};
use eranos_nn::{
    Dataset, LearningRateSchedule, Loss, ModelSpec, Network, Optimizer, OptimizerSpec, Record, Target,
    data::idx::{self, IdxValues},
    kernel,
};
use rand::{RngExt, SeedableRng, rngs::StdRng, seq::index};
use rand_distr::StandardNormal;

type Error = Box<dyn std::error::Error + Send + Sync>;

fn main() -> ExitCode {
    match compare(std::env::args().skip(1)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn compare(arguments: impl Iterator<Item = String>) -> Result<(), Error> {
    let options = Options::parse(arguments)?;
    let settings = options.settings();
    let source = match &options.digits {
        Some(dir) => Source::Other(other_digits(dir)?),
        None if settings.len() > 1 => {
            let what = "the sample is not there to choose settings by";
            return Err(UserError::new(what, "name the folder of the whole MNIST with --digits, or one setting").into());
        }
        None => Source::Sample { train: sample("train")?, test: sample("test")? },
    };
    let network = Network::new(ModelSpec::builtin("cnn")?, Loss::SparseCategoricalCrossentropy)?;
    let mut runs: Vec<Run> = Vec::new();
    for &setting in &settings {
        runs.extend(options.seeds.iter().map(|&seed| Run { setting, seed, accuracy: 0.0 }));
    }
    // Whole runs on each thread: the figures do not depend on how many threads there are.
    let n_runs_each = runs.len().div_ceil(options.threads);
    let work = |share: &mut [Run]| share.iter_mut().try_for_each(|run| run.train(&options, &network, &source));
    thread::scope(|scope| {
        let workers: Vec<_> = runs.chunks_mut(n_runs_each).map(|share| scope.spawn(move || work(share))).collect();
        workers.into_iter().try_for_each(|worker| worker.join().expect("no worker panics"))
    })?;
    println!("{} for {} steps, noise {} C, seeds {:?}", options.optimizer, options.steps, options.noise, options.seeds);
    println!("| C | R | D | median | least | most |\n|---|---|---|---|---|---|");
    for runs in runs.chunk_by_mut(|a, b| a.setting == b.setting) {
        runs.sort_by(|a, b| a.accuracy.total_cmp(&b.accuracy));
        let Setting { clip, learning_rate, decay } = runs[0].setting;
        let (least, most) = (runs[0].accuracy, runs[runs.len() - 1].accuracy);
        let median = (runs[(runs.len() - 1) / 2].accuracy + runs[runs.len() / 2].accuracy) / 2.0;
        println!("| {clip} | {learning_rate} | {decay} | {median:.4} | {least:.4} | {most:.4} |");
    }
    Ok(())
}

/// What is chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Setting {
    clip: f64,
    learning_rate: f64,
    decay: f64,
}

/// Where records come from.
enum Source {
    /// The sample, with its own test set.
    Sample { train: Dataset, test: Dataset },
    /// Digits outside it, of which each seed draws its own.
    Other(Dataset),
}

/// One training.
struct Run {
    setting: Setting,
    seed: u64,
    /// After the last step.
    accuracy: f64,
}

impl Run {
    fn train(&mut self, options: &Options, network: &Network, source: &Source) -> Result<(), Error> {
        let Setting { clip, learning_rate, decay } = self.setting;
        let mut rng = StdRng::seed_from_u64(self.seed);
        let drawn;
        let (train, test) = match source {
            Source::Sample { train, test } => (train, test),
            Source::Other(digits) => {
                let order = index::sample(&mut rng, digits.len(), N_TRAIN + N_VALIDATION).into_vec();
                let (train, validation) = order.split_at(N_TRAIN);
                drawn = (digits.subset(train), digits.subset(validation));
                (&drawn.0, &drawn.1)
            }
        };
        let spec = match options.optimizer.as_str() {
            "sgd" => OptimizerSpec::Sgd { learning_rate },
            "momentum" => OptimizerSpec::Momentum { learning_rate, momentum: 0.9 },
            "adam" => OptimizerSpec::adam(learning_rate),
            other => {
                let what = format!("unknown optimizer {other:?}");
                return Err(UserError::new(what, "there are sgd, momentum and adam").into());
            }
        };
        let schedule = LearningRateSchedule::Linear { n_steps: options.steps, last_share: decay };
        schedule.check()?;
        let mut parameters = network.initialise(&mut SeededEntropy::new(self.seed));
        let mut optimizer = Optimizer::new(spec, parameters.len())?;
        let (mut workspace, mut out) = (network.workspace(), network.gradient());
        for step in 0..options.steps {
            let prepared = network.prepare(&parameters)?;
            // Single precision does: what it rounds away is far below the noise.
            let mut sum = vec![0.0_f32; network.n_parameters()];
            for i in (0..train.len()).filter(|_| rng.random_bool(SAMPLING_PROBABILITY)).collect::<Vec<_>>() {
                let target = Target::Class(train.label(i));
                network.record_gradient(&prepared, Record::new(train.record(i)), target, &mut workspace, &mut out)?;
                let norm = kernel::squared_norm(&out).sqrt();
                // As in the federation, a gradient that is not finite counts as zero.
                if norm.is_finite() {
                    let factor = (clip / norm).min(1.0) as f32;
                    sum.iter_mut().zip(&*out).for_each(|(sum, &g)| *sum += g * factor);
                }
            }
            let lot = SAMPLING_PROBABILITY * N_TRAIN as f64;
            let deviation = options.noise * clip;
            let noised = sum.into_iter().map(|sum| f64::from(sum) + deviation * rng.sample::<f64, _>(StandardNormal));
            let gradient: Vec<f32> = noised.map(|sum| (sum / lot) as f32).collect();
            optimizer.step_scaled(&mut parameters, &gradient, schedule.share(step))?;
        }
        self.accuracy = network.evaluate(&network.prepare(&parameters)?, test, &mut workspace)?.accuracy;
        eprintln!("{:?}, seed {}: accuracy {:.4}", self.setting, self.seed, self.accuracy);
        Ok(())
    }
}

/// The part of the sample in `samples/`, "train" or "test".
fn sample(part: &str) -> Result<Dataset, Error> {
    let [images, labels] = sample_files(part);
    Ok(idx::read_images(&images, &labels, 10).map_err(|error| error.user_error())?)
}

fn sample_files(part: &str) -> [PathBuf; 2] {
    let samples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../samples");
    ["images-idx3", "labels-idx1"].map(|kind| samples.join(format!("mnist-{part}-{kind}-ubyte.gz")))
}

/// MNIST's training digits in `dir`, without those of the sample.
fn other_digits(dir: &Path) -> Result<Dataset, Error> {
    let images = dir.join("train-images-idx3-ubyte.gz");
    let all =
        idx::read_images(&images, &dir.join("train-labels-idx1-ubyte.gz"), 10).map_err(|error| error.user_error())?;
    let all_digests = digests(&images)?;
    let [trained_on, _] = sample_files("train");
    let [reported_on, _] = sample_files("test");
    let (trained_on, reported_on) = (digests(&trained_on)?, digests(&reported_on)?);
    let known: HashSet<_> = all_digests.iter().collect();
    let n_unknown = trained_on.iter().filter(|digest| !known.contains(digest)).count();
    if n_unknown > 0 {
        // Digits in another form would hide the sample's.
        let what = format!("{n_unknown} of the sample's training images are not in {}", images.display());
        return Err(UserError::new(what, "name the folder of the original MNIST with --digits").into());
    }
    let of_sample: HashSet<_> = trained_on.iter().chain(&reported_on).collect();
    let others: Vec<usize> = (0..all.len()).filter(|&i| !of_sample.contains(&all_digests[i])).collect();
    eprintln!("{} digits, {} of them outside the sample", all.len(), others.len());
    if others.len() < N_TRAIN + N_VALIDATION {
        let what = format!("{} digits outside the sample, {} are needed", others.len(), N_TRAIN + N_VALIDATION);
        return Err(UserError::new(what, "name the folder of the whole MNIST with --digits").into());
    }
    Ok(all.subset(&others))
}

/// The digest of each image's pixels.
fn digests(images: &Path) -> Result<Vec<Digest>, Error> {
    let images = idx::read(images).map_err(|error| error.user_error())?;
    let len = images.shape[1..].iter().product::<usize>().max(1);
    let IdxValues::U8(pixels) = images.values else { return Err("images of bytes are needed".into()) };
    Ok(pixels.chunks_exact(len).map(Digest::of).collect())
}

struct Options {
    digits: Option<PathBuf>,
    optimizer: String,
    learning_rates: Vec<f64>,
    clips: Vec<f64>,
    decays: Vec<f64>,
    seeds: Vec<u64>,
    noise: f64,
    steps: u64,
    threads: usize,
}

impl Options {
    fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Self, Error> {
        let mut options = Self {
            digits: None,
            optimizer: "sgd".to_owned(),
            learning_rates: vec![4.0],
            clips: vec![1.0],
            decays: vec![0.1],
            seeds: vec![1, 2, 3, 4, 5],
            noise: 4.36,
            steps: 150,
            threads: thread::available_parallelism().map_or(1, usize::from),
        };
        while let Some(option) = arguments.next() {
            let value = arguments.next().ok_or_else(|| refused(format!("{option} has no value")))?;
            match option.as_str() {
                "--digits" => options.digits = Some(value.into()),
                "--optimizer" => options.optimizer = value,
                "--learning-rates" => options.learning_rates = numbers(&option, &value)?,
                "--clips" => options.clips = numbers(&option, &value)?,
                "--decays" => options.decays = numbers(&option, &value)?,
                "--seeds" => options.seeds = numbers(&option, &value)?,
                "--noise" => options.noise = number(&option, &value)?,
                "--steps" => options.steps = number(&option, &value)?,
                "--threads" => options.threads = number::<usize>(&option, &value)?.max(1),
                _ => return Err(refused(format!("unknown option {option}"))),
            }
        }
        Ok(options)
    }

    /// Every combination.
    fn settings(&self) -> Vec<Setting> {
        let mut settings = Vec::new();
        for &clip in &self.clips {
            for &learning_rate in &self.learning_rates {
                settings.extend(self.decays.iter().map(|&decay| Setting { clip, learning_rate, decay }));
            }
        }
        settings
    }
}

fn numbers<T: std::str::FromStr>(option: &str, value: &str) -> Result<Vec<T>, Error> {
    value.split(',').map(|value| number(option, value)).collect()
}

fn number<T: std::str::FromStr>(option: &str, value: &str) -> Result<T, Error> {
    value.parse().map_err(|_| refused(format!("{option} takes numbers, not {value:?}")))
}

fn refused(what: String) -> Error {
    UserError::new(what, "the first lines of common/nn/examples/central_dpsgd.rs list the options").into()
}

const SAMPLING_PROBABILITY: f64 = 0.25;
const N_TRAIN: usize = 6000;
const N_VALIDATION: usize = 5000;
