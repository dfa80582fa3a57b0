//! Augmented feature distillation (CLIP-KD, Yang et al., arXiv 2307.12732, §3.6): the contrastive loss
//! of features that a learned head fuses from student and teacher.
//!
//! ```text
//! f_i = normalise(W [v_i; V_i] + b)      g_i = normalise(W' [s_i; T_i] + b')      L = clip(f, g, c)
//! ```
//! v, s `[n, d_S]` the student's unit rows; V, T `[n, d_T]` constant; W, W' `[d_S, d_S + d_T]`, kept as
//! their student's and teacher's columns; c `[1]` a learned scale of its own; L `[1]`. It is made of
//! operations that have their own backward passes.

use super::{Features, TeacherFeatures, check_student, check_teacher, clip};
use crate::autodiff::{Result, Tape, Var};
use crate::backend::Activation;
use crate::ops;
use crate::tensor::Tensor;

/// A learned Linear(d_S + d_T → d_S) on a student's feature and its teacher's (`visual_fusion_proj`,
/// `text_fusion_proj` in CLIP-KD's code).
#[derive(Clone, Debug)]
pub struct FusionHead {
    /// The columns that meet the student's feature, `[d_S, d_S]`.
    pub student: Var,
    /// The columns that meet the teacher's, `[d_S, d_T]`.
    pub teacher: Var,
    /// `[d_S]`.
    pub bias: Var,
}

/// The heads of both modalities.
#[derive(Clone, Debug)]
pub struct Fusion {
    /// For the image features.
    pub image: FusionHead,
    /// For the text features.
    pub text: FusionHead,
}

/// The contrastive loss of the fused features, a scalar `[1]`; `scale` is c `[1]`.
///
/// # Errors
/// If the features' shapes do not fit each other or the heads, or the scale is not a scalar.
pub fn afd(
    tape: &Tape,
    student: &Features,
    scale: &Var,
    teacher: &TeacherFeatures,
    fusion: &Fusion,
) -> Result<Var> {
    check_student("afd", student, scale)?;
    check_teacher("afd", student, teacher)?;
    let fused = Features {
        image: fuse(tape, &student.image, &teacher.image, &fusion.image)?,
        text: fuse(tape, &student.text, &teacher.text, &fusion.text)?,
    };
    clip(tape, &fused, scale)
}

/// normalise(W [x; y] + b): two products, of which the second adds to the first.
fn fuse(tape: &Tape, x: &Var, y: &Tensor, head: &FusionHead) -> Result<Var> {
    let none = Activation::None;
    let y = Var::constant(y.clone());
    let of_teacher = ops::linear(tape, &y, &head.teacher, None, None, none)?;
    let (weight, bias) = (&head.student, Some(&head.bias));
    let both = ops::linear(tape, x, weight, bias, Some(&of_teacher), none)?;
    ops::l2_normalize(tape, &both)
}
