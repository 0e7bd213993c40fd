//! The stored log: a small one of seeded keys, for readers in other languages. Regenerate it with
//! `ERANOS_WRITE_VECTORS=1 cargo test -p eranos-ledger vectors`, only ever together with a new version of the format or of
//! what an auditor demands.

use std::{fs, path::PathBuf, sync::Arc};

use eranos_ledger::{
    EncodedEntry, Entry, LedgerKey, LogWriter, Receipt, SignedCheckpoint,
    audit::{self, Options},
    entry::attachment_of,
    tile::{Folder, Tile, TileKind, TileSource, parse_entries},
};

use crate::support::Federation;

/// The root of the stored log's nine entries.
const ROOT: &str = "2f8a7000dcb9023f2ef0d879b88ee5c77d88661e9da1c4cde6ecf9bbeb4034e5";

fn dir() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/vectors")
}

#[test]
fn the_stored_log_has_its_known_root_and_verifies() {
    if std::env::var_os("ERANOS_WRITE_VECTORS").is_some() {
        write();
    }
    let dir = dir();
    let pinned: LedgerKey =
        fs::read_to_string(dir.join("ledger.pub")).expect("the key").trim_end().parse().expect("a key");
    let key = Federation::with_rotation().signer.ledger_key();
    let signed = fs::read(dir.join("log/checkpoint")).expect("the checkpoint");
    let signed = SignedCheckpoint::open(&signed, &key).expect("signed");
    assert_eq!((signed.checkpoint().size, signed.checkpoint().root.to_string().as_str()), (9, ROOT));
    let report = audit::verify(&dir.join("log"), &Options::new(pinned.clone())).expect("readable");
    assert!(report.is_clean(), "{:#?}", report.findings);
    assert_eq!((report.n_attempts(), report.n_released()), (6, 4));

    let (folder, leaves) = stored();
    for leaf in leaves {
        let attachment = attachment_of(&leaf).map(|digest| folder.read_attachment(&digest).expect("readable"));
        let entry = Entry::parse(&leaf, attachment.as_deref()).expect("an entry");
        assert_eq!(entry.encode().expect("encodes"), EncodedEntry { leaf, attachment });
    }

    let receipt = fs::read_to_string(dir.join("receipt.hex")).expect("the receipt");
    let receipt = Receipt::decode(&hex::decode(receipt.trim_end()).expect("hex")).expect("a receipt");
    let previous = fs::read(dir.join("checkpoint-5")).expect("the earlier checkpoint");
    let previous = SignedCheckpoint::open(&previous, &pinned).expect("signed");
    let attachment = attachment_of(&receipt.entry).map(|digest| folder.read_attachment(&digest).expect("readable"));
    let verified = receipt.verify(attachment.as_deref(), &pinned, Some(previous.checkpoint())).expect("verifies");
    assert_eq!((receipt.index, receipt.old_size, verified.checkpoint.checkpoint().size), (6, 5, 7));
}

/// The formats have not moved: the same federation writes the same lines today.
#[test]
fn the_stored_entries_are_what_is_written_today() {
    for (stored, entry) in stored().1.into_iter().zip(Federation::with_rotation().encoded()) {
        // The last digits of an epsilon are the platform's.
        let lines = |bytes: &[u8]| {
            let text = String::from_utf8(bytes.to_vec()).expect("text");
            let kept = text.lines().filter(|line| !line.starts_with("epsilon-"));
            kept.map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(lines(&stored), lines(&entry.leaf));
    }
}

/// The second log has an entry of every kind: what the operator says, members, models, promises.
#[test]
fn the_stored_log_of_every_kind_verifies_and_is_what_is_written_today() {
    let federation = Federation::with_every_kind();
    if std::env::var_os("ERANOS_WRITE_VECTORS").is_some() {
        let _ = fs::remove_dir_all(dir().join("kinds"));
        LogWriter::open(dir().join("kinds"), Arc::clone(&federation.signer))
            .expect("opens")
            .append_all(0, &federation.encoded())
            .expect("appends");
    }
    let report = audit::verify(&dir().join("kinds"), &federation.options()).expect("readable");
    assert!(report.is_clean(), "{:#?}", report.findings);
    let tile = Tile { kind: TileKind::Entries, index: 0, width: 14 };
    let bundle = Folder::new(dir().join("kinds")).read(&tile).expect("the bundle");
    let stored = parse_entries(&tile, &bundle).expect("fourteen entries");
    for (stored, entry) in stored.into_iter().zip(federation.encoded()).filter(|(_, entry)| entry.attachment.is_none())
    {
        assert_eq!(stored, entry.leaf);
    }
}

/// The third goes on from a backup of another log.
#[test]
fn the_stored_log_that_was_restored_verifies_and_is_what_is_written_today() {
    let federation = Federation::restored();
    if std::env::var_os("ERANOS_WRITE_VECTORS").is_some() {
        let _ = fs::remove_dir_all(dir().join("restored"));
        LogWriter::open(dir().join("restored"), Arc::clone(&federation.signer))
            .expect("opens")
            .append_all(0, &federation.encoded())
            .expect("appends");
    }
    let report = audit::verify(&dir().join("restored"), &federation.options()).expect("readable");
    assert!(report.is_clean(), "{:#?}", report.findings);
    let tile = Tile { kind: TileKind::Entries, index: 0, width: 4 };
    let bundle = Folder::new(dir().join("restored")).read(&tile).expect("the bundle");
    let stored = parse_entries(&tile, &bundle).expect("four entries");
    assert_eq!(stored[1], federation.encoded()[1].leaf);
}

/// The stored log and its leaves.
fn stored() -> (Folder, Vec<Vec<u8>>) {
    let folder = Folder::new(dir().join("log"));
    let tile = Tile { kind: TileKind::Entries, index: 0, width: 9 };
    let bundle = folder.read(&tile).expect("the bundle");
    let leaves = parse_entries(&tile, &bundle).expect("nine entries").into_iter().map(<[u8]>::to_vec).collect();
    (folder, leaves)
}

fn write() {
    let dir = dir();
    let _ = fs::remove_dir_all(dir.join("log"));
    let federation = Federation::with_rotation();
    let (entries, first) = (federation.encoded(), Federation::new().signer);
    let mut writer = LogWriter::open(dir.join("log"), Arc::clone(&first)).expect("opens");
    let earlier = writer.append_all(0, &entries[..5]).expect("appends").note().encode();
    writer.append_all(5, &entries[5..7]).expect("appends");
    let receipt = hex::encode(writer.receipt(6, 5).expect("proved").encode());
    writer.rotate(7, &entries[7], Arc::clone(&federation.signer)).expect("rotates");
    writer.append_all(8, &entries[8..]).expect("appends");
    drop(writer);
    // Opening again removes what the last checkpoint superseded.
    LogWriter::open(dir.join("log"), Arc::clone(&federation.signer)).expect("opens");
    fs::write(dir.join("checkpoint-5"), earlier).expect("written");
    fs::write(dir.join("receipt.hex"), receipt + "\n").expect("written");
    fs::write(dir.join("ledger.pub"), format!("{}\n", first.ledger_key())).expect("written");
}
