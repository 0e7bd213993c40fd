//! The folder of certificates while the client runs: revocations and another authority take effect at once, a renewed
//! certificate of its own between two rounds, and its holder hears in time that it expires.

use std::{
    path::Path,
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, Instant},
};

use eranos_base::{ClientId, Timestamp, VerifyingKey};
use eranos_certs::{
    ClientIdentity, Own, PartyError, TrustAnchor,
    trust::{day, due_for_renewal},
    watch::{OwnWatch, TrustWatch},
};
use eranos_wire::tls::{ClientTls, Credentials, SharedTrust, TlsError, TrustMaterial};

use crate::round::CertificateCheck;

/// What a client has of its folder of certificates.
pub struct Certificates {
    trust: TrustWatch,
    own: OwnWatch,
    believed: Believed,
    shared: SharedTrust,
    tls: ClientTls,
    identity: ClientIdentity,
    certificate: Vec<u8>,
    /// What is to be shown from the next round on.
    renewed: Option<(Own, ClientIdentity)>,
    /// Whether the coordinator is to be looked at once more.
    trust_changed: bool,
    warned: Option<Instant>,
}

/// Whom a client believes, shared with the rounds under way.
#[derive(Clone)]
pub struct Believed(Arc<RwLock<Arc<TrustAnchor>>>);

impl Believed {
    fn anchor(&self) -> Arc<TrustAnchor> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl CertificateCheck for Believed {
    fn check(&self, certificate: &[u8], now: Timestamp) -> Result<(ClientId, VerifyingKey), String> {
        let identity = self.anchor().verify_client(certificate, now).map_err(|error| error.to_string())?;
        Ok((identity.id, identity.key))
    }
}

/// What a handshake believes, of what an authority's files say.
pub fn material(anchor: &TrustAnchor) -> TrustMaterial {
    TrustMaterial { authorities: anchor.authorities().cloned().collect(), revoked: anchor.revoked().cloned().collect() }
}

impl Certificates {
    /// Watches `folder`, of which `anchor` and the certificate of `identity` were read, for a client that shows itself
    /// by `tls` and believes `shared`. What has to be remembered lies in the folder `state`.
    ///
    /// # Errors
    /// If a revocation list is older than one that was in force before.
    pub fn new(
        folder: &Path,
        state: &Path,
        anchor: TrustAnchor,
        identity: ClientIdentity,
        certificate: &[u8],
        shared: SharedTrust,
        tls: ClientTls,
    ) -> Result<Self, PartyError> {
        let trust = TrustWatch::new(folder, state, anchor)?;
        Ok(Self {
            believed: Believed(Arc::new(RwLock::new(trust.anchor().clone()))),
            trust,
            own: OwnWatch::new(folder),
            shared,
            tls,
            identity,
            certificate: certificate.to_vec(),
            renewed: None,
            trust_changed: false,
            warned: None,
        })
    }

    /// Whom the client believes, now and later.
    pub fn believed(&self) -> Believed {
        self.believed.clone()
    }

    /// Looks at the folder. Gives whether the coordinator is to be called anew, which can wait for the end of a round.
    pub fn look(&mut self, now: Timestamp) -> bool {
        match self.trust.look() {
            Ok(None) => {}
            Ok(Some(anchor)) => match self.believe(anchor) {
                Ok(()) => tracing::info!("another revocation list or authority is believed"),
                Err(error) => {
                    tracing::error!(%error, "the authority's files cannot be used; those before are believed")
                }
            },
            Err(error) => tracing::error!(%error, "the authority's files cannot be used; those before are believed"),
        }
        match self.own.look() {
            Ok(None) => {}
            Ok(Some(own)) => self.consider(own, now),
            Err(error) => tracing::error!(%error, "the certificate cannot be used; the one before is shown"),
        }
        self.trust_changed || self.renewed.is_some()
    }

    fn believe(&mut self, anchor: Arc<TrustAnchor>) -> Result<(), TlsError> {
        self.shared.replace(&material(&anchor))?;
        *self.believed.0.write().unwrap_or_else(PoisonError::into_inner) = anchor;
        self.trust_changed = true;
        Ok(())
    }

    /// Another certificate counts if it is this client's, and everybody will believe it.
    fn consider(&mut self, own: Own, now: Timestamp) {
        if *own.certificate == *self.certificate {
            self.renewed = None;
            return;
        }
        match self.believed.anchor().verify_client(&own.certificate, now) {
            Ok(identity) if identity.id == self.identity.id => self.renewed = Some((own, identity)),
            Ok(other) => tracing::error!(found = %other.id, "the certificate is another client's: it is not shown"),
            Err(error) => tracing::error!(%error, "the new certificate is not usable; the one before is shown"),
        }
    }

    /// Shows from now on whatever certificate was found last. Gives who the client is by it, and its key; nothing if it
    /// is the same as before.
    pub fn take(&mut self) -> Option<(ClientIdentity, eranos_base::SigningKey)> {
        self.trust_changed = false;
        let (Own { certificate, key_pkcs8, key }, identity) = self.renewed.take()?;
        self.certificate = certificate.to_vec();
        self.identity = identity.clone();
        self.warned = None;
        tracing::info!(until = %day(identity.standing.not_after), "a renewed certificate is shown");
        self.tls.replace(Credentials::new(certificate, key_pkcs8));
        Some((identity, key))
    }

    /// What its holder should hear today, if anything: that the certificate expires soon.
    pub fn warning(&mut self, now: Timestamp) -> Option<String> {
        let left = due_for_renewal(&self.certificate, now).ok()??;
        if self.renewed.is_some() || self.warned.is_some_and(|at| at.elapsed() < WARNING_EVERY) {
            return None;
        }
        self.warned = Some(Instant::now());
        let until = day(self.identity.standing.not_after);
        let days = left.as_secs() / (24 * 60 * 60);
        Some(format!(
            "this client's certificate expires on {until}, in {days} days: renew it with `eranos certs renew`"
        ))
    }
}

/// How often a running client looks at its folder of certificates.
pub const CERTIFICATES_CHECK_EVERY: Duration = Duration::from_secs(2);
/// How often it says that its certificate expires.
const WARNING_EVERY: Duration = Duration::from_secs(24 * 60 * 60);
