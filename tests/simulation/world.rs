//! One coordinator, N clients, a clock and a network, all of it from one seed.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use eranos_base::{
    ClientId, Digest, Entropy, Position, RoundNumber, SeededEntropy, SessionId, Signature, SigningKey, TaskId,
    Timestamp, TrustDomain, VerifyingKey,
    encoding::{Canonical, CanonicalReader},
};
use eranos_client::{
    policy::{Policy, SparseGraph, Unit},
    round::{self as client, CertificateCheck, End, Member, Memory, Step, TrainingJob},
};
use eranos_coordinator::{
    entries::{self, Attempts},
    exchanges::{AnswerFrame, Arrival, Exchanges},
    federation::key_rotated,
    round::{self as coordinator, Message, Note, Peer, RoundSpec},
};
use eranos_ledger::{
    Checkpoint, Date, EncodedEntry, Entry, KeyRotated, LedgerSigner, LogOpened, LogWriter, Outcome, SignedCheckpoint,
    TaskOpened, memory::MemoryFolder,
};
use eranos_nn::{
    DataSpec, ModelSpec,
    data::{
        Form, Schema,
        schema::{Input, Label},
    },
    model::{Activation, LayerKind, LayerSpec},
};
use eranos_privacy::{
    Budget, Groups, Mechanism, Probability, Promise,
    budget::{Terms, UnitOfPrivacy},
    mechanism::{NoiseTarget, RecordTarget, design},
};
use eranos_secagg::{
    Advert, Bundle, GraphKind, Identity, RosterEntry, ShortName, StatementKey, VerifiedCertifications,
};
use eranos_wire::{
    Answer, Request, RoundPlan,
    messages::{
        RoundRef,
        abort::Aborted,
        advertise_keys::{Credential, Credentials},
        consistency::Quorum,
        select::{ComeBack, ComeBackLater},
        settle::Settled,
    },
};
use zeroize::Zeroizing;

/// The size of a federation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size {
    pub(crate) n: usize,
    pub(crate) u_min: u16,
    pub(crate) f: u16,
}

/// A federation small enough to be attacked often: 5 clients of whom one may drop out and one may collude; q = 4, t = 3.
pub(crate) const FIVE: Size = Size { n: 5, u_min: 4, f: 1 };

/// What all of a federation know, and the keys that an adversary would like to have.
pub(crate) struct Setup {
    pub(crate) size: Size,
    pub(crate) trust_domain: TrustDomain,
    pub(crate) task: TaskId,
    pub(crate) authority: SigningKey,
    pub(crate) signer: Arc<LedgerSigner>,
    pub(crate) session: SessionId,
    pub(crate) nonce: [u8; 32],
    pub(crate) mechanism: Mechanism,
    pub(crate) graph: GraphKind,
    pub(crate) model: ModelSpec,
    pub(crate) data: DataSpec,
    /// Of every client's files.
    pub(crate) form: Form,
    pub(crate) checkpoint: Bytes,
}

impl Setup {
    pub(crate) fn ledger_key(&self) -> &SigningKey {
        self.signer.signing_key()
    }
}

/// One federation in the middle of whatever it does.
pub(crate) struct World {
    pub(crate) setup: Arc<Setup>,
    pub(crate) dice: Dice,
    pub(crate) now: Timestamp,
    pub(crate) clients: Vec<Client>,
    pub(crate) coordinator: Coordinator,
    /// Alters what the coordinator answers, on its way: a coordinator that is malicious towards whom it likes.
    pub(crate) on_answer: Option<AnswerHook>,
    /// Alters what a client requests: a malicious client.
    pub(crate) on_request: Option<RequestHook>,
    /// Each client's entry as its advert reached the coordinator.
    pub(crate) entries: Arc<Mutex<BTreeMap<ClientId, RosterEntry>>>,
    /// The hash of each client's bundle as it reached the coordinator, by position in a full roster.
    pub(crate) bundles: Arc<Mutex<BTreeMap<Position, Digest>>>,
    /// With what probability in percent an answer is lost and its request sent again.
    pub(crate) loss_percent: u64,
    /// How long the coordinator waits in each phase.
    pub(crate) phase_wait: Duration,
    queue: BTreeMap<(Timestamp, u64), Item>,
    n_items: u64,
}

pub(crate) type AnswerHook = Box<dyn FnMut(usize, &mut Answer, &mut Bytes)>;
pub(crate) type RequestHook = Box<dyn FnMut(usize, &mut Request, &mut Bytes)>;

/// What lies ahead of the clock.
enum Item {
    ToCoordinator { from: usize, kind: u8, header: Vec<u8>, body: Bytes },
    ToClient { to: usize, exchange: u64, frame: AnswerFrame },
    ClientWake { client: usize },
    Trained { client: usize, life: u64 },
    TimedOut { client: usize, exchange: u64 },
    CoordinatorWake,
}

/// A client, what it keeps on disk, and what it did.
pub(crate) struct Client {
    pub(crate) member: Arc<Member>,
    pub(crate) certificate: Vec<u8>,
    pub(crate) budget: Arc<Budget>,
    pub(crate) file: Vec<u8>,
    pub(crate) checkpoint: Option<Checkpoint>,
    pub(crate) credentials: Arc<BTreeMap<Digest, Credential>>,
    pub(crate) round: Option<client::Round>,
    pub(crate) end: Option<End>,
    pub(crate) did: Vec<Did>,
    /// The vector that it puts in.
    pub(crate) contribution: Vec<u32>,
    /// What it was asked to train in this round.
    pub(crate) job: Option<TrainingJob>,
    /// How long it trains.
    pub(crate) trains_ms: u64,
    /// How it goes, if it goes.
    pub(crate) exit: Option<Exit>,
    /// Why its process ended: a step that its budget did not allow.
    pub(crate) broken: Option<String>,
    /// Checkpoints of the ledger that it keeps as evidence.
    pub(crate) evidence: Vec<Vec<u8>>,
    entropy: SeededEntropy,
    place: Option<RoundRef>,
    wake: Option<Timestamp>,
    life: u64,
    exchange: u64,
    last_request: Option<(u8, Vec<u8>, Bytes)>,
}

/// How a client goes when it sends the request of this kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Exit {
    pub(crate) kind: u8,
    pub(crate) how: ExitHow,
}

/// The way in which it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ExitHow {
    /// It dies before the request leaves.
    DiesBefore,
    /// It dies after the request has left.
    DiesAfter,
    /// Its operator ends it, politely, after the request has left.
    Leaves,
}

/// One thing that a client did.
#[derive(Clone, Debug)]
pub(crate) enum Did {
    Heard,
    Persisted(Step),
    Sent { at: Timestamp, request: Request, body: Bytes },
    Trained { at: Timestamp },
    Ended,
}

