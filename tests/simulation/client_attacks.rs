//! A client that lies, with its real certificate key or without. It may lose its own place; it never changes the sum of
//! the others, and never keeps them from it unless the round aborts.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use eranos_base::{Digest, Position, SigningKey, StatementKind, limits::UPLOAD_GRANTS_MAX};
use eranos_client::round::{self as client, Event};
use eranos_coordinator::round::{self as coordinator, Message, Note, Peer, Phase};
use eranos_secagg::{Advert, Bundle, share_keys::SharePart};
use eranos_wire::{
    Answer, Request,
    messages::{
        abort::Aborted,
        masked_input::Grant,
        select::{CheckIn, PLAN_VERSION},
    },
};

use super::{
    adversary::{Adversary, Shared, alter_answers},
    world::{COME_BACK_LATER, CoordinatorDid, Did, Exit, ExitHow, FIVE, MASKED_INPUT, SHARE_KEYS, Size, UNMASK, World},
};

/// Who lies.
const LIAR: usize = 0;

/// One round in which the liar's requests are what `alter` makes of them.
fn lie(
    context: &str,
    prepare: impl FnOnce(&mut World),
    mut alter: impl FnMut(&Adversary, &mut Request, &mut Bytes, &SigningKey) + 'static,
) -> World {
    let mut world = World::new(31, FIVE);
    prepare(&mut world);
    let shared = alter_answers(&mut world, LIAR, |_, _, _| {});
    let key = SigningKey::from_seed(&world.clients[LIAR].member.identity.certificate_key.seed());
    world.on_request = Some(Box::new(move |i, request, body| {
        if i == LIAR {
            alter(&shared.lock().unwrap(), request, body, &key);
        }
    }));
    world.begin(1);
    world.run();
    world.check(context, &[LIAR]);
    world
}

/// The others settle as if nothing had been, and the coordinator has noticed; `counts` says whether the liar's vector is
/// in the sum all the same.
fn check_lie(
    context: &str,
    counts: bool,
    alter: impl FnMut(&Adversary, &mut Request, &mut Bytes, &SigningKey) + 'static,
) {
    let world = lie(context, |_| {}, alter);
    assert!(world.settled_without(&[LIAR]), "{context}: {:?}", world.coordinator.abandoned);
    let survivors = &world.coordinator.released.as_ref().unwrap().survivors;
    assert_eq!(survivors.contains(&LIAR), counts, "{context}");
    let noticed = |note: &Note| match note {
        Note::Misbehaved { id, .. } | Note::Dropped { id, .. } | Note::Blamed { id, .. } => *id == world.peer(LIAR).id,
        _ => false,
    };
    assert!(world.coordinator.notes.iter().any(noticed), "{context}: {:?}", world.coordinator.notes);
}

/// Who is excluded after the round.
fn check_blamed(context: &str, world: &World, expected: &[usize]) {
    assert_eq!(Vec::from_iter(world.blamed()), expected, "{context}: {:?}", world.coordinator.notes);
}

#[test]
fn an_advert_that_is_not_its_senders_costs_only_its_sender() {
    check_lie("signature forged", false, |_, request, _, _| {
        if let Request::Advertise(message) = request {
            *message.advert.last_mut().unwrap() ^= 1;
        }
    });
    check_lie("key swapped", false, |_, request, _, _| {
        if let Request::Advertise(message) = request {
            message.advert[40] ^= 1;
        }
    });
    check_lie("cut short", false, |_, request, _, _| {
        if let Request::Advertise(message) = request {
            message.advert.truncate(100);
        }
    });
    check_lie("signed by another", false, |adversary, request, _, _| {
        if let Request::Advertise(message) = request {
            let advert = Advert::from_bytes(&message.advert).unwrap();
            message.advert = adversary.sign_advert(advert, &SigningKey::from_seed(&[4; 32])).to_bytes().to_vec();
        }
    });
    check_lie("a statement key that it did not certify", false, |adversary, request, _, key| {
        if let Request::Advertise(message) = request {
            let mut advert = Advert::from_bytes(&message.advert).unwrap();
            advert.statement_key = SigningKey::from_seed(&[4; 32]).verifying_key();
            message.advert = adversary.sign_advert(advert, key).to_bytes().to_vec();
        }
    });
}

