//! The exact path: a record's gradient is a function of the model, the record and its key alone.

use std::thread;

use eranos_base::{Digest, SeededEntropy};
use eranos_nn::{
    Activation, Dataset, Gradient, LayerKind, LayerSpec, Loss, ModelSpec, Network, NnError, Padding, Record, Target,
    network::{Workspace, batch::Outcome},
};
use ndarray::Array2;

use crate::{below, bits, cnn, reference, values};

/// A network with parameters and records for it.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) network: Network,
    pub(crate) parameters: Vec<f32>,
    pub(crate) records: Vec<Vec<f32>>,
}

pub(crate) fn case(name: &'static str, network: Network, seed: u64, n_records: usize) -> Case {
    let mut entropy = SeededEntropy::new(seed);
    let parameters = network.initialise(&mut entropy);
    let records = (0..n_records).map(|_| reference::record(network.spec(), &mut entropy)).collect();
    Case { name, network, parameters, records }
}

fn cnn_case(seed: u64) -> Case {
    let mut entropy = SeededEntropy::new(seed);
    let network = cnn();
    let parameters = network.initialise(&mut entropy);
    let records = (0..24).map(|_| values(network.input_len(), &mut entropy)).collect();
    Case { name: "cnn", network, parameters, records }
}

/// The mission's models, three of them small, and one graph of every layer there is.
pub(crate) fn cases(seed: u64) -> Vec<Case> {
    let small = |json, loss| Network::new(ModelSpec::from_keras_json(json).expect("model"), loss).expect("loss");
    let sparse = Loss::SparseCategoricalCrossentropy;
    vec![
        cnn_case(seed),
        case("lstm", small(include_str!("../vectors/lstm.keras.json"), sparse), seed, 24),
        case("nlp", small(include_str!("../vectors/nlp.keras.json"), sparse), seed, 24),
        case(
            "recommender",
            small(include_str!("../vectors/recommender.keras.json"), Loss::BinaryCrossentropy),
            seed,
            24,
        ),
        case("everything", everything(), seed, 24),
    ]
}

/// Every kind of layer, every activation, a mask, dropping twice, and layers that several others read.
fn everything() -> Network {
    let layer = |name: &str, inputs: &[u32], kind| LayerSpec { name: name.to_owned(), inputs: inputs.to_vec(), kind };
    let dense = |units, activation| LayerKind::Dense { units, activation, use_bias: true };
    let lstm = |units, return_sequences| LayerKind::Lstm { units, return_sequences, use_bias: true };
    let conv = |filters, padding, activation| LayerKind::Conv2D {
        filters,
        kernel_size: [3, 3],
        strides: [1, 1],
        padding,
        activation,
        use_bias: true,
    };
    let pool = |size, padding| LayerKind::MaxPooling2D { pool_size: size, strides: [2, 2], padding };
    let concatenate = |axis| LayerKind::Concatenate { axis };
    let layers = vec![
        layer("image", &[], LayerKind::InputLayer { shape: vec![9, 8, 3] }),
        layer("words", &[], LayerKind::InputLayer { shape: vec![6] }),
        layer("series", &[], LayerKind::InputLayer { shape: vec![7, 4] }),
        layer("conv", &[0], conv(18, Padding::Valid, Activation::Relu)),
        layer("pool", &[3], pool([2, 2], Padding::Valid)),
        layer("fork", &[4], conv(5, Padding::Same, Activation::Tanh)),
        layer("overlap", &[5], pool([3, 3], Padding::Same)),
        layer("rows", &[1], LayerKind::Embedding { input_dim: 11, output_dim: 7, mask_zero: true }),
        layer("drop", &[7], LayerKind::Dropout { rate: 1 << 30 }),
        layer("sequence", &[8], lstm(17, true)),
        layer("memory", &[9], lstm(9, false)),
        layer("squash", &[2], dense(7, Activation::Sigmoid)),
        layer("both", &[2, 11], concatenate(1)),
        layer("longer", &[12, 12], concatenate(0)),
        layer("second", &[13], lstm(5, false)),
        layer("flat", &[5], LayerKind::Flatten),
        layer("flat_too", &[6], LayerKind::Flatten),
        layer("flat_rows", &[12], LayerKind::Flatten),
        layer("all", &[10, 14, 15, 16, 17], concatenate(0)),
        layer("drop_again", &[18], LayerKind::Dropout { rate: 1 << 31 }),
        layer("hidden", &[19], dense(19, Activation::Linear)),
        layer("shares", &[20], LayerKind::Activation(Activation::Softmax)),
        layer("end", &[21], dense(4, Activation::Softmax)),
    ];
    let spec = ModelSpec::new("everything", layers).expect("model");
    Network::new(spec, Loss::SparseCategoricalCrossentropy).expect("softmax")
}

