//! Every set of reference vectors in a folder, against what Keras computed: `ERANOS_NN_VECTORS` names the folder, the
//! crate's own copy is the default. No set is skipped, and the four built-in models' must be there.
//!
//! `X.keras.json` is the model, `X.json` says sizes and constants, `X.safetensors` holds the tensors that tests/vectors/
//! README.md lists; where there is an `X.summary.txt`, it is what Keras prints of the model.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
};

use eranos_nn::{
    Activation, Buffer, LayerKind, Loss, ModelSpec, Network, Optimizer, OptimizerSpec, Record, Target, kernel,
    model::BUILTIN_NAMES,
    network::batch::{Outcome, Weight},
};
use ndarray::ArrayView2;
use safetensors::{Dtype, SafeTensors};

#[test]
fn every_set_of_vectors_is_met() {
    let folder = match std::env::var_os("ERANOS_NN_VECTORS") {
        Some(folder) => PathBuf::from(folder),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors"),
    };
    let mut names: Vec<String> = fs::read_dir(&folder)
        .unwrap_or_else(|e| panic!("{}: {e}", folder.display()))
        .filter_map(|entry| {
            entry.expect("entry").file_name().into_string().ok()?.strip_suffix(".keras.json").map(str::to_owned)
        })
        .collect();
    names.sort();
    for builtin in BUILTIN_NAMES {
        assert!(names.iter().any(|name| name == builtin), "{} has no {builtin}.keras.json", folder.display());
    }
    for name in names {
        let json = fs::read_to_string(folder.join(format!("{name}.keras.json"))).expect("keras.json");
        let spec = ModelSpec::from_keras_json(&json).unwrap_or_else(|error| panic!("{name}: {error}"));
        if let Ok(summary) = fs::read_to_string(folder.join(format!("{name}.summary.txt"))) {
            // Keras may list its inputs in another order than it takes them in: the order of the lines is not compared.
            let sorted = |text: &str| {
                let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
                lines.sort();
                lines
            };
            assert_eq!(sorted(&spec.summary()), sorted(&summary), "{name}");
        }
        let info = fs::read_to_string(folder.join(format!("{name}.json"))).expect("json");
        let file = fs::read(folder.join(format!("{name}.safetensors"))).expect("safetensors");
        check(&name, spec, &info, &file);
        println!("met {name}");
    }
}

