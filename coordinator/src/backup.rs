//! A coordinator's folder, copied as of one instant while it runs, and made anew from such a copy.
//!
//! The database says what belongs together: it has every leaf of the ledger and names the model's objects. So a backup is a
//! snapshot of it, the objects that this one names (opened while the snapshot is young, so that no later round removes them),
//! the attachments of its leaves, and a ledger that is made anew from those leaves, which determine it. The checkpoint that
//! the ledger has is copied first: the database is never behind it.
//!
//! To go on from a backup as if nothing had happened would take back entries that clients have seen. So [`restore`] opens
//! another log under another key, whose second entry says where the old one's record ends, signed by the old key.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Component, Path, PathBuf},
    sync::Arc,
};

use eranos_base::{Clock, Digest, Entropy, OsEntropy, SessionId, SystemClock, UserError};
use eranos_ledger::{
    Date, EncodedEntry, Entry, LedgerSigner, LogOpened, LogRestored, LogWriter, Restoration, TaskOpened,
    audit::{self, Options},
    entry::{EntryKind, attachment_of},
    log::{BATCH_LEN_MAX, Storage},
    tile::{Folder, TileSource, attachment_path},
};
use eranos_privacy::Promise;
use serde::{Deserialize, Serialize};

use crate::{
    cosigned,
    federation::LEDGER,
    objects::{self, Objects},
    setup::{CONFIG, Config, LEDGER_KEY, LEDGER_PUB, NEXT_LEDGER_KEY, make_seed, read_signer},
    store::{self, Before, Carried, ModelState, Resume, Snapshot, SqliteStore, StateStore},
    task::Task,
};

/// Who hears how far a copy is: of what, how many are done, of how many.
pub type Progress<'a> = &'a mut dyn FnMut(&str, u64, u64);

/// What a backup holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackedUp {
    /// Entries of the ledger.
    pub n_entries: u64,
    /// Attempts of the task, those before a restoration included.
    pub attempts: u32,
    /// Files.
    pub n_files: u64,
    /// Bytes in them.
    pub n_bytes: u64,
    /// What the configuration names and is not in it, since it lies outside the coordinator's folder.
    pub outside: Vec<PathBuf>,
}

/// What became of a backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restored {
    /// The old ledger's key, as its one line.
    pub old: String,
    /// How many of its entries the backup has.
    pub old_size: u64,
    /// Attempts up to there.
    pub attempts_before: u32,
    /// Attempts that are left of those that the task promises for.
    pub attempts_left: u32,
    /// The new ledger's key, as its one line.
    pub key: String,
    /// What the configuration names and was not in the backup.
    pub outside: Vec<PathBuf>,
}

/// `backup.toml`: what a person wants to know of the folder, and what a later build does.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    version: u32,
    made: String,
    task: String,
    ledger_key: String,
    entries: u64,
    root: String,
    attempts: u32,
    released: u32,
    outside: Vec<PathBuf>,
}

