//! Coordinators and clients that cheat, with real messages. Each test is named after what must not work.

use std::sync::Arc;

use eranos_base::{Digest, Entropy, Position, RoundNumber, SessionId, Signature, SigningKey, StatementKind};
use eranos_secagg::{
    AddressedPart, Advert, Advertised, Arrival, Blame, Identity, Incomplete, Misbehaviour, PositionSet, Quorum,
    Refusal, Roster, RosterEntry, RosterError, SharePart, Sharers, StatementKey, Survivors, ThresholdError,
    UnmaskAnswer, VerifiedCertifications, advert::AdvertError, packing::PackingError, roster::EntryError,
};

use crate::federation::{Federation, federation, id, position};

/// n1 = 10, f = 3, u_min = 7: q = 7, t = 6. Clients 0 to 2 work with the coordinator, client 3 is the victim, 4 to 6
/// will be declared dropped, 7 to 9 are the other honest ones.
fn ten(seed: u64) -> Federation {
    federation(10, 3, 7, 6, 20, seed)
}

fn sharers_of(routed: &eranos_secagg::Routed, keep: impl Fn(usize) -> bool) -> Sharers {
    let members = routed.sharers().members().filter(|(position, _)| keep(position.index()));
    Sharers::new(routed.sharers().set().n1(), members.collect()).expect("ascending")
}

/// Survivors as a malicious coordinator writes them.
fn survivors(n1: usize, readies: &[(usize, Signature)]) -> Survivors {
    let set = PositionSet::of(n1, readies.iter().map(|(i, _)| position(*i)));
    let readies = readies.iter().flat_map(|(_, ready)| ready.0);
    let bytes: Vec<u8> = set.as_bytes().iter().copied().chain(readies).collect();
    Survivors::from_bytes(&bytes, n1).expect("well-formed")
}

#[test]
fn u2_equivocation_with_the_victim_alone_with_the_corrupt_is_refused() {
    let federation = ten(1);
    let (mut clients, router) = federation.shared(&[]);
    let routed = router.close().expect("everybody shared");
    let parts: Vec<_> = routed.parts_for(position(3)).into_iter().filter(|part| part.dealer.0 < 3).collect();
    let refusal = clients.remove(3).receive(&sharers_of(&routed, |i| i <= 3).shown_to(position(3)), &parts);
    assert_eq!(refusal.map(|_| ()), Err(Refusal::TooFewSharers { n_sharers: 4, u_min: 7 }));
}

#[test]
fn u2_equivocation_with_those_that_will_be_declared_dropped_is_refused_by_all() {
    let federation = ten(2);
    let (clients, router) = federation.shared(&[]);
    let routed = router.close().expect("everybody shared");
    // The corrupt play both sides; their READYs are honest signatures over either U2.
    let (everyone, victims) = (routed.sharers().clone(), sharers_of(&routed, |i| i <= 6));
    let mut masked = Vec::new();
    let mut readies = Vec::new();
    for (i, client) in clients.into_iter().enumerate() {
        let u2 = if i == 3 { &victims } else { &everyone };
        let mut parts = routed.parts_for(position(i));
        parts.retain(|part| u2.set().contains(part.dealer));
        let client = client.receive(&u2.shown_to(position(i)), &parts).expect("large enough, and every part is signed");
        readies.push((i, client.ready()));
        masked.push(client.mask(&federation.input(i)).expect("the plan's length").0);
    }
    let context = federation.roster().context().with_sharers(victims.root());
    let corrupt_ready = |i: usize| {
        let statement = context.statement(StatementKind::Ready, position(i), &[]);
        (i, federation.identities[i].certificate_key.sign(&statement))
    };
    let u3: Vec<_> = readies.iter().filter(|(i, _)| !(4..=6).contains(i)).copied().collect();
    let not_ready = |i: usize| Some(Refusal::ReadySignature { position: position(i) });
    // The others see a survivor that masked against another U2.
    let victim = masked.remove(3);
    for honest in masked.drain(6..) {
        assert_eq!(honest.sign(&survivors(10, &u3)).err(), not_ready(3));
    }
    // The victim sees honest survivors that did, with whatever the corrupt sign for it.
    let for_victim: Vec<_> = (0..=6).map(|i| if i < 3 { corrupt_ready(i) } else { readies[i] }).collect();
    assert_eq!(victim.sign(&survivors(10, &for_victim)).err(), not_ready(4));
}

#[test]
fn a_u2_that_lacks_the_client_or_alters_its_bundle_or_withholds_a_part_is_refused() {
    let check = |change: &dyn Fn(&eranos_secagg::Routed, &mut Vec<AddressedPart>) -> Sharers, expect: Refusal| {
        let federation = federation(4, 1, 3, 6, 20, 3);
        let (mut clients, router) = federation.shared(&[]);
        let routed = router.close().expect("everybody shared");
        let mut parts = routed.parts_for(position(0));
        let sharers = change(&routed, &mut parts);
        assert_eq!(clients.remove(0).receive(&sharers.shown_to(position(0)), &parts).map(|_| ()), Err(expect));
    };
    let whole = |routed: &eranos_secagg::Routed| routed.sharers().clone();
    check(&|routed, _| sharers_of(routed, |i| i != 0), Refusal::NotASharer);
    check(
        &|routed, _| {
            let mut members: Vec<_> = routed.sharers().members().collect();
            members[0].1 = Digest::of(b"another bundle");
            Sharers::new(4, members).expect("ascending")
        },
        Refusal::OwnBundleAltered,
    );
    let missing = Refusal::PartMissing { dealer: position(2) };
    check(
        &|routed, parts| {
            parts.remove(1);
            whole(routed)
        },
        missing.clone(),
    );
    check(
        &|routed, parts| {
            parts.push(parts[1].clone());
            whole(routed)
        },
        missing,
    );
    check(
        &|routed, parts| {
            *parts = routed.parts_for(position(1));
            whole(routed)
        },
        Refusal::ForeignPart { dealer: position(0), holder: position(1) },
    );
    check(
        &|routed, _| sharers_of(routed, |i| i != 3),
        Refusal::ForeignPart { dealer: position(3), holder: position(0) },
    );
    check(
        &|routed, parts| {
            parts[1].signature = parts[0].signature;
            whole(routed)
        },
        Refusal::PartSignature { dealer: position(2) },
    );
    check(
        &|routed, _| {
            let mut members: Vec<_> = routed.sharers().members().collect();
            members.push((Position(4), Digest::ZERO));
            Sharers::new(5, members).expect("ascending")
        },
        Refusal::SharersMalformed,
    );
}

