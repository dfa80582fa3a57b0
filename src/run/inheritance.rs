//! What a student inherits before its first step.

use super::checkpoint::{self, MODEL_CONFIG};
use super::embedded;
use super::models::model_config;
use crate::backend::Backend;
use crate::backend::cpu::Cpu;
use crate::data::demo::DEMO;
use crate::io;
use crate::model::inherit::{Tower, manual};
use crate::model::{Clip, ClipConfig, Parameters};
use crate::notices::notice;
use crate::settings::config::Config;
use crate::settings::error::{Result, failed, input, unreadable, usage};
use crate::settings::inherit::InheritFlags;
use crate::train::gates::{Constraint, Gates};
use std::path::Path;

/// Gates for a student, if the flags ask for any.
///
/// # Errors
/// If its image tower can have none.
pub(super) fn gates(
    flags: &InheritFlags,
    student: &ClipConfig,
    seed: u64,
) -> Result<Option<Gates>> {
    if !flags.prunes() {
        return Ok(None);
    }
    let asked = [
        (Tower::Image, flags.prune_image),
        (Tower::Text, flags.prune_text),
    ];
    let towers = asked.iter().filter(|(_, on)| *on).map(|(tower, _)| *tower);
    let constraint = Constraint {
        start: flags.start_sparsity,
        target: flags.target_sparsity,
        warmup: flags.sparsity_warmup,
        joint: flags.total_loss_flag,
        rate: flags.gate_lr,
        multiplier_rate: flags.l0lr.abs(),
    };
    let towers: Vec<Tower> = towers.collect();
    Ok(Some(Gates::new(student, &towers, constraint, seed)?))
}

/// A bigger model in host memory.
pub(super) struct Bigger {
    /// What it is.
    pub(super) config: ClipConfig,
    parameters: Parameters,
}

/// The configuration of the model `checkpoint`, as `--inherit-model` or the file beside its weights says.
pub(super) fn bigger_config(checkpoint: &str, model: Option<&str>) -> Result<ClipConfig> {
    if checkpoint == DEMO {
        return embedded::teacher_config();
    }
    if let Some(model) = model {
        return model_config(model);
    }
    let weights = checkpoint::weights(Path::new(checkpoint))?;
    let beside = weights.with_file_name(MODEL_CONFIG);
    if !beside.is_file() {
        return usage(format!(
            "{}: there is no {MODEL_CONFIG} beside it that names its model: give --inherit-model",
            weights.display()
        ));
    }
    let text = std::fs::read_to_string(&beside).map_err(|e| unreadable(&beside, &e))?;
    ClipConfig::from_json(&text).map_err(|e| input(format!("{}: {e}", beside.display())))
}

fn load(checkpoint: &str, model: Option<&str>, host: &dyn Backend) -> Result<Bigger> {
    let config = bigger_config(checkpoint, model)?;
    let parameters = match checkpoint {
        DEMO => embedded::teacher(host)?.parameters().clone(),
        path => {
            let weights = checkpoint::weights(Path::new(path))?;
            io::load_clip(&weights, &Clip::new(config.clone()), host).map_err(input)?
        }
    };
    Ok(Bigger { config, parameters })
}

/// The parameters that `clip` begins with: inherited where the flags say so, and drawn from the seed.
///
/// # Errors
/// If a bigger model cannot be read, or `clip` cannot inherit from it.
pub(super) fn initial(config: &Config, clip: &Clip, backend: &dyn Backend) -> Result<Parameters> {
    let mut parameters = clip.init(backend, config.seed).map_err(failed)?;
    let host = Cpu::new();
    let model = config.inherit.inherit_model.as_deref();
    for (checkpoint, towers) in config.inherit.sources() {
        let bigger = load(checkpoint, model, &host)?;
        let inheritance = manual(&bigger.config, clip.config(), towers)
            .map_err(|e| input(format!("{checkpoint}: {e}")))?;
        let (from, to) = (
            (&host as &dyn Backend, &bigger.parameters),
            (backend, &mut parameters),
        );
        inheritance.apply(from, to, |_, _| 1.0).map_err(failed)?;
        let percent = 100.0 * clip_elements(clip) / clip_elements(&Clip::new(bigger.config));
        notice(format_args!(
            "inherits from {checkpoint}: {percent:.1} % of its size"
        ));
    }
    Ok(parameters)
}

fn clip_elements(clip: &Clip) -> f64 {
    let shapes = clip.parameter_shapes();
    let sizes = shapes.iter().map(|(_, s)| s.iter().product::<usize>());
    sizes.sum::<usize>() as f64
}
