//! The privacy statement of a ledger: what each task promises to whom, by which mechanism, and what it does not promise.
//!
//! What the ledger holds is recomputed from it; what follows from how Eranos works is said in words; what nobody recorded
//! (who is responsible, the purpose) is named as such, so that a reader sees the gap. Markdown and JSON say the same.

use std::fmt::{Display, Write as _};

use eranos_privacy::{
    Groups, Mechanism, Noise, Probability, Promise, RdpCurve,
    accountant::Accountant,
    budget::UnitOfPrivacy,
    groups::{Group, Share, Subject},
    mechanism::{ClientMechanism, CommonParameters, RecordMechanism},
};
use serde_json::{Map, Value, json};

use crate::{
    audit::{Report, TaskSummary},
    entry::{Attempt, Executable, LogOpened, TaskStated, Words},
};

/// The number of the words below. Whoever changes one of them in [`entered`], or its order, counts up: a statement that was
/// entered into a ledger is made anew by those of the same number alone.
pub const WORDING: u64 = 1;

/// A heading and its fields: a name and what there is to say. What stands between backticks is to be typed as it is.
pub(crate) type Section = (&'static str, Vec<(&'static str, String)>);

/// The statement as Markdown: a part for each task.
pub fn to_markdown(report: &Report) -> String {
    let mut text = String::from("# Privacy statement\n\n");
    // Writing to a string cannot fail.
    if let Some(warning) = warning(report) {
        let _ = writeln!(text, "**{warning}**\n");
    }
    if report.tasks.is_empty() {
        let _ = writeln!(text, "{NO_TASK}");
    }
    for task in &report.tasks {
        let _ = writeln!(text, "## Task {}\n\n{}\n", task.task, sentence(task));
        for (heading, fields) in sections(report, task) {
            let _ = writeln!(text, "### {heading}\n");
            for (name, value) in fields {
                let _ = writeln!(text, "- **{name}**: {value}");
            }
            text.push('\n');
        }
    }
    text.truncate(text.trim_end().len());
    text.push('\n');
    text
}

/// The same as one JSON object. An epsilon that is infinite, since nothing is promised, is null.
pub fn to_json(report: &Report) -> Value {
    let tasks: Vec<Value> = report
        .tasks
        .iter()
        .map(|task| {
            json!({
                "task": task.task.as_str(),
                "private": is_private(task),
                "sentence": sentence(task),
                "epsilon": finite(task.charged_in_all.coordinator),
                "delta": task.delta,
                "statement": to_json_of(report, task),
            })
        })
        .collect();
    json!({ "verified": report.is_clean(), "n_findings": report.n_findings, "tasks": tasks })
}

/// The sections of one task.
pub(crate) fn to_json_of(report: &Report, task: &TaskSummary) -> Value {
    let fields = |fields: Vec<(&str, String)>| {
        fields.into_iter().map(|(name, value)| (name.to_owned(), value.into())).collect::<Map<String, Value>>()
    };
    let sections = sections(report, task);
    sections
        .into_iter()
        .map(|(heading, of)| (heading.to_owned(), fields(of).into()))
        .collect::<Map<String, Value>>()
        .into()
}

/// The bytes whose SHA-256 a ledger holds: what its entries so far say of the task, as JSON. `log` is what it was opened with.
/// It is what [`to_json`] gives but for how to check it, in lists, whose order is fixed.
pub fn entered(log: Option<&LogOpened>, task: &TaskSummary) -> String {
    let sections: Vec<Value> = told(log, task).iter().map(|(heading, fields)| json!([heading, fields])).collect();
    json!(["eranos/privacy-statement", WORDING, task.task.as_str(), sentence(task), sections]).to_string()
}

/// What a reader must know before anything else.
pub(crate) fn warning(report: &Report) -> Option<String> {
    let n = report.n_findings;
    (n > 0).then(|| format!("NOT VERIFIED: {n} findings. Nothing below can be relied on."))
}

