//! What leaves a client, byte for byte: beside the masked vector nothing that depends on its data, nothing of one round
//! in another, nothing of a round that it had begun before it was started again.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use eranos_base::{Digest, Position, StatementKind};
use eranos_client::round::{self as client, End, Event, RefusalKind};
use eranos_nn::{Dataset, data::Files};
use eranos_privacy::{
    Groups, Promise, RotationSeed,
    budget::BudgetError,
    groups::{AdaptiveClip, Metrics, Share},
    mechanism::RecordTarget,
    rotation::release,
};
use eranos_secagg::{Advert, GraphKind, Refusal, RosterError};
use eranos_wire::{Answer, Request, messages::abort::Aborted, plan::PlanError};

use super::{
    adversary::{Adversary, alter_answers},
    canaries::{flat_model, train},
    coordinator_attacks::{VICTIM, check_refusal, deceive},
    world::{
        ADVERTISE, CONSISTENCY, Client, Did, Exit, ExitHow, FIVE, MASKED_INPUT, READY, SHARE_KEYS, UNMASK, World,
        mechanism, target,
    },
};

/// What a client sent, and when.
fn sent(client: &Client) -> Vec<(eranos_base::Timestamp, Request, Bytes)> {
    let sent = client.did.iter().filter_map(|did| match did {
        Did::Sent { at, request, body } => Some((*at, request.clone(), body.clone())),
        _ => None,
    });
    sent.collect()
}

/// Where `a` and `b` differ, as ranges over runs of differing bytes.
fn differing(a: &[u8], b: &[u8]) -> Vec<usize> {
    assert_eq!(a.len(), b.len());
    (0..a.len()).filter(|at| a[*at] != b[*at]).collect()
}

#[test]
fn nothing_that_leaves_depends_on_the_data_but_the_masked_vector() {
    // One federation twice, all its randomness the same, over other contributions: another sum of gradients, another
    // number of records, another loss.
    let run = |change: fn(&mut u32)| {
        let mut world = World::new(60, FIVE);
        world.begin(1);
        for client in &mut world.clients {
            client.contribution.iter_mut().for_each(change);
        }
        world.run();
        world.check("one of two", &[]);
        assert!(world.settled_without(&[]));
        world
    };
    let bits = World::new(60, FIVE).setup.mechanism.common().bits;
    assert!(bits > 8, "what is changed below is part of the value");
    let (one, other) = (run(|_| ()), run(|value| *value ^= 0xA5));
    for (i, (one, other)) in one.clients.iter().zip(&other.clients).enumerate() {
        let (one, other) = (sent(one), sent(other));
        assert_eq!(one.len(), other.len(), "client {i}");
        assert_eq!(one.len(), 8, "client {i}: one message a phase, and the credentials");
        for ((at, request, body), (other_at, other_request, other_body)) in one.into_iter().zip(other) {
            assert_eq!(at, other_at, "client {i}, {:#x}", request.kind());
            let (Request::MaskedInput(message), Request::MaskedInput(other)) = (&request, &other_request) else {
                assert_eq!((&request, &body), (&other_request, &other_body), "client {i}, {:#x}", request.kind());
                continue;
            };
            assert_ne!(body, other_body, "client {i}: the vectors differ");
            assert_eq!(body.len(), other_body.len(), "client {i}");
            // Its digest, and the signature over that: between the two stands the number of complaints.
            let expected = |at: &usize| *at < 32 || *at >= 34;
            assert!(differing(&message.finished, &other.finished).iter().all(expected), "client {i}");
            assert_eq!(message.finished[..32], Digest::of(&body).0, "client {i}: nothing else is hashed");
            assert_eq!(Request::MaskedInput(message.clone()).round(), other_request.round(), "client {i}");
        }
    }
}