#[test]
fn another_clients_advert_is_refused() {
    let mut world = World::new(32, FIVE);
    world.begin(1);
    let advert = |world: &World| {
        world.clients[1].sent().find_map(|request| match request {
            Request::Advertise(message) => Some(message.advert.clone()),
            _ => None,
        })
    };
    assert!(world.run_until(|world| advert(world).is_some()));
    let (from, advert) = (world.peer(LIAR), advert(&world).unwrap());
    let possession = possession_of_liar(&world);
    feed(&mut world, &from, Message::Advertise { advert, possession });
    world.run();
    world.check("another's advert", &[LIAR]);
    assert!(world.settled_without(&[LIAR]));
}

#[test]
fn a_second_broken_advert_takes_nobody_elses_place() {
    // The liar's advert is taken; then it sends one that is none, while the others' are still on the way.
    let mut world = World::new(33, FIVE);
    world.begin(1);
    assert!(world.run_until(|world| world.coordinator.round.phase() == Some(Phase::AdvertiseKeys)));
    let advert = advert_of_liar(&mut world);
    let from = world.peer(LIAR);
    let possession = possession_of_liar(&world);
    feed(&mut world, &from, Message::Advertise { advert, possession });
    feed(&mut world, &from, Message::Advertise { advert: vec![1, 2, 3], possession });
    world.run();
    world.check("a broken second advert", &[LIAR]);
    assert!(world.settled_without(&[LIAR]), "{:?}", world.coordinator.notes);
    assert!(!world.coordinator.released.as_ref().unwrap().survivors.contains(&LIAR));
}

fn advert_of_liar(world: &mut World) -> Vec<u8> {
    let terms = Arc::new(world.coordinator.plan.as_ref().unwrap().terms().unwrap());
    let identity = world.clients[LIAR].member.identity.clone();
    eranos_secagg::Advertised::begin(terms, identity, &mut world.dice.0).advert().to_bytes().to_vec()
}

fn feed(world: &mut World, from: &Peer, message: Message) {
    world.feed(coordinator::Event::Message { from: from.clone(), message });
}

/// A world in which the advert of client 1 has just arrived and its round still waits for others, and that advert.
fn with_one_advert(seed: u64) -> (World, Advert) {
    let mut world = World::new(seed, FIVE);
    let arrived: Arc<Mutex<Option<Vec<u8>>>> = Arc::default();
    let seen = arrived.clone();
    world.on_request = Some(Box::new(move |i, request, _| {
        if let (1, Request::Advertise(message)) = (i, request) {
            *seen.lock().unwrap() = Some(message.advert.clone());
        }
    }));
    world.begin(1);
    assert!(world.run_until(|_| arrived.lock().unwrap().is_some()));
    assert_eq!(world.coordinator.round.phase(), Some(Phase::AdvertiseKeys));
    let advert = Advert::from_bytes(arrived.lock().unwrap().as_ref().unwrap()).unwrap();
    (world, advert)
}

/// The liar's own advert with a change that it signs, taken by the coordinator now.
fn advertise_changed(world: &mut World, change: impl FnOnce(&mut Advert)) {
    let mut advert = Advert::from_bytes(&advert_of_liar(world)).unwrap();
    change(&mut advert);
    let mut adversary = Adversary::new(world, LIAR);
    adversary.plan = world.coordinator.plan.clone();
    let advert = adversary.sign_advert(advert, &world.clients[LIAR].member.identity.certificate_key);
    let from = world.peer(LIAR);
    let possession = possession_of_liar(world);
    feed(world, &from, Message::Advertise { advert: advert.to_bytes().to_vec(), possession });
}

/// The liar's proof that it holds its own statement key in this round.
fn possession_of_liar(world: &World) -> eranos_base::Signature {
    let terms = world.coordinator.plan.as_ref().unwrap().terms().unwrap();
    world.clients[LIAR].member.identity.possession(&terms)
}

/// The liar's certification of a statement key that is not its own.
fn certify(world: &World, key: &eranos_base::VerifyingKey) -> eranos_base::Signature {
    let body = eranos_base::encoding::Canonical::new("eranos/statement-key/v1")
        .text(world.setup.trust_domain.as_str())
        .text(world.setup.task.as_str())
        .field(&key.0)
        .finish();
    world.clients[LIAR].member.identity.certificate_key.sign(&body)
}

