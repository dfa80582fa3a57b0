//! Images cut into patches.

use super::Info;
use crate::backend::{Op, Result, lacking};
use crate::tensor::Tensor;

/// A move of pixels; images have no gradient.
pub trait Patchify: Info {
    /// Images `[batch, h, w, channels]` → patches `[batch·(h/p)·(w/p), p·p·channels]`, row-major over the
    /// grid, each patch in (y, x, channel) order.
    fn patchify(&self, images: &Tensor, patch: usize) -> Result<Tensor> {
        let _ = patch;
        lacking(self, Op::Patchify, images)
    }
}
