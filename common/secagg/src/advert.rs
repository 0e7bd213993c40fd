//! advertise_keys: what a client shows of itself. Two fresh X25519 keys, a commitment to its seed, and its statement
//! key with the certification, all signed with its certificate key.

use std::{fmt, sync::Arc};

use eranos_base::{
    ClientId, Context, Digest, Entropy, Position, Signature, SigningKey, StatementKind, TaskId, TrustDomain,
    VerifyingKey,
    encoding::{Canonical, DecodeError},
    signing::SigningError,
    statement::statement_key_certification,
};
use zeroize::Zeroizing;

use crate::{
    AgreementKey, Member, Refusal, RosterEntry, SharedKeys, ShownRoster, Terms, VerifiedCertifications,
    agreement::{AgreementSecret, derive},
    reader::Reader,
    shamir::Secret,
};

/// The info string under which statement keys are derived, before the task.
const STATEMENT_KEY_INFO: &[u8] = b"eranos/statement-key/v1/derive";
/// The domain of the commitment to a seed.
const SEED_COMMITMENT_DOMAIN: &str = "eranos/secagg/v1/seed-commitment";

/// The Ed25519 key with which a client signs the consistency statements of one task, and nothing else. Its public half
/// is the client's pseudonym in the public log.
pub struct StatementKey(SigningKey);

impl StatementKey {
    /// The key of `task`: HKDF-SHA256 from the secret made at enrolment, so that a client restored from it finds its
    /// own entries in the log again.
    pub fn derive(client_secret: &[u8; 32], task: &TaskId) -> Self {
        Self(SigningKey::from_seed(&derive(client_secret, &[], &[STATEMENT_KEY_INFO, task.as_str().as_bytes()])))
    }

    /// The public half.
    pub fn verifying_key(&self) -> VerifyingKey {
        self.0.verifying_key()
    }

    /// The certificate key's signature over this key for `task` of `trust_domain`.
    pub fn certify(&self, trust_domain: &TrustDomain, task: &TaskId, certificate_key: &SigningKey) -> Signature {
        certificate_key.sign(&statement_key_certification(trust_domain, task, &self.verifying_key()))
    }

    pub(crate) fn sign(&self, statement: &[u8]) -> Signature {
        self.0.sign(statement)
    }
}

impl fmt::Debug for StatementKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StatementKey(omitted)")
    }
}

/// Verifies that `certificate_key` certified `statement_key` for `task` of `trust_domain`.
///
/// # Errors
/// If the signature does not verify, or the statement key is not canonical or of small order.
pub fn verify_certification(
    trust_domain: &TrustDomain,
    task: &TaskId,
    statement_key: &VerifyingKey,
    certificate_key: &VerifyingKey,
    certification: &Signature,
) -> Result<(), SigningError> {
    statement_key.check()?;
    certificate_key.verify(&statement_key_certification(trust_domain, task, statement_key), certification)
}

/// Who a client is in one task: it outlives rounds.
#[derive(Debug)]
pub struct Identity {
    /// The identity in the certificate.
    pub id: ClientId,
    /// SHA-256 of the certificate's DER.
    pub certificate: Digest,
    /// The certificate's private key.
    pub certificate_key: SigningKey,
    /// The statement key of the task.
    pub statement_key: StatementKey,
    /// What it has verified of others in this task.
    pub verified: VerifiedCertifications,
}

impl Identity {
    /// The signature of the certificate key over a statement.
    pub(crate) fn sign(&self, context: Context, kind: StatementKind, position: Position, body: &[u8]) -> Signature {
        self.certificate_key.sign(&context.statement(kind, position, body))
    }

    /// The statement key's signature over this identity, for this round: a certification shows that a certificate's holder
    /// claims a key, not that it has it. For the coordinator, which admits nobody under a key that is another's; it stays
    /// out of the roster, where every member would pay for it.
    pub fn possession(&self, terms: &Terms) -> Signature {
        self.statement_key.sign(&possession_statement(terms, &self.id))
    }
}

/// Verifies that whoever holds `statement_key` is `id` in this round.
///
/// # Errors
/// If the signature does not verify.
pub fn verify_possession(
    terms: &Terms,
    id: &ClientId,
    statement_key: &VerifyingKey,
    possession: &Signature,
) -> Result<(), SigningError> {
    statement_key.verify(&possession_statement(terms, id), possession)
}

fn possession_statement(terms: &Terms, id: &ClientId) -> Vec<u8> {
    terms.context().statement(StatementKind::Possession, Position::NONE, id.as_str().as_bytes())
}

