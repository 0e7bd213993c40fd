//! Everything an operator, a copyist or a thief might do to a log, and the entry that gives it away.

use std::fs;

use eranos_base::{Digest, Entropy, GraphKind, RoundNumber, SeededEntropy, Signature, SigningKey, TaskId};
use eranos_ledger::{
    EncodedEntry, Entry, KeyRotated, LedgerKey, LedgerSigner, Outcome,
    audit::{self, Fault, Options},
    entry::ATTACHMENT_LEN_MAX,
    statement,
    tile::attachment_path,
};

use eranos_privacy::{
    Groups, Mechanism, Noise, Promise, RecordMechanism, RecordParameters,
    accountant::Accountant,
    budget::UnitOfPrivacy,
    groups::{AdaptiveClip, Metrics, Share},
    mechanism::NoiseTarget,
};

use crate::support::{
    Federation, assert_found, client_mechanism, copy, files, mechanism, mechanism_for, mechanism_with, participants,
    replaced, sign, survivors, write_log,
};

#[test]
fn an_honest_log_verifies_and_its_sums_come_out() {
    let report = Federation::with_history().audit();
    assert!(report.is_clean(), "{:#?}", report.findings);
    assert_eq!((report.n_entries, report.n_attempts(), report.n_released()), (7, 5, 3));
    let task = &report.tasks[0];
    assert_eq!((task.aborted_before_reveal, task.aborted_after_reveal, task.max_attempts), (1, 1, 40));
    assert_eq!(task.weights, Digest::of(b"weights 5"));
    let mechanism = mechanism();
    assert_eq!(task.charged.coordinator, mechanism.promised_epsilon(5, 1e-5));
    assert!(task.charged.outsider < task.charged.coordinator && task.attained.coordinator < task.charged.coordinator);
    assert_eq!(task.pseudonyms.len(), 4);
    for one in &task.pseudonyms {
        assert_eq!((one.attempts, one.charged.coordinator), (5, task.charged.coordinator));
    }
    let revealed: u64 = task.pseudonyms.iter().map(|one| one.revealed).sum();
    assert_eq!(revealed, 4 + 3 + 3 + 4);
}

#[test]
fn a_task_that_protects_clients_is_audited_as_one_and_cannot_pass_for_another() {
    for (noise, relation) in [
        (NoiseTarget::Distributed { epsilon: 4.0 }, "zero-out"),
        (NoiseTarget::Local { epsilon: 4.0 }, "replace"),
        (NoiseTarget::None, "zero-out"),
    ] {
        let mechanism = client_mechanism(noise);
        let mut federation = Federation::with_mechanism(mechanism.clone());
        federation.attempt("released", &[0, 1, 2, 3]);
        federation.attempt("aborted-before-reveal", &[0, 1]);
        let report = federation.audit();
        assert!(report.is_clean(), "{:#?}", report.findings);
        let task = &report.tasks[0];
        assert_eq!((task.unit, task.relation), (UnitOfPrivacy::Client, relation));
        assert_eq!(task.charged.coordinator, mechanism.promised_epsilon(2, 1e-5));
        // Only where others' shares count does it matter whose are known.
        let counts_shares = matches!(noise, NoiseTarget::Distributed { .. });
        assert_eq!(task.charged.outsider < task.charged.coordinator, counts_shares);
        let statement = statement::to_markdown(&report);
        assert!(statement.contains("- **Unit**: one party: all of its records together\n"), "{statement}");
        assert!(statement.contains("- **Why sampling amplifies**: none: who takes part is public\n"), "{statement}");
        let counted = statement.contains(": their shares of the noise are not counted\n");
        assert_eq!(counted, !matches!(noise, NoiseTarget::Local { .. }), "{statement}");
        assert!(!statement.contains("one record of any one party"), "{statement}");
        let mut of_a_record = Accountant::new();
        of_a_record.compose_curve(&task.opened.mechanism.curve_for(UnitOfPrivacy::Record), task.attempts, 0.0);
        let epsilon = of_a_record.epsilon(task.delta);
        let said = if epsilon.is_finite() { format!("{epsilon:.6}") } else { "infinite".to_owned() };
        assert!(statement.contains(&format!("of one record, replaced by another**: {said}\n")), "{statement}");
        // It is the promise to one record only where the promise to a client is a replacement too.
        assert_eq!(epsilon > task.charged.coordinator, counts_shares);
        let encoded = &federation.encoded()[2];
        let attachment = encoded.attachment.as_deref();
        assert_eq!(Entry::parse(&encoded.leaf, attachment).expect("an entry").encode().expect("encodes"), *encoded);
        let text = str::from_utf8(&encoded.leaf).expect("text");
        for (line, other) in [
            ("unit: client", "unit: record"),
            (&format!("relation: {relation}"), "relation: add-or-remove"),
            ("scaled-clip: 16", "scaled-clip: 17"),
            ("local-steps: 3", "local-steps: 4"),
        ] {
            assert!(text.contains(&format!("\n{line}\n")), "{line}: {text}");
            let changed = text.replace(&format!("\n{line}\n"), &format!("\n{other}\n"));
            assert!(Entry::parse(changed.as_bytes(), attachment).is_err(), "{other}");
        }
    }
}

