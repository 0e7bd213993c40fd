//! The sparse graph: keys, shares and masks between neighbors alone, and those that would have it otherwise.

use std::collections::BTreeSet;

use eranos_base::{Digest, Position, SeededEntropy, StatementKind};
use eranos_secagg::{
    AddressedPart, Arrival, Bundle, FreshKeys, Graph, GraphError, Incomplete, Member, Misbehaviour, PositionSet,
    Quorum, Refusal, Roster, RosterError, Routed, SharePart, SharedKeys, Sharers, ShownRoster, Survivors,
    ThresholdError, UnmaskAnswer, advert::AdvertError, roster::EntryError,
};

use crate::federation::{Federation, federation, position, sparse};

/// n1 = 48, f = 2, u_min = 44: k = 8, t = 4, q = 26.
fn forty_eight(seed: u64) -> Federation {
    sparse(48, 2, 44, 6, 20, seed)
}

/// n1 = 48, f = 1, u_min = 26: k = 24, t = 3, so that all but 2 neighbors of one client may drop out.
fn many_may_drop(seed: u64) -> Federation {
    sparse(48, 1, 26, 6, 20, seed)
}

fn index(position: Position) -> usize {
    position.index()
}

/// The ring and half the degree.
fn ring(roster: &Roster) -> (Vec<Position>, usize) {
    let Graph::Sparse { ring, degree, .. } = roster.graph() else { panic!("a sparse graph") };
    (ring.clone(), degree / 2)
}

/// The clients whose places on the ring these are, counted from that of `at`.
fn around(roster: &Roster, at: Position, steps: impl IntoIterator<Item = isize>) -> Vec<Position> {
    let (ring, _) = ring(roster);
    let place = ring.iter().position(|position| *position == at).expect("a member");
    let place = |step: isize| (place as isize + step).rem_euclid(ring.len() as isize) as usize;
    steps.into_iter().map(|step| ring[place(step)]).collect()
}

/// A part of `part`'s dealer for another holder, signed by the dealer.
fn redirected(federation: &Federation, part: &SharePart, holder: Position) -> SharePart {
    let mut part = SharePart { holder, ..part.clone() };
    let hashes = [Digest::of(&part.ciphertext), part.hashes()];
    let body: Vec<u8> = holder.0.to_le_bytes().into_iter().chain(hashes.iter().flat_map(|hash| hash.0)).collect();
    let statement = federation.roster().context().statement(StatementKind::SharePart, part.dealer, &body);
    part.signature = federation.identities[index(part.dealer)].certificate_key.sign(&statement);
    part
}

#[test]
fn sixty_clients_of_whom_six_drop_sum_exactly_with_a_fraction_of_the_shares() {
    let federation = sparse(60, 3, 52, 9, 20, 1);
    let roster = federation.roster();
    let (degree, threshold) = (roster.thresholds().degree(), roster.thresholds().threshold());
    assert_eq!((degree, threshold, roster.thresholds().quorum()), (12, 4, 32));
    let dropped = [0, 7, 8, 31, 58, 59];
    let (signed, quorum, mut unmasker, _) = federation.consistent(&dropped);
    for (i, client) in signed {
        let answer = client.release(&quorum).expect("honest");
        // The shares of its neighbors and nobody else's.
        assert!(answer.dealers().eq(roster.graph().neighbors(position(i))), "client {i}");
        assert_eq!(unmasker.accept(position(i), answer), Ok(Arrival::New));
    }
    let survivors = (0..60).filter(|i| !dropped.contains(i));
    assert_eq!(unmasker.finish().expect("complete").residues(), federation.plain_sum(survivors));
}

#[test]
fn shares_are_dealt_to_neighbors_alone_and_a_mask_is_put_on_for_each_of_them() {
    let federation = forty_eight(2);
    let roster = federation.roster();
    let share = federation.share(17);
    let neighbors = roster.graph().neighbors(position(17));
    assert_eq!(neighbors.len(), 8);
    assert!(share.bundle().parts().iter().map(|part| part.holder).eq(neighbors.iter().copied()));
    // All of the complete graph's masks would not come off by the seeds of these neighbors.
    let complete = federation.with_terms(|terms| terms.graph = eranos_secagg::GraphKind::Complete);
    let upload = |federation: &Federation| federation.masked().0.remove(17).1.packed;
    assert_ne!(upload(&federation), upload(&complete));
}

