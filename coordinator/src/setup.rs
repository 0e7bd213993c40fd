//! From a folder to a coordinator that runs, and from nothing to such a folder.

use std::{
    fs,
    io::Write,
    net::SocketAddr,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use eranos_base::{Clock, Entropy, OsEntropy, SigningKey, SystemClock, UserError};
use eranos_certs::Party;
use eranos_ledger::{Disclosure, Entry, KeyRotated, LedgerSigner, LogWriter, Origin, entry::EntryKind};
use eranos_privacy::mechanism::{LocalTraining, NoiseTarget, SiloTraining};
use serde::Deserialize;
use tokio::sync::mpsc;

use crate::{
    federation::{Federation, FederationError, LEDGER, RoundReport, catch_up},
    metrics::{METRICS_ADDRESS, MetricsListener},
    server::{Server, ServerOptions},
    store::{self, Resume, SqliteStore, StateStore},
    task::{Contribution, Graph, Metrics, NO_SPARSE_GRAPH, Task},
};

/// The name of the configuration in a coordinator's folder.
pub const CONFIG: &str = "coordinator.toml";
/// The name of the task in a coordinator's folder.
pub const TASK: &str = "task.toml";
/// The name of the data file in a coordinator's folder.
pub const DATA: &str = "data.toml";
/// The line that pins the ledger key.
pub const LEDGER_PUB: &str = "ledger.pub";
const LEDGER_KEY: &str = "ledger.seed";
/// The key that is to follow, until the ledger has the entry that exchanges them.
const NEXT_LEDGER_KEY: &str = "ledger.seed.next";

/// `coordinator.toml`. Paths are relative to the file.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The version of this format; 1.
    pub version: u32,
    /// The address to listen on.
    pub listen: SocketAddr,
    /// The ledger's origin: its name in every checkpoint.
    pub ledger_origin: String,
    /// Where key, certificate and the authority's certificate lie.
    pub certificates: PathBuf,
    /// The task's file.
    pub task: PathBuf,
    /// Database, model, ledger.
    pub state: PathBuf,
    /// The address on this machine where metrics are shown; nowhere if left out.
    #[serde(default)]
    pub metrics: Option<SocketAddr>,
}

impl Config {
    /// Reads the configuration in `dir` and resolves its paths.
    ///
    /// # Errors
    /// If the file is missing, is not TOML, or says something that cannot be.
    pub fn read(dir: &Path) -> Result<Self, UserError> {
        let path = dir.join(CONFIG);
        let next = "make one with `eranos coordinator init`";
        let text = fs::read_to_string(&path)
            .map_err(|error| UserError::new(format!("cannot read {}: {error}", path.display()), next))?;
        let mut config: Self = crate::task::parse_toml(&text, &path, next)?;
        if config.version != 1 {
            let what = format!("{}: version = {}", path.display(), config.version);
            return Err(UserError::new(what, "this build reads version 1"));
        }
        for path in [&mut config.certificates, &mut config.task, &mut config.state] {
            // Taken apart and put together, it loses a "." in the middle.
            *path = dir.join(&*path).components().collect();
        }
        Ok(config)
    }
}

/// A coordinator ready to run.
pub struct Coordinator {
    /// Its task's rounds.
    pub federation: Federation,
    /// Its open socket.
    pub server: Server,
    /// What becomes of each round.
    pub reports: mpsc::Receiver<RoundReport>,
    /// Where metrics are shown.
    pub metrics: Option<SocketAddr>,
}

/// Reads everything in a coordinator's folder, opens its state and its socket. Must be called inside a runtime.
///
/// # Errors
/// If anything is missing or does not fit together; the error says what to do.
pub fn open(dir: &Path) -> Result<Coordinator, UserError> {
    open_with(dir, None)
}

