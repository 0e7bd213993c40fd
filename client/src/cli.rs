//! `eranos client`.

use std::path::{Path, PathBuf};

use clap::Subcommand;
use eranos_base::UserError;
use eranos_nn::data::Format;
use eranos_privacy::{Budget, budget::UnitOfPrivacy};
use tokio::sync::{mpsc, watch};

use crate::{
    local,
    policy::Unit,
    session::Progress,
    setup::{self, Init},
    store,
};

/// `eranos client`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Write client.toml and policy.toml into a folder that holds data and certificates
    Init {
        /// The client's folder
        #[arg(long, default_value = ".")]
        dir: PathBuf,
        /// The coordinator, host:port
        #[arg(long, default_value = "localhost:7433")]
        coordinator: String,
        /// The coordinator's ledger.pub, or its one line
        #[arg(long)]
        ledger_key: String,
        /// The task to take part in
        #[arg(long, default_value = "mnist")]
        task: String,
        /// What is protected
        #[arg(long, value_enum, default_value = "record")]
        unit: Unit,
        /// The most epsilon that this data set may ever be charged
        #[arg(long, default_value_t = 4.0)]
        epsilon_max: f64,
        /// Take part in plans without any noise too: nothing is promised to this data set then, now or later
        #[arg(long)]
        allow_no_noise: bool,
        /// The least number of clients in a sum
        #[arg(long, default_value_t = 3)]
        survivors_min: u16,
        /// The most identities that may work with the coordinator
        #[arg(long, default_value_t = 1)]
        max_colluders: u16,
        /// The most records that this client may hold, a public constant
        #[arg(long, default_value_t = 1500)]
        records_max: u32,
        /// The client's data, in its folder: records in IDX, or a table (.csv or .tsv)
        #[arg(long, default_value = "images-idx3-ubyte.gz")]
        records: String,
        /// The labels of records in IDX [default: labels-idx1-ubyte.gz, unless the records are a table]
        #[arg(long)]
        labels: Option<String>,
        /// The names of a table's columns, with commas between them, if its first line does not name them
        #[arg(long, value_delimiter = ',')]
        columns: Vec<String>,
        /// How many classes there are
        #[arg(long, default_value_t = 10)]
        classes: u32,
    },
    /// Take part until the task is over
    Run {
        /// The client's folder
        #[arg(long, default_value = ".")]
        dir: PathBuf,
    },
    /// Train on this client's records alone, with no network and no promise of privacy: what it would get by itself
    TrainLocal(local::Options),
    /// Show an auditor which pseudonym of the ledger is this client's, in the task that it takes part in
    ///
    /// Whoever reads it knows in which rounds this client took part. `eranos audit recompute --bindings FILE` checks it.
    Disclose {
        /// The client's folder
        #[arg(long, default_value = ".")]
        dir: PathBuf,
    },
    /// What was spent of the privacy budget, and what is left
    Budget {
        /// The client's folder
        #[arg(long, default_value = ".")]
        dir: PathBuf,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

/// Runs a command.
///
/// # Errors
/// What went wrong and what to do next.
pub fn run(command: Command) -> Result<(), UserError> {
    match command {
        Command::Init {
            dir,
            coordinator,
            ledger_key,
            task,
            unit,
            epsilon_max,
            allow_no_noise,
            survivors_min,
            max_colluders,
            records_max,
            records,
            labels,
            columns,
            classes,
        } => {
            let is_table = Format::of(Path::new(&records)).is_ok();
            let labels = labels.or((!is_table).then(|| "labels-idx1-ubyte.gz".to_owned()));
            setup::init(&Init {
                dir: dir.clone(),
                coordinator,
                ledger_key,
                task,
                unit,
                epsilon_max,
                allow_no_noise,
                survivors_min,
                max_colluders,
                records_max,
                records,
                labels,
                columns,
                classes,
            })?;
            println!("wrote {} and {}", dir.join(setup::CONFIG).display(), dir.join(setup::POLICY).display());
            Ok(())
        }
        Command::Run { dir } => take_part(&dir),
        Command::TrainLocal(options) => local::run(&options),
        Command::Disclose { dir } => {
            print!("{}", setup::disclose(&dir)?.encode());
            Ok(())
        }
        Command::Budget { dir, json } => show_budget(&dir, json),
    }
}

fn take_part(dir: &Path) -> Result<(), UserError> {
    let session = setup::open(dir, None)?;
    let name = session.member.identity.id.name().to_owned();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(|error| {
        UserError::new(format!("cannot start: {error}"), "check the limits on threads of this user")
    })?;
    runtime.block_on(async move {
        let (stop_sender, stop) = watch::channel(false);
        let (progress, mut heard) = mpsc::channel(64);
        tokio::spawn(async move {
            // A second signal ends the process the usual way.
            if tokio::signal::ctrl_c().await.is_ok() {
                let _ = stop_sender.send(true);
            }
        });
        let printer = tokio::spawn(async move {
            while let Some(progress) = heard.recv().await {
                match progress {
                    Progress::Phase { phase, round } => {
                        tracing::debug!(?phase, round = round.map(|round| round.0), "phase");
                    }
                    Progress::End { end, epsilon_spent } => {
                        let spent = match epsilon_spent {
                            Some(spent) => format!("epsilon spent {spent:.3}"),
                            None => "no guarantee: rounds without noise were charged".to_owned(),
                        };
                        println!("{name}: {end}; {spent}");
                    }
                }
            }
        });
        let result = session.run(progress, stop).await;
        // What it printed last is on its way.
        let _ = printer.await;
        result.map_err(|error| error.user_error())
    })
}

fn show_budget(dir: &Path, json: bool) -> Result<(), UserError> {
    let config = crate::config::Config::read(&dir.join(setup::CONFIG))?;
    let path = config.state.join(store::BUDGET);
    let bytes = std::fs::read(&path).map_err(|error| {
        let what = format!("cannot read {}: {error}", path.display());
        UserError::new(what, "a client that never ran has no budget yet: `eranos client run`")
    })?;
    let (budget, _) = Budget::parse(&bytes).map_err(|error| {
        let what = format!("the budget in {} is damaged: {error}", path.display());
        UserError::new(what, "do not delete it: it is the record of what was spent; restore it from a backup")
    })?;
    let (terms, n_without_noise) = (budget.terms(), budget.n_without_noise());
    let spent = Some(budget.epsilon_spent()).filter(|epsilon| epsilon.is_finite());
    let unit = terms.unit.name();
    // The same charges as seen by the other unit: neither is ever left out of the other's total, nor added to it.
    let spent_of = |unit| Some(budget.epsilon_spent_of(unit)).filter(|epsilon| epsilon.is_finite());
    if json {
        let report = serde_json::json!({
            "data_set": terms.data_set,
            "unit": unit,
            // Null where no epsilon is promised any more.
            "epsilon_spent": spent,
            "epsilon_spent_record": spent_of(UnitOfPrivacy::Record),
            "epsilon_spent_client": spent_of(UnitOfPrivacy::Client),
            "guarantee": spent.is_some(),
            "epsilon_limit": terms.epsilon_limit,
            "delta": terms.delta,
            "attempts_charged": budget.n_charged(),
            "attempts_without_noise": n_without_noise,
            "receipts": budget.n_receipts(),
        });
        println!("{report}");
    } else {
        let of = match spent {
            Some(spent) => format!("{spent:.3} of epsilon {} spent", terms.epsilon_limit),
            None => format!(
                "no guarantee: {n_without_noise} charged attempts had no noise, so nothing is promised of this data set"
            ),
        };
        println!(
            "{of} at delta {:e} (unit: one {unit}), in {} charged attempts; {} are in the ledger as released",
            terms.delta,
            budget.n_charged(),
            budget.n_receipts(),
        );
        let other = match terms.unit {
            UnitOfPrivacy::Record => UnitOfPrivacy::Client,
            UnitOfPrivacy::Client => UnitOfPrivacy::Record,
        };
        match spent_of(other) {
            Some(spent) => println!("the same attempts cost one {} epsilon {spent:.3}", other.name()),
            None => println!("the same attempts promise nothing to one {}", other.name()),
        }
    }
    Ok(())
}
