//! The public parameters of one attempt, as the signed plan and the ledger carry them, and everything that follows from
//! them. Its first bytes name the unit of privacy: a [`Mechanism`] is a [`RecordMechanism`], which this file is about, or a
//! [`ClientMechanism`], which has a file of its own. Who adds the noise is one of the parameters ([`Noise`]).
//!
//! A mechanism is parsed once from raw parameters and cannot be wrong afterwards: sensitivity and noise multiplier are
//! derived, never stated. What follows from any mechanism in the same way is in [`Promise`]. Whether a client's policy
//! likes what it says is the client's business.

mod client;

use eranos_base::{
    encoding::{Canonical, CanonicalReader, DecodeError},
    limits::{COHORT_LEN_MAX, VECTOR_LEN_MAX},
};

use crate::{
    accountant::{Accountant, Event, RdpCurve, binomial_tail},
    budget::UnitOfPrivacy,
    groups::Groups,
    noise::NoiseVariance,
    rotation::padded_len,
    rounding, wrap,
};

pub use client::{ClientMechanism, ClientParameters, ClientTarget, LocalTraining, design_client};

/// Why parameters are no mechanism.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum MechanismError {
    /// The bytes are not an encoding of parameters.
    #[error("mechanism: {0}")]
    Decode(#[from] DecodeError),
    /// A number lies outside its range.
    #[error("{what} is {found}, expected {min} to {max}")]
    Range {
        /// Which parameter.
        what: &'static str,
        /// Its value.
        found: f64,
        /// The least allowed.
        min: f64,
        /// The most allowed.
        max: f64,
    },
    /// A number that has one right value has another.
    #[error("{what} is {found}, expected {expected}")]
    Mismatch {
        /// Which parameter.
        what: &'static str,
        /// Its value.
        found: u64,
        /// The right value.
        expected: u64,
    },
    /// A probability that is not a fraction in lowest terms above 0 and at most 1.
    #[error("probability {numerator}/{denominator} is not a fraction in lowest terms above 0 and at most 1")]
    Probability {
        /// Above the line.
        numerator: u64,
        /// Below the line.
        denominator: u64,
    },
    /// u_min - k is below 2: the sum over the honest survivors would be one client's vector (PROTOCOL.md).
    #[error("{u_min} survivors of whom {max_colluders} may collude, expected at least 2 honest ones")]
    TooFewHonest {
        /// The least number of survivors.
        u_min: u16,
        /// The most colluders.
        max_colluders: u16,
    },
    /// A sample exceeds its bound too often.
    #[error("a sample exceeds {records_per_round} records with probability {probability:e}, at most 1e-12 allowed")]
    SampleBound {
        /// B_max.
        records_per_round: u32,
        /// P[Bin(bound, q) > B_max].
        probability: f64,
    },
    /// The rotated sum might not fit 62 bits.
    #[error("sqrt(d) B_max K reaches 2^62 at d = {d_pad}, B_max = {records_per_round}")]
    SumTooWide {
        /// d.
        d_pad: u32,
        /// B_max.
        records_per_round: u32,
    },
    /// The shift is larger than it must be.
    #[error("shift {found}, but {least} would do")]
    ShiftNotLeast {
        /// e.
        found: u32,
        /// A smaller e that satisfies every bound.
        least: u32,
    },
    /// The sum would wrap around.
    #[error("{found} bits, but the sum needs {needed}")]
    TooFewBits {
        /// b.
        found: u32,
        /// The least b.
        needed: u32,
    },
    /// Nothing can be claimed at this delta and number of attempts.
    #[error("epsilon at delta {delta:e} is unbounded over {max_attempts} attempts")]
    Unbounded {
        /// delta.
        delta: f64,
        /// The attempts of the plan.
        max_attempts: u32,
    },
    /// A mode that is not run.
    #[error("{what} is not run by this version")]
    NotRun {
        /// Which.
        what: &'static str,
    },
    /// A record-level mechanism whose silos train by themselves without noise of their own, or the other way round.
    #[error("a silo trains by itself with noise = local, and only there")]
    SiloTraining,
    /// A clip that is not adaptive was to be another one.
    #[error("the clip of this mechanism is not adaptive")]
    FixedClip,
    /// No shift and noise meet the target.
    #[error("no noise below 2^20 and 32 bits reaches epsilon {epsilon} at delta {delta:e}")]
    Unreachable {
        /// The target.
        epsilon: f64,
        /// Its delta.
        delta: f64,
    },
}

/// An exact probability: a fraction in lowest terms, above 0 and at most 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Probability {
    numerator: u64,
    denominator: u64,
}

impl Probability {
    /// Certainty.
    pub const ONE: Self = Self { numerator: 1, denominator: 1 };
    /// One in four.
    pub const QUARTER: Self = Self { numerator: 1, denominator: 4 };

    /// The probability `numerator`/`denominator`.
    ///
    /// # Errors
    /// If it is 0, above 1 or not in lowest terms: one probability has one form.
    pub fn new(numerator: u64, denominator: u64) -> Result<Self, MechanismError> {
        let (mut a, mut b) = (denominator, numerator);
        while b != 0 {
            (a, b) = (b, a % b);
        }
        if numerator == 0 || numerator > denominator || a != 1 {
            return Err(MechanismError::Probability { numerator, denominator });
        }
        Ok(Self { numerator, denominator })
    }

    /// Above the line.
    pub const fn numerator(self) -> u64 {
        self.numerator
    }

    /// Below the line.
    pub const fn denominator(self) -> u64 {
        self.denominator
    }

    /// The nearest floating-point number that is not below it, so that no accountant claims more amplification than
    /// there is. It is below 1 unless the probability is 1.
    pub fn to_f64(self) -> f64 {
        if self == Self::ONE {
            return 1.0;
        }
        let nearest = self.numerator as f64 / self.denominator as f64;
        let exact = self.denominator.is_power_of_two() && self.numerator < 1 << 53;
        // Two conversions and a division, each rounded to nearest: below 3 units in the last place.
        if exact { nearest } else { (nearest * (1.0 + 4.0 * f64::EPSILON)).min(1.0) }
    }
}

