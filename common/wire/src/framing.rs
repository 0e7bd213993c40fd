//! How a request or an answer lies on its stream, without any I/O.
//!
//! Each direction of an exchange's stream carries exactly one frame:
//!
//! | bytes | field |
//! |---|---|
//! | 4 | magic `ERNS` |
//! | 1 | version, 1 |
//! | 1 | kind |
//! | 4 | length of the header, `u32` little-endian |
//! | 8 | length of the body, `u64` little-endian |
//! | .. | the header: a control header of `eranos_base::encoding` |
//! | .. | the body: raw bytes, streamed |
//!
//! Lengths are checked against the limits of the kind before a byte is allocated for them, and buffers only grow with
//! what has arrived. What a kind means is none of this module's business, except [`Kind::HELLO`], with which every
//! connection begins.

use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use eranos_base::{
    Timestamp,
    limits::{BODY_LEN_MAX, CHUNK_LEN, HEADER_LEN_MAX},
};

/// The first bytes of every frame.
pub const MAGIC: [u8; 4] = *b"ERNS";
/// The version of this layout.
pub const VERSION: u8 = 1;
/// The length of a frame's head: everything before the header.
pub const HEAD_LEN: usize = 18;

/// What a frame is. Kinds below 0x10 belong to the connection itself, all others to the messages of a round.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Kind(pub u8);

impl Kind {
    /// The first exchange of a connection: [`Hello`] and [`Welcome`]. Only its answer means that a client is admitted:
    /// in TLS 1.3 a client believes itself connected before the other side has looked at its certificate.
    pub const HELLO: Self = Self(0x01);
}

impl fmt::Debug for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Kind({:#04x})", self.0)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#04x}", self.0)
    }
}

/// The longest header and body accepted of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Longest header in bytes. As many are held in memory for every open exchange.
    pub header_len_max: usize,
    /// Longest body in bytes. Bodies are streamed: this costs memory only where the reader collects them.
    pub body_len_max: u64,
}

impl Limits {
    /// The limits of [`Kind::HELLO`].
    pub const HELLO: Self = Self { header_len_max: 1024, body_len_max: 0 };

    /// Limits no wider than `eranos_base::limits` allows for any frame.
    pub const fn new(header_len_max: usize, body_len_max: u64) -> Self {
        Self {
            header_len_max: if header_len_max < HEADER_LEN_MAX { header_len_max } else { HEADER_LEN_MAX },
            body_len_max: if body_len_max < BODY_LEN_MAX { body_len_max } else { BODY_LEN_MAX },
        }
    }
}

/// Why bytes were not a frame.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The stream does not begin like a frame.
    #[error("not a frame: it begins with {found:02x?}")]
    Magic {
        /// Its first bytes.
        found: [u8; 4],
    },
    /// The frame is of another version.
    #[error("frame of version {found}, expected {VERSION}")]
    Version {
        /// The version found.
        found: u8,
    },
    /// Nobody here takes frames of this kind.
    #[error("frame of kind {kind}, which is not accepted here")]
    Kind {
        /// The kind found.
        kind: Kind,
    },
    /// The header is longer than its kind allows.
    #[error("header of {len} bytes in a frame of kind {kind}, limit {max}")]
    HeaderTooLong {
        /// The frame's kind.
        kind: Kind,
        /// The length it claims.
        len: u64,
        /// The limit.
        max: u64,
    },
    /// The body is longer than its kind allows.
    #[error("body of {len} bytes in a frame of kind {kind}, limit {max}")]
    BodyTooLong {
        /// The frame's kind.
        kind: Kind,
        /// The length it claims.
        len: u64,
        /// The limit.
        max: u64,
    },
    /// The stream ended inside the frame.
    #[error("the stream ends {missing} bytes early, inside {part}")]
    Truncated {
        /// The part that is incomplete.
        part: &'static str,
        /// How many bytes of that part are missing.
        missing: u64,
    },
    /// Bytes follow the frame.
    #[error("bytes after the end of the frame")]
    Trailing,
}

/// Encodes head and header of a frame whose body, of `body_len` bytes, the caller sends right after them.
///
/// # Errors
/// If header or body exceed what any frame may carry.
pub fn encode_opening(kind: Kind, header: &[u8], body_len: u64) -> Result<Vec<u8>, FrameError> {
    Ok([&encode_head(kind, header.len(), body_len)?, header].concat())
}

