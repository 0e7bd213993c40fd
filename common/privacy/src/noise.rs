//! The exact discrete Gaussian: integers only, from the words of AES in counter mode under a key of the operating system's.
//!
//! It is drawn by rejection from strips of equal area (Ahrens 1995, "A one-table method for sampling from continuous and
//! discrete distributions"). Let g(x) = exp(-x^2/(2 sigma^2)). A magnitude x is 2^s points of a finer grid, z with
//! x = floor(z/2^s), and 0, which has two signs, half as many: the points go from 2^(s-1) on. Strip i of the first 255 is
//! `width` points in a row, the first of which has g <= c/`width`, with one integer c for all strips. One of 256 is chosen
//! with equal chances, a point of it with equal chances, and a sign; the point is accepted with probability
//! g(x) `width`/c, which is at most 1, since g falls. So every point of every strip comes out with a probability
//! proportional to 1/256 1/`width` g(x) `width`/c, which is g(x) up to a constant.
//!
//! The last of the 256 is the tail: all points from z_T on. V is geometric with ratio 1/2, U uniform below T, z =
//! z_T + U + V T; that proposes z with probability 2^-(V+1)/T, as a strip of `width` 2^(V+1) T would, and so it is accepted with
//! probability g(x) 2^(V+1) T/c. T is a multiple of 2^s so large that g falls to a half or less from block to block, and
//! c so large that the first block's probability is at most 1: then all are.
//!
//! Which widths, z_T and T are taken changes only how often a trial fails, about once in a hundred; that they keep the two
//! bounds is what the distribution rests on. They are found with a few integer multiplications, g being approximated with
//! a proven bound of its error and every rounding on the safe side.
//!
//! One word of 64 digits is a trial: 8 digits for the strip, the sign, 23 digits of a uniform real, 32 for the point (Lemire
//! 2019; where they are surplus, others are drawn for a point of the same strip, so that all strips keep equal chances).
//! Where the 23 digits lie below the least g(x) `width`/c of the strip, in 98 of 100 trials, that is all. Elsewhere the real
//! gets 41 more digits and is compared with the approximation, and where that is too coarse, exactly, by the module
//! `exact_exp`. Nothing is ever decided by the approximation alone.
//!
//! How many words a vector takes varies, and the time with it: whoever draws sends only after the whole vector is drawn,
//! at the time the plan names.

use std::sync::LazyLock;

use chacha20::rand_core::Rng;
use eranos_base::Entropy;
use rand_distr::Distribution;
use rayon::prelude::*;
use zeroize::Zeroize;

use crate::{
    exact_exp::{LazyUniform, exp_floor},
    uniform::{Generator, below, generator},
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
    bell: Bell,
    /// s: log2 of the points of one magnitude.
    log_points: u32,
    /// c.
    area: u32,
    strips: [Strip; N_STRIPS],
    tail: Tail,
}

/// Points in a row, any of which is proposed with the same probability.
#[derive(Clone, Copy, Default)]
struct Strip {
    /// The first one.
    start: u32,
    /// How many. The tail stands in the table as a strip of none.
    width: u32,
    /// 2^32 mod `width`.
    surplus: u32,
    /// A real whose first 23 digits are below this is below g(x) `width`/c at every point.
    accepted_below: u32,
}

/// All points from `start` on, in blocks of which each is proposed half as often as the one before.
#[derive(Clone, Copy, Default)]
struct Tail {
    /// z_T.
    start: u64,
    /// T.
    block_len: u32,
}

impl DiscreteGaussian {
    /// The distribution with parameter `variance`.
    pub fn new(variance: NoiseVariance) -> Self {
        let bell = Bell::new(variance);
        // 2^20 <= 2^s sigma < 2^21, and s from 1 to 21.
        let log_deviation = (variance.0.ilog2() as i32 - 10).div_euclid(2);
        let log_points = (20 - log_deviation) as u32;
        // All points together are sqrt(pi/2) 2^s sigma, so that c is above 2^12; at the upper end the strips reach far beyond
        // all that counts.
        let (mut low, mut high) = (AREA_MIN, AREA_MAX);
        while high - low > AREA_STEP {
            let middle = u32::midpoint(low, high);
            if lay_out(&bell, log_points, middle).is_some() { high = middle } else { low = middle }
        }
        let (strips, tail) = lay_out(&bell, log_points, high).expect("the largest area leaves a tail that fits it");
        Self { bell, log_points, area: high, strips, tail }
    }