/// Who adds noise to a sum, and how much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Noise {
    /// Every client a share of discrete Gaussian noise of this parameter sg^2; only the sum is ever seen.
    Distributed(NoiseVariance),
    /// Every client alone all the noise that protects it, of this parameter sg^2: nobody else's share counts.
    Local(NoiseVariance),
    /// Nobody. Nothing is promised: epsilon is infinite.
    None,
}

impl Noise {
    /// Its name in task files, entries and reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Distributed(_) => DISTRIBUTED,
            Self::Local(_) => LOCAL,
            Self::None => NO_NOISE,
        }
    }

    /// sg^2, of one client's noise; none where there is no noise.
    pub const fn share_variance(self) -> Option<NoiseVariance> {
        match self {
            Self::Distributed(variance) | Self::Local(variance) => Some(variance),
            Self::None => None,
        }
    }

    /// What one client's noise adds to the variance of a coordinate.
    fn added_variance(self) -> f64 {
        self.share_variance().map_or(0.0, NoiseVariance::to_f64)
    }
}

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
    /// d: coordinates of the masked vector, [`padded_len`] of parameters and groups.
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
pub struct RecordMechanism(RecordParameters);

/// Who looks, and hence whose noise shares protect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum View {
    /// The coordinator together with k participants, who know their own shares: u - k count. The headline.
    CoordinatorWithColluders,
    /// Coordinator, network or auditor without a participant, and recipients of the model: u count.
    Outsider,
}

/// What a sum, its thresholds and its accounting take from a mechanism, whatever its unit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CommonParameters {
    /// What travels beside the gradient or update in the same vector.
    pub groups: Groups,
    /// C.
    pub l2_clip_norm: f64,
    /// Coordinates of the model's gradient or update.
    pub n_parameters: u32,
    /// d: coordinates of the masked vector, [`padded_len`] of parameters and groups.
    pub d_pad: u32,
    /// u_min: the least number of survivors with which anyone signs or unmasks.
    pub u_min: u16,
    /// k: identities whose noise shares the adversary may know.
    pub max_colluders: u16,
    /// The largest roster for which `bits` suffices.
    pub n_max: u16,
    /// Who adds noise, and how much.
    pub noise: Noise,
    /// b: bits of a coordinate of the masked vector.
    pub bits: u8,
    /// Attempts over which epsilon is stated.
    pub max_attempts: u32,
    /// delta.
    pub delta: f64,
}

/// What follows from every mechanism's parameters in the same way.
pub trait Promise {
    /// The parameters that every mechanism has.
    fn common(&self) -> CommonParameters;

    /// The square of the L2 sensitivity of one vector on the integer grid to one unit of privacy, exactly.
    fn sensitivity_squared(&self) -> u64;

    /// One of the [`n_releases`](Self::n_releases) releases of an attempt, protected by `shares` shares, as an event.
    fn event(&self, shares: u32) -> Event;

    /// How many such releases an attempt is: the steps that a silo takes under noise of its own, and else one.
    fn n_releases(&self) -> u32 {
        1
    }

    /// The Renyi divergence of one attempt protected by `shares` shares.
    fn curve(&self, shares: u32) -> RdpCurve {
        let mut curve = RdpCurve::default();
        curve.add(&self.event(shares).rdp(), self.n_releases().into());
        curve
    }

    /// With what probability the analysis of one attempt does not hold.
    fn cut_probability(&self) -> f64;

    /// The factor that turns a coordinate of the sum of `survivors` vectors, after H and D, into one of the mean joined vector,
    /// which is C long at most.
    fn restoring_factor(&self, survivors: u32) -> f64;

    /// What the mean of `survivors` vectors is multiplied with to be the mean of a figure: the lot that the mean is taken
    /// over is that of the largest roster.
    fn figures_factor(&self, survivors: u32) -> f64;

    /// The standard deviation of the noise of `survivors` shares in a coordinate of their sum, after H and D.
    fn restored_noise_deviation(&self, survivors: u32) -> f64 {
        let common = self.common();
        (f64::from(common.d_pad) * f64::from(survivors) * common.noise.added_variance()).sqrt()
    }

    /// Whether anybody adds noise. Without it nothing is promised, and epsilon is infinite.
    fn has_noise(&self) -> bool {
        self.common().noise != Noise::None
    }

    /// Delta2, the L2 sensitivity.
    fn l2_sensitivity(&self) -> f64 {
        (self.sensitivity_squared() as f64).sqrt()
    }

    /// The shares that are promised to protect: u_min - k, at least 2; 1 where every client adds all of its noise.
    fn promised_shares(&self) -> u32 {
        let common = self.common();
        match common.noise {
            Noise::Local(_) => 1,
            Noise::Distributed(_) | Noise::None => u32::from(common.u_min - common.max_colluders),
        }
    }

    /// z' = sqrt(u') sg/Delta2, with `shares` = u'; 0 without noise.
    fn noise_multiplier(&self, shares: u32) -> f64 {
        (f64::from(shares) * self.common().noise.added_variance() / self.sensitivity_squared() as f64).sqrt()
    }

    /// The promised noise multiplier: what a client's policy compares with its minimum.
    fn promised_noise_multiplier(&self) -> f64 {
        self.noise_multiplier(self.promised_shares())
    }

    /// Whether [`promised_shares`](Self::promised_shares) shares of noise reach the multiplier `z`:
    /// sg^2 shares >= (z Delta2)^2.
    fn reaches(&self, z: f64) -> bool {
        let variance = f64::from(self.promised_shares()) * self.common().noise.added_variance();
        variance >= z * z * self.sensitivity_squared() as f64
    }

