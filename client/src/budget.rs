//! The budget's file and the client's secret. Every client of one data set shares them, whatever its task: each takes the
//! folder's lock for one step at a time, takes in what the others wrote, and appends its own.
//!
//! A reservation lives as long as the process that made it. Its vector is in that process's memory alone and leaves only after
//! its charge is on disk, so that no byte has left, nor ever will, of an attempt that is reserved by a process which is gone:
//! whoever opens the budget next, or is asked to take part in a round, gives it back. That a process is there it shows by a
//! lock on a file beside the budget, one for each session that it takes part in, which the system lets go of however the
//! process ends. No clock and nobody's word decides: a process that is stopped or slow keeps what it reserved. Files of locks come
//! and go under the folder's lock alone. If somebody else removes one, its owner loses what it had reserved then, for the
//! worst a round, and makes the file anew before it reserves again.

use std::{
    collections::HashMap,
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use eranos_base::{Entropy, OsEntropy, SessionId, UserError};
use eranos_privacy::{
    Budget,
    budget::{Append, BudgetError, Terms, TornTail},
};
use zeroize::Zeroizing;

use crate::store::{StoreError, private, private_dir, replace, sync_dir};

/// A budget and the file that it is kept in.
pub(crate) struct BudgetFile {
    path: PathBuf,
    /// The folder, for its lock.
    folder: Arc<File>,
    file: File,
    budget: Arc<Budget>,
    /// The locked files of the sessions that this process takes part in.
    holds: HashMap<SessionId, File>,
}

impl BudgetFile {
    /// Opens budget and secret in `dir`, and makes them if there are none: first a budget under `terms`, last a fresh
    /// secret. Each is there whole or not at all, so that a crash in between leaves a budget that nothing was ever done
    /// with.
    ///
    /// # Errors
    /// If the folder cannot be used, or the budget or the secret is gone, damaged or for other terms.
    pub(crate) fn open(dir: &Path, terms: Terms) -> Result<(Self, Zeroizing<[u8; 32]>), UserError> {
        let failed = |what: &str, error: &dyn std::fmt::Display| {
            UserError::new(format!("cannot {what} in {}: {error}", dir.display()), "check the folder and its owner")
        };
        private_dir(dir)
            .and_then(|()| sync_dir(dir.parent().unwrap_or(dir)))
            .map_err(|error| failed("make the client's budget", &error))?;
        let folder = Arc::new(File::open(dir).map_err(|error| failed("open the budget's folder", &error))?);
        let (path, secret_path) = (dir.join(BUDGET), dir.join(SECRET));
        let lock = Locked::take(&folder, &path).map_err(|error| failed("lock the budget", &error))?;
        let secret = read_secret(&secret_path).map_err(|error| failed("read the secret", &error))?;
        if !path.try_exists().map_err(|error| failed("look for the budget", &error))? {
            if secret.is_some() {
                let what = format!("the budget in {} is gone, but this client has been used before", path.display());
                return Err(UserError::new(what, "restore it from a backup: without it nobody knows what was spent"));
            }
            let (_, first) = Budget::create(terms.clone()).map_err(|error| failed("make the budget", &error))?;
            replace(&path, &first).map_err(|error| failed("write the budget", &error))?;
        }
        let mut file = OpenOptions::new()
            .read(true)
            .append(true)
            .open(&path)
            .map_err(|error| failed("open the budget", &error))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(|error| failed("read the budget", &error))?;
        let (budget, torn) = Budget::parse(&bytes).map_err(|error| damaged(&path, &error))?;
        cut(&file, torn).map_err(|error| failed("cut the torn end of the budget", &error))?;
        if *budget.terms() != terms {
            let what = format!("the budget in {} was made under other terms", path.display());
            let next = "restore unit, epsilon_max and delta_max in policy.toml: what a budget protects is fixed when it is made";
            return Err(UserError::new(what, next));
        }
        let secret = match secret {
            Some(secret) => secret,
            None if budget.n_records() == 1 => {
                make_secret(&secret_path).map_err(|error| failed("make the secret", &error))?
            }
            None => {
                let what =
                    format!("the secret in {} is gone, but this client has been used before", secret_path.display());
                return Err(UserError::new(what, "restore it from a backup: the ledger knows this client by it"));
            }
        };
        drop(lock);
        let mut opened = Self { path, folder, file, budget: Arc::new(budget), holds: HashMap::new() };
        opened.refresh().map_err(|error| failed("give back what a client that is gone had reserved", &error))?;
        Ok((opened, secret))
    }

    /// What is known of the budget: all of its own steps, and those of others as of the last step or
    /// [`refresh`](Self::refresh).
    pub(crate) fn budget(&self) -> &Arc<Budget> {
        &self.budget
    }

    /// Takes in what other processes have written, and gives back what those had reserved that are gone.
    ///
    /// # Errors
    /// If the file cannot be read or written, is damaged, or another process does not let go of it.
    pub(crate) fn refresh(&mut self) -> Result<(), StoreError> {
        let _lock = Locked::take(&self.folder, &self.path)?;
        read_on(&mut self.file, &self.path, &mut self.budget)?;
        for (session, round) in self.budget.reservations() {
            if self.holds.contains_key(&session) {
                continue;
            }
            let path = self.hold_path(session);
            let io = |source| StoreError::Io { path: path.clone(), source };
            // A file that is not there is nobody's: who reserves has locked it before.
            let hold = match File::open(&path) {
                Ok(hold) => Some(hold),
                Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                Err(error) => return Err(io(error)),
            };
            match hold.as_ref().map(File::try_lock) {
                None | Some(Ok(())) => {}
                Some(Err(TryLockError::WouldBlock)) => continue,
                Some(Err(TryLockError::Error(source))) => return Err(io(source)),
            }
            tracing::info!(%session, round = round.0, "gives back what a client that is gone had reserved");
            self.write(|budget| budget.give_back(session, round))?;
        }
        let folder = self.path.with_file_name("");
        self.sweep(&folder).map_err(|source| StoreError::Io { path: folder, source })
    }

    /// Removes the files whose locks nobody holds any more: a process that was killed leaves its own. Under the folder's lock.
    fn sweep(&self, folder: &Path) -> io::Result<()> {
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let is_hold = name.starts_with(HOLD) && !self.holds.keys().any(|session| self.hold_path(*session) == path);
            if is_hold && File::open(&path)?.try_lock().is_ok() {
                fs::remove_file(path)?;
            }
        }
        Ok(())
    }

    /// Shows to others that this process is there, before it reserves anything in `session`. If another one takes part in the
    /// same session, what is reserved there lives as long as that one.
    ///
    /// # Errors
    /// If the file cannot be made or locked, or another process does not let go of the budget.
    pub(crate) fn hold(&mut self, session: SessionId) -> Result<(), StoreError> {
        let path = self.hold_path(session);
        let io = |source| StoreError::Io { path: path.clone(), source };
        if let Some(hold) = self.holds.get(&session)
            && is_at(hold, &path).map_err(io)?
        {
            return Ok(());
        }
        // Under the folder's lock, so that nobody takes away in between what is not locked yet.
        let _lock = Locked::take(&self.folder, &self.path)?;
        let hold = private().append(true).open(&path).map_err(io)?;
        match hold.try_lock() {
            Ok(()) => drop(self.holds.insert(session, hold)),
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(source)) => return Err(io(source)),
        }
        Ok(())
    }

    fn hold_path(&self, session: SessionId) -> PathBuf {
        self.path.with_file_name(format!("{HOLD}{session}"))
    }

    /// Takes in what other processes have written, prepares a step on that, appends and syncs it. Only after this may
    /// anything be done that the step allows.
    ///
    /// # Errors
    /// If the budget does not allow the step, or it is not certain that it is on disk.
    pub(crate) fn append(
        &mut self,
        prepare: impl FnOnce(&Budget) -> Result<Append, BudgetError>,
    ) -> Result<(), StoreError> {
        let _lock = Locked::take(&self.folder, &self.path)?;
        read_on(&mut self.file, &self.path, &mut self.budget)?;
        self.write(prepare)
    }

    /// The same by whoever holds the lock and has read on.
    fn write(&mut self, prepare: impl FnOnce(&Budget) -> Result<Append, BudgetError>) -> Result<(), StoreError> {
        let append = prepare(&self.budget)?;
        let written = self.file.write_all(append.bytes()).and_then(|()| self.file.sync_data());
        if let Err(source) = written {
            // What was written of it goes, if it can: if not, it is cut before the next step, as after a crash.
            let _ = self.file.set_len(self.budget.n_bytes());
            return Err(StoreError::Io { path: self.path.clone(), source });
        }
        Arc::make_mut(&mut self.budget).commit(append)?;
        Ok(())
    }
}

