//! The seam for randomness. Keys, shares, samples, rounding and noise draw from an [`Entropy`] handed to them; outside
//! tests that is always [`OsEntropy`].

use chacha20::{
    ChaCha20Rng,
    rand_core::{Rng, SeedableRng},
};

/// A source of uniform bytes.
pub trait Entropy {
    /// Fills `out` with uniform bytes.
    fn fill(&mut self, out: &mut [u8]);

    /// `N` uniform bytes.
    fn bytes<const N: usize>(&mut self) -> [u8; N]
    where
        Self: Sized,
    {
        let mut out = [0; N];
        self.fill(&mut out);
        out
    }
}

impl Entropy for &mut dyn Entropy {
    fn fill(&mut self, out: &mut [u8]) {
        (**self).fill(out);
    }
}

/// The operating system's generator.
#[derive(Clone, Copy, Debug, Default)]
pub struct OsEntropy;

impl Entropy for OsEntropy {
    /// # Panics
    /// If the operating system has no randomness to give: nothing secret can be made then, and there is no safe way on.
    fn fill(&mut self, out: &mut [u8]) {
        getrandom::fill(out).expect("the operating system provides randomness");
    }
}

/// A reproducible generator (ChaCha20 under a 64-bit seed) for tests, for splitting public data, and for training that
/// promises no privacy. Never for keys or noise.
pub struct SeededEntropy(ChaCha20Rng);

impl SeededEntropy {
    /// The generator of `seed`.
    pub fn new(seed: u64) -> Self {
        Self(ChaCha20Rng::seed_from_u64(seed))
    }
}

impl Entropy for SeededEntropy {
    fn fill(&mut self, out: &mut [u8]) {
        self.0.fill_bytes(out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_repeats_and_the_system_does_not() {
        let draw = |seed| SeededEntropy::new(seed).bytes::<32>();
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
        assert_ne!(OsEntropy.bytes::<32>(), OsEntropy.bytes::<32>());
    }
}
