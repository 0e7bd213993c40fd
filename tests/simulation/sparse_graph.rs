//! Rounds on the sparse graph: the same promises while the coordinator keeps to the rules, and what it cannot do when it
//! does not.

use eranos_client::round::{End, RefusalKind};
use eranos_secagg::{Graph, GraphKind, Refusal, Roster, RosterError, roster::EntryError};

use super::{
    adversary::{Adversary, alter_answers},
    coordinator_attacks::{VICTIM, check_refusal, deceive},
    rounds::draw_exits,
    world::{Exit, ExitHow, FIVE, READY, SHARE_KEYS, Size, World},
};

/// k = 8, t = 4, q = 22: at most 4 of 40 drop out.
const FORTY: Size = Size { n: 40, u_min: 36, f: 2 };

#[test]
fn a_sparse_round_in_which_clients_drop_out_at_two_phases_sums_exactly() {
    let mut world = World::on(GraphKind::Sparse, 1, FORTY);
    let gone = [3, 17, 18, 39];
    for (i, kind) in gone.into_iter().zip([SHARE_KEYS, READY, READY, SHARE_KEYS]) {
        world.clients[i].exit = Some(Exit { kind, how: ExitHow::DiesAfter });
    }
    let seen = alter_answers(&mut world, VICTIM, |_, _, _| {});
    world.begin(1);
    world.run();
    world.check("four of forty", &[]);
    assert!(world.settled_without(&gone), "{:?}", world.coordinator.abandoned);
    let seen = seen.lock().unwrap();
    let roster = seen.roster.as_ref().unwrap();
    assert!(matches!(roster.graph(), Graph::Sparse { degree: 8, .. }));
    assert_eq!((roster.thresholds().threshold(), roster.thresholds().quorum()), (4, 22));
}

#[test]
fn whoever_drops_out_of_a_sparse_round_the_sum_is_exact_or_there_is_none() {
    let (mut n_released, mut n_aborted) = (0, 0);
    for seed in 0..12 {
        let mut world = World::on(GraphKind::Sparse, seed, Size { n: 20, u_min: 16, f: 1 });
        draw_exits(&mut world, seed);
        world.begin(1);
        world.run();
        world.check(&format!("seed {seed}"), &[]);
        match world.coordinator.released {
            Some(_) => n_released += 1,
            None => n_aborted += 1,
        }
    }
    assert!(n_released > 3, "{n_released} released, {n_aborted} aborted");
}

#[test]
fn a_sparse_plan_to_a_client_that_allows_complete_graphs_alone_is_refused() {
    let world = deceive(
        "complete alone",
        |_| {},
        |adversary, answer, _| adversary.replan(answer, |plan| plan.graph = GraphKind::Sparse),
    );
    check_refusal(&world, "complete alone", true, false, |kind| *kind == RefusalKind::SparseGraph);
    let Some(End::Refused(refusal)) = &world.clients[VICTIM].end else { unreachable!() };
    assert!(refusal.is_final() && refusal.next_step().contains("sparse_graph in policy.toml"));
    assert!(world.settled_without(&[VICTIM]), "the others go on");
}

#[test]
fn a_sparse_plan_with_fewer_colluders_or_more_drop_outs_than_the_policy_allows_is_refused() {
    let check = |context: &str, demand: fn(&mut World), expect: fn(&RefusalKind) -> bool| {
        let mut world = World::on(GraphKind::Sparse, 2, Size { n: 20, u_min: 16, f: 1 });
        demand(&mut world);
        world.begin(1);
        world.run();
        world.check(context, &[VICTIM]);
        check_refusal(&world, context, true, false, expect);
    };
    check(
        "colluders",
        |world| world.clients[VICTIM].member_mut().policy.sparse_graph.as_mut().unwrap().corrupt_share_min = 0.06,
        |kind| matches!(kind, RefusalKind::TooLittle { what: "share of colluders tolerated", found: 0.05, .. }),
    );
    check(
        "drop-outs",
        |world| world.clients[VICTIM].member_mut().policy.sparse_graph.as_mut().unwrap().dropped_share_max = 0.19,
        |kind| matches!(kind, RefusalKind::TooMuch { what: "share of drop-outs", found: 0.2, .. }),
    );
}

