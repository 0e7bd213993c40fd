//! The drawings of a report: epsilon over the attempts of a task, and who took part in them. Inline SVG whose colours and
//! letters are the style sheet's, so that they follow the reader's scheme and screen.

use super::html::Html;

/// A line of the first drawing: (attempts so far, epsilon), from left to right.
pub(super) struct Line {
    pub(super) class: &'static str,
    pub(super) points: Vec<(f64, f64)>,
}

/// A bar of the second: what an attempt of its span had on average, as parts of its rosters.
pub(super) struct Bar {
    /// Attempts so far, at its end.
    pub(super) end: f64,
    pub(super) survived: f64,
    pub(super) dropped: f64,
    /// Of attempts that ended before survivors were announced.
    pub(super) unannounced: f64,
}

/// What both drawings share.
pub(super) struct Frame<'a> {
    /// Unique in the page.
    pub(super) id: &'a str,
    pub(super) title: &'a str,
    /// What there is to see, for whoever does not see it.
    pub(super) description: &'a str,
    /// How far the horizontal axis goes: the task's attempts, at least 1.
    pub(super) n_attempts: u64,
}

/// Draws `lines` under the `budget`, and a cross at the foot of each span of attempts, given by its end, that holds an
/// aborted one.
pub(super) fn epsilon(html: &mut Html, frame: &Frame<'_>, lines: &[Line], budget: f64, spent: f64, aborted: &[f64]) {
    let plane = Plane { x_max: frame.n_attempts as f64, y_max: budget.max(spent) * 1.1 };
    svg(html, frame, |html| {
        plane.axes(html, "epsilon");
        let y = plane.y(budget);
        html.empty("path", &[("class", "line budget"), ("d", &format!("M{LEFT} {y:.1}H{RIGHT}"))]);
        for line in lines {
            let points: Vec<String> =
                line.points.iter().map(|(x, y)| format!("{:.1},{:.1}", plane.x(*x), plane.y(*y))).collect();
            html.empty("polyline", &[("class", line.class), ("points", &points.join(" "))]);
        }
        for end in aborted {
            let (x, y) = (plane.x(*end), BOTTOM);
            let d = format!("M{:.1} {:.1}l8 8m0 -8l-8 8", x - 4.0, y - 4.0);
            html.empty("path", &[("class", "line abort"), ("d", &d)]);
        }
        text(html, (LEFT + 8.0, y), "-.45em", "note", &format!("budget {}", label(budget)));
        text(html, (RIGHT - 4.0, plane.y(spent)), "2.3em", "note end", &format!("spent {}", super::rounded_up(spent)));
    });
}

/// Draws the `bars`, one beside the other.
pub(super) fn participation(html: &mut Html, frame: &Frame<'_>, bars: &[Bar]) {
    let height = |bar: &Bar| bar.survived + bar.dropped + bar.unannounced;
    let plane = Plane { x_max: frame.n_attempts as f64, y_max: bars.iter().map(height).fold(1.0, f64::max) * 1.05 };
    svg(html, frame, |html| {
        plane.axes(html, "parties");
        let mut start = 0.0;
        for bar in bars {
            let (left, right) = (plane.x(start), plane.x(bar.end));
            // A gap between bars, as long as they are wide enough to be told apart.
            let gap = if right - left > 6.0 { (right - left) * 0.12 } else { 0.0 };
            let mut foot = 0.0;
            for (class, part) in
                [("survived", bar.survived), ("dropped", bar.dropped), ("unannounced", bar.unannounced)]
            {
                let (low, high) = (plane.y(foot), plane.y(foot + part));
                foot += part;
                if part > 0.0 {
                    let d = format!("M{:.2} {low:.1}V{high:.1}H{:.2}V{low:.1}z", left + gap, right - gap);
                    html.empty("path", &[("class", class), ("d", &d)]);
                }
            }
            start = bar.end;
        }
    });
}

fn svg(html: &mut Html, frame: &Frame<'_>, inside: impl FnOnce(&mut Html)) {
    let Frame { id, title, description, .. } = frame;
    let (title_id, description_id) = (format!("{id}-title"), format!("{id}-desc"));
    let attributes = [
        ("class", "chart"),
        ("viewBox", &format!("0 0 {WIDTH} {HEIGHT}")),
        ("role", "img"),
        ("aria-labelledby", &title_id),
        ("aria-describedby", &description_id),
    ];
    html.within("svg", &attributes, |html| {
        html.element("title", &[("id", &title_id)], title);
        html.element("desc", &[("id", &description_id)], description);
        inside(html);
    });
}

/// Where a value lies in a drawing.
struct Plane {
    x_max: f64,
    y_max: f64,
}

impl Plane {
    fn x(&self, attempts: f64) -> f64 {
        LEFT + attempts / self.x_max * (RIGHT - LEFT)
    }

    fn y(&self, value: f64) -> f64 {
        BOTTOM - value / self.y_max * (BOTTOM - TOP)
    }

    /// The grid and its figures. Every second figure gives way on a narrow screen.
    fn axes(&self, html: &mut Html, name: &str) {
        let steps = |max: f64, n: f64| {
            let step = round_step(max / n);
            (0..=(max / step) as u32).map(move |i| (i, f64::from(i) * step))
        };
        for (i, value) in steps(self.y_max, 6.0) {
            let y = self.y(value);
            html.empty("path", &[("class", "grid"), ("d", &format!("M{LEFT} {y:.1}H{RIGHT}"))]);
            let class = if i % 2 == 0 { "end" } else { "end wide" };
            text(html, (LEFT - 8.0, y), ".32em", class, &label(value));
        }
        // Attempts are whole.
        let step = round_step(self.x_max / 8.0).max(1.0);
        for i in 0..=(self.x_max / step) as u32 {
            let value = f64::from(i) * step;
            let class = if i % 2 == 0 { "middle" } else { "middle wide" };
            text(html, (self.x(value), BOTTOM), "1.5em", class, &label(value));
        }
        html.empty("path", &[("class", "axis"), ("d", &format!("M{LEFT} {BOTTOM}H{RIGHT}"))]);
        text(html, (LEFT, TOP), "-.7em", "wide", name);
        text(html, (RIGHT, BOTTOM), "2.9em", "end wide", "attempts");
    }
}

fn text(html: &mut Html, (x, y): (f64, f64), dy: &str, class: &str, text: &str) {
    html.element("text", &[("x", &format!("{x:.1}")), ("y", &format!("{y:.1}")), ("dy", dy), ("class", class)], text);
    html.text("\n");
}

/// A figure of an axis, without the zeros that say nothing.
fn label(value: f64) -> String {
    let text = format!("{value:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// 1, 2 or 5 times a power of ten, at least `least`.
fn round_step(least: f64) -> f64 {
    let power = 10f64.powf(least.max(f64::MIN_POSITIVE).log10().floor());
    [1.0, 2.0, 5.0].map(|factor| factor * power).into_iter().find(|step| *step >= least).unwrap_or(10.0 * power)
}

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 330.0;
const LEFT: f64 = 66.0;
const RIGHT: f64 = 706.0;
const TOP: f64 = 30.0;
const BOTTOM: f64 = 284.0;
