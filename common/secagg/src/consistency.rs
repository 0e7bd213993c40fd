//! consistency: every survivor signs, once, one set of survivors (U3). Two quorums meet in an honest signer, so no two
//! honest clients ever release shares for different sets.
//!
//! A client signs only after it has verified the READY of every member of U3 of whom it holds shares: on the complete graph
//! of all, on a sparse one of its neighbors. More would protect nobody. Let v be honest, and masked against U2. Its seed
//! can be rebuilt only if one of its honest neighbors w released a share, for fewer than t of its neighbors are corrupt; w
//! did so under a quorum for its own U2 and U3 with v in it, after v's READY had named that U2. v signs one READY, so both
//! masked against the same set. The quorum, of all clients, leaves one U2 and one U3 for which shares are released at all.
//! So whoever's seed can be rebuilt masked against that U2, and the masks between two honest members of U3 stay on their
//! vectors until both are in the sum, as if everybody had seen every READY. What READYs of strangers add is that a client
//! notices that others were deceived; their own neighbors notice it, and release nothing.

use std::{fmt, sync::Arc};

use eranos_base::{
    Context, Position, Signature, StatementKind, encoding::DecodeError, signing::first_unverified_under,
};

use crate::{
    Arrival, Incomplete, Masked, Misbehaviour, PositionSet, Refusal, Roster, UnmaskAnswer, Unmasker,
    agreement::position_bytes,
    mask::Lanes,
    reader::Reader,
    share_keys::{HeldShares, ShareHashes},
    thresholds::ROSTER_LEN_MAX,
};

/// U3 with the READYs of its members: of all, or, as a client is shown it, of those who share keys with it, and its own.
///
/// Bytes: the bitmap of U3 (see [`PositionSet`]), then the READYs (64) in ascending order of position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Survivors {
    set: PositionSet,
    readies: Vec<Signature>,
}

impl Survivors {
    /// `readies` of all members, in ascending order.
    pub(crate) fn new(set: PositionSet, readies: Vec<Signature>) -> Self {
        Self { set, readies }
    }

    /// The set's bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let readies = self.readies.iter().flat_map(|ready| ready.0);
        self.set.as_bytes().iter().copied().chain(readies).collect()
    }

    /// Reads the survivors of a roster of `n1` clients.
    ///
    /// # Errors
    /// If the bytes are not exactly a bitmap and no more signatures than it has members.
    pub fn from_bytes(bytes: &[u8], n1: usize) -> Result<Self, DecodeError> {
        let mut reader = Reader::new("survivors", bytes);
        let set = PositionSet::from_bytes(reader.bytes(n1.div_ceil(8))?, n1)?;
        let readies = reader.signatures(set.len())?;
        reader.finish()?;
        Ok(Self { set, readies })
    }

    /// What the client at `position` is shown of a whole one.
    #[must_use]
    pub fn shown_to(&self, roster: &Roster, position: Position) -> Self {
        let shown = self.readies().filter(|(of, _)| roster.deals_with(position, *of));
        Self { set: self.set.clone(), readies: shown.map(|(_, ready)| *ready).collect() }
    }

    /// The members.
    pub fn set(&self) -> &PositionSet {
        &self.set
    }

    /// Each member with its READY, in ascending order, where all are there.
    pub fn readies(&self) -> impl Iterator<Item = (Position, &Signature)> + Clone {
        self.set.iter().zip(&self.readies)
    }

    /// The bytes that the coordinator signs for this set; `context` is that of the round with roster and U2.
    pub fn statement(&self, context: &Context) -> Vec<u8> {
        context.statement(StatementKind::Survivors, Position::NONE, self.set.as_bytes())
    }
}

