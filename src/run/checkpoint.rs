//! Checkpoints: folders that are complete or not there at all.
//!
//! `checkpoints/step_N/` holds `model.safetensors` (open_clip's names and layouts),
//! `open_clip_config.json`, and `train_state.safetensors`: optimiser moments, loss heads, counters
//! and the run's configuration. It is written under a temporary name, every file synced, and
//! renamed last, so a crash or a full disk at any moment leaves the older ones as they were.

use crate::data::Start;
use crate::io::{self, Entry, Pending};
use crate::model::Clip;
use crate::settings::error::{Error, Result, failed, file, input, unreadable, unwritten, usage};
use crate::tensor::Normalisation;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

/// The student's weights.
pub const MODEL: &str = "model.safetensors";
/// open_clip's description of the model.
pub const MODEL_CONFIG: &str = "open_clip_config.json";
/// The weights' name in folders downloaded from the Hugging Face hub.
pub const HUB_MODEL: &str = "open_clip_model.safetensors";
/// What resuming needs beside the weights.
pub const TRAIN_STATE: &str = "train_state.safetensors";

const FORMAT: &str = "clip-distill train state 1";
const TEMPORARY: &str = ".tmp-";
const REPLACED: &str = ".old-";

/// A run's position: steps done and data read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// Optimiser steps done.
    pub step: u64,
    /// The epoch of the next batch.
    pub epoch: u32,
    /// Batches of that epoch that are done.
    pub batch: u64,
    /// Where that epoch begins in the data, if not at a round of its own number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<Start>,
}

/// A state to be written as `train_state.safetensors`.
pub struct Snapshot<'a> {
    /// The run's position.
    pub position: Position,
    /// The run's configuration as TOML.
    pub config: String,
    /// Moments as `m.NAME` and `v.NAME`, and every parameter that is no part of the model.
    pub tensors: Vec<Pending<'a>>,
}

impl Snapshot<'_> {
    fn save(self, path: &Path) -> Result<()> {
        let position = serde_json::to_string(&self.position).map_err(failed)?;
        let metadata = HashMap::from([
            ("format".to_string(), FORMAT.to_string()),
            ("position".to_string(), position),
            ("config".to_string(), self.config),
        ]);
        io::write(path, self.tensors, &metadata).map_err(unwritten)
    }
}

/// The content of a `train_state.safetensors`: what a [`Snapshot`] held.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainState {
    /// The run's position.
    pub position: Position,
    /// The run's configuration as TOML.
    pub config: String,
    /// The tensors of [`Snapshot::tensors`] by name.
    pub tensors: BTreeMap<String, Entry>,
}

impl TrainState {
    /// Reads the file of the checkpoint folder `dir`.
    ///
    /// # Errors
    /// If it cannot be read or is no train state of this version.
    pub fn load(dir: &Path) -> Result<Self> {
        let path = dir.join(TRAIN_STATE);
        let mut file = io::read(&path).map_err(input)?;
        let bad = |what: &str| Error::Usage(format!("{}: {what}", path.display()));
        let mut entry = |key: &str| file.metadata.remove(key);
        if entry("format").as_deref() != Some(FORMAT) {
            return Err(bad("not a train state of this program's version"));
        }
        let position = entry("position").ok_or_else(|| bad("lacks `position`"))?;
        Ok(Self {
            position: serde_json::from_str(&position).map_err(|e| bad(&e.to_string()))?,
            config: entry("config").ok_or_else(|| bad("lacks `config`"))?,
            tensors: file
                .entries
                .into_iter()
                .map(|e| (e.name.clone(), e))
                .collect(),
        })
    }
}

/// Writes and syncs a small file.
fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut f = File::create(path).map_err(|e| file("create", path, &e))?;
    f.write_all(bytes)
        .and_then(|()| f.sync_all())
        .map_err(|e| file("write", path, &e))
}

/// Syncs a file or folder that somebody else wrote.
fn sync(path: &Path) -> Result<()> {
    File::open(path)
        .and_then(|f| f.sync_all())
        .map_err(|e| file("sync", path, &e))
}

/// Writes the checkpoint of `snapshot` into `folder` (a run's `checkpoints/`) and returns its path.
/// `write_model` writes the student's weights to the path it is given.
///
/// # Errors
/// If anything cannot be written; then nothing of the new checkpoint stays, and older ones are
/// untouched.
pub fn save(
    folder: &Path,
    snapshot: Snapshot,
    model_config: &serde_json::Value,
    write_model: impl FnOnce(&Path) -> Result<()>,
) -> Result<PathBuf> {
    fs::create_dir_all(folder).map_err(|e| file("create", folder, &e))?;
    let name = format!("step_{}", snapshot.position.step);
    let temporary = folder.join(format!("{TEMPORARY}{name}"));
    remove(&temporary)?;
    let done = fill(&temporary, snapshot, model_config, write_model)
        .and_then(|()| publish(folder, &temporary, &name));
    if done.is_err() {
        let _ = fs::remove_dir_all(&temporary);
    }
    done
}

