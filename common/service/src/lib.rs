//! What every long-running process needs: its log, its folder, and to hear that it shall end. This crate knows nothing of
//! rounds.

#![forbid(unsafe_code)]

use std::{
    env,
    ffi::OsString,
    io::{self, IsTerminal},
    path::{Path, PathBuf},
};

use clap::{Args, ValueEnum};
use eranos_base::UserError;
use tokio::signal::unix::{SignalKind, signal};
use tracing::{Level, Metadata, level_filters::LevelFilter};
use tracing_subscriber::{
    EnvFilter, Layer,
    filter::{FilterExt, filter_fn},
    fmt,
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

/// How a process writes its log.
#[derive(Clone, Copy, Debug, Args)]
pub struct Logging {
    /// How the log is written, on standard error. RUST_LOG says how much: error, warn, info, debug or trace, for all or as
    /// eranos_coordinator=debug
    #[arg(long, global = true, value_enum, default_value = "text", value_name = "FORMAT")]
    log_format: LogFormat,
}

/// The form of a line in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line, for machines; unless RUST_LOG says otherwise, from the level info on.
    Json,
}

impl Logging {
    /// Begins the log. For people it shows `for_people` and what is worse, unless RUST_LOG says otherwise.
    pub fn begin(self, for_people: LevelFilter) {
        let least = match self.log_format {
            LogFormat::Text => for_people,
            LogFormat::Json => LevelFilter::INFO,
        };
        let filter = EnvFilter::builder().with_default_directive(least.into()).from_env_lossy();
        let filter = filter.and(filter_fn(|what| !may_hold_secrets(what)));
        let log = fmt::layer().with_writer(io::stderr).with_ansi(io::stderr().is_terminal());
        let log = match self.log_format {
            LogFormat::Text => log.boxed(),
            LogFormat::Json => log.json().flatten_event(true).boxed(),
        };
        tracing_subscriber::registry().with(log.with_filter(filter)).init();
    }
}

/// At its loudest the QUIC library writes frames out, with tokens in them by which anybody could end a connection.
fn may_hold_secrets(what: &Metadata<'_>) -> bool {
    *what.level() == Level::TRACE && what.target().starts_with("quinn")
}

/// The folder of a `noun` whose `--dir` was not given: the present one where it holds one of the files `marks`, as such a folder
/// does; else `eranos/<noun>` where the user's data lies (XDG Base Directory: `$XDG_DATA_HOME`, or `~/.local/share`). Keys and
/// budgets are data that must not be lost, so it is one folder, and no cache.
pub fn folder(noun: &str, marks: &[&str]) -> PathBuf {
    folder_from(Path::new("."), noun, marks, env::var_os("XDG_DATA_HOME"), env::var_os("HOME"))
}

fn folder_from(here: &Path, noun: &str, marks: &[&str], data: Option<OsString>, home: Option<OsString>) -> PathBuf {
    if marks.iter().any(|mark| here.join(mark).exists()) {
        return here.to_owned();
    }
    // A path that is not absolute is to be ignored, says the specification.
    let absolute = |path: OsString| Some(PathBuf::from(path)).filter(|path| path.is_absolute());
    let data = data.and_then(absolute).or_else(|| Some(home.and_then(absolute)?.join(".local/share")));
    data.map_or(here.to_owned(), |data| data.join("eranos").join(noun))
}

/// Resolves when the operator or the system asks the process to end. It listens from when this is called, inside a
/// runtime.
///
/// # Errors
/// If the system does not let this process listen.
pub fn interrupted() -> Result<impl Future<Output = ()>, UserError> {
    let listen = |kind| {
        signal(kind).map_err(|error| {
            UserError::new(format!("cannot listen for signals: {error}"), "check the limits of this user")
        })
    };
    let (mut interrupt, mut terminate) = (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?);
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_is_not_named_is_the_present_one_if_it_is_such_a_folder_or_lies_with_the_users_data() {
        let here = env!("CARGO_MANIFEST_DIR");
        let check = |mark: &str, data: Option<&str>, home: Option<&str>, expected: &str| {
            let found = folder_from(Path::new(here), "client", &[mark], data.map(Into::into), home.map(Into::into));
            assert_eq!(found, Path::new(expected), "{mark} {data:?} {home:?}");
        };
        check("Cargo.toml", Some("/data"), Some("/home/a"), here);
        check("client.toml", Some("/data"), Some("/home/a"), "/data/eranos/client");
        check("client.toml", None, Some("/home/a"), "/home/a/.local/share/eranos/client");
        check("client.toml", Some("relative"), Some("/home/a"), "/home/a/.local/share/eranos/client");
        check("client.toml", Some(""), None, here);
    }
}
