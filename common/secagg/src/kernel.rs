//! The hot loop: AES-128 in counter mode, added to the lanes of a vector without the keystream ever being stored.
//!
//! A group of blocks of the vector is held in registers while all keys pass over it; so are the counters, which all
//! keys share, because the half of the counter block that differs is folded into the first round key. What is left of
//! a key are its eleven round keys, read once per group, and ten AES rounds a block: the hardware's limit, which
//! `cargo bench -p eranos-secagg --bench mask` measures beside it.
//!
//! `unsafe` stands here for vector loads and stores through pointers, and for calling code compiled for instructions
//! that were found at run time. The loops are the same text for every instruction set; those of AArch64 are checked by
//! the same tests on a machine that has them. Without any, [`crate::mask`] expands through the `aes` and `ctr` crates,
//! which the tests hold all others against.

use aes::{
    Block,
    hazmat::{cipher_round, inv_mix_columns},
};
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::mask::{Lane, Sign};

/// Which instructions are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InstructionSet {
    /// AVX-512 with VAES: four blocks in a register.
    #[cfg(target_arch = "x86_64")]
    Vaes512,
    /// SSE2 with AES-NI: one block in a register.
    #[cfg(target_arch = "x86_64")]
    AesNi,
    /// NEON with AES: one block in a register.
    #[cfg(all(target_arch = "aarch64", target_endian = "little"))]
    Neon,
    /// The `aes` and `ctr` crates, and what the compiler makes of a plain addition.
    Portable,
}

impl InstructionSet {
    /// The best that this processor has.
    pub fn detect() -> Self {
        Self::available()[0]
    }

    /// All that this processor has, the best first.
    pub fn available() -> &'static [Self] {
        #[cfg(target_arch = "x86_64")]
        {
            let aes_ni = is_x86_feature_detected!("aes") && is_x86_feature_detected!("sse2");
            let avx512 = is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw");
            if aes_ni && avx512 && is_x86_feature_detected!("vaes") {
                return &[Self::Vaes512, Self::AesNi, Self::Portable];
            }
            if aes_ni {
                return &[Self::AesNi, Self::Portable];
            }
        }
        #[cfg(all(target_arch = "aarch64", target_endian = "little"))]
        if std::arch::is_aarch64_feature_detected!("neon") && std::arch::is_aarch64_feature_detected!("aes") {
            return &[Self::Neon, Self::Portable];
        }
        &[Self::Portable]
    }
}

/// The round keys of AES-128, the first one with bytes 8..16 of the counter block folded in. Wiped when dropped.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
#[repr(align(16))]
pub(crate) struct RoundKeys([[u8; 16]; Self::COUNT]);

impl RoundKeys {
    const COUNT: usize = 11;

    /// Not yet a key.
    pub(crate) const ZERO: Self = Self([[0; 16]; Self::COUNT]);

    /// Expands `key` (FIPS 197, section 5.2), in place so that no copy of it stays anywhere.
    pub(crate) fn expand(&mut self, key: &[u8; 16], counter_high: &[u8; 8]) {
        let zero = Block::default();
        let mut rcon = 1u8;
        self.0[0] = *key;
        for round in 1..Self::COUNT {
            let (done, rest) = self.0.split_at_mut(round);
            let (last, next) = (&done[round - 1], &mut rest[0]);
            // A round shifts rows, substitutes bytes and mixes columns. Of four equal columns no shift is seen, and the
            // mixing is undone: what is left is SubWord of RotWord, without a table.
            let rotated = [last[13], last[14], last[15], last[12]];
            let mut word = Block::default();
            word.chunks_exact_mut(4).for_each(|column| column.copy_from_slice(&rotated));
            cipher_round(&mut word, &zero);
            inv_mix_columns(&mut word);
            word[0] ^= rcon;
            rcon = (rcon << 1) ^ (0x1b & (rcon >> 7).wrapping_neg());
            for i in 0..16 {
                next[i] = last[i] ^ if i < 4 { word[i] } else { next[i - 4] };
            }
            word.zeroize();
        }
        for (byte, high) in self.0[0][8..].iter_mut().zip(counter_high) {
            *byte ^= high;
        }
    }
}

