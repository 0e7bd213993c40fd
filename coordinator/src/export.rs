//! The trained model, on its way out of a coordinator's folder. Only database and objects are read: neither the ledger's
//! key nor a certificate is needed, and nothing is changed.

use std::{fs, path::Path};

use eranos_base::UserError;
use eranos_ledger::{EncodedEntry, Entry};
use eranos_nn::{DataFile, Loss, Network, weights};

use crate::{
    model::floats,
    objects::{self, Objects},
    setup::Config,
    store::{self, SqliteStore, StateStore},
    task::Task,
};

/// What was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exported {
    /// After how many released rounds.
    pub released: u32,
    /// How many parameters.
    pub n_parameters: usize,
}

/// Writes the weights of the last released model of the coordinator in `dir` to `output`, as safetensors by the names of
/// its parameters.
///
/// # Errors
/// If nothing was released yet, the state cannot be read, or the task has changed since.
pub fn export(dir: &Path, output: &Path) -> Result<Exported, UserError> {
    let config = Config::read(dir)?;
    let task = Task::read(&config.task)?;
    let base = config.task.parent().unwrap_or(Path::new("."));
    let spec = task.model.source(base).load(Some(&DataFile::read(&base.join(&task.data))?.spec))?;
    let path = config.state.join(store::FILE);
    let unreleased = || {
        UserError::new(
            format!("{} holds no released model", config.state.display()),
            "let `eranos coordinator run` release a round first",
        )
    };
    // Opening it would make it.
    if !path.exists() {
        return Err(unreleased());
    }
    let unreadable = |error: &dyn std::fmt::Display| {
        let what = format!("cannot read the coordinator's state in {}: {error}", config.state.display());
        UserError::new(what, "try again when the coordinator does not run; restore a backup if it is damaged")
    };
    let store = SqliteStore::open(&path).map_err(|error| unreadable(&error))?;
    let resume = store.resume().map_err(|error| unreadable(&error))?;
    let resume = resume.filter(|resume| resume.released > 0).ok_or_else(unreleased)?;
    let objects = Objects::open(&config.state.join(objects::FOLDER)).map_err(|error| unreadable(&error))?;
    let checkpoint = objects.read(&resume.model.checkpoint).map_err(|error| unreadable(&error))?;
    let changed = || {
        let what = format!("the model in {} is not that of {}", config.state.display(), config.task.display());
        UserError::new(what, "restore the task and data file that the task was begun with")
    };
    let entries = store.entries_from(0).map_err(|error| unreadable(&error))?;
    let is_of_task = |entry: &EncodedEntry| matches!(Entry::parse(&entry.leaf, None), Ok(Entry::TaskOpened(opened)) if opened.task == task.name && opened.model == spec.digest());
    if !entries.iter().any(is_of_task) {
        return Err(changed());
    }
    let network = Loss::of_classes(&spec).and_then(|loss| Network::new(spec, loss)).map_err(|_| changed())?;
    let bytes = weights::save(&network, &floats(&checkpoint)).map_err(|_| changed())?;
    fs::write(output, bytes).map_err(|error| {
        UserError::new(format!("cannot write {}: {error}", output.display()), "choose another file for --output")
    })?;
    Ok(Exported { released: resume.released, n_parameters: network.n_parameters() })
}
