//! Tables as text: CSV as RFC 4180 defines it, and tab-separated values, plain or gzip.
//!
//! The reader is strict, because whoever trains on a table does not look at its rows: a quote that is never closed would
//! swallow all rows after it into one field, a stray one would shift the fields of its line. Parsers that accept every
//! input as some table, as the common ones do, load such a file without a word; here each fault is an error that names
//! its line.

use std::{
    collections::HashSet,
    io::{BufReader, Read},
    iter,
    path::{Path, PathBuf},
};

use super::{
    DataError, RECORDS_MAX,
    input::{self, is_damage, read_full},
};

/// Most bytes of a table, decompressed. Its text is held in memory.
pub const TABLE_LEN_MAX: u64 = 1 << 30;
/// Most bytes of one row, its quotes and separators included.
pub const ROW_LEN_MAX: u64 = 1 << 20;
/// Most columns of a table.
pub const COLUMNS_MAX: usize = 1 << 12;
/// Most cells of a table. Each takes four bytes beside its text.
pub const CELLS_MAX: usize = 1 << 27;

/// How the cells of a row are told apart. Lines end in a line feed, with or without a carriage return before it; the
/// last one may go without. Text is UTF-8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Commas; a field in quotes may hold commas, line ends, and quotes as `""` (RFC 4180, section 2).
    Csv,
    /// Tabs, and no quoting: a quote is text like any other (IANA, text/tab-separated-values).
    Tsv,
}

impl Format {
    /// The format that a file's name tells: `.csv` or `.tsv`, with or without `.gz`.
    ///
    /// # Errors
    /// If it tells neither.
    pub fn of(path: &Path) -> Result<Self, DataError> {
        let name = path.file_name().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
        let name = name.strip_suffix(".gz").unwrap_or(&name);
        if name.ends_with(".csv") {
            Ok(Self::Csv)
        } else if name.ends_with(".tsv") {
            Ok(Self::Tsv)
        } else {
            Err(DataError::Format { path: path.to_owned() })
        }
    }
}

/// What is wrong with a line of a table.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LineProblem {
    /// The file ends inside a quoted field.
    #[error("a quoted field begins that is never closed")]
    OpenQuote,
    /// A quote inside a field that does not begin with one.
    #[error("a quote stands inside a field that is not quoted")]
    StrayQuote,
    /// Something other than a comma or a line end after a closing quote.
    #[error("text follows a closing quote")]
    TextAfterQuote,
    /// A carriage return that ends no line.
    #[error("a carriage return stands without a line feed after it")]
    CarriageReturn,
    /// Bytes that are not UTF-8.
    #[error("a field is not UTF-8")]
    NotUtf8,
    /// More or fewer fields than there are columns.
    #[error("{found} fields, expected {expected}")]
    Fields {
        /// How many fields the line has.
        found: usize,
        /// How many columns there are.
        expected: usize,
    },
    /// Something exceeds its named limit.
    #[error("more than {max} {what}")]
    Limit {
        /// What is too large.
        what: &'static str,
        /// The limit.
        max: u64,
    },
    /// Compressed data does not go on.
    #[error("the compressed data is cut off or damaged")]
    Damaged,
    /// A value that its column does not allow.
    #[error("column {column:?} holds {found:?}, expected {expected}")]
    Value {
        /// The column.
        column: String,
        /// The beginning of what the cell holds.
        found: String,
        /// What it may hold.
        expected: String,
    },
}

impl LineProblem {
    /// What a person may do about it.
    pub(super) fn next(&self) -> &'static str {
        match self {
            Self::OpenQuote | Self::StrayQuote | Self::TextAfterQuote => {
                "put fields with commas, quotes or line ends in quotes, and double each quote inside them (RFC 4180)"
            }
            Self::CarriageReturn => "write the file with line feeds, or carriage returns and line feeds, as line ends",
            Self::NotUtf8 => "save the file as UTF-8",
            Self::Fields { .. } => "give every line one field per column",
            Self::Limit { .. } => "split the data over several clients, or correct a quote that is not closed",
            Self::Damaged => "copy or download the file again",
            Self::Value { .. } => "correct the value, or leave the line out",
        }
    }
}

