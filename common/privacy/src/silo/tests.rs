use super::*;
use crate::mechanism::{NoiseTarget, Probability, Promise, RecordTarget, design};

/// q = 1 and few records, so that every slot may hold a record.
fn mechanism(n_parameters: u32, l2_clip_norm: f64) -> RecordMechanism {
    design(&target(n_parameters, l2_clip_norm)).expect("reachable")
}

fn target(n_parameters: u32, l2_clip_norm: f64) -> RecordTarget {
    RecordTarget {
        groups: Groups::default(),
        l2_clip_norm,
        n_parameters,
        sampling_probability: Probability::ONE,
        expected_lot: 100,
        record_bound: 200,
        local: None,
        n_max: 4,
        u_min: 3,
        max_colluders: 1,
        max_attempts: 2,
        noise: NoiseTarget::Distributed { epsilon: 8.0 },
        delta: 1e-5,
    }
}

struct Gradients(eranos_base::SeededEntropy);

impl Gradients {
    fn new(seed: u64) -> Self {
        Self(eranos_base::SeededEntropy::new(seed))
    }

    fn word(&mut self) -> u64 {
        let mut bytes = [0; 8];
        self.0.fill(&mut bytes);
        u64::from_le_bytes(bytes)
    }

    /// Uniform in [-size, size].
    fn uniform(&mut self, len: usize, size: f32) -> Vec<f32> {
        (0..len).map(|_| (self.word() >> 40) as f32 / (1u64 << 23) as f32 - 1.0).map(|x| x * size).collect()
    }

    /// Any bits at all: every magnitude, denormal, infinite, not a number.
    fn bits(&mut self, len: usize) -> Vec<f32> {
        (0..len).map(|_| f32::from_bits(self.word() as u32)).collect()
    }

    /// Any finite value.
    fn finite(&mut self, len: usize) -> Vec<f32> {
        self.bits(len).into_iter().map(|x| if x.is_finite() { x } else { 1e38 }).collect()
    }
}

fn integers(gradient: &[f32], clip: f64) -> Vec<i64> {
    let mut sum = SiloSum::new(&mechanism(gradient.len() as u32, clip));
    sum.add(gradient, Weight::One).expect("a slot");
    sum.flush();
    sum.total.clone()
}

fn squared(w: &[i64]) -> i128 {
    w.iter().map(|w| i128::from(*w) * i128::from(*w)).sum()
}

/// Gradients that an adversary would choose.
fn adversarial(len: usize) -> Vec<Vec<f32>> {
    let with = |value: f32, at: usize| {
        let mut g = vec![0.0; len];
        g[at] = value;
        g
    };
    let mut all = vec![
        vec![0.0; len],
        vec![1e38; len],
        vec![-f32::MAX; len],
        vec![f32::MIN_POSITIVE / 2.0; len],
        vec![f32::from_bits(1); len],
        vec![1e-3; len],
        // Terms that cancel: the case that moved an f32 sum by 63 C.
        (0..len).map(|i| if i % 2 == 0 { 1e30 } else { -1e30 }).collect(),
        (0..len).map(|i| if i == 0 { 1e30 } else { 1e-3 }).collect(),
    ];
    for value in [1.0, -1.0, 1.0 + f32::EPSILON, f32::MAX, f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        all.push(with(value, 0));
        all.push(with(value, len - 1));
    }
    all
}

#[test]
fn the_integer_norm_never_exceeds_the_clip() {
    for seed in 0..40 {
        let mut gradients = Gradients::new(seed);
        let len = 1 + (gradients.word() % 700) as usize;
        let clip = [1e-6, 0.1, 1.0, 37.5, 1e6][seed as usize % 5];
        let mut all = adversarial(len);
        all.extend((0..4).map(|i| gradients.uniform(len, 10f32.powi(3 * i - 5))));
        all.extend([gradients.finite(len), gradients.bits(len)]);
        for g in all {
            assert!(squared(&integers(&g, clip)) <= 1 << 48, "seed {seed}, clip {clip}, {:?}", &g[..len.min(4)]);
        }
    }
}