/// The coordinator, what it keeps, and what it did.
pub(crate) struct Coordinator {
    pub(crate) round: coordinator::Round,
    pub(crate) did: Vec<CoordinatorDid>,
    pub(crate) notes: Vec<Note>,
    pub(crate) plan: Option<RoundPlan>,
    pub(crate) released: Option<Released>,
    pub(crate) abandoned: Option<String>,
    /// Whether the abandoned attempt counts as revealed; none if no plan was sent.
    pub(crate) abandoned_revealed: Option<bool>,
    pub(crate) ledger: LogWriter<MemoryFolder>,
    /// The keys before this one, each with the index of the entry that exchanged it.
    pub(crate) rotations: Vec<(VerifyingKey, u64)>,
    /// Cosigned checkpoints that it shows, by ascending size.
    pub(crate) cosigned: Vec<(u64, Vec<u8>)>,
    /// How many vectors of each client it has received, in rounds that are over.
    pub(crate) received: BTreeMap<ClientId, u64>,
    /// Whom it may debit no further attempt to.
    pub(crate) spent: BTreeSet<ClientId>,
    attempts: Attempts,
    entropy: SeededEntropy,
    exchanges: Exchanges<(usize, u64)>,
    wake: Option<Timestamp>,
    round_ref: RoundRef,
}

/// A released sum.
#[derive(Clone, Debug)]
pub(crate) struct Released {
    pub(crate) residues: Vec<u32>,
    /// Indices of clients.
    pub(crate) survivors: Vec<usize>,
    pub(crate) quorum: Vec<u8>,
    pub(crate) index: u64,
}

/// One thing that the coordinator did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum CoordinatorDid {
    Opened { cohort: Vec<ClientId> },
    Progressed { revealed: bool },
    Answered { to: ClientId, kind: u8 },
    Settled,
    Abandoned,
}

impl World {
    /// A federation of `size` that has never met, on the complete graph.
    pub(crate) fn new(seed: u64, size: Size) -> Self {
        Self::with(GraphKind::Complete, NoiseTarget::Distributed { epsilon: EPSILON }, seed, size)
    }

    /// One whose task has this noise.
    pub(crate) fn with_noise(seed: u64, size: Size, noise: NoiseTarget) -> Self {
        Self::with(GraphKind::Complete, noise, seed, size)
    }

    /// One on this graph.
    pub(crate) fn on(graph: GraphKind, seed: u64, size: Size) -> Self {
        Self::with(graph, NoiseTarget::Distributed { epsilon: EPSILON }, seed, size)
    }

    fn with(graph: GraphKind, noise: NoiseTarget, seed: u64, size: Size) -> Self {
        let target = RecordTarget { noise, ..target(size, model(3, 4).n_parameters()) };
        Self::of(mechanism(target), graph, seed, size)
    }

    /// One with this mechanism, which every client's policy and budget are for.
    pub(crate) fn of(mechanism: Mechanism, graph: GraphKind, seed: u64, size: Size) -> Self {
        let form = Form::Table(["a", "b", "c", "class"].map(str::to_owned).to_vec());
        Self::training(seed, size, graph, mechanism, model(3, 4), (records(3, 4), form))
    }

    /// One that trains `model`, from weights of zero, on such records, in files of such a form.
    pub(crate) fn training(
        seed: u64,
        size: Size,
        graph: GraphKind,
        mechanism: Mechanism,
        model: ModelSpec,
        (data, form): (DataSpec, Form),
    ) -> Self {
        let mut dice = Dice(SeededEntropy::new(seed));
        let trust_domain: TrustDomain = "example.org".parse().unwrap();
        let task: TaskId = "tiny".parse().unwrap();
        let authority = SigningKey::generate(&mut dice.0);
        let origin = "example.org/ledger".parse().unwrap();
        let signer = Arc::new(LedgerSigner::new(origin, SigningKey::generate(&mut dice.0)));
        let nonce = dice.0.bytes();
        let setup = Arc::new(Setup {
            size,
            session: SessionId::derive(&trust_domain, signer.ledger_key().name().as_str(), &task, &nonce),
            nonce,
            mechanism,
            graph,
            data,
            form,
            checkpoint: Bytes::from(vec![0; 4 * model.n_parameters()]),
            trust_domain,
            task,
            authority,
            signer,
            model,
        });
        let statement_key = |secret: [u8; 32]| StatementKey::derive(&secret, &setup.task);
        let mut statement_keys: Vec<_> = (0..size.n).map(|_| statement_key(dice.0.bytes())).collect();
        // As a roster stands, so that in a full one the index is the position.
        statement_keys.sort_by_key(StatementKey::verifying_key);
        let client = |(i, key)| Client::new(&setup, i, key, &mut dice);
        let clients = statement_keys.into_iter().enumerate().map(client).collect();
        let coordinator = Coordinator::new(&setup, dice.next());
        let now = Timestamp::from_unix_ms(1_800_000_000_000);
        let (queue, n_items) = (BTreeMap::new(), 0);
        Self {
            setup,
            dice,
            now,
            clients,
            coordinator,
            on_answer: None,
            on_request: None,
            entries: Arc::default(),
            bundles: Arc::default(),
            loss_percent: 0,
            phase_wait: PHASE_WAIT,
            queue,
            n_items,
        }
    }

    /// Between two rounds, the coordinator exchanges its ledger's key for that of `seed`.
    pub(crate) fn rotate_key(&mut self, seed: u8) {
        let old = self.setup.clone();
        let signer =
            Arc::new(LedgerSigner::new(old.signer.ledger_key().name().clone(), SigningKey::from_seed(&[seed; 32])));
        let index = self.coordinator.ledger.size();
        let entry = Entry::KeyRotated(KeyRotated::sign(index, &old.signer, &signer)).encode().unwrap();
        self.coordinator.ledger.rotate(index, &entry, signer.clone()).unwrap();
        self.coordinator.rotations.push((old.ledger_key().verifying_key(), index));
        self.setup = Arc::new(Setup {
            size: old.size,
            trust_domain: old.trust_domain.clone(),
            task: old.task.clone(),
            authority: SigningKey::from_seed(&old.authority.seed()),
            signer,
            session: old.session,
            nonce: old.nonce,
            mechanism: old.mechanism.clone(),
            graph: old.graph,
            model: old.model.clone(),
            data: old.data.clone(),
            form: old.form.clone(),
            checkpoint: old.checkpoint.clone(),
        });
    }

