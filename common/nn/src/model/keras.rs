//! Import of the JSON that Keras 3 prints with `model.to_json()`.
//!
//! Every key of every layer is either honoured, or must have the one value under which leaving it out changes nothing;
//! anything else is refused by name. Only what does not belong to the model is passed over: `compile_config` (optimizer
//! and loss belong to the task), `build_config` and the shapes of tensors (which are inferred here), and whether an LSTM is
//! unrolled (the result is the same).

use serde_json::{Map, Value};

use super::{Activation, KERAS_JSON_LEN_MAX, LAYERS_MAX, LayerKind, LayerSpec, ModelError, ModelSpec, Padding};

impl ModelSpec {
    /// The model that Keras 3 printed with `model.to_json()`: `Sequential` or `Functional`, with one output, of the layers
    /// in [`super::SUPPORTED`].
    ///
    /// A `Functional` model keeps the order of its layers, which is that of its weights; only where Keras takes its inputs
    /// in another order than it lists them, the InputLayers come first, in the order in which it takes them.
    ///
    /// # Errors
    /// Names the layer, and the option of it, that is not supported, and says what is.
    pub fn from_keras_json(json: &str) -> Result<Self, ModelError> {
        super::limit("length of the JSON in bytes", json.len() as u64, KERAS_JSON_LEN_MAX as u64)?;
        let json: Value = serde_json::from_str(json).map_err(|e| malformed(&e.to_string()))?;
        let mut model = Fields::of(&json, "model")?;
        let class = model.text("class_name")?;
        // A layer that does not exist here says more than the kind of model, or than options of layers before it.
        let list = json.pointer("/config/layers").and_then(Value::as_array);
        for (i, layer) in list.into_iter().flatten().enumerate() {
            if let Some(found) = layer.get("class_name").and_then(Value::as_str)
                && !KNOWN.contains(&found)
            {
                let name = layer.pointer("/config/name").and_then(Value::as_str);
                let layer = name.map_or_else(|| format!("number {}", i + 1), shown);
                return Err(ModelError::UnsupportedLayer { layer, found: shown(found) });
            }
        }
        let modules = match class {
            "Sequential" => ["keras", "keras.models", "keras.src.models.sequential"],
            "Functional" => ["keras", "keras.models", "keras.src.models.functional"],
            _ => return Err(ModelError::Class { found: shown(class) }),
        };
        model.must("module", &modules.map(Value::from))?;
        model.must("registered_name", &[Value::Null, class.into()])?;
        model.pass_over(&["build_config", "compile_config"]);
        let mut config = Fields::of(model.take("config")?, "model")?;
        model.finish()?;
        let name = config.text("name")?;
        config.must("trainable", &[true.into()])?;
        let list = config.take("layers")?.as_array().ok_or_else(|| malformed("layers is not a list"))?;
        super::limit("number of layers", list.len() as u64, LAYERS_MAX as u64)?;
        let layers = match class {
            "Sequential" => read_sequential(config, list)?,
            _ => read_functional(config, list)?,
        };
        Self::new(name, layers)
    }
}

/// A chain.
fn read_sequential(mut config: Fields<'_>, list: &[Value]) -> Result<Vec<LayerSpec>, ModelError> {
    config.dtype()?;
    config.pass_over(&["build_input_shape"]);
    config.finish()?;
    let mut graph = Graph::default();
    for (i, layer) in list.iter().enumerate() {
        let mut fields = LayerFields::of(layer, i)?;
        if i == 0 && fields.class != "InputLayer" {
            let problem = "comes first, but the model leaves its input shape open: begin with an InputLayer".to_owned();
            return Err(ModelError::Layer { layer: fields.config.layer, problem });
        }
        fields.finish()?;
        graph.push(fields, i.checked_sub(1).map(|previous| previous as u32).into_iter().collect())?;
    }
    Ok(graph.layers)
}

