//! The witness: what it cosigns, what it refuses and keeps, what it does not forget; and the auditor who demands it.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use eranos_base::{Digest, SigningKey, Timestamp, entropy::SeededEntropy};
use eranos_ledger::{
    Checkpoint, EncodedEntry, Entry, LedgerKey, LedgerSigner, LogWriter, SignedCheckpoint, SignedNote, WitnessKey,
    WitnessSigner,
    audit::{self, Fault, Options},
    tree::{self, verify_consistency},
    witness::{REWINDS_MAX, Witness, WitnessError, attach},
};
use signed_note::{Note, StandardVerifier, VerifierList};

use crate::support::{Federation, assert_found, copy, write_log};

const T: u64 = 1_800_000_000;

fn at(seconds: u64) -> Timestamp {
    Timestamp::from_unix_ms(seconds * 1000)
}

/// A witness of the federation's log, in a folder of its own.
fn new_witness(federation: &Federation) -> (tempfile::TempDir, Witness, WitnessKey) {
    let dir = tempfile::tempdir().expect("a folder");
    let name = "witness.example/w1".parse().expect("a name");
    let key = Witness::init(dir.path(), name, &federation.signer.ledger_key(), &mut SeededEntropy::new(4));
    let witness = Witness::open(dir.path()).expect("opens");
    (dir, witness, key.expect("made"))
}

/// Opens a witness that was dropped. Another test may just be starting a program, whose copy of the lock lives for a moment.
fn reopen(dir: &Path) -> Witness {
    loop {
        match Witness::open(dir) {
            Err(WitnessError::InUse { .. }) => std::thread::yield_now(),
            opened => return opened.expect("opens again"),
        }
    }
}

/// The log's first `n` entries, written anew.
fn written(federation: &Federation, n: usize) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a folder");
    write_log(dir.path(), &federation.encoded()[..n], &federation.signer);
    dir
}

fn evidence(dir: &Path) -> Vec<PathBuf> {
    let folder = fs::read_dir(dir.join("evidence"));
    folder.into_iter().flatten().map(|entry| entry.expect("a file").path()).collect()
}

#[test]
fn a_growing_log_is_cosigned_step_by_step_and_each_step_is_remembered() {
    let federation = Federation::with_history();
    let (dir, mut witness, key) = new_witness(&federation);
    assert_eq!(witness.key(), key);
    assert!(witness.last().is_none());
    for (step, n) in [0, 1, 3, 3, 6, 7].into_iter().enumerate() {
        let log = written(&federation, n);
        let cosigned = witness.cosign(log.path(), at(T + step as u64)).expect("continues").clone();
        assert_eq!((cosigned.checkpoint().size, key.verify(cosigned.note())), (n as u64, Ok(at(T + step as u64))));
        assert_eq!(cosigned.note().signatures().len(), 2);
        // Another process finds what this one left.
        assert!(matches!(Witness::open(dir.path()), Err(WitnessError::InUse { .. })));
        drop(witness);
        witness = reopen(dir.path());
        assert_eq!(witness.last(), Some((&cosigned, at(T + step as u64))));
    }
    assert_eq!(witness.n_evidence().expect("readable"), 0);
}

#[test]
fn another_implementation_reads_a_cosigned_checkpoint() {
    let federation = Federation::with_history();
    let (_dir, mut witness, key) = new_witness(&federation);
    let cosigned = witness.cosign(written(&federation, 7).path(), at(T)).expect("cosigned");
    let note = Note::from_bytes(cosigned.note().encode().as_bytes()).expect("their parser takes our note");
    let ledger = StandardVerifier::new(&federation.signer.ledger_key().to_string()).expect("a key");
    let (verified, unverified) =
        note.verify(&VerifierList::new(vec![Box::new(ledger)])).expect("the log's own verifies");
    assert_eq!((verified.len(), unverified.len()), (1, 1));
    // The name and the id of the witness's key are theirs; the signature's length is that of the specification.
    let typed = [&[4u8][..], &key.key().0].concat();
    assert_eq!(
        (unverified[0].name(), unverified[0].id()),
        ("witness.example/w1", signed_note::key_id("witness.example/w1", &typed))
    );
    assert_eq!(unverified[0].signature().len(), 72);
}

