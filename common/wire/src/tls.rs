//! The TLS configurations of both sides: TLS 1.3 with ring, certificates on both sides, nothing resumed.
//!
//! One authority signs everybody's certificate, with Ed25519; while it is exchanged for its successor, both do. Session
//! tickets, stored sessions and 0-RTT are off on both sides: a resumed session skips the certificate, so that a revoked
//! client would come back. Authorities and revocation lists live in a [`SharedTrust`], a side's own certificate in a
//! [`ServerIdentity`] or a [`ClientTls`]; all may be replaced while connections come and go, and a handshake that begins
//! later consults the new ones. A connection that already stands is not cut by that: whoever owns it must close it.

use std::{
    any::Any,
    fmt,
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::Duration,
};

use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, RootCertStore, SignatureScheme,
    client::{
        Resumption, WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, WebPkiSupportedAlgorithms},
    pki_types::{
        CertificateDer, CertificateRevocationListDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime,
    },
    server::{
        ClientHello, NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
    sign::CertifiedKey,
    time_provider::TimeProvider,
};

use eranos_base::Clock;

/// The application protocol that both sides must name.
pub const ALPN: &[u8] = b"eranos/1";
/// What every version offers beside its own protocol, and will: where two sides have nothing else in common, the client sends
/// the name of its protocol on one stream, the coordinator closes with the name of its own, and both know who is behind.
pub const ALPN_ANY: &[u8] = b"eranos";
/// The longest name of a protocol that is read.
pub const ALPN_LEN_MAX: usize = 32;

/// Whether `protocol` is a later version than this build's; nothing if it is no version of it.
pub fn is_later(protocol: &[u8]) -> Option<bool> {
    let version = |name: &[u8]| str::from_utf8(name.strip_prefix(b"eranos/")?).ok()?.parse::<u32>().ok();
    version(protocol).zip(version(ALPN)).filter(|(theirs, ours)| theirs != ours).map(|(theirs, ours)| theirs > ours)
}
/// Most certificates in one file or one handshake: the peer's own, and none in between, since the authority signs all.
pub const CHAIN_LEN_MAX: usize = 4;

/// Why a TLS configuration could not be made.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The authority's certificate or the revocation list is malformed.
    #[error("the authority's {what} is malformed: {source}")]
    Trust {
        /// Which of the two.
        what: &'static str,
        /// What the library found.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Certificate and key do not belong together, or are of a kind that is not used here.
    #[error("certificate and key do not make a TLS identity: {0}")]
    Credentials(#[from] rustls::Error),
}

/// A certificate and its private key. The key is wiped when dropped and prints nothing.
pub struct Credentials {
    certificate: CertificateDer<'static>,
    key_pkcs8: zeroize::Zeroizing<Vec<u8>>,
}

impl Credentials {
    /// The certificate (DER) with its key (PKCS #8).
    pub fn new(certificate: CertificateDer<'static>, key_pkcs8: zeroize::Zeroizing<Vec<u8>>) -> Self {
        Self { certificate, key_pkcs8 }
    }

    fn chain_and_key(&self) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.key_pkcs8.to_vec()));
        (vec![self.certificate.clone()], key)
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(omitted)")
    }
}

/// Whom a handshake believes: the authority, or two while it changes, and what they have revoked.
#[derive(Clone, Debug)]
pub struct TrustMaterial {
    /// The authorities' certificates.
    pub authorities: Vec<CertificateDer<'static>>,
    /// The revocation list of each. Whoever's authority has none is not believed, nor anybody once it is past its date.
    pub revoked: Vec<CertificateRevocationListDer<'static>>,
}

/// Trust that many configurations share and that can be replaced while they are in use.
#[derive(Clone, Debug)]
pub struct SharedTrust(Arc<RwLock<Verifiers>>);

#[derive(Clone, Debug)]
struct Verifiers {
    of_clients: Arc<dyn ClientCertVerifier>,
    of_servers: Arc<dyn ServerCertVerifier>,
}

impl SharedTrust {
    /// Trust in `material`.
    ///
    /// # Errors
    /// If it is malformed.
    pub fn new(material: &TrustMaterial) -> Result<Self, TlsError> {
        Ok(Self(Arc::new(RwLock::new(Verifiers::new(material)?))))
    }

