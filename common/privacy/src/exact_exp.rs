//! Whether a uniform real lies below a multiple of e^-x, for a rational x, without ever approximating.
//!
//! The real's binary digits are drawn as they are needed; e^-x is enclosed between two numbers of as many digits, with
//! every rounding in the enclosure's disfavour; while the real lies inside the enclosure, both get 64 digits more. Slow,
//! and meant to be: [`crate::noise`] comes here less than once in 2^20 trials, when its fast comparison leaves the
//! question open, and to make its tables.

use chacha20::rand_core::Rng;

/// A uniform real in [0, 1) of which only some digits have been drawn.
pub(crate) struct LazyUniform {
    /// Its first 64 digits.
    pub(crate) first: u64,
    /// More, in groups of 64, the most significant first.
    rest: Vec<u64>,
}

impl LazyUniform {
    /// The real that starts with the 64 digits of `first`, which must be uniform.
    pub(crate) const fn starting_with(first: u64) -> Self {
        Self { first, rest: Vec::new() }
    }

    /// A uniform real over 2^`n_zeros`: so many zeros, then digits from `rng`.
    pub(crate) fn after_zeros<R: Rng + ?Sized>(n_zeros: u32, rng: &mut R) -> Self {
        let last = rng.next_u64() >> (n_zeros % u64::BITS);
        let mut words = vec![0; (n_zeros / u64::BITS) as usize];
        words.push(last);
        Self { first: words.remove(0), rest: words }
    }

    /// Whether the real times `scale` lies below `factor` e^(-numerator/denominator), drawing what digits that takes from
    /// `rng`.
    ///
    /// # Panics
    /// If the denominator is 0 or reaches 2^126.
    pub(crate) fn below_exp<R: Rng + ?Sized>(
        &mut self,
        scale: u32,
        factor: u32,
        numerator: u128,
        denominator: u128,
        rng: &mut R,
    ) -> bool {
        for n_words in 1.. {
            while self.rest.len() + 1 < n_words {
                self.rest.push(rng.next_u64());
            }
            let (low, high) = exp_enclosure(numerator, denominator, n_words);
            let mut real: Fixed = self.rest[..n_words - 1].iter().rev().copied().chain([self.first, 0]).collect();
            if !less(&times(&real, scale), &times(&high, factor)) {
                return false;
            }
            // The real lies in [real, real + 1 unit).
            increment(&mut real);
            if !less(&times(&low, factor), &times(&real, scale)) {
                return true;
            }
        }
        unreachable!("an irrational number and a rational one part at some digit; e^0 = 1 encloses itself")
    }
}

/// floor(e^(-numerator/denominator) 2^bits), for `bits` of at most 64.
pub(crate) fn exp_floor(numerator: u128, denominator: u128, bits: u32) -> u128 {
    // Two more words than asked for: the enclosure is then narrower than the distance to the next integer, unless it
    // contains one, in which case it is widened until it does not.
    for n_words in 3.. {
        let (low, high) = exp_enclosure(numerator, denominator, n_words);
        let top = |x: &[u64]| ((u128::from(x[n_words]) << 64) | u128::from(x[n_words - 1])) >> (64 - bits);
        if top(&low) == top(&high) {
            return top(&low);
        }
    }
    unreachable!("an irrational number is no multiple of 2^-64; e^0 encloses itself")
}

/// A number in [0, 1] in fixed point: words of the fraction, the least significant first, then the word of the integer part.
type Fixed = Vec<u64>;

/// `low` <= e^(-numerator/denominator) <= `high`, with `n_words` words of fraction. Both are 1 if the numerator is 0.
fn exp_enclosure(numerator: u128, denominator: u128, n_words: usize) -> (Fixed, Fixed) {
    assert!(denominator > 0 && denominator < 1 << 126, "the remainder must stay in 127 bits when doubled");
    let whole = numerator / denominator;
    let mut remainder = numerator % denominator;
    let mut fraction = vec![0; n_words + 1];
    for word in fraction[..n_words].iter_mut().rev() {
        for bit in (0..64).rev() {
            remainder *= 2;
            if remainder >= denominator {
                remainder -= denominator;
                *word |= 1 << bit;
            }
        }
    }
    let mut fraction_high = fraction.clone();
    if remainder > 0 {
        increment(&mut fraction_high);
    }
    let (mut low, mut high) = exp_of_fraction(&fraction, &fraction_high);
    if whole > 0 {
        let (inverse_e_low, inverse_e_high) = exp_of_fraction(&one(n_words), &one(n_words));
        for _ in 0..whole {
            low = multiply(&low, &inverse_e_low);
            high = multiply(&high, &inverse_e_high);
            increment(&mut high);
            if high[1..].iter().all(|word| *word == 0) {
                // Smaller than it can be told apart from 0 here; what follows only makes it smaller.
                low.fill(0);
                break;
            }
        }
    }
    (low, high)
}