#[test]
fn the_integers_are_the_truncated_gradient() {
    let check = |gradient: &[f32], clip: f64| {
        let norm = squared_norm(gradient).sqrt();
        for (w, g) in integers(gradient, clip).into_iter().zip(gradient) {
            let exact = f64::from(*g) * f64::from(GRID) / norm.max(clip);
            let (size, w) = (exact.abs(), w as f64);
            // Toward zero, less two margins at most.
            assert!(w.abs() <= size && w.abs() > size * (1.0 - 2.0 * MARGIN) - 1.0, "{g}: {w}, {exact}");
            assert!(w * exact >= 0.0, "{g}: {w}, {exact}");
        }
    };
    check(&[0.5, -0.25, 1e-9, -1e-9, 3e-7], 1.0);
    // At twice the clip the direction stays.
    check(&[6.0, -8.0], 5.0);
    // A huge one-coordinate gradient becomes K.
    check(&[-f32::MAX, 0.0], 1.0);
    let mut gradients = Gradients::new(49);
    for clip in [1e-6, 0.1, 1.0, 37.5, 1e6] {
        check(&gradients.uniform(1000, 1.0), clip);
        check(&gradients.uniform(1000, 1e-3), clip);
    }
    // Small integers are exact: 5.03, -5.03, 0.99.
    assert_eq!(integers(&[3e-7, -3e-7, 5.9e-8], 1.0), [5, -5, 0]);
}

#[test]
fn of_a_gradient_of_few_rows_nothing_else_is_looked_at() {
    let seed = 51;
    let mut gradients = Gradients::new(seed);
    let len = 3000;
    for round in 0..200 {
        let mut ranges = Vec::new();
        let mut end = 0;
        while end < len {
            let start = end + (gradients.word() % 700) as usize;
            end = start + (gradients.word() % 700) as usize;
            if end <= len {
                ranges.push(start..end);
            }
        }
        let rows = gradients.uniform(len, 0.5);
        let mut dense = vec![0.0; len];
        ranges.iter().for_each(|range| dense[range.clone()].copy_from_slice(&rows[range.clone()]));
        let mut sum = SiloSum::new(&mechanism(len as u32, 1.0));
        // What lies outside is no zero here, and shows nowhere.
        sum.add_record(&rows, &ranges, &Figures::default(), Weight::One).expect("a slot");
        sum.flush();
        assert!(squared(&sum.total) <= 1 << 48, "seed {seed}, round {round}");
        // The norm is summed in another order, so that the last bit of a factor may differ.
        let expected = integers(&dense, 1.0);
        assert!(
            sum.total.iter().zip(&expected).all(|(a, b)| (a - b).abs() <= 1 && (*b != 0 || *a == 0)),
            "seed {seed}, round {round}"
        );
    }
    let mut sum = SiloSum::new(&mechanism(10, 1.0));
    for ranges in [vec![0..4, 3..6], vec![4..6, 0..2], vec![0..1, 5..11], vec![Range { start: 5, end: 4 }]] {
        let refused = sum.add_record(&[1.0; 10], &ranges, &Figures::default(), Weight::One);
        assert_eq!(refused, Err(SiloError::Ranges), "{ranges:?}");
    }
}

#[test]
fn a_record_that_is_not_finite_is_zero_and_the_others_stay() {
    let m = mechanism(300, 1.0);
    let good = Gradients::new(1).uniform(300, 0.1);
    let mut alone = SiloSum::new(&m);
    alone.add(&good, Weight::One).expect("a slot");
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for at in [0, 150, 299] {
            let mut g = vec![1.0; 300];
            g[at] = bad;
            let mut sum = SiloSum::new(&m);
            sum.add(&g, Weight::One).expect("a slot");
            assert!(sum.partial.iter().all(|w| *w == 0), "{bad} at {at}");
            sum.add(&good, Weight::One).expect("a slot");
            assert_eq!(sum.partial, alone.partial);
        }
    }
}

#[test]
fn one_record_moves_the_rounded_sum_by_at_most_the_sensitivity() {
    for seed in 0..24 {
        let mut gradients = Gradients::new(seed);
        let len = [1, 2, 100, 257, 1024][seed as usize % 5];
        let m = mechanism(len as u32, 1.0);
        let rotation = RotationSeed([seed as u8; 32]);
        let mut records = vec![gradients.finite(len), gradients.uniform(len, 1.0), gradients.bits(len)];
        records.extend((0..5).map(|_| gradients.uniform(len, 1e-2)));
        let sum = |extra: Option<&[f32]>| {
            let mut sum = SiloSum::new(&m);
            for g in records.iter().map(Vec::as_slice).chain(extra) {
                sum.add(g, Weight::One).expect("a slot");
            }
            sum.finish(&rotation)
        };
        let without = sum(None);
        let mut attacks = adversarial(len);
        attacks.push(gradients.uniform(len, 1e3));
        // The gradient whose rotation is one coordinate: all of the clip on one rounding.
        attacks.push(vec![1.0; len]);
        for attack in &attacks {
            let difference: Vec<i64> = sum(Some(attack)).iter().zip(&without).map(|(a, b)| a - b).collect();
            assert!(squared(&difference) <= i128::from(m.sensitivity_squared()), "seed {seed}, length {len}");
        }
    }
}