/// Copies the coordinator's folder `dir` to `to`, whether it runs or not.
///
/// # Errors
/// If nothing was begun there, `to` is there already, a file cannot be read or written, or what was copied does not hold.
pub fn backup(dir: &Path, to: &Path, progress: Progress<'_>) -> Result<BackedUp, UserError> {
    let config = Config::read(dir)?;
    if !config.state.join(store::FILE).exists() {
        let what = format!("{} holds no task that was begun", config.state.display());
        return Err(UserError::new(what, "begin it with `eranos coordinator run`"));
    }
    if dir.join(NEXT_LEDGER_KEY).exists() {
        let what = format!("an exchange of the ledger's key in {} was cut off", dir.display());
        return Err(UserError::new(what, "stop the coordinator and finish it: `eranos coordinator rotate-key`"));
    }
    let making = Making::begin(to)?;
    let failed = |error: &dyn std::fmt::Display| {
        let what = format!("cannot back {} up to {}: {error}", dir.display(), to.display());
        UserError::new(what, "mend the cause and run it again: the coordinator's own files are as they were")
    };
    let state = making.dir.join(STATE);
    let mut copied = || -> Result<(Resume, Vec<EncodedEntry>), Failure> {
        let mut synced = Folder::new(&making.dir);
        // Opened before the first write: then a flush at the end tells what a disk did not take meanwhile.
        synced.sync()?;
        make_dir(&state.join(LEDGER))?;
        let live = Folder::new(config.state.join(LEDGER));
        if let Some(checkpoint) = live.checkpoint()? {
            write_new(&state.join(LEDGER).join(eranos_ledger::log::CHECKPOINT_FILE), &checkpoint)?;
        }
        copy_database(&config.state, &state, progress)?;
        let store = SqliteStore::open(&state.join(store::FILE))?;
        let resume = store.resume()?.ok_or(Failure::Other("no session was begun".to_owned()))?;
        let entries = store.entries_from(0)?;
        drop(store);
        let named: Vec<Digest> = entries
            .iter()
            .filter(|entry| entry.attachment.is_none())
            .filter_map(|entry| attachment_of(&entry.leaf))
            .collect();
        for (done, digest) in (0..).zip(&named) {
            let path = state.join(LEDGER).join(attachment_path(digest));
            make_dir(path.parent().unwrap_or(&state))?;
            write_new(&path, &live.read_attachment(digest)?)?;
            progress("attachments copied", done, named.len() as u64);
        }
        let signer = Arc::new(read_signer(dir, LEDGER_KEY, &config.ledger_origin)?);
        drop(LogWriter::restore(state.join(LEDGER), signer, &entries, 0)?);
        for name in [eranos_certs::watch::REVOCATIONS_SEEN_FILE, cosigned::FOLDER, BEFORE] {
            copy_all(&config.state.join(name), &state.join(name), &|_| true, progress)?;
        }
        let wanted = |path: &Path| !(is_same(path, &config.state) || is_same(path, &making.dir) || is_backup(path));
        copy_all(dir, &making.dir.join(FILES), &wanted, progress)?;
        Ok((resume, entries))
    };
    let (resume, entries) = copied().map_err(|error| error.said(&failed))?;
    let key = read_signer(dir, LEDGER_KEY, &config.ledger_origin)?.ledger_key();
    let root = verify(&state.join(LEDGER), Options::new(key.clone()), &entries).map_err(|error| error.said(&failed))?;
    let outside = outside(dir, &config);
    let attempts = resume.attempts.saturating_add(resume.before.attempts);
    let manifest = Manifest {
        version: VERSION,
        made: Date::of(SystemClock.now()).to_string(),
        task: Task::read(&config.task).map(|task| task.name.to_string()).unwrap_or_default(),
        ledger_key: key.to_string(),
        entries: entries.len() as u64,
        root: root.to_string(),
        attempts,
        released: resume.released.saturating_add(resume.before.released),
        outside: outside.clone(),
    };
    let mut finished = || -> Result<(u64, u64), Failure> {
        let text = toml::to_string(&manifest).map_err(|error| Failure::Other(error.to_string()))?;
        write_new(&making.dir.join(MANIFEST), format!("{MANIFEST_TEXT}{text}").as_bytes())?;
        let files = files(&making.dir)?;
        let (mut sums, mut n_bytes) = (String::new(), 0);
        for (done, path) in (0..).zip(&files) {
            let whole = making.dir.join(path);
            // Whatever made it: nobody else reads what lies here.
            fs::set_permissions(&whole, Permissions::from_mode(0o600))?;
            let (digest, len) = digest_of(&whole)?;
            sums += &format!("{digest}  {}\n", path.display());
            n_bytes += len;
            progress("files read back", done, files.len() as u64);
        }
        write_new(&making.dir.join(SUMS), sums.as_bytes())?;
        Ok((files.len() as u64 + 1, n_bytes))
    };
    let (n_files, n_bytes) = finished().map_err(|error| error.said(&failed))?;
    making.finish().map_err(|error| failed(&error))?;
    Ok(BackedUp { n_entries: entries.len() as u64, attempts, n_files, n_bytes, outside })
}

