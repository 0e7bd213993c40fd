//! Ed25519 (RFC 8032), as the protocol signs with it.

use std::{fmt, str::FromStr};

use ed25519_dalek::{Signer, pkcs8::DecodePrivateKey};
use serde::{Deserialize, Serialize};

use crate::{Digest, Entropy};

/// Why a key or a signature was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SigningError {
    /// The bytes are not a public key in canonical encoding, or a key of small order.
    #[error("public key is not a canonical ed25519 key")]
    PublicKey,
    /// The bytes are not an Ed25519 private key in PKCS #8.
    #[error("private key is not an ed25519 key in PKCS #8")]
    PrivateKey,
    /// The signature is not the key's over these bytes.
    #[error("signature does not verify")]
    Signature,
}

/// A private key. It is wiped when dropped, prints nothing and cannot be serialized.
pub struct SigningKey(ed25519_dalek::SigningKey);

impl SigningKey {
    /// A fresh key.
    pub fn generate(entropy: &mut dyn Entropy) -> Self {
        let mut seed = zeroize::Zeroizing::new([0; 32]);
        entropy.fill(&mut *seed);
        Self::from_seed(&seed)
    }

    /// The key of a secret seed (RFC 8032, section 5.1.5).
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(ed25519_dalek::SigningKey::from_bytes(seed))
    }

    /// The key in a PKCS #8 document (RFC 8410), as certificate tools write it.
    ///
    /// # Errors
    /// If the document is of another kind.
    pub fn from_pkcs8(der: &[u8]) -> Result<Self, SigningError> {
        let key = ed25519_dalek::SigningKey::from_pkcs8_der(der).map_err(|_| SigningError::PrivateKey)?;
        Ok(Self(key))
    }

    /// The secret seed, to store it where secrets are stored.
    pub fn seed(&self) -> zeroize::Zeroizing<[u8; 32]> {
        zeroize::Zeroizing::new(self.0.to_bytes())
    }

    /// The public half.
    pub fn verifying_key(&self) -> VerifyingKey {
        VerifyingKey(self.0.verifying_key().to_bytes())
    }

    /// Signs `message`.
    pub fn sign(&self, message: &[u8]) -> Signature {
        Signature(self.0.sign(message).to_bytes())
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningKey(omitted)")
    }
}

/// A public key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct VerifyingKey(pub [u8; 32]);

impl VerifyingKey {
    /// Checks that this is a point in canonical encoding and not of small order: done once, where a key enters.
    ///
    /// # Errors
    /// If it is not.
    pub fn check(&self) -> Result<(), SigningError> {
        self.checked().map(|_| ())
    }

    /// The key after [`VerifyingKey::check`], with its point, for whoever verifies under it again and again.
    ///
    /// # Errors
    /// If it is not canonical, or of small order.
    pub fn checked(&self) -> Result<CheckedKey, SigningError> {
        let key = ed25519_dalek::VerifyingKey::from_bytes(&self.0).map_err(|_| SigningError::PublicKey)?;
        if is_suspect(&self.0) || key.is_weak() { Err(SigningError::PublicKey) } else { Ok(CheckedKey(key)) }
    }

    /// Verifies `signature` over `message`, strictly (no small-order keys or nonces).
    ///
    /// # Errors
    /// If it does not verify.
    pub fn verify(&self, message: &[u8], signature: &Signature) -> Result<(), SigningError> {
        let key = ed25519_dalek::VerifyingKey::from_bytes(&self.0).map_err(|_| SigningError::PublicKey)?;
        let signature = ed25519_dalek::Signature::from_bytes(&signature.0);
        key.verify_strict(message, &signature).map_err(|_| SigningError::Signature)
    }
}

/// SHA-256 of the key as a SubjectPublicKeyInfo, by which people name it: what `openssl pkey -pubout -outform DER | sha256sum`
/// prints of a certificate's key.
pub fn key_fingerprint(key: &VerifyingKey) -> Digest {
    Digest::of_parts(&[&SPKI_PREFIX, &key.0])
}

/// Everything of an Ed25519 SubjectPublicKeyInfo before the key (RFC 8410, section 4).
const SPKI_PREFIX: [u8; 12] = *b"\x30\x2a\x30\x05\x06\x03\x2b\x65\x70\x03\x21\x00";

