//! What a person reads when something went wrong: one line that says what, one that says what to do next.

use std::fmt;

/// An error as a person reads it, on two lines.
///
/// ```
/// let error = eranos_base::UserError::new("cannot read task.toml: no such file", "make one with `eranos coordinator init`");
/// assert_eq!(
///     error.to_string(),
///     "error: cannot read task.toml: no such file\n help: make one with `eranos coordinator init`"
/// );
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserError {
    /// What went wrong: a fragment without a full stop.
    pub what: String,
    /// What to do next: a fragment without a full stop.
    pub next: String,
}

impl UserError {
    /// An error that says `what` went wrong and what to do `next`.
    pub fn new(what: impl Into<String>, next: impl Into<String>) -> Self {
        Self { what: what.into(), next: next.into() }
    }
}

impl fmt::Display for UserError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Each part stays on its own line and moves no cursor, whatever an underlying error printed.
        let line = |text: &str| text.replace(char::is_control, " ");
        write!(f, "error: {}\n help: {}", line(&self.what), line(&self.next))
    }
}

impl std::error::Error for UserError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_two_lines_whatever_it_quotes() {
        let error = UserError::new("file \u{1b}[2Ja\r\nb", "look\u{9b}1A").to_string();
        assert_eq!(error, "error: file  [2Ja  b\n help: look 1A");
    }
}
