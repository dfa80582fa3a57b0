//! The loop: epochs, steps, logs, checkpoints, and going on from one.

use super::checkpoint::{self, Position, TrainState};
use super::config::{Call, Config};
use super::error::{Error, Result, failed, file, input, usage};
use super::flags;
use super::interrupt;
use super::log::{JsonLines, Progress};
use super::source::{DEMO, Source, data_error, tokenizer};
use super::step::{Recipe, StepBatch, StepReport, Trainer};
use super::teacher::Teacher;
use crate::backend::{Backend, IntraWeights, cpu::Cpu};
use crate::data::{Batch, Skips, Tokenizer};
use crate::loss::{Intra, IntraScale, Method, Modality, Objective};
use crate::model::{Clip, ClipConfig};
use crate::optim::{AdamWConfig, Schedule, ScheduleKind};
use crate::{data, io};
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};
use std::sync::Arc;
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
}

/// The device that the flags ask for, with one line that says which it is and why.
pub fn device(config: &Config) -> Result<(Arc<dyn Backend>, String)> {
    if let Some(threads) = config.threads {
        // Fails where a pool is there already; then that one stays, with the same results.
        let _ = rayon::ThreadPoolBuilder::new().num_threads(threads).build_global();
    }
    let backend: Arc<dyn Backend> = Arc::new(Cpu::new());
    let why = match config.backend {
        flags::Device::Auto => " (auto: the only device of this build)",
        _ => "",
    };
    let line = format!("{}{why}", backend.describe());
    Ok((backend, line))
}

/// The losses that the flags ask for.
pub fn objective(config: &Config) -> Objective {
    let method = match config.method {
        flags::Method::Clip => Method::Clip,
        flags::Method::ClipKd => Method::ClipKd,
        flags::Method::IntraKd => Method::IntraKd,
    };
    let mut objective = Objective::from(method);
    let weights = &mut objective.weights;
    for (weight, flag) in [
        (&mut weights.clip, config.alpha_clip),
        (&mut weights.crd, config.alpha_crd),
        (&mut weights.fd, config.alpha_fd),
        (&mut weights.icl, config.alpha_icl),
        (&mut weights.intra, config.alpha_intra),
    ] {
        if let Some(x) = flag {
            *weight = x as f32;
        }
    }
    objective.intra = Intra {
        weights: match config.intra_weights {
            flags::IntraWeights::Divergence => IntraWeights::Divergence,
            flags::IntraWeights::Stable => IntraWeights::Stable,
            flags::IntraWeights::Detached => IntraWeights::Detached,
            flags::IntraWeights::Uniform => IntraWeights::Uniform,
            flags::IntraWeights::Clip => IntraWeights::Clip,
        },
        modality: match config.intra_modality {
            flags::IntraModality::Both => Modality::Both,
            flags::IntraModality::Image => Modality::Image,
            flags::IntraModality::Text => Modality::Text,
        },
    };
    objective.intra_scale = match config.intra_scale {
        flags::IntraScale::Shared => IntraScale::Shared,
        flags::IntraScale::Detached => IntraScale::Detached,
        flags::IntraScale::Fixed(x) => IntraScale::Fixed(x as f32),
    };
    objective
}

/// Optimiser and schedule over `total` steps.
fn recipe(config: &Config, total: u64) -> Recipe {
    Recipe {
        adamw: AdamWConfig {
            beta1: config.beta1 as f32,
            beta2: config.beta2 as f32,
            eps: config.eps as f32,
            weight_decay: config.wd as f32,
        },
        schedule: Schedule {
            kind: match config.lr_scheduler {
                flags::LrScheduler::Cosine => ScheduleKind::Cosine,
                flags::LrScheduler::Const => ScheduleKind::Const,
            },
            base: config.lr,
            warmup: config.warmup,
            total,
        },
        max_norm: config.grad_clip_norm,
    }
}

/// The teacher that the flags name, if the losses need one.
pub fn teacher(config: &Config, backend: &dyn Backend) -> Result<Option<Teacher>> {
    match (&config.teacher, &config.teacher_checkpoint) {
        (Some(name), _) if name == DEMO => Ok(Some(super::demo::teacher(backend)?)),
        (Some(name), Some(path)) => Ok(Some(Teacher::load(name, path, backend)?)),
        _ => Ok(None),
    }
}

/// The student's model: a name, a file, or `demo`.
pub fn student(config: &Config) -> Result<Clip> {
    if config.model == DEMO {
        return Ok(Clip::new(super::demo::student()?));
    }
    Ok(Clip::new(ClipConfig::load(&config.model).map_err(input)?))
}

