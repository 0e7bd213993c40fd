//! What a client does where its budget allows less than it did when the round began, with real processes.

use std::{
    fs::{self, OpenOptions},
    io::Write,
    thread,
    time::{Duration, Instant},
};

use eranos_base::{RoundNumber, SessionId};
use eranos_privacy::Budget;

use crate::budgets::{Trial, set};

#[test]
fn a_client_whose_round_came_to_nothing_keeps_nothing_reserved_while_it_waits() {
    let trial = slow();
    set(&trial.path("main/task.toml"), "phase_timeout_ms = ", "phase_timeout_ms = 5000");
    let mut coordinator = trial.coordinator(&[]);
    coordinator.heard("listening on ");
    let mut clients = [1, 2, 3].map(|i| trial.client(i, &[]));
    reserved(&trial);
    // Too few are left for this round, and for any other.
    clients[2].signal("KILL");
    clients[0].heard("silo-1: round aborted: ");
    let deadline = Instant::now() + BOUND;
    while trial.budget(1)["attempts_reserved"] != 0 {
        assert!(Instant::now() < deadline, "{}", trial.budget(1));
        thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(trial.budget(1)["attempts_charged"], 0);
    assert!(clients[0].child.try_wait().unwrap().is_none(), "it waits for the others");
}

#[test]
fn a_round_whose_reservation_is_gone_is_left_and_the_next_one_is_taken_part_in() {
    let trial = slow();
    let mut coordinator = trial.coordinator(&[]);
    coordinator.heard("listening on ");
    let mut client = trial.client(1, &[]);
    let others = [2, 3].map(|i| trial.client(i, &[]));
    let (budget, (session, round)) = reserved(&trial);
    // As another client would that does not see this one's lock.
    let given_back = budget.give_back(session, round).unwrap();
    let mut file = OpenOptions::new().append(true).open(trial.path("silo-1/state/budget")).unwrap();
    file.write_all(given_back.bytes()).unwrap();

    let said =
        client.heard("silo-1: refused: budget: round 1 was not begun, or what was reserved for it was given back");
    assert!(said.contains("epsilon spent 0.000"), "{said}");
    client.heard("silo-1: help: another client took this one for gone");
    // Nothing of it had left, and the task goes on with it.
    assert!(client.finish().success() && coordinator.finish().success());
    assert!(others.into_iter().all(|other| other.finish().success()));
    let status = trial.status();
    assert_eq!((&status["released"], &status["aborted"]), (&2.into(), &1.into()), "{status}");
    let budget = trial.budget(1);
    assert_eq!((&budget["attempts_charged"], &budget["receipts"]), (&2.into(), &2.into()), "{budget}");
    trial.check_accounts("given back by another");
}

/// What its rounds reserve is charged seconds later at the earliest: time to do something in between.
fn slow() -> Trial {
    let trial = Trial::new(3, "tiny", 2);
    for (key, line) in [
        ("ready_slot_ms = ", "ready_slot_ms = 4000"),
        ("phase_timeout_ms = ", "phase_timeout_ms = 60000"),
        ("attempts_max = ", "attempts_max = 6"),
    ] {
        set(&trial.path("main/task.toml"), key, line);
    }
    trial
}

/// Waits until the first client has reserved an attempt.
fn reserved(trial: &Trial) -> (Budget, (SessionId, RoundNumber)) {
    let deadline = Instant::now() + BOUND;
    loop {
        let bytes = fs::read(trial.path("silo-1/state/budget")).unwrap_or_default();
        if let Ok((budget, _)) = Budget::parse(&bytes)
            && let Some(place) = budget.reservations().first().copied()
        {
            return (budget, place);
        }
        assert!(Instant::now() < deadline, "it never reserved anything");
        thread::sleep(Duration::from_millis(5));
    }
}

/// A process that takes longer hangs, on however slow a machine.
const BOUND: Duration = Duration::from_secs(120);
