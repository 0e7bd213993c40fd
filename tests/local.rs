//! `eranos client train-local` through the real binary: a party's own records alone, learnt from, and to the same weights
//! again.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use eranos_nn::data::idx;

use crate::model::{Tensor, Tensors};

/// A sample split over parties, the first of which has a client.toml.
struct World(tempfile::TempDir);

impl World {
    fn new(dataset: &str, n_parties: u32, records: &str) -> Self {
        let world = Self(tempfile::tempdir().unwrap());
        let n_parties = n_parties.to_string();
        let (ok, _, error) = world.run(&["data", "split", "--dataset", dataset, "--clients", &n_parties, "--out", "."]);
        assert!(ok, "{error}");
        world.write_config(&format!("{records}\nthreads = 2\n"));
        world
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Neither coordinator nor certificates are there, and none are missed.
    fn write_config(&self, records: &str) {
        let config = format!(
            "version = 1\ncoordinator = \"localhost:1\"\nledger_key = \"\"\ntask = \"mnist\"\nclasses = 10\n\
             certificates = \".\"\nstate = \"state\"\n{records}"
        );
        fs::write(self.path("party-1/client.toml"), config).unwrap();
    }

    fn run(&self, arguments: &[&str]) -> (bool, String, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_eranos"));
        let output = command.args(arguments).current_dir(self.0.path()).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.success(), text(output.stdout), text(output.stderr))
    }

    fn train(&self, options: &[&str]) -> (bool, String, String) {
        self.run(&[&["client", "train-local", "--dir", "party-1", "--data", "test/data.toml"], options].concat())
    }

    fn must_train(&self, options: &[&str]) -> String {
        let (ok, shown, error) = self.train(options);
        assert!(ok, "{options:?}: {error}");
        shown
    }
}

const DIGITS: &str = "records = \"images-idx3-ubyte.gz\"\nlabels = \"labels-idx1-ubyte.gz\"";

/// How many of the test digits below `folder` `eranos model predict` tells by the weights in `weights`, and of how many.
pub(crate) fn right_digits(dir: &Path, folder: &str, weights: &str) -> (usize, usize) {
    let test = dir.join(folder);
    let digits = idx::read_images(&test.join("images-idx3-ubyte.gz"), &test.join("labels-idx1-ubyte.gz"), 10).unwrap();
    let pixels: Vec<f32> = digits.features().iter().copied().collect();
    let images = Tensor::f32(&[digits.len(), 28, 28, 1], &pixels);
    Tensors([("images".to_owned(), images)].into()).write(&dir.join("images.safetensors"));
    let data = format!("{folder}/data.toml");
    let output = Command::new(env!("CARGO_BIN_EXE_eranos"))
        .args(["model", "predict", "--model", "cnn", "--data", &data, "--weights", weights])
        .args(["--input", "images.safetensors", "--output", "classes.safetensors"])
        .current_dir(dir)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let outputs = Tensors::read(&dir.join("classes.safetensors")).0["output"].floats();
    let is_right = |(row, &label): (&[f32], &u32)| row.iter().all(|&output| output <= row[label as usize]);
    (outputs.chunks_exact(10).zip(digits.labels()).filter(|&pair| is_right(pair)).count(), digits.len())
}

#[test]
fn two_hundred_digits_are_learnt_from_and_the_same_seed_gives_the_same_weights() {
    let world = World::new("mnist", 30, DIGITS);
    let options = ["--epochs", "2", "--batch", "10", "--learning-rate", "0.002", "--seed", "7"];
    let shown = world.must_train(&[&options[..], &["--output", "a.safetensors"]].concat());
    let lines: Vec<&str> = shown.lines().collect();
    assert!(lines[0].starts_with("epoch  1/2  loss ") && lines[1].starts_with("epoch  2/2  loss "), "{shown}");
    let promise = "this is what the party gets by itself, from 200 records of its own, in an ordinary training that \
                   promises no privacy to whoever is in them";
    assert_eq!(lines[2..], [promise, "wrote the weights to a.safetensors"]);

    // The same on one thread, and for a program.
    world.write_config(&format!("{DIGITS}\nthreads = 1\n"));
    let shown = world.must_train(&[&options[..], &["--output", "b.safetensors", "--json"]].concat());
    let report: serde_json::Value = serde_json::from_str(&shown).unwrap();
    let read = |name| fs::read(world.path(name)).unwrap();
    assert!(read("a.safetensors") == read("b.safetensors"));
    let ([parameters, records, test_records], epochs) =
        (["parameters", "records", "test_records"].map(|key| report[key].as_u64().unwrap()), &report["epochs"]);
    assert_eq!((parameters, records, test_records, epochs.as_array().unwrap().len()), (121_930, 200, 1000, 2));
    let (first, last) = (epochs[0]["loss"].as_f64().unwrap(), epochs[1]["loss"].as_f64().unwrap());
    assert!(first > 1.0 && last < 0.75 * first, "{report}");
    // One class in ten is chance.
    let accuracy = epochs[1]["test_accuracy"].as_f64().unwrap();
    assert!(accuracy > 0.6, "{report}");
    let (n_right, n_digits) = right_digits(world.0.path(), "test", "a.safetensors");
    assert_eq!(n_right as f64 / n_digits as f64, accuracy);

    world.must_train(&[&options[..6], &["--seed", "8", "--output", "c.safetensors"]].concat());
    assert!(read("a.safetensors") != read("c.safetensors"));
}

