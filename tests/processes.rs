//! The README's lines for separate processes, run as they stand there, with one client killed in the middle of a round.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use eranos_privacy::Budget;

use crate::local::right_digits;

/// The shell lines of the README's section on separate processes.
pub(crate) fn readme_lines() -> Vec<String> {
    let readme = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    let section = readme.split("## The same as separate processes").nth(1).unwrap();
    let block = section.split("```sh\n").nth(1).unwrap().split("```").next().unwrap();
    block.lines().map(str::to_owned).collect()
}

/// The README's own number of rounds.
const ROUNDS: usize = 20;

/// A process that does not outlive the test.
pub(crate) struct Guard(pub(crate) Child);

impl Drop for Guard {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(crate) fn shell(dir: &Path, line: &str) -> Command {
    let bin = Path::new(env!("CARGO_BIN_EXE_eranos")).parent().unwrap().to_owned();
    let path = std::env::var("PATH").unwrap_or_default();
    let mut command = Command::new("sh");
    command.args(["-c", line]).current_dir(dir).env("PATH", format!("{}:{path}", bin.display()));
    command
}

pub(crate) fn run(dir: &Path, line: &str) {
    let output = shell(dir, line).output().unwrap();
    assert!(output.status.success(), "{line}\n{}", String::from_utf8_lossy(&output.stderr));
}

pub(crate) fn client(dir: &Path, party: usize) -> Guard {
    let child = Command::new(env!("CARGO_BIN_EXE_eranos"))
        .args(["client", "run", "--dir", &format!("parties/party-{party}")])
        .current_dir(dir)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    Guard(child.unwrap())
}

pub(crate) fn budget(dir: &Path, party: usize) -> serde_json::Value {
    let output = Command::new(env!("CARGO_BIN_EXE_eranos"))
        .args(["client", "budget", "--json", "--dir", &format!("parties/party-{party}")])
        .current_dir(dir)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn the_readmes_lines_run_and_a_killed_client_joins_the_next_round() {
    let lines = readme_lines();
    assert!(lines.len() <= 10, "at most ten lines");
    let dir = tempfile::tempdir().unwrap();
    let dir: PathBuf = dir.path().to_owned().canonicalize().unwrap();
    // A port of this test's own: nothing else of the lines changes.
    let port = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let own = |line: &String| {
        let rounds = format!("--rounds {ROUNDS} --listen 127.0.0.1:{port}");
        line.replace("7433", &port.to_string()).replace(&format!("--rounds {ROUNDS}"), &rounds)
    };
    let lines: Vec<String> = lines.iter().map(own).collect();
    // The first line builds; the last two run clients and coordinator, which this test does itself to kill one.
    let set_up = &lines[1..lines.len() - 2];
    assert!(lines[lines.len() - 2].contains("eranos client run --dir parties/party-$i &"));
    let (coordinate, audit) = lines[lines.len() - 1].split_once(" && ").unwrap();
    for line in set_up {
        run(&dir, line);
    }
    let mut coordinator = Guard(shell(&dir, &format!("exec {coordinate}")).stdout(Stdio::piped()).spawn().unwrap());
    let (sender, said) = mpsc::channel();
    let stdout = coordinator.0.stdout.take().unwrap();
    thread::spawn(move || BufReader::new(stdout).lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
    let mut clients: Vec<Guard> = (1..=4).map(|party| client(&dir, party)).collect();

    let deadline = Instant::now() + Duration::from_secs(240);
    let mut heard = Vec::new();
    let (mut killed_in, mut receipts_at_kill) = (None, 0);
    let dropped = |heard: &[String]| heard.iter().any(|line| line.contains("dropped: party-2"));
    loop {
        let line = said.recv_timeout(deadline.saturating_duration_since(Instant::now()));
        let Ok(line) = line else { break };
        let is_round = line.starts_with("round");
        heard.push(line);
        // In the middle of a round: it has begun the next one and not charged it yet. READY's slot leaves time for its
        // keys and shares to be out; a machine so slow that they are not sees the next round, where it is done again.
        // Only in the first half: a restarted client needs rounds after it to come back to.
        let n_rounds = heard.iter().filter(|line| line.starts_with("round")).count();
        if is_round && !dropped(&heard) && n_rounds <= ROUNDS / 2 {
            let file = dir.join("parties/party-2/state/budget");
            let state = || Budget::parse(&fs::read(&file).unwrap()).unwrap().0;
            let begun = || state().begun_uncharged().filter(|round| Some(*round) != killed_in);
            while begun().is_none() {
                assert!(Instant::now() < deadline, "party 2 never began another round: {heard:?}");
                thread::sleep(Duration::from_millis(2));
            }
            thread::sleep(Duration::from_millis(100));
            let round = begun();
            clients[1].0.kill().unwrap();
            clients[1].0.wait().unwrap();
            (killed_in, receipts_at_kill) = (round.or(killed_in), state().n_receipts());
            clients[1] = client(&dir, 2);
        }
    }
    let status = coordinator.0.wait().unwrap();
    assert!(status.success(), "{heard:?}");
    assert!(heard.iter().any(|line| line.starts_with(&format!("{ROUNDS} rounds in "))), "{heard:?}");
    assert!(dropped(&heard), "the killed client dropped out: {heard:?}");
    for client in &mut clients {
        assert!(client.0.wait().unwrap().success(), "{heard:?}");
    }
    // It came back: rounds after the one in which it was killed are settled.
    let (killed, other) = (budget(&dir, 2), budget(&dir, 1));
    assert!(killed["receipts"].as_u64().unwrap() > receipts_at_kill, "{killed} after {receipts_at_kill}: {heard:?}");
    assert_eq!(other["receipts"], ROUNDS, "{other}");
    run(&dir, audit);
}

#[test]
fn a_killed_coordinator_goes_on_with_the_same_model_ledger_and_budgets() {
    let dir = tempfile::tempdir().unwrap();
    let dir: PathBuf = dir.path().to_owned().canonicalize().unwrap();
    let port = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    for line in &readme_lines()[1..8] {
        let rounds = format!("--rounds 5 --listen 127.0.0.1:{port}");
        run(&dir, &line.replace("7433", &port.to_string()).replace("--rounds 20", &rounds));
    }
    // With a clip that adapts: it is state, too.
    let task = fs::read_to_string(dir.join("federation/task.toml")).unwrap();
    let (before, rest) = task.split_once("# [training.adaptive_clip]").unwrap();
    let (commented, after) = rest.split_once("\n\n").unwrap();
    let adaptive = format!("{before}[training.adaptive_clip]{}\n\n{after}", commented.replace("\n# ", "\n"));
    fs::write(dir.join("federation/task.toml"), adaptive).unwrap();
    let export = || {
        let output = shell(&dir, "eranos coordinator export --dir federation").output().unwrap();
        (output.status.success(), String::from_utf8(output.stderr).unwrap())
    };
    let refused = || {
        let (ok, error) = export();
        assert!(!ok && error.starts_with("error: federation/state holds no released model\n help: let "), "{error}");
    };
    refused();
    assert!(!dir.join("federation/state").exists(), "looking for a model makes nothing");
    let start = || {
        let mut child = Command::new(env!("CARGO_BIN_EXE_eranos"));
        child.args(["coordinator", "run", "--dir", "federation"]).current_dir(&dir).stdout(Stdio::piped());
        Guard(child.spawn().unwrap())
    };
    // One that has begun and released nothing has a model that nobody trained.
    let mut coordinator = start();
    let listening = BufReader::new(coordinator.0.stdout.take().unwrap()).lines().next().unwrap().unwrap();
    assert!(listening.starts_with("listening on "), "{listening}");
    drop(coordinator);
    refused();
    let mut coordinator = start();
    let mut clients: Vec<Guard> = (1..=4).map(|party| client(&dir, party)).collect();
    let stdout = BufReader::new(coordinator.0.stdout.take().unwrap());
    let mut lines = stdout.lines().map_while(Result::ok);
    assert!(lines.by_ref().any(|line| line.starts_with("round   2/5")), "two rounds before the kill");
    run(
        &dir,
        "! eranos coordinator rotate-key --dir federation 2> refused && grep -q 'open in another process' refused",
    );
    run(&dir, "! test -e federation/ledger.seed.next");
    coordinator.0.kill().unwrap();
    coordinator.0.wait().unwrap();
    // Meanwhile its operator exchanges the ledger's key, which the clients pinned and follow.
    run(&dir, "cp federation/ledger.pub pinned.pub && eranos coordinator rotate-key --dir federation");
    run(&dir, "! cmp -s federation/ledger.pub pinned.pub && ! test -e federation/ledger.seed.next");

    let mut coordinator = start();
    let stdout = BufReader::new(coordinator.0.stdout.take().unwrap());
    let heard: Vec<String> = stdout.lines().map_while(Result::ok).collect();
    assert!(coordinator.0.wait().unwrap().success(), "{heard:?}");
    assert!(heard.iter().any(|line| line.starts_with("going on after ")), "{heard:?}");
    assert!(heard.iter().any(|line| line.starts_with("5 rounds in ")), "{heard:?}");
    for client in &mut clients {
        assert!(client.0.wait().unwrap().success(), "{heard:?}");
    }
    for key in ["federation/ledger.pub", "pinned.pub"] {
        run(&dir, &format!("eranos audit verify federation/state/ledger --key {key}"));
        crate::reader::check(&dir.join("federation/state/ledger"), &dir.join(key));
    }
    // A client discloses which pseudonym is its own, the coordinator whose all of them are; neither can be altered.
    let recompute = "eranos audit recompute federation/state/ledger --key pinned.pub --json --bindings";
    let disclosed = |line: &str| -> serde_json::Value {
        let output = shell(&dir, line).output().unwrap();
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)))
    };
    run(
        &dir,
        "eranos client disclose --dir parties/party-3 > one && eranos coordinator disclose --dir federation > all",
    );
    run(&dir, "grep -qF \"$(sed -n 4p one)\" all && sed 's/party-3/party-2/' one > other");
    let (one, all) = (disclosed(&format!("{recompute} one")), disclosed(&format!("{recompute} all")));
    assert_eq!((&one["verified"], &all["verified"]), (&true.into(), &true.into()), "{one} {all}");
    let count = |report: &serde_json::Value| report["tasks"][0]["bindings_disclosed"].as_u64();
    assert_eq!((count(&one), count(&all)), (Some(1), Some(4)));
    assert_eq!(one["clients"][0]["client"], "spiffe://example.org/client/party-3", "{one}");
    let epsilon = one["clients"][0]["epsilon_record"].as_f64().unwrap();
    assert!(epsilon > 0.0 && one["clients"][0]["attempts"].as_u64().unwrap() >= 5, "{one}");
    // The name is the certificate's to say: it is not in what the key signed.
    assert_eq!(disclosed(&format!("{recompute} other"))["clients"][0]["client"], "spiffe://example.org/client/party-2");
    // Each attempt clips to what the one before led to, over the kill too: a step is 0.2 times a share, and a half at most.
    let bundle = dir.join("federation/state/ledger/tile/entries/000.p");
    let bundle = fs::read_dir(&bundle)
        .unwrap()
        .map(|file| file.unwrap().path())
        .max_by_key(|path| path.file_name().unwrap().to_string_lossy().parse::<u64>().unwrap());
    let text = String::from_utf8_lossy(&fs::read(bundle.unwrap()).unwrap()).into_owned();
    let clips: Vec<f64> =
        text.split("\nl2-clip-norm: ").skip(1).map(|rest| rest.lines().next().unwrap().parse().unwrap()).collect();
    // The task's own, and the first attempt's, which is the same; then those of at least four more.
    assert!(clips.len() >= 6 && clips[..2] == [1.0, 1.0], "{clips:?}");
    assert!(clips.windows(2).all(|pair| (pair[1] / pair[0]).ln().abs() < 0.2), "{clips:?}");
    let moved = clips.windows(2).filter(|pair| pair[0] != pair[1]).count();
    assert!(moved >= 4, "after every release: {clips:?}");
    // The exported weights are those that the coordinator tested.
    assert_eq!(export(), (true, String::new()));
    let (n_right, n_digits) = right_digits(&dir, "parties/test", "model.safetensors");
    let accuracy = 100.0 * n_right as f64 / n_digits as f64;
    let summary = heard.iter().find(|line| line.starts_with("5 rounds in ")).unwrap();
    assert!(summary.contains(&format!("test accuracy {accuracy:.1} %; last round's train loss ")), "{summary}");
    // Each released round says what the clients measured, with the noise in it.
    let rounds: Vec<&String> = heard.iter().filter(|line| line.starts_with("round ")).collect();
    let has_train = |line: &&&String| line.contains("  train loss ") && line.contains(" ± ");
    assert_eq!(rounds.iter().filter(has_train).count(), rounds.iter().filter(|r| !r.contains("aborted")).count());
    let task = fs::read_to_string(dir.join("federation/task.toml")).unwrap();
    fs::write(dir.join("federation/task.toml"), task.replace("name = \"mnist\"", "name = \"other\"")).unwrap();
    let (ok, error) = export();
    let what = "error: the model in federation/state is not that of federation/task.toml\n help: restore the task";
    assert!(!ok && error.starts_with(what), "{error}");
    // What a client spent is what it charged itself, never more than the ledger's attempts.
    let spent = budget(&dir, 1);
    assert!(spent["receipts"].as_u64().unwrap() >= 4, "{spent}");
}

