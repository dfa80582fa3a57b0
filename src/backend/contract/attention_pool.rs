//! The attention pooling of CLIP's ResNets (Radford et al., arXiv 2103.00020).

use super::{Info, Slot};
use crate::backend::{Op, Result, lacking};
use crate::tensor::Tensor;

/// What [`AttentionPool::attention_pool_backward`] reads.
#[derive(Clone, Copy, Debug)]
pub struct AttentionPoolBackward<'a> {
    /// `[batch, width]`.
    pub dout: &'a Tensor,
    /// `[batch, width]`.
    pub q: &'a Tensor,
    /// `[batch·tokens, width]`.
    pub k: &'a Tensor,
    /// `[batch·tokens, width]`.
    pub v: &'a Tensor,
    /// Of the forward pass, `[batch, heads, tokens]`.
    pub probabilities: &'a Tensor,
}

/// Softmax attention of one query an image over that image's tokens.
pub trait AttentionPool: Info {
    /// q `[batch, width]`, k and v `[batch·tokens, width]`, each head a contiguous chunk. Returns the output
    /// `[batch, width]` and the probabilities `[batch, heads, tokens]`.
    fn attention_pool(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        heads: usize,
    ) -> Result<(Tensor, Tensor)> {
        let _ = (k, v, heads);
        lacking(self, Op::AttentionPool, q)
    }

    /// Backward of [`AttentionPool::attention_pool`].
    fn attention_pool_backward(
        &self,
        of: AttentionPoolBackward,
        dq: Slot,
        dk: Slot,
        dv: Slot,
    ) -> Result<()> {
        let _ = (dq, dk, dv);
        lacking(self, Op::AttentionPool, of.q)
    }
}
