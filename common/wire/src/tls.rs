//! The TLS configurations of both sides: TLS 1.3 with ring, certificates on both sides, nothing resumed.
//!
//! One authority signs everybody's certificate, with Ed25519. Session tickets, stored sessions and 0-RTT are off on both
//! sides: a resumed session skips the certificate, so that a revoked client would come back. Authority and revocation
//! list live in a [`SharedTrust`], which may be replaced while connections come and go; a handshake that begins later
//! consults the new ones. A connection that already stands is not cut by that: whoever owns it must close it.

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
        pem::PemObject,
    },
    server::{
        NoServerSessionStorage, WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
    time_provider::TimeProvider,
};

use eranos_base::Clock;

/// The application protocol that both sides must name.
pub const ALPN: &[u8] = b"eranos/1";
/// Most certificates in one file or one handshake: the peer's own, and none in between, since the authority signs all.
pub const CHAIN_LEN_MAX: usize = 4;

/// Why a TLS configuration could not be made.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// PEM text without what was looked for, or with too many of it.
    #[error("no usable {what} in the PEM text")]
    Pem {
        /// What was looked for.
        what: &'static str,
    },
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

    /// Reads one certificate and one key from PEM text.
    ///
    /// # Errors
    /// If either is missing.
    pub fn from_pem(certificate: &[u8], key: &[u8]) -> Result<Self, TlsError> {
        let certificate =
            CertificateDer::from_pem_slice(certificate).map_err(|_| TlsError::Pem { what: "certificate" })?;
        let key = PrivatePkcs8KeyDer::from_pem_slice(key).map_err(|_| TlsError::Pem { what: "private key" })?;
        let mut key = PrivateKeyDer::Pkcs8(key);
        let key_pkcs8 = zeroize::Zeroizing::new(key.secret_der().to_vec());
        zeroize::Zeroize::zeroize(&mut key);
        Ok(Self { certificate, key_pkcs8 })
    }

    /// The certificate.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
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

/// Whom a handshake believes: the one authority, and what it has revoked.
#[derive(Clone, Debug)]
pub struct TrustMaterial {
    /// The authority's certificate.
    pub authority: CertificateDer<'static>,
    /// Its revocation list. Without one nothing counts as revoked.
    pub revoked: Option<CertificateRevocationListDer<'static>>,
}

impl TrustMaterial {
    /// Reads exactly one authority's certificate and, if given, one revocation list from PEM text.
    ///
    /// # Errors
    /// If one is missing, or there is more than one.
    pub fn from_pem(authority: &[u8], revoked: Option<&[u8]>) -> Result<Self, TlsError> {
        let pem = |what| TlsError::Pem { what };
        let mut certificates = CertificateDer::pem_slice_iter(authority);
        let (Some(Ok(authority)), None) = (certificates.next(), certificates.next()) else {
            return Err(pem("authority certificate"));
        };
        let revoked = match revoked {
            None => None,
            Some(text) => {
                let list = CertificateRevocationListDer::from_pem_slice(text);
                Some(list.map_err(|_| pem("revocation list"))?)
            }
        };
        Ok(Self { authority, revoked })
    }
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
        roots.add(material.authority.clone()).map_err(|error| trust("certificate", error.into()))?;
        let roots = Arc::new(roots);
        let provider = Arc::new(provider());
        // The revocation list does not expire by its date: what makes it current is that the operator put it there.
        let of_clients = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone())
            .with_crls(material.revoked.clone())
            .build()
            .map_err(|error| trust("revocation list", error.into()))?;
        let of_servers = WebPkiServerVerifier::builder_with_provider(roots, provider)
            .with_crls(material.revoked.clone())
            .build()
            .map_err(|error| trust("revocation list", error.into()))?;
        Ok(Self { of_clients, of_servers })
    }
}

/// The coordinator's side: demands a client certificate of the shared authority.
///
/// # Errors
/// If certificate and key do not belong together.
pub fn server_config(
    credentials: &Credentials,
    trust: &SharedTrust,
    clock: Arc<dyn Clock>,
) -> Result<rustls::ServerConfig, TlsError> {
    let (chain, key) = credentials.chain_and_key();
    let mut config = rustls::ServerConfig::builder_with_details(Arc::new(provider()), Arc::new(ClockTime(clock)))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(Arc::new(CurrentClientVerifier(trust.clone())))
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    Ok(config)
}

/// The client's side: what it needs for any number of attempts to connect.
#[derive(Clone)]
pub struct ClientTls {
    credentials: Option<Arc<Credentials>>,
    trust: SharedTrust,
    clock: Arc<dyn Clock>,
}

impl ClientTls {
    /// A client with a certificate.
    pub fn new(credentials: Credentials, trust: SharedTrust, clock: Arc<dyn Clock>) -> Self {
        Self { credentials: Some(Arc::new(credentials)), trust, clock }
    }

    /// A client without certificate, which every coordinator turns away: good for asking whether one is there.
    pub fn anonymous(trust: SharedTrust, clock: Arc<dyn Clock>) -> Self {
        Self { credentials: None, trust, clock }
    }

    /// The client's certificate.
    pub fn certificate(&self) -> Option<&CertificateDer<'static>> {
        self.credentials.as_ref().map(|credentials| credentials.certificate())
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
        let mut config = match &self.credentials {
            Some(credentials) => {
                let (chain, key) = credentials.chain_and_key();
                builder.with_client_auth_cert(chain, key)?
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![ALPN.to_vec()];
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