impl Case {
    pub(crate) fn record(&self, i: usize) -> Record<'_> {
        Record { values: &self.records[i], dropout_key: Some(0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(i as u64)) }
    }

    fn target(&self, i: usize) -> Target<'static> {
        Target::Class((i % self.network.n_outputs().max(2)) as u32)
    }

    fn gradient(&self, i: usize, workspace: &mut Workspace) -> (u32, Vec<u32>) {
        let prepared = self.network.prepare(&self.parameters).expect("parameters");
        let mut out = self.network.gradient();
        let loss = self.network.record_gradient(&prepared, self.record(i), self.target(i), workspace, &mut out);
        (loss.expect("record").to_bits(), bits(&out))
    }
}

#[test]
fn a_gradient_has_the_same_bits_at_any_position_on_any_thread_and_in_any_workspace() {
    for case in cases(11) {
        let n = case.records.len();
        let alone: Vec<_> = (0..n).map(|i| case.gradient(i, &mut case.network.workspace())).collect();
        assert!(alone.iter().all(|(_, gradient)| gradient.iter().all(|&bits| f32::from_bits(bits).is_finite())));
        thread::scope(|scope| {
            for seed in 0..3 {
                let (case, alone) = (&case, &alone);
                scope.spawn(move || {
                    let mut entropy = SeededEntropy::new(seed);
                    let mut workspace = case.network.workspace();
                    for _ in 0..n {
                        let i = below(n, &mut entropy);
                        assert!(case.gradient(i, &mut workspace) == alone[i], "{}: record {i}, seed {seed}", case.name);
                    }
                });
            }
        });
    }
}

#[test]
fn nothing_of_a_poisoned_record_stays_in_the_workspace() {
    for case in cases(12) {
        let alone = case.gradient(0, &mut case.network.workspace());
        let mut workspace = case.network.workspace();
        let prepared = case.network.prepare(&case.parameters).expect("parameters");
        let mut out = case.network.gradient();
        for poison in [f32::NAN, f32::INFINITY, f32::MAX, 0.5, -1.0] {
            let record = vec![poison; case.network.input_len()];
            let record = Record { values: &record, dropout_key: Some(1) };
            let target = case.target(0);
            case.network.record_gradient(&prepared, record, target, &mut workspace, &mut out).expect("lengths");
            assert!(case.gradient(0, &mut workspace) == alone, "{}: after {poison}", case.name);
            // Nor in the memory of the gradient.
            let (record, target) = (case.record(0), case.target(0));
            case.network.record_gradient(&prepared, record, target, &mut workspace, &mut out).expect("lengths");
            assert!(bits(&out) == alone.1, "{}: after {poison}, in the same memory", case.name);
        }
        let all: Array2<f32> = Array2::from_elem((20, case.network.input_len()), f32::NAN);
        case.network.predict(&prepared, all.view(), &mut workspace).expect("rows");
        assert!(case.gradient(0, &mut workspace) == alone, "{}: after a batch", case.name);
    }
}

