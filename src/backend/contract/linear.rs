//! Linear layers: y = act(x Wᵀ + b) + residual.

use super::{Info, Slot};
use crate::backend::{Op, Result, lacking};
use crate::tensor::Tensor;

/// The elementwise function after a linear layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Activation {
    /// Identity.
    None,
    /// x Φ(x) with the exact Gaussian distribution function (erf).
    Gelu,
    /// x σ(1.702 x), as OpenAI's weights were trained.
    QuickGelu,
}

/// Output of [`Linear::linear`].
pub struct LinearOutput {
    /// act(x Wᵀ + b) + residual, `[rows, out]`.
    pub y: Tensor,
    /// x Wᵀ + b, kept for the activation's derivative; `None` without activation or when not asked.
    pub pre: Option<Tensor>,
}

/// What [`Linear::linear_backward`] reads.
#[derive(Clone, Copy, Debug)]
pub struct LinearBackward<'a> {
    /// `[rows, out]`.
    pub dy: &'a Tensor,
    /// `[rows, in]`.
    pub x: &'a Tensor,
    /// `[out, in]`.
    pub w: &'a Tensor,
    /// x Wᵀ + b, if there is an activation.
    pub pre: Option<&'a Tensor>,
    /// The activation.
    pub act: Activation,
}

/// A matrix product with a bias, an activation and a residual.
pub trait Linear: Info {
    /// y = act(x Wᵀ + b) + residual. x `[rows, in]`, w `[out, in]`, b `[out]`, residual
    /// `[rows, out]`. `keep_pre` asks for the pre-activation that the backward pass reads.
    fn linear(
        &self,
        x: &Tensor,
        w: &Tensor,
        b: Option<&Tensor>,
        residual: Option<&Tensor>,
        act: Activation,
        keep_pre: bool,
    ) -> Result<LinearOutput> {
        let _ = (w, b, residual, act, keep_pre);
        lacking(self, Op::Linear, x)
    }

    /// dpre = dy·act′(pre), dx += dpre W, dw += dpreᵀ x, db += Σ_rows dpre.
    fn linear_backward(&self, of: LinearBackward, dx: Slot, dw: Slot, db: Slot) -> Result<()> {
        let _ = (dx, dw, db);
        lacking(self, Op::Linear, of.x)
    }

    /// act(pre), the bits that [`Linear::linear`] gave without a residual.
    fn activate(&self, pre: &Tensor, act: Activation) -> Result<Tensor> {
        let _ = act;
        lacking(self, Op::Linear, pre)
    }
}
