//! The state of one task: what may follow, and every figure recomputed.

use std::collections::BTreeMap;

use eranos_base::{Digest, GraphKind, RoundNumber, VerifyingKey};
use eranos_privacy::{Mechanism, Promise, View, accountant::Accountant};

use crate::{
    audit::{fault::Fault, summary::TaskSummary},
    entry::{
        Attempt, BudgetSet, Date, Epsilons, Executable, LogRestored, ModelPublished, Outcome, PrivacyStated,
        PromisedCurves, TaskOpened, TaskStated,
    },
};

/// Different programs of one task that are kept; a task that is never restarted has one.
pub const EXECUTABLES_MAX: usize = 16;
/// Privacy statements of one task, each of which is made anew; and files of one model that are told apart.
pub const STATEMENTS_MAX: usize = 16;
/// Relative difference up to which a declared epsilon equals the recomputed one: the last digits of logarithms differ
/// between platforms.
pub const EPSILON_TOLERANCE: f64 = 1e-9;

/// What the entries so far say of one task.
pub(super) struct Task {
    pub(super) opened: TaskOpened,
    /// What it goes on from, where that was in another log.
    restored: Option<LogRestored>,
    pub(super) curves: PromisedCurves,
    attempts: u64,
    /// The highest round so far; 0 before the first.
    last_round: RoundNumber,
    last_plan: Option<Digest>,
    weights: Digest,
    released: u64,
    aborted_before_reveal: u64,
    aborted_after_reveal: u64,
    /// How many attempts revealed a sum over so many survivors; at most n_max different numbers.
    by_survivors: BTreeMap<u32, u64>,
    executables: Vec<Executable>,
    is_sparse: bool,
    /// Its pseudonyms, in the order in which they came.
    pub(super) members: Vec<VerifyingKey>,
    stated: Option<(Date, TaskStated)>,
    /// The date that was named last.
    last_date: Option<Date>,
    client_budget: Option<BudgetSet>,
    /// The round released last.
    last_released: Option<RoundNumber>,
    /// The files of the weights released last.
    published: Vec<ModelPublished>,
    last_published: Option<ModelPublished>,
    pub(super) privacy_stated: Option<(u64, PrivacyStated, bool)>,
    n_privacy_stated: usize,
}

impl Task {
    pub(super) fn new(opened: TaskOpened, restored: Option<LogRestored>, curves: PromisedCurves) -> Self {
        Self {
            restored,
            curves,
            attempts: 0,
            last_round: RoundNumber(0),
            last_plan: None,
            weights: opened.weights,
            released: 0,
            aborted_before_reveal: 0,
            aborted_after_reveal: 0,
            by_survivors: BTreeMap::new(),
            executables: Vec::new(),
            is_sparse: false,
            members: Vec::new(),
            stated: None,
            last_date: None,
            client_budget: None,
            last_released: None,
            published: Vec::new(),
            last_published: None,
            privacy_stated: None,
            n_privacy_stated: 0,
            opened,
        }
    }

    /// Takes in what its operator says of it.
    pub(super) fn state(&mut self, stated: TaskStated, opened_on: Option<Date>, fault: &mut dyn FnMut(Fault)) {
        self.last_date = self.last_date.max(opened_on);
        self.check_date(stated.date, fault);
        if self.stated.as_ref().is_some_and(|(_, before)| stated.repeats(before)) {
            return fault(Fault::Repeated);
        }
        let first = self.stated.as_ref().map_or(stated.date, |(first, _)| *first);
        self.stated = Some((first, stated));
    }

    fn check_date(&mut self, found: Date, fault: &mut dyn FnMut(Fault)) {
        if let Some(before) = self.last_date.filter(|before| found < *before) {
            return fault(Fault::Date { found, before });
        }
        self.last_date = Some(found);
    }