#[test]
fn a_share_of_the_own_records_is_held_out_to_test_on() {
    let world = World::new("mnist", 30, DIGITS);
    let shown = world.must_train(&["--epochs", "1", "--test-share", "0.25", "--json"]);
    let report: serde_json::Value = serde_json::from_str(&shown).unwrap();
    assert_eq!((&report["records"], &report["test_records"]), (&150.into(), &50.into()));
    // Without either, nothing is tested.
    let data = fs::read_to_string(world.path("test/data.toml")).unwrap();
    fs::write(world.path("test/data.toml"), data.split("[test]").next().unwrap()).unwrap();
    let shown = world.must_train(&["--epochs", "1", "--json"]);
    let report: serde_json::Value = serde_json::from_str(&shown).unwrap();
    assert_eq!((&report["records"], &report["test_records"]), (&200.into(), &serde_json::Value::Null));
    assert_eq!(report["epochs"][0]["test_accuracy"], serde_json::Value::Null);
    assert!(!world.must_train(&["--epochs", "1"]).contains("test"));
}

#[test]
fn each_kind_of_records_has_its_model() {
    for (dataset, n_parties, records, n_records, n_parameters) in [
        ("watch", 8, "records = \"windows-idx3-ubyte.gz\"\nlabels = \"labels-idx1-ubyte.gz\"", 121, 84_679),
        ("sms-spam", 40, "records = \"messages.tsv.gz\"\ncolumns = [\"label\", \"text\"]", 101, 194_178),
        ("movielens", 200, "records = \"ratings.csv.gz\"", 270, 37_185),
    ] {
        let world = World::new(dataset, n_parties, records);
        let shown = world.must_train(&["--epochs", "1", "--json"]);
        let report: serde_json::Value = serde_json::from_str(&shown).unwrap();
        assert_eq!((&report["records"], &report["parameters"]), (&n_records.into(), &n_parameters.into()), "{dataset}");
        assert!(report["epochs"][0]["test_accuracy"].as_f64().unwrap() > 0.0, "{dataset}: {report}");
    }
}

#[test]
fn what_cannot_be_trained_is_said_in_two_lines() {
    let world = World::new("mnist", 30, DIGITS);
    let check = |options: &[&str], what: &str, next: &str| {
        let (ok, _, error) = world.train(options);
        let (first, second) = error.trim_end().split_once('\n').unwrap();
        assert!(!ok && first.starts_with(&format!("error: {what}")), "{options:?}: {error}");
        assert!(
            second.starts_with(" help: ") && second.contains(next) && !second.contains('\n'),
            "{options:?}: {error}"
        );
    };
    check(&["--learning-rate", "1e12"], "output of layer \"dense\" is not finite", "--learning-rate");
    check(&["--learning-rate=-1"], "learning_rate of -1, expected ", "0.001");
    check(&["--test-share", "2"], "--test-share 2 of 200 records", "such as 0.2");
    check(&["--model", "resnet"], "resnet: no built-in model \"resnet\"", "cnn");
    check(&["--model", "recommender"], "recommender: ", "a built-in model that takes such records");
    check(&["--model", "lstm"], "lstm: layer \"lstm\" reads 3 axes", "a built-in model that takes such records");
    check(&["--definition", "none.json"], "cannot read the model none.json: ", "model.to_json()");
    check(&["--output", "test"], "cannot write test: ", "--output");
    fs::write(world.path("test/plain.toml"), NUMBERS).unwrap();
    let plain = ["client", "train-local", "--dir", "party-1", "--data", "test/plain.toml"];
    let (ok, _, error) = world.run(&plain);
    assert!(!ok && error.starts_with("error: no built-in model takes such records\n help: "), "{error}");
    world.write_config("records = \"table.csv\"\n");
    fs::write(world.path("party-1/table.csv"), "a,b,class\n1,2,0\n1,two,1\n").unwrap();
    let keras = Path::new(env!("CARGO_MANIFEST_DIR")).join("common/nn/tests/vectors/image.keras.json");
    let (ok, _, error) = world.run(&[&plain[..], &["--definition", keras.to_str().unwrap()]].concat());
    assert!(
        !ok && error.contains("takes records of 220 values, the data has 2") && error.lines().count() == 2,
        "{error}"
    );
    fs::remove_file(world.path("party-1/client.toml")).unwrap();
    check(&[], "cannot read party-1/client.toml: ", "eranos client init");
}

const NUMBERS: &str = "version = 1\n[records]\nformat = \"table\"\n\
                       inputs = [{ kind = \"numbers\", columns = [\"a\", \"b\"] }]\n\
                       label = { column = \"class\", classes = 2 }\n";
