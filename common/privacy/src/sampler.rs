//! A silo's secret Poisson sample: every record alone with probability exactly q, in integers, presented as a constant
//! number of slots so that nothing of its size shows.

use chacha20::rand_core::Rng;
use eranos_base::Entropy;

use crate::{
    mechanism::RecordMechanism,
    uniform::{below, bernoulli, generator},
};

/// Why no sample was drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SampleError {
    /// The silo has more records than its public bound.
    #[error("{n_records} records, the plan's bound is {record_bound}")]
    TooManyRecords {
        /// How many the silo has.
        n_records: u32,
        /// The public bound.
        record_bound: u32,
    },
}

/// One slot of a silo's work in an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Slot {
    /// This record of the silo's data set was sampled.
    Record(u32),
    /// Nothing was sampled here; the work of one record is done on any input of the right shape, and adds nothing.
    Dummy,
}

impl Slot {
    /// The weight with which the slot's gradient enters the sum.
    pub const fn weight(self) -> Weight {
        match self {
            Self::Record(_) => Weight::One,
            Self::Dummy => Weight::Dummy,
        }
    }
}

/// The weight of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Weight {
    /// A sampled record.
    One,
    /// A dummy: the work is done and its result left out.
    Dummy,
}

impl Weight {
    /// All ones or all zeros, so that a record and a dummy take the same instructions.
    pub(crate) const fn mask(self) -> i32 {
        match self {
            Self::One => -1,
            Self::Dummy => 0,
        }
    }
}

/// Samples each of `n_records` records with probability exactly q, cuts a larger sample to B_max at random, and returns
/// exactly B_max slots, in random order. None of it is derived from anything but `entropy`.
///
/// # Errors
/// If the silo has more records than its public bound.
pub fn sample(
    mechanism: &RecordMechanism,
    n_records: u32,
    entropy: &mut dyn Entropy,
) -> Result<Vec<Slot>, SampleError> {
    let p = mechanism.parameters();
    if n_records > p.record_bound {
        return Err(SampleError::TooManyRecords { n_records, record_bound: p.record_bound });
    }
    let q = p.sampling_probability;
    let mut rng = generator(entropy);
    let drawn = (0..n_records).filter(|_| bernoulli(&mut rng, q.numerator(), q.denominator())).map(Slot::Record);
    let mut slots: Vec<Slot> = drawn.collect();
    let len = p.records_per_round as usize;
    slots.resize(slots.len().max(len), Slot::Dummy);
    // A shuffle of all, of which the first B_max stay: among a larger sample every subset of that size is as likely.
    shuffle(&mut slots, &mut rng);
    slots.truncate(len);
    Ok(slots)
}

/// Fisher and Yates' shuffle.
fn shuffle<T, R: Rng + ?Sized>(items: &mut [T], rng: &mut R) {
    for last in (1..items.len()).rev() {
        items.swap(last, below(rng, last as u64 + 1) as usize);
    }
}

#[cfg(test)]
mod tests {
    use eranos_base::SeededEntropy;

    use super::*;
    use crate::mechanism::{NoiseTarget, Probability, RecordTarget, design};

    fn mechanism(numerator: u64, denominator: u64, record_bound: u32) -> RecordMechanism {
        design(&RecordTarget {
            groups: crate::groups::Groups::default(),
            l2_clip_norm: 1.0,
            n_parameters: 16,
            sampling_probability: Probability::new(numerator, denominator).expect("a probability"),
            expected_lot: 10,
            record_bound,
            local: None,
            n_max: 4,
            u_min: 3,
            max_colluders: 1,
            max_attempts: 1,
            noise: NoiseTarget::Distributed { epsilon: 20.0 },
            delta: 1e-5,
        })
        .expect("reachable")
    }

    fn sampled(slots: &[Slot]) -> Vec<u32> {
        let record = |slot: &Slot| match slot {
            Slot::Record(record) => Some(*record),
            Slot::Dummy => None,
        };
        slots.iter().filter_map(record).collect()
    }

    #[test]
    fn every_record_is_included_with_the_plans_probability_alone() {
        let m = mechanism(2, 7, 200);
        let mut entropy = SeededEntropy::new(8);
        let (n_rounds, q) = (5000, 2.0 / 7.0);
        let mut counts = [0u32; 150];
        let mut sizes = Vec::new();
        let mut n_both = 0u32;
        for _ in 0..n_rounds {
            let slots = sample(&m, 150, &mut entropy).expect("within the bound");
            assert_eq!(slots.len(), m.parameters().records_per_round as usize);
            let mut records = sampled(&slots);
            sizes.push(records.len() as f64);
            records.sort_unstable();
            assert!(records.windows(2).all(|w| w[0] < w[1]), "nothing twice");
            n_both += u32::from(records.contains(&0) && records.contains(&1));
            for record in records {
                counts[record as usize] += 1;
            }
        }
        let n = f64::from(n_rounds);
        let within = |count: u32, p: f64| ((f64::from(count) - n * p) / (n * p * (1.0 - p)).sqrt()).abs() < 5.0;
        assert!(counts.iter().all(|c| within(*c, q)), "{counts:?}, seed 8");
        assert!(within(n_both, q * q), "{n_both}, seed 8");
        // Independent inclusions: the size varies like a binomial.
        let mean = sizes.iter().sum::<f64>() / n;
        let variance = sizes.iter().map(|s| (s - mean).powi(2)).sum::<f64>() / n;
        assert!((variance / (150.0 * q * (1.0 - q)) - 1.0).abs() < 5.0 * (2.0 / n).sqrt(), "{variance}, seed 8");
    }

    #[test]
    fn a_sample_that_is_too_large_is_cut_at_random() {
        // No plan allows it, so the sample is made larger than the bound by hand.
        let mut entropy = SeededEntropy::new(4);
        let mut rng = generator(&mut entropy);
        let mut counts = [0u32; 10];
        for _ in 0..10_000 {
            let mut slots: Vec<u32> = (0..10).collect();
            shuffle(&mut slots, &mut rng);
            for kept in &slots[..3] {
                counts[*kept as usize] += 1;
            }
        }
        let within = |c: &u32| (f64::from(*c) - 3000.0).abs() < 5.0 * (10_000.0f64 * 0.3 * 0.7).sqrt();
        assert!(counts.iter().all(within), "{counts:?}, seed 4");
    }

    #[test]
    fn the_number_of_slots_says_nothing_of_the_silo() {
        let m = mechanism(1, 4, 200);
        let len = m.parameters().records_per_round as usize;
        for n_records in [0, 1, 100, 200] {
            let slots = sample(&m, n_records, &mut SeededEntropy::new(2)).expect("within the bound");
            assert_eq!(slots.len(), len);
            assert!(sampled(&slots).len() <= n_records as usize);
        }
        let all = mechanism(1, 1, 20);
        let mut records = sampled(&sample(&all, 20, &mut SeededEntropy::new(2)).expect("within the bound"));
        records.sort_unstable();
        assert_eq!(records, (0..20).collect::<Vec<_>>());
        assert_eq!(
            sample(&m, 201, &mut SeededEntropy::new(2)),
            Err(SampleError::TooManyRecords { n_records: 201, record_bound: 200 })
        );
    }

    #[test]
    fn a_retry_draws_another_sample() {
        let m = mechanism(1, 4, 200);
        let mut entropy = SeededEntropy::new(6);
        let mut draw = || {
            let mut records = sampled(&sample(&m, 200, &mut entropy).expect("within the bound"));
            records.sort_unstable();
            records
        };
        assert_ne!(draw(), draw());
    }
}
