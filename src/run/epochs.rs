//! The loop: epochs, steps, logs, evaluations, checkpoints.

use super::checkpoint::{self, Position, Snapshot};
use super::data_account::DataAccount;
use super::evaluation::{Evaluations, Found};
use super::interrupt;
use super::log::{JsonLines, Progress};
use super::log_line::{self, Window};
use super::source::{Source, tokenizer};
use super::tensorboard::{EventWriter, Kind};
use crate::data::{Batch, Loader, Tokenizer};
use crate::eval::Outcome;
use crate::io;
use crate::notices::{notice, warning};
use crate::report::{self, Pictures};
use crate::settings::config::Config;
use crate::settings::error::{Error, Result, file, unwritten, usage};
use crate::train::batch::StepBatch;
use crate::train::pending_step::PendingStep;
use crate::train::step::Trainer;
use std::path::PathBuf;
use std::time::Instant;

/// How a run ended.
#[derive(Debug)]
pub struct Summary {
    /// Steps done.
    pub steps: u64,
    /// The run's folder.
    pub folder: PathBuf,
    /// The last checkpoint.
    pub checkpoint: PathBuf,
    /// The trained student.
    pub trainer: Trainer,
    /// What it makes of all the run's sets, if its last step was evaluated.
    pub outcomes: Option<Vec<Outcome>>,
}

/// The next `parts` batches of `loader` as one; `None` if the epoch holds fewer.
fn joined(loader: &mut Loader, parts: u64) -> Result<Option<Batch>> {
    let mut all: Option<Batch> = None;
    for _ in 0..parts {
        let Some(batch) = loader.next() else {
            return Ok(None);
        };
        let batch = batch?;
        match &mut all {
            Some(all) => all.append(batch),
            None => all = Some(batch),
        }
    }
    Ok(all)
}

/// A run between its first and last step.
pub(super) struct Run {
    config: Config,
    label: String,
    folder: PathBuf,
    source: Source,
    evaluations: Evaluations,
    trainer: Trainer,
    teacher_tokens: Option<Tokenizer>,
    position: Position,
    total: u64,
    metrics: JsonLines,
    results: JsonLines,
    board: EventWriter,
    /// While it goes.
    progress: Option<Progress>,
    saved: Option<(Position, PathBuf)>,
    data: DataAccount,
    window: Window,
    /// The last step, until its numbers are here.
    last: Option<LastStep>,
}

/// An unfinished step.
struct LastStep {
    /// After it.
    position: Position,
    pairs: usize,
    pending: PendingStep,
}

impl Run {
    pub(super) fn new(
        config: Config,
        label: &str,
        folder: PathBuf,
        source: Source,
        trainer: Trainer,
        (position, from): (Position, Option<PathBuf>),
        total: u64,
    ) -> Result<Self> {
        let evaluations = Evaluations::open(&config, position)?;
        std::fs::create_dir_all(&folder).map_err(|e| file("create", &folder, &e))?;
        checkpoint::sweep(&folder.join("checkpoints"))?;
        let path = folder.join("config.toml");
        std::fs::write(&path, config.to_toml()?).map_err(|e| file("write", &path, &e))?;
        let metrics = JsonLines::open(&folder.join("metrics.jsonl"), position.step)?;
        let results = JsonLines::open(&folder.join("results.jsonl"), position.step)?;
        let board = EventWriter::create(&folder.join("tensorboard"), position.step)?;
        let teacher_tokens = match trainer.teacher().map(|t| &t.clip().config().text_cfg) {
            Some(text) => {
                let own = &trainer.clip().config().text_cfg;
                let same =
                    (text.vocab_size, text.context_length) == (own.vocab_size, own.context_length);
                let other = trainer.teacher().map(|t| t.clip().config());
                match other.filter(|_| !same) {
                    Some(config) => Some(tokenizer(config)?),
                    None => None,
                }
            }
            None => None,
        };
        let progress = Progress::new(label, position.step, total);
        Ok(Self {
            config,
            label: label.to_string(),
            folder,
            source,
            evaluations,
            trainer,
            teacher_tokens,
            position,
            total,
            metrics,
            results,
            board,
            progress: Some(progress),
            saved: from.map(|path| (position, path)),
            data: DataAccount::new(label),
            window: Window::new(),
            last: None,
        })
    }

