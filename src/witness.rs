//! `eranos witness`: an independent party that keeps the last checkpoint of a ledger and cosigns the next one only if it
//! continues that. The work is in [`eranos_ledger::witness`]; this is what a person meets.
//!
//! Exit codes: 0 cosigned; 1 refused, and the evidence is kept; 2 nothing was cosigned for another reason.

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::Subcommand;
use eranos_base::{Clock, OsEntropy, SystemClock, Timestamp, UserError, print, println};
use eranos_ledger::{
    Date, SignedCheckpoint,
    cli::load_key,
    witness::{self, Witness, WitnessError},
};
use serde_json::{Value, json};

/// `eranos witness`.
#[derive(Debug, Subcommand)]
#[command(after_help = "\
A coordinator could show each client a history of its own. A witness remembers the last checkpoint that it saw and cosigns
the next one only if nothing before it was changed or taken back, so whoever demands its cosignature sees the same history
as everybody else who does. It needs a copy of the ledger's folder, no network, and a few milliseconds.

  eranos witness init --name witness.example/w1 --ledger-key ledger.pub --dir witness
  eranos witness cosign copy-of-the-ledger --dir witness --attach
  eranos audit verify copy-of-the-ledger --key ledger.pub --witness witness/witness.pub

Cosignatures are those of C2SP's tlog-cosignature/v1 (Ed25519): other tools of that family verify them.")]
pub(crate) enum Command {
    /// Make a witness of one ledger: its key, and a folder for what it must not forget
    ///
    /// Keep the folder, and never restore an older copy of it: a witness that forgot what it cosigned could cosign
    /// another history. The line that is printed (also in witness.pub) is what auditors pin; hand it to them yourself.
    Init {
        /// The witness's folder
        #[arg(long, default_value = "witness")]
        dir: PathBuf,
        /// Its name in every cosignature, by custom a URL without its scheme: witness.example/w1
        #[arg(long)]
        name: String,
        /// The ledger's pinned key: its one line, or a file that holds it
        #[arg(long, value_name = "KEY")]
        ledger_key: String,
    },
    /// Cosign a ledger's checkpoint, if it continues the one cosigned last; else keep the evidence and exit with 1
    ///
    /// Prints the cosignature, a line for the end of the checkpoint's file.
    Cosign {
        /// The ledger's folder, or a copy of it
        ledger: PathBuf,
        /// The witness's folder
        #[arg(long, default_value = "witness")]
        dir: PathBuf,
        /// Add the cosignature to the checkpoint in the ledger's folder, which no coordinator may have open
        #[arg(long)]
        attach: bool,
        /// Write the checkpoint with its signatures into this file
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Pin another key of the same ledger, after its coordinator has exchanged it
    ///
    /// Compare the new line with the coordinator's operator first, or let `eranos audit verify` follow the exchange in the
    /// ledger from the old key. What was cosigned under the old key must be continued all the same.
    Pin {
        /// The ledger's new key: its one line, or a file that holds it
        #[arg(long, value_name = "KEY")]
        ledger_key: String,
        /// The witness's folder
        #[arg(long, default_value = "witness")]
        dir: PathBuf,
    },
    /// Say what was cosigned last, and whether evidence of a fork or rewind is kept
    Show {
        /// The witness's folder
        #[arg(long, default_value = "witness")]
        dir: PathBuf,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
}

pub(crate) fn run(command: Command) -> ExitCode {
    let error = match command {
        Command::Init { dir, name, ledger_key } => init(&dir, &name, &ledger_key),
        Command::Cosign { ledger, dir, attach, out, json } => cosign(&ledger, &dir, attach, out.as_deref(), json),
        Command::Pin { ledger_key, dir } => pin(&dir, &ledger_key),
        Command::Show { dir, json } => show(&dir, json),
    };
    match error {
        Ok(()) => ExitCode::SUCCESS,
        Err((error, code)) => {
            eprintln!("{error}");
            ExitCode::from(code)
        }
    }
}

type Outcome = Result<(), (UserError, u8)>;

fn init(dir: &Path, name: &str, ledger_key: &str) -> Outcome {
    let ledger = load_key(ledger_key).map_err(unusable)?;
    let name = name.parse().map_err(|error| unusable(explain(&WitnessError::Key(error), dir)))?;
    let line = Witness::init(dir, name, &ledger, &mut OsEntropy).map_err(|error| refused(&error, dir))?;
    println!("{line}");
    eprintln!("A witness of {} is in {}. Hand the line above to auditors yourself.", ledger.name(), dir.display());
    Ok(())
}

fn cosign(ledger: &Path, dir: &Path, attach: bool, out: Option<&Path>, json: bool) -> Outcome {
    let mut witness = Witness::open(dir).map_err(|error| refused(&error, dir))?;
    let cosigned = witness.cosign(ledger, SystemClock.now()).map_err(|error| refused(&error, dir))?.clone();
    if let Some(path) = out {
        fs::write(path, cosigned.note().encode()).map_err(|error| {
            let what = format!("cosigned, but cannot write {}: {error}", path.display());
            unusable(UserError::new(what, "give a file that you may write, and cosign again"))
        })?;
    }
    if attach {
        witness::attach(ledger, &cosigned, witness.ledger()).map_err(|error| refused(&error, dir))?;
    }
    match json {
        true => println!("{}", to_json(&witness).map_err(|error| refused(&error, dir))?),
        false => {
            eprintln!("{}", last(&witness));
            print!("{}", line(&witness, &cosigned));
        }
    }
    Ok(())
}

fn pin(dir: &Path, ledger_key: &str) -> Outcome {
    let ledger = load_key(ledger_key).map_err(unusable)?;
    let mut witness = Witness::open(dir).map_err(|error| refused(&error, dir))?;
    witness.pin(ledger).map_err(|error| refused(&error, dir))?;
    eprintln!("{}", last(&witness));
    Ok(())
}

fn show(dir: &Path, json: bool) -> Outcome {
    let witness = Witness::open(dir).map_err(|error| refused(&error, dir))?;
    if json {
        println!("{}", to_json(&witness).map_err(|error| refused(&error, dir))?);
        return Ok(());
    }
    println!("{}", witness.key());
    println!("{}", last(&witness));
    match witness.n_evidence().map_err(|error| refused(&error, dir))? {
        0 => println!("no fork and no rewind was seen"),
        n => println!("EVIDENCE of {n} forks or rewinds is kept in {}", dir.join("evidence").display()),
    }
    Ok(())
}

/// What was cosigned last, as a sentence.
fn last(witness: &Witness) -> String {
    match witness.last() {
        None => format!("{}: nothing was cosigned yet", witness.ledger().name()),
        Some((signed, at)) => {
            let checkpoint = signed.checkpoint();
            format!(
                "{}: {} entries under root {}, cosigned {}",
                checkpoint.origin,
                checkpoint.size,
                checkpoint.root,
                in_words(at)
            )
        }
    }
}

/// The signature line of this witness.
fn line(witness: &Witness, cosigned: &SignedCheckpoint) -> String {
    let note = cosigned.note().encode();
    // It was added last.
    let own = format!("\u{2014} {} ", witness.key().name());
    note.lines().rfind(|line| line.starts_with(&own)).map(|line| format!("{line}\n")).unwrap_or_default()
}

fn to_json(witness: &Witness) -> Result<Value, WitnessError> {
    let last = witness.last();
    Ok(json!({
        "witness": witness.key().to_string(),
        "ledger": witness.ledger().to_string(),
        "size": last.map(|(signed, _)| signed.checkpoint().size),
        "root": last.map(|(signed, _)| signed.checkpoint().root.to_string()),
        "time": last.map(|(_, at)| at.unix_ms() / 1000),
        "checkpoint": last.map(|(signed, _)| signed.note().encode()),
        "evidence": witness.n_evidence()?,
    }))
}

/// A time to the second.
fn in_words(at: Timestamp) -> String {
    let seconds = at.unix_ms() / 1000 % 86_400;
    format!("on {} at {:02}:{:02}:{:02} UTC", Date::of(at), seconds / 3600, seconds / 60 % 60, seconds % 60)
}

fn unusable(error: UserError) -> (UserError, u8) {
    (error, 2)
}

fn refused(error: &WitnessError, dir: &Path) -> (UserError, u8) {
    let code = if matches!(error, WitnessError::Rewind { .. } | WitnessError::Fork { .. }) { 1 } else { 2 };
    (explain(error, dir), code)
}

fn explain(error: &WitnessError, dir: &Path) -> UserError {
    let next = match error {
        WitnessError::Io { .. } => {
            "check that the folder is there (`eranos witness init` makes one) and may be read and written".to_owned()
        }
        WitnessError::Exists { .. } => {
            "use it, or give another folder: a key that is gone cannot be replaced".to_owned()
        }
        WitnessError::InUse { .. } => {
            "wait for the other process; attach to a copy, never to a ledger in use".to_owned()
        }
        WitnessError::State { .. } => format!(
            "if {} cannot be put right, make a new witness: one that forgot what it cosigned must not go on",
            dir.display()
        ),
        WitnessError::Key(_) => "a name is printable ASCII without space and plus: witness.example/w1".to_owned(),
        WitnessError::NotALog { .. } => "give the ledger's folder, the one that holds the file `checkpoint`".to_owned(),
        WitnessError::Checkpoint(_) => {
            "check that this is the ledger whose key is pinned; a key that was exchanged is followed if the log has the rotations"
                .to_owned()
        }
        WitnessError::Tile(_) | WitnessError::BadCopy { .. } => {
            "copy the ledger again, whole; nothing was cosigned".to_owned()
        }
        WitnessError::Overtaken { .. } => "cosign again; better, work on a copy that nobody writes to".to_owned(),
        WitnessError::Rewind { evidence: Some(evidence), .. } => format!(
            "both checkpoints are kept in {}; if the copy shown is no older one, publish them",
            evidence.display()
        ),
        WitnessError::Fork { evidence: Some(evidence), .. } => {
            format!(
                "nothing was cosigned; publish what is kept in {}: it convicts the ledger's key",
                evidence.display()
            )
        }
        WitnessError::Rewind { evidence: None, .. } | WitnessError::Fork { evidence: None, .. } => format!(
            "keep this copy of the ledger: {} is full, and nothing of it was kept there",
            dir.join("evidence").display()
        ),
        WitnessError::Clock { .. } => {
            "set the clock right; a cosignature must not be older than the one before".to_owned()
        }
    };
    UserError::new(error.to_string(), next)
}
