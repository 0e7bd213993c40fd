//! Masks: who derives which key, and how a key is expanded and added.
//!
//! A mask is the AES-128-CTR keystream of its key, read as little-endian lanes of 16 or 32 bits and added modulo 2^16
//! or 2^32. Since 2^b divides that, the sum is right modulo 2^b whatever the upper bits are; they are cut off when a
//! vector is packed.

use std::fmt;

use aes::Aes128Enc;
use ctr::{
    CtrCore,
    cipher::{Array, Block, KeyIvInit, StreamCipherCore, StreamCipherSeekCore},
    flavors::Ctr64LE,
};
use eranos_base::{Digest, Position};
use zeroize::{Zeroize, Zeroizing};

use crate::{
    AgreementKey, Bits,
    agreement::{AgreementSecret, derive, position_bytes},
    kernel::{InstructionSet, RoundKeys, accumulate},
    shamir::Secret,
    terms::Dimension,
    workers,
};

/// Which way a mask is applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sign {
    /// Added.
    Plus,
    /// Subtracted.
    Minus,
}

impl Sign {
    /// The sign of the pairwise mask with `peer` in the vector of `own`: plus for the peers after it.
    pub fn of_pair(own: Position, peer: Position) -> Self {
        if peer > own { Self::Plus } else { Self::Minus }
    }

    /// The opposite.
    #[must_use]
    pub fn reversed(self) -> Self {
        match self {
            Self::Plus => Self::Minus,
            Self::Minus => Self::Plus,
        }
    }
}

/// The 24 bytes of one mask: the AES key, and bytes 8..16 of every counter block, whose bytes 0..8 count from 0,
/// little-endian. Wiped when dropped.
pub struct MaskKey(Zeroizing<[u8; Self::LEN]>);

impl MaskKey {
    const LEN: usize = 24;

    /// The self mask of `position`: HKDF-SHA256(ikm seed, salt R1, info "eranos/secagg/v1/self" || position).
    pub(crate) fn of_seed(seed: &Secret, roster: &Digest, position: Position) -> Self {
        Self(derive(&seed[..], roster.as_bytes(), &[SELF_INFO, &position_bytes(position)]))
    }

    /// The pairwise mask of `own` and `peer`: HKDF-SHA256(ikm X25519(s_own, s_peer), salt R1, info
    /// "eranos/secagg/v1/pair" || lo || hi || s_pk_lo || s_pk_hi). `None` if the shared secret is zero.
    ///
    /// Positions and both keys stand in the derivation because the shared secret alone does not tell them: X25519 of
    /// any secret with u and with 1/u is the same, and masks that cancel would be bare.
    pub(crate) fn of_pair(
        secret: &AgreementSecret,
        roster: &Digest,
        own: (Position, &AgreementKey),
        peer: (Position, &AgreementKey),
    ) -> Option<Self> {
        let shared = secret.agree(peer.1)?;
        let (lo, hi) = if own.0 < peer.0 { (own, peer) } else { (peer, own) };
        let (lo_bytes, hi_bytes) = (position_bytes(lo.0), position_bytes(hi.0));
        let info = [PAIR_INFO, &lo_bytes, &hi_bytes, lo.1.as_bytes(), hi.1.as_bytes()];
        Some(Self(derive(&shared[..], roster.as_bytes(), &info)))
    }

    /// A mask of these 24 bytes; for measurements and tests against other implementations.
    pub fn from_bytes(bytes: [u8; Self::LEN]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The AES key, and bytes 8..16 of every counter block.
    fn parts(&self) -> (&[u8; 16], &[u8; 8]) {
        let (key, counter_high) = self.0.split_at(16);
        // Unwrap safety: of the 24 bytes, 16 and the other 8.
        (key.try_into().expect("16 bytes"), counter_high.try_into().expect("8 bytes"))
    }

    /// The keystream from `first_block` on, by the `ctr` crate.
    fn keystream(&self, first_block: u64) -> Keystream {
        let (key, counter_high) = self.parts();
        let mut counter_block = Zeroizing::new([0; 16]);
        counter_block[8..].copy_from_slice(counter_high);
        let mut keystream = Keystream::new(key.into(), (&*counter_block).into());
        keystream.set_block_pos(first_block);
        keystream
    }
}

impl fmt::Debug for MaskKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MaskKey(omitted)")
    }
}