#[test]
fn a_fork_is_refused_and_what_is_kept_convicts_the_key() {
    let honest = Federation::with_history();
    let mut forked = Federation::with_history();
    forked.change(4, |attempt| attempt.epsilons.coordinator = 0.1);
    // The old one is whole in neither of these: the same size, one more, and one that ends in the other's leaf.
    for (kept, presented) in [(5, 5), (5, 7), (6, 7), (7, 7)] {
        let (dir, mut witness, _) = new_witness(&honest);
        let first = witness.cosign(written(&honest, kept).path(), at(T)).expect("the first").clone();
        let log = written(&forked, presented);
        for _ in 0..2 {
            match witness.cosign(log.path(), at(T + 1)) {
                Err(WitnessError::Fork { kept: k, presented: p, .. }) => {
                    assert_eq!((k, p), (kept as u64, presented as u64))
                }
                other => panic!("{kept}, {presented}: {other:?}"),
            }
        }
        assert_eq!(witness.last(), Some((&first, at(T))), "what was cosigned stays");
        let kept_files = evidence(dir.path());
        assert_eq!(kept_files.len(), 1, "the same fork twice is one");
        let shown = root(&forked.encoded()[..kept]);
        let key = honest.signer.ledger_key();
        check_evidence(&kept_files[0], [&key, &key], shown);
        // The honest log goes on.
        let cosigned = witness.cosign(written(&honest, 7).path(), at(T + 2)).expect("continues");
        assert_eq!(cosigned.checkpoint().size, 7);
    }
}

/// Convinces a stranger who has nothing but the log's keys: both checkpoints are signed, and the tree that was shown begins
/// with `shown`, which is another one than was kept.
fn check_evidence(folder: &Path, keys: [&LedgerKey; 2], shown: Digest) {
    let open = |name: &str, key: &LedgerKey| {
        SignedCheckpoint::open(&fs::read(folder.join(name)).expect("kept"), key).expect("signed").checkpoint().clone()
    };
    let (kept, presented) = (open("kept", keys[0]), open("presented", keys[1]));
    let text = fs::read_to_string(folder.join("proof")).expect("kept");
    let proof: Vec<Digest> = text
        .lines()
        .map(|line| base64::Engine::decode(&base64::engine::general_purpose::STANDARD, line).expect("base64"))
        .map(|hash| Digest(hash.try_into().expect("32 bytes")))
        .collect();
    assert_ne!(kept.root, shown);
    let begins_with = |root: &Digest| verify_consistency(kept.size, root, presented.size, &presented.root, &proof);
    assert_eq!(begins_with(&shown), Ok(()));
    assert!(begins_with(&kept.root).is_err());
}

#[test]
fn another_key_of_the_log_is_pinned_by_hand_and_the_history_goes_on() {
    let federation = Federation::with_history();
    let (dir, mut witness, key) = new_witness(&federation);
    witness.cosign(written(&federation, 5).path(), at(T)).expect("cosigned");
    let renewed = LedgerSigner::new("ledger.example.org".parse().expect("name"), SigningKey::from_seed(&[2; 32]));
    let stranger = LedgerSigner::new("other.example.org".parse().expect("name"), SigningKey::from_seed(&[2; 32]));
    let log = |n: usize| {
        let dir = tempfile::tempdir().expect("a folder");
        write_log(dir.path(), &federation.encoded()[..n], &renewed);
        dir
    };
    assert!(matches!(witness.cosign(log(7).path(), at(T)), Err(WitnessError::Checkpoint(_))));
    assert!(matches!(witness.pin(stranger.ledger_key()), Err(WitnessError::Checkpoint(_))));
    let unused = LedgerSigner::new("ledger.example.org".parse().expect("name"), SigningKey::from_seed(&[3; 32]));
    witness.pin(unused.ledger_key()).expect("pinned");
    witness.pin(renewed.ledger_key()).expect("pinned");
    drop(witness);
    // What was cosigned under the old key is remembered, and must be continued by the new one.
    let mut witness = reopen(dir.path());
    assert_eq!((witness.ledger(), witness.last().map(|(_, at)| at)), (&renewed.ledger_key(), Some(at(T))));
    assert!(matches!(witness.cosign(log(3).path(), at(T)), Err(WitnessError::Rewind { kept: 5, presented: 3, .. })));
    let mut forked = Federation::with_history();
    forked.change(4, |attempt| attempt.epsilons.coordinator = 0.1);
    let other = tempfile::tempdir().expect("a folder");
    write_log(other.path(), &forked.encoded(), &renewed);
    assert!(matches!(witness.cosign(other.path(), at(T)), Err(WitnessError::Fork { kept: 5, presented: 7, .. })));
    let log = log(7);
    let cosigned = witness.cosign(log.path(), at(T + 1)).expect("continues").clone();
    assert_eq!(key.verify(cosigned.note()), Ok(at(T + 1)));
    attach(log.path(), &cosigned, &renewed.ledger_key()).expect("attached");
}

