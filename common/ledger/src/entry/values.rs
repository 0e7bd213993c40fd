//! Values of one spelling: versions, days, and what a person wrote.

use std::{fmt, str::FromStr};

use eranos_base::Timestamp;

use crate::text::ABSENT;

/// Longest line that a person writes into an entry, in bytes.
pub const WORDS_LEN_MAX: usize = 512;
/// Longest version text in bytes.
pub const VERSION_LEN_MAX: usize = 64;

/// A version: 1 to 64 letters, digits, dots, pluses and hyphens.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Version(String);

/// A text that is no version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a version, expected 1 to {VERSION_LEN_MAX} letters, digits, '.', '+' and '-'")]
pub struct VersionError;

impl FromStr for Version {
    type Err = VersionError;

    fn from_str(text: &str) -> Result<Self, VersionError> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'+' | b'-');
        let valid = (1..=VERSION_LEN_MAX).contains(&text.len()) && text.bytes().all(allowed);
        if valid { Ok(Self(text.to_owned())) } else { Err(VersionError) }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a person wrote, on one line: 1 to [`WORDS_LEN_MAX`] bytes without control characters or such as change the
/// direction of text or cannot be seen, and without a space at either end. A hyphen alone stands for nothing, and is none.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Words(String);

/// A text that is not one line of words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not one line of 1 to {WORDS_LEN_MAX} bytes without control characters or spaces around it")]
pub struct WordsError;

impl Words {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Words {
    type Err = WordsError;

    fn from_str(text: &str) -> Result<Self, WordsError> {
        let hidden = |c| {
            matches!(c, '\0'..='\x1f' | '\x7f'..='\u{9f}' | '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
                | '\u{e0000}'..='\u{e0fff}')
        };
        let bare = !text.starts_with(' ') && !text.ends_with(' ') && text != ABSENT;
        let valid = (1..=WORDS_LEN_MAX).contains(&text.len()) && bare && !text.contains(hidden);
        if valid { Ok(Self(text.to_owned())) } else { Err(WordsError) }
    }
}

impl fmt::Display for Words {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A day of the Gregorian calendar, as `YYYY-MM-DD`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Date {
    year: u16,
    month: u8,
    day: u8,
}

/// A text that is no day from 1970 to 9999.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a date, expected YYYY-MM-DD")]
pub struct DateError;

impl Date {
    /// The day of `timestamp`, UTC; at most 9999-12-31.
    pub fn of(timestamp: Timestamp) -> Self {
        let mut days = timestamp.unix_ms() / 86_400_000;
        let mut date = Self { year: 1970, month: 1, day: 1 };
        while date.year < 9999 {
            let len = if is_leap_year(date.year) { 366 } else { 365 };
            if days < len {
                break;
            }
            days -= len;
            date.year += 1;
        }
        while date.month < 12 && days >= u64::from(days_in(date.year, date.month)) {
            days -= u64::from(days_in(date.year, date.month));
            date.month += 1;
        }
        date.day = days.min(30) as u8 + 1;
        date
    }
}

const fn is_leap_year(year: u16) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

const fn days_in(year: u16, month: u8) -> u8 {
    match month {
        4 | 6 | 9 | 11 => 30,
        2 if is_leap_year(year) => 29,
        2 => 28,
        _ => 31,
    }
}

impl fmt::Display for Date {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}-{:02}-{:02}", self.year, self.month, self.day)
    }
}

impl FromStr for Date {
    type Err = DateError;

    fn from_str(text: &str) -> Result<Self, DateError> {
        let mut parts = text.splitn(3, '-');
        let mut part = || parts.next().and_then(|part| part.parse::<u16>().ok()).ok_or(DateError);
        let (year, month, day) = (part()?, part()?, part()?);
        if !(1970..=9999).contains(&year) || !(1..=12).contains(&month) {
            return Err(DateError);
        }
        let month = month as u8;
        if day == 0 || day > u16::from(days_in(year, month)) {
            return Err(DateError);
        }
        let date = Self { year, month, day: day as u8 };
        if date.to_string() == text { Ok(date) } else { Err(DateError) }
    }
}
