//! A drawing of latency by the number of pods there are.

use std::collections::BTreeMap;
use std::fmt::Write;

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 400.0;
const LEFT: f64 = 60.0;
const RIGHT: f64 = 170.0;
const TOP: f64 = 30.0;
const BOTTOM: f64 = 50.0;
/// Blue, orange, green, red: told apart by those who do not see all colours.
const COLOURS: [&str; 4] = ["#0072b2", "#e69f00", "#009e73", "#d55e00"];

/// An SVG of lines, one for each name, of points (pods, milliseconds); milliseconds in powers
/// of ten.
#[must_use]
pub fn svg(title: &str, points: &[(String, u32, f64)]) -> String {
    let mut lines: BTreeMap<&str, Vec<(f64, f64)>> = BTreeMap::new();
    for (name, pods, ms) in points {
        lines.entry(name).or_default().push((f64::from(*pods), ms.max(0.1)));
    }
    let most = points.iter().map(|(_, pods, _)| f64::from(*pods)).fold(1.0, f64::max);
    let top = points.iter().map(|(_, _, ms)| ms.log10().ceil()).fold(1.0, f64::max);
    let x = |pods: f64| LEFT + pods / most * (WIDTH - LEFT - RIGHT);
    let y = |ms: f64| HEIGHT - BOTTOM - ms.log10() / top * (HEIGHT - TOP - BOTTOM);
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n\
         <text x=\"{LEFT}\" y=\"18\" font-size=\"14\">{title}</text>\n"
    );
    for power in 0..=(top as i32) {
        let ms = 10f64.powi(power);
        let (at, end) = (y(ms), WIDTH - RIGHT);
        let _infallible = writeln!(
            text,
            "<path d=\"M{LEFT} {at:.1}H{end:.1}\" stroke=\"#ddd\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{ms} ms</text>",
            LEFT - 6.0,
            at + 4.0
        );
    }
    for part in 0..=4 {
        let pods = most * f64::from(part) / 4.0;
        let _infallible = writeln!(
            text,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{pods:.0}</text>",
            x(pods),
            HEIGHT - BOTTOM + 18.0
        );
    }
    let _infallible = writeln!(
        text,
        "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">pods on the node</text>",
        x(most / 2.0),
        HEIGHT - 12.0
    );
    for ((name, line), colour) in lines.iter().zip(COLOURS.iter().cycle()) {
        let mut path = String::new();
        for (index, (pods, ms)) in line.iter().enumerate() {
            let to = if index == 0 { 'M' } else { 'L' };
            let _infallible = write!(path, "{to}{:.1} {:.1}", x(*pods), y(*ms));
        }
        let Some((pods, ms)) = line.last() else { continue };
        let _infallible = writeln!(
            text,
            "<path d=\"{path}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" fill=\"{colour}\">{name}</text>",
            x(*pods) + 6.0,
            y(*ms) + 4.0
        );
    }
    text + "</svg>\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_name_has_a_line_and_each_point_a_place_in_it() {
        let points =
            [("a".to_owned(), 0, 5.0), ("a".to_owned(), 10, 6.0), ("b".to_owned(), 0, 50.0)];
        let drawn = svg("title", &points);
        assert_eq!(drawn.matches("stroke-width").count(), 2);
        assert!(drawn.contains("M60.0") && drawn.contains("L550.0"), "{drawn}");
    }
}