#[test]
fn u3_equivocation_gives_no_second_quorum() {
    let federation = ten(4);
    let (mut clients, mut accumulator) = federation.masked();
    for (i, (_, upload)) in clients.iter().enumerate() {
        assert_eq!(accumulator.accept(position(i), &upload.packed, &upload.finished), Ok(Arrival::New));
    }
    let collector = accumulator.close().expect("everybody sent");
    let readies: Vec<_> = collector.survivors().readies().map(|(p, ready)| (p.index(), *ready)).collect();
    // Client 9 is a survivor for 3 to 6 and dropped for 7 and 8: its seed and its masking key are asked for.
    let with = survivors(10, &readies);
    let without = survivors(10, &readies[..9]);
    // The corrupt sign both: a client whose process went through the round twice.
    let corrupt = |set: &Survivors| -> Vec<(Position, Signature)> {
        let clients = federation.masked().0.into_iter().enumerate().take(3);
        clients.map(|(i, (client, _))| (position(i), client.sign(set).expect("in order").signature())).collect()
    };
    let (mut quorum_with, mut quorum_without) = (corrupt(&with), corrupt(&without));
    let (mut saw_with, mut saw_without) = (Vec::new(), Vec::new());
    for (i, (client, _)) in clients.drain(..).enumerate().skip(3).take(6) {
        let set = if i <= 6 { &with } else { &without };
        let client = client.sign(set).expect("each set alone is in order");
        if i <= 6 {
            quorum_with.push((position(i), client.signature()));
            saw_with.push(client);
        } else {
            quorum_without.push((position(i), client.signature()));
            saw_without.push(client);
        }
    }
    assert_eq!((quorum_with.len(), quorum_without.len()), (7, 5));
    let too_small = Refusal::QuorumTooSmall { n_signatures: 5, quorum: 7 };
    assert_eq!(saw_without.pop().expect("two").release(&Quorum::new(quorum_without)).err(), Some(too_small));
    // Nor does the quorum for the other set do.
    let foreign = Refusal::QuorumSignature { position: position(0) };
    assert_eq!(saw_without.pop().expect("two").release(&Quorum::new(quorum_with.clone())).err(), Some(foreign));
    assert!(saw_with.pop().expect("four").release(&Quorum::new(quorum_with)).is_ok());
}

#[test]
fn a_quorum_with_a_doubled_forged_foreign_or_missing_signature_is_refused() {
    fn check(change: impl Fn(&mut Vec<(Position, Signature)>), expect: Option<Refusal>) {
        let federation = federation(6, 1, 5, 4, 20, 5);
        let (mut clients, quorum, _, _) = federation.consistent(&[5]);
        // One more than a quorum: each of them counts.
        let mut signatures: Vec<_> = clients.iter().map(|(i, client)| (position(*i), client.signature())).collect();
        assert_eq!((signatures.len(), quorum.signatures()), (5, &signatures[..4]));
        change(&mut signatures);
        assert_eq!(clients.remove(0).1.release(&Quorum::new(signatures)).err(), expect);
    }
    let at = |i: usize| Some(Refusal::QuorumSignature { position: position(i) });
    check(|_| (), None);
    check(|signatures| signatures[4] = signatures[3], at(3));
    check(|signatures| signatures.push(signatures[0]), at(0));
    check(|signatures| signatures[2].1.0[40] ^= 1, at(2));
    check(|signatures| signatures[1].1 = signatures[0].1, at(1));
    check(|signatures| signatures[4].0 = position(5), at(5));
    check(|signatures| signatures[4].0 = Position(6), at(6));
    check(|signatures| signatures.swap(0, 1), at(0));
    check(|signatures| signatures.truncate(3), Some(Refusal::QuorumTooSmall { n_signatures: 3, quorum: 4 }));
}

#[test]
fn survivors_outside_u2_too_few_or_without_the_client_are_refused() {
    let check = |keep: &[usize], expect: Refusal| {
        let federation = federation(6, 1, 5, 4, 20, 6);
        let (mut clients, collector) = federation.uploaded(&[]);
        let all: Vec<_> = collector.survivors().readies().map(|(p, ready)| (p.index(), *ready)).collect();
        let kept: Vec<_> = keep.iter().map(|i| all[*i]).collect();
        assert_eq!(clients.remove(0).sign(&survivors(6, &kept)).err(), Some(expect));
    };
    check(&[0, 1, 2, 3], Refusal::TooFewSurvivors { n_survivors: 4, needed: 5 });
    check(&[1, 2, 3, 4, 5], Refusal::NotASurvivor);
    // A roster of another size, and someone who did not share keys.
    let federation = federation(6, 1, 5, 4, 20, 6);
    let (clients, router) = federation.shared(&[5]);
    let routed = router.close().expect("five shared");
    let mut masked = Vec::new();
    let mut readies = Vec::new();
    for (i, client) in clients.into_iter().enumerate().take(5) {
        let client =
            client.receive(&routed.sharers().shown_to(position(i)), &routed.parts_for(position(i))).expect("honest");
        readies.push((i, client.ready()));
        masked.push(client.mask(&federation.input(i)).expect("the plan's length").0);
    }
    let outside: Vec<_> = readies.iter().copied().chain([(5, readies[0].1)]).collect();
    let refusal = masked.remove(0).sign(&survivors(6, &outside)).err();
    assert_eq!(refusal, Some(Refusal::SurvivorOutsideSharers { position: position(5) }));
    let refusal = masked.remove(0).sign(&survivors(7, &readies)).err();
    assert_eq!(refusal, Some(Refusal::SurvivorsMalformed { expected: 6, found: 7 }));
}

