//! Exactly b bits a value.
//!
//! Value i occupies bits i b to (i + 1) b - 1 of the stream, least significant first; bit k of the stream is bit k mod 8
//! of byte k / 8. Eight values fill b bytes. The bits past the last value are zero, and refused otherwise.

use crate::{mask::Lanes, terms::Dimension};

/// b, the bits of a value: 1 to 32. Sums are taken modulo 2^b.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bits(u8);

impl Bits {
    /// The modulus 2^`bits`.
    ///
    /// # Errors
    /// If `bits` is 0 or above 32.
    pub const fn new(bits: u8) -> Result<Self, BitsError> {
        match bits {
            1..=32 => Ok(Self(bits)),
            _ => Err(BitsError { bits }),
        }
    }

    /// b.
    pub const fn get(self) -> u8 {
        self.0
    }

    /// 2^b - 1.
    pub const fn mask(self) -> u32 {
        u32::MAX >> (32 - self.0 as u32)
    }

    /// The length of a packed vector in bytes.
    pub const fn packed_len(self, dimension: Dimension) -> usize {
        (dimension.len() * self.0 as usize).div_ceil(8)
    }
}

/// Why a number of bits is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{bits} bits a value, expected 1 to 32")]
pub struct BitsError {
    /// The bits.
    pub bits: u8,
}

/// Why bytes are not a packed vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PackingError {
    /// Another length.
    #[error("{found} bytes, expected {expected}")]
    Length {
        /// The length of the plan's vectors.
        expected: usize,
        /// The length found.
        found: usize,
    },
    /// A bit past the last value is set.
    #[error("bits after the last value are not zero")]
    Padding,
}

/// Packs the low b bits of each value.
pub fn pack(vector: &Lanes, bits: Bits) -> Vec<u8> {
    match vector {
        Lanes::U16(lanes) => pack_values(lanes.iter().map(|lane| u32::from(*lane)), bits),
        Lanes::U32(lanes) => pack_values(lanes.iter().copied(), bits),
    }
}

fn pack_values(values: impl ExactSizeIterator<Item = u32>, bits: Bits) -> Vec<u8> {
    let (b, mask) = (u32::from(bits.0), bits.mask());
    let mut bytes = Vec::with_capacity((values.len() * b as usize).div_ceil(8));
    // At most 31 bits wait when a value of at most 32 joins them.
    let (mut waiting, mut n_waiting) = (0u64, 0);
    for value in values {
        waiting |= u64::from(value & mask) << n_waiting;
        n_waiting += b;
        if n_waiting >= 32 {
            bytes.extend_from_slice(&(waiting as u32).to_le_bytes());
            waiting >>= 32;
            n_waiting -= 32;
        }
    }
    bytes.extend_from_slice(&waiting.to_le_bytes()[..n_waiting.div_ceil(8) as usize]);
    bytes
}

/// Checks that `packed` is a vector of `dimension` values.
///
/// # Errors
/// If its length is another, or a bit past the last value is set.
pub fn check(packed: &[u8], dimension: Dimension, bits: Bits) -> Result<(), PackingError> {
    let expected = bits.packed_len(dimension);
    if packed.len() != expected {
        return Err(PackingError::Length { expected, found: packed.len() });
    }
    let n_last = dimension.len() * usize::from(bits.0) % 8;
    match packed.last() {
        Some(last) if n_last != 0 && last >> n_last != 0 => Err(PackingError::Padding),
        _ => Ok(()),
    }
}

/// Adds a packed vector to `sum`, in its lanes.
///
/// # Errors
/// If `packed` is not a vector of that many values; nothing is added then.
pub fn unpack_add(sum: &mut Lanes, packed: &[u8], bits: Bits) -> Result<(), PackingError> {
    match Dimension::new(sum.len()) {
        Ok(dimension) => check(packed, dimension, bits)?,
        Err(_) => return Err(PackingError::Length { expected: 0, found: packed.len() }),
    }
    match sum {
        Lanes::U16(lanes) => for_each_value(packed, bits, lanes, |lane, value| *lane = lane.wrapping_add(value as u16)),
        Lanes::U32(lanes) => for_each_value(packed, bits, lanes, |lane, value| *lane = lane.wrapping_add(value)),
    }
    Ok(())
}

