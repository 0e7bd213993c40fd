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