/// Trains as `config` says; `label` stands before the progress.
///
/// # Errors
/// [`Error::Usage`] for inputs that cannot be used, [`Error::Failed`] for a run that broke off,
/// [`Error::Interrupted`] after Ctrl-C, when a checkpoint has been written.
pub fn train(config: &Config, call: &Call, label: &str) -> Result<Summary> {
    let (mut config, folder, from) = place(config, call)?;
    let (backend, line) = device(&config)?;
    eprintln!("{label}: {} on {line}", config.model);
    let clip = student(&config)?;
    let teacher = teacher(&config, backend.as_ref())?;
    if config.train_data.as_deref() != Some(DEMO)
        && config.steps.is_none()
        && config.train_num_samples.is_none()
    {
        eprintln!("{label}: counting the pairs; --train-num-samples N would spare this");
    }
    let source = Source::open(&config, clip.config(), config.steps.is_none())?;
    let total = total_steps(&config, &source)?;
    let mut position = Position::default();
    let mut state = None;
    let parameters = match (&from, &config.init) {
        (Some(dir), _) => {
            let saved = TrainState::load(dir)?;
            compare(&config, &saved, dir)?;
            position = saved.position;
            eprintln!("{label}: going on from {} (step {})", dir.display(), position.step);
            state = Some(saved.tensors);
            io::load_clip(&dir.join(checkpoint::MODEL), &clip, backend.as_ref()).map_err(input)?
        }
        (None, Some(path)) => io::load_clip(path, &clip, backend.as_ref()).map_err(input)?,
        (None, None) => clip.init(backend.as_ref(), config.seed).map_err(failed)?,
    };
    let (objective, recipe) = (objective(&config), recipe(&config, total));
    let seed = config.seed;
    let mut trainer = Trainer::new(backend, clip, parameters, objective, teacher, recipe, seed)?;
    if let Some(tensors) = state {
        trainer.restore(position.step, tensors)?;
    }
    let name = folder.file_name().map(|n| n.to_string_lossy().into_owned());
    config.name = name.or(config.name);
    Run::new(config, label, folder, source, trainer, (position, from), total)?.go()
}

/// The run's folder, and the checkpoint to go on from.
fn place(config: &Config, call: &Call) -> Result<(Config, PathBuf, Option<PathBuf>)> {
    let mut config = config.clone();
    let given = match call.resume.as_deref() {
        Some("latest") if config.name.is_none() => {
            return usage("--resume latest needs the run's --name (or its config.toml as --config)");
        }
        Some("latest") | None => None,
        Some(path) => checkpoint::find(path, Path::new(""))?,
    };
    // A checkpoint given by its path belongs to the run LOGS/NAME/checkpoints/step_N.
    let run = given.as_deref().and_then(|dir| {
        let dir = dir.canonicalize().ok()?;
        let checkpoints = dir.parent().filter(|p| p.ends_with("checkpoints"))?;
        Some(checkpoints.parent()?.to_path_buf())
    });
    if let (None, Some(run)) = (&config.name, run) {
        config.name = run.file_name().map(|n| n.to_string_lossy().into_owned());
        config.logs = run.parent().map(Path::to_path_buf).unwrap_or_default();
    }
    let folder = config.logs.join(config.run_name());
    let checkpoints = folder.join("checkpoints");
    let from = match call.resume.as_deref() {
        None if folder.join("config.toml").exists() => {
            return usage(format!(
                "{} exists already: take another --name, or go on with --resume latest",
                folder.display()
            ));
        }
        None => None,
        Some("latest") => checkpoint::find("latest", &checkpoints)?,
        Some(_) => given,
    };
    Ok((config, folder, from))
}

/// Steps of the whole run.
fn total_steps(config: &Config, source: &Source) -> Result<u64> {
    match (config.steps, source.per_epoch()) {
        (Some(steps), _) => Ok(steps),
        (None, Some(n)) => Ok(n * u64::from(config.epochs)),
        (None, None) => usage("the length of an epoch is unknown: say --train-num-samples"),
    }
}

/// Keys that say nothing about the result.
const NEUTRAL: [&str; 11] = [
    "logs", "name", "log-every", "save-frequency", "save-every-steps", "eval-every", "threads",
    "workers", "backend", "init", "teacher-checkpoint",
];
/// Keys that say what batch N of an epoch is.
const DATA: [&str; 7] = [
    "train-data", "train-num-samples", "batch-size", "seed", "shuffle-buffer", "data-root",
    "train-data-upsampling-factors",
];

