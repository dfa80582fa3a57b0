//! Matrix products by the `gemm` crate, cut into blocks that do not depend on the number of
//! threads: each block is one serial call, so each element's sum has one order.

use super::parallel::Disjoint;
use rayon::prelude::*;

/// A strided view of a matrix in an f32 slice.
#[derive(Clone, Copy)]
pub(super) struct View<'a> {
    data: &'a [f32],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

impl<'a> View<'a> {
    /// A contiguous row-major `[rows, cols]` matrix.
    pub(super) fn new(data: &'a [f32], rows: usize, cols: usize) -> Self {
        Self::strided(data, rows, cols, cols)
    }

    /// Rows of `cols` elements that begin `row_stride` apart.
    pub(super) fn strided(data: &'a [f32], rows: usize, cols: usize, row_stride: usize) -> Self {
        assert!(rows == 0 || cols == 0 || (rows - 1) * row_stride + cols <= data.len());
        Self {
            data,
            rows,
            cols,
            row_stride,
            col_stride: 1,
        }
    }

    /// The transposed view.
    pub(super) fn t(self) -> Self {
        Self {
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
            ..self
        }
    }
}

/// C = alpha·A·B (+ C when `add`) over C `[rows, cols]` with rows `row_stride` apart at `c`.
///
/// # Safety
/// `c` must be valid for writes (and reads when `add`) of all those elements, and no other thread
/// may touch them meanwhile.
pub(super) unsafe fn gemm_raw(
    c: *mut f32,
    row_stride: usize,
    add: bool,
    alpha: f32,
    a: View,
    b: View,
) {
    assert_eq!(a.cols, b.rows, "inner dimensions");
    // SAFETY: views check their extents; `c` is the caller's promise.
    unsafe {
        gemm::gemm(
            a.rows,
            b.cols,
            a.cols,
            c,
            1,
            row_stride as isize,
            add,
            a.data.as_ptr(),
            a.col_stride as isize,
            a.row_stride as isize,
            b.data.as_ptr(),
            b.col_stride as isize,
            b.row_stride as isize,
            1.0,
            alpha,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

/// C = alpha·A·B (+ C when `add`), serially; C contiguous row-major.
pub(super) fn gemm_serial(c: &mut [f32], add: bool, alpha: f32, a: View, b: View) {
    assert_eq!(c.len(), a.rows * b.cols, "output size");
    // SAFETY: `c` is exclusively borrowed and of exactly the size written.
    unsafe { gemm_raw(c.as_mut_ptr(), b.cols, add, alpha, a, b) }
}

/// Block sizes of C for the thread pool: large enough to amortise packing both operands, small
/// enough to keep a few dozen cores busy on the model's products.
fn blocks(rows: usize, cols: usize) -> (usize, usize) {
    let mut block = (rows, cols);
    while block.0 * block.1 > 512 * 768 && (block.0 > 256 || block.1 > 512) {
        if block.0 >= block.1 {
            block.0 = block.0.div_ceil(2).next_multiple_of(16);
        } else {
            block.1 = block.1.div_ceil(2).next_multiple_of(64);
        }
    }
    // A product too small for that may still be deep: use at least two blocks.
    if block == (rows, cols) && rows * cols >= 64 * 64 {
        if rows >= cols {
            block.0 = rows.div_ceil(2).next_multiple_of(16);
        } else {
            block.1 = cols.div_ceil(2).next_multiple_of(16);
        }
    }
    block
}

/// C = alpha·A·B (+ C when `add`) in parallel; C contiguous row-major.
pub(super) fn gemm(c: &mut [f32], add: bool, alpha: f32, a: View, b: View) {
    assert_eq!(c.len(), a.rows * b.cols, "output size");
    let (m, n) = (a.rows, b.cols);
    if m * n * a.cols < 64 * 64 * 64 {
        return gemm_serial(c, add, alpha, a, b);
    }
    let (bm, bn) = blocks(m, n);
    let (tiles_m, tiles_n) = (m.div_ceil(bm), n.div_ceil(bn));
    let out = Disjoint(c.as_mut_ptr());
    (0..tiles_m * tiles_n).into_par_iter().for_each(|tile| {
        let (i, j) = ((tile / tiles_n) * bm, (tile % tiles_n) * bn);
        let a = View {
            data: &a.data[i * a.row_stride..],
            rows: bm.min(m - i),
            ..a
        };
        let b = View {
            data: &b.data[j * b.col_stride..],
            cols: bn.min(n - j),
            ..b
        };
        // SAFETY: tiles partition C, and C is exclusively borrowed for the whole call.
        unsafe { gemm_raw(out.at(i * n + j), n, add, alpha, a, b) }
    });
}
