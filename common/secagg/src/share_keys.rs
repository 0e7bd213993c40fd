//! share_keys: every client deals a share of its seed and of its masking key to each of its neighbors (in the complete
//! graph everybody else), sealed to it, each part signed alone. The coordinator routes the parts and fixes U2, the set of those whose bundle arrived.

use std::{fmt, sync::Arc};

use eranos_base::{
    Context, Digest, Entropy, Position, Signature, StatementKind,
    encoding::{Canonical, DecodeError},
};
use ring::aead;
use zeroize::Zeroizing;

use crate::{
    Accumulator, AgreementKey, Arrival, Identity, Incomplete, Member, Misbehaviour, PositionSet, Ready, Refusal,
    Roster, RosterError, ShownRoster, ThresholdError,
    advert::Advertised,
    agreement::{AgreementSecret, derive, position_bytes},
    merkle,
    reader::{Reader, strictly_ascending},
    shamir::{Field, SECRET_LEN, Secret},
    thresholds::ROSTER_LEN_MAX,
};

/// What a share is a share of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ShareKind {
    /// b, the seed of the self mask.
    Seed = 1,
    /// s, the key of the pairwise masks.
    MaskingKey = 2,
}

/// SHA-256("eranos/secagg/v1/share-hash" || R1 || kind (u8) || dealer (u16) || holder (u16) || share): what the dealer
/// signs, the holder checks on receipt, and the coordinator checks when the share is released.
pub(crate) fn share_hash(
    roster: &Digest,
    kind: ShareKind,
    dealer: Position,
    holder: Position,
    share: &[u8; SECRET_LEN],
) -> Digest {
    Digest::of_parts(&[
        SHARE_HASH_DOMAIN,
        roster.as_bytes(),
        &[kind as u8],
        &position_bytes(dealer),
        &position_bytes(holder),
        share,
    ])
}

/// What one dealer's bundle holds for one holder.
///
/// Bytes (212): dealer (u16), holder (u16), ciphertext (80: the sealed share of the seed, of the masking key, and the
/// tag of AES-256-GCM), hash of the seed share (32), hash of the key share (32), signature (64). The signature covers,
/// as the body of a [`StatementKind::SharePart`]: holder (u16), SHA-256 of the ciphertext, SHA-256 of both hashes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharePart {
    /// Who made it.
    pub dealer: Position,
    /// For whom.
    pub holder: Position,
    /// Both shares, sealed.
    pub ciphertext: [u8; Self::CIPHERTEXT_LEN],
    /// The hash of the seed share.
    pub seed_hash: Digest,
    /// The hash of the masking key share.
    pub key_hash: Digest,
    /// The dealer's signature.
    pub signature: Signature,
}

impl SharePart {
    /// The length of a part in bytes.
    pub const LEN: usize = 2 + 2 + Self::CIPHERTEXT_LEN + 32 + 32 + 64;
    /// Two shares and the tag.
    pub const CIPHERTEXT_LEN: usize = 2 * SECRET_LEN + 16;

    /// The part's bytes.
    pub fn to_bytes(&self) -> [u8; Self::LEN] {
        let parts = [
            &position_bytes(self.dealer),
            &position_bytes(self.holder),
            &self.ciphertext[..],
            self.seed_hash.as_bytes(),
            self.key_hash.as_bytes(),
            &self.signature.0,
        ];
        let mut bytes = [0; Self::LEN];
        let mut rest = &mut bytes[..];
        for part in parts {
            let (head, tail) = rest.split_at_mut(part.len());
            head.copy_from_slice(part);
            rest = tail;
        }
        bytes
    }

    /// Reads a part.
    ///
    /// # Errors
    /// If the length is another.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new("share part", bytes);
        let part = Self {
            dealer: reader.position()?,
            holder: reader.position()?,
            ciphertext: reader.array()?,
            seed_hash: reader.digest()?,
            key_hash: reader.digest()?,
            signature: reader.signature()?,
        };
        reader.finish()?;
        Ok(part)
    }

    /// Whether the dealer signed the part for this roster. One by one at the coordinator: what it routes, every holder
    /// must find signed as well.
    fn verify(&self, roster: &Roster) -> bool {
        roster.verify(roster.context(), StatementKind::SharePart, self.dealer, &self.body(), &self.signature)
    }

    /// SHA-256("eranos/secagg/v1/share-hashes" || hash of the seed share || hash of the key share): what the signature
    /// covers of the two.
    pub fn hashes(&self) -> Digest {
        share_hashes(&self.seed_hash, &self.key_hash)
    }

    fn body(&self) -> Vec<u8> {
        part_body(self.holder, &self.ciphertext, &self.hashes())
    }
}

