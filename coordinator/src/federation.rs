//! Arranges the rounds of one task: feeds the state machine of each round with what comes over the network and with the
//! time, and carries out its actions. This is where the coordinator's state, ledger and model meet.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use eranos_base::{
    ClientId, Clock, Digest, OsEntropy, RoundNumber, SteadyClock, Timestamp, TrustDomain, UserError, VerifyingKey,
    limits::{COHORT_LEN_MAX, UPLOAD_GRANTS_MAX},
};
use eranos_certs::TrustAnchor;
use eranos_ledger::{
    AppendError, EncodedEntry, Entry, EntryError, LedgerSigner, LogWriter, Outcome as LedgerOutcome, audit::AuditError,
};
use eranos_nn::Dataset;
use eranos_privacy::{Mechanism, Promise, RotationSeed, groups::Released};
use eranos_secagg::ShortName;
use eranos_wire::{
    Answer, Request,
    framing::Kind,
    messages::{
        RoundRef,
        abort::{Aborted, Reason},
        advertise_keys::{CREDENTIALS_PER_FETCH_MAX, Credential, Credentials, FetchCredentials},
        consistency::Quorum,
        select::{CheckIn, ComeBack, ComeBackLater, LogRestored},
        settle::Settled,
    },
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    task::block_in_place,
};

use crate::{
    cosigned::CosignedFolder,
    entries::{self, Attempts, Members},
    exchanges::{AnswerFrame, Arrival, Exchanges},
    metrics::MetricsListener,
    model::{Model, ModelError, TestFigures},
    objects::Objects,
    pace::Pace,
    round::{Abandoned, Action, Attempt, Event, Message, Note, Peer, Phase, Record, Release, Round, RoundSpec},
    server::{BodyReader, Incoming, Reply, Server},
    status::{Ask, StatusSocket},
    store::{Before, ClosedRound, ModelState, Outcome, StateStore, StoreError},
    task::Task,
};

mod journal;
mod open;
mod report;

pub use journal::key_rotated;
pub(crate) use journal::{catch_up, enter};
use open::keep;
pub use open::{mechanism, opening};

/// The ledger's name in the folder of a coordinator's state.
pub const LEDGER: &str = "ledger";

