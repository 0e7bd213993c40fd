//! Model definitions that nobody meant: random lists of layers with hostile sizes, and honest bytes that were damaged on
//! the way. A model is read without a panic or refused, and one that is read keeps every named limit.

use eranos_base::{Entropy, SeededEntropy, encoding::Canonical};
use eranos_nn::{
    LayerKind, ModelError, ModelSpec,
    model::{ACTIVATIONS_MAX, BUILTIN_NAMES, DOMAIN, LAYERS_MAX, PARAMETERS_MAX, RANK_MAX},
};
use serde_json::{Value, json};

#[test]
fn random_canonical_definitions_are_refused_or_keep_the_limits() {
    let (mut n_read, mut n_beyond) = (0, 0);
    for seed in 0..CASES {
        let mut dice = Dice(SeededEntropy::new(seed));
        match check(&dice.canonical(), seed) {
            Ok(_) => n_read += 1,
            Err(ModelError::Limit { .. }) => n_beyond += 1,
            Err(_) => {}
        }
    }
    // Both must be reached often, or the test says little.
    assert!(n_read > CASES / 50 && n_beyond > CASES / 50, "{n_read} read, {n_beyond} beyond a limit");
}

#[test]
fn random_keras_definitions_are_refused_or_keep_the_limits() {
    let (mut n_read, mut n_beyond) = (0, 0);
    for seed in 0..CASES / 10 {
        let mut dice = Dice(SeededEntropy::new(seed));
        match ModelSpec::from_keras_json(&dice.keras().to_string()) {
            Ok(spec) => {
                check_limits(&spec, seed);
                n_read += 1;
            }
            Err(ModelError::Limit { .. }) => n_beyond += 1,
            Err(_) => {}
        }
    }
    assert!(n_read > CASES / 500 && n_beyond > CASES / 500, "{n_read} read, {n_beyond} beyond a limit");
}

#[test]
fn damaged_definitions_are_refused_or_are_another_model() {
    let honest = BUILTIN_NAMES.iter().map(|name| ModelSpec::builtin(name).expect("built in").to_canonical());
    for (seed, mut bytes) in (0..CASES).zip(honest.collect::<Vec<_>>().into_iter().cycle()) {
        let mut dice = Dice(SeededEntropy::new(seed));
        for _ in 0..=dice.below(3) {
            let at = dice.below(bytes.len().max(1) as u64) as usize;
            match dice.below(4) {
                0 => bytes.truncate(at),
                1 => bytes.insert(at, dice.below(256) as u8),
                // The length of a field, or a number of things.
                2 => bytes.splice(at..(at + 4).min(bytes.len()), dice.size().to_le_bytes()).for_each(drop),
                _ => bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte = dice.below(256) as u8),
            }
        }
        let _ = check(&bytes, seed);
    }
}

/// Reads canonical bytes: what is accepted is written back to the same bytes, and is within every limit.
fn check(bytes: &[u8], seed: u64) -> Result<ModelSpec, ModelError> {
    let spec = ModelSpec::from_canonical(bytes)?;
    assert_eq!(spec.to_canonical(), bytes, "seed {seed}");
    check_limits(&spec, seed);
    Ok(spec)
}

/// Counts anew, in numbers that cannot overflow, what the model says it takes.
fn check_limits(spec: &ModelSpec, seed: u64) {
    let product = |shape: &[usize]| shape.iter().map(|n| *n as u128).product::<u128>();
    let (layers, shapes) = (spec.layers(), spec.shapes());
    assert!((2..=LAYERS_MAX).contains(&layers.len()) && layers.len() == shapes.len(), "seed {seed}");
    assert!(shapes.iter().all(|shape| (1..=RANK_MAX).contains(&shape.len()) && !shape.contains(&0)), "seed {seed}");
    let n_activations: u128 = shapes.iter().map(|shape| product(shape)).sum();
    assert!(n_activations <= ACTIVATIONS_MAX as u128, "seed {seed}: {n_activations}");
    let n_parameters: u128 = layers
        .iter()
        .map(|layer| {
            let input = layer.inputs.first().map_or(&[][..], |input| &shapes[*input as usize]);
            let n_inputs = input.last().map_or(0, |n| *n as u128);
            let (weights, n_outputs, use_bias) = match layer.kind {
                LayerKind::Conv2D { filters, kernel_size: [height, width], use_bias, .. } => {
                    (u128::from(height) * u128::from(width) * n_inputs, filters, use_bias)
                }
                LayerKind::Dense { units, use_bias, .. } => (n_inputs, units, use_bias),
                LayerKind::Lstm { units, use_bias, .. } => {
                    return (n_inputs + u128::from(units) + u128::from(use_bias)) * 4 * u128::from(units);
                }
                LayerKind::Embedding { input_dim, output_dim, .. } => (u128::from(input_dim), output_dim, false),
                _ => return 0,
            };
            (weights + u128::from(use_bias)) * u128::from(n_outputs)
        })
        .sum();
    assert!(n_parameters <= PARAMETERS_MAX as u128, "seed {seed}: {n_parameters}");
    assert_eq!(spec.n_parameters() as u128, n_parameters, "seed {seed}");
}

