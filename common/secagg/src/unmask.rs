//! unmask: under a quorum the survivors release one share for each dealer, and the coordinator takes off the masks that
//! are left. What it rebuilds is held against what the dealers committed to.

use std::{fmt, sync::Arc};

use eranos_base::{Context, Digest, Position, Signature, StatementKind, encoding::DecodeError};
use subtle::ConstantTimeEq;

use crate::{
    Arrival, Bits, Blame, Incomplete, Misbehaviour, PositionSet, Roster,
    advert::seed_commitment,
    agreement::{AgreementSecret, position_bytes},
    mask::{Lanes, MaskKey, Sign},
    reader::{Reader, strictly_ascending},
    shamir::{Field, Secret, ShamirError},
    share_keys::{ShareHashes, ShareKind, share_hash},
    thresholds::ROSTER_LEN_MAX,
    workers,
};

/// The shares that one client releases: one for each dealer. Which kind each is follows from the signed U3, so both
/// kinds for one dealer cannot even be written down.
///
/// Bytes: count (u16), then dealer (u16) and share (32) of each, dealers ascending strictly; signature (64) over all
/// before it as the body of a [`StatementKind::Unmask`].
#[derive(Clone, PartialEq, Eq)]
pub struct UnmaskAnswer {
    shares: Vec<(Position, Secret)>,
    signature: Signature,
}

impl UnmaskAnswer {
    pub(crate) fn sign(shares: Vec<(Position, Secret)>, sign: impl FnOnce(&[u8]) -> Signature) -> Self {
        let signature = sign(&Self::body(&shares));
        Self { shares, signature }
    }

    /// The answer's bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Self::body(&self.shares);
        bytes.extend_from_slice(&self.signature.0);
        bytes
    }

    /// Reads an answer.
    ///
    /// # Errors
    /// If the bytes are not exactly one, or a dealer occurs twice or out of order.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new("unmask answer", bytes);
        let count = reader.count(ROSTER_LEN_MAX)?;
        let shares = (0..count)
            .map(|_| Ok((reader.position()?, Secret::new(reader.array()?))))
            .collect::<Result<Vec<_>, DecodeError>>()?;
        if !strictly_ascending(shares.iter().map(|(dealer, _)| *dealer)) {
            return Err(reader.malformed());
        }
        let signature = reader.signature()?;
        reader.finish()?;
        Ok(Self { shares, signature })
    }

    /// Of whom a share is released.
    pub fn dealers(&self) -> impl Iterator<Item = Position> {
        self.shares.iter().map(|(dealer, _)| *dealer)
    }

    fn body(shares: &[(Position, Secret)]) -> Vec<u8> {
        let mut body = Vec::with_capacity(2 + shares.len() * 34 + 64);
        body.extend_from_slice(&(shares.len() as u16).to_le_bytes());
        for (dealer, share) in shares {
            body.extend_from_slice(&position_bytes(*dealer));
            body.extend_from_slice(&share[..]);
        }
        body
    }
}

impl fmt::Debug for UnmaskAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "UnmaskAnswer({} shares omitted)", self.shares.len())
    }
}

/// The coordinator that collects released shares and takes off the masks.
#[derive(Debug)]
pub struct Unmasker {
    roster: Arc<Roster>,
    context: Context,
    sharers: PositionSet,
    survivors: PositionSet,
    hashes: ShareHashes,
    /// By holder: the dealers whose shares it never accepted.
    complaints: Vec<Vec<Position>>,
    answers: Vec<Option<UnmaskAnswer>>,
    /// By dealer: how many of its shares were released.
    n_shares: Vec<usize>,
    sum: Lanes,
}

impl Unmasker {
    pub(crate) fn new(
        (roster, context): (Arc<Roster>, Context),
        (sharers, survivors): (PositionSet, PositionSet),
        (hashes, complaints, sum): (ShareHashes, Vec<Vec<Position>>, Lanes),
    ) -> Self {
        let (answers, n_shares) = (vec![None; roster.n1()], vec![0; roster.n1()]);
        Self { roster, context, sharers, survivors, hashes, complaints, answers, n_shares, sum }
    }

