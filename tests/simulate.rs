//! `eranos simulate` through the real binary.

use std::process::{Command, Output};

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
