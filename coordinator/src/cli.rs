//! `eranos coordinator`.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use clap::Subcommand;
use eranos_base::{UserError, print, println};
use eranos_privacy::{Promise, groups::Released, mechanism::NoiseTarget};
use tokio::sync::mpsc;

use crate::{
    backup::{BackedUp, Restored, backup, restore},
    export::{Exported, export},
    federation::RoundReport,
    metrics::METRICS_ADDRESS,
    setup::{self, Coordinator, Init},
    status::{self, Figure, Status},
    task::{Contribution, Graph, Noise, Unit},
};

/// `eranos coordinator`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Write coordinator.toml and task.toml, commented, and make the ledger key
    Init {
        /// The coordinator's folder, with its approved certificate
        #[arg(long, default_value_os_t = crate::setup::folder())]
        dir: PathBuf,
        /// The address and UDP port to listen on
        #[arg(long, default_value = "127.0.0.1:7433")]
        listen: SocketAddr,
        /// A built-in model
        #[arg(long, default_value = "cnn")]
        model: String,
        /// The task's name
        #[arg(long, default_value = "mnist")]
        task: String,
        /// Clients in a round
        #[arg(long, default_value_t = 4)]
        clients: u16,
        /// Rounds to train for
        #[arg(long, default_value_t = 150)]
        rounds: u32,
        /// Epsilon of all attempts together, at delta 1e-5
        #[arg(long, default_value_t = 4.0)]
        epsilon: f64,
        /// NOT PRIVATE: nobody adds noise, nothing is promised, and clients refuse unless their policies allow it
        #[arg(long, conflicts_with = "epsilon")]
        no_noise: bool,
        /// What is protected: one record, or a whole client, which takes thousands of them
        #[arg(long, value_enum, default_value = "record")]
        unit: Unit,
        /// Who adds the noise: all clients together, or each all of it by itself, which costs more; none as --no-noise
        #[arg(long, value_enum, default_value = "distributed", conflicts_with = "no_noise")]
        noise: Noise,
        /// Who shares keys with whom
        #[arg(long, value_enum, default_value = "complete")]
        graph: Graph,
        /// The most records that one client may hold, with unit = record
        #[arg(long, default_value_t = 1500)]
        records_per_client_max: u32,
        /// The data file, which says what a record is and where the test set lies [default: images like MNIST's]
        #[arg(long)]
        data: Option<PathBuf>,
    },
    /// Arrange rounds until the task is over; started again, it goes on where it was
    Run {
        /// The coordinator's folder
        #[arg(long, default_value_os_t = crate::setup::folder())]
        dir: PathBuf,
        /// Show metrics for Prometheus, /healthz and /readyz on this port of this machine
        #[arg(long, value_name = "ADDRESS", num_args = 0..=1, default_missing_value = METRICS_ADDRESS)]
        metrics: Option<SocketAddr>,
    },
    /// What the task has cost, whom, and where its rounds stand; whether or not it runs
    Status {
        /// The coordinator's folder
        #[arg(long, default_value_os_t = crate::setup::folder())]
        dir: PathBuf,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show an auditor whose the ledger's pseudonyms are, and who was enrolled, renewed and revoked by which entry
    ///
    /// Whoever reads it knows who took part in which rounds. `eranos audit recompute --bindings FILE` checks it.
    Disclose {
        /// The coordinator's folder
        #[arg(long, default_value_os_t = crate::setup::folder())]
        dir: PathBuf,
    },
    /// Copy the coordinator's folder while it runs, or while it does not, to go on from if it is lost
    ///
    /// All of it is as of one instant: database, model, and the ledger up to the last entry that the database has. The copy is
    /// verified before it gets its name. It holds this coordinator's SECRETS (key.pem, ledger.seed, the openings that name who
    /// is enrolled): whoever reads it can pose as this coordinator and sign its ledger. Keep it as you keep the folder itself:
    /// encrypted, on another machine, readable by its owner alone.
    Backup {
        /// The coordinator's folder
        #[arg(long, default_value_os_t = crate::setup::folder())]
        dir: PathBuf,
        /// The folder to make; there must be none
        #[arg(long, value_name = "FOLDER")]
        to: PathBuf,
    },
    /// Make a coordinator's folder of a backup: it goes on in a NEW ledger, which every client's operator has to accept
    ///
    /// Whatever came after the backup is lost, and to go on with the old ledger would rewind it, which clients refuse. The new
    /// one says in its second entry, signed by the old key, of which ledger and up to where it goes on, and how many attempts
    /// may be lost. Whoever accepts keeps the old checkpoint and the budget that was really spent. The old ledger lies in
    /// state/before, to be audited. Make sure that the old coordinator never runs again.
    Restore {
        /// The backup
        #[arg(long, value_name = "FOLDER")]
        from: PathBuf,
        /// The folder to make; there must be none
        #[arg(long)]
        dir: PathBuf,
        /// The most attempts that may have been begun since the backup was made: they count as charged to every client
        ///
        /// Nobody can tell from the backup. Look at the log of the lost coordinator, its metrics (eranos_attempts_total), or the
        /// clients: the size of the ledger that one of them knows stands in the second line of its state/ledger-checkpoint, and
        /// each entry beyond the backup's may be an attempt. Take the larger figure where in doubt.
        #[arg(long, value_name = "N")]
        attempts_lost: u32,
    },
    /// Exchange the ledger key for a fresh one, by an entry that both sign; clients and auditors follow
    ///
    /// The coordinator must not run. The old key is gone afterwards: whoever stole it can sign nothing that follows in this
    /// ledger. ledger.pub then holds the new key, for those who pin one from now on.
    RotateKey {
        /// The coordinator's folder
        #[arg(long, default_value_os_t = crate::setup::folder())]
        dir: PathBuf,
    },
    /// Write the weights of the last released model, for `eranos model predict` and whatever reads safetensors
    ///
    /// The file's SHA-256 and the round that released the model are entered into the ledger, so that whoever is given the file
    /// can check where it comes from. The coordinator must not run then.
    Export {
        /// The coordinator's folder
        #[arg(long, default_value_os_t = crate::setup::folder())]
        dir: PathBuf,
        /// The file to write
        #[arg(long, default_value = "model.safetensors")]
        output: PathBuf,
        /// For your own use alone: enter nothing into the ledger, as while the coordinator runs
        #[arg(long)]
        unpublished: bool,
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
            listen,
            model,
            task,
            clients,
            rounds,
            epsilon,
            no_noise,
            unit,
            noise,
            graph,
            records_per_client_max,
            data,
        } => {
            let party = eranos_certs::Party::load(&dir).map_err(UserError::from)?;
            // A quarter of all records is expected in an attempt, one client may drop out of each.
            let init = Init {
                listen,
                state: "state".into(),
                model,
                task,
                clients,
                survivors_min: clients.saturating_sub(1),
                max_colluders: 1,
                graph,
                rounds,
                attempts_max: rounds + rounds.div_ceil(30),
                noise: match noise {
                    _ if no_noise => NoiseTarget::None,
                    Noise::Distributed => NoiseTarget::Distributed { epsilon },
                    Noise::Local => NoiseTarget::Local { epsilon },
                    Noise::None => NoiseTarget::None,
                },
                contribution: match (unit, noise) {
                    (Unit::Record, Noise::Local) => {
                        Contribution::quarter_of_each(records_per_client_max, setup::SILO_TRAINING)
                    }
                    (Unit::Record, _) => Contribution::quarter_of(u32::from(clients), records_per_client_max),
                    (Unit::Client, _) => Contribution::Update(setup::LOCAL_TRAINING),
                },
                data: data.map(|path| std::path::absolute(&path).unwrap_or(path)),
                optimizer: match (unit, noise) {
                    (Unit::Record, Noise::Distributed | Noise::None) => setup::OPTIMIZER.to_owned(),
                    (Unit::Client, _) | (_, Noise::Local) => setup::MEAN_OPTIMIZER.to_owned(),
                },
                l2_clip_norm: setup::CLIP,
                // A silo's own steps measure nothing.
                metrics: Some(setup::METRICS).filter(|_| (unit, noise) != (Unit::Record, Noise::Local)),
                ready_slot_ms: 250,
                dir: dir.clone(),
            };
            let line = setup::init(&init, party.anchor.trust_domain().as_str())?;
            println!("wrote {} and {}", dir.join(setup::CONFIG).display(), dir.join(setup::TASK).display());
            if init.noise == NoiseTarget::None {
                println!("{NO_NOISE}");
            }
            println!("the ledger key, for clients and auditors to pin ({}):", dir.join(setup::LEDGER_PUB).display());
            println!("{line}");
            Ok(())
        }
        Command::Run { dir, metrics } => arrange(&dir, metrics),
        Command::Status { dir, json } => show(&status::status(&dir)?, json),
        Command::Disclose { dir } => {
            let disclosure = setup::disclose(&dir)?;
            disclosure.bindings.iter().for_each(|binding| print!("{}", binding.encode()));
            disclosure.openings.iter().for_each(|opening| print!("{}", opening.encode()));
            Ok(())
        }
        Command::Backup { dir, to } => {
            let BackedUp { n_entries, attempts, n_files, n_bytes, outside } = backup(&dir, &to, &mut told())?;
            println!(
                "copied to {}: {n_entries} entries of the ledger, {attempts} attempts; {n_files} files, {:.1} MB",
                to.display(),
                n_bytes as f64 / 1e6
            );
            println!("verified: the ledger's every entry, the database, and every object by its name");
            println!("it holds this coordinator's secrets: whoever reads it can pose as it and sign its ledger");
            for path in outside {
                println!("NOT in it, since it lies elsewhere: {}", path.display());
            }
            Ok(())
        }
        Command::Restore { from, dir, attempts_lost } => {
            let Restored { old, old_size, attempts_before, attempts_left, key, outside } =
                restore(&from, &dir, attempts_lost, &mut told())?;
            println!(
                "restored {} from the backup: {attempts_before} attempts before, {attempts_lost} lost",
                dir.display()
            );
            println!("LOST: whatever the old ledger {old} had after its first {old_size} entries");
            println!(
                "{attempts_left} attempts are left; the old ledger lies in {}",
                dir.join("state/before").display()
            );
            for path in outside {
                println!("was NOT in the backup, since it lay elsewhere: {}", path.display());
            }
            println!("the new ledger's key ({}):", dir.join(setup::LEDGER_PUB).display());
            println!("{key}");
            println!(
                "each client refuses it until its operator accepts: eranos client accept-ledger --dir CLIENT --key {key}"
            );
            Ok(())
        }
        Command::RotateKey { dir } => {
            let line = setup::rotate_key(&dir)?;
            println!("the ledger's new key ({}):", dir.join(setup::LEDGER_PUB).display());
            println!("{line}");
            Ok(())
        }
        Command::Export { dir, output, unpublished } => {
            let Exported { released, n_parameters, file } = export(&dir, &output, !unpublished)?;
            println!("wrote the {n_parameters} parameters after {released} released rounds to {}", output.display());
            match unpublished {
                true => println!("nothing was entered into the ledger: it is for your own use alone"),
                false => println!("its SHA-256 is {file}, as the ledger says"),
            }
            Ok(())
        }
    }
}

