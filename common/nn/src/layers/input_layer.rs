//! InputLayer: where a record comes in. Nothing is computed: `[batch_size, ..shape]` passes as it is.

use super::Layer;

/// No step.
pub(super) const fn build() -> Option<(Box<dyn Layer>, bool)> {
    None
}
