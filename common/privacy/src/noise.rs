//! The exact discrete Gaussian: integers only, from the words of a ChaCha20 generator seeded by the operating system.
//!
//! Canonne, Kamath and Steinke 2020, algorithm 3: propose a discrete Laplace variable Y of scale t = floor(sigma) + 1
//! (algorithm 2), accept it with probability exp(-(|Y| - sigma^2/t)^2/(2 sigma^2)). One trial here is one pass of both:
//! U uniform below t, V geometric with ratio 1/e, a sign; x = U + t V; and the two acceptances, e^(-U/t) and the one
//! above, are one, since independent coins may be tossed as one with the product of their probabilities. A trial that
//! fails, or gives -0, is repeated with fresh words, so values come out with probability proportional to e^-V e^(-U/t)
//! exp(-(x - sigma^2/t)^2/(2 sigma^2)), which is exp(-x^2/(2 sigma^2)) up to a constant.
//!
//! "e^-y > a uniform real" is decided with a few integer multiplications where 63 digits of the real and an
//! approximation of e^-y with a proven bound of its error suffice, and exactly, by [`crate::exact_exp`], in the one trial
//! out of 2^29 where they do not. Nothing is ever decided by the approximation alone.
//!
//! How many words a vector takes varies, and the time with it: whoever draws sends only after the whole vector is drawn,
//! at the time the plan names.

use chacha20::{ChaCha20Rng, rand_core::Rng};
use eranos_base::Entropy;
use rand_distr::Distribution;
use zeroize::Zeroize;

use crate::{
    exact_exp::{LazyUniform, exp_floor},
    uniform::generator,
};

/// sigma^2 = p/2^10, with 2^8 <= p < 2^50. The variance of the noise is at most this, and equal to it for all that can be
/// measured from sigma = 1 on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NoiseVariance(u64);

impl NoiseVariance {
    /// The largest numerator.
    pub const NUMERATOR_MAX: u64 = (1 << 50) - 1;
    /// The least numerator.
    pub const NUMERATOR_MIN: u64 = 1 << 8;

    /// `numerator`/2^10; none if out of range.
    pub const fn from_numerator(numerator: u64) -> Option<Self> {
        if numerator >= Self::NUMERATOR_MIN && numerator <= Self::NUMERATOR_MAX { Some(Self(numerator)) } else { None }
    }

    /// p.
    pub const fn numerator(self) -> u64 {
        self.0
    }

    /// sigma^2; exact, since p has at most 50 bits.
    pub const fn to_f64(self) -> f64 {
        self.0 as f64 / 1024.0
    }

    /// sigma.
    pub fn deviation(self) -> f64 {
        self.to_f64().sqrt()
    }
}

/// The distribution N_Z(0, sigma^2): P[x] proportional to exp(-x^2/(2 sigma^2)).
#[derive(Clone)]
pub struct DiscreteGaussian {
    /// p.
    numerator: u64,
    /// t.
    scale: u64,
    /// 2^32 mod t.
    surplus: u32,
    /// 512/p 2^(53 + bit length of p), rounded down: in (2^62, 2^63].
    reciprocal: u64,
    /// One more than the bit length of p.
    reciprocal_shift: u32,
    /// sigma^2/(2 t^2) 2^52, rounded down.
    offset: u64,
    tables: Tables,
}

impl DiscreteGaussian {
    /// The distribution with parameter `variance`.
    pub fn new(variance: NoiseVariance) -> Self {
        let p = variance.0;
        // floor(sqrt(p/2^10)) = floor(floor(sqrt(p))/2^5).
        let scale = (p.isqrt() >> 5) + 1;
        let bit_length = u64::BITS - p.leading_zeros();
        Self {
            numerator: p,
            scale,
            surplus: ((1u64 << 32) % scale) as u32,
            reciprocal: ((1u128 << (62 + bit_length)) / u128::from(p)) as u64,
            reciprocal_shift: bit_length + 1,
            offset: ((u128::from(p) << 41) / (u128::from(scale) * u128::from(scale))) as u64,
            tables: Tables::new(),
        }
    }

