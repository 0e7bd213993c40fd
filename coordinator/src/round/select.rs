//! `select`: check-ins are taken until the cohort is full, or until enough have come and the wait is over.

use std::{collections::BTreeMap, sync::Arc};

use eranos_base::{ClientId, Entropy, Timestamp};
use eranos_privacy::Promise;
use eranos_wire::messages::select::{ComeBack, PLAN_VERSION};

use super::{Action, Event, Message, Note, Peer, Phase, Round, RoundSpec, configure, out_of_phase};

/// Check-ins arrive.
pub struct Select {
    spec: Arc<RoundSpec>,
    began: Timestamp,
    deadline: Timestamp,
    cohort: BTreeMap<ClientId, Peer>,
}

impl Select {
    pub(super) fn new(spec: Arc<RoundSpec>, now: Timestamp) -> Self {
        let deadline = now + spec.wait(Phase::Select);
        Self { spec, began: now, deadline, cohort: BTreeMap::new() }
    }

    /// When the wait is over.
    pub fn deadline(&self) -> Timestamp {
        self.deadline
    }

    pub(super) fn handle(mut self, event: Event, now: Timestamp, entropy: &mut dyn Entropy) -> (Round, Vec<Action>) {
        let parameters = self.spec.mechanism.common();
        let (n_max, u_min) = (usize::from(parameters.n_max), usize::from(parameters.u_min));
        let mut actions = Vec::new();
        match event {
            Event::Message { from, message: Message::CheckIn(check_in) } => {
                if check_in.task != self.spec.task {
                    let reason = format!("this coordinator has no task {}", check_in.task);
                    actions.push(self.spec.not_admitted(&from.id, ComeBack::Never, &reason));
                } else if check_in.plan_version != PLAN_VERSION {
                    let reason = other_version(check_in.plan_version, PLAN_VERSION);
                    actions.push(self.spec.not_admitted(&from.id, ComeBack::Never, &reason));
                } else if self.spec.spent.contains(&from.id) {
                    let reason = "the epsilon that this task allows one client is spent";
                    actions.push(self.spec.not_admitted(&from.id, ComeBack::Spent, reason));
                } else if self.cohort.len() >= n_max && !self.cohort.contains_key(&from.id) {
                    let when = ComeBack::AfterMs(COME_BACK_MS);
                    actions.push(self.spec.not_admitted(&from.id, when, "the cohort is full"));
                } else {
                    self.cohort.insert(from.id.clone(), from);
                }
            }
            Event::Message { from, message: Message::Abort(_) } => {
                self.cohort.remove(&from.id);
            }
            Event::Message { from, .. } => {
                self.cohort.remove(&from.id);
                actions.push(out_of_phase(&from, Phase::Select));
            }
            Event::Wake | Event::Settled | Event::Stop { .. } => {}
        }
        let timed_out = now >= self.deadline;
        if self.cohort.len() == n_max || (timed_out && self.cohort.len() >= u_min) {
            let took = now.since(self.began);
            actions.push(Action::Note(Note::PhaseOver { phase: Phase::Select, took, timed_out }));
            return configure::configure(self.spec, self.cohort, now, entropy, actions);
        }
        if timed_out {
            self.deadline = now + self.spec.wait(Phase::Select);
            actions.push(Action::WakeAt(self.deadline));
        }
        (Round::Select(self), actions)
    }

    pub(super) fn spec(&self) -> &RoundSpec {
        &self.spec
    }

    /// Who has checked in.
    pub fn cohort(&self) -> impl Iterator<Item = &ClientId> {
        self.cohort.keys()
    }
}

/// What a client hears whose plans are of version `theirs`, where the coordinator's are of `ours`.
fn other_version(theirs: u16, ours: u16) -> String {
    let older = if theirs < ours { "client" } else { "coordinator" };
    format!("the client's plans are of version {theirs}, the coordinator's of version {ours}: upgrade the {older}")
}

/// When a client that found the cohort full asks again.
const COME_BACK_MS: u32 = 1000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_has_the_older_plans_is_told_to_upgrade() {
        let [older, newer] = [(2, 3), (4, 3)].map(|(theirs, ours)| other_version(theirs, ours));
        assert_eq!(older, "the client's plans are of version 2, the coordinator's of version 3: upgrade the client");
        assert_eq!(
            newer,
            "the client's plans are of version 4, the coordinator's of version 3: upgrade the coordinator"
        );
    }
}
