//! Models from outside: what is refused, and how it is said.

use eranos_base::SeededEntropy;
use eranos_nn::{
    Activation, LayerKind, LayerSpec, Loss, ModelError, ModelSpec, Network, NnError, Padding, Record, Target,
    model::{ACTIVATIONS_MAX, BUILTIN_NAMES, IDS_MAX, LAYERS_MAX, MULTIPLY_ADDS_MAX, PARAMETERS_MAX},
};
use serde_json::{Value, json};

use crate::{below, cnn};

const KERAS_CNN: &str = include_str!("../../src/model/cnn.json");
const KERAS_LSTM: &str = include_str!("../../src/model/lstm.json");
const KERAS_NLP: &str = include_str!("../../src/model/nlp.json");
const KERAS_RECOMMENDER: &str = include_str!("../../src/model/recommender.json");

fn chain(kinds: Vec<LayerKind>) -> Result<ModelSpec, ModelError> {
    let layer = |(i, kind): (usize, LayerKind)| LayerSpec {
        name: format!("l{i}"),
        inputs: i.checked_sub(1).map(|i| i as u32).into_iter().collect(),
        kind,
    };
    ModelSpec::new("m", kinds.into_iter().enumerate().map(layer).collect())
}

fn dense(units: u32) -> LayerKind {
    LayerKind::Dense { units, activation: Activation::Softmax, use_bias: true }
}

#[test]
fn the_cnn_is_the_mission_s() {
    let network = cnn();
    assert_eq!(network.n_parameters(), 121_930);
    let table: Vec<_> =
        network.parameters().iter().map(|entry| (entry.name.as_str(), entry.shape.as_slice(), entry.offset)).collect();
    let expected: [(&str, &[usize], usize); 8] = [
        ("conv2d/kernel", &[3, 3, 1, 32], 0),
        ("conv2d/bias", &[32], 288),
        ("conv2d_1/kernel", &[3, 3, 32, 64], 320),
        ("conv2d_1/bias", &[64], 18_752),
        ("dense/kernel", &[1600, 64], 18_816),
        ("dense/bias", &[64], 121_216),
        ("dense_1/kernel", &[64, 10], 121_280),
        ("dense_1/bias", &[10], 121_920),
    ];
    assert_eq!(table, expected);
    let parameters = network.initialise(&mut SeededEntropy::new(1));
    for entry in network.parameters() {
        let values = &parameters[entry.offset..entry.offset + entry.len()];
        let is_bias = entry.name.ends_with("/bias");
        assert_eq!(values.iter().all(|&v| v == 0.0), is_bias, "{}", entry.name);
    }
    // Glorot of conv2d_1: fan_in 9 * 32, fan_out 9 * 64.
    let limit = (6.0_f32 / 864.0).sqrt();
    let most = parameters[320..18_752].iter().fold(0.0_f32, |most, v| most.max(v.abs()));
    assert!(most <= limit && most > 0.99 * limit);
}

#[test]
fn the_other_models_are_the_mission_s() {
    for (name, n_parameters, n_layers, record_len, output_shape) in
        [("lstm", 90_506, 5, 784, &[10][..]), ("nlp", 706_178, 5, 64, &[2]), ("recommender", 88_225, 7, 2, &[1, 1])]
    {
        let spec = ModelSpec::builtin(name).expect("built in");
        assert_eq!(
            (spec.n_parameters(), spec.layers().len(), spec.record_len(), spec.output_shape()),
            (n_parameters, n_layers, record_len, output_shape),
            "{name}"
        );
    }
    let lstm = Network::new(ModelSpec::builtin("lstm").expect("built in"), Loss::SparseCategoricalCrossentropy)
        .expect("softmax");
    let parameters = lstm.initialise(&mut SeededEntropy::new(2));
    let entry = |name: &str| {
        let entry = lstm.parameters().iter().find(|entry| entry.name == name).expect(name);
        (&parameters[entry.offset..entry.offset + entry.len()], entry.shape.as_slice())
    };
    let (bias, shape) = entry("lstm_1/lstm_cell/bias");
    assert_eq!(shape, [256]);
    assert!((0..256).all(|i| bias[i] == if (64..128).contains(&i) { 1.0 } else { 0.0 }), "only the forget gate's");
    let (recurrent, shape) = entry("lstm_1/lstm_cell/recurrent_kernel");
    assert_eq!(shape, [64, 256]);
    let dot = |i: usize, j: usize| -> f32 { (0..256).map(|k| recurrent[i * 256 + k] * recurrent[j * 256 + k]).sum() };
    assert!((dot(3, 3) - 1.0).abs() < 1e-5 && dot(3, 4).abs() < 1e-5, "orthogonal");
    let (kernel, _) = entry("lstm/lstm_cell/kernel");
    let most = kernel.iter().fold(0.0_f32, |most, v| most.max(v.abs()));
    let limit = (6.0_f32 / (28.0 + 256.0)).sqrt();
    assert!(most <= limit && most > 0.99 * limit);
    let nlp =
        Network::new(ModelSpec::builtin("nlp").expect("built in"), Loss::CategoricalCrossentropy).expect("softmax");
    let embeddings = &nlp.initialise(&mut SeededEntropy::new(3))[..640_000];
    let most = embeddings.iter().fold(0.0_f32, |most, v| most.max(v.abs()));
    assert!(most <= 0.05 && most > 0.0499);
    let recommender = ModelSpec::builtin("recommender").expect("built in");
    assert!(matches!(
        Network::new(recommender, Loss::SparseCategoricalCrossentropy),
        Err(NnError::Loss { activation: "softmax", .. })
    ));
}

