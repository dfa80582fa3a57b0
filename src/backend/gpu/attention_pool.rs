//! Attention of one query an image.

use super::device::{Address, Launch};
use super::operand::{done, target_add, target_address};
use super::{Gpu, arguments, instance};
use crate::backend::{AttentionPool, AttentionPoolBackward, Op, Result, Slot};
use crate::tensor::{DType, Tensor};

const OP: &str = "attention_pool";

/// Most tokens an image: a number for each must fit shared memory that any GPU gives without asking.
const TOKENS: usize = 8192;

arguments! {
    struct AttentionPoolArguments in "attention_pool" {
        q: Address,
        k: Address,
        v: Address,
        out: Address,
        probabilities: Address,
        tokens: i32,
        heads: i32,
        dim: i32,
        scale: f32,
    }

    struct AttentionPoolBackwardArguments in "attention_pool" {
        dout: Address,
        q: Address,
        k: Address,
        v: Address,
        probabilities: Address,
        dq: Address,
        dk: Address,
        dv: Address,
        tokens: i32,
        heads: i32,
        dim: i32,
        scale: f32,
        add_dq: i32,
        add_dk: i32,
        add_dv: i32,
        padding: i32,
    }
}

/// Whether shared memory has room for the tokens, and for how many.
pub(super) fn limit(shape: &[usize]) -> (bool, &'static str) {
    let fits = shape.get(1).is_none_or(|&tokens| tokens <= TOKENS);
    (fits, "images of at most 8192 tokens")
}

/// A block for each image and head, with a number for each token.
fn launch(batch: usize, heads: usize, tokens: usize) -> Launch {
    Launch {
        grid: [(batch * heads) as u32, 1, 1],
        block: 128,
        shared: 4 * tokens as u32,
        work: 0,
    }
}

impl AttentionPool for Gpu {
    fn attention_pool(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        heads: usize,
    ) -> Result<(Tensor, Tensor)> {
        let (batch, width, dtype) = (q.rows(), q.width(), self.activations());
        let (tokens, dim) = (k.rows() / batch.max(1), width / heads);
        self.check_size(Op::AttentionPool, &[batch, tokens, heads, dim])?;
        let launch = launch(batch, heads, tokens);
        let q = self.read(OP, q, dtype)?;
        let (k, v) = (self.read(OP, k, dtype)?, self.read(OP, v, dtype)?);
        let (out, out_at) = self.empty(&[batch, width], dtype)?;
        let (probabilities, probabilities_at) = self.empty(&[batch, heads, tokens], DType::F32)?;
        let arguments = AttentionPoolArguments {
            q: q.at(),
            k: k.at(),
            v: v.at(),
            out: out_at,
            probabilities: probabilities_at,
            tokens: tokens as i32,
            heads: heads as i32,
            dim: dim as i32,
            scale: 1.0 / (dim as f32).sqrt(),
        };
        let kernel = instance!("attention_pool", "attention_pool", dtype);
        self.launch(kernel, launch, &arguments)?;
        Ok((out, probabilities))
    }

    fn attention_pool_backward(
        &self,
        of: AttentionPoolBackward,
        dq: Slot,
        dk: Slot,
        dv: Slot,
    ) -> Result<()> {
        let AttentionPoolBackward {
            dout,
            q,
            k,
            v,
            probabilities,
        } = of;
        let (batch, width, dtype) = (q.rows(), q.width(), self.activations());
        let (heads, tokens) = (probabilities.rows() / batch.max(1), probabilities.width());
        let dim = width / heads.max(1);
        self.check_size(Op::AttentionPool, &[batch, tokens, heads, dim])?;
        let launch = launch(batch, heads, tokens);
        let dq = self.target(OP, dq, q.shape(), dtype)?;
        let dk = self.target(OP, dk, k.shape(), dtype)?;
        let dv = self.target(OP, dv, v.shape(), dtype)?;
        let (dout, q) = (self.read(OP, dout, dtype)?, self.read(OP, q, dtype)?);
        let (k, v) = (self.read(OP, k, dtype)?, self.read(OP, v, dtype)?);
        let probabilities = self.read(OP, probabilities, DType::F32)?;
        let arguments = AttentionPoolBackwardArguments {
            dout: dout.at(),
            q: q.at(),
            k: k.at(),
            v: v.at(),
            probabilities: probabilities.at(),
            dq: target_address(&dq),
            dk: target_address(&dk),
            dv: target_address(&dv),
            tokens: tokens as i32,
            heads: heads as i32,
            dim: dim as i32,
            scale: 1.0 / (dim as f32).sqrt(),
            add_dq: target_add(&dq),
            add_dk: target_add(&dk),
            add_dv: target_add(&dv),
            padding: 0,
        };
        let kernel = instance!("attention_pool", "attention_pool_backward", dtype);
        self.launch(kernel, launch, &arguments)?;
        done(self, [dq, dk, dv])
    }
}
