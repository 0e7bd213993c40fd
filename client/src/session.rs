//! A client at work: it connects, checks in, carries out what the round's state machine asks for, and comes back. State
//! belongs to the identity, not to the connection: a lost connection is made again and the same bytes are sent again
//! inside the phase; a restarted process keeps out of the round it had begun. Every wait has a bound that is named below.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use bytes::Bytes;
use eranos_base::{Clock, Entropy, OsEntropy, RoundNumber, SteadyClock, SystemClock, Timestamp, UserError};
use eranos_privacy::budget::BudgetError;
use eranos_secagg::{Identity, StatementKey, VerifiedCertifications};
use eranos_wire::{
    Answer, Request,
    framing::Kind,
    messages::{abort::Reason, select::ComeBack},
};
use tokio::{
    sync::{mpsc, watch},
    task::{JoinHandle, block_in_place},
    time::{Instant, interval, sleep, sleep_until, timeout},
};

use crate::{
    certificates::{CERTIFICATES_CHECK_EVERY, Certificates},
    conditions::{Conditions, Machine, Unmet},
    connection::{Connection, ConnectionError, Connector},
    round::{Action, End, Event, Member, Phase, Round, Step},
    store::{Store, StoreError},
    trainer::{Cancel, Contributor, TrainerError},
};

/// What a client did, for whoever watches.
#[derive(Clone, Debug, PartialEq)]
pub enum Progress {
    /// A phase of a round began.
    Phase {
        /// The phase.
        phase: Phase,
        /// The round, once there is a plan.
        round: Option<RoundNumber>,
    },
    /// The client does not take part for now: a condition of its owner does not hold.
    Waits {
        /// Which.
        unmet: Unmet,
    },
    /// A round ended.
    End {
        /// How.
        end: End,
        /// Epsilon spent in all; none where no guarantee is left.
        epsilon_spent: Option<f64>,
    },
    /// Something that whoever runs it should see to.
    Warning(String),
}

/// Why a client stops.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// It cannot be a member: its certificate, the coordinator's, or its clock.
    #[error(transparent)]
    Connection(#[from] ConnectionError),
    /// Its state cannot be written. Nothing leaves that is not recorded.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The coordinator does not want it, now or later, and says why.
    #[error("turned away: {0}")]
    TurnedAway(Reason),
    /// The task allows this client no more.
    #[error("spent: {0}")]
    Spent(Reason),
    /// It refused what the coordinator planned.
    #[error("refused: {0}")]
    Refused(crate::round::Refusal),
}

impl SessionError {
    /// Whether starting the client again later may mend it: nobody was ever reached.
    pub fn mends_itself(&self) -> bool {
        matches!(self, Self::Connection(error) if !error.is_final())
    }

    /// The error as a person reads it.
    pub fn user_error(&self) -> UserError {
        match self {
            Self::Connection(error) => error.user_error(),
            Self::Store(error) => UserError::new(error.to_string(), error.next_step()),
            Self::TurnedAway(reason) => UserError::new(
                format!("the coordinator turned this client away: {reason}"),
                "compare `task` in client.toml with the coordinator's task.toml, or ask its operator",
            ),
            Self::Spent(reason) => UserError::new(
                format!("the coordinator selects this client no more: {reason}"),
                "nothing is wrong here, and this client's own budget stands (`eranos client budget`); the operator may allow \
                 more in another task (privacy.client_epsilon_max)",
            ),
            Self::Refused(refusal) => {
                UserError::new(format!("this client refuses the coordinator's plan: {refusal}"), refusal.next_step())
            }
        }
    }
}

/// A client with everything it needs.
pub struct Session {
    /// Who it is.
    pub member: Arc<Member>,
    /// What it must not forget.
    pub store: Store,
    /// Its data.
    pub trainer: Arc<dyn Contributor>,
    /// How it reaches the coordinator.
    pub connector: Connector,
    /// When it takes part at all.
    pub conditions: Conditions,
    /// Where that is read.
    pub machine: Machine,
    /// Whom it believes, and as whom it shows itself.
    pub certificates: Certificates,
}

