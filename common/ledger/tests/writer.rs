//! The writer under crashes, replays, rivals and growth.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use eranos_base::{Digest, Entropy, OsEntropy, SeededEntropy, SigningKey, Timestamp};
use eranos_ledger::{
    AppendError, Date, EncodedEntry, Entry, LedgerSigner, LogOpened, LogWriter, Receipt, ReceiptError,
    SignedCheckpoint,
    audit::{self, Options},
    log::{Storage, UNSYNCED_ENTRIES_MAX},
    tile::{Folder, Tile, TileError, TileSource},
    tree,
};

use crate::support::{Federation, copy, files};

fn signer() -> Arc<LedgerSigner> {
    Arc::new(LedgerSigner::new("ledger.example.org".parse().expect("name"), SigningKey::from_seed(&[1; 32])))
}

/// Distinct entries that cost nothing to check; the writer does not ask what they mean.
fn leaf(index: u64) -> EncodedEntry {
    let opened = LogOpened {
        origin: format!("log-{index}").parse().expect("name"),
        trust_domain: "example.org".parse().expect("name"),
        ledger_key: signer().ledger_key(),
        date: Date::of(Timestamp::from_unix_ms(0)),
    };
    Entry::LogOpened(opened).encode().expect("encodes")
}

fn leaves(n: u64) -> Vec<EncodedEntry> {
    (0..n).map(leaf).collect()
}

fn not_an_entry(leaf: &[u8]) -> EncodedEntry {
    EncodedEntry { leaf: leaf.to_vec(), attachment: None }
}

fn root(entries: &[EncodedEntry]) -> Digest {
    tree::root(&entries.iter().map(|entry| entry.leaf.as_slice()).collect::<Vec<_>>())
}

fn assert_sound(dir: &Path) {
    let options = Options::new(signer().ledger_key());
    let report = audit::verify_structure(dir, &options).expect("readable");
    assert!(report.is_clean(), "{:#?}", report.findings);
}

#[test]
fn a_log_grows_by_one_and_every_checkpoint_continues_the_last() {
    let dir = tempfile::tempdir().expect("a folder");
    let key = signer().ledger_key();
    let mut writer = LogWriter::open(dir.path(), signer()).expect("opens");
    assert_eq!((writer.size(), writer.checkpoint().checkpoint().root), (0, tree::empty_root()));
    let mut previous: Option<SignedCheckpoint> = None;
    let all = leaves(8);
    for (index, leaf) in (0..).zip(&all) {
        let signed = writer.append(index, leaf).expect("appends").clone();
        assert_eq!(signed.checkpoint().root, root(&all[..=index as usize]));
        let old_size = previous.as_ref().map_or(0, |p| p.checkpoint().size);
        let receipt = writer.receipt(index, old_size).expect("proved");
        let receipt = Receipt::decode(&receipt.encode()).expect("decodes");
        let verified =
            receipt.verify(None, &key, previous.as_ref().map(SignedCheckpoint::checkpoint)).expect("verifies");
        assert_eq!(verified.entry.encode().expect("encodes"), *leaf);
        previous = Some(verified.checkpoint);
        assert_sound(dir.path());
        // The tiles of the checkpoint before the last stay for readers who have just fetched it; older ones go.
        let n_bundles = files(&dir.path().join("tile/entries")).len();
        assert!(n_bundles <= 2, "{n_bundles} bundles");
    }
    drop(writer);
    let writer = LogWriter::open(dir.path(), signer()).expect("opens again");
    assert_eq!(writer.size(), 8);
    assert_eq!(files(dir.path()).len(), 3, "checkpoint, one bundle, one tile");
    assert_sound(dir.path());
}