/// A graph: each layer says what it was called on.
fn read_functional(mut config: Fields<'_>, list: &[Value]) -> Result<Vec<LayerSpec>, ModelError> {
    if config.object.contains_key("dtype") {
        config.dtype()?;
    }
    let (inputs, outputs) = (config.take("input_layers")?, config.take("output_layers")?);
    let mut graph = Graph::default();
    for (i, layer) in list.iter().enumerate() {
        let mut fields = LayerFields::of(layer, i)?;
        let name = fields.entry.take("name")?;
        if name.as_str() != Some(&fields.config.layer) {
            return Err(fields.entry.refusal("name", name, "the name in its config"));
        }
        let nodes = fields.entry.take("inbound_nodes")?;
        let read = match nodes.as_array().map(Vec::as_slice) {
            Some([]) => Vec::new(),
            Some([node]) => graph.read_node(&fields.entry, node)?,
            Some(nodes) => {
                let problem = format!("is used {} times, supported is once", nodes.len());
                return Err(ModelError::Layer { layer: fields.config.layer, problem });
            }
            None => return Err(fields.entry.refusal("inbound_nodes", nodes, "a list")),
        };
        fields.finish()?;
        graph.push(fields, read)?;
    }
    let outputs = graph.read_ends(&config, "output_layers", outputs)?;
    if outputs.len() != 1 || outputs[0] as usize + 1 != graph.layers.len() {
        let found = config.object.get("output_layers").unwrap_or(&Value::Null);
        return Err(config.refusal("output_layers", found, "the last layer, and no other"));
    }
    let taken = graph.read_ends(&config, "input_layers", inputs)?;
    config.finish()?;
    graph.in_order(&taken)
}

/// The layers read so far, with the shapes of what they put out.
#[derive(Default)]
struct Graph {
    layers: Vec<LayerSpec>,
    shapes: Vec<Vec<usize>>,
    /// InputLayers of whole numbers, which only an Embedding may read.
    ids: Vec<u32>,
}

impl Graph {
    fn push(&mut self, mut fields: LayerFields<'_>, inputs: Vec<u32>) -> Result<(), ModelError> {
        let name = fields.config.text("name")?.to_owned();
        let problem = |problem: String| ModelError::Layer { layer: shown(&name), problem };
        let shapes: Vec<&[usize]> = inputs.iter().map(|&input| &*self.shapes[input as usize]).collect();
        let rank = shapes.first().map_or(0, |shape| shape.len());
        if fields.class == "InputLayer" && fields.config.object.get("dtype").is_some_and(|dtype| dtype != "float32") {
            self.ids.push(self.layers.len() as u32);
        }
        if fields.class != "Embedding"
            && let Some(&input) = inputs.iter().find(|input| self.ids.contains(input))
        {
            let input = &self.layers[input as usize].name;
            return Err(problem(format!("reads the whole numbers of {input}, supported is float32")));
        }
        let kind = read_kind(fields.class, fields.config, rank)?;
        // The model checks the same again, with its limits; here later layers want to know the shape.
        kind.check_number_of_inputs(inputs.len()).map_err(problem)?;
        let problem = |problem: String| ModelError::Layer { layer: shown(&name), problem };
        self.shapes.push(kind.output_shape(&shapes).map_err(problem)?);
        self.layers.push(LayerSpec { name, inputs, kind });
        Ok(())
    }

    /// Which layers a call reads: `{"args": [tensor or list of tensors], "kwargs": {}}`.
    fn read_node(&self, entry: &Fields<'_>, node: &Value) -> Result<Vec<u32>, ModelError> {
        let mut node = Fields::of(node, &entry.layer)?;
        let (args, kwargs) = (node.take("args")?, node.take("kwargs")?);
        node.finish()?;
        let mut kwargs = Fields::of(kwargs, &entry.layer)?;
        // What Keras itself adds where nobody asked for anything.
        kwargs.must_if_present("training", &[Value::Null, false.into()])?;
        kwargs.must_if_present("mask", &[Value::Null])?;
        kwargs.finish()?;
        let tensors = match args.as_array().map(Vec::as_slice) {
            Some([Value::Array(tensors)]) => &tensors[..],
            Some(tensors @ [Value::Object(_)]) => tensors,
            _ => return Err(entry.refusal("args", args, "one tensor or one list of tensors")),
        };
        super::limit("number of inputs of a layer", tensors.len() as u64, LAYERS_MAX as u64)?;
        let mut inputs = Vec::with_capacity(tensors.len());
        for tensor in tensors {
            let history =
                tensor.pointer("/config/keras_history").filter(|_| tensor["class_name"] == "__keras_tensor__");
            let input = history.and_then(|history| self.number_of(history));
            inputs.push(input.ok_or_else(|| entry.refusal("args", tensor, "the output of an earlier layer"))?);
        }
        Ok(inputs)
    }

