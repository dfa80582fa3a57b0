//! Runs of more than one part: automatic weight inheritance (learn what to keep, then train the smaller model)
//! and TinyCLIP's progressive schedule, in which each stage inherits from the last.
//!
//! Every part is an ordinary run in a folder of its own below the whole run's: `stage-75/`, and `prune/` for the
//! steps that train gates, whose `export/` is the smaller model. Finished stages are listed in `stages.json`, so
//! that `--resume latest` continues where the whole run stopped.

use super::checkpoint::{MODEL, MODEL_CONFIG, description};
use super::epochs::Summary;
use super::folder::run_name;
use super::inheritance::bigger_config;
use super::models::{model_config, student};
use super::source::Source;
use super::training;
use crate::eval::flags::EvalFlags;
use crate::io;
use crate::model::{ClipConfig, Layers};
use crate::notices::notice;
use crate::optim::ScheduleKind;
use crate::settings::config::{Call, Config};
use crate::settings::error::{Error, Result, failed, file, unwritten, usage};
use crate::settings::files;
use crate::settings::meaning::Settings;
use crate::settings::sizes::{self, Size};
use crate::train::feature_cache::FeatureCache;
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Gates in training, in a run's folder.
const PRUNE: &str = "prune";
/// The smaller model, in the folder of its gates.
const EXPORT: &str = "export";
/// The configuration of a stage's model, in its folder.
const STAGE_MODEL: &str = "model.json";
/// What is finished, in the whole run's folder.
const FINISHED: &str = "stages.json";

/// `percent` of `big` as TinyCLIP's manual models are cut: a ViT in its width, by whole heads, ⌊√p · heads⌋ of
/// them (its 61M and 39M: 10 and 8 of 12); a ResNet in its width, √p of it to the nearest multiple of four (56
/// and 44 of 64); a text tower in its depth (9 and 6 of 12).
fn shrunk(big: &ClipConfig, percent: f64) -> ClipConfig {
    let (mut small, p) = (big.clone(), percent / 100.0);
    let v = &mut small.vision_cfg;
    match v.layers {
        Layers::Blocks(_) => {
            let heads = (p.sqrt() * v.heads() as f64) as usize;
            v.width = heads.max(1) * v.head_width;
        }
        Layers::Stages(_) => {
            // Heads must stay whole, too.
            let width = p.sqrt() * v.width as f64;
            let step = 4.max(v.head_width.div_ceil(32));
            v.width = ((width / step as f64).round() as usize).max(1) * step;
        }
    }
    let t = &mut small.text_cfg;
    t.layers = ((p * t.layers as f64).round() as usize).max(1);
    small
}

/// Trains as `settings` say, in as many parts as its weight inheritance takes; see [`training::train`].
///
/// # Errors
/// As [`training::train`].
pub fn train(settings: &Settings, call: &Call, label: &str) -> Result<Summary> {
    train_with(settings, call, label, None)
}

/// As [`train`]; the teacher is not asked again for what `cache` holds.
///
/// # Errors
/// As [`training::train`].
pub fn train_with(
    settings: &Settings,
    call: &Call,
    label: &str,
    cache: Option<&Arc<FeatureCache>>,
) -> Result<Summary> {
    if !settings.config.inherit.several_parts() {
        return training::train(settings, call, label, cache);
    }
    let mut config = settings.config.clone();
    config.name = Some(run_name(&config));
    let folder = config.logs.join(run_name(&config));
    match call.resume.as_deref() {
        None if folder.exists() => {
            return usage(format!(
                "{} exists already: take another --name, or continue with --resume latest",
                folder.display()
            ));
        }
        None | Some("latest") => {}
        Some(_) => {
            return usage("a run of several parts continues with --resume latest and its --name");
        }
    }
    let how = (call, cache);
    let done = match &config.inherit.stages {
        Some(stages) => {
            let sizes = sizes::parse(stages, config.inherit.prunes())?;
            staged(&config, &sizes, how, label)
        }
        None => pruned(&config, how, label),
    };
    done.map_err(|e| match e {
        Error::Interrupted(message) => {
            let said = message.split("; continue").next().unwrap_or_default();
            let whole = folder.join("config.toml");
            Error::Interrupted(format!(
                "{said}; continue with: train --config {} --resume latest",
                whole.display()
            ))
        }
        e => e,
    })
}

