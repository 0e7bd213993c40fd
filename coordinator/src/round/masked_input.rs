//! `masked_input`: READYs are answered with grants, about [`UPLOAD_GRANTS_MAX`] at a time; each complete and verified
//! vector is added and forgotten; at the end U3 is fixed. Whoever holds a grant and sends nothing gives its place up in
//! time for all others: clients that vanish, no more than the plan lets drop out, must not fail the round.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use eranos_base::{Position, Timestamp, limits::UPLOAD_GRANTS_MAX};
use eranos_secagg::{Accumulator, Finished, Graph, Roster};
use eranos_wire::messages::{abort::Aborted, masked_input};

use super::{
    Aborting, Action, Attempt, CollectStatements, Common, Event, Message, Note, Peer, Phase, Round, answer, answer_all,
    blamed, identities, members, out_of_phase,
};

/// U2 is out; READYs and masked vectors arrive.
pub struct CollectInputs {
    common: Common,
    roster: Arc<Roster>,
    accumulator: Accumulator,
    /// Who was granted an upload and has not finished it, and from when on it gives its place up to one that waits.
    granted: BTreeMap<Position, Timestamp>,
    /// Who is ready and waits for a grant, first come first served.
    waiting: VecDeque<Position>,
    /// Members of U2 that will send no vector.
    left: BTreeSet<Position>,
    /// When this phase is woken next.
    wake: Timestamp,
}

impl CollectInputs {
    /// `left` are members of U2 that are gone already.
    pub(super) fn new(common: Common, roster: Arc<Roster>, accumulator: Accumulator, left: BTreeSet<Position>) -> Self {
        let (granted, waiting) = (BTreeMap::new(), VecDeque::new());
        let wake = common.deadline;
        Self { common, roster, accumulator, granted, waiting, left, wake }
    }

    /// The length of an upload in bytes.
    pub fn packed_len(&self) -> usize {
        self.accumulator.packed_len()
    }

    /// Whether the client may upload now.
    pub fn is_granted(&self, id: &eranos_base::ClientId) -> bool {
        self.roster.position_of(id).is_some_and(|position| self.granted.contains_key(&position))
    }

    pub(super) fn handle(mut self, event: Event, now: Timestamp) -> (Round, Vec<Action>) {
        let mut actions = Vec::new();
        let woken = matches!(event, Event::Wake);
        match event {
            Event::Message { from, message } => match (self.roster.position_of(&from.id), message) {
                (Some(position), Message::Ready(signature)) => match self.accumulator.ready(position, &signature) {
                    // Nobody who will send no vector, or has sent it, takes a place from those who wait.
                    Ok(_) if self.left.contains(&position) || self.accumulator.is_finished(position) => {}
                    Ok(_) if !self.granted.contains_key(&position) && !self.waiting.contains(&position) => {
                        self.waiting.push_back(position);
                    }
                    Ok(_) => {}
                    Err(misbehaviour) => self.leave(position, &from, misbehaviour.to_string(), &mut actions),
                },
                // Sent again over another connection while the first waited to be added: it is in the sum already.
                (Some(position), Message::MaskedInput { .. }) if self.accumulator.is_finished(position) => {}
                (Some(position), Message::MaskedInput { .. }) if !self.granted.contains_key(&position) => {
                    actions.push(out_of_phase(&from, Phase::MaskedInput));
                    self.leave(position, &from, "sent a vector without a grant".to_owned(), &mut actions);
                }
                (Some(position), Message::MaskedInput { packed, finished }) => {
                    let accepted = Finished::from_bytes(&finished).map_err(|error| error.to_string());
                    let accepted = accepted.and_then(|finished| {
                        let accepted = self.accumulator.accept(position, &packed, &finished);
                        accepted.map_err(|misbehaviour| misbehaviour.to_string())
                    });
                    self.granted.remove(&position);
                    if let Err(what) = accepted {
                        self.leave(position, &from, what, &mut actions);
                    }
                }
                (Some(position), Message::Abort(reason)) => self.leave(position, &from, reason, &mut actions),
                _ => actions.push(out_of_phase(&from, Phase::MaskedInput)),
            },
            Event::Wake | Event::Settled | Event::Stop { .. } => {}
        }
        self.expire(now, &mut actions);
        self.grant(now, &mut actions);
        let n_expected = self.accumulator.sharers().len() - self.left.len();
        if self.accumulator.n_survivors() >= n_expected || now >= self.common.deadline {
            return self.fix_survivors(now, actions);
        }
        let wake = self.next_wake();
        if woken || wake != self.wake {
            self.wake = wake;
            actions.push(Action::WakeAt(wake));
        }
        (Round::MaskedInput(self), actions)
    }

