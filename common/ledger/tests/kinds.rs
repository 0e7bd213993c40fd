//! What else an operator enters: who answers for a task, what a client may be charged, who was enrolled, what was published and
//! promised. Each entry forged, doubled, moved or at odds with the rounds is found, by its index.

use eranos_base::{Digest, RoundNumber, SigningKey};
use eranos_ledger::{
    Checkpoint, Disclosure, Entry, Epsilons, LedgerSigner, LogRestored, Membership, MembershipChange, ModelPublished,
    PrivacyStated, Restoration, TaskStated, Words, audit::Fault, statement,
};
use eranos_privacy::Promise;

use crate::{
    bindings::binding_of,
    support::{Federation, assert_found, day, mechanism, openings},
};

/// `change` what the operator writes, and find `expected` at `entry`.
#[track_caller]
fn check(change: impl FnOnce(&mut Vec<Entry>), entry: u64, expected: impl Fn(&Fault) -> bool) {
    let mut federation = Federation::with_every_kind();
    change(&mut federation.entries);
    assert_found(&federation.audit(), Some(entry), expected);
}

fn stated(entry: &mut Entry) -> &mut TaskStated {
    let Entry::TaskStated(stated) = entry else { panic!("a statement") };
    stated
}

fn published(entry: &mut Entry) -> &mut ModelPublished {
    let Entry::ModelPublished(published) = entry else { panic!("a model") };
    published
}

fn promised(entry: &mut Entry) -> &mut PrivacyStated {
    let Entry::PrivacyStated(promised) = entry else { panic!("a privacy statement") };
    promised
}

#[test]
fn a_log_of_every_kind_of_entry_verifies_and_its_statement_says_what_was_entered() {
    let federation = Federation::with_every_kind();
    let report = federation.audit();
    assert!(report.is_clean(), "{:#?}", report.findings);
    assert_eq!((report.n_enrolled(), report.members.len()), (4, 6));
    for (entry, encoded) in federation.entries.iter().zip(federation.encoded()) {
        assert_eq!(Entry::parse(&encoded.leaf, encoded.attachment.as_deref()).as_ref(), Ok(entry));
        let line = format!("eranos/ledger/v1 {}\n", entry.kind());
        assert!(encoded.leaf.starts_with(line.as_bytes()), "{line}");
    }
    let text = statement::to_markdown(&report);
    for says in [
        // Between backticks no Markdown means anything.
        "- **Product**: `Handwritten *digits* <b>&amp;</b> %60x%60`: a model",
        "- **Curator**: `Example Trust`\n",
        "- **Purpose**: not recorded\n",
        "the task on 2023-11-15 (UTC)",
        "- **The most of one party**: the task's own epsilon: 40 attempts",
        "- **Graph**: complete in every attempt",
        "- **Published**: the model of round 2",
        "by entry 13, with the SHA-256",
        "made anew from the entries before it",
        "- **Enrolment**: 4 clients were enrolled",
    ] {
        assert!(text.contains(says), "{says}: {text}");
    }
    let dir = tempfile::tempdir().expect("a folder");
    federation.write(dir.path());
    let page = eranos_ledger::report::Report::new(dir.path(), &federation.options(), &Disclosure::default());
    let page = page.expect("readable").to_html();
    assert!(page.contains("Handwritten *digits* &lt;b&gt;&amp;amp;&lt;/b&gt; %60x%60"), "{page}");
    assert!(!page.contains("<b>"), "what an operator writes is no markup");
    let silent = statement::to_markdown(&Federation::with_history().audit());
    for says in ["- **Curator**: not recorded\n", "- **Enrolment**: not recorded", "- **Entered**: what this"] {
        assert!(silent.contains(says), "{says}: {silent}");
    }
}

