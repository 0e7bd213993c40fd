//! Dropout (Srivastava et al. 2014, in its inverted form, as Keras has it): `[batch_size, ..]` to the same shape. In
//! training each value is dropped with probability `rate`, and what stays is divided by 1 - rate; else values pass as
//! they are.
//!
//! The mask is a function of the record's key, of the layer's number in the model and of nothing else: value i is dropped if
//! word i of Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3", section 3.3) under that key
//! is below `rate`. That a mask is secret is claimed nowhere: the clip bounds a record's gradient whatever was dropped.

use super::{Backward, Forward, Layer, LayerParameters, Scratch, ScratchLen};

/// Values dropped at random.
#[derive(Debug)]
pub(super) struct Dropout {
    /// Which probability, in units of 2^-32.
    pub(super) rate: u32,
    /// The layer's number in the model.
    pub(super) index: u32,
    /// Values of one record.
    pub(super) len: usize,
}

impl Layer for Dropout {
    fn output_len(&self) -> usize {
        self.len
    }

    fn scratch_len(&self, n_records: usize) -> ScratchLen {
        ScratchLen { floats: n_records * self.len, indices: 0 }
    }

    fn forward(&self, _: &LayerParameters, pass: Forward<'_>, scratch: &mut Scratch) {
        if pass.dropout_keys.is_empty() {
            pass.output.copy_from_slice(pass.input);
            return;
        }
        let kept = (1.0 / (1.0 - f64::from(self.rate) / 2f64.powi(32))) as f32;
        for (key, factors) in pass.dropout_keys.iter().zip(scratch.floats.chunks_exact_mut(self.len)) {
            for (block, factors) in factors.chunks_mut(4).enumerate() {
                let words = philox([block as u32, self.index, 0, 0], [*key as u32, (key >> 32) as u32]);
                for (factor, word) in factors.iter_mut().zip(words) {
                    *factor = if word < self.rate { 0.0 } else { kept };
                }
            }
        }
        multiply(pass.input, &scratch.floats, pass.output);
    }

    fn backward(&self, _: &LayerParameters, pass: Backward<'_>, scratch: &mut Scratch) {
        if let Some(input_gradient) = pass.input_gradient {
            multiply(pass.output_gradient, &scratch.floats, input_gradient);
        }
    }
}

/// A NaN times zero stays one, so that no mask hides it.
fn multiply(values: &[f32], factors: &[f32], out: &mut [f32]) {
    for ((out, x), factor) in out.iter_mut().zip(values).zip(factors) {
        *out = x * factor;
    }
}

/// Four random words for a counter under a key.
fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..10 {
        let [a, b] = [(counter[0], 0xD251_1F53_u32), (counter[2], 0xCD9E_8D57)]
            .map(|(word, factor)| u64::from(word) * u64::from(factor));
        counter = [(b >> 32) as u32 ^ counter[1] ^ key[0], b as u32, (a >> 32) as u32 ^ counter[3] ^ key[1], a as u32];
        key = [key[0].wrapping_add(0x9E37_79B9), key[1].wrapping_add(0xBB67_AE85)];
    }
    counter
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The known answers of the authors' Random123.
    #[test]
    fn philox_gives_the_authors_answers() {
        let ones = u32::MAX;
        for (counter, key, expected) in [
            ([0; 4], [0; 2], [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]),
            ([ones; 4], [ones; 2], [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]),
            (
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                [0xa409_3822, 0x299f_31d0],
                [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
            ),
        ] {
            assert_eq!(philox(counter, key), expected);
        }
    }

    #[test]
    fn the_share_dropped_is_the_rate_and_the_mean_stays() {
        let dropout = Dropout { rate: 1 << 30, index: 3, len: 40_000 };
        let mut scratch = Scratch::new(&dropout, 1);
        let parameters = LayerParameters::new(&dropout, &[]);
        let (input, mut output) = (vec![1.5; dropout.len], vec![0.0; dropout.len]);
        let pass = Forward {
            part: 0,
            n_records: 1,
            input: &input,
            output: &mut output,
            mask: None,
            dropout_keys: &[0xfeed_beef_0123_4567],
        };
        dropout.forward(&parameters, pass, &mut scratch);
        let n_dropped = output.iter().filter(|&&x| x == 0.0).count();
        // Five standard deviations.
        assert!((n_dropped as f64 - 10_000.0).abs() < 5.0 * 87.0, "{n_dropped}");
        assert!(output.iter().all(|&x| x == 0.0 || (x - 2.0).abs() < 1e-6));
    }
}
