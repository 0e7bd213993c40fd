//! `consistency`: the quorum comes; under it one kind of share is released for each dealer.

use std::sync::Arc;

use eranos_base::Context;
use eranos_secagg::{Consistent, Quorum, Roster};
use eranos_wire::{Answer, messages::unmask};

use super::{Action, Common, Event, Phase, RefusalKind, Round, Unmask, send};

/// Signed the survivors; waits for the quorum.
pub struct Consistency {
    pub(super) common: Common,
    consistent: Consistent,
    roster: Arc<Roster>,
    context: Context,
}

impl Consistency {
    pub(super) fn new(common: Common, consistent: Consistent, roster: Arc<Roster>, context: Context) -> Self {
        Self { common, consistent, roster, context }
    }

    pub(super) fn handle(self, event: Event) -> (Round, Vec<Action>) {
        match event {
            Event::Answer { answer: Answer::Quorum(message), .. } => {
                let quorum = match Quorum::from_bytes(&message.quorum) {
                    Ok(quorum) => quorum,
                    Err(error) => return self.common.refuse(RefusalKind::Decode(error)),
                };
                let survivors = self.consistent.survivors().clone();
                let released = match self.consistent.release(&quorum) {
                    Ok(released) => released,
                    Err(refusal) => return self.common.refuse(RefusalKind::SecureSum(refusal)),
                };
                let request = unmask::Unmask {
                    round: self.common.round_ref(),
                    shares: released.to_bytes(),
                    ledger_size: self.common.memory.checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.size),
                };
                let actions = vec![send(request), Action::Note(Phase::Unmask)];
                (Round::Unmask(Unmask::new(self.common, self.roster, self.context, survivors)), actions)
            }
            Event::Wake => (Round::Consistency(self), Vec::new()),
            _ => self.common.out_of_phase("consistency"),
        }
    }
}
