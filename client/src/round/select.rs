//! `select`: the client has checked in and waits for a plan.

use std::sync::Arc;

use eranos_base::{Entropy, Timestamp};
use eranos_wire::Answer;

use super::{Action, End, Event, Member, Memory, RefusalKind, Round, abort, configure};

/// Checked in; waits for a plan.
pub struct Select {
    member: Arc<Member>,
    memory: Memory,
}

impl Select {
    pub(super) fn new(member: Arc<Member>, memory: Memory) -> Self {
        Self { member, memory }
    }

    pub(super) fn knowing(self, memory: Memory) -> Self {
        Self { memory, ..self }
    }

    pub(super) fn handle(self, event: Event, now: Timestamp, entropy: &mut dyn Entropy) -> (Round, Vec<Action>) {
        match event {
            Event::Answer { answer: Answer::Configure(configure), body } => {
                configure::configure(self.member, self.memory, &configure, body, now, entropy)
            }
            Event::Answer { answer: Answer::ComeBackLater(later), .. } => {
                if later.verify(self.member.ledger_key.key(), &self.member.identity.id).is_err() {
                    let refusal = RefusalKind::NotSigned { what: "refusal to admit this client" };
                    return abort::refuse(None, refusal.into(), false);
                }
                let end = End::ComeBackLater { when: later.when, reason: later.reason };
                (Round::Over, vec![Action::Over(end)])
            }
            Event::Wake => (Round::Select(self), Vec::new()),
            _ => abort::refuse(None, RefusalKind::OutOfPhase { phase: "select" }.into(), false),
        }
    }
}