#[test]
fn what_travels_beside_the_model_is_audited_and_only_an_adaptive_clip_may_change() {
    let Mechanism::Record(alone) = mechanism() else { panic!("unit = record") };
    let share = |millionths| Share::from_millionths(millionths).expect("a share");
    let with = |metrics_share: f64, adaptive| -> Mechanism {
        let metrics = Metrics::new(4.0, metrics_share).expect("shares");
        let groups = Groups::new(Some(metrics), adaptive).expect("groups");
        RecordMechanism::new(RecordParameters { groups, ..alone.parameters().clone() }).expect("sound").into()
    };
    let adaptive = AdaptiveClip { l2_clip_norm_min: 0.5, l2_clip_norm_max: 2.0, share: share(10_000) };
    let mechanism = with(0.01, Some(adaptive));
    let mut federation = Federation::with_mechanism(mechanism.clone());
    for _ in 0..3 {
        federation.attempt("released", &[0, 1, 2, 3]);
    }
    for (entry, clip) in [(3, 0.5), (4, 2.0)] {
        federation.change(entry, |a| a.mechanism = mechanism.with_clip(clip).expect("within the bounds"));
        federation.replan(entry);
    }
    let report = federation.audit();
    assert!(report.is_clean(), "{:#?}", report.findings);
    assert_eq!(report.tasks[0].charged.coordinator, Mechanism::from(alone.clone()).promised_epsilon(3, 1e-5));
    let text = String::from_utf8(federation.encoded()[4].leaf.clone()).expect("text");
    for line in [
        "l2-clip-norm: 2",
        "model-share: 980000/1000000",
        "loss: 4 5000/1000000",
        "accuracy: 1 5000/1000000",
        "clipped: 1 10000/1000000",
        "l2-clip-norm-min: 0.5",
        "l2-clip-norm-max: 2",
    ] {
        assert_eq!(text.matches(&format!("\n{line}\n")).count(), 1, "{line} in {text}");
    }
    let statement = statement::to_markdown(&report);
    assert!(statement.contains("the model has 98 % of the squared clip"), "{statement}");
    assert!(statement.contains("1 at first, later from 0.5 to 2"), "{statement}");

    // Any other share, bound or group is another mechanism; so is another clip where none is adaptive.
    let wider = AdaptiveClip { l2_clip_norm_max: 4.0, ..adaptive };
    for other in [with(0.02, Some(adaptive)), with(0.01, Some(wider)), with(0.01, None), alone.clone().into()] {
        federation.change(4, |a| a.mechanism = other.clone());
        assert_found(&federation.audit(), Some(4), |fault| matches!(fault, Fault::Mechanism));
    }
    let mut fixed = Federation::with_mechanism(with(0.01, None));
    fixed.attempt("released", &[0, 1, 2, 3]);
    assert!(fixed.audit().is_clean());
    let Mechanism::Record(other) = with(0.01, None) else { panic!("unit = record") };
    let clip = RecordParameters { l2_clip_norm: 1.5, ..other.parameters().clone() };
    fixed.change(2, |a| a.mechanism = RecordMechanism::new(clip).expect("sound").into());
    assert_found(&fixed.audit(), Some(2), |fault| matches!(fault, Fault::Mechanism));
}

#[test]
fn an_honest_log_without_noise_is_sound_and_promises_nothing() {
    let mut federation = Federation::with_mechanism(mechanism_with(NoiseTarget::None));
    federation.attempt("released", &[0, 1, 2, 3]);
    let entries = federation.encoded();
    for (encoded, marks) in entries.iter().skip(1).zip([
        ["\nnoise: none\n", "\nnoise-variance: -\n", "\nbudget-epsilon: infinite\n"],
        ["\nnoise: none\n", "\nepsilon-coordinator: infinite\n", "\nepsilon-outsider: infinite\n"],
    ]) {
        let (text, attachment) = (str::from_utf8(&encoded.leaf).expect("text"), encoded.attachment.as_deref());
        assert!(marks.iter().all(|mark| text.contains(mark)), "{text}");
        assert_eq!(Entry::parse(&encoded.leaf, attachment).expect("an entry").encode().expect("encodes"), *encoded);
        // A finite epsilon has no place in it.
        for line in ["budget-epsilon", "epsilon-coordinator", "epsilon-outsider"] {
            let claims = text.replace(&format!("\n{line}: infinite\n"), &format!("\n{line}: 4\n"));
            assert!(claims == text || Entry::parse(claims.as_bytes(), attachment).is_err(), "{line}");
        }
    }
    let report = federation.audit();
    assert!(report.is_clean(), "{:#?}", report.findings);
    let task = &report.tasks[0];
    assert_eq!((task.noise, report.without_noise().count()), (Noise::None, 1));
    for epsilons in [task.charged, task.attained, task.pseudonyms[0].charged] {
        assert_eq!((epsilons.coordinator, epsilons.outsider), (f64::INFINITY, f64::INFINITY));
    }
    // Nor has an infinite one a place beside noise, or a finite one without.
    let mut federation = Federation::with_history();
    federation.change_task(|opened| opened.budget_epsilon = f64::INFINITY);
    assert!(federation.entries[1].encode().is_err());
    federation.change_task(|opened| opened.budget_epsilon = 4.0);
    federation.change_task(|opened| opened.mechanism = mechanism_with(NoiseTarget::None));
    assert!(federation.entries[1].encode().is_err());
}

#[test]
fn an_attempt_without_noise_in_a_task_with_noise_is_found() {
    check(
        |f| {
            f.change(3, |a| {
                a.mechanism = mechanism_with(NoiseTarget::None);
                (a.epsilons.coordinator, a.epsilons.outsider) = (f64::INFINITY, f64::INFINITY);
            });
        },
        3,
        |fault| matches!(fault, Fault::Mechanism),
    );
    // And one with noise in a task that was opened without: the task promises nothing all the same.
    let mut federation = Federation::with_mechanism(mechanism_with(NoiseTarget::None));
    federation.attempt("released", &[0, 1, 2, 3]);
    federation.change(2, |a| {
        a.mechanism = mechanism();
        (a.epsilons.coordinator, a.epsilons.outsider) = (1.0, 1.0);
    });
    let report = federation.audit();
    assert_found(&report, Some(2), |fault| matches!(fault, Fault::Mechanism));
    assert_eq!(report.tasks[0].charged.coordinator, f64::INFINITY);
}

