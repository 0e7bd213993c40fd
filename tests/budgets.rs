//! Budgets on both sides, and what both tell of them, with real processes: what is spent, left and promised; two tasks on
//! one data set; a state that was restored from an older copy.

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::{Arc, Mutex, mpsc},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use eranos_privacy::{Budget, Promise};
use serde_json::Value;

#[test]
fn both_sides_tell_what_was_spent_what_is_left_and_how_things_stand() {
    let trial = Trial::new(3, "tiny", 4);
    let no_task = trial.eranos(&["coordinator", "status", "--dir", "main"]).output().unwrap();
    check_error(&no_task, "main/state holds no task that was begun", "`eranos coordinator run`");
    let mut coordinator = trial.coordinator(&[]);
    coordinator.heard("listening on ");
    // Nobody is there yet: it waits in select, and says so.
    let status = trial.status();
    let live = &status["running"];
    assert_eq!((&live["process"], &live["phase"]), (&coordinator.child.id().into(), &"select".into()), "{status}");
    assert_eq!((&live["round"], &live["cohort"], &live["waiting"]), (&1.into(), &0.into(), &0.into()), "{status}");
    assert!(live["memory_resident"].as_u64().unwrap() > 1_000_000, "{status}");
    assert_eq!((&status["attempts"], &status["epsilon_charged"]), (&0.into(), &0.0.into()), "{status}");
    let first = trial.client(1, &[]);
    let deadline = Instant::now() + BOUND;
    while trial.status()["running"]["waiting"] != 1 {
        assert!(Instant::now() < deadline, "{}", trial.status());
        thread::sleep(Duration::from_millis(50));
    }
    let clients: Vec<Running> = [first].into_iter().chain((2..=3).map(|i| trial.client(i, &[]))).collect();
    assert!(coordinator.finish().success());
    for client in clients {
        assert!(client.finish().success());
    }
    let status = trial.status();
    assert_eq!((&status["running"], &status["open_round"]), (&Value::Null, &Value::Null), "{status}");
    assert_eq!((&status["task"], &status["released"], &status["unit"]), (&"tiny".into(), &4.into(), &"record".into()));
    let number = |value: &Value| value.as_f64().unwrap_or_else(|| panic!("a number: {value}"));
    let (charged, promised) = (number(&status["epsilon_charged"]), number(&status["epsilon_promised"]));
    let attained = number(&status["epsilon_attained"]);
    // Three of three survived every round, so that what was attained is what was promised for as many attempts.
    assert!(0.0 < charged && charged < promised && (attained - charged).abs() < 1e-9, "{status}");
    let left = status["attempts_max"].as_u64().unwrap() - 4;
    assert_eq!(status["attempts_left"], left, "{status}");
    for i in 1..=3 {
        let account = &status["clients"][format!("silo-{i}")];
        assert_eq!(
            (&account["attempts"], &account["received"], &account["released"]),
            (&4.into(), &4.into(), &4.into())
        );
        assert_eq!((&account["epsilon_spent"], &account["attempts_left"]), (&charged.into(), &left.into()), "{status}");
        let budget = trial.budget(i);
        let task = &budget["tasks"][0];
        assert_eq!(
            (&task["task"], &task["attempts_charged"], &task["receipts"]),
            (&"tiny".into(), &4.into(), &4.into())
        );
        assert_eq!((&task["attempts_left"], &task["attempts_reserved"]), (&left.into(), &0.into()), "{budget}");
        // One mechanism and one sum: both sides come to the same figures.
        for (figure, expected) in [("epsilon_spent_record", charged), ("epsilon_promised", promised)] {
            assert!((number(&task[figure]) - expected).abs() < 1e-9, "{figure}: {budget}");
        }
        assert!((number(&task["epsilon_attained"]) - attained).abs() < 1e-9, "{budget}");
        assert_eq!((&task["epsilon_spent_client"], &budget["epsilon_spent_client"]), (&Value::Null, &Value::Null));
        let (spent, limit) = (number(&budget["epsilon_spent"]), number(&budget["epsilon_limit"]));
        assert!((number(&budget["epsilon_left"]) - (limit - spent)).abs() < 1e-9, "{budget}");
    }
    let text = |arguments: &[&str]| String::from_utf8(trial.eranos(arguments).output().unwrap().stdout).unwrap();
    let told = text(&["coordinator", "status", "--dir", "main"]);
    for part in
        ["task tiny: 4 rounds released in 4 attempts, 0 aborted\n", "\nnot running\n", "\nclient silo-2: epsilon "]
    {
        assert!(told.contains(part), "{part}: {told}");
    }
    let told = text(&["client", "budget", "--dir", "silo-1"]);
    assert!(told.contains(" left, at delta 1e-5") && told.contains("\ntask tiny (session "), "{told}");
    assert!(
        told.contains(" promised for 5, ")
            && told.contains("; 1 rounds left at the present plan, all within the budget"),
        "{told}"
    );
    trial.verify();
}

