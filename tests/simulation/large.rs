//! Rounds of more clients than a leaf of the ledger could name, whose participants and quorum lie beside it.

use std::time::Duration;

use eranos_ledger::audit::{self, Options};
use eranos_secagg::GraphKind;

use super::world::{Exit, ExitHow, READY, SHARE_KEYS, Size, World};

const THREE_HUNDRED: Size = Size { n: 300, u_min: 280, f: 5 };

/// A round in which three of three hundred drop out; then an auditor reads what it left.
fn check(graph: GraphKind) {
    let mut world = World::on(graph, 31, THREE_HUNDRED);
    // Sixteen upload at once: all of them take longer than a few clients do.
    world.phase_wait = Duration::from_secs(8);
    let gone = [7, 150, 299];
    for (i, kind) in gone.into_iter().zip([SHARE_KEYS, READY, READY]) {
        world.clients[i].exit = Some(Exit { kind, how: ExitHow::DiesAfter });
    }
    world.begin(1);
    world.run();
    world.check("three hundred", &[]);
    assert!(world.settled_without(&gone), "{:?}", world.coordinator.abandoned);

    let dir = tempfile::tempdir().expect("a folder");
    world.coordinator.ledger.storage().write_to(dir.path()).unwrap();
    let options = Options::new(world.setup.signer.ledger_key());
    let report = audit::verify(dir.path(), &options).expect("readable");
    assert!(report.is_clean(), "{:#?}", report.findings);
    let pseudonyms = &report.tasks[0].pseudonyms;
    assert_eq!((report.n_released(), pseudonyms.len()), (1, 300));
    assert!(pseudonyms.iter().all(|one| one.attempts == 1));
    assert_eq!(pseudonyms.iter().map(|one| one.revealed).sum::<u64>(), 297, "whoever sent a vector is in the sum");
}

#[test]
fn three_hundred_clients_on_the_complete_graph_leave_a_ledger_that_verifies() {
    check(GraphKind::Complete);
}

#[test]
fn three_hundred_clients_on_a_sparse_graph_leave_a_ledger_that_verifies() {
    check(GraphKind::Sparse);
}
