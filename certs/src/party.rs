//! The folder of one party, a client or a coordinator: its key, made where it runs, the request it sends to the
//! authority, and what comes back.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
};

use rcgen::{CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, PublicKeyData, SanType};
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer, pem::PemObject};
use x509_parser::extensions::GeneralName;
use zeroize::Zeroizing;

use eranos_base::{ClientId, Digest, Entropy, SigningKey, Timestamp, VerifyingKey, limits::CERTIFICATE_LEN_MAX};

use crate::{
    files::{FileError, make_folder, pem, read_limited, rename, write_atomic, write_new_secret},
    trust::{AUTHORITIES_MAX, AnchorError, REVOCATION_LIST_LEN_MAX, TrustAnchor, TrustError},
};

/// The private key, in PKCS #8.
pub const KEY_FILE: &str = "key.pem";
/// The request.
pub const REQUEST_FILE: &str = "request.pem";
/// The certificate.
pub const CERTIFICATE_FILE: &str = "certificate.pem";
/// A new key, until its certificate is installed with it.
pub const NEXT_KEY_FILE: &str = "next-key.pem";
/// The request for a new key's certificate.
pub const NEXT_REQUEST_FILE: &str = "next-request.pem";
/// The certificate of a new key, until it is installed.
pub const NEXT_CERTIFICATE_FILE: &str = "next-certificate.pem";
/// The authority's certificate.
pub const AUTHORITY_FILE: &str = "ca.pem";
/// The authority's revocation list.
pub const REVOCATION_LIST_FILE: &str = "crl.pem";
/// Largest certificate, key or request that is read, in bytes of PEM.
pub const PEM_LEN_MAX: usize = 2 * CERTIFICATE_LEN_MAX;
/// Most host names and addresses in one coordinator's request.
pub const HOSTS_MAX: usize = 16;

/// What a certificate makes of its holder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Trains and sends masked updates.
    Client,
    /// Arranges rounds.
    Coordinator,
}

impl Role {
    /// The role's word in an identity.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Coordinator => "coordinator",
        }
    }
}

