//! Outcomes in words: open_clip's metric names, one table, results.json.

use super::evaluator::Outcome;
use super::retrieval::{Recall, Retrieval};
use crate::data::{Cost, Skips};
use serde_json::{Map, Value, json};

/// Name and value (a share, 0 to 1) of every metric of an outcome.
///
/// `PREFIX-zeroshot-val-top1` and `-top5`; `PREFIX-first-caption-image_to_text_R@1` and so on, and the
/// same with `all-captions`. Without a prefix: `zeroshot-val-top1`, and for retrieval open_clip's own
/// `image_to_text_R@1` (its protocol is first-caption) beside `all-captions-image_to_text_R@1`.
pub fn metrics(outcome: &Outcome) -> Vec<(String, f64)> {
    let dash = |s: &str| {
        if s.is_empty() {
            String::new()
        } else {
            format!("{s}-")
        }
    };
    let prefix = dash(&outcome.prefix);
    let mut out = Vec::new();
    if let Some(a) = outcome.accuracy {
        out.push((format!("{prefix}zeroshot-val-top1"), a.top1));
        out.push((format!("{prefix}zeroshot-val-top5"), a.top5));
    }
    let first = if prefix.is_empty() {
        ""
    } else {
        "first-caption"
    };
    for (protocol, r) in [
        (first, &outcome.first_caption),
        ("all-captions", &outcome.all_captions),
    ] {
        for (way, recall) in r.iter().flat_map(ways) {
            for (k, value) in at(recall) {
                let name = format!("{prefix}{}{way}_R@{k}", dash(protocol));
                out.push((name, value));
            }
        }
    }
    out
}

