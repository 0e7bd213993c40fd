//! Which records belong to whom: records by their natural clients, clients by organisation, and parts held out.
//!
//! Everything here is a function of keys and a seed: it gives indices, for [`Dataset::subset`](super::Dataset::subset).

use std::{
    collections::{BTreeMap, HashSet},
    hash::Hash,
};

use eranos_base::{Entropy, SeededEntropy};

/// Records that train and records that are held out, each in ascending order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Split {
    /// What trains.
    pub train: Vec<usize>,
    /// What is held out.
    pub test: Vec<usize>,
}

impl Split {
    fn by(n_records: usize, is_test: impl Fn(usize) -> bool) -> Self {
        let (test, train) = (0..n_records).partition(|&i| is_test(i));
        Self { train, test }
    }

    /// Every `n`-th of `n_records` records is held out: the last of each run of `n`.
    ///
    /// # Panics
    /// If `n` is 0.
    pub fn every_nth(n_records: usize, n: usize) -> Self {
        Self::by(n_records, |i| i % n == n - 1)
    }

    /// The records with a key in `held_out` are held out: whole clients.
    pub fn hold_out<K: Eq + Hash>(keys: &[K], held_out: &[K]) -> Self {
        let held_out: HashSet<&K> = held_out.iter().collect();
        Self::by(keys.len(), |i| held_out.contains(&keys[i]))
    }

    /// The last one in `n` of each key's records is held out, in their order, rounded down: the future of each client.
    ///
    /// # Panics
    /// If `n` is 0.
    pub fn last_of_each<K: Ord>(keys: &[K], n: usize) -> Self {
        let mut is_test = vec![false; keys.len()];
        for records in by_key(keys).into_values() {
            for &i in &records[records.len() - records.len() / n..] {
                is_test[i] = true;
            }
        }
        Self::by(keys.len(), |i| is_test[i])
    }
}

/// The records of each key, in ascending order: the natural clients.
pub fn by_key<K: Ord>(keys: &[K]) -> BTreeMap<&K, Vec<usize>> {
    let mut groups: BTreeMap<&K, Vec<usize>> = BTreeMap::new();
    for (i, key) in keys.iter().enumerate() {
        groups.entry(key).or_default().push(i);
    }
    groups
}

/// The records of each of `n_groups` organisations, in ascending order: the natural clients are dealt out to them in an
/// order drawn by `seed`, so that their numbers of clients differ by one at most.
///
/// # Panics
/// If `n_groups` is 0.
pub fn group<K: Ord>(keys: &[K], n_groups: usize, seed: u64) -> Vec<Vec<usize>> {
    let clients: Vec<Vec<usize>> = by_key(keys).into_values().collect();
    let mut groups = vec![Vec::new(); n_groups];
    for (place, client) in shuffled(clients.len(), &mut SeededEntropy::new(seed)).into_iter().enumerate() {
        groups[place % n_groups].extend_from_slice(&clients[client]);
    }
    groups.iter_mut().for_each(|records| records.sort_unstable());
    groups
}

/// The numbers from 0 to below `n` in an order drawn uniformly (Fisher and Yates; the modulo bias of 64 bits is below
/// 2^-32 for any `n` below 2^32).
pub fn shuffled(n: usize, entropy: &mut SeededEntropy) -> Vec<usize> {
    let mut order: Vec<usize> = (0..n).collect();
    for last in (1..n).rev() {
        let draw = u64::from_le_bytes(entropy.bytes());
        order.swap(last, (draw % (last as u64 + 1)) as usize);
    }
    order
}
