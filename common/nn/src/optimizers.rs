//! Optimizers over one flat vector of parameters, in Keras' form.

use serde::{Deserialize, Serialize};

/// Which optimizer, with its constants.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "snake_case", deny_unknown_fields)]
pub enum OptimizerSpec {
    /// w -= learning_rate g.
    Sgd {
        /// The learning rate.
        learning_rate: f64,
    },
    /// v = momentum v - learning_rate g; w += v (Keras' SGD with momentum).
    Momentum {
        /// The learning rate.
        learning_rate: f64,
        /// The share of the last step kept, in [0, 1).
        momentum: f64,
    },
    /// Adam (Kingma and Ba 2015, the form before section 2.1, as Keras has it: epsilon outside the bias correction):
    /// m = beta_1 m + (1 - beta_1) g; v = beta_2 v + (1 - beta_2) g^2;
    /// w -= learning_rate sqrt(1 - beta_2^t) / (1 - beta_1^t) m / (sqrt(v) + epsilon).
    Adam {
        /// The learning rate.
        learning_rate: f64,
        /// The decay of the first moment, in [0, 1).
        beta_1: f64,
        /// The decay of the second moment, in [0, 1).
        beta_2: f64,
        /// What keeps the division finite.
        epsilon: f64,
    },
    /// AdamW (Loshchilov and Hutter 2019, as Keras has it): w -= learning_rate weight_decay w, then a step of Adam. Every
    /// parameter decays, biases too.
    #[serde(rename = "adamw")]
    AdamW {
        /// The learning rate.
        learning_rate: f64,
        /// The share of each parameter lost in a step of learning rate 1, 0 or more.
        weight_decay: f64,
        /// The decay of the first moment, in [0, 1).
        beta_1: f64,
        /// The decay of the second moment, in [0, 1).
        beta_2: f64,
        /// What keeps the division finite.
        epsilon: f64,
    },
    /// Adagrad (Duchi et al. 2011, as Keras has it): v = initial_accumulator_value before the first step;
    /// v = v + g^2; w -= learning_rate g / sqrt(v + epsilon).
    Adagrad {
        /// The learning rate.
        learning_rate: f64,
        /// What the sum of squares begins with, 0 or more.
        initial_accumulator_value: f64,
        /// What keeps the division finite.
        epsilon: f64,
    },
    /// Yogi, as a server's optimizer (Reddi et al. 2021, algorithm 2; v is epsilon^2 before the first step):
    /// m = beta_1 m + (1 - beta_1) g; v = v - (1 - beta_2) g^2 sign(v - g^2); w -= learning_rate m / (sqrt(v) + epsilon).
    Yogi {
        /// The learning rate.
        learning_rate: f64,
        /// The decay of the first moment, in [0, 1).
        beta_1: f64,
        /// The decay of the second moment, in [0, 1).
        beta_2: f64,
        /// How adaptive it is: the larger, the more like momentum.
        epsilon: f64,
    },
}

/// How the learning rate goes from step to step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "snake_case", deny_unknown_fields)]
pub enum LearningRateSchedule {
    /// It stays.
    #[default]
    Constant,
    /// It falls along a line, from all of it at the first step to `last_share` of it after `n_steps`, and stays there.
    Linear {
        /// The length of the line.
        n_steps: u64,
        /// What is left at its end, in (0, 1].
        last_share: f64,
    },
}

impl LearningRateSchedule {
    /// The share of the learning rate for the step after `n_steps_taken`.
    pub fn share(&self, n_steps_taken: u64) -> f64 {
        match *self {
            Self::Constant => 1.0,
            Self::Linear { n_steps, last_share } => {
                let progress = n_steps_taken.min(n_steps) as f64 / n_steps.max(1) as f64;
                last_share + (1.0 - progress) * (1.0 - last_share)
            }
        }
    }