/// A log of `entries`, signed by `signer`, whatever they say.
fn signed_by(signer: &LedgerSigner, entries: &[EncodedEntry]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a folder");
    write_log(dir.path(), entries, signer);
    dir
}

#[test]
fn a_key_that_was_exchanged_is_followed_by_the_entries_that_exchanged_it() {
    let mut federation = Federation::with_history();
    let (dir, mut witness, key) = new_witness(&federation);
    witness.cosign(written(&federation, 5).path(), at(T)).expect("cosigned");
    let first = federation.signer.clone();
    federation.rotate(2);
    let second = federation.signer.clone();
    federation.rotate(3);
    let entries = federation.encoded();
    // Who signs must follow from what is signed: not the one between, not a stranger, and not one whose rotation is cut off.
    let stranger = LedgerSigner::new("ledger.example.org".parse().expect("name"), SigningKey::from_seed(&[9; 32]));
    let mut strangers = Federation::with_history();
    strangers.signer =
        Arc::new(LedgerSigner::new("ledger.example.org".parse().expect("name"), SigningKey::from_seed(&[9; 32])));
    strangers.rotate(3);
    for (signer, entries) in [
        (&*second, &entries[..]),
        (&stranger, &entries[..]),
        (&*federation.signer, &entries[..7]),
        (&*federation.signer, &strangers.encoded()[..]),
    ] {
        let log = signed_by(signer, entries);
        assert!(matches!(witness.cosign(log.path(), at(T + 1)), Err(WitnessError::Checkpoint(_))));
        assert_eq!(witness.ledger(), &first.ledger_key());
    }
    // A rotation in the bundle alone, which the hashes do not cover, convinces nobody.
    let mut without = entries.clone();
    without[8] = without[6].clone();
    let log = signed_by(&federation.signer, &without);
    fs::copy(
        signed_by(&federation.signer, &entries).path().join("tile/entries/000.p/9"),
        log.path().join("tile/entries/000.p/9"),
    )
    .expect("copied");
    assert!(matches!(witness.cosign(log.path(), at(T + 1)), Err(WitnessError::BadCopy { size: 9 })));
    // The true one, over both keys at once.
    let log = written(&federation, 9);
    let cosigned = witness.cosign(log.path(), at(T + 1)).expect("followed").clone();
    assert_eq!((witness.ledger(), key.verify(cosigned.note())), (&federation.signer.ledger_key(), Ok(at(T + 1))));
    attach(log.path(), &cosigned, witness.ledger()).expect("attached");
    drop(witness);
    let mut witness = reopen(dir.path());
    assert_eq!(witness.last(), Some((&cosigned, at(T + 1))));

    // Whoever has an old key still, and goes on with it, is a fork, a rewind, or nobody any more.
    let other = EncodedEntry { leaf: b"another".to_vec(), attachment: None };
    let forked: Vec<EncodedEntry> = entries[..7].iter().cloned().chain(std::iter::repeat_n(other.clone(), 3)).collect();
    match witness.cosign(signed_by(&first, &forked).path(), at(T + 2)) {
        Err(WitnessError::Fork { kept: 9, presented: 10, evidence: Some(folder) }) => {
            check_evidence(&folder, [&federation.signer.ledger_key(), &first.ledger_key()], root(&forked[..9]));
        }
        other => panic!("{other:?}"),
    }
    let rewound = witness.cosign(signed_by(&second, &entries[..8]).path(), at(T + 2));
    assert!(matches!(rewound, Err(WitnessError::Rewind { kept: 9, presented: 8, .. })));
    let continued = [&entries[..], &[other]].concat();
    let refused = witness.cosign(signed_by(&first, &continued).path(), at(T + 2));
    assert!(matches!(refused, Err(WitnessError::Checkpoint(_))), "{refused:?}");
    assert_eq!(witness.last(), Some((&cosigned, at(T + 1))));
    assert_eq!(
        witness.cosign(signed_by(&federation.signer, &continued).path(), at(T + 3)).expect("goes on").checkpoint().size,
        10
    );
}

