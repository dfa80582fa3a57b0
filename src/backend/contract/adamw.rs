//! AdamW (Loshchilov and Hutter, arXiv 1711.05101), in PyTorch's order of operations.

use super::Info;
use crate::backend::{Op, Result, lacking};
use crate::tensor::Tensor;

/// One parameter of an AdamW step; see [`AdamW::adamw`].
pub struct AdamWTensor<'a> {
    /// Updated in place.
    pub param: &'a mut Tensor,
    /// Gradient of the same shape.
    pub grad: &'a Tensor,
    /// First moment, updated in place.
    pub m: &'a mut Tensor,
    /// Second moment, updated in place.
    pub v: &'a mut Tensor,
    /// Weight decay of this tensor.
    pub weight_decay: f32,
}

/// Numbers of one AdamW step, the same for all parameters.
#[derive(Clone, Copy, Debug)]
pub struct AdamWStep<'a> {
    /// Learning rate.
    pub lr: f32,
    /// Decay of the first moment.
    pub beta1: f32,
    /// Decay of the second moment.
    pub beta2: f32,
    /// Added to √v̂.
    pub eps: f32,
    /// 1-based number of this step, for the bias corrections.
    pub step: u64,
    /// Clips all gradients together first.
    pub clip: Option<Clipping<'a>>,
    /// What [`LossScale::loss_scale`](super::LossScale::loss_scale) gave, `[5]`, for gradients of a scaled loss: in place
    /// of `step` and `clip`, and the step may be skipped.
    pub scaled: Option<&'a Tensor>,
}

/// Clipping as torch's `clip_grad_norm_`: gradients times min(1, max/(norm + 1e-6)).
#[derive(Clone, Copy, Debug)]
pub struct Clipping<'a> {
    /// The gradients' norm, `[1]`, of [`GradNorm::grad_norm`](super::GradNorm::grad_norm): on the device, where nobody
    /// waits for it.
    pub norm: &'a Tensor,
    /// The largest norm that stays as it is.
    pub max: f32,
}

/// Updates of parameters in place.
pub trait AdamW: Info {
    /// One step: p ← p (1 − lr·wd); m, v updated; p ← p − lr m̂ / (√v̂ + ε).
    fn adamw(&self, tensors: &mut [AdamWTensor], step: AdamWStep) -> Result<()> {
        let _ = step;
        match tensors.first() {
            Some(first) => lacking(self, Op::AdamW, first.param),
            None => Ok(()),
        }
    }

    /// Clamps every element into [low, high] in place.
    fn clamp(&self, x: &mut Tensor, low: f32, high: f32) -> Result<()> {
        let _ = (low, high);
        lacking(self, Op::AdamW, x)
    }
}
