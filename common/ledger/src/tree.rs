//! The Merkle tree of RFC 6962, section 2.1, over leaves that are only ever appended: hashing, roots, and the proofs
//! that a leaf is in a tree and that one tree is the beginning of another.
//!
//! Nothing is stored here. A proof is made from any [`HashReader`] that knows the roots of complete subtrees, and
//! needs a number of them that is logarithmic in the size (squared, where the right edge is ragged); a root is computed
//! in one pass by a [`Frontier`] of at most [`LEVELS_MAX`] hashes.

use eranos_base::Digest;

/// Most levels of a tree: the tile format counts six tile levels of eight.
pub const LEVELS_MAX: u8 = 48;
/// Most leaves of a tree.
pub const SIZE_MAX: u64 = 1 << LEVELS_MAX;
/// Most hashes in a proof: one a level, and one more where a consistency proof starts inside a subtree.
pub const PROOF_LEN_MAX: usize = LEVELS_MAX as usize + 1;

/// Why a proof was refused, or could not be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProofError {
    /// The leaf lies outside the tree.
    #[error("leaf {index} is not in a tree of {size}")]
    Index {
        /// The leaf's index.
        index: u64,
        /// The tree's size.
        size: u64,
    },
    /// The old tree is larger than the new one, or a tree is larger than [`SIZE_MAX`].
    #[error("a tree of {old} is not the beginning of one of {new}")]
    Sizes {
        /// The size claimed to be older.
        old: u64,
        /// The size claimed to be newer.
        new: u64,
    },
    /// The proof has too few or too many hashes for these sizes.
    #[error("proof of {len} hashes has the wrong length")]
    Length {
        /// How many hashes it has.
        len: usize,
    },
    /// The hashes do not lead to the root.
    #[error("proof does not lead to the root")]
    Root,
}

/// The hash of a leaf: SHA-256 of 0x00 and the leaf.
pub fn leaf_hash(leaf: &[u8]) -> Digest {
    Digest::of_parts(&[&[0x00], leaf])
}

/// The hash of a node: SHA-256 of 0x01 and its two children.
pub fn node_hash(left: &Digest, right: &Digest) -> Digest {
    Digest::of_parts(&[&[0x01], &left.0, &right.0])
}

/// The root of the empty tree: SHA-256 of nothing.
pub fn empty_root() -> Digest {
    Digest::of(b"")
}

/// The right edge of a growing tree: the roots of its maximal complete subtrees, widest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frontier {
    size: u64,
    peaks: Vec<Digest>,
}

impl Frontier {
    /// The number of leaves taken in.
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// Appends the next leaf by its hash. Amortised two hashes.
    pub fn push(&mut self, leaf: Digest) {
        self.push_subtree(leaf, 0);
    }

    /// Appends a complete subtree of `2^level` leaves by its root.
    ///
    /// # Panics
    /// If the size so far is not a multiple of `2^level`, or the tree would exceed [`SIZE_MAX`].
    pub fn push_subtree(&mut self, root: Digest, level: u8) {
        assert!(level <= LEVELS_MAX && self.size.trailing_zeros() >= u32::from(level), "subtrees are aligned");
        assert!(self.size < SIZE_MAX, "the size is checked where leaves enter");
        let mut carry = self.size >> level;
        let mut hash = root;
        while carry & 1 == 1 {
            // Each set bit of the size is one peak, so there is one to merge with.
            let left = self.peaks.pop().unwrap_or_default();
            hash = node_hash(&left, &hash);
            carry >>= 1;
        }
        self.peaks.push(hash);
        self.size += 1 << level;
    }

    /// The root of the tree so far.
    pub fn root(&self) -> Digest {
        let mut peaks = self.peaks.iter().rev();
        match peaks.next() {
            None => empty_root(),
            Some(last) => peaks.fold(*last, |right, left| node_hash(left, &right)),
        }
    }
}

/// The root of a tree of `leaves`.
pub fn root(leaves: &[impl AsRef<[u8]>]) -> Digest {
    let mut frontier = Frontier::default();
    leaves.iter().for_each(|leaf| frontier.push(leaf_hash(leaf.as_ref())));
    frontier.root()
}

/// Where the roots of complete subtrees come from.
pub trait HashReader {
    /// Why a hash could not be read.
    type Error: From<ProofError>;

    /// The root of the complete subtree number `index` at `level`: that over leaves `index << level` up to
    /// `(index + 1) << level`.
    ///
    /// # Errors
    /// If it cannot be read.
    fn subtree(&mut self, level: u8, index: u64) -> Result<Digest, Self::Error>;
}

