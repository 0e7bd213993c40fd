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

/// The root of the stored log's seven entries.
const ROOT: &str = "74ca8fb117b8499debbb9091aa5bbfd88f58fe43269ca91496e84a274dee2040";

fn dir() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/vectors")
}

#[test]
fn the_stored_log_has_its_known_root_and_verifies() {
    if std::env::var_os("ERANOS_WRITE_VECTORS").is_some() {
        write();
    }
    let dir = dir();
    let line = fs::read_to_string(dir.join("ledger.pub")).expect("the key");
    let key: LedgerKey = line.trim_end().parse().expect("a key");
    let note = fs::read(dir.join("log/checkpoint")).expect("the checkpoint");
    let signed = SignedCheckpoint::open(&note, &key).expect("signed");
    assert_eq!((signed.checkpoint().size, signed.checkpoint().root.to_string().as_str()), (7, ROOT));
    let report = audit::verify(&dir.join("log"), &Options { key: key.clone(), known: None }).expect("readable");
    assert!(report.is_clean(), "{:#?}", report.findings);
    assert_eq!((report.n_attempts(), report.n_released()), (5, 3));

    let tile = Tile { kind: TileKind::Entries, index: 0, width: 7 };
    let folder = Folder::new(dir.join("log"));
    let bundle = folder.read(&tile).expect("the bundle");
    for leaf in parse_entries(&tile, &bundle).expect("seven entries") {
        let attachment = attachment_of(leaf).map(|digest| folder.read_attachment(&digest).expect("readable"));
        let entry = Entry::parse(leaf, attachment.as_deref()).expect("an entry");
        assert_eq!(entry.encode().expect("encodes"), EncodedEntry { leaf: leaf.to_vec(), attachment });
    }

    let receipt = fs::read_to_string(dir.join("receipt.hex")).expect("the receipt");
    let receipt = Receipt::decode(&hex::decode(receipt.trim_end()).expect("hex")).expect("a receipt");
    let previous = fs::read(dir.join("checkpoint-5")).expect("the earlier checkpoint");
    let previous = SignedCheckpoint::open(&previous, &key).expect("signed");
    let attachment = attachment_of(&receipt.entry).map(|digest| folder.read_attachment(&digest).expect("readable"));
    let verified = receipt.verify(attachment.as_deref(), &key, Some(previous.checkpoint())).expect("verifies");
    assert_eq!((receipt.index, receipt.old_size, verified.checkpoint), (6, 5, signed));
}

/// The formats have not moved: the same federation writes the same first line of every kind today.
#[test]
fn the_stored_entries_are_what_is_written_today() {
    let tile = Tile { kind: TileKind::Entries, index: 0, width: 7 };
    let bundle = Folder::new(dir().join("log")).read(&tile).expect("the bundle");
    let stored = parse_entries(&tile, &bundle).expect("seven entries");
    for (stored, entry) in stored.iter().zip(Federation::with_history().encoded()) {
        // The last digits of an epsilon are the platform's.
        let lines = |bytes: &[u8]| {
            let text = String::from_utf8(bytes.to_vec()).expect("text");
            let kept = text.lines().filter(|line| !line.starts_with("epsilon-"));
            kept.map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(lines(stored), lines(&entry.leaf));
    }
}

fn write() {
    let dir = dir();
    let _ = fs::remove_dir_all(dir.join("log"));
    let federation = Federation::with_history();
    let entries = federation.encoded();
    let mut writer = LogWriter::open(dir.join("log"), Arc::clone(&federation.signer)).expect("opens");
    let earlier = writer.append_all(0, &entries[..5]).expect("appends").note().encode();
    writer.append_all(5, &entries[5..]).expect("appends");
    let receipt = hex::encode(writer.receipt(6, 5).expect("proved").encode());
    drop(writer);
    // Opening again removes what the last checkpoint superseded.
    let writer = LogWriter::open(dir.join("log"), Arc::clone(&federation.signer)).expect("opens");
    fs::write(dir.join("checkpoint-5"), earlier).expect("written");
    fs::write(dir.join("receipt.hex"), receipt + "\n").expect("written");
    fs::write(dir.join("ledger.pub"), format!("{}\n", writer.ledger_key())).expect("written");
}