    /// Trains to the end.
    pub(super) fn go(mut self) -> Result<Summary> {
        let counted = self.source.counted().clone();
        if !counted.skips.is_empty() {
            self.data.tell(&counted.skips);
        }
        let outcome = self.epochs();
        let outcome = outcome.and(self.settle());
        self.progress = None;
        if outcome.is_err() {
            // A NaN loss is best understood from its curves.
            self.report();
        }
        outcome?;
        self.data.sum_up();
        if let Some(line) = self.trainer.backend().account() {
            notice(format_args!("{}: {line}", self.label));
        }
        let checkpoint = self.save()?;
        let found = self
            .evaluations
            .after_epoch(&self.trainer, self.position, true);
        self.tell(found?)?;
        self.pictures();
        self.report();
        Ok(Summary {
            steps: self.position.step,
            folder: self.folder,
            checkpoint,
            trainer: self.trainer,
            outcomes: self.evaluations.at(self.position.step),
        })
    }

    fn finished(&self) -> bool {
        match self.config.steps {
            Some(steps) => self.position.step >= steps,
            None => self.position.epoch >= self.config.epochs,
        }
    }

    fn epochs(&mut self) -> Result<()> {
        let frequency = match (self.config.save_frequency, self.config.steps) {
            (Some(n), _) => n,
            (None, Some(_)) => 0,
            (None, None) => 1,
        };
        while !self.finished() {
            let whole = self.position.batch == 0;
            let ended = self.epoch()?;
            if !ended {
                break;
            }
            if whole && self.position.batch == 0 {
                return usage(
                    "the data have less than a step: take a smaller --batch-size or --accum-freq",
                );
            }
            self.position = Position {
                epoch: self.position.epoch + 1,
                batch: 0,
                ..self.position
            };
            if frequency > 0 && self.position.epoch.is_multiple_of(frequency) {
                self.save()?;
            }
            if !self.finished() {
                self.settle()?;
                let aside = Instant::now();
                let (trainer, position) = (&self.trainer, self.position);
                let found = self.evaluations.after_epoch(trainer, position, false);
                self.tell_or_warn(found)?;
                self.window.since += aside.elapsed();
            }
        }
        Ok(())
    }

    /// Runs to the end of the epoch, or of the run: then the answer is false.
    fn epoch(&mut self) -> Result<bool> {
        let first = self.position.batch;
        let mut loader = self.source.epoch(
            self.position.epoch,
            self.position.start,
            self.position.batch,
        )?;
        let outcome = self.steps(&mut loader);
        let stats = loader.stats();
        self.data.tell(&stats.skips);
        self.data.add(&stats.skips);
        if self.position.batch > first {
            self.settle()?;
            self.metrics
                .write(DataAccount::line(self.position, first, &stats))?;
        }
        let ended = outcome?;
        self.source.check(&stats, ended)?;
        if ended {
            // Where the next one begins.
            self.position.start = self.source.after(&loader, self.position.batch);
        }
        Ok(ended)
    }

    /// The steps of an epoch, to its end or that of the run.
    fn steps(&mut self, loader: &mut Loader) -> Result<bool> {
        let mut waited = 0.0;
        let ended = loop {
            if self.finished() {
                break false;
            }
            let parts = self.config.accum_freq as u64;
            if self
                .source
                .per_epoch()
                .is_some_and(|n| self.position.batch + parts > n)
            {
                break true;
            }
            let Some(batch) = joined(loader, parts)? else {
                break true;
            };
            let stats = loader.stats();
            self.window.waited += stats.waited - waited;
            waited = stats.waited;
            self.data.tell(&stats.skips);
            self.source.check(&stats, false)?;
            self.step(&batch)?;
        };
        Ok(ended)
    }

    fn step(&mut self, batch: &Batch) -> Result<()> {
        let other = self
            .teacher_tokens
            .as_ref()
            .map(|t| batch.captions.iter().map(|c| t(c)).collect::<Vec<_>>());
        let input = StepBatch {
            images: &batch.images,
            normalisation: batch.normalisation,
            texts: &batch.texts,
            teacher_texts: other.as_deref().unwrap_or(&batch.texts),
            epoch: self.position.epoch,
            first: self.position.batch * self.config.batch_size as u64,
        };
        let pending = match self.trainer.step(input) {
            Ok(pending) => pending,
            Err(e) => {
                // What the last step has to tell comes first.
                self.settle()?;
                return Err(e);
            }
        };
        self.position.step += 1;
        self.position.batch += self.config.accum_freq as u64;
        let over = pending.is_over();
        let last = LastStep {
            position: self.position,
            pairs: batch.len(),
            pending,
        };
        // The device has this step to do while the host reads what the last one told.
        if let Some(last) = self.last.replace(last) {
            self.arrived(last)?;
        }
        let step = self.position.step;
        let every = |n: Option<u64>| n.is_some_and(|n| step.is_multiple_of(n));
        let saves = every(self.config.save_every_steps);
        let evaluates = self.config.eval_every.is_some()
            && (every(self.config.eval_every) || step == self.total);
        if over || saves || evaluates {
            self.settle()?;
        }
        let aside = Instant::now();
        if saves {
            self.save()?;
        }
        if evaluates {
            let found = self.evaluations.after_step(&self.trainer, self.position);
            self.tell_or_warn(found)?;
        }
        self.window.since += aside.elapsed();
        if interrupt::asked() && !self.finished() {
            let path = self.save()?;
            return Err(Error::Interrupted(format!(
                "stopped after step {step}, saved as {}; continue with: train --config {} --resume latest",
                path.display(),
                self.folder.join("config.toml").display()
            )));
        }
        Ok(())
    }

