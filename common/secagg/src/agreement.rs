//! X25519 (RFC 7748) and the keys derived from what it agrees on by HKDF-SHA256 (RFC 5869).

use eranos_base::Position;
use ring::hkdf;
use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::Zeroizing;

/// Why bytes are not a public key that this protocol takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AgreementKeyError {
    /// Not below 2^255 - 19: a second encoding of another key.
    #[error("x25519 key is not in canonical encoding")]
    NotCanonical,
    /// A point of small order: every shared secret with it is zero.
    #[error("x25519 key is of small order")]
    SmallOrder,
}

/// An X25519 public key in canonical encoding, not of small order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AgreementKey([u8; 32]);

impl AgreementKey {
    /// Reads a key.
    ///
    /// # Errors
    /// If the encoding is not canonical, or the key is of small order.
    pub fn from_bytes(bytes: [u8; 32]) -> Result<Self, AgreementKeyError> {
        // RFC 7748 lets a receiver reduce u modulo p and ignore the top bit; then one key would have many encodings,
        // and "pairwise distinct" would mean nothing.
        let below_p = bytes.iter().rev().cmp(P.iter().rev()).is_lt();
        if !below_p {
            return Err(AgreementKeyError::NotCanonical);
        }
        if SMALL_ORDER.contains(&bytes) {
            return Err(AgreementKeyError::SmallOrder);
        }
        Ok(Self(bytes))
    }

