//! Honest rounds: whoever drops out wherever, the sum is exact or there is none.

use std::time::Duration;

use eranos_client::round::{End, Event, Step};
use eranos_coordinator::round::{self as coordinator, Note};
use eranos_privacy::Budget;
use eranos_wire::messages::select::ComeBack;

use super::world::{
    ADVERTISE, CHECK_IN, CONSISTENCY, CoordinatorDid, Did, Exit, ExitHow, FETCH_CREDENTIALS, FIVE, MASKED_INPUT,
    QUORUM, READY, SHARE_KEYS, Size, UNMASK, World,
};

/// Every request after which a client may be gone.
const KINDS: [u8; 8] = [CHECK_IN, FETCH_CREDENTIALS, ADVERTISE, SHARE_KEYS, READY, MASKED_INPUT, CONSISTENCY, UNMASK];
const HOWS: [ExitHow; 3] = [ExitHow::DiesBefore, ExitHow::DiesAfter, ExitHow::Leaves];

#[test]
fn whoever_drops_out_the_sum_is_exact_or_there_is_none() {
    let (mut n_released, mut n_aborted, mut n_partial) = (0, 0, 0);
    for seed in 0..SEEDS {
        let mut world = random_world(seed);
        for round in 1..=ROUNDS {
            let n_gone = draw_exits(&mut world, seed);
            let context = format!("seed {seed}, round {round}");
            world.begin(round);
            world.run();
            world.check(&context, &[]);
            match &world.coordinator.released {
                Some(released) => {
                    n_released += 1;
                    n_partial += u32::from(released.survivors.len() < world.clients.len());
                }
                None => n_aborted += 1,
            }
            // Without a drop there is nothing to abort for.
            if n_gone == 0 {
                assert!(world.settled_without(&[]), "{context}: {:?}", world.coordinator.abandoned);
            }
        }
        for (i, client) in world.clients.iter().enumerate() {
            let (read, torn) = Budget::parse(&client.file).unwrap();
            assert_eq!(
                (read.head(), torn),
                (client.budget.head(), None),
                "seed {seed}, client {i}: its file is its budget"
            );
        }
    }
    // The schedule must reach all three, or the test says little.
    assert!(
        n_released > 50 && n_aborted > 15 && n_partial > 50,
        "{n_released} released, {n_aborted} aborted, {n_partial} partial"
    );
}

/// A federation of 4 to 12 whose plan tolerates some drop-outs.
fn random_world(seed: u64) -> World {
    let sizes = [
        Size { n: 4, u_min: 3, f: 1 },
        Size { n: 5, u_min: 4, f: 1 },
        Size { n: 6, u_min: 4, f: 1 },
        Size { n: 7, u_min: 5, f: 2 },
        Size { n: 8, u_min: 5, f: 1 },
        Size { n: 9, u_min: 7, f: 3 },
        Size { n: 10, u_min: 7, f: 3 },
        Size { n: 12, u_min: 7, f: 1 },
    ];
    World::new(seed, sizes[(seed % sizes.len() as u64) as usize])
}

/// Draws who goes, where and how; who is slow; and how bad the network is. How many will be missed.
pub(super) fn draw_exits(world: &mut World, seed: u64) -> usize {
    let size = world.setup.size;
    // About as many as the plan tolerates, sometimes more.
    let tolerated = size.n - usize::from(size.u_min);
    let n_gone = world.dice.below(tolerated as u64 + 2) as usize;
    world.loss_percent = if seed.is_multiple_of(3) { 15 } else { 0 };
    for i in 0..size.n {
        world.clients[i].exit = None;
        world.clients[i].trains_ms = world.dice.below(400);
    }
    for _ in 0..n_gone {
        let i = world.dice.below(size.n as u64) as usize;
        if world.dice.below(8) == 0 {
            // Too slow: its vector comes when the survivors are fixed.
            world.clients[i].trains_ms = 2500;
            continue;
        }
        let kind = KINDS[world.dice.below(KINDS.len() as u64) as usize];
        let how = match kind {
            // A client that never checks in is in no round.
            CHECK_IN => ExitHow::DiesAfter,
            _ => HOWS[world.dice.below(HOWS.len() as u64) as usize],
        };
        world.clients[i].exit = Some(Exit { kind, how });
    }
    n_gone
}

