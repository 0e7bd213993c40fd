//! Who a certificate says its holder is, and whether that is to be believed.
//!
//! The coordinator asks at every handshake, a client asks for every certificate of a roster: the coordinator that relays
//! it is not believed. What counts as a client's certificate is narrow: signed by the authority directly, valid
//! now, not revoked, for client authentication, over an Ed25519 key in canonical encoding, and with exactly one
//! subject alternative name, the URI that is the identity.
//!
//! While an authority is exchanged for its successor two are trusted at once. Each needs its revocation list, and a list
//! that is missing or past its date makes nobody believed: whoever cannot know what was revoked lets nobody in.

use std::{collections::HashSet, fmt, time::Duration};

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

/// Most authorities that are trusted at once: one, and its successor while everybody changes over.
pub const AUTHORITIES_MAX: usize = 2;

/// Why the authority's certificate or its revocation list cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AnchorError {
    /// The text holds no certificate, or too many.
    #[error(
        "expected one CERTIFICATE in the authority's PEM text, or {AUTHORITIES_MAX} while it changes, found {found}"
    )]
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
    /// Two authorities that do not belong together.
    #[error("the two authorities are of {one} and {other}: only one trust domain can be trusted")]
    TwoDomains {
        /// The first one's trust domain.
        one: TrustDomain,
        /// The other's.
        other: TrustDomain,
    },
    /// The text holds no revocation list that can be read.
    #[error("expected one X509 CRL for each authority in the revocation list's PEM text")]
    RevocationList,
    /// A revocation list is not signed by any of the authorities.
    #[error("the revocation list is not signed by this authority")]
    ForeignRevocationList,
    /// An authority has no revocation list, so that nobody can know what it revoked.
    #[error("there is no revocation list of the authority {authority}")]
    NoRevocationList {
        /// SHA-256 of its certificate.
        authority: Digest,
    },
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
    /// The revocation list is past its date: whether the certificate was revoked cannot be known.
    #[error("the revocation list is past its date")]
    ListExpired,
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

/// The authority that is believed, or two while it changes, with what was revoked.
pub struct TrustAnchor {
    issuers: Vec<Issuer>,
    anchors: Vec<rustls_pki_types::TrustAnchor<'static>>,
    trust_domain: TrustDomain,
}

/// One authority with its revocation list.
struct Issuer {
    certificate: CertificateDer<'static>,
    fingerprint: Digest,
    /// The name that certificates and lists carry, in DER.
    subject: Vec<u8>,
    list: RevocationList,
}

/// A revocation list whose signature was checked.
struct RevocationList {
    der: CertificateRevocationListDer<'static>,
    parsed: CertRevocationList<'static>,
    number: u64,
    next_update: Option<Timestamp>,
    serials: HashSet<Vec<u8>>,
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
    /// What may take the belief back.
    pub standing: Standing,
}

/// What of a certificate decides whether it is still believed, once it was: enough to look again without its signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// SHA-256 of the authority's certificate.
    pub authority: Digest,
    /// The serial number, in DER's bytes.
    pub serial: Vec<u8>,
    /// Until when it is valid.
    pub not_after: Timestamp,
}

/// One authority's revocation list, for whoever shows or remembers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListState {
    /// SHA-256 of the authority's certificate.
    pub authority: Digest,
    /// The list's number, which only rises.
    pub number: u64,
    /// SHA-256 of the list.
    pub digest: Digest,
    /// How many certificates it names.
    pub n_revoked: usize,
    /// After which it is not believed any more.
    pub next_update: Option<Timestamp>,
}

impl TrustAnchor {
    /// Reads the authority's certificate (or two, while it changes) and the revocation list of each, and checks that the
    /// one signed the other.
    ///
    /// # Errors
    /// If any cannot be used, or a list is missing.
    pub fn from_pem(authorities: &[u8], lists: &[u8]) -> Result<Self, AnchorError> {
        let most = AUTHORITIES_MAX + 1;
        let certificates: Vec<_> = CertificateDer::pem_slice_iter(authorities).take(most).flatten().collect();
        if lists.len() > REVOCATION_LIST_LEN_MAX {
            return Err(AnchorError::RevocationList);
        }
        let lists: Result<Vec<_>, _> = CertificateRevocationListDer::pem_slice_iter(lists).take(most).collect();
        Self::from_der(certificates, lists.map_err(|_| AnchorError::RevocationList)?)
    }