/// Encodes the head alone of a frame, whose header and body the caller sends right after it.
///
/// # Errors
/// If header or body exceed what any frame may carry.
pub fn encode_head(kind: Kind, header_len: usize, body_len: u64) -> Result<[u8; HEAD_LEN], FrameError> {
    let checked = u32::try_from(header_len).ok().filter(|_| header_len <= HEADER_LEN_MAX);
    let Some(len) = checked else {
        return Err(FrameError::HeaderTooLong { kind, len: header_len as u64, max: HEADER_LEN_MAX as u64 });
    };
    if body_len > BODY_LEN_MAX {
        return Err(FrameError::BodyTooLong { kind, len: body_len, max: BODY_LEN_MAX });
    }
    let mut head = [0; HEAD_LEN];
    head[..4].copy_from_slice(&MAGIC);
    (head[4], head[5]) = (VERSION, kind.0);
    head[6..10].copy_from_slice(&len.to_le_bytes());
    head[10..].copy_from_slice(&body_len.to_le_bytes());
    Ok(head)
}

/// What a decoder found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// Head and header are complete.
    Opening {
        /// The frame's kind.
        kind: Kind,
        /// The header.
        header: Vec<u8>,
        /// How many bytes of body follow.
        body_len: u64,
    },
    /// The next bytes of the body, never empty.
    Body(Bytes),
}

/// Decodes one frame from bytes as they arrive, cut anywhere.
#[derive(Debug)]
pub struct Decoder<F> {
    limits: F,
    state: State,
}

#[derive(Debug)]
enum State {
    Head {
        buffer: [u8; HEAD_LEN],
        n_filled: usize,
    },
    Header {
        kind: Kind,
        header: Vec<u8>,
        header_len: usize,
        body_len: u64,
    },
    Body {
        remaining: u64,
    },
    /// After an error nothing more is taken.
    Failed(FrameError),
}

impl<F: Fn(Kind) -> Option<Limits>> Decoder<F> {
    /// A decoder that accepts the kinds for which `limits` has an answer.
    pub fn new(limits: F) -> Self {
        Self { limits, state: State::Head { buffer: [0; HEAD_LEN], n_filled: 0 } }
    }

    /// Takes bytes off the front of `input` and returns the next piece, or `None` when `input` is used up. Call it
    /// until then: an opening without body needs no further bytes.
    ///
    /// # Errors
    /// If the bytes are no frame, exceed a limit, or go on after the frame's end. An error is final.
    pub fn decode(&mut self, input: &mut Bytes) -> Result<Option<Piece>, FrameError> {
        let result = self.step(input);
        if let Err(error) = &result {
            self.state = State::Failed(error.clone());
        }
        result
    }

    fn step(&mut self, input: &mut Bytes) -> Result<Option<Piece>, FrameError> {
        loop {
            match &mut self.state {
                State::Head { buffer, n_filled } => {
                    let taken = input.split_to(input.len().min(HEAD_LEN - *n_filled));
                    buffer[*n_filled..*n_filled + taken.len()].copy_from_slice(&taken);
                    *n_filled += taken.len();
                    if *n_filled < HEAD_LEN {
                        return Ok(None);
                    }
                    let (kind, header_len, body_len) = check_head(buffer, &self.limits)?;
                    // A claimed length reserves at most one chunk; the rest grows with what arrives.
                    let header = Vec::with_capacity(header_len.min(CHUNK_LEN));
                    self.state = State::Header { kind, header, header_len, body_len };
                }
                State::Header { kind, header, header_len, body_len } => {
                    let taken = input.split_to(input.len().min(*header_len - header.len()));
                    header.extend_from_slice(&taken);
                    if header.len() < *header_len {
                        return Ok(None);
                    }
                    let piece = Piece::Opening { kind: *kind, header: std::mem::take(header), body_len: *body_len };
                    self.state = State::Body { remaining: *body_len };
                    return Ok(Some(piece));
                }
                State::Body { remaining } => {
                    if input.is_empty() {
                        return Ok(None);
                    }
                    if *remaining == 0 {
                        return Err(FrameError::Trailing);
                    }
                    let n_taken = usize::try_from(*remaining).unwrap_or(usize::MAX).min(input.len());
                    let taken = input.split_to(n_taken);
                    *remaining -= n_taken as u64;
                    return Ok(Some(Piece::Body(taken)));
                }
                State::Failed(error) => return Err(error.clone()),
            }
        }
    }

    /// To be called at the end of the stream.
    ///
    /// # Errors
    /// If the frame is not complete.
    pub fn finish(&self) -> Result<(), FrameError> {
        match &self.state {
            State::Head { n_filled, .. } => {
                Err(FrameError::Truncated { part: "its head", missing: (HEAD_LEN - n_filled) as u64 })
            }
            State::Header { header, header_len, .. } => {
                Err(FrameError::Truncated { part: "its header", missing: (header_len - header.len()) as u64 })
            }
            State::Body { remaining: 0 } => Ok(()),
            State::Body { remaining } => Err(FrameError::Truncated { part: "its body", missing: *remaining }),
            State::Failed(error) => Err(error.clone()),
        }
    }

