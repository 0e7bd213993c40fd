//! The report of a ledger for whoever has no terminal: one page of HTML that needs nothing else, and the same as JSON.
//!
//! Its words are the privacy statement's ([`crate::statement`]), its figures the audit's ([`crate::audit`]); what is added
//! here is how they came about over the rounds (`history.rs`). The page holds no script and asks for nothing outside
//! itself, which it tells the browser to enforce. It does not grow with the ledger: beyond the limits below it says how
//! many it left out. The same ledger gives the same bytes.

mod chart;
mod history;
mod html;
mod page;

use std::path::Path;

use eranos_base::VerifyingKey;
use serde_json::{Value, json};

use crate::{
    audit::{self, AuditError, Options, PseudonymSummary, TaskSummary},
    binding::Disclosed,
    disclosure::Disclosure,
    note::LedgerKey,
    statement,
};
use history::{History, TaskHistory};

/// Tasks that are shown, in the order in which they were opened; the others are counted.
pub const TASKS_SHOWN_MAX: usize = 16;
/// Clients that are shown by name, where they are disclosed; the others are counted.
pub const CLIENTS_SHOWN_MAX: usize = 200;
/// Pseudonyms of a task that are shown, those that were charged most first; the others are summed up.
pub const PARTIES_SHOWN_MAX: usize = 200;

/// What an audit found, and how it came about.
pub struct Report {
    /// What the audit found.
    pub audit: audit::Report,
    /// Whose pseudonyms were disclosed, and what does not hold of it.
    pub disclosed: Disclosed,
    key: LedgerKey,
    history: History,
}

impl Report {
    /// Audits the log in `dir`, as [`audit::verify`] does, gathers its history in the same pass, and holds what was
    /// disclosed against it.
    ///
    /// # Errors
    /// As [`audit::verify`].
    pub fn new(dir: &Path, options: &Options, disclosure: &Disclosure) -> Result<Self, AuditError> {
        let mut history = History::default();
        let audit = audit::verify_seeing(dir, options, &mut |at, entry| history.take(at, entry))?;
        let disclosed = disclosure.check(&audit);
        Ok(Self { audit, disclosed, key: options.key.clone(), history })
    }

    /// One self-contained page.
    pub fn to_html(&self) -> String {
        page::to_html(self)
    }

    /// The same as one JSON object, under the same limits. What is infinite, since nothing is promised, is null.
    pub fn to_json(&self) -> Value {
        let tasks: Vec<Value> = self.tasks().map(|task| task.to_json(self)).collect();
        let clients = self.disclosed.clients.iter().take(CLIENTS_SHOWN_MAX).map(|one| {
            json!({
                "client": one.client.to_string(),
                "tasks": one.tasks.iter().map(|task| task.as_str()).collect::<Vec<_>>(),
                "attempts": one.attempts,
                "epsilon_record": finite(one.epsilon_record),
                "epsilon_client": finite(one.epsilon_client),
                "delta": one.delta,
            })
        });
        let checkpoint = self.audit.checkpoint.as_ref();
        let findings: Vec<String> = self.audit.findings.iter().map(ToString::to_string).collect();
        json!({
            "sentence": self.sentence(),
            "verified": self.audit.is_clean(),
            "origin": checkpoint.map(|c| c.origin.as_str()),
            "size": checkpoint.map(|c| c.size),
            "root": checkpoint.map(|c| c.root.to_string()),
            "witnessed": self.audit.witnessed.iter().map(|(witness, at)| {
                json!({ "witness": witness.as_str(), "time": at.unix_ms() / 1000 })
            }).collect::<Vec<Value>>(),
            "key": self.key.to_string(),
            "command": self.command(),
            "n_findings": self.audit.n_findings,
            "findings": findings,
            "n_clients": self.disclosed.clients.len(),
            "clients": clients.collect::<Vec<Value>>(),
            "binding_faults": self.disclosed.faults,
            "n_tasks": self.audit.tasks.len(),
            "tasks": tasks,
        })
    }

    /// What stands first: a warning where one is due, else what the one task promises, or that there are several.
    pub fn sentence(&self) -> String {
        if let Some(warning) = statement::warning(&self.audit) {
            return warning;
        }
        match self.audit.tasks.as_slice() {
            [] => statement::NO_TASK.to_owned(),
            [task] => statement::sentence(task),
            tasks => match self.audit.without_noise().count() {
                0 => format!("This ledger holds {} tasks; what each of them promises stands at its head.", tasks.len()),
                n => format!(
                    "NOT PRIVATE: in {n} of the {} tasks of this ledger nobody added noise, and nothing is promised; what the \
                     others promise stands at their heads.",
                    tasks.len()
                ),
            },
        }
    }