#[test]
fn an_advert_with_another_clients_key_costs_only_its_sender() {
    let check = |context: &str, change: fn(&mut Advert, &Advert)| {
        let (mut world, other) = with_one_advert(34);
        let certification = certify(&world, &other.statement_key);
        advertise_changed(&mut world, |advert| {
            change(advert, &other);
            if advert.statement_key == other.statement_key {
                advert.certification = certification;
            }
        });
        world.run();
        world.check(context, &[LIAR]);
        assert!(world.settled_without(&[LIAR]), "{context}: {:?}", world.coordinator.abandoned);
        assert!(!world.coordinator.released.as_ref().unwrap().survivors.contains(&LIAR), "{context}");
    };
    check("its key of masks", |advert, other| advert.s_pk = other.s_pk);
    check("its key of shares", |advert, other| advert.c_pk = other.c_pk);
    check("one for the other", |advert, other| advert.s_pk = other.c_pk);
    check("both its own the same", |advert, _| advert.s_pk = advert.c_pk);
    check("its statement key", |advert, other| advert.statement_key = other.statement_key);
}

#[test]
fn a_statement_key_of_a_client_that_is_still_to_come_is_not_to_be_had() {
    // Statement keys are known from earlier rosters, and a certification proves no possession of the key.
    let mut world = World::new(34, FIVE);
    world.begin(1);
    assert!(world.run_until(|world| world.coordinator.round.phase() == Some(Phase::AdvertiseKeys)));
    let claimed = world.clients[1].member.identity.statement_key.verifying_key();
    let certification = certify(&world, &claimed);
    advertise_changed(&mut world, |advert| (advert.statement_key, advert.certification) = (claimed, certification));
    world.run();
    world.check("a statement key claimed", &[LIAR]);
    assert!(world.settled_without(&[LIAR]), "{:?}", world.coordinator.abandoned);
    assert!(world.clients[1].is_charged());
}

#[test]
fn a_proof_of_possession_that_is_none_costs_only_its_sender() {
    check_lie("by another key", false, |_, request, _, _| {
        if let Request::Advertise(message) = request {
            message.possession = SigningKey::from_seed(&[4; 32]).sign(b"eranos");
        }
    });
    check_lie("altered", false, |_, request, _, _| {
        if let Request::Advertise(message) = request {
            message.possession.0[7] ^= 1;
        }
    });
}

#[test]
fn an_altered_bundle_costs_only_its_sender() {
    for byte in [0, 2, 50, 100, 130, 200, 211, 212, 500, 847] {
        check_lie(&format!("byte {byte} flipped"), false, move |_, request, _, _| {
            if let Request::ShareKeys(message) = request {
                message.bundle[byte] ^= 1;
            }
        });
    }
    check_lie("a part missing", false, |_, request, _, _| {
        if let Request::ShareKeys(message) = request {
            message.bundle.truncate(3 * SharePart::LEN);
        }
    });
    check_lie("cut short", false, |_, request, _, _| {
        if let Request::ShareKeys(message) = request {
            message.bundle.pop();
        }
    });
    check_lie("no part at all", false, |_, request, _, _| {
        if let Request::ShareKeys(message) = request {
            message.bundle.clear();
        }
    });
    check_lie("a part twice", false, |_, request, _, _| {
        if let Request::ShareKeys(message) = request {
            let first = message.bundle[..SharePart::LEN].to_vec();
            message.bundle[SharePart::LEN..2 * SharePart::LEN].copy_from_slice(&first);
        }
    });
}

