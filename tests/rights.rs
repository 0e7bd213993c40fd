//! Who may read what the program writes: whatever is not public by name is its owner's alone.

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use crate::budgets::{Running, Trial};

/// Files that anybody may read, in any folder.
const PUBLIC: &[&str] = &[
    // What parties show to each other, and of which authority and which lists they know.
    "request.pem",
    "next-request.pem",
    "certificate.pem",
    "ca.pem",
    "crl.pem",
    "revocations-seen",
    "ledger.pub",
    // What a person writes.
    "coordinator.toml",
    "task.toml",
    "data.toml",
    "client.toml",
    "policy.toml",
    // Empty.
    "lock",
    // The trial's own.
    "model.json",
    "images",
    "labels",
];
/// Folders that anybody may read, with all that is in them.
const PUBLIC_FOLDERS: &[&str] = &["ledger", "cosigned"];

/// Adds the files below `dir` that others than their owner may read, and are not public.
fn exposed(dir: &Path, found: &mut Vec<String>) {
    for entry in fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        // A file of a moment may be gone by now.
        let Ok(metadata) = entry.metadata() else { continue };
        let (name, path) = (entry.file_name().into_string().unwrap(), entry.path());
        if metadata.permissions().mode() & 0o077 == 0 {
            continue;
        }
        match metadata.is_dir() {
            true if PUBLIC_FOLDERS.contains(&name.as_str()) => {}
            true => exposed(&path, found),
            false if PUBLIC.contains(&name.as_str()) => {}
            false => found.push(path.display().to_string()),
        }
    }
}

#[test]
fn whatever_is_not_public_is_readable_by_its_owner_alone() {
    let trial = Trial::new(3, "tiny", 3);
    let look = |when: &str| {
        let mut found = Vec::new();
        exposed(&trial.path(""), &mut found);
        assert!(found.is_empty(), "{when}: {found:#?}");
    };
    look("before anybody ran");
    let mut coordinator = trial.coordinator(&[]);
    let clients: Vec<Running> = (1..=3).map(|i| trial.client(i, &[])).collect();
    coordinator.heard("round   1/3");
    look("while they run");
    assert!(coordinator.finish().success());
    for client in clients {
        assert!(client.finish().success());
    }
    trial.must(&["coordinator", "rotate-key", "--dir", "main"]);
    trial.must(&["certs", "renew", "--dir", "silo-1", "--new-key"]);
    look("afterwards");
}
