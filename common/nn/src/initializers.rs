//! Keras' default initialisers.

use eranos_base::Entropy;

use crate::math;

/// Fills `out` with values uniform in [-limit, limit], limit = sqrt(6 / (fan_in + fan_out)) (Glorot and Bengio 2010,
/// equation 16; Keras' `GlorotUniform`).
pub fn glorot_uniform(out: &mut [f32], fan_in: usize, fan_out: usize, entropy: &mut dyn Entropy) {
    random_uniform(out, (6.0 / (fan_in + fan_out) as f64).sqrt(), entropy);
}

/// Fills `out` with values uniform in [-limit, limit] (Keras' `RandomUniform`).
pub fn random_uniform(out: &mut [f32], limit: f64, entropy: &mut dyn Entropy) {
    for value in out {
        *value = ((2.0 * unit(entropy) - 1.0) * limit) as f32;
    }
}

/// Fills `out`, `n_rows` by `n_columns` and no taller than wide, with rows of length one at right angles to each other, all
/// such matrices equally likely (Saxe, McClelland and Ganguli 2014; Keras' `Orthogonal`).
///
/// The rows are normal vectors made orthogonal one after the other (Gram and Schmidt, twice, which is enough: Giraud,
/// Langou and Rozloznik 2005), which is the Q of a QR decomposition whose R has a positive diagonal. Takes n_rows^2
/// n_columns multiply-adds.
///
/// # Panics
/// If there are more rows than columns, or `out` has another length.
pub fn orthogonal(out: &mut [f32], n_rows: usize, n_columns: usize, entropy: &mut dyn Entropy) {
    assert!(n_rows <= n_columns && out.len() == n_rows * n_columns, "a wide matrix");
    let mut rows = vec![0.0_f64; out.len()];
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    for i in 0..n_rows {
        let (before, row) = rows.split_at_mut(i * n_columns);
        let row = &mut row[..n_columns];
        // A row that lies, but for rounding, among those before it is drawn again.
        loop {
            row.iter_mut().for_each(|value| *value = normal(entropy));
            let drawn = dot(row, row);
            for _ in 0..2 {
                for earlier in before.chunks_exact(n_columns) {
                    let share = dot(earlier, row);
                    row.iter_mut().zip(earlier).for_each(|(value, earlier)| *value -= share * earlier);
                }
            }
            let squared = dot(row, row);
            if squared > 1e-12 * drawn {
                row.iter_mut().for_each(|value| *value /= squared.sqrt());
                break;
            }
        }
    }
    for (out, value) in out.iter_mut().zip(rows) {
        *out = value as f32;
    }
}

/// The centre of one of 2^32 equal cells of [0, 1).
fn unit(entropy: &mut dyn Entropy) -> f64 {
    let mut bytes = [0; 4];
    entropy.fill(&mut bytes);
    (f64::from(u32::from_le_bytes(bytes)) + 0.5) / 2f64.powi(32)
}

/// A standard normal number, by the polar method (Marsaglia and Bray 1964).
fn normal(entropy: &mut dyn Entropy) -> f64 {
    loop {
        let (x, y) = (2.0 * unit(entropy) - 1.0, 2.0 * unit(entropy) - 1.0);
        let square = x * x + y * y;
        if square < 1.0 {
            return x * (-2.0 * math::ln(square) / square).sqrt();
        }
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

    #[test]
    fn orthogonal_rows_have_length_one_and_right_angles() {
        for (n_rows, n_columns) in [(1, 1), (8, 32), (16, 16), (64, 256)] {
            let mut values = vec![0.0; n_rows * n_columns];
            orthogonal(&mut values, n_rows, n_columns, &mut SeededEntropy::new(2));
            for i in 0..n_rows {
                for j in 0..n_rows {
                    let row = |i: usize| values[i * n_columns..][..n_columns].iter().map(|&v| f64::from(v));
                    let dot: f64 = row(i).zip(row(j)).map(|(a, b)| a * b).sum();
                    assert!((dot - f64::from(u8::from(i == j))).abs() < 1e-6, "{i} {j} {dot}");
                }
            }
        }
    }

    #[test]
    fn normal_numbers_have_their_moments() {
        let mut entropy = SeededEntropy::new(3);
        let values: Vec<f64> = (0..100_000).map(|_| normal(&mut entropy)).collect();
        let moment = |k: i32| values.iter().map(|v| v.powi(k)).sum::<f64>() / 1e5;
        // Five standard deviations each.
        assert!(moment(1).abs() < 0.016 && (moment(2) - 1.0).abs() < 0.023 && (moment(4) - 3.0).abs() < 0.16);
    }
}