#[test]
fn shares_that_do_not_open_are_complained_of_and_the_sum_stays_exact() {
    // Signed as it should be, sealed as it should not. The liar's own machine knows nothing of it: it is shown the U2 that
    // it expects, and what it signs over that is signed again over the real one.
    let spoil = |n_spoilt: usize, gone: Option<Exit>| {
        let mut world = World::new(31, FIVE);
        world.clients[4].exit = gone;
        let own: Arc<Mutex<Option<Digest>>> = Arc::default();
        let expected = own.clone();
        let shared = alter_answers(&mut world, LIAR, move |adversary, answer, _| {
            adversary.resharers(answer, |members, _| members[LIAR].1 = expected.lock().unwrap().unwrap());
        });
        let key = SigningKey::from_seed(&world.clients[LIAR].member.identity.certificate_key.seed());
        world.on_request = Some(Box::new(move |i, request, body| {
            let adversary = shared.lock().unwrap();
            match request {
                _ if i != LIAR => {}
                Request::ShareKeys(message) => {
                    let bundle = Bundle::from_bytes(&message.bundle).unwrap();
                    *own.lock().unwrap() = Some(bundle.digest(Position(0)));
                    let mut parts = bundle.parts().to_vec();
                    for part in parts.iter_mut().take(n_spoilt) {
                        part.ciphertext[9] ^= 1;
                        *part = adversary.sign_part(part.clone(), &key);
                    }
                    message.bundle = Bundle::new(parts).to_bytes();
                }
                Request::Ready(message) => {
                    let statement = adversary.context().statement(StatementKind::Ready, Position(0), &[]);
                    message.signature = key.sign(&statement);
                }
                Request::MaskedInput(message) => {
                    message.finished = adversary.sign_finished(body, Position(0), &key).to_bytes();
                }
                _ => {}
            }
        }));
        world.begin(1);
        world.run();
        world.check(&format!("{n_spoilt} shares"), &[LIAR]);
        world
    };
    // One holder short, there are still t = 3.
    let world = spoil(1, None);
    assert!(world.settled_without(&[LIAR]), "{:?}", world.coordinator.abandoned);
    assert!(world.coordinator.released.as_ref().unwrap().survivors.contains(&LIAR), "its vector counts");
    check_blamed("as many complaints as there may be colluders", &world, &[]);
    // Two short, the liar's seed cannot be rebuilt: no sum, rather than a wrong one.
    let world = spoil(2, None);
    assert!(world.coordinator.released.is_none());
    assert_eq!(world.coordinator.abandoned_revealed, Some(true), "the others had released theirs");
    check_blamed("one of two complaints is an honest client's", &world, &[LIAR]);
    // One short, and an honest client gone that the plan could do without: the same, and nothing proves whose fault it is.
    // To ask for the missing share in another way would show it to somebody whom the dealer did not choose.
    let world = spoil(1, Some(Exit { kind: UNMASK, how: ExitHow::DiesBefore }));
    assert!(world.coordinator.released.is_none());
    assert_eq!(world.coordinator.abandoned_revealed, Some(true));
    check_blamed("as many complaints as there may be colluders, and a drop-out", &world, &[]);
}

#[test]
fn false_complaints_exclude_no_honest_client_and_too_many_exclude_their_sender() {
    let complain = |dealers: &'static [Position]| {
        let context = format!("complaints about {dealers:?}");
        let world = lie(
            &context,
            |_| {},
            move |adversary, request, body, key| {
                if let Request::MaskedInput(message) = request {
                    message.finished = adversary.sign_complaints(body, dealers, Position(0), key).to_bytes();
                }
            },
        );
        assert!(world.settled_without(&[LIAR]), "{context}: {:?}", world.coordinator.abandoned);
        world
    };
    check_blamed("one, as f may all be lies", &complain(&[Position(3)]), &[]);
    check_blamed("more than there may be colluders", &complain(&[Position(2), Position(3)]), &[LIAR]);
}

#[test]
fn two_bundles_signed_by_one_client_prove_it_guilty() {
    let mut world = World::new(35, FIVE);
    let shared = alter_answers(&mut world, LIAR, |_, _, _| {});
    world.begin(1);
    let bundle = |world: &World| {
        world.clients[LIAR].sent().find_map(|request| match request {
            Request::ShareKeys(message) => Some(message.bundle.clone()),
            _ => None,
        })
    };
    assert!(world.run_until(|world| bundle(world).is_some()));
    let (from, first) = (world.peer(LIAR), bundle(&world).unwrap());
    let key = SigningKey::from_seed(&world.clients[LIAR].member.identity.certificate_key.seed());
    let mut parts = Bundle::from_bytes(&first).unwrap().parts().to_vec();
    parts[2].ciphertext[9] ^= 1;
    parts[2] = shared.lock().unwrap().sign_part(parts[2].clone(), &key);
    for bundle in [first, Bundle::new(parts).to_bytes()] {
        feed(&mut world, &from, Message::ShareKeys(bundle));
    }
    world.run();
    world.check("two bundles", &[LIAR]);
    assert!(world.settled_without(&[LIAR]), "{:?}", world.coordinator.notes);
    check_blamed("two bundles", &world, &[LIAR]);
}

