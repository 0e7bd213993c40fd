//! `abort`: from anywhere. What was debited stays debited; after the quorum is out the sum counts as known.

use eranos_base::ClientId;
use eranos_wire::messages::{abort::Aborted, select::ComeBack};

use super::{Abandoned, Action, Attempt, Common, Round, RoundSpec, answer_all};

/// What a phase knows that the ledger wants to hear, if the round ends in it.
pub struct Aborting {
    pub(super) cohort: Vec<ClientId>,
    pub(super) attempt: Option<Attempt>,
}

impl Aborting {
    /// Ends the round: everyone still in it hears why, and the attempt goes into the ledger.
    pub(super) fn end(self, reason: String, mut actions: Vec<Action>) -> (Round, Vec<Action>) {
        actions.push(answer_all(self.cohort, Aborted { reason: reason.clone().into() }));
        actions.push(Action::Abandon(Box::new(Abandoned { attempt: self.attempt, reason })));
        (Round::Over, actions)
    }
}

/// Ends a round whose plan was never sent. What its cohort waits for is the answer to a check-in.
pub(super) fn before_plan<'a>(
    spec: &RoundSpec,
    cohort: impl IntoIterator<Item = &'a ClientId>,
    reason: String,
    mut actions: Vec<Action>,
) -> (Round, Vec<Action>) {
    for id in cohort {
        actions.push(spec.not_admitted(id, ComeBack::AfterMs(COME_BACK_MS), &reason));
    }
    Aborting { cohort: Vec::new(), attempt: None }.end(reason, actions)
}

/// Ends a round because the operator says so. A sum that is known already is settled first.
pub(super) fn stop(round: Round, reason: String) -> (Round, Vec<Action>) {
    let aborting = match round {
        Round::Select(phase) => return before_plan(phase.spec(), phase.cohort(), reason, Vec::new()),
        Round::AdvertiseKeys(phase) => phase.aborting(),
        Round::ShareKeys(phase) => phase.aborting(),
        Round::MaskedInput(phase) => phase.aborting(),
        Round::Consistency(phase) => phase.aborting(),
        Round::Unmask(phase) => phase.aborting(),
        Round::Settle(_) | Round::Over => return (round, Vec::new()),
    };
    aborting.end(reason, Vec::new())
}

impl Common {
    /// The attempt as it stands before there is a roster.
    pub(super) fn attempt(&self) -> Attempt {
        Attempt {
            plan: self.plan.clone(),
            plan_signature: self.plan_signature,
            roster: None,
            bindings: Vec::new(),
            sharers: None,
            received: Vec::new(),
            survivors: None,
            quorum: Vec::new(),
            revealed: false,
        }
    }
}

/// When a client whose round never began asks again.
const COME_BACK_MS: u32 = 5000;