    /// Whether the frame is complete.
    pub fn is_complete(&self) -> bool {
        matches!(self.state, State::Body { remaining: 0 })
    }
}

/// Checks a head against the limits of its kind; returns kind, length of the header, length of the body.
fn check_head(
    head: &[u8; HEAD_LEN],
    limits: &impl Fn(Kind) -> Option<Limits>,
) -> Result<(Kind, usize, u64), FrameError> {
    let [m0, m1, m2, m3, version, kind, h0, h1, h2, h3, body @ ..] = *head;
    if [m0, m1, m2, m3] != MAGIC {
        return Err(FrameError::Magic { found: [m0, m1, m2, m3] });
    }
    if version != VERSION {
        return Err(FrameError::Version { found: version });
    }
    let kind = Kind(kind);
    let Limits { header_len_max, body_len_max } = limits(kind).ok_or(FrameError::Kind { kind })?;
    let header_len = u32::from_le_bytes([h0, h1, h2, h3]) as usize;
    let header_len_max = header_len_max.min(HEADER_LEN_MAX);
    if header_len > header_len_max {
        return Err(FrameError::HeaderTooLong { kind, len: header_len as u64, max: header_len_max as u64 });
    }
    let body_len = u64::from_le_bytes(body);
    let body_len_max = body_len_max.min(BODY_LEN_MAX);
    if body_len > body_len_max {
        return Err(FrameError::BodyTooLong { kind, len: body_len, max: body_len_max });
    }
    Ok((kind, header_len, body_len))
}

/// What a client says first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The version of the program, for the other side's log.
    pub software: String,
    /// The client's clock.
    pub now: Timestamp,
    /// Which of its connections this is.
    pub dial: Dial,
}

/// One connection among those that a client makes. Packets come late: without this, a connection that its client gave up
/// long ago could take the place of the one that it uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dial {
    /// Drawn by each process.
    pub process: u64,
    /// Counts the connections of the process.
    pub number: u64,
}

impl Dial {
    /// Whether the same process made `other` later.
    pub fn is_before(self, other: Self) -> bool {
        self.process == other.process && self.number < other.number
    }
}

/// What a coordinator answers: the client is admitted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// Always true: a client that is not admitted gets a [`CloseCode`] instead of an answer.
    pub admitted: bool,
    /// The coordinator's name.
    pub coordinator: String,
    /// The coordinator's clock.
    pub now: Timestamp,
}

/// Why one side closed a connection, as QUIC's application error code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum CloseCode {
    /// The work is done.
    Done = 0,
    /// A newer connection of the same identity took over.
    Replaced = 1,
    /// The certificate was revoked or no longer verifies.
    Revoked = 2,
    /// The certificate is from the right authority but names no client.
    NotAClient = 3,
    /// The coordinator shuts down.
    Shutdown = 4,
    /// The connection did not begin with a [`Hello`] in time, or before the next one of the same identity.
    NoHello = 5,
    /// The coordinator has no room for another connection, or this client has connected too often.
    Full = 6,
    /// Too many exchanges were no frames, or never came.
    Misbehaved = 7,
    /// The sides speak different versions; the reason is the protocol of the side that closes.
    OtherVersion = 8,
}

impl CloseCode {
    /// The code's number.
    pub const fn number(self) -> u32 {
        self as u32
    }

    /// The code of a number.
    pub fn from_number(number: u64) -> Option<Self> {
        use CloseCode::*;
        [Done, Replaced, Revoked, NotAClient, Shutdown, NoHello, Full, Misbehaved, OtherVersion]
            .into_iter()
            .find(|code| u64::from(code.number()) == number)
    }
}

/// Why one side gave up a single exchange, as the error code of its stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum StreamCode {
    /// There is no answer to this request.
    NoAnswer = 0,
    /// The bytes were no frame, or one beyond its limits.
    BadFrame = 1,
    /// The other side was too slow.
    TooSlow = 2,
    /// The rest of the body is of no interest; an answer may still come.
    BodyUnwanted = 3,
    /// Whoever asked no longer waits.
    GivenUp = 4,
}

impl StreamCode {
    /// The code's number.
    pub const fn number(self) -> u32 {
        self as u32
    }

