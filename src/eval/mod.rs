//! Evaluation: zero-shot classification and retrieval, on the usual test sets or one's own.
//!
//! [`flags::EvalFlags`] names what to evaluate on and opens it as [`EvalSet`]s; an [`Evaluator`] runs
//! a model over them; [`report`] puts the outcomes into words. [`retrieval`] and [`zero_shot`] are the
//! protocols themselves, over plain feature vectors.

pub mod classes;
pub mod error;
mod evaluator;
mod features;
pub mod flags;
pub mod folders;
pub mod imagenet;
pub mod karpathy;
mod neighbours;
pub mod pair_flags;
pub mod picture_flags;
pub mod report;
mod retrieval;
mod sets;
mod zero_shot;

pub use error::{Error, Result};
pub use evaluator::{Evaluator, Outcome};
pub use features::{Embedded, Loading, Model};
pub use neighbours::{Near, Neighbours, Picture, Query, neighbours};
pub use retrieval::{Captions, Recall, Retrieval, retrieval};
pub use sets::{EvalSet, Protocols, demo_sets};
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

/// Inner product. Sixteen partial sums, because one would make every addition wait for the last.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    const LANES: usize = 16;
    let mut sums = [0.0f32; LANES];
    let (a, a_rest) = a.as_chunks::<LANES>();
    let (b, b_rest) = b.as_chunks::<LANES>();
    for (x, y) in a.iter().zip(b) {
        for (sum, (x, y)) in sums.iter_mut().zip(x.iter().zip(y)) {
            *sum += x * y;
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(x, y)| x * y).sum();
    sums.iter().sum::<f32>() + rest
}
