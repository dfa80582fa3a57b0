//! Mean squared difference, in f32.

use super::device::{Address, Kernel, Launch};
use super::operand::done;
use super::sum::Partials;
use super::{Gpu, arguments};
use crate::backend::{Mse, Result, Slot, shape_error};
use crate::tensor::{DType, Tensor};

const OP: &str = "mse";

arguments! {
    struct MseArguments in "mse" {
        x: Address,
        y: Address,
        partials: Address,
        n: i64,
        chunk: i64,
    }

    struct MseBackwardArguments in "mse" {
        dy: Address,
        x: Address,
        y: Address,
        dx: Address,
        n: i64,
        factor: f32,
        add: i32,
    }
}

impl Mse for Gpu {
    fn mse(&self, x: &Tensor, y: &Tensor) -> Result<Tensor> {
        if x.shape() != y.shape() {
            return shape_error(OP, format!("{:?} and {:?}", x.shape(), y.shape()));
        }
        let n = x.len();
        let (partials, launch, chunk) = Partials::of_elements(self, n)?;
        let (x, y) = (self.read(OP, x, DType::F32)?, self.read(OP, y, DType::F32)?);
        let kernel = Kernel::new(OP, "mse_f32");
        let arguments = MseArguments {
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
        let kernel = Kernel::new(OP, "mse_backward_f32");
        let launch = Launch::spread(n, 256 * 4);
        let arguments = MseBackwardArguments {
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
