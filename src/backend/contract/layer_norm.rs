//! Layer normalisation (Ba, Kiros and Hinton, arXiv 1607.06450).

use super::{Info, Slot};
use crate::backend::{Op, Result, lacking};
use crate::tensor::Tensor;

/// Output of [`LayerNorm::layer_norm`].
pub struct LayerNormOutput {
    /// Normalised, scaled and shifted rows, `[rows, width]`.
    pub y: Tensor,
    /// Mean of each row, `[rows]`.
    pub mean: Tensor,
    /// 1/√(variance + ε) of each row, `[rows]`.
    pub rstd: Tensor,
}

/// What [`LayerNorm::layer_norm_backward`] reads.
#[derive(Clone, Copy, Debug)]
pub struct LayerNormBackward<'a> {
    /// `[rows, width]`.
    pub dy: &'a Tensor,
    /// `[rows, width]`.
    pub x: &'a Tensor,
    /// `[width]`.
    pub gamma: &'a Tensor,
    /// Of the forward pass, `[rows]`.
    pub mean: &'a Tensor,
    /// Of the forward pass, `[rows]`.
    pub rstd: &'a Tensor,
}

/// Normalisation of rows.
pub trait LayerNorm: Info {
    /// y = γ (x − mean) / √(variance + ε) + β for each row of x `[rows, width]`; gamma and beta `[width]`.
    fn layer_norm(
        &self,
        x: &Tensor,
        gamma: &Tensor,
        beta: &Tensor,
        eps: f32,
    ) -> Result<LayerNormOutput> {
        let _ = (gamma, beta, eps);
        lacking(self, Op::LayerNorm, x)
    }

    /// Backward of [`LayerNorm::layer_norm`].
    fn layer_norm_backward(
        &self,
        of: LayerNormBackward,
        dx: Slot,
        dgamma: Slot,
        dbeta: Slot,
    ) -> Result<()> {
        let _ = (dx, dgamma, dbeta);
        lacking(self, Op::LayerNorm, of.x)
    }
}
