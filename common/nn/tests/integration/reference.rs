//! Every layer against a plain reference in `f64`: outputs directly, gradients by finite differences. What this cannot
//! find is a misunderstanding of Keras that both share; the reference vectors are there for that.

use eranos_base::{Entropy, SeededEntropy};
use eranos_nn::{Activation, LayerKind, LayerSpec, Loss, ModelSpec, Network, Padding, Record, Target};
use ndarray::Array2;
use proptest::{
    prelude::{ProptestConfig, any},
    prop_assume, proptest,
};

use crate::{below, values};

/// A model that is not the CNN.
pub(crate) fn small_network() -> Network {
    let kinds = vec![LayerKind::InputLayer { shape: vec![3] }, dense(2, Activation::Softmax)];
    Network::new(model(kinds).expect("model"), Loss::SparseCategoricalCrossentropy).expect("softmax")
}

/// Each case of the layers' code at least once, by name.
#[test]
fn each_kind_of_layer_agrees_with_the_reference() {
    let image = |h, w, c| LayerKind::InputLayer { shape: vec![h, w, c] };
    let (valid, same) = (Padding::Valid, Padding::Same);
    let (linear, relu, softmax) = (Activation::Linear, Activation::Relu, Activation::Softmax);
    let cases = [
        ("dense behind dense", vec![LayerKind::InputLayer { shape: vec![7] }, dense(5, relu), dense(19, linear)]),
        ("dense over two axes", vec![LayerKind::InputLayer { shape: vec![4, 6] }, dense(5, relu), dense(3, softmax)]),
        ("conv alone", vec![image(7, 6, 2), conv(5, [3, 2], [1, 1], valid, relu)]),
        (
            "conv behind conv",
            vec![image(7, 6, 2), conv(4, [3, 3], [1, 1], same, relu), conv(3, [2, 2], [1, 1], same, linear)],
        ),
        ("strided", vec![image(9, 8, 3), conv(4, [3, 3], [2, 3], valid, relu), conv(4, [3, 3], [2, 2], same, relu)]),
        (
            "conv with softmax",
            vec![image(5, 5, 2), conv(4, [2, 2], [1, 1], valid, relu), conv(3, [2, 2], [1, 1], valid, softmax)],
        ),
        (
            "pooled, short runs",
            vec![
                image(7, 8, 1),
                conv(4, [3, 3], [1, 1], valid, relu),
                pool([2, 2], [2, 2], valid),
                conv(3, [2, 2], [1, 1], valid, relu),
                pool([1, 2], [1, 2], valid),
            ],
        ),
        (
            "pooled, long runs",
            vec![
                image(9, 9, 3),
                conv(9, [3, 3], [1, 1], valid, relu),
                conv(17, [2, 3], [1, 1], valid, relu),
                pool([2, 3], [2, 3], valid),
            ],
        ),
        (
            "pooled, long runs, same, strided",
            vec![
                image(9, 9, 3),
                conv(6, [1, 1], [1, 1], valid, linear),
                conv(5, [3, 4], [1, 2], same, linear),
                pool([2, 2], [2, 2], valid),
            ],
        ),
        (
            "overlapping pooling",
            vec![image(7, 7, 2), conv(4, [2, 2], [1, 1], valid, relu), pool([3, 3], [2, 2], valid)],
        ),
        ("same pooling", vec![image(7, 5, 2), conv(4, [2, 2], [1, 1], valid, relu), pool([3, 2], [2, 2], same)]),
        ("pooling first", vec![image(6, 6, 3), pool([2, 2], [2, 2], valid), conv(4, [2, 2], [1, 1], valid, relu)]),
        (
            "activations alone",
            vec![
                image(4, 4, 3),
                conv(4, [2, 2], [1, 1], valid, linear),
                LayerKind::Activation(relu),
                LayerKind::Activation(softmax),
            ],
        ),
        ("no parameters but the last", vec![image(4, 4, 3), LayerKind::Activation(softmax)]),
    ];
    for (i, (name, mut kinds)) in cases.into_iter().enumerate() {
        kinds.extend([LayerKind::Flatten, dense(4, softmax)]);
        let spec = model(kinds).unwrap_or_else(|e| panic!("{name}: {e}"));
        for round in 0..3 {
            check(name, spec.clone(), 100 * round + i as u64);
        }
    }
}