pub(crate) fn is_private(task: &TaskSummary) -> bool {
    task.noise != Noise::None
}

/// JSON has no infinity.
fn finite(epsilon: f64) -> Option<f64> {
    epsilon.is_finite().then_some(epsilon)
}

/// The one sentence for everybody.
pub(crate) fn sentence(task: &TaskSummary) -> String {
    if !is_private(task) {
        return "NOT PRIVATE: nobody added noise, so nothing is promised to anybody's records; epsilon is infinite."
            .into();
    }
    let (epsilon, delta, factor) = (task.charged_in_all.coordinator, task.delta, task.charged_in_all.coordinator.exp());
    let what = match (task.unit, task.noise) {
        (UnitOfPrivacy::Record, _) => "Whether any one record of any one party was among the training data",
        (UnitOfPrivacy::Client, Noise::Local(_)) => "What all the records of any one party are",
        (UnitOfPrivacy::Client, _) => {
            "Whether all the records of any one party together were learnt from, or nothing of them,"
        }
    };
    format!(
        "{what} changes the probability of whatever can be concluded from everything this task has released by a factor of \
         at most {factor:.1} (epsilon = {epsilon:.6}), except with probability {delta:e} (delta)."
    )
}

pub(crate) fn sections(report: &Report, task: &TaskSummary) -> Vec<Section> {
    let mut sections = told(report.opened.as_ref(), task);
    sections.push(("How to check it", check(report, task)));
    sections
}

/// What the entries say, whoever reads them.
fn told(log: Option<&LogOpened>, task: &TaskSummary) -> Vec<Section> {
    let mechanism = &task.opened.mechanism;
    vec![
        ("What it is about", about(log, task)),
        ("What is protected", protected(mechanism)),
        ("How much is promised", promised(task)),
        ("Whom it is promised against", against(task)),
        ("Mechanism", parameters(mechanism)),
        ("Accounting", accounting()),
        ("Software", software(task)),
        (UNPROTECTED, unprotected(task)),
    ]
}

fn about(log: Option<&LogOpened>, task: &TaskSummary) -> Vec<(&'static str, String)> {
    let stated = task.stated.as_ref();
    let words = |of: fn(&TaskStated) -> &Option<Words>| {
        stated.and_then(|(_, stated)| of(stated).as_ref()).map_or(NOT_RECORDED.to_owned(), literal)
    };
    vec![
        ("Product", {
            let named = stated.and_then(|(_, stated)| stated.product.as_ref()).map(literal);
            let model = format!("a model whose definition has the SHA-256 {}", task.opened.model);
            named.map_or(model.clone(), |named| format!("{named}: {model}"))
        }),
        ("Released weights", format!("SHA-256 {} after {} released rounds", task.weights, task.released)),
        (
            "Published",
            task.published.as_ref().map_or("no file of the model was entered".into(), |one| {
                format!("the model of round {}, as a file with the SHA-256 {}", one.round, one.file)
            }),
        ),
        (
            "Parties",
            format!(
                "{} pseudonyms of the trust domain {}",
                task.pseudonyms.len(),
                log.map_or(NOT_RECORDED.to_owned(), |log| log.trust_domain.to_string())
            ),
        ),
        ("Dates", {
            let opened = log.map_or(NOT_RECORDED.to_owned(), |log| log.date.to_string());
            let since = stated.map_or(NOT_RECORDED.to_owned(), |(first, _)| first.to_string());
            format!(
                "the ledger was opened on {opened}, the task on {since} (UTC); the dates of its rounds are {NOT_RECORDED}"
            )
        }),
        ("Curator", words(|stated| &stated.curator)),
        ("Purpose", words(|stated| &stated.purpose)),
        ("Responsible contact", words(|stated| &stated.contact)),
        (
            "Whose words these are",
            "product, curator, purpose and contact are the operator's own, and proved by nothing".into(),
        ),
    ]
}