/// Why a party's folder could not be made or read.
#[derive(Debug, thiserror::Error)]
pub enum PartyError {
    /// A file could not be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The name is not one.
    #[error("{0}")]
    Name(#[from] eranos_base::ids::NameError),
    /// There is a key already.
    #[error("{} holds a key already", path.display())]
    KeyExists {
        /// The key's file.
        path: PathBuf,
    },
    /// A host is neither a DNS name nor an IP address.
    #[error("{host:?} is neither a DNS name nor an IP address")]
    Host {
        /// The host.
        host: String,
    },
    /// A coordinator's request without a host, or a client's with one, or too many.
    #[error("a {} cannot ask for {n_hosts} host names", role.as_str())]
    Hosts {
        /// The role.
        role: Role,
        /// How many were given.
        n_hosts: usize,
    },
    /// A file does not hold what its name says.
    #[error("{} holds no usable {what}", path.display())]
    Content {
        /// What it should hold.
        what: &'static str,
        /// The file.
        path: PathBuf,
    },
    /// Key and certificate belong to different parties.
    #[error("{} is not the certificate of {}", certificate.display(), key.display())]
    KeyMismatch {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
    },
    /// The authority's files cannot be used.
    #[error("{}: {source}", path.display())]
    Anchor {
        /// The authority's certificate.
        path: PathBuf,
        /// Why.
        source: AnchorError,
    },
    /// The certificate is not believed.
    #[error("{}: {source}", path.display())]
    Certificate {
        /// The certificate's file.
        path: PathBuf,
        /// Why.
        source: TrustError,
    },
    /// There is no new key with its certificate.
    #[error("{} holds no {NEXT_KEY_FILE} and {NEXT_CERTIFICATE_FILE}", folder.display())]
    NothingToInstall {
        /// The folder.
        folder: PathBuf,
    },
    /// The new certificate names somebody else.
    #[error("{} is the certificate of {found}, expected {expected}", path.display())]
    OtherIdentity {
        /// The new certificate's file.
        path: PathBuf,
        /// Whom it names.
        found: String,
        /// Whom the present one names.
        expected: String,
    },
    /// A revocation list is older than one that was in force before.
    #[error("{} is list number {found}, and number {seen} was in force before", path.display())]
    ListGoesBack {
        /// The list's file.
        path: PathBuf,
        /// Its number.
        found: u64,
        /// The highest number that was seen.
        seen: u64,
    },
    /// The authority's files are of another trust domain than before.
    #[error("{} is of the trust domain {found}, expected {expected}", path.display())]
    OtherDomain {
        /// The authority's certificate.
        path: PathBuf,
        /// Its trust domain.
        found: String,
        /// The trust domain so far.
        expected: String,
    },
    /// The certificate library refused.
    #[error("cannot encode the request: {0}")]
    Encoding(#[from] rcgen::Error),
}

/// A request that was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requested {
    /// Its file, to be sent to the authority's operator.
    pub request: PathBuf,
    /// The key's file, which stays.
    pub key: PathBuf,
    /// The key's fingerprint, to be read out to the operator over another channel.
    pub fingerprint: Digest,
}

/// Makes a key and a request in `folder`: the key never leaves it. With `reuse_key` the key that is there asks for a
/// new certificate. A coordinator names the `hosts` under which it will be dialled.
///
/// # Errors
/// If there is a key already, or none to reuse; if name or hosts are malformed; if a file cannot be written.
pub fn request(
    folder: &Path,
    role: Role,
    name: &str,
    hosts: &[String],
    reuse_key: bool,
    entropy: &mut dyn Entropy,
) -> Result<Requested, PartyError> {
    check_name(name)?;
    let hosts_fit = match role {
        Role::Client => hosts.is_empty(),
        Role::Coordinator => (1..=HOSTS_MAX).contains(&hosts.len()),
    };
    if !hosts_fit {
        return Err(PartyError::Hosts { role, n_hosts: hosts.len() });
    }
    make_folder(folder)?;
    let path = folder.join(KEY_FILE);
    let key = match (path.exists(), reuse_key) {
        (true, false) => return Err(PartyError::KeyExists { path }),
        (_, true) => load_key(&path)?,
        (false, false) => make_key(&path, entropy)?,
    };
    write_request(
        &folder.join(REQUEST_FILE),
        &path,
        &key,
        &Subject { role, name: name.to_owned(), hosts: hosts.to_vec() },
    )
}

/// Asks for a new certificate of the identity that the one in `folder` names: for the same key, or with `new_key` for a
/// key that is made here and used once [`install`] has put it in its place.
///
/// # Errors
/// If there is no certificate, it is nobody's, or a file cannot be written.
pub fn renew(folder: &Path, new_key: bool, entropy: &mut dyn Entropy) -> Result<Requested, PartyError> {
    let own = Own::load(folder)?;
    let path = folder.join(CERTIFICATE_FILE);
    let subject = subject(&own.certificate)
        .ok_or_else(|| PartyError::Content { what: "certificate of a party", path: path.clone() })?;
    if !new_key {
        return write_request(&folder.join(REQUEST_FILE), &folder.join(KEY_FILE), &own.key, &subject);
    }
    let path = folder.join(NEXT_KEY_FILE);
    // Asked for again, it is the same key: its request may be with the operator already.
    let key = if path.exists() { load_key(&path)? } else { make_key(&path, entropy)? };
    write_request(&folder.join(NEXT_REQUEST_FILE), &path, &key, &subject)
}

/// Puts a new key and its certificate in the place of the present ones. Cut off anywhere, it may be done again.
///
/// # Errors
/// If there is none, they do not belong together, or they are another identity's.
pub fn install(folder: &Path) -> Result<Own, PartyError> {
    let [key, certificate] = [NEXT_KEY_FILE, NEXT_CERTIFICATE_FILE].map(|name| folder.join(name));
    let [old_key, old_certificate] = [KEY_FILE, CERTIFICATE_FILE].map(|name| folder.join(name));
    if !certificate.exists() {
        return Err(PartyError::NothingToInstall { folder: folder.to_owned() });
    }
    // The key goes first: where it is gone, it is in its place already.
    let moved = if key.exists() { &key } else { &old_key };
    let own = Own::read(moved, &certificate)?;
    let [found, expected] = [&own.certificate, &load_certificate(&old_certificate)?].map(|der| uri_of(der));
    if found != expected || found.is_none() {
        let [found, expected] = [found, expected].map(|name| name.unwrap_or_else(|| "nobody".to_owned()));
        return Err(PartyError::OtherIdentity { path: certificate, found, expected });
    }
    if key.exists() {
        rename(&key, &old_key)?;
    }
    rename(&certificate, &old_certificate)?;
    Ok(own)
}

/// For whom a certificate is asked.
struct Subject {
    role: Role,
    name: String,
    hosts: Vec<String>,
}

fn make_key(path: &Path, entropy: &mut dyn Entropy) -> Result<SigningKey, PartyError> {
    let key = SigningKey::generate(entropy);
    write_new_secret(path, key_pem(&key).as_bytes())?;
    Ok(key)
}

fn write_request(file: &Path, key_file: &Path, key: &SigningKey, subject: &Subject) -> Result<Requested, PartyError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, subject.name.as_str());
    params.extended_key_usages = vec![match subject.role {
        Role::Client => ExtendedKeyUsagePurpose::ClientAuth,
        Role::Coordinator => ExtendedKeyUsagePurpose::ServerAuth,
    }];
    params.subject_alt_names = subject.hosts.iter().map(|host| host_name(host)).collect::<Result<_, _>>()?;
    let request = params.serialize_request(&Signer::new(key))?;
    write_atomic(file, pem("CERTIFICATE REQUEST", request.der()).as_bytes())?;
    let fingerprint = key_fingerprint(&key.verifying_key());
    Ok(Requested { request: file.to_owned(), key: key_file.to_owned(), fingerprint })
}

