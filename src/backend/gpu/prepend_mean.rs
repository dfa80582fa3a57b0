//! Each image's mean before its pixels.

use super::device::{Address, Launch};
use super::operand::done;
use super::{Gpu, arguments, column_sums, instance};
use crate::backend::{PrependMean, Result, Slot};
use crate::tensor::{DType, Tensor};

const OP: &str = "prepend_mean";

arguments! {
    struct PrependMeanArguments in "prepend_mean" {
        x: Address,
        positions: Address,
        y: Address,
        pixels: i32,
        width: i32,
    }

    struct PrependMeanBackwardArguments in "prepend_mean" {
        dy: Address,
        dx: Address,
        rows: i64,
        pixels: i32,
        width: i32,
        add: i32,
        padding: i32,
    }
}

impl PrependMean for Gpu {
    fn prepend_mean(&self, x: &Tensor, positions: &Tensor) -> Result<Tensor> {
        let (width, tokens, dtype) = (x.width(), positions.rows(), self.activations());
        let batch = x.rows() / (tokens - 1);
        let x = self.read(OP, x, dtype)?;
        let positions = self.read(OP, positions, DType::F32)?;
        let (y, y_at) = self.empty(&[batch * tokens, width], dtype)?;
        let arguments = PrependMeanArguments {
            x: x.at(),
            positions: positions.at(),
            y: y_at,
            pixels: (tokens - 1) as i32,
            width: width as i32,
        };
        let tiles = width.div_ceil(32 * 16 / dtype.size());
        let launch = Launch::blocks([batch, tiles, 1], 256);
        let kernel = instance!("prepend_mean", "prepend_mean", dtype);
        self.launch(kernel, launch, &arguments)?;
        Ok(y)
    }

    /// As for the class token, dpositions are the sums of the columns of dy as `[batch, (1 + pixels) · width]`.
    fn prepend_mean_backward(
        &self,
        dy: &Tensor,
        shape: &[usize],
        dx: Slot,
        dpositions: Slot,
    ) -> Result<()> {
        let (width, dtype) = (dy.width(), self.activations());
        let pixels: usize = shape[1..shape.len() - 1].iter().product();
        let (batch, columns) = (shape[0], (pixels + 1) * width);
        let dy = self.read(OP, dy, dtype)?;
        let dx = self.target(OP, dx, shape, dtype)?;
        let dpositions = self.target(OP, dpositions, &[pixels + 1, width], DType::F32)?;
        if let Some(dx) = &dx {
            let rows = batch * pixels;
            let arguments = PrependMeanBackwardArguments {
                dy: dy.at(),
                dx: dx.at(),
                rows: rows as i64,
                pixels: pixels as i32,
                width: width as i32,
                add: dx.add().into(),
                padding: 0,
            };
            let launch = Launch::spread(rows, 8);
            let kernel = instance!("prepend_mean", "prepend_mean_backward", dtype);
            self.launch(kernel, launch, &arguments)?;
        }
        if let Some(target) = &dpositions {
            let (partials, count) =
                column_sums::partials(self, dy.at(), dtype, batch, columns, columns)?;
            column_sums::finish(self, partials.at(), count, columns, columns, target)?;
        }
        done(self, [dx, dpositions])
    }
}