/// Records of which some are poisoned go there and back together: the others must not notice, to the last bit of the
/// gradient and to the ranges that their integers are taken from.
#[test]
fn a_gradient_has_the_same_bits_whoever_goes_along() {
    let poisons = [f32::NAN, f32::INFINITY, f32::MAX, -1.0, 1e-40];
    for case in cases(21) {
        let (network, n) = (&case.network, case.records.len());
        let prepared = network.prepare(&case.parameters).expect("parameters");
        let poisoned: Vec<Vec<f32>> = poisons.iter().map(|&x| vec![x; network.input_len()]).collect();
        let example = |i: usize| match i.checked_sub(n) {
            None => (case.record(i), case.target(i)),
            Some(poison) => (Record { values: &poisoned[poison], dropout_key: Some(3) }, case.target(0)),
        };
        let mut workspace = network.workspace();
        let mut out = network.gradient();
        let mut alone = Vec::new();
        for i in 0..n + poisons.len() {
            let (record, target) = example(i);
            let mut out = network.gradient();
            let loss = network.record_gradient(&prepared, record, target, &mut network.workspace(), &mut out);
            let mut is_right = false;
            let each = |_, outcome: Outcome, _: &Gradient| {
                is_right = outcome.is_right;
                Ok::<_, NnError>(())
            };
            let (workspace, again) = (&mut network.workspace(), &mut network.gradient());
            network.record_gradients(&prepared, &[(record, target)], workspace, again, each).expect("record");
            if let (Target::Class(class), false) = (target, network.has_dropout()) {
                let own = Dataset::from_values(record.values.to_vec(), vec![class], &[network.input_len()]);
                let evaluated = network.evaluate(&prepared, &own, workspace).expect("record");
                assert_eq!(evaluated.accuracy == 1.0, is_right, "{}: record {i}, seed 21", case.name);
            }
            alone.push(((loss.expect("record").to_bits(), is_right), bits(&out), out.ranges().to_vec()));
        }
        let is_finite = |values: &[u32]| values.iter().all(|&bits| f32::from_bits(bits).is_finite());
        let mut entropy = SeededEntropy::new(22);
        for len in [1, 2, 3, 15, 16, 17, 40] {
            let chosen: Vec<usize> = (0..len).map(|_| below(alone.len(), &mut entropy)).collect();
            let examples: Vec<_> = chosen.iter().map(|&i| example(i)).collect();
            let mut n_seen = 0;
            network
                .record_gradients(&prepared, &examples, &mut workspace, &mut out, |place, outcome, gradient| {
                    assert_eq!(place, n_seen);
                    n_seen += 1;
                    let seen = (outcome.loss.to_bits(), outcome.is_right);
                    let (i, found) = (chosen[place], (seen, bits(gradient), gradient.ranges().to_vec()));
                    // Which NaN it is that comes out does not matter: its record becomes zero.
                    let same = match is_finite(&alone[i].1) {
                        true => found == alone[i],
                        false => !is_finite(&found.1) && found.2 == alone[i].2,
                    };
                    assert!(same, "{}: record {i}, place {place} of {len}, seed 22", case.name);
                    Ok::<_, NnError>(())
                })
                .expect("records");
            assert_eq!(n_seen, len);
        }
        // An error of the caller's ends it.
        let examples: Vec<_> = (0..n).map(example).collect();
        let mut n_seen = 0;
        let ended = network.record_gradients(&prepared, &examples, &mut workspace, &mut out, |_, _, _| {
            n_seen += 1;
            if n_seen == 5 { Err(NnError::DropoutKey) } else { Ok(()) }
        });
        assert_eq!((ended, n_seen), (Err(NnError::DropoutKey), 5));
        assert!(case.gradient(0, &mut workspace).1 == alone[0].1, "{}: after an end", case.name);
    }
}

#[test]
fn where_a_record_lies_in_memory_does_not_matter() {
    for case in cases(13) {
        let network = &case.network;
        let alone = case.gradient(5, &mut network.workspace()).1;
        let prepared = network.prepare(&case.parameters).expect("parameters");
        let mut workspace = network.workspace();
        for shift in 0..17 {
            let mut record = vec![0.0; shift];
            record.extend_from_slice(&case.records[5]);
            let mut out = network.gradient();
            let record = Record { values: &record[shift..], ..case.record(5) };
            network.record_gradient(&prepared, record, case.target(5), &mut workspace, &mut out).expect("record");
            assert!(bits(&out) == alone, "{}: shifted by {shift}", case.name);
        }
    }
}

#[test]
fn a_prediction_has_the_same_bits_in_any_batch() {
    for case in cases(14) {
        let prepared = case.network.prepare(&case.parameters).expect("parameters");
        let mut workspace = case.network.workspace();
        let mut predict = |indices: &[usize]| {
            let rows: Vec<f32> = indices.iter().flat_map(|&i| case.records[i].clone()).collect();
            let rows = Array2::from_shape_vec((indices.len(), case.network.input_len()), rows).expect("shape");
            let out = case.network.predict(&prepared, rows.view(), &mut workspace).expect("predict");
            out.rows().into_iter().map(|row| bits(&row.to_vec())).collect::<Vec<_>>()
        };
        let n_records = case.records.len();
        let alone: Vec<_> = (0..n_records).map(|i| predict(&[i]).remove(0)).collect();
        assert_eq!(predict(&[]).len(), 0);
        let mut entropy = SeededEntropy::new(15);
        for n in [1, 2, 5, 15, 16, 17, 33, 40] {
            let indices: Vec<usize> = (0..n).map(|_| below(n_records, &mut entropy)).collect();
            for (row, i) in predict(&indices).into_iter().zip(indices) {
                assert_eq!(row, alone[i], "{}: record {i} in a batch of {n}", case.name);
            }
        }
    }
}

