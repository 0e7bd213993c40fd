//! How records come in: from IDX files ([`idx`]) or tables ([`table`]) into a [`Dataset`].
//!
//! A [`Schema`] says which columns of a table go in as what, with [`text`] as numbers of words; a [`Standardization`]
//! scales channels; [`split`] tells which records belong to whom. A [`DataFile`] is what a person writes of it. Whatever comes from a file has a named bound, and every
//! fault an error that names the file and, in a table, the line.

pub mod file;
pub mod idx;
mod input;
pub mod schema;
pub mod spec;
pub mod split;
pub mod standardization;
pub mod table;
pub mod text;

use std::{io, path::PathBuf};

use ndarray::{Array2, ArrayView2, Axis};

pub use file::DataFile;
pub use schema::{Misfit, Schema};
pub use spec::{DataSpec, Files, Form};
pub use standardization::Standardization;
pub use table::{Format, Table};

/// Most records of one data set.
pub const RECORDS_MAX: usize = 1 << 24;
/// Most values of one data set. They are held in memory, as `f32`.
pub const VALUES_MAX: u64 = 1 << 30;

/// Why data could not be read.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// The file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The file is not IDX.
    #[error("{} is not an IDX file: its first bytes are {found}, expected 00 00 08 or 00 00 0b and 01 to 04", path.display())]
    Magic {
        /// The file.
        path: PathBuf,
        /// Its first bytes, in hexadecimal.
        found: String,
    },
    /// IDX, but of values of another type than its use calls for.
    #[error("{} holds IDX values of type 0x{found:02x}, supported is {expected}", path.display())]
    Type {
        /// The file.
        path: PathBuf,
        /// The type's code.
        found: u8,
        /// The types called for.
        expected: &'static str,
    },
    /// The file ends early, or compressed data is damaged.
    #[error("{} is cut off or damaged: {found} of {expected} bytes", path.display())]
    Truncated {
        /// The file.
        path: PathBuf,
        /// How many bytes there are.
        found: u64,
        /// How many the header claims.
        expected: u64,
    },
    /// Bytes remain after the last value.
    #[error("{} goes on after the {expected} bytes that its header claims", path.display())]
    Trailing {
        /// The file.
        path: PathBuf,
        /// How many bytes the header claims.
        expected: u64,
    },
    /// Something exceeds its named limit.
    #[error("{} has {what} of {found}, limit {max}", path.display())]
    Limit {
        /// The file.
        path: PathBuf,
        /// What is too large.
        what: &'static str,
        /// Its size.
        found: u64,
        /// The limit.
        max: u64,
    },
    /// A number of axes that its use does not allow.
    #[error("{} has {found} axes, expected {expected}", path.display())]
    Axes {
        /// The file.
        path: PathBuf,
        /// How many there are.
        found: usize,
        /// How many are called for.
        expected: &'static str,
    },
    /// Records and labels are not equally many.
    #[error("{} has {n_records} records, but {} has {n_labels} labels", records.display(), labels.display())]
    Counts {
        /// The file of records.
        records: PathBuf,
        /// The file of labels.
        labels: PathBuf,
        /// How many records.
        n_records: usize,
        /// How many labels.
        n_labels: usize,
    },
    /// A label that is no class.
    #[error("{} has the label {found} at record {record}, expected 0 to {max}", path.display(), max = n_classes - 1)]
    Label {
        /// The file.
        path: PathBuf,
        /// Which record.
        record: usize,
        /// The label.
        found: u32,
        /// How many classes there are.
        n_classes: usize,
    },
    /// A name that tells no format of tables.
    #[error("{} is neither .csv nor .tsv", path.display())]
    Format {
        /// The file.
        path: PathBuf,
    },
    /// A line of a table that is wrong.
    #[error("{}, line {line}: {problem}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: u32,
        /// What is wrong with it.
        problem: table::LineProblem,
    },
    /// A column that is not there, or not once.
    #[error("{} has {problem} {name:?}", path.display())]
    Column {
        /// The file.
        path: PathBuf,
        /// The column asked for.
        name: String,
        /// What is wrong: a fragment before the name.
        problem: &'static str,
        /// The columns that are there.
        there: String,
    },
    /// Another number of channels than there should be.
    #[error("{found} channels, expected {expected}")]
    Channels {
        /// How many there are.
        found: usize,
        /// How many there should be.
        expected: usize,
    },
    /// A channel that cannot be standardised.
    #[error("channel {channel} has {problem}")]
    Channel {
        /// Which, counted from 0.
        channel: usize,
        /// What is wrong with it: a fragment after "has".
        problem: &'static str,
    },
    /// A schema that is none.
    #[error("the schema has {problem}")]
    Schema {
        /// What is wrong with it: a fragment after "has".
        problem: String,
    },
    /// A vocabulary that is none.
    #[error("the vocabulary has {problem}")]
    Vocabulary {
        /// What is wrong with it: a fragment after "has".
        problem: String,
    },
    /// Sequences that would be too many values at one length.
    #[error("{n_sequences} sequences of length {maxlen} are more than {VALUES_MAX} values")]
    Padding {
        /// How many sequences.
        n_sequences: usize,
        /// The length they would get.
        maxlen: usize,
    },
}

