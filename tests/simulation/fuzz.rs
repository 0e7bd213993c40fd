//! Bytes that nobody meant, in every place where bytes come in: neither machine panics, and no sum is wrong.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use eranos_base::{ClientId, Digest, SigningKey};
use eranos_client::round::Event;
use eranos_coordinator::round::{self as coordinator, Peer};
use eranos_wire::{Answer, Request};

use super::world::{Dice, Exit, ExitHow, FIVE, SHARE_KEYS, World};

/// A message as it travels.
type Frame = (u8, Vec<u8>, Bytes);

#[test]
fn arbitrary_bytes_decode_to_errors_or_to_what_encodes_again() {
    let mut dice = dice(51);
    let mut n_decoded = 0;
    for _ in 0..200_000 {
        let kind = dice.next() as u8;
        let kind = if dice.below(2) == 0 { 0x10 + kind % 9 } else { 0x90 + kind % 10 };
        let bytes = random_bytes(&mut dice, 96);
        if let Ok(request) = Request::decode(kind, &bytes) {
            assert_eq!(Request::decode(kind, &request.encode().unwrap()), Ok(request));
            n_decoded += 1;
        }
        if let Ok(answer) = Answer::decode(kind, &bytes) {
            assert_eq!(Answer::decode(kind, &answer.encode().unwrap()), Ok(answer));
            n_decoded += 1;
        }
    }
    assert!(n_decoded > 100, "{n_decoded} of them decode");
}

#[test]
fn mutated_messages_in_any_phase_make_no_machine_panic_and_no_sum_wrong() {
    let (requests, answers) = recorded();
    assert!(requests.len() > 30 && answers.len() > 30);
    let (mut n_fed, mut n_released) = (0, 0);
    for seed in 0..SEEDS {
        let mut dice = dice(seed);
        // The keys are those of the record, so that what is mutated are the real messages of this very round.
        let mut world = World::new(RECORDED, FIVE);
        if dice.below(4) == 0 {
            world.clients[4].exit = Some(Exit { kind: SHARE_KEYS, how: ExitHow::DiesBefore });
        }
        world.begin(1);
        // Liars are at most as many as the plan tolerates; their own machine may hear anything too.
        let liar = dice.below(5) as usize;
        let stranger = Peer {
            id: ClientId::new(&world.setup.trust_domain, "c77").unwrap(),
            key: SigningKey::from_seed(&[6; 32]).verifying_key(),
            certificate: Digest::of(b"c77"),
        };
        for _ in 0..INJECTIONS {
            let mut n_steps = dice.below(12);
            let more = world.run_until(|_| {
                n_steps = n_steps.saturating_sub(1);
                n_steps == 0
            });
            if !more {
                break;
            }
            let (kind, header, body) = mutate(&mut dice, &requests);
            if let Ok(request) = Request::decode(kind, &header) {
                let from = if dice.below(4) == 0 { stranger.clone() } else { world.peer(liar) };
                // A stranger among the cohort would be one more client, which the world does not know.
                if from.id != stranger.id || !matches!(request, Request::CheckIn(_)) {
                    world.request(&from, request, &body);
                    n_fed += 1;
                }
            }
            let (kind, header, body) = mutate(&mut dice, &answers);
            if dice.below(6) == 0
                && let Ok(answer) = Answer::decode(kind, &header)
            {
                world.feed_client(liar, Event::Answer { answer, body });
                n_fed += 1;
            }
        }
        world.run();
        world.check(&format!("seed {seed}, liar {liar}"), &[liar]);
        n_released += u32::from(world.coordinator.released.is_some());
    }
    assert!(n_fed > 1000 && n_released > 50, "{n_fed} messages fed, {n_released} rounds released");
}