/// The same federation twice, over other records: in one of them the model is right on all of them, in the other on none,
/// and there are other numbers of them. Their trainers measure loss and accuracy, since the plan asks for them.
#[test]
fn what_a_client_measures_goes_nowhere_but_into_the_masked_vector() {
    let run = |class: u32, n_records: usize| {
        let (model, records) = flat_model(3, 4);
        let share = Share::from_millionths(10_000).unwrap();
        let adaptive = AdaptiveClip { l2_clip_norm_min: 0.5, l2_clip_norm_max: 2.0, share };
        let groups = Groups::new(Some(Metrics::new(4.0, 0.6).unwrap()), Some(adaptive)).unwrap();
        let target = RecordTarget { groups, ..target(FIVE, model.n_parameters()) };
        let mut world = World::training(66, FIVE, GraphKind::Complete, mechanism(target), model, records);
        world.clients.iter_mut().for_each(|client| client.trains_ms = 300);
        world.begin(1);
        assert!(world.run_until(|world| world.clients.iter().all(|client| client.job.is_some())));
        for client in &mut world.clients {
            let job = client.job.take().unwrap();
            let values = (0..3 * n_records).map(|i| (i % 251) as f32).collect();
            let own = Dataset::from_values(values, vec![class; n_records], &[1, 3, 1]);
            client.contribution = train(Files::Idx(own), job);
        }
        world.run();
        world.check("one of two", &[]);
        assert!(world.settled_without(&[]));
        world
    };
    // At weights of zero the first class is said of every record.
    let (right, wrong) = (run(0, 40), run(3, 10));
    for (i, (right, wrong)) in right.clients.iter().zip(&wrong.clients).enumerate() {
        let (right, wrong) = (sent(right), sent(wrong));
        assert_eq!((right.len(), wrong.len()), (8, 8), "client {i}: one message a phase, and the certificates");
        for ((at, request, body), (other_at, other_request, other_body)) in right.into_iter().zip(wrong) {
            assert_eq!(at, other_at, "client {i}, {:#x}", request.kind());
            match (&request, &other_request) {
                (Request::MaskedInput(message), Request::MaskedInput(other)) => {
                    assert_eq!(body.len(), other_body.len(), "client {i}");
                    let expected = |at: &usize| *at < 32 || *at >= 34;
                    assert!(differing(&message.finished, &other.finished).iter().all(expected), "client {i}");
                }
                _ => assert_eq!((&request, &body), (&other_request, &other_body), "client {i}"),
            }
        }
    }
    // What it keeps on disk knows no figure either.
    for (right, wrong) in right.clients.iter().zip(&wrong.clients) {
        assert_eq!(right.file.len(), wrong.file.len());
        assert_eq!(right.budget.epsilon_spent(), wrong.budget.epsilon_spent());
    }
    // The sum does differ, in what the coordinator may know of it.
    let released = |world: &World| {
        let plan = world.coordinator.plan.clone().unwrap();
        let released = world.coordinator.released.clone().unwrap();
        release(&released.residues, &plan.mechanism, &RotationSeed(plan.rotation_seed), 5).unwrap().1
    };
    let [right, wrong] = [released(&right), released(&wrong)].map(|released| released.accuracy.unwrap());
    assert!(right.value - wrong.value > 6.0 * 2f64.sqrt() * right.deviation, "{right:?}, {wrong:?}");
}

#[test]
fn no_two_rounds_and_no_two_clients_have_a_key_a_commitment_or_a_ciphertext_in_common() {
    let mut world = World::new(61, FIVE);
    let (mut seen, mut n) = (BTreeSet::new(), 0);
    let mut vectors = BTreeSet::new();
    for round in 1..=3 {
        world.begin(round);
        world.run();
        world.check("honest", &[]);
        assert!(world.settled_without(&[]));
        for (_, request, body) in world.clients.iter().flat_map(sent) {
            match request {
                Request::Advertise(message) => {
                    let advert = Advert::from_bytes(&message.advert).unwrap();
                    seen.insert(advert.c_pk.as_bytes().to_vec());
                    seen.insert(advert.s_pk.as_bytes().to_vec());
                    seen.insert(advert.seed_commitment.0.to_vec());
                    n += 3;
                }
                Request::ShareKeys(message) => {
                    for part in eranos_secagg::Bundle::from_bytes(&message.bundle).unwrap().parts() {
                        seen.insert(part.ciphertext.to_vec());
                        seen.insert(part.seed_hash.0.to_vec());
                        seen.insert(part.key_hash.0.to_vec());
                        n += 3;
                    }
                }
                Request::MaskedInput(_) => _ = vectors.insert(body),
                _ => {}
            }
        }
    }
    assert_eq!((n, seen.len(), vectors.len()), (3 * 5 * (3 + 3 * 4), n, 3 * 5));
}