#[test]
fn an_entry_twice_is_nothing_and_another_one_is_refused() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut writer = LogWriter::open(dir.path(), signer()).expect("opens");
    writer.append_all(0, &leaves(300)).expect("appends");
    let before = writer.checkpoint().clone();
    for index in [0, 7, 255, 256, 299] {
        assert_eq!(writer.append(index, &leaf(index)).expect("known"), &before);
        assert!(matches!(writer.append(index, &leaf(999)), Err(AppendError::Conflict { index: i }) if i == index));
    }
    // A replay that reaches past the end completes.
    let replay: Vec<EncodedEntry> = (290..310).map(leaf).collect();
    assert_eq!(writer.append_all(290, &replay).expect("completes").checkpoint().size, 310);
    let mut other = replay.clone();
    other[3] = leaf(999);
    assert!(matches!(writer.append_all(290, &other), Err(AppendError::Conflict { index: 293 })));
    assert!(matches!(writer.append(311, &leaf(311)), Err(AppendError::Gap { index: 311, size: 310 })));
    assert!(matches!(writer.append(310, &not_an_entry(b"not an entry")), Err(AppendError::Entry { index: 310, .. })));
    assert!(matches!(writer.append(310, &not_an_entry(&[b'x'; 70_000])), Err(AppendError::Entry { index: 310, .. })));
    assert_eq!(writer.size(), 310);
    assert_sound(dir.path());
}

#[test]
fn a_rotation_changes_who_signs_and_is_appended_by_nothing_else() {
    let federation = Federation::with_rotation();
    let old = Federation::new().signer;
    let entries = federation.encoded();
    let dir = tempfile::tempdir().expect("a folder");
    let mut writer = LogWriter::open(dir.path(), old.clone()).expect("opens");
    writer.append_all(0, &entries[..7]).expect("appends");
    assert!(matches!(writer.append(7, &entries[7]), Err(AppendError::Rotation { index: 7 })));
    assert!(matches!(writer.append_all(0, &entries), Err(AppendError::Rotation { index: 7 })));
    assert!(matches!(writer.rotate(7, &entries[7], old.clone()), Err(AppendError::Rotation { index: 7 })));
    assert!(matches!(writer.rotate(7, &entries[6], old.clone()), Err(AppendError::Rotation { index: 7 })));
    let signed = writer.rotate(7, &entries[7], federation.signer.clone()).expect("rotates").clone();
    let note = signed.note().encode();
    assert!(SignedCheckpoint::open(note.as_bytes(), &federation.signer.ledger_key()).is_ok());
    assert!(SignedCheckpoint::open(note.as_bytes(), &old.ledger_key()).is_err());
    // Known entries are compared, a rotation like any other.
    writer.append_all(0, &entries).expect("goes on");
    drop(writer);
    assert!(matches!(LogWriter::open(dir.path(), old), Err(AppendError::Checkpoint(_))));
    let report = audit::verify(dir.path(), &federation.options()).expect("readable");
    assert!(report.is_clean(), "{:#?}", report.findings);
}

#[test]
fn a_second_writer_is_kept_out() {
    let dir = tempfile::tempdir().expect("a folder");
    let writer = LogWriter::open(dir.path(), signer()).expect("opens");
    assert!(matches!(LogWriter::open(dir.path(), signer()), Err(AppendError::Locked)));
    drop(writer);
    assert!(LogWriter::open(dir.path(), signer()).is_ok());
}

#[test]
fn a_damaged_log_is_not_opened() {
    let dir = tempfile::tempdir().expect("a folder");
    LogWriter::open(dir.path(), signer()).expect("opens").append_all(0, &leaves(5)).expect("appends");
    let check = |damage: &dyn Fn(&Path)| {
        let copied = tempfile::tempdir().expect("a folder");
        copy(dir.path(), copied.path());
        damage(copied.path());
        LogWriter::open(copied.path(), signer()).expect_err("damaged")
    };
    let missing = check(&|dir| fs::remove_file(dir.join("checkpoint")).expect("removed"));
    assert!(matches!(missing, AppendError::CheckpointMissing));
    let flip = |path: &'static str| {
        move |dir: &Path| {
            let mut bytes = fs::read(dir.join(path)).expect("readable");
            bytes[40] ^= 1;
            fs::write(dir.join(path), bytes).expect("written");
        }
    };
    assert!(matches!(check(&flip("checkpoint")), AppendError::Checkpoint(_)));
    assert!(matches!(check(&flip("tile/0/000.p/5")), AppendError::Corrupt { size: 5 }));
    assert!(matches!(check(&flip("tile/entries/000.p/5")), AppendError::Corrupt { size: 5 }));
    let other = LedgerSigner::new("ledger.example.org".parse().expect("name"), SigningKey::from_seed(&[2; 32]));
    assert!(matches!(LogWriter::open(dir.path(), Arc::new(other)), Err(AppendError::Checkpoint(_))));
}

