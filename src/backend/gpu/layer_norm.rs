//! Layer normalisation of rows.

use super::device::{Address, Kernel, Launch};
use super::storage::{done, target_add, target_address};
use super::{Gpu, column_sums};
use crate::backend::{LayerNorm, Result, Slot, shape_error};
use crate::tensor::{DType, Tensor};
use bytemuck::{Pod, Zeroable};

const OP: &str = "layer_norm";

/// Most blocks of the backward kernel: its partial sums stay small beside its operands.
const BACKWARD_BLOCKS: usize = 528;

/// The instances for rows of up to 512, 1024 and 8192 elements, and how many rows a block takes at a time.
struct Instance {
    forward: Kernel,
    backward: Kernel,
    rows: usize,
}

fn instance(width: usize, dtype: DType) -> Result<Instance> {
    let low = dtype == DType::BF16;
    let (forward, backward, rows) = match (width, low) {
        (0..=512, false) => ("layer_norm_512_f32", "layer_norm_backward_512_f32", 8),
        (0..=512, true) => ("layer_norm_512_bf16", "layer_norm_backward_512_bf16", 8),
        (513..=1024, false) => ("layer_norm_1024_f32", "layer_norm_backward_1024_f32", 8),
        (513..=1024, true) => ("layer_norm_1024_bf16", "layer_norm_backward_1024_bf16", 8),
        (1025..=8192, false) => ("layer_norm_8192_f32", "layer_norm_backward_8192_f32", 1),
        (1025..=8192, true) => ("layer_norm_8192_bf16", "layer_norm_backward_8192_bf16", 1),
        _ => return shape_error(OP, format!("rows of {width} elements: at most 8192 fit")),
    };
    let kernel = |entry| Kernel { module: OP, entry };
    Ok(Instance {
        forward: kernel(forward),
        backward: kernel(backward),
        rows,
    })
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Forward {
    x: Address,
    gamma: Address,
    beta: Address,
    y: Address,
    mean: Address,
    rstd: Address,
    rows: i64,
    width: i32,
    eps: f32,
}

pub(super) fn forward(
    gpu: &Gpu,
    x: &Tensor,
    gamma: &Tensor,
    beta: &Tensor,
    eps: f32,
) -> Result<LayerNorm> {
    let (rows, width, dtype) = (x.rows(), x.width(), gpu.activations());
    let instance = instance(width, dtype)?;
    let (x_in, gamma, beta) = (
        gpu.read(OP, x, dtype)?,
        gpu.read(OP, gamma, DType::F32)?,
        gpu.read(OP, beta, DType::F32)?,
    );
    let (y, y_at) = gpu.empty(x.shape(), dtype)?;
    let (mean, mean_at) = gpu.empty(&[rows], DType::F32)?;
    let (rstd, rstd_at) = gpu.empty(&[rows], DType::F32)?;
    let launch = Launch {
        grid: [rows.div_ceil(instance.rows) as u32, 1, 1],
        block: 256,
        shared: 0,
    };
    let arguments = Forward {
        x: x_in.at(),
        gamma: gamma.at(),
        beta: beta.at(),
        y: y_at,
        mean: mean_at,
        rstd: rstd_at,
        rows: rows as i64,
        width: width as i32,
        eps,
    };
    gpu.launch(instance.forward, launch, &arguments)?;
    Ok(LayerNorm { y, mean, rstd })
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Backward {
    dy: Address,
    x: Address,
    gamma: Address,
    mean: Address,
    rstd: Address,
    dx: Address,
    partials: Address,
    rows: i64,
    width: i32,
    add: u32,
}

pub(super) fn backward(
    gpu: &Gpu,
    dy: &Tensor,
    x: &Tensor,
    gamma: &Tensor,
    mean: &Tensor,
    rstd: &Tensor,
    dx: Slot,
    dgamma: Slot,
    dbeta: Slot,
) -> Result<()> {
    let (rows, width, dtype) = (x.rows(), x.width(), gpu.activations());
    let instance = instance(width, dtype)?;
    let (dy, xs) = (gpu.read(OP, dy, dtype)?, gpu.read(OP, x, dtype)?);
    let gamma_in = gpu.read(OP, gamma, DType::F32)?;
    let (mean, rstd) = (
        gpu.read(OP, mean, DType::F32)?,
        gpu.read(OP, rstd, DType::F32)?,
    );
    let dx = gpu.target(OP, dx, x.shape(), dtype)?;
    let dgamma = gpu.target(OP, dgamma, gamma.shape(), DType::F32)?;
    let dbeta = gpu.target(OP, dbeta, gamma.shape(), DType::F32)?;
    let blocks = rows.div_ceil(instance.rows).min(BACKWARD_BLOCKS);
    let partials = match dgamma.is_some() || dbeta.is_some() {
        true => Some(gpu.allocate(blocks * 2 * width * 4)?),
        false => None,
    };
    let launch = Launch {
        grid: [blocks as u32, 1, 1],
        block: 256,
        shared: 0,
    };
    let arguments = Backward {
        dy: dy.at(),
        x: xs.at(),
        gamma: gamma_in.at(),
        mean: mean.at(),
        rstd: rstd.at(),
        dx: target_address(&dx),
        partials: partials.as_ref().map_or(0, |p| p.at()),
        rows: rows as i64,
        width: width as i32,
        add: target_add(&dx),
    };
    gpu.launch(instance.backward, launch, &arguments)?;
    if let Some(partials) = partials {
        let sum = |from, target| {
            let Some(target) = target else { return Ok(()) };
            column_sums::finish(gpu, from, blocks, 2 * width, width, target)
        };
        sum(partials.at(), dgamma.as_ref())?;
        sum(partials.at() + 4 * width as u64, dbeta.as_ref())?;
    }
    done(gpu, [dx, dgamma, dbeta])
}
