//! The roster of a round and its digest R1. The coordinator assembles it from the adverts it took; every client
//! assembles it again from what it was sent, with the same checks.

use std::{
    collections::BTreeMap,
    fmt,
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
/// advert. They are hashed into R1; what travels is a [`ShownRoster`].
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

    /// Whose entry it is.
    pub fn member(&self) -> Member {
        Member { id: self.id.clone(), key: self.key, credential: self.credential() }
    }

    /// Verifies that the entry's advert is signed for these terms, its statement key certified, and its identity one
    /// of the trust domain. The coordinator does so as an advert arrives.
    ///
    /// # Errors
    /// Which of it does not hold.
    pub fn verify(&self, terms: &Terms) -> Result<(), EntryError> {
        self.member().check(terms)?;
        Ok(self.advert.verify(terms, &self.key)?)
    }
}

/// A member of a roster as every other member knows it, whether they share keys or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// The identity in the certificate.
    pub id: ClientId,
    /// The certificate's public key, from a certificate that the caller has checked.
    pub key: VerifyingKey,
    /// What is the same in every round of the task.
    pub credential: Credential,
}

impl Member {
    /// Verifies all of it but the certification, and gives both keys.
    fn check(&self, terms: &Terms) -> Result<MemberKeys, EntryError> {
        if self.id.trust_domain() != terms.trust_domain.as_str() {
            return Err(EntryError::TrustDomain);
        }
        let certificate = self.key.checked().map_err(|_| EntryError::CertificateKey)?;
        let statement = self.credential.statement_key.checked().map_err(|_| AdvertError::Certification)?;
        Ok(MemberKeys { certificate, statement })
    }

    /// The certified statement key: what the certificate's key signed.
    fn certified(&self, terms: &Terms) -> Vec<u8> {
        statement_key_certification(&terms.trust_domain, &terms.task, &self.credential.statement_key)
    }

    /// SHA-256 over everything that [`Member::check`] and the certification's verification look at.
    fn certification_digest(&self, terms: &Terms) -> Digest {
        let certified = Canonical::new(CERTIFICATION_DOMAIN).text(self.id.trust_domain()).field(&self.certified(terms));
        Digest::of(&certified.field(&self.key.0).field(&self.credential.certification.0).finish())
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
/// At most [`CERTIFICATIONS_MAX`], whichever: those of the last roster may be verified again.
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
    /// SHA-256 over the canonical encoding of the three: under what it is kept.
    pub fn digest(&self) -> Digest {
        let credential = Canonical::new(CREDENTIAL_DOMAIN).digest(&self.certificate);
        Digest::of(&credential.field(&self.statement_key.0).field(&self.certification.0).finish())
    }
}

/// By what the roster of one round names a credential: the first bytes of SHA-256 over R1 and the credential's digest. It
/// only says which one to take of those that a client knows, or to ask for: R1 binds what was taken. As R1 is in it, nobody
/// makes two credentials of one name before a roster is fixed; in a roster of 10,000 with 10,000 known two have one by
/// chance with a probability of 2^-37, and then a round fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShortName(pub [u8; Self::LEN]);

impl ShortName {
    /// The length of a name in bytes.
    pub const LEN: usize = 8;

    /// The name of the credential of this digest in the roster of R1 `roster`.
    pub fn of(roster: &Digest, credential: &Digest) -> Self {
        let digest = Digest::of_parts(&[SHORT_NAME_DOMAIN, roster.as_bytes(), credential.as_bytes()]);
        let mut name = [0; Self::LEN];
        name.copy_from_slice(&digest.0[..Self::LEN]);
        Self(name)
    }
}

impl fmt::Display for ShortName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// What of an entry is fresh in every round.
///
/// Bytes (176): c_pk (32), s_pk (32), seed commitment (32), nonce (16), signature (64).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FreshKeys {
    c_pk: AgreementKey,
    s_pk: AgreementKey,
    seed_commitment: Digest,
    nonce: [u8; 16],
    signature: Signature,
}

impl FreshKeys {
    /// The length in bytes.
    pub const LEN: usize = 3 * 32 + 16 + 64;

