//! What a round reads: shards or tables, how often each, and what of them stays in memory.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, PoisonError};

use super::error::{Error, Result};
use super::image::Decoding;
use super::options::DatasetOptions;
use super::pattern::{self, ShardSource};
use super::sample::Sample;
use super::skips::Skips;
use super::webdataset;
use crate::tensor::rng::{Philox, Purpose};

/// More readings of shards, or of rows, in one round are a slip of the pen.
const MAX_SHARDS: f64 = 1e7;
const MAX_ROWS: f64 = 1e9;

/// Samples kept in memory, with what was skipped on the way to them.
type Kept = Arc<(Vec<Arc<Sample>>, Skips)>;

/// Shards or tables, shared by the loaders of all epochs.
#[derive(Debug)]
pub struct Dataset {
    content: Content,
    options: DatasetOptions,
    /// Draws shards or rows with replacement, without end.
    resampled: bool,
    kept: Mutex<HashMap<usize, Kept>>,
}

#[derive(Debug)]
enum Content {
    /// With how often a round reads each, on average.
    Shards(Vec<(ShardSource, f32)>),
    Tables {
        rows: Kept,
        spans: Vec<Span>,
    },
}

/// The rows of one table: those before `end` that are of no earlier span.
#[derive(Debug)]
struct Span {
    end: usize,
    factor: f32,
}

/// The order of one round.
#[derive(Clone, Copy, Debug)]
pub(super) struct Order {
    /// Of every draw.
    pub seed: u64,
    /// Its number.
    pub round: u32,
    /// Whether anything is shuffled; else all is read as it stands.
    pub shuffled: bool,
}