fn share_hashes(seed: &Digest, key: &Digest) -> Digest {
    Digest::of_parts(&[SHARE_HASHES_DOMAIN, seed.as_bytes(), key.as_bytes()])
}

/// What a dealer signs of a part.
fn part_body(holder: Position, ciphertext: &[u8], hashes: &Digest) -> Vec<u8> {
    [&position_bytes(holder)[..], Digest::of(ciphertext).as_bytes(), hashes.as_bytes()].concat()
}

/// A [`SharePart`] as its holder gets it. The holder computes the hashes of both shares from the shares themselves; what the
/// dealer signed of them tells whether they are the right ones.
///
/// Bytes (180): dealer (u16), holder (u16), ciphertext (80), SHA-256 of both hashes (32), signature (64).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddressedPart {
    /// Who made it.
    pub dealer: Position,
    /// For whom.
    pub holder: Position,
    /// Both shares, sealed.
    pub ciphertext: [u8; SharePart::CIPHERTEXT_LEN],
    /// [`SharePart::hashes`].
    pub hashes: Digest,
    /// The dealer's signature.
    pub signature: Signature,
}

impl From<&SharePart> for AddressedPart {
    fn from(part: &SharePart) -> Self {
        let SharePart { dealer, holder, ciphertext, signature, .. } = *part;
        Self { dealer, holder, ciphertext, hashes: part.hashes(), signature }
    }
}

impl AddressedPart {
    /// The length of a part in bytes.
    pub const LEN: usize = 2 + 2 + SharePart::CIPHERTEXT_LEN + 32 + 64;

    /// The part's bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let (dealer, holder) = (position_bytes(self.dealer), position_bytes(self.holder));
        [&dealer, &holder, &self.ciphertext[..], self.hashes.as_bytes(), &self.signature.0].concat()
    }

    /// Reads a part.
    ///
    /// # Errors
    /// If the length is another.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new("share part", bytes);
        let part = Self {
            dealer: reader.position()?,
            holder: reader.position()?,
            ciphertext: reader.array()?,
            hashes: reader.digest()?,
            signature: reader.signature()?,
        };
        reader.finish()?;
        Ok(part)
    }

    fn body(&self) -> Vec<u8> {
        part_body(self.holder, &self.ciphertext, &self.hashes)
    }

    /// Opens the part. `None` if it does not open, or the shares do not match the hashes: a complaint about the dealer.
    fn open(&self, context: &Context, key: &[u8; 32]) -> Option<HeldShares> {
        let mut plaintext = Zeroizing::new(self.ciphertext);
        let opened = sealing_key(key)
            .open_in_place(
                zero_nonce(),
                aead::Aad::from(associated_data(context, self.dealer, self.holder)),
                &mut plaintext[..],
            )
            .ok()?;
        let (seed, key) = opened.split_first_chunk()?;
        let (seed, key) = (Secret::new(*seed), Secret::new(*key.first_chunk()?));
        let hash = |kind, share| share_hash(&context.roster, kind, self.dealer, self.holder, share);
        let hashes = share_hashes(&hash(ShareKind::Seed, &seed), &hash(ShareKind::MaskingKey, &key));
        (hashes == self.hashes).then_some(HeldShares { dealer: self.dealer, seed, key })
    }
}

/// The bytes of the parts addressed to one holder, one after another.
pub fn parts_to_bytes(parts: &[AddressedPart]) -> Vec<u8> {
    parts.iter().flat_map(AddressedPart::to_bytes).collect()
}

/// Reads the parts addressed to one holder: as many as the bytes hold.
///
/// # Errors
/// If the length is no multiple of [`AddressedPart::LEN`], or there are more parts than a roster has clients.
pub fn parts_from_bytes(bytes: &[u8]) -> Result<Vec<AddressedPart>, DecodeError> {
    split::<{ AddressedPart::LEN }>(bytes)?.iter().map(|part| AddressedPart::from_bytes(part)).collect()
}

/// Parts of `LEN` bytes each.
fn split<const LEN: usize>(bytes: &[u8]) -> Result<&[[u8; LEN]], DecodeError> {
    let (parts, rest) = bytes.as_chunks::<LEN>();
    if !rest.is_empty() {
        return Err(DecodeError::Trailing { what: "share parts", n_bytes: rest.len() });
    }
    if parts.len() > ROSTER_LEN_MAX {
        let (len, max) = (parts.len() as u64, ROSTER_LEN_MAX as u64);
        return Err(DecodeError::Limit { what: "share parts", len, max });
    }
    Ok(parts)
}

