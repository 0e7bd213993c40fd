//! A hostile network, over real QUIC against a real coordinator, while honest clients train: whatever is done, they finish
//! their rounds, the coordinator's memory stays within bounds, each kind of offence is counted, and the log says each
//! once in a while.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::{Arc, mpsc::Receiver},
    time::{Duration, Instant},
};

use eranos_base::{
    Clock, SystemClock, Timestamp,
    encoding::encode_header,
    limits::{BODY_LEN_MAX, HEADER_LEN_MAX},
};
use eranos_certs::{Party, TrustAnchor};
use eranos_coordinator::{
    limits::{CONNECTS_BURST, OFFENCE_LOG_EVERY, OFFENCES_PER_CONNECTION_MAX, OPENING_TIME_MAX},
    offences::Offence,
};
use eranos_wire::{
    framing::{CloseCode, Dial, Hello, Kind, encode_opening},
    tls::{ClientTls, Credentials, SharedTrust, TrustMaterial},
};
use quinn::{Endpoint, crypto::rustls::QuicClientConfig};
use tokio::{
    net::UdpSocket,
    time::{sleep, timeout},
};

use crate::{
    live::{figure, get, hear, lines, start},
    processes::{Guard, readme_lines, run},
};

#[test]
fn honest_clients_finish_their_rounds_whatever_a_hostile_network_does() {
    let dir = tempfile::tempdir().unwrap();
    let dir: PathBuf = dir.path().to_owned().canonicalize().unwrap();
    let port = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let lines_of_set_up: Vec<String> = readme_lines()[1..8].to_vec();
    for line in &lines_of_set_up {
        let rounds = format!("--rounds 400 --listen 127.0.0.1:{port}");
        run(&dir, &line.replace("7433", &port.to_string()).replace("--rounds 20", &rounds));
    }
    // Rounds that wait for their slot more than they compute: this test is long, and not about their work.
    let task = fs::read_to_string(dir.join("federation/task.toml")).unwrap();
    fs::write(dir.join("federation/task.toml"), task.replace("ready_slot_ms = 250", "ready_slot_ms = 2500")).unwrap();
    // Enrolled like everybody else.
    for name in ["framer", "dripper", "flooder", "glutton", "late"] {
        run(&dir, &format!("eranos certs request --name {name} && eranos certs approve --yes {name}/request.pem"));
    }
    run(&dir, "eranos certs init --dir other --trust-domain example.org && eranos certs request --name stranger");
    run(&dir, "eranos certs approve --yes --ca other stranger/request.pem");
    let arguments = "coordinator run --dir federation --metrics 127.0.0.1:0 --log-format json";
    let mut coordinator = Guard(start(&dir, arguments, "warn"));
    let said = lines(coordinator.0.stdout.take().unwrap());
    let log = lines(coordinator.0.stderr.take().unwrap());
    let at = hear(&said, "metrics' address", |line| line.starts_with("metrics on http://"));
    let metrics = at.strip_prefix("metrics on http://").and_then(|at| at.strip_suffix("/metrics")).unwrap().to_owned();
    let mut clients: Vec<Guard> =
        (1..=4).map(|party| Guard(start(&dir, &format!("client run --dir parties/party-{party}"), "error"))).collect();
    let _ends: Vec<Receiver<String>> =
        clients.iter_mut().map(|client| lines(client.0.stdout.take().unwrap())).collect();
    let whole = |line: &str| line.starts_with("round ") && !line.contains("aborted") && !line.contains("dropped");
    hear(&said, "round before any attack", whole);
    let scrape = || {
        let (status, text) = get(&metrics, "/metrics");
        assert_eq!(status, 200, "{text}");
        text
    };
    let memory = |text: &str| figure(text, "eranos_memory_resident_bytes");
    let n =
        |text: &str, offence: Offence| figure(text, &format!("eranos_offences_total{{kind=\"{}\"}}", offence.name()));
    let (began, before) = (Instant::now(), scrape());
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let _within = runtime.enter();

    // Goes on from now on, until its time is over: a byte every second, on every stream that there may be.
    let dripping = runtime.spawn(drip(tls(&dir, "dripper"), address));
    type Attack<'a> = Box<dyn Future<Output = ()> + 'a>;
    let attacks: Vec<(Attack<'_>, &[Offence])> = vec![
        (Box::new(send_bad_frames(tls(&dir, "framer"), address)), &[Offence::BadFrame, Offence::Misbehaved]),
        (Box::new(flood_with_first_packets(tls(&dir, "flooder"), address)), &[Offence::UnvalidatedAddress]),
        (Box::new(send_endless_bodies(tls(&dir, "glutton"), address)), &[Offence::UnwantedBody]),
        (Box::new(connect_again_and_again(tls(&dir, "flooder"), address)), &[Offence::ConnectsTooOften]),
        (Box::new(come_without_a_certificate(&dir, address)), &[Offence::Stranger]),
        (Box::new(come_with_a_wrong_clock(tls(&dir, "late"), address)), &[Offence::ClockSkew]),
        (Box::new(never_say_hello(tls(&dir, "late"), address)), &[Offence::SlowHandshake, Offence::NoHello]),
    ];
    for (attack, offences) in attacks {
        while said.try_recv().is_ok() {}
        runtime.block_on(Box::into_pin(attack));
        hear(&said, "round under attack", whole);
        let now = scrape();
        for offence in offences {
            assert!(n(&now, *offence) > n(&before, *offence), "{offence:?} is not counted: {now}");
        }
        assert!(
            memory(&now) < memory(&before) + MEMORY_MORE_MAX,
            "{offences:?}: {} from {}",
            memory(&now),
            memory(&before)
        );
        assert_eq!(get(&metrics, "/readyz").0, 200);
    }
    runtime.block_on(dripping).unwrap();
    hear(&said, "round after the attacks", whole);
    let now = scrape();
    assert!(n(&now, Offence::TooSlow) > 0.0, "{now}");
    assert!(figure(&now, "eranos_connected_clients") <= 9.0, "one for each certificate: {now}");
    // One line of each kind in a while, however many there were.
    let lines_max = 2 + (began.elapsed().as_secs() / OFFENCE_LOG_EVERY.as_secs()) as usize;
    let log: Vec<String> = log.try_iter().collect();
    for offence in Offence::ALL {
        let mark = format!("\"offence\":\"{}\"", offence.name());
        let n_lines = log.iter().filter(|line| line.contains(&mark)).count();
        assert!(n_lines <= lines_max, "{offence:?}: {n_lines} lines, {lines_max} at most");
        assert_eq!(n_lines > 0, n(&now, offence) > 0.0, "{offence:?} is said if it was seen: {log:?}");
    }
}

