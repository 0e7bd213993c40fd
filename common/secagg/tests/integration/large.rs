//! More clients than GF(2^8) has coordinates for.

use eranos_base::SeededEntropy;
use eranos_secagg::{Arrival, Graph, Refusal, RosterError, ThresholdError};

use crate::federation::{federation, position, sparse};

/// Shares go to positions on both sides of 255, and those who drop out are on both sides too.
#[test]
fn three_hundred_clients_of_whom_twenty_drop_sum_exactly() {
    let federation = sparse(300, 15, 270, 7, 26, 1);
    let dropped: Vec<usize> = (0..300).step_by(15).collect();
    let (signed, quorum, mut unmasker, _) = federation.consistent(&dropped);
    let roster = federation.roster();
    assert_eq!(quorum.signatures().len(), roster.thresholds().quorum(), "a quorum is no more than it needs to be");
    for (i, client) in signed {
        let answer = client.release(&quorum).expect("honest");
        assert_eq!(unmasker.accept(position(i), answer), Ok(Arrival::New));
    }
    let survivors = (0..300).filter(|i| !dropped.contains(i));
    assert_eq!(unmasker.finish().expect("complete").residues(), federation.plain_sum(survivors));
}

#[test]
fn a_roster_too_large_for_the_complete_graph_is_refused_on_it_and_taken_on_the_sparse_one() {
    let complete = federation(1025, 5, 1015, 1, 16, 2);
    let entries = complete.entries();
    let refusal = complete.deal(0, &entries, &mut SeededEntropy::new(1)).err();
    let too_large = RosterError::Thresholds(ThresholdError::CompleteTooLarge { n1: 1025 });
    assert_eq!(refusal, Some(Refusal::Roster(too_large)));
    let sparse = complete.with_terms(|terms| terms.graph = eranos_secagg::GraphKind::Sparse);
    let shared = sparse.deal(0, &entries, &mut SeededEntropy::new(1)).expect("an honest roster");
    let Graph::Sparse { degree, .. } = shared.roster().graph() else { panic!("a sparse graph") };
    assert_eq!(shared.bundle().parts().len(), *degree);
}