fn protected(mechanism: &Mechanism) -> Vec<(&'static str, String)> {
    match mechanism {
        Mechanism::Record(mechanism) => protected_records(mechanism),
        Mechanism::Client(mechanism) => protected_clients(mechanism),
    }
}

fn protected_records(mechanism: &RecordMechanism) -> Vec<(&'static str, String)> {
    let p = mechanism.parameters();
    vec![
        ("Unit", "one record of one party".into()),
        ("Neighbouring relation", "two data sets are neighbours if one has one record more".into()),
        (
            "Maximal contribution",
            format!(
                "a record enters {} at most once, with a gradient clipped to an L2 norm of {}; a party holds at most {} records",
                if p.local.is_some() { "each step of an attempt" } else { "an attempt" },
                clip(&mechanism.common()),
                p.record_bound
            ),
        ),
        (
            "People with several records",
            "the promise is for one record; for a person with m of them epsilon is at most m times as large, and delta grows \
             by a factor of at most m e^((m - 1) epsilon)"
                .into(),
        ),
    ]
}

fn protected_clients(mechanism: &ClientMechanism) -> Vec<(&'static str, String)> {
    let p = mechanism.parameters();
    let relation = match p.noise {
        Noise::Local(_) => "two federations are neighbours if one party has other records",
        Noise::Distributed(_) | Noise::None => {
            "two federations are neighbours if one party, which takes part in both and adds its noise in both, sends an \
             update of zero in one of them"
        }
    };
    vec![
        ("Unit", "one party: all of its records together".into()),
        ("Neighbouring relation", relation.into()),
        (
            "Maximal contribution",
            format!(
                "a party enters an attempt once, with an update clipped as a whole to an L2 norm of {}",
                clip(&mechanism.common())
            ),
        ),
        (
            "People with records at several parties",
            "the promise is for one party; for a person at m of them epsilon is at most m times as large, and delta grows by a \
             factor of at most m e^((m - 1) epsilon)"
                .into(),
        ),
    ]
}

fn promised(task: &TaskSummary) -> Vec<(&'static str, String)> {
    let mechanism = &task.opened.mechanism;
    let of_one_attempt = mechanism.promised_curve();
    let spent = match is_private(task) {
        true => format!("{:.6} at delta {:e}, for {} attempts", task.charged.coordinator, task.delta, task.attempts),
        false => "infinite: NOT PRIVATE".into(),
    };
    let left = match is_private(task) {
        true => {
            let left = task.budget_epsilon - task.charged_in_all.coordinator;
            format!("{left:.6} of {} in epsilon", task.budget_epsilon)
        }
        false => "nothing is promised that could be left".into(),
    };
    let per_client = task.pseudonyms.iter().take(PARTIES_SHOWN_MAX).map(|one| match finite(one.charged.coordinator) {
        Some(epsilon) => format!("{} {epsilon:.6} ({} attempts)", one.pseudonym, one.attempts),
        None => format!("{} infinite ({} attempts)", one.pseudonym, one.attempts),
    });
    let others = task.pseudonyms.len().saturating_sub(PARTIES_SHOWN_MAX);
    let others = (others > 0).then(|| format!("{others} others, which `eranos-audit recompute` prints"));
    let mut fields = vec![
        ("Epsilon spent", spent),
        ("Epsilon left", left),
        ("Curve", curve(&of_one_attempt, mechanism, task.attempts)),
        (
            "Epsilon of one attempt",
            match is_private(task) {
                true => shown(composed(&of_one_attempt, mechanism, 1, task.delta)),
                false => "infinite".into(),
            },
        ),
        (EACH_PARTY, joined(per_client.chain(others))),
        (
            "The most of one party",
            match &task.client_budget {
                None => format!("{NOT_RECORDED}; the task's budget bounds it"),
                Some(set) => {
                    let most = set
                        .client_epsilon_max
                        .map_or("the task's own epsilon".to_owned(), |most| format!("epsilon {most}"));
                    format!("{most}: {} attempts, beyond which nobody is selected", set.client_attempts_max)
                }
            },
        ),
        ("Zero-concentrated and Gaussian privacy of one attempt, sampling left out", concentrated(mechanism)),
        (
            "Attempts",
            format!(
                "{} of at most {}: {} released, {} aborted before and {} after the sum may have been known; all are charged",
                task.attempts, task.max_attempts, task.released, task.aborted_before_reveal, task.aborted_after_reveal
            ),
        ),
    ];
    if let Some(restored) = &task.restored {
        let in_all = match is_private(task) {
            true => format!("epsilon {:.6} with them", task.charged_in_all.coordinator),
            false => "nothing is promised with them either".into(),
        };
        let what = format!(
            "the ledger was restored from a backup of another, {}, of {} entries with the root {}: {} attempts were made \
             before, and at most {} are lost, as the operator says; {in_all}",
            restored.old_key, restored.old_size, restored.old_root, restored.attempts_before, restored.attempts_lost
        );
        fields.push(("Attempts before this ledger", what));
    }
    if mechanism.unit() == UnitOfPrivacy::Client {
        let of_a_record = composed(&mechanism.curve_for(UnitOfPrivacy::Record), mechanism, task.attempts, task.delta);
        let shown = if is_private(task) { shown(of_a_record) } else { "infinite".into() };
        fields.push(("Epsilon spent of one record, replaced by another", shown));
    }
    fields
}

