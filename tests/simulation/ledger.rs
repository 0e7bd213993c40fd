//! The ledger that real rounds leave: copied to an auditor, and damaged on the way.

use std::{
    fs,
    path::{Path, PathBuf},
};

use eranos_base::{Entropy, OsEntropy, SeededEntropy};
use eranos_ledger::audit::{self, Options};

use super::world::{Exit, ExitHow, FIVE, READY, World};

/// Two released rounds, one of them without a client that dropped out, a key exchanged between them, and an aborted one.
fn rounds() -> World {
    let mut world = World::new(62, FIVE);
    world.clients[3].exit = Some(Exit { kind: READY, how: ExitHow::DiesAfter });
    world.begin(1);
    world.run();
    world.clients[3].exit = None;
    world.rotate_key(63);
    world.begin(2);
    world.run();
    assert!(world.settled_without(&[]));
    world.begin(3);
    assert!(world.run_until(|world| world.clients[0].is_charged()));
    world.feed(eranos_coordinator::round::Event::Stop { reason: "stopped".to_owned() });
    world.run();
    assert!(world.coordinator.abandoned.is_some());
    world
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let paths = fs::read_dir(dir).unwrap().map(|file| file.unwrap().path());
    let mut found: Vec<PathBuf> =
        paths.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect();
    found.sort();
    found
}

#[test]
fn a_thousand_bits_flipped_in_the_ledger_of_real_rounds_are_all_found() {
    let world = rounds();
    let dir = tempfile::tempdir().unwrap();
    world.coordinator.ledger.storage().write_to(dir.path()).unwrap();
    let options = Options::new(world.setup.signer.ledger_key());
    let report = audit::verify(dir.path(), &options).unwrap();
    assert!(report.is_clean(), "{:#?}", report.findings);
    assert_eq!((report.n_attempts(), report.n_released()), (3, 2));
    let all: Vec<(PathBuf, Vec<u8>)> =
        files(dir.path()).into_iter().map(|path| (path.clone(), fs::read(path).unwrap())).collect();
    let n_files = 1 + 2 + 2 + 3;
    assert_eq!(all.len(), n_files, "checkpoint, bundle and tile, those before them, an attachment for each attempt");
    let total: usize = all.iter().map(|(_, bytes)| bytes.len()).sum();
    // Other places in every run; the seed says which.
    let seed = u64::from_le_bytes(OsEntropy.bytes());
    let mut dice = SeededEntropy::new(seed);
    for flip in 0..1000 {
        let mut place = u64::from_le_bytes(dice.bytes()) as usize % total;
        let (path, intact) = all
            .iter()
            .find(|(_, bytes)| match place.checked_sub(bytes.len()) {
                Some(beyond) => {
                    place = beyond;
                    false
                }
                None => true,
            })
            .unwrap();
        let mut flipped = intact.clone();
        flipped[place] ^= 1 << (dice.bytes::<1>()[0] % 8);
        fs::write(path, flipped).unwrap();
        // The structure alone must notice; the whole audit, which takes longer, at least as much.
        let audit = if flip % 50 == 0 { audit::verify } else { audit::verify_structure };
        let found = audit(dir.path(), &options).unwrap();
        assert!(!found.is_clean(), "seed {seed}, flip {flip}: byte {place} of {}", path.display());
        fs::write(path, intact).unwrap();
    }
    assert!(audit::verify(dir.path(), &options).unwrap().is_clean());
}

#[test]
fn a_reader_in_another_language_reads_the_ledger_of_real_rounds() {
    let world = rounds();
    let dir = tempfile::tempdir().unwrap();
    let (ledger, key) = (dir.path().join("ledger"), dir.path().join("ledger.pub"));
    world.coordinator.ledger.storage().write_to(&ledger).unwrap();
    fs::write(&key, format!("{}\n", world.setup.signer.ledger_key())).unwrap();
    let Some(read) = crate::reader::check(&ledger, &key) else { return };
    assert_eq!((&read["size"], &read["keys"], &read["released"]), (&6.into(), &2.into(), &2.into()), "{read}");
}
