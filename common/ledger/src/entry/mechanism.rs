//! The mechanism's lines: its canonical bytes, and everything that they say.

use eranos_privacy::{ClientMechanism, Groups, Mechanism, Noise, Promise, RecordMechanism, groups::Share};

use crate::text::{ABSENT, Lines};

const NOISE: &str = "distributed discrete gaussian";
const LOCAL_NOISE: &str = "local discrete gaussian";
const NO_NOISE: &str = "none";

/// Writes the mechanism: its canonical bytes, and then everything that they say, for a person to read and for a reader
/// to hold against them.
pub(super) fn write_mechanism(mechanism: &Mechanism, lines: &mut Lines) {
    lines.line("mechanism", hex::encode(mechanism.encode()));
    for (name, value) in mechanism_fields(mechanism) {
        lines.line(name, value);
    }
}

pub(super) fn mechanism_fields(mechanism: &Mechanism) -> Vec<(&'static str, String)> {
    let common = mechanism.common();
    let (noise, variance) = match common.noise {
        Noise::Distributed(variance) => (NOISE, format!("{}/1024", variance.numerator())),
        Noise::Local(variance) => (LOCAL_NOISE, format!("{}/1024", variance.numerator())),
        Noise::None => (NO_NOISE, ABSENT.to_owned()),
    };
    let (clip, contribution) = match mechanism {
        Mechanism::Record(mechanism) => record_fields(mechanism),
        Mechanism::Client(mechanism) => client_fields(mechanism),
    };
    let mut fields = vec![
        ("unit", mechanism.unit().name().to_owned()),
        ("relation", mechanism.relation().to_owned()),
        ("noise", noise.to_owned()),
    ];
    fields.extend(clip);
    fields.extend(group_fields(&common.groups));
    fields.extend([
        ("n-parameters", common.n_parameters.to_string()),
        ("d-pad", common.d_pad.to_string()),
        ("sensitivity-squared", mechanism.sensitivity_squared().to_string()),
        ("noise-variance", variance),
        ("bits", common.bits.to_string()),
        ("u-min", common.u_min.to_string()),
        ("max-colluders", common.max_colluders.to_string()),
        ("n-max", common.n_max.to_string()),
    ]);
    fields.extend(contribution);
    fields.extend([("max-attempts", common.max_attempts.to_string()), ("delta", common.delta.to_string())]);
    fields
}

pub(super) type MechanismFields = Vec<(&'static str, String)>;

/// What travels beside the gradient or update; nothing where it travels alone.
fn group_fields(groups: &Groups) -> MechanismFields {
    if groups.is_empty() {
        return Vec::new();
    }
    let share = |share: Share| format!("{}/1000000", share.millionths());
    let mut fields = vec![("model-share", share(groups.model))];
    fields.extend(groups.iter().map(|g| (g.subject.name(), format!("{} {}", g.bound, share(g.share)))));
    if let Some(adaptive) = groups.adaptive_clip {
        fields.extend([
            ("l2-clip-norm-min", adaptive.l2_clip_norm_min.to_string()),
            ("l2-clip-norm-max", adaptive.l2_clip_norm_max.to_string()),
        ]);
    }
    fields
}

/// How a record's gradient is clipped, and how many are in a sum.
fn record_fields(mechanism: &RecordMechanism) -> (MechanismFields, MechanismFields) {
    let p = mechanism.parameters();
    let q = p.sampling_probability;
    let clip = vec![
        ("l2-clip-norm", p.l2_clip_norm.to_string()),
        ("grid", p.grid.to_string()),
        ("shift", p.shift.to_string()),
    ];
    let sample = [
        ("sampling-probability", format!("{}/{}", q.numerator(), q.denominator())),
        ("expected-lot", p.expected_lot.to_string()),
        ("records-per-round", p.records_per_round.to_string()),
        ("record-bound", p.record_bound.to_string()),
    ];
    let steps = p.local.map(|local| {
        [
            ("local-steps", local.steps.to_string()),
            ("client-learning-rate", local.learning_rate.to_string()),
            ("update-clip-norm", local.update_clip_norm.to_string()),
        ]
    });
    let sample = sample.into_iter().chain(steps.into_iter().flatten()).collect();
    (clip, sample)
}

/// How a client's update is clipped, and how it comes about.
fn client_fields(mechanism: &ClientMechanism) -> (MechanismFields, MechanismFields) {
    let p = mechanism.parameters();
    let clip = vec![("l2-clip-norm", p.l2_clip_norm.to_string()), ("scaled-clip", p.scaled_clip.to_string())];
    let training = vec![
        ("local-steps", p.training.steps.to_string()),
        ("batch-size", p.training.batch_size.to_string()),
        ("client-learning-rate", p.training.learning_rate.to_string()),
    ];
    (clip, training)
}
