//! How a coordinator's state is opened: a session begun, or gone on with.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::Arc,
};

use eranos_base::{
    ClientId, Clock, Digest, Entropy, OsEntropy, SessionId, SteadyClock, SystemClock, TaskId, TrustDomain, UserError,
    limits::UPLOAD_GRANTS_MAX,
};
use eranos_ledger::{Date, EncodedEntry, Entry, EntryError, LedgerSigner, LogOpened, TaskOpened, entry::EntryKind};
use eranos_nn::{DataFile, DataSpec, ModelSpec};
use eranos_privacy::{Mechanism, Promise};
use eranos_wire::messages::{
    Blob, RoundRef,
    select::{LogRestored, ROTATIONS_MAX, Rotation},
};
use tokio::sync::{Semaphore, mpsc};

use super::{
    Current, Federation, FederationError, LEDGER, RoundReport, Totals,
    journal::{catch_up, enter},
};
use crate::{
    cosigned::{self, CosignedFolder},
    entries::{self, Attempts, Members},
    exchanges::Exchanges,
    model::Model,
    objects::{self, Objects},
    pace::Pace,
    round::Round,
    status::{self, StatusSocket},
    store::{self, ModelState, SqliteStore, StateStore, StoreError},
    task::{Sizing, Task},
};

impl Federation {
    /// Opens the state in `dir`: begins a session, or goes on with the one that is there. A round that was open when the
    /// process ended is aborted, its debits kept.
    ///
    /// # Errors
    /// If the task's parameters contradict each other, or the state cannot be opened.
    pub fn open(
        dir: &Path,
        task_path: &Path,
        task: Task,
        trust_domain: TrustDomain,
        signer: Arc<LedgerSigner>,
        reports: mpsc::Sender<RoundReport>,
    ) -> Result<Self, UserError> {
        let base = task_path.parent().unwrap_or(Path::new("."));
        let data = DataFile::read(&base.join(&task.data))?;
        let spec = task.model.source(base).load(Some(&data.spec))?;
        let mechanism = mechanism(&task, spec.n_parameters())?;
        if let Some(most) = task.privacy.client_epsilon_max
            && status::attempts_within(&mechanism, Some(most)) == 0
        {
            let one = mechanism.promised_epsilon(1, mechanism.common().delta);
            let what = format!("privacy.client_epsilon_max = {most} allows no attempt: one costs epsilon {one:.3}");
            return Err(UserError::new(
                what,
                "allow a client more, or add more noise to each attempt: a smaller epsilon",
            ));
        }
        let opened = Self::open_state(dir, task, trust_domain, signer, reports, spec, mechanism, data);
        opened.map_err(|error| {
            let what = format!("cannot open the coordinator's state in {}: {error}", dir.display());
            let next = "check that the disk has room and the folder is yours; restore a backup if it is damaged";
            UserError::new(what, error.next_step(next))
        })
    }