    /// The code of a number.
    pub fn from_number(number: u64) -> Option<Self> {
        use StreamCode::*;
        [NoAnswer, BadFrame, TooSlow, BodyUnwanted, GivenUp].into_iter().find(|code| u64::from(code.number()) == number)
    }
}

#[cfg(test)]
mod tests {
    use eranos_base::{Entropy, SeededEntropy};

    use super::*;

    const KIND: Kind = Kind(0x42);
    const LIMITS: Limits = Limits::new(100, 1000);

    fn limits(kind: Kind) -> Option<Limits> {
        (kind == KIND).then_some(LIMITS)
    }

    fn frame(header: &[u8], body: &[u8]) -> Vec<u8> {
        [encode_opening(KIND, header, body.len() as u64).expect("within limits"), body.to_vec()].concat()
    }

    /// Decodes `bytes`, handed over in pieces of `sizes` bytes in turn.
    fn decode(bytes: &[u8], sizes: &[usize]) -> Result<(Vec<u8>, Vec<u8>), FrameError> {
        let mut decoder = Decoder::new(limits);
        let (mut header, mut body, mut rest) = (None, Vec::new(), bytes);
        for size in sizes.iter().cycle() {
            let (now, later) = rest.split_at((*size).min(rest.len()));
            rest = later;
            let mut input = Bytes::copy_from_slice(now);
            while let Some(piece) = decoder.decode(&mut input)? {
                match piece {
                    Piece::Opening { kind, header: found, body_len } => {
                        assert_eq!(kind, KIND);
                        assert!(found.len() <= LIMITS.header_len_max && body_len <= LIMITS.body_len_max);
                        assert!(header.replace(found).is_none(), "one opening only");
                    }
                    Piece::Body(bytes) => {
                        assert!(!bytes.is_empty());
                        body.extend_from_slice(&bytes);
                    }
                }
            }
            assert!(input.is_empty(), "all input is taken");
            if rest.is_empty() {
                break;
            }
        }
        decoder.finish()?;
        Ok((header.expect("a complete frame has an opening"), body))
    }

    #[test]
    fn the_layout_is_drawn_byte_by_byte() {
        let bytes = encode_opening(Kind(0x42), b"hd", 5).expect("within limits");
        assert_eq!(bytes, b"ERNS\x01\x42\x02\x00\x00\x00\x05\x00\x00\x00\x00\x00\x00\x00hd");
    }

    #[test]
    fn a_frame_cut_anywhere_decodes_to_the_same() {
        let (header, body) = (vec![7; 100], vec![9; 1000]);
        let bytes = frame(&header, &body);
        for sizes in [&[1][..], &[3, 1, 64], &[bytes.len()], &[17, 1], &[18, 100, 1000]] {
            assert_eq!(decode(&bytes, sizes), Ok((header.clone(), body.clone())), "{sizes:?}");
        }
        assert_eq!(decode(&frame(b"", b""), &[5]), Ok((vec![], vec![])));
        assert_eq!(decode(&frame(b"", b"x"), &[5]), Ok((vec![], vec![b'x'])));
    }

    #[test]
    fn every_truncation_says_what_is_missing() {
        let bytes = frame(b"header", b"body");
        for len in 0..bytes.len() {
            let part = match len {
                0..HEAD_LEN => "its head",
                _ if len < HEAD_LEN + 6 => "its header",
                _ => "its body",
            };
            let result = decode(&bytes[..len], &[4]);
            assert!(matches!(result, Err(FrameError::Truncated { part: found, .. }) if found == part), "{len}");
        }
        assert_eq!(decode(&[bytes, vec![0]].concat(), &[4]), Err(FrameError::Trailing));
    }

    #[test]
    fn a_length_beyond_its_limit_is_refused_from_the_head_alone() {
        let head = |header_len: u32, body_len: u64| {
            let mut bytes = encode_opening(KIND, b"", 0).expect("within limits");
            bytes[6..10].copy_from_slice(&header_len.to_le_bytes());
            bytes[10..18].copy_from_slice(&body_len.to_le_bytes());
            decode(&bytes, &[HEAD_LEN])
        };
        for len in [101, u32::MAX] {
            let expected = FrameError::HeaderTooLong { kind: KIND, len: u64::from(len), max: 100 };
            assert_eq!(head(len, 0), Err(expected));
        }
        for len in [1001, u64::MAX] {
            assert_eq!(head(0, len), Err(FrameError::BodyTooLong { kind: KIND, len, max: 1000 }));
        }
        // Within the limit but never sent: truncated, and nothing of that size was allocated for it.
        assert_eq!(head(100, 1000), Err(FrameError::Truncated { part: "its header", missing: 100 }));
    }