/// What taking part once came to.
#[derive(Clone, Debug, PartialEq)]
pub enum Once {
    /// A sum with this client's vector in it was released, and the ledger shows it.
    Released,
    /// A condition of the client's owner does not hold: nobody was dialled.
    Unmet(Unmet),
    /// No round began: nothing was charged.
    NoRound {
        /// Why.
        reason: String,
    },
    /// A round began and came to nothing. It may have been charged.
    NoResult {
        /// Why.
        reason: String,
    },
    /// The task is over, as planned.
    TaskOver,
}

/// A round that is over.
struct Played {
    end: End,
    /// Whether its plan had been accepted.
    began: bool,
    link: Link,
}

impl Session {
    /// Takes part in rounds until the task is over, the client refuses, or `stop` says so. `progress` hears of every
    /// phase; it may be dropped.
    ///
    /// # Errors
    /// If this client cannot be a member, its state cannot be written, or it refuses the plan.
    pub async fn run(
        mut self,
        progress: mpsc::Sender<Progress>,
        mut stop: watch::Receiver<bool>,
    ) -> Result<(), SessionError> {
        let mut link = Link::new(&self.connector);
        let (mut admitted, mut waits) = (false, None);
        let mut rest = Backoff::between_rounds();
        while !*stop.borrow() {
            if let Some(unmet) = block_in_place(|| self.conditions.unmet(&self.machine)) {
                // Nothing is sent meanwhile, not even a sign of life: the network may be what it is about.
                link.close().await;
                // Once for each condition: a load or an hour is another one at every look.
                let which = Some(std::mem::discriminant(&unmet));
                if waits != which {
                    tracing::info!(%unmet, "waits");
                    // Nobody need watch.
                    let _ = progress.try_send(Progress::Waits { unmet });
                    waits = which;
                }
                pause(CONDITIONS_EVERY, &mut stop).await;
                continue;
            }
            waits = None;
            // A client that cannot be a member hears so at once, not after hours of trying.
            if !admitted {
                link.connect_first(&mut stop).await?;
                admitted = true;
            }
            let played = match self.round(link, CHECK_IN_TIME_MAX, &progress, &mut stop).await {
                // Refused by a certificate that was renewed meanwhile, as after a long sleep.
                Err(SessionError::Connection(_)) if block_in_place(|| self.certificates.look(SystemClock.now())) => {
                    self.renew();
                    link = Link::new(&self.connector);
                    continue;
                }
                over => over?,
            };
            link = played.link;
            if block_in_place(|| self.certificates.look(SystemClock.now())) {
                self.renew();
                link.close().await;
                link = Link::new(&self.connector);
            }
            match what_next(&played.end, &mut rest) {
                Ok(Some(rest)) => pause(rest, &mut stop).await,
                Ok(None) => break,
                Err(error) => {
                    link.close().await;
                    return Err(error);
                }
            }
        }
        link.close().await;
        Ok(())
    }

