//! Interactive contrastive learning (CLIP-KD, Yang et al., arXiv 2307.12732, §3.5), streamed: the
//! student's anchors against the teacher's candidates.
//!
//! ```text
//! a_ij = c v_i·T_j      A_i = ln Σ_j exp a_ij          a'_ij = c s_i·V_j      A'_i likewise
//! L = 1/(2n) Σ_i [(A_i − a_ii) + (A'_i − a'_ii)]
//! ```
//! v, s `[n, d]` the student's unit rows, projected to the teacher's width if theirs differs; V, T
//! `[n, d]` constant; c `[1]` a learned scale of its own; L `[1]`.

use super::{
    Features, TeacherFeatures, check_student, half_mean_coef, mean_of_both, relation_of, rows,
    send_back,
};
use crate::autodiff::{Result, Tape, Var};
use crate::backend::{Logits, Pair, Side};

/// ½ mean_i [CE(c v_i·T_:, i) + CE(c s_i·V_:, i)], a scalar `[1]`; `scale` is c `[1]`.
///
/// # Errors
/// If a modality's shape differs between student and teacher or the scale is not a scalar.
pub fn icl(tape: &Tape, student: &Features, scale: &Var, teacher: &TeacherFeatures) -> Result<Var> {
    interactive("icl", tape, student, scale, teacher, [None, None])
}

/// The loss whose anchors are the student's and whose candidates the teacher's. `targets` are the
/// relations, image→text and text→image, whose softmax rows are aimed at: then a row's value is the
/// divergence from them; without, its cross-entropy against its own class.
pub(super) fn interactive(
    op: &'static str,
    tape: &Tape,
    student: &Features,
    scale: &Var,
    teacher: &TeacherFeatures,
    targets: [Option<Logits>; 2],
) -> Result<Var> {
    let n = check_student(op, student, scale)?;
    rows(op, student.image.shape(), teacher.text.shape(), true)?;
    rows(op, student.text.shape(), teacher.image.shape(), true)?;
    let pair = |x: &Var, y, teacher| Pair {
        student: relation_of(x, y, scale),
        teacher,
        skip_diagonal: false,
    };
    let [image_target, text_target] = targets;
    let image = pair(&student.image, &teacher.text, image_target);
    let text = pair(&student.text, &teacher.image, text_target);
    let image_stats = tape.backend().relation(&image)?;
    let text_stats = tape.backend().relation(&text)?;
    let value = mean_of_both(tape, &image_stats.value, &text_stats.value, n)?;
    let (student, scale) = (student.clone(), scale.clone());
    let inputs = [student.image.clone(), student.text.clone(), scale.clone()];
    // The candidates are constants, so each anchor has its own row alone: with k = ḡ/(2n),
    // p_ij = exp(a_ij − A_i) and the target t_ij, which is [i=j] or the softmax aimed at,
    //
    //   C_ij = ∂L/∂a_ij = k (p_ij − t_ij),
    //   ∂L/∂v_i = c Σ_j C_ij T_j,    ∂L/∂c = Σ_ij C_ij v_i·T_j + the same of the texts.
    Ok(
        tape.record(value, &inputs.each_ref(), move |tape, grads, dy| {
            let coef = half_mean_coef(tape, &dy, n)?;
            let row = Side {
                stats: image_stats,
                coef: coef.clone(),
            };
            send_back(tape, grads, &image, &row, None, &student.image, &scale)?;
            let row = Side {
                stats: text_stats,
                coef,
            };
            send_back(tape, grads, &text, &row, None, &student.text, &scale)
        }),
    )
}