#[test]
fn canonical_bytes_come_back_as_the_same_model_and_keep_their_digest() {
    for (name, digest) in [
        ("cnn", "058d556ec5867b63de663819cad7c450ec80f8473ba64197debe562f1f32d82d"),
        ("lstm", "db7e39f7514a79b8e4bf904d3089745a5eac4fa5f781099bd6de8b4a2bee7dcb"),
        ("nlp", "d1500223b0f132b697f2bef005797742272a35816cd1ed7189caab16d96336fc"),
        ("recommender", "7334248b626376c5cebbfa77dfdd21c088c9a967e445185e2e949e38bfc2ecc1"),
    ] {
        let spec = ModelSpec::builtin(name).expect("built in");
        assert_eq!(ModelSpec::from_canonical(&spec.to_canonical()), Ok(spec.clone()));
        assert_eq!(spec.digest().to_string(), digest, "{name}");
    }
    assert!(BUILTIN_NAMES.len() == 4);
}

#[test]
fn cut_extended_and_flipped_canonical_bytes_never_pass_for_something_else() {
    for name in BUILTIN_NAMES {
        let bytes = ModelSpec::builtin(name).expect("built in").to_canonical();
        for len in 0..bytes.len() {
            assert!(ModelSpec::from_canonical(&bytes[..len]).is_err(), "{name} cut to {len}");
        }
        assert!(ModelSpec::from_canonical(&[&bytes[..], &[0]].concat()).is_err());
        let mut n_accepted = 0;
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut flipped = bytes.clone();
                flipped[at] ^= 1 << bit;
                if let Ok(spec) = ModelSpec::from_canonical(&flipped) {
                    assert_eq!(spec.to_canonical(), flipped, "{name}: bit {bit} of byte {at}");
                    n_accepted += 1;
                }
            }
        }
        assert!(n_accepted > 0, "some flips are other models: names, units, filters");
        let mut entropy = SeededEntropy::new(21);
        for _ in 0..10_000 {
            let mut mangled = bytes.clone();
            for _ in 0..=below(8, &mut entropy) {
                let at = below(mangled.len(), &mut entropy);
                mangled[at] = below(256, &mut entropy) as u8;
            }
            if let Ok(spec) = ModelSpec::from_canonical(&mangled) {
                assert_eq!(spec.to_canonical(), mangled);
            }
        }
    }
}

