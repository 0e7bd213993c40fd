//! The three numbers that decide what a coordinator and its helpers can learn. Every client computes them itself.

use eranos_base::limits::COHORT_LEN_MAX;

use crate::graph::{ETA, GraphError, SIGMA, SparseParameters};

/// Most clients of one roster. Their shares' coordinates, 1 to n1, are in GF(2^16) where GF(2^8) has too few.
pub const ROSTER_LEN_MAX: usize = COHORT_LEN_MAX;
/// Most clients of a roster on the complete graph: at the limit each seals 1,023 parts of 212 bytes and agrees on as many
/// keys, and the coordinator holds all million parts, 222 MB, until they are routed, and a third of that until the sum is out.
pub const COMPLETE_LEN_MAX: usize = 1024;

/// Why a roster of this size cannot be summed safely.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ThresholdError {
    /// The plan tolerates no colluder at all.
    #[error("the plan tolerates no colluder, at least 1 is needed")]
    NoColluder,
    /// More clients than a roster may have.
    #[error("roster of {n1} clients, limit {ROSTER_LEN_MAX}")]
    RosterTooLarge {
        /// The roster's size.
        n1: usize,
    },
    /// More clients than may all share keys with each other.
    #[error(
        "complete graph of {n1} clients, limit {COMPLETE_LEN_MAX}: what it costs grows with their square, \
         larger rosters need the sparse graph"
    )]
    CompleteTooLarge {
        /// The roster's size.
        n1: usize,
    },
    /// Fewer clients than must survive.
    #[error("roster of {n1} clients, of whom {u_min} must survive")]
    RosterTooSmall {
        /// The roster's size.
        n1: usize,
        /// The least number of survivors.
        u_min: usize,
    },
    /// The quorum is larger than the least number of survivors.
    #[error("quorum of {quorum} exceeds the {u_min} clients that must survive")]
    QuorumBeyondSurvivors {
        /// The quorum.
        quorum: usize,
        /// The least number of survivors.
        u_min: usize,
    },
    /// Without the colluders fewer than two survivors may be left: their sum would be one client's vector.
    #[error("{u_min} survivors with {max_colluders} colluders leave fewer than 2 honest clients in a sum")]
    TooFewHonest {
        /// The least number of survivors.
        u_min: usize,
        /// The colluders tolerated.
        max_colluders: usize,
    },
    /// There is no sparse graph for these numbers.
    #[error(transparent)]
    Graph(#[from] GraphError),
}

/// The thresholds of one roster, and how many others each of its clients shares keys with.
///
/// ```
/// use eranos_secagg::Thresholds;
///
/// let complete = Thresholds::complete(8, 1, 7)?;
/// assert_eq!((complete.degree(), complete.quorum(), complete.threshold()), (7, 5, 5));
/// let sparse = Thresholds::sparse(100, 10, 90)?;
/// assert_eq!((sparse.degree(), sparse.quorum(), sparse.threshold()), (22, 56, 12));
/// # Ok::<(), eranos_secagg::ThresholdError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    n1: usize,
    max_colluders: usize,
    u_min: usize,
    quorum: usize,
    degree: usize,
    threshold: usize,
}

impl Thresholds {
    /// The thresholds in the complete graph of a roster of `n1` clients, of whom `max_colluders` (f) may work with the coordinator and
    /// `u_min` must survive: q = floor((n1 + f) / 2) + 1 and t = min(q, u_min - 1).
    ///
    /// # Errors
    /// If f < 1, u_min > n1, q > u_min, u_min - f < 2, or n1 > [`COMPLETE_LEN_MAX`].
    pub fn complete(n1: usize, max_colluders: usize, u_min: usize) -> Result<Self, ThresholdError> {
        if n1 > COMPLETE_LEN_MAX {
            return Err(ThresholdError::CompleteTooLarge { n1 });
        }
        Self::of_any_graph(n1, max_colluders, u_min)
    }

    /// What holds whatever the graph; degree and threshold are those of the complete one.
    fn of_any_graph(n1: usize, max_colluders: usize, u_min: usize) -> Result<Self, ThresholdError> {
        if max_colluders < 1 {
            return Err(ThresholdError::NoColluder);
        }
        if n1 > ROSTER_LEN_MAX {
            return Err(ThresholdError::RosterTooLarge { n1 });
        }
        if u_min > n1 {
            return Err(ThresholdError::RosterTooSmall { n1, u_min });
        }
        if u_min < max_colluders.saturating_add(2) {
            return Err(ThresholdError::TooFewHonest { u_min, max_colluders });
        }
        let quorum = (n1 + max_colluders) / 2 + 1;
        if quorum > u_min {
            return Err(ThresholdError::QuorumBeyondSurvivors { quorum, u_min });
        }
        // u_min - 1: a survivor's own seed is rebuilt from the shares of the others alone.
        Ok(Self { n1, max_colluders, u_min, quorum, degree: n1 - 1, threshold: quorum.min(u_min - 1) })
    }

    /// The thresholds in the sparse graph: q as in the complete one, whose rules all hold here too; k and t are those that
    /// [`SparseParameters::solve`] finds for C = f and D = n1 - u_min, with the largest t, which protects most.
    ///
    /// That D is what the survivors that a client signs keep to: no more than n1 - u_min are missing from them.
    ///
    /// # Errors
    /// As for the complete graph, but that n1 may be up to [`ROSTER_LEN_MAX`]; or if no k and t keep the promises of a
    /// sparse one.
    pub fn sparse(n1: usize, max_colluders: usize, u_min: usize) -> Result<Self, ThresholdError> {
        let complete = Self::of_any_graph(n1, max_colluders, u_min)?;
        let SparseParameters { degree, thresholds } =
            SparseParameters::solve(n1, max_colluders, n1 - u_min, SIGMA, ETA)?;
        Ok(Self { degree, threshold: *thresholds.end(), ..complete })
    }

