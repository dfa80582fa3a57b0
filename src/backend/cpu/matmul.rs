//! y = x P.

use super::Cpu;
use super::gemm::{View, gemm};
use super::memory::Memory;
use super::storage::{f32s, overwritten, tensor};
use crate::backend::{Matmul, Result, Slot};
use crate::tensor::Tensor;

const OP: &str = "matmul";

impl Matmul for Cpu {
    fn matmul(&self, x: &Tensor, p: &Tensor) -> Result<Tensor> {
        let (rows, inner, out) = (x.rows(), x.width(), p.width());
        let mut y = Memory::stale(rows * out);
        let (x, p) = (
            View::new(f32s(OP, x)?, rows, inner),
            View::new(f32s(OP, p)?, inner, out),
        );
        gemm(self.products, &mut y, false, x, p);
        Ok(tensor(&[rows, out], y))
    }

    fn matmul_backward(
        &self,
        dy: &Tensor,
        x: &Tensor,
        p: &Tensor,
        dx: Slot,
        dp: Slot,
    ) -> Result<()> {
        let (rows, inner, out) = (x.rows(), x.width(), p.width());
        let dy = View::new(f32s(OP, dy)?, rows, out);
        if let Some(dx) = dx {
            let (dx, add) = overwritten(OP, dx, x.shape())?;
            gemm(
                self.products,
                dx,
                add,
                dy,
                View::new(f32s(OP, p)?, inner, out).t(),
            );
        }
        if let Some(dp) = dp {
            let (dp, add) = overwritten(OP, dp, p.shape())?;
            gemm(
                self.products,
                dp,
                add,
                View::new(f32s(OP, x)?, rows, inner).t(),
                dy,
            );
        }
        Ok(())
    }
}