    /// Begins the round `number`: every client is a process again, has a fresh vector and checks in.
    pub(crate) fn begin(&mut self, number: u64) {
        self.queue.clear();
        let setup = self.setup.clone();
        let spec = RoundSpec {
            trust_domain: setup.trust_domain.clone(),
            ledger_origin: setup.signer.ledger_key().name().as_str().to_owned(),
            task: setup.task.clone(),
            session_nonce: setup.nonce,
            round: RoundNumber(number),
            model_spec: setup.model.to_canonical(),
            data_spec: setup.data.to_canonical(),
            checkpoint: setup.checkpoint.clone(),
            checkpoint_digest: Digest::of(&setup.checkpoint),
            mechanism: setup.mechanism.clone(),
            graph: setup.graph,
            received: Arc::new(self.coordinator.received.clone()),
            spent: Arc::new(self.coordinator.spent.clone()),
            ready_slot_ms: READY_SLOT_MS,
            phase_timeout_ms: PHASE_TIMEOUT_MS,
            waits: [self.phase_wait; coordinator::Phase::ALL.len()],
            key: Arc::new(SigningKey::from_seed(&setup.ledger_key().seed())),
        };
        self.coordinator.begin(spec, RoundRef { session: setup.session, round: RoundNumber(number) }, self.now);
        self.coordinator.wake = Some(self.now + self.phase_wait);
        self.push(self.now + self.phase_wait, Item::CoordinatorWake);
        let bits = u32::from(setup.mechanism.common().bits);
        for i in 0..self.clients.len() {
            let contribution = (0..setup.mechanism.common().d_pad)
                .map(|_| (self.dice.next() as u32) & (u32::MAX >> (32 - bits)))
                .collect();
            let nonce = self.dice.next();
            let client = &mut self.clients[i];
            client.begin(contribution);
            let check_in = client.member.check_in(&client.memory(), nonce);
            self.send(i, check_in.into(), Bytes::new());
        }
    }

    /// Client `i` is a process again, in the middle of a round, with what its file holds, and checks in.
    pub(crate) fn restart(&mut self, i: usize) {
        let (budget, torn) = Budget::parse(&self.clients[i].file).unwrap();
        assert_eq!(torn, None);
        let contribution = self.clients[i].contribution.clone();
        self.clients[i].budget = Arc::new(budget);
        self.clients[i].begin(contribution);
        let nonce = self.dice.next();
        let check_in = self.clients[i].member.check_in(&self.clients[i].memory(), nonce);
        self.send(i, check_in.into(), Bytes::new());
    }

    /// Lets everything happen that lies ahead.
    pub(crate) fn run(&mut self) {
        self.run_until(|_| false);
    }

    /// Lets things happen until `done` holds, which is asked before each. Whether it ever did.
    pub(crate) fn run_until(&mut self, mut done: impl FnMut(&Self) -> bool) -> bool {
        for _ in 0..STEPS_MAX {
            if done(self) {
                return true;
            }
            let Some(((at, _), item)) = self.queue.pop_first() else { return false };
            self.now = self.now.max(at);
            self.happen(item);
        }
        panic!("the simulation does not come to an end");
    }

    fn happen(&mut self, item: Item) {
        match item {
            Item::ToCoordinator { from, kind, header, body } => self.arrive(from, kind, header, body),
            Item::ToClient { to, exchange, frame } => self.hear(to, exchange, &frame),
            Item::ClientWake { client } => {
                if self.clients[client].wake.is_some_and(|at| at <= self.now) {
                    self.clients[client].wake = None;
                    self.feed_client(client, client::Event::Wake);
                }
            }
            Item::Trained { client, life } => {
                if self.clients[client].life == life && self.clients[client].is_alive() {
                    let vector = Zeroizing::new(self.clients[client].contribution.clone());
                    self.clients[client].did.push(Did::Trained { at: self.now });
                    self.feed_client(client, client::Event::Contribution(vector));
                }
            }
            Item::TimedOut { client, exchange } => {
                if self.clients[client].exchange == exchange {
                    let reason = "no answer within the plan's time".to_owned();
                    self.feed_client(client, client::Event::Leave { reason });
                }
            }
            Item::CoordinatorWake => {
                if self.coordinator.wake.is_some_and(|at| at <= self.now) {
                    self.coordinator.wake = None;
                    self.feed(coordinator::Event::Wake);
                }
            }
        }
    }

    fn push(&mut self, at: Timestamp, item: Item) {
        self.n_items += 1;
        self.queue.insert((at, self.n_items), item);
    }

    fn delay(&mut self) -> Timestamp {
        self.now + Duration::from_millis(1 + self.dice.below(DELAY_MS_MAX))
    }

    // The clients' side, as `client/src/session.rs` drives it.

    /// Sends a request of client `i`, unless it goes first.
    fn send(&mut self, i: usize, request: Request, body: Bytes) {
        let header = request.encode().unwrap();
        assert_eq!(
            Request::decode(request.kind(), &header).as_ref(),
            Ok(&request),
            "a request comes back from its bytes"
        );
        let kind = request.kind();
        let exit = self.clients[i].exit.filter(|exit| exit.kind == kind);
        if exit.is_some_and(|exit| exit.how == ExitHow::DiesBefore) {
            self.clients[i].die();
            return;
        }
        let client = &mut self.clients[i];
        client.did.push(Did::Sent { at: self.now, request, body: body.clone() });
        client.exchange += 1;
        client.last_request = Some((kind, header.clone(), body.clone()));
        let exchange = client.exchange;
        let timeout = self.now + Duration::from_millis(u64::from(PHASE_TIMEOUT_MS) + ANSWER_GRACE_MS);
        // A client that has checked in waits for as long as it takes.
        if kind != CHECK_IN {
            self.push(timeout, Item::TimedOut { client: i, exchange });
        }
        let due = self.delay();
        self.push(due, Item::ToCoordinator { from: i, kind, header, body });
        match exit.map(|exit| exit.how) {
            Some(ExitHow::DiesAfter) => self.clients[i].die(),
            Some(ExitHow::Leaves) => {
                self.feed_client(i, client::Event::Leave { reason: "the client is shutting down".to_owned() });
            }
            Some(ExitHow::DiesBefore) | None => {}
        }
    }

    /// An answer reaches client `i`, or is lost with its connection: then the same request goes out again.
    fn hear(&mut self, i: usize, exchange: u64, frame: &AnswerFrame) {
        if self.clients[i].exchange != exchange || !self.clients[i].is_alive() {
            return;
        }
        if self.dice.below(100) < self.loss_percent {
            let (kind, header, body) = self.clients[i].last_request.clone().unwrap();
            let due = self.delay();
            self.push(due, Item::ToCoordinator { from: i, kind, header, body });
            return;
        }
        let mut answer = Answer::decode(frame.kind, &frame.header).unwrap();
        let mut body = frame.body.clone();
        if let Some(hook) = &mut self.on_answer {
            hook(i, &mut answer, &mut body);
        }
        let header = answer.encode().unwrap();
        assert_eq!(Answer::decode(answer.kind(), &header).as_ref(), Ok(&answer), "an answer comes back from its bytes");
        self.clients[i].exchange += 1;
        self.clients[i].did.push(Did::Heard);
        self.feed_client(i, client::Event::Answer { answer, body });
    }

