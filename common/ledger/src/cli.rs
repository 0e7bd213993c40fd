//! `eranos audit verify|recompute|statement|report`, and the slim `eranos-audit`, which needs no network.
//!
//! Exit codes: 0 everything holds; 1 at least one finding; 2 the command line or a file is unusable, so that nothing was
//! audited. Findings go to the error stream, two lines each; what was found goes to the output.

use std::{
    fmt::Write as _,
    io::{self, Read, Write},
    path::{Path, PathBuf},
    str::FromStr,
};

use clap::{Args, Subcommand};
use eranos_base::{TaskId, UserError, signing::key_fingerprint};
use eranos_privacy::Noise;
use serde_json::{Value, json};

use crate::{
    audit::{self, AuditError, Finding, Options, Report, TaskSummary},
    binding::{BINDINGS_LEN_MAX, Disclosed},
    cosignature::WitnessKey,
    disclosure::Disclosure,
    entry::{Date, Epsilons},
    note::{KeyError, LedgerKey, NOTE_LEN_MAX, VKEY_LEN_MAX},
    report, statement,
};

/// What an auditor can do with a copied log.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Check every hash, signature, quorum and epsilon of a ledger
    Verify(Target),
    /// Recompute what every pseudonym of every task has spent, and every client whose pseudonyms are disclosed
    Recompute {
        /// Which log, and what it is held against
        #[command(flatten)]
        target: Target,
        /// Bindings of pseudonyms, as `eranos client disclose` and `eranos coordinator disclose` print them
        #[arg(long, value_name = "FILE")]
        bindings: Option<PathBuf>,
    },
    /// Say what each task promises to whom, and what not: a privacy statement in Markdown
    ///
    /// Everything in it is recomputed from the ledger or follows from how Eranos works; what the ledger does not hold (who is
    /// responsible, the purpose) is named as not recorded, for its publisher to add. The first sentence is for everybody; the
    /// rest is what an auditor must find: unit and neighbours, epsilon and delta with their curve, against whom, under which
    /// trust, the mechanism with every parameter, the accountant, and what is not protected.
    ///
    /// Example: eranos audit statement federation/state/ledger --key federation/ledger.pub > PRIVACY-STATEMENT.md
    #[command(verbatim_doc_comment)]
    Statement(Target),
    /// Make a page for whoever has no terminal: what is promised, and how it came about over the rounds
    ///
    /// One file of HTML that opens from disk without a network and can be printed: the privacy statement, epsilon over the
    /// rounds against the budget for the task and each pseudonym, who took part and dropped out, aborted rounds, what is not
    /// protected, and the command that checks it all. It holds no script. Its size is bounded: 16 tasks, 200 pseudonyms and
    /// 100 aborted rounds of each; what is beyond that is summed up, and the page says so.
    ///
    /// Example: eranos audit report federation/state/ledger --key federation/ledger.pub --html report.html
    #[command(verbatim_doc_comment)]
    Report(ReportTarget),
}

impl Command {
    const fn target(&self) -> &Target {
        match self {
            Self::Verify(target) | Self::Recompute { target, .. } | Self::Statement(target) => target,
            Self::Report(ReportTarget { target, .. }) => target,
        }
    }
}

/// Which log is reported, and where to.
#[derive(Clone, Debug, Args)]
pub struct ReportTarget {
    #[command(flatten)]
    target: Target,
    /// Write the page into this file, replacing it; else it is printed
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Bindings of pseudonyms, as `eranos client disclose` and `eranos coordinator disclose` print them
    #[arg(long, value_name = "FILE")]
    bindings: Option<PathBuf>,
}