    /// Checks the constants against their range.
    ///
    /// # Errors
    /// Names the constant outside its range.
    pub fn check(&self) -> Result<(), OptimizerError> {
        match *self {
            Self::Linear { last_share, .. } if !(last_share > 0.0 && last_share <= 1.0) => {
                Err(OptimizerError::Constant { what: "last_share", found: last_share, expected: "above 0, at most 1" })
            }
            Self::Constant | Self::Linear { .. } => Ok(()),
        }
    }
}

/// Why an optimizer was refused.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum OptimizerError {
    /// A constant outside its range.
    #[error("{what} of {found}, expected {expected}")]
    Constant {
        /// Which constant.
        what: &'static str,
        /// Its value.
        found: f64,
        /// The range.
        expected: &'static str,
    },
    /// A stored state of another optimizer or model.
    #[error("optimizer state with {found} moments, expected {expected}")]
    State {
        /// How many values it has.
        found: usize,
        /// How many are called for.
        expected: usize,
    },
    /// Parameters and gradient differ in length from what the optimizer was made for.
    #[error("{what} of {found} values, expected {expected}")]
    Length {
        /// Which of the two.
        what: &'static str,
        /// Its length.
        found: usize,
        /// The length called for.
        expected: usize,
    },
}

impl OptimizerSpec {
    /// Keras' Adam with its default constants.
    pub const fn adam(learning_rate: f64) -> Self {
        Self::Adam { learning_rate, beta_1: 0.9, beta_2: 0.999, epsilon: 1e-7 }
    }

    /// Keras' AdamW with its default constants.
    pub const fn adamw(learning_rate: f64) -> Self {
        Self::AdamW { learning_rate, weight_decay: 0.004, beta_1: 0.9, beta_2: 0.999, epsilon: 1e-7 }
    }

    /// How many vectors of moments it keeps beside the parameters.
    pub const fn n_moments(&self) -> usize {
        match self {
            Self::Sgd { .. } => 0,
            Self::Momentum { .. } | Self::Adagrad { .. } => 1,
            Self::Adam { .. } | Self::AdamW { .. } | Self::Yogi { .. } => 2,
        }
    }

    /// What each vector of moments is before the first step.
    const fn first_moments(&self) -> [f64; 2] {
        match *self {
            Self::Adagrad { initial_accumulator_value, .. } => [initial_accumulator_value, 0.0],
            Self::Yogi { epsilon, .. } => [0.0, epsilon * epsilon],
            Self::Sgd { .. } | Self::Momentum { .. } | Self::Adam { .. } | Self::AdamW { .. } => [0.0; 2],
        }
    }

    /// Checks every constant against its range.
    ///
    /// # Errors
    /// Names the first constant outside its range.
    pub fn check(&self) -> Result<(), OptimizerError> {
        let positive = |what, found: f64| match found.is_finite() && found > 0.0 {
            true => Ok(()),
            false => Err(OptimizerError::Constant { what, found, expected: "a finite number above 0" }),
        };
        let decay = |what, found: f64| match (0.0..1.0).contains(&found) {
            true => Ok(()),
            false => Err(OptimizerError::Constant { what, found, expected: "0 or more, below 1" }),
        };
        let not_negative = |what, found: f64| match found.is_finite() && found >= 0.0 {
            true => Ok(()),
            false => Err(OptimizerError::Constant { what, found, expected: "a finite number, 0 or more" }),
        };
        match *self {
            Self::Sgd { learning_rate } => positive("learning_rate", learning_rate),
            Self::Momentum { learning_rate, momentum } => {
                positive("learning_rate", learning_rate)?;
                decay("momentum", momentum)
            }
            Self::Adam { learning_rate, beta_1, beta_2, epsilon }
            | Self::Yogi { learning_rate, beta_1, beta_2, epsilon } => {
                positive("learning_rate", learning_rate)?;
                decay("beta_1", beta_1)?;
                decay("beta_2", beta_2)?;
                positive("epsilon", epsilon)
            }
            Self::AdamW { learning_rate, weight_decay, beta_1, beta_2, epsilon } => {
                not_negative("weight_decay", weight_decay)?;
                Self::Adam { learning_rate, beta_1, beta_2, epsilon }.check()
            }
            Self::Adagrad { learning_rate, initial_accumulator_value, epsilon } => {
                positive("learning_rate", learning_rate)?;
                not_negative("initial_accumulator_value", initial_accumulator_value)?;
                positive("epsilon", epsilon)
            }
        }
    }
}

