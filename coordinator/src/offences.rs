//! What a hostile or broken network does to the coordinator: each kind is counted, and said once in a while. A flood
//! fills no log: of each kind one line is written in [`OFFENCE_LOG_EVERY`], with how many were not.

use std::{
    fmt::Display,
    sync::{Mutex, PoisonError},
    time::Instant,
};

use crate::limits::OFFENCE_LOG_EVERY;

/// What somebody did who should not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offence {
    /// Came with an address that may be forged while many handshakes were under way; it was asked to show that it is real.
    UnvalidatedAddress,
    /// Came while as many handshakes were under way as there may be.
    HandshakeFlood,
    /// Did not complete its handshake and Hello in time.
    SlowHandshake,
    /// Has no certificate that is believed.
    Stranger,
    /// Said something else than Hello first, or nothing.
    NoHello,
    /// Has a clock too far from the coordinator's.
    ClockSkew,
    /// Connected too often with one certificate.
    ConnectsTooOften,
    /// Came while there were as many connections as there may be.
    NoRoom,
    /// Sent bytes that are no frame, or one beyond its limits.
    BadFrame,
    /// Sent a request or a body too slowly, or never to its end.
    TooSlow,
    /// Sent a body of another length than it had to have.
    WrongLength,
    /// Sent a body that nobody had asked for.
    UnwantedBody,
    /// Had so many of these on one connection that it was cut.
    Misbehaved,
}

impl Offence {
    /// All of them.
    pub const ALL: [Self; 13] = [
        Self::UnvalidatedAddress,
        Self::HandshakeFlood,
        Self::SlowHandshake,
        Self::Stranger,
        Self::NoHello,
        Self::ClockSkew,
        Self::ConnectsTooOften,
        Self::NoRoom,
        Self::BadFrame,
        Self::TooSlow,
        Self::WrongLength,
        Self::UnwantedBody,
        Self::Misbehaved,
    ];

    /// Its word in the log and in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::UnvalidatedAddress => "unvalidated_address",
            Self::HandshakeFlood => "handshake_flood",
            Self::SlowHandshake => "slow_handshake",
            Self::Stranger => "stranger",
            Self::NoHello => "no_hello",
            Self::ClockSkew => "clock_skew",
            Self::ConnectsTooOften => "connects_too_often",
            Self::NoRoom => "no_room",
            Self::BadFrame => "bad_frame",
            Self::TooSlow => "too_slow",
            Self::WrongLength => "wrong_length",
            Self::UnwantedBody => "unwanted_body",
            Self::Misbehaved => "misbehaved",
        }
    }
}

/// How often each kind was seen.
#[derive(Debug, Default)]
pub struct Offences([Mutex<Seen>; Offence::ALL.len()]);

#[derive(Debug, Default)]
struct Seen {
    n: u64,
    n_unsaid: u64,
    said: Option<Instant>,
}

impl Offences {
    /// Counts an offence of `who`, an address or a client, and says it if nothing was said of its kind for a while.
    pub fn note(&self, offence: Offence, who: &dyn Display, why: &dyn Display) {
        let Some(n_unsaid) = self.count(offence, Instant::now()) else { return };
        tracing::warn!(offence = offence.name(), who = %who, why = %why, n_unsaid, "refused");
    }

    /// How often it was seen.
    pub fn n(&self, offence: Offence) -> u64 {
        self.seen(offence).n
    }

    /// Gives how many were not said before, if this one is to be.
    fn count(&self, offence: Offence, now: Instant) -> Option<u64> {
        let mut seen = self.seen(offence);
        seen.n += 1;
        if seen.said.is_some_and(|said| now.duration_since(said) < OFFENCE_LOG_EVERY) {
            seen.n_unsaid += 1;
            return None;
        }
        seen.said = Some(now);
        Some(std::mem::take(&mut seen.n_unsaid))
    }

    fn seen(&self, offence: Offence) -> std::sync::MutexGuard<'_, Seen> {
        // One for each variant, in their order; a panic leaves nothing half-done.
        self.0[offence as usize].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_counted_and_said_once_in_a_while() {
        let (offences, began) = (Offences::default(), Instant::now());
        assert_eq!(offences.count(Offence::BadFrame, began), Some(0));
        for _ in 0..1000 {
            assert_eq!(offences.count(Offence::BadFrame, began + OFFENCE_LOG_EVERY / 2), None);
        }
        assert_eq!(offences.count(Offence::TooSlow, began), Some(0), "each kind for itself");
        assert_eq!(offences.count(Offence::BadFrame, began + OFFENCE_LOG_EVERY), Some(1000));
        assert_eq!((offences.n(Offence::BadFrame), offences.n(Offence::Stranger)), (1002, 0));
        for (place, offence) in Offence::ALL.into_iter().enumerate() {
            assert_eq!(offence as usize, place);
        }
    }
}
