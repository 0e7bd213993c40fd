//! `eranos client train-local`: what a party gets by itself. An ordinary training on its own records, with no network and no
//! promise of privacy, so that it can tell whether a federation would give it more.

use std::{
    fs,
    path::{Path, PathBuf},
};

use clap::Args;
use eranos_base::{Entropy, SeededEntropy, UserError, println};
use eranos_nn::{
    DataFile, Dataset, Evaluation, Loss, Network, NnError, OptimizerSpec, Record, Target, Training, TrainingError,
    data::{Files, Misfit, split::shuffled},
    model::Source,
    network::batch::Weight,
    weights,
};

use crate::{config::Config, setup, trainer::Pool};

/// `eranos client train-local`.
#[derive(Clone, Debug, Args)]
pub struct Options {
    /// The client's folder: its client.toml says where the records are
    #[arg(long, default_value_os_t = crate::setup::folder())]
    pub dir: PathBuf,
    /// The task's data file, which says what a record is and where the public test set lies
    #[arg(long, value_name = "FILE")]
    pub data: PathBuf,
    /// A built-in model [default: the one for such records]
    #[arg(long, value_name = "BUILTIN", conflicts_with = "definition")]
    pub model: Option<String>,
    /// Or a file of Keras JSON (`model.to_json()`)
    #[arg(long, value_name = "FILE")]
    pub definition: Option<PathBuf>,
    /// How often every record is seen
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=EPOCHS_MAX))]
    pub epochs: u32,
    /// Records of one step
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..))]
    pub batch: u32,
    /// The learning rate of Adam
    #[arg(long, default_value_t = 0.001)]
    pub learning_rate: f64,
    /// Test on this share of the own records, held out, instead of the data file's test set
    #[arg(long, value_name = "SHARE")]
    pub test_share: Option<f64>,
    /// The same seed gives the same weights, on any number of threads
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Where the weights go, as safetensors
    #[arg(long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// What is known after an epoch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Epoch {
    /// Its number, from 1 on.
    pub number: u32,
    /// The mean loss of the records as they were trained on.
    pub loss: f64,
    /// How the model does on the test set, if there is one.
    pub test: Option<Evaluation>,
}

/// Runs `eranos client train-local`.
///
/// # Errors
/// If the folder, the data or the model is not usable, or training leads nowhere finite.
pub fn run(options: &Options) -> Result<(), UserError> {
    let config = Config::read(&options.dir.join(setup::CONFIG))?;
    let file = DataFile::read(&options.data)?;
    let named = Source::either(options.model.as_deref(), options.definition.as_deref());
    let source = named.or_else(|| Source::of_data(&file.spec)).ok_or_else(|| {
        UserError::new("no built-in model takes such records", "give a model of your own with --definition")
    })?;
    let spec = source.load(Some(&file.spec))?;
    let network = Loss::of_classes(&spec).and_then(|loss| Network::new(spec, loss)).map_err(|error| {
        UserError::new(
            format!("the model cannot be trained: {error}"),
            "end it in a softmax over the classes, or a sigmoid",
        )
    })?;
    let (labels, columns) = (config.labels.as_deref(), config.columns.as_deref());
    let files = Files::read(&config.records, labels, columns, file.spec.n_classes() as usize);
    // The records are this person's own: what does not fit is named.
    let own = files.and_then(|files| file.spec.dataset(&files, Misfit::Refuse)).map_err(|error| error.user_error())?;
    let mut entropy = SeededEntropy::new(options.seed);
    let (train, test) = match options.test_share {
        Some(share) => hold_out(&own, share, &mut entropy).map(|(train, test)| (train, Some(test)))?,
        None => (own, file.test_set),
    };
    if train.is_empty() {
        return Err(UserError::new("no records to train on", "check the records that client.toml names"));
    }
    let pool = Pool::new(config.threads)
        .map_err(|error| UserError::new(format!("cannot start threads: {error}"), "lower `threads` in client.toml"))?;
    let mut epochs = Vec::new();
    let parameters = fit(&network, &train, test.as_ref(), options, &pool, &mut entropy, |epoch| {
        if !options.json {
            println!("{}", line(&epoch, options.epochs));
        }
        epochs.push(epoch);
    })
    .map_err(|error| error.user_error())?;
    if let Some(output) = &options.output {
        write(output, &network, &parameters)?;
    }
    if options.json {
        println!("{}", report(&network, &train, test.as_ref(), &epochs));
    } else {
        println!(
            "this is what the party gets by itself, from {} records of its own, in an ordinary training that promises no \
             privacy to whoever is in them",
            train.len()
        );
        if let Some(output) = &options.output {
            println!("wrote the weights to {}", output.display());
        }
    }
    Ok(())
}