    /// U3.
    pub fn survivors(&self) -> &PositionSet {
        &self.survivors
    }

    /// Takes the answer of the client at `position`.
    ///
    /// # Errors
    /// If it is not in U3, did not sign the answer, released other shares than one of each dealer whose shares it
    /// accepted, or a share fails the hash its dealer signed.
    pub fn accept(&mut self, position: Position, answer: UnmaskAnswer) -> Result<Arrival, Misbehaviour> {
        let message = "unmask answer";
        if !self.survivors.contains(position) {
            return Err(Misbehaviour::NotExpected { position, message });
        }
        let taken = &self.answers[position.index()];
        if taken.as_ref() == Some(&answer) {
            return Ok(Arrival::Again);
        }
        let body = UnmaskAnswer::body(&answer.shares);
        if !self.roster.verify(self.context, StatementKind::Unmask, position, &body, &answer.signature) {
            return Err(Misbehaviour::Signature { position, message });
        }
        if let Some(taken) = taken {
            let same = taken.shares == answer.shares;
            return if same { Ok(Arrival::Again) } else { Err(Misbehaviour::Equivocation { position, message }) };
        }
        let accepted = self.sharers.iter().filter(|dealer| self.holds(position, *dealer));
        if !answer.dealers().eq(accepted) {
            return Err(Misbehaviour::ReleasedDealers { holder: position });
        }
        for (dealer, share) in &answer.shares {
            let kind = self.kind(*dealer);
            let hash = share_hash(&self.context.roster, kind, *dealer, position, share);
            if self.hashes.of(kind, *dealer, position) != Some(&hash) {
                return Err(Misbehaviour::ShareHash { holder: position, dealer: *dealer });
            }
        }
        for dealer in answer.dealers() {
            self.n_shares[dealer.index()] += 1;
        }
        self.answers[position.index()] = Some(answer);
        Ok(Arrival::New)
    }

    /// How many answers there are.
    pub fn n_answers(&self) -> usize {
        self.answers.iter().flatten().count()
    }

    /// Whether every secret that is needed can be rebuilt.
    pub fn is_complete(&self) -> bool {
        self.sharers.iter().all(|dealer| self.n_shares[dealer.index()] >= self.roster.thresholds().threshold())
    }

    /// Rebuilds the seeds of U3 and the masking keys of the dropped, checks them, and takes their masks off the sum.
    ///
    /// # Errors
    /// If there are too few shares of a secret, or a dealer's shares do not lead to what it committed to: the round
    /// aborts. A seed that cannot be rebuilt is never replaced by the masking key of the same client.
    pub fn finish(self) -> Result<Sum, Incomplete> {
        let n_dropped = self.sharers.len() - self.survivors.len();
        let n_workers = match self.sharers.len() + n_dropped * self.roster.thresholds().degree() {
            0..WORKERS_FROM => 1,
            _ => workers::available(),
        };
        self.finish_by(n_workers)
    }

    /// The same on `n_workers` threads, whose number changes nothing in the result.
    fn finish_by(mut self, n_workers: usize) -> Result<Sum, Incomplete> {
        let mut masks_by_dealer: Vec<_> = self.sharers.iter().map(|dealer| (dealer, Ok(Vec::new()))).collect();
        workers::for_each(n_workers, masks_by_dealer.iter_mut(), |(dealer, masks)| *masks = self.masks_of(*dealer));
        let mut masks = Vec::new();
        // The first dealer whose secret is not what it committed to is named, whoever was looked at first.
        for (_, of_dealer) in masks_by_dealer {
            masks.extend(of_dealer?);
        }
        self.sum.apply(&masks);
        Ok(Sum { lanes: self.sum, bits: self.roster.terms().bits, survivors: self.survivors })
    }