    /// How many shares protect in `view` when `survivors` clients' vectors are in the sum; none below u_min, where
    /// nothing may be released.
    fn shares(&self, view: View, survivors: u32) -> Option<u32> {
        let common = self.common();
        if survivors < u32::from(common.u_min) {
            return None;
        }
        match (common.noise, view) {
            (Noise::Local(_), _) => Some(1),
            (_, View::CoordinatorWithColluders) => Some(survivors - u32::from(common.max_colluders)),
            (_, View::Outsider) => Some(survivors),
        }
    }

    /// The Renyi divergence of one attempt as it is charged: with the promised shares.
    fn promised_curve(&self) -> RdpCurve {
        self.curve(self.promised_shares())
    }

    /// The epsilon that the plan states: all attempts, the promised shares, the plan's delta. Infinite without noise.
    fn epsilon(&self) -> f64 {
        let common = self.common();
        self.promised_epsilon(common.max_attempts, common.delta)
    }

    /// The epsilon charged after `n_attempts`, released or not, at `delta`.
    fn promised_epsilon(&self, n_attempts: u32, delta: f64) -> f64 {
        let mut accountant = Accountant::new();
        accountant.compose_curve(&self.promised_curve(), n_attempts.into(), self.cut_probability());
        accountant.epsilon(delta)
    }

    /// The epsilon attained in `view` by attempts of which each had `survivors` clients' vectors in its sum; infinite if
    /// one had fewer than u_min. An attempt that released nothing counts with u_min survivors.
    fn attained_epsilon(&self, view: View, survivors: &[u32], delta: f64) -> f64 {
        let mut accountant = Accountant::new();
        let mut sorted = survivors.to_vec();
        sorted.sort_unstable();
        for equal in sorted.chunk_by(|a, b| a == b) {
            let Some(shares) = self.shares(view, equal[0]) else { return f64::INFINITY };
            accountant.compose_curve(&self.curve(shares), equal.len() as u64, self.cut_probability());
        }
        accountant.epsilon(delta)
    }
}

/// The mechanism of an attempt, of either unit of privacy.
#[derive(Clone, Debug, PartialEq)]
pub enum Mechanism {
    /// unit = record.
    Record(RecordMechanism),
    /// unit = client.
    Client(ClientMechanism),
}

impl Mechanism {
    /// What epsilon speaks of.
    pub const fn unit(&self) -> UnitOfPrivacy {
        match self {
            Self::Record(_) => UnitOfPrivacy::Record,
            Self::Client(_) => UnitOfPrivacy::Client,
        }
    }

    /// Whether what is summed are changes of the model, and not gradients.
    pub const fn sums_updates(&self) -> bool {
        match self {
            Self::Record(mechanism) => mechanism.0.local.is_some(),
            Self::Client(_) => true,
        }
    }

    /// The neighbouring relation of the promise, by its name in entries and reports.
    pub const fn relation(&self) -> &'static str {
        match self {
            Self::Record(_) => "add-or-remove",
            Self::Client(mechanism) => mechanism.relation(),
        }
    }

    /// The mechanism of an attempt that clips to `l2_clip_norm`, all else the same.
    ///
    /// # Errors
    /// If the clip is not adaptive, or that lies outside its bounds.
    pub fn with_clip(&self, l2_clip_norm: f64) -> Result<Self, MechanismError> {
        if self.common().groups.adaptive_clip.is_none() {
            return Err(MechanismError::FixedClip);
        }
        self.common().groups.check_clip(l2_clip_norm)?;
        // Nothing but the clip's own range depends on it: neither sensitivity on the grid nor bits nor epsilon.
        Ok(match self.clone() {
            Self::Record(RecordMechanism(p)) => Self::Record(RecordMechanism(RecordParameters { l2_clip_norm, ..p })),
            Self::Client(mechanism) => Self::Client(mechanism.clipping_to(l2_clip_norm)),
        })
    }

    /// What stays the same over all attempts of a session, as bytes: the canonical encoding, at the least clip where that is
    /// adaptive. Two mechanisms that agree in it cost the same, whatever they clip to.
    pub fn session_bytes(&self) -> Vec<u8> {
        let least = self.common().groups.adaptive_clip.map(|adaptive| adaptive.l2_clip_norm_min);
        least.and_then(|least| self.with_clip(least).ok()).as_ref().unwrap_or(self).encode()
    }

    /// The canonical encoding, whose first bytes name the unit.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Record(mechanism) => mechanism.encode(),
            Self::Client(mechanism) => mechanism.encode(),
        }
    }

    /// Reads the canonical encoding.
    ///
    /// # Errors
    /// If the bytes are not one, or the parameters are refused.
    pub fn decode(bytes: &[u8]) -> Result<Self, MechanismError> {
        if ClientMechanism::is_encoding(bytes) {
            return ClientMechanism::decode(bytes).map(Self::Client);
        }
        RecordMechanism::decode(bytes).map(Self::Record)
    }

    /// The Renyi divergence of one attempt as it is charged to a budget of `unit`.
    ///
    /// A client-level attempt is charged to records as the replacement of one: at twice the sensitivity. A record-level
    /// attempt bounds what a whole client may show by nothing at all.
    pub fn curve_for(&self, unit: UnitOfPrivacy) -> RdpCurve {
        match (self, unit) {
            (Self::Record(mechanism), UnitOfPrivacy::Record) => mechanism.promised_curve(),
            (Self::Client(mechanism), UnitOfPrivacy::Client) => mechanism.promised_curve(),
            (Self::Client(mechanism), UnitOfPrivacy::Record) => {
                mechanism.replacement(mechanism.promised_shares()).rdp()
            }
            (Self::Record(_), UnitOfPrivacy::Client) => Event::NonPrivate.rdp(),
        }
    }

    /// The multiplier of `shares` shares of noise as a budget of `unit` sees it; 0 where nothing is promised to it.
    pub fn noise_multiplier_for(&self, unit: UnitOfPrivacy, shares: u32) -> f64 {
        match (self, unit) {
            (Self::Record(mechanism), UnitOfPrivacy::Record) => mechanism.noise_multiplier(shares),
            (Self::Client(mechanism), UnitOfPrivacy::Client) => mechanism.noise_multiplier(shares),
            (Self::Client(mechanism), UnitOfPrivacy::Record) => mechanism.replacement_noise_multiplier(shares),
            (Self::Record(_), UnitOfPrivacy::Client) => 0.0,
        }
    }

    /// The epsilon of all attempts of the plan, at its delta, as a budget of `unit` is charged.
    pub fn epsilon_for(&self, unit: UnitOfPrivacy) -> f64 {
        let common = self.common();
        let mut accountant = Accountant::new();
        accountant.compose_curve(&self.curve_for(unit), common.max_attempts.into(), self.cut_probability());
        accountant.epsilon(common.delta)
    }
}

