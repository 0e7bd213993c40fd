//! What the records of a task are: how a client's files become the values that a model takes. It is public, the same for
//! every client, and travels in the plan as canonical bytes; its constants and vocabulary are fitted on data that is
//! public, never on a client's.
//!
//! | field | type |
//! |---|---|
//! | domain | text `eranos/data/v1` |
//! | kind | u8: 1 images, 2 series, 3 table |
//! | images | height u32, width u32, channels u32, classes u32 |
//! | series | steps u32, classes u32, number of channels u32, then for each channel mean and deviation, f32 as 4 bytes |
//! | table | number of inputs u32, each input, the label |
//! | input | u8: 1 numbers (count u32, each column), 2 integer (column, ids u32), 3 listed (column, values), 4 text |
//! | text | column, length u32, padding u8, truncating u8 (0 front, 1 end), num_words u32 (0 for all), oov_token (u8 0, or u8 1 and text), filters, lower u8, char_level u8, words |
//! | label | u8: 1 integer (column, classes u32), 2 listed (column, values), 3 at least (column, threshold f64) |
//! | values, words | count u32, each text |

use std::path::Path;

use eranos_base::{
    encoding::{Canonical, CanonicalReader, DecodeError},
    limits::CANONICAL_LEN_MAX,
};

use super::{
    DataError, Dataset, Format, Standardization, Table, VALUES_MAX, idx,
    schema::{Input, Label, Misfit, Schema},
    standardization::CHANNELS_MAX,
    text::{Side, Tokenizer, TokenizerSettings, WORDS_MAX},
};

/// What the records of a task are.
#[derive(Clone, Debug, PartialEq)]
pub enum DataSpec {
    /// Images in IDX, their pixels divided by 255.
    Images {
        /// Height, width and channels.
        shape: [u32; 3],
        /// How many classes there are.
        n_classes: u32,
    },
    /// Series of measurements in IDX, `[steps, channels]`, each channel brought to a public mean and deviation.
    Series {
        /// Time steps of a record.
        steps: u32,
        /// The channels' constants.
        standardization: Standardization,
        /// How many classes there are.
        n_classes: u32,
    },
    /// Rows of a table.
    Table(Schema),
}

/// A client's files as they are, before anybody said what they mean.
#[derive(Clone, Debug)]
pub enum Files {
    /// Records in IDX, the values as they stand, with their labels.
    Idx(Dataset),
    /// A table.
    Table(Table),
}

/// What of a client's files is no secret: their form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Form {
    /// IDX, and the shape of one record.
    Idx(Vec<usize>),
    /// A table, and the names of its columns.
    Table(Vec<String>),
}

impl Files {
    /// Reads `records` in IDX with their `labels`, each below `n_classes`; or, without `labels`, a table, whose columns
    /// are named by `columns` or else by its first line.
    ///
    /// # Errors
    /// If a file cannot be read or is malformed, or a label is no class.
    pub fn read(
        records: &Path,
        labels: Option<&Path>,
        columns: Option<&[String]>,
        n_classes: usize,
    ) -> Result<Self, DataError> {
        if let Some(labels) = labels {
            return idx::read_records(records, labels, n_classes).map(Self::Idx);
        }
        let columns: Option<Vec<&str>> = columns.map(|names| names.iter().map(String::as_str).collect());
        Table::read(records, Format::of(records)?, columns.as_deref()).map(Self::Table)
    }

    /// How many records there are.
    pub fn n_records(&self) -> usize {
        match self {
            Self::Idx(data) => data.len(),
            Self::Table(table) => table.n_rows(),
        }
    }

    /// Their form.
    pub fn form(&self) -> Form {
        match self {
            Self::Idx(data) => Form::Idx(data.shape().to_vec()),
            Self::Table(table) => Form::Table(table.columns().to_vec()),
        }
    }
}

