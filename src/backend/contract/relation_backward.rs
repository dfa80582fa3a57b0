//! The gradient of streamed similarity losses.

use super::{Info, Pair, RowStats, Slot};
use crate::backend::{Op, Result, lacking};
use crate::tensor::Tensor;

/// One direction of a relation loss in the backward pass.
#[derive(Clone, Debug)]
pub struct Side {
    /// The statistics of that direction's forward pass.
    pub stats: RowStats,
    /// ∂L/∂value_i including the upstream gradient, `[n]`.
    pub coef: Tensor,
}

/// The backward pass over rows of logits.
pub trait RelationBackward: Info {
    /// Gradient of relation losses with respect to `pair.student.x`; recomputes every tile.
    ///
    /// With P_ij = exp(a_ij − A_i) and the target T_ij (teacher's softmax, or identity):
    /// C_ij = row.coef_i (P_ij − T_ij) + col.coef_j (P′_ji − T′_ji), where the primed terms are
    /// softmaxes along the other direction; dx_i += α Σ_j C_ij y_j. The row part alone gives
    /// dscale += Σ_ij row.coef_i (P_ij − T_ij) x_i·y_j, so that each direction contributes once.
    fn relation_backward(
        &self,
        pair: &Pair,
        row: &Side,
        col: Option<&Side>,
        dx: Slot,
        dscale: Slot,
    ) -> Result<()> {
        let _ = (row, col, dx, dscale);
        lacking(self, Op::RelationBackward, &pair.student.x)
    }
}
