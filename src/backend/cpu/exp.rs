//! The exponential.

use super::parallel::over_rows;
use super::storage::{accumulator, f32s, tensor};
use super::{Cpu, math};
use crate::backend::{Exp, Result, Slot};
use crate::tensor::Tensor;

const OP: &str = "exp";

impl Exp for Cpu {
    fn exp(&self, x: &Tensor) -> Result<Tensor> {
        let values = f32s(OP, x)?;
        let mut y = vec![0.0; values.len()];
        over_rows(
            &mut y,
            1,
            #[inline(always)]
            |first, y| {
                for (y, &x) in y.iter_mut().zip(&values[first..]) {
                    *y = math::exp(x);
                }
            },
        );
        Ok(tensor(x.shape(), y))
    }

    fn exp_backward(&self, dy: &Tensor, y: &Tensor, dx: Slot) -> Result<()> {
        let Some(dx) = dx else { return Ok(()) };
        let (dy, values) = (f32s(OP, dy)?, f32s(OP, y)?);
        for ((dx, dy), y) in accumulator(OP, dx, y.shape())?
            .iter_mut()
            .zip(dy)
            .zip(values)
        {
            *dx += dy * y;
        }
        Ok(())
    }
}
