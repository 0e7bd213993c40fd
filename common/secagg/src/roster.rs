//! The roster of a round and its digest R1. The coordinator assembles it from the adverts it took; every client
//! assembles it again from what it was sent, with the same checks.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use eranos_base::{
    ClientId, Context, Digest, Position, Signature, StatementKind, VerifyingKey,
    encoding::{Canonical, DecodeError},
    signing::{CheckedKey, first_unverified_under},
    statement::statement_key_certification,
};

use crate::{
    Advert, AgreementKey, Graph, GraphKind, PositionSet, Refusal, Terms, ThresholdError, Thresholds,
    advert::AdvertError, merkle, reader::Reader, thresholds::ROSTER_LEN_MAX,
};

/// One client of a roster.
///
/// Bytes, in the canonical encoding under "eranos/secagg/v1/roster-entry": identity, SHA-256 of the certificate,
/// advert. They are hashed into R1; what travels is an [`UnidentifiedEntry`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RosterEntry {
    /// The identity in the certificate.
    pub id: ClientId,
    /// SHA-256 of the certificate's DER.
    pub certificate: Digest,
    /// The certificate's public key, from a certificate that the caller has checked.
    pub key: VerifyingKey,
    /// The client's advert.
    pub advert: Advert,
}

impl RosterEntry {
    /// The entry's bytes: a leaf of the tree in R1.
    pub fn to_bytes(&self) -> Vec<u8> {
        Canonical::new(ENTRY_DOMAIN)
            .text(self.id.as_str())
            .digest(&self.certificate)
            .field(&self.advert.to_bytes())
            .finish()
    }

    /// What of the entry is the same in every round of the task.
    pub fn credential(&self) -> Credential {
        let Advert { statement_key, certification, .. } = self.advert;
        Credential { certificate: self.certificate, statement_key, certification }
    }

    /// Verifies that the entry's advert is signed for these terms, its statement key certified, and its identity one
    /// of the trust domain. The coordinator does so as an advert arrives.
    ///
    /// # Errors
    /// Which of it does not hold.
    pub fn verify(&self, terms: &Terms) -> Result<(), EntryError> {
        self.check(terms)?;
        Ok(self.advert.verify(terms, &self.key)?)
    }

    /// Verifies all of it but the signatures, and gives both keys.
    fn check(&self, terms: &Terms) -> Result<MemberKeys, EntryError> {
        if self.id.trust_domain() != terms.trust_domain.as_str() {
            return Err(EntryError::TrustDomain);
        }
        let certificate = self.key.checked().map_err(|_| EntryError::CertificateKey)?;
        let statement = self.advert.statement_key.checked().map_err(|_| AdvertError::Certification)?;
        Ok(MemberKeys { certificate, statement })
    }

    /// The certified statement key: what the certificate's key signed.
    fn certified(&self, terms: &Terms) -> Vec<u8> {
        statement_key_certification(&terms.trust_domain, &terms.task, &self.advert.statement_key)
    }

    /// SHA-256 over everything that [`RosterEntry::check`] and the certification's verification look at.
    fn certification_digest(&self, terms: &Terms) -> Digest {
        let certified = Canonical::new(CERTIFICATION_DOMAIN).text(self.id.trust_domain()).field(&self.certified(terms));
        Digest::of(&certified.field(&self.key.0).field(&self.advert.certification.0).finish())
    }
}

/// The keys of a member, of which one certified the other.
#[derive(Clone, Debug)]
pub(crate) struct MemberKeys {
    pub(crate) certificate: CheckedKey,
    pub(crate) statement: CheckedKey,
}

/// Certifications of statement keys that were verified. They are the same in every round of a task, and are verified in
/// the first one. What is not there is verified again: nothing but time depends on it.
///
/// It holds the last roster's, and of those before what [`CERTIFICATIONS_MAX`] leaves room for.
#[derive(Debug, Default)]
pub struct VerifiedCertifications(Mutex<BTreeMap<Digest, Arc<MemberKeys>>>);

impl VerifiedCertifications {
    fn find(&self, certification: &Digest) -> Option<Arc<MemberKeys>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(certification).cloned()
    }

    fn keep(&self, verified: impl Iterator<Item = (Digest, Arc<MemberKeys>)>) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.extend(verified);
        // Which of the older ones go matters to nobody: they are verified again if they come back.
        let excess = kept.len().saturating_sub(CERTIFICATIONS_MAX);
        for digest in kept.keys().take(excess).copied().collect::<Vec<_>>() {
            kept.remove(&digest);
        }
    }
}

