//! Signed notes and checkpoints, as C2SP writes them (signed-note, tlog-checkpoint), and the one line by which a
//! ledger's key is pinned.
//!
//! A note is text, an empty line, and one line per signature. A checkpoint is a note whose text is the log's origin, its
//! size and its root. The key's one-line form is `<name>+<key id>+<base64 of 0x01 and the key>`; the name of a ledger's
//! key is the log's origin. Signatures by keys that nobody asked about (a type we do not know, a witness's that nobody
//! demands) are carried along and not judged.

use std::{fmt, str::FromStr};

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use eranos_base::{Digest, Signature, SigningKey, VerifyingKey};

use crate::{text::parse_u64, tree::SIZE_MAX};

/// Longest origin, and longest name of a key, in bytes.
pub const ORIGIN_LEN_MAX: usize = 255;
/// Longest signed note that is parsed, in bytes.
pub const NOTE_LEN_MAX: usize = 16 << 10;
/// Most signatures on a note.
pub const NOTE_SIGNATURES_MAX: usize = 32;
/// Longest one-line form of a key, in bytes.
pub const VKEY_LEN_MAX: usize = ORIGIN_LEN_MAX + 1 + 8 + 1 + 44;

/// The signature type of Ed25519 (signed-note, "Signature types").
const ALGORITHM_ED25519: u8 = 0x01;
/// What starts a signature's line: an em dash and a space.
const SIGNATURE_PREFIX: &str = "\u{2014} ";

/// Why a name or a key's one-line form was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The name is empty, too long, or holds a character outside printable ASCII, a space or a plus.
    #[error("name {found:?}, expected 1 to {ORIGIN_LEN_MAX} characters of printable ASCII without space and '+'")]
    Name {
        /// What was found.
        found: String,
    },
    /// The line is not of the form `<name>+<key id>+<base64>`.
    #[error("not a key, expected one line <name>+<key id>+<base64>")]
    Form,
    /// The key id is not that of this name and key.
    #[error("key id {found}, but this name and key have {expected}")]
    KeyId {
        /// The id in the line.
        found: String,
        /// The id computed.
        expected: String,
    },
    /// The key is of another type.
    #[error("key of type {found:#04x}, expected {expected:#04x} (a ledger's is 0x01, a witness's 0x04)")]
    Algorithm {
        /// The type found.
        found: u8,
        /// The type expected.
        expected: u8,
    },
    /// The key is not an Ed25519 public key.
    #[error("key is not an ed25519 public key")]
    Key,
}

/// Why a note or a checkpoint was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoteError {
    /// It is longer than [`NOTE_LEN_MAX`].
    #[error("note of {len} bytes, limit {NOTE_LEN_MAX}")]
    Length {
        /// Its length.
        len: usize,
    },
    /// It is not text, an empty line, and signature lines.
    #[error("not a signed note: {what}")]
    Form {
        /// What is wrong.
        what: &'static str,
    },
    /// None of its signatures is by the key asked for.
    #[error("no signature by {name}+{key_id:08x}")]
    Unsigned {
        /// The key's name.
        name: Origin,
        /// The key's id.
        key_id: u32,
    },
    /// The signature by the key asked for does not verify.
    #[error("the signature by {name}+{key_id:08x} does not verify")]
    Signature {
        /// The key's name.
        name: Origin,
        /// The key's id.
        key_id: u32,
    },
    /// The text is not a checkpoint.
    #[error("not a checkpoint: {what}")]
    Checkpoint {
        /// What is wrong.
        what: &'static str,
    },
    /// The checkpoint is of another log than the key's name says.
    #[error("checkpoint of log {found}, expected {expected}")]
    Origin {
        /// The origin found.
        found: Origin,
        /// The key's name.
        expected: Origin,
    },
}

/// The name of a log, and of its key: 1 to 255 characters of printable ASCII without space and '+', by custom a URL
/// without its scheme.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Origin(String);

impl Origin {
    /// The origin as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Origin {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let valid =
            (1..=ORIGIN_LEN_MAX).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic() && b != b'+');
        if valid { Ok(Self(text.to_owned())) } else { Err(KeyError::Name { found: text.chars().take(64).collect() }) }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Origin({})", self.0)
    }
}

