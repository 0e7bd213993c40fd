//! What goes wrong, from both sides. A client that meets a [`Refusal`] leaves the round and says why; a coordinator
//! that meets a [`Misbehaviour`] drops the message, and perhaps its sender.

use eranos_base::{ClientId, Position};

use crate::{RosterError, ThresholdError};

/// Why a client leaves a round. Its keys are wiped; the text is what a person reads.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The roster is not one to share secrets with.
    #[error("the roster is refused: {0}")]
    Roster(#[from] RosterError),
    /// This client is not in the roster it was sent.
    #[error("the roster does not contain this client, {id}")]
    NotInRoster {
        /// This client.
        id: ClientId,
    },
    /// The fresh keys of somebody who shares keys with this client are not shown.
    #[error("the fresh keys of client {position} are not shown")]
    NotShown {
        /// Whose.
        position: Position,
    },
    /// This client's entry is not the one it sent.
    #[error("the roster's entry for this client is not the one it sent")]
    OwnEntryAltered,
    /// A key of the roster leads to a shared secret of zero.
    #[error("key agreement with client {peer} gives zero")]
    ZeroSharedSecret {
        /// The peer.
        peer: Position,
    },
    /// The set of those who shared (U2) is of another roster.
    #[error("the set of clients who shared keys is of another roster")]
    SharersMalformed,
    /// U2 is smaller than the plan's least number of survivors.
    #[error("only {n_sharers} clients shared keys, the plan needs {u_min}")]
    TooFewSharers {
        /// The size of U2.
        n_sharers: usize,
        /// The least number of survivors.
        u_min: usize,
    },
    /// U2 does not contain this client.
    #[error("the set of clients who shared keys does not contain this client")]
    NotASharer,
    /// U2 has another hash for this client's bundle than the one it sent.
    #[error("the coordinator altered the hash of this client's bundle of shares")]
    OwnBundleAltered,
    /// A member of U2 whose signed part for this client did not come, or came twice.
    #[error("the part of client {dealer}'s bundle for this client did not arrive exactly once")]
    PartMissing {
        /// The dealer.
        dealer: Position,
    },
    /// A part from someone outside U2 or with whom no keys are shared, or for another holder.
    #[error("a part from client {dealer} to client {holder} was delivered here")]
    ForeignPart {
        /// Who is said to have made it.
        dealer: Position,
        /// For whom.
        holder: Position,
    },
    /// A member of U2 whose part is not signed by it. That is the coordinator's fault.
    #[error("the part of client {dealer}'s bundle is not signed by it")]
    PartSignature {
        /// The dealer.
        dealer: Position,
    },
    /// Too few of those with whom this client shares keys are in U2, or in U3. Against those few its masks may not hold.
    #[error("only {n_neighbors} of this client's neighbors in the graph are left, {threshold} are needed")]
    TooFewNeighbors {
        /// How many are left.
        n_neighbors: usize,
        /// t.
        threshold: usize,
    },
    /// The vector to be masked has another length than the plan says.
    #[error("vector of {found} values, the plan says {expected}")]
    VectorLength {
        /// The plan's dimension.
        expected: usize,
        /// The vector's.
        found: usize,
    },
    /// The survivors (U3) are over a roster of another size.
    #[error("survivors of a roster of {found}, expected {expected}")]
    SurvivorsMalformed {
        /// The roster's size.
        expected: usize,
        /// The size found.
        found: usize,
    },
    /// A survivor that did not share keys.
    #[error("client {position} is called a survivor but did not share keys")]
    SurvivorOutsideSharers {
        /// Who.
        position: Position,
    },
    /// Fewer survivors than the quorum or than the plan's least number.
    #[error("only {n_survivors} survivors, at least {needed} are needed")]
    TooFewSurvivors {
        /// The size of U3.
        n_survivors: usize,
        /// max(q, u_min).
        needed: usize,
    },
    /// This client sent its vector and is not among the survivors.
    #[error("this client sent its vector but is not among the survivors")]
    NotASurvivor,
    /// Other READYs than those of the survivors who share keys with this client, and its own.
    #[error("{found} READYs of survivors are shown, expected {expected}")]
    ReadiesMissing {
        /// How many survivors share keys with it, itself included.
        expected: usize,
        /// How many are shown.
        found: usize,
    },
    /// A survivor's READY is not its signature over the U2 that this client masked against.
    #[error("client {position} did not mask against the same set of clients")]
    ReadySignature {
        /// Who.
        position: Position,
    },
    /// A statement of the quorum does not verify, is made twice, or is made by someone who is no survivor.
    #[error("client {position}'s consistency statement in the quorum is forged, doubled or foreign")]
    QuorumSignature {
        /// Whose.
        position: Position,
    },
    /// Fewer statements than the quorum.
    #[error("{n_signatures} consistency statements, the quorum is {quorum}")]
    QuorumTooSmall {
        /// How many.
        n_signatures: usize,
        /// q.
        quorum: usize,
    },
}

impl From<ThresholdError> for Refusal {
    fn from(error: ThresholdError) -> Self {
        Self::Roster(RosterError::Thresholds(error))
    }
}

