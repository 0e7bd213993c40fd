//! `select`: the client has checked in and waits for a plan.

use std::sync::Arc;

use eranos_base::{Entropy, Timestamp};
use eranos_ledger::{Entry, LogRestored, Receipt};
use eranos_wire::{
    Answer,
    messages::select::{self, KeyRotated, ROTATIONS_MAX},
};

use crate::restored::Offer;

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
            Event::Answer { answer: Answer::KeyRotated(rotated), .. } => match self.follow(&rotated) {
                Ok(actions) => (Round::Over, actions),
                Err((what, evidence)) => {
                    let (round, mut actions) = abort::refuse(None, RefusalKind::Ledger(what).into(), false);
                    evidence.into_iter().for_each(|note| actions.insert(0, Action::KeepEvidence(note)));
                    (round, actions)
                }
            },
            Event::Answer { answer: Answer::LogRestored(message), .. } => self.restored(&message),
            Event::Wake => (Round::Select(self), Vec::new()),
            _ => abort::refuse(None, RefusalKind::OutOfPhase { phase: "select" }.into(), false),
        }
    }

    /// Follows nobody into another ledger, but keeps what its operator may accept.
    fn restored(&self, message: &select::LogRestored) -> (Round, Vec<Action>) {
        let refuse = |kind: RefusalKind| abort::refuse(None, kind.into(), false);
        let offer = match Offer::verify(message, &self.memory.ledger_keys) {
            Ok(offer) => offer,
            // Anybody may say so who has the coordinator's TLS key alone.
            Err(error) => {
                tracing::warn!(error, "another ledger is shown that cannot be believed");
                return refuse(RefusalKind::NotSigned { what: "other ledger that is shown" });
            }
        };
        let LogRestored { old_size: kept, old_root, .. } = offer.restored;
        let known = self.memory.checkpoint.as_ref();
        if known.is_some_and(|known| known.size == kept && known.root != old_root) {
            return refuse(RefusalKind::Ledger("what it goes on from is not what this client knows".to_owned()));
        }
        let known = known.map_or(0, |known| known.size);
        let (round, mut actions) = refuse(RefusalKind::LogRestored { key: offer.opened.ledger_key, kept, known });
        actions.insert(0, Action::KeepOffer(offer.bytes));
        (round, actions)
    }

    /// Follows the ledger's key through its rotations: each was signed by the key before it, from the one that this client
    /// knows on, and all stand in one ledger, one after the other behind what the client knows of it. Else says why not; with
    /// the checkpoint, where that may prove a fork.
    fn follow(&self, rotated: &KeyRotated) -> Result<Vec<Action>, (String, Option<Vec<u8>>)> {
        let unproved = |error: &dyn std::fmt::Display| (error.to_string(), None);
        if rotated.receipts.is_empty() || rotated.receipts.len() > ROTATIONS_MAX {
            return Err(unproved(&"a rotation of the key without an entry"));
        }
        let receipts: Result<Vec<Receipt>, _> = rotated.receipts.iter().map(|blob| Receipt::decode(&blob.0)).collect();
        let receipts = receipts.map_err(|error| unproved(&error))?;
        // Under one checkpoint: two that each continue what the client knows may still be two histories.
        if receipts.windows(2).any(|pair| pair[0].checkpoint != pair[1].checkpoint) {
            return Err(unproved(&"rotations of the key under more than one checkpoint"));
        }
        let mut key = self.member.ledger_key.clone();
        // What a key signed has no rotation to the next one in it.
        let mut from = self.memory.checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.size);
        for receipt in &receipts {
            let Ok(Entry::KeyRotated(rotation)) = Entry::parse(&receipt.entry, None) else {
                return Err(unproved(&"an entry that is no rotation of the key"));
            };
            key = rotation.verify(receipt.index, &key).map_err(|error| unproved(&error))?.clone();
            if receipt.index < from {
                return Err(unproved(
                    &"a rotation of the key that stands before the one it follows, or in what the old key signed",
                ));
            }
            from = receipt.index.saturating_add(1);
        }
        let mut checkpoint = Vec::new();
        for receipt in receipts {
            let verified = receipt.verify(None, &key, self.memory.checkpoint.as_ref());
            verified.map_err(|error| {
                (error.to_string(), error.is_of_two_histories().then(|| receipt.checkpoint.clone()))
            })?;
            checkpoint = receipt.checkpoint;
        }
        // The key first: whoever has both can read a checkpoint of either.
        Ok(vec![Action::KeepLedgerKey(key), Action::KeepCheckpoint(checkpoint), Action::Over(End::KeyRotated)])
    }
}
