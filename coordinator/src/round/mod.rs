//! The coordinator's side of one round: a state machine without sockets, disk, clock or randomness of its own.
//!
//! ```text
//! select -> configure -> advertise_keys -> share_keys -> masked_input -> consistency -> unmask -> settle
//!                 \____________\_______________\______________\_____________\___________\-> abort
//! ```
//!
//! [`Round::handle`] takes an event, the time and an entropy source, and gives the next state and the actions to carry
//! out in their order: an [`Action::Persist`] must have succeeded before the next one. Each phase is a struct that holds
//! only what is true in it, and is consumed when it is left. The phases have the same file names in `wire::messages`
//! and in the client's `round`.

mod abort;
mod advertise_keys;
mod configure;
mod consistency;
mod masked_input;
mod select;
mod settle;
mod share_keys;
mod unmask;

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use eranos_base::{
    ClientId, Digest, Entropy, Position, RoundNumber, SessionId, Signature, SigningKey, TaskId, Timestamp, TrustDomain,
    VerifyingKey,
};
use eranos_ledger::Binding;
use eranos_privacy::Mechanism;
use eranos_secagg::{Blame, GraphKind, Misbehaviour, Roster, RosterEntry, Sum, Terms};
use eranos_wire::{
    Answer, Request, RoundPlan,
    messages::{
        RoundRef,
        abort::Aborted,
        select::{CheckIn, ComeBack, ComeBackLater},
    },
};

pub use abort::Aborting;
pub use advertise_keys::AdvertiseKeys;
pub use consistency::CollectStatements;
pub use masked_input::CollectInputs;
pub use select::Select;
pub use settle::Settle;
pub use share_keys::ShareKeys;
pub use unmask::Unmask;

/// One round of the coordinator.
#[expect(clippy::large_enum_variant, reason = "there is one round at a time, and a box would only hide its phases")]
pub enum Round {
    /// Check-ins arrive.
    Select(Select),
    /// The plan is out; signed keys arrive.
    AdvertiseKeys(AdvertiseKeys),
    /// The roster is out; sealed shares arrive.
    ShareKeys(ShareKeys),
    /// U2 is out; READYs and masked vectors arrive.
    MaskedInput(CollectInputs),
    /// The survivors are out; statements on them arrive.
    Consistency(CollectStatements),
    /// The quorum is out; released shares arrive.
    Unmask(Unmask),
    /// The sum is known; the ledger entry is being made.
    Settle(Settle),
    /// Nothing more happens in this round.
    Over,
}

/// What happens to a round.
pub enum Event {
    /// A client's message, its identity taken from its certificate.
    Message {
        /// Who.
        from: Peer,
        /// What.
        message: Message,
    },
    /// The time that an [`Action::WakeAt`] named has come.
    Wake,
    /// What [`Action::Settle`] asked for is durable.
    Settled,
    /// The operator ends the round.
    Stop {
        /// Why.
        reason: String,
    },
}

/// A client as its certificate names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its identity.
    pub id: ClientId,
    /// The certificate's public key.
    pub key: VerifyingKey,
    /// SHA-256 of the certificate.
    pub certificate: Digest,
}

/// A client's message, its round already checked.
pub enum Message {
    /// It asks to take part.
    CheckIn(CheckIn),
    /// Its keys.
    Advertise {
        /// The advert.
        advert: Vec<u8>,
        /// The proof that its statement key is its own.
        possession: Signature,
    },
    /// Its sealed shares.
    ShareKeys(Vec<u8>),
    /// Its READY.
    Ready(Signature),
    /// Its whole masked vector.
    MaskedInput {
        /// The vector, packed.
        packed: Vec<u8>,
        /// The signed statement that it is complete.
        finished: Vec<u8>,
    },
    /// Its statement on the survivors.
    Consistency(Signature),
    /// The shares it releases.
    Unmask {
        /// The shares, signed.
        shares: Vec<u8>,
        /// The size of the ledger that it knows.
        ledger_size: u64,
    },
    /// It leaves.
    Abort(String),
}