#[test]
fn without_the_clip_the_sensitivity_would_be_exceeded() {
    // The test above can fail: the same sum of a record scaled by K/C but not clipped moves by more.
    let m = mechanism(64, 1.0);
    let mut w = vec![0i64; 64];
    w[3] = (1.1 * f64::from(GRID)) as i64;
    rotate(&mut w, &RotationSeed([0; 32]));
    let v: Vec<i64> = w.iter().map(|y| (y + (1 << 16)) >> 17).collect();
    assert!(squared(&v) > i128::from(m.sensitivity_squared()));
}

#[test]
fn integers_that_are_too_long_are_shrunk_until_they_fit() {
    let check = |mut w: Vec<i32>, becomes_zero: bool| {
        let before = w.clone();
        shrink(&mut w);
        assert!(squared(&w.iter().map(|w| i64::from(*w)).collect::<Vec<_>>()) <= 1 << 48);
        let shorter = |(after, before): (&i32, &i32)| {
            after.unsigned_abs() <= before.unsigned_abs() && i64::from(*after) * i64::from(*before) >= 0
        };
        assert!(w.iter().zip(&before).all(shorter));
        assert_eq!(w.iter().all(|w| *w == 0), becomes_zero);
    };
    check(vec![1 << 24, 1], false);
    check(vec![1 << 24, 1 << 14, -(1 << 14)], false);
    check(vec![(1 << 20) + 4; 256], false);
    // Longer than any rounding makes them.
    check(vec![-(1 << 24), -(1 << 24)], true);
    check(vec![i32::MAX, i32::MIN], true);

    // Through the sum: a factor that is too large makes integers that are too long; they are taken out again.
    let mut sum = SiloSum::new(&mechanism(4, 1.0));
    let gradient = [0.6, 0.8, 0.0, 0.0];
    let factor = GRID as f32 * (1.0 + 1e-5);
    assert!(add_scaled(&gradient, factor, -1, &mut sum.partial, &mut [0.0; STAGE_LEN]) > GRID_SQUARED);
    sum.add_shrunk(&gradient, slice::from_ref(&(0..4)), factor, [0; GROUPS_MAX], -1);
    sum.flush();
    let norm = squared(&sum.total);
    assert!(norm <= 1 << 48 && norm > (1 << 48) - (1 << 32), "{norm}");
}

#[test]
fn no_gradient_and_no_clip_makes_integers_longer_than_the_clip() {
    let mut gradients = Gradients::new(91);
    for clip in [1e-12, 1e-3, 1.0, 1e12] {
        let mut all: Vec<Vec<f32>> = Vec::new();
        for len in [1, 17, 600] {
            for size in [f32::MAX, 3e38, 1.0, f32::MIN_POSITIVE, f32::from_bits(1), clip as f32] {
                all.push(vec![size; len]);
                all.push(vec![-size; len]);
                let mut one = vec![f32::from_bits(1); len];
                one[len / 2] = size;
                all.push(one);
                all.push(gradients.uniform(len, 1.0).iter().map(|x| x * size).collect());
            }
            // Just above and just below the clip, where the factor's own rounding matters most.
            for _ in 0..20 {
                let g = gradients.uniform(len, 1.0);
                let norm = g.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
                for more in [-1e-7, 0.0, 1e-7, 1.0] {
                    all.push(g.iter().map(|x| (f64::from(*x) / norm * clip * (1.0 + more)) as f32).collect());
                }
            }
        }
        for g in all {
            let m = mechanism(g.len() as u32, clip);
            let mut sum = SiloSum::new(&m);
            sum.add(&g, Weight::One).expect("a slot");
            let norm = squared(&sum.partial.iter().map(|w| i64::from(*w)).collect::<Vec<_>>());
            assert!(norm <= 1 << 48, "clip {clip}, length {}, {:?}: {norm}, seed 91", g.len(), g[0]);
            // Nothing that is clipped loses more than the margin and what truncation takes.
            let exact = g.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
            if exact >= clip {
                let least = f64::from(GRID) * (1.0 - 4.0 * MARGIN) - (g.len() as f64).sqrt();
                assert!((norm as f64).sqrt() >= least, "clip {clip}, length {}: {norm}", g.len());
            }
        }
    }
}

