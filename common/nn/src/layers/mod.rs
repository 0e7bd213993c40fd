//! The layers, one a file. A layer computes on plain slices that it is handed; it owns its shape and nothing else.

mod activation;
mod concatenate;
mod conv2d;
mod dense;
mod dropout;
mod embedding;
mod flatten;
mod input_layer;
pub(crate) mod lstm;
mod max_pooling2d;
mod products;

use std::{fmt, ops::Range};

use eranos_base::Entropy;

use crate::{Activation, Buffer, LayerKind};

/// One step of a network.
pub(crate) trait Layer: fmt::Debug + Send + Sync {
    /// Values of one record's output.
    fn output_len(&self) -> usize;

    /// Values of all its parameters, which lie one after the other in Keras' order.
    fn n_parameters(&self) -> usize {
        0
    }

    /// Values of the memory that it needs beside inputs and outputs, for `n_records` at once.
    fn scratch_len(&self, _n_records: usize) -> ScratchLen {
        ScratchLen { floats: 0, indices: 0 }
    }

    /// Writes fresh parameters.
    fn initialise(&self, _parameters: &mut [f32], _entropy: &mut dyn Entropy) {}

    /// Values that it derives from its parameters.
    fn derived_len(&self) -> usize {
        0
    }

    /// Writes what it derives from its parameters, for [`Layer::forward`] and [`Layer::backward`] to read.
    fn derive(&self, _parameters: &[f32], _derived: &mut [f32]) {}

    /// Writes the output of some records. Each record's output has the same bits whatever the others. A layer of
    /// several inputs is called once for each, and writes that input's share.
    fn forward(&self, parameters: &LayerParameters, pass: Forward<'_>, scratch: &mut Scratch);

    /// Writes the gradients with respect to the inputs of the records that [`Layer::forward`] saw last. Where there is
    /// one input, `output_gradient` may become the gradient with respect to what the activation was applied to; a layer
    /// of several inputs is called once for each, and leaves it.
    fn backward(&self, parameters: &LayerParameters, pass: Backward<'_>, scratch: &mut Scratch);

    /// After [`Layer::backward`]: adds to each record's number the squared L2 norm of the gradient with respect to the
    /// layer's parameters.
    fn add_squared_norms(&self, _pass: Products<'_>, _scratch: &mut Scratch, _squared_norms: &mut [f64]) {}

    /// After [`Layer::backward`], and [`Layer::add_squared_norms`] if there are `factors`: writes the sum over the records
    /// of the gradient with respect to the layer's parameters, each times its factor. May change `output_gradient`. A layer
    /// with [`Layer::rows`] finds zeros in `out` and writes those rows; any other writes all of it.
    fn gradient(&self, _pass: Products<'_>, _factors: Option<&[f32]>, _scratch: &mut Scratch, _out: &mut [f32]) {}

    /// After [`Layer::backward`]: writes the gradient of one record's loss with respect to the layer's parameters, with the
    /// bits that [`Layer::gradient`] would give if that record had gone through the layer alone, and the same rules for
    /// `out`.
    fn record_gradient(&self, pass: Products<'_>, record: usize, scratch: &mut Scratch, out: &mut [f32]) {
        self.gradient(pass.of(record), None, scratch, out);
    }

    /// Whether [`Layer::gradient`] writes some rows only; then lists them for this input, in any order, as ranges of the
    /// parameters.
    fn rows(&self, _input: &[f32], _rows: &mut Vec<Range<usize>>) -> bool {
        false
    }
}

/// What a layer reads and writes on the way forward.
pub(crate) struct Forward<'a> {
    /// Which of its inputs this is: 0 where there is one.
    pub(crate) part: usize,
    pub(crate) n_records: usize,
    pub(crate) input: &'a [f32],
    pub(crate) output: &'a mut [f32],
    /// Which time steps count, if not all.
    pub(crate) mask: Option<Mask<'a>>,
    /// What Dropout draws each record's mask from; empty outside training.
    pub(crate) dropout_keys: &'a [u64],
}

/// What a layer reads and writes on the way back.
pub(crate) struct Backward<'a> {
    /// Which of its inputs this is: 0 where there is one.
    pub(crate) part: usize,
    pub(crate) n_records: usize,
    /// What it was given.
    pub(crate) input: &'a [f32],
    /// What it put out.
    pub(crate) output: &'a [f32],
    /// The gradient with respect to its output.
    pub(crate) output_gradient: &'a mut [f32],
    /// Where the gradient with respect to its input goes, if anyone needs it.
    pub(crate) input_gradient: Option<&'a mut [f32]>,
    /// Which time steps count, if not all.
    pub(crate) mask: Option<Mask<'a>>,
}

/// What the gradient with respect to a layer's parameters is the product of.
pub(crate) struct Products<'a> {
    pub(crate) n_records: usize,
    /// What the layer was given.
    pub(crate) input: &'a [f32],
    /// What [`Layer::backward`] has left there.
    pub(crate) output_gradient: &'a mut [f32],
}

impl Products<'_> {
    /// Those of one record alone.
    pub(crate) fn of(self, record: usize) -> Self {
        let (input_len, output_len) = (self.input.len() / self.n_records, self.output_gradient.len() / self.n_records);
        Self {
            n_records: 1,
            input: &self.input[record * input_len..(record + 1) * input_len],
            output_gradient: &mut self.output_gradient[record * output_len..(record + 1) * output_len],
        }
    }
}

