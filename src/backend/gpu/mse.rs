//! Mean squared difference, in f32.

use super::device::{Address, Kernel, Launch};
use super::operand::done;
use super::sum::Partials;
use super::{Gpu, spread};
use crate::backend::{Mse, Result, Slot, shape_error};
use crate::tensor::{DType, Tensor};
use bytemuck::{Pod, Zeroable};

const OP: &str = "mse";

impl Mse for Gpu {
    fn mse(&self, x: &Tensor, y: &Tensor) -> Result<Tensor> {
        #[repr(C)]
        #[derive(Clone, Copy, Pod, Zeroable)]
        struct Arguments {
            x: Address,
            y: Address,
            partials: Address,
            n: i64,
            chunk: i64,
        }
        if x.shape() != y.shape() {
            return shape_error(OP, format!("{:?} and {:?}", x.shape(), y.shape()));
        }
        let n = x.len();
        let (partials, launch, chunk) = Partials::of_elements(self, n)?;
        let (x, y) = (self.read(OP, x, DType::F32)?, self.read(OP, y, DType::F32)?);
        let kernel = Kernel {
            module: OP,
            entry: "mse_f32",
        };
        let arguments = Arguments {
            x: x.at(),
            y: y.at(),
            partials: partials.at(),
            n: n as i64,
            chunk,
        };
        self.launch(kernel, launch, &arguments)?;
        let (mean, mean_at) = self.empty(&[1], DType::F32)?;
        partials.finish(self, 1.0 / n.max(1) as f64, mean_at)?;
        Ok(mean)
    }

    fn mse_backward(&self, dy: &Tensor, x: &Tensor, y: &Tensor, dx: Slot) -> Result<()> {
        #[repr(C)]
        #[derive(Clone, Copy, Pod, Zeroable)]
        struct Backward {
            dy: Address,
            x: Address,
            y: Address,
            dx: Address,
            n: i64,
            factor: f32,
            add: u32,
        }
        if x.shape() != y.shape() || dy.len() != 1 {
            let detail = format!(
                "{:?} and {:?}, gradient {:?}",
                x.shape(),
                y.shape(),
                dy.shape()
            );
            return shape_error(OP, detail);
        }
        let Some(dx) = self.target(OP, dx, x.shape(), DType::F32)? else {
            return Ok(());
        };
        let n = x.len();
        let dy = self.read(OP, dy, DType::F32)?;
        let (x, y) = (self.read(OP, x, DType::F32)?, self.read(OP, y, DType::F32)?);
        let kernel = Kernel {
            module: OP,
            entry: "mse_backward_f32",
        };
        let launch = Launch {
            grid: spread(n, 256 * 4),
            block: 256,
            shared: 0,
        };
        let arguments = Backward {
            dy: dy.at(),
            x: x.at(),
            y: y.at(),
            dx: dx.at(),
            n: n as i64,
            factor: 2.0 / n.max(1) as f32,
            add: dx.add().into(),
        };
        self.launch(kernel, launch, &arguments)?;
        done(self, [Some(dx)])
    }
}