/// What of a client's entry is the same in every round of a task: a receiver fetches it once and keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Credential {
    /// SHA-256 of the certificate's DER.
    pub certificate: Digest,
    /// The key of the client's consistency statements.
    pub statement_key: VerifyingKey,
    /// The certificate key's signature over the statement key.
    pub certification: Signature,
}

impl Credential {
    /// SHA-256 over the canonical encoding of the three: by what a roster names it.
    pub fn digest(&self) -> Digest {
        let credential = Canonical::new(CREDENTIAL_DOMAIN).digest(&self.certificate);
        Digest::of(&credential.field(&self.statement_key.0).field(&self.certification.0).finish())
    }
}

/// A [`RosterEntry`] as it travels: of its credential the digest alone. The receiver looks the credential up, takes
/// identity and public key from the certificate that it has checked, and has the entry whole again, so that R1 binds all
/// of it.
///
/// Bytes (208): digest of the credential (32), c_pk (32), s_pk (32), seed commitment (32), nonce (16), signature (64).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnidentifiedEntry {
    /// The digest of the client's credential.
    pub credential: Digest,
    c_pk: AgreementKey,
    s_pk: AgreementKey,
    seed_commitment: Digest,
    nonce: [u8; 16],
    signature: Signature,
}

impl UnidentifiedEntry {
    /// The length of an entry in bytes.
    pub const LEN: usize = 4 * 32 + 16 + 64;

    /// The entry's bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        [
            self.credential.as_bytes(),
            self.c_pk.as_bytes(),
            self.s_pk.as_bytes(),
            self.seed_commitment.as_bytes(),
            &self.nonce[..],
            &self.signature.0,
        ]
        .concat()
    }

    /// Reads an entry.
    ///
    /// # Errors
    /// If the length is another, or an agreement key is not canonical or of small order.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new("roster entry", bytes);
        let entry = Self {
            credential: reader.digest()?,
            c_pk: AgreementKey::from_bytes(reader.array()?).map_err(|_| reader.malformed())?,
            s_pk: AgreementKey::from_bytes(reader.array()?).map_err(|_| reader.malformed())?,
            seed_commitment: reader.digest()?,
            nonce: reader.array()?,
            signature: reader.signature()?,
        };
        reader.finish()?;
        Ok(entry)
    }

    /// The whole entry, with what the certificate says, which the caller has checked; none if `credential` is not the one
    /// that the entry names.
    pub fn identify(self, credential: &Credential, id: ClientId, key: VerifyingKey) -> Option<RosterEntry> {
        if credential.digest() != self.credential {
            return None;
        }
        let Self { c_pk, s_pk, seed_commitment, nonce, signature, .. } = self;
        let Credential { certificate, statement_key, certification } = *credential;
        let advert = Advert { c_pk, s_pk, seed_commitment, statement_key, certification, nonce, signature };
        Some(RosterEntry { id, certificate, key, advert })
    }
}

impl From<&RosterEntry> for UnidentifiedEntry {
    fn from(entry: &RosterEntry) -> Self {
        let Advert { c_pk, s_pk, seed_commitment, nonce, signature, .. } = entry.advert;
        Self { credential: entry.credential().digest(), c_pk, s_pk, seed_commitment, nonce, signature }
    }
}

/// What is wrong with one entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EntryError {
    /// The identity belongs to another trust domain.
    #[error("identity is of another trust domain")]
    TrustDomain,
    /// The certificate's key is not canonical, or of small order.
    #[error("certificate's key is not a canonical ed25519 key")]
    CertificateKey,
    /// The advert is not signed or not certified.
    #[error(transparent)]
    Advert(#[from] AdvertError),
}

/// Why a roster is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RosterError {
    /// Its size and the plan's numbers admit no safe thresholds.
    #[error(transparent)]
    Thresholds(#[from] ThresholdError),
    /// More clients than the plan computed its modulus for.
    #[error("{n1} clients, the plan allows {n_max}")]
    TooMany {
        /// The roster's size.
        n1: usize,
        /// The plan's bound.
        n_max: usize,
    },
    /// The statement keys do not ascend.
    #[error("{id} is out of order")]
    Order {
        /// Who should have come before.
        id: ClientId,
    },
    /// An entry does not verify.
    #[error("entry of {id}: {error}")]
    Entry {
        /// Whose.
        id: ClientId,
        /// What is wrong.
        error: EntryError,
    },
    /// Two entries share an identity, a key or a certificate.
    #[error("{second} has the {what} of {first}")]
    Duplicate {
        /// What both have.
        what: &'static str,
        /// The one before.
        first: ClientId,
        /// The one after; the same as `first` if its own two keys are one.
        second: ClientId,
    },
}

