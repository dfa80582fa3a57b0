//! The folder of a run: which one it is, and whether what is there fits the settings.

use super::checkpoint::{self, TrainState};
use super::log::timestamp;
use crate::eval::flags::EvalFlags;
use crate::loss::Method;
use crate::notices::warning;
use crate::settings::config::{Call, Config};
use crate::settings::error::{Result, failed, usage};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The run's name, given or made from date, model and method.
pub fn run_name(config: &Config) -> String {
    config.name.clone().unwrap_or_else(|| {
        let model = Path::new(&config.model)
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy();
        let method = String::from(match config.method {
            Method::Clip => "clip",
            Method::ClipKd => "clip-kd",
            Method::TinyClip => "tinyclip",
            Method::IntraKd => "intra-kd",
        });
        format!("{}-{model}-{method}", timestamp())
    })
}

/// The run's folder, and the checkpoint to go on from.
pub(crate) fn place(config: &Config, call: &Call) -> Result<(Config, PathBuf, Option<PathBuf>)> {
    let mut config = config.clone();
    let given = match call.resume.as_deref() {
        Some("latest") if config.name.is_none() => {
            return usage(
                "--resume latest needs the run's --name (or its config.toml as --config)",
            );
        }
        Some("latest") | None => None,
        Some(path) => checkpoint::find(path, Path::new(""))?,
    };
    // A checkpoint given by its path belongs to the run LOGS/NAME/checkpoints/step_N.
    let run = given.as_deref().and_then(|dir| {
        let dir = dir.canonicalize().ok()?;
        let checkpoints = dir.parent().filter(|p| p.ends_with("checkpoints"))?;
        Some(checkpoints.parent()?.to_path_buf())
    });
    if let (None, Some(run)) = (&config.name, run) {
        config.name = run.file_name().map(|n| n.to_string_lossy().into_owned());
        config.logs = run.parent().map(Path::to_path_buf).unwrap_or_default();
    }
    let folder = config.logs.join(run_name(&config));
    let checkpoints = folder.join("checkpoints");
    let from = match call.resume.as_deref() {
        None if begun(&folder) => {
            return usage(format!(
                "{} exists already: take another --name, or continue with --resume latest",
                folder.display()
            ));
        }
        None => None,
        Some("latest") => checkpoint::find("latest", &checkpoints)?,
        Some(_) => given,
    };
    Ok((config, folder, from))
}

/// Whether a run in `folder` has got beyond its first step: then it is worth keeping.
fn begun(folder: &Path) -> bool {
    let metrics = std::fs::metadata(folder.join("metrics.jsonl"));
    folder.join("checkpoints").exists() || metrics.is_ok_and(|m| m.len() > 0)
}

/// Keys that say nothing about the result.
const NEUTRAL: [&str; 14] = [
    "grad-checkpointing",
    "logs",
    "name",
    "log-every",
    "save-frequency",
    "save-every-steps",
    "eval-every",
    "zeroshot-frequency",
    "val-frequency",
    "threads",
    "workers",
    "max-bad-fraction",
    "backend",
    "device",
];
/// Weights that a checkpoint already holds, or that only their content identifies.
const STARTING: [&str; 6] = [
    "init",
    "inherit-from",
    "inherit-image",
    "inherit-text",
    "inherit-model",
    "teacher-checkpoint",
];
/// Keys that say what batch N of an epoch is.
const DATA: [&str; 19] = [
    "train-data",
    "train-num-samples",
    "batch-size",
    "seed",
    "shuffle-buffer",
    "data-root",
    "train-data-upsampling-factors",
    "dataset-resampled",
    "dataset-type",
    "csv-img-key",
    "csv-caption-key",
    "csv-separator",
    "image-key",
    "text-key",
    "json-text-key",
    "json-text-key-probs",
    "caption-lines",
    "max-image-pixels",
    "alpha",
];

/// The settings in `config` except `kind`'s and those that say nothing about the result.
fn without(config: toml::Table, kind: impl Fn(&str) -> bool) -> toml::Table {
    let neutral = |key: &str| NEUTRAL.contains(&key) || kind(key);
    config
        .into_iter()
        .filter(|(key, _)| !neutral(key))
        .collect()
}

/// The settings that decide a run's result and what it is evaluated on.
pub(crate) fn decisive(config: &Config) -> Result<toml::Table> {
    Ok(without(
        toml::Table::try_from(config).map_err(failed)?,
        |_| false,
    ))
}

/// In what `new` differs from `old`, in words.
pub(crate) fn changes(old: &toml::Table, new: &toml::Table) -> Vec<String> {
    let show = |v: Option<&toml::Value>| v.map_or("unset".into(), ToString::to_string);
    let keys: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    keys.into_iter()
        .filter_map(|key| {
            let (a, b) = (old.get(key), new.get(key));
            (a != b).then(|| format!("--{key} was {}, is {}", show(a), show(b)))
        })
        .collect()
}

/// Says what has changed since the checkpoint was written.
///
/// # Errors
/// If the data changed in the middle of an epoch: the position would point elsewhere.
pub(crate) fn compare(config: &Config, saved: &TrainState, dir: &Path) -> Result<()> {
    let evaluation = EvalFlags::keys();
    let aside = |key: &str| STARTING.contains(&key) || evaluation.iter().any(|k| k == key);
    // A checkpoint of an earlier version lacks the flags that came later: they had their defaults.
    let saved_config =
        Config::from_toml(&saved.config).and_then(|c| toml::Table::try_from(c).map_err(failed));
    let old = saved_config.or_else(|_| saved.config.parse().map_err(failed));
    let old = without(old.unwrap_or_default(), aside);
    let new = without(toml::Table::try_from(config).map_err(failed)?, aside);
    if saved.position.batch != 0 {
        let data = |all: &toml::Table| without(all.clone(), |key| !DATA.contains(&key));
        let moved = changes(&data(&old), &data(&new));
        if !moved.is_empty() {
            return usage(format!(
                "{} is from the middle of an epoch, which can only continue with the same data: {}",
                dir.display(),
                moved.join(", ")
            ));
        }
    }
    for change in changes(&old, &new) {
        warning(format_args!("changed since the checkpoint: {change}"));
    }
    Ok(())
}