    /// What to type to check the ledger. The key is quoted, since whoever made it chose its name.
    fn command(&self) -> String {
        format!("eranos-audit recompute LEDGER --key '{}'", self.key.to_string().replace('\'', r"'\''"))
    }

    fn tasks(&self) -> impl Iterator<Item = TaskView<'_>> {
        let view = |summary| TaskView::new(summary, &self.history);
        self.audit.tasks.iter().take(TASKS_SHOWN_MAX).map(view)
    }
}

/// One task, as it is shown.
struct TaskView<'a> {
    summary: &'a TaskSummary,
    history: &'a TaskHistory,
    /// Those that are shown, the most charged first.
    parties: Vec<PartyView>,
    others: Option<Others>,
}

#[derive(Clone, Copy)]
struct PartyView {
    summary: PseudonymSummary,
    dropped: u64,
}

/// The pseudonyms beyond [`PARTIES_SHOWN_MAX`].
struct Others {
    n: usize,
    /// The least and the most that one of them was charged.
    epsilon_min: f64,
    epsilon_max: f64,
    dropped: u64,
}

impl<'a> TaskView<'a> {
    fn new(summary: &'a TaskSummary, history: &'a History) -> Self {
        static NOTHING: std::sync::LazyLock<TaskHistory> = std::sync::LazyLock::new(TaskHistory::default);

        // A task that the audit counts was opened, and its history began there.
        let history = history.task(&summary.task, summary.session).unwrap_or(&NOTHING);
        let dropped = |key: &VerifyingKey| history.parties.get(key).map_or(0, |party| party.dropped);
        let mut all: Vec<PseudonymSummary> = summary.pseudonyms.clone();
        all.sort_by_key(|one| (std::cmp::Reverse(one.attempts), one.pseudonym));
        let rest = all.split_off(all.len().min(PARTIES_SHOWN_MAX));
        let others = rest.first().zip(rest.last()).map(|(most, least)| Others {
            n: rest.len(),
            epsilon_min: least.charged.coordinator,
            epsilon_max: most.charged.coordinator,
            dropped: rest.iter().map(|one| dropped(&one.pseudonym)).sum(),
        });
        let parties =
            all.into_iter().map(|summary| PartyView { summary, dropped: dropped(&summary.pseudonym) }).collect();
        Self { summary, history, parties, others }
    }

    fn is_private(&self) -> bool {
        statement::is_private(self.summary)
    }

    /// The headline epsilon of `n_attempts` attempts.
    fn epsilon(&self, n_attempts: u64) -> f64 {
        if n_attempts == 0 { 0.0 } else { self.summary.curves.epsilons(n_attempts).coordinator }
    }

    fn n_aborted(&self) -> u64 {
        self.summary.aborted_before_reveal + self.summary.aborted_after_reveal
    }

    /// Drop-outs, and how often a party stood where that can be told: (party, attempt) pairs.
    fn dropped(&self) -> (u64, u64) {
        let spans = &self.history.spans;
        let stood: u64 = spans.iter().map(|span| span.announced_stood).sum();
        let survived: u64 = spans.iter().map(|span| span.survived).sum();
        (stood.saturating_sub(survived), stood)
    }

    fn to_json(&self, report: &Report) -> Value {
        let Self { summary, history, .. } = self;
        let course: Vec<Value> = history
            .ends()
            .zip(&history.spans)
            .map(|(end, span)| {
                json!({
                    "attempts": end,
                    "epsilon": finite(self.epsilon(end)),
                    "epsilon_most_charged": finite(self.epsilon(span.most)),
                    "aborted": span.aborted,
                    "stood": span.stood,
                    "dropped": span.announced_stood.saturating_sub(span.survived),
                })
            })
            .collect();
        let parties: Vec<Value> = self
            .parties
            .iter()
            .map(|PartyView { summary: one, dropped }| {
                json!({
                    "pseudonym": one.pseudonym.to_string(),
                    "client": report.disclosed.bound.get(&one.pseudonym).map(ToString::to_string),
                    "attempts": one.attempts,
                    "revealed": one.revealed,
                    "dropped": dropped,
                    "epsilon": finite(one.charged.coordinator),
                })
            })
            .collect();
        let others = self.others.as_ref().map(|others| {
            json!({
                "n": others.n,
                "epsilon_min": finite(others.epsilon_min),
                "epsilon_max": finite(others.epsilon_max),
                "dropped": others.dropped,
            })
        });
        let aborted: Vec<Value> = history
            .aborted
            .iter()
            .map(|one| {
                json!({
                    "entry": one.entry,
                    "round": one.round,
                    "outcome": one.outcome.name(),
                    "roster": one.n1,
                    "survivors": one.survivors,
                })
            })
            .collect();
        let (dropped, stood) = self.dropped();
        json!({
            "task": summary.task.as_str(),
            "sentence": statement::sentence(summary),
            "private": self.is_private(),
            "epsilon": finite(summary.charged_in_all.coordinator),
            "budget_epsilon": finite(summary.budget_epsilon),
            "delta": summary.delta,
            "attempts": summary.attempts,
            "max_attempts": summary.max_attempts,
            "released": summary.released,
            "n_aborted": self.n_aborted(),
            "aborted": aborted,
            "stood": stood,
            "dropped": dropped,
            // No entry of a ledger has a field for it.
            "energy": Value::Null,
            "attempts_of_a_step": history.span_len,
            "course": course,
            "n_parties": summary.pseudonyms.len(),
            "parties": parties,
            "other_parties": others,
            "statement": statement::to_json_of(&report.audit, summary),
        })
    }
}

