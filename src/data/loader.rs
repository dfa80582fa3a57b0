//! Batches of an epoch, prepared by threads, the same whatever their number.
//!
//! One thread reads samples in order through the shuffle buffer and numbers them; workers decode,
//! augment and tokenise; one thread puts batches together by number. Batch `b` of `B` samples
//! holds numbers `b B` to `(b + 1) B`, always, so that a resumed epoch need only count samples.
//! In training, an undecodable one is replaced by the next decodable after its batch, which then
//! also comes in its own turn: no batch shrinks, none holds a sample twice, nothing moves.

use std::collections::{BTreeMap, VecDeque};
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use super::dataset::Dataset;
use super::error::{Error, Result};
use super::sample::{Sample, SkipKind, Skips, Stats};
use super::transform::Transform;
use crate::tensor::Normalisation;
use crate::tensor::rng::{Philox, Purpose};

/// A text to its tokens, of whatever length the model takes.
pub type Tokenizer = Arc<dyn Fn(&str) -> Vec<i32> + Send + Sync>;

/// What becomes of samples that do not fill a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Every batch is full: undecodable samples are replaced, the remainder is dropped. One of
    /// several captions is drawn for each epoch.
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
    /// Of every draw, with the epoch and the sample's number.
    pub seed: u64,
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

