//! What an operator sees of a federation while it trains, and what nobody may see: the log at its loudest has no secret.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::mpsc::Receiver,
    time::{Duration, Instant},
};

use crate::{
    live::{figure, get, hear, lines, send, start},
    processes::{Guard, readme_lines, run},
};

#[test]
fn figures_and_health_are_shown_on_this_machine_and_the_loudest_log_has_no_secret() {
    let dir = tempfile::tempdir().unwrap();
    let dir: PathBuf = dir.path().to_owned().canonicalize().unwrap();
    let port = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    for line in &readme_lines()[1..8] {
        let rounds = format!("--rounds 2 --listen 127.0.0.1:{port}");
        run(&dir, &line.replace("7433", &port.to_string()).replace("--rounds 20", &rounds));
    }
    let anywhere = "eranos coordinator run --dir federation --metrics 0.0.0.0:9464 2> refused";
    run(&dir, &format!("! {anywhere} && grep -q 'could be reached from elsewhere' refused"));

    let loud = "--log-format json 2>";
    let mut coordinator =
        Guard(start(&dir, &format!("coordinator run --dir federation --metrics 127.0.0.1:0 {loud} main.log"), "trace"));
    let said = lines(coordinator.0.stdout.take().unwrap());
    let at = hear(&said, "metrics' address", |line| line.starts_with("metrics on http://"));
    let address = at.strip_prefix("metrics on http://").and_then(|at| at.strip_suffix("/metrics")).unwrap().to_owned();
    assert_eq!(get(&address, "/healthz"), (200, "healthy\n".to_owned()));
    assert_eq!(get(&address, "/readyz"), (200, "ready\n".to_owned()));
    assert_eq!(get(&address, "/").0, 404);
    assert!(
        send(&address, b"POST /metrics HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
            .contains(" 405 ")
    );
    assert!(send(&address, &[&b"GET /"[..], &vec![b'x'; 100_000]].concat()).contains(" 4"), "too long a request");

    // Whoever asks and says nothing more takes one of a few places, and gives it back.
    let silent: Vec<_> = (0..40).map(|_| std::net::TcpStream::connect(&address).unwrap()).collect();
    let began = Instant::now();
    while get(&address, "/metrics").0 != 200 {
        assert!(began.elapsed() < Duration::from_secs(60), "the silent keep everybody out");
    }
    drop(silent);

    let mut clients: Vec<Guard> = (1..=4)
        .map(|party| format!("client run --dir parties/party-{party} {loud} party-{party}.log"))
        .map(|arguments| Guard(start(&dir, &arguments, "trace")))
        .collect();
    let _ends: Vec<Receiver<String>> =
        clients.iter_mut().map(|client| lines(client.0.stdout.take().unwrap())).collect();
    hear(&said, "round", |line| line.starts_with("round   1/2"));
    let (status, metrics) = get(&address, "/metrics");
    assert_eq!(status, 200);
    check_metrics(&metrics);
    assert!(coordinator.0.wait().unwrap().success());
    for client in &mut clients {
        assert!(client.0.wait().unwrap().success());
    }
    let logs = ["main", "party-1", "party-2", "party-3", "party-4"].map(|name| {
        let text = fs::read_to_string(dir.join(format!("{name}.log"))).unwrap();
        assert!(text.lines().count() > 8, "{name}: the log is not loud: {text}");
        for line in text.lines() {
            let value: serde_json::Value = serde_json::from_str(line).unwrap_or_else(|_| panic!("{name}: {line}"));
            assert!(value["timestamp"].is_string() && value["level"].is_string(), "{line}");
        }
        text
    });
    let log = logs.concat();
    assert!(log.contains("\"client\":\"spiffe://example.org/client/party-1\""), "who did what is in the log");
    for (what, secret) in secrets(&dir) {
        for (how, text) in encodings(&secret) {
            assert!(!log.contains(&text), "{what} is in the log, as {how}");
        }
    }
    check_shape(&log.replace(&dir.display().to_string(), ""));
    // The check would see one.
    for (how, text) in encodings(eranos_base::Digest::of(b"as random as a key").as_bytes()) {
        assert!(std::panic::catch_unwind(|| check_shape(&format!("it was {text}."))).is_err(), "{how}");
    }
}

fn check_metrics(metrics: &str) {
    assert!(metrics.ends_with("# EOF\n"), "{metrics}");
    assert!(figure(metrics, "eranos_rounds_released_total") >= 1.0);
    assert!(figure(metrics, "eranos_attempts_total") >= figure(metrics, "eranos_rounds_released_total"));
    assert_eq!(figure(metrics, "eranos_connected_clients"), 4.0, "{metrics}");
    assert!(figure(metrics, "eranos_epsilon_charged") > 0.0);
    assert!(figure(metrics, "eranos_received_bytes_total") > 1e6, "four vectors, at least");
    assert!(figure(metrics, "eranos_memory_resident_bytes") > 1e6);
    assert!(figure(metrics, "eranos_certificate_expiry_timestamp_seconds") > 1.7e9);
    for kind in eranos_coordinator::offences::Offence::ALL {
        assert_eq!(figure(metrics, &format!("eranos_offences_total{{kind=\"{}\"}}", kind.name())), 0.0, "{metrics}");
    }
    let phases: Vec<f64> = metrics
        .lines()
        .filter(|line| line.starts_with("eranos_phase{"))
        .map(|line| line.rsplit(' ').next().unwrap().parse().unwrap())
        .collect();
    assert_eq!(phases.iter().sum::<f64>(), 1.0, "{metrics}");
    // Whoever reads the figures learns nothing of anybody.
    assert!(!metrics.contains("party"), "{metrics}");
    // Every name is documented.
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/operations.md")).unwrap();
    for line in metrics.lines().filter(|line| !line.starts_with('#')) {
        let name = line.split(['{', ' ']).next().unwrap();
        assert!(page.contains(&format!("`{name}`")), "docs/operations.md does not know {name}");
    }
}

/// Every secret that lies in a file of this federation, and some of the data.
fn secrets(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let mut secrets = Vec::new();
    let mut add = |path: PathBuf, bytes: &[u8]| secrets.push((path.display().to_string(), bytes.to_vec()));
    for party in ["federation", "parties/party-1", "parties/party-2", "parties/party-3", "parties/party-4"] {
        let own = eranos_certs::Own::load(&dir.join(party)).unwrap();
        add(dir.join(party).join("key.pem"), &own.key_pkcs8[own.key_pkcs8.len() - 32..]);
    }
    for name in ["federation/ledger.seed", "federation/state/reset.seed"] {
        add(dir.join(name), &fs::read(dir.join(name)).unwrap());
    }
    for party in 1..=4 {
        let secret = dir.join(format!("parties/party-{party}/state/secret"));
        add(secret.clone(), &fs::read(&secret).unwrap());
        let mut images = Vec::new();
        let packed = dir.join(format!("parties/party-{party}/images-idx3-ubyte.gz"));
        let mut reader = flate2::read::GzDecoder::new(fs::File::open(&packed).unwrap());
        std::io::Read::read_to_end(&mut reader, &mut images).unwrap();
        // Rows of pixels that are not all black.
        let rows = images.chunks(28).filter(|row| row.iter().filter(|pixel| **pixel > 0).count() > 8);
        rows.take(5).for_each(|row| add(packed.clone(), row));
    }
    // The model that the sums of updates led to.
    for object in fs::read_dir(dir.join("federation/state/objects")).unwrap() {
        let path = object.unwrap().path();
        let bytes = fs::read(&path).unwrap();
        bytes.chunks(64).take(5).for_each(|part| add(path.clone(), part));
    }
    secrets.retain(|(_, secret)| secret.iter().filter(|byte| **byte != 0).count() >= 8);
    assert!(secrets.len() > 30);
    secrets
}

/// How sixteen bytes of a secret may be written.
fn encodings(secret: &[u8]) -> Vec<(&'static str, String)> {
    let part = &secret[..16];
    let hex: String = secret.iter().take(24).map(|byte| format!("{byte:02x}")).collect();
    let numbers: Vec<String> = part.iter().map(|byte| byte.to_string()).collect();
    vec![
        ("upper hex", hex.to_uppercase()),
        ("hex", hex),
        ("base64", base64(&part[..15])),
        ("numbers", numbers.join(", ")),
        ("numbers without blanks", numbers.join(",")),
    ]
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digits = |three: &[u8]| {
        let bits = three.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte));
        [18, 12, 6, 0].map(|shift| char::from(DIGITS[(bits >> shift) as usize & 63]))
    };
    bytes.chunks_exact(3).flat_map(digits).collect()
}