impl Message {
    /// What a request with this body says to the round; nothing if it asks for credentials, which are not the round's to show.
    pub fn of(request: Request, body: Vec<u8>) -> Option<Self> {
        Some(match request {
            Request::CheckIn(check_in) => Self::CheckIn(check_in),
            Request::FetchCredentials(_) => return None,
            Request::Advertise(message) => Self::Advertise { advert: message.advert, possession: message.possession },
            Request::ShareKeys(message) => Self::ShareKeys(message.bundle),
            Request::Ready(message) => Self::Ready(message.signature),
            Request::MaskedInput(message) => Self::MaskedInput { packed: body, finished: message.finished },
            Request::Consistency(message) => Self::Consistency(message.signature),
            Request::Unmask(message) => Self::Unmask { shares: message.shares, ledger_size: message.ledger_size },
            Request::Abort(message) => Self::Abort(message.reason.as_str().to_owned()),
        })
    }
}

/// What is to be done, in order.
pub enum Action {
    /// Answer a client's pending request.
    Answer {
        /// Whom.
        to: ClientId,
        /// With what.
        answer: Answer,
        /// And with this body.
        body: Bytes,
    },
    /// Answer the pending requests of several clients alike: encoded once, whose bytes all of them share.
    AnswerAll {
        /// Whom.
        to: Vec<ClientId>,
        /// With what.
        answer: Answer,
    },
    /// Make durable, before anything after it.
    Persist(Record),
    /// Send [`Event::Wake`] at this time; it replaces the one asked for before.
    WakeAt(Timestamp),
    /// Apply the sum, make checkpoint and ledger entry durable, then send [`Event::Settled`].
    Settle(Box<Release>),
    /// Answer a client with the receipt of the round's entry, proved from the ledger size that it knows.
    Receipt {
        /// Whom.
        to: ClientId,
        /// The size it knows; 0 for none.
        ledger_size: u64,
    },
    /// The round is over without a result: enter the attempt into the ledger.
    Abandon(Box<Abandoned>),
    /// Tell whoever watches.
    Note(Note),
}

/// What must be durable before the actions after it.
pub enum Record {
    /// The round, its plan, and the debit of every selected client.
    Open {
        /// The attempt, as far as it got.
        attempt: Box<Attempt>,
        /// Who is debited.
        cohort: Vec<ClientId>,
    },
    /// How the attempt stands, should the process end before the round does.
    Progress(Box<Attempt>),
}

/// What of an attempt is entered into the ledger, as far as the attempt got.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// The plan.
    pub plan: RoundPlan,
    /// The coordinator's signature of it.
    pub plan_signature: Signature,
    /// The roster's digest R1 and the members' statement keys, in the order of positions.
    pub roster: Option<(Digest, Vec<VerifyingKey>)>,
    /// Whose these keys are. It is kept, and no part of the entry.
    pub bindings: Vec<Binding>,
    /// The root of U2.
    pub sharers: Option<Digest>,
    /// Whose vectors arrived, complete and verified: they were charged for this attempt.
    pub received: Vec<ClientId>,
    /// The survivors, as their canonical bitmap.
    pub survivors: Option<Vec<u8>>,
    /// The statements of the quorum.
    pub quorum: Vec<(Position, Signature)>,
    /// Whether clients were asked to unmask: then the sum counts as known to the coordinator.
    pub revealed: bool,
}

impl Attempt {
    fn with_roster(self, roster: &Roster) -> Self {
        let pseudonyms = roster.entries().iter().map(|entry| entry.advert.statement_key).collect();
        let binding = |entry: &RosterEntry| Binding {
            trust_domain: self.plan.trust_domain.clone(),
            task: self.plan.task.clone(),
            pseudonym: entry.advert.statement_key,
            client: entry.id.clone(),
            certificate: entry.certificate,
            certificate_key: entry.key,
            certification: entry.advert.certification,
        };
        let bindings = roster.entries().iter().map(binding).collect();
        Self { roster: Some((roster.digest(), pseudonyms)), bindings, ..self }
    }
}

/// A released sum.
pub struct Release {
    /// What is entered.
    pub attempt: Attempt,
    /// The exact sum modulo 2^b, and whose vectors it is of.
    pub sum: Sum,
}

