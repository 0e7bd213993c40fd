//! `abort`: from anywhere, by either side, with the reason.

use std::fmt;

use eranos_base::limits::REASON_LEN_MAX;
use serde::{Deserialize, Serialize};

use super::RoundRef;

/// The client leaves the round. It has wiped its keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Abort {
    /// The round.
    pub round: RoundRef,
    /// Why: a refusal's text. It says nothing about data.
    pub reason: Reason,
}

/// The round is over without a result, or over for this client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Aborted {
    /// Why.
    pub reason: Reason,
}

/// A peer's words for a person, cut to [`REASON_LEN_MAX`] bytes and free of characters that steer a terminal, break a line
/// or turn the direction of writing: they end in logs and on screens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String")]
pub struct Reason(String);

impl Reason {
    /// The reason as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<String> for Reason {
    fn from(text: String) -> Self {
        let mut reason = String::new();
        for c in text.chars().map(|c| if steers(c) { ' ' } else { c }) {
            if reason.len() + c.len_utf8() > REASON_LEN_MAX {
                break;
            }
            reason.push(c);
        }
        Self(reason)
    }
}

/// Whether a character does something else than show itself: control characters, and those of Unicode's general category
/// "format" and its line and paragraph separators that act on the text around them (UAX #9, section 2).
fn steers(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<&str> for Reason {
    fn from(text: &str) -> Self {
        text.to_owned().into()
    }
}
