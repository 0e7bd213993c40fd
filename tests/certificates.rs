//! The whole life of certificates over real processes: while a federation trains, its authority is exchanged, everybody's
//! certificate is renewed, and one client is revoked. Nobody is restarted for any of it.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::mpsc::Receiver,
    time::{Duration, Instant},
};

use crate::{
    live::{hear, lines, start},
    processes::{Guard, budget, readme_lines, run, shell},
};

fn pseudonym(dir: &Path, party: usize) -> String {
    let output = shell(dir, &format!("eranos client disclose --dir parties/party-{party}")).output().unwrap();
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    // The certificate changes, the pseudonym and whose it is do not.
    let stays = |line: &&str| line.starts_with("pseudonym") || line.starts_with("client");
    let lines: Vec<&str> = text.lines().filter(stays).collect();
    assert_eq!(lines.len(), 2, "{text}");
    lines.join("\n")
}

#[test]
fn an_authority_is_exchanged_certificates_are_renewed_and_a_client_is_revoked_while_all_train() {
    let dir = tempfile::tempdir().unwrap();
    let dir: PathBuf = dir.path().to_owned().canonicalize().unwrap();
    let port = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    for line in &readme_lines()[1..8] {
        let rounds = format!("--rounds 400 --listen 127.0.0.1:{port}");
        run(&dir, &line.replace("7433", &port.to_string()).replace("--rounds 20", &rounds));
    }
    // Rounds that wait for their slot more than they compute.
    let task = fs::read_to_string(dir.join("federation/task.toml")).unwrap();
    fs::write(dir.join("federation/task.toml"), task.replace("ready_slot_ms = 250", "ready_slot_ms = 1500")).unwrap();
    let mut coordinator = Guard(start(&dir, "coordinator run --dir federation", INFO));
    let rounds = lines(coordinator.0.stdout.take().unwrap());
    let log = lines(coordinator.0.stderr.take().unwrap());
    let mut clients: Vec<Guard> =
        (1..=4).map(|party| Guard(start(&dir, &format!("client run --dir parties/party-{party}"), INFO))).collect();
    let said: Vec<Receiver<String>> = clients.iter_mut().map(|client| lines(client.0.stderr.take().unwrap())).collect();
    // A pipe that nobody reads fills up.
    let _ends: Vec<Receiver<String>> =
        clients.iter_mut().map(|client| lines(client.0.stdout.take().unwrap())).collect();
    let whole_round = |line: &str| line.starts_with("round ") && !line.contains("aborted") && !line.contains("dropped");
    hear(&rounds, "first round", whole_round);
    let before: Vec<String> = (1..=4).map(|party| pseudonym(&dir, party)).collect();
    let receipts = |party: usize| budget(&dir, party)["receipts"].as_u64().unwrap();

    // The authority gets a successor, and everybody hears of both.
    let publish = "for d in federation parties/party-1 parties/party-2 parties/party-3 parties/party-4; \
                   do cp ca/ca.pem ca/crl.pem $d; done";
    run(&dir, "eranos certs rollover --ca ca");
    run(&dir, publish);
    for log in said.iter().chain([&log]) {
        hear(log, "second authority", |line| line.contains("revocation list"));
    }
    // All renew: the coordinator and three clients keep their keys, one makes a new one.
    run(
        &dir,
        "for d in federation parties/party-1 parties/party-3 parties/party-4; do eranos certs renew --dir $d; done",
    );
    run(&dir, "eranos certs approve --yes --ca ca federation/request.pem parties/party-[134]/request.pem");
    run(&dir, "eranos certs renew --new-key --dir parties/party-2");
    run(&dir, "eranos certs approve --yes --ca ca --replace-key parties/party-2/next-request.pem");
    run(&dir, "eranos certs install --dir parties/party-2");
    hear(&log, "renewed certificate of the coordinator", |line| line.contains("another certificate is shown"));
    for log in &said {
        hear(log, "renewed certificate", |line| line.contains("a renewed certificate is shown"));
    }
    // The old authority is believed no more; the new one signed everybody, and revoked the key that was exchanged.
    run(&dir, "eranos certs rollover --ca ca --finish");
    run(&dir, publish);
    hear(&log, "one authority", |line| line.contains("revocation list"));
    while rounds.try_recv().is_ok() {}
    hear(&rounds, "round with the new authority alone", whole_round);
    let after: Vec<String> = (1..=4).map(|party| pseudonym(&dir, party)).collect();
    assert_eq!(before, after, "the pseudonym is the client's, not its certificate's");

    // One is revoked while it is connected: it is cut within seconds, and the others go on without it.
    let counted = receipts(1);
    run(&dir, "eranos certs revoke --ca ca party-4");
    let copied = Instant::now();
    fs::copy(dir.join("ca/crl.pem"), dir.join("federation/crl.pem")).unwrap();
    // Cut, or turned away if it was about to come back: it has just changed its certificates.
    let is_cut = |line: &str| line.contains("connection cut") && line.contains("client/party-4");
    hear(&log, "cut", |line| is_cut(line) || line.contains("invalid peer certificate: Revoked"));
    let took = copied.elapsed();
    assert!(took < Duration::from_secs(10), "{took:?}");
    let gone = hear(&said[3], "reason", |line| line.starts_with("error: "));
    assert!(gone.contains("turned this client's certificate away: it was revoked"), "{gone}");
    assert!(!clients[3].0.wait().unwrap().success());
    while rounds.try_recv().is_ok() {}
    hear(&rounds, "round of the others", |line| line.starts_with("round ") && !line.contains("aborted"));
    assert!(receipts(1) > counted);
    let status = shell(&dir, "eranos coordinator status --json --dir federation").output().unwrap();
    let status: serde_json::Value = serde_json::from_slice(&status.stdout).unwrap();
    assert_eq!(status["running"]["connected"], 3, "{status}");
    // It cannot come back, whatever it shows.
    run(&dir, "! eranos client run --dir parties/party-4 2> refused && grep -q 'it was revoked' refused");

    run(&dir, &format!("kill -TERM {}", coordinator.0.id()));
    assert!(coordinator.0.wait().unwrap().success());
    drop(clients);
    run(&dir, "eranos audit verify federation/state/ledger --key federation/ledger.pub");
    // It was entered that it is revoked, though the coordinator was not started again.
    run(&dir, "eranos coordinator disclose --dir federation > openings");
    run(&dir, "grep -A 2 '^change: client-revoked' openings | grep -q '^client: .*/party-4$'");
    // Nobody lost count: what a client spent is what the ledger charges, over all its certificates.
    let one = budget(&dir, 1);
    assert!(one["attempts_charged"].as_u64() >= one["receipts"].as_u64() && receipts(1) > 2, "{one}");
}

/// What of the log is listened to.
const INFO: &str = "eranos_client=info,eranos_coordinator=info";
