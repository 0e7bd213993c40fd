//! An independent witness of one log: it keeps the last checkpoint that it cosigned, cosigns the next one if that continues
//! it, and keeps the evidence if it does not. Whoever demands its cosignature cannot be shown another history than all
//! others who demand it.
//!
//! Its folder:
//!
//! | file | what |
//! |---|---|
//! | `witness.seed` | its private key, for its owner alone |
//! | `witness.pub` | its public key, the line that others pin |
//! | `ledger.pub` | the key of the log: the pinned one, or the one that it led to |
//! | `ledger-before.pub` | the keys before it, the newest last |
//! | `checkpoint` | the checkpoint cosigned last, with both signatures; empty before the first |
//! | `evidence/<digest>/` | `kept`, `presented`: two checkpoints that the log's keys signed and that are of two histories; `proof`; `rotation-<index>`: the entries that lead from the key known to the one that signed `presented` |
//!
//! The new checkpoint is durable in there before its cosignature leaves, and there is never a second one of the same size
//! with another root. It reads the log as a folder and needs no network: a logarithmic number of tiles proves that the new
//! tree continues the old one. Of the entries it reads none, unless the key that it knows has not signed the checkpoint: then
//! it looks for rotations from that key on, and follows them. What else the entries say is the auditor's part
//! ([`crate::audit`]).

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use eranos_base::{Digest, Entropy, SigningKey, Timestamp};
use zeroize::Zeroizing;

use crate::{
    cosignature::{WitnessKey, WitnessSigner},
    entry::{Entry, EntryKind},
    log::{AppendError, CHECKPOINT_FILE, Storage, lock, read_checkpoint},
    note::{
        Checkpoint, KeyError, LedgerKey, NOTE_LEN_MAX, NoteError, Origin, SignedCheckpoint, SignedNote, VKEY_LEN_MAX,
    },
    tile::{Folder, Tile, TileError, TileHashes, TileKind, TileSource, parse_entries},
    tree::{self, consistency_proof, inclusion_proof, leaf_hash, root_at, verify_consistency, verify_inclusion},
};

/// Most forks and rewinds of which the evidence is kept; with more than a few nobody needs more.
pub const EVIDENCE_MAX: usize = 64;
/// Of a rewind it is kept only while there is less than this: anybody can show an old copy, which must take no place from
/// a fork, which only the log's key can make.
pub const REWINDS_MAX: usize = EVIDENCE_MAX / 2;
/// Most rotations that are followed at once, and most former keys that are remembered.
pub const ROTATIONS_MAX: usize = 64;

const SEED: &str = "witness.seed";
const WITNESS_PUB: &str = "witness.pub";
const LEDGER_PUB: &str = "ledger.pub";
const LEDGER_PUB_BEFORE: &str = "ledger-before.pub";
const EVIDENCE: &str = "evidence";

