//! The parsers of foreign bytes: strict, total, and the inverse of their encoders.

use eranos_base::{
    Digest, Entropy, Position, SeededEntropy, Signature, Timestamp, VerifyingKey, limits::COHORT_LEN_MAX,
};
use eranos_ledger::{
    Attempt, Date, EncodedEntry, Entry, EntryError, Outcome, Participant, Receipt, Sharers, SignedNote, Survivors,
    entry::{ATTACHMENT_LEN_MAX, EntryKind, EntryParser, attachment_of},
    tile::ENTRY_LEN_MAX,
    tree::PROOF_LEN_MAX,
};
use proptest::prelude::*;

use crate::support::{Federation, participants, replaced, survivors};

fn parse(entry: &EncodedEntry) -> Result<Entry, EntryError> {
    Entry::parse(&entry.leaf, entry.attachment.as_deref())
}

fn attempt(index: usize) -> Attempt {
    match Federation::with_history().entries.swap_remove(index) {
        Entry::Attempt(attempt) => *attempt,
        other => panic!("entry {index} is {}", other.kind()),
    }
}

#[test]
fn every_kind_comes_back_from_its_encoding() {
    let federation = Federation::with_rotation();
    for entry in &federation.entries {
        let encoded = entry.encode().expect("consistent");
        assert_eq!(parse(&encoded), Ok(entry.clone()));
        assert_eq!(EntryKind::of(&encoded.leaf), Some(entry.kind()));
        assert_eq!(attachment_of(&encoded.leaf), encoded.attachment.as_deref().map(Digest::of));
    }
    // An attempt that ended before there was a roster, before U2, and before survivors.
    let mut early = attempt(4);
    let check = |attempt: &Attempt| {
        let entry = Entry::Attempt(Box::new(attempt.clone()));
        assert_eq!(parse(&entry.encode().expect("consistent")), Ok(entry));
    };
    early.roster.as_mut().expect("a roster").sharers.as_mut().expect("sharers").survivors = None;
    check(&early);
    early.roster.as_mut().expect("a roster").sharers = None;
    check(&early);
    early.roster = None;
    check(&early);
}

#[test]
fn contradictions_are_neither_written_nor_read() {
    let refused = |change: &dyn Fn(&mut Attempt)| {
        let mut attempt = attempt(2);
        change(&mut attempt);
        let refused = Entry::Attempt(Box::new(attempt)).encode();
        assert!(matches!(refused, Err(EntryError::Contradiction { .. })), "{refused:?}");
    };
    refused(&|a| a.epsilons.coordinator = f64::INFINITY);
    refused(&|a| a.epsilons.outsider = f64::NAN);
    refused(&|a| a.roster = None);
    refused(&|a| a.roster.as_mut().expect("a roster").sharers = None);
    refused(&|a| participants(a).clear());
    refused(&|a| survivors(a).bitmap.push(0));
    refused(&|a| survivors(a).bitmap = vec![0b1_0000]);
    refused(&|a| survivors(a).signatures.swap(0, 1));
    refused(&|a| survivors(a).signatures[1].0 = Position(0));
    refused(&|a| survivors(a).signatures[3].0 = Position(4));
    refused(&|a| survivors(a).signatures[3].0 = Position::NONE);
}

/// Replaces `from` by `to` in the encoding of entry `index`, which must then be refused.
#[track_caller]
fn refused(index: usize, from: &str, to: &str) {
    let changed = replaced(&Federation::with_rotation().encoded()[index], from, to);
    assert!(parse(&changed).is_err(), "{from:?} as {to:?} was accepted");
}

