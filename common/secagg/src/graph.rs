//! Who shares keys with whom: everybody with everybody, or each client with k neighbors on a ring (SecAgg+), for cohorts
//! whose complete graph would cost too much.
//!
//! A sparse graph keeps its promises only where neither those who drop out nor the order of the ring are chosen. Whoever
//! chooses the dropouts cuts the ring in two by taking k / 2 clients in a row out at two places; whoever tries many
//! rosters finds an order that puts its helpers around a victim. So it is for a coordinator that keeps to the protocol,
//! and the complete graph for any other.
//!
//! Source: Bell et al., "Secure Single-Server Aggregation with (Poly)Logarithmic Overhead" (CCS 2020): the Harary graph in
//! a random order, and the three conditions on its degree and threshold.

use std::ops::RangeInclusive;

use eranos_base::{ClientId, Digest, Position, limits::COHORT_LEN_MAX};
use num_bigint::BigUint;

/// Bits of security: what the corrupt learn or cut off beyond the protocol has at most the probability 2^-40.
pub const SIGMA: u32 = 40;
/// Bits of correctness: that some honest client's secret cannot be rebuilt has at most the probability 2^-30.
pub const ETA: u32 = 30;
/// Most neighbors of a client: with more, the complete graph of about as many clients costs the same and promises more.
pub const DEGREE_MAX: usize = 1000;

/// Why there is no such graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GraphError {
    /// Too few clients, or more than a cohort may have.
    #[error("graph of {n} clients, expected 3 to {COHORT_LEN_MAX}")]
    Clients {
        /// The clients.
        n: usize,
    },
    /// Neighbors come in pairs, one on each side, and are others than oneself.
    #[error("{degree} neighbors among {n} clients, expected an even number from 2 to {DEGREE_MAX} below {n}")]
    Degree {
        /// The neighbors of each client.
        degree: usize,
        /// The clients.
        n: usize,
    },
    /// No degree and threshold satisfy all three conditions.
    #[error(
        "no sparse graph of {n} clients keeps its promises with {n_corrupt} corrupt and {n_dropped} dropped out, \
         a complete one may"
    )]
    Infeasible {
        /// The clients.
        n: usize,
        /// The corrupt among them.
        n_corrupt: usize,
        /// Those who drop out.
        n_dropped: usize,
    },
}

/// Who shares keys with whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Graph {
    /// Everybody with everybody.
    Complete {
        /// The clients.
        n: usize,
    },
    /// The Harary graph on a ring.
    Sparse {
        /// The clients in the order of the ring.
        ring: Vec<Position>,
        /// By position: its place on the ring.
        places: Vec<usize>,
        /// k, the neighbors of each client: half of them on each side.
        degree: usize,
    },
}

impl Graph {
    /// The sparse graph of clients with these identities, in order of position: the ring is in the order of
    /// SHA-256(R1 || identity), which nobody chooses.
    ///
    /// # Errors
    /// If there are fewer than 3 clients or more than a cohort may have, or the degree is odd, zero, above
    /// [`DEGREE_MAX`] or not below the number of clients.
    pub fn sparse<'a>(
        roster: &Digest,
        ids: impl ExactSizeIterator<Item = &'a ClientId>,
        degree: usize,
    ) -> Result<Self, GraphError> {
        let n = ids.len();
        check_clients(n)?;
        if degree == 0 || degree % 2 == 1 || degree >= n || degree > DEGREE_MAX {
            return Err(GraphError::Degree { degree, n });
        }
        let hash = |id: &ClientId| Digest::of_parts(&[roster.as_bytes(), id.as_str().as_bytes()]);
        let mut ring: Vec<_> = ids.map(hash).zip((0..=u16::MAX).map(Position)).collect();
        ring.sort();
        let ring: Vec<_> = ring.into_iter().map(|(_, position)| position).collect();
        let mut places = vec![0; n];
        for (place, position) in ring.iter().enumerate() {
            places[position.index()] = place;
        }
        Ok(Self::Sparse { ring, places, degree })
    }

    /// The number of clients.
    pub fn n(&self) -> usize {
        match self {
            Self::Complete { n } => *n,
            Self::Sparse { ring, .. } => ring.len(),
        }
    }

    /// With whom the client at `position` shares keys, in ascending order; nobody, if there is no such client.
    pub fn neighbors(&self, position: Position) -> Vec<Position> {
        match self {
            Self::Complete { n } if position.index() < *n => {
                // No more than a cohort has.
                (0..*n as u16).map(Position).filter(|peer| *peer != position).collect()
            }
            Self::Complete { .. } => Vec::new(),
            Self::Sparse { ring, places, degree } => {
                let Some(place) = places.get(position.index()) else { return Vec::new() };
                let on_both_sides = (1..=degree / 2).flat_map(|step| [place + step, place + ring.len() - step]);
                let mut neighbors: Vec<_> = on_both_sides.map(|place| ring[place % ring.len()]).collect();
                neighbors.sort();
                neighbors
            }
        }
    }

    /// Whether these two share keys.
    pub fn contains(&self, a: Position, b: Position) -> bool {
        match self {
            Self::Complete { n } => a != b && a.index() < *n && b.index() < *n,
            Self::Sparse { ring, places, degree } => {
                let (Some(a), Some(b)) = (places.get(a.index()), places.get(b.index())) else { return false };
                let apart = a.abs_diff(*b);
                (1..=degree / 2).contains(&apart.min(ring.len() - apart))
            }
        }
    }
}

