//! The writer's side: a log that grows by one leaf or several, published as files.
//!
//! [`Edge`] is the pure part: it takes leaves and says which tiles come of them. [`LogWriter`] puts them down: first the
//! attachments, then the entry bundles, then the hash tiles, then the checkpoint (written aside, renamed).
//!
//! The journal is the coordinator's: it commits a leaf and its attachment in its own store, durable by one flush, before it
//! appends them here. So nothing is flushed here in most appends: once in [`UNSYNCED_ENTRIES_MAX`] entries all files are made
//! durable together ([`LogWriter::sync`]), and only then may the store let go of attachments ([`LogWriter::durable`]). After
//! a crash, whichever of the files since then are lost, empty or torn, [`LogWriter::restore`] makes the same ones anew from
//! the store's leaves: there are never two roots for one size. [`LogWriter::append`] accepts a leaf that it already has at
//! that index, and refuses another one.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::Path,
    sync::Arc,
};

use eranos_base::Digest;

use crate::{
    entry::{EncodedEntry, Entry, EntryError, EntryKind, EntryParser, attachment_of},
    note::{Checkpoint, LedgerKey, LedgerSigner, NOTE_LEN_MAX, NoteError, SignedCheckpoint, SignedNote},
    receipt::Receipt,
    tile::{
        Folder, TILE_HEIGHT, TILE_LEVELS_MAX, TILE_WIDTH, Tile, TileError, TileHashes, TileKind, TileSource,
        attachment_path, complete_root, encode_hashes, parse_entries, parse_hashes, push_entry,
    },
    tree::{Frontier, SIZE_MAX, consistency_proof, empty_root, inclusion_proof, leaf_hash, root_at},
};

/// The checkpoint's file, below the log's folder.
pub const CHECKPOINT_FILE: &str = "checkpoint";
const CHECKPOINT_ASIDE: &str = "checkpoint.tmp";
/// Most leaves in one [`LogWriter::append_all`]; their encodings are held in memory.
pub const BATCH_LEN_MAX: usize = 1 << 16;
/// So many entries are appended before their files are made durable, all at once. The coordinator's store keeps their
/// attachments until then.
pub const UNSYNCED_ENTRIES_MAX: u64 = 64;
/// Or so many bytes written, if that is sooner.
pub const UNSYNCED_BYTES_MAX: usize = 64 << 20;

