//! Means over tiles of pixels.

use super::device::{Address, Kernel, Launch};
use super::operand::done;
use super::{Gpu, arguments, instance};
use crate::backend::{AvgPool, Op, Result, Slot, shape_error};
use crate::tensor::{DType, Tensor};

const OP: &str = "avg_pool";

arguments! {
    struct AvgPoolArguments in "avg_pool" {
        source: Address,
        to: Address,
        rows: i32,
        width: i32,
        channels: i32,
        size: i32,
        add: i32,
        unused: i32,
    }
}

/// Of y `[batch, h, w, channels]`.
fn run(
    gpu: &Gpu,
    kernel: Kernel,
    [source, to]: [Address; 2],
    [batch, height, width, channels]: [usize; 4],
    size: usize,
    add: bool,
) -> Result<()> {
    let units = batch * height * width * channels.div_ceil(16 / gpu.activations().size());
    let arguments = AvgPoolArguments {
        source,
        to,
        rows: (batch * height) as i32,
        width: width as i32,
        channels: channels as i32,
        size: size as i32,
        add: add.into(),
        unused: 0,
    };
    let launch = Launch::spread(units, 256);
    gpu.launch(kernel, launch, &arguments)
}

/// Whether the kernels, which count units of 16 bytes in 32 bits, can count such images, and which they can.
pub(super) fn limit(shape: &[usize]) -> (bool, &'static str) {
    let fits = match *shape {
        [batch, height, width, channels] => batch * height * width * channels.div_ceil(4) < 1 << 31,
        _ => true,
    };
    (fits, "fewer than 2^31 times 4 elements")
}

fn pooled(shape: &[usize], size: usize) -> Result<[usize; 4]> {
    match *shape {
        [batch, height, width, channels] => Ok([batch, height / size, width / size, channels]),
        _ => shape_error(OP, format!("{shape:?} is not [batch, h, w, channels]")),
    }
}

impl AvgPool for Gpu {
    fn avg_pool(&self, x: &Tensor, size: usize) -> Result<Tensor> {
        let dtype = self.activations();
        self.check_size(Op::AvgPool, x.shape())?;
        let shape = pooled(x.shape(), size)?;
        let x = self.read(OP, x, dtype)?;
        let (y, y_at) = self.empty(&shape, dtype)?;
        let kernel = instance!("avg_pool", "avg_pool", dtype);
        run(self, kernel, [x.at(), y_at], shape, size, false)?;
        Ok(y)
    }

    fn avg_pool_backward(&self, dy: &Tensor, shape: &[usize], size: usize, dx: Slot) -> Result<()> {
        let dtype: DType = self.activations();
        self.check_size(Op::AvgPool, shape)?;
        let y_shape = pooled(shape, size)?;
        let dy = self.read(OP, dy, dtype)?;
        let dx = self.target(OP, dx, shape, dtype)?;
        if let Some(dx) = &dx {
            let kernel = instance!("avg_pool", "avg_pool_backward", dtype);
            run(self, kernel, [dy.at(), dx.at()], y_shape, size, dx.add())?;
        }
        done(self, [dx])
    }
}
