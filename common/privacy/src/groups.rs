//! Groups of values that travel in the same vector as the gradient or update, under the same clip and the same noise: a
//! record's (or a client's) loss, whether it was right, whether it was clipped.
//!
//! Each group j has a bound C_j on its value and a share rho_j of the squared clip, and so has the model's group, whose
//! bound is the clip C itself; all shares add up to one. A group is clipped to its own bound, multiplied by
//! C sqrt(rho_j)/C_j and appended behind the parameters, before the padding, so that the joined vector is no longer than C:
//! sensitivity, scale and noise on the grid stay what they are without groups. Brought back, group j carries noise of
//! multiplier z C_j/sqrt(rho_j), and the model's 1/sqrt(rho_0) times the noise it would have alone.
//!
//! With an adaptive clip, C follows a quantile of the norms (Andrew, Thakkar, McMahan and Ramaswamy 2021, "Differentially
//! private learning with adaptive clipping", section 2): the count of those that were clipped is one more group, C of the
//! next attempt follows from its noised value alone, and lies within bounds that every plan names.

use eranos_base::encoding::{Canonical, CanonicalReader, DecodeError};

use crate::mechanism::{CLIP_MAX, CLIP_MIN, MechanismError, Promise, in_range};

/// rho, in millionths: a share of the squared clip.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Share(u32);

impl Share {
    /// All of it.
    pub const ONE: Self = Self(MILLION);

    /// `millionths` of a whole.
    ///
    /// # Errors
    /// If it is nothing, or more than all.
    pub fn from_millionths(millionths: u32) -> Result<Self, MechanismError> {
        in_range("share of a group in millionths", millionths, 1, MILLION)?;
        Ok(Self(millionths))
    }

    /// The millionths nearest to `share`.
    ///
    /// # Errors
    /// If they are none, or more than all.
    pub fn nearest(share: f64) -> Result<Self, MechanismError> {
        // A cast of a NaN or of what is out of range ends at 0 or far above.
        Self::from_millionths((share * f64::from(MILLION)).round() as u32)
    }

    /// In millionths.
    pub const fn millionths(self) -> u32 {
        self.0
    }

    /// sqrt(rho), exactly 1 for [`Share::ONE`].
    pub fn root(self) -> f64 {
        (f64::from(self.0) / f64::from(MILLION)).sqrt()
    }
}

/// Loss and accuracy as groups.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Metrics {
    /// M: what a loss is cut to.
    pub loss_max: f64,
    /// rho of the loss.
    pub loss: Share,
    /// rho of the accuracy.
    pub accuracy: Share,
}

impl Metrics {
    /// Loss, cut to `loss_max`, and accuracy, each with half of `share`.
    ///
    /// # Errors
    /// If the share is nothing, or all there is.
    pub fn new(loss_max: f64, share: f64) -> Result<Self, MechanismError> {
        let half = Share::nearest(share / 2.0)?;
        Ok(Self { loss_max, loss: half, accuracy: half })
    }
}

/// A clip that follows a quantile of the norms.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdaptiveClip {
    /// The least C of any attempt.
    pub l2_clip_norm_min: f64,
    /// The largest.
    pub l2_clip_norm_max: f64,
    /// rho of the count of those that were clipped.
    pub share: Share,
}

/// What travels beside the model in a vector, and each group's share of the squared clip.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Groups {
    /// rho of the gradient or update itself. It is written down, so that a plan whose shares do not add up shows it.
    pub model: Share,
    /// Loss and accuracy, if they travel.
    pub metrics: Option<Metrics>,
    /// The count of those that were clipped, if C follows it.
    pub adaptive_clip: Option<AdaptiveClip>,
}

impl Default for Groups {
    /// The model alone.
    fn default() -> Self {
        Self { model: Share::ONE, metrics: None, adaptive_clip: None }
    }
}

/// What one record shows beside its gradient, or one client beside its update: there the means over its records.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Figures {
    /// The loss.
    pub loss: f64,
    /// 1 where it was right and 0 where it was wrong; a client's share of right ones.
    pub accuracy: f64,
}

/// What a group is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// [`Figures::loss`].
    Loss,
    /// [`Figures::accuracy`].
    Accuracy,
    /// 1 for a gradient or update that is longer than C, and 0 for any other.
    Clipped,
}

impl Subject {
    /// Its name in encodings, entries and reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Loss => "loss",
            Self::Accuracy => "accuracy",
            Self::Clipped => "clipped",
        }
    }
}

