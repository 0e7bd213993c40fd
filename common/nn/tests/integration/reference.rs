//! Every layer against a plain reference in `f64`: outputs directly, gradients by finite differences. What this cannot
//! find is a misunderstanding of Keras that both share; the reference vectors are there for that.

use eranos_base::SeededEntropy;
use eranos_nn::{Activation, LayerKind, LayerSpec, Loss, ModelSpec, Network, Padding, Target};
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

fn random_model(entropy: &mut SeededEntropy) -> Option<ModelSpec> {
    let n = |low: u32, high: u32, entropy: &mut SeededEntropy| low + below((high - low + 1) as usize, entropy) as u32;
    let mut kinds = vec![LayerKind::InputLayer { shape: vec![n(1, 9, entropy), n(1, 9, entropy), n(1, 18, entropy)] }];
    let padding = |entropy: &mut SeededEntropy| if below(3, entropy) == 0 { Padding::Same } else { Padding::Valid };
    let activation = |entropy: &mut SeededEntropy| match below(6, entropy) {
        0 => Activation::Linear,
        1 => Activation::Softmax,
        _ => Activation::Relu,
    };
    for _ in 0..n(1, 4, entropy) {
        let kind = match below(7, entropy) {
            0..=2 => {
                let (size, strides) = ([n(1, 3, entropy), n(1, 3, entropy)], [n(1, 2, entropy), n(1, 2, entropy)]);
                conv(n(1, 20, entropy), size, strides, padding(entropy), activation(entropy))
            }
            3 | 4 => {
                let size = [n(1, 3, entropy), n(1, 3, entropy)];
                let strides = if below(2, entropy) == 0 { size } else { [n(1, 3, entropy), n(1, 3, entropy)] };
                pool(size, strides, padding(entropy))
            }
            5 => dense(n(1, 20, entropy), activation(entropy)),
            _ => LayerKind::Activation(activation(entropy)),
        };
        kinds.push(kind);
    }
    kinds.extend([LayerKind::Flatten, dense(n(1, 5, entropy), Activation::Softmax)]);
    model(kinds).ok()
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

fn model(kinds: Vec<LayerKind>) -> Result<ModelSpec, eranos_nn::ModelError> {
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
    let network = Network::new(spec.clone(), Loss::SparseCategoricalCrossentropy).expect("softmax");
    let parameters = values(network.n_parameters(), &mut entropy);
    let record = values(network.input_len(), &mut entropy);
    let class = below(network.n_outputs(), &mut entropy);
    let prepared = network.prepare(&parameters).expect("parameters");
    let mut workspace = network.workspace();
    let mut gradient = vec![f32::NAN; parameters.len()];
    let target = Target::Class(class as u32);
    let loss = network.check_record(&prepared, &record, target, &mut workspace, &mut gradient).expect("finite");

    let wide = |values: &[f32]| values.iter().map(|&v| f64::from(v)).collect::<Vec<_>>();
    let (mut exact, record64) = (wide(&parameters), wide(&record));
    let reference = |parameters: &[f64]| {
        let output = forward(&spec, parameters, &record64);
        (-output[class].ln(), output)
    };
    let (expected, output) = reference(&exact);
    assert!(
        (f64::from(loss) - expected).abs() < 1e-4 * expected.max(1.0),
        "{name}, seed {seed}: loss {loss}, {expected}"
    );
    let rows = Array2::from_shape_vec((2, record.len()), [record.clone(), record].concat()).expect("shape");
    let predicted = network.predict(&prepared, rows.view(), &mut workspace).expect("predict");
    for row in predicted.rows() {
        for (a, b) in row.iter().zip(&output) {
            assert!((f64::from(*a) - b).abs() < 1e-4, "{name}, seed {seed}: output {a}, {b}");
        }
    }
    let scale = gradient.iter().fold(1e-3_f64, |scale, &g| scale.max(f64::from(g).abs()));
    for _ in 0..parameters.len().min(60) {
        let i = below(parameters.len(), &mut entropy);
        let original = exact[i];
        let mut slope = |step: f64| {
            exact[i] = original + step;
            let above = reference(&exact).0;
            exact[i] = original - step;
            let below = reference(&exact).0;
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

/// The model's output, straight from the definitions.
fn forward(spec: &ModelSpec, parameters: &[f64], record: &[f64]) -> Vec<f64> {
    let mut at = 0;
    let mut take = |n: usize| {
        at += n;
        &parameters[at - n..at]
    };
    let mut x = record.to_vec();
    for (i, layer) in spec.layers().iter().enumerate().skip(1) {
        let (input, output) = (&spec.shapes()[i - 1], &spec.shapes()[i]);
        let (mut y, activation) = match layer.kind {
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
                (rows.collect(), activation)
            }
            LayerKind::Activation(activation) => (x.clone(), activation),
            LayerKind::Flatten | LayerKind::InputLayer { .. } => (x.clone(), Activation::Linear),
        };
        match activation {
            Activation::Linear => {}
            Activation::Relu => y.iter_mut().for_each(|v| *v = v.max(0.0)),
            Activation::Softmax => {
                for row in y.chunks_mut(output[output.len() - 1]) {
                    let max = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                    let total: f64 = row.iter().map(|v| (v - max).exp()).sum();
                    row.iter_mut().for_each(|v| *v = (*v - max).exp() / total);
                }
            }
        }
        x = y;
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
