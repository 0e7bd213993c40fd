//! unit = record: every silo sums the clipped gradients of a secret sample of its records. The order of what is done to
//! them is in [`crate::silo`].

use eranos_base::encoding::{Canonical, CanonicalReader, DecodeError};

use super::{
    BITS_MAX, CLIP_MAX, CLIP_MIN, CommonParameters, DISTRIBUTED, GRID, HONEST_MIN, LEARNING_RATE_MAX,
    LEARNING_RATE_MIN, LOCAL, MechanismError, NO_NOISE, NOISE_DEVIATION_MAX, Noise, NoiseTarget, Probability, Promise,
    SHARE_THOUSANDTHS_MAX, STEPS_MAX, check_cohort, check_release, check_vector, in_range, least, padded,
    read_variance, share_variance,
};
use crate::{
    accountant::{Event, binomial_tail},
    groups::Groups,
    rounding, wrap,
};

/// The raw parameters of one attempt with unit = record, in the order of their encoding.
#[derive(Clone, Debug, PartialEq)]
pub struct RecordParameters {
    /// What travels beside the gradient in the same vector.
    pub groups: Groups,
    /// C: the L2 norm to which a record's gradient, with what travels beside it, is clipped.
    pub l2_clip_norm: f64,
    /// K: the integer norm that stands for C; always [`GRID`].
    pub grid: u32,
    /// e: how many bits of the rotated sum are rounded away.
    pub shift: u8,
    /// Coordinates of the model's gradient.
    pub n_parameters: u32,
    /// d: coordinates of the masked vector, [`padded_len`](crate::rotation::padded_len) of parameters and groups.
    pub d_pad: u32,
    /// u_min: the least number of survivors with which anyone signs or unmasks.
    pub u_min: u16,
    /// k: identities whose noise shares the adversary may know.
    pub max_colluders: u16,
    /// The largest roster for which `bits` suffices.
    pub n_max: u16,
    /// B_max: slots of work of every silo in every attempt.
    pub records_per_round: u32,
    /// L: the expected number of sampled records over all silos; a constant of the task, never computed from the silos'
    /// counts.
    pub expected_lot: u32,
    /// q: with what probability each record is sampled.
    pub sampling_probability: Probability,
    /// The most records that a silo may have.
    pub record_bound: u32,
    /// What a silo does by itself in an attempt: with local noise, and only there. All of the above is then of each of its
    /// steps, and L of one silo.
    pub local: Option<SiloTraining>,
    /// Who adds noise, and how much.
    pub noise: Noise,
    /// b: bits of a coordinate of the masked vector.
    pub bits: u8,
    /// Attempts over which epsilon is stated.
    pub max_attempts: u32,
    /// delta, the share of cut samples included.
    pub delta: f64,
}

/// DP-SGD inside a silo, whose noise protects its records from everybody else: steps along the noised mean of clipped
/// gradients. The change of the model that they lead to goes into the sum as a client's update does, without further noise.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SiloTraining {
    /// How many steps, each with a fresh sample and fresh noise.
    pub steps: u32,
    /// The learning rate of plain gradient descent.
    pub learning_rate: f64,
    /// The L2 norm that the update is clipped to. It bounds a silo's weight in the sum; no privacy rests on it.
    pub update_clip_norm: f64,
}

impl SiloTraining {
    fn check(&self) -> Result<(), MechanismError> {
        in_range("steps", self.steps, 1, STEPS_MAX)?;
        in_range("learning_rate", self.learning_rate, LEARNING_RATE_MIN, LEARNING_RATE_MAX)?;
        in_range("update_clip_norm", self.update_clip_norm, CLIP_MIN, CLIP_MAX)
    }
}

/// Checked parameters of one record-level attempt: every refusal of the specification has passed.
#[derive(Clone, Debug, PartialEq)]
pub struct RecordMechanism(pub(super) RecordParameters);

