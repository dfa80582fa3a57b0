//! Where training pairs come from: shards, a table, or the corpus inside the program.

use crate::data::demo::DEMO;
use crate::data::{
    self, Dataset, DatasetOptions, Loader, LoaderConfig, Mode, Skips, Tokenizer, Transform,
};
use crate::model::ClipConfig;
use crate::settings::config::Config;
use crate::settings::error::{Error, Result, input, usage};
use crate::settings::values::Augment;
use std::path::Path;
use std::sync::Arc;

/// Training pairs and how to load them.
pub struct Source {
    loader: LoaderConfig,
    per_epoch: Option<u64>,
    counted: Skips,
}

impl Source {
    /// Opens what `--train-data` names, for a student of configuration `model`. The pairs are
    /// counted, by reading through all of it, only if `count` asks and no flag tells.
    ///
    /// # Errors
    /// If a shard or table is missing or malformed, or holds less than one batch.
    pub fn open(config: &Config, model: &ClipConfig, count: bool) -> Result<Self> {
        let Some(name) = config.train_data.as_deref() else {
            return usage("--train-data is missing");
        };
        let options = DatasetOptions::default();
        let dataset = if name == DEMO {
            crate::programs::demo::training_pairs()?
        } else if let Some("csv" | "tsv") = Path::new(name).extension().and_then(|e| e.to_str()) {
            Dataset::from_csv(Path::new(name), &config.csv.options(), options)
                .map_err(data_error)?
        } else {
            match &config.train_data_upsampling_factors {
                None => Dataset::from_patterns(name, options).map_err(data_error)?,
                Some(text) => {
                    let factors = factors(text)?;
                    Dataset::upsampled(name, &factors, options).map_err(data_error)?
                }
            }
        };
        let (samples, counted) = match config.train_num_samples {
            Some(n) => (Some(n), Skips::default()),
            None if count || name == DEMO => {
                let (n, skips) = dataset.count().map_err(data_error)?;
                (Some(n), skips)
            }
            None => (None, Skips::default()),
        };
        let batch = config.batch_size;
        let per_epoch = samples.map(|n| n / batch as u64);
        let step = batch as u64 * config.accum_freq as u64;
        if let Some(n) = samples.filter(|n| *n < step) {
            let times = match config.accum_freq {
                1 => String::new(),
                k => format!(" times --accum-freq {k}"),
            };
            return usage(format!(
                "--batch-size {batch}{times} is larger than the data: {n} pairs in {name}; take a \
                 smaller batch or more data"
            ));
        }
        let loader = LoaderConfig {
            dataset: Arc::new(dataset),
            batch_size: batch,
            seed: config.seed,
            shuffle_buffer: config.shuffle_buffer,
            mode: Mode::Train,
            workers: config.workers,
            prefetch: 2,
            transform: transform(config, model)?,
            tokenizer: tokenizer(model)?,
        };
        Ok(Self {
            loader,
            per_epoch,
            counted,
        })
    }

    /// Batches in an epoch, if known. With `--train-data-upsampling-factors` it is the number of one
    /// reading.
    pub fn per_epoch(&self) -> Option<u64> {
        self.per_epoch
    }

    /// What counting the pairs found unusable.
    pub fn counted(&self) -> &Skips {
        &self.counted
    }

    /// The batches of `epoch` from batch `skip` on.
    pub fn epoch(&self, epoch: u32, skip: u64) -> Result<Loader> {
        Loader::new(self.loader.clone(), epoch, skip).map_err(data_error)
    }
}

/// A data error: what is wrong with an input ends with 2, a worker's failure with 1.
pub fn data_error(e: data::Error) -> Error {
    match e {
        data::Error::Worker(_) => crate::settings::error::failed(e),
        e => input(e),
    }
}

fn transform(config: &Config, model: &ClipConfig) -> Result<Transform> {
    let scale = match config.aug_scale[..] {
        [from, to] => (from as f32, to as f32),
        _ => return usage("--aug-scale takes two numbers"),
    };
    let augment = match config.augment {
        Augment::None => data::Augment::None,
        Augment::Crop => data::Augment::Crop { scale },
        Augment::Affine => data::Augment::Affine { scale },
    };
    let size = u32::try_from(model.vision_cfg.image_size).unwrap_or(u32::MAX);
    let (strengths, probability) = match config.aug_color_jitter[..] {
        [] => ([0.0; 4], 0.0),
        [b, c, s, h] => ([b, c, s, h], config.aug_color_jitter_prob),
        _ => return usage("--aug-color-jitter takes brightness, contrast, saturation and hue"),
    };
    let [brightness, contrast, saturation, hue] = strengths.map(|x| x as f32);
    let colour = data::ColorJitter {
        brightness,
        contrast,
        saturation,
        hue,
        probability: probability as f32,
        gray_scale_probability: config.aug_gray_scale_prob as f32,
    };
    let transform = Transform::new(size, augment).map_err(input)?;
    transform.with_colour(colour).map_err(input)
}

/// open_clip's `--train-data-upsampling-factors 1::2.5`.
fn factors(text: &str) -> Result<Vec<f32>> {
    let parse = |s: &str| s.trim().parse::<f32>().ok();
    text.split("::")
        .map(parse)
        .collect::<Option<_>>()
        .ok_or_else(|| {
            Error::Usage(format!(
                "--train-data-upsampling-factors {text}: numbers separated by `::`, one a dataset"
            ))
        })
}

/// Captions to tokens for a model's vocabulary and context.
pub fn tokenizer(model: &ClipConfig) -> Result<Tokenizer> {
    let text = &model.text_cfg;
    data::tokenizer::for_captions(text.vocab_size, text.context_length).map_err(input)
}
