//! The table as one self-contained page, with a plot of means and spreads for each column.

use super::plan::Plan;
use super::table::{Line, Table, cell, reading};
use html_escape::encode_text;
use std::fmt::Write;

/// Colours are Okabe and Ito's, which most colour-blind readers tell apart.
const STYLE: &str = "
:root { color-scheme: light dark; --ink: #1b1f24; --quiet: #667; --rule: #d5d9df; --back: #fff;
  --mark: #0072b2; --base: #d55e00; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e8eb; --quiet: #9aa2ad; --rule: #353b44; --back: #14171b; --mark: #56b4e9;
    --base: #e69f00; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--back);
  max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
p { max-width: 46rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .55rem; text-align: right; border-bottom: 1px solid var(--rule);
  white-space: nowrap; font-weight: normal; }
thead th { color: var(--quiet); vertical-align: bottom; }
th:first-child { text-align: left; }
tr.base th, tr.base td { font-weight: 600; }
td small { display: block; color: var(--quiet); }
.plots { margin-top: 1.5rem; display: grid; grid-template-columns: repeat(auto-fill, minmax(19rem, 1fr)); gap: 1rem 2rem; }
figure { margin: 0; } figcaption { font-weight: 600; }
svg { width: 100%; height: auto; font-size: 11px; fill: var(--ink); }
svg .rule { stroke: var(--rule); } svg .bar { stroke: var(--mark); stroke-width: 2; }
svg .dot { fill: var(--mark); } svg .base .bar { stroke: var(--base); } svg .base .dot { fill: var(--base); }
svg .guide { stroke: var(--base); stroke-dasharray: 3 3; } svg .tick { fill: var(--quiet); }
";

/// The page.
pub(super) fn html(plan: &Plan, measured: &Table, reference: Option<&Table>) -> String {
    let title = encode_text(&measured.title);
    let mut out = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n<title>{title}</title>\n\
         <style>{STYLE}</style>\n</head>\n<body>\n<h1>{title}</h1>\n<p>{}</p>\n",
        encode_text(&reading(plan, measured))
    );
    grid(&mut out, measured);
    out.push_str("<h2>Means and standard deviations</h2>\n");
    plots(&mut out, measured);
    if let (Some(table), Some(reference)) = (reference, plan.reference()) {
        let _ = write!(
            out,
            "<h2>{}</h2>\n<p>{}</p>\n",
            encode_text(&table.title),
            encode_text(&reference.note)
        );
        grid(&mut out, table);
        plots(&mut out, table);
    }
    out.push_str("</body>\n</html>\n");
    out
}

fn class(table: &Table, row: &Line) -> &'static str {
    match row.name == table.baseline {
        true => " class=\"base\"",
        false => "",
    }
}

fn grid(out: &mut String, table: &Table) {
    out.push_str("<div class=\"scroll\"><table>\n<thead><tr><th></th>");
    for column in &table.columns {
        let _ = write!(out, "<th>{}</th>", encode_text(column));
    }
    out.push_str("</tr></thead>\n<tbody>\n");
    for row in &table.rows {
        let _ = write!(
            out,
            "<tr{}><th scope=\"row\">{}</th>",
            class(table, row),
            encode_text(&row.name)
        );
        for (value, difference) in row.values.iter().zip(&row.differences) {
            let value = cell(value.as_ref(), false);
            let difference = difference
                .as_ref()
                .map(|d| format!("<small>{}</small>", cell(Some(d), true)))
                .unwrap_or_default();
            let _ = write!(out, "<td>{value}{difference}</td>");
        }
        out.push_str("</tr>\n");
    }
    out.push_str("</tbody></table></div>\n");
}

fn plots(out: &mut String, table: &Table) {
    out.push_str("<div class=\"plots\">\n");
    for i in 0..table.columns.len() {
        plot(out, table, i);
    }
    out.push_str("</div>\n");
}

/// A step of 1, 2 or 5 times a power of ten that cuts `span` into two to six parts.
fn tick_step(span: f64) -> f64 {
    let unit = 10f64.powf((span / 2.0).log10().floor());
    let steps = [5.0, 2.0, 1.0].map(|k| k * unit);
    steps
        .into_iter()
        .find(|step| span / step >= 2.0)
        .unwrap_or(unit)
}