#[test]
fn proofs_hold_across_tiles_and_stay_short() {
    let dir = tempfile::tempdir().expect("a folder");
    let n = 66_000u64;
    let mut writer = LogWriter::open(dir.path(), signer()).expect("opens");
    // One leaf again and again: this is about the shape.
    let same = vec![leaf(0); 65_000];
    writer.append_all(0, &same).expect("appends");
    writer.append_all(65_000, &vec![leaf(1); (n - 65_000) as usize]).expect("appends");
    assert_sound(dir.path());
    let root = writer.checkpoint().checkpoint().root;
    for index in [0, 1, 255, 256, 64_999, 65_000, 65_535, 65_536, n - 1] {
        let proof = writer.inclusion_proof(index, n).expect("proved");
        let hash = tree::leaf_hash(&writer.entry(index).expect("an entry"));
        assert_eq!(tree::verify_inclusion(&hash, index, n, &root, &proof), Ok(()));
        assert!(proof.len() <= 17);
    }
    let mut frontier = tree::Frontier::default();
    for size in 0..n {
        if [1, 255, 256, 257, 512, 40_000, 64_999, 65_000, 65_535, 65_536, 65_537, n - 1].contains(&size) {
            let proof = writer.consistency_proof(size, n).expect("proved");
            assert_eq!(tree::verify_consistency(size, &frontier.root(), n, &root, &proof), Ok(()), "{size}");
            assert!(proof.len() <= 18);
        }
        frontier.push(tree::leaf_hash(if size < 65_000 { &same[0].leaf } else { &[] }));
        if size >= 65_000 {
            break;
        }
    }
    assert!(matches!(writer.inclusion_proof(0, n + 1), Err(AppendError::Gap { .. })));
    assert!(matches!(writer.consistency_proof(0, n + 1), Err(AppendError::Gap { .. })));
    assert!(writer.inclusion_proof(n, n).is_err());
}

#[test]
fn a_fork_a_rewind_and_a_foreign_receipt_are_refused_by_a_client() {
    let (ours, theirs) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    let key = signer().ledger_key();
    let mut writer = LogWriter::open(ours.path(), signer()).expect("opens");
    let old = writer.append_all(0, &leaves(5)).expect("appends").clone();
    writer.append_all(5, &[leaf(5), leaf(6)]).expect("appends");
    let new = writer.checkpoint().checkpoint();
    let receipt = writer.receipt(6, 5).expect("proved");
    assert!(receipt.verify(None, &key, Some(old.checkpoint())).is_ok());
    // The same coordinator shows somebody else another history.
    let mut forked = LogWriter::open(theirs.path(), signer()).expect("opens");
    forked.append_all(0, &[leaf(0), leaf(1), leaf(2), leaf(3), leaf(44), leaf(5), leaf(6)]).expect("appends");
    let fork = forked.receipt(6, 5).expect("proved");
    assert!(matches!(
        fork.verify(None, &key, Some(old.checkpoint())),
        Err(ReceiptError::Fork { previous: 5, presented: 7, .. })
    ));
    let same_size = forked.receipt(6, 7).expect("proved");
    assert!(matches!(
        same_size.verify(None, &key, Some(new)),
        Err(ReceiptError::Fork { previous: 7, presented: 7, .. })
    ));
    // The old checkpoint again.
    let rewound = Receipt { checkpoint: old.note().encode().into_bytes(), index: 4, ..receipt.clone() };
    let rewound = Receipt { entry: leaf(4).leaf, inclusion: writer.inclusion_proof(4, 5).expect("proved"), ..rewound };
    assert!(matches!(rewound.verify(None, &key, Some(new)), Err(ReceiptError::Rewind { previous: 7, presented: 5 })));
    // A receipt that starts from nothing proves nothing to a client that has a checkpoint.
    let from_nothing = writer.receipt(6, 0).expect("proved");
    assert!(matches!(
        from_nothing.verify(None, &key, Some(old.checkpoint())),
        Err(ReceiptError::OldSize { found: 0, expected: 5 })
    ));
    assert!(from_nothing.verify(None, &key, None).is_ok());
    assert!(matches!(receipt.verify(None, &key, None), Err(ReceiptError::OldSize { found: 5, expected: 0 })));
    // Another entry, another index, another key.
    let other = Receipt { entry: leaf(4).leaf, ..receipt.clone() };
    assert!(matches!(other.verify(None, &key, Some(old.checkpoint())), Err(ReceiptError::Inclusion { .. })));
    let other = Receipt { index: 5, ..receipt.clone() };
    assert!(matches!(other.verify(None, &key, Some(old.checkpoint())), Err(ReceiptError::Inclusion { .. })));
    let stranger = LedgerSigner::new("ledger.example.org".parse().expect("name"), SigningKey::from_seed(&[2; 32]));
    let refused = receipt.verify(None, &stranger.ledger_key(), Some(old.checkpoint()));
    assert!(matches!(refused, Err(ReceiptError::Checkpoint(_))));
}

