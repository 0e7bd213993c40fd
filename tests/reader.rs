//! `read_ledger.py`, which reads a ledger as `docs/ledger.md` draws it and shares no code with the writer.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Output},
};

/// Python with `cryptography`, if there is one: `$PYTHON`, or `python3`. Says so, past the capture of a passing test's
/// output, where there is none.
fn python() -> Option<String> {
    let python = std::env::var("PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let found = Command::new(&python).args(["-c", "import cryptography"]).output();
    if found.is_ok_and(|output| output.status.success()) {
        return Some(python);
    }
    let _ = writeln!(
        std::io::stderr(),
        "SKIPPED: {python} has no module `cryptography`, so no second reader read the ledger; pip install cryptography"
    );
    None
}

fn read(python: &str, ledger: &Path, key: &Path) -> Output {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/read_ledger.py");
    Command::new(python).arg(script).args([ledger, key]).output().unwrap()
}

/// Reads the ledger, if there is a Python that can. What it read, as it says.
pub(crate) fn check(ledger: &Path, key: &Path) -> Option<serde_json::Value> {
    let output = read(&python()?, ledger, key);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(serde_json::from_slice(&output.stdout).unwrap())
}

fn vectors() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("common/ledger/tests/vectors")
}

#[test]
fn a_reader_in_another_language_reads_the_stored_log() {
    let Some(read) = check(&vectors().join("log"), &vectors().join("ledger.pub")) else { return };
    let expected =
        [("size", 9), ("keys", 2), ("released", 4), ("pseudonyms", 4), ("statements", 20), ("attachments", 6)];
    for (name, value) in expected {
        assert_eq!(read[name], value, "{read}");
    }
    let Some(kinds) = check(&vectors().join("kinds"), &vectors().join("ledger.pub")) else { return };
    for (name, value) in [("size", 14), ("released", 2), ("members", 6), ("attachments", 2)] {
        assert_eq!(kinds[name], value, "{kinds}");
    }
    let Some(restored) = check(&vectors().join("restored"), &vectors().join("ledger.pub")) else { return };
    for (name, value) in [("size", 4), ("released", 1), ("attachments", 1)] {
        assert_eq!(restored[name], value, "{restored}");
    }
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/ledger.md")).unwrap();
    assert!(page.contains(&format!("`{}`", read["root"].as_str().unwrap())), "the page names the root: {read}");
}

#[test]
fn a_reader_in_another_language_finds_what_was_altered() {
    let Some(python) = python() else { return };
    let dir = tempfile::tempdir().unwrap();
    let copied = Command::new("cp").arg("-r").args([&vectors().join("log"), &dir.path().join("log")]).status().unwrap();
    assert!(copied.success());
    let (log, key) = (dir.path().join("log"), vectors().join("ledger.pub"));
    let attachment = walk(&log.join("attachment")).swap_remove(0);
    let files = ["checkpoint", "tile/0/000.p/9", "tile/entries/000.p/9"].map(|name| log.join(name));
    for file in files.iter().chain([&attachment]) {
        let intact = fs::read(file).unwrap();
        for place in [0, intact.len() / 2, intact.len() - 1] {
            let mut altered = intact.clone();
            altered[place] ^= 1;
            fs::write(file, altered).unwrap();
            let output = read_checked(&python, &log, &key);
            assert!(!output.status.success(), "{}, byte {place}", file.display());
        }
        fs::write(file, intact).unwrap();
    }
    fs::remove_file(&attachment).unwrap();
    let output = read_checked(&python, &log, &key);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && error.contains("entry ") && error.contains(" is missing"), "{error}");
}

/// Whatever it finds, it says in one line.
fn read_checked(python: &str, ledger: &Path, key: &Path) -> Output {
    let output = read(python, ledger, key);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.starts_with("does not hold: ") && error.lines().count() == 1, "{error}");
    output
}

fn walk(dir: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = fs::read_dir(dir)
        .unwrap()
        .flat_map(|file| {
            let path = file.unwrap().path();
            if path.is_dir() { walk(&path) } else { vec![path] }
        })
        .collect();
    found.sort();
    found
}
