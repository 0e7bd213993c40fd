//! What `eranos data check` shows of the samples, through the real binary.

use std::{path::Path, process::Command};

/// Runs `eranos data check` in the samples' folder; gives its status and what it printed.
fn check(arguments: &[&str]) -> (bool, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_eranos"));
    command.args(["data", "check"]).args(arguments);
    let output = command.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("samples")).output().unwrap();
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
