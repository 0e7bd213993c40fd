//! The sum is the plain sum of the survivors' inputs, bit for bit, or there is none.

use std::collections::BTreeSet;

use eranos_base::{Entropy, OsEntropy, SeededEntropy};
use eranos_secagg::{Arrival, GraphKind, Incomplete, Ready, Sharers, Thresholds, UnmaskAnswer, share_keys};

use crate::federation::{federation, position};

/// Goes through a round in which each client drops out at each phase with a chance of `drop_per_mille`. Gives whether the
/// coordinator got a sum.
fn random_round(graph: GraphKind, seed: u64) -> Result<(), Incomplete> {
    let mut entropy = SeededEntropy::new(seed);
    let mut below = |n: usize| u64::from_le_bytes(entropy.bytes()) as usize % n;
    let (n1, f, u_min) = loop {
        // Small sparse graphs are complete ones.
        let n1 = if graph == GraphKind::Sparse { 16 + below(20) } else { 3 + below(10) };
        let (f, u_min) = (1 + below(3), 1 + below(n1));
        let is_wanted = match graph {
            GraphKind::Complete => Thresholds::complete(n1, f, u_min).is_ok(),
            GraphKind::Sparse => Thresholds::sparse(n1, f, u_min).is_ok_and(|sparse| sparse.degree() < n1 - 2),
        };
        if is_wanted {
            break (n1, f, u_min);
        }
    };
    let federation = federation(n1, f, u_min, 1 + below(300), 1 + below(32) as u8, seed);
    let federation = federation.with_terms(|terms| terms.graph = graph);
    // At each of the five phases some of those still there leave; few, or most rounds would end early.
    let drop_per_mille = [0, 20, 60, 150][below(4)];
    let mut alive: BTreeSet<usize> = (0..n1).collect();
    let mut drop_some = |alive: &mut BTreeSet<usize>| alive.retain(|_| below(1000) >= drop_per_mille);

    let (clients, router) = {
        drop_some(&mut alive);
        let dropped: Vec<usize> = (0..n1).filter(|i| !alive.contains(i)).collect();
        federation.shared(&dropped)
    };
    let sharers = alive.clone();
    let routed = router.close();
    assert_eq!(routed.is_ok(), sharers.len() >= u_min);
    let routed = routed?;

    drop_some(&mut alive);
    let mut clients: Vec<Option<Ready>> = (clients.into_iter().enumerate())
        .map(|(i, client)| {
            let sharers = Sharers::from_bytes(&routed.sharers().to_bytes()).expect("our own bytes");
            let parts = share_keys::parts_to_bytes(&routed.parts_for(position(i)));
            let parts = share_keys::parts_from_bytes(&parts).expect("our own bytes");
            alive.contains(&i).then(|| client.receive(&sharers, &parts).expect("an honest U2"))
        })
        .collect();
    let mut accumulator = routed.accumulate();
    for &i in &alive {
        let ready = clients[i].as_ref().expect("alive").ready();
        assert_eq!(accumulator.ready(position(i), &ready), Ok(Arrival::New));
    }
    drop_some(&mut alive);
    let mut masked = Vec::new();
    for &i in &alive {
        let client = clients[i].take().expect("alive");
        let (client, upload) = client.mask(&federation.input(i)).expect("the plan's length");
        assert_eq!(accumulator.accept(position(i), &upload.packed, &upload.finished), Ok(Arrival::New));
        masked.push((i, client));
    }
    let survivors = alive.clone();
    let collector = accumulator.close();
    assert_eq!(collector.is_ok(), survivors.len() >= u_min);
    let mut collector = collector?;

    drop_some(&mut alive);
    let mut signed = Vec::new();
    for (i, client) in masked.into_iter().filter(|(i, _)| alive.contains(i)) {
        let client = client.sign(collector.survivors()).expect("honest survivors");
        assert_eq!(collector.accept(position(i), &client.signature()), Ok(Arrival::New));
        signed.push((i, client));
    }
    assert_eq!(collector.has_quorum(), alive.len() > (n1 + f) / 2);
    let (quorum, mut unmasker) = collector.close()?;

    drop_some(&mut alive);
    for (i, client) in signed.into_iter().filter(|(i, _)| alive.contains(i)) {
        let answer = client.release(&quorum).expect("an honest quorum").to_bytes();
        let answer = UnmaskAnswer::from_bytes(&answer).expect("our own bytes");
        assert_eq!(unmasker.accept(position(i), answer), Ok(Arrival::New));
    }
    let roster = federation.roster();
    let is_complete = (0..n1).filter(|i| sharers.contains(i)).all(|dealer| {
        let n_shares = alive.iter().filter(|holder| roster.graph().contains(position(dealer), position(**holder)));
        n_shares.count() >= roster.thresholds().threshold()
    });
    assert_eq!(unmasker.is_complete(), is_complete);
    let sum = unmasker.finish();
    assert_eq!(sum.is_ok(), is_complete);
    let sum = sum?;
    assert_eq!(sum.survivors().iter().map(|p| p.index()).collect::<BTreeSet<_>>(), survivors);
    assert_eq!(sum.residues(), federation.plain_sum(survivors));
    Ok(())
}

