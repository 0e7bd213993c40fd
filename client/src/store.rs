//! What a client must not forget: its budget, its secret, the last checkpoint of the ledger it verified, and the
//! credentials it has seen. A folder of small files; those with secrets are readable by their owner alone. Budget and
//! secret may lie in a folder that several clients share (`budget.rs`).

use std::{
    collections::BTreeMap,
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use eranos_base::{Digest, RoundNumber, SessionId, Signature, UserError, VerifyingKey, limits::CERTIFICATE_LEN_MAX};
use eranos_ledger::{Checkpoint, LedgerKey, SignedCheckpoint, note::NOTE_LEN_MAX};
use eranos_privacy::{
    Budget,
    budget::{BudgetError, Terms},
};
use eranos_wire::messages::advertise_keys::Credential;
use zeroize::Zeroizing;

use crate::{
    budget::{BudgetFile, SECRET, read_secret},
    restored,
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
    /// The pinned key, and the last two that it led to, the newest last; never empty.
    ledger_keys: Vec<LedgerKey>,
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
        private_dir(dir)
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
        let ledger_keys = read_ledger_keys(&dir.join(LEDGER_KEYS), ledger_key)?;
        let checkpoint = read_checkpoint(&dir.join(CHECKPOINT), &ledger_keys)?;
        if let Some(path) = evidence(dir, &ledger_keys).map_err(|error| failed("look for evidence", &error))? {
            let what = format!(
                "{} is signed by the ledger's key, and does not continue the {CHECKPOINT} that this client keeps",
                path.display()
            );
            let next = "compare both with the other parties: somebody is shown another history. To take part all the same, \
                        move the evidence to another folder";
            return Err(UserError::new(what, next));
        }
        let credentials = Arc::new(read_credentials(&dir.join(CREDENTIALS)));
        let dir = dir.to_owned();
        Ok(Self { dir, budget, _lock: lock, secret, ledger_keys, checkpoint, credentials })
    }

    /// The ledger's key: the pinned one, or the last that it led to.
    pub fn ledger_key(&self) -> &LedgerKey {
        self.ledger_keys.last().unwrap_or_else(|| unreachable!("the pinned key is there"))
    }

    /// The pinned key, and the last ones that it led to.
    pub fn ledger_keys(&self) -> &[LedgerKey] {
        &self.ledger_keys
    }

    /// Keeps `key` as the ledger's from now on.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn keep_ledger_key(&mut self, key: &LedgerKey) -> Result<(), StoreError> {
        // The checkpoint may still be of the key before this one, until it is replaced too.
        let before = self.ledger_keys.len().saturating_sub(1).max(1);
        self.ledger_keys.drain(1..before);
        self.ledger_keys.push(key.clone());
        let path = self.dir.join(LEDGER_KEYS);
        let lines: String = self.ledger_keys.iter().map(|key| format!("{key}\n")).collect();
        replace(&path, lines.as_bytes()).map_err(|source| StoreError::Io { path, source })
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
            ledger_keys: self.ledger_keys.clone(),
            credentials: self.credentials.clone(),
        }
    }

    /// Appends a step to the budget and syncs it. Only after this may anything be done that the step allows.
    ///
    /// # Errors
    /// If the budget does not allow the step, or it is not certain that it is on disk.
    pub fn persist(&mut self, step: &Step, session: SessionId, round: RoundNumber) -> Result<(), StoreError> {
        if matches!(step, Step::Begin { .. }) {
            self.budget.hold(session)?;
        }
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

    /// Keeps what a ledger says of itself that this client's operator has to accept.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn keep_offer(&mut self, offer: &[u8]) -> Result<(), StoreError> {
        restored::keep(&self.dir, offer).map_err(|source| StoreError::Io { path: self.dir.clone(), source })
    }

    /// Keeps credentials that were believed, each under its digest. They are a cache: what is lost is fetched again. Of those
    /// kept before some give way to them, where there would be too many.
    ///
    /// # Errors
    /// If they cannot be written.
    pub fn remember(&mut self, credentials: Vec<(Digest, Credential)>) -> Result<(), StoreError> {
        let dir = self.dir.join(CREDENTIALS);
        let n_excess = (self.credentials.len() + credentials.len()).saturating_sub(CREDENTIALS_MAX);
        for digest in self.credentials.keys().take(n_excess).copied().collect::<Vec<_>>() {
            let path = dir.join(digest.to_string());
            if let Err(source) = fs::remove_file(&path)
                && source.kind() != io::ErrorKind::NotFound
            {
                return Err(StoreError::Io { path, source });
            }
            Arc::make_mut(&mut self.credentials).remove(&digest);
        }
        for (digest, credential) in credentials {
            if self.credentials.len() >= CREDENTIALS_MAX || credential.certificate.len() > CERTIFICATE_LEN_MAX {
                continue;
            }
            let Credential { certificate, statement_key, certification } = &credential;
            let bytes = [&statement_key.0[..], &certification.0, certificate].concat();
            let path = dir.join(digest.to_string());
            private_dir(&dir)
                .and_then(|()| fs::write(&path, &bytes))
                .map_err(|source| StoreError::Io { path, source })?;
            Arc::make_mut(&mut self.credentials).insert(digest, credential);
        }
        Ok(())
    }
}

