//! Disclosed bindings: who stands behind a pseudonym, and what that one was charged in all.

use eranos_base::{SigningKey, TaskId, statement::statement_key_certification};
use eranos_ledger::{Binding, Entry, binding};
use eranos_privacy::{
    Promise,
    accountant::{
        Accountant,
        filter::{Planned, RenyiFilter},
    },
    mechanism::NoiseTarget,
};

use crate::support::{Federation, client_mechanism, mechanism, sign};

/// The binding of client `i` of a federation to a name, by a certificate key of its own.
pub(crate) fn binding_of(federation: &Federation, i: usize, task: &str) -> Binding {
    let (trust_domain, task) = ("example.org".parse().expect("name"), task.parse().expect("name"));
    let certificate_key = SigningKey::from_seed(&[50 + i as u8; 32]);
    let pseudonym = federation.clients[i].verifying_key();
    Binding {
        certification: certificate_key.sign(&statement_key_certification(&trust_domain, &task, &pseudonym)),
        client: format!("spiffe://example.org/client/party-{i}").parse().expect("an identity"),
        certificate: eranos_base::Digest::of(&[i as u8]),
        certificate_key: certificate_key.verifying_key(),
        trust_domain,
        task,
        pseudonym,
    }
}

#[test]
fn bindings_are_counted_checked_and_added_up_over_tasks() {
    let mut federation = Federation::with_history();
    // A second task of another mechanism, in which the clients have other pseudonyms.
    let Entry::TaskOpened(mut second) = federation.entries[1].clone() else { panic!("a task") };
    let mut other = Federation::with_mechanism(client_mechanism(NoiseTarget::Distributed { epsilon: 4.0 }));
    other.clients = (0..4).map(|i| SigningKey::from_seed(&[200 + i; 32])).collect();
    other.attempt("released", &[0, 1, 2, 3]);
    let (Entry::TaskOpened(of_other), Entry::Attempt(mut attempt)) = (&other.entries[1], other.entries[2].clone())
    else {
        panic!("a task and an attempt")
    };
    second.task = "letters".parse::<TaskId>().expect("name");
    second.mechanism = of_other.mechanism.clone();
    let trust_domain = "example.org".parse().expect("name");
    second.session = eranos_base::SessionId::derive(&trust_domain, "ledger.example.org", &second.task, &second.nonce);
    (attempt.task, attempt.session) = (second.task.clone(), second.session);
    let Entry::LogOpened(log) = &federation.entries[0] else { panic!("a log") };
    let (plan, statement) = {
        let terms = attempt.plan_terms(log, &second);
        (terms.digest(), terms.statement())
    };
    (attempt.plan, attempt.plan_signature) = (plan, federation.signer.signing_key().sign(&statement));
    sign(&mut attempt, &other.clients, 0..4);
    federation.entries.extend([Entry::TaskOpened(second), Entry::Attempt(attempt)]);
    let report = federation.audit();
    assert!(report.is_clean(), "{:#?}", report.findings);

    let (first, second) = (binding_of(&federation, 1, "digits"), binding_of(&other, 1, "letters"));
    let text = first.encode() + &second.encode() + &binding_of(&federation, 2, "digits").encode();
    let bindings = Binding::parse_all(&text).expect("bindings");
    let disclosed = binding::disclose(&report, &bindings);
    assert_eq!((disclosed.n_bound, disclosed.faults.len(), disclosed.clients.len()), (vec![2, 1], 0, 2));
    let [both, alone] = &disclosed.clients[..] else { panic!("two clients") };
    assert_eq!((both.client.name(), both.tasks.len(), both.attempts), ("party-1", 2, 6));
    assert_eq!((alone.client.name(), alone.tasks.len(), alone.attempts), ("party-2", 1, 5));
    assert_eq!(alone.epsilon_record, mechanism().promised_epsilon(5, 1e-5));
    assert_eq!(alone.epsilon_client, f64::INFINITY, "a record-level task promises nothing to the client");
    let mut accountant = Accountant::new();
    for (task, attempts) in report.tasks.iter().zip([5, 1]) {
        let mechanism = &task.opened.mechanism;
        let curve = mechanism.curve_for(eranos_privacy::budget::UnitOfPrivacy::Record);
        accountant.compose_curve(&curve, attempts, mechanism.cut_probability());
    }
    // No more than if both had been fixed in advance, but for what one order instead of all of them costs; and what a budget
    // of that limit, which began with the first task, lets pass.
    assert!(both.epsilon_record > alone.epsilon_record);
    assert!((accountant.epsilon(1e-5)..1.1 * accountant.epsilon(1e-5)).contains(&both.epsilon_record));
    let first = &report.tasks[0].opened.mechanism;
    let curve = first.curve_for(eranos_privacy::budget::UnitOfPrivacy::Record);
    let (failure, attempts) = (first.cut_probability(), first.common().max_attempts);
    let passes = |limit: f64| {
        RenyiFilter::beginning_with(&Planned { curve: &curve, failure, attempts }, limit, 1e-5).lets_pass(&accountant)
    };
    assert!(passes(both.epsilon_record) && !passes(both.epsilon_record * 0.999));
}