const SELF_INFO: &[u8] = b"eranos/secagg/v1/self";
const PAIR_INFO: &[u8] = b"eranos/secagg/v1/pair";

type Keystream = CtrCore<Aes128Enc, Ctr64LE>;

/// A vector of residues in lanes of 16 bits (b <= 16) or 32 bits.
#[derive(Clone, PartialEq, Eq)]
pub enum Lanes {
    /// For b <= 16.
    U16(Vec<u16>),
    /// For b > 16.
    U32(Vec<u32>),
}

impl Lanes {
    /// A vector of zeros.
    pub fn zeros(dimension: Dimension, bits: Bits) -> Self {
        if bits.get() <= 16 { Self::U16(vec![0; dimension.len()]) } else { Self::U32(vec![0; dimension.len()]) }
    }

    /// The residues of `values`: reduced modulo 2^b as the packing cuts off what is above.
    pub(crate) fn of_signed(values: &[i64], bits: Bits) -> Self {
        // Casting keeps the low bits of two's complement: the residue modulo 2^16 or 2^32.
        if bits.get() <= 16 {
            Self::U16(values.iter().map(|value| *value as u16).collect())
        } else {
            Self::U32(values.iter().map(|value| *value as u32).collect())
        }
    }

    /// The number of values.
    pub fn len(&self) -> usize {
        match self {
            Self::U16(lanes) => lanes.len(),
            Self::U32(lanes) => lanes.len(),
        }
    }

    /// Whether there are no values.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds or subtracts the mask of each key, on all cores if that is worth it.
    pub fn apply(&mut self, masks: &[(Sign, MaskKey)]) {
        let lane_len = if matches!(self, Self::U16(_)) { u16::LEN } else { u32::LEN };
        let n_workers = match self.len() * lane_len * masks.len() {
            0..WORKERS_FROM => 1,
            _ => workers::available(),
        };
        self.apply_by(InstructionSet::detect(), n_workers, masks);
    }

    /// The same by `set`, portably if this processor lacks it, and on `n_workers` threads; for measurements.
    pub fn apply_by(&mut self, set: InstructionSet, n_workers: usize, masks: &[(Sign, MaskKey)]) {
        match self {
            Self::U16(lanes) => apply(lanes, set, n_workers, masks),
            Self::U32(lanes) => apply(lanes, set, n_workers, masks),
        }
    }
}

impl Zeroize for Lanes {
    fn zeroize(&mut self) {
        match self {
            Self::U16(lanes) => lanes.zeroize(),
            Self::U32(lanes) => lanes.zeroize(),
        }
    }
}

impl fmt::Debug for Lanes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Lanes({} values omitted)", self.len())
    }
}

/// Bytes of keystream from which on there is more than one worker: they take one about a millisecond.
const WORKERS_FROM: usize = 1 << 24;
/// A worker's range is a multiple of this many values, so of whole blocks: 16 KiB of u32, which stay in the first cache.
const TILE_LEN: usize = 4096;
/// Keys expanded at once: 256 of 176 bytes stay in the second cache.
const KEYS_AT_ONCE: usize = 256;
/// Blocks of keystream that the portable expansion holds at once: 2 KiB.
const KEYSTREAM_BLOCKS: usize = 128;

/// A lane of a vector: an integer of `LEN` bytes, little-endian, added modulo 2^(8 LEN).
pub(crate) trait Lane: Copy + Default + Send + Zeroize {
    /// The length of a lane in bytes.
    const LEN: usize = size_of::<Self>();