/// All parts of one dealer, one for each neighbor in ascending order. Its bytes are theirs, one after another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bundle(Vec<SharePart>);

impl Bundle {
    /// A bundle of these parts; [`ShareRouter::accept`] judges them.
    pub fn new(parts: Vec<SharePart>) -> Self {
        Self(parts)
    }

    /// The bundle's bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.0.iter().flat_map(SharePart::to_bytes).collect()
    }

    /// Reads a bundle.
    ///
    /// # Errors
    /// If the length is no multiple of [`SharePart::LEN`], or there are more parts than a roster has clients.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        let parts = split::<{ SharePart::LEN }>(bytes)?;
        Ok(Self(parts.iter().map(|part| SharePart::from_bytes(part)).collect::<Result<_, _>>()?))
    }

    /// The parts.
    pub fn parts(&self) -> &[SharePart] {
        &self.0
    }

    /// What U2 names: SHA-256 over the canonical encoding of dealer, number of parts and each part.
    pub fn digest(&self, dealer: Position) -> Digest {
        let list = Canonical::new(BUNDLE_DOMAIN).u16(dealer.0).u32(self.0.len() as u32);
        Digest::of(&self.0.iter().fold(list, |list, part| list.field(&part.to_bytes())).finish())
    }
}

/// U2: those whose bundle arrived, and the hash of each bundle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sharers {
    set: PositionSet,
    bundles: Vec<Digest>,
    /// Over the canonical encodings of position and bundle hash.
    tree: merkle::Tree,
}

impl Sharers {
    /// The set of these members of a roster of `n1`, each with the hash of its bundle.
    ///
    /// # Errors
    /// If the positions do not ascend strictly within the roster.
    pub fn new(n1: usize, members: Vec<(Position, Digest)>) -> Result<Self, DecodeError> {
        let set = PositionSet::of(n1, members.iter().map(|(position, _)| *position));
        if set.len() != members.len() || !strictly_ascending(members.iter().map(|(position, _)| *position)) {
            return Err(DecodeError::Malformed { what: "sharers" });
        }
        let tree = merkle::Tree::new(members.iter().map(|(position, bundle)| sharer_leaf(*position, bundle)).collect());
        Ok(Self { set, bundles: members.into_iter().map(|(_, bundle)| bundle).collect(), tree })
    }

    /// The members.
    pub fn set(&self) -> &PositionSet {
        &self.set
    }

    /// The members, each with the hash of its bundle.
    pub fn members(&self) -> impl Iterator<Item = (Position, Digest)> + '_ {
        self.set.iter().zip(self.bundles.iter().copied())
    }

    /// SHA-256 over the canonical encoding of the set's bitmap and the Merkle root (RFC 6962) of its members' bundles: what
    /// READY signs.
    pub fn root(&self) -> Digest {
        sharers_root(&self.set, &self.tree.root())
    }

    /// What the client at `position` is shown of it.
    pub fn shown_to(&self, position: Position) -> ShownSharers {
        let path = match self.set.contains(position) {
            true => self.tree.proof(&[n_below(&self.set, position)]),
            false => Vec::new(),
        };
        ShownSharers { set: self.set.clone(), bundles: self.tree.root(), path }
    }

    /// The bytes that the coordinator signs for this set.
    pub fn statement(&self, roster: &Roster) -> Vec<u8> {
        sharers_statement(roster, self.root())
    }
}

/// U2 as one of its members is shown it: who is in it, and that the member's own bundle is the one that it made. The hashes
/// of other bundles would tell it nothing: each part of them that it gets is signed by its dealer.
///
/// Bytes: the bitmap of U2 (see [`PositionSet`]), the Merkle root over the bundles (32), the proof that the own one is in
/// it (32 each, see [`merkle::Tree::proof`]).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShownSharers {
    set: PositionSet,
    bundles: Digest,
    path: Vec<Digest>,
}