#[test]
fn every_flipped_byte_of_a_receipt_is_refused() {
    let federation = Federation::with_history();
    let dir = tempfile::tempdir().expect("a folder");
    let mut writer = LogWriter::open(dir.path(), federation.signer.clone()).expect("opens");
    let entries = federation.encoded();
    let old = writer.append_all(0, &entries[..3]).expect("appends").clone();
    writer.append_all(3, &entries[3..]).expect("appends");
    let key = writer.ledger_key();
    let receipt = writer.receipt(6, 3).expect("proved");
    let attachment = writer.attachment(&receipt.entry).expect("readable").expect("an attachment");
    for place in 0..attachment.len() {
        let mut flipped = attachment.clone();
        flipped[place] ^= 1 << (place % 8);
        assert!(receipt.verify(Some(&flipped), &key, Some(old.checkpoint())).is_err(), "attachment's byte {place}");
    }
    for other in [None, entries[5].attachment.as_deref()] {
        assert!(receipt.verify(other, &key, Some(old.checkpoint())).is_err());
    }
    let bytes = receipt.encode();
    let verify = |bytes: &[u8]| Receipt::decode(bytes)?.verify(Some(&attachment), &key, Some(old.checkpoint()));
    assert!(verify(&bytes).is_ok());
    for place in 0..bytes.len() {
        let mut flipped = bytes.clone();
        flipped[place] ^= 1 << (place % 8);
        assert!(verify(&flipped).is_err(), "byte {place}");
    }
    for len in (0..bytes.len()).step_by(13) {
        assert!(verify(&bytes[..len]).is_err(), "cut to {len}");
    }
}

#[test]
#[cfg(unix)]
fn what_was_opened_is_what_is_flushed() {
    let dir = tempfile::tempdir().expect("a folder");
    let (path, moved) = (dir.path().join("log"), dir.path().join("moved"));
    let mut writer = LogWriter::open(&path, signer()).expect("opens");
    fs::rename(&path, &moved).expect("moved");
    // A descriptor of its own would hear of no write that failed before it was opened, and finds no folder here.
    writer.sync().expect("flushed");
}

/// A folder that counts what was written, and how often it was flushed.
struct Counting {
    folder: Folder,
    n_written: Arc<AtomicUsize>,
    n_flushed: Arc<AtomicUsize>,
}

impl TileSource for Counting {
    fn read(&self, tile: &Tile) -> Result<Vec<u8>, TileError> {
        self.folder.read(tile)
    }

    fn read_attachment(&self, digest: &Digest) -> Result<Vec<u8>, TileError> {
        self.folder.read_attachment(digest)
    }
}

impl Storage for Counting {
    fn checkpoint(&self) -> io::Result<Option<Vec<u8>>> {
        self.folder.checkpoint()
    }

    fn has_tiles(&self) -> io::Result<bool> {
        self.folder.has_tiles()
    }

    fn write(&mut self, path: &str, bytes: &[u8]) -> io::Result<()> {
        self.n_written.fetch_add(1, Ordering::Relaxed);
        self.folder.write(path, bytes)
    }

