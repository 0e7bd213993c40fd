//! How many records a second the gradient of a batch takes in: plain, with every record's gradient clipped, and by the
//! exact path, record by record.
//!
//! `cargo run --release -p eranos-nn --example train_step -- [MODEL] [--batch N] [--threads N]`
//!
//! Random records through a built-in model (`cnn` by default), batches of 32, two threads. Each figure is the median of
//! several runs of about half a second, the three ways taking turns: by the processor time of the threads, all of them busy,
//! which other work on the machine disturbs less, and by wall time. The exact path is the gradients alone, not their sum.
//! The matrix products of the plain way are set beside the rate of large ones in the same run.

mod shared;

use std::{
    fs,
    sync::{Barrier, Mutex},
    thread,
    time::Instant,
};

use eranos_base::{SeededEntropy, UserError};
use eranos_nn::{
    Buffer, LayerKind, LayerSpec, Loss, ModelSpec, Network, Prepared, Record, Target,
    kernel::{self, Rows, Start},
    network::batch::{Outcome, Weight, sum_chunks},
};

use ndarray::{Array2, linalg::general_mat_mul};

type Error = Box<dyn std::error::Error + Send + Sync>;

fn main() -> Result<(), Error> {
    let (mut model, mut n_batch, mut n_threads) = ("cnn".to_owned(), 32, 2);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut number = || arguments.next().and_then(|n| n.parse().ok()).filter(|&n: &usize| n > 0).ok_or_else(usage);
        match argument.as_str() {
            "--batch" => n_batch = number()?,
            "--threads" => n_threads = number()?,
            _ if argument.starts_with('-') => return Err(usage().into()),
            _ => model = argument,
        }
    }
    let spec = ModelSpec::builtin(&model).map_err(|e| e.user_error(&model))?;
    let loss = Loss::of_classes(&spec)?;
    let network = Network::new(spec, loss)?;
    let mut entropy = SeededEntropy::new(1);
    let prepared = network.prepare(&network.initialise(&mut entropy))?;
    let records: Vec<Vec<f32>> = (0..n_batch).map(|_| shared::random_record(network.spec(), &mut entropy)).collect();
    let n_classes = network.n_outputs().max(2);
    let batch: Vec<_> = records
        .iter()
        .enumerate()
        .map(|(i, record)| (Record::new(record), Target::Class((i % n_classes) as u32)))
        .collect();
    let l2_clip_norm = median_norm(&network, &prepared, &batch)?;
    println!(
        "model: {}; batches of {}, chunks of {}; {} threads; instructions: {:?}; clipped to {l2_clip_norm:.3}",
        model,
        n_batch,
        network.chunk_len(),
        n_threads,
        kernel::InstructionSet::detect()
    );
    let ways = [
        ("plain", Way::Batch(Weight::Equal(1.0 / n_batch as f32))),
        ("clipped", Way::Batch(Weight::Clip { l2_clip_norm })),
        ("exact", Way::Exact),
    ];
    let mut rates = [const { Vec::new() }; 3];
    for _ in 0..N_RUNS {
        for ((_, way), rates) in ways.iter().zip(&mut rates) {
            rates.push(measure(&network, &prepared, &batch, *way, n_threads)?);
        }
    }
    let medians = rates.map(|rates| {
        let sorted = |of: fn(&Rate) -> f64| {
            let mut sorted: Vec<f64> = rates.iter().map(of).collect();
            sorted.sort_by(f64::total_cmp);
            sorted
        };
        (sorted(|rate| rate.by_processor), sorted(|rate| rate.by_wall)[N_RUNS / 2])
    });
    for ((name, _), (by_processor, by_wall)) in ways.iter().zip(&medians) {
        let (least, median, most) = (by_processor[0], by_processor[N_RUNS / 2], by_processor[N_RUNS - 1]);
        println!("{name:<8} {median:9.0} samples/s ({least:.0} to {most:.0}); by wall time {by_wall:.0}");
    }
    let [plain, clipped, exact] = medians.map(|(by_processor, _)| by_processor[N_RUNS / 2]);
    println!("clipping costs {:.1} % over plain", 100.0 * (plain / clipped - 1.0));
    println!("clipped is {:.2} times as fast as exact", clipped / exact);
    let flops = 2.0 * network_multiplications(network.spec()) as f64 * plain;
    let peak = n_threads as f64 * gemm_flops();
    println!(
        "matrix products of plain: {:.1} GFLOP/s, {:.0} % of the {:.1} GFLOP/s of large ones on {n_threads} cores",
        flops / 1e9,
        100.0 * flops / peak,
        peak / 1e9
    );
    Ok(())
}

/// Multiply-adds of all matrix products for one record, forward and backward. A layer's weights are multiplied once on the
/// way forward, once for their own gradient, and once for that of the input, which a first layer leaves out; behind a
/// convolution that is pooled only the winners of each window have gradients.
fn network_multiplications(spec: &ModelSpec) -> usize {
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
    let median = |work: &mut dyn FnMut()| {
        let mut rates = [0.0; N_RUNS].map(|_| {
            let start = processor_seconds();
            (0..20).for_each(|_| work());
            20.0 * 2.0 * (N * N * N) as f64 / (processor_seconds() - start)
        });
        rates.sort_by(f64::total_cmp);
        rates[N_RUNS / 2]
    };
    let theirs = median(&mut || general_mat_mul(1.0, &a, &b, 0.0, &mut c));
    let (a, b) = (a.into_raw_vec_and_offset().0, b.into_raw_vec_and_offset().0);
    let (offsets, mut c): (Vec<u32>, Vec<f32>) = ((0..N).map(|i| (i * N) as u32).collect(), vec![0.0; N * N]);
    let rows = Rows { data: &a, offsets: &offsets, n_segments: 1, segment_len: N, segment_stride: 0, stride: 1 };
    let ours = median(&mut || kernel::gemm(rows, &b, N, Start::Zero, &mut c));
    println!(
        "products of 512 by 512: {:.1} GFLOP/s by ndarray, {:.1} by the kernel, on one core",
        theirs / 1e9,
        ours / 1e9
    );
    theirs.max(ours)
}

