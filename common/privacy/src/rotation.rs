//! The rotation H D: D a public random sign vector of the round, H a symmetric matrix of +1 and -1 whose rows are
//! orthogonal (a Hadamard matrix). In integers, additions only, so that it is exact and its inverse is itself up to a
//! factor d.
//!
//! Of which orders there is an H is decided by [`padded_len`]: 2^m, 12 2^j and 20 2^j, so that nine values or more are padded
//! by a third at most. S(2^m) is the Walsh-Hadamard matrix in natural (Sylvester) order, S(n)\[i\]\[j\] =
//! (-1)^popcount(i & j). P(12) and P(20) are those of Paley 1933 ("On orthogonal matrices", the construction for a prime q that
//! is 3 modulo 4) for q = 11 and 19, their rows put in an order and given signs that make them symmetric: the first row and
//! column are +1, and elsewhere P(q + 1)\[i\]\[j\] is -1 where i + j - 2 is 0 or a square modulo q, else +1. Where
//! d = k 2^j, with k = 12 or 20 and b = min(j, 7), H is the Kronecker product S(2^(j - b)) x P(k) x S(2^b): the middle one's
//! rows are next to each other, in the first-level cache.
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

/// d: the least order of H that `len` values fit, the rest of the vector being zero.
///
/// Orders of 28 2^j, or with two odd factors, would save another eighth at most, and each a construction of its own.
pub const fn padded_len(len: u32) -> u64 {
    let mut least = (len as u64).next_power_of_two();
    let mut i = 0;
    while i < PALEY_ORDERS.len() {
        let order = PALEY_ORDERS[i] as u64;
        let padded = (len as u64).div_ceil(order).next_power_of_two() * order;
        if padded < least {
            least = padded;
        }
        i += 1;
    }
    least
}

/// v := H D v. There is an H of `v`'s length, and the absolute sum of the values fits an `i64`: so does then every
/// intermediate sum, which has some of the values in it, each once, with either sign.
pub fn rotate(v: &mut [i64], seed: &RotationSeed) {
    flip_signs(v, seed);
    hadamard(v);
}

/// v := D H v: the inverse of [`rotate`], up to a factor d.
pub fn rotate_back(v: &mut [i64], seed: &RotationSeed) {
    hadamard(v);
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
/// If there is no H of that order.
pub fn hadamard(v: &mut [i64]) {
    let len = v.len();
    let middle = match len.checked_shr(len.trailing_zeros()) {
        Some(1) => 1,
        Some(3) if len.is_multiple_of(12) => 12,
        Some(5) if len.is_multiple_of(20) => 20,
        _ => panic!("there is no H of order {len}"),
    };
    transform(v, middle);
}

/// v := H v, the middle one of H's factors being P(`middle`), or 1.
fn transform(v: &mut [i64], middle: usize) {
    if v.len() <= SERIAL_LEN {
        return pulp::Arch::new().dispatch(Serial { v, middle });
    }
    // Two levels at a time, a half of the memory traffic; then each quarter alone, so that the inner levels stay in the cache.
    let (low, high) = v.split_at_mut(v.len() / 2);
    let (a, b) = low.split_at_mut(low.len() / 2);
    let (c, d) = high.split_at_mut(high.len() / 2);
    let blocks = a.par_chunks_mut(BLOCK_LEN).zip(b.par_chunks_mut(BLOCK_LEN));
    let blocks = blocks.zip(c.par_chunks_mut(BLOCK_LEN).zip(d.par_chunks_mut(BLOCK_LEN)));
    blocks.for_each(|((a, b), (c, d))| pulp::Arch::new().dispatch(Four { a, b, c, d }));
    [a, b, c, d].into_par_iter().for_each(|quarter| transform(quarter, middle));
}

/// [`transform`] on one thread, for `pulp`, which compiles it for each width of vectors.
struct Serial<'a> {
    v: &'a mut [i64],
    middle: usize,
}

