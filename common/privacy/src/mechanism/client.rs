//! unit = client: every client trains on its own records for some steps and sends the change of the model, clipped as a
//! whole. The order of what is done to it is in [`crate::update`].
//!
//! With distributed noise neighbours differ in one client's update, which is zero in one of them: the client takes part
//! in both, and its noise share stays. With local noise they differ in what the client's update is (2 Delta2). Everybody
//! takes part with certainty, so nothing is amplified.

use eranos_base::encoding::{Canonical, CanonicalReader, DecodeError};

use super::{
    BITS_MAX, CommonParameters, DISTRIBUTED, LEARNING_RATE_MAX, LEARNING_RATE_MIN, LOCAL, MechanismError, NO_NOISE,
    Noise, NoiseTarget, Promise, SHARE_THOUSANDTHS_MAX, STEPS_MAX, check_cohort, check_release, check_vector, in_range,
    least, padded, read_variance, share_variance,
};
use crate::{
    accountant::Event,
    groups::Groups,
    rounding::{l1_bound, l2_bound_squared},
    wrap,
};

/// The raw parameters of one attempt with unit = client, in the order of their encoding.
#[derive(Clone, Debug, PartialEq)]
pub struct ClientParameters {
    /// What travels beside the update in the same vector.
    pub groups: Groups,
    /// C: the L2 norm to which a client's whole update, with what travels beside it, is clipped.
    pub l2_clip_norm: f64,
    /// C s: the norm on the integer grid that stands for C.
    pub scaled_clip: u32,
    /// Coordinates of the model's update.
    pub n_parameters: u32,
    /// d: coordinates of the masked vector, [`padded_len`](crate::rotation::padded_len) of parameters and groups.
    pub d_pad: u32,
    /// u_min: the least number of survivors with which anyone signs or unmasks.
    pub u_min: u16,
    /// k: identities whose noise shares the adversary may know.
    pub max_colluders: u16,
    /// The largest roster for which `bits` suffices.
    pub n_max: u16,
    /// How a client comes to its update.
    pub training: LocalTraining,
    /// Who adds noise, and how much.
    pub noise: Noise,
    /// b: bits of a coordinate of the masked vector.
    pub bits: u8,
    /// Attempts over which epsilon is stated.
    pub max_attempts: u32,
    /// delta.
    pub delta: f64,
}

/// What a client does to the model on its own records. It is steps, not epochs: the work is the same however many records
/// there are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LocalTraining {
    /// How many steps.
    pub steps: u32,
    /// Records of a step, drawn at random.
    pub batch_size: u32,
    /// The learning rate of plain gradient descent.
    pub learning_rate: f64,
}

/// Checked parameters of one client-level attempt: every refusal of the specification has passed.
#[derive(Clone, Debug, PartialEq)]
pub struct ClientMechanism(ClientParameters);

impl ClientMechanism {
    /// Checks `parameters`.
    ///
    /// # Errors
    /// The first refusal of the specification that applies.
    pub fn new(parameters: ClientParameters) -> Result<Self, MechanismError> {
        let p = &parameters;
        p.groups.check()?;
        p.groups.check_clip(p.l2_clip_norm)?;
        check_vector(p.n_parameters, &p.groups, p.d_pad)?;
        in_range("scaled_clip", p.scaled_clip, scaled_clip_min(p.d_pad), SCALED_CLIP_MAX)?;
        check_cohort(p.u_min, p.max_colluders, p.n_max)?;
        in_range("steps", p.training.steps, 1, STEPS_MAX)?;
        in_range("batch_size", p.training.batch_size, 1, BATCH_SIZE_MAX)?;
        in_range("learning_rate", p.training.learning_rate, LEARNING_RATE_MIN, LEARNING_RATE_MAX)?;
        check_release(p.noise, p.bits, p.max_attempts, p.delta)?;
        let needed = bits_needed(p);
        if u32::from(p.bits) < needed {
            return Err(MechanismError::TooFewBits { found: p.bits.into(), needed });
        }
        let mechanism = Self(parameters);
        if mechanism.has_noise() && !mechanism.epsilon().is_finite() {
            let Self(p) = mechanism;
            return Err(MechanismError::Unbounded { delta: p.delta, max_attempts: p.max_attempts });
        }
        Ok(mechanism)
    }

