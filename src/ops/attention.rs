//! Multi-head softmax attention within packed sequences: for each segment and head,
//! O = softmax(Q Kᵀ / √head_dim) V, causal or not. qkv `[total, 3·width]` holds q, k and v side by
//! side, each head a contiguous chunk (PyTorch's `in_proj` layout); out `[total, width]`.
//!
//! The probabilities are never kept: one log-sum-exp a row is enough to make them again
//! (Dao et al., arXiv 2205.14135).

use super::{Result, shape_error, slot};
use crate::autodiff::{Tape, Var};
use crate::backend::{AttentionBackward, Segments};

/// Attention over the segments of a packed sequence.
///
/// # Errors
/// If qkv's rows are not the segments' total, or its width is not three times a multiple of `heads`.
pub fn attention(
    tape: &Tape,
    qkv: &Var,
    segments: &Segments,
    heads: usize,
    causal: bool,
) -> Result<Var> {
    let (rows, width) = (qkv.value().rows(), qkv.value().width());
    if rows != segments.total() {
        let detail = format!(
            "qkv {:?} for segments of {} tokens",
            qkv.shape(),
            segments.total()
        );
        return shape_error("attention", detail);
    }
    if heads == 0 || width % (3 * heads) != 0 {
        return shape_error(
            "attention",
            format!("qkv {:?} for {heads} heads", qkv.shape()),
        );
    }
    let (out, lse) = tape
        .backend()
        .attention(qkv.value(), segments, heads, causal)?;
    // With P = exp(s QKᵀ − lse), s = 1/√head_dim:  dV = Pᵀ dO,  dP = dO Vᵀ, and the softmax's
    // Jacobian dS = P ∘ (dP − D), where D_i = Σ_j P_ij dP_ij = dO_i·O_i needs no P:
    //   dQ = s dS K,   dK = s dSᵀ Q.
    let (x, segments, value) = (qkv.clone(), segments.clone(), out.clone());
    Ok(tape.record(out, &[qkv], move |tape, grads, dy| {
        let mut dx = grads.take(&x);
        tape.backend().attention_backward(
            AttentionBackward {
                dout: &dy,
                qkv: x.value(),
                out: &value,
                lse: &lse,
                segments: &segments,
                heads,
                causal,
            },
            slot(&mut dx),
        )?;
        grads.put(&x, dx);
        Ok(())
    }))
}
