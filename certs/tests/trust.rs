//! Which certificates are believed, and which requests.

use std::{path::Path, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType,
};
use rustls_pki_types::{CertificateDer, pem::PemObject};

use eranos_base::{Clock, OsEntropy, SigningKey, SystemClock, Timestamp, TrustDomain};
use eranos_certs::{
    Approval, Authority, AuthorityError, Party, Role, TrustAnchor, TrustError,
    authority::{RequestError, review},
    party,
    trust::{AnchorError, validity},
};

pub(crate) fn pem(label: &str, der: &[u8]) -> String {
    let encoded = STANDARD.encode(der);
    let lines: Vec<&str> =
        encoded.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).expect("ASCII")).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

fn domain() -> TrustDomain {
    "hospitals.example".parse().expect("a trust domain")
}

fn now() -> Timestamp {
    SystemClock.now()
}

struct Desk {
    folder: tempfile::TempDir,
    authority: Authority,
}

impl Desk {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let authority = Authority::init(&folder.path().join("ca"), domain(), now(), &mut OsEntropy).expect("made");
        Self { folder, authority }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn enrol(&mut self, name: &str, role: Role, at: Timestamp) -> CertificateDer<'static> {
        let hosts: &[String] = if role == Role::Coordinator { &["localhost".to_owned()] } else { &[] };
        let folder = self.path().join(name);
        let requested = party::request(&folder, role, name, hosts, folder.exists(), &mut OsEntropy).expect("requested");
        let text = std::fs::read(requested.request).expect("a request");
        let request = self.authority.review(&text).expect("in order");
        assert_eq!(request.fingerprint, requested.fingerprint);
        self.authority.approve(&request, Approval::default(), at, &mut OsEntropy).expect("approved")
    }

    fn anchor(&self) -> TrustAnchor {
        party::load_anchor(&self.path().join("ca")).expect("usable")
    }

    /// A certificate of this authority that the authority itself would never issue.
    fn issue(&self, edit: impl FnOnce(&mut CertificateParams)) -> CertificateDer<'static> {
        let key = std::fs::read_to_string(self.path().join("ca/ca.key")).expect("the authority's key");
        let key = KeyPair::from_pkcs8_pem_and_sign_algo(&key, &rcgen::PKCS_ED25519).expect("usable");
        let issuer = Issuer::from_ca_cert_der(self.authority.certificate(), key).expect("usable");
        let mut params = client_params();
        edit(&mut params);
        params.signed_by(&ed25519(), &issuer).expect("signed").into()
    }
}

fn ed25519() -> KeyPair {
    KeyPair::generate_for(&rcgen::PKCS_ED25519).expect("a key")
}

fn uri(uri: &str) -> SanType {
    SanType::URI(uri.try_into().expect("ASCII"))
}

fn client_params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![uri("spiffe://hospitals.example/client/silo-1")];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    params.is_ca = IsCa::ExplicitNoCa;
    params
}

#[test]
fn a_client_is_believed_and_its_key_is_the_one_it_made() {
    let mut desk = Desk::new();
    let certificate = desk.enrol("silo-1", Role::Client, now());
    let identity = desk.anchor().verify_client(&certificate, now()).expect("believed");
    assert_eq!(identity.id.as_str(), "spiffe://hospitals.example/client/silo-1");
    assert_eq!(identity.fingerprint, eranos_base::Digest::of(&certificate));
    let key = party::load_key(&desk.path().join("silo-1/key.pem")).expect("a key");
    assert_eq!(identity.key, key.verifying_key());
    // An edited copy of this certificate is believed only if nothing was edited.
    let plain = desk.issue(|_| {});
    assert!(desk.anchor().verify_client(&plain, now()).is_ok());
}

