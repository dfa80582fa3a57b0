//! Sums of elements, and products with a scalar on the device.

use super::Info;
use crate::backend::{Op, Result, lacking};
use crate::tensor::Tensor;

/// A reduction and its gradient's broadcast.
pub trait Sum: Info {
    /// Sum of all elements times `factor`, as `[1]`.
    fn sum(&self, x: &Tensor, factor: f32) -> Result<Tensor> {
        let _ = factor;
        lacking(self, Op::Sum, x)
    }

    /// out_i = scalar · factor · x_i, with `scalar` a `[1]` tensor on the device; x absent means 1.
    fn scale_by(
        &self,
        scalar: &Tensor,
        factor: f32,
        x: Option<&Tensor>,
        n: usize,
    ) -> Result<Tensor> {
        let _ = (factor, x, n);
        lacking(self, Op::Sum, scalar)
    }
}
