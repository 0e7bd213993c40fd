//! What a person reads when something went wrong: one line that says what, one that says what to do next.

use std::{fmt, path::Path};

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

    /// A `problem` with the `text` of the file `path`, at the byte `offset` if it is known: the error names the line.
    pub fn in_text(path: &Path, text: &str, offset: Option<usize>, problem: &str, next: &str) -> Self {
        let before = |offset: usize| text.bytes().take(offset).filter(|&byte| byte == b'\n').count();
        let line = offset.map_or(String::new(), |offset| format!(", line {}", before(offset) + 1));
        Self::new(format!("{}{line}: {problem}", path.display()), next)
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
    fn an_error_in_a_text_names_its_line() {
        let error =
            |offset| UserError::in_text(Path::new("a.toml"), "a = 1\nb = \n", offset, "no value", "write one").what;
        assert_eq!(error(Some(0)), "a.toml, line 1: no value");
        assert_eq!(error(Some(9)), "a.toml, line 2: no value");
        assert_eq!(error(Some(usize::MAX)), "a.toml, line 3: no value");
        assert_eq!(error(None), "a.toml: no value");
    }

    #[test]
    fn an_error_is_two_lines_whatever_it_quotes() {
        let error = UserError::new("file \u{1b}[2Ja\r\nb", "look\u{9b}1A").to_string();
        assert_eq!(error, "error: file  [2Ja  b\n help: look 1A");
    }
}
