//! One quantity over the steps of one or more runs, as a small SVG line chart.

use super::scale::{Axis, number};
use html_escape::{encode_double_quoted_attribute as attribute, encode_text as text};
use std::fmt::Write;

/// The drawing's size in its own units, which are CSS pixels at its natural width.
const WIDTH: f64 = 360.0;
const COMPACT: f64 = 264.0;
const HEIGHT: f64 = 196.0;
/// Where the axes cross, and how much is left on the right for the values at the lines' ends.
const LEFT: f64 = 44.0;
const RIGHT: f64 = 58.0;
const TOP: f64 = 10.0;
const BOTTOM: f64 = 26.0;
/// Distance of two labels at the right.
const LABEL: f64 = 13.0;
/// Lines of at most this many points have a dot at each.
const DOTS: usize = 12;

/// What numbers mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Numbers, on an axis that suits them.
    Plain,
    /// Numbers that are read from zero.
    FromZero,
    /// Shares, shown in per cent from zero.
    Percent,
}

/// A logged step, or several that were put together: the mean, and the extremes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// The step.
    pub x: f64,
    /// The mean.
    pub y: f64,
    /// The least.
    pub low: f64,
    /// The largest.
    pub high: f64,
}

/// One run's line.
#[derive(Clone, Debug)]
pub struct Line {
    /// What it is called where it is pointed at.
    pub name: String,
    /// Which of the page's colours it has.
    pub colour: usize,
    /// By step.
    pub points: Vec<Point>,
}

/// The region between two quantiles.
#[derive(Clone, Debug)]
pub struct Band {
    /// Names of the lower and the upper edge.
    pub names: [String; 2],
    /// Which of the page's colours it has.
    pub colour: usize,
    /// Step, lower and upper edge.
    pub points: Vec<[f64; 3]>,
}

/// A chart.
#[derive(Clone, Debug)]
pub struct Chart {
    /// The quantity.
    pub title: String,
    /// Shown smaller after the title: unit, data set.
    pub detail: String,
    /// How its numbers are read.
    pub unit: Unit,
    /// Behind the lines, the widest first.
    pub bands: Vec<Band>,
    /// One a run.
    pub lines: Vec<Line>,
    /// A named value that does not change, such as the teacher's.
    pub reference: Option<(String, f64)>,
    /// Narrower, for four beside each other.
    pub compact: bool,
}

impl Chart {
    /// The figure, over steps up to `last`; nothing if there is nothing to draw.
    pub fn svg(&self, last: f64) -> String {
        let lines: Vec<&Line> = self.lines.iter().filter(|l| !l.points.is_empty()).collect();
        if lines.is_empty() {
            return String::new();
        }
        let right = self.right();
        let (x, y) = (Axis::exact(0.0, last, (LEFT, right)), self.vertical(&lines));
        let mut body = String::new();
        grid(&mut body, &x, &y, (self.factor(), right));
        for band in self.bands.iter().filter(|b| !b.points.is_empty()) {
            Self::band(&mut body, band, &x, &y);
        }
        if let Some((name, value)) = &self.reference {
            let at = y.at(*value);
            let _ = write!(
                body,
                r#"<line class="reference" x1="{LEFT}" x2="{}" y1="{at:.1}" y2="{at:.1}"/><text class="note" x="{}" y="{:.1}">{} {}</text>"#,
                right,
                LEFT + 4.0,
                // Above the line, or below where there is no room.
                if at < TOP + 14.0 { at + 12.0 } else { at - 4.0 },
                text(name),
                self.shown(*value),
            );
        }
        for line in &lines {
            Self::line(&mut body, line, &x, &y);
        }
        self.labels(&mut body, &lines, &y);
        self.pointers(&mut body, &lines);
        format!(
            r#"<figure class="chart"><figcaption><b>{}</b> <span>{}</span></figcaption><svg viewBox="0 0 {} {HEIGHT}" role="img" aria-label="{}" data-x="{} {} {LEFT} {}">{body}</svg></figure>"#,
            text(&self.title),
            text(&self.detail),
            right + RIGHT,
            attribute(&self.words(&lines)),
            x.low,
            x.high,
            right,
        )
    }

    /// What a value is multiplied with before it is shown.
    fn factor(&self) -> f64 {
        match self.unit {
            Unit::Percent => 100.0,
            Unit::Plain | Unit::FromZero => 1.0,
        }
    }

    /// Where the steps end.
    fn right(&self) -> f64 {
        (if self.compact { COMPACT } else { WIDTH }) - RIGHT
    }

    /// A value in words: a share to a tenth of a per cent.
    fn shown(&self, value: f64) -> String {
        match self.unit {
            Unit::Percent => format!("{:.1}", 100.0 * value),
            Unit::Plain | Unit::FromZero => number(value),
        }
    }

