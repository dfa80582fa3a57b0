//! Convolution of images.

use super::{Info, Slot};
use crate::backend::{Op, Result, lacking};
use crate::tensor::Tensor;

/// Geometry of a convolution with square filters over NHWC images.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Convolution {
    /// Side of a filter.
    pub kernel: usize,
    /// Distance between two neighbouring outputs, in inputs.
    pub stride: usize,
    /// Zeros around the image on every side, fewer than `kernel`.
    pub padding: usize,
}

impl Convolution {
    /// Outputs along a side of `side` inputs; 0 if no filter fits.
    pub fn output(self, side: usize) -> usize {
        match (side + 2 * self.padding).checked_sub(self.kernel) {
            Some(room) => room / self.stride + 1,
            None => 0,
        }
    }
}

/// Cross-correlation with zero padding, as the field's convolution is.
pub trait Conv2d: Info {
    /// x `[batch, h, w, in]`, w `[out, kernel·kernel·in]` with each filter in (y, x, channel) order →
    /// `[batch, h′, w′, out]`, sides by [`Convolution::output`].
    fn conv2d(&self, x: &Tensor, w: &Tensor, shape: Convolution) -> Result<Tensor> {
        let _ = (w, shape);
        lacking(self, Op::Conv2d, x)
    }

    /// Backward of [`Conv2d::conv2d`] from dy `[batch, h′, w′, out]`.
    fn conv2d_backward(
        &self,
        dy: &Tensor,
        x: &Tensor,
        w: &Tensor,
        shape: Convolution,
        dx: Slot,
        dw: Slot,
    ) -> Result<()> {
        let _ = (dy, w, shape, dx, dw);
        lacking(self, Op::Conv2d, x)
    }
}
