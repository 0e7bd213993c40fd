//! What the coordinator writes into the ledger: from an attempt as the round saw it to the entry that an auditor reads.

use std::collections::BTreeMap;

use eranos_base::{ClientId, Digest, Entropy, SessionId, TaskId, Timestamp, VerifyingKey};
use eranos_ledger::{
    Attempt as AttemptEntry, BudgetSet, Date, EncodedEntry, Entry, EntryError, Epsilons, Executable, MembershipChange,
    Opening, Origin, Outcome, Participant, Roster, Sharers, Survivors, TaskStated,
};
use eranos_privacy::{Mechanism, RotationSeed};

use crate::{
    round::Attempt,
    status,
    store::Member,
    task::{Statement, Task},
};

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

    /// The program that arranges those to come.
    pub fn executable(&self) -> &Executable {
        &self.executable
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

/// What the ledger says of a task already, as it was said last.
#[derive(Clone, Debug, Default)]
pub struct Said {
    stated: Option<TaskStated>,
    budget: Option<BudgetSet>,
    /// The last day that it names.
    date: Option<Date>,
}

impl Said {
    /// Takes in an entry.
    pub fn take(&mut self, entry: Entry) {
        self.date = self.date.max(match &entry {
            Entry::LogOpened(opened) => Some(opened.date),
            Entry::TaskStated(stated) => Some(stated.date),
            Entry::PrivacyStated(stated) => Some(stated.date),
            _ => None,
        });
        match entry {
            Entry::TaskStated(stated) => self.stated = Some(*stated),
            Entry::BudgetSet(budget) => self.budget = Some(budget),
            _ => {}
        }
    }
}

/// What is to be entered before the next attempt: what the operator says of the task, and what one client may be charged, if
/// the ledger does not say just that.
///
/// # Errors
/// If an entry cannot be encoded.
pub fn statements(
    task: &Task,
    session: SessionId,
    mechanism: &Mechanism,
    executable: &Executable,
    said: Said,
    now: Timestamp,
) -> Result<Vec<EncodedEntry>, EntryError> {
    let Statement { product, curator, purpose, contact } = task.statement.clone();
    let today = Date::of(now);
    let stated = TaskStated {
        task: task.name.clone(),
        session,
        // A clock that was set back does not turn the ledger's.
        date: said.date.map_or(today, |before| today.max(before)),
        executable: executable.clone(),
        product,
        curator,
        purpose,
        contact,
    };
    let client_epsilon_max = task.privacy.client_epsilon_max;
    let budget = BudgetSet {
        task: task.name.clone(),
        session,
        client_epsilon_max,
        client_attempts_max: status::attempts_within(mechanism, client_epsilon_max).into(),
    };
    let mut entries = Vec::new();
    if said.stated.is_none_or(|before| !stated.repeats(&before)) {
        entries.push(Entry::TaskStated(Box::new(stated)).encode()?);
    }
    if said.budget.is_none_or(|before| before != budget) {
        entries.push(Entry::BudgetSet(budget).encode()?);
    }
    Ok(entries)
}

/// Whom the ledger has enrolled, and under which certificate each came last.
#[derive(Clone, Debug)]
pub struct Members {
    origin: Origin,
    /// By client: the certificate that it came with last, and whether that was entered as revoked.
    last: BTreeMap<ClientId, (Vec<u8>, bool)>,
}

impl Members {
    /// As the database has them, in the ledger's order.
    pub fn new(origin: Origin, members: Vec<Member>) -> Self {
        let mut known = Self { origin, last: BTreeMap::new() };
        members.iter().for_each(|member| known.take(member));
        known
    }

    fn take(&mut self, member: &Member) {
        let is_revoked = member.opening.change == MembershipChange::Revoked;
        self.last.insert(member.opening.client.clone(), (member.certificate.clone(), is_revoked));
    }

    /// What is to be entered for clients that were selected, each with its certificate.
    pub fn admitted<'a>(
        &mut self,
        present: impl Iterator<Item = (&'a ClientId, &'a [u8])>,
        entropy: &mut dyn Entropy,
    ) -> Vec<Member> {
        let changes = present.filter_map(|(id, certificate)| match self.last.get(id) {
            None => Some((MembershipChange::Enrolled, id.clone(), certificate.to_vec())),
            Some((last, _)) if last != certificate => {
                Some((MembershipChange::Renewed, id.clone(), certificate.to_vec()))
            }
            Some(_) => None,
        });
        let changes = changes.collect();
        self.enter(changes, entropy)
    }

    /// What is to be entered for clients whose last certificate is revoked by now.
    pub fn revoked(&mut self, is_revoked: impl Fn(&[u8]) -> bool, entropy: &mut dyn Entropy) -> Vec<Member> {
        let changes = self.last.iter().filter(|(_, (certificate, entered))| !entered && is_revoked(certificate));
        let changes =
            changes.map(|(id, (certificate, _))| (MembershipChange::Revoked, id.clone(), certificate.clone()));
        let changes = changes.collect();
        self.enter(changes, entropy)
    }

    fn enter(&mut self, changes: Vec<(MembershipChange, ClientId, Vec<u8>)>, entropy: &mut dyn Entropy) -> Vec<Member> {
        let member = |(change, client, certificate): (MembershipChange, ClientId, Vec<u8>)| {
            let mut salt = [0; 32];
            entropy.fill(&mut salt);
            let opening =
                Opening { change, origin: self.origin.clone(), client, certificate: Digest::of(&certificate), salt };
            Member { opening, certificate }
        };
        let mut members: Vec<Member> = changes.into_iter().map(member).collect();
        // An order of names would tell what the commitments hide.
        members.sort_by_key(|member| member.opening.commitment());
        members.iter().for_each(|member| self.take(member));
        members
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

#[cfg(test)]
mod tests {
    use eranos_base::SeededEntropy;

    use super::*;

    #[test]
    fn a_client_is_entered_once_again_with_another_certificate_and_when_it_is_revoked() {
        let id = |name: &str| ClientId::new(&"example.org".parse().expect("a name"), name).expect("a name");
        let (a, b) = (id("a"), id("b"));
        let mut entropy = SeededEntropy::new(7);
        let mut members = Members::new("ledger.example.org".parse().expect("an origin"), Vec::new());
        let mut all = Vec::new();
        let kept = |changes: Vec<Member>, all: &mut Vec<Member>| {
            assert!(changes.is_sorted_by_key(|member| member.opening.commitment()), "no order of names");
            all.extend(changes.iter().cloned());
            changes.into_iter().map(|one| (one.opening.change, one.opening.client)).collect::<Vec<_>>()
        };
        let first: [(&ClientId, &[u8]); 2] = [(&a, b"a1"), (&b, b"b1")];
        assert_eq!(kept(members.admitted(first.into_iter(), &mut entropy), &mut all).len(), 2);
        assert!(members.admitted(first.into_iter(), &mut entropy).is_empty(), "nothing has changed");
        let renewed: [(&ClientId, &[u8]); 2] = [(&a, b"a2"), (&b, b"b1")];
        let renewed = kept(members.admitted(renewed.into_iter(), &mut entropy), &mut all);
        assert_eq!(renewed, [(MembershipChange::Renewed, a.clone())]);
        // What is revoked is the certificate that it came with last, and that is said once.
        assert!(members.revoked(|certificate| certificate == b"a1", &mut entropy).is_empty());
        let revoked = kept(members.revoked(|certificate| certificate == b"a2", &mut entropy), &mut all);
        assert_eq!(revoked, [(MembershipChange::Revoked, a.clone())]);
        assert!(members.revoked(|certificate| certificate == b"a2", &mut entropy).is_empty());
        // A coordinator that starts again knows all that.
        let mut again = Members::new(members.origin.clone(), all.clone());
        assert!(again.revoked(|certificate| certificate == b"a2", &mut entropy).is_empty());
        let back: [(&ClientId, &[u8]); 2] = [(&a, b"a3"), (&b, b"b1")];
        let back = kept(again.admitted(back.into_iter(), &mut entropy), &mut all);
        assert_eq!(back, [(MembershipChange::Renewed, a)]);
        let mut salts: Vec<[u8; 32]> = all.iter().map(|member| member.opening.salt).collect();
        salts.sort_unstable();
        salts.dedup();
        assert_eq!(salts.len(), all.len(), "each has a salt of its own");
    }
}
