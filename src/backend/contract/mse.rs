//! The mean squared difference.

use super::{Info, Slot};
use crate::backend::{Op, Result, lacking};
use crate::tensor::Tensor;

/// Of two tensors of one shape.
pub trait Mse: Info {
    /// Mean of (x − y)² over all elements, `[1]`.
    fn mse(&self, x: &Tensor, y: &Tensor) -> Result<Tensor> {
        let _ = y;
        lacking(self, Op::Mse, x)
    }

    /// dx += dy · 2 (x − y) / len, dy `[1]`.
    fn mse_backward(&self, dy: &Tensor, x: &Tensor, y: &Tensor, dx: Slot) -> Result<()> {
        let _ = (dy, y, dx);
        lacking(self, Op::Mse, x)
    }
}