impl Promise for Mechanism {
    fn common(&self) -> CommonParameters {
        match self {
            Self::Record(mechanism) => mechanism.common(),
            Self::Client(mechanism) => mechanism.common(),
        }
    }

    fn sensitivity_squared(&self) -> u64 {
        match self {
            Self::Record(mechanism) => mechanism.sensitivity_squared(),
            Self::Client(mechanism) => mechanism.sensitivity_squared(),
        }
    }

    fn event(&self, shares: u32) -> Event {
        match self {
            Self::Record(mechanism) => mechanism.event(shares),
            Self::Client(mechanism) => mechanism.event(shares),
        }
    }

    fn n_releases(&self) -> u32 {
        match self {
            Self::Record(mechanism) => mechanism.n_releases(),
            Self::Client(mechanism) => mechanism.n_releases(),
        }
    }

    fn cut_probability(&self) -> f64 {
        match self {
            Self::Record(mechanism) => mechanism.cut_probability(),
            Self::Client(mechanism) => mechanism.cut_probability(),
        }
    }

    fn restoring_factor(&self, survivors: u32) -> f64 {
        match self {
            Self::Record(mechanism) => mechanism.restoring_factor(survivors),
            Self::Client(mechanism) => mechanism.restoring_factor(survivors),
        }
    }

    fn figures_factor(&self, survivors: u32) -> f64 {
        match self {
            Self::Record(mechanism) => mechanism.figures_factor(survivors),
            Self::Client(mechanism) => mechanism.figures_factor(survivors),
        }
    }
}

impl From<RecordMechanism> for Mechanism {
    fn from(mechanism: RecordMechanism) -> Self {
        Self::Record(mechanism)
    }
}

impl From<ClientMechanism> for Mechanism {
    fn from(mechanism: ClientMechanism) -> Self {
        Self::Client(mechanism)
    }
}

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
            .u64(p.sampling_probability.numerator)
            .u64(p.sampling_probability.denominator)
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
}

impl TryFrom<RecordParameters> for RecordMechanism {
    type Error = MechanismError;

    fn try_from(parameters: RecordParameters) -> Result<Self, MechanismError> {
        Self::new(parameters)
    }
}

/// The noise that a task asks for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum NoiseTarget {
    /// Shares of all clients, the least that keep the promise.
    Distributed {
        /// The promise, over all attempts.
        epsilon: f64,
    },
    /// All of it by every client alone, the least that keeps the promise.
    Local {
        /// The promise, over all attempts.
        epsilon: f64,
    },
    /// None, and no promise.
    None,
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

/// K: the integer norm that stands for the clip.
pub const GRID: u32 = 1 << 24;

/// The name of no noise.
const NO_NOISE: &str = "none";
/// The name of noise in shares.
const DISTRIBUTED: &str = "distributed";
/// The name of noise that each adds alone.
const LOCAL: &str = "local";
const DOMAIN: &str = "eranos/privacy/record-mechanism/v1";
const DOMAIN_V2: &str = "eranos/privacy/record-mechanism/v2";
const DOMAIN_V3: &str = "eranos/privacy/record-mechanism/v3";
/// Below this the clip's reciprocal, above it the restored gradient, leaves the comfortable range of `f32`.
pub(crate) const CLIP_MIN: f64 = 1e-12;
pub(crate) const CLIP_MAX: f64 = 1e12;
/// From here on the widening by rounding is below 0.8 %.
const SHIFT_MIN: u8 = 17;
/// K/2^e >= 8.
const SHIFT_MAX: u8 = 21;
const HONEST_MIN: u16 = 2;
/// More records than this in one silo are for several silos; it bounds the time to check a plan.
const RECORD_BOUND_MAX: u32 = 1 << 26;
const SAMPLE_TAIL_MAX: f64 = 1e-12;
const NOISE_DEVIATION_MIN: f64 = 4.0;
/// The largest `f64` below 2^20.
const NOISE_DEVIATION_MAX: f64 = 1_048_576.0 - 1.0 / 8_589_934_592.0;
const BITS_MAX: u8 = 32;
const STEPS_MAX: u32 = 1 << 20;
const LEARNING_RATE_MIN: f64 = 1e-12;
const LEARNING_RATE_MAX: f64 = 1e6;
/// What is measured would have to be noised in each of a silo's steps.
const GROUPS_OF_LOCAL_RECORDS: &str = "metrics or an adaptive clip with unit = record and noise = local";
const ATTEMPTS_MAX: u32 = 1 << 24;
/// sg never exceeds this many thousandths of Delta2 below 2^20, since Delta2 >= 9.
const SHARE_THOUSANDTHS_MAX: u32 = 1 << 27;

