//! The ledger's key exchanged between rounds: whoever pinned the old one follows, and nobody else's key is followed.

use std::sync::Arc;

use eranos_base::SigningKey;
use eranos_client::round::{End, RefusalKind};
use eranos_ledger::{
    Entry, KeyRotated, LedgerKey, LedgerSigner, Receipt,
    audit::{self, Options},
};
use eranos_wire::{
    Answer,
    messages::{Blob, select},
};

use super::{
    adversary::alter_answers,
    coordinator_attacks::VICTIM,
    world::{FIVE, World},
};

/// A federation of which some were away while its key was exchanged.
fn rotated(n_rotations: u8) -> World {
    let mut world = World::new(61, FIVE);
    world.begin(1);
    world.run();
    assert!(world.settled_without(&[]));
    (0..n_rotations).for_each(|i| world.rotate_key(70 + i));
    world
}

#[test]
fn clients_follow_the_ledgers_key_and_keep_the_new_one() {
    for n_rotations in [1, 3] {
        let mut world = rotated(n_rotations);
        let pinned = world.clients[0].member.ledger_key.clone();
        world.begin(2);
        world.run();
        world.check("rotated", &[]);
        assert!(world.settled_without(&[]), "{:?}", world.coordinator.abandoned);
        let key = world.setup.signer.ledger_key();
        assert_ne!(pinned, key);
        for client in &world.clients {
            assert_eq!(client.member.ledger_key, key);
            assert_eq!(client.checkpoint.as_ref().map(|checkpoint| checkpoint.size), Some(4 + u64::from(n_rotations)));
        }
        // Nothing is followed twice.
        world.begin(3);
        world.run();
        assert!(world.settled_without(&[]));

        let dir = tempfile::tempdir().expect("a folder");
        world.coordinator.ledger.storage().write_to(dir.path()).unwrap();
        let verify = |key: LedgerKey| audit::verify(dir.path(), &Options::new(key)).expect("readable").n_findings;
        assert_eq!((verify(pinned), verify(key)), (0, 0));
        let stranger =
            LedgerSigner::new(world.setup.signer.ledger_key().name().clone(), SigningKey::from_seed(&[9; 32]));
        assert_ne!(verify(stranger.ledger_key()), 0);
    }
}

/// Shows one client rotations of the coordinator's making in place of the true one.
#[track_caller]
fn check_refused(says: &'static str, is_evidence: bool, forge: impl Fn(&mut select::KeyRotated, &World) + 'static) {
    let mut world = rotated(2);
    // Of the same seed, and so with the same first key.
    let other = World::new(61, FIVE);
    alter_answers(&mut world, VICTIM, move |_, answer, _| {
        if let Answer::KeyRotated(message) = answer {
            forge(message, &other);
        }
    });
    let before = world.clients[VICTIM].member.ledger_key.clone();
    world.begin(2);
    world.run();
    let victim = &world.clients[VICTIM];
    let Some(End::Refused(refusal)) = &victim.end else { panic!("{says}: {:?}", victim.end) };
    assert!(matches!(&refusal.kind, RefusalKind::Ledger(what) if what.contains(says)), "{says}: {refusal}");
    assert_eq!(victim.member.ledger_key, before, "{says}: the key that it knows");
    assert_eq!(victim.checkpoint.as_ref().map(|checkpoint| checkpoint.size), Some(3), "{says}");
    assert_eq!(victim.evidence.len(), usize::from(is_evidence), "{says}");
    assert!(world.settled_without(&[VICTIM]), "{says}: the others go on");
}

/// The receipt of a rotation from `old` in a log of its own, whose history is not the client's.
fn forged(old: &LedgerSigner, new: Arc<LedgerSigner>, n_before: usize, old_size: u64) -> Blob {
    let name = old.ledger_key().name().clone();
    let opened = |day: u64| {
        let opened = eranos_ledger::LogOpened {
            origin: name.clone(),
            trust_domain: "example.org".parse().expect("name"),
            ledger_key: old.ledger_key(),
            date: eranos_ledger::Date::of(eranos_base::Timestamp::from_unix_ms(day * 86_400_000)),
        };
        Entry::LogOpened(opened).encode().expect("encodes")
    };
    let old = Arc::new(LedgerSigner::new(name.clone(), SigningKey::from_seed(&old.signing_key().seed())));
    let mut log = eranos_ledger::LogWriter::open_storage(eranos_ledger::memory::MemoryFolder::default(), old.clone())
        .expect("opens");
    for index in 0..n_before as u64 {
        log.append(index, &opened(index)).expect("appends");
    }
    let index = log.size();
    let entry = Entry::KeyRotated(KeyRotated::sign(index, &old, &new)).encode().expect("encodes");
    log.rotate(index, &entry, new).expect("rotates");
    Blob(log.receipt(index, old_size).expect("proved").encode())
}

fn signer(world: &World, seed: u8) -> Arc<LedgerSigner> {
    let name = world.setup.signer.ledger_key().name().clone();
    Arc::new(LedgerSigner::new(name, SigningKey::from_seed(&[seed; 32])))
}

#[test]
fn a_rotation_that_the_known_key_did_not_sign_or_that_forks_the_ledger_is_not_followed() {
    check_refused("without an entry", false, |message, _| message.receipts.clear());
    check_refused("receipt", false, |message, _| message.receipts[0].0.truncate(20));
    // Somebody else's key, from a key that the client never knew.
    check_refused("not the one in force", false, |message, world| {
        message.receipts = vec![forged(&signer(world, 1), signer(world, 2), 3, 3)];
    });
    // A key that the known one signed, in a history that is not the one that the client knows: both checkpoints prove it.
    check_refused("does not continue", true, |message, world| {
        message.receipts = vec![forged(&world.setup.signer, signer(world, 2), 3, 3)];
    });
    // One that stands in what the client knows, and the old key signed.
    check_refused("in what the old key signed", false, |message, world| {
        message.receipts = vec![forged(&world.setup.signer, signer(world, 2), 1, 0)];
    });
    // A wrong proof beside the true checkpoint convicts nobody.
    check_refused("is not in the log", false, |message, _| {
        let mut receipt = Receipt::decode(&message.receipts[0].0).expect("a receipt");
        receipt.inclusion[0].0[0] ^= 1;
        message.receipts[0] = Blob(receipt.encode());
    });
    // Two notes may be two histories, even where both continue what the client knows.
    check_refused("more than one checkpoint", false, |message, _| {
        let mut receipt = Receipt::decode(&message.receipts[0].0).expect("a receipt");
        receipt.checkpoint.extend("\u{2014} somebody AAAAAAAA\n".bytes());
        message.receipts[0] = Blob(receipt.encode());
    });
    // The true rotation twice: the second does not start from the key in force.
    check_refused("not the one in force", false, |message, _| message.receipts.push(message.receipts[0].clone()));
}