/// The smallest sparse graph that keeps its promises, and every threshold with which it does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SparseParameters {
    /// k, the neighbors of each client.
    pub degree: usize,
    /// The possible t, the shares that rebuild a secret.
    pub thresholds: RangeInclusive<usize>,
}

impl SparseParameters {
    /// The smallest even k for which some t satisfies, for n clients of whom `n_corrupt` (C) are corrupt and
    /// `n_dropped` (D) drop out, and with N = n - 1 and B = C + D:
    ///
    /// 1. connectivity: binom(n, 2) binom(n - k, B - k) / binom(n, B) <= 2^-(sigma + 1),
    /// 2. privacy: (n - C) P[Hyp(N, C, k) >= t] <= 2^-(sigma + 1),
    /// 3. correctness: n P[Hyp(N, N - D, k) < t] <= 2^-eta,
    ///
    /// where Hyp(N, M, k) is how many of k neighbors, drawn from N without replacement, are among M. In exact integers:
    /// two parties never come to different answers. Shares of clients, gamma and delta, are rounded down to C and D.
    ///
    /// # Errors
    /// If there are fewer than 3 clients or more than a cohort may have, or no k up to [`DEGREE_MAX`] will do.
    pub fn solve(n: usize, n_corrupt: usize, n_dropped: usize, sigma: u32, eta: u32) -> Result<Self, GraphError> {
        check_clients(n)?;
        let infeasible = GraphError::Infeasible { n, n_corrupt, n_dropped };
        let gone = n_corrupt.saturating_add(n_dropped);
        if gone >= n {
            return Err(infeasible);
        }
        // Both sides of (1) times binom(n, B): binom(n - k, B - k) / binom(n, B) is the product of (B - i) / (n - i) over
        // i < k, so once the condition holds it goes on to.
        let (mut left, mut right) = (binomial(n, 2) << (sigma + 1), BigUint::from(1u8));
        for k in 1..=DEGREE_MAX.min(n - 1) {
            left *= gone.saturating_sub(k - 1) as u32;
            right *= (n - k + 1) as u32;
            if k % 2 == 1 || left > right {
                continue;
            }
            let drawn = binomial(n - 1, k);
            let t_min = 1 + upper_tail((n - 1, n_corrupt, k), &drawn / (BigUint::from(n - n_corrupt) << (sigma + 1)));
            // Fewer than t of the honest are more than k - t of the dropped.
            let t_max = k - upper_tail((n - 1, n_dropped, k), drawn / (BigUint::from(n) << eta));
            if t_min <= t_max {
                return Ok(Self { degree: k, thresholds: t_min..=t_max });
            }
        }
        Err(infeasible)
    }
}