    /// The layers in a list of `[name, 0, 0]`, or in one of them alone.
    fn read_ends(&self, config: &Fields<'_>, key: &str, ends: &Value) -> Result<Vec<u32>, ModelError> {
        let refusal = || config.refusal(key, ends, "a list of [name of a layer, 0, 0]");
        if let Some(number) = self.number_of(ends) {
            return Ok(vec![number]);
        }
        let ends = ends.as_array().ok_or_else(refusal)?;
        super::limit("number of inputs or outputs", ends.len() as u64, LAYERS_MAX as u64)?;
        ends.iter().map(|end| self.number_of(end).ok_or_else(refusal)).collect()
    }

    /// The number of the layer that `[name, node, tensor]` names: each layer is called once and puts out one tensor.
    fn number_of(&self, history: &Value) -> Option<u32> {
        let [name, node, tensor] = history.as_array()?.as_slice() else { return None };
        let number = self.layers.iter().position(|layer| name.as_str() == Some(&layer.name))?;
        (node == 0 && tensor == 0).then_some(number as u32)
    }

    /// The layers, their InputLayers in the order of `taken`.
    fn in_order(self, taken: &[u32]) -> Result<Vec<LayerSpec>, ModelError> {
        let is_input = |number: u32| matches!(self.layers[number as usize].kind, LayerKind::InputLayer { .. });
        let all = 0..self.layers.len() as u32;
        let listed: Vec<u32> = all.clone().filter(|&number| is_input(number)).collect();
        let mut sorted = taken.to_vec();
        sorted.sort_unstable();
        if sorted != listed {
            return Err(malformed("input_layers does not name every InputLayer once"));
        }
        if taken == listed {
            return Ok(self.layers);
        }
        let order: Vec<u32> = taken.iter().copied().chain(all.filter(|&number| !is_input(number))).collect();
        let mut places = vec![0; order.len()];
        for (place, &number) in order.iter().enumerate() {
            places[number as usize] = place as u32;
        }
        let moved = |number: &u32| {
            let layer = self.layers[*number as usize].clone();
            LayerSpec { inputs: layer.inputs.iter().map(|&input| places[input as usize]).collect(), ..layer }
        };
        Ok(order.iter().map(moved).collect())
    }
}

/// A layer's entry: what Keras says about it, and its config.
struct LayerFields<'a> {
    class: &'a str,
    entry: Fields<'a>,
    config: Fields<'a>,
}

impl<'a> LayerFields<'a> {
    fn of(layer: &'a Value, position: usize) -> Result<Self, ModelError> {
        // Until the name is known, the layer goes by its position.
        let mut entry = Fields::of(layer, &format!("number {}", position + 1))?;
        let config = entry.take("config")?;
        if let Some(name) = config.get("name").and_then(Value::as_str) {
            entry.layer = shown(name);
        }
        let class = entry.text("class_name")?;
        // A registered class of the user's own may bear a known name.
        entry.must("registered_name", &[Value::Null])?;
        entry.must("module", &["keras.layers".into()])?;
        entry.pass_over(&["build_config"]);
        let config = Fields::of(config, &entry.layer)?;
        Ok(Self { class, entry, config })
    }

    /// Refuses what was not taken beside the config.
    fn finish(&mut self) -> Result<(), ModelError> {
        self.entry.finish()
    }
}