    /// Gives an event to client `i` and carries out what it asks for.
    pub(crate) fn feed_client(&mut self, i: usize, event: client::Event) {
        let client = &mut self.clients[i];
        let Some(round) = client.round.take() else { return };
        let (round, actions) = round.handle(event, self.now, &mut client.entropy);
        let plan = round.plan().map(|plan| RoundRef { session: plan.session, round: plan.round });
        client.place = plan.or(client.place);
        client.round = Some(round);
        for action in actions {
            let client = &mut self.clients[i];
            match action {
                client::Action::Send { request, body } => self.send(i, request, body),
                client::Action::Persist(step) => {
                    if let Err(error) = client.persist(&step) {
                        client.broken = Some(error);
                        client.die();
                        return;
                    }
                    client.did.push(Did::Persisted(step));
                }
                client::Action::Train(job) => {
                    let plan = client.round.as_ref().and_then(client::Round::plan);
                    assert_eq!(plan.map(|plan| &plan.mechanism), Some(&job.mechanism));
                    client.job = Some(*job);
                    let (life, due) = (client.life, self.now + Duration::from_millis(client.trains_ms));
                    self.push(due, Item::Trained { client: i, life });
                }
                client::Action::WakeAt(at) => {
                    client.wake = Some(at);
                    self.push(at, Item::ClientWake { client: i });
                }
                client::Action::Remember(credentials) => {
                    Arc::make_mut(&mut client.credentials).extend(credentials);
                }
                client::Action::KeepCheckpoint(note) => {
                    let signed = SignedCheckpoint::open(&note, &client.member.ledger_key).unwrap();
                    client.checkpoint = Some(signed.checkpoint().clone());
                }
                client::Action::KeepLedgerKey(key) => Arc::make_mut(&mut client.member).ledger_key = key,
                // Nobody restores a coordinator here.
                client::Action::KeepOffer(_) => {}
                client::Action::KeepEvidence(note) => client.evidence.push(note),
                client::Action::Note(_) => {}
                client::Action::Over(End::KeyRotated) => {
                    // What it did so far was no round: it begins one under the new key.
                    client.did.clear();
                    client.round = Some(client::Round::new(client.member.clone(), client.memory()));
                    let nonce = u64::from_le_bytes(client.entropy.bytes());
                    let check_in = client.member.check_in(&client.memory(), nonce);
                    self.send(i, check_in.into(), Bytes::new());
                    return;
                }
                client::Action::Over(end) => {
                    client.did.push(Did::Ended);
                    client.end.get_or_insert(end);
                    client.exchange += 1;
                }
            }
            if !self.clients[i].is_alive() && self.clients[i].end.is_none() {
                return;
            }
        }
    }

    // The coordinator's side, as `coordinator/src/federation.rs` drives it.

    /// Client `i` as its certificate names it.
    pub(crate) fn peer(&self, i: usize) -> Peer {
        let identity = &self.clients[i].member.identity;
        let key = identity.certificate_key.verifying_key();
        Peer { id: identity.id.clone(), key, certificate: identity.certificate }
    }

    fn arrive(&mut self, from: usize, kind: u8, header: Vec<u8>, mut body: Bytes) {
        let peer = self.peer(from);
        // A malicious client alters its request before it sends it: the coordinator knows no other.
        let mut request = Request::decode(kind, &header).unwrap();
        if let Some(hook) = &mut self.on_request {
            hook(from, &mut request, &mut body);
        }
        if let Request::Advertise(message) = &request
            && let Ok(advert) = Advert::from_bytes(&message.advert)
        {
            let Peer { id, key, certificate } = peer.clone();
            self.entries.lock().unwrap().insert(id.clone(), RosterEntry { id, certificate, key, advert });
        }
        if let Request::ShareKeys(message) = &request
            && let Ok(bundle) = Bundle::from_bytes(&message.bundle)
        {
            let position = Position(from as u16);
            self.bundles.lock().unwrap().insert(position, bundle.digest(position));
        }
        let digest = Digest::of_parts(&[&[request.kind()], &request.encode().unwrap()]);
        let exchange = self.clients[from].exchange;
        match self.coordinator.exchanges.arrive(&peer.id, digest, request.kind() == CHECK_IN, (from, exchange)) {
            (Arrival::Answered(frame), Some((to, exchange))) => {
                let due = self.delay();
                self.push(due, Item::ToClient { to, exchange, frame });
            }
            (Arrival::New, _) => self.request(&peer, request, &body),
            _ => {}
        }
    }

    /// Handles a request that was not seen before.
    pub(crate) fn request(&mut self, from: &Peer, request: Request, body: &Bytes) {
        if let Some(released) = self.coordinator.released.clone()
            && request.round() == Some(self.coordinator.round_ref)
            && matches!(self.coordinator.round, coordinator::Round::Over)
        {
            match request {
                Request::Consistency(_) => {
                    self.answer(&from.id, Quorum { quorum: released.quorum }.into(), Bytes::new());
                }
                Request::Unmask(message) => self.receipt(&from.id, released.index, message.ledger_size),
                _ => self.answer(&from.id, Aborted { reason: "the round is over".into() }.into(), Bytes::new()),
            }
            return;
        }
        if let Request::CheckIn(check_in) = &request
            && let Some(rotated) = key_rotated(&self.coordinator.ledger, &self.coordinator.rotations, check_in).unwrap()
        {
            self.answer(&from.id, rotated.into(), Bytes::new());
            return;
        }
        let is_old = request.round().is_some_and(|round| round != self.coordinator.round_ref);
        if matches!(self.coordinator.round, coordinator::Round::Over) && matches!(request, Request::CheckIn(_)) {
            let (key, round) = (self.setup.ledger_key(), self.coordinator.round_ref);
            let refusal = ComeBackLater::sign(key, round, &from.id, ComeBack::TaskOver, "over");
            self.answer(&from.id, refusal.into(), Bytes::new());
            return;
        }
        if is_old || matches!(self.coordinator.round, coordinator::Round::Over) {
            self.answer(&from.id, Aborted { reason: "the round is over".into() }.into(), Bytes::new());
            return;
        }
        match &request {
            // Whoever checks in while its round goes on has left it.
            Request::CheckIn(_) if self.coordinator.round.phase() != Some(coordinator::Phase::Select) => {
                let message = Message::Abort("started again".to_owned());
                self.feed(coordinator::Event::Message { from: from.clone(), message });
                return;
            }
            Request::FetchCredentials(fetch) => {
                let coordinator::Round::ShareKeys(phase) = &self.coordinator.round else {
                    self.answer(&from.id, Aborted { reason: "too late for the roster".into() }.into(), Bytes::new());
                    return;
                };
                let show = |name: &[u8; ShortName::LEN]| {
                    let eranos_secagg::Credential { certificate, statement_key, certification } =
                        *phase.credential(ShortName(*name))?;
                    let shown = self.clients.iter().find(|client| Digest::of(&client.certificate) == certificate)?;
                    Some(Credential { certificate: shown.certificate.clone(), statement_key, certification })
                };
                let credentials = fetch.credentials.iter().filter_map(show).collect();
                self.answer(&from.id, Credentials { credentials }.into(), Bytes::new());
                return;
            }
            Request::Abort(_) => {
                self.answer(&from.id, Aborted { reason: "as you wish".into() }.into(), Bytes::new());
            }
            _ => {}
        }
        if let Some(message) = Message::of(request, body.to_vec()) {
            self.feed(coordinator::Event::Message { from: from.clone(), message });
        }
    }

