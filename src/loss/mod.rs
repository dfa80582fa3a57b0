//! The distillation losses, each one file and (but for `afd`) one operation on the tape, and [`Objective`]: their
//! named weighted sum.
//!
//! All of them read unit features in f32 and stream their similarities: nothing of size n×n exists,
//! forward or backward.

mod afd;
mod affinity;
mod clip;
mod crd;
mod cross_kd;
mod fd;
mod gd;
mod icl;
mod inputs;
mod intra;
mod intra_scale;
mod objective;
mod weights;

pub use afd::{Fusion, FusionHead, afd};
pub use affinity::affinity;
pub use clip::clip;
pub use crd::crd;
pub use cross_kd::cross_kd;
pub use fd::fd;
pub use gd::gd;
pub use icl::icl;
pub use inputs::{Head, Heads, Inputs};
pub use intra::{Anchors, Intra, Modality, intra, intra_with_anchors};
pub use intra_scale::IntraScale;
pub use objective::{Objective, ObjectiveValue};
pub use weights::{Method, Weights};

use crate::autodiff::{Grads, Result, Tape, Var};
use crate::backend::{Logits, Pair, RowStats, Side, shape_error};
use crate::tensor::Tensor;

/// A student's features of n pairs. Every loss wants unit rows; [`Objective`] normalises itself.
#[derive(Clone, Debug)]
pub struct Features {
    /// Image features v, `[n, d_S]`.
    pub image: Var,
    /// Text features s, `[n, d_S]`.
    pub text: Var,
}

/// The frozen teacher's unit features of the same n pairs.
#[derive(Clone, Debug)]
pub struct TeacherFeatures {
    /// Image features V, `[n, d_T]`.
    pub image: Tensor,
    /// Text features T, `[n, d_T]`.
    pub text: Tensor,
    /// α_T, `[1]`, already exponentiated.
    pub scale: Tensor,
}

impl TeacherFeatures {
    /// The teacher's image→text relation.
    fn image_to_text(&self) -> Logits {
        Logits {
            x: self.image.clone(),
            y: self.text.clone(),
            scale: self.scale.clone(),
        }
    }

    /// The teacher's text→image relation.
    fn text_to_image(&self) -> Logits {
        Logits {
            x: self.text.clone(),
            y: self.image.clone(),
            scale: self.scale.clone(),
        }
    }
}

/// Checks that `a` and `b` are n rows each, of one width where `same_width`. Returns n.
fn rows(op: &'static str, a: &[usize], b: &[usize], same_width: bool) -> Result<usize> {
    if a.len() != 2 || b.len() != 2 || a[0] != b[0] || (same_width && a[1] != b[1]) {
        let rule = if same_width {
            "must be one [n, width]"
        } else {
            "must have the same rows"
        };
        return Ok(shape_error(op, format!("{a:?} and {b:?} {rule}"))?);
    }
    Ok(a[0])
}

/// Checks that a scale is one number.
fn scalar(op: &'static str, scale: &Tensor) -> Result<()> {
    if scale.shape() != [1] {
        return Ok(shape_error(
            op,
            format!("scale {:?} must be [1]", scale.shape()),
        )?);
    }
    Ok(())
}

/// Checks the student's two modalities and its scale. Returns n.
fn check_student(op: &'static str, student: &Features, scale: &Var) -> Result<usize> {
    scalar(op, scale.value())?;
    rows(op, student.image.shape(), student.text.shape(), true)
}

/// Checks the teacher against the student, whose width may differ.
fn check_teacher(op: &'static str, student: &Features, teacher: &TeacherFeatures) -> Result<()> {
    scalar(op, &teacher.scale)?;
    rows(op, teacher.image.shape(), teacher.text.shape(), true)?;
    rows(op, student.image.shape(), teacher.image.shape(), false)?;
    Ok(())
}

/// Both directions of the student's cross-modal relation with their statistics.
struct CrossModal {
    image: Pair,
    image_stats: RowStats,
    text: Pair,
    text_stats: RowStats,
}

impl CrossModal {
    /// Streams image→text and text→image once each; without a teacher the target is the pairing.
    fn new(
        tape: &Tape,
        student: &Features,
        scale: &Var,
        teacher: Option<&TeacherFeatures>,
    ) -> Result<Self> {
        let pair = |x: &Var, y: &Var, teacher| Pair {
            student: relation_of(x, y.value(), scale),
            teacher,
            skip_diagonal: false,
        };
        let image = pair(
            &student.image,
            &student.text,
            teacher.map(TeacherFeatures::image_to_text),
        );
        let text = pair(
            &student.text,
            &student.image,
            teacher.map(TeacherFeatures::text_to_image),
        );
        let image_stats = tape.backend().relation(&image)?;
        let text_stats = tape.backend().relation(&text)?;
        Ok(Self {
            image,
            image_stats,
            text,
            text_stats,
        })
    }

    /// ½ (mean_i value_i of image→text + the same of text→image).
    fn mean(&self, tape: &Tape, n: usize) -> Result<Tensor> {
        mean_of_both(tape, &self.image_stats.value, &self.text_stats.value, n)
    }

    /// Propagates ∂L/∂value_i of both directions, `[n]` each, to both features and the scale. Each
    /// call of the kernel makes the whole gradient of one modality, and one direction's part of the
    /// scale's.
    fn backward(
        self,
        tape: &Tape,
        grads: &mut Grads,
        (student, scale): (&Features, &Var),
        (image_coef, text_coef): (Tensor, Tensor),
    ) -> Result<()> {
        let image = Side {
            stats: self.image_stats,
            coef: image_coef,
        };
        let text = Side {
            stats: self.text_stats,
            coef: text_coef,
        };
        send_back(
            tape,
            grads,
            &self.image,
            &image,
            Some(&text),
            &student.image,
            scale,
        )?;
        send_back(
            tape,
            grads,
            &self.text,
            &text,
            Some(&image),
            &student.text,
            scale,
        )
    }
}

/// The relation of a variable with constant or variable candidates under a variable scale.
fn relation_of(x: &Var, y: &Tensor, scale: &Var) -> Logits {
    Logits {
        x: x.value().clone(),
        y: y.clone(),
        scale: scale.value().clone(),
    }
}

/// ½ (mean of one direction's values + mean of the other's), `[1]`.
fn mean_of_both(tape: &Tape, a: &Tensor, b: &Tensor, n: usize) -> Result<Tensor> {
    let (backend, half) = (tape.backend(), 0.5 / n.max(1) as f32);
    let (a, b) = (backend.sum(a, half)?, backend.sum(b, half)?);
    Ok(backend.weighted_sum(&[(&a, 1.0), (&b, 1.0)])?)
}

/// ∂L/∂value_i = dy/(2n) of a mean over both directions, `[n]`.
fn half_mean_coef(tape: &Tape, dy: &Tensor, n: usize) -> Result<Tensor> {
    Ok(tape
        .backend()
        .scale_by(dy, 0.5 / n.max(1) as f32, None, n)?)
}

/// Runs `relation_backward` into the gradients of `x` and `scale`, as far as they want any.
fn send_back(
    tape: &Tape,
    grads: &mut Grads,
    pair: &Pair,
    row: &Side,
    col: Option<&Side>,
    x: &Var,
    scale: &Var,
) -> Result<()> {
    let (mut dx, mut dscale) = (grads.take(x), grads.take(scale));
    if dx.is_some() || dscale.is_some() {
        tape.backend()
            .relation_backward(pair, row, col, dx.as_mut(), dscale.as_mut())?;
    }
    grads.put(x, dx);
    grads.put(scale, dscale);
    Ok(())
}
