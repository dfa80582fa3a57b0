//! Linear combinations of tensors.

use super::Cpu;
use super::memory::Memory;
use super::parallel::over_rows;
use super::storage::{accumulator, f32s, f32s_mut, tensor};
use crate::backend::{Result, Slot, WeightedSum, shape_error};
use crate::tensor::Tensor;

const OP: &str = "weighted_sum";

/// sum += factor · x.
pub(super) fn add_scaled(sum: &mut [f32], x: &[f32], factor: f32) {
    over_rows(
        sum,
        1,
        #[inline(always)]
        |first, sum| {
            for (s, x) in sum.iter_mut().zip(&x[first..]) {
                *s += factor * x;
            }
        },
    );
}

impl WeightedSum for Cpu {
    fn weighted_sum(&self, terms: &[(&Tensor, f32)]) -> Result<Tensor> {
        let Some((first, _)) = terms.first() else {
            return shape_error(OP, "no terms");
        };
        let mut out = tensor(first.shape(), Memory::zeros(first.len()));
        let sum = f32s_mut(OP, &mut out)?;
        for (term, weight) in terms {
            add_scaled(sum, f32s(OP, term)?, *weight);
        }
        Ok(out)
    }

    fn scale_backward(&self, dy: &Tensor, factor: f32, dx: Slot) -> Result<()> {
        let Some(dx) = dx else { return Ok(()) };
        add_scaled(accumulator(OP, dx, dy.shape())?, f32s(OP, dy)?, factor);
        Ok(())
    }
}
