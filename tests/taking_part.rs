//! How a client comes to take part, with real processes: a look at everything before, one round and out again, conditions of
//! its owner, and a machine that was asleep.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::Output,
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::budgets::{Running, Trial, check_error, set};

/// Runs `client preflight --json`: its exit status, the state of each check, and what it says.
fn preflight(trial: &Trial, i: usize, more: &[&str]) -> (Option<i32>, Value) {
    let dir = format!("silo-{i}");
    let output = trial.eranos(&[&["client", "preflight", "--dir", &dir, "--json"], more].concat()).output().unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
    assert_eq!(report["ready"], output.status.success(), "{report}");
    let failures = report["checks"].as_array().unwrap().iter().filter(|check| check["state"] == "failure").count();
    assert_eq!(failures == 0, output.status.success(), "{report}");
    if failures > 0 {
        check_error(&output, "this client cannot take part yet: ", "look again");
    }
    for check in report["checks"].as_array().unwrap() {
        assert_eq!(
            check["next"].is_null(),
            check["state"] == "ok",
            "whoever is told of it is told what to do: {check}"
        );
    }
    (output.status.code(), report)
}

/// The state of a check, and what it says.
#[track_caller]
fn found(report: &Value, check: &str, state: &str, what: &str) {
    let found = report["checks"].as_array().unwrap().iter().find(|found| found["check"] == check);
    let found = found.unwrap_or_else(|| panic!("no check {check}: {report}"));
    assert_eq!(found["state"], state, "{found}");
    assert!(found["what"].as_str().unwrap().contains(what), "{what:?} in {found}");
}

#[test]
fn preflight_finds_what_a_first_round_would_run_into() {
    let trial = Trial::new(3, "tiny", 2000);
    let data = ["--data", "main/data.toml"];
    // Nobody listens yet.
    let (status, report) = preflight(&trial, 1, &data);
    assert_eq!(status, Some(1));
    found(&report, "coordinator", "failure", "cannot reach the coordinator at 127.0.0.1:");

    let mut coordinator = trial.coordinator(&[]);
    coordinator.heard("listening on ");
    let (status, report) = preflight(&trial, 1, &data);
    assert_eq!(status, Some(0), "{report}");
    for (check, what) in [
        ("config", "task tiny of the coordinator at 127.0.0.1:"),
        ("policy", "at most epsilon 1000 in all"),
        ("data", "12 records, each one as main/data.toml describes it"),
        ("disk", " MB free in "),
        ("permissions", "their owner's alone"),
        ("budget", "none yet"),
        ("conditions", "hold now"),
        ("coordinator", "eranos-coordinator "),
        ("clock", " s from the coordinator's"),
    ] {
        found(&report, check, "ok", what);
    }
    found(&report, "certificate", "ok", "spiffe://budgets.test/client/silo-1, valid until ");
    // It neither joined nor made anything.
    assert_eq!(trial.status()["running"]["waiting"], 0);
    assert!(!trial.path("silo-1/state").exists());
    let text = trial.must(&["client", "preflight", "--dir", "silo-1"]);
    assert!(text.contains("ok       coordinator  eranos-coordinator "), "{text}");
    assert!(text.contains("warning  data         12 records, not held against the task\n"), "{text}");
    assert!(text.contains("-> give the task's data file: `--data data.toml`\n"), "{text}");

    // More records than the public bound: neither here nor later.
    let policy = trial.path("silo-1/policy.toml");
    set(&policy, "records_max = ", "records_max = 11");
    let (_, report) = preflight(&trial, 1, &data);
    found(&report, "data", "failure", "12 records, policy.toml bounds them by 11");
    check_error(&trial.client(1, &[]).output(), "12 records, policy.toml bounds them by 11", "leave records out");
    set(&policy, "records_max = ", "records_max = 24");

    // Other data than the task's.
    let others = trial.path("others.toml");
    let text = fs::read_to_string(trial.path("main/data.toml")).unwrap();
    fs::write(&others, text.replace("shape = [14, 14, 1]", "shape = [28, 28, 1]")).unwrap();
    let (_, report) = preflight(&trial, 1, &["--data", "others.toml"]);
    found(&report, "data", "failure", "");
    fs::write(&others, text.replace("classes = 10", "classes = 3")).unwrap();
    let (_, report) = preflight(&trial, 1, &["--data", "others.toml"]);
    found(&report, "data", "failure", "client.toml has 10 classes");

    // Nowhere to write: the state would lie below a file.
    let config = trial.path("silo-1/client.toml");
    set(&config, "state = ", "state = \"images/state\"");
    let (_, report) = preflight(&trial, 1, &data);
    found(&report, "disk", "failure", "cannot write into ");
    set(&config, "state = ", "state = \"state\"");

    // A key that everybody may read.
    let key = trial.path("silo-1/key.pem");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    let (status, report) = preflight(&trial, 1, &data);
    assert_eq!(status, Some(0));
    found(&report, "permissions", "warning", "key.pem may be read by others (mode 644)");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();

    // A condition that does not hold now keeps nobody away for good.
    conditions(&config, "load_max = 1e-9");
    let (status, report) = preflight(&trial, 1, &data);
    assert_eq!(status, Some(0));
    found(&report, "conditions", "warning", "the load average is ");
    conditions(&config, "");

    // A client that runs is not replaced by whoever looks at it.
    let clients: Vec<Running> = (1..=3).map(|i| trial.client(i, &[])).collect();
    coordinator.heard("round ");
    let (status, report) = preflight(&trial, 1, &data);
    assert_eq!(status, Some(0));
    found(&report, "coordinator", "warning", "not asked: a client with the state in ");
    found(&report, "budget", "ok", "attempts charged");
    let line = coordinator.heard("round ");
    assert!(!line.contains("dropped: silo-1"), "{line}");
    for client in clients {
        client.signal("TERM");
        assert!(client.finish().success());
    }
    // Terms that the budget was not made under.
    set(&policy, "epsilon_max = ", "epsilon_max = 999.0");
    let (_, report) = preflight(&trial, 1, &data);
    found(&report, "budget", "failure", "was made under other terms");
    set(&policy, "epsilon_max = ", "epsilon_max = 1000.0");
    let secret = trial.path("silo-1/state/secret");
    fs::rename(&secret, trial.path("secret")).unwrap();
    let (_, report) = preflight(&trial, 1, &data);
    found(&report, "budget", "failure", "the secret in ");
    fs::rename(trial.path("secret"), &secret).unwrap();

    // A revoked certificate, as soon as the client has the list; without it the coordinator says so.
    trial.must(&["certs", "revoke", "silo-1"]);
    fs::copy(trial.path("ca/crl.pem"), trial.path("main/crl.pem")).unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let (status, report) = preflight(&trial, 1, &data);
        if status == Some(1) {
            found(&report, "coordinator", "failure", "turned this client's certificate away: it was revoked");
            break;
        }
        assert!(Instant::now() < deadline, "{report}");
    }
    fs::copy(trial.path("ca/crl.pem"), trial.path("silo-1/crl.pem")).unwrap();
    let (_, report) = preflight(&trial, 1, &data);
    found(&report, "certificate", "failure", "revoked");
    found(&report, "coordinator", "failure", "not asked");
    coordinator.signal("TERM");
    assert!(coordinator.finish().success());
}