/// What an operator who holds the key changes before signing: `change` it, and find `expected` at `entry`.
#[track_caller]
fn check(change: impl FnOnce(&mut Federation), entry: u64, expected: impl Fn(&Fault) -> bool) {
    let mut federation = Federation::with_history();
    change(&mut federation);
    assert_found(&federation.audit(), Some(entry), expected);
}

#[test]
fn a_dropped_entry_is_missed() {
    check(|f| drop(f.entries.remove(3)), 3, |fault| matches!(fault, Fault::Attempts { found: 3, expected: 2 }));
    check(
        |f| drop(f.entries.remove(3)),
        3,
        |fault| matches!(fault, Fault::PseudonymAttempts { found: 3, expected: 2, .. }),
    );
    check(|f| drop(f.entries.remove(3)), 3, |fault| matches!(fault, Fault::Weights { .. }));
    let gap = |found, expected| Fault::Round { found: RoundNumber(found), expected: RoundNumber(expected) };
    check(|f| drop(f.entries.remove(3)), 3, |fault| *fault == gap(3, 2));
    check(|f| drop(f.entries.remove(2)), 2, |fault| *fault == gap(2, 1));
    check(|f| drop(f.entries.remove(0)), 0, |fault| matches!(fault, Fault::Opening));
    check(|f| drop(f.entries.remove(1)), 1, |fault| matches!(fault, Fault::TaskNotOpened { .. }));
    // An attempt taken out with all counts repaired still leaves the weights and the quorum's rounds behind.
    let repaired = |f: &mut Federation, removed: usize| {
        f.entries.remove(removed);
        for index in removed..6 {
            f.change(index, |a| {
                a.attempts -= 1;
                participants(a).iter_mut().for_each(|p| p.attempts -= 1);
            });
        }
    };
    check(|f| repaired(f, 3), 3, |fault| matches!(fault, Fault::Weights { .. }));
    // One that released nothing leaves no weights behind: its round is missing all the same.
    check(|f| repaired(f, 4), 4, |fault| *fault == gap(4, 3));
}

#[test]
fn reordered_repeated_and_spliced_entries_are_found() {
    check(|f| f.entries.swap(3, 4), 3, |fault| matches!(fault, Fault::Round { .. }));
    check(|f| f.entries.swap(3, 4), 4, |fault| matches!(fault, Fault::Round { .. }));
    check(
        |f| f.entries.insert(4, f.entries[3].clone()),
        4,
        |fault| matches!(fault, Fault::AttachmentAgain { before: 3 }),
    );
    // With other signatures the attachment is another one.
    let repeated = |f: &mut Federation| {
        f.entries.insert(4, f.entries[3].clone());
        f.change(4, |a| survivors(a).signatures.truncate(2));
    };
    check(repeated, 4, |fault| matches!(fault, Fault::PlanReused));
    check(repeated, 4, |fault| matches!(fault, Fault::Round { .. }));
    check(|f| f.entries.push(f.entries[1].clone()), 7, |fault| matches!(fault, Fault::TaskReopened { .. }));
    check(|f| f.entries.push(f.entries[0].clone()), 7, |fault| matches!(fault, Fault::Opening));
    // Attempts of another log, of the same task and clients.
    let mut other = Federation::new();
    (0..5).for_each(|_| other.attempt("released", &[0, 1, 2, 3]));
    check(
        |f| f.entries.splice(5.., other.entries.drain(5..)).for_each(drop),
        5,
        |fault| matches!(fault, Fault::Weights { .. }),
    );
    let rename = |f: &mut Federation| f.change(4, |a| a.task = "letters".parse::<TaskId>().expect("name"));
    check(rename, 4, |fault| matches!(fault, Fault::TaskNotOpened { .. }));
    check(|f| f.change(4, |a| a.session.0.0[0] ^= 1), 4, |fault| matches!(fault, Fault::TaskNotOpened { .. }));
    check(|f| f.change_task(|t| t.nonce[0] ^= 1), 1, |fault| matches!(fault, Fault::Session));
}

#[test]
fn a_pseudonym_belongs_to_one_task() {
    let mut federation = Federation::with_history();
    let Entry::TaskOpened(mut second) = federation.entries[1].clone() else { panic!("a task") };
    second.task = "letters".parse().expect("name");
    let trust_domain = "example.org".parse().expect("name");
    second.session = eranos_base::SessionId::derive(&trust_domain, "ledger.example.org", &second.task, &second.nonce);
    let Entry::Attempt(mut attempt) = federation.entries[2].clone() else { panic!("an attempt") };
    (attempt.task, attempt.session) = (second.task.clone(), second.session);
    sign(&mut attempt, &federation.clients, 0..4);
    federation.entries.extend([Entry::TaskOpened(second), Entry::Attempt(attempt)]);
    assert_found(&federation.audit(), Some(8), |fault| matches!(fault, Fault::PseudonymElsewhere { .. }));
}

