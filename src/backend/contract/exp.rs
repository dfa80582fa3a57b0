//! The exponential: of learned log scales.

use super::{Info, Slot};
use crate::backend::{Op, Result, lacking};
use crate::tensor::Tensor;

/// Elementwise exponential.
pub trait Exp: Info {
    /// y = exp(x).
    fn exp(&self, x: &Tensor) -> Result<Tensor> {
        lacking(self, Op::Exp, x)
    }

    /// dx += dy · y.
    fn exp_backward(&self, dy: &Tensor, y: &Tensor, dx: Slot) -> Result<()> {
        let _ = (dy, dx);
        lacking(self, Op::Exp, y)
    }
}