    /// The bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let Self { c_pk, s_pk, seed_commitment, nonce, signature } = self;
        [c_pk.as_bytes(), s_pk.as_bytes(), seed_commitment.as_bytes(), &nonce[..], &signature.0].concat()
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            c_pk: AgreementKey::from_bytes(reader.array()?).map_err(|_| reader.malformed())?,
            s_pk: AgreementKey::from_bytes(reader.array()?).map_err(|_| reader.malformed())?,
            seed_commitment: reader.digest()?,
            nonce: reader.array()?,
            signature: reader.signature()?,
        })
    }

    /// The whole entry of `member`.
    fn of(self, member: &Member) -> RosterEntry {
        let Self { c_pk, s_pk, seed_commitment, nonce, signature } = self;
        let Member { id, key, credential: Credential { certificate, statement_key, certification } } = member.clone();
        let advert = Advert { c_pk, s_pk, seed_commitment, statement_key, certification, nonce, signature };
        RosterEntry { id, certificate, key, advert }
    }
}

impl From<&RosterEntry> for FreshKeys {
    fn from(entry: &RosterEntry) -> Self {
        let Advert { c_pk, s_pk, seed_commitment, nonce, signature, .. } = entry.advert;
        Self { c_pk, s_pk, seed_commitment, nonce, signature }
    }
}

/// A roster as one of its members is shown it: who is in it, and the fresh keys of those with whom the member shares keys
/// (on the complete graph all), its own among them, with the proof that they are the ones in R1.
///
/// Bytes: R1 (32), n1 (u16), number of fresh keys (u16), the [`ShortName`] of each member's credential in order of position,
/// [`FreshKeys`] in order of position, and the nodes (32 each) of the proof, see [`merkle::Tree::proof`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShownRoster {
    /// R1, as the coordinator signs it.
    pub digest: Digest,
    /// Everybody's credential.
    pub names: Vec<ShortName>,
    /// The fresh keys.
    pub keys: Vec<FreshKeys>,
    /// The proof.
    pub proof: Vec<Digest>,
}

impl ShownRoster {
    /// The bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = self.digest.0.to_vec();
        // Neither is more than a roster has, nor that than a u16 holds.
        bytes.extend_from_slice(&(self.names.len() as u16).to_le_bytes());
        bytes.extend_from_slice(&(self.keys.len() as u16).to_le_bytes());
        self.names.iter().for_each(|name| bytes.extend_from_slice(&name.0));
        self.keys.iter().for_each(|keys| bytes.extend_from_slice(&keys.to_bytes()));
        self.proof.iter().for_each(|node| bytes.extend_from_slice(&node.0));
        bytes
    }

    /// Reads a roster.
    ///
    /// # Errors
    /// If the bytes are not exactly one, it has more than [`ROSTER_LEN_MAX`] members, or an agreement key is not canonical
    /// or of small order.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new("roster", bytes);
        let digest = reader.digest()?;
        let n1 = reader.count(ROSTER_LEN_MAX)?;
        let n_keys = reader.count(n1)?;
        let names = (0..n1).map(|_| Ok(ShortName(reader.array()?))).collect::<Result<_, DecodeError>>()?;
        let keys = (0..n_keys).map(|_| FreshKeys::read(&mut reader)).collect::<Result<_, _>>()?;
        let proof = reader.digests(n1)?;
        reader.finish()?;
        Ok(Self { digest, names, keys, proof })
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
    /// Other fresh keys than those of the clients who share keys with this one, and its own.
    #[error("fresh keys of {found} clients are shown, expected {expected}")]
    Keys {
        /// How many share keys with it, itself included.
        expected: usize,
        /// How many are shown.
        found: usize,
    },
    /// What is shown is not what R1 commits to.
    #[error("the clients and keys that are shown are not those of the roster's digest")]
    Digest,
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

/// A roster whose every rule holds, as far as its holder is shown it: of every member that its certificate's key certified
/// its statement key, and of those whose fresh keys are shown that they are signed, distinct, and in R1.
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
    members: Vec<Member>,
    keys: Vec<Arc<MemberKeys>>,
    /// Where each identity stands.
    positions: BTreeMap<ClientId, Position>,
    /// Those that are shown, in order of position.
    entries: Vec<RosterEntry>,
}