/// A table in memory: rows of text under named columns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    path: PathBuf,
    columns: Vec<String>,
    text: String,
    /// Where each cell ends in the text, row by row.
    ends: Vec<u32>,
    /// The line on which each row begins, counted from 1.
    lines: Vec<u32>,
}

impl Table {
    /// Reads the table at `path`. Its first line names the columns, unless `columns` does.
    ///
    /// # Errors
    /// If it cannot be read, is malformed, has rows of unequal length, or exceeds a limit.
    pub fn read(path: &Path, format: Format, columns: Option<&[&str]>) -> Result<Self, DataError> {
        Self::parse_plain(input::open(path)?, path, format, columns)
    }

    /// Reads a table, plain or gzip, from `input`; `path` is what errors name.
    ///
    /// # Errors
    /// As [`Table::read`].
    pub fn parse(input: impl Read, path: &Path, format: Format, columns: Option<&[&str]>) -> Result<Self, DataError> {
        Self::parse_plain(input::decompressed(input, path)?, path, format, columns)
    }

    fn parse_plain(
        mut input: impl Read,
        path: &Path,
        format: Format,
        columns: Option<&[&str]>,
    ) -> Result<Self, DataError> {
        let mut start = [0; BYTE_ORDER_MARK.len()];
        let n_read = match read_full(&mut input, &mut start, path) {
            Err(DataError::Truncated { .. }) => return Err(fault(path, 1, LineProblem::Damaged)),
            other => other?,
        };
        let kept = if start == BYTE_ORDER_MARK { &[][..] } else { &start[..n_read] };
        let mut reader = RowReader::new(kept.chain(input), path, format);

        let (mut text, mut ends) = (String::new(), Vec::new());
        let columns: Vec<String> = match columns {
            Some(names) => names.iter().map(|&name| name.to_owned()).collect(),
            None => {
                reader.row(&mut text, &mut ends)?;
                let names = cells(&text, &ends, 0, ends.len()).map(str::to_owned).collect();
                text.clear();
                ends.clear();
                names
            }
        };
        let mut lines = Vec::new();
        loop {
            let (line, n_cells) = (reader.line, ends.len());
            if !reader.row(&mut text, &mut ends)? {
                break;
            }
            let found = ends.len() - n_cells;
            if found != columns.len() {
                return Err(fault(path, line, LineProblem::Fields { found, expected: columns.len() }));
            }
            for (what, n, max) in [("rows", lines.len() + 1, RECORDS_MAX), ("cells", ends.len(), CELLS_MAX)] {
                if n > max {
                    return Err(fault(path, line, LineProblem::Limit { what, max: max as u64 }));
                }
            }
            lines.push(line);
        }
        Ok(Self { path: path.to_owned(), columns, text, ends, lines })
    }

    /// The file that errors name.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How many rows there are.
    pub fn n_rows(&self) -> usize {
        self.lines.len()
    }

    /// The names of the columns.
    pub fn columns(&self) -> &[String] {
        &self.columns
    }

    /// The cells of a row.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn row(&self, i: usize) -> impl Iterator<Item = &str> {
        cells(&self.text, &self.ends, i * self.columns.len(), (i + 1) * self.columns.len())
    }

    /// The column of that name.
    ///
    /// # Errors
    /// If there is none, or more than one.
    pub fn column(&self, name: &str) -> Result<Column<'_>, DataError> {
        let mut found = self.columns.iter().enumerate().filter(|(_, column)| *column == name);
        match (found.next(), found.next()) {
            (Some((index, name)), None) => Ok(Column { table: self, name, index }),
            (first, _) => Err(DataError::Column {
                path: self.path.clone(),
                name: shortened(name),
                problem: if first.is_none() { "no column" } else { "more than one column" },
                there: shortened(&self.columns.join(", ")),
            }),
        }
    }
}

