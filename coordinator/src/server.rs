//! The coordinator's socket: QUIC with mutual TLS, one exchange a stream, answers that may come late.
//!
//! Every wait and every count has a named bound. Whoever connects holds at most one handshake, one connection and a few
//! streams; headers are read under the limits of `wire`, bodies only when the federation asks for them.

use std::{
    collections::BTreeMap,
    io,
    net::{SocketAddr, UdpSocket},
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use eranos_base::{
    ClientId, Clock, Digest, Entropy, OsEntropy, UserError,
    encoding::{decode_header, encode_header},
    limits::CHUNK_LEN,
};
use eranos_certs::{ClientIdentity, Party, TrustAnchor};
use eranos_wire::{
    Request,
    framing::{CloseCode, Decoder, FrameError, Hello, Kind, Limits, Piece, StreamCode, Welcome, encode_head},
    tls::{self, Credentials, SharedTrust, TrustMaterial},
};
use quinn::{
    Connection, ConnectionId, ConnectionIdGenerator, Endpoint, EndpointConfig, RecvStream, SendStream, TransportConfig,
    VarInt,
};
use tokio::{
    sync::{OwnedSemaphorePermit, RwLock, Semaphore, mpsc},
    task::JoinHandle,
    time::timeout,
};

/// What a server needs.
pub struct ServerOptions {
    listen: SocketAddr,
    party: Party,
    certificates: PathBuf,
    connections_max: usize,
    clock: Arc<dyn Clock>,
}

impl ServerOptions {
    /// A server on `listen` for about `clients_max` clients. The revocation list in the folder `certificates` is read
    /// again whenever it changes.
    pub fn new(
        listen: SocketAddr,
        party: Party,
        certificates: PathBuf,
        clients_max: usize,
        clock: Arc<dyn Clock>,
    ) -> Self {
        // Reconnecting clients have two for a moment.
        Self { listen, party, certificates, connections_max: 2 * clients_max + CONNECTIONS_SPARE, clock }
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
    connections: Mutex<BTreeMap<ClientId, Connection>>,
    /// Those that have shown their certificate and not yet said Hello.
    greeting: Mutex<BTreeMap<ClientId, Connection>>,
    slots: Arc<Semaphore>,
    handshakes: Arc<Semaphore>,
    incoming: mpsc::Sender<Incoming>,
    clock: Arc<dyn Clock>,
    /// Read by each answer under way.
    answering: Arc<RwLock<()>>,
}

impl Server {
    /// Opens the socket. Must be called inside a runtime.
    ///
    /// # Errors
    /// If the port is in use or the certificates cannot be used.
    pub fn bind(options: ServerOptions) -> Result<Self, UserError> {
        let ServerOptions { listen, party, certificates, connections_max, clock } = options;
        let unusable = |error: &dyn std::fmt::Display| {
            UserError::new(format!("the coordinator's certificates cannot be used: {error}"), "request them again")
        };
        let material = material(&party.anchor);
        let trust = SharedTrust::new(&material).map_err(|error| unusable(&error))?;
        // The same after a restart: clients that wait for the killed process learn at once that it forgot them (RFC 9000,
        // section 10.3), and need not wait until they are idle for too long.
        let reset_secret = Digest::of_parts(&[b"eranos/coordinator/stateless-reset/v1", &party.key_pkcs8]);
        let reset_key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, reset_secret.as_bytes());
        let credentials = Credentials::new(party.certificate, party.key_pkcs8);
        let config = tls::server_config(&credentials, &trust, clock.clone()).map_err(|error| unusable(&error))?;
        let config = quinn::crypto::rustls::QuicServerConfig::try_from(config).map_err(|error| unusable(&error))?;
        let mut config = quinn::ServerConfig::with_crypto(Arc::new(config));
        config.transport_config(Arc::new(transport()));
        config.max_incoming(HANDSHAKES_MAX);
        let socket = socket(listen).map_err(|error| {
            let next = match error.kind() {
                io::ErrorKind::AddrInUse => "stop the other program, or choose another port in coordinator.toml",
                _ => "choose another address in coordinator.toml",
            };
            UserError::new(format!("cannot listen on {listen}: {error}"), next)
        })?;
        let local_address = socket.local_addr().unwrap_or(listen);
        let runtime = Arc::new(quinn::TokioRuntime);
        let mut endpoint_config = EndpointConfig::new(Arc::new(reset_key));
        endpoint_config.cid_generator(|| Box::new(RandomIds));
        let endpoint = Endpoint::new(endpoint_config, Some(config), socket, runtime)
            .map_err(|error| UserError::new(format!("cannot listen on {listen}: {error}"), "choose another address"))?;
        let (sender, incoming) = mpsc::channel(INCOMING_QUEUED_MAX);
        let shared = Arc::new(Shared {
            anchor: Mutex::new(Arc::new(party.anchor)),
            trust,
            connections: Mutex::default(),
            greeting: Mutex::default(),
            slots: Arc::new(Semaphore::new(connections_max)),
            handshakes: Arc::new(Semaphore::new(HANDSHAKES_MAX)),
            incoming: sender,
            clock,
            answering: Arc::default(),
        });
        let tasks = vec![
            tokio::spawn(accept(endpoint.clone(), shared.clone())),
            tokio::spawn(watch_revocations(certificates, shared.clone())),
        ];
        Ok(Self { endpoint, incoming, tasks, local_address, shared })
    }

    /// The address listened on.
    pub fn local_address(&self) -> SocketAddr {
        self.local_address
    }

    /// How many clients are connected.
    pub fn n_connected(&self) -> usize {
        lock(&self.shared.connections).len()
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

fn material(anchor: &TrustAnchor) -> TrustMaterial {
    TrustMaterial { authority: anchor.authority().clone(), revoked: anchor.revoked().cloned() }
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
        // Under load an address must be shown to be real before anything is kept for it.
        if shared.handshakes.available_permits() < HANDSHAKES_MAX / 2 && !incoming.remote_address_validated() {
            if incoming.retry().is_err() {
                tracing::debug!("an address that was to be validated already is");
            }
            continue;
        }
        // A place among the connections is only for those who are admitted: strangers would take them all.
        let Ok(handshake) = shared.handshakes.clone().try_acquire_owned() else {
            tracing::warn!(address = %incoming.remote_address(), "no room for another handshake");
            incoming.refuse();
            continue;
        };
        let shared = shared.clone();
        tokio::spawn(async move {
            let address = incoming.remote_address();
            let admitted = timeout(HANDSHAKE_TIME_MAX, admit(incoming, &shared)).await;
            drop(handshake);
            match admitted {
                Ok(Ok(Admitted { connection, id, slot })) => {
                    serve(connection, id, &shared).await;
                    drop(slot);
                }
                Ok(Err(reason)) => tracing::info!(%address, reason, "turned away"),
                Err(_) => tracing::info!(%address, "turned away: too slow"),
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

/// Handshake, identity, Hello. Only its answer means that the client is admitted.
async fn admit(incoming: quinn::Incoming, shared: &Arc<Shared>) -> Result<Admitted, String> {
    let connection = incoming.await.map_err(|error| error.to_string())?;
    let refuse = |code: CloseCode, reason: String| {
        connection.close(code.number().into(), b"");
        Err(reason)
    };
    let Some(certificate) = tls::peer_certificate(connection.peer_identity()) else {
        return refuse(CloseCode::NotAClient, "no certificate".to_owned());
    };
    let anchor = lock(&shared.anchor).clone();
    let identity = match anchor.verify_client(&certificate, shared.clock.now()) {
        Ok(identity) => identity,
        Err(error) => return refuse(CloseCode::NotAClient, error.to_string()),
    };
    let _greeting = Greeting::begin(shared, &identity.id, &connection);
    let Ok((send, receive)) = connection.accept_bi().await else {
        return refuse(CloseCode::NoHello, "no Hello".to_owned());
    };
    let only_hello = |kind: Kind| (kind == Kind::HELLO).then_some(Limits::HELLO);
    let hello = match read_opening(receive, only_hello).await {
        Ok((_, header, _)) => decode_header::<Hello>(&header).map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    let hello = match hello {
        Ok(hello) => hello,
        Err(error) => return refuse(CloseCode::NoHello, error),
    };
    let Ok(slot) = shared.slots.clone().try_acquire_owned() else {
        tracing::warn!(client = %identity.id, "no room for another connection");
        return refuse(CloseCode::Full, "no room".to_owned());
    };
    tracing::debug!(client = %identity.id, software = hello.software, "admitted");
    let welcome = Welcome { admitted: true, coordinator: SOFTWARE.to_owned(), now: shared.clock.now() };
    let id = identity.id.clone();
    let before = {
        let mut connections = lock(&shared.connections);
        // The list may have changed since the handshake. `watch_revocations` puts the new one in force before it waits
        // for this lock: a client that it does not find here is found by this check.
        let anchor = lock(&shared.anchor).clone();
        if let Err(error) = anchor.verify_client(&certificate, shared.clock.now()) {
            return refuse(CloseCode::Revoked, error.to_string());
        }
        connections.insert(id.clone(), connection.clone())
    };
    if let Some(before) = before {
        before.close(CloseCode::Replaced.number().into(), b"");
    }
    // A revocation may have come while the client said Hello.
    if lock(&shared.anchor).verify_client(&certificate, shared.clock.now()).is_err() {
        lock(&shared.connections).remove(&id);
        return refuse(CloseCode::Revoked, "certificate revoked".to_owned());
    }
    let connected = Incoming::Connected { identity, certificate: certificate.to_vec() };
    shared.incoming.send(connected).await.map_err(|_| "shutting down".to_owned())?;
    let header = encode_header(&welcome).map_err(|error| error.to_string())?;
    Reply::new(send, shared).send(Kind::HELLO, header.into(), Bytes::new());
    Ok(Admitted { connection, id, slot })
}

/// Keeps one identity from taking the handshakes of all: of its connections without Hello only the newest lives.
struct Greeting<'a> {
    shared: &'a Shared,
    id: ClientId,
    stable_id: usize,
}

impl<'a> Greeting<'a> {
    fn begin(shared: &'a Shared, id: &ClientId, connection: &Connection) -> Self {
        if let Some(before) = lock(&shared.greeting).insert(id.clone(), connection.clone()) {
            before.close(CloseCode::Replaced.number().into(), b"");
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
    while let Ok((send, receive)) = connection.accept_bi().await {
        let (shared, from, reply) = (shared.clone(), id.clone(), Reply::new(send, shared));
        tokio::spawn(async move {
            let opening = timeout(OPENING_TIME_MAX, read_opening(receive, Request::limits)).await;
            match opening {
                Ok(Ok((kind, header, body))) => {
                    // The receiver is gone only when the coordinator is.
                    let _ = shared.incoming.send(Incoming::Request { from, kind, header, body, reply }).await;
                }
                Ok(Err(error)) => {
                    tracing::warn!(client = %from, %error, "bad frame");
                    reply.reset(StreamCode::BadFrame);
                }
                Err(_) => {
                    tracing::warn!(client = %from, "a request that never came");
                    reply.reset(StreamCode::TooSlow);
                }
            }
        });
    }
    let newest = {
        let mut connections = lock(&shared.connections);
        let newest = connections.get(&id).is_some_and(|other| other.stable_id() == connection.stable_id());
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

/// Reads a changed revocation list, and cuts the connections of those it names: revocation alone would not.
async fn watch_revocations(certificates: PathBuf, shared: Arc<Shared>) {
    let mut every = tokio::time::interval(REVOCATION_CHECK_EVERY);
    loop {
        every.tick().await;
        let certificates = certificates.clone();
        let loaded = tokio::task::spawn_blocking(move || eranos_certs::party::load_anchor(&certificates)).await;
        let anchor = match loaded {
            Ok(Ok(anchor)) => Arc::new(anchor),
            Ok(Err(error)) => {
                tracing::warn!(%error, "the revocation list cannot be read; the one read last stays in force");
                continue;
            }
            Err(_) => continue,
        };
        let before = lock(&shared.anchor).clone();
        if before.revoked() == anchor.revoked() {
            continue;
        }
        if anchor.revoked().is_none() {
            // Without a list everyone would be forgiven.
            tracing::warn!("the revocation list is gone; the one read last stays in force");
            continue;
        }
        if let Err(error) = shared.trust.replace(&material(&anchor)) {
            tracing::warn!(%error, "the revocation list cannot be used; the one read last stays in force");
            continue;
        }
        *lock(&shared.anchor) = anchor.clone();
        let now = shared.clock.now();
        for (id, connection) in lock(&shared.connections).iter() {
            let certificate = tls::peer_certificate(connection.peer_identity());
            if certificate.is_none_or(|certificate| anchor.verify_client(&certificate, now).is_err()) {
                tracing::info!(client = %id, "certificate revoked: connection cut");
                connection.close(CloseCode::Revoked.number().into(), b"");
            }
        }
    }
}

type Limiter = fn(Kind) -> Option<Limits>;

async fn read_opening(mut stream: RecvStream, limits: Limiter) -> Result<(Kind, Vec<u8>, BodyReader), BodyError> {
    let mut decoder = Decoder::new(limits);
    let mut input = Bytes::new();
    loop {
        if let Some(Piece::Opening { kind, header, body_len }) = decoder.decode(&mut input)? {
            if body_len == 0 {
                // Nobody reads on where there is no body, so what follows the frame would never be found.
                expect_end(&mut stream, &mut decoder, &mut input).await?;
            }
            return Ok((kind, header, BodyReader { stream, decoder, input, len: body_len }));
        }
        input = next_chunk(&mut stream).await?.ok_or(BodyError::Cut)?;
    }
}

async fn expect_end(
    stream: &mut RecvStream,
    decoder: &mut Decoder<Limiter>,
    input: &mut Bytes,
) -> Result<(), BodyError> {
    loop {
        decoder.decode(input)?;
        match next_chunk(stream).await? {
            Some(chunk) => *input = chunk,
            None => return Ok(()),
        }
    }
}

async fn next_chunk(stream: &mut RecvStream) -> Result<Option<Bytes>, BodyError> {
    let chunk = stream.read_chunk(CHUNK_LEN, true).await.map_err(|_| BodyError::Cut)?;
    Ok(chunk.map(|chunk| chunk.bytes))
}

/// Why a body was not read.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The bytes are no frame.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The stream ended early.
    #[error("stream cut off")]
    Cut,
    /// The body has another length than expected.
    #[error("body of {found} bytes, expected {expected}")]
    Length {
        /// Its length.
        found: u64,
        /// The length expected.
        expected: u64,
    },
    /// The client was too slow.
    #[error("no bytes within {} s", CHUNK_TIME_MAX.as_secs())]
    TooSlow,
}

/// A request's body, still on its way: nothing is read before it is asked for, which holds the client back.
pub struct BodyReader {
    stream: RecvStream,
    decoder: Decoder<Limiter>,
    input: Bytes,
    len: u64,
}

impl BodyReader {
    /// The length that the frame claims.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there is no body.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Reads the whole body, which must have `len` bytes.
    ///
    /// # Errors
    /// If it has another length, is cut off, or stalls.
    pub async fn read_all(mut self, len: usize) -> Result<Vec<u8>, BodyError> {
        if self.len != len as u64 {
            // A stream that is gone need not be stopped.
            let _ = self.stream.stop(StreamCode::BodyUnwanted.number().into());
            return Err(BodyError::Length { found: self.len, expected: len as u64 });
        }
        let mut body = Vec::with_capacity(len);
        loop {
            while let Some(piece) = self.decoder.decode(&mut self.input)? {
                if let Piece::Body(bytes) = piece {
                    body.extend_from_slice(&bytes);
                }
            }
            let chunk = timeout(CHUNK_TIME_MAX, next_chunk(&mut self.stream)).await;
            match chunk.map_err(|_| BodyError::TooSlow)?? {
                Some(chunk) => self.input = chunk,
                None => break,
            }
        }
        self.decoder.finish()?;
        Ok(body)
    }
}

/// Where an answer goes. Dropped unused, it breaks the exchange off, and the client asks again.
pub struct Reply {
    stream: Option<SendStream>,
    answering: Arc<RwLock<()>>,
}

impl Reply {
    /// A reply that nobody waits for.
    #[cfg(test)]
    pub(crate) fn to_nobody() -> Self {
        Self { stream: None, answering: Arc::new(RwLock::const_new(())) }
    }

    fn new(stream: SendStream, shared: &Shared) -> Self {
        Self { stream: Some(stream), answering: shared.answering.clone() }
    }

    /// Sends the answer in the background; header and body may be shared by many answers.
    pub fn send(mut self, kind: Kind, header: Bytes, body: Bytes) {
        let Some(mut stream) = self.stream.take() else { return };
        let head = match encode_head(kind, header.len(), body.len() as u64) {
            Ok(head) => head,
            Err(error) => {
                tracing::error!(%error, "an answer exceeds its limit");
                return;
            }
        };
        // None is given while a server waits for those before, at its end.
        let answering = self.answering.clone().try_read_owned().ok();
        tokio::spawn(async move {
            let _answering = answering;
            let write = async {
                stream.write_all(&head).await?;
                stream.write_all_chunks(&mut [header, body]).await?;
                stream.finish().ok();
                // Whether it arrived is the client's to say, by its next request.
                stream.stopped().await.ok();
                Ok::<_, quinn::WriteError>(())
            };
            if !matches!(timeout(ANSWER_TIME_MAX, write).await, Ok(Ok(()))) {
                tracing::debug!("an answer was not taken");
            }
        });
    }

    fn reset(mut self, code: StreamCode) {
        if let Some(mut stream) = self.stream.take() {
            // A stream that is gone need not be reset.
            let _ = stream.reset(code.number().into());
        }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        if let Some(mut stream) = self.stream.take() {
            // A stream that is gone need not be reset.
            let _ = stream.reset(StreamCode::NoAnswer.number().into());
        }
    }
}

const SOFTWARE: &str = concat!("eranos-coordinator ", env!("CARGO_PKG_VERSION"));
/// Bytes of a connection's id.
const CONNECTION_ID_LEN: usize = 8;
/// Connections beyond two for each client of a cohort: newcomers, and those who were just turned away.
const CONNECTIONS_SPARE: usize = 64;
/// Handshakes under way at once; each holds some tens of kilobytes.
const HANDSHAKES_MAX: usize = 256;
/// Longest time from a connection's first packet to its Hello.
const HANDSHAKE_TIME_MAX: Duration = Duration::from_secs(10);
/// Longest time for a request's header, and its end where there is no body.
const OPENING_TIME_MAX: Duration = Duration::from_secs(30);
/// Longest time without a byte inside a body.
const CHUNK_TIME_MAX: Duration = Duration::from_secs(30);
/// Longest time for writing an answer, a checkpoint over a slow line included.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(600);
/// A connection without a sign of life for this long is gone; clients send keep-alives.
const IDLE_TIME_MAX_MS: u32 = 30_000;
/// Exchanges of one connection at once: one, and the one that replaces it.
const STREAMS_PER_CONNECTION_MAX: u32 = 4;
/// Bytes of one stream that may wait unread.
const STREAM_WINDOW: u32 = 1 << 20;
/// Bytes of one connection that may wait unread.
const CONNECTION_WINDOW: u32 = 2 << 20;
/// Bytes of one connection that may wait for acknowledgement.
const SEND_WINDOW: u64 = 2 << 20;
/// Requests read and not yet handled.
const INCOMING_QUEUED_MAX: usize = 1024;
/// The size asked for the socket's buffers.
const SOCKET_BUFFER_LEN: usize = 4 << 20;
/// How often the revocation list is looked at.
const REVOCATION_CHECK_EVERY: Duration = Duration::from_secs(2);