#[test]
fn no_other_spelling_of_a_field_is_accepted() {
    refused(0, "log-opened\n", "log-opened \n");
    refused(0, "log-opened\n", "log-opened\r\n");
    refused(0, "eranos/ledger/v1", "eranos/ledger/v2");
    refused(0, "date: 2023-11-14", "date: 2023-11-4");
    refused(0, "date: 2023-11-14", "date: 2023-13-14");
    refused(0, "date: 2023-11-14", "date: 2023-02-29");
    refused(0, "origin: ", "origin:");
    refused(0, "origin: ", "Origin: ");
    refused(0, "trust-domain: example.org\n", "");
    refused(0, "date: 2023-11-14\n", "date: 2023-11-14");
    refused(0, "date: 2023-11-14\n", "date: 2023-11-14\n\n");
    refused(1, "orders: 2-256,512,1024", "orders: 2-256");
    refused(1, "budget-epsilon: 4\n", "budget-epsilon: 4.0\n");
    refused(1, "budget-epsilon: 4\n", "budget-epsilon: 4e0\n");
    refused(1, "budget-epsilon: 4\n", "budget-epsilon: +4\n");
    refused(1, "budget-epsilon: 4\n", "budget-epsilon: -4\n");
    refused(1, "budget-epsilon: 4\n", "budget-epsilon: inf\n");
    refused(1, "budget-epsilon: 4\n", "budget-epsilon: NaN\n");
    refused(1, "delta: 0.00001\n", "delta: 0.0001\n");
    refused(1, "unit: record", "unit: client");
    refused(1, "u-min: 3", "u-min: 2");
    refused(1, "noise-variance: ", "noise-variance: 1");
    refused(2, "round: 1\n", "round: 01\n");
    refused(2, "round: 1\n", "round: 18446744073709551616\n");
    refused(2, "outcome: released", "outcome: aborted-after-reveal");
    refused(2, "outcome: released", "outcome: Released");
    refused(4, "outcome: aborted-before-reveal", "outcome: released");
    refused(2, "n1: 4", "n1: 5");
    refused(2, "n1: 4", "n1: -");
    refused(2, "quorum: 3", "quorum: 2");
    refused(2, "survivors: 4", "survivors: 3");
    refused(2, "bitmap: 0f", "bitmap: 0F");
    refused(2, "bitmap: 0f", "bitmap: 0f00");
    refused(2, "bitmap: 0f", "bitmap: ");
    refused(2, "participant: 1 ", "participant: 2 ");
    refused(2, "participant: 1 ", "participant: 01 ");
    refused(2, "signature: 1 ", "signature: 0 ");
    refused(2, "signature: 1 ", "signature: 65536 ");
    refused(2, "participation\n", "participation\n\n");
    refused(2, "v1 participation", "v2 participation");
    refused(2, "attachment: ", "attachment:");
    refused(2, "version: 0.1.0", "version: 0.1.0 beta");
    refused(2, "plan-signature: ", "plan-signature: 0");
    refused(2, "graph: complete", "graph: Complete");
    refused(2, "ready-slot-ms: 250", "ready-slot-ms: 0250");
    refused(2, "phase-timeout-ms: 60000", "phase-timeout-ms: 4294967296");
    refused(7, "old-key: ", "old-key:  ");
    refused(7, "new-signature: ", "new-signature: 0");
    let upper = |index: usize, name: &str| {
        let entries = Federation::with_history().encoded();
        let text = String::from_utf8(entries[index].leaf.clone()).expect("text");
        let line = text.lines().find(|line| line.starts_with(name)).expect("the field");
        let (name, value) = line.split_once(": ").expect("a value");
        assert_ne!(value, value.to_uppercase());
        refused(index, line, &format!("{name}: {}", value.to_uppercase()));
    };
    upper(1, "mechanism: ");
    upper(2, "plan: ");
    upper(2, "roster: ");
    upper(2, "attachment: ");
}

#[test]
fn an_attachment_belongs_to_the_one_entry_that_names_it() {
    let entries = Federation::with_history().encoded();
    let (second, third) = (&entries[2], &entries[3]);
    let other = |attachment: Option<&[u8]>| Entry::parse(&second.leaf, attachment);
    assert!(other(second.attachment.as_deref()).is_ok());
    assert_eq!(other(third.attachment.as_deref()), Err(EntryError::OtherAttachment));
    assert_eq!(other(None), Err(EntryError::OtherAttachment));
    assert_eq!(Entry::parse(&entries[1].leaf, second.attachment.as_deref()), Err(EntryError::OtherAttachment));
    // One that an attempt without a roster could not have.
    let mut early = attempt(4);
    early.roster = None;
    let early = Entry::Attempt(Box::new(early)).encode().expect("consistent");
    assert_eq!(early.attachment, None);
    assert_eq!(Entry::parse(&early.leaf, second.attachment.as_deref()), Err(EntryError::OtherAttachment));
}