impl DataSpec {
    /// How many values a record has.
    pub fn record_len(&self) -> usize {
        match self {
            Self::Images { shape, .. } => shape.iter().fold(1, |len, &n| len.saturating_mul(n as usize)),
            Self::Series { steps, standardization, .. } => {
                (*steps as usize).saturating_mul(standardization.mean().len())
            }
            Self::Table(schema) => schema.record_len(),
        }
    }

    /// How many classes there are.
    pub fn n_classes(&self) -> u32 {
        match self {
            Self::Images { n_classes, .. } | Self::Series { n_classes, .. } => *n_classes,
            Self::Table(schema) => schema.n_classes(),
        }
    }

    /// A form of files that hold such records.
    pub fn form(&self) -> Form {
        match self {
            Self::Images { shape, .. } => Form::Idx(shape.map(|n| n as usize).to_vec()),
            Self::Series { steps, standardization, .. } => {
                Form::Idx(vec![*steps as usize, standardization.mean().len()])
            }
            Self::Table(schema) => Form::Table(schema.columns().map(str::to_owned).collect()),
        }
    }

    /// Checks that files of this form can hold such records.
    ///
    /// # Errors
    /// Says what does not fit.
    pub fn check(&self, form: &Form) -> Result<(), DataError> {
        let problem = match (self, form) {
            (Self::Images { shape, .. }, Form::Idx(found)) => {
                let expected = shape.map(|n| n as usize);
                // Images without a channel axis have one channel.
                let fits = found[..] == expected || (expected[2] == 1 && found[..] == expected[..2]);
                (!fits).then(|| format!("images of {expected:?}, the files hold records of {found:?}"))
            }
            (Self::Series { steps, standardization, .. }, Form::Idx(found)) => {
                let expected = [*steps as usize, standardization.mean().len()];
                (found[..] != expected).then(|| format!("series of {expected:?}, the files hold records of {found:?}"))
            }
            (Self::Table(schema), Form::Table(columns)) => {
                let lacks = schema.columns().find(|name| columns.iter().filter(|column| column == name).count() != 1);
                lacks.map(|name| format!("a column {name:?}, which the table does not have once"))
            }
            (Self::Table(_), Form::Idx(_)) => Some("a table, the files are IDX".to_owned()),
            (_, Form::Table(_)) => Some("records in IDX, the file is a table".to_owned()),
        };
        problem.map_or(Ok(()), |problem| Err(DataError::Schema { problem }))
    }

    /// Checks that any client with at most `records_max` records can hold them. Whoever sees whether a client can must learn
    /// nothing of how many it has: a limit that its own number met or missed would tell, for lengths of a record that a
    /// coordinator chooses.
    ///
    /// # Errors
    /// If so many records have too many values.
    pub fn check_bound(&self, records_max: u32) -> Result<(), DataError> {
        // In IDX the values lie in the files already, as many as there are.
        let Self::Table(schema) = self else { return Ok(()) };
        let n_values = schema.n_values(records_max.into());
        if n_values <= VALUES_MAX {
            return Ok(());
        }
        let problem = format!("{n_values} values for {records_max} records, limit {VALUES_MAX}");
        Err(DataError::Schema { problem })
    }

    /// What the files hold.
    ///
    /// # Errors
    /// If the files cannot hold such records, or, under [`Misfit::Refuse`], one of them does not.
    pub fn dataset(&self, files: &Files, misfit: Misfit) -> Result<Dataset, DataError> {
        self.check(&files.form())?;
        match (self, files) {
            (Self::Images { shape, .. }, Files::Idx(data)) => {
                let pixels = data.features().mapv(|x| x / 255.0);
                Ok(Dataset::new(pixels, data.labels().to_vec(), &shape.map(|n| n as usize)))
            }
            (Self::Series { standardization, .. }, Files::Idx(data)) => {
                let mut data = data.clone();
                standardization.apply(&mut data)?;
                Ok(data)
            }
            (Self::Table(schema), Files::Table(table)) => schema.dataset(table, misfit),
            _ => Err(DataError::Schema { problem: "another form than the files".to_owned() }),
        }
    }

