//! The least epsilon of a schedule fixed in advance: privacy loss distributions, composed by Fourier transform, each
//! approximation on the side of caution.
//!
//! For a pair (P, Q) of outputs with and without one record, the loss is ln(P/Q) under P. Composition adds independent
//! losses, and delta(epsilon) = E[max(0, 1 - exp(epsilon - loss))] (Koskela, Jaelkoe and Honkela 2020; Sommer, Meiser and
//! Mohammadi 2019). Four things are approximated, none of them in the mechanism's favour:
//!
//! 1. The grid. The mass of P and of Q between two neighbours of the grid goes to these two so that both are kept: the
//!    curve delta over exp(epsilon) becomes its chords, which lie above it ("connect the dots", Doroshenko, Ghazi,
//!    Kamath, Kumar and Manurangsi 2022, section 4).
//! 2. The tails. A loss above the grid counts as infinite, one below it as the grid's least.
//! 3. The circle. A transform of N points folds the sum modulo N steps. The distribution is first tilted by exp(lambda
//!    loss), which moves its bulk to where epsilon is and makes all that is folded small (Gruebel and Hermesmeier 1999).
//!    What is folded upwards only adds; what lies above the window is bounded by Chernoff and added.
//! 4. Rounding. The transform's error (`fft::relative_error`) is bounded in L2 norm, weighed with the norm of what
//!    multiplies it, and added; the tilt makes it relative to delta, however small that is.

use super::{
    Event,
    fft::{self, Complex, Fft},
    rdp::RdpCurve,
    special::{INTERVAL_ERROR, normal_between},
    tau,
};

/// Epsilon at `delta` of all of `events`, each with how often it is released; infinite where nothing can be claimed, as
/// for cohorts of fixed size. Under add or remove: the larger of the two directions, each composed by itself.
///
/// Cost: transforms of up to 2^21 points, some milliseconds to a second.
pub fn epsilon(events: &[(Event, u64)], delta: f64) -> f64 {
    if !(delta > 0.0 && delta < 1.0) {
        return f64::INFINITY;
    }
    let Some(schedule) = Schedule::new(events) else { return f64::INFINITY };
    if schedule.terms.is_empty() {
        return schedule.shift;
    }
    let curve = schedule.rdp();
    let (estimate, lambda) = (curve.epsilon(delta), f64::from(curve.best_order(delta)) - 1.0);
    let step = schedule.step(estimate, lambda);
    let found = schedule.epsilon(delta, lambda, step);
    // Rare but large losses make the estimate, and the grid, many times too coarse. Both results are bounds.
    let finer = if found < REFINED_BELOW * estimate { schedule.step(found, lambda) } else { step };
    let refined = if finer < step { schedule.epsilon(delta, lambda, finer) } else { found };
    found.min(refined) + schedule.shift
}

/// Events as Gaussians over Poisson samples, and what in epsilon that leaves out.
struct Schedule {
    terms: Vec<(Pair, u64)>,
    n_releases: f64,
    shift: f64,
}

impl Schedule {
    /// None if nothing can be claimed.
    fn new(events: &[(Event, u64)]) -> Option<Self> {
        let mut schedule = Self { terms: Vec::new(), n_releases: 0.0, shift: 0.0 };
        for (event, n) in events.iter().filter(|(_, n)| *n > 0) {
            let (q, z) = match *event {
                Event::PoissonGaussian { sampling_probability, noise_multiplier } => {
                    (sampling_probability, noise_multiplier)
                }
                Event::DiscreteGaussianSum {
                    sampling_probability,
                    l2_sensitivity,
                    share_variance,
                    shares,
                    dimension,
                    ..
                } => {
                    let distance = tau(share_variance, shares) + SMOOTHING_DISTANCE;
                    schedule.shift += *n as f64 * 2.0 * f64::from(dimension) * distance;
                    let variance = f64::from(shares) * share_variance - SMOOTHING_VARIANCE;
                    (sampling_probability, variance.max(0.0).sqrt() / l2_sensitivity)
                }
                Event::FixedSizeGaussian { .. } | Event::NonPrivate => return None,
            };
            if !((0.0..=1.0).contains(&q) && z > 0.0 && z.is_finite()) {
                return None;
            }
            if q > 0.0 {
                schedule.terms.push((Pair { q, z }, *n));
                schedule.n_releases += *n as f64;
            }
        }
        (schedule.shift < f64::INFINITY).then_some(schedule)
    }

