//! The roster of a round and its digest R1. The coordinator assembles it from the adverts it took; every client
//! assembles it again from what it was sent, with the same checks.

use std::{collections::BTreeMap, sync::Arc};

use eranos_base::{
    ClientId, Context, Digest, Position, Signature, StatementKind, VerifyingKey,
    encoding::{Canonical, CanonicalReader, DecodeError},
    signing::first_unverified,
};

use crate::{
    Advert, AgreementKey, Graph, GraphKind, PositionSet, Refusal, Terms, ThresholdError, Thresholds,
    advert::AdvertError, merkle, thresholds::ROSTER_LEN_MAX,
};

/// One client of a roster.
///
/// Bytes, in the canonical encoding under "eranos/secagg/v1/roster-entry": identity, SHA-256 of the certificate,
/// advert. The certificate's public key does not travel: the receiver takes it from the certificate it has checked.
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
    /// The entry's bytes: a leaf of the tree in R1, and what travels.
    pub fn to_bytes(&self) -> Vec<u8> {
        Canonical::new(ENTRY_DOMAIN)
            .text(self.id.as_str())
            .digest(&self.certificate)
            .field(&self.advert.to_bytes())
            .finish()
    }

    /// Reads an entry, to be completed with the key of its certificate.
    ///
    /// # Errors
    /// If the bytes are not exactly an entry.
    pub fn from_bytes(bytes: &[u8]) -> Result<UnidentifiedEntry, DecodeError> {
        let mut reader = CanonicalReader::new(bytes, ENTRY_DOMAIN)?;
        let entry = UnidentifiedEntry {
            id: reader.parse()?,
            certificate: reader.digest()?,
            advert: Advert::from_bytes(reader.field()?)?,
        };
        reader.finish()?;
        Ok(entry)
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

    /// Verifies all of it but the signatures.
    fn check(&self, terms: &Terms) -> Result<(), EntryError> {
        if self.id.trust_domain() != terms.trust_domain.as_str() {
            return Err(EntryError::TrustDomain);
        }
        self.key.check().map_err(|_| EntryError::CertificateKey)?;
        Ok(self.advert.check()?)
    }
}

/// A [`RosterEntry`] as it travelled: its certificate's key is still to be looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnidentifiedEntry {
    /// The identity in the certificate.
    pub id: ClientId,
    /// SHA-256 of the certificate's DER.
    pub certificate: Digest,
    /// The client's advert.
    pub advert: Advert,
}

impl UnidentifiedEntry {
    /// The entry with the public key of the certificate that has this digest and this identity, which the caller has
    /// checked.
    pub fn with_key(self, key: VerifyingKey) -> RosterEntry {
        RosterEntry { id: self.id, certificate: self.certificate, key, advert: self.advert }
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
    /// The identities do not ascend strictly.
    #[error("identity {id} is out of order or occurs twice")]
    Order {
        /// The identity that should have come before.
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
    /// Two entries share a key or a certificate.
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
#[derive(Clone, Debug)]
pub struct Roster {
    terms: Arc<Terms>,
    thresholds: Thresholds,
    graph: Graph,
    context: Context,
    entries: Vec<RosterEntry>,
}

impl Roster {
    /// Checks `entries`, in ascending order of identity, and computes R1.
    ///
    /// # Errors
    /// If the size fits no safe thresholds or no graph, or exceeds the plan's, an identity is out of order or doubled, an entry does
    /// not verify, or two entries share a certificate, a certificate key, a statement key or an agreement key.
    pub fn assemble(terms: Arc<Terms>, entries: Vec<RosterEntry>) -> Result<Self, RosterError> {
        let n1 = entries.len();
        let thresholds = match terms.graph {
            GraphKind::Complete => Thresholds::complete(n1, terms.max_colluders, terms.u_min)?,
            GraphKind::Sparse => Thresholds::sparse(n1, terms.max_colluders, terms.u_min)?,
        };
        if n1 > terms.n_max {
            return Err(RosterError::TooMany { n1, n_max: terms.n_max });
        }
        if let Some(pair) = entries.windows(2).find(|pair| pair[0].id >= pair[1].id) {
            return Err(RosterError::Order { id: pair[1].id.clone() });
        }
        check_distinct("certificate", &entries, |entry| [entry.certificate])?;
        check_distinct("certificate key", &entries, |entry| [entry.key])?;
        check_distinct("statement key", &entries, |entry| [entry.advert.statement_key])?;
        // One set for both kinds: a key that encrypts shares to one client must make no mask with another.
        check_distinct::<AgreementKey, 2>("agreement key", &entries, |entry| [entry.advert.c_pk, entry.advert.s_pk])?;
        for entry in &entries {
            entry.check(&terms).map_err(|error| RosterError::Entry { id: entry.id.clone(), error })?;
        }
        let signed: Vec<_> = entries.iter().flat_map(|entry| entry.advert.signed(&terms, &entry.key)).collect();
        if let Some(index) = first_unverified(&signed) {
            // Two signatures an entry: the advert's, and the statement key's certification.
            let error = if index % 2 == 0 { AdvertError::Signature } else { AdvertError::Certification };
            return Err(RosterError::Entry { id: entries[index / 2].id.clone(), error: error.into() });
        }
        let context = terms.context();
        let context = context.with_roster(digest(&context, &entries));
        let graph = match terms.graph {
            GraphKind::Complete => Graph::Complete { n: n1 },
            GraphKind::Sparse => {
                let ids = entries.iter().map(|entry| &entry.id);
                Graph::sparse(&context.roster, ids, thresholds.degree()).map_err(ThresholdError::Graph)?
            }
        };
        Ok(Self { terms, thresholds, graph, context, entries })
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

    /// The position of `id`.
    pub fn position_of(&self, id: &ClientId) -> Option<Position> {
        let index = self.entries.binary_search_by(|entry| entry.id.cmp(id)).ok()?;
        u16::try_from(index).map(Position).ok()
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
            let Some(entry) = self.entry(position) else { return Some(position) };
            statements.push((entry.key, context.statement(kind, position, &body), *signature));
        }
        let index = first_unverified(&statements)?;
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
        let Some(entry) = self.entry(position) else { return false };
        entry.key.verify(&context.statement(kind, position, body), signature).is_ok()
    }
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

/// The bytes of a whole roster: its entries as fields of the canonical encoding under "eranos/secagg/v1/entries".
pub fn entries_to_bytes(entries: &[RosterEntry]) -> Vec<u8> {
    let list = Canonical::new(ENTRIES_DOMAIN).u32(entries.len() as u32);
    entries.iter().fold(list, |list, entry| list.field(&entry.to_bytes())).finish()
}

/// Reads the entries of a roster.
///
/// # Errors
/// If the bytes are not exactly a list of at most [`ROSTER_LEN_MAX`] entries.
pub fn entries_from_bytes(bytes: &[u8]) -> Result<Vec<UnidentifiedEntry>, DecodeError> {
    let mut reader = CanonicalReader::new(bytes, ENTRIES_DOMAIN)?;
    let n1 = reader.count(ROSTER_LEN_MAX)?;
    let entries = (0..n1).map(|_| RosterEntry::from_bytes(reader.field()?)).collect::<Result<_, _>>()?;
    reader.finish()?;
    Ok(entries)
}

const ROSTER_DOMAIN: &str = "eranos/secagg/v1/roster";
const IDS_DOMAIN: &str = "eranos/secagg/v1/roster-ids";
const ENTRY_DOMAIN: &str = "eranos/secagg/v1/roster-entry";
const ENTRIES_DOMAIN: &str = "eranos/secagg/v1/entries";