/// A roster whose every signature and rule holds.
///
/// It stands in the ascending order of the statement keys, which are the clients' pseudonyms in the ledger: a place in it
/// tells nothing that the pseudonym does not. An order of identities would tell which pseudonyms of two tasks are one
/// client's.
#[derive(Clone, Debug)]
pub struct Roster {
    terms: Arc<Terms>,
    thresholds: Thresholds,
    graph: Graph,
    context: Context,
    entries: Vec<RosterEntry>,
    keys: Vec<Arc<MemberKeys>>,
    /// Where in it each identity stands.
    positions: BTreeMap<ClientId, Position>,
}

impl Roster {
    /// Checks `entries`, in ascending order of statement key, and computes R1.
    ///
    /// # Errors
    /// If the size fits no safe thresholds or no graph, or exceeds the plan's, an entry is out of order or does not verify,
    /// or two entries share an identity, a certificate, a certificate key, a statement key or an agreement key.
    pub fn assemble(terms: Arc<Terms>, entries: Vec<RosterEntry>) -> Result<Self, RosterError> {
        Self::assemble_knowing(terms, entries, &VerifiedCertifications::default())
    }

    /// The same; what is in `known` is not verified again, and what was verified goes into it.
    pub(crate) fn assemble_knowing(
        terms: Arc<Terms>,
        entries: Vec<RosterEntry>,
        known: &VerifiedCertifications,
    ) -> Result<Self, RosterError> {
        let n1 = entries.len();
        let thresholds = match terms.graph {
            GraphKind::Complete => Thresholds::complete(n1, terms.max_colluders, terms.u_min)?,
            GraphKind::Sparse => Thresholds::sparse(n1, terms.max_colluders, terms.u_min)?,
        };
        if n1 > terms.n_max {
            return Err(RosterError::TooMany { n1, n_max: terms.n_max });
        }
        // At most ROSTER_LEN_MAX, by the thresholds.
        let positions: BTreeMap<_, _> =
            entries.iter().zip((0..).map(Position)).map(|(entry, position)| (entry.id.clone(), position)).collect();
        check_distinct("identity", &entries, |entry| [entry.id.clone()])?;
        check_distinct("certificate", &entries, |entry| [entry.certificate])?;
        check_distinct("certificate key", &entries, |entry| [entry.key])?;
        check_distinct("statement key", &entries, |entry| [entry.advert.statement_key])?;
        let statement_key = |entry: &RosterEntry| entry.advert.statement_key;
        if let Some(pair) = entries.windows(2).find(|pair| statement_key(&pair[0]) > statement_key(&pair[1])) {
            return Err(RosterError::Order { id: pair[1].id.clone() });
        }
        // One set for both kinds: a key that encrypts shares to one client must make no mask with another.
        check_distinct::<AgreementKey, 2>("agreement key", &entries, |entry| [entry.advert.c_pk, entry.advert.s_pk])?;
        let keys = verify(&terms, &entries, known)?;
        let context = terms.context();
        let context = context.with_roster(digest(&context, &entries));
        let graph = match terms.graph {
            GraphKind::Complete => Graph::Complete { n: n1 },
            GraphKind::Sparse => {
                let ids = entries.iter().map(|entry| &entry.id);
                Graph::sparse(&context.roster, ids, thresholds.degree()).map_err(ThresholdError::Graph)?
            }
        };
        Ok(Self { terms, thresholds, graph, context, entries, keys, positions })
    }

    /// R1: what every later signature, salt and associated datum of the round binds.
    pub fn digest(&self) -> Digest {
        self.context.roster
    }

    /// The context of the round with this roster.
    pub fn context(&self) -> Context {
        self.context
    }

    /// The terms of the round.
    pub fn terms(&self) -> &Arc<Terms> {
        &self.terms
    }

    /// f, u_min, q and t.
    pub fn thresholds(&self) -> &Thresholds {
        &self.thresholds
    }

