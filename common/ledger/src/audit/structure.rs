//! Whether a folder is a log: every hash, every tile, every file. What the entries mean is in [`super::meaning`].

use std::{
    collections::{HashMap, VecDeque},
    fs,
};

use eranos_base::Digest;

use crate::{
    audit::{
        AuditError,
        fault::{EntryRef, Fault, Findings},
        meaning::Ledger,
    },
    entry::attachment_of,
    log::CHECKPOINT_FILE,
    note::Checkpoint,
    tile::{
        Folder, TILE_HEIGHT, TILE_LEVELS_MAX, TILE_WIDTH, Tile, TileError, TileKind, TileSource, attachment_path,
        complete_root, parse_entries, parse_hashes, rows,
    },
    tree::{Frontier, leaf_hash},
};

/// Reads the tree: entries against hash tiles, hash tiles against those below, the whole against the checkpoint, and each
/// entry's attachment against its name.
pub(super) struct Structure<'a> {
    folder: &'a Folder,
    checkpoint: &'a Checkpoint,
    known: Option<&'a Checkpoint>,
    pub(super) frontier: Frontier,
    /// The rows of the tile that is being filled at each level, recomputed.
    levels: [Vec<Digest>; TILE_LEVELS_MAX as usize],
    /// Attachments that entries name.
    pub(super) n_attachments: u64,
    named: Named,
}

/// The attachments that were named last, each with the entry that named it: one is read and verified once, however many
/// entries name it. Beyond the limit the oldest is forgotten; named again, it is read again, and the counts in it are found to
/// repeat. So what a log can make an auditor read grows with what the log itself takes on disk.
#[derive(Default)]
struct Named {
    entries: HashMap<Digest, u64>,
    order: VecDeque<Digest>,
}

/// Attachments that an auditor remembers by name, at up to 300 bytes each.
pub const ATTACHMENTS_KEPT_MAX: usize = 1 << 16;

impl Named {
    /// The entry that named `digest` before, or remembers that `index` does.
    fn before(&mut self, digest: Digest, index: u64) -> Option<u64> {
        if let Some(before) = self.entries.get(&digest) {
            return Some(*before);
        }
        if self.order.len() == ATTACHMENTS_KEPT_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.entries.remove(&oldest);
        }
        self.order.push_back(digest);
        self.entries.insert(digest, index);
        None
    }
}

impl<'a> Structure<'a> {
    pub(super) fn new(folder: &'a Folder, checkpoint: &'a Checkpoint, known: Option<&'a Checkpoint>) -> Self {
        let (frontier, levels) = (Frontier::default(), Default::default());
        Self { folder, checkpoint, known, frontier, levels, n_attachments: 0, named: Named::default() }
    }

    pub(super) fn read(
        &mut self,
        mut ledger: Option<&mut Ledger<'_>>,
        findings: &mut Findings,
    ) -> Result<(), AuditError> {
        let size = self.checkpoint.size;
        self.compare_known(findings);
        while self.frontier.size() < size {
            let first = self.frontier.size();
            let Some(tile) = Tile::of_row(TileKind::Entries, first, size) else { break };
            let bytes = match self.folder.read(&tile) {
                Ok(bytes) => bytes,
                Err(error) => return self.stop(first, error, findings),
            };
            let entries = match parse_entries(&tile, &bytes) {
                Ok(entries) => entries,
                Err(error) => {
                    let index = if let TileError::Bundle { index, .. } = error { index } else { first };
                    return self.stop(index, error, findings);
                }
            };
            let hashes = self.read_hashes(Tile { kind: TileKind::Hashes { level: 0 }, ..tile }, findings)?;
            for (row, entry) in entries.iter().enumerate() {
                let at = EntryRef::of(first + row as u64, entry);
                let hash = leaf_hash(entry);
                if let Some((path, hashes)) = &hashes
                    && hashes.get(row) != Some(&hash)
                {
                    findings.add(Some(at), Fault::LeafHash { path: path.clone() });
                }
                self.levels[0].push(hash);
                self.frontier.push(hash);
                self.compare_known(findings);
                let attachment = self.read_attachment(at, entry, findings)?;
                if let Some(ledger) = &mut ledger {
                    ledger.take(at, entry, attachment.as_deref(), findings);
                }
            }
            self.close_full_tiles(findings)?;
        }
        // Level 0 was compared entry by entry; what is left above it are the partial tiles of the edge.
        for level in 1..TILE_LEVELS_MAX {
            let rows = std::mem::take(&mut self.levels[usize::from(level)]);
            if let Some(tile) = Tile::last(TileKind::Hashes { level }, size).filter(|_| !rows.is_empty()) {
                self.compare_tile(tile, &rows, findings)?;
            }
        }
        if self.frontier.root() != self.checkpoint.root {
            findings.add(None, Fault::Root { size });
        }
        if size == 0 && ledger.is_some() {
            findings.add(None, Fault::Opening);
        }
        Ok(())
    }