    /// Adds or subtracts as many lanes of `keystream` as `lanes` has.
    fn accumulate(lanes: &mut [Self], keystream: &[u8], sign: Sign);
}

macro_rules! lane {
    ($lane:ty) => {
        impl Lane for $lane {
            fn accumulate(lanes: &mut [Self], keystream: &[u8], sign: Sign) {
                let (keystream, _) = keystream.as_chunks::<{ size_of::<Self>() }>();
                match sign {
                    Sign::Plus => {
                        for (lane, bytes) in lanes.iter_mut().zip(keystream) {
                            *lane = lane.wrapping_add(Self::from_le_bytes(*bytes));
                        }
                    }
                    Sign::Minus => {
                        for (lane, bytes) in lanes.iter_mut().zip(keystream) {
                            *lane = lane.wrapping_sub(Self::from_le_bytes(*bytes));
                        }
                    }
                }
            }
        }
    };
}

lane!(u16);
lane!(u32);

/// Each worker owns a range of the vector and passes all keys over it, so that nothing is merged.
fn apply<L: Lane>(vector: &mut [L], set: InstructionSet, n_workers: usize, masks: &[(Sign, MaskKey)]) {
    let range_len = vector.len().div_ceil(n_workers.max(1)).next_multiple_of(TILE_LEN).max(TILE_LEN);
    let ranges = vector.chunks_mut(range_len).enumerate();
    workers::for_each(n_workers, ranges, |(i, range)| {
        apply_range(range, (i * range_len * L::LEN / 16) as u64, set, masks);
    });
}

/// Applies the masks from the block `first_block` of each on.
fn apply_range<L: Lane>(range: &mut [L], first_block: u64, set: InstructionSet, masks: &[(Sign, MaskKey)]) {
    for masks in masks.chunks(KEYS_AT_ONCE) {
        let expanded = |sign: Sign| {
            let keys = || masks.iter().filter(|(s, _)| *s == sign).map(|(_, key)| key.parts());
            // Expanded where they stay: a key that moves leaves a copy behind.
            let mut round_keys = vec![RoundKeys::ZERO; keys().count()];
            for (round_keys, (key, counter_high)) in round_keys.iter_mut().zip(keys()) {
                round_keys.expand(key, counter_high);
            }
            round_keys
        };
        if !accumulate(set, range, first_block, &expanded(Sign::Plus), &expanded(Sign::Minus)) {
            apply_portably(range, first_block, masks);
        }
    }
}

