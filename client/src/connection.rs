//! The client's end of the wire: QUIC with mutual TLS, one exchange a stream.
//!
//! In TLS 1.3 a client believes itself connected before the other side has looked at its certificate. So a connection
//! counts only after its first exchange, Hello, got its answer.

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use eranos_base::{
    Entropy, OsEntropy, Timestamp, UserError,
    encoding::{decode_header, encode_header},
    limits::{CHUNK_LEN, CLOCK_SKEW_MAX},
};
use eranos_wire::{
    framing::{CloseCode, Decoder, Dial, Hello, Kind, Limits, Piece, Welcome, encode_opening},
    messages::abort::Reason,
    tls::ClientTls,
};
use quinn::{Endpoint, TransportConfig, VarInt};
use rustls::{AlertDescription, CertificateError};
use tokio::time::timeout;

/// Why there is no connection, or no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConnectionError {
    /// The address does not resolve or nobody answers there.
    #[error("cannot reach the coordinator at {address}: {reason}")]
    Unreachable {
        /// The address.
        address: String,
        /// Why.
        reason: Reason,
    },
    /// The coordinator's certificate is not one of our authority for this host.
    #[error("the coordinator's certificate is not believed: {reason}")]
    WrongCoordinator {
        /// Why.
        reason: Reason,
    },
    /// The coordinator does not believe our certificate.
    #[error("the coordinator turned this client's certificate away: {reason}")]
    CertificateRefused {
        /// Why.
        reason: String,
    },
    /// The clocks differ by more than a certificate check bears.
    #[error("this clock and the coordinator's differ by {seconds} s")]
    ClockSkew {
        /// By how much.
        seconds: u64,
    },
    /// Another process with this identity took over.
    #[error("another connection with this client's identity took over")]
    Replaced,
    /// The connection or the exchange broke off.
    #[error("connection lost: {reason}")]
    Lost {
        /// Why.
        reason: Reason,
    },
}

impl ConnectionError {
    /// Whether waiting will not mend it. A client that was connected before still goes on after
    /// [`Self::WrongCoordinator`]: whoever stands in between can show it any certificate, and must not end it by that.
    pub fn is_final(&self) -> bool {
        match self {
            Self::WrongCoordinator { .. }
            | Self::CertificateRefused { .. }
            | Self::ClockSkew { .. }
            | Self::Replaced => true,
            Self::Unreachable { .. } | Self::Lost { .. } => false,
        }
    }

    /// Whether waiting will not mend it for a client that was connected before. What is final then was said by a
    /// coordinator whose certificate was believed.
    pub fn is_final_once_connected(&self) -> bool {
        self.is_final() && !matches!(self, Self::WrongCoordinator { .. })
    }

    /// The error as a person reads it.
    pub fn user_error(&self) -> UserError {
        let next = match self {
            Self::Unreachable { .. } => {
                "check `coordinator` in client.toml, that the coordinator runs, and that UDP passes"
            }
            Self::WrongCoordinator { .. } => "compare ca.pem with the authority's, and this clock with the world's",
            Self::CertificateRefused { .. } => {
                "ask the authority's operator: `eranos certs list` shows what it enrolled"
            }
            Self::ClockSkew { .. } => "set this clock: certificates are checked against it",
            Self::Replaced => "stop the other client that runs with this certificate",
            Self::Lost { .. } => "check the network and start the client again",
        };
        UserError::new(self.to_string(), next)
    }
}

/// How a client reaches its coordinator, any number of times.
#[derive(Clone)]
pub struct Connector {
    address: String,
    host: String,
    tls: ClientTls,
    process: u64,
    /// Connections tried so far, by all clones.
    dials: Arc<AtomicU64>,
}

/// An admitted connection.
pub struct Connection {
    endpoint: Endpoint,
    connection: quinn::Connection,
    greeting: Greeting,
}

/// What the coordinator said of itself when it let the client in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Greeting {
    /// Its software.
    pub coordinator: Reason,
    /// By how much its clock differs from this one, the way to it and back included.
    pub skew: Duration,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnswerFrame {
    /// Its kind.
    pub kind: Kind,
    /// Its control header.
    pub header: Vec<u8>,
    /// Its body.
    pub body: Bytes,
}

