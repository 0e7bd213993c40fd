//! A coordinator that is lost and restored from a backup, with real processes: backups while rounds run are whole, altered
//! ones are refused; clients wait until their operators accept the new ledger, and nobody's budget shrinks.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use eranos_ledger::{Checkpoint, SignedNote};
use serde_json::Value;

use crate::{
    budgets::{BOUND, Running, Trial, check_error, copy, set},
    reader,
};

#[test]
fn a_lost_coordinator_is_restored_from_a_backup_made_while_rounds_ran_once_operators_accept() {
    let trial = Trial::new(4, "tiny", 30);
    let no_task = trial.eranos(&["coordinator", "backup", "--dir", "main", "--to", "none"]).output().unwrap();
    check_error(&no_task, "main/state holds no task that was begun", "`eranos coordinator run`");
    let mut coordinator = trial.coordinator(&[]);
    let clients: Vec<Running> = (1..=4).map(|i| trial.client(i, &[])).collect();
    coordinator.heard("round   2/");
    let old_key = fs::read_to_string(trial.path("main/ledger.pub")).unwrap();
    for i in 1..=4 {
        let to = format!("backup-{i}");
        let told = trial.must(&["coordinator", "backup", "--dir", "main", "--to", &to]);
        assert!(told.contains("verified: ") && told.contains("secrets: whoever reads it can pose as it"), "{told}");
        assert!(!told.contains("NOT in it"), "{told}");
        check_whole(&trial, &to);
    }
    let again = trial.eranos(&["coordinator", "backup", "--dir", "main", "--to", "backup-4"]).output().unwrap();
    check_error(&again, "backup-4 is there already", "nothing is ever overwritten");
    // What follows is lost, and clients have seen it.
    let kept = size(&trial.path("backup-4/state/ledger/checkpoint"));
    await_that(&|| (1..=3).all(|i| size(&trial.path(&format!("silo-{i}/state/ledger-checkpoint"))) > kept + 1));
    coordinator.signal("KILL");
    drop(coordinator);
    fs::rename(trial.path("main"), trial.path("lost")).unwrap();
    let lost = size(&trial.path("lost/state/ledger/checkpoint")) - kept + 1;

    check_altered(&trial, "backup-4");
    let restore = ["coordinator", "restore", "--from", "backup-4", "--dir", "main", "--attempts-lost"];
    let told = trial.must(&[&restore[..], &[&lost.to_string()]].concat());
    assert!(told.contains(&format!("LOST: whatever the old ledger {}", old_key.trim())), "{told}");
    assert!(told.contains(&format!("after its first {kept} entries")), "{told}");
    let new_key = fs::read_to_string(trial.path("main/ledger.pub")).unwrap();
    assert!(new_key != old_key && told.contains(new_key.trim()), "{told}");
    let over = trial.eranos(&[&restore[..], &["0"]].concat()).output().unwrap();
    check_error(&over, "main is there already", "nothing is ever overwritten");
    let before = trial.status();
    assert_eq!(before["attempts_lost"], lost, "{before}");

    // Those that ran on know the old ledger's key.
    let mut coordinator = trial.coordinator(&[]);
    coordinator.heard("listening on ");
    let mut clients = clients;
    for (i, client) in (1..).zip(&mut clients) {
        let refused = client.heard(&format!("silo-{i}: refused: the coordinator was restored from a backup"));
        assert!(refused.contains(new_key.trim()) && refused.contains(&format!("entry {kept} is lost")), "{refused}");
        let help = client.heard(&format!("silo-{i}: help: "));
        assert!(help.contains("ask the coordinator's operator") && help.contains("accept-ledger"), "{help}");
    }
    let nobody_came = |when: &str| {
        let status = trial.status();
        assert_eq!((&status["attempts"], &status["released"]), (&before["attempts"], &before["released"]), "{when}");
        assert_eq!(status["running"]["cohort"], 0, "{when}: {status}");
    };
    nobody_came("nobody has accepted");
    let budgets: Vec<Value> = (1..=4).map(|i| trial.budget(i)).collect();
    let accept = |i: usize, key: &str| {
        let dir = format!("silo-{i}");
        trial.eranos(&["client", "accept-ledger", "--dir", &dir, "--key", key]).output().unwrap()
    };
    check_error(&accept(1, "main/ledger.pub"), "the client runs", "stop it, accept, and start it again");
    check_error(&accept(1, "lost/ledger.pub"), "a ledger of another key, ", "ask its operator again");
    let shown = trial.must(&["client", "accept-ledger", "--dir", "silo-1"]);
    let known = size(&trial.path("silo-1/state/ledger-checkpoint"));
    for says in [
        format!("old ledger: {}", old_key.trim()),
        format!("new ledger: {}", new_key.trim()),
        format!("LOST: entries {kept} to {} of the old ledger", known - 1),
        "own budget stands as it is".to_owned(),
        "nothing was changed".to_owned(),
    ] {
        assert!(shown.contains(&says), "{says}: {shown}");
    }
    // Three accept; the fourth goes on waiting.
    let stays = clients.pop().unwrap();
    for client in clients {
        client.signal("TERM");
        assert!(client.finish().success());
    }
    let preflight = trial.eranos(&["client", "preflight", "--dir", "silo-1"]).output().unwrap();
    assert!(String::from_utf8_lossy(&preflight.stdout).contains("which waits to be accepted"));
    for i in 1..=3 {
        let state = trial.path(&format!("silo-{i}/state"));
        let checkpoint = fs::read(state.join("ledger-checkpoint")).unwrap();
        let output = accept(i, "main/ledger.pub");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let evidence = named(&state, "ledger-before-");
        assert_eq!(fs::read(&evidence[0]).unwrap(), checkpoint, "kept as it was");
        assert_eq!((evidence.len(), named(&state, "ledger-restored-").len()), (1, 1));
        assert_eq!(trial.budget(i), budgets[i - 1], "nothing of the budget was touched");
        check_error(&accept(i, "main/ledger.pub"), "no other ledger waits", "let `eranos client run` meet");
    }
    nobody_came("nobody runs who has accepted");
    let mut clients: Vec<Running> = (1..=3).map(|i| trial.client(i, &[])).collect();
    clients[0].heard("silo-1: round 2 settled");
    for process in clients.into_iter().chain([coordinator, stays]) {
        process.signal("TERM");
        assert!(process.finish().success());
    }

    let status = trial.status();
    assert!(status["released"].as_u64() > before["released"].as_u64(), "rounds go on: {status}");
    for i in 1..=4 {
        let (now, then) = (trial.budget(i), &budgets[i - 1]);
        let charged = |budget: &Value| budget["attempts_charged"].as_u64().unwrap();
        let spent = |budget: &Value| budget["epsilon_spent"].as_f64().unwrap();
        let debited = status["clients"][format!("silo-{i}")]["attempts"].as_u64().unwrap();
        assert!(charged(&now) <= debited, "silo-{i}: {now} {status}");
        match i {
            4 => assert_eq!(now, *then, "whoever has not accepted gave nothing"),
            _ => assert!(charged(&now) > charged(then) && spent(&now) > spent(then), "silo-{i}: {now}"),
        }
    }
    // Both logs are sound, by both readers.
    trial.verify();
    let ledger = trial.path("main/state/ledger");
    reader::check(&ledger, &trial.path("main/ledger.pub"));
    let old = named(&trial.path("main/state/before"), "").remove(0).join("ledger");
    let old_line = trial.path("lost/ledger.pub");
    trial.must(&["audit", "verify", &old.display().to_string(), "--key", &old_line.display().to_string()]);
    reader::check(&old, &old_line);
    let audited = trial.must(&["audit", "verify", "main/state/ledger", "--key", "main/ledger.pub", "--json"]);
    let audited: Value = serde_json::from_str(&audited).unwrap();
    let (task, size) = (&audited["tasks"][0], kept);
    assert_eq!((&task["restored"]["old_size"], &task["restored"]["attempts_lost"]), (&size.into(), &lost.into()));
    let in_all = task["restored"]["epsilon_charged_in_all"]["coordinator"].as_f64().unwrap();
    assert!((in_all - status["epsilon_charged"].as_f64().unwrap()).abs() < 1e-9, "{task} {status}");
}