#[test]
fn whatever_a_client_hears_first_in_place_of_an_answer_it_survives() {
    // Each honest answer in turn is replaced by a mutation of itself, so that every parser behind it is reached.
    for seed in 0..SEEDS {
        let mut choices = dice(1000 + seed);
        let mut world = World::new(RECORDED, FIVE);
        let turn = choices.below(8);
        let mut n_heard = 0;
        world.on_answer = Some(Box::new(move |i, answer, body| {
            if i == 0 {
                if n_heard == turn {
                    for _ in 0..100 {
                        let frame = (answer.kind(), answer.encode().unwrap(), body.clone());
                        let (kind, header, mutated) = mutate(&mut choices, &[frame]);
                        if let Ok(decoded) = Answer::decode(kind, &header)
                            && let Ok(again) = decoded.encode()
                            && Answer::decode(kind, &again).as_ref() == Ok(&decoded)
                        {
                            (*answer, *body) = (decoded, mutated);
                            break;
                        }
                    }
                }
                n_heard += 1;
            }
        }));
        world.begin(1);
        world.run();
        world.check(&format!("seed {seed}, answer {turn}"), &[0]);
        assert!(!world.clients[0].is_alive(), "seed {seed}, answer {turn}");
    }
}

#[test]
fn wakes_at_any_time_change_nothing() {
    for seed in 0..20 {
        let mut world = World::new(seed, FIVE);
        world.begin(1);
        loop {
            for i in 0..5 {
                world.feed_client(i, Event::Wake);
            }
            world.feed(coordinator::Event::Wake);
            world.feed(coordinator::Event::Settled);
            let mut stepped = false;
            if !world.run_until(|_| std::mem::replace(&mut stepped, true)) {
                break;
            }
        }
        world.check(&format!("seed {seed}"), &[]);
        assert!(world.settled_without(&[]), "seed {seed}");
    }
}

/// Every message of one honest round.
fn recorded() -> (Vec<Frame>, Vec<Frame>) {
    let requests: Arc<Mutex<Vec<Frame>>> = Arc::default();
    let answers: Arc<Mutex<Vec<Frame>>> = Arc::default();
    let mut world = World::new(RECORDED, FIVE);
    let record = requests.clone();
    world.on_request = Some(Box::new(move |_, request, body| {
        record.lock().unwrap().push((request.kind(), request.encode().unwrap(), body.clone()));
    }));
    let record = answers.clone();
    world.on_answer = Some(Box::new(move |_, answer, body| {
        record.lock().unwrap().push((answer.kind(), answer.encode().unwrap(), body.clone()));
    }));
    world.begin(1);
    world.run();
    assert!(world.settled_without(&[]));
    (std::mem::take(&mut requests.lock().unwrap()), std::mem::take(&mut answers.lock().unwrap()))
}

/// One of the frames, or a variation of it.
fn mutate(dice: &mut Dice, frames: &[Frame]) -> Frame {
    let pick = |dice: &mut Dice| frames[dice.below(frames.len() as u64) as usize].clone();
    let (mut kind, mut header, mut body) = pick(dice);
    for _ in 0..dice.below(3) {
        match dice.below(8) {
            0..=2 if !header.is_empty() => {
                let index = dice.below(header.len() as u64) as usize;
                header[index] ^= 1 << dice.below(8);
            }
            3 => header.truncate(dice.below(header.len() as u64 + 1) as usize),
            4 => header.extend(random_bytes(dice, 16)),
            5 => {
                let (other_kind, other, _) = pick(dice);
                let cut = dice.below(header.len().min(other.len()) as u64 + 1) as usize;
                header = [&header[..cut], &other[cut..]].concat();
                if dice.below(2) == 0 {
                    kind = other_kind;
                }
            }
            6 => body = random_bytes(dice, 80).into(),
            _ => {
                let start = dice.below(header.len() as u64 + 1) as usize;
                let len = (header.len() - start).min(4);
                header[start..start + len].fill(0xFF);
            }
        }
    }
    (kind, header, body)
}

fn random_bytes(dice: &mut Dice, len_max: u64) -> Vec<u8> {
    let mut bytes = vec![0; dice.below(len_max) as usize];
    eranos_base::Entropy::fill(&mut dice.0, &mut bytes);
    bytes
}

fn dice(seed: u64) -> Dice {
    Dice(eranos_base::SeededEntropy::new(seed))
}

/// The seed of the honest round whose messages are mutated.
const RECORDED: u64 = 50;
/// Rounds that are disturbed.
const SEEDS: u64 = 150;
/// Disturbances of each.
const INJECTIONS: usize = 20;