/// The largest x >= 0 such that more than `limit`, which is less than all, of the ways to draw k from N have x or more among M; 0 if there is none.
fn upper_tail((n, m, k): (usize, usize, usize), limit: BigUint) -> usize {
    let mut x = m.min(k);
    // binom(M, x) binom(N - M, k - x): how many ways have exactly x.
    let mut ways = binomial(m, x) * binomial(n - m, k - x);
    let mut tail = BigUint::ZERO;
    while x > 0 {
        tail += &ways;
        if tail > limit {
            return x;
        }
        // All below 10,000, so every product fits; the quotient is a count again, so it is exact. Where there are no more
        // ways, the tail is all of them and has exceeded the limit.
        ways *= (x * (n + x - m - k)) as u32;
        ways /= ((m - x + 1) * (k - x + 1)) as u32;
        x -= 1;
    }
    0
}

fn binomial(n: usize, k: usize) -> BigUint {
    if k > n {
        return BigUint::ZERO;
    }
    (0..k.min(n - k)).fold(BigUint::from(1u8), |product, i| product * (n - i) as u32 / (i + 1) as u32)
}

fn check_clients(n: usize) -> Result<(), GraphError> {
    if (3..=COHORT_LEN_MAX).contains(&n) { Ok(()) } else { Err(GraphError::Clients { n }) }
}

#[cfg(test)]
mod tests {
    use eranos_base::{Entropy, OsEntropy, SeededEntropy, TrustDomain};

    use super::*;

    /// gamma and delta of the columns of the specification's table, as fractions.
    const SHARES: [[(usize, usize); 2]; 6] = [
        [(1, 20), (1, 20)],
        [(1, 10), (1, 10)],
        [(1, 10), (1, 3)],
        [(1, 5), (1, 5)],
        [(1, 5), (1, 3)],
        [(1, 3), (1, 3)],
    ];

    #[test]
    fn the_table_of_the_specification_is_reproduced() {
        let check = |n: usize, row: [(usize, RangeInclusive<usize>); 6]| {
            for ([gamma, delta], (degree, thresholds)) in SHARES.into_iter().zip(row) {
                let [n_corrupt, n_dropped] = [gamma, delta].map(|(p, q)| n * p / q);
                let solved = SparseParameters::solve(n, n_corrupt, n_dropped, SIGMA, ETA);
                assert_eq!(solved, Ok(SparseParameters { degree, thresholds }), "n={n}, {gamma:?}, {delta:?}");
            }
        };
        check(10, [(2, 1..=2), (4, 2..=3), (6, 2..=3), (6, 3..=4), (6, 3..=3), (8, 4..=5)]);
        check(32, [(4, 2..=3), (8, 4..=5), (14, 4..=4), (14, 7..=8), (18, 7..=8), (22, 11..=12)]);
        check(100, [(12, 6..=7), (22, 11..=12), (40, 11..=12), (42, 21..=22), (54, 21..=22), (68, 34..=35)]);
        check(1000, [(34, 18..=19), (52, 28..=28), (114, 41..=42), (112, 59..=59), (180, 79..=79), (318, 163..=163)]);
        check(
            10_000,
            [(38, 21..=21), (60, 32..=32), (140, 51..=51), (136, 71..=71), (238, 104..=104), (496, 253..=253)],
        );
    }

