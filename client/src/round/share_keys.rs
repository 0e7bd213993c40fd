//! `share_keys`: U2 comes with the parts addressed to this client; they are opened and held.

use eranos_base::Timestamp;
use eranos_secagg::{SharedKeys, ShownSharers, share_keys::parts_from_bytes};
use eranos_wire::{Answer, messages::share_keys};
use zeroize::Zeroizing;

use super::{Action, AwaitContribution, Common, Event, Phase, RefusalKind, Round};

/// Sent its shares; waits for U2.
pub struct ShareKeys {
    pub(super) common: Common,
    shared: SharedKeys,
    contribution: Option<Zeroizing<Vec<u32>>>,
}

impl ShareKeys {
    pub(super) fn new(common: Common, shared: SharedKeys, contribution: Option<Zeroizing<Vec<u32>>>) -> Self {
        Self { common, shared, contribution }
    }

    pub(super) fn handle(mut self, event: Event, now: Timestamp) -> (Round, Vec<Action>) {
        match event {
            Event::Answer { answer: Answer::Sharers(message), .. } => self.receive(&message, now),
            Event::Contribution(contribution) => {
                self.contribution = Some(contribution);
                (Round::ShareKeys(self), Vec::new())
            }
            Event::Wake => (Round::ShareKeys(self), Vec::new()),
            _ => self.common.out_of_phase("share_keys"),
        }
    }

    fn receive(self, message: &share_keys::Sharers, now: Timestamp) -> (Round, Vec<Action>) {
        let n1 = self.shared.roster().n1();
        let decoded = ShownSharers::from_bytes(&message.sharers, n1);
        let decoded = decoded.and_then(|sharers| Ok((sharers, parts_from_bytes(&message.parts)?)));
        let (sharers, parts) = match decoded {
            Ok(decoded) => decoded,
            Err(error) => return self.common.refuse(RefusalKind::Decode(error)),
        };
        let statement = sharers.statement(self.shared.roster());
        if self.common.member.ledger_key.key().verify(&statement, &message.signature).is_err() {
            return self.common.refuse(RefusalKind::NotSigned { what: "set of those who shared keys" });
        }
        let context = self.shared.roster().context().with_sharers(sharers.root());
        let ready = match self.shared.receive(&sharers, &parts) {
            Ok(ready) => ready,
            Err(refusal) => return self.common.refuse(RefusalKind::SecureSum(refusal)),
        };
        let next = AwaitContribution::new(self.common, context, ready, self.contribution, now);
        let (round, mut actions) = next.when_due(now);
        actions.insert(0, Action::Note(Phase::Contribute));
        (round, actions)
    }
}