#[test]
fn a_task_that_protects_whole_clients_or_adds_local_noise_runs() {
    for (unit, noise) in [("client", "distributed"), ("client", "local"), ("record", "local")] {
        let dir = tempfile::tempdir().unwrap();
        let dir: PathBuf = dir.path().to_owned().canonicalize().unwrap();
        let port = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        for line in &readme_lines()[1..8] {
            let rounds = format!("--rounds 2 --unit {unit} --noise {noise} --listen 127.0.0.1:{port}");
            let line = line.replace("7433", &port.to_string()).replace("--rounds 20", &rounds);
            run(&dir, &line.replace("client init ", &format!("client init --unit {unit} ")));
        }
        let text = fs::read_to_string(dir.join("federation/task.toml")).unwrap();
        assert!(text.contains("[training.local]\n") && text.contains(&format!("unit = \"{unit}\"\n")), "{text}");
        assert!(text.contains(&format!("noise = \"{noise}\"\n")), "{text}");
        assert_eq!(text.contains("\n[metrics]\n"), unit == "client", "a silo's own steps measure nothing: {text}");
        let mut coordinator = shell(&dir, "exec eranos coordinator run --dir federation");
        let coordinator = Guard(coordinator.stdout(Stdio::piped()).spawn().unwrap());
        let mut clients: Vec<Guard> = (1..=4).map(|party| client(&dir, party)).collect();
        let mut coordinator = coordinator;
        let stdout = BufReader::new(coordinator.0.stdout.take().unwrap());
        let heard: Vec<String> = stdout.lines().map_while(Result::ok).collect();
        assert!(coordinator.0.wait().unwrap().success(), "{noise}: {heard:?}");
        assert!(heard.iter().any(|line| line.starts_with("2 rounds in ")), "{noise}: {heard:?}");
        for client in &mut clients {
            assert!(client.0.wait().unwrap().success(), "{noise}: {heard:?}");
        }
        let spent = budget(&dir, 1);
        assert_eq!((&spent["unit"], &spent["receipts"]), (&unit.into(), &2.into()), "{spent}");
        let epsilon = |name: &str| spent[name].as_f64().unwrap();
        assert!(epsilon("epsilon_spent") > 0.0 && epsilon("epsilon_spent") <= 4.0, "{spent}");
        assert_eq!(spent[format!("epsilon_spent_{unit}")], spent["epsilon_spent"], "{spent}");
        assert_eq!(epsilon("epsilon_spent_record") > epsilon("epsilon_spent"), noise == "distributed", "{spent}");
        let audited = shell(&dir, "eranos audit recompute federation/state/ledger --key federation/ledger.pub --json");
        let audited = { audited }.output().unwrap();
        let report: serde_json::Value = serde_json::from_slice(&audited.stdout).unwrap();
        let task = &report["tasks"][0];
        let relation = match (unit, noise) {
            ("record", _) => "add-or-remove",
            (_, "local") => "replace",
            _ => "zero-out",
        };
        assert_eq!((&task["unit"], &task["relation"], &task["noise"]), (&unit.into(), &relation.into(), &noise.into()));
        assert_eq!(report["verified"], true, "{report}");
    }
}

