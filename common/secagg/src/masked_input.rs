//! masked_input: the client says against whom it masks (READY), then sends its vector with every mask on it. The
//! coordinator adds a vector when it is complete and verified, and forgets it.

use std::{fmt, sync::Arc};

use eranos_base::{Context, Digest, Position, Signature, StatementKind, encoding::DecodeError};
use zeroize::Zeroize;

use crate::{
    Arrival, Blame, ConsistencyCollector, Identity, Incomplete, Misbehaviour, PositionSet, Refusal, Roster, Routed,
    Survivors,
    agreement::{AgreementSecret, position_bytes},
    mask::{Lanes, MaskKey, Sign},
    packing,
    reader::{Reader, strictly_ascending},
    shamir::Secret,
    share_keys::{HeldShares, ShareHashes},
    thresholds::ROSTER_LEN_MAX,
};

/// The client that has accepted U2. It sends its READY, and after that, once, its vector.
///
/// A client that has not called [`Ready::mask`] when the survivors are announced drops this state, which wipes its
/// keys, and leaves the round: there is no way from here to a consistency statement.
pub struct Ready {
    roster: Arc<Roster>,
    identity: Arc<Identity>,
    position: Position,
    context: Context,
    sharers: PositionSet,
    masking_key: AgreementSecret,
    seed: Secret,
    held: Vec<HeldShares>,
    complaints: Vec<Position>,
    ready: Signature,
}

impl Ready {
    pub(crate) fn new(
        (roster, identity, position): (Arc<Roster>, Arc<Identity>, Position),
        (sharers, root): (PositionSet, Digest),
        (masking_key, seed): (AgreementSecret, Secret),
        held: Vec<HeldShares>,
        complaints: Vec<Position>,
    ) -> Self {
        let context = roster.context().with_sharers(root);
        let ready = identity.sign(context, StatementKind::Ready, position, &[]);
        Self { roster, identity, position, context, sharers, masking_key, seed, held, complaints, ready }
    }

    /// The READY: this client's signature over the root of U2. It leaves before the first byte of the vector.
    pub fn ready(&self) -> Signature {
        self.ready
    }

    /// The dealers whose parts did not open or did not match their hashes.
    pub fn complaints(&self) -> &[Position] {
        &self.complaints
    }

    /// The members of U2.
    pub fn sharers(&self) -> &PositionSet {
        &self.sharers
    }

    /// Masks `x`, each value reduced modulo 2^b as two's complement (so -1 is 2^b - 1), and wipes the masking secrets.
    /// The privacy budget has been charged, durably, before.
    ///
    /// # Errors
    /// If `x` has another length than the plan's vectors, or a key of U2 leads to a zero shared secret.
    pub fn mask(self, x: &[i64]) -> Result<(Masked, Upload), Refusal> {
        let terms = self.roster.terms();
        if x.len() != terms.dimension.len() {
            return Err(Refusal::VectorLength { expected: terms.dimension.len(), found: x.len() });
        }
        let r1 = self.context.roster;
        let key = |position: Position| self.roster.fresh_keys(position).map(|advert| (position, &advert.s_pk));
        let mut masks = vec![(Sign::Plus, MaskKey::of_seed(&self.seed, &r1, self.position))];
        let neighbors = self.roster.graph().neighbors(self.position);
        for peer in neighbors.into_iter().filter(|peer| self.sharers.contains(*peer)) {
            let mask = MaskKey::of_pair(&self.masking_key, &r1, key(self.position)?, key(peer)?)
                .ok_or(Refusal::ZeroSharedSecret { peer })?;
            masks.push((Sign::of_pair(self.position, peer), mask));
        }
        let mut vector = Lanes::of_signed(x, terms.bits);
        vector.apply(&masks);
        let packed = packing::pack(&vector, terms.bits);
        // The upper bits, which are not sent, are masked like the lower ones; still nothing of them need stay.
        vector.zeroize();

        let digest = Digest::of(&packed);
        let body = Finished::body(&digest, &self.complaints);
        let signature = self.identity.sign(self.context, StatementKind::MaskedInput, self.position, &body);
        let finished = Finished { digest, complaints: self.complaints, signature };
        let masked = Masked {
            roster: self.roster,
            identity: self.identity,
            position: self.position,
            context: self.context,
            sharers: self.sharers,
            held: self.held,
        };
        Ok((masked, Upload { packed, finished }))
    }
}

impl fmt::Debug for Ready {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ready(position {}, secrets omitted)", self.position)
    }
}

/// What a client uploads. A resend is these very bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upload {
    /// The masked vector, packed.
    pub packed: Vec<u8>,
    /// The statement that follows it.
    pub finished: Finished,
}

