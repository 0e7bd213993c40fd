//! Shamir's secret sharing (Shamir 1979), 32 bytes at a time: over GF(2^8) with the polynomial 0x11B, the field of AES,
//! for up to 255 holders; over GF(2^16) with x^16 + x^5 + x^3 + x + 1 for more. Each is the first irreducible polynomial
//! of its degree.
//!
//! Each byte of a secret, in GF(2^16) each pair of bytes (little-endian), has its own random coefficients. A holder's
//! coordinate is its roster position + 1, so never 0, at which the polynomial is the secret. The arithmetic has no branch
//! and no table that depends on a secret.

use std::ops::BitXor;

use eranos_base::{Entropy, Position};
use zeroize::Zeroizing;

/// The length of a secret and of each of its shares.
pub const SECRET_LEN: usize = 32;

/// A secret, a share or a coefficient; wiped when dropped.
pub type Secret = Zeroizing<[u8; SECRET_LEN]>;

/// A holder's coordinate: 1 to 255, or to 65,535.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Coordinate(u16);

/// Why a secret cannot be shared or rebuilt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ShamirError {
    /// The field has no coordinate for this position.
    #[error("position {position} has no coordinate in {field}")]
    NoCoordinate {
        /// The position.
        position: Position,
        /// The field.
        field: Field,
    },
    /// A coordinate occurs twice.
    #[error("coordinate {0} occurs twice", coordinate.0)]
    Repeated {
        /// The coordinate.
        coordinate: Coordinate,
    },
    /// A coordinate of a larger field.
    #[error("coordinate {0} is not of {field}", coordinate.0)]
    Foreign {
        /// The coordinate.
        coordinate: Coordinate,
        /// The field.
        field: Field,
    },
    /// A threshold of 0, or above the number of holders.
    #[error("threshold {threshold} of {n_holders} holders")]
    Threshold {
        /// The threshold.
        threshold: usize,
        /// The number of holders.
        n_holders: usize,
    },
    /// Fewer shares than the threshold.
    #[error("{n_shares} shares, {threshold} are needed")]
    TooFew {
        /// The number of shares.
        n_shares: usize,
        /// The threshold.
        threshold: usize,
    },
    /// The shares do not all lie on one polynomial of degree below the threshold.
    #[error("the shares do not lie on one polynomial")]
    OffPolynomial,
}

/// The field that secrets are shared over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// GF(2^8).
    Gf256,
    /// GF(2^16).
    Gf65536,
}

impl Field {
    /// The field of a roster of `n1` clients: GF(2^8) if and only if they are at most 255.
    pub const fn of_roster(n1: usize) -> Self {
        if n1 <= Self::Gf256.holders_max() { Self::Gf256 } else { Self::Gf65536 }
    }

    /// Most holders: the field's elements without 0. In GF(2^16) the last position, 0xFFFF, would stand for none.
    pub const fn holders_max(self) -> usize {
        match self {
            Self::Gf256 => u8::MAX as usize,
            Self::Gf65536 => u16::MAX as usize,
        }
    }

    /// The coordinate of the holder at `position`.
    ///
    /// # Errors
    /// If the field has none.
    pub fn coordinate(self, position: Position) -> Result<Coordinate, ShamirError> {
        match position.0.checked_add(1) {
            Some(x) if usize::from(x) <= self.holders_max() => Ok(Coordinate(x)),
            _ => Err(ShamirError::NoCoordinate { position, field: self }),
        }
    }

    /// One share for each of `holders`, any `threshold` of which rebuild `secret`.
    ///
    /// # Errors
    /// If a coordinate is repeated or foreign, or the threshold is 0 or above the number of holders.
    pub fn share(
        self,
        secret: &[u8; SECRET_LEN],
        threshold: usize,
        holders: &[Coordinate],
        entropy: &mut dyn Entropy,
    ) -> Result<Vec<Secret>, ShamirError> {
        self.check_coordinates(holders.iter().copied())?;
        if threshold == 0 || threshold > holders.len() {
            return Err(ShamirError::Threshold { threshold, n_holders: holders.len() });
        }
        let mut coefficients = Zeroizing::new(vec![[0; SECRET_LEN]; threshold - 1]);
        for coefficient in coefficients.iter_mut() {
            entropy.fill(coefficient);
        }
        let xs = holders.iter().map(|holder| holder.0);
        Ok(match self {
            // The coordinates are of this field.
            Self::Gf256 => xs.map(|x| evaluate(secret, &coefficients, x as u8)).collect(),
            Self::Gf65536 => xs.map(|x| evaluate(secret, &coefficients, x)).collect(),
        })
    }