#[test]
fn shares_that_a_coordinator_brings_from_beyond_the_neighbors_are_refused() {
    let federation = forty_eight(3);
    let roster = federation.roster();
    let victim = position(5);
    let stranger = *around(&roster, victim, [5]).first().expect("one step beyond the fourth");
    assert!(!roster.graph().contains(victim, stranger));
    let (mut clients, router) = federation.shared(&[]);
    let part = redirected(&federation, &clients[index(stranger)].bundle().parts()[0], victim);
    let routed = router.close().expect("everybody shared");
    let mut parts = routed.parts_for(victim);
    parts.push(AddressedPart::from(&part));
    let refusal = clients.remove(5).receive(&routed.sharers().shown_to(position(5)), &parts).err();
    assert_eq!(refusal, Some(Refusal::ForeignPart { dealer: stranger, holder: victim }));
}

#[test]
fn shares_that_a_coordinator_keeps_from_a_neighbor_are_missed() {
    let federation = forty_eight(4);
    let (mut clients, router) = federation.shared(&[]);
    let routed = router.close().expect("everybody shared");
    // A smaller degree than the client computes: the neighbors nearest on the ring alone.
    let mut parts = routed.parts_for(position(5));
    let far = around(&federation.roster(), position(5), [4, -4]);
    parts.retain(|part| !far.contains(&part.dealer));
    assert_eq!(parts.len(), 6);
    let refusal = clients.remove(5).receive(&routed.sharers().shown_to(position(5)), &parts).err();
    assert_eq!(refusal, Some(Refusal::PartMissing { dealer: *far.iter().min().expect("two") }));
}

#[test]
fn a_bundle_for_fewer_or_other_holders_than_the_neighbors_is_refused() {
    let federation = forty_eight(5);
    let (clients, mut router) = federation.shared(&[9]);
    let parts = clients[9].bundle().parts().to_vec();
    let stranger = around(&federation.roster(), position(9), [5])[0];
    let mut refused = |mut parts: Vec<SharePart>| {
        parts.sort_by_key(|part| part.holder);
        let bundle = Bundle::from_bytes(&Bundle::new(parts).to_bytes()).expect("parts");
        let error = Misbehaviour::BundleIncomplete { dealer: position(9) };
        assert_eq!(router.accept(position(9), bundle), Err(error));
    };
    refused(parts[1..].to_vec());
    let to_stranger = redirected(&federation, &parts[0], stranger);
    refused(parts.iter().cloned().chain([to_stranger.clone()]).collect());
    refused(parts[1..].iter().cloned().chain([to_stranger]).collect());
    assert_eq!(router.accept(position(9), clients[9].bundle().clone()), Ok(Arrival::New));
}

#[test]
fn a_ring_in_another_order_than_the_rosters_is_refused() {
    let federation = forty_eight(6);
    let roster = federation.roster();
    // The coordinator puts its helpers next to the victim: it routes along the order of positions.
    let (mut clients, router) = federation.shared(&[]);
    let routed = router.close().expect("everybody shared");
    let chosen = [1, 2, 3, 4, 44, 45, 46, 47].map(position);
    assert!(!roster.graph().neighbors(position(0)).iter().eq(chosen.iter()));
    let parts: Vec<_> = chosen
        .iter()
        .map(|dealer| redirected(&federation, &clients[index(*dealer)].bundle().parts()[0], position(0)))
        .map(|part| AddressedPart::from(&part))
        .collect();
    let foreign = *chosen.iter().find(|dealer| !roster.graph().contains(position(0), **dealer)).expect("one");
    let refusal = clients.remove(0).receive(&routed.sharers().shown_to(position(0)), &parts).err();
    assert_eq!(refusal, Some(Refusal::ForeignPart { dealer: foreign, holder: position(0) }));

    // The list itself has one order, and each client computes the ring from the R1 that it computes.
    let mut entries = federation.entries();
    entries.swap(3, 4);
    let id = entries[4].id.clone();
    let refusal = federation.deal(0, &entries, &mut SeededEntropy::new(1)).err();
    assert_eq!(refusal, Some(Refusal::Roster(RosterError::Order { id })));
    let mut entries = federation.entries();
    entries[47].certificate = Digest::of(b"renewed");
    let other = Roster::assemble(federation.terms.clone(), entries).expect("valid");
    assert_ne!(ring(&other).0, ring(&roster).0);
}