#[test]
fn overlapping_unmask_lists_cannot_be_asked_for_nor_answered() {
    let federation = federation(6, 1, 5, 4, 20, 7);
    let (clients, quorum, mut unmasker, context) = federation.consistent(&[5]);
    let (survivors, sharers): (Vec<_>, Vec<_>) = ((0..5).map(position).collect(), (0..6).map(position).collect());
    for (i, client) in clients {
        // A request is a quorum and nothing else; what is released follows from the set that this client signed.
        assert_eq!(client.survivors().iter().collect::<Vec<_>>(), survivors);
        let answer = client.release(&quorum).expect("honest");
        let once: Vec<_> = sharers.iter().copied().filter(|dealer| dealer.index() != i).collect();
        assert_eq!(answer.dealers().collect::<Vec<_>>(), once, "one share for each dealer");
        // Two shares of one dealer, rightly signed, are not an answer.
        let bytes = answer.to_bytes();
        let mut doubled = bytes[..bytes.len() - 64].to_vec();
        doubled.extend_from_within(doubled.len() - 34..);
        doubled[0] += 1;
        let statement = context.statement(StatementKind::Unmask, position(i), &doubled);
        doubled.extend_from_slice(&federation.identities[i].certificate_key.sign(&statement).0);
        assert!(UnmaskAnswer::from_bytes(&doubled).is_err());
        // Nor is one that leaves a dealer out.
        let mut shorter = bytes[..bytes.len() - 64 - 34].to_vec();
        shorter[0] -= 1;
        let statement = context.statement(StatementKind::Unmask, position(i), &shorter);
        shorter.extend_from_slice(&federation.identities[i].certificate_key.sign(&statement).0);
        let shorter = UnmaskAnswer::from_bytes(&shorter).expect("well-formed");
        let error = Misbehaviour::ReleasedDealers { holder: position(i) };
        assert_eq!(unmasker.accept(position(i), shorter), Err(error));
        assert_eq!(unmasker.accept(position(i), answer), Ok(Arrival::New));
    }
    assert_eq!(unmasker.finish().expect("complete").residues(), federation.plain_sum(0..5));
}

#[test]
fn a_released_share_that_is_not_the_one_dealt_names_its_holder() {
    let federation = federation(6, 1, 5, 4, 20, 8);
    let (clients, quorum, mut unmasker, context) = federation.consistent(&[5]);
    for (i, client) in clients {
        let bytes = client.release(&quorum).expect("honest").to_bytes();
        if i == 2 {
            let mut altered = bytes[..bytes.len() - 64].to_vec();
            altered[2 + 34 + 2] ^= 1;
            let statement = context.statement(StatementKind::Unmask, position(i), &altered);
            altered.extend_from_slice(&federation.identities[i].certificate_key.sign(&statement).0);
            let error = unmasker.accept(position(i), UnmaskAnswer::from_bytes(&altered).expect("well-formed"));
            let error = error.expect_err("altered");
            assert_eq!(error, Misbehaviour::ShareHash { holder: position(2), dealer: position(1) });
            let blame = Blame::ReleasedShare { holder: position(2), dealer: position(1) };
            assert_eq!(error.blame(), Some(blame));
            continue;
        }
        // An answer under another's name, or altered on the way, names nobody.
        let answer = UnmaskAnswer::from_bytes(&bytes).expect("our own bytes");
        let error = unmasker.accept(position(2), answer.clone()).expect_err("another's");
        assert_eq!(error.blame(), None);
        assert_eq!(unmasker.accept(position(i), answer.clone()), Ok(Arrival::New));
        assert_eq!(unmasker.accept(position(i), answer), Ok(Arrival::Again));
    }
    assert_eq!(unmasker.accept(position(5), some_answer()).expect_err("dropped").blame(), None);
    // Four answers of six; t = 4, and a survivor that answered holds no share of its own seed.
    let error = Incomplete::Shares { dealer: position(0), n_shares: 3, threshold: 4 };
    assert_eq!(unmasker.finish().map(|_| ()), Err(error));
}

fn some_answer() -> UnmaskAnswer {
    UnmaskAnswer::from_bytes(&[0; 66]).expect("no shares and a signature")
}