#[test]
fn each_kind_of_sequence_layer_agrees_with_the_reference() {
    let sequence = |steps, inputs| LayerKind::InputLayer { shape: vec![steps, inputs] };
    let ids = |n| LayerKind::InputLayer { shape: vec![n] };
    let embedding = |mask_zero| LayerKind::Embedding { input_dim: 5, output_dim: 4, mask_zero };
    let dropout = || LayerKind::Dropout { rate: 1 << 30 };
    let activation = LayerKind::Activation;
    let cases = [
        ("lstm", vec![sequence(6, 3), lstm(5, false)]),
        ("one step", vec![sequence(1, 3), lstm(5, false)]),
        (
            "lstm without bias",
            vec![sequence(4, 3), LayerKind::Lstm { units: 5, return_sequences: true, use_bias: false }],
        ),
        ("three lstms", vec![sequence(7, 18), lstm(17, true), lstm(4, true), lstm(16, false)]),
        ("more steps than rows of a product", vec![sequence(50, 2), lstm(3, true), lstm(3, false)]),
        ("embedding", vec![ids(9), embedding(false)]),
        ("embedding and lstm", vec![ids(9), embedding(false), lstm(6, true), lstm(3, false)]),
        ("masked", vec![ids(9), embedding(true), lstm(6, true), lstm(3, false)]),
        (
            "masked through other layers",
            vec![
                ids(9),
                embedding(true),
                dropout(),
                dense(7, Activation::Tanh),
                activation(Activation::Relu),
                lstm(6, true),
                dropout(),
                lstm(3, false),
            ],
        ),
        ("a mask that Flatten loses", vec![ids(4), embedding(true), LayerKind::Flatten]),
        (
            "dropout, sigmoid and tanh",
            vec![
                sequence(4, 5),
                dense(6, Activation::Sigmoid),
                dropout(),
                activation(Activation::Tanh),
                dense(4, Activation::Tanh),
                activation(Activation::Sigmoid),
            ],
        ),
        ("dropout first", vec![sequence(4, 5), dropout(), dense(3, Activation::Linear)]),
    ];
    for (i, (name, mut kinds)) in cases.into_iter().enumerate() {
        kinds.extend([LayerKind::Flatten, dense(4, Activation::Softmax)]);
        let spec = model(kinds).unwrap_or_else(|e| panic!("{name}: {e}"));
        for round in 0..3 {
            check(name, spec.clone(), 100 * round + i as u64);
        }
    }
}

#[test]
fn graphs_agree_with_the_reference() {
    let layer = |name: &str, inputs: &[u32], kind| LayerSpec { name: name.to_owned(), inputs: inputs.to_vec(), kind };
    let concatenate = |axis| LayerKind::Concatenate { axis };
    // One layer read by three, itself twice by one; every axis; a convolution whose pooling is not its only reader.
    let image = vec![
        layer("x", &[], LayerKind::InputLayer { shape: vec![6, 6, 2] }),
        layer("conv", &[0], conv(4, [3, 3], [1, 1], Padding::Same, Activation::Relu)),
        layer("pool", &[1], pool([2, 2], [2, 2], Padding::Valid)),
        layer("again", &[1], conv(4, [2, 2], [2, 2], Padding::Valid, Activation::Tanh)),
        layer("twice", &[3, 3], concatenate(1)),
        layer("down", &[2, 3], concatenate(0)),
        layer("across", &[2, 3, 2], concatenate(1)),
        layer("channels", &[3, 2], concatenate(2)),
        layer("a", &[4], LayerKind::Flatten),
        layer("b", &[5], LayerKind::Flatten),
        layer("c", &[6], LayerKind::Flatten),
        layer("d", &[7], LayerKind::Flatten),
        layer("all", &[8, 9, 10, 11], concatenate(0)),
        layer("end", &[12], dense(3, Activation::Softmax)),
    ];
    // Two inputs of different kinds, one of which nothing is trained on before it is joined.
    let mixed = vec![
        layer("ids", &[], LayerKind::InputLayer { shape: vec![3] }),
        layer("rows", &[0], LayerKind::Embedding { input_dim: 4, output_dim: 2, mask_zero: false }),
        layer("x", &[], LayerKind::InputLayer { shape: vec![4, 2] }),
        layer("joined", &[2, 1, 2], concatenate(0)),
        layer("memory", &[3], lstm(4, false)),
        layer("flat", &[3], LayerKind::Flatten),
        layer("all", &[5, 4], concatenate(0)),
        layer("end", &[6], dense(2, Activation::Softmax)),
    ];
    for (name, layers) in [("image", image), ("mixed", mixed)] {
        let spec = ModelSpec::new("m", layers).unwrap_or_else(|e| panic!("{name}: {e}"));
        for seed in 0..4 {
            check(name, spec.clone(), seed);
        }
    }
}

