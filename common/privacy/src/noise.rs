//! The exact discrete Gaussian: integers only, from the words of AES in counter mode under a key of the operating system's.
//!
//! Canonne, Kamath and Steinke 2020, algorithm 3: propose a discrete Laplace variable Y of scale t = floor(sigma) + 1
//! (algorithm 2), accept it with probability exp(-(|Y| - sigma^2/t)^2/(2 sigma^2)). One trial here is one pass of both:
//! U uniform below t, V geometric with ratio 1/e, a sign; x = U + t V; and the two acceptances, e^(-U/t) and the one
//! above, are one, since independent coins may be tossed as one with the product of their probabilities. A trial that
//! fails, or gives -0, is repeated with fresh words, so values come out with probability proportional to e^-V e^(-U/t)
//! exp(-(x - sigma^2/t)^2/(2 sigma^2)), which is exp(-x^2/(2 sigma^2)) up to a constant.
//!
//! "e^-y > a uniform real" is decided with a few integer multiplications where 63 digits of the real and an
//! approximation of e^-y with a proven bound of its error suffice, and exactly, by the module `exact_exp`, in the one trial
//! out of 2^29 where they do not. Nothing is ever decided by the approximation alone.
//!
//! How many words a vector takes varies, and the time with it: whoever draws sends only after the whole vector is drawn,
//! at the time the plan names.

use chacha20::rand_core::Rng;
use eranos_base::Entropy;
use rand_distr::Distribution;
use rayon::prelude::*;
use zeroize::Zeroize;

use crate::{
    exact_exp::{LazyUniform, exp_floor},
    uniform::{Generator, generator},
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

/// The distribution N_Z(0, sigma^2): the probability of x is proportional to exp(-x^2/(2 sigma^2)).
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
    /// 63 less the bit length of p.
    square_shift: u32,
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
            square_shift: 63 - bit_length,
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
        let Octave { threshold, v } = self.tables.geometric[(u32::BITS - digits.leading_zeros()) as usize];
        let v = v + u64::from(digits < threshold);
        let mut open = digits < V_OPEN || digits == threshold;
        let x = u + self.scale * v;
        let negative = word >> 63 == 1;

        // y = x^2/(2 sigma^2) - V + sigma^2/(2 t^2), with 52 digits. x < 17 t, t <= 2 sigma, so the first term is below 578,
        // x^2 below 1.13 p, and fits its shift; each term is rounded by less than 5 units (the reciprocal's error is below
        // 2^-62 of it).
        let square = ((u128::from((x * x) << self.square_shift) * u128::from(self.reciprocal)) >> 64) as u64;
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
    rng: Generator,
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

/// Adds one client's noise for one attempt to every value of `sum`, on the threads of the pool it is called on. Each block
/// has a generator of its own, seeded afresh, so the noise does not depend on how many threads there are.
pub fn add_noise(variance: NoiseVariance, entropy: &mut dyn Entropy, sum: &mut [i64]) {
    let blocks = sum.chunks_mut(SOURCE_LEN);
    let mut blocks: Vec<_> = blocks.map(|block| (NoiseSource::new(variance, entropy), block)).collect();
    blocks.par_iter_mut().for_each(|(source, block)| source.add_to(block));
}

impl std::fmt::Debug for NoiseSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("NoiseSource(omitted)")
    }
}

