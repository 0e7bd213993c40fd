//! Lines of `name: value`, written and read in one fixed order. The reader gives what it read and where it stopped; the
//! types above decide what a value means.

use std::fmt::{Display, Write};

/// The decimal number that `text` is the one spelling of: digits only, no leading zero.
pub(crate) fn parse_u64(text: &str) -> Option<u64> {
    let value: u64 = text.parse().ok()?;
    (value.to_string() == text).then_some(value)
}

/// The number that `text` is the one spelling of: the shortest decimal that reads back as the same double, without
/// an exponent; finite and not negative.
pub(crate) fn parse_f64(text: &str) -> Option<f64> {
    let value: f64 = text.parse().ok()?;
    (value.is_finite() && value.is_sign_positive() && value.to_string() == text).then_some(value)
}

/// Lower-case hex of exactly `N` bytes.
pub(crate) fn parse_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    hex::decode_to_slice(text, &mut bytes).ok()?;
    (!text.bytes().any(|b| b.is_ascii_uppercase())).then_some(bytes)
}

/// Writes `name: value` lines.
#[derive(Debug)]
pub(crate) struct Lines(String);

impl Lines {
    /// Starts with the line `first`.
    pub(crate) fn new(first: &str) -> Self {
        Self(format!("{first}\n"))
    }

    /// Appends one line.
    pub(crate) fn line(&mut self, name: &str, value: impl Display) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.0, "{name}: {value}");
    }

    /// Appends one line, whose value is `-` where there is none.
    pub(crate) fn optional(&mut self, name: &str, value: Option<impl Display>) {
        match value {
            Some(value) => self.line(name, value),
            None => self.line(name, ABSENT),
        }
    }

    /// The text.
    pub(crate) fn finish(self) -> String {
        self.0
    }
}

/// The value of a field that does not exist.
pub(crate) const ABSENT: &str = "-";

/// Reads `name: value` lines.
#[derive(Clone, Debug)]
pub(crate) struct LineReader<'a> {
    rest: &'a str,
}

impl<'a> LineReader<'a> {
    /// Reads `text` from its start.
    pub(crate) const fn new(text: &'a str) -> Self {
        Self { rest: text }
    }

    /// The next line, if one ends here.
    pub(crate) fn line(&mut self) -> Option<&'a str> {
        let (line, rest) = self.rest.split_once('\n')?;
        self.rest = rest;
        Some(line)
    }

    /// The value of the next line, if its name is `name`; else nothing is consumed.
    pub(crate) fn value(&mut self, name: &str) -> Option<&'a str> {
        let mut ahead = self.clone();
        let value = ahead.line()?.strip_prefix(name)?.strip_prefix(": ")?;
        *self = ahead;
        Some(value)
    }

    /// Whether nothing is left.
    pub(crate) const fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }
}