/// A softmax that is a layer of its own at the end belongs to the loss as well, and layers may do without a bias.
#[test]
fn softmax_alone_at_the_end_and_missing_biases() {
    let conv = LayerKind::Conv2D {
        filters: 6,
        kernel_size: [2, 2],
        strides: [1, 1],
        padding: Padding::Valid,
        activation: Activation::Relu,
        use_bias: false,
    };
    let kinds = vec![
        LayerKind::InputLayer { shape: vec![5, 5, 8] },
        conv,
        pool([2, 2], [2, 2], Padding::Valid),
        LayerKind::Flatten,
        LayerKind::Dense { units: 3, activation: Activation::Linear, use_bias: false },
        LayerKind::Activation(Activation::Softmax),
    ];
    check("bare", model(kinds).expect("model"), 1);
    // Nothing but a softmax: there is a loss, and no gradient.
    let kinds = vec![LayerKind::InputLayer { shape: vec![3] }, LayerKind::Activation(Activation::Softmax)];
    check("nothing to train", model(kinds).expect("model"), 2);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 120, failure_persistence: None, max_global_rejects: 4096, ..Default::default() })]

    #[test]
    fn random_models_agree_with_the_reference(seed in any::<u64>()) {
        let spec = random_model(&mut SeededEntropy::new(seed));
        prop_assume!(spec.is_some());
        if let Some(spec) = spec {
            check("random", spec, seed);
        }
    }
}

/// A graph of random layers, each reading a random earlier one; what nothing reads is joined at the end.
fn random_model(entropy: &mut SeededEntropy) -> Option<ModelSpec> {
    let n = |low: u32, high: u32, entropy: &mut SeededEntropy| low + below((high - low + 1) as usize, entropy) as u32;
    let mut layers: Vec<LayerSpec> = Vec::new();
    let push = |layers: &mut Vec<LayerSpec>, inputs: &[usize], kind| {
        let inputs = inputs.iter().map(|&input| input as u32).collect();
        layers.push(LayerSpec { name: format!("l{}", layers.len()), inputs, kind });
    };
    for _ in 0..n(1, 2, entropy) {
        let shape = match below(4, entropy) {
            0 => vec![n(1, 9, entropy)],
            1 => vec![n(1, 6, entropy), n(1, 18, entropy)],
            _ => vec![n(1, 9, entropy), n(1, 9, entropy), n(1, 18, entropy)],
        };
        let are_ids = shape.len() == 1 && below(2, entropy) == 0;
        push(&mut layers, &[], LayerKind::InputLayer { shape });
        if are_ids {
            let (input_dim, output_dim) = (n(1, 6, entropy), n(1, 5, entropy));
            let kind = LayerKind::Embedding { input_dim, output_dim, mask_zero: below(2, entropy) == 0 };
            let input = layers.len() - 1;
            push(&mut layers, &[input], kind);
        }
    }
    let padding = |entropy: &mut SeededEntropy| if below(3, entropy) == 0 { Padding::Same } else { Padding::Valid };
    let activation = |entropy: &mut SeededEntropy| match below(8, entropy) {
        0 => Activation::Linear,
        1 => Activation::Softmax,
        2 => Activation::Sigmoid,
        3 => Activation::Tanh,
        _ => Activation::Relu,
    };
    for _ in 0..n(1, 6, entropy) {
        let spec = closed(&layers, entropy)?;
        let input = below(layers.len(), entropy);
        let reads_ids =
            layers.iter().any(|l| matches!(l.kind, LayerKind::Embedding { .. }) && l.inputs[0] as usize == input);
        if reads_ids {
            continue;
        }
        let mut inputs = vec![input];
        let kind = match (below(8, entropy), spec.shapes()[input].len()) {
            (0..=1, 3) => {
                let (size, strides) = ([n(1, 3, entropy), n(1, 3, entropy)], [n(1, 2, entropy), n(1, 2, entropy)]);
                conv(n(1, 20, entropy), size, strides, padding(entropy), activation(entropy))
            }
            (2..=3, 3) => {
                let size = [n(1, 3, entropy), n(1, 3, entropy)];
                let strides = if below(2, entropy) == 0 { size } else { [n(1, 3, entropy), n(1, 3, entropy)] };
                pool(size, strides, padding(entropy))
            }
            (0..=3, 2) => lstm(n(1, 20, entropy), below(2, entropy) == 0),
            (4, rank) => {
                inputs.push(below(layers.len(), entropy));
                LayerKind::Concatenate { axis: below(rank, entropy) as u32 }
            }
            (5, _) => LayerKind::Dropout { rate: u32::from_le_bytes(entropy.bytes()) / 2 },
            (6, _) => LayerKind::Activation(activation(entropy)),
            _ => dense(n(1, 20, entropy), activation(entropy)),
        };
        push(&mut layers, &inputs, kind);
        if closed(&layers, entropy).is_none() {
            layers.pop();
        }
    }
    closed(&layers, entropy)
}