    /// Who shares keys with whom: each with the same number of others.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// Checks that t of those with whom the client at `position` shares keys are left: its secrets can be rebuilt, and more
    /// than the corrupt among them hide its vector. In the complete graph they are while u_min are left.
    pub(crate) fn check_neighbors(&self, position: Position, left: &PositionSet) -> Result<(), Refusal> {
        let (n_neighbors, threshold) = (self.n_neighbors_in(position, left), self.thresholds.threshold());
        if n_neighbors < threshold { Err(Refusal::TooFewNeighbors { n_neighbors, threshold }) } else { Ok(()) }
    }

    /// Whether the client at `position` shares keys with that at `other`, or is the same.
    pub(crate) fn deals_with(&self, position: Position, other: Position) -> bool {
        position == other || self.graph.contains(position, other)
    }

    fn n_neighbors_in(&self, position: Position, set: &PositionSet) -> usize {
        self.graph.neighbors(position).into_iter().filter(|neighbor| set.contains(*neighbor)).count()
    }

    /// The first of `dealers` whose secrets those in `left` cannot rebuild, with the number of its shares that they hold.
    pub(crate) fn first_out_of_reach(&self, dealers: &PositionSet, left: &PositionSet) -> Option<(Position, usize)> {
        let held = dealers.iter().map(|dealer| (dealer, self.n_neighbors_in(dealer, left)));
        held.into_iter().find(|(_, n_shares)| *n_shares < self.thresholds.threshold())
    }

    /// n1, the number of clients.
    pub fn n1(&self) -> usize {
        self.entries.len()
    }

    /// The entries in order of position.
    pub fn entries(&self) -> &[RosterEntry] {
        &self.entries
    }

    /// The entry at `position`.
    pub fn entry(&self, position: Position) -> Option<&RosterEntry> {
        self.entries.get(position.index())
    }

    /// The keys of the member at `position`.
    pub(crate) fn keys(&self, position: Position) -> Option<&MemberKeys> {
        self.keys.get(position.index()).map(|keys| &**keys)
    }

    /// The position of `id`.
    pub fn position_of(&self, id: &ClientId) -> Option<Position> {
        self.positions.get(id).copied()
    }

    /// Every position, in order.
    pub fn positions(&self) -> impl Iterator<Item = Position> + use<> {
        // At most ROSTER_LEN_MAX, by the thresholds.
        (0..self.entries.len() as u16).map(Position)
    }

    /// The bytes that the coordinator signs for this roster.
    pub fn statement(&self) -> Vec<u8> {
        self.context.statement(StatementKind::Roster, Position::NONE, &[])
    }

    /// The first of `signed` (position, body, signature) that is no statement of the client there under its certificate
    /// key, or whose position the roster lacks.
    pub(crate) fn first_unverified<'a>(
        &self,
        context: Context,
        kind: StatementKind,
        signed: impl Iterator<Item = (Position, Vec<u8>, &'a Signature)> + Clone,
    ) -> Option<Position> {
        let mut statements = Vec::new();
        for (position, body, signature) in signed.clone() {
            let Some(keys) = self.keys(position) else { return Some(position) };
            statements.push((&keys.certificate, context.statement(kind, position, &body), *signature));
        }
        let index = first_unverified_under(&statements)?;
        signed.map(|(position, ..)| position).nth(index)
    }

    /// Verifies a statement of the client at `position` under its certificate key.
    pub(crate) fn verify(
        &self,
        context: Context,
        kind: StatementKind,
        position: Position,
        body: &[u8],
        signature: &Signature,
    ) -> bool {
        let Some(keys) = self.keys(position) else { return false };
        keys.certificate.verify(&context.statement(kind, position, body), signature).is_ok()
    }
}