/// Why a checkpoint was not cosigned, or the witness cannot work.
#[derive(Debug, thiserror::Error)]
pub enum WitnessError {
    /// A file cannot be read or written.
    #[error("cannot {action} {path}: {source}", path = path.display())]
    Io {
        /// What was being done.
        action: &'static str,
        /// Its path.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// There is a witness in the folder already.
    #[error("there is a witness in {path} already", path = path.display())]
    Exists {
        /// The folder.
        path: PathBuf,
    },
    /// Another process works with the folder.
    #[error("{path} is in use by another process", path = path.display())]
    InUse {
        /// The folder.
        path: PathBuf,
    },
    /// A file of the witness's own is missing or not what it wrote.
    #[error("{path}: {what}", path = path.display())]
    State {
        /// Its path.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// The witness would have the log's own key, or a name that cannot be.
    #[error("{0}")]
    Key(#[from] KeyError),
    /// The folder shown holds no checkpoint.
    #[error("{path} has no checkpoint", path = path.display())]
    NotALog {
        /// The folder.
        path: PathBuf,
    },
    /// The checkpoint shown is malformed, of another log, or not signed by the pinned key.
    #[error("the checkpoint shown: {0}")]
    Checkpoint(NoteError),
    /// A tile of the log shown is missing or malformed.
    #[error(transparent)]
    Tile(#[from] TileError),
    /// The tiles shown do not belong to the checkpoint shown: a bad copy, which proves nothing of its log.
    #[error("the tiles shown do not lead to the root of the checkpoint of {size} entries")]
    BadCopy {
        /// The checkpoint's size.
        size: u64,
    },
    /// The log went on while its checkpoint was cosigned.
    #[error("{path} is another checkpoint by now", path = path.display())]
    Overtaken {
        /// The checkpoint's path.
        path: PathBuf,
    },
    /// The log is smaller than it was.
    #[error("REWIND: {presented} entries are shown, but the log's key also signed a checkpoint of {kept}")]
    Rewind {
        /// The size cosigned last.
        kept: u64,
        /// The size shown.
        presented: u64,
        /// Where both checkpoints are kept; none where the folder of evidence is full.
        evidence: Option<PathBuf>,
    },
    /// The log's key signed two histories.
    #[error(
        "FORK: the log of {presented} entries that is shown does not continue the one of {kept}, and its key signed both"
    )]
    Fork {
        /// The size cosigned last.
        kept: u64,
        /// The size shown.
        presented: u64,
        /// Where both checkpoints are kept; none where the folder of evidence is full.
        evidence: Option<PathBuf>,
    },
    /// The clock stands before the last cosignature.
    #[error("the clock says {now} s, but the last cosignature was made at {last} s")]
    Clock {
        /// Seconds since 1970 by the clock.
        now: u64,
        /// Seconds since 1970 of the last cosignature.
        last: u64,
    },
}

/// A witness of one log. While it lives no other process can open its folder.
#[derive(Debug)]
pub struct Witness {
    dir: PathBuf,
    signer: WitnessSigner,
    ledger: LedgerKey,
    /// The log's keys before it, the newest last.
    before: Vec<LedgerKey>,
    /// The checkpoint cosigned last, and when.
    last: Option<(SignedCheckpoint, Timestamp)>,
    _lock: Option<File>,
}

impl Witness {
    /// Makes a witness called `name` of the log with the key `ledger` in the folder `dir`.
    ///
    /// # Errors
    /// If there is one already, or a file cannot be written.
    pub fn init(
        dir: &Path,
        name: Origin,
        ledger: &LedgerKey,
        entropy: &mut dyn Entropy,
    ) -> Result<WitnessKey, WitnessError> {
        if dir.join(SEED).exists() || dir.join(CHECKPOINT_FILE).exists() {
            return Err(WitnessError::Exists { path: dir.to_owned() });
        }
        fs::create_dir_all(dir).map_err(io("make", dir))?;
        let key = SigningKey::generate(entropy);
        let signer = WitnessSigner::new(name, SigningKey::from_seed(&key.seed()));
        let line = signer.witness_key();
        replace(&dir.join(LEDGER_PUB), format!("{ledger}\n").as_bytes())?;
        replace(&dir.join(WITNESS_PUB), format!("{line}\n").as_bytes())?;
        // Empty, and there: a state that is lost later is not taken for one that never was.
        replace(&dir.join(CHECKPOINT_FILE), b"")?;
        replace(&dir.join(SEED), &*key.seed())?;
        Ok(line)
    }

    /// Opens the witness in `dir`.
    ///
    /// # Errors
    /// If there is none, it is in use, or a file of it is damaged.
    pub fn open(dir: &Path) -> Result<Self, WitnessError> {
        let lock = locked(dir)?;
        let state = |name: &str, what: String| WitnessError::State { path: dir.join(name), what };
        let seed = Zeroizing::new(read(dir, SEED, 32)?);
        let seed = seed.as_slice().try_into().map_err(|_| state(SEED, "it is not 32 bytes".to_owned()))?;
        let seed = Zeroizing::new(seed);
        let key: WitnessKey = line(dir, WITNESS_PUB)?;
        let signer = WitnessSigner::new(key.name().clone(), SigningKey::from_seed(&seed));
        if signer.witness_key() != key {
            return Err(state(WITNESS_PUB, format!("it is not the public half of {SEED}")));
        }
        let ledger: LedgerKey = line(dir, LEDGER_PUB)?;
        let before = match dir.join(LEDGER_PUB_BEFORE).exists() {
            true => lines(dir, LEDGER_PUB_BEFORE)?,
            false => Vec::new(),
        };
        let note = read(dir, CHECKPOINT_FILE, NOTE_LEN_MAX)?;
        let last = match note.as_slice() {
            [] => None,
            note => {
                let damaged = |error: NoteError| state(CHECKPOINT_FILE, error.to_string());
                // A crash may have left the checkpoint of a key that was exchanged since.
                let signed = SignedCheckpoint::open(note, &ledger)
                    .or_else(|error| {
                        before.iter().rev().find_map(|key| SignedCheckpoint::open(note, key).ok()).ok_or(error)
                    })
                    .map_err(damaged)?;
                let at = key.verify(signed.note()).map_err(damaged)?;
                Some((signed, at))
            }
        };
        Ok(Self { dir: dir.to_owned(), signer, ledger, before, last, _lock: lock })
    }

    /// The public key, which others pin.
    pub fn key(&self) -> WitnessKey {
        self.signer.witness_key()
    }

    /// The key of the log: the pinned one, or the last that it led to.
    pub const fn ledger(&self) -> &LedgerKey {
        &self.ledger
    }

    /// Pins another key of the same log, whose operator has exchanged it. What was cosigned under the old one must be
    /// continued all the same.
    ///
    /// # Errors
    /// If it is the key of another log, or cannot be written.
    pub fn pin(&mut self, ledger: LedgerKey) -> Result<(), WitnessError> {
        if ledger.name() != self.ledger.name() {
            let (found, expected) = (ledger.name().clone(), self.ledger.name().clone());
            return Err(WitnessError::Checkpoint(NoteError::Origin { found, expected }));
        }
        if ledger == self.ledger {
            return Ok(());
        }
        // What they signed is evidence still, the checkpoint cosigned last above all.
        self.before.retain(|key| *key != self.ledger && *key != ledger);
        self.before.push(self.ledger.clone());
        self.before.drain(..self.before.len().saturating_sub(ROTATIONS_MAX));
        let lines: String = self.before.iter().map(|key| format!("{key}\n")).collect();
        replace(&self.dir.join(LEDGER_PUB_BEFORE), lines.as_bytes())?;
        replace(&self.dir.join(LEDGER_PUB), format!("{ledger}\n").as_bytes())?;
        self.ledger = ledger;
        Ok(())
    }

    /// The checkpoint cosigned last, and when.
    pub fn last(&self) -> Option<(&SignedCheckpoint, Timestamp)> {
        self.last.as_ref().map(|(signed, at)| (signed, *at))
    }

    /// How many forks and rewinds were seen.
    ///
    /// # Errors
    /// If the folder cannot be read.
    pub fn n_evidence(&self) -> Result<usize, WitnessError> {
        let path = self.dir.join(EVIDENCE);
        match fs::read_dir(&path) {
            Ok(entries) => Ok(entries.count()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
            Err(error) => Err(io("read", &path)(error)),
        }
    }

    /// Cosigns the checkpoint of the log in the folder `log`, if it continues the one that was cosigned last, and gives it
    /// with both signatures once it is durable. The same checkpoint again gets a new time. Where the log's key was exchanged
    /// by entries of the log, each signed by the key before it, the new one is known from then on.
    ///
    /// # Errors
    /// If it does not ([`WitnessError::Rewind`] and [`WitnessError::Fork`], after which the evidence is kept), is not the
    /// known log's, or its tiles do not belong to it.
    pub fn cosign(&mut self, log: &Path, now: Timestamp) -> Result<&SignedCheckpoint, WitnessError> {
        let note = match read_checkpoint(log) {
            Ok(Some(note)) => note,
            Ok(None) => return Err(WitnessError::NotALog { path: log.to_owned() }),
            Err(source) => return Err(io("read", &log.join(CHECKPOINT_FILE))(source)),
        };
        let shown = self.shown(&note, &Folder::new(log))?;
        self.check(&shown, &Folder::new(log))?;
        if let Some(error) = shown.outdated {
            return Err(WitnessError::Checkpoint(error));
        }
        let Shown { mut signed, key, rotations, .. } = shown;
        let (seconds, last) = (now.unix_ms() / 1000, self.last.as_ref().map_or(0, |(_, at)| at.unix_ms() / 1000));
        // A larger tree of an earlier time would make the statement of the smaller one untrue.
        if seconds < last {
            return Err(WitnessError::Clock { now: seconds, last });
        }
        // Others' signatures stay where they are: kept, they could make this note longer than one may be.
        signed.keep_only(&key);
        // The key first: whoever has both can read a checkpoint of either.
        rotations.into_iter().try_for_each(|(_, _, key)| self.pin(key))?;
        let cosignature = self.signer.cosign(signed.note().text(), now);
        signed.attach(cosignature).map_err(WitnessError::Checkpoint)?;
        replace(&self.dir.join(CHECKPOINT_FILE), signed.note().encode().as_bytes())?;
        Ok(&self.last.insert((signed, Timestamp::from_unix_ms(seconds * 1000))).0)
    }

    /// Under which key the checkpoint `note` of the log in `tiles` stands: the one that is known, one that it was exchanged for
    /// in that log, or one before it.
    fn shown(&self, note: &[u8], tiles: &Folder) -> Result<Shown, WitnessError> {
        let unsigned = match SignedCheckpoint::open(note, &self.ledger) {
            Ok(signed) => {
                return Ok(Shown { signed, key: self.ledger.clone(), rotations: Vec::new(), outdated: None });
            }
            Err(error) => error,
        };
        for key in self.before.iter().rev() {
            if let Ok(signed) = SignedCheckpoint::open(note, key) {
                return Ok(Shown { signed, key: key.clone(), rotations: Vec::new(), outdated: Some(unsigned) });
            }
        }
        let claimed = SignedNote::parse(note).and_then(|note| Checkpoint::parse(note.text()));
        let Checkpoint { size, root, .. } = claimed.map_err(WitnessError::Checkpoint)?;
        let rotations = rotations(tiles, size, &self.ledger)?;
        let Some((_, _, key)) = rotations.last() else { return Err(WitnessError::Checkpoint(unsigned)) };
        let signed = SignedCheckpoint::open(note, key).map_err(|_| WitnessError::Checkpoint(unsigned))?;
        for (index, leaf, _) in &rotations {
            let proof = inclusion_proof(&mut TileHashes::new(tiles, size), *index, size)?;
            verify_inclusion(&leaf_hash(leaf), *index, size, &root, &proof)
                .map_err(|_| WitnessError::BadCopy { size })?;
        }
        Ok(Shown { signed, key: key.clone(), rotations, outdated: None })
    }

    /// Whether the tree that is `shown`, with these `tiles`, continues the one that was cosigned last.
    fn check(&self, shown: &Shown, tiles: &Folder) -> Result<(), WitnessError> {
        let (old, old_root) = match &self.last {
            Some((last, _)) => (last.checkpoint().size, last.checkpoint().root),
            None => (0, tree::empty_root()),
        };
        let &Checkpoint { size, root, .. } = shown.signed.checkpoint();
        if size < old {
            let evidence = self.keep_evidence(shown, &[], REWINDS_MAX)?;
            return Err(WitnessError::Rewind { kept: old, presented: size, evidence });
        }
        // Two roots of one size need no tile to be two histories.
        let (shown_root, proof) = if size == old {
            (root, Vec::new())
        } else {
            let mut hashes = TileHashes::new(tiles, size);
            let shown_root = root_at(&mut hashes, old)?;
            let proof = consistency_proof(&mut hashes, old, size)?;
            // What the tiles say of themselves must hold before they may speak against their log.
            let holds = root_at(&mut hashes, size)? == root
                && verify_consistency(old, &shown_root, size, &root, &proof).is_ok();
            if !holds {
                return Err(WitnessError::BadCopy { size });
            }
            (shown_root, proof)
        };
        if shown_root != old_root {
            if self.last.is_none() {
                return Err(WitnessError::BadCopy { size });
            }
            let evidence = self.keep_evidence(shown, &proof, EVIDENCE_MAX)?;
            return Err(WitnessError::Fork { kept: old, presented: size, evidence });
        }
        Ok(())
    }

    /// Keeps what was shown beside what was cosigned last, while there is less than `max`. Where the proof leads from another
    /// tree of the old size to the one shown, it proves to anybody that the key signed two histories.
    fn keep_evidence(&self, shown: &Shown, proof: &[Digest], max: usize) -> Result<Option<PathBuf>, WitnessError> {
        // With the log's own signature alone: whoever copies a checkpoint can add any others, and would make many of one.
        let mut presented = shown.signed.clone();
        presented.keep_only(&shown.key);
        let note = presented.note().encode();
        let folder = self.dir.join(EVIDENCE).join(Digest::of(note.as_bytes()).to_string());
        if !folder.exists() && self.n_evidence()? >= max {
            return Ok(None);
        }
        fs::create_dir_all(&folder).map_err(io("make", &folder))?;
        let kept = self.last.as_ref().map(|(last, _)| last.note().encode()).unwrap_or_default();
        let proof: String = proof.iter().map(|hash| BASE64.encode(hash.0) + "\n").collect();
        for (name, text) in [("kept", kept), ("presented", note), ("proof", proof)] {
            replace(&folder.join(name), text.as_bytes())?;
        }
        for (index, leaf, _) in &shown.rotations {
            replace(&folder.join(format!("rotation-{index}")), leaf)?;
        }
        sync_folder(&self.dir.join(EVIDENCE))?;
        sync_folder(&self.dir)?;
        Ok(Some(folder))
    }
}

/// The checkpoint of a log that is shown.
struct Shown {
    signed: SignedCheckpoint,
    /// Who signed it.
    key: LedgerKey,
    /// The entries of that log, with their indices, that lead from the key that is known to this one, and to which key each.
    rotations: Vec<(u64, Vec<u8>, LedgerKey)>,
    /// What is wrong with it even if it continues what was cosigned: an older key signed it.
    outdated: Option<NoteError>,
}

/// The rotations from `key` on, among the first `size` entries of a log that nothing is believed of yet but that each key
/// signed its successor: index, entry, and the key from there on.
fn rotations(tiles: &Folder, size: u64, key: &LedgerKey) -> Result<Vec<(u64, Vec<u8>, LedgerKey)>, WitnessError> {
    let mut found: Vec<(u64, Vec<u8>, LedgerKey)> = Vec::new();
    let mut first = 0;
    while let Some(tile) = Tile::of_row(TileKind::Entries, first, size) {
        let bytes = tiles.read(&tile)?;
        for (index, leaf) in (first..).zip(parse_entries(&tile, &bytes)?) {
            let current = found.last().map_or(key, |(.., key)| key);
            if EntryKind::of(leaf) == Some(EntryKind::KeyRotated)
                && let Ok(Entry::KeyRotated(rotation)) = Entry::parse(leaf, None)
                && let Ok(next) = rotation.verify(index, current)
                && found.len() < ROTATIONS_MAX
            {
                let next = next.clone();
                found.push((index, leaf.to_vec(), next));
            }
        }
        first += u64::from(tile.width);
    }
    Ok(found)
}

/// Puts the cosignatures of `cosigned` on the checkpoint of a copied log, so that the copy carries them to an auditor.
/// Refused while a coordinator has the log open, which would be given back an older checkpoint.
///
/// # Errors
/// If the log is open, its checkpoint is another one by now, or it cannot be written.
pub fn attach(log: &Path, cosigned: &SignedCheckpoint, ledger: &LedgerKey) -> Result<(), WitnessError> {
    let _lock = locked(log)?;
    let path = log.join(CHECKPOINT_FILE);
    let note = read_checkpoint(log).map_err(io("read", &path))?.unwrap_or_default();
    let mut signed = SignedCheckpoint::open(&note, ledger).map_err(WitnessError::Checkpoint)?;
    if signed.checkpoint() != cosigned.checkpoint() {
        return Err(WitnessError::Overtaken { path });
    }
    for signature in cosigned.note().signatures().iter().filter(|one| one.key_id != ledger.key_id()) {
        signed.attach(signature.clone()).map_err(WitnessError::Checkpoint)?;
    }
    let len = signed.note().encode().len();
    if len > NOTE_LEN_MAX {
        return Err(WitnessError::Checkpoint(NoteError::Length { len }));
    }
    let mut folder = Folder::new(log);
    folder
        .replace_checkpoint(signed.note().encode().as_bytes())
        .and_then(|()| folder.sync())
        .map_err(io("write", &path))
}

fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> WitnessError {
    let path = path.to_owned();
    move |source| WitnessError::Io { action, path, source }
}

/// Locks a folder, as the log's writer does.
fn locked(dir: &Path) -> Result<Option<File>, WitnessError> {
    lock(dir).map_err(|error| match error {
        AppendError::Io { source, .. } => io("open", dir)(source),
        _ => WitnessError::InUse { path: dir.to_owned() },
    })
}

fn read(dir: &Path, name: &str, len_max: usize) -> Result<Vec<u8>, WitnessError> {
    let path = dir.join(name);
    let mut bytes = Vec::new();
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(WitnessError::State { path, what: "it is missing".to_owned() });
        }
        Err(error) => return Err(io("read", &path)(error)),
    };
    file.take(len_max as u64 + 1).read_to_end(&mut bytes).map_err(io("read", &path))?;
    if bytes.len() > len_max {
        return Err(WitnessError::State { path, what: format!("longer than {len_max} bytes") });
    }
    Ok(bytes)
}

/// The key whose one line is the file `name`.
fn line<K: std::str::FromStr<Err = KeyError>>(dir: &Path, name: &str) -> Result<K, WitnessError> {
    let bytes = read(dir, name, VKEY_LEN_MAX + 1)?;
    let text = str::from_utf8(&bytes).unwrap_or_default();
    parse(dir, name, text.strip_suffix('\n').unwrap_or(text))
}

/// The keys of the log in the file `name`, one a line.
fn lines(dir: &Path, name: &str) -> Result<Vec<LedgerKey>, WitnessError> {
    let bytes = read(dir, name, ROTATIONS_MAX * (VKEY_LEN_MAX + 1))?;
    let text = str::from_utf8(&bytes)
        .map_err(|error| WitnessError::State { path: dir.join(name), what: error.to_string() })?;
    text.lines().map(|line| parse(dir, name, line)).collect()
}

fn parse<K: std::str::FromStr<Err = KeyError>>(dir: &Path, name: &str, line: &str) -> Result<K, WitnessError> {
    line.parse().map_err(|error: KeyError| WitnessError::State { path: dir.join(name), what: error.to_string() })
}

/// Writes aside for the owner alone, syncs, renames, syncs the folder.
fn replace(path: &Path, bytes: &[u8]) -> Result<(), WitnessError> {
    let aside = path.with_extension("tmp");
    let mut options = OpenOptions::new();
    options.create(true).write(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
        .open(&aside)
        .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&aside, path))
        .map_err(io("write", path))?;
    sync_folder(path.parent().unwrap_or(Path::new(".")))
}

fn sync_folder(dir: &Path) -> Result<(), WitnessError> {
    if cfg!(unix) { File::open(dir).and_then(|dir| dir.sync_all()).map_err(io("sync", dir)) } else { Ok(()) }
}
