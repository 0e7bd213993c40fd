//! A federation without sockets, disk and training: the coordinator's and the clients' own state machines with all of their
//! cryptography, a clock that jumps from event to event, and a network of given rates. Whatever is drawn comes from one
//! seed, keys included, so that the same scenario sends the same bytes: nothing in it is secret. It drives the machines as
//! `coordinator/src/federation.rs` and `client/src/session.rs` do, and every message travels as bytes.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use eranos_base::{
    ClientId, Digest, Entropy, RoundNumber, SeededEntropy, SessionId, SigningKey, Timestamp, TrustDomain, UserError,
    VerifyingKey, limits::UPLOAD_GRANTS_MAX,
};
use eranos_certs::TrustAnchor;
use eranos_client::{
    policy::{Policy, SparseGraph, Unit, WITNESS_LAG_MAX_DEFAULT},
    round::{self as client, CertificateCheck, End, Member, Memory, Step},
};
use eranos_coordinator::{
    entries::{self, Attempts},
    exchanges::{AnswerFrame, Arrival, Exchanges},
    federation::opening,
    model::Model,
    pace::Pace,
    round::{self as coordinator, Message, Note, Peer, Phase, RoundSpec},
    status::attempts_within,
    task::Task,
};
use eranos_ledger::{
    Checkpoint, Date, EncodedEntry, Entry, LedgerSigner, LogWriter, Outcome, SignedCheckpoint, memory::MemoryFolder,
};
use eranos_nn::{DataSpec, ModelSpec};
use eranos_privacy::{
    Budget, Mechanism, Promise,
    budget::{Terms, UnitOfPrivacy},
};
use eranos_secagg::{GraphKind, ShortName};
use eranos_wire::{
    Answer, Request,
    framing::HEAD_LEN,
    messages::{
        RoundRef,
        abort::Aborted,
        advertise_keys::{Credential, Credentials, FetchCredentials},
        consistency::Quorum,
        select::{ComeBack, ComeBackLater},
        settle::Settled,
    },
};
use zeroize::Zeroizing;

use super::fleet::{DropOut, Network};
use crate::demo::broken;

/// What all of a federation know.
pub(super) struct Setup {
    pub(super) trust_domain: TrustDomain,
    pub(super) task: Task,
    pub(super) signer: Arc<LedgerSigner>,
    pub(super) anchor: Arc<TrustAnchor>,
    pub(super) nonce: [u8; 32],
    pub(super) mechanism: Mechanism,
    pub(super) model: ModelSpec,
    pub(super) data: DataSpec,
}

/// A client as its certificate names it, with its key.
pub(super) struct Enrolled {
    pub(super) identity: eranos_secagg::Identity,
    pub(super) certificate: Vec<u8>,
}

/// One federation.
pub(super) struct World {
    setup: Setup,
    network: Network,
    session: SessionId,
    graph: GraphKind,
    seed: u64,
    dice: SeededEntropy,
    began: Timestamp,
    now: Timestamp,
    queue: BTreeMap<(Timestamp, u64), Item>,
    n_items: u64,
    /// Until when the coordinator's line is busy, up and down, in seconds since the beginning.
    line: [f64; 2],
    clients: Vec<Client>,
    pseudonyms: BTreeMap<VerifyingKey, usize>,
    certificates: BTreeMap<Digest, usize>,
    coordinator: Coordinator,
}

/// What lies ahead of the clock.
enum Item {
    ToCoordinator { from: usize, kind: u8, header: Vec<u8>, body: Bytes },
    ToClient { to: usize, exchange: u64, frame: AnswerFrame },
    ClientWake { client: usize },
    Trained { client: usize, life: u64 },
    TimedOut { client: usize, exchange: u64 },
    CoordinatorWake,
}

/// What one attempt came to.
#[derive(Default)]
pub(super) struct Attempted {
    /// Why there was no result.
    pub(super) aborted: Option<String>,
    pub(super) n_selected: usize,
    pub(super) n_survivors: usize,
    /// Who vanished, by the phase that they did not come to.
    pub(super) vanished: BTreeMap<&'static str, usize>,
    /// From the first check-in to the last receipt, by the network's clock: what was computed took no time.
    pub(super) took: Duration,
    /// Of each client that has its receipt: bytes up and down, and what it computed in each phase.
    pub(super) clients: Vec<ClientCost>,
    pub(super) bytes_up: u64,
    pub(super) bytes_down: u64,
    /// What the coordinator computed in each phase.
    pub(super) coordinator: BTreeMap<&'static str, Duration>,
    /// The most that the coordinator held at once of answers that may have to be sent again, with the checkpoint.
    pub(super) held: usize,
}

/// What an attempt costs a client.
#[derive(Clone, Debug, Default)]
pub(super) struct ClientCost {
    pub(super) bytes_up: u64,
    pub(super) bytes_down: u64,
    pub(super) phases: BTreeMap<&'static str, Duration>,
}

