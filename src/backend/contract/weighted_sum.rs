//! Sums of tensors with constant weights: a total loss of its terms.

use super::{Info, Slot};
use crate::backend::{Op, Result, lacking, shape_error};
use crate::tensor::Tensor;

/// A linear combination.
pub trait WeightedSum: Info {
    /// Σ_k weight_k · term_k of tensors of one shape, at least one.
    fn weighted_sum(&self, terms: &[(&Tensor, f32)]) -> Result<Tensor> {
        match terms.first() {
            Some((first, _)) => lacking(self, Op::WeightedSum, first),
            None => shape_error(Op::WeightedSum.name(), "no terms"),
        }
    }

    /// dx += factor · dy.
    fn scale_backward(&self, dy: &Tensor, factor: f32, dx: Slot) -> Result<()> {
        let _ = (factor, dx);
        lacking(self, Op::WeightedSum, dy)
    }
}
