//! The mean token of CLIP's attention pooling.

use super::{Info, Slot};
use crate::backend::{Op, Result, lacking};
use crate::tensor::Tensor;

/// The mean before each image's pixels, and positions.
pub trait PrependMean: Info {
    /// x `[batch, h, w, width]`, positions `[1 + h·w, width]` → `[batch·(1 + h·w), width]`.
    fn prepend_mean(&self, x: &Tensor, positions: &Tensor) -> Result<Tensor> {
        let _ = positions;
        lacking(self, Op::PrependMean, x)
    }

    /// Backward of [`PrependMean::prepend_mean`] from dy `[batch·(1 + h·w), width]`; `shape` is x's.
    fn prepend_mean_backward(
        &self,
        dy: &Tensor,
        shape: &[usize],
        dx: Slot,
        dpositions: Slot,
    ) -> Result<()> {
        let _ = (shape, dx, dpositions);
        lacking(self, Op::PrependMean, dy)
    }
}