    /// Takes part in one round that begins within `wait`, if the owner's conditions hold now. A certificate that is renewed
    /// meanwhile is for the next time.
    ///
    /// # Errors
    /// If this client cannot be a member, its state cannot be written, or it refuses the plan.
    pub async fn run_once(
        mut self,
        wait: Duration,
        progress: mpsc::Sender<Progress>,
        mut stop: watch::Receiver<bool>,
    ) -> Result<Once, SessionError> {
        if let Some(unmet) = block_in_place(|| self.conditions.unmet(&self.machine)) {
            return Ok(Once::Unmet(unmet));
        }
        let begins_by = Instant::now() + wait;
        let mut link = Link::new(&self.connector);
        match timeout(wait, link.connect_first(&mut stop)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) if error.is_final() => return Err(error.into()),
            Ok(Err(error)) => return Ok(Once::NoRound { reason: error.to_string() }),
            Err(_) => return Ok(Once::NoRound { reason: "nobody answers".to_owned() }),
        }
        let mut rest = Backoff::between_rounds();
        let once = loop {
            let left = begins_by.saturating_duration_since(Instant::now()).min(CHECK_IN_TIME_MAX);
            let played = self.round(link, left, &progress, &mut stop).await?;
            link = played.link;
            let next = match what_next(&played.end, &mut rest) {
                Ok(Some(_)) if matches!(played.end, End::Settled { .. }) => break Once::Released,
                Ok(Some(next)) => next,
                Ok(None) => break Once::TaskOver,
                Err(error) => {
                    link.close().await;
                    return Err(error);
                }
            };
            let reason = match played.end {
                End::Left { reason } => reason,
                End::Aborted { reason } => reason.to_string(),
                end => end.to_string(),
            };
            if played.began {
                break Once::NoResult { reason };
            }
            pause(next.min(begins_by.saturating_duration_since(Instant::now())), &mut stop).await;
            if *stop.borrow() || Instant::now() >= begins_by {
                break Once::NoRound { reason };
            }
        };
        link.close().await;
        Ok(once)
    }

    /// Shows a renewed certificate from now on; budget and pseudonym are of the client, not of the certificate.
    fn renew(&mut self) {
        let Some((identity, certificate_key)) = self.certificates.take() else { return };
        let statement_key = StatementKey::derive(self.store.secret(), &self.member.task);
        let certificate = identity.fingerprint;
        let verified = VerifiedCertifications::default();
        let identity = Identity { id: identity.id, certificate, certificate_key, statement_key, verified };
        Arc::make_mut(&mut self.member).identity = Arc::new(identity);
    }

    /// One round, whose plan comes within `check_in_time`.
    async fn round(
        &mut self,
        link: Link,
        check_in_time: Duration,
        progress: &mpsc::Sender<Progress>,
        stop: &mut watch::Receiver<bool>,
    ) -> Result<Played, SessionError> {
        let mut round = Round::new(self.member.clone(), self.store.memory());
        let check_in = self.member.check_in(&self.store.memory(), u64::from_le_bytes(OsEntropy.bytes()));
        let mut exchange = Exchange::start(link, check_in.into(), Bytes::new(), check_in_time);
        let (trained_sender, mut trained) = mpsc::channel(1);
        let mut training: Option<Cancel> = None;
        let mut clock = SteadyClock::begin();
        let mut wake: Option<Timestamp> = None;
        let mut place = None;
        // Nothing but an abort is sent before there is a plan.
        let mut answer_time = ABORT_TIME_MAX;
        let mut look = interval(CERTIFICATES_CHECK_EVERY);
        loop {
            let event = tokio::select! {
                answered = exchange.answer() => match answered {
                    Ok((answer, body)) => Event::Answer { answer, body },
                    Err(ExchangeError::Fatal(error)) => return Err(error.into()),
                    Err(ExchangeError::Given(reason)) => Event::Leave { reason },
                },
                Some(result) = trained.recv() => match result {
                    Ok(contribution) => Event::Contribution(contribution),
                    Err(reason) => Event::TrainingFailed { reason },
                },
                () = sleep_until_time(wake, clock), if wake.is_some() => {
                    wake = None;
                    Event::Wake
                }
                _ = look.tick() => {
                    let changed = block_in_place(|| self.certificates.look(SystemClock.now()));
                    if let Some(warning) = self.certificates.warning(SystemClock.now()) {
                        let _ = progress.try_send(Progress::Warning(warning));
                    }
                    if !changed || round.plan().is_some() {
                        continue;
                    }
                    Event::Leave { reason: "the certificates changed".to_owned() }
                }
                () = stopped(stop) => Event::Leave { reason: "the client is shutting down".to_owned() },
            };
            if matches!(event, Event::Answer { answer: Answer::Configure(_), .. }) {
                // The round begins: a plan may have been waited for while the machine slept.
                clock = SteadyClock::begin();
                block_in_place(|| self.store.refresh())?;
                round = round.knowing(self.store.memory());
            }
            let (next, actions) = block_in_place(|| round.handle(event, clock.now(), &mut OsEntropy));
            round = next;
            place = round.plan().map(|plan| (plan.session, plan.round)).or(place);
            if let Some(plan) = round.plan() {
                answer_time = Duration::from_millis(plan.phase_timeout_ms.into()) + ANSWER_GRACE;
            }
            let (mut end, mut says_why) = (None, false);
            let mut actions = VecDeque::from(actions);
            while let Some(action) = actions.pop_front() {
                match action {
                    Action::Send { request, body } => {
                        says_why = matches!(request, Request::Abort(_));
                        let limit = if says_why { ABORT_TIME_MAX } else { answer_time };
                        exchange = Exchange::start(exchange.into_link(&self.connector), request, body, limit);
                    }
                    Action::Persist(step) => {
                        // Steps other than a refusal are taken in a round whose plan was accepted: it is the place.
                        let (session, number) = place.unwrap_or_default();
                        match block_in_place(|| self.store.persist(&step, session, number)) {
                            Ok(()) => {}
                            // Of what was to come after the step nothing is done: the round ends instead.
                            Err(StoreError::Budget(error)) if error.is_of_the_step() && round.plan().is_some() => {
                                let event = Event::Forbidden(error);
                                let (next, instead) = round.handle(event, clock.now(), &mut OsEntropy);
                                (round, actions) = (next, instead.into());
                            }
                            Err(error) => return Err(error.into()),
                        }
                    }
                    Action::Train(job) => {
                        let sender = trained_sender.clone();
                        let done = move |result: Result<_, TrainerError>| {
                            // The round may be over, and nobody waiting.
                            let _ = sender.try_send(result.map_err(|error| error.to_string()));
                        };
                        training = Some(self.trainer.clone().begin(*job, Box::new(done)));
                    }
                    Action::WakeAt(at) => wake = Some(at),
                    Action::Remember(credentials) => block_in_place(|| self.store.remember(credentials))?,
                    Action::KeepOffer(offer) => block_in_place(|| self.store.keep_offer(&offer))?,
                    Action::KeepEvidence(note) => block_in_place(|| self.store.keep_evidence(&note))?,
                    Action::KeepLedgerKey(key) => {
                        block_in_place(|| self.store.keep_ledger_key(&key))?;
                        Arc::make_mut(&mut self.member).ledger_key = key;
                    }
                    Action::KeepCheckpoint(note) => {
                        block_in_place(|| self.store.keep_checkpoint(&note, &self.member.ledger_key))?;
                    }
                    Action::Note(phase) => {
                        let round = place.map(|(_, round)| round);
                        let _ = progress.try_send(Progress::Phase { phase, round });
                    }
                    Action::Over(how) => end = Some(how),
                }
            }
            if let Some(end) = end {
                drop(training);
                if let Some((session, number)) = place.filter(|(s, r)| self.store.budget().is_reserved(*s, *r)) {
                    // The attempt was not charged, and never will be: its vector is gone with the round.
                    match block_in_place(|| self.store.persist(&Step::GiveBack, session, number)) {
                        // Somebody else has given it back meanwhile.
                        Ok(()) | Err(StoreError::Budget(BudgetError::NotReserved { .. })) => {}
                        Err(error) => return Err(error.into()),
                    }
                }
                // An abort is sent before the link is given up; its answer says nothing. What else is under way, as a
                // check-in that nobody answers, is broken off.
                if says_why {
                    let _ = exchange.answer().await;
                }
                let epsilon_spent = Some(self.store.budget().epsilon_spent()).filter(|epsilon| epsilon.is_finite());
                tracing::info!(?end, epsilon_spent, "round over");
                // Nobody need watch.
                let _ = progress.try_send(Progress::End { end: end.clone(), epsilon_spent });
                return Ok(Played { end, began: place.is_some(), link: exchange.into_link(&self.connector) });
            }
        }
    }
}