/// The root of the first `size` leaves.
///
/// # Errors
/// If a hash cannot be read.
pub fn root_at<R: HashReader>(reader: &mut R, size: u64) -> Result<Digest, R::Error> {
    check_sizes(0, size)?;
    if size == 0 { Ok(empty_root()) } else { range_hash(reader, 0, size) }
}

/// The audit path of leaf `index` in the tree of the first `size` leaves (RFC 6962, section 2.1.1).
///
/// # Errors
/// If the leaf is not in the tree or a hash cannot be read.
pub fn inclusion_proof<R: HashReader>(reader: &mut R, index: u64, size: u64) -> Result<Vec<Digest>, R::Error> {
    check_sizes(0, size)?;
    if index >= size {
        return Err(ProofError::Index { index, size }.into());
    }
    let (mut low, mut high) = (0, size);
    let mut proof = Vec::new();
    while high - low > 1 {
        let middle = low + split(high - low);
        if index < middle {
            proof.push(range_hash(reader, middle, high)?);
            high = middle;
        } else {
            proof.push(range_hash(reader, low, middle)?);
            low = middle;
        }
    }
    proof.reverse();
    Ok(proof)
}

/// The proof that the first `old` leaves are the beginning of the first `new` (RFC 6962, section 2.1.2). Empty where
/// `old` is 0 or `new`.
///
/// # Errors
/// If `old` exceeds `new` or a hash cannot be read.
pub fn consistency_proof<R: HashReader>(reader: &mut R, old: u64, new: u64) -> Result<Vec<Digest>, R::Error> {
    check_sizes(old, new)?;
    let mut proof = Vec::new();
    if old == 0 || old == new {
        return Ok(proof);
    }
    let (mut low, mut high) = (0, new);
    while high != old {
        let middle = low + split(high - low);
        if old <= middle {
            proof.push(range_hash(reader, middle, high)?);
            high = middle;
        } else {
            proof.push(range_hash(reader, low, middle)?);
            low = middle;
        }
    }
    // Where the old tree is itself a complete subtree from leaf 0, the verifier has its root already.
    if low != 0 {
        proof.push(range_hash(reader, low, high)?);
    }
    proof.reverse();
    Ok(proof)
}

/// Verifies that the leaf with hash `leaf` is number `index` of the tree of `size` leaves under `root` (RFC 9162,
/// section 2.1.3.2).
///
/// # Errors
/// If it is not, or the proof has another length than these sizes call for.
pub fn verify_inclusion(
    leaf: &Digest,
    index: u64,
    size: u64,
    root: &Digest,
    proof: &[Digest],
) -> Result<(), ProofError> {
    check_sizes(0, size)?;
    if index >= size {
        return Err(ProofError::Index { index, size });
    }
    let wrong_length = ProofError::Length { len: proof.len() };
    let (mut node, mut last) = (index, size - 1);
    let mut hash = *leaf;
    for sibling in proof {
        if last == 0 {
            return Err(wrong_length);
        }
        if node & 1 == 1 || node == last {
            hash = node_hash(sibling, &hash);
            while node & 1 == 0 && node != 0 {
                node >>= 1;
                last >>= 1;
            }
        } else {
            hash = node_hash(&hash, sibling);
        }
        node >>= 1;
        last >>= 1;
    }
    match (last, hash == *root) {
        (0, true) => Ok(()),
        (0, false) => Err(ProofError::Root),
        _ => Err(wrong_length),
    }
}

/// Verifies that the tree of `old` leaves under `old_root` is the beginning of that of `new` leaves under `new_root`
/// (RFC 9162, section 2.1.4.2). The empty tree begins every tree.
///
/// # Errors
/// If it is not, or the proof has another length than these sizes call for.
pub fn verify_consistency(
    old: u64,
    old_root: &Digest,
    new: u64,
    new_root: &Digest,
    proof: &[Digest],
) -> Result<(), ProofError> {
    check_sizes(old, new)?;
    let wrong_length = ProofError::Length { len: proof.len() };
    if old == 0 || old == new {
        if !proof.is_empty() {
            return Err(wrong_length);
        }
        let expected = if old == 0 { empty_root() } else { *new_root };
        return if *old_root == expected { Ok(()) } else { Err(ProofError::Root) };
    }
    let (mut node, mut last) = (old - 1, new - 1);
    while node & 1 == 1 {
        node >>= 1;
        last >>= 1;
    }
    let (first, rest) =
        if old.is_power_of_two() { (old_root, proof) } else { proof.split_first().ok_or(wrong_length)? };
    let (mut old_hash, mut new_hash) = (*first, *first);
    for sibling in rest {
        if last == 0 {
            return Err(wrong_length);
        }
        if node & 1 == 1 || node == last {
            old_hash = node_hash(sibling, &old_hash);
            new_hash = node_hash(sibling, &new_hash);
            while node & 1 == 0 && node != 0 {
                node >>= 1;
                last >>= 1;
            }
        } else {
            new_hash = node_hash(&new_hash, sibling);
        }
        node >>= 1;
        last >>= 1;
    }
    match (last, old_hash == *old_root && new_hash == *new_root) {
        (0, true) => Ok(()),
        (0, false) => Err(ProofError::Root),
        _ => Err(wrong_length),
    }
}