fn ways(r: &Retrieval) -> [(&'static str, &Recall); 2] {
    [
        ("image_to_text", &r.image_to_text),
        ("text_to_image", &r.text_to_image),
    ]
}

fn at(r: &Recall) -> [(u32, f64); 3] {
    [(1, r.r1), (5, r.r5), (10, r.r10)]
}

/// The content of results.json: `about` (what was evaluated), `metrics` (all of them by name) and
/// `datasets` (what was counted in each).
pub fn json(about: Map<String, Value>, outcomes: &[Outcome]) -> Value {
    let numbers: Map<String, Value> = outcomes
        .iter()
        .flat_map(metrics)
        .map(|(name, value)| (name, json!(value)))
        .collect();
    let datasets: Vec<Value> = outcomes
        .iter()
        .map(|o| {
            let mut of = Map::new();
            of.insert("name".into(), json!(o.name));
            of.insert("images".into(), json!(o.images));
            if o.accuracy.is_some() {
                of.insert("classes".into(), json!(o.classes));
            }
            if o.first_caption.is_some() {
                of.insert("captions".into(), json!(o.captions));
            }
            of.insert("skipped".into(), counts(&o.skips, |c| c != Cost::Nothing));
            of.insert("noted".into(), counts(&o.skips, |c| c == Cost::Nothing));
            Value::Object(of)
        })
        .collect();
    let mut out = about;
    out.insert("metrics".into(), Value::Object(numbers));
    out.insert("datasets".into(), Value::Array(datasets));
    Value::Object(out)
}

/// The counts of those kinds that `keep` keeps, by their names.
pub fn counts(skips: &Skips, keep: impl Fn(Cost) -> bool) -> Value {
    let kept = skips.iter().filter(|(kind, ..)| keep(kind.cost()));
    Value::Object(
        kept.map(|(kind, n, _)| (kind.to_string(), json!(n)))
            .collect(),
    )
}

/// One table of all outcomes in per cent, and a line for each set of which something was skipped.
pub fn table(model: &str, outcomes: &[Outcome]) -> String {
    let header = [
        "model", "dataset", "images", "of", "protocol", "top-1", "top-5", "i2t R@1", "R@5", "R@10",
        "t2i R@1", "R@5", "R@10",
    ];
    let percent = |x: f64| format!("{:.2}", 100.0 * x);
    let mut rows: Vec<Vec<String>> = vec![header.map(String::from).to_vec()];
    for o in outcomes {
        let start = |of: String, protocol: &str| {
            let first = [model.to_string(), o.name.clone(), o.images.to_string()];
            let mut row = first.to_vec();
            row.extend([of, protocol.to_string()]);
            row
        };
        if let Some(a) = o.accuracy {
            let mut row = start(format!("{} classes", o.classes), "zero-shot");
            row.extend([percent(a.top1), percent(a.top5)]);
            row.resize(header.len(), String::new());
            rows.push(row);
        }
        for (protocol, n, r) in [
            ("first-caption", o.images, &o.first_caption),
            ("all-captions", o.captions, &o.all_captions),
        ] {
            let Some(r) = r else { continue };
            let mut row = start(format!("{n} captions"), protocol);
            row.resize(7, String::new());
            for (_, recall) in ways(r) {
                row.extend(at(recall).map(|(_, x)| percent(x)));
            }
            rows.push(row);
        }
    }
    let mut out = layout(&rows);
    for o in outcomes {
        for (word, skips) in told(&o.skips) {
            out.push_str(&format!("{}: {word}: {skips}\n", o.name));
        }
    }
    out
}

/// What was skipped and what is worth knowing, if anything, each with its word.
pub fn told(skips: &Skips) -> impl Iterator<Item = (&'static str, Skips)> + use<> {
    let of = |costs: bool| skips.only(|kind| (kind.cost() != Cost::Nothing) == costs);
    let both = [("skipped", of(true)), ("noted", of(false))];
    both.into_iter().filter(|(_, skips)| !skips.is_empty())
}

/// Columns of which no row but the header has anything are left out; words to the left, numbers to
/// the right.
fn layout(rows: &[Vec<String>]) -> String {
    let columns: Vec<usize> = (0..rows[0].len())
        .filter(|&c| rows.iter().skip(1).any(|r| !r[c].is_empty()))
        .collect();
    let width = |c: usize| rows.iter().map(|r| r[c].chars().count()).max().unwrap_or(0);
    let mut out = String::new();
    for row in rows {
        let mut line = String::new();
        for &c in &columns {
            let (cell, width) = (&row[c], width(c));
            let words = [0, 1, 4].contains(&c);
            let padding = " ".repeat(width - cell.chars().count());
            line += &if words {
                format!("{cell}{padding}  ")
            } else {
                format!("{padding}{cell}  ")
            };
        }
        out += line.trim_end();
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::SkipKind;
    use crate::eval::Accuracy;

    fn outcomes() -> [Outcome; 2] {
        let recall = |r1| Recall {
            r1,
            r5: 0.5,
            r10: 1.0,
        };
        let retrieval = |r1| Retrieval {
            image_to_text: recall(r1),
            text_to_image: recall(r1 / 2.0),
        };
        let mut skips = Skips::default();
        skips.add(SkipKind::MissingImage, || "x.jpg".into());
        let imagenet = Outcome {
            name: "imagenet".into(),
            prefix: "imagenet".into(),
            images: 8,
            classes: 1000,
            accuracy: Some(Accuracy {
                top1: 0.125,
                top5: 0.75,
            }),
            skips,
            ..Outcome::default()
        };
        let val = Outcome {
            name: "val-data".into(),
            images: 4,
            captions: 9,
            first_caption: Some(retrieval(0.25)),
            all_captions: Some(retrieval(0.5)),
            ..Outcome::default()
        };
        [imagenet, val]
    }

    #[test]
    fn names_are_open_clips() {
        let value = |o: &Outcome, name: &str| {
            let all = metrics(o);
            all.iter().find(|(n, _)| n == name).map(|(_, v)| *v)
        };
        let [imagenet, mut val] = outcomes();
        assert_eq!(value(&imagenet, "imagenet-zeroshot-val-top1"), Some(0.125));
        assert_eq!(value(&imagenet, "imagenet-zeroshot-val-top5"), Some(0.75));
        assert_eq!(metrics(&val).len(), 12);
        assert_eq!(value(&val, "image_to_text_R@1"), Some(0.25));
        assert_eq!(value(&val, "all-captions-text_to_image_R@1"), Some(0.25));
        assert_eq!(value(&val, "text_to_image_R@10"), Some(1.0));
        val.prefix = "coco".into();
        assert_eq!(
            value(&val, "coco-first-caption-image_to_text_R@1"),
            Some(0.25)
        );
        assert_eq!(
            value(&val, "coco-all-captions-image_to_text_R@1"),
            Some(0.5)
        );
    }

    #[test]
    fn the_table_lines_up() {
        let text = table("m", &outcomes());
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 5, "{text}");
        assert!(lines[1].starts_with("m      imagenet       8  1000 classes  zero-shot"));
        assert!(lines[1].ends_with("12.50  75.00"), "{text}");
        assert!(lines[3].ends_with("25.00  50.00  100.00"), "{text}");
        assert_eq!(lines[0].find("top-5"), lines[1].find("75.00"), "{text}");
        assert!(lines[4].contains("1 missing image (x.jpg)"));
        let only = table("m", &outcomes()[..1]);
        assert!(!only.contains("R@1"), "{only}");
    }

    #[test]
    fn results_hold_everything() {
        let about = Map::from_iter([("model".to_string(), json!("m"))]);
        let value = json(about, &outcomes());
        assert_eq!(value["model"], "m");
        assert_eq!(value["metrics"]["image_to_text_R@5"], 0.5);
        assert_eq!(value["datasets"][0]["skipped"]["missing image"], 1);
        assert_eq!(value["datasets"][1]["captions"], 9);
    }
}
