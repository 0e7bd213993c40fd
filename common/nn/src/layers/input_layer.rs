//! InputLayer: where a record comes in, `[batch_size, ..shape]`. The only one of a model is the record itself, and
//! nothing is computed; of several, each is its share of the record's values, in the order of the model's layers.

use std::ops::Range;

use super::{Backward, Forward, Layer, LayerParameters, Scratch};

/// One of several inputs.
#[derive(Debug)]
pub(super) struct InputLayer {
    /// Where its values lie in a record.
    pub(super) range: Range<usize>,
    /// Values of a record.
    pub(super) record_len: usize,
}

impl Layer for InputLayer {
    fn output_len(&self) -> usize {
        self.range.len()
    }

    fn forward(&self, _: &LayerParameters, pass: Forward<'_>, _: &mut Scratch) {
        let records = pass.input.chunks_exact(self.record_len).zip(pass.output.chunks_exact_mut(self.range.len()));
        for (record, output) in records.take(pass.n_records) {
            output.copy_from_slice(&record[self.range.clone()]);
        }
    }

    fn backward(&self, _: &LayerParameters, _: Backward<'_>, _: &mut Scratch) {}
}
