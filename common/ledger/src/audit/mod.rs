//! The auditor, who trusts nobody: reads a copied log from its first entry to its last, recomputes every hash, every
//! quorum and every epsilon, and names the entry at which something does not hold.
//!
//! One pass, one bundle in memory at a time; what is kept grows with the number of tasks and pseudonyms, not with the
//! number of entries. What an audit cannot show is said in `docs/ledger.md`: that the keys of a quorum belong to
//! enrolled clients needs disclosed bindings, and that the log shown to the auditor is the one shown to the clients
//! needs one of their checkpoints ([`Options::known`]).

mod fault;
mod keys;
mod meaning;
mod members;
mod structure;
mod summary;
mod task;

use std::{
    io,
    path::{Path, PathBuf},
};

use crate::{
    cosignature::WitnessKey,
    entry::Entry,
    log::{CHECKPOINT_FILE, read_checkpoint},
    note::LedgerKey,
    tile::Folder,
};

use self::{
    fault::Findings,
    keys::Keys,
    meaning::Ledger,
    structure::{Structure, walk},
};
pub use self::{
    fault::{EntryRef, FINDINGS_MAX, Fault, Finding},
    meaning::{PSEUDONYMS_MAX, TASKS_MAX},
    members::MEMBERS_MAX,
    structure::ATTACHMENTS_KEPT_MAX,
    summary::{PseudonymSummary, Report, TaskSummary},
    task::{EPSILON_TOLERANCE, EXECUTABLES_MAX, STATEMENTS_MAX},
};

/// Why a log could not be audited at all.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// A file or folder cannot be read.
    #[error("cannot read {path}: {source}", path = path.display())]
    Io {
        /// Its path.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// There is no checkpoint: this is no log.
    #[error("{path} has no checkpoint", path = path.display())]
    NotALog {
        /// The folder.
        path: PathBuf,
    },
}

/// What to hold a log against.
#[derive(Clone, Debug)]
pub struct Options {
    /// The ledger's pinned key.
    pub key: LedgerKey,
    /// A signed checkpoint seen elsewhere (a client's, a witness's, last year's), as its note's bytes: the log must
    /// continue it.
    pub known: Option<Vec<u8>>,
    /// The witnesses each of whom must have cosigned the checkpoint.
    pub witnesses: Vec<WitnessKey>,
}

impl Options {
    /// Held against its pinned key alone.
    pub const fn new(key: LedgerKey) -> Self {
        Self { key, known: None, witnesses: Vec::new() }
    }
}

/// Audits the log in `dir` against `options`: structure, signature, every tile, every entry, every quorum, every
/// epsilon.
///
/// # Errors
/// If the folder cannot be read or holds no log. What is wrong with a log that can be read is in the report.
pub fn verify(dir: &Path, options: &Options) -> Result<Report, AuditError> {
    pass(dir, options, Some(Ledger::new(&options.key, None)))
}

/// Audits as [`verify`] does, and shows `seen` each well-formed entry on the way, whether or not it will hold.
///
/// # Errors
/// As [`verify`].
pub fn verify_seeing(
    dir: &Path,
    options: &Options,
    seen: &mut dyn FnMut(EntryRef, &Entry),
) -> Result<Report, AuditError> {
    pass(dir, options, Some(Ledger::new(&options.key, Some(seen))))
}

/// Audits only that the log in `dir` is one: signature, every tile, every hash, every file. What the entries say is not
/// looked at, so the report has no tasks. This is what a mirror needs.
///
/// # Errors
/// If the folder cannot be read or holds no log.
pub fn verify_structure(dir: &Path, options: &Options) -> Result<Report, AuditError> {
    pass(dir, options, None)
}

fn pass(dir: &Path, options: &Options, mut ledger: Option<Ledger<'_>>) -> Result<Report, AuditError> {
    let bytes = match read_checkpoint(dir) {
        Ok(Some(bytes)) => bytes,
        Ok(None) => return Err(AuditError::NotALog { path: dir.to_owned() }),
        Err(source) => return Err(AuditError::Io { path: dir.join(CHECKPOINT_FILE), source }),
    };
    let mut findings = Findings::default();
    let folder = Folder::new(dir);
    let keys = Keys::of(&folder, &bytes, &options.key)?;
    let checkpoint = match keys.open(&bytes) {
        Ok(signed) => signed,
        Err(fault) => {
            findings.add(None, Fault::Checkpoint(fault));
            // Without a signed size nothing below it means anything.
            return Ok(Report {
                checkpoint: None,
                witnessed: Vec::new(),
                opened: None,
                n_entries: 0,
                tasks: Vec::new(),
                members: Vec::new(),
                n_findings: findings.n,
                findings: findings.kept,
            });
        }
    };
    let mut witnessed = Vec::new();
    for witness in &options.witnesses {
        if keys.includes(witness.key()) {
            findings.add(None, Fault::WitnessIsLedger { name: witness.name().clone() });
            continue;
        }
        match witness.verify(checkpoint.note()) {
            Ok(at) => witnessed.push((witness.name().clone(), at)),
            Err(fault) => findings.add(None, Fault::Witness(fault)),
        }
    }
    let checkpoint = checkpoint.checkpoint().clone();
    let known = options.known.as_deref().and_then(|note| match keys.open(note) {
        Ok(signed) => Some(signed.checkpoint().clone()),
        Err(fault) => {
            findings.add(None, Fault::KnownCheckpoint(fault));
            None
        }
    });
    if let Some(known) = &known
        && known.size > checkpoint.size
    {
        findings.add(None, Fault::Rewind { size: checkpoint.size, known: known.size });
    }
    let mut structure = Structure::new(&folder, &checkpoint, known.as_ref());
    structure.read(ledger.as_mut(), &mut findings)?;
    if let Some(ledger) = &ledger {
        ledger.finish(&mut findings);
    }
    let found = walk(&folder, checkpoint.size, &mut findings)?;
    let named = structure.n_attachments;
    // No two attempts have the same counts of their participants, so that two entries which name one attachment are a finding;
    // and each that is named was read. Where the counts agree, the two sets are one, at no memory for either.
    if structure.frontier.size() == checkpoint.size && found > named {
        findings.add(None, Fault::UnnamedAttachments { found, named });
    }
    let n_entries = structure.frontier.size();
    let Findings { kept, n } = findings;
    let opened = ledger.as_ref().and_then(|ledger| ledger.opened.clone());
    let (tasks, members) = ledger.map(Ledger::summaries).unwrap_or_default();
    Ok(Report {
        checkpoint: Some(checkpoint),
        witnessed,
        opened,
        n_entries,
        tasks,
        members,
        findings: kept,
        n_findings: n,
    })
}