    /// The canonical bytes.
    pub fn to_canonical(&self) -> Vec<u8> {
        let out = Canonical::new(DOMAIN);
        match self {
            Self::Images { shape: [height, width, channels], n_classes } => {
                out.u8(1).u32(*height).u32(*width).u32(*channels).u32(*n_classes).finish()
            }
            Self::Series { steps, standardization, n_classes } => {
                let constants = standardization.mean().iter().zip(standardization.std());
                let out = out.u8(2).u32(*steps).u32(*n_classes).u32(standardization.mean().len() as u32);
                constants
                    .fold(out, |out, (mean, std)| out.field(&mean.to_le_bytes()).field(&std.to_le_bytes()))
                    .finish()
            }
            Self::Table(schema) => {
                let out = out.u8(3).u32(schema.inputs().len() as u32);
                let out = schema.inputs().iter().fold(out, write_input);
                write_label(out, schema.label()).finish()
            }
        }
    }

    /// Reads canonical bytes, strictly: what this accepts re-encodes to the same bytes.
    ///
    /// # Errors
    /// If the bytes are malformed, too long, or say a specification that cannot be.
    pub fn from_canonical(bytes: &[u8]) -> Result<Self, DataError> {
        let malformed = |error: DecodeError| DataError::Schema { problem: format!("malformed bytes: {error}") };
        if bytes.len() > CANONICAL_LEN_MAX {
            return Err(DataError::Schema { problem: format!("{} bytes, limit {CANONICAL_LEN_MAX}", bytes.len()) });
        }
        let mut reader = CanonicalReader::new(bytes, DOMAIN).map_err(malformed)?;
        let spec = match reader.u8().map_err(malformed)? {
            1 => {
                let mut next = || reader.u32().map_err(malformed);
                Self::Images { shape: [next()?, next()?, next()?], n_classes: next()? }
            }
            2 => {
                let (steps, n_classes, constants) = read_series(&mut reader).map_err(malformed)?;
                let (mean, std) = constants.into_iter().unzip();
                Self::Series { steps, n_classes, standardization: Standardization::new(mean, std)? }
            }
            3 => {
                let n_inputs = reader.count(INPUTS_MAX).map_err(malformed)?;
                let inputs: Result<Vec<Input>, DataError> = (0..n_inputs).map(|_| read_input(&mut reader)).collect();
                Self::Table(Schema::new(inputs?, read_label(&mut reader).map_err(malformed)?)?)
            }
            _ => return Err(malformed(DecodeError::Malformed { what: DOMAIN })),
        };
        reader.finish().map_err(malformed)?;
        if spec.record_len() == 0 || spec.n_classes() == 0 {
            return Err(DataError::Schema { problem: "records without values, or no classes".to_owned() });
        }
        Ok(spec)
    }
}

fn write_texts(out: Canonical, texts: &[String]) -> Canonical {
    texts.iter().fold(out.u32(texts.len() as u32), |out, text| out.text(text))
}

fn write_input(out: Canonical, input: &Input) -> Canonical {
    let side = |side: &Side| match side {
        Side::Pre => 0,
        Side::Post => 1,
    };
    match input {
        Input::Numbers { columns } => write_texts(out.u8(1), columns),
        Input::Integer { column, n_ids } => out.u8(2).text(column).u32(*n_ids),
        Input::Listed { column, values } => write_texts(out.u8(3).text(column), values),
        Input::Text { column, tokenizer, maxlen, padding, truncating } => {
            let settings = tokenizer.settings();
            let out = out.u8(4).text(column).u32(*maxlen as u32).u8(side(padding)).u8(side(truncating));
            let out = out.u32(settings.num_words.map_or(0, std::num::NonZeroU32::get));
            let out = match &settings.oov_token {
                Some(token) => out.u8(1).text(token),
                None => out.u8(0),
            };
            let out = out.text(&settings.filters).u8(settings.lower.into()).u8(settings.char_level.into());
            write_texts(out, tokenizer.words())
        }
    }
}