#[test]
fn a_client_that_is_started_again_inside_a_round_takes_no_further_part_in_it() {
    for kind in [ADVERTISE, SHARE_KEYS, READY, MASKED_INPUT, CONSISTENCY, UNMASK] {
        let context = format!("died after request {kind:#x}");
        let mut world = World::new(62, FIVE);
        world.clients[VICTIM].exit = Some(Exit { kind, how: ExitHow::DiesAfter });
        let configured: Arc<Mutex<Option<(Answer, Bytes)>>> = Arc::default();
        let record = configured.clone();
        world.on_answer = Some(Box::new(move |i, answer, body| {
            if i == VICTIM && matches!(answer, Answer::Configure(_)) {
                *record.lock().unwrap() = Some((answer.clone(), body.clone()));
            }
        }));
        world.begin(1);
        assert!(world.run_until(|world| world.clients[VICTIM].round.is_none()), "{context}");
        world.clients[VICTIM].exit = None;
        world.restart(VICTIM);
        assert_eq!(world.clients[VICTIM].budget.n_charged(), u64::from(kind >= MASKED_INPUT), "{context}");
        // The coordinator gives it the same plan again, as if nothing had been.
        let (answer, body) = configured.lock().unwrap().clone().unwrap();
        world.clients[VICTIM].did.push(Did::Heard);
        world.feed_client(VICTIM, Event::Answer { answer, body });
        check_refusal(&world, &context, true, false, |kind| {
            matches!(kind, RefusalKind::Budget(BudgetError::RoundNotNew { .. }))
        });
        let sent = sent(&world.clients[VICTIM]);
        assert!(
            matches!(sent[..], [(_, Request::CheckIn(_), _), (_, Request::Abort(_), _)]),
            "{context}: it sends nothing of the round: {sent:?}"
        );
        assert!(matches!(world.clients[VICTIM].round, Some(client::Round::Over)), "{context}: it keeps nothing of it");
    }
}

#[test]
fn another_model_for_one_client_ends_its_round_before_keys_are_shared() {
    // The roster of the others, as an honest round has it: worlds of one seed have the same keys.
    let shown: Arc<Mutex<Option<Answer>>> = Arc::default();
    let record = shown.clone();
    let world = deceive(
        "honest",
        |_| {},
        move |_, answer, _| {
            if matches!(answer, Answer::Roster(_)) {
                *record.lock().unwrap() = Some(answer.clone());
            }
        },
    );
    assert!(world.settled_without(&[]));
    let Some(Answer::Roster(roster)) = shown.lock().unwrap().clone() else { panic!("no roster") };
    // Weights chosen for one victim would make the others' gradients vanish, and the sum the victim's own. Their roster is
    // shown to it as it is, or signed again under the victim's plan.
    let check = |context: &str, signed_again: bool, expect: fn(&RefusalKind) -> bool| {
        let (roster, mut told) = (roster.clone(), None);
        let world = deceive(
            context,
            |_| {},
            move |adversary, answer, body| match answer {
                Answer::Configure(_) => {
                    let other = Bytes::from(vec![0x3f; body.len()]);
                    adversary.replan(answer, |plan| {
                        plan.checkpoint = Digest::of(&other);
                        told = Some(plan.clone());
                    });
                    *body = other;
                }
                Answer::Aborted(_) if signed_again => {
                    let entries = adversary.entries(&roster);
                    *answer = adversary.roster_under(told.as_ref().unwrap(), &entries).into();
                }
                Answer::Aborted(_) => *answer = roster.clone().into(),
                _ => adversary.show(answer, &[]),
            },
        );
        check_refusal(&world, context, true, false, expect);
        let shared = |request: &Request| matches!(request, Request::ShareKeys(_) | Request::MaskedInput(_));
        assert!(!world.clients[VICTIM].sent().any(shared));
        assert!(world.settled_without(&[VICTIM]));
    };
    check("two models", false, |kind| matches!(kind, RefusalKind::NotSigned { what: "roster" }));
    check("two models, signed again", true, |kind| {
        matches!(kind, RefusalKind::SecureSum(Refusal::Roster(RosterError::Entry { .. })))
    });
}