/// One group beside the model's: a single coordinate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Group {
    /// What it is about.
    pub subject: Subject,
    /// C_j: its value lies in [0, C_j].
    pub bound: f64,
    /// rho_j.
    pub share: Share,
}

impl Groups {
    /// The model with what else there is; the model's share is what the others leave.
    ///
    /// # Errors
    /// If they leave nothing, or a bound is out of range.
    pub fn new(metrics: Option<Metrics>, adaptive_clip: Option<AdaptiveClip>) -> Result<Self, MechanismError> {
        let alone = Self { model: Share::ONE, metrics, adaptive_clip };
        let others: u64 = alone.iter().map(|group| u64::from(group.share.0)).sum();
        let model = Share::from_millionths(u64::from(MILLION).saturating_sub(others) as u32)?;
        let groups = Self { model, ..alone };
        groups.check()?;
        Ok(groups)
    }

    /// The groups beside the model's, in the order of their coordinates: loss, accuracy, clipped.
    pub fn iter(&self) -> impl Iterator<Item = Group> {
        let metrics = self.metrics.map(|metrics| {
            [
                Group { subject: Subject::Loss, bound: metrics.loss_max, share: metrics.loss },
                Group { subject: Subject::Accuracy, bound: 1.0, share: metrics.accuracy },
            ]
        });
        let clipped =
            self.adaptive_clip.map(|adaptive| Group { subject: Subject::Clipped, bound: 1.0, share: adaptive.share });
        metrics.into_iter().flatten().chain(clipped)
    }

    /// How many coordinates the groups beside the model's take.
    pub fn len(&self) -> u32 {
        self.iter().count() as u32
    }

    /// Whether the model travels alone.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether the shares add up to one and every bound lies in its range.
    ///
    /// # Errors
    /// What does not.
    pub(crate) fn check(&self) -> Result<(), MechanismError> {
        let total = self.iter().map(|group| u64::from(group.share.0)).sum::<u64>() + u64::from(self.model.0);
        if total != u64::from(MILLION) {
            let what = "sum of the groups' shares in millionths";
            return Err(MechanismError::Mismatch { what, found: total, expected: MILLION.into() });
        }
        if let Some(metrics) = self.metrics {
            in_range("loss_max", metrics.loss_max, LOSS_MAX_MIN, LOSS_MAX_MAX)?;
        }
        if let Some(adaptive) = self.adaptive_clip {
            in_range("l2_clip_norm_min", adaptive.l2_clip_norm_min, CLIP_MIN, CLIP_MAX)?;
            in_range("l2_clip_norm_max", adaptive.l2_clip_norm_max, adaptive.l2_clip_norm_min, CLIP_MAX)?;
        }
        Ok(())
    }

    /// Whether an attempt may clip to `l2_clip_norm`: within the bounds, where it is adaptive.
    ///
    /// # Errors
    /// If it lies outside.
    pub(crate) fn check_clip(&self, l2_clip_norm: f64) -> Result<(), MechanismError> {
        let (least, most) = match self.adaptive_clip {
            Some(adaptive) => (adaptive.l2_clip_norm_min, adaptive.l2_clip_norm_max),
            None => (CLIP_MIN, CLIP_MAX),
        };
        in_range("l2_clip_norm", l2_clip_norm, least, most)
    }

    /// The groups' coordinates in units of C: each value cut to [0, C_j], times sqrt(rho_j)/C_j. Those that there are come
    /// first, zeros after them. A value that is not a number stays one, so that the whole vector becomes zero.
    pub(crate) fn coordinates(&self, figures: &Figures, is_clipped: bool) -> [f64; GROUPS_MAX] {
        let mut coordinates = [0.0; GROUPS_MAX];
        for (coordinate, group) in coordinates.iter_mut().zip(self.iter()) {
            let value = match group.subject {
                Subject::Loss => figures.loss,
                Subject::Accuracy => figures.accuracy,
                Subject::Clipped => f64::from(u8::from(is_clipped)),
            };
            *coordinate = value.clamp(0.0, group.bound) / group.bound * group.share.root();
        }
        coordinates
    }