#[test]
fn limits_hold_before_anything_is_allocated() {
    let input = |shape: &[u32]| LayerKind::InputLayer { shape: shape.to_vec() };
    let limit = |kinds: Vec<LayerKind>| match chain(kinds) {
        Err(ModelError::Limit { what, max, .. }) => (what, max),
        other => panic!("{other:?}"),
    };
    let huge = u32::MAX;
    let activations = ("values that all layers hold for a record", ACTIVATIONS_MAX as u64);
    assert_eq!(limit(vec![input(&[huge, huge, huge, huge]), LayerKind::Flatten]), activations);
    assert_eq!(limit(vec![input(&[4]), dense(huge)]), activations);
    let conv = |filters, kernel_size, padding| LayerKind::Conv2D {
        filters,
        kernel_size,
        strides: [1, 1],
        padding,
        activation: Activation::Relu,
        use_bias: true,
    };
    assert_eq!(limit(vec![input(&[1024, 1024, 1]), conv(huge, [1, 1], Padding::Valid)]), activations);
    assert_eq!(limit(vec![input(&[1 << 15]), dense(1 << 12)]), ("number of parameters", PARAMETERS_MAX as u64));
    assert_eq!(
        limit(vec![input(&[2000, 2000, 1]), conv(2, [1000, 1000], Padding::Valid)]),
        ("multiply-adds of one record", MULTIPLY_ADDS_MAX)
    );
    // One window over an input that is padded to four times its size.
    let padded = LayerKind::Conv2D {
        filters: 1,
        kernel_size: [4096, 4096],
        strides: [2048, 2048],
        padding: Padding::Same,
        activation: Activation::Relu,
        use_bias: true,
    };
    assert_eq!(limit(vec![input(&[2048, 2048, 1]), padded]), activations);
    let deep = std::iter::once(input(&[2])).chain(std::iter::repeat_n(LayerKind::Flatten, LAYERS_MAX));
    assert_eq!(limit(deep.collect()), ("number of layers", LAYERS_MAX as u64));
    let lstm = |units| LayerKind::Lstm { units, return_sequences: false, use_bias: true };
    assert_eq!(limit(vec![input(&[2, 2]), lstm(huge)]), activations);
    assert_eq!(limit(vec![input(&[1 << 22, 1]), lstm(1)]), activations);
    assert_eq!(limit(vec![input(&[1, 1]), lstm(1 << 13)]), ("number of parameters", PARAMETERS_MAX as u64));
    let embedding = |input_dim, output_dim| LayerKind::Embedding { input_dim, output_dim, mask_zero: false };
    assert_eq!(limit(vec![input(&[2]), embedding(IDS_MAX, 5)]), ("number of parameters", PARAMETERS_MAX as u64));
    assert_eq!(limit(vec![input(&[2]), embedding(2, huge)]), activations);
    // Each joins the one before with itself: twice as long every time.
    let mut doubling = vec![LayerSpec { name: "x".to_owned(), inputs: vec![], kind: input(&[1]) }];
    for i in 0..40 {
        let kind = LayerKind::Concatenate { axis: 0 };
        doubling.push(LayerSpec { name: format!("c{i}"), inputs: vec![i, i], kind });
    }
    assert!(matches!(ModelSpec::new("m", doubling), Err(ModelError::Limit { what, .. }) if what == activations.0));
    // A million windows of a million values each are within the limits, and take no memory of their own.
    let pool = LayerKind::MaxPooling2D { pool_size: [1000, 1000], strides: [1, 1], padding: Padding::Valid };
    let spec = chain(vec![input(&[1999, 1999, 1]), pool, LayerKind::Flatten, LayerKind::Activation(Activation::Relu)]);
    Network::new(spec.expect("within the limits"), Loss::MeanSquaredError).expect("any last layer").workspace();
    // A window without end would pad without end.
    assert!(matches!(chain(vec![input(&[4, 4, 1]), conv(1, [huge, 1], Padding::Same)]), Err(ModelError::Layer { .. })));
}

fn embedding(input_dim: u32, output_dim: u32, mask_zero: bool) -> LayerKind {
    LayerKind::Embedding { input_dim, output_dim, mask_zero }
}

#[test]
fn a_graph_that_does_not_hang_together_names_the_layer() {
    let refused = |layers: Vec<LayerSpec>| match ModelSpec::new("m", layers) {
        Err(ModelError::Layer { layer, problem }) => format!("{layer} {problem}"),
        other => panic!("{other:?}"),
    };
    let layer = |name: &str, inputs: &[u32], kind| LayerSpec { name: name.to_owned(), inputs: inputs.to_vec(), kind };
    let input = || layer("x", &[], LayerKind::InputLayer { shape: vec![4] });
    for (layers, expected) in [
        (vec![input()], "no layers after"),
        (vec![input(), layer("x", &[0], dense(2))], "x has the name of an earlier layer"),
        (vec![input(), layer("d", &[], dense(2))], "d reads 0 layers, expected 1"),
        (vec![input(), layer("d", &[1], dense(2))], "d reads a layer that does not come before it"),
        (vec![input(), layer("d", &[0, 0], dense(2))], "d reads 2 layers, expected 1"),
        (vec![input(), layer("d", &[0], LayerKind::InputLayer { shape: vec![4] })], "d is an InputLayer, but reads"),
        (vec![layer("d", &[], dense(2)), input()], "d reads 0 layers, expected 1"),
        (
            vec![layer("y", &[], LayerKind::InputLayer { shape: vec![1] }), input(), layer("d", &[1], dense(2))],
            "y is read by no other layer",
        ),
        (vec![input(), layer("d", &[0], dense(0))], "d has no units"),
        (vec![input(), layer("a/b", &[0], dense(2))], "a/b has '/' in its name"),
        (vec![input(), layer(&"n".repeat(65), &[0], dense(2))], "has a name of 65 bytes"),
        (
            vec![
                input(),
                layer(
                    "p",
                    &[0],
                    LayerKind::MaxPooling2D { pool_size: [2, 2], strides: [2, 2], padding: Padding::Valid },
                ),
            ],
            "p reads 1 axes, expected height, width and channels",
        ),
        (
            vec![input(), layer("l", &[0], LayerKind::Lstm { units: 2, return_sequences: false, use_bias: true })],
            "l reads 1 axes",
        ),
        (vec![input(), layer("e", &[0], embedding(0, 2, false))], "e has 0 rows"),
        (vec![input(), layer("e", &[0], embedding(IDS_MAX + 1, 1, false))], "e has 16777217 rows"),
        (
            vec![input(), layer("d", &[0], dense(2)), layer("e", &[1], embedding(2, 2, false))],
            "e reads computed values as ids",
        ),
        (vec![input(), layer("c", &[0], LayerKind::Concatenate { axis: 0 })], "c reads 1 layers, expected 2 or more"),
        (vec![input(), layer("c", &[0, 0], LayerKind::Concatenate { axis: 1 })], "c joins axis 1 of 1 axes"),
        (
            vec![
                input(),
                layer("e", &[0], embedding(2, 2, false)),
                layer("f", &[0], embedding(2, 3, false)),
                layer("c", &[1, 2], LayerKind::Concatenate { axis: 0 }),
            ],
            "c joins [4, 2] and [4, 3], which differ beside axis 0",
        ),
        (
            vec![
                input(),
                layer("e", &[0], embedding(2, 2, true)),
                layer("f", &[0], embedding(2, 2, false)),
                layer("c", &[2, 1], LayerKind::Concatenate { axis: 0 }),
            ],
            "c joins inputs with a mask",
        ),
        (
            vec![input(), layer("e", &[0], embedding(2, 2, true)), layer("d", &[1], dense(2))],
            "d hands its mask on to the loss",
        ),
        (
            vec![
                layer("x", &[], LayerKind::InputLayer { shape: vec![1, 1, 1, 1] }),
                layer("e", &[0], embedding(2, 2, false)),
            ],
            "e puts out 5 axes",
        ),
    ] {
        let found = refused(layers);
        assert!(found.contains(expected), "{found:?} does not say {expected:?}");
    }
    let ending = |kind| {
        Network::new(
            chain(vec![LayerKind::InputLayer { shape: vec![2, 3] }, kind]).expect("model"),
            Loss::SparseCategoricalCrossentropy,
        )
        .map(drop)
    };
    assert!(matches!(ending(LayerKind::Flatten), Err(NnError::Loss { .. })));
    assert_eq!(ending(dense(2)), Err(NnError::OutputShape { shape: vec![2, 2] }));
}