#[test]
fn a_stopped_coordinator_is_backed_up_after_its_key_was_exchanged_and_may_be_restored_twice() {
    let trial = Trial::new(3, "tiny", 12);
    let mut coordinator = trial.coordinator(&[]);
    let clients: Vec<Running> = (1..=3).map(|i| trial.client(i, &[])).collect();
    coordinator.heard("round   2/");
    for process in clients.into_iter().chain([coordinator]) {
        process.signal("TERM");
        assert!(process.finish().success());
    }
    trial.must(&["coordinator", "rotate-key", "--dir", "main"]);
    let mut charged = 0;
    for turn in 1..=2 {
        let backup = format!("backup-{turn}");
        trial.must(&["coordinator", "backup", "--dir", "main", "--to", &backup]);
        check_whole(&trial, &backup);
        fs::rename(trial.path("main"), trial.path(&format!("lost-{turn}"))).unwrap();
        trial.must(&["coordinator", "restore", "--from", &backup, "--dir", "main", "--attempts-lost", "1"]);
        let mut coordinator = trial.coordinator(&[]);
        coordinator.heard("listening on ");
        for i in 1..=3 {
            // The key was exchanged while it was away.
            let mut client = trial.client(i, &[]);
            client.heard(&format!("silo-{i}: refused: the coordinator was restored from a backup"));
            client.signal("TERM");
            assert!(client.finish().success());
            trial.must(&["client", "accept-ledger", "--dir", &format!("silo-{i}"), "--key", "main/ledger.pub"]);
        }
        let mut clients: Vec<Running> = (1..=3).map(|i| trial.client(i, &[])).collect();
        clients[0].heard("silo-1: round 1 settled");
        for process in clients.into_iter().chain([coordinator]) {
            process.signal("TERM");
            assert!(process.finish().success());
        }
        let now = trial.budget(1)["attempts_charged"].as_u64().unwrap();
        assert!(now > charged);
        charged = now;
        let status = trial.status();
        assert_eq!(status["attempts_lost"], turn, "what is lost adds up: {status}");
        assert!(charged <= status["clients"]["silo-1"]["attempts"].as_u64().unwrap(), "{status}");
        trial.verify();
        assert_eq!(named(&trial.path("main/state/before"), "").len(), turn, "every log before is kept");
    }
    // What was cut off is never taken for a backup.
    fs::create_dir(trial.path("cut.partial")).unwrap();
    let cut = trial.eranos(&["coordinator", "backup", "--dir", "main", "--to", "cut"]).output().unwrap();
    check_error(&cut, "cut.partial is there", "remove what was left");
    // Nor is a ledger copied that does not hold.
    set(&trial.path("main/coordinator.toml"), "ledger_origin", "ledger_origin = \"budgets.test/another\"");
    let other = trial.eranos(&["coordinator", "backup", "--dir", "main", "--to", "other"]).output().unwrap();
    check_error(&other, "cannot back main up to other", "the coordinator's own files are as they were");
    assert!(!trial.path("other").exists() && !trial.path("other.partial").exists());
}

