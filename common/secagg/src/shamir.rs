//! Shamir's secret sharing over GF(2^8) with the polynomial 0x11B (Shamir 1979; the field of AES), 32 bytes at a time.
//!
//! Each byte of a secret has its own random coefficients. A holder's coordinate is its roster position + 1, so never
//! 0, at which the polynomial is the secret. The arithmetic has no branch and no table that depends on a secret.

use eranos_base::{Entropy, Position};
use zeroize::Zeroizing;

/// The length of a secret and of each of its shares.
pub const SECRET_LEN: usize = 32;
/// Most holders: the field's elements without 0.
pub const HOLDERS_MAX: usize = 255;

/// A secret, a share or a coefficient; wiped when dropped.
pub type Secret = Zeroizing<[u8; SECRET_LEN]>;

/// A holder's coordinate: 1 to 255.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Coordinate(u8);

impl Coordinate {
    /// The coordinate of the holder at `position`.
    ///
    /// # Errors
    /// If GF(2^8) has none: `position` is 255 or larger.
    pub fn of(position: Position) -> Result<Self, ShamirError> {
        match u8::try_from(position.0) {
            Ok(index) if index < u8::MAX => Ok(Self(index + 1)),
            _ => Err(ShamirError::NoCoordinate { position }),
        }
    }
}

