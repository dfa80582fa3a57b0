//! Evaluating the student while it trains.

use super::checkpoint::Position;
use crate::eval::{self, EvalSet, Evaluator, Loading, Model, Neighbours, Outcome, Protocols};
use crate::settings::config::Config;
use crate::settings::error::Result;
use crate::train::step::Trainer;
use serde_json::{Map, Value, json};

/// What a run evaluates on, and when.
pub(crate) struct Evaluations {
    sets: Vec<EvalSet>,
    /// Whether flags named the sets; without them, only `--eval-every` asks for evaluations.
    named: bool,
    zeroshot_frequency: u32,
    val_frequency: u32,
    loading: Loading,
    /// The step of the last one, or that the run began at.
    done: u64,
    /// What that found, if it took all sets.
    last: Vec<Outcome>,
}

/// What an evaluation found: a line of results.jsonl, and the same in words.
pub(crate) struct Found {
    pub line: Map<String, Value>,
    pub words: Vec<String>,
}

/// The sets that the flags name, or the demonstration's.
fn sets(config: &Config) -> Result<Vec<EvalSet>> {
    match config.eval.is_empty() {
        true => Ok(eval::demo_sets(Protocols::First)?),
        false => Ok(config.eval.open(&config.pairs, &config.pictures)?),
    }
}

fn loading(config: &Config) -> Loading {
    let usual = Loading::default();
    Loading {
        batch_size: config.batch_size.min(usual.batch_size),
        workers: config.workers,
        ..usual
    }
}

/// What `model` makes of the sets of `config`, or of the demonstration's if it names none.
pub(crate) fn outcomes(config: &Config, model: Model) -> Result<Vec<Outcome>> {
    let mut evaluator = Evaluator::new(model, loading(config));
    let sets = sets(config)?;
    sets.iter().map(|set| Ok(evaluator.run(set)?)).collect()
}

impl Evaluations {
    /// Opens the sets, before the first step: a wrong path must not cost any training.
    pub fn open(config: &Config, position: Position) -> Result<Self> {
        let named = !config.eval.is_empty();
        let sets = match named || config.eval_every.is_some() {
            true => sets(config)?,
            false => Vec::new(),
        };
        Ok(Self {
            sets,
            named,
            zeroshot_frequency: config.zeroshot_frequency,
            val_frequency: config.val_frequency,
            loading: loading(config),
            done: position.step,
            last: Vec::new(),
        })
    }

    /// What all sets gave at `step`, if that was the last evaluation.
    pub fn at(self, step: u64) -> Option<Vec<Outcome>> {
        (self.done == step && !self.last.is_empty()).then_some(self.last)
    }

    /// The nearest neighbours of a few images, drawn by `seed` from the first set, under the teacher, if
    /// there is one, and the student. `None` without a set.
    pub fn neighbours(&self, trainer: &Trainer, seed: u64) -> Result<Option<Neighbours>> {
        let Some(set) = self.sets.first() else {
            return Ok(None);
        };
        let mut models = Vec::new();
        if let Some(teacher) = trainer.teacher() {
            let teacher = Model {
                backend: trainer.backend(),
                clip: teacher.clip(),
                parameters: teacher.parameters(),
            };
            models.push(("teacher", teacher));
        }
        models.push(("student", trainer.model()));
        Ok(Some(eval::neighbours(set, &models, &self.loading, seed)?))
    }

    /// What `--zeroshot-frequency` and `--val-frequency` ask for after an epoch, or when the run is
    /// `over`, unless this step has had its evaluation.
    pub fn after_epoch(
        &mut self,
        trainer: &Trainer,
        position: Position,
        over: bool,
    ) -> Result<Option<Found>> {
        if !self.named || self.done == position.step {
            return Ok(None);
        }
        let due = |every: u32| every > 0 && (over || position.epoch.is_multiple_of(every));
        let (zero_shot, retrieval) = (due(self.zeroshot_frequency), due(self.val_frequency));
        self.run(trainer, position, |set| match set.classes {
            Some(_) => zero_shot,
            None => retrieval,
        })
    }

    /// All sets, as `--eval-every` asks.
    pub fn after_step(&mut self, trainer: &Trainer, position: Position) -> Result<Option<Found>> {
        self.run(trainer, position, |_| true)
    }

    fn run(
        &mut self,
        trainer: &Trainer,
        position: Position,
        due: impl Fn(&EvalSet) -> bool,
    ) -> Result<Option<Found>> {
        self.done = position.step;
        self.last.clear();
        let sets: Vec<&EvalSet> = self.sets.iter().filter(|s| due(s)).collect();
        if sets.is_empty() {
            return Ok(None);
        }
        let mut evaluator = Evaluator::new(trainer.model(), self.loading.clone());
        let mut line = Map::from_iter([
            ("step".to_string(), json!(position.step)),
            ("epoch".to_string(), json!(position.epoch)),
        ]);
        let mut words = Vec::new();
        let mut outcomes = Vec::new();
        for set in sets {
            let outcome = evaluator.run(set)?;
            for (name, value) in eval::report::metrics(&outcome) {
                // The screen has no room for all of them.
                if ["top1", "top5", "R@1"]
                    .iter()
                    .any(|end| name.ends_with(end))
                {
                    words.push(format!("{name} {:.1} %", 100.0 * value));
                }
                line.insert(name, json!(value));
            }
            if outcome.skips.total() > 0 {
                words.push(format!("{} skipped: {}", outcome.name, outcome.skips));
            }
            outcomes.push(outcome);
        }
        if outcomes.len() == self.sets.len() {
            self.last = outcomes;
        }
        Ok(Some(Found { line, words }))
    }
}
