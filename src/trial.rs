//! Trials: the samples of the repository, compiled in, each split into folders of parties and a folder of public data
//! that says what a record is and what the model is tested on. What is fitted (scaling, vocabulary) is fitted on records
//! that are set aside as public and go to no party.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
};

use eranos_base::{SeededEntropy, UserError};
use eranos_nn::{
    DataError, Dataset,
    data::{
        Format, Standardization, Table,
        idx::{self, IdxArray, IdxValues},
        split::{Split, group, shuffled},
        text::{Tokenizer, TokenizerSettings},
    },
};
use flate2::{Compression, write::GzEncoder};

/// A sample, and the model that is trained on it.
pub(crate) struct Trial {
    /// What `--dataset` calls it.
    pub(crate) dataset: &'static str,
    /// The built-in model.
    pub(crate) model: &'static str,
    /// What a record is, for a person: one, and many.
    pub(crate) record: [&'static str; 2],
    /// What the model is tested on, for a person.
    pub(crate) tested_on: &'static str,
    /// What is told of the test beside accuracy.
    pub(crate) figure: Option<Figure>,
    /// The file of records in a party's folder.
    pub(crate) records: &'static str,
    /// The file of labels, for IDX.
    pub(crate) labels: Option<&'static str>,
    /// The columns of a table whose first line does not name them.
    pub(crate) columns: &'static [&'static str],
    /// How many classes there are.
    pub(crate) classes: u32,
    /// About how many records all parties hold together: a public figure, from which the constants of a task follow.
    pub(crate) n_records: u32,
    /// By how much the largest party's share may exceed the mean, in percent: parties are natural clients.
    pub(crate) uneven_percent: u32,
    /// The most parties that the sample can be split into.
    pub(crate) clients_max: u16,
    split: fn(&Trial, usize, u64) -> Result<Shares, DataError>,
}

/// A figure that says more than accuracy where classes are uneven, or answers are ranked.
#[derive(Clone, Copy)]
pub(crate) enum Figure {
    /// The recall of a class.
    Recall {
        /// Its number.
        class: u32,
        /// Its name.
        of: &'static str,
    },
    /// The area under the ROC curve.
    Auc,
}

/// The folders of a split.
pub(crate) struct Folders {
    /// One a party.
    pub(crate) parties: Vec<PathBuf>,
    /// The file that says what a record is, in the folder of public data.
    pub(crate) data: PathBuf,
    /// How many records the parties hold together.
    pub(crate) n_private: usize,
    /// How many records the model is tested on.
    pub(crate) n_test: usize,
}

/// What a split writes: files of each party, and public ones, by name.
#[derive(Default)]
struct Shares {
    parties: Vec<Vec<(&'static str, Vec<u8>)>>,
    public: Vec<(&'static str, Vec<u8>)>,
    n_private: usize,
    n_test: usize,
}

/// The four trials.
pub(crate) const TRIALS: [Trial; 4] = [
    Trial {
        dataset: "mnist",
        model: "cnn",
        record: ["image", "images"],
        tested_on: "unseen digits",
        figure: None,
        records: IMAGES,
        labels: Some(LABELS),
        columns: &[],
        classes: 10,
        n_records: 6000,
        uneven_percent: 0,
        clients_max: 1000,
        split: split_mnist,
    },
    Trial {
        dataset: "watch",
        model: "lstm",
        record: ["window", "windows"],
        tested_on: "windows of two people who took no part",
        figure: None,
        records: "windows-idx3-ubyte.gz",
        labels: Some(LABELS),
        columns: &[],
        classes: 7,
        n_records: 812,
        uneven_percent: 60,
        clients_max: 8,
        split: split_watch,
    },
    Trial {
        dataset: "sms-spam",
        model: "nlp",
        record: ["message", "messages"],
        tested_on: "unseen messages",
        figure: Some(Figure::Recall { class: 1, of: "spam" }),
        records: "messages.tsv.gz",
        labels: None,
        columns: &["label", "text"],
        classes: 2,
        n_records: 4014,
        uneven_percent: 0,
        clients_max: 1000,
        split: split_messages,
    },
    Trial {
        dataset: "movielens",
        model: "recommender",
        record: ["rating", "ratings"],
        tested_on: "later ratings of the same people",
        figure: Some(Figure::Auc),
        records: "ratings.csv.gz",
        labels: None,
        columns: &[],
        classes: 2,
        n_records: 35_000,
        uneven_percent: 40,
        clients_max: 500,
        split: split_ratings,
    },
];

impl Trial {
    /// The trial of a data set.
    ///
    /// # Errors
    /// If there is none.
    pub(crate) fn of_dataset(name: &str) -> Result<&'static Self, UserError> {
        let names = TRIALS.map(|trial| trial.dataset).join(", ");
        let found = TRIALS.iter().find(|trial| trial.dataset == name);
        found.ok_or_else(|| UserError::new(format!("unknown data set {name:?}"), format!("use one of {names}")))
    }

    /// The trial of a model.
    ///
    /// # Errors
    /// If there is none.
    pub(crate) fn of_model(name: &str) -> Result<&'static Self, UserError> {
        let names = TRIALS.map(|trial| trial.model).join(", ");
        let found = TRIALS.iter().find(|trial| trial.model == name);
        found.ok_or_else(|| UserError::new(format!("unknown model {name:?}"), format!("use --model {names}")))
    }

