//! Transcripts of `eranos-certs`.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

/// A folder in which commands run.
struct Desk(tempfile::TempDir);

struct Ran {
    stdout: String,
    stderr: String,
    succeeded: bool,
}

impl Desk {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary folder"))
    }

    fn with_authority() -> Self {
        let desk = Self::new();
        desk.done("init --trust-domain hospitals.example");
        desk
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.0.path().join(name)
    }

    fn run(&self, line: &str) -> Ran {
        let output = Command::new(env!("CARGO_BIN_EXE_eranos-certs"))
            .args(line.split_whitespace())
            .current_dir(self.0.path())
            .stdin(Stdio::null())
            .output()
            .expect("the binary runs");
        Ran {
            stdout: String::from_utf8(output.stdout).expect("text"),
            stderr: String::from_utf8(output.stderr).expect("text"),
            succeeded: output.status.success(),
        }
    }

    /// Runs a command that succeeds; returns what it printed.
    fn done(&self, line: &str) -> String {
        let ran = self.run(line);
        assert!(ran.succeeded, "{line}\n{}{}", ran.stdout, ran.stderr);
        assert_eq!(ran.stderr, "", "{line}");
        ran.stdout
    }

    /// Runs a command that is refused with an error of two lines; returns them.
    fn refused(&self, line: &str) -> (String, String) {
        let ran = self.run(line);
        assert!(!ran.succeeded, "{line}\n{}", ran.stdout);
        let lines: Vec<&str> = ran.stderr.lines().collect();
        let [what, next] = lines.as_slice() else { panic!("{line}: not two lines\n{}", ran.stderr) };
        let what = what.strip_prefix("error: ").expect("what went wrong");
        let next = next.strip_prefix(" help: ").expect("what to do next");
        (what.to_owned(), next.to_owned())
    }

    fn check_refused(&self, line: &str, what: &str, next: &str) {
        let (found_what, found_next) = self.refused(line);
        assert!(found_what.contains(what), "{line}: {found_what}");
        assert!(found_next.contains(next), "{line}: {found_next}");
    }

    fn fingerprint(&self, name: &str) -> String {
        let printed = self.done(&format!("request --name {name} --dir {name}"));
        let (_, fingerprint) = printed.trim().rsplit_once(' ').expect("a fingerprint");
        fingerprint.to_owned()
    }
}

#[test]
fn the_walk_through_of_the_help_works() {
    let desk = Desk::new();
    let printed = desk.done("init --trust-domain hospitals.example");
    assert!(
        printed.starts_with("authority of hospitals.example in ca\n  ca/ca.pem  every party needs it\n"),
        "{printed}"
    );
    let printed = desk.done("request --name main --coordinator --host localhost --host 127.0.0.1 --dir parties/main");
    assert!(printed.starts_with("coordinator main\n  parties/main/request.pem  send it"), "{printed}");
    let mut fingerprints = Vec::new();
    for name in ["silo-1", "silo-2"] {
        let printed = desk.done(&format!("request --name {name} --dir parties/{name}"));
        fingerprints.push(printed.trim().rsplit_once(' ').expect("a fingerprint").1.to_owned());
    }
    let requests = ["main", "silo-1", "silo-2"].map(|name| format!("parties/{name}/request.pem")).join(" ");
    let printed = desk.done(&format!("approve --yes {requests}"));
    assert!(printed.contains("spiffe://hospitals.example/coordinator/main\n"), "{printed}");
    assert!(printed.contains("  hosts localhost, 127.0.0.1\n"), "{printed}");
    for fingerprint in &fingerprints {
        assert!(printed.contains(&format!("  fingerprint {fingerprint}\n")), "{printed}");
    }
    assert!(printed.contains("approved spiffe://hospitals.example/client/silo-2 until 20"), "{printed}");
    for name in ["main", "silo-1", "silo-2"] {
        let party = eranos_certs::Party::load(&desk.path(&format!("parties/{name}"))).expect("complete");
        assert_eq!(party.anchor.trust_domain().as_str(), "hospitals.example");
        assert_eq!(party.anchor.revoked().count(), 1);
    }
    let listed = desk.done("list");
    assert_eq!(listed.lines().count(), 4, "{listed}");
    assert_eq!(listed.matches(" enrolled ").count(), 3, "{listed}");
    assert!(listed.contains(&fingerprints[0]), "{listed}");
}

#[cfg(unix)]
#[test]
fn keys_are_readable_by_their_owner_alone() {
    use std::os::unix::fs::PermissionsExt;
    let desk = Desk::with_authority();
    desk.done("request --name silo-1");
    for key in ["ca/ca.key", "silo-1/key.pem"] {
        let mode = fs::metadata(desk.path(key)).expect("exists").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{key}");
    }
}