/// A public key in canonical encoding and not of small order, with its point: to find that takes a square root.
#[derive(Clone, PartialEq, Eq)]
pub struct CheckedKey(ed25519_dalek::VerifyingKey);

impl CheckedKey {
    /// The key's bytes.
    pub fn key(&self) -> VerifyingKey {
        VerifyingKey(self.0.to_bytes())
    }

    /// As [`VerifyingKey::verify`].
    ///
    /// # Errors
    /// If it does not verify.
    pub fn verify(&self, message: &[u8], signature: &Signature) -> Result<(), SigningError> {
        let signature = ed25519_dalek::Signature::from_bytes(&signature.0);
        self.0.verify_strict(message, &signature).map_err(|_| SigningError::Signature)
    }
}

impl fmt::Debug for CheckedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CheckedKey({})", self.key())
    }
}

/// The index of the first of `signed` (key, message, signature) that does not verify. All together they take about a
/// third of the time that they take one by one, which happens only if one of them fails.
///
/// What [`VerifyingKey::verify`] accepts, this accepts. It may also accept a signature to whose nonce or key its maker added
/// a point of small order, which no one else can: such a signature is the key holder's own over these very bytes. (To
/// exclude it takes a multiplication by the group's order for each nonce, more than all that is saved here.) Who passes
/// signatures on to others, so that all must judge them alike, verifies them one by one.
pub fn first_unverified(signed: &[(VerifyingKey, Vec<u8>, Signature)]) -> Option<usize> {
    let mut last = None;
    let keys = signed.iter().map(|(key, ..)| match last {
        // A signer's statements often stand together, and reading a key takes a square root.
        Some((bytes, last)) if bytes == key.0 => Some(last),
        _ => {
            let parsed = ed25519_dalek::VerifyingKey::from_bytes(&key.0).ok()?;
            last = Some((key.0, parsed));
            // Under a key of small order anyone can sign.
            (!parsed.is_weak()).then_some(parsed)
        }
    });
    let keys: Option<Vec<_>> = keys.collect();
    let statements = || signed.iter().map(|(_, message, signature)| (&message[..], signature));
    match keys {
        Some(keys) if verify_together(&keys, statements()) => None,
        _ => signed.iter().position(|(key, message, signature)| key.verify(message, signature).is_err()),
    }
}

/// As [`first_unverified`], under keys that were read before.
pub fn first_unverified_under(signed: &[(&CheckedKey, Vec<u8>, Signature)]) -> Option<usize> {
    let keys: Vec<_> = signed.iter().map(|(key, ..)| key.0).collect();
    if verify_together(&keys, signed.iter().map(|(_, message, signature)| (&message[..], signature))) {
        return None;
    }
    signed.iter().position(|(key, message, signature)| key.verify(message, signature).is_err())
}

/// Whether all of these verify in one equation. False says nothing of any one of them.
fn verify_together<'a>(
    keys: &[ed25519_dalek::VerifyingKey],
    statements: impl Iterator<Item = (&'a [u8], &'a Signature)>,
) -> bool {
    let (messages, signatures): (Vec<_>, Vec<_>) =
        statements.map(|(message, signature)| (message, ed25519_dalek::Signature::from_bytes(&signature.0))).unzip();
    let any_suspect = signatures.iter().any(|signature| is_suspect(signature.r_bytes()));
    !any_suspect && ed25519_dalek::verify_batch(&messages, &signatures, keys).is_ok()
}

/// Whether `point` is no canonical encoding, or that of a point of small order. Decompression accepts y >= p = 2^255 - 19
/// as y - p. It also accepts -0 as x, but both points where x is 0 are of small order.
fn is_suspect(point: &[u8; 32]) -> bool {
    let mut y = *point;
    y[31] &= 0x7f;
    let [low, middle @ .., high] = &y;
    let is_reduced = *low < 0xed || middle.iter().any(|byte| *byte != 0xff) || *high != 0x7f;
    !is_reduced || SMALL_ORDER_Y.contains(&y)
}

