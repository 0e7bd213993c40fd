//! What a federation remembers from one round to the next.

use eranos_base::SigningKey;

use super::*;

/// A task small enough to be opened in a moment.
const TASK: &str = r#"
version = 1
name = "tiny"
data = "data.toml"
[model]
builtin = "cnn"
[training]
l2_clip_norm = 1.0
server_optimizer = { name = "sgd", learning_rate = 1.0 }
[privacy]
unit = "record"
noise = "distributed"
epsilon = 8.0
delta = 1e-5
sampling_probability = [1, 1]
expected_lot = 40
records_per_client_max = 40
[cohort]
clients_max = 4
survivors_min = 3
max_colluders = 1
[schedule]
rounds = 2
attempts_max = 4
ready_slot_ms = 100
phase_wait_min_ms = 1000
phase_timeout_ms = 10000
"#;

fn federation(dir: &Path) -> Federation {
    federation_of(dir, TASK)
}

fn federation_of(dir: &Path, task: &str) -> Federation {
    let path = dir.join("task.toml");
    let data = "version = 1\n[records]\nformat = \"images\"\nshape = [28, 28, 1]\nclasses = 10\n";
    std::fs::write(dir.join("data.toml"), data).expect("a data file");
    let task = Task::parse(task, &path).expect("a task");
    let signer = LedgerSigner::new("example.org/ledger".parse().expect("name"), SigningKey::from_seed(&[1; 32]));
    let (reports, _) = mpsc::channel(1);
    let opened = Federation::open(dir, &path, task, "example.org".parse().expect("name"), Arc::new(signer), reports);
    opened.unwrap_or_else(|error| panic!("{error}"))
}

/// Lets a client wait in `late`, as its check-in in the middle of a round does. Gives what it asked.
fn come_late(federation: &mut Federation, name: &str) -> (ClientId, Digest) {
    let id = ClientId::new(&federation.trust_domain, name).expect("a name");
    let key = SigningKey::from_seed(&[name.len() as u8; 32]).verifying_key();
    let peer = Peer { id: id.clone(), key, certificate: Digest::of(name.as_bytes()) };
    let check_in = CheckIn { task: federation.task.name.clone(), plan_version: 1, nonce: 1 };
    let request = Digest::of(name.as_bytes());
    federation.exchanges.arrive(&id, request, true, Reply::to_nobody());
    federation.late.insert(id.clone(), (peer, check_in));
    (id, request)
}

fn cohort(federation: &Federation) -> Vec<&str> {
    let Round::Select(select) = &federation.round else { panic!("in select") };
    select.cohort().map(ClientId::name).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_excluded_while_it_waits_for_the_next_round_is_turned_away() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut federation = federation(dir.path());
    let (guilty, asked) = come_late(&mut federation, "guilty");
    come_late(&mut federation, "honest");
    federation.note(Note::Blamed { id: guilty.clone(), what: "two bundles".to_owned() });
    federation.next_round().expect("a round");
    assert_eq!(cohort(&federation), ["honest"]);
    // It hears so, at once and for good.
    let (arrival, _) = federation.exchanges.arrive(&guilty, asked, true, Reply::to_nobody());
    let Arrival::Answered(frame) = arrival else { panic!("still waiting: {arrival:?}") };
    let answer = Answer::decode(frame.kind, &frame.header).expect("an answer");
    assert!(matches!(answer, Answer::ComeBackLater(ComeBackLater { when: ComeBack::Never, .. })), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_has_spent_what_the_task_allows_one_client_is_not_selected_any_more() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut federation = federation_of(dir.path(), &TASK.replace("1e-5", "1e-5\nclient_epsilon_max = 5.0"));
    let most = federation.attempts_per_client_max;
    let epsilon = |n_attempts| federation.mechanism.promised_epsilon(n_attempts, 1e-5);
    assert!(most < 4 && epsilon(most) <= 5.0 && epsilon(most + 1) > 5.0, "{most}, by the accountant");
    let (spent, asked) = come_late(&mut federation, "spent");
    let (other, _) = come_late(&mut federation, "almost");
    federation.debited.extend([(spent.clone(), u64::from(most)), (other, u64::from(most) - 1)]);
    federation.next_round().expect("a round");
    assert_eq!(cohort(&federation), ["almost"]);
    let (arrival, _) = federation.exchanges.arrive(&spent, asked, true, Reply::to_nobody());
    let Arrival::Answered(frame) = arrival else { panic!("still waiting: {arrival:?}") };
    let answer = Answer::decode(frame.kind, &frame.header).expect("an answer");
    let Answer::ComeBackLater(ComeBackLater { when: ComeBack::Never, reason, .. }) = answer else {
        panic!("{answer:?}")
    };
    assert!(reason.to_string().contains("is spent"), "{reason}");
    drop(federation);
    // Nobody could ever be selected: that is said when the task is opened.
    let path = dir.path().join("task.toml");
    let task = TASK.replace("1e-5", "1e-5\nclient_epsilon_max = 0.01");
    let task = Task::parse(&task, &path).expect("a task");
    let signer = LedgerSigner::new("example.org/ledger".parse().expect("name"), SigningKey::from_seed(&[1; 32]));
    let (reports, _) = mpsc::channel(1);
    let opened =
        Federation::open(dir.path(), &path, task, "example.org".parse().expect("name"), Arc::new(signer), reports);
    let error = opened.err().expect("refused").to_string();
    assert!(error.contains("allows no attempt: one costs epsilon "), "{error}");
}
