//! `eranos simulate` through the real binary.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

fn simulate(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_eranos")).arg("simulate").args(arguments).output().unwrap()
}

#[test]
fn canaries_in_a_real_federation_show_less_than_the_claim() {
    check_audit(&[]);
}

#[test]
fn canaries_beside_which_figures_travel_show_less_than_the_claim() {
    assert_eq!(check_audit(&["--metrics"])["metrics"], true);
}

fn check_audit(more: &[&str]) -> serde_json::Value {
    let canary = ["canary", "--json", "--clients", "5", "--canaries", "800", "--epsilon", "2"];
    let output = simulate(&[&canary[..], more].concat());
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let number = |name: &str| report[name].as_f64().unwrap_or_else(|| panic!("{name}: {report}"));
    assert!((1.9..=2.0).contains(&number("claim_epsilon")), "{report}");
    assert!(number("shown_epsilon") < number("claim_epsilon"), "{report}");
    // The canaries were really there: whoever guesses without a model is right half the time.
    assert!(number("shown_epsilon_if_gaussian") > 0.0, "{report}");
    assert!((300.0..500.0).contains(&number("canaries_in")), "{report}");
    assert_eq!((number("confidence"), &report["contradicted"]), (0.95, &false.into()));
    report
}

#[test]
fn an_audit_that_could_not_fail_is_refused_in_two_lines() {
    for claim in ["5", "0", "-1", "NaN"] {
        let output = simulate(&["canary", &format!("--epsilon={claim}")]);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && error.contains("so that the audit could not fail\n"), "{error}");
        assert_eq!(error.lines().count(), 2, "{error}");
    }
    let help = simulate(&["canary", "--help"]);
    let help = String::from_utf8_lossy(&help.stdout);
    for taught in
        ["A bound ABOVE the claim proves", "A bound below it proves nothing", "Example: eranos simulate canary"]
    {
        assert!(help.contains(taught), "{help}");
    }
}

/// The scenario that the help shows, made smaller, as `change` alters it.
fn scenario(dir: &Path, change: &[(&str, &str)]) -> PathBuf {
    let smaller = [
        ("clients = 1000", "clients = 12"),
        ("clients_max = 1000", "clients_max = 12"),
        ("survivors_min = 667", "survivors_min = 9"),
        ("max_colluders = 100", "max_colluders = 1"),
        ("graph = \"sparse\"", "graph = \"complete\""),
        // Whole batches: their accounting is a closed form.
        ("[1, 4]", "[1, 1]"),
        ("rounds = 2", "rounds = 6"),
        ("masked_input = 0.05", "masked_input = 0.15"),
    ];
    for name in ["fleet.toml", "task.toml", "data.toml"] {
        let mut text = fs::read_to_string(Path::new("docs/examples").join(name)).unwrap();
        for (from, to) in smaller.iter().chain(change) {
            text = text.replace(from, to);
        }
        fs::write(dir.join(name), text).unwrap();
    }
    dir.join("fleet.toml")
}

