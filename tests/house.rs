//! House rules that matter are tests, not wishes: which crate may see which, the mirrored files of a round's phases,
//! who may name which dependency, no key material in git.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    process::Command,
};

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand};

/// Which of our crates each of our crates may depend on: arrows point down only.
const ARROWS: &[(&str, &[&str])] = &[
    ("eranos-base", &[]),
    ("eranos-nn", &["eranos-base"]),
    ("eranos-privacy", &["eranos-base"]),
    ("eranos-secagg", &["eranos-base"]),
    ("eranos-certs", &["eranos-base"]),
    ("eranos-service", &["eranos-base"]),
    ("eranos-ledger", &["eranos-base", "eranos-privacy"]),
    ("eranos-wire", &["eranos-base", "eranos-ledger", "eranos-privacy", "eranos-secagg"]),
    ("eranos-coordinator", BELOW),
    ("eranos-client", BELOW),
    (
        "eranos",
        &[
            "eranos-base",
            "eranos-certs",
            "eranos-client",
            "eranos-coordinator",
            "eranos-ledger",
            "eranos-nn",
            "eranos-privacy",
            "eranos-secagg",
            "eranos-service",
            "eranos-wire",
        ],
    ),
];

/// What coordinator and client see: everything below, never each other.
const BELOW: &[&str] = &[
    "eranos-base",
    "eranos-certs",
    "eranos-ledger",
    "eranos-nn",
    "eranos-privacy",
    "eranos-secagg",
    "eranos-service",
    "eranos-wire",
];

/// Dependencies that only these crates may name.
const CONFINED: &[(&str, &[&str])] = &[
    ("bincode", &["eranos-base"]),
    ("hyper", &["eranos-coordinator"]),
    ("ndarray", &["eranos-nn"]),
    ("quinn", &["eranos", "eranos-client", "eranos-coordinator"]),
    ("prometheus-client", &["eranos-coordinator"]),
    ("rand_distr", &["eranos-nn", "eranos-privacy"]),
    ("rusqlite", &["eranos-coordinator"]),
    ("safetensors", &["eranos-nn"]),
    ("tokio", &["eranos", "eranos-client", "eranos-coordinator", "eranos-service"]),
    // Files that a person writes: each side's own, and what a record is, which both sides read.
    ("toml", &["eranos-client", "eranos-coordinator", "eranos-nn"]),
];

