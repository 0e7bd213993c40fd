//! Layers, models as data, optimizers, and training with per-example clipping.