#[test]
fn a_changed_mechanism_is_refused_after_one_was_remembered() {
    let entries = Federation::with_history().encoded();
    let mut parser = EntryParser::default();
    let mut parse = |entry: &EncodedEntry| parser.parse(&entry.leaf, entry.attachment.as_deref());
    assert!(parse(&entries[2]).is_ok());
    let changed = replaced(&entries[3], "l2-clip-norm: 1\n", "l2-clip-norm: 2\n");
    assert!(matches!(parse(&changed), Err(EntryError::Derived { field: "l2-clip-norm", .. })));
    assert!(parse(&entries[3]).is_ok());
}

#[test]
fn the_largest_roster_fits_and_a_larger_one_is_refused() {
    let with = |n1: usize| {
        let mut attempt = attempt(2);
        let participant = Participant { pseudonym: VerifyingKey([0xff; 32]), attempts: u64::MAX };
        *participants(&mut attempt) = vec![participant; n1];
        let bitmap = vec![0; n1.div_ceil(8)];
        let signatures = (0..n1 as u16).map(|p| (Position(p), Signature([0xff; 64]))).collect();
        let survivors = Some(Survivors { bitmap, signatures });
        let roster = attempt.roster.as_mut().expect("a roster");
        roster.sharers = Some(Sharers { root: Digest::ZERO, survivors });
        Entry::Attempt(Box::new(attempt)).encode()
    };
    let largest = with(COHORT_LEN_MAX).expect("fits");
    assert!(largest.leaf.len() <= ENTRY_LEN_MAX / 8, "{} bytes", largest.leaf.len());
    let attachment = largest.attachment.as_ref().expect("participants");
    assert!(attachment.len() <= ATTACHMENT_LEN_MAX, "{} bytes", attachment.len());
    assert!(parse(&largest).is_ok());
    assert!(matches!(with(COHORT_LEN_MAX + 1), Err(EntryError::Contradiction { .. })));
    assert!(matches!(Entry::parse(&vec![b'x'; ENTRY_LEN_MAX + 1], None), Err(EntryError::Length { .. })));
    // One that is too long is refused whatever it says.
    let intact = Federation::with_history().encoded().swap_remove(2);
    let long = replaced(&intact, "participation\n", &format!("participation\n{}", "x".repeat(ATTACHMENT_LEN_MAX)));
    let refused = parse(&long);
    assert!(
        matches!(&refused, Err(EntryError::Attachment(error)) if matches!(**error, EntryError::Length { .. })),
        "{refused:?}"
    );
}

#[test]
fn mutated_entries_never_panic_and_what_is_accepted_encodes_to_itself() {
    const SEED: u64 = 7;
    let entries = Federation::with_history().encoded();
    let mut entropy = SeededEntropy::new(SEED);
    let mut parser = EntryParser::default();
    let (mut n_accepted, alphabet) = (0, b"0123456789abcdef-: \n.+xF\xff");
    for round in 0..20_000 {
        let mut draw = |n: usize| u32::from_le_bytes(entropy.bytes()) as usize % n.max(1);
        let EncodedEntry { mut leaf, mut attachment } = entries[draw(entries.len())].clone();
        let named = attachment.as_deref().map(|bytes| Digest::of(bytes).to_string());
        let bytes = match &mut attachment {
            Some(attachment) if draw(2) == 0 => attachment,
            _ => &mut leaf,
        };
        for _ in 0..=draw(3) {
            let place = draw(bytes.len());
            match draw(4) {
                0 => drop(bytes.remove(place)),
                1 => bytes.insert(place, alphabet[draw(alphabet.len())]),
                2 => bytes.truncate(bytes.len() - draw(8)),
                _ => bytes[place] = alphabet[draw(alphabet.len())],
            }
        }
        // A changed attachment is named anew, so that its own parser sees it.
        if let (Some(named), Some(attachment), Ok(text)) = (named, &attachment, str::from_utf8(&leaf)) {
            leaf = text.replace(&named, &Digest::of(attachment).to_string()).into_bytes();
        }
        // A mechanism takes milliseconds to check: most mutations leave it alone, and it is remembered.
        if let Ok(entry) = parser.parse(&leaf, attachment.as_deref()) {
            n_accepted += 1;
            assert_eq!(entry.encode(), Ok(EncodedEntry { leaf, attachment }), "seed {SEED}, round {round}");
        }
    }
    assert!(n_accepted > 100, "{n_accepted}");
}

