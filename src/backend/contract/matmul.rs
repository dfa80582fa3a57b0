//! Products with a projection: y = x P.

use super::{Info, Slot};
use crate::backend::{Op, Result, lacking};
use crate::tensor::Tensor;

/// A plain matrix product.
pub trait Matmul: Info {
    /// y = x P. x `[rows, in]`, p `[in, out]`.
    fn matmul(&self, x: &Tensor, p: &Tensor) -> Result<Tensor> {
        let _ = p;
        lacking(self, Op::Matmul, x)
    }

    /// dx += dy Pᵀ, dp += xᵀ dy. dy `[rows, out]`.
    fn matmul_backward(
        &self,
        dy: &Tensor,
        x: &Tensor,
        p: &Tensor,
        dx: Slot,
        dp: Slot,
    ) -> Result<()> {
        let _ = (dy, p, dx, dp);
        lacking(self, Op::Matmul, x)
    }
}
