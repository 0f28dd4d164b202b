//! Charts as SVG, written by hand: bars over payload sizes, and lines over a growing quantity.
//! Both have logarithmic axes, for the figures span several powers of ten.

use std::fmt::Write as _;

/// One rival's values.
#[derive(Debug, Clone)]
pub(crate) struct Line {
    pub(crate) name: String,
    /// Places on the horizontal axis and values; both above zero.
    pub(crate) points: Vec<(f64, f64)>,
}

/// Groups of bars, one group for each label; a line's points are `(index of the label, value)`.
pub(crate) fn bars(title: &str, unit: &str, labels: &[String], lines: &[Line]) -> String {
    let mut chart = Chart::new(title, unit, lines);
    let group = PLOT_WIDTH / labels.len().max(1) as f64;
    let bar = group * 0.84 / lines.len().max(1) as f64;
    for (index, label) in labels.iter().enumerate() {
        let middle = LEFT + group * (index as f64 + 0.5);
        chart.text(middle, BOTTOM + 18.0, "middle", label);
    }
    for (nth, line) in lines.iter().enumerate() {
        for &(index, value) in &line.points {
            let x = LEFT + group * (index + 0.08) + bar * nth as f64;
            let y = chart.y(value);
            let height = (BOTTOM - y).max(1.0);
            let _ = writeln!(
                chart.body,
                r#"<rect x="{x:.1}" y="{y:.1}" width="{:.1}" height="{height:.1}" fill="{}"><title>{}: {}</title></rect>"#,
                bar - 1.0,
                colour(nth),
                escaped(&line.name),
                short(value),
            );
        }
    }
    chart.finish(lines)
}

/// Lines over a quantity.
pub(crate) fn lines(title: &str, unit: &str, over: &str, lines: &[Line]) -> String {
    let mut chart = Chart::new(title, unit, lines);
    let mut places: Vec<f64> = lines
        .iter()
        .flat_map(|line| line.points.iter().map(|point| point.0))
        .collect();
    places.sort_by(f64::total_cmp);
    places.dedup();
    let low = places.first().copied().unwrap_or(1.0).log10();
    let span = (places.last().copied().unwrap_or(1.0).log10() - low).max(f64::EPSILON);
    let x = |place: f64| LEFT + 20.0 + (place.log10() - low) / span * (PLOT_WIDTH - 40.0);
    for &place in &places {
        chart.text(x(place), BOTTOM + 18.0, "middle", &short(place));
    }
    chart.text(LEFT + PLOT_WIDTH / 2.0, BOTTOM + 36.0, "middle", over);
    for (nth, line) in lines.iter().enumerate() {
        let path: Vec<String> = line
            .points
            .iter()
            .map(|&(place, value)| format!("{:.1},{:.1}", x(place), chart.y(value)))
            .collect();
        let _ = writeln!(
            chart.body,
            r#"<polyline points="{}" fill="none" stroke="{}" stroke-width="2"/>"#,
            path.join(" "),
            colour(nth)
        );
        for &(place, value) in &line.points {
            let _ = writeln!(
                chart.body,
                r#"<circle cx="{:.1}" cy="{:.1}" r="3" fill="{}"><title>{}: {}</title></circle>"#,
                x(place),
                chart.y(value),
                colour(nth),
                escaped(&line.name),
                short(value)
            );
        }
    }
    chart.finish(lines)
}

struct Chart {
    body: String,
    /// Powers of ten at the ends of the vertical axis.
    low: f64,
    high: f64,
}

impl Chart {
    fn new(title: &str, unit: &str, lines: &[Line]) -> Self {
        let values = || {
            lines
                .iter()
                .flat_map(|line| line.points.iter().map(|point| point.1.max(1e-9).log10()))
        };
        let low = values().fold(f64::INFINITY, f64::min).floor();
        let high = values().fold(f64::NEG_INFINITY, f64::max).ceil();
        let (low, high) = if low.is_finite() {
            (low, high.max(low + 1.0))
        } else {
            (0.0, 1.0)
        };
        let mut chart = Self {
            body: String::new(),
            low,
            high,
        };
        chart.text(LEFT, 22.0, "start", &format!("{title} ({unit}, log scale)"));
        let mut power = low;
        while power <= high {
            let y = chart.y(10f64.powf(power));
            let _ = writeln!(
                chart.body,
                r##"<line x1="{LEFT}" y1="{y:.1}" x2="{}" y2="{y:.1}" stroke="#8886"/>"##,
                LEFT + PLOT_WIDTH
            );
            chart.text(LEFT - 8.0, y + 4.0, "end", &short(10f64.powf(power)));
            power += 1.0;
        }
        chart
    }

    fn y(&self, value: f64) -> f64 {
        let share = (value.max(1e-9).log10() - self.low) / (self.high - self.low);
        BOTTOM - share * (BOTTOM - TOP)
    }

    fn text(&mut self, x: f64, y: f64, anchor: &str, text: &str) {
        let _ = writeln!(
            self.body,
            r#"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}">{}</text>"#,
            escaped(text)
        );
    }

    fn finish(mut self, lines: &[Line]) -> String {
        for (nth, line) in lines.iter().enumerate() {
            let y = TOP + 20.0 * nth as f64;
            let x = LEFT + PLOT_WIDTH + 16.0;
            let _ = writeln!(
                self.body,
                r#"<rect x="{x}" y="{y}" width="12" height="12" fill="{}"/>"#,
                colour(nth)
            );
            self.text(x + 18.0, y + 11.0, "start", &line.name);
        }
        // Grey text is readable on light and dark pages alike.
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
             font-family=\"sans-serif\" font-size=\"13\" fill=\"#888\">\n{}</svg>\n",
            self.body
        )
    }
}

fn colour(nth: usize) -> &'static str {
    COLOURS[nth % COLOURS.len()]
}

/// A number with its thousands, millions … as a letter.
fn short(value: f64) -> String {
    let (scaled, unit) = match value {
        v if v >= 1e9 => (v / 1e9, "G"),
        v if v >= 1e6 => (v / 1e6, "M"),
        v if v >= 1e3 => (v / 1e3, "k"),
        v => (v, ""),
    };
    let digits = if scaled >= 100.0 || scaled.fract() == 0.0 {
        0
    } else {
        1
    };
    format!("{scaled:.digits$}{unit}")
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

const WIDTH: f64 = 900.0;
const HEIGHT: f64 = 360.0;
const LEFT: f64 = 64.0;
const PLOT_WIDTH: f64 = 660.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 310.0;
const COLOURS: [&str; 7] = [
    "#d4a800", "#e0803a", "#808080", "#3b82c4", "#3c9d63", "#9b6bc4", "#c4577c",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenfold_value_is_one_grid_line_higher() {
        let line = Line {
            name: "a & b".into(),
            points: vec![(0.0, 10.0), (1.0, 100.0)],
        };
        let chart = Chart::new("t", "u", std::slice::from_ref(&line));
        assert_eq!((chart.y(10.0), chart.y(100.0)), (BOTTOM, TOP));
        let svg = bars("t", "u", &["x".into(), "y".into()], &[line]);
        assert!(svg.contains("a &amp; b: 100") && svg.ends_with("</svg>\n"));
    }

    #[test]
    fn numbers_are_short() {
        let shown = [0.5, 32.0, 1500.0, 250_000.0, 1e9].map(short);
        assert_eq!(shown, ["0.5", "32", "1.5k", "250k", "1G"]);
    }
}
