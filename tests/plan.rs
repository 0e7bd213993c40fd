//! What `eranos plan` says of a schedule, through the real binary.

use std::process::Command;

use serde_json::Value;

/// Runs `eranos plan` with these arguments; gives its status and what it printed.
fn plan(arguments: &str) -> (bool, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_eranos")).arg("plan").args(arguments.split(' ')).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.success(), text(output.stdout), text(output.stderr))
}

fn json(arguments: &str) -> Value {
    let (ok, shown, error) = plan(&format!("{arguments} --json"));
    assert!(ok, "{error}");
    serde_json::from_str(&shown).unwrap()
}

#[test]
fn spend_says_what_dp_sgd_on_mnist_costs() {
    let arguments =
        "spend --unit record --noise-multiplier 1.1 --sampling-probability 0.004267 --rounds 14062 --delta 1e-5";
    let (ok, shown, _) = plan(arguments);
    assert!(ok);
    let expected = "unit record: one record added or removed; each sampled in secret with probability 0.004267\n\
                    noise multiplier 1.1, 14062 rounds, delta 1e-5\n\
                    epsilon_rdp 2.597: Renyi divergences, what budgets and ledgers are charged by\n\
                    epsilon_pld 2.382: privacy losses, for a schedule fixed in advance\n\
                    one party adds all the noise: the same for everyone outside it\n";
    assert_eq!(shown, expected);
    // Of seven shares a recipient of the model knows none, the coordinator with its colluder one.
    let report = json("spend --noise-multiplier 3.77 --sampling-probability 1/4 --rounds 155 --clients 7");
    let epsilon = |view: usize, kind: &str| report["views"][view][kind].as_f64().unwrap();
    assert!((report["epsilon_rdp"].as_f64().unwrap() - 4.0).abs() < 1e-3, "{report}");
    assert!((report["epsilon_pld"].as_f64().unwrap() - 3.678).abs() < 1e-3, "{report}");
    assert_eq!(report["views"][0]["epsilon_rdp"], report["epsilon_rdp"]);
    assert!(
        epsilon(1, "epsilon_rdp") < epsilon(0, "epsilon_rdp") && epsilon(1, "epsilon_pld") < epsilon(0, "epsilon_pld")
    );
    assert_eq!(report["epsilon_zcdp"], Value::Null);
    let unsampled = json("spend --unit client --noise-multiplier 14 --rounds 150");
    assert!(unsampled["epsilon_pld"].as_f64() < unsampled["epsilon_zcdp"].as_f64());
    assert!(unsampled["epsilon_zcdp"].as_f64() <= unsampled["epsilon_rdp"].as_f64());
}

#[test]
fn solve_finds_the_demos_plan_and_warns_of_hopeless_ones() {
    let report = json("solve --epsilon 4 --rounds 155 --sampling-probability 0.25 --clients 8 --records 6000");
    assert!((report["noise_multiplier"].as_f64().unwrap() - 3.772).abs() < 1e-3, "{report}");
    assert!((report["noise_multiplier_least_pld"].as_f64().unwrap() - 3.518).abs() < 4e-3, "{report}");
    assert_eq!((&report["bits"], &report["bytes_per_client"]), (&23.into(), &376_832.into()));
    assert!(report["wrap_probability"].as_f64().unwrap() < 1e-9 && report["warnings"].as_array().unwrap().is_empty());
    let views = report["views"].as_array().unwrap();
    assert!(views.iter().all(|view| view["epsilon_rdp"].as_f64().unwrap() <= 4.0), "{report}");

    // Ten clients cannot hide one of them; a promise that holds is no help if nothing is learnt.
    let (ok, shown, _) = plan("solve --unit client --epsilon 4 --rounds 150 --clients 10");
    assert!(ok && shown.contains("\nwarning: hopeless: in every round the noise is 583.8 times as long as"), "{shown}");
    assert!(
        shown.contains("\nwarning: it would be as long, where training is known to work, with 5254 clients, or "),
        "{shown}"
    );
    assert!(
        shown.contains("with these clients and as many records, if those are what is protected (--unit record)\n"),
        "{shown}"
    );
    // Both ways out hold what is said of them.
    let records = json("solve --unit record --epsilon 4 --rounds 150 --clients 10 --records 5300");
    assert!(records["noise_to_signal"].as_f64().unwrap() < 1.0, "{records}");
    assert!(records["warnings"].as_array().unwrap().is_empty(), "{records}");
    // With as many as it says, and what changes with their number, it is about what it says.
    let enough = json("solve --unit client --epsilon 4 --rounds 150 --clients 5300");
    assert!(enough["noise_to_signal"].as_f64().unwrap() < 1.0, "{enough}");
}