impl ShownSharers {
    /// The bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let path = self.path.iter().flat_map(|node| node.0);
        self.set.as_bytes().iter().copied().chain(self.bundles.0).chain(path).collect()
    }

    /// Reads what a member of a roster of `n1` is shown.
    ///
    /// # Errors
    /// If the bytes are not exactly that.
    pub fn from_bytes(bytes: &[u8], n1: usize) -> Result<Self, DecodeError> {
        let mut reader = Reader::new("sharers", bytes);
        let set = PositionSet::from_bytes(reader.bytes(n1.div_ceil(8))?, n1)?;
        let bundles = reader.digest()?;
        let path = reader.digests(PATH_LEN_MAX)?;
        reader.finish()?;
        Ok(Self { set, bundles, path })
    }

    /// The members.
    pub fn set(&self) -> &PositionSet {
        &self.set
    }

    /// [`Sharers::root`].
    pub fn root(&self) -> Digest {
        sharers_root(&self.set, &self.bundles)
    }

    /// The bytes that the coordinator signs for this set.
    pub fn statement(&self, roster: &Roster) -> Vec<u8> {
        sharers_statement(roster, self.root())
    }

    /// Whether the bundle of the member at `position` is the one of this hash.
    fn has_bundle(&self, position: Position, bundle: &Digest) -> bool {
        let shown = [(n_below(&self.set, position), sharer_leaf(position, bundle))];
        merkle::root_from(self.set.len(), &shown, &self.path) == Some(self.bundles)
    }
}

fn sharers_root(set: &PositionSet, bundles: &Digest) -> Digest {
    Digest::of(&Canonical::new(SHARERS_DOMAIN).field(set.as_bytes()).digest(bundles).finish())
}

fn sharer_leaf(position: Position, bundle: &Digest) -> Digest {
    merkle::leaf_hash(&Canonical::new(SHARER_DOMAIN).u16(position.0).digest(bundle).finish())
}

fn sharers_statement(roster: &Roster, root: Digest) -> Vec<u8> {
    roster.context().with_sharers(root).statement(StatementKind::Sharers, Position::NONE, &[])
}

/// How many members of the set stand before `position`.
fn n_below(set: &PositionSet, position: Position) -> usize {
    set.iter().take_while(|member| *member < position).count()
}

/// Both shares that one dealer gave this client. Wiped when dropped.
pub(crate) struct HeldShares {
    pub(crate) dealer: Position,
    pub(crate) seed: Secret,
    pub(crate) key: Secret,
}

/// The client that has dealt its shares and waits for U2.
pub struct SharedKeys {
    roster: Arc<Roster>,
    identity: Arc<Identity>,
    position: Position,
    masking_key: AgreementSecret,
    seed: Secret,
    /// The key that opens each neighbor's part, by position; none for anybody else.
    opening_keys: Vec<Option<Zeroizing<[u8; 32]>>>,
    bundle: Bundle,
}

impl SharedKeys {
    pub(crate) fn build(
        advertised: Advertised,
        shown: ShownRoster,
        members: Vec<Member>,
        entropy: &mut dyn Entropy,
    ) -> Result<Self, Refusal> {
        let own_entry = advertised.entry();
        let Advertised { terms, identity, secrets, advert } = advertised;
        let (roster, position) = Roster::of_shown(terms, shown, members, &identity.id, &identity.verified)?;
        if roster.entry(position) != Some(&own_entry) {
            return Err(Refusal::OwnEntryAltered);
        }
        let peers = roster.graph().neighbors(position);
        let field = Field::of_roster(roster.n1());
        // What the field of a roster refuses, the thresholds refuse before: it has a coordinate for each position.
        let coordinates = peers
            .iter()
            .map(|peer| field.coordinate(*peer))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|_| too_large(roster.n1()))?;
        let threshold = roster.thresholds().threshold();
        let mut shares = |secret: &[u8; SECRET_LEN]| {
            // The coordinates are distinct, and t is at most the degree: an error would be a roster that the thresholds
            // refuse.
            field.share(secret, threshold, &coordinates, entropy).map_err(|_| too_large(roster.n1()))
        };
        let (seed_shares, key_shares) = (shares(&secrets.seed)?, shares(secrets.s.as_bytes())?);

