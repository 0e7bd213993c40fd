//! Who a certificate says its holder is, and whether that is to be believed.
//!
//! The coordinator asks at every handshake, a client asks for every certificate of a roster: the coordinator that relays
//! it is not believed. What counts as a client's certificate is narrow: signed by the one authority directly, valid
//! now, not revoked, for client authentication, over an Ed25519 key in canonical encoding, and with exactly one
//! subject alternative name, the URI that is the identity.

use std::{fmt, time::Duration};

use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, UnixTime, pem::PemObject};
use webpki::{
    CertRevocationList, EndEntityCert, ExpirationPolicy, ExtendedKeyUsageValidator, KeyUsage, OwnedCertRevocationList,
    RevocationCheckDepth, RevocationOptionsBuilder, UnknownStatusPolicy, anchor_from_trusted_cert,
};
use x509_parser::{
    certificate::X509Certificate,
    extensions::GeneralName,
    oid_registry::OID_SIG_ED25519,
    prelude::{CertificateRevocationList, FromDer},
};

use eranos_base::{ClientId, Digest, Timestamp, TrustDomain, VerifyingKey, limits::CERTIFICATE_LEN_MAX};

/// Largest revocation list that is read, in bytes of PEM or DER: room for some 100,000 revoked certificates.
pub const REVOCATION_LIST_LEN_MAX: usize = 8 << 20;

/// Why the authority's certificate or its revocation list cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AnchorError {
    /// The text holds no certificate, or more than one.
    #[error("expected exactly one CERTIFICATE in the authority's PEM text, found {found}")]
    Certificate {
        /// How many there are that can be read.
        found: usize,
    },
    /// The certificate is not one of an Eranos authority.
    #[error("the authority's certificate is unusable: {why}")]
    NotAnAuthority {
        /// What is missing.
        why: &'static str,
    },
    /// The text holds no revocation list.
    #[error("expected exactly one X509 CRL in the revocation list's PEM text")]
    RevocationList,
    /// The revocation list is not signed by this authority.
    #[error("the revocation list is not signed by this authority")]
    ForeignRevocationList,
}

/// Why a certificate is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TrustError {
    /// The certificate is over [`CERTIFICATE_LEN_MAX`].
    #[error("certificate of {len} bytes, limit {CERTIFICATE_LEN_MAX}")]
    TooLong {
        /// Its length.
        len: usize,
    },
    /// The bytes are not a certificate.
    #[error("certificate is malformed")]
    Malformed,
    /// Another authority signed it, or nobody.
    #[error("certificate is not signed by this authority")]
    ForeignAuthority,
    /// It has expired.
    #[error("certificate expired on {}", day(*.not_after))]
    Expired {
        /// When.
        not_after: Timestamp,
    },
    /// It is not valid yet.
    #[error("certificate is valid only from {}", day(*.not_before))]
    NotYetValid {
        /// From when.
        not_before: Timestamp,
    },
    /// The authority revoked it.
    #[error("certificate was revoked")]
    Revoked,
    /// It is not for client authentication.
    #[error("certificate is not for clients")]
    NotForClients,
    /// Its subject alternative names are not exactly one URI.
    #[error("certificate has {n_names} names, {n_uris} of them URIs, expected exactly one, a URI")]
    NotOneIdentity {
        /// How many names there are.
        n_names: usize,
        /// How many of them are URIs.
        n_uris: usize,
    },
    /// The one URI is not a client's identity in this trust domain.
    #[error("certificate names {found:?}, expected spiffe://{trust_domain}/client/<name>")]
    NotAClient {
        /// The URI found.
        found: String,
        /// The authority's trust domain.
        trust_domain: TrustDomain,
    },
    /// The key is not Ed25519, or not in canonical encoding, or weak.
    #[error("certificate's key is not a canonical ed25519 key")]
    Key,
}

/// The one authority that is believed, with what it has revoked.
pub struct TrustAnchor {
    authority: CertificateDer<'static>,
    anchor: rustls_pki_types::TrustAnchor<'static>,
    revoked: Option<(CertificateRevocationListDer<'static>, CertRevocationList<'static>)>,
    trust_domain: TrustDomain,
}

/// What a certificate that is believed says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientIdentity {
    /// Who.
    pub id: ClientId,
    /// The key that signs for it.
    pub key: VerifyingKey,
    /// SHA-256 of the certificate.
    pub fingerprint: Digest,
}