/// An optimizer with its state.
#[derive(Clone, Debug, PartialEq)]
pub struct Optimizer {
    spec: OptimizerSpec,
    n_parameters: usize,
    n_steps: u64,
    moments: Vec<f32>,
}

impl Optimizer {
    /// A fresh optimizer for `n_parameters` parameters.
    ///
    /// # Errors
    /// If a constant of `spec` is outside its range.
    pub fn new(spec: OptimizerSpec, n_parameters: usize) -> Result<Self, OptimizerError> {
        spec.check()?;
        let moments = spec.first_moments().into_iter().take(spec.n_moments());
        let moments = moments.flat_map(|first| std::iter::repeat_n(first as f32, n_parameters)).collect();
        Ok(Self { spec, n_parameters, n_steps: 0, moments })
    }

    /// The optimizer as it stood after `n_steps` steps, from what [`Optimizer::moments`] gave then.
    ///
    /// # Errors
    /// If a constant of `spec` is outside its range, or `moments` is of another optimizer or model.
    pub fn restore(
        spec: OptimizerSpec,
        n_parameters: usize,
        n_steps: u64,
        moments: Vec<f32>,
    ) -> Result<Self, OptimizerError> {
        spec.check()?;
        let expected = n_parameters * spec.n_moments();
        if moments.len() != expected {
            return Err(OptimizerError::State { found: moments.len(), expected });
        }
        Ok(Self { spec, n_parameters, n_steps, moments })
    }

    /// The constants.
    pub const fn spec(&self) -> &OptimizerSpec {
        &self.spec
    }

    /// How many steps were taken.
    pub const fn n_steps(&self) -> u64 {
        self.n_steps
    }

    /// The moments, one vector after the other: what a checkpoint must keep beside the parameters.
    pub fn moments(&self) -> &[f32] {
        &self.moments
    }

    /// Takes one step down `gradient`.
    ///
    /// # Errors
    /// If either slice has another length than the optimizer was made for; nothing has changed then.
    pub fn step(&mut self, parameters: &mut [f32], gradient: &[f32]) -> Result<(), OptimizerError> {
        self.step_scaled(parameters, gradient, 1.0)
    }

    /// [`Optimizer::step`] with the learning rate times `share`, as a [`LearningRateSchedule`] gives it.
    ///
    /// # Errors
    /// As there.
    pub fn step_scaled(&mut self, parameters: &mut [f32], gradient: &[f32], share: f64) -> Result<(), OptimizerError> {
        let expected = self.n_parameters;
        for (what, found) in [("parameters", parameters.len()), ("gradient", gradient.len())] {
            if found != expected {
                return Err(OptimizerError::Length { what, found, expected });
            }
        }
        let (update, moments) = self.begin_step(share);
        update.apply(parameters, gradient, moments);
        Ok(())
    }