#[test]
fn whatever_keras_offers_and_this_does_not_honour_is_refused_by_name() {
    let refusals = [
        ("/class_name", json!("Model"), "model of class \"Model\", supported are Sequential and Functional"),
        ("/registered_name", json!("mine>Sequential"), "registered_name"),
        ("/config/trainable", json!(false), "trainable"),
        ("/config/dtype/config/name", json!("mixed_float16"), "dtype"),
        ("/config/layers/0/config/dtype", json!("int32"), "layer \"conv2d\" reads the whole numbers of input_layer"),
        ("/config/layers/0/config/dtype", json!("bfloat16"), "layer \"input_layer\" sets dtype"),
        ("/config/layers/0/config/batch_shape", json!([32, 28, 28, 1]), "batch_shape"),
        ("/config/layers/0/config/batch_shape", json!([null, null, 28, 1]), "batch_shape"),
        ("/config/layers/0/config/batch_shape", json!([null, -1, 28, 1]), "batch_shape"),
        ("/config/layers/0/config/batch_shape", json!([null, 1e300, 28, 1]), "batch_shape"),
        ("/config/layers/0/config/sparse", json!(true), "sparse"),
        (
            "/config/layers/1/class_name",
            json!("Lambda"),
            "layer \"conv2d\" is of class \"Lambda\", supported are InputLayer",
        ),
        ("/config/layers/1/module", json!("builtins"), "layer \"conv2d\" sets module"),
        ("/config/layers/1/registered_name", json!("mine>Conv2D"), "layer \"conv2d\" sets registered_name"),
        ("/config/layers/1/config/activation", json!("gelu"), "layer \"conv2d\" sets activation to \"gelu\""),
        ("/config/layers/1/config/activation", json!({"class_name": "function"}), "sets activation"),
        ("/config/layers/1/config/dilation_rate", json!([2, 2]), "dilation_rate"),
        ("/config/layers/1/config/groups", json!(2), "groups"),
        ("/config/layers/1/config/data_format", json!("channels_first"), "data_format"),
        ("/config/layers/1/config/padding", json!("causal"), "padding"),
        ("/config/layers/1/config/kernel_regularizer", json!({"class_name": "L2"}), "kernel_regularizer"),
        ("/config/layers/1/config/activity_regularizer", json!({"class_name": "L2"}), "activity_regularizer"),
        ("/config/layers/1/config/bias_constraint", json!({"class_name": "NonNeg"}), "bias_constraint"),
        ("/config/layers/1/config/kernel_initializer/class_name", json!("HeNormal"), "kernel_initializer"),
        ("/config/layers/1/config/kernel_initializer/config", json!({"input_axes": 3}), "kernel_initializer"),
        ("/config/layers/1/config/kernel_initializer/registered_name", json!("mine"), "kernel_initializer"),
        ("/config/layers/1/config/trainable", json!(false), "trainable"),
        ("/config/layers/1/config/filters", json!(0), "layer \"conv2d\" has no filters"),
        ("/config/layers/1/config/filters", json!(-3), "filters"),
        ("/config/layers/1/config/filters", json!(1.5), "filters"),
        ("/config/layers/1/config/kernel_size", json!([29, 1]), "window of 29"),
        ("/config/layers/1/config/kernel_size", json!([3, 3, 3]), "kernel_size"),
        ("/config/layers/1/config/use_bias", json!("yes"), "use_bias"),
        ("/config/layers/2/config/strides", json!([0, 2]), "stride of 0"),
        ("/config/layers/6/config/quantization_config", json!({}), "quantization_config"),
        ("/config/layers/6/config/name", json!("con2d/../x"), "in its name"),
        ("/config/layers/6/config/name", json!("conv2d"), "name of an earlier layer"),
        ("/config/layers/0", json!(7), "not an object"),
        ("/config/layers", json!([]), "no layers"),
        ("/config/layers", json!({}), "not a list"),
        ("/config", json!(null), "not an object"),
    ];
    for (pointer, value, expected) in refusals {
        refused(KERAS_CNN, pointer, value, expected);
    }
}