/// Which log, and what it is held against.
#[derive(Clone, Debug, Args)]
pub struct Target {
    /// The ledger's folder
    pub dir: PathBuf,
    /// The ledger's pinned key: its one line, or a file that holds it
    #[arg(long, value_name = "KEY")]
    pub key: String,
    /// A signed checkpoint seen elsewhere, which the ledger must continue
    #[arg(long, value_name = "FILE")]
    pub known: Option<PathBuf>,
    /// A witness who must have cosigned the checkpoint: its one line, or a file that holds it; may be given again
    ///
    /// A cosignature says that the witness has never cosigned another history of this ledger. Ask the witness itself for its
    /// line, not the ledger's operator.
    #[arg(long, value_name = "KEY")]
    pub witness: Vec<String>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// How an audit ended; the number is the process's exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Everything holds.
    Verified = 0,
    /// Something does not.
    Finding = 1,
    /// Nothing was audited.
    Unusable = 2,
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Runs `command`, printing results to `out` and errors to `err`. A stream that cannot be written to ends it as
/// unusable: what was not printed was not reported.
pub fn run(command: &Command, out: &mut dyn Write, err: &mut dyn Write) -> Exit {
    let Answer { text, report, faults } = match answer(command) {
        Ok(answer) => answer,
        Err(error) => {
            let _ = writeln!(err, "{error}");
            return Exit::Unusable;
        }
    };
    let printed = out
        .write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .and_then(|()| report.findings.iter().try_for_each(|finding| writeln!(err, "{}", advise(finding))))
        .and_then(|()| {
            const NEXT: &str = "ask whoever disclosed it for the binding as it was certified";
            faults.iter().try_for_each(|fault| writeln!(err, "{}", UserError::new(fault.clone(), NEXT)))
        });
    match printed {
        Err(_) => Exit::Unusable,
        Ok(()) if report.is_clean() && faults.is_empty() => Exit::Verified,
        Ok(()) => Exit::Finding,
    }
}

/// What a command prints, and what was found.
struct Answer {
    text: String,
    report: Report,
    /// What does not hold of disclosed bindings.
    faults: Vec<String>,
}

fn answer(command: &Command) -> Result<Answer, UserError> {
    let target = command.target();
    let options = load(target)?;
    if let Command::Report(ReportTarget { html, bindings, .. }) = command {
        let bindings = bindings.as_deref().map(load_bindings).transpose()?;
        let report = report::Report::new(&target.dir, &options, &bindings.unwrap_or_default()).map_err(explain)?;
        let text = match html {
            Some(path) => {
                write_page(path, &target.dir, &report.to_html())?;
                format!("{}\nThe page is {}.\n", report.sentence(), path.display())
            }
            None => report.to_html(),
        };
        let text = if target.json { format!("{}\n", report.to_json()) } else { text };
        return Ok(Answer { text, report: report.audit, faults: report.disclosed.faults });
    }
    let bindings = match command {
        Command::Recompute { bindings: Some(path), .. } => Some(load_bindings(path)?),
        _ => None,
    };
    let report = audit::verify(&target.dir, &options).map_err(explain)?;
    let disclosed = bindings.map(|bindings| bindings.check(&report));
    let text = match (command, target.json) {
        (Command::Statement(_), true) => format!("{}\n", statement::to_json(&report)),
        (Command::Statement(_), false) => statement::to_markdown(&report),
        (_, true) => format!("{}\n", to_json(&report, disclosed.as_ref())),
        (_, false) => to_text(&report, matches!(command, Command::Recompute { .. }), disclosed.as_ref()),
    };
    Ok(Answer { text, report, faults: disclosed.map(|disclosed| disclosed.faults).unwrap_or_default() })
}

/// Writes the page, but not into the ledger: a file of ours in there would be the next audit's finding.
fn write_page(path: &Path, ledger: &Path, page: &str) -> Result<(), UserError> {
    let unusable = |error: io::Error| {
        let what = format!("cannot write the page {}: {error}", path.display());
        UserError::new(what, "give a file in a folder that exists and that you may write to")
    };
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let folder = folder.canonicalize().map_err(unusable)?;
    if ledger.canonicalize().is_ok_and(|ledger| folder.starts_with(ledger)) {
        let what = format!("the page {} would lie in the ledger itself", path.display());
        return Err(UserError::new(what, "give a file in another folder: a ledger holds nothing but its own files"));
    }
    std::fs::write(path, page).map_err(unusable)
}

fn load(target: &Target) -> Result<Options, UserError> {
    let key = load_key(&target.key)?;
    let known = match &target.known {
        None => None,
        Some(path) => Some(read_bounded(path, NOTE_LEN_MAX).map_err(|error| {
            let what = format!("cannot read the known checkpoint {}: {error}", path.display());
            UserError::new(what, "give the file that a client or a witness stored, or leave --known out")
        })?),
    };
    let mut witnesses = Vec::new();
    for text in &target.witness {
        let witness: WitnessKey = load_witness_key(text)?;
        if witness.key() == key.key() {
            let what = format!("--witness: {} has the ledger's own key", witness.name());
            return Err(UserError::new(what, "a witness is somebody else: ask for the line in its own witness.pub"));
        }
        witnesses.push(witness);
    }
    Ok(Options { key, known, witnesses })
}

fn load_bindings(path: &Path) -> Result<Disclosure, UserError> {
    let what = |error: &dyn std::fmt::Display| {
        let what = format!("cannot read the bindings in {}: {error}", path.display());
        UserError::new(what, "give what `eranos client disclose` or `eranos coordinator disclose` printed")
    };
    let bytes = read_bounded(path, BINDINGS_LEN_MAX).map_err(|error| what(&error))?;
    let text = String::from_utf8(bytes).map_err(|error| what(&error))?;
    Disclosure::parse(&text).map_err(|error| what(&error))
}

/// The ledger's key that `text` is, or that the file `text` holds as its one line.
///
/// # Errors
/// If it is neither.
pub fn load_key(text: &str) -> Result<LedgerKey, UserError> {
    let next = "give the line that `eranos coordinator init` printed, or the file ledger.pub that holds it";
    load_line(text, "--key", next)
}

/// The witness's key that `text` is, or that the file `text` holds as its one line.
///
/// # Errors
/// If it is neither.
pub fn load_witness_key(text: &str) -> Result<WitnessKey, UserError> {
    let next = "give the line that `eranos witness init` printed, or the file witness.pub that holds it";
    load_line(text, "--witness", next)
}

fn load_line<K: FromStr<Err = KeyError>>(text: &str, option: &str, next: &str) -> Result<K, UserError> {
    let error = match text.parse::<K>() {
        Ok(key) => return Ok(key),
        Err(error) => error,
    };
    let path = Path::new(text);
    match read_bounded(path, VKEY_LEN_MAX + 2) {
        Ok(bytes) => {
            let line = str::from_utf8(&bytes).unwrap_or_default();
            let line = line.strip_suffix('\n').unwrap_or(line);
            let line = line.strip_suffix('\r').unwrap_or(line);
            line.parse().map_err(|error: KeyError| UserError::new(format!("{}: {error}", path.display()), next))
        }
        // Something with a plus was meant as a key, else as a file.
        Err(_) if text.contains('+') => Err(UserError::new(format!("{option}: {error}"), next)),
        Err(source) => Err(UserError::new(format!("cannot read the key file {text}: {source}"), next)),
    }
}

/// The file's bytes, or an error if there are more than `len_max`.
fn read_bounded(path: &Path, len_max: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(len_max as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > len_max {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("longer than {len_max} bytes")));
    }
    Ok(bytes)
}