    /// Without the entries from `index` on nothing further can be computed.
    fn stop(&self, index: u64, error: TileError, findings: &mut Findings) -> Result<(), AuditError> {
        let fault = self.tile_fault(error)?;
        findings.add(Some(EntryRef::unread(index)), fault);
        Ok(())
    }

    /// A failure to read is the auditor's problem; a missing or malformed file is the log's.
    fn tile_fault(&self, error: TileError) -> Result<Fault, AuditError> {
        match error {
            TileError::Io { path, source } => Err(AuditError::Io { path: self.folder.path().join(path), source }),
            error => Ok(Fault::Tile(error.to_string())),
        }
    }

    fn read_hashes(&self, tile: Tile, findings: &mut Findings) -> Result<Option<(String, Vec<Digest>)>, AuditError> {
        match self.folder.read(&tile).and_then(|bytes| parse_hashes(&tile, &bytes)) {
            Ok(hashes) => Ok(Some((tile.path(), hashes))),
            Err(error) => {
                let TileKind::Hashes { level } = tile.kind else { return Ok(None) };
                let fault = self.tile_fault(error)?;
                let first = (tile.index << TILE_HEIGHT) << (TILE_HEIGHT * level);
                findings.add(Some(EntryRef::unread(first)), fault);
                Ok(None)
            }
        }
    }

    /// What the entry names as its attachment, if that is there and what its name says.
    fn read_attachment(
        &mut self,
        at: EntryRef,
        entry: &[u8],
        findings: &mut Findings,
    ) -> Result<Option<Vec<u8>>, AuditError> {
        let Some(digest) = attachment_of(entry) else { return Ok(None) };
        if let Some(before) = self.named.before(digest, at.index) {
            findings.add(Some(at), Fault::AttachmentAgain { before });
            return Ok(None);
        }
        self.n_attachments += 1;
        match self.folder.read_attachment(&digest) {
            Ok(attachment) => Ok(Some(attachment)),
            Err(error) => {
                let fault = self.tile_fault(error)?;
                findings.add(Some(at), fault);
                Ok(None)
            }
        }
    }

    fn close_full_tiles(&mut self, findings: &mut Findings) -> Result<(), AuditError> {
        for level in 0..TILE_LEVELS_MAX {
            let rows = &mut self.levels[usize::from(level)];
            if rows.len() < usize::from(TILE_WIDTH) {
                break;
            }
            let rows = std::mem::take(rows);
            let kind = TileKind::Hashes { level };
            if level > 0
                && let Some(tile) = Tile::last(kind, self.frontier.size())
            {
                self.compare_tile(tile, &rows, findings)?;
            }
            if let Some(above) = self.levels.get_mut(usize::from(level) + 1) {
                above.push(complete_root(&rows));
            }
        }
        Ok(())
    }

    fn compare_tile(&self, tile: Tile, rows: &[Digest], findings: &mut Findings) -> Result<(), AuditError> {
        if let Some((path, found)) = self.read_hashes(tile, findings)?
            && found != rows
        {
            let TileKind::Hashes { level } = tile.kind else { return Ok(()) };
            // Names the first entry under the first row that differs.
            let row = found.iter().zip(rows).position(|(found, row)| found != row).unwrap_or_default() as u64;
            let first = ((tile.index << TILE_HEIGHT) + row) << (TILE_HEIGHT * level);
            findings.add(Some(EntryRef::unread(first)), Fault::TileHash { path });
        }
        Ok(())
    }