    fn vertical(&self, lines: &[&Line]) -> Axis {
        let points = lines.iter().flat_map(|l| &l.points);
        let edges = self.bands.iter().flat_map(|b| &b.points);
        let values = points
            .flat_map(|p| [p.low, p.high])
            .chain(edges.flat_map(|&[_, low, high]| [low, high]))
            .chain(self.reference.iter().map(|(_, value)| *value));
        let (low, high) = values.fold((f64::MAX, f64::MIN), |(l, h), v| (l.min(v), h.max(v)));
        let place = (HEIGHT - BOTTOM, TOP);
        match self.unit {
            Unit::Plain if low > 0.0 && high > 50.0 * low => Axis::logarithmic(low, high, place),
            Unit::Plain if low > 0.3 * high || low < 0.0 => Axis::round(low, high, place),
            _ => Axis::round(low.min(0.0), high, place),
        }
    }

    fn band(body: &mut String, band: &Band, x: &Axis, y: &Axis) {
        let upper = band.points.iter().map(|&[s, _, high]| (s, high));
        let lower = band.points.iter().rev().map(|&[s, low, _]| (s, low));
        let outline = path(upper.chain(lower), x, y);
        let _ = write!(
            body,
            r#"<path class="band c{}" d="{outline}Z"/>"#,
            band.colour
        );
    }