    /// The canonical encoding: the model's share in millionths (`u32`), the number of groups (`u8`), then each group's name,
    /// bound (`f64`) and millionths (`u32`), and behind the count of clipped ones the bounds of C (`f64` each).
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Canonical::new(DOMAIN).u32(self.model.0).u8(self.len() as u8);
        for group in self.iter() {
            out = out.text(group.subject.name()).f64(group.bound).u32(group.share.0);
        }
        match self.adaptive_clip {
            Some(adaptive) => out.f64(adaptive.l2_clip_norm_min).f64(adaptive.l2_clip_norm_max).finish(),
            None => out.finish(),
        }
    }

    /// Reads the canonical encoding of groups that are not empty.
    ///
    /// # Errors
    /// If the bytes are not one; whether the groups add up is [`Groups::check`]'s.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, MechanismError> {
        let mut reader = CanonicalReader::new(bytes, DOMAIN)?;
        let model = Share::from_millionths(reader.u32()?)?;
        let n_groups = reader.u8()?;
        let mut group = |subject: Subject| -> Result<(f64, Share), MechanismError> {
            if reader.text()? != subject.name() {
                return Err(DecodeError::Malformed { what: "group" }.into());
            }
            Ok((reader.f64()?, Share::from_millionths(reader.u32()?)?))
        };
        // Accuracy and count are shares: their bound is 1, and has one spelling.
        let of_one = |(bound, share): (f64, Share)| match bound.to_bits() == 1f64.to_bits() {
            true => Ok(share),
            false => Err(MechanismError::from(DecodeError::Malformed { what: "bound of a group" })),
        };
        let metrics = match n_groups {
            2 | 3 => {
                let (loss_max, loss) = group(Subject::Loss)?;
                Some(Metrics { loss_max, loss, accuracy: of_one(group(Subject::Accuracy)?)? })
            }
            1 => None,
            _ => return Err(DecodeError::Malformed { what: "number of groups" }.into()),
        };
        let share = match n_groups {
            1 | 3 => Some(of_one(group(Subject::Clipped)?)?),
            _ => None,
        };
        let adaptive_clip = match share {
            Some(share) => {
                Some(AdaptiveClip { l2_clip_norm_min: reader.f64()?, l2_clip_norm_max: reader.f64()?, share })
            }
            None => None,
        };
        reader.finish()?;
        Ok(Self { model, metrics, adaptive_clip })
    }
}

/// A figure as it was released: the mean over the lot expected of the survivors, or over the survivors, with noise.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// The noised value. It may lie outside the range of the figure.
    pub value: f64,
    /// The standard deviation of the noise in it, by all the survivors' shares; 0 without noise.
    pub deviation: f64,
}

/// What an attempt released beside the model.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Released {
    /// The mean loss, each cut to the bound of its group.
    pub loss: Option<Estimate>,
    /// The share of right records; with unit = client, the mean of the clients' shares.
    pub accuracy: Option<Estimate>,
    /// The share of those that were clipped.
    pub clipped: Option<Estimate>,
}

impl Released {
    /// What the groups' coordinates of a sum of `survivors` vectors say, after H and D, in units of [`Promise::restoring_factor`].
    pub(crate) fn of(coordinates: &[i64], mechanism: &impl Promise, survivors: u32) -> Self {
        let common = mechanism.common();
        let mut released = Self::default();
        let factor = mechanism.restoring_factor(survivors) * mechanism.figures_factor(survivors);
        for (group, sum) in common.groups.iter().zip(coordinates) {
            let scale = factor * group.bound / (common.l2_clip_norm * group.share.root());
            let deviation = mechanism.restored_noise_deviation(survivors) * scale;
            let estimate = Estimate { value: *sum as f64 * scale, deviation };
            match group.subject {
                Subject::Loss => released.loss = Some(estimate),
                Subject::Accuracy => released.accuracy = Some(estimate),
                Subject::Clipped => released.clipped = Some(estimate),
            }
        }
        released
    }
}

/// C of the next attempt, from a released share of clipped ones: C exp(eta (share clipped - (1 - quantile))), within the
/// bounds (Andrew et al. 2021, section 2.1, the geometric update).
pub fn next_clip(adaptive: &AdaptiveClip, l2_clip_norm: f64, clipped: f64, quantile: f64, learning_rate: f64) -> f64 {
    let step = learning_rate * (clipped - (1.0 - quantile));
    (l2_clip_norm * step.exp()).clamp(adaptive.l2_clip_norm_min, adaptive.l2_clip_norm_max)
}

/// Most groups beside the model's.
pub(crate) const GROUPS_MAX: usize = 3;
const DOMAIN: &str = "eranos/privacy/groups/v1";
const MILLION: u32 = 1_000_000;
const LOSS_MAX_MIN: f64 = 1e-6;
const LOSS_MAX_MAX: f64 = 1e6;

#[cfg(test)]
mod tests {
    use std::slice;

    use eranos_base::{Entropy, SeededEntropy};

