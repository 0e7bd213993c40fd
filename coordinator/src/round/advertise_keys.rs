//! `advertise_keys`: signed keys are collected; at the end the roster is fixed and goes out.

use std::collections::BTreeMap;

use eranos_base::{ClientId, Position, Signature, Timestamp};
use eranos_secagg::{Advert, Graph, Roster, RosterEntry, advert::verify_possession};
use eranos_wire::messages::{abort::Aborted, advertise_keys};

use super::{
    Aborting, Action, Common, Event, Message, Note, Peer, Phase, Round, ShareKeys, answer, answer_all, members,
    out_of_phase,
};

/// The plan is out; signed keys arrive.
pub struct AdvertiseKeys {
    common: Common,
    /// Who was sent the plan and has not left.
    cohort: BTreeMap<ClientId, Peer>,
    entries: BTreeMap<ClientId, RosterEntry>,
}

impl AdvertiseKeys {
    pub(super) fn new(common: Common, cohort: BTreeMap<ClientId, Peer>) -> Self {
        Self { common, cohort, entries: BTreeMap::new() }
    }

    pub(super) fn handle(mut self, event: Event, now: Timestamp) -> (Round, Vec<Action>) {
        let mut actions = Vec::new();
        match event {
            Event::Message { from, message: Message::Advertise { advert, possession } } => {
                if self.cohort.get(&from.id) != Some(&from) {
                    actions.push(answer(&from.id, Aborted { reason: "not selected for this round".into() }));
                } else {
                    match self.entry(&from, &advert, &possession) {
                        // The first advert counts, whatever comes after it.
                        _ if self.entries.contains_key(&from.id) => {}
                        Ok(entry) => {
                            self.entries.insert(from.id, entry);
                        }
                        Err(error) => {
                            self.cohort.remove(&from.id);
                            self.dropped(&from.id, error, &mut actions);
                        }
                    }
                }
            }
            Event::Message { from, message: Message::Abort(reason) } => {
                if self.cohort.remove(&from.id).is_some() {
                    self.entries.remove(&from.id);
                    self.dropped(&from.id, reason, &mut actions);
                }
            }
            Event::Message { from, .. } => actions.push(out_of_phase(&from, Phase::AdvertiseKeys)),
            Event::Wake | Event::Settled | Event::Stop { .. } => {}
        }
        if self.entries.len() == self.cohort.len() || now >= self.common.deadline {
            return self.fix_roster(now, actions);
        }
        (Round::AdvertiseKeys(self), actions)
    }

    fn entry(&self, from: &Peer, advert: &[u8], possession: &Signature) -> Result<RosterEntry, String> {
        let advert = Advert::from_bytes(advert).map_err(|error| error.to_string())?;
        let entry = RosterEntry { id: from.id.clone(), certificate: from.certificate, key: from.key, advert };
        entry.verify(&self.common.terms).map_err(|error| error.to_string())?;
        // Statement keys are known from earlier rosters: whoever claims another's must not take its place.
        verify_possession(&self.common.terms, &from.id, &entry.advert.statement_key, possession)
            .map_err(|_| "its statement key is not shown to be its own".to_owned())?;
        // One bad member must not spoil the roster for all: what `Roster::assemble` would refuse is refused here.
        let keys = |entry: &RosterEntry| [entry.advert.c_pk, entry.advert.s_pk];
        let doubled = |other: &RosterEntry| {
            other.advert.statement_key == entry.advert.statement_key
                || other.key == entry.key
                || keys(other).iter().any(|key| keys(&entry).contains(key))
        };
        if entry.advert.c_pk == entry.advert.s_pk || self.entries.values().any(doubled) {
            return Err("its keys are not its own alone".to_owned());
        }
        Ok(entry)
    }

    fn fix_roster(mut self, now: Timestamp, mut actions: Vec<Action>) -> (Round, Vec<Action>) {
        for id in self.cohort.keys().filter(|id| !self.entries.contains_key(*id)).cloned().collect::<Vec<_>>() {
            self.cohort.remove(&id);
            self.dropped(&id, "no keys in time".to_owned(), &mut actions);
        }
        let mut entries: Vec<_> = std::mem::take(&mut self.entries).into_values().collect();
        entries.sort_by_key(|entry| entry.advert.statement_key);
        let roster = match Roster::assemble(self.common.terms.clone(), entries) {
            Ok(roster) => roster,
            Err(error) => return self.aborting().end(error.to_string(), actions),
        };
        let signature = self.common.spec.key.sign(&roster.statement());
        let show = roster.show();
        let message = |position| advertise_keys::Roster { roster: show(position).to_bytes(), signature };
        match roster.graph() {
            // Everybody is shown the same.
            Graph::Complete { .. } => actions.push(answer_all(members(&roster), message(Position(0)))),
            Graph::Sparse { .. } => {
                let answers = roster.positions().zip(roster.members());
                actions.extend(answers.map(|(position, member)| answer(&member.id, message(position))));
            }
        }
        drop(show);
        let common = self.common.enter(Phase::ShareKeys, roster.n1(), now, &mut actions);
        ShareKeys::begin(common, roster, actions)
    }

    fn dropped(&self, id: &ClientId, reason: String, actions: &mut Vec<Action>) {
        actions.push(answer(id, Aborted { reason: reason.clone().into() }));
        actions.push(Action::Note(Note::Dropped { id: id.clone(), phase: Phase::AdvertiseKeys, reason }));
    }

    pub(super) fn aborting(&self) -> Aborting {
        Aborting { cohort: self.cohort.keys().cloned().collect(), attempt: Some(self.common.attempt()) }
    }
}
