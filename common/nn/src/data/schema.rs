//! Tables as data sets: which columns go in as what, and which one is the label.
//!
//! A [`Schema`] is public and the same at every client, so its lists and vocabulary are given, never taken from a
//! client's own rows: two clients that numbered their own values would mean different things by the same number.

use std::collections::HashMap;

use ndarray::{Array2, s};

use super::{
    DataError, Dataset, Table, VALUES_MAX,
    table::{Column, shortened},
    text::{PadSettings, Side, Tokenizer, pad_sequences},
};

/// Most values of one record.
pub const RECORD_LEN_MAX: usize = 1 << 20;
/// Most ids of one input and classes of a label: what an `f32` holds exactly.
pub const IDS_MAX: u32 = 1 << 24;

/// One input of a model, and the columns that it comes from.
#[derive(Clone, Debug, PartialEq)]
pub enum Input {
    /// Numbers as they stand: `[n_columns]`.
    Numbers {
        /// The columns, in order.
        columns: Vec<String>,
    },
    /// A whole number from 0 to below `n_ids` as it stands, for an embedding: `[1]`.
    Integer {
        /// The column.
        column: String,
        /// One more than the largest.
        n_ids: u32,
    },
    /// The place of a value in a list, counted from 0, for an embedding: `[1]`.
    Listed {
        /// The column.
        column: String,
        /// The values that may occur.
        values: Vec<String>,
    },
    /// The numbers of a text's words, filled with 0 or cut to one length: `[maxlen]`.
    Text {
        /// The column.
        column: String,
        /// Numbers the words.
        tokenizer: Tokenizer,
        /// The length.
        maxlen: usize,
        /// Where a short text is filled.
        padding: Side,
        /// Where a long text is cut.
        truncating: Side,
    },
}

/// The label of a row, and the column that it comes from.
#[derive(Clone, Debug, PartialEq)]
pub enum Label {
    /// A whole number from 0 to below `n_classes` as it stands.
    Integer {
        /// The column.
        column: String,
        /// How many classes there are.
        n_classes: u32,
    },
    /// The place of a value in a list, counted from 0.
    Listed {
        /// The column.
        column: String,
        /// The classes' names.
        values: Vec<String>,
    },
    /// Class 1 for a number of at least `threshold`, else class 0.
    AtLeast {
        /// The column.
        column: String,
        /// The least number of class 1.
        threshold: f64,
    },
}

/// What becomes of a row that holds what its columns do not allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Misfit {
    /// It is an error: a person looks at their own data.
    Refuse,
    /// Its values become NaN, and its class 0, so that its gradient is not finite and counts as zero. A schema that
    /// somebody else made cannot find out about a row by whether training fails.
    Void,
}

/// What makes a [`Dataset`] of a [`Table`].
#[derive(Clone, Debug, PartialEq)]
pub struct Schema {
    inputs: Vec<Input>,
    label: Label,
}

impl Schema {
    /// These inputs, in the model's order, and this label.
    ///
    /// # Errors
    /// If there is no input or one without values, a list names a value twice or none, a threshold is not finite, or a limit is
    /// exceeded.
    pub fn new(inputs: Vec<Input>, label: Label) -> Result<Self, DataError> {
        let fault = |problem: String| Err(DataError::Schema { problem });
        let ids = inputs.iter().filter_map(|input| match input {
            Input::Integer { column, n_ids } => Some((column, *n_ids as usize)),
            Input::Listed { column, values } => Some((column, values.len())),
            Input::Text { column, tokenizer, .. } => Some((column, tokenizer.n_ids() as usize)),
            Input::Numbers { .. } => None,
        });
        let classes = match &label {
            Label::Integer { column, n_classes } => (column, *n_classes as usize),
            Label::Listed { column, values } => (column, values.len()),
            Label::AtLeast { column, .. } => (column, 2),
        };
        for (column, n) in ids.chain([classes]) {
            if n == 0 || n > IDS_MAX as usize {
                return fault(format!("{n} values for column {column:?}, expected 1 to {IDS_MAX}"));
            }
        }
        for (i, input) in inputs.iter().enumerate() {
            if input.len() == 0 {
                return fault(format!("no values for input {i}"));
            }
            if let Input::Listed { values, .. } = input {
                places(values)?;
            }
        }
        match &label {
            Label::Listed { values, .. } => drop(places(values)?),
            Label::AtLeast { threshold, .. } if !threshold.is_finite() => {
                return fault(format!("a threshold of {threshold}"));
            }
            _ => {}
        }
        let schema = Self { inputs, label };
        match schema.record_len() {
            1..=RECORD_LEN_MAX => Ok(schema),
            n => fault(format!("{n} values a record, expected 1 to {RECORD_LEN_MAX}")),
        }
    }