#[test]
fn a_cut_or_forged_upload_leaves_the_sum_exact() {
    let federation = federation(5, 1, 4, 50, 23, 9);
    let (clients, mut accumulator) = federation.masked();
    let mut masked = Vec::new();
    for (i, (client, upload)) in clients.into_iter().enumerate() {
        let at = position(i);
        for len in 0..upload.packed.len() {
            let error = Misbehaviour::Vector {
                position: at,
                error: PackingError::Length { expected: upload.packed.len(), found: len },
            };
            assert_eq!(accumulator.accept(at, &upload.packed[..len], &upload.finished), Err(error));
        }
        for byte in 0..upload.packed.len() {
            let mut altered = upload.packed.clone();
            altered[byte] ^= 1;
            assert!(accumulator.accept(at, &altered, &upload.finished).is_err());
        }
        let mut padded = upload.packed.clone();
        *padded.last_mut().expect("not empty") |= 0x80;
        let error = Misbehaviour::Vector { position: at, error: PackingError::Padding };
        assert_eq!(accumulator.accept(at, &padded, &upload.finished), Err(error));
        let mut forged = upload.finished.clone();
        forged.signature.0[0] ^= 1;
        let error = Misbehaviour::Signature { position: at, message: "masked vector" };
        assert_eq!(accumulator.accept(at, &upload.packed, &forged), Err(error));
        // Under another's name it is nobody's.
        assert!(accumulator.accept(position((i + 1) % 5), &upload.packed, &upload.finished).is_err());
        assert_eq!(accumulator.n_survivors(), i);
        assert_eq!(accumulator.accept(at, &upload.packed, &upload.finished), Ok(Arrival::New));
        assert_eq!(accumulator.accept(at, &upload.packed, &upload.finished), Ok(Arrival::Again));
        masked.push(client);
    }
    let mut collector = accumulator.close().expect("everybody sent");
    let mut signed = Vec::new();
    for (i, client) in masked.into_iter().enumerate() {
        let client = client.sign(collector.survivors()).expect("honest");
        assert_eq!(collector.accept(position(i), &client.signature()), Ok(Arrival::New));
        signed.push(client);
    }
    let (quorum, mut unmasker) = collector.close().expect("everybody signed");
    for (i, client) in signed.into_iter().enumerate() {
        assert_eq!(unmasker.accept(position(i), client.release(&quorum).expect("honest")), Ok(Arrival::New));
    }
    assert_eq!(unmasker.finish().expect("complete").residues(), federation.plain_sum(0..5));
}

#[test]
fn a_vector_before_its_ready_and_a_second_vector_are_refused() {
    let federation = federation(4, 1, 3, 6, 20, 10);
    let (clients, mut accumulator) = federation.ready();
    let mut clients = clients.into_iter();
    let client = clients.next().expect("four");
    let (at, ready) = (position(0), client.ready());
    let (_, upload) = client.mask(&federation.input(0)).expect("the plan's length");
    let early = accumulator.accept(at, &upload.packed, &upload.finished);
    assert_eq!(early, Err(Misbehaviour::NotReady { position: at }));
    assert_eq!(accumulator.ready(at, &ready), Ok(Arrival::New));
    assert_eq!(accumulator.ready(at, &ready), Ok(Arrival::Again));
    assert_eq!(accumulator.accept(at, &upload.packed, &upload.finished), Ok(Arrival::New));
    // The same identity masks again: only a client that broke its word can, and it is named.
    let (again, _) = federation.ready();
    let (_, second) = again.into_iter().next().expect("four").mask(&[7; 6]).expect("the plan's length");
    let error = accumulator.accept(at, &second.packed, &second.finished).expect_err("a second vector");
    assert_eq!(error.blame(), Some(Blame::Equivocation { position: at, message: "masked vector" }));
    let wrong_length = clients.next().expect("three left").mask(&[0; 5]).map(|_| ());
    assert_eq!(wrong_length, Err(Refusal::VectorLength { expected: 6, found: 5 }));
}

#[test]
fn bundles_are_complete_signed_and_single() {
    let federation = federation(4, 1, 3, 6, 20, 11);
    let (clients, mut router) = federation.shared(&[0]);
    let bundle = clients[0].bundle().clone();
    let bytes = bundle.to_bytes();
    let read = |bytes: &[u8]| eranos_secagg::Bundle::from_bytes(bytes).expect("parts");
    let incomplete = Err(Misbehaviour::BundleIncomplete { dealer: position(0) });
    let len = SharePart::LEN;
    assert_eq!(router.accept(position(0), read(&bytes[len..])), incomplete);
    assert_eq!(router.accept(position(0), read(&[&bytes[..], &bytes[..len]].concat())), incomplete);
    assert_eq!(router.accept(position(0), read(&[&bytes[len..], &bytes[..len]].concat())), incomplete);
    assert_eq!(router.accept(position(0), clients[1].bundle().clone()), incomplete);
    let not_expected = Misbehaviour::NotExpected { position: Position(4), message: "bundle" };
    assert_eq!(router.accept(Position(4), bundle.clone()), Err(not_expected));
    assert_eq!(router.accept(position(0), bundle.clone()), Ok(Arrival::New));
    assert_eq!(router.accept(position(0), bundle), Ok(Arrival::Again));
    // A second dealing of the same secrets is signed evidence.
    let entries = federation.entries();
    let again = federation.deal(0, &entries, &mut eranos_base::SeededEntropy::new(99)).expect("honest");
    let error = router.accept(position(0), again.bundle().clone()).expect_err("another bundle");
    assert_eq!(error.blame(), Some(Blame::Equivocation { position: position(0), message: "bundle" }));
}

#[test]
fn a_resend_is_byte_identical() {
    let federation = federation(4, 1, 3, 6, 20, 12);
    let client = federation.share(1);
    assert_eq!(client.bundle().to_bytes(), client.bundle().to_bytes());
    let (clients, _) = federation.ready();
    assert_eq!(clients[1].ready(), clients[1].ready());
    // What two clients seal to each other differs even if they were to share the same bytes: see the unit tests.
    let other = federation.share(2);
    let to = |client: &eranos_secagg::SharedKeys, holder| {
        client.bundle().parts().iter().find(|part| part.holder == holder).map(|part| part.ciphertext)
    };
    assert_ne!(to(&client, position(2)), to(&other, position(1)));
}

