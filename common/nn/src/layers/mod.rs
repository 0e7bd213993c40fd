//! The layers, one a file. A layer computes on plain slices that it is handed; it owns its shape and nothing else.

pub(crate) mod activation;
pub(crate) mod conv2d;
pub(crate) mod dense;
pub(crate) mod flatten;
pub(crate) mod input_layer;
pub(crate) mod max_pooling2d;

use std::fmt;

use eranos_base::Entropy;

use crate::{Activation, Buffer, LayerKind};

/// One step of a network.
pub(crate) trait Layer: fmt::Debug + Send + Sync {
    /// Values of one record's input.
    fn input_len(&self) -> usize;

    /// Values of one record's output.
    fn output_len(&self) -> usize;

    /// Values of all its parameters, which lie one after the other in Keras' order.
    fn n_parameters(&self) -> usize {
        0
    }

    /// The memory that it needs beside input and output.
    fn scratch(&self) -> Scratch {
        Scratch { floats: Buffer::zeroed(0), indices: Vec::new() }
    }

    /// Writes fresh parameters.
    fn initialise(&self, _parameters: &mut [f32], _entropy: &mut dyn Entropy) {}

    /// Its parameters in the form that [`Layer::forward`] and [`Layer::backward`] read.
    fn prepare(&self, parameters: &[f32]) -> LayerParameters {
        LayerParameters { flat: Buffer::from(parameters), derived: Buffer::zeroed(0) }
    }

    /// Writes the output of `n_records` records. Each record's output has the same bits whatever the others.
    fn forward(
        &self,
        parameters: &LayerParameters,
        n_records: usize,
        input: &[f32],
        output: &mut [f32],
        scratch: &mut Scratch,
    );

    /// Writes the gradients of one record, the last one that [`Layer::forward`] saw. May change `output_gradient`.
    fn backward(&self, parameters: &LayerParameters, pass: Pass<'_>, scratch: &mut Scratch);
}

/// What a layer reads and writes on the way back.
pub(crate) struct Pass<'a> {
    /// What it was given.
    pub(crate) input: &'a [f32],
    /// What it put out.
    pub(crate) output: &'a [f32],
    /// The gradient with respect to its output.
    pub(crate) output_gradient: &'a mut [f32],
    /// Where the gradient with respect to its input goes, if anyone needs it.
    pub(crate) input_gradient: Option<&'a mut [f32]>,
    /// Where the gradient with respect to its parameters goes.
    pub(crate) gradient: &'a mut [f32],
}

/// A layer's parameters, made ready once per model.
#[derive(Debug)]
pub(crate) struct LayerParameters {
    /// All of them, in Keras' order and layout.
    pub(crate) flat: Buffer,
    /// What the layer derives from them.
    pub(crate) derived: Buffer,
}

/// A layer's memory within one worker.
#[derive(Debug)]
pub(crate) struct Scratch {
    pub(crate) floats: Buffer,
    pub(crate) indices: Vec<u32>,
}

/// The step that runs a layer, and whether it runs the `next` layer too. None if nothing has to be done.
pub(crate) fn build(kind: &LayerKind, next: Option<&LayerKind>, input: &[usize]) -> Option<(Box<dyn Layer>, bool)> {
    let len = input.iter().product::<usize>();
    match *kind {
        LayerKind::InputLayer { .. } => input_layer::build(),
        LayerKind::Flatten => flatten::build(),
        LayerKind::Activation(Activation::Linear) => None,
        LayerKind::Activation(activation) => {
            let row_len = input.last().copied().unwrap_or(1);
            Some((Box::new(activation::ActivationLayer { activation, row_len, len }), false))
        }
        LayerKind::Dense { units, activation, use_bias } => {
            let n_inputs = input.last().copied().unwrap_or(1);
            let dense =
                dense::Dense { n_rows: len / n_inputs.max(1), n_inputs, units: units as usize, activation, use_bias };
            Some((Box::new(dense), false))
        }
        LayerKind::MaxPooling2D { pool_size, strides, padding } => {
            Some((Box::new(max_pooling2d::MaxPooling2D::new(input, pool_size, strides, padding)), false))
        }
        LayerKind::Conv2D { .. } => {
            let pool = next.and_then(|next| conv2d::fusable_pool(kind, next));
            Some((Box::new(conv2d::Conv2D::new(kind, pool, input)), pool.is_some()))
        }
    }
}