/// A client's statement that its vector is complete.
///
/// Bytes: SHA-256 of the packed vector (32), number of complaints (u16), the dealers complained about (u16 each,
/// ascending strictly), signature (64) over all before it as the body of a [`StatementKind::MaskedInput`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finished {
    /// SHA-256 of the packed vector.
    pub digest: Digest,
    /// The dealers whose signed parts did not open or did not match their hashes.
    pub complaints: Vec<Position>,
    /// The client's signature.
    pub signature: Signature,
}

impl Finished {
    /// The statement's bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Self::body(&self.digest, &self.complaints);
        bytes.extend_from_slice(&self.signature.0);
        bytes
    }

    /// Reads a statement.
    ///
    /// # Errors
    /// If the bytes are not exactly one.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new("finished statement", bytes);
        let digest = reader.digest()?;
        let count = reader.count(ROSTER_LEN_MAX)?;
        let complaints = (0..count).map(|_| reader.position()).collect::<Result<Vec<_>, _>>()?;
        if !strictly_ascending(complaints.iter().copied()) {
            return Err(reader.malformed());
        }
        let signature = reader.signature()?;
        reader.finish()?;
        Ok(Self { digest, complaints, signature })
    }

    fn body(digest: &Digest, complaints: &[Position]) -> Vec<u8> {
        let mut body = digest.as_bytes().to_vec();
        body.extend_from_slice(&(complaints.len() as u16).to_le_bytes());
        for dealer in complaints {
            body.extend_from_slice(&position_bytes(*dealer));
        }
        body
    }
}

/// The client that has sent its vector and waits for the survivors. Its own secrets are gone; it holds the others'
/// shares.
pub struct Masked {
    pub(crate) roster: Arc<Roster>,
    pub(crate) identity: Arc<Identity>,
    pub(crate) position: Position,
    pub(crate) context: Context,
    pub(crate) sharers: PositionSet,
    pub(crate) held: Vec<HeldShares>,
}

impl Masked {
    /// The roster, as this client checked it.
    pub fn roster(&self) -> &Arc<Roster> {
        &self.roster
    }
}

impl fmt::Debug for Masked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Masked(position {}, shares omitted)", self.position)
    }
}

/// The coordinator that adds masked vectors.
#[derive(Debug)]
pub struct Accumulator {
    roster: Arc<Roster>,
    /// What of the bundles checks released shares. The sealed parts, three times as long, were sent and are gone.
    hashes: ShareHashes,
    context: Context,
    sharers: PositionSet,
    readies: Vec<Option<Signature>>,
    finished: Vec<Option<Finished>>,
    sum: Lanes,
}

impl Accumulator {
    pub(crate) fn new(routed: Routed) -> Self {
        let (n1, terms) = (routed.roster.n1(), routed.roster.terms());
        Self {
            context: routed.roster.context().with_sharers(routed.sharers.root()),
            sharers: routed.sharers.set().clone(),
            readies: vec![None; n1],
            finished: vec![None; n1],
            sum: Lanes::zeros(terms.dimension, terms.bits),
            roster: routed.roster.clone(),
            hashes: routed.into_hashes(),
        }
    }

    /// The context of the round with roster and U2.
    pub fn context(&self) -> Context {
        self.context
    }

    /// The length of an upload's packed vector in bytes: what a grant stages.
    pub fn packed_len(&self) -> usize {
        let terms = self.roster.terms();
        terms.bits.packed_len(terms.dimension)
    }

    /// Takes a READY. Only after it may the client's vector come.
    ///
    /// # Errors
    /// If `position` is not in U2, or the signature is not its own over the root of U2.
    pub fn ready(&mut self, position: Position, ready: &Signature) -> Result<Arrival, Misbehaviour> {
        let message = "READY";
        self.expect_sharer(position, message)?;
        let taken = &mut self.readies[position.index()];
        if taken.as_ref() == Some(ready) {
            return Ok(Arrival::Again);
        }
        if !self.roster.verify(self.context, StatementKind::Ready, position, &[], ready) {
            return Err(Misbehaviour::Signature { position, message });
        }
        // A second signature over the same statement says nothing new.
        match taken.replace(*ready) {
            None => Ok(Arrival::New),
            Some(_) => Ok(Arrival::Again),
        }
    }