#[test]
fn options_of_lstm_embedding_and_dropout_that_are_not_honoured_are_refused_by_name() {
    let lstm = |key: &str| format!("/config/layers/1/config/{key}");
    for (key, value, expected) in [
        ("activation", json!("relu"), "layer \"lstm\" sets activation"),
        ("recurrent_activation", json!("tanh"), "recurrent_activation"),
        ("unit_forget_bias", json!(false), "unit_forget_bias"),
        ("dropout", json!(0.2), "dropout"),
        ("recurrent_dropout", json!(1e-9), "recurrent_dropout"),
        ("go_backwards", json!(true), "go_backwards"),
        ("stateful", json!(true), "stateful"),
        ("return_state", json!(true), "return_state"),
        ("zero_output_for_mask", json!(true), "zero_output_for_mask"),
        ("recurrent_initializer/class_name", json!("GlorotUniform"), "supported is Orthogonal gain 1"),
        ("recurrent_initializer/config/gain", json!(2.0), "recurrent_initializer"),
        ("recurrent_initializer/config", json!(null), "recurrent_initializer"),
        ("recurrent_regularizer", json!({"class_name": "L2"}), "recurrent_regularizer"),
        ("recurrent_constraint", json!({"class_name": "NonNeg"}), "recurrent_constraint"),
        ("seed", json!(3), "seed"),
        ("units", json!(0), "layer \"lstm\" has no units"),
        ("return_sequences", json!(false), "layer \"lstm_1\" reads 1 axes, expected time steps and inputs"),
    ] {
        refused(KERAS_LSTM, &lstm(key), value, expected);
    }
    let unrolled = changed(KERAS_LSTM, &lstm("unroll"), json!(true));
    assert_eq!(ModelSpec::from_keras_json(&unrolled), ModelSpec::builtin("lstm"));
    for (key, value, expected) in [
        ("input_dim", json!(0), "layer \"embedding\" has 0 rows"),
        ("mask_zero", json!(null), "mask_zero"),
        ("embeddings_initializer/config/minval", json!(-0.1), "supported is RandomUniform minval -0.05 maxval 0.05"),
        ("embeddings_initializer/class_name", json!("Zeros"), "embeddings_initializer"),
        ("embeddings_regularizer", json!({"class_name": "L2"}), "embeddings_regularizer"),
    ] {
        refused(KERAS_NLP, &format!("/config/layers/1/config/{key}"), value, expected);
    }
    let with_dropout = |config: Value| {
        let mut json: Value = serde_json::from_str(KERAS_LSTM).expect("json");
        let dtype = json["config"]["dtype"].clone();
        let mut whole = json!({"name": "drop", "trainable": true, "dtype": dtype, "seed": null, "noise_shape": null});
        for (key, value) in config.as_object().expect("object") {
            whole[key] = value.clone();
        }
        let layer = json!({
            "module": "keras.layers", "class_name": "Dropout", "config": whole, "registered_name": null
        });
        json["config"]["layers"].as_array_mut().expect("list").insert(1, layer);
        ModelSpec::from_keras_json(&json.to_string())
    };
    for (rate, expected) in [(json!(0.25), 1 << 30), (json!(0.5), 1 << 31), (json!(0), 0)] {
        let spec = with_dropout(json!({"rate": rate})).expect("model");
        assert_eq!(spec.layers()[1].kind, LayerKind::Dropout { rate: expected });
        assert_eq!(spec.has_dropout(), expected > 0);
    }
    for (config, expected) in [
        (json!({"rate": 1.0}), "layer \"drop\" sets rate to 1.0, supported is 0 or more, below 1"),
        (json!({"rate": -0.1}), "rate"),
        (json!({"rate": "half"}), "rate"),
        (json!({"rate": 0.5, "seed": 1}), "seed"),
        (json!({"rate": 0.5, "noise_shape": [null, 1]}), "noise_shape"),
    ] {
        let error = with_dropout(config).expect_err(expected).to_string();
        assert!(error.contains(expected), "{error} does not say {expected:?}");
    }
}

