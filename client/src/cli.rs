//! `eranos client`.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use clap::Subcommand;
use eranos_base::{UserError, print, println};
use eranos_ledger::cli::load_witness_key;
use eranos_nn::data::Format;
use eranos_privacy::{
    Promise,
    budget::{SessionReport, UnitOfPrivacy},
};
use tokio::sync::{mpsc, watch};

use crate::{
    budget, local,
    policy::Unit,
    preflight::{self, Check, State},
    restored,
    round::End,
    session::{Once, Progress},
    setup::{self, Init},
};

/// `eranos client`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Write client.toml and policy.toml into a folder that holds data and certificates
    Init {
        /// The client's folder
        #[arg(long, default_value_os_t = crate::setup::folder())]
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
        /// A witness who must have cosigned the ledger: its one line, or its witness.pub; may be given again
        ///
        /// Without one a coordinator could show this client a history of its own. Ask the witness itself for its line. All that
        /// are given must have cosigned; policy.toml says how many, and how far they may be behind.
        #[arg(long, value_name = "KEY")]
        witness: Vec<String>,
    },
    /// Look at everything that a round needs, before the first one: certificate, data, policy, state, budget, coordinator,
    /// clock
    ///
    /// It connects to the coordinator as `run` does, is admitted, and leaves without checking in. Nothing is changed.
    #[command(
        after_help = "Exit status: 0 if nothing keeps the client from taking part (warnings included), 1 if something does."
    )]
    Preflight {
        /// The client's folder
        #[arg(long, default_value_os_t = crate::setup::folder())]
        dir: PathBuf,
        /// The task's data.toml, to hold every record against it [default: data.toml in the client's folder, if there]
        #[arg(long)]
        data: Option<PathBuf>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Take part until the task is over
    ///
    /// Conditions in client.toml (hours, load, battery, a command of your own) are looked at before every check-in, never in
    /// the middle of a round. SIGINT or SIGTERM ends it; a round under way is left then, and whoever had sent its vector has
    /// paid for it.
    #[command(after_help = RUN_HELP)]
    Run {
        /// The client's folder
        #[arg(long, default_value_os_t = crate::setup::folder())]
        dir: PathBuf,
        /// Take part in one round and end, for cron and devices on battery
        #[arg(long)]
        once: bool,
        /// With --once: for how many seconds a round may take to begin
        #[arg(long, requires = "once", default_value_t = 600, value_parser = clap::value_parser!(u32).range(1..=86_400))]
        wait: u32,
    },
    /// Look at the ledger in which a restored coordinator goes on, and with --key accept it
    ///
    /// A coordinator that was restored from a backup has lost what came after it, and goes on in another ledger. This client
    /// waits until its operator accepts that: the old checkpoint is kept as evidence, the new key is pinned in client.toml, and
    /// the budget stays as it is. Ask the coordinator's operator for the key by another way than this network.
    AcceptLedger {
        /// The client's folder
        #[arg(long, default_value_os_t = crate::setup::folder())]
        dir: PathBuf,
        /// The new ledger's key: the coordinator's new ledger.pub, or its one line [default: only show what waits]
        #[arg(long)]
        key: Option<String>,
    },
    /// Train on this client's records alone, with no network and no promise of privacy: what it would get by itself
    TrainLocal(local::Options),
    /// Show an auditor which pseudonym of the ledger is this client's, in the task that it takes part in
    ///
    /// Whoever reads it knows in which rounds this client took part. `eranos audit recompute --bindings FILE` checks it.
    Disclose {
        /// The client's folder
        #[arg(long, default_value_os_t = crate::setup::folder())]
        dir: PathBuf,
    },
    /// What was spent of the privacy budget, and what is left
    Budget {
        /// The client's folder
        #[arg(long, default_value_os_t = crate::setup::folder())]
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
pub fn run(command: Command) -> Result<ExitCode, UserError> {
    match command {
        Command::Run { dir, once: true, wait, .. } => return take_part_once(&dir, Duration::from_secs(wait.into())),
        Command::AcceptLedger { dir, key } => restored::accept(&dir, key.as_deref())?,
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
            witness,
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
                witnesses: witness.iter().map(|text| load_witness_key(text)).collect::<Result<_, _>>()?,
            })?;
            println!("wrote {} and {}", dir.join(setup::CONFIG).display(), dir.join(setup::POLICY).display());
        }
        Command::Preflight { dir, data, json } => look(&dir, data.as_deref(), json)?,
        Command::Run { dir, .. } => return take_part(&dir),
        Command::TrainLocal(options) => local::run(&options)?,
        Command::Disclose { dir } => print!("{}", setup::disclose(&dir)?.encode()),
        Command::Budget { dir, json } => show_budget(&dir, json)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints what a look at everything came to.
fn look(dir: &Path, data: Option<&Path>, json: bool) -> Result<(), UserError> {
    let checks = runtime()?.run(preflight::look(dir, data));
    let failed: Vec<&str> =
        checks.iter().filter(|check| check.state == State::Failure).map(|check| check.name).collect();
    if json {
        let lines = checks.iter().map(|Check { name, state, what, next }| {
            serde_json::json!({ "check": name, "state": state.name(), "what": what, "next": next })
        });
        println!("{}", serde_json::json!({ "ready": failed.is_empty(), "checks": lines.collect::<Vec<_>>() }));
    } else {
        for Check { name, state, what, next } in &checks {
            println!("{:8} {name:12} {what}", state.name());
            if let Some(next) = next {
                println!("{:21} -> {next}", "");
            }
        }
    }
    match failed.as_slice() {
        [] => Ok(()),
        names => Err(UserError::new(
            format!("this client cannot take part yet: {}", names.join(", ")),
            "do what stands behind each failure, and look again",
        )),
    }
}

fn take_part(dir: &Path) -> Result<ExitCode, UserError> {
    let session = setup::open(dir, None)?;
    let name = session.member.identity.id.name().to_owned();
    runtime()?.run(async move {
        let (stop, progress, printer) = attend(name)?;
        let result = session.run(progress, stop).await;
        // What it printed last is on its way.
        let _ = printer.await;
        match result {
            Ok(()) => Ok(ExitCode::SUCCESS),
            Err(error) if error.mends_itself() => {
                eprintln!("{}", error.user_error());
                Ok(ExitCode::from(NO_ROUND))
            }
            Err(error) => Err(error.user_error()),
        }
    })
}

fn take_part_once(dir: &Path, wait: Duration) -> Result<ExitCode, UserError> {
    let session = setup::open(dir, None)?;
    let name = session.member.identity.id.name().to_owned();
    runtime()?.run(async move {
        let (stop, progress, printer) = attend(name.clone())?;
        let result = session.run_once(wait, progress, stop).await;
        // What it printed last is on its way.
        let _ = printer.await;
        let (status, what) = match result.map_err(|error| error.user_error())? {
            Once::Released => return Ok(ExitCode::SUCCESS),
            Once::Unmet(unmet) => (ONCE_UNMET, format!("not now: {unmet}")),
            Once::NoRound { reason } => (NO_ROUND, format!("no round began: {reason}")),
            Once::NoResult { reason } => (ONCE_NO_RESULT, format!("the round came to nothing: {reason}")),
            Once::TaskOver => (ONCE_TASK_OVER, "the task is over".to_owned()),
        };
        println!("{name}: {what}");
        Ok(ExitCode::from(status))
    })
}

/// What a client that takes part listens to and tells: the system's wish that it ends, and a line for each round.
type Attended = (watch::Receiver<bool>, mpsc::Sender<Progress>, tokio::task::JoinHandle<()>);

/// Listens for signals, and prints what the client called `name` does.
fn attend(name: String) -> Result<Attended, UserError> {
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
                Progress::Waits { unmet } => println!("{name}: waits: {unmet}"),
                Progress::End { end, epsilon_spent } => {
                    let spent = match epsilon_spent {
                        Some(spent) => format!("epsilon spent {spent:.3}"),
                        None => "no guarantee: rounds without noise were charged".to_owned(),
                    };
                    println!("{name}: {end}; {spent}");
                    if let End::Refused(refusal) = end
                        && refusal.is_for_its_operator()
                    {
                        println!("{name}: help: {}", refusal.next_step());
                    }
                }
            }
        }
    });
    Ok((stop, progress, printer))
}