/// As [`open`]; with metrics at an address on this machine, whatever the configuration says of them.
///
/// # Errors
/// As [`open`], or if metrics cannot be shown there.
pub fn open_with(dir: &Path, metrics: Option<SocketAddr>) -> Result<Coordinator, UserError> {
    let config = Config::read(dir)?;
    let listener = metrics.or(config.metrics).map(MetricsListener::bind).transpose()?;
    let metrics = listener.as_ref().and_then(|listener| listener.local_address().ok());
    let task = Task::read(&config.task)?;
    let signer = signer(dir, &config)?;
    let party = Party::load(&config.certificates).map_err(UserError::from)?;
    let trust_domain = party.anchor.trust_domain().clone();
    let clients_max = usize::from(task.cohort.clients_max);
    let (sender, reports) = mpsc::channel(REPORTS_QUEUED_MAX);
    let mut federation = Federation::open(&config.state, &config.task, task, trust_domain, signer, sender)?;
    federation.record_revocations(&party.anchor).map_err(|error| {
        let what = format!("cannot enter what the authority revoked: {error}");
        UserError::new(what, "check that the disk has room and the folder is yours")
    })?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let options = ServerOptions::new(config.listen, party, config.certificates, config.state, clients_max, clock);
    let server = Server::bind(options)?;
    let federation = federation.showing_metrics(listener);
    Ok(Coordinator { federation, server, reports, metrics })
}

/// What `init` writes into a coordinator's folder.
#[derive(Clone, Debug)]
pub struct Init {
    /// The folder.
    pub dir: PathBuf,
    /// The address to listen on.
    pub listen: SocketAddr,
    /// Where state goes, relative to the folder.
    pub state: PathBuf,
    /// The built-in model.
    pub model: String,
    /// The task's name.
    pub task: String,
    /// Clients in a round.
    pub clients: u16,
    /// The least number of survivors.
    pub survivors_min: u16,
    /// The most colluders.
    pub max_colluders: u16,
    /// Who shares keys with whom.
    pub graph: Graph,
    /// Rounds to release.
    pub rounds: u32,
    /// Attempts allowed.
    pub attempts_max: u32,
    /// The noise, by the epsilon that it promises for all attempts.
    pub noise: NoiseTarget,
    /// What a client puts into the sum, and with it the unit of privacy.
    pub contribution: Contribution,
    /// The data file that says what a record is; one for images like MNIST's is written if there is none.
    pub data: Option<PathBuf>,
    /// The server optimizer, as task.toml has it.
    pub optimizer: String,
    /// The norm that each record's gradient, or each client's update, is clipped to.
    pub l2_clip_norm: f64,
    /// What is measured of training; nothing if none.
    pub metrics: Option<Metrics>,
    /// READY's slot.
    pub ready_slot_ms: u32,
}

/// Writes a commented configuration and task, makes the ledger key, and returns the line that pins it.
///
/// # Errors
/// If they are there already, or cannot be written; or if no sparse graph of so many clients keeps its promises.
pub fn init(init: &Init, trust_domain: &str) -> Result<String, UserError> {
    let dir = &init.dir;
    let cannot = |path: &Path, error: &dyn std::fmt::Display| {
        UserError::new(format!("cannot write {}: {error}", path.display()), "choose a folder that can be written")
    };
    for name in [CONFIG, TASK, DATA, LEDGER_KEY] {
        let path = dir.join(name);
        if path.exists() {
            let what = format!("{} is there already", path.display());
            return Err(UserError::new(what, "edit it; a new ledger needs a new folder"));
        }
    }
    if init.graph == Graph::Sparse {
        let thresholds = init.graph.thresholds(init.clients, init.max_colluders, init.survivors_min);
        thresholds.map_err(|error| UserError::new(error.to_string(), NO_SPARSE_GRAPH))?;
    }
    fs::create_dir_all(dir).map_err(|error| cannot(dir, &error))?;
    // A new log is a new origin: two logs under one name would be a fork.
    let suffix = OsEntropy.bytes::<4>().iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let origin = format!("{trust_domain}/{}-{suffix}", init.task);
    let key_path = dir.join(LEDGER_KEY);
    make_seed(&key_path).map_err(|error| cannot(&key_path, &error))?;
    let line = read_signer(dir, LEDGER_KEY, &origin)?.ledger_key().to_string();
    let config = format!(
        "# A coordinator. Paths are relative to this file.\n\
         version = 1\n\n\
         # The address and UDP port to listen on.\n\
         listen = \"{}\"\n\
         # The ledger's name in every checkpoint. A new ledger takes a new name.\n\
         ledger_origin = \"{origin}\"\n\
         # Where key.pem, certificate.pem, ca.pem and crl.pem lie.\n\
         certificates = \".\"\n\
         # What is trained, and under which promise.\n\
         task = \"task.toml\"\n\
         # Database, model and ledger.\n\
         state = {:?}\n\
         # Metrics for Prometheus, /healthz and /readyz, over HTTP without a password: on this machine alone.\n\
         # metrics = \"{METRICS_ADDRESS}\"\n",
        init.listen, init.state
    );
    let task = task_text(init);
    let mut files = vec![(CONFIG, config), (TASK, task), (LEDGER_PUB, format!("{line}\n"))];
    if init.data.is_none() {
        files.push((DATA, DATA_TEXT.to_owned()));
    }
    for (name, text) in &files {
        let path = dir.join(name);
        fs::write(&path, text).map_err(|error| cannot(&path, &error))?;
    }
    Ok(line)
}