impl Drop for BudgetFile {
    fn drop(&mut self) {
        // Who looks for it finds none, and gives back what may be reserved: this process does nothing more. What it does not get
        // to remove, whoever opens the budget next removes.
        let Ok(_lock) = Locked::take(&self.folder, &self.path) else { return };
        for (session, hold) in &self.holds {
            let path = self.hold_path(*session);
            if is_at(hold, &path).unwrap_or(false) {
                let _ = fs::remove_file(path);
            }
        }
    }
}

/// Whether the open file is the one at `path`.
fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let open = file.metadata()?;
    match fs::metadata(path) {
        Ok(there) => Ok((open.dev(), open.ino()) == (there.dev(), there.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Reads a budget, to look at it. What another process is just writing is left out.
///
/// # Errors
/// If there is none, or it is damaged.
pub(crate) fn read(dir: &Path) -> Result<Budget, UserError> {
    let path = dir.join(BUDGET);
    let bytes = fs::read(&path).map_err(|error| {
        let what = format!("cannot read {}: {error}", path.display());
        UserError::new(what, "a client that never ran has no budget yet: `eranos client run`")
    })?;
    let (budget, _) = Budget::parse(&bytes).map_err(|error| damaged(&path, &error))?;
    Ok(budget)
}

fn damaged(path: &Path, error: &BudgetError) -> UserError {
    let what = format!("the budget in {} is damaged: {error}", path.display());
    UserError::new(what, "do not delete it: it is the record of what was spent; restore it from a backup")
}

fn read_on(file: &mut File, path: &Path, budget: &mut Arc<Budget>) -> Result<(), StoreError> {
    let io = |source| StoreError::Io { path: path.to_owned(), source };
    // A copy that was moved here, or a folder that was: what is written to the file still open, nobody would ever read.
    if !is_at(file, path).map_err(io)? {
        return Err(io(io::Error::other("another file was put in its place")));
    }
    let known = budget.n_bytes();
    if file.metadata().map_err(io)?.len() < known {
        return Err(io(io::Error::other("it is shorter than it was: an older copy was put in its place")));
    }
    let mut rest = Vec::new();
    file.seek(SeekFrom::Start(known)).and_then(|_| file.read_to_end(&mut rest)).map_err(io)?;
    if rest.is_empty() {
        return Ok(());
    }
    let torn = Arc::make_mut(budget).read_on(&rest)?;
    cut(file, torn).map_err(io)
}

/// Cuts off a write that a crash broke off; nothing was done upon it.
fn cut(file: &File, torn: Option<TornTail>) -> io::Result<()> {
    let Some(torn) = torn else { return Ok(()) };
    file.set_len(torn.len_valid)?;
    file.sync_all()
}

/// The folder's lock, held.
struct Locked(Arc<File>);

impl Locked {
    fn take(folder: &Arc<File>, path: &Path) -> Result<Self, StoreError> {
        let until = Instant::now() + LOCK_WAIT_MAX;
        loop {
            match folder.try_lock() {
                Ok(()) => return Ok(Self(folder.clone())),
                Err(TryLockError::WouldBlock) if Instant::now() < until => thread::sleep(LOCK_WAIT),
                Err(TryLockError::WouldBlock) => return Err(StoreError::Busy { path: path.to_owned() }),
                Err(TryLockError::Error(source)) => return Err(StoreError::Io { path: path.to_owned(), source }),
            }
        }
    }
}

impl Drop for Locked {
    fn drop(&mut self) {
        // It goes with the file, too.
        let _ = self.0.unlock();
    }
}

pub(crate) fn read_secret(path: &Path) -> io::Result<Option<Zeroizing<[u8; 32]>>> {
    let bytes = match fs::read(path) {
        Ok(bytes) => Zeroizing::new(bytes),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let secret = bytes.as_slice().try_into().map_err(|_| io::Error::other("it is not 32 bytes"))?;
    Ok(Some(Zeroizing::new(secret)))
}

fn make_secret(path: &Path) -> io::Result<Zeroizing<[u8; 32]>> {
    let mut secret = Zeroizing::new([0; 32]);
    OsEntropy.fill(&mut *secret);
    replace(path, &*secret)?;
    Ok(secret)
}

pub(crate) const BUDGET: &str = "budget";
pub(crate) const SECRET: &str = "secret";
/// How the files begin whose locks show that a session's process is there.
const HOLD: &str = "in-use-";
/// How long a step waits for another process to finish its own, which takes one sync of the disk.
const LOCK_WAIT_MAX: Duration = Duration::from_secs(10);
/// How soon it looks again.
const LOCK_WAIT: Duration = Duration::from_millis(2);