/// Says what has changed since the checkpoint was written.
///
/// # Errors
/// If the data changed in the middle of an epoch: the position would point elsewhere.
fn compare(config: &Config, saved: &TrainState, dir: &Path) -> Result<()> {
    let parse = |text: &str| text.parse::<toml::Table>().unwrap_or_default();
    let (old, new) = (parse(&saved.config), parse(&config.to_toml()?));
    let show = |v: Option<&toml::Value>| v.map_or("unset".into(), ToString::to_string);
    let changed = |key: &str| {
        let (a, b) = (old.get(key), new.get(key));
        (a != b).then(|| format!("--{key} was {}, is {}", show(a), show(b)))
    };
    if saved.position.batch != 0 {
        let moved: Vec<String> = DATA.iter().filter_map(|key| changed(key)).collect();
        if !moved.is_empty() {
            return usage(format!(
                "{} lies within an epoch, whose rest other data cannot give: {}",
                dir.display(),
                moved.join(", ")
            ));
        }
    }
    let keys: std::collections::BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    for key in keys.into_iter().filter(|k| !NEUTRAL.contains(&k.as_str())) {
        if let Some(line) = changed(key) {
            eprintln!("changed since the checkpoint: {line}");
        }
    }
    Ok(())
}

/// A run under way.
struct Run {
    config: Config,
    label: String,
    folder: PathBuf,
    source: Source,
    trainer: Trainer,
    teacher_tokens: Option<Tokenizer>,
    position: Position,
    total: u64,
    metrics: JsonLines,
    results: JsonLines,
    progress: Progress,
    saved: Option<(Position, PathBuf)>,
    skips: Skips,
    window: Window,
}

/// What is counted between two logged steps.
struct Window {
    since: Instant,
    samples: usize,
    waited: f64,
}

impl Window {
    fn new() -> Self {
        Self { since: Instant::now(), samples: 0, waited: 0.0 }
    }
}

impl Run {
    fn new(
        config: Config,
        label: &str,
        folder: PathBuf,
        source: Source,
        trainer: Trainer,
        (position, from): (Position, Option<PathBuf>),
        total: u64,
    ) -> Result<Self> {
        std::fs::create_dir_all(&folder).map_err(|e| file("create", &folder, &e))?;
        checkpoint::sweep(&folder.join("checkpoints"))?;
        let path = folder.join("config.toml");
        std::fs::write(&path, config.to_toml()?).map_err(|e| file("write", &path, &e))?;
        let metrics = JsonLines::open(&folder.join("metrics.jsonl"), position.step)?;
        let results = JsonLines::open(&folder.join("results.jsonl"), position.step)?;
        let teacher_tokens = match trainer.teacher().map(|t| &t.clip().config().text_cfg) {
            Some(text) => {
                let own = &trainer.clip().config().text_cfg;
                let same = (text.vocab_size, text.context_length)
                    == (own.vocab_size, own.context_length);
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
            trainer,
            teacher_tokens,
            position,
            total,
            metrics,
            results,
            progress,
            saved: from.map(|path| (position, path)),
            skips: Skips::default(),
            window: Window::new(),
        })
    }

    fn go(mut self) -> Result<Summary> {
        let counted = self.source.counted();
        if counted.total() > 0 {
            self.progress.say(&format!("{}: unusable: {counted}", self.label));
        }
        let outcome = self.epochs();
        self.progress.finish();
        outcome?;
        if self.skips.total() > 0 {
            eprintln!("{}: skipped: {}", self.label, self.skips);
        }
        let checkpoint = self.save()?;
        Ok(Summary {
            steps: self.position.step,
            folder: self.folder,
            checkpoint,
            trainer: self.trainer,
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
                return usage("the data hold no full batch: take a smaller --batch-size");
            }
            self.position = Position { epoch: self.position.epoch + 1, batch: 0, ..self.position };
            if frequency > 0 && self.position.epoch.is_multiple_of(frequency) {
                self.save()?;
            }
        }
        Ok(())
    }

    /// Runs to the end of the epoch, or of the run: then the answer is false.
    fn epoch(&mut self) -> Result<bool> {
        let mut loader = self.source.epoch(self.position.epoch, self.position.batch)?;
        let mut waited = 0.0;
        let ended = loop {
            if self.finished() {
                break false;
            }
            if self.source.per_epoch().is_some_and(|n| self.position.batch >= n) {
                break true;
            }
            let Some(batch) = loader.next() else { break true };
            let batch = batch.map_err(data_error)?;
            let now = loader.stats().waited;
            self.window.waited += now - waited;
            waited = now;
            self.step(&batch)?;
        };
        self.skips.merge(&loader.stats().skips);
        Ok(ended)
    }