    /// The Renyi divergence of the Gaussians.
    fn rdp(&self) -> RdpCurve {
        let mut curve = RdpCurve::default();
        for (pair, n) in &self.terms {
            let event = Event::PoissonGaussian { sampling_probability: pair.q, noise_multiplier: pair.z };
            curve.add(&event.rdp(), *n);
        }
        curve
    }

    /// The step of the grid: chords instead of the curve cost n (lambda + 1) step^2/8 of epsilon, to second order, and
    /// that is [`GRID_ERROR`] of `epsilon`.
    fn step(&self, epsilon: f64, lambda: f64) -> f64 {
        let cost = |step: f64| self.n_releases * (lambda + 1.0) * step * step / 8.0;
        let step = STEP_UNIT * (GRID_ERROR * epsilon.max(EPSILON_MIN) / cost(STEP_UNIT)).sqrt();
        if step < STEP_UNIT && cost(STEP_UNIT) <= COST_MAX {
            return STEP_UNIT;
        }
        // Grids that nest: a coarser one never gives less.
        STEP_UNIT * (step / STEP_UNIT).log2().floor().exp2()
    }

    /// The larger epsilon of the two directions, on a grid of at least `step`.
    fn epsilon(&self, delta: f64, lambda: f64, mut step: f64) -> f64 {
        if !step.is_finite() {
            return f64::INFINITY;
        }
        // Without sampling the two pairs are mirror images.
        let mirrored = self.terms.iter().all(|(pair, _)| pair.q == 1.0);
        let directions: &[Direction] =
            if mirrored { &[Direction::Remove] } else { &[Direction::Remove, Direction::Add] };
        for _ in 0..DOUBLINGS_MAX {
            let composed: Option<Vec<Composed>> =
                directions.iter().map(|direction| self.composed(*direction, delta, lambda, step)).collect();
            if let Some(composed) = composed {
                return composed.iter().map(|composed| composed.epsilon(delta)).fold(0.0, f64::max);
            }
            // Too long: a coarser grid is less exact, never less cautious.
            step *= 2.0;
        }
        f64::INFINITY
    }