/// A model of `layers`: what nothing reads is flattened, joined, and read by a last layer.
fn closed(layers: &[LayerSpec], entropy: &mut SeededEntropy) -> Option<ModelSpec> {
    let unread: Vec<u32> =
        (0..layers.len() as u32).filter(|i| !layers.iter().any(|layer| layer.inputs.contains(i))).collect();
    let mut layers = layers.to_vec();
    let mut add = |inputs: Vec<u32>, kind| {
        layers.push(LayerSpec { name: format!("l{}", layers.len()), inputs, kind });
        layers.len() as u32 - 1
    };
    let flat: Vec<u32> = unread.into_iter().map(|i| add(vec![i], LayerKind::Flatten)).collect();
    let joined = match flat[..] {
        [one] => one,
        _ => add(flat, LayerKind::Concatenate { axis: 0 }),
    };
    let last = [Activation::Softmax, Activation::Sigmoid, Activation::Linear, Activation::Tanh][below(4, entropy)];
    add(vec![joined], dense(1 + below(5, entropy) as u32, last));
    ModelSpec::new("m", layers).ok()
}

fn lstm(units: u32, return_sequences: bool) -> LayerKind {
    LayerKind::Lstm { units, return_sequences, use_bias: true }
}

fn conv(filters: u32, kernel_size: [u32; 2], strides: [u32; 2], padding: Padding, activation: Activation) -> LayerKind {
    LayerKind::Conv2D { filters, kernel_size, strides, padding, activation, use_bias: true }
}

fn pool(pool_size: [u32; 2], strides: [u32; 2], padding: Padding) -> LayerKind {
    LayerKind::MaxPooling2D { pool_size, strides, padding }
}

fn dense(units: u32, activation: Activation) -> LayerKind {
    LayerKind::Dense { units, activation, use_bias: true }
}

pub(crate) fn model(kinds: Vec<LayerKind>) -> Result<ModelSpec, eranos_nn::ModelError> {
    let layer = |(i, kind): (usize, LayerKind)| LayerSpec {
        name: format!("l{i}"),
        inputs: i.checked_sub(1).map(|i| i as u32).into_iter().collect(),
        kind,
    };
    ModelSpec::new("m", kinds.into_iter().enumerate().map(layer).collect())
}

