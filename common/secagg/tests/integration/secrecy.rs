//! What a coordinator holds, alone or with its helpers, and what it cannot make of it. Looked at are the bytes that left
//! the clients.

use eranos_base::{Digest, RoundNumber, SeededEntropy, StatementKind};
use eranos_secagg::{
    AddressedPart, Advert, AgreementKey, Arrival, Bits, Incomplete, RosterEntry, Sharers,
    mask::{Lanes, MaskKey, Sign},
    terms::Dimension,
};
use num_bigint::BigUint;

use crate::federation::{Federation, federation, position};

/// n1 = 10, f = 3, u_min = 7: q = 7, t = 6.
fn ten(seed: u64) -> Federation {
    federation(10, 3, 7, 6, 20, seed)
}

/// The shares (32 bytes each) in what survivors released.
fn released(federation: &Federation, dropped: &[usize]) -> Vec<[u8; 32]> {
    let (clients, quorum, ..) = federation.consistent(dropped);
    let mut shares = Vec::new();
    for (_, client) in clients {
        let answer = client.release(&quorum).expect("honest").to_bytes();
        let (entries, rest) = answer[2..answer.len() - 64].as_chunks::<34>();
        assert!(rest.is_empty());
        shares.extend(entries.iter().map(|entry| <[u8; 32]>::try_from(&entry[2..]).expect("32 bytes")));
    }
    shares
}

#[test]
fn no_share_can_be_read_in_what_a_coordinator_holds_before_a_quorum() {
    // The same round twice, in one of which a client drops out: so shares of both its secrets are known here.
    let federation = federation(5, 1, 4, 6, 20, 40);
    let (seeds, keys) = (released(&federation, &[]), released(&federation, &[4]));
    assert_eq!((seeds.len(), keys.len()), (5 * 4, 4 * 4));
    let new = keys.iter().filter(|share| !seeds.contains(share)).count();
    assert_eq!(new, 4, "shares of the masking key of the one that dropped out");
    let mut held: Vec<Vec<u8>> = federation.entries().iter().map(RosterEntry::to_bytes).collect();
    held.extend(federation.shared(&[]).0.iter().map(|client| client.bundle().to_bytes()));
    let (masked, _) = federation.masked();
    held.extend(masked.into_iter().flat_map(|(_, upload)| [upload.finished.to_bytes(), upload.packed]));
    held.push(federation.uploaded(&[]).1.survivors().to_bytes());
    let (signed, quorum, ..) = federation.consistent(&[]);
    held.push(quorum.to_bytes());
    held.extend(signed.iter().map(|(_, client)| client.signature().0.to_vec()));
    for share in seeds.iter().chain(&keys) {
        assert!(!held.iter().any(|bytes| bytes.windows(32).any(|window| window == share)), "a share in the clear");
    }
}

#[test]
fn a_coordinator_with_as_many_helpers_as_are_tolerated_unmasks_nobody() {
    // The helpers say and sign whatever they are asked for; the honest clients stop after their vectors.
    let federation = ten(41);
    let (clients, mut collector) = federation.uploaded(&[]);
    for (i, client) in clients.into_iter().enumerate().take(3) {
        let client = client.sign(collector.survivors()).expect("in order");
        assert_eq!(collector.accept(position(i), &client.signature()), Ok(Arrival::New));
    }
    let error = Incomplete::Quorum { n_signatures: 3, quorum: 7 };
    assert_eq!(collector.close().map(|_| ()), Err(error));
    // And where there is a quorum, their own shares do not rebuild the seed of anybody.
    let (clients, quorum, mut unmasker, _) = federation.consistent(&[]);
    for (i, client) in clients.into_iter().take(3) {
        let answer = client.release(&quorum).expect("in order");
        assert_eq!(unmasker.accept(position(i), answer), Ok(Arrival::New));
    }
    assert!(!unmasker.is_complete());
    let error = Incomplete::Shares { dealer: position(0), n_shares: 2, threshold: 6 };
    assert_eq!(unmasker.finish().map(|_| ()), Err(error));
}

#[test]
fn masked_vectors_and_sums_that_lack_a_client_look_uniform() {
    // Everybody's input is zero: whatever shows is mask. 4 clients, 4,096 values of 20 bits.
    let federation = federation(4, 1, 3, 4096, 20, 42);
    let (clients, _) = federation.ready();
    let vectors: Vec<Vec<u8>> =
        clients.into_iter().map(|client| client.mask(&[0; 4096]).expect("the plan's length").1.packed).collect();
    let (bits, dimension) = (Bits::new(20).expect("valid"), Dimension::new(4096).expect("valid"));
    for subset in 1..16_u32 {
        let mut sum = Lanes::zeros(dimension, bits);
        for (_, packed) in (0..).zip(&vectors).filter(|(i, _)| subset >> i & 1 == 1) {
            eranos_secagg::packing::unpack_add(&mut sum, packed, bits).expect("our own bytes");
        }
        let Lanes::U32(lanes) = sum else { panic!("20 bits need 32") };
        for bit in 0..20 {
            let ones = lanes.iter().filter(|lane| *lane >> bit & 1 == 1).count() as f64;
            // Mean 2048, deviation 32; the seed is fixed, so that this holds always or never.
            assert!((ones - 2048.0).abs() < 6.0 * 32.0, "clients {subset:04b}, bit {bit}: {ones} ones of 4096");
        }
    }
}