/// Fills `out`. The same trials as [`DiscreteGaussian::sample`], without a branch on whether one was accepted: its value is
/// written anyway, and overwritten by the next one's if it was not.
fn fill(distribution: &DiscreteGaussian, rng: &mut Generator, out: &mut [i64]) {
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

/// Of all digits with one bit length: V is k where floor(e^-(k+1) 2^31) <= digits < floor(e^-k 2^31), and no two of these
/// thresholds, each more than twice the next, have the same bit length.
#[derive(Clone, Copy)]
struct Octave {
    /// The threshold of this bit length, 0 if there is none.
    threshold: u32,
    /// How many thresholds are longer.
    v: u64,
}

/// e^-y at the places that the fast comparison needs; 8 KiB.
#[derive(Clone)]
struct Tables {
    /// What V is, by the bit length of its 31 digits.
    geometric: [Octave; u32::BITS as usize],
    /// floor(e^-k 2^63), k = 0 to 32. Beyond 32 the last one is used: both are below the error that is allowed for.
    whole: [u64; WHOLE_MAX + 1],
    /// floor(e^(-k/1024) 2^63).
    fraction: Box<[u64; FRACTION_MASK + 1]>,
}

impl Tables {
    fn new() -> Self {
        static TABLES: std::sync::LazyLock<Tables> = std::sync::LazyLock::new(|| Tables {
            geometric: std::array::from_fn(|bit_length| {
                let thresholds = (1..=V_FAST).map(|k| exp_floor(k, 1, 31) as u32);
                let (above, within): (Vec<u32>, Vec<u32>) = thresholds
                    .filter(|&threshold| u32::BITS - threshold.leading_zeros() >= bit_length as u32)
                    .partition(|&threshold| u32::BITS - threshold.leading_zeros() > bit_length as u32);
                Octave { threshold: within.first().copied().unwrap_or(0), v: above.len() as u64 }
            }),
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

const V_FAST: u128 = 16;
/// floor(e^-16 2^31): whether V is 16 or more is left open.
const V_OPEN: u32 = 241;
const V_MASK: u32 = (1 << 31) - 1;
const WHOLE_MAX: usize = 32;
const FRACTION_MASK: usize = 1023;
/// 2^-30 with 63 digits: twice what the approximation of e^-y is off at most.
const EXP_ERROR: u64 = 1 << 33;
/// Random words that are drawn at once.
const WORDS_LEN: usize = 512;
/// Values that one generator draws for.
const SOURCE_LEN: usize = 1 << 14;
/// Values that are noised at once.
const BLOCK_LEN: usize = 1024;

#[cfg(test)]
mod tests {
    use eranos_base::SeededEntropy;

    use super::*;

    fn variance(deviation: f64) -> NoiseVariance {
        NoiseVariance::from_numerator((deviation * deviation * 1024.0) as u64).expect("in range")
    }

    fn draw(variance: NoiseVariance, len: usize, seed: u64) -> Vec<i64> {
        let mut noise = vec![0; len];
        NoiseSource::new(variance, &mut SeededEntropy::new(seed)).fill(&mut noise);
        noise
    }

    #[test]
    fn the_variance_is_right_at_the_size_of_a_model() {
        let d = 1 << 17;
        for (seed, deviation) in [4.0, 100.0, 5.5e4, 71_923.4, 1e6].into_iter().enumerate() {
            let variance = variance(deviation);
            let noise = draw(variance, d, seed as u64);
            let r = noise.iter().map(|x| (*x as f64).powi(2)).sum::<f64>() / (d as f64 * variance.to_f64());
            let deviations = (r - 1.0) * (d as f64 / 2.0).sqrt();
            assert!(deviations.abs() < 5.0, "R = {r}, sg {deviation}, seed {seed}");
            // The test can fail: noise short by 10 % is 36 deviations away.
            assert!((0.81f64 * r - 1.0).abs() * (d as f64 / 2.0).sqrt() > 5.0);
            let mean = noise.iter().map(|x| *x as f64).sum::<f64>() / d as f64;
            assert!(mean.abs() < 5.0 * deviation / (d as f64).sqrt(), "mean {mean}, sg {deviation}, seed {seed}");
        }
    }

    #[test]
    fn large_noise_has_the_shape_of_the_bell() {
        // Kolmogorov and Smirnov's statistic against the continuous normal, whose steps are far finer than what it sees.
        let (len, deviation) = (1 << 18, 5.5e4);
        let mut noise = draw(variance(deviation), len, 12);
        noise.sort_unstable();
        let n = len as f64;
        let distance = noise
            .iter()
            .enumerate()
            .map(|(i, x)| ((i as f64 + 0.5) / n - normal_cdf((*x as f64 + 0.5) / deviation)).abs())
            .fold(0.0, f64::max);
        assert!(distance * n.sqrt() < 2.5, "{distance}, seed 12");
    }

    /// Abramowitz and Stegun 26.2.17, error below 7.5e-8.
    fn normal_cdf(x: f64) -> f64 {
        let t = 1.0 / (1.0 + 0.231_641_9 * x.abs());
        let poly =
            t * (0.319_381_530 + t * (-0.356_563_782 + t * (1.781_477_937 + t * (-1.821_255_978 + t * 1.330_274_429))));
        let upper = poly * (-x * x / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt();
        if x >= 0.0 { 1.0 - upper } else { upper }
    }

    /// The same trial without the fast path: everything decided by `settle`.
    fn trial_exactly(distribution: &DiscreteGaussian, word: u64, coin: u64) -> Option<i64> {
        let trial = distribution.trial(word, coin);
        distribution.settle(&trial, word, coin, &mut generator(&mut SeededEntropy::new(0)))
    }

    #[test]
    fn the_fast_decision_is_the_exact_one() {
        let mut rng = generator(&mut SeededEntropy::new(31));
        for numerator in [256, 300, 1024, 16 << 10, 12_345_678, 5_297_000_000_000, (1 << 50) - 1] {
            let distribution = DiscreteGaussian::new(NoiseVariance::from_numerator(numerator).expect("in range"));
            for round in 0..3000 {
                let mut word = rng.next_u64();
                let mut coin = rng.next_u64();
                // Some near the ends of their ranges, where a bound would be exceeded first.
                if round % 5 == 0 {
                    word &= !(0x7fff_0000 << 32);
                }
                if round % 7 == 0 {
                    coin >>= 20;
                }
                let trial = distribution.trial(word, coin);
                let uniform = (u64::from(word as u32) * distribution.scale) as u32 >= distribution.surplus;
                if trial.open || !uniform {
                    continue;
                }
                let fast = trial.accepted.then(|| trial.value());
                let exact = trial_exactly(&distribution, word, coin);
                assert_eq!(fast, exact, "p = {numerator}, word {word:#x}, coin {coin:#x}, seed 31");
            }
        }
    }

    #[test]
    fn the_table_of_bit_lengths_counts_the_thresholds_above() {
        let thresholds: Vec<u32> = (1..=V_FAST).map(|k| exp_floor(k, 1, 31) as u32).collect();
        assert_eq!(thresholds.last(), Some(&V_OPEN));
        let near = thresholds.iter().flat_map(|&t| [t - 1, t, t + 1]);
        let ends = (0..31).flat_map(|bit| [(1 << bit) - 1, 1 << bit]);
        for digits in near.chain(ends).chain([V_MASK]) {
            let Octave { threshold, v } = Tables::new().geometric[(32 - digits.leading_zeros()) as usize];
            let expected = thresholds.iter().filter(|&&t| digits < t).count() as u64;
            assert_eq!(v + u64::from(digits < threshold), expected, "digits {digits}");
            assert!(thresholds.contains(&digits) <= (digits == threshold), "digits {digits}");
        }
    }

    #[test]
    fn coins_around_the_approximation_are_left_open_and_settled_exactly() {
        let distribution = DiscreteGaussian::new(variance(100.0));
        let mut rng = generator(&mut SeededEntropy::new(17));
        let mut n_settled = [0; 2];
        for _ in 0..200 {
            let word = rng.next_u64();
            if (word >> 32) as u32 & V_MASK < exp_floor(3, 1, 31) as u32 {
                continue;
            }
            // Halving finds the coin at which the fast decision changes.
            let (mut low, mut high) = (0u64, u64::MAX);
            while low + 1 < high {
                let middle = low + (high - low) / 2;
                if distribution.trial(word, middle).accepted { low = middle } else { high = middle }
            }
            let center = high.wrapping_add(2 * EXP_ERROR);
            if high < 1 << 40 || center < high {
                continue;
            }
            let trial = distribution.trial(word, center);
            assert!(trial.open);
            // The true threshold lies within the error that the doc claims, a third of what is allowed for.
            let far = 2 * (EXP_ERROR / 2);
            assert!(trial_exactly(&distribution, word, center - far).is_some());
            assert!(trial_exactly(&distribution, word, center.saturating_add(far)).is_none());
            let settled = trial_exactly(&distribution, word, center + rng.next_u64() % (1 << 31)).is_some();
            n_settled[usize::from(settled)] += 1;
        }
        assert!(n_settled.iter().sum::<i32>() > 50, "{n_settled:?}");
    }

    #[test]
    fn the_exact_path_alone_draws_the_same_distribution() {
        // Chi-square of values that never took the fast path, at sigma^2 = 4.
        let distribution = DiscreteGaussian::new(NoiseVariance::from_numerator(4096).expect("in range"));
        let mut rng = generator(&mut SeededEntropy::new(23));
        let mut counts = [0f64; 11];
        let mut n = 0.0;
        while n < 20_000.0 {
            let (word, coin) = (rng.next_u64(), rng.next_u64());
            let trial = distribution.trial(word, coin);
            let uniform = (u64::from(word as u32) * distribution.scale) as u32 >= distribution.surplus;
            if let Some(x) = uniform.then(|| distribution.settle(&trial, word, coin, &mut rng)).flatten() {
                counts[(x.clamp(-5, 5) + 5) as usize] += 1.0;
                n += 1.0;
            }
        }
        let weight = |x: i32| (-f64::from(x * x) / 8.0).exp();
        let total: f64 = (-60..=60).map(weight).sum();
        let expected = |x: i32| n / total * if x.abs() == 5 { (5..60).map(weight).sum() } else { weight(x) };
        let chi_square: f64 = (-5..=5).map(|x| (counts[(x + 5) as usize] - expected(x)).powi(2) / expected(x)).sum();
        // 10 degrees of freedom: 46 is passed with probability 1e-6.
        assert!(chi_square < 46.0, "{chi_square}, {counts:?}, seed 23");
    }

    #[test]
    fn one_value_at_a_time_is_the_same_distribution() {
        let distribution = DiscreteGaussian::new(variance(100.0));
        let mut rng = generator(&mut SeededEntropy::new(2));
        let n = 200_000;
        let squares: f64 = (0..n).map(|_| (distribution.sample(&mut rng) as f64).powi(2)).sum();
        let r = squares / (f64::from(n) * distribution.numerator as f64 / 1024.0);
        assert!(((r - 1.0) * (f64::from(n) / 2.0).sqrt()).abs() < 5.0, "{r}, seed 2");
    }

    #[test]
    fn clients_and_rounds_share_no_noise() {
        let d = 1 << 16;
        let mut entropy = SeededEntropy::new(41);
        let mut vectors = Vec::new();
        for _ in 0..4 {
            let mut noise = vec![0i64; d];
            add_noise(variance(1000.0), &mut entropy, &mut noise);
            vectors.push(noise);
        }
        for (i, a) in vectors.iter().enumerate() {
            for b in &vectors[i + 1..] {
                let r = a.iter().zip(b).map(|(a, b)| (*a as f64) * (*b as f64)).sum::<f64>() / (d as f64 * 1e6);
                assert!(r.abs() < 5.0 / (d as f64).sqrt(), "correlation {r}, seed 41");
            }
            // Nor does a vector repeat itself from block to block, or from generator to generator.
            for lag in [BLOCK_LEN, SOURCE_LEN] {
                let r = a.iter().zip(&a[lag..]).map(|(a, b)| (*a as f64) * (*b as f64)).sum::<f64>() / (d as f64 * 1e6);
                assert!(r.abs() < 5.0 / (d as f64).sqrt(), "correlation {r} at a lag of {lag}, seed 41");
            }
        }
    }

    #[test]
    fn the_noise_of_an_attempt_does_not_depend_on_the_threads() {
        let draw = |n_threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(n_threads).build().expect("threads");
            let mut noise = vec![0; 3 * SOURCE_LEN + 5];
            pool.install(|| add_noise(variance(1000.0), &mut SeededEntropy::new(43), &mut noise));
            noise
        };
        assert_eq!(draw(1), draw(3));
    }

    #[test]
    fn every_length_is_filled() {
        for len in [0, 1, 2, 3, 63, 1023, 1024, 1025, 3000] {
            // At this deviation a zero has probability 4e-7.
            let noise = draw(variance(1e6), len, len as u64);
            assert!(noise.iter().all(|x| *x != 0), "length {len}");
        }
    }
}
