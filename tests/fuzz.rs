//! The fuzz bodies for a few seconds on stable. Each input is random, or a valid one mutated; one that fails is printed as
//! hex, to be put into the corpus of its target. Long runs: docs/attacks.md.

pub(crate) mod bodies;
pub(crate) mod corpus;
pub(crate) mod machines;

use std::panic::{AssertUnwindSafe, catch_unwind};

use eranos_base::{Entropy, OsEntropy};

use crate::simulation::world::Dice;

/// Runs `body` over `n` inputs, three in four of them mutated from `corpus`.
fn sweep(corpus: &[Vec<u8>], n: usize, mut body: impl FnMut(&[u8])) {
    let seed = u64::from_le_bytes(OsEntropy.bytes());
    let mut dice = Dice(eranos_base::SeededEntropy::new(seed));
    for round in 0..n {
        let input =
            if corpus.is_empty() || dice.below(4) == 0 { random(&mut dice) } else { mutated(&mut dice, corpus) };
        if catch_unwind(AssertUnwindSafe(|| body(&input))).is_err() {
            let hex: String = input.iter().map(|byte| format!("{byte:02x}")).collect();
            panic!("seed {seed}, input {round}: {hex}");
        }
    }
}

fn random(dice: &mut Dice) -> Vec<u8> {
    let mut bytes = vec![0; dice.below(400) as usize];
    dice.0.fill(&mut bytes);
    bytes
}

/// One of the inputs, or up to four changes of it.
fn mutated(dice: &mut Dice, corpus: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = corpus[dice.below(corpus.len() as u64) as usize].clone();
    for _ in 0..dice.below(5) {
        let at = dice.below(bytes.len() as u64 + 1) as usize;
        let end = (at + 1 + dice.below(8) as usize).min(bytes.len());
        match dice.below(8) {
            0 => bytes.truncate(at),
            1 => bytes.insert(at, dice.next() as u8),
            2 => drop(bytes.drain(at..end)),
            3 => bytes.extend_from_within(at..end),
            4 => {
                let other = &corpus[dice.below(corpus.len() as u64) as usize];
                bytes = [&bytes[..at], &other[at.min(other.len())..]].concat();
            }
            5 => bytes[at..end].fill([0, 0xFF][dice.below(2) as usize]),
            // A length or a number of things.
            6 => {
                let size = [0, 1, 255, 256, 65_535, 65_536, u32::MAX][dice.below(7) as usize].to_le_bytes();
                bytes[at..end].iter_mut().zip(size).for_each(|(byte, value)| *byte = value);
            }
            _ => bytes[at..end].iter_mut().take(1).for_each(|byte| *byte ^= 1 << dice.below(8)),
        }
    }
    bytes
}

#[test]
fn no_bytes_make_a_decoder_panic_or_accept_two_spellings() {
    let corpora = corpus::all();
    assert_eq!(corpora.len(), bodies::DECODERS.len());
    for ((name, body, n), (of, corpus)) in bodies::DECODERS.iter().zip(corpora) {
        assert_eq!(*name, of);
        println!("{name}");
        assert!(!corpus.is_empty(), "{name}");
        corpus.iter().for_each(|input| body(input));
        sweep(&corpus, *n, body);
    }
}

#[test]
fn no_order_of_real_and_mutated_messages_makes_the_coordinators_round_wrong() {
    let (mut n_fed, mut n_released) = (0, 0);
    sweep(&[], 250, |input| {
        let played = machines::play_coordinator(input);
        n_fed += played.n_fed;
        n_released += u32::from(played.is_released);
    });
    // Both must happen, or the test says little.
    assert!(n_fed > 1000 && n_released > 20, "{n_fed} messages fed, {n_released} rounds released");
}

#[test]
fn no_order_of_real_and_mutated_answers_makes_a_client_break_its_word() {
    let (mut n_fed, mut n_charged) = (0, 0);
    sweep(&[], 200, |input| {
        let played = machines::play_client(input);
        n_fed += played.n_fed;
        n_charged += u32::from(played.is_charged);
    });
    // Of 200 programs some 13 leave the client alone long enough.
    assert!(n_fed > 300 && n_charged > 2, "{n_fed} events fed, {n_charged} rounds charged");
}