fn task_text(init: &Init) -> String {
    let data = init.data.as_deref().unwrap_or(Path::new(DATA));
    let [clipped, training, unit, sample] = contribution_texts(&init.contribution);
    format!(
        "# One model, trained on one kind of data, under one promise of privacy.\n\
         version = 1\n\
         # Clients opt into the task by this name.\n\
         name = \"{name}\"\n\
         # What a record is, and the operator's own, public test set: without one no accuracy is shown.\n\
         data = {data:?}\n\n\
         [model]\n\
         # A built-in model (cnn, lstm, nlp, recommender), or: definition = \"model.json\", as Keras 3 prints it with model.to_json().\n\
         builtin = \"{model}\"\n\n\
         [training]\n\
         {clipped}\
         l2_clip_norm = {clip:?}\n\
         # sgd {{ learning_rate }}, momentum {{ learning_rate, momentum }}, adam or yogi {{ learning_rate, beta_1, beta_2, epsilon }},\n\
         # adamw (adam's and weight_decay), or adagrad {{ learning_rate, initial_accumulator_value, epsilon }}: docs/strategies.md.\n\
         server_optimizer = {optimizer}\n\
         # constant, or linear: the learning rate falls along a line to last_share of it after n_steps rounds.\n\
         learning_rate_schedule = {{ name = \"linear\", n_steps = {rounds}, last_share = {LAST_SHARE:?} }}\n\
         {training}\n\
         # The clip may follow a quantile of the norms, from rounds that were released alone; the count of what was clipped\n\
         # travels as metrics do, and each plan names both bounds.\n\
         # [training.adaptive_clip]\n\
         # l2_clip_norm_min = 0.1\n\
         # l2_clip_norm_max = 10.0\n\
         # target_quantile = 0.5\n\
         # learning_rate = 0.2\n\
         # share = 0.01\n\n\
         [privacy]\n\
         {unit}\
         {noise}\
         delta = 1e-5\n\
         # The most epsilon of the attempts that one client is selected for, where more clients ask than a round takes: whoever\n\
         # has reached it is not selected any more. As much as all attempts cost, if left out.\n\
         # client_epsilon_max = 2.0\n\
         {sample}\n\
         {metrics}\
         [cohort]\n\
         clients_max = {clients}\n\
         # The least number of survivors of a round. Noise is sized for them, less the colluders.\n\
         survivors_min = {survivors_min}\n\
         # The most identities that may work with the coordinator against the others.\n\
         max_colluders = {max_colluders}\n\
         # complete: everybody shares keys with everybody, which holds against a coordinator that breaks the rules. sparse:\n\
         # each with a few, for a fraction of the work and bytes, if the parties trust the coordinator to keep to them;\n\
         # each must allow it in its policy.\n\
         graph = \"{graph}\"\n\n\
         [schedule]\n\
         # Rounds to release, and attempts allowed for them: one that aborts is charged too.\n\
         rounds = {rounds}\n\
         attempts_max = {attempts_max}\n\
         # Clients announce their vector at whole multiples of this after the plan.\n\
         ready_slot_ms = {ready_slot_ms}\n\
         # A phase waits for a vanished client for 5 times its median, but at least and at most this long.\n\
         phase_wait_min_ms = 2000\n\
         phase_timeout_ms = 60000\n\n\
         # What the ledger says of the task, for everybody to read: each is one line of at most 512 bytes, and \"not\n\
         # recorded\" if left out. Changed and started again, it is entered again.\n\
         # [statement]\n\
         # product = \"Recognition of handwritten digits\"\n\
         # curator = \"Example Hospital Trust, 1 Example Street\"\n\
         # purpose = \"Reading forms that patients filled in\"\n\
         # contact = \"privacy@example.org\"\n",
        name = init.task,
        model = init.model,
        clip = init.l2_clip_norm,
        optimizer = init.optimizer,
        noise = noise_text(init.noise),
        metrics = metrics_text(init.metrics),
        clients = init.clients,
        survivors_min = init.survivors_min,
        max_colluders = init.max_colluders,
        graph = match init.graph {
            Graph::Complete => "complete",
            Graph::Sparse => "sparse",
        },
        rounds = init.rounds,
        attempts_max = init.attempts_max,
        ready_slot_ms = init.ready_slot_ms,
    )
}