#[test]
fn two_tasks_at_once_share_one_budget_and_never_pass_it() {
    // Each task alone is within the budget of the party that takes part in both, the two together are not.
    let alpha = Trial::new(4, "alpha", 12);
    let beta = Trial::new(4, "beta", 12);
    let shared = alpha.path("silo-1/state");
    // All of one task, and half of the other.
    let limit = alpha.epsilon_of(18);
    for trial in [&alpha, &beta] {
        let policy = trial.path("silo-1/policy.toml");
        set(&policy, "epsilon_max", &format!("epsilon_max = {limit:?}"));
        let config = trial.path("silo-1/client.toml");
        set(&config, "# budget = ", &format!("budget = {:?}", shared.display().to_string()));
    }
    let coordinators = [&alpha, &beta].map(|trial| trial.coordinator(&[]));
    let others: Vec<Running> = [&alpha, &beta].iter().flat_map(|trial| (2..=4).map(|i| trial.client(i, &[]))).collect();
    let both = [&alpha, &beta].map(|trial| trial.client(1, &[]));
    let outputs = both.map(Running::output);
    let refused: Vec<&Output> = outputs.iter().filter(|output| !output.status.success()).collect();
    assert!(!refused.is_empty(), "both went to the end of their tasks: {outputs:?}");
    for output in refused {
        check_error(output, "this client refuses the coordinator's plan: budget: epsilon ", "`eranos client budget`");
    }
    let budget = alpha.budget(1);
    let (spent, limit) = (budget["epsilon_spent"].as_f64().unwrap(), budget["epsilon_limit"].as_f64().unwrap());
    assert!(spent <= limit, "{budget}");
    let tasks = budget["tasks"].as_array().unwrap();
    let charged = |task: &Value| task["attempts_charged"].as_u64().unwrap();
    assert_eq!(tasks.len(), 2, "{budget}");
    assert!(tasks.iter().all(|task| charged(task) > 0), "each charged something: {budget}");
    assert_eq!(tasks.iter().map(charged).sum::<u64>(), budget["attempts_charged"].as_u64().unwrap());
    // Both see the same file, whole.
    assert_eq!(beta.budget(1), budget);
    for coordinator in &coordinators {
        coordinator.signal("TERM");
    }
    for (coordinator, trial) in coordinators.into_iter().zip([&alpha, &beta]) {
        assert!(coordinator.finish().success());
        let account = &trial.status()["clients"]["silo-1"];
        let own = tasks.iter().find(|task| task["task"] == trial.task).unwrap();
        assert!(account["received"].as_u64() <= own["attempts_charged"].as_u64(), "{account} {own}");
        assert!(own["attempts_charged"].as_u64() <= account["attempts"].as_u64(), "{account} {own}");
        trial.verify();
    }
    drop(others);
}

