//! Σ_k weights[k] · terms[k], all terms of one shape.

use super::Array;

pub fn weighted_sum(terms: &[Array], weights: &[f64]) -> Array {
    assert_eq!(terms.len(), weights.len());
    let mut sum = Array::zeros(&terms[0].shape);
    for (term, weight) in terms.iter().zip(weights) {
        assert_eq!(term.shape, sum.shape);
        for (total, value) in sum.data.iter_mut().zip(&term.data) {
            *total += weight * value;
        }
    }
    sum
}