/// The y-coordinates of the eight points of small order: 1 and p - 1, where x is 0; and 0 and those of the points of order
/// 8, each of which has two.
const SMALL_ORDER_Y: [[u8; 32]; 5] = {
    let (zero, mut one, mut minus_one) = ([0; 32], [0; 32], [0xff; 32]);
    one[0] = 1;
    (minus_one[0], minus_one[31]) = (0xec, 0x7f);
    [
        zero,
        one,
        minus_one,
        [
            0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4, 0x89, 0xf2, 0xef, 0x98, 0xf0, 0xd5, 0xdf,
            0xac, 0x05, 0xd3, 0xc6, 0x33, 0x39, 0xb1, 0x38, 0x02, 0x88, 0x6d, 0x53, 0xfc, 0x05,
        ],
        [
            0xc7, 0x17, 0x6a, 0x70, 0x3d, 0x4d, 0xd8, 0x4f, 0xba, 0x3c, 0x0b, 0x76, 0x0d, 0x10, 0x67, 0x0f, 0x2a, 0x20,
            0x53, 0xfa, 0x2c, 0x39, 0xcc, 0xc6, 0x4e, 0xc7, 0xfd, 0x77, 0x92, 0xac, 0x03, 0x7a,
        ],
    ]
};

impl fmt::Display for VerifyingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for VerifyingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VerifyingKey({self})")
    }
}

impl FromStr for VerifyingKey {
    type Err = SigningError;

    fn from_str(text: &str) -> Result<Self, SigningError> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes).map_err(|_| SigningError::PublicKey)?;
        let key = Self(bytes);
        key.check()?;
        Ok(key)
    }
}

/// A signature.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Signature(pub [u8; 64]);

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signature({self})")
    }
}

impl FromStr for Signature {
    type Err = SigningError;

    fn from_str(text: &str) -> Result<Self, SigningError> {
        let mut bytes = [0; 64];
        hex::decode_to_slice(text, &mut bytes).map_err(|_| SigningError::Signature)?;
        Ok(Self(bytes))
    }
}

// serde derives arrays up to 32 only; two halves keep the fixed width.
impl Serialize for Signature {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (low, high) = self.0.split_at(32);
        (<[u8; 32]>::try_from(low).unwrap_or_default(), <[u8; 32]>::try_from(high).unwrap_or_default())
            .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Signature {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (low, high) = <([u8; 32], [u8; 32])>::deserialize(deserializer)?;
        let mut bytes = [0; 64];
        bytes[..32].copy_from_slice(&low);
        bytes[32..].copy_from_slice(&high);
        Ok(Self(bytes))
    }
}

#[cfg(test)]
mod tests {
    use curve25519_dalek::{EdwardsPoint, Scalar, constants::EIGHT_TORSION, edwards::CompressedEdwardsY};

    use super::*;

    type Signed = (VerifyingKey, Vec<u8>, Signature);

    /// [`first_unverified`], after making sure that it says the same under keys that were read before.
    fn judge(signed: &[Signed]) -> Option<usize> {
        let keys: Result<Vec<_>, _> = signed.iter().map(|(key, ..)| key.checked()).collect();
        let first = first_unverified(signed);
        if let Ok(keys) = keys {
            assert!(keys.iter().zip(signed).all(|(checked, (key, ..))| checked.key() == *key));
            let under =
                keys.iter().zip(signed).map(|(key, (_, message, signature))| (key, message.clone(), *signature));
            assert_eq!(first_unverified_under(&under.collect::<Vec<_>>()), first);
        }
        first
    }

    fn point(bytes: &[u8]) -> EdwardsPoint {
        CompressedEdwardsY::from_slice(bytes).expect("32 bytes").decompress().expect("a point")
    }

    /// Adds a point to the one in these bytes.
    fn add(bytes: &mut [u8], other: EdwardsPoint) {
        let sum = point(bytes) + other;
        bytes.copy_from_slice(sum.compress().as_bytes());
    }

