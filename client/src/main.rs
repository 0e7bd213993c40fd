//! `eranos-client`: the client alone, for edge devices.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;
use tracing::level_filters::LevelFilter;

/// Takes part in federated training: trains locally, clips, noises, masks, and trusts nobody.
#[derive(Parser)]
#[command(name = "eranos-client", version)]
struct Cli {
    #[command(flatten)]
    logging: eranos_service::Logging,
    #[command(subcommand)]
    command: eranos_client::cli::Command,
}

fn main() -> ExitCode {
    let Cli { logging, command } = Cli::parse();
    logging.begin(LevelFilter::ERROR);
    match eranos_client::cli::run(command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
