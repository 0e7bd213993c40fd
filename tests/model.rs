//! `eranos model` through the real binary: predictions held to what Keras put out, and the two lines of every error.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// A safetensors file, written and read without the library that the program uses: the header's length as eight bytes,
/// the header, the values.
#[derive(Clone, Default)]
pub(crate) struct Tensors(pub(crate) BTreeMap<String, Tensor>);

#[derive(Clone)]
pub(crate) struct Tensor {
    pub(crate) dtype: &'static str,
    pub(crate) shape: Vec<usize>,
    pub(crate) bytes: Vec<u8>,
}

impl Tensors {
    pub(crate) fn read(path: &Path) -> Self {
        let file = fs::read(path).unwrap();
        let (len, rest) = file.split_at(8);
        let len = u64::from_le_bytes(len.try_into().unwrap()) as usize;
        let header: BTreeMap<String, serde_json::Value> = serde_json::from_slice(&rest[..len]).unwrap();
        let tensor = |entry: &serde_json::Value| {
            let number = |value: &serde_json::Value| value.as_u64().unwrap() as usize;
            let numbers = |key: &str| entry[key].as_array().unwrap().iter().map(number).collect::<Vec<_>>();
            let dtype = ["F32", "I32", "I64"].into_iter().find(|dtype| entry["dtype"] == *dtype).unwrap();
            let offsets = numbers("data_offsets");
            Tensor { dtype, shape: numbers("shape"), bytes: rest[len..][offsets[0]..offsets[1]].to_vec() }
        };
        let tensors = header.iter().filter(|(name, _)| *name != "__metadata__");
        Self(tensors.map(|(name, entry)| (name.clone(), tensor(entry))).collect())
    }

    pub(crate) fn write(&self, path: &Path) {
        let (mut header, mut values) = (serde_json::Map::new(), Vec::new());
        for (name, tensor) in &self.0 {
            let offsets = [values.len(), values.len() + tensor.bytes.len()];
            let entry = serde_json::json!({ "dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": offsets });
            header.insert(name.clone(), entry);
            values.extend_from_slice(&tensor.bytes);
        }
        let mut header = serde_json::to_vec(&header).unwrap();
        header.resize(header.len().next_multiple_of(8), b' ');
        fs::write(path, [&(header.len() as u64).to_le_bytes()[..], &header, &values].concat()).unwrap();
    }

    /// The tensors whose names begin with `prefix`, without it.
    fn part(&self, prefix: &str) -> Self {
        let part = |(name, tensor): (&String, &Tensor)| Some((name.strip_prefix(prefix)?.to_owned(), tensor.clone()));
        Self(self.0.iter().filter_map(part).collect())
    }

    fn with(mut self, name: &str, tensor: Tensor) -> Self {
        self.0.insert(name.to_owned(), tensor);
        self
    }
}

impl Tensor {
    pub(crate) fn f32(shape: &[usize], values: &[f32]) -> Self {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        Self { dtype: "F32", shape: shape.to_vec(), bytes }
    }

    fn i64(shape: &[usize], values: &[i64]) -> Self {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        Self { dtype: "I64", shape: shape.to_vec(), bytes }
    }

    pub(crate) fn floats(&self) -> Vec<f32> {
        self.bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
    }
}

/// Runs `eranos model` in `folder`; gives its status and what it printed.
fn model(folder: &Path, arguments: &[&str]) -> (bool, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_eranos"));
    let output = command.arg("model").args(arguments).current_dir(folder).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.success(), text(output.stdout), text(output.stderr))
}

const PREDICT: [&str; 7] =
    ["predict", "--weights", "weights.safetensors", "--input", "input.safetensors", "--output", "output.safetensors"];

/// What Keras wrote of a model: its definition, and its tensors.
fn vectors(name: &str) -> (PathBuf, Tensors) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("common/nn/tests/vectors");
    (folder.join(format!("{name}.keras.json")), Tensors::read(&folder.join(format!("{name}.safetensors"))))
}

