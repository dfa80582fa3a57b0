//! What a step's report looks like, on the screen and as a line of metrics.jsonl, and what is counted for it.

use super::checkpoint::Position;
use crate::train::anchors;
use crate::train::pending_step::StepReport;
use serde_json::{Map, Value, json};
use std::time::Instant;

/// For the screen; `rate` in pairs a second.
pub(super) fn words(report: &StepReport, rate: f64) -> String {
    // gd is of the size (α/n)², below what four decimals show.
    let shown = |x: f32| match x.abs() {
        size if size > 0.0 && size < 1e-3 => format!("{x:.1e}"),
        _ => format!("{x:.4}"),
    };
    let terms: Vec<String> = report
        .terms
        .iter()
        .map(|(name, x)| format!("{name} {}", shown(*x)))
        .collect();
    format!(
        "loss {:.4} ({}) scale {:.2} lr {:.2e} {rate:.0} samples/s",
        report.total,
        terms.join(" "),
        report.scale,
        report.lr
    )
}

/// For metrics.jsonl, after the step that ends at `position`; `rate` in pairs a second, `waited` the share of the
/// time that went by in waiting for data.
pub(super) fn line(
    position: Position,
    report: &StepReport,
    rate: f64,
    waited: f64,
) -> Map<String, Value> {
    let mut line = Map::new();
    let mut put = |key: &str, value: Value| line.insert(key.to_string(), value);
    put("step", json!(position.step));
    put("epoch", json!(position.epoch));
    put("loss", json!(report.total));
    for (name, x) in &report.terms {
        put(&format!("loss_{name}"), json!(x));
    }
    put("lr", json!(report.lr));
    put("scale", json!(report.scale));
    for (loss, x) in &report.loss_scales {
        put(&format!("scale_{loss}"), json!(x));
    }
    put("grad_norm", json!(report.grad_norm));
    if let Some(loss_scale) = report.loss_scale {
        put("amp_scale", json!(loss_scale.scale));
        put("skipped_steps", json!(loss_scale.skipped_steps));
    }
    for (name, x) in &report.gates {
        put(name, json!(x));
    }
    put("samples_per_s", json!((rate * 10.0).round() / 10.0));
    put("data_wait", json!((waited * 1e4).round() / 1e4));
    for anchors in &report.anchors {
        line.extend(anchors::summary(anchors));
    }
    line
}

/// What is counted between two logged steps.
pub(super) struct Window {
    /// Time spent on checkpoints and evaluations is left out.
    pub(super) since: Instant,
    pub(super) samples: usize,
    pub(super) waited: f64,
}

impl Window {
    pub(super) fn new() -> Self {
        Self {
            since: Instant::now(),
            samples: 0,
            waited: 0.0,
        }
    }
}
