//! What a command prints. A reader that leaves early, as in `eranos plan solve ... | head`, has seen enough: that is no
//! failure, and what the command does it does to its end.

use std::{
    fmt::Arguments,
    io::{self, Write},
};

/// The standard library's `println`, but that nobody need read to the end.
///
/// # Panics
/// If the output cannot be written for any other reason, such as a full disk: what is not there must not look whole.
#[macro_export]
macro_rules! println {
    ($($argument:tt)*) => { $crate::print!("{}\n", ::std::format_args!($($argument)*)) };
}

/// The standard library's `print` in the same way.
///
/// # Panics
/// As [`println!`].
#[macro_export]
macro_rules! print {
    ($($argument:tt)*) => { $crate::output::put(::std::format_args!($($argument)*)) };
}

/// Writes to the standard output.
///
/// # Panics
/// If it cannot be written, though somebody would read it.
pub fn put(text: Arguments<'_>) {
    if let Err(error) = io::stdout().lock().write_fmt(text)
        && error.kind() != io::ErrorKind::BrokenPipe
    {
        panic!("cannot print: {error}");
    }
}
