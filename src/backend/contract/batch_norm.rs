//! Batch normalisation (Ioffe and Szegedy, arXiv 1502.03167), with a residual and a ReLU.

use super::{Info, Slot};
use crate::backend::{Op, Result, lacking};
use crate::tensor::Tensor;

/// Mean and variance of each channel: what batch normalisation divides by.
#[derive(Clone, Debug)]
pub struct Moments {
    /// `[channels]`.
    pub mean: Tensor,
    /// `[channels]`, the biased one: divided by the number of elements.
    pub variance: Tensor,
}

/// Operands of [`BatchNorm::batch_norm`].
#[derive(Clone, Copy, Debug)]
pub struct BatchNormForward<'a> {
    /// `[…, channels]`.
    pub x: &'a Tensor,
    /// `[channels]`.
    pub gamma: &'a Tensor,
    /// `[channels]`.
    pub beta: &'a Tensor,
    /// Those of x, or running ones.
    pub moments: &'a Moments,
    /// Added to the variance.
    pub eps: f32,
    /// Added to the result, of x's shape.
    pub residual: Option<&'a Tensor>,
    /// Whether max(y, 0) follows.
    pub relu: bool,
}

/// What [`BatchNorm::batch_norm_backward`] reads.
#[derive(Clone, Copy, Debug)]
pub struct BatchNormBackward<'a> {
    /// `[…, channels]`.
    pub dy: &'a Tensor,
    /// `[…, channels]`.
    pub x: &'a Tensor,
    /// The output, if it had a ReLU.
    pub y: Option<&'a Tensor>,
    /// `[channels]`.
    pub gamma: &'a Tensor,
    /// Those of the forward pass.
    pub moments: &'a Moments,
    /// Added to the variance.
    pub eps: f32,
    /// Whether the moments are those of x, so that they vary with it; otherwise they are constants.
    pub of_batch: bool,
}

/// Normalisation of channels.
pub trait BatchNorm: Info {
    /// Mean and biased variance of each channel of x `[…, channels]` over all else.
    fn batch_moments(&self, x: &Tensor) -> Result<Moments> {
        lacking(self, Op::BatchNorm, x)
    }

    /// y = γ (x − mean) / √(variance + ε) + β + residual, and then max(y, 0) if `relu`.
    fn batch_norm(&self, of: BatchNormForward) -> Result<Tensor> {
        lacking(self, Op::BatchNorm, of.x)
    }

    /// Backward of [`BatchNorm::batch_norm`].
    fn batch_norm_backward(
        &self,
        of: BatchNormBackward,
        dx: Slot,
        dgamma: Slot,
        dbeta: Slot,
        dresidual: Slot,
    ) -> Result<()> {
        let _ = (dx, dgamma, dbeta, dresidual);
        lacking(self, Op::BatchNorm, of.x)
    }
}