#[test]
fn a_task_on_the_sparse_graph_runs_with_the_fewest_clients_that_make_one() {
    let dir = tempfile::tempdir().unwrap();
    let dir: PathBuf = dir.path().to_owned().canonicalize().unwrap();
    let port = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    // One may drop out and one collude: of five, a ring of four neighbors is everybody; of six, it is not.
    for line in &readme_lines()[1..8] {
        let line = line.replace("7433", &port.to_string()).replace("1 2 3 4;", "1 2 3 4 5 6;");
        let sparse = format!("--rounds 2 --graph sparse --listen 127.0.0.1:{port}");
        let line = line.replace("--rounds 20", &sparse);
        if line.contains("coordinator init") {
            let refused = shell(&dir, &line).output().unwrap();
            let error = String::from_utf8_lossy(&refused.stderr);
            assert!(!refused.status.success() && error.starts_with("error: no sparse graph of 4 clients "), "{error}");
            assert!(error.lines().count() == 2 && error.contains("take more clients"), "{error}");
            assert!(!dir.join("federation/task.toml").exists(), "nothing is written");
        }
        run(&dir, &line.replace("--clients 4", "--clients 6"));
    }
    assert!(fs::read_to_string(dir.join("federation/task.toml")).unwrap().contains("\ngraph = \"sparse\"\n"));
    // Each allows it by its policy.
    let mut coordinator = shell(&dir, "exec eranos coordinator run --dir federation");
    let mut coordinator = Guard(coordinator.stdout(Stdio::piped()).spawn().unwrap());
    for party in 1..=6 {
        let path = dir.join(format!("parties/party-{party}/policy.toml"));
        let policy = fs::read_to_string(&path).unwrap();
        let allows = ["[sparse_graph]", "corrupt_share_min", "dropped_share_max"];
        let allows = allows.iter().fold(policy, |policy, line| policy.replace(&format!("# {line}"), line));
        fs::write(&path, allows).unwrap();
    }
    let mut clients: Vec<Guard> = (1..=6).map(|party| client(&dir, party)).collect();
    let stdout = BufReader::new(coordinator.0.stdout.take().unwrap());
    let heard: Vec<String> = stdout.lines().map_while(Result::ok).collect();
    assert!(coordinator.0.wait().unwrap().success(), "{heard:?}");
    assert!(heard.iter().any(|line| line.starts_with("2 rounds in ")), "{heard:?}");
    for client in &mut clients {
        assert!(client.0.wait().unwrap().success(), "{heard:?}");
    }
    assert_eq!(budget(&dir, 1)["receipts"], 2, "{heard:?}");
    run(&dir, "eranos audit verify federation/state/ledger --key federation/ledger.pub");
}