#[test]
fn a_round_gone_through_with_the_keys_of_another_has_other_masks() {
    // A client restored with all its randomness would draw the same keys; round, session and plan are in every mask.
    let first = federation(4, 1, 3, 64, 32, 43);
    let second = first.with_terms(|terms| terms.round = RoundNumber(2));
    let keys = |federation: &Federation| federation.entries().iter().map(|e| e.advert.s_pk).collect::<Vec<_>>();
    assert_eq!(keys(&first), keys(&second), "the premise");
    let lanes = |federation: &Federation| {
        let mut sum = Lanes::zeros(federation.terms.dimension, federation.terms.bits);
        let packed = &federation.masked().0[0].1.packed;
        eranos_secagg::packing::unpack_add(&mut sum, packed, federation.terms.bits).expect("our own bytes");
        let Lanes::U32(lanes) = sum else { panic!("32 bits") };
        lanes
    };
    // The inputs are the same, so the difference is that of the masks, and nowhere is it zero.
    assert!(lanes(&first).iter().zip(lanes(&second)).all(|(first, second)| *first != second));
}

#[test]
fn every_bit_of_a_mask_key_counts() {
    // Seeds of 32 bits or fewer can be tried out. All 192 bits of a key change what is masked, each in its own way.
    let key: [u8; 24] = eranos_base::Entropy::bytes(&mut SeededEntropy::new(44));
    let mask = |key: [u8; 24]| {
        let mut lanes = Lanes::zeros(Dimension::new(8).expect("valid"), Bits::new(32).expect("valid"));
        lanes.apply(&[(Sign::Plus, MaskKey::from_bytes(key))]);
        let Lanes::U32(lanes) = lanes else { panic!("32 bits") };
        lanes
    };
    let flipped = (0..192).map(|bit| {
        let mut flipped = key;
        flipped[bit / 8] ^= 1 << (bit % 8);
        mask(flipped)
    });
    let masks: std::collections::BTreeSet<_> = flipped.chain([mask(key)]).collect();
    assert_eq!(masks.len(), 193);
}

/// u -> 1/u: X25519 gives the same shared secret for both.
fn mirrored(key: &AgreementKey) -> AgreementKey {
    let p = (BigUint::from(1u8) << 255) - 19u8;
    let mut bytes = BigUint::from_bytes_le(key.as_bytes()).modpow(&(&p - 2u8), &p).to_bytes_le();
    bytes.resize(32, 0);
    AgreementKey::from_bytes(bytes.try_into().expect("32 bytes")).expect("canonical")
}

#[test]
fn a_client_whose_peers_mirror_keys_is_masked_as_before() {
    // n1 = 10, f = 3. Client 0 advertises the mirror of client 7's masking key. It stands on the other side of client 3, so
    // that were masks made of the shared secret alone, what it adds to client 3's vector would take off what 7 adds.
    let federation = ten(45);
    let mut entries = federation.entries();
    let mut advert: Advert = entries[0].advert.clone();
    advert.s_pk = mirrored(&entries[7].advert.s_pk);
    let body = &advert.to_bytes()[..Advert::LEN - 64];
    let statement = federation.terms.context().statement(StatementKind::Advert, eranos_base::Position::NONE, body);
    advert.signature = federation.identities[0].certificate_key.sign(&statement);
    entries[0].advert = advert;
    let share = |i: usize| {
        let client = federation.deal(i, &entries, &mut SeededEntropy::new(7 + i as u64));
        client.expect("every signature holds, and all keys are distinct")
    };
    // What the victim receives: of the mirror nothing that opens, signed by it.
    let victim = share(3);
    let context = victim.roster().context();
    let dealt = |i: usize| -> AddressedPart {
        let of = share(if i == 0 { 1 } else { i }).bundle().parts().to_vec();
        let mut part = of.into_iter().find(|part| part.holder == position(3)).expect("dealt to all");
        if i == 0 {
            part.dealer = position(0);
            let hashes = [Digest::of(&part.ciphertext), part.hashes()];
            let body: Vec<u8> = 3_u16.to_le_bytes().into_iter().chain(hashes.iter().flat_map(|h| h.0)).collect();
            let statement = context.statement(StatementKind::SharePart, position(0), &body);
            part.signature = federation.identities[0].certificate_key.sign(&statement);
        }
        AddressedPart::from(&part)
    };
    let parts: Vec<AddressedPart> = (0..10).filter(|i| *i != 3).map(dealt).collect();
    let masked = |without: &[usize]| {
        let victim = share(3);
        let bundle = victim.bundle().digest(position(3));
        let members = (0..10).filter(|i| !without.contains(i));
        let members = members.map(|i| (position(i), if i == 3 { bundle } else { Digest::ZERO })).collect();
        let parts: Vec<_> = parts.iter().filter(|part| !without.contains(&part.dealer.index())).cloned().collect();
        let sharers = Sharers::new(10, members).expect("ascending").shown_to(position(3));
        let ready = victim.receive(&sharers, &parts).expect("large enough");
        ready.mask(&federation.input(3)).expect("the plan's length").1.packed
    };
    assert_ne!(masked(&[]), masked(&[0, 7]), "the two masks cancel");
    // And the same without one of them alone, or the test would say nothing.
    assert_ne!(masked(&[0]), masked(&[0, 7]));
}
