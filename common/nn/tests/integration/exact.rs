//! The exact path: a record's gradient is a function of the model and the record alone.

use std::thread;

use eranos_base::{Digest, SeededEntropy};
use eranos_nn::{Network, NnError, Record, Target, network::Workspace};
use ndarray::Array2;

use crate::{below, bits, cnn, values};

const N_RECORDS: usize = 24;

struct Case {
    network: Network,
    parameters: Vec<f32>,
    records: Vec<Vec<f32>>,
}

fn case(seed: u64) -> Case {
    let mut entropy = SeededEntropy::new(seed);
    let network = cnn();
    let parameters = network.initialise(&mut entropy);
    let records = (0..N_RECORDS).map(|_| values(network.input_len(), &mut entropy)).collect();
    Case { network, parameters, records }
}

impl Case {
    fn gradient(&self, i: usize, workspace: &mut Workspace) -> (u32, Vec<u32>) {
        let prepared = self.network.prepare(&self.parameters).expect("parameters");
        let mut out = vec![f32::NAN; self.network.n_parameters()];
        let target = Target::Class(i as u32 % 10);
        let loss = self.network.record_gradient(&prepared, Record::new(&self.records[i]), target, workspace, &mut out);
        (loss.expect("record").to_bits(), bits(&out))
    }
}

#[test]
fn a_gradient_has_the_same_bits_at_any_position_on_any_thread_and_in_any_workspace() {
    let case = case(11);
    let alone: Vec<_> = (0..N_RECORDS).map(|i| case.gradient(i, &mut case.network.workspace())).collect();
    thread::scope(|scope| {
        for seed in 0..3 {
            let (case, alone) = (&case, &alone);
            scope.spawn(move || {
                let mut entropy = SeededEntropy::new(seed);
                let mut workspace = case.network.workspace();
                for _ in 0..N_RECORDS {
                    let i = below(N_RECORDS, &mut entropy);
                    assert!(case.gradient(i, &mut workspace) == alone[i], "record {i}, seed {seed}");
                }
            });
        }
    });
}

#[test]
fn nothing_of_a_poisoned_record_stays_in_the_workspace() {
    let case = case(12);
    let alone = case.gradient(0, &mut case.network.workspace());
    let mut workspace = case.network.workspace();
    let prepared = case.network.prepare(&case.parameters).expect("parameters");
    let mut out = vec![0.0; case.network.n_parameters()];
    for poison in [f32::NAN, f32::INFINITY, f32::MAX] {
        let record = vec![poison; case.network.input_len()];
        case.network
            .record_gradient(&prepared, Record::new(&record), Target::Class(0), &mut workspace, &mut out)
            .expect("lengths");
        assert!(case.gradient(0, &mut workspace) == alone, "after {poison}");
    }
    let all: Array2<f32> = Array2::from_elem((20, case.network.input_len()), f32::NAN);
    case.network.predict(&prepared, all.view(), &mut workspace).expect("rows");
    assert!(case.gradient(0, &mut workspace) == alone, "after a batch");
}

#[test]
fn where_a_record_lies_in_memory_does_not_matter() {
    let case = case(13);
    let network = &case.network;
    let alone = case.gradient(5, &mut network.workspace()).1;
    let prepared = network.prepare(&case.parameters).expect("parameters");
    let mut workspace = network.workspace();
    for shift in 0..17 {
        let mut record = vec![0.0; shift];
        record.extend_from_slice(&case.records[5]);
        let mut out = vec![f32::NAN; shift + network.n_parameters()];
        let (record, out) = (&record[shift..], &mut out[shift..]);
        network.record_gradient(&prepared, Record::new(record), Target::Class(5), &mut workspace, out).expect("record");
        assert!(bits(out) == alone, "shifted by {shift}");
    }
}

