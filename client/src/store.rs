//! What a client must not forget: its budget, its secret, the last checkpoint of the ledger it verified, and the
//! credentials it has seen. A folder of small files; those with secrets are readable by their owner alone. Budget and
//! secret may lie in a folder that several clients share ([`crate::budget`]).

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use eranos_base::{Digest, RoundNumber, SessionId, Signature, UserError, VerifyingKey, limits::CERTIFICATE_LEN_MAX};
use eranos_ledger::{Checkpoint, LedgerKey, SignedCheckpoint};
use eranos_privacy::{
    Budget,
    budget::{BudgetError, Terms},
};
use eranos_wire::messages::advertise_keys::Credential;
use zeroize::Zeroizing;

use crate::{
    budget::BudgetFile,
    round::{Memory, Step},
};

/// Why something was not stored.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The disk said no.
    #[error("cannot write {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Another process holds the budget's lock.
    #[error("another process does not let go of {}", path.display())]
    Busy {
        /// The file.
        path: PathBuf,
    },
    /// The budget does not allow the step.
    #[error(transparent)]
    Budget(#[from] BudgetError),
}

impl StoreError {
    /// What its operator can do about it.
    pub fn next_step(&self) -> &'static str {
        match self {
            Self::Io { .. } => "free some disk space, check the folder and its owner, and start the client again",
            Self::Busy { .. } => "end the client that hangs: what it was about to do is not done",
            Self::Budget(error) => match error {
                BudgetError::Damaged { .. } => {
                    "do not delete it: it is the record of what was spent; restore it from a backup"
                }
                _ => "wait until the other tasks on this data set are over, or raise no limit that was chosen for them",
            },
        }
    }
}

/// A client's durable state.
pub struct Store {
    dir: PathBuf,
    budget: BudgetFile,
    /// Held for as long as this process may write.
    _lock: File,
    secret: Zeroizing<[u8; 32]>,
    checkpoint: Option<Checkpoint>,
    credentials: Arc<BTreeMap<Digest, Credential>>,
}

impl Store {
    /// Opens the state in `dir`, with budget and secret in `budget_dir`, and makes what is not there: the budget under
    /// `terms`.
    ///
    /// # Errors
    /// If a folder cannot be used, the budget or the secret is gone, damaged or for other terms, or another process has the
    /// state open.
    pub fn open(dir: &Path, budget_dir: &Path, terms: Terms, ledger_key: &LedgerKey) -> Result<Self, UserError> {
        let failed = |what: &str, error: &dyn std::fmt::Display| {
            UserError::new(format!("cannot {what} in {}: {error}", dir.display()), "check the folder and its owner")
        };
        fs::create_dir_all(dir)
            .and_then(|()| sync_dir(dir.parent().unwrap_or(dir)))
            .map_err(|error| failed("make the client's state", &error))?;
        let lock = private().append(true).open(dir.join(LOCK)).map_err(|error| failed("open the lock", &error))?;
        lock.try_lock().map_err(|_| {
            let what = format!("the state in {} is in use by another process", dir.display());
            let next =
                "stop the other client, or give this one a state of its own, and `budget` in client.toml for both";
            UserError::new(what, next)
        })?;
        let (budget, secret) = BudgetFile::open(budget_dir, terms)?;
        let checkpoint = read_checkpoint(&dir.join(CHECKPOINT), ledger_key)?;
        let credentials = Arc::new(read_credentials(&dir.join(CREDENTIALS)));
        Ok(Self { dir: dir.to_owned(), budget, _lock: lock, secret, checkpoint, credentials })
    }

    /// The secret from which the statement keys of tasks are derived.
    pub fn secret(&self) -> &[u8; 32] {
        &self.secret
    }

    /// The budget.
    pub fn budget(&self) -> &Budget {
        self.budget.budget()
    }