    fn compare_known(&self, findings: &mut Findings) {
        if let Some(known) = self.known
            && known.size == self.frontier.size()
            && known.root != self.frontier.root()
        {
            findings.add(None, Fault::Fork { size: known.size });
        }
    }
}

/// Looks at every file of the log's folder: each must be the checkpoint, a tile that the pass above has read, the
/// beginning of one, or an attachment. Gives the number of attachments.
pub(super) fn walk(folder: &Folder, size: u64, findings: &mut Findings) -> Result<u64, AuditError> {
    const DEPTH_MAX: usize = 10;
    let mut n_attachments = 0;
    let mut pending = vec![(String::new(), 0)];
    while let Some((below, depth)) = pending.pop() {
        let dir = folder.path().join(&below);
        let io = |source| AuditError::Io { path: dir.clone(), source };
        let mut names: Vec<(String, fs::FileType, bool)> = Vec::new();
        for file in fs::read_dir(&dir).map_err(io)? {
            let file = file.map_err(io)?;
            let name = file.file_name();
            let separator = if below.is_empty() { "" } else { "/" };
            let path = format!("{below}{separator}{}", name.to_string_lossy());
            names.push((path, file.file_type().map_err(io)?, name.to_str().is_some()));
        }
        // The order of a report must not depend on the file system.
        names.sort_by(|(a, ..), (b, ..)| a.cmp(b));
        for (path, file_type, is_text) in names {
            if !is_text {
                // What is printed of its name is not its name: nothing can be opened by it.
                findings.add(None, Fault::UnexpectedFile { path });
            } else if file_type.is_dir() && depth < DEPTH_MAX {
                pending.push((path, depth + 1));
            } else if file_type.is_file() && is_attachment(&path) {
                n_attachments += 1;
            } else if path != CHECKPOINT_FILE || !file_type.is_file() {
                let tile = Tile::parse(&path).filter(|_| file_type.is_file());
                check_file(folder, path, tile, size, findings)?;
            }
        }
    }
    Ok(n_attachments)
}

/// Whether `path` is the one spelling of an attachment's.
fn is_attachment(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or_default();
    name.parse().is_ok_and(|digest: Digest| attachment_path(&digest) == path)
}

fn check_file(
    folder: &Folder,
    path: String,
    tile: Option<Tile>,
    size: u64,
    findings: &mut Findings,
) -> Result<(), AuditError> {
    let Some(tile) = tile else {
        findings.add(None, Fault::UnexpectedFile { path });
        return Ok(());
    };
    let first_row = tile.index << TILE_HEIGHT;
    let present = Tile::of_row(tile.kind, first_row, size);
    match present {
        Some(present) if present == tile => Ok(()),
        Some(present) if tile.width < present.width => {
            // A reader of an earlier checkpoint may still be using it.
            let bytes = |tile| match folder.read(tile) {
                Ok(bytes) => Ok(Some(bytes)),
                Err(TileError::Io { path, source }) => Err(AuditError::Io { path: folder.path().join(path), source }),
                Err(_) => Ok(None),
            };
            let whole = |narrow: &[u8]| match tile.kind {
                TileKind::Entries => parse_entries(&tile, narrow).is_ok(),
                TileKind::Hashes { .. } => parse_hashes(&tile, narrow).is_ok(),
            };
            let holds = match (bytes(&tile)?, bytes(&present)?) {
                (Some(narrow), Some(wide)) => wide.starts_with(&narrow) && whole(&narrow),
                // The pass over the tree has reported the wider one.
                (Some(_), None) => true,
                (None, _) => false,
            };
            if !holds {
                findings.add(first_entry(&tile), Fault::Superseded { path });
            }
            Ok(())
        }
        _ => {
            let row = first_row.max(rows(tile.kind, size));
            let entry = match tile.kind {
                TileKind::Entries => Some(EntryRef::unread(row)),
                TileKind::Hashes { level } => Some(EntryRef::unread(row << (TILE_HEIGHT * level))),
            };
            findings.add(entry, Fault::BeyondCheckpoint { path, size });
            Ok(())
        }
    }
}

fn first_entry(tile: &Tile) -> Option<EntryRef> {
    let height = match tile.kind {
        TileKind::Entries => 0,
        TileKind::Hashes { level } => TILE_HEIGHT * level,
    };
    Some(EntryRef::unread((tile.index << TILE_HEIGHT) << height))
}