/// JSON has no infinity.
fn finite(epsilon: f64) -> Option<f64> {
    epsilon.is_finite().then_some(epsilon)
}

/// An epsilon in three digits after the point, never less than it is.
fn rounded_up(epsilon: f64) -> String {
    match epsilon.is_finite() {
        true => format!("{:.3}", (epsilon * 1e3).ceil() / 1e3),
        false => "infinite".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::{
        history::tests::{at, attempt, pseudonym, stored},
        *,
    };
    use crate::{audit::FINDINGS_MAX, entry::Entry};

    /// The audit of the stored log.
    fn audited() -> (Options, audit::Report) {
        let vectors = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors"));
        let key = std::fs::read_to_string(vectors.join("ledger.pub")).expect("a key");
        let options = Options::new(key.trim_end().parse().expect("a key"));
        let report = audit::verify(&vectors.join("log"), &options).expect("readable");
        (options, report)
    }

    #[test]
    fn a_page_does_not_grow_with_its_ledger_and_says_what_it_left_out() {
        const N_PARTIES: u32 = 3000;
        let (task, template) = stored();
        let mut history = History::default();
        history.take(at(1), &task);
        for round in 1..=1300u64 {
            let members: Vec<u32> = (0..200).map(|i| (round as u32 * 7 + i) % N_PARTIES).collect();
            history.take(at(round + 1), &Entry::Attempt(Box::new(attempt(&template, round, &members, &[3]))));
        }
        let (options, mut audit) = audited();
        let mut summary = audit.tasks[0].clone();
        let kept = history.task(&summary.task, summary.session).expect("a task");
        let charged = summary.charged;
        summary.pseudonyms = (0..N_PARTIES)
            .map(pseudonym)
            .map(|pseudonym| {
                let attempts = kept.parties[&pseudonym].stood;
                PseudonymSummary { pseudonym, attempts, revealed: attempts, entries: (2, 2), charged }
            })
            .collect();
        (summary.aborted_before_reveal, summary.aborted_after_reveal) = (130, 0);
        audit.tasks = vec![summary; 20];
        audit.n_findings = 1000;
        let report = Report { audit, disclosed: Disclosed::default(), key: options.key, history };
        let page = report.to_html();
        assert!(page.len() < 5 << 20, "{} bytes", page.len());
        for says in [
            "This page shows the first 16 tasks. 4 further ones are left out",
            "Listed are the 200 parties that were charged most. 2800 others were charged between",
            "Listed are the first 100; 30 further aborted attempts are counted above.",
            "Drawn are the 32 parties that came first; 2968 others are not.",
            "A point stands for 8 attempts.",
            "A bar is the mean of 8 attempts.",
        ] {
            assert_eq!(page.matches(says).count(), if says.starts_with("This page") { 1 } else { 16 }, "{says}");
        }
        assert!(page.contains(&format!("{} further findings", 1000 - report.audit.findings.len())));
        assert!(report.audit.findings.len() <= FINDINGS_MAX);
        let json = report.to_json();
        assert_eq!((json["n_tasks"].as_u64(), json["tasks"].as_array().map(Vec::len)), (Some(20), Some(16)));
        let task = &json["tasks"][0];
        assert_eq!(
            (task["parties"].as_array().map(Vec::len), task["other_parties"]["n"].as_u64()),
            (Some(200), Some(2800))
        );
        assert!(task["course"].as_array().is_some_and(|course| course.len() <= history::SPANS_MAX));
        let attempts: Vec<u64> =
            task["parties"].as_array().expect("a list").iter().filter_map(|one| one["attempts"].as_u64()).collect();
        assert!(attempts.is_sorted_by(|a, b| a >= b), "the most charged first");
    }

    #[test]
    fn an_epsilon_is_never_shown_smaller_than_it_is() {
        for (epsilon, shown) in [(3.9411, "3.942"), (0.5, "0.500"), (1e-9, "0.001"), (f64::INFINITY, "infinite")] {
            assert_eq!(rounded_up(epsilon), shown);
        }
    }
}