fn check(name: &str, spec: ModelSpec, info: &str, file: &[u8]) {
    let info: serde_json::Value = serde_json::from_str(info).expect("info");
    let set = Set::read(file);
    let records = set.records(&spec);
    let loss = set.loss(&spec);
    let network = Network::new(spec, loss).unwrap_or_else(|error| panic!("{name}: {error}"));
    let listed: Vec<&str> = info["weights"].as_array().expect("weights").iter().filter_map(|w| w.as_str()).collect();
    let ours: Vec<&str> = network.parameters().iter().map(|entry| entry.name.as_str()).collect();
    assert_eq!(ours, listed, "{name}: order of the parameters");

    let mut parameters = set.flat(&network, "weight");
    let targets = set.targets(loss);
    let n = targets.len();
    let record = |i: usize| Record::new(&records[i * network.input_len()..(i + 1) * network.input_len()]);
    let mut workspace = network.workspace();
    let prepared = network.prepare(&parameters).expect("parameters");
    let inputs = ArrayView2::from_shape((n, network.input_len()), &records).expect("records");
    let outputs = network.predict(&prepared, inputs, &mut workspace).expect("predict");
    close(name, "output", outputs.as_slice().expect("standard"), &set.floats["output"]);

    let clip = info["clip_norm"].as_f64().expect("clip_norm");
    let mut out = network.gradient();
    let mut mean = vec![0.0_f64; out.len()];
    let mut clipped = vec![0.0_f64; out.len()];
    let mut total = 0.0;
    for (i, &target) in targets.iter().enumerate() {
        let loss = network.check_record(&prepared, record(i), target, &mut workspace, &mut out).expect("finite");
        close(name, "per_example_loss", &[loss], &set.floats["per_example_loss"][i..=i]);
        let norm = kernel::squared_norm(&out).sqrt();
        let expected = f64::from(set.floats["per_example_grad_norm"][i]);
        assert!((norm - expected).abs() <= 1e-4 * expected, "{name}: norm {norm}, expected {expected}");
        for ((mean, clipped), &g) in mean.iter_mut().zip(&mut clipped).zip(&*out) {
            *mean += f64::from(g) / n as f64;
            *clipped += f64::from(g) * (clip / norm).min(1.0);
        }
        total += f64::from(loss);
    }
    let narrow = |values: &[f64]| values.iter().map(|&v| v as f32).collect::<Vec<_>>();
    close(name, "loss", &[(total / n as f64) as f32], &[info["loss"].as_f64().expect("loss") as f32]);
    set.close(name, &network, "grad", &narrow(&mean));
    set.close(name, &network, "clipped_sum", &narrow(&clipped));

    // The fast path, all records at once.
    let batch: Vec<_> = targets.iter().enumerate().map(|(i, &target)| (record(i), target)).collect();
    let (mut aside, mut outcomes) = (network.gradient(), vec![Outcome::default(); n]);
    let mut out = Buffer::zeroed(network.n_parameters());
    for (weight, tensor) in
        [(Weight::Equal(1.0 / n as f32), "grad"), (Weight::Clip { l2_clip_norm: clip }, "clipped_sum")]
    {
        network
            .batch_gradient(&prepared, &batch, weight, &mut workspace, &mut aside, &mut outcomes, &mut out)
            .expect("finite");
        set.close(name, &network, tensor, &out);
        let losses: Vec<f32> = outcomes.iter().map(|outcome| outcome.loss).collect();
        close(name, "per_example_loss of a batch", &losses, &set.floats["per_example_loss"]);
    }
    for (outcome, &expected) in outcomes.iter().zip(&set.floats["per_example_grad_norm"]) {
        let (norm, expected) = (outcome.norm.expect("clipped"), f64::from(expected));
        assert!((norm - expected).abs() <= 1e-4 * expected, "{name}: norm {norm} in a batch, expected {expected}");
    }

    let adam = |key: &str| info["adam"][key].as_f64().expect("adam");
    let spec = OptimizerSpec::Adam {
        learning_rate: adam("lr"),
        beta_1: adam("beta1"),
        beta_2: adam("beta2"),
        epsilon: adam("eps"),
    };
    let mut optimizer = Optimizer::new(spec, parameters.len()).expect("constants");
    let first_gradient = narrow(&mean);
    for step in 1..=2 {
        let losses = mean_gradient(&network, &parameters, record, &targets, &mut mean);
        let expected = info["losses_before_step_1_2_3"][step - 1].as_f64().expect("loss");
        close(name, "loss before a step", &[losses as f32], &[expected as f32]);
        optimizer.step(&mut parameters, &narrow(&mean)).expect("lengths");
        // Where the gradient is next to nothing, but not nothing, m / sqrt(v) is the sign of rounding errors.
        let is_clear = |g: f32| g == 0.0 || g.abs() >= 1e-6;
        let expected = set.flat(&network, &format!("adam{step}"));
        let (ours, theirs): (Vec<f32>, Vec<f32>) = (0..parameters.len())
            .filter(|&i| is_clear(first_gradient[i]) && is_clear(mean[i] as f32))
            .map(|i| (parameters[i], expected[i]))
            .unzip();
        assert!(
            ours.len() > parameters.len() / 4,
            "{name}: {} of {} parameters compared",
            ours.len(),
            parameters.len()
        );
        close(name, &format!("adam{step}"), &ours, &theirs);
    }
    let losses = mean_gradient(&network, &parameters, record, &targets, &mut mean);
    let expected = info["losses_before_step_1_2_3"][2].as_f64().expect("loss");
    close(name, "loss after two steps", &[losses as f32], &[expected as f32]);
}

/// Writes the mean of the records' gradients; gives the mean loss.
fn mean_gradient<'a>(
    network: &Network,
    parameters: &[f32],
    record: impl Fn(usize) -> Record<'a>,
    targets: &[Target<'_>],
    mean: &mut [f64],
) -> f64 {
    let prepared = network.prepare(parameters).expect("parameters");
    let (mut workspace, mut out) = (network.workspace(), network.gradient());
    mean.fill(0.0);
    let mut total = 0.0;
    for (i, &target) in targets.iter().enumerate() {
        total +=
            f64::from(network.record_gradient(&prepared, record(i), target, &mut workspace, &mut out).expect("record"));
        for (mean, &g) in mean.iter_mut().zip(&*out) {
            *mean += f64::from(g) / targets.len() as f64;
        }
    }
    total / targets.len() as f64
}

