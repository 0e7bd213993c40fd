//! What a crash leaves of a state that was being made, and what is not to be made anew.

use eranos_base::{RoundNumber, SigningKey};
use eranos_ledger::LedgerSigner;
use eranos_privacy::{
    Groups, Mechanism, Probability, Promise,
    budget::UnitOfPrivacy,
    mechanism::{NoiseTarget, RecordTarget, design},
};

use super::*;
use crate::budget::{BUDGET, SECRET};

fn open(dir: &Path) -> Result<Store, UserError> {
    let terms = Terms { unit: UnitOfPrivacy::Record, data_set: "local".to_owned(), epsilon_limit: 4.0, delta: 1e-5 };
    let signer = LedgerSigner::new("example.org/ledger".parse().expect("a name"), SigningKey::from_seed(&[1; 32]));
    Store::open(dir, dir, terms, &signer.ledger_key())
}

/// The step that begins a round of a task with so much epsilon for ten attempts.
fn begin(epsilon: f64) -> Step {
    Step::Begin {
        task: "tiny".parse().expect("a name"),
        mechanism: Box::new(mechanism(epsilon)),
        allow_no_noise: false,
    }
}

fn mechanism(epsilon: f64) -> Mechanism {
    let mechanism = design(&RecordTarget {
        groups: Groups::default(),
        local: None,
        l2_clip_norm: 1.0,
        n_parameters: 100,
        sampling_probability: Probability::new(1, 1).expect("a probability"),
        expected_lot: 100,
        record_bound: 50,
        n_max: 4,
        u_min: 3,
        max_colluders: 1,
        max_attempts: 10,
        noise: NoiseTarget::Distributed { epsilon },
        delta: 1e-5,
    });
    mechanism.expect("reachable").into()
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
    store.persist(&begin(4.0), SessionId::default(), RoundNumber(1)).expect("written");
    refused(dir.path(), "in use by another process");
    drop(store);
    fs::remove_file(dir.path().join(SECRET)).expect("there was one");
    refused(dir.path(), "the secret in ");
}

#[test]
fn nobody_else_may_read_what_is_secret() {
    use std::os::unix::fs::PermissionsExt;
    let folder = folder(&[]);
    let dir = folder.path().join("state");
    drop(open(&dir).expect("made"));
    for (path, expected) in [(dir.join(BUDGET), 0o600), (dir.join(SECRET), 0o600), (dir, 0o700)] {
        let mode = fs::metadata(&path).expect("made").permissions().mode();
        assert_eq!(mode & 0o777, expected, "{}", path.display());
    }
}

#[test]
fn clients_of_two_tasks_share_one_budget_that_neither_passes() {
    let dir = folder(&[]);
    let data_set = dir.path().join("data-set");
    let signer = LedgerSigner::new("example.org/ledger".parse().expect("a name"), SigningKey::from_seed(&[1; 32]));
    let terms = Terms { unit: UnitOfPrivacy::Record, data_set: "local".to_owned(), epsilon_limit: 4.0, delta: 1e-5 };
    let open = |task: &str| Store::open(&dir.path().join(task), &data_set, terms.clone(), &signer.ledger_key());
    // All of one task fits, and not all of two.
    let spend = |task: &'static str| {
        let mut store = open(task).unwrap_or_else(|error| panic!("{error}"));
        let (session, mechanism) = (SessionId(Digest::of(task.as_bytes())), mechanism(4.0));
        let mut n_charged = 0;
        for round in 1..=10 {
            let charge = Step::Charge {
                attempt: round,
                plan: Digest::ZERO,
                mechanism: Box::new(mechanism.clone()),
                allow_no_noise: false,
            };
            let round = RoundNumber(round.into());
            match store.persist(&begin(4.0), session, round) {
                Ok(()) => {}
                Err(StoreError::Budget(BudgetError::Exceeded { .. })) => continue,
                Err(error) => panic!("{error}"),
            }
            assert!(store.budget().is_reserved(session, round));
            assert!(store.budget().epsilon_reserved() <= 4.0, "whatever is under way, too");
            // What is reserved can be charged.
            store.persist(&charge, session, round).unwrap_or_else(|error| panic!("{error}"));
            n_charged += 1;
        }
        (n_charged, *store.secret())
    };
    let ((a, secret_a), (b, secret_b)) = std::thread::scope(|scope| {
        let [a, b] = ["a", "b"].map(|task| scope.spawn(move || spend(task)));
        (a.join().expect("spent"), b.join().expect("spent"))
    });
    assert_eq!(secret_a, secret_b, "it belongs to the data set");
    let store = open("a").unwrap_or_else(|error| panic!("{error}"));
    let budget = store.budget();
    assert_eq!(budget.n_charged(), a + b, "no step of either is lost");
    assert!(budget.epsilon_spent() <= 4.0 && budget.epsilon_after(SessionId::default(), &mechanism(4.0), 1) > 4.0);
    assert!(open("a").is_err(), "one process at a time has a task's own state");
    // Other terms are another budget.
    let other = Terms { epsilon_limit: 8.0, ..terms.clone() };
    let error = Store::open(&dir.path().join("c"), &data_set, other, &signer.ledger_key()).err().expect("refused");
    assert!(error.to_string().contains("made under other terms"), "{error}");
}

