//! The trained model, on its way out of a coordinator's folder, and its entry in the ledger, so that whoever is given the file
//! can tell from which round it comes. For the operator's own use nothing is entered: then database and objects are read, and
//! neither the ledger's key nor a coordinator that does not run is needed.

use std::{fs, path::Path};

use eranos_base::{Digest, TaskId, UserError};
use eranos_ledger::{AppendError, EncodedEntry, Entry, ModelPublished, Outcome};
use eranos_nn::{DataFile, Loss, Network, weights};

use crate::{
    federation::{FederationError, LEDGER, catch_up, enter},
    model::floats,
    objects::{self, Objects},
    setup::{self, Config},
    store::{self, Resume, SqliteStore, StateStore, StoreError},
    task::Task,
};

/// What was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exported {
    /// After how many released rounds.
    pub released: u32,
    /// How many parameters.
    pub n_parameters: usize,
    /// SHA-256 of the file.
    pub file: Digest,
}

/// Writes the weights of the last released model of the coordinator in `dir` to `output`, as safetensors by the names of
/// its parameters; and, to be `published`, enters it into the ledger first: what is given away is never without its entry.
///
/// # Errors
/// If nothing was released yet, the state cannot be read, or the task has changed since; to publish, also if the coordinator
/// runs, or the ledger cannot be written.
pub fn export(dir: &Path, output: &Path, published: bool) -> Result<Exported, UserError> {
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
    let unreadable = |error: &StoreError| {
        let what = format!("cannot read the coordinator's state in {}: {error}", config.state.display());
        let next = "try again when the coordinator does not run; restore a backup if it is damaged";
        UserError::new(what, error.next_step(next))
    };
    let store = SqliteStore::open(&path).map_err(|error| unreadable(&error))?;
    let resume = store.resume().map_err(|error| unreadable(&error))?;
    let resume = resume.filter(|resume| resume.released > 0).ok_or_else(unreleased)?;
    let objects = Objects::open(&config.state.join(objects::FOLDER)).map_err(|error| unreadable(&error.into()))?;
    let checkpoint = objects.read(&resume.model.checkpoint).map_err(|error| unreadable(&error.into()))?;
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
    let file = Digest::of(&bytes);
    if published {
        publish(dir, &config, &store, &resume, &task.name, file)?;
    }
    fs::write(output, bytes).map_err(|error| {
        UserError::new(format!("cannot write {}: {error}", output.display()), "choose another file for --output")
    })?;
    Ok(Exported { released: resume.released, n_parameters: network.n_parameters(), file })
}

/// Enters that the last released model was given away as `file`, if the ledger does not say so.
fn publish(
    dir: &Path,
    config: &Config,
    store: &SqliteStore,
    resume: &Resume,
    task: &TaskId,
    file: Digest,
) -> Result<(), UserError> {
    let failed = |error: &dyn std::fmt::Display| {
        let what = format!("cannot enter the model into the ledger: {error}");
        UserError::new(what, "mend the cause, or take the model with --unpublished for your own use alone")
    };
    let signer = setup::signer(dir, config)?;
    let enter_last = || -> Result<(), FederationError> {
        let (entries, mut ledger) = catch_up(store, resume, &config.state.join(LEDGER), signer)?;
        let mut last = None;
        let mut said = Vec::new();
        for entry in entries {
            let attachment = ledger.attachment(&entry.leaf)?;
            match Entry::parse(&entry.leaf, attachment.as_deref())? {
                Entry::Attempt(attempt) if attempt.task == *task => {
                    if let Outcome::Released { weights_after } = attempt.outcome {
                        last = Some((attempt.session, attempt.round, weights_after));
                    }
                }
                Entry::ModelPublished(published) => said.push(published),
                _ => {}
            }
        }
        // The model was read before the ledger was this process's: a round may have been released in between.
        let last = last.filter(|(.., weights)| *weights == resume.model.checkpoint);
        let Some((session, round, weights)) = last else { return Err(FederationError::ModelMoved) };
        let published = ModelPublished { task: task.clone(), session, round, weights, file };
        if said.contains(&published) {
            return Ok(());
        }
        enter(store, &mut ledger, &Entry::ModelPublished(published).encode()?)
    };
    enter_last().map_err(|error| match error {
        FederationError::Ledger(AppendError::Locked) => UserError::new(
            "the model cannot be entered into the ledger while the coordinator runs",
            "stop the coordinator first, or take the model with --unpublished for your own use alone",
        ),
        FederationError::ModelMoved => UserError::new(
            format!("the model was not entered into the ledger: {}", FederationError::ModelMoved),
            "run it again",
        ),
        error => failed(&error),
    })
}