fn composed(curve: &RdpCurve, mechanism: &Mechanism, n_attempts: u64, delta: f64) -> f64 {
    let mut accountant = Accountant::new();
    accountant.compose_curve(curve, n_attempts, mechanism.cut_probability());
    accountant.epsilon(delta)
}

fn curve(of_one_attempt: &RdpCurve, mechanism: &Mechanism, n_attempts: u64) -> String {
    if !mechanism.has_noise() {
        return "infinite at every delta".into();
    }
    let point = |delta: f64| format!("{} at {delta:e}", shown(composed(of_one_attempt, mechanism, n_attempts, delta)));
    joined(CURVE_DELTAS.into_iter().map(point))
}

/// rho and mu of what one attempt releases, of the whole lot: 1/(2 z^2) and 1/z.
fn concentrated(mechanism: &Mechanism) -> String {
    let z = mechanism.promised_noise_multiplier();
    if !mechanism.has_noise() {
        return "none".into();
    }
    // Of as many releases as a party takes steps under noise of its own.
    let steps = f64::from(mechanism.n_releases());
    format!(
        "rho = {:.6}, mu = {:.6}, as of Gaussian noise of multiplier {z:.6}; that the noise is discrete costs less than any \
         digit here, and epsilon above counts it",
        steps / (2.0 * z * z),
        steps.sqrt() / z
    )
}