struct Client {
    member: Arc<Member>,
    certificate: Vec<u8>,
    budget: Arc<Budget>,
    checkpoint: Option<Checkpoint>,
    credentials: Arc<BTreeMap<Digest, Credential>>,
    round: Option<client::Round>,
    end: Option<End>,
    exit: Option<DropOut>,
    entropy: SeededEntropy,
    place: Option<RoundRef>,
    wake: Option<Timestamp>,
    life: u64,
    exchange: u64,
    /// Until when its line is busy, up and down.
    line: [f64; 2],
    cost: ClientCost,
}

struct Coordinator {
    round: coordinator::Round,
    round_ref: RoundRef,
    ledger: LogWriter<MemoryFolder>,
    checkpoint: Bytes,
    attempts: Attempts,
    pace: Pace,
    received: BTreeMap<ClientId, u64>,
    debited: BTreeMap<ClientId, u64>,
    attempts_per_client_max: u64,
    entropy: SeededEntropy,
    exchanges: Exchanges<(usize, u64)>,
    /// Answers with credentials, by the names asked for.
    shown: BTreeMap<Vec<[u8; ShortName::LEN]>, AnswerFrame>,
    held: Held,
    wake: Option<Timestamp>,
    finished: Option<Finished>,
    attempted: Attempted,
}

/// A released sum: what a survivor that is late still needs.
struct Finished {
    quorum: Vec<u8>,
    index: u64,
    attachment: Bytes,
}

impl World {
    /// A federation that has never met.
    ///
    /// # Errors
    /// If the task's model does not run.
    pub(super) fn new(
        setup: Setup,
        network: Network,
        enrolled: Vec<Enrolled>,
        seed: u64,
        now: Timestamp,
    ) -> Result<Self, UserError> {
        let origin = setup.signer.ledger_key().name().clone();
        let session = SessionId::derive(&setup.trust_domain, origin.as_str(), &setup.task.name, &setup.nonce);
        let mut dice = SeededEntropy::new(seed);
        let clients = enrolled.into_iter().map(|one| Client::new(&setup, one, &mut dice));
        let clients = clients.collect::<Result<Vec<_>, _>>()?;
        let coordinator = Coordinator::new(&setup, session, &mut dice, now)?;
        let indexed = || clients.iter().enumerate();
        Ok(Self {
            pseudonyms: indexed().map(|(i, one)| (one.member.identity.statement_key.verifying_key(), i)).collect(),
            certificates: indexed().map(|(i, client)| (client.member.identity.certificate, i)).collect(),
            graph: setup.task.cohort.graph.into(),
            setup,
            network,
            session,
            seed,
            dice,
            began: now,
            now,
            queue: BTreeMap::new(),
            n_items: 0,
            line: [0.0; 2],
            clients,
            coordinator,
        })
    }

    /// One attempt, from everybody's check-in to its end. `exits` says who vanishes where.
    ///
    /// # Errors
    /// If a released sum is not exact, a client refuses the plan, or the attempt does not come to an end.
    pub(super) fn attempt(&mut self, number: u64, exits: &BTreeMap<usize, DropOut>) -> Result<Attempted, UserError> {
        let began = self.now;
        self.begin(number, exits);
        let events_max = EVENTS_PER_CLIENT_MAX * (self.clients.len() + EVENTS_SPARE);
        let mut last_settled = began;
        for _ in 0..events_max {
            let Some(((at, _), item)) = self.queue.pop_first() else { break };
            self.now = self.now.max(at);
            let settled_before = self.coordinator.attempted.clients.len();
            self.happen(item)?;
            if self.coordinator.attempted.clients.len() > settled_before {
                last_settled = self.now;
            }
            // Whoever vanished has timers left that nobody waits for.
            if matches!(self.coordinator.round, coordinator::Round::Over) && !self.clients.iter().any(Client::is_alive)
            {
                break;
            }
        }
        let is_over = matches!(self.coordinator.round, coordinator::Round::Over);
        if !is_over || self.clients.iter().any(Client::is_alive) {
            return Err(broken(&format!("round {number} does not come to an end")));
        }
        let mut attempted = std::mem::take(&mut self.coordinator.attempted);
        attempted.took = if attempted.aborted.is_some() { self.now.since(began) } else { last_settled.since(began) };
        attempted.held = self.coordinator.held.most;
        for (i, exit) in exits {
            if self.clients[*i].exit.is_none() {
                *attempted.vanished.entry(exit.name()).or_default() += 1;
            }
        }
        if let Some(reason) = self.clients.iter().find_map(|client| match &client.end {
            Some(End::Refused(refusal)) => Some(refusal.to_string()),
            _ => None,
        }) {
            return Err(broken(&format!("a client refuses the plan: {reason}")));
        }
        Ok(attempted)
    }

