//! What one record can do, through the client's own trainer: from its files to the vector that would be masked. Rounds
//! without noise show the exact sum, so that a bound is a bound and no statistic.

use std::sync::{Arc, mpsc};

use eranos_base::{Entropy, SeededEntropy};
use eranos_client::{
    round::TrainingJob,
    trainer::{Pool, Trainer},
};
use eranos_nn::{Activation, DataSpec, Dataset, LayerKind, LayerSpec, Loss, ModelSpec, Network, data::Files};
use eranos_privacy::{
    Groups, Probability, Promise, RecordMechanism, RotationSeed,
    groups::{AdaptiveClip, Estimate, Metrics, Share},
    mechanism::{NoiseTarget, RecordTarget, SiloTraining, design},
    rotation::{release, restore},
};

/// A record: 16 values as they stand in an image, and a class below 4.
type Row = (Vec<f32>, u32);

/// Four dense layers, so that a clip of each by itself would let a record's gradient be twice as long as its clip.
fn model() -> ModelSpec {
    let dense = |name: &str, input: u32, units: u32, activation: Activation| LayerSpec {
        name: name.to_owned(),
        inputs: vec![input],
        kind: LayerKind::Dense { units, activation, use_bias: true },
    };
    let layers = vec![
        LayerSpec { name: "input".to_owned(), inputs: vec![], kind: LayerKind::InputLayer { shape: vec![4, 4, 1] } },
        LayerSpec { name: "flatten".to_owned(), inputs: vec![0], kind: LayerKind::Flatten },
        dense("first", 1, 12, Activation::Tanh),
        dense("second", 2, 12, Activation::Relu),
        dense("third", 3, 12, Activation::Tanh),
        dense("fourth", 4, 4, Activation::Softmax),
    ];
    ModelSpec::new("layers", layers).unwrap()
}

fn mechanism(noise: NoiseTarget, q: Probability) -> RecordMechanism {
    with_groups(noise, q, Groups::default())
}

/// Loss, accuracy and the count of clipped ones, with large shares.
fn all_groups() -> Groups {
    let share = Share::from_millionths(200_000).unwrap();
    let adaptive = AdaptiveClip { l2_clip_norm_min: CLIP / 10.0, l2_clip_norm_max: CLIP * 10.0, share };
    Groups::new(Some(Metrics::new(LOSS_MAX, 0.4).unwrap()), Some(adaptive)).unwrap()
}

fn with_groups(noise: NoiseTarget, q: Probability, groups: Groups) -> RecordMechanism {
    design(&target(noise, q, groups)).unwrap()
}

fn target(noise: NoiseTarget, q: Probability, groups: Groups) -> RecordTarget {
    RecordTarget {
        groups,
        l2_clip_norm: CLIP,
        n_parameters: model().n_parameters() as u32,
        sampling_probability: q,
        expected_lot: 20,
        record_bound: 64,
        local: None,
        n_max: 4,
        u_min: 3,
        max_colluders: 1,
        max_attempts: 4,
        noise,
        delta: 1e-5,
    }
}

/// What the trainer makes of these records under these weights; a rotation that is the same for all.
fn contribute(mechanism: &RecordMechanism, weights: &[f32], records: &[Row]) -> Vec<u32> {
    let (values, labels): (Vec<&[f32]>, Vec<u32>) = records.iter().map(|(values, label)| (&values[..], *label)).unzip();
    let files = Files::Idx(Dataset::from_values(values.concat(), labels, &[4, 4, 1]));
    let job = TrainingJob {
        model: model(),
        data: DataSpec::Images { shape: [4, 4, 1], n_classes: 4 },
        checkpoint: weights.iter().flat_map(|weight| weight.to_le_bytes()).collect(),
        mechanism: mechanism.clone().into(),
        rotation_seed: ROTATION,
    };
    let (sender, result) = mpsc::channel();
    let trainer = Arc::new(Trainer::new(files, Pool::new(Some(2)).unwrap()));
    let _cancel = trainer.start(job, move |result| sender.send(result).unwrap());
    result.recv().unwrap().unwrap().to_vec()
}

struct Random(SeededEntropy);