/// The layer of `class` over inputs of `rank` axes.
fn read_kind(class: &str, mut config: Fields<'_>, rank: usize) -> Result<LayerKind, ModelError> {
    let kind = match class {
        "InputLayer" => {
            config.must("dtype", &["float32".into(), "int32".into(), "int64".into()])?;
            config.must_if_present("sparse", &[false.into()])?;
            config.must_if_present("ragged", &[false.into()])?;
            config.must_if_present("optional", &[false.into()])?;
            let shape = config.take("batch_shape")?;
            LayerKind::InputLayer {
                shape: read_batch_shape(shape)
                    .ok_or_else(|| config.refusal("batch_shape", shape, "null and then fixed lengths"))?,
            }
        }
        "Conv2D" => {
            config.common()?;
            config.weighted()?;
            config.must_if_present("activity_regularizer", &[Value::Null])?;
            config.must("data_format", &["channels_last".into()])?;
            config.must_if_present("dilation_rate", &[serde_json::json!([1, 1]), 1.into()])?;
            config.must_if_present("groups", &[1.into()])?;
            LayerKind::Conv2D {
                filters: config.integer("filters")?,
                kernel_size: config.pair("kernel_size")?,
                strides: config.pair("strides")?,
                padding: config.padding()?,
                activation: config.activation()?,
                use_bias: config.boolean("use_bias")?,
            }
        }
        "MaxPooling2D" => {
            config.common()?;
            config.must("data_format", &["channels_last".into()])?;
            LayerKind::MaxPooling2D {
                pool_size: config.pair("pool_size")?,
                strides: config.pair("strides")?,
                padding: config.padding()?,
            }
        }
        "Flatten" => {
            config.common()?;
            config.must("data_format", &["channels_last".into()])?;
            LayerKind::Flatten
        }
        "Dense" => {
            config.common()?;
            config.weighted()?;
            config.must_if_present("activity_regularizer", &[Value::Null])?;
            config.must_if_present("quantization_config", &[Value::Null])?;
            config.must_if_present("lora_rank", &[Value::Null])?;
            LayerKind::Dense {
                units: config.integer("units")?,
                activation: config.activation()?,
                use_bias: config.boolean("use_bias")?,
            }
        }
        "Activation" => {
            config.common()?;
            LayerKind::Activation(config.activation()?)
        }
        "LSTM" => {
            config.common()?;
            config.weighted()?;
            config.initializer("recurrent_initializer", "Orthogonal", &[("gain", 1.0)])?;
            for key in ["recurrent_regularizer", "recurrent_constraint", "activity_regularizer", "seed"] {
                config.must_if_present(key, &[Value::Null])?;
            }
            config.must("activation", &["tanh".into()])?;
            config.must("recurrent_activation", &["sigmoid".into()])?;
            config.must("unit_forget_bias", &[true.into()])?;
            for key in ["dropout", "recurrent_dropout"] {
                config.must_if_present(key, &[0.0.into(), 0.into()])?;
            }
            for key in ["return_state", "go_backwards", "stateful", "zero_output_for_mask"] {
                config.must_if_present(key, &[false.into()])?;
            }
            config.must_if_present("unroll", &[false.into(), true.into()])?;
            LayerKind::Lstm {
                units: config.integer("units")?,
                return_sequences: config.boolean("return_sequences")?,
                use_bias: config.boolean("use_bias")?,
            }
        }
        "Embedding" => {
            config.common()?;
            config.initializer("embeddings_initializer", "RandomUniform", &[("minval", -0.05), ("maxval", 0.05)])?;
            for key in ["embeddings_regularizer", "embeddings_constraint", "activity_regularizer"] {
                config.must_if_present(key, &[Value::Null])?;
            }
            for key in ["input_length", "quantization_config", "lora_rank"] {
                config.must_if_present(key, &[Value::Null])?;
            }
            LayerKind::Embedding {
                input_dim: config.integer("input_dim")?,
                output_dim: config.integer("output_dim")?,
                mask_zero: config.boolean("mask_zero")?,
            }
        }
        "Concatenate" => {
            config.common()?;
            let found = config.take("axis")?;
            // Keras counts the batch as axis 0, and negative axes from the end.
            let axis = found.as_i64().and_then(|axis| match axis {
                ..0 => (rank as i64).checked_add(axis),
                _ => axis.checked_sub(1),
            });
            let axis = axis.filter(|axis| (0..rank as i64).contains(axis));
            let axis = axis.ok_or_else(|| config.refusal("axis", found, "an axis of its inputs, not the batch"))?;
            LayerKind::Concatenate { axis: axis as u32 }
        }
        "Dropout" => {
            config.common()?;
            config.must_if_present("seed", &[Value::Null])?;
            config.must_if_present("noise_shape", &[Value::Null])?;
            let found = config.take("rate")?;
            let rate = found.as_f64().map(|rate| (rate * 2f64.powi(32)).round());
            let rate = rate.filter(|rate| (0.0..=f64::from(u32::MAX)).contains(rate));
            let rate = rate.ok_or_else(|| config.refusal("rate", found, "0 or more, below 1"))?;
            LayerKind::Dropout { rate: rate as u32 }
        }
        _ => return Err(ModelError::UnsupportedLayer { layer: config.layer, found: shown(class) }),
    };
    config.finish()?;
    Ok(kind)
}

