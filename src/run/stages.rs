//! Runs of more than one part: automatic weight inheritance (learn what to keep, then train the smaller model)
//! and TinyCLIP's progressive schedule, in which each stage inherits from the last.
//!
//! Every part is an ordinary run in a folder of its own below the whole run's: `stage-75/`, and `prune/` for the
//! steps that train gates, whose `export/` is the smaller model. What is finished stands in `stages.json`, so
//! that `--resume latest` goes on where the whole run stopped.

use super::checkpoint::{MODEL, MODEL_CONFIG, description};
use super::inheritance::bigger_config;
use super::setup::{self, model_config};
use super::source::Source;
use super::training::{self, Summary};
use crate::eval::flags::EvalFlags;
use crate::io;
use crate::model::{ClipConfig, Layers};
use crate::notices::notice;
use crate::optim::ScheduleKind;
use crate::settings::config::{Call, Config};
use crate::settings::error::{Error, Result, failed, file, unwritten, usage};
use crate::settings::files;
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};

/// Gates in training, in a run's folder.
const PRUNE: &str = "prune";
/// The smaller model, in the folder of its gates.
const EXPORT: &str = "export";
/// The configuration of a stage's model, in its folder.
const STAGE_MODEL: &str = "model.json";
/// What is finished, in the whole run's folder.
const FINISHED: &str = "stages.json";

/// The size of a stage's model.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Size {
    /// Of the first model, in per cent.
    Percent(f64),
    /// A name or a JSON file.
    Model(String),
}

/// The sizes that `--stages` names, without the 100 that they may begin with.
pub(crate) fn parse(stages: &str, prunes: bool) -> Result<Vec<Size>> {
    let mut sizes: Vec<Size> = Vec::new();
    for word in stages.split(',').map(str::trim) {
        match word.trim_end_matches('%').parse::<f64>() {
            Ok(100.0) if sizes.is_empty() => {}
            Ok(p) if p > 0.0 && p < 100.0 => sizes.push(Size::Percent(p)),
            Ok(p) => return usage(format!("--stages: {p} is no percentage between 0 and 100")),
            Err(_) if prunes => {
                return usage(format!(
                    "--stages: {word}: with --prune-image or --prune-text every size is a percentage"
                ));
            }
            Err(_) => sizes.push(Size::Model(word.into())),
        }
    }
    let falls = sizes.windows(2).all(|pair| match pair {
        [Size::Percent(a), Size::Percent(b)] => a > b,
        _ => true,
    });
    match (sizes.is_empty(), falls) {
        (true, _) => usage("--stages names no size below 100"),
        (_, false) => usage("--stages must fall: 100,75,50"),
        _ => Ok(sizes),
    }
}

impl Size {
    /// The stage's folder.
    fn folder(&self) -> String {
        match self {
            Self::Percent(p) => format!("stage-{p}"),
            Self::Model(name) => {
                let stem = Path::new(name).file_stem().unwrap_or_default();
                format!("stage-{}", stem.to_string_lossy())
            }
        }
    }
}

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

/// Whether the run of `config` has several parts.
pub(crate) fn several(config: &Config) -> bool {
    config.inherit.stages.is_some() || config.inherit.prunes()
}

/// Trains as `config` says, in as many parts as its weight inheritance takes; see [`training::train`].
///
/// # Errors
/// As [`training::train`].
pub fn train(config: &Config, call: &Call, label: &str) -> Result<Summary> {
    if !several(config) {
        return training::train(config, call, label);
    }
    let mut config = config.clone();
    config.name = Some(config.run_name());
    let folder = config.logs.join(config.run_name());
    match call.resume.as_deref() {
        None if folder.exists() => {
            return usage(format!(
                "{} exists already: take another --name, or go on with --resume latest",
                folder.display()
            ));
        }
        None | Some("latest") => {}
        Some(_) => {
            return usage("a run of several parts goes on with --resume latest and its --name");
        }
    }
    let done = match &config.inherit.stages {
        Some(stages) => staged(
            &config,
            &parse(stages, config.inherit.prunes())?,
            call,
            label,
        ),
        None => pruned(&config, call, label),
    };
    done.map_err(|e| match e {
        Error::Interrupted(message) => {
            let said = message.split("; go on").next().unwrap_or_default();
            let whole = folder.join("config.toml");
            Error::Interrupted(format!(
                "{said}; go on with: train --config {} --resume latest",
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
fn staged(config: &Config, sizes: &[Size], call: &Call, label: &str) -> Result<Summary> {
    let inherit = &config.inherit;
    let folder = config.logs.join(config.run_name());
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
                true => pruned(&stage, call, &label)?,
                false => training::train(&stage, &resuming(call, &stage), &label)?,
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

/// `--resume latest` for a part that may not have begun.
fn resuming(call: &Call, part: &Config) -> Call {
    let begun = part.logs.join(part.run_name()).exists();
    let resume = call.resume.clone().filter(|_| begun);
    Call {
        resume,
        ..call.clone()
    }
}

/// The steps with gates, the smaller model that they arrive at, and the steps that train it.
fn pruned(config: &Config, call: &Call, label: &str) -> Result<Summary> {
    let folder = config.logs.join(config.run_name());
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
        let done = training::train(&gated, &resuming(call, &gated), &label)?;
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
    training::train(&smaller, &resuming(call, &smaller), label)
}

/// Steps of a whole run.
fn total(config: &Config) -> Result<u64> {
    if let Some(steps) = config.steps {
        return Ok(steps);
    }
    let student = setup::student(config)?;
    setup::total_steps(config, &Source::open(config, student.config(), true)?)
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

    #[test]
    fn sizes_are_read_or_refused() {
        let percent = |p: &[f64]| p.iter().map(|&p| Size::Percent(p)).collect::<Vec<_>>();
        assert_eq!(parse("100,75,50", false).unwrap(), percent(&[75.0, 50.0]));
        assert_eq!(
            parse("75%, 50%,25%", true).unwrap(),
            percent(&[75.0, 50.0, 25.0])
        );
        let model = parse("100,a/TinyCLIP.json", false).unwrap();
        assert_eq!(model[0].folder(), "stage-TinyCLIP");
        for (stages, prunes, words) in [
            ("100", false, "names no size"),
            ("50,75", false, "must fall"),
            ("0", false, "no percentage"),
            ("100,100", false, "names no size"),
            ("75,x.json", true, "every size is a percentage"),
        ] {
            let error = parse(stages, prunes).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }

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