impl RecordMechanism {
    /// Checks `parameters`.
    ///
    /// # Errors
    /// The first refusal of the specification that applies.
    pub fn new(parameters: RecordParameters) -> Result<Self, MechanismError> {
        let p = &parameters;
        p.groups.check()?;
        p.groups.check_clip(p.l2_clip_norm)?;
        if p.grid != GRID {
            return Err(MechanismError::Mismatch { what: "grid", found: p.grid.into(), expected: GRID.into() });
        }
        in_range("shift", p.shift, SHIFT_MIN, SHIFT_MAX)?;
        check_vector(p.n_parameters, &p.groups, p.d_pad)?;
        let d_pad = p.d_pad;
        check_cohort(p.u_min, p.max_colluders, p.n_max)?;
        in_range("record_bound", p.record_bound, 1, RECORD_BOUND_MAX)?;
        in_range("records_per_round", p.records_per_round, 1, p.record_bound)?;
        let probability = sample_tail(p.record_bound, p.sampling_probability, p.records_per_round);
        if probability > SAMPLE_TAIL_MAX {
            return Err(MechanismError::SampleBound { records_per_round: p.records_per_round, probability });
        }
        // sqrt(d) B_max K < 2^62, squared: below 2^26 2^48 2^48.
        let sum = u128::from(p.records_per_round) * u128::from(GRID);
        if u128::from(d_pad) * sum * sum >= 1 << 124 {
            return Err(MechanismError::SumTooWide { d_pad, records_per_round: p.records_per_round });
        }
        in_range("expected_lot", p.expected_lot, 1, u32::MAX)?;
        match (p.noise, &p.local) {
            (Noise::Local(_), Some(local)) if p.groups.is_empty() => local.check()?,
            (Noise::Local(_), Some(_)) => return Err(MechanismError::NotRun { what: GROUPS_OF_LOCAL_RECORDS }),
            (Noise::Local(_), None) | (_, Some(_)) => return Err(MechanismError::SiloTraining),
            (_, None) => {}
        }
        check_release(p.noise, p.bits, p.max_attempts, p.delta)?;

        let needed = bits_needed(p, p.shift, p.noise.added_variance());
        if u32::from(p.bits) < needed {
            return Err(MechanismError::TooFewBits { found: p.bits.into(), needed });
        }
        for least in SHIFT_MIN..p.shift {
            let widening = sensitivity_squared(d_pad, least) as f64 / sensitivity_squared(d_pad, p.shift) as f64;
            let variance = p.noise.added_variance() * widening;
            // (With local noise the bits are those of the updates, whatever the shift.)
            if variance.sqrt() < NOISE_DEVIATION_MAX && bits_needed(p, least, variance) <= u32::from(BITS_MAX) {
                return Err(MechanismError::ShiftNotLeast { found: p.shift.into(), least: least.into() });
            }
        }
        let mechanism = Self(parameters);
        if mechanism.has_noise() && !mechanism.epsilon().is_finite() {
            let Self(p) = mechanism;
            return Err(MechanismError::Unbounded { delta: p.delta, max_attempts: p.max_attempts });
        }
        Ok(mechanism)
    }

    /// The raw parameters.
    pub fn parameters(&self) -> &RecordParameters {
        &self.0
    }

    /// The canonical encoding: the fields of [`RecordParameters`] in their order, the probability as numerator and
    /// denominator (`u64` each), the noise variance as its `u64` numerator over 2^10.
    ///
    /// Version 1 is that of distributed noise, and of nothing else. Version 2 begins with the name of the noise, and has no
    /// variance where there is none: who knows version 1 alone refuses it, and nothing reads as noise of variance 0. With
    /// local noise the silo's training stands before the variance. Version 3 is that of groups beside the gradient, which stand behind the name of the noise.
    pub fn encode(&self) -> Vec<u8> {
        let p = &self.0;
        let head = match p.noise {
            _ if p.groups != Groups::default() => {
                Canonical::new(DOMAIN_V3).text(p.noise.name()).field(&p.groups.encode())
            }
            Noise::Distributed(_) => Canonical::new(DOMAIN),
            Noise::Local(_) | Noise::None => Canonical::new(DOMAIN_V2).text(p.noise.name()),
        };
        let before_noise = head
            .f64(p.l2_clip_norm)
            .u32(p.grid)
            .u8(p.shift)
            .u32(p.n_parameters)
            .u32(p.d_pad)
            .u16(p.u_min)
            .u16(p.max_colluders)
            .u16(p.n_max)
            .u32(p.records_per_round)
            .u32(p.expected_lot)
            .u64(p.sampling_probability.numerator())
            .u64(p.sampling_probability.denominator())
            .u32(p.record_bound);
        let before_noise = match &p.local {
            Some(local) => before_noise.u32(local.steps).f64(local.learning_rate).f64(local.update_clip_norm),
            None => before_noise,
        };
        let with_noise = match p.noise {
            Noise::Distributed(variance) | Noise::Local(variance) => before_noise.u64(variance.numerator()),
            Noise::None => before_noise,
        };
        with_noise.u8(p.bits).u32(p.max_attempts).f64(p.delta).finish()
    }