#[test]
fn a_quorum_short_of_a_signature_or_with_a_wrong_one_is_found() {
    let quorum = |fault: &Fault| matches!(fault, Fault::Quorum { found: 2, quorum: 3 });
    check(|f| f.change(3, |a| survivors(a).signatures.truncate(2)), 3, quorum);
    check(|f| f.change(5, |a| survivors(a).signatures.retain(|(p, _)| p.0 != 1)), 5, quorum);
    // One signature twice, under two positions.
    let double = |f: &mut Federation| {
        f.change(3, |a| {
            let signatures = &mut survivors(a).signatures;
            signatures[1].1 = signatures[0].1;
        });
    };
    check(double, 3, quorum);
    check(double, 3, |fault| matches!(fault, Fault::Statement { position } if position.0 == 1));
    // A signer who is not that position.
    let stranger = |f: &mut Federation| {
        let key = SigningKey::from_seed(&[55; 32]);
        f.change(3, |a| {
            let statement = crate::support::statement(a, 0);
            survivors(a).signatures[0].1 = key.sign(&statement);
        });
    };
    check(stranger, 3, quorum);
    // One who dropped out signs all the same.
    let dropped = |f: &mut Federation| {
        let clients: Vec<SigningKey> = f.clients.iter().map(|key| SigningKey::from_seed(&key.seed())).collect();
        f.change(3, |a| sign(a, &clients, [0, 1, 2].into_iter()));
    };
    check(dropped, 3, quorum);
    check(dropped, 3, |fault| matches!(fault, Fault::Signer { position } if position.0 == 2));
    // Survivors, round, plan, roster or sharers other than those signed.
    let five = |change: fn(&mut Federation)| check(change, 3, |fault| matches!(fault, Fault::Quorum { found: 0, .. }));
    five(|f| f.change(3, |a| survivors(a).bitmap = vec![0b0111]));
    five(|f| f.change(3, |a| a.round = RoundNumber(5)));
    five(|f| f.change(3, |a| a.plan = Digest::of(b"another plan")));
    five(|f| f.change(3, |a| a.roster.as_mut().expect("a roster").digest.0[0] ^= 1));
    five(|f| {
        f.change(3, |a| {
            let sharers = a.roster.as_mut().and_then(|roster| roster.sharers.as_mut());
            sharers.expect("sharers").root.0[31] ^= 1;
        });
    });
    // An abort before the reveal needs no quorum, but what it shows must verify.
    let before = |f: &mut Federation| f.change(4, |a| survivors(a).signatures[0].1 = Signature([1; 64]));
    check(before, 4, |fault| matches!(fault, Fault::Statement { .. }));
}

#[test]
fn a_doubled_position_is_no_entry() {
    let federation = Federation::with_history();
    let mut entries = federation.encoded();
    let text = String::from_utf8(entries[3].attachment.clone().expect("an attachment")).expect("text");
    let line = text.lines().find(|line| line.starts_with("signature: 0 ")).expect("a signature");
    entries[3] = replaced(&entries[3], line, &format!("{line}\n{line}"));
    let dir = tempfile::tempdir().expect("a folder");
    write_log(dir.path(), &entries, &federation.signer);
    let report = audit::verify(dir.path(), &federation.options()).expect("readable");
    assert_found(&report, Some(3), |fault| matches!(fault, Fault::Malformed(_)));
    assert_eq!(report.findings[0].to_string().lines().count(), 1);
    assert!(report.findings[0].to_string().starts_with("entry 3 (attempt, round 2): "), "{}", report.findings[0]);
}

#[test]
fn a_reveal_below_u_min_is_found_even_when_signed() {
    let few = |f: &mut Federation| {
        let clients: Vec<SigningKey> = f.clients.iter().map(|key| SigningKey::from_seed(&key.seed())).collect();
        f.change(3, |a| {
            survivors(a).bitmap = vec![0b0011];
            sign(a, &clients, 0..4);
        });
    };
    check(few, 3, |fault| matches!(fault, Fault::Survivors { found: 2, least: 3 }));
    let roster = |f: &mut Federation| {
        f.change(4, |a| {
            participants(a).truncate(2);
            survivors(a).signatures.clear();
        });
    };
    check(roster, 4, |fault| matches!(fault, Fault::RosterSize { n1: 2, u_min: 3, .. }));
}

#[test]
fn a_smaller_epsilon_or_other_parameters_are_found() {
    let epsilon = |fault: &Fault| matches!(fault, Fault::Epsilon { .. });
    check(|f| f.change(4, |a| a.epsilons.coordinator *= 0.999_999), 4, epsilon);
    check(|f| f.change(4, |a| a.epsilons.outsider *= 0.999_999), 4, epsilon);
    check(|f| f.change(4, |a| a.epsilons.coordinator = 0.0), 4, epsilon);
    check(|f| f.change(4, |a| a.epsilons.coordinator *= 1.01), 4, epsilon);
    let weaker = mechanism_for(5.0);
    check(|f| f.change(4, |a| a.mechanism = weaker.clone()), 4, |fault| matches!(fault, Fault::Mechanism));
    // Weaker everywhere, with honest arithmetic: the budget was declared.
    let mut federation = Federation::with_mechanism(weaker);
    (0..40).for_each(|_| federation.attempt("released", &[0, 1, 2, 3]));
    let report = federation.audit();
    assert_found(&report, Some(1), |fault| matches!(fault, Fault::Budget { .. }));
    assert_found(&report, Some(41), |fault| matches!(fault, Fault::Budget { .. }));
    check(|f| f.change_task(|t| t.budget_delta = 1e-6), 1, |fault| matches!(fault, Fault::Delta { .. }));
    let mut federation = Federation::new();
    (0..41).for_each(|_| federation.attempt("aborted-before-reveal", &[0]));
    assert_found(&federation.audit(), Some(42), |fault| matches!(fault, Fault::TooManyAttempts { found: 41, max: 40 }));
}