/// Bytes that are no frames, or frames beyond every limit, until the connection is cut; and again.
async fn send_bad_frames(tls: ClientTls, address: SocketAddr) {
    let head = |kind: Kind, header_len: u32, body_len: u64| {
        let mut bytes = encode_opening(kind, b"", 0).unwrap();
        bytes[6..10].copy_from_slice(&header_len.to_le_bytes());
        bytes[10..18].copy_from_slice(&body_len.to_le_bytes());
        bytes
    };
    let bad = [
        vec![0xff; 4096],
        head(CHECK_IN, u32::MAX, 0),
        head(CHECK_IN, HEADER_LEN_MAX as u32, 0),
        head(UPLOAD, 4, u64::MAX),
        head(UPLOAD, 4, BODY_LEN_MAX + 1),
        head(Kind(0x7f), 0, 0),
        head(CHECK_IN, 4, 0),
    ];
    for _ in 0..2 {
        let (_endpoint, connection) = admitted(&tls, address, SystemClock.now()).await;
        let mut sent = 0;
        let cut = loop {
            let opened = timeout(WAIT, connection.open_bi()).await.expect("a stream, or the cut");
            let Ok((mut send, mut receive)) = opened else { break connection.closed().await };
            // It may be cut in the middle.
            let _ = send.write_all(&bad[sent % bad.len()]).await;
            let _ = send.finish();
            let _ = timeout(WAIT, receive.read_to_end(100)).await.expect("an end");
            sent += 1;
            assert!(sent < 10 * OFFENCES_PER_CONNECTION_MAX as usize, "it is never cut");
        };
        assert!(is_close(&cut, CloseCode::Misbehaved), "{cut:?}");
    }
}

