//! Who stands behind a pseudonym, disclosed by the client itself or by the coordinator: the certificate's key certified the
//! statement key for one task. The ledger holds no binding; an auditor is given those that somebody discloses.
//!
//! A binding shows that whoever has the certificate's key made the pseudonym its own. That the authority gave this key to
//! the client of this name stands in the certificate, whose SHA-256 is named.

use std::{
    collections::{BTreeMap, BTreeSet},
    str::FromStr,
};

use eranos_base::{
    ClientId, Digest, Signature, TaskId, TrustDomain, VerifyingKey, statement::statement_key_certification,
};
use eranos_privacy::{
    Mechanism, Promise,
    accountant::{
        Accountant,
        filter::{Planned, RenyiFilter},
    },
    budget::UnitOfPrivacy,
};

use crate::{
    audit::Report,
    text::{LineReader, Lines, parse_hex},
};

/// Longest file of bindings that is read, in bytes: some thousands of tasks of a large cohort.
pub const BINDINGS_LEN_MAX: usize = 64 << 20;

pub(crate) const DOMAIN: &str = "eranos/ledger/binding/v1";

/// The binding of one pseudonym.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binding {
    /// The trust domain.
    pub trust_domain: TrustDomain,
    /// The task.
    pub task: TaskId,
    /// The statement key, as the ledger names the client.
    pub pseudonym: VerifyingKey,
    /// The client's identity.
    pub client: ClientId,
    /// SHA-256 of its certificate's DER.
    pub certificate: Digest,
    /// The certificate's public key.
    pub certificate_key: VerifyingKey,
    /// That key's signature over trust domain, task and pseudonym.
    pub certification: Signature,
}

/// Text that is no list of bindings.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line} is not {expected:?} of a binding")]
pub struct BindingError {
    /// The line, from 1.
    pub line: usize,
    /// What belongs there.
    pub expected: &'static str,
}

/// What disclosed bindings add to an audit.
#[derive(Clone, Debug, Default)]
pub struct Disclosed {
    /// Whose each pseudonym is.
    pub bound: BTreeMap<VerifyingKey, ClientId>,
    /// How many pseudonyms of each task of the report are bound, in its order.
    pub n_bound: Vec<usize>,
    /// What each disclosed client was charged in all tasks, by identity.
    pub clients: Vec<ClientSummary>,
    /// How many entries about members are opened, of those that the report has.
    pub n_opened: usize,
    /// What does not hold, in words that name the binding or opening.
    pub faults: Vec<String>,
}

/// What one client was charged over all tasks in which its pseudonyms are disclosed.
#[derive(Clone, Debug)]
pub struct ClientSummary {
    /// The client, by the name that was disclosed.
    pub client: ClientId,
    /// The certificates that say whether this is its name, each by its SHA-256, and the key that each must have: that they
    /// do, the bindings do not show.
    pub certificates: BTreeSet<(Digest, VerifyingKey)>,
    /// The tasks.
    pub tasks: BTreeSet<TaskId>,
    /// Rosters in which it stood.
    pub attempts: u64,
    /// Epsilon of one of its records, against the coordinator with its colluders; infinite where nothing is promised.
    pub epsilon_record: f64,
    /// The same of the client as a whole.
    pub epsilon_client: f64,
    /// The delta of both: the least of its tasks'.
    pub delta: f64,
}

impl Binding {
    /// The binding as text, to be put beside others.
    pub fn encode(&self) -> String {
        let mut lines = Lines::new(DOMAIN);
        lines.line("trust-domain", &self.trust_domain);
        lines.line("task", &self.task);
        lines.line("pseudonym", self.pseudonym);
        lines.line("client", &self.client);
        lines.line("certificate", self.certificate);
        lines.line("certificate-key", self.certificate_key);
        lines.line("certification", self.certification);
        lines.finish()
    }

    /// Reads any number of bindings, one after the other.
    ///
    /// # Errors
    /// If the text is anything else; the error names the line.
    pub fn parse_all(text: &str) -> Result<Vec<Self>, BindingError> {
        let mut lines = LineReader::new(text);
        let (mut bindings, mut line) = (Vec::new(), 0);
        while !lines.is_empty() {
            line += 1;
            if lines.line() != Some(DOMAIN) {
                return Err(BindingError { line, expected: DOMAIN });
            }
            bindings.push(Self::read(&mut lines, &mut line)?);
        }
        Ok(bindings)
    }

    /// Reads what follows the domain; `line` is the line read last.
    pub(crate) fn read(lines: &mut LineReader<'_>, line: &mut usize) -> Result<Self, BindingError> {
        Ok(Self {
            trust_domain: field(lines, line, "trust-domain", parsed)?,
            task: field(lines, line, "task", parsed)?,
            pseudonym: field(lines, line, "pseudonym", |text| parse_hex(text).map(VerifyingKey))?,
            client: field(lines, line, "client", parsed)?,
            certificate: field(lines, line, "certificate", |text| parse_hex(text).map(Digest))?,
            certificate_key: field(lines, line, "certificate-key", |text| parse_hex(text).map(VerifyingKey))?,
            certification: field(lines, line, "certification", |text| parse_hex(text).map(Signature))?,
        })
    }

