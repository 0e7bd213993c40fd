//! What the examples that measure speed share.

use eranos_base::{Entropy, SeededEntropy};
use eranos_nn::{LayerKind, ModelSpec};

/// Ids where an Embedding reads them, else values in [0, 1].
pub(crate) fn random_record(spec: &ModelSpec, entropy: &mut SeededEntropy) -> Vec<f32> {
    let mut record = Vec::with_capacity(spec.record_len());
    for input in spec.inputs() {
        let n_ids = spec.layers().iter().find_map(|layer| match layer.kind {
            LayerKind::Embedding { input_dim, .. } if layer.inputs == [input as u32] => Some(input_dim),
            _ => None,
        });
        record.extend((0..spec.shapes()[input].iter().product()).map(|_| match n_ids {
            // No id is 0, which would mask a step and save work.
            Some(n_ids) => (1 + u32::from_le_bytes(entropy.bytes()) % (n_ids - 1)) as f32,
            None => f32::from(entropy.bytes::<1>()[0]) / 255.0,
        }));
    }
    record
}
