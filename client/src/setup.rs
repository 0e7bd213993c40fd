//! From a folder to a client that runs, and from nothing to such a folder.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use eranos_base::{Clock, SystemClock, UserError};
use eranos_certs::{ClientIdentity, Party};
use eranos_ledger::{Binding, LedgerKey, WitnessKey};
use eranos_nn::data::Files;
use eranos_privacy::budget::{Terms, UnitOfPrivacy};
use eranos_secagg::{Identity, StatementKey, VerifiedCertifications};
use eranos_wire::tls::{ClientTls, Credentials, SharedTrust};

use crate::{
    certificates::{Certificates, material},
    conditions::Machine,
    config::Config,
    connection::Connector,
    policy::{
        LOCAL_LEARNING_RATE_MAX_DEFAULT, LOCAL_RECORDS_MAX_DEFAULT, PARAMETERS_MAX_DEFAULT,
        PHASE_TIMEOUT_MS_MAX_DEFAULT, Policy, Unit, WITNESS_LAG_MAX_DEFAULT,
    },
    round::Member,
    session::Session,
    store::{self, Store},
    trainer::{Pool, Trainer},
};

/// The name of the configuration in a client's folder.
pub const CONFIG: &str = "client.toml";
/// The name of the policy in a client's folder.
pub const POLICY: &str = "policy.toml";

/// Reads everything in a client's folder and makes a client of it.
///
/// # Errors
/// If anything is missing or does not fit together; the error says what to do.
pub fn open(dir: &Path, pool: Option<Pool>) -> Result<Session, UserError> {
    let config = Config::read(&dir.join(CONFIG))?;
    let policy = Policy::read(&dir.join(POLICY))?;
    let ledger_key = pinned_key(dir, &config)?;
    let (party, identity) = party(&config)?;
    let files = read_files(&config, &policy)?;
    let store = Store::open(&config.state, config.budget_dir(), terms(&policy), &ledger_key)?;
    if let Some(witness) =
        policy.witnesses.iter().find(|one| store.ledger_keys().iter().any(|key| key.key() == one.key()))
    {
        let what = format!("policy.toml: the witness {} has a key of the ledger itself", witness.name());
        return Err(UserError::new(what, "a witness is somebody else: ask for the line in its own witness.pub"));
    }
    let statement_key = StatementKey::derive(store.secret(), &config.task);
    let pool = match pool {
        Some(pool) => pool,
        None => Pool::new(config.threads).map_err(|error| {
            UserError::new(format!("cannot start threads: {error}"), "lower `threads` in client.toml")
        })?,
    };
    let form = files.form();
    let trainer = Arc::new(Trainer::new(files, pool));
    let (tls, trust) = tls(&party)?;
    let connector = Connector::new(&config.coordinator, tls.clone())?;
    let trust_domain = party.anchor.trust_domain().clone();
    let certificates = Certificates::new(
        &config.certificates,
        &config.state,
        party.anchor,
        identity.clone(),
        &party.certificate,
        trust,
        tls,
    )?;
    let member = Member {
        trust_domain,
        identity: Arc::new(Identity {
            id: identity.id,
            certificate: identity.fingerprint,
            certificate_key: party.key,
            statement_key,
            verified: VerifiedCertifications::default(),
        }),
        task: config.task,
        ledger_key: store.ledger_key().clone(),
        policy,
        trust: Arc::new(certificates.believed()),
        n_classes: config.classes,
        form,
    };
    let (conditions, machine) = (config.conditions, Machine::this());
    Ok(Session { member: Arc::new(member), store, trainer, connector, certificates, conditions, machine })
}

/// The ledger's key that `client.toml` pins.
///
/// # Errors
/// If it is none.
pub(crate) fn pinned_key(dir: &Path, config: &Config) -> Result<LedgerKey, UserError> {
    config.ledger_key.parse().map_err(|error| {
        let what = format!("{}: ledger_key: {error}", dir.join(CONFIG).display());
        UserError::new(what, "copy the one line of the coordinator's ledger.pub")
    })
}