#[test]
fn no_more_than_two_bundles_of_a_client_are_verified() {
    // Each holds a signature for every other member, and nobody else is heard meanwhile.
    let mut world = World::new(42, FIVE);
    world.begin(1);
    assert!(world.run_until(|world| world.coordinator.round.phase() == Some(Phase::ShareKeys)));
    let from = world.peer(LIAR);
    for _ in 0..10 {
        feed(&mut world, &from, Message::ShareKeys(Vec::new()));
    }
    let refused = |note: &&Note| matches!(note, Note::Misbehaved { id, .. } if *id == from.id);
    assert_eq!(world.coordinator.notes.iter().filter(refused).count(), 2, "{:?}", world.coordinator.notes);
    world.run();
    world.check("many bundles", &[LIAR]);
    assert!(world.settled_without(&[LIAR]), "{:?}", world.coordinator.abandoned);
}

#[test]
fn a_client_that_shared_and_left_at_once_takes_nobody_elses_place() {
    // The same with a bundle that is taken and another that is none.
    let mut world = World::new(35, FIVE);
    world.begin(1);
    assert!(
        world.run_until(|world| world.clients[LIAR].sent().any(|request| matches!(request, Request::ShareKeys(_))))
    );
    let bundle = world.clients[LIAR].sent().find_map(|request| match request {
        Request::ShareKeys(message) => Some(message.bundle.clone()),
        _ => None,
    });
    let from = world.peer(LIAR);
    feed(&mut world, &from, Message::ShareKeys(bundle.unwrap()));
    feed(&mut world, &from, Message::ShareKeys(vec![0; 5]));
    world.run();
    world.check("a broken second bundle", &[LIAR]);
    assert!(world.settled_without(&[LIAR]), "{:?}", world.coordinator.notes);
}

#[test]
fn a_forged_ready_costs_only_its_sender() {
    check_lie("forged", false, |_, request, _, _| {
        if let Request::Ready(message) = request {
            message.signature.0[20] ^= 1;
        }
    });
    check_lie("over another U2", false, |adversary, request, _, key| {
        if let Request::Ready(message) = request {
            let context = adversary.context().with_sharers(Digest::of(b"another"));
            message.signature = key.sign(&context.statement(StatementKind::Ready, Position(0), &[]));
        }
    });
}

#[test]
fn a_vector_that_is_not_the_one_signed_is_not_added() {
    check_lie("altered", false, |_, request, body, _| {
        if matches!(request, Request::MaskedInput(_)) {
            let mut bytes = body.to_vec();
            bytes[3] ^= 1;
            *body = bytes.into();
        }
    });
    check_lie("cut short", false, |_, request, body, _| {
        if matches!(request, Request::MaskedInput(_)) {
            *body = body.slice(..body.len() - 1);
        }
    });
    check_lie("too long", false, |_, request, body, _| {
        if matches!(request, Request::MaskedInput(_)) {
            *body = [&body[..], &[0; 9]].concat().into();
        }
    });
    check_lie("empty", false, |_, request, body, _| {
        if matches!(request, Request::MaskedInput(_)) {
            *body = Bytes::new();
        }
    });
    check_lie("its statement forged", false, |_, request, _, _| {
        if let Request::MaskedInput(message) = request {
            *message.finished.last_mut().unwrap() ^= 1;
        }
    });
    check_lie("its statement cut short", false, |_, request, _, _| {
        if let Request::MaskedInput(message) = request {
            message.finished.truncate(10);
        }
    });
    check_lie("a complaint about itself", false, |adversary, request, body, key| {
        if let Request::MaskedInput(message) = request {
            let mut finished = adversary.sign_finished(body, Position(0), key);
            finished.complaints = vec![Position(0)];
            message.finished = finished.to_bytes();
        }
    });
}