pub(crate) fn in_range<T: PartialOrd + Into<f64>>(
    what: &'static str,
    found: T,
    min: T,
    max: T,
) -> Result<(), MechanismError> {
    // Written so that a NaN is refused.
    if found >= min && found <= max {
        return Ok(());
    }
    Err(MechanismError::Range { what, found: found.into(), min: min.into(), max: max.into() })
}

/// d, the length of the masked vector of so many parameters and what travels beside them.
///
/// # Errors
/// If no plan may have as many.
pub fn padded(n_parameters: u32, groups: &Groups) -> Result<u32, MechanismError> {
    in_range("n_parameters", n_parameters, 1, VECTOR_LEN_MAX as u32 - groups.len())?;
    // The greatest length is an order of H itself, so that nothing is padded beyond it.
    Ok(padded_len(n_parameters + groups.len()) as u32)
}

/// Whether the vector has a length that a plan may have, padded to d.
fn check_vector(n_parameters: u32, groups: &Groups, d_pad: u32) -> Result<(), MechanismError> {
    let expected = padded(n_parameters, groups)?;
    if d_pad != expected {
        return Err(MechanismError::Mismatch { what: "d_pad", found: d_pad.into(), expected: expected.into() });
    }
    Ok(())
}

/// Whether the least number of survivors leaves at least two honest ones.
fn check_cohort(u_min: u16, max_colluders: u16, n_max: u16) -> Result<(), MechanismError> {
    in_range("max_colluders", max_colluders, 1, COHORT_LEN_MAX as u16)?;
    in_range("n_max", n_max, 1, COHORT_LEN_MAX as u16)?;
    in_range("u_min", u_min, 1, n_max)?;
    if u_min.saturating_sub(max_colluders) < HONEST_MIN {
        return Err(MechanismError::TooFewHonest { u_min, max_colluders });
    }
    Ok(())
}

/// Whether noise, bits and the claim lie in their ranges.
fn check_release(noise: Noise, bits: u8, max_attempts: u32, delta: f64) -> Result<(), MechanismError> {
    if let Some(variance) = noise.share_variance() {
        in_range("noise_deviation", variance.deviation(), NOISE_DEVIATION_MIN, NOISE_DEVIATION_MAX)?;
    }
    in_range("max_attempts", max_attempts, 1, ATTEMPTS_MAX)?;
    in_range("bits", bits, 1, BITS_MAX)?;
    in_range("delta", delta, f64::MIN_POSITIVE, 1.0)
}

fn read_variance(reader: &mut CanonicalReader<'_>) -> Result<NoiseVariance, MechanismError> {
    let numerator = reader.u64()?;
    let max = NoiseVariance::NUMERATOR_MAX as f64;
    let what = "noise_variance numerator";
    let out_of_range = MechanismError::Range { what, found: numerator as f64, min: 1.0, max };
    NoiseVariance::from_numerator(numerator).ok_or(out_of_range)
}

/// K/2^e.
const fn grid_steps(shift: u8) -> u64 {
    (GRID >> shift) as u64
}

const fn sensitivity_squared(d_pad: u32, shift: u8) -> u64 {
    let steps = grid_steps(shift) + 1;
    d_pad as u64 * steps * steps
}

