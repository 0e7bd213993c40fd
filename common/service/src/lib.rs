//! What every long-running process needs: its log, and to hear that it shall end. This crate knows nothing of rounds.

#![forbid(unsafe_code)]

use std::io::{self, IsTerminal};

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