    /// The most records that one of `n_clients` parties may hold: a public constant.
    pub(crate) fn records_max(&self, n_clients: u16) -> u32 {
        (self.n_records * (100 + self.uneven_percent)).div_ceil(100 * u32::from(n_clients.max(1)))
    }

    /// Splits the sample over `n_clients` folders `party-N` below `out`, as `seed` draws it, and a folder `test` of public
    /// data. The same seed gives the same split.
    ///
    /// # Errors
    /// If the sample cannot be split so often, or the folders cannot be written.
    pub(crate) fn split(&self, n_clients: u16, out: &Path, seed: u64) -> Result<Folders, UserError> {
        if n_clients == 0 || n_clients > self.clients_max {
            let what = format!("{n_clients} parties for the data set {}", self.dataset);
            return Err(UserError::new(what, format!("ask for 1 to {}", self.clients_max)));
        }
        let shares = (self.split)(self, n_clients.into(), seed).map_err(|error| error.user_error())?;
        let mut parties = Vec::with_capacity(shares.parties.len());
        for (number, files) in (1..).zip(&shares.parties) {
            let folder = out.join(format!("party-{number}"));
            write_files(&folder, files)?;
            parties.push(folder);
        }
        write_files(&out.join("test"), &shares.public)?;
        let (data, n_private, n_test) = (out.join("test").join(DATA), shares.n_private, shares.n_test);
        Ok(Folders { parties, data, n_private, n_test })
    }
}

/// Digits, dealt out at random.
fn split_mnist(trial: &Trial, n_clients: usize, seed: u64) -> Result<Shares, DataError> {
    let (images, classes) = (Bytes::parse(TRAIN_IMAGES)?, Bytes::parse(TRAIN_LABELS)?);
    let n_records = classes.values.len();
    let order = shuffled(n_records, &mut SeededEntropy::new(seed));
    let deal = |party| order.iter().copied().skip(party).step_by(n_clients).collect::<Vec<_>>();
    let parties = (0..n_clients).map(deal).map(|records| idx_files(trial, &images, &classes, &records)).collect();
    let data = format!(
        "{DATA_HEAD}format = \"images\"\nshape = [28, 28, 1]\nclasses = 10\n\n\
         [test]\nrecords = \"{IMAGES}\"\nlabels = \"{LABELS}\"\n"
    );
    let public = vec![(DATA, data.into_bytes()), (IMAGES, TEST_IMAGES.to_vec()), (LABELS, TEST_LABELS.to_vec())];
    Ok(Shares { parties, public, n_private: n_records, n_test: Bytes::parse(TEST_LABELS)?.values.len() })
}

/// Movements of the arm: each person is a party, or a part of one; two people take no part.
fn split_watch(trial: &Trial, n_clients: usize, seed: u64) -> Result<Shares, DataError> {
    let (windows, classes) = (Bytes::parse(WATCH_WINDOWS)?, Bytes::parse(WATCH_LABELS)?);
    let people = Bytes::parse(WATCH_SUBJECTS)?.values;
    let Split { train, test } = Split::hold_out(&people, &[9, 10]);
    let (private, public) = set_aside(&train);
    let owners: Vec<u8> = private.iter().map(|&record| people[record]).collect();
    let groups = group(&owners, n_clients, seed);
    let of = |group: Vec<usize>| group.into_iter().map(|i| private[i]).collect::<Vec<_>>();
    let parties = groups.into_iter().map(of).map(|records| idx_files(trial, &windows, &classes, &records)).collect();
    let (steps, channels) = (windows.shape[1], windows.shape[2]);
    let values: Vec<f32> = public.iter().flat_map(|&r| windows.record(r)).map(|&x| f32::from(x)).collect();
    let fitted = Dataset::from_values(values, vec![0; public.len()], &[steps, channels]);
    let constants = Standardization::fit(&fitted)?;
    let data = format!(
        "{DATA_HEAD}# Fitted on {} windows that are set aside as public.\n\
         format = \"series\"\nsteps = {steps}\nclasses = 7\nmean = {:?}\nstd = {:?}\n\n\
         [test]\nrecords = \"{}\"\nlabels = \"{LABELS}\"\n",
        public.len(),
        constants.mean(),
        constants.std(),
        trial.records,
    );
    let mut public = idx_files(trial, &windows, &classes, &test);
    public.push((DATA, data.into_bytes()));
    Ok(Shares { parties, public, n_private: private.len(), n_test: test.len() })
}

