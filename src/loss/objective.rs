//! What a run minimises: a named weighted sum of the losses.

use super::{Features, Intra, TeacherFeatures, clip, crd, fd, icl, intra, rows, scalar};
use crate::autodiff::{Result, Tape, Var};
use crate::backend::{Activation, shape_error};
use crate::ops;

/// Named choices of weights; `--method`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Method {
    /// The contrastive loss alone: no teacher.
    Clip,
    /// CLIP-KD: contrastive, relational and feature distillation, interactive contrastive learning.
    ClipKd,
    /// CLIP-KD and the intra-modal loss.
    IntraKd,
}

/// The factor of each loss in the sum; a loss of weight 0 is not computed.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Weights {
    /// Of [`clip`](super::clip()).
    pub clip: f32,
    /// Of [`crd`](super::crd()).
    pub crd: f32,
    /// Of [`fd`](super::fd()).
    pub fd: f32,
    /// Of [`icl`](super::icl()).
    pub icl: f32,
    /// Of [`intra`](super::intra()).
    pub intra: f32,
}

impl From<Method> for Weights {
    fn from(method: Method) -> Self {
        let clip = Self {
            clip: 1.0,
            ..Self::default()
        };
        let clip_kd = Self {
            crd: 1.0,
            fd: 2000.0,
            icl: 1.0,
            ..clip
        };
        match method {
            Method::Clip => clip,
            Method::ClipKd => clip_kd,
            Method::IntraKd => Self {
                intra: 1.0,
                ..clip_kd
            },
        }
    }
}

impl Weights {
    /// Whether any loss reads the teacher.
    pub fn need_teacher(&self) -> bool {
        [self.crd, self.fd, self.icl, self.intra]
            .iter()
            .any(|&w| w != 0.0)
    }

    /// Whether any loss compares features themselves, which then must have the teacher's width.
    pub fn need_projection(&self) -> bool {
        self.fd != 0.0 || self.icl != 0.0
    }
}

/// Which α the intra-modal loss uses for the student; `--intra-scale`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum IntraScale {
    /// The contrastive loss's, which then learns from both.
    #[default]
    Shared,
    /// The same value without gradient.
    Detached,
    /// A constant.
    Fixed(f32),
}

/// A learned Linear(d_S → d_T).
#[derive(Clone, Debug)]
pub struct Head {
    /// `[d_T, d_S]`.
    pub weight: Var,
    /// `[d_T]`.
    pub bias: Var,
}

/// The heads that take a student to its teacher's width for `fd` and `icl`.
#[derive(Clone, Debug)]
pub struct Heads {
    /// For the image features.
    pub image: Head,
    /// For the text features.
    pub text: Head,
}

/// What one evaluation of an [`Objective`] reads.
#[derive(Clone, Debug)]
pub struct Inputs<'a> {
    /// The student's features as its towers give them, *not* normalised.
    pub student: &'a Features,
    /// α of the student, `[1]`, already exponentiated.
    pub scale: &'a Var,
    /// The teacher, if any loss reads it.
    pub teacher: Option<&'a TeacherFeatures>,
    /// Needed by `fd` and `icl` where the widths differ; used by them whenever given.
    pub heads: Option<&'a Heads>,
    /// c of `icl`, `[1]`, already exponentiated.
    pub icl_scale: Option<&'a Var>,
}

