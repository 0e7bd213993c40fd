//! The Merkle tree hash of RFC 6962, section 2.1.

use eranos_base::Digest;

/// The Merkle tree hash over the leaves' bytes, in order.
pub fn root<L: AsRef<[u8]>>(leaves: &[L]) -> Digest {
    Tree::new(leaves.iter().map(|leaf| leaf_hash(leaf.as_ref())).collect()).root()
}

/// The hash of one leaf.
pub fn leaf_hash(leaf: &[u8]) -> Digest {
    Digest::of_parts(&[&[0], leaf])
}

/// A whole tree, to prove of some of its leaves that they are in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tree {
    n_leaves: usize,
    /// Each node before those below it, left before right: below the first node of m leaves, the left half begins one
    /// further on, and the right one 2k, where k is the number of leaves on the left.
    nodes: Vec<Digest>,
}

impl Tree {
    /// The tree over leaves of these hashes.
    pub fn new(leaves: Vec<Digest>) -> Self {
        let mut nodes = Vec::with_capacity(2 * leaves.len());
        if !leaves.is_empty() {
            fill(&mut nodes, &leaves);
        }
        Self { n_leaves: leaves.len(), nodes }
    }

    /// The Merkle tree hash.
    pub fn root(&self) -> Digest {
        self.nodes.first().copied().unwrap_or_else(|| Digest::of(&[]))
    }

    /// What [`root_from`] needs beside the leaves of these indices, which ascend, to come to this tree's root: the roots of
    /// the largest subtrees without any of them, from left to right. For one leaf that is its inclusion proof (RFC 6962,
    /// section 2.1.1), in another order.
    pub fn proof(&self, shown: &[usize]) -> Vec<Digest> {
        let mut proof = Vec::new();
        if !self.nodes.is_empty() {
            self.prove((0, 0, self.n_leaves), shown, &mut proof);
        }
        proof
    }

    fn prove(&self, (node, from, to): (usize, usize, usize), shown: &[usize], proof: &mut Vec<Digest>) {
        if shown.is_empty() {
            proof.push(self.nodes[node]);
        } else if to - from > 1 {
            let k = n_left(to - from);
            let (left, right) = shown.split_at(shown.partition_point(|index| *index < from + k));
            self.prove((node + 1, from, from + k), left, proof);
            self.prove((node + 2 * k, from + k, to), right, proof);
        }
    }
}

/// Appends the nodes of the subtree over these leaves, and gives its root.
fn fill(nodes: &mut Vec<Digest>, leaves: &[Digest]) -> Digest {
    let at = nodes.len();
    nodes.push(leaves[0]);
    if leaves.len() > 1 {
        let (left, right) = leaves.split_at(n_left(leaves.len()));
        let (left, right) = (fill(nodes, left), fill(nodes, right));
        nodes[at] = inner_hash(&left, &right);
    }
    nodes[at]
}

/// The root of a tree of `n_leaves` leaves, of which these (index, hash of the leaf) are shown, with a [`Tree::proof`]; none
/// if the indices do not ascend within the tree, or the proof is too short or too long. Whatever it comes to, the leaves
/// shown are in the one tree that has this root and so many leaves.
pub fn root_from(n_leaves: usize, shown: &[(usize, Digest)], proof: &[Digest]) -> Option<Digest> {
    let ascend = shown.windows(2).all(|pair| pair[0].0 < pair[1].0);
    if !ascend || shown.last().is_none_or(|(index, _)| *index >= n_leaves) {
        return None;
    }
    let mut rest = proof.iter();
    let root = fold(0, n_leaves, shown, &mut rest)?;
    rest.next().is_none().then_some(root)
}

fn fold<'a>(
    from: usize,
    to: usize,
    shown: &[(usize, Digest)],
    proof: &mut impl Iterator<Item = &'a Digest>,
) -> Option<Digest> {
    match shown {
        [] => proof.next().copied(),
        [(_, leaf)] if to - from == 1 => Some(*leaf),
        _ => {
            let k = n_left(to - from);
            let (left, right) = shown.split_at(shown.partition_point(|(index, _)| *index < from + k));
            let (left, right) = (fold(from, from + k, left, proof)?, fold(from + k, to, right, proof)?);
            Some(inner_hash(&left, &right))
        }
    }
}

/// "Let k be the largest power of two smaller than n."
fn n_left(n: usize) -> usize {
    n.next_power_of_two() / 2
}

fn inner_hash(left: &Digest, right: &Digest) -> Digest {
    Digest::of_parts(&[&[1], left.as_bytes(), right.as_bytes()])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The roots that the reference test of Certificate Transparency expects for its eight leaves.
    #[test]
    fn the_known_roots_hold() {
        let leaves =
            ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"];
        let leaves: Vec<_> = leaves.iter().map(|leaf| hex::decode(leaf).expect("hex")).collect();
        let check = |n: usize, expect: &str| assert_eq!(root(&leaves[..n]).to_string(), expect, "{n} leaves");
        check(0, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        check(1, "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d");
        check(2, "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125");
        check(3, "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77");
        check(5, "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4");
        check(8, "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328");
    }

    /// Every set of leaves of trees of up to 9, and one leaf of larger ones.
    #[test]
    fn leaves_and_their_proof_lead_to_the_root_and_nothing_else_does() {
        let leaf = |i: usize| leaf_hash(&i.to_le_bytes());
        let check = |n: usize, shown: &[usize]| {
            let tree = Tree::new((0..n).map(leaf).collect());
            let proof = tree.proof(shown);
            let known: Vec<_> = shown.iter().map(|i| (*i, leaf(*i))).collect();
            assert_eq!(root_from(n, &known, &proof), Some(tree.root()), "{shown:?} of {n}");
            let differs = |known: &[(usize, Digest)], proof: &[Digest]| {
                assert_ne!(root_from(n, known, proof), Some(tree.root()), "{shown:?} of {n}");
            };
            for at in 0..known.len() {
                let mut other = known.clone();
                other[at].1.0[3] ^= 1;
                differs(&other, &proof);
                let mut moved = known.clone();
                moved[at].0 ^= 1;
                differs(&moved, &proof);
            }
            for at in 0..proof.len() {
                let mut other = proof.clone();
                other[at].0[3] ^= 1;
                differs(&known, &other);
                differs(&known, &proof[..at]);
            }
            differs(&known, &[&proof[..], &[leaf(0)]].concat());
            proof.len()
        };
        for n in 1..10 {
            for set in 1..1_usize << n {
                check(n, &(0..n).filter(|i| set >> i & 1 == 1).collect::<Vec<_>>());
            }
        }
        assert_eq!((check(1024, &[77]), check(1000, &[999]), check(1000, &[0])), (10, 8, 10));
        assert_eq!(root_from(4, &[], &[leaf(0)]), None);
        assert_eq!(root_from(0, &[], &[]), None);
        assert_eq!(root_from(4, &[(4, leaf(0))], &[]), None);
    }
}
