//! Cosignatures: a witness's statement that, at a time, the largest tree it had seen of a log had this root, and that it
//! continued every smaller one it had seen. The format is C2SP's tlog-cosignature, version 1, of Ed25519.
//!
//! A cosignature is a signature line of the checkpoint's note. Its bytes are the time in seconds since 1970 (eight bytes,
//! big-endian) and the signature over `cosignature/v1`, `time <seconds>` and the checkpoint's text, each on its lines.

use std::{fmt, str::FromStr};

use eranos_base::{Signature, SigningKey, Timestamp, VerifyingKey};

use crate::note::{KeyError, NoteError, NoteSignature, Origin, SignedNote, VerifierKey};

/// The signature type of a timestamped Ed25519 cosignature (tlog-cosignature, "Format").
const ALGORITHM: u8 = 0x04;
/// The largest time that a cosignature may carry.
const SECONDS_MAX: u64 = i64::MAX as u64;

/// The public key of a witness: what an auditor pins, as one line (`Display`, `FromStr`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WitnessKey(VerifierKey);

impl WitnessKey {
    /// The key of the witness `name`.
    ///
    /// # Errors
    /// If `key` is not an Ed25519 public key in canonical encoding.
    pub fn new(name: Origin, key: VerifyingKey) -> Result<Self, KeyError> {
        Ok(Self(VerifierKey::new(name, ALGORITHM, key)?))
    }

    /// The witness's name.
    pub const fn name(&self) -> &Origin {
        self.0.name()
    }

    /// The key itself.
    pub const fn key(&self) -> &VerifyingKey {
        self.0.key()
    }

    /// Verifies the cosignature by this witness on `note`, and gives the time at which it was made, in whole seconds.
    ///
    /// # Errors
    /// If there is none, or it does not verify.
    pub fn verify(&self, note: &SignedNote) -> Result<Timestamp, NoteError> {
        let (name, key_id) = (self.name().clone(), self.0.key_id());
        let Some(found) = note.signatures().iter().find(|s| s.key_id == key_id && s.name == name) else {
            return Err(NoteError::Unsigned { name, key_id });
        };
        verified(&found.signature, note.text(), self.key()).ok_or(NoteError::Signature { name, key_id })
    }
}

#[expect(clippy::big_endian_bytes, reason = "tlog-cosignature writes times in big-endian")]
fn verified(bytes: &[u8], text: &str, key: &VerifyingKey) -> Option<Timestamp> {
    let (seconds, signature) = bytes.split_first_chunk::<8>()?;
    let seconds = u64::from_be_bytes(*seconds);
    let signature = Signature(signature.try_into().ok()?);
    let holds = seconds <= SECONDS_MAX && key.verify(message(text, seconds).as_bytes(), &signature).is_ok();
    holds.then(|| Timestamp::from_unix_ms(seconds.saturating_mul(1000)))
}

impl fmt::Display for WitnessKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for WitnessKey {
    type Err = KeyError;

    /// Parses the one-line form, strictly and without its line's end.
    fn from_str(line: &str) -> Result<Self, KeyError> {
        Ok(Self(VerifierKey::parse(line, ALGORITHM)?))
    }
}

/// The private half of a witness's key. It prints nothing and is wiped when dropped.
#[derive(Debug)]
pub struct WitnessSigner {
    name: Origin,
    key: SigningKey,
}

impl WitnessSigner {
    /// The key of the witness `name`.
    pub const fn new(name: Origin, key: SigningKey) -> Self {
        Self { name, key }
    }

    /// The public half, to be pinned.
    pub fn witness_key(&self) -> WitnessKey {
        WitnessKey(VerifierKey::of(self.name.clone(), ALGORITHM, &self.key))
    }

    /// The signature line for the checkpoint with this `text`, of the second in which `now` lies. Whether the checkpoint
    /// may be cosigned is for the caller, who knows the ones before ([`crate::witness`]).
    #[expect(clippy::big_endian_bytes, reason = "tlog-cosignature writes times in big-endian")]
    pub(crate) fn cosign(&self, text: &str, now: Timestamp) -> NoteSignature {
        let seconds = now.unix_ms() / 1000;
        let mut signature = seconds.to_be_bytes().to_vec();
        signature.extend_from_slice(&self.key.sign(message(text, seconds).as_bytes()).0);
        NoteSignature { name: self.name.clone(), key_id: self.witness_key().0.key_id(), signature }
    }
}

