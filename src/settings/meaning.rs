//! What a configuration means: losses, recipe, data and device, resolved once for a run and handed down.

use super::config::Config;
use super::device::DeviceFlags;
use super::error::{Error, Result, usage};
use super::rules;
use super::values::Augment;
use crate::data::demo::DEMO;
use crate::data::{self, ColorJitter, DatasetOptions, Speed};
use crate::eval::pair_flags::PairFlags;
use crate::loss::{Intra, Objective};
use crate::optim::{AdamWConfig, Recipe, Schedule};
use std::path::PathBuf;

/// A run's configuration, and what it means.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What flags and file say. The other fields were resolved from it and do not follow its changes.
    pub config: Config,
    /// The losses, and how they mask images.
    pub objective: Objective,
    /// Optimiser and schedule; its steps are those of `--steps`, or set by [`Recipe::over`] when the data's length is
    /// known.
    pub recipe: Recipe,
    /// Training pairs, and how they are loaded.
    pub data: DataSettings,
    /// Where it is computed.
    pub device: DeviceFlags,
}

/// Training pairs, and how they are loaded.
#[derive(Clone, Debug)]
pub struct DataSettings {
    /// `--train-data`, as it was given.
    pub name: String,
    /// How it is read.
    pub how: PairFlags,
    /// How often a round reads each dataset.
    pub factors: Option<Vec<f32>>,
    /// Whether shards or rows are drawn with replacement.
    pub resampled: bool,
    /// Pairs that an epoch sees, if a flag says it.
    pub samples: Option<u64>,
    /// The share of unusable pairs that ends a run.
    pub max_bad_fraction: f64,
    /// Where counts of shards are kept.
    pub counts: PathBuf,
    /// Pairs of a batch.
    pub batch_size: usize,
    /// Batches of a step.
    pub accum_freq: usize,
    /// Seed of order and augmentation.
    pub seed: u64,
    /// Samples of the shuffle buffer.
    pub shuffle_buffer: usize,
    /// Threads that read and decode.
    pub workers: usize,
    /// How samples are read and their images decoded.
    pub options: DatasetOptions,
    /// What happens to an image.
    pub augment: data::Augment,
    /// What happens to its colours.
    pub colour: ColorJitter,
}

impl DataSettings {
    /// Whether it is the corpus inside the program.
    pub fn is_demo(&self) -> bool {
        self.name == DEMO
    }
}

impl Settings {
    /// What `config` means.
    ///
    /// # Errors
    /// [`Error::Usage`] if flags contradict one another or a value is one that no run can have.
    pub fn resolve(config: &Config) -> Result<Self> {
        let objective = objective(config);
        rules::check(config, &objective)?;
        Ok(Self {
            objective,
            recipe: recipe(config),
            data: data(config)?,
            device: config.device.clone(),
            config: config.clone(),
        })
    }

    /// Whether the student learns from a teacher.
    pub fn distils(&self) -> bool {
        self.objective.weights.need_teacher()
    }
}

/// The losses that the flags ask for.
pub(crate) fn objective(config: &Config) -> Objective {
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

/// Optimiser and schedule. Without `--steps` the schedule has no steps until [`Recipe::over`] sets them.
pub(crate) fn recipe(config: &Config) -> Recipe {
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
            total: config.steps.unwrap_or_default(),
        },
        max_norm: config.grad_clip_norm,
        accum_freq: config.accum_freq,
    }
}

/// The training pairs that the flags name.
fn data(config: &Config) -> Result<DataSettings> {
    let Some(name) = config.train_data.clone() else {
        return usage("--train-data is missing");
    };
    let factors = config.train_data_upsampling_factors.as_deref();
    let factors = factors.map(self::factors).transpose()?;
    let scale = match config.aug_scale[..] {
        [from, to] => (from as f32, to as f32),
        _ => return usage("--aug-scale takes two numbers"),
    };
    let (strengths, probability) = match config.aug_color_jitter[..] {
        [] => ([0.0; 4], 0.0),
        [b, c, s, h] => ([b, c, s, h], config.aug_color_jitter_prob),
        _ => return usage("--aug-color-jitter takes brightness, contrast, saturation and hue"),
    };
    let [brightness, contrast, saturation, hue] = strengths.map(|x| x as f32);
    Ok(DataSettings {
        name,
        how: config.pairs.clone(),
        factors,
        resampled: config.dataset_resampled,
        samples: config.train_num_samples,
        max_bad_fraction: config.pairs.max_bad_fraction,
        counts: config.logs.join("counts.json"),
        batch_size: config.batch_size,
        accum_freq: config.accum_freq,
        seed: config.seed,
        shuffle_buffer: config.shuffle_buffer,
        workers: config.workers,
        options: config.pairs.options(config.pictures.decoding(Speed::Fast)),
        augment: match config.augment {
            Augment::None => data::Augment::None,
            Augment::Crop => data::Augment::Crop { scale },
            Augment::Affine => data::Augment::Affine { scale },
        },
        colour: ColorJitter {
            brightness,
            contrast,
            saturation,
            hue,
            probability: probability as f32,
            gray_scale_probability: config.aug_gray_scale_prob as f32,
        },
    })
}

/// open_clip's `--train-data-upsampling-factors 1::2.5`.
fn factors(text: &str) -> Result<Vec<f32>> {
    let parse = |s: &str| s.trim().parse::<f32>().ok();
    text.split("::")
        .map(parse)
        .collect::<Option<_>>()
        .ok_or_else(|| {
            Error::Usage(format!(
                "--train-data-upsampling-factors {text}: numbers separated by `::`, one per dataset"
            ))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tinyclips_weights_are_those_of_its_two_losses() {
        let of = |text: &str| {
            let weights = objective(&Config::from_toml(text).unwrap()).weights;
            (weights.affinity, weights.clip)
        };
        assert_eq!(of("method = \"tinyclip\""), (1.0, 0.0));
        let both = "method = \"tinyclip\"\ndistillation-alpha = 0.75\ndistillation-weight = 2";
        assert_eq!(of(both), (1.5, 0.5));
        assert_eq!(of(&format!("{both}\nalpha-clip = 3")), (1.5, 3.0));
    }
}