#[test]
fn every_width_of_vectors_gives_the_same_bits() {
    let arch = pulp::Arch::new();
    let mut gradients = Gradients::new(50);
    for len in [1, 15, 16, 511, 512, 513, 3000] {
        let mut all = adversarial(len);
        all.extend([gradients.finite(len), gradients.uniform(len, 2.0)]);
        for g in all {
            let squared = squared_norm(&g);
            let whole = 0..len;
            let ranges = slice::from_ref(&whole);
            assert_eq!(
                arch.dispatch(SquaredNorm { gradient: &g, ranges }).to_bits(),
                squared.to_bits(),
                "length {len}"
            );
            if !squared.is_finite() {
                continue;
            }
            let factor = scale(squared, 1.0, 1.0);
            let (mut wide, mut narrow) = (vec![0; len], vec![0; len]);
            let norm = arch.dispatch(AddScaled { gradient: &g, ranges, factor, keep: -1, partial: &mut wide });
            assert_eq!(norm, add_scaled(&g, factor, -1, &mut narrow, &mut [0.0; STAGE_LEN]));
            assert_eq!(wide, narrow);
            // And both are what a cast gives, with the norm of integers.
            let cast: Vec<i64> = g.iter().map(|x| (x * factor) as i64).collect();
            assert!(wide.iter().zip(&cast).all(|(w, cast)| i64::from(*w) == *cast), "length {len}");
            assert_eq!(norm as i128, self::squared(&cast));
        }
    }
}

#[test]
fn order_workers_and_batches_do_not_change_a_bit() {
    let m = mechanism(1000, 0.5);
    let mut gradients = Gradients::new(77);
    // More than the partial sums hold between flushes, and the records of the attack among them.
    let mut records: Vec<Vec<f32>> = (0..170).map(|_| gradients.uniform(1000, 0.1)).collect();
    records.extend(adversarial(1000));
    let rotation = RotationSeed([3; 32]);
    let add_all = |records: &[Vec<f32>]| {
        let mut sum = SiloSum::new(&m);
        for g in records {
            sum.add(g, Weight::One).expect("a slot");
        }
        sum
    };
    let expected = add_all(&records).finish(&rotation);
    records.reverse();
    assert_eq!(add_all(&records).finish(&rotation), expected);
    records.rotate_left(71);
    // One worker's memory for all of them: what was merged before must not be there any more.
    let mut worker = SiloSum::new(&m);
    for n_workers in [2, 3, 7] {
        let mut merged = SiloSum::new(&m);
        for part in records.chunks(records.len().div_ceil(n_workers)) {
            part.iter().for_each(|g| worker.add(g, Weight::One).expect("a slot"));
            merged.merge(&mut worker).expect("fits");
        }
        assert_eq!(merged.finish(&rotation), expected, "{n_workers} workers");
    }
}

#[test]
fn the_partial_sums_hold_as_many_records_as_they_are_given() {
    let m = mechanism(2, 1.0);
    for sign in [1.0f32, -1.0] {
        let mut sum = SiloSum::new(&m);
        for _ in 0..200 {
            sum.add(&[sign, 0.0], Weight::One).expect("a slot");
        }
        sum.flush();
        let one = integers(&[sign, 0.0], 1.0)[0];
        assert!(one.abs() > (1 << 24) - 16, "as large as they come: {one}");
        assert_eq!(sum.total, [200 * one, 0]);
    }
}

#[test]
fn a_cleared_sum_is_a_new_one_and_its_parts_are_the_whole() {
    let m = mechanism(1000, 0.5);
    let mut gradients = Gradients::new(79);
    let records: Vec<_> = (0..150).map(|_| gradients.uniform(1000, 0.1)).collect();
    let mut reused = SiloSum::new(&m);
    // More and fewer than the partial sums hold, one after the other.
    for n in [140, 150, 7, 127, 128, 1] {
        let mut fresh = SiloSum::new(&m);
        reused.clear();
        for g in &records[..n] {
            reused.add(g, Weight::One).expect("a slot");
            fresh.add(g, Weight::One).expect("a slot");
        }
        let mut parts = vec![0; 1000];
        let (first, second) = parts.split_at_mut(300);
        reused.add_to(0, first);
        reused.add_to(300, second);
        fresh.flush();
        assert_eq!(parts, fresh.total, "{n} records");
    }
}

