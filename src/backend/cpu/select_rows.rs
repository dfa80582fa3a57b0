//! Rows by their numbers.

use super::Cpu;
use super::embedding::{check_indices, scatter};
use super::storage::{f32s, i32s, tensor};
use crate::backend::{Result, SelectRows, Slot};
use crate::tensor::Tensor;

const OP: &str = "select_rows";

impl SelectRows for Cpu {
    fn select_rows(&self, x: &Tensor, index: &Tensor) -> Result<Tensor> {
        let (width, rows) = (x.width(), x.rows());
        let (x, index) = (f32s(OP, x)?, i32s(OP, index)?);
        check_indices(OP, index, rows)?;
        let y = index
            .iter()
            .flat_map(|&i| &x[i as usize * width..][..width])
            .copied()
            .collect::<Vec<f32>>();
        Ok(tensor(&[index.len(), width], y))
    }

    fn select_rows_backward(
        &self,
        dy: &Tensor,
        index: &Tensor,
        rows: usize,
        dx: Slot,
    ) -> Result<()> {
        scatter(OP, dy, index, rows, dx)
    }
}
