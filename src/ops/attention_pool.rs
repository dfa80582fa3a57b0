//! Multi-head softmax attention of one query per image over the image's own tokens: for each image and
//! head, o = Σ_t p_t v_t with p = softmax(q·k_t / √head_dim). q `[batch, width]`, k and v
//! `[batch·tokens, width]`, each head a contiguous chunk; out `[batch, width]`.
//!
//! [`attention`](super::attention) for all tokens would give the same in its first row, for `tokens`
//! times the queries.

use super::{Result, shape_error, slot};
use crate::autodiff::{Tape, Var};
use crate::backend::AttentionPoolBackward;

/// What each image's query gathers from its tokens.
///
/// # Errors
/// If k and v differ in shape, are not a whole number of tokens for each query, or the width is not a
/// multiple of `heads`.
pub fn attention_pool(tape: &Tape, q: &Var, k: &Var, v: &Var, heads: usize) -> Result<Var> {
    let (batch, width) = (q.value().rows(), q.value().width());
    let rows = k.value().rows();
    if k.shape() != v.shape()
        || k.value().width() != width
        || batch == 0
        || rows < batch
        || !rows.is_multiple_of(batch)
        || heads == 0
        || !width.is_multiple_of(heads)
    {
        let detail = format!(
            "q {:?}, k {:?}, v {:?} for {heads} heads",
            q.shape(),
            k.shape(),
            v.shape()
        );
        return shape_error("attention_pool", detail);
    }
    let (out, p) = tape
        .backend()
        .attention_pool(q.value(), k.value(), v.value(), heads)?;
    // With s = 1/√head_dim:  dv_t = p_t do,  dp_t = do·v_t, the softmax's Jacobian
    // dl_t = p_t (dp_t − Σ_u p_u dp_u),  dq = s Σ_t dl_t k_t,  dk_t = s dl_t q. The probabilities are one
    // number a token and head, so they are kept.
    let (qc, kc, vc) = (q.clone(), k.clone(), v.clone());
    Ok(tape.record(out, &[q, k, v], move |tape, grads, dout| {
        let (mut dq, mut dk, mut dv) = (grads.take(&qc), grads.take(&kc), grads.take(&vc));
        tape.backend().attention_pool_backward(
            AttentionPoolBackward {
                dout: &dout,
                q: qc.value(),
                k: kc.value(),
                v: vc.value(),
                probabilities: &p,
            },
            slot(&mut dq),
            slot(&mut dk),
            slot(&mut dv),
        )?;
        grads.put(&qc, dq);
        grads.put(&kc, dk);
        grads.put(&vc, dv);
        Ok(())
    }))
}