#[test]
fn other_terms_than_those_of_the_signed_plan_are_found() {
    let plan = |fault: &Fault| matches!(fault, Fault::Plan { .. });
    check(|f| f.change(4, |a| a.plan = Digest::of(b"another plan")), 4, plan);
    check(|f| f.change(4, |a| a.graph = GraphKind::Sparse), 4, plan);
    check(|f| f.change(4, |a| a.ready_slot_ms += 1), 4, plan);
    check(|f| f.change(4, |a| a.phase_timeout_ms += 1), 4, plan);
    check(|f| f.change(4, |a| a.rotation_seed.0[0] ^= 1), 4, plan);
    check(|f| f.change(4, |a| a.weights_before = Digest::of(b"x")), 4, plan);
    check(|f| f.change(4, |a| a.round = RoundNumber(9)), 4, plan);
    let weaker = mechanism_for(5.0);
    check(|f| f.change(4, |a| a.mechanism = weaker.clone()), 4, plan);
    check(|f| f.change_task(|t| t.model = Digest::of(b"another model")), 2, plan);
    check(|f| f.change_task(|t| t.data = Digest::of(b"other records")), 2, plan);
    // Everything made weaker alike, task and attempts: the clients signed the hash of the plan that they saw.
    let all = |f: &mut Federation| {
        f.change_task(|t| t.mechanism = weaker.clone());
        for index in 2..7 {
            let (Entry::LogOpened(log), Entry::TaskOpened(task)) = (f.entries[0].clone(), f.entries[1].clone()) else {
                panic!("a log and a task were opened")
            };
            let signer = f.signer.clone();
            f.change(index, |a| {
                a.mechanism = weaker.clone();
                a.epsilons = eranos_ledger::Epsilons::promised(&weaker, a.attempts);
                let (plan, statement) = {
                    let terms = a.plan_terms(&log, &task);
                    (terms.digest(), terms.statement())
                };
                (a.plan, a.plan_signature) = (plan, signer.signing_key().sign(&statement));
            });
        }
    };
    check(all, 2, |fault| matches!(fault, Fault::Quorum { found: 0, quorum: 3 }));
    let unsigned = |f: &mut Federation| f.change(4, |a| a.plan_signature.0[5] ^= 1);
    check(unsigned, 4, |fault| matches!(fault, Fault::PlanSignature));
}

#[test]
fn a_key_is_followed_through_its_rotations_and_no_other_is() {
    let federation = Federation::with_rotation();
    let dir = tempfile::tempdir().expect("a folder");
    federation.write(dir.path());
    let name = federation.signer.ledger_key().name().clone();
    let key = |seed| LedgerSigner::new(name.clone(), SigningKey::from_seed(&[seed; 32])).ledger_key();
    let verify = |dir: &std::path::Path, seed, known: Option<Vec<u8>>| {
        audit::verify(dir, &Options { known, ..Options::new(key(seed)) }).expect("readable")
    };
    let report = verify(dir.path(), 1, None);
    assert!(report.is_clean() && report.n_released() == 4, "{:#?}", report.findings);
    assert!(verify(dir.path(), 2, None).is_clean());
    assert_found(&verify(dir.path(), 3, None), None, |fault| matches!(fault, Fault::Checkpoint(_)));
    // A checkpoint from before the rotation is the old key's, one from after it the new one's.
    let note_of = |log: &Federation, n_entries: usize, signer: &LedgerSigner| {
        let dir = tempfile::tempdir().expect("a folder");
        write_log(dir.path(), &log.encoded()[..n_entries], signer);
        fs::read(dir.path().join("checkpoint")).expect("a checkpoint")
    };
    let (old, new) = (Federation::new().signer, federation.signer.clone());
    for seed in [1, 2] {
        assert!(verify(dir.path(), seed, Some(note_of(&federation, 7, &old))).is_clean());
        assert!(verify(dir.path(), seed, Some(note_of(&federation, 8, &new))).is_clean());
        for (n_entries, signer) in [(7, &new), (8, &old)] {
            let report = verify(dir.path(), seed, Some(note_of(&federation, n_entries, signer)));
            assert_found(&report, None, |fault| matches!(fault, Fault::KnownCheckpoint(_)));
        }
    }
    // The whole log under the old key's checkpoint, or a plan that the old key signed after the rotation.
    let stale = tempfile::tempdir().expect("a folder");
    write_log(stale.path(), &federation.encoded(), &old);
    assert_found(&verify(stale.path(), 1, None), None, |fault| matches!(fault, Fault::Checkpoint(_)));
    let mut later = Federation::with_rotation();
    let Entry::Attempt(mut attempt) = later.entries[8].clone() else { panic!("an attempt") };
    let (Entry::LogOpened(log), Entry::TaskOpened(task)) = (&later.entries[0], &later.entries[1]) else {
        panic!("a log and a task were opened")
    };
    let statement = attempt.plan_terms(log, task).statement();
    attempt.plan_signature = old.signing_key().sign(&statement);
    later.entries[8] = Entry::Attempt(attempt);
    later.write(stale.path());
    assert_found(&verify(stale.path(), 1, None), Some(8), |fault| matches!(fault, Fault::PlanSignature));
    // One that either key did not sign, that stood elsewhere in the log, or that leads to another log's key.
    let rotation = |change: &dyn Fn(&mut KeyRotated)| {
        let mut federation = Federation::with_rotation();
        let Entry::KeyRotated(rotated) = &mut federation.entries[7] else { panic!("a rotation") };
        change(rotated);
        let dir = tempfile::tempdir().expect("a folder");
        federation.write(dir.path());
        // The old key's owner finds no signed checkpoint; the new one's sees why.
        assert!(!verify(dir.path(), 1, None).is_clean());
        let report = verify(dir.path(), 2, None);
        assert_found(&report, Some(7), |fault| matches!(fault, Fault::Rotation(_)));
    };
    rotation(&|rotated| rotated.old_signature.0[3] ^= 1);
    rotation(&|rotated| rotated.new_signature.0[3] ^= 1);
    rotation(&|rotated| *rotated = KeyRotated::sign(6, &old, &new));
    rotation(&|rotated| rotated.old = key(3));
    rotation(&|rotated| rotated.new = key(3));
}