#[test]
fn a_log_that_goes_on_from_a_backup_says_of_which_and_counts_what_was_before() {
    let federation = Federation::restored();
    let report = federation.audit();
    assert!(report.is_clean(), "{:#?}", report.findings);
    let task = &report.tasks[0];
    assert_eq!((task.attempts, task.charged), (1, Epsilons::promised(&mechanism(), 1)));
    assert_eq!(task.charged_in_all, Epsilons::promised(&mechanism(), 6), "two before, three lost, one here");
    let text = statement::to_markdown(&report);
    for says in ["**Attempts before this ledger**", "2 attempts were made before, and at most 3 are lost"] {
        assert!(text.contains(says), "{says}: {text}");
    }
    assert!(text.contains(&format!("(epsilon = {:.6})", task.charged_in_all.coordinator)), "{text}");

    let check = |change: &dyn Fn(&mut Vec<Entry>), entry: u64, expected: Fault| {
        let mut federation = Federation::restored();
        change(&mut federation.entries);
        assert_found(&federation.audit(), Some(entry), |fault| *fault == expected);
    };
    check(&|entries| entries.swap(1, 2), 2, Fault::Restoration);
    check(&|entries| entries.insert(2, entries[1].clone()), 2, Fault::Restoration);
    let altered = |change: &dyn Fn(&mut LogRestored)| {
        let change = |entries: &mut Vec<Entry>| {
            let Entry::LogRestored(restored) = &mut entries[1] else { panic!("a restoration") };
            change(restored);
        };
        check(&change, 1, Fault::RestorationSignature);
    };
    altered(&|restored| restored.attempts_before = 1);
    altered(&|restored| restored.attempts_lost = 0);
    altered(&|restored| restored.old_size += 1);
    altered(&|restored| restored.old_root.0[0] ^= 1);
    altered(&|restored| restored.date = day(2));
    // Signed for another log.
    altered(&|restored| {
        let old = LedgerSigner::new("before.example.org".parse().expect("name"), SigningKey::from_seed(&[7; 32]));
        let restoration = Restoration {
            task: restored.task.clone(),
            date: restored.date,
            old: Checkpoint { origin: old.ledger_key().name().clone(), size: 4, root: restored.old_root },
            attempts_before: 2,
            attempts_lost: 3,
        };
        *restored = LogRestored::sign(restoration, &old, &old.ledger_key());
    });
    // Of 40 planned, 39 were made or lost before: the second one is too many.
    let mut federation = Federation::new();
    federation.attempt("released", &[0, 1, 2, 3]);
    federation.attempt("released", &[0, 1, 2, 3]);
    let old = LedgerSigner::new("before.example.org".parse().expect("name"), SigningKey::from_seed(&[7; 32]));
    let Entry::TaskOpened(task) = &federation.entries[1] else { panic!("a task") };
    let restoration = Restoration {
        task: task.task.clone(),
        date: day(0),
        old: Checkpoint { origin: old.ledger_key().name().clone(), size: 4, root: Digest::ZERO },
        attempts_before: 9,
        attempts_lost: 30,
    };
    let restored = LogRestored::sign(restoration, &old, &federation.signer.ledger_key());
    federation.entries.insert(1, Entry::LogRestored(Box::new(restored)));
    assert_found(&federation.audit(), Some(4), |fault| *fault == Fault::TooManyAttempts { found: 41, max: 40 });
}

#[test]
fn words_that_hide_or_turn_text_are_none() {
    for text in ["", "-", " a", "a ", "a\nb", "a\u{7f}", "a\u{85}", "a\u{202e}b", "a\u{200b}b", &"x".repeat(513)] {
        assert!(text.parse::<Words>().is_err(), "{text:?}");
    }
    for text in ["a", "- a", "Éa 日本", &"x".repeat(512)] {
        assert_eq!(text.parse::<Words>().expect("words").as_str(), text);
    }
}

