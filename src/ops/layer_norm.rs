//! y = (x − μ) / √(σ² + ε) ∘ γ + β over the last dimension (Ba et al., arXiv 1607.06450): x
//! `[rows, width]`, γ and β `[width]`, biased variance.

use super::{Result, shape_error, slot};
use crate::autodiff::{Tape, Var};
use crate::backend::LayerNormBackward;

/// Layer normalisation of each row.
///
/// # Errors
/// If γ or β is not as wide as x.
pub fn layer_norm(tape: &Tape, x: &Var, gamma: &Var, beta: &Var, eps: f32) -> Result<Var> {
    let width = [x.value().width()];
    if gamma.shape() != width || beta.shape() != width {
        let detail = format!(
            "x {:?}, γ {:?}, β {:?}",
            x.shape(),
            gamma.shape(),
            beta.shape()
        );
        return shape_error("layer_norm", detail);
    }
    let out = tape
        .backend()
        .layer_norm(x.value(), gamma.value(), beta.value(), eps)?;
    // With n = (x − μ) r, r = 1/√(σ² + ε), and s = dy ∘ γ: μ and r depend on every element of the
    // row, which subtracts from s its mean and its component along n:
    //   dx = r (s − mean(s) − n · mean(s ∘ n)),   dγ = Σ_rows dy ∘ n,   dβ = Σ_rows dy.
    let (xc, g, b) = (x.clone(), gamma.clone(), beta.clone());
    let y = tape.record(out.y, &[x, gamma, beta], move |tape, grads, dy| {
        let (mut dx, mut dg, mut db) = (grads.take(&xc), grads.take(&g), grads.take(&b));
        tape.backend().layer_norm_backward(
            LayerNormBackward {
                dy: &dy,
                x: xc.value(),
                gamma: g.value(),
                mean: &out.mean,
                rstd: &out.rstd,
            },
            slot(&mut dx),
            slot(&mut dg),
            slot(&mut db),
        )?;
        grads.put(&xc, dx);
        grads.put(&g, dg);
        grads.put(&b, db);
        Ok(())
    });
    let (x, gamma, beta) = (
        x.value().clone(),
        gamma.value().clone(),
        beta.value().clone(),
    );
    Ok(y.made_by(move |backend| Ok(backend.layer_norm(&x, &gamma, &beta, eps)?.y)))
}
