//! What the crate promises to those who build on it, through its public interface.

mod batch;
mod data;
mod exact;
mod models;
mod reference;
mod samples;
mod specs;
mod tables;
mod weights;

use std::io::Write;

use eranos_base::{Entropy, SeededEntropy};
use eranos_nn::{Loss, ModelSpec, Network};
use flate2::{Compression, write::GzEncoder};

/// The mission's CNN.
fn cnn() -> Network {
    let spec = ModelSpec::builtin("cnn").expect("built in");
    Network::new(spec, Loss::SparseCategoricalCrossentropy).expect("ends in softmax")
}

/// `n` values in [-1, 1).
fn values(n: usize, entropy: &mut SeededEntropy) -> Vec<f32> {
    (0..n).map(|_| f32::from(i16::from_le_bytes(entropy.bytes())) / 32768.0).collect()
}

/// A number below `n`.
fn below(n: usize, entropy: &mut SeededEntropy) -> usize {
    u32::from_le_bytes(entropy.bytes()) as usize % n
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).expect("memory");
    encoder.finish().expect("memory")
}