    /// Whether the certificate's key certified the pseudonym, and the client is of the trust domain.
    pub fn holds(&self) -> bool {
        let certified = statement_key_certification(&self.trust_domain, &self.task, &self.pseudonym);
        self.client.trust_domain() == self.trust_domain.as_str()
            && self.certificate_key.check().is_ok()
            && self.certificate_key.verify(&certified, &self.certification).is_ok()
    }
}

/// Holds `bindings` against what an audit found, and adds up what each client was charged over all of its tasks. From the
/// second mechanism on the next one may have been chosen by what the first released, and the total is converted as such.
pub fn disclose(report: &Report, bindings: &[Binding]) -> Disclosed {
    let trust_domain = report.opened.as_ref().map(|opened| &opened.trust_domain);
    let mut disclosed = Disclosed { n_bound: vec![0; report.tasks.len()], ..Disclosed::default() };
    let mut bound: BTreeMap<VerifyingKey, &ClientId> = BTreeMap::new();
    let mut clients: BTreeMap<&ClientId, Standing> = BTreeMap::new();
    for binding in bindings {
        let (pseudonym, client) = (binding.pseudonym, &binding.client);
        let mut fault = |what: &str| disclosed.faults.push(format!("binding of {pseudonym} to {client}: {what}"));
        if !binding.holds() {
            fault("the certificate's key did not certify this pseudonym");
            continue;
        }
        let place = report.tasks.iter().position(|task| task.task == binding.task);
        let standing = place.and_then(|place| {
            let task = &report.tasks[place];
            let found = task.pseudonyms.binary_search_by_key(&pseudonym, |one| one.pseudonym).ok()?;
            Some((place, task.pseudonyms[found].attempts))
        });
        let Some((place, attempts)) = standing.filter(|_| trust_domain == Some(&binding.trust_domain)) else {
            fault("the ledger has no such pseudonym in this task");
            continue;
        };
        match bound.insert(pseudonym, client) {
            None => {
                disclosed.n_bound[place] += 1;
                clients.entry(client).or_default().attempts.push((place, attempts));
            }
            // The same again, under a certificate that was renewed.
            Some(before) if before == client => {}
            Some(_) => {
                fault("it is bound to another client too");
                continue;
            }
        }
        clients.entry(client).or_default().certificates.insert((binding.certificate, binding.certificate_key));
    }
    disclosed.clients = clients.into_iter().map(|(client, standing)| summary(report, client, &standing)).collect();
    disclosed.bound = bound.into_iter().map(|(pseudonym, client)| (pseudonym, client.clone())).collect();
    disclosed
}

/// What is disclosed of one client.
#[derive(Default)]
struct Standing {
    certificates: BTreeSet<(Digest, VerifyingKey)>,
    /// By the place of the task in the report: in how many rosters of it the client stood.
    attempts: Vec<(usize, u64)>,
}

fn summary(report: &Report, client: &ClientId, standing: &Standing) -> ClientSummary {
    let mut attempts = standing.attempts.clone();
    attempts.sort_unstable();
    let tasks: Vec<_> = attempts.iter().map(|(place, attempts)| (&report.tasks[*place], *attempts)).collect();
    let delta = tasks.iter().map(|(task, _)| task.delta).fold(f64::INFINITY, f64::min);
    let mechanisms: Vec<&Mechanism> = tasks.iter().map(|(task, _)| &task.opened.mechanism).collect();
    let n_mechanisms = mechanisms.iter().map(|mechanism| mechanism.encode()).collect::<BTreeSet<_>>().len();
    let epsilon = |unit: UnitOfPrivacy| {
        let mut accountant = Accountant::new();
        for (mechanism, (_, attempts)) in mechanisms.iter().zip(&tasks) {
            accountant.compose_curve(&mechanism.curve_for(unit), *attempts, mechanism.cut_probability());
        }
        match mechanisms.first() {
            // Another mechanism was chosen after what the first one released: what the least budget would be that lets all of
            // it pass. Which was the first is read from the order in which the tasks were opened.
            Some(first) if n_mechanisms > 1 => {
                let (curve, attempts) = (first.curve_for(unit), first.common().max_attempts);
                let first = Planned { curve: &curve, failure: first.cut_probability(), attempts };
                RenyiFilter::least(&first, &accountant, delta)
            }
            _ => accountant.epsilon(delta),
        }
    };
    ClientSummary {
        client: client.clone(),
        certificates: standing.certificates.clone(),
        attempts: tasks.iter().map(|(_, attempts)| attempts).sum(),
        epsilon_record: epsilon(UnitOfPrivacy::Record),
        epsilon_client: epsilon(UnitOfPrivacy::Client),
        tasks: tasks.into_iter().map(|(task, _)| task.task.clone()).collect(),
        delta,
    }
}

pub(crate) fn field<'a, T>(
    lines: &mut LineReader<'a>,
    line: &mut usize,
    name: &'static str,
    parse: impl FnOnce(&'a str) -> Option<T>,
) -> Result<T, BindingError> {
    *line += 1;
    lines.value(name).and_then(parse).ok_or(BindingError { line: *line, expected: name })
}

pub(crate) fn parsed<T: FromStr>(text: &str) -> Option<T> {
    text.parse().ok()
}
