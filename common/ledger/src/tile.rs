//! The tree as static files: the tile format of C2SP (tlog-tiles), height 8.
//!
//! A hash tile holds up to 256 hashes, 32 bytes each; at tile level L they are the roots of complete subtrees of 256^L
//! leaves. An entry bundle holds up to 256 leaves, each after its length as a big-endian `u16`. The last file of a level
//! may be partial; its width is part of its name, so a file once named is never written differently.
//!
//! Beside the tree lie the entries' attachments, each under the SHA-256 of its bytes.

use std::{
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
    sync::Arc,
};

use eranos_base::Digest;

use crate::{
    entry::ATTACHMENT_LEN_MAX,
    tree::{HashReader, ProofError, SIZE_MAX, node_hash},
};

/// Levels of the tree in one tile.
pub const TILE_HEIGHT: u8 = 8;
/// Hashes in a full tile, and entries in a full bundle.
pub const TILE_WIDTH: u16 = 1 << TILE_HEIGHT;
/// Tile levels: 0 to 5.
pub const TILE_LEVELS_MAX: u8 = 6;
/// Longest entry in bytes: its length is a `u16`.
pub const ENTRY_LEN_MAX: usize = u16::MAX as usize;
/// Largest entry bundle in bytes; one is held in memory while it is read.
pub const BUNDLE_LEN_MAX: usize = (ENTRY_LEN_MAX + 2) * TILE_WIDTH as usize;

/// What a tile holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TileKind {
    /// Hashes at this tile level, below [`TILE_LEVELS_MAX`].
    Hashes {
        /// The tile level.
        level: u8,
    },
    /// Entries.
    Entries,
}

/// The name of one tile or entry bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tile {
    /// What it holds.
    pub kind: TileKind,
    /// Its number in its level, from 0.
    pub index: u64,
    /// How many rows it has: 256 where it is full, else 1 to 255.
    pub width: u16,
}

impl Tile {
    /// Its path below the log's folder: `tile/<L>/<N>[.p/<W>]` or `tile/entries/<N>[.p/<W>]`, N in groups of three
    /// digits of which all but the last carry an `x`.
    pub fn path(&self) -> String {
        let mut groups = vec![format!("{:03}", self.index % 1000)];
        let mut rest = self.index / 1000;
        while rest > 0 {
            groups.push(format!("x{:03}", rest % 1000));
            rest /= 1000;
        }
        groups.reverse();
        let level = match self.kind {
            TileKind::Hashes { level } => level.to_string(),
            TileKind::Entries => "entries".to_owned(),
        };
        let partial = if self.width == TILE_WIDTH { String::new() } else { format!(".p/{}", self.width) };
        format!("tile/{level}/{}{partial}", groups.join("/"))
    }

    /// The tile that `path` names, if it is the one spelling of a tile's path.
    pub fn parse(path: &str) -> Option<Self> {
        // Six groups reach past the largest index, and bound the work on a foreign name.
        const PATH_LEN_MAX: usize = 64;
        if path.len() > PATH_LEN_MAX {
            return None;
        }
        let (kind, rest) = path.strip_prefix("tile/")?.split_once('/')?;
        let kind = match kind {
            "entries" => TileKind::Entries,
            level => TileKind::Hashes { level: level.parse().ok().filter(|level| *level < TILE_LEVELS_MAX)? },
        };
        let (number, width) = match rest.split_once(".p/") {
            None => (rest, TILE_WIDTH),
            Some((number, width)) => (number, width.parse().ok().filter(|width| (1..TILE_WIDTH).contains(width))?),
        };
        let mut index = 0u64;
        for group in number.split('/') {
            let digits = group.strip_prefix('x').unwrap_or(group);
            if digits.len() != 3 || !digits.bytes().all(|b| b.is_ascii_digit()) {
                return None;
            }
            index = index.checked_mul(1000)?.checked_add(digits.parse().ok()?)?;
        }
        let tile = Self { kind, index, width };
        // What is left to refuse (leading zeros, a missing x) is whatever would be spelled another way.
        (index < SIZE_MAX && tile.path() == path).then_some(tile)
    }

    /// The last, possibly partial, tile of `kind` in a log of `size` entries; none where that level is empty.
    pub fn last(kind: TileKind, size: u64) -> Option<Self> {
        let rows = rows(kind, size).checked_sub(1)?;
        Self::of_row(kind, rows, size)
    }