/// Says on the error stream how far a long copy is, now and then.
fn told() -> impl FnMut(&str, u64, u64) {
    let mut last = Instant::now();
    move |what, done, of| {
        if last.elapsed() >= TELL_EVERY {
            last = Instant::now();
            eprintln!("{what}: {done} of {of}");
        }
    }
}

fn arrange(dir: &Path, metrics: Option<SocketAddr>) -> Result<(), UserError> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(|error| {
        UserError::new(format!("cannot start: {error}"), "check the limits on threads of this user")
    })?;
    runtime.block_on(async {
        let stop = eranos_service::interrupted()?;
        let Coordinator { federation, server, mut reports, metrics } = setup::open_with(dir, metrics)?;
        let mechanism = federation.mechanism();
        let (attempts, released) = federation.progress();
        println!(
            "listening on {}; {} parameters, at most {} attempts for {}",
            server.local_address(),
            mechanism.common().n_parameters,
            mechanism.common().max_attempts,
            epsilon_at(mechanism.epsilon(), mechanism.common().delta),
        );
        if !mechanism.has_noise() {
            println!("{NO_NOISE}");
        }
        if let Some(address) = metrics {
            println!("metrics on http://{address}/metrics");
        }
        if attempts > 0 {
            println!("going on after {released} released rounds in {attempts} attempts");
        }
        let printer = tokio::spawn(async move {
            while let Some(report) = reports.recv().await {
                println!("{}", line(&report));
            }
        });
        let (warnings, mut warned) = mpsc::channel::<UserError>(1);
        tokio::spawn(async move {
            while let Some(warning) = warned.recv().await {
                eprintln!("warning: {}\n help: {}", warning.what, warning.next);
            }
        });
        let summary = federation.warning(warnings).run(server, stop).await;
        // What it printed last is on its way.
        let _ = printer.await;
        let summary = summary.map_err(|error| {
            UserError::new(error.to_string(), "nothing is half-done: mend the cause and start the coordinator again")
        })?;
        println!(
            "{} rounds in {} attempts, {}{}{}",
            summary.released,
            summary.attempts,
            epsilon_at(summary.epsilon, summary.delta),
            summary.test.map_or(String::new(), |test| format!(", test accuracy {:.1} %", 100.0 * test.accuracy)),
            train(&summary.train).map_or(String::new(), |train| format!("; last round's train {train} (± the noise)")),
        );
        Ok(())
    })
}