    /// As [`Self::from_pem`], from DER.
    ///
    /// # Errors
    /// If any cannot be used, or a list is missing.
    pub fn from_der(
        authorities: Vec<CertificateDer<'static>>,
        lists: Vec<CertificateRevocationListDer<'static>>,
    ) -> Result<Self, AnchorError> {
        if !(1..=AUTHORITIES_MAX).contains(&authorities.len()) {
            return Err(AnchorError::Certificate { found: authorities.len() });
        }
        let mut lists: Vec<Option<CertificateRevocationListDer<'static>>> = lists.into_iter().map(Some).collect();
        let (mut issuers, mut anchors, mut domain) = (Vec::<Issuer>::new(), Vec::new(), None::<TrustDomain>);
        let mut missing = None;
        for certificate in authorities {
            let unusable = |why| AnchorError::NotAnAuthority { why };
            let anchor = anchor_from_trusted_cert(&certificate).map_err(|_| unusable("it is malformed"))?.to_owned();
            let (subject, list) = {
                let parsed = parse(&certificate).map_err(|_| unusable("it is malformed"))?;
                if !parsed.is_ca() {
                    return Err(unusable("it may not sign certificates"));
                }
                let named = match names(&parsed).ok().as_deref() {
                    Some([GeneralName::URI(uri)]) => uri.strip_prefix("spiffe://").and_then(|name| name.parse().ok()),
                    _ => None,
                };
                let named: TrustDomain = named.ok_or_else(|| unusable("it names no trust domain"))?;
                match &domain {
                    Some(one) if *one != named => {
                        return Err(AnchorError::TwoDomains { one: one.clone(), other: named });
                    }
                    _ => domain = Some(named),
                }
                (parsed.subject().as_raw().to_vec(), take_list(&mut lists, &parsed)?)
            };
            let fingerprint = Digest::of(&certificate);
            if issuers.iter().any(|other| other.subject == subject) {
                return Err(unusable("it is there twice"));
            }
            anchors.push(anchor);
            // A list of another authority shows that somebody mixed two federations up.
            missing = missing.or(list.is_none().then_some(AnchorError::NoRevocationList { authority: fingerprint }));
            issuers.extend(list.map(|list| Issuer { certificate, fingerprint, subject, list }));
        }
        if lists.iter().any(Option::is_some) {
            return Err(AnchorError::ForeignRevocationList);
        }
        if let Some(missing) = missing {
            return Err(missing);
        }
        let trust_domain = domain.ok_or(AnchorError::Certificate { found: 0 })?;
        Ok(Self { issuers, anchors, trust_domain })
    }

    /// The trust domain within which the authority names clients.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The certificates of those who are believed.
    pub fn authorities(&self) -> impl Iterator<Item = &CertificateDer<'static>> {
        self.issuers.iter().map(|issuer| &issuer.certificate)
    }

    /// Their revocation lists, in the same order.
    pub fn revoked(&self) -> impl Iterator<Item = &CertificateRevocationListDer<'static>> {
        self.issuers.iter().map(|issuer| &issuer.list.der)
    }

    /// What their revocation lists say of themselves, in the same order.
    pub fn lists(&self) -> impl Iterator<Item = ListState> {
        self.issuers.iter().map(|Issuer { fingerprint, list, .. }| ListState {
            authority: *fingerprint,
            number: list.number,
            digest: Digest::of(&list.der),
            n_revoked: list.serials.len(),
            next_update: list.next_update,
        })
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
        let issuer = self.issuers.iter().find(|issuer| issuer.subject == parsed.issuer().as_raw());
        let standing = Standing {
            authority: issuer.ok_or(TrustError::ForeignAuthority)?.fingerprint,
            serial: parsed.raw_serial().to_vec(),
            not_after: timestamp(parsed.validity().not_after.timestamp()),
        };
        Ok(ClientIdentity { id, key, fingerprint: Digest::of(certificate), standing })
    }

    /// Checks a coordinator's certificate, apart from the host that it is dialled by.
    ///
    /// # Errors
    /// If it is not believed at the instant `now`.
    pub fn verify_coordinator(&self, certificate: &[u8], now: Timestamp) -> Result<(), TrustError> {
        self.verify_chain(certificate, now, KeyUsage::server_auth())
    }

    /// Looks again at a certificate that was believed before.
    ///
    /// # Errors
    /// If it is not believed any more at the instant `now`.
    pub fn still_believes(&self, standing: &Standing, now: Timestamp) -> Result<(), TrustError> {
        let issuer = self.issuers.iter().find(|issuer| issuer.fingerprint == standing.authority);
        let list = &issuer.ok_or(TrustError::ForeignAuthority)?.list;
        match list.next_update {
            _ if list.serials.contains(&standing.serial) => Err(TrustError::Revoked),
            _ if now > standing.not_after => Err(TrustError::Expired { not_after: standing.not_after }),
            Some(next_update) if now >= next_update => Err(TrustError::ListExpired),
            _ => Ok(()),
        }
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
        let lists: Vec<&CertRevocationList<'_>> = self.issuers.iter().map(|issuer| &issuer.list.parsed).collect();
        let revocation = RevocationOptionsBuilder::new(&lists).ok().map(|options| {
            options
                .with_depth(RevocationCheckDepth::EndEntity)
                .with_status_policy(UnknownStatusPolicy::Deny)
                .with_expiration_policy(ExpirationPolicy::Enforce)
                .build()
        });
        let time = UnixTime::since_unix_epoch(Duration::from_millis(now.unix_ms()));
        end_entity
            .verify_for_usage(&[webpki::ring::ED25519], &self.anchors, &[], time, usage, revocation, None)
            .map(|_| ())
            .map_err(|error| trust_error(&error))
    }
}