/// Makes the coordinator's folder `dir` of the backup `from`. It goes on in a new log and a new session; `attempts_lost`
/// attempts at most were begun after the backup was made.
///
/// # Errors
/// If `dir` is there already, the backup is not as it was made, or a file cannot be written.
pub fn restore(from: &Path, dir: &Path, attempts_lost: u32, progress: Progress<'_>) -> Result<Restored, UserError> {
    let manifest = Manifest::read(from)?;
    check_sums(from, progress)?;
    let making = Making::begin(dir)?;
    let failed = |error: &dyn std::fmt::Display| {
        let what = format!("cannot restore {} from {}: {error}", dir.display(), from.display());
        UserError::new(what, "mend the cause and run it again: the backup is as it was")
    };
    let restored = || -> Result<Restored, Failure> {
        let mut synced = Folder::new(&making.dir);
        synced.sync()?;
        copy_all(&from.join(FILES), &making.dir, &|_| true, progress)?;
        let old_config = Config::read(&making.dir)?;
        let old = read_signer(&making.dir, LEDGER_KEY, &old_config.ledger_origin)?;
        let before = making.dir.join(STATE).join(BEFORE);
        copy_all(&from.join(STATE).join(BEFORE), &before, &|_| true, progress)?;
        let before = before.join(format!("{:08x}", old.ledger_key().key_id()));
        make_dir(&before)?;
        for name in [store::FILE, LEDGER, cosigned::FOLDER] {
            copy_all(&from.join(STATE).join(name), &before.join(name), &|_| true, progress)?;
        }
        let old_store = SqliteStore::open(&before.join(store::FILE))?;
        let resume = old_store.resume()?.ok_or(Failure::Other("it holds no session".to_owned()))?;
        let entries = old_store.entries_from(0)?;
        let options = Options::new(old.ledger_key());
        let root = verify(&before.join(LEDGER), options, &entries)?;
        let carried = carried(&old_store)?;
        drop(old_store);
        let (opened, task) = opening(&entries)?;
        // The old key stays in the backup alone: it has nothing more to sign.
        fs::remove_file(making.dir.join(LEDGER_KEY))?;
        make_seed(&making.dir.join(LEDGER_KEY))?;
        // Another log takes another name.
        let suffix = u32::from_le_bytes(OsEntropy.bytes());
        let origin = format!("{}/{}-{suffix:08x}", opened.trust_domain, task.task);
        configure(&making.dir, &origin)?;
        let new = Arc::new(read_signer(&making.dir, LEDGER_KEY, &origin)?);
        let attempts_before = resume.attempts.saturating_add(resume.before.attempts);
        let restoration = Restoration {
            task: task.task.clone(),
            date: Date::of(SystemClock.now()),
            old: eranos_ledger::Checkpoint {
                origin: old.ledger_key().name().clone(),
                size: entries.len() as u64,
                root,
            },
            attempts_before: attempts_before.into(),
            attempts_lost: attempts_lost.into(),
        };
        let carried_on = Before {
            attempts: attempts_before.saturating_add(attempts_lost),
            // Those that an earlier restoration lost are still nobody's and everybody's.
            lost: attempts_lost.saturating_add(resume.before.lost),
            released: resume.released.saturating_add(resume.before.released),
        };
        let attempts_left = task.mechanism.common().max_attempts.saturating_sub(carried_on.attempts);
        begin(&making.dir, &new, &old, restoration, (&opened, task), &resume.model, &carried_on, &carried, &entries)?;
        let seen = eranos_certs::watch::REVOCATIONS_SEEN_FILE;
        copy_all(&from.join(STATE).join(seen), &making.dir.join(STATE).join(seen), &|_| true, progress)?;
        let objects = Objects::open(&making.dir.join(STATE).join(objects::FOLDER))?;
        for digest in [resume.model.checkpoint, resume.model.optimizer] {
            objects.put([&fs::read(from.join(STATE).join(objects::FOLDER).join(digest.to_string()))?])?;
            objects.read(&digest)?;
        }
        let key = new.ledger_key().to_string();
        fs::write(making.dir.join(LEDGER_PUB), format!("{key}\n"))?;
        Ok(Restored {
            old: old.ledger_key().to_string(),
            old_size: entries.len() as u64,
            attempts_before,
            attempts_left,
            key,
            outside: manifest.outside,
        })
    };
    let restored = restored().map_err(|error| error.said(&failed))?;
    making.finish().map_err(|error| failed(&error))?;
    Ok(restored)
}

