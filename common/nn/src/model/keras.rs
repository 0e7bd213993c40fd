//! Import of the JSON that Keras 3 prints with `model.to_json()`.
//!
//! Every key of every layer is either honoured, or must have the one value under which leaving it out changes nothing;
//! anything else is refused by name. Only what does not belong to the model is passed over: `compile_config` (optimizer
//! and loss belong to the task) and `build_config` (shapes, which are inferred here).

use serde_json::{Map, Value};

use super::{Activation, KERAS_JSON_LEN_MAX, LAYERS_MAX, LayerKind, LayerSpec, ModelError, ModelSpec, Padding};

impl ModelSpec {
    /// The model that Keras 3 printed with `model.to_json()`: `Sequential`, of the layers in [`super::SUPPORTED`].
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
        if class != "Sequential" {
            return Err(ModelError::Class { found: class.to_owned() });
        }
        model.must("module", &["keras", "keras.models", "keras.src.models.sequential"].map(Value::from))?;
        model.must("registered_name", &[Value::Null, "Sequential".into()])?;
        model.pass_over(&["build_config", "compile_config"]);
        let mut config = Fields::of(model.take("config")?, "model")?;
        model.finish()?;
        let name = config.text("name")?;
        config.must("trainable", &[true.into()])?;
        config.dtype()?;
        config.pass_over(&["build_input_shape"]);
        let list = config.take("layers")?.as_array().ok_or_else(|| malformed("layers is not a list"))?;
        config.finish()?;
        super::limit("number of layers", list.len() as u64, LAYERS_MAX as u64)?;
        let mut layers = Vec::with_capacity(list.len());
        for (i, layer) in list.iter().enumerate() {
            let (name, kind) = read_layer(layer, i)?;
            let inputs = i.checked_sub(1).map(|previous| previous as u32).into_iter().collect();
            layers.push(LayerSpec { name, inputs, kind });
        }
        if let Some(first) = layers.first()
            && !matches!(first.kind, LayerKind::InputLayer { .. })
        {
            let problem = "comes first, but the model leaves its input shape open: begin with an InputLayer".to_owned();
            return Err(ModelError::Layer { layer: first.name.clone(), problem });
        }
        Self::new(name, layers)
    }
}

fn read_layer(layer: &Value, position: usize) -> Result<(String, LayerKind), ModelError> {
    // Until the name is known, the layer goes by its position.
    let mut fields = Fields::of(layer, &format!("number {}", position + 1))?;
    let config = fields.take("config")?;
    if let Some(name) = config.get("name").and_then(Value::as_str) {
        fields.layer = shown(name);
    }
    let class = fields.text("class_name")?;
    // A registered class of the user's own may bear a known name.
    fields.must("registered_name", &[Value::Null])?;
    fields.must("module", &["keras.layers".into()])?;
    fields.pass_over(&["build_config"]);
    let layer_name = fields.layer.clone();
    fields.finish()?;
    let mut config = Fields::of(config, &layer_name)?;
    let name = config.text("name")?.to_owned();
    let kind = match class {
        "InputLayer" => {
            config.must("dtype", &["float32".into()])?;
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
        _ => return Err(ModelError::UnsupportedLayer { layer: layer_name, found: shown(class) }),
    };
    config.finish()?;
    Ok((name, kind))
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
        self.initializer("kernel_initializer", "GlorotUniform")?;
        self.initializer("bias_initializer", "Zeros")?;
        for key in ["kernel_regularizer", "bias_regularizer", "kernel_constraint", "bias_constraint"] {
            self.must_if_present(key, &[Value::Null])?;
        }
        Ok(())
    }

    fn initializer(&mut self, key: &'static str, class: &str) -> Result<(), ModelError> {
        let found = self.take(key)?;
        // Initial values come from the coordinator, so a seed has no meaning; any other option would.
        let is_default = found["class_name"] == class
            && found["module"] == "keras.initializers"
            && found["registered_name"].is_null()
            && match &found["config"] {
                Value::Object(config) => config.values().all(Value::is_null),
                other => other.is_null(),
            };
        if is_default { Ok(()) } else { Err(self.refusal(key, found, class)) }
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
            _ => Err(self.refusal("activation", found, "\"linear\", \"relu\" or \"softmax\"")),
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
    fn finish(self) -> Result<(), ModelError> {
        match self.object.iter().find(|(key, _)| !self.seen.contains(&key.as_str())) {
            None => Ok(()),
            Some((key, found)) => Err(self.refusal(&shown(key), found, "leaving it out")),
        }
    }
}

/// The classes in [`super::SUPPORTED`].
const KNOWN: &[&str] = &["InputLayer", "Conv2D", "MaxPooling2D", "Flatten", "Dense", "Activation"];

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
