//! Rows scaled to unit length: from activations to f32 features, which the losses compare.

use super::device::{Address, Launch};
use super::storage::done;
use super::{Gpu, instance};
use crate::backend::{Result, Slot};
use crate::tensor::{DType, Tensor};
use bytemuck::{Pod, Zeroable};

const OP: &str = "l2_normalize";

/// A warp a row.
fn launch(rows: usize) -> Launch {
    Launch {
        grid: [rows.div_ceil(8) as u32, 1, 1],
        block: 256,
        shared: 0,
    }
}

pub(super) fn forward(gpu: &Gpu, x: &Tensor) -> Result<(Tensor, Tensor)> {
    #[repr(C)]
    #[derive(Clone, Copy, Pod, Zeroable)]
    struct L2Normalize {
        x: Address,
        y: Address,
        inverse: Address,
        rows: i64,
        width: i32,
        padding: u32,
    }
    let (rows, dtype) = (x.rows(), x.dtype());
    let (y, y_at) = gpu.empty(x.shape(), DType::F32)?;
    let (inverse, inverse_at) = gpu.empty(&[rows], DType::F32)?;
    let arguments = L2Normalize {
        x: gpu.read(OP, x, dtype)?.at(),
        y: y_at,
        inverse: inverse_at,
        rows: rows as i64,
        width: x.width() as i32,
        padding: 0,
    };
    let kernel = instance!("l2_normalize", "l2_normalize", dtype);
    gpu.launch(kernel, launch(rows), &arguments)?;
    Ok((y, inverse))
}

pub(super) fn backward(
    gpu: &Gpu,
    dy: &Tensor,
    y: &Tensor,
    inverse: &Tensor,
    dx: Slot,
) -> Result<()> {
    #[repr(C)]
    #[derive(Clone, Copy, Pod, Zeroable)]
    struct Backward {
        dy: Address,
        y: Address,
        inverse: Address,
        dx: Address,
        rows: i64,
        width: i32,
        add: u32,
    }
    // The gradient of what a tower gave, unless another loss has begun one in f32.
    let dtype = match &dx {
        Some(Some(sum)) => sum.dtype(),
        _ => gpu.activations(),
    };
    let Some(dx) = gpu.target(OP, dx, y.shape(), dtype)? else {
        return Ok(());
    };
    let (rows, width) = (y.rows(), y.width());
    let (dy, y) = (gpu.read(OP, dy, DType::F32)?, gpu.read(OP, y, DType::F32)?);
    let inverse = gpu.read(OP, inverse, DType::F32)?;
    let arguments = Backward {
        dy: dy.at(),
        y: y.at(),
        inverse: inverse.at(),
        dx: dx.at(),
        rows: rows as i64,
        width: width as i32,
        add: dx.add().into(),
    };
    let kernel = instance!("l2_normalize", "l2_normalize_backward", dtype);
    gpu.launch(kernel, launch(rows), &arguments)?;
    done(gpu, [Some(dx)])
}