impl pulp::NullaryFnOnce for Serial<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Self { v, middle } = self;
        let leaf_len = if middle == 1 { LEAF_LEN } else { middle * ROW_LEN_MAX };
        let mut len = v.len();
        while len > leaf_len {
            let n_parts = if len >= 4 * leaf_len { 4 } else { 2 };
            for block in v.chunks_exact_mut(len) {
                levels(block, n_parts);
            }
            len /= n_parts;
        }
        for block in v.chunks_exact_mut(len) {
            match middle {
                12 => paley(block, &SQUARES_11),
                20 => paley(block, &SQUARES_19),
                _ => sylvester(block),
            }
        }
    }
}

/// [`butterflies_of_four`] for `pulp`.
struct Four<'a> {
    a: &'a mut [i64],
    b: &'a mut [i64],
    c: &'a mut [i64],
    d: &'a mut [i64],
}

impl pulp::NullaryFnOnce for Four<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        butterflies_of_four(self.a, self.b, self.c, self.d);
    }
}

/// v := (S(n) x 1) v, for n = 2 or 4.
#[inline(always)]
fn levels(v: &mut [i64], n: usize) {
    let (low, high) = v.split_at_mut(v.len() / 2);
    if n == 2 {
        return butterflies(low, high);
    }
    let (a, b) = low.split_at_mut(low.len() / 2);
    let (c, d) = high.split_at_mut(high.len() / 2);
    butterflies_of_four(a, b, c, d);
}

#[inline(always)]
fn butterflies(a: &mut [i64], b: &mut [i64]) {
    for (x, y) in a.iter_mut().zip(b) {
        (*x, *y) = (*x + *y, *x - *y);
    }
}

#[inline(always)]
fn butterflies_of_four(a: &mut [i64], b: &mut [i64], c: &mut [i64], d: &mut [i64]) {
    for (((a, b), c), d) in a.iter_mut().zip(b).zip(c).zip(d) {
        (*a, *b, *c, *d) = four(*a, *b, *c, *d);
    }
}

/// S(4) of four values.
#[inline(always)]
fn four(a: i64, b: i64, c: i64, d: i64) -> (i64, i64, i64, i64) {
    let (sum_ac, difference_ac, sum_bd, difference_bd) = (a + c, a - c, b + d, b - d);
    (sum_ac + sum_bd, sum_ac - sum_bd, difference_ac + difference_bd, difference_ac - difference_bd)
}

/// v := S v, in the first-level cache.
#[inline(always)]
fn sylvester(v: &mut [i64]) {
    let mut len = v.len();
    while len > 16 || (len > 1 && v.len() < 16) {
        let n_parts = if len >= 64 { 4 } else { 2 };
        for block in v.chunks_exact_mut(len) {
            levels(block, n_parts);
        }
        len /= n_parts;
    }
    // The last four levels in vectors that are loaded once.
    if len == 16 {
        for block in v.chunks_exact_mut(16) {
            if let Some(block) = block.first_chunk_mut() {
                sixteen(block);
            }
        }
    }
}

/// v := S(16) v.
#[inline(always)]
fn sixteen(v: &mut [i64; 16]) {
    for i in 0..4 {
        (v[i], v[i + 4], v[i + 8], v[i + 12]) = four(v[i], v[i + 4], v[i + 8], v[i + 12]);
    }
    for i in [0, 4, 8, 12] {
        (v[i], v[i + 1], v[i + 2], v[i + 3]) = four(v[i], v[i + 1], v[i + 2], v[i + 3]);
    }
}

/// v := (P(q + 1) x S) v, in the first-level cache: q + 1 rows of which each is transformed, then all of them together.
/// `squares` are 0 and the squares modulo q = 2 N - 1.
#[inline(always)]
fn paley<const N: usize>(v: &mut [i64], squares: &[usize; N]) {
    let row_len = v.len() / (2 * N);
    // Loops: what `for_each` is given would be compiled by itself, for the narrowest vectors.
    for row in v.chunks_exact_mut(row_len) {
        sylvester(row);
    }
    if row_len.is_multiple_of(LANES) {
        across_rows::<N, LANES>(v, squares, row_len);
    } else {
        across_rows::<N, 1>(v, squares, row_len);
    }
}

