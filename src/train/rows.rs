//! Rows that come part by part.

use crate::backend::{Backend, Grad};
use crate::settings::error::{Result, failed};
use crate::tensor::Tensor;
use std::ops::Range;

/// Rows gathered part by part into one tensor, on the device.
pub(super) struct Rows {
    n: usize,
    sum: Grad,
}

impl Rows {
    pub(super) fn new(n: usize) -> Self {
        Self { n, sum: None }
    }

    /// Puts `values` at the rows `part`, which hold zeros so far.
    pub(super) fn put(
        &mut self,
        backend: &dyn Backend,
        part: &Range<usize>,
        values: &Tensor,
    ) -> Result<()> {
        let index = row_index(backend, part)?;
        backend
            .select_rows_backward(values, &index, self.n, Some(&mut self.sum))
            .map_err(failed)
    }

    pub(super) fn all(self) -> Result<Tensor> {
        self.sum.ok_or_else(|| failed("a batch without pairs"))
    }
}

/// The numbers `part`, on the device.
pub(super) fn row_index(backend: &dyn Backend, part: &Range<usize>) -> Result<Tensor> {
    let index: Vec<i32> = part.clone().map(|i| i as i32).collect();
    backend.upload_i32(&[index.len()], &index).map_err(failed)
}