/// The secret of the client whose state lies in `dir`.
///
/// # Errors
/// If there is none, or it cannot be read.
pub(crate) fn secret(dir: &Path) -> Result<Zeroizing<[u8; 32]>, UserError> {
    let path = dir.join(SECRET);
    let secret = read_secret(&path).map_err(|error| {
        UserError::new(format!("cannot read {}: {error}", path.display()), "check the file's owner")
    })?;
    secret.ok_or_else(|| {
        let what = format!("{} is missing", path.display());
        UserError::new(what, "a client that never ran has no pseudonym yet: `eranos client run`")
    })
}

/// How a file is made that its owner alone may read.
pub(crate) fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.create(true).mode(0o600);
    options
}

/// Makes a folder, where there is none, that its owner alone may look into.
pub(crate) fn private_dir(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)
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

/// The keys that the pinned one led to, itself first. A client whose pin was changed begins with that one again.
fn read_ledger_keys(path: &Path, pinned: &LedgerKey) -> Result<Vec<LedgerKey>, UserError> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(vec![pinned.clone()]),
        Err(error) => {
            let what = format!("cannot read {}: {error}", path.display());
            return Err(UserError::new(what, "check the file's owner"));
        }
    };
    let keys: Result<Vec<LedgerKey>, _> = text.lines().map(str::parse).collect();
    let keys = keys.map_err(|error| {
        let what = format!("{} is damaged: {error}", path.display());
        UserError::new(
            what,
            "restore it from a backup, or pin the ledger's newest key in client.toml and remove the file",
        )
    })?;
    let from_pinned = keys.iter().position(|key| key == pinned).and_then(|place| keys.get(place..));
    Ok(from_pinned.map_or_else(|| vec![pinned.clone()], <[_]>::to_vec))
}

fn read_checkpoint(path: &Path, ledger_keys: &[LedgerKey]) -> Result<Option<Checkpoint>, UserError> {
    let note = match fs::read(path) {
        Ok(note) => note,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => {
            let what = format!("cannot read {}: {error}", path.display());
            return Err(UserError::new(what, "check the file's owner"));
        }
    };
    let mut opened = ledger_keys.iter().rev().map(|key| SignedCheckpoint::open(&note, key));
    // A crash may have left the checkpoint of a key that was exchanged since.
    let signed = opened.clone().find(Result::is_ok).or_else(|| opened.next());
    let signed = signed.unwrap_or_else(|| unreachable!("the pinned key is there")).map_err(|error| {
        let what = format!("the checkpoint in {} is not the pinned ledger's: {error}", path.display());
        UserError::new(what, "compare the ledger key in client.toml with the coordinator's ledger.pub")
    })?;
    Ok(Some(signed.checkpoint().clone()))
}

/// What is kept against the ledger's key: a client that was started again without a person's having looked at it would be
/// charged for one more vector. What no key of the ledger signed, anybody may have sent.
fn evidence(dir: &Path, ledger_keys: &[LedgerKey]) -> io::Result<Option<PathBuf>> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let is_evidence = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(EVIDENCE));
        if !is_evidence || !path.is_file() {
            continue;
        }
        let mut note = Vec::new();
        File::open(&path)?.take(NOTE_LEN_MAX as u64 + 1).read_to_end(&mut note)?;
        if ledger_keys.iter().any(|key| SignedCheckpoint::open(&note, key).is_ok()) {
            return Ok(Some(path));
        }
    }
    Ok(None)
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

pub(crate) const LOCK: &str = "lock";
pub(crate) const CHECKPOINT: &str = "ledger-checkpoint";
pub(crate) const LEDGER_KEYS: &str = "ledger-keys";
const EVIDENCE: &str = "evidence-";
const CREDENTIALS: &str = "credentials";
/// Most credentials kept; about a kilobyte each. Tests would write thousands of files.
const CREDENTIALS_MAX: usize = if cfg!(test) { 8 } else { 10_000 };

#[cfg(test)]
mod tests;
