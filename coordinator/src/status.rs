//! `eranos coordinator status`: what a task has cost and where its rounds stand. What is durable is read from the
//! database, whether or not the coordinator runs. What lives in its memory it tells itself, through a socket in its state
//! folder that only its own user may open; where nobody answers, nothing is made up.

use std::{
    collections::BTreeMap,
    fs::{self, File, Permissions},
    io::{self, Read},
    os::unix::{
        ffi::OsStrExt,
        fs::PermissionsExt,
        io::AsRawFd,
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    time::Duration,
};

use eranos_base::UserError;
use eranos_ledger::{
    Entry, Epsilons, Outcome,
    entry::{EntryParser, attachment_of},
    tile::{Folder, TileSource},
};
use eranos_privacy::{
    Mechanism, Promise, View,
    groups::{Estimate, Released},
};
use serde::{Deserialize, Serialize};
use tokio::{
    io::AsyncWriteExt,
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::{sleep, timeout},
};

use crate::{
    limits::ACCEPT_AGAIN,
    setup::Config,
    store::{self, Debit, SqliteStore, StateStore},
};

/// A coordinator as its operator wants to see it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Status {
    /// The task.
    pub task: String,
    /// What it protects: record or client.
    pub unit: &'static str,
    /// Who adds the noise: distributed, local or none.
    pub noise: &'static str,
    /// Rounds released.
    pub released: u32,
    /// Attempts, released or not.
    pub attempts: u32,
    /// Attempts that were neither released nor are under way.
    pub aborted: u32,
    /// The most attempts that epsilon was promised for.
    pub attempts_max: u32,
    /// Delta.
    pub delta: f64,
    /// Epsilon promised for all attempts, against the coordinator with its colluders; null without noise.
    pub epsilon_promised: Option<f64>,
    /// Epsilon charged by the attempts so far.
    pub epsilon_charged: Option<f64>,
    /// Epsilon of these attempts with the noise that each one's survivors added in truth.
    pub epsilon_attained: Option<f64>,
    /// Attempts of the logs before this one, where it goes on from a backup; `attempts` has them, those lost included.
    pub attempts_before: u32,
    /// How many of them are lost: they count as every client's.
    pub attempts_lost: u32,
    /// How many more attempts of this mechanism the promise covers, by the accountant.
    pub attempts_left: u32,
    /// Rounds that are still to be released: of those that the task is for, no more than attempts are left. Null if the task
    /// file cannot be read.
    pub rounds_left: Option<u32>,
    /// The round that is in the database as begun and not ended.
    pub open_round: Option<u64>,
    /// What the running coordinator says; null if none runs.
    pub running: Option<Live>,
    /// Every client that was ever selected, by name.
    pub clients: BTreeMap<String, Account>,
}

/// What was charged to one client of a task.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Account {
    /// Attempts that it was selected for: each is debited before the plan leaves, and stays so.
    pub attempts: u64,
    /// Vectors of it that were received.
    pub received: u64,
    /// Those of them that are in a released sum.
    pub released: u64,
    /// Epsilon debited; null without noise.
    pub epsilon_spent: Option<f64>,
    /// For how many more attempts it may be selected.
    pub attempts_left: u64,
}

/// What a running coordinator has in its memory.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Live {
    /// Its process.
    pub process: u32,
    /// The round under way, or waited for.
    pub round: u64,
    /// Its phase.
    pub phase: String,
    /// By when the phase ends at the latest, in milliseconds from now.
    pub phase_left_ms: u64,
    /// Rounds released.
    pub released: u32,
    /// Attempts, released or not.
    pub attempts: u32,
    /// Epsilon that they were charged, against the coordinator with its colluders; null without noise.
    pub epsilon: Option<f64>,
    /// How many clients were selected for the round.
    pub cohort: usize,
    /// How many have checked in and are in no round yet.
    pub waiting: usize,
    /// How many a round needs at least.
    pub needed: usize,
    /// Who has spent what the task allows one client, and is selected no more.
    pub spent: Vec<String>,
    /// What the last round that this process released told of the training records.
    pub train: Train,
    /// Who dropped out of the round.
    pub dropped: Vec<String>,
    /// Drop-outs of the rounds before, since the process began.
    pub dropped_total: u64,
    /// How many are connected.
    pub connected: usize,
    /// Bytes received in this round.
    pub bytes_up: u64,
    /// Bytes sent in this round.
    pub bytes_down: u64,
    /// Bytes received since the process began.
    pub bytes_up_total: u64,
    /// Bytes sent since the process began.
    pub bytes_down_total: u64,
    /// Memory that the process has now, where the system tells.
    pub memory_resident: Option<u64>,
    /// The most that it ever had.
    pub memory_resident_max: Option<u64>,
}