    use super::*;
    use crate::{
        ClientMechanism, Mechanism, Noise, Probability, RecordMechanism, RotationSeed, SiloSum, Weight,
        mechanism::{
            ClientParameters, ClientTarget, GRID, LocalTraining, NoiseTarget, RecordParameters, RecordTarget, design,
            design_client,
        },
        rotation::release,
        update,
    };

    const SEED: RotationSeed = RotationSeed([6; 32]);
    const DISTRIBUTED: NoiseTarget = NoiseTarget::Distributed { epsilon: 8.0 };

    fn all(loss_max: f64, l2_clip_norm: f64) -> Groups {
        let adaptive = AdaptiveClip {
            l2_clip_norm_min: l2_clip_norm / 10.0,
            l2_clip_norm_max: l2_clip_norm * 10.0,
            share: Share::nearest(0.02).expect("a share"),
        };
        let metrics = Metrics::new(loss_max, 0.01).expect("shares");
        Groups::new(Some(metrics), Some(adaptive)).expect("shares that leave something")
    }

    /// Groups that take most of the clip, so that what a vector has too much of shows.
    fn heavy() -> Groups {
        let adaptive = AdaptiveClip {
            l2_clip_norm_min: 0.1,
            l2_clip_norm_max: 10.0,
            share: Share::nearest(0.2).expect("a share"),
        };
        let metrics = Metrics::new(4.0, 0.4).expect("shares");
        Groups::new(Some(metrics), Some(adaptive)).expect("shares that leave something")
    }

    fn metrics(loss_max: f64) -> Groups {
        Groups::new(Some(Metrics::new(loss_max, 0.01).expect("shares")), None).expect("shares that leave something")
    }

    fn records(groups: Groups, l2_clip_norm: f64, n_parameters: u32, noise: NoiseTarget) -> RecordMechanism {
        design(&RecordTarget {
            groups,
            l2_clip_norm,
            n_parameters,
            sampling_probability: Probability::ONE,
            expected_lot: 100,
            record_bound: 200,
            local: None,
            n_max: 4,
            u_min: 3,
            max_colluders: 1,
            max_attempts: 2,
            noise,
            delta: 1e-5,
        })
        .expect("reachable")
    }

    fn clients(groups: Groups, l2_clip_norm: f64, n_parameters: u32, noise: NoiseTarget) -> ClientMechanism {
        design_client(&ClientTarget {
            groups,
            l2_clip_norm,
            n_parameters,
            n_max: 8,
            u_min: 7,
            max_colluders: 1,
            training: LocalTraining { steps: 1, batch_size: 1, learning_rate: 0.1 },
            max_attempts: 10,
            noise,
            delta: 1e-5,
        })
        .expect("reachable")
    }

    fn uniform(len: usize, size: f64, entropy: &mut SeededEntropy) -> Vec<f32> {
        (0..len).map(|_| (size * f64::from(i32::from_le_bytes(entropy.bytes())) / f64::from(i32::MAX)) as f32).collect()
    }

    fn add(sum: &mut SiloSum, gradient: &[f32], loss: f64, accuracy: f64) {
        let figures = Figures { loss, accuracy };
        sum.add_record(gradient, slice::from_ref(&(0..gradient.len())), &figures, Weight::One).expect("a slot");
    }

    /// The integers of one record, groups behind parameters.
    fn integers(m: &RecordMechanism, gradient: &[f32], figures: Figures) -> Vec<i64> {
        let mut sum = SiloSum::new(m);
        add(&mut sum, gradient, figures.loss, figures.accuracy);
        let mut out = vec![0; gradient.len() + m.parameters().groups.len() as usize];
        sum.add_to(0, &mut out);
        out
    }

    fn squared(v: &[i64]) -> u128 {
        v.iter().map(|x| u128::from(x.unsigned_abs()).pow(2)).sum()
    }

    fn added(vectors: &[Vec<u32>], bits: u8) -> Vec<u32> {
        let mut sum = vec![0u32; vectors[0].len()];
        for vector in vectors {
            sum.iter_mut().zip(vector).for_each(|(sum, value)| *sum = sum.wrapping_add(*value));
        }
        sum.iter().map(|value| value & (u32::MAX >> (32 - bits))).collect()
    }

    /// Figures that an adversary would choose.
    const FIGURES: [f64; 14] = [
        0.0,
        1.0,
        0.5,
        -1.0,
        1e-12,
        1e-6,
        1e6,
        1e12,
        -1e12,
        f64::MAX,
        f64::MIN_POSITIVE,
        f64::NAN,
        f64::INFINITY,
        f64::NEG_INFINITY,
    ];