fn check_sizes(old: u64, new: u64) -> Result<(), ProofError> {
    if old > new || new > SIZE_MAX { Err(ProofError::Sizes { old, new }) } else { Ok(()) }
}

/// The largest power of two below `n`, for `n` of at least 2.
const fn split(n: u64) -> u64 {
    1 << (u64::BITS - 1 - (n - 1).leading_zeros())
}

/// The hash over leaves `low..high`, where `low` starts the subtree that RFC 6962 splits off there.
fn range_hash<R: HashReader>(reader: &mut R, low: u64, high: u64) -> Result<Digest, R::Error> {
    let n_leaves = high - low;
    if n_leaves.is_power_of_two() {
        // A power of two below 2^64 has at most 63 trailing zeros.
        let level = n_leaves.trailing_zeros() as u8;
        return reader.subtree(level, low >> level);
    }
    let middle = low + split(n_leaves);
    let left = range_hash(reader, low, middle)?;
    let right = range_hash(reader, middle, high)?;
    Ok(node_hash(&left, &right))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Every leaf hash in memory; subtrees are hashed from it each time.
    struct Leaves(Vec<Digest>);

    impl HashReader for Leaves {
        type Error = ProofError;

        fn subtree(&mut self, level: u8, index: u64) -> Result<Digest, ProofError> {
            let range = (index << level) as usize..((index + 1) << level) as usize;
            let mut frontier = Frontier::default();
            self.0[range].iter().for_each(|leaf| frontier.push(*leaf));
            Ok(frontier.root())
        }
    }

    fn leaves(n: usize) -> Leaves {
        Leaves((0..n).map(|i| leaf_hash(&i.to_le_bytes())).collect())
    }

    /// MTH as RFC 6962, section 2.1, defines it, by recursion.
    fn recursive_root(leaves: &[Digest]) -> Digest {
        match leaves {
            [] => empty_root(),
            [leaf] => *leaf,
            _ => {
                let k = leaves.len().next_power_of_two() / 2;
                node_hash(&recursive_root(&leaves[..k]), &recursive_root(&leaves[k..]))
            }
        }
    }

    /// The leaves and roots of the reference tests of Certificate Transparency (merkle_tree_test.cc).
    const REFERENCE_LEAVES: [&str; 8] =
        ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"];
    const REFERENCE_ROOTS: [&str; 9] = [
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
        "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
        "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
        "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    ];

    #[test]
    fn the_reference_roots_of_certificate_transparency_hold() {
        let leaves = REFERENCE_LEAVES.map(|leaf| hex::decode(leaf).expect("hex"));
        for (n, expected) in REFERENCE_ROOTS.iter().enumerate() {
            assert_eq!(root(&leaves[..n]).to_string(), *expected, "{n} leaves");
        }
    }

    #[test]
    fn a_reference_audit_path_holds() {
        // Leaf 5 of 8, from the same reference tests.
        let hashes = REFERENCE_LEAVES.map(|leaf| leaf_hash(&hex::decode(leaf).expect("hex")));
        let proof = inclusion_proof(&mut Leaves(hashes.to_vec()), 5, 8).expect("in the tree");
        let expected = [
            "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
            "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        ];
        assert_eq!(proof.iter().map(Digest::to_string).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn the_frontier_agrees_with_the_definition_at_every_size() {
        let Leaves(all) = leaves(300);
        let mut frontier = Frontier::default();
        for size in 0..=300 {
            assert_eq!(frontier.root(), recursive_root(&all[..size]), "size {size}");
            assert_eq!(root_at(&mut Leaves(all.clone()), size as u64), Ok(frontier.root()));
            if size < 300 {
                frontier.push(all[size]);
            }
        }
    }

    #[test]
    fn every_leaf_proves_itself_at_every_size_and_nothing_else() {
        let mut all = leaves(300);
        for size in 1..=300u64 {
            let root = recursive_root(&all.0[..size as usize]);
            // Every index up to 40, then a spread: 300 squared would only repeat shapes.
            for index in (0..size).filter(|i| size <= 40 || i % 7 == size % 7 || *i + 1 == size) {
                let proof = inclusion_proof(&mut all, index, size).expect("in the tree");
                let leaf = all.0[index as usize];
                assert_eq!(verify_inclusion(&leaf, index, size, &root, &proof), Ok(()));
                assert!(proof.len() <= 9);
                let other = all.0[(index as usize + 1) % 300];
                assert!(verify_inclusion(&other, index, size, &root, &proof).is_err());
                if size > 1 {
                    assert!(verify_inclusion(&leaf, (index + 1) % size, size, &root, &proof).is_err());
                    assert!(verify_inclusion(&leaf, index, size, &root, &proof[1..]).is_err());
                }
                let longer = [proof.as_slice(), &[leaf]].concat();
                assert!(verify_inclusion(&leaf, index, size, &root, &longer).is_err());
            }
        }
        assert_eq!(inclusion_proof(&mut all, 8, 8), Err(ProofError::Index { index: 8, size: 8 }));
        assert!(verify_inclusion(&all.0[0], 0, 0, &empty_root(), &[]).is_err());
    }

    #[test]
    fn every_pair_of_sizes_is_consistent_and_no_other_root_is() {
        let mut all = leaves(300);
        let roots: Vec<Digest> = (0..=300).map(|n| recursive_root(&all.0[..n])).collect();
        for new in 0..=300usize {
            for old in (0..=new).filter(|old| new <= 40 || old % 11 == new % 11 || *old + 1 == new) {
                let (m, n) = (old as u64, new as u64);
                let proof = consistency_proof(&mut all, m, n).expect("old is not larger");
                assert_eq!(verify_consistency(m, &roots[old], n, &roots[new], &proof), Ok(()), "{old} of {new}");
                assert!(proof.len() <= PROOF_LEN_MAX);
                let wrong = Digest::of(b"another history");
                assert!(verify_consistency(m, &wrong, n, &roots[new], &proof).is_err(), "{old} of {new}");
                if old > 0 {
                    assert!(verify_consistency(m, &roots[old], n, &wrong, &proof).is_err());
                    if old < new && !proof.is_empty() {
                        assert!(verify_consistency(m, &roots[old], n, &roots[new], &proof[1..]).is_err());
                        let short = &proof[..proof.len() - 1];
                        assert!(verify_consistency(m, &roots[old], n, &roots[new], short).is_err());
                    }
                }
                let longer = [proof.as_slice(), &[wrong]].concat();
                assert!(verify_consistency(m, &roots[old], n, &roots[new], &longer).is_err());
            }
        }
        assert_eq!(consistency_proof(&mut all, 9, 8), Err(ProofError::Sizes { old: 9, new: 8 }));
        assert!(verify_consistency(9, &roots[9], 8, &roots[8], &[]).is_err());
    }

    proptest! {
        #[test]
        fn a_proof_with_one_bit_flipped_is_refused(size in 2u64..300, pick in any::<u64>(), bit in 0usize..256) {
            let mut all = leaves(300);
            let index = pick % size;
            let root = recursive_root(&all.0[..size as usize]);
            let mut proof = inclusion_proof(&mut all, index, size).expect("in the tree");
            let place = (pick / size) as usize % proof.len();
            proof[place].0[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(verify_inclusion(&all.0[index as usize], index, size, &root, &proof).is_err());

            let old = pick % size;
            let old_root = recursive_root(&all.0[..old as usize]);
            let mut proof = consistency_proof(&mut all, old, size).expect("old is not larger");
            if !proof.is_empty() {
                let place = (pick / size) as usize % proof.len();
                proof[place].0[bit / 8] ^= 1 << (bit % 8);
                prop_assert!(verify_consistency(old, &old_root, size, &root, &proof).is_err());
            }
        }

        #[test]
        fn subtrees_may_be_appended_whole(n_subtrees in 1usize..5, level in 0u8..5, extra in 0usize..16) {
            let width = 1usize << level;
            let all = leaves(n_subtrees * width + extra);
            let mut frontier = Frontier::default();
            for chunk in all.0[..n_subtrees * width].chunks(width) {
                frontier.push_subtree(recursive_root(chunk), level);
            }
            all.0[n_subtrees * width..].iter().for_each(|leaf| frontier.push(*leaf));
            prop_assert_eq!(frontier.root(), recursive_root(&all.0));
        }
    }
}