#[test]
fn what_is_dropped_depends_on_the_key_alone() {
    let case = case("everything", everything(), 19, 2);
    let network = &case.network;
    let prepared = network.prepare(&case.parameters).expect("parameters");
    let mut workspace = network.workspace();
    let mut gradient = |dropout_key: Option<u64>| {
        let mut out = network.gradient();
        let record = Record { values: &case.records[0], dropout_key };
        network.record_gradient(&prepared, record, Target::Class(0), &mut workspace, &mut out).map(|_| bits(&out))
    };
    assert_eq!(gradient(None), Err(NnError::DropoutKey));
    let first = gradient(Some(1)).expect("key");
    for key in [2, 3, 1 << 32, 1 | 1 << 63] {
        assert!(gradient(Some(key)).expect("key") != first, "another mask under {key}");
    }
    assert!(gradient(Some(1)).expect("key") == first);
}

#[test]
fn values_of_new_layers_that_are_not_finite_name_their_layer() {
    let case = case("everything", everything(), 20, 1);
    let network = &case.network;
    let mut workspace = network.workspace();
    let mut out = network.gradient();
    let mut check = |parameters: &[f32], values: &[f32]| {
        let prepared = network.prepare(parameters).expect("parameters");
        let record = Record { values, dropout_key: Some(7) };
        let found = network.check_record(&prepared, record, Target::Class(1), &mut workspace, &mut out);
        network.record_gradient(&prepared, record, Target::Class(1), &mut workspace, &mut out).expect("lengths");
        (found.map(drop), eranos_nn::kernel::squared_norm(&out).is_finite())
    };
    let non_finite = |layer: &str, what| Err(NnError::NonFinite { layer: layer.to_owned(), what });
    assert_eq!(check(&case.parameters, &case.records[0]), (Ok(()), true));
    let words = network.spec().record_range(1).expect("an input");
    let series = network.spec().record_range(2).expect("an input");
    // Ids that are none: the record's gradient is not finite, so that the caller leaves it out.
    for id in [11.0, -1.0, 0.5, 1e30] {
        let mut record = case.records[0].clone();
        record[words.start] = id;
        assert_eq!(check(&case.parameters, &record), (non_finite("rows", "output"), false), "id {id}");
    }
    for (range, layer) in [(words, "words"), (series, "series")] {
        for poison in [f32::NAN, f32::INFINITY] {
            let mut record = case.records[0].clone();
            record[range.end - 1] = poison;
            assert_eq!(check(&case.parameters, &record).0, non_finite(layer, "input"));
        }
    }
    for entry in network.parameters() {
        let mut parameters = case.parameters.clone();
        parameters[entry.offset] = f32::NAN;
        let layer = entry.name.split('/').next().unwrap_or_default();
        assert_eq!(check(&parameters, &case.records[0]).0, non_finite(layer, "parameters"), "{}", entry.name);
    }
}

/// The order of every sum is part of the design, so these bits are the same under AVX-512, AVX2, NEON and plain Rust.
/// Whoever changes an order changes this digest, and breaks a federation of old and new clients in nothing but the
/// reproducibility of a record's last bits.
#[test]
fn gradients_have_their_golden_bits() {
    let expected = [
        "c1bb54a61e175260bfdf68eea2f6432087d0e00af9c0b9e8423faa3cc700e39b",
        "65ed1a2aa45ab7f0cc5ad155032cc8232dcadc77a9068cbacf35b9fa58f1757b",
        "f378bc7acc7e2b4d2ec936bbbac1849f56b53fa420096c2ba7e8570212b29502",
        "f94b52bb03c05660a14bcf41a2b0e82816331ed5c95f676e6740676f1ec60efd",
        "359f3bf51b495cd47582e9c96f9c9863c8aabb4395a1274295fcfa7c6635bad7",
    ];
    for (case, expected) in cases(16).into_iter().zip(expected) {
        let mut bytes = Vec::new();
        for i in 0..4 {
            let (loss, gradient) = case.gradient(i, &mut case.network.workspace());
            bytes.extend(loss.to_le_bytes());
            bytes.extend(gradient.iter().flat_map(|g| g.to_le_bytes()));
        }
        assert_eq!(Digest::of(&bytes).to_string(), expected, "{}", case.name);
    }
}

