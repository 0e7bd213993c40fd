//! What to do about a setting: one that trains nothing, and one that cannot be planned at all.

use eranos_base::UserError;
use eranos_coordinator::task::{Contribution, Noise};
use eranos_privacy::{MechanismError, accountant::calibrate::CalibrationError};

use super::solve::Planned;

/// What makes the setting a bad one, and what would work instead.
pub(super) fn warnings(plan: &Planned<'_>, noise_to_signal: f64) -> Vec<String> {
    if noise_to_signal <= HARMFUL {
        return Vec::new();
    }
    let options = plan.options;
    let word = if noise_to_signal > HOPELESS { "hopeless" } else { "hard" };
    let trouble = format!(
        "{word}: in every round the noise is {noise_to_signal:.1} times as long as the longest possible update"
    );
    let excess = noise_to_signal / HARMFUL;
    let parameters = (f64::from(options.parameters) / excess.powi(2)).floor();
    let smaller =
        if parameters >= MODEL_MIN { format!(", or with a model of {parameters} parameters") } else { String::new() };
    let larger = match (plan.contribution, options.noise) {
        // At the same multiplier the ratio falls with the lot;
        (Contribution::Records { .. }, _) => {
            let records = f64::from(options.records.unwrap_or(0));
            format!("{} records of all clients together", (records * excess).ceil())
        }
        // with the clients, whose shares become smaller as they become more; and with their root, where none does.
        (Contribution::Update(_), noise) => {
            let needed = f64::from(plan.survivors_min) * if noise == Noise::Local { excess.powi(2) } else { excess };
            format!(
                "{} clients, or with these clients and as many records, if those are what is protected (--unit record)",
                needed.ceil()
            )
        }
    };
    let shared = if options.noise == Noise::Local {
        "; noise that all add together (--noise distributed) needs less"
    } else {
        ""
    };
    vec![trouble, format!("it would be as long, where training is known to work, with {larger}{smaller}{shared}")]
}

pub(super) fn uncalibrated(error: &CalibrationError) -> UserError {
    let next = match error {
        CalibrationError::Range { .. } | CalibrationError::Sampled(_) => "name another number for it",
        CalibrationError::Unreachable { .. } => "name a larger epsilon or delta, or fewer rounds",
    };
    UserError::new(error.to_string(), next)
}

pub(super) fn undesigned(error: &MechanismError) -> UserError {
    let next = match error {
        MechanismError::Unreachable { .. } | MechanismError::Unbounded { .. } => {
            "name a larger epsilon or delta, fewer attempts, or fewer records at each client"
        }
        MechanismError::SumTooWide { .. } => "name fewer records, or a smaller model with --parameters",
        MechanismError::NotRun { .. } => "leave --metrics out: a silo's own steps measure nothing",
        _ => "name another number for it",
    };
    UserError::new(error.to_string(), next)
}

/// Up to this ratio of noise to signal training is known to work: the demo's is 0.96.
const HARMFUL: f64 = 1.0;
/// Above this ratio it is known not to.
const HOPELESS: f64 = 5.0;
/// No smaller model is worth a word.
const MODEL_MIN: f64 = 1000.0;