    fn replace_checkpoint(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.n_written.fetch_add(1, Ordering::Relaxed);
        self.folder.replace_checkpoint(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.n_flushed.fetch_add(1, Ordering::Relaxed);
        self.folder.sync()
    }

    fn remove_narrower(&mut self, tile: &Tile) {
        self.folder.remove_narrower(tile);
    }
}

#[test]
fn an_append_writes_a_few_files_however_long_the_log_is_and_one_in_many_flushes() {
    let dir = tempfile::tempdir().expect("a folder");
    let (n_written, n_flushed) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let folder = Folder::new(dir.path());
    let storage = Counting { folder, n_written: n_written.clone(), n_flushed: n_flushed.clone() };
    let mut writer = LogWriter::open_storage(storage, signer()).expect("opens");
    let mut cost = |entries: &[EncodedEntry]| {
        n_written.store(0, Ordering::Relaxed);
        writer.append_all(writer.size(), entries).expect("appends");
        n_written.load(Ordering::Relaxed)
    };
    let attempt = Federation::with_history().encoded().swap_remove(2);
    assert_eq!(cost(std::slice::from_ref(&attempt)), 4, "attachment, bundle, tile, checkpoint");
    // Any number of entries at once are two tiles and a checkpoint; a tile that is full begins one above it.
    assert_eq!(cost(&leaves(250)), 3);
    assert_eq!(cost(&leaves(10)), 6, "two bundles, two tiles, the one above, and the checkpoint");
    assert_eq!(cost(&leaves(500)), 6);
    // The tile above that did not change is not written again.
    let another = Federation::with_history().encoded().swap_remove(3);
    assert_eq!(cost(std::slice::from_ref(&another)), 4);
    assert_sound(dir.path());
    writer.sync().expect("flushes");
    let (durable, before) = (writer.durable(), n_flushed.load(Ordering::Relaxed));
    assert_eq!(durable, writer.size());
    for n in 1..=2 * UNSYNCED_ENTRIES_MAX {
        writer.append(writer.size(), &leaf(n)).expect("appends");
        let n_flushes = n / UNSYNCED_ENTRIES_MAX;
        assert_eq!(n_flushed.load(Ordering::Relaxed) - before, n_flushes as usize, "after {n} entries");
        assert_eq!(writer.durable(), durable + n_flushes * UNSYNCED_ENTRIES_MAX);
    }
}

/// How a write ends when the machine stops in it.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Crash {
    /// Before anything happened.
    Before,
    /// With half of the bytes in place; for the checkpoint, aside.
    Torn,
    /// With everything in place, but nobody told.
    After,
}

/// A folder in which the machine stops at the `countdown`-th durable write.
struct Crashing {
    folder: Folder,
    dir: PathBuf,
    countdown: usize,
    crash: Crash,
}

impl Crashing {
    fn now(&mut self) -> bool {
        self.countdown = self.countdown.wrapping_sub(1);
        self.countdown == usize::MAX
    }

    fn stopped<T>() -> io::Result<T> {
        Err(io::Error::other("the machine stopped"))
    }
}

impl TileSource for Crashing {
    fn read(&self, tile: &Tile) -> Result<Vec<u8>, TileError> {
        self.folder.read(tile)
    }

    fn read_attachment(&self, digest: &Digest) -> Result<Vec<u8>, TileError> {
        self.folder.read_attachment(digest)
    }
}

impl Storage for Crashing {
    fn checkpoint(&self) -> io::Result<Option<Vec<u8>>> {
        self.folder.checkpoint()
    }

    fn has_tiles(&self) -> io::Result<bool> {
        self.folder.has_tiles()
    }

    fn write(&mut self, path: &str, bytes: &[u8]) -> io::Result<()> {
        if !self.now() {
            return self.folder.write(path, bytes);
        }
        match self.crash {
            Crash::Before => {}
            Crash::Torn => self.folder.write(path, &bytes[..bytes.len() / 2])?,
            Crash::After => self.folder.write(path, bytes)?,
        }
        Self::stopped()
    }

    fn replace_checkpoint(&mut self, bytes: &[u8]) -> io::Result<()> {
        if !self.now() {
            return self.folder.replace_checkpoint(bytes);
        }
        match self.crash {
            Crash::Before => {}
            Crash::Torn => fs::write(self.dir.join("checkpoint.tmp"), &bytes[..bytes.len() / 2])?,
            Crash::After => self.folder.replace_checkpoint(bytes)?,
        }
        Self::stopped()
    }

    fn sync(&mut self) -> io::Result<()> {
        self.folder.sync()
    }

    fn remove_narrower(&mut self, tile: &Tile) {
        self.folder.remove_narrower(tile);
    }
}