    /// n1, the size of the roster.
    pub const fn n1(&self) -> usize {
        self.n1
    }

    /// f, the colluding identities tolerated.
    pub const fn max_colluders(&self) -> usize {
        self.max_colluders
    }

    /// The least number of survivors.
    pub const fn u_min(&self) -> usize {
        self.u_min
    }

    /// q, the consistency statements without which nothing is released. Two quorums meet in an honest client.
    pub const fn quorum(&self) -> usize {
        self.quorum
    }

    /// k, with how many others each client shares keys.
    pub const fn degree(&self) -> usize {
        self.degree
    }

    /// t, the shares that rebuild a secret.
    pub const fn threshold(&self) -> usize {
        self.threshold
    }

    /// The least size of a survivor set that a client signs: max(q, u_min).
    pub fn survivors_min(&self) -> usize {
        self.quorum.max(self.u_min)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documented_examples_hold() {
        let check = |n1, f, u_min, q, t| {
            let thresholds = Thresholds::complete(n1, f, u_min).expect("valid");
            assert_eq!((thresholds.quorum(), thresholds.threshold()), (q, t), "n1={n1} f={f} u_min={u_min}");
        };
        check(4, 1, 3, 3, 2);
        check(8, 1, 7, 5, 5);
        check(10, 3, 7, 7, 6);
        check(255, 1, 200, 129, 129);
    }

    #[test]
    fn whatever_is_accepted_keeps_every_inequality() {
        for n1 in 0..=40 {
            for f in 0..=n1 + 1 {
                for u_min in 0..=n1 + 1 {
                    let Ok(thresholds) = Thresholds::complete(n1, f, u_min) else { continue };
                    let (q, t) = (thresholds.quorum(), thresholds.threshold());
                    // Two quorums share more than f signers, so an honest one.
                    assert!(2 * q > n1 + f);
                    assert!(f >= 1 && q <= u_min && u_min <= n1 && u_min >= f + 2);
                    // f colluders cannot rebuild a secret; the other survivors of the smallest set can.
                    assert!(t > f && t < u_min);
                }
            }
        }
    }

    #[test]
    fn a_plan_that_cannot_be_safe_is_refused() {
        let check = |n1, f, u_min, expect| assert_eq!(Thresholds::complete(n1, f, u_min), Err(expect));
        check(8, 0, 7, ThresholdError::NoColluder);
        check(6, 1, 7, ThresholdError::RosterTooSmall { n1: 6, u_min: 7 });
        check(8, 1, 4, ThresholdError::QuorumBeyondSurvivors { quorum: 5, u_min: 4 });
        check(3, 2, 3, ThresholdError::TooFewHonest { u_min: 3, max_colluders: 2 });
        check(8, usize::MAX, 7, ThresholdError::TooFewHonest { u_min: 7, max_colluders: usize::MAX });
    }

    /// k and t_max of the specification's table, at n = 100; the same rules of quorum and survivors as in the complete graph.
    #[test]
    fn a_sparse_roster_has_the_degree_and_threshold_of_the_table() {
        let check = |f, u_min, degree, threshold| {
            let sparse = Thresholds::sparse(100, f, u_min).expect("feasible");
            assert_eq!((sparse.degree(), sparse.threshold()), (degree, threshold), "f={f} u_min={u_min}");
            let complete = Thresholds::complete(100, f, u_min).expect("valid");
            assert_eq!((complete.degree(), sparse.quorum()), (99, complete.quorum()));
            assert_eq!(sparse.survivors_min(), complete.survivors_min());
        };
        check(5, 95, 12, 7);
        check(10, 90, 22, 12);
        check(10, 67, 40, 12);
        check(20, 80, 42, 22);
        check(20, 67, 54, 22);
        check(33, 67, 68, 35);
    }

    #[test]
    fn a_sparse_roster_that_cannot_keep_its_promises_is_refused() {
        let check = |n1, f, u_min, expect| assert_eq!(Thresholds::sparse(n1, f, u_min), Err(expect));
        // What the complete graph refuses, the sparse one does.
        check(100, 0, 90, ThresholdError::NoColluder);
        check(100, 10, 50, ThresholdError::QuorumBeyondSurvivors { quorum: 56, u_min: 50 });
        check(10_001, 10, 9_000, ThresholdError::RosterTooLarge { n1: 10_001 });
        // And what no degree below 4 can do.
        assert!(Thresholds::complete(4, 1, 3).is_ok());
        let infeasible = GraphError::Infeasible { n: 4, n_corrupt: 1, n_dropped: 1 };
        check(4, 1, 3, ThresholdError::Graph(infeasible));
    }

    #[test]
    fn a_complete_graph_ends_at_1024_clients_and_a_sparse_one_at_10_000() {
        assert!(Thresholds::complete(1024, 102, 683).is_ok());
        assert_eq!(Thresholds::complete(1025, 102, 683), Err(ThresholdError::CompleteTooLarge { n1: 1025 }));
        let sparse = |n1, f, u_min| Thresholds::sparse(n1, f, u_min).map(|t| (t.degree(), t.threshold(), t.quorum()));
        // k and t_max of the specification's table.
        assert_eq!(sparse(1000, 100, 667), Ok((114, 42, 551)));
        assert_eq!(sparse(10_000, 1000, 6667), Ok((140, 51, 5501)));
        assert_eq!(sparse(10_001, 1000, 6667), Err(ThresholdError::RosterTooLarge { n1: 10_001 }));
    }
}
