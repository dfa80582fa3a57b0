//! Attention within packed sequences (Vaswani et al., arXiv 1706.03762; streamed as in FlashAttention, arXiv 2205.14135).

use super::{Info, Slot};
use crate::backend::{Op, Result, Segments, lacking};
use crate::tensor::Tensor;

/// What [`Attention::attention_backward`] reads.
#[derive(Clone, Copy, Debug)]
pub struct AttentionBackward<'a> {
    /// `[total, width]`.
    pub dout: &'a Tensor,
    /// `[total, 3·width]`.
    pub qkv: &'a Tensor,
    /// Output of the forward pass.
    pub out: &'a Tensor,
    /// Log-sum-exp of the forward pass, `[heads, total]`.
    pub lse: &'a Tensor,
    /// The sequences.
    pub segments: &'a Segments,
    /// Number of heads.
    pub heads: usize,
    /// Whether a token sees only itself and those before it.
    pub causal: bool,
}

/// Softmax attention within each segment.
pub trait Attention: Info {
    /// out = softmax(q kᵀ / √d) v for every head of d columns. qkv `[total, 3·width]` holds q, k, v side by side, each
    /// head a contiguous chunk. Returns the output `[total, width]` and the log-sum-exp of every
    /// row of logits `[heads, total]`.
    fn attention(
        &self,
        qkv: &Tensor,
        segments: &Segments,
        heads: usize,
        causal: bool,
    ) -> Result<(Tensor, Tensor)> {
        let _ = (segments, heads, causal);
        lacking(self, Op::Attention, qkv)
    }

    /// Backward of [`Attention::attention`]: recomputes the probabilities from `lse`.
    fn attention_backward(&self, of: AttentionBackward, dqkv: Slot) -> Result<()> {
        let _ = dqkv;
        lacking(self, Op::Attention, of.qkv)
    }
}