    fn begin(&mut self, number: u64, exits: &BTreeMap<usize, DropOut>) {
        self.queue.clear();
        let now = self.now_s();
        self.line = [now; 2];
        let round = RoundRef { session: self.session, round: RoundNumber(number) };
        self.coordinator.begin(&self.setup, round, self.graph, self.now);
        let wake = self.now + self.coordinator.pace.wait(Phase::Select);
        self.coordinator.wake = Some(wake);
        self.push(wake, Item::CoordinatorWake);
        for i in 0..self.clients.len() {
            let nonce = u64::from_le_bytes(self.dice.bytes());
            let client = &mut self.clients[i];
            client.begin(exits.get(&i).copied(), now);
            let check_in = client.member.check_in(&client.memory(), nonce);
            self.send(i, check_in.into(), Bytes::new());
        }
    }

    fn happen(&mut self, item: Item) -> Result<(), UserError> {
        match item {
            Item::ToCoordinator { from, kind, header, body } => return self.arrive(from, kind, &header, body),
            Item::ToClient { to, exchange, frame } => self.hear(to, exchange, frame)?,
            Item::ClientWake { client } => {
                if self.clients[client].wake.is_some_and(|at| at <= self.now) {
                    self.clients[client].wake = None;
                    self.feed_client(client, client::Event::Wake)?;
                }
            }
            Item::Trained { client, life } => {
                if self.clients[client].life == life && self.clients[client].is_alive() {
                    let vector = Zeroizing::new(self.contribution(client));
                    self.feed_client(client, client::Event::Contribution(vector))?;
                }
            }
            Item::TimedOut { client, exchange } => {
                if self.clients[client].exchange == exchange && self.clients[client].is_alive() {
                    let reason = "no answer within the plan's time".to_owned();
                    self.feed_client(client, client::Event::Leave { reason })?;
                }
            }
            Item::CoordinatorWake => {
                if self.coordinator.wake.is_some_and(|at| at <= self.now) {
                    self.coordinator.wake = None;
                    return self.feed(coordinator::Event::Wake);
                }
            }
        }
        Ok(())
    }

    fn push(&mut self, at: Timestamp, item: Item) {
        self.n_items += 1;
        self.queue.insert((at, self.n_items), item);
    }

    /// In place of what training would give: values drawn from the seed, the round and the client.
    fn contribution(&self, i: usize) -> Vec<u32> {
        let common = self.setup.mechanism.common();
        let mut bytes = vec![0; 4 * common.d_pad as usize];
        let round = self.coordinator.round_ref.round.0;
        SeededEntropy::new(self.seed ^ (round << 32) ^ (i as u64 + 1)).fill(&mut bytes);
        let mask = u32::MAX >> (32 - u32::from(common.bits));
        bytes.as_chunks::<4>().0.iter().map(|bytes| u32::from_le_bytes(*bytes) & mask).collect()
    }

    fn now_s(&self) -> f64 {
        self.now.since(self.began).as_secs_f64()
    }

    /// When `len` bytes of client `i` have come through its own line and the coordinator's, which both work at once.
    fn carried(&mut self, i: usize, len: u64, way: Way) -> Timestamp {
        let (now, bits) = (self.now_s(), 8.0 * len as f64);
        let busy = |until: &mut f64, mbit_per_s: f64| {
            *until = until.max(now) + bits / (1e6 * mbit_per_s);
            *until
        };
        let Network { client, coordinator, .. } = &self.network;
        // The coordinator's line takes in what clients send up.
        let (own, of_all) = match way {
            Way::Up => (client.up_mbit_per_s, coordinator.down_mbit_per_s),
            Way::Down => (client.down_mbit_per_s, coordinator.up_mbit_per_s),
        };
        let arrives =
            busy(&mut self.clients[i].line[way as usize], own).max(busy(&mut self.line[way as usize], of_all));
        let latency = Duration::from_millis(self.network.latency_ms.into());
        // In whole milliseconds, as the machines' clock has them.
        self.began + Duration::from_millis((1e3 * arrives).ceil() as u64) + latency
    }

    // The clients' side.

    /// Sends a request of client `i`, unless it is gone by then.
    fn send(&mut self, i: usize, request: Request, body: Bytes) {
        if self.clients[i].exit.is_some_and(|exit| exit.keeps_from(&request)) {
            self.clients[i].vanish();
            return;
        }
        let before = processor_time();
        let kind = request.kind();
        let Ok(header) = request.encode() else { unreachable!("a client's own request is within its limits") };
        let client = &mut self.clients[i];
        client.took(client.phase(), before);
        client.exchange += 1;
        let len = (HEAD_LEN + header.len() + body.len()) as u64;
        client.cost.bytes_up += len;
        let exchange = client.exchange;
        let due = self.carried(i, len, Way::Up);
        // A client that has checked in waits for as long as it takes.
        if !matches!(request, Request::CheckIn(_)) {
            let timeout = Duration::from_millis(self.setup.task.schedule.phase_timeout_ms.into()) + ANSWER_GRACE;
            self.push(due + timeout, Item::TimedOut { client: i, exchange });
        }
        self.push(due, Item::ToCoordinator { from: i, kind, header, body });
    }