#[test]
fn a_client_is_shown_its_neighbors_keys_and_takes_no_others() {
    let federation = forty_eight(14);
    let roster = federation.roster();
    let show = roster.show();
    // What client 5 says to what it is shown, honest but for `change`.
    let refusal = |change: &dyn Fn(&mut ShownRoster, &mut Vec<Member>)| {
        let (mut shown, mut members) = (show(position(5)), roster.members().to_vec());
        change(&mut shown, &mut members);
        federation.advertise(5).share_keys(shown, members, &mut SeededEntropy::new(1)).err()
    };
    let refused = |error: RosterError| Some(Refusal::Roster(error));
    assert_eq!(refusal(&|_, _| ()), None);
    let shown = show(position(5));
    assert_eq!((shown.names.len(), shown.keys.len()), (48, 9));
    assert!(shown.proof.len() > 9 && shown.proof.len() < 30, "{}", shown.proof.len());

    // A wrong, short or long proof.
    for at in 0..shown.proof.len() {
        assert_eq!(refusal(&|shown, _| shown.proof[at].0[7] ^= 1), refused(RosterError::Digest), "node {at}");
    }
    assert_eq!(refusal(&|shown, _| shown.proof.truncate(shown.proof.len() - 1)), refused(RosterError::Digest));
    assert_eq!(refusal(&|shown, _| shown.proof.push(Digest::ZERO)), refused(RosterError::Digest));
    assert_eq!(refusal(&|shown, _| shown.proof.swap(0, 1)), refused(RosterError::Digest));
    // Keys of another position: two neighbors' exchanged, and a stranger's in a neighbor's place.
    assert_eq!(refusal(&|shown, _| shown.keys.swap(0, 1)), refused(RosterError::Digest));
    let stranger = around(&roster, position(5), [5])[0];
    let strangers = FreshKeys::from(roster.entry(stranger).expect("a member"));
    assert_eq!(refusal(&|shown, _| shown.keys[0] = strangers.clone()), refused(RosterError::Digest));
    let doubled = refusal(&|shown, _| shown.keys[0] = shown.keys[1].clone());
    assert!(matches!(doubled, Some(Refusal::Roster(RosterError::Duplicate { what: "agreement key", .. }))));
    // Fewer or more than the neighbors'.
    let keys = |found| refused(RosterError::Keys { expected: 9, found });
    assert_eq!(refusal(&|shown, _| shown.keys.truncate(8)), keys(8));
    assert_eq!(refusal(&|shown, _| shown.keys.push(strangers.clone())), keys(10));
    assert_eq!(refusal(&|shown, _| shown.keys.clear()), keys(0));
    let everybodys = roster.entries().iter().map(FreshKeys::from).collect::<Vec<_>>();
    assert_eq!(refusal(&|shown, _| shown.keys.clone_from(&everybodys)), keys(48));
    // Another R1: another ring and so other neighbors, whose keys these are not.
    let other = refusal(&|shown, _| shown.digest.0[7] ^= 1);
    assert!(matches!(other, Some(Refusal::Roster(RosterError::Digest))), "{other:?}");

    // A list of members that is not the one in R1: a stranger under another name, with another certificate, statement key or
    // certification, doubled, or left out.
    let at = index(stranger);
    let renamed: eranos_base::ClientId = "spiffe://example.org/client/other".parse().expect("identity");
    assert_eq!(refusal(&|_, members| members[at].id = renamed.clone()), refused(RosterError::Digest));
    let certificate = Digest::of(b"renewed");
    assert_eq!(refusal(&|_, members| members[at].credential.certificate = certificate), refused(RosterError::Digest));
    assert_eq!(refusal(&|_, members| members[at].credential.certification.0[7] ^= 1), refused(RosterError::Digest));
    let doubled = refusal(&|_, members| members[at] = members[(at + 1) % 48].clone());
    assert!(matches!(doubled, Some(Refusal::Roster(RosterError::Duplicate { what: "identity", .. }))), "{doubled:?}");
    let doubled = refusal(&|_, members| members[at].id = members[(at + 1) % 48].id.clone());
    assert!(matches!(doubled, Some(Refusal::Roster(RosterError::Duplicate { what: "identity", .. }))), "{doubled:?}");
    let left_out = refusal(&|_, members| drop(members.remove(at)));
    assert!(matches!(left_out, Some(Refusal::Roster(RosterError::Keys { .. } | RosterError::Digest))), "{left_out:?}");
}

