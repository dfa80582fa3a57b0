//! Rows and columns of a weight: what a smaller model inherits from a larger one.

use super::{Info, Slot};
use crate::backend::{Op, Result, lacking};
use crate::tensor::Tensor;

/// Which entries of a matrix, and their factors.
#[derive(Clone, Copy, Debug)]
pub struct Selection<'a> {
    /// `[height, width]`, or `[width]` as one row.
    pub x: &'a Tensor,
    /// i32, without repetition.
    pub rows: &'a Tensor,
    /// i32, without repetition.
    pub columns: &'a Tensor,
    /// A factor for each of `rows`; absent: all ones.
    pub r: Option<&'a Tensor>,
    /// A factor for each of `columns`; absent: all ones.
    pub c: Option<&'a Tensor>,
}

/// Selection and scaling in one.
pub trait Submatrix: Info {
    /// y_ij = r_i c_j x[rows_i, columns_j]; a vector if x is one.
    fn submatrix(&self, of: Selection) -> Result<Tensor> {
        lacking(self, Op::Submatrix, of.x)
    }

    /// dx[rows_i, columns_j] += r_i c_j dy_ij, dr_i += Σ_j c_j dy_ij x[rows_i, columns_j], and dc_j
    /// likewise over i.
    fn submatrix_backward(
        &self,
        dy: &Tensor,
        of: Selection,
        dx: Slot,
        dr: Slot,
        dc: Slot,
    ) -> Result<()> {
        let _ = (dy, dx, dr, dc);
        lacking(self, Op::Submatrix, of.x)
    }
}
