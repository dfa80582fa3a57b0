//! Zero-shot classification (Radford et al., arXiv 2103.00020, §3.1): an image belongs to the class
//! whose embedding is nearest.

use super::{dot, normalise};
use rayon::prelude::*;

/// Shares of images whose class is first, or among the first five.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize)]
pub struct Accuracy {
    /// The nearest class is right.
    pub top1: f64,
    /// One of the five nearest is right.
    pub top5: f64,
}

/// normalise(mean over templates of normalised text features) of each class: `features` holds the
/// `templates` prompts of class 0, then those of class 1, and so on, each `width` long.
pub fn class_embeddings(features: &[f32], templates: usize, width: usize) -> Vec<f32> {
    let mut unit = features.to_vec();
    normalise(&mut unit, width);
    let mut out = Vec::with_capacity(features.len() / templates.max(1));
    for class in unit.chunks_exact((templates * width).max(1)) {
        out.extend((0..width).map(|k| {
            let sum: f64 = class
                .iter()
                .skip(k)
                .step_by(width)
                .map(|x| f64::from(*x))
                .sum();
            (sum / templates as f64) as f32
        }));
    }
    normalise(&mut out, width);
    out
}

/// Accuracy of unit image features `[n, width]` against unit class embeddings `[classes, width]`.
/// Of equal similarities the lower class comes first.
pub fn zero_shot(features: &[f32], classes: &[f32], labels: &[usize], width: usize) -> Accuracy {
    let (top1, top5) = features
        .par_chunks_exact(width.max(1))
        .zip(labels)
        .map(|(x, &label)| {
            let Some(own) = classes.chunks_exact(width.max(1)).nth(label) else {
                return (0, 0);
            };
            let own = dot(x, own);
            let before = classes
                .chunks_exact(width.max(1))
                .enumerate()
                .filter(|(j, y)| {
                    let s = dot(x, y);
                    s > own || (s == own && *j < label)
                })
                .count();
            // A NaN feature matches nothing.
            (
                u64::from(before < 1 && !own.is_nan()),
                u64::from(before < 5 && !own.is_nan()),
            )
        })
        .reduce(|| (0, 0), |a, b| (a.0 + b.0, a.1 + b.1));
    let n = labels.len().max(1) as f64;
    Accuracy {
        top1: top1 as f64 / n,
        top5: top5 as f64 / n,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_the_nearest() {
        let classes = [1.0, 0.0, 0.0, 1.0, 0.6, 0.8];
        let images = [1.0, 0.0, 0.0, 1.0, 0.0, 1.0];
        let a = zero_shot(&images, &classes, &[0, 1, 0], 2);
        assert_eq!((a.top1, a.top5), (2.0 / 3.0, 1.0));
        assert_eq!(
            zero_shot(&[f32::NAN, 0.0], &classes, &[0], 2),
            Accuracy::default()
        );
    }

    #[test]
    fn templates_are_normalised_before_and_after_the_mean() {
        let e = class_embeddings(&[3.0, 0.0, 0.0, 0.5], 2, 2);
        let half = std::f32::consts::FRAC_1_SQRT_2;
        assert!((e[0] - half).abs() < 1e-6 && (e[1] - half).abs() < 1e-6);
    }
}