#[test]
fn values_that_are_not_finite_name_their_layer() {
    let case = cnn_case(17);
    let network = &case.network;
    let mut workspace = network.workspace();
    let mut out = network.gradient();
    let mut check = |parameters: &[f32], record: &[f32]| {
        let prepared = network.prepare(parameters).expect("parameters");
        let (record, target) = (Record::new(record), Target::Class(1));
        let found = network.check_record(&prepared, record, target, &mut workspace, &mut out);
        // The training path leaves the decision to the caller, who sees it in the norm.
        network.record_gradient(&prepared, record, target, &mut workspace, &mut out).expect("lengths");
        (found, eranos_nn::kernel::squared_norm(&out).is_finite())
    };
    let non_finite = |layer: &str, what| Err(NnError::NonFinite { layer: layer.to_owned(), what });
    let record = &case.records[0];
    assert!(matches!(check(&case.parameters, record), (Ok(_), true)));
    for pixel in [0, 400, 783] {
        for poison in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut record = record.clone();
            record[pixel] = poison;
            let (found, _) = check(&case.parameters, &record);
            assert_eq!(found, non_finite("input_layer", "input"), "{poison} at {pixel}");
        }
    }
    let mut nan = record.clone();
    nan[400] = f32::NAN;
    assert!(!check(&case.parameters, &nan).1, "a NaN inside the image reaches the norm");
    for (entry, layer) in [(0, "conv2d"), (3, "conv2d_1"), (4, "dense"), (7, "dense_1")] {
        let mut parameters = case.parameters.clone();
        parameters[network.parameters()[entry].offset] = f32::NAN;
        assert_eq!(check(&parameters, record).0, non_finite(layer, "parameters"));
    }
    let mut parameters = case.parameters.clone();
    parameters[network.parameters()[4].offset..].fill(1e38);
    let (found, _) = check(&parameters, record);
    assert!(matches!(found, Err(NnError::NonFinite { layer, what: "output" }) if layer.starts_with("dense")));
}

#[test]
fn what_does_not_fit_is_refused() {
    let case = cnn_case(18);
    let network = &case.network;
    let prepared = network.prepare(&case.parameters).expect("parameters");
    let mut workspace = network.workspace();
    let mut out = network.gradient();
    let record = &case.records[0];
    let mut call = |record: &[f32], target| {
        network.record_gradient(&prepared, Record::new(record), target, &mut workspace, &mut out).map(|_| ())
    };
    assert_eq!(call(record, Target::Class(9)), Ok(()));
    assert_eq!(call(record, Target::Class(10)), Err(NnError::Class { class: 10, n_classes: 10 }));
    assert_eq!(
        call(&record[1..], Target::Class(0)),
        Err(NnError::Length { what: "record", found: 783, expected: 784 })
    );
    assert!(matches!(call(record, Target::Values(&[0.1; 10])), Err(NnError::Target { .. })));
    assert!(network.prepare(&case.parameters[1..]).is_err());
    let other = reference::small_network();
    let foreign = other.prepare(&vec![0.0; other.n_parameters()]).expect("parameters");
    assert_eq!(
        network.record_gradient(
            &foreign,
            Record::new(record),
            Target::Class(0),
            &mut network.workspace(),
            &mut network.gradient()
        ),
        Err(NnError::Foreign { what: "prepared parameters" })
    );
    assert_eq!(
        network.record_gradient(
            &prepared,
            Record::new(record),
            Target::Class(0),
            &mut other.workspace(),
            &mut network.gradient()
        ),
        Err(NnError::Foreign { what: "workspace" })
    );
    assert_eq!(
        network.record_gradient(
            &prepared,
            Record::new(record),
            Target::Class(0),
            &mut network.workspace(),
            &mut other.gradient()
        ),
        Err(NnError::Foreign { what: "gradient" })
    );
}

#[test]
fn networks_and_what_they_need_pass_between_threads() {
    fn shared<T: Send + Sync>() {}
    shared::<Network>();
    shared::<Workspace>();
    shared::<eranos_nn::Prepared>();
}
