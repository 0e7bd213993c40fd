//! How many record gradients a core computes, and where their time goes.
//!
//! `cargo run --release -p eranos-nn --example record_gradients -- [MODEL] [RECORDS]`
//!
//! Random records through a built-in model (`cnn` by default), one thread. The figures are CPU time, which other work on
//! the machine disturbs less than wall time.
//!
//! On one core of a shared AMD EPYC (Zen 5), the median of three runs; of the recommender 400,000 records:
//!
//! | model | records/s | where most of it goes |
//! |---|---|---|
//! | cnn | 18,900 | the second convolution |
//! | lstm | 7,500 | its matrix products |
//! | nlp | 4,400 | its matrix products |
//! | recommender | 1,000,000 | the first dense layer's gradient |

mod shared;

use std::fs;

use eranos_base::SeededEntropy;
use eranos_nn::{Loss, ModelSpec, Network, Record, Target, kernel};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let name = std::env::args().nth(1).unwrap_or_else(|| "cnn".to_owned());
    let n_records = std::env::args().nth(2).map_or(Ok(4000), |n| n.parse::<usize>())?;
    let spec = ModelSpec::builtin(&name).map_err(|e| e.user_error(&name))?;
    let loss = match spec.output_shape() {
        [_] => Loss::SparseCategoricalCrossentropy,
        _ => Loss::BinaryCrossentropy,
    };
    let network = Network::new(spec, loss)?;
    let mut entropy = SeededEntropy::new(1);
    let prepared = network.prepare(&network.initialise(&mut entropy))?;
    let mut workspace = network.workspace();
    let mut out = network.gradient();
    let records: Vec<Vec<f32>> = (0..64).map(|_| shared::random_record(network.spec(), &mut entropy)).collect();
    let n_classes = network.n_outputs().max(2);
    println!("model: {name}; instructions: {:?}", kernel::InstructionSet::detect());
    for run in 0..3 {
        let start = cpu_seconds();
        for i in 0..n_records {
            let (record, target) = (Record::new(&records[i % records.len()]), Target::Class((i % n_classes) as u32));
            network.record_gradient(&prepared, record, target, &mut workspace, &mut out)?;
        }
        let seconds = cpu_seconds() - start;
        let micros = 1e6 * seconds / n_records as f64;
        println!("run {run}: {:.0} records/s, {micros:.1} us a record (CPU time)", 1e6 / micros);
    }
    let times = network.profile(&prepared, Record::new(&records[0]), Target::Class(1), &mut workspace, 2000)?;
    let total: f64 = times.iter().map(|t| (t.forward + t.backward).as_secs_f64()).sum();
    for time in times {
        let (forward, backward) = (time.forward.as_secs_f64(), time.backward.as_secs_f64());
        println!(
            "{:<28} forward {:6.1} us ({:4.1} %)  backward {:6.1} us ({:4.1} %)",
            time.layers,
            1e6 * forward,
            100.0 * forward / total,
            1e6 * backward,
            100.0 * backward / total
        );
    }
    Ok(())
}

/// CPU seconds of this process: the first figure of /proc/self/schedstat, in nanoseconds.
fn cpu_seconds() -> f64 {
    let text = fs::read_to_string("/proc/self/schedstat").unwrap_or_default();
    text.split_whitespace().next().and_then(|n| n.parse::<f64>().ok()).unwrap_or(f64::NAN) / 1e9
}
