//! The page itself.

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use eranos_base::Digest;

use crate::{
    entry::{Date, Outcome},
    report::{
        CLIENTS_SHOWN_MAX, PARTIES_SHOWN_MAX, PartyView, Report, TASKS_SHOWN_MAX, TaskView,
        chart::{self, Bar, Frame, Line},
        history::{ABORTED_MAX, COURSES_MAX},
        html::Html,
        rounded_up,
    },
    statement,
};

const CSS: &str = include_str!("page.css");
/// Rows of the table that says a drawing's figures once more.
const COURSE_ROWS_MAX: usize = 12;

pub(super) fn to_html(report: &Report) -> String {
    let origin = report.audit.checkpoint.as_ref().map_or("", |checkpoint| checkpoint.origin.as_str());
    // Nothing may be fetched, run or sent; the one style sheet is named by its hash.
    let policy = format!(
        "default-src 'none'; style-src 'sha256-{}'; base-uri 'none'; form-action 'none'",
        BASE64.encode(Digest::of(CSS.as_bytes()).0)
    );
    Html::document(&[("lang", "en")], |html| {
        html.within("head", &[], |html| {
            html.empty("meta", &[("charset", "utf-8")]);
            html.empty("meta", &[("http-equiv", "Content-Security-Policy"), ("content", &policy)]);
            html.empty("meta", &[("name", "viewport"), ("content", "width=device-width, initial-scale=1")]);
            html.empty("meta", &[("name", "referrer"), ("content", "no-referrer")]);
            html.element("title", &[], &format!("Privacy report of {origin}"));
            html.style(CSS);
        });
        html.within("body", &[], |html| body(html, report));
    })
}

fn body(html: &mut Html, report: &Report) {
    let audit = &report.audit;
    html.within("header", &[], |html| {
        html.element("p", &[("class", "kicker")], "Eranos privacy report");
        html.within("h1", &[], |html| {
            match &audit.checkpoint {
                Some(checkpoint) => html.text("Ledger ").text(checkpoint.origin.as_str()),
                None => html.text("A ledger without a signed checkpoint"),
            };
        });
        html.element("p", &[("class", "lead")], &report.sentence());
        verdict(html, report);
    });
    html.within("main", &[], |html| {
        if !audit.is_clean() {
            findings(html, report);
        }
        for (number, task) in report.tasks().enumerate() {
            html.within("section", &[], |html| self::task(html, report, &task, number));
        }
        if let Some(hidden @ 1..) = audit.tasks.len().checked_sub(TASKS_SHOWN_MAX) {
            html.element(
                "p",
                &[("class", "verdict bad")],
                &format!(
                    "This page shows the first {TASKS_SHOWN_MAX} tasks. {hidden} further ones are left out, which \
                     `eranos-audit recompute` prints."
                ),
            );
        }
        clients(html, report);
        check(html, report);
    });
    html.within("footer", &[], |html| {
        html.element(
            "p",
            &[("class", "quiet")],
            &format!(
                "Made by eranos-audit {} from the ledger alone. Epsilons are rounded up in the last digit, those of the \
                 statement to the nearest. The page holds no script and fetches nothing; the same ledger gives the same page.",
                env!("CARGO_PKG_VERSION")
            ),
        );
    });
}

fn verdict(html: &mut Html, report: &Report) {
    let without_noise: Vec<&str> = report.audit.without_noise().map(|task| task.task.as_str()).collect();
    let (class, text) = match (report.audit.n_findings, without_noise.as_slice()) {
        (0, []) => {
            ("verdict good", "Verified: every hash, signature, quorum and epsilon of the ledger holds.".to_owned())
        }
        (0, names) => (
            "verdict bad",
            format!(
                "Verified: every hash, signature and quorum of the ledger holds. NOT PRIVATE: no noise, and no epsilon, in {}.",
                names.join(", ")
            ),
        ),
        (1, _) => ("verdict bad", "Not verified: 1 finding.".to_owned()),
        (n, _) => ("verdict bad", format!("Not verified: {n} findings.")),
    };
    html.element("p", &[("class", class), ("role", "status")], &text);
}