/// What differs between the units: what is clipped, what a client does, what is protected, and who is in a sum.
fn contribution_texts(contribution: &Contribution) -> [String; 4] {
    match contribution {
        Contribution::Records { sampling_probability: q, expected_lot, record_bound, local } => [
            "# Each record's gradient is clipped to this norm.\n".to_owned(),
            local.map_or(String::new(), |SiloTraining { steps, learning_rate, update_clip_norm }| {
                format!(
                    "\n[training.local]\n\
                     # Each client takes so many steps by itself, each with a sample and noise of its own. The change of the model\n\
                     # is clipped to this norm, on which no privacy rests. The server optimizer applies the mean of the updates.\n\
                     steps = {steps}\n\
                     learning_rate = {learning_rate:?}\n\
                     update_clip_norm = {update_clip_norm:?}\n"
                )
            }),
            "# What is protected: one record, added or removed. (\"client\": a whole client, for large cohorts.)\n\
             unit = \"record\"\n"
                .to_owned(),
            format!(
                "# Each record enters an attempt (with local noise each step) with this probability: numerator, denominator.\n\
                 sampling_probability = [{}, {}]\n\
                 # Public constants, never computed from what the clients hold: records expected in an attempt over all\n\
                 # clients (with local noise in a step of one client), and the most that one client may hold.\n\
                 expected_lot = {expected_lot}\n\
                 records_per_client_max = {record_bound}\n",
                q.numerator(),
                q.denominator(),
            ),
        ],
        Contribution::Update(LocalTraining { steps, batch_size, learning_rate }) => [
            "# Each client's update, the change of all parameters together, is clipped to this norm.\n".to_owned(),
            format!(
                "\n[training.local]\n\
                 # Each client trains by itself for so many steps of plain gradient descent on so many of its records, drawn\n\
                 # at random, whatever it has. The server optimizer applies the mean of the updates.\n\
                 steps = {steps}\n\
                 batch_size = {batch_size}\n\
                 learning_rate = {learning_rate:?}\n"
            ),
            "# What is protected: one client with all of its records, whose update might as well be zero. The noise on the\n\
             # mean falls with the number of clients alone: with a few it drowns any model but a small one.\n\
             unit = \"client\"\n"
                .to_owned(),
            "# Every client takes part in every round: nobody is sampled, and nothing is amplified.\n".to_owned(),
        ],
    }
}

fn metrics_text(metrics: Option<Metrics>) -> String {
    let (mark, Metrics { loss_max, share }) = match metrics {
        Some(metrics) => ("", metrics),
        None => ("# ", METRICS),
    };
    format!(
        "# Loss and accuracy on what the clients train on, inside the same masked vectors and under the same noise, so that\n\
         # epsilon is the same with and without them. A loss is cut to loss_max; their share of the clip makes the model's\n\
         # noise larger by half of it: 0.5 % here.\n\
         {mark}[metrics]\n\
         {mark}loss_max = {loss_max:?}\n\
         {mark}share = {share:?}\n\n"
    )
}

