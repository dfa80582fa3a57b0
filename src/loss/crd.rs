//! Contrastive relational distillation (CLIP-KD, Yang et al., arXiv 2307.12732, §3.2), streamed.
//!
//! ```text
//! a_ij = α v_i·s_j      p_ij  = exp(a_ij − A_i)     p'_ji = exp(a_ij − A'_j)      student
//! b_ij = α_T V_i·T_j    q_ij  = exp(b_ij − B_i)     q'_ji = exp(b_ij − B'_j)      teacher
//! L = 1/(2n) Σ_i [KL(q_i ‖ p_i) + KL(q'_i ‖ p'_i)]
//! ```
//! v, s `[n, d_S]` and V, T `[n, d_T]` unit rows, α and α_T `[1]`, L `[1]`.

use super::{CrossModal, Features, TeacherFeatures, check_student, check_teacher, half_mean_coef};
use crate::autodiff::{Result, Tape, Var};

/// ½ mean_i [KL(softmax(α_T V_i·T_:) ‖ softmax(α v_i·s_:)) + the same text→image], a scalar `[1]`;
/// `scale` is the student's α `[1]`.
///
/// # Errors
/// If the features' shapes do not fit each other or a scale is not a scalar.
pub fn crd(tape: &Tape, student: &Features, scale: &Var, teacher: &TeacherFeatures) -> Result<Var> {
    let n = check_student("crd", student, scale)?;
    check_teacher("crd", student, teacher)?;
    let cross = CrossModal::new(tape, student, scale, Some(teacher))?;
    let value = cross.mean(tape, n)?;
    let (student, scale) = (student.clone(), scale.clone());
    let inputs = [student.image.clone(), student.text.clone(), scale.clone()];
    // KL(q_i ‖ p_i) = Σ_j q_ij (b_ij − B_i) − Σ_j q_ij a_ij + A_i, where only a and A depend on the
    // student: ∂KL_i/∂a_ij = p_ij − q_ij. With c = ḡ/(2n)
    //
    //   C_ij = ∂L/∂a_ij = c (p_ij − q_ij) + c (p'_ji − q'_ji),
    //
    // and from there on as for `clip`: ∂L/∂v_i = α Σ_j C_ij s_j, ∂L/∂s_j = α Σ_i C_ij v_i,
    // ∂L/∂α = Σ_ij C_ij v_i·s_j.
    Ok(
        tape.record(value, &inputs.each_ref(), move |tape, grads, dy| {
            let coef = half_mean_coef(tape, &dy, n)?;
            cross.backward(tape, grads, (&student, &scale), (coef.clone(), coef))
        }),
    )
}
