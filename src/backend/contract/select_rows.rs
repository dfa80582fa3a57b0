//! Rows by their numbers.

use super::{Info, Slot};
use crate::backend::{Op, Result, lacking};
use crate::tensor::Tensor;

/// A gather and its scatter.
pub trait SelectRows: Info {
    /// `out_r = x[index_r]`: `[n, width]` from x `[rows, width]`, index `[n]` i32.
    fn select_rows(&self, x: &Tensor, index: &Tensor) -> Result<Tensor> {
        let _ = index;
        lacking(self, Op::SelectRows, x)
    }

    /// `dx[index_r] += dy_r`, in a fixed order; `rows` is x's number of rows.
    fn select_rows_backward(
        &self,
        dy: &Tensor,
        index: &Tensor,
        rows: usize,
        dx: Slot,
    ) -> Result<()> {
        let _ = (index, rows, dx);
        lacking(self, Op::SelectRows, dy)
    }
}