    /// How long a place is kept while others wait: were every one held that long from the phase's beginning on, all would
    /// have had theirs by its end.
    fn place_time(&self) -> Duration {
        let n_turns = self.accumulator.sharers().len().div_ceil(UPLOAD_GRANTS_MAX).max(1);
        self.common.spec.wait(Phase::MaskedInput) / u32::try_from(n_turns).unwrap_or(u32::MAX)
    }

    /// Takes places back whose time is over, as many as others wait for. Who held one is out of the sum, like any that
    /// sent no vector in time.
    fn expire(&mut self, now: Timestamp, actions: &mut Vec<Action>) {
        let n_free = UPLOAD_GRANTS_MAX.saturating_sub(self.granted.len());
        let n_wanted = self.waiting.len().saturating_sub(n_free);
        let due = self.granted.iter().filter(|(_, until)| now >= **until);
        for position in due.map(|(position, _)| *position).take(n_wanted).collect::<Vec<_>>() {
            self.granted.remove(&position);
            self.left.insert(position);
            if let Some(entry) = self.roster.entry(position) {
                actions.push(answer(&entry.id, Aborted { reason: "no vector in time, and others wait".into() }));
            }
        }
    }

    /// When somebody who waits may get a place that is held too long; else the phase's end.
    fn next_wake(&self) -> Timestamp {
        let held = self.granted.values().copied().min().filter(|_| !self.waiting.is_empty());
        held.map_or(self.common.deadline, |until| until.min(self.common.deadline))
    }

    /// Answers waiting READYs while there is room for their vectors.
    fn grant(&mut self, now: Timestamp, actions: &mut Vec<Action>) {
        let until = now + self.place_time();
        while self.granted.len() < UPLOAD_GRANTS_MAX {
            let Some(position) = self.waiting.pop_front() else { return };
            if let Some(entry) = self.roster.entry(position) {
                self.granted.insert(position, until);
                actions.push(answer(&entry.id, masked_input::Grant {}));
            }
        }
    }

    fn fix_survivors(self, now: Timestamp, mut actions: Vec<Action>) -> (Round, Vec<Action>) {
        let aborting = self.aborting();
        let missing: Vec<Position> =
            self.accumulator.sharers().iter().filter(|p| !self.accumulator.is_finished(*p)).collect();
        for entry in missing.into_iter().filter_map(|position| self.roster.entry(position)) {
            let reason = "no vector in time".to_owned();
            actions.push(answer(&entry.id, Aborted { reason: reason.clone().into() }));
            actions.push(Action::Note(Note::Dropped { id: entry.id.clone(), phase: Phase::MaskedInput, reason }));
        }
        // However the round ends: more than f complaints name whom they are about, f of them may all be lies.
        actions.extend(self.accumulator.blames().iter().filter_map(|blame| blamed(&self.roster, blame)));
        let collector = match self.accumulator.close() {
            Ok(collector) => collector,
            Err(incomplete) => return aborting.end(incomplete.to_string(), actions),
        };
        let survivors = collector.survivors();
        let signature = self.common.spec.key.sign(&survivors.statement(&collector.context()));
        match self.roster.graph() {
            // Everybody is shown the same.
            Graph::Complete { .. } => {
                let message = masked_input::Survivors { survivors: survivors.to_bytes(), signature };
                actions.push(answer_all(identities(&self.roster, survivors.set().iter()), message));
            }
            Graph::Sparse { .. } => {
                for position in survivors.set().iter() {
                    let Some(entry) = self.roster.entry(position) else { continue };
                    let survivors = survivors.shown_to(&self.roster, position).to_bytes();
                    actions.push(answer(&entry.id, masked_input::Survivors { survivors, signature }));
                }
            }
        }
        let common = self.common.enter(Phase::Consistency, survivors.set().len(), now, &mut actions);
        (Round::Consistency(CollectStatements::new(common, self.roster, collector)), actions)
    }

    fn leave(&mut self, position: Position, from: &Peer, reason: String, actions: &mut Vec<Action>) {
        self.granted.remove(&position);
        self.waiting.retain(|waiting| *waiting != position);
        // A vector that is in the sum stays in it: its seed is rebuilt from shares.
        if self.accumulator.sharers().contains(position)
            && !self.accumulator.is_finished(position)
            && self.left.insert(position)
        {
            actions.push(Action::Note(Note::Misbehaved { id: from.id.clone(), what: reason }));
        }
    }

    pub(super) fn attempt(&self) -> Attempt {
        let attempt = self.common.attempt().with_roster(&self.roster);
        let received = self.accumulator.sharers().iter().filter(|position| self.accumulator.is_finished(*position));
        Attempt {
            sharers: Some(self.accumulator.context().sharers),
            received: identities(&self.roster, received),
            ..attempt
        }
    }

    pub(super) fn aborting(&self) -> Aborting {
        Aborting { cohort: members(&self.roster), attempt: Some(self.attempt()) }
    }
}
