//! How many bits a coordinate of the masked sum needs, so that it hardly ever wraps around. Wrapping harms utility only.

/// b = ceil(1 + log2 R), R = sqrt(2 V ln(2 d/p)) + n, p = 1e-9: V is the variance of a coordinate of the rotated sum (that of
/// the summed vectors, S^2/d, and that of the noise, n sg^2), n bounds what rounding adds.
pub fn bits_needed(variance: f64, n_clients: f64, dimension: f64) -> u32 {
    let r = (2.0 * variance * (2.0 * dimension / WRAP_PROBABILITY).ln()).sqrt() + n_clients;
    (1.0 + r.log2()).ceil() as u32
}

/// The probability, at most, that a round of `bits` wraps around: 2 d exp(-(2^(b-1) - n)^2/(2 V)), the same bound.
pub fn wrap_probability(bits: u32, variance: f64, n_clients: f64, dimension: f64) -> f64 {
    let room = (f64::from(bits) - 1.0).exp2() - n_clients;
    if room <= 0.0 {
        return 1.0;
    }
    (2.0 * dimension * (-room * room / (2.0 * variance)).exp()).min(1.0)
}

/// With what probability a round may wrap around.
const WRAP_PROBABILITY: f64 = 1e-9;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bits_needed_are_the_least_that_keep_the_probability() {
        for (variance, n, d) in [(1e9, 8.0, 131_072.0), (3.0, 2.0, 1.0), (4e12, 255.0, 67_108_864.0)] {
            let bits = bits_needed(variance, n, d);
            assert!(wrap_probability(bits, variance, n, d) <= WRAP_PROBABILITY);
            assert!(wrap_probability(bits - 1, variance, n, d) > WRAP_PROBABILITY);
        }
        assert_eq!(wrap_probability(3, 1.0, 255.0, 8.0), 1.0);
    }
}