/// Opens the new log and session below `dir`, as the database has it and as the ledger's files have it.
#[expect(clippy::too_many_arguments, reason = "one private caller; a struct would only rename them")]
fn begin(
    dir: &Path,
    new: &Arc<LedgerSigner>,
    old: &LedgerSigner,
    restoration: Restoration,
    (opened, task): (&LogOpened, TaskOpened),
    model: &ModelState,
    before: &Before,
    debits: &BTreeMap<eranos_base::ClientId, store::Debit>,
    old_entries: &[EncodedEntry],
) -> Result<(), Failure> {
    let (trust_domain, ledger_key) = (opened.trust_domain.clone(), new.ledger_key());
    let origin = ledger_key.name().clone();
    let nonce = OsEntropy.bytes::<32>();
    let session = SessionId::derive(&trust_domain, origin.as_str(), &task.task, &nonce);
    let date = restoration.date;
    let entries = [
        Entry::LogOpened(LogOpened { origin, trust_domain, ledger_key: ledger_key.clone(), date }),
        Entry::LogRestored(Box::new(LogRestored::sign(restoration, old, &ledger_key))),
        // The promise is the same: another mechanism would be another one.
        Entry::TaskOpened(Box::new(TaskOpened { nonce, session, weights: model.checkpoint, ..task })),
    ];
    let entries = entries.iter().map(Entry::encode).collect::<Result<Vec<_>, _>>()?;
    let rotations: Vec<(u64, Vec<u8>)> = (0..)
        .zip(old_entries)
        .filter(|(_, entry)| EntryKind::of(&entry.leaf) == Some(EntryKind::KeyRotated))
        .map(|(index, entry)| (index, entry.leaf.clone()))
        .collect();
    let store = SqliteStore::open(&dir.join(STATE).join(store::FILE))?;
    store.begin_restored(&nonce, *model, &entries, &Carried { before: *before, debits, rotations: &rotations })?;
    drop(LogWriter::restore(dir.join(STATE).join(LEDGER), new.clone(), &entries, 0)?);
    Ok(())
}

/// What the backup has of each client: of its session and of those before.
fn carried(store: &SqliteStore) -> Result<BTreeMap<eranos_base::ClientId, store::Debit>, Failure> {
    let mut carried = store.carried()?;
    for (id, debit) in store.debits()? {
        let before = carried.entry(id).or_default();
        *before = debit.plus(*before);
    }
    Ok(carried)
}

/// Whose the old log is, and the one task that it has.
fn opening(entries: &[EncodedEntry]) -> Result<(LogOpened, TaskOpened), Failure> {
    let (mut opened, mut task) = (None, None);
    for EncodedEntry { leaf, .. } in entries {
        if !matches!(EntryKind::of(leaf), Some(EntryKind::LogOpened | EntryKind::TaskOpened)) {
            continue;
        }
        match Entry::parse(leaf, None)? {
            Entry::LogOpened(entry) => opened = opened.or(Some(entry)),
            Entry::TaskOpened(entry) => task = task.or(Some(*entry)),
            _ => {}
        }
    }
    opened.zip(task).ok_or(Failure::Other("its ledger has opened no task".to_owned()))
}