impl TrustAnchor {
    /// Reads the authority's certificate and, if given, its revocation list, and checks that the one signed the other.
    /// Without a list nothing counts as revoked. A list does not expire by its date: what makes it current is that an
    /// operator put it there.
    ///
    /// # Errors
    /// If either cannot be used.
    pub fn from_pem(authority: &[u8], revoked: Option<&[u8]>) -> Result<Self, AnchorError> {
        let certificates: Vec<_> = CertificateDer::pem_slice_iter(authority).take(2).flatten().collect();
        let [authority] = certificates.as_slice() else {
            return Err(AnchorError::Certificate { found: certificates.len() });
        };
        let revoked = match revoked {
            None => None,
            Some(text) if text.len() > REVOCATION_LIST_LEN_MAX => return Err(AnchorError::RevocationList),
            Some(text) => {
                let mut lists = CertificateRevocationListDer::pem_slice_iter(text).take(2);
                match (lists.next(), lists.next()) {
                    (Some(Ok(list)), None) => Some(list),
                    _ => return Err(AnchorError::RevocationList),
                }
            }
        };
        Self::from_der(authority.clone(), revoked)
    }

    /// As [`Self::from_pem`], from DER.
    ///
    /// # Errors
    /// If either cannot be used.
    pub fn from_der(
        authority: CertificateDer<'static>,
        revoked: Option<CertificateRevocationListDer<'static>>,
    ) -> Result<Self, AnchorError> {
        let unusable = |why| AnchorError::NotAnAuthority { why };
        let parsed = parse(&authority).map_err(|_| unusable("it is malformed"))?;
        if !parsed.is_ca() {
            return Err(unusable("it may not sign certificates"));
        }
        let trust_domain = match names(&parsed).ok().as_deref() {
            Some([GeneralName::URI(uri)]) => uri.strip_prefix("spiffe://").and_then(|name| name.parse().ok()),
            _ => None,
        };
        let trust_domain = trust_domain.ok_or_else(|| unusable("it names no trust domain"))?;
        let revoked = match revoked {
            None => None,
            Some(list) => {
                let (rest, signed) =
                    CertificateRevocationList::from_der(&list).map_err(|_| AnchorError::RevocationList)?;
                if !rest.is_empty() {
                    return Err(AnchorError::RevocationList);
                }
                // A list of another authority would make every certificate's status unknown, or forgive everyone.
                if signed.issuer() != parsed.subject() || signed.verify_signature(parsed.public_key()).is_err() {
                    return Err(AnchorError::ForeignRevocationList);
                }
                let owned = OwnedCertRevocationList::from_der(&list).map_err(|_| AnchorError::RevocationList)?;
                Some((list, CertRevocationList::Owned(owned)))
            }
        };
        let anchor = anchor_from_trusted_cert(&authority).map_err(|_| unusable("it is malformed"))?.to_owned();
        Ok(Self { authority, anchor, revoked, trust_domain })
    }

    /// The trust domain within which the authority names clients.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The authority's certificate.
    pub fn authority(&self) -> &CertificateDer<'static> {
        &self.authority
    }

    /// The revocation list.
    pub fn revoked(&self) -> Option<&CertificateRevocationListDer<'static>> {
        self.revoked.as_ref().map(|(der, _)| der)
    }

    /// Checks a client's certificate.
    ///
    /// # Errors
    /// If it is not believed at the instant `now`.
    pub fn verify_client(&self, certificate: &[u8], now: Timestamp) -> Result<ClientIdentity, TrustError> {
        self.verify_chain(certificate, now, KeyUsage::client_auth())?;
        let parsed = parse(certificate)?;
        let names = names(&parsed)?;
        let [GeneralName::URI(uri)] = names.as_slice() else {
            let n_uris = names.iter().filter(|name| matches!(name, GeneralName::URI(_))).count();
            return Err(TrustError::NotOneIdentity { n_names: names.len(), n_uris });
        };
        let id = uri.parse::<ClientId>().ok().filter(|id| id.trust_domain() == self.trust_domain.as_str());
        let id = id.ok_or_else(|| TrustError::NotAClient {
            found: (*uri).to_owned(),
            trust_domain: self.trust_domain.clone(),
        })?;
        let key = key(&parsed).ok_or(TrustError::Key)?;
        Ok(ClientIdentity { id, key, fingerprint: Digest::of(certificate) })
    }

    /// Chain, validity, revocation and purpose.
    fn verify_chain(
        &self,
        certificate: &[u8],
        now: Timestamp,
        usage: impl ExtendedKeyUsageValidator,
    ) -> Result<(), TrustError> {
        let der = CertificateDer::from(check_len(certificate)?);
        let end_entity = EndEntityCert::try_from(&der).map_err(|_| TrustError::Malformed)?;
        let lists: Vec<&CertRevocationList<'_>> = self.revoked.iter().map(|(_, list)| list).collect();
        let revocation = RevocationOptionsBuilder::new(&lists).ok().map(|options| {
            options
                .with_depth(RevocationCheckDepth::EndEntity)
                .with_status_policy(UnknownStatusPolicy::Deny)
                .with_expiration_policy(ExpirationPolicy::Ignore)
                .build()
        });
        let time = UnixTime::since_unix_epoch(Duration::from_millis(now.unix_ms()));
        let anchors = std::slice::from_ref(&self.anchor);
        end_entity
            .verify_for_usage(&[webpki::ring::ED25519], anchors, &[], time, usage, revocation, None)
            .map(|_| ())
            .map_err(|error| trust_error(&error))
    }
}