    /// The masks that are still on the sum because of `dealer`, to be taken off: its own if it survived, else those with
    /// each neighbor that did. Its secret is rebuilt, and checked.
    fn masks_of(&self, dealer: Position) -> Result<Vec<(Sign, MaskKey)>, Incomplete> {
        let (secret, r1) = (self.rebuild(dealer)?, self.context.roster);
        let not_as_committed = Incomplete::Dealer { dealer, blame: Blame::Commitment { dealer } };
        let fresh_keys = |of| self.roster.fresh_keys(of).map_err(|_| not_as_committed.clone());
        let advert = fresh_keys(dealer)?;
        if self.survivors.contains(dealer) {
            let commitment: Digest = seed_commitment(&secret);
            if !bool::from(commitment.as_bytes().ct_eq(advert.seed_commitment.as_bytes())) {
                return Err(not_as_committed);
            }
            return Ok(vec![(Sign::Minus, MaskKey::of_seed(&secret, &r1, dealer))]);
        }
        let secret = AgreementSecret::from_bytes(&secret);
        if !bool::from(secret.public().as_bytes().ct_eq(advert.s_pk.as_bytes())) {
            return Err(not_as_committed);
        }
        let neighbors = self.roster.graph().neighbors(dealer).into_iter();
        let survivors = neighbors.filter(|neighbor| self.survivors.contains(*neighbor));
        let mask = |survivor: Position| {
            let survivor_pk = &fresh_keys(survivor)?.s_pk;
            // The roster admits no key with which an agreement gives zero.
            let mask = MaskKey::of_pair(&secret, &r1, (dealer, &advert.s_pk), (survivor, survivor_pk))
                .ok_or(Incomplete::Dealer { dealer: survivor, blame: Blame::Commitment { dealer: survivor } })?;
            Ok((Sign::of_pair(survivor, dealer).reversed(), mask))
        };
        survivors.map(mask).collect()
    }

    fn rebuild(&self, dealer: Position) -> Result<Secret, Incomplete> {
        let (threshold, field) = (self.roster.thresholds().threshold(), Field::of_roster(self.roster.n1()));
        let n_shares = self.n_shares[dealer.index()];
        let too_few = Incomplete::Shares { dealer, n_shares, threshold };
        let mut shares = Vec::with_capacity(n_shares);
        for holder in self.roster.graph().neighbors(dealer) {
            let Some(answer) = &self.answers[holder.index()] else { continue };
            let Ok(index) = answer.shares.binary_search_by_key(&dealer, |(dealer, _)| *dealer) else { continue };
            let coordinate = field.coordinate(holder).map_err(|_| too_few.clone())?;
            shares.push((coordinate, &*answer.shares[index].1));
        }
        field.combine(threshold, &shares).map_err(|error| match error {
            ShamirError::OffPolynomial => Incomplete::Dealer { dealer, blame: Blame::OffPolynomial { dealer } },
            _ => too_few,
        })
    }

    /// Whether `holder` accepted shares of `dealer`.
    fn holds(&self, holder: Position, dealer: Position) -> bool {
        self.roster.graph().contains(holder, dealer) && !self.complaints[holder.index()].contains(&dealer)
    }

    /// Which kind of share of `dealer` is released: decided by the signed U3 alone.
    fn kind(&self, dealer: Position) -> ShareKind {
        if self.survivors.contains(dealer) { ShareKind::Seed } else { ShareKind::MaskingKey }
    }
}

/// Secrets to rebuild and keys to agree on from which on there is more than one worker: they take one some milliseconds.
const WORKERS_FROM: usize = 128;

/// The exact sum, modulo 2^b, of the vectors of U3.
#[derive(Clone, PartialEq, Eq)]
pub struct Sum {
    lanes: Lanes,
    bits: Bits,
    survivors: PositionSet,
}

impl Sum {
    /// Whose vectors are in it.
    pub fn survivors(&self) -> &PositionSet {
        &self.survivors
    }

