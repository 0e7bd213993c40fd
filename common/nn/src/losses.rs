//! Losses of one record, and what they send back into the network.

use serde::{Deserialize, Serialize};

use crate::{Activation, ModelSpec, NnError, math};

/// The loss of one record, a function of the network's output and the record's target.
///
/// Cross-entropies are computed from the logits, activation and logarithm fused; Keras, which clips probabilities to
/// [1e-7, 1 - 1e-7] first, agrees wherever it does not clip.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Loss {
    /// -ln p\[class\], for a target that is the class's number.
    SparseCategoricalCrossentropy,
    /// -sum_j t\[j\] ln p\[j\], for a target with one weight per class.
    CategoricalCrossentropy,
    /// The mean over the outputs j of -t\[j\] ln p\[j\] - (1 - t\[j\]) ln(1 - p\[j\]), for a target with one value in
    /// [0, 1] per output, or with the class 0 or 1 of a single output.
    BinaryCrossentropy,
    /// The mean over the outputs j of (y\[j\] - t\[j\])^2, for a target with one value per output.
    MeanSquaredError,
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
    /// The loss of records with classes that belongs to a model's last activation: sparse categorical cross-entropy to a
    /// softmax, binary cross-entropy to a sigmoid.
    ///
    /// # Errors
    /// If the model ends in neither.
    pub fn of_classes(model: &ModelSpec) -> Result<Self, NnError> {
        let last = model.layers().last();
        match last.map(|layer| layer.kind.activation()) {
            Some(Activation::Softmax) => Ok(Self::SparseCategoricalCrossentropy),
            Some(Activation::Sigmoid) => Ok(Self::BinaryCrossentropy),
            _ => Err(NnError::Loss {
                loss: "the loss of a class",
                layer: last.map(|layer| layer.name.clone()).unwrap_or_default(),
                activation: "softmax or sigmoid",
            }),
        }
    }

    /// The name that Keras gives it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::SparseCategoricalCrossentropy => "sparse_categorical_crossentropy",
            Self::CategoricalCrossentropy => "categorical_crossentropy",
            Self::BinaryCrossentropy => "binary_crossentropy",
            Self::MeanSquaredError => "mean_squared_error",
        }
    }

    /// Checks that `target` is one for this loss over `n_outputs` outputs.
    ///
    /// # Errors
    /// If it is of another kind, of another length, a class that does not exist, or no probability.
    pub fn check_target(self, target: Target<'_>, n_outputs: usize) -> Result<(), NnError> {
        let n_classes = match self {
            Self::SparseCategoricalCrossentropy => n_outputs,
            // One output tells two classes apart.
            Self::BinaryCrossentropy if n_outputs == 1 => 2,
            Self::BinaryCrossentropy | Self::CategoricalCrossentropy | Self::MeanSquaredError => 0,
        };
        match (self, target) {
            (_, Target::Class(class)) if n_classes > 0 => match (class as usize) < n_classes {
                true => Ok(()),
                false => Err(NnError::Class { class, n_classes }),
            },
            (Self::CategoricalCrossentropy, Target::Class(_)) => {
                Err(NnError::Target { loss: self.name(), expected: "one weight per class" })
            }
            (_, Target::Class(_)) => Err(NnError::Target { loss: self.name(), expected: "one value per output" }),
            (Self::SparseCategoricalCrossentropy, Target::Values(_)) => {
                Err(NnError::Target { loss: self.name(), expected: "a class" })
            }
            (_, Target::Values(values)) if values.len() != n_outputs => {
                Err(NnError::Length { what: "target", found: values.len(), expected: n_outputs })
            }
            (Self::BinaryCrossentropy, Target::Values(values)) if !values.iter().all(|t| (0.0..=1.0).contains(t)) => {
                Err(NnError::Target { loss: self.name(), expected: "values in [0, 1]" })
            }
            (_, Target::Values(_)) => Ok(()),
        }
    }

    /// The activation at the model's end that is computed here, with its name.
    pub(crate) const fn activation(self) -> Option<(Activation, &'static str)> {
        match self {
            Self::SparseCategoricalCrossentropy | Self::CategoricalCrossentropy => {
                Some((Activation::Softmax, "softmax"))
            }
            Self::BinaryCrossentropy => Some((Activation::Sigmoid, "sigmoid")),
            Self::MeanSquaredError => None,
        }
    }

    /// Whether a record's outputs are the classes of one choice.
    pub(crate) const fn has_classes(self) -> bool {
        matches!(self, Self::SparseCategoricalCrossentropy | Self::CategoricalCrossentropy)
    }

    /// Puts the model's outputs in the place of what the loss is computed from.
    pub(crate) fn outputs(self, values: &mut [f32]) {
        match self {
            Self::SparseCategoricalCrossentropy | Self::CategoricalCrossentropy => softmax(values),
            Self::BinaryCrossentropy => values.iter_mut().for_each(|z| *z = sigmoid(f64::from(*z)) as f32),
            Self::MeanSquaredError => {}
        }
    }

    /// The loss of a checked target; the gradient with respect to `values`, the logits or outputs, takes their place.
    /// Arithmetic in `f64`, rounded once.
    pub(crate) fn gradient(self, values: &mut [f32], target: Target<'_>) -> f32 {
        match self {
            Self::SparseCategoricalCrossentropy | Self::CategoricalCrossentropy => softmax_crossentropy(values, target),
            Self::BinaryCrossentropy => mean_over_outputs(values, target, |z, t| {
                // max(z, 0) - z t + ln(1 + e^-|z|), which no logit overflows.
                let loss = if z > 0.0 { z - z * t } else { -z * t } + math::ln(1.0 + math::exp(-z.abs()));
                (loss, sigmoid(z) - t)
            }),
            Self::MeanSquaredError => mean_over_outputs(values, target, |y, t| ((y - t) * (y - t), 2.0 * (y - t))),
        }
    }

    /// Whether the logits `values` say `class`.
    pub(crate) fn is_right(self, values: &[f32], class: u32) -> Result<bool, NnError> {
        if !self.has_classes() {
            self.check_target(Target::Class(class), values.len())?;
            return Ok(values.iter().all(|&z| (z > 0.0) == (class == 1)));
        }
        Self::SparseCategoricalCrossentropy.check_target(Target::Class(class), values.len())?;
        Ok(largest(values.iter().copied()) == class)
    }
}