    /// Gives an event to the coordinator and carries out what it asks for.
    pub(crate) fn feed(&mut self, event: coordinator::Event) {
        let mut events = vec![event];
        while let Some(event) = events.pop() {
            let round = std::mem::replace(&mut self.coordinator.round, coordinator::Round::Over);
            let (round, actions) = round.handle(event, self.now, &mut self.coordinator.entropy);
            self.coordinator.round = round;
            for action in actions {
                match action {
                    coordinator::Action::Answer { to, mut answer, body } => {
                        if let Answer::Configure(configure) = &mut answer {
                            let client = self.clients.iter().find(|client| client.member.identity.id == to);
                            let known = client.and_then(|client| client.checkpoint.as_ref()).map_or(0, |c| c.size);
                            configure.cosigned = cosigned(&self.coordinator.ledger, &self.coordinator.cosigned, known);
                        }
                        self.answer(&to, answer, body);
                    }
                    coordinator::Action::AnswerAll { to, answer } => {
                        to.iter().for_each(|to| self.answer(to, answer.clone(), Bytes::new()));
                    }
                    coordinator::Action::Persist(record) => self.coordinator.persist(record),
                    coordinator::Action::WakeAt(at) => {
                        self.coordinator.wake = Some(at);
                        self.push(at, Item::CoordinatorWake);
                    }
                    coordinator::Action::Settle(release) => {
                        let ids: Vec<ClientId> = self.clients.iter().map(|c| c.member.identity.id.clone()).collect();
                        self.coordinator.settle(*release, &ids);
                        events.push(coordinator::Event::Settled);
                    }
                    coordinator::Action::Receipt { to, ledger_size } => {
                        let index = self.coordinator.released.as_ref().expect("a receipt is of a release").index;
                        self.receipt(&to, index, ledger_size);
                    }
                    coordinator::Action::Abandon(abandoned) => self.coordinator.abandon(&abandoned),
                    coordinator::Action::Note(note) => self.coordinator.notes.push(note),
                }
            }
        }
    }

    fn answer(&mut self, to: &ClientId, answer: Answer, body: Bytes) {
        self.coordinator.did.push(CoordinatorDid::Answered { to: to.clone(), kind: answer.kind() });
        let frame = AnswerFrame::new(&answer, body).unwrap();
        let decoded = Answer::decode(answer.kind(), &frame.header);
        assert_eq!(decoded.as_ref(), Ok(&answer), "an answer comes back from its bytes");
        if let Some((to, exchange)) = self.coordinator.exchanges.answer(to, answer.is_to_check_in(), &frame) {
            let due = self.delay();
            self.push(due, Item::ToClient { to, exchange, frame });
        }
    }

    fn receipt(&mut self, to: &ClientId, index: u64, ledger_size: u64) {
        let ledger = &self.coordinator.ledger;
        let old_size = if ledger_size > ledger.size() { 0 } else { ledger_size };
        let receipt = ledger.receipt(index, old_size).unwrap();
        let attachment = ledger.attachment(&receipt.entry).unwrap().unwrap();
        self.answer(to, Settled { receipt: receipt.encode() }.into(), attachment.into());
    }

    // What every round must come to, whoever dropped out or attacked.

    /// The invariants of a round that has come to its end; `liars` are clients that are not what they seem.
    pub(crate) fn check(&self, context: &str, liars: &[usize]) {
        let coordinator = &self.coordinator;
        assert!(
            matches!(coordinator.round, coordinator::Round::Over)
                && coordinator.released.is_some() != coordinator.abandoned.is_some(),
            "{context}: a round is released or abandoned"
        );
        coordinator.check_order(context);
        for i in self.blamed() {
            assert!(liars.contains(&i), "{context}: client {i} is framed: {:?}", coordinator.notes);
        }
        for (i, client) in self.clients.iter().enumerate() {
            client.check_order(&format!("{context}, client {i}"));
        }
        let Some(released) = &coordinator.released else {
            for (i, client) in self.clients.iter().enumerate().filter(|(i, _)| !liars.contains(i)) {
                assert!(!client.is_alive(), "{context}: client {i} waits for a round that is over");
                assert!(!matches!(client.end, Some(End::Settled { .. })), "{context}: client {i} settled nothing");
            }
            return;
        };
        self.check_sum(context, released);
        for i in (0..self.clients.len()).filter(|i| !liars.contains(i)) {
            let client = &self.clients[i];
            assert!(!client.is_alive(), "{context}: client {i} waits for a round that is over");
            let is_survivor = released.survivors.contains(&i);
            assert!(!is_survivor || client.is_charged(), "{context}: survivor {i} is charged");
            // Whoever was there to the end has its receipt.
            if is_survivor && client.exit.is_none() {
                assert!(matches!(client.end, Some(End::Settled { .. })), "{context}: survivor {i}: {:?}", client.end);
                assert!(client.did.iter().any(|did| matches!(did, Did::Persisted(Step::Receipt { .. }))), "{context}");
            }
            if !is_survivor {
                assert!(!matches!(client.end, Some(End::Settled { .. })), "{context}: client {i} is no survivor");
            }
        }
    }

    /// The released sum is that of the survivors' vectors, bit for bit.
    fn check_sum(&self, context: &str, released: &Released) {
        let size = self.setup.size;
        assert!(released.survivors.len() >= usize::from(size.u_min), "{context}: {:?}", released.survivors);
        let bits = u32::from(self.setup.mechanism.common().bits);
        let mut expected = vec![0_u32; released.residues.len()];
        for i in &released.survivors {
            for (sum, value) in expected.iter_mut().zip(&self.clients[*i].contribution) {
                *sum = sum.wrapping_add(*value) & (u32::MAX >> (32 - bits));
            }
        }
        assert_eq!(released.residues, expected, "{context}: the sum of {:?}", released.survivors);
    }

    /// Who is proved guilty in this round, and so will not be selected again.
    pub(crate) fn blamed(&self) -> BTreeSet<usize> {
        let blamed = self.coordinator.notes.iter().filter_map(|note| match note {
            Note::Blamed { id, .. } => self.clients.iter().position(|client| client.member.identity.id == *id),
            _ => None,
        });
        blamed.collect()
    }

    /// Whether the sum was released and every client but `absent` settled.
    pub(crate) fn settled_without(&self, absent: &[usize]) -> bool {
        let settled = |i: &usize| matches!(self.clients[*i].end, Some(End::Settled { .. }));
        self.coordinator.released.is_some()
            && (0..self.clients.len()).filter(|i| !absent.contains(i)).all(|i| settled(&i))
    }
}