    #[test]
    fn no_figure_makes_a_joined_vector_longer_than_the_clip() {
        let mut entropy = SeededEntropy::new(101);
        for clip in [1e-12_f64, 1e-3, 1.0, 1e6, 1e12] {
            // Few of the bounds hold a power of ten, so that every product is rounded.
            for groups in [metrics(3.7), metrics(1e-6), metrics(1e6), all(4.6, clip.clamp(1e-11, 1e11))] {
                let clip = groups.adaptive_clip.map_or(clip, |adaptive| adaptive.l2_clip_norm_max / 10.0);
                let m = records(groups, clip, 7, NoiseTarget::None);
                for size in [0.0, 1e-12, 1e-6, 1.0, 1.0 + 1e-7, 1e6, 1e12, 1e38] {
                    for (i, loss) in FIGURES.into_iter().enumerate() {
                        let accuracy = FIGURES[(7 * i + 3) % FIGURES.len()];
                        let g = uniform(7, size * clip, &mut entropy);
                        let w = integers(&m, &g, Figures { loss, accuracy });
                        let context = || format!("clip {clip}, size {size}, {loss}, {accuracy}, {groups:?}, seed 101");
                        assert!(squared(&w) <= 1 << 48, "{}", context());
                        // No group takes more than its own share.
                        let root = |share: Share| share.root() * f64::from(GRID);
                        assert!(squared(&w[..7]) as f64 <= root(groups.model).powi(2), "{}", context());
                        for (w, group) in w[7..].iter().zip(groups.iter()) {
                            assert!(*w >= 0 && *w as f64 <= root(group.share), "{}", context());
                        }
                        if loss.is_nan() || accuracy.is_nan() || !g.iter().all(|x| x.is_finite()) {
                            assert_eq!(squared(&w), 0, "{}", context());
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn no_figure_makes_a_clients_joined_vector_longer_than_the_sensitivity() {
        let mut entropy = SeededEntropy::new(103);
        for clip in [1e-11, 1e-3, 1.0, 1e11] {
            for groups in [metrics(3.7), metrics(1e6), all(4.6, clip)] {
                let m = clients(groups, clip, 61, NoiseTarget::None);
                let unused = 64 - u32::from(m.parameters().bits);
                for size in [0.0, 1e-12, 1e-6, 1.0, 1.0 + 1e-7, 1e6, 1e12, 1e100] {
                    for (i, loss) in FIGURES.into_iter().enumerate() {
                        let figures = Figures { loss, accuracy: FIGURES[(7 * i + 3) % FIGURES.len()] };
                        let update: Vec<f64> =
                            uniform(61, 1.0, &mut entropy).iter().map(|x| f64::from(*x) * size * clip).collect();
                        let sent = update::contribute(&update, &figures, &m, &SEED, &mut entropy).expect("sent");
                        let v: Vec<i64> = sent.iter().map(|x| (i64::from(*x) << unused) >> unused).collect();
                        assert!(
                            squared(&v) <= u128::from(m.norm_squared_max()),
                            "clip {clip}, size {size}, {figures:?}, seed 103"
                        );
                        if loss.is_nan() || figures.accuracy.is_nan() {
                            assert_eq!(squared(&v), 0, "{figures:?}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn figures_come_back_as_means_over_the_lot_expected_of_the_survivors() {
        let m = records(heavy(), 1.0, 10, NoiseTarget::None);
        let mut entropy = SeededEntropy::new(105);
        // Two of the four silos that the lot of 100 is expected of; a third of the records is longer than the clip.
        let mut vectors = Vec::new();
        for _ in 0..2 {
            let mut sum = SiloSum::new(&m);
            for i in 0..30 {
                let size = if i % 3 == 0 { 100.0 } else { 0.01 };
                // The loss of the last ones is cut to 4.
                let loss = if i < 20 { 1.5 } else { 1e9 };
                add(&mut sum, &[size; 10], loss, f64::from(u8::from(i < 12)));
            }
            // Whatever is not finite takes no part, in no group.
            add(&mut sum, &[f32::NAN; 10], 2.0, 1.0);
            add(&mut sum, &[0.1; 10], f64::NAN, 1.0);
            vectors.push(sum.contribute(&m, &SEED, &mut entropy).expect("sent"));
        }
        let (mean, released) = release(&added(&vectors, m.parameters().bits), &m, &SEED, 2).expect("a sum");
        // Of the gradients, over the whole lot: those that are longer than the clip at its length.
        let expected = 2.0 * (10.0 * 0.1f64.sqrt() + 20.0 * 0.01) / 100.0;
        assert!(mean.iter().all(|x| (f64::from(*x) - expected).abs() < 1e-3), "{mean:?}, expected {expected}");
        let close = |found: Option<Estimate>, expected: f64| {
            let found = found.expect("released");
            assert!((found.value - expected).abs() < 0.02, "{found:?}, expected {expected}, seed 105");
            assert_eq!(found.deviation, 0.0);
        };
        close(released.loss, (20.0 * 1.5 + 10.0 * 4.0) * 2.0 / 50.0);
        close(released.accuracy, 24.0 / 50.0);
        close(released.clipped, 20.0 / 50.0);

        // Of clients, the mean over those that are there.
        let m = clients(heavy(), 1.0, 1000, NoiseTarget::None);
        let vectors: Vec<Vec<u32>> = (0..7)
            .map(|i| {
                let update = vec![if i < 2 { 1.0 } else { 1e-3 }; 1000];
                let figures = Figures { loss: f64::from(i), accuracy: 0.25 };
                update::contribute(&update, &figures, &m, &SEED, &mut entropy).expect("sent")
            })
            .collect();
        let (mean, released) = release(&added(&vectors, m.parameters().bits), &m, &SEED, 7).expect("a sum");
        let close = |found: f64, expected: f64, error: f64| {
            assert!((found - expected).abs() < error, "{found}, expected {expected}, seed 105");
        };
        // Randomized rounding is all the error there is: half a step in deviation and client.
        let of = |estimate: Option<Estimate>| estimate.expect("released").value;
        let step = m.restoring_factor(7) * (7.0 * 1024.0f64).sqrt() / 2.0;
        close(of(released.loss), (0.0 + 1.0 + 2.0 + 3.0 + 3.0 * 4.0) / 7.0, 6.0 * step * 4.0 / 0.2f64.sqrt());
        close(of(released.accuracy), 0.25, 6.0 * step / 0.2f64.sqrt());
        close(of(released.clipped), 2.0 / 7.0, 6.0 * step / 0.2f64.sqrt());
        // The model's own mean is what it is without groups.
        let sum: f64 = mean.iter().map(|x| f64::from(*x)).sum();
        let expected = (2.0 * 1000.0f64.sqrt() + 5.0) / 7.0;
        close(sum, expected, 6.0 * step * 1000.0f64.sqrt() / 0.4f64.sqrt());
    }

    /// R = sum x^2/(n sigma^2) over what many sums of nothing but noise released of each group.
    #[test]
    fn a_groups_noise_is_what_is_said_of_it() {
        let n = 2000;
        let mut entropy = SeededEntropy::new(107);
        let check = |mechanism: Mechanism, shares: u32, vector: &mut dyn FnMut() -> Vec<u32>| {
            let common = mechanism.common();
            let mut squares = [0.0; GROUPS_MAX];
            let mut deviations = [0.0; GROUPS_MAX];
            let mut of_model = 0.0;
            for _ in 0..n {
                let vectors: Vec<Vec<u32>> = (0..shares).map(|_| vector()).collect();
                let (mean, found) = release(&added(&vectors, common.bits), &mechanism, &SEED, shares).expect("a sum");
                for (i, estimate) in [found.loss, found.accuracy, found.clipped].into_iter().enumerate() {
                    let estimate = estimate.expect("released");
                    squares[i] += estimate.value.powi(2);
                    deviations[i] = estimate.deviation;
                }
                of_model += f64::from(mean[0]).powi(2);
            }
            let tolerance = |ratio: f64| (ratio - 1.0) * (f64::from(n) / 2.0).sqrt();
            for (square, deviation) in squares.into_iter().zip(deviations) {
                let ratio = square / (f64::from(n) * deviation * deviation);
                assert!(tolerance(ratio).abs() < 5.0, "{ratio}, {:?}, seed 107", mechanism.unit());
                // The test can fail: a tenth less noise lies far away.
                assert!(tolerance(ratio / 0.81).abs() > 5.0);
            }
            // z C_j/sqrt(rho_j) over the lot or the cohort, by the multiplier of all those shares.
            let z = mechanism.noise_multiplier(shares) * mechanism.l2_sensitivity();
            let grid = mechanism.restoring_factor(shares) * f64::from(common.d_pad).sqrt();
            for (deviation, group) in deviations.into_iter().zip(common.groups.iter()) {
                let expected = z * grid * mechanism.figures_factor(shares) * group.bound
                    / (common.l2_clip_norm * group.share.root());
                assert!((deviation / expected - 1.0).abs() < 1e-9, "{deviation}, expected {expected}");
            }
            // And the model pays for the groups by the root of what they leave it.
            let ratio = of_model / (f64::from(n) * (z * grid / common.groups.model.root()).powi(2));
            assert!(tolerance(ratio).abs() < 5.0, "{ratio}");
        };
        let m = records(all(4.0, 1.0), 1.0, 13, DISTRIBUTED);
        check(m.clone().into(), 3, &mut || SiloSum::new(&m).contribute(&m, &SEED, &mut entropy).expect("sent"));
        let m = clients(all(4.0, 1.0), 1.0, 13, DISTRIBUTED);
        let nothing = Figures::default();
        check(m.clone().into(), 7, &mut || {
            update::contribute(&[0.0; 13], &nothing, &m, &SEED, &mut entropy).expect("sent")
        });
    }

    #[test]
    fn groups_cost_no_epsilon_no_noise_and_no_bits() {
        let adaptive = all(4.0, 1.0);
        for noise in [DISTRIBUTED, NoiseTarget::None] {
            let alone = records(Groups::default(), 1.0, 1000, noise);
            for groups in [metrics(4.0), adaptive] {
                let with = records(groups, 1.0, 1000, noise);
                let same = RecordParameters { groups: Groups::default(), ..with.parameters().clone() };
                assert_eq!(&same, alone.parameters());
                assert_eq!(with.epsilon(), alone.epsilon());
                assert_eq!(with.sensitivity_squared(), alone.sensitivity_squared());
            }
        }
        for noise in [DISTRIBUTED, NoiseTarget::Local { epsilon: 8.0 }, NoiseTarget::None] {
            let alone = clients(Groups::default(), 1.0, 1000, noise);
            let with = clients(adaptive, 1.0, 1000, noise);
            let same = ClientParameters { groups: Groups::default(), ..with.parameters().clone() };
            assert_eq!((&same, with.epsilon()), (alone.parameters(), alone.epsilon()));
        }
    }

    #[test]
    fn the_encoding_is_golden_and_nothing_that_does_not_add_up_is_read() {
        let m = records(all(4.0, 1.0), 1.0, 1000, DISTRIBUTED);
        let bytes = m.encode();
        assert_eq!(RecordMechanism::decode(&bytes), Ok(m.clone()));
        assert_eq!(Mechanism::decode(&bytes), Ok(m.clone().into()));
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let golden = concat!(
            "220000006572616e6f732f707269766163792f7265636f72642d6d656368616e69736d2f7633",
            "0b0000006469737472696275746564",
            "9c000000180000006572616e6f732f707269766163792f67726f7570732f7631",
            "04000000",
            "10cd0e00", // 970,000 millionths are the model's
            "0100000003",
            "040000006c6f7373080000000000000000001040", // up to 4.0
            "0400000088130000",                         // 5,000 millionths
            "080000006163637572616379080000000000000000",
            "00f03f0400000088130000",
            "07000000636c6970706564080000000000000000",
            "00f03f04000000204e0000",
            "080000009a9999999999b93f080000000000000000002440",
            "08000000000000000000f03f", // C = 1.0
        );
        assert_eq!(&hex(&bytes)[..golden.len()], golden);
        for len in 0..bytes.len() {
            assert!(Mechanism::decode(&bytes[..len]).is_err());
        }
        let of_clients = clients(metrics(4.0), 1.0, 1000, NoiseTarget::Local { epsilon: 8.0 });
        assert_eq!(Mechanism::decode(&of_clients.encode()), Ok(of_clients.clone().into()));

        // Built or read, on either side: what is refused.
        let refused = |change: fn(&mut Groups), says: &str| {
            let mut p = m.parameters().clone();
            change(&mut p.groups);
            let error = RecordMechanism::new(p.clone()).expect_err(says).to_string();
            assert!(error.contains(says), "{error}, expected {says}");
            let old = m.parameters().groups.encode();
            let new = p.groups.encode();
            if old.len() == new.len() {
                let at = bytes.windows(old.len()).position(|window| window == old).expect("there");
                let altered = [&bytes[..at], &new, &bytes[at + old.len()..]].concat();
                assert!(Mechanism::decode(&altered).is_err(), "{says}");
            }
            let mut p = of_clients.parameters().clone();
            change(&mut p.groups);
            assert!(ClientMechanism::new(p).is_err(), "{says}");
        };
        let share = |millionths| Share::from_millionths(millionths).expect("a share");
        assert!(Share::from_millionths(0).is_err() && Share::from_millionths(1_000_001).is_err());
        assert!([f64::NAN, -0.1, 0.0, 1.1].into_iter().all(|rho| Share::nearest(rho).is_err()));
        assert!(Metrics::new(1.0, 1.0).and_then(|all| Groups::new(Some(all), None)).is_err());
        assert_eq!(metrics(4.0).model, share(990_000));
        // More than one all together, so that the joined vector would pass the clip only by being cut again; and less.
        refused(|groups| groups.model = Share::ONE, "sum of the groups' shares in millionths");
        refused(|groups| groups.model = Share(groups.model.0 - 1), "sum of the groups' shares in millionths");
        refused(|groups| groups.metrics = None, "sum of the groups' shares in millionths");
        refused(
            |groups| groups.metrics = groups.metrics.map(|m| Metrics { accuracy: Share(5001), ..m }),
            "sum of the groups' shares in millionths",
        );
        for loss_max in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e7] {
            let p = m.parameters().clone();
            let metrics = p.groups.metrics.map(|metrics| Metrics { loss_max, ..metrics });
            let groups = Groups { metrics, ..p.groups };
            assert!(RecordMechanism::new(RecordParameters { groups, ..p }).is_err(), "{loss_max}");
        }
        // Groups are counted into the padded length.
        assert_eq!(records(metrics(4.0), 1.0, 1022, NoiseTarget::None).parameters().d_pad, 1024);
        assert_eq!(records(metrics(4.0), 1.0, 1023, NoiseTarget::None).parameters().d_pad, 1280);
    }

    #[test]
    fn an_adaptive_clip_stays_within_its_signed_bounds_and_costs_what_the_first_one_cost() {
        let record = Mechanism::from(records(all(4.0, 1.0), 1.0, 1000, DISTRIBUTED));
        let client = Mechanism::from(clients(all(4.0, 1.0), 1.0, 1000, DISTRIBUTED));
        for first in [record, client] {
            for clip in [0.1, 0.5, 10.0] {
                let other = first.with_clip(clip).expect("within the bounds");
                assert_eq!(other.common().l2_clip_norm, clip);
                assert_eq!(Mechanism::decode(&other.encode()), Ok(other.clone()));
                assert_eq!((other.session_bytes(), other.epsilon()), (first.session_bytes(), first.epsilon()));
            }
            for clip in [0.0999, 10.001, f64::NAN, 0.0, f64::INFINITY] {
                assert!(first.with_clip(clip).is_err(), "{clip}");
            }
            let bytes = first.encode();
            // Signed or not, a plan that clips beyond its own bounds is none.
            let one = 1f64.to_le_bytes();
            let at = bytes.windows(8).rposition(|window| window == one).expect("C");
            let beyond = [&bytes[..at], &10.5f64.to_le_bytes(), &bytes[at + 8..]].concat();
            let error = Mechanism::decode(&beyond).expect_err("beyond").to_string();
            assert!(error.contains("l2_clip_norm is 10.5, expected 0.1 to 10"), "{error}");
        }
        let fixed = Mechanism::from(records(metrics(4.0), 1.0, 1000, DISTRIBUTED));
        assert_eq!(fixed.with_clip(0.5), Err(MechanismError::FixedClip));
        assert_eq!(fixed.session_bytes(), fixed.encode());
        assert!(matches!(fixed.common().noise, Noise::Distributed(_)));
    }

    #[test]
    fn the_clip_moves_toward_the_quantile_and_stops_at_its_bounds() {
        let adaptive = all(4.0, 1.0).adaptive_clip.expect("adaptive");
        // Andrew et al., section 2.1: C exp(-eta (share of those that were not clipped - quantile)).
        let next = |clipped: f64| next_clip(&adaptive, 1.0, clipped, 0.7, 0.2);
        assert!((next(0.3) - 1.0).abs() < 1e-15);
        assert!((next(0.8) - (-0.2f64 * (0.2 - 0.7)).exp()).abs() < 1e-15);
        assert!((next(0.0) - (-0.2f64 * (1.0 - 0.7)).exp()).abs() < 1e-15);
        assert_eq!((next(1e6), next(-1e6)), (10.0, 0.1));

        // On norms that are spread from 0 to 8, half of them above 4, it finds 4.
        let norms: Vec<f64> = (0..1000).map(|i| 8.0 * f64::from(i) / 1000.0).collect();
        let mut clip = 0.2;
        for _ in 0..100 {
            let clipped = norms.iter().filter(|norm| **norm > clip).count() as f64 / 1000.0;
            clip = next_clip(&adaptive, clip, clipped, 0.5, 0.2);
        }
        assert!((clip - 4.0).abs() < 0.1, "{clip}");
    }
}