#[test]
fn a_client_that_was_killed_in_a_round_leaves_its_reservation_to_the_others() {
    let (alpha, beta) = (Trial::new(3, "alpha", 12), Trial::new(3, "beta", 12));
    let shared = alpha.path("silo-1/state");
    // One attempt fits, and not two.
    let limit = 1.2 * alpha.epsilon_of(1);
    for trial in [&alpha, &beta] {
        set(&trial.path("silo-1/policy.toml"), "epsilon_max", &format!("epsilon_max = {limit:?}"));
        let config = trial.path("silo-1/client.toml");
        set(&config, "# budget = ", &format!("budget = {:?}", shared.display().to_string()));
    }
    // Alone with the coordinator it stays in the round that it has begun: the two others say nothing.
    set(&alpha.path("main/task.toml"), "phase_timeout_ms = ", "phase_timeout_ms = 60000");
    let mut coordinator = alpha.coordinator(&[]);
    coordinator.heard("listening on ");
    let others: Vec<Running> = (2..=3).map(|i| alpha.client(i, &[])).collect();
    let first = alpha.client(1, &[]);
    let deadline = Instant::now() + BOUND;
    let reserved = || {
        let bytes = fs::read(shared.join("budget")).unwrap_or_default();
        Budget::parse(&bytes).is_ok_and(|(budget, _)| budget.n_reserved() == 1)
    };
    while !reserved() {
        assert!(Instant::now() < deadline, "it never reserved anything");
        thread::sleep(Duration::from_millis(1));
    }
    // Not while it writes: it would keep the others from the file.
    first.signal("STOP");
    while fs::File::open(&shared).unwrap().try_lock().is_err() {
        first.signal("CONT");
        first.signal("STOP");
    }
    assert!(reserved(), "it charged before it was stopped");
    drop(others);
    // It is stopped, not gone: its reservation stands.
    let mut second_coordinator = beta.coordinator(&[]);
    second_coordinator.heard("listening on ");
    let _others: Vec<Running> = (2..=3).map(|i| beta.client(i, &[])).collect();
    let refused = beta.client(1, &[]).output();
    check_error(&refused, "1 reserved by other sessions", "wait until the other tasks on this data set are over");
    assert_eq!(alpha.budget(1)["attempts_reserved"], 1);
    first.signal("KILL");
    drop(first);
    // Killed, and never started again: the other task takes part, and spends what there is.
    let spent = beta.client(1, &[]).output();
    check_error(
        &spent,
        "this client refuses the coordinator's plan: budget: epsilon ",
        "limit is fixed with the budget",
    );
    let budget = beta.budget(1);
    assert_eq!((&budget["attempts_charged"], &budget["attempts_reserved"]), (&1.into(), &0.into()), "{budget}");
    beta.verify();
}