fn play(change: &[(&str, &str)]) -> serde_json::Value {
    let dir = tempfile::tempdir().unwrap();
    let output = simulate(&[scenario(dir.path(), change).to_str().unwrap(), "--json"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    for round in report["rounds"].as_array_mut().unwrap() {
        let round = round.as_object_mut().unwrap();
        assert!(round["cpu_seconds_coordinator"].as_f64().unwrap() > 0.0, "{round:?}");
        // By this machine's clocks.
        round.retain(|name, _| !name.starts_with("cpu_") && name != "estimated_seconds");
    }
    report
}

#[test]
fn a_scenario_sends_the_same_bytes_and_comes_to_the_same_end_each_time() {
    let report = play(&[]);
    assert_eq!(report, play(&[]));
    let rounds = report["rounds"].as_array().unwrap();
    // Both ends are met, and whoever vanishes is missed.
    assert!(report["released"].as_u64() > Some(0) && report["aborted"].as_u64() > Some(0), "{report}");
    for round in rounds.iter().filter(|round| round["released"] == true) {
        let number = |name: &str| round[name].as_f64().unwrap();
        let gone = |phase: &str| round["vanished"][phase].as_u64().unwrap_or_default();
        let missed = gone("advertise_keys") + gone("share_keys") + gone("masked_input");
        assert_eq!(round["survivors"].as_u64(), Some(12 - missed), "{round}");
        // A vector of 131,072 values went up, the model and nothing larger came down.
        let bits = report["bits"].as_f64().unwrap();
        let vector = 131_072.0 * bits / 8.0;
        assert!((vector..vector + 20_000.0).contains(&number("bytes_up_client_median")), "{round}");
        assert!((487_720.0..540_000.0).contains(&number("bytes_down_client_median")), "{round}");
        // Training, the vector over 10 Mbit/s and the model over 50, and some ways of 30 ms; phases wait for who is gone.
        let least = 20.0 + vector * 8.0 / 10e6 + 487_720.0 * 8.0 / 50e6;
        assert!(number("network_seconds") > least, "{round}");
    }
    // Certificates are fetched once.
    let down =
        |i: usize| rounds[i]["bytes_out_coordinator"].as_u64().unwrap() / rounds[i]["selected"].as_u64().unwrap();
    assert!(down(0) > down(5), "{report}");
    assert_ne!(report, play(&[("seed = 1", "seed = 2")]));
}

#[test]
fn a_slower_line_makes_a_round_longer_and_nothing_else() {
    let nobody = [("rounds = 6", "rounds = 1"), ("0.01", "0.0"), ("0.15", "0.0")];
    let slower = [&nobody[..], &[("up_mbit_per_s = 10.0", "up_mbit_per_s = 1.0")]].concat();
    let ([fast, slow], bits) = {
        let reports = [play(&nobody), play(&slower)];
        let bits = reports[0]["bits"].as_f64().unwrap();
        (reports.map(|mut report| report["rounds"][0].take()), bits)
    };
    let seconds = |round: &serde_json::Value| round["network_seconds"].as_f64().unwrap();
    // The vector's bits at 1 Mbit/s rather than 10, and of what else is sent.
    let vector = 131_072.0 * bits * (1e-6 - 1e-7);
    let longer = seconds(&slow) - seconds(&fast);
    assert!((vector..vector + 2.0).contains(&longer), "{longer} s longer, {vector} for the vector");
    for name in ["survivors", "bytes_in_coordinator", "bytes_out_coordinator", "bytes_up_client_median"] {
        assert_eq!(fast[name], slow[name], "{name}");
    }
}

#[test]
fn a_scenario_that_cannot_be_is_refused_in_two_lines() {
    let dir = tempfile::tempdir().unwrap();
    let refused = |path: &Path, says: &str| {
        let output = simulate(&[path.to_str().unwrap()]);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && error.contains(says), "{error}, expected {says}");
        assert_eq!(error.lines().count(), 2, "{error}");
    };
    refused(&dir.path().join("absent.toml"), "cannot read the scenario");
    for (change, says) in [
        (("seed = 1", "seeds = 1"), "seeds"),
        (("share_keys = 0.01", "share_key = 0.01"), "share_key"),
        (("share_keys = 0.01", "share_keys = 1.5"), "drop_out.share_keys = 1.5 is no share of the clients"),
        (("clients = 12", "clients = 8"), "8 clients, where the task needs 9"),
        (("rounds = 6", "rounds = 161"), "the task allows 160 attempts"),
        (("up_mbit_per_s = 10.0", "up_mbit_per_s = 0.0"), "a line without bandwidth"),
        (("training_s = 20.0", "training_s = -1.0"), "training_s = -1"),
        (("task = \"task.toml\"", "task = \"other.toml\""), "cannot read the task file"),
    ] {
        refused(&scenario(dir.path(), &[change]), says);
    }
    let help = simulate(&["--help"]);
    let help = String::from_utf8_lossy(&help.stdout);
    for taught in ["[drop_out]", "up_mbit_per_s", "canary"] {
        assert!(help.contains(taught), "{help}");
    }
    let neither = simulate(&[]);
    assert!(!neither.status.success());
}