#[test]
fn two_different_vectors_of_one_client_are_one_vector() {
    // Another vector, signed as well as the first, after the first was taken.
    let mut world = World::new(36, FIVE);
    for i in 1..5 {
        world.clients[i].trains_ms = 350;
    }
    let shared: Shared = alter_answers(&mut world, LIAR, |_, _, _| {});
    world.begin(1);
    let uploaded = |world: &World| {
        world.clients[LIAR].did.iter().find_map(|did| match did {
            Did::Sent { request: Request::MaskedInput(message), body, .. } => Some((message.clone(), body.clone())),
            _ => None,
        })
    };
    assert!(world.run_until(|world| uploaded(world).is_some()));
    let (message, body) = uploaded(&world).unwrap();
    let from = world.peer(LIAR);
    feed(&mut world, &from, Message::MaskedInput { packed: body.to_vec(), finished: message.finished });
    let mut other = body.to_vec();
    other[0] ^= 0xFF;
    let key = SigningKey::from_seed(&world.clients[LIAR].member.identity.certificate_key.seed());
    let finished = shared.lock().unwrap().sign_finished(&other, Position(0), &key);
    feed(&mut world, &from, Message::MaskedInput { packed: other, finished: finished.to_bytes() });
    world.run();
    world.check("two vectors", &[LIAR]);
    assert!(world.settled_without(&[LIAR]), "{:?}", world.coordinator.notes);
    assert!(world.coordinator.released.as_ref().unwrap().survivors.contains(&LIAR), "the first counts");
}

#[test]
fn a_vector_that_was_not_asked_for_is_not_added() {
    // Before READY.
    let mut world = World::new(37, FIVE);
    world.clients[LIAR].trains_ms = 500;
    let shared: Shared = alter_answers(&mut world, LIAR, |_, _, _| {});
    world.begin(1);
    let contributes = |round: &client::Round| round.phase() == client::Phase::Contribute;
    assert!(world.run_until(|world| world.clients[LIAR].round.as_ref().is_some_and(contributes)));
    let coordinator::Round::MaskedInput(phase) = &world.coordinator.round else { panic!("in masked_input") };
    let packed = vec![0; phase.packed_len()];
    let key = SigningKey::from_seed(&world.clients[LIAR].member.identity.certificate_key.seed());
    let finished = shared.lock().unwrap().sign_finished(&packed, Position(0), &key).to_bytes();
    let from = world.peer(LIAR);
    feed(&mut world, &from, Message::MaskedInput { packed, finished });
    world.run();
    world.check("a vector before READY", &[LIAR]);
    assert!(world.settled_without(&[LIAR]));
}

#[test]
fn a_vector_without_a_grant_is_not_added_and_holds_up_nobody() {
    // More clients than are granted an upload at once; one does not wait for its turn.
    let mut world = World::new(38, Size { n: 40, u_min: 36, f: 1 });
    world.begin(1);
    let waits = |world: &World| {
        let coordinator::Round::MaskedInput(phase) = &world.coordinator.round else { return None };
        let ready = |i: &usize| {
            let id = &world.peer(*i).id;
            let is_ready = world.clients[*i].round.as_ref().is_some_and(|round| round.phase() == client::Phase::Ready);
            is_ready && !phase.is_granted(id)
        };
        let n_granted = (0..40).filter(|i| phase.is_granted(&world.peer(*i).id)).count();
        // All places are taken, and its READY is among those that wait.
        if n_granted == 16 { (0..40).find(ready) } else { None }
    };
    assert!(world.run_until(|world| waits(world).is_some()));
    let liar = waits(&world).unwrap();
    world.feed_client(liar, Event::Answer { answer: Grant {}.into(), body: Bytes::new() });
    let upload = world.clients[liar].did.iter().find_map(|did| match did {
        Did::Sent { request: Request::MaskedInput(message), body, .. } => Some((message.clone(), body.clone())),
        _ => None,
    });
    let (message, body) = upload.unwrap();
    let from = world.peer(liar);
    feed(&mut world, &from, Message::MaskedInput { packed: body.to_vec(), finished: message.finished });
    assert_eq!(world.coordinator.round.phase(), Some(Phase::MaskedInput));
    let aborted = Answer::from(Aborted { reason: "".into() }).kind();
    let told = CoordinatorDid::Answered { to: from.id, kind: aborted };
    assert_eq!(world.coordinator.did.last(), Some(&told), "it hears that it may not");
    world.run();
    world.check("no grant", &[liar]);
    assert!(world.settled_without(&[liar]), "{:?}", world.coordinator.abandoned);
    assert!(!world.coordinator.released.as_ref().unwrap().survivors.contains(&liar));
}

