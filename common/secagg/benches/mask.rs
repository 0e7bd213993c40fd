//! Masks expanded and added, beside what the hardware can do at all: independent chains of AES rounds.
//!
//! ```text
//! cargo bench -p eranos-secagg --bench mask
//! ```
//!
//! One thread; 100 masks over 10^6 values. Each measurement of the fused loop has one of the rounds right before it, so
//! that a machine that others slow down slows both; the share printed is the median over all of them.

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use aes::Aes128;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ctr::cipher::{KeyIvInit, StreamCipher};
use eranos_base::{Entropy, SeededEntropy};
use eranos_secagg::{
    Bits,
    kernel::{InstructionSet, aes_rounds},
    mask::{Lanes, MaskKey, Sign},
    terms::Dimension,
};

const DIMENSION: usize = 1_000_000;
const N_KEYS: usize = 100;
const ROUNDS_PER_BLOCK: usize = 10;
/// The keys' seed: times do not depend on keys.
const SEED: u64 = 1;

fn keys() -> Vec<[u8; 24]> {
    let mut entropy = SeededEntropy::new(SEED);
    (0..N_KEYS).map(|_| entropy.bytes()).collect()
}

fn masks(criterion: &mut Criterion) {
    // Pairwise masks come with both signs.
    let masks: Vec<_> = (keys().into_iter().enumerate())
        .map(|(i, key)| (if i % 2 == 0 { Sign::Plus } else { Sign::Minus }, MaskKey::from_bytes(key)))
        .collect();
    for b in [32, 16] {
        let lane_len = if b == 32 { 4 } else { 2 };
        let mut group = criterion.benchmark_group(format!("masks/{DIMENSION} values of {} bits, {N_KEYS} keys", b));
        group.throughput(Throughput::Bytes((DIMENSION * lane_len * N_KEYS) as u64));
        group.sample_size(10).warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2));
        let bits = Bits::new(b).expect("valid");
        let mut vector = Lanes::zeros(Dimension::new(DIMENSION).expect("valid"), bits);
        for set in InstructionSet::available() {
            let mut shares = Vec::new();
            group.bench_function(BenchmarkId::new("fused", format!("{set:?}")), |bencher| {
                bencher.iter_custom(|n| {
                    let mut total = Duration::ZERO;
                    for _ in 0..n {
                        let limit = limit(InstructionSet::detect(), lane_len);
                        let start = Instant::now();
                        vector.apply_by(*set, 1, black_box(&masks));
                        let took = start.elapsed();
                        shares.extend(limit.map(|limit| limit.as_secs_f64() / took.as_secs_f64()));
                        total += took;
                    }
                    total
                });
            });
            shares.sort_by(f64::total_cmp);
            if let Some(median) = shares.get(shares.len() / 2) {
                println!(
                    "{set:?}, {b} bits: {:.1} % of the AES round limit of {:?}",
                    100.0 * median,
                    InstructionSet::detect()
                );
            }
        }
        group.bench_function("AES rounds alone", |bencher| {
            bencher
                .iter_custom(|n| (0..n).map(|_| limit(InstructionSet::detect(), lane_len).unwrap_or_default()).sum());
        });
        if b == 32 {
            group.bench_function("two steps", |bencher| bencher.iter(|| two_steps(black_box(&keys()))));
        }
        group.finish();
    }
}

/// How long the rounds of all blocks take, if `set` has rounds of its own.
fn limit(set: InstructionSet, lane_len: usize) -> Option<Duration> {
    let at_once = aes_rounds(set, 0);
    let rounds = (DIMENSION * lane_len / 16 * N_KEYS * ROUNDS_PER_BLOCK).checked_div(at_once)?;
    let start = Instant::now();
    black_box(aes_rounds(set, black_box(rounds)));
    Some(start.elapsed())
}

/// Every keystream written out by the `ctr` crate, then added.
fn two_steps(keys: &[[u8; 24]]) -> Vec<u32> {
    let (mut sum, mut keystream) = (vec![0u32; DIMENSION], vec![0; 4 * DIMENSION]);
    for key in keys {
        let mut counter_block = [0; 16];
        counter_block[8..].copy_from_slice(&key[16..]);
        keystream.fill(0);
        let mut cipher = ctr::Ctr64LE::<Aes128>::new_from_slices(&key[..16], &counter_block).expect("lengths");
        cipher.apply_keystream(&mut keystream);
        for (sum, bytes) in sum.iter_mut().zip(keystream.as_chunks().0) {
            *sum = sum.wrapping_add(u32::from_le_bytes(*bytes));
        }
    }
    sum
}

criterion_group!(benches, masks);
criterion_main!(benches);