/// Puts the new log's name into coordinator.toml, and the state where it lies now.
fn configure(dir: &Path, origin: &str) -> Result<(), Failure> {
    let path = dir.join(CONFIG);
    let text = fs::read_to_string(&path)?;
    let replaced = |line: &str| match line.split_once('=').map(|(key, _)| key.trim()) {
        Some("ledger_origin") => format!("ledger_origin = {origin:?}"),
        Some("state") => format!("state = {STATE:?}"),
        _ => line.to_owned(),
    };
    let text: String = text.lines().map(|line| replaced(line) + "\n").collect();
    fs::write(&path, text)?;
    let config = Config::read(dir)?;
    match config.ledger_origin == origin && config.state == dir.join(STATE) {
        true => Ok(()),
        false => Err(Failure::Other(format!("{CONFIG} does not name ledger_origin and state on lines of their own"))),
    }
}

/// The database as of one instant, and the objects that it names then.
fn copy_database(from: &Path, to: &Path, progress: Progress<'_>) -> Result<(), Failure> {
    let dir = from.join(objects::FOLDER);
    let mut tries = 0;
    let (snapshot, named) = loop {
        let snapshot = Snapshot::take(&from.join(store::FILE))?;
        let Some(model) = snapshot.model()? else { return Err(Failure::Other("no session was begun".to_owned())) };
        let open = |digest: Digest| Ok((digest, File::open(dir.join(digest.to_string()))?));
        match [model.checkpoint, model.optimizer].into_iter().map(open).collect::<io::Result<Vec<_>>>() {
            Ok(named) => break (snapshot, named),
            // A round was released in between, and removed them.
            Err(error) if error.kind() == io::ErrorKind::NotFound && tries < TRIES_MAX => tries += 1,
            Err(error) => return Err(error.into()),
        }
    };
    snapshot.copy(&to.join(store::FILE), &mut |done, of| progress("pages of the database copied", done, of))?;
    let objects = Objects::open(&to.join(objects::FOLDER))?;
    for (digest, mut file) in named {
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        objects.put([&bytes])?;
        // By the name that the database has for it.
        objects.read(&digest)?;
    }
    Ok(())
}

/// Audits the ledger in `dir`, which must be of just these entries, and gives its root.
fn verify(dir: &Path, options: Options, entries: &[EncodedEntry]) -> Result<Digest, Failure> {
    let report = audit::verify(dir, &options).map_err(|error| Failure::Other(error.to_string()))?;
    if let Some(finding) = report.findings.first() {
        return Err(Failure::Other(format!("the copied ledger does not verify: {finding}")));
    }
    let mut edge = eranos_ledger::log::Edge::default();
    for batch in entries.chunks(BATCH_LEN_MAX) {
        for entry in batch {
            edge.push(&entry.leaf)?;
        }
    }
    match report.checkpoint {
        Some(checkpoint) if (checkpoint.size, checkpoint.root) == (edge.size(), edge.root()) => Ok(checkpoint.root),
        _ => Err(Failure::Other("the ledger is not the one that the database has".to_owned())),
    }
}

impl Manifest {
    fn read(from: &Path) -> Result<Self, UserError> {
        let path = from.join(MANIFEST);
        let next = "give the folder that `eranos coordinator backup --to` made";
        let text = fs::read_to_string(&path)
            .map_err(|error| UserError::new(format!("{} is no backup: {error}", from.display()), next))?;
        let manifest: Self = crate::task::parse_toml(&text, &path, next)?;
        match manifest.version {
            VERSION => Ok(manifest),
            version => {
                let what = format!("{} is a backup of version {version}, this build's is {VERSION}", from.display());
                Err(UserError::new(what, "restore it with the build that made it"))
            }
        }
    }
}

