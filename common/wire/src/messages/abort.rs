//! `abort`: from anywhere, by either side, with the reason.

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

/// A reason for a person, cut to [`REASON_LEN_MAX`] bytes and free of control characters (it ends in logs).
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
        for c in text.chars().map(|c| if c.is_control() { ' ' } else { c }) {
            if reason.len() + c.len_utf8() > REASON_LEN_MAX {
                break;
            }
            reason.push(c);
        }
        Self(reason)
    }
}

impl From<&str> for Reason {
    fn from(text: &str) -> Self {
        text.to_owned().into()
    }
}
