//! Real processes that are broken at their durable writes, or told to end: killed, writes torn, the disk full or not to be
//! written. What breaks them is loaded before the C library (`faults/faults.c`), so that the program is the one that is
//! shipped. After each break the ledger is audited, and every client's own budget held against it and the coordinator's.

use std::{
    fs,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::Command,
    sync::LazyLock,
    thread,
    time::{Duration, Instant},
};

use eranos_base::{Entropy, OsEntropy, SeededEntropy};
use eranos_ledger::log::UNSYNCED_ENTRIES_MAX;

use crate::budgets::{Running, Trial, check_error, set};

#[test]
fn a_coordinator_killed_at_every_durable_write_loses_nothing() {
    let trial = Trial::new(3, "tiny", 2000);
    let mut dice = Dice::new();
    let (mut at, mut covered) = (0, false);
    // From the first write of a state that does not exist yet until a life that saw a whole round was killed: each write of
    // making the state, opening it, and a round is hit, before it is done or in the middle of it.
    while !covered {
        at += 1;
        let mode = dice.mode();
        let (rounds, status) = live(&trial, &FAULTS.variables(mode, at, &trial.path("main/state")), None);
        assert_eq!(status.signal(), Some(KILLED), "{mode} at {at}: {status}");
        covered = rounds > 0;
        if trial.path("main/state/ledger/checkpoint").exists() {
            // Nothing of the ledger was flushed yet: without power, too, nothing is lost.
            let n_lost = lose_ledger(&trial.path("main/state/ledger"), &mut dice);
            check(&trial, &format!("{mode} at write {at}, {n_lost} files of the ledger lost"));
        }
        assert!(at < WRITES_MAX, "no life saw a whole round");
    }
    println!("{at} writes");
    // At any instant.
    for life in 0..RANDOM_KILLS {
        let wait = dice.below_ms(KILL_AFTER_MS_MAX);
        let (_, status) = live(&trial, &[], Some(wait));
        assert_eq!(status.signal(), Some(KILLED), "{status}");
        check(&trial, &format!("kill {life} after {wait:?}"));
    }
    // It goes on by itself, with the same model and ledger, and ends well.
    let mut coordinator = trial.coordinator(&[]);
    coordinator.heard("going on after ");
    let clients: Vec<Running> = (1..=3).map(|i| trial.client(i, &[])).collect();
    coordinator.heard("round ");
    coordinator.signal("TERM");
    assert!(coordinator.finish().success());
    drop(clients);
    trial.check_accounts("in the end");
}

/// One life of a coordinator and its clients: until it dies, or is killed so long after it began to listen. How many whole
/// rounds it told of, and how it ended.
fn live(
    trial: &Trial,
    variables: &[(&str, String)],
    kill_after: Option<Duration>,
) -> (usize, std::process::ExitStatus) {
    let mut coordinator = trial.coordinator(variables);
    if coordinator.hears("listening on ").is_none() {
        return (0, coordinator.finish());
    }
    let clients: Vec<Running> = (1..=trial.n).map(|i| trial.client(i, &[])).collect();
    if let Some(wait) = kill_after {
        thread::sleep(wait);
        coordinator.signal("KILL");
    }
    let mut rounds = 0;
    while let Some(line) = coordinator.hears("round ") {
        rounds += usize::from(!line.contains("aborted: "));
    }
    let status = coordinator.finish();
    drop(clients);
    (rounds, status)
}

/// The next start finishes what a crash cut off; only then is the ledger whole.
fn check(trial: &Trial, context: &str) {
    let mut coordinator = trial.coordinator(&[]);
    coordinator.hears("listening on ").unwrap_or_else(|| panic!("{context}: it does not start again"));
    coordinator.signal("TERM");
    assert!(coordinator.finish().success(), "{context}");
    trial.check_accounts(context);
}

/// What a machine without power leaves of a ledger of which no file was flushed yet: of each file nothing, or an empty one, or
/// half of it, or zeros, or all. Gives how many are not whole.
fn lose_ledger(ledger: &Path, dice: &mut Dice) -> usize {
    let checkpoint = fs::read_to_string(ledger.join("checkpoint")).unwrap_or_default();
    let size = checkpoint.lines().nth(1).map_or(0, |size| size.parse().unwrap());
    if size >= UNSYNCED_ENTRIES_MAX {
        return 0;
    }
    let (mut folders, mut n_lost) = (vec![ledger.to_owned()], 0);
    while let Some(folder) = folders.pop() {
        for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let whole = fs::read(&path).unwrap();
            let left = match dice.below(8) {
                0 => Vec::new(),
                1 => whole[..whole.len() / 2].to_vec(),
                2 => vec![0; whole.len()],
                3 => {
                    fs::remove_file(&path).unwrap();
                    n_lost += 1;
                    continue;
                }
                _ => continue,
            };
            fs::write(&path, left).unwrap();
            n_lost += 1;
        }
    }
    n_lost
}