/// Messages, dealt out at random.
fn split_messages(trial: &Trial, n_clients: usize, seed: u64) -> Result<Shares, DataError> {
    let table = Table::parse(MESSAGES, Path::new("sms-spam.tsv"), Format::Tsv, Some(trial.columns))?;
    let Split { train, test } = Split::every_nth(table.n_rows(), 5);
    let (private, public) = set_aside(&train);
    let lines = |records: &[usize]| -> Vec<u8> {
        let line = |&record: &usize| table.row(record).collect::<Vec<_>>().join("\t") + "\n";
        gzip(records.iter().map(line).collect::<String>().as_bytes())
    };
    let order = shuffled(private.len(), &mut SeededEntropy::new(seed));
    let deal = |party| order.iter().skip(party).step_by(n_clients).map(|&i| private[i]).collect::<Vec<_>>();
    let parties = (0..n_clients).map(deal).map(|records| vec![(trial.records, lines(&records))]).collect();
    let texts = public.iter().filter_map(|&record| table.row(record).nth(1));
    let settings = TokenizerSettings {
        num_words: std::num::NonZeroU32::new(WORDS),
        oov_token: Some(OOV_TOKEN.to_owned()),
        ..TokenizerSettings::default()
    };
    let tokenizer = Tokenizer::fit(settings, texts)?.without_unused_words();
    let data = format!(
        "{DATA_HEAD}# The vocabulary is that of {} messages that are set aside as public.\n\
         format = \"table\"\n\
         inputs = [{{ kind = \"text\", column = \"text\", vocabulary = \"{VOCABULARY}\", oov_token = {OOV_TOKEN:?}, length = {TEXT_LEN} }}]\n\
         label = {{ column = \"label\", values = [\"ham\", \"spam\"] }}\n\n\
         [test]\nrecords = \"{}\"\ncolumns = [\"label\", \"text\"]\n",
        public.len(),
        trial.records,
    );
    let vocabulary = tokenizer.words().join("\n") + "\n";
    let public = vec![(DATA, data.into_bytes()), (VOCABULARY, vocabulary.into_bytes()), (trial.records, lines(&test))];
    Ok(Shares { parties, public, n_private: private.len(), n_test: test.len() })
}

/// Ratings: people are dealt out to parties; the last fifth of each one's ratings is what the model is tested on.
fn split_ratings(trial: &Trial, n_clients: usize, seed: u64) -> Result<Shares, DataError> {
    let table = Table::parse(RATINGS, Path::new("movielens-sample.csv"), Format::Csv, None)?;
    let users: Vec<&str> = table.column("user")?.cells().collect();
    let Split { train, test } = Split::last_of_each(&users, 5);
    let rows = |records: &[usize]| -> Vec<u8> {
        let line = |&record: &usize| table.row(record).collect::<Vec<_>>().join(",") + "\n";
        gzip((table.columns().join(",") + "\n" + &records.iter().map(line).collect::<String>()).as_bytes())
    };
    let owners: Vec<&str> = train.iter().map(|&record| users[record]).collect();
    let groups = group(&owners, n_clients, seed);
    let of = |group: Vec<usize>| group.into_iter().map(|i| train[i]).collect::<Vec<_>>();
    let parties = groups.into_iter().map(of).map(|records| vec![(trial.records, rows(&records))]).collect();
    let list = |column: &str| -> Result<Vec<u8>, DataError> {
        Ok((table.column(column)?.distinct().join("\n") + "\n").into_bytes())
    };
    let data = format!(
        "{DATA_HEAD}format = \"table\"\n\
         inputs = [\n\
         \x20   {{ kind = \"listed\", column = \"user\", values = \"users.txt\" }},\n\
         \x20   {{ kind = \"listed\", column = \"item\", values = \"items.txt\" }},\n\
         ]\n\
         label = {{ column = \"rating\", at_least = 4.0 }}\n\n\
         [test]\nrecords = \"{}\"\n",
        trial.records,
    );
    let public = vec![
        (DATA, data.into_bytes()),
        ("users.txt", list("user")?),
        ("items.txt", list("item")?),
        (trial.records, rows(&test)),
    ];
    Ok(Shares { parties, public, n_private: train.len(), n_test: test.len() })
}