#[test]
fn every_neighbor_of_a_member_sees_that_its_keys_are_not_signed() {
    // The coordinator lists a client that is not there, with keys of its own making: all who share keys with it refuse, and
    // whoever does not shares no key with it.
    let federation = forty_eight(15);
    let mut entries = federation.entries();
    entries[20].advert.nonce[0] ^= 1;
    let mut n_refused = 0;
    for i in (0..48).filter(|i| *i != 20) {
        match federation.deal(i, &entries, &mut SeededEntropy::new(1)) {
            Ok(client) => {
                assert!(!client.roster().graph().contains(position(i), position(20)), "client {i}");
                assert!(client.bundle().parts().iter().all(|part| part.holder != position(20)));
            }
            Err(refusal) => {
                let error = EntryError::Advert(AdvertError::Signature);
                assert_eq!(refusal, Refusal::Roster(RosterError::Entry { id: entries[20].id.clone(), error }));
                n_refused += 1;
            }
        }
    }
    assert_eq!(n_refused, 8);
}

#[test]
fn a_strangers_statement_key_without_a_certification_is_refused_by_all() {
    // It counts in the quorum, whoever shares keys with its owner.
    let federation = forty_eight(16);
    let mut entries = federation.entries();
    entries[20].advert.certification.0[7] ^= 1;
    for i in (0..48).filter(|i| *i != 20) {
        let refusal = federation.deal(i, &entries, &mut SeededEntropy::new(1)).err();
        let Some(Refusal::Roster(RosterError::Entry { id, error: EntryError::Advert(_) })) = refusal else {
            panic!("client {i}: {refusal:?}")
        };
        assert_eq!(id, entries[20].id);
    }
}

#[test]
fn a_roster_for_which_no_sparse_graph_is_safe_is_refused() {
    // With 7 of 10 corrupt no threshold keeps from them what they must not learn and leaves the others enough.
    let weak = sparse(10, 7, 9, 6, 20, 7);
    let entries = weak.entries();
    let refusal = weak.deal(0, &entries, &mut SeededEntropy::new(1)).err();
    let infeasible = GraphError::Infeasible { n: 10, n_corrupt: 7, n_dropped: 1 };
    assert_eq!(refusal, Some(Refusal::Roster(RosterError::Thresholds(ThresholdError::Graph(infeasible)))));
    // On the complete graph the same numbers are safe.
    let complete = federation(10, 7, 9, 6, 20, 7);
    assert_eq!(complete.roster().thresholds().threshold(), 8);
}

/// A U2 without these.
fn sharers_without(routed: &Routed, without: &[Position]) -> Sharers {
    let members = routed.sharers().members().filter(|(position, _)| !without.contains(position));
    Sharers::new(routed.sharers().set().n1(), members.collect()).expect("ascending")
}

#[test]
fn a_client_whose_neighbors_are_said_to_have_dropped_out_masks_nothing() {
    let federation = many_may_drop(8);
    let roster = federation.roster();
    let (mut clients, router) = federation.shared(&[]);
    let routed = router.close().expect("everybody shared");
    // No more than may drop out, and one less than t are left.
    let dropped = around(&roster, position(5), (1..=11).chain(-11..=-1));
    let sharers = sharers_without(&routed, &dropped);
    let mut parts = routed.parts_for(position(5));
    parts.retain(|part| !dropped.contains(&part.dealer));
    let refusal = clients.remove(5).receive(&sharers.shown_to(position(5)), &parts).err();
    assert_eq!(refusal, Some(Refusal::TooFewNeighbors { n_neighbors: 2, threshold: 3 }));
    // An honest coordinator sees it as soon.
    let dropped: Vec<_> = dropped.into_iter().map(index).collect();
    let (_, router) = federation.shared(&dropped);
    let Err(Incomplete::Shares { n_shares: 2, threshold: 3, .. }) = router.close() else { panic!("out of reach") };
}