/// A client's advert of one round.
///
/// Bytes (272): c_pk (32), s_pk (32), seed commitment (32), statement key (32), certification (64), nonce (16), and
/// the signature (64) of the certificate key over all before it as the body of an [`StatementKind::Advert`], in a
/// context without roster and at position 0xFFFF.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advert {
    /// The public key under which shares are sealed.
    pub c_pk: AgreementKey,
    /// The public key from which pairwise masks come.
    pub s_pk: AgreementKey,
    /// SHA-256 of the seed of the self mask, under a domain of its own.
    pub seed_commitment: Digest,
    /// The key of this client's consistency statements.
    pub statement_key: VerifyingKey,
    /// The certificate key's signature over the statement key.
    pub certification: Signature,
    /// Random bytes: no two adverts are the same.
    pub nonce: [u8; 16],
    /// The signature of the certificate key over all of the above.
    pub signature: Signature,
}

impl Advert {
    /// The length of an advert in bytes.
    pub const LEN: usize = Self::BODY_LEN + 64;
    const BODY_LEN: usize = 4 * 32 + 64 + 16;

    /// The advert's bytes.
    pub fn to_bytes(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        let (body, signature) = bytes.split_at_mut(Self::BODY_LEN);
        body.copy_from_slice(&self.body());
        signature.copy_from_slice(&self.signature.0);
        bytes
    }

    /// Reads an advert.
    ///
    /// # Errors
    /// If the length is another, or an agreement key is not canonical or of small order.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new("advert", bytes);
        let advert = Self {
            c_pk: AgreementKey::from_bytes(reader.array()?).map_err(|_| reader.malformed())?,
            s_pk: AgreementKey::from_bytes(reader.array()?).map_err(|_| reader.malformed())?,
            seed_commitment: reader.digest()?,
            statement_key: VerifyingKey(reader.array()?),
            certification: reader.signature()?,
            nonce: reader.array()?,
            signature: reader.signature()?,
        };
        reader.finish()?;
        Ok(advert)
    }

    /// Verifies the signature and the certification by the certificate's public key.
    pub(crate) fn verify(&self, terms: &Terms, certificate_key: &VerifyingKey) -> Result<(), AdvertError> {
        certificate_key.verify(&self.statement(terms), &self.signature).map_err(|_| AdvertError::Signature)?;
        verify_certification(
            &terms.trust_domain,
            &terms.task,
            &self.statement_key,
            certificate_key,
            &self.certification,
        )
        .map_err(|_| AdvertError::Certification)
    }

    /// What the certificate's key signed.
    pub(crate) fn statement(&self, terms: &Terms) -> Vec<u8> {
        terms.context().statement(StatementKind::Advert, Position::NONE, &self.body())
    }

    fn body(&self) -> Vec<u8> {
        [
            self.c_pk.as_bytes(),
            self.s_pk.as_bytes(),
            self.seed_commitment.as_bytes(),
            &self.statement_key.0,
            &self.certification.0[..],
            &self.nonce,
        ]
        .concat()
    }
}

/// What is wrong with an advert.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AdvertError {
    /// It is not signed by its certificate's key, for this session, round and plan.
    #[error("advert is not signed for this round by its certificate's key")]
    Signature,
    /// Its statement key is weak, or not certified by its certificate's key for this task.
    #[error("statement key is not certified for this task by the certificate's key")]
    Certification,
}

/// The secrets of one round: two X25519 keys and the seed of the self mask. Fresh for each attempt, wiped when dropped.
pub struct RoundSecrets {
    pub(crate) c: AgreementSecret,
    pub(crate) s: AgreementSecret,
    pub(crate) seed: Secret,
}

impl RoundSecrets {
    /// Fresh secrets.
    pub fn generate(entropy: &mut dyn Entropy) -> Self {
        let mut draw = || {
            let mut bytes = Zeroizing::new([0; 32]);
            entropy.fill(&mut *bytes);
            bytes
        };
        let (c, s) = (AgreementSecret::from_bytes(&draw()), AgreementSecret::from_bytes(&draw()));
        Self { c, s, seed: draw() }
    }
}

impl fmt::Debug for RoundSecrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RoundSecrets(omitted)")
    }
}

/// H(b): the commitment to the seed of a self mask.
pub(crate) fn seed_commitment(seed: &Secret) -> Digest {
    // The encoding of a secret is a copy of it: wiped too.
    Digest::of(&Zeroizing::new(Canonical::new(SEED_COMMITMENT_DOMAIN).field(&**seed).finish()))
}

