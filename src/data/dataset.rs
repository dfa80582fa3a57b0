//! What an epoch reads: shards or a table, how often each, and what of them stays in memory.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use super::csv::{self, CsvOptions};
use super::error::{Error, Result};
use super::image::Decoding;
use super::options::DatasetOptions;
use super::pattern::{self, ShardSource};
use super::sample::{Sample, Skips};
use super::webdataset;
use crate::tensor::rng::{Philox, Purpose};

/// One shard's samples kept in memory, with what was skipped in it.
type Kept = Arc<(Vec<Arc<Sample>>, Skips)>;

/// Shards or a table, shared by the loaders of all epochs.
#[derive(Debug)]
pub struct Dataset {
    parts: Vec<Part>,
    options: DatasetOptions,
    kept: Mutex<HashMap<usize, Kept>>,
}

#[derive(Debug)]
struct Part {
    content: Content,
    /// How often an epoch reads it, on average.
    factor: f32,
}

#[derive(Debug)]
enum Content {
    Shard(ShardSource),
    Table(Kept),
}

/// One reading of one part within an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Visit {
    part: usize,
    repeat: u64,
}

impl Dataset {
    /// The shards that `patterns` names, see [`pattern::expand`].
    ///
    /// # Errors
    /// As [`pattern::expand`].
    pub fn from_patterns(patterns: &str, options: DatasetOptions) -> Result<Self> {
        Self::from_shards(pattern::expand(patterns)?, options)
    }

    /// The shards that `patterns` names, each `::` part read `factors` times an epoch.
    ///
    /// A fraction is a probability: with 1.5 a shard is read once or twice. (open_clip draws
    /// shards with these weights and replacement; here every shard with a factor of at least 1
    /// is read in every epoch.)
    ///
    /// # Errors
    /// As [`pattern::expand`]; [`Error::Config`] for a factor that is not within (0, 1000], or
    /// another number of factors than parts.
    pub fn upsampled(patterns: &str, factors: &[f32], options: DatasetOptions) -> Result<Self> {
        let groups = pattern::expand_groups(patterns)?;
        if groups.len() != factors.len() {
            return Err(Error::Config(format!(
                "{} upsampling factors for {} datasets",
                factors.len(),
                groups.len()
            )));
        }
        let mut parts = Vec::new();
        for (group, &factor) in groups.into_iter().zip(factors) {
            if !(factor > 0.0 && factor <= 1000.0) {
                return Err(Error::Config(format!(
                    "upsampling factor {factor} is not within (0, 1000]"
                )));
            }
            parts.extend(group.into_iter().map(|s| Part {
                content: Content::Shard(s),
                factor,
            }));
        }
        Self::from_parts(parts, options)
    }

    /// These shards.
    ///
    /// # Errors
    /// [`Error::MissingShard`] for a path without a file, [`Error::Config`] for no shard at all.
    pub fn from_shards(shards: Vec<ShardSource>, options: DatasetOptions) -> Result<Self> {
        for shard in &shards {
            if let ShardSource::Path(path) = shard
                && !path.is_file()
            {
                return Err(Error::MissingShard { path: path.clone() });
            }
        }
        let part = |shard| Part {
            content: Content::Shard(shard),
            factor: 1.0,
        };
        Self::from_parts(shards.into_iter().map(part).collect(), options)
    }

    /// The rows of a table, see [`csv::read`].
    ///
    /// # Errors
    /// As [`csv::read`].
    pub fn from_csv(path: &Path, csv: &CsvOptions, options: DatasetOptions) -> Result<Self> {
        let (samples, skips) = csv::read(path, csv)?;
        Ok(Self::from_samples(samples, skips, options))
    }

    /// These samples, and what was skipped on the way to them.
    pub fn from_samples(samples: Vec<Sample>, skips: Skips, options: DatasetOptions) -> Self {
        let samples = samples.into_iter().map(Arc::new).collect();
        let part = Part {
            content: Content::Table(Arc::new((samples, skips))),
            factor: 1.0,
        };
        Self {
            parts: vec![part],
            options,
            kept: Mutex::default(),
        }
    }

    fn from_parts(parts: Vec<Part>, options: DatasetOptions) -> Result<Self> {
        if parts.is_empty() {
            return Err(Error::Config("no shard to read".into()));
        }
        Ok(Self {
            parts,
            options,
            kept: Mutex::default(),
        })
    }

