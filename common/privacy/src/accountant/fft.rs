//! The fast Fourier transform of complex vectors whose length is a power of two, with a proved bound on its error: the
//! bound is why it is not a crate's.
//!
//! Decimation in time with a table of exact-to-rounding weights (Cooley and Tukey 1965). Its computed result errs in L2
//! norm by at most [`relative_error`] times the norm of the result (Higham, "Accuracy and Stability of Numerical
//! Algorithms", 2nd edition, on the fast Fourier transform).

use std::{
    f64::consts::PI,
    ops::{Add, Mul, Sub},
};

/// A complex number.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Complex {
    pub(super) re: f64,
    pub(super) im: f64,
}

impl Complex {
    pub(super) const ZERO: Self = Self { re: 0.0, im: 0.0 };
    pub(super) const ONE: Self = Self { re: 1.0, im: 0.0 };

    /// The `n`-th power, by repeated squaring; its relative error is below n 2^-50.
    pub(super) fn power(self, mut n: u64) -> Self {
        let (mut base, mut result) = (self, Self::ONE);
        while n > 0 {
            if n & 1 == 1 {
                result = result * base;
            }
            base = base * base;
            n >>= 1;
        }
        result
    }
}

impl Add for Complex {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { re: self.re + other.re, im: self.im + other.im }
    }
}

impl Sub for Complex {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self { re: self.re - other.re, im: self.im - other.im }
    }
}

impl Mul for Complex {
    type Output = Self;

    fn mul(self, other: Self) -> Self {
        Self { re: self.re * other.re - self.im * other.im, im: self.re * other.im + self.im * other.re }
    }
}

/// The transform of vectors of one length.
pub(super) struct Fft {
    /// exp(-2 pi i k/n) for k < n/2.
    weights: Vec<Complex>,
}

impl Fft {
    /// The transform of length `n`, a power of two.
    pub(super) fn new(n: usize) -> Self {
        debug_assert!(n.is_power_of_two());
        let weight = |k: usize| {
            let (sin, cos) = (-2.0 * PI * k as f64 / n as f64).sin_cos();
            Complex { re: cos, im: sin }
        };
        Self { weights: (0..n / 2).map(weight).collect() }
    }

    /// X[k] = sum_j x[j] exp(-2 pi i j k/n), in place.
    pub(super) fn forward(&self, x: &mut [Complex]) {
        bit_reverse(x);
        let mut half = 1;
        while half < x.len() {
            let stride = self.weights.len() / half;
            for block in x.chunks_exact_mut(2 * half) {
                let (low, high) = block.split_at_mut(half);
                for ((a, b), weight) in low.iter_mut().zip(high).zip(self.weights.iter().step_by(stride)) {
                    let turned = *b * *weight;
                    (*a, *b) = (*a + turned, *a - turned);
                }
            }
            half *= 2;
        }
    }

    /// x[j] = (1/n) sum_k X[k] exp(2 pi i j k/n), in place.
    pub(super) fn inverse(&self, x: &mut [Complex]) {
        self.forward(x);
        // Going round the circle the other way reverses all but the first.
        if let Some(rest) = x.get_mut(1..) {
            rest.reverse();
        }
        let n = x.len() as f64;
        x.iter_mut().for_each(|value| *value = Complex { re: value.re / n, im: value.im / n });
    }
}

/// By how much a transform of length `n` errs, in L2 norm over the norm of its result.
///
/// Higham's bound: t eta/(1 - t eta), t = log2 n, eta = mu + gamma_4 (sqrt 2 + mu) with weights that err by mu; 8
/// units roundoff are more than that for weights within 2.
pub(super) fn relative_error(n: usize) -> f64 {
    let t_eta = f64::from(n.max(2).ilog2()) * 8.0 * UNIT_ROUNDOFF;
    t_eta / (1.0 - t_eta)
}

fn bit_reverse<T>(x: &mut [T]) {
    let shift = usize::BITS - x.len().trailing_zeros();
    for i in 1..x.len() {
        let j = i.reverse_bits() >> shift;
        if i < j {
            x.swap(i, j);
        }
    }
}

const UNIT_ROUNDOFF: f64 = f64::EPSILON / 2.0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transform_is_the_sum_that_defines_it_and_its_inverse_undoes_it() {
        for n in [1usize, 2, 8, 64] {
            let x: Vec<Complex> =
                (0..n).map(|j| Complex { re: (j * j % 7) as f64, im: (j % 3) as f64 - 1.0 }).collect();
            let fft = Fft::new(n);
            let mut found = x.clone();
            fft.forward(&mut found);
            for (k, found) in found.iter().enumerate() {
                let term = |(j, x): (usize, &Complex)| {
                    let (sin, cos) = (-2.0 * PI * (j * k % n) as f64 / n as f64).sin_cos();
                    *x * Complex { re: cos, im: sin }
                };
                let sum = x.iter().enumerate().map(term).fold(Complex::ZERO, Add::add);
                assert!((*found - sum).re.abs() + (*found - sum).im.abs() < 1e-11, "{found:?}, expected {sum:?}");
            }
            fft.inverse(&mut found);
            assert!(found.iter().zip(&x).all(|(a, b)| (*a - *b).re.abs() + (*a - *b).im.abs() < 1e-13), "n = {n}");
        }
    }

    #[test]
    fn the_error_stays_below_its_bound() {
        // An impulse has a spectrum that is known exactly up to the weights' rounding.
        let n = 1 << 12;
        let mut x = vec![Complex::ZERO; n];
        x[5] = Complex::ONE;
        Fft::new(n).forward(&mut x);
        let error = |(k, x): (usize, &Complex)| {
            let (sin, cos) = (-2.0 * PI * (5 * k % n) as f64 / n as f64).sin_cos();
            (x.re - cos).powi(2) + (x.im - sin).powi(2)
        };
        let error: f64 = x.iter().enumerate().map(error).sum::<f64>().sqrt();
        assert!(error <= relative_error(n) * (n as f64).sqrt(), "{error}");
    }
}
