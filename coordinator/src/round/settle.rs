//! `settle`: the sum is being applied and entered into the ledger; then every survivor that asked gets its receipt.

use std::{collections::BTreeMap, sync::Arc};

use eranos_base::ClientId;
use eranos_secagg::Roster;
use eranos_wire::messages::consistency::Quorum;

use super::{Action, Attempt, Event, Message, Round, answer};

/// The sum is known; the ledger entry is being made.
pub struct Settle {
    roster: Arc<Roster>,
    attempt: Attempt,
    waiting: BTreeMap<ClientId, u64>,
}

impl Settle {
    pub(super) fn new(roster: Arc<Roster>, attempt: Attempt, waiting: BTreeMap<ClientId, u64>) -> Self {
        Self { roster, attempt, waiting }
    }

    pub(super) fn handle(mut self, event: Event) -> (Round, Vec<Action>) {
        match event {
            Event::Settled => {
                let receipts =
                    self.waiting.into_iter().map(|(to, ledger_size)| Action::Receipt { to, ledger_size }).collect();
                (Round::Over, receipts)
            }
            // Late, but not too late: its shares are not needed any more, the receipt is for it too.
            Event::Message { from, message: Message::Unmask { ledger_size, .. } }
                if self.roster.position_of(&from.id).is_some() =>
            {
                self.waiting.insert(from.id, ledger_size);
                (Round::Settle(self), Vec::new())
            }
            Event::Message { from, message: Message::Consistency(_) }
                if self.roster.position_of(&from.id).is_some() =>
            {
                let quorum = eranos_secagg::Quorum::new(self.attempt.quorum.clone()).to_bytes();
                let actions = vec![answer(&from.id, Quorum { quorum })];
                (Round::Settle(self), actions)
            }
            Event::Message { .. } | Event::Wake | Event::Stop { .. } => (Round::Settle(self), Vec::new()),
        }
    }
}