/// What a cosignature covers.
fn message(text: &str, seconds: u64) -> String {
    format!("cosignature/v1\ntime {seconds}\n{text}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note() -> SignedNote {
        // Its ledger's signature is not looked at here.
        SignedNote::parse(
            "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n\n\
             \u{2014} example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=\n"
                .as_bytes(),
        )
        .expect("a note")
    }

    fn signer() -> WitnessSigner {
        WitnessSigner::new("witness.example.com/w1".parse().expect("name"), SigningKey::from_seed(&[5; 32]))
    }

    const NOW: Timestamp = Timestamp::from_unix_ms(1_679_315_147_999);

    #[test]
    fn the_message_is_the_one_that_the_specification_prints() {
        let expected = "cosignature/v1\ntime 1679315147\nexample.com/behind-the-sofa\n20852163\n\
                        CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n";
        assert_eq!(message(note().text(), 1_679_315_147), expected);
    }

    #[test]
    fn a_public_witness_verifies_on_a_public_log() {
        // A checkpoint of a public log of certificates with the cosignature of a public witness, as it published both.
        let key: WitnessKey =
            "witness.navigli.sunlight.geomys.org+a3e00fe2+BNy/co4C1Hn1p+INwJrfUlgz7W55dSZReusH/GhUhJ/G"
                .parse()
                .expect("a key");
        let published = "coachandhorses2026h1.staging.certificate.transparency.goog\n\
                         185550722\n\
                         YXAM0VmnrfvLaBCOOYSJhCaE5F10oGBOo+hkbDa1kng=\n\n\
                         \u{2014} coachandhorses2026h1.staging.certificate.transparency.goog MpXgsHy8ZwxXnO+WjtVrPxAzL49Rs1gWTkNVNeEa//5peAzaocRCB3qt3EaibjzY5GILLtGgBP7dBhgcSHy+JQh0OAc=\n\
                         \u{2014} witness.navigli.sunlight.geomys.org o+AP4gAAAABqb7DzNrGFRJnQ9vrJ8xpnwZytnr/ZYczDIsvwvouiSjwOjn7a72ccxBk+lKnZ7dKqkYKER1s/KxLTaVwQD7lJZTC/CQ==\n";
        let note = SignedNote::parse(published.as_bytes()).expect("a note");
        assert_eq!(key.verify(&note), Ok(Timestamp::from_unix_ms(0x6a6f_b0f3 * 1000)));
        let other = SignedNote::parse(published.replace("185550722", "185550723").as_bytes()).expect("a note");
        assert!(matches!(key.verify(&other), Err(NoteError::Signature { .. })));
    }

    #[test]
    fn a_cosignature_is_added_carried_and_verified_with_its_time() {
        let (signer, mut note) = (signer(), note());
        let key = signer.witness_key();
        assert!(matches!(key.verify(&note), Err(NoteError::Unsigned { .. })));
        note.attach(signer.cosign(note.text(), NOW)).expect("attached");
        let note = SignedNote::parse(note.encode().as_bytes()).expect("a note");
        assert_eq!(note.signatures().len(), 2);
        assert_eq!(key.verify(&note), Ok(Timestamp::from_unix_ms(1_679_315_147_000)));
        // A later one by the same witness takes the place of the one before.
        let mut again = note.clone();
        again.attach(signer.cosign(note.text(), Timestamp::from_unix_ms(1_700_000_000_000))).expect("attached");
        assert_eq!(again.signatures().len(), 2);
        assert_eq!(key.verify(&again), Ok(Timestamp::from_unix_ms(1_700_000_000_000)));
    }

    #[test]
    fn a_key_is_one_line_of_its_own_type() {
        let key = signer().witness_key();
        assert_eq!(key.to_string().parse(), Ok(key.clone()));
        let as_ledger: Result<crate::LedgerKey, _> = key.to_string().parse();
        assert_eq!(as_ledger, Err(KeyError::Algorithm { found: 4, expected: 1 }));
        let ledger = crate::LedgerKey::new(key.name().clone(), *key.key()).expect("a key");
        assert_eq!(ledger.to_string().parse::<WitnessKey>(), Err(KeyError::Algorithm { found: 1, expected: 4 }));
    }

    #[test]
    fn every_flipped_bit_of_a_cosignature_is_refused() {
        let (signer, mut note) = (signer(), note());
        let key = signer.witness_key();
        let good = signer.cosign(note.text(), NOW);
        for bit in 0..good.signature.len() * 8 {
            let mut flipped = good.clone();
            flipped.signature[bit / 8] ^= 1 << (bit % 8);
            note.attach(flipped).expect("attached");
            assert!(matches!(key.verify(&note), Err(NoteError::Signature { .. })), "bit {bit}");
        }
        for len in 1..good.signature.len() {
            let mut cut = good.clone();
            cut.signature.truncate(len);
            note.attach(cut).expect("attached");
            assert!(key.verify(&note).is_err(), "cut to {len}");
        }
        // The plain signature of the same key over the text is no cosignature.
        let mut plain = good.clone();
        plain.signature = [&good.signature[..8], &signer.key.sign(note.text().as_bytes()).0].concat();
        note.attach(plain).expect("attached");
        assert!(key.verify(&note).is_err());
        note.attach(good).expect("attached");
        assert!(key.verify(&note).is_ok());
    }
}
