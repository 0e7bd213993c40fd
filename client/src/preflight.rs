//! A look at everything that a round needs, before the first one. It is what [`setup::open`] and a round
//! would run into, found at once and said with what to do; nothing is made or changed but a file that is removed again.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use eranos_base::{Clock, SystemClock, UserError, limits::CLOCK_SKEW_MAX};
use eranos_certs::{
    Party, party,
    trust::{day, validity},
};
use eranos_nn::data::{DataFile, Files, Misfit};
use eranos_privacy::Budget;

use crate::{
    budget::{self, BUDGET, SECRET},
    conditions::Machine,
    config::Config,
    policy::Policy,
    restored,
    setup::{self, CONFIG, POLICY},
    store::LOCK,
};

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// What.
    pub name: &'static str,
    /// How it is.
    pub state: State,
    /// What was found.
    pub what: String,
    /// What to do about it; none where there is nothing to do.
    pub next: Option<String>,
}

/// How a thing is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// As it should be.
    Ok,
    /// It keeps nobody from taking part, now.
    Warning,
    /// The client cannot take part.
    Failure,
}

impl State {
    /// Its word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Failure => "failure",
        }
    }
}

impl Check {
    fn ok(name: &'static str, what: impl Into<String>) -> Self {
        Self { name, state: State::Ok, what: what.into(), next: None }
    }

    fn warning(name: &'static str, what: impl Into<String>, next: impl Into<String>) -> Self {
        Self { name, state: State::Warning, what: what.into(), next: Some(next.into()) }
    }

    fn failure(name: &'static str, error: UserError) -> Self {
        let line = |text: String| text.replace(char::is_control, " ");
        Self { name, state: State::Failure, what: line(error.what), next: Some(line(error.next)) }
    }
}

/// Looks at the client in `dir`; at its records as the data file `data` describes them, if it is given or lies in the folder.
/// Connects to the coordinator, is admitted, and leaves. Takes some minutes at most, where a name has many addresses and none
/// of them answers.
pub async fn look(dir: &Path, data: Option<&Path>) -> Vec<Check> {
    let config = match Config::read(&dir.join(CONFIG)).and_then(|config| {
        setup::pinned_key(dir, &config)?;
        Ok(config)
    }) {
        Ok(config) => config,
        Err(error) => return vec![Check::failure("config", error)],
    };
    let of = format!("task {} of the coordinator at {}", config.task, config.coordinator);
    let mut checks = vec![Check::ok("config", of)];
    let policy = match Policy::read(&dir.join(POLICY)) {
        Ok(policy) => {
            checks.push(of_policy(&policy));
            Some(policy)
        }
        Err(error) => {
            checks.push(Check::failure("policy", error));
            None
        }
    };
    let (party, certificate) = of_certificate(&config);
    checks.push(certificate);
    let own = dir.join("data.toml");
    let data = data.map(Path::to_owned).or_else(|| own.exists().then_some(own));
    checks.push(of_data(&config, policy.as_ref(), data.as_deref()));
    checks.push(of_disk(&config));
    checks.push(of_permissions(&config));
    checks.push(of_budget(&config, policy.as_ref()));
    if let Some(key) = restored::offered(&config.state) {
        let what = format!("the coordinator goes on in another ledger, {key}, which waits to be accepted");
        checks.push(Check::failure("ledger", UserError::new(what, "look at it: `eranos client accept-ledger`")));
    }
    checks.push(match config.conditions.unmet(&Machine::this()) {
        None => Check::ok("conditions", "hold now"),
        Some(unmet) => Check::warning("conditions", unmet.to_string(), "the client waits for as long as that is so"),
    });
    match party {
        Some(party) => checks.extend(of_coordinator(&config, &party).await),
        None => checks.push(Check::failure(
            "coordinator",
            UserError::new("not asked: there is no certificate to show", "mend the certificate first"),
        )),
    }
    checks
}

fn of_policy(policy: &Policy) -> Check {
    let Policy { epsilon_max, task_epsilon_max, survivors_min, max_colluders, .. } = policy;
    if policy.allow_no_noise {
        let what = "allow_no_noise = true: plans without any promise are taken part in";
        return Check::warning("policy", what, "set it to false unless no record here needs protection");
    }
    if task_epsilon_max > epsilon_max {
        let what = format!("task_epsilon_max = {task_epsilon_max} is more than epsilon_max = {epsilon_max}");
        return Check::warning("policy", what, "a plan between the two is accepted, and ends when the budget does");
    }
    Check::ok(
        "policy",
        format!(
            "at most epsilon {epsilon_max} in all, {task_epsilon_max} in a task; sums of {survivors_min} clients or more, \
             {max_colluders} of them with the coordinator"
        ),
    )
}

