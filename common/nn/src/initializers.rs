//! Keras' default initialisers.

use eranos_base::Entropy;

/// Fills `out` with values uniform in [-limit, limit], limit = sqrt(6 / (fan_in + fan_out)) (Glorot and Bengio 2010,
/// equation 16; Keras' `GlorotUniform`).
pub fn glorot_uniform(out: &mut [f32], fan_in: usize, fan_out: usize, entropy: &mut dyn Entropy) {
    let limit = (6.0 / (fan_in + fan_out) as f64).sqrt();
    let mut bytes = [0; 4];
    for value in out {
        entropy.fill(&mut bytes);
        // The centre of one of 2^32 equal cells of [0, 1).
        let unit = (f64::from(u32::from_le_bytes(bytes)) + 0.5) / 2f64.powi(32);
        *value = ((2.0 * unit - 1.0) * limit) as f32;
    }
}

#[cfg(test)]
mod tests {
    use eranos_base::SeededEntropy;

    use super::*;

    #[test]
    fn values_fill_the_interval_evenly() {
        let mut values = vec![0.0; 100_000];
        glorot_uniform(&mut values, 288, 576, &mut SeededEntropy::new(1));
        let limit = (6.0_f32 / 864.0).sqrt();
        assert!(values.iter().all(|v| v.abs() <= limit));
        let mean = values.iter().map(|&v| f64::from(v)).sum::<f64>() / 1e5;
        let variance = values.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>() / 1e5;
        assert!(mean.abs() < 1e-3 && (variance / (f64::from(limit).powi(2) / 3.0) - 1.0).abs() < 0.02);
    }
}