    /// The raw parameters.
    pub fn parameters(&self) -> &ClientParameters {
        &self.0
    }

    /// Whether `bytes` begin as an encoding of client-level parameters does.
    pub(super) fn is_encoding(bytes: &[u8]) -> bool {
        CanonicalReader::new(bytes, DOMAIN).is_ok() || CanonicalReader::new(bytes, DOMAIN_V2).is_ok()
    }

    /// The same, clipping to a norm that was found to lie within the bounds.
    pub(super) fn clipping_to(self, l2_clip_norm: f64) -> Self {
        Self(ClientParameters { l2_clip_norm, ..self.0 })
    }

    /// The canonical encoding: the fields of [`ClientParameters`] in their order; the noise as its name and, where there is
    /// any, the `u64` numerator over 2^10 of its variance. Version 2 is that of groups beside the update, which come first.
    pub fn encode(&self) -> Vec<u8> {
        let p = &self.0;
        let head = match p.groups == Groups::default() {
            true => Canonical::new(DOMAIN),
            false => Canonical::new(DOMAIN_V2).field(&p.groups.encode()),
        };
        let before_noise = head
            .f64(p.l2_clip_norm)
            .u32(p.scaled_clip)
            .u32(p.n_parameters)
            .u32(p.d_pad)
            .u16(p.u_min)
            .u16(p.max_colluders)
            .u16(p.n_max)
            .u32(p.training.steps)
            .u32(p.training.batch_size)
            .f64(p.training.learning_rate)
            .text(p.noise.name());
        let with_noise = match p.noise.share_variance() {
            Some(variance) => before_noise.u64(variance.numerator()),
            None => before_noise,
        };
        with_noise.u8(p.bits).u32(p.max_attempts).f64(p.delta).finish()
    }

    /// Reads the canonical encoding.
    ///
    /// # Errors
    /// If the bytes are not one, or the parameters are refused.
    pub fn decode(bytes: &[u8]) -> Result<Self, MechanismError> {
        let (mut reader, groups) = match CanonicalReader::new(bytes, DOMAIN_V2) {
            Ok(mut reader) => {
                let groups = Groups::decode(reader.field()?)?;
                (reader, groups)
            }
            Err(_) => (CanonicalReader::new(bytes, DOMAIN)?, Groups::default()),
        };
        let parameters = ClientParameters {
            groups,
            l2_clip_norm: reader.f64()?,
            scaled_clip: reader.u32()?,
            n_parameters: reader.u32()?,
            d_pad: reader.u32()?,
            u_min: reader.u16()?,
            max_colluders: reader.u16()?,
            n_max: reader.u16()?,
            training: LocalTraining { steps: reader.u32()?, batch_size: reader.u32()?, learning_rate: reader.f64()? },
            noise: match reader.text()? {
                DISTRIBUTED => Noise::Distributed(read_variance(&mut reader)?),
                LOCAL => Noise::Local(read_variance(&mut reader)?),
                NO_NOISE => Noise::None,
                _ => return Err(DecodeError::Malformed { what: "noise" }.into()),
            },
            bits: reader.u8()?,
            max_attempts: reader.u32()?,
            delta: reader.f64()?,
        };
        reader.finish()?;
        Self::new(parameters)
    }

    /// Which two federations are neighbours: the client's update is zero in one of them, its noise in both; or, where each
    /// adds all of its noise, another one.
    pub(super) const fn relation(&self) -> &'static str {
        match self.0.noise {
            Noise::Local(_) => "replace",
            Noise::Distributed(_) | Noise::None => "zero-out",
        }
    }

    /// floor(Delta2^2): what the sum of squares of one client's integers never exceeds, before noise.
    pub fn norm_squared_max(&self) -> u64 {
        l2_bound_squared(self.0.scaled_clip, self.0.d_pad)
    }

    /// The replacement of one update by another, which moves the sum by twice the norm: what a budget of records is
    /// charged, and what local noise protects from.
    pub(super) fn replacement(&self, shares: u32) -> Event {
        self.moved_by(2.0 * (self.norm_squared_max() as f64).sqrt(), shares)
    }

    pub(super) fn replacement_noise_multiplier(&self, shares: u32) -> f64 {
        let variance = f64::from(shares) * self.0.noise.added_variance();
        (variance / (4.0 * self.norm_squared_max() as f64)).sqrt()
    }

    fn moved_by(&self, l2_sensitivity: f64, shares: u32) -> Event {
        let Some(variance) = self.0.noise.share_variance() else { return Event::NonPrivate };
        Event::DiscreteGaussianSum {
            sampling_probability: 1.0,
            l2_sensitivity,
            l1_sensitivity: l1_bound(l2_sensitivity, self.0.d_pad),
            share_variance: variance.to_f64(),
            shares,
            dimension: self.0.d_pad,
        }
    }

    /// The probability, at most, that one round's sum wraps around, which harms its utility only.
    pub fn wrap_probability(&self) -> f64 {
        let p = &self.0;
        wrap::wrap_probability(p.bits.into(), coordinate_variance(p), p.n_max.into(), p.d_pad.into())
    }
}

