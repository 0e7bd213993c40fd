//! How far rounding at random to the integer grid widens a vector: the sensitivity of client-level updates.

/// Delta2: the L2 norm below which a vector of norm `scaled_clip`, in `dimension` coordinates, stays after randomized
/// rounding that is redrawn while it exceeds the bound:
/// min{ C s + sqrt d, sqrt(C^2 s^2 + d/4 + sqrt(2 ln(1/beta)) (C s + sqrt(d)/2)) }
/// (Kairouz, Liu and Steinke 2021, theorem 1). `beta` is how often it may be redrawn; 0 for never.
pub fn l2_bound(scaled_clip: f64, dimension: u32, beta: f64) -> f64 {
    let (c, d) = (scaled_clip, f64::from(dimension));
    let always = c + d.sqrt();
    if beta <= 0.0 {
        return always;
    }
    let squared = c * c + d / 4.0 + (-2.0 * beta.ln()).sqrt() * (c + d.sqrt() / 2.0);
    always.min(squared.sqrt())
}

/// Delta1 of an integer vector of L2 norm at most `l2_bound`: Delta2 min(sqrt d, Delta2).
pub fn l1_bound(l2_bound: f64, dimension: u32) -> f64 {
    l2_bound * f64::from(dimension).sqrt().min(l2_bound)
}