#[test]
fn shares_that_do_not_open_become_a_complaint_and_the_sum_stays_exact() {
    let federation = federation(6, 1, 5, 6, 20, 13);
    let (clients, mut router) = federation.shared(&[1]);
    // Client 1 seals garbage to client 4 and signs it.
    let context = federation.roster().context();
    let mut parts = clients[1].bundle().parts().to_vec();
    let part = parts.iter_mut().find(|part| part.holder == position(4)).expect("dealt to all");
    part.ciphertext[7] ^= 1;
    let body =
        [&part.holder.0.to_le_bytes()[..], Digest::of(&part.ciphertext).as_bytes(), part.hashes().as_bytes()].concat();
    let statement = context.statement(StatementKind::SharePart, position(1), &body);
    part.signature = federation.identities[1].certificate_key.sign(&statement);
    let bundle = eranos_secagg::Bundle::new(parts);
    assert_eq!(router.accept(position(1), bundle.clone()), Ok(Arrival::New));
    let routed = router.close().expect("everybody shared");
    // The bundle's hash is of what was sent: its dealer, whose state has the honest one, refuses; the others go on.
    let mut ready = Vec::new();
    for (i, client) in clients.into_iter().enumerate() {
        match client.receive(&routed.sharers().shown_to(position(i)), &routed.parts_for(position(i))) {
            Ok(client) => ready.push((i, client)),
            Err(refusal) => assert_eq!((i, refusal), (1, Refusal::OwnBundleAltered)),
        }
    }
    let mut accumulator = routed.accumulate();
    let mut masked = Vec::new();
    for (i, client) in ready {
        let complaints = if i == 4 { vec![position(1)] } else { vec![] };
        assert_eq!(client.complaints(), complaints);
        assert_eq!(accumulator.ready(position(i), &client.ready()), Ok(Arrival::New));
        let (client, upload) = client.mask(&federation.input(i)).expect("the plan's length");
        // Nobody complains about itself or about someone who dealt it nothing.
        for dealer in [position(i), Position(6)] {
            let mut forged = upload.finished.clone();
            forged.complaints = vec![dealer];
            let mut body = forged.to_bytes();
            body.truncate(body.len() - 64);
            let context = accumulator.context();
            let statement = context.statement(StatementKind::MaskedInput, position(i), &body);
            forged.signature = federation.identities[i].certificate_key.sign(&statement);
            let error = Misbehaviour::ComplaintForeign { holder: position(i), dealer };
            assert_eq!(accumulator.accept(position(i), &upload.packed, &forged), Err(error));
        }
        assert_eq!(accumulator.accept(position(i), &upload.packed, &upload.finished), Ok(Arrival::New));
        masked.push((i, client));
    }
    // One complaint is not more than f: it may be a lie.
    assert_eq!(accumulator.blames(), []);
    let mut collector = accumulator.close().expect("five sent");
    let mut signed = Vec::new();
    for (i, client) in masked {
        let client = client.sign(collector.survivors()).expect("honest");
        assert_eq!(collector.accept(position(i), &client.signature()), Ok(Arrival::New));
        signed.push((i, client));
    }
    let (quorum, mut unmasker) = collector.close().expect("five signed");
    for (i, client) in signed {
        let answer = client.release(&quorum).expect("honest");
        assert_eq!(answer.dealers().any(|dealer| dealer == position(1)), i != 4);
        assert_eq!(unmasker.accept(position(i), answer), Ok(Arrival::New));
    }
    // Four of five survivors hold a share of the dropped client's masking key: enough.
    assert_eq!(unmasker.finish().expect("complete").residues(), federation.plain_sum([0, 2, 3, 4, 5]));
}

#[test]
fn more_complaints_than_colluders_name_the_dealer_and_the_complainer() {
    let federation = federation(6, 1, 5, 6, 20, 14);
    let (clients, mut accumulator) = federation.masked();
    let context = accumulator.context();
    for (i, (_, upload)) in clients.into_iter().enumerate() {
        let mut finished = upload.finished;
        finished.complaints = match i {
            0 => vec![position(3)],
            1 => vec![position(2), position(3)],
            _ => vec![],
        };
        let mut body = finished.to_bytes();
        body.truncate(body.len() - 64);
        let statement = context.statement(StatementKind::MaskedInput, position(i), &body);
        finished.signature = federation.identities[i].certificate_key.sign(&statement);
        assert_eq!(accumulator.accept(position(i), &upload.packed, &finished), Ok(Arrival::New));
    }
    let by = Blame::ComplaintsBy { holder: position(1), n_complaints: 2 };
    let against = Blame::ComplaintsAgainst { dealer: position(3), n_complaints: 2 };
    assert_eq!(accumulator.blames(), [by, against]);
}

/// What client 0 says to a roster, honest but for `change`.
fn refusal_of_roster(change: impl FnOnce(&Federation, &mut Vec<RosterEntry>)) -> Option<Refusal> {
    let federation = federation(5, 1, 4, 6, 20, 15);
    let mut entries = federation.entries();
    change(&federation, &mut entries);
    federation.deal(0, &entries, &mut eranos_base::SeededEntropy::new(1)).err()
}