/// A folder with the weights and the input of a model of Keras.
fn world(name: &str) -> (tempfile::TempDir, String, Tensors) {
    let (definition, tensors) = vectors(name);
    let dir = tempfile::tempdir().unwrap();
    fs::copy(definition, dir.path().join("model.json")).unwrap();
    tensors.part("weight.").write(&dir.path().join("weights.safetensors"));
    tensors.part("input.").write(&dir.path().join("input.safetensors"));
    (dir, "model.json".to_owned(), tensors)
}

#[test]
fn predictions_are_those_of_keras() {
    for name in ["cnn", "lstm", "nlp", "recommender", "masked", "graph", "image"] {
        let (dir, definition, tensors) = world(name);
        let (ok, shown, error) = model(dir.path(), &[&PREDICT[..], &["--definition", &definition]].concat());
        assert!(ok, "{name}: {error}");
        let (expected, found) = (&tensors.0["output"], Tensors::read(&dir.path().join("output.safetensors")));
        let n_records = expected.shape[0];
        assert_eq!(shown, format!("wrote the outputs for {n_records} records to output.safetensors\n"));
        assert_eq!(found.0.keys().collect::<Vec<_>>(), ["output"], "{name}");
        assert_eq!((found.0["output"].dtype, &found.0["output"].shape), ("F32", &expected.shape), "{name}");
        // The tolerance that the vectors' README gives.
        for (found, expected) in found.0["output"].floats().iter().zip(expected.floats()) {
            assert!((found - expected).abs() <= 1e-5 + 1e-4 * expected.abs(), "{name}: {found}, expected {expected}");
        }
    }
}

#[test]
fn one_input_may_have_any_name_and_ids_any_of_three_types() {
    let (dir, definition, tensors) = world("nlp");
    let arguments = [&PREDICT[..], &["--definition", &definition]].concat();
    let ids = &tensors.0["input.x"];
    let values: Vec<i64> = ids.bytes.as_chunks().0.iter().map(|bytes| i32::from_le_bytes(*bytes).into()).collect();
    let floats: Vec<f32> = values.iter().map(|&id| id as f32).collect();
    let mut outputs = Vec::new();
    for tensor in [ids.clone(), Tensor::i64(&ids.shape, &values), Tensor::f32(&ids.shape, &floats)] {
        Tensors::default().with("words", tensor).write(&dir.path().join("input.safetensors"));
        let (ok, _, error) = model(dir.path(), &arguments);
        assert!(ok, "{error}");
        outputs.push(fs::read(dir.path().join("output.safetensors")).unwrap());
    }
    assert!(outputs[0] == outputs[1] && outputs[0] == outputs[2]);
}