    /// The folded distribution of the total loss, tilted by at most `lambda_max` (the best Renyi order less 1); none if a
    /// length would exceed its bound.
    fn composed(&self, direction: Direction, delta: f64, lambda_max: f64, step: f64) -> Option<Composed> {
        let tail = INFINITE_SHARE * delta / self.n_releases;
        let losses: Vec<(Losses, u64)> = self
            .terms
            .iter()
            .map(|(pair, n)| Some((Losses::new(*pair, direction, step, tail)?, *n)))
            .collect::<Option<_>>()?;
        let log_moment =
            |lambda: f64| losses.iter().map(|(losses, n)| losses.log_moment(lambda, step) * *n as f64).sum::<f64>();
        // Renyi orders end at 2; a large epsilon is found at smaller ones.
        let halvings = if lambda_max > 1.0 { 0 } else { HALVINGS };
        let bound = |lambda: f64| (log_moment(lambda) - delta.ln()) / lambda;
        let lambda = (0..=halvings)
            .map(|i| lambda_max * (-0.5 * f64::from(i)).exp2())
            .min_by(|a, b| bound(*a).total_cmp(&bound(*b)))
            .unwrap_or(lambda_max);
        let moment = log_moment(lambda);
        let infinite = losses.iter().map(|(losses, n)| losses.infinite * *n as f64).sum();

        // The window, in losses. Chernoff, for the mass P: above `high` lies less than exp(-ABOVE) delta. For the tilted mass:
        // below `low` less than exp(-BELOW), above `high` so little that it may be folded to where it weighs most.
        let low = (moment - BELOW) / lambda;
        let folded = ABOVE - delta.ln() + moment.clamp(0.0, BELOW);
        let high = (1..=TILTS)
            .map(|i| lambda * f64::from(i) / f64::from(TILTS))
            .map(|more| (log_moment(lambda + more) - moment + folded) / more)
            .fold(f64::INFINITY, f64::min)
            .max((moment - delta.ln() + ABOVE) / lambda);
        let bottom = (low / step).floor();
        let len = ((high / step).ceil() - bottom).max(2.0);
        if !(len <= POINTS_MAX as f64 && bottom.abs() < INDEX_MAX) {
            return None;
        }
        let len = (len as usize).next_power_of_two();
        let fft = Fft::new(len);
        let mut product = vec![Complex::ONE; len];
        for (losses, n) in &losses {
            let mut folded = vec![Complex::ZERO; len];
            let normalizer = losses.log_moment(lambda, step);
            for (index, log_mass) in losses.tilted(lambda, step) {
                folded[index.rem_euclid(len as i64) as usize].re += (log_mass - normalizer).exp();
            }
            fft.forward(&mut folded);
            for (product, value) in product.iter_mut().zip(folded) {
                *product = *product * value.power(*n);
            }
        }
        fft.inverse(&mut product);
        let bottom = bottom as i64;
        let tilted =
            (0..len as i64).map(|i| product[(bottom + i).rem_euclid(len as i64) as usize].re.max(0.0)).collect();

        // In L2 norm, of probabilities whose norm is at most 1: each factor's transform and power, and the inverse.
        let n = self.n_releases;
        let rounding = n * (fft::relative_error(len) + 8.0 * f64::EPSILON) + fft::relative_error(len);
        // Cauchy and Schwarz: the weights exp(-lambda l) fall geometrically, from each point on.
        let rounding = rounding / (-(-2.0 * lambda * step).exp_m1()).sqrt();
        // A relative error of every mass is one of delta, n times.
        let inflation = 1.0 + n * 2.0 * INTERVAL_ERROR + len as f64 * f64::EPSILON;
        Some(Composed { step, lambda, log_moment: moment, bottom, tilted, infinite, rounding, inflation })
    }
}

/// The outputs of a Gaussian over a Poisson sample, by their component along the record: N(0, z^2) without it, the
/// mixture (1 - q) N(0, z^2) + q N(1, z^2) with it; this pair dominates every other (Zhu, Dong and Wang
/// 2022, "Optimal Accounting of Differential Privacy via Characteristic Function", on amplification by sampling).
#[derive(Clone, Copy, Debug)]
struct Pair {
    q: f64,
    z: f64,
}

/// Which of the two is P.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Direction {
    /// P has the record.
    Remove,
    /// Q has it.
    Add,
}

impl Pair {
    /// Where ln(mixture/Gaussian) is `loss`: x = 1/2 + z^2 ln((e^loss - (1 - q))/q), -infinity where it never is.
    fn output_at(self, loss: f64) -> f64 {
        let Self { q, z } = self;
        let log_odds = if q == 1.0 {
            loss
        } else if loss > 30.0 {
            loss - q.ln() + ((q - 1.0) * (-loss).exp()).ln_1p()
        } else {
            (loss.exp_m1() / q).max(-1.0).ln_1p()
        };
        0.5 + z * z * log_odds
    }

    /// ln(mixture/Gaussian) at the output x.
    fn loss_at(self, x: f64) -> f64 {
        let Self { q, z } = self;
        let exponent = (x - 0.5) / (z * z);
        if q == 1.0 {
            exponent
        } else if exponent > 30.0 {
            exponent + q.ln() + ((1.0 - q) / q * (-exponent).exp()).ln_1p()
        } else {
            (q * exponent.exp_m1()).ln_1p()
        }
    }

