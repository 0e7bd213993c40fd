//! The coordinator's socket: QUIC with mutual TLS, one exchange a stream, answers that may come late.
//!
//! Every wait and every count has a named bound in [`limits`](crate::limits). Whoever connects holds at most one handshake,
//! one connection and a few [`streams`](crate::streams). What the operator copies into the folder of certificates takes
//! effect within a second: a certificate that is not believed any more has no connection any more.

use std::{
    collections::BTreeMap,
    io,
    net::{SocketAddr, UdpSocket},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use eranos_base::{
    ClientId, Clock, Digest, Entropy, OsEntropy, Timestamp, UserError,
    encoding::{decode_header, encode_header},
    limits::CLOCK_SKEW_MAX,
};
use eranos_certs::{
    ClientIdentity, Own, Party, Standing, TrustAnchor, TrustError,
    trust::{ListState, validity},
    watch::{OwnWatch, TrustWatch},
};
use eranos_wire::{
    Request,
    framing::{CloseCode, Dial, Hello, Kind, Limits, StreamCode, Welcome},
    tls::{self, Credentials, ServerIdentity, SharedTrust, TrustMaterial},
};
use quinn::{Connection, ConnectionId, ConnectionIdGenerator, Endpoint, EndpointConfig, TransportConfig, VarInt};
use tokio::{
    sync::{OwnedSemaphorePermit, RwLock, Semaphore, mpsc},
    task::JoinHandle,
    time::timeout,
};

use crate::{
    limits::*,
    offences::{Offence, Offences},
    streams::read_opening,
};

pub use crate::streams::{BodyError, BodyReader, Reply};

/// What a server needs.
pub struct ServerOptions {
    listen: SocketAddr,
    party: Party,
    certificates: PathBuf,
    state: PathBuf,
    connections_max: usize,
    clock: Arc<dyn Clock>,
}

impl ServerOptions {
    /// A server on `listen` for about `clients_max` clients. The folder `certificates`, from which `party` was read, is
    /// looked at again and again; what has to be remembered of it lies in the folder `state`.
    pub fn new(
        listen: SocketAddr,
        party: Party,
        certificates: PathBuf,
        state: PathBuf,
        clients_max: usize,
        clock: Arc<dyn Clock>,
    ) -> Self {
        // Reconnecting clients have two for a moment.
        Self { listen, party, certificates, state, connections_max: 2 * clients_max + CONNECTIONS_SPARE, clock }
    }
}

/// What comes in.
pub enum Incoming {
    /// A client was admitted.
    Connected {
        /// Who.
        identity: ClientIdentity,
        /// Its certificate, in DER.
        certificate: Vec<u8>,
    },
    /// A client asks for something.
    Request {
        /// Who.
        from: ClientId,
        /// The frame's kind.
        kind: Kind,
        /// The control header.
        header: Vec<u8>,
        /// The body, unread.
        body: BodyReader,
        /// Where the answer goes, now or later.
        reply: Reply,
    },
    /// A client's newest connection is gone.
    Disconnected {
        /// Who.
        id: ClientId,
    },
    /// A client's certificate is not believed any more, and its connection was cut.
    Revoked {
        /// Who.
        id: ClientId,
        /// SHA-256 of the certificate.
        certificate: Digest,
        /// Why: it was revoked, it expired, or its authority is not believed any more.
        why: TrustError,
    },
    /// Other revocation lists, or another authority, are in force from now on.
    TrustChanged {
        /// Whom to believe.
        anchor: Arc<TrustAnchor>,
    },
}

/// The open socket.
pub struct Server {
    endpoint: Endpoint,
    incoming: mpsc::Receiver<Incoming>,
    tasks: Vec<JoinHandle<()>>,
    local_address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    anchor: Mutex<Arc<TrustAnchor>>,
    trust: SharedTrust,
    /// Whether a revocation list is past its date, so that nobody can be let in.
    stale: AtomicBool,
    n_cut: AtomicU64,
    /// Until when the certificate that is shown is valid.
    own_not_after: Mutex<Timestamp>,
    connections: Mutex<BTreeMap<ClientId, Admission>>,
    connects: Mutex<BTreeMap<ClientId, Bucket>>,
    offences: Arc<Offences>,
    /// Those that have shown their certificate and not yet said Hello.
    greeting: Mutex<BTreeMap<ClientId, Connection>>,
    slots: Arc<Semaphore>,
    handshakes: Arc<Semaphore>,
    incoming: mpsc::Sender<Incoming>,
    clock: Arc<dyn Clock>,
    /// Read by each answer under way.
    answering: Arc<RwLock<()>>,
}

/// A connection that stands, with what may end it.
struct Admission {
    connection: Connection,
    certificate: Digest,
    standing: Standing,
    dial: Dial,
}

/// What the server says of itself to whoever watches.
#[derive(Clone)]
pub struct ServerFigures(Arc<Shared>);

impl ServerFigures {
    /// How many clients are connected.
    pub fn n_connected(&self) -> usize {
        lock(&self.0.connections).len()
    }

    /// How many handshakes are under way.
    pub fn n_handshakes(&self) -> usize {
        HANDSHAKES_MAX - self.0.handshakes.available_permits().min(HANDSHAKES_MAX)
    }

    /// What was refused.
    pub fn offences(&self) -> &Offences {
        &self.0.offences
    }

    /// The revocation lists in force.
    pub fn lists(&self) -> Vec<ListState> {
        lock(&self.0.anchor).lists().collect()
    }

    /// Whether a revocation list is past its date, so that nobody is let in.
    pub fn is_stale(&self) -> bool {
        self.0.stale.load(Ordering::Relaxed)
    }

    /// How many connections were cut because their certificate was not believed any more.
    pub fn n_cut(&self) -> u64 {
        self.0.n_cut.load(Ordering::Relaxed)
    }

    /// Until when the certificate that is shown is valid.
    pub fn certificate_not_after(&self) -> Timestamp {
        *lock(&self.0.own_not_after)
    }
}

impl Server {
    /// Opens the socket. Must be called inside a runtime.
    ///
    /// # Errors
    /// If the port is in use or the certificates cannot be used.
    pub fn bind(options: ServerOptions) -> Result<Self, UserError> {
        let ServerOptions { listen, party, certificates, state, connections_max, clock } = options;
        let unusable = |error: &dyn std::fmt::Display| {
            UserError::new(format!("the coordinator's certificates cannot be used: {error}"), "request them again")
        };
        let watch = TrustWatch::new(&certificates, &state, party.anchor).map_err(UserError::from)?;
        let anchor = watch.anchor().clone();
        let trust = SharedTrust::new(&material(&anchor)).map_err(|error| unusable(&error))?;
        let (_, own_not_after) = validity(&party.certificate).map_err(|error| unusable(&error))?;
        let credentials = Credentials::new(party.certificate, party.key_pkcs8);
        let identity = ServerIdentity::new(&credentials).map_err(|error| unusable(&error))?;
        let config = tls::server_config(&identity, &trust, clock.clone()).map_err(|error| unusable(&error))?;
        let config = quinn::crypto::rustls::QuicServerConfig::try_from(config).map_err(|error| unusable(&error))?;
        let mut config = quinn::ServerConfig::with_crypto(Arc::new(config));
        config.transport_config(Arc::new(transport()));
        config.max_incoming(HANDSHAKES_MAX);
        config.incoming_buffer_size(EARLY_BYTES_MAX).incoming_buffer_size_total(EARLY_BYTES_TOTAL_MAX);
        let socket = socket(listen).map_err(|error| {
            let next = match error.kind() {
                io::ErrorKind::AddrInUse => "stop the other program, or choose another port in coordinator.toml",
                _ => "choose another address in coordinator.toml",
            };
            UserError::new(format!("cannot listen on {listen}: {error}"), next)
        })?;
        let local_address = socket.local_addr().unwrap_or(listen);
        let runtime = Arc::new(quinn::TokioRuntime);
        let mut endpoint_config = EndpointConfig::new(Arc::new(reset_key(&state)?));
        endpoint_config.cid_generator(|| Box::new(RandomIds));
        let endpoint = Endpoint::new(endpoint_config, Some(config), socket, runtime)
            .map_err(|error| UserError::new(format!("cannot listen on {listen}: {error}"), "choose another address"))?;
        let (sender, incoming) = mpsc::channel(INCOMING_QUEUED_MAX);
        let shared = Arc::new(Shared {
            stale: AtomicBool::new(is_stale(&anchor, clock.now())),
            anchor: Mutex::new(anchor),
            trust,
            n_cut: AtomicU64::new(0),
            own_not_after: Mutex::new(own_not_after),
            connections: Mutex::default(),
            connects: Mutex::default(),
            offences: Arc::default(),
            greeting: Mutex::default(),
            slots: Arc::new(Semaphore::new(connections_max)),
            handshakes: Arc::new(Semaphore::new(HANDSHAKES_MAX)),
            incoming: sender,
            clock,
            answering: Arc::default(),
        });
        let watch = Watch { trust: watch, own: OwnWatch::new(&certificates), identity };
        let tasks =
            vec![tokio::spawn(accept(endpoint.clone(), shared.clone())), tokio::spawn(watch.keep(shared.clone()))];
        Ok(Self { endpoint, incoming, tasks, local_address, shared })
    }

    /// The address listened on.
    pub fn local_address(&self) -> SocketAddr {
        self.local_address
    }

    /// What the server says of itself, as long as somebody asks.
    pub fn figures(&self) -> ServerFigures {
        ServerFigures(self.shared.clone())
    }

    /// Returns when every answer so far has arrived, or its client is gone.
    pub async fn answered(&self) {
        drop(self.shared.answering.write().await);
    }

    /// What comes in next.
    pub async fn next(&mut self) -> Option<Incoming> {
        loop {
            match self.incoming.recv().await? {
                // It came back meanwhile, and what it has asked over its new connection may have been told already.
                Incoming::Disconnected { id } if lock(&self.shared.connections).contains_key(&id) => {}
                incoming => return Some(incoming),
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
        self.endpoint.close(CloseCode::Shutdown.number().into(), b"");
    }
}

/// Connection ids that say nothing, not even which process gave them out: one that an earlier process gave out is answered
/// by a reset.
struct RandomIds;

impl ConnectionIdGenerator for RandomIds {
    fn generate_cid(&mut self) -> ConnectionId {
        ConnectionId::new(&OsEntropy.bytes::<CONNECTION_ID_LEN>())
    }

    fn cid_len(&self) -> usize {
        CONNECTION_ID_LEN
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

/// The key of this folder's stateless resets. The same after a restart: clients that wait for the killed process learn at
/// once that it forgot them (RFC 9000, section 10.3), and need not wait until they are idle for too long. It is no other
/// coordinator's: whoever has it can end connections.
fn reset_key(state: &Path) -> Result<ring::hmac::Key, UserError> {
    let path = state.join(RESET_KEY_FILE);
    let secret = crate::setup::read_or_make_seed(&path).map_err(|error| {
        UserError::new(format!("cannot read or make {}: {error}", path.display()), "check the folder and its owner")
    })?;
    Ok(ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &*secret))
}

fn material(anchor: &TrustAnchor) -> TrustMaterial {
    TrustMaterial { authorities: anchor.authorities().cloned().collect(), revoked: anchor.revoked().cloned().collect() }
}

fn is_stale(anchor: &TrustAnchor, now: Timestamp) -> bool {
    anchor.lists().any(|list| list.next_update.is_some_and(|at| now >= at))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is guarded is replaced whole; a panic leaves nothing half-done.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn socket(listen: SocketAddr) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind(listen)?;
    // As much as the system grants: many clients answer at the same moment.
    let buffers = socket2::SockRef::from(&socket);
    for result in [buffers.set_recv_buffer_size(SOCKET_BUFFER_LEN), buffers.set_send_buffer_size(SOCKET_BUFFER_LEN)] {
        if let Err(error) = result {
            tracing::debug!(%error, "socket buffers stay as they are");
        }
    }
    Ok(socket)
}

fn transport() -> TransportConfig {
    let mut config = TransportConfig::default();
    config.max_concurrent_bidi_streams(STREAMS_PER_CONNECTION_MAX.into());
    config.max_concurrent_uni_streams(0u32.into());
    config.stream_receive_window(STREAM_WINDOW.into());
    config.receive_window(CONNECTION_WINDOW.into());
    config.send_window(SEND_WINDOW);
    config.max_idle_timeout(Some(VarInt::from_u32(IDLE_TIME_MAX_MS).into()));
    config
}

async fn accept(endpoint: Endpoint, shared: Arc<Shared>) {
    while let Some(incoming) = endpoint.accept().await {
        let address = incoming.remote_address();
        if shared.stale.load(Ordering::Relaxed) {
            // Nobody can know who was revoked. Said once, where the list is looked at.
            incoming.refuse();
            continue;
        }
        // Under load an address must be shown to be real before anything is kept for it.
        if shared.handshakes.available_permits() < HANDSHAKES_MAX / 2 && !incoming.remote_address_validated() {
            shared.offences.note(Offence::UnvalidatedAddress, &address, &"many handshakes are under way");
            if incoming.retry().is_err() {
                tracing::debug!("an address that was to be validated already is");
            }
            continue;
        }
        // A place among the connections is only for those who are admitted: strangers would take them all.
        let Ok(handshake) = shared.handshakes.clone().try_acquire_owned() else {
            shared.offences.note(Offence::HandshakeFlood, &address, &"no room for another handshake");
            incoming.refuse();
            continue;
        };
        let shared = shared.clone();
        tokio::spawn(async move {
            let admitted = timeout(HANDSHAKE_TIME_MAX, admit(incoming, &shared)).await;
            drop(handshake);
            match admitted {
                Ok(Ok(Admitted { connection, id, slot })) => {
                    serve(connection, id, &shared).await;
                    drop(slot);
                }
                Ok(Err(Some((offence, why)))) => shared.offences.note(offence, &address, &why),
                Ok(Err(None)) => {}
                Err(_) => shared.offences.note(Offence::SlowHandshake, &address, &"no Hello in time"),
            }
        });
    }
}

/// A client that is let in, with its place among the connections.
struct Admitted {
    connection: Connection,
    id: ClientId,
    slot: OwnedSemaphorePermit,
}

/// Why somebody is not let in; nothing if there is nobody to let in any more.
type Refused = Option<(Offence, String)>;

/// Handshake, identity, Hello. Only its answer means that the client is admitted.
async fn admit(incoming: quinn::Incoming, shared: &Arc<Shared>) -> Result<Admitted, Refused> {
    let connection = match incoming.await {
        Ok(connection) => connection,
        Err(error @ (quinn::ConnectionError::TransportError(_) | quinn::ConnectionError::VersionMismatch)) => {
            return Err(Some((Offence::Stranger, error.to_string())));
        }
        Err(quinn::ConnectionError::TimedOut) => {
            return Err(Some((Offence::SlowHandshake, "silent in the handshake".to_owned())));
        }
        // The other side thought better of it.
        Err(_) => return Err(None),
    };
    let refuse = |code: CloseCode, offence: Offence, why: String| {
        connection.close(code.number().into(), b"");
        Err(Some((offence, why)))
    };
    let Some(certificate) = tls::peer_certificate(connection.peer_identity()) else {
        return refuse(CloseCode::NotAClient, Offence::Stranger, "no certificate".to_owned());
    };
    let anchor = lock(&shared.anchor).clone();
    let identity = match anchor.verify_client(&certificate, shared.clock.now()) {
        Ok(identity) => identity,
        Err(error) => return refuse(close_code(&error, CloseCode::NotAClient), Offence::Stranger, error.to_string()),
    };
    let id = identity.id.clone();
    if !may_connect(&shared.connects, &id, Instant::now()) {
        return refuse(CloseCode::Full, Offence::ConnectsTooOften, id.to_string());
    }
    let _greeting = Greeting::begin(shared, &id, &connection);
    let Ok((send, receive)) = connection.accept_bi().await else {
        return refuse(CloseCode::NoHello, Offence::NoHello, format!("{id}: gone before Hello"));
    };
    let only_hello = |kind: Kind| (kind == Kind::HELLO).then_some(Limits::HELLO);
    let hello = match read_opening(receive, only_hello, &id, &shared.offences).await {
        Ok((_, header, _)) => decode_header::<Hello>(&header).map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    let hello = match hello {
        Ok(hello) => hello,
        Err(error) => return refuse(CloseCode::NoHello, Offence::NoHello, format!("{id}: {error}")),
    };
    let Ok(slot) = shared.slots.clone().try_acquire_owned() else {
        return refuse(CloseCode::Full, Offence::NoRoom, id.to_string());
    };
    tracing::debug!(client = %id, software = hello.software, "admitted");
    let now = shared.clock.now();
    let skew = now.since(hello.now).max(hello.now.since(now));
    if skew > CLOCK_SKEW_MAX {
        // It is told the time, and leaves by itself: who of the two is wrong is not ours to decide.
        shared.offences.note(Offence::ClockSkew, &id, &format_args!("clocks differ by {} s", skew.as_secs()));
    }
    let welcome = Welcome { admitted: true, coordinator: SOFTWARE.to_owned(), now };
    let admission = Admission {
        connection: connection.clone(),
        certificate: identity.fingerprint,
        standing: identity.standing.clone(),
        dial: hello.dial,
    };
    let before = {
        let mut connections = lock(&shared.connections);
        // The list may have changed since the handshake. The watch puts the new one in force before it waits for this
        // lock: a client that it does not find here is found by this check.
        let anchor = lock(&shared.anchor).clone();
        if let Err(error) = anchor.still_believes(&identity.standing, now) {
            return refuse(close_code(&error, CloseCode::Revoked), Offence::Stranger, format!("{id}: {error}"));
        }
        if connections.get(&id).is_some_and(|newer| hello.dial.is_before(newer.dial)) {
            // Its client gave it up: the packets were late.
            connection.close(CloseCode::Done.number().into(), b"");
            return Err(None);
        }
        connections.insert(id.clone(), admission)
    };
    if let Some(before) = before {
        before.connection.close(CloseCode::Replaced.number().into(), b"");
    }
    let connected = Incoming::Connected { identity, certificate: certificate.to_vec() };
    // Shutting down otherwise.
    shared.incoming.send(connected).await.map_err(|_| None)?;
    let header = encode_header(&welcome).map_err(|_| None)?;
    Reply::new(send, &shared.answering).send(Kind::HELLO, header.into(), Bytes::new());
    Ok(Admitted { connection, id, slot })
}

/// How many connections a certificate may still make at once.
#[derive(Clone, Copy)]
struct Bucket {
    left: f64,
    at: Instant,
}

impl Bucket {
    fn refilled(self, now: Instant) -> f64 {
        let gained = now.duration_since(self.at).as_secs_f64() * f64::from(CONNECTS_PER_SECOND);
        (self.left + gained).min(f64::from(CONNECTS_BURST))
    }
}

fn may_connect(connects: &Mutex<BTreeMap<ClientId, Bucket>>, id: &ClientId, now: Instant) -> bool {
    let mut connects = lock(connects);
    let left = connects.get(id).map_or(f64::from(CONNECTS_BURST), |bucket| bucket.refilled(now));
    let may = left >= 1.0;
    connects.insert(id.clone(), Bucket { left: if may { left - 1.0 } else { left }, at: now });
    may
}

/// Keeps one identity from taking the handshakes of all: of its connections without Hello only the newest lives. Which one
/// its client made last is not known before Hello: the other is told nothing that would end the client.
struct Greeting<'a> {
    shared: &'a Shared,
    id: ClientId,
    stable_id: usize,
}

impl<'a> Greeting<'a> {
    fn begin(shared: &'a Shared, id: &ClientId, connection: &Connection) -> Self {
        if let Some(before) = lock(&shared.greeting).insert(id.clone(), connection.clone()) {
            before.close(CloseCode::NoHello.number().into(), b"");
        }
        Self { shared, id: id.clone(), stable_id: connection.stable_id() }
    }
}

impl Drop for Greeting<'_> {
    fn drop(&mut self) {
        let mut greeting = lock(&self.shared.greeting);
        if greeting.get(&self.id).is_some_and(|newest| newest.stable_id() == self.stable_id) {
            greeting.remove(&self.id);
        }
    }
}

/// Reads the requests of one connection until it is gone.
async fn serve(connection: Connection, id: ClientId, shared: &Arc<Shared>) {
    let n_offences = Arc::new(AtomicU32::new(0));
    while let Ok((send, receive)) = connection.accept_bi().await {
        let (shared, from, reply) = (shared.clone(), id.clone(), Reply::new(send, &shared.answering));
        let (connection, n_offences) = (connection.clone(), n_offences.clone());
        tokio::spawn(async move {
            let opening = read_opening(receive, Request::limits, &from, &shared.offences);
            let (offence, why, code) = match timeout(OPENING_TIME_MAX, opening).await {
                Ok(Ok((kind, header, body))) => {
                    // The receiver is gone only when the coordinator is.
                    let _ = shared.incoming.send(Incoming::Request { from, kind, header, body, reply }).await;
                    return;
                }
                Ok(Err(error)) => (Offence::BadFrame, error.to_string(), StreamCode::BadFrame),
                Err(_) => (Offence::TooSlow, "a request that never came".to_owned(), StreamCode::TooSlow),
            };
            shared.offences.note(offence, &from, &why);
            reply.reset(code);
            if n_offences.fetch_add(1, Ordering::Relaxed) + 1 == OFFENCES_PER_CONNECTION_MAX {
                shared.offences.note(Offence::Misbehaved, &from, &"too many bad exchanges on one connection");
                connection.close(CloseCode::Misbehaved.number().into(), b"");
            }
        });
    }
    let newest = {
        let mut connections = lock(&shared.connections);
        let of_this = |newest: &Admission| newest.connection.stable_id() == connection.stable_id();
        let newest = connections.get(&id).is_some_and(of_this);
        if newest {
            connections.remove(&id);
        }
        newest
    };
    if newest {
        // The receiver is gone only when the coordinator is.
        let _ = shared.incoming.send(Incoming::Disconnected { id }).await;
    }
}

/// What is looked at again and again in the folder of certificates.
struct Watch {
    trust: TrustWatch,
    own: OwnWatch,
    identity: ServerIdentity,
}

impl Watch {
    /// Puts in force what changed, and cuts the connections of those who are not believed any more: revocation alone
    /// would not.
    async fn keep(mut self, shared: Arc<Shared>) {
        let mut every = tokio::time::interval(CERTIFICATES_CHECK_EVERY);
        every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut warned = None;
        loop {
            every.tick().await;
            let looked = tokio::task::spawn_blocking(move || {
                let (trust, own) = (self.trust.look(), self.own.look());
                (self, trust, own)
            });
            let Ok((watch, trust, own)) = looked.await else {
                tracing::error!("certificates are not looked at any more: restart the coordinator");
                return;
            };
            self = watch;
            match trust {
                Ok(None) => {}
                Ok(Some(anchor)) => trust_now(&shared, anchor).await,
                Err(error) => tracing::error!(%error, "revocation lists cannot be used; those before stay in force"),
            }
            match own {
                Ok(None) => {}
                Ok(Some(own)) => self.show(&shared, own),
                Err(error) => tracing::error!(%error, "the certificate cannot be used; the one before stays in force"),
            }
            let now = shared.clock.now();
            let anchor = lock(&shared.anchor).clone();
            let stale = is_stale(&anchor, now);
            if stale && !shared.stale.swap(stale, Ordering::Relaxed) {
                tracing::error!(
                    "the revocation list is past its date: nobody is let in until there is a newer crl.pem"
                );
            }
            shared.stale.store(stale, Ordering::Relaxed);
            let left = lock(&shared.own_not_after).since(now);
            if left < RENEWAL_WARNING && warned.is_none_or(|at: Instant| at.elapsed() > RENEWAL_WARNING_EVERY) {
                tracing::warn!(days = left.as_secs() / 86_400, "the certificate expires soon: `eranos certs renew`");
                warned = Some(Instant::now());
            }
            cut_whoever_is_not_believed(&shared, &anchor, now).await;
        }
    }

    fn show(&self, shared: &Shared, own: Own) {
        let Ok((_, not_after)) = validity(&own.certificate) else { return };
        match self.identity.replace(&Credentials::new(own.certificate, own.key_pkcs8)) {
            Ok(()) => {
                let before = std::mem::replace(&mut *lock(&shared.own_not_after), not_after);
                if before != not_after {
                    tracing::info!(until = %eranos_certs::trust::day(not_after), "another certificate is shown");
                }
            }
            Err(error) => tracing::error!(%error, "the certificate cannot be used; the one before stays in force"),
        }
    }
}

async fn trust_now(shared: &Shared, anchor: Arc<TrustAnchor>) {
    if let Err(error) = shared.trust.replace(&material(&anchor)) {
        tracing::error!(%error, "revocation lists cannot be used; those before stay in force");
        return;
    }
    let lists: Vec<ListState> = anchor.lists().collect();
    *lock(&shared.anchor) = anchor.clone();
    for list in &lists {
        tracing::info!(authority = %list.authority, number = list.number, revoked = list.n_revoked, "revocation list");
    }
    // The receiver is gone only when the coordinator is.
    let _ = shared.incoming.send(Incoming::TrustChanged { anchor }).await;
}

async fn cut_whoever_is_not_believed(shared: &Shared, anchor: &TrustAnchor, now: Timestamp) {
    let mut cut = Vec::new();
    lock(&shared.connections).retain(|id, admission| match anchor.still_believes(&admission.standing, now) {
        Ok(()) => true,
        Err(why) => {
            admission.connection.close(close_code(&why, CloseCode::Revoked).number().into(), b"");
            cut.push((id.clone(), admission.certificate, why));
            false
        }
    });
    for (id, certificate, why) in cut {
        shared.n_cut.fetch_add(1, Ordering::Relaxed);
        tracing::warn!(client = %id, why = %why, "connection cut");
        // The receiver is gone only when the coordinator is.
        let _ = shared.incoming.send(Incoming::Revoked { id, certificate, why }).await;
    }
}

/// What somebody hears whose certificate is not believed, also if the list changed only after the handshake; `otherwise` if no
/// list is the reason.
fn close_code(why: &TrustError, otherwise: CloseCode) -> CloseCode {
    match why {
        TrustError::Revoked => CloseCode::Revoked,
        // Whose list is past its date is not its clients' to mend: they come back when there is another.
        TrustError::ListExpired => CloseCode::Shutdown,
        _ => otherwise,
    }
}

const SOFTWARE: &str = concat!("eranos-coordinator ", env!("CARGO_PKG_VERSION"));
/// The secret behind stateless resets, in the state folder.
const RESET_KEY_FILE: &str = "reset.seed";
/// Bytes of a connection's id.
const CONNECTION_ID_LEN: usize = 8;
/// How long before its certificate expires the coordinator says so,
const RENEWAL_WARNING: Duration = Duration::from_secs(30 * 86_400);
/// and how often.
const RENEWAL_WARNING_EVERY: Duration = Duration::from_secs(86_400);
