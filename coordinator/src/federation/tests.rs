//! What a federation remembers from one round to the next.

use std::path::Path;

use eranos_base::SigningKey;
use eranos_secagg::{
    Advertised, Identity, Ready, SharedKeys, ShownRoster, ShownSharers, StatementKey, VerifiedCertifications,
    share_keys::parts_from_bytes,
};
use tokio::sync::oneshot;

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

/// What every client asks first.
fn check_in(federation: &Federation) -> CheckIn {
    CheckIn {
        task: federation.task.name.clone(),
        plan_version: eranos_wire::messages::select::PLAN_VERSION,
        ledger_key: federation.signer.signing_key().verifying_key(),
        ledger_size: 0,
        nonce: 1,
    }
}

/// Lets a client wait in `late`, as its check-in in the middle of a round does. Gives what it asked.
fn come_late(federation: &mut Federation, name: &str) -> (ClientId, Digest) {
    let id = ClientId::new(&federation.trust_domain, name).expect("a name");
    let key = SigningKey::from_seed(&[name.len() as u8; 32]).verifying_key();
    let peer = Peer { id: id.clone(), key, certificate: Digest::of(name.as_bytes()) };
    let check_in = check_in(federation);
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
    let Answer::ComeBackLater(ComeBackLater { when: ComeBack::Spent, reason, .. }) = answer else {
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

/// Sends `message` in the name of `peer`; `n` numbers its requests.
fn ask(federation: &mut Federation, peer: &Peer, n: u8, message: Message) {
    let is_check_in = matches!(message, Message::CheckIn(_));
    federation.exchanges.arrive(&peer.id, Digest::of(&[n]), is_check_in, Reply::to_nobody());
    federation.feed(Event::Message { from: peer.clone(), message }).expect("handled");
}

/// The answer to the request of this number; to the check-in, if it is 0.
fn heard(federation: &mut Federation, peer: &Peer, n: u8) -> Answer {
    let (arrival, _) = federation.exchanges.arrive(&peer.id, Digest::of(&[n]), n == 0, Reply::to_nobody());
    let Arrival::Answered(frame) = arrival else { panic!("{} still waits: {arrival:?}", peer.id) };
    Answer::decode(frame.kind, &frame.header).expect("an answer")
}

/// A round of four clients, all of whom have advertised their keys.
fn advertised(federation: &mut Federation) -> (Vec<Peer>, Vec<Advertised>) {
    federation.next_round().expect("a round");
    let (trust_domain, task) = (federation.trust_domain.clone(), federation.task.name.clone());
    let identity = |i: u8| {
        Arc::new(Identity {
            id: ClientId::new(&trust_domain, &format!("c{i}")).expect("a name"),
            certificate: Digest::of(&[i]),
            certificate_key: SigningKey::from_seed(&[i + 1; 32]),
            statement_key: StatementKey::derive(&[i; 32], &task),
            verified: VerifiedCertifications::default(),
        })
    };
    let mut identities: Vec<_> = (0..4).map(identity).collect();
    // As they stand in the roster.
    identities.sort_by_key(|identity| identity.statement_key.verifying_key());
    let peer = |identity: &Arc<Identity>| {
        let key = identity.certificate_key.verifying_key();
        Peer { id: identity.id.clone(), key, certificate: identity.certificate }
    };
    let peers: Vec<Peer> = identities.iter().map(peer).collect();
    for peer in &peers {
        let check_in = check_in(federation);
        ask(federation, peer, 0, Message::CheckIn(check_in));
    }
    let Answer::Configure(configure) = heard(federation, &peers[0], 0) else { panic!("a plan") };
    let ledger_key = federation.signer.signing_key().verifying_key();
    let terms = Arc::new(configure.plan.verify(&ledger_key).expect("signed").terms().expect("terms"));
    let advertise = |identity: &Arc<Identity>| Advertised::begin(terms.clone(), identity.clone(), &mut OsEntropy);
    let clients: Vec<_> = identities.iter().map(advertise).collect();
    for (i, client) in clients.iter().enumerate() {
        let (advert, possession) = (client.advert().to_bytes().to_vec(), identities[i].possession(&terms));
        ask(federation, &peers[i], 1, Message::Advertise { advert, possession });
    }
    (peers, clients)
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_ask_for_the_same_credentials_share_one_answers_bytes() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut federation = federation(dir.path());
    let (peers, clients) = advertised(&mut federation);
    // What they connected with.
    federation.certificates = (0..4).map(|i: u8| (Digest::of(&[i]), vec![i])).collect();
    let Answer::Roster(roster) = heard(&mut federation, &peers[0], 1) else { panic!("a roster") };
    let names = ShownRoster::from_bytes(&roster.roster).expect("a roster").names;
    let mut show = |peer: usize, names: &[ShortName]| {
        let credentials: Vec<_> = names.iter().map(|name| name.0).collect();
        let (id, request) = (&peers[peer].id, Digest::of(credentials.as_flattened()));
        let fetch = FetchCredentials { round: federation.round_ref, credentials };
        federation.exchanges.arrive(id, request, false, Reply::to_nobody());
        federation.show_credentials(id, &fetch);
        let (arrival, _) = federation.exchanges.arrive(id, request, false, Reply::to_nobody());
        let Arrival::Answered(frame) = arrival else { panic!("still waiting: {arrival:?}") };
        let answer = Answer::decode(frame.kind, &frame.header).expect("an answer");
        let Answer::Credentials(Credentials { credentials }) = answer else { panic!("{answer:?}") };
        (frame.header.as_ptr(), credentials.iter().map(Credential::digest).collect::<Vec<_>>())
    };
    let all: Vec<_> = clients.iter().map(|client| client.entry().credential().digest()).collect();
    let (first, shown) = show(0, &names);
    assert_eq!(shown, all);
    for other in 1..4 {
        assert_eq!(show(other, &names), (first, all.clone()), "client {other}");
    }
    // Whoever asks for something else gets that.
    let (alone, shown) = show(1, &names[2..3]);
    assert!(alone != first && shown == all[2..3]);
    assert_eq!(show(2, &[ShortName([7; 8])]).1, []);
    // A stranger to the roster is shown nobody, whatever was kept.
    let stranger =
        Peer { id: ClientId::new(&federation.trust_domain, "stranger").expect("a name"), ..peers[0].clone() };
    let fetch =
        FetchCredentials { round: federation.round_ref, credentials: names.iter().map(|name| name.0).collect() };
    federation.exchanges.arrive(&stranger.id, Digest::of(&[1]), false, Reply::to_nobody());
    federation.show_credentials(&stranger.id, &fetch);
    assert!(matches!(heard(&mut federation, &stranger, 1), Answer::Aborted(_)));
    // What lacks somebody is kept for nobody, and nobody gets in another round what was asked for in this.
    assert_eq!(federation.shown.len(), 2);
    federation.next_round().expect("a round");
    assert!(federation.shown.is_empty());
}

/// The same, each of whom has sent READY and holds a grant.
fn granted(federation: &mut Federation) -> Vec<(Peer, Ready)> {
    let (peers, clients) = advertised(federation);
    let Answer::Roster(roster) = heard(federation, &peers[0], 1) else { panic!("a roster") };
    let members: Vec<_> = clients.iter().map(|client| client.entry().member()).collect();
    let shown = ShownRoster::from_bytes(&roster.roster).expect("a roster");
    let share = |client: Advertised| client.share_keys(shown.clone(), members.clone(), &mut OsEntropy).expect("honest");
    let clients: Vec<_> = clients.into_iter().map(share).collect();
    for (peer, client) in peers.iter().zip(&clients) {
        ask(federation, peer, 2, Message::ShareKeys(client.bundle().to_bytes()));
    }
    let receive = |(peer, client): (Peer, SharedKeys)| {
        let Answer::Sharers(message) = heard(federation, &peer, 2) else { panic!("U2") };
        let sharers = ShownSharers::from_bytes(&message.sharers, 4).expect("U2");
        let parts = parts_from_bytes(&message.parts).expect("parts");
        let ready: Ready = client.receive(&sharers, &parts).expect("honest");
        ask(federation, &peer, 3, Message::Ready(ready.ready()));
        assert!(matches!(heard(federation, &peer, 3), Answer::Grant(_)));
        (peer, ready)
    };
    peers.into_iter().zip(clients).map(receive).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_whose_grant_is_gone_is_read_no_further() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut federation = federation(dir.path());
    let peers: Vec<Peer> = granted(&mut federation).into_iter().map(|(peer, _)| peer).collect();
    // Each reads a body that never ends; its receiver hears when it is dropped.
    let mut broken_off: Vec<oneshot::Receiver<()>> = Vec::new();
    for peer in &peers {
        let (alive, gone) = oneshot::channel();
        let task = tokio::spawn(async move {
            let _alive = alive;
            std::future::pending().await
        });
        federation.uploads.insert(peer.id.clone(), task);
        broken_off.push(gone);
    }
    let reads = |federation: &Federation| {
        peers.iter().map(|peer| federation.uploads.contains_key(&peer.id)).collect::<Vec<_>>()
    };

    // It says that it leaves, in the middle of its upload.
    ask(&mut federation, &peers[1], 4, Message::Abort("leaving".to_owned()));
    assert_eq!(reads(&federation), [true, false, true, true]);
    assert!(broken_off.remove(1).await.is_err(), "its task is gone, and what it had read");
    tokio::task::yield_now().await;
    assert!(broken_off.iter_mut().all(|gone| gone.try_recv() == Err(oneshot::error::TryRecvError::Empty)));

    // Everybody has left, and nobody's vector is wanted any more.
    ask(&mut federation, &peers[2], 4, Message::Abort("leaving".to_owned()));
    ask(&mut federation, &peers[0], 4, Message::Abort("leaving".to_owned()));
    ask(&mut federation, &peers[3], 4, Message::Abort("leaving".to_owned()));
    assert!(matches!(federation.round, Round::Over));
    assert_eq!(reads(&federation), [false; 4]);
    for gone in broken_off {
        assert!(gone.await.is_err());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_sent_again_is_read_no_further_once_the_first_is_there() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut federation = federation(dir.path());
    let peers: Vec<Peer> = granted(&mut federation).into_iter().map(|(peer, _)| peer).collect();
    // The first is read and waits its turn; the second, which took its place in the books, never ends.
    let place = federation.places.clone().acquire_owned().await.expect("open");
    let (round, finished, packed) = (federation.round_ref, Vec::new(), Some(Vec::new()));
    let first = Upload { from: peers[1].clone(), round, finished, packed, place };
    let (alive, gone) = oneshot::channel::<()>();
    let place = federation.places.clone().acquire_owned().await.expect("open");
    let second = tokio::spawn(async move {
        let _held = (alive, place);
        std::future::pending().await
    });
    federation.uploads.insert(peers[1].id.clone(), second);
    federation.uploaded(first).expect("handled");
    let gone = tokio::time::timeout(Duration::from_secs(60), gone).await;
    assert!(gone.is_ok_and(|alive| alive.is_err()), "it would hold its place for ever");
    assert_eq!(federation.places.available_permits(), UPLOAD_GRANTS_MAX);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vector_that_comes_twice_is_added_once_and_its_client_stays_in_the_round() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut federation = federation(dir.path());
    let (peer, ready) = granted(&mut federation).remove(0);
    let x = vec![0; federation.mechanism.common().d_pad as usize];
    let (_, upload) = ready.mask(&x).expect("honest");
    federation.exchanges.arrive(&peer.id, Digest::of(&[4]), false, Reply::to_nobody());
    for _ in 0..2 {
        let message = Message::MaskedInput { packed: upload.packed.clone(), finished: upload.finished.to_bytes() };
        federation.feed(Event::Message { from: peer.clone(), message }).expect("handled");
        let (arrival, _) = federation.exchanges.arrive(&peer.id, Digest::of(&[4]), false, Reply::to_nobody());
        assert_eq!(arrival, Arrival::Pending, "it waits for the survivors");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_revoked_waits_for_nothing_and_nobody_waits_for_it() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut federation = federation(dir.path());
    // While it waits for the next round, and after it was selected for one.
    let (gone, asked) = come_late(&mut federation, "gone");
    federation.directory.insert(gone.clone(), federation.late[&gone].0.clone());
    come_late(&mut federation, "honest");
    federation.revoked(&gone, "revoked").expect("handled");
    assert!(federation.late.keys().all(|id| id.name() == "honest"));
    let (selected, _) = come_late(&mut federation, "selected");
    federation.directory.insert(selected.clone(), federation.late[&selected].0.clone());
    federation.next_round().expect("a round");
    assert_eq!(cohort(&federation), ["honest", "selected"]);
    federation.revoked(&selected, "revoked").expect("handled");
    assert_eq!(cohort(&federation), ["honest"]);
    let (arrival, _) = federation.exchanges.arrive(&gone, asked, true, Reply::to_nobody());
    assert_eq!(arrival, Arrival::New, "what it waited for is broken off");

    // In the middle of a round, with its vector half read and whole.
    let dir = tempfile::tempdir().expect("a folder");
    let mut federation = self::federation(dir.path());
    let mut clients = granted(&mut federation);
    for (peer, _) in &clients {
        federation.directory.insert(peer.id.clone(), peer.clone());
    }
    let (gone, ready) = clients.remove(1);
    let (alive, broken_off) = oneshot::channel::<()>();
    let reading = tokio::spawn(async move {
        let _alive = alive;
        std::future::pending().await
    });
    federation.uploads.insert(gone.id.clone(), reading);
    federation.revoked(&gone.id, "revoked").expect("handled");
    assert!(broken_off.await.is_err(), "nothing more of it is read");
    assert_eq!(federation.current.dropped().get(&gone.id), Some(&"masked_input"), "it dropped out");
    let x = vec![0; federation.mechanism.common().d_pad as usize];
    let (_, upload) = ready.mask(&x).expect("honest");
    let place = federation.places.clone().acquire_owned().await.expect("open");
    let (round, finished, packed) = (federation.round_ref, upload.finished.to_bytes(), Some(upload.packed.clone()));
    federation.uploaded(Upload { from: gone, round, finished, packed, place }).expect("handled");
    for (peer, ready) in clients {
        assert!(matches!(federation.round, Round::MaskedInput(_)), "the others are waited for");
        let (_, upload) = ready.mask(&x).expect("honest");
        let message = Message::MaskedInput { packed: upload.packed.clone(), finished: upload.finished.to_bytes() };
        ask(&mut federation, &peer, 4, message);
    }
    let Round::Consistency(_) = &federation.round else { panic!("it is waited for, though it cannot come") };
}
