//! Why parameters are no mechanism.

use eranos_base::encoding::DecodeError;

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