/// Why a secret cannot be shared or rebuilt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ShamirError {
    /// GF(2^8) has no coordinate for this position.
    #[error("position {position} has no coordinate in GF(2^8)")]
    NoCoordinate {
        /// The position.
        position: Position,
    },
    /// A coordinate occurs twice.
    #[error("coordinate {0} occurs twice", coordinate.0)]
    Repeated {
        /// The coordinate.
        coordinate: Coordinate,
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

/// One share for each of `holders`, any `threshold` of which rebuild `secret`.
///
/// # Errors
/// If a coordinate is repeated, or the threshold is 0 or above the number of holders.
pub fn share(
    secret: &[u8; SECRET_LEN],
    threshold: usize,
    holders: &[Coordinate],
    entropy: &mut dyn Entropy,
) -> Result<Vec<Secret>, ShamirError> {
    check_distinct(holders.iter().copied())?;
    if threshold == 0 || threshold > holders.len() {
        return Err(ShamirError::Threshold { threshold, n_holders: holders.len() });
    }
    let mut coefficients = Zeroizing::new(vec![[0; SECRET_LEN]; threshold - 1]);
    for coefficient in coefficients.iter_mut() {
        entropy.fill(coefficient);
    }
    let evaluate = |x: &Coordinate| {
        // Horner's rule from the highest coefficient down to the secret.
        let mut value = Secret::default();
        for coefficient in coefficients.iter().rev().chain([secret]) {
            let mut next = Secret::new(*coefficient);
            add_scaled(&mut next, &value, x.0);
            value = next;
        }
        value
    };
    Ok(holders.iter().map(evaluate).collect())
}

/// Rebuilds the secret from the first `threshold` shares and checks that all others lie on the same polynomial.
///
/// # Errors
/// If a coordinate is repeated, there are fewer shares than `threshold`, or one lies off the polynomial.
pub fn combine(threshold: usize, shares: &[(Coordinate, &[u8; SECRET_LEN])]) -> Result<Secret, ShamirError> {
    check_distinct(shares.iter().map(|(x, _)| *x))?;
    if threshold == 0 || threshold > HOLDERS_MAX {
        return Err(ShamirError::Threshold { threshold, n_holders: HOLDERS_MAX });
    }
    let Some((basis, others)) = shares.split_at_checked(threshold) else {
        return Err(ShamirError::TooFew { n_shares: shares.len(), threshold });
    };
    // Barycentric form of Lagrange's interpolation: f(x) = sum_i f_i w_i L(x) / (x - x_i), w_i = 1 / prod (x_i - x_j),
    // L(x) = prod (x - x_j). Subtraction is addition is exclusive or. The coordinates are public.
    let weights: Vec<u8> = (basis.iter())
        .map(|(x, _)| {
            let others = basis.iter().filter(|(other, _)| other != x);
            inverse(others.fold(1, |product, (other, _)| multiply(product, x.0 ^ other.0)))
        })
        .collect();
    let evaluate = |at: u8| {
        let product = basis.iter().fold(1, |product, (x, _)| multiply(product, at ^ x.0));
        let mut value = Secret::default();
        for ((x, share), weight) in basis.iter().zip(&weights) {
            add_scaled(&mut value, share, multiply(multiply(product, *weight), inverse(at ^ x.0)));
        }
        value
    };
    for (x, share) in others {
        // A share is compared as a whole: where it differs is not to be learnt from the time.
        if !bool::from(subtle::ConstantTimeEq::ct_eq(&evaluate(x.0)[..], &share[..])) {
            return Err(ShamirError::OffPolynomial);
        }
    }
    Ok(evaluate(0))
}

fn check_distinct(coordinates: impl Iterator<Item = Coordinate>) -> Result<(), ShamirError> {
    let mut seen = [false; 256];
    for coordinate in coordinates {
        if std::mem::replace(&mut seen[usize::from(coordinate.0)], true) {
            return Err(ShamirError::Repeated { coordinate });
        }
    }
    Ok(())
}

/// `sum += factor * value`, byte by byte in GF(2^8).
fn add_scaled(sum: &mut [u8; SECRET_LEN], value: &[u8; SECRET_LEN], factor: u8) {
    let mut power = Secret::new(*value);
    for bit in 0..8 {
        let mask = (factor >> bit & 1).wrapping_neg();
        for (sum, power) in sum.iter_mut().zip(power.iter_mut()) {
            *sum ^= *power & mask;
            *power = double(*power);
        }
    }
}

/// x times `a`, reduced by 0x11B.
const fn double(a: u8) -> u8 {
    (a << 1) ^ (0x1b & (a >> 7).wrapping_neg())
}

const fn multiply(a: u8, b: u8) -> u8 {
    let (mut product, mut power, mut bit) = (0, a, 0);
    while bit < 8 {
        product ^= power & (b >> bit & 1).wrapping_neg();
        power = double(power);
        bit += 1;
    }
    product
}

/// `a` to the power 254: its inverse, and 0 for 0.
const fn inverse(a: u8) -> u8 {
    let (mut result, mut power, mut bit) = (1, a, 0);
    while bit < 8 {
        if bit > 0 {
            result = multiply(result, power);
        }
        power = multiply(power, power);
        bit += 1;
    }
    result
}

#[cfg(test)]
mod tests {
    use eranos_base::SeededEntropy;

    use super::*;

    fn coordinates(n: u16) -> Vec<Coordinate> {
        (0..n).map(|position| Coordinate::of(Position(position)).expect("below 255")).collect()
    }

    fn pairs<'a>(xs: &[Coordinate], shares: &'a [Secret]) -> Vec<(Coordinate, &'a [u8; SECRET_LEN])> {
        xs.iter().copied().zip(shares.iter().map(|share| &**share)).collect()
    }

    #[test]
    fn the_field_is_that_of_aes() {
        // FIPS 197, section 4.2: {57} x {83} = {c1}, {57} x {13} = {fe}.
        assert_eq!((multiply(0x57, 0x83), multiply(0x57, 0x13)), (0xc1, 0xfe));
        assert_eq!(inverse(0), 0);
        for a in 1..=255 {
            assert_eq!(multiply(a, inverse(a)), 1, "{a}");
        }
    }

    #[test]
    fn any_threshold_of_shares_rebuilds_the_secret_and_fewer_say_nothing() {
        for (n, t, seed) in [(2, 1, 1), (4, 2, 2), (8, 5, 3), (10, 6, 4), (255, 128, 5), (255, 255, 6)] {
            let mut entropy = SeededEntropy::new(seed);
            let secret = Secret::new(entropy.bytes());
            let xs = coordinates(n);
            let shares = share(&secret, t, &xs, &mut entropy).expect("valid");
            let mut all = pairs(&xs, &shares);
            assert_eq!(combine(t, &all), Ok(secret.clone()), "n={n} t={t}");
            all.reverse();
            assert_eq!(combine(t, &all[..t]), Ok(secret.clone()), "n={n} t={t}");
            assert_eq!(combine(t, &all[..t - 1]), Err(ShamirError::TooFew { n_shares: t - 1, threshold: t }));
            if t > 1 {
                assert_ne!(combine(t - 1, &all[..t - 1]), Ok(secret), "n={n} t={t}");
            }
        }
    }

    #[test]
    fn a_share_off_the_polynomial_is_noticed() {
        let mut entropy = SeededEntropy::new(7);
        let secret = entropy.bytes();
        let xs = coordinates(7);
        let mut shares = share(&secret, 4, &xs, &mut entropy).expect("valid");
        for holder in 0..7 {
            shares[holder][31] ^= 0x80;
            assert_eq!(combine(4, &pairs(&xs, &shares)), Err(ShamirError::OffPolynomial), "holder {holder}");
            shares[holder][31] ^= 0x80;
        }
    }

    #[test]
    fn every_byte_has_coefficients_of_its_own() {
        let xs = coordinates(3);
        let shares = share(&[7; SECRET_LEN], 2, &xs, &mut SeededEntropy::new(8)).expect("valid");
        // With one coefficient for all, a share of equal bytes would have equal bytes.
        assert!(shares.iter().all(|share| share.windows(2).any(|pair| pair[0] != pair[1])));
    }

    #[test]
    fn index_0_is_never_a_holder_and_a_256th_holder_has_none() {
        assert_eq!(Coordinate::of(Position(0)), Ok(Coordinate(1)));
        assert_eq!(Coordinate::of(Position(254)), Ok(Coordinate(255)));
        for position in [Position(255), Position(256), Position::NONE] {
            assert_eq!(Coordinate::of(position), Err(ShamirError::NoCoordinate { position }));
        }
    }

    #[test]
    fn repeated_coordinates_and_impossible_thresholds_are_refused() {
        let mut entropy = SeededEntropy::new(9);
        let xs = coordinates(3);
        let twice = [xs[0], xs[1], xs[0]];
        let repeated = ShamirError::Repeated { coordinate: xs[0] };
        assert_eq!(share(&[0; 32], 2, &twice, &mut entropy), Err(repeated));
        assert_eq!(combine(2, &[(xs[0], &[1; 32]), (xs[0], &[2; 32])]), Err(repeated));
        for threshold in [0, 4] {
            assert!(share(&[0; 32], threshold, &xs, &mut entropy).is_err());
        }
        assert!(combine(0, &[]).is_err());
    }

    #[test]
    fn vsss_rs_rebuilds_from_our_shares() {
        let mut entropy = SeededEntropy::new(10);
        let secret: [u8; SECRET_LEN] = entropy.bytes();
        let xs = coordinates(9);
        let shares = share(&secret, 5, &xs, &mut entropy).expect("valid");
        // Its share is the coordinate followed by the values.
        let theirs: Vec<Vec<u8>> = xs.iter().zip(&shares).map(|(x, share)| [&[x.0], &share[..]].concat()).collect();
        let rebuilt = vsss_rs::Gf256::combine_array(&theirs[3..8]).expect("combines");
        assert_eq!(rebuilt, secret);
    }
}