    /// One trial, if `word` alone decides that it is accepted.
    #[inline(always)]
    fn trial(&self, word: u64) -> Option<i64> {
        let strip = &self.strips[word as usize % N_STRIPS];
        let product = (word >> 32) * u64::from(strip.width);
        let point = u64::from(strip.start) + (product >> 32);
        let accepted = (real_digits(word) < strip.accepted_below) & (product as u32 >= strip.surplus);
        accepted.then_some(signed(point >> self.log_points, word))
    }

    /// The same trial where `word` does not decide it so, with as many more from `rng` as it takes.
    #[cold]
    #[inline(never)]
    fn settle<R: Rng + ?Sized>(&self, word: u64, rng: &mut R) -> Option<i64> {
        let strip = self.strips[word as usize % N_STRIPS];
        let (point, width, real) = if strip.width > 0 {
            let product = (word >> 32) * u64::from(strip.width);
            // The strip stays: if surplus words failed, one whose width leaves more of 2^32 would be proposed less often.
            let place = if product as u32 >= strip.surplus { product >> 32 } else { below(rng, strip.width.into()) };
            let real = LazyUniform::starting_with(u64::from(real_digits(word)) << 41 | rng.next_u64() >> 23);
            (u64::from(strip.start) + place, strip.width, real)
        } else {
            let v = geometric(rng);
            let block_len = self.tail.block_len;
            let point = self.tail.start + below(rng, block_len.into()) + u64::from(v) * u64::from(block_len);
            // A real below g 2^(V+1) T/c is one whose 2^V-th is below g 2 T/c.
            (point, 2 * block_len, LazyUniform::after_zeros(v, rng))
        };
        let x = point >> self.log_points;
        self.accepts(x, width, real, rng).then(|| signed(x, word))
    }

    /// Whether `real` is below g(x) `width`/c.
    fn accepts<R: Rng + ?Sized>(&self, x: u64, width: u32, mut real: LazyUniform, rng: &mut R) -> bool {
        let digits = u128::from(real.first >> 1);
        let (area, wide) = (u128::from(self.area), u128::from(width));
        let g = self.bell.approximate(x);
        if (digits + 1) * area <= wide * u128::from(g.saturating_sub(EXP_ERROR)) {
            return true;
        }
        if digits * area >= wide * u128::from(g + EXP_ERROR) {
            return false;
        }
        // x^2/(2 sigma^2) = 2^9 x^2/p.
        let square = u128::from(x) * u128::from(x);
        real.below_exp(self.area, width, square << 9, self.bell.numerator.into(), rng)
    }
}

/// The strips of area `area` and the tail that they leave, if that fits the area too.
fn lay_out(bell: &Bell, log_points: u32, area: u32) -> Option<([Strip; N_STRIPS], Tail)> {
    let mut strips = [Strip::default(); N_STRIPS];
    let mut start = 1 << (log_points - 1);
    for strip in &mut strips[..N_STRIPS - 1] {
        let most = (u128::from(area) << 63) / u128::from(bell.approximate(start >> log_points) + EXP_ERROR);
        let width = most.min(WIDTH_MAX.into()) as u32;
        let least = bell.approximate((start + u64::from(width) - 1) >> log_points).saturating_sub(EXP_ERROR);
        *strip = Strip {
            start: start as u32,
            width,
            surplus: ((1u64 << 32) % u64::from(width)) as u32,
            accepted_below: ((u128::from(least) * u128::from(width) / u128::from(area)) >> 40) as u32,
        };
        start += u64::from(width);
    }
    // g(x + t) <= g(x)/2 from x on where (x + t)^2 >= x^2 + 2 ln 2 sigma^2, and 2 ln 2 < 1.387.
    let x = start >> log_points;
    let further = (x * x + bell.numerator * 1387 / 1_024_000 + 1).isqrt() + 1 - x;
    let block_len = u32::try_from(further << log_points).ok().filter(|len| *len <= WIDTH_MAX)?;
    let proposed = u128::from(bell.approximate(x) + EXP_ERROR) * 2 * u128::from(block_len);
    (proposed <= u128::from(area) << 63).then_some((strips, Tail { start, block_len }))
}