#[test]
fn a_binding_that_nobody_certified_or_of_nobody_in_the_log_is_found() {
    let federation = Federation::with_history();
    let report = federation.audit();
    let check = |change: &dyn Fn(&mut Binding), says: &str| {
        let mut changed = binding_of(&federation, 1, "digits");
        change(&mut changed);
        let disclosed = binding::disclose(&report, &[binding_of(&federation, 0, "digits"), changed]);
        assert_eq!(disclosed.n_bound, [1], "{says}");
        assert!(disclosed.faults.len() == 1 && disclosed.faults[0].contains(says), "{says}: {:?}", disclosed.faults);
    };
    let uncertified = "did not certify";
    check(&|b| b.certification.0[9] ^= 1, uncertified);
    check(&|b| b.certificate_key = SigningKey::from_seed(&[9; 32]).verifying_key(), uncertified);
    check(&|b| b.task = "letters".parse().expect("name"), uncertified);
    check(&|b| b.trust_domain = "example.com".parse().expect("name"), uncertified);
    check(&|b| b.pseudonym = federation.clients[2].verifying_key(), uncertified);
    check(&|b| b.client = "spiffe://example.com/client/a".parse().expect("an identity"), uncertified);
    // Certified, but not for a pseudonym of this log.
    let mut stranger = Federation::new();
    stranger.clients[1] = SigningKey::from_seed(&[77; 32]);
    check(&|b| *b = binding_of(&stranger, 1, "digits"), "no such pseudonym");
    check(&|b| *b = binding_of(&federation, 1, "letters"), "no such pseudonym");
    // Two clients, one pseudonym.
    let mut twice = binding_of(&federation, 0, "digits");
    twice.client = "spiffe://example.org/client/another".parse().expect("an identity");
    check(&|b| *b = twice.clone(), "another client too");
}

/// Somebody names the true certificate of a client, and binds another's pseudonym to it by a key of his own: the auditor
/// is shown each key, to be held against the certificate's.
#[test]
fn every_certificate_and_key_by_which_a_client_is_disclosed_is_shown() {
    let federation = Federation::with_history();
    let genuine = binding_of(&federation, 0, "digits");
    let mut slipped = binding_of(&federation, 1, "digits");
    (slipped.client, slipped.certificate) = (genuine.client.clone(), genuine.certificate);
    let disclosed = binding::disclose(&federation.audit(), &[genuine.clone(), slipped.clone()]);
    let [one] = &disclosed.clients[..] else { panic!("one client") };
    let shown = [&genuine, &slipped].map(|binding| (binding.certificate, binding.certificate_key));
    assert_eq!(one.certificates, shown.into());
}

#[test]
fn a_malformed_binding_is_named_by_its_line() {
    let text = binding_of(&Federation::new(), 1, "digits").encode();
    assert_eq!(
        Binding::parse_all(&text).map(|all| all.iter().map(Binding::encode).collect::<String>()),
        Ok(text.clone())
    );
    let at = |text: &str| Binding::parse_all(text).map_err(|error| error.line);
    assert_eq!(at(&text.replace("task: ", "Task: ")), Err(3));
    assert_eq!(at(&text.replace("v1", "v2")), Err(1));
    assert_eq!(at(&format!("{text}x\n")), Err(9));
    assert_eq!(at(&text[..text.len() - 1]), Err(8));
    assert_eq!(at(""), Ok(Vec::new()));
}