    /// Replaces the material for every handshake that begins from now on. The old material stays if the new one is
    /// malformed.
    ///
    /// # Errors
    /// If it is malformed.
    pub fn replace(&self, material: &TrustMaterial) -> Result<(), TlsError> {
        let verifiers = Verifiers::new(material)?;
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = verifiers;
        Ok(())
    }

    fn current(&self) -> Verifiers {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Verifiers {
    fn new(material: &TrustMaterial) -> Result<Self, TlsError> {
        let trust = |what, source: Box<dyn std::error::Error + Send + Sync>| TlsError::Trust { what, source };
        let mut roots = RootCertStore::empty();
        for authority in &material.authorities {
            roots.add(authority.clone()).map_err(|error| trust("certificate", error.into()))?;
        }
        if material.revoked.len() != material.authorities.len() {
            // Without any list the library would ask for none.
            return Err(trust("revocation list", "there is not one for each authority".into()));
        }
        let roots = Arc::new(roots);
        let provider = Arc::new(provider());
        let of_clients = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone())
            .with_crls(material.revoked.clone())
            .enforce_revocation_expiration()
            .build()
            .map_err(|error| trust("revocation list", error.into()))?;
        let of_servers = WebPkiServerVerifier::builder_with_provider(roots, provider)
            .with_crls(material.revoked.clone())
            .enforce_revocation_expiration()
            .build()
            .map_err(|error| trust("revocation list", error.into()))?;
        Ok(Self { of_clients, of_servers })
    }
}

/// The certificate that a coordinator shows in every handshake that begins from now on.
#[derive(Clone, Debug)]
pub struct ServerIdentity(Arc<RwLock<Arc<CertifiedKey>>>);

impl ServerIdentity {
    /// Shows this certificate.
    ///
    /// # Errors
    /// If certificate and key do not belong together.
    pub fn new(credentials: &Credentials) -> Result<Self, TlsError> {
        Ok(Self(Arc::new(RwLock::new(Arc::new(certified_key(credentials)?)))))
    }