    /// Verifies a complete upload and adds its vector. Nothing is added on an error.
    ///
    /// # Errors
    /// If `position` is not in U2 or sent no READY, the vector is malformed or not the one signed, a complaint is
    /// about someone who dealt it nothing, or another vector was taken before.
    pub fn accept(&mut self, position: Position, packed: &[u8], finished: &Finished) -> Result<Arrival, Misbehaviour> {
        let message = "masked vector";
        self.expect_sharer(position, message)?;
        if self.readies[position.index()].is_none() {
            return Err(Misbehaviour::NotReady { position });
        }
        let terms = self.roster.terms();
        packing::check(packed, terms.dimension, terms.bits)
            .map_err(|error| Misbehaviour::Vector { position, error })?;
        let body = Finished::body(&finished.digest, &finished.complaints);
        let kind = StatementKind::MaskedInput;
        if !self.roster.verify(self.context, kind, position, &body, &finished.signature) {
            return Err(Misbehaviour::Signature { position, message });
        }
        if Digest::of(packed) != finished.digest {
            return Err(Misbehaviour::VectorDigest { position });
        }
        let graph = self.roster.graph();
        let foreign = |dealer: &&Position| !graph.contains(**dealer, position) || !self.sharers.contains(**dealer);
        if let Some(dealer) = finished.complaints.iter().find(foreign) {
            return Err(Misbehaviour::ComplaintForeign { holder: position, dealer: *dealer });
        }
        if let Some(taken) = &self.finished[position.index()] {
            let same = taken.digest == finished.digest && taken.complaints == finished.complaints;
            return if same { Ok(Arrival::Again) } else { Err(Misbehaviour::Equivocation { position, message }) };
        }
        packing::unpack_add(&mut self.sum, packed, terms.bits)
            .map_err(|error| Misbehaviour::Vector { position, error })?;
        self.finished[position.index()] = Some(finished.clone());
        Ok(Arrival::New)
    }

    /// The members of U2.
    pub fn sharers(&self) -> &PositionSet {
        &self.sharers
    }

    /// Whether the vector of the client at `position` is in the sum.
    pub fn is_finished(&self, position: Position) -> bool {
        self.finished.get(position.index()).is_some_and(Option::is_some)
    }

    /// How many vectors are complete.
    pub fn n_survivors(&self) -> usize {
        self.finished.iter().flatten().count()
    }

    /// Whether every member of U2 sent its vector.
    pub fn is_complete(&self) -> bool {
        self.n_survivors() == self.sharers.len()
    }

    /// Whom the signed complaints name: a dealer about whom more than f holders complain, a holder who complains about
    /// more than f dealers. f colluders alone can cause neither for an honest client.
    pub fn blames(&self) -> Vec<Blame> {
        let f = self.roster.thresholds().max_colluders();
        let mut against = vec![0; self.finished.len()];
        let mut blames = Vec::new();
        for (holder, finished) in self.roster.positions().zip(&self.finished) {
            let complaints = finished.as_ref().map_or(&[][..], |finished| &finished.complaints);
            for dealer in complaints {
                against[dealer.index()] += 1;
            }
            if complaints.len() > f {
                blames.push(Blame::ComplaintsBy { holder, n_complaints: complaints.len() });
            }
        }
        for (dealer, n_complaints) in self.roster.positions().zip(against) {
            if n_complaints > f {
                blames.push(Blame::ComplaintsAgainst { dealer, n_complaints });
            }
        }
        blames
    }

    /// Fixes U3: those whose vector is in the sum.
    ///
    /// # Errors
    /// If they are fewer than max(q, u_min), or hold fewer than t shares of some member of U2.
    pub fn close(self) -> Result<ConsistencyCollector, Incomplete> {
        let (n_survivors, needed) = (self.n_survivors(), self.roster.thresholds().survivors_min());
        if n_survivors < needed {
            return Err(Incomplete::Survivors { n_survivors, needed });
        }
        let finished = self.roster.positions().zip(self.finished);
        let finished: Vec<(Position, Finished)> = finished.filter_map(|(position, f)| Some((position, f?))).collect();
        let set = PositionSet::of(self.readies.len(), finished.iter().map(|(position, _)| *position));
        if let Some((dealer, n_shares)) = self.roster.first_out_of_reach(&self.sharers, &set) {
            let threshold = self.roster.thresholds().threshold();
            return Err(Incomplete::Shares { dealer, n_shares, threshold });
        }
        // No vector was taken without a READY.
        let readies = set.iter().filter_map(|position| self.readies[position.index()]).collect();
        let mut complaints = vec![Vec::new(); self.readies.len()];
        for (position, finished) in finished {
            complaints[position.index()] = finished.complaints;
        }
        Ok(ConsistencyCollector::new(
            (self.roster, self.context, self.sharers),
            Survivors::new(set, readies),
            (self.hashes, complaints, self.sum),
        ))
    }

    fn expect_sharer(&self, position: Position, message: &'static str) -> Result<(), Misbehaviour> {
        if self.sharers.contains(position) { Ok(()) } else { Err(Misbehaviour::NotExpected { position, message }) }
    }
}
