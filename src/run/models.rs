//! The models of a run: which they are, and the teacher's weights.

use super::embedded;
use crate::backend::Backend;
use crate::data::demo::DEMO;
use crate::model::{Clip, ClipConfig};
use crate::notices::warning;
use crate::settings::error::{Result, input};
use crate::settings::meaning::Settings;
use crate::train::masking::Masking;
use crate::train::teacher::Teacher;

/// The teacher that the flags name, if the losses need one.
pub fn teacher(settings: &Settings, backend: &dyn Backend) -> Result<Option<Teacher>> {
    let config = &settings.config;
    match (&config.teacher, &config.teacher_checkpoint) {
        (Some(name), _) if !settings.distils() => {
            warning(format_args!(
                "the losses need no teacher: --teacher {name} is not read"
            ));
            Ok(None)
        }
        (Some(name), _) if name == DEMO => Ok(Some(embedded::teacher(backend)?)),
        (Some(name), Some(path)) => Ok(Some(Teacher::load(name, path, backend)?)),
        _ => Ok(None),
    }
}

/// The student's model: a name, a file, or `demo`.
///
/// # Errors
/// If there is none of that name, or its images cannot be masked as the losses ask.
pub fn student(settings: &Settings) -> Result<Clip> {
    let config = &settings.config;
    let model = model_config(&config.model)?;
    if Masking::of(&settings.objective, &model)?.is_none()
        && let Some(ratio) = config.mask_ratio
    {
        warning(format_args!(
            "no loss masks images without --alpha-mfd: --mask-ratio {ratio} is not read"
        ));
    }
    Ok(Clip::new(model).with_grad_checkpointing(config.grad_checkpointing))
}

/// The configuration that `--model` names: a built-in one, a file, or `demo`.
pub fn model_config(model: &str) -> Result<ClipConfig> {
    if model == DEMO {
        return embedded::student();
    }
    ClipConfig::load(model).map_err(input)
}
