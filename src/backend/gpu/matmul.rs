//! Products with a projection.

use super::Gpu;
use super::device::Product;
use super::linear::{across, gradient, matrix};
use super::operand::done;
use crate::backend::{Matmul, Result, Slot};
use crate::tensor::{DType, Tensor};

const OP: &str = "matmul";

impl Matmul for Gpu {
    fn matmul(&self, x: &Tensor, p: &Tensor) -> Result<Tensor> {
        let (rows, inner, out, dtype) = (x.rows(), x.width(), p.width(), self.activations());
        let (x, p) = (self.read(OP, x, dtype)?, self.read(OP, p, dtype)?);
        let (y, y_at) = self.empty(&[rows, out], dtype)?;
        self.product(&Product {
            m: rows,
            n: out,
            k: inner,
            a: matrix(x.at(), dtype, inner),
            b: matrix(p.at(), dtype, out),
            c: None,
            d: matrix(y_at, dtype, out),
            bias: None,
            activation: None,
        })?;
        Ok(y)
    }

    fn matmul_backward(
        &self,
        dy: &Tensor,
        x: &Tensor,
        p: &Tensor,
        dx: Slot,
        dp: Slot,
    ) -> Result<()> {
        let (rows, inner, out, dtype) = (x.rows(), x.width(), p.width(), self.activations());
        let dx = self.target(OP, dx, x.shape(), dtype)?;
        let dp = self.target(OP, dp, p.shape(), DType::F32)?;
        let dy = self.read(OP, dy, dtype)?;
        let (x, p) = (self.read(OP, x, dtype)?, self.read(OP, p, dtype)?);
        let dy = matrix(dy.at(), dtype, out);
        if let Some(dx) = &dx {
            let p = across(matrix(p.at(), dtype, out));
            gradient(self, dx, dtype, [rows, inner, out], dy, p)?;
        }
        if let Some(dp) = &dp {
            let x = across(matrix(x.at(), dtype, inner));
            gradient(self, dp, DType::F32, [inner, out, rows], x, dy)?;
        }
        done(self, [dx, dp])
    }
}
