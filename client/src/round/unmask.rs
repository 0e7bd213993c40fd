//! `unmask`: the shares are out; the client waits for the receipt of the round's entry in the ledger.

use std::sync::Arc;

use eranos_base::Context;
use eranos_secagg::{PositionSet, Roster};
use eranos_wire::Answer;

use super::{Action, Common, Event, Round, settle};

/// Released its shares; waits for the receipt.
pub struct Unmask {
    pub(super) common: Common,
    pub(super) roster: Arc<Roster>,
    pub(super) context: Context,
    pub(super) survivors: PositionSet,
}

impl Unmask {
    pub(super) fn new(common: Common, roster: Arc<Roster>, context: Context, survivors: PositionSet) -> Self {
        Self { common, roster, context, survivors }
    }

    pub(super) fn handle(self, event: Event) -> (Round, Vec<Action>) {
        match event {
            Event::Answer { answer: Answer::Settled(message), body } => settle::settle(&self, &message.receipt, &body),
            Event::Wake => (Round::Unmask(self), Vec::new()),
            _ => self.common.out_of_phase("unmask"),
        }
    }
}