/// Why the coordinator stops.
#[derive(Debug, thiserror::Error)]
pub enum FederationError {
    /// Its database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Its files.
    #[error("cannot keep the model's state: {0}")]
    Objects(#[from] std::io::Error),
    /// The socket through which it says how it does.
    #[error("cannot open its status socket: {0}")]
    Status(std::io::Error),
    /// The port where it shows metrics.
    #[error("cannot open its port for metrics: {0}")]
    Metrics(std::io::Error),
    /// Its ledger.
    #[error(transparent)]
    Ledger(#[from] AppendError),
    /// Its own ledger, when it is read to say what was promised.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// An entry that cannot be written.
    #[error(transparent)]
    Entry(#[from] EntryError),
    /// Its model.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// Its task file.
    #[error("the task file asks for another task, model or mechanism than this ledger was opened with")]
    TaskChanged,
    /// The model that was read is not the one that the ledger says was released last.
    #[error("the model that was read is not the last that the ledger has any more")]
    ModelMoved,
}

impl FederationError {
    /// What to do about it; `otherwise` where nothing better is known.
    pub fn next_step(&self, otherwise: &'static str) -> &'static str {
        match self {
            Self::Store(error) => error.next_step(otherwise),
            _ => otherwise,
        }
    }
}

/// What a round came to, for whoever watches. Nothing in it is private.
#[derive(Clone, Debug)]
pub struct RoundReport {
    /// The round's number, which counts attempts.
    pub round: u64,
    /// How many rounds were released so far.
    pub released: u32,
    /// How many rounds the task is for.
    pub rounds: u32,
    /// Why there was no result, if there was none.
    pub aborted: Option<String>,
    /// The released sum's digest ([`eranos_secagg::Sum::digest`]).
    pub sum: Option<Digest>,
    /// Clients selected.
    pub n_selected: usize,
    /// Clients that dropped out, with the phase.
    pub dropped: Vec<(ClientId, &'static str)>,
    /// Epsilon charged so far, against the coordinator with its colluders; infinite without noise.
    pub epsilon: f64,
    /// Accuracy on the operator's test set.
    pub test_accuracy: Option<f64>,
    /// What the round released beside the model, as noised as that: loss and accuracy on what the clients trained on.
    pub train: Released,
    /// The norm that this round clipped to, where it is adaptive.
    pub l2_clip_norm: Option<f64>,
    /// Bytes received in this round.
    pub bytes_up: u64,
    /// Bytes sent in this round.
    pub bytes_down: u64,
    /// How long it took.
    pub took: Duration,
}

/// What all rounds came to.
#[derive(Clone, Debug)]
pub struct Summary {
    /// Rounds released.
    pub released: u32,
    /// Attempts, released or not.
    pub attempts: u32,
    /// Epsilon charged, against the coordinator with its colluders; infinite without noise.
    pub epsilon: f64,
    /// Delta.
    pub delta: f64,
    /// How the model does on the operator's test set after the last round.
    pub test: Option<TestFigures>,
    /// What the last released round released beside the model; nothing if this process released none.
    pub train: Released,
    /// (client, round) pairs that dropped out.
    pub n_dropped: usize,
    /// Bytes received in all.
    pub bytes_up: u64,
    /// Bytes sent in all.
    pub bytes_down: u64,
}

/// One task's rounds.
pub struct Federation {
    task: Task,
    trust_domain: TrustDomain,
    signer: Arc<LedgerSigner>,
    store: Box<dyn StateStore>,
    objects: Objects,
    ledger: LogWriter,
    /// The ledger's keys before this one, each with the index of the entry that exchanged it.
    rotations: Vec<(VerifyingKey, u64)>,
    /// What is said to whoever knows the log before this one, where this one goes on from a backup.
    restored: Option<LogRestored>,
    /// What counts beside this log's own rounds.
    before: Before,
    attempts: Attempts,
    members: Members,
    /// Whom to believe by now, while it is not entered yet whom that revokes.
    trust: Option<Arc<TrustAnchor>>,
    /// As the task was opened with it; an adaptive clip goes on from there.
    mechanism: Mechanism,
    model: Model,
    model_state: ModelState,
    /// What a record is, as canonical bytes.
    data_spec: Vec<u8>,
    test_set: Option<Arc<Dataset>>,
    session_nonce: [u8; 32],
    last_round: RoundNumber,
    n_attempts: u32,
    released: u32,
    /// How many vectors of each client were received in rounds that are over.
    received: Arc<BTreeMap<ClientId, u64>>,
    /// For how many attempts each client was selected.
    debited: BTreeMap<ClientId, u64>,
    /// For how many one may be.
    attempts_per_client_max: u32,
    status: Option<StatusSocket>,
    metrics: Option<MetricsListener>,
    round: Round,
    round_ref: RoundRef,
    exchanges: Exchanges<Reply>,
    directory: BTreeMap<ClientId, Peer>,
    /// Certificates of those who connected since the round began, by digest: a roster may name one that was renewed. At most
    /// [`CERTIFICATES_MAX`].
    certificates: BTreeMap<Digest, Vec<u8>>,
    /// What witnesses have cosigned of the ledger.
    cosigned: CosignedFolder,
    /// How many entries of the ledger each client knew when it checked in last.
    known: BTreeMap<ClientId, u64>,
    /// Answers with credentials of this round's roster, by the names asked for: most clients ask for the same, and all of
    /// them share one's bytes. At most [`SHOWN_MAX`].
    shown: BTreeMap<Vec<[u8; ShortName::LEN]>, AnswerFrame>,
    /// Check-ins that came while a round was under way.
    late: BTreeMap<ClientId, (Peer, CheckIn)>,
    uploads: BTreeMap<ClientId, tokio::task::JoinHandle<()>>,
    /// For vectors that are being read or wait to be added.
    places: Arc<Semaphore>,
    pace: Pace,
    /// What this round's deadlines are kept by.
    clock: SteadyClock,
    wake: Option<Timestamp>,
    /// The last released round, for its survivors that are late.
    finished: Option<Finished>,
    current: Current,
    /// The round before, whose report waits until it is known who of its cohort is gone.
    previous: Option<(Current, RoundReport, Model)>,
    dismissing: bool,
    totals: Totals,
    reports: mpsc::Sender<RoundReport>,
    told: BTreeSet<ClientId>,
    /// Where an operator hears why nothing goes on, and what was said last.
    warnings: Option<mpsc::Sender<UserError>>,
    warned: Option<String>,
    /// Which versions of the protocol clients were said to speak, by client; at most [`VERSIONS_SAID_MAX`].
    versions_said: BTreeMap<ClientId, Reason>,
    /// The largest size of the ledger before this one that somebody was said to know.
    known_before: u64,
    /// Who was proved guilty of breaking a round, since this process began.
    excluded: BTreeSet<ClientId>,
}

/// A released round: what a survivor that is late still needs.
struct Finished {
    round: RoundRef,
    quorum: Vec<u8>,
    index: u64,
    /// Of its entry in the ledger; one allocation for all clients.
    attachment: Bytes,
}

/// What is counted of a round.
struct Current {
    began: Instant,
    cohort: BTreeSet<ClientId>,
    /// Who saw the round through to the end, or said that it leaves.
    done: BTreeSet<ClientId>,
    dropped: BTreeMap<ClientId, &'static str>,
    /// Whose connection is lost, since which phase: they may come back.
    gone: BTreeMap<ClientId, &'static str>,
    bytes_up: u64,
    bytes_down: u64,
    sum: Option<Digest>,
    train: Released,
    l2_clip_norm: Option<f64>,
}

impl Default for Current {
    fn default() -> Self {
        Self {
            began: Instant::now(),
            cohort: BTreeSet::new(),
            done: BTreeSet::new(),
            dropped: BTreeMap::new(),
            gone: BTreeMap::new(),
            bytes_up: 0,
            bytes_down: 0,
            sum: None,
            train: Released::default(),
            l2_clip_norm: None,
        }
    }
}

impl Current {
    /// A member of the cohort is gone, and was not done.
    fn gone(&mut self, id: &ClientId, phase: &'static str) {
        if self.cohort.contains(id) && !self.done.contains(id) {
            self.gone.entry(id.clone()).or_insert(phase);
        }
    }

    /// Who dropped out as far as is known now, in which phase.
    fn dropped(&self) -> BTreeMap<ClientId, &'static str> {
        let gone = self.gone.iter().filter(|(id, _)| !self.done.contains(*id));
        gone.chain(&self.dropped).map(|(id, phase)| (id.clone(), *phase)).collect()
    }
}

#[derive(Default)]
struct Totals {
    train: Released,
    n_dropped: usize,
    bytes_up: u64,
    bytes_down: u64,
}

/// A whole upload, read.
struct Upload {
    from: Peer,
    round: RoundRef,
    finished: Vec<u8>,
    packed: Option<Vec<u8>>,
    /// Held until the vector is added, or dropped.
    place: OwnedSemaphorePermit,
}

impl Federation {
    /// Shows metrics while it runs.
    pub fn showing_metrics(self, metrics: Option<MetricsListener>) -> Self {
        Self { metrics, ..self }
    }

    /// The mechanism of every attempt, but for an adaptive clip.
    pub fn mechanism(&self) -> &Mechanism {
        &self.mechanism
    }

    /// The model's parameters as they are now: `f32`, little-endian.
    pub fn checkpoint(&self) -> Bytes {
        self.model.checkpoint()
    }

    /// Attempts so far, and rounds released.
    pub fn progress(&self) -> (u32, u32) {
        (self.n_attempts, self.released)
    }

    /// Says through `warnings` why nothing goes on, where the operator can do something about it. Nobody need listen.
    #[must_use]
    pub fn warning(mut self, warnings: mpsc::Sender<UserError>) -> Self {
        self.warnings = Some(warnings);
        self
    }

    /// Arranges rounds until the task is done, its attempts are used up, or `stop` resolves.
    ///
    /// # Errors
    /// If state, ledger or model fail: nothing is half-done then, and a restart goes on.
    pub async fn run(mut self, mut server: Server, stop: impl Future<Output = ()>) -> Result<Summary, FederationError> {
        let (upload_sender, mut uploads) = mpsc::channel::<Upload>(UPLOADS_QUEUED_MAX);
        // Removed when this ends, however it does.
        let (ask, mut asks) = mpsc::channel(ASKS_QUEUED_MAX);
        let status = self.status.take().map(|socket| socket.serve(ask.clone()));
        let _status = status.transpose().map_err(FederationError::Status)?;
        let metrics = self.metrics.take().map(|listener| listener.serve(ask, server.figures()));
        let _metrics = metrics.transpose().map_err(FederationError::Metrics)?;
        let mut stop = std::pin::pin!(stop);
        let mut stopping = false;
        self.next_round()?;
        while !(matches!(self.round, Round::Over) && (stopping || self.is_done())) {
            let (wake, clock) = (self.wake, self.clock);
            tokio::select! {
                incoming = server.next() => match incoming {
                    Some(incoming) => self.receive(incoming, &upload_sender)?,
                    None => break,
                },
                Some(upload) = uploads.recv() => self.uploaded(upload)?,
                Some(ask) = asks.recv() => self.tell(ask, &server),
                () = sleep_until(wake, clock), if wake.is_some() => {
                    self.wake = None;
                    self.feed(Event::Wake)?;
                    self.warn_of_spent();
                    if self.wake.is_none() && self.round.phase().is_some() {
                        // It was not due yet, by a rounding.
                        self.wake = Some(self.clock.now() + WAKE_AGAIN);
                    }
                }
                () = &mut stop, if !stopping => {
                    stopping = true;
                    self.feed(Event::Stop { reason: "the coordinator is shutting down".to_owned() })?;
                }
            }
            if matches!(self.round, Round::Over) && !stopping && !self.is_done() {
                self.next_round()?;
            }
        }
        self.dismiss(&mut server, &upload_sender, &mut asks).await?;
        block_in_place(|| self.enter_revocations())?;
        if self.is_done() {
            block_in_place(|| self.state_privacy())?;
        }
        let test = self.test_figures();
        Ok(Summary {
            released: self.released,
            attempts: self.n_attempts,
            epsilon: self.epsilon(),
            delta: self.mechanism.common().delta,
            test,
            train: self.totals.train,
            n_dropped: self.totals.n_dropped,
            bytes_up: self.totals.bytes_up,
            bytes_down: self.totals.bytes_down,
        })
    }

    fn is_done(&self) -> bool {
        self.released >= self.task.schedule.rounds || self.n_attempts >= self.task.schedule.attempts_max
    }

    /// Tells everyone who asks that the task is over, for as long as somebody connected has not heard it. Survivors that
    /// are late get their receipt first.
    async fn dismiss(
        &mut self,
        server: &mut Server,
        uploads: &mpsc::Sender<Upload>,
        asks: &mut mpsc::Receiver<Ask>,
    ) -> Result<(), FederationError> {
        self.dismissing = true;
        for id in std::mem::take(&mut self.late).into_keys() {
            self.dismiss_one(&id);
        }
        let deadline = tokio::time::Instant::now() + DISMISS_TIME_MAX;
        while self.directory.keys().any(|id| !self.told.contains(id)) {
            let incoming = tokio::select! {
                incoming = server.next() => incoming,
                Some(ask) = asks.recv() => {
                    self.tell(ask, server);
                    continue;
                }
                () = tokio::time::sleep_until(deadline) => break,
            };
            let Some(incoming) = incoming else { break };
            if let Incoming::Disconnected { id } | Incoming::Revoked { id, .. } = &incoming {
                self.directory.remove(id);
            }
            self.receive(incoming, uploads)?;
        }
        // Whoever was told and did not hear it would try for ever.
        let _ = tokio::time::timeout_at(deadline, server.answered()).await;
        self.publish();
        Ok(())
    }

    fn dismiss_one(&mut self, id: &ClientId) {
        let done = self.is_done();
        let reason = if done { "the task is over" } else { "the coordinator is shutting down" };
        let when = if done { ComeBack::TaskOver } else { ComeBack::AfterMs(COME_BACK_MS) };
        self.turn_away(id, when, reason);
        self.told.insert(id.clone());
    }

    /// Tells a client, signed, that it is not admitted to the present round.
    fn turn_away(&mut self, id: &ClientId, when: ComeBack, reason: &str) {
        let refusal = ComeBackLater::sign(self.signer.signing_key(), self.round_ref, id, when, reason);
        self.answer(id, refusal.into(), Bytes::new());
    }

    fn exclude(&mut self, id: &ClientId) {
        let reason = "excluded: signed statements prove that this client broke a round";
        self.turn_away(id, ComeBack::Never, reason);
    }

    /// Begins the next round, if there is one to begin.
    fn next_round(&mut self) -> Result<(), FederationError> {
        if self.is_done() {
            return Ok(());
        }
        let round = self.last_round.next();
        self.round_ref.round = round;
        for (_, upload) in std::mem::take(&mut self.uploads) {
            upload.abort();
        }
        self.forget_certificates();
        self.shown.clear();
        self.current = Current::default();
        self.cosigned.refresh(&self.ledger);
        let checkpoint = self.model.checkpoint();
        self.clock = SteadyClock::begin();
        let now = self.clock.now();
        let spec = RoundSpec {
            trust_domain: self.trust_domain.clone(),
            ledger_origin: self.signer.ledger_key().name().as_str().to_owned(),
            task: self.task.name.clone(),
            session_nonce: self.session_nonce,
            round,
            model_spec: self.model.spec().to_canonical(),
            data_spec: self.data_spec.clone(),
            checkpoint_digest: self.model_state.checkpoint,
            checkpoint,
            mechanism: self.model.next_mechanism(&self.mechanism),
            graph: self.task.cohort.graph.into(),
            received: self.received.clone(),
            spent: Arc::new(self.spent()),
            ready_slot_ms: self.task.schedule.ready_slot_ms,
            phase_timeout_ms: self.task.schedule.phase_timeout_ms,
            waits: self.pace.waits(),
            key: Arc::new(eranos_base::SigningKey::from_seed(&self.signer.signing_key().seed())),
        };
        self.round = Round::new(spec, now);
        self.wake = Some(now + self.pace.wait(Phase::Select));
        for (id, (from, check_in)) in std::mem::take(&mut self.late) {
            if matches!(self.round, Round::Select(_)) {
                self.feed(Event::Message { from, message: Message::CheckIn(check_in) })?;
            } else {
                // The cohort is full: it waits for the next round.
                self.late.insert(id, (from, check_in));
            }
        }
        Ok(())
    }

    fn receive(&mut self, incoming: Incoming, uploads: &mpsc::Sender<Upload>) -> Result<(), FederationError> {
        match incoming {
            Incoming::Connected { identity, certificate } => {
                let peer = Peer { id: identity.id.clone(), key: identity.key, certificate: identity.fingerprint };
                if self.certificates.len() >= CERTIFICATES_MAX {
                    self.forget_certificates();
                }
                if self.certificates.len() < CERTIFICATES_MAX {
                    self.certificates.insert(peer.certificate, certificate);
                }
                self.directory.insert(identity.id, peer);
                Ok(())
            }
            // A lost connection is not a lost client: it may come back inside the phase. Until then it counts as gone.
            Incoming::Disconnected { id } => {
                let phase = self.round.phase().map_or("settle", Phase::name);
                self.current.gone(&id, phase);
                if let Some((previous, ..)) = &mut self.previous {
                    previous.gone(&id, "unmask");
                }
                // Nobody who is away is taken into a round, and charged for it: it checks in again when it is back.
                self.exchanges.forget_check_in(&id);
                self.late.remove(&id);
                match (&self.round, self.directory.get(&id)) {
                    (Round::Select(_), Some(from)) => {
                        let message = Message::Abort("gone before the round began".to_owned());
                        self.feed(Event::Message { from: from.clone(), message })
                    }
                    _ => Ok(()),
                }
            }
            Incoming::Revoked { id, why, .. } => self.revoked(&id, &why.to_string()),
            Incoming::OtherVersion { id, theirs, is_later } => {
                self.warn_of_version(&id, &theirs, is_later);
                Ok(())
            }
            Incoming::TrustChanged { anchor } => {
                self.trust = Some(anchor);
                Ok(())
            }
            Incoming::Request { from, kind, header, body, reply } => {
                self.current.bytes_up += (header.len() + FRAME_OVERHEAD) as u64;
                let request = Digest::of_parts(&[&[kind.0], &header]);
                let is_check_in = kind.0 == Request::CHECK_IN;
                if !is_check_in {
                    // It is back with what it had: one that was started again would check in.
                    self.current.gone.remove(&from);
                    if let Some((previous, ..)) = &mut self.previous {
                        previous.gone.remove(&from);
                    }
                }
                match self.exchanges.arrive(&from, request, is_check_in, reply) {
                    (Arrival::Answered(frame), Some(reply)) => {
                        self.current.bytes_down += frame_len(&frame);
                        send(reply, frame);
                        return Ok(());
                    }
                    // The client lost its connection and sends the same upload again.
                    (Arrival::Pending, _) if self.uploads.contains_key(&from) => {}
                    (Arrival::New, _) => {}
                    _ => return Ok(()),
                }
                let Some(peer) = self.directory.get(&from) else { return Ok(()) };
                let peer = peer.clone();
                match Request::decode(kind.0, &header) {
                    Ok(request) => self.request(peer, request, body, uploads),
                    Err(error) => {
                        let reason = format!("malformed request: {error}");
                        self.note(Note::Misbehaved { id: from.clone(), what: reason.clone() });
                        self.answer(&from, Aborted { reason: reason.into() }.into(), Bytes::new());
                        Ok(())
                    }
                }
            }
        }
    }

    /// A client that is not believed any more waits for nothing, and nobody waits for it: it dropped out.
    fn revoked(&mut self, id: &ClientId, why: &str) -> Result<(), FederationError> {
        let phase = self.round.phase().map_or("settle", Phase::name);
        self.current.gone(id, phase);
        if let Some((previous, ..)) = &mut self.previous {
            previous.gone(id, "unmask");
        }
        self.late.remove(id);
        self.exchanges.forget(id);
        if let Some(upload) = self.uploads.remove(id) {
            upload.abort();
        }
        // Unknown from now on: what is still on its way from it is not heard.
        let Some(from) = self.directory.remove(id) else { return Ok(()) };
        self.feed(Event::Message { from, message: Message::Abort(why.to_owned()) })
    }

    fn request(
        &mut self,
        from: Peer,
        request: Request,
        body: BodyReader,
        uploads: &mpsc::Sender<Upload>,
    ) -> Result<(), FederationError> {
        if let Some(finished) = self.finished.as_ref().filter(|finished| request.round() == Some(finished.round)) {
            // Late, but the round is released: a survivor's part in it is done once it has its receipt.
            let quorum = finished.quorum.clone();
            let current = match &mut self.previous {
                Some((previous, ..)) => previous,
                None => &mut self.current,
            };
            match request {
                Request::Consistency(_) => self.answer(&from.id, Quorum { quorum }.into(), Bytes::new()),
                Request::Unmask(message) => {
                    current.done.insert(from.id.clone());
                    self.receipt(&from.id, message.ledger_size)?;
                }
                _ => {
                    let reason = "the round is over".into();
                    self.answer(&from.id, Aborted { reason }.into(), Bytes::new());
                }
            }
            return Ok(());
        }
        if let Some(round) = request.round().filter(|round| *round != self.round_ref) {
            let reason = format!("round {} is over", round.round);
            self.answer(&from.id, Aborted { reason: reason.into() }.into(), Bytes::new());
            return Ok(());
        }
        match &request {
            Request::CheckIn(_) if self.dismissing => {
                self.dismiss_one(&from.id);
                return Ok(());
            }
            Request::CheckIn(check_in) => {
                self.known.insert(from.id.clone(), check_in.ledger_size);
                if let Some(rotated) = key_rotated(&self.ledger, &self.rotations, check_in)? {
                    self.answer(&from.id, rotated.into(), Bytes::new());
                    return Ok(());
                }
                // Whoever knows another log's key takes nothing that this one's signs.
                if let Some(restored) = &self.restored
                    && check_in.ledger_key != *self.signer.ledger_key().key()
                {
                    let answer = restored.clone().into();
                    self.warn_of_lost(&from.id, check_in.ledger_size);
                    self.answer(&from.id, answer, Bytes::new());
                    return Ok(());
                }
                if self.excluded.contains(&from.id) {
                    self.exclude(&from.id);
                    return Ok(());
                }
                if !matches!(self.round, Round::Select(_)) {
                    self.late.insert(from.id.clone(), (from.clone(), check_in.clone()));
                    if self.current.done.contains(&from.id) || !self.current.cohort.contains(&from.id) {
                        return Ok(());
                    }
                    // Whoever checks in while its round goes on has left it: nobody need wait for it.
                    let phase = self.round.phase().map_or("settle", Phase::name);
                    self.current.dropped.entry(from.id.clone()).or_insert(phase);
                    self.current.done.insert(from.id.clone());
                    let message = Message::Abort("started again".to_owned());
                    return self.feed(Event::Message { from, message });
                }
            }
            Request::FetchCredentials(fetch) => {
                self.show_credentials(&from.id, fetch);
                return Ok(());
            }
            Request::MaskedInput(message) => {
                self.upload(from, message.round, message.finished.clone(), body, uploads);
                return Ok(());
            }
            Request::Unmask(_) => {
                self.current.done.insert(from.id.clone());
            }
            Request::Abort(_) => {
                self.answer(&from.id, Aborted { reason: "as you wish".into() }.into(), Bytes::new());
            }
            Request::Advertise(_) | Request::ShareKeys(_) | Request::Ready(_) | Request::Consistency(_) => {}
        }
        match Message::of(request, Vec::new()) {
            Some(message) => self.feed(Event::Message { from, message }),
            None => Ok(()),
        }
    }

    /// Shows a member of the roster the credentials that it has not seen.
    fn show_credentials(&mut self, to: &ClientId, fetch: &FetchCredentials) {
        let phase = match &self.round {
            Round::ShareKeys(phase) if phase.has(to) => phase,
            _ => {
                self.answer(to, Aborted { reason: "there is no roster to show you".into() }.into(), Bytes::new());
                return;
            }
        };
        if let Some(frame) = self.shown.get(&fetch.credentials) {
            let frame = frame.clone();
            self.answer_with(std::slice::from_ref(to), false, &frame);
            return;
        }
        let wanted = fetch.credentials.iter().take(CREDENTIALS_PER_FETCH_MAX);
        let show = |name: &[u8; ShortName::LEN]| {
            let shown = phase.credential(ShortName(*name))?;
            let eranos_secagg::Credential { certificate, statement_key, certification } = *shown;
            let certificate = self.certificates.get(&certificate)?.clone();
            Some(Credential { certificate, statement_key, certification })
        };
        let credentials: Vec<Credential> = wanted.filter_map(show).collect();
        // Whose certificate is not here may come back with it: that answer is no one else's.
        let is_whole = credentials.len() == fetch.credentials.len();
        let Ok(frame) = AnswerFrame::new(&Credentials { credentials }.into(), Bytes::new()) else {
            tracing::error!("credentials exceed a frame's limit");
            return;
        };
        self.answer_with(std::slice::from_ref(to), false, &frame);
        if is_whole && self.shown.len() < SHOWN_MAX {
            self.shown.insert(fetch.credentials.clone(), frame);
        }
    }

    /// Keeps the certificates of those alone who are known by them.
    fn forget_certificates(&mut self) {
        let present: BTreeSet<Digest> = self.directory.values().map(|peer| peer.certificate).collect();
        self.certificates.retain(|digest, _| present.contains(digest));
    }

    /// Reads an upload in the background, if the client was granted one. A grant may be taken back while what was read waits
    /// to be added; no more than [`UPLOAD_GRANTS_MAX`] vectors are held for all that.
    fn upload(
        &mut self,
        from: Peer,
        round: RoundRef,
        finished: Vec<u8>,
        body: BodyReader,
        uploads: &mpsc::Sender<Upload>,
    ) {
        let Round::MaskedInput(phase) = &self.round else {
            self.answer(&from.id, Aborted { reason: "too late for a vector".into() }.into(), Bytes::new());
            return;
        };
        if !phase.is_granted(&from.id) {
            self.answer(&from.id, Aborted { reason: "the upload was not granted".into() }.into(), Bytes::new());
            return;
        }
        let (len, id, uploads) = (phase.packed_len(), from.id.clone(), uploads.clone());
        let places = self.places.clone();
        let task = tokio::spawn(async move {
            // Never closed.
            let Ok(place) = places.acquire_owned().await else { return };
            let packed = body.read_all(len).await.ok();
            // The receiver is gone only when the coordinator is.
            let _ = uploads.send(Upload { from, round, finished, packed, place }).await;
        });
        if let Some(before) = self.uploads.insert(id, task) {
            before.abort();
        }
    }

    /// Stops reading what is no longer granted, or comes too late: nothing more of it is staged.
    fn break_off_uploads(&mut self) {
        let round = &self.round;
        self.uploads.retain(|id, task| {
            let is_granted = matches!(round, Round::MaskedInput(phase) if phase.is_granted(id));
            if !is_granted {
                task.abort();
            }
            is_granted
        });
    }

    fn uploaded(&mut self, upload: Upload) -> Result<(), FederationError> {
        let Upload { from, round, finished, packed, place: _place } = upload;
        // A cut upload is no upload: the client may come back and send it again until the phase is over.
        let Some(packed) = packed else { return Ok(()) };
        // Whoever sent it twice has one that counts: the other, which nobody would break off any more, is read no further.
        if let Some(again) = self.uploads.remove(&from.id) {
            again.abort();
        }
        self.current.bytes_up += packed.len() as u64;
        // Of another round, or of somebody who was revoked since it was read.
        if round != self.round_ref || !self.directory.contains_key(&from.id) {
            return Ok(());
        }
        self.feed(Event::Message { from, message: Message::MaskedInput { packed, finished } })
    }

    /// Gives an event to the round and carries out what it asks for.
    fn feed(&mut self, event: Event) -> Result<(), FederationError> {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            let round = std::mem::replace(&mut self.round, Round::Over);
            let (round, actions) = block_in_place(|| round.handle(event, self.clock.now(), &mut OsEntropy));
            self.round = round;
            self.break_off_uploads();
            for action in actions {
                match action {
                    Action::Answer { to, mut answer, body } => {
                        if let Answer::Configure(configure) = &mut answer {
                            let known = self.known.get(&to).copied().unwrap_or_default();
                            configure.cosigned = self.cosigned.shown(&self.ledger, known)?;
                        }
                        self.answer(&to, answer, body);
                    }
                    Action::AnswerAll { to, answer } => self.answer_all(&to, &answer, Bytes::new()),
                    Action::Persist(record) => self.persist(record)?,
                    Action::WakeAt(at) => self.wake = Some(at),
                    Action::Settle(release) => match self.settle(*release)? {
                        None => events.push_back(Event::Settled),
                        Some(reason) => self.abort_round(&reason),
                    },
                    Action::Receipt { to, ledger_size } => self.receipt(&to, ledger_size)?,
                    Action::Abandon(abandoned) => self.abandon(*abandoned)?,
                    Action::Note(note) => self.note(note),
                }
            }
        }
        Ok(())
    }

    fn persist(&mut self, record: Record) -> Result<(), FederationError> {
        match record {
            Record::Open { attempt, cohort } => {
                self.publish();
                self.current.cohort = cohort.iter().cloned().collect();
                // A round that no plan was sent for is no attempt, and its number is still free.
                self.last_round = attempt.plan.round;
                self.n_attempts += 1;
                self.enrol(&cohort)?;
                let entry = self.attempts.entry(&attempt, entries::aborted(&attempt))?;
                block_in_place(|| self.store.open_round(attempt.plan.round, &cohort, &entry))?;
                for id in cohort {
                    *self.debited.entry(id).or_insert(self.before.lost.into()) += 1;
                }
            }
            Record::Progress(attempt) => {
                let entry = self.attempts.entry(&attempt, entries::aborted(&attempt))?;
                block_in_place(|| self.store.prepare_abort(attempt.plan.round, &entry))?;
            }
        }
        Ok(())
    }

    /// Applies the sum; makes checkpoint, round and entry durable, in this order; signs the new tree head. Gives the
    /// reason if the sum cannot be applied.
    fn settle(&mut self, release: Release) -> Result<Option<String>, FederationError> {
        let Release { attempt, sum } = release;
        let seed = RotationSeed(attempt.plan.rotation_seed);
        // The attempt's own: an adaptive clip has moved since the task was opened.
        let mechanism = attempt.plan.mechanism.clone();
        let training = &self.task.training;
        let (schedule, clipping) = (training.learning_rate_schedule, training.adaptive_clip);
        match block_in_place(|| self.model.apply(&sum, &mechanism, &seed, &schedule, clipping.as_ref())) {
            Ok(released) => (self.current.train, self.totals.train) = (released, released),
            Err(error) => {
                let reason = error.to_string();
                self.abandon(Abandoned { attempt: Some(attempt), reason: reason.clone() })?;
                return Ok(Some(reason));
            }
        }
        self.current.sum = Some(block_in_place(|| sum.digest()));
        self.current.l2_clip_norm = clipping.map(|_| mechanism.common().l2_clip_norm);
        let state = block_in_place(|| keep(&self.objects, &self.model))?;
        let entry = self.attempts.entry(&attempt, LedgerOutcome::Released { weights_after: state.checkpoint })?;
        let index = self.close(&attempt, Outcome::Released, Some(state), &entry)?;
        let quorum = eranos_secagg::Quorum::new(attempt.quorum).to_bytes();
        let attachment = entry.attachment.unwrap_or_default().into();
        self.finished = Some(Finished { round: self.round_ref, quorum, index, attachment });
        self.released += 1;
        for stale in [self.model_state.checkpoint, self.model_state.optimizer] {
            if stale != state.checkpoint && stale != state.optimizer {
                self.objects.remove(&stale)?;
            }
        }
        self.model_state = state;
        self.report(None);
        Ok(None)
    }

    fn abandon(&mut self, abandoned: Abandoned) -> Result<(), FederationError> {
        if let Some(attempt) = &abandoned.attempt {
            let entry = self.attempts.entry(attempt, entries::aborted(attempt))?;
            let outcome = if attempt.revealed { Outcome::AbortedAfterReveal } else { Outcome::AbortedBeforeReveal };
            self.close(attempt, outcome, None, &entry)?;
            self.report(Some(abandoned.reason));
        }
        Ok(())
    }

    /// A sum that could not be applied: whoever waits for a receipt hears why there is none.
    fn abort_round(&mut self, reason: &str) {
        self.round = Round::Over;
        let waiting = self.exchanges.pending().filter(|id| !self.late.contains_key(*id));
        for id in waiting.cloned().collect::<Vec<_>>() {
            self.answer(&id, Aborted { reason: reason.into() }.into(), Bytes::new());
        }
    }

    /// One transaction, which is durable, then the tree that is made of what was committed: never two roots for one size.
    fn close(
        &mut self,
        attempt: &Attempt,
        outcome: Outcome,
        model: Option<ModelState>,
        entry: &EncodedEntry,
    ) -> Result<u64, FederationError> {
        let Attempt { plan, received, bindings, .. } = attempt;
        let closed = ClosedRound { round: plan.round, outcome, model, received, bindings, entry };
        let index = block_in_place(|| self.store.close_round(&closed, self.ledger.durable()))?;
        for client in received {
            *Arc::make_mut(&mut self.received).entry(client.clone()).or_default() += 1;
        }
        block_in_place(|| self.ledger.append(index, entry).map(|_| ()))?;
        self.attempts.count(&Entry::parse(&entry.leaf, entry.attachment.as_deref())?, &self.task.name);
        self.enter_revocations()?;
        Ok(index)
    }

    /// Hands a client the receipt of the round released last.
    fn receipt(&mut self, to: &ClientId, ledger_size: u64) -> Result<(), FederationError> {
        let Some(Finished { index, attachment, .. }) = &self.finished else { return Ok(()) };
        // A client that claims to know more of the ledger than there is gets no proof: it was shown a fork, or is wrong.
        let old_size = if ledger_size > self.ledger.size() { 0 } else { ledger_size };
        let receipt = self.ledger.receipt(*index, old_size)?.encode();
        let attachment = attachment.clone();
        self.answer(to, Settled { receipt }.into(), attachment);
        Ok(())
    }

    fn answer(&mut self, to: &ClientId, answer: Answer, body: Bytes) {
        self.answer_all(std::slice::from_ref(to), &answer, body);
    }

    fn answer_all(&mut self, to: &[ClientId], answer: &Answer, body: Bytes) {
        let Ok(frame) = AnswerFrame::new(answer, body) else {
            tracing::error!(kind = answer.kind(), "an answer exceeds its limit");
            return;
        };
        self.answer_with(to, answer.is_to_check_in(), &frame);
    }

    fn answer_with(&mut self, to: &[ClientId], is_to_check_in: bool, frame: &AnswerFrame) {
        for to in to {
            if let Some(reply) = self.exchanges.answer(to, is_to_check_in, frame) {
                self.current.bytes_down += frame_len(frame);
                send(reply, frame.clone());
            }
        }
    }
}

fn send(reply: Reply, frame: AnswerFrame) {
    reply.send(Kind(frame.kind), frame.header, frame.body);
}

fn frame_len(frame: &AnswerFrame) -> u64 {
    (frame.header.len() + frame.body.len() + FRAME_OVERHEAD) as u64
}

async fn sleep_until(at: Option<Timestamp>, clock: SteadyClock) {
    tokio::time::sleep(at.unwrap_or_default().since(clock.now())).await;
}

/// How soon a round looks at the clock again that was woken before its time.
const WAKE_AGAIN: Duration = Duration::from_millis(250);
/// Bytes of a frame that are neither header nor body.
const FRAME_OVERHEAD: usize = eranos_wire::framing::HEAD_LEN;
/// Uploads read and not yet handled; each holds one vector.
const UPLOADS_QUEUED_MAX: usize = UPLOAD_GRANTS_MAX;
/// Questions how things stand that wait for an answer.
const ASKS_QUEUED_MAX: usize = 4;
/// Most certificates held, about a kilobyte each: two for every client of the largest roster. Whoever connects beyond that
/// stays in no roster whose members have not seen it.
const CERTIFICATES_MAX: usize = 2 * COHORT_LEN_MAX;
/// Most answers with credentials held: what the largest roster fetches that has seen nobody, twice.
const SHOWN_MAX: usize = 2 * COHORT_LEN_MAX.div_ceil(CREDENTIALS_PER_FETCH_MAX);
/// Clients of other versions that are remembered, so that each is said once.
const VERSIONS_SAID_MAX: usize = 1024;
/// How long a coordinator that is done stays to say so.
const DISMISS_TIME_MAX: Duration = Duration::from_secs(5);
/// When a client of a coordinator that shuts down asks again.
const COME_BACK_MS: u32 = 5000;

#[cfg(test)]
mod tests;