fn of_certificate(config: &Config) -> (Option<Party>, Check) {
    let name = "certificate";
    let (party, identity) = match setup::party(config) {
        Ok(both) => both,
        Err(error) => return (None, Check::failure(name, error)),
    };
    let now = SystemClock.now();
    // Just believed, so that it is a certificate.
    let until = validity(&party.certificate).map(|(_, until)| until).unwrap_or(now);
    let days = until.since(now).as_secs() / DAY.as_secs();
    let what = format!("{}, valid until {} ({days} days)", identity.id, day(until));
    let check = match days {
        0..CERTIFICATE_DAYS_MIN => Check::warning(name, what, "renew it: `eranos certs renew`"),
        _ if party.anchor.revoked().next().is_none() => {
            Check::warning(name, format!("{what}; no revocation list"), "ask the authority's operator for crl.pem")
        }
        _ => Check::ok(name, what),
    };
    (Some(party), check)
}

fn of_data(config: &Config, policy: Option<&Policy>, data: Option<&Path>) -> Check {
    let name = "data";
    let files = match policy {
        // With the public bound on records.
        Some(policy) => setup::read_files(config, policy),
        None => {
            let (labels, columns) = (config.labels.as_deref(), config.columns.as_deref());
            Files::read(&config.records, labels, columns, config.classes as usize).map_err(|error| error.user_error())
        }
    };
    let files = match files {
        Ok(files) => files,
        Err(error) => return Check::failure(name, error),
    };
    let n_records = files.n_records();
    let Some(data) = data else {
        let what = format!("{n_records} records, not held against the task");
        return Check::warning(name, what, "give the task's data file: `--data data.toml`");
    };
    let spec = match DataFile::read(data) {
        Ok(file) => file.spec,
        Err(error) => return Check::failure(name, error),
    };
    if spec.n_classes() != config.classes {
        let what = format!("client.toml has {} classes, {} has {}", config.classes, data.display(), spec.n_classes());
        return Check::failure(name, UserError::new(what, "correct `classes` in client.toml"));
    }
    let fits = spec.check(&files.form()).and_then(|()| spec.dataset(&files, Misfit::Refuse).map(|_| ()));
    match fits {
        Ok(()) => Check::ok(name, format!("{n_records} records, each one as {} describes it", data.display())),
        Err(error) => Check::failure(name, error.user_error()),
    }
}

/// The folders that a round writes to.
fn folders(config: &Config) -> Vec<&Path> {
    let mut folders = vec![config.state.as_path(), config.budget_dir()];
    folders.dedup();
    folders
}

fn of_disk(config: &Config) -> Check {
    let name = "disk";
    let (mut least, mut shown) = (u64::MAX, PathBuf::new());
    for folder in folders(config) {
        // A folder that is not there yet is made in the nearest one that is.
        let folder = folder.ancestors().find(|folder| folder.exists()).unwrap_or(Path::new("."));
        let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
        if let Err(error) = probe(folder) {
            let what = format!("cannot write into {}: {error}", folder.display());
            return Check::failure(name, UserError::new(what, "free some space, or check the folder and its owner"));
        }
        match rustix::fs::statvfs(folder) {
            Ok(space) if space.f_frsize.saturating_mul(space.f_bavail) < least => {
                least = space.f_frsize.saturating_mul(space.f_bavail);
                shown = folder.to_owned();
            }
            Ok(_) => {}
            Err(error) => {
                let what = format!("the space left in {} is not known: {error}", folder.display());
                return Check::warning(name, what, "make sure that there is some");
            }
        }
    }
    let what = format!("{} MB free in {}", least / 1_000_000, shown.display());
    match least {
        0..SPACE_MIN => Check::warning(name, what, "free some: a client whose state cannot be written ends"),
        _ => Check::ok(name, what),
    }
}

/// Writes a file, syncs it and removes it again.
fn probe(folder: &Path) -> io::Result<()> {
    let path = folder.join(format!(".preflight-{}", std::process::id()));
    let written = OpenOptions::new().write(true).create_new(true).open(&path).and_then(|mut file| {
        file.write_all(&[0; PROBE_LEN])?;
        file.sync_all()
    });
    let removed = fs::remove_file(&path);
    written.and(removed)
}

fn of_permissions(config: &Config) -> Check {
    let name = "permissions";
    let secrets = [config.certificates.join(party::KEY_FILE), config.budget_dir().join(SECRET)];
    for path in &secrets {
        let Ok(metadata) = fs::metadata(path) else { continue };
        let mode = metadata.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            let what = format!("{} may be read by others (mode {mode:03o})", path.display());
            return Check::warning(name, what, format!("chmod 600 {}", path.display()));
        }
        if metadata.uid() != rustix::process::geteuid().as_raw() && rustix::process::geteuid().as_raw() != 0 {
            let what = format!("{} belongs to another user", path.display());
            return Check::warning(name, what, "run this look as the user that runs the client");
        }
    }
    Check::ok(name, "key and secret are their owner's alone")
}

