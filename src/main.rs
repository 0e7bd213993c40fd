//! `eranos`: one command for everything. It parses the command line and hands over; the work is done in the crates, and
//! in [`demo`], [`trial`], [`data`], [`model`], [`plan`], [`simulate`] and [`witness`] here.

#![forbid(unsafe_code)]

mod data;
mod demo;
mod model;
mod plan;
mod plot;
mod simulate;
mod trial;
mod witness;

use std::{io, process::ExitCode};

use clap::{Parser, Subcommand};
use eranos_base::UserError;
use tracing::level_filters::LevelFilter;

/// Privacy-preserving federated learning: many parties train one model; nobody's data, and nobody's update, is seen by
/// anyone else.
#[derive(Parser)]
#[command(
    name = "eranos",
    version,
    after_help = "Start with `eranos demo`: a whole federation on this machine, with real certificates, QUIC and noise.\n\
                  Every noun has its own help: `eranos certs --help`, `eranos coordinator --help`, ..."
)]
struct Cli {
    #[command(flatten)]
    logging: eranos_service::Logging,
    #[command(subcommand)]
    noun: Noun,
}

#[derive(Subcommand)]
enum Noun {
    /// Run a whole federation here: eight organisations train a model on digits that none of them shows to anyone
    Demo(demo::Options),
    /// Make folders of data for a trial; see what a client sees in its data
    #[command(subcommand)]
    Data(data::Command),
    /// Models: which are built in, what one is made of, what a trained one says
    #[command(subcommand)]
    Model(model::Command),
    /// What a plan costs in epsilon; which noise a promise needs, and whether training survives it
    #[command(subcommand)]
    Plan(plan::Command),
    /// Federations made for the purpose: thousands of clients to plan for, canaries that audit privacy
    ///
    /// `eranos simulate FILE` plays rounds of a task with as many clients as the file says: the real state machines of
    /// coordinator and clients with all of their cryptography, certificates and ledger, without sockets, disk and training. It
    /// says what a round costs everybody in bytes and processor time, how long it takes over the given lines, and whether
    /// it survives so many drop-outs. Every released sum is held against the plain sum of what was put in.
    ///
    /// The same file sends the same bytes and comes to the same end each time: all that is drawn, keys included, comes
    /// from its seed. Only processor times differ.
    #[command(verbatim_doc_comment)]
    Simulate(simulate::Simulate),
    /// The certificate authority: requests, approval, revocation
    #[command(subcommand)]
    Certs(eranos_certs::cli::Command),
    /// The coordinator: arranges rounds of secure aggregation
    #[command(subcommand)]
    Coordinator(eranos_coordinator::cli::Command),
    /// The client: trains locally, clips, noises, masks, and trusts nobody
    #[command(subcommand)]
    Client(eranos_client::cli::Command),
    /// The auditor: verifies a ledger offline, recomputes every epsilon, and says what is promised
    #[command(subcommand)]
    Audit(eranos_ledger::cli::Command),
    /// An independent witness: cosigns a ledger's checkpoint only if nothing before it was changed
    #[command(subcommand)]
    Witness(witness::Command),
}

fn main() -> ExitCode {
    let Cli { logging, noun } = Cli::parse();
    // An operator wants to see what was refused; whoever runs anything else, only what failed.
    let is_coordinator = matches!(noun, Noun::Coordinator(_));
    logging.begin(if is_coordinator { LevelFilter::WARN } else { LevelFilter::ERROR });
    let result: Result<ExitCode, UserError> = match noun {
        Noun::Demo(options) => demo::run(options).map(|()| ExitCode::SUCCESS),
        Noun::Data(command) => data::run(command).map(|()| ExitCode::SUCCESS),
        Noun::Model(command) => model::run(command).map(|()| ExitCode::SUCCESS),
        Noun::Plan(command) => plan::run(command).map(|()| ExitCode::SUCCESS),
        Noun::Simulate(command) => simulate::run(command).map(|()| ExitCode::SUCCESS),
        Noun::Certs(command) => eranos_certs::cli::run(command).map(|()| ExitCode::SUCCESS),
        Noun::Coordinator(command) => eranos_coordinator::cli::run(command).map(|()| ExitCode::SUCCESS),
        Noun::Client(command) => eranos_client::cli::run(command),
        Noun::Audit(command) => {
            let exit = eranos_ledger::cli::run(&command, &mut io::stdout().lock(), &mut io::stderr().lock());
            return exit.into();
        }
        Noun::Witness(command) => return witness::run(command),
    };
    result.unwrap_or_else(|error| {
        eprintln!("{error}");
        ExitCode::FAILURE
    })
}