    /// Reads the canonical encoding.
    ///
    /// # Errors
    /// If the bytes are not one, or the parameters are refused.
    pub fn decode(bytes: &[u8]) -> Result<Self, MechanismError> {
        let mut groups = Groups::default();
        // Distributed noise alone has version 1; the others have version 2, and local noise no other.
        let (mut reader, noise) = if let Ok(mut reader) = CanonicalReader::new(bytes, DOMAIN_V3) {
            let noise = reader.text()?;
            groups = Groups::decode(reader.field()?)?;
            (reader, Some(noise).filter(|noise| [DISTRIBUTED, NO_NOISE].contains(noise)))
        } else if let Ok(mut reader) = CanonicalReader::new(bytes, DOMAIN_V2) {
            let noise = reader.text()?;
            (reader, Some(noise).filter(|noise| [LOCAL, NO_NOISE].contains(noise)))
        } else {
            (CanonicalReader::new(bytes, DOMAIN)?, Some(DISTRIBUTED))
        };
        let noise = noise.ok_or(DecodeError::Malformed { what: "noise" })?;
        let parameters = RecordParameters {
            groups,
            l2_clip_norm: reader.f64()?,
            grid: reader.u32()?,
            shift: reader.u8()?,
            n_parameters: reader.u32()?,
            d_pad: reader.u32()?,
            u_min: reader.u16()?,
            max_colluders: reader.u16()?,
            n_max: reader.u16()?,
            records_per_round: reader.u32()?,
            expected_lot: reader.u32()?,
            sampling_probability: Probability::new(reader.u64()?, reader.u64()?)?,
            record_bound: reader.u32()?,
            local: match noise {
                LOCAL => Some(SiloTraining {
                    steps: reader.u32()?,
                    learning_rate: reader.f64()?,
                    update_clip_norm: reader.f64()?,
                }),
                _ => None,
            },
            noise: match noise {
                LOCAL => Noise::Local(read_variance(&mut reader)?),
                NO_NOISE => Noise::None,
                _ => Noise::Distributed(read_variance(&mut reader)?),
            },
            bits: reader.u8()?,
            max_attempts: reader.u32()?,
            delta: reader.f64()?,
        };
        reader.finish()?;
        Self::new(parameters)
    }

    /// s = sqrt(d) K/(C 2^e): what a gradient is multiplied by on its way to the grid.
    pub fn scale(&self) -> f64 {
        let p = &self.0;
        f64::from(p.d_pad).sqrt() * grid_steps(p.shift) as f64 / p.l2_clip_norm
    }

    /// 2^e C/(d K L): turns a coordinate of a sum of gradients, after H and D, into one of their mean over the lot.
    pub(crate) fn lot_factor(&self) -> f64 {
        let p = &self.0;
        p.l2_clip_norm / (f64::from(p.d_pad) * grid_steps(p.shift) as f64 * f64::from(p.expected_lot))
    }

    /// C_u s, the norm on the grid of an update that a silo's own training leads to: 64 sqrt d, at which rounding moves it by
    /// less than a hundredth of its clip.
    pub(crate) fn scaled_update_clip(&self) -> u32 {
        scaled_update_clip(self.0.d_pad)
    }

    /// The probability, at most, that one round's sum wraps around, which harms its utility only.
    pub fn wrap_probability(&self) -> f64 {
        let p = &self.0;
        let variance = coordinate_variance(p, p.shift, p.noise.added_variance());
        wrap::wrap_probability(p.bits.into(), variance, p.n_max.into(), p.d_pad.into())
    }
}

impl Promise for RecordMechanism {
    fn common(&self) -> CommonParameters {
        let p = &self.0;
        CommonParameters {
            groups: p.groups,
            l2_clip_norm: p.l2_clip_norm,
            n_parameters: p.n_parameters,
            d_pad: p.d_pad,
            u_min: p.u_min,
            max_colluders: p.max_colluders,
            n_max: p.n_max,
            noise: p.noise,
            bits: p.bits,
            max_attempts: p.max_attempts,
            delta: p.delta,
        }
    }

    /// Delta2^2 = d (K/2^e + 1)^2, exactly: by how much one record moves the rounded sum, in L2, squared.
    fn sensitivity_squared(&self) -> u64 {
        sensitivity_squared(self.0.d_pad, self.0.shift)
    }

    fn event(&self, shares: u32) -> Event {
        let Some(variance) = self.0.noise.share_variance() else { return Event::NonPrivate };
        let l2_sensitivity = self.l2_sensitivity();
        Event::DiscreteGaussianSum {
            sampling_probability: self.0.sampling_probability.to_f64(),
            l2_sensitivity,
            l1_sensitivity: rounding::l1_bound(l2_sensitivity, self.0.d_pad),
            share_variance: variance.to_f64(),
            shares,
            dimension: self.0.d_pad,
        }
    }

