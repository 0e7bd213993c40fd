//! `eranos model`: which models are built in, what a model is made of, and what it says of given records.

use std::{
    fs,
    path::{Path, PathBuf},
};

use clap::{Args, Subcommand};
use eranos_base::{UserError, print, println};
use eranos_nn::{
    DataFile, Loss, ModelSpec, Network, TensorError,
    model::{BUILTIN_NAMES, Source},
    tensors, weights,
};

/// `eranos model`.
#[derive(Subcommand)]
pub(crate) enum Command {
    /// The built-in models: how large they are, what they take and what they put out
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// The layers of a model with their output shapes and parameters, as Keras prints them
    Show {
        /// A file of Keras JSON (`model.to_json()`), or a built-in model
        #[arg(value_name = "FILE|BUILTIN")]
        model: String,
        /// The task's data file: a built-in model of the sizes that its records call for
        #[arg(long, value_name = "FILE")]
        data: Option<PathBuf>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Run a trained model on records
    Predict(Predict),
}

/// `eranos model predict`.
#[derive(Args)]
pub(crate) struct Predict {
    /// A built-in model
    #[arg(long, value_name = "BUILTIN", required_unless_present = "definition", conflicts_with = "definition")]
    model: Option<String>,
    /// Or a file of Keras JSON (`model.to_json()`)
    #[arg(long, value_name = "FILE")]
    definition: Option<PathBuf>,
    /// The task's data file: a built-in model of the sizes that its records call for
    #[arg(long, value_name = "FILE")]
    data: Option<PathBuf>,
    /// The weights, safetensors by the names that `eranos model show --json` lists
    #[arg(long, value_name = "FILE")]
    weights: PathBuf,
    /// The records: safetensors with one tensor for each input of the model, named after its InputLayer, the first axis
    /// the records; F32, or I32 or I64
    #[arg(long, value_name = "FILE")]
    input: PathBuf,
    /// Where the outputs go: safetensors with the tensor `output`, F32
    #[arg(long, value_name = "FILE")]
    output: PathBuf,
}

/// Runs `eranos model`.
pub(crate) fn run(command: Command) -> Result<(), UserError> {
    match command {
        Command::List { json } => list(json),
        Command::Show { model, data, json } => {
            let spec = load(&Source::of(&model), data.as_deref())?;
            match json {
                true => println!("{}", describe(&network(spec, &model)?)),
                false => print!("{}", spec.summary()),
            }
            Ok(())
        }
        Command::Predict(options) => predict(&options),
    }
}

fn list(json: bool) -> Result<(), UserError> {
    let mut described = Vec::new();
    for &name in BUILTIN_NAMES {
        let spec = load(&Source::Builtin(name.to_owned()), None)?;
        let (n_parameters, output_shape) = (spec.n_parameters(), spec.output_shape());
        if json {
            let inputs: Vec<_> = spec.inputs().map(|input| input_json(&spec, input)).collect();
            described.push(serde_json::json!({
                "name": name, "parameters": n_parameters, "inputs": inputs, "output_shape": output_shape,
            }));
        } else {
            let takes = spec.inputs().map(|input| input_text(&spec, input)).collect::<Vec<_>>().join(" and ");
            println!("{name:<12}{n_parameters:>7} parameters; takes {takes}; puts out {output_shape:?}");
        }
    }
    match json {
        true => println!("{}", serde_json::Value::from(described)),
        false => {
            println!("inputs, ids and outputs take the sizes of a task's records: `eranos model show NAME --data FILE`")
        }
    }
    Ok(())
}

fn predict(options: &Predict) -> Result<(), UserError> {
    let source = Source::either(options.model.as_deref(), options.definition.as_deref());
    let source = source.ok_or_else(|| UserError::new("no model", "give --model or --definition"))?;
    let network = network(load(&source, options.data.as_deref())?, "the model")?;
    let parameters = weights::load(&network, &tensors::read_file(&options.weights)?)
        .map_err(|error| error.user_error(&options.weights))?;
    let in_input = |error: TensorError| error.user_error(&options.input);
    let records = tensors::records(network.spec(), &tensors::read_file(&options.input)?).map_err(in_input)?;
    let broken = |error: eranos_nn::NnError| UserError::new(error.to_string(), "report this: records were checked");
    let prepared = network.prepare(&parameters).map_err(broken)?;
    let outputs = network.predict(&prepared, records.view(), &mut network.workspace()).map_err(broken)?;
    let bytes = tensors::save_outputs(network.spec(), &outputs).map_err(in_input)?;
    fs::write(&options.output, bytes).map_err(|error| {
        UserError::new(
            format!("cannot write {}: {error}", options.output.display()),
            "choose another file for --output",
        )
    })?;
    println!("wrote the outputs for {} records to {}", records.nrows(), options.output.display());
    Ok(())
}

fn load(source: &Source, data: Option<&Path>) -> Result<ModelSpec, UserError> {
    let data = data.map(DataFile::read).transpose()?;
    source.load(data.as_ref().map(|data| &data.spec))
}

/// What runs a model that is not trained here: its last activation belongs to no loss.
fn network(spec: ModelSpec, name: &str) -> Result<Network, UserError> {
    Network::new(spec, Loss::MeanSquaredError)
        .map_err(|error| UserError::new(format!("{name}: {error}"), "use a model that `eranos model show` shows"))
}

/// A model for a program: what Keras' table says, the inputs, and the names of the tensors.
fn describe(network: &Network) -> serde_json::Value {
    let spec = network.spec();
    let name = |&layer: &u32| spec.layers()[layer as usize].name.as_str();
    let layers = spec.layers().iter().zip(spec.shapes()).map(|(layer, shape)| {
        let of_layer = |tensor: &str| tensor.split_once('/').is_some_and(|(owner, _)| owner == layer.name);
        let tensors: Vec<_> = network.parameters().iter().filter(|entry| of_layer(&entry.name)).collect();
        let shapes: Vec<_> =
            tensors.iter().map(|entry| serde_json::json!({ "name": entry.name, "shape": entry.shape })).collect();
        serde_json::json!({
            "name": layer.name,
            "class": layer.kind.class_name(),
            "reads": layer.inputs.iter().map(name).collect::<Vec<_>>(),
            "output_shape": shape,
            "parameters": tensors.iter().map(|entry| entry.len()).sum::<usize>(),
            "tensors": shapes,
        })
    });
    serde_json::json!({
        "name": spec.name(),
        "layers": layers.collect::<Vec<_>>(),
        "inputs": spec.inputs().map(|input| input_json(spec, input)).collect::<Vec<_>>(),
        "output_shape": spec.output_shape(),
        "parameters": spec.n_parameters(),
    })
}

/// What a model takes at one of its InputLayers, for a program.
fn input_json(spec: &ModelSpec, input: usize) -> serde_json::Value {
    let (name, shape) = (&spec.layers()[input].name, &spec.shapes()[input]);
    serde_json::json!({ "name": name, "shape": shape, "ids": tensors::n_ids(spec, input) })
}

/// The same for a person.
fn input_text(spec: &ModelSpec, input: usize) -> String {
    let values = tensors::n_ids(spec, input).map_or("values".to_owned(), |n_ids| format!("ids below {n_ids}"));
    format!("{} {:?} of {values}", spec.layers()[input].name, spec.shapes()[input])
}