#[test]
fn a_dummy_adds_nothing_and_uses_a_slot() {
    let m = mechanism(100, 1.0);
    let mut sum = SiloSum::new(&m);
    for g in adversarial(100) {
        sum.add(&g, Weight::Dummy).expect("a slot");
    }
    assert!(sum.partial.iter().all(|w| *w == 0));
    while sum.n_slots < 200 {
        sum.add(&[0.0; 100], Weight::Dummy).expect("a slot");
    }
    assert_eq!(sum.add(&[0.0; 100], Weight::One), Err(SiloError::TooManySlots { records_per_round: 200 }));
    assert_eq!(sum.add(&[0.0; 99], Weight::One), Err(SiloError::GradientLength { found: 99, expected: 100 }));
    let mut one_more = SiloSum::new(&m);
    one_more.add(&[0.0; 100], Weight::One).expect("a slot");
    assert_eq!(one_more.merge(&mut sum), Err(SiloError::TooManySlots { records_per_round: 200 }));
    assert_eq!(one_more.merge(&mut SiloSum::new(&mechanism(100, 2.0))), Err(SiloError::OtherMechanism));
}

/// From gradients to the restored mean, as silos and coordinator do it.
fn federate(m: &RecordMechanism, silos: &[Vec<Vec<f32>>], noisy: bool) -> Vec<f32> {
    let rotation = RotationSeed([9; 32]);
    let bits = m.parameters().bits;
    let mut total = vec![0u32; m.parameters().d_pad as usize];
    let mut entropy = eranos_base::SeededEntropy::new(21);
    for records in silos {
        let mut sum = SiloSum::new(m);
        for g in records {
            sum.add(g, Weight::One).expect("a slot");
        }
        let vector = match noisy {
            true => sum.contribute(m, &rotation, &mut entropy).expect("same mechanism"),
            false => reduce(&sum.finish(&rotation), bits),
        };
        for (total, value) in total.iter_mut().zip(vector) {
            *total = total.wrapping_add(value) & (u32::MAX >> (32 - bits));
        }
    }
    crate::rotation::restore(&total, m, &rotation, 1).expect("a sum of this mechanism")
}

#[test]
fn the_restored_sum_is_the_mean_over_the_expected_lot() {
    let len = 300;
    let m = mechanism(len as u32, 1.0);
    let mut gradients = Gradients::new(5);
    let silos: Vec<Vec<Vec<f32>>> =
        (0..4).map(|n| (0..20 * n).map(|_| gradients.uniform(len, 0.05)).collect()).collect();
    let expected = |i: usize| {
        let term = |g: &Vec<f32>| {
            let norm = g.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
            f64::from(g[i]) / norm.max(1.0)
        };
        // Divided by the expected lot of 100, not by the 120 records there are.
        silos.iter().flatten().map(term).sum::<f64>() / 100.0
    };
    let restored = federate(&m, &silos, false);
    assert_eq!(restored.len(), len);
    // Rounding to 1 on the grid is an error of at most 4 silos' half steps a coordinate, spread by the rotation.
    let error = 2.0 * m.restoring_factor(1) * f64::from(m.parameters().d_pad);
    for (i, found) in restored.iter().enumerate() {
        assert!((f64::from(*found) - expected(i)).abs() <= error, "{i}: {found}, expected {}", expected(i));
    }

    // With noise the error has the deviation sqrt(n) sg sqrt(d) times the factor, in every coordinate.
    let noisy = federate(&m, &silos, true);
    let deviation = (4.0 * f64::from(m.parameters().d_pad)).sqrt()
        * m.parameters().noise.share_variance().expect("noise").deviation()
        * m.restoring_factor(1);
    let squares: f64 = noisy.iter().zip(&restored).map(|(a, b)| f64::from(a - b).powi(2)).sum();
    let ratio = squares / (len as f64 * deviation * deviation);
    assert!(((ratio - 1.0) * (len as f64 / 2.0).sqrt()).abs() < 5.0, "{ratio}, seed 21");
}