#[test]
fn a_plan_whose_sum_could_wrap_is_refused() {
    // One bit less than the largest sum needs. Such a mechanism cannot be made here, so its bytes are altered, and signed.
    let mut world = World::new(63, FIVE);
    let eranos_privacy::Mechanism::Record(mechanism) = &world.setup.mechanism else { panic!("unit = record") };
    let parameters = mechanism.parameters().clone();
    let encode = |bits: u8| {
        let parameters = eranos_privacy::RecordParameters { bits, ..parameters.clone() };
        eranos_privacy::RecordMechanism::new(parameters).map(|mechanism| mechanism.encode())
    };
    assert!(encode(parameters.bits - 1).is_err());
    let (honest, wider) = (encode(parameters.bits).unwrap(), encode(parameters.bits + 1).unwrap());
    let at = differing(&honest, &wider);
    assert_eq!(at.len(), 1, "bits are one byte");
    let mut narrow = honest.clone();
    narrow[at[0]] = parameters.bits - 1;
    alter_answers(&mut world, VICTIM, move |adversary, answer, _| {
        let Answer::Configure(configure) = answer else { return };
        let (bytes, old) = (configure.plan.plan_bytes().to_vec(), configure.plan.signature());
        let altered = replaced(&bytes, &honest, &narrow);
        let context = eranos_base::Context { plan: Digest::of(&altered), ..adversary.context() };
        let statement = context.statement(StatementKind::Plan, Position::NONE, &altered);
        let signature = adversary.setup.ledger_key().sign(&statement);
        let header = replaced(&answer.encode().unwrap(), &bytes, &altered);
        *answer = Answer::decode(answer.kind(), &replaced(&header, &old.0, &signature.0)).unwrap();
    });
    world.begin(1);
    world.run();
    world.check("a bit less", &[VICTIM]);
    check_refusal(
        &world,
        "a bit less",
        false,
        false,
        |kind| matches!(kind, RefusalKind::Plan(PlanError::Mechanism(what)) if what.contains("bits")),
    );
    assert!(world.clients[VICTIM].sent().all(|request| matches!(request, Request::CheckIn(_))));
}

/// `bytes` with the one occurrence of `old` replaced.
pub(super) fn replaced(bytes: &[u8], old: &[u8], new: &[u8]) -> Vec<u8> {
    let places: Vec<_> = bytes.windows(old.len()).enumerate().filter(|(_, window)| *window == old).collect();
    assert_eq!((places.len(), old.len()), (1, new.len()));
    let at = places[0].0;
    [&bytes[..at], new, &bytes[at + old.len()..]].concat()
}

#[test]
fn a_client_that_refused_or_was_left_out_keeps_nothing_of_the_round() {
    // Whatever ends it: the state that held keys, seeds and shares is gone, and dropping them wipes them.
    type Deceit = fn(&Adversary, &mut Answer);
    let deceits: [Deceit; 4] = [
        |adversary, answer| adversary.reorder(answer, |entries| entries.swap(1, 2)),
        |adversary, answer| adversary.resharers(answer, |members, _| members[VICTIM].1 = Digest::ZERO),
        |adversary, answer| adversary.resurvivors(answer, |readies| _ = readies.remove(&Position(VICTIM as u16))),
        |_, answer| {
            if let Answer::Quorum(message) = answer {
                message.quorum = eranos_secagg::Quorum::new(Vec::new()).to_bytes();
            }
        },
    ];
    for (turn, deceit) in deceits.into_iter().enumerate() {
        let context = format!("deceit {turn}");
        let mut world = deceive(&context, |_| {}, move |adversary, answer, _| deceit(adversary, answer));
        assert!(matches!(world.clients[VICTIM].end, Some(End::Refused(_))), "{context}");
        assert!(matches!(world.clients[VICTIM].round, Some(client::Round::Over)), "{context}");
        // And nothing that it hears afterwards makes it speak again.
        let n_sent = sent(&world.clients[VICTIM]).len();
        world.feed_client(VICTIM, Event::Wake);
        let abort = Answer::Aborted(Aborted { reason: "again".into() });
        world.feed_client(VICTIM, Event::Answer { answer: abort, body: Bytes::new() });
        assert_eq!(sent(&world.clients[VICTIM]).len(), n_sent, "{context}");
    }
}