/// A path as a flag's value.
fn word(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// One stage after the other.
fn staged(config: &Config, sizes: &[Size], how: How, label: &str) -> Result<Summary> {
    let inherit = &config.inherit;
    let folder = config.logs.join(run_name(config));
    let mut from = inherit.inherit_from.clone().unwrap_or_default();
    let mut of = inherit.inherit_model.clone();
    let first = bigger_config(&from, of.as_deref())?;
    files::replace(&folder.join("config.toml"), &config.to_toml()?)?;
    let list = folder.join(FINISHED);
    let mut finished: Map<String, Value> = match files::read(&list)? {
        Some(text) => serde_json::from_str(&text)
            .map_err(|e| Error::Usage(format!("{}: {e}", list.display())))?,
        None => Map::new(),
    };
    let mut before = 100.0;
    let mut last = None;
    for (number, size) in sizes.iter().enumerate() {
        let name = size.folder();
        let known = finished.get(&name).and_then(Value::as_str);
        if let Some(checkpoint) = known.filter(|_| number + 1 < sizes.len()) {
            from = word(&folder.join(checkpoint));
        } else {
            let mut stage = config.clone();
            stage.logs = folder.clone();
            stage.name = Some(name.clone());
            stage.inherit.stages = None;
            stage.inherit.inherit_from = Some(from);
            stage.inherit.inherit_model = of;
            let model = folder.join(&name).join(STAGE_MODEL);
            let shape = match size {
                // The gates decide: they begin with all of the last stage's model.
                _ if inherit.prunes() => {
                    let from = stage.inherit.inherit_from.as_deref().unwrap_or_default();
                    bigger_config(from, stage.inherit.inherit_model.as_deref())?
                }
                Size::Percent(p) => shrunk(&first, *p),
                Size::Model(name) => model_config(name)?,
            };
            if let (true, Size::Percent(p)) = (inherit.prunes(), size) {
                stage.inherit.start_sparsity = 0.0;
                stage.inherit.target_sparsity = 1.0 - p / before;
            }
            let text = serde_json::to_string_pretty(&shape).map_err(failed)?;
            files::replace(&model, &text)?;
            stage.model = word(&model);
            let label = format!("{label} {name}");
            let done = match inherit.prunes() {
                true => pruned(&stage, how, &label)?,
                false => part(&stage, how, &label)?,
            };
            let place = done.checkpoint.strip_prefix(&folder);
            let place = word(place.unwrap_or(&done.checkpoint));
            finished.insert(name, json!(place));
            files::replace(&list, &Value::Object(finished.clone()).to_string())?;
            from = word(&done.checkpoint);
            last = Some(done);
        }
        of = None;
        if let Size::Percent(p) = size {
            before = *p;
        }
    }
    last.ok_or_else(|| failed("no stage was run"))
}

/// How the whole run was called, and what its teacher need not compute again.
type How<'a> = (&'a Call, Option<&'a Arc<FeatureCache>>);

/// One part, a run of its own; `--resume latest` finds it begun or not.
fn part(config: &Config, (call, cache): How, label: &str) -> Result<Summary> {
    let begun = config.logs.join(run_name(config)).exists();
    let resume = call.resume.clone().filter(|_| begun);
    let call = Call {
        resume,
        ..call.clone()
    };
    training::train(&Settings::resolve(config)?, &call, label, cache)
}

/// The steps with gates, the smaller model that they arrive at, and the steps that train it.
fn pruned(config: &Config, how: How, label: &str) -> Result<Summary> {
    let folder = config.logs.join(run_name(config));
    let steps = config.inherit.prune_step;
    let total = total(config)?;
    if total <= steps {
        return usage(format!(
            "--prune-step {steps} leaves none of the run's {total} steps for the smaller model"
        ));
    }
    if !folder.join("checkpoints").exists() {
        files::replace(&folder.join("config.toml"), &config.to_toml()?)?;
    }
    let export = folder.join(PRUNE).join(EXPORT);
    if !export.exists() {
        // As TinyCLIP: the learning rate rises while the gates learn, and falls afterwards.
        let gated = Config {
            logs: folder.clone(),
            name: Some(PRUNE.into()),
            steps: Some(steps),
            warmup: steps,
            lr_scheduler: ScheduleKind::Const,
            // The whole model is not what will be; the smaller one is evaluated.
            eval: EvalFlags::default(),
            eval_every: None,
            ..config.clone()
        };
        let label = format!("{label} {PRUNE}");
        let done = part(&gated, how, &label)?;
        save_export(&done, &export, &label)?;
    }
    let mut smaller = config.clone();
    smaller.model = word(&export.join(MODEL_CONFIG));
    smaller.init = Some(export.join(MODEL));
    smaller.inherit.inherit_from = None;
    smaller.inherit.inherit_image = None;
    smaller.inherit.inherit_text = None;
    smaller.inherit.inherit_model = None;
    smaller.inherit.prune_image = false;
    smaller.inherit.prune_text = false;
    smaller.steps = Some(total - steps);
    smaller.warmup = 0;
    part(&smaller, how, label)
}

/// Steps of a whole run.
fn total(config: &Config) -> Result<u64> {
    if let Some(steps) = config.steps {
        return Ok(steps);
    }
    let settings = Settings::resolve(config)?;
    let student = student(&settings)?;
    Source::open(&settings.data, student.config(), true)?.total_steps(config)
}

/// Writes the smaller model into the folder `export`, which is complete or not there at all.
fn save_export(done: &Summary, export: &Path, label: &str) -> Result<()> {
    let trainer = &done.trainer;
    let Some((clip, parameters)) = trainer.export()? else {
        return Err(failed("a run without gates has nothing to export"));
    };
    let temporary: PathBuf = export.with_extension("tmp");
    std::fs::create_dir_all(&temporary).map_err(|e| file("create", &temporary, &e))?;
    let backend = trainer.backend().as_ref();
    let weights = temporary.join(MODEL);
    io::save_clip(&weights, &clip, &parameters, backend, false).map_err(unwritten)?;
    let text = serde_json::to_string_pretty(&description(&clip)?).map_err(failed)?;
    files::replace(&temporary.join(MODEL_CONFIG), &text)?;
    std::fs::rename(&temporary, export).map_err(|e| file("rename", &temporary, &e))?;
    let before = trainer.clip().parameter_shapes();
    let before: usize = before
        .iter()
        .map(|(_, s)| s.iter().product::<usize>())
        .sum();
    notice(format_args!(
        "{label}: the smaller model, {:.1} % of the parameters: {}",
        100.0 * parameters.elements() as f64 / before as f64,
        export.display()
    ));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The sizes of TinyCLIP's published models.
    #[test]
    fn percentages_are_tinyclips_models() {
        let sizes = |name: &str, p: f64| {
            let c = shrunk(&ClipConfig::named(name).unwrap(), p);
            (c.vision_cfg.width, c.text_cfg.layers)
        };
        assert_eq!(sizes("ViT-B-32", 75.0), (640, 9));
        assert_eq!(sizes("ViT-B-16", 50.0), (512, 6));
        assert_eq!(sizes("RN50", 75.0), (56, 9));
        assert_eq!(sizes("RN50", 50.0), (44, 6));
    }
}