#[test]
fn two_contributions_of_one_sum_never_share_noise() {
    let m = mechanism(64, 1.0);
    let seed = RotationSeed([0; 32]);
    let mut entropy = eranos_base::SeededEntropy::new(1);
    let mut draw = || SiloSum::new(&m).contribute(&m, &seed, &mut entropy).expect("same mechanism");
    let (first, retry) = (draw(), draw());
    assert_ne!(first, retry);
    assert!(first.iter().zip(&retry).filter(|(a, b)| a == b).count() < 8);
    assert_eq!(SiloSum::new(&m).contribute(&mechanism(64, 2.0), &seed, &mut entropy), Err(SiloError::OtherMechanism));
    assert_eq!(format!("{:?}", SiloSum::new(&m)), "SiloSum(omitted)");
}

#[test]
fn without_noise_the_contribution_is_the_rounded_sum_and_draws_nothing() {
    struct Untouched;
    impl Entropy for Untouched {
        fn fill(&mut self, _: &mut [u8]) {
            panic!("drew noise");
        }
    }
    let m = design(&RecordTarget { noise: NoiseTarget::None, ..target(300, 1.0) }).expect("reachable");
    let seed = RotationSeed([4; 32]);
    let record = Gradients::new(8).uniform(300, 5.0);
    let sum = || {
        let mut sum = SiloSum::new(&m);
        sum.add(&record, Weight::One).expect("a slot");
        sum
    };
    // Clipped, rotated and rounded as ever.
    let expected = reduce(&sum().finish(&seed), m.parameters().bits);
    assert_eq!(sum().contribute(&m, &seed, &mut Untouched), Ok(expected));
    let restored = federate(&m, &[vec![record.clone()], vec![]], true);
    let norm = restored.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt() * 100.0;
    assert!((norm - 1.0).abs() < 0.05, "{norm}");
}

#[test]
fn the_noised_mean_of_a_step_is_the_mean_of_the_lot_with_one_share_of_noise() {
    let local = crate::mechanism::SiloTraining { steps: 3, learning_rate: 0.1, update_clip_norm: 1.0 };
    let noise = NoiseTarget::Local { epsilon: 8.0 };
    let m = design(&RecordTarget { local: Some(local), noise, ..target(1 << 14, 0.5) }).expect("reachable");
    let seed = RotationSeed([8; 32]);
    let mean = |records: &[Vec<f32>], noise: u64| {
        let mut sum = SiloSum::new(&m);
        records.iter().for_each(|g| sum.add(g, Weight::One).expect("a slot"));
        sum.noised_mean(&m, &seed, &mut eranos_base::SeededEntropy::new(noise)).expect("of this mechanism")
    };
    let nothing = mean(&[], 61);
    let d = f64::from(m.parameters().d_pad);
    let share = m.parameters().noise.share_variance().expect("noise").to_f64();
    let deviation = (d * share).sqrt() * m.lot_factor();
    let ratio = nothing.iter().map(|x| x * x).sum::<f64>() / (d * deviation * deviation);
    assert!(((ratio - 1.0) * (d / 2.0).sqrt()).abs() < 5.0, "{ratio}, seed 61");
    assert_ne!(*nothing, *mean(&[], 62));
    // z C over the lot: one share against the clip.
    assert!((deviation / (m.promised_noise_multiplier() * 0.5 / 100.0) - 1.0).abs() < 0.01, "{deviation}");
    // The same noise with a record and without it: the record's clipped gradient over the lot, but for rounding.
    let record = Gradients::new(63).uniform(1 << 14, 3.0);
    let norm = squared_norm(&record).sqrt();
    let moved = mean(slice::from_ref(&record), 61);
    for ((with, without), x) in moved.iter().zip(&*nothing).zip(&record) {
        let expected = f64::from(*x) * 0.5 / norm / 100.0;
        assert!((with - without - expected).abs() < 8.0 * d.sqrt() * m.lot_factor(), "{with}, {without}, {expected}");
    }
    // Nowhere else does a step's sum become known.
    let shared = mechanism(64, 1.0);
    let mut entropy = eranos_base::SeededEntropy::new(1);
    let refused = SiloSum::new(&shared).noised_mean(&shared, &seed, &mut entropy);
    assert_eq!(refused.err(), Some(SiloError::OtherMechanism));
}

#[test]
fn a_sum_of_another_shape_is_not_restored() {
    let m = mechanism(64, 1.0);
    let seed = RotationSeed([0; 32]);
    assert!(crate::rotation::restore(&[0; 63], &m, &seed, 1).is_err());
    assert!(crate::rotation::restore(&[u32::MAX; 64], &m, &seed, 1).is_err());
    assert!(crate::rotation::restore(&[0; 64], &m, &seed, 1).is_ok());
}
