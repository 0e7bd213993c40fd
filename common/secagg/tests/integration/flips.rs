//! Every message of a round with one bit flipped, and every message cut short: never taken as valid.

use eranos_secagg::{
    Advert, Bundle, Finished, Quorum, RosterEntry, ShortName, ShownRoster, ShownSharers, Survivors, UnmaskAnswer,
    share_keys,
};

use crate::federation::{Federation, federation, position, sparse};

fn four() -> Federation {
    federation(4, 1, 3, 5, 23, 1)
}

/// Every byte with one of its bits flipped, the bit changing from byte to byte, and every truncation.
fn spoiled(bytes: &[u8]) -> impl Iterator<Item = Vec<u8>> + '_ {
    let flipped = (0..bytes.len()).map(move |at| {
        let mut flipped = bytes.to_vec();
        flipped[at] ^= 1 << (at % 8);
        flipped
    });
    flipped.chain((0..bytes.len()).map(move |len| bytes[..len].to_vec()))
}

/// Asserts that `taken` says no to every spoiled form of `bytes`, and yes to the bytes themselves.
fn check(bytes: &[u8], mut taken: impl FnMut(&[u8]) -> bool) {
    for spoiled in spoiled(bytes) {
        let at = spoiled.iter().zip(bytes).position(|(a, b)| a != b);
        assert!(!taken(&spoiled), "taken with byte {at:?} flipped, {} of {} bytes", spoiled.len(), bytes.len());
    }
    assert!(taken(bytes));
}

#[test]
fn no_spoiled_advert_is_taken() {
    let federation = four();
    let entry = federation.entries().remove(1);
    check(&entry.advert.to_bytes(), |bytes| {
        let Ok(advert) = Advert::from_bytes(bytes) else { return false };
        RosterEntry { advert, ..entry.clone() }.verify(&federation.terms).is_ok()
    });
}

/// The client's caller looks a credential up by its name; one that is not there ends the round.
fn taken_as(federation: &Federation, entries: &[RosterEntry], bytes: &[u8]) -> Option<eranos_base::Digest> {
    let shown = ShownRoster::from_bytes(bytes).ok()?;
    let named = |name: &ShortName| {
        let of = |entry: &&RosterEntry| ShortName::of(&shown.digest, &entry.credential().digest()) == *name;
        entries.iter().find(of).map(RosterEntry::member)
    };
    let members = shown.names.iter().map(named).collect::<Option<Vec<_>>>()?;
    let client = federation.advertise(0).share_keys(shown, members, &mut eranos_base::SeededEntropy::new(1)).ok()?;
    Some(client.roster().digest())
}

#[test]
fn no_spoiled_roster_is_taken() {
    let federation = four();
    let roster = federation.roster();
    let shown = roster.show()(position(0)).to_bytes();
    check(&shown, |bytes| taken_as(&federation, roster.entries(), bytes).is_some());
    assert_eq!(taken_as(&federation, roster.entries(), &shown), Some(roster.digest()));
    // On the sparse graph some of twelve are strangers to each other, and the proof is not empty.
    let sparse = sparse(12, 1, 11, 5, 23, 1);
    let roster = sparse.roster();
    let shown = roster.show()(position(0));
    assert!(!shown.proof.is_empty() && shown.keys.len() < 12);
    check(&shown.to_bytes(), |bytes| taken_as(&sparse, roster.entries(), bytes).is_some());
}

#[test]
fn no_spoiled_bundle_is_taken() {
    let federation = four();
    let (clients, mut router) = federation.shared(&[1]);
    check(&clients[1].bundle().to_bytes(), |bytes| {
        Bundle::from_bytes(bytes).is_ok_and(|bundle| router.accept(position(1), bundle).is_ok())
    });
}

#[test]
fn no_spoiled_u2_or_part_is_taken() {
    let federation = four();
    let (clients, router) = federation.shared(&[]);
    let root = router.close().expect("everybody shared");
    let (sharers, parts) = (root.sharers().shown_to(position(0)), root.parts_for(position(0)));
    drop(clients);
    check(&sharers.to_bytes(), |bytes| {
        let Ok(spoiled) = ShownSharers::from_bytes(bytes, 4) else { return false };
        // Who is in it shows only in the root, which every READY names.
        let same_root = spoiled.root() == sharers.root();
        same_root && federation.share(0).receive(&spoiled, &parts).is_ok()
    });
    check(&share_keys::parts_to_bytes(&parts), |bytes| {
        let Ok(spoiled) = share_keys::parts_from_bytes(bytes) else { return false };
        federation.share(0).receive(&sharers, &spoiled).is_ok()
    });
}

#[test]
fn no_spoiled_ready_is_taken() {
    let federation = four();
    let (clients, mut accumulator) = federation.ready();
    check(&clients[2].ready().0, |bytes| {
        let Ok(ready) = bytes.try_into() else { return false };
        accumulator.ready(position(2), &eranos_base::Signature(ready)).is_ok()
    });
}

#[test]
fn no_spoiled_upload_is_taken() {
    let federation = four();
    let (clients, mut accumulator) = federation.masked();
    let upload = &clients[2].1;
    check(&upload.finished.to_bytes(), |bytes| {
        Finished::from_bytes(bytes)
            .is_ok_and(|finished| accumulator.accept(position(2), &upload.packed, &finished).is_ok())
    });
    let upload = &clients[3].1;
    check(&upload.packed, |bytes| accumulator.accept(position(3), bytes, &upload.finished).is_ok());
}

#[test]
fn no_spoiled_survivors_are_signed() {
    let federation = four();
    let (clients, collector) = federation.uploaded(&[]);
    drop(clients);
    // Signing consumes a client: each gets one from a round gone through again.
    check(&collector.survivors().to_bytes(), |bytes| {
        let Ok(survivors) = Survivors::from_bytes(bytes, 4) else { return false };
        let (clients, _) = federation.uploaded(&[]);
        clients.into_iter().next().expect("four").sign(&survivors).is_ok()
    });
}

#[test]
fn no_spoiled_consistency_statement_is_taken() {
    let federation = four();
    let (clients, mut collector) = federation.uploaded(&[]);
    let client = clients.into_iter().next().expect("four").sign(collector.survivors()).expect("honest");
    check(&client.signature().0, |bytes| {
        let Ok(signature) = bytes.try_into() else { return false };
        collector.accept(position(0), &eranos_base::Signature(signature)).is_ok()
    });
}

#[test]
fn no_spoiled_quorum_releases_a_share() {
    let federation = four();
    let (_, quorum, _, _) = federation.consistent(&[]);
    check(&quorum.to_bytes(), |bytes| {
        let Ok(quorum) = Quorum::from_bytes(bytes) else { return false };
        let (clients, ..) = federation.consistent(&[]);
        clients.into_iter().next().expect("four").1.release(&quorum).is_ok()
    });
}

#[test]
fn no_spoiled_unmask_answer_is_taken() {
    let federation = four();
    let (mut clients, quorum, mut unmasker, _) = federation.consistent(&[]);
    let answer = clients.remove(1).1.release(&quorum).expect("honest");
    check(&answer.to_bytes(), |bytes| {
        UnmaskAnswer::from_bytes(bytes).is_ok_and(|answer| unmasker.accept(position(1), answer).is_ok())
    });
}