/// A round that ended without a result.
pub struct Abandoned {
    /// What is entered; none if no plan was sent.
    pub attempt: Option<Attempt>,
    /// Why.
    pub reason: String,
}

/// What a person or a log may want to know. It holds nothing private.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// A phase began, with so many clients.
    Phase {
        /// Its name.
        phase: Phase,
        /// How many clients are in it.
        n_clients: usize,
    },
    /// A phase ended.
    PhaseOver {
        /// Its name.
        phase: Phase,
        /// How long it took.
        took: Duration,
        /// Whether it ended because its time was over.
        timed_out: bool,
    },
    /// A client dropped out.
    Dropped {
        /// Who.
        id: ClientId,
        /// In which phase.
        phase: Phase,
        /// Why.
        reason: String,
    },
    /// A client's message was refused.
    Misbehaved {
        /// Who.
        id: ClientId,
        /// What it did.
        what: String,
    },
    /// Signed statements prove a client guilty.
    Blamed {
        /// Who.
        id: ClientId,
        /// Of what.
        what: String,
    },
}

/// The phases that wait for clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Phase {
    /// Check-ins.
    Select,
    /// Keys.
    AdvertiseKeys,
    /// Shares.
    ShareKeys,
    /// Vectors.
    MaskedInput,
    /// Statements.
    Consistency,
    /// Released shares.
    Unmask,
}

impl Phase {
    /// All of them, in order.
    pub const ALL: [Self; 6] =
        [Self::Select, Self::AdvertiseKeys, Self::ShareKeys, Self::MaskedInput, Self::Consistency, Self::Unmask];

    /// The phase's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Select => "select",
            Self::AdvertiseKeys => "advertise_keys",
            Self::ShareKeys => "share_keys",
            Self::MaskedInput => "masked_input",
            Self::Consistency => "consistency",
            Self::Unmask => "unmask",
        }
    }
}

/// Everything that a round is made from.
pub struct RoundSpec {
    /// The trust domain.
    pub trust_domain: TrustDomain,
    /// The ledger's origin.
    pub ledger_origin: String,
    /// The task.
    pub task: TaskId,
    /// The nonce from which the session follows.
    pub session_nonce: [u8; 32],
    /// The round.
    pub round: RoundNumber,
    /// The model's canonical bytes.
    pub model_spec: Vec<u8>,
    /// The records' canonical bytes.
    pub data_spec: Vec<u8>,
    /// The parameters to start from, as they travel: one allocation for all clients.
    pub checkpoint: Bytes,
    /// Their digest.
    pub checkpoint_digest: Digest,
    /// Mechanism, noise, thresholds.
    pub mechanism: Mechanism,
    /// Who shares keys with whom.
    pub graph: GraphKind,
    /// How many vectors of each client were received in the session's rounds so far; clients without one are left out.
    pub received: Arc<BTreeMap<ClientId, u64>>,
    /// Whom no further attempt may be debited to: nobody of them is selected.
    pub spent: Arc<BTreeSet<ClientId>>,
    /// READY's slot.
    pub ready_slot_ms: u32,
    /// The longest wait of a client.
    pub phase_timeout_ms: u32,
    /// How long each phase waits, in the order of [`Phase::ALL`].
    pub waits: [Duration; Phase::ALL.len()],
    /// The ledger key.
    pub key: Arc<SigningKey>,
}

impl RoundSpec {
    /// The session and the round.
    fn round_ref(&self) -> RoundRef {
        let session = SessionId::derive(&self.trust_domain, &self.ledger_origin, &self.task, &self.session_nonce);
        RoundRef { session, round: self.round }
    }

    /// Tells a client that it is not admitted to this round.
    fn not_admitted(&self, to: &ClientId, when: ComeBack, reason: &str) -> Action {
        answer(to, ComeBackLater::sign(&self.key, self.round_ref(), to, when, reason))
    }

    fn wait(&self, phase: Phase) -> Duration {
        self.waits[phase as usize]
    }
}

impl Round {
    /// A round that waits for check-ins.
    pub fn new(spec: RoundSpec, now: Timestamp) -> Self {
        Self::Select(Select::new(Arc::new(spec), now))
    }

