//! What `eranos data` makes and shows of the samples, through the real binary.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use eranos_nn::data::{Files, Format};

/// Runs `eranos data check` in the samples' folder; gives its status and what it printed.
fn check(arguments: &[&str]) -> (bool, String, String) {
    check_in(&Path::new(env!("CARGO_MANIFEST_DIR")).join("samples"), arguments)
}

fn check_in(folder: &Path, arguments: &[&str]) -> (bool, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_eranos"));
    command.args(["data", "check"]).args(arguments);
    let output = command.current_dir(folder).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.success(), text(output.stdout), text(output.stderr))
}

#[test]
fn tables_show_their_columns_and_labels() {
    let (ok, shown, _) = check(&["sms-spam.tsv.gz", "--columns", "label,text", "--label", "label"]);
    assert!(ok);
    let expected = "5574 rows of 2 columns\n\
                    column \"label\": text of up to 4 characters, 2 different values, 0 empty\n\
                    column \"text\": text of up to 910 characters, 5160 different values, 0 empty\n\
                    label \"ham\": 4827 rows\n\
                    label \"spam\": 747 rows\n";
    assert_eq!(shown, expected);
    let (ok, shown, _) = check(&["movielens-sample.csv.gz", "--label", "rating", "--json"]);
    assert!(ok);
    let report: serde_json::Value = serde_json::from_str(&shown).unwrap();
    assert_eq!((&report["rows"], &report["labels"]["4.5"]), (&43_571.into(), &3910.into()));
    let user = serde_json::json!({ "name": "user", "distinct": 530, "empty": 0, "min": 2.0, "max": 671.0 });
    assert_eq!(report["columns"][0], user);
}

#[test]
fn series_show_the_constants_of_their_channels() {
    let files = ["watch-windows-idx3-ubyte.gz", "watch-labels-idx1-ubyte.gz"];
    let (ok, shown, _) = check(&[&files[..], &["--series", "--classes", "7"]].concat());
    assert!(ok);
    let lines: Vec<&str> = shown.lines().collect();
    assert_eq!((lines.len(), lines[0]), (14, "1149 records of [40, 6] values"));
    assert_eq!(lines[8], "channel 0: mean 127.7674, standard deviation 28.4009");
}

#[test]
fn what_cannot_be_read_is_said_in_two_lines() {
    for (arguments, what) in [
        (&["sms-spam.tsv.gz", "--label", "kind"][..], "sms-spam.tsv.gz has no column \"kind\"\n"),
        (&["sms-spam.tsv.gz", "--columns", "text"], "sms-spam.tsv.gz, line 1: 2 fields, expected 1\n"),
        (&["README.md"], "README.md is neither .csv nor .tsv\n"),
        (&["sms-spam.tsv.gz", "watch-labels-idx1-ubyte.gz"], "sms-spam.tsv.gz is not an IDX file: "),
        (
            &["watch-windows-idx3-ubyte.gz", "watch-subjects-idx1-ubyte.gz"],
            "watch-subjects-idx1-ubyte.gz has the label 10 ",
        ),
    ] {
        let (ok, _, error) = check(arguments);
        assert!(!ok && error.starts_with(&format!("error: {what}")), "{arguments:?}: {error}");
        assert_eq!(error.lines().count(), 2, "{arguments:?}: {error}");
    }
}

/// What `eranos data split` gives to parties is what its own data file says.
#[test]
fn the_parties_files_hold_what_the_task_s_data_file_says() {
    for (dataset, files, n_records, shape) in [
        ("mnist", &["images-idx3-ubyte.gz", "labels-idx1-ubyte.gz"][..], 6000, vec![28, 28, 1]),
        ("watch", &["windows-idx3-ubyte.gz", "labels-idx1-ubyte.gz"], 812, vec![40, 6]),
        ("sms-spam", &["messages.tsv.gz", "--columns", "label,text"], 4014, vec![40]),
        ("movielens", &["ratings.csv.gz"], 35_054, vec![2]),
    ] {
        let dir = tempfile::tempdir().unwrap();
        split(dir.path(), dataset);
        let (mut found, mut of_classes) = (0, 0);
        for party in 1..=8 {
            let folder = dir.path().join(format!("party-{party}"));
            let (ok, shown, error) = check_in(&folder, &[&["--data", "../test/data.toml", "--json"], files].concat());
            assert!(ok, "{dataset}: {error}");
            let report: serde_json::Value = serde_json::from_str(&shown).unwrap();
            assert_eq!(report["shape"], serde_json::json!(shape), "{dataset}");
            found += report["records"].as_u64().unwrap();
            of_classes += report["classes"].as_array().unwrap().iter().map(|n| n.as_u64().unwrap()).sum::<u64>();
        }
        assert_eq!((found, of_classes), (n_records, n_records), "{dataset}");
    }
}

