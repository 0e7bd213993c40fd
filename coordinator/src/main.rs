//! `eranos-coordinator`: the coordinator alone.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;
use tracing::level_filters::LevelFilter;

/// Arranges rounds of secure aggregation.
#[derive(Parser)]
#[command(name = "eranos-coordinator", version)]
struct Cli {
    #[command(flatten)]
    logging: eranos_service::Logging,
    #[command(subcommand)]
    command: eranos_coordinator::cli::Command,
}

fn main() -> ExitCode {
    let Cli { logging, command } = Cli::parse();
    logging.begin(LevelFilter::WARN);
    match eranos_coordinator::cli::run(command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