impl fmt::Debug for TrustAnchor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TrustAnchor")
            .field("trust_domain", &self.trust_domain)
            .field("authority", &Digest::of(&self.authority))
            .field("has_revocation_list", &self.revoked.is_some())
            .finish()
    }
}

/// From when until when a certificate is valid, read without believing it: to tell its holder why it was turned away.
///
/// # Errors
/// If the bytes are not a certificate.
pub fn validity(certificate: &[u8]) -> Result<(Timestamp, Timestamp), TrustError> {
    let parsed = parse(certificate)?;
    let ms = |seconds: i64| Timestamp::from_unix_ms(u64::try_from(seconds).unwrap_or(0).saturating_mul(1000));
    Ok((ms(parsed.validity().not_before.timestamp()), ms(parsed.validity().not_after.timestamp())))
}

/// A day as people write it, 2026-01-31, in UTC.
pub fn day(at: Timestamp) -> String {
    let seconds = i64::try_from(at.unix_ms() / 1000).unwrap_or(i64::MAX);
    match time::OffsetDateTime::from_unix_timestamp(seconds) {
        Ok(at) => at.date().to_string(),
        Err(_) => format!("{} ms after 1970", at.unix_ms()),
    }
}

/// The Ed25519 key of a certificate, if it has one that is canonical and not weak.
pub(crate) fn key(certificate: &X509Certificate<'_>) -> Option<VerifyingKey> {
    let info = certificate.public_key();
    if info.algorithm.algorithm != OID_SIG_ED25519 || info.algorithm.parameters.is_some() {
        return None;
    }
    let key = VerifyingKey(info.subject_public_key.data.as_ref().try_into().ok()?);
    key.check().ok().map(|()| key)
}

fn check_len(certificate: &[u8]) -> Result<&[u8], TrustError> {
    match certificate.len() {
        len if len > CERTIFICATE_LEN_MAX => Err(TrustError::TooLong { len }),
        _ => Ok(certificate),
    }
}

fn parse(certificate: &[u8]) -> Result<X509Certificate<'_>, TrustError> {
    match X509Certificate::from_der(check_len(certificate)?) {
        Ok(([], parsed)) => Ok(parsed),
        _ => Err(TrustError::Malformed),
    }
}

fn names<'a>(certificate: &'a X509Certificate<'_>) -> Result<Vec<GeneralName<'a>>, TrustError> {
    let extension = certificate.subject_alternative_name().map_err(|_| TrustError::Malformed)?;
    Ok(extension.map(|extension| extension.value.general_names.clone()).unwrap_or_default())
}

fn trust_error(error: &webpki::Error) -> TrustError {
    use webpki::Error;
    let at = |time: &UnixTime| Timestamp::from_unix_ms(time.as_secs().saturating_mul(1000));
    match error {
        Error::CertExpired { not_after, .. } => TrustError::Expired { not_after: at(not_after) },
        Error::CertNotValidYet { not_before, .. } => TrustError::NotYetValid { not_before: at(not_before) },
        Error::CertRevoked => TrustError::Revoked,
        Error::RequiredEkuNotFoundContext(_) | Error::EmptyEkuExtension | Error::CaUsedAsEndEntity => {
            TrustError::NotForClients
        }
        Error::UnknownIssuer
        | Error::UnknownRevocationStatus
        | Error::InvalidSignatureForPublicKey
        | Error::SignatureAlgorithmMismatch
        | Error::UnsupportedSignatureAlgorithmForPublicKeyContext(_)
        | Error::UnsupportedSignatureAlgorithmContext(_) => TrustError::ForeignAuthority,
        _ => TrustError::Malformed,
    }
}