#[test]
fn short_and_duplicate_rosters_are_refused() {
    let id = |i| id(5, i);
    let roster = |error| Some(Refusal::Roster(error));
    let duplicate = |what, first, second| roster(RosterError::Duplicate { what, first: id(first), second: id(second) });
    assert_eq!(refusal_of_roster(|_, _| ()), None);
    let short = RosterError::Thresholds(ThresholdError::RosterTooSmall { n1: 3, u_min: 4 });
    assert_eq!(refusal_of_roster(|_, entries| entries.truncate(3)), roster(short));
    let refusal = refusal_of_roster(|_, entries| entries.push(entries[4].clone()));
    // Six clients: more than the plan's n_max.
    assert_eq!(refusal, roster(RosterError::TooMany { n1: 6, n_max: 5 }));
    let refusal = refusal_of_roster(|_, entries| entries[4] = entries[3].clone());
    assert_eq!(refusal, duplicate("identity", 3, 3));
    let refusal = refusal_of_roster(|_, entries| entries.swap(1, 2));
    assert_eq!(refusal, roster(RosterError::Order { id: id(1) }));
    let refusal = refusal_of_roster(|_, entries| {
        entries.remove(0);
    });
    assert_eq!(refusal, Some(Refusal::NotInRoster { id: id(0) }));
    assert!(refusal_of_roster(|_, entries| entries.clear()).is_some());
    // One certificate, one certificate key, one statement key or one agreement key for two identities.
    let refusal = refusal_of_roster(|_, entries| entries[2].certificate = entries[1].certificate);
    assert_eq!(refusal, duplicate("certificate", 1, 2));
    let refusal = refusal_of_roster(|_, entries| entries[2].key = entries[1].key);
    assert_eq!(refusal, duplicate("certificate key", 1, 2));
    let refusal = refusal_of_roster(|_, entries| entries[2].advert.statement_key = entries[1].advert.statement_key);
    assert_eq!(refusal, duplicate("statement key", 1, 2));
    let refusal = refusal_of_roster(|_, entries| entries[2].advert.s_pk = entries[1].advert.c_pk);
    assert_eq!(refusal, duplicate("agreement key", 1, 2));
    let refusal = refusal_of_roster(|_, entries| entries[2].advert.s_pk = entries[2].advert.c_pk);
    assert_eq!(refusal, duplicate("agreement key", 2, 2));
}

#[test]
fn two_tasks_of_one_cohort_show_its_clients_in_unrelated_orders() {
    // The same 40 clients, whose secrets and certificates outlive a task.
    let (n, mut entropy) = (40, eranos_base::SeededEntropy::new(16));
    let clients: Vec<([u8; 32], SigningKey)> =
        (0..n).map(|_| (entropy.bytes(), SigningKey::generate(&mut entropy))).collect();
    let order = |task: &str| -> Vec<usize> {
        let of_task = federation(n, 1, 30, 6, 20, 16).with_terms(|terms| terms.task = task.parse().expect("name"));
        let entry = |(i, (secret, key)): (usize, &(_, SigningKey))| {
            let identity = Identity {
                id: id(n, i),
                certificate: Digest::of(&[i as u8]),
                certificate_key: SigningKey::from_seed(&key.seed()),
                statement_key: StatementKey::derive(secret, &of_task.terms.task),
                verified: VerifiedCertifications::default(),
            };
            let seed = &mut eranos_base::SeededEntropy::new(i as u64);
            Advertised::begin(of_task.terms.clone(), Arc::new(identity), seed).entry()
        };
        let mut entries: Vec<_> = clients.iter().enumerate().map(entry).collect();
        let by_name = Roster::assemble(of_task.terms.clone(), entries.clone()).err();
        assert!(matches!(by_name, Some(RosterError::Order { .. })), "{by_name:?}");
        entries.sort_by_key(|entry| entry.advert.statement_key);
        let roster = Roster::assemble(of_task.terms.clone(), entries).expect("in order");
        let position = |i| roster.position_of(&id(n, i)).expect("a member").index();
        (0..n).map(position).collect()
    };
    let (one, other) = (order("digits"), order("letters"));
    // Of all pairs about half stand in the same order in both: 390, with a deviation of 43.
    let pairs = (0..n).flat_map(|i| (0..i).map(move |j| (i, j)));
    let n_alike = pairs.filter(|(i, j)| (one[*i] < one[*j]) == (other[*i] < other[*j])).count();
    assert!((240..540).contains(&n_alike), "{n_alike} of 780");
    let n_in_place = (0..n).filter(|i| one[*i] == other[*i]).count();
    assert!(n_in_place < 8, "{n_in_place} stand at the same place");
}

#[test]
fn swapped_keys_are_refused() {
    let entry =
        |i: usize, error| Some(Refusal::Roster(RosterError::Entry { id: id(5, i), error: EntryError::Advert(error) }));
    let swap = |swap: fn(&mut Advert, &mut Advert)| {
        refusal_of_roster(|_, entries| {
            let (low, high) = entries.split_at_mut(3);
            swap(&mut low[2].advert, &mut high[0].advert);
        })
    };
    let signature = entry(2, AdvertError::Signature);
    assert_eq!(swap(|a, b| std::mem::swap(&mut a.c_pk, &mut b.c_pk)), signature);
    assert_eq!(swap(|a, b| std::mem::swap(&mut a.s_pk, &mut b.s_pk)), signature);
    assert_eq!(swap(|a, b| std::mem::swap(&mut a.seed_commitment, &mut b.seed_commitment)), signature);
    // The whole adverts, in the order that their statement keys ask for.
    let refusal = refusal_of_roster(|_, entries| {
        let (low, high) = entries.split_at_mut(3);
        std::mem::swap(&mut low[2].advert, &mut high[0].advert);
        entries.swap(2, 3);
    });
    assert_eq!(refusal, entry(3, AdvertError::Signature));
    // A key that its owner's certificate did not certify, in an advert that its owner signed.
    let refusal = refusal_of_roster(|federation, entries| {
        let mut advert = entries[2].advert.clone();
        advert.certification = entries[3].advert.certification;
        entries[2].advert = resigned(federation, 2, advert);
    });
    assert_eq!(refusal, entry(2, AdvertError::Certification));
    // Keys of the coordinator's own making in the client's own entry, even under its own signature.
    let refusal = refusal_of_roster(|federation, entries| {
        let mut advert = entries[0].advert.clone();
        advert.nonce[0] ^= 1;
        entries[0].advert = resigned(federation, 0, advert);
    });
    assert_eq!(refusal, Some(Refusal::OwnEntryAltered));
    let refusal = refusal_of_roster(|_, entries| entries[0].certificate = Digest::of(b"renewed"));
    assert_eq!(refusal, Some(Refusal::OwnEntryAltered));
    let refusal = refusal_of_roster(|_, entries| {
        entries[4].id = "spiffe://other.org/client/c".parse().expect("identity");
    });
    let error = EntryError::TrustDomain;
    let id = "spiffe://other.org/client/c".parse().expect("identity");
    assert_eq!(refusal, Some(Refusal::Roster(RosterError::Entry { id, error })));
}

