//! The class token of a vision transformer (Dosovitskiy et al., arXiv 2010.11929).

use super::{Info, Slot};
use crate::backend::{Op, Result, lacking};
use crate::tensor::Tensor;

/// A class token before each image's patches, and positions.
pub trait PrependClass: Info {
    /// Patches `[batch·len, width]`, class `[width]`, positions `[1 + len, width]` → `[batch·(1 + len), width]`.
    fn prepend_class(
        &self,
        patches: &Tensor,
        class: &Tensor,
        positions: &Tensor,
    ) -> Result<Tensor> {
        let _ = (class, positions);
        lacking(self, Op::PrependClass, patches)
    }

    /// Backward of [`PrependClass::prepend_class`] from dy `[batch·(1 + len), width]`.
    fn prepend_class_backward(
        &self,
        dy: &Tensor,
        len: usize,
        dpatches: Slot,
        dclass: Slot,
        dpositions: Slot,
    ) -> Result<()> {
        let _ = (len, dpatches, dclass, dpositions);
        lacking(self, Op::PrependClass, dy)
    }
}
