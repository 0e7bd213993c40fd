//! `eranos witness` as a person meets it: made, shown a growing ledger, shown another history, and demanded by an auditor.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
    sync::Arc,
};

use crate::budgets::{Running, Trial, check_error, set};

use eranos_base::SigningKey;
use eranos_ledger::{
    EncodedEntry, LedgerSigner, LogWriter,
    entry::attachment_of,
    tile::{Folder, Tile, TileSource, parse_entries},
};

/// The ledger's key, which a dishonest operator has too.
fn signer() -> Arc<LedgerSigner> {
    Arc::new(LedgerSigner::new("ledger.example.org".parse().unwrap(), SigningKey::from_seed(&[1; 32])))
}

/// Writes a log of the stored entries with these numbers.
fn write_log(dir: &Path, numbers: &[usize]) {
    let stored = Folder::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("common/ledger/tests/vectors/log"));
    let tile = Tile::parse("tile/entries/000.p/9").unwrap();
    let bundle = stored.read(&tile).unwrap();
    let leaves = parse_entries(&tile, &bundle).unwrap();
    let entry = |number: &usize| {
        let leaf = leaves[*number].to_vec();
        let attachment = attachment_of(&leaf).map(|name| stored.read_attachment(&name).unwrap());
        EncodedEntry { leaf, attachment }
    };
    let entries: Vec<EncodedEntry> = numbers.iter().map(entry).collect();
    let _ = fs::remove_dir_all(dir);
    LogWriter::open(dir, signer()).unwrap().append_all(0, &entries).unwrap();
}