impl Roster {
    /// Checks `entries`, in ascending order of statement key, and computes R1: the coordinator's roster, which shows all.
    ///
    /// # Errors
    /// If the size fits no safe thresholds or no graph, or exceeds the plan's, an entry is out of order or does not verify,
    /// or two entries share an identity, a certificate, a certificate key, a statement key or an agreement key.
    pub fn assemble(terms: Arc<Terms>, entries: Vec<RosterEntry>) -> Result<Self, RosterError> {
        let members: Vec<_> = entries.iter().map(RosterEntry::member).collect();
        let (thresholds, positions) = check_members(&terms, &members)?;
        check_agreement_keys(&entries)?;
        let keys = verify(&terms, &members, &entries, &VerifiedCertifications::default())?;
        let digest = digest(&terms.context(), &members, &tree(&entries).root());
        let graph = graph(&terms, &thresholds, &digest, &members)?;
        let context = terms.context().with_roster(digest);
        Ok(Self { terms, thresholds, graph, context, members, keys, positions, entries })
    }

    /// Checks what the client `id` is shown. `members` are those that the roster names, in its order; the certifications
    /// in `known` are not verified again, and what was verified goes into it.
    ///
    /// What holds of fresh keys that are not shown, those who share keys with their owner see: a key makes masks, and seals
    /// shares, only between neighbors. Here the other members count as who they are: their statement keys in the quorum.
    ///
    /// # Errors
    /// As [`Roster::assemble`]; and if the client is not in it, other keys are shown than those of its neighbors and its own, or
    /// members, keys and proof do not lead to the R1 that is shown.
    pub(crate) fn of_shown(
        terms: Arc<Terms>,
        shown: ShownRoster,
        members: Vec<Member>,
        id: &ClientId,
        known: &VerifiedCertifications,
    ) -> Result<(Self, Position), Refusal> {
        let (thresholds, positions) = check_members(&terms, &members)?;
        let graph = graph(&terms, &thresholds, &shown.digest, &members)?;
        let position = *positions.get(id).ok_or_else(|| Refusal::NotInRoster { id: id.clone() })?;
        let at = around(&graph, position);
        if shown.keys.len() != at.len() {
            return Err(RosterError::Keys { expected: at.len(), found: shown.keys.len() }.into());
        }
        let entry = |(at, keys): (&Position, FreshKeys)| keys.of(&members[at.index()]);
        let entries: Vec<_> = at.iter().zip(shown.keys).map(entry).collect();
        check_agreement_keys(&entries)?;
        let leaves = at.iter().zip(&entries).map(|(at, entry)| (at.index(), merkle::leaf_hash(&entry.to_bytes())));
        let root = merkle::root_from(members.len(), &leaves.collect::<Vec<_>>(), &shown.proof);
        let context = terms.context().with_roster(shown.digest);
        if root.map(|root| digest(&terms.context(), &members, &root)) != Some(shown.digest) {
            return Err(RosterError::Digest.into());
        }
        let keys = verify(&terms, &members, &entries, known)?;
        Ok((Self { terms, thresholds, graph, context, members, keys, positions, entries }, position))
    }