    /// How its images are decoded.
    pub fn decoding(&self) -> &Decoding {
        &self.options.decoding
    }

    /// Whether decoded pixels stay in memory.
    pub fn caches(&self) -> bool {
        self.options.cache
    }

    /// Usable samples in one reading of everything, and what would be skipped, by reading all
    /// of it but decoding no image: minutes for large data.
    ///
    /// # Errors
    /// [`Error::Io`] for a shard that cannot be opened.
    pub fn count(&self) -> Result<(u64, Skips)> {
        let (mut samples, mut skips) = (0, Skips::default());
        for part in 0..self.parts.len() {
            let visit = Visit { part, repeat: 0 };
            let _ = self.visit(visit, None, &mut skips, &mut |_, _| {
                samples += 1;
                ControlFlow::Continue(())
            })?;
        }
        Ok((samples, skips))
    }

    /// At most `n` usable samples, drawn without replacement, in the order of the data; by reading all
    /// of it but decoding no image (Vitter's algorithm R, which needs not know how many there are).
    ///
    /// # Errors
    /// [`Error::Io`] for a shard that cannot be opened.
    pub fn draw(&self, n: usize, rng: &mut Philox) -> Result<Vec<Arc<Sample>>> {
        let mut drawn: Vec<(u32, Arc<Sample>)> = Vec::new();
        let mut seen = 0;
        for part in 0..self.parts.len() {
            let visit = Visit { part, repeat: 0 };
            let _ = self.visit(visit, None, &mut Skips::default(), &mut |_, sample| {
                if drawn.len() < n {
                    drawn.push((seen, sample));
                } else if let Some(place) = drawn.get_mut(rng.below(seen + 1) as usize) {
                    *place = (seen, sample);
                }
                seen += 1;
                ControlFlow::Continue(())
            })?;
        }
        drawn.sort_unstable_by_key(|(number, _)| *number);
        Ok(drawn.into_iter().map(|(_, sample)| sample).collect())
    }

    /// What epoch `epoch` reads, in order; shuffled by `seed` if `shuffled`.
    pub(super) fn visits(&self, seed: u64, epoch: u32, shuffled: bool) -> Vec<Visit> {
        let mut chance = Philox::new(seed, Purpose::ShardOrder, epoch, 1);
        let mut visits = Vec::new();
        for (part, Part { factor, .. }) in self.parts.iter().enumerate() {
            let extra = factor.fract() > 0.0 && chance.uniform() < factor.fract();
            let times = factor.trunc() as u64 + u64::from(extra);
            visits.extend((0..times).map(|repeat| Visit { part, repeat }));
        }
        if shuffled {
            Philox::new(seed, Purpose::ShardOrder, epoch, 0).shuffle(&mut visits);
        }
        visits
    }