type Answered = Result<(Answer, Bytes), ExchangeError>;

/// One request under way. It goes on while other events are handled; dropping it breaks it off.
enum Exchange {
    Pending(JoinHandle<(Link, Answered)>),
    Answered(Box<Link>),
    /// The task that held the link is gone.
    Lost,
}

impl Exchange {
    /// Sends the request until an answer comes, for at most `limit`.
    fn start(mut link: Link, request: Request, body: Bytes, limit: Duration) -> Self {
        Self::Pending(tokio::spawn(async move {
            let answered = link.exchange(&request, &body, limit).await;
            (link, answered)
        }))
    }

    /// The answer, once; after that, never.
    async fn answer(&mut self) -> Answered {
        let Self::Pending(task) = self else { return std::future::pending().await };
        match task.await {
            Ok((link, answered)) => {
                *self = Self::Answered(Box::new(link));
                answered
            }
            Err(error) => {
                *self = Self::Lost;
                Err(ExchangeError::Given(format!("the exchange broke: {error}")))
            }
        }
    }

    /// The link, to send the next request over. A request still under way is broken off, and its connection with it.
    fn into_link(mut self, connector: &Connector) -> Link {
        // Taken out by reference: the type breaks off what is pending when it is dropped.
        let fresh = Link::new(connector);
        match &mut self {
            Self::Answered(link) => std::mem::replace(&mut **link, fresh),
            Self::Pending(_) | Self::Lost => fresh,
        }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if let Self::Pending(task) = self {
            task.abort();
        }
    }
}

