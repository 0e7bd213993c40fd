//! Both machines of a round under programs of bytes: messages of a real round, whole or mutated, and bytes of any kind, in
//! any order and at any time. Whatever happens, the round comes to its end, its sum is exact or there is none, nobody else
//! is blamed, charged without a vector or kept waiting: [`World::check`].

use bytes::Bytes;
use eranos_base::{ClientId, Digest, SigningKey};
use eranos_client::round::Event;
use eranos_coordinator::round::{self as coordinator, Peer};
use eranos_wire::{Answer, Request};
use zeroize::Zeroizing;

use super::corpus::{SEED, recorded};
use crate::simulation::world::{Did, Exit, ExitHow, FIVE, SHARE_KEYS, World};

/// What came of a program for the coordinator.
pub(crate) struct Coordinator {
    /// Messages that its machine was given.
    pub(crate) n_fed: u32,
    /// Whether the sum was released.
    pub(crate) is_released: bool,
}

/// What came of a program for a client.
pub(crate) struct Client {
    /// Events that its machine was given.
    pub(crate) n_fed: u32,
    /// Whether it was charged.
    pub(crate) is_charged: bool,
}

/// A liar of the cohort, a stranger and the clock against the coordinator.
pub(crate) fn play_coordinator(program: &[u8]) -> Coordinator {
    let recorded = recorded();
    let mut program = Program(program);
    // The keys are those of the record, so that its messages are real ones of this very round.
    let mut world = World::new(SEED, FIVE);
    let liar = usize::from(program.next() % 5);
    if program.next().is_multiple_of(4) {
        let gone = (liar + 1) % 5;
        world.clients[gone].exit = Some(Exit { kind: SHARE_KEYS, how: ExitHow::DiesBefore });
    }
    // One of the liar's own requests is changed on its way, just when it is waited for.
    let (turn, is_body, mutations) = (program.next() % 8, program.next() % 2 == 1, program.bytes());
    let mut n_sent = 0;
    world.on_request = Some(Box::new(move |i, request, body| {
        if i == liar {
            if n_sent == turn {
                let mut program = Program(&mutations);
                if is_body {
                    let mut bytes = body.to_vec();
                    program.mutate(&mut bytes);
                    *body = bytes.into();
                } else {
                    let mut header = request.encode().expect("it was short enough");
                    program.mutate(&mut header);
                    *request = Request::decode(request.kind(), &header).unwrap_or_else(|_| request.clone());
                }
            }
            n_sent += 1;
        }
    }));
    world.begin(1);
    let stranger = Peer {
        id: ClientId::new(&world.setup.trust_domain, "c77").expect("a name"),
        key: SigningKey::from_seed(&[6; 32]).verifying_key(),
        certificate: Digest::of(b"c77"),
    };
    let mut n_fed = 0;
    for _ in 0..OPS_MAX {
        if program.is_over() || !go_on(&mut world, program.next() % 4) {
            break;
        }
        let op = program.next();
        let (kind, mut header, mut body) = match op % 8 {
            0 => {
                world.feed(coordinator::Event::Wake);
                world.feed(coordinator::Event::Settled);
                continue;
            }
            1 => (program.next(), program.bytes(), program.bytes().into()),
            _ => {
                // Mostly the liar's own messages, sometimes somebody else's under its name.
                let of = if op & 0x40 == 0 { liar } else { usize::from(program.next() % 5) };
                let messages: Vec<_> = recorded.requests.iter().filter(|(i, ..)| *i == of).collect();
                let (_, request, body) = messages[usize::from(program.next()) % messages.len()];
                (request.kind(), request.encode().expect("it was short enough"), body.clone())
            }
        };
        if op & 8 != 0 {
            program.mutate(&mut header);
        }
        if op & 16 != 0 && !body.is_empty() {
            let mut bytes = body.to_vec();
            program.mutate(&mut bytes);
            body = bytes.into();
        }
        let Ok(request) = Request::decode(kind, &header) else { continue };
        let from = if op & 0x80 == 0 || op & 0x20 == 0 { world.peer(liar) } else { stranger.clone() };
        // A stranger among the cohort would be one more client, which the world does not know.
        if from.id != stranger.id || !matches!(request, Request::CheckIn(_)) {
            world.request(&from, request, &body);
            n_fed += 1;
        }
    }
    world.run();
    world.check(&format!("liar {liar}"), &[liar]);
    Coordinator { n_fed, is_released: world.coordinator.released.is_some() }
}

