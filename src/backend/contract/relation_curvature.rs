//! The second derivative of a streamed contrastive loss, which gradient distillation needs.

use super::{Info, Logits, RowStats, Slot};
use crate::backend::{Op, Result, lacking};
use crate::tensor::Tensor;

/// What [`RelationCurvature::relation_curvature`] reads.
#[derive(Clone, Copy, Debug)]
pub struct HessianProduct<'a> {
    /// The logits of ℓ.
    pub logits: &'a Logits,
    /// Their statistics without a teacher.
    pub stats: &'a RowStats,
    /// (u `[n, width]`, z `[m, width]`), constant.
    pub tangent: (&'a Tensor, &'a Tensor),
    /// The factor of ℓ.
    pub coef: f32,
}

/// A product of the Hessian with a vector.
pub trait RelationCurvature: Info {
    /// Gradient of φ = ⟨u, ∂ℓ/∂x⟩ + ⟨z, ∂ℓ/∂y⟩ with respect to the logits' x, y and scale, where
    /// ℓ = coef Σ_i CE(a_i:, i) and (u, z) is the tangent: ℓ's second derivative applied to it. Tiles are recomputed.
    ///
    /// With E_ij = P_ij − [i=j], w_ij = u_i·y_j + x_i·z_j, r_i = Σ_j P_ij w_ij and
    /// D_ij = coef α P_ij (w_ij − r_i): dx_i += α Σ_j (D_ij y_j + coef E_ij z_j),
    /// dy_j += α Σ_i (D_ij x_i + coef E_ij u_i), dscale += Σ_ij D_ij x_i·y_j + coef Σ_ij E_ij w_ij.
    fn relation_curvature(
        &self,
        of: HessianProduct,
        dx: Slot,
        dy: Slot,
        dscale: Slot,
    ) -> Result<()> {
        let _ = (dx, dy, dscale);
        lacking(self, Op::RelationCurvature, &of.logits.x)
    }
}