fn findings(html: &mut Html, report: &Report) {
    html.within("section", &[], |html| {
        html.element("h2", &[], "What does not hold");
        html.within("ul", &[], |html| {
            for finding in &report.audit.findings {
                html.element("li", &[], &finding.to_string());
            }
        });
        let hidden = report.audit.n_findings - report.audit.findings.len() as u64;
        if hidden > 0 {
            html.element("p", &[("class", "quiet")], &format!("{hidden} further findings are counted and not listed."));
        }
    });
}

fn task(html: &mut Html, report: &Report, task: &TaskView<'_>, number: usize) {
    let summary = task.summary;
    html.element("h2", &[], &format!("Task {}", summary.task));
    // Where there is one task, and nothing to warn of, the page has begun with it.
    if report.audit.tasks.len() > 1 || !report.audit.is_clean() {
        html.element("p", &[("class", "lead")], &statement::sentence(summary));
    }
    facts(html, task);

    html.element("h3", &[], "Epsilon over the rounds");
    epsilon(html, task, number);
    parties(html, report, task);

    html.element("h3", &[], "Who took part, and who dropped out");
    participation(html, task, number);

    html.element("h3", &[], "Aborted rounds");
    aborted(html, task);

    html.element("h3", &[], "Energy");
    html.element(
        "p",
        &[],
        &format!(
            "The energy that this task took is {}: no entry of a ledger has a field for it.",
            statement::NOT_RECORDED
        ),
    );

    let (unprotected, rest): (Vec<_>, Vec<_>) = statement::sections(&report.audit, summary)
        .into_iter()
        .partition(|(heading, _)| *heading == statement::UNPROTECTED);
    html.within("div", &[("class", "open")], |html| {
        unprotected.iter().for_each(|section| self::section(html, "h3", section));
    });
    html.element("h3", &[], "The privacy statement in full");
    rest.iter().for_each(|section| self::section(html, "h4", section));
}

/// A section of the statement.
fn section(html: &mut Html, tag: &'static str, (heading, fields): &statement::Section) {
    html.element(tag, &[], heading);
    // What each party has spent has a table of its own.
    described(html, fields.iter().filter(|(name, _)| *name != statement::EACH_PARTY));
}

/// Names and what there is to say of them.
fn described<'a>(html: &mut Html, fields: impl Iterator<Item = &'a (&'static str, String)>) {
    html.within("dl", &[("class", "fields")], |html| {
        for (name, value) in fields {
            html.within("div", &[], |html| {
                html.element("dt", &[], name);
                html.within("dd", &[], |html| typed(html, value));
            });
        }
    });
}

fn facts(html: &mut Html, task: &TaskView<'_>) {
    let summary = task.summary;
    let fact = |html: &mut Html, name: &str, value: &str, more: &str| {
        html.within("div", &[], |html| {
            html.element("dt", &[], name);
            html.within("dd", &[], |html| {
                html.text(value).element("small", &[], more);
            });
        });
    };
    html.within("dl", &[("class", "facts")], |html| {
        match task.is_private() {
            true => {
                let of = format!("of a budget of {}, at delta {:e}", summary.budget_epsilon, summary.delta);
                fact(html, "Epsilon spent", &rounded_up(summary.charged_in_all.coordinator), &of);
            }
            false => fact(html, "Epsilon spent", "infinite", "nobody added noise: nothing is promised"),
        }
        fact(html, "Protected", summary.unit.name(), &format!("neighbours: {}", summary.relation.replace('-', " ")));
        let attempts = format!("of at most {}; every one is charged", summary.max_attempts);
        fact(html, "Attempts", &summary.attempts.to_string(), &attempts);
        fact(html, "Released", &summary.released.to_string(), "attempts that gave a new model");
        let aborted = format!("attempts; in {} the sum may have been known", summary.aborted_after_reveal);
        fact(html, "Aborted", &task.n_aborted().to_string(), &aborted);
        fact(html, "Parties", &summary.pseudonyms.len().to_string(), "under pseudonyms of this task");
        let (dropped, stood) = task.dropped();
        fact(html, "Drop-outs", &dropped.to_string(), &format!("of {stood} vectors that were expected"));
        fact(html, "Energy", statement::NOT_RECORDED, "no entry has a field for it");
    });
}