fn usage() -> UserError {
    UserError::new("an argument is not understood", "run it as train_step [MODEL] [--batch N] [--threads N]")
}

#[derive(Clone, Copy)]
enum Way {
    Batch(Weight),
    Exact,
}

/// Records a second.
#[derive(Clone, Copy)]
struct Rate {
    by_processor: f64,
    by_wall: f64,
}

type Example<'a> = (Record<'a>, Target<'a>);

/// Records a second, over about half a second of steps. Each thread takes every n-th chunk, and then its share of the sum.
fn measure(
    network: &Network,
    prepared: &Prepared,
    batch: &[Example<'_>],
    way: Way,
    n_threads: usize,
) -> Result<Rate, Error> {
    let n_parameters = network.n_parameters();
    let chunks: Vec<_> = batch.chunks(network.chunk_len()).collect();
    let gradients: Vec<_> = chunks.iter().map(|_| Mutex::new(network.gradient())).collect();
    let barrier = Barrier::new(n_threads);
    let steps = Mutex::new((1_usize, Instant::now()));
    let work = |thread: usize| -> Result<Rate, Error> {
        let mut workspace = network.workspace();
        let mut outcomes = vec![Outcome::default(); network.chunk_len()];
        let mut record_gradient = network.gradient();
        let range = thread * n_parameters / n_threads..(thread + 1) * n_parameters / n_threads;
        let mut sum = Buffer::zeroed(range.len());
        // The first steps say how many there are to be; they are not counted.
        for is_counted in [false, true] {
            barrier.wait();
            let n_steps = steps.lock().expect("no thread has panicked").0;
            let (start, processor_start) = (Instant::now(), processor_seconds());
            for _ in 0..n_steps {
                for (chunk, gradient) in chunks.iter().zip(&gradients).skip(thread).step_by(n_threads) {
                    let mut gradient = gradient.lock().expect("no thread has panicked");
                    let outcomes = &mut outcomes[..chunk.len()];
                    match way {
                        Way::Batch(weight) => {
                            network.chunk_gradient(prepared, chunk, weight, &mut workspace, outcomes, &mut gradient)?;
                        }
                        Way::Exact => {
                            for &(record, target) in *chunk {
                                let out = &mut record_gradient;
                                network.record_gradient(prepared, record, target, &mut workspace, out)?;
                            }
                        }
                    }
                }
                barrier.wait();
                if let Way::Batch(_) = way {
                    let gradients: Vec<_> =
                        gradients.iter().map(|gradient| gradient.lock().expect("no thread has panicked")).collect();
                    sum_chunks(gradients.iter().map(|gradient| &**gradient), range.start, &mut sum);
                }
                barrier.wait();
            }
            let seconds = start.elapsed().as_secs_f64();
            if is_counted {
                let n_records = (n_steps * batch.len()) as f64;
                let by_processor = n_records / (processor_seconds() - processor_start);
                return Ok(Rate { by_processor, by_wall: n_records / seconds });
            }
            barrier.wait();
            if thread == 0 {
                steps.lock().expect("no thread has panicked").0 = ((RUN_SECONDS / seconds) as usize).max(1);
            }
        }
        unreachable!("the second pass returns")
    };
    let work = &work;
    thread::scope(|scope| {
        let threads: Vec<_> = (0..n_threads).map(|thread| scope.spawn(move || work(thread))).collect();
        let rates = threads.into_iter().map(|thread| thread.join().expect("no thread has panicked"));
        let rates = rates.collect::<Result<Vec<_>, _>>()?;
        // All threads leave the last barrier together. Their mean processor time is what a step would take of them all.
        let seconds: f64 = rates.iter().map(|rate| 1.0 / rate.by_processor).sum();
        Ok(Rate { by_processor: n_threads as f64 / seconds, by_wall: rates[0].by_wall })
    })
}

/// Processor seconds of this thread: the first figure of its schedstat, in nanoseconds.
fn processor_seconds() -> f64 {
    let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    text.split_whitespace().next().and_then(|n| n.parse::<f64>().ok()).unwrap_or(f64::NAN) / 1e9
}

/// The norm that clips half of the records.
fn median_norm(network: &Network, prepared: &Prepared, batch: &[Example<'_>]) -> Result<f64, Error> {
    let (mut workspace, mut out) = (network.workspace(), network.gradient());
    let mut norms = Vec::new();
    for &(record, target) in batch {
        network.record_gradient(prepared, record, target, &mut workspace, &mut out)?;
        norms.push(kernel::squared_norm(&out).sqrt());
    }
    norms.sort_by(f64::total_cmp);
    Ok(norms[norms.len() / 2])
}

/// Runs of each way.
const N_RUNS: usize = 7;
/// Seconds that a run takes, about.
const RUN_SECONDS: f64 = 0.5;