    fn hear(&mut self, i: usize, exchange: u64, frame: AnswerFrame) -> Result<(), UserError> {
        if self.clients[i].exchange != exchange || !self.clients[i].is_alive() {
            return Ok(());
        }
        let before = processor_time();
        let answer = Answer::decode(frame.kind, &frame.header).map_err(|error| broken(&error))?;
        let client = &mut self.clients[i];
        client.took(client.phase(), before);
        client.exchange += 1;
        client.cost.bytes_down += (HEAD_LEN + frame.header.len() + frame.body.len()) as u64;
        self.feed_client(i, client::Event::Answer { answer, body: frame.body })
    }

    /// Gives an event to client `i` and carries out what it asks for.
    fn feed_client(&mut self, i: usize, event: client::Event) -> Result<(), UserError> {
        let client = &mut self.clients[i];
        let phase = client.phase();
        let Some(round) = client.round.take() else { return Ok(()) };
        let before = processor_time();
        let (round, actions) = round.handle(event, self.now, &mut client.entropy);
        client.took(phase, before);
        let plan = round.plan().map(|plan| RoundRef { session: plan.session, round: plan.round });
        client.place = plan.or(client.place);
        client.round = Some(round);
        for action in actions {
            let client = &mut self.clients[i];
            match action {
                client::Action::Send { request, body } => self.send(i, request, body),
                client::Action::Persist(step) => {
                    let before = processor_time();
                    client.persist(&step)?;
                    client.took(phase, before);
                }
                client::Action::Train(_) => {
                    let due = self.now + Duration::from_millis((1e3 * self.network.training_s).ceil() as u64);
                    let life = client.life;
                    self.push(due, Item::Trained { client: i, life });
                }
                client::Action::WakeAt(at) => {
                    client.wake = Some(at);
                    self.push(at, Item::ClientWake { client: i });
                }
                client::Action::Remember(credentials) => self.remember(i, credentials),
                client::Action::KeepCheckpoint(note) => {
                    let signed = SignedCheckpoint::open(&note, &client.member.ledger_key);
                    client.checkpoint = Some(signed.map_err(|error| broken(&error))?.checkpoint().clone());
                }
                client::Action::KeepLedgerKey(_)
                | client::Action::KeepEvidence(_)
                | client::Action::KeepOffer(_)
                | client::Action::Note(_) => {}
                client::Action::Over(end) => {
                    if matches!(end, End::Settled { .. }) {
                        let cost = std::mem::take(&mut client.cost);
                        self.coordinator.attempted.clients.push(cost);
                    }
                    let client = &mut self.clients[i];
                    client.end.get_or_insert(end);
                    client.exchange += 1;
                }
            }
            if !self.clients[i].is_alive() && self.clients[i].end.is_none() {
                break;
            }
        }
        Ok(())
    }

    /// Keeps credentials at client `i`. Clients that have seen the same rosters keep the same, and here they share it.
    fn remember(&mut self, i: usize, credentials: Vec<(Digest, Credential)>) {
        let kept = &mut self.clients[i].credentials;
        let missing: BTreeSet<Digest> = credentials.iter().map(|(digest, _)| *digest).collect();
        let n = kept.len() + missing.iter().filter(|digest| !kept.contains_key(*digest)).count();
        let before = kept.clone();
        let all = |other: &Arc<BTreeMap<Digest, Credential>>| {
            other.len() == n && missing.iter().chain(before.keys()).all(|digest| other.contains_key(digest))
        };
        match self.clients.iter().map(|client| &client.credentials).find(|other| all(other)).cloned() {
            Some(same) => self.clients[i].credentials = same,
            None => Arc::make_mut(&mut self.clients[i].credentials).extend(credentials),
        }
    }

    // The coordinator's side.

    fn peer(&self, i: usize) -> Peer {
        let identity = &self.clients[i].member.identity;
        let key = identity.certificate_key.verifying_key();
        Peer { id: identity.id.clone(), key, certificate: identity.certificate }
    }

    fn arrive(&mut self, from: usize, kind: u8, header: &[u8], body: Bytes) -> Result<(), UserError> {
        let before = processor_time();
        let phase = self.coordinator.phase();
        let attempted = &mut self.coordinator.attempted;
        attempted.bytes_up += (HEAD_LEN + header.len() + body.len()) as u64;
        let request = Request::decode(kind, header).map_err(|error| broken(&error))?;
        let digest = Digest::of_parts(&[&[kind], header]);
        let peer = self.peer(from);
        let exchange = self.clients[from].exchange;
        let is_check_in = matches!(request, Request::CheckIn(_));
        let arrival = self.coordinator.exchanges.arrive(&peer.id, digest, is_check_in, (from, exchange));
        self.coordinator.took(phase, before);
        if let (Arrival::New, _) = arrival {
            self.coordinator.held.release(from);
            return self.request(&peer, request, body);
        }
        Ok(())
    }