fn of_budget(config: &Config, policy: Option<&Policy>) -> Check {
    let name = "budget";
    let dir = config.budget_dir();
    if !dir.join(BUDGET).exists() {
        return match dir.join(SECRET).exists() {
            true => {
                let what = format!("the budget in {} is gone, and this client has been used before", dir.display());
                Check::failure(
                    name,
                    UserError::new(what, "restore it from a backup: it is the record of what was spent"),
                )
            }
            false => Check::ok(name, "none yet: the first run makes it"),
        };
    }
    let budget = match budget::read(dir) {
        Ok(budget) => budget,
        Err(error) => return Check::failure(name, error),
    };
    if policy.is_some_and(|policy| setup::terms(policy) != *budget.terms()) {
        let what = format!("the budget in {} was made under other terms", dir.display());
        let next =
            "restore unit, epsilon_max and delta_max in policy.toml: what a budget protects is fixed when it is made";
        return Check::failure(name, UserError::new(what, next));
    }
    if budget.n_records() > 1 && !dir.join(SECRET).exists() {
        let what = format!("the secret in {} is gone, but this client has been used before", dir.display());
        return Check::failure(
            name,
            UserError::new(what, "restore it from a backup: the ledger knows this client by it"),
        );
    }
    left_of(name, &budget)
}

fn left_of(name: &'static str, budget: &Budget) -> Check {
    let (spent, limit) = (budget.epsilon_spent(), budget.terms().epsilon_limit);
    if !spent.is_finite() {
        let what = format!("no guarantee is left: {} charged attempts had no noise", budget.n_without_noise());
        return Check::warning(name, what, "use a data set that was never trained on without noise");
    }
    let left = (limit - spent).max(0.0);
    let what = format!("epsilon {left:.3} of {limit} left, {} attempts charged", budget.n_charged());
    match left {
        0.0 => Check::failure(name, UserError::new(what, "this data set's budget is used up, for good")),
        _ if left < BUDGET_SHARE_MIN * limit => {
            Check::warning(name, what, "`eranos client budget` says how many attempts that is")
        }
        _ => Check::ok(name, what),
    }
}

/// Whether the coordinator can be reached and lets the client in, and what its clock says.
async fn of_coordinator(config: &Config, party: &Party) -> Vec<Check> {
    let name = "coordinator";
    // A second connection of one identity takes over from the first, and a client that finds itself replaced ends. So the
    // state's lock is held meanwhile, as a client that runs holds it.
    let lock = File::open(config.state.join(LOCK));
    if lock.as_ref().is_ok_and(|lock| lock.try_lock().is_err()) {
        let what = format!("not asked: a client with the state in {} runs now", config.state.display());
        return vec![Check::warning(name, what, "stop it to look, or see by its own lines whether it takes part")];
    }
    let connector = match setup::connector(config, party) {
        Ok(connector) => connector,
        Err(error) => return vec![Check::failure(name, error)],
    };
    let connection = match connector.connect().await {
        Ok(connection) => connection,
        Err(error) => return vec![Check::failure(name, error.user_error())],
    };
    let greeting = connection.greeting().clone();
    connection.close().await;
    let clock = format!(
        "{:.1} s from the coordinator's, {} s are borne",
        greeting.skew.as_secs_f64(),
        CLOCK_SKEW_MAX.as_secs()
    );
    let clock = match greeting.skew {
        skew if skew > SKEW_SHOWN_MIN => Check::warning("clock", clock, "set this clock, or tell the operator"),
        _ => Check::ok("clock", clock),
    };
    vec![Check::ok(name, format!("{} at {} lets this client in", greeting.coordinator, config.coordinator)), clock]
}

const DAY: Duration = Duration::from_secs(24 * 3600);
/// A certificate with fewer days left should be renewed.
const CERTIFICATE_DAYS_MIN: u64 = 14;
/// Bytes below which a disk is nearly full: a client's state grows by less than a kilobyte a round, its credentials by one
/// for each member of a roster, 10,000 at most.
const SPACE_MIN: u64 = 64_000_000;
/// What is written to see whether it can be.
const PROBE_LEN: usize = 4096;
/// The share of a budget below which it is nearly spent.
const BUDGET_SHARE_MIN: f64 = 0.1;
/// A difference of clocks that is worth a word.
const SKEW_SHOWN_MIN: Duration = Duration::from_secs(30);