#[test]
fn attempts_of_a_pseudonym_are_counted_up_one_by_one() {
    let count = |fault: &Fault| matches!(fault, Fault::PseudonymAttempts { .. });
    check(|f| f.change(4, |a| participants(a)[2].attempts = 2), 4, count);
    check(|f| f.change(4, |a| participants(a)[2].attempts = 5), 4, count);
    check(|f| f.change(4, |a| participants(a)[2].attempts = u64::MAX), 4, count);
    check(|f| f.change(4, |a| a.attempts = u64::MAX), 4, |fault| matches!(fault, Fault::Attempts { .. }));
    let twice = |f: &mut Federation| f.change(4, |a| participants(a)[2] = participants(a)[1]);
    check(twice, 4, |fault| matches!(fault, Fault::PseudonymTwice { .. }));
    let weak = |f: &mut Federation| f.change(6, |a| participants(a)[2].pseudonym.0 = [0; 32]);
    check(weak, 6, |fault| matches!(fault, Fault::PseudonymKey { .. }));
    let before = |f: &mut Federation| f.change(4, |a| a.weights_before = Digest::of(b"weights 0"));
    check(before, 4, |fault| matches!(fault, Fault::Weights { .. }));
    let unreleased = |f: &mut Federation| f.change(3, |a| a.outcome = Outcome::AbortedAfterReveal);
    check(unreleased, 4, |fault| matches!(fault, Fault::Weights { .. }));
}

#[test]
fn an_old_checkpoint_does_not_cover_a_newer_log() {
    let mut federation = Federation::with_history();
    let (old, new) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    federation.write(old.path());
    federation.attempt("released", &[0, 1, 2, 3]);
    federation.write(new.path());
    let old_note = fs::read(old.path().join("checkpoint")).expect("a checkpoint");
    let new_note = fs::read(new.path().join("checkpoint")).expect("a checkpoint");
    let verify = |dir: &tempfile::TempDir, known: &[u8]| {
        let options = Options { known: Some(known.to_vec()), ..federation.options() };
        audit::verify(dir.path(), &options).expect("readable")
    };
    assert!(verify(&new, &old_note).is_clean());
    assert!(verify(&new, &new_note).is_clean());
    // The log cut back, whole in itself, against what a client remembers.
    assert_found(&verify(&old, &new_note), None, |fault| matches!(fault, Fault::Rewind { size: 7, known: 8 }));
    // Another history of the same length and longer.
    let mut other = Federation::new();
    (0..7).for_each(|_| other.attempt("released", &[0, 1, 2]));
    let fork = tempfile::tempdir().expect("a folder");
    other.write(fork.path());
    for note in [&old_note, &new_note] {
        assert_found(&verify(&fork, note), None, |fault| matches!(fault, Fault::Fork { .. }));
    }
    // The old checkpoint put over the newer tiles: the entry that it does not cover is named.
    fs::write(new.path().join("checkpoint"), &old_note).expect("written");
    fs::copy(old.path().join("tile/entries/000.p/7"), new.path().join("tile/entries/000.p/7")).expect("copied");
    fs::copy(old.path().join("tile/0/000.p/7"), new.path().join("tile/0/000.p/7")).expect("copied");
    let report = audit::verify(new.path(), &federation.options()).expect("readable");
    assert_found(&report, Some(7), |fault| matches!(fault, Fault::BeyondCheckpoint { size: 7, .. }));
    assert_found(&report, None, |fault| matches!(fault, Fault::UnnamedAttachments { found: 6, named: 5 }));
    assert_eq!(report.n_findings, 3);
    // A known checkpoint that this key never signed.
    let report = verify(&old, &[old_note.as_slice(), b"x"].concat());
    assert_found(&report, None, |fault| matches!(fault, Fault::KnownCheckpoint(_)));
}

#[test]
fn another_key_or_name_is_found() {
    let federation = Federation::with_history();
    let dir = tempfile::tempdir().expect("a folder");
    federation.write(dir.path());
    let verify = |key: LedgerKey| audit::verify(dir.path(), &Options::new(key)).expect("readable");
    let signer = |name: &str, seed| LedgerSigner::new(name.parse().expect("name"), SigningKey::from_seed(&[seed; 32]));
    for other in [signer("ledger.example.org", 2), signer("ledger.example.com", 1)] {
        assert_found(&verify(other.ledger_key()), None, |fault| matches!(fault, Fault::Checkpoint(_)));
        // A log re-signed by another key, whose first entry still names the pinned one.
        let resigned = tempfile::tempdir().expect("a folder");
        write_log(resigned.path(), &federation.encoded(), &other);
        let options = Options::new(other.ledger_key());
        let report = audit::verify(resigned.path(), &options).expect("readable");
        assert_found(&report, Some(0), |fault| matches!(fault, Fault::OtherLog { .. }));
    }
}

