//! A drawing of curves over a logarithmic axis, as SVG.

use std::fmt::Write;

/// A curve: what it is called, and its points, the first coordinate above 0 and growing.
pub(crate) struct Curve {
    pub(crate) name: &'static str,
    pub(crate) points: Vec<(f64, f64)>,
}

/// Draws `curves` (up to as many as [`COLORS`]) over powers of ten; points that are not finite are left out.
pub(crate) fn svg(title: &str, x_name: &str, y_name: &str, curves: &[Curve]) -> String {
    let points = || curves.iter().flat_map(|curve| &curve.points).filter(|(x, y)| x.is_finite() && y.is_finite());
    let fold = |start, of: fn(f64, f64) -> f64, part: fn(&(f64, f64)) -> f64| points().map(part).fold(start, of);
    let x_min = fold(f64::INFINITY, f64::min, |p| p.0.log10()).floor();
    let x_max = fold(f64::NEG_INFINITY, f64::max, |p| p.0.log10()).ceil();
    let y_top = fold(0.0, f64::max, |p| p.1);
    let y_step = round_step(y_top / 6.0);
    let y_max = y_step * (y_top / y_step).ceil().max(1.0);
    let x_at = |log: f64| LEFT + (log - x_min) / (x_max - x_min).max(1.0) * (RIGHT - LEFT);
    let y_at = |y: f64| BOTTOM - y / y_max * (BOTTOM - TOP);

    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<title>{title}</title>\n<rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>\n\
         <text x=\"{LEFT}\" y=\"20\" font-size=\"14\">{title}</text>\n",
        title = escape(title)
    );
    let mut line = |text: String| {
        // Writing to a string does not fail.
        let _ = writeln!(out, "{text}");
    };
    if x_min.is_finite() {
        for i in 0..=(x_max - x_min) as u32 {
            let log = x_min + f64::from(i);
            let x = x_at(log);
            line(format!("<path d=\"M{x:.1} {TOP}V{BOTTOM}\" stroke=\"#ddd\"/>"));
            if i % 2 == 0 {
                line(format!("<text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">1e{log}</text>", BOTTOM + 18.0));
            }
        }
        for i in 0..=(y_max / y_step).round() as u32 {
            let (value, y) = (f64::from(i) * y_step, y_at(f64::from(i) * y_step));
            line(format!("<path d=\"M{LEFT} {y:.1}H{RIGHT}\" stroke=\"#ddd\"/>"));
            let label = format!("{value:.3}").trim_end_matches('0').trim_end_matches('.').to_owned();
            line(format!("<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{label}</text>", LEFT - 6.0, y + 4.0));
        }
    }
    line(format!("<text x=\"{RIGHT}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>", BOTTOM + 36.0, escape(x_name)));
    line(format!("<text x=\"6\" y=\"{:.1}\">{}</text>", TOP - 8.0, escape(y_name)));
    for (i, (curve, color)) in curves.iter().zip(COLORS).enumerate() {
        let points = curve.points.iter().filter(|(x, y)| x.is_finite() && y.is_finite());
        let points: Vec<String> = points.map(|(x, y)| format!("{:.1},{:.1}", x_at(x.log10()), y_at(*y))).collect();
        line(format!(
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{color}\" stroke-width=\"2\"/>",
            points.join(" ")
        ));
        let y = TOP + 16.0 * (i as f64 + 1.0);
        line(format!(
            "<text x=\"{:.1}\" y=\"{y:.1}\" text-anchor=\"end\" fill=\"{color}\">{}</text>",
            RIGHT - 6.0,
            escape(curve.name)
        ));
    }
    out.push_str("</svg>\n");
    out
}

/// 1, 2 or 5 times a power of ten, at least `least`.
fn round_step(least: f64) -> f64 {
    if least <= 0.0 {
        return 1.0;
    }
    let power = 10f64.powf(least.log10().floor());
    [1.0, 2.0, 5.0, 10.0].map(|factor| factor * power).into_iter().find(|step| *step >= least).unwrap_or(10.0 * power)
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 400.0;
const LEFT: f64 = 56.0;
const RIGHT: f64 = 620.0;
const TOP: f64 = 52.0;
const BOTTOM: f64 = 344.0;
const COLORS: [&str; 3] = ["#0b5fa5", "#c2410c", "#15803d"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn curves_stay_inside_their_frame_and_what_is_not_finite_is_left_out() {
        let points = vec![(1e-9, f64::INFINITY), (1e-6, 4.0), (1e-3, 1.0)];
        let drawing = svg("a < b", "x", "y", &[Curve { name: "one", points }]);
        assert!(drawing.starts_with("<svg") && drawing.ends_with("</svg>\n") && drawing.contains("a &lt; b"));
        // 4 of a scale up to 4, at the left of a scale from 1e-6 to 1e-3.
        assert!(drawing.contains("points=\"56.0,52.0 620.0,271.0\""), "{drawing}");
        assert!(!drawing.contains("inf") && !drawing.contains("NaN"), "{drawing}");
        // Nothing to draw is still a drawing.
        assert!(!svg("", "x", "y", &[]).contains("inf"));
    }

    #[test]
    fn steps_of_an_axis_are_round() {
        for (least, step) in [(0.3, 0.5), (1.0, 1.0), (6.1, 10.0), (0.0, 1.0)] {
            assert!((round_step(least) - step).abs() < 1e-12, "{least}");
        }
    }
}