    #[test]
    fn no_caller_widens_the_limits_of_the_system() {
        let generous = |_| Some(Limits { header_len_max: usize::MAX, body_len_max: u64::MAX });
        let mut head = encode_opening(KIND, b"", 0).expect("within limits");
        head[6..10].copy_from_slice(&(HEADER_LEN_MAX as u32 + 1).to_le_bytes());
        let result = Decoder::new(generous).decode(&mut Bytes::from(head.clone()));
        assert!(matches!(result, Err(FrameError::HeaderTooLong { .. })));
        head[6..10].copy_from_slice(&0u32.to_le_bytes());
        head[10..18].copy_from_slice(&(BODY_LEN_MAX + 1).to_le_bytes());
        let result = Decoder::new(generous).decode(&mut Bytes::from(head));
        assert!(matches!(result, Err(FrameError::BodyTooLong { .. })));
        assert_eq!(Limits::new(usize::MAX, u64::MAX), Limits::new(HEADER_LEN_MAX, BODY_LEN_MAX));
        assert!(encode_opening(KIND, &vec![0; HEADER_LEN_MAX + 1], 0).is_err());
        assert!(encode_opening(KIND, b"", BODY_LEN_MAX + 1).is_err());
    }

    #[test]
    fn a_header_reserves_no_more_than_a_chunk_before_it_arrives() {
        let mut decoder = Decoder::new(|_| Some(Limits::new(HEADER_LEN_MAX, 0)));
        let head = &encode_opening(KIND, &vec![0; HEADER_LEN_MAX], 0).expect("within limits")[..HEAD_LEN];
        assert_eq!(decoder.decode(&mut Bytes::copy_from_slice(head)), Ok(None));
        let State::Header { header, .. } = &decoder.state else { panic!("the head is complete") };
        assert!(header.capacity() <= CHUNK_LEN);
    }

    #[test]
    fn foreign_bytes_are_refused_and_an_error_is_final() {
        let check = |at: usize, value: u8, expected: FrameError| {
            let mut bytes = frame(b"header", b"body");
            bytes[at] = value;
            assert_eq!(decode(&bytes, &[7]), Err(expected));
        };
        check(0, b'X', FrameError::Magic { found: *b"XRNS" });
        check(4, 2, FrameError::Version { found: 2 });
        check(5, 0x43, FrameError::Kind { kind: Kind(0x43) });
        let mut decoder = Decoder::new(limits);
        assert!(decoder.decode(&mut Bytes::from_static(&[0; HEAD_LEN])).is_err());
        assert!(decoder.decode(&mut Bytes::from(frame(b"", b""))).is_err());
        assert!(decoder.finish().is_err());
    }

    #[test]
    fn random_and_mutated_bytes_never_panic_and_never_pass_a_limit() {
        let seed = u64::from_le_bytes(eranos_base::OsEntropy.bytes());
        println!("seed {seed}");
        let mut entropy = SeededEntropy::new(seed);
        let mut below = |n: usize| usize::from(u16::from_le_bytes(entropy.bytes())) % n;
        let mut n_decoded = 0;
        for round in 0..20_000 {
            let header: Vec<u8> = (0..below(101)).map(|_| below(256) as u8).collect();
            let body: Vec<u8> = (0..below(200)).map(|_| below(256) as u8).collect();
            let mut bytes = match round % 4 {
                0 => (0..below(300)).map(|_| below(256) as u8).collect(),
                _ => frame(&header, &body),
            };
            for _ in 0..below(3) {
                // Most mutations fall into the head, where they matter.
                let at = if below(4) == 0 { below(bytes.len().max(1)) } else { below(HEAD_LEN) };
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << below(8);
                }
            }
            if below(4) == 0 {
                bytes.truncate(below(bytes.len() + 1));
            }
            // A decoded frame re-encodes to the very bytes: the decoder accepts nothing but frames.
            if let Ok((header, body)) = decode(&bytes, &[1 + below(40), 1 + below(300)]) {
                assert_eq!(frame(&header, &body), bytes);
                n_decoded += 1;
            }
        }
        assert!(n_decoded > 1000, "{n_decoded} of 20,000 decoded");
    }

    #[test]
    fn codes_keep_their_numbers() {
        for number in 0..10 {
            assert_eq!(
                CloseCode::from_number(number).map(|code| u64::from(code.number())),
                (number < 9).then_some(number)
            );
            assert_eq!(
                StreamCode::from_number(number).map(|code| u64::from(code.number())),
                (number < 5).then_some(number)
            );
        }
    }
}
