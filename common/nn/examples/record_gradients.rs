//! How many record gradients a core computes, and where their time goes.
//!
//! `cargo run --release -p eranos-nn --example record_gradients -- [RECORDS]`
//!
//! Random records through the mission's CNN, one thread. The figures are CPU time, which other work on the machine
//! disturbs less than wall time.

use std::fs;

use eranos_base::{Entropy, SeededEntropy};
use eranos_nn::{Buffer, Loss, ModelSpec, Network, Target, kernel};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let n_records = std::env::args().nth(1).map_or(Ok(4000), |n| n.parse::<usize>())?;
    let network = Network::new(ModelSpec::builtin("cnn")?, Loss::SparseCategoricalCrossentropy)?;
    let mut entropy = SeededEntropy::new(1);
    let prepared = network.prepare(&network.initialise(&mut entropy))?;
    let mut workspace = network.workspace();
    let mut out = Buffer::zeroed(network.n_parameters());
    let records: Vec<Vec<f32>> = (0..64)
        .map(|_| (0..network.input_len()).map(|_| f32::from(entropy.bytes::<1>()[0]) / 255.0).collect())
        .collect();
    println!("instructions: {:?}", kernel::InstructionSet::detect());
    for run in 0..3 {
        let start = cpu_seconds();
        for i in 0..n_records {
            let target = Target::Class((i % 10) as u32);
            network.record_gradient(&prepared, &records[i % records.len()], target, &mut workspace, &mut out)?;
        }
        let seconds = cpu_seconds() - start;
        let micros = 1e6 * seconds / n_records as f64;
        println!("run {run}: {:.0} records/s, {micros:.1} us a record (CPU time)", 1e6 / micros);
    }
    let times = network.profile(&prepared, &records[0], Target::Class(3), &mut workspace, 2000)?;
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