/// A public key with its name and the type of its signatures, as one line: `<name>+<key id>+<base64 of type and key>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct VerifierKey {
    name: Origin,
    algorithm: u8,
    key: VerifyingKey,
}

impl VerifierKey {
    /// # Errors
    /// If `key` is not an Ed25519 public key in canonical encoding.
    pub(crate) fn new(name: Origin, algorithm: u8, key: VerifyingKey) -> Result<Self, KeyError> {
        key.check().map_err(|_| KeyError::Key)?;
        Ok(Self { name, algorithm, key })
    }

    /// The public half of `key`.
    pub(crate) fn of(name: Origin, algorithm: u8, key: &SigningKey) -> Self {
        Self { name, algorithm, key: key.verifying_key() }
    }

    pub(crate) const fn name(&self) -> &Origin {
        &self.name
    }

    pub(crate) const fn key(&self) -> &VerifyingKey {
        &self.key
    }

    /// The first four bytes, big-endian, of SHA-256 over the name, a newline, the signature type and the key.
    #[expect(clippy::big_endian_bytes, reason = "signed-note writes key ids in big-endian")]
    pub(crate) fn key_id(&self) -> u32 {
        let digest = Digest::of_parts(&[self.name.0.as_bytes(), b"\n", &[self.algorithm], &self.key.0]);
        let [a, b, c, d, ..] = digest.0;
        u32::from_be_bytes([a, b, c, d])
    }

    /// Parses the one-line form of a key whose signatures are of the type `expected`, strictly and without its line's end.
    pub(crate) fn parse(line: &str, expected: u8) -> Result<Self, KeyError> {
        if line.len() > VKEY_LEN_MAX || !line.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(KeyError::Form);
        }
        // The base64 may hold a plus; name and id may not.
        let mut parts = line.splitn(3, '+');
        let (Some(name), Some(key_id), Some(key)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(KeyError::Form);
        };
        let name: Origin = name.parse()?;
        let bytes = BASE64.decode(key).map_err(|_| KeyError::Form)?;
        let (algorithm, key) = bytes.split_first().ok_or(KeyError::Form)?;
        if *algorithm != expected {
            return Err(KeyError::Algorithm { found: *algorithm, expected });
        }
        let key = Self::new(name, expected, VerifyingKey(key.try_into().map_err(|_| KeyError::Key)?))?;
        let expected = format!("{:08x}", key.key_id());
        if key_id != expected {
            return Err(KeyError::KeyId { found: key_id.chars().take(16).collect(), expected });
        }
        Ok(key)
    }
}

impl fmt::Display for VerifierKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = vec![self.algorithm];
        bytes.extend_from_slice(&self.key.0);
        write!(f, "{}+{:08x}+{}", self.name, self.key_id(), BASE64.encode(bytes))
    }
}

/// The public key of a ledger: what clients and auditors pin, as one line (`Display`, `FromStr`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LedgerKey(VerifierKey);

impl LedgerKey {
    /// The key of the log `name`.
    ///
    /// # Errors
    /// If `key` is not an Ed25519 public key in canonical encoding.
    pub fn new(name: Origin, key: VerifyingKey) -> Result<Self, KeyError> {
        Ok(Self(VerifierKey::new(name, ALGORITHM_ED25519, key)?))
    }

    /// The log's origin.
    pub const fn name(&self) -> &Origin {
        self.0.name()
    }

    /// The key itself: plans and rosters are signed with it too.
    pub const fn key(&self) -> &VerifyingKey {
        self.0.key()
    }

    /// The key's id, which stands before each of its signatures.
    pub fn key_id(&self) -> u32 {
        self.0.key_id()
    }
}

impl fmt::Display for LedgerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for LedgerKey {
    type Err = KeyError;

    /// Parses the one-line form, strictly and without its line's end.
    fn from_str(line: &str) -> Result<Self, KeyError> {
        Ok(Self(VerifierKey::parse(line, ALGORITHM_ED25519)?))
    }
}