    fn line(body: &mut String, line: &Line, x: &Axis, y: &Axis) {
        let (points, colour) = (&line.points, line.colour);
        if points.iter().any(|p| p.low < p.high) {
            let upper = points.iter().map(|p| (p.x, p.high));
            let lower = points.iter().rev().map(|p| (p.x, p.low));
            let outline = path(upper.chain(lower), x, y);
            let _ = write!(body, r#"<path class="band c{colour}" d="{outline}Z"/>"#);
        }
        let d = path(points.iter().map(|p| (p.x, p.y)), x, y);
        let _ = write!(body, r#"<path class="line c{colour}" d="{d}"/>"#);
        if points.len() <= DOTS {
            for p in points {
                let _ = write!(
                    body,
                    r#"<circle class="dot c{colour}" cx="{:.1}" cy="{:.1}" r="2.5"/>"#,
                    x.at(p.x),
                    y.at(p.y)
                );
            }
        }
    }

    /// Steps and values for the pointer's script, from the top down: upper edges, lines, lower edges.
    fn pointers(&self, body: &mut String, lines: &[&Line]) {
        let mut put = |name: &str, colour: usize, points: Vec<(f64, f64)>| {
            let steps: Vec<String> = points.iter().map(|p| p.0.round().to_string()).collect();
            let values: Vec<String> = points.iter().map(|p| self.shown(p.1)).collect();
            let _ = write!(
                body,
                r#"<g data-name="{}" data-colour="{colour}" data-steps="{}" data-values="{}"/>"#,
                attribute(name),
                steps.join(" "),
                values.join(" ")
            );
        };
        let bands = self.bands.iter().filter(|b| !b.points.is_empty());
        for band in bands.clone() {
            let points = band.points.iter().map(|p| (p[0], p[2])).collect();
            put(&band.names[1], band.colour, points);
        }
        for line in lines {
            let points = line.points.iter().map(|p| (p.x, p.y)).collect();
            put(&line.name, line.colour, points);
        }
        for band in bands.rev() {
            let points = band.points.iter().map(|p| (p[0], p[1])).collect();
            put(&band.names[0], band.colour, points);
        }
    }

    /// The last value of every line at its end, and the outer band's names, pushed apart where they
    /// would overlap.
    fn labels(&self, body: &mut String, lines: &[&Line], y: &Axis) {
        let mut labels: Vec<(f64, String, String)> = Vec::new();
        for line in lines {
            if let Some(end) = line.points.last() {
                let words = self.shown(end.y);
                labels.push((y.at(end.y), format!("value c{}", line.colour), words));
            }
        }
        if let Some(band) = self.bands.first()
            && let Some(&[_, low, high]) = band.points.last()
        {
            for (value, name) in [low, high].into_iter().zip(&band.names) {
                labels.push((y.at(value), "note".into(), name.clone()));
            }
        }
        labels.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut places: Vec<f64> = labels.iter().map(|l| l.0).collect();
        spread(&mut places, TOP, HEIGHT - BOTTOM);
        for (place, (_, class, words)) in places.iter().zip(&labels) {
            let _ = write!(
                body,
                r#"<text class="{class}" x="{}" y="{:.1}">{}</text>"#,
                self.right() + 6.0,
                place + 4.0,
                text(words)
            );
        }
    }

    /// The chart for those who cannot see it.
    fn words(&self, lines: &[&Line]) -> String {
        let mut words = self.title.clone();
        if !self.detail.is_empty() {
            let _ = write!(words, " ({})", self.detail);
        }
        for line in lines {
            let (Some(first), Some(last)) = (line.points.first(), line.points.last()) else {
                continue;
            };
            let shown = |v| self.shown(v);
            let low = line.points.iter().fold(f64::MAX, |m, p| m.min(p.low));
            let high = line.points.iter().fold(f64::MIN, |m, p| m.max(p.high));
            let _ = write!(
                words,
                "; {}: {} at step {}, {} at step {}, between {} and {}",
                line.name,
                shown(first.y),
                first.x.round(),
                shown(last.y),
                last.x.round(),
                shown(low),
                shown(high),
            );
        }
        if let Some((name, value)) = &self.reference {
            let _ = write!(words, "; {name}: {}", self.shown(*value));
        }
        words
    }
}

/// Horizontal lines with their values, and the steps below.
fn grid(body: &mut String, x: &Axis, y: &Axis, (factor, right): (f64, f64)) {
    for (value, label) in y.ticks(factor) {
        let at = y.at(value);
        let _ = write!(
            body,
            r#"<line class="grid" x1="{LEFT}" x2="{}" y1="{at:.1}" y2="{at:.1}"/><text class="tick" text-anchor="end" x="{}" y="{:.1}">{label}</text>"#,
            right,
            LEFT - 6.0,
            at + 4.0,
        );
    }
    let base = HEIGHT - BOTTOM;
    for (value, label) in x.ticks(1.0) {
        let at = x.at(value);
        let _ = write!(
            body,
            r#"<line class="axis" x1="{at:.1}" x2="{at:.1}" y1="{base}" y2="{}"/><text class="tick" text-anchor="middle" x="{at:.1}" y="{}">{label}</text>"#,
            base + 4.0,
            base + 17.0,
        );
    }
    let _ = write!(
        body,
        r#"<text class="note" x="{}" y="{}">step</text>"#,
        right + 22.0,
        base + 17.0
    );
}

fn path(points: impl Iterator<Item = (f64, f64)>, x: &Axis, y: &Axis) -> String {
    let mut d = String::new();
    for (i, (a, b)) in points.enumerate() {
        let command = if i == 0 { 'M' } else { 'L' };
        let _ = write!(d, "{command}{:.1} {:.1}", x.at(a), y.at(b));
    }
    d
}

/// Moves sorted places apart to at least [`LABEL`], within `top` to `bottom` while there is room.
fn spread(places: &mut [f64], top: f64, bottom: f64) {
    let mut least = top;
    for place in places.iter_mut() {
        *place = place.max(least);
        least = *place + LABEL;
    }
    let mut most = bottom;
    for place in places.iter_mut().rev() {
        *place = place.min(most);
        most = *place - LABEL;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(x: f64, y: f64) -> Point {
        Point {
            x,
            y,
            low: y,
            high: y,
        }
    }

    fn chart(points: Vec<Point>) -> Chart {
        Chart {
            title: "A < B".into(),
            detail: "\"nats\"".into(),
            unit: Unit::FromZero,
            bands: Vec::new(),
            lines: vec![Line {
                name: "it's \"x\" & y".into(),
                colour: 1,
                points,
            }],
            reference: Some(("teacher".into(), 4.0)),
            compact: false,
        }
    }

    #[test]
    fn lines_end_where_their_values_are() {
        let svg = chart(vec![point(1.0, 2.0), point(100.0, 4.0)]).svg(100.0);
        // Steps 0 to 100 are between 44 and 302, values 0 to 4 between 170 and 10.
        assert!(svg.contains(r#"d="M46.6 90.0L302.0 10.0""#), "{svg}");
        assert!(svg.contains("2 at step 1, 4 at step 100, between 2 and 4"));
        assert!(
            svg.contains("A &lt; B") && svg.contains("data-name=\"it's &quot;x&quot; &amp; y\"")
        );
        assert!(
            svg.contains(r#"data-steps="1 100" data-values="2 4""#),
            "{svg}"
        );
        let mut narrow = chart(vec![point(1.0, 2.0), point(100.0, 4.0)]);
        narrow.compact = true;
        assert!(narrow.svg(100.0).contains("L206.0 10.0"));
        assert_eq!(chart(Vec::new()).svg(100.0), "");
    }

    #[test]
    fn a_single_point_and_a_constant_are_drawn() {
        for points in [
            vec![point(1.0, 0.0)],
            vec![point(1.0, 3.0), point(2.0, 3.0)],
        ] {
            let mut chart = chart(points);
            chart.reference = None;
            for unit in [Unit::Plain, Unit::FromZero, Unit::Percent] {
                chart.unit = unit;
                let svg = chart.svg(chart.lines[0].points.len() as f64);
                assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
            }
        }
    }

    #[test]
    fn labels_do_not_overlap() {
        let mut places = [10.0, 11.0, 12.0, 100.0, 168.0, 169.0, 170.0];
        spread(&mut places, 10.0, 170.0);
        assert_eq!(places, [10.0, 23.0, 36.0, 100.0, 144.0, 157.0, 170.0]);
    }
}