    /// The signature of `key` over `message` with `torsion` added to its nonce: R = rB + T, s = r + SHA-512(R, A, M) a.
    fn sign_with_torsion(key: &SigningKey, message: &[u8], torsion: EdwardsPoint) -> Signature {
        let wide = |bytes: &[&[u8]]| {
            let digest = ring::digest::digest(&ring::digest::SHA512, &bytes.concat());
            Scalar::from_bytes_mod_order_wide(digest.as_ref().try_into().expect("64 bytes"))
        };
        let r = wide(&[b"nonce", message]);
        let nonce = (EdwardsPoint::mul_base(&r) + torsion).compress();
        let k = wide(&[nonce.as_bytes(), &key.verifying_key().0, message]);
        let mut signature = [0; 64];
        signature[..32].copy_from_slice(nonce.as_bytes());
        signature[32..].copy_from_slice((r + k * key.0.to_scalar()).as_bytes());
        Signature(signature)
    }

    #[test]
    fn rfc_8032_test_1_holds_and_a_flipped_bit_does_not() {
        let mut seed = [0; 32];
        hex::decode_to_slice("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60", &mut seed)
            .expect("hex");
        let key = SigningKey::from_seed(&seed);
        let public = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";
        assert_eq!(key.verifying_key().to_string(), public);
        let signature = key.sign(b"");
        assert!(signature.to_string().starts_with("e5564300c360ac729086e2cc806e828a"));
        assert_eq!(key.verifying_key().verify(b"", &signature), Ok(()));
        for byte in 0..64 {
            let mut forged = signature;
            forged.0[byte] ^= 1;
            assert!(key.verifying_key().verify(b"", &forged).is_err());
        }
        assert!(key.verifying_key().verify(b"x", &signature).is_err());
        assert_eq!(format!("{key:?}"), "SigningKey(omitted)");
    }

    #[test]
    fn of_many_signatures_the_first_bad_one_is_named() {
        let keys: Vec<_> = (0..20).map(|i| SigningKey::from_seed(&[i; 32])).collect();
        let sign = |(i, key): (usize, &SigningKey)| {
            let message = vec![i as u8; i];
            (key.verifying_key(), message.clone(), key.sign(&message))
        };
        let signed: Vec<_> = keys.iter().enumerate().map(sign).collect();
        assert_eq!((judge(&signed), judge(&[])), (None, None));
        for bad in 0..20 {
            for byte in [0, 31, 32, 63] {
                let mut forged = signed.clone();
                forged[bad].2.0[byte] ^= 1;
                forged[19].2.0[40] ^= 1;
                assert_eq!(judge(&forged), Some(bad));
            }
            let mut of_another = signed.clone();
            of_another[bad].0 = keys[(bad + 1) % 20].verifying_key();
            assert_eq!(judge(&of_another), Some(bad));
        }
        // Two that are wrong by opposite amounts: their plain sum would be right.
        let mut opposite = signed.clone();
        opposite[3].1 = signed[4].1.clone();
        opposite[4].1 = signed[3].1.clone();
        assert_eq!(judge(&opposite), Some(3));
        // The identity as key and nonce, with s = 0, "signs" everything.
        let (mut identity, mut everything) = ([0; 32], [0; 64]);
        (identity[0], everything[0]) = (1, 1);
        let mut weak = signed;
        weak[5] = (VerifyingKey(identity), b"anything".to_vec(), Signature(everything));
        assert_eq!(judge(&weak), Some(5));
    }

    #[test]
    fn a_point_of_small_order_makes_nothing_pass_for_anothers_signature() {
        let keys: Vec<_> = (0..20).map(|i| SigningKey::from_seed(&[i; 32])).collect();
        let sign = |(i, key): (u8, &SigningKey)| (key.verifying_key(), vec![i; 40], key.sign(&[i; 40]));
        let signed: Vec<_> = (0..).zip(&keys).map(sign).collect();
        assert_eq!(judge(&signed), None);
        let check = |what: &str, change: &dyn Fn(&mut [Signed])| {
            let mut changed = signed.clone();
            change(&mut changed);
            assert_eq!(judge(&changed), Some(7), "{what}");
            let (key, message, signature) = &changed[7];
            assert!(key.verify(message, signature).is_err(), "{what}");
        };
        for torsion in EIGHT_TORSION {
            let bytes = torsion.compress().to_bytes();
            check("a nonce of small order, s = 0", &|signed| {
                signed[7].2 = Signature([bytes, [0; 32]].concat().try_into().expect("64 bytes"));
            });
            check("a key of small order", &|signed| signed[7].0 = VerifyingKey(bytes));
            check("both: they sign everything", &|signed| {
                signed[7].0 = VerifyingKey(bytes);
                signed[7].2 = Signature([bytes, [0; 32]].concat().try_into().expect("64 bytes"));
            });
        }
        for torsion in EIGHT_TORSION.into_iter().skip(1) {
            check("added to another's nonce", &|signed| add(&mut signed[7].2.0[..32], torsion));
            check("added to another's key", &|signed| add(&mut signed[7].0.0, torsion));
            check("added to two nonces, which cancel each other", &|signed| {
                add(&mut signed[7].2.0[..32], torsion);
                add(&mut signed[12].2.0[..32], -torsion);
            });
            check("added to a nonce and, taken away, to a key", &|signed| {
                add(&mut signed[7].2.0[..32], torsion);
                add(&mut signed[7].0.0, -torsion);
            });
        }
    }

