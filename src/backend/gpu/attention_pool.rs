//! Attention of one query an image.

use super::device::{Address, Launch};
use super::storage::{done, target_add, target_address};
use super::{Gpu, instance};
use crate::backend::{Result, Slot, shape_error};
use crate::tensor::{DType, Tensor};
use bytemuck::{Pod, Zeroable};

const OP: &str = "attention_pool";

/// Most tokens an image: a number for each must fit shared memory that any GPU gives without asking.
const TOKENS: usize = 8192;

/// A block for each image and head, with a number for each token.
fn launch(batch: usize, heads: usize, tokens: usize) -> Result<Launch> {
    if tokens > TOKENS {
        return shape_error(OP, format!("{tokens} tokens: at most {TOKENS} fit"));
    }
    Ok(Launch {
        grid: [(batch * heads) as u32, 1, 1],
        block: 128,
        shared: 4 * tokens as u32,
    })
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Forward {
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

pub(super) fn forward(
    gpu: &Gpu,
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    heads: usize,
) -> Result<(Tensor, Tensor)> {
    let (batch, width, dtype) = (q.rows(), q.width(), gpu.activations());
    let (tokens, dim) = (k.rows() / batch.max(1), width / heads);
    let launch = launch(batch, heads, tokens)?;
    let q = gpu.read(OP, q, dtype)?;
    let (k, v) = (gpu.read(OP, k, dtype)?, gpu.read(OP, v, dtype)?);
    let (out, out_at) = gpu.empty(&[batch, width], dtype)?;
    let (probabilities, probabilities_at) = gpu.empty(&[batch, heads, tokens], DType::F32)?;
    let arguments = Forward {
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
    gpu.launch(kernel, launch, &arguments)?;
    Ok((out, probabilities))
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Backward {
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
    add_dq: u32,
    add_dk: u32,
    add_dv: u32,
    padding: u32,
}

pub(super) fn backward(
    gpu: &Gpu,
    dout: &Tensor,
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    probabilities: &Tensor,
    dq: Slot,
    dk: Slot,
    dv: Slot,
) -> Result<()> {
    let (batch, width, dtype) = (q.rows(), q.width(), gpu.activations());
    let (heads, tokens) = (probabilities.rows() / batch.max(1), probabilities.width());
    let dim = width / heads.max(1);
    let launch = launch(batch, heads, tokens)?;
    let dq = gpu.target(OP, dq, q.shape(), dtype)?;
    let dk = gpu.target(OP, dk, k.shape(), dtype)?;
    let dv = gpu.target(OP, dv, v.shape(), dtype)?;
    let (dout, q) = (gpu.read(OP, dout, dtype)?, gpu.read(OP, q, dtype)?);
    let (k, v) = (gpu.read(OP, k, dtype)?, gpu.read(OP, v, dtype)?);
    let probabilities = gpu.read(OP, probabilities, DType::F32)?;
    let arguments = Backward {
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
    gpu.launch(kernel, launch, &arguments)?;
    done(gpu, [dq, dk, dv])
}