#[test]
fn functional_graphs_that_are_not_honoured_are_refused_by_name() {
    let tensor =
        |name: &str, node: u32| json!({"class_name": "__keras_tensor__", "config": {"keras_history": [name, node, 0]}});
    let node = |args: Value, kwargs: Value| json!([{"args": args, "kwargs": kwargs}]);
    let user = || tensor("input_layer_3", 0);
    for (pointer, value, expected) in [
        ("/registered_name", json!("mine>Functional"), "registered_name"),
        ("/module", json!("mine"), "module"),
        ("/config/output_layers", json!([["dense_4", 0, 0], ["dense_5", 0, 0]]), "output_layers"),
        ("/config/output_layers", json!(["dense_5", 0, 0]), "output_layers"),
        ("/config/output_layers", json!(["dense_4", 1, 0]), "output_layers"),
        ("/config/output_layers", json!({"y": ["dense_4", 0, 0]}), "output_layers"),
        ("/config/input_layers", json!([["input_layer_3", 0, 0]]), "input_layers does not name every InputLayer once"),
        ("/config/input_layers", json!([["input_layer_3", 0, 0], ["input_layer_3", 0, 0]]), "every InputLayer once"),
        ("/config/input_layers", json!([["input_layer_3", 0, 0], ["nobody", 0, 0]]), "input_layers"),
        ("/config/layers/2/name", json!("other"), "sets name to \"other\""),
        ("/config/layers/2/class_name", json!("NotEqual"), "layer \"embedding_1\" is of class \"NotEqual\""),
        ("/config/layers/2/class_name", json!("Functional"), "is of class \"Functional\""),
        ("/config/layers/2/inbound_nodes", json!([]), "layer \"embedding_1\" reads 0 layers, expected 1"),
        ("/config/layers/2/inbound_nodes", json!(null), "inbound_nodes"),
        ("/config/layers/2/inbound_nodes", json!([1, 2]), "layer \"embedding_1\" is used 2 times, supported is once"),
        ("/config/layers/2/inbound_nodes", node(json!([user()]), json!({"training": true})), "sets training to true"),
        ("/config/layers/2/inbound_nodes", node(json!([user()]), json!({"mask": user()})), "sets mask"),
        ("/config/layers/2/inbound_nodes", node(json!([user()]), json!({"scale": 2})), "sets scale"),
        ("/config/layers/2/inbound_nodes", node(json!([user(), 7]), json!({})), "sets args"),
        ("/config/layers/2/inbound_nodes", node(json!([[user(), 7]]), json!({})), "the output of an earlier layer"),
        ("/config/layers/2/inbound_nodes", node(json!([tensor("dense_5", 0)]), json!({})), "of an earlier layer"),
        ("/config/layers/2/inbound_nodes", node(json!([tensor("input_layer_3", 1)]), json!({})), "of an earlier layer"),
        (
            "/config/layers/3/inbound_nodes",
            node(json!([user()]), json!({})),
            "layer \"input_layer_4\" is read by no other",
        ),
        ("/config/layers/2/config/mask_zero", json!(true), "layer \"concatenate\" joins inputs with a mask"),
        ("/config/layers/4/config/axis", json!(0), "layer \"concatenate\" sets axis to 0"),
        ("/config/layers/4/config/axis", json!(3), "axis"),
        ("/config/layers/4/config/axis", json!(-3), "axis"),
        ("/config/layers/4/config/axis", json!(i64::MIN), "axis"),
        ("/config/layers/4/config/axis", json!("last"), "axis"),
        (
            "/config/layers/5/inbound_nodes",
            node(json!([user()]), json!({})),
            "layer \"concatenate\" is read by no other",
        ),
    ] {
        refused(KERAS_RECOMMENDER, pointer, value, expected);
    }
    let masked = changed(KERAS_RECOMMENDER, "/config/layers/2/class_name", json!("NotEqual"));
    let error = ModelSpec::from_keras_json(&masked).expect_err("a mask as a layer").user_error("model.json");
    assert!(error.to_string().contains("write a model with mask_zero as keras.Sequential"), "{error}");
    // Whole numbers are for embeddings; which type they have does not matter then.
    let mut ids = KERAS_RECOMMENDER.to_owned();
    for input in [0, 1] {
        ids = changed(&ids, &format!("/config/layers/{input}/config/dtype"), json!("int32"));
    }
    assert_eq!(ModelSpec::from_keras_json(&ids), ModelSpec::builtin("recommender"));
    // Keras counts the batch: along 2, the last, it is the same model; along 1 another.
    let axis = |axis: i64| {
        ModelSpec::from_keras_json(&changed(KERAS_RECOMMENDER, "/config/layers/4/config/axis", json!(axis)))
    };
    assert_eq!(axis(2), ModelSpec::builtin("recommender"));
    assert_eq!(axis(1).expect("model").shapes()[4], [2, 32]);
    assert_eq!(axis(-2), axis(1));
}

