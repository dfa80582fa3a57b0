//! What one evaluation of an [`Objective`](super::Objective) reads.

use super::{Features, Fusion, TeacherFeatures};
use crate::autodiff::{Result, Tape, Var};
use crate::backend::{Activation, shape_error};
use crate::ops;
use crate::tensor::Tensor;

/// A learned Linear(d_S → d_T).
#[derive(Clone, Debug)]
pub struct Head {
    /// `[d_T, d_S]`.
    pub weight: Var,
    /// `[d_T]`.
    pub bias: Var,
}

/// The heads that take a student to its teacher's width for the losses that
/// [need it](super::Weights::need_projection).
#[derive(Clone, Debug)]
pub struct Heads {
    /// For the image features.
    pub image: Head,
    /// For the text features.
    pub text: Head,
}

/// Features, scales and heads. What only some losses read is `None` from [`Inputs::new`].
#[derive(Clone, Debug)]
pub struct Inputs<'a> {
    /// The student's features as its towers give them, *not* normalised.
    pub student: &'a Features,
    /// α of the student, `[1]`, already exponentiated.
    pub scale: &'a Var,
    /// The teacher, if any loss reads it.
    pub teacher: Option<&'a TeacherFeatures>,
    /// To the teacher's width; needed where the widths differ, used whenever given.
    pub heads: Option<&'a Heads>,
    /// c of `icl` and `cross_kd`, `[1]`, already exponentiated.
    pub icl_scale: Option<&'a Var>,
    /// Image features of the same images with most patches left out, *not* normalised: for `mfd`.
    pub masked_image: Option<&'a Var>,
    /// Heads of `afd`.
    pub fusion: Option<&'a Fusion>,
    /// c of `afd`, `[1]`, already exponentiated.
    pub afd_scale: Option<&'a Var>,
    /// 1/α and 1/α_T, `[1]`, by which `gd` multiplies under
    /// [`clip_kd_compat`](super::Objective::clip_kd_compat).
    pub inverse_scales: Option<(&'a Var, &'a Tensor)>,
}

impl<'a> Inputs<'a> {
    /// What the contrastive loss alone reads.
    pub fn new(student: &'a Features, scale: &'a Var) -> Self {
        Self {
            student,
            scale,
            teacher: None,
            heads: None,
            icl_scale: None,
            masked_image: None,
            fusion: None,
            afd_scale: None,
            inverse_scales: None,
        }
    }
}

/// `given`, or an error that names what is missing.
pub(super) fn needed<T>(given: Option<T>, what: &'static str) -> Result<T> {
    match given {
        Some(given) => Ok(given),
        None => Ok(shape_error("objective", what)?),
    }
}

/// The student's features `raw`, of which `unit` are the unit ones, as unit features of the teacher's
/// `width`: through the head, applied *before* normalisation, or as they are.
pub(super) fn project(
    tape: &Tape,
    raw: &Var,
    unit: &Var,
    head: Option<&Head>,
    width: usize,
) -> Result<Var> {
    let Some(head) = head else {
        let own = unit.value().width();
        if own != width {
            let detail = format!("student width {own}, teacher width {width}: needs heads");
            return Ok(shape_error("objective", detail)?);
        }
        return Ok(unit.clone());
    };
    let bias = Some(&head.bias);
    let y = ops::linear(tape, raw, &head.weight, bias, None, Activation::None)?;
    ops::l2_normalize(tape, &y)
}