    /// Handles a request that was not seen before.
    fn request(&mut self, from: &Peer, request: Request, body: Bytes) -> Result<(), UserError> {
        let is_over = matches!(self.coordinator.round, coordinator::Round::Over);
        if let (true, Some(finished)) = (is_over, &self.coordinator.finished) {
            match request {
                Request::Consistency(_) => {
                    let quorum = finished.quorum.clone();
                    return self.answer(&from.id, Quorum { quorum }.into(), Bytes::new());
                }
                Request::Unmask(message) => return self.receipt(&from.id, message.ledger_size),
                _ => {}
            }
        }
        if is_over && matches!(request, Request::CheckIn(_)) {
            let key = self.setup.signer.signing_key();
            let when = ComeBack::AfterMs(COME_BACK_MS);
            let refusal = ComeBackLater::sign(key, self.coordinator.round_ref, &from.id, when, "the round is over");
            return self.answer(&from.id, refusal.into(), Bytes::new());
        }
        if is_over || request.round().is_some_and(|round| round != self.coordinator.round_ref) {
            return self.answer(&from.id, Aborted { reason: "the round is over".into() }.into(), Bytes::new());
        }
        match &request {
            Request::CheckIn(_) if self.coordinator.round.phase() != Some(Phase::Select) => {
                let key = self.setup.signer.signing_key();
                let when = ComeBack::AfterMs(COME_BACK_MS);
                let refusal =
                    ComeBackLater::sign(key, self.coordinator.round_ref, &from.id, when, "a round is under way");
                return self.answer(&from.id, refusal.into(), Bytes::new());
            }
            Request::FetchCredentials(fetch) => return self.show_credentials(&from.id, fetch),
            Request::Abort(_) => {
                self.answer(&from.id, Aborted { reason: "as you wish".into() }.into(), Bytes::new())?;
            }
            _ => {}
        }
        match Message::of(request, body.to_vec()) {
            Some(message) => self.feed(coordinator::Event::Message { from: from.clone(), message }),
            None => Ok(()),
        }
    }

    fn show_credentials(&mut self, to: &ClientId, fetch: &FetchCredentials) -> Result<(), UserError> {
        let before = processor_time();
        let coordinator::Round::ShareKeys(phase) = &self.coordinator.round else {
            return self.answer(to, Aborted { reason: "too late for the roster".into() }.into(), Bytes::new());
        };
        if !self.coordinator.shown.contains_key(&fetch.credentials) {
            let show = |name: &[u8; ShortName::LEN]| {
                let eranos_secagg::Credential { certificate, statement_key, certification } =
                    *phase.credential(ShortName(*name))?;
                let shown = &self.clients[*self.certificates.get(&certificate)?];
                Some(Credential { certificate: shown.certificate.clone(), statement_key, certification })
            };
            let credentials = fetch.credentials.iter().filter_map(show).collect();
            let frame = AnswerFrame::new(&Credentials { credentials }.into(), Bytes::new());
            let frame = frame.map_err(|error| broken(&error))?;
            self.coordinator.shown.insert(fetch.credentials.clone(), frame);
        }
        let frame = self.coordinator.shown.get(&fetch.credentials).cloned();
        self.coordinator.took("share_keys", before);
        frame.into_iter().for_each(|frame| self.answer_with(std::slice::from_ref(to), false, &frame));
        Ok(())
    }

    /// Gives an event to the coordinator and carries out what it asks for.
    fn feed(&mut self, event: coordinator::Event) -> Result<(), UserError> {
        let mut events = vec![event];
        while let Some(event) = events.pop() {
            let phase = self.coordinator.phase();
            let round = std::mem::replace(&mut self.coordinator.round, coordinator::Round::Over);
            let before = processor_time();
            let (round, actions) = round.handle(event, self.now, &mut self.coordinator.entropy);
            self.coordinator.took(phase, before);
            self.coordinator.round = round;
            for action in actions {
                match action {
                    coordinator::Action::Answer { to, answer, body } => self.answer(&to, answer, body)?,
                    coordinator::Action::AnswerAll { to, answer } => {
                        let is_to_check_in = answer.is_to_check_in();
                        let frame = AnswerFrame::new(&answer, Bytes::new()).map_err(|error| broken(&error))?;
                        self.answer_with(&to, is_to_check_in, &frame);
                    }
                    coordinator::Action::Persist(record) => self.persist(record),
                    coordinator::Action::WakeAt(at) => {
                        self.coordinator.wake = Some(at);
                        self.push(at, Item::CoordinatorWake);
                    }
                    coordinator::Action::Settle(release) => {
                        self.settle(*release)?;
                        events.push(coordinator::Event::Settled);
                    }
                    coordinator::Action::Receipt { to, ledger_size } => self.receipt(&to, ledger_size)?,
                    coordinator::Action::Abandon(abandoned) => {
                        if let Some(attempt) = &abandoned.attempt {
                            self.enter(attempt, entries::aborted(attempt))?;
                        }
                        self.coordinator.attempted.aborted = Some(abandoned.reason.clone());
                    }
                    coordinator::Action::Note(Note::PhaseOver { phase, took, timed_out: false }) => {
                        self.coordinator.pace.note(phase, took);
                    }
                    coordinator::Action::Note(_) => {}
                }
            }
        }
        Ok(())
    }

