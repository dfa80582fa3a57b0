//! Rows of unit length.

use super::{Info, Slot};
use crate::backend::{Op, Result, lacking};
use crate::tensor::Tensor;

/// Division by the Euclidean norm.
pub trait L2Normalize: Info {
    /// y = x / max(‖x‖, 1e-12) for each row of x `[rows, width]`, and the factor 1 / max(‖x‖, 1e-12) `[rows]`.
    fn l2_normalize(&self, x: &Tensor) -> Result<(Tensor, Tensor)> {
        lacking(self, Op::L2Normalize, x)
    }

    /// dx += (dy − y (y·dy)) · inverse for each row.
    fn l2_normalize_backward(
        &self,
        dy: &Tensor,
        y: &Tensor,
        inverse: &Tensor,
        dx: Slot,
    ) -> Result<()> {
        let _ = (dy, inverse, dx);
        lacking(self, Op::L2Normalize, y)
    }
}