struct Set {
    floats: HashMap<String, Vec<f32>>,
    integers: HashMap<String, Vec<i32>>,
    shapes: HashMap<String, Vec<usize>>,
}

impl Set {
    fn read(file: &[u8]) -> Self {
        let file = SafeTensors::deserialize(file).expect("safetensors");
        let (mut floats, mut integers, mut shapes) = (HashMap::new(), HashMap::new(), HashMap::new());
        for (name, tensor) in file.tensors() {
            shapes.insert(name.clone(), tensor.shape().to_vec());
            let words = tensor.data().as_chunks::<4>().0.iter();
            match tensor.dtype() {
                Dtype::F32 => drop(floats.insert(name, words.map(|word| f32::from_le_bytes(*word)).collect())),
                Dtype::I32 => drop(integers.insert(name, words.map(|word| i32::from_le_bytes(*word)).collect())),
                other => panic!("{name} has type {other:?}"),
            }
        }
        Self { floats, integers, shapes }
    }

    /// The records, one behind the other, each with all its inputs.
    fn records(&self, spec: &ModelSpec) -> Vec<f32> {
        let inputs: Vec<(Vec<f32>, usize)> = spec
            .inputs()
            .map(|input| {
                let name = format!("input.{}", spec.layers()[input].name);
                let whole = self.integers.get(&name).map(|ids| ids.iter().map(|&id| id as f32).collect());
                let values = whole.unwrap_or_else(|| self.floats[&name].clone());
                (values, spec.shapes()[input].iter().product())
            })
            .collect();
        let n = inputs[0].0.len() / inputs[0].1;
        (0..n)
            .flat_map(|i| inputs.iter().flat_map(move |(values, len)| &values[i * len..(i + 1) * len]))
            .copied()
            .collect()
    }

    /// What the last activation and the target's type call for.
    fn loss(&self, spec: &ModelSpec) -> Loss {
        let has_classes = self.integers.contains_key("target");
        match spec.layers()[spec.layers().len() - 1].kind {
            LayerKind::Dense { activation: Activation::Softmax, .. } | LayerKind::Activation(Activation::Softmax) => {
                if has_classes {
                    Loss::SparseCategoricalCrossentropy
                } else {
                    Loss::CategoricalCrossentropy
                }
            }
            LayerKind::Dense { activation: Activation::Sigmoid, .. } | LayerKind::Activation(Activation::Sigmoid) => {
                Loss::BinaryCrossentropy
            }
            _ => Loss::MeanSquaredError,
        }
    }

    /// One target for each record.
    fn targets(&self, loss: Loss) -> Vec<Target<'_>> {
        match self.integers.get("target") {
            Some(classes) => classes.iter().map(|&class| Target::Class(class as u32)).collect(),
            None => {
                let (values, n) = (&self.floats["target"], self.shapes["target"][0]);
                assert_ne!(loss, Loss::SparseCategoricalCrossentropy);
                values.chunks_exact(values.len() / n).map(Target::Values).collect()
            }
        }
    }

    fn flat(&self, network: &Network, prefix: &str) -> Vec<f32> {
        let mut flat = Vec::new();
        for entry in network.parameters() {
            let name = format!("{prefix}.{}", entry.name);
            assert_eq!(self.shapes[&name], entry.shape, "{name}");
            assert_eq!(flat.len(), entry.offset, "{name}");
            flat.extend_from_slice(&self.floats[&name]);
        }
        flat
    }

    fn close(&self, set: &str, network: &Network, prefix: &str, ours: &[f32]) {
        for entry in network.parameters() {
            let name = format!("{prefix}.{}", entry.name);
            close(set, &name, &ours[entry.offset..entry.offset + entry.len()], &self.floats[&name]);
        }
    }
}

/// The tolerance of the vectors' README.
fn close(set: &str, what: &str, ours: &[f32], theirs: &[f32]) {
    assert_eq!(ours.len(), theirs.len(), "{set}: {what}");
    for (i, (&a, &b)) in ours.iter().zip(theirs).enumerate() {
        assert!((a - b).abs() <= 1e-5 + 1e-4 * b.abs(), "{set}: {what}[{i}] is {a}, expected {b}");
    }
}