/// What was measured beside the model in the last released round; nothing where nothing is measured, or nothing was released
/// since the process began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Train {
    /// The mean loss.
    pub loss: Option<Figure>,
    /// The share of right records.
    pub accuracy: Option<Figure>,
    /// The share of gradients, or updates, that were clipped.
    pub clipped: Option<Figure>,
}

/// A noised figure.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// The figure, with the noise.
    pub value: f64,
    /// The standard deviation of the noise in it.
    pub deviation: f64,
}

impl From<Released> for Train {
    fn from(released: Released) -> Self {
        let figure = |estimate: Estimate| Figure { value: estimate.value, deviation: estimate.deviation };
        Self {
            loss: released.loss.map(figure),
            accuracy: released.accuracy.map(figure),
            clipped: released.clipped.map(figure),
        }
    }
}

/// Reads what the coordinator in `dir` has done, and asks it what it does.
///
/// # Errors
/// If there is no state, or it cannot be read.
pub fn status(dir: &Path) -> Result<Status, UserError> {
    let config = Config::read(dir)?;
    let path = config.state.join(store::FILE);
    let next = "check the folder and its owner; restore a backup if it is damaged";
    let unreadable = |error: &dyn std::fmt::Display| {
        UserError::new(format!("cannot read the coordinator's state in {}: {error}", config.state.display()), next)
    };
    let not_begun = || {
        let what = format!("{} holds no task that was begun", config.state.display());
        UserError::new(what, "begin it with `eranos coordinator run`")
    };
    if !path.exists() {
        return Err(not_begun());
    }
    // Asked first: whatever it has ended by then is in the database.
    let running = ask(&config.state).map_err(|error| {
        let what = format!("the coordinator of {} runs and does not answer: {error}", config.state.display());
        UserError::new(what, "try again in a moment; if it never answers, look at its log")
    })?;
    let store = SqliteStore::read(&path)
        .map_err(|error| UserError { next: error.next_step(next).into(), ..unreadable(&error) })?;
    let resume = store.resume().map_err(|error| unreadable(&error))?.ok_or_else(not_begun)?;
    let mut task = None;
    let mut survivors = Vec::new();
    let ledger = Folder::new(config.state.join("ledger"));
    let mut parser = EntryParser::default();
    for entry in store.entries_from(0).map_err(|error| unreadable(&error))? {
        // The database has the attachments of which the ledger's folder may not have durable files yet.
        let attachment = match (entry.attachment, attachment_of(&entry.leaf)) {
            (None, Some(digest)) => Some(ledger.read_attachment(&digest).map_err(|error| unreadable(&error))?),
            (attachment, _) => attachment,
        };
        let parsed = parser.parse(&entry.leaf, attachment.as_deref());
        match parsed.map_err(|error| unreadable(&error))? {
            Entry::TaskOpened(opened) => task = Some(opened),
            Entry::Attempt(attempt) => {
                let least = u32::from(attempt.mechanism.common().u_min);
                let released = matches!(attempt.outcome, Outcome::Released { .. });
                let n = attempt.survivors().filter(|_| released).map_or(least, |survivors| survivors.n());
                survivors.push(n);
            }
            _ => {}
        }
    }
    let task = task.ok_or_else(not_begun)?;
    let mechanism = &task.mechanism;
    let common = mechanism.common();
    let open_round = resume.open_round.as_ref().map(|open| open.round.0);
    // What is under way counts as promised until its survivors are known, and so do attempts of a log before this one.
    let before = resume.before;
    let (attempts, released) =
        (resume.attempts.saturating_add(before.attempts), resume.released.saturating_add(before.released));
    survivors.resize(attempts as usize, u32::from(common.u_min));
    let per_client = attempts_per_client(&config, mechanism);
    let mut debits = store.debits().map_err(|error| unreadable(&error))?;
    for (id, carried) in store.carried().map_err(|error| unreadable(&error))? {
        let debit = debits.entry(id).or_default();
        *debit = debit.plus(carried);
    }
    // Nobody knows whose those are that a restoration lost: they count as everybody's.
    let lost = Debit { attempts: before.lost.into(), ..Debit::default() };
    let debits = debits.into_iter().map(|(id, debit)| (id, debit.plus(lost)));
    let clients = debits.map(|(id, debit)| {
        let account = Account {
            attempts: debit.attempts,
            received: debit.received,
            released: debit.released,
            epsilon_spent: charged(mechanism, debit.attempts),
            attempts_left: per_client.saturating_sub(debit.attempts),
        };
        (id.name().to_owned(), account)
    });
    Ok(Status {
        task: task.task.to_string(),
        unit: mechanism.unit().name(),
        noise: common.noise.name(),
        released,
        attempts,
        aborted: resume.attempts - resume.released - u32::from(open_round.is_some()),
        attempts_max: common.max_attempts,
        delta: common.delta,
        epsilon_promised: finite(mechanism.epsilon()),
        epsilon_charged: charged(mechanism, attempts.into()),
        epsilon_attained: finite(mechanism.attained_epsilon(View::CoordinatorWithColluders, &survivors, common.delta)),
        attempts_before: before.attempts,
        attempts_lost: before.lost,
        attempts_left: common.max_attempts.saturating_sub(attempts),
        rounds_left: crate::task::Task::read(&config.task).ok().map(|task| {
            let (of_task, of_promise) = (task.schedule.rounds, common.max_attempts.saturating_sub(attempts));
            of_task.saturating_sub(released).min(of_promise)
        }),
        open_round,
        running,
        clients: clients.collect(),
    })
}

