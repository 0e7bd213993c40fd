//! A certificate authority in a folder: it approves requests, keeps who is enrolled, and revokes.
//!
//! | file | what |
//! |---|---|
//! | `ca.key` | the authority's private key, for its owner alone |
//! | `ca.pem` | its certificate, which every party needs |
//! | `crl.pem` | its revocation list, which every party needs |
//! | `ca.previous.key` | the key before, while everybody changes over: `ca.pem` and `crl.pem` hold two then |
//! | `index.json` | who was enrolled with which key, and what was revoked |
//! | `issued/<serial>.pem` | every certificate that was issued |
//!
//! An identity keeps the key it was enrolled with: another key for it, or one key for two identities, is refused unless
//! the operator insists. Everything a request asks for beyond one name in one role is refused, never ignored.

use std::{
    collections::HashSet,
    fs::File,
    path::{Path, PathBuf},
    time::Duration,
};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertificateSigningRequestParams,
    DistinguishedName, DnType, DnValue, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyUsagePurpose,
    PublicKeyData, RevocationReason, RevokedCertParams, SanType, SerialNumber,
};
use rustls_pki_types::{CertificateDer, CertificateSigningRequestDer, pem::PemObject};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use eranos_base::{Digest, Entropy, SigningKey, Timestamp, TrustDomain, VerifyingKey, ids::NameError};

use crate::{
    files::{FileError, make_folder, pem, read_limited, remove, rename, write_atomic, write_new_secret, write_private},
    party::{
        AUTHORITY_FILE, HOSTS_MAX, PEM_LEN_MAX, PartyError, REVOCATION_LIST_FILE, Role, Signer, check_name,
        key_fingerprint, key_of_certificate, key_pem, load_key,
    },
    trust::AUTHORITIES_MAX,
};

/// The authority's private key.
pub const AUTHORITY_KEY_FILE: &str = "ca.key";
/// The private key before the present one, while everybody changes over.
pub const PREVIOUS_KEY_FILE: &str = "ca.previous.key";
/// The key that is to follow, until its certificate is published.
const NEXT_KEY_FILE: &str = "ca.next.key";
/// Who is enrolled.
pub const INDEX_FILE: &str = "index.json";
/// The folder of issued certificates.
pub const ISSUED_FOLDER: &str = "issued";
/// How long an authority's certificate is valid.
pub const AUTHORITY_DAYS: u32 = 3650;
/// How long a certificate is valid unless told otherwise.
pub const CERTIFICATE_DAYS: u32 = 365;
/// A certificate is valid from this long before it was issued, so that a clock a little behind accepts it.
pub const BACKDATE: Duration = Duration::from_secs(5 * 60);
/// Most certificates one authority issues: the index is read as a whole.
pub const CERTIFICATES_MAX: usize = 100_000;