    /// The tile of `kind` that holds row number `row` in a log of `size` entries, as wide as that log has it.
    pub fn of_row(kind: TileKind, row: u64, size: u64) -> Option<Self> {
        let n_rows = rows(kind, size);
        if row >= n_rows {
            return None;
        }
        let index = row >> TILE_HEIGHT;
        let width = (n_rows - (index << TILE_HEIGHT)).min(u64::from(TILE_WIDTH)) as u16;
        Some(Self { kind, index, width })
    }

    /// The same tile with fewer rows.
    #[must_use]
    pub const fn with_width(self, width: u16) -> Self {
        Self { width, ..self }
    }

    /// Most bytes its file may have.
    pub const fn len_max(&self) -> usize {
        match self.kind {
            TileKind::Hashes { .. } => self.width as usize * Digest::LEN,
            TileKind::Entries => self.width as usize * (ENTRY_LEN_MAX + 2),
        }
    }
}

/// How many rows all tiles of `kind` have together in a log of `size` entries.
pub const fn rows(kind: TileKind, size: u64) -> u64 {
    match kind {
        TileKind::Hashes { level } => size >> (TILE_HEIGHT * level),
        TileKind::Entries => size,
    }
}

/// Why a tile could not be read.
#[derive(Debug, thiserror::Error)]
pub enum TileError {
    /// The file cannot be read.
    #[error("cannot read {path}: {source}")]
    Io {
        /// Its path below the log's folder.
        path: String,
        /// What the operating system said.
        source: io::Error,
    },
    /// The file does not exist.
    #[error("{path} is missing")]
    Missing {
        /// Its path below the log's folder.
        path: String,
    },
    /// The file has another length than its rows call for.
    #[error("{path} has {len} bytes, not what {width} rows take")]
    Length {
        /// Its path below the log's folder.
        path: String,
        /// The length found.
        len: u64,
        /// The rows that its name promises.
        width: u16,
    },
    /// An entry bundle breaks off or goes on.
    #[error("{path} is malformed at entry {index}: {what}")]
    Bundle {
        /// Its path below the log's folder.
        path: String,
        /// The first entry that cannot be read.
        index: u64,
        /// What is wrong.
        what: &'static str,
    },
    /// An attachment is longer than one may be, or its bytes do not have the SHA-256 that is its name.
    #[error("{path} is not what its name says")]
    Attachment {
        /// Its path below the log's folder.
        path: String,
    },
    /// A proof was asked for that does not exist.
    #[error(transparent)]
    Proof(#[from] ProofError),
}

/// The folder of attachments, below the log's folder.
pub const ATTACHMENTS: &str = "attachment";

/// The path of an attachment below the log's folder: `attachment/<the first two digits>/<64 digits of lower-case hex>`.
pub fn attachment_path(digest: &Digest) -> String {
    let name = digest.to_string();
    format!("{ATTACHMENTS}/{}/{name}", &name[..2])
}

/// Where tiles and attachments come from.
pub trait TileSource {
    /// The bytes of `tile`.
    ///
    /// # Errors
    /// If it is missing, cannot be read, or is larger than a tile may be.
    fn read(&self, tile: &Tile) -> Result<Vec<u8>, TileError>;

    /// The attachment whose SHA-256 is `digest`.
    ///
    /// # Errors
    /// If it is missing, cannot be read, or is not what its name says.
    fn read_attachment(&self, digest: &Digest) -> Result<Vec<u8>, TileError>;
}

/// The tiles of a log that lies in a folder.
#[derive(Clone, Debug)]
pub struct Folder {
    path: PathBuf,
    /// The folder, opened before anything was written: [`crate::log::Storage::sync`].
    pub(crate) held: Option<Arc<File>>,
}

impl Folder {
    /// The log in `dir`.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { path: dir.into(), held: None }
    }

    /// The folder's path.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl TileSource for Folder {
    fn read(&self, tile: &Tile) -> Result<Vec<u8>, TileError> {
        let path = tile.path();
        match read_bounded(&self.path, &path, tile.len_max())? {
            Ok(bytes) => Ok(bytes),
            Err(len) => Err(TileError::Length { path, len, width: tile.width }),
        }
    }

    fn read_attachment(&self, digest: &Digest) -> Result<Vec<u8>, TileError> {
        let path = attachment_path(digest);
        match read_bounded(&self.path, &path, ATTACHMENT_LEN_MAX)? {
            Ok(bytes) if Digest::of(&bytes) == *digest => Ok(bytes),
            _ => Err(TileError::Attachment { path }),
        }
    }
}