/// One column of a [`Table`].
#[derive(Clone, Copy, Debug)]
pub struct Column<'a> {
    table: &'a Table,
    name: &'a str,
    index: usize,
}

impl<'a> Column<'a> {
    /// Its cells, one a row.
    pub fn cells(self) -> impl Iterator<Item = &'a str> {
        let Self { table, index, .. } = self;
        (0..table.n_rows()).flat_map(move |row| {
            let cell = row * table.columns.len() + index;
            cells(&table.text, &table.ends, cell, cell + 1)
        })
    }

    /// The values that occur, each once, in the order of their first row.
    pub fn distinct(self) -> Vec<&'a str> {
        let mut seen = HashSet::new();
        self.cells().filter(|cell| seen.insert(*cell)).collect()
    }

    /// What `read` makes of each cell.
    ///
    /// # Errors
    /// At the first cell of which it makes nothing: that is not the `expected`.
    pub fn map<T>(self, expected: &str, mut read: impl FnMut(&'a str) -> Option<T>) -> Result<Vec<T>, DataError> {
        let values = self.cells().zip(&self.table.lines).map(|(cell, &line)| {
            read(cell).ok_or_else(|| {
                let (column, found, expected) = (shortened(self.name), shortened(cell), expected.to_owned());
                fault(&self.table.path, line, LineProblem::Value { column, found, expected })
            })
        });
        values.collect()
    }

    /// Its values as numbers.
    ///
    /// # Errors
    /// If one is not a finite number.
    pub fn numbers(self) -> Result<Vec<f64>, DataError> {
        self.map("a finite number", |cell| cell.parse().ok().filter(|number: &f64| number.is_finite()))
    }

    /// Its values as whole numbers.
    ///
    /// # Errors
    /// If one is not a whole number from 0 to below `n`.
    pub fn integers(self, n: u32) -> Result<Vec<u32>, DataError> {
        let expected = format!("a whole number from 0 to below {n}");
        self.map(&expected, |cell| cell.parse().ok().filter(|&number| number < n))
    }
}

/// Reads rows, one after the other, under the limits.
struct RowReader<'a, R> {
    input: BufReader<R>,
    path: &'a Path,
    separator: u8,
    quoting: bool,
    /// The line being read, counted from 1.
    line: u32,
    n_bytes: u64,
    field: Vec<u8>,
}

/// Where in a row the reader stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    FieldStart,
    Plain,
    Quoted,
    /// After a quote in a quoted field: it closes the field, or is the first of two.
    Quote,
    CarriageReturn,
}

impl<'a, R: Read> RowReader<'a, R> {
    fn new(input: R, path: &'a Path, format: Format) -> Self {
        let (separator, quoting) = match format {
            Format::Csv => (b',', true),
            Format::Tsv => (b'\t', false),
        };
        Self { input: BufReader::new(input), path, separator, quoting, line: 1, n_bytes: 0, field: Vec::new() }
    }