impl Random {
    /// Uniform between -1 and 1.
    fn value(&mut self) -> f32 {
        i16::from_le_bytes(self.0.bytes()) as f32 / 32768.0
    }

    fn values(&mut self, n: usize, size: f32) -> Vec<f32> {
        (0..n).map(|_| size * self.value()).collect()
    }

    fn record(&mut self, size: f32) -> Row {
        (self.values(16, size), u32::from(self.0.bytes::<1>()[0] % 4))
    }
}

/// The squared distance of two vectors modulo 2^b.
fn distance_squared(a: &[u32], b: &[u32], bits: u8) -> u64 {
    let unused = 32 - u32::from(bits);
    let distance = |a: &u32, b: &u32| i64::from((a.wrapping_sub(*b) << unused) as i32 >> unused);
    a.iter().zip(b).map(|(a, b)| (distance(a, b) * distance(a, b)) as u64).sum()
}

#[test]
fn one_record_moves_a_clients_vector_by_no_more_than_the_sensitivity() {
    let mut n_long = 0;
    for seed in 0..24 {
        // Every other time with groups that take most of the clip: loss and accuracy are of this very record.
        let groups = if seed % 2 == 0 { Groups::default() } else { all_groups() };
        let m = with_groups(NoiseTarget::None, Probability::ONE, groups);
        let bits = m.parameters().bits;
        let mut random = Random(SeededEntropy::new(seed));
        // The coordinator chooses the weights: sensible, all large, so large that sums overflow, and not numbers.
        let size = [0.5, 1e3, 1e18, 1e38][seed as usize % 4];
        let mut weights = random.values(model().n_parameters(), size);
        if seed % 8 == 7 {
            weights[3] = f32::NAN;
        }
        let records: Vec<Row> = (0..19).map(|_| random.record(255.0)).collect();
        let without = contribute(&m, &weights, &records);
        let mut attacks = vec![
            random.record(255.0),
            // A millionfold, and far more.
            random.record(255e6),
            random.record(1e38),
            (vec![f32::MAX; 16], 0),
            // Terms that cancel.
            ((0..16).map(|i| if i % 2 == 0 { 1e30 } else { -1e30 }).collect(), 1),
            records[0].clone(),
        ];
        for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut attack = random.record(255.0);
            attack.0[5] = value;
            attacks.push(attack);
        }
        for (i, attack) in attacks.into_iter().enumerate() {
            // Anywhere among the others, whose integers must not depend on it.
            let mut with = records.clone();
            with.insert(usize::from(random.0.bytes::<1>()[0]) % 20, attack);
            let moved = distance_squared(&contribute(&m, &weights, &with), &without, bits);
            assert!(moved <= m.sensitivity_squared(), "seed {seed}, attack {i}: {moved}");
            n_long += u32::from(moved > m.sensitivity_squared() / 2);
        }
    }
    // The bound is not kept by being far away.
    assert!(n_long > 20, "{n_long}");
}

#[test]
fn a_record_that_is_not_finite_takes_no_other_with_it() {
    let m = mechanism(NoiseTarget::None, Probability::ONE);
    let mut random = Random(SeededEntropy::new(31));
    let weights = random.values(model().n_parameters(), 0.5);
    let records: Vec<Row> = (0..10).map(|_| random.record(255.0)).collect();
    let alone = contribute(&m, &weights, &records);
    let mut with = records.clone();
    with.insert(4, (vec![f32::NAN; 16], 2));
    with.push((vec![f32::INFINITY; 16], 3));
    assert_eq!(contribute(&m, &weights, &with), alone, "seed 31");
    assert_ne!(contribute(&m, &weights, &[]), alone, "seed 31");
}