#[test]
fn one_drop_out_at_any_phase_and_in_any_way_costs_nobody_else_the_round() {
    for (seed, kind) in (0..).zip(KINDS) {
        for how in HOWS.into_iter().filter(|how| kind != CHECK_IN || *how == ExitHow::DiesAfter) {
            let mut world = World::new(seed, FIVE);
            world.clients[2].exit = Some(Exit { kind, how });
            world.begin(1);
            world.run();
            let context = format!("seed {seed}, request {kind:#x}, {how:?}");
            world.check(&context, &[]);
            assert!(world.settled_without(&[2]), "{context}: {:?}", world.coordinator.abandoned);
            // A vector that has arrived counts, though its client be gone.
            let arrived = kind > MASKED_INPUT || (kind == MASKED_INPUT && how != ExitHow::DiesBefore);
            let survivors = &world.coordinator.released.as_ref().unwrap().survivors;
            // What a client sends last may arrive before what it sent first.
            if (kind, how) != (MASKED_INPUT, ExitHow::Leaves) {
                assert_eq!(survivors.contains(&2), arrived, "{context}");
            }
        }
    }
}

#[test]
fn a_client_that_leaves_after_its_shares_costs_no_slower_client_its_place() {
    // One client leaves at once after sharing; another's shares are on the way all the while.
    for seed in 0..20 {
        let mut world = World::new(seed, FIVE);
        world.clients[0].exit = Some(Exit { kind: SHARE_KEYS, how: ExitHow::Leaves });
        world.begin(1);
        world.run();
        world.check(&format!("seed {seed}"), &[]);
        assert!(world.settled_without(&[0]), "seed {seed}: {:?}", world.coordinator.abandoned);
    }
}

#[test]
fn a_client_that_leaves_after_its_shares_is_not_waited_for_in_the_next_phase() {
    let mut world = World::new(1, FIVE);
    world.phase_wait = Duration::from_secs(8);
    world.clients[0].exit = Some(Exit { kind: SHARE_KEYS, how: ExitHow::Leaves });
    let began = world.now;
    world.begin(1);
    world.run();
    world.check("left after its shares", &[]);
    assert!(world.settled_without(&[0]), "{:?}", world.coordinator.abandoned);
    let signed = world.clients[1].did.iter().find_map(|did| match did {
        Did::Sent { at, request, .. } if request.kind() == CONSISTENCY => Some(at.since(began)),
        _ => None,
    });
    assert!(signed.is_some_and(|after| after < Duration::from_secs(4)), "{signed:?}");
}

#[test]
fn a_client_that_comes_too_late_is_told_so_at_once() {
    let mut world = World::new(1, FIVE);
    world.clients[3].trains_ms = 1500;
    world.begin(1);
    let began = world.now;
    world.run();
    world.check("late", &[]);
    assert!(world.settled_without(&[3]));
    assert!(matches!(world.clients[3].end, Some(End::Aborted { .. })), "{:?}", world.clients[3].end);
    let heard_ms = world.clients[3].did.iter().rev().find_map(|did| match did {
        Did::Sent { at, .. } => Some(at.since(began).as_millis()),
        _ => None,
    });
    assert!(heard_ms.unwrap() < 2000, "it does not wait out its time");
}

#[test]
fn a_client_that_is_gone_for_a_round_takes_part_in_the_next() {
    let mut world = World::new(7, FIVE);
    world.clients[1].exit = Some(Exit { kind: MASKED_INPUT, how: ExitHow::DiesAfter });
    world.begin(1);
    world.run();
    world.check("round 1", &[]);
    world.clients[1].exit = None;
    world.begin(2);
    world.run();
    world.check("round 2", &[]);
    assert!(world.settled_without(&[]));
    let client = &world.clients[1];
    assert_eq!((client.budget.n_charged(), client.budget.n_receipts()), (2, 1), "the lost round stays charged");
    assert!(client.checkpoint.as_ref().is_some_and(|checkpoint| checkpoint.size == 4), "{:?}", client.checkpoint);
    // Credentials are fetched once.
    let fetched = |i: usize| world.clients[i].sent().any(|request| request.kind() == FETCH_CREDENTIALS);
    assert!((0..5).all(|i| !fetched(i)), "the second round needs none");
}

#[test]
fn below_the_least_number_of_survivors_nothing_is_revealed() {
    for kind in [ADVERTISE, SHARE_KEYS, READY, MASKED_INPUT] {
        let mut world = World::new(3, FIVE);
        for i in [1, 4] {
            world.clients[i].exit = Some(Exit { kind, how: ExitHow::DiesBefore });
        }
        world.begin(1);
        world.run();
        let context = format!("two are gone before request {kind:#x}");
        world.check(&context, &[]);
        assert!(world.coordinator.abandoned.is_some(), "{context}");
        assert_eq!(world.coordinator.abandoned_revealed, Some(false), "{context}");
        assert!(!world.coordinator.did.iter().any(|did| matches!(did, CoordinatorDid::Answered { kind: QUORUM, .. })));
        for i in [0, 2, 3] {
            assert!(matches!(world.clients[i].end, Some(End::Aborted { .. })), "{context}: {:?}", world.clients[i].end);
        }
    }
}