    fn step(&mut self, batch: &Batch) -> Result<()> {
        let other = self
            .teacher_tokens
            .as_ref()
            .map(|t| batch.captions.iter().map(|c| t(c)).collect::<Vec<_>>());
        let input = StepBatch {
            images: &batch.images,
            texts: &batch.texts,
            teacher_texts: other.as_deref().unwrap_or(&batch.texts),
        };
        let report = self.trainer.step(input)?;
        self.position.step += 1;
        self.position.batch += 1;
        self.window.samples += batch.len();
        self.log(&report)?;
        let step = self.position.step;
        let every = |n: Option<u64>| n.is_some_and(|n| step.is_multiple_of(n));
        if every(self.config.save_every_steps) {
            self.save()?;
        }
        if self.config.eval_every.is_some() && (every(self.config.eval_every) || step == self.total) {
            self.evaluate()?;
        }
        if interrupt::asked() && !self.finished() {
            let path = self.save()?;
            return Err(Error::Interrupted(format!(
                "stopped after step {step}, saved as {}; go on with: train --config {} --resume latest",
                path.display(),
                self.folder.join("config.toml").display()
            )));
        }
        Ok(())
    }

    fn log(&mut self, report: &StepReport) -> Result<()> {
        let step = self.position.step;
        let logged = step == 1 || step == self.total || step.is_multiple_of(self.config.log_every);
        let seconds = self.window.since.elapsed().as_secs_f64().max(1e-9);
        let rate = self.window.samples as f64 / seconds;
        let terms: Vec<String> =
            report.terms.iter().map(|(name, x)| format!("{name} {x:.4}")).collect();
        let message = format!(
            "loss {:.4} ({}) scale {:.2} lr {:.2e} {rate:.0} samples/s",
            report.total,
            terms.join(" "),
            report.scale,
            report.lr
        );
        self.progress.step(step, &message, logged);
        if !logged {
            return Ok(());
        }
        let mut line = Map::new();
        let mut put = |key: &str, value: Value| line.insert(key.to_string(), value);
        put("step", json!(step));
        put("epoch", json!(self.position.epoch));
        put("loss", json!(report.total));
        for (name, x) in &report.terms {
            put(&format!("loss_{name}"), json!(x));
        }
        put("lr", json!(report.lr));
        put("scale", json!(report.scale));
        put("grad_norm", json!(report.grad_norm));
        put("samples_per_s", json!((rate * 10.0).round() / 10.0));
        put("data_wait", json!((self.window.waited / seconds * 1e4).round() / 1e4));
        self.window = Window::new();
        self.metrics.write(line)
    }

    /// Writes a checkpoint of this step, unless that is done.
    fn save(&mut self) -> Result<PathBuf> {
        if let Some((position, path)) = &self.saved
            && *position == self.position
        {
            return Ok(path.clone());
        }
        let state = TrainState {
            position: self.position,
            config: self.config.to_toml()?,
            tensors: self.trainer.state()?,
        };
        let trainer = &self.trainer;
        let path = checkpoint::save(
            &self.folder.join("checkpoints"),
            &state,
            &description(trainer.clip())?,
            |path| {
                io::save_clip(path, trainer.clip(), trainer.parameters(), trainer.backend().as_ref(), false)
                    .map_err(|e| match e {
                        io::Error::Io { path, source } => file("write", &path, &source),
                        e => failed(e),
                    })
            },
        )?;
        self.saved = Some((self.position, path.clone()));
        Ok(path)
    }

    fn evaluate(&mut self) -> Result<()> {
        let results = super::demo::evaluate(&self.trainer)?;
        let mut line = Map::from_iter([
            ("step".to_string(), json!(self.position.step)),
            ("epoch".to_string(), json!(self.position.epoch)),
        ]);
        let mut words = Vec::new();
        for (name, value) in results {
            words.push(format!("{name} {:.1} %", 100.0 * value));
            line.insert(name, json!(value));
        }
        self.progress.say(&format!(
            "{} step {}: {}",
            self.label,
            self.position.step,
            words.join(", ")
        ));
        self.results.write(line)
    }
}

/// open_clip's `open_clip_config.json`.
fn description(clip: &Clip) -> Result<Value> {
    let model = serde_json::to_value(clip.config()).map_err(failed)?;
    Ok(json!({
        "model_cfg": model,
        "preprocess_cfg": {
            "mean": data::transform::OPENAI_MEAN,
            "std": data::transform::OPENAI_STD,
            "interpolation": "bicubic",
            "resize_mode": "shortest",
        },
    }))
}
