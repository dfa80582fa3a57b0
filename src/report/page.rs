//! The page: its sections in order, its style and its script, in one file that loads nothing.

use super::Extras;
use super::chart::{Chart, Line, Unit};
use super::data;
use super::evaluation;
use super::format::{colour, percent};
use super::pictures;
use super::scale::number;
use super::series::{RunLog, keys};
use html_escape::encode_text as text;
use std::fmt::Write;

const STYLE: &str = include_str!("style.css");
const SCRIPT: &str = include_str!("hover.js");

/// The report of `runs`, the first of which is the one that it is about.
pub fn page(runs: &[RunLog], extras: &Extras) -> String {
    let Some(run) = runs.first() else {
        return String::new();
    };
    let last = runs.iter().map(RunLog::last_step).fold(0.0, f64::max);
    let sections = [
        ("Evaluation", evaluation(runs, extras, last)),
        ("Losses", losses(runs, last)),
        ("Anchors of the intra-modal loss", anchors(runs, last)),
        (
            "Nearest neighbours",
            extras
                .pictures
                .as_ref()
                .map(pictures::section)
                .unwrap_or_default(),
        ),
        ("Optimisation", optimisation(runs, last)),
        (
            "Data that were not used, or read otherwise",
            data::section(run),
        ),
        ("Configuration", configuration(runs)),
    ];
    let mut out = String::new();
    let title = text(&run.label);
    let _ = write!(
        out,
        r#"<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<meta name="color-scheme" content="light dark">
<title>{title}</title><style>{STYLE}</style></head><body><main><header><h1>{title}</h1>{}{}{}"#,
        subtitle(run),
        tiles(run),
        legend(runs),
    );
    out.push_str(r#"<nav aria-label="Sections">"#);
    let filled = || {
        sections
            .iter()
            .enumerate()
            .filter(|(_, (_, s))| !s.is_empty())
    };
    for (i, (title, _)) in filled() {
        let _ = write!(out, r##"<a href="#s{i}">{title}</a>"##);
    }
    out.push_str("</nav></header>");
    for (i, (title, content)) in filled() {
        let _ = write!(
            out,
            r#"<section id="s{i}"><h2>{title}</h2>{content}</section>"#
        );
    }
    let _ = writeln!(
        out,
        "<footer>clip-distill {}. All numbers stand in metrics.jsonl and results.jsonl beside this file.</footer>\
         </main><script>{SCRIPT}</script></body></html>",
        env!("CARGO_PKG_VERSION")
    );
    out
}

/// A value of the configuration as words.
fn setting(run: &RunLog, key: &str) -> Option<String> {
    match run.config.1.get(key)? {
        toml::Value::String(s) => Some(s.clone()),
        value => Some(value.to_string()),
    }
}

fn subtitle(run: &RunLog) -> String {
    let of = |key: &str| setting(run, key);
    let mut parts = Vec::new();
    let model = of("model").unwrap_or_default();
    parts.push(match of("teacher") {
        Some(teacher) => format!("student {model}, teacher {teacher}"),
        None => format!("model {model}"),
    });
    parts.extend(of("method"));
    let factor = of("accum-freq").filter(|k| k != "1");
    let batch = of("batch-size").map(|n| format!("batch {n}"));
    parts.extend(batch.map(|b| match factor {
        Some(k) => format!("{b} × {k}"),
        None => b,
    }));
    parts.extend(of("precision"));
    parts.extend(of("seed").map(|s| format!("seed {s}")));
    format!("<p class=\"about\">{}</p>", text(&parts.join(" · ")))
}

/// The few numbers that one looks for first.
fn tiles(run: &RunLog) -> String {
    let mut tiles: Vec<(String, String, String)> = Vec::new();
    let step = run.last_step();
    if step == 0.0 {
        return "<p>Nothing is logged yet.</p>".into();
    }
    let of = setting(run, "steps").map(|n| format!("of {n}"));
    tiles.push(("step".into(), number(step), of.unwrap_or_default()));
    if let Some(line) = Some(run.line("loss", 0)).filter(|l| !l.points.is_empty()) {
        let (first, end) = (line.points[0].y, run.last("loss").unwrap_or_default());
        tiles.push((
            "total loss".into(),
            number(end),
            format!("from {}", number(first)),
        ));
    }
    if let Some((name, value)) = evaluation::headline(run) {
        tiles.push((name, percent(value), String::new()));
    }
    let of = |modality: &str| run.last(&format!("intra_{modality}_ess"));
    let each: Vec<String> = [("images", of("image")), ("texts", of("text"))]
        .into_iter()
        .filter_map(|(name, share)| Some(format!("{} <small>{name}</small>", percent(share?))))
        .collect();
    if !each.is_empty() {
        let name = "effective sample size, of the batch".into();
        tiles.push((name, each.join(" "), String::new()));
    }
    if let Some(rate) = run.last("samples_per_s") {
        tiles.push(("throughput".into(), number(rate), "pairs/s".into()));
    }
    let mut out = String::from(r#"<dl class="tiles">"#);
    for (name, value, detail) in tiles {
        let _ = write!(
            out,
            "<div><dt>{}</dt><dd>{value} <small>{}</small></dd></div>",
            text(&name),
            text(&detail)
        );
    }
    out + "</dl>"
}

/// Which colour is which run, where there are several.
fn legend(runs: &[RunLog]) -> String {
    if runs.len() < 2 {
        return String::new();
    }
    let mut out = String::from(r#"<ul class="legend" aria-label="Runs">"#);
    for (i, run) in runs.iter().enumerate() {
        let _ = write!(
            out,
            r#"<li><i class="key c{}"></i>{}</li>"#,
            colour(i),
            text(&run.label)
        );
    }
    out + "</ul>"
}

fn evaluation(runs: &[RunLog], extras: &Extras, last: f64) -> String {
    evaluation::tables(runs, &extras.teacher) + &evaluation::charts(runs, &extras.teacher, last)
}

/// A chart of one key of metrics.jsonl, a line a run.
fn chart(
    runs: &[RunLog],
    key: &str,
    (title, detail): (&str, &str),
    unit: Unit,
    (last, compact): (f64, bool),
) -> String {
    let line = |(i, run): (usize, &RunLog)| -> Line { run.line(key, colour(i)) };
    let chart = Chart {
        title: title.into(),
        detail: detail.into(),
        unit,
        bands: Vec::new(),
        lines: runs.iter().enumerate().map(line).collect(),
        reference: None,
        compact,
    };
    chart.svg(last)
}

fn in_grid(charts: &str) -> String {
    match charts {
        "" => String::new(),
        charts => format!(r#"<div class="charts">{charts}</div>"#),
    }
}

/// The losses of a run.
fn terms(run: &RunLog) -> Vec<&str> {
    let mut keys = keys(&run.metrics);
    keys.retain(|key| key.starts_with("loss"));
    keys
}

fn losses(runs: &[RunLog], last: f64) -> String {
    let mut charts = String::new();
    for key in keys(runs.iter().flat_map(|r| &r.metrics)) {
        // Sums of other terms have nothing to do with each other.
        let runs = match key {
            "loss" if runs.iter().any(|r| terms(r) != terms(&runs[0])) => &runs[..1],
            _ => runs,
        };
        let title = match key.strip_prefix("loss") {
            Some("") => ("total", "weighted sum of the terms"),
            Some(term) => match term.trim_start_matches('_') {
                "clip" => ("clip", "contrastive"),
                "crd" => ("crd", "contrastive relational"),
                "fd" => ("fd", "feature distillation"),
                "icl" => ("icl", "interactive contrastive"),
                "intra" => ("intra", "intra-modal, divergence-weighted"),
                "mfd" => ("mfd", "masked feature distillation"),
                "gd" => ("gd", "gradient distillation"),
                "afd" => ("afd", "augmented feature distillation"),
                "affinity" => ("affinity", "affinity mimicking"),
                other => (other, ""),
            },
            None => continue,
        };
        charts += &chart(runs, key, title, Unit::Plain, (last, false));
    }
    in_grid(&charts)
}

fn anchors(runs: &[RunLog], last: f64) -> String {
    let mut out = String::new();
    for (modality, words) in [("image", "images"), ("text", "texts")] {
        let mut charts = String::new();
        let has = |r: &&RunLog| r.last(&format!("intra_{modality}_d_p50")).is_some();
        let weighed = runs.iter().filter(has).count();
        for (i, run) in runs.iter().enumerate() {
            for (what, title, unit) in [
                ("d", "Divergence dᵢ", "nats"),
                ("w", "Weight N·wᵢ", "1 is the average"),
            ] {
                let prefix = format!("intra_{modality}_{what}");
                let mut median = run.line(&format!("{prefix}_p50"), colour(i));
                // The extremes of steps put together would hide the bands.
                for p in &mut median.points {
                    (p.low, p.high) = (p.y, p.y);
                }
                median.name = "median".into();
                let detail = match weighed {
                    1 => unit.to_string(),
                    _ => format!("{unit}, {}", run.label),
                };
                let bands = [[5, 95], [25, 75]];
                let chart = Chart {
                    title: title.into(),
                    detail,
                    unit: Unit::FromZero,
                    bands: bands.map(|q| run.band(&prefix, q, colour(i))).into(),
                    lines: vec![median],
                    reference: None,
                    compact: true,
                };
                charts += &chart.svg(last);
            }
        }
        for (what, title, detail) in [
            ("ess", "Effective sample size", "% of N"),
            ("negative", "Anchors with gᵢ < 0", "%"),
        ] {
            let key = format!("intra_{modality}_{what}");
            charts += &chart(runs, &key, (title, detail), Unit::Percent, (last, true));
        }
        if !charts.is_empty() {
            let _ = write!(
                out,
                r#"<h3>Among {words}</h3><div class="charts four">{charts}</div>"#
            );
        }
    }
    if out.is_empty() {
        return out;
    }
    format!(
        "<p>For each anchor of a batch of N, dᵢ says how far the student's neighbourhood is from the \
         teacher's, and wᵢ what the anchor counts in the loss. Line: the median; dark band: the middle \
         half; light band: 5 % to 95 %. The effective sample size 1/Σwᵢ² is over how many anchors the \
         loss really averages. An anchor with gᵢ = ∂L/∂dᵢ &lt; 0 is pushed away from the teacher, which only \
         <code>--intra-weights divergence</code> does.</p>{out}"
    )
}

fn optimisation(runs: &[RunLog], last: f64) -> String {
    let mut charts = String::new();
    for (key, title, unit) in [
        ("lr", ("Learning rate", ""), Unit::FromZero),
        (
            "grad_norm",
            ("Gradient norm", "before clipping"),
            Unit::Plain,
        ),
        ("scale", ("Scale α", "exp of logit_scale"), Unit::Plain),
        ("samples_per_s", ("Throughput", "pairs/s"), Unit::FromZero),
        (
            "data_wait",
            ("Waiting for data", "% of the time"),
            Unit::Percent,
        ),
    ] {
        charts += &chart(runs, key, title, unit, (last, false));
    }
    let known = [
        "step",
        "epoch",
        "lr",
        "grad_norm",
        "scale",
        "samples_per_s",
        "data_wait",
    ];
    for key in keys(runs.iter().flat_map(|r| &r.metrics)) {
        if let Some(loss) = key.strip_prefix("scale_") {
            let title = format!("Scale c of {loss}");
            charts += &chart(runs, key, (&title, "learned"), Unit::Plain, (last, false));
        } else if !known.contains(&key) && !key.starts_with("loss") && !key.starts_with("intra_") {
            charts += &chart(runs, key, (key, ""), Unit::Plain, (last, false));
        }
    }
    in_grid(&charts)
}

fn configuration(runs: &[RunLog]) -> String {
    let mut out = String::new();
    for run in runs {
        let _ = write!(
            out,
            "<details><summary>config.toml of {}</summary><pre>{}</pre></details>",
            text(&run.label),
            text(&run.config.0)
        );
    }
    out
}
