//! The rotation H D: D a public random sign vector of the round, H the Walsh-Hadamard matrix in natural (Sylvester)
//! order. In integers, additions only, so that it is exact and its inverse is itself up to a factor d.
//!
//! D's signs are the bits of the ChaCha20 keystream (RFC 8439) under the rotation seed as the key, zero nonce, block
//! counter from 0: coordinate i takes bit i mod 8, the least significant first, of byte floor(i/8), and a set bit means
//! -1.

use std::fmt;

use chacha20::{
    ChaCha20Rng,
    rand_core::{Rng, SeedableRng},
};

use rayon::prelude::*;

use crate::{groups, mechanism::Promise};

/// The public seed of a round's sign vector.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct RotationSeed(pub [u8; 32]);

impl fmt::Debug for RotationSeed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RotationSeed({:02x?})", self.0)
    }
}

/// Why a sum cannot be restored.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RestoreError {
    /// The sum has another length than the mechanism's vector.
    #[error("sum of {found} coordinates, expected {expected}")]
    Length {
        /// Its length.
        found: usize,
        /// d.
        expected: usize,
    },
    /// A coordinate does not fit the mechanism's bits.
    #[error("coordinate {index} of the sum is {found}, which exceeds {bits} bits")]
    Value {
        /// Which coordinate.
        index: usize,
        /// Its value.
        found: u32,
        /// b.
        bits: u8,
    },
}

/// v := H D v. `v` has a power of two of values, whose absolute sum must fit an `i64`.
pub fn rotate(v: &mut [i64], seed: &RotationSeed) {
    flip_signs(v, seed);
    walsh_hadamard(v);
}

/// v := D H v: the inverse of [`rotate`], up to a factor d.
pub fn rotate_back(v: &mut [i64], seed: &RotationSeed) {
    walsh_hadamard(v);
    flip_signs(v, seed);
}

/// Every value modulo 2^b, as it is masked.
///
/// # Panics
/// If `bits` exceeds 32.
pub fn reduce(v: &[i64], bits: u8) -> Vec<u32> {
    let mask = low_bits(bits);
    v.par_iter().map(|value| *value as u32 & mask).collect()
}

/// The coordinator's way back: from the sum modulo 2^b of the vectors of all `survivors` to the mean gradient over the
/// expected lot, or the mean update. Centre, H, D, times the mechanism's factor, drop the pad.
///
/// # Errors
/// If the sum is not of this mechanism.
pub fn restore(
    sum: &[u32],
    mechanism: &impl Promise,
    seed: &RotationSeed,
    survivors: u32,
) -> Result<Vec<f32>, RestoreError> {
    release(sum, mechanism, seed, survivors).map(|(mean, _)| mean)
}

/// [`restore`], and what was released beside the gradient or update.
///
/// # Errors
/// As there.
pub fn release(
    sum: &[u32],
    mechanism: &impl Promise,
    seed: &RotationSeed,
    survivors: u32,
) -> Result<(Vec<f32>, groups::Released), RestoreError> {
    let p = mechanism.common();
    let expected = p.d_pad as usize;
    if sum.len() != expected {
        return Err(RestoreError::Length { found: sum.len(), expected });
    }
    let mask = low_bits(p.bits);
    if let Some((index, found)) = sum.iter().copied().enumerate().find(|(_, value)| value & !mask != 0) {
        return Err(RestoreError::Value { index, found, bits: p.bits });
    }
    // Sign extension centres: values from 2^(b-1) on stand for negative ones.
    let unused = 32 - u32::from(p.bits);
    let mut centred: Vec<i64> = sum.par_iter().map(|value| i64::from((*value << unused) as i32 >> unused)).collect();
    rotate_back(&mut centred, seed);
    let (model, beside) = centred.split_at(p.n_parameters as usize);
    // The model's group was multiplied with the root of its share.
    let factor = mechanism.restoring_factor(survivors) / p.groups.model.root();
    let mean = model.par_iter().map(|value| (*value as f64 * factor) as f32).collect();
    Ok((mean, groups::Released::of(beside, mechanism, survivors)))
}

/// v := D v.
fn flip_signs(v: &mut [i64], seed: &RotationSeed) {
    let mut keystream = vec![0; v.len().div_ceil(8)];
    ChaCha20Rng::from_seed(seed.0).fill_bytes(&mut keystream);
    v.par_chunks_mut(8 * BLOCK_LEN).zip(keystream.par_chunks(BLOCK_LEN)).for_each(|(v, bytes)| {
        for (eight, byte) in v.chunks_mut(8).zip(bytes) {
            for (bit, value) in eight.iter_mut().enumerate() {
                let sign = -i64::from(byte >> bit & 1);
                *value = (*value ^ sign) - sign;
            }
        }
    });
}

/// v := H v in place, on the threads of the pool it is called on.
///
/// # Panics
/// If the length is not a power of two.
pub fn walsh_hadamard(v: &mut [i64]) {
    assert!(v.len().is_power_of_two(), "H exists for powers of two");
    // Two levels at a time, a half of the memory traffic; then each quarter alone, so that the inner levels stay in the cache.
    if v.len() >= 4 * LEAF_LEN {
        let (low, high) = v.split_at_mut(v.len() / 2);
        let (a, b) = low.split_at_mut(low.len() / 2);
        let (c, d) = high.split_at_mut(high.len() / 2);
        let blocks = a.par_chunks_mut(BLOCK_LEN).zip(b.par_chunks_mut(BLOCK_LEN));
        let blocks = blocks.zip(c.par_chunks_mut(BLOCK_LEN).zip(d.par_chunks_mut(BLOCK_LEN)));
        blocks.for_each(|((a, b), (c, d))| butterflies_of_four(a, b, c, d));
        [a, b, c, d].into_par_iter().for_each(walsh_hadamard);
    } else if v.len() > LEAF_LEN {
        let (low, high) = v.split_at_mut(v.len() / 2);
        butterflies(low, high);
        walsh_hadamard(low);
        walsh_hadamard(high);
    } else {
        leaf(v);
    }
}

