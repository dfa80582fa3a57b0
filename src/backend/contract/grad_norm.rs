//! The norm of all gradients together.

use super::Info;
use crate::backend::{Op, Result, lacking, shape_error};
use crate::tensor::Tensor;

/// What clipping divides by.
pub trait GradNorm: Info {
    /// √Σ g² over all tensors, `[1]`, summed in f64 in a fixed order.
    fn grad_norm(&self, grads: &[&Tensor]) -> Result<Tensor> {
        match grads.first() {
            Some(first) => lacking(self, Op::GradNorm, first),
            None => shape_error(Op::GradNorm.name(), "no gradients"),
        }
    }
}
