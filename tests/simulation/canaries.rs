//! Privacy as the running code keeps it: contributions come from the client's own trainer, go through both state machines
//! and the masks, and are looked at as the coordinator sees them. The noise is the operating system's, so nothing here
//! has a seed; each bound leaves less than one false alarm in a million runs.

use std::sync::{Arc, mpsc};

use eranos_base::OsEntropy;
use eranos_client::{
    round::TrainingJob,
    trainer::{Pool, Trainer},
};
use eranos_nn::{
    Activation, DataSpec, Dataset, LayerKind, LayerSpec, ModelSpec,
    data::{Files, Form},
};
use eranos_privacy::{
    Mechanism, NoiseVariance, Promise, RecordMechanism, RotationSeed,
    audit::{Shown, audit_scores},
    mechanism::{GRID, Noise, NoiseTarget, RecordParameters, RecordTarget},
    noise::add_noise,
    rotation::{reduce, restore, rotate},
};
use eranos_secagg::GraphKind;

use super::world::{Client, DELTA, Exit, ExitHow, FIVE, MASKED_INPUT, Size, World, mechanism, target};

/// Images of `inputs` pixels and a softmax layer without a bias on them: `inputs` times `units` parameters.
pub(super) fn flat_model(inputs: u32, units: u32) -> (ModelSpec, (DataSpec, Form)) {
    let dense = LayerKind::Dense { units, activation: Activation::Softmax, use_bias: false };
    let layers = vec![
        LayerSpec {
            name: "input".to_owned(),
            inputs: vec![],
            kind: LayerKind::InputLayer { shape: vec![1, inputs, 1] },
        },
        LayerSpec { name: "flatten".to_owned(), inputs: vec![0], kind: LayerKind::Flatten },
        LayerSpec { name: "dense".to_owned(), inputs: vec![1], kind: dense },
    ];
    let data = DataSpec::Images { shape: [1, inputs, 1], n_classes: units };
    (ModelSpec::new("flat", layers).unwrap(), (data, Form::Idx(vec![1, inputs as usize, 1])))
}

/// The records whose only bright pixel is one of `bright`, all of class 0.
fn files(inputs: u32, bright: &[usize]) -> Files {
    let inputs = inputs as usize;
    let mut values = vec![0.0; bright.len() * inputs];
    for (record, pixel) in bright.iter().enumerate() {
        values[record * inputs + pixel] = 255.0;
    }
    Files::Idx(Dataset::from_values(values, vec![0; bright.len()], &[1, inputs, 1]))
}

/// What a client's trainer makes of a job and these files.
pub(super) fn train(files: Files, job: TrainingJob) -> Vec<u32> {
    let trainer = Arc::new(Trainer::new(files, Pool::new(Some(2)).unwrap()));
    let (sender, result) = mpsc::channel();
    let _cancel = trainer.start(job, move |result| sender.send(result).unwrap());
    result.recv().unwrap().unwrap().to_vec()
}

/// Begins a round and lets every client contribute what `contribute` makes of its job; runs the round to its end.
fn round(world: &mut World, number: u64, mut contribute: impl FnMut(usize, TrainingJob) -> Vec<u32>) -> RotationSeed {
    // Longer than plans are under way, so that all jobs are there before the first contribution is due.
    world.clients.iter_mut().for_each(|client| client.trains_ms = 300);
    world.begin(number);
    assert!(world.run_until(|world| world.clients.iter().all(|client| client.job.is_some())));
    let mut seed = None;
    for i in 0..world.clients.len() {
        let job = world.clients[i].job.take().unwrap();
        seed = Some(job.rotation_seed);
        world.clients[i].contribution = contribute(i, job);
    }
    world.run();
    world.check("the sum is that of the contributions", &[]);
    assert!(world.coordinator.released.is_some(), "{:?}", world.coordinator.abandoned);
    seed.unwrap()
}

/// Residues modulo 2^b as the integers around zero that they stand for.
fn of_records(mechanism: &Mechanism) -> RecordMechanism {
    let Mechanism::Record(mechanism) = mechanism else { panic!("unit = record") };
    mechanism.clone()
}

fn centred(residues: &[u32], mechanism: &RecordMechanism) -> Vec<f64> {
    let unused = 32 - u32::from(mechanism.parameters().bits);
    residues.iter().map(|value| f64::from((*value << unused) as i32 >> unused)).collect()
}

fn share_variance(mechanism: &RecordMechanism) -> NoiseVariance {
    mechanism.parameters().noise.share_variance().unwrap()
}

/// Five clients with a model of the demo's size and no record at all, so that a sum is noise and nothing else.
fn noise_alone() -> World {
    let (model, records) = flat_model(13_000, 10);
    let world =
        World::training(1, FIVE, GraphKind::Complete, mechanism(target(FIVE, model.n_parameters())), model, records);
    assert_eq!(world.setup.mechanism.common().d_pad, 1 << 17);
    world
}

