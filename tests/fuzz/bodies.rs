//! What is asserted of each decoder for any bytes: no panic, and what is accepted has one spelling. One plain function
//! each, for the tests here and for the targets under `fuzz/`.

use bytes::Bytes;
use eranos_base::{ClientId, Digest, Signature, TaskId, TrustDomain, VerifyingKey, encoding::decode_header};
use eranos_ledger::{
    Checkpoint, Date, EncodedEntry, Entry, LedgerKey, Origin, Receipt, SignedNote, Version,
    entry::attachment_of,
    tile::{Tile, TileKind, encode_hashes, parse_entries, parse_hashes, push_entry},
};
use eranos_nn::{DataSpec, ModelSpec};
use eranos_privacy::{Budget, Mechanism, Promise};
use eranos_wire::{
    Answer, Request, RoundPlan,
    framing::{Decoder, FrameError, Hello, Kind, Limits, Piece, Welcome, encode_opening},
};

#[path = "../../common/secagg/tests/integration/decode.rs"]
mod decode;

/// Name, body, and how many inputs take about a second in the dev profile.
type Named = (&'static str, fn(&[u8]), usize);

/// All bodies of this file.
pub(crate) const DECODERS: &[Named] = &[
    ("wire", wire, 40_000),
    ("framing", framing, 40_000),
    ("secagg", secagg, 20_000),
    ("plan", plan, 1_500),
    ("mechanism", mechanism, 1_500),
    ("ledger", ledger, 20_000),
    ("tile", tile, 20_000),
    ("budget", budget, 1_500),
    ("model", model, 10_000),
    ("data", data, 20_000),
    ("names", names, 20_000),
];

/// A kind, then a control header: of a request, of an answer, of the greetings.
pub(crate) fn wire(data: &[u8]) {
    let Some((&kind, header)) = data.split_first() else { return };
    if let Ok(request) = Request::decode(kind, header) {
        assert_eq!(Request::decode(kind, &request.encode().expect("it was short enough")), Ok(request));
    }
    if let Ok(answer) = Answer::decode(kind, header) {
        assert_eq!(Answer::decode(kind, &answer.encode().expect("it was short enough")), Ok(answer));
    }
    let _ = (decode_header::<Hello>(header), decode_header::<Welcome>(header));
}

/// The length of a first piece, then a frame: the same whole and in pieces, and no other frame has its bytes.
pub(crate) fn framing(data: &[u8]) {
    let Some((&cut, frame)) = data.split_first() else { return };
    let whole = read_frame([frame]);
    let (first, rest) = frame.split_at(usize::from(cut).min(frame.len()));
    assert_eq!(read_frame([first, rest]), whole);
    assert_eq!(read_frame(frame.chunks(usize::from(cut).max(1))), whole);
    if let Ok((kind, header, body)) = whole {
        let opening = encode_opening(kind, &header, body.len() as u64).expect("within the limits");
        assert_eq!([&opening[..], &body].concat(), frame);
    }
}

type Frame = (Kind, Vec<u8>, Vec<u8>);

fn read_frame<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Result<Frame, FrameError> {
    let limits = |kind: Kind| (kind.0 != 0x7f).then_some(Limits::new(1 << 10, 1 << 12));
    let mut decoder = Decoder::new(limits);
    let (mut opening, mut body) = (None, Vec::new());
    for piece in pieces {
        let mut input = Bytes::copy_from_slice(piece);
        while let Some(piece) = decoder.decode(&mut input)? {
            match piece {
                Piece::Opening { kind, header, body_len } => {
                    assert!(header.len() <= 1 << 10 && body_len <= 1 << 12 && opening.is_none());
                    opening = Some((kind, header));
                }
                Piece::Body(bytes) => body.extend_from_slice(&bytes),
            }
        }
    }
    decoder.finish()?;
    let (kind, header) = opening.expect("a frame that is complete was opened");
    Ok((kind, header, body))
}

/// Every message of the secure sum.
pub(crate) fn secagg(data: &[u8]) {
    decode::decode_by_all(data);
}

/// A plan.
pub(crate) fn plan(data: &[u8]) {
    if let Ok(plan) = RoundPlan::from_bytes(data) {
        assert_eq!(plan.to_bytes(), data);
        let _ = plan.terms();
    }
}

/// A mechanism.
pub(crate) fn mechanism(data: &[u8]) {
    if let Ok(mechanism) = Mechanism::decode(data) {
        assert_eq!(mechanism.encode(), data);
        assert_eq!(mechanism.epsilon().is_finite(), mechanism.has_noise());
    }
}

/// Entry with its attachment, receipt, note and checkpoint.
pub(crate) fn ledger(data: &[u8]) {
    let (mut leaf, attachment) = entry_parts(data);
    if let (Some(named), Some(attachment)) = (attachment_of(&leaf), &attachment) {
        // The leaf names what the attachment has become, so that its own parser sees it.
        let text = String::from_utf8_lossy(&leaf).replace(&named.to_string(), &Digest::of(attachment).to_string());
        leaf = text.into_bytes();
    }
    if let Ok(entry) = Entry::parse(&leaf, attachment.as_deref()) {
        assert_eq!(entry.encode(), Ok(EncodedEntry { leaf, attachment }));
    }
    if let Ok(receipt) = Receipt::decode(data) {
        assert_eq!(receipt.encode(), data);
    }
    if let Ok(note) = SignedNote::parse(data) {
        assert_eq!(note.encode().as_bytes(), data);
    }
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(checkpoint) = Checkpoint::parse(text) {
        assert_eq!(checkpoint.to_string(), text);
    }
}

/// A leaf, and what follows it where an attachment begins.
fn entry_parts(data: &[u8]) -> (Vec<u8>, Option<Vec<u8>>) {
    const BEGINS: &[u8] = b"eranos/ledger/v1 participation";
    match data.windows(BEGINS.len()).position(|window| window == BEGINS) {
        Some(place) => (data[..place].to_vec(), Some(data[place..].to_vec())),
        None => (data.to_vec(), None),
    }
}

/// A width (u16), then the rows of a hash tile or the entries of a bundle; and the path of either.
pub(crate) fn tile(data: &[u8]) {
    if let Some(tile) = std::str::from_utf8(data).ok().and_then(Tile::parse) {
        assert_eq!(tile.path().as_bytes(), data);
    }
    let Some((width, bytes)) = data.split_first_chunk() else { return };
    let width = u16::from_le_bytes(*width) % 257;
    if let Ok(rows) = parse_hashes(&Tile { kind: TileKind::Hashes { level: 0 }, index: 0, width }, bytes) {
        assert_eq!(encode_hashes(&rows), bytes);
    }
    if let Ok(entries) = parse_entries(&Tile { kind: TileKind::Entries, index: 0, width }, bytes) {
        let mut bundle = Vec::new();
        assert!(entries.iter().all(|entry| push_entry(&mut bundle, entry)));
        assert_eq!(bundle, bytes);
    }
}

/// A budget's file.
pub(crate) fn budget(data: &[u8]) {
    if let Ok((budget, _)) = Budget::parse(data) {
        let epsilon = budget.epsilon_spent();
        assert!(epsilon >= 0.0, "{epsilon}");
    }
}

/// A model, canonical or as Keras writes it.
pub(crate) fn model(data: &[u8]) {
    if let Ok(spec) = ModelSpec::from_canonical(data) {
        assert_eq!(spec.to_canonical(), data);
    }
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(spec) = ModelSpec::from_keras_json(text) {
        assert_eq!(ModelSpec::from_canonical(&spec.to_canonical()).as_ref(), Ok(&spec));
    }
}

/// What a record is.
pub(crate) fn data(data: &[u8]) {
    if let Ok(spec) = DataSpec::from_canonical(data) {
        assert_eq!(spec.to_canonical(), data);
    }
}

/// Names, keys and numbers that are read from text.
pub(crate) fn names(data: &[u8]) {
    fn one_spelling<T: std::str::FromStr + ToString>(text: &str) {
        if let Ok(parsed) = text.parse::<T>() {
            assert_eq!(parsed.to_string(), text);
        }
    }
    let Ok(text) = std::str::from_utf8(data) else { return };
    one_spelling::<TrustDomain>(text);
    one_spelling::<TaskId>(text);
    one_spelling::<ClientId>(text);
    // A person may type hex in capitals; where one spelling matters, what holds it is strict: the ledger's entries.
    let hex = text.to_ascii_lowercase();
    one_spelling::<Digest>(&hex);
    one_spelling::<VerifyingKey>(&hex);
    one_spelling::<Signature>(&hex);
    one_spelling::<Origin>(text);
    one_spelling::<LedgerKey>(text);
    one_spelling::<Date>(text);
    one_spelling::<Version>(text);
}