fn resigned(federation: &Federation, i: usize, mut advert: Advert) -> Advert {
    let body = &advert.to_bytes()[..Advert::LEN - 64];
    let statement = federation.terms.context().statement(StatementKind::Advert, Position::NONE, body);
    advert.signature = federation.identities[i].certificate_key.sign(&statement);
    advert
}

#[test]
fn what_was_verified_of_a_credential_in_one_round_hides_no_forgery_in_the_next() {
    // Client 0 has gone through a round with all of them, and verifies in the next what it has not verified yet.
    let first = federation(5, 1, 4, 6, 20, 15);
    let share = |federation: &Federation, change: &dyn Fn(&mut Vec<RosterEntry>)| {
        let mut entries = federation.entries();
        change(&mut entries);
        let deal = || federation.deal(0, &entries, &mut eranos_base::SeededEntropy::new(1)).err();
        // Nor does what was refused once pass when it is shown again.
        let refusal = deal();
        assert_eq!(deal(), refusal);
        refusal
    };
    assert_eq!(share(&first, &|_| ()), None);
    let second = first.with_terms(|terms| terms.round = RoundNumber(2));
    let entry = |i, error: AdvertError| {
        Some(Refusal::Roster(RosterError::Entry { id: id(5, i), error: EntryError::Advert(error) }))
    };
    let resign = |entries: &mut Vec<RosterEntry>, change: &dyn Fn(&mut Advert)| {
        let mut advert = entries[2].advert.clone();
        change(&mut advert);
        entries[2].advert = resigned(&second, 2, advert);
    };
    let another = second.entries()[3].advert.certification;
    let refusal = share(&second, &|entries| resign(entries, &|advert| advert.certification = another));
    assert_eq!(refusal, entry(2, AdvertError::Certification));
    let refusal = share(&second, &|entries| resign(entries, &|advert| advert.certification.0[7] ^= 1));
    assert_eq!(refusal, entry(2, AdvertError::Certification));
    // Somebody else's certificate's key, with a statement key and certification that are true of another's.
    let stranger = SigningKey::from_seed(&[99; 32]);
    let refusal = share(&second, &|entries| {
        let advert = &mut entries[2].advert;
        let body = &advert.to_bytes()[..Advert::LEN - 64];
        advert.signature =
            stranger.sign(&second.terms.context().statement(StatementKind::Advert, Position::NONE, body));
        entries[2].key = stranger.verifying_key();
    });
    assert_eq!(refusal, entry(2, AdvertError::Certification));
    // An advert of the first round is none of the second, whatever was verified beside it.
    let old = first.entries()[2].advert.clone();
    assert_eq!(share(&second, &|entries| entries[2].advert = old.clone()), entry(2, AdvertError::Signature));
    assert_eq!(share(&second, &|entries| entries[2].advert.signature.0[7] ^= 1), entry(2, AdvertError::Signature));
    // The same keys, certified for one task, count for no other.
    let other = second.with_terms(|terms| terms.task = "letters".parse().expect("name"));
    let refusal = share(&other, &|entries| {
        let certification = first.entries()[2].advert.certification;
        entries[2].advert = resigned(&other, 2, Advert { certification, ..entries[2].advert.clone() });
    });
    assert_eq!(refusal, entry(2, AdvertError::Certification));
    assert_eq!(share(&second, &|_| ()), None);
}

#[test]
fn a_client_gives_every_coordinator_message_a_different_r1() {
    let federation = federation(5, 1, 4, 6, 20, 16);
    let entries = federation.entries();
    let r1 = federation.roster().digest();
    let assemble = |federation: &Federation, entries| {
        Roster::assemble(federation.terms.clone(), entries).expect("honest").digest()
    };
    assert_eq!(assemble(&federation, entries.clone()), r1);
    assert_ne!(assemble(&federation, entries[..4].to_vec()), r1);
    let mut other = entries;
    other[1].certificate = Digest::of(b"renewed");
    assert_ne!(assemble(&federation, other), r1);
}

