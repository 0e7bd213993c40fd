//! A set of roster positions, as a strict bitmap.

use eranos_base::{Position, encoding::DecodeError};

use crate::thresholds::ROSTER_LEN_MAX;

/// A set of positions of a roster of `n1` clients.
///
/// Bytes: ceil(n1 / 8); position p is bit p mod 8 (least significant first) of byte p / 8; the bits past n1 are zero.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PositionSet {
    n1: usize,
    bits: Vec<u8>,
}

impl PositionSet {
    /// The empty set over a roster of `n1` clients.
    pub fn new(n1: usize) -> Self {
        Self { n1, bits: vec![0; n1.div_ceil(8)] }
    }

    /// The set of `positions`; those outside the roster are left out.
    pub fn of(n1: usize, positions: impl IntoIterator<Item = Position>) -> Self {
        let mut set = Self::new(n1);
        for position in positions {
            set.insert(position);
        }
        set
    }

    /// Reads the bitmap of a roster of `n1` clients.
    ///
    /// # Errors
    /// If it has another length, or a bit past `n1` is set.
    pub fn from_bytes(bytes: &[u8], n1: usize) -> Result<Self, DecodeError> {
        let what = "position bitmap";
        if n1 > ROSTER_LEN_MAX {
            return Err(DecodeError::Limit { what, len: n1 as u64, max: ROSTER_LEN_MAX as u64 });
        }
        let len = n1.div_ceil(8);
        if bytes.len() < len {
            return Err(DecodeError::Truncated { what });
        }
        if bytes.len() > len {
            return Err(DecodeError::Trailing { what, n_bytes: bytes.len() - len });
        }
        if let Some(last) = bytes.last()
            && !n1.is_multiple_of(8)
            && last >> (n1 % 8) != 0
        {
            return Err(DecodeError::Malformed { what });
        }
        Ok(Self { n1, bits: bytes.to_vec() })
    }

    /// The bitmap.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bits
    }

    /// The size of the roster it is a set of.
    pub fn n1(&self) -> usize {
        self.n1
    }

    /// Adds `position`; says whether it is a position of the roster that was not in the set.
    pub fn insert(&mut self, position: Position) -> bool {
        if position.index() >= self.n1 || self.contains(position) {
            return false;
        }
        self.bits[position.index() / 8] |= 1 << (position.index() % 8);
        true
    }

    /// Whether `position` is in the set.
    pub fn contains(&self, position: Position) -> bool {
        self.bits.get(position.index() / 8).is_some_and(|byte| byte >> (position.index() % 8) & 1 == 1)
    }

    /// How many positions are in the set.
    pub fn len(&self) -> usize {
        self.bits.iter().map(|byte| byte.count_ones() as usize).sum()
    }

    /// Whether the set is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The positions in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = Position> + Clone + '_ {
        (0..self.n1 as u16).map(Position).filter(|position| self.contains(*position))
    }

    /// The first position that is not in `other`.
    pub fn first_outside(&self, other: &Self) -> Option<Position> {
        self.iter().find(|position| !other.contains(*position))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bitmap_is_strict() {
        let set = PositionSet::of(10, [Position(0), Position(9), Position(3), Position(10), Position(0xFFFF)]);
        assert_eq!(set.as_bytes(), [0b0000_1001, 0b10]);
        assert_eq!((set.len(), set.iter().collect::<Vec<_>>()), (3, vec![Position(0), Position(3), Position(9)]));
        assert_eq!(PositionSet::from_bytes(set.as_bytes(), 10), Ok(set.clone()));
        for (bytes, n1) in [(&[1, 2, 0][..], 10), (&[1], 10), (&[], 1), (&[0], 0), (&[1, 4], 10), (&[0; 1251], 10_001)]
        {
            assert!(PositionSet::from_bytes(bytes, n1).is_err(), "{bytes:?} of {n1}");
        }
        assert!(PositionSet::from_bytes(&[0xff; 32], 255).is_err());
        assert!(PositionSet::from_bytes(&[0xff; 31], 248).is_ok());
    }
}
