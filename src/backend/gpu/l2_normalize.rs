//! Rows scaled to unit length: from activations to f32 features, which the losses compare.

use super::device::{Address, Launch};
use super::operand::done;
use super::{Gpu, arguments, instance};
use crate::backend::{L2Normalize, Result, Slot};
use crate::tensor::{DType, Tensor};

const OP: &str = "l2_normalize";

arguments! {
    struct L2NormalizeArguments in "l2_normalize" {
        x: Address,
        y: Address,
        inverse: Address,
        rows: i64,
        width: i32,
        padding: i32,
    }

    struct L2NormalizeBackwardArguments in "l2_normalize" {
        dy: Address,
        y: Address,
        inverse: Address,
        dx: Address,
        rows: i64,
        width: i32,
        add: i32,
    }
}

/// A warp a row.
fn launch(rows: usize) -> Launch {
    Launch::blocks([rows.div_ceil(8), 1, 1], 256)
}

impl L2Normalize for Gpu {
    fn l2_normalize(&self, x: &Tensor) -> Result<(Tensor, Tensor)> {
        let (rows, dtype) = (x.rows(), x.dtype());
        let (y, y_at) = self.empty(x.shape(), DType::F32)?;
        let (inverse, inverse_at) = self.empty(&[rows], DType::F32)?;
        let arguments = L2NormalizeArguments {
            x: self.read(OP, x, dtype)?.at(),
            y: y_at,
            inverse: inverse_at,
            rows: rows as i64,
            width: x.width() as i32,
            padding: 0,
        };
        let kernel = instance!("l2_normalize", "l2_normalize", dtype);
        self.launch(kernel, launch(rows), &arguments)?;
        Ok((y, inverse))
    }

    fn l2_normalize_backward(
        &self,
        dy: &Tensor,
        y: &Tensor,
        inverse: &Tensor,
        dx: Slot,
    ) -> Result<()> {
        // The gradient of what a tower gave, unless another loss has begun one in f32.
        let dtype = match &dx {
            Some(Some(sum)) => sum.dtype(),
            _ => self.activations(),
        };
        let Some(dx) = self.target(OP, dx, y.shape(), dtype)? else {
            return Ok(());
        };
        let (rows, width) = (y.rows(), y.width());
        let (dy, y) = (
            self.read(OP, dy, DType::F32)?,
            self.read(OP, y, DType::F32)?,
        );
        let inverse = self.read(OP, inverse, DType::F32)?;
        let arguments = L2NormalizeBackwardArguments {
            dy: dy.at(),
            y: y.at(),
            inverse: inverse.at(),
            dx: dx.at(),
            rows: rows as i64,
            width: width as i32,
            add: dx.add().into(),
        };
        let kernel = instance!("l2_normalize", "l2_normalize_backward", dtype);
        self.launch(kernel, launch(rows), &arguments)?;
        done(self, [Some(dx)])
    }
}