fn noise_text(noise: NoiseTarget) -> String {
    match noise {
        NoiseTarget::Local { epsilon } => format!(
            "# Each client adds all the noise that protects it or its records, and need trust nobody else's. It costs most:\n\
             # with unit = \"client\", epsilon is then local, of one update in place of any other.\n\
             noise = \"local\"\n\
             epsilon = {epsilon:?}\n"
        ),
        NoiseTarget::Distributed { epsilon } => format!(
            "# The noise is shared out over the clients. (\"none\", without epsilon, promises nothing to anybody's records;\n\
             # clients refuse it unless their policies allow it.)\n\
             noise = \"distributed\"\n\
             # Of all attempts together, against the coordinator working with max_colluders clients.\n\
             epsilon = {epsilon:?}\n"
        ),
        NoiseTarget::None => {
            "# NOT PRIVATE: nobody adds noise, nothing is promised to anybody's records, and clients refuse the plan \
             unless\n# their policies allow it. With noise = \"distributed\" epsilon is named too.\n\
             noise = \"none\"\n"
                .to_owned()
        }
    }
}

/// The bindings of all pseudonyms that stood in rosters of this coordinator, and whom the entries about members are about. It may run meanwhile.
///
/// # Errors
/// If it never ran, or its state cannot be read.
pub fn disclose(dir: &Path) -> Result<Disclosure, UserError> {
    let config = Config::read(dir)?;
    let path = config.state.join(store::FILE);
    // Opening it would make it.
    if !path.exists() {
        let what = format!("{} holds no state", config.state.display());
        return Err(UserError::new(what, "let `eranos coordinator run` arrange a round first"));
    }
    let read = |store: SqliteStore| {
        Ok(Disclosure {
            bindings: store.bindings()?,
            openings: store.members()?.into_iter().map(|one| one.opening).collect(),
        })
    };
    SqliteStore::open(&path).and_then(read).map_err(|error| {
        let what = format!("cannot read the coordinator's state in {}: {error}", config.state.display());
        let next = "try again when the coordinator does not run; restore a backup if it is damaged";
        UserError::new(what, error.next_step(next))
    })
}

/// Exchanges the ledger's key for a fresh one, by an entry that both sign, and returns the line of the new key. Clients and
/// auditors that pin the old one follow. The coordinator must not run. Begun again after a crash, it finishes what it began.
///
/// # Errors
/// If nothing was entered into the ledger yet, or state, ledger or keys cannot be read or written.
pub fn rotate_key(dir: &Path) -> Result<String, UserError> {
    let config = Config::read(dir)?;
    if !config.state.join(store::FILE).exists() {
        let what = format!("{} holds no ledger yet", config.state.display());
        return Err(UserError::new(what, "nobody can follow a key of an empty ledger: `eranos coordinator run` first"));
    }
    let path = dir.join(NEXT_LEDGER_KEY);
    if !path.exists() {
        // A coordinator that runs keeps the ledger to itself: then nothing is begun.
        let signer = Arc::new(read_signer(dir, LEDGER_KEY, &config.ledger_origin)?);
        let opened = Ok(()).and_then(|()| {
            let store = SqliteStore::open(&config.state.join(store::FILE))?;
            let Some(resume) = store.resume()? else { return Ok(()) };
            let ledger = config.state.join(LEDGER);
            LogWriter::restore(ledger, signer, &store.entries_from(0)?, resume.ledger_durable)?;
            Ok(())
        });
        opened.map_err(|error: FederationError| {
            let what = format!("cannot exchange the ledger's key: {error}");
            UserError::new(what, error.next_step("stop the coordinator first, and start it again afterwards"))
        })?;
        make_seed(&path).map_err(|error| {
            UserError::new(format!("cannot write {}: {error}", path.display()), "choose a folder that can be written")
        })?;
    }
    finish_rotation(dir, &config)
}