impl Client {
    fn new(setup: &Arc<Setup>, i: usize, statement_key: StatementKey, dice: &mut Dice) -> Self {
        let width = (setup.size.n - 1).to_string().len().max(2);
        let id = ClientId::new(&setup.trust_domain, &format!("c{i:0width$}")).unwrap();
        let certificate_key = SigningKey::generate(&mut dice.0);
        let certificate = certificate(&setup.authority, &id, &certificate_key.verifying_key());
        let (budget, file) = Budget::create(Terms {
            unit: setup.mechanism.unit(),
            data_set: "random".to_owned(),
            epsilon_limit: 2.0 * EPSILON,
            delta: DELTA,
        })
        .unwrap();
        let parameters = setup.mechanism.common();
        let member = Member {
            identity: Arc::new(Identity {
                id,
                certificate: Digest::of(&certificate),
                certificate_key,
                statement_key,
                verified: VerifiedCertifications::default(),
            }),
            trust_domain: setup.trust_domain.clone(),
            task: setup.task.clone(),
            ledger_key: setup.signer.ledger_key(),
            // Exactly what the honest plan offers: one step further is refused.
            policy: Policy {
                version: 1,
                unit: match setup.mechanism.unit() {
                    UnitOfPrivacy::Record => Unit::Record,
                    UnitOfPrivacy::Client => Unit::Client,
                },
                epsilon_max: 2.0 * EPSILON,
                task_epsilon_max: EPSILON,
                delta_max: parameters.delta,
                survivors_min: parameters.u_min,
                max_colluders: parameters.max_colluders,
                noise_multiplier_min: setup.mechanism.promised_noise_multiplier(),
                allow_no_noise: false,
                records_max: RECORDS_MAX,
                own_noise_multiplier_min: 0.0,
                local_records_max: 1 << 16,
                local_learning_rate_max: 1.0,
                ready_slot_ms_min: READY_SLOT_MS,
                charged_without_receipt_max: u32::MAX,
                phase_timeout_ms_max: PHASE_TIMEOUT_MS,
                parameters_max: parameters.n_parameters,
                witnesses: Vec::new(),
                witnesses_min: 0,
                witness_lag_max: 100,
                sparse_graph: (setup.graph == GraphKind::Sparse).then(|| SparseGraph {
                    corrupt_share_min: f64::from(parameters.max_colluders) / f64::from(parameters.n_max),
                    dropped_share_max: f64::from(parameters.n_max - parameters.u_min) / f64::from(parameters.n_max),
                }),
            },
            trust: Arc::new(Authority(setup.authority.verifying_key())),
            n_classes: setup.data.n_classes(),
            form: setup.form.clone(),
        };
        Self {
            member: Arc::new(member),
            certificate,
            budget: Arc::new(budget),
            file,
            checkpoint: None,
            credentials: Arc::default(),
            round: None,
            end: None,
            did: Vec::new(),
            contribution: Vec::new(),
            job: None,
            trains_ms: 30,
            exit: None,
            broken: None,
            evidence: Vec::new(),
            entropy: SeededEntropy::new(dice.next()),
            place: None,
            wake: None,
            life: 0,
            exchange: 0,
            last_request: None,
        }
    }

    fn begin(&mut self, contribution: Vec<u32>) {
        self.round = Some(client::Round::new(self.member.clone(), self.memory()));
        (self.end, self.place, self.wake, self.broken) = (None, None, None, None);
        self.did.clear();
        self.contribution = contribution;
        self.job = None;
        self.life += 1;
        self.exchange += 1;
    }

    fn memory(&self) -> Memory {
        Memory {
            budget: self.budget.clone(),
            checkpoint: self.checkpoint.clone(),
            ledger_keys: vec![self.member.ledger_key.clone()],
            credentials: self.credentials.clone(),
        }
    }

    /// What the client demands, to be changed before the round begins.
    pub(crate) fn member_mut(&mut self) -> &mut Member {
        self.round = None;
        Arc::get_mut(&mut self.member).expect("no round is under way")
    }

    fn persist(&mut self, step: &Step) -> Result<(), String> {
        // A refusal names its round; every other step is taken in a round whose plan was accepted.
        let place = match (step, self.place) {
            (Step::Refuse { round, .. }, _) => *round,
            (_, Some(round)) => round,
            (_, None) => return Err("a step outside any round".to_owned()),
        };
        let append = step.prepare(&self.budget, place.session, place.round).map_err(|error| error.to_string())?;
        self.file.extend_from_slice(append.bytes());
        Arc::make_mut(&mut self.budget).commit(append).map_err(|error| error.to_string())
    }

    fn die(&mut self) {
        self.round = None;
        self.wake = None;
        self.exchange += 1;
    }

    /// Whether its process runs and its round is not over.
    pub(crate) fn is_alive(&self) -> bool {
        self.round.is_some() && self.end.is_none()
    }

    /// Whether an attempt was charged in this life.
    pub(crate) fn is_charged(&self) -> bool {
        self.did.iter().any(|did| matches!(did, Did::Persisted(Step::Charge { .. })))
    }

    /// The requests it sent.
    pub(crate) fn sent(&self) -> impl Iterator<Item = &Request> {
        self.did.iter().filter_map(|did| match did {
            Did::Sent { request, .. } => Some(request),
            _ => None,
        })
    }

    /// Everything in the order that the protocol demands: durable before it leaves, once each, nothing after the end.
    fn check_order(&self, context: &str) {
        assert_eq!(self.broken, None, "{context}: its budget allows what its round asks for");
        let (mut begun, mut charged, mut signed, mut ended) = (false, false, false, false);
        let (mut configured, mut trained) = (None, None);
        let mut seen = BTreeSet::new();
        for did in &self.did {
            match did {
                Did::Heard => {}
                Did::Persisted(Step::Begin { .. }) => begun = true,
                Did::Persisted(Step::Charge { .. }) => charged = true,
                Did::Persisted(Step::SignConsistency { .. }) => signed = true,
                Did::Persisted(_) => {}
                Did::Trained { at } => trained = Some(*at),
                Did::Ended => {
                    assert!(!ended, "{context}: a round ends once");
                    ended = true;
                }
                Did::Sent { at, request, body } => {
                    let what = request.kind();
                    assert!(seen.insert(what), "{context}: request {what:#x} is made once a round");
                    assert!(!ended, "{context}: request {what:#x} after the end");
                    assert_eq!(body.is_empty(), !matches!(request, Request::MaskedInput(_)), "{context}: {what:#x}");
                    match request {
                        Request::CheckIn(_) | Request::Abort(_) | Request::FetchCredentials(_) => {}
                        Request::Advertise(_) => {
                            assert!(begun, "{context}: the advert before the beginning is durable");
                            configured = Some(*at);
                        }
                        Request::ShareKeys(_) => assert!(begun, "{context}"),
                        Request::Ready(_) => {
                            let since = at.since(configured.expect("an advert came first")).as_millis() as u64;
                            assert!(
                                since > 0 && since.is_multiple_of(u64::from(READY_SLOT_MS)),
                                "{context}: READY after {since} ms"
                            );
                            assert!(
                                trained.is_some_and(|trained| trained <= *at),
                                "{context}: READY without a contribution"
                            );
                        }
                        Request::MaskedInput(_) => {
                            assert!(charged, "{context}: the vector before the charge is durable");
                            assert!(trained.is_some() && seen.contains(&READY), "{context}");
                        }
                        Request::Consistency(_) => {
                            assert!(signed, "{context}: the statement before its record is durable")
                        }
                        Request::Unmask(_) => assert!(seen.contains(&CONSISTENCY), "{context}"),
                    }
                }
            }
        }
        // A client that dies between the two is charged for a vector that never left: over-counted, never under.
        let uploaded = seen.contains(&MASKED_INPUT);
        let died_between = self.exit == Some(Exit { kind: MASKED_INPUT, how: ExitHow::DiesBefore });
        assert!(charged == uploaded || (charged && died_between), "{context}: charged {charged}, uploaded {uploaded}");
        if let Some(place) = self.place {
            assert_eq!(self.budget.is_charged(place.session, place.round), charged, "{context}");
        }
    }
}

