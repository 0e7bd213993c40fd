//! `client.toml`: where the coordinator is, which ledger key is pinned, where certificate, data and state lie.

use std::{
    fs,
    path::{Path, PathBuf},
};

use eranos_base::{TaskId, UserError};
use serde::{Deserialize, de::DeserializeOwned};

use crate::conditions::Conditions;

/// What a client needs to run. Paths are relative to the file.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The version of this format; 1.
    pub version: u32,
    /// The coordinator's address, `host:port`. Its certificate must carry the host's name.
    pub coordinator: String,
    /// The line that pins the coordinator's ledger key.
    pub ledger_key: String,
    /// The task to take part in.
    pub task: TaskId,
    /// The training data: records in IDX, or a table (.csv or .tsv).
    pub records: PathBuf,
    /// The labels of records in IDX.
    pub labels: Option<PathBuf>,
    /// The names of a table's columns, if its first line does not name them.
    pub columns: Option<Vec<String>>,
    /// How many classes there are: a public constant. A model with another number of outputs is refused, so that no
    /// label can make a difference to whether training succeeds.
    pub classes: u32,
    /// The client's certificate, key and certificate authority lie here.
    pub certificates: PathBuf,
    /// What must survive: the last checkpoint of the ledger and, unless `budget` names another folder, budget and secret.
    pub state: PathBuf,
    /// Where the budget and the secret lie that all clients of one data set share, one for each task.
    pub budget: Option<PathBuf>,
    /// Worker threads for training; all cores if not given.
    pub threads: Option<usize>,
    /// When the client takes part at all.
    #[serde(default)]
    pub conditions: Conditions,
}

impl Config {
    /// Reads `client.toml` and resolves its paths.
    ///
    /// # Errors
    /// If the file is missing, is not TOML, or says something that cannot be.
    pub fn read(path: &Path) -> Result<Self, UserError> {
        let mut config: Self = read_toml(path, "make one with `eranos client init`")?;
        if config.version != 1 {
            let what = format!("{}: version = {}", path.display(), config.version);
            return Err(UserError::new(what, "this build reads version 1"));
        }
        let base = path.parent().unwrap_or(Path::new("."));
        let paths = [&mut config.records, &mut config.certificates, &mut config.state];
        for path in paths.into_iter().chain(&mut config.labels).chain(&mut config.budget) {
            // Taken apart and put together, it loses a "." in the middle.
            *path = base.join(&*path).components().collect();
        }
        Ok(config)
    }

    /// The folder of budget and secret.
    pub fn budget_dir(&self) -> &Path {
        self.budget.as_deref().unwrap_or(&self.state)
    }
}

/// Reads a TOML file into a type that refuses unknown fields.
///
/// # Errors
/// If the file is missing or is not what the type says; the error names the line.
pub(crate) fn read_toml<T: DeserializeOwned>(path: &Path, next: &str) -> Result<T, UserError> {
    let text = fs::read_to_string(path)
        .map_err(|error| UserError::new(format!("cannot read {}: {error}", path.display()), next))?;
    let start = |error: &toml::de::Error| error.span().map(|span| span.start);
    toml::from_str(&text).map_err(|error| UserError::in_text(path, &text, start(&error), error.message(), next))
}