/// The bytes of the file at `path` below `dir`, or its length, if it is no file of at most `len_max` bytes.
fn read_bounded(dir: &Path, path: &str, len_max: usize) -> Result<Result<Vec<u8>, u64>, TileError> {
    let io = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => TileError::Missing { path: path.to_owned() },
        _ => TileError::Io { path: path.to_owned(), source },
    };
    let file_path = dir.join(path);
    let metadata = fs::metadata(&file_path).map_err(io)?;
    let len = metadata.len();
    // Before it is opened: to open a pipe is to wait for whoever may never write to it.
    if len > len_max as u64 || !metadata.is_file() {
        return Ok(Err(len));
    }
    let file = File::open(file_path).map_err(io)?;
    let mut bytes = Vec::with_capacity(len as usize);
    file.take(len_max as u64 + 1).read_to_end(&mut bytes).map_err(io)?;
    Ok(Ok(bytes))
}

/// Reads the rows of a hash tile.
///
/// # Errors
/// If the length is not that of its rows.
pub fn parse_hashes(tile: &Tile, bytes: &[u8]) -> Result<Vec<Digest>, TileError> {
    let (rows, rest) = bytes.as_chunks::<{ Digest::LEN }>();
    if rows.len() != usize::from(tile.width) || !rest.is_empty() {
        return Err(TileError::Length { path: tile.path(), len: bytes.len() as u64, width: tile.width });
    }
    Ok(rows.iter().map(|row| Digest(*row)).collect())
}

/// The bytes of a hash tile.
pub fn encode_hashes(rows: &[Digest]) -> Vec<u8> {
    rows.iter().flat_map(|row| row.0).collect()
}

/// Appends `entry` to a bundle; false, and nothing appended, where it is longer than [`ENTRY_LEN_MAX`].
#[must_use]
#[expect(clippy::big_endian_bytes, reason = "the tile format counts entries in big-endian")]
pub fn push_entry(bundle: &mut Vec<u8>, entry: &[u8]) -> bool {
    let Ok(len) = u16::try_from(entry.len()) else {
        return false;
    };
    bundle.extend_from_slice(&len.to_be_bytes());
    bundle.extend_from_slice(entry);
    true
}

/// Reads the entries of a bundle, which must be exactly as many as the tile is wide.
///
/// # Errors
/// If the bytes end early or go on; the error names the first entry that cannot be read.
#[expect(clippy::big_endian_bytes, reason = "the tile format counts entries in big-endian")]
pub fn parse_entries<'a>(tile: &Tile, bytes: &'a [u8]) -> Result<Vec<&'a [u8]>, TileError> {
    let mut rest = bytes;
    let mut entries = Vec::with_capacity(usize::from(tile.width));
    let first = tile.index << TILE_HEIGHT;
    let fault = |row: usize, what| TileError::Bundle { path: tile.path(), index: first + row as u64, what };
    for row in 0..usize::from(tile.width) {
        let (len, after) = rest.split_first_chunk::<2>().ok_or_else(|| fault(row, "the bundle ends early"))?;
        let len = usize::from(u16::from_be_bytes(*len));
        let (entry, after) = after.split_at_checked(len).ok_or_else(|| fault(row, "the entry ends early"))?;
        entries.push(entry);
        rest = after;
    }
    if rest.is_empty() { Ok(entries) } else { Err(fault(entries.len(), "bytes follow the last entry")) }
}

/// The hashes of a log of `size` entries, read from its tiles. It keeps the last tile of each level in memory.
#[derive(Debug)]
pub struct TileHashes<'a, S> {
    source: &'a S,
    size: u64,
    cached: Vec<(Tile, Vec<Digest>)>,
}

impl<'a, S: TileSource> TileHashes<'a, S> {
    /// The hashes of a log of `size` entries in `source`, which has the tiles of exactly that size.
    pub const fn new(source: &'a S, size: u64) -> Self {
        Self { source, size, cached: Vec::new() }
    }

    fn tile(&mut self, tile: Tile) -> Result<&[Digest], TileError> {
        let place = match self.cached.iter().position(|(cached, _)| *cached == tile) {
            Some(place) => place,
            None => {
                let rows = parse_hashes(&tile, &self.source.read(&tile)?)?;
                // One tile a kind, so the cache never exceeds the number of levels.
                self.cached.retain(|(cached, _)| cached.kind != tile.kind);
                self.cached.push((tile, rows));
                self.cached.len() - 1
            }
        };
        Ok(&self.cached[place].1)
    }
}

