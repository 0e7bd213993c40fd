//! The auditor's tool: verifies a copied ledger and recomputes every epsilon, without a network.

use std::{io, process::ExitCode};

use clap::Parser;
use eranos_ledger::cli::{Command, run};

/// Verify a ledger and recompute its privacy budgets, offline
///
/// Exit codes: 0 everything holds, 1 something does not, 2 nothing was audited.
#[derive(Debug, Parser)]
#[command(name = "eranos-audit", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

fn main() -> ExitCode {
    run(&Cli::parse().command, &mut io::stdout().lock(), &mut io::stderr().lock()).into()
}
