//! Gradient distillation (CLIP-KD, Yang et al., arXiv 2307.12732, §3.4), streamed: the student's
//! contrastive loss should pull at its features as the teacher's pulls at the teacher's.
//!
//! ```text
//! a_ij = α v_i·s_j      P_ij = softmax_j(a_i:)      E = P − I      ℓ = mean_i CE(a_i:, i)      image→text
//! ∂ℓ/∂v = (α/n) E s     ∂ℓ/∂s = (α/n) Eᵀ v          and ∂ℓ'/∂s, ∂ℓ'/∂v of text→image likewise
//! L = the mean squared difference of each of the four from the teacher's, added up
//! ```
//! v, s `[n, d]` the student's unit rows, projected to the teacher's width if theirs differs; V, T
//! `[n, d]` and α_T `[1]` constant; α `[1]`, L `[1]`. As in CLIP-KD's code each direction's ℓ is the plain
//! mean, without the ½ of `clip`, so that its weight 1e8 carries over.
//!
//! Each gradient is one product of a softmax with features, made tile by tile: neither the n×n matrices
//! nor CLIP-KD's `[n, d, n]` tensor exists.

use super::{Features, TeacherFeatures, check_student, check_teacher, rows};
use crate::autodiff::{Result, Tape, Var};
use crate::backend::{HessianProduct, Logits, Pair, RowStats, Side};
use crate::tensor::Tensor;

/// One direction's relation and the gradients of its mean cross-entropy.
struct Direction {
    relation: Logits,
    stats: RowStats,
    /// By the anchors, `[n, d]`.
    anchors: Tensor,
    /// By the candidates, `[n, d]`.
    candidates: Tensor,
}

/// Sum of the four mean squared differences between student's and teacher's gradients, a scalar `[1]`;
/// `scale` is α `[1]`.
///
/// # Errors
/// If a modality's shape differs between student and teacher or a scale is not a scalar.
pub fn gd(tape: &Tape, student: &Features, scale: &Var, teacher: &TeacherFeatures) -> Result<Var> {
    let n = check_student("gd", student, scale)?;
    check_teacher("gd", student, teacher)?;
    rows("gd", student.image.shape(), teacher.image.shape(), true)?;
    let backend = tape.backend();
    let (v, s) = (student.image.value(), student.text.value());
    let own = directions(tape, n, [v, s], scale.value())?;
    let wanted = directions(tape, n, [&teacher.image, &teacher.text], &teacher.scale)?
        .map(|d| [d.anchors, d.candidates]);
    let mut terms = Vec::new();
    for (own, [anchors, candidates]) in own.iter().zip(&wanted) {
        terms.push(backend.mse(&own.anchors, anchors)?);
        terms.push(backend.mse(&own.candidates, candidates)?);
    }
    let value = backend.weighted_sum(&terms.iter().map(|t| (t, 1.0)).collect::<Vec<_>>())?;
    let (student, scale) = (student.clone(), scale.clone());
    let inputs = [student.image.clone(), student.text.clone(), scale.clone()];
    // Of one direction let g = ∂ℓ/∂v and h = ∂ℓ/∂s. The gradients of L with respect to them are
    //
    //   u = 2ḡ (g − g_T)/(n d),    z = 2ḡ (h − h_T)/(n d),
    //
    // and what is left is the gradient of φ = ⟨u, g⟩ + ⟨z, h⟩ with u and z fixed, that is, ℓ's second
    // derivative applied to (u, z). With w_ij = u_i·s_j + v_i·z_j
    //
    //   φ = (α/n) Σ_ij E_ij w_ij.
    //
    // A row of the softmax has ∂P_ij/∂a_ik = P_ij ([j=k] − P_ik); with r_i = Σ_j P_ij w_ij
    //
    //   D_ij = ∂φ/∂a_ij = (α/n) P_ij (w_ij − r_i),
    //   ∂φ/∂v_i = α Σ_j D_ij s_j + (α/n) Σ_j E_ij z_j,    the second term from w,
    //   ∂φ/∂s_j = α Σ_i D_ij v_i + (α/n) Σ_i E_ij u_i,
    //   ∂φ/∂α   = Σ_ij D_ij v_i·s_j + (1/n) Σ_ij E_ij w_ij.
    Ok(
        tape.record(value, &inputs.each_ref(), move |tape, grads, dy| {
            let backend = tape.backend();
            let sides = [
                (&student.image, &student.text),
                (&student.text, &student.image),
            ];
            for ((own, [anchors, candidates]), (x, y)) in own.iter().zip(&wanted).zip(sides) {
                let (mut u, mut z) = (None, None);
                backend.mse_backward(&dy, &own.anchors, anchors, Some(&mut u))?;
                backend.mse_backward(&dy, &own.candidates, candidates, Some(&mut z))?;
                let (Some(u), Some(z)) = (u, z) else { continue };
                let (mut dx, mut d_y) = (grads.take(x), grads.take(y));
                let mut dscale = grads.take(&scale);
                backend.relation_curvature(
                    HessianProduct {
                        logits: &own.relation,
                        stats: &own.stats,
                        tangent: (&u, &z),
                        coef: mean(n),
                    },
                    dx.as_mut(),
                    d_y.as_mut(),
                    dscale.as_mut(),
                )?;
                grads.put(x, dx);
                grads.put(y, d_y);
                grads.put(&scale, dscale);
            }
            Ok(())
        }),
    )
}

fn mean(n: usize) -> f32 {
    1.0 / n.max(1) as f32
}

/// Image→text and text→image of `[image, text]` features.
fn directions(
    tape: &Tape,
    n: usize,
    [image, text]: [&Tensor; 2],
    scale: &Tensor,
) -> Result<[Direction; 2]> {
    let backend = tape.backend();
    let pair = |x: &Tensor, y: &Tensor| Pair {
        student: Logits {
            x: x.clone(),
            y: y.clone(),
            scale: scale.clone(),
        },
        teacher: None,
        skip_diagonal: false,
    };
    let pairs = [pair(image, text), pair(text, image)];
    let stats = [backend.relation(&pairs[0])?, backend.relation(&pairs[1])?];
    let one = backend.upload(&[1], &[1.0])?;
    let (all, none) = (
        backend.scale_by(&one, mean(n), None, n)?,
        backend.zeros(&[n])?,
    );
    let side = |k: usize, coef: &Tensor| Side {
        stats: stats[k].clone(),
        coef: coef.clone(),
    };
    let direction = |k: usize| -> Result<Direction> {
        let (mut anchors, mut candidates) = (None, None);
        backend.relation_backward(&pairs[k], &side(k, &all), None, Some(&mut anchors), None)?;
        // The candidates are the anchors of the other direction, whose own rows have no part in this one.
        backend.relation_backward(
            &pairs[1 - k],
            &side(1 - k, &none),
            Some(&side(k, &all)),
            Some(&mut candidates),
            None,
        )?;
        let empty = || backend.zeros(image.shape());
        Ok(Direction {
            relation: pairs[k].student.clone(),
            stats: stats[k].clone(),
            anchors: anchors.map_or_else(empty, Ok)?,
            candidates: candidates.map_or_else(empty, Ok)?,
        })
    };
    Ok([direction(0)?, direction(1)?])
}
