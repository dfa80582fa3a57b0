//! Batches of an epoch, prepared by threads, the same whatever their number.
//!
//! One thread reads samples in order through the shuffle buffer and numbers them; workers decode,
//! augment and tokenise; one thread puts batches together by number. Batch `b` of `B` samples
//! holds numbers `b B` to `(b + 1) B`, always, so that a resumed epoch need only count samples.
//! In training, an undecodable one is replaced by the next decodable after its batch, which then
//! also comes in its own turn: no batch shrinks, nothing moves.
//!
//! A round is one reading of all the data in an order of its own. An epoch that needs more samples than are left
//! of its round goes on with the next, so that an epoch has the batches that were planned, whatever is
//! undecodable and however much was promised.

mod batches;
mod reader;

use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, TryRecvError, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use self::batches::assemble;
use self::reader::Reader;
use super::dataset::Dataset;
use super::error::{Error, Result};
use super::sample::{Sample, Stats};
use super::skips::{SkipKind, Skips};
use super::transform::Transform;
use crate::tensor::Normalisation;
use crate::tensor::rng::{Philox, Purpose};

/// A text to its tokens, of whatever length the model takes.
pub type Tokenizer = Arc<dyn Fn(&str) -> Vec<i32> + Send + Sync>;

/// What becomes of samples that do not fill a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Every batch is full: undecodable samples are replaced, the remainder is dropped. One of
    /// several captions is drawn in each round.
    Train,
    /// Every sample comes once: batches are smaller by their undecodable samples, the last may
    /// be smaller still. The first caption is taken.
    Evaluate,
}

/// How to load.
#[derive(Clone)]
pub struct LoaderConfig {
    /// What to read.
    pub dataset: Arc<Dataset>,
    /// Samples in a batch.
    pub batch_size: usize,
    /// Of every draw, with the round and the sample's number.
    pub seed: u64,
    /// Samples of an epoch; without it an epoch is the rest of its round.
    pub length: Option<u64>,
    /// Samples in the shuffle buffer; 0 reads everything in its own order.
    pub shuffle_buffer: usize,
    /// Full batches or all samples.
    pub mode: Mode,
    /// Threads that decode; 0 counts as 1.
    pub workers: usize,
    /// Batches prepared ahead of the one being put together; 0 counts as 1.
    pub prefetch: usize,
    /// Pixels to model input.
    pub transform: Transform,
    /// Captions to tokens.
    pub tokenizer: Tokenizer,
}

/// Where an epoch begins in the data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Start {
    /// The round.
    pub round: u32,
    /// Samples of that round that were given out before.
    pub read: u64,
}

impl Start {
    /// The beginning of a round.
    pub fn of_round(round: u32) -> Self {
        Self { round, read: 0 }
    }
}

/// Samples of one step; all lists have one item a sample, in one order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Batch {
    /// `[B, S, S, 3]`, not normalised.
    pub images: Vec<u8>,
    /// What they are to be normalised by.
    pub normalisation: Normalisation,
    /// Tokens of the chosen captions.
    pub texts: Vec<Vec<i32>>,
    /// Names of the samples.
    pub keys: Vec<String>,
    /// The chosen captions; empty where a sample has none.
    pub captions: Vec<String>,
    /// All captions.
    pub all_captions: Vec<Vec<String>>,
    /// Class names or numbers, as written.
    pub classes: Vec<Option<String>>,
    /// Number of the batch within its epoch.
    pub index: u64,
}

impl Batch {
    /// Appends the samples of `other`.
    pub fn append(&mut self, other: Self) {
        self.images.extend(other.images);
        self.texts.extend(other.texts);
        self.keys.extend(other.keys);
        self.captions.extend(other.captions);
        self.all_captions.extend(other.all_captions);
        self.classes.extend(other.classes);
    }

    /// Samples in the batch.
    pub fn len(&self) -> usize {
        self.texts.len()
    }

    /// Whether it has none; a loader gives no such batch.
    pub fn is_empty(&self) -> bool {
        self.texts.is_empty()
    }

    fn push(&mut self, ready: &Ready) {
        self.images.extend_from_slice(&ready.image);
        self.texts.push(ready.text.clone());
        self.keys.push(ready.sample.key.clone());
        self.captions.push(ready.caption.clone());
        self.all_captions.push(ready.sample.captions.clone());
        self.classes.push(ready.sample.class.clone());
    }
}