        let context = roster.context();
        let mut opening_keys: Vec<_> = roster.positions().map(|_| None).collect();
        let mut parts = Vec::with_capacity(peers.len());
        for ((peer, seed), key) in peers.into_iter().zip(&seed_shares).zip(&key_shares) {
            let peer_pk = &roster.fresh_keys(peer)?.c_pk;
            let shared = secrets.c.agree(peer_pk).ok_or(Refusal::ZeroSharedSecret { peer })?;
            let (own, peer_end) = ((position, &advert.c_pk), (peer, peer_pk));
            opening_keys[peer.index()] = Some(share_key(&shared, &context.roster, peer_end, own));
            let mut part = SharePart {
                dealer: position,
                holder: peer,
                ciphertext: seal(&share_key(&shared, &context.roster, own, peer_end), &context, own.0, peer, seed, key),
                seed_hash: share_hash(&context.roster, ShareKind::Seed, position, peer, seed),
                key_hash: share_hash(&context.roster, ShareKind::MaskingKey, position, peer, key),
                signature: Signature([0; 64]),
            };
            part.signature = identity.sign(context, StatementKind::SharePart, position, &part.body());
            parts.push(part);
        }
        Ok(Self {
            roster: Arc::new(roster),
            identity,
            position,
            masking_key: secrets.s,
            seed: secrets.seed,
            opening_keys,
            bundle: Bundle(parts),
        })
    }

    /// The roster, as this client checked it.
    pub fn roster(&self) -> &Arc<Roster> {
        &self.roster
    }

    /// This client's position.
    pub fn position(&self) -> Position {
        self.position
    }

    /// The bundle: built once, so that a resend is byte-identical.
    pub fn bundle(&self) -> &Bundle {
        &self.bundle
    }

    /// Takes U2 and the parts addressed to this client, and opens them. A part that its dealer signed but that does
    /// not open, or does not match its hashes, becomes a complaint; the masks with its dealer stay.
    ///
    /// # Errors
    /// If U2 is smaller than u_min, lacks this client, has another hash for its bundle, has fewer than t of its neighbors,
    /// or has one whose signed part did not arrive and verify; or a part is from someone else. The secrets are wiped.
    pub fn receive(self, sharers: &ShownSharers, parts: &[AddressedPart]) -> Result<Ready, Refusal> {
        let (n1, members) = (self.roster.n1(), &sharers.set);
        if members.n1() != n1 {
            return Err(Refusal::SharersMalformed);
        }
        let u_min = self.roster.thresholds().u_min();
        if members.len() < u_min {
            return Err(Refusal::TooFewSharers { n_sharers: members.len(), u_min });
        }
        if !members.contains(self.position) {
            return Err(Refusal::NotASharer);
        }
        if !sharers.has_bundle(self.position, &self.bundle.digest(self.position)) {
            return Err(Refusal::OwnBundleAltered);
        }
        self.roster.check_neighbors(self.position, members)?;
        let graph = self.roster.graph();
        let mut by_dealer: Vec<Option<&AddressedPart>> = vec![None; n1];
        for part in parts {
            let expected = graph.contains(part.dealer, self.position) && members.contains(part.dealer);
            if part.holder != self.position || !expected {
                return Err(Refusal::ForeignPart { dealer: part.dealer, holder: part.holder });
            }
            if by_dealer[part.dealer.index()].replace(part).is_some() {
                return Err(Refusal::PartMissing { dealer: part.dealer });
            }
        }
        let dealers = graph.neighbors(self.position).into_iter().filter(|dealer| members.contains(*dealer));
        let parts = dealers.map(|dealer| by_dealer[dealer.index()].ok_or(Refusal::PartMissing { dealer }));
        let parts = parts.collect::<Result<Vec<_>, _>>()?;
        let context = self.roster.context();
        let signed = parts.iter().map(|part| (part.dealer, part.body(), &part.signature));
        if let Some(dealer) = self.roster.first_unverified(context, StatementKind::SharePart, signed) {
            return Err(Refusal::PartSignature { dealer });
        }
        let (mut held, mut complaints) = (Vec::with_capacity(parts.len()), Vec::new());
        for part in parts {
            let dealer = part.dealer;
            let key = self.opening_keys[dealer.index()].as_ref();
            match key.and_then(|key| part.open(&context, key)) {
                Some(shares) => held.push(shares),
                None => complaints.push(dealer),
            }
        }
        Ok(Ready::new(
            (self.roster, self.identity, self.position),
            (members.clone(), sharers.root()),
            (self.masking_key, self.seed),
            held,
            complaints,
        ))
    }
}

impl fmt::Debug for SharedKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SharedKeys(position {}, secrets omitted)", self.position)
    }
}

fn too_large(n1: usize) -> Refusal {
    Refusal::Roster(RosterError::Thresholds(ThresholdError::RosterTooLarge { n1 }))
}

/// The key of the one message from `from` to `to`. Directions have different keys, so that the zero nonce is used once
/// under each.
fn share_key(
    shared: &[u8; 32],
    roster: &Digest,
    from: (Position, &AgreementKey),
    to: (Position, &AgreementKey),
) -> Zeroizing<[u8; 32]> {
    let info =
        [SHARE_INFO, &position_bytes(from.0), &position_bytes(to.0), &from.1.as_bytes()[..], &to.1.as_bytes()[..]];
    derive(shared, roster.as_bytes(), &info)
}