    /// The inputs, in the model's order.
    pub fn inputs(&self) -> &[Input] {
        &self.inputs
    }

    /// How many classes the label has.
    pub fn n_classes(&self) -> u32 {
        match &self.label {
            Label::Integer { n_classes, .. } => *n_classes,
            Label::Listed { values, .. } => values.len() as u32,
            Label::AtLeast { .. } => 2,
        }
    }

    /// How many values a record has: those of all inputs.
    pub fn record_len(&self) -> usize {
        self.inputs.iter().fold(0, |len, input| len.saturating_add(input.len()))
    }

    /// The label.
    pub fn label(&self) -> &Label {
        &self.label
    }

    /// The columns that a table must have.
    pub fn columns(&self) -> impl Iterator<Item = &str> {
        let inputs = self.inputs.iter().flat_map(|input| match input {
            Input::Numbers { columns } => columns.as_slice(),
            Input::Integer { column, .. } | Input::Listed { column, .. } | Input::Text { column, .. } => {
                std::slice::from_ref(column)
            }
        });
        let (Label::Integer { column, .. } | Label::Listed { column, .. } | Label::AtLeast { column, .. }) =
            &self.label;
        inputs.chain([column]).map(String::as_str)
    }

    /// Values of `n_records` records.
    pub(super) fn n_values(&self, n_records: u64) -> u64 {
        n_records.saturating_mul(self.record_len() as u64)
    }

    /// A data set with one record a row, of shape `[record_len]`: the values of all inputs, one input after the other.
    ///
    /// # Errors
    /// If the table lacks a column, there are too many values, or, under [`Misfit::Refuse`], a cell holds what its column
    /// does not allow.
    pub fn dataset(&self, table: &Table, misfit: Misfit) -> Result<Dataset, DataError> {
        let (n_rows, record_len) = (table.n_rows(), self.record_len());
        let n_values = self.n_values(n_rows as u64);
        if n_values > VALUES_MAX {
            let (path, what) = (table.path().to_owned(), "a number of values");
            return Err(DataError::Limit { path, what, found: n_values, max: VALUES_MAX });
        }
        let mut features = Array2::zeros((n_rows, record_len));
        let mut rows = Rows { misfit, void: vec![false; n_rows] };
        let mut start = 0;
        for input in &self.inputs {
            let mut out = features.slice_mut(s![.., start..start + input.len()]);
            start += input.len();
            match input {
                Input::Numbers { columns } => {
                    for (mut out, column) in out.columns_mut().into_iter().zip(columns) {
                        let column = table.column(column)?;
                        let values = rows.read(column, "a finite number", finite::<f32>)?;
                        out.iter_mut().zip(values).for_each(|(out, value)| *out = value);
                    }
                }
                Input::Integer { column, n_ids } => {
                    let values = rows.integers(table.column(column)?, *n_ids)?;
                    out.iter_mut().zip(values).for_each(|(out, value)| *out = value as f32);
                }
                Input::Listed { column, values } => {
                    let values = rows.listed(table.column(column)?, values)?;
                    out.iter_mut().zip(values).for_each(|(out, value)| *out = value as f32);
                }
                Input::Text { column, tokenizer, maxlen, padding, truncating } => {
                    let settings =
                        PadSettings { maxlen: Some(*maxlen), padding: *padding, truncating: *truncating, value: 0 };
                    // Text by text: all sequences together may be much longer than what is kept of them.
                    for (mut out, text) in out.outer_iter_mut().zip(table.column(column)?.cells()) {
                        let sequence = pad_sequences(&[tokenizer.sequence(text)], settings)?;
                        out.iter_mut().zip(sequence).for_each(|(out, number)| *out = number as f32);
                    }
                }
            }
        }
        let labels = match &self.label {
            Label::Integer { column, n_classes } => rows.integers(table.column(column)?, *n_classes)?,
            Label::Listed { column, values } => rows.listed(table.column(column)?, values)?,
            Label::AtLeast { column, threshold } => {
                let numbers = rows.read(table.column(column)?, "a finite number", finite::<f64>)?;
                numbers.into_iter().map(|number| u32::from(number >= *threshold)).collect()
            }
        };
        for (mut row, _) in features.outer_iter_mut().zip(&rows.void).filter(|(_, void)| **void) {
            row.fill(f32::NAN);
        }
        let labels: Vec<u32> =
            labels.into_iter().zip(&rows.void).map(|(label, void)| if *void { 0 } else { label }).collect();
        Ok(Dataset::new(features, labels, &[record_len]))
    }
}