    /// The phase that the round waits in, if it waits for clients.
    pub fn phase(&self) -> Option<Phase> {
        match self {
            Self::Select(_) => Some(Phase::Select),
            Self::AdvertiseKeys(_) => Some(Phase::AdvertiseKeys),
            Self::ShareKeys(_) => Some(Phase::ShareKeys),
            Self::MaskedInput(_) => Some(Phase::MaskedInput),
            Self::Consistency(_) => Some(Phase::Consistency),
            Self::Unmask(_) => Some(Phase::Unmask),
            Self::Settle(_) | Self::Over => None,
        }
    }

    /// Takes one event.
    #[must_use]
    pub fn handle(self, event: Event, now: Timestamp, entropy: &mut dyn Entropy) -> (Self, Vec<Action>) {
        if let Event::Stop { reason } = event {
            return abort::stop(self, reason);
        }
        match self {
            Self::Select(select) => select.handle(event, now, entropy),
            Self::AdvertiseKeys(phase) => phase.handle(event, now),
            Self::ShareKeys(phase) => phase.handle(event, now),
            Self::MaskedInput(phase) => phase.handle(event, now),
            Self::Consistency(phase) => phase.handle(event, now),
            Self::Unmask(phase) => phase.handle(event, now),
            Self::Settle(phase) => phase.handle(event),
            Self::Over => (Self::Over, Vec::new()),
        }
    }
}

/// What every phase after `configure` knows.
struct Common {
    spec: Arc<RoundSpec>,
    plan: RoundPlan,
    plan_signature: Signature,
    terms: Arc<Terms>,
    phase: Phase,
    began: Timestamp,
    deadline: Timestamp,
}

impl Common {
    /// Goes on to `phase`: notes the end of the one before and sets the clock of the new one.
    fn enter(mut self, phase: Phase, n_clients: usize, now: Timestamp, actions: &mut Vec<Action>) -> Self {
        actions.push(self.over(now));
        actions.push(Action::Note(Note::Phase { phase, n_clients }));
        self.phase = phase;
        self.began = now;
        self.deadline = now + self.spec.wait(phase);
        actions.push(Action::WakeAt(self.deadline));
        self
    }

    /// The note that the present phase is over.
    fn over(&self, now: Timestamp) -> Action {
        let took = now.since(self.began);
        Action::Note(Note::PhaseOver { phase: self.phase, took, timed_out: now >= self.deadline })
    }
}

/// An answer without a body.
fn answer(to: &ClientId, answer: impl Into<Answer>) -> Action {
    Action::Answer { to: to.clone(), answer: answer.into(), body: Bytes::new() }
}

/// The same answer for several, without a body.
fn answer_all(to: Vec<ClientId>, answer: impl Into<Answer>) -> Action {
    Action::AnswerAll { to, answer: answer.into() }
}

/// Everyone in the roster.
fn members(roster: &Roster) -> Vec<ClientId> {
    roster.entries().iter().map(|entry| entry.id.clone()).collect()
}

/// Who stands at these positions of the roster.
fn identities(roster: &Roster, positions: impl Iterator<Item = Position>) -> Vec<ClientId> {
    positions.filter_map(|position| roster.entry(position)).map(|entry| entry.id.clone()).collect()
}

/// The note on a refused message. Where what its sender signed proves it guilty, it is not selected again.
fn misbehaved(from: &Peer, what: &Misbehaviour) -> Action {
    let id = from.id.clone();
    Action::Note(match what.blame() {
        Some(blame) => Note::Blamed { id, what: blame.to_string() },
        None => Note::Misbehaved { id, what: what.to_string() },
    })
}

/// The note on whom signed statements prove guilty; none if it is nobody of the roster.
fn blamed(roster: &Roster, blame: &Blame) -> Option<Action> {
    let id = roster.entry(blame.culprit())?.id.clone();
    Some(Action::Note(Note::Blamed { id, what: blame.to_string() }))
}

/// The note on a message that does not belong in the phase.
fn out_of_phase(from: &Peer, phase: Phase) -> Action {
    // It may only be late. It hears so, and can go on to the next round.
    let reason = format!("a message that does not belong in {}, or came too late for it", phase.name());
    answer(&from.id, Aborted { reason: reason.into() })
}