    /// Only who has the key can make such a signature. One by one it is refused; in a batch it may pass, as what it is: that
    /// holder's statement. It never spoils, and never helps, another's.
    #[test]
    fn a_nonce_of_mixed_order_passes_for_its_makers_alone() {
        let keys: Vec<_> = (0..8).map(|i| SigningKey::from_seed(&[i; 32])).collect();
        let (mut n_passed, mut n_refused) = (0, 0);
        for message in 0..40u8 {
            let sign = |key: &SigningKey| (key.verifying_key(), vec![message; 9], key.sign(&[message; 9]));
            let honest: Vec<_> = keys.iter().map(sign).collect();
            for torsion in EIGHT_TORSION.into_iter().skip(1) {
                let mut signed = honest.clone();
                signed[5].2 = sign_with_torsion(&keys[5], &[message; 9], torsion);
                assert!(signed[5].0.verify(&signed[5].1, &signed[5].2).is_err(), "one by one");
                match judge(&signed) {
                    None => n_passed += 1,
                    Some(5) => n_refused += 1,
                    Some(other) => panic!("{other} is named for it"),
                }
                // A forged one beside it is found, whatever its nonce does to the batch.
                add(&mut signed[3].2.0[..32], -torsion);
                assert_eq!(judge(&signed), Some(3));
            }
            let plain = sign_with_torsion(&keys[5], &[message; 9], EIGHT_TORSION[0]);
            assert_eq!(honest[5].0.verify(&honest[5].1, &plain), Ok(()), "without torsion it is an honest signature");
        }
        assert!(n_passed > 0 && n_refused > n_passed, "{n_passed} passed, {n_refused} refused");
    }

    #[test]
    fn weak_and_non_canonical_keys_are_refused() {
        let mut identity = [0; 32];
        identity[0] = 1;
        assert_eq!(VerifyingKey(identity).check(), Err(SigningError::PublicKey));
        // y = p + 1 encodes the identity a second time.
        let mut non_canonical = [0xff; 32];
        for (low, high) in [(0xee, 0x7f), (0xed, 0x7f), (0xee, 0xff), (0xed, 0xff)] {
            (non_canonical[0], non_canonical[31]) = (low, high);
            assert_eq!(VerifyingKey(non_canonical).check(), Err(SigningError::PublicKey), "{low:02x}..{high:02x}");
        }
        // Of all y from p to 2^255 - 1, none passes for the point it reduces to; below p, what is a point does.
        let mut n_accepted = 0;
        for low in 0..=0xff {
            non_canonical[0] = low;
            for high in [0x7f, 0xff] {
                non_canonical[31] = high;
                let accepted = VerifyingKey(non_canonical).check().is_ok();
                assert!(!accepted || low < 0xed, "{low:02x}..{high:02x}");
                n_accepted += usize::from(accepted);
            }
        }
        assert!(n_accepted > 100, "{n_accepted}");
        for y in SMALL_ORDER_Y {
            for sign in [0, 0x80] {
                let mut key = y;
                key[31] |= sign;
                let parsed = ed25519_dalek::VerifyingKey::from_bytes(&key);
                assert!(sign != 0 || parsed.is_ok_and(|key| key.is_weak()), "{y:?} is of small order");
                assert_eq!(VerifyingKey(key).check(), Err(SigningError::PublicKey));
            }
        }
    }
}
