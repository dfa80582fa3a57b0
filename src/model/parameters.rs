//! Parameters by name, in a fixed order, and the running statistics beside them.
//!
//! Running statistics are state of a model but no parameters: they have no gradient and the optimiser
//! does not know them. A forward pass never writes them. It reads them from its [`Bound`]
//! ([`Parameters::bind`]: evaluation), or normalises by the batch and notes there what it saw
//! ([`Parameters::bind_training`]); the trainer then folds the notes in, once a step
//! ([`Parameters::update_running`]). So a part that is computed again, or a pass whose gradient is
//! never taken, cannot count twice, and evaluating a student changes nothing.

use super::{Error, Result};
use crate::autodiff::{Tape, Var};
use crate::backend::{Backend, Moments};
use crate::ops::Statistics;
use crate::tensor::Tensor;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

/// How a parameter begins.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Spec {
    /// All elements the same.
    Constant(f32),
    /// Normal with mean 0 and this standard deviation.
    Normal(f32),
    /// Uniform in ± this bound.
    Uniform(f32),
}

/// A named tensor of a model.
#[derive(Clone, Debug)]
pub struct Parameter {
    /// open_clip's name.
    pub name: String,
    /// The value.
    pub tensor: Tensor,
    /// Whether weight decay applies: not to biases, norms, scales, or anything of fewer than two
    /// dimensions.
    pub decay: bool,
    /// Weight decay of its own instead of the run's.
    pub own_decay: Option<f32>,
}

/// The running statistics of a BatchNorm.
#[derive(Clone, Debug)]
pub struct BatchNorm {
    /// `running_mean` and `running_var`, exponential means over training batches; the variance here is
    /// the unbiased one, as in PyTorch.
    pub running: Moments,
    /// `num_batches_tracked`: updates so far.
    pub batches: i64,
}

impl BatchNorm {
    /// Added to the variance (PyTorch's default).
    pub const EPS: f32 = 1e-5;
    /// Weight of the newest batch in the running statistics (PyTorch's default).
    pub const MOMENTUM: f32 = 0.1;

    /// Mean 0, variance 1, nothing seen.
    ///
    /// # Errors
    /// If the device has no memory for them.
    pub fn new(backend: &dyn Backend, channels: usize) -> Result<Self> {
        let running = Moments {
            mean: backend.zeros(&[channels])?,
            variance: backend.upload(&[channels], &vec![1.0; channels])?,
        };
        Ok(Self {
            running,
            batches: 0,
        })
    }

    /// running ← (1 − momentum) running + momentum · batch, the batch's variance made unbiased. The values stay where
    /// they are in memory, so that a device can replay the step.
    fn update(&mut self, backend: &dyn Backend, seen: &Observed) -> Result<()> {
        let unbiased = (seen.count as f64 / (seen.count as f64 - 1.0)) as f32;
        let fold = |running: &mut Tensor, batch: &Tensor, factor: f32| -> Result<()> {
            let terms = [
                (&*running, -Self::MOMENTUM),
                (batch, Self::MOMENTUM * factor),
            ];
            let change = backend.weighted_sum(&terms)?;
            let mut sum = Some(std::mem::replace(running, change.clone()));
            let added = backend.accumulate(&mut sum, change);
            sum.into_iter().for_each(|sum| *running = sum);
            Ok(added?)
        };
        fold(&mut self.running.mean, &seen.moments.mean, 1.0)?;
        fold(&mut self.running.variance, &seen.moments.variance, unbiased)?;
        self.batches += 1;
        Ok(())
    }
}

/// What a training pass saw at a BatchNorm.
#[derive(Clone, Debug)]
pub struct Observed {
    /// The batch's moments.
    pub moments: Moments,
    /// Elements of each channel that they are over, at least 2.
    pub count: usize,
}

/// Notes of one training pass, by the BatchNorm's name.
pub type Observations = BTreeMap<String, Observed>;

/// The parameters of a model, in the order in which the model lists them.
#[derive(Clone, Debug, Default)]
pub struct Parameters {
    entries: Vec<Parameter>,
    index: HashMap<String, usize>,
    norms: BTreeMap<String, BatchNorm>,
}

impl Parameters {
    /// Appends a parameter; weight decay follows from its number of dimensions.
    pub fn push(&mut self, name: impl Into<String>, tensor: Tensor) {
        let name = name.into();
        let decay = tensor.shape().len() >= 2;
        self.index.insert(name.clone(), self.entries.len());
        self.entries.push(Parameter {
            name,
            tensor,
            decay,
            own_decay: None,
        });
    }

    /// All parameters in order.
    pub fn iter(&self) -> impl Iterator<Item = &Parameter> {
        self.entries.iter()
    }