#[test]
fn a_chain_is_the_same_model_as_sequential_or_functional() {
    for (name, sequential) in [("cnn", KERAS_CNN), ("lstm", KERAS_LSTM), ("nlp", KERAS_NLP)] {
        let mut json: Value = serde_json::from_str(sequential).expect("json");
        json["class_name"] = json!("Functional");
        json["module"] = json!("keras.src.models.functional");
        json["registered_name"] = json!("Functional");
        let config = json["config"].as_object_mut().expect("object");
        config.remove("build_input_shape");
        let layers = config["layers"].as_array_mut().expect("list");
        let names: Vec<Value> = layers.iter().map(|layer| layer["config"]["name"].clone()).collect();
        for (i, layer) in layers.iter_mut().enumerate() {
            layer["name"] = names[i].clone();
            layer["inbound_nodes"] = match i.checked_sub(1) {
                None => json!([]),
                Some(previous) => {
                    let tensor = json!({
                        "class_name": "__keras_tensor__",
                        "config": {"shape": [null, 1], "dtype": "float32", "keras_history": [names[previous], 0, 0]}
                    });
                    json!([{"args": [tensor], "kwargs": {"training": false, "mask": null}}])
                }
            };
        }
        config.insert("input_layers".to_owned(), json!([names[0], 0, 0]));
        config.insert("output_layers".to_owned(), json!([[names[names.len() - 1], 0, 0]]));
        assert_eq!(ModelSpec::from_keras_json(&json.to_string()), ModelSpec::builtin(name), "{name}");
    }
}

/// Keras may take inputs in another order than it lists its layers; a record has the order in which they are taken.
#[test]
fn inputs_come_in_the_order_in_which_they_are_taken() {
    let swapped = json!([["input_layer_4", 0, 0], ["input_layer_3", 0, 0]]);
    let spec = ModelSpec::from_keras_json(&changed(KERAS_RECOMMENDER, "/config/input_layers", swapped)).expect("model");
    let names: Vec<&str> = spec.inputs().map(|input| spec.layers()[input].name.as_str()).collect();
    assert_eq!(names, ["input_layer_4", "input_layer_3"]);
    let reads = |name: &str| {
        let layer = spec.layers().iter().find(|layer| layer.name == name).expect(name);
        spec.layers()[layer.inputs[0] as usize].name.clone()
    };
    assert_eq!((reads("embedding_1"), reads("embedding_2")), ("input_layer_3".into(), "input_layer_4".into()));
    assert_eq!((spec.record_range(0), spec.record_range(1), spec.record_range(2)), (Some(0..1), Some(1..2), None));
}