#[test]
fn what_was_measured_comes_back_as_the_mean_of_the_finite_records() {
    let m = with_groups(NoiseTarget::None, Probability::ONE, all_groups());
    let mut random = Random(SeededEntropy::new(41));
    let weights = random.values(model().n_parameters(), 0.5);
    let records: Vec<Row> = (0..40).map(|_| random.record(255.0)).collect();
    let network = Network::new(model(), Loss::of_classes(&model()).unwrap()).unwrap();
    let prepared = network.prepare(&weights).unwrap();
    let evaluate = |(values, class): &Row| {
        // As the client reads them: pixels over 255.
        let values = values.iter().map(|value| value / 255.0).collect();
        let one = Dataset::from_values(values, vec![*class], &[4, 4, 1]);
        network.evaluate(&prepared, &one, &mut network.workspace()).unwrap()
    };
    let released = |records: &[Row]| release(&contribute(&m, &weights, records), &m, &ROTATION, 1).unwrap().1;
    let found = released(&records);
    // One silo of the four that the lot of 20 is expected of.
    let (mut loss, mut accuracy, mut n_cut) = (0.0, 0.0, 0);
    for evaluation in records.iter().map(evaluate) {
        loss += evaluation.loss.min(LOSS_MAX) / 5.0;
        accuracy += evaluation.accuracy / 5.0;
        n_cut += u32::from(evaluation.loss > LOSS_MAX);
    }
    let close = |found: Option<Estimate>, expected: f64| {
        let found = found.unwrap();
        assert!((found.value - expected).abs() < 0.03 && found.deviation == 0.0, "{found:?}, {expected}, seed 41");
    };
    assert!(n_cut > 0 && accuracy > 0.5, "{n_cut} losses are cut, seed 41");
    close(found.loss, loss);
    close(found.accuracy, accuracy);
    // Every gradient is longer than the clip of a hundredth.
    close(found.clipped, 8.0);
    // A record that is not finite takes its figures with it, and nobody else's.
    let mut with = records.clone();
    with.insert(7, (vec![f32::NAN; 16], 2));
    with.push((vec![f32::INFINITY; 16], 3));
    assert_eq!(contribute(&m, &weights, &with), contribute(&m, &weights, &records), "seed 41");
    // Nor does an empty sample measure anything: what dummies work on adds nothing.
    let none = released(&[]);
    close(none.loss, 0.0);
    close(none.accuracy, 0.0);
    close(none.clipped, 0.0);
}

#[test]
fn the_sum_is_divided_by_the_public_lot_and_not_by_what_was_sampled() {
    let m = mechanism(NoiseTarget::None, Probability::ONE);
    let mut random = Random(SeededEntropy::new(33));
    let weights = random.values(model().n_parameters(), 0.5);
    let record = random.record(255.0);
    let norm = |n: usize| {
        let sum = contribute(&m, &weights, &vec![record.clone(); n]);
        let mean = restore(&sum, &m, &ROTATION, 1).unwrap();
        mean.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt()
    };
    let (one, thirty) = (norm(1), norm(30));
    assert!((thirty / one - 30.0).abs() < 0.2, "{one}, {thirty}, seed 33");
    // The clip binds: each is C long, over the lot of 20.
    assert!((one * 20.0 / CLIP - 1.0).abs() < 0.05, "{one}, seed 33");
}

#[test]
fn a_retry_of_a_job_draws_another_sample() {
    let m = mechanism(NoiseTarget::None, Probability::new(1, 2).unwrap());
    let mut random = Random(SeededEntropy::new(35));
    let weights = random.values(model().n_parameters(), 0.5);
    let records: Vec<Row> = (0..60).map(|_| random.record(255.0)).collect();
    // Without noise a vector is its sample: two of 2^60 are as good as never the same.
    let first = contribute(&m, &weights, &records);
    assert_ne!(contribute(&m, &weights, &records), first);
}

#[test]
fn the_size_of_samples_varies_as_a_poisson_sample_s_does() {
    let m = mechanism(NoiseTarget::None, Probability::new(1, 2).unwrap());
    let mut random = Random(SeededEntropy::new(37));
    let weights = random.values(model().n_parameters(), 0.5);
    let record = random.record(255.0);
    // All records are the same one, so that the sum's length tells how many of them were sampled.
    let norm = |m: &RecordMechanism, n: usize| {
        let mean = restore(&contribute(m, &weights, &vec![record.clone(); n]), m, &ROTATION, 1).unwrap();
        mean.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt()
    };
    let one = norm(&mechanism(NoiseTarget::None, Probability::ONE), 1);
    let sizes: Vec<f64> = (0..200).map(|_| norm(&m, 60) / one).collect();
    let n = sizes.len() as f64;
    let mean = sizes.iter().sum::<f64>() / n;
    let variance = sizes.iter().map(|size| (size - mean).powi(2)).sum::<f64>() / (n - 1.0);
    // Bin(60, 1/2): mean 30, variance 15; a fixed batch would have none. The samples are the operating system's: six
    // deviations.
    assert!((mean - 30.0).abs() < 6.0 * (15.0 / n).sqrt() + 0.3, "{mean}");
    assert!((variance / 15.0 - 1.0).abs() < 6.0 * (2.0 / n).sqrt(), "{variance}");
}

