//! Evaluation: zero-shot classification and retrieval over feature vectors.

mod retrieval;
mod zero_shot;

pub use retrieval::{Captions, Recall, Retrieval, retrieval};
pub use zero_shot::{Accuracy, class_embeddings, zero_shot};

/// Scales each row of `width` elements to unit length; a zero row stays.
pub fn normalise(rows: &mut [f32], width: usize) {
    for row in rows.chunks_exact_mut(width.max(1)) {
        let norm = row
            .iter()
            .map(|x| f64::from(*x).powi(2))
            .sum::<f64>()
            .sqrt();
        if norm > 0.0 {
            row.iter_mut()
                .for_each(|x| *x = (f64::from(*x) / norm) as f32);
        }
    }
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}