#[test]
fn a_fork_across_a_rotation_is_a_fork() {
    let honest = Federation::with_history();
    for (kept, index) in [(5, 7), (7, 7), (7, 5)] {
        let (dir, mut witness, _) = new_witness(&honest);
        let first = witness.cosign(written(&honest, kept).path(), at(T)).expect("cosigned").clone();
        // The other history has another entry 4, and exchanges the key: after what was cosigned, or where that went on.
        let mut forked = Federation::with_history();
        forked.change(4, |attempt| attempt.epsilons.coordinator = 0.1);
        forked.entries.truncate(index);
        forked.rotate(2);
        forked.attempt("released", &[0, 1, 2, 3]);
        forked.attempt("released", &[0, 1, 2, 3]);
        let size = forked.entries.len();
        let log = written(&forked, size);
        match witness.cosign(log.path(), at(T + 1)) {
            Err(WitnessError::Fork { kept: k, presented: p, evidence: Some(_) }) => {
                assert_eq!((k, p), (kept as u64, size as u64))
            }
            other => panic!("{kept}, {index}: {other:?}"),
        }
        assert_eq!((witness.last(), witness.ledger()), (Some((&first, at(T))), &honest.signer.ledger_key()));
        // A stranger who has the first key follows the rotation that is kept to the key that signed the other history.
        let folder = evidence(dir.path()).swap_remove(0);
        let rotation = fs::read(folder.join(format!("rotation-{index}"))).expect("kept");
        let Ok(Entry::KeyRotated(rotation)) = Entry::parse(&rotation, None) else { panic!("a rotation") };
        let second = rotation.verify(index as u64, &honest.signer.ledger_key()).expect("both keys signed it");
        check_evidence(&folder, [&honest.signer.ledger_key(), second], root(&forked.encoded()[..kept]));
        // Fewer entries are a rewind, under whatever key.
        if kept == 7 && index == 5 {
            let rewound = witness.cosign(written(&forked, 6).path(), at(T + 1));
            assert!(matches!(rewound, Err(WitnessError::Rewind { kept: 7, presented: 6, .. })), "{rewound:?}");
        }
    }
}

#[test]
fn a_rewind_is_refused_and_kept() {
    let federation = Federation::with_history();
    let (dir, mut witness, _) = new_witness(&federation);
    witness.cosign(written(&federation, 7).path(), at(T)).expect("cosigned");
    for n in [0, 6] {
        let refused = witness.cosign(written(&federation, n).path(), at(T + 1));
        assert!(matches!(refused, Err(WitnessError::Rewind { kept: 7, presented, .. }) if presented == n as u64));
    }
    let kept = evidence(dir.path());
    assert_eq!((kept.len(), witness.n_evidence().expect("readable")), (2, 2));
    for folder in kept {
        let presented = fs::read(folder.join("presented")).expect("kept");
        assert!(SignedCheckpoint::open(&presented, &federation.signer.ledger_key()).is_ok());
    }
}

