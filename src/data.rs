//! `eranos data`: folders of data for a trial, and what a client sees in its data.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use clap::Subcommand;
use eranos_base::{UserError, println};
use eranos_nn::{
    DataError, DataFile, Dataset,
    data::{Files, Format, Misfit, Standardization, Table, idx, split::by_key},
};

use crate::trial::Trial;

/// `eranos data`.
#[derive(Subcommand)]
pub(crate) enum Command {
    /// Split a public data set into one folder a client, so that a federation can be tried
    Split {
        /// The data set: mnist, watch, sms-spam or movielens (the samples in `samples/`, compiled into this program)
        #[arg(long)]
        dataset: String,
        /// How many clients
        #[arg(long, default_value_t = 4)]
        clients: u16,
        /// The folder to make: one folder `party-N` a client, and `test` for the coordinator, with a data.toml
        #[arg(long)]
        out: PathBuf,
        /// The same seed gives the same split
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// Show what a client would see in its data, or why it would refuse it; with --data, hold it against a task's records
    Check {
        /// The task's data file: every record must be what it says
        #[arg(long, value_name = "FILE", conflicts_with_all = ["classes", "series", "label"])]
        data: Option<PathBuf>,
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
            let folders = Trial::of_dataset(&dataset)?.split(clients, &out, seed)?;
            for folder in &folders.parties {
                println!("{}", folder.display());
            }
            println!("{}", folders.data.display());
            Ok(())
        }
        Command::Check { data, records, labels, classes, series, columns, label, json } => {
            let report = match (data, labels) {
                (Some(data), labels) => check_against(&data, &records, labels.as_deref(), &columns)?,
                (None, Some(labels)) => check_idx(&records, &labels, classes, series)?,
                (None, None) => check_table(&records, &columns, label.as_deref())?,
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

/// Holds a client's files against what a task says a record is: nothing is passed over.
fn check_against(data: &Path, records: &Path, labels: Option<&Path>, columns: &[String]) -> Result<Report, UserError> {
    let spec = DataFile::read(data)?.spec;
    let columns = (!columns.is_empty()).then_some(columns);
    let files = Files::read(records, labels, columns, spec.n_classes() as usize).map_err(|error| unread(&error))?;
    spec.check(&files.form()).map_err(|error| {
        let what = format!("{} is not what {} describes: {error}", records.display(), data.display());
        UserError::new(
            what,
            "give the files that belong to this task; --columns names the columns of a table without names",
        )
    })?;
    let set = spec.dataset(&files, Misfit::Refuse).map_err(|error| error.user_error())?;
    let first = format!("{} records, each one as {} describes it", set.len(), data.display());
    Ok(report(first, &set, spec.n_classes() as usize))
}

/// How many records there are, in all and of each class.
fn report(first: String, set: &Dataset, n_classes: usize) -> Report {
    let mut n_records = vec![0usize; n_classes];
    for &label in set.labels() {
        n_records[label as usize] += 1;
    }
    let mut lines = vec![first];
    lines.extend(n_records.iter().enumerate().map(|(class, n)| format!("class {class}: {n} records")));
    let json = serde_json::json!({ "records": set.len(), "shape": set.shape(), "classes": n_records });
    Report { lines, json }
}

fn unread(error: &DataError) -> UserError {
    let UserError { what, next } = error.user_error();
    match error {
        DataError::Format { .. } => UserError::new(what, "name a table, or the labels after the records in IDX"),
        _ => UserError::new(what, next),
    }
}

fn check_idx(records: &Path, labels: &Path, classes: u8, series: bool) -> Result<Report, UserError> {
    let read = if series { idx::read_records } else { idx::read_images };
    let set = read(records, labels, classes.into()).map_err(|error| error.user_error())?;
    let what = if series { "values" } else { "pixels" };
    let first = format!("{} records of {:?} {what}", set.len(), set.shape());
    let mut report = report(first, &set, classes.into());
    if series {
        let constants = Standardization::fit(&set).map_err(|error| error.user_error())?;
        for (channel, (mean, std)) in constants.mean().iter().zip(constants.std()).enumerate() {
            report.lines.push(format!("channel {channel}: mean {mean:.4}, standard deviation {std:.4}"));
        }
        report.json["mean"] = serde_json::json!(constants.mean());
        report.json["std"] = serde_json::json!(constants.std());
    }
    Ok(report)
}

fn check_table(path: &Path, names: &[String], label: Option<&str>) -> Result<Report, UserError> {
    let format = Format::of(path).map_err(|error| unread(&error))?;
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

/// Most values of a label that are printed for a person.
const LABELS_SHOWN_MAX: usize = 32;