/// The client's key and certificate, and whom everybody else will read in it.
///
/// # Errors
/// If a file is missing, or nobody would believe the certificate.
pub(crate) fn party(config: &Config) -> Result<(Party, ClientIdentity), UserError> {
    let party = Party::load(&config.certificates).map_err(UserError::from)?;
    let identity = party.client_identity(SystemClock.now()).map_err(|error| {
        let what = format!("the certificate in {} is not usable: {error}", config.certificates.display());
        let next = "check this clock and ca.pem; if they are right, ask for a new certificate with \
                    `eranos certs renew`";
        UserError::new(what, next)
    })?;
    Ok((party, identity))
}

/// The client's data, which keeps to the policy's public bound.
///
/// # Errors
/// If it cannot be read, or has more records.
pub(crate) fn read_files(config: &Config, policy: &Policy) -> Result<Files, UserError> {
    let (labels, columns) = (config.labels.as_deref(), config.columns.as_deref());
    let files =
        Files::read(&config.records, labels, columns, config.classes as usize).map_err(|error| error.user_error())?;
    if files.n_records() > policy.records_max as usize {
        let what = format!("{} records, policy.toml bounds them by {}", files.n_records(), policy.records_max);
        return Err(UserError::new(what, "raise records_max if the task's bound allows it, or leave records out"));
    }
    Ok(files)
}

/// What the budget is made under.
pub(crate) fn terms(policy: &Policy) -> Terms {
    Terms {
        unit: policy.unit.into(),
        data_set: DATA_SET.to_owned(),
        epsilon_limit: policy.epsilon_max,
        delta: policy.delta_max,
    }
}

/// How the client of these certificates reaches its coordinator.
///
/// # Errors
/// If the certificates or the address cannot be used.
pub(crate) fn connector(config: &Config, party: &Party) -> Result<Connector, UserError> {
    Connector::new(&config.coordinator, tls(party)?.0)
}

/// As whom the client shows itself, and whom it believes.
fn tls(party: &Party) -> Result<(ClientTls, SharedTrust), UserError> {
    let trust = SharedTrust::new(&material(&party.anchor)).map_err(|error| {
        UserError::new(format!("the certificates cannot be used: {error}"), "request and install them again")
    })?;
    let credentials = Credentials::new(party.certificate.clone(), party.key_pkcs8.clone());
    Ok((ClientTls::new(credentials, trust.clone(), Arc::new(SystemClock)), trust))
}

/// The binding of this client's pseudonym in its task. It may run meanwhile.
///
/// # Errors
/// If it never ran, or its certificate cannot be read.
pub fn disclose(dir: &Path) -> Result<Binding, UserError> {
    let config = Config::read(&dir.join(CONFIG))?;
    let (party, identity) = party(&config)?;
    let secret = store::secret(config.budget_dir())?;
    let statement_key = StatementKey::derive(&secret, &config.task);
    let trust_domain = party.anchor.trust_domain().clone();
    Ok(Binding {
        certification: statement_key.certify(&trust_domain, &config.task, &party.key),
        trust_domain,
        task: config.task,
        pseudonym: statement_key.verifying_key(),
        client: identity.id,
        certificate: identity.fingerprint,
        certificate_key: party.key.verifying_key(),
    })
}

/// The folder where `--dir` is not given: the present one if it is a client's, else the user's own.
pub fn folder() -> PathBuf {
    eranos_service::folder("client", &[CONFIG, eranos_certs::party::CERTIFICATE_FILE])
}

/// What `init` writes into a client's folder.
#[derive(Clone, Debug)]
pub struct Init {
    /// The folder.
    pub dir: PathBuf,
    /// The coordinator, `host:port`.
    pub coordinator: String,
    /// The line that pins the ledger key, or the file that holds it.
    pub ledger_key: String,
    /// The task.
    pub task: String,
    /// What is protected.
    pub unit: Unit,
    /// The most epsilon for this data set.
    pub epsilon_max: f64,
    /// Whether plans without noise are taken part in.
    pub allow_no_noise: bool,
    /// The least number of survivors.
    pub survivors_min: u16,
    /// The most colluders there may be.
    pub max_colluders: u16,
    /// The most records that the client may hold.
    pub records_max: u32,
    /// The file of records: IDX, or a table.
    pub records: String,
    /// The file of labels, for IDX.
    pub labels: Option<String>,
    /// The names of a table's columns, if its first line does not name them.
    pub columns: Vec<String>,
    /// How many classes there are.
    pub classes: u32,
    /// The folder of the budget that another client of the same data set has.
    pub budget: Option<PathBuf>,
    /// The witnesses who must have cosigned the ledger.
    pub witnesses: Vec<WitnessKey>,
}

