//! Lines in SVG: age, lag and pods over time.

use std::fmt::Write as _;

use super::compare::Comparison;
use super::run::Point;
use super::trace::Trace;

const WIDTH: f64 = 760.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 16.0;
const PANEL: f64 = 120.0;
const GAP: f64 = 34.0;
const TOP: f64 = 40.0;
/// Told apart by those who see few colours, too; as in the names' order.
const COLOURS: [&str; 4] = ["#999999", "#cc79a7", "#0072b2", "#d55e00"];

/// One value of a moment, and what it is called.
type Panel = (&'static str, fn(&Point) -> f64);

#[expect(clippy::cast_precision_loss, reason = "records, far below 2^52")]
const PANELS: [Panel; 3] = [
    ("oldest record, s", |point| point.oldest_s as f64),
    ("lag, records", |point| point.lag as f64),
    ("pods", |point| point.pods as f64),
];

/// A file's name and its text, one a trace.
#[must_use]
pub fn plots(comparison: &Comparison) -> Vec<(String, String)> {
    let names: Vec<&str> = comparison.results.iter().map(|result| result.name.as_str()).collect();
    let drawn = Trace::ALL.iter().zip(&comparison.drawn);
    drawn.map(|(trace, lines)| (format!("{}.svg", trace.name()), svg(*trace, &names, lines))).collect()
}

pub(super) fn svg(trace: Trace, names: &[&str], lines: &[Vec<Point>]) -> String {
    let height = TOP + 3.0 * (PANEL + GAP);
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
         font-family=\"sans-serif\" font-size=\"11\">\n<rect width=\"{WIDTH}\" height=\"{height}\" \
         fill=\"#fff\"/>\n<title>{}</title>\n",
        trace.name()
    );
    for (index, (name, colour)) in names.iter().zip(COLOURS).enumerate() {
        #[expect(clippy::cast_precision_loss, reason = "three")]
        let left = LEFT + 180.0 * index as f64;
        let _ = writeln!(
            text,
            "<rect x=\"{left}\" y=\"12\" width=\"12\" height=\"4\" fill=\"{colour}\"/>\
             <text x=\"{}\" y=\"18\">{name}</text>",
            left + 18.0
        );
    }
    let mut top = TOP;
    for panel in PANELS {
        draw(&mut text, top, trace, panel, lines);
        top += PANEL + GAP;
    }
    text.push_str("</svg>\n");
    text
}

fn draw(text: &mut String, top: f64, trace: Trace, (name, value): Panel, lines: &[Vec<Point>]) {
    let most = lines.iter().flatten().map(value).fold(1.0, f64::max);
    let wide = (WIDTH - LEFT - RIGHT) / f64::from(trace.seconds());
    let bottom = top + PANEL;
    let _ = writeln!(
        text,
        "<path d=\"M{LEFT} {top}V{bottom}H{}\" fill=\"none\" stroke=\"#444\"/>\
         <text x=\"{LEFT}\" y=\"{}\" fill=\"#444\">{name}</text>\
         <text x=\"{}\" y=\"{}\" text-anchor=\"end\">{most:.0}</text>\
         <text x=\"{}\" y=\"{bottom}\" text-anchor=\"end\">0</text>",
        WIDTH - RIGHT,
        top - 5.0,
        LEFT - 6.0,
        top + 9.0,
        LEFT - 6.0,
    );
    for quarter in 0..=4 {
        let at = trace.seconds() / 4 * quarter;
        let left = LEFT + wide * f64::from(at);
        // The last one would stand half outside the picture.
        let anchor = if quarter == 4 { "end" } else { "middle" };
        let _ = writeln!(
            text,
            "<text x=\"{left:.1}\" y=\"{}\" text-anchor=\"{anchor}\" fill=\"#444\">{at} s</text>",
            bottom + 13.0
        );
    }
    for (line, colour) in lines.iter().zip(COLOURS) {
        let points: Vec<String> = line
            .iter()
            .map(|point| {
                let left = LEFT + wide * f64::from(point.at);
                format!("{left:.1},{:.1}", bottom - PANEL * value(point) / most)
            })
            .collect();
        let _ = writeln!(
            text,
            "<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.5\" points=\"{}\"/>",
            points.join(" ")
        );
    }
}