/// Adds the keystreams of `plus` to `vector` and subtracts those of `minus`, from the block `first_block` of each on.
/// False, and nothing done, if `set` is [`InstructionSet::Portable`] or not of this processor.
#[must_use]
pub(crate) fn accumulate<L: Lane>(
    set: InstructionSet,
    vector: &mut [L],
    first_block: u64,
    plus: &[RoundKeys],
    minus: &[RoundKeys],
) -> bool {
    if !InstructionSet::available().contains(&set) {
        return false;
    }
    match set {
        // SAFETY: the processor has the instructions, as was just seen.
        #[cfg(target_arch = "x86_64")]
        InstructionSet::Vaes512 => unsafe { vaes512::accumulate(vector, first_block, plus, minus) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        InstructionSet::AesNi => unsafe { aes_ni::accumulate(vector, first_block, plus, minus) },
        // SAFETY: as above.
        #[cfg(all(target_arch = "aarch64", target_endian = "little"))]
        InstructionSet::Neon => unsafe { neon::accumulate(vector, first_block, plus, minus) },
        InstructionSet::Portable => return false,
    }
    true
}

/// Independent chains of AES rounds and nothing else: what no expansion can be faster than. Gives the number of blocks
/// that went through `n_rounds` rounds each, none if `set` has no rounds of its own; for measurements.
pub fn aes_rounds(set: InstructionSet, n_rounds: usize) -> usize {
    if !InstructionSet::available().contains(&set) {
        return 0;
    }
    match set {
        // SAFETY: the processor has the instructions, as was just seen.
        #[cfg(target_arch = "x86_64")]
        InstructionSet::Vaes512 => unsafe { vaes512::rounds(n_rounds) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        InstructionSet::AesNi => unsafe { aes_ni::rounds(n_rounds) },
        // SAFETY: as above.
        #[cfg(all(target_arch = "aarch64", target_endian = "little"))]
        InstructionSet::Neon => unsafe { neon::rounds(n_rounds) },
        InstructionSet::Portable => 0,
    }
}

/// The loops, for a module that has `Vector`, `BLOCKS` (of a vector), `GROUP` (vectors held at once), and the functions
/// `zero`, `load`, `store`, `broadcast`, `counters`, `xor`, `round`, `last_round` and `add`.
macro_rules! loops {
    ($features:literal) => {
        /// See [`super::accumulate`].
        #[target_feature(enable = $features)]
        pub(super) fn accumulate<L: Lane>(vector: &mut [L], first_block: u64, plus: &[RoundKeys], minus: &[RoundKeys]) {
            let group_len = GROUP * BLOCKS * 16 / size_of::<L>();
            let mut block = first_block;
            let mut groups = vector.chunks_exact_mut(group_len);
            for group in &mut groups {
                accumulate_group(group, block, plus, minus);
                block += (GROUP * BLOCKS) as u64;
            }
            let rest = groups.into_remainder();
            if !rest.is_empty() {
                // A group as long as any: of 16-bit lanes.
                let mut padded = [L::default(); GROUP * BLOCKS * 16 / 2];
                padded[..rest.len()].copy_from_slice(rest);
                accumulate_group(&mut padded[..group_len], block, plus, minus);
                rest.copy_from_slice(&padded[..rest.len()]);
                padded.zeroize();
            }
        }

        /// `group` has exactly as many lanes as fit into `GROUP` vectors; a lane is an integer, all of its bytes are
        /// its value's.
        #[inline]
        #[target_feature(enable = $features)]
        fn accumulate_group<L: Lane>(group: &mut [L], block: u64, plus: &[RoundKeys], minus: &[RoundKeys]) {
            let lanes = BLOCKS * 16 / size_of::<L>();
            assert_eq!(group.len(), GROUP * lanes);
            let (mut sums, mut counts) = ([zero(); GROUP], [zero(); GROUP]);
            for i in 0..GROUP {
                // SAFETY: the vector's bytes are those of lanes i * lanes to (i + 1) * lanes, which the group has.
                sums[i] = unsafe { load(group.as_ptr().add(i * lanes).cast()) };
                counts[i] = counters(block + (i * BLOCKS) as u64);
            }
            for key in plus {
                let masks = keystream(&counts, key);
                for i in 0..GROUP {
                    sums[i] = add::<L>(sums[i], masks[i], Sign::Plus);
                }
            }
            for key in minus {
                let masks = keystream(&counts, key);
                for i in 0..GROUP {
                    sums[i] = add::<L>(sums[i], masks[i], Sign::Minus);
                }
            }
            for i in 0..GROUP {
                // SAFETY: as where they were loaded; the group is borrowed mutably.
                unsafe { store(group.as_mut_ptr().add(i * lanes).cast(), sums[i]) };
            }
        }

        #[inline]
        #[target_feature(enable = $features)]
        fn keystream(counts: &[Vector; GROUP], key: &RoundKeys) -> [Vector; GROUP] {
            let mut states = *counts;
            let first = broadcast(&key.0[0]);
            for i in 0..GROUP {
                states[i] = xor(states[i], first);
            }
            for round_key in &key.0[1..RoundKeys::COUNT - 1] {
                let round_key = broadcast(round_key);
                for i in 0..GROUP {
                    states[i] = round(states[i], round_key);
                }
            }
            let last = broadcast(&key.0[RoundKeys::COUNT - 1]);
            for i in 0..GROUP {
                states[i] = last_round(states[i], last);
            }
            states
        }

        /// See [`aes_rounds`].
        #[target_feature(enable = $features)]
        pub(super) fn rounds(n_rounds: usize) -> usize {
            // They keep the unit busy, and none leaves its register, as twice as many would with 16 of them.
            let mut states = [zero(); GROUP];
            for i in 0..GROUP {
                states[i] = counters((i * BLOCKS) as u64);
            }
            let key = counters(u64::MAX);
            for _ in 0..n_rounds {
                for i in 0..GROUP {
                    states[i] = round(states[i], key);
                }
            }
            let mut all = zero();
            for i in 0..GROUP {
                all = xor(all, states[i]);
            }
            std::hint::black_box(all);
            GROUP * BLOCKS
        }
    };
}

#[cfg(target_arch = "x86_64")]
mod vaes512 {
    use core::arch::x86_64::*;

    use super::{Lane, RoundKeys, Sign, Zeroize};

    type Vector = __m512i;
    const BLOCKS: usize = 4;
    /// Eight sums, eight states, eight counters: of 32 registers.
    const GROUP: usize = 8;

    loops!("avx512f,avx512bw,vaes");

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn zero() -> Vector {
        _mm512_setzero_si512()
    }

    /// # Safety
    /// 64 bytes can be read at `from`.
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn load(from: *const u8) -> Vector {
        // SAFETY: by the contract; any alignment will do.
        unsafe { _mm512_loadu_si512(from.cast()) }
    }

    /// # Safety
    /// 64 bytes can be written at `to`.
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn store(to: *mut u8, vector: Vector) {
        // SAFETY: by the contract; any alignment will do.
        unsafe { _mm512_storeu_si512(to.cast(), vector) };
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn broadcast(block: &[u8; 16]) -> Vector {
        // SAFETY: a block has the 16 bytes.
        _mm512_broadcast_i32x4(unsafe { _mm_loadu_si128(block.as_ptr().cast()) })
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn counters(first: u64) -> Vector {
        _mm512_add_epi64(_mm512_set_epi64(0, 3, 0, 2, 0, 1, 0, 0), _mm512_maskz_set1_epi64(0b0101_0101, first as i64))
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn xor(a: Vector, b: Vector) -> Vector {
        _mm512_xor_si512(a, b)
    }

    #[inline]
    #[target_feature(enable = "avx512f,vaes")]
    fn round(state: Vector, key: Vector) -> Vector {
        _mm512_aesenc_epi128(state, key)
    }

    #[inline]
    #[target_feature(enable = "avx512f,vaes")]
    fn last_round(state: Vector, key: Vector) -> Vector {
        _mm512_aesenclast_epi128(state, key)
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    fn add<L: Lane>(sum: Vector, mask: Vector, sign: Sign) -> Vector {
        match (size_of::<L>(), sign) {
            (2, Sign::Plus) => _mm512_add_epi16(sum, mask),
            (2, Sign::Minus) => _mm512_sub_epi16(sum, mask),
            (_, Sign::Plus) => _mm512_add_epi32(sum, mask),
            (_, Sign::Minus) => _mm512_sub_epi32(sum, mask),
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod aes_ni {
    use core::arch::x86_64::*;

    use super::{Lane, RoundKeys, Sign, Zeroize};

    type Vector = __m128i;
    const BLOCKS: usize = 1;
    /// As many rounds as are under way at once on the processors of the last ten years; half of the 16 registers.
    const GROUP: usize = 8;

    loops!("sse2,aes");

    #[inline]
    #[target_feature(enable = "sse2")]
    fn zero() -> Vector {
        _mm_setzero_si128()
    }

    /// # Safety
    /// 16 bytes can be read at `from`.
    #[inline]
    #[target_feature(enable = "sse2")]
    unsafe fn load(from: *const u8) -> Vector {
        // SAFETY: by the contract; any alignment will do.
        unsafe { _mm_loadu_si128(from.cast()) }
    }

    /// # Safety
    /// 16 bytes can be written at `to`.
    #[inline]
    #[target_feature(enable = "sse2")]
    unsafe fn store(to: *mut u8, vector: Vector) {
        // SAFETY: by the contract; any alignment will do.
        unsafe { _mm_storeu_si128(to.cast(), vector) };
    }

    #[inline]
    #[target_feature(enable = "sse2")]
    fn broadcast(block: &[u8; 16]) -> Vector {
        // SAFETY: a block has the 16 bytes.
        unsafe { load(block.as_ptr()) }
    }

    #[inline]
    #[target_feature(enable = "sse2")]
    fn counters(first: u64) -> Vector {
        _mm_set_epi64x(0, first as i64)
    }

    #[inline]
    #[target_feature(enable = "sse2")]
    fn xor(a: Vector, b: Vector) -> Vector {
        _mm_xor_si128(a, b)
    }

    #[inline]
    #[target_feature(enable = "sse2,aes")]
    fn round(state: Vector, key: Vector) -> Vector {
        _mm_aesenc_si128(state, key)
    }

    #[inline]
    #[target_feature(enable = "sse2,aes")]
    fn last_round(state: Vector, key: Vector) -> Vector {
        _mm_aesenclast_si128(state, key)
    }

    #[inline]
    #[target_feature(enable = "sse2")]
    fn add<L: Lane>(sum: Vector, mask: Vector, sign: Sign) -> Vector {
        match (size_of::<L>(), sign) {
            (2, Sign::Plus) => _mm_add_epi16(sum, mask),
            (2, Sign::Minus) => _mm_sub_epi16(sum, mask),
            (_, Sign::Plus) => _mm_add_epi32(sum, mask),
            (_, Sign::Minus) => _mm_sub_epi32(sum, mask),
        }
    }
}

/// `AESE` adds its key before it substitutes, so a round with the key after it is one with a key of zero and an
/// exclusive or.
#[cfg(all(target_arch = "aarch64", target_endian = "little"))]
mod neon {
    use core::arch::aarch64::*;

    use super::{Lane, RoundKeys, Sign, Zeroize};

    type Vector = uint8x16_t;
    const BLOCKS: usize = 1;
    /// Eight sums, eight states, eight counters: of 32 registers.
    const GROUP: usize = 8;

    loops!("neon,aes");

    #[inline]
    #[target_feature(enable = "neon")]
    fn zero() -> Vector {
        vdupq_n_u8(0)
    }

    /// # Safety
    /// 16 bytes can be read at `from`.
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn load(from: *const u8) -> Vector {
        // SAFETY: by the contract; any alignment will do.
        unsafe { vld1q_u8(from) }
    }

    /// # Safety
    /// 16 bytes can be written at `to`.
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn store(to: *mut u8, vector: Vector) {
        // SAFETY: by the contract; any alignment will do.
        unsafe { vst1q_u8(to, vector) };
    }

    #[inline]
    #[target_feature(enable = "neon")]
    fn broadcast(block: &[u8; 16]) -> Vector {
        // SAFETY: a block has the 16 bytes.
        unsafe { load(block.as_ptr()) }
    }

    #[inline]
    #[target_feature(enable = "neon")]
    fn counters(first: u64) -> Vector {
        vreinterpretq_u8_u64(vsetq_lane_u64::<0>(first, vdupq_n_u64(0)))
    }

    #[inline]
    #[target_feature(enable = "neon")]
    fn xor(a: Vector, b: Vector) -> Vector {
        veorq_u8(a, b)
    }

    #[inline]
    #[target_feature(enable = "neon,aes")]
    fn round(state: Vector, key: Vector) -> Vector {
        veorq_u8(vaesmcq_u8(vaeseq_u8(state, zero())), key)
    }

    #[inline]
    #[target_feature(enable = "neon,aes")]
    fn last_round(state: Vector, key: Vector) -> Vector {
        veorq_u8(vaeseq_u8(state, zero()), key)
    }

    #[inline]
    #[target_feature(enable = "neon")]
    fn add<L: Lane>(sum: Vector, mask: Vector, sign: Sign) -> Vector {
        let (sum_16, mask_16) = (vreinterpretq_u16_u8(sum), vreinterpretq_u16_u8(mask));
        let (sum_32, mask_32) = (vreinterpretq_u32_u8(sum), vreinterpretq_u32_u8(mask));
        match (size_of::<L>(), sign) {
            (2, Sign::Plus) => vreinterpretq_u8_u16(vaddq_u16(sum_16, mask_16)),
            (2, Sign::Minus) => vreinterpretq_u8_u16(vsubq_u16(sum_16, mask_16)),
            (_, Sign::Plus) => vreinterpretq_u8_u32(vaddq_u32(sum_32, mask_32)),
            (_, Sign::Minus) => vreinterpretq_u8_u32(vsubq_u32(sum_32, mask_32)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_keys_are_those_of_fips_197_and_are_wiped() {
        // Appendix A.1: the last of the expanded key's words.
        let key = *b"\x2b\x7e\x15\x16\x28\xae\xd2\xa6\xab\xf7\x15\x88\x09\xcf\x4f\x3c";
        let mut round_keys = RoundKeys::ZERO;
        round_keys.expand(&key, &[0; 8]);
        assert_eq!(hex::encode(round_keys.0[10]), "d014f9a8c9ee2589e13f0cc8b6630ca6");
        round_keys.zeroize();
        assert_eq!(round_keys.0[10], [0; 16]);
    }
}