#[test]
fn a_demo_that_is_interrupted_says_so_and_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_eranos"));
    command.args(["demo", "--clients", "4", "--rounds", "1000"]).env("TMPDIR", dir.path()).stderr(Stdio::piped());
    let mut demo = Guard(command.spawn().unwrap());
    let mut lines = BufReader::new(demo.0.stderr.take().unwrap()).lines().map_while(Result::ok);
    assert!(lines.by_ref().any(|line| line.starts_with("round ")), "a round before the interruption");
    assert_ne!(fs::read_dir(dir.path()).unwrap().count(), 0, "it works in a temporary folder");
    run(dir.path(), &format!("kill -INT {}", demo.0.id()));
    let rest: Vec<String> = lines.collect();
    assert!(!demo.0.wait().unwrap().success());
    let [.., what, next] = rest.as_slice() else { panic!("two lines at the end: {rest:?}") };
    assert!(what.contains("interrupted") && next.contains("nothing was left behind"), "{rest:?}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "the temporary folder is gone");
}

#[test]
fn a_demo_of_each_model_trains_it_and_leaves_a_ledger_that_verifies() {
    for (model, n_test, figure) in
        [("lstm", 247, None), ("nlp", 1114, Some("test_spam_recall")), ("recommender", 8517, Some("test_auc"))]
    {
        let mut command = Command::new(env!("CARGO_BIN_EXE_eranos"));
        command.args(["demo", "--clients", "4", "--rounds", "2", "--drop", "0", "--json", "--model", model]);
        let output = command.output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{model}: {error}");
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!((&report["model"], &report["rounds"]), (&model.into(), &2.into()), "{report}");
        assert_eq!(report["ledger_verified"], true, "{report}");
        assert_eq!(report["noise"], "distributed", "{report}");
        assert!(!error.contains("NOT PRIVATE"), "{error}");
        for name in ["test_spam_recall", "test_auc"] {
            let value = report[name].as_f64();
            assert_eq!(value.is_some_and(|value| (0.0..=1.0).contains(&value)), figure == Some(name), "{report}");
        }
        assert!(report["epsilon"].as_f64().is_some_and(|epsilon| 0.0 < epsilon && epsilon <= 8.0), "{report}");
        for (name, most) in [("train_loss", 4.0), ("train_accuracy", 1.0)] {
            let (value, noise) = (report[name].as_f64().unwrap(), &report[format!("{name}_noise_deviation")]);
            let noise = noise.as_f64().unwrap();
            assert!(noise > 0.0 && value > -6.0 * noise && value < 1.5 * most + 6.0 * noise, "{model}: {report}");
        }
        // Whole records were tested on: the share of right ones is a multiple of one.
        let right = report["test_accuracy"].as_f64().unwrap() * f64::from(n_test);
        assert!(right > 0.0 && (right - right.round()).abs() < 1e-6, "{report}");
    }
}