    /// Gives `each` usable sample of one visit with its number, which no other sample of the
    /// epoch has, until it breaks. `shuffle` holds (seed, epoch) where a table is to be shuffled;
    /// shards are read in their own order.
    pub(super) fn visit(
        &self,
        visit: Visit,
        shuffle: Option<(u64, u32)>,
        skips: &mut Skips,
        each: &mut dyn FnMut(u64, Arc<Sample>) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>> {
        let place = visit.part as u64 + visit.repeat * self.parts.len() as u64;
        let number = |i: u64| place << 32 | i;
        let mut next = 0;
        match &self.parts[visit.part].content {
            Content::Table(table) => {
                let mut order: Vec<u32> = (0..table.0.len() as u32).collect();
                if let Some((seed, epoch)) = shuffle {
                    Philox::new(seed, Purpose::ShardOrder, epoch, 2).shuffle(&mut order);
                }
                skips.merge(&table.1);
                for i in order {
                    if each(number(i.into()), table.0[i as usize].clone()).is_break() {
                        return Ok(ControlFlow::Break(()));
                    }
                }
            }
            Content::Shard(shard) if self.options.cache => {
                let kept = self.kept(visit.part, shard)?;
                skips.merge(&kept.1);
                for sample in &kept.0 {
                    if each(number(next), sample.clone()).is_break() {
                        return Ok(ControlFlow::Break(()));
                    }
                    next += 1;
                }
            }
            Content::Shard(shard) => {
                let mut flow = ControlFlow::Continue(());
                webdataset::read(shard, &self.options, skips, &mut |sample| {
                    flow = each(number(next), Arc::new(sample));
                    next += 1;
                    flow
                })?;
                return Ok(flow);
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    fn kept(&self, part: usize, shard: &ShardSource) -> Result<Kept> {
        let lock = || self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(kept) = lock().get(&part) {
            return Ok(kept.clone());
        }
        let (mut samples, mut skips) = (Vec::new(), Skips::default());
        webdataset::read(shard, &self.options, &mut skips, &mut |sample| {
            samples.push(Arc::new(sample));
            ControlFlow::Continue(())
        })?;
        let kept = Arc::new((samples, skips));
        Ok(lock().entry(part).or_insert(kept).clone())
    }
}

#[cfg(test)]
mod tests {
    use super::super::webdataset::tests::tar_of;
    use super::*;

    fn folder_of_shards() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for i in 0..4 {
            let tar = tar_of(&[("1.jpg", b"J"), ("1.txt", b"t"), ("2.jpg", b"J")]);
            std::fs::write(folder.path().join(format!("{i}.tar")), tar).unwrap();
        }
        folder
    }

    #[test]
    fn upsampling_repeats_with_distinct_numbers() {
        let folder = folder_of_shards();
        let root = folder.path().display();
        let patterns = format!("{root}/{{0..1}}.tar::{root}/{{2..3}}.tar");
        let options = DatasetOptions::default;
        let data = Dataset::upsampled(&patterns, &[2.0, 0.5], options()).unwrap();
        let (mut all, mut halves) = (std::collections::HashSet::new(), 0);
        for epoch in 0..200 {
            let visits = data.visits(3, epoch, true);
            assert_eq!(visits.iter().filter(|v| v.part < 2).count(), 4);
            halves += visits.len() - 4;
            if epoch == 0 {
                for visit in visits {
                    data.visit(visit, None, &mut Skips::default(), &mut |n, _| {
                        assert!(all.insert(n));
                        ControlFlow::Continue(())
                    })
                    .unwrap()
                    .is_break();
                }
            }
        }
        assert!((150..250).contains(&halves), "{halves}");
        assert!(Dataset::upsampled(&patterns, &[1.0], options()).is_err());
        assert!(Dataset::upsampled(&patterns, &[1.0, f32::NAN], options()).is_err());
    }

    #[test]
    fn draws_are_uniform_distinct_and_in_order() {
        let sample = |i: usize| {
            let image = super::super::sample::ImageBytes::Bytes(Vec::new());
            Sample::new(i.to_string(), image, Vec::new(), None)
        };
        let samples = (0..10).map(sample).collect();
        let data = Dataset::from_samples(samples, Skips::default(), DatasetOptions::default());
        let mut counts = [0u32; 10];
        for seed in 0..2000 {
            let mut rng = Philox::new(seed, Purpose::Test, 0, 0);
            let drawn = data.draw(3, &mut rng).unwrap();
            let keys: Vec<usize> = drawn.iter().map(|s| s.key.parse().unwrap()).collect();
            assert!(
                keys.len() == 3 && keys.is_sorted_by(|a, b| a < b),
                "{keys:?}"
            );
            keys.iter().for_each(|&k| counts[k] += 1);
        }
        // 600 ± 20.5 each; five deviations.
        assert!(counts.iter().all(|c| (497..703).contains(c)), "{counts:?}");
        let mut rng = Philox::new(0, Purpose::Test, 0, 0);
        assert_eq!(data.draw(20, &mut rng).unwrap().len(), 10);
    }

    #[test]
    fn counting_reads_everything() {
        let folder = folder_of_shards();
        let pattern = format!("{}/*.tar", folder.path().display());
        let data = Dataset::from_patterns(&pattern, DatasetOptions::default()).unwrap();
        let (samples, skips) = data.count().unwrap();
        assert_eq!((samples, skips.total()), (4, 4));
        let missing = vec![ShardSource::Path(folder.path().join("9.tar"))];
        let error = Dataset::from_shards(missing, DatasetOptions::default()).unwrap_err();
        assert!(error.to_string().contains("9.tar"), "{error}");
    }
}
