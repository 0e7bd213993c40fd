//! `eranos-coordinator`: the coordinator alone.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;

/// Arranges rounds of secure aggregation.
#[derive(Parser)]
#[command(name = "eranos-coordinator", version)]
struct Cli {
    #[command(subcommand)]
    command: eranos_coordinator::cli::Command,
}

fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .init();
    match eranos_coordinator::cli::run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
