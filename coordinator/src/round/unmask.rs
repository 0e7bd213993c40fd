//! `unmask`: released shares are collected until every secret that is needed can be rebuilt; then the masks come off.

use std::{collections::BTreeMap, sync::Arc};

use eranos_base::{ClientId, Timestamp};
use eranos_secagg::{Incomplete, Roster, UnmaskAnswer, Unmasker};
use eranos_wire::messages::consistency::Quorum;

use super::{
    Aborting, Action, Attempt, Common, Event, Message, Note, Phase, Release, Round, Settle, answer, blamed, members,
    misbehaved, out_of_phase,
};

/// The quorum is out; released shares arrive.
pub struct Unmask {
    common: Common,
    roster: Arc<Roster>,
    unmasker: Unmasker,
    attempt: Attempt,
    /// Who waits for the receipt, and the size of the ledger it knows.
    waiting: BTreeMap<ClientId, u64>,
}

impl Unmask {
    pub(super) fn new(common: Common, roster: Arc<Roster>, unmasker: Unmasker, attempt: Attempt) -> Self {
        Self { common, roster, unmasker, attempt, waiting: BTreeMap::new() }
    }

    pub(super) fn handle(mut self, event: Event, now: Timestamp) -> (Round, Vec<Action>) {
        let mut actions = Vec::new();
        match event {
            Event::Message { from, message } => match (self.roster.position_of(&from.id), message) {
                (Some(position), Message::Unmask { shares, ledger_size }) => match UnmaskAnswer::from_bytes(&shares) {
                    Ok(released) => {
                        // Whatever its shares are worth, a survivor hears how the round ends.
                        self.waiting.insert(from.id.clone(), ledger_size);
                        if let Err(misbehaviour) = self.unmasker.accept(position, released) {
                            actions.push(misbehaved(&from, &misbehaviour));
                        }
                    }
                    Err(error) => actions.push(Action::Note(Note::Misbehaved { id: from.id, what: error.to_string() })),
                },
                // The quorum is known already to a client that signed late.
                (Some(position), Message::Consistency(_)) if self.unmasker.survivors().contains(position) => {
                    let quorum = eranos_secagg::Quorum::new(self.attempt.quorum.clone()).to_bytes();
                    actions.push(answer(&from.id, Quorum { quorum }));
                }
                (Some(_), Message::Abort(_)) => {}
                _ => actions.push(out_of_phase(&from, Phase::Unmask)),
            },
            Event::Wake | Event::Settled | Event::Stop { .. } => {}
        }
        if self.unmasker.is_complete() {
            return self.release(now, actions);
        }
        if now >= self.common.deadline {
            let reason = format!("{} clients released shares, too few to unmask", self.unmasker.n_answers());
            return self.aborting().end(reason, actions);
        }
        (Round::Unmask(self), actions)
    }

    fn release(self, now: Timestamp, mut actions: Vec<Action>) -> (Round, Vec<Action>) {
        let aborting = self.aborting();
        actions.push(self.common.over(now));
        let sum = match self.unmasker.finish() {
            Ok(sum) => sum,
            Err(incomplete) => {
                if let Incomplete::Dealer { blame, .. } = &incomplete {
                    actions.extend(blamed(&self.roster, blame));
                }
                return aborting.end(incomplete.to_string(), actions);
            }
        };
        actions.push(Action::Settle(Box::new(Release { attempt: self.attempt.clone(), sum })));
        (Round::Settle(Settle::new(self.roster, self.attempt, self.waiting)), actions)
    }

    pub(super) fn aborting(&self) -> Aborting {
        Aborting { cohort: members(&self.roster), attempt: Some(self.attempt.clone()) }
    }
}