/// Appends 253 to 258 with the machine stopping at each durable write in each way; then opens the log again and replays
/// from the coordinator's store.
#[test]
fn a_crash_at_any_write_leaves_a_log_that_a_replay_completes() {
    let start = tempfile::tempdir().expect("a folder");
    LogWriter::open(start.path(), signer()).expect("opens").append_all(0, &leaves(253)).expect("appends");
    // Two of them with an attachment, which must be there whole whenever an entry names it, and at no other time.
    let mut all = leaves(258);
    all.splice(254..255, Federation::with_history().encoded().drain(2..3));
    all.splice(256..257, Federation::with_history().encoded().drain(3..4));
    let mut roots = BTreeMap::<u64, Digest>::new();
    let (mut n_crashes, mut finished) = (0, false);
    for countdown in 0.. {
        for crash in [Crash::Before, Crash::Torn, Crash::After] {
            let dir = tempfile::tempdir().expect("a folder");
            copy(start.path(), dir.path());
            let folder = Folder::new(dir.path());
            let storage = Crashing { folder, dir: dir.path().to_owned(), countdown, crash };
            let mut writer = LogWriter::open_storage(storage, signer()).expect("opens");
            let mut crashed_at = None;
            for index in 253..258u64 {
                match writer.append(index, &all[index as usize]) {
                    Ok(signed) => {
                        let Some(root) = roots.insert(index + 1, signed.checkpoint().root) else { continue };
                        assert_eq!(root, signed.checkpoint().root, "two roots of {}", index + 1);
                    }
                    Err(AppendError::Io { .. }) => {
                        crashed_at = Some(index);
                        assert!(matches!(writer.append(index, &all[index as usize]), Err(AppendError::Closed)));
                        break;
                    }
                    Err(other) => panic!("{countdown}, {crash:?}: {other}"),
                }
            }
            let Some(crashed_at) = crashed_at else {
                finished = true;
                continue;
            };
            n_crashes += 1;
            let size = writer.size();
            drop(writer);
            let mut writer = LogWriter::open(dir.path(), signer()).expect("opens after the crash");
            // What was given out is never taken back; what was not given out may be there or not.
            assert!(writer.size() >= size && writer.size() <= crashed_at + 1, "{countdown}, {crash:?}");
            for (index, entry) in (0..).zip(&all).skip(250) {
                let signed = writer.append(index, entry).expect("replays").checkpoint();
                if index + 1 == signed.size
                    && let Some(root) = roots.insert(signed.size, signed.root)
                {
                    assert_eq!(root, signed.root, "two roots of {}: {countdown}, {crash:?}", signed.size);
                }
            }
            assert_eq!(writer.checkpoint().checkpoint().root, root(&all));
            drop(writer);
            assert_sound(dir.path());
            assert_eq!(files(&dir.path().join("attachment")).len(), 2);
        }
        if finished {
            break;
        }
    }
    assert!(n_crashes >= 3 * 5 * 3, "{n_crashes} crashes");
}

#[test]
fn a_crash_while_the_log_is_made_leaves_one_that_opens() {
    for crash in [Crash::Before, Crash::Torn, Crash::After] {
        let dir = tempfile::tempdir().expect("a folder");
        let storage = Crashing { folder: Folder::new(dir.path()), dir: dir.path().to_owned(), countdown: 0, crash };
        assert!(LogWriter::open_storage(storage, signer()).is_err());
        let mut writer = LogWriter::open(dir.path(), signer()).expect("opens after the crash");
        writer.append(0, &leaf(0)).expect("appends");
        assert_sound(dir.path());
    }
}

/// The machine loses its power: of every file since the last flush nothing is left, or its name, or half of it, or blocks of
/// zeros, or all; and what was removed since then may be back.
fn lose_power(dir: &Path, flushed: &Path, dice: &mut SeededEntropy) {
    let mut below = |n: u8| dice.bytes::<1>()[0] % n;
    for name in files(dir) {
        let (path, before) = (dir.join(&name), fs::read(flushed.join(&name)).ok());
        let now = fs::read(&path).expect("readable");
        if before.as_ref() == Some(&now) {
            continue;
        }
        let left = match below(5) {
            0 => before,
            1 => Some(Vec::new()),
            2 => Some(now[..now.len() / 2].to_vec()),
            3 => Some(vec![0; now.len()]),
            _ => Some(now),
        };
        match left {
            Some(bytes) => fs::write(&path, bytes).expect("written"),
            None => fs::remove_file(&path).expect("removed"),
        }
    }
    for name in files(flushed) {
        let (from, to) = (flushed.join(&name), dir.join(&name));
        if !to.exists() && below(2) == 0 {
            fs::create_dir_all(to.parent().expect("a folder")).expect("made");
            fs::copy(from, to).expect("copied");
        }
    }
}