fn against(task: &TaskSummary) -> Vec<(&'static str, String)> {
    let mechanism = &task.opened.mechanism;
    let p = mechanism.common();
    let view = |charged: f64, attained: f64| match is_private(task) {
        true => format!("epsilon {charged:.6} charged, {attained:.6} attained with those who really took part"),
        false => "nothing".into(),
    };
    let sampled = match mechanism {
        Mechanism::Record(mechanism) => mechanism.parameters().sampling_probability != Probability::ONE,
        Mechanism::Client(_) => false,
    };
    let amplification = match (sampled, mechanism.unit()) {
        (true, _) => {
            "each party draws a secret sample of its own records for every attempt; neither the sample nor its size or time \
             leaves the party, so it counts against everybody outside it"
        }
        (false, UnitOfPrivacy::Record) => "none: every record enters every attempt",
        (false, UnitOfPrivacy::Client) => "none: who takes part is public",
    };
    vec![
        (
            "Trust model",
            "parties clip, add noise and mask by themselves, so that nobody is trusted with a record, an update or the noise; \
             what is assumed is that no more identities than are tolerated work with the coordinator, and that the \
             certificate authority admits no more"
                .into(),
        ),
        (
            "The coordinator with its colluders (the headline)",
            view(task.charged.coordinator, task.attained.coordinator),
        ),
        (
            "Anyone without a participant, recipients of the model among them",
            view(task.charged.outsider, task.attained.outsider),
        ),
        ("Why sampling amplifies", amplification.into()),
        (
            "Thresholds",
            format!(
                "at least {} survivors in every sum, which every party checks before it signs, and a quorum of {} of the \
                 largest roster of {}",
                p.u_min,
                Attempt::quorum(mechanism, p.n_max.into()),
                p.n_max
            ),
        ),
        (
            "Graph",
            match task.is_sparse {
                true => "sparse in some attempts: what is promised against the coordinator holds while it breaks no rules",
                false => "complete in every attempt: it holds against a coordinator that breaks the rules",
            }
            .into(),
        ),
        (
            "Colluders tolerated",
            match p.noise {
                Noise::Local(_) => format!("{}; nobody's share of the noise counts but a party's own", p.max_colluders),
                Noise::Distributed(_) | Noise::None => format!("{}: their shares of the noise are not counted", p.max_colluders),
            },
        ),
    ]
}

fn parameters(mechanism: &Mechanism) -> Vec<(&'static str, String)> {
    let common = mechanism.common();
    let name = match (mechanism, common.noise) {
        (_, Noise::None) => "updates are clipped and summed under masks; nobody adds noise",
        (Mechanism::Record(_), Noise::Local(_)) => {
            "DP-SGD inside each party: it adds to the sum of clipped gradients of every step of its own training all the discrete \
             Gaussian noise that protects its records, and only the sum of the updates that come of it is known"
        }
        (Mechanism::Record(_), Noise::Distributed(_)) => {
            "DP-SGD over all parties: every survivor adds discrete Gaussian noise to its sum of clipped gradients, and only \
             the sum of all is known"
        }
        (Mechanism::Client(_), Noise::Local(_)) => {
            "federated averaging: every survivor adds to its clipped update all the discrete Gaussian noise that protects it, \
             and only the sum of all is known"
        }
        (Mechanism::Client(_), Noise::Distributed(_)) => {
            "federated averaging: every survivor adds a share of discrete Gaussian noise to its clipped update, and only the \
             sum of all is known"
        }
    };
    let share = common.noise.share_variance();
    let mut fields = vec![
        ("Name", name.into()),
        (
            "Variance of one share of noise",
            share.map_or("none".into(), |variance| format!("{}/1024 (sg squared)", variance.numerator())),
        ),
        (
            "Noise multiplier promised",
            if mechanism.has_noise() { format!("{:.6}", mechanism.promised_noise_multiplier()) } else { "none".into() },
        ),
        ("Parameters and padded length (d)", format!("{} and {}", common.n_parameters, common.d_pad)),
        ("Beside the model in the same vector", beside(&common.groups)),
        ("Sensitivity squared (Delta2 squared)", mechanism.sensitivity_squared().to_string()),
        ("Bits of a coordinate (b)", common.bits.to_string()),
        ("Attempts planned for", common.max_attempts.to_string()),
    ];
    match mechanism {
        Mechanism::Record(mechanism) => {
            let p = mechanism.parameters();
            let q = p.sampling_probability;
            fields.extend([
                ("Clip (C)", clip(&common)),
                ("Grid (K) and shift (e)", format!("{} and {}", p.grid, p.shift)),
                ("Sampling probability (q)", format!("{}/{}", q.numerator(), q.denominator())),
                ("Expected lot (L)", p.expected_lot.to_string()),
                ("Records worked on in an attempt (B_max)", p.records_per_round.to_string()),
                ("Most records of a party", p.record_bound.to_string()),
            ]);
            if let Some(local) = p.local {
                let what = format!(
                    "{} steps at a learning rate of {}, each with a sample, a lot and noise as above; their change of the model \
                     is clipped to {}",
                    local.steps, local.learning_rate, local.update_clip_norm
                );
                fields.push(("Training of a party in an attempt", what));
            }
        }
        Mechanism::Client(mechanism) => {
            let p = mechanism.parameters();
            fields.extend([
                ("Clip (C)", clip(&common)),
                ("The clip on the integer grid (C s)", p.scaled_clip.to_string()),
                (
                    "Training of a party in an attempt",
                    format!(
                        "{} steps of {} records at a learning rate of {}",
                        p.training.steps, p.training.batch_size, p.training.learning_rate
                    ),
                ),
            ]);
        }
    }
    fields
}

