use std::{net::Ipv4Addr, path::Path};

use eranos_base::{SeededEntropy, encoding::encode_header};
use eranos_certs::{Approval, Authority, Party, Role, cli::issue_beside, party};
use eranos_wire::{
    framing::{Welcome, encode_opening},
    messages::{RoundRef, masked_input::MaskedInput},
    tls::{self, ClientTls, Credentials, ServerIdentity, SharedTrust},
};
use quinn::{Endpoint, ServerConfig, VarInt, crypto::rustls::QuicServerConfig};

use super::*;

#[test]
fn waits_double_up_to_a_bound_and_no_two_clients_wait_alike() {
    for seed in 0..50 {
        let (mut entropy, mut other) = (SeededEntropy::new(seed), SeededEntropy::new(seed + 1000));
        for (make, longest) in [
            (Backoff::of_connections as fn() -> Backoff, Duration::from_millis(12_800)),
            (Backoff::between_rounds, Duration::from_millis(1600)),
        ] {
            let (mut backoff, mut another, mut same) = (make(), make(), 0);
            let mut full = BACKOFF_MIN;
            for _ in 0..40 {
                let wait = backoff.next(&mut entropy);
                assert!(full / 2 <= wait && wait <= full, "{wait:?} of {full:?}, seed {seed}");
                same += usize::from(wait == another.next(&mut other));
                full = (2 * full).min(longest);
            }
            assert_eq!(full, longest);
            assert!(same < 3, "{same} of 40 waits were the same, seed {seed}");
        }
    }
    // Not even after years.
    let mut backoff = Backoff { tries: u32::MAX, doublings_max: BACKOFF_DOUBLINGS_MAX };
    assert!(backoff.next(&mut OsEntropy) <= Duration::from_millis(12_800));
}

#[tokio::test]
async fn a_client_that_nobody_can_stop_any_more_is_not_stopped() {
    let (sender, mut stop) = watch::channel(false);
    drop(sender);
    assert!(timeout(Duration::from_millis(20), stopped(&mut stop)).await.is_err(), "it would leave round after round");
    let (sender, mut stop) = watch::channel(false);
    sender.send(true).expect("somebody listens");
    drop(sender);
    stopped(&mut stop).await;
}