#[test]
fn a_log_without_its_flushes_is_restored_from_what_is_on_record() {
    let seed = u64::from_le_bytes(OsEntropy.bytes());
    println!("seed {seed}");
    let mut dice = SeededEntropy::new(seed);
    let attempts = Federation::with_history().encoded();
    for case in 0..24 {
        let mut below = |n: u64| u64::from_le_bytes(dice.bytes()) % n;
        // Around the size at which the first tile is full, and its partial forms go.
        let (n_flushed, n_since) = (180 + below(80), 1 + below(UNSYNCED_ENTRIES_MAX - 1));
        let mut record = leaves(n_flushed + n_since);
        record[1 + below(n_flushed - 1) as usize] = attempts[2].clone();
        record[(n_flushed + below(n_since)) as usize] = attempts[3].clone();
        let (dir, flushed) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
        let mut writer = LogWriter::restore(dir.path(), signer(), &record[..n_flushed as usize], 0).expect("made");
        writer.sync().expect("flushes");
        assert_eq!(writer.durable(), n_flushed);
        copy(dir.path(), flushed.path());
        for index in n_flushed..n_flushed + n_since {
            writer.append(index, &record[index as usize]).expect("appends");
        }
        assert_eq!(writer.durable(), n_flushed, "the flush was not due");
        let given_out = writer.checkpoint().clone();
        drop(writer);
        lose_power(dir.path(), flushed.path(), &mut dice);
        // The store has let go of what was durable.
        record.iter_mut().take(n_flushed as usize).for_each(|entry| entry.attachment = None);
        let writer = LogWriter::restore(dir.path(), signer(), &record, n_flushed).expect("restores");
        assert_eq!(*writer.checkpoint(), given_out, "case {case}");
        drop(writer);
        assert_sound(dir.path());
        let writer = LogWriter::open(dir.path(), signer()).expect("opens as it lies there");
        assert_eq!(*writer.checkpoint(), given_out);
        for attempt in &attempts[2..4] {
            assert_eq!(writer.attachment(&attempt.leaf).expect("there"), attempt.attachment);
        }
    }
}

#[test]
fn a_record_that_is_not_the_logs_restores_nothing() {
    let dir = tempfile::tempdir().expect("a folder");
    let restore = |entries: &[EncodedEntry], durable| LogWriter::restore(dir.path(), signer(), entries, durable);
    let all = leaves(300);
    let mut writer = restore(&all, 0).expect("made");
    writer.sync().expect("flushes");
    drop(writer);
    let before = fs::read(dir.path().join("checkpoint")).expect("there");
    // An older copy of the record would fork the log; so would another one.
    assert!(matches!(restore(&all[..299], 0), Err(AppendError::Ahead { size: 300, len: 299 })));
    let mut other = all.clone();
    other[299] = leaf(999);
    assert!(matches!(restore(&other, 0), Err(AppendError::Corrupt { size: 300 })));
    other.push(leaf(300));
    assert!(matches!(restore(&other, 300), Err(AppendError::Corrupt { size: 300 })));
    assert!(matches!(
        restore(&[all.clone(), vec![not_an_entry(b"no entry")]].concat(), 300),
        Err(AppendError::Entry { index: 300, .. })
    ));
    let theirs = LedgerSigner::new("ledger.example.org".parse().expect("name"), SigningKey::from_seed(&[2; 32]));
    assert!(matches!(LogWriter::restore(dir.path(), Arc::new(theirs), &all, 300), Err(AppendError::Checkpoint(_))));
    assert_eq!(fs::read(dir.path().join("checkpoint")).expect("there"), before);
    assert_sound(dir.path());
    // An older copy of the files lacks what the record has let go of.
    let attempts = Federation::with_history().encoded();
    let mut grown = [&all[..], &attempts[2..3]].concat();
    drop(restore(&grown, 300).expect("grows"));
    grown[300].attachment = None;
    fs::write(dir.path().join("checkpoint"), before).expect("written");
    fs::remove_dir_all(dir.path().join("attachment")).expect("removed");
    assert!(matches!(restore(&grown, 301), Err(AppendError::Tile(TileError::Missing { .. }))));
    fs::remove_file(dir.path().join("checkpoint")).expect("removed");
    assert!(matches!(restore(&grown, 301), Err(AppendError::CheckpointMissing)));
}
