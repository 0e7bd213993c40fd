//! `eranos client`.

use std::path::{Path, PathBuf};

use clap::Subcommand;
use eranos_base::UserError;
use eranos_nn::data::Format;
use eranos_privacy::{
    Promise,
    budget::{SessionReport, UnitOfPrivacy},
};
use tokio::sync::{mpsc, watch};

use crate::{
    budget, local,
    policy::Unit,
    session::Progress,
    setup::{self, Init},
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
        /// The state folder of another client over the same data: one data set has one budget, whatever the tasks
        #[arg(long)]
        budget: Option<PathBuf>,
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
            budget,
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
                budget: budget.map(|path| std::path::absolute(&path).unwrap_or(path)),
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
        let interrupted = eranos_service::interrupted()?;
        let (stop_sender, stop) = watch::channel(false);
        let (progress, mut heard) = mpsc::channel(64);
        tokio::spawn(async move {
            interrupted.await;
            let _ = stop_sender.send(true);
        });
        let printer = tokio::spawn(async move {
            while let Some(progress) = heard.recv().await {
                match progress {
                    Progress::Phase { phase, round } => {
                        tracing::debug!(?phase, round = round.map(|round| round.0), "phase");
                    }
                    Progress::Warning(warning) => eprintln!("{name}: {warning}"),
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
    let budget = budget::read(config.budget_dir())?;
    let terms = budget.terms();
    // Nothing where no epsilon is promised any more.
    let finite = |epsilon: f64| Some(epsilon).filter(|epsilon| epsilon.is_finite());
    let spent = finite(budget.epsilon_spent());
    let left = spent.map(|spent| (terms.epsilon_limit - spent).max(0.0));
    let sessions = budget.sessions();
    if json {
        let tasks = sessions.iter().map(|session| {
            let [record, client] = session.epsilon_spent.map(finite);
            let mechanism = session.mechanism.as_ref();
            serde_json::json!({
                "task": session.task,
                "session": session.session.to_string(),
                "unit": mechanism.map(|mechanism| mechanism.unit().name()),
                "noise": mechanism.map(|mechanism| mechanism.common().noise.name()),
                "attempts_charged": session.n_charged,
                "attempts_reserved": u32::from(session.reserved.is_some()),
                "receipts": session.n_receipts,
                "epsilon_spent_record": record,
                "epsilon_spent_client": client,
                "epsilon_promised": mechanism.and_then(|mechanism| finite(mechanism.epsilon())),
                "epsilon_attained": session.epsilon_attained.and_then(finite),
                "attempts_left": session.attempts_left,
                "attempts_left_by_plan": session.attempts_left_by_plan,
            })
        });
        let report = serde_json::json!({
            "data_set": terms.data_set,
            "unit": terms.unit.name(),
            "epsilon_spent": spent,
            "epsilon_left": left,
            "epsilon_with_reserved": finite(budget.epsilon_reserved()),
            // The same charges as seen by each unit: neither is ever left out of the other's total, nor added to it.
            "epsilon_spent_record": finite(budget.epsilon_spent_of(UnitOfPrivacy::Record)),
            "epsilon_spent_client": finite(budget.epsilon_spent_of(UnitOfPrivacy::Client)),
            "guarantee": spent.is_some(),
            "epsilon_limit": terms.epsilon_limit,
            "delta": terms.delta,
            "attempts_charged": budget.n_charged(),
            "attempts_reserved": budget.n_reserved(),
            "attempts_without_noise": budget.n_without_noise(),
            "receipts": budget.n_receipts(),
            "tasks": tasks.collect::<Vec<_>>(),
        });
        println!("{report}");
        return Ok(());
    }
    let of = match (spent, left) {
        (Some(spent), Some(left)) => {
            format!("{spent:.3} of epsilon {} spent, {left:.3} left,", terms.epsilon_limit)
        }
        _ => format!(
            "no guarantee: {} charged attempts had no noise, so nothing is promised of this data set",
            budget.n_without_noise()
        ),
    };
    let (n_charged, n_receipts, unit) = (budget.n_charged(), budget.n_receipts(), terms.unit.name());
    println!(
        "{of} at delta {:e} (unit: one {unit}), in {n_charged} charged attempts; {n_receipts} are in the ledger as released",
        terms.delta,
    );
    let other = match terms.unit {
        UnitOfPrivacy::Record => UnitOfPrivacy::Client,
        UnitOfPrivacy::Client => UnitOfPrivacy::Record,
    };
    match finite(budget.epsilon_spent_of(other)) {
        Some(spent) => println!("the same attempts cost one {} epsilon {spent:.3}", other.name()),
        None => println!("the same attempts promise nothing to one {}", other.name()),
    }
    for session in &sessions {
        println!("{}", task_line(session));
    }
    Ok(())
}

/// What one session of a task cost, and what it still may, on one line.
fn task_line(session: &SessionReport) -> String {
    let task = session.task.as_ref().map_or("(not noted)", |task| task.as_str());
    let id: String = session.session.to_string().chars().take(SESSION_SHOWN).collect();
    let Some(mechanism) = &session.mechanism else { return format!("task {task} (session {id}): nothing charged") };
    let reserved = match session.reserved {
        Some(round) => format!(", that of round {round} reserved"),
        None => String::new(),
    };
    let mut line = format!("task {task} (session {id}): {} attempts charged{reserved}", session.n_charged);
    if !mechanism.has_noise() {
        return line + ", without noise: nothing is promised";
    }
    let unit = mechanism.unit();
    line += &format!(
        "; epsilon {:.3} to one {} of {:.3} promised for {}, {:.3} attained",
        session.epsilon_spent[unit as usize],
        unit.name(),
        mechanism.epsilon(),
        mechanism.common().max_attempts,
        session.epsilon_attained.unwrap_or_default(),
    );
    line + &match (session.attempts_left, session.attempts_left_by_plan) {
        (left, by_plan) if left < by_plan => {
            format!("; {left} more until the budget is reached, {by_plan} in the plan")
        }
        (0, _) => "; none left in the plan".to_owned(),
        (left, _) => format!("; {left} more in the plan, all within the budget"),
    }
}

/// How much of a session's name is shown.
const SESSION_SHOWN: usize = 8;