#[test]
fn every_reason_to_doubt_a_certificate_is_told_apart() {
    let mut desk = Desk::new();
    let certificate = desk.enrol("silo-1", Role::Client, now());
    let coordinator = desk.enrol("main", Role::Coordinator, now());
    let anchor = desk.anchor();
    let (not_before, not_after) = validity(&certificate).expect("a certificate");
    let late = not_after + Duration::from_secs(1);
    assert_eq!(anchor.verify_client(&certificate, late), Err(TrustError::Expired { not_after }));
    let early = Timestamp::from_unix_ms(not_before.unix_ms() - 1000);
    assert_eq!(anchor.verify_client(&certificate, early), Err(TrustError::NotYetValid { not_before }));
    assert_eq!(anchor.verify_client(&coordinator, now()), Err(TrustError::NotForClients));
    assert_eq!(anchor.verify_client(desk.authority.certificate(), now()), Err(TrustError::NotForClients));

    let mut other = Desk::new();
    let foreign = other.enrol("silo-1", Role::Client, now());
    assert_eq!(anchor.verify_client(&foreign, now()), Err(TrustError::ForeignAuthority));

    desk.authority.revoke("silo-1", now()).expect("revoked");
    let anchor = desk.anchor();
    assert_eq!(anchor.verify_client(&certificate, now()), Err(TrustError::Revoked));
    let renewed = desk.issue(|params| params.subject_alt_names = vec![uri("spiffe://hospitals.example/client/silo-2")]);
    assert!(anchor.verify_client(&renewed, now()).is_ok(), "revocation is of certificates, not of everyone");
}

#[test]
fn a_certificate_names_exactly_one_client_of_the_trust_domain() {
    let desk = Desk::new();
    let anchor = desk.anchor();
    let check = |names: &[SanType], expected: TrustError| {
        let certificate = desk.issue(|params| params.subject_alt_names = names.to_vec());
        assert_eq!(anchor.verify_client(&certificate, now()), Err(expected));
    };
    let (one, two) = (uri("spiffe://hospitals.example/client/a"), uri("spiffe://hospitals.example/client/b"));
    let dns = SanType::DnsName("localhost".try_into().expect("ASCII"));
    check(&[one.clone(), two], TrustError::NotOneIdentity { n_names: 2, n_uris: 2 });
    check(&[one.clone(), dns.clone()], TrustError::NotOneIdentity { n_names: 2, n_uris: 1 });
    check(&[dns], TrustError::NotOneIdentity { n_names: 1, n_uris: 0 });
    check(&[], TrustError::NotOneIdentity { n_names: 0, n_uris: 0 });
    for found in
        ["spiffe://elsewhere.example/client/a", "spiffe://hospitals.example/coordinator/a", "https://x/client/a"]
    {
        check(&[uri(found)], TrustError::NotAClient { found: found.to_owned(), trust_domain: domain() });
    }
}

#[test]
fn only_ed25519_keys_in_canonical_encoding_are_believed() {
    let desk = Desk::new();
    let key = std::fs::read_to_string(desk.path().join("ca/ca.key")).expect("the authority's key");
    let key = KeyPair::from_pkcs8_pem_and_sign_algo(&key, &rcgen::PKCS_ED25519).expect("usable");
    let issuer = Issuer::from_ca_cert_der(desk.authority.certificate(), key).expect("usable");
    let ecdsa = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).expect("a key");
    let certificate = client_params().signed_by(&ecdsa, &issuer).expect("signed");
    assert_eq!(desk.anchor().verify_client(certificate.der(), now()), Err(TrustError::Key));

    struct Weak([u8; 32]);
    impl rcgen::PublicKeyData for Weak {
        fn der_bytes(&self) -> &[u8] {
            &self.0
        }
        fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
            &rcgen::PKCS_ED25519
        }
    }
    let mut identity_point = [0; 32];
    identity_point[0] = 1;
    let certificate = client_params().signed_by(&Weak(identity_point), &issuer).expect("signed");
    assert_eq!(desk.anchor().verify_client(certificate.der(), now()), Err(TrustError::Key));
}

