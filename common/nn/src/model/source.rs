//! Where a model comes from: built in, or a file of Keras' JSON.

use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

use eranos_base::UserError;

use super::{BUILTIN_NAMES, KERAS_JSON_LEN_MAX, ModelError, ModelSpec};
use crate::data::{DataSpec, schema::Input};

/// What a person names a model by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// One of [`BUILTIN_NAMES`].
    Builtin(String),
    /// A file as Keras 3 prints it with `model.to_json()`.
    Definition(PathBuf),
}

impl Source {
    /// A built-in name, or else a file.
    pub fn of(name: &str) -> Self {
        match BUILTIN_NAMES.contains(&name) {
            true => Self::Builtin(name.to_owned()),
            false => Self::Definition(name.into()),
        }
    }

    /// The built-in one if it is named, else the defined one; none if neither is given.
    pub fn either(builtin: Option<&str>, definition: Option<&Path>) -> Option<Self> {
        let defined = || definition.map(|path| Self::Definition(path.to_owned()));
        builtin.map(|name| Self::Builtin(name.to_owned())).or_else(defined)
    }

    /// The built-in one for such records; none if there is none.
    pub fn of_data(data: &DataSpec) -> Option<Self> {
        let is_id = |input: &Input| matches!(input, Input::Integer { .. } | Input::Listed { .. });
        let name = match data {
            DataSpec::Images { .. } => "cnn",
            DataSpec::Series { .. } => "lstm",
            DataSpec::Table(schema) => match schema.inputs() {
                [Input::Text { .. }] => "nlp",
                [user, item] if is_id(user) && is_id(item) => "recommender",
                _ => return None,
            },
        };
        Some(Self::Builtin(name.to_owned()))
    }

    /// The model: a built-in one of the sizes that `data` calls for, a defined one as it stands, checked against `data`.
    /// Without `data`, a built-in one has the sizes that it was printed with.
    ///
    /// # Errors
    /// If there is no such model, or it does not take such data.
    pub fn load(&self, data: Option<&DataSpec>) -> Result<ModelSpec, UserError> {
        match self {
            Self::Builtin(name) => match data {
                Some(data) => ModelSpec::builtin_for(name, data),
                None => ModelSpec::builtin(name),
            }
            .map_err(|error| {
                let UserError { what, next } = error.user_error(name);
                // Nobody can correct a built-in model.
                let is_unknown = matches!(error, ModelError::UnknownBuiltin { .. });
                UserError::new(what, if is_unknown { &*next } else { OTHER_RECORDS })
            }),
            Self::Definition(path) => {
                let spec = ModelSpec::from_keras_json(&read(path)?);
                let fits = |spec: ModelSpec| data.map_or(Ok(()), |data| spec.check_data(data)).map(|()| spec);
                spec.and_then(fits).map_err(|error| error.user_error(&path.display().to_string()))
            }
        }
    }
}

/// The text of a file, read no further than one byte beyond what a definition may have. What is no UTF-8 is no JSON
/// afterwards either, or stands where nothing depends on it.
fn read(path: &Path) -> Result<String, UserError> {
    let mut bytes = Vec::new();
    let file = File::open(path).and_then(|file| file.take(KERAS_JSON_LEN_MAX as u64 + 1).read_to_end(&mut bytes));
    match file {
        Ok(_) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Err(error) => {
            let what = format!("cannot read the model {}: {error}", path.display());
            let names = BUILTIN_NAMES.join(", ");
            Err(UserError::new(
                what,
                format!("write it with `model.to_json()` of Keras 3, or name a built-in model: {names}"),
            ))
        }
    }
}

/// What to do about a built-in model for other records.
const OTHER_RECORDS: &str = "name a built-in model that takes such records, or give the definition of your own";
