//! Rows scaled to unit Euclidean length.

use super::Cpu;
use super::math;
use super::memory::Memory;
use super::parallel::{over_rows, over_rows2};
use super::storage::{accumulator, f32s, tensor};
use crate::backend::{L2Normalize, Result, Slot};
use crate::tensor::Tensor;

const OP: &str = "l2_normalize";

impl L2Normalize for Cpu {
    fn l2_normalize(&self, x: &Tensor) -> Result<(Tensor, Tensor)> {
        let (rows, width) = (x.rows(), x.width());
        let xs = f32s(OP, x)?;
        let mut y = Memory::stale(rows * width);
        let mut inverse = vec![0.0; rows];
        over_rows2(
            &mut y,
            width,
            &mut inverse,
            1,
            #[inline(always)]
            |first, y, inverse| {
                for (r, (y, inverse)) in y.chunks_exact_mut(width).zip(inverse).enumerate() {
                    let x = &xs[(first + r) * width..][..width];
                    *inverse = 1.0 / math::dot(x, x).sqrt().max(1e-12);
                    for (y, x) in y.iter_mut().zip(x) {
                        *y = x * *inverse;
                    }
                }
            },
        );
        Ok((tensor(x.shape(), y), tensor(&[rows], inverse)))
    }

    fn l2_normalize_backward(
        &self,
        dy: &Tensor,
        y: &Tensor,
        inverse: &Tensor,
        dx: Slot,
    ) -> Result<()> {
        let Some(dx) = dx else { return Ok(()) };
        let width = y.width();
        let (dy, ys, inverse) = (f32s(OP, dy)?, f32s(OP, y)?, f32s(OP, inverse)?);
        over_rows(
            accumulator(OP, dx, y.shape())?,
            width,
            #[inline(always)]
            |first, dx| {
                for (r, dx) in dx.chunks_exact_mut(width).enumerate() {
                    let at = (first + r) * width..(first + r + 1) * width;
                    let (dy, y) = (&dy[at.clone()], &ys[at]);
                    let along = math::dot(dy, y);
                    for ((dx, dy), y) in dx.iter_mut().zip(dy).zip(y) {
                        *dx += inverse[first + r] * (dy - along * y);
                    }
                }
            },
        );
        Ok(())
    }
}
