//! What both sides of a secure sum know from the signed plan.

use eranos_base::{Context, Digest, RoundNumber, SessionId, TaskId, TrustDomain, limits::VECTOR_LEN_MAX};

use crate::{Bits, GraphKind};

/// Why a vector cannot be summed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("vector of {dimension} values, expected 1 to {VECTOR_LEN_MAX}")]
pub struct DimensionError {
    /// The number of values.
    pub dimension: usize,
}

/// The number of values of a vector: 1 to [`VECTOR_LEN_MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dimension(usize);

impl Dimension {
    /// The dimension of a vector of `dimension` values.
    ///
    /// # Errors
    /// If there are none or too many.
    pub const fn new(dimension: usize) -> Result<Self, DimensionError> {
        match dimension {
            1..=VECTOR_LEN_MAX => Ok(Self(dimension)),
            _ => Err(DimensionError { dimension }),
        }
    }

    /// The number of values.
    pub const fn len(self) -> usize {
        self.0
    }

    /// Never: a vector has at least one value.
    pub const fn is_empty(self) -> bool {
        false
    }
}

/// What a secure sum takes from the signed plan. The client has held it against its policy before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    /// The session.
    pub session: SessionId,
    /// The round.
    pub round: RoundNumber,
    /// SHA-256 of the plan.
    pub plan: Digest,
    /// The trust domain whose certificate authority names the clients.
    pub trust_domain: TrustDomain,
    /// The task, for which statement keys are certified.
    pub task: TaskId,
    /// Who shares keys with whom.
    pub graph: GraphKind,
    /// f: identities that may work with the coordinator, an absolute number.
    pub max_colluders: usize,
    /// The least number of survivors.
    pub u_min: usize,
    /// The largest roster for which `bits` is enough.
    pub n_max: usize,
    /// The number of values of a vector.
    pub dimension: Dimension,
    /// b: the sum is taken modulo 2^b.
    pub bits: Bits,
}

impl Terms {
    /// The context of the round before its roster.
    pub fn context(&self) -> Context {
        Context::new(self.session, self.round, self.plan)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vector_has_between_one_value_and_the_limit() {
        assert_eq!(Dimension::new(0), Err(DimensionError { dimension: 0 }));
        assert_eq!(Dimension::new(1).map(Dimension::len), Ok(1));
        assert_eq!(Dimension::new(VECTOR_LEN_MAX).map(Dimension::len), Ok(VECTOR_LEN_MAX));
        assert!(Dimension::new(VECTOR_LEN_MAX + 1).is_err());
    }
}
