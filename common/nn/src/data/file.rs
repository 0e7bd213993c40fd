//! The data file of a task, `data.toml`: what a record is, the same for every client, and a public test set. Vocabulary,
//! scaling constants and lists stand in it or in files beside it; they are fitted on public data. The coordinator trains
//! by it, and a client checks its own records against it.

use std::{
    fs,
    path::{Path, PathBuf},
};

use eranos_base::UserError;
use serde::Deserialize;

use super::{
    DataError, DataSpec, Dataset, Files, Misfit, Schema, Standardization,
    schema::{Input, Label},
    text::{FILTERS, Side, Tokenizer, TokenizerSettings},
};

/// What a task's records are, and what its model is tested on.
#[derive(Clone, Debug)]
pub struct DataFile {
    /// What a record is.
    pub spec: DataSpec,
    /// Public data, which costs no privacy.
    pub test_set: Option<Dataset>,
}

/// The TOML file. Paths are relative to it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Toml {
    version: u32,
    records: Records,
    test: Option<TestFiles>,
}

#[derive(Deserialize)]
#[serde(tag = "format", rename_all = "kebab-case", deny_unknown_fields)]
enum Records {
    Images { shape: [u32; 3], classes: u32 },
    Series { steps: u32, classes: u32, mean: Vec<f32>, std: Vec<f32> },
    Table { inputs: Vec<TableInput>, label: TableLabel },
}

#[derive(Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
enum TableInput {
    Numbers {
        columns: Vec<String>,
    },
    Integer {
        column: String,
        ids: u32,
    },
    Listed {
        column: String,
        /// A file with one value a line.
        values: PathBuf,
    },
    Text {
        column: String,
        /// A file with one word a line, the most frequent one first.
        vocabulary: PathBuf,
        length: usize,
        oov_token: Option<String>,
        #[serde(default)]
        padding: TextSide,
        #[serde(default)]
        truncating: TextSide,
    },
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum TextSide {
    #[default]
    Pre,
    Post,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TableLabel {
    column: String,
    classes: Option<u32>,
    values: Option<Vec<String>>,
    at_least: Option<f64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TestFiles {
    records: PathBuf,
    labels: Option<PathBuf>,
    columns: Option<Vec<String>>,
}

impl DataFile {
    /// Reads a data file and what it names.
    ///
    /// # Errors
    /// If a file is missing or malformed, or the test set does not hold such records.
    pub fn read(path: &Path) -> Result<Self, UserError> {
        let next = "take the task's data.toml; `eranos coordinator init` and `eranos data split` write one";
        let text = fs::read_to_string(path)
            .map_err(|error| UserError::new(format!("cannot read the data file {}: {error}", path.display()), next))?;
        let start = |error: &toml::de::Error| error.span().map(|span| span.start);
        let file: Toml = toml::from_str(&text)
            .map_err(|error| UserError::in_text(path, &text, start(&error), error.message(), next))?;
        if file.version != 1 {
            let what = format!("{}: version = {}", path.display(), file.version);
            return Err(UserError::new(what, "this build reads version 1"));
        }
        let base = path.parent().unwrap_or(Path::new("."));
        let within = |error: DataError| {
            let UserError { what, next } = error.user_error();
            UserError::new(format!("{}: {what}", path.display()), next)
        };
        let spec = file.records.spec(base, &within)?;
        // What cannot travel is refused here, not by the clients.
        let spec = DataSpec::from_canonical(&spec.to_canonical()).map_err(within)?;
        let test_set = match &file.test {
            Some(test) => {
                let labels = test.labels.as_ref().map(|labels| base.join(labels));
                let n_classes = spec.n_classes() as usize;
                let files =
                    Files::read(&base.join(&test.records), labels.as_deref(), test.columns.as_deref(), n_classes)
                        .map_err(|error| error.user_error())?;
                Some(spec.dataset(&files, Misfit::Refuse).map_err(|error| error.user_error())?)
            }
            None => None,
        };
        Ok(Self { spec, test_set })
    }
}

impl Records {
    fn spec(self, base: &Path, within: &dyn Fn(DataError) -> UserError) -> Result<DataSpec, UserError> {
        Ok(match self {
            Self::Images { shape, classes } => DataSpec::Images { shape, n_classes: classes },
            Self::Series { steps, classes, mean, std } => {
                let standardization = Standardization::new(mean, std).map_err(within)?;
                DataSpec::Series { steps, standardization, n_classes: classes }
            }
            Self::Table { inputs, label } => {
                let inputs: Result<Vec<Input>, UserError> =
                    inputs.into_iter().map(|input| input.input(base, within)).collect();
                let label = label.label().ok_or_else(|| {
                    let problem = "a label without exactly one of classes, values and at_least".to_owned();
                    within(DataError::Schema { problem })
                })?;
                DataSpec::Table(Schema::new(inputs?, label).map_err(within)?)
            }
        })
    }
}

impl TableInput {
    fn input(self, base: &Path, within: &dyn Fn(DataError) -> UserError) -> Result<Input, UserError> {
        Ok(match self {
            Self::Numbers { columns } => Input::Numbers { columns },
            Self::Integer { column, ids } => Input::Integer { column, n_ids: ids },
            Self::Listed { column, values } => Input::Listed { column, values: read_lines(&base.join(values))? },
            Self::Text { column, vocabulary, length, oov_token, padding, truncating } => {
                let settings = TokenizerSettings { oov_token, filters: FILTERS.to_owned(), ..Default::default() };
                let tokenizer = Tokenizer::new(settings, read_lines(&base.join(vocabulary))?).map_err(within)?;
                let (padding, truncating) = (padding.into(), truncating.into());
                Input::Text { column, tokenizer, maxlen: length, padding, truncating }
            }
        })
    }
}

impl TableLabel {
    fn label(self) -> Option<Label> {
        let column = self.column;
        match (self.classes, self.values, self.at_least) {
            (Some(n_classes), None, None) => Some(Label::Integer { column, n_classes }),
            (None, Some(values), None) => Some(Label::Listed { column, values }),
            (None, None, Some(threshold)) => Some(Label::AtLeast { column, threshold }),
            _ => None,
        }
    }
}

impl From<TextSide> for Side {
    fn from(side: TextSide) -> Self {
        match side {
            TextSide::Pre => Self::Pre,
            TextSide::Post => Self::Post,
        }
    }
}

fn read_lines(path: &Path) -> Result<Vec<String>, UserError> {
    let text = fs::read_to_string(path).map_err(|error| {
        UserError::new(format!("cannot read {}: {error}", path.display()), "write it as text, one value a line")
    })?;
    Ok(text.lines().map(str::to_owned).collect())
}