/// The private half of a ledger's key. It prints nothing and is wiped when dropped.
#[derive(Debug)]
pub struct LedgerSigner {
    name: Origin,
    key: SigningKey,
}

impl LedgerSigner {
    /// The key of the log `name`.
    pub const fn new(name: Origin, key: SigningKey) -> Self {
        Self { name, key }
    }

    /// The public half, to be pinned.
    pub fn ledger_key(&self) -> LedgerKey {
        LedgerKey(VerifierKey::of(self.name.clone(), ALGORITHM_ED25519, &self.key))
    }

    /// The key itself, for the statements of a round that the coordinator signs with it.
    pub const fn signing_key(&self) -> &SigningKey {
        &self.key
    }
}

/// One signature line of a note.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoteSignature {
    /// The name of the key.
    pub name: Origin,
    /// The key's id.
    pub key_id: u32,
    /// The signature, in the form of its type.
    pub signature: Vec<u8>,
}

/// A note and its signatures, none of them judged yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedNote {
    text: String,
    signatures: Vec<NoteSignature>,
}

impl SignedNote {
    /// Signs `text`, which must end with a newline.
    ///
    /// # Errors
    /// If `text` is not the text of a note.
    pub fn sign(text: &str, signer: &LedgerSigner) -> Result<Self, NoteError> {
        check_text(text)?;
        let key = signer.ledger_key();
        let signature = signer.key.sign(text.as_bytes()).0.to_vec();
        let signature = NoteSignature { name: key.name().clone(), key_id: key.key_id(), signature };
        Ok(Self { text: text.to_owned(), signatures: vec![signature] })
    }

    /// Parses a note, strictly: what it accepts is encoded to the same bytes.
    ///
    /// # Errors
    /// If it is too long or malformed, or a key signs it twice.
    #[expect(clippy::big_endian_bytes, reason = "signed-note writes key ids in big-endian")]
    pub fn parse(bytes: &[u8]) -> Result<Self, NoteError> {
        let form = |what| NoteError::Form { what };
        if bytes.len() > NOTE_LEN_MAX {
            return Err(NoteError::Length { len: bytes.len() });
        }
        let note = str::from_utf8(bytes).map_err(|_| form("not UTF-8"))?;
        let (text, lines) = note.rsplit_once("\n\n").ok_or_else(|| form("no empty line before the signatures"))?;
        let text = format!("{text}\n");
        check_text(&text)?;
        let lines = lines.strip_suffix('\n').ok_or_else(|| form("no newline at the end"))?;
        let mut signatures: Vec<NoteSignature> = Vec::new();
        for line in lines.split('\n') {
            if signatures.len() == NOTE_SIGNATURES_MAX {
                return Err(form("too many signatures"));
            }
            let line = line.strip_prefix(SIGNATURE_PREFIX).ok_or_else(|| form("a line is not a signature"))?;
            let (name, signature) = line.split_once(' ').ok_or_else(|| form("a signature has no name"))?;
            let name: Origin = name.parse().map_err(|_| form("a signature's name is malformed"))?;
            let bytes = BASE64.decode(signature).map_err(|_| form("a signature is not base64"))?;
            let (key_id, signature) = bytes.split_first_chunk::<4>().ok_or_else(|| form("a signature is too short"))?;
            if signature.is_empty() {
                return Err(form("a signature is too short"));
            }
            let key_id = u32::from_be_bytes(*key_id);
            if signatures.iter().any(|other| other.key_id == key_id && other.name == name) {
                return Err(form("a key signs twice"));
            }
            signatures.push(NoteSignature { name, key_id, signature: signature.to_vec() });
        }
        Ok(Self { text, signatures })
    }

    /// The note as it is stored and sent.
    pub fn encode(&self) -> String {
        let mut note = format!("{}\n", self.text);
        for NoteSignature { name, key_id, signature } in &self.signatures {
            let bytes = [&key_id.to_be_bytes()[..], signature].concat();
            note.push_str(&format!("{SIGNATURE_PREFIX}{name} {}\n", BASE64.encode(bytes)));
        }
        note
    }