/// One reading of one part within a round.
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
        Self::upsampled(pattern::expand_groups(patterns)?, None, options)
    }

    /// These lists of shards, each read `factors` times a round; once without factors.
    ///
    /// A fraction is a probability: with 1.5 a shard is read once or twice.
    ///
    /// # Errors
    /// [`Error::Config`] for no shard at all, a factor that is not positive, or another number of factors than
    /// lists.
    pub fn upsampled(
        groups: Vec<Vec<ShardSource>>,
        factors: Option<&[f32]>,
        options: DatasetOptions,
    ) -> Result<Self> {
        let factors = checked(factors, groups.len())?;
        let mut shards = Vec::new();
        for (group, factor) in groups.into_iter().zip(factors) {
            shards.extend(group.into_iter().map(|shard| (shard, factor)));
        }
        if shards.is_empty() {
            return Err(Error::Config("no shard to read".into()));
        }
        Self::new(Content::Shards(shards), options)
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
        Self::upsampled(vec![shards], None, options)
    }

    /// The rows of these tables, each table read `factors` times a round; once without factors.
    ///
    /// # Errors
    /// As [`Self::upsampled`].
    pub fn from_tables(
        tables: Vec<(Vec<Sample>, Skips)>,
        factors: Option<&[f32]>,
        options: DatasetOptions,
    ) -> Result<Self> {
        let factors = checked(factors, tables.len())?;
        let (mut rows, mut skips, mut spans) = (Vec::new(), Skips::default(), Vec::new());
        for ((samples, skipped), factor) in tables.into_iter().zip(factors) {
            rows.extend(samples.into_iter().map(Arc::new));
            skips.merge(&skipped);
            let end = rows.len();
            spans.push(Span { end, factor });
        }
        if u32::try_from(rows.len()).is_err() {
            return Err(Error::Config(format!("{} rows are too many", rows.len())));
        }
        let rows = Arc::new((rows, skips));
        Self::new(Content::Tables { rows, spans }, options)
    }

    /// These samples, and what was skipped on the way to them.
    pub fn from_samples(samples: Vec<Sample>, skips: Skips, options: DatasetOptions) -> Self {
        let samples: Vec<Arc<Sample>> = samples.into_iter().map(Arc::new).collect();
        let spans = vec![Span {
            end: samples.len(),
            factor: 1.0,
        }];
        let rows = Arc::new((samples, skips));
        Self {
            content: Content::Tables { rows, spans },
            options,
            resampled: false,
            kept: Mutex::default(),
        }
    }

    fn new(content: Content, options: DatasetOptions) -> Result<Self> {
        let dataset = Self {
            content,
            options,
            resampled: false,
            kept: Mutex::default(),
        };
        let readings: f64 = dataset.weights().iter().map(|w| f64::from(*w)).sum();
        let (most, what) = match dataset.content {
            Content::Shards(_) => (MAX_SHARDS, "shards"),
            Content::Tables { .. } => (MAX_ROWS, "rows"),
        };
        if readings > most {
            return Err(Error::Config(format!(
                "the upsampling factors make {readings:.0} readings of {what} in a round, more than {most:.0}"
            )));
        }
        Ok(dataset)
    }

    /// Draws shards, or rows of tables, with replacement, with chances in proportion to the factors: open_clip's
    /// `--dataset-resampled`. A round then has no end.
    pub fn resampled(mut self) -> Self {
        self.resampled = true;
        self
    }

    /// Whether it holds tables, not shards.
    pub fn is_table(&self) -> bool {
        matches!(self.content, Content::Tables { .. })
    }

    /// Whether shards or rows are drawn with replacement.
    pub fn is_resampled(&self) -> bool {
        self.resampled
    }

    /// The shards, and how often a round reads each.
    pub(super) fn shards(&self) -> Option<&[(ShardSource, f32)]> {
        match &self.content {
            Content::Shards(shards) => Some(shards),
            Content::Tables { .. } => None,
        }
    }

    /// How its samples are read.
    pub(super) fn options(&self) -> &DatasetOptions {
        &self.options
    }

    /// How often a round reads each shard, or the rows of each table together.
    fn weights(&self) -> Vec<f32> {
        match &self.content {
            Content::Shards(shards) => shards.iter().map(|(_, factor)| *factor).collect(),
            Content::Tables { spans, .. } => {
                let begins = std::iter::once(0).chain(spans.iter().map(|s| s.end));
                let sizes = begins.zip(spans).map(|(begin, s)| s.end - begin);
                sizes.zip(spans).map(|(n, s)| n as f32 * s.factor).collect()
            }
        }
    }

    /// Parts that are visited on their own: shards, or all tables together.
    fn parts(&self) -> usize {
        match &self.content {
            Content::Shards(shards) => shards.len(),
            Content::Tables { .. } => 1,
        }
    }

    /// How its images are decoded.
    pub fn decoding(&self) -> &Decoding {
        &self.options.decoding
    }

    /// Whether decoded pixels stay in memory.
    pub fn caches(&self) -> bool {
        self.options.cache
    }

    /// Usable samples in one reading of part `part`, and what would be skipped, by reading all of it but decoding no
    /// image.
    pub(super) fn count_part(&self, part: usize) -> Result<(u64, Skips)> {
        let (mut samples, mut skips) = (0, Skips::default());
        let visit = Visit { part, repeat: 0 };
        let _ = self.read(visit, None, &mut skips, &mut |_, _| {
            samples += 1;
            ControlFlow::Continue(())
        })?;
        Ok((samples, skips))
    }

    /// Rows of tables in a round, on average, and what was skipped on the way to them; `None` for shards.
    pub(super) fn rows(&self) -> Option<(f64, Skips)> {
        let Content::Tables { rows, .. } = &self.content else {
            return None;
        };
        let readings = self.weights().iter().map(|w| f64::from(*w)).sum();
        Some((readings, rows.1.clone()))
    }

    /// At most `n` usable samples, drawn without replacement, in the order of the data; by reading all
    /// of it but decoding no image (Vitter's algorithm R, which needs not know how many there are).
    ///
    /// # Errors
    /// [`Error::Io`] for a shard that cannot be opened.
    pub fn draw(&self, n: usize, rng: &mut Philox) -> Result<Vec<Arc<Sample>>> {
        let mut drawn: Vec<(u32, Arc<Sample>)> = Vec::new();
        let mut seen = 0;
        for part in 0..self.parts() {
            let visit = Visit { part, repeat: 0 };
            let _ = self.read(visit, None, &mut Skips::default(), &mut |_, sample| {
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

    /// What a round reads, in order. Without end if it is resampled.
    pub(super) fn visits(&self, order: Order) -> Box<dyn Iterator<Item = Visit> + '_> {
        let Content::Shards(shards) = &self.content else {
            return Box::new(std::iter::once(Visit { part: 0, repeat: 0 }));
        };
        let Order { seed, round, .. } = order;
        if self.resampled {
            let draws = Draws::new(self.weights(), order);
            let repeats = draws.enumerate();
            return Box::new(repeats.map(|(repeat, part)| Visit {
                part,
                repeat: repeat as u64,
            }));
        }
        let mut chance = Philox::new(seed, Purpose::ShardOrder, round, 1);
        let mut visits = Vec::new();
        for (part, (_, factor)) in shards.iter().enumerate() {
            let times = times(*factor, &mut chance);
            visits.extend((0..times).map(|repeat| Visit { part, repeat }));
        }
        if order.shuffled {
            Philox::new(seed, Purpose::ShardOrder, round, 0).shuffle(&mut visits);
        }
        Box::new(visits.into_iter())
    }

    /// Gives `each` usable sample of one visit with its number, which no other sample of the
    /// round has, until it breaks. Shards are read in their own order, the rows of tables in that of the round.
    pub(super) fn visit(
        &self,
        visit: Visit,
        order: Order,
        skips: &mut Skips,
        each: &mut dyn FnMut(u64, Arc<Sample>) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>> {
        self.read(visit, Some(order), skips, each)
    }

    /// The number that a sample has in every round: its first reading's.
    pub(super) fn identity(&self, number: u64) -> u64 {
        let place = (number >> 32) % self.parts() as u64;
        place << 32 | number & u64::from(u32::MAX)
    }

    /// As [`Self::visit`]; without an order each row of a table comes once.
    fn read(
        &self,
        visit: Visit,
        order: Option<Order>,
        skips: &mut Skips,
        each: &mut dyn FnMut(u64, Arc<Sample>) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>> {
        let place =
            (visit.part as u64).wrapping_add(visit.repeat.wrapping_mul(self.parts() as u64));
        let number = |i: u64| place << 32 | i;
        let mut next = 0;
        match &self.content {
            Content::Tables { rows, spans } => {
                skips.merge(&rows.1);
                for id in self.row_numbers(rows.0.len(), spans, order) {
                    let row = (id & u64::from(u32::MAX)) as usize;
                    if each(id, rows.0[row].clone()).is_break() {
                        return Ok(ControlFlow::Break(()));
                    }
                }
            }
            Content::Shards(shards) if self.options.cache => {
                let kept = self.kept(visit.part, &shards[visit.part].0)?;
                skips.merge(&kept.1);
                for sample in &kept.0 {
                    if each(number(next), sample.clone()).is_break() {
                        return Ok(ControlFlow::Break(()));
                    }
                    next += 1;
                }
            }
            Content::Shards(shards) => {
                let shard = &shards[visit.part].0;
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

    /// The numbers of a round's rows: the repetition above the lower half, the row in it.
    fn row_numbers<'a>(
        &'a self,
        rows: usize,
        spans: &'a [Span],
        order: Option<Order>,
    ) -> Box<dyn Iterator<Item = u64> + 'a> {
        let Some(order) = order else {
            return Box::new(0..rows as u64);
        };
        let Order { seed, round, .. } = order;
        if self.resampled && rows > 0 {
            let mut within = Philox::new(seed, Purpose::ShardOrder, round, 2);
            let draws = Draws::new(self.weights(), order).enumerate();
            return Box::new(draws.map(move |(repeat, span)| {
                let begin = if span == 0 { 0 } else { spans[span - 1].end };
                let row = begin as u64 + u64::from(within.below((spans[span].end - begin) as u32));
                (repeat as u64) << 32 | row
            }));
        }
        let mut chance = Philox::new(seed, Purpose::ShardOrder, round, 1);
        let mut numbers = Vec::with_capacity(rows);
        let mut begin = 0;
        for span in spans {
            for row in begin..span.end {
                let times = times(span.factor, &mut chance);
                numbers.extend((0..times).map(|repeat| repeat << 32 | row as u64));
            }
            begin = span.end;
        }
        if order.shuffled {
            Philox::new(seed, Purpose::ShardOrder, round, 2).shuffle(&mut numbers);
        }
        Box::new(numbers.into_iter())
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

/// `factors`, or ones, for `n` lists.
fn checked(factors: Option<&[f32]>, n: usize) -> Result<Vec<f32>> {
    let Some(factors) = factors else {
        return Ok(vec![1.0; n]);
    };
    if factors.len() != n {
        let count = factors.len();
        return Err(Error::Config(format!(
            "{count} upsampling factors for {n} datasets"
        )));
    }
    match factors.iter().find(|f| !(f.is_finite() && **f > 0.0)) {
        Some(bad) => Err(Error::Config(format!(
            "upsampling factor {bad} is not a positive number"
        ))),
        None => Ok(factors.to_vec()),
    }
}

/// How often something is read whose factor is `factor`: its fraction is a chance.
fn times(factor: f32, chance: &mut Philox) -> u64 {
    let extra = factor.fract() > 0.0 && chance.uniform() < factor.fract();
    factor.trunc() as u64 + u64::from(extra)
}

/// Places drawn with replacement, each with a chance in proportion to its weight, without end.
struct Draws {
    /// Sums of the weights up to each place.
    sums: Vec<f64>,
    rng: Philox,
}

impl Draws {
    fn new(weights: Vec<f32>, order: Order) -> Self {
        let mut sum = 0.0;
        let sums = weights.iter().map(|w| {
            sum += f64::from(*w);
            sum
        });
        Self {
            sums: sums.collect(),
            rng: Philox::new(order.seed, Purpose::ShardOrder, order.round, 3),
        }
    }
}

impl Iterator for Draws {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        let draw = f64::from(self.rng.uniform()) * self.sums.last()?;
        let place = self.sums.partition_point(|sum| *sum <= draw);
        Some(place.min(self.sums.len() - 1))
    }
}

#[cfg(test)]
#[path = "dataset_tests.rs"]
mod tests;