#[test]
fn a_prediction_has_the_same_bits_in_any_batch() {
    let case = case(14);
    let prepared = case.network.prepare(&case.parameters).expect("parameters");
    let mut workspace = case.network.workspace();
    let mut predict = |indices: &[usize]| {
        let rows: Vec<f32> = indices.iter().flat_map(|&i| case.records[i].clone()).collect();
        let rows = Array2::from_shape_vec((indices.len(), case.network.input_len()), rows).expect("shape");
        let out = case.network.predict(&prepared, rows.view(), &mut workspace).expect("predict");
        out.rows().into_iter().map(|row| bits(&row.to_vec())).collect::<Vec<_>>()
    };
    let alone: Vec<_> = (0..N_RECORDS).map(|i| predict(&[i]).remove(0)).collect();
    assert_eq!(predict(&[]).len(), 0);
    let mut entropy = SeededEntropy::new(15);
    for n in [1, 2, 5, 15, 16, 17, 33, 40] {
        let indices: Vec<usize> = (0..n).map(|_| below(N_RECORDS, &mut entropy)).collect();
        for (row, i) in predict(&indices).into_iter().zip(indices) {
            assert_eq!(row, alone[i], "record {i} in a batch of {n}");
        }
    }
}

/// The order of every sum is part of the design, so these bits are the same under AVX-512, AVX2, NEON and plain Rust.
/// Whoever changes an order changes this digest, and breaks a federation of old and new clients in nothing but the
/// reproducibility of a record's last bits.
#[test]
fn gradients_have_their_golden_bits() {
    let case = case(16);
    let mut bytes = Vec::new();
    for i in 0..4 {
        let (loss, gradient) = case.gradient(i, &mut case.network.workspace());
        bytes.extend(loss.to_le_bytes());
        bytes.extend(gradient.iter().flat_map(|g| g.to_le_bytes()));
    }
    assert_eq!(Digest::of(&bytes).to_string(), "69bf955d285d849111edeee59830c71df231ef1b1def4f88935e18d1d6b27a96");
}

#[test]
fn values_that_are_not_finite_name_their_layer() {
    let case = case(17);
    let network = &case.network;
    let mut workspace = network.workspace();
    let mut out = vec![0.0; network.n_parameters()];
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
    let case = case(18);
    let network = &case.network;
    let prepared = network.prepare(&case.parameters).expect("parameters");
    let mut workspace = network.workspace();
    let mut out = vec![0.0; network.n_parameters()];
    let record = &case.records[0];
    let mut call = |record: &[f32], target, len: usize| {
        network.record_gradient(&prepared, Record::new(record), target, &mut workspace, &mut out[..len]).map(|_| ())
    };
    let n = network.n_parameters();
    assert_eq!(call(record, Target::Class(9), n), Ok(()));
    assert_eq!(call(record, Target::Class(10), n), Err(NnError::Class { class: 10, n_classes: 10 }));
    assert_eq!(
        call(&record[1..], Target::Class(0), n),
        Err(NnError::Length { what: "record", found: 783, expected: 784 })
    );
    assert!(matches!(call(record, Target::Class(0), n - 1), Err(NnError::Length { what: "gradient", .. })));
    assert!(matches!(call(record, Target::Values(&[0.1; 10]), n), Err(NnError::Target { .. })));
    assert!(network.prepare(&case.parameters[1..]).is_err());
    let other = crate::reference::small_network();
    let foreign = other.prepare(&vec![0.0; other.n_parameters()]).expect("parameters");
    assert_eq!(
        network.record_gradient(
            &foreign,
            Record::new(record),
            Target::Class(0),
            &mut network.workspace(),
            &mut vec![0.0; n]
        ),
        Err(NnError::Foreign { what: "prepared parameters" })
    );
    assert_eq!(
        network.record_gradient(
            &prepared,
            Record::new(record),
            Target::Class(0),
            &mut other.workspace(),
            &mut vec![0.0; n]
        ),
        Err(NnError::Foreign { what: "workspace" })
    );
}

#[test]
fn networks_and_what_they_need_pass_between_threads() {
    fn shared<T: Send + Sync>() {}
    shared::<Network>();
    shared::<Workspace>();
    shared::<eranos_nn::Prepared>();
}
