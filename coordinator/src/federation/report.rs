//! What the federation says of itself: to whoever watches, asks for its status, or has to mend something.

use std::collections::BTreeSet;

use eranos_base::{ClientId, Clock, UserError};
use eranos_ledger::{Entry, Epsilons};
use eranos_privacy::Promise;
use eranos_wire::{messages::abort::Reason, tls::ALPN};
use tokio::task::block_in_place;

use super::{Federation, RoundReport, VERSIONS_SAID_MAX};
use crate::{
    model::TestFigures,
    round::{Note, Phase, Round},
    server::Server,
    status::{self, Ask, Live},
};

impl Federation {
    /// Says how things stand.
    pub(super) fn tell(&self, ask: Ask, server: &Server) {
        let select = if let Round::Select(select) = &self.round { select.cohort().count() } else { 0 };
        let (mut bytes_up_total, mut bytes_down_total) = (self.totals.bytes_up, self.totals.bytes_down);
        for counted in self.previous.iter().map(|(counted, ..)| counted).chain([&self.current]) {
            bytes_up_total += counted.bytes_up;
            bytes_down_total += counted.bytes_down;
        }
        let (memory_resident, memory_resident_max) = status::memory();
        let phase = match (&self.round, self.dismissing) {
            (_, true) => "over",
            (round, false) => round.phase().map_or("settle", Phase::name),
        };
        // Nobody need wait for the answer.
        let _ = ask.send(Live {
            process: std::process::id(),
            round: self.round_ref.round.0,
            phase: phase.to_owned(),
            phase_left_ms: self.wake.map_or(0, |at| at.since(self.clock.now()).as_millis() as u64),
            released: self.released,
            attempts: self.n_attempts,
            epsilon: Some(self.epsilon()).filter(|epsilon| epsilon.is_finite()),
            cohort: self.current.cohort.len(),
            waiting: self.late.len() + select,
            needed: self.mechanism.common().u_min.into(),
            spent: self.spent().iter().map(|id| id.name().to_owned()).collect(),
            train: self.totals.train.into(),
            dropped: self.current.dropped().keys().map(|id| id.name().to_owned()).collect(),
            dropped_total: self.totals.n_dropped as u64,
            connected: server.figures().n_connected(),
            bytes_up: self.current.bytes_up,
            bytes_down: self.current.bytes_down,
            bytes_up_total,
            bytes_down_total,
            memory_resident,
            memory_resident_max,
        });
    }

    /// Whom no further attempt may be debited to.
    pub(super) fn spent(&self) -> BTreeSet<ClientId> {
        let most = u64::from(self.attempts_per_client_max);
        self.debited.iter().filter(|(_, attempts)| **attempts >= most).map(|(id, _)| id.clone()).collect()
    }

    /// A round that waits for clients of whom too few are left that anything may be debited to: it waits on, since others may
    /// come as long as it runs, and says so once for each client that is spent.
    pub(super) fn warn_of_spent(&mut self) {
        let Round::Select(select) = &self.round else { return };
        let (there, needed) = (select.cohort().count(), usize::from(self.mechanism.common().u_min));
        let spent: Vec<String> = self.spent().iter().map(|id| id.name().to_owned()).collect();
        if there >= needed || spent.is_empty() {
            return;
        }
        let names = spent.join(", ");
        if self.warned.replace(names.clone()).as_ref() == Some(&names) {
            return;
        }
        let what = format!(
            "round {} waits: {there} of the {needed} clients that it needs are there, and {} have spent what the task allows \
             one client: {names}",
            self.round_ref.round.0,
            spent.len(),
        );
        // No warning of the log: the two lines below are one, and once is enough.
        tracing::info!(there, needed, spent = names, "too few clients are left");
        if let Some(warnings) = &self.warnings {
            let next = "it waits for others to join as long as it runs; or end it: the model so far can be exported, and \
                        another task may allow each client more (privacy.client_epsilon_max)";
            // Nobody need listen.
            let _ = warnings.try_send(UserError::new(what, next));
        }
    }

    /// A client that speaks another version of the protocol than this build: said once of each.
    pub(super) fn warn_of_version(&mut self, id: &ClientId, theirs: &Reason, is_later: bool) {
        if self.versions_said.len() >= VERSIONS_SAID_MAX || self.versions_said.get(id) == Some(theirs) {
            return;
        }
        self.versions_said.insert(id.clone(), theirs.clone());
        let ours = String::from_utf8_lossy(ALPN);
        tracing::info!(client = %id, %theirs, %ours, "another version");
        if let Some(warnings) = &self.warnings {
            let what = format!("client {} speaks {theirs}, this coordinator {ours}: it cannot take part", id.name());
            let next = match is_later {
                true => "upgrade this coordinator: the client's version is the later one",
                false => "have its operator upgrade it: this coordinator's version is the later one",
            };
            // Nobody need listen.
            let _ = warnings.try_send(UserError::new(what, next));
        }
    }