    fn answer(&mut self, to: &ClientId, answer: Answer, body: Bytes) -> Result<(), UserError> {
        let frame = AnswerFrame::new(&answer, body).map_err(|error| broken(&error))?;
        self.answer_with(std::slice::from_ref(to), answer.is_to_check_in(), &frame);
        Ok(())
    }

    fn answer_with(&mut self, to: &[ClientId], is_to_check_in: bool, frame: &AnswerFrame) {
        let len = (HEAD_LEN + frame.header.len() + frame.body.len()) as u64;
        for to in to {
            let Some((i, exchange)) = self.coordinator.exchanges.answer(to, is_to_check_in, frame) else { continue };
            self.coordinator.attempted.bytes_down += len;
            self.coordinator.held.keep(i, frame);
            let due = self.carried(i, len, Way::Down);
            self.push(due, Item::ToClient { to: i, exchange, frame: frame.clone() });
        }
    }

    fn receipt(&mut self, to: &ClientId, ledger_size: u64) -> Result<(), UserError> {
        let before = processor_time();
        let coordinator = &self.coordinator;
        let Some(Finished { index, attachment, .. }) = &coordinator.finished else { return Ok(()) };
        let old_size = if ledger_size > coordinator.ledger.size() { 0 } else { ledger_size };
        let receipt = coordinator.ledger.receipt(*index, old_size).map_err(|error| broken(&error))?.encode();
        let attachment = attachment.clone();
        self.coordinator.took("settle", before);
        self.answer(to, Settled { receipt }.into(), attachment)
    }

    fn persist(&mut self, record: coordinator::Record) {
        if let coordinator::Record::Open { cohort, .. } = record {
            self.coordinator.attempted.n_selected = cohort.len();
            for id in cohort {
                *self.coordinator.debited.entry(id).or_default() += 1;
            }
        }
    }

    /// Holds a released sum against the plain sum of what its survivors put in, and enters it.
    fn settle(&mut self, release: coordinator::Release) -> Result<(), UserError> {
        let coordinator::Release { attempt, sum } = release;
        let pseudonyms = attempt.roster.as_ref().map(|(_, pseudonyms)| pseudonyms.as_slice()).unwrap_or_default();
        let survivors = sum.survivors().iter().map(|position| pseudonyms.get(position.index()));
        let survivors: Option<Vec<usize>> = survivors.map(|key| self.pseudonyms.get(key?).copied()).collect();
        let survivors = survivors.ok_or_else(|| broken(&"a survivor that nobody knows"))?;
        let mask = u32::MAX >> (32 - u32::from(self.setup.mechanism.common().bits));
        let mut expected = vec![0u32; self.setup.mechanism.common().d_pad as usize];
        for i in &survivors {
            for (sum, value) in expected.iter_mut().zip(self.contribution(*i)) {
                *sum = sum.wrapping_add(value) & mask;
            }
        }
        if sum.residues() != expected {
            return Err(broken(&"a released sum is not the sum of what was put in"));
        }
        self.coordinator.attempted.n_survivors = survivors.len();
        let before = processor_time();
        let weights_after = attempt.plan.checkpoint;
        // Nobody applies the sum: the next round begins with the same weights.
        let (index, entry) = self.enter(&attempt, Outcome::Released { weights_after })?;
        let quorum = eranos_secagg::Quorum::new(attempt.quorum).to_bytes();
        let attachment = entry.attachment.unwrap_or_default().into();
        self.coordinator.finished = Some(Finished { quorum, index, attachment });
        self.coordinator.took("settle", before);
        Ok(())
    }

    fn enter(&mut self, attempt: &coordinator::Attempt, outcome: Outcome) -> Result<(u64, EncodedEntry), UserError> {
        let coordinator = &mut self.coordinator;
        let entry = coordinator.attempts.entry(attempt, outcome).map_err(|error| broken(&error))?;
        let index = coordinator.ledger.size();
        coordinator.ledger.append(index, &entry).map_err(|error| broken(&error))?;
        let parsed = Entry::parse(&entry.leaf, entry.attachment.as_deref()).map_err(|error| broken(&error))?;
        coordinator.attempts.count(&parsed, &self.setup.task.name);
        for client in &attempt.received {
            *coordinator.received.entry(client.clone()).or_default() += 1;
        }
        Ok((index, entry))
    }
}

