//! What the evaluations found: tables of the last of each run, and curves.

use super::chart::{Chart, Unit};
use super::format::colour;
use super::series::{RunLog, keys};
use html_escape::encode_text as text;
use serde_json::{Map, Value};
use std::fmt::Write;

const ZERO_SHOT: [(&str, &str); 2] = [("top1", "Top-1"), ("top5", "Top-5")];
const WAYS: [(&str, &str); 2] = [
    ("image_to_text", "Image → text"),
    ("text_to_image", "Text → image"),
];
const RANKS: [&str; 3] = ["R@1", "R@5", "R@10"];

/// A kind of evaluation of a set of images.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Test {
    /// Name of the set.
    set: String,
    /// `None` for zero-shot classification, else the protocol of the retrieval.
    protocol: Option<&'static str>,
    /// What the names of its metrics begin with.
    prefix: String,
}

impl Test {
    /// The test that a metric's name belongs to; see [`crate::eval::report::metrics`].
    fn of(metric: &str) -> Option<Self> {
        if let Some((set, _)) = metric.split_once("zeroshot-val-top") {
            return Some(Self {
                set: named(set, "zeroshot-data"),
                protocol: None,
                prefix: format!("{set}zeroshot-val-"),
            });
        }
        let way = WAYS.iter().find_map(|(way, _)| metric.find(way));
        let prefix = &metric[..way?];
        let protocols = ["first-caption", "all-captions"];
        let given = protocols.into_iter().find_map(|protocol| {
            let set = prefix.strip_suffix('-')?.strip_suffix(protocol)?;
            Some((set, protocol))
        });
        // open_clip's bare names are of the first captions.
        let (set, protocol) = given.unwrap_or((prefix, protocols[0]));
        Some(Self {
            set: named(set, "val-data"),
            protocol: Some(protocol),
            prefix: prefix.into(),
        })
    }

    /// Names and titles of its metrics.
    fn metrics(&self) -> Vec<(String, String)> {
        if self.protocol.is_none() {
            let of = |(key, title): &(&str, &str)| (self.name(key), title.to_string());
            return ZERO_SHOT.iter().map(of).collect();
        }
        WAYS.iter()
            .flat_map(|(way, title)| {
                let of = |rank| {
                    (
                        self.name(&format!("{way}_{rank}")),
                        format!("{title} {rank}"),
                    )
                };
                RANKS.map(of)
            })
            .collect()
    }

    fn name(&self, metric: &str) -> String {
        format!("{}{metric}", self.prefix)
    }
}

/// A set's prefix as its name.
fn named(prefix: &str, without: &str) -> String {
    match prefix.trim_end_matches('-') {
        "" => without.into(),
        set => set.into(),
    }
}

/// The tests of all runs, in the order of the logs.
fn tests(runs: &[RunLog], teacher: &Map<String, Value>) -> Vec<Test> {
    let mut tests = Vec::new();
    for key in keys(runs.iter().flat_map(|r| &r.results).chain([teacher])) {
        if let Some(test) = Test::of(key)
            && !tests.contains(&test)
        {
            tests.push(test);
        }
    }
    tests
}

/// Name and value of the first metric of the last evaluation.
pub fn headline(run: &RunLog) -> Option<(String, f64)> {
    let last = run.results.last()?;
    last.iter().find_map(|(key, value)| {
        let test = Test::of(key)?;
        let (_, title) = test.metrics().into_iter().find(|(name, _)| name == key)?;
        Some((
            format!("{}, {}", title.to_lowercase(), test.set),
            value.as_f64()?,
        ))
    })
}

