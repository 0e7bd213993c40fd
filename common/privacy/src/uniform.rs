//! Exact draws from uniform words, integers only.

use std::convert::Infallible;

use aes::Aes256;
use chacha20::rand_core::{Rng, TryRng};
use ctr::{
    Ctr64LE,
    cipher::{KeyIvInit, StreamCipher},
};
use eranos_base::Entropy;
use zeroize::Zeroizing;

/// Uniform words: the keystream of AES-256 in counter mode, from block 0 on, several times faster than ChaCha20 where the
/// processor has AES. It is wiped when dropped.
pub(crate) struct Generator(Ctr64LE<Aes256>);

/// A generator under 32 fresh bytes of `entropy`.
pub(crate) fn generator(entropy: &mut dyn Entropy) -> Generator {
    let mut seed = Zeroizing::new([0; 32]);
    entropy.fill(&mut *seed);
    Generator(Ctr64LE::new(&(*seed).into(), &[0; 16].into()))
}

impl TryRng for Generator {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok(self.try_next_u64()? as u32)
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        let mut bytes = [0; 8];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        bytes.fill(0);
        self.0.apply_keystream(bytes);
        Ok(())
    }
}

/// A uniform integer below `n`, without bias (Lemire 2019, "Fast random integer generation in an interval").
///
/// # Panics
/// If `n` is 0.
pub(crate) fn below<R: Rng + ?Sized>(rng: &mut R, n: u64) -> u64 {
    assert!(n > 0, "nothing lies below 0");
    loop {
        let product = u128::from(rng.next_u64()) * u128::from(n);
        let low = product as u64;
        // Of the 2^64 words the first 2^64 mod n of each interval are left out, so that every value keeps as many.
        if low >= n || low >= n.wrapping_neg() % n {
            return (product >> 64) as u64;
        }
    }
}

/// True with probability exactly `numerator`/`denominator`, which is at most 1.
///
/// It asks whether a uniform real lies below the fraction, and draws 64 more digits of the real only where those drawn so
/// far leave it open.
pub(crate) fn bernoulli<R: Rng + ?Sized>(rng: &mut R, numerator: u64, denominator: u64) -> bool {
    let mut numerator = numerator;
    loop {
        let target = u128::from(numerator) << 64;
        let drawn = u128::from(rng.next_u64()) * u128::from(denominator);
        if drawn >= target {
            return false;
        }
        let left = target - drawn;
        if left >= u128::from(denominator) {
            return true;
        }
        numerator = left as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives out the words it was made with; an exhausted one panics.
    struct Script<'a>(std::slice::Iter<'a, u64>);

    impl TryRng for Script<'_> {
        type Error = Infallible;

        fn try_next_u32(&mut self) -> Result<u32, Self::Error> {
            Ok(self.try_next_u64()? as u32)
        }

        fn try_next_u64(&mut self) -> Result<u64, Self::Error> {
            Ok(*self.0.next().expect("no more words than planned"))
        }

        fn try_fill_bytes(&mut self, _: &mut [u8]) -> Result<(), Self::Error> {
            unreachable!("words only")
        }
    }

    fn script(words: &[u64]) -> Script<'_> {
        Script(words.iter())
    }

    #[test]
    fn the_words_are_those_of_aes_256_in_counter_mode() {
        /// Gives out zeros.
        struct Zeros;

        impl Entropy for Zeros {
            fn fill(&mut self, bytes: &mut [u8]) {
                bytes.fill(0);
            }
        }

        // NIST's known answer for a key and a block of zeros (GCM test case 13: the hash key).
        let mut rng = generator(&mut Zeros);
        let mut bytes = [1; 16];
        rng.fill_bytes(&mut bytes);
        assert_eq!(bytes[..8], 0x8989_40a2_78c0_95dc_u64.to_le_bytes());
        // And whoever takes words instead of bytes, or bytes in other portions, takes the same.
        let (mut whole, mut parts) = ([0; 600], [0; 600]);
        generator(&mut Zeros).fill_bytes(&mut whole);
        let mut rng = generator(&mut Zeros);
        assert_eq!(rng.next_u64().to_le_bytes(), whole[..8]);
        rng.fill_bytes(&mut parts[8..100]);
        rng.fill_bytes(&mut parts[100..]);
        assert_eq!(parts[8..], whole[8..]);
    }

    #[test]
    fn a_bernoulli_trial_draws_more_only_where_the_first_word_leaves_it_open() {
        // 1/3 of 2^64 is 6148914691236517205 and a third.
        let third = 6_148_914_691_236_517_205;
        assert!(bernoulli(&mut script(&[third - 1]), 1, 3));
        assert!(!bernoulli(&mut script(&[third + 1]), 1, 3));
        // At the boundary the next word decides, again against a third.
        assert!(bernoulli(&mut script(&[third, third - 1]), 1, 3));
        assert!(!bernoulli(&mut script(&[third, third + 1]), 1, 3));
        assert!(bernoulli(&mut script(&[u64::MAX]), 7, 7));
        assert!(bernoulli(&mut script(&[u64::MAX]), u64::MAX, u64::MAX));
        assert!(!bernoulli(&mut script(&[0]), 0, 7));
    }

    #[test]
    fn a_bounded_draw_leaves_out_exactly_the_surplus_words() {
        // With n = 2^63 + 1 about half of all words are surplus: those whose low product is below 2^64 mod n.
        let n = (1u64 << 63) + 1;
        assert_eq!(below(&mut script(&[0, 1]), n), 0);
        let mut rng = generator(&mut eranos_base::SeededEntropy::new(3));
        let mut counts = [0u32; 6];
        for _ in 0..60_000 {
            counts[below(&mut rng, 6) as usize] += 1;
        }
        // 5 degrees of freedom; 30 is passed with probability 1.5e-5.
        let chi_square: f64 = counts.iter().map(|c| (f64::from(*c) - 1e4).powi(2) / 1e4).sum();
        assert!(chi_square < 30.0, "{counts:?}");
    }
}