#[test]
fn damaged_certificates_never_panic_and_are_never_believed() {
    let mut desk = Desk::new();
    let certificate = desk.enrol("silo-1", Role::Client, now());
    let anchor = desk.anchor();
    for len in 0..certificate.len() {
        assert!(anchor.verify_client(&certificate[..len], now()).is_err(), "cut to {len}");
        for bit in 0..8 {
            let mut damaged = certificate.to_vec();
            damaged[len] ^= 1 << bit;
            assert!(anchor.verify_client(&damaged, now()).is_err(), "bit {bit} of byte {len}");
            let _ = validity(&damaged);
        }
    }
    let longer = [certificate.as_ref(), &[0]].concat();
    assert_eq!(anchor.verify_client(&longer, now()), Err(TrustError::Malformed));
    let huge = vec![0x30; 9 << 10];
    assert_eq!(anchor.verify_client(&huge, now()), Err(TrustError::TooLong { len: 9 << 10 }));
}

#[test]
fn a_revocation_list_of_another_authority_is_not_taken() {
    let (desk, other) = (Desk::new(), Desk::new());
    let authority = desk.authority.certificate_pem();
    let list = other.authority.revocation_list_pem().expect("a list");
    let error = TrustAnchor::from_pem(authority.as_bytes(), &list).expect_err("a foreign list");
    assert_eq!(error, AnchorError::ForeignRevocationList);
    let error = TrustAnchor::from_pem(authority.as_bytes(), b"nothing").expect_err("no list");
    let missing = AnchorError::NoRevocationList { authority: eranos_base::Digest::of(desk.authority.certificate()) };
    assert_eq!(error, missing);
    // Two authorities need a list each, and there are never three.
    let both = format!("{authority}{}", other.authority.certificate_pem());
    let own = desk.authority.revocation_list_pem().expect("a list");
    let error = TrustAnchor::from_pem(both.as_bytes(), &own).expect_err("one list");
    assert!(matches!(error, AnchorError::NoRevocationList { .. }), "{error}");
    assert!(TrustAnchor::from_pem(both.as_bytes(), &[own.clone(), list.clone()].concat()).is_ok());
    let error = TrustAnchor::from_pem(both.repeat(2).as_bytes(), &own).expect_err("too many");
    assert_eq!(error, AnchorError::Certificate { found: 3 });
    let error = TrustAnchor::from_pem(authority.repeat(2).as_bytes(), &own).expect_err("one twice");
    assert!(matches!(error, AnchorError::NotAnAuthority { .. }), "{error}");
    let mut desk = desk;
    let client = desk.enrol("silo-1", Role::Client, now());
    let error = TrustAnchor::from_der(vec![client], Vec::new()).expect_err("a client's certificate");
    assert!(matches!(error, AnchorError::NotAnAuthority { .. }));
    // One damaged byte of its signature, and the list forgives nobody.
    let list = CertificateListDer::from_pem_slice(&desk.authority.revocation_list_pem().expect("a list")).expect("PEM");
    let mut damaged = list.to_vec();
    *damaged.last_mut().expect("not empty") ^= 1;
    let damaged = pem("X509 CRL", &damaged);
    let error = TrustAnchor::from_pem(authority.as_bytes(), damaged.as_bytes()).expect_err("a forged list");
    assert_eq!(error, AnchorError::ForeignRevocationList);
}

type CertificateListDer = rustls_pki_types::CertificateRevocationListDer<'static>;

#[test]
fn an_authority_remembers_across_processes_and_notices_damage() {
    let mut desk = Desk::new();
    desk.enrol("silo-1", Role::Client, now());
    let Desk { folder, authority } = desk;
    drop(authority);
    let authority = Authority::open(&folder.path().join("ca")).expect("opened");
    assert_eq!(authority.enrolments().len(), 1);
    drop(authority);
    let other = Desk::new();
    std::fs::copy(other.path().join("ca/ca.key"), folder.path().join("ca/ca.key")).expect("copied");
    assert!(matches!(Authority::open(&folder.path().join("ca")), Err(AuthorityError::Own(_))));
}