    /// Waits for the numbers of all steps so far.
    fn settle(&mut self) -> Result<()> {
        match self.last.take() {
            Some(last) => self.arrived(last),
            None => Ok(()),
        }
    }

    /// Logs a step whose numbers are here, or will be.
    fn arrived(&mut self, last: LastStep) -> Result<()> {
        let report = last.pending.wait()?;
        self.window.samples += last.pairs;
        let step = last.position.step;
        let logged = step == 1 || step == self.total || step.is_multiple_of(self.config.log_every);
        let seconds = self.window.since.elapsed().as_secs_f64().max(1e-9);
        let rate = self.window.samples as f64 / seconds;
        if let Some(progress) = &self.progress {
            progress.step(step, &log_line::words(&report, rate), logged);
        }
        if !logged {
            return Ok(());
        }
        let waited = self.window.waited / seconds;
        let line = log_line::line(last.position, &report, rate, waited);
        self.window = Window::new();
        self.board.scalars(step, Kind::Train, &line)?;
        self.metrics.write(line)
    }

    /// Writes a checkpoint of this step, unless that is done.
    fn save(&mut self) -> Result<PathBuf> {
        self.settle()?;
        if let Some((position, path)) = &self.saved
            && *position == self.position
        {
            return Ok(path.clone());
        }
        let trainer = &self.trainer;
        let snapshot = Snapshot {
            position: self.position,
            config: self.config.to_toml()?,
            tensors: trainer.state(),
        };
        let path = checkpoint::save(
            &self.folder.join("checkpoints"),
            snapshot,
            &checkpoint::description(trainer.clip())?,
            |path| {
                io::save_clip(
                    path,
                    trainer.clip(),
                    trainer.parameters(),
                    trainer.backend().as_ref(),
                    false,
                )
                .map_err(unwritten)
            },
        )?;
        self.saved = Some((self.position, path.clone()));
        self.report();
        Ok(path)
    }

    /// Writes report.html. A failure does not end the run: `--report` makes it again.
    fn report(&self) {
        if let Err(e) = report::write(&self.folder, &[]) {
            warning(format_args!("{}: no report: {e}", self.label));
        }
    }

    /// Puts the nearest neighbours of a few held-out images into the report.
    fn pictures(&self) {
        let made = || -> Result<()> {
            let seed = self.config.seed;
            let Some(neighbours) = self.evaluations.neighbours(&self.trainer, seed)? else {
                return Ok(());
            };
            let step = self.position.step;
            let mut extras = report::Extras::load(&self.folder)?;
            extras.pictures = Some(Pictures { step, neighbours });
            extras.save(&self.folder)
        };
        if let Err(e) = made() {
            warning(format_args!(
                "{}: no pictures in the report: {e}",
                self.label
            ));
        }
    }

    /// Says and writes down what an evaluation found.
    fn tell(&mut self, found: Option<Found>) -> Result<()> {
        let Some(Found { line, words }) = found else {
            return Ok(());
        };
        notice(format_args!(
            "{} step {}: {}",
            self.label,
            self.position.step,
            words.join(", ")
        ));
        let step = self.position.step;
        self.board.scalars(step, Kind::Evaluation, &line)?;
        self.results.write(line)
    }

    /// As [`Self::tell`]; an evaluation that fails before the last costs no training.
    fn tell_or_warn(&mut self, found: Result<Option<Found>>) -> Result<()> {
        match found {
            Ok(found) => self.tell(found),
            Err(e) => {
                let step = self.position.step;
                warning(format_args!(
                    "{} step {step}: not evaluated: {e}",
                    self.label
                ));
                Ok(())
            }
        }
    }
}
