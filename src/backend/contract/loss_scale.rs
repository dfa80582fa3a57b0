//! Dynamic loss scaling for half precision, as `torch.amp.GradScaler` does it (Micikevicius et al., arXiv 1710.03740).

use super::Info;
use crate::backend::{Op, Result, lacking};
use crate::tensor::Tensor;

/// The constants of dynamic loss scaling.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LossScaling {
    /// The first scale.
    pub start: f32,
    /// Factor of the scale after `interval` steps in a row without an infinite or NaN gradient.
    pub growth: f32,
    /// Factor of the scale after a step with one.
    pub backoff: f32,
    /// See `growth`.
    pub interval: u32,
}

impl Default for LossScaling {
    /// PyTorch's: 65536, 2, ½, 2000.
    fn default() -> Self {
        Self {
            start: 65536.0,
            growth: 2.0,
            backoff: 0.5,
            interval: 2000,
        }
    }
}

/// Where dynamic loss scaling stands: on the device, where nobody waits for it.
#[derive(Debug)]
pub struct LossScaleState {
    /// What the loss is multiplied by, `[1]`.
    pub scale: Tensor,
    /// `[7]`: steps since the scale changed; steps taken; steps skipped; β₁ᵗ and β₂ᵗ of the steps taken, each as the sum
    /// of two f32.
    pub counts: Tensor,
}

/// The numbers of [`LossScaleState::counts`] before the first step.
pub const FIRST_COUNTS: [f32; 7] = [0.0, 0.0, 0.0, 1.0, 0.0, 1.0, 0.0];

/// A step whose gradients are those of the scaled loss.
#[derive(Clone, Copy, Debug)]
pub struct ScaledStep<'a> {
    /// Their norm, `[1]`.
    pub norm: &'a Tensor,
    /// Learning rate.
    pub lr: f32,
    /// Decay of AdamW's first moment.
    pub beta1: f32,
    /// Decay of its second moment.
    pub beta2: f32,
    /// The largest norm of the unscaled gradients that stays as it is.
    pub max_norm: Option<f32>,
    /// The constants.
    pub scaling: LossScaling,
}

/// Decides on the device whether a step is taken, and what the next loss is scaled by.
pub trait LossScale: Info {
    /// Brings `state` up to date and returns what [`AdamWStep::scaled`](super::AdamWStep::scaled) takes, `[5]`: the
    /// learning rate, lr / (1 − β₁ᵗ), 1 / √(1 − β₂ᵗ), the factor of the gradients, and 1 where the step is taken, 0 where
    /// it is skipped, since a gradient is infinite or NaN; and the norm of the unscaled gradients, `[1]`.
    fn loss_scale(&self, state: &mut LossScaleState, of: ScaledStep) -> Result<(Tensor, Tensor)> {
        let _ = of;
        lacking(self, Op::LossScale, &state.scale)
    }
}