#[test]
fn a_key_or_an_authority_is_never_overwritten() {
    let desk = Desk::with_authority();
    desk.check_refused("init --trust-domain other.example", "ca is an authority already", "choose another --dir");
    desk.done("request --name silo-1");
    let key = fs::read(desk.path("silo-1/key.pem")).expect("a key");
    desk.check_refused("request --name silo-1", "silo-1/key.pem holds a key already", "eranos certs renew");
    desk.done("approve --yes silo-1/request.pem");
    desk.done("renew --dir silo-1");
    assert_eq!(fs::read(desk.path("silo-1/key.pem")).expect("a key"), key);
}

#[test]
fn approval_needs_someone_who_compared() {
    let desk = Desk::with_authority();
    let fingerprint = desk.fingerprint("silo-1");
    desk.check_refused("approve silo-1/request.pem", "nobody is here to compare", "--fingerprint SHA256");
    let other = "00".repeat(32);
    desk.check_refused(
        &format!("approve silo-1/request.pem --fingerprint {other}"),
        &format!("has the fingerprint {fingerprint}, not one of those given"),
        "read out the fingerprint again",
    );
    assert!(!desk.path("silo-1/certificate.pem").exists());
    desk.done(&format!("approve silo-1/request.pem --fingerprint {fingerprint}"));
    assert!(desk.path("silo-1/certificate.pem").exists());
}

#[test]
fn a_request_that_was_tampered_with_is_refused_and_none_beside_it_is_approved() {
    let desk = Desk::with_authority();
    desk.done("request --name silo-1");
    desk.done("request --name silo-2");
    let path = desk.path("silo-2/request.pem");
    let text = fs::read_to_string(&path).expect("a request");
    // The name inside, not the key: "silo-2" becomes "silo-3".
    let pem = x509_parser::pem::parse_x509_pem(text.as_bytes()).expect("PEM").1;
    let at = pem.contents.windows(6).position(|window| window == b"silo-2").expect("the name");
    let mut der = pem.contents.clone();
    der[at + 5] = b'3';
    fs::write(&path, crate::trust::pem("CERTIFICATE REQUEST", &der)).expect("written");
    desk.check_refused(
        "approve --yes silo-1/request.pem silo-2/request.pem",
        "silo-2/request.pem: request is not signed by the key it carries; nothing was approved",
        "leave it out",
    );
    assert!(!desk.path("silo-1/certificate.pem").exists());
    fs::write(&path, "nonsense").expect("written");
    desk.check_refused("approve --yes silo-2/request.pem", "expected exactly one CERTIFICATE REQUEST", "leave it out");
    desk.check_refused("approve --yes missing.pem", "cannot read missing.pem", "check the path");
    assert_eq!(desk.done("list").lines().count(), 1);
}

#[test]
fn an_identity_keeps_its_key_unless_the_operator_insists() {
    let desk = Desk::with_authority();
    let old = desk.fingerprint("silo-1");
    desk.done("approve --yes silo-1/request.pem");
    // The same key again is a renewal.
    desk.done("renew --dir silo-1");
    desk.done("approve --yes silo-1/request.pem");
    desk.done("request --name silo-1 --dir thief");
    desk.check_refused(
        "approve --yes thief/request.pem",
        &format!("spiffe://hospitals.example/client/silo-1 is enrolled with another key: {old}"),
        "--replace-key",
    );
    desk.done("approve --yes --replace-key thief/request.pem");
    let listed = desk.done("list");
    assert_eq!((listed.matches(" revoked ").count(), listed.matches(" enrolled ").count()), (2, 1), "{listed}");
    // The replaced key does not come back, and the new one may be renewed without insisting.
    desk.check_refused("approve --yes --replace-key silo-1/request.pem", "was revoked", "make a new key");
    desk.done("approve --yes thief/request.pem");
}

#[test]
fn one_key_has_one_identity() {
    let desk = Desk::with_authority();
    desk.done("request --name silo-1");
    desk.done("approve --yes silo-1/request.pem");
    eranos_certs::party::request(
        &desk.path("silo-1"),
        eranos_certs::Role::Client,
        "silo-2",
        &[],
        true,
        &mut eranos_base::OsEntropy,
    )
    .expect("whoever writes its own tool can ask so");
    desk.check_refused(
        "approve --yes silo-1/request.pem",
        "belongs to spiffe://hospitals.example/client/silo-1",
        "its own",
    );
    desk.done("request --name silo-3");
    fs::copy(desk.path("silo-3/request.pem"), desk.path("copy.pem")).expect("copied");
    desk.check_refused("approve --yes silo-3/request.pem copy.pem", "has the identity or the key of", "leave it out");
}

