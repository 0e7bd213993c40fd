//! What a person reads when something goes wrong, through the real binary: an exit code that is not zero, and exactly
//! two lines, what went wrong and what to do next. Where it takes a running coordinator, one runs as a process of its own.

use std::{
    fs,
    io::{BufRead, BufReader},
    net::UdpSocket,
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use eranos_base::{Clock, SystemClock, Timestamp};
use eranos_certs::{Approval, Authority, cli::issue_beside};
use eranos_privacy::Promise;

#[test]
fn a_missing_file_is_named_with_the_command_that_makes_it() {
    let world = World::new();
    let init = ["make one with `eranos client init`"];
    check(&world.run(&["client", "run", "--dir", "nowhere"]), &["cannot read nowhere/client.toml: "], &init);
    world.init_client(1, "127.0.0.1:9");
    fs::remove_file(world.path("silo-1/policy.toml")).unwrap();
    check(&world.run(&["client", "run", "--dir", "silo-1"]), &["cannot read silo-1/policy.toml: "], &init);
    let init = ["make one with `eranos coordinator init`"];
    check(&world.run(&["coordinator", "run", "--dir", "nowhere"]), &["cannot read nowhere/coordinator.toml: "], &init);
    fs::remove_file(world.path("main/task.toml")).unwrap();
    check(&world.run(&["coordinator", "run", "--dir", "main"]), &["main/task.toml: "], &init);
}

#[test]
fn bad_toml_is_named_with_its_line() {
    let world = World::new();
    world.init_client(1, "127.0.0.1:9");
    for (folder, file, noun) in [
        ("silo-1", "policy.toml", "client"),
        ("silo-1", "client.toml", "client"),
        ("main", "task.toml", "coordinator"),
        ("main", "coordinator.toml", "coordinator"),
    ] {
        let path = world.path(folder).join(file);
        let good = fs::read_to_string(&path).unwrap();
        let n_lines = good.lines().count();
        let version = good.lines().position(|line| line.starts_with("version = ")).unwrap();
        for (text, line, what) in [
            // Not TOML; an unknown field; a value of another type.
            (format!("{good}= 7\n"), n_lines + 1, ""),
            (good.replacen("version = 1", "version = 1\nflavour = 7", 1), version + 2, "flavour"),
            (good.replacen("version = 1", "version = \"one\"", 1), version + 1, "one"),
        ] {
            fs::write(&path, text).unwrap();
            let output = world.run(&[noun, "run", "--dir", folder]);
            check(&output, &[&format!("{folder}/{file}, line {line}: "), what], &[&format!("eranos {noun} init")]);
        }
        fs::write(&path, good.replacen("version = 1", "version = 2", 1)).unwrap();
        let output = world.run(&[noun, "run", "--dir", folder]);
        check(&output, &[&format!("{folder}/{file}: version = 2")], &["this build reads version 1"]);
        fs::write(&path, good).unwrap();
    }
}

#[test]
fn values_that_cannot_be_are_named() {
    let world = World::new();
    world.init_client(1, "127.0.0.1:9");
    for (file, key, line, next) in [
        ("silo-1/policy.toml", "epsilon_max", "epsilon_max = -1.0", "common choice"),
        ("silo-1/policy.toml", "delta_max", "delta_max = 1.5", "1 / (number of records)"),
        ("silo-1/policy.toml", "max_colluders", "max_colluders = 0", "1 or more"),
        ("silo-1/client.toml", "coordinator", "coordinator = \"no port\"", "write it like"),
        ("main/task.toml", "attempts_max", "attempts_max = 0", "allow a few attempts more"),
        ("main/task.toml", "graph =", "graph = \"sparse\"", "or graph = \"complete\""),
        ("main/task.toml", "clients_max =", "clients_max = 10001", "take fewer clients"),
        (
            "silo-1/policy.toml",
            "# [sparse_graph]",
            "[sparse_graph]\ncorrupt_share_min = 0.1\ndropped_share_max = 1.5",
            "are a start",
        ),
        ("main/task.toml", "l2_clip_norm", "l2_clip_norm = 0.0", "1.0"),
        ("main/task.toml", "epsilon =", "epsilon = 1e-9", "allow a larger epsilon"),
        ("main/task.toml", "epsilon =", "", "name epsilon with noise = \"distributed\""),
        ("main/task.toml", "noise =", "noise = \"none\"", "leave it out with noise = \"none\""),
        ("main/coordinator.toml", "listen", "listen = \"203.0.113.1:7433\"", "choose another address"),
    ] {
        let path = world.path(file);
        let good = fs::read_to_string(&path).unwrap();
        set(&path, key, line);
        let (folder, _) = file.split_once('/').unwrap();
        let noun = if folder == "main" { "coordinator" } else { "client" };
        check(&world.run(&[noun, "run", "--dir", folder]), &[], &[next]);
        fs::write(&path, good).unwrap();
    }
}

#[test]
fn an_unknown_model_is_named() {
    let world = World::new();
    set(&world.path("main/task.toml"), "builtin", "builtin = \"resnet\"");
    check(&world.run(&["coordinator", "run", "--dir", "main"]), &["resnet"], &["cnn"]);
    set(&world.path("main/task.toml"), "builtin", "definition = \"model.json\"");
    check(
        &world.run(&["coordinator", "run", "--dir", "main"]),
        &["cannot read the model main/model.json"],
        &["Keras 3"],
    );
    fs::write(world.path("main/model.json"), "{\"class_name\": \"Transformer\"}").unwrap();
    check(&world.run(&["coordinator", "run", "--dir", "main"]), &["main/model.json"], &[""]);
    check(&world.run(&["demo", "--model", "resnet"]), &["unknown model \"resnet\""], &["--model cnn"]);
    check(&world.run(&["demo", "--epsilon", "0"]), &["--epsilon 0"], &["a positive number", "--no-noise"]);
    check(&world.run(&["demo", "--epsilon", "1e-9"]), &["privacy cannot be kept"], &["allow a larger epsilon"]);
}

#[test]
fn data_that_is_not_idx_is_named_and_the_help_shows_how_to_convert() {
    let world = World::new();
    world.init_client(1, "127.0.0.1:9");
    let images = world.path("silo-1/images-idx3-ubyte.gz");
    let good = fs::read(&images).unwrap();
    let (path, convert) = ("silo-1/images-idx3-ubyte.gz", "write the four bytes 00 00 08 and the number of axes");
    let mut floats = good.clone();
    floats[2] = 0x0d;
    let mut short = good.clone();
    short.pop();
    for (bytes, what, next) in [
        (b"\x89PNG\r\n\x1a\n".to_vec(), "is not an IDX file: its first bytes are 89 50 4e 47", convert),
        (b"5,0,0,0,12,255\n".to_vec(), "is not an IDX file", convert),
        (Vec::new(), "is not an IDX file", convert),
        (floats, "of type 0x0d, supported is 0x08", "unsigned bytes"),
        (short, "is cut off or damaged", "copy or download"),
    ] {
        fs::write(&images, bytes).unwrap();
        let output = world.run(&["client", "run", "--dir", "silo-1"]);
        check(&output, &[path, what], &[next]);
        let output = world.run(&["data", "check", path, "silo-1/labels-idx1-ubyte.gz"]);
        check(&output, &[path, what], &[next]);
    }
    fs::remove_file(&images).unwrap();
    check(&world.run(&["client", "run", "--dir", "silo-1"]), &["cannot read", path], &["check the path"]);
}

#[test]
fn a_port_in_use_is_named() {
    let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let world = World::new();
    set(&world.path("main/coordinator.toml"), "listen", &format!("listen = \"{address}\""));
    let what = format!("cannot listen on {address}: ");
    let output = world.run(&["coordinator", "run", "--dir", "main"]);
    check(&output, &[&what, "in use"], &["stop the other program, or choose another port in coordinator.toml"]);
    // What it began before it found out is in nobody's way.
    drop(taken);
    assert!(world.run_coordinator().address.ends_with(&address.port().to_string()));
}

#[test]
fn a_ledger_key_that_is_none_is_named() {
    let world = World::new();
    let init = |key: &str| world.run(&["client", "init", "--dir", "silo-1", "--ledger-key", key]);
    let next = ["give the path of the coordinator's ledger.pub, or its one line"];
    check(&init("swordfish"), &["\"swordfish\" is neither a ledger key nor a file that holds one"], &next);
    check(&init("silo-1/certificate.pem"), &["silo-1/certificate.pem"], &next);
    // One letter changed: the key id no longer fits.
    let line = fs::read_to_string(world.path("main/ledger.pub")).unwrap();
    let altered = line.trim().replacen(".test/", ".tset/", 1);
    check(&init(&altered), &["neither a ledger key"], &next);
    assert!(!world.path("silo-1/client.toml").exists(), "nothing is written before everything is in order");
    world.init_client(1, "127.0.0.1:9");
    set(&world.path("silo-1/client.toml"), "ledger_key", &format!("ledger_key = \"{altered}\""));
    let output = world.run(&["client", "run", "--dir", "silo-1"]);
    check(&output, &["silo-1/client.toml: ledger_key: "], &["copy the one line of the coordinator's ledger.pub"]);
}

#[test]
fn certificates_that_do_not_fit_together_are_named_before_anyone_is_called() {
    let (world, other) = (World::new(), World::new());
    world.init_client(1, "127.0.0.1:9");
    let run = || world.run(&["client", "run", "--dir", "silo-1"]);
    fs::copy(other.path("ca/ca.pem"), world.path("silo-1/ca.pem")).unwrap();
    let both = ["get ca.pem and crl.pem from the authority's operator again, both of one authority"];
    check(&run(), &["silo-1/crl.pem: the revocation list is not signed by this authority"], &both);
    fs::remove_file(world.path("silo-1/crl.pem")).unwrap();
    check(&run(), &["cannot read silo-1/crl.pem"], &["check the path"]);
    fs::copy(other.path("ca/crl.pem"), world.path("silo-1/crl.pem")).unwrap();
    let reuse = ["eranos certs renew"];
    check(&run(), &["silo-1", "certificate is not signed by this authority"], &reuse);
    fs::copy(world.path("silo-2/certificate.pem"), world.path("silo-1/certificate.pem")).unwrap();
    check(&run(), &["silo-1/certificate.pem is not the certificate of silo-1/key.pem"], &["beside the key"]);
    fs::remove_file(world.path("silo-1/certificate.pem")).unwrap();
    check(&run(), &["silo-1/certificate.pem"], &["check the path"]);
}

#[test]
fn a_certificate_out_of_its_time_is_named() {
    let world = World::new();
    world.init_client(1, "127.0.0.1:9");
    world.reissue("silo-1", days_from_now(-3));
    let run = || world.run(&["client", "run", "--dir", "silo-1"]);
    check(&run(), &["silo-1", "certificate expired on "], &["eranos certs renew", "clock"]);
    world.reissue("silo-1", days_from_now(3));
    check(&run(), &["silo-1", "certificate is valid only from "], &["clock"]);
}

#[test]
fn a_client_of_another_authority_and_a_coordinator_out_of_its_time_are_named() {
    let (world, other) = (World::new(), World::of("elsewhere.test"));
    let coordinator = world.run_coordinator();
    // A whole client of another authority, in another trust domain: it finds that the coordinator is not its own.
    other.init_client(1, &coordinator.address);
    let output = other.run(&["client", "run", "--dir", "silo-1"]);
    check(&output, &["the coordinator's certificate is not believed", "another certificate authority"], &["ca.pem"]);
    // One that was revoked, and has not heard.
    world.init_client(1, &coordinator.address);
    assert!(world.run(&["certs", "revoke", "silo-1"]).status.success());
    fs::copy(world.path("ca/crl.pem"), world.path("main/crl.pem")).unwrap();
    drop(coordinator);
    let coordinator = world.run_coordinator();
    set(&world.path("silo-1/client.toml"), "coordinator", &format!("coordinator = \"{}\"", coordinator.address));
    let output = world.run(&["client", "run", "--dir", "silo-1"]);
    check(&output, &["turned this client's certificate away: it was revoked"], &["eranos certs list"]);
    drop(coordinator);
    // A coordinator whose certificate has expired: seen by its clients, which cannot tell whose clock is wrong.
    world.reissue("main", days_from_now(-3));
    let coordinator = world.run_coordinator();
    world.init_client(2, &coordinator.address);
    let output = world.run(&["client", "run", "--dir", "silo-2"]);
    check(&output, &["certificate is not believed: it has expired, or this clock is wrong"], &["this clock"]);
}

#[test]
fn a_plan_beyond_the_policy_is_refused_with_the_reason() {
    let world = World::new();
    let coordinator = world.run_coordinator();
    for number in 1..=N_CLIENTS {
        world.init_client(number, &coordinator.address);
    }
    set(&world.path("silo-1/policy.toml"), "task_epsilon_max", "task_epsilon_max = 1.0");
    set(&world.path("silo-2/policy.toml"), "survivors_min", "survivors_min = 50");
    set(&world.path("silo-3/policy.toml"), "noise_multiplier_min", "noise_multiplier_min = 90.0");
    // The plan is signed, but by another ledger's key.
    let other = World::new();
    let line = fs::read_to_string(other.path("main/ledger.pub")).unwrap();
    set(&world.path("silo-4/client.toml"), "ledger_key", &format!("ledger_key = \"{}\"", line.trim()));
    let clients: Vec<Running> = (1..=N_CLIENTS).map(|number| world.start_client(number)).collect();
    let policy = ["talk to the operator about the plan, or change policy.toml if you agree to it"];
    let expected = [
        &["refuses the coordinator's plan: policy: epsilon of the task is ", ", at most 1 is allowed"][..],
        &["policy: least number of survivors is 3, at least 50 is demanded"],
        &["policy: noise multiplier is ", ", at least 90 is demanded"],
        &["refuses the coordinator's plan: ", "sign"],
    ];
    for (client, what) in clients.into_iter().zip(expected) {
        check(&client.finish(), what, &policy);
    }
}

#[test]
fn a_plan_without_noise_is_refused_by_whoever_did_not_allow_it_and_marks_the_others_for_ever() {
    let world = World::new();
    set(&world.path("main/task.toml"), "noise =", "noise = \"none\"");
    set(&world.path("main/task.toml"), "epsilon =", "");
    let coordinator = world.run_coordinator();
    for number in 1..=N_CLIENTS {
        world.init_client(number, &coordinator.address);
        if number > 1 {
            set(&world.path(&format!("silo-{number}/policy.toml")), "allow_no_noise", "allow_no_noise = true");
        }
    }
    let clients: Vec<Running> = (1..=N_CLIENTS).map(|number| world.start_client(number)).collect();
    let [careful, others @ ..] = <[Running; 4]>::try_from(clients).unwrap_or_else(|_| panic!("four clients"));
    let what = "refuses the coordinator's plan: policy: the plan adds no noise, so that it promises nothing";
    check(&careful.finish(), &[what], &["allow_no_noise = true in policy.toml"]);
    let budget = |number: usize, json: &[&str]| {
        let folder = format!("silo-{number}");
        let output = world.run(&[&["client", "budget", "--dir", &folder], json].concat());
        String::from_utf8(output.stdout).unwrap()
    };
    // The refusal cost it nothing.
    assert!(budget(1, &[]).starts_with("0.000 of epsilon 4 spent"), "{}", budget(1, &[]));
    while !budget(2, &[]).contains("no guarantee") {
        thread::sleep(Duration::from_millis(100));
    }
    drop(others);
    assert!(budget(2, &[]).starts_with("no guarantee: "), "{}", budget(2, &[]));
    let report: serde_json::Value = serde_json::from_str(&budget(2, &["--json"])).unwrap();
    assert_eq!((&report["epsilon_spent"], &report["guarantee"]), (&serde_json::Value::Null, &false.into()), "{report}");
    assert_eq!(report["attempts_without_noise"], report["attempts_charged"], "{report}");
    // The same budget under a policy that does not allow it refuses a plan with noise: the guarantee is lost.
    drop(coordinator);
    let other = World::new();
    let coordinator = other.run_coordinator();
    for number in 1..=N_CLIENTS {
        other.init_client(number, &coordinator.address);
    }
    fs::create_dir_all(other.path("silo-1/state")).unwrap();
    fs::copy(world.path("silo-2/state/budget"), other.path("silo-1/state/budget")).unwrap();
    fs::copy(world.path("silo-2/state/secret"), other.path("silo-1/state/secret")).unwrap();
    let marked = other.start_client(1);
    let _rest: Vec<Running> = (2..=N_CLIENTS).map(|number| other.start_client(number)).collect();
    let what = "budget: attempts without noise were charged to this data set: no guarantee is left";
    check(&marked.finish(), &[what], &["never trained on without noise"]);
}

#[test]
fn a_client_for_a_task_that_the_coordinator_does_not_have_is_turned_away() {
    let world = World::new();
    let coordinator = world.run_coordinator();
    world.init_client(1, &coordinator.address);
    set(&world.path("silo-1/client.toml"), "task =", "task = \"weather\"");
    let output = world.run(&["client", "run", "--dir", "silo-1"]);
    check(&output, &["turned this client away: this coordinator has no task weather"], &["`task` in client.toml"]);
}

#[test]
fn a_client_whose_budget_is_spent_refuses_with_the_reason() {
    let world = World::new();
    let [first, second] = world.epsilon_of_first_attempts();
    assert!(first < second);
    let coordinator = world.run_coordinator();
    for number in 1..=N_CLIENTS {
        world.init_client(number, &coordinator.address);
    }
    // Enough for one attempt, not for two.
    let limit = (first + second) / 2.0;
    set(&world.path("silo-1/policy.toml"), "epsilon_max", &format!("epsilon_max = {limit:?}"));
    let poor = world.start_client(1);
    let rich: Vec<Running> = (2..=N_CLIENTS).map(|number| world.start_client(number)).collect();
    let output = poor.finish();
    check(&output, &["refuses the coordinator's plan: budget: "], &["talk to the operator"]);
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(printed.contains("silo-1: round 1 settled"), "it took part while it could afford it: {printed}");
    drop(rich);
    let spent = world.run(&["client", "budget", "--dir", "silo-1", "--json"]);
    let spent: serde_json::Value = serde_json::from_slice(&spent.stdout).unwrap();
    assert_eq!(spent["attempts_charged"], 1, "{spent}");
    let epsilon = spent["epsilon_spent"].as_f64().unwrap();
    assert!(epsilon <= limit && (epsilon - first).abs() < 1e-6, "{spent}");
    // The limit is not raised by editing the policy.
    set(&world.path("silo-1/policy.toml"), "epsilon_max", "epsilon_max = 100.0");
    let output = world.run(&["client", "run", "--dir", "silo-1"]);
    check(&output, &["was made under other terms"], &["what a budget protects is fixed when it is made"]);
}

/// Fails unless the program ended with exactly two lines that say what they should.
#[track_caller]
fn check(output: &Output, what: &[&str], next: &[&str]) {
    let text = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    let lines: Vec<&str> = text.lines().collect();
    let [error, help] = lines.as_slice() else { panic!("{} lines, expected two:\n{text}", lines.len()) };
    let error = error.strip_prefix("error: ").unwrap_or_else(|| panic!("no error:\n{text}"));
    let help = help.strip_prefix(" help: ").unwrap_or_else(|| panic!("no help:\n{text}"));
    for (line, fragments) in [(error, what), (help, next)] {
        assert!(!line.trim().is_empty() && !line.ends_with('.'), "{text}");
        for fragment in fragments {
            assert!(line.contains(fragment), "expected {fragment:?} in {line:?}:\n{text}");
        }
    }
}

/// A folder with an authority, a coordinator and four clients, each with a certificate, made by the program itself.
struct World {
    folder: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        Self::of("errors.test")
    }

    fn of(trust_domain: &str) -> Self {
        let world = Self { folder: tempfile::tempdir().unwrap() };
        world.must(&["certs", "init", "--trust-domain", trust_domain]);
        world.must(&["certs", "request", "--name", "main", "--coordinator", "--host", "127.0.0.1"]);
        let mut approve = vec!["certs".to_owned(), "approve".to_owned(), "--yes".to_owned()];
        approve.push("main/request.pem".to_owned());
        for number in 1..=N_CLIENTS {
            let name = format!("silo-{number}");
            world.must(&["certs", "request", "--name", &name]);
            approve.push(format!("{name}/request.pem"));
            let pixels: Vec<u8> = (0..N_RECORDS * 28 * 28).map(|i| (i * 7 + number * 31) as u8).collect();
            let labels: Vec<u8> = (0..N_RECORDS).map(|i| (i % 10) as u8).collect();
            write_idx(&world.path(&name).join("images-idx3-ubyte.gz"), &[N_RECORDS as u8, 28, 28], &pixels);
            write_idx(&world.path(&name).join("labels-idx1-ubyte.gz"), &[N_RECORDS as u8], &labels);
        }
        world.must(&approve.iter().map(String::as_str).collect::<Vec<_>>());
        let (rounds, records) = (8.to_string(), (2 * N_RECORDS).to_string());
        let init = ["coordinator", "init", "--dir", "main", "--listen", "127.0.0.1:0", "--clients", "4"];
        world.must(&[&init[..], &["--rounds", &rounds, "--records-per-client-max", &records]].concat());
        world
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_eranos"));
        // Paths are relative, so that they are the same in every error.
        command.args(arguments).current_dir(self.folder.path()).env_remove("RUST_LOG").stdin(Stdio::null());
        command
    }

    fn start(&self, arguments: &[&str]) -> Running {
        let child = self.command(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        Running { child }
    }

    /// Runs a command to its end.
    fn run(&self, arguments: &[&str]) -> Output {
        self.start(arguments).finish()
    }

    fn must(&self, arguments: &[&str]) {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    fn init_client(&self, number: usize, coordinator: &str) {
        let dir = format!("silo-{number}");
        let init = ["client", "init", "--dir", &dir, "--ledger-key", "main/ledger.pub", "--coordinator", coordinator];
        self.must(&[&init[..], &["--records-max", "24"]].concat());
    }

    fn start_client(&self, number: usize) -> Running {
        self.start(&["client", "run", "--dir", &format!("silo-{number}")])
    }

    /// Starts the coordinator and waits until it listens.
    fn run_coordinator(&self) -> RunningCoordinator {
        let mut command = self.command(&["coordinator", "run", "--dir", "main"]);
        let mut running = Running { child: command.stdout(Stdio::piped()).spawn().unwrap() };
        let mut stdout = BufReader::new(running.child.stdout.take().unwrap());
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        let address = line.strip_prefix("listening on ").and_then(|rest| rest.split(';').next());
        let address = address.unwrap_or_else(|| panic!("the coordinator printed {line:?}")).to_owned();
        RunningCoordinator { address, _stdout: stdout, _running: running }
    }

    /// Gives a party a certificate for one day, issued at another time.
    fn reissue(&self, name: &str, at: Timestamp) {
        let mut authority = Authority::open(&self.path("ca")).unwrap();
        let file = self.path(name).join("request.pem");
        let request = authority.review(&fs::read(&file).unwrap()).unwrap();
        issue_beside(&mut authority, &file, &request, Approval { days: 1, replace_key: false }, at).unwrap();
    }

    /// Epsilon of the task's first attempt, and of its first two, by its own arithmetic.
    fn epsilon_of_first_attempts(&self) -> [f64; 2] {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let opened = eranos_coordinator::setup::open(&self.path("main")).unwrap();
            let mechanism = opened.federation.mechanism();
            [1, 2].map(|n_attempts| mechanism.promised_epsilon(n_attempts, 1e-5))
        })
    }
}