/// Why the log could not be opened or appended to.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// A file could not be read or written. The writer is closed for good; open it again.
    #[error("cannot {action} {path} of the log: {source}")]
    Io {
        /// What was being done.
        action: &'static str,
        /// The path below the log's folder.
        path: String,
        /// What the operating system said.
        source: io::Error,
    },
    /// Another writer has the log open.
    #[error("the log is open in another process")]
    Locked,
    /// An earlier failure closed this writer.
    #[error("an earlier write failed, so the log must be opened again")]
    Closed,
    /// A tile is missing or malformed.
    #[error(transparent)]
    Tile(#[from] TileError),
    /// The checkpoint is malformed, of another log, or not signed by this key.
    #[error("checkpoint: {0}")]
    Checkpoint(#[from] NoteError),
    /// There are tiles, but no checkpoint.
    #[error("the log has tiles but no checkpoint")]
    CheckpointMissing,
    /// The tiles do not lead to the checkpoint's root.
    #[error("the tiles do not lead to the root of the checkpoint of {size} entries")]
    Corrupt {
        /// The checkpoint's size.
        size: u64,
    },
    /// The log has more entries than it is to be restored from: they are an older copy, and going on would fork it.
    #[error("the log has {size} entries, more than the {len} that are on record")]
    Ahead {
        /// The log's size.
        size: u64,
        /// How many entries are on record.
        len: u64,
    },
    /// The leaf is not an entry.
    #[error("entry {index}: {source}")]
    Entry {
        /// Its index.
        index: u64,
        /// What is wrong with it.
        source: EntryError,
    },
    /// A rotation of the key is appended by [`LogWriter::rotate`], and by nothing else.
    #[error("entry {index} is no rotation from this log's key to the one given")]
    Rotation {
        /// The index.
        index: u64,
    },
    /// Another leaf has this index under a signed checkpoint.
    #[error("entry {index} is already another one, under a signed checkpoint")]
    Conflict {
        /// The index.
        index: u64,
    },
    /// The index lies beyond the log's end.
    #[error("entry {index} does not follow a log of {size}")]
    Gap {
        /// The index.
        index: u64,
        /// The log's size.
        size: u64,
    },
    /// The log, or the batch, would be larger than its limit.
    #[error("{len} entries, limit {max}")]
    Full {
        /// The size it would have.
        len: u64,
        /// The limit.
        max: u64,
    },
}

/// The right edge of a log: the rows of the last, partial tile of each level, and the last, partial entry bundle.
#[derive(Clone, Debug, Default)]
pub struct Edge {
    size: u64,
    levels: [Vec<Digest>; TILE_LEVELS_MAX as usize],
    bundle: Vec<u8>,
}

impl Edge {
    /// Reads the edge of a log of `size` leaves.
    ///
    /// # Errors
    /// If a tile is missing or malformed, or the entries do not have the hashes that stand beside them.
    pub fn read(source: &impl TileSource, size: u64) -> Result<Self, AppendError> {
        let mut edge = Self { size, ..Self::default() };
        for (level, rows) in (0..).zip(&mut edge.levels) {
            if let Some(tile) = Tile::last(TileKind::Hashes { level }, size).filter(|tile| tile.width < TILE_WIDTH) {
                *rows = parse_hashes(&tile, &source.read(&tile)?)?;
            }
        }
        if let Some(tile) = Tile::last(TileKind::Entries, size).filter(|tile| tile.width < TILE_WIDTH) {
            edge.bundle = source.read(&tile)?;
            let entries = parse_entries(&tile, &edge.bundle)?;
            if !entries.iter().map(|entry| leaf_hash(entry)).eq(edge.levels[0].iter().copied()) {
                return Err(AppendError::Corrupt { size });
            }
        }
        Ok(edge)
    }

    /// The number of leaves.
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// Appends a leaf, and gives the tiles that it fills, entries before hashes.
    ///
    /// # Errors
    /// If the leaf is too long, or the log is full.
    pub fn push(&mut self, leaf: &[u8]) -> Result<Vec<(Tile, Vec<u8>)>, AppendError> {
        if self.size >= SIZE_MAX - 1 {
            return Err(AppendError::Full { len: self.size, max: SIZE_MAX });
        }
        if !push_entry(&mut self.bundle, leaf) {
            let source = EntryError::Length { len: leaf.len() };
            return Err(AppendError::Entry { index: self.size, source });
        }
        self.levels[0].push(leaf_hash(leaf));
        self.size += 1;
        let mut full = Vec::new();
        if self.size.is_multiple_of(u64::from(TILE_WIDTH))
            && let Some(tile) = Tile::last(TileKind::Entries, self.size)
        {
            full.push((tile, std::mem::take(&mut self.bundle)));
        }
        for level in 0..self.levels.len() {
            if self.levels[level].len() < usize::from(TILE_WIDTH) {
                break;
            }
            let rows = std::mem::take(&mut self.levels[level]);
            if let Some(tile) = Tile::last(TileKind::Hashes { level: level as u8 }, self.size) {
                full.push((tile, encode_hashes(&rows)));
            }
            if let Some(above) = self.levels.get_mut(level + 1) {
                above.push(complete_root(&rows));
            }
        }
        Ok(full)
    }

    /// The partial tiles at the edge, entries before hashes.
    pub fn partial(&self) -> Vec<(Tile, Vec<u8>)> {
        let mut tiles = Vec::new();
        if !self.bundle.is_empty()
            && let Some(tile) = Tile::last(TileKind::Entries, self.size)
        {
            tiles.push((tile, self.bundle.clone()));
        }
        for (level, rows) in (0..).zip(&self.levels).filter(|(_, rows)| !rows.is_empty()) {
            if let Some(tile) = Tile::last(TileKind::Hashes { level }, self.size) {
                tiles.push((tile, encode_hashes(rows)));
            }
        }
        tiles
    }

    /// The root of the log.
    pub fn root(&self) -> Digest {
        let mut frontier = Frontier::default();
        for (level, rows) in (0..TILE_LEVELS_MAX).zip(&self.levels).rev() {
            // All rows of one level are as wide, and those above them wider.
            rows.iter().for_each(|row| frontier.push_subtree(*row, level * TILE_HEIGHT));
        }
        frontier.root()
    }
}

/// The files of a log, as its writer needs them. Paths are relative to the log's folder.
pub trait Storage: TileSource {
    /// The checkpoint's bytes, if there is one.
    ///
    /// # Errors
    /// If it cannot be read or is larger than [`NOTE_LEN_MAX`].
    fn checkpoint(&self) -> io::Result<Option<Vec<u8>>>;

    /// Whether anything was ever written under `tile/`.
    ///
    /// # Errors
    /// If that cannot be told.
    fn has_tiles(&self) -> io::Result<bool>;

    /// Writes `bytes` as `path`, making its folders. It need not be durable before the next [`sync`](Self::sync).
    ///
    /// # Errors
    /// If it cannot be written.
    fn write(&mut self, path: &str, bytes: &[u8]) -> io::Result<()>;

    /// Puts `bytes` in the checkpoint's place, for readers at once and whole. It need not be durable before the next
    /// [`sync`](Self::sync).
    ///
    /// # Errors
    /// If it cannot be written.
    fn replace_checkpoint(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Returns when everything written so far is durable, names and folders included.
    ///
    /// # Errors
    /// If that is not known.
    fn sync(&mut self) -> io::Result<()>;

    /// Removes what the checkpoint has made superfluous: the partial forms of `tile` that are narrower than it. A
    /// failure leaves files that are merely superfluous, so there is none to report.
    fn remove_narrower(&mut self, tile: &Tile);
}

impl Storage for Folder {
    fn checkpoint(&self) -> io::Result<Option<Vec<u8>>> {
        read_checkpoint(self.path())
    }

    fn has_tiles(&self) -> io::Result<bool> {
        self.path().join("tile").try_exists()
    }

    fn write(&mut self, path: &str, bytes: &[u8]) -> io::Result<()> {
        let path = self.path().join(path);
        fs::create_dir_all(path.parent().unwrap_or(self.path()))?;
        hold(self)?;
        put(self.path(), &path, bytes)
    }

    fn replace_checkpoint(&mut self, bytes: &[u8]) -> io::Result<()> {
        let aside = self.path().join(CHECKPOINT_ASIDE);
        hold(self)?;
        put(self.path(), &aside, bytes)?;
        fs::rename(&aside, self.path().join(CHECKPOINT_FILE))
    }

    /// One flush of the file system that the folder is on, where the system has that: the files since the last one are
    /// many, and each would need its own, and so would each of their folders. What a disk did not take of what was written
    /// meanwhile is told to whoever had it open by then: the folder is, since before the first write.
    fn sync(&mut self) -> io::Result<()> {
        let Some(held) = hold(self)? else { return Ok(()) };
        #[cfg(target_os = "linux")]
        rustix::fs::syncfs(held)?;
        #[cfg(not(target_os = "linux"))]
        held.sync_all()?;
        Ok(())
    }

    fn remove_narrower(&mut self, tile: &Tile) {
        let partials = tile.with_width(TILE_WIDTH).path() + ".p";
        let folder = self.path().join(&partials);
        for file in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = format!("{partials}/{}", file.file_name().to_string_lossy());
            if Tile::parse(&path).is_some_and(|found| found.width < tile.width) {
                let _ = fs::remove_file(file.path());
            }
        }
        if tile.width == TILE_WIDTH {
            // Succeeds only where it is empty.
            let _ = fs::remove_dir(folder);
        }
    }
}

/// The bytes of the checkpoint in the log's folder `dir`, if there is one.
pub(crate) fn read_checkpoint(dir: &Path) -> io::Result<Option<Vec<u8>>> {
    use std::io::Read;

    let path = dir.join(CHECKPOINT_FILE);
    match fs::metadata(&path) {
        // To open a pipe is to wait for whoever may never write to it.
        Ok(metadata) if !metadata.is_file() => return Err(io::Error::other("it is not a file")),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(NOTE_LEN_MAX as u64 + 1).read_to_end(&mut bytes)?;
    Ok(Some(bytes))
}

/// The folder, open from now on; none on a system that opens no folders.
fn hold(folder: &mut Folder) -> io::Result<Option<&File>> {
    if cfg!(unix) && folder.held.is_none() {
        folder.held = Some(Arc::new(File::open(folder.path())?));
    }
    Ok(folder.held.as_deref())
}

/// Writes a file below `root`. On a system that cannot flush a whole file system, it and its folders are durable at once.
fn put(root: &Path, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    if cfg!(target_os = "linux") {
        return Ok(());
    }
    file.sync_all()?;
    let folders = path.ancestors().skip(1).take_while(|folder| cfg!(unix) && folder.starts_with(root));
    folders.map(File::open).try_for_each(|folder| folder?.sync_all())
}

/// The one writer of a log.
#[derive(Debug)]
pub struct LogWriter<S = Folder> {
    storage: S,
    signer: Arc<LedgerSigner>,
    edge: Edge,
    checkpoint: SignedCheckpoint,
    /// Partial tiles of the checkpoint before the last: kept one step longer, for readers who have just fetched it.
    previous: Vec<Tile>,
    parser: EntryParser,
    /// How many entries have durable files, and how many bytes were written since.
    durable: u64,
    unsynced: usize,
    closed: bool,
    /// Held for its lock, which the system drops with the process.
    _lock: Option<File>,
}

impl LogWriter<Folder> {
    /// Opens the log in `dir`, making it (with the signed checkpoint of no entries) where there is none, as the files alone
    /// have it. A writer whose entries are on record elsewhere opens it with [`restore`](Self::restore).
    ///
    /// # Errors
    /// If another process has it open, a file cannot be read or written, or its edge does not lead to the root of a
    /// checkpoint that `signer` signed.
    pub fn open(dir: impl AsRef<Path>, signer: Arc<LedgerSigner>) -> Result<Self, AppendError> {
        let (folder, lock) = locked_folder(dir.as_ref())?;
        let mut writer = Self::open_storage(folder, signer)?;
        writer._lock = lock;
        Ok(writer)
    }

    /// Opens the log in `dir` whose entries are `entries`, the files of the first `durable` of them known to be durable, and
    /// makes anew what a crash left out or half-written of the others.
    ///
    /// # Errors
    /// If another process has it open; a file cannot be read or written; the last key of the entries is not `signer`'s; or a
    /// checkpoint that one of their keys signed is of more entries than these, or of others.
    pub fn restore(
        dir: impl AsRef<Path>,
        signer: Arc<LedgerSigner>,
        entries: &[EncodedEntry],
        durable: u64,
    ) -> Result<Self, AppendError> {
        let (folder, lock) = locked_folder(dir.as_ref())?;
        let mut writer = Self::restore_storage(folder, signer, entries, durable)?;
        writer._lock = lock;
        Ok(writer)
    }
}

/// The folder `dir`, made if need be, and the lock on it.
fn locked_folder(dir: &Path) -> Result<(Folder, Option<File>), AppendError> {
    let io = |source| AppendError::Io { action: "make or open the folder", path: ".".to_owned(), source };
    fs::create_dir_all(dir).map_err(io)?;
    let lock = lock(dir)?;
    // A checkpoint that was never renamed was never given out.
    let _ = fs::remove_file(dir.join(CHECKPOINT_ASIDE));
    let mut folder = Folder::new(dir);
    hold(&mut folder).map_err(io)?;
    Ok((folder, lock))
}

/// Locks the folder against a second writer, where the system can open a folder.
pub(crate) fn lock(dir: &Path) -> Result<Option<File>, AppendError> {
    if cfg!(not(unix)) {
        return Ok(None);
    }
    let io = |source| AppendError::Io { action: "lock", path: ".".to_owned(), source };
    let file = File::open(dir).map_err(io)?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(fs::TryLockError::WouldBlock) => Err(AppendError::Locked),
        Err(fs::TryLockError::Error(source)) => Err(io(source)),
    }
}

impl<S: Storage> LogWriter<S> {
    /// Opens the log in `storage`, of which this must be the only writer.
    ///
    /// # Errors
    /// As [`LogWriter::open`].
    pub fn open_storage(mut storage: S, signer: Arc<LedgerSigner>) -> Result<Self, AppendError> {
        let key = signer.ledger_key();
        let io = |action| move |source| AppendError::Io { action, path: CHECKPOINT_FILE.to_owned(), source };
        let checkpoint = match storage.checkpoint().map_err(io("read"))? {
            Some(note) => SignedCheckpoint::open(&note, &key)?,
            None if storage.has_tiles().map_err(io("look for"))? => return Err(AppendError::CheckpointMissing),
            None => {
                let signed = sign(&Edge::default(), &signer)?;
                replace_checkpoint(&mut storage, &signed)?;
                signed
            }
        };
        let Checkpoint { size, root, .. } = *checkpoint.checkpoint();
        let edge = Edge::read(&storage, size)?;
        if edge.root() != root {
            return Err(AppendError::Corrupt { size });
        }
        for kind in kinds() {
            if let Some(tile) = Tile::last(kind, size) {
                storage.remove_narrower(&tile);
            }
        }
        Ok(Self::new(storage, signer, edge, checkpoint))
    }

    /// Opens the log in `storage`, of which this must be the only writer, from its entries.
    ///
    /// # Errors
    /// As [`LogWriter::restore`].
    pub fn restore_storage(
        mut storage: S,
        signer: Arc<LedgerSigner>,
        entries: &[EncodedEntry],
        durable: u64,
    ) -> Result<Self, AppendError> {
        let len = entries.len() as u64;
        let kept = kept_checkpoint(&storage, entries, &signer.ledger_key(), durable)?;
        let (kept_size, kept_root) =
            kept.as_ref().map(SignedCheckpoint::checkpoint).map_or((0, empty_root()), |c| (c.size, c.root));
        if kept_size > len {
            return Err(AppendError::Ahead { size: kept_size, len });
        }
        // A checkpoint that stayed behind is of an older copy of the files, whatever was durable once.
        let durable = if kept.is_some() { durable.min(kept_size) } else { durable };
        let check = |edge: &Edge| match edge.size() == kept_size && edge.root() != kept_root {
            true => Err(AppendError::Corrupt { size: kept_size }),
            false => Ok(()),
        };
        let (mut edge, mut parser, mut unsynced) = (Edge::default(), EntryParser::default(), 0);
        for (index, entry) in (0..).zip(entries) {
            check(&edge)?;
            let full = edge.push(&entry.leaf)?;
            if index < durable {
                continue;
            }
            let attachment = match (&entry.attachment, attachment_of(&entry.leaf)) {
                // Let go, because it is durable here.
                (None, Some(digest)) => Some(storage.read_attachment(&digest)?),
                (attachment, digest) => {
                    if let (Some(bytes), Some(digest)) = (attachment, digest)
                        && storage.read_attachment(&digest).is_err()
                    {
                        unsynced += write(&mut storage, attachment_path(&digest), bytes)?;
                    }
                    attachment.clone()
                }
            };
            let parsed = parser.parse(&entry.leaf, attachment.as_deref());
            parsed.map_err(|source| AppendError::Entry { index, source })?;
            for (tile, bytes) in full {
                unsynced += put_right(&mut storage, &tile, &bytes)?;
            }
        }
        check(&edge)?;
        for (tile, bytes) in edge.partial() {
            unsynced += put_right(&mut storage, &tile, &bytes)?;
        }
        let checkpoint = match kept {
            Some(kept) if kept_size == len => kept,
            _ => {
                let signed = sign(&edge, &signer)?;
                replace_checkpoint(&mut storage, &signed)?;
                signed
            }
        };
        Ok(Self { durable, unsynced, ..Self::new(storage, signer, edge, checkpoint) })
    }

    fn new(storage: S, signer: Arc<LedgerSigner>, edge: Edge, checkpoint: SignedCheckpoint) -> Self {
        Self {
            storage,
            signer,
            edge,
            checkpoint,
            previous: Vec::new(),
            parser: EntryParser::default(),
            durable: 0,
            unsynced: 0,
            closed: false,
            _lock: None,
        }
    }

    /// The number of entries under the signed checkpoint.
    pub const fn size(&self) -> u64 {
        self.checkpoint.checkpoint().size
    }

    /// The signed checkpoint.
    pub const fn checkpoint(&self) -> &SignedCheckpoint {
        &self.checkpoint
    }

    /// Where its files lie.
    pub const fn storage(&self) -> &S {
        &self.storage
    }

    /// The key that it is signed with.
    pub fn ledger_key(&self) -> LedgerKey {
        self.signer.ledger_key()
    }

    /// How many entries have files that are known to be durable.
    pub const fn durable(&self) -> u64 {
        self.durable
    }

    /// Makes everything durable that was appended.
    ///
    /// # Errors
    /// If that is not known: the writer is closed then and must be opened again.
    pub fn sync(&mut self) -> Result<(), AppendError> {
        if self.closed {
            return Err(AppendError::Closed);
        }
        self.closed = true;
        self.flush()?;
        self.closed = false;
        Ok(())
    }

    fn flush(&mut self) -> Result<(), AppendError> {
        let io = |source| AppendError::Io { action: "flush", path: ".".to_owned(), source };
        self.storage.sync().map_err(io)?;
        (self.durable, self.unsynced) = (self.size(), 0);
        Ok(())
    }

    /// Makes `entry` number `index` of the log and returns the checkpoint that covers it. Does nothing if it is there
    /// already. Before the checkpoint is given to anybody the entry must be durable: on record elsewhere, to
    /// [`restore`](Self::restore) the log from, or here, by [`sync`](Self::sync).
    ///
    /// # Errors
    /// If the bytes are not an entry, another entry has this index, the index lies beyond the end, or a write fails;
    /// after a failed write the writer is closed and must be opened again.
    pub fn append(&mut self, index: u64, entry: &EncodedEntry) -> Result<&SignedCheckpoint, AppendError> {
        self.append_all(index, std::slice::from_ref(entry))
    }

    /// Makes `entries` numbers `index` and following, under one new checkpoint. Those that are there already are
    /// compared.
    ///
    /// # Errors
    /// As [`append`](Self::append); also if there are more than [`BATCH_LEN_MAX`].
    pub fn append_all(&mut self, index: u64, entries: &[EncodedEntry]) -> Result<&SignedCheckpoint, AppendError> {
        let new = entries.iter().skip(usize::try_from(self.size().saturating_sub(index)).unwrap_or(usize::MAX));
        if let Some(place) = new.into_iter().position(|entry| EntryKind::of(&entry.leaf) == Some(EntryKind::KeyRotated))
        {
            return Err(AppendError::Rotation { index: self.size() + place as u64 });
        }
        self.put(index, entries)
    }

    /// Makes `entry`, a rotation from this log's key to `signer`'s, number `index` of the log. The checkpoint that covers it
    /// and all later ones are signed by `signer`.
    ///
    /// # Errors
    /// If the entry is no such rotation, or as [`append`](Self::append).
    pub fn rotate(
        &mut self,
        index: u64,
        entry: &EncodedEntry,
        signer: Arc<LedgerSigner>,
    ) -> Result<&SignedCheckpoint, AppendError> {
        let parsed = self.parser.parse(&entry.leaf, entry.attachment.as_deref());
        let Entry::KeyRotated(rotation) = parsed.map_err(|source| AppendError::Entry { index, source })? else {
            return Err(AppendError::Rotation { index });
        };
        if rotation.verify(index, &self.ledger_key()) != Ok(&signer.ledger_key()) {
            return Err(AppendError::Rotation { index });
        }
        self.signer = signer;
        self.put(index, std::slice::from_ref(entry))
    }

    fn put(&mut self, index: u64, entries: &[EncodedEntry]) -> Result<&SignedCheckpoint, AppendError> {
        if self.closed {
            return Err(AppendError::Closed);
        }
        if entries.len() > BATCH_LEN_MAX {
            return Err(AppendError::Full { len: entries.len() as u64, max: BATCH_LEN_MAX as u64 });
        }
        let size = self.size();
        if index > size {
            return Err(AppendError::Gap { index, size });
        }
        let n_known = usize::try_from(size - index).unwrap_or(usize::MAX).min(entries.len());
        let (known, new) = entries.split_at(n_known);
        for (index, entry) in (index..).zip(known) {
            if self.entry(index)? != entry.leaf {
                return Err(AppendError::Conflict { index });
            }
        }
        for (index, entry) in (size..).zip(new) {
            let attachment = entry.attachment.as_deref();
            self.parser.parse(&entry.leaf, attachment).map_err(|source| AppendError::Entry { index, source })?;
        }
        if new.is_empty() {
            return Ok(&self.checkpoint);
        }
        // Whatever fails from here on leaves edge and files apart.
        self.closed = true;
        let before: Vec<Tile> = self.edge.partial().into_iter().map(|(tile, _)| tile).collect();
        let mut tiles = Vec::new();
        for entry in new {
            tiles.extend(self.edge.push(&entry.leaf)?);
        }
        // A partial tile that the last checkpoint had already is left alone: half of a second write would tear what a
        // signature covers.
        tiles.extend(self.edge.partial().into_iter().filter(|(tile, _)| !before.contains(tile)));
        // Entries before hashes, and attachments before entries: a hash without what it is of would be a promise that
        // nobody can check.
        tiles.sort_by_key(|(tile, _)| tile.kind != TileKind::Entries);
        let attachments = new.iter().filter_map(|entry| entry.attachment.as_deref());
        let attachments = attachments.map(|bytes| (attachment_path(&Digest::of(bytes)), bytes));
        let tiles = tiles.iter().map(|(tile, bytes)| (tile.path(), bytes.as_slice()));
        for (path, bytes) in attachments.chain(tiles) {
            self.unsynced += write(&mut self.storage, path, bytes)?;
        }
        let signed = sign(&self.edge, &self.signer)?;
        replace_checkpoint(&mut self.storage, &signed)?;
        self.checkpoint = signed;
        if self.size() - self.durable >= UNSYNCED_ENTRIES_MAX || self.unsynced >= UNSYNCED_BYTES_MAX {
            self.flush()?;
        }
        for tile in std::mem::replace(&mut self.previous, before) {
            // What the checkpoint before the last had is narrower than what the last one had.
            if let Some(now) = self.previous.iter().find(|now| now.kind == tile.kind && now.index == tile.index) {
                self.storage.remove_narrower(now);
            } else {
                self.storage.remove_narrower(&tile.with_width(TILE_WIDTH));
            }
        }
        self.closed = false;
        Ok(&self.checkpoint)
    }

    /// The leaf number `index`.
    ///
    /// # Errors
    /// If it is not under the checkpoint or its bundle cannot be read.
    pub fn entry(&self, index: u64) -> Result<Vec<u8>, AppendError> {
        let size = self.size();
        let tile = Tile::of_row(TileKind::Entries, index, size).ok_or(AppendError::Gap { index, size })?;
        let bundle = self.storage.read(&tile)?;
        let entries = parse_entries(&tile, &bundle)?;
        let row = (index % u64::from(TILE_WIDTH)) as usize;
        Ok(entries.get(row).ok_or(AppendError::Gap { index, size })?.to_vec())
    }

    /// What `leaf`, an entry of this log, names as its attachment, if it names one.
    ///
    /// # Errors
    /// If the attachment cannot be read.
    pub fn attachment(&self, leaf: &[u8]) -> Result<Option<Vec<u8>>, AppendError> {
        Ok(attachment_of(leaf).map(|digest| self.storage.read_attachment(&digest)).transpose()?)
    }

    /// The root of the log's first `size` entries. Reads a number of tiles that is logarithmic in the size.
    ///
    /// # Errors
    /// If it lies beyond the checkpoint, or a tile cannot be read.
    pub fn root_at(&self, size: u64) -> Result<Digest, AppendError> {
        self.check_covered(size)?;
        Ok(root_at(&mut self.hashes(), size)?)
    }

    /// The audit path of leaf `index` in the log's first `size` entries. Reads a number of tiles that is logarithmic in
    /// the size.
    ///
    /// # Errors
    /// If either lies beyond the checkpoint, or a tile cannot be read.
    pub fn inclusion_proof(&self, index: u64, size: u64) -> Result<Vec<Digest>, AppendError> {
        self.check_covered(size)?;
        Ok(inclusion_proof(&mut self.hashes(), index, size)?)
    }

    /// The proof that the first `old` entries are the beginning of the first `new`. Reads a number of tiles that is
    /// logarithmic in the size.
    ///
    /// # Errors
    /// If either lies beyond the checkpoint, or a tile cannot be read.
    pub fn consistency_proof(&self, old: u64, new: u64) -> Result<Vec<Digest>, AppendError> {
        self.check_covered(new)?;
        Ok(consistency_proof(&mut self.hashes(), old, new)?)
    }

    /// The receipt of entry `index` under the checkpoint, for a client whose last checkpoint has `old_size` entries (0
    /// for none).
    ///
    /// # Errors
    /// If either lies beyond the checkpoint, or a tile cannot be read.
    pub fn receipt(&self, index: u64, old_size: u64) -> Result<Receipt, AppendError> {
        let size = self.size();
        Ok(Receipt {
            entry: self.entry(index)?,
            index,
            checkpoint: self.checkpoint.note().encode().into_bytes(),
            inclusion: self.inclusion_proof(index, size)?,
            old_size,
            consistency: self.consistency_proof(old_size, size)?,
        })
    }

    fn check_covered(&self, size: u64) -> Result<(), AppendError> {
        if size > self.size() { Err(AppendError::Gap { index: size, size: self.size() }) } else { Ok(()) }
    }

    fn hashes(&self) -> TileHashes<'_, S> {
        TileHashes::new(&self.storage, self.size())
    }
}