/// C, or between what it lies.
fn clip(common: &CommonParameters) -> String {
    match common.groups.adaptive_clip {
        Some(adaptive) => {
            let (least, most) = (adaptive.l2_clip_norm_min, adaptive.l2_clip_norm_max);
            format!("{} at first, later from {least} to {most}", common.l2_clip_norm)
        }
        None => common.l2_clip_norm.to_string(),
    }
}

/// The groups and their shares of the squared clip.
fn beside(groups: &Groups) -> String {
    if groups.is_empty() {
        return "nothing".into();
    }
    let percent = |share: Share| format!("{} %", f64::from(share.millionths()) / 10_000.0);
    let group = |group: Group| {
        let what = match group.subject {
            Subject::Loss => "the loss",
            Subject::Accuracy => "whether it was right",
            Subject::Clipped => "whether it was clipped",
        };
        format!("{what}, from 0 to {}, with {}", group.bound, percent(group.share))
    };
    let clip = groups.adaptive_clip.map(|adaptive| {
        format!(
            "the clip of each attempt follows from the released values of those before it and lies between {} and {}",
            adaptive.l2_clip_norm_min, adaptive.l2_clip_norm_max
        )
    });
    format!(
        "{}; the model has {} of the squared clip; all of it is under the epsilon above, and nothing else is measured{}",
        joined(groups.iter().map(group)),
        percent(groups.model),
        clip.map_or(String::new(), |clip| format!("; {clip}"))
    )
}

fn accounting() -> Vec<(&'static str, String)> {
    vec![
        ("Accountant", "Renyi divergences, by eranos-privacy".into()),
        ("Orders", "2 to 256, 512 and 1024".into()),
        ("Composition", "every attempt is added and charged, released or not; converted to epsilon once".into()),
    ]
}

fn software(task: &TaskSummary) -> Vec<(&'static str, String)> {
    let program = |one: &Executable| format!("version {}, SHA-256 {}", one.version, one.sha256);
    vec![
        (
            "The coordinator's program, as it reports itself",
            match task.executables.is_empty() {
                true => "no attempt was made".into(),
                false => joined(task.executables.iter().map(program)),
            },
        ),
        ("What that shows", "which build to compare with; not that it was this one that ran".into()),
        ("Sampler", "exact discrete Gaussian (Canonne, Kamath and Steinke 2020) in integers, by rejection from strips of equal area (Ahrens 1995)".into()),
        (
            "Randomness",
            "AES-256 in counter mode under fresh keys of the operating system, for every attempt anew".into(),
        ),
        ("Floats", "end where the clip begins: sum, rotation, rounding and noise are integers".into()),
        ("Audit by canaries", format!("{NOT_RECORDED}; `eranos simulate canary` audits this build")),
    ]
}