fn run(dir: &Path, arguments: &[&str]) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } =
        Command::new(env!("CARGO_BIN_EXE_eranos")).args(arguments).current_dir(dir).output().unwrap();
    (status.code(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

#[test]
fn a_witness_is_made_cosigns_refuses_and_is_demanded() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let copy = dir.join("copy");
    fs::write(dir.join("ledger.pub"), format!("{}\n", signer().ledger_key())).unwrap();
    let init = ["witness", "init", "--name", "witness.example/w1", "--ledger-key", "ledger.pub"];
    let (code, line, errors) = run(dir, &init);
    assert_eq!(code, Some(0), "{errors}");
    assert_eq!(line, fs::read_to_string(dir.join("witness/witness.pub")).unwrap());
    assert!(line.starts_with("witness.example/w1+"), "{line}");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(fs::metadata(dir.join("witness/witness.seed")).unwrap().permissions().mode() & 0o777, 0o600);
    }
    let (code, shown, _) = run(dir, &["witness", "show"]);
    assert_eq!(code, Some(0));
    assert!(
        shown.ends_with("ledger.example.org: nothing was cosigned yet\nno fork and no rewind was seen\n"),
        "{shown}"
    );

    // It grows, and is cosigned; the auditor finds that in the copy.
    write_log(&copy, &[0, 1, 2]);
    assert_eq!(run(dir, &["witness", "cosign", "copy"]).0, Some(0));
    let demand = ["audit", "verify", "copy", "--key", "ledger.pub", "--witness", "witness/witness.pub"];
    write_log(&copy, &[0, 1, 2, 3]);
    let (code, _, errors) = run(dir, &demand);
    assert_eq!(code, Some(1));
    assert!(errors.contains("witness of the checkpoint: no signature by witness.example/w1+"), "{errors}");
    let (code, printed, errors) = run(dir, &["witness", "cosign", "copy", "--attach", "--out", "cosigned"]);
    assert_eq!(code, Some(0), "{errors}");
    assert!(printed.starts_with("\u{2014} witness.example/w1 ") && printed.lines().count() == 1, "{printed}");
    assert!(errors.starts_with("ledger.example.org: 4 entries under root "), "{errors}");
    let checkpoint = fs::read_to_string(copy.join("checkpoint")).unwrap();
    assert!(checkpoint.ends_with(&printed), "{checkpoint}");
    assert_eq!(checkpoint, fs::read_to_string(dir.join("cosigned")).unwrap());
    let (code, printed, errors) = run(dir, &demand);
    assert_eq!(code, Some(0), "{errors}");
    assert!(printed.contains("\n  cosigned by witness.example/w1 on "), "{printed}");

    // Another history, an older copy: exit code 1, and the evidence.
    for (numbers, says) in [(&[0, 1, 3, 2, 4][..], "error: FORK: "), (&[0, 1], "error: REWIND: ")] {
        write_log(&copy, numbers);
        let (code, printed, errors) = run(dir, &["witness", "cosign", "copy", "--attach", "--out", "never"]);
        assert_eq!((code, printed.as_str(), errors.lines().count()), (Some(1), "", 2), "{errors}");
        assert!(errors.starts_with(says) && errors.contains("witness/evidence/"), "{errors}");
        assert!(!dir.join("never").exists() && !fs::read_to_string(copy.join("checkpoint")).unwrap().contains("w1"));
    }
    let (_, shown, _) = run(dir, &["witness", "show"]);
    assert!(shown.ends_with("EVIDENCE of 2 forks or rewinds is kept in witness/evidence\n"), "{shown}");
    let (code, json, _) = run(dir, &["witness", "show", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!((code, json["size"].as_u64(), json["evidence"].as_u64()), (Some(0), Some(4), Some(2)));
    // Its key is the one that is pinned; another one is pinned by hand.
    assert_eq!(run(dir, &["witness", "pin", "--ledger-key", "ledger.pub"]).0, Some(0));
    let other = LedgerSigner::new("other.example.org".parse().unwrap(), SigningKey::from_seed(&[1; 32]));
    let (code, _, errors) = run(dir, &["witness", "pin", "--ledger-key", &other.ledger_key().to_string()]);
    assert_eq!((code, errors.lines().count()), (Some(2), 2), "{errors}");
    // The honest history goes on.
    write_log(&copy, &[0, 1, 2, 3, 4]);
    let (code, json, _) = run(dir, &["witness", "cosign", "copy", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!((code, json["size"].as_u64()), (Some(0), Some(5)));
}

#[test]
fn what_a_witness_cannot_do_is_said_on_two_lines() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let key = signer().ledger_key().to_string();
    let init = ["witness", "init", "--name", "w1", "--ledger-key", &key];
    let check = |arguments: &[&str], says: &str, next: &str| {
        let (code, printed, errors) = run(dir, arguments);
        assert_eq!((code, printed.as_str(), errors.lines().count()), (Some(2), "", 2), "{arguments:?}: {errors}");
        assert!(errors.contains(says) && errors.contains(next), "{errors}");
    };
    check(&["witness", "cosign", "copy"], "cannot open witness", "check that the folder is there");
    check(&["witness", "init", "--name", "a b", "--ledger-key", &key], "name \"a b\"", "witness.example/w1");
    check(&["witness", "init", "--name", "w1", "--ledger-key", "nowhere"], "cannot read the key file", "ledger.pub");
    assert_eq!(run(dir, &init).0, Some(0));
    check(&init, "there is a witness in witness already", "give another folder");
    check(&["witness", "cosign", "copy"], "copy has no checkpoint", "the one that holds the file `checkpoint`");
    write_log(&dir.join("copy"), &[0, 1]);
    fs::remove_file(dir.join("copy/tile/0/000.p/2")).unwrap();
    check(&["witness", "cosign", "copy"], "tile/0/000.p/2 is missing", "copy the ledger again");
    write_log(&dir.join("copy"), &[0, 1]);
    let writer = LogWriter::open(dir.join("copy"), signer()).unwrap();
    check(&["witness", "cosign", "copy", "--attach"], "copy is in use by another process", "attach to a copy");
    drop(writer);
    fs::remove_file(dir.join("witness/checkpoint")).unwrap();
    check(&["witness", "show"], "witness/checkpoint: it is missing", "make a new witness");
}

#[test]
fn a_client_takes_part_once_its_witness_has_cosigned_what_the_coordinator_shows_it() {
    let trial = Trial::new(3, "tiny", 2000);
    let line = trial.must(&["witness", "init", "--name", "witness.test/w1", "--ledger-key", "main/ledger.pub"]);
    let policy = trial.path("silo-1/policy.toml");
    set(&policy, "witnesses_min = ", &format!("witnesses = [{:?}]\nwitnesses_min = 1", line.trim()));
    set(&policy, "witness_lag_max = ", "witness_lag_max = 1");
    let lives = |says: &[&str]| {
        let mut coordinator = trial.coordinator(&[]);
        coordinator.heard("listening on ");
        let mut clients: Vec<Running> = (1..=3).map(|i| trial.client(i, &[])).collect();
        says.iter().for_each(|says| while !clients[0].heard("silo-1: ").contains(says) {});
        coordinator.signal("TERM");
        assert!(coordinator.finish().success());
    };
    lives(&["refused: policy: 0 of 1 witnesses have cosigned ", "help: let the witnesses of policy.toml cosign "]);
    assert_eq!(trial.budget(1)["attempts_charged"].as_u64(), Some(0));
    // Whichever way the cosignature comes back.
    for bring in [&["--attach"][..], &["--out", "main/state/cosigned/w1"]] {
        trial.must(&[&["witness", "cosign", "main/state/ledger"], bring].concat());
        lives(&[" settled"]);
    }
    trial.check_accounts("cosigned");
    // The ledger's own key is no witness, and a key that is none is named with its line.
    let check = |line: &str, says: &str| {
        set(&policy, "witnesses = ", &format!("witnesses = [{line:?}]"));
        check_error(&trial.client(1, &[]).output(), says, "");
    };
    let key: eranos_ledger::LedgerKey =
        fs::read_to_string(trial.path("main/ledger.pub")).unwrap().trim().parse().unwrap();
    let own = eranos_ledger::WitnessKey::new(key.name().clone(), *key.key()).unwrap();
    check(&own.to_string(), "has a key of the ledger itself");
    set(&policy, "witnesses = ", &format!("witnesses = [{:?}]", key.to_string()));
    let errors = trial.client(1, &[]).output().stderr;
    assert!(String::from_utf8(errors).unwrap().contains("a witness's 0x04"));
}