#[test]
fn what_an_operator_says_is_said_once_in_its_place_and_of_the_program_that_runs() {
    let (repeated, unopened) =
        (|fault: &Fault| *fault == Fault::Repeated, |fault: &Fault| matches!(fault, Fault::TaskNotOpened { .. }));
    check(|entries| entries.swap(1, 2), 1, unopened);
    check(|entries| entries.insert(3, entries[2].clone()), 3, repeated);
    check(|entries| stated(&mut entries[2]).session.0.0[0] ^= 1, 2, unopened);
    let older = |entries: &mut Vec<Entry>| {
        entries.insert(4, entries[2].clone());
        let later = stated(&mut entries[4]);
        (later.date, later.curator) = (day(0), None);
    };
    check(older, 4, |fault| matches!(fault, Fault::Date { .. }));
    let other = |entries: &mut Vec<Entry>| stated(&mut entries[2]).executable.sha256 = Digest::of(b"another");
    check(other, 8, |fault| matches!(fault, Fault::OtherExecutable { .. }));
}

#[test]
fn a_clients_budget_is_recomputed_and_no_roster_goes_beyond_it() {
    let set = |entries: &mut Vec<Entry>, epsilon: Option<f64>, attempts: u64| {
        let Entry::BudgetSet(set) = &mut entries[3] else { panic!("a budget") };
        (set.client_epsilon_max, set.client_attempts_max) = (epsilon, attempts);
    };
    let one = mechanism().promised_epsilon(1, 1e-5);
    let wrong = |fault: &Fault| matches!(fault, Fault::ClientAttempts { .. });
    check(|entries| set(entries, None, 39), 3, wrong);
    check(|entries| set(entries, None, 41), 3, wrong);
    check(|entries| set(entries, Some(one * 1.001), 2), 3, wrong);
    check(
        |entries| set(entries, Some(one * 1.001), 1),
        10,
        |fault| matches!(fault, Fault::ClientBudget { max: 1, .. }),
    );
    check(|entries| entries.insert(4, entries[3].clone()), 4, |fault| *fault == Fault::Repeated);
    check(|entries| entries.swap(1, 3), 1, |fault| matches!(fault, Fault::TaskNotOpened { .. }));
}

#[test]
fn enrolments_cover_every_roster_and_none_stands_twice() {
    let short = |fault: &Fault| matches!(fault, Fault::NotEnrolled { n1: 4, enrolled: 3 });
    check(|entries| drop(entries.remove(5)), 7, short);
    check(|entries| entries.swap(7, 8), 7, short);
    check(|entries| entries.insert(8, entries[4].clone()), 8, |fault| *fault == Fault::CommitmentTwice { before: 4 });
    let late = |entries: &mut Vec<Entry>| entries[4..9].rotate_right(1);
    check(late, 5, |fault| *fault == Fault::LateEnrolment);
    check(|entries| entries.swap(4, 9), 4, |fault| matches!(fault, Fault::Membership { enrolled: 0, .. }));
    let revoked =
        |seed: u8| Entry::Membership(Membership { change: MembershipChange::Revoked, commitment: Digest::of(&[seed]) });
    let all = |entries: &mut Vec<Entry>| (0..5).for_each(|seed| entries.insert(12, revoked(seed)));
    check(all, 16, |fault| matches!(fault, Fault::Membership { certificates: 5, revoked: 5, .. }));
    let again = |entries: &mut Vec<Entry>| entries[6] = entries[5].clone();
    check(again, 6, |fault| matches!(fault, Fault::CommitmentTwice { .. }));
}

#[test]
fn a_published_model_is_the_one_that_the_last_release_left() {
    let other = |fault: &Fault| matches!(fault, Fault::Published { .. });
    check(|entries| published(&mut entries[12]).weights.0[0] ^= 1, 12, other);
    check(|entries| published(&mut entries[12]).round = RoundNumber(1), 12, other);
    check(|entries| entries.swap(10, 12), 10, other);
    check(|entries| entries.insert(13, entries[12].clone()), 13, |fault| *fault == Fault::Repeated);
    check(|entries| entries.swap(1, 12), 1, |fault| matches!(fault, Fault::TaskNotOpened { .. }));
}