/// The 23 digits of a trial's word that begin a uniform real.
#[inline(always)]
fn real_digits(word: u64) -> u32 {
    (word as u32) >> 9
}

/// x with the sign that a trial's word gives it, without a branch.
#[inline(always)]
fn signed(x: u64, word: u64) -> i64 {
    let sign = -((word >> 8 & 1) as i64);
    (x as i64 ^ sign) - sign
}

/// How often a fair coin falls in a row: V with probability 2^-(V+1).
fn geometric<R: Rng + ?Sized>(rng: &mut R) -> u32 {
    let mut n_full = 0;
    loop {
        let word = rng.next_u64();
        if word != 0 {
            return n_full + word.leading_zeros();
        }
        n_full += u64::BITS;
    }
}

impl Distribution<i64> for DiscreteGaussian {
    fn sample<R: Rng + ?Sized>(&self, rng: &mut R) -> i64 {
        loop {
            let word = rng.next_u64();
            if let Some(value) = self.trial(word).or_else(|| self.settle(word, rng)) {
                return value;
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
        add(&self.distribution, &mut self.rng, sum);
    }
}

/// Adds one client's noise for one attempt to every value of `sum`, on the threads of the pool it is called on. Each block
/// has a generator of its own, seeded afresh, so the noise does not depend on how many threads there are.
pub fn add_noise(variance: NoiseVariance, entropy: &mut dyn Entropy, sum: &mut [i64]) {
    let distribution = DiscreteGaussian::new(variance);
    let mut blocks: Vec<_> = sum.chunks_mut(SOURCE_LEN).map(|block| (generator(entropy), block)).collect();
    blocks.par_iter_mut().for_each(|(rng, block)| add(&distribution, rng, block));
}

impl std::fmt::Debug for NoiseSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("NoiseSource(omitted)")
    }
}

/// Adds noise to every value of `sum`.
fn add(distribution: &DiscreteGaussian, rng: &mut Generator, sum: &mut [i64]) {
    let mut noise = [0; BLOCK_LEN];
    for block in sum.chunks_mut(BLOCK_LEN) {
        let noise = &mut noise[..block.len()];
        fill(distribution, rng, noise);
        for (value, noise) in block.iter_mut().zip(noise) {
            *value = value.wrapping_add(*noise);
        }
    }
    noise.zeroize();
}

/// Fills `out`: the trials of [`DiscreteGaussian::sample`], from many words at once.
fn fill(distribution: &DiscreteGaussian, rng: &mut Generator, out: &mut [i64]) {
    let mut bytes = [0; WORDS_LEN * 8];
    let mut n_filled = 0;
    while n_filled < out.len() {
        // Hardly more than one trial a value; what is drawn too much is forgotten.
        let n_bytes = ((out.len() - n_filled) * 8 + 64).min(bytes.len()) & !15;
        let bytes = &mut bytes[..n_bytes];
        rng.fill_bytes(bytes);
        for word in bytes.chunks_exact(8) {
            let word = u64::from_le_bytes(word.try_into().unwrap_or_default());
            let Some(value) = distribution.trial(word).or_else(|| distribution.settle(word, rng)) else { continue };
            let Some(place) = out.get_mut(n_filled) else { break };
            *place = value;
            n_filled += 1;
        }
    }
    bytes.zeroize();
}

/// g for one sigma.
#[derive(Clone)]
struct Bell {
    /// p.
    numerator: u64,
    /// 2^(62 + bit length of p)/p, rounded down: in (2^62, 2^63].
    reciprocal: u64,
    /// 63 less the bit length of p.
    square_shift: u32,
    tables: &'static Tables,
}