    /// Rebuilds the secret from the first `threshold` shares and checks that all others lie on the same polynomial.
    ///
    /// # Errors
    /// If a coordinate is repeated or foreign, there are fewer shares than `threshold`, or one lies off the polynomial.
    pub fn combine(self, threshold: usize, shares: &[(Coordinate, &[u8; SECRET_LEN])]) -> Result<Secret, ShamirError> {
        self.check_coordinates(shares.iter().map(|(x, _)| *x))?;
        if threshold == 0 || threshold > self.holders_max() {
            return Err(ShamirError::Threshold { threshold, n_holders: self.holders_max() });
        }
        let Some((basis, others)) = shares.split_at_checked(threshold) else {
            return Err(ShamirError::TooFew { n_shares: shares.len(), threshold });
        };
        match self {
            Self::Gf256 => interpolate(basis, others, |x| x.0 as u8),
            Self::Gf65536 => interpolate(basis, others, |x| x.0),
        }
    }

    fn check_coordinates(self, coordinates: impl ExactSizeIterator<Item = Coordinate>) -> Result<(), ShamirError> {
        let mut seen = vec![false; self.holders_max() + 1];
        for coordinate in coordinates {
            match seen.get_mut(usize::from(coordinate.0)) {
                Some(seen) if !*seen => *seen = true,
                Some(_) => return Err(ShamirError::Repeated { coordinate }),
                None => return Err(ShamirError::Foreign { coordinate, field: self }),
            }
        }
        Ok(())
    }
}

impl std::fmt::Display for Field {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Gf256 => "GF(2^8)",
            Self::Gf65536 => "GF(2^16)",
        })
    }
}

/// The share at `x`, by Horner's rule from the highest coefficient down to the secret.
fn evaluate<E: Element>(secret: &[u8; SECRET_LEN], coefficients: &[[u8; SECRET_LEN]], x: E) -> Secret {
    let mut value = Secret::default();
    for coefficient in coefficients.iter().rev().chain([secret]) {
        let mut next = Secret::new(*coefficient);
        E::add_scaled(&mut next, &value, x);
        value = next;
    }
    value
}

fn interpolate<E: Element>(
    basis: &[(Coordinate, &[u8; SECRET_LEN])],
    others: &[(Coordinate, &[u8; SECRET_LEN])],
    element: impl Fn(Coordinate) -> E,
) -> Result<Secret, ShamirError> {
    // Barycentric form of Lagrange's interpolation: f(x) = sum_i f_i w_i L(x) / (x - x_i), w_i = 1 / prod (x_i - x_j),
    // L(x) = prod (x - x_j). Subtraction is addition is exclusive or. The coordinates are public.
    let xs: Vec<E> = basis.iter().map(|(x, _)| element(*x)).collect();
    let weights: Vec<E> = (xs.iter())
        .map(|x| xs.iter().filter(|other| *other != x).fold(E::ONE, |product, other| product.multiply(*x ^ *other)))
        .collect();
    let evaluate = |at: E| {
        let product = xs.iter().fold(E::ONE, |product, x| product.multiply(at ^ *x));
        // One inversion for all: of the product of the denominators, from which each one's own is split off again.
        let denominators: Vec<E> = xs.iter().zip(&weights).map(|(x, weight)| weight.multiply(at ^ *x)).collect();
        let mut before = Vec::with_capacity(denominators.len());
        let all = denominators.iter().fold(E::ONE, |product, denominator| {
            before.push(product);
            product.multiply(*denominator)
        });
        let (mut value, mut scale) = (Secret::default(), product.multiply(all.inverse()));
        for (((_, share), denominator), before) in basis.iter().zip(&denominators).zip(&before).rev() {
            E::add_scaled(&mut value, share, scale.multiply(*before));
            scale = scale.multiply(*denominator);
        }
        value
    };
    for (x, share) in others {
        // A share is compared as a whole: where it differs is not to be learnt from the time.
        if !bool::from(subtle::ConstantTimeEq::ct_eq(&evaluate(element(*x))[..], &share[..])) {
            return Err(ShamirError::OffPolynomial);
        }
    }
    Ok(evaluate(E::ZERO))
}