    /// The text that the signatures cover, its last newline included. Trust it only after [`verify`](Self::verify).
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Its signatures.
    pub fn signatures(&self) -> &[NoteSignature] {
        &self.signatures
    }

    /// Takes over the signatures by other keys that `other`, of the same text, has; as many as there may be.
    pub fn take_signatures(&mut self, other: &Self) {
        for signature in other.signatures.iter().filter(|_| other.text == self.text) {
            let is_new =
                !self.signatures.iter().any(|one| one.key_id == signature.key_id && one.name == signature.name);
            if is_new && self.signatures.len() < NOTE_SIGNATURES_MAX {
                self.signatures.push(signature.clone());
            }
        }
    }

    /// Adds a signature, in the place of an earlier one by the same key.
    ///
    /// # Errors
    /// If there are [`NOTE_SIGNATURES_MAX`] already.
    pub(crate) fn attach(&mut self, signature: NoteSignature) -> Result<(), NoteError> {
        self.signatures.retain(|other| other.key_id != signature.key_id || other.name != signature.name);
        if self.signatures.len() == NOTE_SIGNATURES_MAX {
            return Err(NoteError::Form { what: "too many signatures" });
        }
        self.signatures.push(signature);
        Ok(())
    }

    /// Verifies the signature by `key` and gives the text.
    ///
    /// # Errors
    /// If there is none, or it does not verify.
    pub fn verify(&self, key: &LedgerKey) -> Result<&str, NoteError> {
        let (name, key_id) = (key.name().clone(), key.key_id());
        let Some(found) = self.signatures.iter().find(|s| s.key_id == key_id && s.name == name) else {
            return Err(NoteError::Unsigned { name, key_id });
        };
        let verified = <[u8; 64]>::try_from(found.signature.as_slice())
            .is_ok_and(|signature| key.key().verify(self.text.as_bytes(), &Signature(signature)).is_ok());
        if verified { Ok(&self.text) } else { Err(NoteError::Signature { name, key_id }) }
    }
}

/// Refuses what a note's text may not hold: control characters other than the newline, and a missing last newline.
fn check_text(text: &str) -> Result<(), NoteError> {
    if text.len() > NOTE_LEN_MAX / 2 {
        return Err(NoteError::Length { len: text.len() });
    }
    if !text.ends_with('\n') {
        return Err(NoteError::Form { what: "the text does not end with a newline" });
    }
    if text.chars().any(|c| c.is_control() && c != '\n') {
        return Err(NoteError::Form { what: "a control character in the text" });
    }
    Ok(())
}

/// What a ledger commits to: this many entries, under this root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// The log.
    pub origin: Origin,
    /// How many entries it has.
    pub size: u64,
    /// The root of their tree.
    pub root: Digest,
}

impl Checkpoint {
    /// Parses the text of a checkpoint: origin, size and base64 of the root, a line each and no further lines.
    ///
    /// # Errors
    /// If it is anything else.
    pub fn parse(text: &str) -> Result<Self, NoteError> {
        let fault = |what| NoteError::Checkpoint { what };
        let mut lines = text.strip_suffix('\n').ok_or_else(|| fault("no newline at the end"))?.split('\n');
        let mut line = || lines.next().ok_or_else(|| fault("fewer than three lines"));
        let origin = line()?.parse().map_err(|_| fault("its origin is malformed"))?;
        let size = parse_u64(line()?).filter(|size| *size <= SIZE_MAX).ok_or_else(|| fault("its size is malformed"))?;
        let root = BASE64.decode(line()?).ok().and_then(|root| root.try_into().ok());
        let root = Digest(root.ok_or_else(|| fault("its root is malformed"))?);
        match lines.next() {
            None => Ok(Self { origin, size, root }),
            Some(_) => Err(fault("it has extension lines")),
        }
    }
}

impl fmt::Display for Checkpoint {
    /// The text that is signed.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\n{}\n{}", self.origin, self.size, BASE64.encode(self.root.0))
    }
}