/// Compares outputs, loss and gradient under random parameters.
fn check(name: &str, spec: ModelSpec, seed: u64) {
    let mut entropy = SeededEntropy::new(seed);
    let last = &spec.layers()[spec.layers().len() - 1].kind;
    let loss = match last {
        LayerKind::Dense { activation: Activation::Softmax, .. } | LayerKind::Activation(Activation::Softmax) => {
            [Loss::SparseCategoricalCrossentropy, Loss::CategoricalCrossentropy][below(2, &mut entropy)]
        }
        LayerKind::Dense { activation: Activation::Sigmoid, .. } => Loss::BinaryCrossentropy,
        _ => Loss::MeanSquaredError,
    };
    let network = Network::new(spec.clone(), loss).expect("loss");
    let parameters = values(network.n_parameters(), &mut entropy);
    let record = record(&spec, &mut entropy);
    let class = below(network.n_outputs(), &mut entropy);
    let wanted: Vec<f32> = values(network.n_outputs(), &mut entropy).iter().map(|t| t.abs()).collect();
    let target = match loss {
        Loss::SparseCategoricalCrossentropy => Target::Class(class as u32),
        _ => Target::Values(&wanted),
    };
    let key = u64::from_le_bytes(entropy.bytes());
    let prepared = network.prepare(&parameters).expect("parameters");
    let mut workspace = network.workspace();
    let mut gradient = network.gradient();
    let with_key = Record { values: &record, dropout_key: Some(key) };
    let found = network.check_record(&prepared, with_key, target, &mut workspace, &mut gradient).expect("finite");

    let wide = |values: &[f32]| values.iter().map(|&v| f64::from(v)).collect::<Vec<_>>();
    let (mut exact, record64, wanted64) = (wide(&parameters), wide(&record), wide(&wanted));
    let reference = |parameters: &[f64]| {
        // From the logits, where 1 - y would lose its digits.
        let y = forward(&spec, parameters, &record64, Some(key), loss != Loss::BinaryCrossentropy);
        let n = y.len() as f64;
        let pairs = || y.iter().zip(&wanted64);
        match loss {
            Loss::SparseCategoricalCrossentropy => -y[class].ln(),
            Loss::CategoricalCrossentropy => pairs().map(|(y, t)| -t * y.ln()).sum(),
            Loss::BinaryCrossentropy => {
                pairs().map(|(z, t)| z.max(0.0) - z * t + (-z.abs()).exp().ln_1p()).sum::<f64>() / n
            }
            Loss::MeanSquaredError => pairs().map(|(y, t)| (y - t) * (y - t)).sum::<f64>() / n,
        }
    };
    let expected = reference(&exact);
    assert!(
        (f64::from(found) - expected).abs() < 1e-4 * expected.max(1.0),
        "{name}, seed {seed}: loss {found}, {expected}"
    );
    let output = forward(&spec, &exact, &record64, None, true);
    let rows = Array2::from_shape_vec((2, record.len()), [record.clone(), record].concat()).expect("shape");
    let predicted = network.predict(&prepared, rows.view(), &mut workspace).expect("predict");
    for row in predicted.rows() {
        for (a, b) in row.iter().zip(&output) {
            assert!((f64::from(*a) - b).abs() < 1e-4 * b.abs().max(1.0), "{name}, seed {seed}: output {a}, {b}");
        }
    }
    // A sigmoid or tanh near its end has few digits of slope left.
    let scale = gradient.iter().fold(1e-2_f64, |scale, &g| scale.max(f64::from(g).abs()));
    for _ in 0..parameters.len().min(60) {
        let i = below(parameters.len(), &mut entropy);
        let original = exact[i];
        let mut slope = |step: f64| {
            exact[i] = original + step;
            let above = reference(&exact);
            exact[i] = original - step;
            let below = reference(&exact);
            exact[i] = original;
            (above - below) / (2.0 * step)
        };
        // Where the two differ, a kink of relu or of a maximum lies between.
        let (far, near) = (slope(1e-6), slope(1e-7));
        if (far - near).abs() > 1e-4 * scale {
            continue;
        }
        let found = f64::from(gradient[i]);
        assert!((found - near).abs() < 1e-3 * scale, "{name}, seed {seed}: gradient[{i}] is {found}, expected {near}");
    }
}

/// A record of values in [-1, 1), of ids where an Embedding reads them.
pub(crate) fn record(spec: &ModelSpec, entropy: &mut SeededEntropy) -> Vec<f32> {
    let mut record = Vec::new();
    for input in spec.inputs() {
        let len = spec.shapes()[input].iter().product();
        let n_ids = spec.layers().iter().find_map(|layer| match layer.kind {
            LayerKind::Embedding { input_dim, .. } if layer.inputs == [input as u32] => Some(input_dim as usize),
            _ => None,
        });
        match n_ids {
            Some(n_ids) => record.extend((0..len).map(|_| below(n_ids, entropy) as f32)),
            None => record.extend(values(len, entropy)),
        }
    }
    record
}