/// Puts these conditions, and no others, into a client's configuration.
fn conditions(config: &Path, toml: &str) {
    let text = fs::read_to_string(config).unwrap();
    let before = text.split("\n[conditions]").next().unwrap();
    fs::write(config, if toml.is_empty() { before.to_owned() } else { format!("{before}\n[conditions]\n{toml}\n") })
        .unwrap();
}

fn once(trial: &Trial, i: usize, wait: u32) -> Running {
    trial.run(&["client", "run", "--once", "--wait", &wait.to_string(), "--dir", &format!("silo-{i}")])
}

fn status_of(output: &Output) -> (Option<i32>, String) {
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn once_is_one_round_and_its_exit_status_says_how_it_went() {
    let trial = Trial::new(4, "tiny", 3);
    // Nobody is there: nothing is charged, and cron may try again.
    let mut client = once(&trial, 1, 2);
    let line = client.heard("silo-1: no round began: ");
    assert_eq!(status_of(&client.output()), (Some(11), String::new()), "{line}");
    // Its owner's conditions come first: nobody is dialled.
    let config = trial.path("silo-1/client.toml");
    conditions(&config, "command = [\"sh\", \"-c\", \"test -e may-run\"]");
    let mut client = once(&trial, 1, 2);
    client.heard("silo-1: not now: the command \"sh\" says no");
    assert_eq!(status_of(&client.output()), (Some(10), String::new()));
    fs::write(trial.path("may-run"), "").unwrap();

    set(&trial.path("main/task.toml"), "ready_slot_ms = ", "ready_slot_ms = 1500");
    set(&trial.path("main/task.toml"), "attempts_max = ", "attempts_max = 40");
    let mut coordinator = trial.coordinator(&[]);
    coordinator.heard("listening on ");
    // Too few: it gives up in time, and is taken into no round that begins without it.
    let mut client = once(&trial, 4, 2);
    client.heard("silo-4: no round began: no plan within 2 s");
    assert_eq!(status_of(&client.output()).0, Some(11));
    let running: Vec<Running> = (1..=3).map(|i| once(&trial, i, 60)).collect();
    for client in running {
        assert_eq!(status_of(&client.output()), (Some(0), String::new()));
    }
    for i in 1..=3 {
        let budget = trial.budget(i);
        assert_eq!((&budget["attempts_charged"], &budget["receipts"]), (&1.into(), &1.into()), "{budget}");
    }
    assert_eq!(trial.status()["clients"]["silo-4"], Value::Null, "debited though it was away");

    // A round that comes to nothing: of three, two are killed in the middle.
    let mut running: Vec<Running> = (1..=3).map(|i| once(&trial, i, 60)).collect();
    while trial.status()["running"]["cohort"] == 0 {
        thread::sleep(Duration::from_millis(20));
    }
    // A round is told of once the next one has begun.
    let line = coordinator.heard("round   1/3");
    assert!(!line.contains("dropped"), "{line}");
    drop((running.pop(), running.pop()));
    let mut left = running.pop().unwrap();
    left.heard("silo-1: the round came to nothing: ");
    assert_eq!(status_of(&left.output()).0, Some(12));

    // The last rounds go on without the fourth, which hears that the task is over.
    let others: Vec<Running> = (1..=3).map(|i| trial.client(i, &[])).collect();
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let status = trial.status();
        if status["released"] == 2 && status["running"]["cohort"] != 0 {
            break;
        }
        assert!(Instant::now() < deadline, "{status}");
        thread::sleep(Duration::from_millis(20));
    }
    let mut last = once(&trial, 4, 60);
    last.heard("silo-4: the task is over");
    assert_eq!(status_of(&last.output()).0, Some(13));
    assert!(coordinator.finish().success());
    for client in others {
        assert!(client.finish().success());
    }
    trial.check_accounts("at the end");
}