/// sg^2 = (Delta2 thousandths/1000)^2, rounded up and at least 16; none if sg reaches 2^20.
fn share_variance(sensitivity_squared: u64, thousandths: u32) -> Option<NoiseVariance> {
    let square = u128::from(thousandths) * u128::from(thousandths);
    let numerator = (u128::from(sensitivity_squared) << 10) * square;
    let numerator = u64::try_from(numerator.div_ceil(1_000_000)).ok()?.max(16 << 10);
    NoiseVariance::from_numerator(numerator)
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

/// The least value from `min` to `max` that holds, given that every value above one that holds does too.
fn least(min: u32, max: u32, holds: impl Fn(u32) -> bool) -> Option<u32> {
    let (mut low, mut high) = (min, max);
    if !holds(high) {
        return None;
    }
    while low < high {
        let middle = low + (high - low) / 2;
        if holds(middle) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    Some(high)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn demo_target() -> RecordTarget {
        RecordTarget {
            groups: Groups::default(),
            l2_clip_norm: 1.0,
            n_parameters: 121_930,
            sampling_probability: Probability::new(1, 4).expect("a probability"),
            expected_lot: 1500,
            record_bound: 750,
            local: None,
            n_max: 8,
            u_min: 7,
            max_colluders: 1,
            max_attempts: 155,
            noise: NoiseTarget::Distributed { epsilon: 4.0 },
            delta: 1e-5,
        }
    }

    fn promising(epsilon: f64) -> RecordTarget {
        RecordTarget { noise: NoiseTarget::Distributed { epsilon }, ..demo_target() }
    }

    fn share_variance(parameters: &RecordParameters) -> NoiseVariance {
        parameters.noise.share_variance().expect("noise")
    }

    #[test]
    fn the_demos_arithmetic_comes_out() {
        let mechanism = design(&demo_target()).expect("reachable");
        let p = mechanism.parameters();
        assert_eq!((p.d_pad, p.records_per_round, p.shift, p.bits), (1 << 17, 274, 17, 23));
        assert_eq!(mechanism.sensitivity_squared(), (1 << 17) * 129 * 129);
        assert_eq!(mechanism.promised_shares(), 6);
        let share = share_variance(p).deviation() / mechanism.l2_sensitivity();
        assert!((share - 1.540).abs() < 1e-6, "sg = {share} Delta2");
        assert!((mechanism.epsilon() - 3.9971).abs() < 5e-5, "epsilon {}", mechanism.epsilon());
        // All live: 4.36 in total, and outsiders see one share more than the headline.
        assert!((mechanism.noise_multiplier(8) - 4.36).abs() < 0.005);
        let headline = mechanism.attained_epsilon(View::CoordinatorWithColluders, &[8; 155], 1e-5);
        let outsider = mechanism.attained_epsilon(View::Outsider, &[8; 155], 1e-5);
        assert!(outsider < headline && headline < mechanism.epsilon());
        assert_eq!(mechanism.attained_epsilon(View::CoordinatorWithColluders, &[7; 155], 1e-5), mechanism.epsilon());
        assert_eq!(mechanism.attained_epsilon(View::Outsider, &[8, 6], 1e-5), f64::INFINITY);
    }

    #[test]
    fn the_specifications_figures_for_the_demo_come_out() {
        // PRIVACY.md: z = 3.72: 3.992 over 150 rounds; for exactly 4: 3.714, over 155: 3.770.
        let check = |z: f64, rounds: u64, expected: f64| {
            let mut accountant = Accountant::new();
            let event = Event::PoissonGaussian { sampling_probability: 0.25, noise_multiplier: z };
            accountant.compose(&event, rounds);
            assert!((accountant.epsilon(1e-5) - expected).abs() < 5e-4, "z = {z}: {}", accountant.epsilon(1e-5));
        };
        check(3.72, 150, 3.992);
        check(3.714, 150, 4.0);
        check(3.770, 155, 4.0);
        let curve = Event::PoissonGaussian { sampling_probability: 0.25, noise_multiplier: 3.72 }.rdp();
        let mut total = RdpCurve::default();
        total.add(&curve, 150);
        assert_eq!(total.best_order(1e-5), 6);
    }

    #[test]
    fn a_share_for_the_planned_cohort_or_over_n_breaks_the_promise() {
        // PRIVACY.md, noise: z/sqrt(n) each would give 3.99 to an outsider, 4.35 to another silo, 4.76 with one drop; these
        // are at z = 3.72 and 150 rounds.
        let epsilon = |shares: f64, z: f64| {
            let mut accountant = Accountant::new();
            let noise_multiplier = z * (shares / 8.0).sqrt();
            accountant.compose(&Event::PoissonGaussian { sampling_probability: 0.25, noise_multiplier }, 150);
            accountant.epsilon(1e-5)
        };
        assert!((epsilon(8.0, 3.72) - 3.99).abs() < 0.01);
        assert!((epsilon(7.0, 3.72) - 4.35).abs() < 0.01);
        assert!((epsilon(6.0, 3.72) - 4.76).abs() < 0.01);

        let good = design(&demo_target()).expect("reachable");
        let z = good.promised_noise_multiplier();
        assert!(good.reaches(z * (1.0 - 1e-12)) && !good.reaches(z * 1.001));
        let with_total = |divisor: u64| {
            // The total noise z^2 Delta2^2 that t_min = 6 shares must reach, cut into `divisor` instead.
            let numerator = share_variance(good.parameters()).numerator() * 6 / divisor;
            let noise = Noise::Distributed(NoiseVariance::from_numerator(numerator).expect("in range"));
            RecordMechanism::new(RecordParameters { noise, ..good.parameters().clone() })
        };
        for (what, divisor) in [("planned cohort", 8), ("k = 0", 7)] {
            let bad = with_total(divisor).expect("well formed");
            assert!(bad.epsilon() > 4.1, "{what}: epsilon {}", bad.epsilon());
            assert!(!bad.reaches(z * (1.0 - 1e-12)), "{what}");
        }
        // Over n instead of sqrt n so little noise is left that nothing can be claimed at all.
        assert!(matches!(with_total(64), Err(MechanismError::Unbounded { .. })));
    }

    #[test]
    fn the_encoding_is_golden_and_comes_back() {
        let mechanism = design(&demo_target()).expect("reachable");
        let bytes = mechanism.encode();
        assert_eq!(RecordMechanism::decode(&bytes), Ok(mechanism));
        let golden = concat!(
            "220000006572616e6f732f707269766163792f7265636f72642d6d656368616e69736d2f7631",
            "08000000000000000000f03f", // C = 1.0
            "0400000000000001",         // K = 2^24
            "0100000011",               // e = 17
            "040000004adc0100",         // 121,930
            "0400000000000200",         // 2^17
            "020000000700020000000100020000000800",
            "0400000012010000", // B_max = 274
            "04000000dc050000", // L = 1500
            "080000000100000000000000080000000400000000000000",
            "04000000ee020000", // 750
        );
        let found: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(&found[..golden.len()], golden);
        assert_eq!(&found[golden.len() + 24..], "0100000017040000009b00000008000000f168e388b5f8e43e");
    }

    #[test]
    fn without_noise_nothing_is_promised_and_the_encoding_says_so_first() {
        let mechanism = design(&RecordTarget { noise: NoiseTarget::None, ..demo_target() }).expect("reachable");
        let p = mechanism.parameters();
        // The rounded sum alone: as many records in a round, and the bits of their sum.
        assert_eq!((p.noise, p.records_per_round, p.shift, p.bits), (Noise::None, 274, 17, 23));
        assert!(!mechanism.has_noise() && mechanism.wrap_probability() <= 1e-9);
        let fewer = RecordParameters { bits: 22, ..p.clone() };
        assert_eq!(RecordMechanism::new(fewer), Err(MechanismError::TooFewBits { found: 22, needed: 23 }));
        assert_eq!((mechanism.epsilon(), mechanism.promised_noise_multiplier()), (f64::INFINITY, 0.0));
        assert!(!mechanism.reaches(1e-9));
        for view in [View::CoordinatorWithColluders, View::Outsider] {
            assert_eq!(mechanism.attained_epsilon(view, &[8], 1e-5), f64::INFINITY);
        }
        let bytes = mechanism.encode();
        let head = Canonical::new(DOMAIN_V2).text("none").f64(1.0).finish();
        assert_eq!(bytes[..head.len()], head);
        assert_eq!(RecordMechanism::decode(&bytes), Ok(mechanism.clone()));
        // One mechanism has one encoding, and none of version 1 lacks its noise.
        let noisy = design(&demo_target()).expect("reachable").encode();
        let body = |bytes: &[u8]| bytes[Canonical::new(DOMAIN).finish().len()..].to_vec();
        for (domain, name, body) in [
            (DOMAIN_V2, Some("distributed"), body(&noisy)),
            (DOMAIN_V2, Some("local"), body(&noisy)),
            (DOMAIN_V2, None, body(&noisy)),
            (DOMAIN_V2, Some("none"), body(&noisy)),
            (DOMAIN, None, body(&bytes)),
            (DOMAIN, None, bytes[head.len() - 12..].to_vec()),
        ] {
            let head = Canonical::new(domain);
            let head = name.map_or(head.clone(), |name| head.text(name)).finish();
            assert!(RecordMechanism::decode(&[head, body].concat()).is_err(), "{domain} {name:?}");
        }
    }

    #[test]
    fn a_silos_own_steps_are_accounted_one_by_one_with_one_share_each() {
        let local = SiloTraining { steps: 5, learning_rate: 0.5, update_clip_norm: 2.0 };
        let target = RecordTarget {
            expected_lot: 187,
            n_parameters: 1000,
            local: Some(local),
            noise: NoiseTarget::Local { epsilon: 8.0 },
            ..demo_target()
        };
        let m = design(&target).expect("reachable");
        let p = m.parameters();
        assert_eq!((m.promised_shares(), p.d_pad, p.records_per_round), (1, 1024, 274));
        // Steps times attempts, each with a cut of its own: 5 x 155.
        let z = share_variance(p).deviation() / m.l2_sensitivity();
        let event = Event::PoissonGaussian { sampling_probability: 0.25, noise_multiplier: z };
        let epsilon = |n_steps: u64| {
            let mut accountant = Accountant::new();
            accountant.compose_curve(&event.rdp(), n_steps, SAMPLE_TAIL_MAX);
            accountant.epsilon(1e-5)
        };
        assert!((m.epsilon() / epsilon(775) - 1.0).abs() < 1e-9, "{}, expected {}", m.epsilon(), epsilon(775));
        assert!(m.epsilon() <= 8.0 && m.epsilon() > 7.9 && epsilon(155) < 0.6 * m.epsilon());
        for view in [View::CoordinatorWithColluders, View::Outsider] {
            assert_eq!((m.shares(view, 8), m.shares(view, 6)), (Some(1), None));
            assert_eq!(m.attained_epsilon(view, &[8; 155], 1e-5), m.epsilon());
        }
        // The bits are those of the sum of updates.
        assert!(p.bits < 16 && m.wrap_probability() <= 1e-9, "{}", p.bits);
        assert!(Mechanism::from(m.clone()).sums_updates());

        let bytes = m.encode();
        assert_eq!(Mechanism::decode(&bytes), Ok(m.clone().into()));
        let head = Canonical::new(DOMAIN_V2).text("local").f64(1.0).finish();
        assert_eq!(bytes[..head.len()], head);
        for len in 0..bytes.len() {
            assert!(Mechanism::decode(&bytes[..len]).is_err());
        }
        let refused = |change: fn(&mut RecordParameters), says: &str| {
            let mut p = m.parameters().clone();
            change(&mut p);
            let error = RecordMechanism::new(p).expect_err(says).to_string();
            assert!(error.contains(says), "{error}, expected {says}");
        };
        refused(|p| p.local = None, "with noise = local, and only there");
        refused(|p| p.noise = Noise::Distributed(share_variance(p)), "with noise = local, and only there");
        refused(|p| p.noise = Noise::None, "with noise = local, and only there");
        let training = |p: &mut RecordParameters, change: fn(&mut SiloTraining)| {
            if let Some(local) = &mut p.local {
                change(local);
            }
        };
        refused(|p| p.bits -= 1, "bits");
        let mut p = m.parameters().clone();
        for change in [
            (|local| local.steps = 0) as fn(&mut SiloTraining),
            |local| local.learning_rate = f64::NAN,
            |local| local.update_clip_norm = 0.0,
        ] {
            p.local = m.parameters().local;
            training(&mut p, change);
            assert!(matches!(RecordMechanism::new(p.clone()), Err(MechanismError::Range { .. })), "{:?}", p.local);
        }
        // What is measured would leave a silo without noise.
        let groups = Groups::new(Some(crate::groups::Metrics::new(4.0, 0.01).expect("shares")), None).expect("groups");
        let error = RecordMechanism::new(RecordParameters { groups, ..m.parameters().clone() }).expect_err("groups");
        assert!(matches!(error, MechanismError::NotRun { .. }), "{error}");
    }

    /// A change to the demo's parameters, and what the refusal must say.
    fn refused(change: impl FnOnce(&mut RecordParameters), says: &str) {
        let mut parameters = design(&demo_target()).expect("reachable").parameters().clone();
        change(&mut parameters);
        match RecordMechanism::new(parameters.clone()) {
            Ok(_) => panic!("accepted, expected a refusal for {says}"),
            Err(error) => assert!(error.to_string().contains(says), "{error}, expected {says}"),
        }
        // What is refused when built is refused when read.
        assert!(RecordMechanism::decode(&RecordMechanism(parameters).encode()).is_err());
    }

    #[test]
    fn every_refusal_of_the_specification_is_made() {
        let variance = |numerator| NoiseVariance::from_numerator(numerator).expect("in range");
        for clip in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e-300, 1e300] {
            refused(|p| p.l2_clip_norm = clip, "l2_clip_norm");
        }
        refused(|p| p.grid = 1 << 23, "grid");
        refused(|p| p.shift = 16, "shift");
        refused(|p| p.shift = 22, "shift");
        refused(|p| p.shift = 18, "17 would do");
        refused(|p| p.n_parameters = 0, "n_parameters");
        refused(|p| (p.n_parameters, p.d_pad) = ((1 << 26) + 1, 1 << 27), "n_parameters");
        refused(|p| p.d_pad = 1 << 18, "d_pad");
        refused(|p| p.d_pad = 1 << 16, "d_pad");
        refused(|p| p.max_colluders = 0, "max_colluders");
        refused(|p| p.u_min = 2, "at least 2 honest");
        refused(|p| p.max_colluders = 6, "at least 2 honest");
        refused(|p| p.max_colluders = 7, "at least 2 honest");
        refused(|p| p.u_min = 9, "u_min");
        refused(|p| p.records_per_round = 273, "exceeds 273");
        refused(|p| p.records_per_round = 0, "records_per_round");
        refused(|p| p.records_per_round = 751, "records_per_round");
        refused(|p| p.record_bound = 800, "exceeds 274");
        refused(|p| p.sampling_probability = Probability::new(1, 3).expect("valid"), "exceeds 274");
        refused(|p| p.expected_lot = 0, "expected_lot");
        refused(|p| p.noise = Noise::Distributed(variance((16 << 10) - 1)), "noise_deviation");
        refused(|p| p.bits = 22, "needs 23");
        refused(|p| p.bits = 33, "bits");
        refused(|p| p.max_attempts = 0, "max_attempts");
        for delta in [0.0, -1e-5, 1.5, f64::NAN] {
            refused(|p| p.delta = delta, "delta");
        }
        // The attempts' cut samples alone use up this delta.
        refused(|p| p.delta = 1e-11, "unbounded");
        let wide = |p: &mut RecordParameters| {
            (p.n_parameters, p.d_pad) = (1 << 26, 1 << 26);
            p.sampling_probability = Probability::ONE;
            (p.record_bound, p.records_per_round) = (1 << 25, 1 << 25);
        };
        refused(wide, "2^62");
        assert_eq!(NoiseVariance::from_numerator(1 << 50), None);
        for (numerator, denominator) in [(0, 4), (2, 4), (5, 4), (1, 0), (0, 0)] {
            assert!(Probability::new(numerator, denominator).is_err(), "{numerator}/{denominator}");
        }
    }

    #[test]
    fn a_larger_shift_is_taken_only_where_it_is_needed() {
        // The noise of a tight promise at d = 2^26 does not fit sg < 2^20 at e = 17.
        let target = RecordTarget { n_parameters: 1 << 26, u_min: 3, n_max: 4, ..promising(2.0) };
        let mechanism = design(&target).expect("reachable");
        assert!(mechanism.parameters().shift > 17, "{:?}", mechanism.parameters());
        assert_eq!(
            design(&RecordTarget { noise: NoiseTarget::Distributed { epsilon: 1e-3 }, ..target })
                .map_err(|e| e.to_string())
                .err()
                .as_deref(),
            { Some("no noise below 2^20 and 32 bits reaches epsilon 0.001 at delta 1e-5") }
        );
    }

    #[test]
    fn sampling_everything_needs_no_dummies_and_no_cut() {
        let target = RecordTarget { sampling_probability: Probability::ONE, ..promising(21.0) };
        let mechanism = design(&target).expect("reachable");
        assert_eq!(mechanism.parameters().records_per_round, 750);
        assert_eq!(mechanism.cut_probability(), 0.0);
        // PRIVACY.md: at q = 1 the demo's noise costs 21 instead of 4.
        let parameters = RecordParameters {
            noise: design(&demo_target()).expect("reachable").parameters().noise,
            ..mechanism.parameters().clone()
        };
        let epsilon = RecordMechanism::new(parameters).expect("valid").epsilon();
        assert!((20.0..22.0).contains(&epsilon), "{epsilon}");
    }

    #[test]
    fn a_probability_is_never_rounded_down() {
        let check = |numerator, denominator| {
            let q = Probability::new(numerator, denominator).expect("valid");
            let scaled = (q.to_f64() * (1u64 << 53) as f64) as u128;
            assert!(scaled * u128::from(denominator) + u128::from(denominator) > u128::from(numerator) << 53);
            assert!(q.to_f64() <= 1.0);
        };
        check(1, 4);
        check(1, 3);
        check(u64::MAX - 1, u64::MAX);
        check(1, u64::MAX);
        assert_eq!(Probability::new(1, 4).expect("valid").to_f64(), 0.25);
    }

    #[test]
    fn no_bytes_make_the_decoder_panic_and_what_it_accepts_it_writes_back() {
        use eranos_base::{Entropy, SeededEntropy};
        let good = design(&demo_target()).expect("reachable").encode();
        let mut entropy = SeededEntropy::new(5);
        let mut n_accepted = 0;
        for round in 0..4000 {
            let mut bytes = good.clone();
            match round % 3 {
                0 => {
                    for _ in 0..=entropy.bytes::<1>()[0] % 3 {
                        let at = usize::from(u16::from_le_bytes(entropy.bytes())) % bytes.len();
                        bytes[at] ^= 1 << (entropy.bytes::<1>()[0] % 8);
                    }
                }
                1 => bytes.truncate(usize::from(u16::from_le_bytes(entropy.bytes())) % bytes.len()),
                _ => {
                    // Keeps the domain, so that the fields are read.
                    let domain = 4 + DOMAIN.len();
                    entropy.fill(&mut bytes[domain..]);
                }
            }
            if let Ok(mechanism) = RecordMechanism::decode(&bytes) {
                n_accepted += 1;
                assert_eq!(mechanism.encode(), bytes, "seed 5, round {round}");
                assert!(mechanism.epsilon().is_finite());
            }
        }
        // A flipped bit of the clip, the lot or the noise is another sound mechanism: signatures are what guards those.
        assert!(n_accepted > 10, "{n_accepted}");
        for len in 0..good.len() {
            assert!(RecordMechanism::decode(&good[..len]).is_err());
        }
        assert!(RecordMechanism::decode(&[good.as_slice(), &[0]].concat()).is_err());
    }
}