    /// With what probability the cut of a sample to its bound is noticed in one attempt.
    fn cut_probability(&self) -> f64 {
        // The bound that was checked is charged, not the tail itself: it is the promise, and it is the larger one.
        let of_one = if self.0.records_per_round >= self.0.record_bound { 0.0 } else { SAMPLE_TAIL_MAX };
        of_one * f64::from(self.n_releases())
    }

    fn n_releases(&self) -> u32 {
        self.0.local.map_or(1, |local| local.steps)
    }

    /// 2^e C/(d K L): the public expected lot divides, however many survived. Of updates the mean is over the survivors.
    fn restoring_factor(&self, survivors: u32) -> f64 {
        match self.0.local {
            Some(local) => {
                let on_grid = f64::from(self.scaled_update_clip()) * f64::from(self.0.d_pad).sqrt();
                local.update_clip_norm / (on_grid * f64::from(survivors))
            }
            None => self.lot_factor(),
        }
    }

    /// The expected lot is that of the largest roster: the survivors' part of it, all silos taken for alike.
    fn figures_factor(&self, survivors: u32) -> f64 {
        f64::from(self.0.n_max) / f64::from(survivors)
    }

    /// Of a silo's own steps the gradients may all point one way, and the noise does not: it falls with the root of the steps,
    /// and with that of the silos.
    fn noise_to_signal(&self, survivors: u32) -> f64 {
        let p = &self.0;
        let (noises, mean) = match p.local {
            Some(local) => (1.0, f64::from(local.steps) * f64::from(survivors)),
            None => (f64::from(survivors), 1.0),
        };
        let of_coordinate = (f64::from(p.d_pad) * noises * p.noise.added_variance() / mean).sqrt() * self.lot_factor();
        of_coordinate * f64::from(p.n_parameters).sqrt() / (p.l2_clip_norm * p.groups.model.root())
    }
}

impl TryFrom<RecordParameters> for RecordMechanism {
    type Error = MechanismError;

    fn try_from(parameters: RecordParameters) -> Result<Self, MechanismError> {
        Self::new(parameters)
    }
}

/// What a record-level task asks for; [`design`] finds the rest.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RecordTarget {
    /// What travels beside the gradient.
    pub groups: Groups,
    /// C.
    pub l2_clip_norm: f64,
    /// Coordinates of the model's gradient.
    pub n_parameters: u32,
    /// q.
    pub sampling_probability: Probability,
    /// L.
    pub expected_lot: u32,
    /// The most records that a silo may have.
    pub record_bound: u32,
    /// What a silo does by itself, with local noise.
    pub local: Option<SiloTraining>,
    /// The largest roster.
    pub n_max: u16,
    /// The least number of survivors.
    pub u_min: u16,
    /// k.
    pub max_colluders: u16,
    /// Attempts over which epsilon holds.
    pub max_attempts: u32,
    /// The noise, by what it promises.
    pub noise: NoiseTarget,
    /// The delta of the promise.
    pub delta: f64,
}