/// Everything of one round, shown to the same clients in another.
fn replayed_into(change: impl Fn(&mut eranos_secagg::Terms)) {
    let then = federation(5, 1, 4, 6, 20, 17);
    let now = then.with_terms(change);
    // Adverts.
    let entries = then.entries();
    let refusal = now.deal(0, &entries, &mut eranos_base::SeededEntropy::new(1)).err();
    let error = EntryError::Advert(AdvertError::Signature);
    assert_eq!(refusal, Some(Refusal::Roster(RosterError::Entry { id: entries[0].id.clone(), error })));
    for entry in &entries {
        assert_eq!(entry.verify(&now.terms), Err(error));
    }
    // Bundles, to the coordinator and, past it, to a client.
    let (old_clients, old_router) = then.shared(&[]);
    let old_routed = old_router.close().expect("everybody shared");
    let (mut clients, mut router) = now.shared(&[3]);
    let error = Misbehaviour::Signature { position: position(3), message: "bundle" };
    assert_eq!(router.accept(position(3), old_clients[3].bundle().clone()), Err(error));
    assert_eq!(router.accept(position(3), clients[3].bundle().clone()), Ok(Arrival::New));
    let routed = router.close().expect("everybody shared");
    let mut parts = routed.parts_for(position(0));
    parts[1] = old_routed.parts_for(position(0))[1].clone();
    let refusal = clients.remove(0).receive(&routed.sharers().shown_to(position(0)), &parts).err();
    assert_eq!(refusal, Some(Refusal::PartSignature { dealer: position(2) }));
    // READYs and vectors.
    let (old_ready, _) = then.ready();
    let (old_masked, _) = then.masked();
    let (_, mut accumulator) = now.ready();
    let error = Misbehaviour::Signature { position: position(2), message: "READY" };
    assert_eq!(accumulator.ready(position(2), &old_ready[2].ready()), Err(error));
    let (_, mut accumulator) = now.masked();
    let error = Misbehaviour::Signature { position: position(2), message: "masked vector" };
    let upload = &old_masked[2].1;
    assert_eq!(accumulator.accept(position(2), &upload.packed, &upload.finished), Err(error));
    // Survivors, consistency statements and quorums.
    let (_, old_collector) = then.uploaded(&[]);
    let (mut clients, mut collector) = now.uploaded(&[]);
    let refusal = clients.remove(0).sign(old_collector.survivors()).err();
    assert_eq!(refusal, Some(Refusal::ReadySignature { position: position(0) }));
    let (old_signed, old_quorum, _, _) = then.consistent(&[]);
    let error = Misbehaviour::Signature { position: position(2), message: "consistency statement" };
    assert_eq!(collector.accept(position(2), &old_signed[2].1.signature()), Err(error));
    let (mut signed, _, mut unmasker, _) = now.consistent(&[]);
    let refusal = signed.remove(0).1.release(&old_quorum).err();
    assert_eq!(refusal, Some(Refusal::QuorumSignature { position: position(0) }));
    // Released shares.
    for (i, client) in old_signed {
        let answer = client.release(&old_quorum).expect("honest then");
        let error = Misbehaviour::Signature { position: position(i), message: "unmask answer" };
        assert_eq!(unmasker.accept(position(i), answer), Err(error));
    }
}

#[test]
fn nothing_of_a_round_can_be_replayed_in_the_next() {
    replayed_into(|terms| terms.round = RoundNumber(2));
}

#[test]
fn nothing_of_a_session_can_be_replayed_in_another() {
    replayed_into(|terms| terms.session = SessionId(Digest::of(b"another")));
}

#[test]
fn a_wrong_plan_hash_makes_every_signature_worthless() {
    replayed_into(|terms| terms.plan = Digest::of(b"another model"));
}

#[test]
fn an_advert_for_another_task_is_not_certified() {
    let federation = federation(5, 1, 4, 6, 20, 18);
    let other = federation.with_terms(|terms| terms.task = "ecg".parse().expect("name"));
    // The advert's own signature says nothing of the task: session and plan do, and the certification.
    let error = EntryError::Advert(AdvertError::Certification);
    assert_eq!(federation.entries()[0].verify(&other.terms), Err(error));
}

#[test]
fn two_consistency_statements_of_one_client_are_one_statement() {
    // A second call of `sign` does not compile: see the crate's documentation. What one client signed again, in a
    // process that began the round a second time, is the same statement to the coordinator or none.
    let federation = federation(5, 1, 4, 6, 20, 19);
    let (clients, mut collector) = federation.uploaded(&[4]);
    let client = clients.into_iter().next().expect("five");
    let readies: Vec<_> = collector.survivors().readies().map(|(p, ready)| (p.index(), *ready)).collect();
    let client = client.sign(&survivors(5, &readies)).expect("honest");
    assert_eq!(collector.accept(position(0), &client.signature()), Ok(Arrival::New));
    assert_eq!(collector.accept(position(0), &client.signature()), Ok(Arrival::Again));
    // One over another set of survivors.
    let (clients, _) = federation.uploaded(&[]);
    let (_, everyone) = federation.uploaded(&[]);
    let other = clients.into_iter().next().expect("five").sign(everyone.survivors()).expect("honest");
    let error = Misbehaviour::Signature { position: position(0), message: "consistency statement" };
    assert_eq!(collector.accept(position(0), &other.signature()), Err(error));
    let error = Misbehaviour::NotExpected { position: position(4), message: "consistency statement" };
    assert_eq!(collector.accept(position(4), &client.signature()), Err(error));
    assert!(!collector.has_quorum());
    let error = Incomplete::Quorum { n_signatures: 1, quorum: 4 };
    assert_eq!(collector.close().map(|_| ()), Err(error));
}

#[test]
fn a_certificate_key_cannot_sign_in_place_of_the_statement_key() {
    let federation = federation(5, 1, 4, 6, 20, 20);
    let (_, mut collector) = federation.uploaded(&[]);
    let set = collector.survivors().set().clone();
    let statement = eranos_secagg::consistency::consistency_statement(&collector.context(), position(1), &set);
    let signature = federation.identities[1].certificate_key.sign(&statement);
    let error = Misbehaviour::Signature { position: position(1), message: "consistency statement" };
    assert_eq!(collector.accept(position(1), &signature), Err(error));
}