impl Coordinator {
    fn new(setup: &Setup, seed: u64) -> Self {
        let mut ledger = LogWriter::open_storage(MemoryFolder::default(), setup.signer.clone()).unwrap();
        let ledger_key = setup.signer.ledger_key();
        let opened = LogOpened {
            origin: ledger_key.name().clone(),
            trust_domain: setup.trust_domain.clone(),
            ledger_key,
            date: Date::of(Timestamp::from_unix_ms(1_800_000_000_000)),
        };
        let task_opened = TaskOpened {
            task: setup.task.clone(),
            nonce: setup.nonce,
            session: setup.session,
            model: setup.model.digest(),
            data: Digest::of(&setup.data.to_canonical()),
            weights: Digest::of(&setup.checkpoint),
            mechanism: setup.mechanism.clone(),
            budget_epsilon: if setup.mechanism.has_noise() { EPSILON } else { f64::INFINITY },
            budget_delta: DELTA,
        };
        let leaves =
            [Entry::LogOpened(opened).encode().unwrap(), Entry::TaskOpened(Box::new(task_opened)).encode().unwrap()];
        ledger.append_all(0, &leaves).unwrap();
        let round_ref = RoundRef { session: setup.session, round: RoundNumber(0) };
        Self {
            round: coordinator::Round::Over,
            did: Vec::new(),
            notes: Vec::new(),
            plan: None,
            released: None,
            abandoned: None,
            abandoned_revealed: None,
            ledger,
            rotations: Vec::new(),
            cosigned: Vec::new(),
            received: BTreeMap::new(),
            spent: BTreeSet::new(),
            attempts: Attempts::new(executable()),
            entropy: SeededEntropy::new(seed),
            exchanges: Exchanges::default(),
            wake: None,
            round_ref,
        }
    }

    fn begin(&mut self, spec: RoundSpec, round_ref: RoundRef, now: Timestamp) {
        self.round = coordinator::Round::new(spec, now);
        self.round_ref = round_ref;
        self.exchanges = Exchanges::default();
        self.did.clear();
        self.notes.clear();
        (self.plan, self.released, self.abandoned, self.abandoned_revealed) = (None, None, None, None);
    }

    fn persist(&mut self, record: coordinator::Record) {
        let (attempt, did) = match record {
            coordinator::Record::Open { attempt, cohort } => {
                self.plan = Some(attempt.plan.clone());
                assert!(!attempt.revealed && attempt.roster.is_none());
                (attempt, CoordinatorDid::Opened { cohort })
            }
            coordinator::Record::Progress(attempt) => {
                let revealed = attempt.revealed;
                (attempt, CoordinatorDid::Progressed { revealed })
            }
        };
        // Whatever the state, the ledger can hold what would be entered if the process ended here.
        self.attempts.entry(&attempt, entries::aborted(&attempt)).unwrap();
        self.did.push(did);
    }

    fn settle(&mut self, release: coordinator::Release, ids: &[ClientId]) {
        let coordinator::Release { attempt, sum } = release;
        let residues = sum.residues();
        // Nobody applies the sum: the next round begins with the same weights.
        let outcome = Outcome::Released { weights_after: attempt.plan.checkpoint };
        let entry = self.attempts.entry(&attempt, outcome).unwrap();
        let index = self.enter(&entry);
        self.count(&attempt.received);
        // The roster ascends by pseudonym, and so do the clients; only who advertised stands in it.
        let (_, pseudonyms) = attempt.roster.as_ref().expect("a release has a roster");
        assert!(pseudonyms.len() <= ids.len() && pseudonyms.is_sorted());
        let members: Vec<usize> = self.roster_members(pseudonyms.len());
        let survivors = sum.survivors().iter().map(|position| members[position.index()]).collect();
        let quorum = eranos_secagg::Quorum::new(attempt.quorum).to_bytes();
        self.released = Some(Released { residues, survivors, quorum, index });
        self.did.push(CoordinatorDid::Settled);
    }

    /// The indices of those who were sent the roster, in its order.
    fn roster_members(&self, n1: usize) -> Vec<usize> {
        let answered = self.did.iter().filter_map(|did| match did {
            CoordinatorDid::Answered { to, kind: ROSTER } => Some(to.name()[1..].parse::<usize>().unwrap()),
            _ => None,
        });
        let members: BTreeSet<usize> = answered.collect();
        assert_eq!(members.len(), n1, "every member is sent the roster");
        members.into_iter().collect()
    }

    fn abandon(&mut self, abandoned: &coordinator::Abandoned) {
        if let Some(attempt) = &abandoned.attempt {
            let entry = self.attempts.entry(attempt, entries::aborted(attempt)).unwrap();
            self.enter(&entry);
            self.count(&attempt.received);
        }
        self.abandoned = Some(abandoned.reason.clone());
        self.abandoned_revealed = abandoned.attempt.as_ref().map(|attempt| attempt.revealed);
        self.did.push(CoordinatorDid::Abandoned);
    }

    fn count(&mut self, received: &[ClientId]) {
        for client in received {
            *self.received.entry(client.clone()).or_default() += 1;
        }
    }

    fn enter(&mut self, entry: &EncodedEntry) -> u64 {
        let index = self.ledger.size();
        self.ledger.append(index, entry).unwrap();
        let entry = Entry::parse(&entry.leaf, entry.attachment.as_deref()).unwrap();
        self.attempts.count(&entry, &"tiny".parse().unwrap());
        index
    }