/// The coordinator cuts the connection after so many bytes of each try, wherever that is, and answers the last one.
#[tokio::test(flavor = "multi_thread")]
async fn an_upload_whose_connection_is_lost_comes_again_byte_for_byte() {
    let domain = Domain::new();
    let server = domain.coordinator();
    let seed = u64::from_le_bytes(OsEntropy.bytes());
    println!("seed {seed}");
    let mut entropy = SeededEntropy::new(seed);
    let mut body = vec![0; 300_000];
    entropy.fill(&mut body);
    let body = Bytes::from(body);
    let round = RoundRef { session: Default::default(), round: RoundNumber(7) };
    let request: Request = MaskedInput { round, finished: vec![9; 100] }.into();
    let header = request.encode().expect("short");
    let whole =
        [encode_opening(Kind(request.kind()), &header, body.len() as u64).expect("short"), body.to_vec()].concat();
    let mut cuts = vec![0, 1, whole.len()];
    cuts.extend((0..2).map(|_| u64::from_le_bytes(entropy.bytes()) as usize % whole.len()));
    let listening = server.local_addr().expect("bound");
    let expected = whole.clone();
    let serving = tokio::spawn(async move {
        for cut in cuts {
            let connection = admit(&server).await;
            let (_send, mut receive) = connection.accept_bi().await.expect("the request");
            let mut read = vec![0; cut];
            receive.read_exact(&mut read).await.expect("so much of it");
            assert!(read == expected[..cut], "altered before byte {cut}");
            connection.close(VarInt::from_u32(0), b"");
        }
        let connection = admit(&server).await;
        let (mut send, mut receive) = connection.accept_bi().await.expect("the request");
        let read = receive.read_to_end(2 * expected.len()).await.expect("all of it");
        assert!(read == expected, "altered");
        let answer: Answer = eranos_wire::messages::abort::Aborted { reason: "enough".into() }.into();
        let header = answer.encode().expect("short");
        send.write_all(&encode_opening(Kind(answer.kind()), &header, 0).expect("short")).await.expect("room");
        send.finish().expect("once");
        connection.closed().await
    });
    let mut link = Link::new(&domain.connector(listening));
    let answered = link.exchange(&request, &body, Duration::from_secs(60)).await;
    let Ok((Answer::Aborted(aborted), _)) = answered else { panic!("no answer") };
    assert_eq!(aborted.reason, "enough".into());
    link.close().await;
    timeout(Duration::from_secs(60), serving).await.expect("it heard the goodbye").expect("all was as expected");
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_waited_for_longer_than_the_limit_of_an_exchange() {
    let domain = Domain::new();
    let server = domain.coordinator();
    let listening = server.local_addr().expect("bound");
    // Lets everybody in, and never answers.
    let serving = tokio::spawn(async move {
        let connection = admit(&server).await;
        let stream = connection.accept_bi().await;
        (connection.closed().await, stream.is_ok())
    });
    let member =
        MaskedInput { round: RoundRef { session: Default::default(), round: RoundNumber(7) }, finished: vec![] };
    let mut link = Link::new(&domain.connector(listening));
    let began = Instant::now();
    let answered = link.exchange(&member.into(), &Bytes::new(), Duration::from_secs(2)).await;
    assert!(matches!(answered, Err(ExchangeError::Given(reason)) if reason == "no answer within 2 s"));
    assert!(began.elapsed() < Duration::from_secs(30));
    link.close().await;
    serving.await.expect("no panic");
}

async fn admit(server: &Endpoint) -> quinn::Connection {
    let connection = server.accept().await.expect("open").await.expect("a handshake");
    let (mut send, mut receive) = connection.accept_bi().await.expect("a stream");
    receive.read_to_end(1 << 10).await.expect("a Hello");
    let welcome = Welcome { admitted: true, coordinator: "test".to_owned(), now: SystemClock.now() };
    let header = encode_header(&welcome).expect("short");
    send.write_all(&encode_opening(Kind::HELLO, &header, 0).expect("short")).await.expect("room");
    send.finish().expect("once");
    connection
}

/// An authority with a coordinator and a client.
struct Domain {
    folder: tempfile::TempDir,
}

impl Domain {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let now = SystemClock.now();
        let trust_domain = "session.test".parse().expect("a trust domain");
        let mut authority =
            Authority::init(&folder.path().join("ca"), trust_domain, now, &mut OsEntropy).expect("an authority");
        for (name, role, hosts) in
            [("main", Role::Coordinator, vec!["127.0.0.1".to_owned()]), ("silo", Role::Client, Vec::new())]
        {
            let requested = party::request(&folder.path().join(name), role, name, &hosts, false, &mut OsEntropy);
            let requested = requested.expect("a request").request;
            let request = authority.review(&std::fs::read(&requested).expect("written")).expect("in order");
            issue_beside(&mut authority, &requested, &request, Approval::default(), now).expect("approved");
        }
        Self { folder }
    }

    fn of(&self, name: &str) -> (Credentials, SharedTrust) {
        let party = Party::load(Path::new(&self.folder.path().join(name))).expect("a party's folder");
        let trust = SharedTrust::new(&crate::certificates::material(&party.anchor)).expect("usable");
        (Credentials::new(party.certificate, party.key_pkcs8), trust)
    }

    fn coordinator(&self) -> Endpoint {
        let (credentials, trust) = self.of("main");
        let config =
            tls::server_config(&ServerIdentity::new(&credentials).expect("usable"), &trust, Arc::new(SystemClock))
                .expect("usable");
        let config = ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(config).expect("TLS 1.3")));
        Endpoint::server(config, (Ipv4Addr::LOCALHOST, 0).into()).expect("a free port")
    }

    fn connector(&self, address: std::net::SocketAddr) -> Connector {
        let (credentials, trust) = self.of("silo");
        let tls = ClientTls::new(credentials, trust, Arc::new(SystemClock));
        Connector::new(&address.to_string(), tls).expect("an address")
    }
}
