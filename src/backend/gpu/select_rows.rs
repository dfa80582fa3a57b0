//! Single rows out of a matrix.

use super::device::{Address, Launch};
use super::embedding::scatter;
use super::operand::done;
use super::{Gpu, arguments, instance};
use crate::backend::{Result, SelectRows, Slot};
use crate::tensor::Tensor;

const OP: &str = "select_rows";

arguments! {
    struct SelectRowsArguments in "select_rows" {
        x: Address,
        index: Address,
        y: Address,
        rows: i64,
        width: i32,
        padding: i32,
    }
}

impl SelectRows for Gpu {
    fn select_rows(&self, x: &Tensor, index: &Tensor) -> Result<Tensor> {
        let (rows, width, dtype) = (index.len(), x.width(), x.dtype());
        let index = self.read_index(OP, index, x.rows())?;
        let x = self.read(OP, x, dtype)?;
        let (y, y_at) = self.empty(&[rows, width], dtype)?;
        let arguments = SelectRowsArguments {
            x: x.at(),
            index,
            y: y_at,
            rows: rows as i64,
            width: width as i32,
            padding: 0,
        };
        let launch = Launch::spread(rows, 8);
        let kernel = instance!("select_rows", "select_rows", dtype);
        self.launch(kernel, launch, &arguments)?;
        Ok(y)
    }

    fn select_rows_backward(
        &self,
        dy: &Tensor,
        index: &Tensor,
        rows: usize,
        dx: Slot,
    ) -> Result<()> {
        let (width, dtype) = (dy.width(), dy.dtype());
        let Some(dx) = self.target(OP, dx, &[rows, width], dtype)? else {
            return Ok(());
        };
        let from = (self.read(OP, dy, dtype)?.at(), dtype);
        let kernel = instance!("select_rows", "select_rows_backward", dtype);
        scatter(self, kernel, from, index, [rows, width], &dx, dtype)?;
        done(self, [Some(dx)])
    }
}
