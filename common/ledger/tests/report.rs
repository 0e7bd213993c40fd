//! The report as a file: that it says what the audit says, that nothing of a ledger gets out of its place, and that it
//! asks for nothing. Whether a browser agrees is tested in `browser`.

use std::{collections::HashSet, fs, path::Path, process::Command};

use eranos_base::Digest;
use eranos_privacy::mechanism::NoiseTarget;
use serde_json::Value;

use crate::support::{Federation, mechanism, mechanism_with};

/// An origin in which everything stands that a name may hold and that means something to a browser or a shell.
pub(crate) const HOSTILE: &str =
    "a\"'><script>alert(1)</script><img/src=x>&amp;$(touch${IFS}hit)`touch${IFS}hit`;--#\\";

fn report(federation: &Federation, arguments: &[&str]) -> (Option<i32>, String, String) {
    let dir = tempfile::tempdir().expect("a folder");
    federation.write(dir.path());
    let key = federation.signer.ledger_key().to_string();
    run(dir.path(), &key, arguments)
}

fn run(dir: &Path, key: &str, arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_eranos-audit"))
        .arg("report")
        .arg(dir)
        .args(["--key", key])
        .args(arguments)
        .output()
        .expect("runs");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (output.status.code(), text(output.stdout), text(output.stderr))
}

fn json(federation: &Federation) -> Value {
    serde_json::from_str(&report(federation, &["--json"]).1).expect("JSON")
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;").replace('\'', "&#39;")
}

#[test]
fn the_page_says_first_what_the_statement_says_and_holds_all_of_it() {
    let federation = Federation::with_history();
    let (code, page, errors) = report(&federation, &[]);
    assert_eq!((code, errors.as_str()), (Some(0), ""));
    let json = json(&federation);
    let task = &json["tasks"][0];
    let sentence = task["sentence"].as_str().expect("a sentence");
    assert!(sentence.starts_with("Whether any one record of any one party "), "{sentence}");
    assert_eq!(json["sentence"], sentence);
    let first = page.split_once("<p class=\"lead\">").expect("a first sentence").1;
    assert!(first.starts_with(sentence), "{page}");
    for (heading, fields) in task["statement"].as_object().expect("sections") {
        assert!(page.contains(&format!(">{}</h", escaped(heading))), "{heading}");
        for (name, value) in fields.as_object().expect("fields") {
            // What each party has spent stands in a table.
            let value = escaped(value.as_str().expect("text"));
            let (open, rest) = (format!("<dt>{}</dt><dd>", escaped(name)), value.split('`').next().expect("a part"));
            assert!(name == "Of each party" || page.contains(&format!("{open}{rest}")), "{name}: {value}");
        }
    }
    for client in &federation.clients {
        assert!(page.contains(&format!("<code>{}</code>", client.verifying_key())));
    }
    assert!(page.contains("Verified: every hash, signature, quorum and epsilon of the ledger holds."));
    assert!(page.contains("The energy that this task took is not recorded"), "{page}");
    assert_eq!(report(&federation, &[]).1, page, "the same ledger, the same page");
}

#[test]
fn json_tells_rounds_parties_drop_outs_and_aborted_rounds_as_they_happened() {
    let federation = Federation::with_history();
    let json = json(&federation);
    let task = &json["tasks"][0];
    let pick = |list: &Value, names: &[&str]| -> Vec<Vec<u64>> {
        let row = |one: &Value| names.iter().map(|name| one[*name].as_u64().expect("a number")).collect();
        list.as_array().expect("a list").iter().map(row).collect()
    };
    // Released with 4, with 3, aborted after 2 were announced, aborted after the reveal of 3, released with 4.
    let course = pick(&task["course"], &["attempts", "aborted", "stood", "dropped"]);
    assert_eq!(course, [[1, 0, 4, 0], [2, 0, 4, 1], [3, 1, 4, 2], [4, 1, 4, 1], [5, 0, 4, 0]]);
    assert_eq!((task["stood"].as_u64(), task["dropped"].as_u64()), (Some(20), Some(4)));
    assert_eq!(pick(&task["aborted"], &["entry", "round", "roster", "survivors"]), [[4, 3, 4, 2], [5, 4, 4, 3]]);
    let audit = federation.audit();
    for (i, client) in federation.clients.iter().enumerate() {
        let parties = task["parties"].as_array().expect("a list");
        let key = client.verifying_key().to_string();
        let one = parties.iter().find(|one| one["pseudonym"] == key.as_str()).expect("listed");
        // Who was missing, from the list above.
        assert_eq!(one["dropped"].as_u64(), Some([1, 0, 2, 1][i]), "client {i}");
        assert_eq!(one["attempts"].as_u64(), Some(5));
        assert_eq!(one["epsilon"].as_f64(), Some(audit.tasks[0].charged.coordinator));
    }
    let epsilons: Vec<f64> =
        task["course"].as_array().expect("a list").iter().filter_map(|one| one["epsilon"].as_f64()).collect();
    let expected: Vec<f64> = (1..=5).map(|n| eranos_ledger::Epsilons::promised(&mechanism(), n).coordinator).collect();
    assert_eq!(epsilons, expected);
    assert_eq!(task["energy"], Value::Null);
}