    /// Takes in what one client may be charged.
    pub(super) fn set_budget(&mut self, set: BudgetSet, fault: &mut dyn FnMut(Fault)) {
        let allowed = self.curves.attempts_within(set.client_epsilon_max, self.max_attempts());
        // At the limit itself the last digits of a logarithm decide.
        let epsilon = |attempts| self.curves.epsilons(attempts).coordinator;
        let at_limit = allowed.abs_diff(set.client_attempts_max) == 1
            && set.client_epsilon_max.is_some_and(|most| {
                let between = epsilon(allowed.max(set.client_attempts_max));
                !exceeds(between, most) && !exceeds(most, between)
            });
        if set.client_attempts_max != allowed && !at_limit {
            fault(Fault::ClientAttempts { declared: set.client_attempts_max, allowed });
        }
        if self.client_budget.as_ref() == Some(&set) {
            return fault(Fault::Repeated);
        }
        self.client_budget = Some(set);
    }

    /// In how many rosters one client may stand.
    pub(super) fn client_attempts_max(&self) -> Option<u64> {
        self.client_budget.as_ref().map(|set| set.client_attempts_max)
    }

    /// Takes in that the model was given away.
    pub(super) fn publish(&mut self, published: ModelPublished, fault: &mut dyn FnMut(Fault)) {
        if self.last_released != Some(published.round) || self.weights != published.weights {
            let ModelPublished { round, weights, .. } = published;
            return fault(Fault::Published { round, weights });
        }
        if self.published.contains(&published) {
            return fault(Fault::Repeated);
        }
        if self.published.len() == STATEMENTS_MAX {
            return fault(Fault::TooMany { what: "files of one model", max: STATEMENTS_MAX });
        }
        self.last_published = Some(published.clone());
        self.published.push(published);
    }

    /// Whether this is a place for such a privacy statement, whatever it says.
    pub(super) fn may_state(&mut self, stated: &PrivacyStated, fault: &mut dyn FnMut(Fault)) -> bool {
        self.check_date(stated.date, fault);
        if stated.attempts != self.attempts {
            fault(Fault::StatedAttempts { found: stated.attempts, expected: self.attempts });
            return false;
        }
        if self.privacy_stated.as_ref().is_some_and(|(_, before, _)| before.attempts == stated.attempts) {
            fault(Fault::Repeated);
            return false;
        }
        if self.n_privacy_stated == STATEMENTS_MAX {
            fault(Fault::TooMany { what: "privacy statements of one task", max: STATEMENTS_MAX });
            return false;
        }
        self.n_privacy_stated += 1;
        true
    }

    fn max_attempts(&self) -> u64 {
        self.opened.mechanism.common().max_attempts.into()
    }

