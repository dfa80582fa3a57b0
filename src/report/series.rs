//! A run's logs as series of numbers.

use super::chart::{Band, Line, Point};
use crate::settings::error::{Error, Result, usage};
use crate::settings::files;
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

/// A longer series is put together to this many points.
const POINTS: usize = 300;

/// What a run's folder says of it.
#[derive(Clone, Debug)]
pub struct RunLog {
    /// Its name in the report.
    pub label: String,
    /// Lines of metrics.jsonl that are of steps.
    pub metrics: Vec<Map<String, Value>>,
    /// Those that are of the data of an epoch.
    pub data: Vec<Map<String, Value>>,
    /// Lines of results.jsonl.
    pub results: Vec<Map<String, Value>>,
    /// The text of config.toml, and what it says.
    pub config: (String, toml::Table),
}

impl RunLog {
    /// Reads the folder of a run, also of an unfinished one: a line that is cut short is
    /// left out.
    ///
    /// # Errors
    /// If it is no run's folder, or cannot be read.
    pub fn read(folder: &Path) -> Result<Self> {
        let Some(config) = files::read(&folder.join("config.toml"))? else {
            return usage(format!(
                "{}: no config.toml there: name a run's folder",
                folder.display()
            ));
        };
        let table = config.parse().map_err(|e: toml::de::Error| {
            let message = e.message().to_string();
            Error::Usage(format!("{}: config.toml: {message}", folder.display()))
        })?;
        let lines = |name: &str| -> Result<Vec<Map<String, Value>>> {
            let text = files::read(&folder.join(name))?.unwrap_or_default();
            let object = |line: &str| serde_json::from_str(line).ok();
            Ok(text.lines().filter_map(object).collect())
        };
        // `.` and `..` have no name of their own.
        let path: PathBuf = folder.canonicalize().unwrap_or_else(|_| folder.into());
        let name = path.file_name().unwrap_or(folder.as_os_str());
        let all = lines("metrics.jsonl")?.into_iter();
        let (data, metrics) = all.partition(|line| line.contains_key("data"));
        Ok(Self {
            label: name.to_string_lossy().into_owned(),
            metrics,
            data,
            results: lines("results.jsonl")?,
            config: (config, table),
        })
    }

    /// The last logged step.
    pub fn last_step(&self) -> f64 {
        let last = |lines: &[Map<String, Value>]| {
            let of = |l: &Map<String, Value>| l.get("step")?.as_f64();
            lines.last().and_then(of).unwrap_or(0.0)
        };
        last(&self.metrics).max(last(&self.results))
    }

    /// The last value of a key of metrics.jsonl.
    pub fn last(&self, key: &str) -> Option<f64> {
        self.metrics.last()?.get(key)?.as_f64()
    }

    /// A key of metrics.jsonl as a line.
    pub fn line(&self, key: &str, colour: usize) -> Line {
        let points = series(&self.metrics, key);
        Line {
            name: self.label.clone(),
            colour,
            points: condensed(&points),
        }
    }

    /// A key of results.jsonl as a line, all of its points.
    pub fn evaluations(&self, key: &str, colour: usize) -> Line {
        let point = |&(x, y): &(f64, f64)| Point {
            x,
            y,
            low: y,
            high: y,
        };
        Line {
            name: self.label.clone(),
            colour,
            points: series(&self.results, key).iter().map(point).collect(),
        }
    }

    /// The region between two quantiles `PREFIX_pLOW` and `PREFIX_pHIGH` of metrics.jsonl; over steps
    /// that were put together, between their means.
    pub fn band(&self, prefix: &str, [low, high]: [u32; 2], colour: usize) -> Band {
        let edge = |q: u32| condensed(&series(&self.metrics, &format!("{prefix}_p{q}")));
        let points = edge(low).into_iter().zip(edge(high));
        Band {
            names: [low, high].map(|q| format!("{q} %")),
            colour,
            points: points.map(|(l, h)| [l.x, l.y, h.y]).collect(),
        }
    }
}

/// Step and value of every line that has a number under `key`.
fn series(lines: &[Map<String, Value>], key: &str) -> Vec<(f64, f64)> {
    let of =
        |line: &Map<String, Value>| Some((line.get("step")?.as_f64()?, line.get(key)?.as_f64()?));
    lines.iter().filter_map(of).collect()
}

/// At most [`POINTS`] points: neighbours become their mean, with the least and the largest of them.
fn condensed(points: &[(f64, f64)]) -> Vec<Point> {
    let size = points.len().div_ceil(POINTS).max(1);
    let point = |part: &[(f64, f64)]| {
        let mean =
            |f: &dyn Fn(&(f64, f64)) -> f64| part.iter().map(f).sum::<f64>() / part.len() as f64;
        Point {
            x: mean(&|p| p.0),
            y: mean(&|p| p.1),
            low: part.iter().map(|p| p.1).fold(f64::MAX, f64::min),
            high: part.iter().map(|p| p.1).fold(f64::MIN, f64::max),
        }
    };
    points.chunks(size).map(point).collect()
}

/// The keys of `lines` in the order of their first appearance.
pub fn keys<'a>(lines: impl IntoIterator<Item = &'a Map<String, Value>>) -> Vec<&'a str> {
    let mut keys: Vec<&str> = Vec::new();
    for line in lines {
        for key in line.keys() {
            if !keys.contains(&key.as_str()) {
                keys.push(key);
            }
        }
    }
    keys
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_series_keep_their_extremes() {
        let all: Vec<(f64, f64)> = (1..=1000)
            .map(|i| (f64::from(i), f64::from(i % 7)))
            .collect();
        let short = condensed(&all);
        assert_eq!(short.len(), 250);
        // Steps 1 to 4 and their values.
        let first = Point {
            x: 2.5,
            y: 2.5,
            low: 1.0,
            high: 4.0,
        };
        assert_eq!(short[0], first);
        assert_eq!(condensed(&all[..300]).len(), 300);
        assert!(condensed(&[]).is_empty());
    }

    #[test]
    fn broken_lines_are_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &[u8]| std::fs::write(dir.path().join(name), text).unwrap();
        assert_eq!(RunLog::read(dir.path()).unwrap_err().exit_code(), 2);
        put("config.toml", b"steps = 4\n");
        put(
            "metrics.jsonl",
            b"{\"step\":1,\"loss\":2,\"a_p5\":0,\"a_p95\":3}\n{\"step\":3,\"loss\":null}\n{\"step\":4,\"loss\":\xe2",
        );
        let run = RunLog::read(dir.path()).unwrap();
        assert_eq!((run.metrics.len(), run.last_step()), (2, 3.0));
        assert_eq!(run.line("loss", 0).points.len(), 1);
        assert_eq!(run.band("a", [5, 95], 0).points, [[1.0, 0.0, 3.0]]);
        assert_eq!(keys(&run.metrics), ["step", "loss", "a_p5", "a_p95"]);
    }
}