fn seal(
    key: &[u8; 32],
    context: &Context,
    from: Position,
    to: Position,
    seed: &Secret,
    masking_key: &Secret,
) -> [u8; SharePart::CIPHERTEXT_LEN] {
    let mut bytes = Zeroizing::new([0; SharePart::CIPHERTEXT_LEN]);
    bytes[..SECRET_LEN].copy_from_slice(&seed[..]);
    bytes[SECRET_LEN..2 * SECRET_LEN].copy_from_slice(&masking_key[..]);
    let (plaintext, tag_bytes) = bytes.split_at_mut(2 * SECRET_LEN);
    let tag = sealing_key(key)
        .seal_in_place_separate_tag(zero_nonce(), aead::Aad::from(associated_data(context, from, to)), plaintext)
        // Unwrap safety: sealing fails only for plaintexts of more than 64 GiB.
        .expect("64 bytes can be sealed");
    tag_bytes.copy_from_slice(tag.as_ref());
    *bytes
}

pub(crate) fn sealing_key(key: &[u8; 32]) -> aead::LessSafeKey {
    // Unwrap safety: only a key of another length is refused.
    aead::LessSafeKey::new(aead::UnboundKey::new(&aead::AES_256_GCM, key).expect("a key of 32 bytes"))
}

/// Exactly one message is sealed under each key.
fn zero_nonce() -> aead::Nonce {
    aead::Nonce::assume_unique_for_key([0; aead::NONCE_LEN])
}

/// Session (32), round (u64), plan (32), R1 (32), from (u16), to (u16).
fn associated_data(context: &Context, from: Position, to: Position) -> Vec<u8> {
    [
        &context.session.0.as_bytes()[..],
        &context.round.0.to_le_bytes(),
        context.plan.as_bytes(),
        context.roster.as_bytes(),
        &position_bytes(from),
        &position_bytes(to),
    ]
    .concat()
}

/// The coordinator that collects bundles.
#[derive(Debug)]
pub struct ShareRouter {
    roster: Arc<Roster>,
    bundles: Vec<Option<Bundle>>,
}

impl ShareRouter {
    /// Collects the bundles of this roster.
    pub fn new(roster: Arc<Roster>) -> Self {
        let bundles = roster.positions().map(|_| None).collect();
        Self { roster, bundles }
    }

    /// The roster.
    pub fn roster(&self) -> &Arc<Roster> {
        &self.roster
    }

    /// Takes the bundle of the client at `position`.
    ///
    /// # Errors
    /// If it is not one signed part for each neighbor, or another than the one taken before.
    pub fn accept(&mut self, position: Position, bundle: Bundle) -> Result<Arrival, Misbehaviour> {
        let message = "bundle";
        let Some(taken) = self.bundles.get_mut(position.index()) else {
            return Err(Misbehaviour::NotExpected { position, message });
        };
        if taken.as_ref() == Some(&bundle) {
            return Ok(Arrival::Again);
        }
        let holders = self.roster.graph().neighbors(position).into_iter();
        let complete =
            bundle.0.iter().map(|part| (part.dealer, part.holder)).eq(holders.map(|holder| (position, holder)));
        if !complete {
            return Err(Misbehaviour::BundleIncomplete { dealer: position });
        }
        if !bundle.0.iter().all(|part| part.verify(&self.roster)) {
            return Err(Misbehaviour::Signature { position, message });
        }
        if taken.is_some() {
            return Err(Misbehaviour::Equivocation { position, message });
        }
        *taken = Some(bundle);
        Ok(Arrival::New)
    }

    /// How many bundles arrived.
    pub fn n_sharers(&self) -> usize {
        self.bundles.iter().flatten().count()
    }

    /// Fixes U2.
    ///
    /// # Errors
    /// If fewer than u_min bundles arrived, or fewer than t of some member's neighbors.
    pub fn close(self) -> Result<Routed, Incomplete> {
        let (n_sharers, u_min) = (self.n_sharers(), self.roster.thresholds().u_min());
        if n_sharers < u_min {
            return Err(Incomplete::Sharers { n_sharers, u_min });
        }
        let digests = self.roster.positions().zip(&self.bundles);
        let members = digests.filter_map(|(position, bundle)| Some((position, bundle.as_ref()?.digest(position))));
        // Unwrap safety: in order of position, and none that the roster lacks.
        let sharers = Sharers::new(self.roster.n1(), members.collect()).expect("ascending positions");
        if let Some((dealer, n_shares)) = self.roster.first_out_of_reach(&sharers.set, &sharers.set) {
            return Err(Incomplete::Shares { dealer, n_shares, threshold: self.roster.thresholds().threshold() });
        }
        Ok(Routed { roster: self.roster, sharers, bundles: self.bundles })
    }
}