/// e^-y for y in [y_low, y_high], both in [0, 1]: 1 - y (1 - y/2 (1 - y/3 (...))), the innermost bracket in [0, 1].
fn exp_of_fraction(y_low: &[u64], y_high: &[u64]) -> (Fixed, Fixed) {
    let n_words = y_low.len() - 1;
    let (mut low, mut high) = (vec![0; n_words + 1], one(n_words));
    // Enough that the first term left out, y^n/n!, is below the last digit.
    for n in (1..=(20 + 16 * n_words) as u64).rev() {
        let term_low = divide(&multiply(y_low, &low), n);
        let mut term_high = multiply(y_high, &high);
        if y_high.iter().any(|word| *word > 0) {
            increment(&mut term_high);
            term_high = divide(&term_high, n);
            increment(&mut term_high);
        }
        low = one_minus(&term_high);
        high = one_minus(&term_low);
    }
    (low, high)
}

fn one(n_words: usize) -> Fixed {
    let mut one = vec![0; n_words + 1];
    one[n_words] = 1;
    one
}

fn less(a: &[u64], b: &[u64]) -> bool {
    a.iter().rev().lt(b.iter().rev())
}

/// Adds one unit in the last place.
fn increment(a: &mut [u64]) {
    for word in a {
        let (sum, carry) = word.overflowing_add(1);
        *word = sum;
        if !carry {
            return;
        }
    }
}

/// 1 - a, or 0 where a exceeds 1.
fn one_minus(a: &[u64]) -> Fixed {
    let mut difference = one(a.len() - 1);
    if less(&difference, a) {
        difference.fill(0);
        return difference;
    }
    let mut borrow = false;
    for (x, y) in difference.iter_mut().zip(a) {
        let (first, borrow_first) = x.overflowing_sub(*y);
        let (second, borrow_second) = first.overflowing_sub(borrow.into());
        *x = second;
        borrow = borrow_first || borrow_second;
    }
    difference
}

/// a n, exactly; the word of the integer part has room for it.
fn times(a: &[u64], n: u32) -> Fixed {
    let mut carry = 0;
    let mut product = Vec::with_capacity(a.len());
    for word in a {
        carry += u128::from(*word) * u128::from(n);
        product.push(carry as u64);
        carry >>= 64;
    }
    product
}

/// a b, rounded down.
fn multiply(a: &[u64], b: &[u64]) -> Fixed {
    let n_words = a.len() - 1;
    let mut product = vec![0; 2 * a.len()];
    for (i, x) in a.iter().enumerate() {
        let mut carry = 0;
        for (j, y) in b.iter().enumerate() {
            let sum = u128::from(*x) * u128::from(*y) + u128::from(product[i + j]) + carry;
            product[i + j] = sum as u64;
            carry = sum >> 64;
        }
        product[i + b.len()] = carry as u64;
    }
    product[n_words..=2 * n_words].to_vec()
}