#[test]
fn a_round_that_ends_after_the_quorum_counts_as_revealed() {
    // Two vanish with their shares: three answers are as many as t, but for each of the three one is missing.
    let mut world = World::new(3, FIVE);
    for i in [1, 4] {
        world.clients[i].exit = Some(Exit { kind: UNMASK, how: ExitHow::DiesBefore });
    }
    world.begin(1);
    world.run();
    world.check("two vanish after the quorum", &[]);
    assert!(world.coordinator.released.is_none());
    assert_eq!(world.coordinator.abandoned_revealed, Some(true));

    // And if the operator stops it there.
    let mut world = World::new(4, FIVE);
    world.begin(1);
    assert!(world.run_until(|world| world.coordinator.round.phase() == Some(coordinator::Phase::Unmask)));
    world.feed(coordinator::Event::Stop { reason: "shutting down".to_owned() });
    world.run();
    world.check("stopped in unmask", &[]);
    assert_eq!(world.coordinator.abandoned_revealed, Some(true));
}

#[test]
fn a_stop_in_any_phase_ends_the_round_for_everybody() {
    for phase in coordinator::Phase::ALL {
        let mut world = World::new(5, FIVE);
        world.begin(1);
        assert!(world.run_until(|world| match &world.coordinator.round {
            coordinator::Round::Select(select) => phase == coordinator::Phase::Select && select.cohort().count() == 3,
            round => round.phase() == Some(phase),
        }));
        world.feed(coordinator::Event::Stop { reason: "shutting down".to_owned() });
        world.run();
        let context = format!("stopped in {}", phase.name());
        let revealed = (phase != coordinator::Phase::Select).then_some(phase == coordinator::Phase::Unmask);
        assert_eq!(world.coordinator.abandoned_revealed, revealed, "{context}");
        world.check(&context, &[]);
        for client in world.clients.iter().filter(|_| phase == coordinator::Phase::Select) {
            assert!(matches!(client.end, Some(End::ComeBackLater { .. })), "{context}: {:?}", client.end);
        }
    }
}

#[test]
fn an_answer_that_was_lost_comes_again_and_changes_nothing() {
    let mut world = World::new(11, FIVE);
    world.loss_percent = 40;
    world.begin(1);
    world.run();
    world.check("four in ten answers are lost", &[]);
    let dropped = world.coordinator.notes.iter().filter(|note| matches!(note, Note::Misbehaved { .. })).count();
    assert_eq!(dropped, 0, "{:?}", world.coordinator.notes);
}

#[test]
fn every_survivor_keeps_the_receipt_of_its_round() {
    let mut world = World::new(12, FIVE);
    for round in 1..=3 {
        world.begin(round);
        world.run();
        world.check("honest", &[]);
        assert!(world.settled_without(&[]));
        let index = world.coordinator.released.as_ref().unwrap().index;
        let entry = eranos_base::Digest::of(&world.coordinator.ledger.entry(index).unwrap());
        for client in &world.clients {
            let receipt = Step::Receipt { entry, survivors: 5 };
            assert!(client.did.iter().any(|did| matches!(did, Did::Persisted(step) if *step == receipt)));
            assert_eq!(client.budget.n_receipts(), round);
        }
    }
}

#[test]
fn a_client_that_is_spent_is_selected_by_nobody() {
    let mut world = World::new(14, FIVE);
    let spent = world.clients[2].member.identity.id.clone();
    world.coordinator.spent.insert(spent.clone());
    for round in 1..=2 {
        world.begin(round);
        world.run();
        world.check("spent", &[]);
        assert!(world.settled_without(&[2]));
        let end = &world.clients[2].end;
        assert!(matches!(end, Some(End::ComeBackLater { when: ComeBack::Spent, .. })), "{end:?}");
        assert!(!world.clients[2].is_charged());
    }
    let opened = world.coordinator.did.iter().filter_map(|did| match did {
        CoordinatorDid::Opened { cohort } => Some(cohort),
        _ => None,
    });
    let cohorts: Vec<_> = opened.collect();
    assert!(!cohorts.is_empty() && cohorts.iter().all(|cohort| cohort.len() == 4 && !cohort.contains(&spent)));
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

/// Federations, each with its own sizes and schedules.
const SEEDS: u64 = 80;
/// Rounds of each.
const ROUNDS: u64 = 3;