fn show(status: &Status, json: bool) -> Result<(), UserError> {
    if json {
        let text = serde_json::to_string(status);
        println!("{}", text.map_err(|error| UserError::new(error.to_string(), "leave out --json"))?);
        return Ok(());
    }
    let Status { task, unit, released, attempts, aborted, attempts_max, delta, attempts_left, .. } = status;
    println!("task {task}: {released} rounds released in {attempts} attempts, {aborted} aborted");
    if status.attempts_before > 0 {
        let (before, lost) = (status.attempts_before, status.attempts_lost);
        println!("restored from a backup: {before} of these attempts were before this ledger, {lost} of them are lost");
    }
    match (status.epsilon_charged, status.epsilon_promised, status.epsilon_attained) {
        (Some(charged), Some(promised), Some(attained)) => println!(
            "epsilon {charged:.3} at delta {delta:e} (unit: one {unit}) of {promised:.3} promised for {attempts_max} attempts, \
             {attained:.3} attained; {attempts_left} attempts left"
        ),
        _ => println!("{NO_NOISE}; {attempts_left} of {attempts_max} attempts left"),
    }
    if let Some(rounds_left) = status.rounds_left {
        println!("{rounds_left} rounds left at the present plan");
    }
    match (&status.running, status.open_round) {
        (Some(live), _) => {
            let dropped = match live.dropped.as_slice() {
                [] => "nobody dropped".to_owned(),
                names => format!("dropped: {}", names.join(", ")),
            };
            println!(
                "running as process {}: round {}, {} for at most {:.1} s more; cohort {}, {dropped}, {} waiting, {} connected",
                live.process,
                live.round,
                live.phase,
                live.phase_left_ms as f64 / 1e3,
                live.cohort,
                live.waiting,
                live.connected,
            );
            if !live.spent.is_empty() {
                println!(
                    "spent, and selected no more: {}; a round needs {} others",
                    live.spent.join(", "),
                    live.needed
                );
            }
            for (name, figure) in [("loss", live.train.loss), ("accuracy", live.train.accuracy)] {
                if let Some(Figure { value, deviation }) = figure {
                    println!("last round's train {name}: {value:.3} ± {deviation:.3}, the noise in it");
                }
            }
            let megabytes = |bytes: u64| bytes as f64 / 1e6;
            println!(
                "this round: up {:.1} MB, down {:.1} MB; since it began: up {:.1} MB, down {:.1} MB",
                megabytes(live.bytes_up),
                megabytes(live.bytes_down),
                megabytes(live.bytes_up_total),
                megabytes(live.bytes_down_total),
            );
            if let (Some(now), Some(most)) = (live.memory_resident, live.memory_resident_max) {
                println!("memory: {:.1} MB resident, {:.1} MB at most", megabytes(now), megabytes(most));
            }
        }
        (None, Some(round)) => {
            println!("not running; round {round} was under way: the next start aborts it, and it stays charged");
        }
        (None, None) => println!("not running"),
    }
    for (client, account) in &status.clients {
        let spent = account.epsilon_spent.map_or("no guarantee".to_owned(), |spent| format!("epsilon {spent:.3}"));
        println!(
            "client {client}: {spent} in {} attempts, {} vectors received, {} in released sums; {} attempts left",
            account.attempts, account.received, account.released, account.attempts_left
        );
    }
    Ok(())
}