/// An element of GF(2^8) or GF(2^16). Addition is exclusive or.
trait Element: Copy + PartialEq + BitXor<Output = Self> {
    const ZERO: Self;
    const ONE: Self;

    /// x times it.
    fn double(self) -> Self;

    fn multiply(self, other: Self) -> Self;

    /// Its inverse, and 0 for 0.
    fn inverse(self) -> Self;

    /// `sum += factor * value`, element by element.
    fn add_scaled(sum: &mut [u8; SECRET_LEN], value: &[u8; SECRET_LEN], factor: Self);
}

macro_rules! element {
    // The polynomial without its highest power.
    ($element:ty, $polynomial:literal) => {
        impl Element for $element {
            const ZERO: Self = 0;
            const ONE: Self = 1;

            fn double(self) -> Self {
                (self << 1) ^ ($polynomial & (self >> (Self::BITS - 1)).wrapping_neg())
            }

            fn multiply(self, other: Self) -> Self {
                let (mut product, mut power) = (0, self);
                for bit in 0..Self::BITS {
                    product ^= power & (other >> bit & 1).wrapping_neg();
                    power = power.double();
                }
                product
            }

            fn inverse(self) -> Self {
                // To the power 2^BITS - 2: the product of all squarings but the first.
                let (mut result, mut power) = (1, self);
                for _ in 1..Self::BITS {
                    power = power.multiply(power);
                    result = result.multiply(power);
                }
                result
            }

            fn add_scaled(sum: &mut [u8; SECRET_LEN], value: &[u8; SECRET_LEN], factor: Self) {
                let (sum, _) = sum.as_chunks_mut::<{ size_of::<Self>() }>();
                let (value, _) = value.as_chunks::<{ size_of::<Self>() }>();
                let mut powers = Zeroizing::new([0; SECRET_LEN / size_of::<Self>()]);
                for (power, bytes) in powers.iter_mut().zip(value) {
                    *power = Self::from_le_bytes(*bytes);
                }
                let mut products = Zeroizing::new([0; SECRET_LEN / size_of::<Self>()]);
                for bit in 0..Self::BITS {
                    let mask = (factor >> bit & 1).wrapping_neg();
                    for (product, power) in products.iter_mut().zip(powers.iter_mut()) {
                        *product ^= *power & mask;
                        *power = power.double();
                    }
                }
                for (bytes, product) in sum.iter_mut().zip(products.iter()) {
                    *bytes = (Self::from_le_bytes(*bytes) ^ product).to_le_bytes();
                }
            }
        }
    };
}

element!(u8, 0x1b);
element!(u16, 0x2b);

#[cfg(test)]
mod tests {
    use eranos_base::{OsEntropy, SeededEntropy};

    use super::*;

    fn coordinates(n: u16) -> Vec<Coordinate> {
        let field = Field::of_roster(n.into());
        (0..n).map(|position| field.coordinate(Position(position)).expect("of the field")).collect()
    }