#[test]
fn a_client_killed_at_every_durable_write_never_forgets_what_it_spent() {
    let trial = Trial::new(4, "tiny", 2000);
    let mut coordinator = trial.coordinator(&[]);
    coordinator.heard("listening on ");
    let others: Vec<Running> = (2..=4).map(|i| trial.client(i, &[])).collect();
    let mut dice = Dice::new();
    let (mut at, mut covered) = (0, false);
    while !covered {
        at += 1;
        let mode = dice.mode();
        let mut client = trial.client(1, &FAULTS.variables(mode, at, &trial.path("silo-1/state")));
        while let Some(line) = client.hears("silo-1: ") {
            covered |= line.contains(" settled");
        }
        let status = client.finish();
        assert_eq!(status.signal(), Some(KILLED), "{mode} at {at}: {status}");
        if !trial.path("silo-1/state/budget").exists() {
            continue;
        }
        let (budget, account) = (trial.budget(1), trial.status()["clients"]["silo-1"].clone());
        let charged = budget["attempts_charged"].as_u64().unwrap();
        let (received, debited) = (account["received"].as_u64(), account["attempts"].as_u64());
        assert!(received.unwrap_or_default() <= charged, "{mode} at {at}: {budget} {account}");
        assert!(charged <= debited.unwrap_or_default(), "{mode} at {at}: {budget} {account}");
        assert!(at < WRITES_MAX, "no life saw a whole round");
    }
    println!("{at} writes");
    // Another start goes on: nothing that a kill left keeps it out.
    let mut client = trial.client(1, &[]);
    while !client.heard("silo-1: ").contains(" settled") {}
    client.signal("TERM");
    assert!(client.finish().success());
    coordinator.signal("TERM");
    assert!(coordinator.finish().success());
    drop(others);
    trial.check_accounts("in the end");
}

#[test]
fn a_full_or_read_only_disk_is_named_and_leaves_nothing_half_written() {
    let trial = Trial::new(3, "tiny", 2000);
    let run = |mode: &str, at: u64| {
        let mut coordinator = trial.coordinator(&FAULTS.variables(mode, at, &trial.path("main/state")));
        let listens = coordinator.hears("listening on ").is_some();
        let clients: Vec<Running> = if listens { (1..=3).map(|i| trial.client(i, &[])).collect() } else { Vec::new() };
        let output = coordinator.output();
        drop(clients);
        let next = if listens { "nothing is half-done: mend the cause" } else { "check that the disk has room" };
        check_error(&output, "", next);
        String::from_utf8(output.stderr).unwrap()
    };
    // A state that cannot even be made.
    assert!(run("readonly", 1).contains("cannot open the coordinator's state in "));
    // In the middle of making it, of opening it, and of rounds.
    let mut said = String::new();
    for at in [1, 9, 25, 40, 55] {
        for mode in ["full", "readonly"] {
            said += &run(mode, at);
            check(&trial, &format!("{mode} at {at}"));
        }
    }
    assert!(said.contains("disk is full") || said.contains("No space left on device"), "{said}");
    assert!(said.contains("readonly database") || said.contains("Read-only file system"), "{said}");
    let half = |path: PathBuf| fs::read_dir(path).unwrap().any(|file| file.unwrap().path().extension().is_some());
    assert!(!half(trial.path("main/state/objects")), "an object that was never whole");

    // A client's disk.
    let mut coordinator = trial.coordinator(&[]);
    coordinator.heard("listening on ");
    let others: Vec<Running> = (2..=3).map(|i| trial.client(i, &[])).collect();
    for mode in ["full", "readonly"] {
        let output = trial.client(1, &FAULTS.variables(mode, 4, &trial.path("silo-1/state"))).output();
        check_error(&output, "cannot ", "check the folder");
        trial.budget(1);
    }
    let mut client = trial.client(1, &[]);
    client.heard("silo-1: round ");
    coordinator.signal("TERM");
    assert!(coordinator.finish().success());
    drop((client, others));
    trial.check_accounts("in the end");
}

#[test]
fn a_corrupt_or_missing_checkpoint_is_named_and_a_restored_one_goes_on() {
    let trial = Trial::new(3, "tiny", 2000);
    live(&trial, &[], Some(Duration::from_secs(1)));
    check(&trial, "killed");
    let objects = trial.path("main/state/objects");
    for entry in fs::read_dir(&objects).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let whole = fs::read(&path).unwrap();
        if let Some(at) = whole.len().checked_sub(1) {
            let mut flipped = whole.clone();
            flipped[at / 2] ^= 1;
            fs::write(&path, flipped).unwrap();
            let output = trial.coordinator(&[]).output();
            check_error(&output, &format!("object {name} is corrupt"), "restore a backup if it is damaged");
        }
        fs::remove_file(&path).unwrap();
        let output = trial.coordinator(&[]).output();
        check_error(&output, &format!("object {name}: No such file"), "restore a backup if it is damaged");
        fs::write(&path, whole).unwrap();
    }
    check(&trial, "restored");
}