#[test]
fn what_cannot_be_predicted_is_said_in_two_lines() {
    let (dir, definition, tensors) = world("recommender");
    let write = |name: &str, bytes: &[u8]| fs::write(dir.path().join(name), bytes).unwrap();
    let (weights, input) = (tensors.part("weight."), tensors.part("input."));
    let check = |definition: &str, what: &str, next: &str| {
        let (ok, _, error) = model(dir.path(), &[&PREDICT[..], &["--definition", definition]].concat());
        let (first, second) = error.trim_end().split_once('\n').unwrap();
        assert!(!ok && first.starts_with(&format!("error: {what}")), "{error}");
        assert!(second.starts_with(" help: ") && second.contains(next) && !second.contains('\n'), "{error}");
    };
    // The definition.
    check("none.json", "cannot read the model none.json: ", "model.to_json()");
    write("text.json", b"Model: sequential");
    check("text.json", "text.json: not a model as Keras prints it: ", "model.to_json()");
    let keras = fs::read_to_string(dir.path().join(&definition)).unwrap();
    write("gru.json", keras.replace("\"Concatenate\"", "\"GRU\"").as_bytes());
    check(
        "gru.json",
        "gru.json: layer \"concat\" is of class \"GRU\", supported are InputLayer, ",
        "build the model from",
    );
    write("long.json", &vec![b' '; (1 << 20) + 1]);
    check("long.json", "long.json: length of the JSON in bytes of 1048577, limit 1048576", "smaller");
    // The weights.
    let file = dir.path().join("weights.safetensors");
    let kernel = &weights.0["dense1/kernel"];
    let mut turned = kernel.clone();
    turned.shape.reverse();
    let mut infinite = kernel.clone();
    infinite.bytes[..4].copy_from_slice(&f32::INFINITY.to_le_bytes());
    let without = |tensors: &Tensors, name: &str| {
        let mut tensors = tensors.clone();
        tensors.0.remove(name);
        tensors
    };
    let integers = Tensor { dtype: "I32", ..kernel.clone() };
    for (tensors, what, next) in [
        (without(&weights, "dense1/kernel"), "tensor \"dense1/kernel\" is missing", "this very model"),
        (
            weights.clone().with("dense3/kernel", kernel.clone()),
            "tensor \"dense3/kernel\" does not belong to the model",
            "this very model",
        ),
        (
            weights.clone().with("dense1/kernel", turned),
            "tensor \"dense1/kernel\" has shape [16, 12], expected [12, 16]",
            "this very model",
        ),
        (
            weights.clone().with("dense1/kernel", integers),
            "tensor \"dense1/kernel\" has type I32, expected F32",
            "convert",
        ),
        (
            weights.clone().with("dense1/kernel", infinite),
            "tensor \"dense1/kernel\" holds a value that is not finite",
            "stayed finite",
        ),
    ] {
        tensors.write(&file);
        check(&definition, &format!("weights.safetensors: {what}"), next);
    }
    write("weights.safetensors", b"PK\x03\x04");
    check(&definition, "weights.safetensors: not a safetensors file: ", "safetensors");
    fs::remove_file(&file).unwrap();
    check(&definition, "cannot read weights.safetensors: ", "check the path");
    weights.write(&file);
    // The records.
    let file = dir.path().join("input.safetensors");
    let user = |tensor: Tensor| input.clone().with("user", tensor);
    for (tensors, what, next) in [
        (without(&input, "user"), "tensor \"user\" is missing", "this very model"),
        (input.clone().with("age", Tensor::f32(&[5], &[0.0; 5])), "tensor \"age\" does not belong", "this very model"),
        (
            user(Tensor::i64(&[5], &[0; 5])),
            "tensor \"user\" has shape [5], expected records of [1] along a first axis",
            "[records, ..]",
        ),
        (
            input.clone().with("item", Tensor::i64(&[4, 1], &[0; 4])),
            "tensor \"item\" has 4 records, an earlier input has 5",
            "[records, ..]",
        ),
        (
            user(Tensor::i64(&[5, 1], &[0, 1, 2, 20, 4])),
            "tensor \"user\" holds 20 in record 3, expected whole numbers from 0 to below 20",
            "correct the record",
        ),
        (user(Tensor::i64(&[5, 1], &[-1, 1, 2, 3, 4])), "tensor \"user\" holds -1 in record 0, ", "correct the record"),
        (
            user(Tensor::f32(&[5, 1], &[0.0, 1.5, 2.0, 3.0, 4.0])),
            "tensor \"user\" holds 1.5 in record 1, ",
            "correct the record",
        ),
        (
            user(Tensor::f32(&[5, 1], &[0.0, 1.0, f32::NAN, 3.0, 4.0])),
            "tensor \"user\" holds NaN in record 2, expected finite values",
            "correct the record",
        ),
    ] {
        tensors.write(&file);
        check(&definition, &format!("input.safetensors: {what}"), next);
    }
    let entry = "{\"user\":{\"dtype\":\"F64\",\"shape\":[1,1],\"data_offsets\":[0,8]},\
                 \"item\":{\"dtype\":\"F64\",\"shape\":[1,1],\"data_offsets\":[8,16]}}";
    write("input.safetensors", &[&(entry.len() as u64).to_le_bytes()[..], entry.as_bytes(), &[0; 16]].concat());
    check(&definition, "input.safetensors: tensor \"user\" has type F64, expected F32, I32 or I64", "convert");
    fs::remove_file(&file).unwrap();
    check(&definition, "cannot read input.safetensors: ", "check the path");
    input.write(&file);
    // The output.
    fs::create_dir(dir.path().join("output.safetensors")).unwrap();
    check(&definition, "cannot write output.safetensors: ", "--output");
}