/// The coordinator that has fixed U2 and delivers the parts.
#[derive(Debug)]
pub struct Routed {
    pub(crate) roster: Arc<Roster>,
    pub(crate) sharers: Sharers,
    bundles: Vec<Option<Bundle>>,
}

impl Routed {
    /// U2.
    pub fn sharers(&self) -> &Sharers {
        &self.sharers
    }

    /// The parts addressed to `holder`, by its neighbors in U2 in order.
    pub fn parts_for(&self, holder: Position) -> Vec<AddressedPart> {
        let dealers = self.roster.graph().neighbors(holder).into_iter();
        let bundles = dealers.filter_map(|dealer| self.bundles.get(dealer.index())?.as_ref());
        // A bundle's parts are in order of holder.
        let part = |bundle: &Bundle| {
            let index = bundle.0.binary_search_by_key(&holder, |part| part.holder).ok()?;
            Some(AddressedPart::from(&bundle.0[index]))
        };
        bundles.filter_map(part).collect()
    }

    /// Goes on to the masked vectors.
    pub fn accumulate(self) -> Accumulator {
        Accumulator::new(self)
    }

    /// Keeps of the bundles what checks released shares.
    pub(crate) fn into_hashes(self) -> ShareHashes {
        let mut hashes: Vec<_> = self.bundles.iter().map(|_| Vec::new()).collect();
        for part in self.bundles.into_iter().flatten().flat_map(|bundle| bundle.0) {
            hashes[part.dealer.index()].push((part.holder, part.seed_hash, part.key_hash));
        }
        ShareHashes(hashes)
    }
}

/// By dealer: holder, hash of its seed share, hash of its key share, in ascending order of holder.
#[derive(Debug)]
pub(crate) struct ShareHashes(pub(crate) Vec<Vec<(Position, Digest, Digest)>>);

impl ShareHashes {
    /// The hash that `dealer` signed for the share of `kind` it dealt to `holder`.
    pub(crate) fn of(&self, kind: ShareKind, dealer: Position, holder: Position) -> Option<&Digest> {
        let dealt = self.0.get(dealer.index())?;
        let index = dealt.binary_search_by_key(&holder, |(holder, ..)| *holder).ok()?;
        let (_, seed, key) = &dealt[index];
        Some(match kind {
            ShareKind::Seed => seed,
            ShareKind::MaskingKey => key,
        })
    }
}

const SHARE_HASH_DOMAIN: &[u8] = b"eranos/secagg/v1/share-hash";
const SHARE_HASHES_DOMAIN: &[u8] = b"eranos/secagg/v1/share-hashes";
const SHARE_INFO: &[u8] = b"eranos/secagg/v1/share";
const BUNDLE_DOMAIN: &str = "eranos/secagg/v1/bundle";
const SHARERS_DOMAIN: &str = "eranos/secagg/v1/sharers";
const SHARER_DOMAIN: &str = "eranos/secagg/v1/sharer";
/// Most nodes in the proof of one bundle: a tree of [`ROSTER_LEN_MAX`] leaves is no higher.
const PATH_LEN_MAX: usize = ROSTER_LEN_MAX.next_power_of_two().trailing_zeros() as usize;

#[cfg(test)]
mod tests {
    use eranos_base::{RoundNumber, SessionId};

    use super::*;

    fn context() -> Context {
        Context::new(SessionId(Digest::of(b"s")), RoundNumber(1), Digest::of(b"p")).with_roster(Digest::of(b"r"))
    }

    #[test]
    fn the_two_directions_of_a_pair_are_sealed_under_different_keys() {
        let (a, b) = (AgreementSecret::from_bytes(&[1; 32]), AgreementSecret::from_bytes(&[2; 32]));
        let (a_pk, b_pk) = (a.public(), b.public());
        let shared = a.agree(&b_pk).expect("not zero");
        let (at_a, at_b) = ((Position(0), &a_pk), (Position(1), &b_pk));
        let r1 = context().roster;
        let a_to_b = share_key(&shared, &r1, at_a, at_b);
        let b_to_a = share_key(&shared, &r1, at_b, at_a);
        assert_ne!(a_to_b, b_to_a);
        assert_eq!(a_to_b, share_key(&b.agree(&a_pk).expect("not zero"), &r1, at_a, at_b));
        assert_ne!(a_to_b, share_key(&shared, &Digest::of(b"another"), at_a, at_b));
        // The same bytes under both keys with the same nonce would show their difference.
        let (seed, key) = (Secret::new([3; 32]), Secret::new([4; 32]));
        let sealed = |sealing: &[u8; 32], from, to| seal(sealing, &context(), from, to, &seed, &key);
        let ciphertext = sealed(&a_to_b, Position(0), Position(1));
        assert_ne!(ciphertext, sealed(&b_to_a, Position(1), Position(0)));
        assert_eq!(ciphertext, sealed(&a_to_b, Position(0), Position(1)), "a resend is byte-identical");
    }

