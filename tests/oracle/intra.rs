//! The intra-modal divergence-weighted loss. For one modality, over the negatives only (j ≠ i):
//!
//! d_i = KL(softmax_j(α_T y_i·y_j) ‖ softmax_j(α x_i·x_j)),  L = Σ_i w_i d_i,
//!
//! and the loss is the sum over the chosen modalities.

use super::losses::{
    FeatureGradients, Features, cross_entropy, divergence, feature_gradients, logits,
};
use super::{Array, softmax};

/// What w_i is. `stop` values are taken from the frozen copy of the student.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weights {
    /// d_i / Σd
    Divergence,
    /// d_i / stop(Σd)
    Stable,
    /// stop(d_i / Σd)
    Detached,
    /// 1 / N
    Uniform,
    /// ℓ_i / Σℓ, ℓ_i the anchor's own cross-entropy in `clip`
    Clip,
}

impl Weights {
    pub const ALL: [Self; 5] = [
        Self::Divergence,
        Self::Stable,
        Self::Detached,
        Self::Uniform,
        Self::Clip,
    ];
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Modality {
    Both,
    Image,
    Text,
}

impl Modality {
    pub const ALL: [Self; 3] = [Self::Both, Self::Image, Self::Text];

    pub fn image(self) -> bool {
        self != Self::Text
    }

    pub fn text(self) -> bool {
        self != Self::Image
    }
}

/// What α is in α x_i·x_j; the cross-entropies of `Weights::Clip` always use the shared scale.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scale {
    Shared,
    Detached,
    Fixed(f64),
}

/// Σd and Σℓ are never divided by less.
pub const FLOOR: f64 = 1e-12;

/// The loss at `student`, with everything under a stop-gradient computed from `frozen`: the value
/// of the loss is `intra(s, s, …)`, and its gradient is that in the first argument alone.
pub fn intra(
    student: &Features,
    frozen: &Features,
    teacher: &Features,
    weights: Weights,
    modality: Modality,
    scale: Scale,
) -> f64 {
    let alpha = |of: &Features| match scale {
        Scale::Shared => of.scale,
        Scale::Detached => frozen.scale,
        Scale::Fixed(value) => value,
    };
    let one = |x: &Array, stopped: &Array, y: &Array, other: &Array| {
        let d = divergences(x, y, alpha(student), teacher.scale);
        let stopped = divergences(stopped, y, alpha(frozen), teacher.scale);
        let l = cross_entropies(x, other, student.scale);
        (0..d.len())
            .map(|i| {
                let weight = match weights {
                    Weights::Divergence => d[i] / total(&d),
                    Weights::Stable => d[i] / total(&stopped),
                    Weights::Detached => stopped[i] / total(&stopped),
                    Weights::Uniform => 1.0 / d.len() as f64,
                    Weights::Clip => l[i] / total(&l),
                };
                weight * d[i]
            })
            .sum::<f64>()
    };
    let mut loss = 0.0;
    if modality.image() {
        loss += one(&student.image, &frozen.image, &teacher.image, &student.text);
    }
    if modality.text() {
        loss += one(&student.text, &frozen.text, &teacher.text, &student.image);
    }
    loss
}

/// upstream · the gradient of `intra`, by central differences that leave the stopped parts alone.
pub fn intra_gradients(
    student: &Features,
    teacher: &Features,
    weights: Weights,
    modality: Modality,
    scale: Scale,
    upstream: f64,
) -> FeatureGradients {
    feature_gradients(
        student,
        |live| intra(live, student, teacher, weights, modality, scale),
        upstream,
    )
}

/// d_i for every anchor; zero for an anchor without negatives.
pub fn divergences(x: &Array, y: &Array, alpha: f64, teacher_alpha: f64) -> Vec<f64> {
    let (a, b) = (logits(x, x, alpha), logits(y, y, teacher_alpha));
    (0..a.len())
        .map(|i| divergence(&without(&b[i], i), &without(&a[i], i)))
        .collect()
}

/// ℓ_i = CE(α x_i·other_:, i).
pub fn cross_entropies(x: &Array, other: &Array, alpha: f64) -> Vec<f64> {
    let rows = logits(x, other, alpha);
    rows.iter()
        .enumerate()
        .map(|(i, row)| cross_entropy(row, i))
        .collect()
}

/// Row i is the softmax over j ≠ i of scale · x_i·x_j, with a zero at i.
pub fn neighbourhoods(x: &Array, scale: f64) -> Vec<Vec<f64>> {
    let rows = logits(x, x, scale);
    rows.iter()
        .enumerate()
        .map(|(i, row)| {
            let mut p = softmax(&without(row, i));
            p.insert(i, 0.0);
            p
        })
        .collect()
}

/// Σ, floored.
pub fn total(values: &[f64]) -> f64 {
    values.iter().sum::<f64>().max(FLOOR)
}

fn without(row: &[f64], i: usize) -> Vec<f64> {
    [&row[..i], &row[i + 1..]].concat()
}