fn epsilon(html: &mut Html, task: &TaskView<'_>, number: usize) {
    let (summary, history) = (task.summary, task.history);
    if !task.is_private() {
        html.element(
            "p",
            &[],
            "There is nothing to draw: nobody adds noise, so epsilon is infinite from the first round on.",
        );
        return;
    }
    if history.n_attempts == 0 {
        html.element("p", &[], "No round was attempted yet, and nothing is spent.");
        return;
    }
    let ends: Vec<u64> = history.ends().collect();
    let line = |class, counts: &mut dyn Iterator<Item = u64>| {
        let points = ends.iter().zip(counts).map(|(end, count)| (*end as f64, task.epsilon(count)));
        Line { class, points: [(0.0, 0.0)].into_iter().chain(points).collect() }
    };
    let courses = history.courses.iter().map(|(_, counts)| line("line party", &mut counts.iter().copied()));
    let mut lines: Vec<Line> = courses.collect();
    let beyond = summary.pseudonyms.len().saturating_sub(COURSES_MAX);
    if beyond > 0 {
        lines.push(line("line most", &mut history.spans.iter().map(|span| span.most)));
    }
    lines.push(line("line whole-task", &mut ends.iter().copied()));
    let aborted: Vec<f64> =
        ends.iter().zip(&history.spans).filter(|(_, span)| span.aborted > 0).map(|(end, _)| *end as f64).collect();
    let (spent, budget) = (task.epsilon(history.n_attempts), summary.budget_epsilon);
    let description = format!(
        "After {} attempts the task has spent epsilon {} of a budget of {budget}. The party that was charged most has spent {}.",
        history.n_attempts,
        rounded_up(spent),
        rounded_up(task.epsilon(history.spans.last().map_or(0, |span| span.most))),
    );
    let frame = Frame {
        id: &format!("task-{number}-epsilon"),
        title: &format!("Epsilon of task {} over its attempts", summary.task),
        description: &description,
        n_attempts: history.n_attempts,
    };
    html.within("figure", &[], |html| {
        chart::epsilon(html, &frame, &lines, budget, spent, &aborted);
        html.within("figcaption", &[], |html| {
            key(html, "line whole-task", "M0 6H26", "the task");
            key(html, "line party", "M0 6H26", "each party");
            if beyond > 0 {
                key(html, "line most", "M0 6H26", "the party charged most");
            }
            key(html, "line budget", "M0 6H26", "the budget");
            if !aborted.is_empty() {
                key(html, "line abort", "M9 2l8 8m0 -8l-8 8", "an aborted attempt");
            }
            html.element("br", &[], "");
            html.text(&description).text(" A party that stood in every roster lies on the task's line. ");
            if beyond > 0 {
                html.text(&format!("Drawn are the {COURSES_MAX} parties that came first; {beyond} others are not. "));
            }
            if history.span_len > 1 {
                html.text(&format!("A point stands for {} attempts.", history.span_len));
            }
        });
    });
    course(html, task, &ends);
}

/// The figures of the drawing as a table, thinned out.
fn course(html: &mut Html, task: &TaskView<'_>, ends: &[u64]) {
    let spans = &task.history.spans;
    let every = ends.len().div_ceil(COURSE_ROWS_MAX).max(1);
    html.within("table", &[], |html| {
        html.element("caption", &[], "The same in figures");
        head(
            html,
            &["After attempts", "Epsilon of the task", "Of the party charged most", "Aborted so far"],
            &[true; 4],
        );
        html.within("tbody", &[], |html| {
            let mut aborted = 0;
            for (place, (end, span)) in ends.iter().zip(spans).enumerate() {
                aborted += span.aborted;
                // The last one is always there.
                if (ends.len() - 1 - place).is_multiple_of(every) {
                    html.within("tr", &[], |html| {
                        html.element("th", &[("scope", "row"), ("class", "number")], &end.to_string());
                        for figure in
                            [rounded_up(task.epsilon(*end)), rounded_up(task.epsilon(span.most)), aborted.to_string()]
                        {
                            html.element("td", &[("class", "number")], &figure);
                        }
                    });
                }
            }
        });
    });
}