#[test]
fn a_client_waits_for_its_owners_conditions_and_says_why() {
    let trial = Trial::new(3, "tiny", 2000);
    let mut coordinator = trial.coordinator(&[]);
    coordinator.heard("listening on ");
    let config = trial.path("silo-1/client.toml");
    conditions(&config, "load_max = 1e-9");
    let mut waits = trial.client(1, &[]);
    let line = waits.heard("silo-1: waits: the load average is ");
    assert!(line.ends_with(", at most 0.00 is allowed"), "{line}");
    let others: Vec<Running> = (2..=3).map(|i| trial.client(i, &[])).collect();
    while trial.status()["running"]["waiting"] != 2 {
        thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(trial.status()["running"]["connected"], 2, "whoever waits is not even connected");
    waits.signal("TERM");
    assert!(waits.finish().success());
    // What does not hold any more in the middle of a round ends none.
    set(&trial.path("silo-1/policy.toml"), "ready_slot_ms_min = ", "ready_slot_ms_min = 20");
    fs::write(trial.path("may-run"), "").unwrap();
    conditions(&config, "command = [\"sh\", \"-c\", \"test -e may-run\"]");
    let mut client = trial.client(1, &[]);
    coordinator.heard("round ");
    fs::remove_file(trial.path("may-run")).unwrap();
    client.heard("silo-1: waits: the command \"sh\" says no");
    let budget = trial.budget(1);
    assert_eq!(budget["attempts_charged"], budget["receipts"], "every round that it began, it ended: {budget}");
    client.signal("TERM");
    assert!(client.finish().success());
    drop(others);
    coordinator.signal("TERM");
    assert!(coordinator.finish().success());
    trial.check_accounts("at the end");
}

#[test]
fn a_client_that_slept_longer_than_its_connection_lives_goes_on_in_the_same_round() {
    let trial = Trial::new(3, "tiny", 30);
    // Everybody is needed, and nobody is left behind before it wakes up.
    let task = trial.path("main/task.toml");
    set(&task, "phase_timeout_ms = ", "phase_timeout_ms = 120000");
    set(&task, "ready_slot_ms = ", "ready_slot_ms = 500");
    let mut coordinator = trial.coordinator(&[]);
    coordinator.heard("listening on ");
    let clients: Vec<Running> = (1..=3).map(|i| trial.client(i, &[])).collect();
    let deadline = Instant::now() + Duration::from_secs(60);
    let running = loop {
        let running = trial.status()["running"].clone();
        if running["cohort"] == 3 {
            break running;
        }
        assert!(Instant::now() < deadline, "no round began: {running}");
    };
    clients[0].signal("STOP");
    // Its connection is gone by then: 30 s without a sign of life.
    while trial.status()["running"]["connected"] != 2 {
        assert!(Instant::now() < deadline + Duration::from_secs(60), "{}", trial.status());
        thread::sleep(Duration::from_millis(200));
    }
    let asleep = trial.status()["running"].clone();
    assert_eq!((&asleep["round"], &asleep["dropped"][0]), (&running["round"], &"silo-1".into()), "{asleep}");
    clients[0].signal("CONT");
    // One attempt, and no second one.
    let line = coordinator.heard("round   1/30");
    assert!(!line.contains("aborted: ") && !line.contains("dropped: "), "{line}");
    let account = trial.status()["clients"]["silo-1"].clone();
    assert!(account["attempts"].as_u64() <= account["released"].as_u64().map(|released| released + 1), "{account}");
    coordinator.signal("TERM");
    assert!(coordinator.finish().success());
    for client in clients {
        client.signal("TERM");
        assert!(client.finish().success());
    }
    trial.check_accounts("at the end");
}