#[test]
fn nothing_that_a_ledger_holds_gets_out_of_its_place() {
    let mut federation = Federation::with_origin(HOSTILE, mechanism());
    federation.attempt("released", &[0, 1, 2, 3]);
    let (code, page, errors) = report(&federation, &[]);
    assert_eq!(code, Some(0), "{errors}");
    assert!(page.contains(&format!("Ledger {}</h1>", escaped(HOSTILE))), "{page}");
    for foreign in ["<script", "<img", "</script", "'>", "alert(1)<"] {
        assert!(!page.contains(foreign), "{foreign}");
    }
    // Whatever opens in the page is something that the page itself is made of.
    let tags: HashSet<&str> =
        page.split('<').skip(1).filter_map(|tag| tag.split([' ', '>', '/']).find(|t| !t.is_empty())).collect();
    let own: HashSet<&str> = "!doctype html head meta title style body header main section footer div p br span h1 h2 h3 h4 ul \
                              li dl dt dd small pre code table caption thead tbody tr th td figure figcaption svg desc text \
                              path polyline rect"
        .split_whitespace()
        .collect();
    assert!(tags.is_subset(&own), "{:?}", tags.difference(&own));
    // The command is one that a reader may copy: a shell takes the key as one word.
    let command = json(&federation)["command"].as_str().expect("a command").to_owned();
    assert!(page.contains(&escaped(&command)));
    let words = format!("set -- {command}; printf '%s\\n' \"$#\" \"$5\"");
    let dir = tempfile::tempdir().expect("a folder");
    let output = Command::new("sh").args(["-c", &words]).current_dir(dir.path()).output().expect("a shell");
    let line = federation.signer.ledger_key().to_string();
    assert_eq!(String::from_utf8_lossy(&output.stdout), format!("5\n{line}\n"));
    assert_eq!(fs::read_dir(dir.path()).expect("a folder").count(), 0, "the name was carried out");
}

#[test]
fn the_page_is_whole_by_itself_and_lets_nothing_in() {
    let (_, page, _) = report(&Federation::with_history(), &[]);
    for outside in ["http:", "https:", "//", "src=", "href=", "url(", "@import", "<script", "<link", " style=", " on"] {
        // `on` begins words of the text; as an attribute it would be followed by a name and a quotation mark.
        let found = match outside {
            " on" => page.split(" on").skip(1).any(|rest| {
                rest.split(['=', ' ', '>']).next().is_some_and(|name| rest[name.len()..].starts_with("=\""))
            }),
            _ => page.contains(outside),
        };
        assert!(!found, "{outside}");
    }
    let style = page.split_once("<style>").and_then(|(_, rest)| rest.split_once("</style>")).expect("a style sheet").0;
    let hash = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, Digest::of(style.as_bytes()).0);
    let policy = format!("default-src 'none'; style-src 'sha256-{hash}'; base-uri 'none'; form-action 'none'");
    let head = page.split("<title>").next().expect("a head");
    assert!(
        head.contains(&format!("http-equiv=\"Content-Security-Policy\" content=\"{}\"", escaped(&policy))),
        "{head}"
    );
    for needed in ["prefers-color-scheme: dark", "@media print", "@media (max-width:"] {
        assert!(style.contains(needed), "{needed}");
    }
}

