//! The tape: recorded operations and their backward pass.
//!
//! A [`Tape`] records one closure per operation, which captures just what its backward reads. A
//! tape made by [`Tape::frozen`] records nothing, so a teacher's activations are freed as it goes.
//! [`Tape::checkpoint`] keeps only the inputs of a part and runs it again during backward, and what
//! [`Var::made_by`] can make again at little cost is not kept at all.

mod error;
mod var;

pub use error::{Error, Result};
pub use var::{Kept, Tracked, Var};

use crate::backend::{Backend, Grad};
use crate::tensor::Tensor;
use std::cell::{Cell, RefCell};
use std::sync::Arc;

type Backward = Box<dyn FnOnce(&Tape, &mut Grads, Tensor) -> Result<()>>;

enum Step {
    /// A leaf: its gradient stays.
    Leaf,
    /// An operation.
    Op(Backward),
}

struct Node {
    id: usize,
    step: Step,
}

/// Gradients during a backward pass, by variable.
#[derive(Default)]
pub struct Grads {
    slots: Vec<Grad>,
    /// Second gradients of one variable from one operation, which took its slot twice.
    again: Vec<(usize, Tensor)>,
}

impl Grads {
    /// Takes what `var` has gathered so far, to hand to a kernel; `None` if `var` wants none.
    /// Follow with [`Grads::put`].
    pub fn take(&mut self, var: &impl Tracked) -> Option<Grad> {
        let id = var.id()?;
        if self.slots.len() <= id {
            self.slots.resize(id + 1, None);
        }
        Some(self.slots[id].take())
    }

    /// Puts back what [`Grads::take`] gave, after the kernel added to it. Where an operation has one variable as two of
    /// its inputs, the second gradient is added to the first as soon as the operation is done.
    pub fn put(&mut self, var: &impl Tracked, grad: Option<Grad>) {
        if let (Some(id), Some(grad)) = (var.id(), grad) {
            if self.slots.len() <= id {
                self.slots.resize(id + 1, None);
            }
            match &self.slots[id] {
                Some(_) => self.again.extend(grad.map(|grad| (id, grad))),
                None => self.slots[id] = grad,
            }
        }
    }

    /// Adds `value` to the gradient of `var`, moving it in if it is the first.
    pub fn add(&mut self, backend: &dyn Backend, var: &impl Tracked, value: Tensor) -> Result<()> {
        if let Some(mut slot) = self.take(var) {
            backend.accumulate(&mut slot, value)?;
            self.put(var, Some(slot));
        }
        Ok(())
    }

    /// The gradient of a leaf after [`Tape::backward`]; `None` if it did not take part.
    pub fn get(&self, var: &Var) -> Option<&Tensor> {
        self.slots.get(var.id()?)?.as_ref()
    }

    /// As [`Grads::get`], moving the gradient out.
    pub fn remove(&mut self, var: &Var) -> Option<Tensor> {
        self.slots.get_mut(var.id()?)?.take()
    }
}

/// Records operations for one backward pass.
pub struct Tape {
    backend: Arc<dyn Backend>,
    nodes: RefCell<Vec<Node>>,
    next: Cell<usize>,
    recording: Cell<bool>,
}

impl Tape {
    /// A tape that records.
    pub fn new(backend: Arc<dyn Backend>) -> Self {
        Self {
            backend,
            nodes: RefCell::default(),
            next: Cell::new(0),
            recording: Cell::new(true),
        }
    }

    /// A tape that records nothing: for teachers and evaluation.
    pub fn frozen(backend: Arc<dyn Backend>) -> Self {
        let tape = Self::new(backend);
        tape.recording.set(false);
        tape
    }

    /// The device that runs this tape's operations.
    pub fn backend(&self) -> &dyn Backend {
        self.backend.as_ref()
    }

    /// The device, shared.
    pub fn backend_arc(&self) -> Arc<dyn Backend> {
        self.backend.clone()
    }

    /// Whether operations are recorded.
    pub fn is_recording(&self) -> bool {
        self.recording.get()
    }

    /// Whether an operation over `inputs` will be recorded: then its backward's operands are worth
    /// keeping.
    pub fn tracks(&self, inputs: &[&Var]) -> bool {
        self.is_recording() && inputs.iter().any(|v| v.is_tracked())
    }

    fn push(&self, step: Step) -> usize {
        let id = self.next.get();
        self.next.set(id + 1);
        self.nodes.borrow_mut().push(Node { id, step });
        id
    }