/// Nothing in the log is shaped like bytes, but ids of connections and digests that a field names as such. Keys and shares
/// of a round are in no file with which the log could be compared.
fn check_shape(log: &str) {
    let is_hex = |c: char| c.is_ascii_hexdigit();
    for run in log.split(|c: char| !is_hex(c)) {
        // An id of a QUIC connection has up to 20 bytes.
        assert!(run.len() <= 40 || PUBLIC.iter().any(|name| log.contains(&format!("\"{name}\":\"{run}\""))), "{run}");
    }
    let is_base64 = |c: char| c.is_ascii_alphanumeric() || c == '+' || c == '/';
    for run in log.split(|c: char| !is_base64(c)) {
        let is_name = run.len() < 20 || run.chars().all(|c| c.is_ascii_lowercase() || c == '/' || c.is_ascii_digit());
        let has_all = [char::is_lowercase as fn(char) -> bool, char::is_uppercase, char::is_numeric]
            .into_iter()
            .all(|kind| run.contains(kind));
        assert!(is_name || !has_all, "{run}");
    }
    let is_list = |c: char| c.is_ascii_digit() || c == ',' || c == ' ';
    for run in log.split(|c: char| !is_list(c)) {
        assert!(run.split(',').filter(|number| !number.trim().is_empty()).count() < 16, "{run}");
    }
}

/// Fields whose value is a public digest.
const PUBLIC: &[&str] = &["authority"];