/// Definitions of random numbers, most of them out of all bounds: refused, or a model that runs.
#[test]
fn hostile_definitions_are_refused_or_run() {
    const NUMBERS: [u32; 12] = [0, 1, 1, 2, 2, 3, 5, 17, 1 << 10, 1 << 16, 1 << 24, u32::MAX];
    let mut entropy = SeededEntropy::new(23);
    let (mut n_refused, mut n_run) = (0, 0);
    for round in 0..30_000 {
        let mut number = |small: bool| NUMBERS[below(if small { 7 } else { NUMBERS.len() }, &mut entropy)];
        let is_small = round % 4 > 0;
        let mut layers: Vec<LayerSpec> = Vec::new();
        for i in 0..2 + number(true) {
            let mut n = || number(is_small);
            let flag = n() % 2 == 0;
            let padding = if flag { Padding::Same } else { Padding::Valid };
            let activation =
                [Activation::Linear, Activation::Relu, Activation::Softmax, Activation::Sigmoid, Activation::Tanh]
                    [n() as usize % 5];
            let kind = match if i == 0 { 0 } else { 1 + (n().wrapping_mul(7) ^ n() ^ n() << 2) % 10 } {
                0 => LayerKind::InputLayer { shape: (0..n() % 6).map(|_| n()).collect() },
                1 => LayerKind::Conv2D {
                    filters: n(),
                    kernel_size: [n(), n()],
                    strides: [n(), n()],
                    padding,
                    activation,
                    use_bias: flag,
                },
                2 => LayerKind::MaxPooling2D { pool_size: [n(), n()], strides: [n(), n()], padding },
                3 => LayerKind::Flatten,
                4 => LayerKind::Dense { units: n(), activation, use_bias: flag },
                5 => LayerKind::Activation(activation),
                6 => LayerKind::Lstm { units: n(), return_sequences: flag, use_bias: n() % 2 == 0 },
                7 => LayerKind::Embedding { input_dim: n(), output_dim: n(), mask_zero: flag },
                8 => LayerKind::Concatenate { axis: n() },
                9 => LayerKind::Dropout { rate: n() },
                _ => LayerKind::InputLayer { shape: (0..n() % 6).map(|_| n()).collect() },
            };
            let n_inputs = match kind {
                LayerKind::InputLayer { .. } => 0,
                LayerKind::Concatenate { .. } => 2,
                _ => 1,
            };
            let inputs = (0..n_inputs).map(|k| if k == 0 { i.saturating_sub(1) } else { n() % i.max(1) }).collect();
            layers.push(LayerSpec { name: format!("l{i}"), inputs, kind });
        }
        let Ok(spec) = ModelSpec::new("m", layers) else {
            n_refused += 1;
            continue;
        };
        assert_eq!(ModelSpec::from_canonical(&spec.to_canonical()), Ok(spec.clone()));
        assert!(spec.summary().lines().count() > 5);
        let n_values: usize = spec.shapes().iter().map(|shape| shape.iter().product::<usize>()).sum();
        if n_values > 2000 || spec.n_parameters() > 100_000 {
            continue;
        }
        let network = Network::new(spec, Loss::MeanSquaredError).expect("any last layer");
        let prepared = network.prepare(&network.initialise(&mut entropy)).expect("parameters");
        let values = crate::reference::record(network.spec(), &mut entropy);
        let wanted = vec![0.5; network.n_outputs()];
        let mut out = network.gradient();
        let record = Record { values: &values, dropout_key: Some(round) };
        let found =
            network.check_record(&prepared, record, Target::Values(&wanted), &mut network.workspace(), &mut out);
        assert!(found.is_ok(), "round {round}: {found:?} of {:?}", network.spec());
        n_run += 1;
    }
    assert!(n_refused > 1000 && n_run > 1000, "{n_refused} refused, {n_run} run");
}

/// The JSON with one value replaced.
fn changed(json: &str, pointer: &str, value: Value) -> String {
    let mut json: Value = serde_json::from_str(json).expect("json");
    *json.pointer_mut(pointer).unwrap_or_else(|| panic!("{pointer}")) = value;
    json.to_string()
}

fn refused(json: &str, pointer: &str, value: Value, expected: &str) {
    let error = ModelSpec::from_keras_json(&changed(json, pointer, value)).expect_err(pointer);
    assert!(error.to_string().contains(expected), "{pointer}: {error} does not say {expected:?}");
    assert_eq!(error.user_error("model.json").to_string().lines().count(), 2);
}

#[test]
fn an_unknown_key_is_refused_and_a_missing_one_too() {
    let json: Value = serde_json::from_str(KERAS_CNN).expect("json");
    for pointer in ["", "/config", "/config/layers/0", "/config/layers/1/config", "/config/layers/5/config"] {
        let mut more = json.clone();
        more.pointer_mut(pointer)
            .and_then(Value::as_object_mut)
            .expect("object")
            .insert("spectral_norm".into(), json!(1));
        let error = ModelSpec::from_keras_json(&more.to_string()).expect_err(pointer);
        assert!(error.to_string().contains("spectral_norm"), "{error}");
    }
    for (layer, key) in [(1, "filters"), (1, "activation"), (2, "pool_size"), (6, "units"), (0, "batch_shape")] {
        let mut less = json.clone();
        let pointer = format!("/config/layers/{layer}/config");
        less.pointer_mut(&pointer).and_then(Value::as_object_mut).expect("object").remove(key);
        let error = ModelSpec::from_keras_json(&less.to_string()).expect_err(key);
        assert!(error.to_string().contains(key), "{error}");
    }
}

#[test]
fn text_that_is_no_model_is_refused() {
    for text in ["", "{", "[]", "null", "{}", "\u{0}", &"[".repeat(100_000), &"x".repeat(2 << 20)] {
        assert!(ModelSpec::from_keras_json(text).is_err());
    }
    let mut entropy = SeededEntropy::new(22);
    for round in 0..4000 {
        let mut bytes = [KERAS_CNN, KERAS_RECOMMENDER][round % 2].as_bytes().to_vec();
        for _ in 0..=below(3, &mut entropy) {
            let at = below(bytes.len(), &mut entropy);
            bytes[at] = b"{}[]\",:0198antf"[below(15, &mut entropy)];
        }
        // Whatever it says, it does not panic, and what it accepts is a model.
        if let Ok(spec) = ModelSpec::from_keras_json(&String::from_utf8_lossy(&bytes)) {
            assert_eq!(ModelSpec::from_canonical(&spec.to_canonical()), Ok(spec));
        }
    }
    assert!(matches!(ModelSpec::builtin("resnet"), Err(ModelError::UnknownBuiltin { .. })));
}