#[test]
fn a_client_whose_neighbors_are_said_to_have_sent_nothing_signs_nothing() {
    let federation = many_may_drop(9);
    let roster = federation.roster();
    let (mut clients, mut accumulator) = federation.masked();
    let dropped = around(&roster, position(5), (1..=11).chain(-11..=-1));
    let kept = (0..48).map(position).filter(|position| !dropped.contains(position));
    let set = PositionSet::of(48, kept.clone());
    let mut bytes = set.as_bytes().to_vec();
    let (ready, _) = federation.ready();
    bytes.extend(kept.clone().flat_map(|position| ready[index(position)].ready().0));
    let survivors = Survivors::from_bytes(&bytes, 48).expect("well-formed").shown_to(&roster, position(5));
    for kept in kept {
        let upload = &clients[index(kept)].1;
        assert_eq!(accumulator.accept(kept, &upload.packed, &upload.finished), Ok(Arrival::New));
    }
    let refusal = clients.remove(5).0.sign(&survivors).err();
    assert_eq!(refusal, Some(Refusal::TooFewNeighbors { n_neighbors: 2, threshold: 3 }));
    let Err(Incomplete::Shares { n_shares: 2, threshold: 3, .. }) = accumulator.close() else { panic!("out of reach") };
}

#[test]
fn a_client_with_a_u2_of_its_own_is_given_away_by_none_of_its_neighbors_though_strangers_go_on() {
    let federation = many_may_drop(12);
    let (roster, victim) = (federation.roster(), position(5));
    let strangers = around(&roster, victim, 13..=35);
    let (clients, router) = federation.shared(&[]);
    let routed = router.close().expect("everybody shared");
    // The victim is told that a stranger dropped out: it masks as before, and says READY for another U2 than all others.
    let (everyone, victims) = (routed.sharers().clone(), sharers_without(&routed, &strangers[..1]));
    let receive = |(i, client): (usize, SharedKeys)| {
        let u2 = if i == 5 { &victims } else { &everyone };
        client.receive(&u2.shown_to(position(i)), &routed.parts_for(position(i))).expect("each U2 alone is in order")
    };
    let clients: Vec<_> = clients.into_iter().enumerate().map(receive).collect();
    let everybody = PositionSet::of(48, (0..48).map(position));
    let readies: Vec<u8> = clients.iter().flat_map(|client| client.ready().0).collect();
    let whole = [everybody.as_bytes(), &readies].concat();
    let whole = Survivors::from_bytes(&whole, 48).expect("well-formed");
    let (mut signed, mut statements) = (Vec::new(), Vec::new());
    for (i, client) in clients.into_iter().enumerate().filter(|(i, _)| *i != 5) {
        let (client, _) = client.mask(&federation.input(i)).expect("the plan's length");
        let shown = whole.shown_to(&roster, position(i));
        match client.sign(&shown) {
            Ok(client) => {
                statements.push((position(i), client.signature()));
                signed.push(client);
            }
            Err(refusal) => {
                assert_eq!(refusal, Refusal::ReadySignature { position: victim });
                assert!(roster.graph().contains(position(i), victim), "client {i}");
            }
        }
    }
    // Only its 24 neighbors were shown its READY. The other 23 are no quorum here; were they one, they hold no share of it.
    assert_eq!(signed.len(), 23);
    let quorum = Quorum::new(statements);
    for client in signed {
        let refusal = client.release(&quorum).err();
        assert_eq!(refusal, Some(Refusal::QuorumTooSmall { n_signatures: 23, quorum: 25 }));
    }
    for stranger in strangers {
        assert!(!roster.graph().contains(stranger, victim));
    }
}