    /// A client that says that it knows more of the ledger before this one than was counted as lost: said again only of more.
    pub(super) fn warn_of_lost(&mut self, id: &ClientId, known: u64) {
        let Some(Ok(Entry::LogRestored(restored))) =
            self.restored.as_ref().map(|restored| Entry::parse(&restored.restored.0, None))
        else {
            return;
        };
        let beyond = known.saturating_sub(restored.old_size);
        if beyond <= restored.attempts_lost || known <= self.known_before {
            return;
        }
        self.known_before = known;
        tracing::info!(client = %id, known, "knows more of the old ledger than was counted as lost");
        if let Some(warnings) = &self.warnings {
            let what = format!(
                "client {} says that it knows {beyond} entries of the old ledger beyond the backup; {} attempts were counted as \
                 lost",
                id.name(),
                restored.attempts_lost
            );
            let next =
                "if it is so, restore the backup again with --attempts-lost of at least that, before anybody accepts";
            // Nobody need listen.
            let _ = warnings.try_send(UserError::new(what, next));
        }
    }

    pub(super) fn note(&mut self, note: Note) {
        match note {
            Note::Phase { phase, n_clients } => {
                tracing::debug!(round = self.round_ref.round.0, phase = phase.name(), n_clients, "phase");
            }
            Note::PhaseOver { phase, took, timed_out } => {
                if !timed_out {
                    self.pace.note(phase, took);
                }
            }
            Note::Dropped { id, phase, reason } => {
                tracing::info!(client = %id, phase = phase.name(), reason, "client dropped out");
                self.current.dropped.entry(id).or_insert(phase.name());
            }
            Note::Misbehaved { id, what } => tracing::warn!(client = %id, what, "message refused"),
            Note::Blamed { id, what } => {
                tracing::warn!(client = %id, what, "excluded");
                // It may have left the round and wait for the next one already.
                if self.late.remove(&id).is_some() {
                    self.exclude(&id);
                }
                self.excluded.insert(id);
            }
        }
    }

    /// Counts the round that ended. Its report waits until the next cohort is known: only then is it certain who of
    /// this one is gone.
    pub(super) fn report(&mut self, aborted: Option<String>) {
        self.publish();
        let current = std::mem::take(&mut self.current);
        let report = RoundReport {
            round: self.round_ref.round.0,
            released: self.released,
            rounds: self.task.schedule.rounds,
            aborted,
            sum: current.sum,
            n_selected: current.cohort.len(),
            dropped: Vec::new(),
            epsilon: self.epsilon(),
            test_accuracy: None,
            train: current.train,
            l2_clip_norm: current.l2_clip_norm,
            bytes_up: 0,
            bytes_down: 0,
            took: current.began.elapsed(),
        };
        self.previous = Some((current, report, self.model.clone()));
    }

    /// Publishes the report that waits, with the accuracy of its model.
    pub(super) fn publish(&mut self) {
        let Some((counted, mut report, model)) = self.previous.take() else { return };
        let dropped = counted.dropped();
        self.totals.n_dropped += dropped.len();
        self.totals.bytes_up += counted.bytes_up;
        self.totals.bytes_down += counted.bytes_down;
        (report.bytes_up, report.bytes_down) = (counted.bytes_up, counted.bytes_down);
        report.dropped = dropped.into_iter().collect();
        tracing::info!(
            round = report.round,
            released = report.released,
            aborted = report.aborted,
            selected = report.n_selected,
            dropped = report.dropped.len(),
            epsilon = report.epsilon,
            bytes_up = report.bytes_up,
            bytes_down = report.bytes_down,
            took_ms = report.took.as_millis() as u64,
            "round over"
        );
        let (reports, test_set) = (self.reports.clone(), self.test_set.clone());
        tokio::task::spawn_blocking(move || {
            report.test_accuracy = test_set.and_then(|set| model.evaluate(&set).ok()).map(|e| e.accuracy);
            // Nobody need watch, and whoever stopped watching must not hold up one thread after the other.
            let _ = reports.try_send(report);
        });
    }

    pub(super) fn test_figures(&self) -> Option<TestFigures> {
        let set = self.test_set.as_ref()?;
        block_in_place(|| self.model.test_figures(set)).ok()
    }

    pub(super) fn epsilon(&self) -> f64 {
        // All attempts are of one promise, in whichever log they stand.
        let n_attempts = self.attempts.n_attempts() + u64::from(self.before.attempts);
        Epsilons::promised(&self.mechanism, n_attempts).coordinator
    }
}
