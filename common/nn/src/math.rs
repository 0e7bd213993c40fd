//! Elementary functions made of additions and multiplications only, so that their bits are the same on every machine
//! (those of the standard library are the platform's).

/// e^x in `f64`, to a relative error below 1e-13; 0 below -700 and infinite above 700. NaN stays NaN.
pub(crate) fn exp(x: f64) -> f64 {
    if x < -700.0 {
        return 0.0;
    }
    if x > 700.0 {
        return f64::INFINITY;
    }
    // x = k ln 2 + r with |r| <= ln 2 / 2; ln 2 in two parts, so that k times the first is exact.
    let k = (x * std::f64::consts::LOG2_E).round_ties_even();
    let r = (x - k * 0.693_147_180_369_123_8) - k * 1.908_214_929_270_587_7e-10;
    let mut sum = 1.0;
    for n in (1..=13).rev() {
        sum = 1.0 + sum * r / f64::from(n);
    }
    if k.is_nan() {
        return k;
    }
    sum * f64::from_bits(((1023 + k as i64) as u64) << 52)
}

/// The natural logarithm of a positive normal number, to a relative error below 1e-13; NaN for anything else but
/// positive infinity, which stays.
pub(crate) fn ln(x: f64) -> f64 {
    if !x.is_normal() || x < 0.0 {
        return if x == f64::INFINITY { x } else { f64::NAN };
    }
    let bits = x.to_bits();
    let mut exponent = (bits >> 52) as i64 - 1023;
    let mut mantissa = f64::from_bits((bits & ((1 << 52) - 1)) | (1023 << 52));
    if mantissa > std::f64::consts::SQRT_2 {
        mantissa *= 0.5;
        exponent += 1;
    }
    // ln m = 2 atanh s with s = (m - 1) / (m + 1), |s| <= 0.172.
    let s = (mantissa - 1.0) / (mantissa + 1.0);
    let mut sum = 0.0;
    for n in (0..=10).rev() {
        sum = sum * s * s + 1.0 / f64::from(2 * n + 1);
    }
    exponent as f64 * std::f64::consts::LN_2 + 2.0 * s * sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_and_ln_agree_with_the_platform() {
        for i in -70_000..70_000 {
            let x = f64::from(i) / 1000.0;
            assert!((exp(x) / x.exp() - 1.0).abs() < 1e-13, "exp({x})");
            let y = x.exp();
            assert!((ln(y) - y.ln()).abs() < 1e-13 * y.ln().abs().max(1.0), "ln({y})");
        }
        assert_eq!((exp(f64::NEG_INFINITY), exp(f64::INFINITY)), (0.0, f64::INFINITY));
        assert!(exp(f64::NAN).is_nan() && ln(f64::NAN).is_nan() && ln(-1.0).is_nan());
    }
}
