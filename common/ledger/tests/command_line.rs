//! `eranos-audit` as a person meets it: what it prints, where, and how it exits.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use eranos_privacy::{Promise, mechanism::NoiseTarget};

use crate::support::{Federation, mechanism_with};

fn audit(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_eranos-audit")).args(arguments).output().expect("runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("text")
}

fn as_str(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

#[test]
fn an_honest_log_exits_zero_with_the_key_as_line_or_as_file() {
    let federation = Federation::with_history();
    let dir = tempfile::tempdir().expect("a folder");
    let (ledger, key_file) = (dir.path().join("ledger"), dir.path().join("ledger.pub"));
    federation.write(&ledger);
    let line = federation.signer.ledger_key().to_string();
    fs::write(&key_file, format!("{line}\n")).expect("written");
    for key in [line.as_str(), as_str(&key_file)] {
        let output = audit(&["verify", as_str(&ledger), "--key", key]);
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        let printed = text(&output.stdout);
        assert!(printed.starts_with("ledger.example.org: 7 entries under root "), "{printed}");
        assert!(printed.contains("5 of 40 attempts: 3 released, 1 aborted before and 1 after the reveal"), "{printed}");
        assert!(printed.ends_with("verified: every hash, signature, quorum and epsilon holds\n"), "{printed}");
        assert!(output.stderr.is_empty());
    }
    let output = audit(&["recompute", as_str(&ledger), "--key", &line]);
    let printed = text(&output.stdout);
    for client in &federation.clients {
        assert!(printed.contains(&format!("{}: 5 attempts, ", client.verifying_key())), "{printed}");
    }
    assert!(printed.contains("4 pseudonyms, 0 bindings disclosed"), "{printed}");
    let output = audit(&["verify", as_str(&ledger), "--key", &line, "--json"]);
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((json["verified"].as_bool(), json["size"].as_u64()), (Some(true), Some(7)));
    let epsilon = json["tasks"][0]["epsilon_charged"]["coordinator"].as_f64().expect("a number");
    assert_eq!(epsilon, crate::support::mechanism().promised_epsilon(5, 1e-5));
    let checkpoint = ledger.join("checkpoint");
    let output = audit(&["verify", as_str(&ledger), "--key", &line, "--known", as_str(&checkpoint)]);
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn a_log_without_noise_is_never_shown_with_an_epsilon() {
    let mut federation = Federation::with_mechanism(mechanism_with(NoiseTarget::None));
    federation.attempt("released", &[0, 1, 2, 3]);
    let dir = tempfile::tempdir().expect("a folder");
    federation.write(dir.path());
    let line = federation.signer.ledger_key().to_string();
    for verb in ["verify", "recompute"] {
        let output = audit(&[verb, as_str(dir.path()), "--key", &line]);
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        let printed = text(&output.stdout);
        assert!(printed.contains("  NO NOISE: nothing is promised to anybody's records"), "{printed}");
        let last =
            "verified: every hash, signature and quorum holds; NOT PRIVATE: no noise, and no epsilon, in digits\n";
        assert!(printed.ends_with(last), "{printed}");
        assert!(!printed.contains("inf ") && !printed.contains("epsilon against"), "{printed}");
        let json: serde_json::Value =
            serde_json::from_slice(&audit(&[verb, as_str(dir.path()), "--key", &line, "--json"]).stdout).expect("JSON");
        assert_eq!((&json["verified"], &json["every_task_has_noise"]), (&true.into(), &false.into()));
        let task = &json["tasks"][0];
        assert_eq!(task["noise"], "none");
        let null = serde_json::Value::Null;
        assert_eq!((&task["budget_epsilon"], &task["epsilon_charged"]["coordinator"]), (&null, &null));
        assert_eq!(
            (&task["epsilon_attained"]["outsider"], &task["pseudonyms"][0]["epsilon_charged"]["outsider"]),
            (&null, &null)
        );
    }
    let printed = text(&audit(&["recompute", as_str(dir.path()), "--key", &line]).stdout);
    assert_eq!(printed.matches("1 revealed sums, no guarantee").count(), 4, "{printed}");
}

#[test]
fn a_finding_exits_one_and_names_the_entry_on_two_lines() {
    let mut federation = Federation::with_history();
    federation.change(4, |attempt| attempt.epsilons.coordinator = 0.1);
    let dir = tempfile::tempdir().expect("a folder");
    federation.write(dir.path());
    let line = federation.signer.ledger_key().to_string();
    let output = audit(&["verify", as_str(dir.path()), "--key", &line]);
    assert_eq!(output.status.code(), Some(1));
    let errors = text(&output.stderr);
    let lines: Vec<&str> = errors.lines().collect();
    assert_eq!(lines.len(), 2, "{errors}");
    assert!(lines[0].starts_with("error: entry 4 (attempt, round 3): declares epsilon 0.1 "), "{errors}");
    assert!(lines[1].starts_with(" help: "), "{errors}");
    assert!(text(&output.stdout).ends_with("NOT verified: 1 finding\n"));
    let output = audit(&["recompute", as_str(dir.path()), "--key", &line, "--json"]);
    assert_eq!(output.status.code(), Some(1));
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let finding = &json["findings"][0];
    assert_eq!((finding["entry"].as_u64(), finding["round"].as_u64()), (Some(4), Some(3)));
    assert_eq!((finding["kind"].as_str(), json["verified"].as_bool()), (Some("attempt"), Some(false)));
}

#[test]
fn flipped_bytes_exit_one() {
    let federation = Federation::with_history();
    let dir = tempfile::tempdir().expect("a folder");
    federation.write(dir.path());
    let line = federation.signer.ledger_key().to_string();
    for path in ["checkpoint", "tile/0/000.p/7", "tile/entries/000.p/7"] {
        let path = dir.path().join(path);
        let intact = fs::read(&path).expect("readable");
        let mut flipped = intact.clone();
        flipped[intact.len() / 2] ^= 4;
        fs::write(&path, flipped).expect("written");
        let output = audit(&["verify", as_str(dir.path()), "--key", &line]);
        assert_eq!(output.status.code(), Some(1), "{}", path.display());
        assert!(text(&output.stderr).starts_with("error: "));
        fs::write(&path, intact).expect("written");
    }
}

#[test]
fn what_cannot_be_audited_exits_two() {
    let federation = Federation::with_history();
    let dir = tempfile::tempdir().expect("a folder");
    federation.write(dir.path());
    let line = federation.signer.ledger_key().to_string();
    let nothing = tempfile::tempdir().expect("a folder");
    let missing = nothing.path().join("missing");
    let check = |arguments: &[&str], says: &str| {
        let output = audit(arguments);
        let errors = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {errors}");
        assert!(errors.contains(says), "{arguments:?}: {errors}");
        errors
    };
    let two_lines = |errors: String| {
        assert_eq!(errors.lines().count(), 2, "{errors}");
        assert!(errors.starts_with("error: ") && errors.contains("\n help: "), "{errors}");
    };
    two_lines(check(&["verify", as_str(nothing.path()), "--key", &line], "has no checkpoint"));
    two_lines(check(&["verify", as_str(&missing), "--key", &line], "has no checkpoint"));
    two_lines(check(&["verify", as_str(dir.path()), "--key", as_str(&missing)], "cannot read the key file"));
    two_lines(check(&["verify", as_str(dir.path()), "--key", &line.replace("org+", "org+0")], "--key: "));
    let checkpoint = dir.path().join("checkpoint");
    two_lines(check(&["verify", as_str(dir.path()), "--key", as_str(&checkpoint)], "not a key"));
    let known = ["verify", as_str(dir.path()), "--key", &line, "--known", as_str(&missing)];
    two_lines(check(&known, "cannot read the known checkpoint"));
    check(&["verify", as_str(dir.path())], "--key");
    check(&["destroy"], "unrecognized subcommand");
}

#[test]
fn the_auditor_has_no_network_and_no_tensors_in_its_tree() {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--offline", "--edges", "normal", "--prefix", "none", "--package", "eranos-ledger"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", text(&output.stderr));
    let tree = text(&output.stdout);
    for banned in ["tokio ", "quinn ", "ndarray ", "rustls ", "rusqlite "] {
        assert!(!tree.lines().any(|line| line.starts_with(banned)), "{banned}is in the tree");
    }
    assert!(tree.contains("eranos-privacy "), "{tree}");
}

#[test]
fn the_statement_says_what_recompute_says_and_every_field_of_an_auditors_list() {
    let federation = Federation::with_history();
    let dir = tempfile::tempdir().expect("a folder");
    federation.write(dir.path());
    let line = federation.signer.ledger_key().to_string();
    let run = |arguments: &[&str]| {
        let output = audit(&[arguments, &[as_str(dir.path()), "--key", &line]].concat());
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        text(&output.stdout)
    };
    let json = |arguments: &[&str]| serde_json::from_str::<serde_json::Value>(&run(arguments)).expect("JSON");
    let recomputed = &json(&["recompute", "--json"])["tasks"][0];
    let task = &json(&["statement", "--json"])["tasks"][0];
    assert_eq!(task["epsilon"], recomputed["epsilon_charged"]["coordinator"]);
    assert_eq!((&task["delta"], &task["private"]), (&recomputed["delta"], &true.into()));
    // Each party's is its own.
    let epsilon = recomputed["pseudonyms"][0]["epsilon_charged"]["coordinator"].as_f64().expect("a number");
    let pseudonym = recomputed["pseudonyms"][0]["pseudonym"].as_str().expect("a text");
    let markdown = run(&["statement"]);
    assert!(markdown.contains(&format!("{pseudonym} {epsilon:.6} (5 attempts)")), "{markdown}");

    let headings = [
        ("What it is about", &["Product", "Released weights", "Parties", "Dates", "Curator", "Purpose"][..]),
        (
            "What is protected",
            &["Unit", "Neighbouring relation", "Maximal contribution", "People with several records"],
        ),
        (
            "How much is promised",
            &["Epsilon spent", "Epsilon left", "Curve", "Epsilon of one attempt", "Of each party"],
        ),
        (
            "Whom it is promised against",
            &["Trust model", "Why sampling amplifies", "Thresholds", "Colluders tolerated"],
        ),
        ("Mechanism", &["Name", "Clip (C)", "Sampling probability (q)", "Expected lot (L)", "Most records of a party"]),
        ("Accounting", &["Accountant", "Orders", "Composition"]),
        ("Software", &["Sampler", "Randomness", "Floats", "Audit by canaries"]),
        ("What is not protected", &["Participation", "Times", "Schema", "Search for settings", "Known to be open"]),
        ("How to check it", &["Ledger", "Key", "Command", "Verified"]),
    ];
    for (heading, names) in headings {
        assert!(markdown.contains(&format!("\n### {heading}\n")), "{heading}");
        for name in names {
            let value = task["statement"][heading][name].as_str().unwrap_or_else(|| panic!("{heading}, {name}"));
            assert!(markdown.contains(&format!("\n- **{name}**: {value}\n")), "{heading}, {name}");
        }
    }
    let about = &task["statement"]["What it is about"];
    assert_eq!((&about["Curator"], &about["Responsible contact"]), (&"not recorded".into(), &"not recorded".into()));
    assert!(markdown.contains("rho = ") && markdown.contains("version 0.1.0, SHA-256 "), "{markdown}");
    assert!(markdown.contains(" at 1e-4; ") && markdown.contains("opened on 2023-11-14"), "{markdown}");
    // A sentence for everybody comes first.
    let third = markdown.lines().nth(4).expect("a line");
    assert!(third.starts_with("Whether any one record of any one party "), "{third}");
    assert_eq!(task["sentence"], third);
}

#[test]
fn the_statement_of_a_task_without_noise_says_so_first() {
    let mut federation = Federation::with_mechanism(mechanism_with(NoiseTarget::None));
    federation.attempt("released", &[0, 1, 2, 3]);
    let dir = tempfile::tempdir().expect("a folder");
    federation.write(dir.path());
    let line = federation.signer.ledger_key().to_string();
    let output = audit(&["statement", as_str(dir.path()), "--key", &line]);
    let markdown = text(&output.stdout);
    assert!(
        markdown.starts_with("# Privacy statement\n\n## Task digits\n\nNOT PRIVATE: nobody added noise"),
        "{markdown}"
    );
    assert!(!markdown.contains("NaN") && !markdown.contains("inf "), "{markdown}");
    let output = audit(&["statement", as_str(dir.path()), "--key", &line, "--json"]);
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let task = &json["tasks"][0];
    assert_eq!((&task["private"], &task["epsilon"]), (&false.into(), &serde_json::Value::Null));
}

#[test]
fn the_statement_of_a_ledger_that_does_not_verify_says_so_first() {
    let mut federation = Federation::with_history();
    federation.change(4, |attempt| attempt.epsilons.coordinator = 0.1);
    let dir = tempfile::tempdir().expect("a folder");
    federation.write(dir.path());
    let output = audit(&["statement", as_str(dir.path()), "--key", &federation.signer.ledger_key().to_string()]);
    assert_eq!(output.status.code(), Some(1));
    let markdown = text(&output.stdout);
    assert!(markdown.starts_with("# Privacy statement\n\n**NOT VERIFIED: 1 findings."), "{markdown}");
    assert!(markdown.contains("- **Verified**: NO: 1 findings"), "{markdown}");
}
