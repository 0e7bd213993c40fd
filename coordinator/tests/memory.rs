//! What the coordinator's part of a round may take of the heap. A binary of its own: the whole process is counted.

#[path = "../examples/memory.rs"]
#[expect(dead_code, reason = "the example's own command line")]
mod memory;

use eranos_secagg::GraphKind;
use memory::{Size, measure};

#[test]
fn a_round_takes_no_more_memory_than_its_grants_and_its_keys_need() {
    for (graph, clients, colluders) in [(GraphKind::Complete, 24, 1), (GraphKind::Sparse, 40, 2)] {
        let used = measure(&Size { clients, parameters: 1 << 17, dropped: 4, colluders, graph });
        assert!(used.is_within_bounds(), "{graph:?}: {used:?}");
        // The measurement sees what there surely is: the staged vectors, packed, and the sum; and the sum alone.
        assert!(used.vectors_uploading() > 5.0 && used.vectors_unmasking() >= 1.0, "{graph:?}: {used:?}");
    }
}