/// Two tables, zero-shot and retrieval: the teacher, and every run's last evaluation.
pub fn tables(runs: &[RunLog], teacher: &Map<String, Value>) -> String {
    let tests = tests(runs, teacher);
    let (retrieval, zero_shot): (Vec<Test>, Vec<Test>) =
        tests.into_iter().partition(|t| t.protocol.is_some());
    let mut out = String::new();
    let both = (runs, teacher);
    table(&mut out, "Zero-shot classification", &zero_shot, both);
    table(&mut out, "Retrieval", &retrieval, both);
    match out.as_str() {
        "" => out,
        _ => format!(r#"<div class="tables">{out}</div>"#),
    }
}

/// The columns' titles: the ranks of both ways of retrieval are put under one title each.
fn head(retrieval: bool) -> String {
    let column = |title: &str| format!(r#"<th scope="col" class="n">{title}</th>"#);
    let first = |rows: u32| {
        let of = |title| format!(r#"<th scope="col" rowspan="{rows}">{title}</th>"#);
        of("Set") + &of("Model")
    };
    if !retrieval {
        let columns: String = ZERO_SHOT.iter().map(|(_, title)| column(title)).collect();
        return format!("<thead><tr>{}{columns}</tr></thead>", first(1));
    }
    let ways: String = WAYS
        .iter()
        .map(|(_, title)| format!(r#"<th scope="colgroup" colspan="3">{title}</th>"#))
        .collect();
    let ranks = RANKS.map(column).concat().repeat(WAYS.len());
    format!("<thead><tr>{}{ways}</tr><tr>{ranks}</tr></thead>", first(2))
}

fn table(
    out: &mut String,
    title: &str,
    tests: &[Test],
    (runs, teacher): (&[RunLog], &Map<String, Value>),
) {
    let Some(test) = tests.first() else { return };
    let _ = write!(
        out,
        r#"<div class="scroll"><table><caption>{title}, %</caption>{}"#,
        head(test.protocol.is_some())
    );
    for test in tests {
        let metrics = test.metrics();
        let values = |of: &Map<String, Value>| -> Vec<Option<f64>> {
            let value = |(name, _): &(String, String)| of.get(name)?.as_f64();
            metrics.iter().map(value).collect()
        };
        // A run's last line may be of other sets, where these have another frequency.
        let last = |run: &RunLog| {
            let found = run.results.iter().rev().map(&values);
            found.into_iter().find(|v| v.iter().any(Option::is_some))
        };
        let found: Vec<Option<Vec<Option<f64>>>> = runs.iter().map(last).collect();
        let best: Vec<f64> = (0..metrics.len())
            .map(|i| {
                found
                    .iter()
                    .flatten()
                    .filter_map(|v| v[i])
                    .fold(0.0, f64::max)
            })
            .collect();
        let mut rows: Vec<(String, Vec<Option<f64>>, bool)> = Vec::new();
        let of_teacher = values(teacher);
        if of_teacher.iter().any(Option::is_some) {
            rows.push(("teacher".into(), of_teacher, false));
        }
        for (i, (run, found)) in runs.iter().zip(found).enumerate() {
            let mark = match runs.len() {
                1 => String::new(),
                _ => format!(r#"<i class="key c{}"></i>"#, colour(i)),
            };
            let name = format!("{mark}{}", text(&run.label));
            rows.extend(found.map(|v| (name, v, runs.len() > 1)));
        }
        let count = rows.len();
        out.push_str("<tbody>");
        for (i, (name, values, competes)) in rows.into_iter().enumerate() {
            out.push_str("<tr>");
            if i == 0 {
                let protocol = match test.protocol {
                    Some(protocol) => format!("<br><small>{protocol}</small>"),
                    None => String::new(),
                };
                let _ = write!(
                    out,
                    r#"<th scope="rowgroup" rowspan="{count}">{}{protocol}</th>"#,
                    text(&test.set)
                );
            }
            let _ = write!(out, r#"<th scope="row">{name}</th>"#);
            for (value, best) in values.iter().zip(&best) {
                let shown = value.map_or("–".into(), |v| format!("{:.1}", 100.0 * v));
                let class = match value {
                    Some(v) if competes && v == best => "n best",
                    _ => "n",
                };
                let _ = write!(out, r#"<td class="{class}">{shown}</td>"#);
            }
            out.push_str("</tr>");
        }
        out.push_str("</tbody>");
    }
    out.push_str("</table></div>");
}

/// Curves of top-1, top-5 and R@1 by set; none of what was evaluated only once.
pub fn charts(runs: &[RunLog], teacher: &Map<String, Value>, last: f64) -> String {
    let mut out = String::new();
    let mut current = String::new();
    for test in tests(runs, teacher) {
        let shown =
            |(name, _): &(String, String)| !name.ends_with("R@5") && !name.ends_with("R@10");
        let mut charts = String::new();
        for (name, title) in test.metrics().into_iter().filter(shown) {
            let lines: Vec<_> = runs
                .iter()
                .enumerate()
                .map(|(i, run)| run.evaluations(&name, colour(i)))
                .collect();
            if lines.iter().all(|l| l.points.len() < 2) {
                continue;
            }
            let reference = teacher.get(&name).and_then(Value::as_f64);
            let chart = Chart {
                title,
                detail: match test.protocol {
                    Some(protocol) => format!("%, {protocol}"),
                    None => "%".into(),
                },
                unit: Unit::Percent,
                bands: Vec::new(),
                lines,
                reference: reference.map(|value| ("teacher".into(), value)),
                compact: true,
            };
            charts.push_str(&chart.svg(last));
        }
        if charts.is_empty() {
            continue;
        }
        if current != test.set {
            if !current.is_empty() {
                out.push_str("</div>");
            }
            let _ = write!(
                out,
                r#"<h3>{}</h3><div class="charts four">"#,
                text(&test.set)
            );
            current.clone_from(&test.set);
        }
        out.push_str(&charts);
    }
    if !current.is_empty() {
        out.push_str("</div>");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::{Accuracy, Outcome, Recall, Retrieval, report};

    /// Every name that an evaluation gives is understood, and found again.
    #[test]
    fn names_of_metrics() {
        let recall = Recall {
            r1: 0.25,
            r5: 0.5,
            r10: 1.0,
        };
        let both = Some(Retrieval {
            image_to_text: recall,
            text_to_image: recall,
        });
        for (prefix, sets) in [
            ("", ["zeroshot-data", "val-data", "val-data"]),
            ("demo-new", ["demo-new"; 3]),
        ] {
            let outcome = Outcome {
                prefix: prefix.into(),
                accuracy: Some(Accuracy {
                    top1: 0.125,
                    top5: 0.75,
                }),
                first_caption: both,
                all_captions: both,
                ..Outcome::default()
            };
            let names: Vec<String> = report::metrics(&outcome).into_iter().map(|m| m.0).collect();
            let mut tests: Vec<Test> = names.iter().filter_map(|n| Test::of(n)).collect();
            tests.dedup();
            let got: Vec<_> = tests.iter().map(|t| (t.set.as_str(), t.protocol)).collect();
            let protocols = [None, Some("first-caption"), Some("all-captions")];
            let want: Vec<_> = sets.into_iter().zip(protocols).collect();
            assert_eq!(got, want);
            let again: Vec<String> = tests.iter().flat_map(Test::metrics).map(|m| m.0).collect();
            assert_eq!(again, names);
        }
        assert_eq!(Test::of("epoch"), None);
    }
}