#[test]
fn a_coordinator_that_is_told_to_end_leaves_no_round_open_at_any_instant() {
    let trial = Trial::new(3, "tiny", 2000);
    let mut dice = Dice::new();
    for (life, signal) in ["TERM", "INT", "TERM", "INT", "TERM"].into_iter().enumerate() {
        let mut coordinator = trial.coordinator(&[]);
        coordinator.heard("listening on ");
        let clients: Vec<Running> = (1..=3).map(|i| trial.client(i, &[])).collect();
        coordinator.heard("round ");
        thread::sleep(dice.below_ms(256));
        coordinator.signal(signal);
        let output = coordinator.output();
        assert!(output.status.success(), "life {life}: {}", String::from_utf8_lossy(&output.stderr));
        let status = trial.status();
        assert_eq!((&status["open_round"], &status["running"]), (&serde_json::Value::Null, &serde_json::Value::Null));
        drop(clients);
        trial.check_accounts(&format!("life {life}"));
    }
}

#[test]
fn a_clock_that_is_set_back_while_a_phase_waits_holds_nobody_up() {
    let trial = Trial::new(4, "tiny", 2000);
    let task = trial.path("main/task.toml");
    set(&task, "phase_timeout_ms = ", "phase_timeout_ms = 6000");
    set(&task, "phase_wait_min_ms = ", "phase_wait_min_ms = 3000");
    let clock = trial.path("clock");
    fs::write(&clock, "0").unwrap();
    let variables = [("LD_PRELOAD", FAULTS.library()), ("ERANOS_CLOCK", clock.display().to_string())];
    let mut coordinator = trial.coordinator(&variables);
    coordinator.heard("listening on ");
    let clients: Vec<Running> = (1..=4).map(|i| trial.client(i, &variables)).collect();
    coordinator.heard("round ");
    // The phases wait for this one now, as long as the plan says.
    clients[3].signal("STOP");
    thread::sleep(Duration::from_millis(500));
    let set_back = Duration::from_secs(600);
    fs::write(&clock, format!("-{}", set_back.as_secs())).unwrap();
    let began = Instant::now();
    while !coordinator.heard("round ").contains("dropped: ") {}
    coordinator.heard("round ");
    assert!(began.elapsed() < set_back, "it waited until the clock was right again");
    coordinator.signal("TERM");
    assert!(coordinator.finish().success());
    drop(clients);
    trial.check_accounts("after the clock was set back");
}

/// Draws of one seed, which is printed.
struct Dice(SeededEntropy);

impl Dice {
    fn new() -> Self {
        let seed = u64::from_le_bytes(OsEntropy.bytes());
        println!("seed {seed}");
        Self(SeededEntropy::new(seed))
    }

    fn below(&mut self, most: u64) -> u64 {
        u64::from_le_bytes(self.0.bytes()) % most
    }

    fn below_ms(&mut self, most: u64) -> Duration {
        Duration::from_millis(self.below(most))
    }

    /// Whether a process dies before a write or in the middle of it.
    fn mode(&mut self) -> &'static str {
        if self.0.bytes::<1>()[0] & 1 == 0 { "die" } else { "tear" }
    }
}

/// What breaks a process, compiled once.
struct Faults {
    folder: tempfile::TempDir,
}

static FAULTS: LazyLock<Faults> = LazyLock::new(|| {
    let folder = tempfile::tempdir().unwrap();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/faults/faults.c");
    let status = Command::new("cc")
        .args(["-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", "-o"])
        .arg(folder.path().join("faults.so"))
        .arg(source)
        .arg("-ldl")
        .status();
    assert!(status.unwrap().success());
    Faults { folder }
});

impl Faults {
    /// The variables under which a process breaks at its write number `at` below `folder`.
    fn variables(&self, mode: &str, at: u64, folder: &Path) -> [(&'static str, String); 2] {
        let count = self.folder.path().join(format!("count-{}", std::process::id()));
        let faults = format!("{mode} {at} {} {}", folder.display(), count.display());
        [("LD_PRELOAD", self.library()), ("ERANOS_FAULTS", faults)]
    }

    fn library(&self) -> String {
        self.folder.path().join("faults.so").display().to_string()
    }
}

/// SIGKILL.
const KILLED: i32 = 9;
/// More than making a state, opening it and a round take.
const WRITES_MAX: u64 = 300;
/// Kills at random instants.
const RANDOM_KILLS: usize = 4;
/// The latest of them, in milliseconds after the start.
const KILL_AFTER_MS_MAX: u64 = 1500;
