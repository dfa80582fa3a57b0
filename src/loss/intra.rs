//! The intra-modal divergence-weighted loss (Addad, Lechervy, Jurie), one fused operation.
//!
//! For one modality with student rows x_i and teacher rows y_i, over the *negatives only* (an
//! anchor's similarity with itself carries no information, and at α = 100 would hide everything else):
//!
//! ```text
//! a_ij = α x_i·x_j      A_i = ln Σ_{j≠i} exp a_ij      p_ij = exp(a_ij − A_i)     student
//! b_ij = α_T y_i·y_j    B_i = ln Σ_{j≠i} exp b_ij      q_ij = exp(b_ij − B_i)     teacher
//! d_i  = KL(q_i ‖ p_i)  = Σ_{j≠i} q_ij (b_ij − a_ij) − B_i + A_i   ≥ 0
//! L    = Σ_i w_i d_i
//! ```
//! and the losses of the chosen modalities are added. x `[n, d_S]` and y `[n, d_T]` unit rows, α and
//! α_T `[1]`, L `[1]`. The weights w are those of [`IntraWeights`]: by default w_i = d_i/Σd, so the
//! anchor whose neighbourhood the student misreads most weighs most.
//!
//! Forward streams the tiles of a and b with an online log-sum-exp and keeps d_i and, of each row's two
//! softmaxes, the largest logit and the sum; backward computes each tile again. Memory is O(n·d), where
//! a materialised version keeps at least four n×n matrices per modality.

use super::{
    CrossModal, Features, TeacherFeatures, check_student, check_teacher, relation_of, send_back,
};
use crate::autodiff::{Result, Tape, Var};
use crate::backend::{IntraWeights, Logits, Pair, RowStats, Side};
use crate::tensor::Tensor;
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// Whose neighbourhoods are distilled; `--intra-modality`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Modality {
    /// Image to image and text to text.
    #[default]
    Both,
    /// Image to image.
    Image,
    /// Text to text.
    Text,
}

/// The intra-modal loss's switches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Intra {
    /// How anchors are weighted.
    pub weights: IntraWeights,
    /// Which modalities take part.
    pub modality: Modality,
}

/// The anchors of one modality in one evaluation of the loss: tensors that the loss computes anyway.
#[derive(Clone, Debug)]
pub struct Anchors {
    /// `image` for I→I, `text` for T→T.
    pub modality: &'static str,
    /// The divergences d_i, `[n]`.
    pub divergence: Tensor,
    /// What the weights w_i are proportional to, `[n]`: d_i, or ℓ_i under [`IntraWeights::Clip`]. `None`
    /// where they are all 1/n.
    pub weight: Option<Tensor>,
    /// g_i = ∂L/∂d_i, `[n]`: an anchor of negative g_i is pushed away from its teacher.
    pub slope: Tensor,
}

/// What one modality keeps for its backward.
struct Part {
    pair: Pair,
    stats: RowStats,
    /// ∂L/∂d_i, `[n]`.
    g: Tensor,
    /// ∂L/∂ℓ_i under clip weights, `[n]`.
    h: Option<Tensor>,
    x: Var,
}

/// L_{I→I} + L_{T→T} of the chosen modalities, a scalar `[1]`.
///
/// `scale` is the α of a_ij, `[1]`: the contrastive scale, the same detached, or a constant.
/// `clip_scale` `[1]` is read under [`IntraWeights::Clip`] alone, whose ℓ_i are the anchors' own
/// cross-entropies in [`clip`](super::clip()): image→text for I→I, text→image for T→T.
///
/// # Errors
/// If the features' shapes do not fit each other or a scale is not a scalar.
pub fn intra(
    tape: &Tape,
    student: &Features,
    scale: &Var,
    teacher: &TeacherFeatures,
    options: &Intra,
    clip_scale: &Var,
) -> Result<Var> {
    let (loss, _) = intra_with_anchors(tape, student, scale, teacher, options, clip_scale)?;
    Ok(loss)
}