/// The model's output, straight from the definitions, with its last activation or without; with a key, as in training.
fn forward(spec: &ModelSpec, parameters: &[f64], record: &[f64], key: Option<u64>, is_whole: bool) -> Vec<f64> {
    let mut at = 0;
    let mut take = |n: usize| {
        at += n;
        &parameters[at - n..at]
    };
    let mut outputs: Vec<Vec<f64>> = Vec::new();
    let mut masks: Vec<Option<Vec<bool>>> = Vec::new();
    for (i, layer) in spec.layers().iter().enumerate() {
        let inputs: Vec<usize> = layer.inputs.iter().map(|&input| input as usize).collect();
        let none = Vec::new();
        let (x, input) = inputs.first().map_or((&none, &[][..]), |&input| (&outputs[input], &*spec.shapes()[input]));
        let output = &spec.shapes()[i];
        let mask = inputs.first().and_then(|&input| masks[input].clone());
        let mut mask_out = None;
        let (mut y, activation) = match layer.kind {
            LayerKind::InputLayer { .. } => {
                let range = spec.record_range(i).expect("an input");
                (record[range].to_vec(), Activation::Linear)
            }
            LayerKind::Conv2D { filters, kernel_size, strides, padding, activation, use_bias } => {
                let filters = filters as usize;
                let [kh, kw] = kernel_size.map(|n| n as usize);
                let kernel = take(kh * kw * input[2] * filters);
                let bias = if use_bias { take(filters).to_vec() } else { vec![0.0; filters] };
                let mut y = Vec::new();
                for place in places(input, output, kernel_size, strides, padding) {
                    for f in 0..filters {
                        let mut sum = bias[f];
                        for &(k, position) in &place {
                            for c in 0..input[2] {
                                sum += x[position * input[2] + c] * kernel[(k * input[2] + c) * filters + f];
                            }
                        }
                        y.push(sum);
                    }
                }
                (y, activation)
            }
            LayerKind::MaxPooling2D { pool_size, strides, padding } => {
                let mut y = Vec::new();
                for place in places(input, output, pool_size, strides, padding) {
                    for c in 0..input[2] {
                        y.push(place.iter().map(|&(_, p)| x[p * input[2] + c]).fold(f64::NEG_INFINITY, f64::max));
                    }
                }
                (y, Activation::Linear)
            }
            LayerKind::Dense { units, activation, use_bias } => {
                let (n, units) = (input[input.len() - 1], units as usize);
                let kernel = take(n * units);
                let bias = if use_bias { take(units).to_vec() } else { vec![0.0; units] };
                let rows = x.chunks(n).flat_map(|row| {
                    let sum = |j: usize| bias[j] + (0..n).map(|i| row[i] * kernel[i * units + j]).sum::<f64>();
                    (0..units).map(sum).collect::<Vec<_>>()
                });
                mask_out = mask;
                (rows.collect(), activation)
            }
            LayerKind::Activation(activation) => {
                mask_out = mask;
                (x.clone(), activation)
            }
            LayerKind::Flatten => (x.clone(), Activation::Linear),
            LayerKind::Lstm { units, return_sequences, use_bias } => {
                let (n, units) = (input[1], units as usize);
                let (kernel, recurrent) = (take(n * 4 * units), take(units * 4 * units));
                let bias = if use_bias { take(4 * units).to_vec() } else { vec![0.0; 4 * units] };
                let sigmoid = |z: f64| 1.0 / (1.0 + (-z).exp());
                let (mut hidden, mut cell) = (vec![0.0; units], vec![0.0; units]);
                let mut all = Vec::new();
                for (t, row) in x.chunks(n).enumerate() {
                    if mask.as_ref().is_none_or(|mask| mask[t]) {
                        let z: Vec<f64> = (0..4 * units)
                            .map(|k| {
                                let from_row: f64 = (0..n).map(|i| row[i] * kernel[i * 4 * units + k]).sum();
                                let from_before = (0..units).map(|i| hidden[i] * recurrent[i * 4 * units + k]);
                                bias[k] + from_row + from_before.sum::<f64>()
                            })
                            .collect();
                        for j in 0..units {
                            let [i, f, c, o] = [0, 1, 2, 3].map(|gate| z[gate * units + j]);
                            cell[j] = sigmoid(f) * cell[j] + sigmoid(i) * c.tanh();
                            hidden[j] = sigmoid(o) * cell[j].tanh();
                        }
                    }
                    all.extend_from_slice(&hidden);
                }
                mask_out = mask.filter(|_| return_sequences);
                (if return_sequences { all } else { hidden }, Activation::Linear)
            }
            LayerKind::Embedding { input_dim, output_dim, mask_zero } => {
                let width = output_dim as usize;
                let table = take(input_dim as usize * width);
                mask_out = mask_zero.then(|| x.iter().map(|&id| id != 0.0).collect());
                let rows = x.iter().flat_map(|&id| table[id as usize * width..][..width].to_vec());
                (rows.collect(), Activation::Linear)
            }
            LayerKind::Concatenate { axis } => {
                let axis = axis as usize;
                let outer: usize = output[..axis].iter().product();
                let mut y = Vec::new();
                for row in 0..outer {
                    for &input in &inputs {
                        let len = outputs[input].len() / outer;
                        y.extend_from_slice(&outputs[input][row * len..(row + 1) * len]);
                    }
                }
                (y, Activation::Linear)
            }
            LayerKind::Dropout { rate } => {
                mask_out = mask;
                let share = f64::from(rate) / 2f64.powi(32);
                let keep = |(n, x): (usize, &f64)| match key {
                    None => *x,
                    Some(key) if philox(n as u32 / 4, i as u32, key)[n % 4] < rate => 0.0,
                    Some(_) => x / (1.0 - share),
                };
                (x.iter().enumerate().map(keep).collect(), Activation::Linear)
            }
        };
        match activation {
            _ if !is_whole && i + 1 == spec.layers().len() => {}
            Activation::Linear => {}
            Activation::Relu => y.iter_mut().for_each(|v| *v = v.max(0.0)),
            Activation::Sigmoid => y.iter_mut().for_each(|v| *v = 1.0 / (1.0 + (-*v).exp())),
            Activation::Tanh => y.iter_mut().for_each(|v| *v = v.tanh()),
            Activation::Softmax => {
                for row in y.chunks_mut(output[output.len() - 1]) {
                    let max = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                    let total: f64 = row.iter().map(|v| (v - max).exp()).sum();
                    row.iter_mut().for_each(|v| *v = (*v - max).exp() / total);
                }
            }
        }
        outputs.push(y);
        masks.push(mask_out);
    }
    outputs.pop().expect("a layer")
}

