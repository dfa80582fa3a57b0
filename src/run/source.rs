//! Where training pairs come from: shards, a table, or the corpus inside the program.

use super::embedded;
use crate::data::{
    self, CountCache, Counted, Dataset, Loader, LoaderConfig, Mode, Seen, Start, Stats, Tokenizer,
    Transform,
};
use crate::model::ClipConfig;
use crate::notices::warning;
use crate::settings::config::Config;
use crate::settings::error::{Result, input, usage};
use crate::settings::meaning::DataSettings;
use std::sync::Arc;

/// From so many on, a share of them says something before all are seen.
const MANY_PAIRS: u64 = 1000;
const MANY_SHARDS: u64 = 100;

/// Training pairs and how to load them.
pub struct Source {
    loader: LoaderConfig,
    /// Batches of an epoch, if known.
    per_epoch: Option<u64>,
    counted: Counted,
    /// Whether an epoch goes on where the last one ended.
    continues: bool,
    max_bad_fraction: f64,
}

impl Source {
    /// Opens what `settings` name, for a student of configuration `model`. The pairs are
    /// counted, by reading through all of it, only if `count` asks and no flag tells.
    ///
    /// # Errors
    /// If a shard or table is missing or malformed, holds less than one batch, or too much of it is unusable.
    pub fn open(settings: &DataSettings, model: &ClipConfig, count: bool) -> Result<Self> {
        let dataset = dataset(settings)?;
        let rows = !settings.is_demo() && dataset.is_table();
        let counted = match settings.samples {
            None if count || rows || settings.is_demo() => counted(settings, &dataset)?,
            _ => Counted::default(),
        };
        let known = counted != Counted::default();
        let samples = settings.samples.or(known.then_some(counted.pairs));
        let batch = settings.batch_size;
        let per_epoch = samples.map(|n| n / batch as u64);
        let step = batch as u64 * settings.accum_freq as u64;
        if let Some(n) = samples.filter(|n| *n < step) {
            if n == 0 && known {
                let skips = counted.skips;
                let error = data::Error::NoPairs { skips };
                return Err(input(format!("{}: {error}", settings.name)));
            }
            let times = match settings.accum_freq {
                1 => String::new(),
                k => format!(" times --accum-freq {k}"),
            };
            let skipped = match counted.skips.total() {
                0 => String::new(),
                _ => format!(" (skipped: {})", counted.skips),
            };
            return usage(format!(
                "--batch-size {batch}{times} is larger than the data: {n} pairs in {}{skipped}; take a \
                 smaller batch or more data",
                settings.name
            ));
        }
        let loader = LoaderConfig {
            dataset: Arc::new(dataset),
            batch_size: batch,
            seed: settings.seed,
            length: per_epoch.map(|n| n * batch as u64),
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
            continues: settings.samples.is_some() && !settings.resampled,
            max_bad_fraction: settings.max_bad_fraction,
        })
    }

    /// Batches in an epoch, if known.
    pub fn per_epoch(&self) -> Option<u64> {
        self.per_epoch
    }

    /// What counting the pairs found.
    pub fn counted(&self) -> &Counted {
        &self.counted
    }

    /// The batches of `epoch` from batch `skip` on; `start` is where the last epoch said that this one begins.
    pub fn epoch(&self, epoch: u32, start: Option<Start>, skip: u64) -> Result<Loader> {
        let start = start.unwrap_or(Start::of_round(epoch));
        Ok(Loader::new(self.loader.clone(), start, skip)?)
    }

    /// Where the epoch after that of `loader` begins, if it goes on there.
    pub fn after(&self, loader: &Loader, batches: u64) -> Option<Start> {
        self.continues.then(|| loader.after(batches))
    }

    /// Whether no more of the data is unusable than may be. Few data say little, unless they are `all`.
    ///
    /// # Errors
    /// With what was skipped.
    pub fn check(&self, stats: &Stats, all: bool) -> Result<()> {
        let (pairs, shards) = (stats.seen(), stats.shards);
        let seen = Seen {
            pairs: if all || pairs >= MANY_PAIRS { pairs } else { 0 },
            shards: if all || shards >= MANY_SHARDS {
                shards
            } else {
                0
            },
        };
        Ok(stats.skips.check(seen, self.max_bad_fraction)?)
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

fn dataset(settings: &DataSettings) -> Result<Dataset> {
    if settings.is_demo() {
        return embedded::training_pairs();
    }
    let roots = settings.how.data_root.as_deref();
    let pairs = settings.how.pairs(&settings.name, roots)?;
    // Where their ratio alone counts, the smallest is one reading a round.
    let ratio = settings.samples.is_some() || settings.resampled;
    let factors = settings.factors.as_deref().map(|factors| {
        let least = factors.iter().copied().fold(f32::INFINITY, f32::min);
        let by = if ratio && least > 0.0 { least } else { 1.0 };
        factors.iter().map(|f| f / by).collect::<Vec<_>>()
    });
    let options = settings.options.clone();
    let dataset = pairs.open(&settings.how.csv(), factors.as_deref(), options)?;
    Ok(match settings.resampled {
        true => dataset.resampled(),
        false => dataset,
    })
}

/// Counts the pairs of `dataset`; what is counted by reading it is kept for the next start.
fn counted(settings: &DataSettings, dataset: &Dataset) -> Result<Counted> {
    if settings.is_demo() {
        return Ok(dataset.count(None)?);
    }
    let mut cache = CountCache::open(settings.counts.clone());
    let counted = dataset.count(Some(&mut cache))?;
    if let Err(e) = cache.save() {
        let path = settings.counts.display();
        warning(format_args!(
            "the counts of shards are not kept in {path}: {e}"
        ));
    }
    let seen = Seen {
        pairs: counted.pairs + counted.skips.pairs(),
        shards: (counted.read + counted.kept) as u64,
    };
    counted.skips.check(seen, settings.max_bad_fraction)?;
    Ok(counted)
}

fn transform(settings: &DataSettings, model: &ClipConfig) -> Result<Transform> {
    let size = u32::try_from(model.vision_cfg.image_size).unwrap_or(u32::MAX);
    let transform = Transform::new(size, settings.augment).map_err(input)?;
    let transform = transform.at_speed(settings.options.decoding.speed);
    transform.with_colour(settings.colour).map_err(input)
}

/// Captions to tokens for a model's vocabulary and context.
pub fn tokenizer(model: &ClipConfig) -> Result<Tokenizer> {
    let text = &model.text_cfg;
    data::tokenizer::for_captions(text.vocab_size, text.context_length).map_err(input)
}
