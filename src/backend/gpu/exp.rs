//! Elementwise exponential, in f32: it serves the losses' scales.

use super::device::{Address, Kernel, Launch};
use super::operand::done;
use super::{Gpu, arguments};
use crate::backend::{Exp, Result, Slot};
use crate::tensor::{DType, Tensor};

const OP: &str = "exp";

arguments! {
    struct ExpArguments in "exp" {
        x: Address,
        y: Address,
        n: i64,
    }

    struct ExpBackwardArguments in "exp" {
        dy: Address,
        y: Address,
        dx: Address,
        n: i64,
        add: i32,
        padding: i32,
    }
}

fn launch(n: usize) -> Launch {
    Launch::spread(n, 256 * 4)
}

impl Exp for Gpu {
    fn exp(&self, x: &Tensor) -> Result<Tensor> {
        let kernel = Kernel::new(OP, "exp_f32");
        let (y, y_at) = self.empty(x.shape(), DType::F32)?;
        let n = x.len();
        let x = self.read(OP, x, DType::F32)?;
        let arguments = ExpArguments {
            x: x.at(),
            y: y_at,
            n: n as i64,
        };
        self.launch(kernel, launch(n), &arguments)?;
        Ok(y)
    }

    fn exp_backward(&self, dy: &Tensor, y: &Tensor, dx: Slot) -> Result<()> {
        let Some(dx) = self.target(OP, dx, y.shape(), DType::F32)? else {
            return Ok(());
        };
        let kernel = Kernel::new(OP, "exp_backward_f32");
        let n = y.len();
        let (dy, y) = (
            self.read(OP, dy, DType::F32)?,
            self.read(OP, y, DType::F32)?,
        );
        let arguments = ExpBackwardArguments {
            dy: dy.at(),
            y: y.at(),
            dx: dx.at(),
            n: n as i64,
            add: dx.add().into(),
            padding: 0,
        };
        self.launch(kernel, launch(n), &arguments)?;
        done(self, [Some(dx)])
    }
}