/// A column: one line a row, a dot at the mean, a bar of one standard deviation to each side.
fn plot(out: &mut String, table: &Table, column: usize) {
    const WIDTH: f64 = 320.0;
    const LEFT: f64 = 118.0;
    const LINE: f64 = 20.0;
    let stats: Vec<_> = table.rows.iter().map(|r| r.values[column]).collect();
    // A teacher far above its students would press them together: the axis is the students'.
    let students = table.rows.iter().zip(&stats).filter(|(row, _)| !row.aside);
    let spread = students.filter_map(|(_, s)| s.as_ref().map(|s| (s.mean, s.sd.unwrap_or(0.0))));
    let low = spread
        .clone()
        .map(|(m, sd)| m - sd)
        .fold(f64::INFINITY, f64::min);
    let high = spread
        .map(|(m, sd)| m + sd)
        .fold(f64::NEG_INFINITY, f64::max);
    let name = encode_text(&table.columns[column]);
    if !(low.is_finite() && high.is_finite()) {
        return;
    }
    let step = tick_step((high - low).max(1.0));
    let (from, to) = ((low / step).floor() * step, (high / step).ceil() * step);
    let to = if to > from { to } else { from + step };
    let x = |value: f64| LEFT + (value - from) / (to - from) * (WIDTH - LEFT - 12.0);
    let height = LINE * table.rows.len() as f64;
    let _ = write!(
        out,
        "<figure><figcaption>{name}</figcaption>\n<svg viewBox=\"0 0 {WIDTH} {}\" role=\"img\" \
         aria-label=\"{name}: mean and standard deviation of each row, in per cent\">\n",
        height + 22.0
    );
    let ticks = ((to - from) / step).round() as usize;
    for k in 0..=ticks {
        let value = from + step * k as f64;
        let at = x(value);
        let digits = usize::from(step < 1.0);
        let _ = writeln!(
            out,
            "<line class=\"rule\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"0\" y2=\"{height}\"/>\
             <text class=\"tick\" x=\"{at:.1}\" y=\"{}\" text-anchor=\"middle\">{value:.digits$}</text>",
            height + 15.0
        );
    }
    let base = table.rows.iter().position(|r| r.name == table.baseline);
    if let Some(stat) = base.and_then(|row| stats[row]) {
        let at = x(stat.mean);
        let _ = writeln!(
            out,
            "<line class=\"guide\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"0\" y2=\"{height}\"/>"
        );
    }
    for (k, (row, stat)) in table.rows.iter().zip(&stats).enumerate() {
        let y = LINE * (k as f64 + 0.5);
        let _ = write!(
            out,
            "<g{}><text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>",
            class(table, row),
            LEFT - 10.0,
            y + 4.0,
            encode_text(&short(&row.name))
        );
        if let Some(stat) = stat.filter(|s| s.mean > to || s.mean < from) {
            let _ = write!(
                out,
                "<text class=\"tick\" x=\"{}\" y=\"{}\" text-anchor=\"end\">{} {}</text>",
                WIDTH - 4.0,
                y + 4.0,
                cell(Some(&stat), false),
                if stat.mean > to { "→" } else { "←" }
            );
        } else if let Some(stat) = stat {
            let sd = stat.sd.unwrap_or(0.0);
            let _ = write!(
                out,
                "<line class=\"bar\" x1=\"{:.1}\" x2=\"{:.1}\" y1=\"{y}\" y2=\"{y}\"/>\
                 <circle class=\"dot\" cx=\"{:.1}\" cy=\"{y}\" r=\"3.5\"><title>{}: {} (n = {})</title></circle>",
                x(stat.mean - sd),
                x(stat.mean + sd),
                x(stat.mean),
                encode_text(&row.name),
                cell(Some(stat), false),
                stat.n
            );
        }
        out.push_str("</g>\n");
    }
    out.push_str("</svg></figure>\n");
}

/// A name that fits beside a plot.
fn short(name: &str) -> String {
    const MOST: usize = 18;
    if name.chars().count() <= MOST {
        return name.to_string();
    }
    let head: String = name.chars().take(MOST - 1).collect();
    format!("{head}…")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_few() {
        for (span, step) in [
            (1.0, 0.5),
            (3.9, 1.0),
            (4.0, 2.0),
            (11.0, 5.0),
            (47.0, 20.0),
        ] {
            assert_eq!(tick_step(span), step, "{span}");
        }
    }
}
