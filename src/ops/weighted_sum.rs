//! Σ_k w_k x_k of variables of one shape, with constant weights.

use super::{Result, shape_error, slot};
use crate::autodiff::{Tape, Var};
use crate::tensor::Tensor;

/// The weighted sum of `terms`.
///
/// # Errors
/// Without terms, or if their shapes differ.
pub fn weighted_sum(tape: &Tape, terms: &[(&Var, f32)]) -> Result<Var> {
    if let [(first, _), rest @ ..] = terms
        && let Some((other, _)) = rest.iter().find(|(t, _)| t.shape() != first.shape())
    {
        let detail = format!("{:?} with {:?}", first.shape(), other.shape());
        return shape_error("weighted_sum", detail);
    }
    let values: Vec<(&Tensor, f32)> = terms.iter().map(|(t, w)| (t.value(), *w)).collect();
    let y = tape.backend().weighted_sum(&values)?;
    // dx_k = w_k dy.
    let inputs: Vec<&Var> = terms.iter().map(|(t, _)| *t).collect();
    let kept: Vec<(Var, f32)> = terms.iter().map(|(t, w)| ((*t).clone(), *w)).collect();
    Ok(tape.record(y, &inputs, move |tape, grads, dy| {
        for (x, weight) in &kept {
            let mut dx = grads.take(x);
            tape.backend().scale_backward(&dy, *weight, slot(&mut dx))?;
            grads.put(x, dx);
        }
        Ok(())
    }))
}

/// x + y, the residual connection where no linear layer can fuse it.
pub fn add(tape: &Tape, x: &Var, y: &Var) -> Result<Var> {
    weighted_sum(tape, &[(x, 1.0), (y, 1.0)])
}