    /// One trial, decided by `word` (the proposal) and `coin` (its acceptance) as far as they decide it.
    #[inline(always)]
    fn trial(&self, word: u64, coin: u64) -> Trial {
        // The low 32 bits give U (Lemire's method; the surplus fails the trial), the next 31 V, the top one the sign.
        let product = u64::from(word as u32) * self.scale;
        let u = product >> 32;
        let uniform = product as u32 >= self.surplus;
        let digits = (word >> 32) as u32 & V_MASK;
        let mut v = 0;
        let mut open = digits < self.tables.geometric[V_FAST - 1];
        for threshold in self.tables.geometric {
            v += u64::from(digits < threshold);
            open |= digits == threshold;
        }
        let x = u + self.scale * v;
        let negative = word >> 63 == 1;

        // y = x^2/(2 sigma^2) - V + sigma^2/(2 t^2), with 52 digits. x < 17 t, t <= 2 sigma, so the first term is below 578
        // and x^2 below 2^50; each term is rounded by less than 5 units (the reciprocal's error is below 2^-62 of it).
        let square = ((u128::from(x * x) * u128::from(self.reciprocal)) >> self.reciprocal_shift) as u64;
        let y = (square + self.offset).saturating_sub(v << 52);
        // e^-y with 63 digits: whole part, 10 digits of the fraction, and 1 - r + r^2/2 for the rest, r < 2^-10. The error is
        // below r^3/6 < 2^-32.5 from the series, 2^-48 from y, and a few units of 2^-63: below 2^-31 in all.
        let whole = self.tables.whole[((y >> 52) as usize).min(WHOLE_MAX)];
        let fraction = self.tables.fraction[(y >> 42) as usize & FRACTION_MASK];
        let r = (y & ((1 << 42) - 1)) << 11;
        let series = (1 << 63) - r + (high_63(r, r) >> 1);
        let exp = high_63(high_63(whole, fraction), series);
        let real = coin >> 1;
        let accepted = real + EXP_ERROR < exp;
        open |= !accepted & (real < exp + EXP_ERROR);
        Trial { u, x, negative, accepted: accepted & uniform & !(negative & (x == 0)), open: open & uniform }
    }

    /// The same trial where the words leave it open, decided with as many more from `rng` as that takes.
    #[cold]
    #[inline(never)]
    fn settle<R: Rng + ?Sized>(&self, trial: &Trial, word: u64, coin: u64, rng: &mut R) -> Option<i64> {
        let digits = u64::from((word >> 32) as u32 & V_MASK);
        let mut real = LazyUniform::starting_with(digits << 33 | rng.next_u64() >> 31);
        let mut v = 0;
        while real.below_exp(u128::from(v) + 1, 1, rng) {
            v += 1;
        }
        let (u, t, p) = (u128::from(trial.u), u128::from(self.scale), u128::from(self.numerator));
        let x = trial.u + self.scale * v;
        if trial.negative && x == 0 {
            return None;
        }
        // U/t + (x - sigma^2/t)^2/(2 sigma^2) over the common denominator 2^11 p t^2, below 2^102.
        let denominator = (p * t * t) << 11;
        let numerator = (u128::from(x) * t)
            .checked_mul(1 << 10)
            .map(|scaled| scaled.abs_diff(p))
            .and_then(|distance| distance.checked_mul(distance))
            .and_then(|square| square.checked_add((u * p * t) << 11))
            .expect("V would have to exceed 2^12, which has probability e^-4096");
        let accepted = LazyUniform::starting_with(coin).below_exp(numerator, denominator, rng);
        // x < 2^21 2^12, so it fits.
        accepted.then_some(if trial.negative { -(x as i64) } else { x as i64 })
    }
}

impl Distribution<i64> for DiscreteGaussian {
    fn sample<R: Rng + ?Sized>(&self, rng: &mut R) -> i64 {
        loop {
            let (word, coin) = (rng.next_u64(), rng.next_u64());
            let trial = self.trial(word, coin);
            if trial.open {
                if let Some(value) = self.settle(&trial, word, coin, rng) {
                    return value;
                }
            } else if trial.accepted {
                return trial.value();
            }
        }
    }
}

/// A client's noise for one attempt: a generator of its own, seeded afresh, and wiped when dropped.
pub struct NoiseSource {
    distribution: DiscreteGaussian,
    rng: ChaCha20Rng,
}

impl NoiseSource {
    /// Noise of parameter `variance` under 32 fresh bytes of `entropy`.
    pub fn new(variance: NoiseVariance, entropy: &mut dyn Entropy) -> Self {
        Self { distribution: DiscreteGaussian::new(variance), rng: generator(entropy) }
    }

