//! What the exact path costs, in CPU time of one core: `cargo run --release -p eranos-privacy --example speeds`.

use std::{hint::black_box, time::Instant};

use eranos_base::{Entropy, OsEntropy, SeededEntropy};
use eranos_privacy::{
    NoiseSource, NoiseVariance, Probability, RotationSeed, SiloSum, Weight,
    mechanism::{NoiseTarget, RecordTarget, design},
    rotation::{hadamard, restore},
};

fn main() {
    let target = RecordTarget {
        groups: eranos_privacy::Groups::default(),
        l2_clip_norm: 1.0,
        n_parameters: 121_930,
        sampling_probability: Probability::new(1, 4).expect("a probability"),
        expected_lot: 1500,
        record_bound: 750,
        local: None,
        n_max: 8,
        u_min: 7,
        max_colluders: 1,
        max_attempts: 155,
        noise: NoiseTarget::Distributed { epsilon: 4.0 },
        delta: 1e-5,
    };
    let mechanism = design(&target).expect("the demo's target is reachable");
    measure("design of the demo's mechanism", 5, || {
        black_box(design(&target)).expect("reachable");
    });
    let bytes = mechanism.encode();
    measure("decode and check of a mechanism", 20, || {
        black_box(eranos_privacy::RecordMechanism::decode(&bytes)).expect("sound");
    });

    let mut entropy = SeededEntropy::new(1);
    let gradients: Vec<Vec<f32>> = (0..16)
        .map(|_| (0..121_930).map(|_| f32::from(i16::from_le_bytes(entropy.bytes())) / 65536.0).collect())
        .collect();
    let mut sum = SiloSum::new(&mechanism);
    let mut n_added = 0;
    measure("clip_into, d = 121930, one record", 2000, || {
        if n_added == 274 {
            sum = SiloSum::new(&mechanism);
            n_added = 0;
        }
        sum.add(&gradients[n_added % 16], Weight::One).expect("a slot");
        n_added += 1;
    });
    for d in [1 << 17, 12 << 13, 20 << 13, 12 << 16, 1 << 20] {
        let mut v: Vec<i64> = (0..d).map(|_| i64::from(i32::from_le_bytes(entropy.bytes()))).collect();
        measure(&format!("rotation without its signs, d = {d}"), 50, || {
            hadamard(&mut v);
            v.iter_mut().for_each(|x| *x >>= 10);
        });
    }
    let seed = RotationSeed([1; 32]);
    let vector = sum.contribute(&mechanism, &seed, &mut OsEntropy).expect("same mechanism");
    measure("restore, d = 131072", 20, || {
        black_box(restore(&vector, &mechanism, &seed, 8)).expect("a sum");
    });
    let mut noise = vec![0i64; 1 << 17];
    for deviation in [4.0, 100.0, 5.5e4, 1e6] {
        let variance = NoiseVariance::from_numerator((deviation * deviation * 1024.0) as u64).expect("in range");
        let mut source = NoiseSource::new(variance, &mut OsEntropy);
        let seconds = measure(&format!("noise, d = 131072, sg = {deviation}"), 50, || source.add_to(&mut noise));
        println!("  at its fastest {:.1} million values a second and core", f64::from(1 << 17) / seconds / 1e6);
    }
    // What no sampler can undercut: random bytes for as many values of 64 bits, from the operating system through ring.
    let mut bytes = vec![0; 8 << 17];
    let random = ring::rand::SystemRandom::new();
    let seconds = measure("ring's random bytes, 131072 values of 8 bytes", 50, || {
        ring::rand::SecureRandom::fill(&random, black_box(&mut bytes)).expect("the system has random bytes");
    });
    println!("  at its fastest {:.1} million values a second and core", f64::from(1 << 17) / seconds / 1e6);
}

/// Prints the median of `n_times` runs, of which the first is not counted, and gives the least, in seconds. One thread and
/// nothing waited for, so that wall time is CPU time on an idle core; the median forgets the moments in which it was not.
fn measure(what: &str, n_times: usize, mut run: impl FnMut()) -> f64 {
    run();
    let mut times: Vec<f64> = (0..n_times)
        .map(|_| {
            let start = Instant::now();
            run();
            start.elapsed().as_secs_f64()
        })
        .collect();
    times.sort_by(f64::total_cmp);
    println!("{what}: {:.1} us (least {:.1})", times[n_times / 2] * 1e6, times[0] * 1e6);
    times[0]
}