    /// Shows this one from now on. The one before stays if the new one cannot be used.
    ///
    /// # Errors
    /// If certificate and key do not belong together.
    pub fn replace(&self, credentials: &Credentials) -> Result<(), TlsError> {
        let key = Arc::new(certified_key(credentials)?);
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = key;
        Ok(())
    }
}

impl ResolvesServerCert for ServerIdentity {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.read().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

fn certified_key(credentials: &Credentials) -> Result<CertifiedKey, TlsError> {
    let (chain, key) = credentials.chain_and_key();
    Ok(CertifiedKey::from_der(chain, key, &provider())?)
}

/// The coordinator's side: demands a client certificate of the shared authority.
///
/// # Errors
/// If the library does not take the configuration.
pub fn server_config(
    identity: &ServerIdentity,
    trust: &SharedTrust,
    clock: Arc<dyn Clock>,
) -> Result<rustls::ServerConfig, TlsError> {
    let mut config = rustls::ServerConfig::builder_with_details(Arc::new(provider()), Arc::new(ClockTime(clock)))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(Arc::new(CurrentClientVerifier(trust.clone())))
        .with_cert_resolver(Arc::new(identity.clone()));
    config.alpn_protocols = vec![ALPN.to_vec(), ALPN_ANY.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    Ok(config)
}

/// The client's side: what it needs for any number of attempts to connect.
#[derive(Clone)]
pub struct ClientTls {
    credentials: Option<Arc<RwLock<Arc<Credentials>>>>,
    trust: SharedTrust,
    clock: Arc<dyn Clock>,
}

impl ClientTls {
    /// A client with a certificate.
    pub fn new(credentials: Credentials, trust: SharedTrust, clock: Arc<dyn Clock>) -> Self {
        Self { credentials: Some(Arc::new(RwLock::new(Arc::new(credentials)))), trust, clock }
    }

    /// A client without certificate, which every coordinator turns away: good for asking whether one is there.
    pub fn anonymous(trust: SharedTrust, clock: Arc<dyn Clock>) -> Self {
        Self { credentials: None, trust, clock }
    }

    /// Shows these in every attempt from now on, of every clone of this. A client without certificate stays without.
    pub fn replace(&self, credentials: Credentials) {
        if let Some(shared) = &self.credentials {
            *shared.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(credentials);
        }
    }

    fn credentials(&self) -> Option<Arc<Credentials>> {
        let shared = self.credentials.as_ref()?;
        Some(shared.read().unwrap_or_else(PoisonError::into_inner).clone())
    }

    /// The clock against which certificates are checked.
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    /// The configuration of one attempt, and the place where that attempt leaves its verdict on the server's
    /// certificate.
    ///
    /// # Errors
    /// If certificate and key do not belong together.
    pub fn attempt(&self) -> Result<(rustls::ClientConfig, ServerVerdict), TlsError> {
        let verdict = ServerVerdict::default();
        let verifier = CurrentServerVerifier { trust: self.trust.clone(), verdict: verdict.clone() };
        let time = Arc::new(ClockTime(self.clock.clone()));
        let builder = rustls::ClientConfig::builder_with_details(Arc::new(provider()), time)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            // "Dangerous" is the door to any verifier of one's own; this one adds a record to webpki's and skips nothing.
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        let mut config = match self.credentials() {
            Some(credentials) => {
                let (chain, key) = credentials.chain_and_key();
                builder.with_client_auth_cert(chain, key)?
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![ALPN.to_vec(), ALPN_ANY.to_vec()];
        config.resumption = Resumption::disabled();
        config.enable_early_data = false;
        Ok((config, verdict))
    }
}

impl fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientTls").field("has_certificate", &self.credentials.is_some()).finish_non_exhaustive()
    }
}

/// Why an attempt did not believe the server, if it did not. QUIC reports a bare alert number for it.
#[derive(Clone, Debug, Default)]
pub struct ServerVerdict(Arc<Mutex<Option<CertificateError>>>);

impl ServerVerdict {
    /// What was wrong with the server's certificate.
    pub fn refusal(&self) -> Option<CertificateError> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The certificate of the other side, from what a QUIC connection calls its peer's identity.
pub fn peer_certificate(identity: Option<Box<dyn Any>>) -> Option<CertificateDer<'static>> {
    let chain = identity?.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    chain.first().cloned()
}

/// Ring, and of the signatures on certificates and handshakes only Ed25519.
fn provider() -> CryptoProvider {
    CryptoProvider { signature_verification_algorithms: ED25519_ONLY, ..rustls::crypto::ring::default_provider() }
}

static ED25519_ONLY: WebPkiSupportedAlgorithms = WebPkiSupportedAlgorithms {
    all: &[webpki::ring::ED25519],
    mapping: &[(SignatureScheme::ED25519, &[webpki::ring::ED25519])],
};

struct ClockTime(Arc<dyn Clock>);

impl TimeProvider for ClockTime {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_millis(self.0.now().unix_ms())))
    }
}

impl fmt::Debug for ClockTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClockTime")
    }
}

/// Asks whatever verifier is the current one.
#[derive(Debug)]
struct CurrentClientVerifier(SharedTrust);

impl ClientCertVerifier for CurrentClientVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // A client has one certificate and needs no hint which to present; the hints could not be replaced either.
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        check_chain_len(intermediates)?;
        self.0.current().of_clients.verify_client_cert(end_entity, intermediates, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.current().of_clients.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.current().of_clients.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}

#[derive(Debug)]
struct CurrentServerVerifier {
    trust: SharedTrust,
    verdict: ServerVerdict,
}

impl ServerCertVerifier for CurrentServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let result = check_chain_len(intermediates).and_then(|()| {
            let verifier = self.trust.current().of_servers;
            verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
        });
        if let Err(rustls::Error::InvalidCertificate(error)) = &result {
            *self.verdict.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.clone());
        }
        result
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.trust.current().of_servers.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.trust.current().of_servers.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}

fn check_chain_len(intermediates: &[CertificateDer<'_>]) -> Result<(), rustls::Error> {
    if intermediates.len() >= CHAIN_LEN_MAX {
        return Err(rustls::Error::InvalidCertificate(CertificateError::BadEncoding));
    }
    Ok(())
}