#[test]
fn a_client_signs_no_survivors_without_the_ready_of_each_neighbor_and_its_own() {
    let federation = forty_eight(13);
    let roster = federation.roster();
    let (_, collector) = federation.uploaded(&[20]);
    let shown = collector.survivors().shown_to(&roster, position(5)).to_bytes();
    let n_shown = roster.graph().neighbors(position(5)).iter().filter(|peer| index(**peer) != 20).count() + 1;
    assert_eq!(shown.len(), 6 + 64 * n_shown);
    let refusal = |bytes: &[u8]| {
        let survivors = Survivors::from_bytes(bytes, 48).expect("well-formed");
        federation.uploaded(&[20]).0.remove(5).sign(&survivors).err()
    };
    assert_eq!(refusal(&shown), None);
    let missing = |found| Some(Refusal::ReadiesMissing { expected: n_shown, found });
    assert_eq!(refusal(&shown[..shown.len() - 64]), missing(n_shown - 1));
    assert_eq!(refusal(&[&shown[..], &[0; 64]].concat()), missing(n_shown + 1));
    assert_eq!(refusal(&collector.survivors().to_bytes()), missing(47));
    // A stranger's in a neighbor's place, and two neighbors' exchanged.
    let stranger = around(&roster, position(5), [5])[0];
    let (_, ready) = collector.survivors().readies().find(|(of, _)| *of == stranger).expect("a survivor");
    let mut foreign = shown.clone();
    foreign[6..70].copy_from_slice(&ready.0);
    assert!(matches!(refusal(&foreign), Some(Refusal::ReadySignature { .. })));
    let mut exchanged = shown.clone();
    exchanged[6..134].rotate_left(64);
    assert!(matches!(refusal(&exchanged), Some(Refusal::ReadySignature { .. })));
}

#[test]
fn a_neighbor_releases_one_kind_of_share_for_each_dealer_and_none_of_others() {
    let federation = forty_eight(10);
    let roster = federation.roster();
    let (clients, quorum, mut unmasker, context) = federation.consistent(&[20, 21]);
    let mut released = BTreeSet::new();
    for (i, client) in clients {
        let answer = client.release(&quorum).expect("honest");
        assert!(answer.dealers().eq(roster.graph().neighbors(position(i))));
        let body = answer.to_bytes();
        let body = &body[..body.len() - 64];
        let signed = |body: Vec<u8>| {
            let statement = context.statement(StatementKind::Unmask, position(i), &body);
            [body, federation.identities[i].certificate_key.sign(&statement).0.to_vec()].concat()
        };
        // Both kinds for one neighbor cannot be written down.
        let mut doubled = body.to_vec();
        doubled.extend_from_within(doubled.len() - 34..);
        doubled[0] += 1;
        assert!(UnmaskAnswer::from_bytes(&signed(doubled)).is_err());
        // A share of somebody who is no neighbor is not taken.
        let stranger =
            (0..48).map(position).find(|peer| index(*peer) != i && !roster.graph().contains(*peer, position(i)));
        let stranger = stranger.expect("there are more clients than neighbors");
        let mut shares: Vec<_> = body[2..].as_chunks::<34>().0.to_vec();
        let mut foreign = shares[0];
        foreign[..2].copy_from_slice(&stranger.0.to_le_bytes());
        shares.push(foreign);
        shares.sort_by_key(|share| u16::from_le_bytes([share[0], share[1]]));
        let foreign = [&[shares.len() as u8, 0][..], shares.as_flattened()].concat();
        let foreign = UnmaskAnswer::from_bytes(&signed(foreign)).expect("well-formed");
        let error = Misbehaviour::ReleasedDealers { holder: position(i) };
        assert_eq!(unmasker.accept(position(i), foreign), Err(error));
        // One share for each pair of neighbors, so of one kind.
        released.extend(answer.dealers().map(|dealer| (dealer, i)));
        assert_eq!(unmasker.accept(position(i), answer), Ok(Arrival::New));
    }
    assert_eq!(released.len(), 46 * 8);
    let survivors = (0..48).filter(|i| ![20, 21].contains(i));
    assert_eq!(unmasker.finish().expect("complete").residues(), federation.plain_sum(survivors));
}

#[test]
fn a_complaint_about_a_client_that_is_no_neighbor_is_refused() {
    let federation = forty_eight(11);
    let (clients, mut accumulator) = federation.masked();
    let stranger = around(&federation.roster(), position(5), [5])[0];
    let context = accumulator.context();
    let upload = &clients[5].1;
    let mut finished = upload.finished.clone();
    finished.complaints = vec![stranger];
    let bytes = finished.to_bytes();
    let statement = context.statement(StatementKind::MaskedInput, position(5), &bytes[..bytes.len() - 64]);
    finished.signature = federation.identities[5].certificate_key.sign(&statement);
    let error = Misbehaviour::ComplaintForeign { holder: position(5), dealer: stranger };
    assert_eq!(accumulator.accept(position(5), &upload.packed, &finished), Err(error));
}