    /// The residues, 0 to 2^b - 1.
    pub fn residues(&self) -> Vec<u32> {
        let mask = self.bits.mask();
        match &self.lanes {
            Lanes::U16(lanes) => lanes.iter().map(|lane| u32::from(*lane) & mask).collect(),
            Lanes::U32(lanes) => lanes.iter().map(|lane| lane & mask).collect(),
        }
    }

    /// SHA-256 over the residues, each a `u32` in little-endian order.
    pub fn digest(&self) -> Digest {
        let bytes: Vec<u8> = self.residues().iter().flat_map(|residue| residue.to_le_bytes()).collect();
        Digest::of(&bytes)
    }

    /// The representatives from -2^(b-1) to 2^(b-1) - 1: the sum itself, if it did not wrap.
    pub fn centered(&self) -> Vec<i64> {
        let unused = 64 - u32::from(self.bits.get());
        // Shifting up and, arithmetically, down again repeats the sign bit.
        self.residues().into_iter().map(|residue| (i64::from(residue) << unused) >> unused).collect()
    }
}

impl fmt::Debug for Sum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sum({} values of {} survivors)", self.lanes.len(), self.survivors.len())
    }
}

#[cfg(test)]
mod tests {
    use eranos_base::{Entropy, RoundNumber, SeededEntropy, SessionId, SigningKey};

    use super::*;
    use crate::{
        Advertised, GraphKind, Identity, RosterEntry, StatementKey, Terms, VerifiedCertifications, shamir::Coordinate,
        terms::Dimension,
    };

    /// Four clients, of whom the first `n_survivors` survive. Client 0 commits to one secret and deals the shares that `deal`
    /// makes of it.
    fn unmask_by(
        n_workers: usize,
        n_survivors: u16,
        deal: impl Fn(&Secret, &[Coordinate], &mut SeededEntropy) -> Vec<Secret>,
    ) -> Result<Sum, Incomplete> {
        let mut entropy = SeededEntropy::new(1);
        let bits = Bits::new(16).expect("valid");
        let terms = Arc::new(Terms {
            session: SessionId(Digest::of(b"session")),
            round: RoundNumber(1),
            plan: Digest::of(b"plan"),
            trust_domain: "example.org".parse().expect("name"),
            task: "task".parse().expect("name"),
            graph: GraphKind::Complete,
            max_colluders: 1,
            u_min: 3,
            n_max: 4,
            dimension: Dimension::new(5).expect("valid"),
            bits,
        });
        let identity = |i: usize, entropy: &mut SeededEntropy| {
            let id = format!("spiffe://example.org/client/c{i}").parse().expect("identity");
            Arc::new(Identity {
                id,
                certificate: Digest::of(&[i as u8]),
                certificate_key: SigningKey::generate(entropy),
                statement_key: StatementKey::derive(&entropy.bytes(), &terms.task),
                verified: VerifiedCertifications::default(),
            })
        };
        let mut clients: Vec<Advertised> =
            (0..4).map(|i| Advertised::begin(terms.clone(), identity(i, &mut entropy), &mut entropy)).collect();
        clients.sort_by_key(|client| client.advert().statement_key);
        let entries: Vec<RosterEntry> = clients.iter().map(Advertised::entry).collect();
        let roster = Arc::new(Roster::assemble(terms.clone(), entries).expect("valid"));
        let (context, everyone) = (roster.context(), PositionSet::of(4, roster.positions()));
        let survivors = PositionSet::of(4, (0..n_survivors).map(Position));

        let mut hashes = vec![Vec::new(); 4];
        let mut dealt = vec![Vec::new(); 4];
        for (dealer, client) in roster.positions().zip(&clients) {
            let holders: Vec<_> = roster.positions().filter(|holder| *holder != dealer).collect();
            let xs: Vec<_> =
                holders.iter().map(|holder| Field::Gf256.coordinate(*holder).expect("below 255")).collect();
            let (kind, secret) = match survivors.contains(dealer) {
                true => (ShareKind::Seed, client.secrets.seed.clone()),
                false => (ShareKind::MaskingKey, Secret::new(*client.secrets.s.as_bytes())),
            };
            let shares = match dealer {
                Position(0) => deal(&secret, &xs, &mut entropy),
                _ => share(&secret, &xs, &mut entropy),
            };
            for (holder, share) in holders.into_iter().zip(shares) {
                let hash = share_hash(&context.roster, kind, dealer, holder, &share);
                hashes[dealer.index()].push((holder, hash, hash));
                dealt[holder.index()].push((dealer, share));
            }
        }
        let sum = Lanes::zeros(terms.dimension, bits);
        let mut unmasker = Unmasker::new(
            (roster.clone(), context),
            (everyone, survivors.clone()),
            (ShareHashes(hashes), vec![Vec::new(); 4], sum),
        );
        for ((holder, client), shares) in survivors.iter().zip(&clients).zip(dealt) {
            let sign = |body: &[u8]| client.identity.sign(context, StatementKind::Unmask, holder, body);
            assert_eq!(unmasker.accept(holder, UnmaskAnswer::sign(shares, sign)), Ok(Arrival::New));
        }
        assert!(unmasker.is_complete());
        unmasker.finish_by(n_workers)
    }

