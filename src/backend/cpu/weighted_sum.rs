//! Linear combinations of tensors.

use super::Cpu;
use super::memory::Memory;
use super::parallel::add_scaled;
use super::storage::{accumulator, f32s, f32s_mut, tensor};
use crate::backend::{Result, Slot, WeightedSum, shape_error};
use crate::tensor::Tensor;

const OP: &str = "weighted_sum";

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