#[test]
fn the_noise_of_a_silos_own_steps_is_what_was_promised() {
    let local = SiloTraining { steps: 3, learning_rate: 0.25, update_clip_norm: 0.05 };
    let target = RecordTarget {
        local: Some(local),
        ..target(NoiseTarget::Local { epsilon: 8.0 }, Probability::new(1, 2).unwrap(), Groups::default())
    };
    let m = design(&target).unwrap();
    let mut random = Random(SeededEntropy::new(43));
    let weights = random.values(model().n_parameters(), 0.5);
    // Without records an update is the noise of all steps, far below its clip and far above its rounding.
    let n = 20;
    let update = |records: &[Row]| {
        let mean = restore(&contribute(&m, &weights, records), &m, &ROTATION, 1).unwrap();
        mean.iter().map(|x| f64::from(*x)).collect::<Vec<f64>>()
    };
    let squares: f64 = (0..n).map(|_| update(&[]).iter().map(|x| x * x).sum::<f64>()).sum();
    // z C over the lot in each step, the grid's 129/128 for rounding included.
    let z = m.promised_noise_multiplier();
    let of_step = local.learning_rate * z * CLIP / f64::from(m.parameters().expected_lot) * 129.0 / 128.0;
    let values = f64::from(n) * model().n_parameters() as f64;
    let ratio = squares / (values * 3.0 * of_step * of_step);
    assert!(((ratio - 1.0) * (values / 2.0).sqrt()).abs() < 6.0, "{ratio}: {of_step} a step");
}

#[test]
fn no_coordinate_of_a_sum_wraps_around() {
    let m = mechanism(NoiseTarget::Distributed { epsilon: 8.0 }, Probability::ONE);
    let p = m.parameters().clone();
    let mut random = Random(SeededEntropy::new(39));
    let weights = random.values(model().n_parameters(), 0.5);
    // As much as the plan allows, all of it in one direction.
    let records = vec![random.record(255.0); p.record_bound as usize];
    let exact = {
        let m = mechanism(NoiseTarget::None, Probability::ONE);
        centred(&contribute(&m, &weights, &records), m.parameters().bits)
    };
    let mut sum = vec![0_u32; p.d_pad as usize];
    for _ in 0..p.n_max {
        let vector = contribute(&m, &weights, &records);
        sum.iter_mut().zip(vector).for_each(|(sum, value)| *sum = sum.wrapping_add(value));
    }
    let sum: Vec<u32> = sum.iter().map(|value| value & (u32::MAX >> (32 - p.bits))).collect();
    // What wraps is off by 2^b; noise is not.
    let wrapped = |bits: u8| {
        let reduced: Vec<u32> = sum.iter().map(|value| value & (u32::MAX >> (32 - bits))).collect();
        let far = |(found, exact): (&i64, &i64)| (found - exact * i64::from(p.n_max)).abs() >= 1 << (bits - 1);
        centred(&reduced, bits).iter().zip(&exact).filter(|pair| far(*pair)).count()
    };
    assert_eq!(wrapped(p.bits), 0, "seed 39");
    // The test can fail: some bits fewer would not do.
    assert!(wrapped(p.bits - 4) > 0, "seed 39");
}

fn centred(residues: &[u32], bits: u8) -> Vec<i64> {
    let unused = 32 - u32::from(bits);
    residues.iter().map(|value| i64::from((*value << unused) as i32 >> unused)).collect()
}

const CLIP: f64 = 0.01;
const LOSS_MAX: f64 = 1.6;
const ROTATION: RotationSeed = RotationSeed([5; 32]);
