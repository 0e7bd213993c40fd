//! Every decoder of this crate over the same bytes. The fuzz targets of the repository read this file too.

use eranos_secagg::{
    AddressedPart, Advert, Bundle, Finished, PositionSet, Quorum, SharePart, ShownRoster, ShownSharers, Survivors,
    UnmaskAnswer, mask::Lanes, packing, share_keys, terms::Dimension,
};

/// The roster's size where a decoder has to know it.
pub(crate) const N1: usize = 5;

/// Reads `bytes` by every decoder: what is accepted encodes to the same bytes again. Gives how many accepted them.
pub(crate) fn decode_by_all(bytes: &[u8]) -> usize {
    let mut n_accepted = 0;
    let mut check = |again: Option<Vec<u8>>| {
        if let Some(again) = again {
            assert_eq!(again, bytes, "accepted, and another encoding of it");
            n_accepted += 1;
        }
    };
    check(Advert::from_bytes(bytes).ok().map(|advert| advert.to_bytes().to_vec()));
    check(ShownRoster::from_bytes(bytes).ok().map(|shown| shown.to_bytes()));
    check(SharePart::from_bytes(bytes).ok().map(|part| part.to_bytes().to_vec()));
    check(AddressedPart::from_bytes(bytes).ok().map(|part| part.to_bytes()));
    check(Bundle::from_bytes(bytes).ok().map(|bundle| bundle.to_bytes()));
    check(share_keys::parts_from_bytes(bytes).ok().map(|parts| share_keys::parts_to_bytes(&parts)));
    check(ShownSharers::from_bytes(bytes, N1).ok().map(|sharers| sharers.to_bytes()));
    check(Finished::from_bytes(bytes).ok().map(|finished| finished.to_bytes()));
    check(Survivors::from_bytes(bytes, N1).ok().map(|survivors| survivors.to_bytes()));
    check(Quorum::from_bytes(bytes).ok().map(|quorum| quorum.to_bytes()));
    check(UnmaskAnswer::from_bytes(bytes).ok().map(|answer| answer.to_bytes()));
    check(PositionSet::from_bytes(bytes, N1).ok().map(|set| set.as_bytes().to_vec()));
    let bits = eranos_secagg::Bits::new(23).expect("valid");
    let mut sum = Lanes::zeros(Dimension::new(6).expect("valid"), bits);
    check(packing::unpack_add(&mut sum, bytes, bits).ok().map(|()| packing::pack(&sum, bits)));
    n_accepted
}