    #[test]
    fn a_part_opens_only_where_everything_it_is_bound_to_is_the_same() {
        let key = [5; 32];
        let (seed, masking_key) = (Secret::new([3; 32]), Secret::new([4; 32]));
        let (dealer, holder) = (Position(2), Position(6));
        let hash = |kind, share| share_hash(&context().roster, kind, dealer, holder, share);
        let (seed_hash, key_hash) = (hash(ShareKind::Seed, &seed), hash(ShareKind::MaskingKey, &masking_key));
        let part = AddressedPart {
            dealer,
            holder,
            ciphertext: seal(&key, &context(), dealer, holder, &seed, &masking_key),
            hashes: share_hashes(&seed_hash, &key_hash),
            signature: Signature([0; 64]),
        };
        let shares = part.open(&context(), &key).expect("opens");
        assert_eq!((shares.dealer, shares.seed, shares.key), (dealer, seed, masking_key));
        let refused = |part: &AddressedPart, context: &Context, key| assert!(part.open(context, key).is_none());
        refused(&part, &context(), &[6; 32]);
        refused(&part, &Context { round: RoundNumber(2), ..context() }, &key);
        refused(&part, &Context { plan: Digest::of(b"q"), ..context() }, &key);
        refused(&part, &Context { session: SessionId(Digest::of(b"t")), ..context() }, &key);
        refused(&part, &context().with_roster(Digest::of(b"q")), &key);
        refused(&AddressedPart { holder: Position(7), ..part.clone() }, &context(), &key);
        refused(&AddressedPart { dealer: Position(1), ..part.clone() }, &context(), &key);
        for hashes in [(key_hash, seed_hash), (seed_hash, seed_hash), (key_hash, key_hash)] {
            refused(&AddressedPart { hashes: share_hashes(&hashes.0, &hashes.1), ..part.clone() }, &context(), &key);
        }
        for byte in 0..SharePart::CIPHERTEXT_LEN {
            let mut flipped = part.clone();
            flipped.ciphertext[byte] ^= 1;
            refused(&flipped, &context(), &key);
        }
    }

    #[test]
    fn sharers_are_strict_and_show_each_member_its_own_bundle() {
        let digest = |i: u16| Digest::of(&i.to_le_bytes());
        let of = |members: &[u16]| Sharers::new(7, members.iter().map(|i| (Position(*i), digest(*i))).collect());
        let sharers = of(&[0, 2, 4, 6]).expect("ascending");
        for malformed in [&[4, 0][..], &[4, 4], &[0, 7]] {
            assert!(of(malformed).is_err(), "{malformed:?}");
        }
        for position in sharers.set().iter() {
            let shown = sharers.shown_to(position);
            assert_eq!((shown.root(), shown.set()), (sharers.root(), sharers.set()));
            assert!(shown.has_bundle(position, &digest(position.0)));
            assert!(!shown.has_bundle(position, &digest(position.0 + 1)));
            let other = Position((position.0 + 2) % 8);
            assert!(!shown.has_bundle(other, &digest(position.0)) && !shown.has_bundle(other, &digest(other.0)));
            let bytes = shown.to_bytes();
            assert_eq!(ShownSharers::from_bytes(&bytes, 7), Ok(shown));
            for len in (0..bytes.len()).filter(|len| *len != 33 && *len != 65) {
                assert!(ShownSharers::from_bytes(&bytes[..len], 7).is_err(), "{len}");
            }
            let longer = [&bytes[..], &[0; 32 * PATH_LEN_MAX]].concat();
            assert!(matches!(ShownSharers::from_bytes(&longer, 7), Err(DecodeError::Limit { .. })));
        }
        // Both who is in it and what they sent is in its root.
        let mut members: Vec<_> = sharers.members().collect();
        members[1].1 = digest(9);
        let roots = [of(&[0, 2, 4]), of(&[0, 2, 5, 6]), Sharers::new(7, members)].map(|s| s.expect("ascending").root());
        assert!(!roots.contains(&sharers.root()));
    }
}
