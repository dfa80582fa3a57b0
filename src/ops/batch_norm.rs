//! y = (x − μ) / √(σ² + ε) ∘ γ + β + r, then max(y, 0) if asked (Ioffe and Szegedy, arXiv 1502.03167):
//! x `[…, channels]`, γ and β `[channels]`, r like x. While training, μ and σ² (the biased one) are those
//! of x over everything but the channels; otherwise they are given constants.

use super::{Result, shape_error, slot};
use crate::autodiff::{Tape, Var};
use crate::backend::{BatchNormBackward, BatchNormForward, Moments};

/// Whose mean and variance normalise.
#[derive(Clone, Debug)]
pub enum Statistics {
    /// Those of the batch: training.
    Batch,
    /// Given ones: evaluation.
    Given(Moments),
}

/// What follows the normalisation, at no pass of its own.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tail<'a> {
    /// Added to the result.
    pub residual: Option<&'a Var>,
    /// Whether negative results then become 0.
    pub relu: bool,
}

/// Batch normalisation, and the moments that it used.
///
/// # Errors
/// If the shapes do not fit, or a batch has one element per channel, which has no variance.
pub fn batch_norm(
    tape: &Tape,
    x: &Var,
    gamma: &Var,
    beta: &Var,
    statistics: &Statistics,
    tail: Tail,
    eps: f32,
) -> Result<(Var, Moments)> {
    let channels = [x.value().width()];
    if gamma.shape() != channels || beta.shape() != channels {
        let detail = format!(
            "x {:?}, γ {:?}, β {:?}",
            x.shape(),
            gamma.shape(),
            beta.shape()
        );
        return shape_error("batch_norm", detail);
    }
    if let Some(r) = tail.residual.filter(|r| r.shape() != x.shape()) {
        let detail = format!("residual {:?} for x {:?}", r.shape(), x.shape());
        return shape_error("batch_norm", detail);
    }
    let backend = tape.backend();
    let moments = match statistics {
        Statistics::Batch if x.value().rows() < 2 => {
            let detail = format!("x {:?} has one element a channel", x.shape());
            return shape_error("batch_norm", detail);
        }
        Statistics::Batch => backend.batch_moments(x.value())?,
        Statistics::Given(m) if m.mean.shape() != channels || m.variance.shape() != channels => {
            let detail = format!(
                "x {:?}, mean {:?}, variance {:?}",
                x.shape(),
                m.mean.shape(),
                m.variance.shape()
            );
            return shape_error("batch_norm", detail);
        }
        Statistics::Given(m) => m.clone(),
    };
    let y = backend.batch_norm(BatchNormForward {
        x: x.value(),
        gamma: gamma.value(),
        beta: beta.value(),
        moments: &moments,
        eps,
        residual: tail.residual.map(Var::value),
        relu: tail.relu,
    })?;
    // With n = (x − μ) ρ, ρ = 1/√(σ² + ε), and g = dy where the ReLU passed (y > 0), else 0:
    //   dγ = Σ g ∘ n,   dβ = Σ g,   dr = g.
    // Given moments are constants: dx = γ ρ g. Those of the batch hold n at mean 0 and mean square 1
    // (but for ε), whatever x does, so the parts of g along 1 and along n are lost:
    //   dx = γ ρ (g − mean(g) − n · mean(g ∘ n)).
    let of_batch = matches!(statistics, Statistics::Batch);
    let (xc, g, b, r) = (
        x.clone(),
        gamma.clone(),
        beta.clone(),
        tail.residual.cloned(),
    );
    let (kept, used) = (tail.relu.then(|| y.clone()), moments.clone());
    let mut inputs = vec![x, gamma, beta];
    inputs.extend(tail.residual);
    let y = tape.record(y, &inputs, move |tape, grads, dy| {
        let (mut dx, mut dg, mut db) = (grads.take(&xc), grads.take(&g), grads.take(&b));
        let residual = r.filter(Var::is_tracked);
        let mut dr = None;
        tape.backend().batch_norm_backward(
            BatchNormBackward {
                dy: &dy,
                x: xc.value(),
                y: kept.as_ref(),
                gamma: g.value(),
                moments: &used,
                eps,
                of_batch,
            },
            slot(&mut dx),
            slot(&mut dg),
            slot(&mut db),
            residual.is_some().then_some(&mut dr),
        )?;
        grads.put(&xc, dx);
        grads.put(&g, dg);
        grads.put(&b, db);
        match (residual, dr) {
            (Some(r), Some(dr)) => grads.add(tape.backend(), &r, dr),
            _ => Ok(()),
        }
    });
    Ok((y, moments))
}