    /// All four survive.
    fn unmask_after(
        deal: impl Fn(&Secret, &[Coordinate], &mut SeededEntropy) -> Vec<Secret>,
    ) -> Result<Sum, Incomplete> {
        unmask_by(1, 4, deal)
    }

    fn share(secret: &Secret, xs: &[Coordinate], entropy: &mut SeededEntropy) -> Vec<Secret> {
        Field::Gf256.share(secret, 2, xs, entropy).expect("valid")
    }

    #[test]
    fn shares_of_what_was_committed_to_unmask() {
        assert!(unmask_after(share).is_ok());
    }

    #[test]
    fn a_dealer_whose_shares_lead_to_another_secret_is_named_and_its_masking_key_not_asked_for() {
        let dealer = Position(0);
        let outcome = unmask_after(|_, xs, entropy| share(&Secret::new([9; 32]), xs, entropy));
        assert_eq!(outcome, Err(Incomplete::Dealer { dealer, blame: Blame::Commitment { dealer } }));
    }

    #[test]
    fn a_dealer_whose_shares_lie_on_no_one_polynomial_is_named() {
        let dealer = Position(0);
        let outcome = unmask_after(|seed, xs, entropy| {
            let mut shares = share(seed, xs, entropy);
            shares[2] = Secret::new([9; 32]);
            shares
        });
        assert_eq!(outcome, Err(Incomplete::Dealer { dealer, blame: Blame::OffPolynomial { dealer } }));
    }

    #[test]
    fn the_number_of_workers_changes_no_sum_and_nobody_who_is_named() {
        // One of four dropped out: a masking key is rebuilt and agreed with, and three seeds.
        let sum = unmask_by(1, 3, share).expect("as committed");
        assert_ne!(sum.residues(), [0; 5], "masks came off");
        let wrong =
            |_: &Secret, xs: &[Coordinate], entropy: &mut SeededEntropy| share(&Secret::new([9; 32]), xs, entropy);
        let dealer = Position(0);
        for n_workers in [2, 3, 4, 9] {
            assert!(unmask_by(n_workers, 3, share) == Ok(sum.clone()), "{n_workers} workers");
            let named = Err(Incomplete::Dealer { dealer, blame: Blame::Commitment { dealer } });
            assert_eq!(unmask_by(n_workers, 3, wrong), named, "{n_workers} workers");
        }
    }

    #[test]
    fn the_centered_sum_is_the_signed_one() {
        let bits = Bits::new(5).expect("valid");
        let sum = Sum { lanes: Lanes::U16(vec![0, 15, 16, 31, 32 + 3]), bits, survivors: PositionSet::new(3) };
        assert_eq!(sum.centered(), [0, 15, -16, -1, 3]);
        assert_eq!(sum.residues(), [0, 15, 16, 31, 3]);
    }
}