fn finite(epsilon: f64) -> Option<f64> {
    Some(epsilon).filter(|epsilon| epsilon.is_finite())
}

fn charged(mechanism: &Mechanism, n_attempts: u64) -> Option<f64> {
    finite(Epsilons::promised(mechanism, n_attempts).coordinator)
}

/// The task file's own limit on a client, if it can be read; the plan's, if not.
fn attempts_per_client(config: &Config, mechanism: &Mechanism) -> u64 {
    let limit = crate::task::Task::read(&config.task).ok().and_then(|task| task.privacy.client_epsilon_max);
    attempts_within(mechanism, limit).into()
}

/// For how many attempts of `mechanism` one client may be selected: all, or as many as stay within `epsilon_max` by the
/// accountant.
pub fn attempts_within(mechanism: &Mechanism, epsilon_max: Option<f64>) -> u32 {
    let common = mechanism.common();
    let Some(epsilon_max) = epsilon_max else { return common.max_attempts };
    let (mut affordable, mut beyond) = (0, common.max_attempts.saturating_add(1));
    while affordable + 1 < beyond {
        let middle = affordable + (beyond - affordable) / 2;
        if mechanism.promised_epsilon(middle, common.delta) <= epsilon_max {
            affordable = middle;
        } else {
            beyond = middle;
        }
    }
    affordable
}

/// Who asks, and where the answer goes.
pub(crate) type Ask = oneshot::Sender<Live>;

/// The socket of a coordinator that runs.
pub(crate) struct StatusSocket {
    listener: UnixListener,
    path: PathBuf,
}

impl StatusSocket {
    /// Opens the socket in `state`. What a killed process left there is replaced: whoever calls this holds the lock of
    /// the state.
    ///
    /// # Errors
    /// If it cannot be opened.
    pub(crate) fn open(state: &Path) -> io::Result<Self> {
        let path = state.join(SOCKET);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = short(&path, |path| UnixListener::bind(path))?;
        fs::set_permissions(&path, Permissions::from_mode(0o600))?;
        listener.set_nonblocking(true)?;
        Ok(Self { listener, path })
    }

    /// Takes questions, one at a time, and puts them into `asks`. Must be called inside a runtime.
    ///
    /// # Errors
    /// If the runtime does not take the socket.
    pub(crate) fn serve(self, asks: mpsc::Sender<Ask>) -> io::Result<Serving> {
        let listener = tokio::net::UnixListener::from_std(self.listener)?;
        let task = tokio::spawn(async move {
            loop {
                let mut stream = match listener.accept().await {
                    Ok((stream, _)) => stream,
                    Err(error) => {
                        // As when there are no file descriptors left: there may be some in a moment.
                        tracing::warn!(%error, "the status socket does not accept");
                        sleep(ACCEPT_AGAIN).await;
                        continue;
                    }
                };
                let (ask, answer) = oneshot::channel();
                if asks.send(ask).await.is_err() {
                    break;
                }
                let Ok(live) = answer.await else { continue };
                let text = serde_json::to_vec(&live).unwrap_or_default();
                // Whoever asks and does not read waits for nobody's sake but its own.
                let _ = timeout(ANSWER_TIME_MAX, stream.write_all(&text)).await;
            }
        });
        Ok(Serving { task, path: self.path })
    }
}

