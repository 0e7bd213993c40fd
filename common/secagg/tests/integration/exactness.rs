//! The sum is the plain sum of the survivors' inputs, bit for bit, or there is none: chosen cases. Random ones are in
//! `rounds`.

use eranos_secagg::{Arrival, Incomplete};

use crate::federation::{federation, position};

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
