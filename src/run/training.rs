//! Beginning a run, or going on with one: everything is opened, and what was saved is loaded.

use super::checkpoint::{self, Position, TrainState};
use super::device;
use super::epochs::{Run, Summary};
use super::folder::{compare, place};
use super::inheritance::{gates, initial};
use super::models::{student, teacher};
use super::source::Source;
use crate::io;
use crate::notices::notice;
use crate::settings::config::Call;
use crate::settings::error::{Result, input};
use crate::settings::meaning::Settings;
pub use crate::train::feature_cache::FeatureCache;
use crate::train::feature_cache::Share;
use crate::train::step::Trainer;
use std::sync::Arc;

/// Trains as `settings` say; `label` begins each line of progress. The teacher's features in `cache` are not computed
/// again.
///
/// # Errors
/// `Error::Usage` for inputs that cannot be used, `Error::Failed` for a run that broke off, `Error::Interrupted` after
/// Ctrl-C, when a checkpoint has been written.
pub fn train(
    settings: &Settings,
    call: &Call,
    label: &str,
    cache: Option<&Arc<FeatureCache>>,
) -> Result<Summary> {
    let (mut config, folder, from) = place(&settings.config, call)?;
    let (backend, line) = device::open(&settings.device)?;
    notice(format_args!("{label}: {} on {line}", config.model));
    let clip = student(settings)?;
    let cache = cache.map(|cache| {
        let device = &settings.device;
        let teacher = (&config.teacher, &config.teacher_checkpoint);
        let device = (device.backend, device.device.clone(), device.precision);
        Share::new(cache.clone(), &(teacher, device))
    });
    let teacher = teacher(settings, backend.as_ref())?.map(|t| t.with_cache(cache));
    if !settings.data.is_demo() && config.steps.is_none() && config.train_num_samples.is_none() {
        notice(format_args!(
            "{label}: counting the pairs; --train-num-samples N would spare this"
        ));
    }
    let source = Source::open(&settings.data, clip.config(), config.steps.is_none())?;
    if let Some(words) = source.counted().words() {
        notice(format_args!("{label}: {words}"));
    }
    let total = source.total_steps(&config)?;
    let mut position = Position::default();
    let mut state = None;
    let parameters = match (&from, &config.init) {
        (Some(dir), _) => {
            let saved = TrainState::load(dir)?;
            compare(&config, &saved, dir)?;
            position = saved.position;
            notice(format_args!(
                "{label}: continuing from {} (step {})",
                dir.display(),
                position.step
            ));
            state = Some(saved.tensors);
            io::load_clip(&dir.join(checkpoint::MODEL), &clip, backend.as_ref()).map_err(input)?
        }
        (None, Some(path)) => io::load_clip(path, &clip, backend.as_ref()).map_err(input)?,
        (None, None) => initial(&config, &clip, backend.as_ref())?,
    };
    let (objective, recipe) = (settings.objective, settings.recipe.over(total));
    let seed = config.seed;
    let gates = gates(&config.inherit, clip.config(), seed)?;
    let mut trainer = Trainer::new(backend, clip, parameters, objective, teacher, recipe, seed)?
        .with_gates(gates)?
        .with_held_scale(config.inherit.logit_scale)?;
    if let Some(tensors) = state {
        trainer.restore(position.step, tensors)?;
    }
    let name = folder.file_name().map(|n| n.to_string_lossy().into_owned());
    config.name = name.or(config.name);
    Run::new(
        config,
        label,
        folder,
        source,
        trainer,
        (position, from),
        total,
    )?
    .go()
}
