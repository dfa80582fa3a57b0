//! Values on the tape, and what a backward pass keeps of them.

use super::{Error, Result};
use crate::backend::Backend;
use crate::tensor::Tensor;
use std::sync::Arc;

/// How to make a value again.
type Recipe = dyn Fn(&dyn Backend) -> Result<Tensor> + Send + Sync;

/// A value on the tape. Cloning shares the value.
#[derive(Clone)]
pub struct Var {
    value: Tensor,
    id: Option<usize>,
    recipe: Option<Arc<Recipe>>,
}

impl Var {
    pub(super) fn new(value: Tensor, id: Option<usize>) -> Self {
        Self {
            value,
            id,
            recipe: None,
        }
    }

    /// A value without gradient.
    pub fn constant(value: Tensor) -> Self {
        Self::new(value, None)
    }

    /// Says how to make the value again, at little cost and from values that backward keeps anyway:
    /// those who [keep](Var::keep) it then do not hold it. The result must be the same bits.
    pub fn made_by(
        self,
        recipe: impl Fn(&dyn Backend) -> Result<Tensor> + Send + Sync + 'static,
    ) -> Self {
        let recipe = self.id.map(|_| Arc::new(recipe) as Arc<Recipe>);
        Self { recipe, ..self }
    }

    /// The value.
    pub fn value(&self) -> &Tensor {
        &self.value
    }

    /// Sizes of the value's dimensions.
    pub fn shape(&self) -> &[usize] {
        self.value.shape()
    }

    /// Whether a gradient flows to this value.
    pub fn is_tracked(&self) -> bool {
        self.id.is_some()
    }

    /// The same value, cut off from the tape: a stop-gradient.
    pub fn detach(&self) -> Self {
        Self::constant(self.value.clone())
    }

    /// The value for a computation that has no backward.
    ///
    /// # Errors
    /// If the variable is tracked: its gradient would silently be missing.
    pub fn untracked(&self, op: &'static str) -> Result<&Tensor> {
        if self.is_tracked() {
            Err(Error::NoBackward { op })
        } else {
            Ok(&self.value)
        }
    }

    /// The variable for a closure of [`Tape::record`](super::Tape::record) that reads its value once:
    /// what can be [made](Var::made_by) again is not held until then.
    pub fn keep(&self) -> Kept {
        Kept {
            id: self.id,
            value: match &self.recipe {
                Some(recipe) => Value::Recipe(recipe.clone()),
                None => Value::Ready(self.value.clone()),
            },
        }
    }
}

impl std::fmt::Debug for Var {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Var")
            .field("value", &self.value)
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

enum Value {
    Ready(Tensor),
    Recipe(Arc<Recipe>),
}

/// A variable kept for the backward pass; see [`Var::keep`].
pub struct Kept {
    id: Option<usize>,
    value: Value,
}

impl Kept {
    /// The value, held or made again.
    pub fn value(&self, backend: &dyn Backend) -> Result<Tensor> {
        match &self.value {
            Value::Ready(value) => Ok(value.clone()),
            Value::Recipe(recipe) => recipe(backend),
        }
    }
}

/// What may have a gradient.
pub trait Tracked {
    /// The number of its gradient's slot, if it wants one.
    fn id(&self) -> Option<usize>;
}

impl Tracked for Var {
    fn id(&self) -> Option<usize> {
        self.id
    }
}

impl Tracked for Kept {
    fn id(&self) -> Option<usize> {
        self.id
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autodiff::Tape;
    use crate::backend::cpu::Cpu;

    /// Of a value that `recipe` says how to make, or that nothing does: whether keeping the variable
    /// holds it, and what it is later.
    fn kept(tracked: bool, recipe: Option<f32>) -> (bool, Vec<f32>) {
        let tape = Tape::new(Arc::new(Cpu::new()));
        let upload = |x: f32| tape.backend().upload(&[1], &[x]).expect("upload");
        let mut value = upload(1.0);
        let x = match tracked {
            true => tape.record(value.clone(), &[&tape.leaf(upload(0.0))], |_, _, _| Ok(())),
            false => Var::constant(value.clone()),
        };
        let x = match recipe {
            Some(number) => x.made_by(move |backend| Ok(backend.upload(&[1], &[number])?)),
            None => x,
        };
        let kept = x.keep();
        assert_eq!(kept.id(), x.id());
        drop(x);
        let held = value.storage_mut().is_none();
        let later = kept.value(tape.backend()).expect("a value");
        (held, tape.backend().download(&later).expect("download"))
    }

    #[test]
    fn what_can_be_made_again_is_not_held() {
        assert_eq!(kept(true, None), (true, vec![1.0]));
        assert_eq!(kept(true, Some(2.0)), (false, vec![2.0]));
        // Without a gradient nothing else is kept that a recipe could read.
        assert_eq!(kept(false, Some(2.0)), (true, vec![1.0]));
    }
}