/// The backup's ledger is sound and ends where its database does, and nobody else reads any of it.
#[track_caller]
fn check_whole(trial: &Trial, backup: &str) {
    let ledger = format!("{backup}/state/ledger");
    let key = format!("{backup}/files/ledger.pub");
    trial.must(&["audit", "verify", &ledger, "--key", &key]);
    let sums = fs::read_to_string(trial.path(backup).join("SHA256SUMS")).unwrap();
    let files = walk(&trial.path(backup));
    assert_eq!(files.len(), sums.lines().count() + 1);
    for path in files {
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600, "{}", path.display());
    }
    assert_eq!(fs::metadata(trial.path(backup)).unwrap().permissions().mode() & 0o777, 0o700);
}

/// A backup in which anything is altered, gone or added is refused, and nothing is made of it.
#[track_caller]
fn check_altered(trial: &Trial, backup: &str) {
    let altered = |name: &str, alter: &dyn Fn(&Path)| {
        let to = trial.path(name);
        copy(&trial.path(backup), &to);
        alter(&to);
        let restore = ["coordinator", "restore", "--from", name, "--dir", "none", "--attempts-lost", "0"];
        let output = trial.eranos(&restore).output().unwrap();
        check_error(&output, "is not as it was made: ", "nothing was restored");
        assert!(!trial.path("none").exists() && !trial.path("none.partial").exists());
    };
    altered("torn", &|to| {
        let database = to.join("state/state.sqlite");
        let bytes = fs::read(&database).unwrap();
        fs::write(database, &bytes[..bytes.len() / 2]).unwrap();
    });
    altered("flipped", &|to| {
        let path = walk(&to.join("state/objects")).remove(0);
        let mut bytes = fs::read(&path).unwrap();
        bytes[7] ^= 1;
        fs::write(path, bytes).unwrap();
    });
    altered("gone", &|to| fs::remove_file(walk(&to.join("state/ledger/attachment")).remove(0)).unwrap());
    altered("added", &|to| fs::write(to.join("state/before"), "").unwrap());
    altered("unsigned", &|to| fs::write(to.join("SHA256SUMS"), "nothing\n").unwrap());
    let none = trial.eranos(&["coordinator", "restore", "--from", "main", "--dir", "none", "--attempts-lost", "0"]);
    check_error(&{ none }.output().unwrap(), "main is no backup", "`eranos coordinator backup --to` made");
}

fn size(checkpoint: &Path) -> u64 {
    let Ok(note) = fs::read(checkpoint) else { return 0 };
    Checkpoint::parse(SignedNote::parse(&note).unwrap().text()).unwrap().size
}

#[track_caller]
fn await_that(holds: &dyn Fn() -> bool) {
    let deadline = Instant::now() + BOUND;
    while !holds() {
        assert!(Instant::now() < deadline, "it never did");
        thread::sleep(Duration::from_millis(20));
    }
}

/// What lies in the folder and is called so, sorted.
fn named(dir: &Path, beginning: &str) -> Vec<PathBuf> {
    let files = fs::read_dir(dir).unwrap().map(|file| file.unwrap().path());
    let is_named = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().starts_with(beginning);
    let mut found: Vec<PathBuf> = files.filter(is_named).collect();
    found.sort();
    found
}

fn walk(dir: &Path) -> Vec<PathBuf> {
    let entries = named(dir, "").into_iter();
    entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}