/// v := (P(q + 1) x 1) v, `L` columns at once, which divide `row_len`.
#[inline(always)]
fn across_rows<const N: usize, const L: usize>(v: &mut [i64], squares: &[usize; N], row_len: usize) {
    let q = 2 * N - 1;
    // All rows but the first, twice, so that every cyclic shift of them is a slice.
    let mut others = [[0; L]; 2 * ORDER_MAX];
    for at in (0..row_len).step_by(L) {
        let mut total = [0; L];
        for (i, row) in v.chunks_exact(row_len).enumerate() {
            let Some(lanes) = row[at..].first_chunk::<L>() else { continue };
            add(&mut total, lanes);
            if i > 0 {
                others[i - 1] = *lanes;
                others[i - 1 + q] = *lanes;
            }
        }
        for (i, row) in v.chunks_exact_mut(row_len).enumerate() {
            let Some(lanes) = row[at..].first_chunk_mut::<L>() else { continue };
            *lanes = total;
            if i > 0 {
                // What row i of P(q + 1) subtracts: where i + j - 2 is one of the squares. It is in the total already.
                let shifted = &others[q + 1 - i..2 * q + 1 - i];
                let mut minus = [0; L];
                for square in squares {
                    add(&mut minus, &shifted[*square]);
                }
                for (value, minus) in lanes.iter_mut().zip(minus) {
                    *value = *value - minus - minus;
                }
            }
        }
    }
}

#[inline(always)]
fn add<const L: usize>(sum: &mut [i64; L], values: &[i64; L]) {
    for (sum, value) in sum.iter_mut().zip(values) {
        *sum += value;
    }
}

/// The number whose low `bits` bits are set.
fn low_bits(bits: u8) -> u32 {
    assert!(bits <= 32, "a lane has 32 bits");
    u32::MAX.checked_shr(32 - u32::from(bits)).unwrap_or(0)
}