impl DataError {
    /// The error as a person reads it.
    pub fn user_error(&self) -> eranos_base::UserError {
        let next = match self {
            Self::Line { problem, .. } => problem.next(),
            Self::Column { there, .. } => {
                return eranos_base::UserError::new(self.to_string(), format!("name one of its columns: {there}"));
            }
            Self::Channels { .. } => "use the constants that were made for this data, one mean and deviation a channel",
            Self::Channel { .. } => "leave the channel out, or give its mean and standard deviation by hand",
            Self::Schema { .. } => "correct the schema",
            Self::Vocabulary { .. } => "choose another oov_token, or fit the tokenizer on fewer texts",
            Self::Padding { .. } => "choose a smaller maxlen",
            Self::Format { .. } => "name the file for what it holds: .csv or .tsv, with or without .gz",
            Self::Read { .. } => "check the path and that the file may be read",
            Self::Magic { .. } => {
                "only IDX is read: write the four bytes 00 00 08 and the number of axes, each length as a big-endian u32, \
                 then the values as unsigned bytes; 00 00 0b for 16-bit integers, big-endian; .gz is fine"
            }
            Self::Type { .. } => "convert the values (to unsigned bytes: x = round(255 v) for v in [0, 1])",
            Self::Truncated { .. } | Self::Trailing { .. } => "copy or download the file again",
            Self::Limit { .. } => "split the data over several clients",
            Self::Axes { .. } => "check that records and labels are not exchanged",
            Self::Counts { .. } => "use the two files that belong together",
            Self::Label { .. } => "correct the labels, or use a model with more classes",
        };
        eranos_base::UserError::new(self.to_string(), next)
    }
}

/// Records with their classes, in memory.
#[derive(Clone, Debug, PartialEq)]
pub struct Dataset {
    features: Array2<f32>,
    labels: Vec<u32>,
    shape: Vec<usize>,
}

impl Dataset {
    /// Records, one a row, each of `shape`, with one label each.
    ///
    /// # Panics
    /// If a row is not of `shape`, or labels are not as many as rows.
    pub fn new(features: Array2<f32>, labels: Vec<u32>, shape: &[usize]) -> Self {
        assert_eq!(features.nrows(), labels.len(), "one label per record");
        assert_eq!(features.ncols(), shape.iter().product::<usize>(), "a row per record");
        Self { features: features.as_standard_layout().into_owned(), labels, shape: shape.to_vec() }
    }

    /// The same of values one record after the other, row-major.
    ///
    /// # Panics
    /// If there are not as many values as `labels` and `shape` say.
    pub fn from_values(values: Vec<f32>, labels: Vec<u32>, shape: &[usize]) -> Self {
        let rows = Array2::from_shape_vec((labels.len(), shape.iter().product()), values);
        Self::new(rows.unwrap_or_else(|error| panic!("a row per record: {error}")), labels, shape)
    }

    /// How many records there are.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// The shape of one record.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// All records, one a row.
    pub fn features(&self) -> ArrayView2<'_, f32> {
        self.features.view()
    }

    /// All labels.
    pub fn labels(&self) -> &[u32] {
        &self.labels
    }

    /// The values of one record.
    ///
    /// # Panics
    /// If there is no such record.
    pub fn record(&self, i: usize) -> &[f32] {
        let len = self.features.ncols();
        let values = self.features.as_slice().unwrap_or_default();
        &values[i * len..(i + 1) * len]
    }

    /// The label of one record.
    ///
    /// # Panics
    /// If there is no such record.
    pub fn label(&self, i: usize) -> u32 {
        self.labels[i]
    }

    /// The records at `indices`, in that order.
    ///
    /// # Panics
    /// If there is no such record.
    #[must_use]
    pub fn subset(&self, indices: &[usize]) -> Self {
        Self {
            features: self.features.select(Axis(0), indices),
            labels: indices.iter().map(|&i| self.labels[i]).collect(),
            shape: self.shape.clone(),
        }
    }
}
