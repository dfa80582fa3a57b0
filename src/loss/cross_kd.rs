//! Distillation of the interactive logits (`cross_kd_loss` in CLIP-KD's code, winycg/CLIP-KD), streamed:
//! the student's anchors meet the teacher's candidates as in [`icl`](super::icl()), and aim at the
//! teacher's own rows as in [`crd`](super::crd()).
//!
//! ```text
//! a_ij = c v_i·T_j      b_ij = α_T V_i·T_j          a'_ij = c s_i·V_j      b'_ij = α_T T_i·V_j
//! L = 1/(2n) Σ_i [KL(softmax(b_i) ‖ softmax(a_i)) + KL(softmax(b'_i) ‖ softmax(a'_i))]
//! ```
//! v, s `[n, d]` the student's unit rows, projected to the teacher's width if theirs differs; V, T
//! `[n, d]` and α_T `[1]` constant; c `[1]` the scale of `icl`, which both share; L `[1]`. The backward
//! is derived in `icl.rs`.

use super::icl::interactive;
use super::{Features, TeacherFeatures, check_teacher};
use crate::autodiff::{Result, Tape, Var};

/// ½ mean_i [KL(softmax(α_T V_i·T_:) ‖ softmax(c v_i·T_:)) + KL(softmax(α_T T_i·V_:) ‖
/// softmax(c s_i·V_:))], a scalar `[1]`; `scale` is c `[1]`.
///
/// # Errors
/// If a modality's shape differs between student and teacher or a scale is not a scalar.
pub fn cross_kd(
    tape: &Tape,
    student: &Features,
    scale: &Var,
    teacher: &TeacherFeatures,
) -> Result<Var> {
    check_teacher("cross_kd", student, teacher)?;
    let targets = [teacher.image_to_text(), teacher.text_to_image()].map(Some);
    interactive("cross_kd", tape, student, scale, teacher, targets)
}
