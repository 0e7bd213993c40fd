//! Models from outside: what is refused, and how it is said.

use eranos_base::SeededEntropy;
use eranos_nn::{
    Activation, LayerKind, LayerSpec, Loss, ModelError, ModelSpec, Network, NnError, Padding,
    model::{ACTIVATIONS_MAX, LAYERS_MAX, MULTIPLY_ADDS_MAX, PARAMETERS_MAX},
};
use serde_json::{Value, json};

use crate::{below, cnn};

const KERAS_CNN: &str = include_str!("../../src/model/cnn.json");

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
fn canonical_bytes_come_back_as_the_same_model_and_keep_their_digest() {
    let spec = ModelSpec::builtin("cnn").expect("built in");
    let bytes = spec.to_canonical();
    assert_eq!(ModelSpec::from_canonical(&bytes), Ok(spec.clone()));
    assert_eq!(spec.digest().to_string(), "058d556ec5867b63de663819cad7c450ec80f8473ba64197debe562f1f32d82d");
}

#[test]
fn cut_extended_and_flipped_canonical_bytes_never_pass_for_something_else() {
    let bytes = ModelSpec::builtin("cnn").expect("built in").to_canonical();
    for len in 0..bytes.len() {
        assert!(ModelSpec::from_canonical(&bytes[..len]).is_err(), "cut to {len}");
    }
    assert!(ModelSpec::from_canonical(&[&bytes[..], &[0]].concat()).is_err());
    let mut n_accepted = 0;
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << bit;
            if let Ok(spec) = ModelSpec::from_canonical(&flipped) {
                assert_eq!(spec.to_canonical(), flipped, "bit {bit} of byte {at}");
                n_accepted += 1;
            }
        }
    }
    assert!(n_accepted > 0, "some flips are other models: names, units, filters");
    let mut entropy = SeededEntropy::new(21);
    for _ in 0..20_000 {
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

#[test]
fn limits_hold_before_anything_is_allocated() {
    let input = |shape: &[u32]| LayerKind::InputLayer { shape: shape.to_vec() };
    let limit = |kinds: Vec<LayerKind>| match chain(kinds) {
        Err(ModelError::Limit { what, max, .. }) => (what, max),
        other => panic!("{other:?}"),
    };
    let huge = u32::MAX;
    let activations = ("values put out by all layers", ACTIVATIONS_MAX as u64);
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
        limit(vec![input(&[1000, 1000, 1]), conv(7, [1200, 1200], Padding::Same)]),
        ("multiply-adds of one record", MULTIPLY_ADDS_MAX)
    );
    let deep = std::iter::once(input(&[2])).chain(std::iter::repeat_n(LayerKind::Flatten, LAYERS_MAX));
    assert_eq!(limit(deep.collect()), ("number of layers", LAYERS_MAX as u64));
    // A window without end would pad without end.
    assert!(matches!(chain(vec![input(&[4, 4, 1]), conv(1, [huge, 1], Padding::Same)]), Err(ModelError::Layer { .. })));
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
        let mut json: Value = serde_json::from_str(KERAS_CNN).expect("json");
        *json.pointer_mut(pointer).unwrap_or_else(|| panic!("{pointer}")) = value;
        let error = ModelSpec::from_keras_json(&json.to_string()).expect_err(pointer);
        assert!(error.to_string().contains(expected), "{pointer}: {error} does not say {expected:?}");
        assert_eq!(error.user_error("model.json").to_string().lines().count(), 2);
    }
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
    for _ in 0..2000 {
        let mut bytes = KERAS_CNN.as_bytes().to_vec();
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