/// Whom a certificate names, to ask for another one: its holder knows that it is its own.
fn subject(certificate: &[u8]) -> Option<Subject> {
    let identity = uri_of(certificate)?;
    let (_, of_role) = identity.strip_prefix("spiffe://")?.split_once('/')?;
    let (role, name) = of_role.split_once('/')?;
    let role = [Role::Client, Role::Coordinator].into_iter().find(|known| known.as_str() == role)?;
    let parsed = crate::trust::parse(certificate).ok()?;
    let host = |name: GeneralName<'_>| match name {
        GeneralName::DNSName(name) => Some(name.to_owned()),
        GeneralName::IPAddress(bytes) => match bytes.len() {
            4 => Some(IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?).to_string()),
            _ => Some(IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?).to_string()),
        },
        _ => None,
    };
    let hosts = crate::trust::names(&parsed).ok()?.into_iter().filter_map(host).collect();
    Some(Subject { role, name: name.to_owned(), hosts })
}

/// The identity that a certificate names, believed or not.
pub fn uri_of(certificate: &[u8]) -> Option<String> {
    let parsed = crate::trust::parse(certificate).ok()?;
    crate::trust::names(&parsed).ok()?.into_iter().find_map(|name| match name {
        GeneralName::URI(uri) => Some(uri.to_owned()),
        _ => None,
    })
}

/// What a party shows and signs with.
#[derive(Debug)]
pub struct Own {
    /// The certificate.
    pub certificate: CertificateDer<'static>,
    /// The key, in PKCS #8 (DER), as TLS takes it.
    pub key_pkcs8: Zeroizing<Vec<u8>>,
    /// The same key, as the protocol signs with it.
    pub key: SigningKey,
}

impl Own {
    /// Reads key and certificate from `folder`.
    ///
    /// # Errors
    /// If a file is missing or does not hold what it should, or certificate and key do not belong together.
    pub fn load(folder: &Path) -> Result<Self, PartyError> {
        Self::read(&folder.join(KEY_FILE), &folder.join(CERTIFICATE_FILE))
    }

    fn read(key_path: &Path, path: &Path) -> Result<Self, PartyError> {
        let key = load_key(key_path)?;
        let certificate = load_certificate(path)?;
        if key_of_certificate(&certificate) != Some(key.verifying_key()) {
            return Err(PartyError::KeyMismatch { certificate: path.to_owned(), key: key_path.to_owned() });
        }
        Ok(Self { certificate, key_pkcs8: pkcs8(&key), key })
    }
}

fn load_certificate(path: &Path) -> Result<CertificateDer<'static>, PartyError> {
    CertificateDer::from_pem_slice(&read_limited(path, PEM_LEN_MAX)?)
        .map_err(|_| PartyError::Content { what: "certificate", path: path.to_owned() })
}

/// A party's folder after its request was approved.
#[derive(Debug)]
pub struct Party {
    /// The certificate.
    pub certificate: CertificateDer<'static>,
    /// The key, in PKCS #8 (DER), as TLS takes it.
    pub key_pkcs8: Zeroizing<Vec<u8>>,
    /// The same key, as the protocol signs with it.
    pub key: SigningKey,
    /// The authority and what it has revoked.
    pub anchor: TrustAnchor,
}

impl Party {
    /// Reads key, certificate, the authority's certificate and its revocation list from `folder`.
    ///
    /// # Errors
    /// If a file is missing or does not hold what it should, or certificate and key do not belong together.
    pub fn load(folder: &Path) -> Result<Self, PartyError> {
        let Own { certificate, key_pkcs8, key } = Own::load(folder)?;
        Ok(Self { certificate, key_pkcs8, key, anchor: load_anchor(folder)? })
    }

    /// The client's identity, as everybody else will read it from the certificate at the instant `now`.
    ///
    /// # Errors
    /// If nobody would believe the certificate.
    pub fn client_identity(&self, now: Timestamp) -> Result<crate::trust::ClientIdentity, TrustError> {
        self.anchor.verify_client(&self.certificate, now)
    }
}

