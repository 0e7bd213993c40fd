//! The Skellam mechanism, for comparison with the discrete Gaussian: no mechanism of this project uses it.

use super::rdp::RdpCurve;

/// The Renyi divergence of a sum whose noise is a difference of two Poisson variables a coordinate, `variance` in total;
/// sensitivities are on the integer grid, no sampling:
/// r(a) = a D2^2/(2 V) + min{ ((2a - 1) D2^2 + 6 D1)/(4 V^2), 3 D1/(2 V) } (Agarwal, Kairouz and Liu 2021, "The
/// Skellam Mechanism for Differentially Private Federated Learning").
pub fn rdp(variance: f64, l2_sensitivity: f64, l1_sensitivity: f64) -> RdpCurve {
    let (v, d1, d2_squared) = (variance, l1_sensitivity, l2_sensitivity * l2_sensitivity);
    RdpCurve::from_fn(|order| {
        if v.is_nan() || v <= 0.0 {
            return f64::INFINITY;
        }
        let a = f64::from(order);
        let apart = ((2.0 * a - 1.0) * d2_squared + 6.0 * d1) / (4.0 * v * v);
        a * d2_squared / (2.0 * v) + apart.min(1.5 * d1 / v)
    })
}