/// A sample as a batch holds it.
struct Ready {
    /// What it is in every round.
    identity: u64,
    sample: Arc<Sample>,
    image: Vec<u8>,
    caption: String,
    text: Vec<i32>,
}

type Outcome = Arc<Result<Ready, (SkipKind, String)>>;

/// The batches of one epoch. Dropping it stops its threads.
pub struct Loader {
    batches: Option<Receiver<Result<Batch>>>,
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    batch_size: usize,
    samples: u64,
    waited: f64,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    /// The window moved, work arrived, or all must stop.
    work: Condvar,
    /// An outcome arrived, or the reader ended.
    done: Condvar,
}

/// A sample to be prepared.
struct Task {
    /// Within the epoch.
    number: u64,
    round: u32,
    /// Within the round.
    id: u64,
    sample: Arc<Sample>,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Task>,
    outcomes: BTreeMap<u64, Outcome>,
    /// The reader hands out numbers below this only.
    window: u64,
    /// Samples that the reader has given out.
    read: u64,
    /// The number of the sample that the reader gives out next, when it has it.
    in_hand: u64,
    /// Those of them that are unusable.
    failed: u64,
    /// Shards that the reader has begun.
    shards: u64,
    /// For each round so far: the number that its first sample has or would have, which is below zero where the
    /// epoch begins within it.
    rounds: Vec<(i128, u32)>,
    /// Samples in the epoch, once known; never where an epoch goes on with the next round.
    total: Option<u64>,
    failure: Option<Error>,
    skips: Skips,
    stop: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing under this lock is left half done by a panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(condition: &Condvar, guard: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        condition
            .wait(guard)
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn fail(&self, error: Error) {
        let mut state = self.lock();
        state.failure.get_or_insert(error);
        self.done.notify_all();
    }

    fn stop(&self) {
        self.lock().stop = true;
        self.work.notify_all();
        self.done.notify_all();
    }
}

impl Loader {
    /// Starts an epoch that begins at `start`, at its batch `skip_batches`: batches that a resumed run has had are
    /// read over, not decoded, and those that follow are what they would have been.
    ///
    /// # Errors
    /// [`Error::Config`] for a batch size of 0 or a shuffle buffer over 2³² - 1 samples,
    /// [`Error::Worker`] if no thread can be started. What goes wrong later comes as an item.
    pub fn new(config: LoaderConfig, start: Start, skip_batches: u64) -> Result<Self> {
        if config.batch_size == 0 {
            return Err(Error::Config("a batch of 0 samples".into()));
        }
        if u32::try_from(config.shuffle_buffer).is_err() {
            return Err(Error::Config(format!(
                "a shuffle buffer of {} samples is too large",
                config.shuffle_buffer
            )));
        }
        let shared = Arc::new(Shared::default());
        let config = Arc::new(config);
        let (sender, receiver) = sync_channel(1);
        let mut loader = Self {
            batches: Some(receiver),
            shared: shared.clone(),
            threads: Vec::new(),
            batch_size: config.batch_size,
            samples: 0,
            waited: 0.0,
        };
        let first = skip_batches.saturating_mul(config.batch_size as u64);
        let (c, s) = (config.clone(), shared.clone());
        loader.spawn("data-read", move || Reader::new(&c, &s, first).run(start))?;
        for _ in 0..config.workers.max(1) {
            let (c, s) = (config.clone(), shared.clone());
            loader.spawn("data-work", move || work(&c, &s))?;
        }
        loader.spawn("data-batch", move || {
            assemble(&config, &shared, skip_batches, &sender);
        })?;
        Ok(loader)
    }

    fn spawn(&mut self, name: &str, run: impl FnOnce() + Send + 'static) -> Result<()> {
        let shared = self.shared.clone();
        let guarded = move || {
            if catch_unwind(AssertUnwindSafe(run)).is_err() {
                shared.fail(Error::Worker("a thread panicked".into()));
            }
        };
        let thread = std::thread::Builder::new()
            .name(name.into())
            .spawn(guarded)
            .map_err(|e| Error::Worker(format!("cannot start a thread: {e}")))?;
        self.threads.push(thread);
        Ok(())
    }