impl Client {
    fn new(setup: &Setup, enrolled: Enrolled, dice: &mut SeededEntropy) -> Result<Self, UserError> {
        let Enrolled { identity, certificate } = enrolled;
        let (mechanism, schedule) = (&setup.mechanism, &setup.task.schedule);
        let common = mechanism.common();
        let unit = mechanism.unit();
        // Without noise no limit on epsilon is kept, and none is asked for.
        let epsilon = Some(mechanism.epsilon_for(unit)).filter(|epsilon| epsilon.is_finite()).unwrap_or(1.0);
        let terms = Terms { unit, data_set: "simulated".to_owned(), epsilon_limit: 2.0 * epsilon, delta: common.delta };
        let (budget, _) = Budget::create(terms).map_err(|error| broken(&error))?;
        let share = |n: u16| f64::from(n) / f64::from(common.n_max);
        let member = Member {
            identity: Arc::new(identity),
            trust_domain: setup.trust_domain.clone(),
            task: setup.task.name.clone(),
            ledger_key: setup.signer.ledger_key(),
            // What the task offers, and nothing else.
            policy: Policy {
                version: 1,
                unit: match unit {
                    UnitOfPrivacy::Record => Unit::Record,
                    UnitOfPrivacy::Client => Unit::Client,
                },
                epsilon_max: 2.0 * epsilon,
                task_epsilon_max: epsilon,
                delta_max: common.delta,
                survivors_min: common.u_min,
                max_colluders: common.max_colluders,
                noise_multiplier_min: 0.0,
                own_noise_multiplier_min: 0.0,
                allow_no_noise: !mechanism.has_noise(),
                records_max: 1,
                ready_slot_ms_min: schedule.ready_slot_ms,
                charged_without_receipt_max: u32::MAX,
                phase_timeout_ms_max: schedule.phase_timeout_ms,
                local_records_max: u32::MAX,
                local_learning_rate_max: f64::MAX,
                parameters_max: common.n_parameters,
                witnesses: Vec::new(),
                witnesses_min: 0,
                witness_lag_max: WITNESS_LAG_MAX_DEFAULT,
                sparse_graph: (GraphKind::from(setup.task.cohort.graph) == GraphKind::Sparse).then(|| SparseGraph {
                    corrupt_share_min: share(common.max_colluders),
                    dropped_share_max: share(common.n_max - common.u_min),
                }),
            },
            trust: Arc::new(Anchored(setup.anchor.clone())),
            n_classes: setup.data.n_classes(),
            form: setup.data.form(),
        };
        Ok(Self {
            member: Arc::new(member),
            certificate,
            budget: Arc::new(budget),
            checkpoint: None,
            credentials: Arc::default(),
            round: None,
            end: None,
            exit: None,
            entropy: SeededEntropy::new(u64::from_le_bytes(dice.bytes())),
            place: None,
            wake: None,
            life: 0,
            exchange: 0,
            line: [0.0; 2],
            cost: ClientCost::default(),
        })
    }

    fn begin(&mut self, exit: Option<DropOut>, now: f64) {
        self.round = Some(client::Round::new(self.member.clone(), self.memory()));
        (self.end, self.place, self.wake, self.exit) = (None, None, None, exit);
        self.life += 1;
        self.exchange += 1;
        self.line = [now; 2];
        self.cost = ClientCost::default();
    }

    fn memory(&self) -> Memory {
        Memory {
            budget: self.budget.clone(),
            checkpoint: self.checkpoint.clone(),
            ledger_keys: vec![self.member.ledger_key.clone()],
            credentials: self.credentials.clone(),
        }
    }

    fn persist(&mut self, step: &Step) -> Result<(), UserError> {
        let place = match (step, self.place) {
            (Step::Refuse { round, .. }, _) => *round,
            (_, Some(round)) => round,
            (_, None) => return Err(broken(&"a step outside any round")),
        };
        let append = step.prepare(&self.budget, place.session, place.round).map_err(|error| broken(&error))?;
        Arc::make_mut(&mut self.budget).commit(append).map_err(|error| broken(&error))
    }

    fn vanish(&mut self) {
        // Gone without a word, and with it whatever it waited for.
        self.round = None;
        (self.wake, self.exit) = (None, None);
        self.exchange += 1;
    }

    fn is_alive(&self) -> bool {
        self.round.is_some() && self.end.is_none()
    }

    /// What it works on when something comes to it.
    fn phase(&self) -> &'static str {
        match &self.round {
            Some(client::Round::Select(_)) => "configure",
            Some(client::Round::AdvertiseKeys(_)) => "share_keys",
            Some(client::Round::ShareKeys(_) | client::Round::Contribute(_) | client::Round::Ready(_)) => {
                "masked_input"
            }
            Some(client::Round::Uploaded(_)) => "consistency",
            Some(client::Round::Consistency(_)) => "unmask",
            Some(client::Round::Unmask(_) | client::Round::Over) | None => "settle",
        }
    }

    /// Counts what was computed since.
    fn took(&mut self, phase: &'static str, since: Duration) {
        *self.cost.phases.entry(phase).or_default() += processor_time().saturating_sub(since);
    }
}

