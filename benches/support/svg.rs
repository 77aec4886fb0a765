//! Two kinds of plots, as plain SVG that a repository can show: grouped bars, and curves over a logarithmic axis.

use std::fmt::Write as _;

use super::stats::short;

const WIDTH: f64 = 880.0;
const LEFT: f64 = 70.0;
const TOP: f64 = 56.0;
const PLOT_HEIGHT: f64 = 230.0;
const BOTTOM: f64 = 62.0;
const COLOURS: [&str; 6] = ["#9aa5b1", "#e08e45", "#2f6fb0", "#4aa36c", "#8a5fb5", "#c44e52"];

/// Bars of several series side by side, a group for each name.
pub(crate) fn bars(title: &str, series: &[&str], groups: &[(String, Vec<Option<f64>>)]) -> String {
    let values = groups.iter().flat_map(|(_, values)| values).filter_map(|value| *value);
    let top = nice(values.fold(0.0, f64::max));
    let mut out = frame(title, series, top);
    let group_width = (WIDTH - LEFT - 20.0) / groups.len().max(1) as f64;
    let bar_width = (group_width * 0.8 / series.len().max(1) as f64).min(46.0);
    for (at, (name, values)) in groups.iter().enumerate() {
        let middle = LEFT + (at as f64 + 0.5) * group_width;
        let start = middle - bar_width * values.len() as f64 / 2.0;
        for (of, value) in values.iter().enumerate() {
            let Some(value) = value else { continue };
            let (x, height) = (start + of as f64 * bar_width, PLOT_HEIGHT * value / top);
            let y = TOP + PLOT_HEIGHT - height;
            let _ = writeln!(
                out,
                r#"<rect x="{x:.1}" y="{y:.1}" width="{:.1}" height="{height:.1}" fill="{}"/><text x="{:.1}" y="{:.1}" font-size="9" text-anchor="middle">{}</text>"#,
                bar_width - 2.0,
                COLOURS[of % COLOURS.len()],
                x + bar_width / 2.0 - 1.0,
                y - 3.0,
                short(*value)
            );
        }
        text(&mut out, middle, TOP + PLOT_HEIGHT + 18.0, "middle", name);
    }
    out + "</svg>\n"
}

/// A curve.
pub(crate) struct Curve<'a> {
    pub(crate) name: &'a str,
    pub(crate) points: &'a [(f64, f64)],
}

/// Curves over a logarithmic axis, from zero on the other.
pub(crate) fn curves(title: &str, axis: &str, curves: &[Curve<'_>]) -> String {
    let all = || curves.iter().flat_map(|curve| curve.points);
    let top = nice(all().map(|point| point.1).fold(0.0, f64::max));
    let (low, high) = all().fold((f64::MAX, 0.0_f64), |(low, high), point| (low.min(point.0), high.max(point.0)));
    let (low, high) = (low.max(1.0).log10().floor(), high.max(10.0).log10().ceil());
    let x = |value: f64| LEFT + (WIDTH - LEFT - 30.0) * (value.max(1.0).log10() - low) / (high - low);
    let y = |value: f64| TOP + PLOT_HEIGHT * (1.0 - value / top);
    let names: Vec<&str> = curves.iter().map(|curve| curve.name).collect();
    let mut out = frame(title, &names, top);
    for power in low as i32..=high as i32 {
        let value = 10_f64.powi(power);
        text(&mut out, x(value), TOP + PLOT_HEIGHT + 18.0, "middle", &grouped(value));
    }
    text(&mut out, LEFT + (WIDTH - LEFT) / 2.0, TOP + PLOT_HEIGHT + 40.0, "middle", axis);
    for (of, curve) in curves.iter().enumerate() {
        let colour = COLOURS[(of + 2) % COLOURS.len()];
        let path: Vec<String> =
            curve.points.iter().map(|point| format!("{:.1},{:.1}", x(point.0), y(point.1))).collect();
        let _ =
            writeln!(out, r#"<polyline points="{}" fill="none" stroke="{colour}" stroke-width="2"/>"#, path.join(" "));
        for point in curve.points {
            let (x, y) = (x(point.0), y(point.1));
            let _ = writeln!(
                out,
                r#"<circle cx="{x:.1}" cy="{y:.1}" r="3.5" fill="{colour}"/><text x="{x:.1}" y="{:.1}" font-size="9" text-anchor="middle">{}</text>"#,
                y - 7.0,
                short(point.1)
            );
        }
    }
    out + "</svg>\n"
}

fn frame(title: &str, series: &[&str], top: f64) -> String {
    let height = TOP + PLOT_HEIGHT + BOTTOM;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#ffffff\"/>\n<text x=\"{LEFT}\" y=\"20\" font-size=\"15\">{title}</text>\n"
    );
    let mut x = LEFT;
    for (of, name) in series.iter().enumerate() {
        // A single curve has the colour of the third series.
        let colour = COLOURS[(of + if series.len() < 4 { 2 } else { 0 }) % COLOURS.len()];
        let _ = writeln!(out, r#"<rect x="{x:.1}" y="30" width="11" height="11" fill="{colour}"/>"#);
        text(&mut out, x + 16.0, 40.0, "start", name);
        x += 34.0 + 7.0 * name.len() as f64;
    }
    for step in 0..=4 {
        let value = top * f64::from(step) / 4.0;
        let y = TOP + PLOT_HEIGHT * (1.0 - f64::from(step) / 4.0);
        let _ =
            writeln!(out, r##"<line x1="{LEFT}" y1="{y:.1}" x2="{}" y2="{y:.1}" stroke="#dddddd"/>"##, WIDTH - 20.0);
        text(&mut out, LEFT - 6.0, y + 4.0, "end", &short(value));
    }
    out
}

fn text(out: &mut String, x: f64, y: f64, anchor: &str, text: &str) {
    let _ = writeln!(out, r#"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}">{text}</text>"#);
}

/// The next of 1, 1.5, 2, 3, 4, 5, 7.5, 10 times a power of ten, with room for the figures above the bars.
fn nice(value: f64) -> f64 {
    let value = if value > 0.0 { value * 1.08 } else { 1.0 };
    let power = 10_f64.powf(value.log10().floor());
    let steps = [1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.5, 10.0];
    steps.into_iter().map(|step| step * power).find(|step| *step >= value).unwrap_or(10.0 * power)
}

fn grouped(value: f64) -> String {
    match value {
        v if v >= 1e6 => format!("{} million", v / 1e6),
        v if v >= 1e4 => short(v),
        v => format!("{v}"),
    }
}