impl Masked {
    /// Checks the survivors and signs them with the statement key: the one consistency statement of this round. The
    /// caller makes it durable before it is sent.
    ///
    /// # Errors
    /// If U3 is not within U2, smaller than max(q, u_min), without this client or with fewer than t of its neighbors, or the
    /// READY of one of them is missing or not its signature over the U2 that this client masked against.
    pub fn sign(self, survivors: &Survivors) -> Result<Consistent, Refusal> {
        let set = &survivors.set;
        if set.n1() != self.roster.n1() {
            return Err(Refusal::SurvivorsMalformed { expected: self.roster.n1(), found: set.n1() });
        }
        if let Some(position) = set.first_outside(&self.sharers) {
            return Err(Refusal::SurvivorOutsideSharers { position });
        }
        let needed = self.roster.thresholds().survivors_min();
        if set.len() < needed {
            return Err(Refusal::TooFewSurvivors { n_survivors: set.len(), needed });
        }
        if !set.contains(self.position) {
            return Err(Refusal::NotASurvivor);
        }
        self.roster.check_neighbors(self.position, set)?;
        let of: Vec<_> = set.iter().filter(|of| self.roster.deals_with(self.position, *of)).collect();
        if survivors.readies.len() != of.len() {
            return Err(Refusal::ReadiesMissing { expected: of.len(), found: survivors.readies.len() });
        }
        let readies = of.into_iter().zip(&survivors.readies).map(|(position, ready)| (position, Vec::new(), ready));
        if let Some(position) = self.roster.first_unverified(self.context, StatementKind::Ready, readies) {
            return Err(Refusal::ReadySignature { position });
        }
        let statement = self.context.statement(StatementKind::Consistency, self.position, set.as_bytes());
        let signature = self.identity.statement_key.sign(&statement);
        Ok(Consistent { masked: self, survivors: set.clone(), signature })
    }
}

/// The client that has signed the survivors and waits for a quorum.
pub struct Consistent {
    masked: Masked,
    survivors: PositionSet,
    signature: Signature,
}

impl Consistent {
    /// The consistency statement's signature, under the statement key.
    pub fn signature(&self) -> Signature {
        self.signature
    }

    /// The bytes it covers: what is stored before it is sent, and what the ledger verifies.
    pub fn statement(&self) -> Vec<u8> {
        consistency_statement(&self.masked.context, self.masked.position, &self.survivors)
    }

    /// The survivors it signed.
    pub fn survivors(&self) -> &PositionSet {
        &self.survivors
    }

    /// Releases, under a quorum over exactly the survivors this client signed, one share for each dealer: of the seed
    /// if the dealer survived, of the masking key if it did not. The request has no lists of its own.
    ///
    /// # Errors
    /// If the quorum is too small or any of its statements is forged, doubled or foreign.
    pub fn release(self, quorum: &Quorum) -> Result<UnmaskAnswer, Refusal> {
        quorum.verify(&self.masked.roster, &self.masked.context, &self.survivors)?;
        let Masked { identity, position, context, held, .. } = self.masked;
        let shares = held.into_iter().map(|HeldShares { dealer, seed, key }| {
            let survived = self.survivors.contains(dealer);
            (dealer, if survived { seed } else { key })
        });
        Ok(UnmaskAnswer::sign(shares.collect(), |body| identity.sign(context, StatementKind::Unmask, position, body)))
    }
}

impl fmt::Debug for Consistent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Consistent(position {}, shares omitted)", self.masked.position)
    }
}

/// What the client at `position` signs with its statement key: the bitmap of U3, in the context of roster and U2.
pub fn consistency_statement(context: &Context, position: Position, survivors: &PositionSet) -> Vec<u8> {
    context.statement(StatementKind::Consistency, position, survivors.as_bytes())
}

/// At least q consistency statements on one U3; exactly q, those of the lowest positions, from an honest coordinator.
///
/// Bytes: count (u16), then position (u16) and signature (64) of each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quorum(Vec<(Position, Signature)>);

impl Quorum {
    /// The statements of these signers; [`Quorum::verify`] judges them.
    pub fn new(signatures: Vec<(Position, Signature)>) -> Self {
        Self(signatures)
    }

    /// The quorum's bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(2 + self.0.len() * 66);
        bytes.extend_from_slice(&(self.0.len() as u16).to_le_bytes());
        for (position, signature) in &self.0 {
            bytes.extend_from_slice(&position_bytes(*position));
            bytes.extend_from_slice(&signature.0);
        }
        bytes
    }

    /// Reads a quorum.
    ///
    /// # Errors
    /// If the bytes are not exactly one.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new("quorum", bytes);
        let count = reader.count(ROSTER_LEN_MAX)?;
        let signatures =
            (0..count).map(|_| Ok((reader.position()?, reader.signature()?))).collect::<Result<_, DecodeError>>()?;
        reader.finish()?;
        Ok(Self(signatures))
    }

    /// The signers and their signatures.
    pub fn signatures(&self) -> &[(Position, Signature)] {
        &self.0
    }

    /// Verifies that at least q survivors signed `survivors`, each under the statement key of its roster entry, in
    /// ascending order of position. One bad or doubled signature refuses the whole.
    ///
    /// # Errors
    /// If it does not hold.
    pub fn verify(&self, roster: &Roster, context: &Context, survivors: &PositionSet) -> Result<(), Refusal> {
        let quorum = roster.thresholds().quorum();
        if self.0.len() < quorum {
            return Err(Refusal::QuorumTooSmall { n_signatures: self.0.len(), quorum });
        }
        let (mut last, mut signed) = (None, Vec::with_capacity(self.0.len()));
        for (position, signature) in &self.0 {
            let position = *position;
            // Strictly ascending: none twice. `None` is below every position.
            let ascends = last.replace(position) < Some(position);
            match roster.keys(position) {
                Some(keys) if ascends && survivors.contains(position) => {
                    let statement = consistency_statement(context, position, survivors);
                    signed.push((&keys.statement, statement, *signature));
                }
                _ => return Err(Refusal::QuorumSignature { position }),
            }
        }
        match first_unverified_under(&signed) {
            Some(index) => Err(Refusal::QuorumSignature { position: self.0[index].0 }),
            None => Ok(()),
        }
    }
}

