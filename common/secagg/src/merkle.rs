//! The Merkle tree hash of RFC 6962, section 2.1.

use eranos_base::Digest;

/// The Merkle tree hash over the leaves' bytes, in order.
pub fn root<L: AsRef<[u8]>>(leaves: &[L]) -> Digest {
    let hashes: Vec<Digest> = leaves.iter().map(|leaf| Digest::of_parts(&[&[0], leaf.as_ref()])).collect();
    root_of_hashes(&hashes)
}

fn root_of_hashes(hashes: &[Digest]) -> Digest {
    match hashes {
        [] => Digest::of(&[]),
        [leaf] => *leaf,
        _ => {
            // "Let k be the largest power of two smaller than n."
            let k = hashes.len().next_power_of_two() / 2;
            let (left, right) = (root_of_hashes(&hashes[..k]), root_of_hashes(&hashes[k..]));
            Digest::of_parts(&[&[1], left.as_bytes(), right.as_bytes()])
        }
    }
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
}