/// What a client's message did wrong. The coordinator takes nothing from such a message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Misbehaviour {
    /// A message from someone who is not in the set that may send it.
    #[error("client {position} is not one of those who may send a {message}")]
    NotExpected {
        /// Who.
        position: Position,
        /// What was sent.
        message: &'static str,
    },
    /// A second message, different from the first, where only one is allowed. Both are signed.
    #[error("client {position} sent two different messages: {message}")]
    Equivocation {
        /// Who.
        position: Position,
        /// What was sent twice.
        message: &'static str,
    },
    /// A signature that does not verify.
    #[error("the {message} of client {position} is not signed by it")]
    Signature {
        /// Who.
        position: Position,
        /// What was sent.
        message: &'static str,
    },
    /// A bundle whose parts are not exactly one for each neighbor, in ascending order.
    #[error("the bundle of client {dealer} is not one part for each client that it shares keys with")]
    BundleIncomplete {
        /// Who.
        dealer: Position,
    },
    /// A masked vector without a READY before it.
    #[error("client {position} sent its vector before its READY")]
    NotReady {
        /// Who.
        position: Position,
    },
    /// A masked vector of another length, or with padding bits set.
    #[error("the masked vector of client {position} is malformed: {error}")]
    Vector {
        /// Who.
        position: Position,
        /// What is wrong.
        error: crate::packing::PackingError,
    },
    /// A masked vector that is not the one the signature covers.
    #[error("the masked vector of client {position} is not the one it signed")]
    VectorDigest {
        /// Who.
        position: Position,
    },
    /// A complaint about someone who dealt the complainer nothing.
    #[error("client {holder} complains about client {dealer}, who dealt it nothing")]
    ComplaintForeign {
        /// Who complains.
        holder: Position,
        /// About whom.
        dealer: Position,
    },
    /// An unmask answer that is not one share for each dealer whose shares its sender accepted.
    #[error("client {holder} released shares of others than the dealers whose shares it accepted")]
    ReleasedDealers {
        /// Who.
        holder: Position,
    },
    /// A released share that fails the hash its holder accepted.
    #[error("client {holder} released a share that is not the one client {dealer} dealt it")]
    ShareHash {
        /// Who released it.
        holder: Position,
        /// Whose share it should have been.
        dealer: Position,
    },
}

impl Misbehaviour {
    /// Whom signed evidence names, if it names anyone: a message that is merely missing, altered or unsigned may be
    /// the network's or the coordinator's doing.
    pub fn blame(&self) -> Option<Blame> {
        match *self {
            Self::Equivocation { position, message } => Some(Blame::Equivocation { position, message }),
            Self::ShareHash { holder, dealer } => Some(Blame::ReleasedShare { holder, dealer }),
            _ => None,
        }
    }
}

/// Whom signed statements prove guilty.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Blame {
    /// Signed two different messages of one kind.
    #[error("client {position} signed two different messages: {message}")]
    Equivocation {
        /// Who.
        position: Position,
        /// Which message.
        message: &'static str,
    },
    /// Released, signed, a share that fails a hash it had accepted.
    #[error("client {holder} released a share that is not the one client {dealer} dealt it")]
    ReleasedShare {
        /// Who.
        holder: Position,
        /// Whose share.
        dealer: Position,
    },
    /// Dealt shares, accepted by their holders, that lie on no one polynomial.
    #[error("client {dealer} dealt shares that lie on no one polynomial")]
    OffPolynomial {
        /// Who.
        dealer: Position,
    },
    /// Dealt shares of a secret that fails its signed commitment.
    #[error("client {dealer} dealt shares of another secret than it committed to")]
    Commitment {
        /// Who.
        dealer: Position,
    },
    /// More than f holders complain about its shares: at least one of them is honest.
    #[error("{n_complaints} clients, more than there may be colluders, complain about the shares of client {dealer}")]
    ComplaintsAgainst {
        /// Who.
        dealer: Position,
        /// How many complain.
        n_complaints: usize,
    },
    /// Complains about more than f dealers: at least one of them is honest.
    #[error("client {holder} complains about {n_complaints} clients, more than there may be colluders")]
    ComplaintsBy {
        /// Who.
        holder: Position,
        /// About how many.
        n_complaints: usize,
    },
}

impl Blame {
    /// Who is guilty.
    pub const fn culprit(&self) -> Position {
        match *self {
            Self::Equivocation { position, .. } => position,
            // Its dealer signed the hash that the share fails: the fault is the holder's, who accepted another one.
            Self::ReleasedShare { holder, .. } | Self::ComplaintsBy { holder, .. } => holder,
            Self::OffPolynomial { dealer } | Self::Commitment { dealer } | Self::ComplaintsAgainst { dealer, .. } => {
                dealer
            }
        }
    }
}

/// What became of a message that did nothing wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// It was taken.
    New,
    /// It is the one already taken, sent again.
    Again,
}

/// Why a phase cannot end with a result: the round aborts.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Incomplete {
    /// Too few clients shared keys.
    #[error("{n_sharers} clients shared keys, {u_min} are needed")]
    Sharers {
        /// How many.
        n_sharers: usize,
        /// How many are needed.
        u_min: usize,
    },
    /// Too few complete vectors.
    #[error("{n_survivors} vectors are complete, {needed} are needed")]
    Survivors {
        /// How many.
        n_survivors: usize,
        /// How many are needed.
        needed: usize,
    },
    /// Too few consistency statements.
    #[error("{n_signatures} consistency statements, {quorum} are needed")]
    Quorum {
        /// How many.
        n_signatures: usize,
        /// How many are needed.
        quorum: usize,
    },
    /// Too few shares of one client's secret.
    #[error("{n_shares} shares of client {dealer}'s secret, {threshold} are needed")]
    Shares {
        /// Whose secret.
        dealer: Position,
        /// How many shares.
        n_shares: usize,
        /// How many are needed.
        threshold: usize,
    },
    /// Shares that their holders accepted do not lead to the secret that the dealer committed to.
    #[error("the shares of client {dealer}'s secret do not lead to what it committed to")]
    Dealer {
        /// The dealer.
        dealer: Position,
        /// What proves it.
        blame: Blame,
    },
}