fn fill(
    dir: &Path,
    snapshot: Snapshot,
    model_config: &serde_json::Value,
    write_model: impl FnOnce(&Path) -> Result<()>,
) -> Result<()> {
    fs::create_dir(dir).map_err(|e| file("create", dir, &e))?;
    let weights = dir.join(MODEL);
    write_model(&weights)?;
    sync(&weights)?;
    let json = serde_json::to_string_pretty(model_config)
        .map_err(|e| Error::Failed(format!("{MODEL_CONFIG}: {e}")))?;
    write(&dir.join(MODEL_CONFIG), json.as_bytes())?;
    snapshot.save(&dir.join(TRAIN_STATE))?;
    sync(dir)
}

/// Gives a finished folder its name. One of the same step, from before a resume, steps aside first.
fn publish(folder: &Path, temporary: &Path, name: &str) -> Result<PathBuf> {
    let target = folder.join(name);
    let aside = folder.join(format!("{REPLACED}{name}"));
    if target.exists() {
        remove(&aside)?;
        fs::rename(&target, &aside).map_err(|e| file("rename", &target, &e))?;
    }
    if let Err(e) = fs::rename(temporary, &target) {
        let _ = fs::rename(&aside, &target);
        return Err(file("rename", temporary, &e));
    }
    sync(folder)?;
    remove(&aside)?;
    Ok(target)
}

fn remove(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(file("remove", dir, &e)),
        _ => Ok(()),
    }
}

/// Removes what a killed run left half written in `folder`.
pub fn sweep(folder: &Path) -> Result<()> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(unreadable(folder, &e)),
    };
    for entry in entries {
        let entry = entry.map_err(|e| unreadable(folder, &e))?;
        if entry.file_name().to_string_lossy().starts_with(TEMPORARY) {
            remove(&entry.path())?;
        }
    }
    Ok(())
}

/// The newest complete checkpoint in `folder`, if there is any. Temporary folders do not count, save
/// that of a replacement that a crash cut short: it gets its name back.
pub fn latest(folder: &Path) -> Result<Option<PathBuf>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(unreadable(folder, &e)),
    };
    let mut best: Option<(u64, PathBuf)> = None;
    for entry in entries {
        let path = entry.map_err(|e| unreadable(folder, &e))?.path();
        let Some(name) = path.file_name().and_then(|n| n.to_str()) else {
            continue;
        };
        let visible = name.strip_prefix(REPLACED).unwrap_or(name);
        let Some(step) = visible.strip_prefix("step_").and_then(|s| s.parse().ok()) else {
            continue;
        };
        let complete = [MODEL, MODEL_CONFIG, TRAIN_STATE]
            .iter()
            .all(|f| path.join(f).is_file());
        // On a tie the published folder wins over the one that it replaces.
        let better = best.as_ref().is_none_or(|(s, p)| {
            step > *s || step == *s && p.file_name().is_some_and(|n| n != visible)
        });
        if complete && better {
            best = Some((step, path));
        }
    }
    let Some((step, path)) = best else {
        return Ok(None);
    };
    let target = folder.join(format!("step_{step}"));
    if path != target {
        fs::rename(&path, &target).map_err(|e| file("rename", &path, &e))?;
    }
    Ok(Some(target))
}

/// The checkpoint that `--resume` means: a folder, the `train_state.safetensors` in one, or
/// `latest`, for which `None` says that there is none yet.
pub fn find(resume: &str, folder: &Path) -> Result<Option<PathBuf>> {
    if resume == "latest" {
        return latest(folder);
    }
    let given = PathBuf::from(resume);
    let dir = if given.is_file() {
        given.parent().map(Path::to_path_buf).unwrap_or_default()
    } else {
        given.clone()
    };
    if !dir.join(TRAIN_STATE).is_file() {
        return usage(format!(
            "--resume {resume}: no {TRAIN_STATE} there; name a checkpoint folder (step_N) or latest"
        ));
    }
    Ok(Some(dir))
}