#[test]
fn two_graphs_in_one_round_are_refused() {
    // The victim alone is told that the graph is sparse, which its policy allows: the others advertised for another plan.
    let allow = |world: &mut World| {
        let sparse = World::on(GraphKind::Sparse, 1, FIVE).clients[VICTIM].member_mut().policy.sparse_graph.clone();
        world.clients[VICTIM].member_mut().policy.sparse_graph = sparse;
    };
    let world = deceive("two graphs", allow, |adversary, answer, _| {
        adversary.replan(answer, |plan| plan.graph = GraphKind::Sparse);
    });
    // Its own advert is for the plan that it was told: the coordinator can put it into no roster of the others'.
    assert!(matches!(world.clients[VICTIM].end, Some(End::Aborted { .. })), "{:?}", world.clients[VICTIM].end);
    assert!(world.settled_without(&[VICTIM]));
    // And a roster of the others' adverts, brought all the same, is none under its plan.
    let mut world = World::on(GraphKind::Sparse, 3, Size { n: 20, u_min: 16, f: 1 });
    let seen = alter_answers(&mut world, VICTIM, |_, _, _| {});
    world.begin(1);
    world.run();
    let seen = seen.lock().unwrap();
    let mut terms = (*seen.terms()).clone();
    let entries = seen.roster.as_ref().unwrap().entries().to_vec();
    let mut plan = seen.plan.clone().unwrap();
    plan.graph = GraphKind::Complete;
    (terms.plan, terms.graph) = (plan.digest(), plan.graph);
    let refused = Roster::assemble(terms.into(), entries).err();
    assert!(matches!(refused, Some(RosterError::Entry { error: EntryError::Advert(_), .. })), "{refused:?}");
}

/// One round of twenty in which the victim hears what `alter` makes of the answers.
fn deceive_in_sparse(
    context: &str,
    alter: impl FnMut(&Adversary, &mut eranos_wire::Answer, &mut bytes::Bytes) + 'static,
) -> World {
    let mut world = World::on(GraphKind::Sparse, 4, Size { n: 20, u_min: 16, f: 1 });
    alter_answers(&mut world, VICTIM, alter);
    world.begin(1);
    world.run();
    world.check(context, &[VICTIM]);
    world
}

#[test]
fn parts_from_beyond_the_neighbors_or_fewer_than_theirs_are_refused() {
    let world = deceive_in_sparse("from beyond", |adversary, answer, _| {
        adversary.resharers(answer, |_, parts| {
            let graph = adversary.roster.as_ref().unwrap().graph().clone();
            let holder = parts[0].holder;
            let stranger = (0..20).map(eranos_base::Position).find(|p| *p != holder && !graph.contains(*p, holder));
            let mut part = parts[0].clone();
            part.dealer = stranger.unwrap();
            parts.push(part);
        });
    });
    check_refusal(&world, "from beyond", true, false, |kind| {
        matches!(kind, RefusalKind::SecureSum(Refusal::ForeignPart { .. }))
    });
    let world = deceive_in_sparse("fewer", |adversary, answer, _| {
        adversary.resharers(answer, |_, parts| {
            parts.pop();
        });
    });
    check_refusal(&world, "fewer", true, false, |kind| {
        matches!(kind, RefusalKind::SecureSum(Refusal::PartMissing { .. }))
    });
}

#[test]
fn a_roster_in_another_order_is_refused_on_the_sparse_graph_too() {
    let world = deceive_in_sparse("order", |adversary, answer, _| {
        adversary.reorder(answer, |entries| entries.swap(5, 6));
        adversary.show(answer, &[]);
    });
    check_refusal(&world, "order", true, false, |kind| {
        matches!(kind, RefusalKind::SecureSum(Refusal::Roster(RosterError::Order { .. })))
    });
}

#[test]
fn a_task_for_which_no_sparse_graph_is_safe_shares_no_keys() {
    let mut world = World::on(GraphKind::Sparse, 5, Size { n: 10, u_min: 9, f: 7 });
    world.begin(1);
    world.run();
    world.check("infeasible", &[]);
    let reason = world.coordinator.abandoned.as_ref().unwrap();
    assert!(reason.starts_with("no sparse graph of 10 clients keeps its promises"), "{reason}");
    assert!(world.clients.iter().all(|client| !client.is_charged()));
}