#[test]
fn where_all_are_spent_both_sides_say_so_and_what_to_do() {
    let trial = Trial::new(3, "tiny", 12);
    let limit = format!("delta = 1e-5\nclient_epsilon_max = {:?}", 1.05 * trial.epsilon_of(2));
    let task = trial.path("main/task.toml");
    set(&task, "delta = ", &limit);
    // Both rounds must be released, however busy the machine is.
    set(&task, "phase_wait_min_ms = ", "phase_wait_min_ms = 5000");
    set(&task, "phase_timeout_ms = ", "phase_timeout_ms = 60000");
    let mut coordinator = trial.coordinator(&[]);
    coordinator.heard("listening on ");
    let clients: Vec<Running> = (1..=3).map(|i| trial.client(i, &[])).collect();
    for client in clients {
        let output = client.output();
        let what = "the coordinator selects this client no more: the epsilon that this task allows one client is spent";
        check_error(&output, what, "this client's own budget stands (`eranos client budget`)");
    }
    let deadline = Instant::now() + BOUND;
    let waits = || trial.status()["running"]["phase"] == "select" && trial.status()["running"]["phase_left_ms"] != 0;
    while !waits() {
        assert!(Instant::now() < deadline, "{}", trial.status());
        thread::sleep(Duration::from_millis(50));
    }
    let status = trial.status();
    let live = &status["running"];
    assert_eq!((&live["spent"], &live["needed"]), (&serde_json::json!(["silo-1", "silo-2", "silo-3"]), &3.into()));
    assert_eq!((&status["released"], &status["rounds_left"]), (&2.into(), &10.into()), "{status}");
    // The last round's figures, with the noise in them, and not those of the round before.
    let figure = |name: &str| {
        let [value, deviation] = ["value", "deviation"].map(|part| live["train"][name][part].as_f64().unwrap());
        assert!(deviation > 0.0, "{status}");
        (value, deviation)
    };
    let ((loss, of_loss), (accuracy, of_accuracy)) = (figure("loss"), figure("accuracy"));
    let in_percent = (100.0 * accuracy, 100.0 * of_accuracy);
    let train = format!("train loss {loss:.2} ± {of_loss:.2}, accuracy {:.1} ± {:.1} %", in_percent.0, in_percent.1);
    let before = coordinator.heard("round   1/");
    assert!(before.contains("train loss ") && !before.contains(&train), "{before}");
    let told = trial.must(&["coordinator", "status", "--dir", "main"]);
    for part in [
        "spent, and selected no more: silo-1, silo-2, silo-3",
        &format!("last round's train loss: {loss:.3} ± {of_loss:.3}, "),
        &format!("last round's train accuracy: {accuracy:.3} ± {of_accuracy:.3}, "),
        "10 rounds left at the present plan",
    ] {
        assert!(told.contains(part), "{part}: {told}");
    }
    // One phase of select later the coordinator has said it itself, once.
    let deadline = Instant::now() + BOUND;
    while !coordinator.said().contains("warning: round 3 waits") {
        assert!(Instant::now() < deadline, "{}", coordinator.said());
        thread::sleep(Duration::from_millis(50));
    }
    coordinator.signal("TERM");
    let summary = coordinator.heard("2 rounds in 2 attempts, ");
    assert!(summary.contains(&format!("; last round's {train}")), "{train}: {summary}");
    let output = coordinator.output();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{text}");
    let lines: Vec<&str> = text.lines().filter(|line| line.contains("spent") || line.starts_with(" help: ")).collect();
    let [what, next] = lines[..] else { panic!("two lines: {text}") };
    assert!(
        what.contains("warning: round 3 waits: 0 of the 3 clients that it needs are there, and 3 have spent"),
        "{what}"
    );
    assert!(what.ends_with(": silo-1, silo-2, silo-3") && next.contains("privacy.client_epsilon_max"), "{text}");
    trial.verify();
}

#[test]
fn a_state_restored_from_an_older_copy_is_refused_until_the_newest_is_back() {
    let trial = Trial::new(3, "tiny", 30);
    let mut coordinator = trial.coordinator(&[]);
    let mut clients: Vec<Running> = (1..=3).map(|i| trial.client(i, &[])).collect();
    coordinator.heard("round   2/");
    let stop = |client: Running| {
        client.signal("TERM");
        assert!(client.finish().success(), "a client that is told to stop ends well");
    };
    stop(clients.remove(0));
    let state = trial.path("silo-1/state");
    let older = trial.path("older");
    copy(&state, &older);
    let charged_then = trial.budget(1)["attempts_charged"].as_u64().unwrap();
    // It takes part again, and charges more.
    let client = trial.client(1, &[]);
    let deadline = Instant::now() + BOUND;
    while trial.budget(1)["receipts"].as_u64().unwrap() < charged_then + 2 {
        assert!(Instant::now() < deadline, "{}", trial.budget(1));
        thread::sleep(Duration::from_millis(20));
    }
    stop(client);
    let newest = trial.path("newest");
    fs::rename(&state, &newest).unwrap();
    copy(&older, &state);
    // Budget, secret, checkpoint: all of it is sound, and old.
    let output = trial.client(1, &[]).output();
    let what = "this client refuses the coordinator's plan: budget: the coordinator has received ";
    check_error(&output, what, "restore the newest copy of this client's state folder");
    assert_eq!(trial.budget(1)["attempts_charged"], charged_then, "nothing was charged on top of it");
    fs::remove_dir_all(&state).unwrap();
    fs::rename(&newest, &state).unwrap();
    let client = trial.client(1, &[]);
    let receipts = trial.budget(1)["receipts"].as_u64().unwrap();
    while trial.budget(1)["receipts"].as_u64().unwrap() == receipts {
        assert!(Instant::now() < deadline, "{}", trial.budget(1));
        thread::sleep(Duration::from_millis(20));
    }
    stop(client);
    coordinator.signal("TERM");
    assert!(coordinator.finish().success());
    trial.verify();
}