/// a/n, rounded down.
fn divide(a: &[u64], n: u64) -> Fixed {
    let mut quotient = vec![0; a.len()];
    let mut remainder = 0;
    for (q, word) in quotient.iter_mut().zip(a).rev() {
        let dividend = (remainder << 64) | u128::from(*word);
        *q = (dividend / u128::from(n)) as u64;
        remainder = dividend % u128::from(n);
    }
    quotient
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(x: &[u64]) -> String {
        x.iter().rev().map(|word| format!("{word:016x}")).collect()
    }

    #[test]
    fn the_enclosure_contains_known_digits_and_is_narrow() {
        // Python: decimal with 120 digits, int(exp(-x) 2^192).
        let check = |numerator, denominator, expected: &str| {
            let (low, high) = exp_enclosure(numerator, denominator, 3);
            let (low, high) = (hex(&low), hex(&high));
            assert!(low.as_str() <= expected && expected <= high.as_str(), "{low} {expected} {high}");
            assert_eq!(low[..60], high[..60], "narrow at {numerator}/{denominator}");
        };
        check(1, 1, EXP_1);
        check(1, 3, EXP_1_3);
        check(355, 113, EXP_355_113);
        check(20, 1, EXP_20);
        assert_eq!(exp_enclosure(0, 5, 2), (one(2), one(2)));
        assert_eq!(exp_floor(0, 1, 63), 1 << 63);
        assert_eq!(exp_floor(1, 1, 64), 0x5e2d_58d8_b3bc_df1a);
    }

    #[test]
    fn what_is_too_small_to_see_is_still_enclosed() {
        let (low, high) = exp_enclosure(1000, 1, 2);
        assert!(low.iter().all(|word| *word == 0) && high[1..].iter().all(|word| *word == 0) && high[0] > 0);
    }

    #[test]
    fn a_real_that_agrees_with_the_number_for_a_word_is_decided_by_the_next() {
        let mut rng = crate::uniform::generator(&mut eranos_base::SeededEntropy::new(11));
        let mut below = |first, scale, factor, numerator| {
            LazyUniform::starting_with(first).below_exp(scale, factor, numerator, 1, &mut rng)
        };
        // e^-1 = 0.5e2d58d8b3bcdf1a bade...: below with probability 0xbade.../2^64 = 0.73 when the first word agrees.
        let n_below = (0..4000).filter(|_| below(0x5e2d_58d8_b3bc_df1a, 1, 1, 1)).count();
        let expected = 4000.0 * 0xbade_u32 as f64 / 65536.0;
        assert!((n_below as f64 - expected).abs() < 5.0 * (expected * 0.27).sqrt(), "{n_below}, seed 11");
        assert!(below(0x5e2d_58d8_b3bc_df19, 1, 1, 1));
        assert!(!below(0x5e2d_58d8_b3bc_df1b, 1, 1, 1));
        assert!(below(u64::MAX, 1, 1, 0));
        // Three quarters of e^-1 are 0.46a202a286cda754 0c27...: the real times 4 is below 3 e^-1.
        assert!(below(0x46a2_02a2_86cd_a753, 4, 3, 1));
        assert!(!below(0x46a2_02a2_86cd_a755, 4, 3, 1));
        // Of e^0 the multiple is rational.
        assert!(below((3 << 62) - 1, 4, 3, 0));
        assert!(!below(3 << 62, 4, 3, 0));
        assert!(below(u64::MAX, 3, 4, 0));
    }

    #[test]
    fn zeros_stand_before_the_digits_that_are_drawn() {
        let mut rng = crate::uniform::generator(&mut eranos_base::SeededEntropy::new(12));
        for n_zeros in [0, 1, 5, 63, 64, 65, 130, 200] {
            let mut ones = 0;
            for _ in 0..64 {
                let real = LazyUniform::after_zeros(n_zeros, &mut rng);
                let words: Vec<u64> = [real.first].into_iter().chain(real.rest).collect();
                assert_eq!(words.len(), n_zeros as usize / 64 + 1);
                let digit = |i: u32| words[i as usize / 64] >> (63 - i % 64) & 1;
                assert!((0..n_zeros).all(|i| digit(i) == 0));
                ones += digit(n_zeros);
            }
            assert!((8..56).contains(&ones), "{ones} ones of 64 after {n_zeros} zeros, seed 12");
        }
    }

    const EXP_1: &str = "00000000000000005e2d58d8b3bcdf1abadec7829054f90dda9805aab56c7733";
    const EXP_1_3: &str = "0000000000000000b76e989179752689c5984c9c50ebe4c9a86a1feb960e6212";
    const EXP_355_113: &str = "00000000000000000b10110c29b1415a97dc04fdde4d4727702a538b29d59545";
    const EXP_20: &str = "000000000000000000000008da432af9b93373025a28a80bf7ad59425a48361f";
}
