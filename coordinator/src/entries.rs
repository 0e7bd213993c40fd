//! What the coordinator writes into the ledger: from an attempt as the round saw it to the entry that an auditor reads.

use std::collections::BTreeMap;

use eranos_base::{Digest, TaskId, VerifyingKey};
use eranos_ledger::{
    Attempt as AttemptEntry, EncodedEntry, Entry, EntryError, Epsilons, Executable, Outcome, Participant, Roster,
    Sharers, Survivors,
};
use eranos_privacy::RotationSeed;

use crate::round::Attempt;

/// What the ledger says of the attempts so far.
#[derive(Clone, Debug)]
pub struct Attempts {
    executable: Executable,
    n_attempts: u64,
    /// By pseudonym: in how many rosters it has stood.
    participants: BTreeMap<VerifyingKey, u64>,
}

impl Attempts {
    /// No attempts yet.
    pub fn new(executable: Executable) -> Self {
        Self { executable, n_attempts: 0, participants: BTreeMap::new() }
    }

    /// Counts what an entry of `task` says; other entries are passed over.
    pub fn count(&mut self, entry: &Entry, task: &TaskId) {
        let Entry::Attempt(attempt) = entry else { return };
        if attempt.task != *task {
            return;
        }
        self.n_attempts = attempt.attempts;
        for participant in attempt.roster.iter().flat_map(|roster| &roster.participants) {
            self.participants.insert(participant.pseudonym, participant.attempts);
        }
    }

    /// How many attempts are in the ledger.
    pub fn n_attempts(&self) -> u64 {
        self.n_attempts
    }

    /// The entry of the next attempt.
    ///
    /// # Errors
    /// If its parts contradict each other.
    pub fn entry(&self, attempt: &Attempt, outcome: Outcome) -> Result<EncodedEntry, EntryError> {
        let plan = &attempt.plan;
        let n_attempts = self.n_attempts + 1;
        let roster = attempt.roster.as_ref().map(|(digest, pseudonyms)| Roster {
            digest: *digest,
            participants: pseudonyms.iter().map(|pseudonym| self.participant(pseudonym)).collect(),
            sharers: attempt.sharers.map(|root| Sharers {
                root,
                survivors: attempt
                    .survivors
                    .as_ref()
                    .map(|bitmap| Survivors { bitmap: bitmap.clone(), signatures: attempt.quorum.clone() }),
            }),
        });
        let entry = AttemptEntry {
            task: plan.task.clone(),
            session: plan.session,
            round: plan.round,
            attempts: n_attempts,
            plan: plan.digest(),
            plan_signature: attempt.plan_signature,
            executable: self.executable.clone(),
            mechanism: plan.mechanism.clone(),
            graph: plan.graph,
            ready_slot_ms: plan.ready_slot_ms,
            phase_timeout_ms: plan.phase_timeout_ms,
            rotation_seed: RotationSeed(plan.rotation_seed),
            weights_before: plan.checkpoint,
            roster,
            outcome,
            epsilons: Epsilons::promised(&plan.mechanism, n_attempts),
        };
        Entry::Attempt(Box::new(entry)).encode()
    }

    fn participant(&self, pseudonym: &VerifyingKey) -> Participant {
        let before = self.participants.get(pseudonym).copied().unwrap_or_default();
        Participant { pseudonym: *pseudonym, attempts: before + 1 }
    }
}

/// The outcome of an attempt that gave no result.
pub fn aborted(attempt: &Attempt) -> Outcome {
    if attempt.revealed { Outcome::AbortedAfterReveal } else { Outcome::AbortedBeforeReveal }
}

/// This program, as it reports itself.
pub fn executable() -> Executable {
    let digest = std::env::current_exe().and_then(std::fs::read).map_or(Digest::ZERO, |bytes| Digest::of(&bytes));
    let version = env!("CARGO_PKG_VERSION").parse();
    Executable { sha256: digest, version: version.unwrap_or_else(|_| unreachable!("a package version is a version")) }
}