/// Enters the exchange of the ledger's key for the next one, and puts that in its place. Each step is durable before the
/// one after it and may be done again: the entry in the database, then in the ledger under the new key's checkpoint, then
/// the key's file.
fn finish_rotation(dir: &Path, config: &Config) -> Result<String, UserError> {
    let next = "stop the coordinator, mend the cause and run `eranos coordinator rotate-key` again";
    let failed =
        |error: &dyn std::fmt::Display| UserError::new(format!("cannot exchange the ledger's key: {error}"), next);
    let old = Arc::new(read_signer(dir, LEDGER_KEY, &config.ledger_origin)?);
    let new = Arc::new(read_signer(dir, NEXT_LEDGER_KEY, &config.ledger_origin)?);
    let store = SqliteStore::open(&config.state.join(store::FILE))
        .map_err(|error| UserError { next: error.next_step(next).into(), ..failed(&error) })?;
    let resume = store.resume().map_err(|error| failed(&error))?;
    let resume = resume.ok_or_else(|| failed(&"the ledger has no entry yet"))?;
    enter_rotation(&store, &resume, &config.state.join(LEDGER), &old, &new).map_err(|error| failed(&error))?;
    let line = new.ledger_key().to_string();
    let publish = || -> std::io::Result<()> {
        // The key's file last: while the next one is there, a start comes back to here.
        let mut file = fs::File::create(dir.join(LEDGER_PUB))?;
        file.write_all(format!("{line}\n").as_bytes())?;
        file.sync_all()?;
        // In place, before its name goes to the new one: what is only unlinked stays on the disk. A file system or a disk
        // that writes elsewhere than it was told keeps the old key all the same, and so do copies.
        let mut old = fs::OpenOptions::new().write(true).open(dir.join(LEDGER_KEY))?;
        old.write_all(&[0; 32])?;
        old.sync_all()?;
        fs::rename(dir.join(NEXT_LEDGER_KEY), dir.join(LEDGER_KEY))?;
        sync_folder_of(&dir.join(LEDGER_KEY))
    };
    publish().map_err(|error| failed(&error))?;
    Ok(line)
}

fn enter_rotation(
    store: &SqliteStore,
    resume: &Resume,
    dir: &Path,
    old: &Arc<LedgerSigner>,
    new: &Arc<LedgerSigner>,
) -> Result<(), FederationError> {
    let entries = store.entries_from(0)?;
    let last = entries.last().filter(|last| EntryKind::of(&last.leaf) == Some(EntryKind::KeyRotated));
    let committed = match last.map(|last| Entry::parse(&last.leaf, None)).transpose()? {
        Some(Entry::KeyRotated(rotation)) => rotation.new == new.ledger_key(),
        _ => false,
    };
    let mut ledger = if committed {
        LogWriter::restore(dir, new.clone(), &entries, resume.ledger_durable)?
    } else {
        let (_, mut ledger) = catch_up(store, resume, dir, old.clone())?;
        let index = ledger.size();
        let entry = Entry::KeyRotated(KeyRotated::sign(index, old, new)).encode()?;
        ledger.rotate(store.append_entry(&entry, ledger.durable())?, &entry, new.clone())?;
        ledger
    };
    // The database does not say which key signs: the files do, before the old key is forgotten.
    ledger.sync()?;
    Ok(())
}

/// The secret seed in a file, made if there is none.
pub(crate) fn read_or_make_seed(path: &Path) -> std::io::Result<zeroize::Zeroizing<[u8; 32]>> {
    if !path.exists() {
        make_seed(path)?;
    }
    let bytes = zeroize::Zeroizing::new(fs::read(path)?);
    let seed = bytes.as_slice().try_into().map_err(|_| std::io::Error::other("it is not 32 bytes"))?;
    Ok(zeroize::Zeroizing::new(seed))
}

/// Makes a secret seed that its owner alone may read, and returns when it is durable, its name too: what it signs is worth
/// nothing without it. It is there whole or not at all, and never put in another's place.
fn make_seed(path: &Path) -> std::io::Result<()> {
    let seed = zeroize::Zeroizing::new(OsEntropy.bytes::<32>());
    let aside = path.with_extension("tmp");
    // What a crash left may be whole, and by now have the name of a seed in use: nothing is ever written into it.
    match fs::remove_file(&aside) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&aside)?;
    file.write_all(&*seed)?;
    file.sync_all()?;
    let linked = fs::hard_link(&aside, path);
    fs::remove_file(&aside)?;
    linked?;
    sync_folder_of(path)
}

fn sync_folder_of(path: &Path) -> std::io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::File::open(folder)?.sync_all()
}

