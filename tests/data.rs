//! What `eranos data check` shows of the samples, through the real binary.

use std::{fs, path::Path, process::Command};

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