/// The value of an [`Objective`].
#[derive(Clone, Debug)]
pub struct ObjectiveValue {
    /// Σ weight · term, `[1]`.
    pub total: Var,
    /// Each computed term without its weight, `[1]`, by name.
    pub terms: Vec<(&'static str, Var)>,
}

/// A weighted sum of losses.
#[derive(Clone, Copy, Debug)]
pub struct Objective {
    /// The weights.
    pub weights: Weights,
    /// Switches of the intra-modal loss.
    pub intra: Intra,
    /// Its scale.
    pub intra_scale: IntraScale,
}

impl From<Method> for Objective {
    fn from(method: Method) -> Self {
        Self {
            weights: method.into(),
            intra: Intra::default(),
            intra_scale: IntraScale::default(),
        }
    }
}

impl Objective {
    /// Normalises the features, computes the terms of non-zero weight, and adds them up.
    ///
    /// # Errors
    /// If shapes do not fit, a teacher, heads or a scale is missing that a term needs, or every
    /// weight is 0.
    pub fn evaluate(&self, tape: &Tape, inputs: &Inputs) -> Result<ObjectiveValue> {
        let weights = &self.weights;
        rows(
            "objective",
            inputs.student.image.shape(),
            inputs.student.text.shape(),
            true,
        )?;
        scalar("objective", inputs.scale.value())?;
        let student = Features {
            image: ops::l2_normalize(tape, &inputs.student.image)?,
            text: ops::l2_normalize(tape, &inputs.student.text)?,
        };
        let mut terms = Vec::new();
        if weights.clip != 0.0 {
            terms.push(("clip", weights.clip, clip(tape, &student, inputs.scale)?));
        }
        if weights.need_teacher() {
            let Some(teacher) = inputs.teacher else {
                return Ok(shape_error(
                    "objective",
                    "distillation needs a teacher's features",
                )?);
            };
            if weights.crd != 0.0 {
                let value = crd(tape, &student, inputs.scale, teacher)?;
                terms.push(("crd", weights.crd, value));
            }
            if weights.need_projection() {
                let projected = project(tape, &student, inputs, teacher)?;
                if weights.fd != 0.0 {
                    terms.push(("fd", weights.fd, fd(tape, &projected, teacher)?));
                }
                if weights.icl != 0.0 {
                    let Some(scale) = inputs.icl_scale else {
                        return Ok(shape_error("objective", "icl needs a scale of its own")?);
                    };
                    terms.push(("icl", weights.icl, icl(tape, &projected, scale, teacher)?));
                }
            }
            if weights.intra != 0.0 {
                let clip_scale = inputs.scale;
                let scale = match self.intra_scale {
                    IntraScale::Shared => clip_scale.clone(),
                    IntraScale::Detached => clip_scale.detach(),
                    IntraScale::Fixed(x) => Var::constant(tape.backend().upload(&[1], &[x])?),
                };
                let value = intra(tape, &student, &scale, teacher, &self.intra, clip_scale)?;
                terms.push(("intra", weights.intra, value));
            }
        }
        let weighted: Vec<_> = terms
            .iter()
            .map(|(_, weight, term)| (term, *weight))
            .collect();
        if weighted.is_empty() {
            return Ok(shape_error(
                "objective",
                "every weight is 0: nothing to minimise",
            )?);
        }
        let total = ops::weighted_sum(tape, &weighted)?;
        let terms = terms
            .into_iter()
            .map(|(name, _, term)| (name, term))
            .collect();
        Ok(ObjectiveValue { total, terms })
    }
}

/// The student's unit features at the teacher's width: through the heads, applied *before*
/// normalisation, or as they are.
fn project(
    tape: &Tape,
    unit: &Features,
    inputs: &Inputs,
    teacher: &TeacherFeatures,
) -> Result<Features> {
    let (own, wanted) = (unit.image.value().width(), teacher.image.width());
    let Some(heads) = inputs.heads else {
        if own != wanted {
            let detail = format!("student width {own}, teacher width {wanted}: needs heads");
            return Ok(shape_error("objective", detail)?);
        }
        return Ok(unit.clone());
    };
    let through = |x: &Var, head: &Head| {
        let bias = Some(&head.bias);
        let y = ops::linear(tape, x, &head.weight, bias, None, Activation::None)?;
        ops::l2_normalize(tape, &y)
    };
    Ok(Features {
        image: through(&inputs.student.image, &heads.image)?,
        text: through(&inputs.student.text, &heads.text)?,
    })
}