/// The ledger's signer of the coordinator in `dir`, which must not run. A rotation of its key that was cut off is finished.
///
/// # Errors
/// If the key cannot be read.
pub(crate) fn signer(dir: &Path, config: &Config) -> Result<Arc<LedgerSigner>, UserError> {
    if dir.join(NEXT_LEDGER_KEY).exists() {
        finish_rotation(dir, config)?;
    }
    Ok(Arc::new(read_signer(dir, LEDGER_KEY, &config.ledger_origin)?))
}

fn read_signer(dir: &Path, name: &str, origin: &str) -> Result<LedgerSigner, UserError> {
    let path = dir.join(name);
    let wrong = |what: &str| {
        let what = format!("cannot read the ledger key {}: {what}", path.display());
        UserError::new(what, "restore it: without it this ledger cannot go on")
    };
    let bytes = zeroize::Zeroizing::new(fs::read(&path).map_err(|error| wrong(&error.to_string()))?);
    let seed: [u8; 32] = bytes.as_slice().try_into().map_err(|_| wrong("it is not 32 bytes"))?;
    let seed = zeroize::Zeroizing::new(seed);
    let origin: Origin = origin.parse().map_err(|error: eranos_ledger::KeyError| wrong(&error.to_string()))?;
    Ok(LedgerSigner::new(origin, SigningKey::from_seed(&seed)))
}

/// Reports of rounds that nobody has taken yet.
const REPORTS_QUEUED_MAX: usize = 64;
/// The data file of the example task.
const DATA_TEXT: &str = "\
# What a record is, the same for every client. Paths are relative to this file.
version = 1

[records]
# Images in IDX, their pixels divided by 255: height, width, channels.
format = \"images\"
shape = [28, 28, 1]
classes = 10

# The operator's own, public test set; without one no accuracy is shown.
# [test]
# records = \"images-idx3-ubyte.gz\"
# labels = \"labels-idx1-ubyte.gz\"
";
/// The clip norm of the example task. It and the next two were chosen on digits outside the sample: benches/README.md.
pub const CLIP: f64 = 1.0;
/// The server optimizer of the example task.
pub const OPTIMIZER: &str = "{ name = \"sgd\", learning_rate = 4.0 }";
/// The server optimizer of the example task with unit = client: the mean update is taken as it is.
pub const MEAN_OPTIMIZER: &str = "{ name = \"sgd\", learning_rate = 1.0 }";
/// What is measured in the example task.
pub const METRICS: Metrics = Metrics { loss_max: 4.0, share: 0.01 };
/// What a client does by itself in the example task.
pub const LOCAL_TRAINING: LocalTraining = LocalTraining { steps: 10, batch_size: 32, learning_rate: 0.1 };
/// What a client does by itself in the example task with unit = record and noise = local.
pub const SILO_TRAINING: SiloTraining = SiloTraining { steps: 5, learning_rate: 0.5, update_clip_norm: 1.0 };
/// What the example task's learning rate falls to.
const LAST_SHARE: f64 = 0.1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_there_whole_or_not_at_all_and_no_crash_costs_another_one() {
        let dir = tempfile::tempdir().unwrap();
        let (path, aside) = (dir.path().join(NEXT_LEDGER_KEY), dir.path().join("ledger.seed.tmp"));
        // Killed while it was written: nobody takes it for a seed.
        fs::write(&aside, [7; 9]).unwrap();
        make_seed(&path).unwrap();
        let seed = fs::read(&path).unwrap();
        assert_eq!((seed.len(), aside.exists()), (32, false));
        assert_ne!(seed[..9], [7; 9]);
        assert!(make_seed(&path).is_err(), "another one is there");
        assert_eq!((fs::read(&path).unwrap(), aside.exists()), (seed.clone(), false));
        // Killed once it had its name, which has changed since: the next one takes nothing from it.
        let in_use = dir.path().join(LEDGER_KEY);
        fs::hard_link(&path, &aside).unwrap();
        fs::rename(&path, &in_use).unwrap();
        make_seed(&path).unwrap();
        assert_eq!(fs::read(&in_use).unwrap(), seed);
        assert_ne!(fs::read(&path).unwrap(), seed);
        assert!(!aside.exists());
    }
}