impl Promise for ClientMechanism {
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

    /// Delta2^2: of zero in place of an update; with local noise of one update in place of another.
    fn sensitivity_squared(&self) -> u64 {
        match self.0.noise {
            Noise::Local(_) => 4 * self.norm_squared_max(),
            Noise::Distributed(_) | Noise::None => self.norm_squared_max(),
        }
    }

    fn event(&self, shares: u32) -> Event {
        self.moved_by(self.l2_sensitivity(), shares)
    }

    /// Rounding is redrawn until its bound holds, so the analysis holds always.
    fn cut_probability(&self) -> f64 {
        0.0
    }

    /// 1/(s sqrt(d) u).
    fn restoring_factor(&self, survivors: u32) -> f64 {
        let p = &self.0;
        p.l2_clip_norm / (f64::from(p.scaled_clip) * f64::from(p.d_pad).sqrt() * f64::from(survivors))
    }

    /// The mean is over the survivors already.
    fn figures_factor(&self, _survivors: u32) -> f64 {
        1.0
    }
}

/// What a client-level task asks for; [`design_client`] finds the rest.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ClientTarget {
    /// What travels beside the update.
    pub groups: Groups,
    /// C.
    pub l2_clip_norm: f64,
    /// Coordinates of the model's update.
    pub n_parameters: u32,
    /// The largest roster.
    pub n_max: u16,
    /// The least number of survivors.
    pub u_min: u16,
    /// k.
    pub max_colluders: u16,
    /// How a client comes to its update.
    pub training: LocalTraining,
    /// Attempts over which epsilon holds.
    pub max_attempts: u32,
    /// The noise, by what it promises.
    pub noise: NoiseTarget,
    /// The delta of the promise.
    pub delta: f64,
}

/// The mechanism of least noise that keeps `target`'s promise: C s = 4 sqrt d, the least b, and sg the least multiple of
/// a thousandth of the sensitivity.
///
/// # Errors
/// If the target is out of range or no noise reaches it.
pub fn design_client(target: &ClientTarget) -> Result<ClientMechanism, MechanismError> {
    // Before anything is reckoned with them.
    let d_pad = padded(target.n_parameters, &target.groups)?;
    check_cohort(target.u_min, target.max_colluders, target.n_max)?;
    let with_noise = |noise: Noise| {
        let mut parameters = ClientParameters {
            groups: target.groups,
            l2_clip_norm: target.l2_clip_norm,
            scaled_clip: scaled_clip_min(d_pad),
            n_parameters: target.n_parameters,
            d_pad,
            u_min: target.u_min,
            max_colluders: target.max_colluders,
            n_max: target.n_max,
            training: target.training,
            noise,
            bits: 0,
            max_attempts: target.max_attempts,
            delta: target.delta,
        };
        parameters.bits = u8::try_from(bits_needed(&parameters)).unwrap_or(u8::MAX);
        parameters
    };
    let (epsilon, adds): (f64, fn(_) -> Noise) = match target.noise {
        NoiseTarget::Distributed { epsilon } => (epsilon, Noise::Distributed),
        NoiseTarget::Local { epsilon } => (epsilon, Noise::Local),
        NoiseTarget::None => return ClientMechanism::new(with_noise(Noise::None)),
    };
    let norm_squared = l2_bound_squared(scaled_clip_min(d_pad), d_pad);
    let with_share = |thousandths: u32| Some(with_noise(adds(share_variance(norm_squared, thousandths)?)));
    // Unchecked parameters are used only to compare epsilons; what is returned has been checked.
    let reaches = |thousandths: u32| {
        with_share(thousandths).is_none_or(|parameters| ClientMechanism(parameters).epsilon() <= epsilon)
    };
    let found = least(1, SHARE_THOUSANDTHS_MAX, reaches).and_then(with_share).filter(|p| p.bits <= BITS_MAX);
    let unreachable = MechanismError::Unreachable { epsilon, delta: target.delta };
    let mechanism = ClientMechanism::new(found.ok_or(unreachable.clone())?)?;
    if mechanism.epsilon() <= epsilon { Ok(mechanism) } else { Err(unreachable) }
}