#[test]
fn missing_cut_swapped_and_foreign_files_are_found() {
    let federation = Federation::with_history();
    let intact = tempfile::tempdir().expect("a folder");
    federation.write(intact.path());
    let check = |damage: &dyn Fn(&std::path::Path)| {
        let dir = tempfile::tempdir().expect("a folder");
        copy(intact.path(), dir.path());
        damage(dir.path());
        let report = audit::verify(dir.path(), &federation.options()).expect("readable");
        assert!(!report.is_clean());
        report
    };
    let entries = "tile/entries/000.p/7";
    check(&|dir| fs::remove_file(dir.join(entries)).expect("removed"));
    check(&|dir| fs::remove_file(dir.join("tile/0/000.p/7")).expect("removed"));
    check(&|dir| fs::copy(dir.join("tile/0/000.p/7"), dir.join(entries)).map(drop).expect("copied"));
    check(&|dir| fs::write(dir.join("tile/readme"), "x").expect("written"));
    check(&|dir| fs::write(dir.join("checkpoint.tmp"), "x").expect("written"));
    #[cfg(unix)]
    check(&|dir| {
        let name = std::os::unix::ffi::OsStrExt::from_bytes(&b"tile\xff"[..]);
        fs::create_dir(dir.join::<&std::ffi::OsStr>(name)).expect("a folder");
    });
    check(&|dir| fs::write(dir.join("tile/entries/000.p/3"), "x").expect("written"));
    check(&|dir| {
        fs::create_dir_all(dir.join("tile/1")).expect("a folder");
        fs::write(dir.join("tile/1/000"), [0; 32 * 256]).expect("written");
    });
    let bundle = fs::read(intact.path().join(entries)).expect("a bundle");
    for len in (0..bundle.len()).step_by(97) {
        check(&|dir| fs::write(dir.join(entries), &bundle[..len]).expect("written"));
    }
    let longer = [bundle.as_slice(), &[0]].concat();
    check(&|dir| fs::write(dir.join(entries), &longer).expect("written"));
    // An entry dropped from the bundle alone is named by the hash it should have had.
    let mut entries_swapped = federation.encoded();
    entries_swapped.swap(4, 5);
    let mut swapped = Vec::new();
    for entry in &entries_swapped {
        assert!(eranos_ledger::tile::push_entry(&mut swapped, &entry.leaf));
    }
    let report = check(&|dir| fs::write(dir.join(entries), &swapped).expect("written"));
    assert_found(&report, Some(4), |fault| matches!(fault, Fault::LeafHash { .. }));
    assert_found(&report, Some(5), |fault| matches!(fault, Fault::LeafHash { .. }));
    assert_found(&report, None, |fault| matches!(fault, Fault::Root { size: 7 }));
}

#[test]
fn a_missing_altered_exchanged_or_foreign_attachment_is_found() {
    let federation = Federation::with_history();
    let intact = tempfile::tempdir().expect("a folder");
    federation.write(intact.path());
    let entries = federation.encoded();
    let path = |index: usize| {
        let attachment = entries[index].attachment.as_deref().expect("an attachment");
        attachment_path(&Digest::of(attachment))
    };
    // The structure alone must notice; the whole audit sees at least as much.
    let check = |index: Option<u64>, says: &str, damage: &dyn Fn(&std::path::Path)| {
        let dir = tempfile::tempdir().expect("a folder");
        copy(intact.path(), dir.path());
        damage(dir.path());
        for audit in [audit::verify, audit::verify_structure] {
            let report = audit(dir.path(), &federation.options()).expect("readable");
            let said = |fault: &Fault| fault.to_string().contains(says);
            assert_found(&report, index, said);
        }
    };
    let altered = "is not what its name says";
    check(Some(3), "is missing", &|dir| fs::remove_file(dir.join(path(3))).expect("removed"));
    check(Some(3), altered, &|dir| fs::write(dir.join(path(3)), "").expect("written"));
    let exchange = |dir: &std::path::Path| {
        fs::copy(intact.path().join(path(3)), dir.join(path(5))).expect("copied");
        fs::copy(intact.path().join(path(5)), dir.join(path(3))).expect("copied");
    };
    check(Some(3), altered, &exchange);
    check(Some(5), altered, &exchange);
    let longer = |dir: &std::path::Path| fs::write(dir.join(path(6)), vec![b'x'; ATTACHMENT_LEN_MAX + 1]);
    check(Some(6), altered, &|dir| longer(dir).expect("written"));
    // One that nobody names, whatever it holds; and names that are not an attachment's.
    let add = |name: &str| {
        let name = name.to_owned();
        move |dir: &std::path::Path| {
            let path = dir.join(&name);
            fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
            fs::write(path, "x").expect("written");
        }
    };
    let unnamed = attachment_path(&Digest::of(b"x"));
    check(None, "attachment holds 6 files, but its entries name 5", &add(&unnamed));
    check(None, "is no file of a log", &add(&unnamed.to_uppercase().replace("ATTACHMENT", "attachment")));
    check(None, "is no file of a log", &add("attachment/readme"));
    check(None, "is no file of a log", &add(&format!("attachment/00/{}", Digest::of(b"x"))));
    // One that an entry names in another's place: the entry's own hash says so.
    let (third, fifth) = (Digest::of(entries[3].attachment.as_ref().expect("one")), path(5));
    let fifth = fifth.rsplit('/').next().expect("a name");
    let mut swapped = entries.clone();
    swapped[3].attachment = entries[5].attachment.clone();
    swapped[3].leaf =
        String::from_utf8(swapped[3].leaf.clone()).expect("text").replace(&third.to_string(), fifth).into();
    let dir = tempfile::tempdir().expect("a folder");
    write_log(dir.path(), &swapped, &federation.signer);
    let report = audit::verify(dir.path(), &federation.options()).expect("readable");
    assert_found(&report, Some(3), |fault| matches!(fault, Fault::PseudonymAttempts { .. }));
    assert_found(&report, Some(3), |fault| matches!(fault, Fault::Quorum { .. }));
}

