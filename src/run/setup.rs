//! From flags to what they mean: device, models, losses, recipe, the run's folder.

use super::checkpoint::{self, TrainState};
use super::device;
use super::source::Source;
use crate::backend::Backend;
use crate::data::demo::DEMO;
use crate::eval::flags::EvalFlags;
use crate::loss::{Intra, Objective};
use crate::model::{Clip, ClipConfig};
use crate::notices::warning;
use crate::optim::{AdamWConfig, Schedule};
use crate::settings::config::{Call, Config};
use crate::settings::error::{Result, failed, input, usage};
use crate::train::masking::Masking;
use crate::train::step::Recipe;
use crate::train::teacher::Teacher;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The device that the flags ask for, with one line that says which it is and why.
pub fn device(config: &Config) -> Result<(Arc<dyn Backend>, String)> {
    device::open(
        config.backend,
        config.device,
        config.precision,
        config.threads,
    )
}

/// The losses that the flags ask for.
pub fn objective(config: &Config) -> Objective {
    let mut objective = Objective::from(config.method);
    let weights = &mut objective.weights;
    config.inherit.weigh(weights);
    for (weight, flag) in [
        (&mut weights.clip, config.alpha_clip),
        (&mut weights.crd, config.alpha_crd),
        (&mut weights.fd, config.alpha_fd),
        (&mut weights.icl, config.alpha_icl),
        (&mut weights.cross_kd, config.alpha_cross_kd),
        (&mut weights.mfd, config.alpha_mfd),
        (&mut weights.gd, config.alpha_gd),
        (&mut weights.afd, config.alpha_afd),
        (&mut weights.affinity, config.alpha_affinity),
        (&mut weights.intra, config.alpha_intra),
    ] {
        if let Some(x) = flag {
            *weight = x as f32;
        }
    }
    objective.intra = Intra {
        weights: config.intra_weights,
        modality: config.intra_modality,
    };
    objective.intra_scale = config.intra_scale;
    if let Some(ratio) = config.mask_ratio {
        objective.mask_ratio = ratio;
    }
    objective.clip_kd_compat = config.clip_kd_compat;
    objective
}

/// Optimiser and schedule over `total` steps.
pub(crate) fn recipe(config: &Config, total: u64) -> Recipe {
    Recipe {
        adamw: AdamWConfig {
            beta1: config.beta1 as f32,
            beta2: config.beta2 as f32,
            eps: config.eps as f32,
            weight_decay: config.wd as f32,
        },
        schedule: Schedule {
            kind: config.lr_scheduler,
            base: config.lr,
            warmup: config.warmup,
            total,
        },
        max_norm: config.grad_clip_norm,
        accum_freq: config.accum_freq,
    }
}

/// The teacher that the flags name, if the losses need one.
pub fn teacher(config: &Config, backend: &dyn Backend) -> Result<Option<Teacher>> {
    match (&config.teacher, &config.teacher_checkpoint) {
        (Some(name), _) if !config.distils() => {
            warning(format_args!(
                "the losses need no teacher: --teacher {name} is not read"
            ));
            Ok(None)
        }
        (Some(name), _) if name == DEMO => Ok(Some(crate::programs::demo::teacher(backend)?)),
        (Some(name), Some(path)) => Ok(Some(Teacher::load(name, path, backend)?)),
        _ => Ok(None),
    }
}

/// The student's model: a name, a file, or `demo`.
///
/// # Errors
/// If there is none of that name, or its images cannot be masked as the losses ask.
pub fn student(config: &Config) -> Result<Clip> {
    let model = model_config(&config.model)?;
    if masking(config, &model)?.is_none()
        && let Some(ratio) = config.mask_ratio
    {
        warning(format_args!(
            "no loss masks images without --alpha-mfd: --mask-ratio {ratio} is not read"
        ));
    }
    Ok(Clip::new(model).with_grad_checkpointing(config.grad_checkpointing))
}

/// How the losses want the student's images masked, if they do.
pub(crate) fn masking(config: &Config, model: &ClipConfig) -> Result<Option<Masking>> {
    let objective = objective(config);
    match objective.weights.mfd {
        0.0 => Ok(None),
        _ => Masking::new(model, objective.mask_ratio).map(Some),
    }
}

/// The configuration that `--model` names: a built-in one, a file, or `demo`.
pub fn model_config(model: &str) -> Result<ClipConfig> {
    if model == DEMO {
        return crate::programs::demo::student();
    }
    ClipConfig::load(model).map_err(input)
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
    let folder = config.logs.join(config.run_name());
    let checkpoints = folder.join("checkpoints");
    let from = match call.resume.as_deref() {
        None if begun(&folder) => {
            return usage(format!(
                "{} exists already: take another --name, or go on with --resume latest",
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

/// Steps of the whole run.
pub(crate) fn total_steps(config: &Config, source: &Source) -> Result<u64> {
    match (config.steps, source.per_epoch()) {
        (Some(steps), _) => Ok(steps),
        (None, Some(n)) => Ok(n / config.accum_freq as u64 * u64::from(config.epochs)),
        (None, None) => usage("the length of an epoch is unknown: say --train-num-samples"),
    }
}

/// Keys that say nothing about the result.
const NEUTRAL: [&str; 13] = [
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
const DATA: [&str; 7] = [
    "train-data",
    "train-num-samples",
    "batch-size",
    "seed",
    "shuffle-buffer",
    "data-root",
    "train-data-upsampling-factors",
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
    let old = without(saved.config.parse().unwrap_or_default(), aside);
    let new = without(toml::Table::try_from(config).map_err(failed)?, aside);
    if saved.position.batch != 0 {
        let data = |all: &toml::Table| without(all.clone(), |key| !DATA.contains(&key));
        let moved = changes(&data(&old), &data(&new));
        if !moved.is_empty() {
            return usage(format!(
                "{} lies within an epoch, whose rest other data cannot give: {}",
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