/// Writes a file, and gives its length.
fn write<S: Storage>(storage: &mut S, path: String, bytes: &[u8]) -> Result<usize, AppendError> {
    storage.write(&path, bytes).map_err(|source| AppendError::Io { action: "write", path, source })?;
    Ok(bytes.len())
}

/// Writes a tile where it is not there as it should be, and gives how many bytes. Narrower forms of it may be torn.
fn put_right<S: Storage>(storage: &mut S, tile: &Tile, bytes: &[u8]) -> Result<usize, AppendError> {
    storage.remove_narrower(tile);
    if storage.read(tile).is_ok_and(|there| there == bytes) { Ok(0) } else { write(storage, tile.path(), bytes) }
}

fn replace_checkpoint<S: Storage>(storage: &mut S, signed: &SignedCheckpoint) -> Result<(), AppendError> {
    let io = |source| AppendError::Io { action: "write", path: CHECKPOINT_FILE.to_owned(), source };
    storage.replace_checkpoint(signed.note().encode().as_bytes()).map_err(io)
}

/// The checkpoint that a log of these `entries` has in its place, if one of its keys, of which `key` must be the last, signed
/// it. None where there is none yet, or what is there was never durable and is torn: then it is no note at all.
fn kept_checkpoint<S: Storage>(
    storage: &S,
    entries: &[EncodedEntry],
    key: &LedgerKey,
    durable: u64,
) -> Result<Option<SignedCheckpoint>, AppendError> {
    let mut keys: Vec<LedgerKey> = Vec::new();
    for (index, entry) in (0..).zip(entries) {
        match (EntryKind::of(&entry.leaf), keys.last()) {
            (Some(EntryKind::LogOpened), None) => {
                if let Ok(Entry::LogOpened(opened)) = Entry::parse(&entry.leaf, None) {
                    keys.push(opened.ledger_key);
                }
            }
            (Some(EntryKind::KeyRotated), Some(last)) => {
                if let Ok(Entry::KeyRotated(rotation)) = Entry::parse(&entry.leaf, None)
                    && let Ok(new) = rotation.verify(index, last)
                {
                    keys.push(new.clone());
                }
            }
            _ => {}
        }
    }
    let unsigned = NoteError::Unsigned { name: key.name().clone(), key_id: key.key_id() };
    if keys.last().is_some_and(|last| last != key) {
        return Err(unsigned.into());
    }
    let io = |source| AppendError::Io { action: "read", path: CHECKPOINT_FILE.to_owned(), source };
    match storage.checkpoint().map_err(io)? {
        None if durable > 0 => Err(AppendError::CheckpointMissing),
        None => Ok(None),
        Some(note) => match keys.iter().rev().find_map(|key| SignedCheckpoint::open(&note, key).ok()) {
            Some(signed) => Ok(Some(signed)),
            None if SignedNote::parse(&note).is_err() => Ok(None),
            None => Err(SignedCheckpoint::open(&note, key).err().unwrap_or(unsigned).into()),
        },
    }
}

/// Every kind of tile.
pub(crate) fn kinds() -> impl Iterator<Item = TileKind> {
    let hashes = (0..TILE_LEVELS_MAX).map(|level| TileKind::Hashes { level });
    [TileKind::Entries].into_iter().chain(hashes)
}

fn sign(edge: &Edge, signer: &LedgerSigner) -> Result<SignedCheckpoint, NoteError> {
    let origin = signer.ledger_key().name().clone();
    SignedCheckpoint::sign(Checkpoint { origin, size: edge.size(), root: edge.root() }, signer)
}

/// What an entry's first lines say of it, whether or not the rest is well-formed: for findings that name it.
pub(crate) fn describe(entry: &[u8]) -> (Option<EntryKind>, Option<u64>) {
    const LINES_MAX: usize = 8;
    let round = entry
        .split(|byte| *byte == b'\n')
        .take(LINES_MAX)
        .find_map(|line| str::from_utf8(line.strip_prefix(b"round: ")?).ok()?.parse().ok());
    (EntryKind::of(entry), round)
}
