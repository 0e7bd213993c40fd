//! `consistency`: statements on the survivors are collected; a quorum of them goes out, and from then on the sum counts
//! as known.

use std::sync::Arc;

use eranos_base::Timestamp;
use eranos_secagg::{ConsistencyCollector, Roster};
use eranos_wire::messages::consistency;

use super::{
    Aborting, Action, Attempt, Common, Event, Message, Phase, Record, Round, Unmask, answer_all, identities, members,
    misbehaved, out_of_phase,
};

/// The survivors are out; statements on them arrive.
pub struct CollectStatements {
    common: Common,
    roster: Arc<Roster>,
    collector: ConsistencyCollector,
}

impl CollectStatements {
    pub(super) fn new(common: Common, roster: Arc<Roster>, collector: ConsistencyCollector) -> Self {
        Self { common, roster, collector }
    }

    pub(super) fn handle(mut self, event: Event, now: Timestamp) -> (Round, Vec<Action>) {
        let mut actions = Vec::new();
        match event {
            Event::Message { from, message } => match (self.roster.position_of(&from.id), message) {
                (Some(position), Message::Consistency(signature)) => {
                    if let Err(misbehaviour) = self.collector.accept(position, &signature) {
                        actions.push(misbehaved(&from, &misbehaviour));
                    }
                }
                // Whoever leaves now is counted all the same; it only cannot help any more.
                (Some(_), Message::Abort(_)) => {}
                _ => actions.push(out_of_phase(&from, Phase::Consistency)),
            },
            Event::Wake | Event::Settled | Event::Stop { .. } => {}
        }
        // A quorum is enough: waiting for the rest would let one vanished client hold up everybody.
        if self.collector.has_quorum() {
            return self.announce_quorum(now, actions);
        }
        if now >= self.common.deadline {
            let reason = format!("{} statements on the survivors are no quorum", self.collector.n_signatures());
            return self.aborting().end(reason, actions);
        }
        (Round::Consistency(self), actions)
    }

    fn announce_quorum(self, now: Timestamp, mut actions: Vec<Action>) -> (Round, Vec<Action>) {
        let aborting = self.aborting();
        let mut attempt = self.attempt();
        let (quorum, unmasker) = match self.collector.close() {
            Ok(closed) => closed,
            Err(incomplete) => return aborting.end(incomplete.to_string(), actions),
        };
        attempt.quorum = quorum.signatures().to_vec();
        attempt.revealed = true;
        // Before anyone is asked to unmask, the ledger's fallback says that the sum may be known.
        actions.push(Action::Persist(Record::Progress(Box::new(attempt.clone()))));
        let message = consistency::Quorum { quorum: quorum.to_bytes() };
        actions.push(answer_all(identities(&self.roster, unmasker.survivors().iter()), message));
        let common = self.common.enter(Phase::Unmask, unmasker.survivors().len(), now, &mut actions);
        (Round::Unmask(Unmask::new(common, self.roster, unmasker, attempt)), actions)
    }

    fn attempt(&self) -> Attempt {
        let attempt = self.common.attempt().with_roster(&self.roster);
        let survivors = self.collector.survivors().set();
        Attempt {
            sharers: Some(self.collector.context().sharers),
            received: identities(&self.roster, survivors.iter()),
            survivors: Some(survivors.as_bytes().to_vec()),
            ..attempt
        }
    }

    pub(super) fn aborting(&self) -> Aborting {
        Aborting { cohort: members(&self.roster), attempt: Some(self.attempt()) }
    }
}
