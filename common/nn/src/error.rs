//! What can go wrong while a network is built or run.

/// Why a network could not be built or run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NnError {
    /// A slice has another length than the network calls for.
    #[error("{what} of {found} values, expected {expected}")]
    Length {
        /// Which slice.
        what: &'static str,
        /// Its length.
        found: usize,
        /// The length called for.
        expected: usize,
    },
    /// The class of a record does not exist in the model's output.
    #[error("class {class}, but the model has {n_classes} classes")]
    Class {
        /// The class found.
        class: u32,
        /// How many classes the model has.
        n_classes: usize,
    },
    /// The target is of another kind than the loss calls for.
    #[error("{loss} takes {expected} as its target")]
    Target {
        /// The loss.
        loss: &'static str,
        /// What it takes.
        expected: &'static str,
    },
    /// The loss does not fit the model's output.
    #[error("{loss} needs a model whose last layer ends in {activation}, but layer {layer:?} does not")]
    Loss {
        /// The loss.
        loss: &'static str,
        /// The last layer.
        layer: String,
        /// What it should end in.
        activation: &'static str,
    },
    /// A model with Dropout was given a record without a key.
    #[error("the model has Dropout, but the record has no key to draw its mask from")]
    DropoutKey,
    /// The model puts out more than one row of classes for a record.
    #[error("output of shape {shape:?} for a record, expected one axis of classes")]
    OutputShape {
        /// The shape of one record's output.
        shape: Vec<usize>,
    },
    /// A workspace or prepared parameters of another network.
    #[error("{what} was made for another network")]
    Foreign {
        /// Which of them.
        what: &'static str,
    },
    /// An L2 norm that nothing can be clipped to.
    #[error("an L2 clip norm of {l2_clip_norm}, expected a positive number")]
    ClipNorm {
        /// The norm found.
        l2_clip_norm: String,
    },
    /// A value is NaN or infinite.
    #[error("{what} of layer {layer:?} is not finite")]
    NonFinite {
        /// The layer where the first such value shows.
        layer: String,
        /// Which of its values: input, parameters, output or gradient.
        what: &'static str,
    },
}