/// What stays private of these records, and every tenth, which is public.
fn set_aside(records: &[usize]) -> (Vec<usize>, Vec<usize>) {
    let Split { train, test } = Split::every_nth(records.len(), 10);
    let of = |places: Vec<usize>| places.into_iter().map(|place| records[place]).collect();
    (of(train), of(test))
}

/// An IDX file of unsigned bytes that is compiled in.
struct Bytes {
    shape: Vec<usize>,
    values: Vec<u8>,
}

impl Bytes {
    fn parse(file: &[u8]) -> Result<Self, DataError> {
        let path = Path::new("a sample");
        match idx::parse(file, path)? {
            IdxArray { shape, values: IdxValues::U8(values) } => Ok(Self { shape, values }),
            IdxArray { .. } => Err(DataError::Type { path: path.to_owned(), found: 0x0b, expected: "0x08" }),
        }
    }

    fn record(&self, record: usize) -> &[u8] {
        let len = self.shape[1..].iter().product::<usize>();
        &self.values[record * len..][..len]
    }

    /// The file of these records alone.
    fn subset(&self, records: &[usize]) -> Vec<u8> {
        let mut file = vec![0, 0, 0x08, self.shape.len() as u8];
        for &size in [records.len()].iter().chain(&self.shape[1..]) {
            // IDX is big-endian by definition.
            #[expect(clippy::big_endian_bytes, reason = "the format's own order")]
            file.extend_from_slice(&(size as u32).to_be_bytes());
        }
        records.iter().for_each(|&record| file.extend_from_slice(self.record(record)));
        gzip(&file)
    }
}

fn idx_files(trial: &Trial, values: &Bytes, classes: &Bytes, records: &[usize]) -> Vec<(&'static str, Vec<u8>)> {
    vec![(trial.records, values.subset(records)), (LABELS, classes.subset(records))]
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    // A vector takes whatever is written to it.
    let written = encoder.write_all(bytes).and_then(|()| encoder.finish());
    written.unwrap_or_else(|error| unreachable!("memory refuses to be written: {error}"))
}

fn write_files(folder: &Path, files: &[(&'static str, Vec<u8>)]) -> Result<(), UserError> {
    let cannot = |path: &Path, error: std::io::Error| {
        UserError::new(format!("cannot write {}: {error}", path.display()), "choose a folder that can be written")
    };
    fs::create_dir_all(folder).map_err(|error| cannot(folder, error))?;
    for (name, bytes) in files {
        let path = folder.join(name);
        fs::write(&path, bytes).map_err(|error| cannot(&path, error))?;
    }
    Ok(())
}

const DATA: &str = "data.toml";
const DATA_HEAD: &str = "\
# What a record is, the same for every client, and the operator's own, public test set. Paths are relative to this file.
version = 1

[records]
";
const IMAGES: &str = "images-idx3-ubyte.gz";
const LABELS: &str = "labels-idx1-ubyte.gz";
const VOCABULARY: &str = "vocabulary.txt";
/// Stands for every word that is not in the vocabulary.
const OOV_TOKEN: &str = "<OOV>";
/// Numbers of words: the most frequent ones get one.
const WORDS: u32 = 2000;
/// Words of a message that the model sees.
const TEXT_LEN: usize = 40;

const TRAIN_IMAGES: &[u8] = include_bytes!("../samples/mnist-train-images-idx3-ubyte.gz");
const TRAIN_LABELS: &[u8] = include_bytes!("../samples/mnist-train-labels-idx1-ubyte.gz");
const TEST_IMAGES: &[u8] = include_bytes!("../samples/mnist-test-images-idx3-ubyte.gz");
const TEST_LABELS: &[u8] = include_bytes!("../samples/mnist-test-labels-idx1-ubyte.gz");
const WATCH_WINDOWS: &[u8] = include_bytes!("../samples/watch-windows-idx3-ubyte.gz");
const WATCH_LABELS: &[u8] = include_bytes!("../samples/watch-labels-idx1-ubyte.gz");
const WATCH_SUBJECTS: &[u8] = include_bytes!("../samples/watch-subjects-idx1-ubyte.gz");
const MESSAGES: &[u8] = include_bytes!("../samples/sms-spam.tsv.gz");
const RATINGS: &[u8] = include_bytes!("../samples/movielens-sample.csv.gz");