    fn pairs<'a>(xs: &[Coordinate], shares: &'a [Secret]) -> Vec<(Coordinate, &'a [u8; SECRET_LEN])> {
        xs.iter().copied().zip(shares.iter().map(|share| &**share)).collect()
    }

    #[test]
    fn the_small_field_is_that_of_aes() {
        // FIPS 197, section 4.2: {57} x {83} = {c1}, {57} x {13} = {fe}.
        assert_eq!((0x57u8.multiply(0x83), 0x57u8.multiply(0x13)), (0xc1, 0xfe));
        assert_eq!(0u8.inverse(), 0);
        for a in 1..=255u8 {
            assert_eq!(a.multiply(a.inverse()), 1, "{a}");
        }
    }

    #[test]
    fn both_polynomials_are_the_first_irreducible_ones() {
        let remainder = |mut a: u32, b: u32| {
            while a.checked_ilog2() >= b.checked_ilog2() {
                a ^= b << (a.ilog2() - b.ilog2());
            }
            a
        };
        for (bits, polynomial) in [(8, 0x11b), (16, 0x1_002b)] {
            // A factor of degree up to half is among 2 to 2^(bits / 2 + 1) - 1.
            let is_irreducible = |p| (2..1 << (bits / 2 + 1)).all(|factor| remainder(p, factor) != 0);
            assert_eq!((1 << bits..2 << bits).find(|p| is_irreducible(*p)), Some(polynomial));
        }
    }

    /// The large field's product by the letter: a product of polynomials, then its remainder.
    #[test]
    fn the_large_field_multiplies_polynomials() {
        let by_the_letter = |a: u16, b: u16| {
            let mut product = (0..16).filter(|bit| b >> bit & 1 == 1).fold(0, |sum, bit| sum ^ u32::from(a) << bit);
            for bit in (16..32).rev() {
                if product >> bit & 1 == 1 {
                    product ^= 0x1_002b << (bit - 16);
                }
            }
            product as u16
        };
        let mut entropy = SeededEntropy::new(1);
        for _ in 0..20_000 {
            let (a, b) = (u16::from_le_bytes(entropy.bytes()), u16::from_le_bytes(entropy.bytes()));
            assert_eq!(a.multiply(b), by_the_letter(a, b), "{a:04x} {b:04x}");
        }
        assert_eq!(0u16.inverse(), 0);
        for a in 1..=u16::MAX {
            assert_eq!(a.multiply(a.inverse()), 1, "{a:04x}");
        }
    }

    #[test]
    fn any_threshold_of_shares_rebuilds_the_secret_and_fewer_say_nothing() {
        let cases = [(2, 1), (4, 2), (8, 5), (10, 6), (255, 128), (255, 255), (256, 2), (257, 129), (600, 301)];
        for ((n, t), seed) in cases.into_iter().zip(1..) {
            let (field, mut entropy) = (Field::of_roster(n.into()), SeededEntropy::new(seed));
            assert_eq!(field == Field::Gf256, n <= 255);
            let secret = Secret::new(entropy.bytes());
            let xs = coordinates(n);
            let shares = field.share(&secret, t, &xs, &mut entropy).expect("valid");
            let mut all = pairs(&xs, &shares);
            assert_eq!(field.combine(t, &all), Ok(secret.clone()), "n={n} t={t}");
            all.reverse();
            assert_eq!(field.combine(t, &all[..t]), Ok(secret.clone()), "n={n} t={t}");
            assert_eq!(field.combine(t, &all[..t - 1]), Err(ShamirError::TooFew { n_shares: t - 1, threshold: t }));
            if t > 1 {
                assert_ne!(field.combine(t - 1, &all[..t - 1]), Ok(secret), "n={n} t={t}");
            }
        }
    }

    #[test]
    fn any_random_set_of_holders_rebuilds_in_either_field() {
        let seed = u64::from_le_bytes(OsEntropy.bytes()) >> 16;
        let mut entropy = SeededEntropy::new(seed);
        for round in 0..60 {
            let field = [Field::Gf256, Field::Gf65536][round % 2];
            let mut xs: Vec<_> = (0..40)
                .map(|_| u16::from_le_bytes(entropy.bytes()) % field.holders_max() as u16)
                .map(|position| field.coordinate(Position(position)).expect("of the field"))
                .collect();
            xs.sort();
            xs.dedup();
            let t = 1 + usize::from(entropy.bytes::<1>()[0]) % xs.len();
            let secret = Secret::new(entropy.bytes());
            let shares = field.share(&secret, t, &xs, &mut entropy).expect("valid");
            let mut all = pairs(&xs, &shares);
            all.rotate_left(usize::from(entropy.bytes::<1>()[0]) % xs.len());
            assert_eq!(field.combine(t, &all), Ok(secret), "seed {seed}, round {round}");
        }
    }

    #[test]
    fn a_share_off_the_polynomial_is_noticed() {
        for field in [Field::Gf256, Field::Gf65536] {
            let mut entropy = SeededEntropy::new(7);
            let secret = entropy.bytes();
            let xs = coordinates(7);
            let mut shares = field.share(&secret, 4, &xs, &mut entropy).expect("valid");
            for holder in 0..7 {
                shares[holder][31] ^= 0x80;
                assert_eq!(field.combine(4, &pairs(&xs, &shares)), Err(ShamirError::OffPolynomial), "holder {holder}");
                shares[holder][31] ^= 0x80;
            }
        }
    }

    #[test]
    fn every_element_of_a_secret_has_coefficients_of_its_own() {
        let xs = coordinates(3);
        for (field, len) in [(Field::Gf256, 1), (Field::Gf65536, 2)] {
            let shares = field.share(&[7; SECRET_LEN], 2, &xs, &mut SeededEntropy::new(8)).expect("valid");
            // With one coefficient for all, a share of equal elements would have equal elements.
            assert!(shares.iter().all(|share| share.chunks(len).any(|element| element != &share[..len])), "{field}");
        }
    }

    #[test]
    fn index_0_is_never_a_holder_and_past_the_field_there_is_none() {
        let (small, large) = (Field::Gf256, Field::Gf65536);
        for field in [small, large] {
            assert_eq!(field.coordinate(Position(0)), Ok(Coordinate(1)));
            assert_eq!(field.coordinate(Position(254)), Ok(Coordinate(255)));
            assert_eq!(
                field.coordinate(Position::NONE),
                Err(ShamirError::NoCoordinate { position: Position::NONE, field })
            );
        }
        for position in [Position(255), Position(256), Position(0xFFFE)] {
            assert_eq!(small.coordinate(position), Err(ShamirError::NoCoordinate { position, field: small }));
            assert_eq!(large.coordinate(position), Ok(Coordinate(position.0 + 1)));
        }
        let (foreign, mut entropy) = (Coordinate(256), SeededEntropy::new(1));
        let error = ShamirError::Foreign { coordinate: foreign, field: small };
        assert_eq!(small.share(&[0; 32], 1, &[foreign], &mut entropy), Err(error));
        assert_eq!(small.combine(1, &[(foreign, &[1; 32])]), Err(error));
        assert!(large.share(&[0; 32], 1, &[foreign], &mut entropy).is_ok());
    }

    #[test]
    fn repeated_coordinates_and_impossible_thresholds_are_refused() {
        let mut entropy = SeededEntropy::new(9);
        let xs = coordinates(3);
        let twice = [xs[0], xs[1], xs[0]];
        let repeated = ShamirError::Repeated { coordinate: xs[0] };
        for field in [Field::Gf256, Field::Gf65536] {
            assert_eq!(field.share(&[0; 32], 2, &twice, &mut entropy), Err(repeated));
            assert_eq!(field.combine(2, &[(xs[0], &[1; 32]), (xs[0], &[2; 32])]), Err(repeated));
            for threshold in [0, 4] {
                assert!(field.share(&[0; 32], threshold, &xs, &mut entropy).is_err());
            }
            assert!(field.combine(0, &[]).is_err());
            assert!(field.combine(field.holders_max() + 1, &[]).is_err());
        }
    }

    #[test]
    fn vsss_rs_rebuilds_from_our_shares() {
        let mut entropy = SeededEntropy::new(10);
        let secret: [u8; SECRET_LEN] = entropy.bytes();
        let xs = coordinates(9);
        let shares = Field::Gf256.share(&secret, 5, &xs, &mut entropy).expect("valid");
        // Its share is the coordinate followed by the values.
        let theirs: Vec<Vec<u8>> =
            xs.iter().zip(&shares).map(|(x, share)| [&[x.0 as u8], &share[..]].concat()).collect();
        let rebuilt = vsss_rs::Gf256::combine_array(&theirs[3..8]).expect("combines");
        assert_eq!(rebuilt, secret);
    }
}