impl fmt::Debug for TrustAnchor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TrustAnchor")
            .field("trust_domain", &self.trust_domain)
            .field("lists", &self.lists().collect::<Vec<_>>())
            .finish()
    }
}

/// From when until when a certificate is valid, read without believing it: to tell its holder why it was turned away.
///
/// # Errors
/// If the bytes are not a certificate.
pub fn validity(certificate: &[u8]) -> Result<(Timestamp, Timestamp), TrustError> {
    let parsed = parse(certificate)?;
    let validity = parsed.validity();
    Ok((timestamp(validity.not_before.timestamp()), timestamp(validity.not_after.timestamp())))
}

/// How long a certificate is still valid, if it is time to renew it: when a third of its time is left, and a month at
/// most.
///
/// # Errors
/// If the bytes are not a certificate.
pub fn due_for_renewal(certificate: &[u8], now: Timestamp) -> Result<Option<Duration>, TrustError> {
    let (not_before, not_after) = validity(certificate)?;
    let left = not_after.since(now);
    let warned = (not_after.since(not_before) / 3).min(RENEWAL_WARNING_MAX);
    Ok((left <= warned).then_some(left))
}

/// A day as people write it, 2026-01-31, in UTC.
pub fn day(at: Timestamp) -> String {
    let seconds = i64::try_from(at.unix_ms() / 1000).unwrap_or(i64::MAX);
    match time::OffsetDateTime::from_unix_timestamp(seconds) {
        Ok(at) => at.date().to_string(),
        Err(_) => format!("{} ms after 1970", at.unix_ms()),
    }
}

fn timestamp(seconds: i64) -> Timestamp {
    Timestamp::from_unix_ms(u64::try_from(seconds).unwrap_or(0).saturating_mul(1000))
}

/// Takes the list that this authority signed out of `lists`.
fn take_list(
    lists: &mut [Option<CertificateRevocationListDer<'static>>],
    authority: &X509Certificate<'_>,
) -> Result<Option<RevocationList>, AnchorError> {
    for slot in lists {
        let Some(der) = slot else { continue };
        let list = {
            let (rest, signed) = CertificateRevocationList::from_der(der).map_err(|_| AnchorError::RevocationList)?;
            // A list of another authority would make every certificate's status unknown, or forgive everyone.
            if signed.issuer() != authority.subject() {
                continue;
            }
            if !rest.is_empty() {
                return Err(AnchorError::RevocationList);
            }
            if signed.verify_signature(authority.public_key()).is_err() {
                return Err(AnchorError::ForeignRevocationList);
            }
            let digits = signed.crl_number().map(|number| number.to_u64_digits());
            let number = match digits.as_deref() {
                Some([]) => 0,
                Some([number]) => *number,
                // Without a number nobody could tell a list from an older one.
                _ => return Err(AnchorError::RevocationList),
            };
            let owned = OwnedCertRevocationList::from_der(der).map_err(|_| AnchorError::RevocationList)?;
            RevocationList {
                parsed: CertRevocationList::Owned(owned),
                number,
                next_update: signed.next_update().map(|at| timestamp(at.timestamp())),
                serials: signed.iter_revoked_certificates().map(|entry| entry.raw_serial().to_vec()).collect(),
                der: der.clone(),
            }
        };
        *slot = None;
        return Ok(Some(list));
    }
    Ok(None)
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

pub(crate) fn parse(certificate: &[u8]) -> Result<X509Certificate<'_>, TrustError> {
    match X509Certificate::from_der(check_len(certificate)?) {
        Ok(([], parsed)) => Ok(parsed),
        _ => Err(TrustError::Malformed),
    }
}

pub(crate) fn names<'a>(certificate: &'a X509Certificate<'_>) -> Result<Vec<GeneralName<'a>>, TrustError> {
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
        Error::CrlExpired { .. } => TrustError::ListExpired,
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

/// The earliest that a certificate's holder is told to renew it.
const RENEWAL_WARNING_MAX: Duration = Duration::from_secs(30 * 24 * 60 * 60);