/// As [`intra`], with the anchors of each modality that takes part.
///
/// # Errors
/// As [`intra`].
pub fn intra_with_anchors(
    tape: &Tape,
    student: &Features,
    scale: &Var,
    teacher: &TeacherFeatures,
    options: &Intra,
    clip_scale: &Var,
) -> Result<(Var, Vec<Anchors>)> {
    let n = check_student("intra", student, scale)?;
    check_student("intra", student, clip_scale)?;
    check_teacher("intra", student, teacher)?;
    let backend = tape.backend();
    let clip = match options.weights {
        IntraWeights::Clip => Some(CrossModal::new(tape, student, clip_scale, None)?),
        _ => None,
    };
    let part = |x: &Var, y: &Tensor, own: Option<&RowStats>| -> Result<(Tensor, Part)> {
        let pair = Pair {
            student: relation_of(x, x.value(), scale),
            teacher: Some(Logits {
                x: y.clone(),
                y: y.clone(),
                scale: teacher.scale.clone(),
            }),
            skip_diagonal: true,
        };
        let stats = backend.relation(&pair)?;
        let (loss, g, h) =
            backend.intra_weights(&stats.value, options.weights, own.map(|own| &own.value))?;
        Ok((
            loss,
            Part {
                pair,
                stats,
                g,
                h,
                x: x.clone(),
            },
        ))
    };
    let image = match options.modality {
        Modality::Text => None,
        _ => Some(part(
            &student.image,
            &teacher.image,
            clip.as_ref().map(|c| &c.image_stats),
        )?),
    };
    let text = match options.modality {
        Modality::Image => None,
        _ => Some(part(
            &student.text,
            &teacher.text,
            clip.as_ref().map(|c| &c.text_stats),
        )?),
    };
    let terms: Vec<_> = [&image, &text]
        .into_iter()
        .flatten()
        .map(|(l, _)| (l, 1.0))
        .collect();
    let value = backend.weighted_sum(&terms)?;
    let (image, text) = (image.map(|(_, part)| part), text.map(|(_, part)| part));
    let anchors = [("image", &image), ("text", &text)]
        .into_iter()
        .filter_map(|(modality, part)| Some((modality, part.as_ref()?)))
        .map(|(modality, part)| Anchors {
            modality,
            divergence: part.stats.value.clone(),
            weight: match (options.weights, &clip) {
                (IntraWeights::Uniform, _) => None,
                (_, Some(clip)) if modality == "image" => Some(clip.image_stats.value.clone()),
                (_, Some(clip)) => Some(clip.text_stats.value.clone()),
                (_, None) => Some(part.stats.value.clone()),
            },
            slope: part.g.clone(),
        })
        .collect();

    let mut inputs = vec![scale.clone()];
    inputs.extend(
        [&image, &text]
            .into_iter()
            .flatten()
            .map(|part| part.x.clone()),
    );
    if clip.is_some() {
        inputs.extend([
            student.image.clone(),
            student.text.clone(),
            clip_scale.clone(),
        ]);
    }
    let (student, scale, clip_scale) = (student.clone(), scale.clone(), clip_scale.clone());
    // Let ḡ be the gradient of L, and g_i = ∂L/∂d_i with the weights' own dependence on d in it
    // (derived in `intra_weights`: the default has L = Σd²/Σd, so g_i = (2 d_i − L)/Σd).
    //
    // In row i of one modality only a and A depend on the student, and ∂A_i/∂a_ij = p_ij, so
    //
    //   ∂d_i/∂a_ij = −q_ij + p_ij  (j ≠ i),      G_ij = ∂L/∂a_ij = ḡ g_i (p_ij − q_ij),  G_ii = 0.
    //
    // Feature x_i enters as the anchor of row i, a_ij = α x_i·x_j, and as a candidate of every other
    // row, a_ji = α x_j·x_i:
    //
    //   ∂L/∂x_i = α Σ_{j≠i} (G_ij + G_ji) x_j,   ∂L/∂α = Σ_{i≠j} G_ij x_i·x_j.
    //
    // Because a_ij = a_ji and b_ij = b_ji, one tile serves G_ij and G_ji: p_ji = exp(a_ij − A_j).
    // That is the kernel's C with this modality as rows *and* as columns, and its row part alone is
    // ∂L/∂α.
    //
    // Under clip weights w_i = ℓ_i/Σℓ, and L depends on each ℓ_i too: h_i = ∂L/∂ℓ_i = (d_i − L)/Σℓ.
    // ℓ_i is a row's value of the contrastive loss, so ḡ h_i takes the place of ḡ/(2n) in `clip`'s
    // backward: image→text rows get those of I→I, text→image rows those of T→T, 0 where a
    // modality is left out.
    let loss = tape.record(
        value,
        &inputs.iter().collect::<Vec<_>>(),
        move |tape, grads, dy| {
            let backend = tape.backend();
            let mut clip_coef = [None, None];
            for (part, clip_coef) in [image, text].into_iter().zip(&mut clip_coef) {
                let Some(Part {
                    pair,
                    stats,
                    g,
                    h,
                    x,
                }) = part
                else {
                    continue;
                };
                let side = Side {
                    stats,
                    coef: backend.scale_by(&dy, 1.0, Some(&g), n)?,
                };
                send_back(tape, grads, &pair, &side, Some(&side), &x, &scale)?;
                *clip_coef = h
                    .map(|h| backend.scale_by(&dy, 1.0, Some(&h), n))
                    .transpose()?;
            }
            let Some(clip) = clip else { return Ok(()) };
            let [image, text] = clip_coef.map(|coef| coef.map_or_else(|| backend.zeros(&[n]), Ok));
            clip.backward(tape, grads, (&student, &clip_scale), (image?, text?))
        },
    );
    Ok((loss, anchors))
}
