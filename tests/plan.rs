//! What `eranos plan` says of a schedule, through the real binary.

use std::process::Command;

use eranos_privacy::{
    Groups, Mechanism, Probability, Promise,
    accountant::pld,
    groups::Metrics,
    mechanism::{ClientTarget, LocalTraining, NoiseTarget, RecordTarget, SiloTraining, design, design_client},
};
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
                    one party adds all the noise: the same for everyone outside it\n\
                    delta          1e-3    1e-4    1e-5    1e-6    1e-7    1e-8    1e-9   1e-10\n\
                    epsilon_rdp   1.860   2.256   2.597   2.905   3.191   3.447   3.695   3.926\n\
                    epsilon_pld   1.620   2.029   2.382   2.697   2.985   3.251   3.501   3.736\n";
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
    assert!(ok && shown.contains("\nwarning: hopeless: in every round the noise is 588.4 times as long as"), "{shown}");
    assert!(
        shown.contains("\nwarning: it would be as long, where training is known to work, with 5296 clients, or "),
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

/// The figures of a report are those of the mechanism that a task's rounds would run with.
fn is_of(report: &Value, mechanism: &Mechanism, survivors: u32) {
    let (common, shares) = (mechanism.common(), mechanism.promised_shares());
    for (name, expected) in [
        ("noise_multiplier", mechanism.noise_multiplier(shares)),
        ("share_deviation", common.noise.share_variance().expect("noise").deviation()),
        ("noise_to_signal", mechanism.noise_to_signal(survivors)),
        ("bits", common.bits.into()),
        ("bytes_per_client", (f64::from(common.d_pad) * f64::from(common.bits) / 8.0).ceil()),
    ] {
        let found = report[name].as_f64().unwrap();
        assert!((found / expected - 1.0).abs() < 1e-12, "{name} is {found}, not {expected}: {report}");
    }
    let headline = |kind: &str| report["views"][0][kind].as_f64().unwrap();
    let (epsilon, failure) = (mechanism.epsilon(), f64::from(common.max_attempts) * mechanism.cut_probability());
    assert!((headline("epsilon_rdp") - epsilon).abs() < 1e-9, "{report}, not {epsilon}");
    // What may be cut is paid for by both accountants.
    let releases = u64::from(common.max_attempts) * u64::from(mechanism.n_releases());
    let delta = common.delta - failure * (1.0 + epsilon.exp());
    let of_losses = pld::epsilon(&[(mechanism.event(shares), releases)], delta);
    assert!((headline("epsilon_pld") - of_losses).abs() < 1e-9, "{report}, not {of_losses}");
    // The least noise for so many releases, which a mechanism passes by no more than what is rounded up, and cut.
    let least = report["noise_multiplier_least_rdp"].as_f64().unwrap();
    let over = mechanism.noise_multiplier(shares) / least;
    assert!((0.9999..1.01).contains(&over), "{over}: {report}");
}

fn records(groups: Groups, noise: NoiseTarget, local: Option<SiloTraining>, u_min: u16, attempts: u32) -> Mechanism {
    records_against(1, groups, noise, local, u_min, attempts)
}

fn records_against(
    max_colluders: u16,
    groups: Groups,
    noise: NoiseTarget,
    local: Option<SiloTraining>,
    u_min: u16,
    attempts: u32,
) -> Mechanism {
    let target = RecordTarget {
        groups,
        l2_clip_norm: 1.0,
        n_parameters: 10_000,
        sampling_probability: Probability::QUARTER,
        expected_lot: if local.is_some() { 188 } else { 1500 },
        record_bound: 750,
        local,
        n_max: 8,
        u_min,
        max_colluders,
        max_attempts: attempts,
        noise,
        delta: 1e-5,
    };
    design(&target).expect("reachable").into()
}

fn clients(noise: NoiseTarget) -> Mechanism {
    let target = ClientTarget {
        groups: Groups::default(),
        l2_clip_norm: 1.0,
        n_parameters: 10_000,
        n_max: 10,
        u_min: 9,
        max_colluders: 1,
        training: LocalTraining { steps: 1, batch_size: 1, learning_rate: 0.1 },
        max_attempts: 20,
        noise,
        delta: 1e-5,
    };
    design_client(&target).expect("reachable").into()
}

#[test]
fn solve_sizes_every_mode_as_a_task_is_sized() {
    let (distributed, local) = (NoiseTarget::Distributed { epsilon: 4.0 }, NoiseTarget::Local { epsilon: 4.0 });
    let of_records =
        "solve --epsilon 4 --rounds 20 --sampling-probability 1/4 --clients 8 --records 6000 --parameters 10000";
    let bare = json(of_records);
    is_of(&bare, &records(Groups::default(), distributed, None, 7, 20), 7);

    // What is measured takes its share from the model, and costs no epsilon.
    let groups = Groups::new(Some(Metrics::new(4.0, 0.04).unwrap()), None).unwrap();
    let measured = json(&format!("{of_records} --metrics 0.04"));
    is_of(&measured, &records(groups, distributed, None, 7, 20), 7);
    let ratio = |report: &Value| report["noise_to_signal"].as_f64().unwrap();
    assert!((ratio(&measured) / ratio(&bare) - 0.96f64.powf(-0.5)).abs() < 1e-9, "{measured}");

    // Each of a silo's own steps is charged.
    let own = SiloTraining { steps: 3, learning_rate: 0.5, update_clip_norm: 1.0 };
    let report = json(&format!("{of_records} --noise local --local-steps 3"));
    let silos = records(Groups::default(), local, Some(own), 7, 20);
    is_of(&report, &silos, 7);
    let all_of_it = silos.noise_multiplier(1) * 100.0 / 188.0 / (3.0f64 * 7.0).sqrt();
    assert!((ratio(&report) / all_of_it - 1.0).abs() < 0.01, "{report}, not {all_of_it}");

    let of_clients = "solve --unit client --epsilon 4 --rounds 20 --clients 10 --parameters 10000";
    is_of(&json(of_clients), &clients(distributed), 9);
    is_of(&json(&format!("{of_clients} --noise local")), &clients(local), 9);
}

#[test]
fn solve_shows_what_dropouts_colluders_and_retries_cost() {
    let report = json(
        "solve --epsilon 4 --rounds 20 --attempts 25 --sampling-probability 1/4 --clients 8 --survivors-min 6 \
         --max-colluders 2 --records 6000 --parameters 10000",
    );
    let of = |survivors_min, attempts| {
        let noise = NoiseTarget::Distributed { epsilon: 4.0 };
        records_against(2, Groups::default(), noise, None, survivors_min, attempts)
    };
    is_of(&report, &of(6, 25), 6);
    let each = |survivors_min, attempts| of(survivors_min, attempts).noise_multiplier(1);
    // Without colluders as many shares would count as with two more survivors.
    let expected = [each(6, 25), each(8, 25), each(8, 25), each(6, 20)];
    let costs = report["costs"].as_array().unwrap();
    assert_eq!(costs.len(), expected.len());
    for (cost, expected) in costs.iter().zip(expected) {
        let number = |name: &str| cost[name].as_f64().unwrap();
        // Each is rounded up to a thousandth of the sensitivity.
        assert!((number("noise_multiplier_each") - expected).abs() < 1.1e-3, "{cost}, not {expected}");
        let all = number("noise_multiplier_each") * 8f64.sqrt();
        assert!((number("noise_multiplier_all") - all).abs() < 1e-9, "{cost}");
        assert!((number("saves") - (1.0 - number("noise_multiplier_each") / each(6, 25))).abs() < 1e-9, "{cost}");
    }
    assert!(costs.iter().skip(1).all(|cost| cost["saves"].as_f64().unwrap() > 0.03), "{report}");
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
fn a_reader_that_leaves_early_is_no_failure() {
    for arguments in ["plan spend --noise-multiplier 5 --rounds 10", "model list", "model show cnn"] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = Command::new(env!("CARGO_BIN_EXE_eranos"));
        let output = command.args(arguments.split(' ')).stdout(writer).output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && error.is_empty(), "{arguments}: {error}");
    }
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
        ("solve --epsilon 1 --rounds 9 --attempts 8 --clients 8 --records 60", "8 attempts for 9 rounds\n"),
        ("solve --epsilon 1 --rounds 9 --clients 8 --noise none --records 60", "without noise no epsilon is kept\n"),
        ("solve --epsilon 1 --rounds 9 --clients 8 --local-steps 2 --records 60", "--local-steps counts only where "),
        ("solve --epsilon 1 --rounds 9 --clients 8 --metrics 2 --records 60", "--metrics 2: no share of "),
        ("solve --epsilon 1 --rounds 9 --clients 8 --metrics 0 --records 60", "--metrics 0: no share of "),
        ("solve --epsilon 4 --rounds 9 --clients 8 --metrics --noise local --records 6000", "metrics or an adaptive "),
        (
            "solve --unit client --epsilon 1 --rounds 9 --clients 8 --sampling-probability 1/2",
            "with unit client this version samples nobody\n",
        ),
        ("solve --epsilon 1 --rounds 0 --clients 8 --records 60", "rounds is 0, expected 1 to 2^24\n"),
        ("solve --epsilon 0.001 --rounds 100000 --clients 8 --records 60", "no noise multiplier up to 100000 reaches "),
    ] {
        let (ok, _, error) = plan(arguments);
        assert!(!ok && error.starts_with(&format!("error: {what}")), "{arguments}: {error}");
        assert_eq!(error.lines().count(), 2, "{arguments}: {error}");
    }
}