#[test]
fn old_copies_take_no_place_from_a_fork() {
    let federation = Federation::with_history();
    let (dir, mut witness, _) = new_witness(&federation);
    let log = |n: u64, last: &str| {
        let leaf = |i| EncodedEntry { leaf: format!("{i}{last}").into(), attachment: None };
        let dir = tempfile::tempdir().expect("a folder");
        write_log(dir.path(), &(0..n).map(leaf).collect::<Vec<_>>(), &federation.signer);
        dir
    };
    let n = REWINDS_MAX as u64 + 4;
    witness.cosign(log(n, "").path(), at(T)).expect("cosigned");
    let mut rewound = |log: &tempfile::TempDir| match witness.cosign(log.path(), at(T + 1)) {
        Err(WitnessError::Rewind { evidence, .. }) => evidence,
        other => panic!("{other:?}"),
    };
    // One old checkpoint is one, whatever others have signed it, or somebody made of that.
    let old = log(1, "");
    let note = fs::read_to_string(old.path().join("checkpoint")).expect("readable");
    let first = rewound(&old).expect("kept");
    for name in ["a", "b"] {
        let signature = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, b"not judged");
        fs::write(old.path().join("checkpoint"), format!("{note}\u{2014} {name} {signature}\n")).expect("written");
        assert_eq!(rewound(&old).as_ref(), Some(&first));
    }
    let kept = (2..n).filter(|size| rewound(&log(*size, "")).is_some()).count();
    assert_eq!((kept + 1, evidence(dir.path()).len()), (REWINDS_MAX, REWINDS_MAX));
    match witness.cosign(log(n, " forked").path(), at(T + 1)) {
        Err(WitnessError::Fork { evidence: Some(folder), .. }) => assert!(folder.join("presented").exists()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_bad_copy_or_a_strangers_log_is_refused_and_is_no_evidence() {
    let federation = Federation::with_history();
    let (dir, mut witness, _) = new_witness(&federation);
    witness.cosign(written(&federation, 3).path(), at(T)).expect("cosigned");
    let mut check = |damage: &dyn Fn(&Path), expected: fn(&WitnessError) -> bool| {
        let log = written(&federation, 7);
        damage(log.path());
        let refused = witness.cosign(log.path(), at(T + 1)).map(|_| ()).expect_err("damaged");
        assert!(expected(&refused), "{refused:?}");
    };
    for byte in [0, 31, 40, 100, 150, 223] {
        // Any row of the tile: those of the old tree and those after it.
        let flip = move |log: &Path| {
            let path = log.join("tile/0/000.p/7");
            let mut bytes = fs::read(&path).expect("readable");
            bytes[byte] ^= 1;
            fs::write(path, bytes).expect("written");
        };
        check(&flip, |error| matches!(error, WitnessError::BadCopy { size: 7 }));
    }
    check(&|log| fs::remove_file(log.join("tile/0/000.p/7")).expect("removed"), |e| matches!(e, WitnessError::Tile(_)));
    check(&|log| fs::remove_file(log.join("checkpoint")).expect("removed"), |e| {
        matches!(e, WitnessError::NotALog { .. })
    });
    check(&|log| fs::write(log.join("checkpoint"), "nonsense").expect("written"), |e| {
        matches!(e, WitnessError::Checkpoint(_))
    });
    // Signed by somebody else under the same name, and by the same key under another.
    let stranger = LedgerSigner::new("ledger.example.org".parse().expect("name"), SigningKey::from_seed(&[2; 32]));
    let renamed = LedgerSigner::new("other.example.org".parse().expect("name"), SigningKey::from_seed(&[1; 32]));
    for signer in [stranger, renamed] {
        let leaves = federation.encoded();
        check(&|log| write_log(log, &leaves, &signer), |e| matches!(e, WitnessError::Checkpoint(_)));
    }
    assert!(evidence(dir.path()).is_empty());
    assert!(witness.cosign(written(&federation, 7).path(), at(T + 1)).is_ok());
}

#[test]
fn a_clock_that_goes_back_stops_it() {
    let federation = Federation::with_history();
    let (_dir, mut witness, key) = new_witness(&federation);
    witness.cosign(written(&federation, 3).path(), at(T)).expect("cosigned");
    for n in [3, 7] {
        let refused = witness.cosign(written(&federation, n).path(), at(T - 1));
        assert!(matches!(refused, Err(WitnessError::Clock { now, last }) if (now, last) == (T - 1, T)));
    }
    let again = witness.cosign(written(&federation, 3).path(), at(T + 5)).expect("the same again");
    assert_eq!(key.verify(again.note()), Ok(at(T + 5)));
}

#[test]
fn what_it_wrote_is_what_it_takes_back_and_nothing_else() {
    let federation = Federation::with_history();
    let (dir, mut witness, _) = new_witness(&federation);
    let name = || "witness.example/w2".parse().expect("a name");
    let ledger = federation.signer.ledger_key();
    let again = Witness::init(dir.path(), name(), &ledger, &mut SeededEntropy::new(5));
    assert!(matches!(again, Err(WitnessError::Exists { .. })));
    witness.cosign(written(&federation, 3).path(), at(T)).expect("cosigned");
    drop(witness);
    let check = |file: &str, change: &dyn Fn(&Path)| {
        let copied = tempfile::tempdir().expect("a folder");
        copy(dir.path(), copied.path());
        change(&copied.path().join(file));
        let refused = Witness::open(copied.path()).expect_err("damaged");
        assert!(matches!(refused, WitnessError::State { .. } | WitnessError::Io { .. }), "{file}: {refused:?}");
    };
    for file in ["witness.seed", "witness.pub", "ledger.pub", "checkpoint"] {
        // A state that is gone is not one that never was.
        check(file, &|path| fs::remove_file(path).expect("removed"));
        let len = fs::read(dir.path().join(file)).expect("written").len();
        for place in 0..len {
            check(file, &|path| {
                let mut bytes = fs::read(path).expect("readable");
                bytes[place] ^= 1;
                fs::write(path, bytes).expect("written");
            });
        }
    }
    let remade = tempfile::tempdir().expect("a folder");
    copy(dir.path(), remade.path());
    fs::remove_file(remade.path().join("witness.seed")).expect("removed");
    let over = Witness::init(remade.path(), name(), &ledger, &mut SeededEntropy::new(5));
    assert!(matches!(over, Err(WitnessError::Exists { .. })), "a state is never written over");
    assert!(Witness::open(dir.path()).is_ok());
}

/// Shows one witness, again and again started anew, histories at random: whatever it cosigned is one history.
#[test]
fn it_never_cosigns_two_roots_of_one_size() {
    let seed = std::env::var("ERANOS_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(rand_seed);
    println!("ERANOS_SEED={seed}");
    let mut state: u64 = seed;
    let mut next = |n: u64| {
        // Knuth's multiplier; the high bits are good enough to choose with.
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % n
    };
    let honest = Federation::with_history();
    let histories: Vec<Federation> = (2..7)
        .map(|entry| {
            let mut forked = Federation::with_history();
            forked.change(entry, |attempt| attempt.epsilons.outsider = 0.1);
            forked
        })
        .chain([honest])
        .collect();
    let entries: Vec<Vec<EncodedEntry>> = histories.iter().map(Federation::encoded).collect();
    let log = |entries: &[EncodedEntry]| {
        let dir = tempfile::tempdir().expect("a folder");
        write_log(dir.path(), entries, &histories[0].signer);
        dir
    };
    let logs: Vec<Vec<tempfile::TempDir>> =
        entries.iter().map(|entries| (0..=7).map(|n| log(&entries[..n])).collect()).collect();
    for _ in 0..5 {
        let (dir, mut witness, key) = new_witness(&histories[0]);
        let mut cosigned = BTreeMap::new();
        let (mut roots, mut largest) = (BTreeMap::new(), 0);
        for step in 0..24 {
            let (history, n) = (next(6) as usize, next(8) as usize);
            if next(3) == 0 {
                drop(witness);
                witness = reopen(dir.path());
            }
            let Ok(signed) = witness.cosign(logs[history][n].path(), at(T + step)) else { continue };
            assert!(key.verify(signed.note()).is_ok());
            let Checkpoint { size, root, .. } = signed.checkpoint().clone();
            assert!(size >= largest, "seed {seed}: it went back");
            largest = size;
            assert_eq!(*roots.entry(size).or_insert(root), root, "seed {seed}: two roots of {size}");
            cosigned.insert(size, history);
        }
        // Each cosigned tree is the beginning of the last one.
        let (_, last) = cosigned.last_key_value().expect("something was cosigned");
        for (size, cosigned) in roots {
            assert_eq!(cosigned, root(&entries[*last][..size as usize]), "seed {seed}: size {size}");
        }
    }
}

/// The root of a tree of `entries`.
fn root(entries: &[EncodedEntry]) -> Digest {
    let leaves: Vec<&[u8]> = entries.iter().map(|entry| entry.leaf.as_slice()).collect();
    tree::root(&leaves)
}

fn rand_seed() -> u64 {
    std::process::id().into()
}

#[test]
fn evidence_is_bounded_and_a_note_full_of_signatures_harms_nobody() {
    let federation = Federation::with_history();
    let (dir, mut witness, key) = new_witness(&federation);
    witness.cosign(written(&federation, 7).path(), at(T)).expect("cosigned");
    let log = written(&federation, 6);
    let checkpoint = log.path().join("checkpoint");
    let own = fs::read_to_string(&checkpoint).expect("written");
    for i in 0..3 {
        // The same rewind, each time with another foreign signature on it.
        fs::write(&checkpoint, format!("{own}\u{2014} foreign{i} AAAAAAAA\n")).expect("written");
        assert!(matches!(witness.cosign(log.path(), at(T)), Err(WitnessError::Rewind { .. })));
    }
    assert_eq!(evidence(dir.path()).len(), 1);
    // A note as long as one may be, and one with as many signatures: both can be cosigned and read back.
    let whole = written(&federation, 7);
    let checkpoint = whole.path().join("checkpoint");
    let own = fs::read_to_string(&checkpoint).expect("written");
    let filler = |n: usize, len: usize| -> String {
        (0..n).map(|i| format!("\u{2014} {i:0>4}{} AAAAAAAA\n", "x".repeat(len))).collect()
    };
    fs::write(&checkpoint, own.clone() + &filler(31, 200)).expect("written");
    assert!(witness.cosign(whole.path(), at(T + 1)).is_ok());
    drop(witness);
    let mut witness = reopen(dir.path());
    let cosigned = witness.cosign(whole.path(), at(T + 2)).expect("cosigned").clone();
    let full = attach(whole.path(), &cosigned, &federation.signer.ledger_key());
    assert!(matches!(full, Err(WitnessError::Checkpoint(_))), "a 33rd signature has no place");
    fs::write(&checkpoint, own + &filler(20, 200)).expect("written");
    attach(whole.path(), &cosigned, &federation.signer.ledger_key()).expect("attached");
    let note = SignedNote::parse(&fs::read(&checkpoint).expect("written")).expect("a note");
    assert_eq!((note.signatures().len(), key.verify(&note)), (22, Ok(at(T + 2))));
}

#[test]
fn nothing_is_attached_to_a_log_in_use_or_to_another_checkpoint() {
    let federation = Federation::with_history();
    let (_dir, mut witness, key) = new_witness(&federation);
    let ledger = federation.signer.ledger_key();
    let log = tempfile::tempdir().expect("a folder");
    let leaves = federation.encoded();
    let mut writer = LogWriter::open(log.path(), Arc::clone(&federation.signer)).expect("opens");
    writer.append_all(0, &leaves[..5]).expect("appends");
    // A log in use is read, and not written.
    let cosigned = witness.cosign(log.path(), at(T)).expect("cosigned").clone();
    assert!(matches!(attach(log.path(), &cosigned, &ledger), Err(WitnessError::InUse { .. })));
    drop(writer);
    attach(log.path(), &cosigned, &ledger).expect("attached");
    // Its coordinator opens it as before, and goes on with a checkpoint of its own.
    let mut writer = LogWriter::open(log.path(), Arc::clone(&federation.signer)).expect("opens");
    assert!(key.verify(writer.checkpoint().note()).is_ok());
    writer.append_all(5, &leaves[5..]).expect("appends");
    drop(writer);
    assert!(matches!(attach(log.path(), &cosigned, &ledger), Err(WitnessError::Overtaken { .. })));
}

#[test]
fn an_auditor_who_demands_a_witness_gets_one_or_a_finding() {
    let federation = Federation::with_history();
    let (_dir, mut witness, key) = new_witness(&federation);
    let stranger =
        WitnessSigner::new("witness.example/w1".parse().expect("name"), SigningKey::from_seed(&[9; 32])).witness_key();
    let log = written(&federation, 7);
    let audit = |witnesses: &[&WitnessKey]| {
        let witnesses = witnesses.iter().map(|key| (*key).clone()).collect();
        audit::verify(log.path(), &Options { witnesses, ..federation.options() }).expect("readable")
    };
    assert_found(&audit(&[&key]), None, |fault| matches!(fault, Fault::Witness(_)));
    let cosigned = witness.cosign(log.path(), at(T)).expect("cosigned").clone();
    assert!(!audit(&[&key]).is_clean(), "nothing is attached yet");
    attach(log.path(), &cosigned, &federation.signer.ledger_key()).expect("attached");
    let report = audit(&[&key]);
    assert!(report.is_clean(), "{:?}", report.findings);
    assert_eq!(report.witnessed, [("witness.example/w1".parse().expect("name"), at(T))]);
    assert!(audit(&[]).is_clean(), "who demands none is not disturbed by one");
    assert_eq!(audit(&[&key, &stranger]).n_findings, 1, "a name alone is nobody");
    // Each bit of the cosignature's line.
    let path = log.path().join("checkpoint");
    let intact = fs::read(&path).expect("written");
    let line =
        intact.windows(22).position(|window| window == "\u{2014} witness.example/w1".as_bytes()).expect("a line");
    for bit in line * 8..intact.len() * 8 {
        let mut flipped = intact.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        fs::write(&path, flipped).expect("written");
        let options = Options { witnesses: vec![key.clone()], ..federation.options() };
        assert!(!audit::verify_structure(log.path(), &options).expect("readable").is_clean(), "bit {bit}");
    }
    // The cosignature of an older checkpoint does not count for a newer one.
    let older = written(&federation, 3);
    let (_other, mut witness, key) = new_witness(&federation);
    let note = witness.cosign(older.path(), at(T)).expect("cosigned").note().encode();
    let line = note.lines().last().expect("a line").to_owned() + "\n";
    let mut newer = fs::read(written(&federation, 7).path().join("checkpoint")).expect("written");
    newer.extend_from_slice(line.as_bytes());
    fs::write(&path, newer).expect("written");
    assert_found(&audit(&[&key]), None, |fault| matches!(fault, Fault::Witness(_)));
}

#[test]
#[expect(clippy::big_endian_bytes, reason = "tlog-cosignature writes times, and signed-note key ids, in big-endian")]
fn no_key_that_the_log_ever_had_is_a_witness_of_it() {
    let first = Federation::with_history().signer;
    let federation = Federation::with_rotation();
    let log = written(&federation, federation.entries.len());
    let checkpoint = log.path().join("checkpoint");
    let own = fs::read_to_string(&checkpoint).expect("written");
    // Each of them pinned in turn, and each of them as a witness, whose cosignature is made and holds.
    for pinned in [&first, &federation.signer] {
        for signer in [&first, &federation.signer] {
            let key = SigningKey::from_seed(&signer.signing_key().seed());
            let witness = WitnessKey::new("w1".parse().expect("name"), key.verifying_key()).expect("a key");
            let text = SignedNote::parse(own.as_bytes()).expect("a note").text().to_owned();
            let signature = key.sign(format!("cosignature/v1\ntime {T}\n{text}").as_bytes());
            let id = signed_note::key_id("w1", &[&[4u8][..], &key.verifying_key().0].concat());
            let bytes = [&id.to_be_bytes()[..], &T.to_be_bytes(), &signature.0].concat();
            let line = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, bytes);
            let cosigned = format!("{own}\u{2014} w1 {line}\n");
            assert_eq!(witness.verify(&SignedNote::parse(cosigned.as_bytes()).expect("a note")), Ok(at(T)));
            fs::write(&checkpoint, cosigned).expect("written");
            let options = Options { witnesses: vec![witness], ..Options::new(pinned.ledger_key()) };
            let report = audit::verify(log.path(), &options).expect("readable");
            assert_found(&report, None, |fault| matches!(fault, Fault::WitnessIsLedger { .. }));
            assert!(report.witnessed.is_empty());
        }
    }
}

#[test]
fn the_command_line_takes_a_witness_as_line_or_as_file_and_never_the_ledger_itself() {
    let federation = Federation::with_history();
    let (dir, mut witness, key) = new_witness(&federation);
    let log = written(&federation, 7);
    let cosigned = witness.cosign(log.path(), at(T)).expect("cosigned").clone();
    attach(log.path(), &cosigned, &federation.signer.ledger_key()).expect("attached");
    let ledger_key = federation.signer.ledger_key().to_string();
    let run = |verb: &str, more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_eranos-audit"));
        let output = command.arg(verb).arg(log.path()).args(["--key", &ledger_key]).args(more).output().expect("runs");
        let text = |bytes| String::from_utf8(bytes).expect("text");
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    let file = dir.path().join("witness.pub");
    for witness in [key.to_string().as_str(), file.to_str().expect("UTF-8")] {
        let (code, printed, errors) = run("verify", &["--witness", witness]);
        assert_eq!(code, Some(0), "{errors}");
        assert!(printed.contains("  cosigned by witness.example/w1 on 2027-01-15 (UTC)\n"), "{printed}");
    }
    let (_, json, _) = run("verify", &["--witness", &key.to_string(), "--json"]);
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(json["witnessed"], serde_json::json!([{ "witness": "witness.example/w1", "time": T }]));
    let (_, page, _) = run("report", &["--witness", &key.to_string()]);
    assert!(page.contains("<dt>Cosigned by a witness</dt><dd>witness.example/w1, on 2027-01-15 (UTC)</dd>"), "{page}");
    let stranger = WitnessSigner::new("w2".parse().expect("name"), SigningKey::from_seed(&[9; 32])).witness_key();
    let (code, _, errors) = run("verify", &["--witness", &key.to_string(), "--witness", &stranger.to_string()]);
    assert_eq!((code, errors.lines().count()), (Some(1), 2), "{errors}");
    assert!(errors.starts_with("error: the log: witness of the checkpoint: no signature by w2+"), "{errors}");
    let own = WitnessKey::new("w3".parse().expect("name"), *federation.signer.ledger_key().key()).expect("a key");
    for (wrong, says) in [
        (own.to_string(), "has the ledger's own key"),
        (ledger_key.clone(), "expected 0x04"),
        ("nowhere".to_owned(), "cannot read the key file"),
    ] {
        let (code, _, errors) = run("verify", &["--witness", &wrong]);
        assert_eq!((code, errors.lines().count()), (Some(2), 2), "{errors}");
        assert!(errors.contains(says), "{errors}");
    }
}
