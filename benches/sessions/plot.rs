//! A small plot: panels with both axes logarithmic, as SVG.

use std::fmt::Write;

/// A named line.
pub struct Series {
    pub name: String,
    pub points: Vec<(f64, f64)>,
}

impl Series {
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned(), points: Vec::new() }
    }
}

/// Lines that share their axes.
pub struct Panel {
    pub title: &'static str,
    pub series: Vec<Series>,
}

const WIDTH: f64 = 460.0;
const HEIGHT: f64 = 300.0;
const MARGIN: f64 = 60.0;
/// Room for the names of the lines.
const LEGEND: f64 = 130.0;
const COLOURS: [&str; 6] = ["#1b6ca8", "#c8553d", "#3a7d44", "#8e5ea2", "#b8860b", "#444444"];

/// The drawing.
pub fn svg(panels: &[Panel]) -> String {
    let (width, height) = (panels.len() as f64 * (WIDTH + MARGIN * 2.0), HEIGHT + MARGIN * 2.0 + LEGEND);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    for (at, panel) in panels.iter().enumerate() {
        let x = at as f64 * (WIDTH + MARGIN * 2.0) + MARGIN;
        let _ = writeln!(out, "<g transform=\"translate({x} {MARGIN})\">{}</g>", drawn(panel));
    }
    out + "</svg>\n"
}

/// The powers of ten around all values.
fn decades(values: impl Iterator<Item = f64> + Clone) -> (f64, f64) {
    let low = values.clone().fold(f64::INFINITY, f64::min).max(0.1).log10().floor();
    let high = values.fold(f64::NEG_INFINITY, f64::max).max(0.1).log10().ceil();
    (low, high.max(low + 1.0))
}

fn drawn(panel: &Panel) -> String {
    let points = panel.series.iter().flat_map(|series| series.points.iter());
    let (left, right) = decades(points.clone().map(|point| point.0));
    let (bottom, top) = decades(points.map(|point| point.1));
    let x = |value: f64| (value.max(0.1).log10() - left) / (right - left) * WIDTH;
    let y = |value: f64| HEIGHT - (value.max(0.1).log10() - bottom) / (top - bottom) * HEIGHT;
    let mut out =
        format!("<text x=\"0\" y=\"-20\" font-weight=\"bold\">Microseconds {}</text>\n", panel.title);
    let powers = |low: f64, high: f64| {
        (0..).map(move |step| low + f64::from(step)).take_while(move |power| *power <= high)
    };
    for power in powers(left, right) {
        let at = x(10_f64.powf(power));
        let _ = write!(
            out,
            "<path d=\"M{at:.1} 0V{HEIGHT}\" stroke=\"#ddd\"/><text x=\"{at:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
            HEIGHT + 16.0,
            10_f64.powf(power)
        );
    }
    for power in powers(bottom, top) {
        let at = y(10_f64.powf(power));
        let _ = write!(
            out,
            "<path d=\"M0 {at:.1}H{WIDTH}\" stroke=\"#ddd\"/><text x=\"-6\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            at + 4.0,
            10_f64.powf(power)
        );
    }
    for ((series, colour), row) in panel.series.iter().zip(COLOURS.iter().cycle()).zip(0..) {
        let line: Vec<String> =
            series.points.iter().map(|(px, py)| format!("{:.1},{:.1}", x(*px), y(*py))).collect();
        let legend = HEIGHT + 40.0 + f64::from(row) * 18.0;
        let _ = writeln!(
            out,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>\
             <path d=\"M0 {legend}h24\" stroke=\"{colour}\" stroke-width=\"2\"/><text x=\"32\" y=\"{}\">{}</text>",
            line.join(" "),
            legend + 4.0,
            series.name
        );
    }
    out
}