#[test]
fn a_receipt_that_claims_a_long_proof_is_refused_before_it_is_read() {
    let receipt = Receipt {
        entry: vec![1],
        index: 0,
        checkpoint: vec![2],
        inclusion: vec![Digest::ZERO; PROOF_LEN_MAX],
        old_size: 0,
        consistency: Vec::new(),
    };
    assert_eq!(Receipt::decode(&receipt.encode()), Ok(receipt.clone()));
    let longer = Receipt { inclusion: vec![Digest::ZERO; PROOF_LEN_MAX + 1], ..receipt.clone() };
    assert!(Receipt::decode(&longer.encode()).is_err());
    let longer = Receipt { entry: vec![0; ENTRY_LEN_MAX + 1], ..receipt };
    assert!(Receipt::decode(&longer.encode()).is_err());
}

#[test]
fn days_are_those_of_the_calendar() {
    let check = |seconds: u64, day: &str| {
        let date = Date::of(Timestamp::from_unix_ms(seconds * 1000));
        assert_eq!(date.to_string(), day);
        assert_eq!(day.parse(), Ok(date));
    };
    check(0, "1970-01-01");
    check(951_782_399, "2000-02-28");
    check(951_782_400, "2000-02-29");
    check(951_868_800, "2000-03-01");
    check(1_735_689_599, "2024-12-31");
    check(1_735_689_600, "2025-01-01");
    check(4_107_542_400, "2100-03-01");
    check(253_402_300_799, "9999-12-31");
    check(u64::MAX / 1000, "9999-12-31");
    for wrong in ["1969-12-31", "2023-2-01", "2023-00-10", "2023-04-31", "2100-02-29", "2023-04-10-", "", "2023--4"] {
        assert!(wrong.parse::<Date>().is_err(), "{wrong}");
    }
}

proptest! {
    #[test]
    fn foreign_bytes_never_panic_a_parser(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        prop_assert!(Entry::parse(&bytes, None).is_err() && Entry::parse(&bytes, Some(&bytes)).is_err());
        if let Ok(receipt) = Receipt::decode(&bytes) {
            prop_assert_eq!(receipt.encode(), bytes.clone());
        }
        if let Ok(note) = SignedNote::parse(&bytes) {
            prop_assert_eq!(note.encode().into_bytes(), bytes);
        }
    }

    #[test]
    fn receipts_come_back_from_their_encoding(
        entry in proptest::collection::vec(any::<u8>(), 0..50), index in any::<u64>(), n in 0usize..9, old in any::<u64>(),
        flip in any::<(u16, u8)>(),
    ) {
        let proof: Vec<Digest> = (0..n).map(|i| Digest::of(&[i as u8])).collect();
        let receipt =
            Receipt { entry, index, checkpoint: vec![9; n], inclusion: proof.clone(), old_size: old, consistency: proof };
        let mut bytes = receipt.encode();
        prop_assert_eq!(Receipt::decode(&bytes), Ok(receipt.clone()));
        let place = usize::from(flip.0) % bytes.len();
        bytes[place] ^= flip.1 | 1;
        if let Ok(other) = Receipt::decode(&bytes) {
            prop_assert_ne!(&other, &receipt);
            prop_assert_eq!(other.encode(), bytes);
        }
    }
}

#[test]
fn outcomes_say_whether_they_reveal() {
    assert!(Outcome::Released { weights_after: Digest::ZERO }.reveals());
    assert!(Outcome::AbortedAfterReveal.reveals());
    assert!(!Outcome::AbortedBeforeReveal.reveals());
}