#[test]
fn the_noise_of_a_released_sum_is_what_was_promised() {
    let mut world = noise_alone();
    let mechanism = of_records(&world.setup.mechanism);
    let share = share_variance(&mechanism).to_f64();
    let d = f64::from(mechanism.parameters().d_pad);
    for (number, dropped) in [(1, None), (2, Some(3))] {
        if let Some(dropped) = dropped {
            let client: &mut Client = &mut world.clients[dropped];
            client.exit = Some(Exit { kind: MASKED_INPUT, how: ExitHow::DiesBefore });
        }
        round(&mut world, number, |_, job| train(files(13_000, &[]), job));
        let released = world.coordinator.released.clone().unwrap();
        let survivors = released.survivors.len();
        assert_eq!(survivors, if dropped.is_some() { 4 } else { 5 });
        let squares: f64 = centred(&released.residues, &mechanism).iter().map(|x| x * x).sum();
        let deviations = |share: f64| (squares / (d * survivors as f64 * share) - 1.0) * (d / 2.0).sqrt();
        assert!(deviations(share).abs() < TOLERANCE, "{} deviations, {survivors} survivors", deviations(share));
        // The test can fail: noise short by a tenth lies far away.
        assert!(deviations(share / 0.81).abs() > 2.0 * TOLERANCE);
        // However few survive, and without those who may work with the coordinator, it is what the plan promises.
        let honest = survivors as f64 - f64::from(mechanism.parameters().max_colluders);
        let z = mechanism.promised_noise_multiplier();
        let promised = z * z * mechanism.sensitivity_squared() as f64 / honest;
        assert!(deviations(promised) > -TOLERANCE, "{} deviations, {survivors} survivors", deviations(promised));
    }
}

#[test]
fn one_clients_noise_has_the_distribution_of_the_discrete_gaussian() {
    let mut world = noise_alone();
    let mechanism = of_records(&world.setup.mechanism);
    let mut contributions = Vec::new();
    round(&mut world, 1, |_, job| {
        contributions.push(train(files(13_000, &[]), job));
        contributions.last().unwrap().clone()
    });
    let noise = centred(&contributions[0], &mechanism);
    // Bins of equal width, each the sum of its values' probabilities; the tails are in the outermost ones.
    let sigma2 = share_variance(&mechanism).to_f64();
    let width = (sigma2.sqrt() / 16.0).floor();
    let reach = (8.0 * sigma2.sqrt()) as i64;
    let bin = |x: f64| ((x / width).floor().clamp(-BINS_EACH_SIDE, BINS_EACH_SIDE - 1.0) + BINS_EACH_SIDE) as usize;
    let mut expected = vec![0.0; 2 * BINS_EACH_SIDE as usize];
    for x in -reach..=reach {
        expected[bin(x as f64)] += (-(x as f64).powi(2) / (2.0 * sigma2)).exp();
    }
    let total: f64 = expected.iter().sum();
    let mut counts = vec![0.0; expected.len()];
    noise.iter().for_each(|x| counts[bin(*x)] += 1.0);
    let chi_square: f64 = counts
        .iter()
        .zip(&expected)
        .map(|(count, weight)| {
            let expected = weight / total * noise.len() as f64;
            assert!(expected > 5.0);
            (count - expected) * (count - expected) / expected
        })
        .sum();
    // Wilson and Hilferty's normal approximation.
    let freedom = counts.len() as f64 - 1.0;
    let spread = 2.0 / (9.0 * freedom);
    let deviations = ((chi_square / freedom).cbrt() - (1.0 - spread)) / spread.sqrt();
    assert!(deviations < TOLERANCE, "chi-square {chi_square} over {freedom} degrees: {deviations} deviations");
}

#[test]
fn clients_and_attempts_share_no_noise() {
    let mut world = noise_alone();
    let mechanism = of_records(&world.setup.mechanism);
    let mut vectors = Vec::new();
    for number in 1..=2 {
        round(&mut world, number, |_, job| {
            let contribution = train(files(13_000, &[]), job);
            vectors.push(centred(&contribution, &mechanism));
            contribution
        });
    }
    let d = f64::from(mechanism.parameters().d_pad);
    let variance = share_variance(&mechanism).to_f64();
    for (i, a) in vectors.iter().enumerate() {
        for (j, b) in vectors.iter().enumerate().skip(i + 1) {
            let r = a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>() / (d * variance);
            assert!(r.abs() < TOLERANCE / d.sqrt(), "correlation {r} of contributions {i} and {j}");
        }
    }
}

/// What a broken client does.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Variant {
    Correct,
    /// Each share of the noise is the whole divided by n, not by its root.
    ShareOverN,
    /// No gradient is clipped.
    NoClip,
    /// No noise at all.
    NoNoise,
}

/// A federation of which one client drops out and one works with the coordinator: the others' shares are exactly those that
/// the plan promises.
const TWENTY: Size = Size { n: 20, u_min: 19, f: 1 };
/// Those that hold canaries.
const N_HONEST: usize = 18;
const COLLUDER: usize = 18;
const DROPPED: usize = 19;
/// Dealt out to the honest ones.
const CANARIES: u32 = 1008;

