//! The contrastive loss of CLIP (Radford et al., arXiv 2103.00020), streamed.
//!
//! ```text
//! a_ij = α v_i·s_j          A_i = ln Σ_j exp a_ij       A'_j = ln Σ_i exp a_ij
//! L = 1/(2n) Σ_i [(A_i − a_ii) + (A'_i − a_ii)]
//! ```
//! v, s `[n, d]` unit rows, α `[1]`, L `[1]`.

use super::{CrossModal, Features, check_student, half_mean_coef};
use crate::autodiff::{Result, Tape, Var};

/// ½ mean_i [CE(α v_i·s_:, i) + CE(α s_i·v_:, i)], a scalar `[1]`; `scale` is α `[1]`.
///
/// # Errors
/// If image and text features differ in shape or the scale is not a scalar.
pub fn clip(tape: &Tape, student: &Features, scale: &Var) -> Result<Var> {
    let n = check_student("clip", student, scale)?;
    let cross = CrossModal::new(tape, student, scale, None)?;
    let value = cross.mean(tape, n)?;
    let (student, scale) = (student.clone(), scale.clone());
    let inputs = [student.image.clone(), student.text.clone(), scale.clone()];
    // With p_ij = exp(a_ij − A_i) and p'_ji = exp(a_ij − A'_j), ∂A_i/∂a_ij = p_ij and
    // ∂A'_j/∂a_ij = p'_ji, so with c = ḡ/(2n)
    //
    //   C_ij = ∂L/∂a_ij = c (p_ij − [i=j]) + c (p'_ji − [i=j]),
    //   ∂L/∂v_i = α Σ_j C_ij s_j,    ∂L/∂s_j = α Σ_i C_ij v_i,    ∂L/∂α = Σ_ij C_ij v_i·s_j.
    //
    // The kernel makes α Σ_j C_ij s_j from the image→text rows with the text→image side as columns;
    // exchanging the roles gives ∂L/∂s. Each call adds its row part of ∂L/∂α, together all of it.
    Ok(
        tape.record(value, &inputs.each_ref(), move |tape, grads, dy| {
            let coef = half_mean_coef(tape, &dy, n)?;
            cross.backward(tape, grads, (&student, &scale), (coef.clone(), coef))
        }),
    )
}