/// A process that is killed when the test is over, however it ends.
struct Running {
    child: Child,
}

impl Running {
    /// Waits for the end and gives what was printed, which is little enough to wait in the pipes.
    fn finish(mut self) -> Output {
        let began = Instant::now();
        while self.child.try_wait().unwrap().is_none() {
            assert!(began.elapsed() < BOUND, "the process hangs");
            thread::sleep(Duration::from_millis(20));
        }
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        std::io::Read::read_to_end(&mut self.child.stdout.take().unwrap(), &mut stdout).unwrap();
        std::io::Read::read_to_end(&mut self.child.stderr.take().unwrap(), &mut stderr).unwrap();
        Output { status: self.child.wait().unwrap(), stdout, stderr }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

struct RunningCoordinator {
    address: String,
    /// Held, so that it can go on printing.
    _stdout: BufReader<ChildStdout>,
    _running: Running,
}

/// Replaces the one line that begins with `key`.
#[track_caller]
fn set(path: &Path, key: &str, line: &str) {
    let text = fs::read_to_string(path).unwrap();
    assert_eq!(text.lines().filter(|line| line.starts_with(key)).count(), 1, "{key} in {}", path.display());
    let lines: Vec<&str> = text.lines().map(|old| if old.starts_with(key) { line } else { old }).collect();
    fs::write(path, lines.join("\n") + "\n").unwrap();
}

/// Writes unsigned bytes as IDX, whose axes here are all shorter than 256.
fn write_idx(path: &Path, shape: &[u8], bytes: &[u8]) {
    let mut file = vec![0, 0, 0x08, shape.len() as u8];
    for &length in shape {
        file.extend_from_slice(&[0, 0, 0, length]);
    }
    file.extend_from_slice(bytes);
    fs::write(path, file).unwrap();
}

fn days_from_now(days: i64) -> Timestamp {
    Timestamp::from_unix_ms(SystemClock.now().unix_ms().saturating_add_signed(days * 24 * 3600 * 1000))
}

const N_CLIENTS: usize = 4;
/// Records of each client.
const N_RECORDS: usize = 12;
/// A process that takes longer hangs, on however slow a machine.
const BOUND: Duration = Duration::from_secs(120);