/// Reads the authority's certificate and its revocation list from `folder`. Without a list nobody is believed.
///
/// # Errors
/// If either is missing or cannot be used.
pub fn load_anchor(folder: &Path) -> Result<TrustAnchor, PartyError> {
    let path = folder.join(AUTHORITY_FILE);
    let authority = read_limited(&path, AUTHORITIES_MAX * PEM_LEN_MAX)?;
    let list_path = folder.join(REVOCATION_LIST_FILE);
    let lists = read_limited(&list_path, REVOCATION_LIST_LEN_MAX)?;
    TrustAnchor::from_pem(&authority, &lists).map_err(|source| {
        let of_list = matches!(
            source,
            AnchorError::RevocationList | AnchorError::ForeignRevocationList | AnchorError::NoRevocationList { .. }
        );
        PartyError::Anchor { path: if of_list { list_path } else { path }, source }
    })
}

/// Reads an Ed25519 key from PEM.
///
/// # Errors
/// If the file cannot be read or holds no such key.
pub fn load_key(path: &Path) -> Result<SigningKey, PartyError> {
    let content = || PartyError::Content { what: "ed25519 private key", path: path.to_owned() };
    let text = Zeroizing::new(read_limited(path, PEM_LEN_MAX)?);
    let der = PrivatePkcs8KeyDer::from_pem_slice(&text).map_err(|_| content())?;
    let mut der = rustls_pki_types::PrivateKeyDer::Pkcs8(der);
    let key = SigningKey::from_pkcs8(der.secret_der());
    zeroize::Zeroize::zeroize(&mut der);
    key.map_err(|_| content())
}

/// SHA-256 of the key as a SubjectPublicKeyInfo: what `openssl pkey -pubout -outform DER | sha256sum` prints.
pub fn key_fingerprint(key: &VerifyingKey) -> Digest {
    Digest::of_parts(&[&SPKI_PREFIX, &key.0])
}

/// The key of a certificate, if it is a usable one.
pub(crate) fn key_of_certificate(certificate: &[u8]) -> Option<VerifyingKey> {
    let parsed = x509_parser::parse_x509_certificate(certificate).ok()?.1;
    crate::trust::key(&parsed)
}

pub(crate) fn key_pem(key: &SigningKey) -> Zeroizing<String> {
    pem("PRIVATE KEY", &pkcs8(key))
}

pub(crate) fn check_name(name: &str) -> Result<(), eranos_base::ids::NameError> {
    // Names are checked where identities are; the trust domain plays no part in it.
    ClientId::new(&"any".parse()?, name).map(|_| ())
}

pub(crate) fn host_name(host: &str) -> Result<SanType, PartyError> {
    let malformed = || PartyError::Host { host: host.to_owned() };
    match host.parse() {
        Ok(address) => Ok(SanType::IpAddress(address)),
        Err(_) => {
            rustls_pki_types::DnsName::try_from(host).map_err(|_| malformed())?;
            Ok(SanType::DnsName(host.try_into().map_err(|_| malformed())?))
        }
    }
}

/// Signs certificates, requests and revocation lists with a key of ours, so that no copy of it is made for rcgen.
pub(crate) struct Signer<'a> {
    key: &'a SigningKey,
    public: [u8; 32],
}

impl<'a> Signer<'a> {
    pub(crate) fn new(key: &'a SigningKey) -> Self {
        Self { key, public: key.verifying_key().0 }
    }
}

impl PublicKeyData for Signer<'_> {
    fn der_bytes(&self) -> &[u8] {
        &self.public
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_ED25519
    }
}

impl rcgen::SigningKey for Signer<'_> {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        Ok(self.key.sign(message).0.to_vec())
    }
}

/// PKCS #8, version 1 (RFC 8410, section 7): the form every tool reads.
fn pkcs8(key: &SigningKey) -> Zeroizing<Vec<u8>> {
    let mut der = Zeroizing::new(Vec::with_capacity(PKCS8_PREFIX.len() + 32));
    der.extend_from_slice(&PKCS8_PREFIX);
    der.extend_from_slice(&*key.seed());
    der
}

/// Everything of a PKCS #8 Ed25519 key before the seed.
const PKCS8_PREFIX: [u8; 16] = *b"\x30\x2e\x02\x01\x00\x30\x05\x06\x03\x2b\x65\x70\x04\x22\x04\x20";
/// Everything of an Ed25519 SubjectPublicKeyInfo before the key (RFC 8410, section 4).
const SPKI_PREFIX: [u8; 12] = *b"\x30\x2a\x30\x05\x06\x03\x2b\x65\x70\x03\x21\x00";
