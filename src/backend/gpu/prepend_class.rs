//! The class token before each image's patches.

use super::device::{Address, Launch};
use super::operand::done;
use super::{Gpu, arguments, column_sums, instance};
use crate::backend::{PrependClass, Result, Slot};
use crate::tensor::{DType, Tensor};

const OP: &str = "prepend_class";

arguments! {
    struct PrependClassArguments in "prepend_class" {
        patches: Address,
        cls: Address,
        positions: Address,
        y: Address,
        rows: i64,
        tokens: i32,
        width: i32,
    }

    struct PrependClassBackwardArguments in "prepend_class" {
        dy: Address,
        dpatches: Address,
        rows: i64,
        len: i32,
        width: i32,
        add: i32,
        padding: i32,
    }
}

/// A warp a row.
fn launch(rows: usize) -> Launch {
    Launch::spread(rows, 8)
}

impl PrependClass for Gpu {
    fn prepend_class(
        &self,
        patches: &Tensor,
        class: &Tensor,
        positions: &Tensor,
    ) -> Result<Tensor> {
        let (width, tokens, dtype) = (patches.width(), positions.rows(), self.activations());
        let rows = patches.rows() / (tokens - 1) * tokens;
        let patches = self.read(OP, patches, dtype)?;
        let class = self.read(OP, class, DType::F32)?;
        let positions = self.read(OP, positions, DType::F32)?;
        let (y, y_at) = self.empty(&[rows, width], dtype)?;
        let arguments = PrependClassArguments {
            patches: patches.at(),
            cls: class.at(),
            positions: positions.at(),
            y: y_at,
            rows: rows as i64,
            tokens: tokens as i32,
            width: width as i32,
        };
        let kernel = instance!("prepend_class", "prepend_class", dtype);
        self.launch(kernel, launch(rows), &arguments)?;
        Ok(y)
    }

    /// With dy as `[batch, (1 + len) · width]`, the sums of its columns are dpositions, and the first `width` of
    /// them dclass: one pass makes both.
    fn prepend_class_backward(
        &self,
        dy: &Tensor,
        len: usize,
        dpatches: Slot,
        dclass: Slot,
        dpositions: Slot,
    ) -> Result<()> {
        let (width, tokens, dtype) = (dy.width(), len + 1, self.activations());
        let batch = dy.rows() / tokens;
        let dy = self.read(OP, dy, dtype)?;
        let rows = batch * len;
        let dpatches = self.target(OP, dpatches, &[rows, width], dtype)?;
        let dclass = self.target(OP, dclass, &[width], DType::F32)?;
        let dpositions = self.target(OP, dpositions, &[tokens, width], DType::F32)?;
        if let Some(dpatches) = &dpatches {
            let arguments = PrependClassBackwardArguments {
                dy: dy.at(),
                dpatches: dpatches.at(),
                rows: rows as i64,
                len: len as i32,
                width: width as i32,
                add: dpatches.add().into(),
                padding: 0,
            };
            let kernel = instance!("prepend_class", "prepend_class_backward", dtype);
            self.launch(kernel, launch(rows), &arguments)?;
        }
        if dclass.is_some() || dpositions.is_some() {
            let columns = match dpositions {
                Some(_) => tokens * width,
                None => width,
            };
            let (partials, count) =
                column_sums::partials(self, dy.at(), dtype, batch, tokens * width, columns)?;
            let sum = |columns_of, target| {
                let Some(target) = target else { return Ok(()) };
                column_sums::finish(self, partials.at(), count, columns, columns_of, target)
            };
            sum(width, dclass.as_ref())?;
            sum(tokens * width, dpositions.as_ref())?;
        }
        done(self, [dpatches, dclass, dpositions])
    }
}