#[test]
fn what_a_data_file_does_not_allow_is_named_with_file_and_line() {
    let dir = tempfile::tempdir().unwrap();
    split(dir.path(), "sms-spam");
    let party = dir.path().join("party-1");
    fs::write(party.join("own.tsv"), "ham\thello\nmaybe\tperhaps\n").unwrap();
    fs::write(party.join("swapped.csv"), "text,kind\nhello,ham\n").unwrap();
    fs::write(dir.path().join("bad.toml"), "version = 1\n\n[records]\nformat = \"pictures\"\n").unwrap();
    let digits = Path::new(env!("CARGO_MANIFEST_DIR")).join("samples/watch-labels-idx1-ubyte.gz");
    let data = "../test/data.toml";
    for (data, files, what, next) in [
        (data, &["own.tsv", "--columns", "label,text"][..], "own.tsv, line 2: column \"label\" holds \"maybe\"", ""),
        (data, &["swapped.csv"], "swapped.csv is not what ../test/data.toml describes: ", "--columns"),
        (data, &["absent.csv"], "cannot read absent.csv: ", "check the path"),
        (data, &[digits.to_str().unwrap()], digits.to_str().unwrap(), "the labels after the records"),
        ("../bad.toml", &["own.tsv"], "../bad.toml, line 4: ", "take the task's data.toml"),
        ("../none.toml", &["own.tsv"], "cannot read the data file ../none.toml: ", "take the task's data.toml"),
    ] {
        let (ok, _, error) = check_in(&party, &[&["--data", data], files].concat());
        let (first, second) = error.trim_end().split_once('\n').unwrap();
        assert!(!ok && first.starts_with(&format!("error: {what}")) && second.contains(next), "{files:?}: {error}");
        assert_eq!(error.lines().count(), 2, "{files:?}: {error}");
    }
}

/// `eranos data split` into eight parties.
fn split(out: &Path, dataset: &str) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_eranos"));
    command.args(["data", "split", "--dataset", dataset, "--clients", "8", "--out"]).arg(out);
    assert!(command.output().unwrap().status.success(), "{dataset}");
}

/// All files below a folder, by name.
fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        match entry.is_dir() {
            true => found.extend(files(&entry)),
            false => drop(found.insert(entry.clone(), fs::read(&entry).unwrap())),
        }
    }
    found
}

/// The rows of what a folder holds.
fn rows(folder: &Path) -> Vec<String> {
    let name = |entry: fs::DirEntry| entry.path();
    let records = fs::read_dir(folder).unwrap().map(|entry| name(entry.unwrap())).find(|path| {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        name.ends_with(".gz") && !name.starts_with("labels")
    });
    let records = records.expect("records");
    let is_table = Format::of(&records).is_ok();
    let labels = (!is_table).then(|| folder.join("labels-idx1-ubyte.gz"));
    let columns = records.ends_with("messages.tsv.gz").then(|| vec!["label".to_owned(), "text".to_owned()]);
    match Files::read(&records, labels.as_deref(), columns.as_deref(), 10).unwrap() {
        Files::Idx(data) => (0..data.len()).map(|i| format!("{:?}{:?}", data.label(i), data.record(i))).collect(),
        Files::Table(table) => (0..table.n_rows()).map(|i| table.row(i).collect::<Vec<_>>().join("\t")).collect(),
    }
}

#[test]
fn a_split_deals_out_every_private_record_once_and_the_public_ones_to_nobody() {
    // Data set, parties, private records, test records, and how many records the sample has.
    for (dataset, n_parties, n_private, n_test, n_all) in [
        ("mnist", 3, 6000, 1000, 7000),
        ("watch", 8, 812, 247, 1149),
        ("sms-spam", 4, 4014, 1114, 5574),
        ("movielens", 5, 35_054, 8517, 43_571),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let split = |name: &str, seed: &str| {
            let (parties, out) = (n_parties.to_string(), dir.path().join(name));
            let mut command = Command::new(env!("CARGO_BIN_EXE_eranos"));
            command.args(["data", "split", "--dataset", dataset, "--clients", &parties, "--seed", seed, "--out"]);
            assert!(command.arg(&out).output().unwrap().status.success(), "{dataset}");
            out
        };
        let (one, again, other) = (split("one", "1"), split("again", "1"), split("other", "2"));
        let relative = |folder: &Path| -> Vec<(PathBuf, Vec<u8>)> {
            let strip = |(path, bytes): (PathBuf, Vec<u8>)| (path.strip_prefix(folder).unwrap().to_owned(), bytes);
            files(folder).into_iter().map(strip).collect()
        };
        assert_eq!(relative(&one), relative(&again), "{dataset}: the same seed, the same split");
        // Eight people are eight parties, in an order that the seed draws.
        assert_ne!(relative(&one), relative(&other), "{dataset}: another seed, another split");
        let mut private: Vec<String> =
            (1..=n_parties).flat_map(|party| rows(&one.join(format!("party-{party}")))).collect();
        let test = rows(&one.join("test"));
        assert_eq!((private.len(), test.len()), (n_private, n_test), "{dataset}");
        let n_public = n_all - n_private - n_test;
        assert_eq!(n_public > 0, matches!(dataset, "watch" | "sms-spam"), "{dataset}: {n_public} are set aside");
        let mut elsewhere: Vec<String> =
            (1..=n_parties).flat_map(|party| rows(&other.join(format!("party-{party}")))).collect();
        private.sort_unstable();
        elsewhere.sort_unstable();
        assert_eq!(private, elsewhere, "{dataset}: what is private does not depend on the seed");
    }
}
