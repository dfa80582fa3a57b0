//! Parameters by name, in a fixed order.

use super::{Error, Result};
use crate::autodiff::{Tape, Var};
use crate::tensor::Tensor;
use std::collections::HashMap;
use std::sync::Arc;

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
}

/// The parameters of a model, in the order in which the model lists them.
#[derive(Clone, Debug, Default)]
pub struct Parameters {
    entries: Vec<Parameter>,
    index: HashMap<String, usize>,
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

    /// Whether there is none.
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

    /// The parameters as variables of `tape`: leaves on a recording tape, constants on a frozen one.
    pub fn bind(&self, tape: &Tape) -> Bound {
        let vars = self
            .entries
            .iter()
            .map(|p| (p.name.clone(), tape.leaf(p.tensor.clone())))
            .collect();
        Bound {
            vars: Arc::new(vars),
        }
    }
}

/// Parameters bound to a tape. Cloning shares them.
#[derive(Clone, Debug)]
pub struct Bound {
    vars: Arc<HashMap<String, Var>>,
}

impl Bound {
    /// The variable called `name`.
    ///
    /// # Errors
    /// If there is none.
    pub fn var(&self, name: &str) -> Result<&Var> {
        self.vars
            .get(name)
            .ok_or_else(|| Error::MissingParameter(name.into()))
    }

    /// The variable called `prefix` + `name`.
    ///
    /// # Errors
    /// If there is none.
    pub fn at(&self, prefix: &str, name: &str) -> Result<&Var> {
        self.var(&format!("{prefix}{name}"))
    }
}