#[test]
fn a_privacy_statement_is_made_anew_and_must_be_the_same() {
    let other = |fault: &Fault| matches!(fault, Fault::PrivacyStatement { .. });
    check(|entries| promised(&mut entries[13]).statement.0[0] ^= 1, 13, other);
    // Whatever it rests on: who answers, what was published, what was allowed.
    check(|entries| stated(&mut entries[2]).curator = None, 13, other);
    check(|entries| published(&mut entries[12]).file.0[0] ^= 1, 13, other);
    check(|entries| drop(entries.remove(12)), 12, other);
    let count = |fault: &Fault| matches!(fault, Fault::StatedAttempts { .. });
    check(|entries| promised(&mut entries[13]).attempts = 1, 13, count);
    check(|entries| entries.swap(8, 13), 8, count);
    check(|entries| entries.push(entries[13].clone()), 14, |fault| *fault == Fault::Repeated);
    check(|entries| promised(&mut entries[13]).date = day(0), 13, |fault| matches!(fault, Fault::Date { .. }));
    check(|entries| promised(&mut entries[13]).wording += 1, 13, |fault| matches!(fault, Fault::Wording { .. }));
    // In words of before, it is taken as it is, and the statement says that it was not made anew.
    let mut federation = Federation::with_every_kind();
    promised(&mut federation.entries[13]).wording = 0;
    let report = federation.audit();
    assert!(report.is_clean(), "{:#?}", report.findings);
    assert!(statement::to_markdown(&report).contains("not made anew"));
}

#[test]
fn an_attachment_is_verified_once_and_named_once() {
    let mut federation = Federation::with_every_kind();
    federation.entries.insert(9, federation.entries[8].clone());
    assert_found(&federation.audit(), Some(9), |fault| *fault == Fault::AttachmentAgain { before: 8 });
}

#[test]
fn openings_say_whom_the_entries_about_members_are_about() {
    let federation = Federation::with_every_kind();
    let report = federation.audit();
    let bindings = (0..4).map(|i| binding_of(&federation, i, "digits")).collect();
    let disclosure = Disclosure { bindings, openings: openings(&federation.signer) };
    let text: String = disclosure.openings.iter().map(|one| one.encode()).collect();
    let text = disclosure.bindings.iter().map(|one| one.encode()).collect::<String>() + &text;
    assert_eq!(Disclosure::parse(&text), Ok(disclosure.clone()));
    let disclosed = disclosure.check(&report);
    assert_eq!((disclosed.faults.as_slice(), disclosed.n_opened, disclosed.n_bound[0]), (&[] as &[String], 6, 4));

    let faulty = |change: &dyn Fn(&mut Disclosure), says: &str| {
        let mut changed = disclosure.clone();
        change(&mut changed);
        let faults = changed.check(&report).faults;
        assert!(faults.iter().any(|fault| fault.contains(says)), "{says}: {faults:?}");
    };
    let unknown = "the ledger has no such entry";
    faulty(&|d| d.openings[1].salt[0] ^= 1, unknown);
    faulty(&|d| d.openings[1].client = d.openings[0].client.clone(), unknown);
    faulty(&|d| d.openings[1].change = MembershipChange::Renewed, unknown);
    faulty(&|d| d.openings[1].certificate.0[0] ^= 1, unknown);
    faulty(&|d| d.openings[1].origin = "another.example".parse().expect("an origin"), unknown);
    faulty(&|d| drop(d.openings.remove(0)), "a client is enrolled once, and first");
    // A client that nobody enrolled, where every enrolment is opened.
    faulty(
        &|d| d.bindings[1].client = "spiffe://example.org/client/stranger".parse().expect("an identity"),
        "no entry enrols this client",
    );
    // The revocation of one who stands in a later roster.
    let mut later = Federation::with_every_kind();
    later.entries.swap(9, 11);
    let faults = disclosure.check(&later.audit()).faults;
    assert!(faults.iter().any(|fault| fault.contains("is revoked by entry 9")), "{faults:?}");
    // The same commitments differ with every part of what they hide.
    let mut commitments: Vec<Digest> = disclosure.openings.iter().map(|one| one.commitment()).collect();
    let mut resalted = disclosure.openings[0].clone();
    resalted.salt = [77; 32];
    commitments.push(resalted.commitment());
    commitments.sort();
    commitments.dedup();
    assert_eq!(commitments.len(), 7);
}
