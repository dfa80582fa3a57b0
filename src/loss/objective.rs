//! What a run minimises: a named weighted sum of the losses.

use super::inputs::{needed, project};
use super::{
    Anchors, Features, Inputs, Intra, IntraScale, Method, TeacherFeatures, Weights, afd, affinity,
    clip, crd, cross_kd, fd, gd, icl, intra_with_anchors, rows, scalar,
};
use crate::autodiff::{Result, Tape, Var};
use crate::backend::shape_error;
use crate::ops;

/// The value of an [`Objective`].
#[derive(Clone, Debug)]
pub struct ObjectiveValue {
    /// Σ weight · term, `[1]`.
    pub total: Var,
    /// Each computed term without its weight, `[1]`, by name.
    pub terms: Vec<(&'static str, Var)>,
    /// The anchors of the intra-modal loss by modality; empty without that loss.
    pub anchors: Vec<Anchors>,
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
    /// Share of an image's patches that `mfd` leaves out.
    pub mask_ratio: f64,
    /// Follows CLIP-KD's code where it differs from its paper; `--clip-kd-compat`. Of the formulas it
    /// changes one: `gd` divides its logits by the scale, where the paper multiplies. The learned scales
    /// of `icl`, `cross_kd` and `afd` are used without exp, which is for whoever gives them. Not followed
    /// are what its code does around the losses: it leaves loss heads out of gradient clipping, and of
    /// the synchronisation of ranks.
    pub clip_kd_compat: bool,
}

impl From<Method> for Objective {
    fn from(method: Method) -> Self {
        Self {
            weights: method.into(),
            intra: Intra::default(),
            intra_scale: IntraScale::default(),
            mask_ratio: 0.75,
            clip_kd_compat: false,
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
        let mut anchors = Vec::new();
        if weights.clip != 0.0 {
            terms.push(("clip", weights.clip, clip(tape, &student, inputs.scale)?));
        }
        if weights.need_teacher() {
            let what = "distillation needs a teacher's features";
            let teacher = needed(inputs.teacher, what)?;
            if weights.crd != 0.0 {
                let value = crd(tape, &student, inputs.scale, teacher)?;
                terms.push(("crd", weights.crd, value));
            }
            if weights.affinity != 0.0 {
                let value = affinity(tape, &student, inputs.scale, teacher)?;
                terms.push(("affinity", weights.affinity, value));
            }
            if weights.need_projection() {
                terms.extend(self.projected(tape, &student, inputs, teacher)?);
            }
            if weights.afd != 0.0 {
                let fusion = needed(inputs.fusion, "afd needs heads of its own")?;
                let scale = needed(inputs.afd_scale, "afd needs a scale of its own")?;
                let value = afd(tape, &student, scale, teacher, fusion)?;
                terms.push(("afd", weights.afd, value));
            }
            if weights.intra != 0.0 {
                let clip_scale = inputs.scale;
                let scale = match self.intra_scale {
                    IntraScale::Shared => clip_scale.clone(),
                    IntraScale::Detached => clip_scale.detach(),
                    IntraScale::Fixed(x) => {
                        Var::constant(tape.backend().upload(&[1], &[x as f32])?)
                    }
                };
                let options = &self.intra;
                let value;
                (value, anchors) =
                    intra_with_anchors(tape, &student, &scale, teacher, options, clip_scale)?;
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
        Ok(ObjectiveValue {
            total,
            terms,
            anchors,
        })
    }

    /// Name, weight and value of the terms that compare features of the teacher's width.
    fn projected(
        &self,
        tape: &Tape,
        unit: &Features,
        inputs: &Inputs,
        teacher: &TeacherFeatures,
    ) -> Result<Vec<(&'static str, f32, Var)>> {
        let weights = &self.weights;
        let (raw, heads) = (inputs.student, inputs.heads);
        let width = teacher.image.width();
        let image_head = heads.map(|h| &h.image);
        let text_head = heads.map(|h| &h.text);
        let student = Features {
            image: project(tape, &raw.image, &unit.image, image_head, width)?,
            text: project(tape, &raw.text, &unit.text, text_head, width)?,
        };
        let mut terms = Vec::new();
        if weights.fd != 0.0 {
            terms.push(("fd", weights.fd, fd(tape, &student, teacher)?));
        }
        if weights.need_interactive_scale() {
            let scale = needed(inputs.icl_scale, "icl needs a scale of its own")?;
            if weights.icl != 0.0 {
                let value = icl(tape, &student, scale, teacher)?;
                terms.push(("icl", weights.icl, value));
            }
            if weights.cross_kd != 0.0 {
                let value = cross_kd(tape, &student, scale, teacher)?;
                terms.push(("cross_kd", weights.cross_kd, value));
            }
        }
        if weights.mfd != 0.0 {
            let raw = needed(inputs.masked_image, "mfd needs features of masked images")?;
            let unit = ops::l2_normalize(tape, raw)?;
            let masked = Features {
                image: project(tape, raw, &unit, image_head, width)?,
                text: student.text.clone(),
            };
            terms.push(("mfd", weights.mfd, fd(tape, &masked, teacher)?));
        }
        if weights.gd != 0.0 {
            let value = if self.clip_kd_compat {
                let inverse = needed(inputs.inverse_scales, "gd needs the scales' inverses")?;
                let teacher = TeacherFeatures {
                    scale: inverse.1.clone(),
                    ..teacher.clone()
                };
                gd(tape, &student, inverse.0, &teacher)?
            } else {
                gd(tape, &student, inputs.scale, teacher)?
            };
            terms.push(("gd", weights.gd, value));
        }
        Ok(terms)
    }
}