fn explain(error: AuditError) -> UserError {
    let next = match error {
        AuditError::Io { .. } => "check that the folder is a complete, readable copy of a ledger",
        AuditError::NotALog { .. } => "give the ledger's folder, the one that holds the file `checkpoint`",
    };
    UserError::new(error.to_string(), next)
}

fn advise(finding: &Finding) -> UserError {
    let next = match finding.fault {
        audit::Fault::Checkpoint(_) => "check the pinned key; if it is right, this is not the ledger that it signed",
        audit::Fault::WitnessIsLedger { .. } => "a witness is somebody else: ask for the line in its own witness.pub",
        audit::Fault::Witness(_) => {
            "ask the witness: with evidence of a fork it has refused; else take a copy that it cosigned"
        }
        audit::Fault::BeyondCheckpoint { .. } => "copy the ledger again while its coordinator is stopped or idle",
        audit::Fault::Tile(_) | audit::Fault::UnexpectedFile { .. } => "compare with another copy of the ledger",
        _ => "keep this copy as evidence, and ask the ledger's operator to explain it",
    };
    UserError::new(finding.to_string(), next)
}

fn to_text(report: &Report, each_pseudonym: bool, disclosed: Option<&Disclosed>) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = match &report.checkpoint {
        Some(c) => writeln!(text, "{}: {} entries under root {}", c.origin, c.size, c.root),
        None => writeln!(text, "no signed checkpoint"),
    };
    for (witness, at) in &report.witnessed {
        let _ = writeln!(text, "  cosigned by {witness} on {} (UTC)", Date::of(*at));
    }
    for (place, task) in report.tasks.iter().enumerate() {
        let TaskSummary { attempts, released, max_attempts, delta, budget_epsilon, .. } = task;
        let _ = writeln!(text, "task {}, session {}", task.task, task.session);
        let _ = writeln!(
            text,
            "  {attempts} of {max_attempts} attempts: {released} released, {} aborted before and {} after the reveal",
            task.aborted_before_reveal, task.aborted_after_reveal
        );
        if let Some(restored) = &task.restored {
            let _ = writeln!(
                text,
                "  goes on from a backup of {}: {} attempts were made there before, at most {} after it are lost",
                restored.old_key, restored.attempts_before, restored.attempts_lost
            );
        }
        match task.noise {
            Noise::Distributed(_) | Noise::Local(_) => {
                let (unit, relation) = (task.unit.name(), task.relation.replace('-', " "));
                let noise = if matches!(task.noise, Noise::Local(_)) { ", local noise" } else { "" };
                let _ =
                    writeln!(text, "  unit {unit}, {relation}{noise}, delta {delta}, budget epsilon {budget_epsilon}");
                let mut view = |name: &str, charged: f64, attained: f64| {
                    let _ = writeln!(text, "  epsilon against {name}: {charged:.6} charged, {attained:.6} attained");
                };
                view("the coordinator with colluders", task.charged.coordinator, task.attained.coordinator);
                view("anyone without a participant", task.charged.outsider, task.attained.outsider);
                if task.restored.is_some() {
                    let _ = writeln!(
                        text,
                        "  with the attempts before this ledger: {:.6} and {:.6} charged",
                        task.charged_in_all.coordinator, task.charged_in_all.outsider
                    );
                }
            }
            Noise::None => {
                let _ = writeln!(text, "  NO NOISE: nothing is promised to anybody's records; epsilon is infinite");
            }
        }
        let n_bound = disclosed.and_then(|disclosed| disclosed.n_bound.get(place)).copied().unwrap_or_default();
        let _ = writeln!(text, "  {} pseudonyms, {n_bound} bindings disclosed", task.pseudonyms.len());
        for one in task.pseudonyms.iter().filter(|_| each_pseudonym) {
            let epsilon = match task.noise {
                Noise::Distributed(_) | Noise::Local(_) => {
                    format!("epsilon {:.6} (outsiders {:.6})", one.charged.coordinator, one.charged.outsider)
                }
                Noise::None => "no guarantee".to_owned(),
            };
            let (pseudonym, attempts, revealed) = (one.pseudonym, one.attempts, one.revealed);
            let _ = writeln!(text, "  {pseudonym}: {attempts} attempts, {revealed} revealed sums, {epsilon}");
        }
    }
    if !report.members.is_empty() {
        let n_opened = disclosed.map_or(0, |disclosed| disclosed.n_opened);
        let (n, n_enrolled) = (report.members.len(), report.n_enrolled());
        let _ = writeln!(text, "{n_enrolled} clients enrolled; {n} entries about members, {n_opened} of them opened");
    }
    for one in disclosed.iter().flat_map(|disclosed| &disclosed.clients) {
        let shown = |epsilon: f64| {
            if epsilon.is_finite() { format!("epsilon {epsilon:.6}") } else { "no guarantee".to_owned() }
        };
        let tasks: Vec<&str> = one.tasks.iter().map(TaskId::as_str).collect();
        let (record, client) = (shown(one.epsilon_record), shown(one.epsilon_client));
        let _ = writeln!(text, "client {}: {} attempts in {}", one.client, one.attempts, tasks.join(", "));
        for (certificate, key) in &one.certificates {
            let key = key_fingerprint(key);
            let _ =
                writeln!(text, "  by the certificate with SHA-256 {certificate}, of the key with fingerprint {key}");
        }
        let _ = writeln!(text, "  of a record {record}, of the client as a whole {client}, delta {}", one.delta);
    }
    let n_faults = report.n_findings + disclosed.map_or(0, |disclosed| disclosed.faults.len() as u64);
    let without_noise: Vec<&str> = report.without_noise().map(|task| task.task.as_str()).collect();
    let _ = match n_faults {
        0 if !without_noise.is_empty() => writeln!(
            text,
            "verified: every hash, signature and quorum holds; NOT PRIVATE: no noise, and no epsilon, in {}",
            without_noise.join(", ")
        ),
        0 => writeln!(text, "verified: every hash, signature, quorum and epsilon holds"),
        1 => writeln!(text, "NOT verified: 1 finding"),
        n => writeln!(text, "NOT verified: {n} findings"),
    };
    text
}