    /// Counts a step that the caller takes itself, range by range: the update of each parameter depends on its own
    /// gradient and moments only. The two moments are as long as the parameters, or empty where the optimizer has none.
    pub(crate) fn begin_step(&mut self, share: f64) -> (Update, [&mut [f32]; 2]) {
        self.n_steps += 1;
        let adam = |learning_rate: f64, beta_1: f64, beta_2: f64, epsilon: f64| {
            let t = self.n_steps as f64;
            let alpha = share * learning_rate * (1.0 - beta_2.powf(t)).sqrt() / (1.0 - beta_1.powf(t));
            [alpha, beta_1, beta_2, epsilon].map(|x| x as f32)
        };
        let update = match self.spec {
            OptimizerSpec::Sgd { learning_rate } => Update::Sgd { learning_rate: (share * learning_rate) as f32 },
            OptimizerSpec::Momentum { learning_rate, momentum } => {
                Update::Momentum { learning_rate: (share * learning_rate) as f32, decay: momentum as f32 }
            }
            OptimizerSpec::Adam { learning_rate, beta_1, beta_2, epsilon } => {
                Update::Adam { constants: adam(learning_rate, beta_1, beta_2, epsilon), lost: None }
            }
            OptimizerSpec::AdamW { learning_rate, weight_decay, beta_1, beta_2, epsilon } => Update::Adam {
                constants: adam(learning_rate, beta_1, beta_2, epsilon),
                lost: Some((share * learning_rate * weight_decay) as f32),
            },
            OptimizerSpec::Adagrad { learning_rate, epsilon, .. } => {
                Update::Adagrad { constants: [share * learning_rate, epsilon].map(|x| x as f32) }
            }
            OptimizerSpec::Yogi { learning_rate, beta_1, beta_2, epsilon } => {
                Update::Yogi { constants: [share * learning_rate, beta_1, beta_2, epsilon].map(|x| x as f32) }
            }
        };
        let first = self.n_parameters.min(self.moments.len());
        let (m, v) = self.moments.split_at_mut(first);
        (update, [m, v])
    }
}

/// One step of an optimizer, its constants worked out.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Update {
    Sgd { learning_rate: f32 },
    Momentum { learning_rate: f32, decay: f32 },
    Adam { constants: [f32; 4], lost: Option<f32> },
    Adagrad { constants: [f32; 2] },
    Yogi { constants: [f32; 4] },
}

impl Update {
    /// Takes the step for a range of the parameters, with the same range of the gradient and of the moments.
    pub(crate) fn apply(&self, parameters: &mut [f32], gradient: &[f32], [m, v]: [&mut [f32]; 2]) {
        match *self {
            Self::Sgd { learning_rate } => sgd(parameters, gradient, learning_rate),
            Self::Momentum { learning_rate, decay } => momentum(parameters, gradient, m, learning_rate, decay),
            Self::Adam { constants, lost } => {
                if let Some(lost) = lost {
                    parameters.iter_mut().for_each(|w| *w -= lost * *w);
                }
                adam(parameters, gradient, m, v, constants);
            }
            Self::Adagrad { constants } => adagrad(parameters, gradient, m, constants),
            Self::Yogi { constants } => yogi(parameters, gradient, m, v, constants),
        }
    }
}

fn sgd(parameters: &mut [f32], gradient: &[f32], learning_rate: f32) {
    for (w, g) in parameters.iter_mut().zip(gradient) {
        *w -= learning_rate * g;
    }
}

fn momentum(parameters: &mut [f32], gradient: &[f32], velocity: &mut [f32], learning_rate: f32, decay: f32) {
    for ((w, g), v) in parameters.iter_mut().zip(gradient).zip(velocity) {
        *v = decay * *v - learning_rate * g;
        *w += *v;
    }
}

fn adam(parameters: &mut [f32], gradient: &[f32], m: &mut [f32], v: &mut [f32], constants: [f32; 4]) {
    let [alpha, beta_1, beta_2, epsilon] = constants;
    for (((w, g), m), v) in parameters.iter_mut().zip(gradient).zip(m).zip(v) {
        *m += (g - *m) * (1.0 - beta_1);
        *v += (g * g - *v) * (1.0 - beta_2);
        *w -= alpha * *m / (v.sqrt() + epsilon);
    }
}