/// One round with canaries through the whole federation, and what the coordinator and its colluder can show by it; with
/// the epsilon that the plan claims of one round.
fn audit(variant: Variant) -> (Shown, f64) {
    let (model, records) = flat_model(CANARIES, 2);
    let target = RecordTarget {
        // Each canary's gradient is 0.7 long at weights of zero: the clip binds, and its contribution is C u_i.
        l2_clip_norm: CLIP,
        record_bound: CANARIES / N_HONEST as u32,
        noise: NoiseTarget::Distributed { epsilon: TASK_EPSILON },
        ..target(TWENTY, model.n_parameters())
    };
    let mut world = World::training(2, TWENTY, GraphKind::Complete, mechanism(target), model, records);
    for client in &mut world.clients {
        client.member_mut().policy.task_epsilon_max = TASK_EPSILON;
    }
    world.clients[DROPPED].exit = Some(Exit { kind: MASKED_INPUT, how: ExitHow::DiesBefore });
    let mechanism = of_records(&world.setup.mechanism);
    let is_in: Vec<bool> = (0..CANARIES).map(|_| world.dice.below(2) == 1).collect();
    let seed = round(&mut world, 1, |i, job| {
        let own = (0..CANARIES as usize).filter(|canary| i < N_HONEST && is_in[*canary] && canary % N_HONEST == i);
        contribute(variant, &own.collect::<Vec<_>>(), job)
    });
    let released = world.coordinator.released.clone().unwrap();
    // The colluder knows its own vector, noise and all, and takes it off.
    let bits = mechanism.parameters().bits;
    let known = &world.clients[COLLUDER].contribution;
    let seen: Vec<u32> = released
        .residues
        .iter()
        .zip(known)
        .map(|(sum, own)| sum.wrapping_sub(*own) & (u32::MAX >> (32 - bits)))
        .collect();
    let gradient = restore(&seen, &mechanism, &seed, TWENTY.u_min.into()).unwrap();
    let factor = f64::from(mechanism.parameters().expected_lot) / (CLIP * 2f64.sqrt());
    let score = |row: &[f32]| f64::from(row[1] - row[0]) * factor;
    let scores: Vec<f64> = gradient.chunks_exact(2).map(score).collect();
    let shown = audit_scores(&scores, &is_in, DELTA, SIGNIFICANCE).unwrap();
    (shown, mechanism.promised_epsilon(1, DELTA))
}

fn contribute(variant: Variant, canaries: &[usize], mut job: TrainingJob) -> Vec<u32> {
    let mechanism = of_records(&job.mechanism);
    let p = mechanism.parameters().clone();
    let variance = share_variance(&mechanism);
    match variant {
        Variant::Correct => {}
        Variant::ShareOverN => {
            let numerator = variance.numerator() / u64::from(mechanism.promised_shares());
            let noise = Noise::Distributed(NoiseVariance::from_numerator(numerator).unwrap());
            job.mechanism = RecordMechanism::new(RecordParameters { noise, ..p }).unwrap().into();
        }
        Variant::NoNoise => {
            job.mechanism = RecordMechanism::new(RecordParameters { noise: Noise::None, ..p }).unwrap().into();
        }
        Variant::NoClip => {
            let mut sum = vec![0; p.d_pad as usize];
            let length = (f64::from(GRID) / p.l2_clip_norm / 2.0) as i64;
            for canary in canaries {
                (sum[2 * canary], sum[2 * canary + 1]) = (-length, length);
            }
            rotate(&mut sum, &job.rotation_seed);
            sum.iter_mut().for_each(|value| *value = (*value + (1 << (p.shift - 1))) >> p.shift);
            add_noise(variance, &mut OsEntropy, &mut sum);
            return reduce(&sum, p.bits);
        }
    }
    train(files(CANARIES, canaries), job)
}

#[test]
fn canaries_show_less_than_the_claim_and_far_more_where_something_is_broken() {
    let (shown, claim) = audit(Variant::Correct);
    assert!((1.5..2.5).contains(&claim), "an audit at a large claim can never fail: {claim}");
    assert!(shown.epsilon.max(shown.epsilon_gaussian) < claim, "{shown:?} at a claim of {claim}");
    for variant in [Variant::ShareOverN, Variant::NoClip, Variant::NoNoise] {
        let (shown, claim) = audit(variant);
        assert!(
            shown.epsilon.max(shown.epsilon_gaussian) > 1.5 * claim,
            "{variant:?} is not caught: {shown:?} at a claim of {claim}"
        );
    }
}

/// Deviations of a normal variable: exceeded once in five hundred million times.
const TOLERANCE: f64 = 6.0;
const BINS_EACH_SIDE: f64 = 48.0;
const CLIP: f64 = 0.1;
const SIGNIFICANCE: f64 = 0.05;
/// Of all attempts, so that one attempt claims about 2.
const TASK_EPSILON: f64 = 24.0;