/// Writes a commented configuration and policy.
///
/// # Errors
/// If they are there already, or cannot be written.
pub fn init(init: &Init) -> Result<(), UserError> {
    let line = fs::read_to_string(&init.ledger_key).unwrap_or_else(|_| init.ledger_key.clone());
    let key: LedgerKey = line.trim().parse().map_err(|error| {
        let what = format!("{:?} is neither a ledger key nor a file that holds one: {error}", init.ledger_key);
        UserError::new(what, "give the path of the coordinator's ledger.pub, or its one line")
    })?;
    let config = format!(
        "# A client of a federation. Paths are relative to this file.\n\
         version = 1\n\n\
         # Where the coordinator listens; its certificate must carry this host.\n\
         coordinator = \"{}\"\n\
         # The coordinator's ledger key: plans and the ledger are believed under this key alone.\n\
         ledger_key = \"{key}\"\n\
         # The task to take part in.\n\
         task = \"{}\"\n\n\
         # The data that stays here: records and labels in IDX, or a table (.csv or .tsv); gzipped or not.\n\
         records = {:?}\n\
         {}\
         {}\
         # How many classes the task knows: a model with another number of outputs is refused.\n\
         classes = {}\n\n\
         # Where key.pem, certificate.pem, ca.pem and crl.pem lie.\n\
         certificates = \".\"\n\
         # The privacy budget and the client's secret: never delete it, never restore an older copy.\n\
         state = \"state\"\n\
         # One data set has one budget. Where it takes part in more tasks than one, each client has a folder and a state of\n\
         # its own, and all name the same folder here. The state's own, if left out.\n\
         {}\n\
         # Threads for training; all cores if left out.\n\
         # threads = 2\n\n\
         # When to take part at all: looked at before every check-in, never in the middle of a round. What is left out is\n\
         # no condition; what cannot be read does not hold. Meanwhile the client is not connected, and says why it waits.\n\
         # [conditions]\n\
         # Hours of the day, in this machine's local time.\n\
         # hours = [\"22:00-06:00\"]\n\
         # The highest load average over one minute, to which this client's own last round adds.\n\
         # load_max = 1.5\n\
         # Whether to take part on battery, and from which level on (0 to 1).\n\
         # on_battery = false\n\
         # battery_min = 0.3\n\
         # Any other: a program with its arguments, which ends within 10 s with exit status 0 if it holds. This one, for\n\
         # NetworkManager, says no on a metered network, and where it cannot be asked.\n\
         # command = [\"sh\", \"-c\", 'm=$(nmcli -g GENERAL.METERED device show) && ! echo \"$m\" | grep -q ^yes']\n",
        init.coordinator,
        init.task,
        init.records,
        init.labels.as_ref().map(|labels| format!("labels = {labels:?}\n")).unwrap_or_default(),
        if init.columns.is_empty() { String::new() } else { format!("columns = {:?}\n", init.columns) },
        init.classes,
        match &init.budget {
            Some(budget) => format!("budget = {budget:?}"),
            None => "# budget = \"../other-task/state\"".to_owned(),
        },
    );
    let policy = format!(
        "# What this client agrees to, whatever a coordinator plans. A plan beyond it is refused, with the reason.\n\
         version = 1\n\n\
         # What is protected, and what every epsilon here speaks of: \"record\", one record added or removed; or \"client\",\n\
         # this client with all of its records, which plans that protect single records do not. Fixed when the budget is made.\n\
         unit = \"{unit}\"\n\
         # The most epsilon that this data set may ever be charged, over all tasks. Fixed when the budget is made.\n\
         epsilon_max = {epsilon:?}\n\
         # The most epsilon that one session of a task may plan for. A task begun anew counts anew: epsilon_max bounds all.\n\
         task_epsilon_max = {epsilon:?}\n\
         # The delta at which epsilon is stated; well below 1 / (number of records).\n\
         delta_max = 1e-5\n\n\
         # The least number of clients whose updates are summed before anyone sees the sum.\n\
         survivors_min = {survivors_min}\n\
         # The most identities, among ALL that the certificate authority has enrolled, that may work with the\n\
         # coordinator against the others. A plan that tolerates fewer is refused.\n\
         max_colluders = {max_colluders}\n\
         # The least noise multiplier of an attempt, colluders' shares left out.\n\
         noise_multiplier_min = 0.5\n\
         # The same of this client's own noise alone, whoever else adds any. Plans with local noise alone reach a large one.\n\
         own_noise_multiplier_min = 0.0\n\
         # Whether to take part in plans WITHOUT any noise. They promise nothing: what such a round releases may tell\n\
         # anybody about single records, and this data set has no guarantee left afterwards, whatever comes later. Plans\n\
         # with noise are then taken part in without a limit on epsilon, since none is left to keep.\n\
         allow_no_noise = {allow_no_noise}\n\
         # The most records that this client may hold, a public constant; a plan must allow for as many.\n\
         records_max = {records_max}\n\
         # The shortest slot of READY in ms: a shorter one would tell how long training took.\n\
         ready_slot_ms_min = 250\n\
         # The most attempts that may be charged, in all, without the ledger showing a result.\n\
         charged_without_receipt_max = 50\n\
         # The longest that a plan may let its parties wait in one phase, in ms: whoever has nothing to send by then\n\
         # leaves the round, so that no plan keeps this machine busy for longer.\n\
         phase_timeout_ms_max = {PHASE_TIMEOUT_MS_MAX_DEFAULT}\n\
         # The most records, steps times the records of each, and the largest learning rate, of training by itself in a\n\
         # round. Plans with unit = client ask for it, and those with local noise.\n\
         local_records_max = {LOCAL_RECORDS_MAX_DEFAULT}\n\
         local_learning_rate_max = {LOCAL_LEARNING_RATE_MAX_DEFAULT:?}\n\
         # The most parameters of a model: the memory of training grows with them.\n\
         parameters_max = {PARAMETERS_MAX_DEFAULT}\n\n\
         # A coordinator could show this client a history of the ledger that nobody else sees. Witnesses, people who run\n\
         # `eranos witness` and whom you know, cosign one history alone. So many of these must have cosigned the ledger, and\n\
         # it may have grown by so many attempts since; else no round is taken part in until they have.\n\
         {witnesses}\
         witness_lag_max = {WITNESS_LAG_MAX_DEFAULT}\n\n\
         # Plans on the complete graph alone are accepted: everybody shares keys with everybody, which holds against a\n\
         # coordinator that breaks the rules. On a sparse graph each client shares keys with a few others only. That is\n\
         # cheaper, and it protects only while the coordinator keeps to the rules: one that chooses who \"dropped out\", or\n\
         # which of many rosters it takes, cuts the ring of clients in two and learns each part's sum alone, at worst one\n\
         # client's noised vector. Accept such plans only if you trust your coordinator to report drop-outs honestly.\n\
         # [sparse_graph]\n\
         # The least share of the largest roster that the plan must tolerate as colluders.\n\
         # corrupt_share_min = 0.1\n\
         # The largest share of it that the plan may let drop out.\n\
         # dropped_share_max = 0.34\n",
        unit = UnitOfPrivacy::from(init.unit).name(),
        epsilon = init.epsilon_max,
        allow_no_noise = init.allow_no_noise,
        survivors_min = init.survivors_min,
        max_colluders = init.max_colluders,
        records_max = init.records_max,
        witnesses = match init.witnesses.as_slice() {
            [] => "# witnesses = [\"witness.example/w1+0a1b2c3d+BA...\"]\nwitnesses_min = 0\n".to_owned(),
            keys => {
                let lines: String = keys.iter().map(|key| format!("    \"{key}\",\n")).collect();
                format!("witnesses = [\n{lines}]\nwitnesses_min = {}\n", keys.len())
            }
        },
    );
    write_new(&init.dir.join(CONFIG), &config)?;
    write_new(&init.dir.join(POLICY), &policy)
}

fn write_new(path: &Path, text: &str) -> Result<(), UserError> {
    let cannot = |error: std::io::Error| {
        UserError::new(format!("cannot write {}: {error}", path.display()), "choose a folder that can be written")
    };
    if path.exists() {
        let what = format!("{} is there already", path.display());
        return Err(UserError::new(what, "edit it, or remove it first"));
    }
    path.parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| fs::write(path, text)).map_err(cannot)
}

/// The name of the one data set of a client.
const DATA_SET: &str = "local";