#[test]
fn a_demo_without_noise_says_so_first_and_last_and_claims_no_epsilon() {
    let dir = tempfile::tempdir().unwrap();
    let kept = dir.path().join("kept");
    let mut command = Command::new(env!("CARGO_BIN_EXE_eranos"));
    command.args(["demo", "--clients", "4", "--rounds", "2", "--drop", "0", "--json", "--model", "nlp", "--no-noise"]);
    let output = command.arg("--keep").arg(&kept).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    let marks: Vec<usize> = error.match_indices("NOT PRIVATE: no noise is added").map(|(at, _)| at).collect();
    let [first, last] = marks[..] else { panic!("twice: {error}") };
    let rounds: Vec<usize> = error.match_indices("\nround ").map(|(at, _)| at).collect();
    assert!(first == 0 && rounds.len() == 2 && rounds.iter().all(|&at| first < at && at < last), "{error}");
    assert!(error.contains("  NO NOISE  up ") && !error.contains("epsilon ="), "{error}");
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let null = serde_json::Value::Null;
    assert_eq!((&report["noise"], &report["epsilon"]), (&"none".into(), &null), "{report}");
    assert_eq!(report["ledger_verified"], true, "{report}");
    assert!(report["test_spam_recall"].as_f64().is_some(), "{report}");
    // Whoever looks later is told the same.
    let run = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_eranos")).args(arguments).current_dir(&kept).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let audited = run(&["audit", "verify", "ledger", "--key", "ledger.pub"]);
    assert!(audited.contains("NO NOISE") && audited.contains("NOT PRIVATE: no noise, and no epsilon"), "{audited}");
    assert!(run(&["client", "budget", "--dir", "parties/party-1"]).starts_with("no guarantee: 2 "));
}