    /// A variable whose gradient is wanted: a parameter.
    pub fn leaf(&self, value: Tensor) -> Var {
        let id = self.is_recording().then(|| self.push(Step::Leaf));
        Var::new(value, id)
    }

    /// A new variable computed from `inputs`; `backward` gets the tape, the gradients to add to,
    /// and the gradient of the value. Nothing is recorded when no input is tracked.
    pub fn record(
        &self,
        value: Tensor,
        inputs: &[&Var],
        backward: impl FnOnce(&Tape, &mut Grads, Tensor) -> Result<()> + 'static,
    ) -> Var {
        let id = self
            .tracks(inputs)
            .then(|| self.push(Step::Op(Box::new(backward))));
        Var::new(value, id)
    }

    /// Runs `part` keeping only its inputs, and runs it again during backward (activation
    /// checkpointing, Chen et al., arXiv 1604.06174): the same kernels on the same values, so the
    /// same bits. `part` may use further variables of this tape, such as parameters; it must be
    /// tracked through at least one of `inputs`.
    pub fn checkpoint<E>(
        &self,
        inputs: &[&Var],
        part: impl Fn(&Tape) -> std::result::Result<Var, E> + 'static,
    ) -> std::result::Result<Var, E>
    where
        E: std::error::Error + Send + Sync + 'static,
    {
        if !self.tracks(inputs) {
            return part(self);
        }
        self.recording.set(false);
        let first = part(self);
        self.recording.set(true);
        let value = first?.value().clone();
        Ok(self.record(value, inputs, move |tape, grads, dy| {
            // The replayed nodes go on top of the stack that backward is walking down, so it
            // meets them next; every later node is gone already.
            let again = part(tape).map_err(|e| Error::Recompute(Box::new(e)))?;
            grads.add(tape.backend(), &again, dy)
        }))
    }

    /// Gradients of the scalar `loss` with respect to every leaf. Consumes the recording.
    ///
    /// # Errors
    /// If `loss` has more than one element or was not recorded here.
    pub fn backward(&self, loss: &Var) -> Result<Grads> {
        if loss.value().len() != 1 {
            return Err(Error::NotScalar {
                shape: loss.shape().to_vec(),
            });
        }
        let one = self.backend.upload(loss.shape(), &[1.0])?;
        self.backward_from(&[(loss, one)])
    }

    /// As [`Tape::backward`] from given gradients of several variables.
    pub fn backward_from(&self, seeds: &[(&Var, Tensor)]) -> Result<Grads> {
        self.backward_onto(Grads::default(), seeds)
    }

    /// As [`Tape::backward_from`], adding to what leaves have gathered in `grads` already.
    pub fn backward_onto(&self, mut grads: Grads, seeds: &[(&Var, Tensor)]) -> Result<Grads> {
        for (var, seed) in seeds {
            if !var.is_tracked() {
                return Err(Error::NotRecorded);
            }
            grads.add(self.backend(), *var, seed.clone())?;
        }
        loop {
            let node = self.nodes.borrow_mut().pop();
            let Some(node) = node else { return Ok(grads) };
            if let Step::Op(backward) = node.step
                && let Some(dy) = grads.slots.get_mut(node.id).and_then(Option::take)
            {
                backward(self, &mut grads, dy)?;
                for (id, value) in std::mem::take(&mut grads.again) {
                    self.backend.accumulate(&mut grads.slots[id], value)?;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cpu::Cpu;
    use crate::ops;

    /// x xᵀ as one operation of x twice has the gradients of two variables, added.
    #[test]
    fn a_variable_may_be_an_input_twice() {
        let gradients = |twice: bool| {
            let tape = Tape::new(Arc::new(Cpu::new()));
            let values = [1.0, -2.0, 0.5, 3.0, 0.25, -1.0];
            let leaf = || tape.leaf(tape.backend().upload(&[2, 3], &values).unwrap());
            let (x, w) = (leaf(), leaf());
            let w = if twice { &x } else { &w };
            let act = crate::backend::Activation::None;
            let y = ops::linear(&tape, &x, w, None, None, act).unwrap();
            let seed = tape.backend().upload(&[2, 2], &[1.0, 2.0, -3.0, 0.5]);
            let grads = tape.backward_from(&[(&y, seed.unwrap())]).unwrap();
            [&x, w].map(|v| tape.backend().download(grads.get(v).unwrap()).unwrap())
        };
        let [both, _] = gradients(true);
        let [dx, dw] = gradients(false);
        let sum: Vec<f32> = dx.iter().zip(&dw).map(|(dx, dw)| dx + dw).collect();
        assert_eq!(both, sum);
    }
}
