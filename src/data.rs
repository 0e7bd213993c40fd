//! `eranos data`: folders of data for a trial, and what a client sees in its data.

use std::{
    collections::BTreeMap,
    fs,
    io::Write,
    path::{Path, PathBuf},
};

use clap::Subcommand;
use eranos_base::{SeededEntropy, UserError};
use eranos_nn::data::{
    Format, Standardization, Table,
    idx::{self, IdxArray, IdxValues},
    split::{by_key, shuffled},
};
use flate2::{Compression, write::GzEncoder};

/// `eranos data`.
#[derive(Subcommand)]
pub(crate) enum Command {
    /// Split a public data set into one folder a client, so that a federation can be tried
    Split {
        /// The data set; only `mnist` so far (the sample in `samples/`, compiled into this program)
        #[arg(long)]
        dataset: String,
        /// How many clients
        #[arg(long, default_value_t = 4)]
        clients: u16,
        /// The folder to make: one folder `party-N` a client, and `test` for the coordinator
        #[arg(long)]
        out: PathBuf,
        /// The same seed gives the same split
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// Show what a client would see in its data, or why it would refuse it
    Check {
        /// Records in IDX, or a table (.csv or .tsv), gzipped or not
        records: PathBuf,
        /// The labels of records in IDX
        labels: Option<PathBuf>,
        /// Classes that the task knows, of records in IDX
        #[arg(long, default_value_t = 10)]
        classes: u8,
        /// The records in IDX are series, [steps, channels], not images
        #[arg(long)]
        series: bool,
        /// The names of a table's columns, with commas between them, if its first line does not name them
        #[arg(long, value_delimiter = ',')]
        columns: Vec<String>,
        /// The column of a table whose values are counted, as a label's
        #[arg(long)]
        label: Option<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

/// Runs `eranos data`.
pub(crate) fn run(command: Command) -> Result<(), UserError> {
    match command {
        Command::Split { dataset, clients, out, seed } => {
            if dataset != "mnist" {
                return Err(UserError::new(format!("unknown data set {dataset:?}"), "use --dataset mnist"));
            }
            let folders = split_mnist(clients, &out, seed)?;
            for folder in &folders.parties {
                println!("{}", folder.display());
            }
            println!("{}", folders.test.display());
            Ok(())
        }
        Command::Check { records, labels, classes, series, columns, label, json } => {
            let report = match labels {
                Some(labels) => check_idx(&records, &labels, classes, series)?,
                None => {
                    let format = Format::of(&records).map_err(|error| {
                        UserError::new(error.user_error().what, "name a table, or the labels after the records in IDX")
                    })?;
                    check_table(&records, format, &columns, label.as_deref())?
                }
            };
            println!("{}", if json { report.json.to_string() } else { report.lines.join("\n") });
            Ok(())
        }
    }
}

/// What a client sees in its data, for a person and for a program.
struct Report {
    lines: Vec<String>,
    json: serde_json::Value,
}

fn check_idx(records: &Path, labels: &Path, classes: u8, series: bool) -> Result<Report, UserError> {
    let read = if series { idx::read_records } else { idx::read_images };
    let set = read(records, labels, classes.into()).map_err(|error| error.user_error())?;
    let what = if series { "values" } else { "pixels" };
    let mut lines = vec![format!("{} records of {:?} {what}", set.len(), set.shape())];
    let mut n_records = vec![0usize; usize::from(classes)];
    for &label in set.labels() {
        n_records[label as usize] += 1;
    }
    lines.extend(n_records.iter().enumerate().map(|(class, n)| format!("class {class}: {n} records")));
    let mut json = serde_json::json!({ "records": set.len(), "shape": set.shape(), "classes": n_records });
    if series {
        let constants = Standardization::fit(&set).map_err(|error| error.user_error())?;
        for (channel, (mean, std)) in constants.mean().iter().zip(constants.std()).enumerate() {
            lines.push(format!("channel {channel}: mean {mean:.4}, standard deviation {std:.4}"));
        }
        json["mean"] = serde_json::json!(constants.mean());
        json["std"] = serde_json::json!(constants.std());
    }
    Ok(Report { lines, json })
}

fn check_table(path: &Path, format: Format, names: &[String], label: Option<&str>) -> Result<Report, UserError> {
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let names = (!names.is_empty()).then_some(&names[..]);
    let table = Table::read(path, format, names).map_err(|error| error.user_error())?;
    let mut lines = vec![format!("{} rows of {} columns", table.n_rows(), table.columns().len())];
    let mut columns = Vec::new();
    for name in table.columns() {
        let Ok(column) = table.column(name) else {
            lines.push(format!("column {name:?}: more than one has this name, none of them can be used"));
            columns.push(serde_json::json!({ "name": name }));
            continue;
        };
        let n_distinct = column.distinct().len();
        let n_empty = column.cells().filter(|cell| cell.is_empty()).count();
        let mut json = serde_json::json!({ "name": name, "distinct": n_distinct, "empty": n_empty });
        let kind = match column.numbers() {
            Ok(numbers) if !numbers.is_empty() => {
                let least = numbers.iter().copied().fold(f64::INFINITY, f64::min);
                let most = numbers.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                json["min"] = least.into();
                json["max"] = most.into();
                format!("numbers from {least} to {most}")
            }
            _ => {
                let longest = column.cells().map(|cell| cell.chars().count()).max().unwrap_or(0);
                json["characters"] = longest.into();
                format!("text of up to {longest} characters")
            }
        };
        lines.push(format!("column {name:?}: {kind}, {n_distinct} different values, {n_empty} empty"));
        columns.push(json);
    }
    let mut json = serde_json::json!({ "rows": table.n_rows(), "columns": columns });
    if let Some(label) = label {
        let cells: Vec<&str> = table.column(label).map_err(|error| error.user_error())?.cells().collect();
        let counts = by_key(&cells);
        for (value, rows) in counts.iter().take(LABELS_SHOWN_MAX) {
            lines.push(format!("label {value:?}: {} rows", rows.len()));
        }
        if counts.len() > LABELS_SHOWN_MAX {
            lines.push(format!("and {} labels more", counts.len() - LABELS_SHOWN_MAX));
        }
        let counts: BTreeMap<&str, usize> = counts.iter().map(|(value, rows)| (**value, rows.len())).collect();
        json["labels"] = serde_json::json!(counts);
    }
    Ok(Report { lines, json })
}

/// The folders of a split.
pub(crate) struct Folders {
    /// One a client.
    pub(crate) parties: Vec<PathBuf>,
    /// The coordinator's test set.
    pub(crate) test: PathBuf,
}

/// Splits the embedded MNIST sample into `n_clients` shards of (nearly) equal size, drawn at random by `seed`.
pub(crate) fn split_mnist(n_clients: u16, out: &Path, seed: u64) -> Result<Folders, UserError> {
    let embedded = |bytes: &[u8], name: &str| match idx::parse(bytes, Path::new(name)) {
        Ok(IdxArray { shape, values: IdxValues::U8(values) }) => Ok((shape, values)),
        Ok(_) => Err(UserError::new(format!("{name} holds no bytes"), "build this program from an unchanged checkout")),
        Err(error) => Err(error.user_error()),
    };
    let ((image_shape, pixels), (_, classes)) = (embedded(TRAIN_IMAGES, IMAGES)?, embedded(TRAIN_LABELS, LABELS)?);
    let n_records = classes.len();
    let image_len = pixels.len() / n_records.max(1);
    let n_clients = usize::from(n_clients);
    if n_clients == 0 || n_clients > n_records {
        let what = format!("{n_clients} clients for {n_records} records");
        return Err(UserError::new(what, "ask for at least 1 client and at most as many as there are records"));
    }
    let order = shuffled(n_records, &mut SeededEntropy::new(seed));
    let mut parties = Vec::with_capacity(n_clients);
    for party in 0..n_clients {
        let records: Vec<usize> = order.iter().copied().skip(party).step_by(n_clients).collect();
        let folder = out.join(format!("party-{}", party + 1));
        let images: Vec<u8> =
            records.iter().flat_map(|&r| pixels[r * image_len..][..image_len].iter().copied()).collect();
        let labels: Vec<u8> = records.iter().map(|&r| classes[r]).collect();
        let shape: Vec<usize> = [records.len()].into_iter().chain(image_shape[1..].iter().copied()).collect();
        write_idx(&folder.join(IMAGES), &shape, &images)?;
        write_idx(&folder.join(LABELS), &[records.len()], &labels)?;
        parties.push(folder);
    }
    let test = out.join("test");
    write(&test.join(IMAGES), TEST_IMAGES)?;
    write(&test.join(LABELS), TEST_LABELS)?;
    Ok(Folders { parties, test })
}

/// Writes unsigned bytes as gzipped IDX: magic 0, 0, 0x08, rank; sizes as big-endian `u32`; the bytes.
fn write_idx(path: &Path, shape: &[usize], bytes: &[u8]) -> Result<(), UserError> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    let mut header = vec![0, 0, 0x08, shape.len() as u8];
    for &size in shape {
        // IDX is big-endian by definition.
        #[expect(clippy::big_endian_bytes, reason = "the format's own order")]
        header.extend_from_slice(&(size as u32).to_be_bytes());
    }
    let encoded = encoder.write_all(&header).and_then(|()| encoder.write_all(bytes)).and_then(|()| encoder.finish());
    let encoded = encoded.map_err(|error| UserError::new(format!("cannot compress: {error}"), "free some memory"))?;
    write(path, &encoded)
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), UserError> {
    let made = path.parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| fs::write(path, bytes));
    made.map_err(|error| {
        UserError::new(format!("cannot write {}: {error}", path.display()), "choose a folder that can be written")
    })
}

/// Most values of a label that are printed for a person.
const LABELS_SHOWN_MAX: usize = 32;

/// The name of the images' file in a party's folder.
pub(crate) const IMAGES: &str = "images-idx3-ubyte.gz";
/// The name of the labels' file in a party's folder.
pub(crate) const LABELS: &str = "labels-idx1-ubyte.gz";

const TRAIN_IMAGES: &[u8] = include_bytes!("../samples/mnist-train-images-idx3-ubyte.gz");
const TRAIN_LABELS: &[u8] = include_bytes!("../samples/mnist-train-labels-idx1-ubyte.gz");
const TEST_IMAGES: &[u8] = include_bytes!("../samples/mnist-test-images-idx3-ubyte.gz");
const TEST_LABELS: &[u8] = include_bytes!("../samples/mnist-test-labels-idx1-ubyte.gz");
