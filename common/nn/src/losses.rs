//! Losses of one record, and what they send back into the network.

use serde::{Deserialize, Serialize};

use crate::{NnError, math};

/// The loss of one record, a function of the network's output and the record's target.
///
/// Both are computed from the logits, softmax and logarithm fused; Keras, which clips probabilities to [1e-7, 1 - 1e-7]
/// first, agrees wherever it does not clip.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Loss {
    /// -ln p\[class\], for a target that is the class's number.
    SparseCategoricalCrossentropy,
    /// -sum_j t\[j\] ln p\[j\], for a target with one weight per class.
    CategoricalCrossentropy,
}

/// What a record should have given.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Target<'a> {
    /// The number of its class.
    Class(u32),
    /// One value per output.
    Values(&'a [f32]),
}

impl Loss {
    /// The name that Keras gives it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::SparseCategoricalCrossentropy => "sparse_categorical_crossentropy",
            Self::CategoricalCrossentropy => "categorical_crossentropy",
        }
    }

    /// Checks that `target` is one for this loss over `n_outputs` outputs.
    ///
    /// # Errors
    /// If it is of another kind, of another length, or a class that does not exist.
    pub fn check_target(self, target: Target<'_>, n_outputs: usize) -> Result<(), NnError> {
        match (self, target) {
            (Self::SparseCategoricalCrossentropy, Target::Class(class)) if (class as usize) < n_outputs => Ok(()),
            (Self::SparseCategoricalCrossentropy, Target::Class(class)) => {
                Err(NnError::Class { class, n_classes: n_outputs })
            }
            (Self::CategoricalCrossentropy, Target::Values(values)) if values.len() == n_outputs => Ok(()),
            (Self::CategoricalCrossentropy, Target::Values(values)) => {
                Err(NnError::Length { what: "target", found: values.len(), expected: n_outputs })
            }
            (Self::SparseCategoricalCrossentropy, Target::Values(_)) => {
                Err(NnError::Target { loss: self.name(), expected: "a class" })
            }
            (Self::CategoricalCrossentropy, Target::Class(_)) => {
                Err(NnError::Target { loss: self.name(), expected: "one weight per class" })
            }
        }
    }
}

/// The loss of a checked target under `logits`, whose place the gradient with respect to them takes. Arithmetic in
/// `f64`, rounded once.
pub(crate) fn softmax_crossentropy(logits: &mut [f32], target: Target<'_>) -> f32 {
    let max = logits.iter().fold(f32::NEG_INFINITY, |max, &z| if z > max { z } else { max });
    let total: f64 = logits.iter().map(|&z| math::exp(f64::from(z) - f64::from(max))).sum();
    let log_total = f64::from(max) + math::ln(total);
    let probability = |z: f32| math::exp(f64::from(z) - f64::from(max)) / total;
    match target {
        Target::Class(class) => {
            let class = class as usize;
            let loss = log_total - f64::from(logits[class]);
            for (j, z) in logits.iter_mut().enumerate() {
                *z = (probability(*z) - if j == class { 1.0 } else { 0.0 }) as f32;
            }
            loss as f32
        }
        Target::Values(weights) => {
            let weight_total: f64 = weights.iter().map(|&t| f64::from(t)).sum();
            let mut loss = 0.0;
            for (z, &t) in logits.iter_mut().zip(weights) {
                loss += f64::from(t) * (log_total - f64::from(*z));
                *z = (weight_total * probability(*z) - f64::from(t)) as f32;
            }
            loss as f32
        }
    }
}

/// Puts the softmax of `values` in their place: e^z / sum e^z, arithmetic in `f64`.
pub(crate) fn softmax(values: &mut [f32]) {
    let max = values.iter().fold(f32::NEG_INFINITY, |max, &z| if z > max { z } else { max });
    let exp = |z: f32| math::exp(f64::from(z) - f64::from(max));
    let total: f64 = values.iter().map(|&z| exp(z)).sum();
    for z in values {
        *z = (exp(*z) / total) as f32;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_losses_agree_on_a_one_hot_target() {
        let logits = [0.3_f32, -1.2, 2.0, 0.0];
        let (mut sparse, mut dense) = (logits, logits);
        let a = softmax_crossentropy(&mut sparse, Target::Class(2));
        let b = softmax_crossentropy(&mut dense, Target::Values(&[0.0, 0.0, 1.0, 0.0]));
        assert_eq!((a.to_bits(), sparse), (b.to_bits(), dense));
        let total: f64 = logits.iter().map(|&z| f64::from(z).exp()).sum();
        assert!((f64::from(a) - (total.ln() - 2.0)).abs() < 1e-6);
        assert!(sparse.iter().sum::<f32>().abs() < 1e-6);
    }

    #[test]
    fn large_logits_do_not_overflow_and_nan_is_not_hidden() {
        let mut logits = [1e30_f32, -1e30, 0.0];
        assert_eq!(softmax_crossentropy(&mut logits, Target::Class(0)), 0.0);
        assert_eq!(logits, [0.0; 3]);
        let mut logits = [f32::NAN, 0.0, 1.0];
        assert!(softmax_crossentropy(&mut logits, Target::Class(1)).is_nan());
        assert!(logits.iter().all(|z| z.is_nan()));
    }

    #[test]
    fn wrong_targets_are_refused() {
        let sparse = Loss::SparseCategoricalCrossentropy;
        assert_eq!(sparse.check_target(Target::Class(10), 10), Err(NnError::Class { class: 10, n_classes: 10 }));
        assert!(sparse.check_target(Target::Values(&[1.0; 10]), 10).is_err());
        assert!(Loss::CategoricalCrossentropy.check_target(Target::Values(&[1.0; 9]), 10).is_err());
        assert!(Loss::CategoricalCrossentropy.check_target(Target::Class(1), 10).is_err());
    }
}