/// Which of the outputs is the largest, the first among equals: the class that they say.
pub(crate) fn largest(outputs: impl Iterator<Item = f32>) -> u32 {
    let first = (0, f32::NEG_INFINITY);
    outputs.zip(0..).fold(first, |best, (output, class)| if output > best.1 { (class, output) } else { best }).0
}

/// The mean of `each` output's loss; the mean's gradients take the outputs' place.
fn mean_over_outputs(values: &mut [f32], target: Target<'_>, each: impl Fn(f64, f64) -> (f64, f64)) -> f32 {
    let n = values.len() as f64;
    let mut total = 0.0;
    for (j, value) in values.iter_mut().enumerate() {
        let t = match target {
            Target::Class(class) => f64::from(class),
            Target::Values(values) => f64::from(values[j]),
        };
        let (loss, slope) = each(f64::from(*value), t);
        total += loss;
        *value = (slope / n) as f32;
    }
    (total / n) as f32
}

/// The loss of a checked target under `logits`, whose place the gradient with respect to them takes. Arithmetic in
/// `f64`, rounded once.
fn softmax_crossentropy(logits: &mut [f32], target: Target<'_>) -> f32 {
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

fn sigmoid(z: f64) -> f64 {
    1.0 / (1.0 + math::exp(-z))
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

    #[test]
    fn binary_crossentropy_is_its_definition_and_survives_large_logits() {
        let loss = Loss::BinaryCrossentropy;
        let (logits, targets) = ([0.3_f32, -1.2, 2.0], [1.0_f32, 0.0, 0.25]);
        let mut values = logits;
        let found = f64::from(loss.gradient(&mut values, Target::Values(&targets)));
        let p = logits.map(|z| 1.0 / (1.0 + (-f64::from(z)).exp()));
        let t = targets.map(f64::from);
        let expected: f64 = (0..3).map(|j| -t[j] * p[j].ln() - (1.0 - t[j]) * (1.0 - p[j]).ln()).sum::<f64>() / 3.0;
        assert!((found - expected).abs() < 1e-6);
        assert!((0..3).all(|j| (f64::from(values[j]) - (p[j] - t[j]) / 3.0).abs() < 1e-6));
        for (logit, class, expected) in [(1e30_f32, 1, 0.0), (-1e30, 0, 0.0), (1e30, 0, 1e30), (-1e30, 1, 1e30)] {
            let mut values = [logit];
            assert_eq!(loss.gradient(&mut values, Target::Class(class)), expected);
            assert_eq!(values[0].abs(), if expected == 0.0 { 0.0 } else { 1.0 });
        }
        assert!(loss.gradient(&mut [f32::NAN], Target::Class(0)).is_nan());
        assert_eq!(loss.is_right(&[0.1], 1), Ok(true));
        assert_eq!(loss.is_right(&[0.0], 1), Ok(false));
        assert_eq!(loss.is_right(&[-0.1], 2), Err(NnError::Class { class: 2, n_classes: 2 }));
        assert!(loss.is_right(&[0.1, 0.2], 1).is_err());
        assert!(loss.check_target(Target::Values(&[1.5]), 1).is_err());
        assert!(loss.check_target(Target::Values(&[f32::NAN]), 1).is_err());
    }

    #[test]
    fn mean_squared_error_is_its_definition() {
        let loss = Loss::MeanSquaredError;
        let mut values = [1.0_f32, -2.0];
        assert_eq!(loss.gradient(&mut values, Target::Values(&[0.5, 1.0])), 4.625);
        assert_eq!(values, [0.5, -3.0]);
        assert!(loss.check_target(Target::Class(0), 2).is_err());
        assert!(loss.check_target(Target::Values(&[0.0]), 2).is_err());
    }
}