/// The file of weights that `path` means: itself, the one in it, or the newest checkpoint's below it.
///
/// # Errors
/// If there is none, or it is not a safetensors file.
pub fn weights(path: &Path) -> Result<PathBuf> {
    if path.is_file() {
        if path.extension().is_none_or(|e| e != "safetensors") {
            return usage(format!(
                "{}: only .safetensors files of weights can be read",
                path.display()
            ));
        }
        return Ok(path.to_path_buf());
    }
    if !path.is_dir() {
        return usage(format!("no checkpoint at {}", path.display()));
    }
    for name in [MODEL, HUB_MODEL] {
        let file = path.join(name);
        if file.is_file() {
            return Ok(file);
        }
    }
    for folder in [path.join("checkpoints"), path.to_path_buf()] {
        if let Some(newest) = newest(&folder)? {
            return Ok(newest.join(MODEL));
        }
    }
    usage(format!(
        "{}: holds neither {MODEL} nor a run's checkpoints/step_N",
        path.display()
    ))
}

/// The `step_N` of the highest N in `folder` that is complete. A training run may be writing there, so
/// nothing is tidied up, unlike when it resumes.
fn newest(folder: &Path) -> Result<Option<PathBuf>> {
    if !folder.is_dir() {
        return Ok(None);
    }
    let mut best: Option<(u64, PathBuf)> = None;
    for entry in std::fs::read_dir(folder).map_err(|e| unreadable(folder, &e))? {
        let path = entry.map_err(|e| unreadable(folder, &e))?.path();
        let name = path.file_name().and_then(|n| n.to_str());
        let step = name.and_then(|n| n.strip_prefix("step_")?.parse().ok());
        let complete = [MODEL, MODEL_CONFIG].iter().all(|f| path.join(f).is_file());
        if let Some(step) = step.filter(|_| complete)
            && best.as_ref().is_none_or(|(s, _)| step > *s)
        {
            best = Some((step, path));
        }
    }
    Ok(best.map(|(_, path)| path))
}

/// What [`MODEL_CONFIG`] says of a model.
pub(crate) fn description(clip: &Clip) -> Result<Value> {
    let model = serde_json::to_value(clip.config()).map_err(failed)?;
    Ok(json!({
        "model_cfg": model,
        "preprocess_cfg": {
            "mean": Normalisation::OPENAI.mean,
            "std": Normalisation::OPENAI.std,
            "interpolation": "bicubic",
            "resize_mode": "shortest",
        },
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOMENT: [f32; 6] = [1.0, -0.0, f32::MIN_POSITIVE, 3.5, 1e-40, 7.0];

    fn position(step: u64) -> Position {
        Position {
            step,
            epoch: 1,
            batch: 2,
            start: Some(Start { round: 3, read: 4 }),
        }
    }

    fn put(folder: &Path, step: u64, text: &str) -> Result<PathBuf> {
        let model = |path: &Path| write(path, text.as_bytes());
        put_with(folder, step, model)
    }

    fn put_with(
        folder: &Path,
        step: u64,
        model: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<PathBuf> {
        let snapshot = Snapshot {
            position: position(step),
            config: "seed = 1\n".into(),
            tensors: vec![Pending::f32("m.x", &[2, 3], || Ok(MOMENT.to_vec()))],
        };
        save(folder, snapshot, &serde_json::json!({}), model)
    }

    #[test]
    fn round_trip_and_latest() {
        let dir = tempfile::tempdir().unwrap();
        assert!(latest(&dir.path().join("none")).unwrap().is_none());
        let nine = put(dir.path(), 9, "nine").unwrap();
        let ten = put(dir.path(), 10, "ten").unwrap();
        let want = TrainState {
            position: position(9),
            config: "seed = 1\n".into(),
            tensors: [("m.x".into(), Entry::f32("m.x", &[2, 3], MOMENT.to_vec()))].into(),
        };
        assert_eq!(TrainState::load(&nine).unwrap(), want);
        fs::create_dir(dir.path().join("step_11")).unwrap();
        fs::create_dir(dir.path().join(".tmp-step_12")).unwrap();
        assert_eq!(latest(dir.path()).unwrap().unwrap(), ten);
    }

    #[test]
    fn a_failure_leaves_the_old_one() {
        let dir = tempfile::tempdir().unwrap();
        let old = put(dir.path(), 5, "old").unwrap();
        let failing = put_with(dir.path(), 5, |path| {
            write(path, b"half")?;
            Err(Error::Failed("disk full".into()))
        });
        assert!(failing.is_err());
        assert_eq!(fs::read(old.join(MODEL)).unwrap(), b"old");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        put(dir.path(), 5, "new").unwrap();
        assert_eq!(fs::read(old.join(MODEL)).unwrap(), b"new");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_cut_replacement_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let path = put(dir.path(), 5, "old").unwrap();
        fs::rename(&path, dir.path().join(".old-step_5")).unwrap();
        assert_eq!(latest(dir.path()).unwrap().unwrap(), path);
    }

    #[test]
    fn a_foreign_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(TRAIN_STATE), b"not a safetensors file").unwrap();
        assert_eq!(TrainState::load(dir.path()).unwrap_err().exit_code(), 2);
    }
}