fn unprotected(task: &TaskSummary) -> Vec<(&'static str, String)> {
    let mut fields = Vec::new();
    if !is_private(task) {
        fields.push(("Records", "NOT PRIVATE: without noise none is protected".into()));
    }
    fields.extend([
        ("Participation", "who took part, how often and when is public, under pseudonyms".to_owned()),
        ("Times", "when messages are sent shows the slot in which a party was ready".into()),
        ("Schema", "what a record is, vocabulary, scaling, classes and the model's definition are public".into()),
        (
            "Search for settings",
            "choices made by looking at results of other runs on the same records are not counted here".into(),
        ),
        (
            "Facts about everybody",
            "what the data of many people show together may be learnt, and applies to those who took no part".into(),
        ),
        ("Other uses of the same records", "the ledger knows this log's tasks alone; epsilons of others add up".into()),
        (
            "Known to be open",
            "poisoned updates, a coordinator that publishes a wrong sum or burns budgets, false identities from a bad \
             authority, masks recorded today for a quantum computer; on a sparse graph a coordinator that breaks the \
             rules"
                .into(),
        ),
    ]);
    fields
}

fn check(report: &Report, task: &TaskSummary) -> Vec<(&'static str, String)> {
    let checkpoint = report.checkpoint.as_ref();
    let key = report.opened.as_ref().map_or(NOT_RECORDED.to_owned(), |opened| literal(&opened.ledger_key));
    vec![
        (
            "Ledger",
            checkpoint.map_or("no signed checkpoint".into(), |c| {
                format!("{}, {} entries under the root {}", literal(&c.origin), c.size, c.root)
            }),
        ),
        ("Key", key),
        (
            "Entered",
            match &task.privacy_stated {
                None => format!("what this statement says is {NOT_RECORDED} as an entry of its own"),
                Some((index, stated, is_made_anew)) => format!(
                    "on {} (UTC) after {} attempts, by entry {index}, with the SHA-256 {}; {}",
                    stated.date,
                    stated.attempts,
                    stated.statement,
                    match is_made_anew {
                        true => "made anew from the entries before it",
                        false => "not made anew: it is in older words than this build's",
                    }
                ),
            },
        ),
        (
            "Enrolment",
            match report.n_enrolled() {
                0 => format!("{NOT_RECORDED}: the ledger enters nobody's enrolment"),
                n => format!("{n} clients were enrolled, by entries whose openings the coordinator discloses"),
            },
        ),
        ("Made by", format!("eranos-ledger and eranos-privacy {}, wording {WORDING}", env!("CARGO_PKG_VERSION"))),
        ("Command", "`eranos-audit recompute LEDGER --key KEY`, offline, on a copy of the ledger's folder".into()),
        (
            "Verified",
            match report.n_findings {
                0 => "yes: every hash, signature, quorum and figure".into(),
                n => format!("NO: {n} findings"),
            },
        ),
    ]
}

/// A name that the ledger's operator chose freely, set as it is: between backticks no Markdown means anything. One of its
/// own would end that, and is written as a URL writes it.
fn literal(name: &impl Display) -> String {
    format!("`{}`", name.to_string().replace('`', "%60"))
}

/// An epsilon of a mechanism with noise: where the probability of a cut sample uses up delta, there is none.
fn shown(epsilon: f64) -> String {
    if epsilon.is_finite() { format!("{epsilon:.6}") } else { "none can be claimed".into() }
}

fn joined(items: impl Iterator<Item = String>) -> String {
    let items: Vec<String> = items.collect();
    if items.is_empty() { "none".into() } else { items.join("; ") }
}

/// The heading of what is not protected.
pub(crate) const UNPROTECTED: &str = "What is not protected";
/// The name of the field of what each party has spent.
pub(crate) const EACH_PARTY: &str = "Of each party";
pub(crate) const NOT_RECORDED: &str = "not recorded";
pub(crate) const NO_TASK: &str = "The ledger has no task: nothing was trained, and nothing was released.";
/// So many parties are named in a statement; the others are counted.
pub(crate) const PARTIES_SHOWN_MAX: usize = 256;
/// At which deltas the curve is given.
const CURVE_DELTAS: [f64; 5] = [1e-4, 1e-5, 1e-6, 1e-7, 1e-8];