#[test]
fn outputs_that_are_not_finite_are_not_written() {
    let (dir, definition, tensors) = world("cnn");
    let pixels = &tensors.0["input.x"];
    let mut values = pixels.floats();
    let len = values.len() / pixels.shape[0];
    values[2 * len..3 * len].fill(f32::MAX);
    Tensors::default().with("x", Tensor::f32(&pixels.shape, &values)).write(&dir.path().join("input.safetensors"));
    let (ok, _, error) = model(dir.path(), &[&PREDICT[..], &["--definition", &definition]].concat());
    let first = "error: input.safetensors: the model's output for record 2 is not finite";
    assert!(!ok && error.lines().next() == Some(first) && error.lines().count() == 2, "{error}");
    assert!(!dir.path().join("output.safetensors").exists());
}

#[test]
fn a_model_is_shown_as_keras_shows_it_and_as_json() {
    for name in ["masked", "image"] {
        let (definition, _) = vectors(name);
        let summary = fs::read_to_string(definition.with_file_name(format!("{name}.summary.txt"))).unwrap();
        let (_, shown, _) = model(Path::new("."), &["show", definition.to_str().unwrap()]);
        assert_eq!(shown.trim_end(), summary.trim_end(), "{name}");
    }
    let (definition, tensors) = vectors("graph");
    let definition = definition.to_str().unwrap();
    let (_, shown, _) = model(Path::new("."), &["show", definition, "--json"]);
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    let layers = shown["layers"].as_array().unwrap();
    let named = layers.iter().flat_map(|layer| layer["tensors"].as_array().unwrap());
    let named: BTreeMap<&str, &serde_json::Value> =
        named.map(|tensor| (tensor["name"].as_str().unwrap(), &tensor["shape"])).collect();
    let weights = tensors.part("weight.").0;
    assert_eq!(named.len(), weights.len());
    assert!(weights.iter().all(|(name, tensor)| *named[name.as_str()] == serde_json::json!(tensor.shape)));
    let n_parameters = |value: &serde_json::Value| value["parameters"].as_u64().unwrap();
    assert_eq!(layers.iter().map(n_parameters).sum::<u64>(), n_parameters(&shown));
    assert_eq!(n_parameters(&shown), weights.values().map(|tensor| tensor.bytes.len() as u64 / 4).sum::<u64>());
    let inputs = serde_json::json!([
        { "name": "ids", "shape": [5], "ids": 10 },
        { "name": "series", "shape": [6, 4], "ids": null },
    ]);
    assert_eq!((&shown["inputs"], &shown["output_shape"]), (&inputs, &serde_json::json!([3])));
}

#[test]
fn built_in_models_are_listed_and_take_the_sizes_of_the_data() {
    let (ok, shown, _) = model(Path::new("."), &["list"]);
    assert!(ok && shown.lines().count() == 5, "{shown}");
    let cnn = "cnn          121930 parameters; takes input_layer [28, 28, 1] of values; puts out [10]";
    assert_eq!(shown.lines().next(), Some(cnn));
    let (_, shown, _) = model(Path::new("."), &["list", "--json"]);
    let listed: serde_json::Value = serde_json::from_str(&shown).unwrap();
    let names: Vec<&str> = listed.as_array().unwrap().iter().map(|model| model["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["cnn", "lstm", "nlp", "recommender"]);
    assert_eq!(listed[3]["inputs"][1], serde_json::json!({ "name": "input_layer_4", "shape": [1], "ids": 1682 }));

    let dir = tempfile::tempdir().unwrap();
    let data =
        "version = 1\n[records]\nformat = \"series\"\nsteps = 40\nclasses = 7\nmean = [0.0, 0.0]\nstd = [1.0, 1.0]\n";
    fs::write(dir.path().join("data.toml"), data).unwrap();
    let (_, shown, _) = model(dir.path(), &["show", "lstm", "--data", "data.toml", "--json"]);
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    assert_eq!((&shown["inputs"][0]["shape"], &shown["output_shape"]), (&[40, 2].into(), &[7].into()));
    let (ok, _, error) = model(dir.path(), &["show", "cnn", "--data", "data.toml"]);
    assert!(!ok && error.starts_with("error: cnn: ") && error.lines().count() == 2, "{error}");
    let (ok, _, error) = model(dir.path(), &["show", "resnet"]);
    assert!(!ok && error.lines().nth(1).unwrap().contains("cnn, lstm, nlp, recommender"), "{error}");
}
