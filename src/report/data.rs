//! What the data had that could not be used, or was read otherwise than it is written: epoch by epoch.

use super::series::RunLog;
use html_escape::encode_text as text;
use serde_json::{Map, Value};
use std::fmt::Write;

/// More epochs than this are put together, so that a page stays one.
const EPOCHS: usize = 40;

/// The section; empty if there is nothing to tell.
pub fn section(run: &RunLog) -> String {
    let mut kinds: Vec<(&str, &str)> = Vec::new();
    for data in run.data.iter().filter_map(|line| line.get("data")) {
        for (kind, value) in found(data) {
            if !kinds.iter().any(|(k, _)| *k == kind) {
                let example = value.get("example").and_then(Value::as_str);
                kinds.push((kind, example.unwrap_or_default()));
            }
        }
    }
    if kinds.is_empty() {
        return String::new();
    }
    let mut out = String::from("<table><thead><tr><th>epoch</th><th>pairs seen</th>");
    for (kind, _) in &kinds {
        let _ = write!(out, "<th>{}</th>", text(kind));
    }
    out.push_str("</tr></thead><tbody>");
    let left_out = run.data.len().saturating_sub(EPOCHS);
    for line in &run.data[left_out..] {
        let data = line.get("data").unwrap_or(&Value::Null);
        let number = |value: Option<&Value>| value.and_then(Value::as_u64).unwrap_or_default();
        let _ = write!(
            out,
            "<tr><th>{}</th><td>{}</td>",
            number(line.get("epoch")),
            number(data.get("pairs"))
        );
        for (kind, _) in &kinds {
            let value = found(data).find(|(k, _)| k == kind);
            let count = number(value.and_then(|(_, v)| v.get("count")));
            let _ = write!(out, "<td>{count}</td>");
        }
        out.push_str("</tr>");
    }
    out.push_str("</tbody></table><dl class=\"examples\">");
    for (kind, example) in kinds {
        let (kind, example) = (text(kind), text(example));
        let _ = write!(out, "<dt>{kind}</dt><dd>{example}</dd>");
    }
    out.push_str("</dl>");
    if left_out > 0 {
        let _ = write!(
            out,
            "<p>The last {EPOCHS} epochs; all are in metrics.jsonl.</p>"
        );
    }
    out
}

/// Kinds with their counts and examples: what was skipped, then what is worth knowing.
fn found(data: &Value) -> impl Iterator<Item = (&str, &Map<String, Value>)> {
    let parts = ["skipped", "noted"].into_iter();
    let objects = parts.filter_map(|part| data.get(part)?.as_object());
    let each = objects.flatten();
    each.filter_map(|(kind, value)| Some((kind.as_str(), value.as_object()?)))
}
