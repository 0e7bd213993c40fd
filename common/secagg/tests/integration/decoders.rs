//! Decoders over random and mutated bytes: no panic, and what is accepted encodes to the same bytes again.

use eranos_base::{Entropy, OsEntropy, SeededEntropy};
use eranos_secagg::{
    AddressedPart, Advert, Bundle, Finished, Quorum, SharePart, ShownRoster, ShownSharers, Survivors, UnmaskAnswer,
    agreement::AgreementKeyError, share_keys,
};

use crate::{
    decode::{N1, decode_by_all},
    federation::{federation, position, sparse},
};

/// One valid message of each kind.
fn corpus() -> Vec<Vec<u8>> {
    let federation = federation(N1, 1, 4, 6, 23, 1);
    let entries = federation.entries();
    let (clients, router) = federation.shared(&[]);
    let routed = router.close().expect("everybody shared");
    let (masked, _) = federation.masked();
    let (_, collector) = federation.uploaded(&[]);
    let (mut signed, quorum, ..) = federation.consistent(&[2]);
    vec![
        entries[0].advert.to_bytes().to_vec(),
        federation.roster().show()(position(1)).to_bytes(),
        sparse(12, 1, 11, 4, 23, 1).roster().show()(position(1)).to_bytes(),
        clients[0].bundle().parts()[0].to_bytes().to_vec(),
        clients[0].bundle().to_bytes(),
        routed.parts_for(position(1))[0].to_bytes(),
        share_keys::parts_to_bytes(&routed.parts_for(position(1))),
        routed.sharers().shown_to(position(1)).to_bytes(),
        masked[0].1.finished.to_bytes(),
        masked[0].1.packed.clone(),
        collector.survivors().to_bytes(),
        collector.survivors().set().as_bytes().to_vec(),
        quorum.to_bytes(),
        signed.remove(0).1.release(&quorum).expect("honest").to_bytes(),
    ]
}

#[test]
fn decoders_never_panic_and_are_strict() {
    let seed = u64::from_le_bytes(OsEntropy.bytes());
    println!("seed {seed}");
    let mut entropy = SeededEntropy::new(seed);
    let corpus = corpus();
    for bytes in &corpus {
        assert!(decode_by_all(bytes) >= 1);
    }
    let mut n_accepted = 0;
    for _ in 0..60_000 {
        let draw: [u8; 8] = entropy.bytes();
        let [kind, which, n_changes, rest @ ..] = draw;
        let at = u32::from_le_bytes(rest[..4].try_into().expect("four bytes")) as usize;
        let mut bytes = if kind < 64 {
            let mut bytes = vec![0; at % 700];
            entropy.fill(&mut bytes);
            bytes
        } else {
            corpus[usize::from(which) % corpus.len()].clone()
        };
        for change in 0..usize::from(n_changes % 4) {
            let [value, how] = entropy.bytes();
            let at = (at >> change) % (bytes.len() + 1);
            match how % 5 {
                0 => bytes.insert(at, value),
                1 => bytes.truncate(at),
                2 => bytes.extend_from_within(..at),
                _ if at < bytes.len() => bytes[at] = value,
                _ => bytes.push(value),
            }
        }
        n_accepted += decode_by_all(&bytes);
    }
    assert!(n_accepted > 1000, "the mutations leave nothing valid: {n_accepted}");
}

#[test]
fn an_advert_with_a_non_canonical_or_small_order_key_is_refused() {
    let federation = federation(N1, 1, 4, 6, 23, 2);
    let bytes = federation.entries()[0].advert.to_bytes();
    assert!(Advert::from_bytes(&bytes).is_ok());
    for key_at in [0, 32] {
        let mut with_top_bit = bytes;
        with_top_bit[key_at + 31] |= 0x80;
        assert!(Advert::from_bytes(&with_top_bit).is_err());
        let mut zero = bytes;
        zero[key_at..key_at + 32].fill(0);
        assert!(Advert::from_bytes(&zero).is_err());
    }
    let zero = eranos_secagg::AgreementKey::from_bytes([0; 32]);
    assert_eq!(zero, Err(AgreementKeyError::SmallOrder));
}

#[test]
fn lists_that_claim_more_than_a_roster_holds_are_refused_before_they_are_read() {
    let many = [0xff; 4096];
    for error in [
        ShownSharers::from_bytes(&many, 10_001).map(|_| ()),
        ShownSharers::from_bytes(&[0; 1024], 8).map(|_| ()),
        Survivors::from_bytes(&[1; 1024], 8).map(|_| ()),
        Quorum::from_bytes(&many).map(|_| ()),
        UnmaskAnswer::from_bytes(&many).map(|_| ()),
        Finished::from_bytes(&many).map(|_| ()),
        share_keys::parts_from_bytes(&vec![0; 10_001 * AddressedPart::LEN]).map(|_| ()),
        Bundle::from_bytes(&vec![0; 10_001 * SharePart::LEN]).map(|_| ()),
        ShownRoster::from_bytes(&many).map(|_| ()),
        // More proof than members.
        ShownRoster::from_bytes(&[0; 32 + 4 + 32]).map(|_| ()),
        Survivors::from_bytes(&many, 10_001).map(|_| ()),
    ] {
        assert!(matches!(error, Err(eranos_base::encoding::DecodeError::Limit { .. })), "{error:?}");
    }
}