impl Bell {
    fn new(variance: NoiseVariance) -> Self {
        static TABLES: LazyLock<Tables> = LazyLock::new(Tables::new);
        let p = variance.0;
        let bit_length = u64::BITS - p.leading_zeros();
        Self {
            numerator: p,
            reciprocal: ((1u128 << (62 + bit_length)) / u128::from(p)) as u64,
            square_shift: 63 - bit_length,
            tables: &TABLES,
        }
    }

    /// g(x) = exp(-x^2/(2 sigma^2)) with 63 digits, off by less than [`EXP_ERROR`].
    fn approximate(&self, x: u64) -> u64 {
        // y = x^2/(2 sigma^2) = 2^9 x^2/p, with 52 digits. Beyond y = 2^10, x^2 = 2 p, the shift would not fit; e^-y is then nothing
        // but error. The reciprocal is rounded by less than 2^-62 of itself, so y by less than 2^-51.
        let square = x.saturating_mul(x);
        if square >= 2 * self.numerator {
            return 0;
        }
        let y = ((u128::from(square << self.square_shift) * u128::from(self.reciprocal)) >> 64) as u64;
        // Whole part, 10 digits of the fraction, and 1 - r + r^2/2 for the rest, r < 2^-10. The error is below r^3/6 < 2^-32.5 from
        // the series, 2^-51 from y, and a few units of 2^-63: below 2^-31 in all.
        let whole = self.tables.whole[((y >> 52) as usize).min(WHOLE_MAX)];
        let fraction = self.tables.fraction[(y >> 42) as usize & FRACTION_MASK];
        let r = (y & ((1 << 42) - 1)) << 11;
        let series = (1 << 63) - r + (high_63(r, r) >> 1);
        high_63(high_63(whole, fraction), series)
    }
}

/// e^-y at the places that the approximation needs; 8 KiB.
struct Tables {
    /// floor(e^-k 2^63), k = 0 to 32. Beyond 32 the last one is used: both are below the error that is allowed for.
    whole: [u64; WHOLE_MAX + 1],
    /// floor(e^(-k/1024) 2^63).
    fraction: [u64; FRACTION_MASK + 1],
}

impl Tables {
    fn new() -> Self {
        Self {
            whole: std::array::from_fn(|k| exp_floor(k as u128, 1, 63) as u64),
            fraction: std::array::from_fn(|k| exp_floor(k as u128, 1024, 63) as u64),
        }
    }
}

/// a b/2^63, rounded down, for factors of at most 2^63.
#[inline(always)]
fn high_63(a: u64, b: u64) -> u64 {
    ((u128::from(a) * u128::from(b)) >> 63) as u64
}