const DOMAIN: &str = "eranos/privacy/client-mechanism/v1";
const DOMAIN_V2: &str = "eranos/privacy/client-mechanism/v2";
/// Its square, and the square of a sum over the largest cohort, stay far below 2^64.
const SCALED_CLIP_MAX: u32 = 1 << 24;
const BATCH_SIZE_MAX: u32 = 1 << 16;

/// The least C s >= 4 sqrt d, at which rounding widens the update by 0.8 %.
const fn scaled_clip_min(d_pad: u32) -> u32 {
    let squared = 16 * d_pad as u64;
    let root = squared.isqrt();
    (if root * root < squared { root + 1 } else { root }) as u32
}

/// b, for a sum of n vectors.
fn bits_needed(p: &ClientParameters) -> u32 {
    wrap::bits_needed(coordinate_variance(p), p.n_max.into(), p.d_pad.into())
}

/// V = S^2/d + n sg^2, S = n C s.
fn coordinate_variance(p: &ClientParameters) -> f64 {
    let n = f64::from(p.n_max);
    let sum = n * f64::from(p.scaled_clip);
    sum * sum / f64::from(p.d_pad) + n * p.noise.added_variance()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Accountant, Mechanism, NoiseVariance, View,
        accountant::{tau, zcdp},
        budget::UnitOfPrivacy,
    };

    fn target(noise: NoiseTarget) -> ClientTarget {
        ClientTarget {
            groups: Groups::default(),
            l2_clip_norm: 1.0,
            n_parameters: 7850,
            n_max: 100,
            u_min: 90,
            max_colluders: 2,
            training: LocalTraining { steps: 10, batch_size: 32, learning_rate: 0.1 },
            max_attempts: 20,
            noise,
            delta: 1e-5,
        }
    }

    fn distributed() -> ClientMechanism {
        design_client(&target(NoiseTarget::Distributed { epsilon: 8.0 })).expect("reachable")
    }

    #[test]
    fn the_least_noise_keeps_the_promise_by_the_unamplified_formula() {
        let m = distributed();
        let p = m.parameters();
        assert_eq!((p.d_pad, p.scaled_clip), (8192, 363));
        assert!(u64::from(p.scaled_clip).pow(2) >= 16 * u64::from(p.d_pad));
        // min{(C s + sqrt d)^2, C^2 s^2 + d/4 + C s + sqrt(d)/2} is the second here.
        assert_eq!(m.norm_squared_max(), (363.0f64.powi(2) + 2048.0 + 363.0 + 8192.0f64.sqrt() / 2.0) as u64);
        assert_eq!(m.promised_shares(), 88);
        // PRIVACY.md: eps(a) = a Delta2^2/(2 u' sg^2) + tau d and its two rivals; here tau is nothing.
        let variance = p.noise.share_variance().expect("noise").to_f64();
        assert!(tau(variance, 88) < 1e-30);
        let rho = m.norm_squared_max() as f64 / (2.0 * 88.0 * variance);
        let curve = m.promised_curve();
        for (order, divergence) in curve.iter() {
            assert!((divergence - f64::from(order) * rho).abs() <= 1e-9 * divergence, "order {order}");
        }
        assert!(m.epsilon() <= 8.0 && m.epsilon() > 7.9, "{}", m.epsilon());
        // All real orders give no more than integer ones.
        assert!(zcdp::epsilon(&[(m.event(88), 20)], 1e-5) <= m.epsilon() * (1.0 + 1e-9));
        let outsider = m.attained_epsilon(View::Outsider, &[90; 20], 1e-5);
        assert!(outsider < m.epsilon());
        assert_eq!(m.attained_epsilon(View::CoordinatorWithColluders, &[90; 20], 1e-5), m.epsilon());
    }

    #[test]
    fn less_noise_than_promised_is_noticed() {
        let m = distributed();
        let z = m.promised_noise_multiplier();
        assert!(m.reaches(z * (1.0 - 1e-12)) && !m.reaches(z * 1.001));
        let with_total = |divisor: u64| {
            let numerator = m.parameters().noise.share_variance().expect("noise").numerator() * 88 / divisor;
            let noise = Noise::Distributed(NoiseVariance::from_numerator(numerator).expect("in range"));
            ClientMechanism::new(ClientParameters { noise, ..m.parameters().clone() })
        };
        for (what, divisor) in [("planned cohort", 100), ("k = 0", 90)] {
            let bad = with_total(divisor).expect("well formed");
            assert!(bad.epsilon() > 8.05 && !bad.reaches(z * (1.0 - 1e-12)), "{what}: epsilon {}", bad.epsilon());
        }
        // Over n instead of sqrt n, hardly anything is promised any more.
        let over_n = with_total(88 * 88).map_or(f64::INFINITY, |bad| bad.epsilon());
        assert!(over_n > 100.0, "epsilon {over_n}");
    }

    #[test]
    fn removing_a_client_with_its_noise_would_cost_far_more_than_zeroing_its_update() {
        // PRIVACY.md: at 100 shares order-2 RDP 6.7, not 0.0625, which is that of z = 4.
        let (n, d) = (100u32, 1u32 << 17);
        let p = ClientParameters { n_parameters: d, d_pad: d, scaled_clip: scaled_clip_min(d), ..distributed().0 };
        let variance = 16.0 * l2_bound_squared(p.scaled_clip, d) as f64 / f64::from(n);
        let noise =
            Noise::Distributed(NoiseVariance::from_numerator((variance * 1024.0).ceil() as u64).expect("in range"));
        let m = ClientMechanism(ClientParameters { noise, ..p });
        let (_, zeroed) = m.event(n).rdp().iter().next().expect("order 2");
        assert!((zeroed - 0.0625).abs() < 1e-6, "{zeroed}");
        // D_2 of two centred Gaussians, one with a share less, in d coordinates.
        let (all, less) = (f64::from(n), f64::from(n - 1));
        let removed = f64::from(d) / 2.0 * ((less / all).ln() + (less / (2.0 * less - all)).ln());
        assert!((removed - 6.7).abs() < 0.05, "{removed}");
        assert_eq!(m.relation(), "zero-out");
    }

    #[test]
    fn a_record_pays_for_a_replacement() {
        let m = distributed();
        let mechanism = Mechanism::from(m.clone());
        let record = UnitOfPrivacy::Record;
        // Multiplier z/2: four times the divergence.
        assert!((2.0 * mechanism.noise_multiplier_for(record, 88) / m.promised_noise_multiplier() - 1.0).abs() < 1e-12);
        for ((_, twice), (_, once)) in mechanism.curve_for(record).iter().zip(m.promised_curve().iter()) {
            assert!((twice / once - 4.0).abs() < 1e-9);
        }
        assert!(mechanism.epsilon_for(record) > 2.0 * m.epsilon());
    }

    #[test]
    fn local_noise_is_one_share_against_a_replacement() {
        let m = design_client(&target(NoiseTarget::Local { epsilon: 8.0 })).expect("reachable");
        assert_eq!((m.promised_shares(), m.relation()), (1, "replace"));
        assert_eq!(m.sensitivity_squared(), 4 * m.norm_squared_max());
        for view in [View::CoordinatorWithColluders, View::Outsider] {
            assert_eq!((m.shares(view, 100), m.shares(view, 89)), (Some(1), None));
            assert_eq!(m.attained_epsilon(view, &[100; 20], 1e-5), m.epsilon());
        }
        let local = m.parameters().noise.share_variance().expect("noise").to_f64();
        let shared = distributed().parameters().noise.share_variance().expect("noise").to_f64();
        // Twice the sensitivity and none of the 88 shares: 2 sqrt(88) times the deviation, for the same epsilon.
        assert!(((local / shared).sqrt() / (2.0 * 88.0f64.sqrt()) - 1.0).abs() < 0.01, "{}", (local / shared).sqrt());
        // The same noise claimed as zeroing, or with others' shares, would claim too little: the bytes say which it is.
        assert_eq!(ClientMechanism::decode(&m.encode()), Ok(m.clone()));
        let mut accountant = Accountant::new();
        accountant.compose(&m.event(1), 20);
        assert_eq!(accountant.epsilon(1e-5), m.epsilon());
    }

    #[test]
    fn the_encoding_is_golden_and_comes_back() {
        let m = distributed();
        let bytes = m.encode();
        assert_eq!(ClientMechanism::decode(&bytes), Ok(m.clone()));
        assert_eq!(Mechanism::decode(&bytes), Ok(m.into()));
        let golden = concat!(
            "220000006572616e6f732f707269766163792f636c69656e742d6d656368616e69736d2f7631",
            "08000000000000000000f03f", // C = 1.0
            "040000006b010000",         // C s = 363
            "04000000aa1e0000",         // 7850
            "0400000000200000",         // 2^13
            "020000005a00020000000200020000006400",
            "040000000a000000",         // 10 steps
            "0400000020000000",         // of 32 records
            "080000009a9999999999b93f", // 0.1
            "0b0000006469737472696275746564",
        );
        let found: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(&found[..golden.len()], golden);
        for len in 0..bytes.len() {
            assert!(Mechanism::decode(&bytes[..len]).is_err());
        }
        assert!(Mechanism::decode(&[bytes.as_slice(), &[0]].concat()).is_err());
        let bare = design_client(&target(NoiseTarget::None)).expect("reachable");
        assert_eq!((bare.epsilon(), bare.has_noise()), (f64::INFINITY, false));
        assert_eq!(ClientMechanism::decode(&bare.encode()), Ok(bare));
    }

    #[test]
    fn every_refusal_of_the_specification_is_made() {
        let refused = |change: fn(&mut ClientParameters), says: &str| {
            let mut parameters = distributed().parameters().clone();
            change(&mut parameters);
            match ClientMechanism::new(parameters.clone()) {
                Ok(_) => panic!("accepted, expected a refusal for {says}"),
                Err(error) => assert!(error.to_string().contains(says), "{error}, expected {says}"),
            }
            // What is refused when built is refused when read.
            assert!(Mechanism::decode(&ClientMechanism(parameters).encode()).is_err(), "{says}");
        };
        refused(|p| p.l2_clip_norm = 0.0, "l2_clip_norm");
        refused(|p| p.l2_clip_norm = f64::NAN, "l2_clip_norm");
        refused(|p| p.scaled_clip -= 1, "scaled_clip");
        refused(|p| p.scaled_clip = u32::MAX, "scaled_clip");
        refused(|p| p.d_pad = 1 << 14, "d_pad");
        refused(|p| p.n_parameters = 0, "n_parameters");
        refused(|p| p.max_colluders = 0, "max_colluders");
        refused(|p| p.u_min = 3, "at least 2 honest");
        refused(|p| p.u_min = 101, "u_min");
        refused(|p| p.training.steps = 0, "steps");
        refused(|p| p.training.batch_size = 0, "batch_size");
        refused(|p| p.training.learning_rate = f64::NAN, "learning_rate");
        refused(|p| p.training.learning_rate = -1.0, "learning_rate");
        refused(|p| p.bits -= 1, "bits");
        refused(|p| p.bits = 33, "bits");
        refused(|p| p.max_attempts = 0, "max_attempts");
        refused(|p| p.delta = 0.0, "delta");
        let variance = |numerator| NoiseVariance::from_numerator(numerator).expect("in range");
        let weak = ClientParameters { noise: Noise::Distributed(variance((16 << 10) - 1)), ..distributed().0 };
        assert!(ClientMechanism::new(weak).is_err_and(|error| error.to_string().contains("noise_deviation")));
        for noise in [NoiseTarget::Distributed { epsilon: 1e-4 }, NoiseTarget::Local { epsilon: 1e-2 }] {
            let large = ClientTarget { n_parameters: 1 << 26, ..target(noise) };
            assert!(matches!(design_client(&large), Err(MechanismError::Unreachable { .. })), "{noise:?}");
        }
        let too_many = ClientTarget { n_parameters: u32::MAX, ..target(NoiseTarget::None) };
        assert!(design_client(&too_many).is_err());
    }
}