fn parties(html: &mut Html, report: &Report, task: &TaskView<'_>) {
    let budget = task.summary.budget_epsilon;
    html.element("h3", &[], "What each party has spent");
    if task.parties.is_empty() {
        html.element("p", &[], "Nobody stood in a roster yet.");
        return;
    }
    let names = ["Pseudonym", "Epsilon", "Attempts", "Revealed sums", "Drop-outs"];
    html.within("table", &[("class", "stack")], |html| {
        html.element(
            "caption",
            &[],
            "A pseudonym is the party's statement key for this task, and says nothing of who it is. The bar is its epsilon \
             against the task's budget.",
        );
        head(html, &names, &[false, true, true, true, true]);
        html.within("tbody", &[], |html| {
            for PartyView { summary: one, dropped } in &task.parties {
                html.within("tr", &[], |html| {
                    html.within("th", &[("scope", "row")], |html| {
                        html.within("span", &[], |html| {
                            html.element("code", &[], &one.pseudonym.to_string());
                            if let Some(client) = report.disclosed.bound.get(&one.pseudonym) {
                                html.element("div", &[("class", "quiet")], &format!("disclosed as {client}"));
                            }
                            if task.is_private() {
                                share(html, one.charged.coordinator / budget);
                            }
                        });
                    });
                    let figures =
                        [rounded_up(one.charged.coordinator), one.attempts.to_string(), one.revealed.to_string(), dropped.to_string()];
                    for (name, figure) in names[1..].iter().zip(figures) {
                        html.element("td", &[("class", "number"), ("data-name", name)], &figure);
                    }
                });
            }
        });
    });
    if let Some(others) = &task.others {
        html.element(
            "p",
            &[("class", "quiet")],
            &format!(
                "Listed are the {PARTIES_SHOWN_MAX} parties that were charged most. {} others were charged between {} and {} each, \
                 and dropped out {} times together; `eranos-audit recompute` prints every one.",
                others.n,
                rounded_up(others.epsilon_min),
                rounded_up(others.epsilon_max),
                others.dropped
            ),
        );
    }
}

/// A bar that is filled to `part` of its length.
fn share(html: &mut Html, part: f64) {
    let width = format!("{:.1}", part.clamp(0.0, 1.0) * 100.0);
    let attributes =
        [("class", "bar"), ("viewBox", "0 0 100 4"), ("preserveAspectRatio", "none"), ("aria-hidden", "true")];
    html.within("svg", &attributes, |html| {
        html.empty("rect", &[("class", "whole"), ("width", "100"), ("height", "4")]);
        html.empty("rect", &[("class", "part"), ("width", &width), ("height", "4")]);
    });
}

fn participation(html: &mut Html, task: &TaskView<'_>, number: usize) {
    let history = task.history;
    let (dropped, stood) = task.dropped();
    if history.n_attempts == 0 {
        html.element("p", &[], "No round was attempted yet.");
        return;
    }
    let bars: Vec<Bar> = history
        .ends()
        .zip(&history.spans)
        .map(|(end, span)| {
            let mean = |n: u64| n as f64 / span.n_attempts as f64;
            Bar {
                end: end as f64,
                survived: mean(span.survived),
                dropped: mean(span.announced_stood.saturating_sub(span.survived)),
                unannounced: mean(span.stood - span.announced_stood),
            }
        })
        .collect();
    let all: u64 = history.spans.iter().map(|span| span.stood).sum();
    let unannounced = all - history.spans.iter().map(|span| span.announced_stood).sum::<u64>();
    let description = format!(
        "{} parties stood in rosters {all} times: {} times with a vector that arrived, {dropped} times they dropped out, and \
         {unannounced} times the attempt ended before it was announced whose vectors had arrived.",
        task.summary.pseudonyms.len(),
        stood - dropped,
    );
    let frame = Frame {
        id: &format!("task-{number}-parties"),
        title: &format!("Parties of task {} over its attempts", task.summary.task),
        description: &description,
        n_attempts: history.n_attempts,
    };
    html.within("figure", &[], |html| {
        chart::participation(html, &frame, &bars);
        html.within("figcaption", &[], |html| {
            key(html, "survived", "M0 1H26V11H0z", "their vector arrived");
            key(html, "dropped", "M0 1H26V11H0z", "dropped out");
            key(html, "unannounced", "M0 1H26V11H0z", "ended before that was announced");
            html.element("br", &[], "");
            html.text(&description);
            if history.span_len > 1 {
                html.text(&format!(" A bar is the mean of {} attempts.", history.span_len));
            }
        });
    });
}