#[test]
fn clients_that_hold_every_place_and_upload_nothing_keep_it_from_nobody() {
    // The first to be ready take all places, and vanish: no more of them than the plan lets drop out.
    let mut world = World::new(41, Size { n: 40, u_min: 24, f: 1 });
    let stalled: Vec<usize> = (0..UPLOAD_GRANTS_MAX).collect();
    for i in 0..40 {
        if stalled.contains(&i) {
            world.clients[i].exit = Some(Exit { kind: MASKED_INPUT, how: ExitHow::DiesBefore });
        } else {
            world.clients[i].trains_ms = 500;
        }
    }
    world.begin(1);
    world.run();
    world.check("places held for nothing", &[]);
    assert!(world.settled_without(&stalled), "{:?}", world.coordinator.abandoned);
    assert_eq!(world.coordinator.released.as_ref().unwrap().survivors, Vec::from_iter(UPLOAD_GRANTS_MAX..40));
}

#[test]
fn a_ready_sent_again_holds_no_place() {
    // Sixteen places, twenty clients: those that have uploaded ask again, and again.
    let mut world = World::new(39, Size { n: 20, u_min: 18, f: 1 });
    let mut readies: Vec<(usize, eranos_base::Signature)> = Vec::new();
    let hooked = Arc::new(Mutex::new(Vec::new()));
    let seen = hooked.clone();
    world.on_request = Some(Box::new(move |i, request, _| {
        if let Request::Ready(message) = request {
            seen.lock().unwrap().push((i, message.signature));
        }
    }));
    world.begin(1);
    assert!(world.run_until(|world| world.coordinator.round.phase() == Some(Phase::MaskedInput)));
    while world.coordinator.round.phase() == Some(Phase::MaskedInput) {
        readies.extend(hooked.lock().unwrap().drain(..));
        for (i, ready) in readies.clone() {
            let from = world.peer(i);
            if world.coordinator.round.phase() != Some(Phase::MaskedInput) {
                break;
            }
            feed(&mut world, &from, Message::Ready(ready));
        }
        let mut stepped = false;
        assert!(world.run_until(|_| std::mem::replace(&mut stepped, true)));
    }
    world.run();
    world.check("READY again", &[]);
    assert!(world.settled_without(&[]), "{:?}", world.coordinator.abandoned);
    assert_eq!(world.coordinator.released.as_ref().unwrap().survivors.len(), 20);
}

#[test]
fn a_forged_statement_is_no_part_of_the_quorum() {
    check_lie("forged", true, |_, request, _, _| {
        if let Request::Consistency(message) = request {
            message.signature.0[1] ^= 1;
        }
    });
    check_lie("under the certificate's key", true, |adversary, request, _, key| {
        if let Request::Consistency(message) = request {
            let statement = adversary.context().statement(StatementKind::Consistency, Position(0), &[0b11111]);
            message.signature = key.sign(&statement);
        }
    });
}

#[test]
fn altered_shares_are_not_used() {
    let flip = |byte: usize, signed: bool| {
        move |adversary: &Adversary, request: &mut Request, _: &mut Bytes, key: &SigningKey| {
            if let Request::Unmask(message) = request {
                message.shares[byte] ^= 1;
                if signed {
                    adversary.sign_shares(&mut message.shares, Position(0), key);
                }
            }
        }
    };
    check_lie("a share", true, flip(10, false));
    check_lie("a share, signed", true, flip(10, true));
    check_lie("a dealer, signed", true, flip(2, true));
    check_lie("the number, signed", true, flip(0, true));
    check_lie("the signature", true, flip(2 + 4 * 34 + 1, false));
    check_lie("nothing", true, |adversary, request, _, key| {
        if let Request::Unmask(message) = request {
            message.shares = vec![0; 2 + 64];
            adversary.sign_shares(&mut message.shares, Position(0), key);
        }
    });
    // A released share that fails its hash is its holder's fault, never its dealer's, and only what is signed proves it.
    for (signed, guilty) in [(true, &[LIAR][..]), (false, &[])] {
        check_blamed("a share", &lie("a share", |_| {}, flip(10, signed)), guilty);
    }
    // With one already gone there is one answer less to spare, and the altered one is still not used.
    let gone = |world: &mut World| world.clients[4].exit = Some(Exit { kind: SHARE_KEYS, how: ExitHow::DiesBefore });
    let world = lie("a share of a dropped client, signed", gone, flip(2 + 3 * 34 + 10, true));
    assert!(world.settled_without(&[LIAR, 4]), "{:?}", world.coordinator.abandoned);
}