/// A small federation: folders of an authority, a coordinator and silos, made by the program itself, with a task whose
/// rounds take a moment.
pub(crate) struct Trial {
    folder: tempfile::TempDir,
    pub(crate) task: &'static str,
    pub(crate) n: usize,
}

impl Trial {
    /// One of `n` silos, of whom three are needed, for a task of so many rounds.
    pub(crate) fn new(n: usize, task: &'static str, rounds: u32) -> Self {
        let trial = Self { folder: tempfile::tempdir().unwrap(), task, n };
        trial.must(&["certs", "init", "--trust-domain", "budgets.test"]);
        trial.must(&["certs", "request", "--name", "main", "--coordinator", "--host", "127.0.0.1"]);
        let mut approve = "certs approve --yes main/request.pem".to_owned();
        for i in 1..=n {
            let name = format!("silo-{i}");
            trial.must(&["certs", "request", "--name", &name]);
            approve += &format!(" {name}/request.pem");
            let pixels: Vec<u8> = (0..N_RECORDS * SIDE * SIDE).map(|at| (at * 7 + i * 31) as u8).collect();
            let labels: Vec<u8> = (0..N_RECORDS).map(|at| (at % 10) as u8).collect();
            write_idx(&trial.path(&name).join("images"), &[N_RECORDS as u8, SIDE as u8, SIDE as u8], &pixels);
            write_idx(&trial.path(&name).join("labels"), &[N_RECORDS as u8], &labels);
        }
        trial.must(&approve.split(' ').collect::<Vec<_>>());
        let (listen, n, rounds) = (format!("127.0.0.1:{}", free_port()), n.to_string(), rounds.to_string());
        let epsilon = EPSILON_OF_ALL.to_string();
        let init = ["coordinator", "init", "--dir", "main", "--listen", &listen, "--task", task, "--clients", &n];
        let init =
            [&init[..], &["--rounds", &rounds, "--epsilon", &epsilon, "--records-per-client-max", "24"]].concat();
        trial.must(&init);
        // Two convolutions and two dense layers on 14 by 14 pixels: 1,910 parameters.
        let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("common/nn/tests/vectors/cnn.keras.json");
        fs::copy(model, trial.path("main/model.json")).unwrap();
        let task_file = trial.path("main/task.toml");
        for (key, line) in [
            ("builtin = ", "definition = \"model.json\""),
            ("sampling_probability = ", "sampling_probability = [1, 1]"),
            ("survivors_min = ", "survivors_min = 3"),
            ("ready_slot_ms = ", "ready_slot_ms = 20"),
            ("phase_wait_min_ms = ", "phase_wait_min_ms = 400"),
            ("phase_timeout_ms = ", "phase_timeout_ms = 2000"),
        ] {
            set(&task_file, key, line);
        }
        let data = trial.path("main/data.toml");
        set(&data, "shape = ", &format!("shape = [{SIDE}, {SIDE}, 1]"));
        for i in 1..=trial.n {
            let dir = format!("silo-{i}");
            let init = ["client", "init", "--dir", &dir, "--ledger-key", "main/ledger.pub", "--coordinator", &listen];
            let data = ["--records", "images", "--labels", "labels", "--records-max", "24", "--task", task];
            trial.must(&[&init[..], &data, &["--epsilon-max", "1000"]].concat());
            let policy = trial.path(&dir).join("policy.toml");
            set(&policy, "ready_slot_ms_min = ", "ready_slot_ms_min = 20");
            set(&policy, "charged_without_receipt_max = ", "charged_without_receipt_max = 100000");
        }
        trial
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Epsilon of so many attempts of the task.
    fn epsilon_of(&self, n_attempts: u32) -> f64 {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let opened = eranos_coordinator::setup::open(&self.path("main")).unwrap_or_else(|error| panic!("{error}"));
            opened.federation.mechanism().promised_epsilon(n_attempts, 1e-5)
        })
    }

    /// The command, where paths of the trial are relative.
    pub(crate) fn eranos(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_eranos"));
        command.args(arguments).current_dir(self.folder.path()).env_remove("RUST_LOG").stdin(Stdio::null());
        command
    }

    pub(crate) fn must(&self, arguments: &[&str]) -> String {
        let output = self.eranos(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Starts the coordinator, with such variables. Its folder is named whole, for whoever looks at its files.
    pub(crate) fn coordinator(&self, variables: &[(&str, String)]) -> Running {
        self.start("coordinator", &self.path("main"), variables)
    }

    pub(crate) fn client(&self, i: usize, variables: &[(&str, String)]) -> Running {
        self.start("client", &self.path(&format!("silo-{i}")), variables)
    }

    fn start(&self, noun: &str, dir: &Path, variables: &[(&str, String)]) -> Running {
        let mut command = self.eranos(&[noun, "run", "--dir"]);
        command.arg(dir).envs(variables.iter().map(|(name, value)| (name, value)));
        Running::spawn(command)
    }

    /// Starts the command, where paths of the trial are relative.
    pub(crate) fn run(&self, arguments: &[&str]) -> Running {
        Running::spawn(self.eranos(arguments))
    }

    pub(crate) fn status(&self) -> Value {
        serde_json::from_str(&self.must(&["coordinator", "status", "--dir", "main", "--json"])).unwrap()
    }

    pub(crate) fn budget(&self, i: usize) -> Value {
        let dir = format!("silo-{i}");
        serde_json::from_str(&self.must(&["client", "budget", "--dir", &dir, "--json"])).unwrap()
    }

    /// The ledger is sound, and so is what each client knows: released rounds in the ledger are at most what it charged
    /// itself, and that is at most what the coordinator debited to it. Nobody may be running.
    pub(crate) fn check_accounts(&self, context: &str) {
        self.verify();
        let status = self.status();
        for i in 1..=self.n {
            let path = self.path(&format!("silo-{i}/state/budget"));
            let Ok(bytes) = fs::read(&path) else { continue };
            let (budget, _) = Budget::parse(&bytes).unwrap_or_else(|error| panic!("{context}: silo-{i}: {error}"));
            let account = &status["clients"][format!("silo-{i}")];
            let count = |name: &str| account[name].as_u64().unwrap_or_default();
            let (released, received, debited) = (count("released"), count("received"), count("attempts"));
            assert!(
                budget.n_receipts() <= released
                    && released <= received
                    && received <= budget.n_charged()
                    && budget.n_charged() <= debited,
                "{context}, silo-{i}: {} receipts, {released} released, {received} received, {} charged, {debited} debited",
                budget.n_receipts(),
                budget.n_charged(),
            );
        }
    }

    pub(crate) fn verify(&self) {
        self.must(&["audit", "verify", "main/state/ledger", "--key", "main/ledger.pub"]);
    }
}

/// A process that is killed when the test is over, however it ends.
pub(crate) struct Running {
    pub(crate) child: Child,
    /// What it prints, line by line.
    stdout: mpsc::Receiver<String>,
    /// What it has printed on its error stream, which is read as it comes: a full pipe would stop the process.
    errors: Arc<Mutex<Vec<u8>>>,
    reader: Option<JoinHandle<()>>,
}

impl Running {
    fn spawn(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (sender, stdout) = mpsc::channel();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        thread::spawn(move || { lines }.try_for_each(|line| sender.send(line)));
        let (mut stream, errors) = (child.stderr.take().unwrap(), Arc::<Mutex<Vec<u8>>>::default());
        let kept = errors.clone();
        let reader = thread::spawn(move || {
            let mut piece = [0; 4096];
            while let Ok(len @ 1..) = stream.read(&mut piece) {
                kept.lock().unwrap().extend_from_slice(&piece[..len]);
            }
        });
        Self { child, stdout, errors, reader: Some(reader) }
    }

    /// Waits until it prints a line that begins so.
    ///
    /// # Errors
    /// If it ended before, or prints none for long.
    pub(crate) fn wait_for(&mut self, beginning: &str) -> Result<String, mpsc::RecvTimeoutError> {
        let deadline = Instant::now() + BOUND;
        loop {
            let line = self.stdout.recv_timeout(deadline.saturating_duration_since(Instant::now()))?;
            if line.starts_with(beginning) {
                return Ok(line);
            }
        }
    }

    /// The same; none if it ended before.
    #[track_caller]
    pub(crate) fn hears(&mut self, beginning: &str) -> Option<String> {
        match self.wait_for(beginning) {
            Ok(line) => Some(line),
            Err(mpsc::RecvTimeoutError::Disconnected) => None,
            Err(mpsc::RecvTimeoutError::Timeout) => panic!("it never printed {beginning:?}: {}", self.said()),
        }
    }

    #[track_caller]
    pub(crate) fn heard(&mut self, beginning: &str) -> String {
        self.hears(beginning).unwrap_or_else(|| panic!("it ended before it printed {beginning:?}: {}", self.said()))
    }

    /// Whether it has ended, and what it has printed on its error stream so far.
    pub(crate) fn said(&mut self) -> String {
        let ended = self.child.try_wait().unwrap();
        format!("{ended:?}\n{}", String::from_utf8_lossy(&self.errors.lock().unwrap()))
    }

    pub(crate) fn signal(&self, name: &str) {
        let status = Command::new("kill").args([format!("-{name}"), self.child.id().to_string()]).status().unwrap();
        assert!(status.success());
    }

    /// Waits for its end.
    pub(crate) fn finish(self) -> std::process::ExitStatus {
        self.output().status
    }

    /// Waits for its end and gives what it printed on its error stream.
    pub(crate) fn output(mut self) -> Output {
        let began = Instant::now();
        while self.child.try_wait().unwrap().is_none() {
            assert!(began.elapsed() < BOUND, "the process hangs: {}", self.said());
            thread::sleep(Duration::from_millis(5));
        }
        self.reader.take().unwrap().join().unwrap();
        let stderr = std::mem::take(&mut *self.errors.lock().unwrap());
        Output { status: self.child.wait().unwrap(), stdout: Vec::new(), stderr }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Exactly two lines at the end: what went wrong, and what to do.
#[track_caller]
pub(crate) fn check_error(output: &Output, what: &str, next: &str) {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{text}");
    let lines: Vec<&str> = text.lines().collect();
    let [first, second] = lines[..] else { panic!("two lines: {text}") };
    assert!(first.starts_with("error: ") && first.contains(what), "{what:?} in {text}");
    assert!(second.starts_with(" help: ") && second.contains(next), "{next:?} in {text}");
}

/// Replaces the one line that begins with `key`.
#[track_caller]
pub(crate) fn set(path: &Path, key: &str, line: &str) {
    let text = fs::read_to_string(path).unwrap();
    assert_eq!(text.lines().filter(|line| line.starts_with(key)).count(), 1, "{key} in {}", path.display());
    let lines: Vec<&str> = text.lines().map(|old| if old.starts_with(key) { line } else { old }).collect();
    fs::write(path, lines.join("\n") + "\n").unwrap();
}

pub(crate) fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &to.join(entry.file_name())),
            false => fs::copy(entry.path(), to.join(entry.file_name())).map(|_| ()).unwrap(),
        }
    }
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

fn free_port() -> u16 {
    std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// The side of an image.
const SIDE: usize = 14;
/// Records of each client.
const N_RECORDS: usize = 12;
/// Epsilon of all attempts of a task.
const EPSILON_OF_ALL: f64 = 20.0;
/// A process that takes longer hangs, on however slow a machine.
pub(crate) const BOUND: Duration = Duration::from_secs(120);