fn butterflies(a: &mut [i64], b: &mut [i64]) {
    for (x, y) in a.iter_mut().zip(b) {
        (*x, *y) = (*x + *y, *x - *y);
    }
}

fn butterflies_of_four(a: &mut [i64], b: &mut [i64], c: &mut [i64], d: &mut [i64]) {
    for (((a, b), c), d) in a.iter_mut().zip(b).zip(c).zip(d) {
        let (sum_ac, difference_ac, sum_bd, difference_bd) = (*a + *c, *a - *c, *b + *d, *b - *d);
        *a = sum_ac + sum_bd;
        *b = sum_ac - sum_bd;
        *c = difference_ac + difference_bd;
        *d = difference_ac - difference_bd;
    }
}

fn leaf(v: &mut [i64]) {
    let mut half = v.len() / 2;
    while half >= 4 {
        for block in v.chunks_exact_mut(2 * half) {
            let (low, high) = block.split_at_mut(half);
            butterflies(low, high);
        }
        half /= 2;
    }
    if half == 2 {
        for four in v.chunks_exact_mut(4) {
            if let [a, b, c, d] = four {
                let (sum_ac, difference_ac, sum_bd, difference_bd) = (*a + *c, *a - *c, *b + *d, *b - *d);
                (*a, *b) = (sum_ac + sum_bd, sum_ac - sum_bd);
                (*c, *d) = (difference_ac + difference_bd, difference_ac - difference_bd);
            }
        }
    } else if half == 1 {
        for two in v.chunks_exact_mut(2) {
            if let [a, b] = two {
                (*a, *b) = (*a + *b, *a - *b);
            }
        }
    }
}

/// The number whose low `bits` bits are set.
fn low_bits(bits: u8) -> u32 {
    assert!(bits <= 32, "a lane has 32 bits");
    u32::MAX.checked_shr(32 - u32::from(bits)).unwrap_or(0)
}

/// Values that fit the first-level cache beside other things: 16 KiB.
const LEAF_LEN: usize = 1 << 11;
/// What one task takes, at the least: values, or bytes of eight signs.
const BLOCK_LEN: usize = 1 << 11;

#[cfg(test)]
mod tests {
    use eranos_base::{Entropy, SeededEntropy};

    use super::*;

    fn random(len: usize, seed: u64) -> Vec<i64> {
        let mut entropy = SeededEntropy::new(seed);
        (0..len).map(|_| i64::from_le_bytes(entropy.bytes()) >> 30).collect()
    }

    #[test]
    fn the_transform_equals_its_definition() {
        for log_len in 0..=13 {
            let len = 1usize << log_len;
            let v = random(len, log_len);
            let mut fast = v.clone();
            walsh_hadamard(&mut fast);
            // Every row at small sizes, some at large ones.
            for row in (0..len).step_by((len / 64).max(1)) {
                // H[i][j] = (-1)^popcount(i & j), the Sylvester order.
                let sum: i64 =
                    v.iter().enumerate().map(|(j, x)| if (row & j).count_ones() % 2 == 0 { *x } else { -x }).sum();
                assert_eq!(fast[row], sum, "row {row} of {len}");
            }
        }
    }

    #[test]
    fn the_rotation_is_orthogonal_up_to_scale_and_inverted_exactly() {
        for len in [1usize, 2, 64, 1 << 12, 1 << 17] {
            let v: Vec<i64> = random(len, 9).into_iter().map(|x| x >> 8).collect();
            let seed = RotationSeed([7; 32]);
            let mut rotated = v.clone();
            rotate(&mut rotated, &seed);
            let squared = |v: &[i64]| v.iter().map(|x| i128::from(*x) * i128::from(*x)).sum::<i128>();
            assert_eq!(squared(&rotated), squared(&v) * len as i128);
            rotate_back(&mut rotated, &seed);
            assert!(rotated.iter().zip(&v).all(|(back, x)| *back == x * len as i64));
        }
    }

    #[test]
    fn the_signs_are_the_keystream_of_rfc_8439() {
        // RFC 8439, appendix A.1, test vector 1: key, nonce and counter zero give 76 b8 e0 ad ...
        let mut v = vec![1; 32];
        flip_signs(&mut v, &RotationSeed([0; 32]));
        let bits: Vec<u8> =
            v.chunks(8).map(|c| c.iter().rev().fold(0, |byte, s| byte << 1 | u8::from(*s == -1))).collect();
        assert_eq!(bits, [0x76, 0xb8, 0xe0, 0xad]);
    }

    #[test]
    fn another_seed_is_another_rotation() {
        let rotated = |seed| {
            let mut v = random(64, 1);
            rotate(&mut v, &RotationSeed([seed; 32]));
            v
        };
        assert_eq!(rotated(1), rotated(1));
        assert_ne!(rotated(1), rotated(2));
    }

    #[test]
    fn reduction_keeps_the_value_modulo_the_modulus() {
        assert_eq!(reduce(&[0, 1, -1, 1 << 22, -(1 << 22), 1 << 40, i64::MIN], 23), {
            [0, 1, (1 << 23) - 1, 1 << 22, 1 << 22, 0, 0]
        });
        assert_eq!(reduce(&[-1], 32), [u32::MAX]);
    }
}