fn verify_one(
    roster: &Roster,
    context: &Context,
    position: Position,
    survivors: &PositionSet,
    signature: &Signature,
) -> bool {
    let Some(keys) = roster.keys(position) else { return false };
    let statement = consistency_statement(context, position, survivors);
    keys.statement.verify(&statement, signature).is_ok()
}

/// The coordinator that collects consistency statements.
#[derive(Debug)]
pub struct ConsistencyCollector {
    roster: Arc<Roster>,
    context: Context,
    sharers: PositionSet,
    survivors: Survivors,
    statements: Vec<Option<Signature>>,
    hashes: ShareHashes,
    complaints: Vec<Vec<Position>>,
    sum: Lanes,
}

impl ConsistencyCollector {
    /// `complaints` by holder.
    pub(crate) fn new(
        (roster, context, sharers): (Arc<Roster>, Context, PositionSet),
        survivors: Survivors,
        (hashes, complaints, sum): (ShareHashes, Vec<Vec<Position>>, Lanes),
    ) -> Self {
        let statements = vec![None; roster.n1()];
        Self { roster, context, sharers, survivors, statements, hashes, complaints, sum }
    }

    /// U3 and all its READYs, of which each survivor is shown a part.
    pub fn survivors(&self) -> &Survivors {
        &self.survivors
    }

    /// The members of U2.
    pub fn sharers(&self) -> &PositionSet {
        &self.sharers
    }

    /// The context of the round with roster and U2.
    pub fn context(&self) -> Context {
        self.context
    }

    /// Takes the consistency statement of the client at `position`.
    ///
    /// # Errors
    /// If it is not in U3, or did not sign this U3.
    pub fn accept(&mut self, position: Position, signature: &Signature) -> Result<Arrival, Misbehaviour> {
        let message = "consistency statement";
        if !self.survivors.set.contains(position) {
            return Err(Misbehaviour::NotExpected { position, message });
        }
        let taken = &mut self.statements[position.index()];
        if taken.as_ref() == Some(signature) {
            return Ok(Arrival::Again);
        }
        if !verify_one(&self.roster, &self.context, position, &self.survivors.set, signature) {
            return Err(Misbehaviour::Signature { position, message });
        }
        match taken {
            // The first stays: what a quorum was announced with does not change.
            Some(_) => Ok(Arrival::Again),
            None => {
                *taken = Some(*signature);
                Ok(Arrival::New)
            }
        }
    }

    /// How many statements there are.
    pub fn n_signatures(&self) -> usize {
        self.statements.iter().flatten().count()
    }

    /// Whether they are a quorum.
    pub fn has_quorum(&self) -> bool {
        self.n_signatures() >= self.roster.thresholds().quorum()
    }

    /// Goes on to unmasking with q of the statements taken so far: more would tell a client nothing, and each member of
    /// U3 is sent them all.
    ///
    /// # Errors
    /// If they are fewer than q.
    pub fn close(self) -> Result<(Quorum, Unmasker), Incomplete> {
        let (n_signatures, quorum) = (self.n_signatures(), self.roster.thresholds().quorum());
        if n_signatures < quorum {
            return Err(Incomplete::Quorum { n_signatures, quorum });
        }
        let signed = self.roster.positions().zip(&self.statements);
        let signed = signed.filter_map(|(position, signature)| Some((position, (*signature)?)));
        let quorum = Quorum(signed.take(quorum).collect());
        let unmasker = Unmasker::new(
            (self.roster, self.context),
            (self.sharers, self.survivors.set),
            (self.hashes, self.complaints, self.sum),
        );
        Ok((quorum, unmasker))
    }
}
