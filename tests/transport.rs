//! The real transport: QUIC with mutual TLS over loopback, both ends as they run. What this can find is how they behave
//! towards each other, towards strangers, and towards broken or greedy peers; rounds are not its business. Nothing here
//! asserts how fast anything is: waits are bounded only so that a hang fails.

use std::{
    collections::BTreeMap,
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use eranos_base::{
    Clock, OsEntropy, SigningKey, SystemClock, Timestamp,
    encoding::encode_header,
    limits::{BODY_LEN_MAX, CHUNK_LEN, HEADER_LEN_MAX},
};
use eranos_certs::{Approval, Authority, Party, Role, cli::issue_beside, party};
use eranos_client::{
    connection::{AnswerFrame, Connection, ConnectionError, Connector},
    session::Session,
};
use eranos_coordinator::server::{BodyError, Incoming, Reply, Server, ServerOptions};
use eranos_ledger::LedgerSigner;
use eranos_wire::{
    framing::{CloseCode, Dial, Hello, Kind, Limits, StreamCode, Welcome, encode_opening},
    tls::{self, ALPN, ClientTls, Credentials, ServerIdentity, SharedTrust, TrustMaterial},
};
use quinn::{
    Endpoint, ReadError, ReadToEndError, SendStream,
    crypto::rustls::{QuicClientConfig, QuicServerConfig},
    rustls,
};
use tokio::{
    net::UdpSocket,
    task::JoinHandle,
    time::{sleep, timeout},
};

/// Answers of any kind, with bodies of at most so many bytes.
fn bodies(len_max: u64) -> impl Fn(Kind) -> Option<Limits> {
    move |_| Some(Limits::new(HEADER_LEN_MAX, len_max))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_approved_client_is_admitted_and_exchanges() {
    let mut domain = Domain::new();
    let echo = Echo::start(domain.coordinator());
    let client = domain.client("silo-1");
    let connection = admitted(&tls(&client), echo.address).await;
    assert_works(&connection).await;
    let body = Bytes::from_static(b"a masked vector");
    let answer = within("an upload", connection.exchange(UPLOAD, b"head", body.clone(), bodies(100))).await;
    assert_eq!(answer, Ok(AnswerFrame { kind: UPLOAD, header: b"head".to_vec(), body }));
    assert_eq!(*echo.seen(), [Seen::Came("silo-1".to_owned())]);
    connection.close().await;
    echo.until("a goodbye", |seen| seen.last() == Some(&Seen::Went("silo-1".to_owned()))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_has_no_certificate_for_a_client_is_turned_away_and_knows_why() {
    let mut domain = Domain::new();
    let mut stranger = Domain::new();
    let expired = domain.enrol("late", Role::Client, &[], ago(3 * DAY));
    let early = domain.enrol("early", Role::Client, &[], SystemClock.now() + DAY);
    let revoked = domain.client("gone");
    domain.authority.revoke("gone", SystemClock.now()).expect("revoked");
    let coordinator = domain.coordinator();
    let foreign = stranger.client("silo-1");
    let echo = Echo::start(coordinator.clone());
    let ours = || trust_of(&coordinator);
    let clock = || Arc::new(SystemClock);
    let with = |folder: &Path| ClientTls::new(credentials(folder), ours(), clock());
    for (who, tls, expected) in [
        ("anonymous", ClientTls::anonymous(ours(), clock()), "there is none"),
        ("expired", with(&expired), "it has expired, is not yet valid, or one of the clocks is wrong"),
        ("not yet valid", with(&early), "it has expired, is not yet valid, or one of the clocks is wrong"),
        ("revoked", with(&revoked), "it was revoked"),
        ("foreign", with(&foreign), "it is from another authority"),
        ("coordinator", with(&coordinator), "it is not one that the coordinator can use"),
    ] {
        let error = refused(&tls, echo.address).await;
        assert_eq!(error, ConnectionError::CertificateRefused { reason: expected.to_owned() }, "{who}");
        assert!(error.is_final(), "{who}");
    }
    let connection = admitted(&tls(&domain.client("silo-1")), echo.address).await;
    assert_works(&connection).await;
    assert_eq!(*echo.seen(), [Seen::Came("silo-1".to_owned())], "nobody else was let in");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_believes_only_its_authoritys_coordinator_for_the_host_it_dials() {
    let mut domain = Domain::new();
    let mut stranger = Domain::new();
    let client = domain.client("silo-1");
    let (foreign, impostor) = (stranger.coordinator(), domain.client("impostor"));
    let expired = domain.enrol("expired", Role::Coordinator, &["127.0.0.1"], ago(3 * DAY));
    let elsewhere = domain.enrol("elsewhere", Role::Coordinator, &["elsewhere.test"], ago(HOUR));
    for (folder, expected) in [
        (foreign, "it is from another certificate authority"),
        (expired, "it has expired, or this clock is wrong"),
        (elsewhere, "it is for another host"),
        (impostor, "it is not a coordinator's"),
    ] {
        let echo = Echo::start(folder);
        let error = refused(&tls(&client), echo.address).await;
        assert_eq!(error, ConnectionError::WrongCoordinator { reason: expected.into() });
        assert!(error.is_final());
        assert!(echo.seen().is_empty(), "{expected}");
        assert_eq!(error.user_error().to_string().lines().count(), 2);
    }
    // A revoked coordinator, as soon as the client has the list.
    let coordinator = domain.coordinator();
    let echo = Echo::start(coordinator);
    assert_works(&admitted(&tls(&client), echo.address).await).await;
    domain.authority.revoke("main", SystemClock.now()).expect("revoked");
    domain.publish_revocations(&client);
    let expected = ConnectionError::WrongCoordinator { reason: "it was revoked".into() };
    assert_eq!(refused(&tls(&client), echo.address).await, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn clocks_too_far_apart_are_named() {
    let mut domain = Domain::new();
    let echo = Echo::start(domain.coordinator());
    let client = domain.client("silo-1");
    let at = |shift: i64| ClientTls::new(credentials(&client), trust_of(&client), Arc::new(Shifted(shift)));
    for shift in [600_000, -600_000] {
        let error = refused(&at(shift), echo.address).await;
        let ConnectionError::ClockSkew { seconds } = error else { panic!("{error:?}") };
        assert!((570..=630).contains(&seconds), "{seconds}");
        assert!(error.is_final());
        let message = error.user_error().to_string();
        assert!(message.contains(&format!("differ by {seconds} s")) && message.contains("set this clock"), "{message}");
    }
    for shift in [200_000, -200_000] {
        assert_works(&admitted(&at(shift), echo.address).await).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_connection_of_one_identity_replaces_the_first() {
    let mut domain = Domain::new();
    let echo = Echo::start(domain.coordinator());
    let tls = tls(&domain.client("silo-1"));
    let first = admitted(&tls, echo.address).await;
    let second = admitted(&tls, echo.address).await;
    let error = ask(&first, NEVER).await;
    assert_eq!(error, Err(ConnectionError::Replaced));
    assert!(ConnectionError::Replaced.is_final());
    assert_works(&second).await;
    let came = || Seen::Came("silo-1".to_owned());
    assert_eq!(*echo.seen(), [came(), came()], "the client never went");
    second.close().await;
    echo.until("the second to go", |seen| seen.contains(&Seen::Went("silo-1".to_owned()))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn revocation_cuts_a_live_connection_and_the_client_cannot_come_back() {
    let mut domain = Domain::new();
    let coordinator = domain.coordinator();
    let echo = Echo::start(coordinator.clone());
    let (gone, stays) = (tls(&domain.client("gone")), tls(&domain.client("stays")));
    let connection = admitted(&gone, echo.address).await;
    let other = admitted(&stays, echo.address).await;
    assert_works(&connection).await;
    let waiting = tokio::spawn(async move { ask(&connection, NEVER).await });
    domain.authority.revoke("gone", SystemClock.now()).expect("revoked");
    domain.publish_revocations(&coordinator);
    let revoked = ConnectionError::CertificateRefused { reason: "it was revoked".to_owned() };
    assert_eq!(within("the cut", waiting).await.expect("no panic"), Err(revoked.clone()));
    // The same connector, so that whatever a session could be resumed from is at hand.
    assert_eq!(refused(&gone, echo.address).await, revoked);
    assert_works(&other).await;
    echo.until("the loss to be noticed", |seen| seen.contains(&Seen::Cut("gone".to_owned()))).await;

    // A list that vanishes forgives nobody: the one read last stays in force.
    fs::remove_file(coordinator.join(party::REVOCATION_LIST_FILE)).expect("there was one");
    sleep(REVOCATIONS_SEEN).await;
    assert_eq!(refused(&gone, echo.address).await, revoked);
    assert_works(&other).await;
    // Nor does one that is damaged.
    fs::write(coordinator.join(party::REVOCATION_LIST_FILE), b"-----BEGIN X509 CRL-----\n").expect("written");
    sleep(REVOCATIONS_SEEN).await;
    assert_eq!(refused(&gone, echo.address).await, revoked);
    assert_works(&admitted(&stays, echo.address).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_revoked_between_handshake_and_hello_is_not_admitted() {
    let mut domain = Domain::new();
    let coordinator = domain.coordinator();
    let echo = Echo::start(coordinator.clone());
    let witness = admitted(&tls(&domain.client("witness")), echo.address).await;
    let (_endpoint, slow) = raw(&tls(&domain.client("slow")), echo.address).await;
    // The coordinator has looked at the certificate by then; if not, this tests less, and still passes.
    sleep(Duration::from_millis(500)).await;
    for name in ["witness", "slow"] {
        domain.authority.revoke(name, SystemClock.now()).expect("revoked");
    }
    domain.publish_revocations(&coordinator);
    // Whoever is cut shows that the list was read.
    let cut = ask(&witness, NEVER).await;
    assert!(matches!(cut, Err(ConnectionError::CertificateRefused { .. })), "{cut:?}");
    let (mut send, mut receive) = slow.open_bi().await.expect("a stream");
    // It may be closed already.
    let _ = send.write_all(&hello(FIRST_DIAL)).await;
    let _ = send.finish();
    let answer = within("an end", receive.read_to_end(1000)).await;
    assert!(answer.is_err(), "admitted after its revocation");
    assert_eq!(close_code(&slow).await, Some(CloseCode::Revoked));
    assert!(!echo.seen().contains(&Seen::Came("slow".to_owned())));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_is_kept_to_be_resumed_does_not_bring_a_revoked_client_back() {
    let mut domain = Domain::new();
    let coordinator = domain.coordinator();
    let echo = Echo::start(coordinator.clone());
    // A client of its own making, which resumes and sends early data wherever it can, with one store for all attempts.
    let (mut config, _) = tls(&domain.client("gone")).attempt().expect("usable");
    config.resumption = rustls::client::Resumption::in_memory_sessions(16);
    config.enable_early_data = true;
    let config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(config).expect("TLS 1.3")));
    let endpoint = Endpoint::client((Ipv4Addr::LOCALHOST, 0).into()).expect("a socket");
    let dial = || endpoint.connect_with(config.clone(), echo.address, "127.0.0.1").expect("a configuration");
    let mut held = Vec::new();
    for _ in 0..2 {
        let connection = within("a handshake", dial()).await.expect("a handshake");
        assert_eq!(send_raw(&connection, &hello(FIRST_DIAL)).await.map(|_| ()), Ok(()), "admitted");
        // Whatever ticket there is comes with the handshake's end.
        assert!(send_raw(&connection, &encode_opening(ASK, b"", 0).expect("short")).await.is_ok());
        held.push(connection);
    }
    domain.authority.revoke("gone", SystemClock.now()).expect("revoked");
    domain.publish_revocations(&coordinator);
    echo.until("the cut", |seen| seen.contains(&Seen::Cut("gone".to_owned()))).await;
    let dialling = match dial().into_0rtt() {
        Ok(_) => panic!("there is something to resume"),
        Err(dialling) => dialling,
    };
    let ended = match within("a handshake", dialling).await {
        Ok(connection) => within("the end", connection.closed()).await,
        Err(error) => error,
    };
    // RFC 9001, section 4.8: TLS's alert 44, certificate_revoked.
    let alert = |code: quinn::TransportErrorCode| u64::from(code) == 0x100 + 44;
    assert!(matches!(&ended, quinn::ConnectionError::ConnectionClosed(close) if alert(close.error_code)), "{ended:?}");
    let n_came = echo.seen().iter().filter(|seen| **seen == Seen::Came("gone".to_owned())).count();
    assert_eq!(n_came, 2, "admitted after its revocation");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_is_past_its_date_lets_nobody_in_until_there_is_another() {
    let mut domain = Domain::new();
    let folder = domain.coordinator();
    let client = tls(&domain.client("silo-1"));
    // Believed for a day, of which some seconds are left.
    domain.authority.renew_list(Some(1), ago(DAY - Duration::from_secs(6))).expect("written");
    domain.publish_revocations(&folder);
    let mut server = serve(&folder);
    let (_endpoint, connection) = raw_admitted(&client, server.local_address()).await;
    assert!(!server.figures().is_stale());
    assert_eq!(close_code(&connection).await, Some(CloseCode::Shutdown), "it is not the client's to mend");
    assert!(server.figures().is_stale());
    let error = refused(&client, server.local_address()).await;
    assert!(matches!(error, ConnectionError::Unreachable { .. }) && !error.is_final(), "{error:?}");
    domain.authority.renew_list(Some(30), SystemClock.now()).expect("written");
    domain.publish_revocations(&folder);
    within("a newer list", async {
        while server.figures().is_stale() {
            sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    let (_endpoint, _connection) = raw_admitted(&client, server.local_address()).await;
    let mut cut = Vec::new();
    while let Ok(Some(incoming)) = timeout(Duration::from_millis(100), server.next()).await {
        if let Incoming::Revoked { why, .. } = incoming {
            cut.push(why);
        }
    }
    assert_eq!(cut, [eranos_certs::TrustError::ListExpired]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewed_certificate_of_the_coordinator_is_shown_without_a_restart() {
    let mut domain = Domain::new();
    let folder = domain.coordinator();
    let echo = Echo::start(folder.clone());
    let client = tls(&domain.client("silo-1"));
    let shown = || async {
        let (_endpoint, connection) = raw(&client, echo.address).await;
        tls::peer_certificate(connection.peer_identity()).expect("a certificate")
    };
    let before = shown().await;
    let bystander = admitted(&tls(&domain.client("silo-2")), echo.address).await;
    let requested = party::renew(&folder, false, &mut OsEntropy).expect("requested");
    let request = domain.authority.review(&fs::read(&requested.request).expect("written")).expect("in order");
    issue_beside(&mut domain.authority, &requested.request, &request, Approval::default(), SystemClock.now())
        .expect("approved");
    within("the new certificate", async {
        while shown().await == before {
            sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    assert_eq!(shown().await, Party::load(&folder).expect("complete").certificate);
    assert_works(&bystander).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frame_that_is_none_fails_alone() {
    let mut domain = Domain::new();
    let echo = Echo::start(domain.coordinator());
    let bystander = admitted(&tls(&domain.client("bystander")), echo.address).await;
    let (_endpoint, connection) = raw_admitted(&tls(&domain.client("silo-1")), echo.address).await;
    let frame = |kind: Kind, header_len: u32, body_len: u64, rest: &[u8]| {
        let mut bytes = encode_opening(kind, b"", 0).expect("within limits");
        bytes[6..10].copy_from_slice(&header_len.to_le_bytes());
        bytes[10..18].copy_from_slice(&body_len.to_le_bytes());
        bytes.extend_from_slice(rest);
        bytes
    };
    let whole = frame(ASK, 4, 0, b"head");
    let altered = |at: usize, value: u8| {
        let mut bytes = whole.clone();
        bytes[at] = value;
        bytes
    };
    let bad: BTreeMap<&str, Vec<u8>> = BTreeMap::from([
        ("an oversized header", frame(ASK, HEADER_LEN_MAX as u32 + 1, 0, &[0; 1000])),
        ("the longest header there is", frame(ASK, u32::MAX, 0, b"")),
        ("an unknown kind", frame(Kind(0x7f), 4, 0, b"head")),
        ("an answer's kind", frame(Kind(0x90), 4, 0, b"head")),
        ("a second hello", hello(FIRST_DIAL)),
        ("another magic", altered(0, b'X')),
        ("another version", altered(4, 9)),
        ("nothing", Vec::new()),
        ("half a head", whole[..9].to_vec()),
        ("half a header", whole[..20].to_vec()),
        ("a body where none is allowed", frame(ASK, 4, 4, b"headbody")),
        ("a body over every limit", frame(UPLOAD, 4, BODY_LEN_MAX + 1, b"head")),
        ("the longest body there is", frame(UPLOAD, 4, u64::MAX, b"head")),
        ("bytes after the frame", frame(ASK, 4, 0, b"headbody")),
    ]);
    for (what, bytes) in &bad {
        assert_eq!(send_raw(&connection, bytes).await, Err(StreamCode::BadFrame), "{what}");
        assert_eq!(send_raw(&connection, &whole).await.as_deref(), Ok(&whole[..]), "the connection lives on: {what}");
        assert_works(&bystander).await;
    }
    // A body is read only when it is asked for: then its end is missed, or its excess found.
    for (what, bytes) in
        [("half a body", frame(UPLOAD, 0, 9, b"body")), ("bytes after the body", frame(UPLOAD, 0, 2, b"body"))]
    {
        assert_eq!(send_raw(&connection, &bytes).await, Err(StreamCode::NoAnswer), "{what}");
        assert_eq!(send_raw(&connection, &whole).await.as_deref(), Ok(&whole[..]), "the connection lives on: {what}");
    }
    assert_works(&bystander).await;
    assert_eq!(echo.seen().len(), 2, "nobody was cut off");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_cut_at_any_chunk_is_no_upload() {
    let mut domain = Domain::new();
    let echo = Echo::start(domain.coordinator());
    let (_endpoint, connection) = raw_admitted(&tls(&domain.client("silo-1")), echo.address).await;
    let body = pattern(4 * CHUNK_LEN);
    let opening = encode_opening(UPLOAD, b"", body.len() as u64).expect("within limits");
    for sent in (0..4).flat_map(|chunk| [0, 1, CHUNK_LEN - 1].map(|more| chunk * CHUNK_LEN + more)) {
        let part = [&opening[..], &body[..sent]].concat();
        assert_eq!(send_raw(&connection, &part).await, Err(StreamCode::NoAnswer), "finished after {sent} bytes");
        // The same, broken off instead of finished.
        let (mut send, mut receive) = within("a stream", connection.open_bi()).await.expect("a stream");
        send.write_all(&part).await.expect("within the window");
        send.reset(0_u32.into()).expect("once");
        let answer = within("an end", receive.read_to_end(1 << 20)).await;
        assert!(
            matches!(answer, Err(ReadToEndError::Read(ReadError::Reset(_)))),
            "reset after {sent} bytes: {answer:?}"
        );
    }
    let whole = [&opening[..], &body].concat();
    assert!(send_raw(&connection, &whole).await.is_ok_and(|answer| answer == whole), "the whole one is taken");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_listens_on_the_way_reads_nothing() {
    let mut domain = Domain::new();
    let echo = Echo::start(domain.coordinator());
    let relay = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a socket");
    let (address, coordinator) = (relay.local_addr().expect("bound"), echo.address);
    let overheard: Arc<Mutex<Vec<Vec<u8>>>> = Arc::default();
    let heard = overheard.clone();
    let relaying = tokio::spawn(async move {
        let (mut buffer, mut client) = ([0; 1 << 16], None);
        while let Ok((len, from)) = relay.recv_from(&mut buffer).await {
            lock(&heard).push(buffer[..len].to_vec());
            let to = if from == coordinator { client } else { Some(coordinator) };
            client = if from == coordinator { client } else { Some(from) };
            if let Some(to) = to {
                relay.send_to(&buffer[..len], to).await.expect("sent");
            }
        }
    });
    let connection = admitted(&tls(&domain.client("silo-1")), address).await;
    let said = b"a masked vector, not to be read on the way;";
    let body = Bytes::from(said.repeat(200));
    let answer = within("an upload", connection.exchange(UPLOAD, said, body.clone(), bodies(body.len() as u64))).await;
    assert_eq!(answer, Ok(AnswerFrame { kind: UPLOAD, header: said.to_vec(), body: body.clone() }));
    let overheard = lock(&overheard).clone();
    let n_bytes: usize = overheard.iter().map(Vec::len).sum();
    assert!(n_bytes > 2 * body.len(), "it all went over the relay: {n_bytes} bytes");
    // Neither what is said nor who says it: certificates are encrypted too.
    for words in [&said[..16], b"silo-1", b"transport.test"] {
        let read = overheard.iter().any(|packet| packet.windows(words.len()).any(|window| window == words));
        assert!(!read, "{:?} in the clear", String::from_utf8_lossy(words));
    }
    relaying.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_whose_address_changes_keeps_its_connection_and_its_exchange() {
    let mut domain = Domain::new();
    let echo = Echo::start(domain.coordinator());
    // A router that gives the client another port whenever it is told to, and forgets the one before.
    let router = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a socket");
    let (address, coordinator) = (router.local_addr().expect("bound"), echo.address);
    let (change, mut changed) = tokio::sync::mpsc::channel::<()>(1);
    let routing = tokio::spawn(async move {
        let (mut out, mut back, mut client) = ([0; 1 << 16], [0; 1 << 16], None);
        let mut seen_as = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a socket");
        loop {
            tokio::select! {
                Ok((len, from)) = router.recv_from(&mut out) => {
                    client = Some(from);
                    seen_as.send_to(&out[..len], coordinator).await.expect("sent");
                }
                Ok((len, _)) = seen_as.recv_from(&mut back) => {
                    router.send_to(&back[..len], client.expect("it spoke first")).await.expect("sent");
                }
                Some(()) = changed.recv() => {
                    seen_as = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a socket");
                }
            }
        }
    });
    let connection = Arc::new(admitted(&tls(&domain.client("silo-1")), address).await);
    for _ in 0..3 {
        let late = tokio::spawn({
            let connection = connection.clone();
            async move { ask(&connection, LATE).await }
        });
        let before = echo.seen().len();
        echo.until("the request", |seen| seen.len() > before).await;
        change.send(()).await.expect("it routes");
        // What the client says next is what the coordinator learns the new address by: a sign of life would do, too.
        assert_works(&connection).await;
        let late = within("an answer to the new address", late).await.expect("no panic");
        assert_eq!(late.map(|answer| answer.header), Ok(LATE.to_vec()));
    }
    let came = echo.seen().iter().filter(|seen| !matches!(seen, Seen::Asked(_))).count();
    assert_eq!(came, 1, "one connection all the time: {:?}", echo.seen());
    routing.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_does_not_begin_with_hello_is_not_admitted() {
    let mut domain = Domain::new();
    let echo = Echo::start(domain.coordinator());
    let tls = tls(&domain.client("silo-1"));
    for bytes in [encode_opening(ASK, b"", 0).expect("within limits"), b"GET / HTTP/1.1\r\n\r\n".to_vec()] {
        let (_endpoint, connection) = raw(&tls, echo.address).await;
        let (mut send, _receive) = connection.open_bi().await.expect("a stream");
        // It may be closed already.
        let _ = send.write_all(&bytes).await;
        let _ = send.finish();
        assert_eq!(close_code(&connection).await, Some(CloseCode::NoHello));
    }
    assert!(echo.seen().is_empty());
    assert_works(&admitted(&tls, echo.address).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_answer_arrives_and_others_overtake_it() {
    let mut domain = Domain::new();
    let echo = Echo::start(domain.coordinator());
    let connection = Arc::new(admitted(&tls(&domain.client("silo-1")), echo.address).await);
    let late = tokio::spawn({
        let connection = connection.clone();
        async move { ask(&connection, LATE).await }
    });
    assert_works(&connection).await;
    let late = late.await.expect("no panic");
    assert_eq!(late.map(|answer| answer.header), Ok(LATE.to_vec()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_of_megabytes_is_delivered_whole_both_ways() {
    let mut domain = Domain::new();
    let echo = Echo::start(domain.coordinator());
    let connection = admitted(&tls(&domain.client("silo-1")), echo.address).await;
    let body = pattern(8 << 20);
    let answer = within("an upload", connection.exchange(UPLOAD, b"", body.clone(), bodies(8 << 20))).await;
    assert!(answer.expect("answered").body == body, "the body came back altered");
    // An answer longer than the client asked for is refused from its head, and costs no more than its exchange.
    let answer = within("an upload", connection.exchange(UPLOAD, b"", body.slice(..1000), bodies(999))).await;
    assert!(matches!(answer, Err(ConnectionError::Lost { .. })), "{answer:?}");
    assert_works(&connection).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_is_held_back_while_nobody_reads_its_body() {
    let mut domain = Domain::new();
    let mut server = serve(&domain.coordinator());
    let (_endpoint, connection) = raw_admitted(&tls(&domain.client("silo-1")), server.local_address()).await;
    let body = pattern(8 << 20);
    let (mut send, mut receive) = connection.open_bi().await.expect("a stream");
    let opening = encode_opening(UPLOAD, b"", body.len() as u64).expect("within limits");
    send.write_all(&opening).await.expect("room for a header");
    let sent = write_until_held_back(&mut send, &body).await;
    // One window of a stream, and what of it was read with the header.
    assert!(sent < 2 << 20, "{sent} bytes were taken that nobody had asked for");
    let (unread, reply) = within("the request", next_request(&mut server)).await;
    assert_eq!(unread.len(), body.len() as u64);
    let rest = body.slice(sent..);
    let writing = tokio::spawn(async move {
        send.write_chunk(rest).await?;
        send.finish().ok();
        Ok::<_, quinn::WriteError>(send)
    });
    let read = within("the body", unread.read_all(body.len())).await.expect("whole");
    assert!(read == body, "the body arrived altered");
    let _send = within("the writer", writing).await.expect("no panic").expect("taken");
    reply.send(ASK, Bytes::new(), Bytes::new());
    assert!(within("the answer", receive.read_to_end(100)).await.is_ok());

    // A body of another length than the coordinator expects is not read at all.
    let (mut send, _receive) = connection.open_bi().await.expect("a stream");
    send.write_all(&opening).await.expect("room for a header");
    let (unread, _reply) = within("the request", next_request(&mut server)).await;
    let error = unread.read_all(body.len() - 1).await;
    let (found, expected) = (body.len() as u64, body.len() as u64 - 1);
    assert!(matches!(error, Err(BodyError::Length { found: f, expected: e }) if (f, e) == (found, expected)));
    let stopped = within("the refusal", send.stopped()).await;
    assert_eq!(stopped, Ok(Some(StreamCode::BodyUnwanted.number().into())));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_with_half_open_streams_holds_up_only_itself() {
    let mut domain = Domain::new();
    let echo = Echo::start(domain.coordinator());
    let (_endpoint, connection) = raw_admitted(&tls(&domain.client("greedy")), echo.address).await;
    let mut held = Vec::new();
    // A stream that carries nothing is not seen by the other side, so each gets a byte.
    while let Ok(opened) = timeout(Duration::from_secs(1), connection.open_bi()).await {
        let (mut send, receive) = opened.expect("a stream");
        send.write_all(b"E").await.expect("room for a byte");
        held.push((send, receive));
        assert!(held.len() <= 16, "as many streams as the client likes");
    }
    assert!(!held.is_empty());
    assert_works(&admitted(&tls(&domain.client("honest")), echo.address).await).await;
    // Given up, they make room again.
    held.clear();
    let whole = encode_opening(ASK, b"", 0).expect("within limits");
    assert_eq!(send_raw(&connection, &whole).await.as_deref(), Ok(&whole[..]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_first_packets_is_bounded_and_an_honest_client_gets_through() {
    let mut domain = Domain::new();
    let coordinator = domain.coordinator();
    let echo = Echo::start(coordinator.clone());
    let honest = tls(&domain.client("honest"));
    let stranger = ClientTls::anonymous(trust_of(&coordinator), Arc::new(SystemClock));
    let initials = first_packets(&stranger, N_FLOOD + N_PROBES).await;
    let (flood, probes) = initials.split_at(N_FLOOD);
    // Whoever sends them never reads an answer, like one who forges the sender's address.
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a socket");
    for batch in flood.chunks(20) {
        for packet in batch {
            socket.send_to(packet, echo.address).await.expect("sent");
        }
        sleep(Duration::from_millis(10)).await;
    }
    // By now an address must be shown to be real before anything is kept for it: the answer is a Retry packet (RFC
    // 9000, section 17.2.5), recognised by its type bits.
    let probe = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a socket");
    for packet in probes {
        probe.send_to(packet, echo.address).await.expect("sent");
    }
    let connection = admitted(&honest, echo.address).await;
    assert_works(&connection).await;
    let mut buffer = [0; 2000];
    within("a demand to validate the address", async {
        while probe.recv(&mut buffer).await.expect("an answer") > 0 && buffer[0] & 0xb0 != 0xb0 {}
    })
    .await;
    assert_eq!(*echo.seen(), [Seen::Came("honest".to_owned())]);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_client_cannot_take_the_room_of_all_by_never_saying_hello() {
    let mut domain = Domain::new();
    let echo = Echo::start(domain.coordinator());
    let (greedy, honest) = (tls(&domain.client("greedy")), tls(&domain.client("honest")));
    let mut held = Vec::new();
    for _ in 0..N_SILENT {
        held.push(raw(&greedy, echo.address).await);
    }
    assert_works(&admitted(&honest, echo.address).await).await;
    let (_, first) = held.first().expect("many");
    assert_eq!(close_code(first).await, Some(CloseCode::NoHello), "one identity has one connection at most");
    drop(held);
    assert_works(&admitted(&greedy, echo.address).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_was_given_up_before_another_was_made_does_not_replace_it() {
    let mut domain = Domain::new();
    let echo = Echo::start(domain.coordinator());
    let tls = tls(&domain.client("silo-1"));
    let second = Dial { number: FIRST_DIAL.number + 1, ..FIRST_DIAL };
    let (_endpoint, newer) = raw(&tls, echo.address).await;
    send_raw(&newer, &hello(second)).await.expect("admitted");
    // What the network kept back arrives.
    let (_late, older) = raw(&tls, echo.address).await;
    let (mut send, _receive) = older.open_bi().await.expect("a stream");
    send.write_all(&hello(FIRST_DIAL)).await.expect("sent");
    send.finish().expect("whole");
    assert_eq!(close_code(&older).await, Some(CloseCode::Done));
    assert_eq!(newer.close_reason(), None);
    // Another process with the same certificate takes over, whatever it counts.
    let other = Dial { process: FIRST_DIAL.process + 1, ..FIRST_DIAL };
    let (_other, newest) = raw(&tls, echo.address).await;
    send_raw(&newest, &hello(other)).await.expect("admitted");
    assert_eq!(close_code(&newer).await, Some(CloseCode::Replaced));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_reconnects_all_the_time_holds_one_connection() {
    let mut domain = Domain::new();
    let echo = Echo::start(domain.coordinator());
    let (restless, honest) = (tls(&domain.client("restless")), tls(&domain.client("honest")));
    let bystander = admitted(&honest, echo.address).await;
    let mut held = Vec::new();
    for _ in 0..N_SILENT {
        held.push(admitted(&restless, echo.address).await);
    }
    let newest = held.pop().expect("many");
    for connection in &held {
        assert_eq!(ask(connection, NEVER).await, Err(ConnectionError::Replaced));
    }
    assert_works(&newest).await;
    assert_works(&bystander).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_in_use_is_named_on_two_lines() {
    let mut domain = Domain::new();
    let folder = domain.coordinator();
    let server = serve(&folder);
    let address = server.local_address();
    let party = Party::load(&folder).expect("a coordinator's folder");
    let error =
        Server::bind(ServerOptions::new(address, party, folder.clone(), folder, CLIENTS_MAX, Arc::new(SystemClock)));
    let error = error.err().expect("the port is in use").to_string();
    let lines: Vec<&str> = error.lines().collect();
    assert_eq!(lines.len(), 2, "{error}");
    assert!(lines[0].starts_with(&format!("error: cannot listen on {address}: ")), "{error}");
    assert_eq!(lines[1], " help: stop the other program, or choose another port in coordinator.toml");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_that_is_gone_is_no_reason_to_give_up() {
    let mut domain = Domain::new();
    let echo = Echo::start(domain.coordinator());
    let (address, tls) = (echo.address, tls(&domain.client("silo-1")));
    let connection = admitted(&tls, address).await;
    let waiting = tokio::spawn(async move { ask(&connection, NEVER).await });
    echo.until("the request", |seen| seen.contains(&Seen::Asked(NEVER.to_vec()))).await;
    drop(echo);
    let error = within("the loss", waiting).await.expect("no panic").expect_err("nobody answers");
    assert!(matches!(error, ConnectionError::Lost { .. }), "{error:?}");
    assert!(!error.is_final());
    let error = refused(&tls, address).await;
    assert!(matches!(error, ConnectionError::Unreachable { .. }), "{error:?}");
    assert!(!error.is_final());
}

/// Closes every handshake with an alert that complains about the client's certificate, as anybody on the way can.
#[derive(Debug)]
struct NoCertificate;

impl rustls::server::ResolvesServerCert for NoCertificate {
    fn resolve(&self, _: rustls::server::ClientHello<'_>) -> Option<Arc<rustls::sign::CertifiedKey>> {
        None
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alert_before_the_handshake_is_complete_is_nobodys_verdict() {
    let mut domain = Domain::new();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config =
        rustls::ServerConfig::builder_with_provider(provider).with_protocol_versions(&[&rustls::version::TLS13]);
    let mut config = config.expect("TLS 1.3").with_no_client_auth().with_cert_resolver(Arc::new(NoCertificate));
    config.alpn_protocols = vec![ALPN.to_vec()];
    let impostor = Impostor::start(config, (Ipv4Addr::LOCALHOST, 0).into()).await;
    let error = refused(&tls(&domain.client("silo-1")), impostor.address).await;
    assert!(
        matches!(&error, ConnectionError::Unreachable { reason, .. } if reason.as_str().contains("error 49")),
        "{error:?}"
    );
    assert!(!error.is_final());
}

#[tokio::test(flavor = "multi_thread")]
async fn somebody_on_the_way_delays_a_client_that_was_connected_and_does_not_end_it() {
    let (mut domain, mut stranger) = (Domain::new(), Domain::new());
    let (coordinator, foreign) = (domain.coordinator(), stranger.coordinator());
    let mut server = serve(&coordinator);
    let address = server.local_address();
    let session = session(&domain.client("silo-1"), address);
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let (progress, _heard) = tokio::sync::mpsc::channel(16);
    let running = tokio::spawn(session.run(progress, stopped));
    // What is kept of a request would keep the socket open.
    drop(within("a check-in", next_request(&mut server)).await);

    // The connection is cut, and where the coordinator was there is one of another authority.
    drop(server);
    let config = tls::server_config(&shown(&foreign), &trust_of(&foreign), Arc::new(SystemClock));
    let impostor = Impostor::start(config.expect("usable"), address).await;
    within("two refusals", async {
        while impostor.n_refused.load(Ordering::SeqCst) < 2 {
            sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    assert!(!running.is_finished(), "{:?}", running.await);

    drop(impostor);
    let mut server = when_free(|| Server::bind(options(&coordinator, address))).await;
    let (_, _unanswered) = within("the check-in again", next_request(&mut server)).await;
    stop.send(true).expect("it listens");
    within("the end", running).await.expect("no panic").expect("it was only told to stop");

    // One that has never been connected hears of a wrong certificate at once.
    let error = ConnectionError::WrongCoordinator { reason: "".into() };
    assert!(error.is_final() && !error.is_final_once_connected());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_can_be_stopped_while_a_silent_coordinator_keeps_it_waiting() {
    let mut domain = Domain::new();
    let mut server = serve(&domain.coordinator());
    let session = session(&domain.client("silo-1"), server.local_address());
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let (progress, _heard) = tokio::sync::mpsc::channel(16);
    let running = tokio::spawn(session.run(progress, stopped));
    let _unanswered = within("a check-in", next_request(&mut server)).await;
    stop.send(true).expect("it listens");
    within("the end", running).await.expect("no panic").expect("it was only told to stop");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_words_of_a_goodbye_move_no_cursor() {
    let mut domain = Domain::new();
    let (coordinator, client) = (domain.coordinator(), domain.client("silo-1"));
    let config = tls::server_config(&shown(&coordinator), &trust_of(&coordinator), Arc::new(SystemClock));
    let rude = Impostor::start(config.expect("usable"), (Ipv4Addr::LOCALHOST, 0).into()).await;
    let connection = admitted(&tls(&client), rude.address).await;
    // The first hears that the connection is gone, from then on it is known with which words.
    ask(&connection, NEVER).await.expect_err("a goodbye");
    let error = ask(&connection, NEVER).await.expect_err("gone").to_string();
    assert!(error.contains("all is well"), "{error:?}");
    assert!(!error.contains(char::is_control), "{error:?}");
}

/// A coordinator that is none: whoever completes its handshake is sent away.
struct Impostor {
    address: SocketAddr,
    n_refused: Arc<AtomicUsize>,
    endpoint: Endpoint,
}

impl Impostor {
    async fn start(config: rustls::ServerConfig, address: SocketAddr) -> Self {
        let config = QuicServerConfig::try_from(config).expect("TLS 1.3");
        let config = quinn::ServerConfig::with_crypto(Arc::new(config));
        let endpoint = when_free(|| Endpoint::server(config.clone(), address)).await;
        let n_refused = Arc::new(AtomicUsize::new(0));
        let (accepting, counted) = (endpoint.clone(), n_refused.clone());
        tokio::spawn(async move {
            while let Some(incoming) = accepting.accept().await {
                let counted = counted.clone();
                tokio::spawn(async move {
                    match incoming.await {
                        Ok(connection) => welcome_and_leave(&connection).await,
                        Err(_) => _ = counted.fetch_add(1, Ordering::SeqCst),
                    }
                });
            }
        });
        Self { address: endpoint.local_addr().expect("bound"), n_refused, endpoint }
    }
}

/// Answers Hello and then closes with words that nobody should print.
async fn welcome_and_leave(connection: &quinn::Connection) {
    let (mut send, mut receive) = connection.accept_bi().await.expect("a stream");
    receive.read_to_end(1 << 10).await.expect("a Hello");
    let welcome = Welcome { admitted: true, coordinator: "test".to_owned(), now: SystemClock.now() };
    let header = encode_header(&welcome).expect("short");
    send.write_all(&encode_opening(Kind::HELLO, &header, 0).expect("short")).await.expect("room");
    send.finish().expect("once");
    send.stopped().await.expect("taken");
    connection.close(77_u32.into(), HOSTILE);
}

impl Drop for Impostor {
    fn drop(&mut self) {
        self.endpoint.close(0_u32.into(), b"");
    }
}

/// A client as it runs, with data that no round here asks for.
fn session(folder: &Path, coordinator: SocketAddr) -> Session {
    let key = LedgerSigner::new("transport.test/ledger".parse().expect("a name"), SigningKey::from_seed(&[1; 32]));
    let init = eranos_client::setup::Init {
        unit: eranos_client::policy::Unit::Record,
        records: "images-idx3-ubyte.gz".to_owned(),
        labels: Some("labels-idx1-ubyte.gz".to_owned()),
        columns: Vec::new(),
        dir: folder.to_owned(),
        coordinator: coordinator.to_string(),
        ledger_key: key.ledger_key().to_string(),
        task: "mnist".to_owned(),
        epsilon_max: 4.0,
        allow_no_noise: false,
        survivors_min: 3,
        max_colluders: 1,
        records_max: 100_000,
        classes: 10,
        budget: None,
        witnesses: Vec::new(),
    };
    eranos_client::setup::init(&init).expect("written");
    for name in ["images-idx3-ubyte.gz", "labels-idx1-ubyte.gz"] {
        let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("samples").join(format!("mnist-test-{name}"));
        fs::copy(sample, folder.join(name)).expect("copied");
    }
    eranos_client::setup::open(folder, None).expect("a client")
}

/// An authority with the folders of its parties.
struct Domain {
    folder: tempfile::TempDir,
    authority: Authority,
}

impl Domain {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let trust_domain = "transport.test".parse().expect("a trust domain");
        let authority = Authority::init(&folder.path().join("ca"), trust_domain, ago(HOUR), &mut OsEntropy);
        Self { folder, authority: authority.expect("an authority") }
    }

    fn coordinator(&mut self) -> PathBuf {
        self.enrol("main", Role::Coordinator, &["127.0.0.1"], ago(HOUR))
    }

    fn client(&mut self, name: &str) -> PathBuf {
        self.enrol(name, Role::Client, &[], ago(HOUR))
    }

    /// A party's folder with a certificate that was issued `at` for one day.
    fn enrol(&mut self, name: &str, role: Role, hosts: &[&str], at: Timestamp) -> PathBuf {
        let folder = self.folder.path().join(name);
        let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
        let requested = party::request(&folder, role, name, &hosts, false, &mut OsEntropy).expect("a request");
        let request = fs::read(&requested.request).expect("written");
        let request = self.authority.review(&request).expect("in order");
        let approval = Approval { days: 1, replace_key: false };
        issue_beside(&mut self.authority, &requested.request, &request, approval, at).expect("approved");
        folder
    }

    /// Copies the revocation list to a party, as its operator would.
    fn publish_revocations(&self, folder: &Path) {
        let to = folder.join(party::REVOCATION_LIST_FILE);
        fs::copy(self.authority.revocation_list_file(), to).expect("copied");
    }
}

/// A coordinator's socket that answers every request with the request itself, and remembers who came and went.
struct Echo {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    task: JoinHandle<()>,
}

#[derive(Clone, Debug, PartialEq)]
enum Seen {
    Came(String),
    Went(String),
    Cut(String),
    /// A header that is not simply sent back at once.
    Asked(Vec<u8>),
}

impl Echo {
    fn start(folder: PathBuf) -> Self {
        let mut server = serve(&folder);
        let (address, seen) = (server.local_address(), Arc::new(Mutex::new(Vec::new())));
        let noted = seen.clone();
        let task = tokio::spawn(async move {
            while let Some(incoming) = server.next().await {
                match incoming {
                    Incoming::Connected { identity, .. } => {
                        lock(&noted).push(Seen::Came(identity.id.name().to_owned()));
                    }
                    Incoming::Revoked { id, .. } => lock(&noted).push(Seen::Cut(id.name().to_owned())),
                    Incoming::TrustChanged { .. } => {}
                    Incoming::Disconnected { id } => lock(&noted).push(Seen::Went(id.name().to_owned())),
                    Incoming::Request { kind, header, body, reply, .. } => {
                        if header == LATE || header == NEVER {
                            lock(&noted).push(Seen::Asked(header.clone()));
                        }
                        tokio::spawn(async move {
                            let len = usize::try_from(body.len()).expect("64 bits");
                            // Without its whole body there is no answer.
                            let Ok(body) = body.read_all(len).await else { return };
                            match header.as_slice() {
                                LATE => sleep(Duration::from_secs(1)).await,
                                NEVER => std::future::pending().await,
                                _ => {}
                            }
                            reply.send(kind, header.into(), body.into());
                        });
                    }
                }
            }
        });
        Self { address, seen, task }
    }

    fn seen(&self) -> MutexGuard<'_, Vec<Seen>> {
        lock(&self.seen)
    }

    async fn until(&self, what: &str, holds: impl Fn(&[Seen]) -> bool) {
        within(what, async {
            while !holds(&self.seen()) {
                sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn serve(folder: &Path) -> Server {
    Server::bind(options(folder, (Ipv4Addr::LOCALHOST, 0).into())).expect("a free port")
}

/// What `open` gives once nobody else has the port any more.
async fn when_free<T, E>(open: impl Fn() -> Result<T, E>) -> T {
    within("a free port", async {
        loop {
            match open() {
                Ok(opened) => break opened,
                Err(_) => sleep(Duration::from_millis(20)).await,
            }
        }
    })
    .await
}

fn options(folder: &Path, address: SocketAddr) -> ServerOptions {
    let party = Party::load(folder).expect("a party's folder");
    ServerOptions::new(address, party, folder.to_owned(), folder.to_owned(), CLIENTS_MAX, Arc::new(SystemClock))
}

/// The next request's body and where its answer goes.
async fn next_request(server: &mut Server) -> (eranos_coordinator::server::BodyReader, Reply) {
    loop {
        if let Incoming::Request { body, reply, .. } = server.next().await.expect("the server runs") {
            return (body, reply);
        }
    }
}

fn credentials(folder: &Path) -> Credentials {
    let party = Party::load(folder).expect("a party's folder");
    Credentials::new(party.certificate, party.key_pkcs8)
}

fn shown(folder: &Path) -> ServerIdentity {
    ServerIdentity::new(&credentials(folder)).expect("a key and its certificate")
}

fn trust_of(folder: &Path) -> SharedTrust {
    let anchor = party::load_anchor(folder).expect("an authority");
    let material = TrustMaterial {
        authorities: anchor.authorities().cloned().collect(),
        revoked: anchor.revoked().cloned().collect(),
    };
    SharedTrust::new(&material).expect("usable")
}

fn tls(folder: &Path) -> ClientTls {
    ClientTls::new(credentials(folder), trust_of(folder), Arc::new(SystemClock))
}

async fn admitted(tls: &ClientTls, address: SocketAddr) -> Connection {
    let connector = Connector::new(&address.to_string(), tls.clone()).expect("an address");
    within("a connection", connector.connect()).await.expect("admitted")
}

async fn refused(tls: &ClientTls, address: SocketAddr) -> ConnectionError {
    let connector = Connector::new(&address.to_string(), tls.clone()).expect("an address");
    within("a refusal", connector.connect()).await.err().expect("refused")
}

async fn ask(connection: &Connection, header: &[u8]) -> Result<AnswerFrame, ConnectionError> {
    within("an exchange", connection.exchange(ASK, header, Bytes::new(), bodies(0))).await
}

async fn assert_works(connection: &Connection) {
    let answer = ask(connection, b"still there?").await;
    assert_eq!(answer.map(|answer| answer.header), Ok(b"still there?".to_vec()));
}

/// A connection below the client's own code, with the handshake done and nothing said.
async fn raw(tls: &ClientTls, address: SocketAddr) -> (Endpoint, quinn::Connection) {
    let endpoint = Endpoint::client((Ipv4Addr::LOCALHOST, 0).into()).expect("a socket");
    let connecting = endpoint.connect_with(quic(tls), address, "127.0.0.1").expect("a configuration");
    let connection = within("a handshake", connecting).await.expect("a handshake");
    (endpoint, connection)
}

async fn raw_admitted(tls: &ClientTls, address: SocketAddr) -> (Endpoint, quinn::Connection) {
    let (endpoint, connection) = raw(tls, address).await;
    send_raw(&connection, &hello(FIRST_DIAL)).await.expect("admitted");
    (endpoint, connection)
}

fn quic(tls: &ClientTls) -> quinn::ClientConfig {
    let (config, _) = tls.attempt().expect("usable");
    quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(config).expect("TLS 1.3")))
}

fn hello(dial: Dial) -> Vec<u8> {
    let hello = Hello { software: "test".to_owned(), now: SystemClock.now(), dial };
    let header = encode_header(&hello).expect("short");
    encode_opening(Kind::HELLO, &header, 0).expect("short")
}

/// Sends bytes as one request and gives the answer's bytes, or the code with which the coordinator broke it off.
async fn send_raw(connection: &quinn::Connection, bytes: &[u8]) -> Result<Vec<u8>, StreamCode> {
    let (mut send, mut receive) = within("a stream", connection.open_bi()).await.expect("a stream");
    // The coordinator may stop reading before everything is sent.
    let _ = send.write_all(bytes).await;
    let _ = send.finish();
    match within("an answer", receive.read_to_end(1 << 20)).await {
        Ok(bytes) => Ok(bytes),
        Err(ReadToEndError::Read(ReadError::Reset(code))) => {
            Err(StreamCode::from_number(code.into_inner()).expect("a code of ours"))
        }
        Err(error) => panic!("{error}"),
    }
}

/// Why the coordinator closed the connection.
async fn close_code(connection: &quinn::Connection) -> Option<CloseCode> {
    match within("the close", connection.closed()).await {
        quinn::ConnectionError::ApplicationClosed(close) => CloseCode::from_number(close.error_code.into_inner()),
        error => panic!("{error}"),
    }
}

/// Writes until nothing more is taken; gives how much was.
async fn write_until_held_back(stream: &mut SendStream, body: &[u8]) -> usize {
    let mut sent = 0;
    while let Ok(written) = timeout(Duration::from_secs(1), stream.write(&body[sent..])).await {
        sent += written.expect("the stream lives");
        assert!(sent < body.len(), "the whole body was taken, and nobody reads it");
    }
    sent
}

/// The first packets of `n` connections, caught before they reach anybody.
async fn first_packets(tls: &ClientTls, n: usize) -> Vec<Vec<u8>> {
    let trap = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a socket");
    let address = trap.local_addr().expect("bound");
    let endpoint = Endpoint::client((Ipv4Addr::LOCALHOST, 0).into()).expect("a socket");
    let (mut caught, mut held) = (BTreeMap::new(), Vec::new());
    let mut buffer = [0; 2000];
    while caught.len() < n {
        // Dropped, it would send a goodbye.
        held.push(endpoint.connect_with(quic(tls), address, "127.0.0.1").expect("a configuration"));
        let len = within("a first packet", trap.recv(&mut buffer)).await.expect("caught");
        // A long header: flags, version (4), length and bytes of the destination's connection id (RFC 9000, 17.2).
        let is_initial = len >= 1200 && buffer[0] & 0xb0 == 0x80;
        if is_initial {
            let id = buffer[6..6 + usize::from(buffer[5])].to_vec();
            caught.entry(id).or_insert_with(|| buffer[..len].to_vec());
        }
    }
    caught.into_values().collect()
}

fn pattern(len: usize) -> Bytes {
    (0..len).map(|i| (i ^ (i >> 8) ^ (i >> 16)) as u8).collect()
}

/// A clock that is wrong by so many milliseconds.
struct Shifted(i64);

impl Clock for Shifted {
    fn now(&self) -> Timestamp {
        Timestamp::from_unix_ms(SystemClock.now().unix_ms().saturating_add_signed(self.0))
    }
}

fn ago(duration: Duration) -> Timestamp {
    Timestamp::from_unix_ms(SystemClock.now().since(Timestamp::default()).saturating_sub(duration).as_millis() as u64)
}

async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    timeout(BOUND, future).await.unwrap_or_else(|_| panic!("no {what} within {BOUND:?}"))
}

/// What clears a terminal and writes over it.
const HOSTILE: &[u8] = b"\x1b[2J\r\nall is well\x07";
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);
/// A wait longer than this is a hang, on however slow a machine.
const BOUND: Duration = Duration::from_secs(60);
/// Twice the time between two looks of the coordinator at its revocation list.
const REVOCATIONS_SEEN: Duration = Duration::from_secs(4);
/// The size of the federation that a coordinator expects.
const CLIENTS_MAX: usize = 2;
/// The first connection of some process.
const FIRST_DIAL: Dial = Dial { process: 7, number: 0 };
/// More connections at once than such a coordinator has room for.
const N_SILENT: usize = 100;
/// More first packets than handshakes are kept at once.
const N_FLOOD: usize = 400;
const N_PROBES: usize = 10;
/// A request without body (a check-in) and one with (a masked input).
const ASK: Kind = Kind(0x10);
const UPLOAD: Kind = Kind(0x15);
/// Headers that are answered a second later, and never.
const LATE: &[u8] = b"later";
const NEVER: &[u8] = b"never";