/// A checkpoint with the note that proves it: what a client stores, and shows as evidence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedCheckpoint {
    checkpoint: Checkpoint,
    note: SignedNote,
}

impl SignedCheckpoint {
    /// Signs `checkpoint`.
    ///
    /// # Errors
    /// If it is of another log than the key.
    pub fn sign(checkpoint: Checkpoint, signer: &LedgerSigner) -> Result<Self, NoteError> {
        check_origin(&checkpoint, &signer.name)?;
        let note = SignedNote::sign(&checkpoint.to_string(), signer)?;
        Ok(Self { checkpoint, note })
    }

    /// Parses a signed checkpoint and verifies the signature by the log's `key`.
    ///
    /// # Errors
    /// If it is malformed, not signed by `key`, or of another log.
    pub fn open(note: &[u8], key: &LedgerKey) -> Result<Self, NoteError> {
        let note = SignedNote::parse(note)?;
        let checkpoint = Checkpoint::parse(note.verify(key)?)?;
        check_origin(&checkpoint, key.name())?;
        Ok(Self { checkpoint, note })
    }

    /// Adds a signature, in the place of an earlier one by the same key.
    ///
    /// # Errors
    /// If there are [`NOTE_SIGNATURES_MAX`] already.
    pub(crate) fn attach(&mut self, signature: NoteSignature) -> Result<(), NoteError> {
        self.note.attach(signature)
    }

    /// Drops every signature but the log's own.
    pub(crate) fn keep_only(&mut self, key: &LedgerKey) {
        self.note.signatures.retain(|one| one.key_id == key.key_id() && one.name == *key.name());
    }

    /// What is committed to.
    pub const fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// The note.
    pub const fn note(&self) -> &SignedNote {
        &self.note
    }
}