    /// The debit is durable before a plan leaves, and "revealed" before anyone is asked to unmask.
    fn check_order(&self, context: &str) {
        let mut opened: Option<&[ClientId]> = None;
        let (mut revealed, mut over) = (false, 0);
        for did in &self.did {
            match did {
                CoordinatorDid::Opened { cohort } => {
                    assert!(opened.replace(cohort).is_none(), "{context}: a round opens once");
                }
                CoordinatorDid::Progressed { revealed: now } => {
                    assert!(*now || !revealed, "{context}: what is revealed stays revealed");
                    revealed = *now;
                }
                CoordinatorDid::Answered { to, kind: CONFIGURE } => {
                    assert!(
                        opened.is_some_and(|cohort| cohort.contains(to)),
                        "{context}: {to} has a plan and no debit"
                    );
                }
                CoordinatorDid::Answered { kind: QUORUM, .. } => {
                    assert!(revealed, "{context}: a quorum leaves before it is durable that the sum may be known");
                }
                CoordinatorDid::Answered { .. } => {}
                CoordinatorDid::Settled | CoordinatorDid::Abandoned => over += 1,
            }
        }
        assert_eq!(over, 1, "{context}: a round ends once");
        if let Some(abandoned) = self.abandoned_revealed {
            assert_eq!(abandoned, revealed, "{context}: what the ledger says of an aborted round");
        }
    }
}

/// A softmax layer alone: with 3 inputs and 4 units it has 16 parameters.
pub(crate) fn model(inputs: u32, units: u32) -> ModelSpec {
    let input = LayerKind::InputLayer { shape: vec![inputs] };
    let dense = LayerKind::Dense { units, activation: Activation::Softmax, use_bias: true };
    let layers = vec![
        LayerSpec { name: "input".to_owned(), inputs: vec![], kind: input },
        LayerSpec { name: "dense".to_owned(), inputs: vec![0], kind: dense },
    ];
    ModelSpec::new("tiny", layers).unwrap()
}

/// What the clients' records are: the first columns of a table, and a class.
pub(crate) fn records(inputs: usize, n_classes: u32) -> DataSpec {
    let columns = ["a", "b", "c"][..inputs].iter().map(|&column| column.to_owned()).collect();
    let label = Label::Integer { column: "class".to_owned(), n_classes };
    DataSpec::Table(Schema::new(vec![Input::Numbers { columns }], label).unwrap())
}

/// The parameters of a federation's mechanism.
pub(crate) fn target(size: Size, n_parameters: usize) -> RecordTarget {
    RecordTarget {
        groups: Groups::default(),
        l2_clip_norm: 1.0,
        n_parameters: n_parameters as u32,
        // Whole batches: their accounting is a closed form, which makes a round several times faster.
        sampling_probability: Probability::ONE,
        expected_lot: 40,
        record_bound: RECORDS_MAX,
        local: None,
        n_max: size.n as u16,
        u_min: size.u_min,
        max_colluders: size.f,
        max_attempts: ATTEMPTS_MAX,
        noise: NoiseTarget::Distributed { epsilon: EPSILON },
        delta: DELTA,
    }
}

/// The mechanism for `target`. Designing one takes longer than a round, so each is designed once.
pub(crate) fn mechanism(target: RecordTarget) -> Mechanism {
    static DESIGNED: Mutex<BTreeMap<String, Mechanism>> = Mutex::new(BTreeMap::new());
    let mut designed = DESIGNED.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    designed.entry(format!("{target:?}")).or_insert_with(|| design(&target).unwrap().into()).clone()
}

/// A certificate: the identity and key that the authority signed.
pub(crate) fn certificate(authority: &SigningKey, id: &ClientId, key: &VerifyingKey) -> Vec<u8> {
    let body = Canonical::new(CERTIFICATE_DOMAIN).text(id.as_str()).field(&key.0);
    let signature = authority.sign(&body.clone().finish());
    body.field(&signature.0).finish()
}

/// Believes what one authority signed.
struct Authority(VerifyingKey);

impl CertificateCheck for Authority {
    fn check(&self, certificate: &[u8], _now: Timestamp) -> Result<(ClientId, VerifyingKey), String> {
        let read = || {
            let mut reader = CanonicalReader::new(certificate, CERTIFICATE_DOMAIN)?;
            let read = (reader.parse::<ClientId>()?, VerifyingKey(reader.array()?), Signature(reader.array()?));
            reader.finish()?;
            Ok::<_, eranos_base::encoding::DecodeError>(read)
        };
        let (id, key, signature) = read().map_err(|error| error.to_string())?;
        let body = Canonical::new(CERTIFICATE_DOMAIN).text(id.as_str()).field(&key.0).finish();
        self.0.verify(&body, &signature).map_err(|_| "another authority signed it".to_owned())?;
        Ok((id, key))
    }
}

/// What the coordinator's program reports of itself.
fn executable() -> eranos_ledger::Executable {
    eranos_ledger::Executable { sha256: Digest::of(b"program"), version: "0.1.0".parse().unwrap() }
}

/// What a client that kept a checkpoint of `known` entries is shown of `notes`.
pub(crate) fn cosigned(
    ledger: &LogWriter<MemoryFolder>,
    notes: &[(u64, Vec<u8>)],
    known: u64,
) -> Vec<eranos_wire::messages::configure::Cosigned> {
    let chain = eranos_ledger::witnessed::chain(ledger, notes, known).unwrap();
    let show = |one: eranos_ledger::witnessed::Cosigned| eranos_wire::messages::configure::Cosigned {
        note: eranos_wire::messages::Blob(one.note),
        consistency: one.consistency,
    };
    chain.into_iter().map(show).collect()
}

/// Seeded choices.
pub(crate) struct Dice(pub(crate) SeededEntropy);

impl Dice {
    pub(crate) fn next(&mut self) -> u64 {
        u64::from_le_bytes(self.0.bytes())
    }

    /// A number below `n`, nearly uniform.
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}

pub(crate) const CHECK_IN: u8 = 0x10;
pub(crate) const FETCH_CREDENTIALS: u8 = 0x11;
pub(crate) const ADVERTISE: u8 = 0x12;
pub(crate) const SHARE_KEYS: u8 = 0x13;
pub(crate) const READY: u8 = 0x14;
pub(crate) const MASKED_INPUT: u8 = 0x15;
pub(crate) const CONSISTENCY: u8 = 0x16;
pub(crate) const UNMASK: u8 = 0x17;
pub(crate) const COME_BACK_LATER: u8 = 0x90;
pub(crate) const CONFIGURE: u8 = 0x91;
pub(crate) const ROSTER: u8 = 0x93;
pub(crate) const QUORUM: u8 = 0x97;

/// The bound on a client's records.
pub(crate) const RECORDS_MAX: u32 = 40;
pub(crate) const READY_SLOT_MS: u32 = 100;
pub(crate) const PHASE_TIMEOUT_MS: u32 = 10_000;
pub(crate) const EPSILON: f64 = 8.0;
pub(crate) const DELTA: f64 = 1e-5;
pub(crate) const ATTEMPTS_MAX: u32 = 64;
/// How long the coordinator waits in each phase, unless a test says otherwise.
const PHASE_WAIT: Duration = Duration::from_millis(1000);
/// What a client waits beyond the plan's time.
const ANSWER_GRACE_MS: u64 = 5000;
/// The longest way of a message.
pub(crate) const DELAY_MS_MAX: u64 = 40;
/// Events of one round, far above what any needs.
const STEPS_MAX: usize = 20_000;
const CERTIFICATE_DOMAIN: &str = "eranos/test/certificate";