    /// The probabilities under P and Q of outputs between two, given in the order of the losses of `direction`.
    fn between(self, direction: Direction, low: f64, high: f64) -> (f64, f64) {
        let Self { q, z } = self;
        let (a, b) = if direction == Direction::Remove { (low, high) } else { (high, low) };
        let without = normal_between(a / z, b / z);
        let with = (1.0 - q) * without + q * normal_between((a - 1.0) / z, (b - 1.0) / z);
        if direction == Direction::Remove { (with, without) } else { (without, with) }
    }

    /// The outputs beyond which less than `tail` lies on either side, under both.
    fn outputs(self, tail: f64) -> (f64, f64) {
        // P[N(0, 1) > t] <= exp(-t^2/2).
        let t = (-2.0 * tail.ln()).max(0.0).sqrt() * self.z;
        (-t, 1.0 + t)
    }
}

/// One release's losses on the grid.
struct Losses {
    /// The index of the first mass: its loss over the step.
    first: i64,
    /// The logarithm of each mass, from there on; -infinity where there is none.
    log_masses: Vec<f64>,
    /// The mass of P whose loss counts as infinite.
    infinite: f64,
}

impl Losses {
    /// None if the grid would be too long.
    fn new(pair: Pair, direction: Direction, step: f64, tail: f64) -> Option<Self> {
        let (low, high) = pair.outputs(tail);
        let (low, high) = (pair.loss_at(low), pair.loss_at(high));
        let (low, high) = if direction == Direction::Remove { (low, high) } else { (-high, -low) };
        let (first, last) = ((low / step).floor(), (high / step).ceil());
        if !(last - first < POINTS_MAX as f64 && first.abs().max(last.abs()) < INDEX_MAX) {
            return None;
        }
        let (first, last) = (first as i64, last as i64);
        let mut masses = vec![0.0; (last - first) as usize + 1];
        let loss = |index: i64| index as f64 * step;
        let sign = if direction == Direction::Remove { 1.0 } else { -1.0 };
        let output_at = |index: i64| pair.output_at(sign * loss(index));
        let mut output = output_at(first);
        masses[0] = pair.between(direction, sign * f64::NEG_INFINITY, output).0;
        // How much the upper neighbour's share may err, which is always given to it.
        let share_error = 4.0 * INTERVAL_ERROR / -(-step).exp_m1();
        for (i, index) in (first..last).enumerate() {
            let (p, q) = {
                let next = output_at(index + 1);
                pair.between(direction, std::mem::replace(&mut output, next), next)
            };
            if p > 0.0 {
                // The masses p_a + p_b = p and p_a exp(-a) + p_b exp(-b) = q at the neighbours a and b = a + step.
                let upper = (1.0 - loss(index).exp() * q / p) / -(-step).exp_m1();
                let upper = (upper + share_error).clamp(0.0, 1.0);
                masses[i] += (1.0 - upper) * p;
                masses[i + 1] += upper * p;
            }
        }
        let infinite = pair.between(direction, output, sign * f64::INFINITY).0;
        Some(Self { first, log_masses: masses.into_iter().map(f64::ln).collect(), infinite })
    }

    /// The index and the logarithm of each tilted mass.
    fn tilted(&self, lambda: f64, step: f64) -> impl Iterator<Item = (i64, f64)> {
        let tilt = lambda * step;
        (self.first..).zip(&self.log_masses).map(move |(index, log)| (index, log + tilt * index as f64))
    }

    /// ln E[exp(lambda loss)], over finite losses.
    fn log_moment(&self, lambda: f64, step: f64) -> f64 {
        let max = self.tilted(lambda, step).map(|(_, log)| log).fold(f64::NEG_INFINITY, f64::max);
        max + self.tilted(lambda, step).map(|(_, log)| (log - max).exp()).sum::<f64>().ln()
    }
}