enum ExchangeError {
    /// This client cannot be a member.
    Fatal(ConnectionError),
    /// The coordinator could not be reached in time, or answered nonsense.
    Given(String),
}

/// The connection, made again whenever it is lost.
struct Link {
    connector: Connector,
    connection: Option<Connection>,
}

impl Link {
    fn new(connector: &Connector) -> Self {
        Self { connector: connector.clone(), connection: None }
    }

    /// Connects for the first time; errors that will not go away by waiting are final.
    async fn connect_first(&mut self, stop: &mut watch::Receiver<bool>) -> Result<(), ConnectionError> {
        let mut backoff = Backoff::of_connections();
        while !*stop.borrow() {
            let connected = tokio::select! {
                connected = self.connector.connect() => connected,
                () = stopped(stop) => return Ok(()),
            };
            match connected {
                Ok(connection) => {
                    self.connection = Some(connection);
                    return Ok(());
                }
                Err(error) if error.is_final() || backoff.tries >= FIRST_TRIES_MAX => return Err(error),
                Err(error) => {
                    tracing::warn!(%error, "cannot connect yet");
                    pause(backoff.next(&mut OsEntropy), stop).await;
                }
            }
        }
        Ok(())
    }

    /// Sends the request until an answer comes, over as many connections as that takes, for at most `limit`.
    async fn exchange(&mut self, request: &Request, body: &Bytes, limit: Duration) -> Answered {
        let header = request.encode().map_err(|error| ExchangeError::Given(error.to_string()))?;
        let tries = async {
            let mut backoff = Backoff::of_connections();
            loop {
                let connection = match &self.connection {
                    Some(connection) => connection,
                    None => match self.connector.connect().await {
                        Ok(connection) => self.connection.insert(connection),
                        Err(error) if error.is_final_once_connected() => return Err(ExchangeError::Fatal(error)),
                        Err(error) => {
                            tracing::warn!(%error, "connection lost; trying again");
                            sleep(backoff.next(&mut OsEntropy)).await;
                            continue;
                        }
                    },
                };
                match connection.exchange(Kind(request.kind()), &header, body.clone(), Answer::limits).await {
                    Ok(answer) => {
                        let decoded = Answer::decode(answer.kind.0, &answer.header);
                        let decoded = decoded.map_err(|error| ExchangeError::Given(error.to_string()))?;
                        return Ok((decoded, answer.body));
                    }
                    Err(error) if error.is_final_once_connected() => return Err(ExchangeError::Fatal(error)),
                    Err(error) => {
                        tracing::debug!(%error, "exchange broken off");
                        self.connection = None;
                        sleep(backoff.next(&mut OsEntropy)).await;
                    }
                }
            }
        };
        timeout(limit, tries).await.unwrap_or_else(|_| {
            let what = if matches!(request, Request::CheckIn(_)) { "plan" } else { "answer" };
            Err(ExchangeError::Given(format!("no {what} within {:.0} s", limit.as_secs_f64())))
        })
    }

    async fn close(&mut self) {
        if let Some(connection) = self.connection.take() {
            connection.close().await;
        }
    }
}

/// Waits that double up to a longest one, with jitter, so that many clients do not come back at once.
struct Backoff {
    tries: u32,
    doublings_max: u32,
}