#[test]
fn a_plan_says_on_which_graph_it_runs_and_against_whom() {
    let shown = |arguments: &str| {
        let (ok, shown, error) = plan(arguments);
        assert!(ok, "{error}");
        shown
    };
    let hundred = "solve --epsilon 8 --rounds 10 --clients 100 --survivors-min 90 --max-colluders 10 --records 6000";
    let complete = shown(hundred);
    assert!(
        complete.contains(
            "\ncomplete graph, against a coordinator that breaks the rules: each client shares keys with 99 "
        ),
        "{complete}"
    );
    let sparse = shown(&format!("{hundred} --graph sparse"));
    assert!(
        sparse.contains(
            "\nsparse graph, against a coordinator that reports drop-outs honestly, and no other: each client shares keys \
             with 22 others, 12 of whom rebuild a secret; 56 statements are a quorum"
        ),
        "{sparse}"
    );
    let report = json(&format!("{hundred} --graph sparse"));
    assert_eq!((&report["graph"], &report["degree"]), (&"sparse".into(), &22.into()), "{report}");
    // Four clients of whom one may drop out and one collude: no ring of them holds together.
    let four = "solve --epsilon 8 --rounds 10 --clients 4 --records 6000 --graph sparse";
    assert!(shown(four).contains("\nwarning: no round can run so: no sparse graph of 4 clients keeps its promises "));
    assert!(json(four)["degree"].is_null());
    let (_, help, _) = plan("solve --help");
    assert!(help.contains("holds only while the coordinator reports drop-outs honestly"), "{help}");
}

#[test]
fn a_drawing_holds_both_curves() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("epsilon.svg");
    let (ok, _, error) = plan(&format!("spend --noise-multiplier 5 --rounds 10 --plot {}", path.display()));
    assert!(ok, "{error}");
    let drawing = std::fs::read_to_string(path).unwrap();
    assert_eq!(drawing.matches("<polyline").count(), 2);
    assert!(drawing.contains("privacy losses") && !drawing.contains("NaN") && !drawing.contains("inf"), "{drawing}");
}

#[test]
fn what_cannot_be_planned_is_said_in_two_lines() {
    for (arguments, what) in [
        ("spend --noise-multiplier 0 --rounds 1", "the noise multiplier is not above 0\n"),
        ("spend --noise-multiplier 1 --rounds 0", "there are too many rounds, or none\n"),
        ("spend --noise-multiplier 1 --rounds 1 --delta 1", "delta is not between 0 and 1\n"),
        ("spend --noise-multiplier 1 --rounds 1 --clients 1", "of 1 clients 1 work with the coordinator, "),
        ("spend --noise-multiplier 5 --rounds 1 --plot /nowhere/x.svg", "cannot write /nowhere/x.svg: "),
        (
            "solve --epsilon 1 --rounds 9 --clients 3 --records 60",
            "2 survivors of whom 1 may collude leave fewer than 2 ",
        ),
        ("solve --epsilon 1 --rounds 9 --clients 8 --survivors-min 9", "9 survivors of 8 clients\n"),
        ("solve --epsilon 1 --rounds 9 --clients 8", "the number of records is not known\n"),
        ("solve --epsilon 1 --rounds 0 --clients 8 --records 60", "rounds is 0, expected 1 to 2^24\n"),
        ("solve --epsilon 0.001 --rounds 100000 --clients 8 --records 60", "no noise multiplier up to 100000 reaches "),
    ] {
        let (ok, _, error) = plan(arguments);
        assert!(!ok && error.starts_with(&format!("error: {what}")), "{arguments}: {error}");
        assert_eq!(error.lines().count(), 2, "{arguments}: {error}");
    }
}