/// Every request of every client in an honest round of this seed, as the coordinator's machine takes it.
fn recorded(seed: u64) -> Vec<(usize, Request, Bytes)> {
    let mut world = World::new(seed, FIVE);
    world.begin(1);
    world.run();
    assert!(world.settled_without(&[]));
    let sent = |i: usize| {
        world.clients[i].did.iter().filter_map(move |did| match did {
            Did::Sent { request, body, .. } => Some((i, request.clone(), body.clone())),
            _ => None,
        })
    };
    (0..world.clients.len()).flat_map(sent).collect()
}

/// The message of a request that the machine takes.
fn message(request: &Request, body: &Bytes) -> Option<Message> {
    Some(match request.clone() {
        Request::CheckIn(check_in) => Message::CheckIn(check_in),
        Request::FetchCredentials(_) => return None,
        Request::Advertise(message) => Message::Advertise { advert: message.advert, possession: message.possession },
        Request::ShareKeys(message) => Message::ShareKeys(message.bundle),
        Request::Ready(message) => Message::Ready(message.signature),
        Request::MaskedInput(message) => Message::MaskedInput { packed: body.to_vec(), finished: message.finished },
        Request::Consistency(message) => Message::Consistency(message.signature),
        Request::Unmask(message) => Message::Unmask { shares: message.shares, ledger_size: message.ledger_size },
        Request::Abort(message) => Message::Abort(message.reason.as_str().to_owned()),
    })
}

#[test]
fn messages_out_of_phase_and_from_strangers_change_nothing_for_the_others() {
    // The real messages of the round: its liar has them before it should, or has another's.
    let recorded = recorded(40);
    for phase in Phase::ALL {
        for owner in [LIAR, 1] {
            for sender in [Some(LIAR), None] {
                let mut world = World::new(40, FIVE);
                world.begin(1);
                assert!(world.run_until(|world| world.coordinator.round.phase() == Some(phase)));
                let from = match sender {
                    Some(i) => world.peer(i),
                    None => Peer {
                        id: eranos_base::ClientId::new(&world.setup.trust_domain, "c77").unwrap(),
                        key: SigningKey::from_seed(&[6; 32]).verifying_key(),
                        certificate: Digest::of(b"c77"),
                    },
                };
                let others = recorded.iter().filter(|(i, ..)| *i == owner);
                for message in others.filter_map(|(_, request, body)| message(request, body)) {
                    // A stranger that checks in is a stranger no more, and a full cohort is closed to it.
                    if sender.is_none() && phase == Phase::Select && matches!(message, Message::CheckIn(_)) {
                        continue;
                    }
                    feed(&mut world, &from, message);
                }
                feed(&mut world, &from, Message::Abort("for no reason".to_owned()));
                world.run();
                let context = format!("messages of {owner} by {sender:?} in {}", phase.name());
                world.check(&context, &[LIAR]);
                let absent: &[usize] = if sender.is_some() { &[LIAR] } else { &[] };
                assert!(
                    world.settled_without(absent),
                    "{context}: {:?}, {:?}",
                    world.coordinator.abandoned,
                    world.coordinator.notes
                );
            }
        }
    }
}

#[test]
fn a_check_in_for_another_task_or_version_is_sent_away() {
    let mut world = World::new(41, FIVE);
    world.begin(1);
    let from = Peer { id: eranos_base::ClientId::new(&world.setup.trust_domain, "c77").unwrap(), ..world.peer(0) };
    let honest = CheckIn {
        task: world.setup.task.clone(),
        plan_version: PLAN_VERSION,
        ledger_key: world.setup.ledger_key().verifying_key(),
        ledger_size: 0,
        nonce: 0,
    };
    feed(&mut world, &from, Message::CheckIn(CheckIn { task: "another".parse().unwrap(), ..honest.clone() }));
    feed(&mut world, &from, Message::CheckIn(CheckIn { plan_version: PLAN_VERSION + 1, ..honest }));
    let answered = CoordinatorDid::Answered { to: from.id, kind: COME_BACK_LATER };
    assert_eq!(world.coordinator.did, [answered.clone(), answered]);
    world.run();
    assert!(world.settled_without(&[]));
}
