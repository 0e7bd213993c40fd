//! `eranos-client`: the client alone, for edge devices.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;

/// Takes part in federated training: trains locally, clips, noises, masks, and trusts nobody.
#[derive(Parser)]
#[command(name = "eranos-client", version)]
struct Cli {
    #[command(subcommand)]
    command: eranos_client::cli::Command,
}

fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .init();
    match eranos_client::cli::run(Cli::parse().command) {
        Ok(status) => status,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