#[test]
fn drawings_tables_and_headings_can_be_read_out() {
    let (_, page, _) = report(&Federation::with_history(), &[]);
    let ids: Vec<&str> = page.split(" id=\"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
    assert_eq!(ids.iter().collect::<HashSet<_>>().len(), ids.len(), "{ids:?}");
    let drawings: Vec<&str> = page.split("<svg").skip(1).filter_map(|rest| rest.split("</svg>").next()).collect();
    let images: Vec<&&str> = drawings.iter().filter(|one| one.contains("role=\"img\"")).collect();
    assert_eq!(images.len(), 2);
    for image in images {
        for (attribute, tag) in [("aria-labelledby", "title"), ("aria-describedby", "desc")] {
            let id = image.split_once(&format!("{attribute}=\"")).and_then(|(_, rest)| rest.split('"').next());
            let id = id.expect("named");
            assert!(image.contains(&format!("<{tag} id=\"{id}\">")), "{attribute}");
        }
    }
    // Every other one is an ornament.
    assert!(drawings.iter().all(|one| one.contains("role=\"img\"") || one.contains("aria-hidden=\"true\"")));
    assert!(
        page.split("<th").skip(1).filter(|rest| !rest.starts_with("ead")).all(|rest| rest.starts_with(" scope=\""))
    );
    let levels: Vec<u8> =
        page.split("<h").skip(1).filter_map(|rest| rest.bytes().next()).filter(u8::is_ascii_digit).collect();
    assert_eq!((levels[0], levels.iter().filter(|level| **level == b'1').count()), (b'1', 1));
    assert!(levels.windows(2).all(|pair| pair[1] <= pair[0] + 1), "a level of headings is left out");
}

#[test]
fn a_ledger_that_does_not_hold_says_so_before_anything_else() {
    let mut federation = Federation::with_history();
    federation.change(4, |attempt| attempt.epsilons.coordinator = 0.1);
    let (code, page, errors) = report(&federation, &[]);
    assert_eq!(code, Some(1));
    assert!(errors.starts_with("error: entry 4 (attempt, round 3): declares epsilon 0.1 "), "{errors}");
    let first = page.split_once("<p class=\"lead\">").expect("a first sentence").1;
    assert!(first.starts_with("NOT VERIFIED: 1 findings. Nothing below can be relied on.</p>"), "{page}");
    assert!(page.contains("Not verified: 1 finding.") && !page.contains("Verified: every"));
    assert!(page.contains("<li>entry 4 (attempt, round 3): declares epsilon 0.1 "));
    // Nothing of a log that its key did not sign is shown.
    let dir = tempfile::tempdir().expect("a folder");
    federation.write(dir.path());
    let other = Federation::with_origin("another.example.org", mechanism()).signer.ledger_key().to_string();
    let (code, page, _) = run(dir.path(), &other, &[]);
    assert_eq!(code, Some(1));
    assert!(page.contains("A ledger without a signed checkpoint") && !page.contains("Task digits"), "{page}");
}

#[test]
fn a_task_without_noise_has_no_epsilon_in_its_page() {
    let mut federation = Federation::with_mechanism(mechanism_with(NoiseTarget::None));
    federation.attempt("released", &[0, 1, 2, 3]);
    let (code, page, _) = report(&federation, &[]);
    assert_eq!(code, Some(0));
    let first = page.split_once("<p class=\"lead\">").expect("a first sentence").1;
    assert!(first.starts_with("NOT PRIVATE: nobody added noise"), "{page}");
    assert!(
        page.contains("NOT PRIVATE: no noise, and no epsilon, in digits.") && page.contains("There is nothing to draw")
    );
    assert!(!page.contains("NaN") && !page.contains(">inf<") && !page.contains("class=\"verdict good\""));
    let json = json(&federation);
    assert_eq!((&json["tasks"][0]["epsilon"], &json["tasks"][0]["private"]), (&Value::Null, &false.into()));
    // A ledger in which nothing happened yet is a page too.
    for federation in [Federation::new(), {
        let mut empty = Federation::new();
        empty.entries.truncate(1);
        empty
    }] {
        let (code, page, _) = report(&federation, &[]);
        assert_eq!(code, Some(0));
        assert!(!page.contains("NaN") && !page.contains("inf\""), "{page}");
    }
}

#[test]
fn the_page_goes_into_a_file_but_never_into_the_ledger() {
    let federation = Federation::with_history();
    let dir = tempfile::tempdir().expect("a folder");
    let ledger = dir.path().join("ledger");
    federation.write(&ledger);
    let key = federation.signer.ledger_key().to_string();
    let target = dir.path().join("report.html");
    let target = target.to_str().expect("UTF-8");
    let (code, printed, _) = run(&ledger, &key, &["--html", target]);
    assert_eq!(code, Some(0));
    assert!(
        printed.starts_with("Whether any one record") && printed.ends_with(&format!("The page is {target}.\n")),
        "{printed}"
    );
    assert_eq!(fs::read_to_string(target).expect("written"), run(&ledger, &key, &[]).1);
    let (_, printed, _) = run(&ledger, &key, &["--html", target, "--json"]);
    assert!(serde_json::from_str::<Value>(&printed).is_ok());
    for inside in ["checkpoint", "report.html", "tile/0/../../report.html"] {
        let inside = ledger.join(inside);
        let (code, _, errors) = run(&ledger, &key, &["--html", inside.to_str().expect("UTF-8")]);
        assert_eq!(code, Some(2));
        assert!(errors.contains("would lie in the ledger itself\n help: "), "{errors}");
    }
    let nowhere = dir.path().join("missing/report.html");
    let (code, _, errors) = run(&ledger, &key, &["--html", nowhere.to_str().expect("UTF-8")]);
    assert_eq!((code, errors.lines().count()), (Some(2), 2), "{errors}");
    assert_eq!(run(&ledger, &key, &[]).0, Some(0), "the ledger is as it was");
}
