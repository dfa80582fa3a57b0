//! Affinity mimicking (TinyCLIP, Wu et al., arXiv 2309.12314, §3.1), streamed.
//!
//! ```text
//! a_ij = α v_i·s_j      p_ij  = exp(a_ij − A_i)     p'_ji = exp(a_ij − A'_j)      student
//! b_ij = α_T V_i·T_j    q_ij  = exp(b_ij − B_i)     q'_ji = exp(b_ij − B'_j)      teacher
//! L = 1/(2n) Σ_i [H(q_i, p_i) + H(q'_i, p'_i)],     H(q, p) = −Σ_j q_j ln p_j
//! ```
//! v, s `[n, d_S]` and V, T `[n, d_T]` unit rows, α and α_T `[1]`, L `[1]`. It is [`crd`](super::crd())
//! and the teacher's entropy, which is constant.

use super::{
    CrossModal, Features, TeacherFeatures, check_student, check_teacher, half_mean_coef,
    mean_of_both,
};
use crate::autodiff::{Result, Tape, Var};
use crate::backend::{Logits, Pair, RowStats};
use crate::tensor::Tensor;

/// ½ mean_i [H(softmax(α_T V_i·T_:), softmax(α v_i·s_:)) + the same text→image], a scalar `[1]`;
/// `scale` is the student's α `[1]`.
///
/// # Errors
/// If the features' shapes do not fit each other or a scale is not a scalar.
pub fn affinity(
    tape: &Tape,
    student: &Features,
    scale: &Var,
    teacher: &TeacherFeatures,
) -> Result<Var> {
    let n = check_student("affinity", student, scale)?;
    check_teacher("affinity", student, teacher)?;
    let cross = CrossModal::new(tape, student, scale, Some(teacher))?;
    let image = cross_entropies(tape, &cross.image_stats, teacher.image_to_text())?;
    let text = cross_entropies(tape, &cross.text_stats, teacher.text_to_image())?;
    let value = mean_of_both(tape, &image, &text, n)?;
    let (student, scale) = (student.clone(), scale.clone());
    let inputs = [student.image.clone(), student.text.clone(), scale.clone()];
    // H(q_i, p_i) = KL(q_i ‖ p_i) + H(q_i), and H(q_i) does not depend on the student: the gradient is
    // that of `crd`, C_ij = ∂L/∂a_ij = ḡ/(2n) [(p_ij − q_ij) + (p'_ji − q'_ji)].
    Ok(
        tape.record(value, &inputs.each_ref(), move |tape, grads, dy| {
            let coef = half_mean_coef(tape, &dy, n)?;
            cross.backward(tape, grads, (&student, &scale), (coef.clone(), coef))
        }),
    )
}

/// H(q_i, p_i) of every row, `[n]`, where `stats` holds KL(q_i ‖ p_i).
///
/// The teacher's entropy is what its rows lack of being uniform, H(q_i) = ln m − KL(q_i ‖ 1/m), and
/// uniform rows are those of a student whose logits are all 0.
fn cross_entropies(tape: &Tape, stats: &RowStats, teacher: Logits) -> Result<Tensor> {
    let backend = tape.backend();
    let (n, m) = (teacher.x.rows(), teacher.y.rows());
    let uniform = Logits {
        x: backend.zeros(&[n, 1])?,
        y: backend.zeros(&[m, 1])?,
        scale: backend.zeros(&[1])?,
    };
    let from_uniform = backend.relation(&Pair {
        student: uniform,
        teacher: Some(teacher),
        skip_diagonal: false,
    })?;
    let log_m = backend.upload(&[1], &[(m.max(1) as f64).ln() as f32])?;
    let log_m = backend.scale_by(&log_m, 1.0, None, n)?;
    // The two large terms first: what is left of them is exact.
    Ok(backend.weighted_sum(&[
        (&log_m, 1.0),
        (&from_uniform.value, -1.0),
        (&stats.value, 1.0),
    ])?)
}
