//! Means over tiles of pixels.

use super::device::{Address, Kernel, Launch};
use super::storage::done;
use super::{Gpu, instance, spread};
use crate::backend::{Result, Slot, shape_error};
use crate::tensor::{DType, Tensor};
use bytemuck::{Pod, Zeroable};

const OP: &str = "avg_pool";

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct AvgPool {
    from: Address,
    to: Address,
    rows: i32,
    width: i32,
    channels: i32,
    size: i32,
    add: u32,
    unused: u32,
}

/// Of y `[batch, h, w, channels]`.
fn run(
    gpu: &Gpu,
    kernel: Kernel,
    [from, to]: [Address; 2],
    [batch, height, width, channels]: [usize; 4],
    size: usize,
    add: bool,
) -> Result<()> {
    let units = batch * height * width * channels.div_ceil(16 / gpu.activations().size());
    // The kernel counts them in 32 bits, its grid's step added.
    if units >= 1 << 31 {
        let shape = [batch, height, width, channels];
        return shape_error(OP, format!("{shape:?} is too large"));
    }
    let arguments = AvgPool {
        from,
        to,
        rows: (batch * height) as i32,
        width: width as i32,
        channels: channels as i32,
        size: size as i32,
        add: add.into(),
        unused: 0,
    };
    let launch = Launch {
        grid: spread(units, 256),
        block: 256,
        shared: 0,
    };
    gpu.launch(kernel, launch, &arguments)
}

fn pooled(shape: &[usize], size: usize) -> Result<[usize; 4]> {
    match *shape {
        [batch, height, width, channels] => Ok([batch, height / size, width / size, channels]),
        _ => shape_error(OP, format!("{shape:?} is not [batch, h, w, channels]")),
    }
}

pub(super) fn forward(gpu: &Gpu, x: &Tensor, size: usize) -> Result<Tensor> {
    let dtype = gpu.activations();
    let shape = pooled(x.shape(), size)?;
    let x = gpu.read(OP, x, dtype)?;
    let (y, y_at) = gpu.empty(&shape, dtype)?;
    let kernel = instance!("avg_pool", "avg_pool", dtype);
    run(gpu, kernel, [x.at(), y_at], shape, size, false)?;
    Ok(y)
}

pub(super) fn backward(
    gpu: &Gpu,
    dy: &Tensor,
    shape: &[usize],
    size: usize,
    dx: Slot,
) -> Result<()> {
    let dtype: DType = gpu.activations();
    let y_shape = pooled(shape, size)?;
    let dy = gpu.read(OP, dy, dtype)?;
    let dx = gpu.target(OP, dx, shape, dtype)?;
    if let Some(dx) = &dx {
        let kernel = instance!("avg_pool", "avg_pool_backward", dtype);
        run(gpu, kernel, [dy.at(), dx.at()], y_shape, size, dx.add())?;
    }
    done(gpu, [dx])
}
