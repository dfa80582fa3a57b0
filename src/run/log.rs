//! What a run writes down and says while it goes: metrics.jsonl, results.jsonl, its progress.

use crate::notices::{self, Event};
use crate::settings::error::{Result, file};
use crate::settings::files;
use serde_json::{Map, Value};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// A file of one JSON object a line.
#[derive(Debug)]
pub struct JsonLines {
    path: PathBuf,
    file: File,
}

impl JsonLines {
    /// Opens the file at `path`, keeping the lines of steps up to `step`: a resumed run writes the
    /// later ones again.
    pub fn open(path: &Path, step: u64) -> Result<Self> {
        let old = files::read(path)?.unwrap_or_default();
        let of = |line: &&str| {
            let value: Value = serde_json::from_str(line).ok()?;
            value.get("step")?.as_u64()
        };
        let kept: String = old
            .lines()
            .filter(|line| of(line).is_some_and(|s| s <= step))
            .flat_map(|line| [line, "\n"])
            .collect();
        if kept != old {
            std::fs::write(path, kept).map_err(|e| file("write", path, &e))?;
        }
        let handle = OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .map_err(|e| file("open", path, &e))?;
        Ok(Self {
            path: path.to_path_buf(),
            file: handle,
        })
    }

    /// Appends one line.
    pub fn write(&mut self, object: Map<String, Value>) -> Result<()> {
        let line = format!("{}\n", Value::Object(object));
        self.file
            .write_all(line.as_bytes())
            .map_err(|e| file("write", &self.path, &e))
    }
}

/// The progress of a run, for those who listen; it ends when this is dropped.
#[derive(Debug)]
pub struct Progress {
    label: String,
    total: u64,
    started: Instant,
    first: u64,
}

impl Progress {
    /// A run labelled `label` that has done `first` of `total` steps.
    pub fn new(label: &str, first: u64, total: u64) -> Self {
        notices::tell(&Event::Begin {
            label,
            done: first,
            total,
        });
        Self {
            label: label.to_string(),
            total,
            started: Instant::now(),
            first,
        }
    }

    /// After a step: `words` are worth a line when `logged`.
    pub fn step(&self, step: u64, words: &str, logged: bool) {
        let line = logged.then(|| {
            let done = (step - self.first).max(1) as f64;
            let left = self.total.saturating_sub(step) as f64;
            let eta = self.started.elapsed().as_secs_f64() / done * left;
            let (label, total) = (&self.label, self.total);
            format!("{label} step {step}/{total} eta {} {words}", span(eta))
        });
        let line = line.as_deref();
        notices::tell(&Event::Step { step, words, line });
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        notices::tell(&Event::End);
    }
}

/// A duration for people: `42s`, `3m05s`, `2h07m`, `3d04h`.
pub fn span(seconds: f64) -> String {
    let s = seconds.max(0.0).round() as u64;
    match s {
        0..60 => format!("{s}s"),
        60..3600 => format!("{}m{:02}s", s / 60, s % 60),
        3600..86_400 => format!("{}h{:02}m", s / 3600, s / 60 % 60),
        _ => format!("{}d{:02}h", s / 86_400, s / 3600 % 24),
    }
}

/// Now, in UTC, as `2026_01_31-13_59_59`: fit for a folder's name.
pub fn timestamp() -> String {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| d.as_secs());
    let (year, month, day) = civil(now / 86_400);
    let s = now % 86_400;
    format!(
        "{year}_{month:02}_{day:02}-{:02}_{:02}_{:02}",
        s / 3600,
        s / 60 % 60,
        s % 60
    )
}

/// Days since 1970-01-01 to a date of the Gregorian calendar (Hinnant's `civil_from_days`).
fn civil(days: u64) -> (u64, u64, u64) {
    let z = days + 719_468;
    let era = z / 146_097;
    let doe = z % 146_097;
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    (
        yoe + era * 400 + u64::from(month <= 2),
        month,
        doy - (153 * mp + 2) / 5 + 1,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        assert_eq!(civil(0), (1970, 1, 1));
        assert_eq!(civil(19_782), (2024, 2, 29));
        assert_eq!(civil(20_454), (2026, 1, 1));
    }

    #[test]
    fn spans() {
        assert_eq!(span(41.6), "42s");
        assert_eq!(span(185.0), "3m05s");
        assert_eq!(span(7620.0), "2h07m");
    }

    #[test]
    fn resumed_lines_replace_the_later_ones() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.jsonl");
        std::fs::write(&path, "{\"step\":1}\n{\"step\":2}\n{\"step\":3}\n{\"st").unwrap();
        let mut lines = JsonLines::open(&path, 2).unwrap();
        lines
            .write(Map::from_iter([("step".into(), Value::from(3))]))
            .unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text, "{\"step\":1}\n{\"step\":2}\n{\"step\":3}\n");
    }
}