    /// What each of the clients is shown of a roster that shows all, by position.
    pub fn show(&self) -> impl Fn(Position) -> ShownRoster + '_ {
        let (tree, names) = (tree(&self.entries), names(&self.context.roster, &self.members));
        move |position| {
            let at = around(&self.graph, position);
            let keys = at.iter().filter_map(|at| self.entries.get(at.index())).map(FreshKeys::from).collect();
            let proof = tree.proof(&at.iter().map(|at| at.index()).collect::<Vec<_>>());
            ShownRoster { digest: self.context.roster, names: names.clone(), keys, proof }
        }
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
        self.members.len()
    }

    /// The members in order of position.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// The entries that are shown, in order of position.
    pub fn entries(&self) -> &[RosterEntry] {
        &self.entries
    }

    /// The entry at `position`, if it is shown.
    pub fn entry(&self, position: Position) -> Option<&RosterEntry> {
        let statement_key = &self.members.get(position.index())?.credential.statement_key;
        let index = self.entries.binary_search_by_key(&statement_key, |entry| &entry.advert.statement_key).ok()?;
        self.entries.get(index)
    }

    /// The advert of a client that shares keys with this one.
    pub(crate) fn fresh_keys(&self, position: Position) -> Result<&Advert, Refusal> {
        // They are shown, or there would be no roster.
        self.entry(position).map(|entry| &entry.advert).ok_or(Refusal::NotShown { position })
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
        (0..self.members.len() as u16).map(Position)
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

/// Checks the roster's size, and that its members are in order and distinct; gives the thresholds and where each stands.
fn check_members(terms: &Terms, members: &[Member]) -> Result<(Thresholds, BTreeMap<ClientId, Position>), RosterError> {
    let n1 = members.len();
    let thresholds = match terms.graph {
        GraphKind::Complete => Thresholds::complete(n1, terms.max_colluders, terms.u_min)?,
        GraphKind::Sparse => Thresholds::sparse(n1, terms.max_colluders, terms.u_min)?,
    };
    if n1 > terms.n_max {
        return Err(RosterError::TooMany { n1, n_max: terms.n_max });
    }
    let of = |member: &Member| member.id.clone();
    check_distinct("identity", members.iter().map(|member| (&member.id, of(member))))?;
    check_distinct("certificate", members.iter().map(|member| (member.credential.certificate, of(member))))?;
    check_distinct("certificate key", members.iter().map(|member| (member.key, of(member))))?;
    let statement_key = |member: &Member| member.credential.statement_key;
    check_distinct("statement key", members.iter().map(|member| (statement_key(member), of(member))))?;
    if let Some(pair) = members.windows(2).find(|pair| statement_key(&pair[0]) > statement_key(&pair[1])) {
        return Err(RosterError::Order { id: pair[1].id.clone() });
    }
    // At most ROSTER_LEN_MAX, by the thresholds.
    let positions = members.iter().zip((0..).map(Position)).map(|(member, position)| (member.id.clone(), position));
    Ok((thresholds, positions.collect()))
}

/// One set for both kinds: a key that encrypts shares to one client must make no mask with another.
fn check_agreement_keys(entries: &[RosterEntry]) -> Result<(), RosterError> {
    let keys = |entry: &RosterEntry| [entry.advert.c_pk, entry.advert.s_pk].map(|key| (key, entry.id.clone()));
    check_distinct("agreement key", entries.iter().flat_map(keys))
}

/// Verifies every member's keys and, where it is not known, the certification of its statement key, and the adverts of those
/// that are shown. Gives the keys in order of position.
fn verify(
    terms: &Terms,
    members: &[Member],
    entries: &[RosterEntry],
    known: &VerifiedCertifications,
) -> Result<Vec<Arc<MemberKeys>>, RosterError> {
    let wrong = |id: &ClientId, error| RosterError::Entry { id: id.clone(), error };
    let digests: Vec<_> = members.iter().map(|member| member.certification_digest(terms)).collect();
    let found: Vec<_> = digests.iter().map(|digest| known.find(digest)).collect();
    let keys = members.iter().zip(&found).map(|(member, found)| match found {
        Some(keys) => Ok(keys.clone()),
        None => member.check(terms).map(Arc::new).map_err(|error| wrong(&member.id, error)),
    });
    let keys = keys.collect::<Result<Vec<_>, _>>()?;
    let (mut of, mut signed) = (Vec::with_capacity(2 * members.len()), Vec::with_capacity(2 * members.len()));
    let mut entries = entries.iter().peekable();
    for ((member, keys), found) in members.iter().zip(&keys).zip(found) {
        // Both are in order of position.
        if let Some(entry) = entries.next_if(|entry| entry.id == member.id) {
            of.push((&member.id, AdvertError::Signature));
            signed.push((&keys.certificate, entry.advert.statement(terms), entry.advert.signature));
        }
        if found.is_none() {
            of.push((&member.id, AdvertError::Certification));
            signed.push((&keys.certificate, member.certified(terms), member.credential.certification));
        }
    }
    if let Some(index) = first_unverified_under(&signed) {
        let (id, error) = of[index];
        return Err(wrong(id, error.into()));
    }
    known.keep(digests.into_iter().zip(keys.iter().cloned()));
    Ok(keys)
}

fn graph(terms: &Terms, thresholds: &Thresholds, digest: &Digest, members: &[Member]) -> Result<Graph, RosterError> {
    Ok(match terms.graph {
        GraphKind::Complete => Graph::Complete { n: members.len() },
        GraphKind::Sparse => {
            let ids = members.iter().map(|member| &member.id);
            Graph::sparse(digest, ids, thresholds.degree()).map_err(ThresholdError::Graph)?
        }
    })
}

/// A client and those with whom it shares keys, in order of position.
fn around(graph: &Graph, position: Position) -> Vec<Position> {
    let mut around = graph.neighbors(position);
    around.insert(around.partition_point(|neighbor| *neighbor < position), position);
    around
}

/// R1: SHA-256 over the canonical encoding of session, round, plan, n1 (u16), the SHA-256 of the ordered members (identity
/// and digest of the credential) and the RFC 6962 root of the entries.
fn digest(context: &Context, members: &[Member], entries: &Digest) -> Digest {
    let list = Canonical::new(MEMBERS_DOMAIN).u32(members.len() as u32);
    let add = |list: Canonical, member: &Member| list.text(member.id.as_str()).digest(&member.credential.digest());
    let list = members.iter().fold(list, add).finish();
    let bytes = Canonical::new(ROSTER_DOMAIN)
        .digest(&context.session.0)
        .u64(context.round.0)
        .digest(&context.plan)
        .u16(members.len() as u16)
        .digest(&Digest::of(&list))
        .digest(entries)
        .finish();
    Digest::of(&bytes)
}

fn tree(entries: &[RosterEntry]) -> merkle::Tree {
    merkle::Tree::new(entries.iter().map(|entry| merkle::leaf_hash(&entry.to_bytes())).collect())
}

fn names(digest: &Digest, members: &[Member]) -> Vec<ShortName> {
    members.iter().map(|member| ShortName::of(digest, &member.credential.digest())).collect()
}

/// What a coordinator that checks nothing shows the client `id`: for tests of whoever must refuse it.
pub fn show_unchecked(terms: &Terms, entries: &[RosterEntry], id: &ClientId) -> (ShownRoster, Vec<Member>) {
    let members: Vec<_> = entries.iter().map(RosterEntry::member).collect();
    let tree = tree(entries);
    let digest = digest(&terms.context(), &members, &tree.root());
    let all: Vec<_> = (0..members.len() as u16).map(Position).collect();
    let at = match (terms.graph, all.iter().find(|at| members[at.index()].id == *id)) {
        (GraphKind::Sparse, Some(position)) => Thresholds::sparse(members.len(), terms.max_colluders, terms.u_min)
            .ok()
            .and_then(|thresholds| graph(terms, &thresholds, &digest, &members).ok())
            .map_or(all.clone(), |graph| around(&graph, *position)),
        _ => all,
    };
    let at: Vec<_> = at.iter().map(|at| at.index()).collect();
    let keys = at.iter().map(|at| FreshKeys::from(&entries[*at])).collect();
    let shown = ShownRoster { digest, names: names(&digest, &members), keys, proof: tree.proof(&at) };
    (shown, members)
}

fn check_distinct<K: Ord>(what: &'static str, keys: impl Iterator<Item = (K, ClientId)>) -> Result<(), RosterError> {
    let mut seen = BTreeMap::new();
    for (key, second) in keys {
        if let Some(first) = seen.insert(key, second.clone()) {
            return Err(RosterError::Duplicate { what, first, second });
        }
    }
    Ok(())
}

const ROSTER_DOMAIN: &str = "eranos/secagg/v1/roster";
const MEMBERS_DOMAIN: &str = "eranos/secagg/v1/roster-members";
const ENTRY_DOMAIN: &str = "eranos/secagg/v1/roster-entry";
const CREDENTIAL_DOMAIN: &str = "eranos/secagg/v1/credential";
const SHORT_NAME_DOMAIN: &[u8] = b"eranos/secagg/v1/short-name";
const CERTIFICATION_DOMAIN: &str = "eranos/secagg/v1/verified-certification";
/// Most certifications that a client keeps as verified: two of the largest rosters, some 10 MB.
pub const CERTIFICATIONS_MAX: usize = 2 * ROSTER_LEN_MAX;