    pub(super) fn take(&mut self, attempt: &Attempt, fault: &mut dyn FnMut(Fault)) {
        let expected = self.last_round.next();
        if attempt.round != expected {
            fault(Fault::Round { found: attempt.round, expected });
        }
        // Goes on from the larger figure, so that one gap is one finding.
        self.last_round = self.last_round.max(attempt.round);
        self.attempts = self.attempts.saturating_add(1);
        if attempt.attempts != self.attempts {
            fault(Fault::Attempts { found: attempt.attempts, expected: self.attempts });
            self.attempts = self.attempts.max(attempt.attempts);
        }
        let max = self.max_attempts();
        // Those of the logs before this one count too: what is promised is one promise.
        let carried = self.restored.as_ref().map_or(0, LogRestored::attempts_carried);
        let found = self.attempts.saturating_add(carried);
        if found > max {
            fault(Fault::TooManyAttempts { found, max });
        }
        if self.executables.len() < EXECUTABLES_MAX && !self.executables.contains(&attempt.executable) {
            self.executables.push(attempt.executable.clone());
        }
        if let Some((_, stated)) = self.stated.as_ref().filter(|(_, stated)| stated.executable != attempt.executable) {
            let (found, stated) = (attempt.executable.sha256, stated.executable.sha256);
            fault(Fault::OtherExecutable { found, stated });
        }
        self.is_sparse |= attempt.graph == GraphKind::Sparse;
        if self.last_plan.replace(attempt.plan) == Some(attempt.plan) {
            fault(Fault::PlanReused);
        }
        if attempt.weights_before != self.weights {
            fault(Fault::Weights { found: attempt.weights_before, expected: self.weights });
        }
        match attempt.outcome {
            Outcome::Released { weights_after } => {
                self.released += 1;
                self.weights = weights_after;
                self.last_released = Some(attempt.round);
                self.published.clear();
            }
            Outcome::AbortedBeforeReveal => self.aborted_before_reveal += 1,
            Outcome::AbortedAfterReveal => self.aborted_after_reveal += 1,
        }
        let survivors = attempt.survivors().filter(|_| attempt.outcome.reveals()).map_or(0, |survivors| survivors.n());
        let u_min = u32::from(self.opened.mechanism.common().u_min);
        // Fewer than u_min is a finding of its own, and nothing is claimed for it; the map's keys stay few.
        *self.by_survivors.entry(survivors.max(u_min).min(u16::MAX.into())).or_default() += 1;
        let recomputed = self.curves.epsilons(self.attempts);
        for (view, declared, recomputed) in [
            ("the coordinator with colluders", attempt.epsilons.coordinator, recomputed.coordinator),
            ("outsiders", attempt.epsilons.outsider, recomputed.outsider),
        ] {
            if exceeds(declared, recomputed) || exceeds(recomputed, declared) {
                fault(Fault::Epsilon { view, declared, recomputed });
            }
        }
        let budget = self.opened.budget_epsilon;
        if exceeds(recomputed.coordinator, budget) {
            fault(Fault::Budget { epsilon: recomputed.coordinator, budget });
        }
    }

    pub(super) fn summary(&self) -> TaskSummary {
        let mechanism = &self.opened.mechanism;
        let carried = self.restored.as_ref().map_or(0, LogRestored::attempts_carried);
        TaskSummary {
            task: self.opened.task.clone(),
            session: self.opened.session,
            unit: mechanism.unit(),
            relation: mechanism.relation(),
            noise: mechanism.common().noise,
            opened: self.opened.clone(),
            restored: self.restored.clone(),
            charged_in_all: self.curves.epsilons(self.attempts.saturating_add(carried)),
            stated: self.stated.clone(),
            client_budget: self.client_budget.clone(),
            published: self.last_published.clone(),
            privacy_stated: self.privacy_stated.clone(),
            is_sparse: self.is_sparse,
            executables: self.executables.clone(),
            attempts: self.attempts,
            released: self.released,
            aborted_before_reveal: self.aborted_before_reveal,
            aborted_after_reveal: self.aborted_after_reveal,
            max_attempts: mechanism.common().max_attempts.into(),
            charged: self.curves.epsilons(self.attempts),
            attained: Epsilons {
                coordinator: self.attained(mechanism, View::CoordinatorWithColluders),
                outsider: self.attained(mechanism, View::Outsider),
            },
            delta: mechanism.common().delta,
            budget_epsilon: self.opened.budget_epsilon,
            weights: self.weights,
            pseudonyms: Vec::new(),
            curves: self.curves.clone(),
        }
    }

    fn attained(&self, mechanism: &Mechanism, view: View) -> f64 {
        let mut accountant = Accountant::new();
        for (survivors, n_attempts) in &self.by_survivors {
            let Some(shares) = mechanism.shares(view, *survivors) else { return f64::INFINITY };
            accountant.compose_curve(&mechanism.curve(shares), *n_attempts, mechanism.cut_probability());
        }
        accountant.epsilon(mechanism.common().delta)
    }
}

/// Whether `a` exceeds `b` by more than platforms differ. A NaN exceeds everything.
pub(super) fn exceeds(a: f64, b: f64) -> bool {
    a.is_nan() || b.is_nan() || a > b + EPSILON_TOLERANCE * b.abs().max(1.0)
}