#[test]
fn revocation_is_listed_and_final() {
    let desk = Desk::with_authority();
    for name in ["silo-1", "silo-2"] {
        desk.done(&format!("request --name {name}"));
        desk.done(&format!("approve --yes {name}/request.pem"));
    }
    let printed = desk.done("revoke silo-1");
    assert_eq!(
        printed,
        "revoked spiffe://hospitals.example/client/silo-1: copy ca/crl.pem to the coordinator and the clients\n"
    );
    desk.done("revoke spiffe://hospitals.example/client/silo-1");
    let json: serde_json::Value = serde_json::from_str(&desk.done("list --json")).expect("JSON");
    let states: Vec<_> = json.as_array().expect("an array").iter().map(|row| row["state"].as_str()).collect();
    assert_eq!(states, [Some("revoked"), Some("enrolled")]);
    assert_eq!(json[0]["identity"], "spiffe://hospitals.example/client/silo-1");
    assert!(json[0]["revoked_ms"].as_u64() >= json[0]["not_before_ms"].as_u64());
    desk.check_refused("revoke silo-9", "nobody is enrolled as \"silo-9\"", "eranos certs list");
    desk.check_refused("approve --yes silo-1/request.pem", "was revoked", "make a new key");
    // The list reaches a party by copying one file.
    fs::copy(desk.path("ca/crl.pem"), desk.path("silo-2/crl.pem")).expect("copied");
    let anchor = eranos_certs::party::load_anchor(&desk.path("silo-2")).expect("usable");
    let revoked = eranos_certs::Party::load(&desk.path("silo-1")).expect("complete");
    let now = eranos_base::Clock::now(&eranos_base::SystemClock);
    assert_eq!(anchor.verify_client(&revoked.certificate, now), Err(eranos_certs::TrustError::Revoked));
}

#[test]
fn names_hosts_and_folders_are_checked() {
    let desk = Desk::with_authority();
    desk.check_refused("request --name Silo", "character 'S' in a name", "such as silo-1");
    desk.check_refused("request --name a/../b --dir x", "character '/' in a name", "such as silo-1");
    desk.check_refused(
        "request --name main --coordinator --host bad_host! --dir main",
        "\"bad_host!\" is neither",
        "--host",
    );
    desk.check_refused("list --ca nowhere", "nowhere is not an authority's folder", "eranos certs init");
    desk.check_refused("approve --ca nowhere --yes x.pem", "nowhere is not an authority's folder", "--ca");
    desk.done("request --name silo-1");
    desk.check_refused("approve --yes --days 4000 silo-1/request.pem", "a validity of 4000 days", "fewer --days");
    desk.check_refused("approve --yes --days 0 silo-1/request.pem", "a validity of 0 days", "at least 1");
    fs::write(desk.path("ca/index.json"), "{").expect("written");
    desk.check_refused("list", "ca/index.json", "put the file back from a copy");
    for line in ["request --name main --coordinator", "request --name silo-9 --host localhost", "approve", "init"] {
        assert!(!desk.run(line).succeeded, "{line}");
    }
}

#[test]
fn requests_from_one_inbox_get_certificates_of_their_own() {
    let desk = Desk::with_authority();
    fs::create_dir(desk.path("inbox")).expect("made");
    for name in ["silo-1", "silo-2"] {
        desk.done(&format!("request --name {name}"));
        fs::copy(desk.path(&format!("{name}/request.pem")), desk.path(&format!("inbox/{name}.pem"))).expect("copied");
    }
    desk.done("approve --yes inbox/silo-1.pem inbox/silo-2.pem");
    for name in ["silo-1.certificate.pem", "silo-2.certificate.pem", "ca.pem", "crl.pem"] {
        assert!(desk.path("inbox").join(name).exists(), "{name}");
    }
    // A certificate beside another party's key is noticed.
    for name in ["ca.pem", "crl.pem"] {
        fs::copy(desk.path("inbox").join(name), desk.path("silo-1").join(name)).expect("copied");
    }
    fs::copy(desk.path("inbox/silo-2.certificate.pem"), desk.path("silo-1/certificate.pem")).expect("copied");
    let error = eranos_certs::Party::load(&desk.path("silo-1")).expect_err("another's certificate");
    assert!(matches!(error, eranos_certs::PartyError::KeyMismatch { .. }), "{error}");
}

#[test]
fn help_teaches_the_whole_walk() {
    let desk = Desk::new();
    let help = desk.done("--help");
    for line in ["eranos certs init", "eranos certs request", "eranos certs approve", "telephone"] {
        assert!(help.contains(line), "{help}");
    }
    for command in ["init", "request", "approve", "revoke", "list"] {
        assert!(desk.done(&format!("{command} --help")).contains("Usage:"), "{command}");
    }
    assert!(!Path::new("ca").exists());
}