struct Dice(SeededEntropy);

impl Dice {
    /// A number below `n`, nearly uniform.
    fn below(&mut self, n: u64) -> u64 {
        u64::from_le_bytes(self.0.bytes()) % n
    }

    /// A size that a model may have, or one that somebody hopes will overflow.
    fn size(&mut self) -> u32 {
        const HOSTILE: [u32; 8] = [0, 1 << 13, 1 << 16, 1 << 23, (1 << 26) + 1, 1 << 31, u32::MAX - 1, u32::MAX];
        match self.below(8) {
            0 => HOSTILE[self.below(HOSTILE.len() as u64) as usize],
            1 => 1 << self.below(32),
            _ => 1 + self.below(9) as u32,
        }
    }

    fn n_layers(&mut self) -> u64 {
        match self.below(40) {
            0 => LAYERS_MAX as u64 + self.below(2),
            _ => self.below(6),
        }
    }

    /// The bytes of a list of layers that begins like a model and goes on at random.
    fn canonical(&mut self) -> Vec<u8> {
        let n_layers = self.n_layers();
        let mut out = Canonical::new(DOMAIN).text("random").u32(n_layers as u32);
        for i in 0..n_layers {
            let class = if i == 0 { 1 } else { 1 + self.below(11) as u8 };
            // Now and then the name of another layer, or another input than the layer before.
            let name = if self.below(30) == 0 { 0 } else { i };
            out = out.u8(class).text(&format!("layer-{name}"));
            out = match (i, self.below(30)) {
                (0, _) => out.u32(0),
                (_, 0) => out.u32(self.size()),
                _ => out.u32(1).u32(i as u32 - 1),
            };
            let n_sizes = match class {
                1 => {
                    let rank = if self.below(2) == 0 { self.below(6) as u32 } else { 3 };
                    out = out.u32(rank);
                    rank
                }
                2 => 5,
                3 => 4,
                8 => 2,
                5 | 7 | 9 | 10 => 1,
                _ => 0,
            };
            out = (0..n_sizes).fold(out, |out, _| out.u32(self.size()));
            let n_options = [0, 0, 3, 1, 0, 2, 1, 2, 1, 0, 0, 0][usize::from(class)];
            let most = if self.below(20) == 0 { 256 } else { 2 };
            out = (0..n_options).fold(out, |out, _| out.u8(self.below(most) as u8));
        }
        let mut bytes = out.finish();
        if self.below(20) == 0 {
            bytes.truncate(self.below(bytes.len() as u64) as usize);
        }
        bytes
    }

    /// The built-in model as Keras prints it, with a few of its numbers and words replaced, and layers repeated.
    fn keras(&mut self) -> Value {
        let mut model: Value = serde_json::from_str(include_str!("../src/model/cnn.json")).expect("JSON");
        let layers = model.pointer_mut("/config/layers").and_then(Value::as_array_mut).expect("a list");
        for _ in 0..=self.below(3) {
            let at = self.below(layers.len() as u64) as usize;
            match self.below(8) {
                0 => drop(layers.remove(at)),
                1 => {
                    let mut again = layers[at].clone();
                    again["config"]["name"] = json!(format!("again-{}", self.below(1 << 40)));
                    let n_times = if self.below(8) == 0 { LAYERS_MAX } else { 1 };
                    layers.extend(std::iter::repeat_n(again, n_times));
                }
                _ => {
                    let config = layers[at]["config"].as_object_mut().expect("a configuration");
                    let key = self.below(config.len() as u64) as usize;
                    let value = config.values_mut().nth(key).expect("below the number of keys");
                    *value = match &*value {
                        Value::Array(list) => json!(list.iter().map(|_| self.size()).collect::<Vec<_>>()),
                        Value::Number(_) => json!(self.size()),
                        Value::Bool(value) => json!(!value),
                        _ => [json!(null), json!(-1), json!(1.5e300), json!("relu"), json!({"a": []})]
                            [self.below(5) as usize]
                            .clone(),
                    };
                }
            }
            if layers.is_empty() {
                break;
            }
        }
        model
    }
}

/// Definitions of each kind; a few seconds of them.
const CASES: u64 = 30_000;