/// The ids that say which time steps of a record count: those that are not 0 (Keras' `mask_zero`).
#[derive(Clone, Copy)]
pub(crate) struct Mask<'a> {
    /// All records, one after the other.
    pub(crate) records: &'a [f32],
    /// Values of a record.
    pub(crate) record_len: usize,
    /// Where the ids begin in a record.
    pub(crate) start: usize,
    /// How many there are.
    pub(crate) len: usize,
}

impl<'a> Mask<'a> {
    /// The ids of one record.
    pub(crate) fn ids(&self, record: usize) -> &'a [f32] {
        &self.records[record * self.record_len + self.start..][..self.len]
    }
}

/// A layer's parameters, made ready once per model.
#[derive(Debug)]
pub(crate) struct LayerParameters {
    /// All of them, in Keras' order and layout.
    pub(crate) flat: Buffer,
    /// What the layer derives from them.
    pub(crate) derived: Buffer,
}

impl LayerParameters {
    pub(crate) fn new(layer: &dyn Layer, parameters: &[f32]) -> Self {
        let mut own = Self { flat: Buffer::from(parameters), derived: Buffer::zeroed(layer.derived_len()) };
        own.derive(layer);
        own
    }

    /// To be called whenever [`LayerParameters::flat`] has changed.
    pub(crate) fn derive(&mut self, layer: &dyn Layer) {
        layer.derive(&self.flat, &mut self.derived);
    }
}

/// A layer's memory within one worker.
#[derive(Debug)]
pub(crate) struct Scratch {
    pub(crate) floats: Buffer,
    pub(crate) indices: Vec<u32>,
    /// The records that it was made for.
    pub(crate) n_records: usize,
}

/// How many values a [`Scratch`] holds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ScratchLen {
    pub(crate) floats: usize,
    pub(crate) indices: usize,
}

impl Scratch {
    /// The memory of `layer` for up to `n_records` at once.
    pub(crate) fn new(layer: &dyn Layer, n_records: usize) -> Self {
        let ScratchLen { floats, indices } = layer.scratch_len(n_records);
        Self { floats: Buffer::zeroed(floats), indices: vec![0; indices], n_records }
    }
}

/// What [`build`] has to know of a layer's place.
pub(crate) struct Place<'a> {
    /// The layer's number in the model.
    pub(crate) index: usize,
    /// The shapes of what it reads.
    pub(crate) inputs: &'a [&'a [usize]],
    /// Where an InputLayer's values lie in a record, if they are not the whole record.
    pub(crate) range: Option<Range<usize>>,
    /// Values of a record.
    pub(crate) record_len: usize,
    /// The only layer that reads it, if there is one.
    pub(crate) reader: Option<&'a LayerKind>,
}

/// The step that runs a layer, and whether it runs the layer's only reader too. None if nothing has to be computed.
pub(crate) fn build(kind: &LayerKind, place: Place<'_>) -> Option<(Box<dyn Layer>, bool)> {
    let Place { index, inputs, range, record_len, reader } = place;
    let input = inputs.first().copied().unwrap_or_default();
    let len = input.iter().product::<usize>();
    let row_len = input.last().copied().unwrap_or(1);
    match *kind {
        LayerKind::InputLayer { .. } => {
            range.map(|range| (Box::new(input_layer::InputLayer { range, record_len }) as Box<dyn Layer>, false))
        }
        LayerKind::Flatten => flatten::build(),
        LayerKind::Activation(Activation::Linear) => None,
        LayerKind::Activation(activation) => {
            Some((Box::new(activation::ActivationLayer { activation, row_len, len }), false))
        }
        LayerKind::Dense { units, activation, use_bias } => {
            let (n_rows, units) = (len / row_len.max(1), units as usize);
            Some((Box::new(dense::Dense { n_rows, n_inputs: row_len, units, activation, use_bias }), false))
        }
        LayerKind::MaxPooling2D { pool_size, strides, padding } => {
            Some((Box::new(max_pooling2d::MaxPooling2D::new(input, pool_size, strides, padding)), false))
        }
        LayerKind::Lstm { units, return_sequences, use_bias } => {
            let (n_steps, units) = (len / row_len.max(1), units as usize);
            Some((Box::new(lstm::Lstm { n_steps, n_inputs: row_len, units, return_sequences, use_bias }), false))
        }
        LayerKind::Embedding { input_dim, output_dim, .. } => {
            let (input_dim, output_dim) = (input_dim as usize, output_dim as usize);
            Some((Box::new(embedding::Embedding { n_ids: len, input_dim, output_dim }), false))
        }
        LayerKind::Concatenate { axis } => {
            Some((Box::new(concatenate::Concatenate::new(inputs, axis as usize)), false))
        }
        LayerKind::Dropout { rate: 0 } => None,
        LayerKind::Dropout { rate } => Some((Box::new(dropout::Dropout { rate, index: index as u32, len }), false)),
        LayerKind::Conv2D { .. } => {
            let pool = reader.and_then(|reader| conv2d::fusable_pool(kind, reader));
            Some((Box::new(conv2d::Conv2D::new(kind, pool, input)), pool.is_some()))
        }
    }
}

/// Most records that go through a layer at once.
pub(crate) const N_RECORDS_MAX: usize = 16;
