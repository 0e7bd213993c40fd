//! `masked_input`: READY leaves at the plan's slot, when the contribution exists. With the grant the budget is charged,
//! durably; only then does the first byte of the masked vector leave.

use std::time::Duration;

use bytes::Bytes;
use eranos_base::{Context, Digest, Timestamp};
use eranos_secagg::{Masked, Ready, Survivors};
use eranos_wire::{
    Answer,
    messages::{consistency, masked_input},
};
use zeroize::Zeroizing;

use super::{Action, Common, Consistency, Event, Phase, RefusalKind, Round, Step, abort, send};

/// Knows U2; waits for its own contribution and for the slot of READY.
pub struct AwaitContribution {
    pub(super) common: Common,
    context: Context,
    ready: Ready,
    contribution: Option<Zeroizing<Vec<u32>>>,
    /// When READY leaves; set when the contribution exists.
    slot: Option<Timestamp>,
    /// By when the contribution must exist: nobody waits for it any longer.
    deadline: Timestamp,
}

impl AwaitContribution {
    pub(super) fn new(
        common: Common,
        context: Context,
        ready: Ready,
        contribution: Option<Zeroizing<Vec<u32>>>,
        now: Timestamp,
    ) -> Self {
        let deadline = now + Duration::from_millis(common.plan.phase_timeout_ms.into());
        Self { common, context, ready, contribution, slot: None, deadline }
    }

    pub(super) fn handle(mut self, event: Event, now: Timestamp) -> (Round, Vec<Action>) {
        match event {
            Event::Contribution(contribution) => {
                self.contribution = Some(contribution);
                self.when_due(now)
            }
            Event::Wake => self.when_due(now),
            _ => self.common.out_of_phase("masked_input"),
        }
    }

    /// Sends READY if the contribution exists and the slot has come, and leaves if it does not exist in time. Slots are
    /// whole multiples of the plan's, counted from the plan's arrival: the time of READY says no more of the sample than
    /// that.
    pub(super) fn when_due(mut self, now: Timestamp) -> (Round, Vec<Action>) {
        let Some(contribution) = self.contribution.take() else {
            if now >= self.deadline {
                return abort::leave(Round::Contribute(self), "no contribution within the plan's time".to_owned());
            }
            let wake = Action::WakeAt(self.deadline);
            return (Round::Contribute(self), vec![wake]);
        };
        let slot = *self.slot.get_or_insert_with(|| {
            let slot_ms = u64::from(self.common.plan.ready_slot_ms);
            let elapsed_ms = now.since(self.common.configured).as_millis() as u64;
            let n_slots = elapsed_ms.div_ceil(slot_ms).max(1);
            Timestamp::from_unix_ms(self.common.configured.unix_ms().saturating_add(n_slots.saturating_mul(slot_ms)))
        });
        if now < slot {
            self.contribution = Some(contribution);
            return (Round::Contribute(self), vec![Action::WakeAt(slot)]);
        }
        let request = masked_input::Ready { round: self.common.round_ref(), signature: self.ready.ready() };
        let next = AwaitGrant { common: self.common, context: self.context, ready: self.ready, contribution };
        (Round::Ready(next), vec![send(request), Action::Note(Phase::Ready)])
    }
}

/// Sent READY; waits for the grant.
pub struct AwaitGrant {
    pub(super) common: Common,
    context: Context,
    ready: Ready,
    contribution: Zeroizing<Vec<u32>>,
}

impl AwaitGrant {
    pub(super) fn handle(self, event: Event) -> (Round, Vec<Action>) {
        match event {
            Event::Answer { answer: Answer::Grant(_), .. } => self.upload(),
            Event::Wake => (Round::Ready(self), Vec::new()),
            _ => self.common.out_of_phase("masked_input"),
        }
    }

    fn upload(self) -> (Round, Vec<Action>) {
        let vector: Zeroizing<Vec<i64>> = Zeroizing::new(self.contribution.iter().map(|v| i64::from(*v)).collect());
        let (masked, upload) = match self.ready.mask(&vector) {
            Ok(masked) => masked,
            Err(refusal) => return self.common.refuse(RefusalKind::SecureSum(refusal)),
        };
        // The round's number is the attempt's: each attempt is a round of its own.
        let charge = Step::Charge {
            attempt: u32::try_from(self.common.plan.round.0).unwrap_or(u32::MAX),
            plan: self.common.plan_digest,
            mechanism: Box::new(self.common.plan.mechanism.clone()),
            allow_no_noise: self.common.member.policy.allow_no_noise,
        };
        let request =
            masked_input::MaskedInput { round: self.common.round_ref(), finished: upload.finished.to_bytes() };
        let actions = vec![
            Action::Persist(charge),
            Action::Send { request: request.into(), body: Bytes::from(upload.packed) },
            Action::Note(Phase::Uploaded),
        ];
        (Round::Uploaded(AwaitSurvivors { common: self.common, context: self.context, masked }), actions)
    }
}

/// Sent its vector; waits for the survivors.
pub struct AwaitSurvivors {
    pub(super) common: Common,
    context: Context,
    masked: Masked,
}

impl AwaitSurvivors {
    pub(super) fn handle(self, event: Event) -> (Round, Vec<Action>) {
        match event {
            Event::Answer { answer: Answer::Survivors(message), .. } => self.sign(&message),
            Event::Wake => (Round::Uploaded(self), Vec::new()),
            _ => self.common.out_of_phase("masked_input"),
        }
    }

    fn sign(self, message: &masked_input::Survivors) -> (Round, Vec<Action>) {
        let n1 = self.masked.roster().n1();
        let survivors = match Survivors::from_bytes(&message.survivors, n1) {
            Ok(survivors) => survivors,
            Err(error) => return self.common.refuse(RefusalKind::Decode(error)),
        };
        let statement = survivors.statement(&self.context);
        if self.common.member.ledger_key.key().verify(&statement, &message.signature).is_err() {
            return self.common.refuse(RefusalKind::NotSigned { what: "set of survivors" });
        }
        let roster = self.masked.roster().clone();
        let consistent = match self.masked.sign(&survivors) {
            Ok(consistent) => consistent,
            Err(refusal) => return self.common.refuse(RefusalKind::SecureSum(refusal)),
        };
        let request = consistency::Consistency { round: self.common.round_ref(), signature: consistent.signature() };
        let actions = vec![
            Action::Persist(Step::SignConsistency { statement: Digest::of(&consistent.statement()) }),
            send(request),
            Action::Note(Phase::Consistency),
        ];
        (Round::Consistency(Consistency::new(self.common, consistent, roster, self.context)), actions)
    }
}