/// The distribution of the total loss: at the loss (bottom + i) step, mass tilted[i] exp(log_moment - lambda loss).
struct Composed {
    step: f64,
    lambda: f64,
    log_moment: f64,
    bottom: i64,
    tilted: Vec<f64>,
    infinite: f64,
    /// What rounding may add to delta at a loss l, over exp(log_moment - lambda l).
    rounding: f64,
    /// By what factor masses may be too small.
    inflation: f64,
}

impl Composed {
    /// The least epsilon whose delta, with every bound added, is at most `delta`.
    fn epsilon(&self, delta: f64) -> f64 {
        let loss = |i: usize| (self.bottom + i as i64) as f64 * self.step;
        let untilt = |loss: f64| (self.log_moment - self.lambda * loss).exp();
        let above_window = untilt(loss(self.tilted.len()));
        let extra = |loss: f64| self.infinite + above_window + self.rounding * untilt(loss);
        if extra(loss(self.tilted.len())) > delta {
            return f64::INFINITY;
        }
        // Going down: the mass above a loss, and the same weighed with exp(loss - its own).
        let (mut mass, mut weighed) = (0.0, 0.0);
        let decay = (-self.step).exp();
        for (i, tilted) in self.tilted.iter().enumerate().rev() {
            let here = tilted * untilt(loss(i)) * self.inflation;
            (mass, weighed) = (mass + here, weighed + here);
            // `weighed` belongs to this loss; one step lower it has decayed.
            let (low, weighed_low) = (loss(i) - self.step, weighed * decay);
            // Rounding counts as at the lower end, where it is larger.
            let left = delta - extra(low);
            if mass - weighed_low > left || low <= 0.0 {
                // In between, delta = mass - weighed_low exp(epsilon - low).
                let within = if left > 0.0 { ((mass - left).max(weighed_low) / weighed_low).ln() } else { self.step };
                return (low + within.min(self.step)).max(0.0);
            }
            weighed = weighed_low;
        }
        loss(0).max(0.0)
    }
}

/// A discrete Gaussian is a continuous one of a variance that is less by this, rounded at random by a discrete Gaussian of
/// this variance, up to factors of exp([`SMOOTHING_DISTANCE`]) a coordinate (Peikert 2010, "An Efficient and Parallel Gaussian
/// Sampler for Lattices", on convolutions); rounding reveals nothing, so that the continuous one's epsilon holds.
const SMOOTHING_VARIANCE: f64 = 4.0;
const SMOOTHING_DISTANCE: f64 = 3e-34;
/// What chords instead of the curve may cost, over epsilon.
const GRID_ERROR: f64 = 1e-5;
/// The part of delta that losses beyond the grid may have.
const INFINITE_SHARE: f64 = 1e-7;
/// Logarithms, negated, of the parts that may lie below and above the window.
const BELOW: f64 = 23.0;
const ABOVE: f64 = 16.0;
/// How often the tilt is divided by the square root of 2.
const HALVINGS: u32 = 16;
/// How many exponents are tried for the bound on what is folded.
const TILTS: u32 = 8;
/// Below this part of the estimate the grid is chosen again.
const REFINED_BELOW: f64 = 0.5;
/// How often the grid is made coarser.
const DOUBLINGS_MAX: u32 = 12;
/// The longest grid and transform.
const POINTS_MAX: usize = 1 << 21;
/// Indices of the grid stay exact in an `f64`.
const INDEX_MAX: f64 = 4_503_599_627_370_496.0;
/// The grid is chosen as for no less.
const EPSILON_MIN: f64 = 1e-3;
/// Every step is this times a power of two. It is also the step of other accountants: the same grid gives the same figures.
const STEP_UNIT: f64 = 1e-4;
/// Up to this cost in epsilon no grid is finer than the unit.
const COST_MAX: f64 = 5e-3;
