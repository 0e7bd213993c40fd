//! Exact fractions for tests, and e^x between two of them: arithmetic that shares nothing with what it checks.

use num_bigint::BigInt;
use num_rational::BigRational;

/// A whole number.
pub(crate) fn whole(n: impl Into<BigInt>) -> BigRational {
    BigRational::from_integer(n.into())
}

/// A floating-point number, exactly.
pub(crate) fn exact(x: f64) -> BigRational {
    BigRational::from_float(x).expect("finite")
}

/// Fractions no more and no less than e^x, 2^-200 of it apart at most: the series at x/2^m, squared m times, every rounding
/// outwards.
pub(crate) fn exp_bounds(x: &BigRational) -> (BigRational, BigRational) {
    let scale: BigInt = BigInt::from(1) << 300;
    let up = |x: BigRational| BigRational::new((x * whole(scale.clone())).ceil().to_integer(), scale.clone());
    let down = |x: BigRational| BigRational::new((x * whole(scale.clone())).floor().to_integer(), scale.clone());
    let small = x / whole(1 << HALVINGS);
    assert!(small < whole(1) && small > whole(-1), "the series is for less");
    let (mut sum, mut term) = (whole(1), whole(1));
    for n in 1..60 {
        // Rounding by so little is within what is left of the series.
        term = down(term * &small / whole(n));
        sum += &term;
    }
    // Below 1 every next term of the series is less than half of the one before: all that was left out or rounded is tiny.
    let rest = BigRational::new(1.into(), BigInt::from(1) << 240);
    let (mut low, mut high) = (&sum - &rest, &sum + &rest);
    for _ in 0..HALVINGS {
        (low, high) = (down(&low * &low), up(&high * &high));
    }
    (low, high)
}

const HALVINGS: u32 = 12;

#[test]
fn e_lies_between_its_bounds() {
    // To 40 digits.
    let e = BigRational::new(
        "27182818284590452353602874713526624977572".parse().expect("digits"),
        BigInt::from(10).pow(40),
    );
    let unit = BigRational::new(1.into(), BigInt::from(10).pow(40));
    let (low, high) = exp_bounds(&whole(1));
    assert!(low < &e + &unit && high > e && &high - &low < unit);
    let (low_inverse, high_inverse) = exp_bounds(&whole(-1));
    assert!(&low * &low_inverse <= whole(1) && &high * &high_inverse >= whole(1));
}