/// Philox4x32-10 (Salmon et al. 2011, section 3.3) of the counter (block, layer, 0, 0) under a key.
fn philox(block: u32, layer: u32, key: u64) -> [u32; 4] {
    let (mut x, mut k) = ([block, layer, 0, 0], [key as u32, (key >> 32) as u32]);
    for _ in 0..10 {
        let (a, b) = (u64::from(x[0]) * 0xD251_1F53, u64::from(x[2]) * 0xCD9E_8D57);
        x = [(b >> 32) as u32 ^ x[1] ^ k[0], b as u32, (a >> 32) as u32 ^ x[3] ^ k[1], a as u32];
        k = [k[0].wrapping_add(0x9E37_79B9), k[1].wrapping_add(0xBB67_AE85)];
    }
    x
}

/// For each output position: (position in the window, position in the input) of what lies inside the input.
fn places(
    input: &[usize],
    output: &[usize],
    size: [u32; 2],
    strides: [u32; 2],
    padding: Padding,
) -> Vec<Vec<(usize, usize)>> {
    let before: Vec<i64> = (0..2)
        .map(|axis| match padding {
            Padding::Valid => 0,
            Padding::Same => {
                let total =
                    (output[axis] as i64 - 1) * i64::from(strides[axis]) + i64::from(size[axis]) - input[axis] as i64;
                total.max(0) / 2
            }
        })
        .collect();
    let mut all = Vec::new();
    for oy in 0..output[0] as i64 {
        for ox in 0..output[1] as i64 {
            let mut place = Vec::new();
            for ky in 0..i64::from(size[0]) {
                for kx in 0..i64::from(size[1]) {
                    let y = oy * i64::from(strides[0]) + ky - before[0];
                    let x = ox * i64::from(strides[1]) + kx - before[1];
                    if (0..input[0] as i64).contains(&y) && (0..input[1] as i64).contains(&x) {
                        place.push(((ky * i64::from(size[1]) + kx) as usize, (y * input[1] as i64 + x) as usize));
                    }
                }
            }
            all.push(place);
        }
    }
    all
}