/// Whether every file of the backup is the one that was written, and there is no other.
fn check_sums(from: &Path, progress: Progress<'_>) -> Result<(), UserError> {
    let altered = |what: &dyn std::fmt::Display| {
        let what = format!("the backup {} is not as it was made: {what}", from.display());
        UserError::new(what, "take another copy of it, or another backup: nothing was restored")
    };
    let sums = fs::read_to_string(from.join(SUMS)).map_err(|error| altered(&format!("{SUMS}: {error}")))?;
    let mut expected = BTreeMap::new();
    for line in sums.lines() {
        let parsed = line.split_once("  ").and_then(|(digest, path)| Some((PathBuf::from(path), digest.parse().ok()?)));
        let (path, digest): (PathBuf, Digest) = parsed.ok_or_else(|| altered(&format!("{SUMS} is damaged")))?;
        expected.insert(path, digest);
    }
    let found: BTreeSet<PathBuf> = files(from).map_err(|error| altered(&error))?.into_iter().collect();
    if let Some(other) = found.iter().find(|path| !expected.contains_key(*path) && path.as_path() != Path::new(SUMS)) {
        return Err(altered(&format!("{} is not of it", other.display())));
    }
    for (done, (path, expected_digest)) in (0..).zip(&expected) {
        let (digest, _) =
            digest_of(&from.join(path)).map_err(|error| altered(&format!("{}: {error}", path.display())))?;
        if digest != *expected_digest {
            return Err(altered(&format!("{} has another SHA-256", path.display())));
        }
        progress("files checked", done, expected.len() as u64);
    }
    Ok(())
}

/// What the configuration names outside the folder.
fn outside(dir: &Path, config: &Config) -> Vec<PathBuf> {
    let mut named = vec![config.certificates.clone(), config.task.clone()];
    if let Ok(task) = Task::read(&config.task) {
        let base = config.task.parent().unwrap_or(Path::new("."));
        named.push(base.join(&task.data));
        named.extend(task.model.definition.map(|definition| base.join(definition)));
    }
    let dir: PathBuf = dir.components().collect();
    named.retain(|path| {
        let path: PathBuf = path.components().collect();
        // The folder itself may be ".", of which nothing is left when it is taken apart.
        let below = path.strip_prefix(&dir).unwrap_or(&path);
        below.is_absolute() || below.components().any(|part| part == Component::ParentDir)
    });
    named
}

/// A folder that gets its name when it is whole.
struct Making {
    dir: PathBuf,
    to: PathBuf,
}

impl Making {
    fn begin(to: &Path) -> Result<Self, UserError> {
        if to.symlink_metadata().is_ok() {
            let what = format!("{} is there already", to.display());
            return Err(UserError::new(what, "name a folder that is not there: nothing is ever overwritten"));
        }
        let to: PathBuf = to.components().collect();
        let mut name = to.file_name().unwrap_or_default().to_owned();
        name.push(PARTIAL);
        let dir = to.with_file_name(name);
        DirBuilder::new().mode(0o700).create(&dir).map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => {
                let what = format!("{} is there: another run makes it, or one was cut off", dir.display());
                UserError::new(what, "wait for the other one, or remove what was left, and run it again")
            }
            _ => {
                UserError::new(format!("cannot make {}: {error}", dir.display()), "choose a folder that can be written")
            }
        })?;
        Ok(Self { dir, to })
    }

    /// Makes it durable, whole, and gives it its name.
    fn finish(self) -> io::Result<()> {
        Folder::new(&self.dir).sync()?;
        if self.to.symlink_metadata().is_ok() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        fs::rename(&self.dir, &self.to)?;
        let parent = self.to.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(parent)?.sync_all()
    }
}

