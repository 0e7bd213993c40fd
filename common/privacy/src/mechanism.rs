//! The public parameters of one attempt, as the signed plan and the ledger carry them, and everything that follows from
//! them. Its first bytes name the unit of privacy: a [`Mechanism`] is a [`RecordMechanism`] or a
//! [`ClientMechanism`], each of which has a file of its own. Who adds the noise is one of the parameters ([`Noise`]).
//!
//! A mechanism is parsed once from raw parameters and cannot be wrong afterwards: sensitivity and noise multiplier are
//! derived, never stated. What follows from any mechanism in the same way is in [`Promise`]. Whether a client's policy
//! likes what it says is the client's business.

mod client;
mod error;
mod record;

use eranos_base::{
    encoding::CanonicalReader,
    limits::{COHORT_LEN_MAX, VECTOR_LEN_MAX},
};

use crate::{
    accountant::{Accountant, Event, RdpCurve},
    budget::UnitOfPrivacy,
    groups::Groups,
    noise::NoiseVariance,
    rotation::padded_len,
};

pub use self::{
    client::{ClientMechanism, ClientParameters, ClientTarget, LocalTraining, design_client},
    error::MechanismError,
    record::{RecordMechanism, RecordParameters, RecordTarget, SiloTraining, design},
};

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

    /// How long the noise of `survivors` clients is in the mean gradient or update, over the longest that can be: what training
    /// has to bear. Both as vectors of the model's length, after the model's share of the clip.
    fn noise_to_signal(&self, survivors: u32) -> f64 {
        let common = self.common();
        let of_coordinate = self.restored_noise_deviation(survivors) * self.restoring_factor(survivors);
        of_coordinate * f64::from(common.n_parameters).sqrt() / (common.l2_clip_norm * common.groups.model.root())
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

    fn noise_to_signal(&self, survivors: u32) -> f64 {
        match self {
            Self::Record(mechanism) => mechanism.noise_to_signal(survivors),
            Self::Client(mechanism) => mechanism.noise_to_signal(survivors),
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

/// K: the integer norm that stands for the clip.
pub const GRID: u32 = 1 << 24;

/// The name of no noise.
const NO_NOISE: &str = "none";
/// The name of noise in shares.
const DISTRIBUTED: &str = "distributed";
/// The name of noise that each adds alone.
const LOCAL: &str = "local";
/// Below this the clip's reciprocal, above it the restored gradient, leaves the comfortable range of `f32`.
pub(crate) const CLIP_MIN: f64 = 1e-12;
pub(crate) const CLIP_MAX: f64 = 1e12;
const HONEST_MIN: u16 = 2;
const NOISE_DEVIATION_MIN: f64 = 4.0;
/// The largest `f64` below 2^20.
const NOISE_DEVIATION_MAX: f64 = 1_048_576.0 - 1.0 / 8_589_934_592.0;
const BITS_MAX: u8 = 32;
const STEPS_MAX: u32 = 1 << 20;
const LEARNING_RATE_MIN: f64 = 1e-12;
const LEARNING_RATE_MAX: f64 = 1e6;
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
    let (min, max) = (NoiseVariance::NUMERATOR_MIN as f64, NoiseVariance::NUMERATOR_MAX as f64);
    let what = "noise_variance numerator";
    let out_of_range = MechanismError::Range { what, found: numerator as f64, min, max };
    NoiseVariance::from_numerator(numerator).ok_or(out_of_range)
}

/// sg^2 = (Delta2 thousandths/1000)^2, rounded up and at least 16; none if sg reaches 2^20.
fn share_variance(sensitivity_squared: u64, thousandths: u32) -> Option<NoiseVariance> {
    let square = u128::from(thousandths) * u128::from(thousandths);
    let numerator = (u128::from(sensitivity_squared) << 10) * square;
    let numerator = u64::try_from(numerator.div_ceil(1_000_000)).ok()?.max(16 << 10);
    NoiseVariance::from_numerator(numerator)
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