/// Each of the checks on who is left may fail in an honest sparse round with a probability of 2^-30.
#[test]
fn random_rounds_sum_exactly_or_not_at_all() {
    check_random_rounds(GraphKind::Complete, 250);
}

#[test]
fn random_rounds_on_the_sparse_graph_sum_exactly_or_not_at_all() {
    check_random_rounds(GraphKind::Sparse, 40);
}

fn check_random_rounds(graph: GraphKind, n_rounds: u64) {
    let first_seed = u64::from_le_bytes(OsEntropy.bytes()) >> 16;
    let mut n_summed = 0;
    for seed in first_seed..first_seed + n_rounds {
        let outcome = std::panic::catch_unwind(|| random_round(graph, seed));
        let outcome = outcome.unwrap_or_else(|_| panic!("the round of seed {seed} fails"));
        n_summed += u64::from(outcome.is_ok());
    }
    // Both ends are reached: a round that always aborts would be exact, too.
    assert!(n_summed > n_rounds / 5 && n_summed < n_rounds, "{n_summed} of {n_rounds} from seed {first_seed}");
}

#[test]
fn a_dropped_client_leaves_the_sum_correct_on_both_paths() {
    for bits in 1..=32 {
        let federation = federation(8, 1, 6, 77, bits, 200 + u64::from(bits));
        // Client 2 shared keys and sent no vector; client 4 sent its vector and nothing after its statement.
        let (signed, quorum, mut unmasker, _) = federation.consistent(&[2]);
        for (i, client) in signed.into_iter().filter(|(i, _)| *i != 4) {
            let answer = client.release(&quorum).expect("honest");
            assert_eq!(unmasker.accept(position(i), answer), Ok(Arrival::New));
        }
        let sum = unmasker.finish().expect("six answers, t = 5");
        assert_eq!(sum.residues(), federation.plain_sum([0, 1, 3, 4, 5, 6, 7]), "b={bits}");
    }
}

#[test]
fn forty_clients_of_whom_two_drop_sum_exactly() {
    let federation = federation(40, 2, 30, 9, 20, 300);
    let (signed, quorum, mut unmasker, _) = federation.consistent(&[0, 39]);
    for (i, client) in signed {
        assert_eq!(unmasker.accept(position(i), client.release(&quorum).expect("honest")), Ok(Arrival::New));
    }
    assert_eq!(unmasker.finish().expect("complete").residues(), federation.plain_sum(1..39));
}

#[test]
fn too_few_answers_give_no_sum() {
    let federation = federation(8, 1, 7, 5, 20, 400);
    let (signed, quorum, mut unmasker, _) = federation.consistent(&[]);
    for (i, client) in signed.into_iter().take(5) {
        assert_eq!(unmasker.accept(position(i), client.release(&quorum).expect("honest")), Ok(Arrival::New));
    }
    assert!(!unmasker.is_complete());
    // t = 5, and a client holds no share of its own seed.
    let error = Incomplete::Shares { dealer: position(0), n_shares: 4, threshold: 5 };
    assert_eq!(unmasker.finish().map(|_| ()), Err(error));
}