/// The threads on which a client waits.
struct Runtime(tokio::runtime::Runtime);

fn runtime() -> Result<Runtime, UserError> {
    // One thread works while another blocks on the disk; training has threads of its own.
    let built = tokio::runtime::Builder::new_multi_thread().worker_threads(WORKERS).enable_all().build();
    built
        .map(Runtime)
        .map_err(|error| UserError::new(format!("cannot start: {error}"), "check the limits on threads of this user"))
}

impl Runtime {
    /// Runs to the end, without waiting for what the system does not let go of, as a look for a name's address.
    fn run<T>(self, work: impl Future<Output = T>) -> T {
        let result = self.0.block_on(work);
        self.0.shutdown_timeout(SHUTDOWN_TIME_MAX);
        result
    }
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
                "rounds_left": session.attempts_left,
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
            format!("; {left} rounds left at the present plan: the budget ends them, the plan has {by_plan}")
        }
        (0, _) => "; none left in the plan".to_owned(),
        (left, _) => format!("; {left} rounds left at the present plan, all within the budget"),
    }
}

/// How `run` ends.
const RUN_HELP: &str =
    "Exit status: 0 once the task is over or the client was told to end, 1 after an error that waiting does not mend, \
11 if nobody ever answered.

With --once it says how the one round went:
   0  a round was released with this client in it, and its ledger entry is verified
   1  an error that waiting does not mend, on two lines: refused, turned away, not configured
   2  the command line is wrong
  10  a condition in client.toml does not hold: nobody was dialled
  11  no round began within --wait, or nobody answered: nothing was charged
  12  a round began and came to nothing: it may have been charged
  13  the task is over: there is nothing left to come back for";