/// First packets of connections that nobody goes on with, as from forged addresses.
async fn flood_with_first_packets(tls: ClientTls, address: SocketAddr) {
    let trap = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let endpoint = Endpoint::client((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let (mut held, mut buffer) = (Vec::new(), [0; 2000]);
    for _ in 0..400 {
        // Caught before it reaches anybody; dropped, it would send a goodbye.
        held.push(endpoint.connect_with(quic(&tls), trap.local_addr().unwrap(), "127.0.0.1").unwrap());
        let len = timeout(WAIT, trap.recv(&mut buffer)).await.expect("a packet").unwrap();
        socket.send_to(&buffer[..len], address).await.unwrap();
    }
}

/// Bodies that nobody asked for, of all the length that a frame may have, on every stream.
async fn send_endless_bodies(tls: ClientTls, address: SocketAddr) {
    let (_endpoint, connection) = admitted(&tls, address, SystemClock.now()).await;
    let round = eranos_wire::messages::RoundRef { session: Default::default(), round: Default::default() };
    let request =
        eranos_wire::Request::from(eranos_wire::messages::masked_input::MaskedInput { round, finished: vec![0; 64] });
    let header = request.encode().unwrap();
    let chunk = vec![0x5a; 1 << 16];
    let mut taken = 0;
    for _ in 0..8 {
        let (mut send, _receive) = timeout(WAIT, connection.open_bi()).await.expect("a stream").unwrap();
        send.write_all(&encode_opening(UPLOAD, &header, BODY_LEN_MAX).unwrap()).await.unwrap();
        while let Ok(Ok(())) = timeout(Duration::from_secs(2), send.write_all(&chunk)).await {
            taken += chunk.len();
            assert!(taken < 64 << 20, "it takes whatever comes");
        }
    }
}

/// More connections with one certificate than there are clients.
async fn connect_again_and_again(tls: ClientTls, address: SocketAddr) {
    let endpoint = Endpoint::client((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let (mut held, mut n_refused) = (Vec::new(), 0);
    while n_refused < 100 {
        let connecting = endpoint.connect_with(quic(&tls), address, "127.0.0.1").unwrap();
        let connection = timeout(WAIT, connecting).await.expect("a handshake").expect("a handshake");
        if let Some(error) = connection.close_reason() {
            n_refused += usize::from(is_close(&error, CloseCode::Full));
        }
        // Whoever is refused hears of it a moment later.
        n_refused += held.iter().rev().take(1).filter(|before: &&quinn::Connection| full(before)).count();
        held.push(connection);
        assert!(held.len() < 4 * CONNECTS_BURST as usize, "nothing is refused");
    }
}

fn full(connection: &quinn::Connection) -> bool {
    connection.close_reason().is_some_and(|error| is_close(&error, CloseCode::Full))
}

/// Without a certificate, and with another authority's.
async fn come_without_a_certificate(dir: &Path, address: SocketAddr) {
    let trust = trust(&Party::load(&dir.join("federation")).unwrap().anchor);
    let stranger = Party::load(&dir.join("stranger")).unwrap();
    let foreign = Credentials::new(stranger.certificate, stranger.key_pkcs8);
    for tls in [
        ClientTls::anonymous(trust.clone(), Arc::new(SystemClock)),
        ClientTls::new(foreign, trust.clone(), Arc::new(SystemClock)),
    ] {
        for _ in 0..20 {
            let endpoint = Endpoint::client((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
            let connecting = endpoint.connect_with(quic(&tls), address, "127.0.0.1").unwrap();
            if let Ok(connection) = timeout(WAIT, connecting).await.expect("a handshake, or its end") {
                timeout(WAIT, connection.closed()).await.expect("the cut");
            }
        }
    }
}

/// A clock that is an hour off.
async fn come_with_a_wrong_clock(tls: ClientTls, address: SocketAddr) {
    let off = Timestamp::from_unix_ms(SystemClock.now().unix_ms() - 3_600_000);
    admitted(&tls, address, off).await;
}

/// Completes handshakes and says nothing more, or something else.
async fn never_say_hello(tls: ClientTls, address: SocketAddr) {
    let (_endpoint, connection) = connected(&tls, address).await;
    let (mut send, _receive) = connection.open_bi().await.unwrap();
    send.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let cut = timeout(WAIT, connection.closed()).await.expect("the cut");
    assert!(is_close(&cut, CloseCode::NoHello), "{cut:?}");
    let (_endpoint, connection) = connected(&tls, address).await;
    timeout(WAIT, connection.closed()).await.expect("the cut");
}

/// Sends a byte every second on every stream that there may be, for as long as it is let.
async fn drip(tls: ClientTls, address: SocketAddr) {
    let (_endpoint, connection) = admitted(&tls, address, SystemClock.now()).await;
    let opening = encode_opening(CHECK_IN, &[7; 600], 0).unwrap();
    let mut streams = Vec::new();
    while let Ok(Ok((mut send, receive))) = timeout(Duration::from_millis(300), connection.open_bi()).await {
        send.write_all(&opening[..1]).await.unwrap();
        streams.push((send, receive));
    }
    assert!(!streams.is_empty());
    let began = Instant::now();
    for byte in opening[1..].chunks(1) {
        sleep(Duration::from_secs(1)).await;
        for (send, _) in &mut streams {
            // Once it is reset, there is nothing more to send.
            let _ = send.write_all(byte).await;
        }
        if began.elapsed() > OPENING_TIME_MAX + Duration::from_secs(3) {
            break;
        }
    }
    for (_, receive) in &mut streams {
        timeout(WAIT, receive.read_to_end(100)).await.expect("an end").expect_err("it is broken off");
    }
}

fn tls(dir: &Path, name: &str) -> ClientTls {
    let party = Party::load(&dir.join(name)).unwrap();
    let trust = trust(&party.anchor);
    ClientTls::new(Credentials::new(party.certificate, party.key_pkcs8), trust, Arc::new(SystemClock))
}

fn trust(anchor: &TrustAnchor) -> SharedTrust {
    let (authorities, revoked) = (anchor.authorities().cloned().collect(), anchor.revoked().cloned().collect());
    SharedTrust::new(&TrustMaterial { authorities, revoked }).unwrap()
}

fn quic(tls: &ClientTls) -> quinn::ClientConfig {
    let (config, _) = tls.attempt().unwrap();
    quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(config).unwrap()))
}

async fn connected(tls: &ClientTls, address: SocketAddr) -> (Endpoint, quinn::Connection) {
    let endpoint = Endpoint::client((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let connecting = endpoint.connect_with(quic(tls), address, "127.0.0.1").unwrap();
    let connection = timeout(WAIT, connecting).await.expect("a handshake").expect("a handshake");
    (endpoint, connection)
}

async fn admitted(tls: &ClientTls, address: SocketAddr, now: Timestamp) -> (Endpoint, quinn::Connection) {
    let (endpoint, connection) = connected(tls, address).await;
    let hello =
        encode_header(&Hello { software: "test".to_owned(), now, dial: Dial { process: 0, number: 0 } }).unwrap();
    let (mut send, mut receive) = connection.open_bi().await.unwrap();
    send.write_all(&encode_opening(Kind::HELLO, &hello, 0).unwrap()).await.unwrap();
    send.finish().unwrap();
    timeout(WAIT, receive.read_to_end(1 << 10)).await.expect("a welcome").expect("a welcome");
    (endpoint, connection)
}

fn is_close(error: &quinn::ConnectionError, code: CloseCode) -> bool {
    matches!(error, quinn::ConnectionError::ApplicationClosed(close)
        if CloseCode::from_number(close.error_code.into_inner()) == Some(code))
}

/// What the coordinator may take more than before, in bytes: connections, their windows, and a round's own memory.
const MEMORY_MORE_MAX: f64 = 96e6;
/// A hang, on however slow a machine.
const WAIT: Duration = Duration::from_secs(60);
const CHECK_IN: Kind = Kind(0x10);
const UPLOAD: Kind = Kind(0x15);