/// Verifies every entry: its keys, its advert, and, where it is not known, its statement key's certification. Gives the
/// keys in order of position.
fn verify(
    terms: &Terms,
    entries: &[RosterEntry],
    known: &VerifiedCertifications,
) -> Result<Vec<Arc<MemberKeys>>, RosterError> {
    let wrong = |entry: &RosterEntry, error| RosterError::Entry { id: entry.id.clone(), error };
    let (mut keys, mut is_known) = (Vec::with_capacity(entries.len()), Vec::with_capacity(entries.len()));
    let digests: Vec<_> = entries.iter().map(|entry| entry.certification_digest(terms)).collect();
    for (entry, digest) in entries.iter().zip(&digests) {
        let found = known.find(digest);
        is_known.push(found.is_some());
        keys.push(match found {
            Some(keys) => keys,
            None => Arc::new(entry.check(terms).map_err(|error| wrong(entry, error))?),
        });
    }
    let mut signed = Vec::with_capacity(2 * entries.len());
    for ((entry, keys), is_known) in entries.iter().zip(&keys).zip(is_known) {
        let of_entry = |error| (entry, error);
        signed.push((of_entry(AdvertError::Signature), entry.advert.statement(terms), entry.advert.signature, keys));
        if !is_known {
            let certification = entry.advert.certification;
            signed.push((of_entry(AdvertError::Certification), entry.certified(terms), certification, keys));
        }
    }
    let (of, statements): (Vec<_>, Vec<_>) = signed
        .into_iter()
        .map(|(of, statement, signature, keys)| (of, (&keys.certificate, statement, signature)))
        .unzip();
    if let Some(index) = first_unverified_under(&statements) {
        let (entry, error) = of[index];
        return Err(wrong(entry, error.into()));
    }
    known.keep(digests.into_iter().zip(keys.iter().cloned()));
    Ok(keys)
}

/// R1: SHA-256 over the canonical encoding of session, round, plan, n1 (u16), the SHA-256 of the ordered identities
/// and the RFC 6962 root of the entries.
fn digest(context: &Context, entries: &[RosterEntry]) -> Digest {
    let ids = Canonical::new(IDS_DOMAIN).u32(entries.len() as u32);
    let ids = entries.iter().fold(ids, |ids, entry| ids.text(entry.id.as_str())).finish();
    let leaves: Vec<_> = entries.iter().map(RosterEntry::to_bytes).collect();
    let bytes = Canonical::new(ROSTER_DOMAIN)
        .digest(&context.session.0)
        .u64(context.round.0)
        .digest(&context.plan)
        .u16(entries.len() as u16)
        .digest(&Digest::of(&ids))
        .digest(&merkle::root(&leaves))
        .finish();
    Digest::of(&bytes)
}

fn check_distinct<K: Ord, const N: usize>(
    what: &'static str,
    entries: &[RosterEntry],
    keys: impl Fn(&RosterEntry) -> [K; N],
) -> Result<(), RosterError> {
    let mut seen = BTreeMap::new();
    for entry in entries {
        for key in keys(entry) {
            if let Some(first) = seen.insert(key, &entry.id) {
                return Err(RosterError::Duplicate { what, first: first.clone(), second: entry.id.clone() });
            }
        }
    }
    Ok(())
}

/// The bytes of a whole roster as it travels: its entries, one after another.
pub fn entries_to_bytes(entries: &[RosterEntry]) -> Vec<u8> {
    entries.iter().flat_map(|entry| UnidentifiedEntry::from(entry).to_bytes()).collect()
}

/// Reads the entries of a roster: as many as the bytes hold.
///
/// # Errors
/// If the length is no multiple of [`UnidentifiedEntry::LEN`], there are more than [`ROSTER_LEN_MAX`], or one is malformed.
pub fn entries_from_bytes(bytes: &[u8]) -> Result<Vec<UnidentifiedEntry>, DecodeError> {
    let (what, (entries, rest)) = ("roster", bytes.as_chunks::<{ UnidentifiedEntry::LEN }>());
    if !rest.is_empty() {
        return Err(DecodeError::Trailing { what, n_bytes: rest.len() });
    }
    if entries.len() > ROSTER_LEN_MAX {
        return Err(DecodeError::Limit { what, len: entries.len() as u64, max: ROSTER_LEN_MAX as u64 });
    }
    entries.iter().map(|entry| UnidentifiedEntry::from_bytes(entry)).collect()
}

const ROSTER_DOMAIN: &str = "eranos/secagg/v1/roster";
const IDS_DOMAIN: &str = "eranos/secagg/v1/roster-ids";
const ENTRY_DOMAIN: &str = "eranos/secagg/v1/roster-entry";
const CREDENTIAL_DOMAIN: &str = "eranos/secagg/v1/credential";
const CERTIFICATION_DOMAIN: &str = "eranos/secagg/v1/verified-certification";
/// Most certifications that a client keeps as verified: two of the largest rosters, some 10 MB.
pub const CERTIFICATIONS_MAX: usize = 2 * ROSTER_LEN_MAX;