impl<S: TileSource> HashReader for TileHashes<'_, S> {
    type Error = TileError;

    fn subtree(&mut self, level: u8, index: u64) -> Result<Digest, TileError> {
        let outside = ProofError::Index { index, size: self.size };
        let kind = TileKind::Hashes { level: level / TILE_HEIGHT };
        // The subtree's root lies `height` levels above the rows of its tile, over 2^height of them.
        let height = level % TILE_HEIGHT;
        let first = index << height;
        let tile = Tile::of_row(kind, first, self.size).ok_or(outside)?;
        let rows = self.tile(tile)?;
        let start = (first & u64::from(TILE_WIDTH - 1)) as usize;
        let rows = rows.get(start..start + (1 << height)).ok_or(outside)?;
        Ok(complete_root(rows))
    }
}

/// The root over a power of two of hashes.
pub fn complete_root(rows: &[Digest]) -> Digest {
    let mut rows = rows.to_vec();
    while rows.len() > 1 {
        rows = rows.chunks_exact(2).map(|pair| node_hash(&pair[0], &pair[1])).collect();
    }
    rows.first().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn paths_are_those_of_the_specification() {
        let check = |kind, index, width, path: &str| {
            let tile = Tile { kind, index, width };
            assert_eq!(tile.path(), path);
            assert_eq!(Tile::parse(path), Some(tile));
        };
        check(TileKind::Hashes { level: 0 }, 0, 256, "tile/0/000");
        check(TileKind::Hashes { level: 1 }, 1_234_067, 256, "tile/1/x001/x234/067");
        check(TileKind::Entries, 273, 112, "tile/entries/273.p/112");
        check(TileKind::Entries, 1234, 1, "tile/entries/x001/234.p/1");
    }

    #[test]
    fn other_spellings_are_refused() {
        for path in [
            "tile/0/0",
            "tile/0/0000",
            "tile/00/000",
            "tile/6/000",
            "tile/-1/000",
            "tile/+1/000",
            "tile/0/x000/001",
            "tile/0/001/234",
            "tile/0/x001",
            "tile/0/000.p/0",
            "tile/0/000.p/256",
            "tile/0/000.p/07",
            "tile/0/000.p/+7",
            "tile/0/000.p/1/2",
            "tile/0/000/",
            "tile/data/000",
            "/tile/0/000",
            "tile/0/x999/x999/x999/x999/x999/x999/999",
        ] {
            assert_eq!(Tile::parse(path), None, "{path}");
        }
    }

    #[test]
    fn a_bundle_names_the_entry_at_which_it_breaks() {
        let mut bundle = Vec::new();
        assert!(push_entry(&mut bundle, b"one") && push_entry(&mut bundle, b"three"));
        assert!(!push_entry(&mut bundle, &vec![0; ENTRY_LEN_MAX + 1]));
        assert_eq!(hex::encode(&bundle), "00036f6e6500057468726565");
        let tile = Tile { kind: TileKind::Entries, index: 1, width: 2 };
        assert_eq!(parse_entries(&tile, &bundle).expect("two entries"), [&b"one"[..], b"three"]);
        let broken = |width, bytes: &[u8]| match parse_entries(&tile.with_width(width), bytes) {
            Err(TileError::Bundle { index, .. }) => index,
            other => panic!("{other:?}"),
        };
        assert_eq!(broken(2, &bundle[..4]), 256);
        assert_eq!(broken(2, &bundle[..5]), 257);
        assert_eq!(broken(2, &bundle[..11]), 257);
        assert_eq!(broken(3, &bundle), 258);
        assert_eq!(broken(1, &bundle), 257);
    }

    proptest! {
        #[test]
        fn whatever_parses_is_spelled_that_way(path in "tile/([0-9]{1,2}|entries)/(x?[0-9]{3}/){0,3}[0-9]{3}(\\.p/[0-9]{1,3})?") {
            if let Some(tile) = Tile::parse(&path) {
                prop_assert_eq!(tile.path(), path);
            }
        }

        #[test]
        fn every_tile_returns_from_its_path(level in 0u8..6, index in 0..SIZE_MAX, width in 1u16..=256) {
            for kind in [TileKind::Hashes { level }, TileKind::Entries] {
                let tile = Tile { kind, index, width };
                prop_assert_eq!(Tile::parse(&tile.path()), Some(tile));
            }
        }

        #[test]
        fn foreign_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600), width in 1u16..=256) {
            let tile = Tile { kind: TileKind::Entries, index: 0, width };
            if let Ok(entries) = parse_entries(&tile, &bytes) {
                let mut again = Vec::new();
                for entry in entries {
                    prop_assert!(push_entry(&mut again, entry));
                }
                prop_assert_eq!(again, bytes);
            }
        }
    }
}
