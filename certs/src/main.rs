//! `eranos-certs`: the authority's tool alone, for the machine where the authority is kept.

use std::process::ExitCode;

use clap::Parser;

/// Keep a federation's certificate authority: who may take part, and under which key.
#[derive(Parser)]
#[command(version, about, long_about = eranos_certs::cli::LONG_ABOUT)]
struct Arguments {
    #[command(subcommand)]
    command: eranos_certs::cli::Command,
}

fn main() -> ExitCode {
    match eranos_certs::cli::run(Arguments::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