    /// All parameters in order, for the optimiser.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Parameter> {
        self.entries.iter_mut()
    }

    /// Number of tensors.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether it is empty.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Number of elements of all tensors.
    pub fn elements(&self) -> usize {
        self.entries.iter().map(|p| p.tensor.len()).sum()
    }

    /// The parameter called `name`.
    pub fn get(&self, name: &str) -> Option<&Parameter> {
        Some(&self.entries[*self.index.get(name)?])
    }

    /// The parameter called `name`, for writing.
    pub fn get_mut(&mut self, name: &str) -> Option<&mut Parameter> {
        Some(&mut self.entries[*self.index.get(name)?])
    }

    /// Adds, or replaces, the running statistics of the BatchNorm called `name`.
    pub fn set_norm(&mut self, name: impl Into<String>, norm: BatchNorm) {
        self.norms.insert(name.into(), norm);
    }

    /// The running statistics of the BatchNorm called `name`.
    pub fn norm(&self, name: &str) -> Option<&BatchNorm> {
        self.norms.get(name)
    }

    /// The parameters as variables of `tape`, leaves on a recording tape and constants on a frozen one,
    /// for evaluation: BatchNorms normalise by their running statistics.
    pub fn bind(&self, tape: &Tape) -> Bound {
        let vars = self
            .entries
            .iter()
            .map(|p| (p.name.clone(), tape.leaf(p.tensor.clone())))
            .collect();
        let norms = self.norms.iter();
        let statistics = norms
            .map(|(name, norm)| (name.clone(), Statistics::Given(norm.running.clone())))
            .collect();
        Bound {
            vars: Arc::new(vars),
            statistics: Arc::new(statistics),
            observed: None,
        }
    }

    /// As [`Parameters::bind`] for one training pass: BatchNorms normalise by the batch and note its
    /// moments.
    pub fn bind_training(&self, tape: &Tape) -> Bound {
        Bound {
            observed: Some(Arc::default()),
            ..self.bind(tape)
        }
    }

    /// Folds what a training pass saw into the running statistics.
    ///
    /// # Errors
    /// If there is no BatchNorm of a name, or a kernel fails.
    pub fn update_running(&mut self, backend: &dyn Backend, seen: &Observations) -> Result<()> {
        for (name, seen) in seen {
            let norm = self.norms.get_mut(name);
            let norm = norm.ok_or_else(|| Error::MissingParameter(name.clone()))?;
            norm.update(backend, seen)?;
        }
        Ok(())
    }
}

/// Parameters bound to a tape for one pass. Cloning shares them, and the notes of the pass.
#[derive(Clone, Debug)]
pub struct Bound {
    vars: Arc<HashMap<String, Var>>,
    statistics: Arc<HashMap<String, Statistics>>,
    /// `None` in evaluation.
    observed: Option<Arc<Mutex<Observations>>>,
}

impl Bound {
    /// The variable called `name`.
    ///
    /// # Errors
    /// If no parameter has that name.
    pub fn var(&self, name: &str) -> Result<&Var> {
        self.vars
            .get(name)
            .ok_or_else(|| Error::MissingParameter(name.into()))
    }

    /// The same pass with `vars` in place of those of their names, or beside them.
    pub fn with(&self, vars: impl IntoIterator<Item = (String, Var)>) -> Self {
        let mut all = HashMap::clone(&self.vars);
        all.extend(vars);
        Self {
            vars: Arc::new(all),
            ..self.clone()
        }
    }

    /// The variable called `prefix` + `name`.
    ///
    /// # Errors
    /// If no parameter has that name.
    pub fn at(&self, prefix: &str, name: &str) -> Result<&Var> {
        self.var(&format!("{prefix}{name}"))
    }

    /// By what the BatchNorm called `name` normalises in this pass.
    ///
    /// # Errors
    /// If its running statistics are needed and missing.
    pub fn statistics(&self, name: &str) -> Result<Statistics> {
        if self.observed.is_some() {
            return Ok(Statistics::Batch);
        }
        let found = self.statistics.get(name).cloned();
        found.ok_or_else(|| Error::MissingParameter(format!("{name}.running_mean")))
    }

    /// Notes, in a training pass, the moments that the BatchNorm called `name` saw over `count`
    /// elements a channel. A part that is computed again notes the same once more, which changes
    /// nothing.
    pub fn observe(&self, name: &str, moments: Moments, count: usize) {
        if let Some(observed) = &self.observed {
            let mut observed = observed.lock().unwrap_or_else(PoisonError::into_inner);
            observed.insert(name.into(), Observed { moments, count });
        }
    }

    /// What the pass has noted; nothing in evaluation.
    pub fn observations(&self) -> Observations {
        let lock =
            |o: &Arc<Mutex<Observations>>| o.lock().unwrap_or_else(PoisonError::into_inner).clone();
        self.observed.as_ref().map(lock).unwrap_or_default()
    }
}
