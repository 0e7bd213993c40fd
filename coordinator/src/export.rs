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
        let caught_up = catch_up(store, resume, &config.state.join(LEDGER), signer);
        let (entries, mut ledger) = caught_up.map_err(|error| match (&error, store.resume()) {
            // A coordinator went on from what was read before the ledger was this process's.
            (FederationError::Ledger(AppendError::Locked), _) => error,
            (_, Ok(Some(now))) if now != *resume => FederationError::ModelMoved,
            _ => error,
        })?;
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
            format!("nothing was entered into the ledger: {}", FederationError::ModelMoved),
            "run it again",
        ),
        error => failed(&error),
    })
}

#[cfg(test)]
mod tests {
    use eranos_ledger::{
        entry::attachment_of,
        tile::{Folder, Tile, TileSource, parse_entries},
    };

    use super::*;
    use crate::store::ModelState;

    #[test]
    fn what_is_entered_is_what_was_exported_or_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let stored = Folder::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("../common/ledger/tests/vectors/log"));
        let tile = Tile::parse("tile/entries/000.p/9").unwrap();
        let bundle = stored.read(&tile).unwrap();
        let entries: Vec<EncodedEntry> = parse_entries(&tile, &bundle)
            .unwrap()
            .into_iter()
            .map(|leaf| EncodedEntry {
                leaf: leaf.to_vec(),
                attachment: attachment_of(leaf).map(|name| stored.read_attachment(&name).unwrap()),
            })
            .collect();
        let last = |entry: &EncodedEntry| match Entry::parse(&entry.leaf, entry.attachment.as_deref()) {
            Ok(Entry::Attempt(attempt)) => match attempt.outcome {
                Outcome::Released { weights_after } => Some((attempt.task.clone(), weights_after)),
                _ => None,
            },
            _ => None,
        };
        let (task, weights) = entries.iter().rev().find_map(last).unwrap();
        fs::write(dir.join("ledger.seed"), [2; 32]).unwrap();
        let config = Config {
            version: 1,
            listen: "127.0.0.1:1".parse().unwrap(),
            ledger_origin: "ledger.example.org".to_owned(),
            certificates: dir.to_owned(),
            task: dir.join("task.toml"),
            state: dir.join("state"),
            metrics: None,
        };
        fs::create_dir(&config.state).unwrap();
        let store = SqliteStore::open(&config.state.join(store::FILE)).unwrap();
        let model = ModelState { checkpoint: weights, optimizer: Digest::ZERO };
        store.begin_session(&[0; 32], model, &entries).unwrap();
        let resume = store.resume().unwrap().unwrap();
        let n_entries = || store.entries_from(0).unwrap().len();

        // Read before the round that was released last; and of a task of which nothing was.
        let before = Resume { model: ModelState { checkpoint: Digest::of(b"before"), ..model }, ..resume.clone() };
        let other: TaskId = "other".parse().unwrap();
        for (read, task) in [(&before, &task), (&resume, &other)] {
            let error = publish(dir, &config, &store, read, task, Digest::of(b"file")).unwrap_err();
            assert!(
                error.what.starts_with("nothing was entered into the ledger: the model that was read is not "),
                "{error}"
            );
            assert_eq!((&*error.next, n_entries()), ("run it again", entries.len()));
        }
        // A round was open, which whoever had the ledger meanwhile has closed.
        let abort_entry = entries.last().unwrap().clone();
        let open_round = Some(store::OpenRound { round: eranos_base::RoundNumber(9), abort_entry });
        let open = Resume { open_round, ..resume.clone() };
        let error = publish(dir, &config, &store, &open, &task, Digest::of(b"file")).unwrap_err();
        assert_eq!((&*error.next, n_entries()), ("run it again", entries.len()), "{error}");

        // Once for each file.
        for (file, n_entered) in [("file", 1), ("file", 1), ("another", 2)] {
            publish(dir, &config, &store, &resume, &task, Digest::of(file.as_bytes())).unwrap();
            assert_eq!(n_entries(), entries.len() + n_entered);
        }
    }
}