/// Trains `network` from fresh parameters on `train`, as Keras' `fit` with Adam does; `each` hears of every epoch. The same
/// `entropy` gives the same parameters bit for bit, on any number of threads.
///
/// # Errors
/// If the data does not fit the model, the learning rate is none, or training leads nowhere finite.
pub fn fit(
    network: &Network,
    train: &Dataset,
    test: Option<&Dataset>,
    options: &Options,
    pool: &Pool,
    entropy: &mut SeededEntropy,
    mut each: impl FnMut(Epoch),
) -> Result<Vec<f32>, LocalError> {
    let mut training =
        Training::new(network, &network.initialise(entropy), OptimizerSpec::adam(options.learning_rate))?;
    let mut workspace = network.workspace();
    for number in 1..=options.epochs {
        let order = shuffled(train.len(), entropy);
        // Drawn here, so that no thread's pace decides which record gets which key.
        let mut key = || network.has_dropout().then(|| u64::from_le_bytes(entropy.bytes()));
        let keys: Vec<_> = order.iter().map(|_| key()).collect();
        let loss = pool.run(|| {
            let mut loss = 0.0;
            for (order, keys) in order.chunks(options.batch as usize).zip(keys.chunks(options.batch as usize)) {
                let example = |(&record, &dropout_key): (&usize, &_)| {
                    (Record { values: train.record(record), dropout_key }, Target::Class(train.label(record)))
                };
                let batch: Vec<_> = order.iter().zip(keys).map(example).collect();
                loss += training.step(&batch, Weight::Equal(1.0 / batch.len() as f32))?;
            }
            Ok::<_, TrainingError>(loss)
        })?;
        let evaluate = |test| network.evaluate(training.weights(), test, &mut workspace);
        each(Epoch { number, loss: loss / train.len() as f64, test: test.map(evaluate).transpose()? });
    }
    let parameters = training.parameters();
    match parameters.iter().all(|value| value.is_finite()) {
        true => Ok(parameters),
        false => Err(LocalError::NotFinite),
    }
}

/// Why training came to no model.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// The data does not fit the model, the optimizer's constants make no sense, or a value on the way is not finite.
    #[error(transparent)]
    Training(#[from] TrainingError),
    /// The last parameters are not finite.
    #[error("training led to parameters that are not finite")]
    NotFinite,
}

impl From<NnError> for LocalError {
    fn from(error: NnError) -> Self {
        Self::Training(error.into())
    }
}

impl LocalError {
    /// The error as a person reads it.
    pub fn user_error(&self) -> UserError {
        let next = match self {
            Self::NotFinite | Self::Training(TrainingError::Model(NnError::NonFinite { .. })) => {
                "lower --learning-rate, or scale the records"
            }
            Self::Training(TrainingError::Model(_)) => "use a model that takes the records of the data file",
            Self::Training(TrainingError::Optimizer(_)) => "0.001 is a common --learning-rate for Adam",
        };
        UserError::new(self.to_string(), next)
    }
}

/// All but a share of the records, and that share, as `entropy` draws it.
fn hold_out(own: &Dataset, share: f64, entropy: &mut SeededEntropy) -> Result<(Dataset, Dataset), UserError> {
    let n_test = (share * own.len() as f64).round();
    if !(share > 0.0 && share < 1.0 && n_test >= 1.0 && n_test < own.len() as f64) {
        let what = format!("--test-share {share} of {} records", own.len());
        return Err(UserError::new(
            what,
            "give a share between 0 and 1 that leaves records on both sides, such as 0.2",
        ));
    }
    let order = shuffled(own.len(), entropy);
    let (test, train) = order.split_at(n_test as usize);
    Ok((own.subset(train), own.subset(test)))
}

fn write(output: &Path, network: &Network, parameters: &[f32]) -> Result<(), UserError> {
    let bytes = weights::save(network, parameters).map_err(|error| error.user_error(output))?;
    fs::write(output, bytes).map_err(|error| {
        UserError::new(format!("cannot write {}: {error}", output.display()), "choose another file for --output")
    })
}

/// One epoch on one line.
fn line(epoch: &Epoch, n_epochs: u32) -> String {
    let test = epoch.test.map_or(String::new(), |test| {
        format!("  test loss {:.4}  test accuracy {:5.1} %", test.loss, 100.0 * test.accuracy)
    });
    format!("epoch {:2}/{n_epochs}  loss {:.4}{test}", epoch.number, epoch.loss)
}

fn report(network: &Network, train: &Dataset, test: Option<&Dataset>, epochs: &[Epoch]) -> serde_json::Value {
    let epochs = epochs.iter().map(|epoch| {
        serde_json::json!({
            "epoch": epoch.number,
            "loss": epoch.loss,
            "test_loss": epoch.test.map(|test| test.loss),
            "test_accuracy": epoch.test.map(|test| test.accuracy),
        })
    });
    serde_json::json!({
        "parameters": network.n_parameters(),
        "records": train.len(),
        "test_records": test.map(Dataset::len),
        "epochs": epochs.collect::<Vec<_>>(),
        "promises_privacy": false,
    })
}

/// Most epochs that may be asked for.
const EPOCHS_MAX: i64 = 100_000;

#[cfg(test)]
mod tests {
    use eranos_base::Entropy;

    use super::*;

    /// 50 records, their class the place of the largest of their first three values.
    fn data() -> Dataset {
        let mut entropy = SeededEntropy::new(3);
        let values: Vec<f32> = (0..50 * 8).map(|_| f32::from(i16::from_le_bytes(entropy.bytes())) / 32768.0).collect();
        let largest = |record: &[f32]| (0..3).fold(0, |best, j| if record[j] > record[best] { j } else { best }) as u32;
        let labels = values.chunks_exact(8).map(largest).collect();
        Dataset::from_values(values, labels, &[8])
    }

    #[test]
    fn what_is_held_out_is_trained_on_by_nobody() {
        let own = data();
        let (train, test) = hold_out(&own, 0.2, &mut SeededEntropy::new(1)).unwrap();
        assert_eq!((train.len(), test.len()), (40, 10));
        let mut records: Vec<Vec<u32>> = [train, test]
            .iter()
            .flat_map(|part| {
                (0..part.len()).map(|i| part.record(i).iter().map(|x| x.to_bits()).collect()).collect::<Vec<_>>()
            })
            .collect();
        records.sort_unstable();
        records.dedup();
        assert_eq!(records.len(), 50, "every record is on one side");
        for share in [0.0, 1.0, -0.2, 0.001, 0.999, f64::NAN] {
            assert!(hold_out(&own, share, &mut SeededEntropy::new(1)).is_err(), "{share}");
        }
    }
}