fn check_origin(checkpoint: &Checkpoint, expected: &Origin) -> Result<(), NoteError> {
    if checkpoint.origin == *expected {
        return Ok(());
    }
    Err(NoteError::Origin { found: checkpoint.origin.clone(), expected: expected.clone() })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn signer(name: &str) -> LedgerSigner {
        LedgerSigner::new(name.parse().expect("name"), SigningKey::from_seed(&[7; 32]))
    }

    fn checkpoint() -> Checkpoint {
        Checkpoint { origin: "log.example.org/a".parse().expect("name"), size: 9, root: Digest::of(b"root") }
    }

    #[test]
    fn a_published_key_and_note_verify() {
        // The example of the documentation of Go's sumdb/note: its key PeterNeumann.
        let key: LedgerKey =
            "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW".parse().expect("a key");
        let note = "If you think cryptography is the answer to your problem,\n\
                    then you don't know what your problem is.\n\n\
                    \u{2014} PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n";
        let parsed = SignedNote::parse(note.as_bytes()).expect("a note");
        assert_eq!(parsed.encode(), note);
        assert!(parsed.verify(&key).expect("it verifies").starts_with("If you think"));
        let other = note.replace("answer", "Answer");
        let other = SignedNote::parse(other.as_bytes()).expect("a note");
        assert!(matches!(other.verify(&key), Err(NoteError::Signature { .. })));
    }

    #[test]
    fn a_key_is_one_line_and_parsed_strictly() {
        let key = signer("log.example.org/a").ledger_key();
        let line = key.to_string();
        assert_eq!(line.parse(), Ok(key.clone()));
        let (name, rest) = line.split_once('+').expect("a name");
        for wrong in [
            format!("{line}\n"),
            format!(" {line}"),
            format!("{name} +{rest}"),
            format!("other+{rest}"),
            format!("{name}+{}", rest.to_uppercase()),
            format!("{line}="),
            format!("{name}+00000000+{}", &rest[9..]),
            format!("+{rest}"),
            name.to_owned(),
            String::new(),
        ] {
            assert!(wrong.parse::<LedgerKey>().is_err(), "{wrong:?}");
        }
        for place in 0..line.len() {
            let mut bytes = line.clone().into_bytes();
            bytes[place] ^= 1;
            let flipped = String::from_utf8(bytes).expect("still ASCII");
            assert!(flipped.parse::<LedgerKey>().is_err(), "byte {place}: {flipped}");
        }
    }

    #[test]
    fn a_checkpoint_has_three_lines_and_its_origin() {
        let signer = signer("log.example.org/a");
        let signed = SignedCheckpoint::sign(checkpoint(), &signer).expect("signs");
        let note = signed.note().encode();
        assert_eq!(SignedCheckpoint::open(note.as_bytes(), &signer.ledger_key()), Ok(signed));
        let text = checkpoint().to_string();
        for wrong in [
            text.replace("9\n", "09\n"),
            text.replace("9\n", "+9\n"),
            text.replace("9\n", "-1\n"),
            text.replace("9\n", "18446744073709551615\n"),
            format!("{text}extension\n"),
            format!("{text}\n"),
            text.trim_end().to_owned(),
            text.replace("=\n", "\n"),
            "log.example.org/a\n9\n".to_owned(),
            String::new(),
        ] {
            assert!(Checkpoint::parse(&wrong).is_err(), "{wrong:?}");
        }
        let foreign = Checkpoint { origin: "b".parse().expect("name"), ..checkpoint() };
        assert!(matches!(SignedCheckpoint::sign(foreign.clone(), &signer), Err(NoteError::Origin { .. })));
        let note = SignedNote::sign(&foreign.to_string(), &signer).expect("signs").encode();
        assert!(matches!(SignedCheckpoint::open(note.as_bytes(), &signer.ledger_key()), Err(NoteError::Origin { .. })));
    }

    #[test]
    fn every_flipped_bit_of_a_signed_checkpoint_is_refused() {
        let signer = signer("log.example.org/a");
        let note = SignedCheckpoint::sign(checkpoint(), &signer).expect("signs").note().encode().into_bytes();
        for bit in 0..note.len() * 8 {
            let mut flipped = note.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(SignedCheckpoint::open(&flipped, &signer.ledger_key()).is_err(), "bit {bit}");
        }
        for len in 0..note.len() {
            assert!(SignedCheckpoint::open(&note[..len], &signer.ledger_key()).is_err(), "cut to {len}");
        }
    }

    #[test]
    fn a_foreign_signature_is_carried_and_a_doubled_one_refused() {
        let signer = signer("log.example.org/a");
        let signed = SignedCheckpoint::sign(checkpoint(), &signer).expect("signs");
        let witness = LedgerSigner::new("witness.example".parse().expect("name"), SigningKey::from_seed(&[8; 32]));
        let mut note = signed.note().clone();
        let cosigned = SignedNote::sign(note.text(), &witness).expect("signs");
        note.signatures.push(cosigned.signatures[0].clone());
        let bytes = note.encode();
        let opened = SignedCheckpoint::open(bytes.as_bytes(), &signer.ledger_key()).expect("the log's own verifies");
        assert_eq!(opened.note().signatures().len(), 2);
        assert!(opened.note().verify(&witness.ledger_key()).is_ok());
        let alone = cosigned.encode();
        assert!(matches!(
            SignedCheckpoint::open(alone.as_bytes(), &signer.ledger_key()),
            Err(NoteError::Unsigned { .. })
        ));
        note.signatures.push(note.signatures[0].clone());
        assert!(matches!(SignedNote::parse(note.encode().as_bytes()), Err(NoteError::Form { .. })));
    }

    proptest! {
        #[test]
        fn what_is_accepted_is_encoded_to_the_same_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(note) = SignedNote::parse(&bytes) {
                prop_assert_eq!(note.encode().into_bytes(), bytes);
            }
        }

        #[test]
        fn what_is_almost_a_note_never_panics(
            text in "[a-z\n ]{0,20}", name in "[a-z+ ]{0,4}", base64 in "[A-Za-z0-9+/=]{0,16}", end in "\n{0,3}",
        ) {
            let bytes = format!("{text}\n\n\u{2014} {name} {base64}{end}");
            if let Ok(note) = SignedNote::parse(bytes.as_bytes()) {
                prop_assert_eq!(note.encode(), bytes);
            }
        }
    }
}