fn to_json(report: &Report, disclosed: Option<&Disclosed>) -> Value {
    // JSON has no infinity: an epsilon that cannot be stated is null.
    let finite = |epsilon: f64| epsilon.is_finite().then_some(epsilon);
    let epsilons = |e: Epsilons| json!({ "coordinator": finite(e.coordinator), "outsider": finite(e.outsider) });
    let tasks: Vec<Value> = report
        .tasks
        .iter()
        .enumerate()
        .map(|(place, task)| {
            let pseudonyms: Vec<Value> = task
                .pseudonyms
                .iter()
                .map(|one| {
                    json!({
                        "pseudonym": one.pseudonym.to_string(),
                        "attempts": one.attempts,
                        "revealed": one.revealed,
                        "epsilon_charged": epsilons(one.charged),
                    })
                })
                .collect();
            json!({
                "task": task.task.as_str(),
                "session": task.session.to_string(),
                "unit": task.unit.name(),
                "relation": task.relation,
                "noise": task.noise.name(),
                "restored": task.restored.as_ref().map(|restored| json!({
                    "old_key": restored.old_key.to_string(),
                    "old_size": restored.old_size,
                    "old_root": restored.old_root.to_string(),
                    "attempts_before": restored.attempts_before,
                    "attempts_lost": restored.attempts_lost,
                    "epsilon_charged_in_all": epsilons(task.charged_in_all),
                })),
                "attempts": task.attempts,
                "max_attempts": task.max_attempts,
                "released": task.released,
                "aborted_before_reveal": task.aborted_before_reveal,
                "aborted_after_reveal": task.aborted_after_reveal,
                "epsilon_charged": epsilons(task.charged),
                "epsilon_attained": epsilons(task.attained),
                "delta": task.delta,
                "budget_epsilon": finite(task.budget_epsilon),
                "weights": task.weights.to_string(),
                "client_attempts_max": task.client_budget.as_ref().map(|set| set.client_attempts_max),
                "published": task.published.as_ref().map(|one| one.file.to_string()),
                "privacy_statement": task.privacy_stated.as_ref().map(|(entry, stated, made_anew)| {
                    json!({ "entry": entry, "sha256": stated.statement.to_string(), "made_anew": made_anew })
                }),
                "bindings_disclosed": disclosed.and_then(|disclosed| disclosed.n_bound.get(place)).unwrap_or(&0),
                "pseudonyms": pseudonyms,
            })
        })
        .collect();
    let findings: Vec<Value> = report
        .findings
        .iter()
        .map(|finding| {
            let entry = finding.entry.as_ref();
            json!({
                "entry": entry.map(|entry| entry.index),
                "kind": entry.and_then(|entry| entry.kind).map(|kind| kind.to_string()),
                "round": entry.and_then(|entry| entry.round),
                "what": finding.fault.to_string(),
            })
        })
        .collect();
    let clients = disclosed.iter().flat_map(|disclosed| &disclosed.clients).map(|one| {
        json!({
            "client": one.client.as_str(),
            // As `eranos certs list --json` names them.
            "certificates": one.certificates.iter().map(|(certificate, key)| json!({
                "certificate_fingerprint": certificate.to_string(),
                "key_fingerprint": key_fingerprint(key).to_string(),
            })).collect::<Vec<_>>(),
            "tasks": one.tasks.iter().map(TaskId::as_str).collect::<Vec<_>>(),
            "attempts": one.attempts,
            "epsilon_record": finite(one.epsilon_record),
            "epsilon_client": finite(one.epsilon_client),
            "delta": one.delta,
        })
    });
    let faults = disclosed.map(|disclosed| disclosed.faults.as_slice()).unwrap_or_default();
    json!({
        "verified": report.is_clean() && faults.is_empty(),
        "clients": clients.collect::<Vec<_>>(),
        "clients_enrolled": report.n_enrolled(),
        "member_entries": report.members.len(),
        "member_entries_opened": disclosed.map_or(0, |disclosed| disclosed.n_opened),
        "binding_faults": faults,
        // False as soon as one task promises nothing, however sound the log is.
        "every_task_has_noise": report.without_noise().next().is_none(),
        "origin": report.checkpoint.as_ref().map(|c| c.origin.as_str()),
        "size": report.checkpoint.as_ref().map(|c| c.size),
        "root": report.checkpoint.as_ref().map(|c| c.root.to_string()),
        "witnessed": report.witnessed.iter().map(|(witness, at)| {
            json!({ "witness": witness.as_str(), "time": at.unix_ms() / 1000 })
        }).collect::<Vec<Value>>(),
        "entries": report.n_entries,
        "tasks": tasks,
        "n_findings": report.n_findings,
        "findings": findings,
    })
}