#[test]
fn a_party_without_its_files_says_which() {
    let mut desk = Desk::new();
    let certificate = desk.enrol("silo-1", Role::Client, now());
    let folder = desk.path().join("silo-1");
    let error = Party::load(&folder).expect_err("no certificate yet").to_string();
    assert!(error.contains("silo-1/certificate.pem"), "{error}");
    std::fs::write(folder.join("certificate.pem"), pem("CERTIFICATE", &certificate)).expect("written");
    let error = Party::load(&folder).expect_err("no authority yet").to_string();
    assert!(error.contains("silo-1/ca.pem"), "{error}");
    std::fs::copy(desk.authority.certificate_file(), folder.join("ca.pem")).expect("copied");
    let error = Party::load(&folder).expect_err("no list yet").to_string();
    assert!(error.contains("silo-1/crl.pem"), "{error}");
    std::fs::copy(desk.authority.revocation_list_file(), folder.join("crl.pem")).expect("copied");
    let party = Party::load(&folder).expect("complete");
    assert_eq!(party.client_identity(now()).expect("believed").key, party.key.verifying_key());
    assert!(!format!("{party:?}").contains(&format!("{:?}", &party.key_pkcs8[16..20])), "no key in Debug");
}

#[test]
fn a_request_asks_for_one_name_in_one_role_and_nothing_else() {
    let check = |edit: &dyn Fn(&mut CertificateParams), expected: Option<RequestError>| {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "silo-1");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        edit(&mut params);
        let request = params.serialize_request(&ed25519()).expect("signed");
        let result = review(request.pem().expect("PEM").as_bytes(), &domain());
        match expected {
            None => assert_eq!(result.expect("in order").identity, "spiffe://hospitals.example/client/silo-1"),
            Some(expected) => assert_eq!(result.expect_err("too much"), expected),
        }
    };
    let more = |what: &str| Some(RequestError::AsksForMore { role: Role::Client, what: what.to_owned() });
    let dns = SanType::DnsName("localhost".try_into().expect("ASCII"));
    check(&|_| {}, None);
    check(&|params| params.subject_alt_names = vec![uri("spiffe://hospitals.example/client/silo-1")], None);
    check(&|params| params.subject_alt_names = vec![dns.clone()], more("the name localhost"));
    let other = "spiffe://hospitals.example/client/silo-2";
    check(&|params| params.subject_alt_names = vec![uri(other)], more(&format!("the name {other}")));
    let ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    check(&|params| params.is_ca = ca, more("the right to sign certificates"));
    check(&|params| params.key_usages = vec![KeyUsagePurpose::KeyCertSign], more("another use of its key"));
    let both = [ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
    check(&|params| params.extended_key_usages = both.to_vec(), Some(RequestError::Purpose));
    check(&|params| params.extended_key_usages = vec![], Some(RequestError::Purpose));
    check(&|params| params.distinguished_name.push(DnType::OrganizationName, "x"), Some(RequestError::Subject));
    check(&|params| params.distinguished_name = DistinguishedName::new(), Some(RequestError::Subject));

    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "silo-1");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let ecdsa = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).expect("a key");
    let request = params.serialize_request(&ecdsa).expect("signed").pem().expect("PEM");
    assert_eq!(review(request.as_bytes(), &domain()), Err(RequestError::Key));
    let request = params.serialize_request(&ed25519()).expect("signed").pem().expect("PEM");
    assert_eq!(review(request.repeat(2).as_bytes(), &domain()), Err(RequestError::NotARequest));
}

#[test]
fn old_certificates_stay_valid_no_longer_than_they_say() {
    let mut desk = Desk::new();
    let two_years_ago = Timestamp::from_unix_ms(now().unix_ms() - 2 * 365 * 24 * 60 * 60 * 1000);
    let expired = desk.enrol("silo-1", Role::Client, two_years_ago);
    assert!(matches!(desk.anchor().verify_client(&expired, now()), Err(TrustError::Expired { .. })));
    let tomorrow = desk.enrol("silo-2", Role::Client, now() + DAY);
    assert!(matches!(desk.anchor().verify_client(&tomorrow, now()), Err(TrustError::NotYetValid { .. })));
    assert_eq!(desk.authority.enrolments()[0].state(now()), "expired");
    // The key that signs for the protocol never shows.
    assert_eq!(format!("{:?}", SigningKey::generate(&mut OsEntropy)), "SigningKey(omitted)");
}