    /// Fills `out` with noise.
    pub fn fill(&mut self, out: &mut [i64]) {
        fill(&self.distribution, &mut self.rng, out);
    }

    /// Adds noise to every value of `sum`.
    pub fn add_to(&mut self, sum: &mut [i64]) {
        let mut noise = [0; BLOCK_LEN];
        for block in sum.chunks_mut(BLOCK_LEN) {
            let noise = &mut noise[..block.len()];
            self.fill(noise);
            for (value, noise) in block.iter_mut().zip(noise) {
                *value = value.wrapping_add(*noise);
            }
        }
        noise.zeroize();
    }
}

impl std::fmt::Debug for NoiseSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("NoiseSource(omitted)")
    }
}

/// Fills `out`. The same trials as [`DiscreteGaussian::sample`], without a branch on whether one was accepted: its value is
/// written anyway, and overwritten by the next one's if it was not.
fn fill(distribution: &DiscreteGaussian, rng: &mut ChaCha20Rng, out: &mut [i64]) {
    let mut bytes = [0; WORDS_LEN * 8];
    let mut n_filled = 0;
    while n_filled < out.len() {
        // About two trials a value; what is drawn too much is forgotten.
        let n_bytes = ((out.len() - n_filled) * 40).clamp(128, bytes.len()) & !15;
        let bytes = &mut bytes[..n_bytes];
        rng.fill_bytes(bytes);
        for pair in bytes.chunks_exact(16) {
            let (word, coin) = pair.split_at(8);
            let word = u64::from_le_bytes(word.try_into().unwrap_or_default());
            let coin = u64::from_le_bytes(coin.try_into().unwrap_or_default());
            let trial = distribution.trial(word, coin);
            let (mut value, mut accepted) = (trial.value(), trial.accepted);
            if trial.open {
                let settled = distribution.settle(&trial, word, coin, rng);
                (value, accepted) = (settled.unwrap_or_default(), settled.is_some());
            }
            let Some(place) = out.get_mut(n_filled) else { break };
            *place = value;
            n_filled += usize::from(accepted);
        }
    }
    // A value that was not accepted may stand nowhere but beyond what was filled, and all of `out` was filled.
    bytes.zeroize();
}

/// What two words decide.
struct Trial {
    u: u64,
    x: u64,
    negative: bool,
    accepted: bool,
    /// The words do not suffice; nothing else here counts but `u` and `negative`.
    open: bool,
}

impl Trial {
    #[inline(always)]
    fn value(&self) -> i64 {
        // Two's complement, without a branch.
        let sign = -i64::from(self.negative);
        (self.x as i64 ^ sign) - sign
    }
}

/// e^-y at the places that the fast comparison needs; 8 KiB.
#[derive(Clone)]
struct Tables {
    /// floor(e^-k 2^31), k = 1 to 16.
    geometric: [u32; V_FAST],
    /// floor(e^-k 2^63), k = 0 to 32. Beyond 32 the last one is used: both are below the error that is allowed for.
    whole: [u64; WHOLE_MAX + 1],
    /// floor(e^(-k/1024) 2^63).
    fraction: Box<[u64; FRACTION_MASK + 1]>,
}

impl Tables {
    fn new() -> Self {
        static TABLES: std::sync::LazyLock<Tables> = std::sync::LazyLock::new(|| Tables {
            geometric: std::array::from_fn(|k| exp_floor(k as u128 + 1, 1, 31) as u32),
            whole: std::array::from_fn(|k| exp_floor(k as u128, 1, 63) as u64),
            fraction: Box::new(std::array::from_fn(|k| exp_floor(k as u128, 1024, 63) as u64)),
        });
        TABLES.clone()
    }
}

/// a b/2^63, rounded down, for factors of at most 2^63.
#[inline(always)]
fn high_63(a: u64, b: u64) -> u64 {
    ((u128::from(a) * u128::from(b)) >> 63) as u64
}

const V_FAST: usize = 16;
const V_MASK: u32 = (1 << 31) - 1;
const WHOLE_MAX: usize = 32;
const FRACTION_MASK: usize = 1023;
/// 2^-30 with 63 digits: twice what the approximation of e^-y is off at most.
const EXP_ERROR: u64 = 1 << 33;
/// Random words that are drawn at once.
const WORDS_LEN: usize = 512;
/// Values that are noised at once.
const BLOCK_LEN: usize = 1024;