    /// By the letter: every binomial and every tail summed up, no term from another.
    #[test]
    fn the_conditions_hold_by_the_letter_and_for_no_smaller_degree() {
        let sum = |(n, m, k): (usize, usize, usize), among: RangeInclusive<usize>| -> BigUint {
            among.filter(|x| *x <= k).map(|x| binomial(m, x) * binomial(n - m, k - x)).sum()
        };
        let feasible = |n: usize, c: usize, d: usize, k: usize, t: usize, sigma: u32, eta: u32| {
            let connected =
                c + d < k || ((binomial(n, 2) * binomial(n - k, c + d - k)) << (sigma + 1)) <= binomial(n, c + d);
            let private = ((sum((n - 1, c, k), t..=k) * (n - c)) << (sigma + 1)) <= binomial(n - 1, k);
            let correct = ((sum((n - 1, n - 1 - d, k), 0..=t - 1) * n) << eta) <= binomial(n - 1, k);
            connected && private && correct
        };
        let seed = u64::from_le_bytes(OsEntropy.bytes()) >> 16;
        let mut entropy = SeededEntropy::new(seed);
        let mut below = |n: usize| u64::from_le_bytes(entropy.bytes()) as usize % n;
        let mut n_solved = 0;
        for _ in 0..300 {
            let n = 3 + below(40);
            // Without the corrupt, and with many bits for them, it is connectivity that decides.
            let (c, d) = (below(2) * below(n), below(n));
            let (sigma, eta) = (below(41) as u32, below(31) as u32);
            let solved = SparseParameters::solve(n, c, d, sigma, eta);
            let smallest = (2..n.max(2)).step_by(2).filter(|_| c + d < n).find_map(|k| {
                let ts: Vec<_> = (1..=k).filter(|t| feasible(n, c, d, k, *t, sigma, eta)).collect();
                Some(SparseParameters { degree: k, thresholds: *ts.first()?..=*ts.last()? })
            });
            n_solved += usize::from(solved.is_ok());
            assert_eq!(solved.ok(), smallest, "seed {seed}: n={n}, C={c}, D={d}, {sigma}, {eta}");
        }
        assert!(n_solved > 50, "seed {seed}");
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let solve = |n, c, d| SparseParameters::solve(n, c, d, SIGMA, ETA);
        let infeasible = |n, n_corrupt, n_dropped| Err(GraphError::Infeasible { n, n_corrupt, n_dropped });
        assert_eq!(solve(2, 0, 0), Err(GraphError::Clients { n: 2 }));
        assert_eq!(solve(10_001, 1, 1), Err(GraphError::Clients { n: 10_001 }));
        for (n, c, d) in [(10, 5, 5), (100, 50, 49), (10, usize::MAX, 1), (10_000, 4900, 4900)] {
            assert_eq!(solve(n, c, d), infeasible(n, c, d));
        }
        let refused = |n, degree| assert_eq!(graph(1, n, degree), Err(GraphError::Degree { degree, n }));
        refused(10, 0);
        refused(10, 3);
        refused(10, 10);
        refused(2000, 1002);
        assert_eq!(graph(1, 2, 2), Err(GraphError::Clients { n: 2 }));
    }

    fn graph(seed: u64, n: usize, degree: usize) -> Result<Graph, GraphError> {
        let domain: TrustDomain = "example.org".parse().expect("name");
        let ids: Vec<_> = (0..n).map(|i| ClientId::new(&domain, &format!("c{i:05}")).expect("name")).collect();
        Graph::sparse(&Digest::of(&seed.to_le_bytes()), ids.iter(), degree)
    }

    /// Whether those left can all reach one another.
    fn is_connected(graph: &Graph, left: &[bool]) -> bool {
        let Some(first) = left.iter().position(|left| *left) else { return true };
        let (mut seen, mut open) = (vec![false; left.len()], vec![Position(first as u16)]);
        while let Some(position) = open.pop() {
            if left[position.index()] && !std::mem::replace(&mut seen[position.index()], true) {
                open.extend(graph.neighbors(position));
            }
        }
        seen == left
    }

    #[test]
    fn every_client_has_k_neighbors_that_have_it_too_and_fewer_than_k_dropouts_cut_nobody_off() {
        let seed = u64::from_le_bytes(OsEntropy.bytes()) >> 16;
        let mut entropy = SeededEntropy::new(seed);
        let mut below = |n: usize| u64::from_le_bytes(entropy.bytes()) as usize % n;
        for _ in 0..100 {
            let n = 3 + below(120);
            let degree = 2 + 2 * below((n - 1) / 2);
            let graph = graph(below(1 << 30) as u64, n, degree).expect("valid");
            for position in (0..n as u16).map(Position) {
                let neighbors = graph.neighbors(position);
                assert_eq!(neighbors.len(), degree, "seed {seed}");
                assert!(neighbors.windows(2).all(|pair| pair[0] < pair[1]), "seed {seed}");
                for peer in (0..n as u16).map(Position) {
                    let shares = neighbors.binary_search(&peer).is_ok();
                    assert_eq!(graph.contains(position, peer), shares, "seed {seed}");
                    assert_eq!(graph.neighbors(peer).binary_search(&position).is_ok(), shares, "seed {seed}");
                }
                assert!(!graph.contains(position, position), "seed {seed}");
            }
            let mut left = vec![true; n];
            while left.iter().filter(|left| !**left).count() < degree - 1 {
                left[below(n)] = false;
            }
            assert!(is_connected(&graph, &left), "seed {seed}: n={n} k={degree}");
            assert!(graph.neighbors(Position(n as u16)).is_empty() && !graph.contains(Position(0), Position(n as u16)));
        }
    }