/// The oracle: through the `aes` and `ctr` crates. Tile by tile: a tile of the vector stays in the first cache while all
/// keys pass over it, and no keystream is stored beyond one tile's part.
fn apply_portably<L: Lane>(range: &mut [L], first_block: u64, masks: &[(Sign, MaskKey)]) {
    let mut keystream = Zeroizing::new([[0; 16]; KEYSTREAM_BLOCKS]);
    let mut streams: Vec<_> = masks.iter().map(|(sign, key)| (*sign, key.keystream(first_block))).collect();
    for tile in range.chunks_mut(TILE_LEN) {
        for (sign, stream) in &mut streams {
            for lanes in tile.chunks_mut(KEYSTREAM_BLOCKS * 16 / L::LEN) {
                // Only the range's last piece may end inside a block: all others are whole blocks, so that the
                // counter goes on where the next piece begins.
                let blocks = &mut keystream[..(lanes.len() * L::LEN).div_ceil(16)];
                let blocks: &mut [Block<Aes128Enc>] = Array::cast_slice_from_core_mut(blocks);
                stream.write_keystream_blocks(blocks);
                L::accumulate(lanes, Array::cast_slice_to_core(blocks).as_flattened(), *sign);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use aes::{
        Aes128,
        cipher::{BlockCipherEncrypt, KeyInit},
    };
    use ctr::cipher::StreamCipher;
    use eranos_base::{Entropy, OsEntropy, SeededEntropy};

    use super::*;

    fn bits(bits: u8) -> Bits {
        Bits::new(bits).expect("valid")
    }

    fn dimension(dimension: usize) -> Dimension {
        Dimension::new(dimension).expect("valid")
    }

    /// Adds the mask as PROTOCOL.md states the layout: one block at a time, from nothing but AES.
    fn apply_by_the_letter(vector: &mut Lanes, sign: Sign, key: &[u8; 24]) {
        let cipher = Aes128::new_from_slice(&key[..16]).expect("16 bytes");
        let byte = |at: usize| {
            let mut block = [0; 16];
            block[..8].copy_from_slice(&(at as u64 / 16).to_le_bytes());
            block[8..].copy_from_slice(&key[16..]);
            let mut block = Block::<Aes128>::from(block);
            cipher.encrypt_block(&mut block);
            block[at % 16]
        };
        match vector {
            Lanes::U16(lanes) => {
                for (i, lane) in lanes.iter_mut().enumerate() {
                    let mask = u16::from_le_bytes([byte(2 * i), byte(2 * i + 1)]);
                    *lane = if sign == Sign::Plus { lane.wrapping_add(mask) } else { lane.wrapping_sub(mask) };
                }
            }
            Lanes::U32(lanes) => {
                for (i, lane) in lanes.iter_mut().enumerate() {
                    let mask = u32::from_le_bytes([byte(4 * i), byte(4 * i + 1), byte(4 * i + 2), byte(4 * i + 3)]);
                    *lane = if sign == Sign::Plus { lane.wrapping_add(mask) } else { lane.wrapping_sub(mask) };
                }
            }
        }
    }

    #[test]
    fn expansion_follows_the_stated_layout_at_every_length() {
        let mut entropy = SeededEntropy::new(1);
        for (b, lengths) in [(16, [1, 7, 8, 9, 1023, 4097]), (32, [1, 3, 4, 5, 4095, 8200])] {
            for length in lengths {
                let keys: [[u8; 24]; 3] = [entropy.bytes(), entropy.bytes(), entropy.bytes()];
                let signs = [Sign::Plus, Sign::Minus, Sign::Minus];
                let (mut ours, mut by_the_letter) =
                    (Lanes::zeros(dimension(length), bits(b)), Lanes::zeros(dimension(length), bits(b)));
                let masks: Vec<_> =
                    signs.into_iter().zip(keys).map(|(sign, key)| (sign, MaskKey::from_bytes(key))).collect();
                ours.apply(&masks);
                for (sign, key) in signs.into_iter().zip(&keys) {
                    apply_by_the_letter(&mut by_the_letter, sign, key);
                }
                assert!(ours == by_the_letter, "b={b}, {length} values");
            }
        }
    }

    #[test]
    fn the_ctr_crate_is_the_oracle() {
        let key: [u8; 24] = SeededEntropy::new(2).bytes();
        let mut iv = [0; 16];
        iv[8..].copy_from_slice(&key[16..]);
        let mut stream = vec![0; 4 * 100_003];
        ctr::Ctr64LE::<Aes128>::new_from_slices(&key[..16], &iv).expect("lengths").apply_keystream(&mut stream);
        let expect: Vec<u32> = stream.as_chunks().0.iter().map(|bytes| u32::from_le_bytes(*bytes)).collect();
        for set in InstructionSet::available() {
            let mut ours = Lanes::zeros(dimension(100_003), bits(32));
            ours.apply_by(*set, 1, &[(Sign::Plus, MaskKey::from_bytes(key))]);
            assert!(ours == Lanes::U32(expect.clone()), "{set:?}");
        }
    }

    /// Any length at any alignment, from any block on, under any number of keys of both signs.
    fn check_every_set<L: Lane + PartialEq + From<u16>>(seed: u64) {
        let mut entropy = SeededEntropy::new(seed);
        let mut below = |n: usize| u64::from_le_bytes(entropy.bytes()) as usize % n;
        let (len, unaligned, n_keys) = ([10, 300, 9000][below(3)], below(33), [4, 40, 300][below(3)]);
        let (len, n_keys) = (below(len), below(n_keys));
        // The last one near the 2^32 blocks that a mask has at most: the counter has 64 bits.
        let first_block = [0, 1, 255, u64::from(u32::MAX) - 3][below(4)];
        let vector: Vec<L> = (0..unaligned + len).map(|_| L::from(below(1 << 16) as u16)).collect();
        let sign = |minus: usize| if minus == 1 { Sign::Minus } else { Sign::Plus };
        let signs: Vec<_> = (0..n_keys).map(|_| sign(below(2))).collect();
        let masks: Vec<_> = signs.into_iter().map(|sign| (sign, MaskKey::from_bytes(entropy.bytes()))).collect();
        let mut expect = vector.clone();
        apply_portably(&mut expect[unaligned..], first_block, &masks);
        for set in InstructionSet::available() {
            let mut ours = vector.clone();
            apply_range(&mut ours[unaligned..], first_block, *set, &masks);
            assert!(ours == expect, "{set:?}, seed {seed}: {len} lanes of {} bytes, {n_keys} keys", L::LEN);
        }
    }

    #[test]
    fn every_instruction_set_gives_the_same_bits() {
        let first_seed = u64::from_le_bytes(OsEntropy.bytes()) >> 16;
        for seed in first_seed..first_seed + 100 {
            check_every_set::<u16>(seed);
            check_every_set::<u32>(seed);
        }
    }

    #[test]
    fn any_number_of_workers_gives_the_same_bits() {
        Lanes::U32(Vec::new()).apply_by(InstructionSet::detect(), 2, &[]);
        let mut entropy = SeededEntropy::new(4);
        let keys: [[u8; 24]; 3] = [entropy.bytes(), entropy.bytes(), entropy.bytes()];
        let masks = keys.map(|key| (Sign::Plus, MaskKey::from_bytes(key)));
        for b in [16, 32] {
            for length in [1, 4095, 4097, 3 * TILE_LEN, 50_001] {
                let on = |n_workers| {
                    let mut vector = Lanes::zeros(dimension(length), bits(b));
                    vector.apply_by(InstructionSet::detect(), n_workers, &masks);
                    vector
                };
                for n_workers in [0, 2, 3, 7, 64] {
                    assert!(on(n_workers) == on(1), "b={b}, {length} values on {n_workers} threads");
                }
            }
        }
    }

    #[test]
    fn more_keys_than_are_expanded_at_once_all_count() {
        let mut entropy = SeededEntropy::new(3);
        let keys: Vec<[u8; 24]> = (0..KEYS_AT_ONCE + 3).map(|_| entropy.bytes()).collect();
        let with = |sign: Sign| keys.iter().map(move |key| (sign, MaskKey::from_bytes(*key))).collect::<Vec<_>>();
        let mut vector = Lanes::zeros(dimension(33), bits(20));
        vector.apply(&with(Sign::Plus));
        assert!(vector != Lanes::zeros(dimension(33), bits(20)));
        vector.apply(&with(Sign::Minus));
        assert!(vector == Lanes::zeros(dimension(33), bits(20)));
    }

    #[test]
    fn both_sides_of_a_pair_derive_one_key_and_every_input_changes_it() {
        let secret = |byte| AgreementSecret::from_bytes(&[byte; 32]);
        let (a, b) = (secret(1), secret(2));
        let (a_pk, b_pk) = (a.public(), b.public());
        let (r1, r2) = (Digest::of(b"r1"), Digest::of(b"r2"));
        let of_pair = |secret: &AgreementSecret, roster, own: (u16, _), peer: (u16, _)| {
            *MaskKey::of_pair(secret, roster, (Position(own.0), own.1), (Position(peer.0), peer.1)).expect("not zero").0
        };
        let key = of_pair(&a, &r1, (3, &a_pk), (7, &b_pk));
        assert_eq!(key, of_pair(&b, &r1, (7, &b_pk), (3, &a_pk)));
        assert_ne!(key, of_pair(&a, &r2, (3, &a_pk), (7, &b_pk)));
        assert_ne!(key, of_pair(&a, &r1, (3, &a_pk), (8, &b_pk)));
        assert_ne!(key, of_pair(&a, &r1, (7, &a_pk), (3, &b_pk)));
        let (seed, other_seed) = (Secret::new([9; 32]), Secret::new([8; 32]));
        let of_seed = |seed, roster, position| *MaskKey::of_seed(seed, roster, Position(position)).0;
        let key = of_seed(&seed, &r1, 3);
        assert_ne!(key, of_seed(&seed, &r1, 4));
        assert_ne!(key, of_seed(&seed, &r2, 3));
        assert_ne!(key, of_seed(&other_seed, &r1, 3));
    }

    /// n1 = 10, f = 3. u -> 1/u on the Montgomery curve adds the point of order 2, which every clamped scalar sends to
    /// the identity: X25519 gives the same for both. So three corrupt clients advertise the mirrors of three honest
    /// keys and sit on the victim's other side, where signs are opposite; the last three honest clients are declared
    /// dropped, and their masks rebuilt. Were masks expanded from the shared secret alone, the victim's vector would
    /// bear nothing but its self mask, which a survivor's seed removes.
    #[test]
    fn mirrored_keys_do_not_cancel_the_masks_of_honest_ones() {
        let victim = AgreementSecret::from_bytes(&[1; 32]);
        let (r1, victim_pk) = (Digest::of(b"r1"), victim.public());
        let mut left = Lanes::zeros(dimension(64), bits(32));
        let (mut bare, mut masks) = (Lanes::zeros(dimension(64), bits(32)), Vec::new());
        for honest in 0..3 {
            let honest_pk = AgreementSecret::from_bytes(&[2 + honest; 32]).public();
            let mirrored_pk = mirrored(&honest_pk);
            assert_ne!(honest_pk, mirrored_pk);
            let shared = victim.agree(&honest_pk).expect("not zero");
            assert_eq!(Some(&shared), victim.agree(&mirrored_pk).as_ref(), "the attack's premise");
            // The honest clients stand before the victim, at 3; their mirrors after it.
            for (peer, pk) in [(honest, honest_pk), (honest + 7, mirrored_pk)] {
                let peer = Position(peer.into());
                let own = (Position(3), &victim_pk);
                let sign = Sign::of_pair(own.0, peer);
                masks.push((sign, MaskKey::of_pair(&victim, &r1, own, (peer, &pk)).expect("not zero")));
                bare.apply(&[(sign, MaskKey(derive(&shared[..], r1.as_bytes(), &[PAIR_INFO])))]);
            }
        }
        left.apply(&masks);
        assert!(bare == Lanes::zeros(dimension(64), bits(32)), "the attack works on the shared secret alone");
        let Lanes::U32(left) = left else { panic!("32 bits") };
        assert!(left.iter().all(|lane| *lane != 0), "the masks cancel");
    }

    fn mirrored(key: &AgreementKey) -> AgreementKey {
        use num_bigint::BigUint;
        let p = (BigUint::from(1u8) << 255) - 19u8;
        let u = BigUint::from_bytes_le(key.as_bytes());
        let mut bytes = u.modpow(&(&p - 2u8), &p).to_bytes_le();
        bytes.resize(32, 0);
        AgreementKey::from_bytes(bytes.try_into().expect("32 bytes")).expect("canonical")
    }
}
