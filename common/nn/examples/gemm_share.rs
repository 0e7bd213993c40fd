//! What share of the machine's matrix products the training of a model reaches.
//!
//! `cargo run --release -p eranos-nn --example gemm_share -- [MODEL] [BATCH]`
//!
//! The gradient of a batch of random records (32) through a built-in model (`cnn`), on one thread, beside the product of
//! two large matrices, medians of several runs each by processor time, which other work on the machine disturbs less
//! than wall time.

mod shared;

use std::fs;

use eranos_base::SeededEntropy;
use eranos_nn::{
    LayerKind, LayerSpec, Loss, ModelSpec, Network, Record, Target,
    kernel::{self, Rows, Start},
    network::batch::{Outcome, Weight},
};
use ndarray::{Array2, linalg::general_mat_mul};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let name = std::env::args().nth(1).unwrap_or_else(|| "cnn".to_owned());
    let n_batch = std::env::args().nth(2).map_or(Ok(32), |n| n.parse::<usize>())?;
    let spec = ModelSpec::builtin(&name).map_err(|e| e.user_error(&name))?;
    let loss = Loss::of_classes(&spec)?;
    let network = Network::new(spec, loss)?;
    let mut entropy = SeededEntropy::new(1);
    let prepared = network.prepare(&network.initialise(&mut entropy))?;
    let records: Vec<Vec<f32>> = (0..n_batch).map(|_| shared::random_record(network.spec(), &mut entropy)).collect();
    let n_classes = network.n_outputs().max(2);
    let example = |(i, record)| (Record::new(record), Target::Class((i % n_classes) as u32));
    let batch: Vec<_> = records.iter().map(Vec::as_slice).enumerate().map(example).collect();
    let (mut workspace, mut aside, mut out) =
        (network.workspace(), network.gradient(), vec![0.0; network.n_parameters()]);
    let (weight, mut outcomes) = (Weight::Equal(1.0 / n_batch as f32), vec![Outcome::default(); n_batch]);
    let mut step =
        || network.batch_gradient(&prepared, &batch, weight, &mut workspace, &mut aside, &mut outcomes, &mut out);
    step()?;
    let records_a_second = n_batch as f64 * rate(|| step().expect("as before"));
    let flops = 2.0 * multiply_adds(network.spec()) as f64 * records_a_second;
    let peak = gemm_flops();
    println!(
        "{name}, {n_batch}: {records_a_second:.0} records/s, {:.1} GFLOP/s, {:.0} % of {:.1} GFLOP/s",
        flops / 1e9,
        100.0 * flops / peak,
        peak / 1e9
    );
    Ok(())
}

/// Multiply-adds of all matrix products for one record, forward and backward. A layer's weights are multiplied once on the
/// way forward, once for their own gradient, and once for that of the input, which a first layer leaves out; behind a
/// convolution that is pooled only the winners of each window have gradients.
fn multiply_adds(spec: &ModelSpec) -> usize {
    let is_first = |layer: &LayerSpec| {
        layer.inputs.iter().all(|&i| matches!(spec.layers()[i as usize].kind, LayerKind::InputLayer { .. }))
    };
    let of = |(i, layer): (usize, &LayerSpec)| {
        let input = layer.inputs.first().map_or(&[][..], |&i| &spec.shapes()[i as usize]);
        let (output, last) = (&spec.shapes()[i], input.last().copied().unwrap_or(0));
        let passes = if is_first(layer) { 2 } else { 3 };
        let pooled = spec
            .layers()
            .iter()
            .position(|reader| reader.inputs == [i as u32] && matches!(reader.kind, LayerKind::MaxPooling2D { .. }));
        match &layer.kind {
            LayerKind::Dense { .. } => passes * output.iter().product::<usize>() * last,
            LayerKind::Conv2D { kernel_size: [height, width], .. } => {
                let n_winners = spec.shapes()[pooled.unwrap_or(i)].iter().product::<usize>();
                let n_values = output.iter().product::<usize>() + (passes - 1) * n_winners;
                n_values * (*height * *width) as usize * last
            }
            LayerKind::Lstm { units, .. } => {
                // The recurrent products have an input gradient in any case.
                let (steps, units) = (input[0], *units as usize);
                steps * 4 * units * (passes * last + 3 * units)
            }
            _ => 0,
        }
    };
    spec.layers().iter().enumerate().map(of).sum()
}

/// Floating-point operations a processor second of a product of matrices of 512 by 512 on one thread: by ndarray or by the
/// kernel here, whichever is faster.
fn gemm_flops() -> f64 {
    const N: usize = 512;
    let matrix = |seed: usize| Array2::from_shape_fn((N, N), |(i, j)| ((i * 31 + j * 17 + seed) % 97) as f32 / 97.0);
    let (a, b, mut c) = (matrix(1), matrix(2), Array2::<f32>::zeros((N, N)));
    let flops = 2.0 * (N * N * N) as f64;
    let theirs = flops * rate(|| general_mat_mul(1.0, &a, &b, 0.0, &mut c));
    let (a, b) = (a.into_raw_vec_and_offset().0, b.into_raw_vec_and_offset().0);
    let (offsets, mut c): (Vec<u32>, Vec<f32>) = ((0..N).map(|i| (i * N) as u32).collect(), vec![0.0; N * N]);
    let rows = Rows { data: &a, offsets: &offsets, n_segments: 1, segment_len: N, segment_stride: 0, stride: 1 };
    let ours = flops * rate(|| kernel::gemm(rows, &b, N, Start::Zero, &mut c));
    println!(
        "products of 512 by 512: {:.1} GFLOP/s by ndarray, {:.1} by the kernel, on one core",
        theirs / 1e9,
        ours / 1e9
    );
    theirs.max(ours)
}

/// How often a second of processor time `work` can be done: the median of several runs.
fn rate(mut work: impl FnMut()) -> f64 {
    let mut rates = [0.0; N_RUNS].map(|_| {
        let (start, mut n) = (processor_seconds(), 0.0);
        loop {
            work();
            n += 1.0;
            let seconds = processor_seconds() - start;
            if seconds > RUN_SECONDS {
                return n / seconds;
            }
        }
    });
    rates.sort_by(f64::total_cmp);
    rates[N_RUNS / 2]
}

/// Processor seconds of this thread: the first figure of its schedstat, in nanoseconds.
fn processor_seconds() -> f64 {
    let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    text.split_whitespace().next().and_then(|n| n.parse::<f64>().ok()).unwrap_or(f64::NAN) / 1e9
}

const N_RUNS: usize = 7;
/// Processor seconds that a run takes, about.
const RUN_SECONDS: f64 = 0.3;