fn for_each_value<L>(packed: &[u8], bits: Bits, lanes: &mut [L], mut add: impl FnMut(&mut L, u32)) {
    let (b, mask) = (usize::from(bits.0), u64::from(bits.mask()));
    // Eight values are b bytes, so every group of eight begins at a byte.
    let mut window = [0; 32 + 8];
    for (group, bytes) in lanes.chunks_mut(8).zip(packed.chunks(b)) {
        window[..bytes.len()].copy_from_slice(bytes);
        for (i, lane) in group.iter_mut().enumerate() {
            // A value starts at bit 0 to 7 of its first byte and so ends within eight bytes; what the window holds of
            // an earlier group lies past the last value.
            let mut word = [0; 8];
            word.copy_from_slice(&window[i * b / 8..i * b / 8 + 8]);
            add(lane, (u64::from_le_bytes(word) >> (i * b % 8) & mask) as u32);
        }
    }
}

#[cfg(test)]
mod tests {
    use eranos_base::{Entropy, SeededEntropy};

    use super::*;

    fn bits(bits: u8) -> Bits {
        Bits::new(bits).expect("valid")
    }

    fn lanes(values: &[u32], bits: Bits) -> Lanes {
        if bits.get() <= 16 {
            Lanes::U16(values.iter().map(|value| *value as u16).collect())
        } else {
            Lanes::U32(values.to_vec())
        }
    }

    #[test]
    fn the_layout_is_drawn_bit_by_bit() {
        assert_eq!(pack(&lanes(&[0b101, 0b011, 0b110], bits(3)), bits(3)), [0b1001_1101, 0b1]);
        assert_eq!(pack(&lanes(&[0xabc, 0xdef], bits(12)), bits(12)), [0xbc, 0xfa, 0xde]);
        assert_eq!(pack(&lanes(&[0x01_0203], bits(17)), bits(17)), [0x03, 0x02, 0x01]);
        assert_eq!(pack(&lanes(&[0x0403_0201], bits(32)), bits(32)), [1, 2, 3, 4]);
    }

    #[test]
    fn unpacking_inverts_packing_at_every_width() {
        let mut entropy = SeededEntropy::new(1);
        for b in 1..=32 {
            for length in [1, 7, 8, 9, 31, 64, 1001] {
                let values: Vec<u32> = (0..length).map(|_| u32::from_le_bytes(entropy.bytes())).collect();
                let packed = pack(&lanes(&values, bits(b)), bits(b));
                assert_eq!(packed.len(), bits(b).packed_len(Dimension::new(length).expect("valid")));
                let reduced: Vec<u32> = values.iter().map(|value| value & bits(b).mask()).collect();
                let mut sum = Lanes::zeros(Dimension::new(length).expect("valid"), bits(b));
                assert_eq!(unpack_add(&mut sum, &packed, bits(b)), Ok(()));
                assert!(sum == lanes(&reduced, bits(b)), "b={b}, {length} values");
                assert_eq!(pack(&sum, bits(b)), packed);
            }
        }
    }

    #[test]
    fn another_length_or_a_padding_bit_is_refused_and_adds_nothing() {
        let packed = pack(&lanes(&[7, 7, 7], bits(3)), bits(3));
        let mut sum = Lanes::zeros(Dimension::new(3).expect("valid"), bits(3));
        let mut padded = packed.clone();
        for bit in 1..8 {
            padded[1] = packed[1] | 1 << bit;
            assert_eq!(unpack_add(&mut sum, &padded, bits(3)), Err(PackingError::Padding));
        }
        for found in [0, 1, 3] {
            let error = Err(PackingError::Length { expected: 2, found });
            assert_eq!(unpack_add(&mut sum, &vec![0; found], bits(3)), error);
        }
        assert!(sum == Lanes::zeros(Dimension::new(3).expect("valid"), bits(3)));
        assert!(Bits::new(0).is_err() && Bits::new(33).is_err());
    }
}