impl Coordinator {
    fn new(setup: &Setup, session: SessionId, dice: &mut SeededEntropy, now: Timestamp) -> Result<Self, UserError> {
        let task = &setup.task;
        let model = Model::initialise(setup.model.clone(), task.training.server_optimizer, dice);
        let model = model.map_err(|error| broken(&error))?;
        let ledger = LogWriter::open_storage(MemoryFolder::default(), setup.signer.clone());
        let mut ledger = ledger.map_err(|error| broken(&error))?;
        let (nonce, date) = (&setup.nonce, Date::of(now));
        let entries =
            opening(task, &setup.trust_domain, &setup.signer, &model, &setup.data, &setup.mechanism, nonce, date);
        ledger.append_all(0, &entries.map_err(|error| broken(&error))?).map_err(|error| broken(&error))?;
        let epsilon_max = task.privacy.client_epsilon_max;
        Ok(Self {
            round: coordinator::Round::Over,
            round_ref: RoundRef { session, round: RoundNumber(0) },
            ledger,
            checkpoint: model.checkpoint(),
            attempts: Attempts::new(entries::executable()),
            pace: Pace::new(&task.schedule),
            received: BTreeMap::new(),
            debited: BTreeMap::new(),
            attempts_per_client_max: attempts_within(&setup.mechanism, epsilon_max).into(),
            entropy: SeededEntropy::new(u64::from_le_bytes(dice.bytes())),
            exchanges: Exchanges::default(),
            shown: BTreeMap::new(),
            held: Held::default(),
            wake: None,
            finished: None,
            attempted: Attempted::default(),
        })
    }

    fn begin(&mut self, setup: &Setup, round: RoundRef, graph: GraphKind, now: Timestamp) {
        let spent = self.debited.iter().filter(|(_, attempts)| **attempts >= self.attempts_per_client_max);
        let spec = RoundSpec {
            trust_domain: setup.trust_domain.clone(),
            ledger_origin: setup.signer.ledger_key().name().as_str().to_owned(),
            task: setup.task.name.clone(),
            session_nonce: setup.nonce,
            round: round.round,
            model_spec: setup.model.to_canonical(),
            data_spec: setup.data.to_canonical(),
            checkpoint_digest: Digest::of(&self.checkpoint),
            checkpoint: self.checkpoint.clone(),
            mechanism: setup.mechanism.clone(),
            graph,
            received: Arc::new(self.received.clone()),
            spent: Arc::new(spent.map(|(id, _)| id.clone()).collect()),
            ready_slot_ms: setup.task.schedule.ready_slot_ms,
            phase_timeout_ms: setup.task.schedule.phase_timeout_ms,
            waits: self.pace.waits(),
            key: Arc::new(SigningKey::from_seed(&setup.signer.signing_key().seed())),
        };
        self.round = coordinator::Round::new(spec, now);
        self.round_ref = round;
        self.exchanges = Exchanges::default();
        self.shown.clear();
        self.held = Held::default();
        self.finished = None;
        self.attempted = Attempted::default();
    }

    /// What it works on when something comes to it.
    fn phase(&self) -> &'static str {
        self.round.phase().map_or("settle", Phase::name)
    }

    /// Counts what was computed since.
    fn took(&mut self, phase: &'static str, since: Duration) {
        *self.attempted.coordinator.entry(phase).or_default() += processor_time().saturating_sub(since);
    }
}

/// Answers that may have to be sent again: one a client, until its next request. Bytes that several share count once.
#[derive(Default)]
struct Held {
    of: BTreeMap<usize, [Bytes; 2]>,
    /// By where they lie: their length, and how many have them.
    parts: BTreeMap<*const u8, (usize, usize)>,
    now: usize,
    most: usize,
}

impl Held {
    fn keep(&mut self, client: usize, frame: &AnswerFrame) {
        self.release(client);
        let parts = [frame.header.clone(), frame.body.clone()];
        for part in &parts {
            let (len, n) = self.parts.entry(part.as_ptr()).or_insert((part.len(), 0));
            self.now += if *n == 0 { *len } else { 0 };
            *n += 1;
        }
        self.most = self.most.max(self.now);
        self.of.insert(client, parts);
    }

    fn release(&mut self, client: usize) {
        for part in self.of.remove(&client).into_iter().flatten() {
            let Some((len, n)) = self.parts.get_mut(&part.as_ptr()) else { continue };
            *n -= 1;
            if *n == 0 {
                self.now -= *len;
                self.parts.remove(&part.as_ptr());
            }
        }
    }
}

/// Which way bytes go.
#[derive(Clone, Copy)]
enum Way {
    Up = 0,
    Down = 1,
}

/// Believes what the authority issued.
struct Anchored(Arc<TrustAnchor>);

impl CertificateCheck for Anchored {
    fn check(&self, certificate: &[u8], now: Timestamp) -> Result<(ClientId, VerifyingKey), String> {
        let identity = self.0.verify_client(certificate, now).map_err(|error| error.to_string())?;
        Ok((identity.id, identity.key))
    }
}

/// How long the threads of this process have run together: the parties compute one after the other.
fn processor_time() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or(0))
}

/// Vectors that the coordinator holds at once while they come in: the sum, and one for each grant.
pub(super) const VECTORS_HELD_MAX: usize = UPLOAD_GRANTS_MAX + 1;
/// What a client waits beyond the plan's time.
const ANSWER_GRACE: Duration = Duration::from_secs(5);
/// When a client is to come back that is not wanted now. No simulated client does.
const COME_BACK_MS: u32 = 1000;
/// Events of one attempt for each client, far above what any needs,
const EVENTS_PER_CLIENT_MAX: usize = 200;
/// and for so many more.
const EVENTS_SPARE: usize = 100;
