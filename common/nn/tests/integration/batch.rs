//! The fast path, held against the exact one: batches are sums of the gradients of their records.

use std::thread;

use eranos_base::SeededEntropy;
use eranos_nn::{
    Activation, LayerKind, Loss, ModelSpec, Network, NnError, Record, Target,
    network::batch::{Outcome, Weight},
};

use crate::{
    bits,
    exact::{Case, case, cases},
    reference,
};

/// The mission's models, the three sets of other layers, a graph of every layer, and layers whose norms take the other
/// way: many rows or time steps for their sizes, and few.
fn all_cases(seed: u64) -> Vec<Case> {
    let mut all = cases(seed);
    for (name, json, loss) in [
        ("masked", include_str!("../vectors/masked.keras.json"), Loss::CategoricalCrossentropy),
        ("graph", include_str!("../vectors/graph.keras.json"), Loss::BinaryCrossentropy),
        ("image", include_str!("../vectors/image.keras.json"), Loss::MeanSquaredError),
    ] {
        all.push(case(
            name,
            Network::new(ModelSpec::from_keras_json(json).expect("model"), loss).expect("loss"),
            seed,
            33,
        ));
    }
    let dense = |units| LayerKind::Dense { units, activation: Activation::Tanh, use_bias: units != 6 };
    let lstm = |units, return_sequences| LayerKind::Lstm { units, return_sequences, use_bias: units != 6 };
    for (name, kinds) in [
        ("many rows", vec![LayerKind::InputLayer { shape: vec![29, 5] }, dense(4), dense(6)]),
        ("few rows", vec![LayerKind::InputLayer { shape: vec![3, 17] }, dense(20), dense(6)]),
        ("many steps", vec![LayerKind::InputLayer { shape: vec![29, 5] }, lstm(4, true), lstm(6, false)]),
        ("few steps", vec![LayerKind::InputLayer { shape: vec![5, 17] }, lstm(20, true), lstm(6, true)]),
        // More of them than the inner products of a norm take at once.
        ("few of 40 rows", vec![LayerKind::InputLayer { shape: vec![40, 70] }, dense(60)]),
        ("few of 40 steps", vec![LayerKind::InputLayer { shape: vec![40, 30] }, lstm(20, false)]),
    ] {
        let network = Network::new(reference::model(kinds).expect("model"), Loss::MeanSquaredError).expect("loss");
        all.push(case(name, network, seed, 33));
    }
    all
}

/// A target of each kind that a loss may call for.
fn values_of_targets(network: &Network, n: usize, seed: u64) -> Vec<Vec<f32>> {
    let mut entropy = SeededEntropy::new(seed);
    (0..n).map(|_| crate::values(network.n_outputs(), &mut entropy).iter().map(|x| x.abs()).collect()).collect()
}

fn target<'a>(network: &Network, values: &'a [f32], i: usize) -> Target<'a> {
    let class = Target::Class((i % network.n_outputs().max(2)) as u32);
    match network.loss().check_target(class, network.n_outputs()) {
        Ok(()) => class,
        Err(_) => Target::Values(values),
    }
}