    #[expect(clippy::too_many_arguments, reason = "one private caller; a struct would only rename them")]
    pub(super) fn open_state(
        dir: &Path,
        task: Task,
        trust_domain: TrustDomain,
        signer: Arc<LedgerSigner>,
        reports: mpsc::Sender<RoundReport>,
        spec: ModelSpec,
        mechanism: Mechanism,
        data: DataFile,
    ) -> Result<Self, FederationError> {
        let objects = Objects::open(&dir.join(objects::FOLDER))?;
        let store = SqliteStore::open(&dir.join(store::FILE))?;
        let mut attempts = Attempts::new(entries::executable());
        let resume = match store.resume()? {
            Some(resume) => resume,
            None => {
                let model = Model::initialise(spec.clone(), task.training.server_optimizer, &mut OsEntropy)?;
                let state = keep(&objects, &model)?;
                let nonce = OsEntropy.bytes();
                let date = Date::of(SystemClock.now());
                let leaves = opening(&task, &trust_domain, &signer, &model, &data.spec, &mechanism, &nonce, date)?;
                store.begin_session(&nonce, state, &leaves)?;
                store.resume()?.ok_or(StoreError::Malformed { what: "session" })?
            }
        };
        let (entries, mut ledger) = catch_up(&store, &resume, &dir.join(LEDGER), signer.clone())?;
        let before = resume.before;
        let n_attempts = resume.attempts.saturating_add(before.attempts);
        let mut rotations = Vec::new();
        let mut said = entries::Said::default();
        for (index, entry) in (0..).zip(&entries) {
            let attachment = ledger.attachment(&entry.leaf)?;
            let entry = Entry::parse(&entry.leaf, attachment.as_deref())?;
            if let Entry::KeyRotated(rotation) = &entry {
                rotations.push((*rotation.old.key(), index));
            }
            if let Entry::TaskOpened(opened) = &entry
                && (opened.task != task.name
                    || opened.mechanism != mechanism
                    || opened.model != spec.digest()
                    || opened.data != Digest::of(&data.spec.to_canonical()))
            {
                // What was promised when the task was opened holds until its end.
                return Err(FederationError::TaskChanged);
            }
            attempts.count(&entry, &task.name);
            said.take(entry);
        }
        let model = Model::restore(
            spec,
            task.training.server_optimizer,
            &objects.read(&resume.model.checkpoint)?,
            &objects.read(&resume.model.optimizer)?,
        )?;
        let origin = signer.ledger_key().name().clone();
        let session = SessionId::derive(&trust_domain, origin.as_str(), &task.name, &resume.session_nonce);
        let statements =
            entries::statements(&task, session, &mechanism, attempts.executable(), said, SystemClock.now())?;
        for entry in statements {
            enter(&store, &mut ledger, &entry)?;
        }
        let members = Members::new(origin, store.members()?);
        objects.keep_only(&[resume.model.checkpoint, resume.model.optimizer])?;
        let round_ref = RoundRef { session, round: resume.last_round };
        let debits = store.debits()?;
        let mut debited: BTreeMap<ClientId, u64> =
            store.carried()?.into_iter().map(|(id, debit)| (id, debit.attempts)).collect();
        debits.iter().for_each(|(id, debit)| *debited.entry(id.clone()).or_default() += debit.attempts);
        debited.values_mut().for_each(|attempts| *attempts += u64::from(before.lost));
        let restored = restored_from(&entries, store.rotations_before()?);
        let attempts_per_client_max = status::attempts_within(&mechanism, task.privacy.client_epsilon_max);
        let cosigned = CosignedFolder::open(&dir.join(cosigned::FOLDER), &ledger)?;
        let status = Some(StatusSocket::open(dir).map_err(FederationError::Status)?);
        let pace = Pace::new(&task.schedule);
        Ok(Self {
            task,
            trust_domain,
            signer,
            store: Box::new(store),
            objects,
            ledger,
            rotations,
            restored,
            before,
            attempts,
            members,
            trust: None,
            mechanism,
            model,
            model_state: resume.model,
            data_spec: data.spec.to_canonical(),
            test_set: data.test_set.map(Arc::new),
            session_nonce: resume.session_nonce,
            last_round: resume.last_round,
            n_attempts,
            released: resume.released.saturating_add(before.released),
            received: Arc::new(debits.iter().map(|(id, debit)| (id.clone(), debit.received)).collect()),
            debited,
            attempts_per_client_max,
            status,
            metrics: None,
            round: Round::Over,
            round_ref,
            exchanges: Exchanges::default(),
            directory: BTreeMap::new(),
            cosigned,
            known: BTreeMap::new(),
            late: BTreeMap::new(),
            uploads: BTreeMap::new(),
            places: Arc::new(Semaphore::new(UPLOAD_GRANTS_MAX)),
            pace,
            clock: SteadyClock::begin(),
            wake: None,
            finished: None,
            current: Current::default(),
            previous: None,
            dismissing: false,
            totals: Totals::default(),
            reports,
            told: BTreeSet::new(),
            warnings: None,
            warned: None,
            versions_said: BTreeMap::new(),
            known_before: 0,
            excluded: BTreeSet::new(),
            certificates: BTreeMap::new(),
            shown: BTreeMap::new(),
        })
    }
}

