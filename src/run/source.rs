//! Where training pairs come from: shards, a table, or the corpus inside the program.

use super::embedded;
use crate::data::{
    self, Dataset, DatasetOptions, Loader, LoaderConfig, Mode, Skips, Tokenizer, Transform,
};
use crate::model::ClipConfig;
use crate::settings::config::Config;
use crate::settings::error::{Result, input, usage};
use crate::settings::meaning::{DataSettings, Pairs};
use std::sync::Arc;

/// Training pairs and how to load them.
pub struct Source {
    loader: LoaderConfig,
    per_epoch: Option<u64>,
    counted: Skips,
}

impl Source {
    /// Opens what `settings` name, for a student of configuration `model`. The pairs are
    /// counted, by reading through all of it, only if `count` asks and no flag tells.
    ///
    /// # Errors
    /// If a shard or table is missing or malformed, or holds less than one batch.
    pub fn open(settings: &DataSettings, model: &ClipConfig, count: bool) -> Result<Self> {
        let options = DatasetOptions {
            decoding: settings.decoding,
            ..DatasetOptions::default()
        };
        let dataset = match &settings.pairs {
            Pairs::Demo => embedded::training_pairs()?,
            Pairs::Table(path, csv) => Dataset::from_csv(path, csv, options)?,
            Pairs::Shards(patterns, None) => Dataset::from_patterns(patterns, options)?,
            Pairs::Shards(patterns, Some(factors)) => {
                Dataset::upsampled(patterns, factors, options)?
            }
        };
        let (samples, counted) = match settings.samples {
            Some(n) => (Some(n), Skips::default()),
            None if count || matches!(settings.pairs, Pairs::Demo) => {
                let (n, skips) = dataset.count()?;
                (Some(n), skips)
            }
            None => (None, Skips::default()),
        };
        let batch = settings.batch_size;
        let per_epoch = samples.map(|n| n / batch as u64);
        let step = batch as u64 * settings.accum_freq as u64;
        if let Some(n) = samples.filter(|n| *n < step) {
            let times = match settings.accum_freq {
                1 => String::new(),
                k => format!(" times --accum-freq {k}"),
            };
            return usage(format!(
                "--batch-size {batch}{times} is larger than the data: {n} pairs in {}; take a \
                 smaller batch or more data",
                settings.name
            ));
        }
        let loader = LoaderConfig {
            dataset: Arc::new(dataset),
            batch_size: batch,
            seed: settings.seed,
            shuffle_buffer: settings.shuffle_buffer,
            mode: Mode::Train,
            workers: settings.workers,
            prefetch: 2,
            transform: transform(settings, model)?,
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
        Ok(Loader::new(self.loader.clone(), epoch, skip)?)
    }

    /// Steps of the whole run.
    ///
    /// # Errors
    /// If the length of an epoch is unknown and `config` does not say how many steps there are.
    pub fn total_steps(&self, config: &Config) -> Result<u64> {
        match (config.steps, self.per_epoch) {
            (Some(steps), _) => Ok(steps),
            (None, Some(n)) => Ok(n / config.accum_freq as u64 * u64::from(config.epochs)),
            (None, None) => usage("the length of an epoch is unknown: give --train-num-samples"),
        }
    }
}

fn transform(settings: &DataSettings, model: &ClipConfig) -> Result<Transform> {
    let size = u32::try_from(model.vision_cfg.image_size).unwrap_or(u32::MAX);
    let transform = Transform::new(size, settings.augment).map_err(input)?;
    transform.with_colour(settings.colour).map_err(input)
}

/// Captions to tokens for a model's vocabulary and context.
pub fn tokenizer(model: &ClipConfig) -> Result<Tokenizer> {
    let text = &model.text_cfg;
    data::tokenizer::for_captions(text.vocab_size, text.context_length).map_err(input)
}