/// What our own manifests say. Without the tree below: a fresh machine has not fetched what only other systems need.
fn metadata() -> Metadata {
    let mut command = MetadataCommand::new();
    command.manifest_path(root().join("Cargo.toml")).no_deps().other_options(["--offline".into()]).exec().unwrap()
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Each of our packages with the names it depends on, those of its tests left out.
fn dependencies() -> BTreeMap<String, Vec<String>> {
    let metadata = metadata();
    let packages = metadata.workspace_packages();
    packages
        .iter()
        .map(|package| {
            let normal = package.dependencies.iter().filter(|d| d.kind != DependencyKind::Development);
            (package.name.to_string(), normal.map(|d| d.name.clone()).collect())
        })
        .collect()
}

#[test]
fn arrows_between_our_crates_point_down_only() {
    let dependencies = dependencies();
    assert_eq!(dependencies.len(), ARROWS.len(), "every crate of the workspace stands in ARROWS: {dependencies:?}");
    for (package, allowed) in ARROWS {
        for name in dependencies[*package].iter().filter(|name| name.starts_with("eranos")) {
            assert!(allowed.contains(&name.as_str()), "{package} must not depend on {name}");
        }
    }
}

#[test]
fn confined_dependencies_stay_where_they_are_allowed() {
    for (package, names) in dependencies() {
        for (confined, allowed) in CONFINED {
            if names.iter().any(|name| name == confined) {
                assert!(allowed.contains(&package.as_str()), "{package} must not depend on {confined}");
            }
        }
    }
}

#[test]
fn what_commands_print_need_not_be_read_to_the_end() {
    let words = |text: &str| -> Vec<String> {
        text.split(|c: char| !(c.is_alphanumeric() || "_!".contains(c))).map(str::to_owned).collect()
    };
    let by_itself: Vec<_> = tracked_files()
        .into_iter()
        .filter(|path| path.ends_with(".rs") && path.contains("src/") && !path.contains("tests"))
        .filter(|path| {
            let text = fs::read_to_string(root().join(path)).unwrap_or_default();
            let program = text.split("#[cfg(test)]").next().unwrap_or_default();
            let code = program.lines().filter(|line| !line.trim_start().starts_with("//"));
            let used = words(&code.collect::<Vec<_>>().join("\n"));
            let ours =
                text.lines().filter(|line| line.starts_with("use eranos_base::")).flat_map(words).collect::<Vec<_>>();
            ["print", "println"]
                .iter()
                .any(|name| used.contains(&format!("{name}!")) && !ours.iter().any(|imported| imported == name))
        })
        .collect();
    assert_eq!(by_itself, ["common/base/src/output.rs"], "the standard library's fail where nobody reads on");
}

#[test]
fn bincode_is_named_in_one_file() {
    let named: Vec<_> = tracked_files()
        .into_iter()
        .filter(|path| path.ends_with(".rs") && !path.starts_with("tests/"))
        .filter(|path| fs::read_to_string(root().join(path)).unwrap_or_default().contains("bincode::"))
        .collect();
    assert_eq!(named, ["common/base/src/encoding.rs"]);
}

#[test]
fn the_auditors_tool_needs_no_network_and_no_tensors() {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--offline", "--package", "eranos-ledger", "--edges", "normal", "--prefix", "none"])
        .current_dir(root())
        .output()
        .unwrap();
    let tree = String::from_utf8(output.stdout).unwrap();
    assert!(tree.contains("eranos-ledger"), "{}", String::from_utf8_lossy(&output.stderr));
    for absent in ["quinn", "tokio", "ndarray", "rustls"] {
        assert!(!tree.lines().any(|line| line.split(' ').next() == Some(absent)), "eranos-audit pulls in {absent}");
    }
}

#[test]
fn the_phases_of_a_round_have_one_file_each_on_every_side() {
    let phases = [
        "abort",
        "advertise_keys",
        "configure",
        "consistency",
        "masked_input",
        "select",
        "settle",
        "share_keys",
        "unmask",
    ];
    for dir in ["common/wire/src/messages", "coordinator/src/round", "client/src/round"] {
        let mut found: Vec<_> = fs::read_dir(root().join(dir))
            .unwrap()
            .map(|entry| entry.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned())
            .filter(|name| name != "mod" && name != "tests")
            .collect();
        found.sort();
        assert_eq!(found, phases, "{dir}");
    }
}

#[test]
fn every_library_forbids_unsafe_code() {
    // A crate with one measured kernel denies it instead, and allows it in `kernel.rs` alone.
    for path in tracked_files().iter().filter(|path| path.ends_with("src/lib.rs")) {
        let text = fs::read_to_string(root().join(path)).unwrap();
        let denies = text.contains("#![deny(unsafe_code)]") && root().join(path).with_file_name("kernel.rs").exists();
        assert!(text.contains("#![forbid(unsafe_code)]") || denies, "{path}");
    }
}

#[test]
fn every_test_that_a_page_names_exists() {
    let mut tests = BTreeSet::new();
    for path in tracked_files().iter().filter(|path| path.ends_with(".rs")) {
        let text = fs::read_to_string(root().join(path)).unwrap_or_default();
        let mut is_test = false;
        for line in text.lines().map(str::trim_start) {
            let name = line.trim_start_matches("async ").strip_prefix("fn ").and_then(|rest| rest.split('(').next());
            if let Some(name) = name {
                if is_test {
                    tests.insert(name.to_owned());
                }
                is_test = false;
            }
            is_test |= line.starts_with("#[test]") || line.starts_with("#[tokio::test");
        }
    }
    for (page, n_rows_min) in [("docs/attacks.md", 40), ("docs/privacy-tests.md", 17)] {
        let text = fs::read_to_string(root().join(page)).unwrap();
        // The tests of an attack or of a broken variant stand in the last cell of its row.
        let rows: Vec<_> = text.lines().filter(|line| line.starts_with("| ") && line.contains('`')).collect();
        assert!(rows.len() >= n_rows_min, "{page}: {} rows", rows.len());
        for row in rows {
            let names: Vec<&str> = row.rsplit('|').nth(1).unwrap_or_default().split('`').skip(1).step_by(2).collect();
            assert!(!names.is_empty(), "{page}: no test in {row}");
            for name in names {
                assert!(tests.contains(name), "{page} names {name:?}, and there is no such test");
            }
        }
    }
}

#[test]
fn the_page_of_limits_names_every_limit_and_no_other() {
    let page = fs::read_to_string(root().join("docs/limits.md")).unwrap();
    let constants = |path: &str| -> BTreeSet<String> {
        let text = fs::read_to_string(root().join(path)).unwrap();
        let names = text.lines().filter_map(|line| line.strip_prefix("pub const ")?.split(':').next());
        names.map(str::to_owned).collect()
    };
    let named: BTreeSet<String> = page
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split(" |").next())
        .flat_map(|cell| cell.split(['`', ',', ' ']).filter(|name| !name.is_empty()))
        .map(str::to_owned)
        .collect();
    let known = &constants("common/base/src/limits.rs") | &constants("coordinator/src/limits.rs");
    assert!(known.len() > 30);
    assert_eq!(named, known);
}

#[test]
fn no_key_material_is_in_git() {
    for path in tracked_files() {
        let bytes = fs::read(root().join(&path)).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        // Written in two parts, so that this file does not find itself.
        let marker = ["-----BEGIN ", "PRIVATE KEY-----"].concat();
        assert!(!text.contains(&marker), "{path} holds a private key");
        let name = path.rsplit('/').next().unwrap_or_default();
        assert!(!name.ends_with(".key") && !name.ends_with("key.pem") && !name.ends_with(".p12"), "{path}");
    }
}

/// The files that git tracks; in a copy without git, those below the folders of the workspace.
fn tracked_files() -> Vec<String> {
    let output = Command::new("git").args(["ls-files"]).current_dir(root()).output();
    let listed = output.ok().filter(|o| o.status.success()).map(|o| String::from_utf8_lossy(&o.stdout).into_owned());
    let files: Vec<String> = listed.unwrap_or_default().lines().map(str::to_owned).collect();
    if !files.is_empty() {
        return files;
    }
    let mut found = Vec::new();
    let mut folders = vec![root().to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()) {
            let name = entry.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if entry.is_dir() && name != "target" && !name.starts_with('.') {
                folders.push(entry);
            } else if entry.is_file() {
                found.push(entry.strip_prefix(root()).unwrap().to_string_lossy().into_owned());
            }
        }
    }
    found
}