    /// Samples, skips and waiting so far.
    pub fn stats(&self) -> Stats {
        let state = self.shared.lock();
        Stats {
            samples: self.samples,
            skips: state.skips.clone(),
            read: state.read,
            failed: state.failed,
            shards: state.shards,
            waited: self.waited,
        }
    }

    /// Where the epoch after this one begins if this one has `batches`, all of which were taken.
    pub fn after(&self, batches: u64) -> Start {
        let samples = batches.saturating_mul(self.batch_size as u64);
        let number = i128::from(samples);
        let mut state = self.shared.lock();
        // A round may end there: then the next one begins, and the reader knows it when it has come so far.
        let known = |state: &State| {
            state.in_hand >= samples
                || state
                    .rounds
                    .last()
                    .is_some_and(|(begin, _)| *begin >= number)
        };
        while !(known(&state) || state.stop || state.failure.is_some() || state.total.is_some()) {
            state = Shared::wait(&self.shared.done, state);
        }
        let last = state
            .rounds
            .iter()
            .rev()
            .find(|(begin, _)| *begin <= number);
        let (begin, round) = last.copied().unwrap_or_default();
        Start {
            round,
            read: u64::try_from(number - begin).unwrap_or_default(),
        }
    }
}

impl Iterator for Loader {
    type Item = Result<Batch>;

    /// The next batch; after an error, nothing more.
    fn next(&mut self) -> Option<Self::Item> {
        let batches = self.batches.as_ref()?;
        let received = match batches.try_recv() {
            Err(TryRecvError::Empty) => {
                let start = Instant::now();
                let received = batches.recv().ok();
                self.waited += start.elapsed().as_secs_f64();
                received
            }
            other => other.ok(),
        };
        match received {
            Some(Ok(batch)) => {
                self.samples += batch.len() as u64;
                Some(Ok(batch))
            }
            other => {
                self.batches = None;
                self.shared.stop();
                other
            }
        }
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        // The receiver first: the assembler may be waiting to send.
        self.batches = None;
        self.shared.stop();
        for thread in self.threads.drain(..) {
            // A panic in it has been reported by `spawn` already.
            let _ = thread.join();
        }
    }
}

/// The error for a round of `samples` usable samples, less than a batch.
fn too_few(config: &LoaderConfig, samples: u64, skips: Skips) -> Error {
    match samples {
        0 => Error::NoPairs { skips },
        _ => Error::BatchTooLarge {
            batch: config.batch_size,
            samples,
            skips,
        },
    }
}

/// A worker: prepares what is queued until all must stop.
fn work(config: &LoaderConfig, shared: &Shared) {
    loop {
        let task = {
            let mut state = shared.lock();
            loop {
                if state.stop {
                    return;
                }
                if let Some(next) = state.queue.pop_front() {
                    break next;
                }
                state = Shared::wait(&shared.work, state);
            }
        };
        let number = task.number;
        let outcome = Arc::new(prepare(config, task));
        shared.lock().outcomes.insert(number, outcome);
        shared.done.notify_all();
    }
}

fn prepare(config: &LoaderConfig, task: Task) -> Result<Ready, (SkipKind, String)> {
    let Task {
        round, id, sample, ..
    } = task;
    let mut draw = Philox::new(config.seed, Purpose::Augment, round, id);
    let pixels = sample.pixels(config.dataset.decoding(), config.dataset.caches())?;
    let image = config.transform.pixels(&pixels, &mut draw).pixels;
    drop(pixels);
    let choice = match (config.mode, sample.captions.len()) {
        (Mode::Train, n @ 2..) => {
            let mut draw = Philox::new(config.seed, Purpose::Caption, round, id);
            if sample.weights.is_empty() {
                draw.below(n.min(u32::MAX as usize) as u32) as usize
            } else {
                sample.caption_at(draw.uniform())
            }
        }
        _ => 0,
    };
    let caption = sample.captions.get(choice).cloned().unwrap_or_default();
    Ok(Ready {
        identity: config.dataset.identity(id),
        image,
        text: (config.tokenizer)(&caption),
        caption,
        sample,
    })
}

#[cfg(test)]
mod tests;