/// What to say to whoever knows the log that this one goes on from; nothing where it goes on from none.
fn restored_from(entries: &[EncodedEntry], rotations: Vec<(u64, Vec<u8>)>) -> Option<LogRestored> {
    let [opened, restored, ..] = entries else { return None };
    if EntryKind::of(&restored.leaf) != Some(EntryKind::LogRestored) {
        return None;
    }
    let n_before = rotations.len().saturating_sub(ROTATIONS_MAX);
    let rotations = rotations.into_iter().skip(n_before);
    Some(LogRestored {
        opened: Blob(opened.leaf.clone()),
        restored: Blob(restored.leaf.clone()),
        rotations: rotations.map(|(index, entry)| Rotation { index, entry: Blob(entry) }).collect(),
    })
}

/// The mechanism of a task: the least noise that keeps its promise.
///
/// # Errors
/// If no noise keeps it, or the task's parameters contradict each other.
pub fn mechanism(task: &Task, n_parameters: usize) -> Result<Mechanism, UserError> {
    let (privacy, cohort) = (&task.privacy, &task.cohort);
    let failed = |error: &dyn std::fmt::Display| {
        let what = format!("the task's privacy cannot be kept: {error}");
        UserError::new(what, "allow a larger epsilon, fewer attempts, or a smaller sampling probability")
    };
    let noise = privacy.noise_target().map_err(|error| failed(&error))?;
    let n_parameters = u32::try_from(n_parameters).unwrap_or(u32::MAX);
    let groups = task.groups().map_err(|error| failed(&error))?;
    let contribution = task.contribution().map_err(|(what, next)| UserError::new(what, next))?;
    let sizing = Sizing {
        groups,
        l2_clip_norm: task.training.l2_clip_norm,
        n_parameters,
        clients_max: cohort.clients_max,
        survivors_min: cohort.survivors_min,
        max_colluders: cohort.max_colluders,
        attempts_max: task.schedule.attempts_max,
        noise,
        delta: privacy.delta,
    };
    contribution.mechanism(&sizing).map_err(|error| failed(&error))
}

/// Makes the model durable, before any row names it.
pub(super) fn keep(objects: &Objects, model: &Model) -> std::io::Result<ModelState> {
    let [checkpoint, optimizer] = objects.put([&model.checkpoint(), &model.optimizer_state()])?;
    Ok(ModelState { checkpoint, optimizer })
}

/// The entries that open the ledger of the session with this nonce.
///
/// # Errors
/// If an entry cannot be encoded.
#[expect(clippy::too_many_arguments, reason = "each is one field of the two entries")]
pub fn opening(
    task: &Task,
    trust_domain: &TrustDomain,
    signer: &LedgerSigner,
    model: &Model,
    data: &DataSpec,
    mechanism: &Mechanism,
    nonce: &[u8; 32],
    date: Date,
) -> Result<[EncodedEntry; 2], EntryError> {
    let ledger_key = signer.ledger_key();
    let origin = ledger_key.name().clone();
    let session = SessionId::derive(trust_domain, origin.as_str(), &task.name, nonce);
    let opened = LogOpened { origin, trust_domain: trust_domain.clone(), ledger_key, date };
    let task_opened = TaskOpened {
        task: TaskId::clone(&task.name),
        nonce: *nonce,
        session,
        model: model.spec().digest(),
        data: Digest::of(&data.to_canonical()),
        weights: model.digest(),
        mechanism: mechanism.clone(),
        budget_epsilon: task.privacy.epsilon.unwrap_or(f64::INFINITY),
        budget_delta: task.privacy.delta,
    };
    Ok([Entry::LogOpened(opened).encode()?, Entry::TaskOpened(Box::new(task_opened)).encode()?])
}