/// The client that has advertised its keys and waits for the roster.
#[derive(Debug)]
pub struct Advertised {
    pub(crate) terms: Arc<Terms>,
    pub(crate) identity: Arc<Identity>,
    pub(crate) secrets: RoundSecrets,
    pub(crate) advert: Advert,
}

impl Advertised {
    /// Begins a round. The caller has made "begun" durable: once per session and round, ever.
    pub fn begin(terms: Arc<Terms>, identity: Arc<Identity>, entropy: &mut dyn Entropy) -> Self {
        let secrets = RoundSecrets::generate(entropy);
        let mut nonce = [0; 16];
        entropy.fill(&mut nonce);
        let certificate_key = &identity.certificate_key;
        let mut advert = Advert {
            c_pk: secrets.c.public(),
            s_pk: secrets.s.public(),
            seed_commitment: seed_commitment(&secrets.seed),
            statement_key: identity.statement_key.verifying_key(),
            certification: identity.statement_key.certify(&terms.trust_domain, &terms.task, certificate_key),
            nonce,
            signature: Signature([0; 64]),
        };
        advert.signature = identity.sign(terms.context(), StatementKind::Advert, Position::NONE, &advert.body());
        Self { terms, identity, secrets, advert }
    }

    /// The advert; a resend is byte-identical.
    pub fn advert(&self) -> &Advert {
        &self.advert
    }

    /// This client's entry as it must stand in the roster.
    pub fn entry(&self) -> RosterEntry {
        RosterEntry {
            id: self.identity.id.clone(),
            certificate: self.identity.certificate,
            key: self.identity.certificate_key.verifying_key(),
            advert: self.advert.clone(),
        }
    }

    /// Takes the roster and seals a share of each secret to every member with whom this client shares keys. `members` are
    /// those that the roster names, in its order; the caller has checked the certificate of each (chain, validity,
    /// revocation, identity).
    ///
    /// # Errors
    /// If the roster is refused, does not contain this client's entry unchanged, or one of its keys leads to a zero
    /// shared secret. The secrets are wiped.
    pub fn share_keys(
        self,
        shown: ShownRoster,
        members: Vec<Member>,
        entropy: &mut dyn Entropy,
    ) -> Result<SharedKeys, Refusal> {
        SharedKeys::build(self, shown, members, entropy)
    }
}

#[cfg(test)]
mod tests {
    use eranos_base::SeededEntropy;

    use super::*;

    #[test]
    fn a_statement_key_is_the_same_after_a_restore_and_another_for_each_task() {
        let task = |name: &str| name.parse::<TaskId>().expect("name");
        let key = |secret, name| StatementKey::derive(&[secret; 32], &task(name)).verifying_key();
        assert_eq!(key(1, "mnist"), key(1, "mnist"));
        assert_ne!(key(1, "mnist"), key(1, "ecg"));
        assert_ne!(key(1, "mnist"), key(2, "mnist"));
    }

    #[test]
    fn a_certification_binds_domain_task_and_keys() {
        let (task, other_task): (TaskId, TaskId) = ("mnist".parse().expect("name"), "ecg".parse().expect("name"));
        let (domain, other_domain): (TrustDomain, TrustDomain) =
            ("a.org".parse().expect("name"), "b.org".parse().expect("name"));
        let certificate_key = SigningKey::from_seed(&[1; 32]);
        let statement_key = StatementKey::derive(&[2; 32], &task);
        let certification = statement_key.certify(&domain, &task, &certificate_key);
        let (public, by) = (statement_key.verifying_key(), certificate_key.verifying_key());
        assert_eq!(verify_certification(&domain, &task, &public, &by, &certification), Ok(()));
        assert!(verify_certification(&other_domain, &task, &public, &by, &certification).is_err());
        assert!(verify_certification(&domain, &other_task, &public, &by, &certification).is_err());
        assert!(verify_certification(&domain, &task, &by, &by, &certification).is_err());
        assert!(verify_certification(&domain, &task, &public, &public, &certification).is_err());
    }

    #[test]
    fn secrets_print_nothing() {
        let secrets = RoundSecrets::generate(&mut SeededEntropy::new(1));
        assert_eq!(format!("{secrets:?}"), "RoundSecrets(omitted)");
        let key = StatementKey::derive(&[2; 32], &"mnist".parse().expect("name"));
        assert_eq!(format!("{key:?}"), "StatementKey(omitted)");
    }
}