impl Backoff {
    /// Between tries to connect.
    fn of_connections() -> Self {
        Self { tries: 0, doublings_max: BACKOFF_DOUBLINGS_MAX }
    }

    /// Between rounds without a result: most of them end for a reason that is gone with them, and nobody should miss the
    /// next one.
    fn between_rounds() -> Self {
        Self { tries: 0, doublings_max: REST_DOUBLINGS_MAX }
    }

    /// The next wait: half of it is certain, half is drawn.
    fn next(&mut self, entropy: &mut dyn Entropy) -> Duration {
        let full = BACKOFF_MIN.saturating_mul(1 << self.tries.min(self.doublings_max));
        self.tries = self.tries.saturating_add(1);
        let mut drawn = [0; 2];
        entropy.fill(&mut drawn);
        let jitter = f64::from(u16::from_le_bytes(drawn)) / f64::from(u16::MAX);
        full.mul_f64(0.5 + jitter / 2.0)
    }
}

/// How long to rest after a round that ended so; nothing if the task is over.
///
/// # Errors
/// If there is nothing to come back for.
fn what_next(end: &End, rest: &mut Backoff) -> Result<Option<Duration>, SessionError> {
    Ok(match end {
        End::Settled { .. } | End::KeyRotated => {
            *rest = Backoff::between_rounds();
            Some(Duration::ZERO)
        }
        End::ComeBackLater { when, reason } => match when {
            ComeBack::TaskOver => None,
            ComeBack::AfterMs(ms) => Some(Duration::from_millis((*ms).into()).clamp(BACKOFF_MIN, COME_BACK_TIME_MAX)),
            ComeBack::Spent => return Err(SessionError::Spent(reason.clone())),
            ComeBack::Never => return Err(SessionError::TurnedAway(reason.clone())),
        },
        End::Refused(refusal) if refusal.is_final() => return Err(SessionError::Refused(refusal.clone())),
        End::Refused(refusal) if refusal.waits_for_people() => Some(WAIT_FOR_PEOPLE),
        End::Refused(_) | End::Aborted { .. } | End::Left { .. } => Some(rest.next(&mut OsEntropy)),
    })
}

async fn pause(duration: Duration, stop: &mut watch::Receiver<bool>) {
    // Stopped or not, the wait is over.
    let _ = timeout(duration, stopped(stop)).await;
}

/// Resolves when somebody says stop; never, once nobody can say it any more.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    if stop.wait_for(|stop| *stop).await.is_err() {
        std::future::pending().await
    }
}

async fn sleep_until_time(at: Option<Timestamp>, clock: SteadyClock) {
    let wait = at.unwrap_or_default().since(clock.now());
    sleep_until(Instant::now() + wait).await;
}

/// The first wait of a backoff.
const BACKOFF_MIN: Duration = Duration::from_millis(200);
/// When a client asks again that waits for a cosignature, in vain selected each time, or for its operator to accept a ledger.
const WAIT_FOR_PEOPLE: Duration = Duration::from_secs(30);
/// Doublings of it: the longest wait is about 13 seconds.
const BACKOFF_DOUBLINGS_MAX: u32 = 6;
/// The same between rounds without a result: about one and a half seconds.
const REST_DOUBLINGS_MAX: u32 = 3;
/// Tries of a client that has never been connected.
const FIRST_TRIES_MAX: u32 = 8;
/// How long a client waits for the answer to a check-in before it checks in anew: a round may have to wait for others, and
/// meanwhile the owner's conditions may change.
const CHECK_IN_TIME_MAX: Duration = Duration::from_secs(600);
/// The longest that a coordinator can send a client away for at once.
const COME_BACK_TIME_MAX: Duration = Duration::from_secs(3600);
/// How often the owner's conditions are looked at while they do not hold.
const CONDITIONS_EVERY: Duration = Duration::from_secs(30);
/// What a client waits beyond the plan's time for one answer: the coordinator's clock decides.
const ANSWER_GRACE: Duration = Duration::from_secs(5);
/// How long a client that leaves tries to say why.
const ABORT_TIME_MAX: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests;