fn read_batch_shape(shape: &Value) -> Option<Vec<u32>> {
    let (batch, lengths) = shape.as_array()?.split_first()?;
    if !batch.is_null() || lengths.len() > super::RANK_MAX {
        return None;
    }
    lengths.iter().map(|n| u32::try_from(n.as_u64()?).ok()).collect()
}

/// An object whose keys are taken one by one: what is left at the end was not understood.
struct Fields<'a> {
    layer: String,
    object: &'a Map<String, Value>,
    seen: Vec<&'static str>,
}

impl<'a> Fields<'a> {
    fn of(value: &'a Value, layer: &str) -> Result<Self, ModelError> {
        match value.as_object() {
            Some(object) => Ok(Self { layer: layer.to_owned(), object, seen: Vec::new() }),
            None => Err(malformed(&format!("{layer} is not an object"))),
        }
    }

    fn take(&mut self, key: &'static str) -> Result<&'a Value, ModelError> {
        self.seen.push(key);
        self.object.get(key).ok_or_else(|| malformed(&format!("layer {:?} has no {key}", self.layer)))
    }

    fn pass_over(&mut self, keys: &[&'static str]) {
        self.seen.extend_from_slice(keys);
    }

    fn must(&mut self, key: &'static str, allowed: &[Value]) -> Result<(), ModelError> {
        let found = self.take(key)?;
        if allowed.contains(found) {
            return Ok(());
        }
        let supported = allowed.iter().map(Value::to_string).collect::<Vec<_>>().join(" or ");
        Err(self.refusal(key, found, &supported))
    }

    fn must_if_present(&mut self, key: &'static str, allowed: &[Value]) -> Result<(), ModelError> {
        if self.object.contains_key(key) { self.must(key, allowed) } else { Ok(()) }
    }

    /// What every layer but the input has.
    fn common(&mut self) -> Result<(), ModelError> {
        self.must("trainable", &[true.into()])?;
        self.dtype()
    }

    fn dtype(&mut self) -> Result<(), ModelError> {
        let found = self.take("dtype")?;
        let name = match found.get("class_name") {
            Some(class) if class == "DTypePolicy" && found["registered_name"].is_null() => &found["config"]["name"],
            _ => found,
        };
        if name == "float32" { Ok(()) } else { Err(self.refusal("dtype", found, "float32")) }
    }

    /// What every layer with a kernel has.
    fn weighted(&mut self) -> Result<(), ModelError> {
        self.initializer("kernel_initializer", "GlorotUniform", &[])?;
        self.initializer("bias_initializer", "Zeros", &[])?;
        for key in ["kernel_regularizer", "bias_regularizer", "kernel_constraint", "bias_constraint"] {
            self.must_if_present(key, &[Value::Null])?;
        }
        Ok(())
    }

    /// Takes the initialiser `class` with the numbers of `options`.
    fn initializer(
        &mut self,
        key: &'static str,
        class: &str,
        options: &[(&'static str, f64)],
    ) -> Result<(), ModelError> {
        let found = self.take(key)?;
        // Initial values come from the coordinator, so a seed has no meaning; any other option would.
        let is_default = found["class_name"] == class
            && found["module"] == "keras.initializers"
            && found["registered_name"].is_null()
            && match &found["config"] {
                Value::Object(config) => {
                    let option = |key: &str| options.iter().find(|(name, _)| *name == key);
                    options.iter().all(|(name, _)| config.contains_key(*name))
                        && config.iter().all(|(key, value)| match option(key) {
                            Some((_, expected)) => value.as_f64() == Some(*expected),
                            None => value.is_null(),
                        })
                }
                other => other.is_null() && options.is_empty(),
            };
        let shown = options.iter().map(|(name, value)| format!(" {name} {value}")).collect::<String>();
        if is_default { Ok(()) } else { Err(self.refusal(key, found, &format!("{class}{shown}"))) }
    }

    fn text(&mut self, key: &'static str) -> Result<&'a str, ModelError> {
        let found = self.take(key)?;
        found.as_str().ok_or_else(|| self.refusal(key, found, "a text"))
    }

    fn integer(&mut self, key: &'static str) -> Result<u32, ModelError> {
        let found = self.take(key)?;
        integer(found).ok_or_else(|| self.refusal(key, found, "a whole number"))
    }

    fn boolean(&mut self, key: &'static str) -> Result<bool, ModelError> {
        let found = self.take(key)?;
        found.as_bool().ok_or_else(|| self.refusal(key, found, "true or false"))
    }

    fn pair(&mut self, key: &'static str) -> Result<[u32; 2], ModelError> {
        let found = self.take(key)?;
        let pair = match found.as_array().map(Vec::as_slice) {
            Some([a, b]) => integer(a).zip(integer(b)).map(<[u32; 2]>::from),
            _ => integer(found).map(|n| [n, n]),
        };
        pair.ok_or_else(|| self.refusal(key, found, "two whole numbers"))
    }

    fn padding(&mut self) -> Result<Padding, ModelError> {
        let found = self.take("padding")?;
        match found.as_str() {
            Some("valid") => Ok(Padding::Valid),
            Some("same") => Ok(Padding::Same),
            _ => Err(self.refusal("padding", found, "\"valid\" or \"same\"")),
        }
    }

    fn activation(&mut self) -> Result<Activation, ModelError> {
        let found = self.take("activation")?;
        match found.as_str() {
            Some("linear") => Ok(Activation::Linear),
            Some("relu") => Ok(Activation::Relu),
            Some("softmax") => Ok(Activation::Softmax),
            Some("sigmoid") => Ok(Activation::Sigmoid),
            Some("tanh") => Ok(Activation::Tanh),
            _ => Err(self.refusal("activation", found, "\"linear\", \"relu\", \"softmax\", \"sigmoid\" or \"tanh\"")),
        }
    }

    fn refusal(&self, option: &str, found: &Value, supported: &str) -> ModelError {
        ModelError::UnsupportedOption {
            layer: self.layer.clone(),
            option: option.to_owned(),
            found: shown(&found.to_string()),
            supported: supported.to_owned(),
        }
    }

    /// Refuses what was not taken.
    fn finish(&self) -> Result<(), ModelError> {
        match self.object.iter().find(|(key, _)| !self.seen.contains(&key.as_str())) {
            None => Ok(()),
            Some((key, found)) => Err(self.refusal(&shown(key), found, "leaving it out")),
        }
    }
}

/// The classes in [`super::SUPPORTED`].
const KNOWN: &[&str] = &[
    "InputLayer",
    "Conv2D",
    "MaxPooling2D",
    "Flatten",
    "Dense",
    "Activation",
    "LSTM",
    "Embedding",
    "Concatenate",
    "Dropout",
];

fn integer(value: &Value) -> Option<u32> {
    u32::try_from(value.as_u64()?).ok()
}

fn malformed(problem: &str) -> ModelError {
    ModelError::Json { problem: shown(problem) }
}

/// As much of a foreign text as an error shows.
fn shown(text: &str) -> String {
    const SHOWN_CHARS_MAX: usize = 120;
    text.chars().filter(|c| !c.is_control()).take(SHOWN_CHARS_MAX).collect()
}
