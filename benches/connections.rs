//! What clients that only wait cost a coordinator: memory and processor time of a process that has nothing but the
//! coordinator's socket, while more and more clients, each with a certificate of its own, connect and are admitted.
//!
//! ```text
//! cargo build --release --example connections
//! target/release/examples/connections [clients]
//! ```
//!
//! The clients are one other process, behind one port. What is written (an authority, the clients' keys) goes to a folder
//! below TMPDIR, which is best held in memory: the authority writes its index anew for every certificate.

#![expect(clippy::unwrap_used, reason = "a measurement may stop at whatever goes wrong")]

use std::{
    fs,
    io::{BufRead, BufReader},
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use eranos_base::{Clock, OsEntropy, SystemClock, encoding::encode_header};
use eranos_certs::{Approval, Authority, Party, Role, cli::issue_beside, party};
use eranos_coordinator::server::{Server, ServerOptions};
use eranos_wire::{
    framing::{Dial, Hello, Kind, encode_opening},
    tls::{ClientTls, Credentials, SharedTrust, TrustMaterial},
};
use quinn::{ClientConfig, Connection, Endpoint, TransportConfig, crypto::rustls::QuicClientConfig};

fn main() {
    let mut arguments = std::env::args().skip(1);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    match arguments.next() {
        Some(serve) if serve == "serve" => runtime.block_on(serve_in(Path::new(&arguments.next().unwrap()))),
        clients => runtime.block_on(connect(clients.map_or(1000, |clients| clients.parse().unwrap()))),
    }
}

/// The coordinator's socket and nothing behind it. It ends with its standard input.
async fn serve_in(dir: &Path) {
    let party = Party::load(&dir.join("coordinator")).unwrap();
    let (certificates, listen) = (dir.join("coordinator"), (Ipv4Addr::LOCALHOST, 0).into());
    let options = ServerOptions::new(listen, party, certificates, dir.to_owned(), 10_000, Arc::new(SystemClock));
    let mut server = Server::bind(options).unwrap();
    println!("{}", server.local_address());
    while server.next().await.is_some() {}
}

async fn connect(n_clients: usize) {
    let dir = tempfile::tempdir().unwrap();
    let folders = dir.path().join("authority");
    let domain = "example.org".parse().unwrap();
    let mut authority = Authority::init(&folders, domain, SystemClock.now(), &mut OsEntropy).unwrap();
    let mut enrol = |name: &str, role: Role, hosts: &[String]| {
        let folder = dir.path().join(name);
        let requested = party::request(&folder, role, name, hosts, false, &mut OsEntropy).unwrap();
        let request = authority.review(&fs::read(&requested.request).unwrap()).unwrap();
        let approval = Approval { days: 1, replace_key: false };
        issue_beside(&mut authority, &requested.request, &request, approval, SystemClock.now()).unwrap();
        folder
    };
    enrol("coordinator", Role::Coordinator, &["127.0.0.1".to_owned()]);
    let configs: Vec<ClientConfig> = (0..n_clients)
        .map(|i| {
            let folder = enrol(&format!("client-{i}"), Role::Client, &[]);
            let config = client_config(&Party::load(&folder).unwrap());
            fs::remove_dir_all(folder).unwrap();
            config
        })
        .collect();

    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([Path::new("serve"), dir.path()])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let address: SocketAddr = line.trim().parse().unwrap();

    let endpoint = Endpoint::client((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let mut kept: Vec<Connection> = Vec::new();
    println!("clients  resident kB  kB each  processor ms each");
    let (mut before, mut step) = (Cost::of(&child), 0);
    for (i, config) in configs.into_iter().enumerate() {
        let connection = endpoint.connect_with(config, address, "127.0.0.1").unwrap().await.unwrap();
        let (mut send, mut receive) = connection.open_bi().await.unwrap();
        send.write_all(&hello()).await.unwrap();
        send.finish().unwrap();
        assert!(!receive.read_to_end(1 << 20).await.unwrap().is_empty(), "admitted");
        kept.push(connection);
        step += 1;
        if step == n_clients.div_ceil(5) || i + 1 == n_clients {
            // What only a handshake needs is gone by then.
            tokio::time::sleep(Duration::from_secs(10)).await;
            let now = Cost::of(&child);
            let each = |total: u64| total as f64 / step as f64;
            let (memory, time) = (each(now.resident_kb - before.resident_kb), each(now.ms - before.ms));
            println!("{:7}  {:11}  {memory:7.1}  {time:17.2}", i + 1, now.resident_kb);
            (before, step) = (now, 0);
        }
    }
    assert!(kept.iter().all(|connection| connection.close_reason().is_none()), "all are still connected");
    tokio::time::sleep(Duration::from_secs(60)).await;
    let idle = Cost::of(&child);
    println!("a minute of {n_clients} that wait: {} ms of processor time", idle.ms - before.ms);
    assert!(kept.iter().all(|connection| connection.close_reason().is_none()), "all are still connected");
    child.kill().unwrap();
    child.wait().unwrap();
}

fn client_config(party: &Party) -> ClientConfig {
    let anchor = &party.anchor;
    let authorities = anchor.authorities().cloned().collect();
    let trust = SharedTrust::new(&TrustMaterial { authorities, revoked: anchor.revoked().cloned().collect() }).unwrap();
    let credentials = Credentials::new(party.certificate.clone(), party.key_pkcs8.clone());
    let (config, _) = ClientTls::new(credentials, trust, Arc::new(SystemClock)).attempt().unwrap();
    let mut config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(config).unwrap()));
    let mut transport = TransportConfig::default();
    // As a client that waits does.
    transport.keep_alive_interval(Some(Duration::from_secs(5)));
    config.transport_config(Arc::new(transport));
    config
}

fn hello() -> Vec<u8> {
    let hello =
        Hello { software: "connections".to_owned(), now: SystemClock.now(), dial: Dial { process: 0, number: 0 } };
    encode_opening(Kind::HELLO, &encode_header(&hello).unwrap(), 0).unwrap()
}

/// What a process has taken.
struct Cost {
    resident_kb: u64,
    ms: u64,
}

impl Cost {
    fn of(child: &Child) -> Self {
        let read = |file: &str| fs::read_to_string(format!("/proc/{}/{file}", child.id())).unwrap();
        let status = read("status");
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        // User and system time are the 14th and 15th fields, in hundredths of a second; the name before them has no space.
        let ticks: u64 = read("stat").split(' ').skip(13).take(2).map(|ticks| ticks.parse::<u64>().unwrap()).sum();
        Self { resident_kb: resident.split_whitespace().next().unwrap().parse().unwrap(), ms: 10 * ticks }
    }
}