#[derive(Default)]
struct State {
    queue: VecDeque<(u64, u64, Arc<Sample>)>,
    outcomes: BTreeMap<u64, Outcome>,
    /// The reader hands out numbers below this only.
    window: u64,
    /// Samples in the epoch, once known.
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
    /// Starts epoch `epoch` at batch `skip_batches`: batches that a resumed run has had are
    /// read over, not decoded, and those that follow are what they would have been.
    ///
    /// # Errors
    /// [`Error::Config`] for a batch size of 0 or a shuffle buffer over 2³² - 1 samples,
    /// [`Error::Worker`] if no thread can be started. What goes wrong later comes as an item.
    pub fn new(config: LoaderConfig, epoch: u32, skip_batches: u64) -> Result<Self> {
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
            samples: 0,
            waited: 0.0,
        };
        let first = skip_batches.saturating_mul(config.batch_size as u64);
        let (c, s) = (config.clone(), shared.clone());
        loader.spawn("data-read", move || read(&c, &s, epoch, first))?;
        for _ in 0..config.workers.max(1) {
            let (c, s) = (config.clone(), shared.clone());
            loader.spawn("data-work", move || work(&c, &s, epoch))?;
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
        Stats {
            samples: self.samples,
            skips: self.shared.lock().skips.clone(),
            waited: self.waited,
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

/// The reader: numbers the epoch's samples and queues those from number `first` on.
fn read(config: &LoaderConfig, shared: &Shared, epoch: u32, first: u64) {
    let mut number = 0;
    let mut emit = |id: u64, sample: Arc<Sample>| -> ControlFlow<()> {
        let mut state = shared.lock();
        while !state.stop && number >= first && number >= state.window {
            state = Shared::wait(&shared.work, state);
        }
        if state.stop {
            return ControlFlow::Break(());
        }
        if number >= first {
            state.queue.push_back((number, id, sample));
            shared.work.notify_all();
        }
        number += 1;
        ControlFlow::Continue(())
    };
    let shuffled = config.shuffle_buffer > 0;
    let mut draw = Philox::new(config.seed, Purpose::Shuffle, epoch, 0);
    let mut buffer: Vec<(u64, Arc<Sample>)> = Vec::new();
    for visit in config.dataset.visits(config.seed, epoch, shuffled) {
        let mut skips = Skips::default();
        let table_order = shuffled.then_some((config.seed, epoch));
        let flow = config
            .dataset
            .visit(visit, table_order, &mut skips, &mut |id, sample| {
                if !shuffled {
                    return emit(id, sample);
                }
                if buffer.len() < config.shuffle_buffer {
                    buffer.push((id, sample));
                    return ControlFlow::Continue(());
                }
                let place = draw.below(buffer.len() as u32) as usize;
                let (id, sample) = std::mem::replace(&mut buffer[place], (id, sample));
                emit(id, sample)
            });
        shared.lock().skips.merge(&skips);
        match flow {
            Ok(ControlFlow::Continue(())) => {}
            Ok(ControlFlow::Break(())) => return,
            Err(error) => return shared.fail(error),
        }
    }
    draw.shuffle(&mut buffer);
    for (id, sample) in buffer {
        if emit(id, sample).is_break() {
            return;
        }
    }
    shared.lock().total = Some(number);
    shared.done.notify_all();
}

/// A worker: prepares what is queued until all must stop.
fn work(config: &LoaderConfig, shared: &Shared, epoch: u32) {
    loop {
        let (number, id, sample) = {
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
        let outcome = Arc::new(prepare(config, epoch, id, sample));
        shared.lock().outcomes.insert(number, outcome);
        shared.done.notify_all();
    }
}

fn prepare(
    config: &LoaderConfig,
    epoch: u32,
    id: u64,
    sample: Arc<Sample>,
) -> Result<Ready, (SkipKind, String)> {
    let mut draw = Philox::new(config.seed, Purpose::Augment, epoch, id);
    let pixels = sample.pixels(config.dataset.decoding(), config.dataset.caches())?;
    let image = config.transform.pixels(&pixels, &mut draw).pixels;
    drop(pixels);
    let choice = match (config.mode, sample.captions.len()) {
        (Mode::Train, n @ 2..) => {
            let mut draw = Philox::new(config.seed, Purpose::Caption, epoch, id);
            draw.below(n.min(u32::MAX as usize) as u32) as usize
        }
        _ => 0,
    };
    let caption = sample.captions.get(choice).cloned().unwrap_or_default();
    Ok(Ready {
        image,
        text: (config.tokenizer)(&caption),
        caption,
        sample,
    })
}

/// The assembler: sends batches in order, then hangs up.
fn assemble(
    config: &LoaderConfig,
    shared: &Shared,
    first: u64,
    batches: &SyncSender<Result<Batch>>,
) {
    for index in first.. {
        let made = make_batch(config, shared, index);
        let last = !matches!(made, Ok(Some(_)));
        if let Some(item) = made.transpose()
            && !item.as_ref().is_ok_and(Batch::is_empty)
            && batches.send(item).is_err()
        {
            return;
        }
        if last {
            return;
        }
    }
}

/// Batch `index`, or `None` at the end of the epoch. Empty where an evaluation's samples are all
/// undecodable.
fn make_batch(config: &LoaderConfig, shared: &Shared, index: u64) -> Result<Option<Batch>> {
    let size = config.batch_size as u64;
    let start = index.saturating_mul(size);
    let end = start.saturating_add(size);
    let ahead = size.saturating_mul(config.prefetch.max(1) as u64);
    widen(shared, end.saturating_add(ahead));
    let mut picked = Vec::with_capacity(config.batch_size.min(1 << 16));
    let mut next = end;
    for number in start..end {
        let Some(outcome) = outcome(shared, number)? else {
            break;
        };
        match &*outcome {
            Ok(_) => picked.push(outcome),
            Err((kind, reason)) => {
                shared.lock().skips.add(*kind, reason.clone());
                if config.mode == Mode::Evaluate {
                    continue;
                }
                // One that follows takes its place in the batch, and in its own turn comes again.
                while let Some(substitute) = self::outcome(shared, next)? {
                    next += 1;
                    if substitute.is_ok() {
                        picked.push(substitute);
                        break;
                    }
                }
            }
        }
    }
    let total = shared.lock().total;
    let ended = total.is_some_and(|total| total <= start);
    match config.mode {
        Mode::Train if picked.len() < config.batch_size => {
            if index == 0 {
                return Err(Error::BatchTooLarge {
                    batch: config.batch_size,
                    samples: picked.len() as u64,
                });
            }
            return Ok(None);
        }
        Mode::Evaluate if ended => return Ok(None),
        _ => {}
    }
    let mut batch = Batch {
        index,
        images: Vec::with_capacity(picked.len() * config.transform.len()),
        normalisation: config.transform.normalisation(),
        ..Batch::default()
    };
    for outcome in &picked {
        if let Ok(ready) = &**outcome {
            batch.push(ready);
        }
    }
    let mut state = shared.lock();
    state.outcomes = state.outcomes.split_off(&end);
    Ok(Some(batch))
}

fn widen(shared: &Shared, window: u64) {
    let mut state = shared.lock();
    if state.window < window {
        state.window = window;
        shared.work.notify_all();
    }
}

/// Waits for the outcome of sample `number`; `None` if the epoch has fewer samples.
fn outcome(shared: &Shared, number: u64) -> Result<Option<Outcome>> {
    widen(shared, number.saturating_add(1));
    let mut state = shared.lock();
    loop {
        if let Some(outcome) = state.outcomes.get(&number) {
            return Ok(Some(outcome.clone()));
        }
        if let Some(error) = state.failure.take() {
            return Err(error);
        }
        if state.stop || state.total.is_some_and(|total| number >= total) {
            return Ok(None);
        }
        state = Shared::wait(&shared.done, state);
    }
}

#[cfg(test)]
#[path = "loader_tests.rs"]
mod tests;
