//! What is disclosed to an auditor: whose pseudonyms are whose, and whom the entries about members are about.

use std::collections::{BTreeMap, HashMap};

use eranos_base::{ClientId, Digest};

use crate::{
    audit::Report,
    binding::{self, Binding, BindingError, Disclosed, field, parsed},
    entry::{Membership, MembershipChange, Opening, membership},
    text::{LineReader, Lines, parse_hex},
};

/// Bindings and openings, in any order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Disclosure {
    /// Whose each pseudonym is.
    pub bindings: Vec<Binding>,
    /// Whom each entry about a member is about.
    pub openings: Vec<Opening>,
}

impl From<Vec<Binding>> for Disclosure {
    fn from(bindings: Vec<Binding>) -> Self {
        Self { bindings, openings: Vec::new() }
    }
}

impl Opening {
    /// The opening as text, to be put beside others and beside bindings.
    pub fn encode(&self) -> String {
        let mut lines = Lines::new(membership::DOMAIN);
        lines.line("change", self.change.kind());
        lines.line("origin", &self.origin);
        lines.line("client", &self.client);
        lines.line("certificate", self.certificate);
        lines.line("salt", hex::encode(self.salt));
        lines.finish()
    }

    fn read(lines: &mut LineReader<'_>, line: &mut usize) -> Result<Self, BindingError> {
        let change = |text: &str| MembershipChange::ALL.into_iter().find(|change| change.kind().name() == text);
        Ok(Self {
            change: field(lines, line, "change", change)?,
            origin: field(lines, line, "origin", parsed)?,
            client: field(lines, line, "client", parsed)?,
            certificate: field(lines, line, "certificate", |text| parse_hex(text).map(Digest))?,
            salt: field(lines, line, "salt", parse_hex)?,
        })
    }
}

impl Disclosure {
    /// Reads any number of bindings and openings, one after the other.
    ///
    /// # Errors
    /// If the text is anything else; the error names the line.
    pub fn parse(text: &str) -> Result<Self, BindingError> {
        let mut lines = LineReader::new(text);
        let (mut disclosure, mut line) = (Self::default(), 0);
        while !lines.is_empty() {
            line += 1;
            match lines.line() {
                Some(binding::DOMAIN) => disclosure.bindings.push(Binding::read(&mut lines, &mut line)?),
                Some(membership::DOMAIN) => disclosure.openings.push(Opening::read(&mut lines, &mut line)?),
                _ => return Err(BindingError { line, expected: binding::DOMAIN }),
            }
        }
        Ok(disclosure)
    }

    /// Holds all of it against what an audit found.
    pub fn check(&self, report: &Report) -> Disclosed {
        let mut disclosed = binding::disclose(report, &self.bindings);
        let events = self.events(report, &mut disclosed.faults);
        // Only whoever opened every enrolment has said whom none is about.
        let n_opened: usize = events.values().map(|of| of.iter().filter(|event| event.is_enrolment()).count()).sum();
        let is_complete = n_opened > 0 && n_opened == report.n_enrolled();
        for one in report.tasks.iter().flat_map(|task| &task.pseudonyms) {
            let Some(client) = disclosed.bound.get(&one.pseudonym) else { continue };
            let mut fault =
                |what: String| disclosed.faults.push(format!("binding of {} to {client}: {what}", one.pseudonym));
            let (first, last) = one.entries;
            match events.get(client).map(Vec::as_slice) {
                None | Some([]) if is_complete => fault("no entry enrols this client".to_owned()),
                None | Some([]) => {}
                Some([enrolled, ..]) if enrolled.index > first => {
                    fault(format!("it stands in entry {first}, but is enrolled by entry {}", enrolled.index));
                }
                Some([.., event]) if event.membership.change == MembershipChange::Revoked && event.index < last => {
                    fault(format!("it stands in entry {last}, but is revoked by entry {}", event.index));
                }
                Some(_) => {}
            }
        }
        disclosed.n_opened = events.values().map(Vec::len).sum();
        disclosed
    }

    /// What became of each client, in the ledger's order.
    fn events(&self, report: &Report, faults: &mut Vec<String>) -> BTreeMap<&ClientId, Vec<Event>> {
        let origin = report.checkpoint.as_ref().map(|checkpoint| &checkpoint.origin);
        let by_commitment: HashMap<Digest, &(u64, Membership)> =
            report.members.iter().map(|member| (member.1.commitment, member)).collect();
        let mut events: BTreeMap<&ClientId, Vec<Event>> = BTreeMap::new();
        for opening in &self.openings {
            let entry = by_commitment.get(&opening.commitment());
            match entry.filter(|(_, member)| member.change == opening.change && origin == Some(&opening.origin)) {
                Some((index, membership)) => {
                    let of_client = events.entry(&opening.client).or_default();
                    // The same opening again says nothing new.
                    if of_client.iter().all(|event| event.index != *index) {
                        of_client.push(Event {
                            index: *index,
                            membership: *membership,
                            certificate: opening.certificate,
                        });
                    }
                }
                None => faults.push(format!(
                    "opening of {}, {}: the ledger has no such entry",
                    opening.client,
                    opening.change.kind()
                )),
            }
        }
        for (client, of_client) in &mut events {
            of_client.sort_by_key(|event| event.index);
            let mut had: Vec<Digest> = Vec::new();
            for (place, event) in of_client.iter().enumerate() {
                if (place == 0) != event.is_enrolment() {
                    faults.push(format!(
                        "opening of {client}, entry {}: a client is enrolled once, and first",
                        event.index
                    ));
                }
                match event.membership.change {
                    MembershipChange::Revoked if !had.contains(&event.certificate) => {
                        faults.push(format!(
                            "opening of {client}, entry {}: it revokes another certificate",
                            event.index
                        ));
                    }
                    MembershipChange::Renewed if had.last() == Some(&event.certificate) => {
                        faults.push(format!(
                            "opening of {client}, entry {}: it renews the same certificate",
                            event.index
                        ));
                    }
                    _ => had.push(event.certificate),
                }
            }
        }
        events
    }
}

/// An entry about a member, opened.
struct Event {
    index: u64,
    membership: Membership,
    certificate: Digest,
}

impl Event {
    fn is_enrolment(&self) -> bool {
        self.membership.change == MembershipChange::Enrolled
    }
}