/// The orders of P.
const PALEY_ORDERS: [u32; 2] = [12, 20];
const ORDER_MAX: usize = 20;
/// 0 and the squares modulo 11.
const SQUARES_11: [usize; 6] = [0, 1, 3, 4, 5, 9];
/// 0 and the squares modulo 19.
const SQUARES_19: [usize; 10] = [0, 1, 4, 5, 6, 7, 9, 11, 16, 17];
/// 2^b at the most. It is a part of H's definition.
const ROW_LEN_MAX: usize = 1 << 7;
/// Columns of P's rows that are added at once.
const LANES: usize = 8;
/// Values that fit the first-level cache beside other things: 16 KiB.
const LEAF_LEN: usize = 1 << 11;
/// Values of one task, in the second-level cache: 256 KiB.
const SERIAL_LEN: usize = 1 << 15;
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

    /// Every order of H from 1 to `max`.
    fn orders(max: usize) -> Vec<usize> {
        let mut orders: Vec<usize> =
            [1, 12, 20].iter().flat_map(|k| (0..27).map(move |j| k << j)).filter(|order| *order <= max).collect();
        orders.sort_unstable();
        orders
    }

    /// H[i][j], from the definition in this module's first lines.
    fn entry(order: usize, i: usize, j: usize) -> i64 {
        let sylvester = |i: usize, j: usize| if (i & j).count_ones().is_multiple_of(2) { 1 } else { -1 };
        let paley = |k: usize, i: usize, j: usize| {
            if i == 0 || j == 0 {
                return 1;
            }
            let q = k - 1;
            if (0..q).any(|root| root * root % q == (i + j - 2) % q) { -1 } else { 1 }
        };
        let k = match order >> order.trailing_zeros() {
            1 => return sylvester(i, j),
            odd => 4 * odd,
        };
        let row_len = (order / k).min(128);
        let split = |i: usize| (i / row_len / k, i / row_len % k, i % row_len);
        let ((outer, middle, inner), (outer_j, middle_j, inner_j)) = (split(i), split(j));
        sylvester(outer, outer_j) * paley(k, middle, middle_j) * sylvester(inner, inner_j)
    }

    #[test]
    fn a_vector_is_padded_to_the_least_order_there_is() {
        let all = orders(1 << 26);
        let least = |len: u32| *all.iter().find(|order| **order >= len as usize).expect("there is one") as u64;
        for len in
            (1..5000).chain(all.iter().flat_map(|&order| [order as u32 - 1, order as u32]).filter(|len| *len > 0))
        {
            assert_eq!(padded_len(len), least(len), "length {len}");
        }
        // Those of models that are built in, one of them for the demo, and the longest there may be.
        assert_eq!(
            [121_930, 90_506, 706_178, 37_185, 1 << 26].map(padded_len),
            [1 << 17, 98_304, 786_432, 40_960, 1 << 26]
        );
        // Nothing is padded by more than a third.
        assert!((13..100_000).all(|len| padded_len(len) * 3 < u64::from(len) * 4));
    }

    #[test]
    fn the_transform_equals_its_definition() {
        for len in orders(1 << 16) {
            let v = random(len, len as u64);
            let mut fast = v.clone();
            hadamard(&mut fast);
            // Every row at small sizes, some at large ones.
            for row in (0..len).step_by((len / 97).max(1)) {
                let sum: i64 = v.iter().enumerate().map(|(j, x)| entry(len, row, j) * x).sum();
                assert_eq!(fast[row], sum, "row {row} of {len}");
            }
        }
    }

    #[test]
    fn every_order_is_a_symmetric_matrix_with_orthogonal_rows() {
        for order in orders(640) {
            let columns: Vec<Vec<i64>> = (0..order)
                .map(|j| {
                    let mut unit = vec![0; order];
                    unit[j] = 1;
                    hadamard(&mut unit);
                    unit
                })
                .collect();
            for (i, a) in columns.iter().enumerate() {
                assert!(a.iter().all(|x| x.abs() == 1));
                for (j, b) in columns.iter().enumerate() {
                    assert_eq!(a[j], b[i], "symmetry of order {order}");
                    let product: i64 = a.iter().zip(b).map(|(a, b)| a * b).sum();
                    assert_eq!(product, if i == j { order as i64 } else { 0 }, "columns {i} and {j} of order {order}");
                }
            }
        }
    }

    #[test]
    fn the_rotation_is_orthogonal_up_to_scale_and_inverted_exactly() {
        for len in orders(1 << 18) {
            let v: Vec<i64> = random(len, 9).into_iter().map(|x| x >> 8).collect();
            let seed = RotationSeed([7; 32]);
            let mut rotated = v.clone();
            rotate(&mut rotated, &seed);
            let squared = |v: &[i64]| v.iter().map(|x| i128::from(*x) * i128::from(*x)).sum::<i128>();
            assert_eq!(squared(&rotated), squared(&v) * len as i128);
            rotate_back(&mut rotated, &seed);
            assert!(rotated.iter().zip(&v).all(|(back, x)| *back == x * len as i64), "order {len}");
        }
    }

    #[test]
    fn every_number_of_threads_and_width_of_vectors_gives_the_same_bits() {
        for len in [1 << 17, 12 << 13, 20 << 12] {
            let v = random(len, 3);
            let rotated = |n_threads| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(n_threads).build().expect("threads");
                let mut v = v.clone();
                pool.install(|| rotate(&mut v, &RotationSeed([2; 32])));
                v
            };
            assert_eq!(rotated(1), rotated(3), "order {len}");
            let mut narrow = v.clone();
            flip_signs(&mut narrow, &RotationSeed([2; 32]));
            pulp::NullaryFnOnce::call(Serial {
                v: &mut narrow,
                middle: if len == 1 << 17 { 1 } else { len >> (len.trailing_zeros() - 2) },
            });
            assert_eq!(narrow, rotated(1), "order {len}");
        }
    }

    #[test]
    fn sums_stay_within_the_absolute_sum_of_the_values() {
        // Overflow would panic here: the absolute sum is the largest i64.
        for len in [64, 12, 20, 12 << 5, 20 << 6] {
            for signs in [[1, 1], [1, -1], [-1, -1]] {
                let mut v: Vec<i64> = (0..len).map(|i| i64::MAX / len as i64 * signs[i % 2]).collect();
                hadamard(&mut v);
            }
            for i in 0..len {
                let mut v = vec![0; len];
                v[i] = i64::MAX;
                hadamard(&mut v);
            }
        }
    }

    #[test]
    #[should_panic(expected = "there is no H of order 24576000")]
    fn an_order_without_a_matrix_is_refused() {
        hadamard(&mut vec![0; 24_576_000]);
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