/// How often somebody who waits for a copy hears of it.
const TELL_EVERY: Duration = Duration::from_secs(2);
/// What is said of a task without noise, wherever it is said.
pub const NO_NOISE: &str = "NOT PRIVATE: no noise is added; nothing is promised to anybody's records";

fn epsilon_at(epsilon: f64, delta: f64) -> String {
    match epsilon.is_finite() {
        true => format!("epsilon {epsilon:.3} at delta {delta:e}"),
        false => "no epsilon: nothing is promised".to_owned(),
    }
}

/// One round on one line.
pub fn line(report: &RoundReport) -> String {
    let accuracy = report.test_accuracy.map_or(String::new(), |a| format!("  accuracy {:5.1} %", 100.0 * a));
    let train = train(&report.train).map_or(String::new(), |train| format!("  train {train}"));
    let clip = report.l2_clip_norm.map_or(String::new(), |clip| format!("  clip {clip:.3}"));
    let dropped: Vec<String> = report.dropped.iter().map(|(id, phase)| format!("{} ({phase})", id.name())).collect();
    let dropped = if dropped.is_empty() { String::new() } else { format!("  dropped: {}", dropped.join(", ")) };
    let aborted = report.aborted.as_ref().map_or(String::new(), |reason| format!("  aborted: {reason}"));
    let epsilon = match report.epsilon.is_finite() {
        true => format!("epsilon {:.3}", report.epsilon),
        false => "NO NOISE".to_owned(),
    };
    format!(
        "round {:3}/{}{accuracy}{train}{clip}  {epsilon}  up {:.1} MB, down {:.1} MB  {:.2} s{dropped}{aborted}",
        report.released,
        report.rounds,
        report.bytes_up as f64 / 1e6,
        report.bytes_down as f64 / 1e6,
        report.took.as_secs_f64(),
    )
}

/// Loss and accuracy on what the clients trained on, each with the deviation of the noise in it; nothing where they do not
/// travel.
pub fn train(released: &Released) -> Option<String> {
    let (loss, accuracy) = (released.loss?, released.accuracy?);
    Some(format!(
        "loss {:.2} ± {:.2}, accuracy {:.1} ± {:.1} %",
        loss.value,
        loss.deviation,
        100.0 * accuracy.value,
        100.0 * accuracy.deviation
    ))
}