fn aborted(html: &mut Html, task: &TaskView<'_>) {
    let n_aborted = task.n_aborted();
    let list = &task.history.aborted;
    if list.is_empty() {
        html.element("p", &[], "None: every attempt released a model.");
        return;
    }
    let names = ["Round", "Entry", "How far it came", "Roster", "Survivors"];
    html.within("table", &[("class", "stack")], |html| {
        html.element(
            "caption",
            &[],
            "An aborted attempt released no model, and is charged to everybody in its roster all the same.",
        );
        head(html, &names, &[true, true, false, true, true]);
        html.within("tbody", &[], |html| {
            for one in list {
                let absent = |n: Option<String>, what: &str| n.unwrap_or_else(|| what.to_owned());
                let far = match one.outcome {
                    Outcome::AbortedAfterReveal => "the sum may have been known",
                    Outcome::AbortedBeforeReveal | Outcome::Released { .. } => "before any sum could be known",
                };
                html.within("tr", &[], |html| {
                    html.element(
                        "th",
                        &[("scope", "row"), ("class", "number"), ("data-name", names[0])],
                        &one.round.to_string(),
                    );
                    let cells = [
                        ("number", one.entry.to_string()),
                        ("", far.to_owned()),
                        ("number", absent(one.n1.map(|n| n.to_string()), "not fixed")),
                        ("number", absent(one.survivors.map(|n| n.to_string()), "not announced")),
                    ];
                    for (name, (class, text)) in names[1..].iter().zip(cells) {
                        html.element("td", &[("class", class), ("data-name", name)], &text);
                    }
                });
            }
        });
    });
    if n_aborted > list.len() as u64 {
        let hidden = n_aborted - list.len() as u64;
        html.element(
            "p",
            &[("class", "quiet")],
            &format!("Listed are the first {ABORTED_MAX}; {hidden} further aborted attempts are counted above."),
        );
    }
}

/// Those whose pseudonyms were disclosed, over all tasks.
fn clients(html: &mut Html, report: &Report) {
    let disclosed = &report.disclosed;
    if disclosed.clients.is_empty() && disclosed.faults.is_empty() {
        return;
    }
    let names = ["Client", "Tasks", "Attempts", "Epsilon of a record", "Of the client", "Delta"];
    html.within("section", &[], |html| {
        html.element("h2", &[], "Disclosed clients");
        html.within("table", &[("class", "stack")], |html| {
            html.element(
                "caption",
                &[],
                "Whose pseudonyms were disclosed to this audit, and what each was charged in all of those tasks together. That a \
                 name is the certificate's is for the authority's list to say.",
            );
            head(html, &names, &[false, false, true, true, true, true]);
            html.within("tbody", &[], |html| {
                for one in disclosed.clients.iter().take(CLIENTS_SHOWN_MAX) {
                    html.within("tr", &[], |html| {
                        html.element("th", &[("scope", "row")], &one.client.to_string());
                        let tasks: Vec<&str> = one.tasks.iter().map(|task| task.as_str()).collect();
                        let cells = [
                            ("", tasks.join(", ")),
                            ("number", one.attempts.to_string()),
                            ("number", rounded_up(one.epsilon_record)),
                            ("number", rounded_up(one.epsilon_client)),
                            ("number", format!("{:e}", one.delta)),
                        ];
                        for (name, (class, text)) in names[1..].iter().zip(cells) {
                            html.element("td", &[("class", class), ("data-name", name)], &text);
                        }
                    });
                }
            });
        });
        if let Some(hidden @ 1..) = disclosed.clients.len().checked_sub(CLIENTS_SHOWN_MAX) {
            html.element("p", &[("class", "quiet")], &format!("{hidden} further clients are counted and not listed."));
        }
        if !disclosed.faults.is_empty() {
            html.element("h3", &[], "Bindings that do not hold");
            html.within("ul", &[], |html| {
                for fault in disclosed.faults.iter().take(CLIENTS_SHOWN_MAX) {
                    html.element("li", &[], fault);
                }
            });
        }
    });
}

