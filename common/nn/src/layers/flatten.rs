//! Flatten: `[batch_size, a, b, ..]` to `[batch_size, a * b * ..]`, row-major. Records lie flat in memory already, so
//! nothing is computed and the gradient passes as it is.

use super::Layer;

/// No step.
pub(super) const fn build() -> Option<(Box<dyn Layer>, bool)> {
    None
}
