//! The fields of an entry, read in their order.

use std::{fmt, str::FromStr};

use eranos_base::Digest;
use eranos_privacy::{Mechanism, Promise};

use crate::{
    entry::{EntryError, EntryParser, epsilons::INFINITE, mechanism::mechanism_fields},
    text::{ABSENT, LineReader, parse_f64, parse_hex},
};

/// The fields of one entry, read in their order.
pub(super) struct Fields<'a, 'p> {
    pub(super) lines: LineReader<'a>,
    /// The line read last, from 1.
    pub(super) line: usize,
    pub(super) parser: &'p mut EntryParser,
}

impl<'a> Fields<'a, '_> {
    pub(super) fn next_if(&mut self, field: &'static str) -> Option<&'a str> {
        let value = self.lines.value(field)?;
        self.line += 1;
        Some(value)
    }

    pub(super) fn value(&mut self, field: &'static str) -> Result<&'a str, EntryError> {
        let line = self.line + 1;
        self.next_if(field).ok_or(EntryError::Field { line, field })
    }

    /// A field in the form that `parse` accepts.
    pub(super) fn with<T>(
        &mut self,
        field: &'static str,
        parse: impl FnOnce(&'a str) -> Option<T>,
    ) -> Result<T, EntryError> {
        let value = self.value(field)?;
        parse(value).ok_or(EntryError::Field { line: self.line, field })
    }

    pub(super) fn optional<T>(
        &mut self,
        field: &'static str,
        parse: impl FnOnce(&'a str) -> Option<T>,
    ) -> Result<Option<T>, EntryError> {
        self.with(field, |value| if value == ABSENT { Some(None) } else { parse(value).map(Some) })
    }

    /// A field of a type whose `FromStr` accepts one spelling only; that it does is checked.
    pub(super) fn parsed<T: FromStr + fmt::Display>(&mut self, field: &'static str) -> Result<T, EntryError> {
        self.with(field, |value| value.parse::<T>().ok().filter(|parsed| parsed.to_string() == value))
    }

    pub(super) fn digest(&mut self, field: &'static str) -> Result<Digest, EntryError> {
        self.with(field, parse_digest)
    }

    /// An epsilon, of a sum with this mechanism's noise.
    pub(super) fn epsilon(&mut self, field: &'static str, mechanism: &Mechanism) -> Result<f64, EntryError> {
        match mechanism.has_noise() {
            true => self.with(field, parse_f64),
            false => self.exactly(field, INFINITE).map(|()| f64::INFINITY),
        }
    }

    pub(super) fn exactly(&mut self, field: &'static str, expected: &str) -> Result<(), EntryError> {
        let value = self.value(field)?;
        if value == expected { Ok(()) } else { Err(self.derived(field)) }
    }

    pub(super) fn mechanism(&mut self) -> Result<Mechanism, EntryError> {
        let bytes = self.with("mechanism", |value| {
            let bytes = hex::decode(value).ok()?;
            (hex::encode(&bytes) == value).then_some(bytes)
        })?;
        let mechanism = self.parser.mechanism(bytes)?;
        for (field, expected) in mechanism_fields(&mechanism) {
            self.exactly(field, &expected)?;
        }
        Ok(mechanism)
    }

    pub(super) fn derived(&self, field: &'static str) -> EntryError {
        EntryError::Derived { line: self.line, field }
    }

    pub(super) fn finish(&self) -> Result<(), EntryError> {
        if self.lines.is_empty() { Ok(()) } else { Err(EntryError::Trailing { line: self.line + 1 }) }
    }
}

pub(super) fn parse_digest(text: &str) -> Option<Digest> {
    parse_hex(text).map(Digest)
}