impl Drop for Making {
    fn drop(&mut self) {
        // Where it has its name there is nothing; where it failed, nobody wants what is left.
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// Copies a file, or a folder with all that is `wanted` of it, if it is there; readable by its owner alone. What is no file,
/// as a socket, is left out.
fn copy_all(from: &Path, to: &Path, wanted: &dyn Fn(&Path) -> bool, progress: Progress<'_>) -> io::Result<()> {
    let mut pending = vec![(from.to_owned(), to.to_owned())];
    let mut done = 0;
    while let Some((from, to)) = pending.pop() {
        let metadata = match fs::metadata(&from) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        if metadata.is_dir() {
            make_dir(&to)?;
            for file in fs::read_dir(&from)? {
                let file = file?;
                if wanted(&file.path()) {
                    pending.push((file.path(), to.join(file.file_name())));
                }
            }
        } else if metadata.is_file() {
            let copy = || {
                let mut target = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&to)?;
                io::copy(&mut File::open(&from)?, &mut target)
            };
            copy().map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", from.display())))?;
            done += 1;
            progress("files copied", done, done + pending.len() as u64);
        }
    }
    Ok(())
}

fn make_dir(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?.write_all(bytes)
}

fn is_same(a: &Path, b: &Path) -> bool {
    matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b)
}

fn is_backup(path: &Path) -> bool {
    path.join(MANIFEST).exists()
}

/// The files below `dir`, by their paths from there, sorted.
fn files(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let (mut found, mut pending) = (Vec::new(), vec![PathBuf::new()]);
    while let Some(below) = pending.pop() {
        for file in fs::read_dir(dir.join(&below))? {
            let file = file?;
            let path = below.join(file.file_name());
            match file.file_type()?.is_dir() {
                true => {
                    pending.push(path);
                }
                false => found.push(path),
            }
        }
    }
    found.sort();
    Ok(found)
}

fn digest_of(path: &Path) -> io::Result<(Digest, u64)> {
    let mut context = ring::digest::Context::new(&ring::digest::SHA256);
    let (mut file, mut buffer, mut len) = (File::open(path)?, vec![0; 1 << 16], 0);
    loop {
        let n = file.read(&mut buffer)?;
        let Some(read) = buffer.get(..n).filter(|read| !read.is_empty()) else { break };
        context.update(read);
        len += n as u64;
    }
    let mut digest = Digest::ZERO;
    digest.0.copy_from_slice(context.finish().as_ref());
    Ok((digest, len))
}

/// Why a copy was not made.
enum Failure {
    /// What a person is told as it is.
    User(UserError),
    /// What went wrong.
    Other(String),
}

impl Failure {
    fn said(self, failed: &dyn Fn(&dyn std::fmt::Display) -> UserError) -> UserError {
        match self {
            Self::User(error) => error,
            Self::Other(error) => failed(&error),
        }
    }
}

impl From<UserError> for Failure {
    fn from(error: UserError) -> Self {
        Self::User(error)
    }
}

macro_rules! failures {
    ($($error:ty),+) => {
        $(impl From<$error> for Failure {
            fn from(error: $error) -> Self {
                Self::Other(error.to_string())
            }
        })+
    };
}

failures!(
    io::Error,
    store::StoreError,
    eranos_ledger::AppendError,
    eranos_ledger::EntryError,
    eranos_ledger::tile::TileError
);

const VERSION: u32 = 1;
const MANIFEST: &str = "backup.toml";
const MANIFEST_TEXT: &str = "\
# A backup of a coordinator: `eranos coordinator restore --from` this folder makes one of it, in a new ledger. It holds
# SECRETS: whoever reads it can pose as the coordinator and sign its ledger. `sha256sum --check SHA256SUMS` checks it.
";
const SUMS: &str = "SHA256SUMS";
/// The coordinator's folder but for its state.
const FILES: &str = "files";
/// The coordinator's state.
const STATE: &str = "state";
/// In a coordinator's state: the logs that were lost and restored, each by its key's id.
pub const BEFORE: &str = "before";
/// What a folder is called until it is whole: its name and this.
const PARTIAL: &str = ".partial";
/// How often a snapshot is taken anew because a round has just removed the model that it names.
const TRIES_MAX: u32 = 64;