const ONCE_UNMET: u8 = 10;
const NO_ROUND: u8 = 11;
const ONCE_NO_RESULT: u8 = 12;
const ONCE_TASK_OVER: u8 = 13;
/// Threads of the runtime.
const WORKERS: usize = 2;
/// How long a client that is done waits for what the system still does for it.
const SHUTDOWN_TIME_MAX: Duration = Duration::from_secs(1);
/// How much of a session's name is shown.
const SESSION_SHOWN: usize = 8;

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use clap::Parser;

    use super::*;
    use crate::conditions::{Conditions, Machine};

    #[derive(Parser)]
    struct Cli {
        #[command(subcommand)]
        command: Command,
    }

    #[test]
    fn the_units_that_are_shipped_start_commands_that_there_are() {
        let units = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/systemd");
        for (unit, is_once) in [("eranos-client@.service", false), ("eranos-client-once@.service", true)] {
            let text = fs::read_to_string(units.join(unit)).expect("shipped");
            let line = text.lines().find_map(|line| line.strip_prefix("ExecStart=")).expect("a command");
            let cli = Cli::try_parse_from(line.split(' ')).unwrap_or_else(|error| panic!("{unit}: {error}"));
            let Command::Run { dir, once, .. } = cli.command else { panic!("{line}") };
            assert_eq!((dir.as_path(), once), (Path::new("/var/lib/eranos/%i"), is_once), "{unit}");
            // What is no failure of a single round is none of the unit.
            let statuses = [ONCE_UNMET, NO_ROUND, ONCE_NO_RESULT, ONCE_TASK_OVER].map(|status| status.to_string());
            assert_eq!(text.contains(&format!("SuccessExitStatus={}\n", statuses.join(" "))), is_once, "{unit}");
        }
        // Both are kept from as much.
        let locked = |unit: &str| -> Vec<String> {
            let text = fs::read_to_string(units.join(unit)).expect("shipped");
            let begins =
                ["Protect", "Private", "Restrict", "SystemCall", "Capability", "DynamicUser", "NoNew", "Memory"];
            let lines = text.lines().filter(|line| begins.iter().any(|begin| line.starts_with(begin)));
            lines.map(str::to_owned).collect()
        };
        assert_eq!(locked("eranos-client@.service"), locked("eranos-client-once@.service"));
        assert!(locked("eranos-client@.service").contains(&"ProtectSystem=strict".to_owned()));
    }

    #[test]
    fn the_conditions_that_init_writes_as_a_comment_are_conditions() {
        let folder = tempfile::tempdir().expect("a folder");
        let key = eranos_ledger::LedgerSigner::new(
            "example.org/ledger".parse().expect("a name"),
            eranos_base::SigningKey::from_seed(&[1; 32]),
        );
        let init = ["client", "init", "--ledger-key", &key.ledger_key().to_string(), "--dir"].map(str::to_owned);
        let cli =
            Cli::try_parse_from(init.into_iter().chain([folder.path().display().to_string()])).expect("a command");
        run(cli.command).expect("written");
        let path = folder.path().join(setup::CONFIG);
        let config = || crate::config::Config::read(&path).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(config().conditions, Conditions::default(), "nothing is asked for by itself");
        let text = fs::read_to_string(&path).expect("written");
        let (before, commented) = text.split_once("# [conditions]\n").expect("shown");
        let keys = ["hours", "load_max", "on_battery", "battery_min", "command"];
        let shown: Vec<&str> = commented
            .lines()
            .filter_map(|line| line.strip_prefix("# "))
            .filter(|line| keys.iter().any(|key| line.starts_with(&format!("{key} = "))))
            .collect();
        assert_eq!(shown.len(), keys.len(), "{commented}");
        fs::write(&path, format!("{before}[conditions]\n{}\n", shown.join("\n"))).expect("written");
        assert_ne!(config().conditions, Conditions::default());
        // Its command, with what it asks answering as each kind of network does, and not there at all.
        let command = shown.iter().find(|line| line.starts_with("command = ")).expect("shown");
        for (says, holds) in [
            (Some("no"), true),
            (Some("yes"), false),
            (Some("no (guessed)"), true),
            (Some("unknown\n\nyes (guessed)"), false),
            (None, false),
        ] {
            let bin = folder.path().join("bin");
            fs::create_dir_all(&bin).expect("made");
            let _ = fs::remove_file(bin.join("nmcli"));
            if let Some(says) = says {
                let script = format!("#!/bin/sh\n[ \"$*\" = '-g GENERAL.METERED device show' ] && echo '{says}'\n");
                fs::write(bin.join("nmcli"), script).expect("written");
                fs::set_permissions(bin.join("nmcli"), fs::Permissions::from_mode(0o755)).expect("set");
            }
            // A path of its own, as a service has one, so that no other nmcli answers.
            let grep = ["/bin/grep", "/usr/bin/grep"].map(Path::new).into_iter().find(|path| path.exists());
            // It may lie there already.
            let _ = std::os::unix::fs::symlink(grep.expect("there"), bin.join("grep"));
            let with_path =
                command.replacen("[\"sh\"", &format!("[\"env\", \"PATH={}\", \"/bin/sh\"", bin.display()), 1);
            let conditions: Conditions = toml::from_str(&with_path).expect("conditions");
            assert_eq!(conditions.unmet(&Machine::this()).is_none(), holds, "{says:?}");
        }
    }
}