    /// Why it is not for a coordinator that chooses who dropped out.
    #[test]
    fn k_chosen_dropouts_cut_a_client_off_a_ring() {
        let graph = graph(1, 50, 6).expect("valid");
        let mut left = vec![true; 50];
        for neighbor in graph.neighbors(Position(17)) {
            left[neighbor.index()] = false;
        }
        assert!(!is_connected(&graph, &left));
        let complete = Graph::Complete { n: 50 };
        assert_eq!(complete.neighbors(Position(17)).len(), 49);
        assert!(is_connected(&complete, &left));
        assert!(complete.contains(Position(0), Position(49)) && !complete.contains(Position(0), Position(50)));
    }

    /// Two gaps of k / 2 part the ring, made of fewer dropouts than the plan allows and some of the corrupt. Everybody left
    /// still sees t neighbors or more among the survivors: no client can tell that each half's sum becomes known alone.
    #[test]
    fn a_ring_cut_in_two_by_chosen_dropouts_goes_unnoticed() {
        let (n, n_corrupt, n_dropped) = (100, 10, 33);
        let parameters = SparseParameters::solve(n, n_corrupt, n_dropped, SIGMA, ETA).expect("feasible");
        let (degree, threshold) = (parameters.degree, *parameters.thresholds.end());
        assert!(degree <= n_corrupt + n_dropped);
        let graph = graph(1, n, degree).expect("valid");
        let Graph::Sparse { ring, .. } = &graph else { panic!("a sparse graph") };
        let (mut honest, mut survives) = (vec![true; n], vec![true; n]);
        let gaps = ring[..degree / 2].iter().chain(&ring[n / 2..n / 2 + degree / 2]);
        for (i, position) in gaps.enumerate() {
            honest[position.index()] = false;
            survives[position.index()] = i >= n_dropped;
        }
        assert!(!is_connected(&graph, &honest));
        for position in (0..n as u16).map(Position).filter(|position| honest[position.index()]) {
            let n_left = graph.neighbors(position).iter().filter(|neighbor| survives[neighbor.index()]).count();
            assert!(n_left >= threshold, "{position}: {n_left}");
        }
    }

    #[test]
    fn with_the_solved_degree_a_third_dropping_out_at_random_cuts_nobody_off() {
        let seed = u64::from_le_bytes(OsEntropy.bytes()) >> 16;
        let mut entropy = SeededEntropy::new(seed);
        let n = 1000;
        let parameters = SparseParameters::solve(n, n / 10, n / 3, SIGMA, ETA).expect("feasible");
        for round in 0..20 {
            let graph = graph(seed + round, n, parameters.degree).expect("valid");
            let mut left = vec![true; n];
            // Corrupt clients pass nothing on: they count as gone.
            while left.iter().filter(|left| !**left).count() < n / 10 + n / 3 {
                left[u64::from_le_bytes(entropy.bytes()) as usize % n] = false;
            }
            assert!(is_connected(&graph, &left), "seed {seed}, round {round}");
        }
    }

    /// Over many rosters every client stands at every place equally often, and next to every other: chi-square with 15
    /// degrees of freedom exceeds 50 with a probability of 1e-5. The rosters are fixed.
    #[test]
    fn the_order_is_uniform() {
        let (n, n_rosters) = (16, 4000);
        let (mut places, mut next) = (vec![0u32; n], vec![0u32; n]);
        for seed in 0..n_rosters {
            let Ok(Graph::Sparse { ring, places: at, .. }) = graph(seed, n, 2) else { panic!("a sparse graph") };
            places[at[3]] += 1;
            next[ring[(at[3] + 1) % n].index()] += 1;
        }
        assert_eq!(next.remove(3), 0);
        for counts in [places, next] {
            let expected = n_rosters as f64 / counts.len() as f64;
            let chi_square: f64 = counts.iter().map(|n| (f64::from(*n) - expected).powi(2) / expected).sum();
            assert!(chi_square < 50.0, "{chi_square}: {counts:?}");
        }
    }
}