#[test]
fn a_write_of_another_client_that_a_crash_cut_off_is_cut_before_the_next_step() {
    let dir = folder(&[]);
    let mut store = open(dir.path()).expect("made");
    store.persist(&begin(4.0), SessionId::default(), RoundNumber(1)).expect("written");
    let path = dir.path().join(BUDGET);
    let whole = fs::read(&path).expect("there");
    let next = store.budget().give_back(SessionId::default(), RoundNumber(1)).expect("reserved");
    fs::write(&path, [whole.as_slice(), &next.bytes()[..20]].concat()).expect("torn");
    store.persist(&Step::GiveBack, SessionId::default(), RoundNumber(1)).expect("written");
    assert_eq!(fs::read(&path).expect("there"), [whole.as_slice(), next.bytes()].concat());
    // A file that lost what this process wrote is no budget to go on with.
    fs::write(&path, &whole).expect("an older copy");
    let error = store.persist(&begin(4.0), SessionId::default(), RoundNumber(2)).expect_err("refused");
    assert!(error.to_string().contains("older copy"), "{error}");
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
fn credentials_of_the_last_roster_take_the_place_of_older_ones() {
    let dir = folder(&[]);
    let credential = |i: u8| {
        let (statement_key, certification) = (VerifyingKey([i; 32]), Signature([i; 64]));
        let credential = Credential { certificate: vec![i; 300], statement_key, certification };
        (credential.digest(), credential)
    };
    let mut store = open(dir.path()).expect("made");
    let there = |store: &Store, i| store.memory().credentials.contains_key(&credential(i).0);
    for roster in [0..6, 6..12, 12..18] {
        store.remember(roster.clone().map(credential).collect()).expect("kept");
        let (kept, on_disk) = (store.memory().credentials.len(), fs::read_dir(dir.path().join(CREDENTIALS)));
        assert!(kept <= CREDENTIALS_MAX && roster.clone().all(|i| there(&store, i)), "{roster:?}: {kept}");
        assert_eq!(on_disk.expect("there").count(), kept, "what gave way is gone from the disk too");
    }
    assert_eq!(store.memory().credentials.len(), CREDENTIALS_MAX);
    // A roster larger than all that is kept: part of it.
    store.remember((20..40).map(credential).collect()).expect("kept");
    assert_eq!(store.memory().credentials.len(), CREDENTIALS_MAX);
    drop(store);
    assert_eq!(open(dir.path()).expect("there").memory().credentials.len(), CREDENTIALS_MAX);
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

#[test]
fn a_budget_that_another_file_was_moved_over_is_written_no_further() {
    let (dir, other) = (folder(&[]), folder(&[]));
    let mut store = open(dir.path()).expect("made");
    store.persist(&begin(4.0), SessionId::default(), RoundNumber(1)).expect("written");
    // The same bytes in another file, as a restored backup: a step written to the one that is still open would be lost.
    let (path, copy) = (dir.path().join(BUDGET), other.path().join("copy"));
    fs::copy(&path, &copy).expect("copied");
    fs::rename(&copy, &path).expect("moved");
    let error = store.persist(&Step::GiveBack, SessionId::default(), RoundNumber(1)).expect_err("refused");
    assert!(error.to_string().contains("another file was put in its place"), "{error}");
    fs::remove_file(&path).expect("there");
    store.refresh().expect_err("no file at all");
    drop(store);
}

#[test]
fn what_a_process_reserved_is_given_back_once_it_is_gone_and_not_before() {
    let dir = folder(&[]);
    let data_set = dir.path().join("data-set");
    let signer = LedgerSigner::new("example.org/ledger".parse().expect("a name"), SigningKey::from_seed(&[1; 32]));
    // One attempt fits, and not two.
    let one = mechanism(4.0);
    let limit = 1.05 * one.promised_epsilon(1, 1e-5);
    let terms = Terms { unit: UnitOfPrivacy::Record, data_set: "local".to_owned(), epsilon_limit: limit, delta: 1e-5 };
    let open = |task: &str| {
        let opened = Store::open(&dir.path().join(task), &data_set, terms.clone(), &signer.ledger_key());
        opened.unwrap_or_else(|error| panic!("{error}"))
    };
    let [a, b] = [b"a", b"b"].map(|task| SessionId(Digest::of(task)));
    let (round, charge) = (
        RoundNumber(1),
        Step::Charge { attempt: 1, plan: Digest::ZERO, mechanism: Box::new(one), allow_no_noise: false },
    );
    let (mut first, mut second) = (open("a"), open("b"));
    first.persist(&begin(4.0), a, round).expect("the first one");
    // It lives: nobody takes anything from it, however long it says nothing.
    for _ in 0..3 {
        second.refresh().expect("readable");
        let refused = second.persist(&begin(4.0), b, round);
        assert!(matches!(refused, Err(StoreError::Budget(BudgetError::Exceeded { n_reserved: 1, .. }))), "{refused:?}");
    }
    drop(first);
    second.refresh().expect("readable");
    assert_eq!(second.budget().n_reserved(), 0);
    second.persist(&begin(4.0), b, round).expect("there is room");
    // Whoever begins again, and is shown the old plan by its coordinator, takes no part in that round.
    let mut again = open("a");
    let begun = again.persist(&begin(4.0), a, round);
    assert!(matches!(begun, Err(StoreError::Budget(BudgetError::RoundNotNew { .. }))), "{begun:?}");
    again.persist(&charge, a, round).expect_err("given back: it can not be charged any more");
    assert_eq!(again.budget().n_reserved(), 1, "that of the other, which lives");
    // What is charged is charged, whoever is gone.
    second.persist(&charge, b, round).expect("reserved");
    drop((second, again));
    let last = open("a");
    assert_eq!((last.budget().n_charged(), last.budget().n_reserved()), (1, 0));
    // Nothing of it is left in the folder, nor of a process that was killed.
    fs::write(data_set.join("in-use-killed"), []).expect("written");
    drop(last);
    let last = open("a");
    drop(last);
    let left = fs::read_dir(&data_set).expect("there").flatten().map(|entry| entry.file_name()).collect::<Vec<_>>();
    assert!(left.iter().all(|name| !name.to_string_lossy().starts_with("in-use-")), "{left:?}");
}

#[test]
fn a_lock_that_somebody_removes_costs_its_owner_one_reservation_and_not_the_next() {
    let dir = folder(&[]);
    let data_set = dir.path().join("data-set");
    let signer = LedgerSigner::new("example.org/ledger".parse().expect("a name"), SigningKey::from_seed(&[1; 32]));
    let terms = Terms { unit: UnitOfPrivacy::Record, data_set: "local".to_owned(), epsilon_limit: 100.0, delta: 1e-5 };
    let open = |task: &str| {
        let opened = Store::open(&dir.path().join(task), &data_set, terms.clone(), &signer.ledger_key());
        opened.unwrap_or_else(|error| panic!("{error}"))
    };
    let session = SessionId(Digest::of(b"a"));
    let lock = data_set.join(format!("in-use-{session}"));
    let (mut first, mut second) = (open("a"), open("b"));
    first.persist(&begin(4.0), session, RoundNumber(1)).expect("reserved");
    fs::remove_file(&lock).expect("it was there");
    second.refresh().expect("readable");
    assert_eq!(second.budget().n_reserved(), 0, "nobody seems to be there");
    first.persist(&begin(4.0), session, RoundNumber(2)).expect("reserved");
    second.refresh().expect("readable");
    assert_eq!(second.budget().n_reserved(), 1, "its owner is seen again");
    // Whoever leaves removes its own file alone.
    fs::remove_file(&lock).expect("it was there");
    fs::write(&lock, []).expect("another one's");
    drop(first);
    assert!(lock.exists());
}

#[test]
fn a_client_that_keeps_evidence_is_not_started_again_before_somebody_has_looked_at_it() {
    let dir = tempfile::tempdir().expect("a folder");
    let signed = |seed: u8, size: u64| {
        let signer =
            LedgerSigner::new("example.org/ledger".parse().expect("a name"), SigningKey::from_seed(&[seed; 32]));
        let origin = signer.ledger_key().name().clone();
        let checkpoint = Checkpoint { origin, size, root: Digest::of(b"another history") };
        SignedCheckpoint::sign(checkpoint, &signer).expect("signs").note().encode().into_bytes()
    };
    let mut store = open(dir.path()).expect("made");
    // What no key of the ledger signed stops nobody, whoever sent it.
    for note in [signed(2, 4), b"nonsense".to_vec(), Vec::new()] {
        store.keep_evidence(&note).expect("kept");
        drop(store);
        store = open(dir.path()).expect("opens");
    }
    let note = signed(1, 4);
    store.keep_evidence(&note).expect("kept");
    drop(store);
    refused(dir.path(), "is signed by the ledger's key, and does not continue the ledger-checkpoint");
    let path = dir.path().join(format!("{EVIDENCE}{}", Digest::of(&note)));
    fs::rename(&path, dir.path().join("looked-at")).expect("moved");
    assert!(open(dir.path()).is_ok());
}