    /// Takes in what other clients of the same data set have charged to the budget.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn refresh(&mut self) -> Result<(), StoreError> {
        self.budget.refresh()
    }

    /// What a round begins with.
    pub fn memory(&self) -> Memory {
        Memory {
            budget: self.budget.budget().clone(),
            checkpoint: self.checkpoint.clone(),
            credentials: self.credentials.clone(),
        }
    }

    /// Appends a step to the budget and syncs it. Only after this may anything be done that the step allows.
    ///
    /// # Errors
    /// If the budget does not allow the step, or it is not certain that it is on disk.
    pub fn persist(&mut self, step: &Step, session: SessionId, round: RoundNumber) -> Result<(), StoreError> {
        self.budget.append(|budget| step.prepare(budget, session, round))
    }

    /// Keeps a verified checkpoint of the ledger.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn keep_checkpoint(&mut self, note: &[u8], ledger_key: &LedgerKey) -> Result<(), StoreError> {
        let path = self.dir.join(CHECKPOINT);
        replace(&path, note).map_err(|source| StoreError::Io { path, source })?;
        self.checkpoint = SignedCheckpoint::open(note, ledger_key).ok().map(|signed| signed.checkpoint().clone());
        Ok(())
    }

    /// Keeps a signed checkpoint that does not continue the one kept so far: with that one it proves a fork.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn keep_evidence(&mut self, note: &[u8]) -> Result<(), StoreError> {
        let path = self.dir.join(format!("{EVIDENCE}{}", Digest::of(note)));
        replace(&path, note).map_err(|source| StoreError::Io { path, source })
    }

    /// Keeps credentials that were believed, each under its digest. They are a cache: what is lost is fetched again.
    ///
    /// # Errors
    /// If they cannot be written.
    pub fn remember(&mut self, credentials: Vec<(Digest, Credential)>) -> Result<(), StoreError> {
        let dir = self.dir.join(CREDENTIALS);
        for (digest, credential) in credentials {
            if self.credentials.len() >= CREDENTIALS_MAX || credential.certificate.len() > CERTIFICATE_LEN_MAX {
                continue;
            }
            let Credential { certificate, statement_key, certification } = &credential;
            let bytes = [&statement_key.0[..], &certification.0, certificate].concat();
            let path = dir.join(digest.to_string());
            fs::create_dir_all(&dir)
                .and_then(|()| fs::write(&path, &bytes))
                .map_err(|source| StoreError::Io { path, source })?;
            Arc::make_mut(&mut self.credentials).insert(digest, credential);
        }
        Ok(())
    }
}

/// How a file is made that its owner alone may read.
fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.create(true).mode(0o600);
    options
}

pub(crate) fn sync_dir(dir: &Path) -> io::Result<()> {
    let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
    File::open(dir)?.sync_all()
}

/// Writes aside, syncs, renames, syncs the folder.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let aside = path.with_extension("tmp");
    let mut file = private().write(true).truncate(true).open(&aside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&aside, path)?;
    sync_dir(path.parent().unwrap_or(Path::new("")))
}

fn read_checkpoint(path: &Path, ledger_key: &LedgerKey) -> Result<Option<Checkpoint>, UserError> {
    let note = match fs::read(path) {
        Ok(note) => note,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => {
            let what = format!("cannot read {}: {error}", path.display());
            return Err(UserError::new(what, "check the file's owner"));
        }
    };
    let signed = SignedCheckpoint::open(&note, ledger_key).map_err(|error| {
        let what = format!("the checkpoint in {} is not the pinned ledger's: {error}", path.display());
        UserError::new(what, "compare the ledger key in client.toml with the coordinator's ledger.pub")
    })?;
    Ok(Some(signed.checkpoint().clone()))
}

/// A file holds statement key (32), certification (64) and certificate. Each is kept under the digest of what it holds, so
/// that a damaged one answers for no other.
fn read_credentials(dir: &Path) -> BTreeMap<Digest, Credential> {
    let Ok(entries) = fs::read_dir(dir) else { return BTreeMap::new() };
    let read = |bytes: Vec<u8>| {
        let (statement_key, rest) = bytes.split_first_chunk()?;
        let (certification, certificate) = rest.split_first_chunk()?;
        let (statement_key, certification) = (VerifyingKey(*statement_key), Signature(*certification));
        Some(Credential { certificate: certificate.to_vec(), statement_key, certification })
    };
    let credentials = entries.flatten().filter_map(|entry| read(fs::read(entry.path()).ok()?));
    credentials
        .filter(|credential| credential.certificate.len() <= CERTIFICATE_LEN_MAX)
        .take(CREDENTIALS_MAX)
        .map(|credential| (credential.digest(), credential))
        .collect()
}

const LOCK: &str = "lock";
const CHECKPOINT: &str = "ledger-checkpoint";
const EVIDENCE: &str = "evidence-";
const CREDENTIALS: &str = "credentials";
/// Most credentials kept; about a kilobyte each.
const CREDENTIALS_MAX: usize = 10_000;

#[cfg(test)]
mod tests;