const N_STRIPS: usize = 256;
/// Between these lies c, and it is found up to this.
const AREA_MIN: u32 = 1 << 12;
const AREA_MAX: u32 = 1 << 14;
const AREA_STEP: u32 = 8;
/// More than three sigma: of a strip that wide hardly a point would be accepted.
const WIDTH_MAX: u32 = 1 << 23;
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
    use num_bigint::BigInt;
    use num_rational::BigRational;
    use num_traits::ToPrimitive;

    use super::*;
    use crate::fractions::{exact, exp_bounds, whole};

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

    /// Numerators of every kind: the least and the largest, those at which s changes, and what tasks have.
    const NUMERATORS: [u64; 10] =
        [256, 300, 1023, 1024, 4095, 16 << 10, 12_345_678, 5_297_000_000_000, 1 << 49, (1 << 50) - 1];

    fn distributions() -> impl Iterator<Item = DiscreteGaussian> {
        NUMERATORS.into_iter().map(|p| DiscreteGaussian::new(NoiseVariance::from_numerator(p).expect("in range")))
    }

    /// Gives out the words it was made with, then zeros.
    struct Script(Vec<u64>);

    impl chacha20::rand_core::TryRng for Script {
        type Error = std::convert::Infallible;

        fn try_next_u32(&mut self) -> Result<u32, Self::Error> {
            Ok(self.try_next_u64()? as u32)
        }

        fn try_next_u64(&mut self) -> Result<u64, Self::Error> {
            Ok(self.0.pop().unwrap_or(0))
        }

        fn try_fill_bytes(&mut self, _: &mut [u8]) -> Result<(), Self::Error> {
            unreachable!("words only")
        }
    }

    /// Whether a real with these first digits, and zeros after them, is below g(x) `width`/c: never by the approximation.
    fn is_below(distribution: &DiscreteGaussian, first: u64, x: u64, width: u32) -> bool {
        let square = u128::from(x) * u128::from(x);
        let p = distribution.bell.numerator.into();
        LazyUniform::starting_with(first).below_exp(distribution.area, width, square << 9, p, &mut Script(Vec::new()))
    }

    #[test]
    fn the_strips_keep_the_bounds_that_the_distribution_rests_on() {
        for distribution in distributions() {
            let DiscreteGaussian { bell, log_points, area, strips, tail } = &distribution;
            let p = bell.numerator;
            let mut next = 1u64 << (log_points - 1);
            for strip in &strips[..N_STRIPS - 1] {
                // In a row, without a gap; the first point's probability, the largest, is at most 1: the largest real is below
                // g width/c only if that is 1 or more.
                assert_eq!(u64::from(strip.start), next, "p = {p}");
                assert_eq!(u64::from(strip.surplus), (1 << 32) % u64::from(strip.width));
                let (first, last) = (next >> log_points, (next + u64::from(strip.width) - 1) >> log_points);
                assert!(
                    first == 0 && strip.width <= *area || !is_below(&distribution, u64::MAX, first, strip.width),
                    "p = {p}"
                );
                // What is accepted at once lies below the last point's probability, the least.
                let digits = u64::from(strip.accepted_below);
                assert!(digits == 0 || is_below(&distribution, (digits << 41) - 1, last, strip.width), "p = {p}");
                next += u64::from(strip.width);
            }
            assert_eq!((strips[N_STRIPS - 1].width, strips[N_STRIPS - 1].accepted_below), (0, 0));
            // The tail goes on where they end, in whole magnitudes; its first block's probability is at most 1, and every next
            // one's is at most as large: g falls by half, e^-y < 1/2 where y > 0.69315.
            assert_eq!((tail.start, tail.block_len % (1 << log_points)), (next, 0), "p = {p}");
            let (x, t) = (next >> log_points, u128::from(tail.block_len >> log_points));
            assert!(!is_below(&distribution, u64::MAX, x, 2 * tail.block_len), "p = {p}");
            let square = |x: u128| x * x;
            assert!(
                (square(u128::from(x) + t) - square(x.into())) * 512 * 100_000 >= u128::from(p) * 69_315,
                "p = {p}"
            );
            // Few trials fail.
            let points = (std::f64::consts::PI / 2.0 * p as f64 / 1024.0).sqrt() * f64::from(1 << log_points);
            let accepted = points / (N_STRIPS as f64 * f64::from(*area));
            assert!((0.95..1.0).contains(&accepted), "p = {p}: {accepted}");
        }
    }

    #[test]
    fn there_are_strips_for_every_variance() {
        let mut rng = generator(&mut SeededEntropy::new(37));
        for _ in 0..1000 {
            let p = (NoiseVariance::NUMERATOR_MAX >> (rng.next_u64() % 42)) - rng.next_u64() % 100;
            let DiscreteGaussian { area, tail, .. } =
                DiscreteGaussian::new(NoiseVariance::from_numerator(p).expect("in range"));
            assert!(
                (AREA_MIN + AREA_STEP..AREA_MAX - AREA_STEP).contains(&area) && tail.block_len > 0,
                "p = {p}, seed 37"
            );
        }
    }

    #[test]
    fn every_trial_ends_as_the_definition_says() {
        // Whatever the fast ways decide is what an exact comparison of the same digits decides. A trial never fails for its
        // point: every strip has the chance of every other, whatever 2^32 leaves modulo its width.
        let mut rng = generator(&mut SeededEntropy::new(31));
        for distribution in distributions() {
            let (p, mut n_at_once, mut n_surplus) = (distribution.bell.numerator, 0, 0);
            for round in 0..500 {
                let mut word = rng.next_u64();
                if round % 4 == 0 {
                    // Around what is accepted at once.
                    let strip = distribution.strips[word as usize % N_STRIPS];
                    let digits = (strip.accepted_below + (word >> 40) as u32 % 3).saturating_sub(1).min((1 << 23) - 1);
                    word = word & !(((1 << 23) - 1) << 9) | u64::from(digits) << 9;
                }
                if round % 4 == 1 {
                    // The first of a point's words, which is one too many wherever there is a surplus.
                    word &= (1 << 32) - 1;
                }
                let strip = distribution.strips[word as usize % N_STRIPS];
                if strip.width == 0 {
                    continue;
                }
                let (more, another) = (rng.next_u64(), rng.next_u64());
                let product = (word >> 32) * u64::from(strip.width);
                let is_surplus = product % (1 << 32) < (1 << 32) % u64::from(strip.width);
                let (place, script) = match is_surplus {
                    true => (((u128::from(another) * u128::from(strip.width)) >> 64) as u64, vec![more, another]),
                    false => (product >> 32, vec![more]),
                };
                let x = (u64::from(strip.start) + place) >> distribution.log_points;
                let first = (word >> 9 & ((1 << 23) - 1)) << 41 | more >> 23;
                let accepted = is_below(&distribution, first, x, strip.width);
                let expected = accepted.then(|| if word >> 8 & 1 == 1 { -(x as i64) } else { x as i64 });
                let at_once = distribution.trial(word);
                n_at_once += usize::from(at_once.is_some());
                n_surplus += u32::from(is_surplus);
                let found = at_once.or_else(|| distribution.settle(word, &mut Script(script)));
                assert_eq!(found, expected, "p = {p}, word {word:#x}, then {more:#x}, seed 31");
            }
            assert!(n_at_once > 250 && n_surplus > 100, "p = {p}: {n_at_once}, {n_surplus}");
        }
    }

    #[test]
    fn the_tail_has_geometric_blocks_and_is_decided_exactly() {
        for distribution in distributions() {
            let DiscreteGaussian { log_points, tail, .. } = distribution;
            let word = N_STRIPS as u64 - 1;
            for v in [0, 1, 2, 7, 63, 64, 70, 130] {
                // V zeros and a one, U by Lemire's method, then the real's digits; given out from the last to the first.
                let u = tail.block_len / 3;
                let u_word = ((u128::from(u) << 64) / u128::from(tail.block_len)) as u64 + (1 << 40);
                let mut script = vec![0; v as usize / 64];
                script.extend([1 << (63 - v % 64), u_word]);
                let x = (tail.start + u64::from(u) + v * u64::from(tail.block_len)) >> log_points;
                for real in [0, 1 << 20, 1 << 50, 1 << 62, u64::MAX] {
                    // A real of nothing but zeros is told from e^-y by as many digits as that has zeros.
                    if v > 2 && real >> v.min(63) == 0 {
                        continue;
                    }
                    let mut words = script.clone();
                    words.push(real);
                    words.reverse();
                    let found = distribution.settle(word, &mut Script(words));
                    // real < g 2^(V+1) T/c, in floating point; near enough to it nothing is asserted.
                    let y = (x as f64).powi(2) * 512.0 / distribution.bell.numerator as f64;
                    let log_bound = (f64::from(tail.block_len) / f64::from(distribution.area)).ln()
                        + (v as f64 + 1.0) * std::f64::consts::LN_2
                        - y;
                    // The zeros push as many of the word's digits out, and more than these are zeros.
                    let kept = real >> (v % 64) << (v % 64);
                    let log_real = (kept as f64 / 2f64.powi(64)).ln();
                    if (log_real - log_bound).abs() > 1e-6 {
                        let accepted = log_real < log_bound;
                        assert_eq!(
                            found,
                            accepted.then_some(x as i64),
                            "p = {}, V = {v}, real {real:#x}",
                            distribution.bell.numerator
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn the_approximation_is_within_its_error() {
        let mut rng = generator(&mut SeededEntropy::new(17));
        for DiscreteGaussian { bell, .. } in distributions() {
            let deviation = (bell.numerator as f64 / 1024.0).sqrt();
            for _ in 0..100 {
                let x = (rng.next_u64() as f64 / 2f64.powi(64) * 40.0 * deviation) as u64;
                let exact = exp_floor(u128::from(x * x) << 9, bell.numerator.into(), 63) as u64;
                // A half of what is allowed for.
                assert!(
                    bell.approximate(x).abs_diff(exact) < EXP_ERROR / 2,
                    "p = {}, x = {x}, seed 17",
                    bell.numerator
                );
            }
        }
    }

    #[test]
    fn small_noise_has_the_probabilities_of_its_definition() {
        // Chi-square against the exact weights, from the least sigma that there is to one at which strips hold many values.
        for (seed, numerator) in [256, 1024, 4096, 100 << 10].into_iter().enumerate() {
            let noise = draw(NoiseVariance::from_numerator(numerator).expect("in range"), 400_000, seed as u64);
            let deviation = (numerator as f64 / 1024.0).sqrt();
            let end = (3.5 * deviation).ceil() as i64;
            let weight = |x: i64| (-((x * x) as f64) / (2.0 * deviation * deviation)).exp();
            let total: f64 = (-12 * end..=12 * end).map(weight).sum();
            let beyond: f64 = (end..=12 * end).map(weight).sum();
            let mut counts = vec![0f64; 2 * end as usize + 1];
            for x in &noise {
                counts[(x.clamp(&-end, &end) + end) as usize] += 1.0;
            }
            let chi_square: f64 = (-end..=end)
                .map(|x| {
                    let expected = noise.len() as f64 / total * if x.abs() == end { beyond } else { weight(x) };
                    (counts[(x + end) as usize] - expected).powi(2) / expected
                })
                .sum();
            // 2 end degrees of freedom; five of its deviations and some more for its skew.
            let degrees = 2.0 * end as f64;
            assert!(
                chi_square < degrees + 5.0 * (2.0 * degrees).sqrt() + 15.0,
                "{chi_square}, p = {numerator}, seed {seed}"
            );
        }
    }

    #[test]
    fn every_value_has_the_probability_of_the_definition_in_exact_fractions() {
        // How many of all trials give out a value, counted over the whole table: words of a place, digits of a real, signs. A
        // loss of one in ten thousand, which no number of samples in a test would show, shows here.
        const X_MAX: u64 = 24;
        let distribution = DiscreteGaussian::new(NoiseVariance::from_numerator(1024).expect("in range"));
        let DiscreteGaussian { bell, log_points, area, strips, tail } = &distribution;
        let fraction = |above: u64, below: u64| BigRational::new(above.into(), below.into());
        // In units of 2^-300, so that sums over all strips keep a common denominator.
        let unit: BigInt = BigInt::from(1) << 300;
        let units = |x: BigRational| (x * whole(unit.clone())).floor().to_integer();
        let g: Vec<BigRational> = (0..X_MAX)
            .map(|x| {
                let (low, high) = exp_bounds(&-BigRational::new((512 * x * x).into(), bell.numerator.into()));
                (low + high) / whole(2)
            })
            .collect();
        let at_most_one = |p: BigRational| if p > whole(1) { whole(1) } else { p };
        // Of magnitude x: the sum over its points of the probability that a trial of its strip ends there, 256 times.
        let mut found = vec![BigInt::from(0); X_MAX as usize];
        for (i, strip) in strips[..N_STRIPS - 1].iter().enumerate() {
            let (width, surplus) = (u64::from(strip.width), u64::from(strip.surplus));
            // Whether a surplus word takes another place of the same strip, or its trial is lost.
            let is_lost = surplus > 0 && {
                let word = i as u64;
                assert!((word >> 32) * width % (1 << 32) < surplus, "the word 0 is surplus");
                distribution.settle(word, &mut Script(vec![0, 1 << 63 | 1])).is_none()
            };
            let mut n_taken = 0;
            let (mut first, end) = (u64::from(strip.start), u64::from(strip.start) + width);
            while first < end {
                let x = first >> log_points;
                let next = ((x + 1) << log_points).min(end);
                // Words u with k 2^32 + surplus <= u width < (k + 1) 2^32, for all places k of this magnitude.
                let words = |k: u64| ((k + 1) << 32).div_ceil(width) - ((k << 32) + surplus).div_ceil(width);
                let n_words: u64 = (first..next).map(|point| words(point - u64::from(strip.start))).sum();
                n_taken += n_words;
                let digits = fraction(strip.accepted_below.into(), 1 << 23);
                let accepted = at_most_one(&g[x as usize] * fraction(width, (*area).into())).max(digits);
                let place = fraction(n_words, 1 << 32);
                found[x as usize] += units(place * &accepted);
                if !is_lost {
                    // All surplus words together, among all places alike.
                    let again = fraction(surplus, 1 << 32) * fraction(next - first, width);
                    found[x as usize] += units(again * accepted);
                }
                first = next;
            }
            assert_eq!(n_taken + surplus, 1 << 32, "every word has its place, or is surplus");
        }
        // Of the tail, V with 2^-(V+1) and a place with 1/T, accepted with 2^V 2 T g/c: at most 1 where a block begins.
        for v in 0.. {
            let first = tail.start + v * u64::from(tail.block_len);
            let next = first + u64::from(tail.block_len);
            if next >> log_points >= X_MAX {
                break;
            }
            for x in first >> log_points..next.div_ceil(1 << log_points) {
                let n_points = next.min((x + 1) << log_points) - first.max(x << log_points);
                let accepted = &g[x as usize] * fraction(u64::from(tail.block_len) << (v + 1), (*area).into());
                assert!(accepted <= whole(1), "V = {v}, x = {x}");
                let proposed = fraction(n_points, u64::from(tail.block_len) << (v + 1));
                found[x as usize] += units(proposed * accepted);
            }
        }
        // The same multiple of g for every value: c/2^s of it, by which trials are more than values.
        for x in 0..X_MAX / 2 {
            let points = if x == 0 { 1 << (log_points - 1) } else { 1u64 << log_points };
            let expected = &g[x as usize] * fraction(points, (*area).into());
            let off = BigRational::new(found[x as usize].clone(), unit.clone()) / expected - whole(1);
            assert!(
                off < exact(1e-20) && off > exact(-1e-20),
                "x = {x}: off by {:e} of itself",
                off.to_f64().unwrap_or(1.0)
            );
        }
    }

    #[test]
    fn values_beyond_the_strips_come_as_often_as_they_should() {
        // The tail is one strip of 256, of which about three quarters are accepted; all of it is beyond two and a half sigma.
        let len = 1 << 20;
        let deviation = 5.5e4;
        let noise = draw(variance(deviation), len, 19);
        for sigmas in [2.5, 3.0, 3.3, 3.6, 4.0] {
            let found = noise.iter().filter(|x| x.abs() as f64 > sigmas * deviation).count() as f64;
            let expected = len as f64 * 2.0 * normal_cdf(-sigmas);
            assert!(
                (found - expected).abs() < 5.0 * expected.sqrt() + 1.0,
                "{found} beyond {sigmas}, expected {expected}, seed 19"
            );
        }
    }

    #[test]
    fn one_value_at_a_time_is_the_same_distribution() {
        let distribution = DiscreteGaussian::new(variance(100.0));
        let mut rng = generator(&mut SeededEntropy::new(2));
        let n = 200_000;
        let squares: f64 = (0..n).map(|_| (distribution.sample(&mut rng) as f64).powi(2)).sum();
        let r = squares / (f64::from(n) * distribution.bell.numerator as f64 / 1024.0);
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
