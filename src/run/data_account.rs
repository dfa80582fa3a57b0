//! What a run says and keeps of the data that it could not use, or read otherwise than they are written.

use super::checkpoint::Position;
use crate::data::{Cost, SkipKind, Skips, Stats};
use crate::notices::{notice, warning};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;

/// The account of a run.
pub(super) struct DataAccount {
    label: String,
    told: BTreeSet<SkipKind>,
    /// Of all epochs that ended.
    total: Skips,
}

impl DataAccount {
    pub(super) fn new(label: &str) -> Self {
        Self {
            label: label.to_owned(),
            told: BTreeSet::new(),
            total: Skips::default(),
        }
    }

    /// Says each kind once, when it first occurs, with its first example.
    pub(super) fn tell(&mut self, skips: &Skips) {
        for (kind, count, examples) in skips.iter() {
            if !self.told.insert(kind) {
                continue;
            }
            let example = examples.first().map_or("", String::as_str);
            let line = match count {
                1 => format!("{}: {kind}: {example}", self.label),
                n => format!("{}: {kind}: {example}, and {} more", self.label, n - 1),
            };
            match kind.cost() {
                Cost::Nothing => notice(line),
                Cost::Pair | Cost::Shard => warning(format_args!("{line}; skipped")),
            }
        }
    }

    /// The line of metrics.jsonl for an epoch, or the part of it since batch `first`, that ends at `position`.
    pub(super) fn line(position: Position, first: u64, stats: &Stats) -> Map<String, Value> {
        let of = |keep: fn(Cost) -> bool| -> Value {
            let kept = stats.skips.iter().filter(|(kind, ..)| keep(kind.cost()));
            let each = kept.map(|(kind, n, examples)| {
                let example = examples.first();
                (kind.to_string(), json!({"count": n, "example": example}))
            });
            Value::Object(each.collect())
        };
        let mut data = Map::new();
        data.insert("pairs".into(), json!(stats.seen()));
        if first > 0 {
            data.insert("from_batch".into(), json!(first));
        }
        data.insert("skipped".into(), of(|cost| cost != Cost::Nothing));
        data.insert("noted".into(), of(|cost| cost == Cost::Nothing));
        Map::from_iter([
            ("step".into(), json!(position.step)),
            ("epoch".into(), json!(position.epoch)),
            ("data".into(), Value::Object(data)),
        ])
    }

    /// Adds what an epoch skipped.
    pub(super) fn add(&mut self, skips: &Skips) {
        self.total.merge(skips);
    }

    /// Says what was skipped in all.
    pub(super) fn sum_up(&self) {
        if self.total.total() > 0 {
            let skipped = self.total.only(|kind| kind.cost() != Cost::Nothing);
            warning(format_args!("{}: skipped: {skipped}", self.label));
        }
    }
}
