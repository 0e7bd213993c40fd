//! How long a phase waits for clients that vanished: by how long such phases took lately, within the task's bounds.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use crate::{round::Phase, task::Schedule};

/// What the phases of a task's rounds took.
#[derive(Clone, Debug)]
pub struct Pace {
    least: Duration,
    most: Duration,
    took: BTreeMap<Phase, VecDeque<Duration>>,
}

impl Pace {
    /// Nothing is known yet: every phase waits as long as the task allows.
    pub fn new(schedule: &Schedule) -> Self {
        Self {
            least: Duration::from_millis(schedule.phase_wait_min_ms.into()),
            most: Duration::from_millis(schedule.phase_timeout_ms.into()),
            took: BTreeMap::new(),
        }
    }

    /// A phase took so long, and did not end because its time was over.
    pub fn note(&mut self, phase: Phase, took: Duration) {
        let history = self.took.entry(phase).or_default();
        history.push_back(took);
        if history.len() > HISTORY_LEN_MAX {
            history.pop_front();
        }
    }

    /// How long a phase waits for clients that vanished: 5 times its median so far, within the task's bounds.
    pub fn wait(&self, phase: Phase) -> Duration {
        let Some(history) = self.took.get(&phase).filter(|history| history.len() >= HISTORY_LEN_MIN) else {
            return self.most;
        };
        let mut sorted: Vec<Duration> = history.iter().copied().collect();
        sorted.sort();
        let median = sorted.get(sorted.len() / 2).copied().unwrap_or(self.most);
        (5 * median).clamp(self.least, self.most)
    }

    /// The waits of all phases, in the order of [`Phase::ALL`].
    pub fn waits(&self) -> [Duration; Phase::ALL.len()] {
        Phase::ALL.map(|phase| self.wait(phase))
    }
}

/// Durations kept of each phase.
const HISTORY_LEN_MAX: usize = 32;
/// Durations needed before their median says anything.
const HISTORY_LEN_MIN: usize = 3;