    /// Any bytes as a key, past all checks.
    #[cfg(test)]
    pub(crate) const fn unchecked(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The key's bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// An X25519 private key; wiped when dropped, and it prints nothing.
pub(crate) struct AgreementSecret(StaticSecret);

impl AgreementSecret {
    pub(crate) fn from_bytes(bytes: &[u8; 32]) -> Self {
        Self(StaticSecret::from(*bytes))
    }

    pub(crate) fn as_bytes(&self) -> &[u8; 32] {
        self.0.as_bytes()
    }

    pub(crate) fn public(&self) -> AgreementKey {
        // A clamped scalar times the base point generates the prime-order subgroup's points: never of small order, and
        // the encoding that X25519 gives is canonical.
        AgreementKey(PublicKey::from(&self.0).to_bytes())
    }

    /// The shared secret with `peer`, `None` if it is zero.
    pub(crate) fn agree(&self, peer: &AgreementKey) -> Option<Zeroizing<[u8; 32]>> {
        let shared = self.0.diffie_hellman(&PublicKey::from(peer.0));
        // `was_contributory` compares with zero in constant time.
        shared.was_contributory().then(|| Zeroizing::new(shared.to_bytes()))
    }
}

/// `N` bytes of HKDF-SHA256 over the input key material `ikm`, `salt` and the concatenation of `info`.
pub(crate) fn derive<const N: usize>(ikm: &[u8], salt: &[u8], info: &[&[u8]]) -> Zeroizing<[u8; N]> {
    struct Len(usize);

    impl hkdf::KeyType for Len {
        fn len(&self) -> usize {
            self.0
        }
    }

    const { assert!(N <= 255 * 32, "RFC 5869: at most 255 blocks") };
    let mut okm = Zeroizing::new([0; N]);
    let filled =
        hkdf::Salt::new(hkdf::HKDF_SHA256, salt).extract(ikm).expand(info, Len(N)).and_then(|prk| prk.fill(&mut *okm));
    // Unwrap safety: expand and fill fail only for a length above 255 blocks or another than the buffer's.
    filled.expect("a fixed length within HKDF's limit");
    okm
}

/// The bytes of a position in an info string or an associated datum.
pub(crate) const fn position_bytes(position: Position) -> [u8; 2] {
    position.0.to_le_bytes()
}

/// 2^255 - 19, little-endian.
const P: [u8; 32] = {
    let mut p = [0xff; 32];
    p[0] = 0xed;
    p[31] = 0x7f;
    p
};

/// The canonical u-coordinates of points of small order, on the curve and on its twist: 0, 1, p - 1, and the two of
/// order 8.
const SMALL_ORDER: [[u8; 32]; 5] = {
    let (zero, mut one, mut minus_one) = ([0; 32], [0; 32], P);
    one[0] = 1;
    minus_one[0] -= 1;
    [
        zero,
        one,
        minus_one,
        [
            0xe0, 0xeb, 0x7a, 0x7c, 0x3b, 0x41, 0xb8, 0xae, 0x16, 0x56, 0xe3, 0xfa, 0xf1, 0x9f, 0xc4, 0x6a, 0xda, 0x09,
            0x8d, 0xeb, 0x9c, 0x32, 0xb1, 0xfd, 0x86, 0x62, 0x05, 0x16, 0x5f, 0x49, 0xb8, 0x00,
        ],
        [
            0x5f, 0x9c, 0x95, 0xbc, 0xa3, 0x50, 0x8c, 0x24, 0xb1, 0xd0, 0xb1, 0x55, 0x9c, 0x83, 0xef, 0x5b, 0x04, 0x44,
            0x5c, 0xc4, 0x58, 0x1c, 0x8e, 0x86, 0xd8, 0x22, 0x4e, 0xdd, 0xd0, 0x9f, 0x11, 0x57,
        ],
    ]
};

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(hex: &str) -> [u8; 32] {
        hex::decode(hex).expect("hex").try_into().expect("32 bytes")
    }

    /// What the types promise; that no copy stays on a stack nobody can.
    #[test]
    fn secrets_are_wiped_when_they_are_dropped() {
        fn wiped<T: zeroize::ZeroizeOnDrop>(_: &T) {}
        wiped(&AgreementSecret::from_bytes(&[1; 32]).0);
        // Keys of masks and of sealing.
        wiped(&derive::<24>(b"shared", b"salt", &[]));
        let secrets = crate::RoundSecrets::generate(&mut eranos_base::SeededEntropy::new(1));
        wiped(&secrets.seed);
        let shares = crate::share_keys::HeldShares {
            dealer: Position(1),
            seed: secrets.seed.clone(),
            key: crate::shamir::Secret::new([2; 32]),
        };
        wiped(&shares.seed);
        wiped(&shares.key);
    }

    #[test]
    fn rfc_7748_vectors_hold() {
        // Section 5.2, the first vector.
        let k = AgreementSecret::from_bytes(&bytes("a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4"));
        let u = bytes("e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c");
        let shared = k.agree(&AgreementKey::from_bytes(u).expect("canonical")).expect("not zero");
        assert_eq!(*shared, bytes("c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552"));
        // Section 5.2, the iteration: (k, u) becomes (X25519(k, u), k).
        let (mut k, mut u) = ([0; 32], [0; 32]);
        (k[0], u[0]) = (9, 9);
        let mut after = Vec::new();
        for _ in 0..1000 {
            // The iteration feeds private keys in as public ones, canonical or not: past our own check.
            let next = *AgreementSecret::from_bytes(&k).agree(&AgreementKey(u)).expect("not zero");
            after.push(next);
            (k, u) = (next, k);
        }
        assert_eq!(after[0], bytes("422c8e7a6227d7bca1350b3e2bb7279f7897b87bb6854b783c60e80311ae3079"));
        assert_eq!(after[999], bytes("684cf59ba83309552800ef566f2f4d3c1c3887c49360e3875f2eb94d99532c51"));
    }

    #[test]
    fn a_public_key_is_the_secret_times_the_base_point_and_both_sides_agree() {
        let (a, b) = (AgreementSecret::from_bytes(&[1; 32]), AgreementSecret::from_bytes(&[2; 32]));
        let mut base = [0; 32];
        base[0] = 9;
        assert_eq!(a.public().as_bytes(), &*a.agree(&AgreementKey(base)).expect("not zero"));
        assert_eq!(a.agree(&b.public()), b.agree(&a.public()));
        assert_eq!(AgreementKey::from_bytes(*a.public().as_bytes()), Ok(a.public()));
    }

    #[test]
    fn rfc_5869_test_case_1_holds() {
        let salt = hex::decode("000102030405060708090a0b0c").expect("hex");
        let info = hex::decode("f0f1f2f3f4f5f6f7f8f9").expect("hex");
        // The info in two pieces: what counts is the concatenation.
        let okm = derive::<42>(&[0x0b; 22], &salt, &[&info[..4], &info[4..]]);
        let expect = "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865";
        assert_eq!(hex::encode(*okm), expect);
    }

    #[test]
    fn non_canonical_keys_are_refused() {
        let not_canonical = Err(AgreementKeyError::NotCanonical);
        for (low, high) in [(0xed, 0x7f), (0xee, 0x7f), (0xff, 0x7f), (0x09, 0x80), (0xff, 0xff)] {
            let mut key = if high == 0x80 { [0; 32] } else { [0xff; 32] };
            (key[0], key[31]) = (low, high);
            assert_eq!(AgreementKey::from_bytes(key), not_canonical, "{low:02x}..{high:02x}");
        }
        let mut largest = P;
        largest[0] -= 2;
        assert!(AgreementKey::from_bytes(largest).is_ok());
    }

    #[test]
    fn a_zero_shared_secret_is_refused_and_so_are_the_keys_that_lead_to_it() {
        let secret = AgreementSecret::from_bytes(&[3; 32]);
        for key in SMALL_ORDER {
            assert_eq!(AgreementKey::from_bytes(key), Err(AgreementKeyError::SmallOrder));
            // Were one to pass, the agreement would still be refused.
            assert_eq!(secret.agree(&AgreementKey(key)), None);
        }
    }
}