/// The mechanism of least noise that keeps `target`'s promise: the least B_max, e and b, and sg the least multiple of
/// Delta2/1000 (a multiplier that is rounded up) by Renyi accounting at integer orders. Without noise, the least B_max, e
/// and b of a sum that is rounded alone.
///
/// # Errors
/// If the target is out of range or no noise reaches it.
pub fn design(target: &RecordTarget) -> Result<RecordMechanism, MechanismError> {
    let d_pad = padded(target.n_parameters, &target.groups)?;
    in_range("record_bound", target.record_bound, 1, RECORD_BOUND_MAX)?;
    if target.u_min.saturating_sub(target.max_colluders) < HONEST_MIN {
        return Err(MechanismError::TooFewHonest { u_min: target.u_min, max_colluders: target.max_colluders });
    }
    let tail = |b: u32| sample_tail(target.record_bound, target.sampling_probability, b);
    let records_per_round =
        least(1, target.record_bound, |b| tail(b) <= SAMPLE_TAIL_MAX).unwrap_or(target.record_bound);
    let with_noise = |shift: u8, noise: Noise| {
        let mut parameters = RecordParameters {
            groups: target.groups,
            l2_clip_norm: target.l2_clip_norm,
            grid: GRID,
            shift,
            n_parameters: target.n_parameters,
            d_pad,
            u_min: target.u_min,
            max_colluders: target.max_colluders,
            n_max: target.n_max,
            records_per_round,
            expected_lot: target.expected_lot,
            sampling_probability: target.sampling_probability,
            record_bound: target.record_bound,
            local: target.local,
            noise,
            bits: 0,
            max_attempts: target.max_attempts,
            delta: target.delta,
        };
        parameters.bits = u8::try_from(bits_needed(&parameters, shift, noise.added_variance())).unwrap_or(u8::MAX);
        parameters
    };
    if let Some(local) = &target.local {
        local.check()?;
    }
    let (epsilon, adds): (f64, fn(_) -> Noise) = match target.noise {
        NoiseTarget::Distributed { epsilon } => (epsilon, Noise::Distributed),
        NoiseTarget::Local { epsilon } => (epsilon, Noise::Local),
        NoiseTarget::None => {
            let parameters =
                (SHIFT_MIN..SHIFT_MAX).map(|shift| with_noise(shift, Noise::None)).find(|p| p.bits <= BITS_MAX);
            return RecordMechanism::new(parameters.unwrap_or_else(|| with_noise(SHIFT_MAX, Noise::None)));
        }
    };
    for shift in SHIFT_MIN..=SHIFT_MAX {
        let with_share = |thousandths: u32| {
            Some(with_noise(shift, adds(share_variance(sensitivity_squared(d_pad, shift), thousandths)?)))
        };
        // Unchecked parameters are used only to compare epsilons; what is returned has been checked.
        let reaches = |thousandths: u32| {
            with_share(thousandths).is_none_or(|parameters| RecordMechanism(parameters).epsilon() <= epsilon)
        };
        let found = least(1, SHARE_THOUSANDTHS_MAX, reaches).and_then(with_share);
        let Some(parameters) = found.filter(|p| p.bits <= BITS_MAX) else { continue };
        let mechanism = RecordMechanism::new(parameters)?;
        if mechanism.epsilon() <= epsilon {
            return Ok(mechanism);
        }
    }
    Err(MechanismError::Unreachable { epsilon, delta: target.delta })
}

/// K/2^e.
const fn grid_steps(shift: u8) -> u64 {
    (GRID >> shift) as u64
}

const fn sensitivity_squared(d_pad: u32, shift: u8) -> u64 {
    let steps = grid_steps(shift) + 1;
    d_pad as u64 * steps * steps
}

fn sample_tail(record_bound: u32, q: Probability, records_per_round: u32) -> f64 {
    binomial_tail(record_bound.into(), q.to_f64(), records_per_round.into())
}

/// b, for a sum of n vectors.
fn bits_needed(p: &RecordParameters, shift: u8, variance: f64) -> u32 {
    wrap::bits_needed(coordinate_variance(p, shift, variance), p.n_max.into(), p.d_pad.into())
}

/// V = S^2/d + n sg^2, S = C s n B_max.
fn coordinate_variance(p: &RecordParameters, shift: u8, variance: f64) -> f64 {
    let n = f64::from(p.n_max);
    if p.local.is_some() {
        // S = n C_u s, and no noise on top.
        let sum = n * f64::from(scaled_update_clip(p.d_pad));
        return sum * sum / f64::from(p.d_pad);
    }
    let sum = grid_steps(shift) as f64 * n * f64::from(p.records_per_round);
    sum * sum + n * variance
}

/// 64 sqrt d, rounded up: 2^19 at the largest d.
fn scaled_update_clip(d_pad: u32) -> u32 {
    let squared = 4096 * u64::from(d_pad);
    let root = squared.isqrt();
    (if root * root < squared { root + 1 } else { root }) as u32
}

const DOMAIN: &str = "eranos/privacy/record-mechanism/v1";
const DOMAIN_V2: &str = "eranos/privacy/record-mechanism/v2";
const DOMAIN_V3: &str = "eranos/privacy/record-mechanism/v3";
/// From here on the widening by rounding is below 0.8 %.
const SHIFT_MIN: u8 = 17;
/// K/2^e >= 8.
const SHIFT_MAX: u8 = 21;
/// More records than this in one silo are for several silos; it bounds the time to check a plan.
const RECORD_BOUND_MAX: u32 = 1 << 26;
const SAMPLE_TAIL_MAX: f64 = 1e-12;
/// What is measured would have to be noised in each of a silo's steps.
const GROUPS_OF_LOCAL_RECORDS: &str = "metrics or an adaptive clip with unit = record and noise = local";

#[cfg(test)]
mod tests;