#[test]
fn a_batch_is_the_weighted_sum_of_its_records_exact_gradients() {
    for case in all_cases(31) {
        let network = &case.network;
        let prepared = network.prepare(&case.parameters).expect("parameters");
        let mut workspace = network.workspace();
        let targets = values_of_targets(network, 33, 32);
        let batch: Vec<_> =
            (0..33).map(|i| (case.record(i % case.records.len()), target(network, &targets[i], i))).collect();
        let n_parameters = network.n_parameters();
        let exact: Vec<(f32, Vec<f32>)> = batch
            .iter()
            .map(|&(record, target)| {
                let mut out = network.gradient();
                let loss =
                    network.record_gradient(&prepared, record, target, &mut workspace, &mut out).expect("record");
                (loss, out.to_vec())
            })
            .collect();
        let norms: Vec<f64> = exact.iter().map(|(_, gradient)| norm(gradient)).collect();
        // Some records are clipped, some are not.
        let mut sorted = norms.clone();
        sorted.sort_by(f64::total_cmp);
        let l2_clip_norm = 0.5 * (sorted[16] + sorted[17]);
        let (mut aside, mut out) = (network.gradient(), vec![f32::NAN; n_parameters]);
        for n in [0, 1, 7, 32, 33] {
            for weight in [Weight::Equal(1.0 / n.max(1) as f32), Weight::Clip { l2_clip_norm }] {
                let mut outcomes = vec![Outcome::default(); n];
                out.fill(f32::NAN);
                network
                    .batch_gradient(&prepared, &batch[..n], weight, &mut workspace, &mut aside, &mut outcomes, &mut out)
                    .unwrap_or_else(|error| panic!("{}: {error}", case.name));
                // The sum, and that of the sizes, which rounding is relative to.
                let (mut expected, mut sizes) = (vec![0.0_f64; n_parameters], vec![0.0_f64; n_parameters]);
                for (i, (loss, gradient)) in exact.iter().enumerate().take(n) {
                    let what = format!("{}: record {i} of {n}, {weight:?}", case.name);
                    assert!((outcomes[i].loss - loss).abs() <= 1e-5 * loss.abs(), "{what}: {:?}, {loss}", outcomes[i]);
                    let factor = match weight {
                        Weight::Equal(factor) => {
                            assert_eq!(outcomes[i].norm, None, "{what}");
                            f64::from(factor)
                        }
                        Weight::Clip { l2_clip_norm } => {
                            let found = outcomes[i].norm.expect("clipped");
                            assert!((found - norms[i]).abs() <= 1e-5 * norms[i], "{what}: {found}, {}", norms[i]);
                            (l2_clip_norm / norms[i]).min(1.0)
                        }
                    };
                    for ((sum, size), &g) in expected.iter_mut().zip(&mut sizes).zip(gradient) {
                        *sum += factor * f64::from(g);
                        *size += factor * f64::from(g).abs();
                    }
                }
                let size = expected.iter().map(|g| g * g).sum::<f64>().sqrt();
                let error = out.iter().zip(&expected).map(|(&a, b)| (f64::from(a) - b).powi(2)).sum::<f64>().sqrt();
                assert!(error <= 1e-5 * size, "{}: {n} records, {weight:?}: {error} of {size}", case.name);
                // No tensor hides behind a larger one.
                for entry in network.parameters() {
                    let range = entry.offset..entry.offset + entry.len();
                    let largest = sizes[range.clone()].iter().fold(0.0_f64, |max, &size| max.max(size));
                    for (i, (&a, b)) in out[range.clone()].iter().zip(&expected[range]).enumerate() {
                        let error = (f64::from(a) - b).abs();
                        assert!(
                            error <= 1e-5 * largest,
                            "{}: {n} records, {weight:?}: {}[{i}] is {a}, expected {b}",
                            case.name,
                            entry.name
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn the_bits_of_a_sum_do_not_depend_on_the_threads() {
    for case in all_cases(33) {
        let network = &case.network;
        let prepared = network.prepare(&case.parameters).expect("parameters");
        let targets = values_of_targets(network, 40, 34);
        let batch: Vec<_> =
            (0..40).map(|i| (case.record(i % case.records.len()), target(network, &targets[i], i))).collect();
        let n_parameters = network.n_parameters();
        for weight in [Weight::Equal(0.025), Weight::Clip { l2_clip_norm: 0.1 }] {
            let (mut aside, mut alone) = (network.gradient(), vec![0.0; n_parameters]);
            let mut outcomes = vec![Outcome::default(); 40];
            let mut workspace = network.workspace();
            network
                .batch_gradient(&prepared, &batch, weight, &mut workspace, &mut aside, &mut outcomes, &mut alone)
                .expect("finite");
            for n_threads in 1..=3 {
                let chunks: Vec<_> = batch.chunks(network.chunk_len()).collect();
                let mut gradients = vec![network.gradient(); chunks.len()];
                let mut found = vec![vec![]; chunks.len()];
                thread::scope(|scope| {
                    // Each thread takes neighbouring chunks, the last ones first: no order of work shows in the sum.
                    let n_each = chunks.len().div_ceil(n_threads);
                    let shares = gradients.chunks_mut(n_each).zip(found.chunks_mut(n_each)).zip(chunks.chunks(n_each));
                    for ((gradients, found), chunks) in shares {
                        let prepared = &prepared;
                        scope.spawn(move || {
                            let mut workspace = network.workspace();
                            for ((gradient, found), chunk) in gradients.iter_mut().zip(found).zip(chunks).rev() {
                                found.resize(chunk.len(), Outcome::default());
                                network
                                    .chunk_gradient(prepared, chunk, weight, &mut workspace, found, gradient)
                                    .expect("finite");
                            }
                        });
                    }
                });
                let mut sum = vec![0.0; n_parameters];
                let (first, second) = sum.split_at_mut(n_parameters / 3);
                gradients.iter().for_each(|gradient| gradient.add_to(0, first));
                gradients.iter().for_each(|gradient| gradient.add_to(n_parameters / 3, second));
                assert!(bits(&sum) == bits(&alone), "{}: {weight:?}, {n_threads} threads", case.name);
                assert_eq!(found.concat(), outcomes, "{}: {weight:?}, {n_threads} threads", case.name);
            }
        }
    }
}

#[test]
fn a_value_that_is_not_finite_names_its_layer_and_stays_in_no_workspace() {
    let case = case("nlp", nlp(), 35, 5);
    let network = &case.network;
    let mut workspace = network.workspace();
    let mut out = network.gradient();
    let mut outcomes = vec![Outcome::default(); 5];
    let mut call = |parameters: &[f32], records: &[Vec<f32>], weight| {
        let prepared = network.prepare(parameters).expect("parameters");
        let batch: Vec<_> = records.iter().map(|record| (Record::new(record), Target::Class(1))).collect();
        network.chunk_gradient(&prepared, &batch, weight, &mut workspace, &mut outcomes, &mut out)?;
        Ok(bits(&out))
    };
    for weight in [Weight::Equal(0.2), Weight::Clip { l2_clip_norm: 0.1 }] {
        let first = call(&case.parameters, &case.records, weight).expect("finite");
        let non_finite = |layer: &str, what| Err(NnError::NonFinite { layer: layer.to_owned(), what });
        let mut records = case.records.clone();
        records[3][2] = f32::INFINITY;
        let input = &network.spec().layers()[0].name;
        assert_eq!(call(&case.parameters, &records, weight), non_finite(input, "input"));
        records[3][2] = 1e6;
        let embedding = &network.spec().layers()[1].name;
        assert_eq!(call(&case.parameters, &records, weight), non_finite(embedding, "output"), "no such id");
        for entry in network.parameters().iter().skip(1) {
            let mut parameters = case.parameters.clone();
            parameters[entry.offset] = f32::NAN;
            let layer = entry.name.split('/').next().unwrap_or_default();
            assert_eq!(call(&parameters, &case.records, weight), non_finite(layer, "parameters"), "{}", entry.name);
        }
        assert_eq!(call(&case.parameters, &case.records, weight), Ok(first), "{weight:?}");
    }
}

#[test]
fn a_norm_that_overflows_is_an_error_where_no_value_is() {
    let kinds = vec![
        LayerKind::InputLayer { shape: vec![2, 40] },
        LayerKind::Dense { units: 3, activation: Activation::Linear, use_bias: true },
    ];
    let network = Network::new(reference::model(kinds).expect("model"), Loss::MeanSquaredError).expect("loss");
    let prepared = network.prepare(&vec![0.0; network.n_parameters()]).expect("parameters");
    let (record, target) = ([1e25; 80], [1.0; 6]);
    let batch = [(Record::new(&record), Target::Values(&target))];
    let mut out = network.gradient();
    let (mut workspace, mut outcomes) = (network.workspace(), [Outcome::default()]);
    let mut call = |weight| network.chunk_gradient(&prepared, &batch, weight, &mut workspace, &mut outcomes, &mut out);
    assert_eq!(call(Weight::Equal(1.0)), Ok(()));
    let layer = network.spec().layers()[1].name.clone();
    let expected = Err(NnError::NonFinite { layer, what: "norm of the gradient" });
    assert_eq!(call(Weight::Clip { l2_clip_norm: 1.0 }), expected);
}

#[test]
fn what_does_not_fit_a_batch_is_refused() {
    let case = case("nlp", nlp(), 36, 1);
    let network = &case.network;
    let prepared = network.prepare(&case.parameters).expect("parameters");
    let mut workspace = network.workspace();
    let mut out = network.gradient();
    let record = &case.records[0];
    let mut call = |record: &[f32], n: usize, n_outcomes: usize, target, weight| {
        let batch = vec![(Record::new(record), target); n];
        let mut outcomes = vec![Outcome::default(); n_outcomes];
        network.chunk_gradient(&prepared, &batch, weight, &mut workspace, &mut outcomes, &mut out)
    };
    let (n, class, equal) = (network.chunk_len(), Target::Class(0), Weight::Equal(1.0));
    let length = |what, found, expected| Err(NnError::Length { what, found, expected });
    assert_eq!(call(record, n, n, class, equal), Ok(()));
    assert_eq!(call(record, n + 1, n + 1, class, equal), length("chunk", n + 1, n));
    assert_eq!(call(record, 2, 1, class, equal), length("outcomes", 1, 2));
    assert_eq!(call(&record[1..], 1, 1, class, equal), length("record", 8, 9));
    let n_classes = network.n_outputs();
    let wrong = Target::Class(n_classes as u32);
    assert!(matches!(call(record, 2, 2, wrong, equal), Err(NnError::Class { .. })));
    for l2_clip_norm in [0.0, -1.0, f64::NAN] {
        let found = call(record, 1, 1, class, Weight::Clip { l2_clip_norm });
        assert!(matches!(found, Err(NnError::ClipNorm { .. })), "{l2_clip_norm}");
    }
    let everything = cases(37).remove(4);
    let prepared = everything.network.prepare(&everything.parameters).expect("parameters");
    let batch = [(Record::new(&everything.records[0]), Target::Class(0))];
    let mut out = everything.network.gradient();
    let mut workspace = everything.network.workspace();
    let found = everything.network.chunk_gradient(
        &prepared,
        &batch,
        equal,
        &mut workspace,
        &mut [Outcome::default()],
        &mut out,
    );
    assert_eq!(found, Err(NnError::DropoutKey));
}

fn nlp() -> Network {
    let spec = ModelSpec::from_keras_json(include_str!("../vectors/nlp.keras.json")).expect("model");
    Network::new(spec, Loss::SparseCategoricalCrossentropy).expect("softmax")
}

fn norm(values: &[f32]) -> f64 {
    values.iter().map(|&g| f64::from(g) * f64::from(g)).sum::<f64>().sqrt()
}