/// Whoever unpacks an archive gets whatever kinds of file are in it. The audit of a pipe would never end.
#[test]
#[cfg(unix)]
fn a_pipe_in_a_files_place_is_found_and_not_waited_for() {
    let federation = Federation::with_history();
    let intact = tempfile::tempdir().expect("a folder");
    federation.write(intact.path());
    for file in files(intact.path()) {
        let dir = tempfile::tempdir().expect("a folder");
        copy(intact.path(), dir.path());
        let name = file.strip_prefix(intact.path()).expect("below");
        fs::remove_file(dir.path().join(name)).expect("removed");
        let made = std::process::Command::new("mkfifo").arg(dir.path().join(name)).status();
        assert!(made.expect("starts").success());
        match audit::verify(dir.path(), &federation.options()) {
            Ok(report) => assert_found(&report, None, |fault| matches!(fault, Fault::UnexpectedFile { .. })),
            Err(error) => {
                assert_eq!((name.to_str(), error.to_string().contains("not a file")), (Some("checkpoint"), true))
            }
        }
    }
}

#[test]
fn every_flipped_byte_of_a_log_is_found() {
    let mut federation = Federation::new();
    federation.attempt("released", &[0, 1, 2, 3]);
    let dir = tempfile::tempdir().expect("a folder");
    federation.write(dir.path());
    let options = federation.options();
    assert!(audit::verify(dir.path(), &options).expect("readable").is_clean());
    let mut n_flipped = 0;
    for file in files(dir.path()) {
        let intact = fs::read(&file).expect("readable");
        for place in 0..intact.len() {
            let mut flipped = intact.clone();
            flipped[place] ^= 1 << (place % 8);
            fs::write(&file, &flipped).expect("written");
            // The structure alone must notice; the whole audit sees at least as much.
            let report = audit::verify_structure(dir.path(), &options).expect("readable");
            assert!(!report.is_clean(), "{}, byte {place}", file.display());
            n_flipped += 1;
        }
        fs::write(&file, intact).expect("written");
    }
    assert!(n_flipped > 4000, "{n_flipped}");
    assert!(audit::verify(dir.path(), &options).expect("readable").is_clean());
}

#[test]
fn a_thousand_random_flips_of_a_log_are_all_found() {
    const SEED: u64 = 42;
    let federation = Federation::with_history();
    let dir = tempfile::tempdir().expect("a folder");
    federation.write(dir.path());
    let options = federation.options();
    let all: Vec<_> = files(dir.path()).into_iter().map(|path| (fs::read(&path).expect("readable"), path)).collect();
    let total: usize = all.iter().map(|(bytes, _)| bytes.len()).sum();
    let mut entropy = SeededEntropy::new(SEED);
    for flip in 0..1000 {
        let mut place = u32::from_le_bytes(entropy.bytes()) as usize % total;
        let (intact, path) = all
            .iter()
            .find(|(bytes, _)| {
                let here = place < bytes.len();
                if !here {
                    place -= bytes.len();
                }
                here
            })
            .expect("below the total");
        let mut flipped = intact.clone();
        flipped[place] ^= 1 << (entropy.bytes::<1>()[0] % 8);
        fs::write(path, &flipped).expect("written");
        // Every twentieth through the whole audit, which takes milliseconds a mechanism.
        let audit = if flip % 20 == 0 { audit::verify } else { audit::verify_structure };
        let report = audit(dir.path(), &options).expect("readable");
        assert!(!report.is_clean(), "seed {SEED}, flip {flip}: {}, byte {place}", path.display());
        fs::write(path, intact).expect("written");
    }
}

#[test]
fn the_name_of_a_log_is_no_markdown() {
    let mut federation = Federation::with_origin("`<b>`[x](https://x)", mechanism());
    federation.attempt("released", &[0, 1, 2, 3]);
    let report = federation.audit();
    assert!(report.is_clean(), "{:#?}", report.findings);
    let text = statement::to_markdown(&report);
    let shown: Vec<&str> = text.lines().filter(|line| line.contains("<b>")).collect();
    assert!(
        shown.len() == 2 && shown[0].starts_with("- **Ledger**: `%60<b>%60[x](https://x)`, 3 entries"),
        "{shown:?}"
    );
    assert!(shown[1].starts_with("- **Key**: `%60<b>%60[x](https://x)+") && shown[1].ends_with('`'), "{shown:?}");
    assert!(shown.iter().all(|line| line.matches('`').count() == 2), "{shown:?}");
}

#[test]
fn findings_are_counted_beyond_those_kept() {
    let federation = Federation::with_history();
    let dir = tempfile::tempdir().expect("a folder");
    let foreign = |i| EncodedEntry { leaf: format!("eranos/ledger/v2 {i}\n").into_bytes(), attachment: None };
    write_log(dir.path(), &(0..200).map(foreign).collect::<Vec<_>>(), &federation.signer);
    let report = audit::verify(dir.path(), &federation.options()).expect("readable");
    assert_eq!((report.findings.len(), report.n_findings), (audit::FINDINGS_MAX, 200));
}