fn check(html: &mut Html, report: &Report) {
    html.within("section", &[], |html| {
        html.element("h2", &[], "Check it yourself");
        html.element(
            "p",
            &[],
            "Take a copy of the ledger's folder, and the ledger's key from somebody you trust, not from this page. Without a \
             network, this command checks every hash, signature and quorum, and recomputes every epsilon:",
        );
        html.within("pre", &[], |html| {
            html.element("code", &[], &report.command());
        });
        if let Some(checkpoint) = &report.audit.checkpoint {
            let fields = [
                ("Entries", checkpoint.size.to_string()),
                ("Root of their tree", checkpoint.root.to_string()),
                ("Key that this report was made with", report.key.to_string()),
            ];
            let witnessed = report.audit.witnessed.iter();
            let witnessed: Vec<_> = witnessed
                .map(|(name, at)| ("Cosigned by a witness", format!("{name}, on {} (UTC)", Date::of(*at))))
                .collect();
            described(html, fields.iter().chain(&witnessed));
        }
    });
}

/// One line of the legend.
fn key(html: &mut Html, class: &str, d: &str, name: &str) {
    html.within("span", &[("class", "key")], |html| {
        html.within("svg", &[("viewBox", "0 0 26 12"), ("aria-hidden", "true")], |html| {
            html.empty("path", &[("class", class), ("d", d)]);
        });
        html.text(name);
    });
    html.text(" ");
}

fn head(html: &mut Html, names: &[&str], numbers: &[bool]) {
    html.within("thead", &[], |html| {
        html.within("tr", &[], |html| {
            for (name, is_number) in names.iter().zip(numbers) {
                let class = if *is_number { "number" } else { "" };
                html.element("th", &[("scope", "col"), ("class", class)], name);
            }
        });
    });
}

/// Text in which what stands between backticks is to be typed.
fn typed(html: &mut Html, text: &str) {
    for (i, part) in text.split('`').enumerate() {
        match i % 2 {
            0 => html.text(part),
            _ => html.element("code", &[], part),
        };
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    /// The relative luminance of `#rrggbb`, as WCAG 2 defines it.
    fn luminance(color: &str) -> f64 {
        let channel = |at: usize| {
            let value = f64::from(u8::from_str_radix(&color[at..at + 2], 16).expect("hex")) / 255.0;
            if value <= 0.04045 { value / 12.92 } else { ((value + 0.055) / 1.055).powf(2.4) }
        };
        0.2126 * channel(1) + 0.7152 * channel(3) + 0.0722 * channel(5)
    }

    #[test]
    fn letters_and_lines_stand_out_in_every_scheme() {
        let schemes: Vec<HashMap<&str, &str>> = CSS
            .split(":root {")
            .skip(1)
            .map(|block| {
                let block = block.split('}').next().expect("a block");
                block.split(';').filter_map(|line| line.trim().strip_prefix("--")?.split_once(": ")).collect()
            })
            .collect();
        assert_eq!(schemes.len(), 3, "light, dark, print");
        for scheme in schemes {
            let check = |ink: &str, paper: &str, least: f64| {
                let (a, b) = (luminance(scheme[ink]) + 0.05, luminance(scheme[paper]) + 0.05);
                assert!(a.max(b) / a.min(b) >= least, "{ink} on {paper} in {scheme:?}");
            };
            for (ink, paper) in [
                ("ink", "paper"),
                ("ink", "panel"),
                ("quiet", "paper"),
                ("quiet", "panel"),
                ("accent", "paper"),
                ("good", "good-panel"),
                ("bad", "bad-panel"),
            ] {
                check(ink, paper, 4.5);
            }
            for ink in ["accent", "bad", "drop", "party", "void"] {
                check(ink, "paper", 2.9);
            }
        }
    }
}