/// A coordinator, the trainer and the clock against client 0.
pub(crate) fn play_client(program: &[u8]) -> Client {
    let recorded = recorded();
    let mut program = Program(program);
    let mut world = World::new(SEED, FIVE);
    // One of the real answers is changed on its way; later ones may be fed as they are, in any order.
    let (turn, mut mutations) = (usize::from(program.next() % 16), program.bytes());
    let mut n_heard = 0;
    world.on_answer = Some(Box::new(move |i, answer, body| {
        if i == 0 {
            if n_heard == turn {
                let mutations = std::mem::take(&mut mutations);
                change(&mut Program(&mutations), answer, body);
            }
            n_heard += 1;
        }
    }));
    world.begin(1);
    let mut n_fed = 0;
    for _ in 0..OPS_MAX {
        if program.is_over() || !go_on(&mut world, program.next() % 12) {
            break;
        }
        let op = program.next();
        let event = match op % 8 {
            0 => Event::Wake,
            1 => {
                // The one that it makes when it is asked, before or after; sometimes of another length.
                let mut contribution = world.clients[0].contribution.clone();
                contribution.truncate(contribution.len() - usize::from(op >> 6));
                world.clients[0].did.push(Did::Trained { at: world.now });
                Event::Contribution(Zeroizing::new(contribution))
            }
            2 if op & 0x30 == 0 => Event::TrainingFailed { reason: "out of memory".to_owned() },
            3 if op & 0x30 == 0 => Event::Leave { reason: "no answer".to_owned() },
            _ => {
                let (_, answer, body) = &recorded.answers[usize::from(program.next()) % recorded.answers.len()];
                let (mut answer, mut body) = (answer.clone(), body.clone());
                if op & 8 != 0 {
                    change(&mut program, &mut answer, &mut body);
                }
                world.clients[0].did.push(Did::Heard);
                Event::Answer { answer, body }
            }
        };
        n_fed += 1;
        world.feed_client(0, event);
    }
    world.run();
    world.check("client 0", &[0]);
    assert!(!world.clients[0].is_alive(), "client 0 waits for ever");
    Client { n_fed, is_charged: world.clients[0].is_charged() }
}

/// Mutates an answer, if that leaves an answer.
fn change(program: &mut Program<'_>, answer: &mut Answer, body: &mut Bytes) {
    let mut header = answer.encode().expect("it was short enough");
    program.mutate(&mut header);
    // Through its bytes once more: what does not come back the same is no message that anybody sends.
    if let Ok(changed) = Answer::decode(answer.kind(), &header)
        && let Ok(again) = changed.encode()
        && Answer::decode(changed.kind(), &again).as_ref() == Ok(&changed)
    {
        *answer = changed;
    }
    if program.next().is_multiple_of(4) {
        let mut bytes = body.to_vec();
        program.mutate(&mut bytes);
        *body = bytes.into();
    }
}

/// Lets up to `n_steps` things happen; whether anything lies ahead still.
fn go_on(world: &mut World, n_steps: u8) -> bool {
    let mut left = n_steps;
    world.run_until(|_| {
        let done = left == 0;
        left = left.saturating_sub(1);
        done
    })
}

/// Bytes that are read as choices; zeros when they are used up.
struct Program<'a>(&'a [u8]);

impl Program<'_> {
    fn is_over(&self) -> bool {
        self.0.is_empty()
    }

    fn next(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    /// Up to 63 of the bytes that follow.
    fn bytes(&mut self) -> Vec<u8> {
        let len = usize::from(self.next() % 64).min(self.0.len());
        let (bytes, rest) = self.0.split_at(len);
        self.0 = rest;
        bytes.to_vec()
    }

    /// One to four changes.
    fn mutate(&mut self, bytes: &mut Vec<u8>) {
        for _ in 0..=self.next() % 4 {
            let at = usize::from(u16::from_le_bytes([self.next(), self.next()])) % (bytes.len() + 1);
            let how = self.next();
            let end = (at + usize::from(how >> 4)).min(bytes.len());
            match how % 6 {
                0 => bytes.truncate(at),
                1 => bytes.insert(at, self.next()),
                2 => drop(bytes.drain(at..end)),
                3 => bytes[at..end].fill(0xFF),
                4 => bytes.extend_from_within(at..end),
                _ => bytes[at..end.min(at + 1)].iter_mut().for_each(|byte| *byte ^= 1 << (how >> 4 & 7)),
            }
        }
    }
}

/// Instructions of one program.
const OPS_MAX: usize = 64;