    /// Appends the next row's cells; says whether there was one.
    fn row(&mut self, text: &mut String, ends: &mut Vec<u32>) -> Result<bool, DataError> {
        let (first_line, first_byte, first_cell) = (self.line, self.n_bytes, ends.len());
        let mut place = Place::FieldStart;
        loop {
            let Some(byte) = self.byte()? else {
                return match place {
                    Place::FieldStart if ends.len() == first_cell => Ok(false),
                    Place::Quoted => Err(fault(self.path, first_line, LineProblem::OpenQuote)),
                    Place::CarriageReturn => Err(self.fault(LineProblem::CarriageReturn)),
                    _ => self.end_field(text, ends).map(|()| true),
                };
            };
            if self.n_bytes - first_byte > ROW_LEN_MAX {
                let problem = LineProblem::Limit { what: "bytes in a row", max: ROW_LEN_MAX };
                return Err(fault(self.path, first_line, problem));
            }
            place = match (place, byte) {
                (Place::CarriageReturn, b'\n') => break,
                (Place::CarriageReturn, _) => return Err(self.fault(LineProblem::CarriageReturn)),
                (Place::Quoted, b'"') => Place::Quote,
                (Place::Quoted, _) => {
                    self.line += u32::from(byte == b'\n');
                    self.field.push(byte);
                    Place::Quoted
                }
                (Place::Quote, b'"') => {
                    self.field.push(b'"');
                    Place::Quoted
                }
                (_, b'\n') => break,
                (_, b'\r') => Place::CarriageReturn,
                _ if byte == self.separator => {
                    self.end_field(text, ends)?;
                    if ends.len() - first_cell >= COLUMNS_MAX {
                        return Err(self.fault(LineProblem::Limit { what: "columns", max: COLUMNS_MAX as u64 }));
                    }
                    Place::FieldStart
                }
                (Place::Quote, _) => return Err(self.fault(LineProblem::TextAfterQuote)),
                (Place::FieldStart, b'"') if self.quoting => Place::Quoted,
                (_, b'"') if self.quoting => return Err(self.fault(LineProblem::StrayQuote)),
                _ => {
                    self.field.push(byte);
                    Place::Plain
                }
            };
        }
        self.end_field(text, ends)?;
        self.line += 1;
        Ok(true)
    }

    fn end_field(&mut self, text: &mut String, ends: &mut Vec<u32>) -> Result<(), DataError> {
        // Field by field: two halves of a character on both sides of a separator must not pass as one.
        let field = str::from_utf8(&self.field).map_err(|_| self.fault(LineProblem::NotUtf8))?;
        text.push_str(field);
        // The text is no longer than the file, whose limit is below 2^32.
        ends.push(text.len() as u32);
        self.field.clear();
        Ok(())
    }

    fn byte(&mut self) -> Result<Option<u8>, DataError> {
        match self.input.by_ref().bytes().next() {
            None => Ok(None),
            Some(Ok(_)) if self.n_bytes == TABLE_LEN_MAX => {
                Err(self.fault(LineProblem::Limit { what: "bytes in a table", max: TABLE_LEN_MAX }))
            }
            Some(Ok(byte)) => {
                self.n_bytes += 1;
                Ok(Some(byte))
            }
            Some(Err(error)) if is_damage(&error) => Err(self.fault(LineProblem::Damaged)),
            Some(Err(source)) => Err(DataError::Read { path: self.path.to_owned(), source }),
        }
    }

    fn fault(&self, problem: LineProblem) -> DataError {
        fault(self.path, self.line, problem)
    }
}

/// The cells from number `from` to below `to`.
fn cells<'a>(text: &'a str, ends: &'a [u32], from: usize, to: usize) -> impl Iterator<Item = &'a str> {
    let first = if from == 0 { 0 } else { ends[from - 1] };
    let starts = iter::once(first).chain(ends[from..to].iter().copied());
    starts.zip(&ends[from..to]).map(|(start, &end)| &text[start as usize..end as usize])
}

fn fault(path: &Path, line: u32, problem: LineProblem) -> DataError {
    DataError::Line { path: path.to_owned(), line, problem }
}

/// As much of a text as an error shows.
pub(super) fn shortened(text: &str) -> String {
    match text.char_indices().nth(SHOWN_MAX) {
        Some((end, _)) => format!("{}..", &text[..end]),
        None => text.to_owned(),
    }
}

/// Most characters of a cell that an error shows.
const SHOWN_MAX: usize = 40;
const BYTE_ORDER_MARK: [u8; 3] = [0xef, 0xbb, 0xbf];