fn write_label(out: Canonical, label: &Label) -> Canonical {
    match label {
        Label::Integer { column, n_classes } => out.u8(1).text(column).u32(*n_classes),
        Label::Listed { column, values } => write_texts(out.u8(2).text(column), values),
        Label::AtLeast { column, threshold } => out.u8(3).text(column).f64(*threshold),
    }
}

type Series = (u32, u32, Vec<(f32, f32)>);

fn read_series(reader: &mut CanonicalReader<'_>) -> Result<Series, DecodeError> {
    let (steps, n_classes, n_channels) = (reader.u32()?, reader.u32()?, reader.count(CHANNELS_MAX)?);
    let constants = (0..n_channels).map(|_| {
        let mut next = || reader.array().map(f32::from_le_bytes);
        Ok((next()?, next()?))
    });
    Ok((steps, n_classes, constants.collect::<Result<_, DecodeError>>()?))
}

fn read_texts(reader: &mut CanonicalReader<'_>, max: usize) -> Result<Vec<String>, DecodeError> {
    let n = reader.count(max)?;
    (0..n).map(|_| reader.text().map(str::to_owned)).collect()
}

fn read_flag(reader: &mut CanonicalReader<'_>) -> Result<bool, DecodeError> {
    match reader.u8()? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(DecodeError::Malformed { what: DOMAIN }),
    }
}

fn read_side(reader: &mut CanonicalReader<'_>) -> Result<Side, DecodeError> {
    Ok(if read_flag(reader)? { Side::Post } else { Side::Pre })
}

fn read_input(reader: &mut CanonicalReader<'_>) -> Result<Input, DataError> {
    let malformed = |error: DecodeError| DataError::Schema { problem: format!("malformed bytes: {error}") };
    let mut plain = || {
        Ok(Some(match reader.u8()? {
            1 => Input::Numbers { columns: read_texts(reader, VALUES_LISTED_MAX)? },
            2 => Input::Integer { column: reader.text()?.to_owned(), n_ids: reader.u32()? },
            3 => Input::Listed { column: reader.text()?.to_owned(), values: read_texts(reader, VALUES_LISTED_MAX)? },
            4 => return Ok(None),
            _ => return Err(DecodeError::Malformed { what: DOMAIN }),
        }))
    };
    if let Some(input) = plain().map_err(malformed)? {
        return Ok(input);
    }
    let mut text = || {
        let (column, maxlen) = (reader.text()?.to_owned(), reader.u32()? as usize);
        let (padding, truncating) = (read_side(reader)?, read_side(reader)?);
        let num_words = std::num::NonZeroU32::new(reader.u32()?);
        let oov_token = if read_flag(reader)? { Some(reader.text()?.to_owned()) } else { None };
        let (filters, lower, char_level) = (reader.text()?.to_owned(), read_flag(reader)?, read_flag(reader)?);
        let settings = TokenizerSettings { num_words, oov_token, filters, lower, char_level };
        Ok((column, maxlen, padding, truncating, settings, read_texts(reader, WORDS_MAX)?))
    };
    let (column, maxlen, padding, truncating, settings, words) = text().map_err(malformed)?;
    Ok(Input::Text { column, maxlen, padding, truncating, tokenizer: Tokenizer::new(settings, words)? })
}

fn read_label(reader: &mut CanonicalReader<'_>) -> Result<Label, DecodeError> {
    Ok(match reader.u8()? {
        1 => Label::Integer { column: reader.text()?.to_owned(), n_classes: reader.u32()? },
        2 => Label::Listed { column: reader.text()?.to_owned(), values: read_texts(reader, VALUES_LISTED_MAX)? },
        3 => Label::AtLeast { column: reader.text()?.to_owned(), threshold: reader.f64()? },
        _ => return Err(DecodeError::Malformed { what: DOMAIN }),
    })
}

const DOMAIN: &str = "eranos/data/v1";
/// Most inputs of a table's schema.
const INPUTS_MAX: usize = 64;
/// Most values or columns that one list may name.
const VALUES_LISTED_MAX: usize = 1 << 17;