fn adagrad(parameters: &mut [f32], gradient: &[f32], v: &mut [f32], [alpha, epsilon]: [f32; 2]) {
    for ((w, g), v) in parameters.iter_mut().zip(gradient).zip(v) {
        *v += g * g;
        *w -= alpha * g / (*v + epsilon).sqrt();
    }
}

fn yogi(parameters: &mut [f32], gradient: &[f32], m: &mut [f32], v: &mut [f32], constants: [f32; 4]) {
    let [alpha, beta_1, beta_2, epsilon] = constants;
    for (((w, g), m), v) in parameters.iter_mut().zip(gradient).zip(m).zip(v) {
        let square = g * g;
        // Nothing where the two are equal: f32::signum has no zero.
        let sign = f32::from(i8::from(*v > square) - i8::from(*v < square));
        *m += (g - *m) * (1.0 - beta_1);
        *v -= (1.0 - beta_2) * square * sign;
        *w -= alpha * *m / (v.sqrt() + epsilon);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_steps_by_hand() {
        let run = |spec| {
            let mut optimizer = Optimizer::new(spec, 1).expect("constants");
            let mut w = [1.0_f32];
            optimizer.step(&mut w, &[0.5]).expect("lengths");
            optimizer.step(&mut w, &[-0.25]).expect("lengths");
            w[0]
        };
        assert!((run(OptimizerSpec::Sgd { learning_rate: 0.1 }) - 0.975).abs() < 1e-6);
        // v1 = -.05, v2 = .9 v1 + .025 = -.02.
        assert!((run(OptimizerSpec::Momentum { learning_rate: 0.1, momentum: 0.9 }) - 0.93).abs() < 1e-6);
        // m1 = .05, v1 = .00025, w1 = 1 - .01; m2 = .02, v2 = .00031225, alpha = .01 sqrt(1 - .998001)/.19.
        let second = 0.01 * (1.0_f64 - 0.998001).sqrt() / 0.19 * 0.02 / 0.000_312_25_f64.sqrt();
        assert!((f64::from(run(OptimizerSpec::adam(0.01))) - (0.99 - second)).abs() < 1e-5);
    }

    /// From Keras 3.15.1: `AdamW(0.01, weight_decay=0.1)` on a variable of 1.0, -2.0 with these two gradients.
    #[test]
    fn adamw_agrees_with_keras() {
        let spec =
            OptimizerSpec::AdamW { learning_rate: 0.01, weight_decay: 0.1, beta_1: 0.9, beta_2: 0.999, epsilon: 1e-7 };
        let mut optimizer = Optimizer::new(spec, 2).expect("constants");
        let mut w = [1.0_f32, -2.0];
        optimizer.step(&mut w, &[0.5, 0.1]).expect("lengths");
        optimizer.step(&mut w, &[-0.25, 0.2]).expect("lengths");
        for (found, expected) in w.into_iter().zip([0.985_347_8_f32, -2.015_643_4]) {
            assert!((found - expected).abs() < 1e-6, "{found} {expected}");
        }
        let text = serde_json::to_string(&OptimizerSpec::adamw(0.001)).expect("json");
        assert!(text.starts_with(r#"{"name":"adamw","learning_rate":0.001,"weight_decay":0.004"#), "{text}");
        for weight_decay in [-0.1, f64::NAN, f64::INFINITY] {
            let spec =
                OptimizerSpec::AdamW { learning_rate: 0.1, weight_decay, beta_1: 0.9, beta_2: 0.9, epsilon: 1e-7 };
            assert!(spec.check().is_err());
        }
    }

    /// From Keras 3.15.1: `Adagrad(0.01)` on a variable of 1.0, -2.0 with these two gradients.
    #[test]
    fn adagrad_agrees_with_keras() {
        let spec = OptimizerSpec::Adagrad { learning_rate: 0.01, initial_accumulator_value: 0.1, epsilon: 1e-7 };
        let mut optimizer = Optimizer::new(spec, 2).expect("constants");
        let mut w = [1.0_f32, -2.0];
        optimizer.step(&mut w, &[0.5, 0.1]).expect("lengths");
        optimizer.step(&mut w, &[-0.25, 0.2]).expect("lengths");
        for (found, expected) in w.into_iter().zip([0.995_441_f32, -2.008_179]) {
            assert!((found - expected).abs() < 1e-6, "{found} {expected}");
        }
    }

    /// Both ways in which the second moment goes, and where it stays, by hand from the paper's algorithm.
    #[test]
    fn yogi_follows_its_paper() {
        let spec = OptimizerSpec::Yogi { learning_rate: 0.1, beta_1: 0.5, beta_2: 0.75, epsilon: 0.5 };
        let mut optimizer = Optimizer::new(spec, 3).expect("constants");
        let mut w = [0.0_f32; 3];
        // v = .25: below g^2 = 1, above .04, equal to .25.
        optimizer.step(&mut w, &[1.0, 0.2, 0.5]).expect("lengths");
        let v = [0.25 + 0.25, 0.25 - 0.25 * 0.04, 0.25_f64];
        let m = [0.5, 0.1, 0.25_f64];
        for i in 0..3 {
            let expected = -0.1 * m[i] / (v[i].sqrt() + 0.5);
            assert!((f64::from(w[i]) - expected).abs() < 1e-7, "{i}: {} {expected}", w[i]);
        }
        assert_eq!(optimizer.moments().len(), 6);
    }

    #[test]
    fn a_restored_optimizer_goes_on_bit_for_bit() {
        let spec = OptimizerSpec::adam(0.01);
        let mut whole = Optimizer::new(spec, 3).expect("constants");
        let mut w = [0.1_f32, 0.2, 0.3];
        whole.step(&mut w, &[1.0, -2.0, 0.5]).expect("lengths");
        let mut restored = Optimizer::restore(spec, 3, whole.n_steps(), whole.moments().to_vec()).expect("state");
        let mut again = w;
        whole.step(&mut w, &[0.3, 0.3, 0.3]).expect("lengths");
        restored.step(&mut again, &[0.3, 0.3, 0.3]).expect("lengths");
        assert_eq!((w, &whole), (again, &restored));
        assert!(Optimizer::restore(spec, 3, 1, vec![0.0; 3]).is_err());
        assert!(whole.step(&mut w, &[0.0; 2]).is_err());
    }

    #[test]
    fn a_linear_schedule_falls_to_its_end_and_stays() {
        let schedule = LearningRateSchedule::Linear { n_steps: 10, last_share: 0.1 };
        assert_eq!([0, 5, 10, 99].map(|n| schedule.share(n)), [1.0, 0.55, 0.1, 0.1]);
        assert_eq!(LearningRateSchedule::Constant.share(7), 1.0);
        let mut optimizer = Optimizer::new(OptimizerSpec::Sgd { learning_rate: 0.5 }, 1).expect("constants");
        let mut w = [1.0_f32];
        optimizer.step_scaled(&mut w, &[1.0], 0.5).expect("lengths");
        assert_eq!((w, optimizer.n_steps()), ([0.75], 1));
        for last_share in [0.0, -0.1, 1.1, f64::NAN] {
            assert!(LearningRateSchedule::Linear { n_steps: 10, last_share }.check().is_err());
        }
    }

    #[test]
    fn constants_outside_their_range_are_refused() {
        for learning_rate in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert!(Optimizer::new(OptimizerSpec::Sgd { learning_rate }, 1).is_err());
        }
        assert!(Optimizer::new(OptimizerSpec::Momentum { learning_rate: 0.1, momentum: 1.0 }, 1).is_err());
        assert!(
            Optimizer::new(OptimizerSpec::Adam { learning_rate: 0.1, beta_1: 0.9, beta_2: 1.0, epsilon: 1e-7 }, 1)
                .is_err()
        );
    }
}