/// The socket while it answers; it goes with this.
pub(crate) struct Serving {
    task: JoinHandle<()>,
    path: PathBuf,
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.task.abort();
        let _ = fs::remove_file(&self.path);
    }
}

/// What the coordinator says of itself; none if none runs.
fn ask(state: &Path) -> io::Result<Option<Live>> {
    let stream = match short(&state.join(SOCKET), |path| UnixStream::connect(path)) {
        Ok(stream) => stream,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    stream.set_read_timeout(Some(ANSWER_TIME_MAX))?;
    let mut text = Vec::new();
    stream.take(ANSWER_LEN_MAX).read_to_end(&mut text)?;
    if text.is_empty() {
        // It ended while it was asked.
        return Ok(None);
    }
    serde_json::from_slice(&text).map(Some).map_err(io::Error::other)
}

/// Opens the socket at `path`, whose name may be too long for one (unix(7): 108 bytes): then by way of its folder.
fn short<T>(path: &Path, open: impl Fn(&Path) -> io::Result<T>) -> io::Result<T> {
    if path.as_os_str().as_bytes().len() <= SOCKET_PATH_LEN_MAX {
        return open(path);
    }
    let folder = File::open(path.parent().unwrap_or(Path::new(".")))?;
    open(&Path::new("/proc/self/fd").join(folder.as_raw_fd().to_string()).join(SOCKET))
}

/// Memory of this process in bytes, now and at most, where the system tells (proc(5)).
pub(crate) fn memory() -> (Option<u64>, Option<u64>) {
    let text = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
        Some(kilobytes * 1024)
    };
    (field("VmRSS:"), field("VmHWM:"))
}

/// The socket's name in the state folder.
const SOCKET: &str = "status.sock";
/// The longest name of a socket that every system takes.
const SOCKET_PATH_LEN_MAX: usize = 100;
/// How long an answer may take, on either side.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(5);
/// The longest answer: names of a whole cohort that dropped out.
const ANSWER_LEN_MAX: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_does_not_run_is_said_not_to_run_whatever_a_killed_process_left() {
        let dir = tempfile::tempdir().expect("a folder");
        assert_eq!(ask(dir.path()).expect("nobody"), None);
        let socket = StatusSocket::open(dir.path()).expect("a socket");
        let mode = fs::metadata(&socket.path).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        drop(socket);
        assert!(dir.path().join(SOCKET).exists(), "as after a kill");
        assert_eq!(ask(dir.path()).expect("nobody"), None);
        assert!(StatusSocket::open(dir.path()).is_ok(), "it is replaced");
    }

    #[test]
    fn a_folder_with_a_long_name_has_a_socket_too() {
        let dir = tempfile::tempdir().expect("a folder");
        let long = dir.path().join("a".repeat(120));
        fs::create_dir(&long).expect("made");
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let _guard = runtime.enter();
        let (sender, mut asks) = mpsc::channel(1);
        let serving = StatusSocket::open(&long).expect("a socket").serve(sender).expect("served");
        let live = Live {
            process: 1,
            round: 7,
            phase: "select".to_owned(),
            phase_left_ms: 1,
            released: 5,
            attempts: 6,
            epsilon: Some(0.5),
            cohort: 0,
            waiting: 3,
            needed: 3,
            spent: vec!["party-1".to_owned()],
            train: Train { loss: Some(Figure { value: 1.5, deviation: 0.25 }), ..Train::default() },
            dropped: vec!["party-2".to_owned()],
            dropped_total: 2,
            connected: 3,
            bytes_up: 1,
            bytes_down: 2,
            bytes_up_total: 3,
            bytes_down_total: 4,
            memory_resident: memory().0,
            memory_resident_max: memory().1,
        };
        let expected = live.clone();
        runtime.spawn(async move {
            let ask = asks.recv().await.expect("asked");
            ask.send(live).is_ok()
        });
        assert_eq!(ask(&long).expect("answered"), Some(expected));
        drop(serving);
        assert_eq!(ask(&long).expect("nobody"), None);
        if cfg!(target_os = "linux") {
            let (now, most) = memory();
            assert!(now.is_some_and(|now| now > 0) && most >= now);
        }
    }
}
