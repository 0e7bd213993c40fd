//! What a crash leaves of a state that was being made, and what is not to be made anew.

use eranos_base::{RoundNumber, SigningKey};
use eranos_ledger::LedgerSigner;
use eranos_privacy::budget::UnitOfPrivacy;

use super::*;

fn open(dir: &Path) -> Result<Store, UserError> {
    let terms = Terms { unit: UnitOfPrivacy::Record, data_set: "local".to_owned(), epsilon_limit: 4.0, delta: 1e-5 };
    let signer = LedgerSigner::new("example.org/ledger".parse().expect("a name"), SigningKey::from_seed(&[1; 32]));
    Store::open(dir, terms, &signer.ledger_key())
}

#[track_caller]
fn refused(dir: &Path, says: &str) {
    let error = open(dir).err().expect("refused").to_string();
    assert!(error.contains(says), "{error}");
}

/// A folder with these files, and its state.
fn folder(files: &[(&str, &[u8])]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a folder");
    for (name, bytes) in files {
        fs::write(dir.path().join(name), bytes).expect("written");
    }
    dir
}

/// The bytes of a new state's budget and secret.
fn made() -> (Vec<u8>, Vec<u8>) {
    let dir = folder(&[]);
    drop(open(dir.path()).expect("made"));
    let read = |name: &str| fs::read(dir.path().join(name)).expect("made");
    (read(BUDGET), read(SECRET))
}

#[test]
fn whatever_a_crash_leaves_of_a_new_state_is_finished() {
    let (budget, secret) = made();
    let half = &budget[..budget.len() / 2];
    let left: [&[(&str, &[u8])]; 6] = [
        &[],
        &[("budget.tmp", half)],
        &[("budget.tmp", &budget)],
        &[(BUDGET, &budget)],
        &[(BUDGET, &budget), ("secret.tmp", &secret[..9])],
        &[(BUDGET, &budget), ("secret.tmp", &secret)],
    ];
    for files in left {
        let dir = folder(files);
        let store = open(dir.path()).unwrap_or_else(|error| panic!("{files:?}: {error}"));
        let (secret, head) = (*store.secret(), store.budget().head());
        assert_ne!(secret, [0; 32]);
        drop(store);
        let again = open(dir.path()).expect("whole");
        assert_eq!((*again.secret(), again.budget().head()), (secret, head));
    }
}

#[test]
fn the_secret_is_made_last() {
    // A folder in the way of the file that is written aside stops the making at that point.
    for (stops_at, has_budget) in [("budget.tmp", false), ("secret.tmp", true)] {
        let dir = folder(&[]);
        fs::create_dir(dir.path().join(stops_at)).expect("a folder");
        refused(dir.path(), "check the folder");
        let there = [BUDGET, SECRET].map(|name| dir.path().join(name).exists());
        assert_eq!(there, [has_budget, false], "{stops_at}");
        fs::remove_dir(dir.path().join(stops_at)).expect("removed");
        open(dir.path()).expect("finished");
    }
}

#[test]
fn what_was_in_use_is_not_made_anew() {
    let (budget, secret) = made();
    refused(folder(&[(SECRET, &secret)]).path(), "the budget in ");
    refused(folder(&[(SECRET, &secret), (BUDGET, b"")]).path(), "is damaged");
    refused(folder(&[(SECRET, &secret[..31]), (BUDGET, &budget)]).path(), "it is not 32 bytes");
    refused(folder(&[(SECRET, b""), (BUDGET, &budget)]).path(), "it is not 32 bytes");
    // A budget that says more than that it was made.
    let dir = folder(&[]);
    let mut store = open(dir.path()).expect("made");
    store.persist(&Step::Begin, SessionId::default(), RoundNumber(1)).expect("written");
    refused(dir.path(), "in use by another process");
    drop(store);
    fs::remove_file(dir.path().join(SECRET)).expect("there was one");
    refused(dir.path(), "the secret in ");
}

#[test]
fn nobody_else_may_read_what_is_secret() {
    use std::os::unix::fs::PermissionsExt;
    let dir = folder(&[]);
    drop(open(dir.path()).expect("made"));
    for name in [BUDGET, SECRET] {
        let mode = fs::metadata(dir.path().join(name)).expect("made").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
}

#[test]
fn credentials_are_kept_under_the_digest_of_what_is_there() {
    let dir = folder(&[]);
    let credential = |i: u8| Credential {
        certificate: vec![i; 300],
        statement_key: VerifyingKey([i; 32]),
        certification: Signature([i; 64]),
    };
    let path = |i: u8| dir.path().join(CREDENTIALS).join(credential(i).digest().to_string());
    let mut store = open(dir.path()).expect("made");
    store.remember((1..5).map(|i| (credential(i).digest(), credential(i))).collect()).expect("kept");
    assert_eq!(store.memory().credentials.len(), 4);
    drop(store);
    // Of the second a bit has changed, the third was cut off, the fourth lies under the name of the first.
    let mut changed = fs::read(path(2)).expect("kept");
    changed[40] ^= 1;
    fs::write(path(2), &changed).expect("written");
    fs::write(path(3), &changed[..90]).expect("written");
    fs::rename(path(4), path(1)).expect("renamed");
    let known = open(dir.path()).expect("there").memory().credentials;
    assert!(known.iter().all(|(digest, credential)| credential.digest() == *digest));
    let there = (1..5).map(|i| known.get(&credential(i).digest()) == Some(&credential(i))).collect::<Vec<_>>();
    assert_eq!(there, [false, false, false, true]);
}

#[test]
fn the_ledgers_newest_key_is_kept_and_a_checkpoint_of_the_one_before_can_be_read() {
    let signer =
        |seed| LedgerSigner::new("example.org/ledger".parse().expect("a name"), SigningKey::from_seed(&[seed; 32]));
    let note = |size, signer: &LedgerSigner| {
        let checkpoint = Checkpoint { origin: signer.ledger_key().name().clone(), size, root: Digest::of(b"root") };
        SignedCheckpoint::sign(checkpoint, signer).expect("signs").note().encode()
    };
    let dir = folder(&[]);
    let mut store = open(dir.path()).expect("made");
    store.keep_checkpoint(note(1, &signer(1)).as_bytes(), &signer(1).ledger_key()).expect("kept");
    for seed in 2..6 {
        // A crash between the two: the key is the new one, the checkpoint still the old one's.
        store.keep_ledger_key(&signer(seed).ledger_key()).expect("kept");
        drop(store);
        store = open(dir.path()).expect("both can be read");
        assert_eq!(*store.ledger_key(), signer(seed).ledger_key());
        assert_eq!(store.memory().checkpoint.expect("a checkpoint").size, u64::from(seed) - 1);
        store.keep_checkpoint(note(seed.into(), &signer(seed)).as_bytes(), &signer(seed).ledger_key()).expect("kept");
    }
    drop(store);
    let lines = fs::read_to_string(dir.path().join(LEDGER_KEYS)).expect("readable").lines().count();
    assert_eq!(lines, 3, "the pinned one and the last two");
    // A file that is no list of keys is not passed over.
    fs::write(dir.path().join(LEDGER_KEYS), "x\n").expect("written");
    refused(dir.path(), "is damaged");
}
