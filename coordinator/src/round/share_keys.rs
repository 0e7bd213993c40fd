//! `share_keys`: bundles of sealed shares are collected; at the end U2 is fixed and every member gets the parts
//! addressed to it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use eranos_base::{ClientId, Position, Timestamp};
use eranos_secagg::{Bundle, Credential, Roster, ShareRouter, ShortName, share_keys::parts_to_bytes};
use eranos_wire::messages::{abort::Aborted, share_keys};

use super::{
    Aborting, Action, Attempt, CollectInputs, Common, Event, Message, Note, Phase, Record, Round, answer, members,
    misbehaved, out_of_phase,
};

/// The roster is out; sealed shares arrive.
pub struct ShareKeys {
    common: Common,
    router: ShareRouter,
    /// What the roster names.
    credentials: BTreeMap<ShortName, Credential>,
    /// By position: who sent a bundle or left. Nobody else is waited for.
    settled: Vec<bool>,
    /// Who left, though its bundle may be there: it will send no vector.
    left: BTreeSet<Position>,
    /// By position: how many bundles were looked at.
    n_bundles: Vec<usize>,
}

impl ShareKeys {
    pub(super) fn begin(common: Common, roster: Roster, mut actions: Vec<Action>) -> (Round, Vec<Action>) {
        let (settled, n_bundles) = (vec![false; roster.n1()], vec![0; roster.n1()]);
        let credentials = roster.members().iter().map(|member| member.credential);
        let name = |credential: &Credential| ShortName::of(&roster.digest(), &credential.digest());
        let credentials = credentials.map(|credential| (name(&credential), credential)).collect();
        let phase = Self {
            common,
            router: ShareRouter::new(Arc::new(roster)),
            credentials,
            settled,
            left: BTreeSet::new(),
            n_bundles,
        };
        // From here on the ledger can name who stood in the roster.
        actions.push(Action::Persist(Record::Progress(Box::new(phase.attempt()))));
        // The roster goes out only after that.
        let is_answer = |action: &Action| matches!(action, Action::Answer { .. } | Action::AnswerAll { .. });
        let (answers, rest): (Vec<_>, Vec<_>) = actions.into_iter().partition(is_answer);
        (Round::ShareKeys(phase), rest.into_iter().chain(answers).collect())
    }

    /// Whether the roster has this client.
    pub fn has(&self, id: &ClientId) -> bool {
        self.router.roster().position_of(id).is_some()
    }

    /// The credential of this name, if the roster has it.
    pub fn credential(&self, name: ShortName) -> Option<&Credential> {
        self.credentials.get(&name)
    }

    pub(super) fn handle(mut self, event: Event, now: Timestamp) -> (Round, Vec<Action>) {
        let mut actions = Vec::new();
        let roster = self.router.roster().clone();
        match event {
            Event::Message { from, message } => match (roster.position_of(&from.id), message) {
                (Some(position), Message::ShareKeys(bundle)) if self.looks_at_another(position.index()) => {
                    match Bundle::from_bytes(&bundle) {
                        Ok(bundle) => {
                            self.settle(position.index());
                            if let Err(misbehaviour) = self.router.accept(position, bundle) {
                                actions.push(misbehaved(&from, &misbehaviour));
                            }
                        }
                        Err(error) => self.leave(position.index(), &from.id, error.to_string(), &mut actions),
                    }
                }
                (Some(position), Message::Abort(reason)) => {
                    self.left.insert(position);
                    self.leave(position.index(), &from.id, reason, &mut actions);
                }
                _ => actions.push(out_of_phase(&from, Phase::ShareKeys)),
            },
            Event::Wake | Event::Settled | Event::Stop { .. } => {}
        }
        if self.settled.iter().all(|settled| *settled) || now >= self.common.deadline {
            return self.fix_sharers(now, actions);
        }
        (Round::ShareKeys(self), actions)
    }

    fn fix_sharers(self, now: Timestamp, mut actions: Vec<Action>) -> (Round, Vec<Action>) {
        let aborting = self.aborting();
        let roster = self.router.roster().clone();
        let routed = match self.router.close() {
            Ok(routed) => routed,
            Err(incomplete) => return aborting.end(incomplete.to_string(), actions),
        };
        let sharers = routed.sharers();
        let signature = self.common.spec.key.sign(&sharers.statement(&roster));
        for (position, entry) in roster.positions().zip(roster.entries()) {
            match sharers.set().contains(position) {
                true => {
                    let parts = parts_to_bytes(&routed.parts_for(position));
                    let sharers = sharers.shown_to(position).to_bytes();
                    actions.push(answer(&entry.id, share_keys::Sharers { sharers, signature, parts }));
                }
                false => {
                    let reason = "no shares in time".to_owned();
                    actions.push(answer(&entry.id, Aborted { reason: reason.clone().into() }));
                    let note = Note::Dropped { id: entry.id.clone(), phase: Phase::ShareKeys, reason };
                    actions.push(Action::Note(note));
                }
            }
        }
        let common = self.common.enter(Phase::MaskedInput, sharers.set().len(), now, &mut actions);
        let left = self.left.into_iter().filter(|position| routed.sharers().set().contains(*position)).collect();
        let phase = CollectInputs::new(common, roster, routed.accumulate(), left);
        actions.push(Action::Persist(Record::Progress(Box::new(phase.attempt()))));
        (Round::MaskedInput(phase), actions)
    }

    /// Whether one more bundle of this client is verified: that takes a signature for each of its neighbors, while nobody
    /// else is heard.
    fn looks_at_another(&mut self, index: usize) -> bool {
        match self.n_bundles.get_mut(index) {
            Some(n_bundles) if *n_bundles < BUNDLES_MAX => {
                *n_bundles += 1;
                true
            }
            _ => false,
        }
    }

    /// A client that left, or whose bundle is bad, is not waited for.
    fn leave(&mut self, index: usize, id: &ClientId, reason: String, actions: &mut Vec<Action>) {
        self.settle(index);
        actions.push(Action::Note(Note::Misbehaved { id: id.clone(), what: reason }));
    }

    fn settle(&mut self, index: usize) {
        if let Some(settled) = self.settled.get_mut(index) {
            *settled = true;
        }
    }

    fn attempt(&self) -> Attempt {
        self.common.attempt().with_roster(self.router.roster())
    }

    pub(super) fn aborting(&self) -> Aborting {
        Aborting { cohort: members(self.router.roster()), attempt: Some(self.attempt()) }
    }
}

/// Bundles of one client that are looked at: the one that counts, and another that proves that it signed two.
const BUNDLES_MAX: usize = 2;