impl Input {
    /// How many ids it may hold, for an embedding; none if it holds numbers.
    pub fn n_ids(&self) -> Option<u32> {
        match self {
            Self::Numbers { .. } => None,
            Self::Integer { n_ids, .. } => Some(*n_ids),
            Self::Listed { values, .. } => Some(values.len() as u32),
            Self::Text { tokenizer, .. } => Some(tokenizer.n_ids()),
        }
    }

    /// How many values of a record it has.
    #[expect(clippy::len_without_is_empty, reason = "an input of no values is refused")]
    pub fn len(&self) -> usize {
        match self {
            Self::Numbers { columns } => columns.len(),
            Self::Integer { .. } | Self::Listed { .. } => 1,
            Self::Text { maxlen, .. } => *maxlen,
        }
    }
}

/// Each value's place in its list.
fn places(values: &[String]) -> Result<HashMap<&str, u32>, DataError> {
    let mut places = HashMap::with_capacity(values.len());
    for (place, value) in (0..).zip(values) {
        if places.insert(value.as_str(), place).is_some() {
            return Err(DataError::Schema { problem: format!("the value {:?} twice in a list", shortened(value)) });
        }
    }
    Ok(places)
}

/// The rows of a table on their way into a data set.
struct Rows {
    misfit: Misfit,
    /// Which do not fit.
    void: Vec<bool>,
}

impl Rows {
    /// What `read` makes of each cell.
    fn read<T: Default>(
        &mut self,
        column: Column<'_>,
        expected: &str,
        read: impl Fn(&str) -> Option<T>,
    ) -> Result<Vec<T>, DataError> {
        if self.misfit == Misfit::Refuse {
            return column.map(expected, read);
        }
        let values = column.cells().zip(&mut self.void).map(|(cell, void)| {
            read(cell).unwrap_or_else(|| {
                *void = true;
                T::default()
            })
        });
        Ok(values.collect())
    }

    /// Each cell as a whole number below `n`.
    fn integers(&mut self, column: Column<'_>, n: u32) -> Result<Vec<u32>, DataError> {
        let expected = format!("a whole number from 0 to below {n}");
        self.read(column, &expected, |cell| cell.parse().ok().filter(|&number| number < n))
    }

    /// Each cell's place in `values`.
    fn listed(&mut self, column: Column<'_>, values: &[String]) -> Result<Vec<u32>, DataError> {
        let places = places(values)?;
        let expected = match values {
            [a, b] => format!("{:?} or {:?}", shortened(a), shortened(b)),
            _ => format!("one of the {} values listed for it", values.len()),
        };
        self.read(column, &expected, |cell| places.get(cell).copied())
    }
}

fn finite<T: std::str::FromStr + Into<f64> + Copy>(cell: &str) -> Option<T> {
    cell.parse().ok().filter(|&number: &T| number.into().is_finite())
}