impl Connector {
    /// A connector to `address`, `host:port`.
    ///
    /// # Errors
    /// If the address has another form.
    pub fn new(address: &str, tls: ClientTls) -> Result<Self, UserError> {
        let split = address.rsplit_once(':').filter(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
        let Some((host, _)) = split else {
            let what = format!("coordinator = {address:?} is not host:port");
            return Err(UserError::new(what, "write it like coordinator.example.org:7433 in client.toml"));
        };
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let process = u64::from_le_bytes(OsEntropy.bytes());
        Ok(Self { address: address.to_owned(), host, tls, process, dials: Arc::default() })
    }

    /// Connects and says Hello.
    ///
    /// # Errors
    /// If nobody is there, or one side does not believe the other.
    pub async fn connect(&self) -> Result<Connection, ConnectionError> {
        let unreachable =
            |reason: String| ConnectionError::Unreachable { address: self.address.clone(), reason: reason.into() };
        let resolved = timeout(RESOLVE_TIME_MAX, tokio::net::lookup_host(&self.address)).await;
        let resolved = resolved.map_err(|_| unreachable("the name's address is not found in time".to_owned()))?;
        let addresses = resolved.map_err(|error| unreachable(error.to_string()))?;
        let addresses: Vec<SocketAddr> = addresses.take(ADDRESSES_MAX).collect();
        // Over UDP nobody says that there is nobody. Where a name has several addresses, as localhost often has, the one
        // that answers at once is found before the others are waited for.
        let waits: &[Duration] = match addresses.len() {
            0 | 1 => &[CONNECT_TIME_MAX],
            _ => &[CONNECT_TIME_GLANCE, CONNECT_TIME_MAX],
        };
        let mut failure = unreachable("the name has no address".to_owned());
        for wait in waits {
            for address in &addresses {
                match timeout(*wait, self.connect_to(*address)).await {
                    Ok(Ok(connection)) => return Ok(connection),
                    Ok(Err(error)) if error.is_final() => return Err(error),
                    Ok(Err(error)) => failure = error,
                    Err(_) => failure = unreachable("no answer".to_owned()),
                }
            }
        }
        Err(failure)
    }

    async fn connect_to(&self, address: SocketAddr) -> Result<Connection, ConnectionError> {
        let unreachable =
            |reason: String| ConnectionError::Unreachable { address: self.address.clone(), reason: reason.into() };
        let dial = Dial { process: self.process, number: self.dials.fetch_add(1, Ordering::Relaxed) };
        let (config, verdict) = self.tls.attempt().map_err(|error| unreachable(error.to_string()))?;
        let config = quinn::crypto::rustls::QuicClientConfig::try_from(config)
            .map_err(|error| unreachable(error.to_string()))?;
        let mut config = quinn::ClientConfig::new(Arc::new(config));
        config.transport_config(Arc::new(transport()));
        let local: SocketAddr = match address {
            SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
            SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        let endpoint = Endpoint::client(local).map_err(|error| unreachable(error.to_string()))?;
        let connecting =
            endpoint.connect_with(config, address, &self.host).map_err(|error| unreachable(error.to_string()))?;
        let connection = match connecting.await {
            Ok(connection) => connection,
            Err(error) => {
                if let Some(refusal) = verdict.refusal() {
                    return Err(ConnectionError::WrongCoordinator { reason: describe(&refusal).into() });
                }
                // Until the handshake is complete nothing shows who closed it, or with what alert: the keys of the first
                // packets are known to everybody on the way (RFC 9001, section 5.2).
                return Err(unreachable(error.to_string()));
            }
        };
        let nobody = Greeting { coordinator: Reason::from(String::new()), skew: Duration::ZERO };
        let mut connection = Connection { endpoint, connection, greeting: nobody };
        let now = self.tls.clock().now();
        let hello = Hello { software: SOFTWARE.to_owned(), now, dial };
        let header = encode_header(&hello).map_err(|error| unreachable(error.to_string()))?;
        let answer = connection.exchange(Kind::HELLO, &header, Bytes::new(), |_| Some(Limits::HELLO)).await?;
        let welcome: Welcome = decode_header(&answer.header).map_err(|error| unreachable(error.to_string()))?;
        let skew = skew(now, welcome.now);
        if skew.as_secs() > CLOCK_SKEW_MAX.as_secs() {
            return Err(ConnectionError::ClockSkew { seconds: skew.as_secs() });
        }
        connection.greeting = Greeting { coordinator: welcome.coordinator.into(), skew };
        Ok(connection)
    }
}

impl Connection {
    /// What the coordinator said when it let this client in.
    pub fn greeting(&self) -> &Greeting {
        &self.greeting
    }

    /// Sends a request and waits for its answer, however late: the caller sets the time, and what an answer may hold.
    ///
    /// # Errors
    /// If the connection or the exchange breaks off.
    pub async fn exchange(
        &self,
        kind: Kind,
        header: &[u8],
        body: Bytes,
        limits: impl Fn(Kind) -> Option<Limits>,
    ) -> Result<AnswerFrame, ConnectionError> {
        let lost = |reason: String| {
            // The reason that the other side gave for closing says more than a broken stream.
            let closed = self.connection.close_reason().and_then(|reason| from_close(&reason));
            closed.unwrap_or(ConnectionError::Lost { reason: reason.into() })
        };
        let opening = encode_opening(kind, header, body.len() as u64).map_err(|error| lost(error.to_string()))?;
        let (mut send, mut receive) = self.connection.open_bi().await.map_err(|error| lost(error.to_string()))?;
        send.write_all(&opening).await.map_err(|error| lost(error.to_string()))?;
        if let Err(error) = send.write_chunk(body).await {
            // The coordinator may refuse the rest of a body and still answer.
            if !matches!(error, quinn::WriteError::Stopped(_)) {
                return Err(lost(error.to_string()));
            }
        }
        send.finish().ok();
        let mut decoder = Decoder::new(limits);
        let (mut opening, mut body) = (None, Vec::new());
        loop {
            let chunk = receive.read_chunk(CHUNK_LEN, true).await.map_err(|error| lost(error.to_string()))?;
            let Some(chunk) = chunk else { break };
            let mut input = chunk.bytes;
            while let Some(piece) = decoder.decode(&mut input).map_err(|error| lost(error.to_string()))? {
                match piece {
                    Piece::Opening { kind, header, .. } => opening = Some((kind, header)),
                    Piece::Body(bytes) => body.extend_from_slice(&bytes),
                }
            }
        }
        decoder.finish().map_err(|error| lost(error.to_string()))?;
        let (kind, header) = opening.ok_or_else(|| lost("an empty answer".to_owned()))?;
        Ok(AnswerFrame { kind, header, body: body.into() })
    }

    /// Says goodbye and waits until it is said.
    pub async fn close(self) {
        self.connection.close(CloseCode::Done.number().into(), b"");
        // Whoever does not listen need not hear it.
        let _ = timeout(CLOSE_TIME_MAX, self.endpoint.wait_idle()).await;
    }
}

fn transport() -> TransportConfig {
    let mut config = TransportConfig::default();
    config.max_concurrent_bidi_streams(0u32.into());
    config.max_concurrent_uni_streams(0u32.into());
    config.keep_alive_interval(Some(KEEP_ALIVE_EVERY));
    config.receive_window(RECEIVE_WINDOW.into());
    config.max_idle_timeout(Some(VarInt::from_u32(IDLE_TIME_MAX_MS).into()));
    config
}

fn skew(a: Timestamp, b: Timestamp) -> Duration {
    a.since(b).max(b.since(a))
}

/// What the coordinator meant by closing a connection whose handshake was complete, if it said so.
fn from_close(error: &quinn::ConnectionError) -> Option<ConnectionError> {
    let refused = |reason: &str| Some(ConnectionError::CertificateRefused { reason: reason.to_owned() });
    match error {
        quinn::ConnectionError::ApplicationClosed(close) => {
            match CloseCode::from_number(close.error_code.into_inner())? {
                CloseCode::Revoked => refused("it was revoked"),
                CloseCode::NotAClient => refused("it names no client of this trust domain"),
                CloseCode::Replaced => Some(ConnectionError::Replaced),
                CloseCode::Done
                | CloseCode::Shutdown
                | CloseCode::NoHello
                | CloseCode::Full
                | CloseCode::Misbehaved => None,
            }
        }
        quinn::ConnectionError::ConnectionClosed(close) => {
            // RFC 9001, section 4.8: a TLS alert is carried as 0x0100 plus its number.
            let code = u64::from(close.error_code);
            let alert = code.checked_sub(0x100).and_then(|alert| u8::try_from(alert).ok())?;
            match AlertDescription::from(alert) {
                AlertDescription::CertificateRequired => refused("there is none"),
                AlertDescription::CertificateExpired => {
                    refused("it has expired, is not yet valid, or one of the clocks is wrong")
                }
                AlertDescription::CertificateRevoked => refused("it was revoked"),
                AlertDescription::UnknownCA => refused("it is from another authority"),
                AlertDescription::BadCertificate
                | AlertDescription::UnsupportedCertificate
                | AlertDescription::CertificateUnknown
                | AlertDescription::AccessDenied
                | AlertDescription::DecryptError => refused("it is not one that the coordinator can use"),
                _ => None,
            }
        }
        _ => None,
    }
}

fn describe(refusal: &CertificateError) -> String {
    match refusal {
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "it is from another certificate authority".to_owned()
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "it has expired, or this clock is wrong".to_owned()
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "it is not yet valid, or this clock is wrong".to_owned()
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "it is for another host".to_owned()
        }
        CertificateError::Revoked => "it was revoked".to_owned(),
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "it is not a coordinator's".to_owned()
        }
        other => other.to_string(),
    }
}

const SOFTWARE: &str = concat!("eranos-client ", env!("CARGO_PKG_VERSION"));
/// Longest time for finding the addresses of a name.
const RESOLVE_TIME_MAX: Duration = Duration::from_secs(10);
/// Longest time from the first packet to the answer to Hello.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(10);
/// The same where other addresses can be tried instead, before the full time is given to each.
const CONNECT_TIME_GLANCE: Duration = Duration::from_secs(1);
/// Addresses of one name that are tried.
const ADDRESSES_MAX: usize = 8;
/// How often a client that waits shows that it is there.
const KEEP_ALIVE_EVERY: Duration = Duration::from_secs(5);
/// A coordinator without a sign of life for this long is gone.
const IDLE_TIME_MAX_MS: u32 = 30_000;
/// Bytes that may wait unread.
const RECEIVE_WINDOW: u32 = 4 << 20;
/// How long a goodbye may take.
const CLOSE_TIME_MAX: Duration = Duration::from_secs(1);