const INDEX_VERSION: u32 = 2;
const INDEX_LEN_MAX: usize = CERTIFICATES_MAX * 1024;
const LOCK_FILE: &str = "lock";
/// Identities that an error names.
const SHOWN_MAX: usize = 5;
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Why an authority refused or failed.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// A file could not be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// There is an authority already.
    #[error("{} is an authority already", folder.display())]
    Exists {
        /// Its folder.
        folder: PathBuf,
    },
    /// There is no authority.
    #[error("{} is not an authority's folder: it has no {INDEX_FILE}", folder.display())]
    NoAuthority {
        /// The folder.
        folder: PathBuf,
    },
    /// The index is damaged.
    #[error("{}: {why}", path.display())]
    Index {
        /// Its file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The authority's own key or certificate cannot be used.
    #[error(transparent)]
    Own(#[from] PartyError),
    /// The request is refused.
    #[error("{0}")]
    Request(#[from] RequestError),
    /// The identity is enrolled with another key.
    #[error("{identity} is enrolled with another key: {enrolled}, the request's is {asked}")]
    OtherKey {
        /// The identity.
        identity: String,
        /// Fingerprint of the enrolled key.
        enrolled: Digest,
        /// Fingerprint of the request's key.
        asked: Digest,
    },
    /// The key is enrolled under another identity.
    #[error("the key {fingerprint} asked for as {asked} belongs to {enrolled}")]
    KeyOfAnother {
        /// Fingerprint of the key.
        fingerprint: Digest,
        /// The identity that has it.
        enrolled: String,
        /// The identity that the request asks for.
        asked: String,
    },
    /// The key was revoked.
    #[error("the key {fingerprint} of {identity} was revoked")]
    KeyRevoked {
        /// Fingerprint of the key.
        fingerprint: Digest,
        /// Its identity.
        identity: String,
    },
    /// Nobody of that name is enrolled.
    #[error("nobody is enrolled as {name:?}")]
    NobodyEnrolled {
        /// The name or identity that was given.
        name: String,
    },
    /// A client and a coordinator have that name.
    #[error("{name:?} is both a client and a coordinator")]
    Ambiguous {
        /// The name that was given.
        name: String,
    },
    /// The authority has issued as many certificates as it can.
    #[error("the authority has issued {CERTIFICATES_MAX} certificates, its limit")]
    Full,
    /// The authority changes over already.
    #[error("the authority is being exchanged for its successor already")]
    RollingOver,
    /// The authority does not change over.
    #[error("the authority is not being exchanged for a successor")]
    NotRollingOver,
    /// Parties that only the authority before has certified.
    #[error("{} still have certificates of the authority before alone: {}", identities.len(), shown(identities))]
    StillOfPrevious {
        /// Who.
        identities: Vec<String>,
    },
    /// A validity of no days or beyond the authority's own.
    #[error("a validity of {days} days, expected 1 to what remains of the authority's own certificate")]
    Validity {
        /// The days asked for.
        days: u32,
    },
    /// The certificate library refused.
    #[error("cannot encode: {0}")]
    Encoding(#[from] rcgen::Error),
}

/// Why a request is refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum RequestError {
    /// The text holds no request, or more than one.
    #[error("expected exactly one CERTIFICATE REQUEST in the PEM text")]
    NotARequest,
    /// The request is malformed, or asks for an extension that is not used here.
    #[error("request is malformed or asks for an unknown extension: {why}")]
    Malformed {
        /// What the parser found.
        why: String,
    },
    /// Whoever sent it does not hold the key.
    #[error("request is not signed by the key it carries")]
    SelfSignature,
    /// The key is not Ed25519, or not in canonical encoding, or weak.
    #[error("request's key is not a canonical ed25519 key")]
    Key,
    /// The subject is not one common name.
    #[error("request's subject is not exactly one common name")]
    Subject,
    /// The name is not one.
    #[error("{0}")]
    Name(#[from] NameError),
    /// The purpose is not exactly one of the two.
    #[error("request's purpose is neither a client's nor a coordinator's alone")]
    Purpose,
    /// It asks for something else besides.
    #[error("request of a {} also asks for {what}", role.as_str())]
    AsksForMore {
        /// The role.
        role: Role,
        /// What else.
        what: String,
    },
}

/// A request that was checked: its sender holds the key, and it asks for one name in one role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The role.
    pub role: Role,
    /// The name.
    pub name: String,
    /// The identity that a certificate would carry.
    pub identity: String,
    /// The key.
    pub key: VerifyingKey,
    /// The key's fingerprint, to be compared with what its owner reads out.
    pub fingerprint: Digest,
    /// The hosts of a coordinator.
    hosts: Vec<SanType>,
}

/// What the operator decides about a request.
#[derive(Clone, Copy, Debug)]
pub struct Approval {
    /// How long the certificate is valid, in days.
    pub days: u32,
    /// Enrol the request's key in the place of the one the identity has, whose certificates are revoked.
    pub replace_key: bool,
}

impl Default for Approval {
    fn default() -> Self {
        Self { days: CERTIFICATE_DAYS, replace_key: false }
    }
}

/// One certificate that was issued.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Enrolment {
    /// The identity.
    pub identity: String,
    /// The role.
    pub role: Role,
    /// The name.
    pub name: String,
    /// The certificate's serial number, in hexadecimal.
    pub serial: String,
    /// The key, in hexadecimal.
    #[serde(with = "as_text")]
    pub key: VerifyingKey,
    /// The key's fingerprint.
    #[serde(with = "as_text")]
    pub key_fingerprint: Digest,
    /// SHA-256 of the certificate.
    #[serde(with = "as_text")]
    pub certificate_fingerprint: Digest,
    /// From when it is valid, in milliseconds after 1970.
    pub not_before_ms: Timestamp,
    /// Until when it is valid.
    pub not_after_ms: Timestamp,
    /// When it was revoked.
    pub revoked_ms: Option<Timestamp>,
    /// SHA-256 of the certificate of the authority that signed it.
    #[serde(with = "as_text")]
    pub authority: Digest,
}

impl Enrolment {
    /// What the certificate is worth at the instant `now`.
    pub fn state(&self, now: Timestamp) -> &'static str {
        match self.revoked_ms {
            Some(_) => "revoked",
            None if now > self.not_after_ms => "expired",
            None => "enrolled",
        }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Index {
    version: u32,
    trust_domain: TrustDomain,
    /// The number of the current revocation list; it only rises.
    revocation_list_number: u64,
    /// For how many days a revocation list is believed; as long as the authority, if not said.
    revocation_list_days: Option<u32>,
    certificates: Vec<Enrolment>,
}

/// A certificate authority, locked against every other process while it is open.
#[derive(Debug)]
pub struct Authority {
    folder: PathBuf,
    current: Signing,
    /// The one before, while everybody changes over: it signs nothing but its revocation list.
    previous: Option<Signing>,
    index: Index,
    _lock: File,
}

/// A key that signs certificates or revocation lists, with the certificate that says so.
#[derive(Debug)]
struct Signing {
    key: SigningKey,
    certificate: CertificateDer<'static>,
    fingerprint: Digest,
    not_after: Timestamp,
}

impl Authority {
    /// Makes an authority in `folder`, which names its members in `trust_domain`.
    ///
    /// # Errors
    /// If there is one already, or a file cannot be written.
    pub fn init(
        folder: &Path,
        trust_domain: TrustDomain,
        now: Timestamp,
        entropy: &mut dyn Entropy,
    ) -> Result<Self, AuthorityError> {
        make_folder(&folder.join(ISSUED_FOLDER))?;
        let lock = lock(folder)?;
        if folder.join(INDEX_FILE).exists() || folder.join(AUTHORITY_KEY_FILE).exists() {
            return Err(AuthorityError::Exists { folder: folder.to_owned() });
        }
        let key = SigningKey::generate(entropy);
        write_new_secret(&folder.join(AUTHORITY_KEY_FILE), key_pem(&key).as_bytes())?;
        let current = Signing::self_signed(key, &trust_domain, now, entropy)?;
        let index = Index {
            version: INDEX_VERSION,
            trust_domain,
            revocation_list_number: 0,
            revocation_list_days: None,
            certificates: Vec::new(),
        };
        let authority = Self { folder: folder.to_owned(), current, previous: None, index, _lock: lock };
        authority.write_certificates()?;
        authority.write_revocation_lists(now)?;
        // The index comes last: without it there is no authority.
        authority.write_index()?;
        Ok(authority)
    }

    /// Opens the authority in `folder`. A change of its key that was cut off is finished.
    ///
    /// # Errors
    /// If there is none, or one of its files cannot be used.
    pub fn open(folder: &Path) -> Result<Self, AuthorityError> {
        let path = folder.join(INDEX_FILE);
        if !path.exists() {
            return Err(AuthorityError::NoAuthority { folder: folder.to_owned() });
        }
        let lock = lock(folder)?;
        let index = read_index(&path)?;
        let [key_path, previous_path, next_path] =
            [AUTHORITY_KEY_FILE, PREVIOUS_KEY_FILE, NEXT_KEY_FILE].map(|name| folder.join(name));
        let certificate_path = folder.join(AUTHORITY_FILE);
        let certificates: Vec<CertificateDer<'static>> =
            CertificateDer::pem_slice_iter(&read_limited(&certificate_path, AUTHORITIES_MAX * PEM_LEN_MAX)?)
                .take(AUTHORITIES_MAX + 1)
                .flatten()
                .collect();
        let published = |key: &SigningKey| {
            certificates.iter().find(|der| key_of_certificate(der) == Some(key.verifying_key())).cloned()
        };
        if next_path.exists() && published(&load_key(&next_path)?).is_some() {
            // A roll-over that was cut off after its certificate was published.
            if key_path.exists() {
                rename(&key_path, &previous_path)?;
            }
            rename(&next_path, &key_path)?;
        }
        let signing = |path: &Path| -> Result<Option<Signing>, AuthorityError> {
            let key = load_key(path)?;
            published(&key).map(|certificate| Signing::new(key, certificate, &certificate_path)).transpose()
        };
        let mismatch =
            || PartyError::KeyMismatch { certificate: certificate_path.clone(), key: folder.join(AUTHORITY_KEY_FILE) };
        let current = signing(&key_path)?.ok_or_else(mismatch)?;
        let previous = if previous_path.exists() { signing(&previous_path)? } else { None };
        if previous.is_none() {
            // A roll-over whose end was cut off: nothing is signed with this key any more.
            remove(&previous_path)?;
        }
        if certificates.len() != 1 + usize::from(previous.is_some()) {
            return Err(mismatch().into());
        }
        Ok(Self { folder: folder.to_owned(), current, previous, index, _lock: lock })
    }

    /// The trust domain.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.index.trust_domain
    }

    /// The authority's certificate: of the key that signs what is approved from now on.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.current.certificate
    }

    /// Where the authority keeps its certificate.
    pub fn certificate_file(&self) -> PathBuf {
        self.folder.join(AUTHORITY_FILE)
    }

    /// Where the authority keeps its revocation list.
    pub fn revocation_list_file(&self) -> PathBuf {
        self.folder.join(REVOCATION_LIST_FILE)
    }

    /// What a certificate is worth at the instant `now`: as [`Enrolment::state`], or `retired` where the authority that
    /// signed it is believed no more.
    pub fn state_of(&self, enrolment: &Enrolment, now: Timestamp) -> &'static str {
        match self.signing_of(enrolment) {
            None if enrolment.revoked_ms.is_none() => "retired",
            _ => enrolment.state(now),
        }
    }

    /// Makes a fresh key and certificate, which sign everything from now on. The ones before stay believed until
    /// [`Self::finish_roll_over`]: ca.pem and crl.pem hold both. Cut off anywhere, it may be done again.
    ///
    /// # Errors
    /// If that is under way already, or a file cannot be written.
    pub fn roll_over(&mut self, now: Timestamp, entropy: &mut dyn Entropy) -> Result<(), AuthorityError> {
        if self.previous.is_some() {
            return Err(AuthorityError::RollingOver);
        }
        let next_path = self.folder.join(NEXT_KEY_FILE);
        let key = match next_path.exists() {
            true => load_key(&next_path)?,
            false => {
                let key = SigningKey::generate(entropy);
                write_new_secret(&next_path, key_pem(&key).as_bytes())?;
                key
            }
        };
        let next = Signing::self_signed(key, &self.index.trust_domain, now, entropy)?;
        self.previous = Some(std::mem::replace(&mut self.current, next));
        self.index.revocation_list_number += 1;
        self.write_index()?;
        // The list first: whoever copies both in between has a list too many, which is refused, and tries again.
        self.write_revocation_lists(now)?;
        self.write_certificates()?;
        rename(&self.folder.join(AUTHORITY_KEY_FILE), &self.folder.join(PREVIOUS_KEY_FILE))?;
        Ok(rename(&next_path, &self.folder.join(AUTHORITY_KEY_FILE))?)
    }

    /// Ends the time in which two authorities are believed: ca.pem and crl.pem hold the present one alone, and the key
    /// before is gone. Parties with certificates of the one before alone are shut out, which takes `even_if_used`.
    ///
    /// # Errors
    /// If no roll-over is under way, some have no certificate of the present authority yet, or a file cannot be written.
    pub fn finish_roll_over(&mut self, even_if_used: bool, now: Timestamp) -> Result<(), AuthorityError> {
        let Some(previous) = &self.previous else { return Err(AuthorityError::NotRollingOver) };
        let is_good = |enrolled: &&Enrolment| enrolled.state(now) == "enrolled";
        let good = self.index.certificates.iter().filter(is_good);
        let (of_previous, others): (Vec<&Enrolment>, Vec<_>) =
            good.partition(|enrolled| enrolled.authority == previous.fingerprint);
        let renewed: HashSet<&str> = others.iter().map(|enrolled| enrolled.identity.as_str()).collect();
        let mut identities: Vec<String> = of_previous
            .into_iter()
            .filter(|enrolled| !renewed.contains(enrolled.identity.as_str()))
            .map(|enrolled| enrolled.identity.clone())
            .collect();
        identities.dedup();
        if !identities.is_empty() && !even_if_used {
            return Err(AuthorityError::StillOfPrevious { identities });
        }
        self.previous = None;
        self.index.revocation_list_number += 1;
        self.write_index()?;
        // The certificate last: until it is alone, this may be done again.
        self.write_revocation_lists(now)?;
        self.write_certificates()?;
        Ok(remove(&self.folder.join(PREVIOUS_KEY_FILE))?)
    }

    /// Writes a fresh revocation list, which is believed for `days` (as are those after it), or as long as the authority.
    ///
    /// # Errors
    /// If the days are none or too many, or a file cannot be written.
    pub fn renew_list(&mut self, days: Option<u32>, now: Timestamp) -> Result<(), AuthorityError> {
        if let Some(days) = days.filter(|days| !(1..=AUTHORITY_DAYS).contains(days)) {
            return Err(AuthorityError::Validity { days });
        }
        self.index.revocation_list_days = days;
        self.index.revocation_list_number += 1;
        self.write_index()?;
        self.write_revocation_lists(now)
    }

    /// For how many days a revocation list is believed, if not as long as the authority.
    pub fn list_days(&self) -> Option<u32> {
        self.index.revocation_list_days
    }

    /// Every certificate that was issued, oldest first.
    pub fn enrolments(&self) -> &[Enrolment] {
        &self.index.certificates
    }

    /// Checks a request: signed by the key it carries, for one name in one role, and nothing else.
    ///
    /// # Errors
    /// If anything is wrong or too much.
    pub fn review(&self, request: &[u8]) -> Result<Request, RequestError> {
        review(request, self.trust_domain())
    }

    /// Checks that a request's identity and key may be enrolled together.
    ///
    /// # Errors
    /// If the identity has another key, or the key another identity, or the key was revoked.
    pub fn check_enrolment(&self, request: &Request, replace_key: bool) -> Result<(), AuthorityError> {
        for enrolled in &self.index.certificates {
            let same_identity = enrolled.identity == request.identity;
            match (same_identity, enrolled.key == request.key) {
                (true, true) if enrolled.revoked_ms.is_some() => {
                    return Err(AuthorityError::KeyRevoked {
                        fingerprint: request.fingerprint,
                        identity: request.identity.clone(),
                    });
                }
                (false, true) => {
                    return Err(AuthorityError::KeyOfAnother {
                        fingerprint: request.fingerprint,
                        enrolled: enrolled.identity.clone(),
                        asked: request.identity.clone(),
                    });
                }
                (true, false) if !replace_key && !self.is_replaced(enrolled) => {
                    return Err(AuthorityError::OtherKey {
                        identity: request.identity.clone(),
                        enrolled: enrolled.key_fingerprint,
                        asked: request.fingerprint,
                    });
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Issues the certificate that a request asks for, and returns it.
    ///
    /// # Errors
    /// As [`Self::check_enrolment`]; or if the validity is out of range, the authority full, a file not writable.
    pub fn approve(
        &mut self,
        request: &Request,
        approval: Approval,
        now: Timestamp,
        entropy: &mut dyn Entropy,
    ) -> Result<CertificateDer<'static>, AuthorityError> {
        self.check_enrolment(request, approval.replace_key)?;
        let not_after = now + DAY * approval.days;
        if approval.days == 0 || not_after > self.current.not_after {
            return Err(AuthorityError::Validity { days: approval.days });
        }
        if self.index.certificates.len() >= CERTIFICATES_MAX {
            return Err(AuthorityError::Full);
        }
        let serial = serial(entropy);
        let not_before = before(now);
        let mut params = CertificateParams::default();
        params.distinguished_name = common_name(&request.name);
        params.subject_alt_names = request.hosts.clone();
        params.subject_alt_names.push(uri(&request.identity)?);
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![match request.role {
            Role::Client => ExtendedKeyUsagePurpose::ClientAuth,
            Role::Coordinator => ExtendedKeyUsagePurpose::ServerAuth,
        }];
        params.use_authority_key_identifier_extension = true;
        params.not_before = moment(not_before);
        params.not_after = moment(not_after);
        params.serial_number = Some(serial.clone());
        let certificate = params.signed_by(&SubjectKey(request.key), &self.current.issuer()?)?;

        let serial = hex_of(serial.as_ref());
        let file = self.folder.join(ISSUED_FOLDER).join(format!("{serial}.pem"));
        write_private(&file, pem("CERTIFICATE", certificate.der()).as_bytes())?;
        let mut superseded = false;
        for enrolled in &mut self.index.certificates {
            if enrolled.identity == request.identity && enrolled.key != request.key && enrolled.revoked_ms.is_none() {
                enrolled.revoked_ms = Some(now);
                superseded = true;
            }
        }
        self.index.certificates.push(Enrolment {
            identity: request.identity.clone(),
            role: request.role,
            name: request.name.clone(),
            serial,
            key: request.key,
            key_fingerprint: request.fingerprint,
            certificate_fingerprint: Digest::of(certificate.der()),
            not_before_ms: whole_second(not_before),
            not_after_ms: whole_second(not_after),
            revoked_ms: None,
            authority: self.current.fingerprint,
        });
        self.index.revocation_list_number += u64::from(superseded);
        self.write_index()?;
        if superseded {
            self.write_revocation_lists(now)?;
        }
        Ok(certificate.into())
    }

    /// Revokes every certificate of an identity, given whole or by its name, and writes the revocation list. Returns
    /// what is now revoked; to revoke once more is to write the list once more.
    ///
    /// # Errors
    /// If nobody is enrolled under that name, or two are; if a file cannot be written.
    pub fn revoke(&mut self, name: &str, now: Timestamp) -> Result<Vec<Enrolment>, AuthorityError> {
        let matches = |enrolled: &Enrolment| enrolled.identity == name || enrolled.name == name;
        let identities: HashSet<&str> =
            self.index.certificates.iter().filter(|e| matches(e)).map(|e| e.identity.as_str()).collect();
        match identities.len() {
            0 => return Err(AuthorityError::NobodyEnrolled { name: name.to_owned() }),
            1 => {}
            _ => return Err(AuthorityError::Ambiguous { name: name.to_owned() }),
        }
        for enrolled in self.index.certificates.iter_mut().filter(|enrolled| matches(enrolled)) {
            enrolled.revoked_ms.get_or_insert(now);
        }
        // The index is durable first: a list is made from it, and after a crash the next one is complete.
        self.index.revocation_list_number += 1;
        self.write_index()?;
        self.write_revocation_lists(now)?;
        Ok(self.index.certificates.iter().filter(|enrolled| matches(enrolled)).cloned().collect())
    }

    /// The revocation list as it lies in the folder.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn revocation_list_pem(&self) -> Result<Vec<u8>, AuthorityError> {
        Ok(read_limited(&self.revocation_list_file(), crate::trust::REVOCATION_LIST_LEN_MAX)?)
    }

    /// The authority's certificate as PEM text, with the one before while that is believed too.
    pub fn certificate_pem(&self) -> String {
        self.signings().map(|signing| pem("CERTIFICATE", &signing.certificate).to_string()).collect()
    }

    fn signings(&self) -> impl Iterator<Item = &Signing> {
        [&self.current].into_iter().chain(&self.previous)
    }

    fn signing_of(&self, enrolled: &Enrolment) -> Option<&Signing> {
        self.signings().find(|signing| signing.fingerprint == enrolled.authority)
    }

    /// Whether an operator already put another key in the place of this certificate's.
    fn is_replaced(&self, enrolled: &Enrolment) -> bool {
        let newest = self.index.certificates.iter().rev().find(|other| other.identity == enrolled.identity);
        enrolled.revoked_ms.is_some() && newest.is_some_and(|newest| newest.key != enrolled.key)
    }

    fn write_index(&self) -> Result<(), AuthorityError> {
        let path = self.folder.join(INDEX_FILE);
        let text = serde_json::to_string_pretty(&self.index)
            .map_err(|error| AuthorityError::Index { path: path.clone(), why: error.to_string() })?;
        Ok(write_private(&path, format!("{text}\n").as_bytes())?)
    }

    fn write_certificates(&self) -> Result<(), AuthorityError> {
        Ok(write_atomic(&self.certificate_file(), self.certificate_pem().as_bytes())?)
    }

    /// Each key signs the list of what it certified.
    fn write_revocation_lists(&self, now: Timestamp) -> Result<(), AuthorityError> {
        let mut text = String::new();
        for signing in self.signings() {
            let mut revoked_certs = Vec::new();
            for enrolled in self.index.certificates.iter().filter(|e| e.authority == signing.fingerprint) {
                let Some(revoked) = enrolled.revoked_ms else { continue };
                revoked_certs.push(RevokedCertParams {
                    serial_number: SerialNumber::from_slice(&bytes_of_hex(&enrolled.serial, &self.folder)?),
                    revocation_time: moment(revoked),
                    reason_code: Some(RevocationReason::Unspecified),
                    invalidity_date: None,
                });
            }
            let as_long_as_the_authority = signing.not_after.max(now + DAY);
            let list = CertificateRevocationListParams {
                this_update: moment(now),
                next_update: moment(
                    self.index.revocation_list_days.map_or(as_long_as_the_authority, |n| now + DAY * n),
                ),
                crl_number: SerialNumber::from(self.index.revocation_list_number),
                issuing_distribution_point: None,
                revoked_certs,
                key_identifier_method: KeyIdMethod::Sha256,
            };
            let list = list.signed_by(&signing.issuer()?)?;
            text.push_str(&pem("X509 CRL", list.der()));
        }
        Ok(write_atomic(&self.revocation_list_file(), text.as_bytes())?)
    }
}

impl Signing {
    fn new(key: SigningKey, certificate: CertificateDer<'static>, path: &Path) -> Result<Self, AuthorityError> {
        let (_, not_after) = crate::trust::validity(&certificate)
            .map_err(|source| PartyError::Certificate { path: path.to_owned(), source })?;
        Ok(Self { key, fingerprint: Digest::of(&certificate), certificate, not_after })
    }

    fn self_signed(
        key: SigningKey,
        trust_domain: &TrustDomain,
        now: Timestamp,
        entropy: &mut dyn Entropy,
    ) -> Result<Self, AuthorityError> {
        let not_after = now + DAY * AUTHORITY_DAYS;
        let mut params = CertificateParams::default();
        // Part of the fingerprint keeps two authorities of one trust domain apart.
        let fingerprint = key_fingerprint(&key.verifying_key()).to_string();
        params.distinguished_name = common_name(&format!("Eranos authority {}", &fingerprint[..16]));
        params.subject_alt_names = vec![uri(&format!("spiffe://{trust_domain}"))?];
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.not_before = moment(before(now));
        params.not_after = moment(not_after);
        params.serial_number = Some(serial(entropy));
        let certificate = params.self_signed(&Signer::new(&key))?.der().clone();
        Ok(Self { key, fingerprint: Digest::of(&certificate), certificate, not_after })
    }

    fn issuer(&self) -> Result<Issuer<'static, Signer<'_>>, AuthorityError> {
        Ok(Issuer::from_ca_cert_der(&self.certificate, Signer::new(&self.key))?)
    }
}

/// The first few of many.
fn shown(identities: &[String]) -> String {
    let more = if identities.len() > SHOWN_MAX { ", .." } else { "" };
    identities.iter().take(SHOWN_MAX).map(String::as_str).collect::<Vec<_>>().join(", ") + more
}

/// Checks a request for a name in `trust_domain`: what [`Authority::review`] does, for whoever is not the authority.
///
/// # Errors
/// If anything is wrong or too much.
pub fn review(request: &[u8], trust_domain: &TrustDomain) -> Result<Request, RequestError> {
    let mut requests = CertificateSigningRequestDer::pem_slice_iter(request).take(2);
    let (Some(Ok(der)), None) = (requests.next(), requests.next()) else {
        return Err(RequestError::NotARequest);
    };
    if der.len() > PEM_LEN_MAX {
        return Err(RequestError::NotARequest);
    }
    let parsed = CertificateSigningRequestParams::from_der(&der).map_err(|error| match error {
        rcgen::Error::InvalidCertificationRequestSignature => RequestError::SelfSignature,
        other => RequestError::Malformed { why: other.to_string() },
    })?;
    let params = parsed.params;
    if *PublicKeyData::algorithm(&parsed.public_key) != rcgen::PKCS_ED25519 {
        return Err(RequestError::Key);
    }
    let key = parsed.public_key.der_bytes().try_into().map(VerifyingKey).map_err(|_| RequestError::Key)?;
    key.check().map_err(|_| RequestError::Key)?;

    let role = match params.extended_key_usages.as_slice() {
        [ExtendedKeyUsagePurpose::ClientAuth] => Role::Client,
        [ExtendedKeyUsagePurpose::ServerAuth] => Role::Coordinator,
        _ => return Err(RequestError::Purpose),
    };
    let subject: Vec<_> = params.distinguished_name.iter().collect();
    let name = match subject.as_slice() {
        [(DnType::CommonName, DnValue::Utf8String(name))] => name.clone(),
        [(DnType::CommonName, DnValue::PrintableString(name))] => name.as_str().to_owned(),
        _ => return Err(RequestError::Subject),
    };
    check_name(&name)?;
    let identity = format!("spiffe://{trust_domain}/{}/{name}", role.as_str());

    let more = |what: String| Err(RequestError::AsksForMore { role, what });
    if !matches!(params.is_ca, IsCa::NoCa | IsCa::ExplicitNoCa) {
        return more("the right to sign certificates".to_owned());
    }
    if params.key_usages.iter().any(|usage| *usage != KeyUsagePurpose::DigitalSignature) {
        return more("another use of its key".to_owned());
    }
    let mut hosts = Vec::new();
    for asked in params.subject_alt_names {
        match (&asked, role) {
            (SanType::URI(uri), _) if uri.as_str() == identity => {}
            (SanType::DnsName(_) | SanType::IpAddress(_), Role::Coordinator) => hosts.push(asked),
            _ => return more(format!("the name {}", describe(&asked))),
        }
    }
    if hosts.len() > HOSTS_MAX {
        return more(format!("{} host names, limit {HOSTS_MAX}", hosts.len()));
    }
    Ok(Request { role, name, identity, key, fingerprint: key_fingerprint(&key), hosts })
}

impl Request {
    /// The hosts under which a coordinator will be dialled, as text.
    pub fn hosts(&self) -> Vec<String> {
        self.hosts.iter().map(describe).collect()
    }
}

fn describe(name: &SanType) -> String {
    match name {
        SanType::Rfc822Name(text) | SanType::DnsName(text) | SanType::URI(text) => text.as_str().to_owned(),
        SanType::IpAddress(address) => address.to_string(),
        _ => "of another kind".to_owned(),
    }
}

/// The public key of a certificate to be.
struct SubjectKey(VerifyingKey);

impl PublicKeyData for SubjectKey {
    fn der_bytes(&self) -> &[u8] {
        &self.0.0
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_ED25519
    }
}

fn read_index(path: &Path) -> Result<Index, AuthorityError> {
    let damaged = |why: String| AuthorityError::Index { path: path.to_owned(), why };
    let index: Index =
        serde_json::from_slice(&read_limited(path, INDEX_LEN_MAX)?).map_err(|error| damaged(error.to_string()))?;
    if index.version != INDEX_VERSION {
        return Err(damaged(format!("version {}, expected {INDEX_VERSION}", index.version)));
    }
    Ok(index)
}

fn lock(folder: &Path) -> Result<File, AuthorityError> {
    let path = folder.join(LOCK_FILE);
    let lock = || -> std::io::Result<File> {
        let file = File::options().create(true).truncate(false).write(true).open(&path)?;
        file.lock()?;
        Ok(file)
    };
    Ok(lock().map_err(|source| FileError::new("lock", &path, source))?)
}

fn common_name(name: &str) -> DistinguishedName {
    let mut distinguished_name = DistinguishedName::new();
    distinguished_name.push(DnType::CommonName, name);
    distinguished_name
}

fn uri(uri: &str) -> Result<SanType, AuthorityError> {
    Ok(SanType::URI(uri.try_into()?))
}

/// A serial number of 127 random bits: positive, and never the same twice (RFC 5280, section 4.1.2.2).
fn serial(entropy: &mut dyn Entropy) -> SerialNumber {
    let mut bytes = [0; 16];
    entropy.fill(&mut bytes);
    // The highest bit would make it negative; the next one keeps its length, so that its text is as long.
    bytes[0] = (bytes[0] & 0x7f) | 0x40;
    SerialNumber::from_slice(&bytes)
}

fn before(now: Timestamp) -> Timestamp {
    let backdate_ms = u64::try_from(BACKDATE.as_millis()).unwrap_or(0);
    Timestamp::from_unix_ms(now.unix_ms().saturating_sub(backdate_ms))
}

/// Certificates know no fractions of a second.
fn whole_second(at: Timestamp) -> Timestamp {
    Timestamp::from_unix_ms(at.unix_ms() / 1000 * 1000)
}

fn moment(at: Timestamp) -> OffsetDateTime {
    // The years that a certificate can name end with 9999; so does a clock that is out of its mind.
    let seconds = i64::try_from(at.unix_ms() / 1000).unwrap_or(i64::MAX);
    OffsetDateTime::from_unix_timestamp(seconds).unwrap_or_else(|_| rcgen::date_time_ymd(9999, 12, 31))
}

fn hex_of(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn bytes_of_hex(text: &str, folder: &Path) -> Result<Vec<u8>, AuthorityError> {
    let digits = |pair: &[u8]| std::str::from_utf8(pair).ok().and_then(|pair| u8::from_str_radix(pair, 16).ok());
    let bytes: Option<Vec<u8>> = text.as_bytes().chunks(2).map(digits).collect();
    bytes.filter(|bytes| text.len().is_multiple_of(2) && (1..=20).contains(&bytes.len())).ok_or_else(|| {
        AuthorityError::Index { path: folder.join(INDEX_FILE), why: format!("{text:?} is not a serial number") }
    })
}

mod as_text {
    //! Keys and digests as the hexadecimal text that people compare.

    use std::{fmt::Display, str::FromStr};

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<T: Display, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    pub(super) fn deserialize<'de, T, D>(deserializer: D) -> Result<T, D::Error>
    where
        T: FromStr<Err: Display>,
        D: Deserializer<'de>,
    {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}
