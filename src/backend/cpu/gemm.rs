//! Matrix products: C = alpha·A·B (+ C).
//!
//! As in BLIS (Van Zee and van de Geijn, *ACM TOMS* 41(3), 2015): B is packed once into panels as wide
//! as the kernel's registers, all tasks share it, and k goes by in blocks so that a panel's part stays
//! in the second-level cache. A is read where it lies unless it is transposed.
//!
//! An element of C is a sum of blocks of [`DEPTH`] products, each block summed in order: neither the
//! number of threads nor the size of C has a say. So packed and padded batches, or a row alone and
//! among others, give the same bits.

mod kernel;

use super::memory::Memory;
use super::parallel::{Disjoint, vectorised};
use kernel::{Left, Out, ROWS};
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;
use std::cell::Cell;
use std::ops::Range;

/// Steps of k in one block: a panel's part (64 KiB with AVX-512) and a task's rows of A (192 KiB) fit
/// the second-level cache, and C is read and written once for 256 multiply-adds an element.
const DEPTH: usize = 256;

/// Largest task: rows and panels of C.
const TASK: (usize, usize) = (32 * ROWS, 6);

/// Multiply-adds below which a product is not worth a second thread.
const SMALL: usize = 64 * 64 * 64;

/// A strided view of a matrix in an f32 slice. One of its strides is 1.
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

/// Columns of a packed panel on this processor.
fn panel_columns() -> usize {
    struct Columns;
    impl WithSimd for Columns {
        type Output = usize;
        fn with_simd<S: Simd>(self, _: S) -> usize {
            kernel::columns::<S>()
        }
    }
    Arch::new().dispatch(Columns)
}

/// Packs `nr` columns of B from `first` on, step by step of k; columns beyond B keep whatever `out`
/// holds, and only reach lanes that are never stored.
fn pack_panel(b: View, first: usize, nr: usize, out: &mut [f32]) {
    /// Steps that are transposed together: their part of the panel stays in the first-level cache.
    const STEPS: usize = 16;
    let cols = nr.min(b.cols - first);
    vectorised(
        #[inline(always)]
        || {
            if b.col_stride == 1 {
                for (k, out) in out.chunks_exact_mut(nr).enumerate() {
                    out[..cols].copy_from_slice(&b.data[k * b.row_stride + first..][..cols]);
                }
                return;
            }
            for (block, out) in out.chunks_mut(nr * STEPS).enumerate() {
                let steps = out.len() / nr;
                for j in 0..cols {
                    let column = (first + j) * b.col_stride + block * STEPS;
                    let column = &b.data[column..][..steps];
                    for (x, out) in column.iter().zip(out.chunks_exact_mut(nr)) {
                        out[j] = *x;
                    }
                }
            }
        },
    );
}

/// Packs `rows` of a transposed A over the steps `k`, [`ROWS`] by [`ROWS`].
#[inline(always)]
fn pack_rows(a: View, rows: &Range<usize>, k: &Range<usize>, out: &mut [f32]) {
    let group = ROWS * k.len();
    for (step, k) in k.clone().enumerate() {
        let row = &a.data[k * a.col_stride..][rows.clone()];
        // Arrays of known size move in two registers; a slice would call memmove.
        let (groups, rest) = row.as_chunks::<ROWS>();
        for (p, from) in groups.iter().enumerate() {
            out[p * group + step * ROWS..][..ROWS].copy_from_slice(from);
        }
        for (i, x) in rest.iter().enumerate() {
            out[groups.len() * group + step * ROWS + i] = *x;
        }
    }
}

thread_local! {
    /// Where a thread packs its rows of A, and a serial product its B.
    static ROW_SCRATCH: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
    static PANEL_SCRATCH: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
    /// Where a thread makes rows of an A that exists nowhere else.
    static BLOCK_SCRATCH: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
}

/// Lends `body` at least `len` elements of the thread's scratch memory.
fn with_scratch(
    scratch: &'static std::thread::LocalKey<Cell<Vec<f32>>>,
    len: usize,
    body: impl FnOnce(&mut [f32]),
) {
    let mut memory = scratch.take();
    if memory.len() < len {
        memory.resize(len, 0.0);
    }
    body(&mut memory[..len]);
    scratch.set(memory);
}

/// Part of C, computed by one thread.
struct Task<'a> {
    a: View<'a>,
    /// B's panels from this part's first column on, each `a.cols` steps deep.
    panels: &'a [f32],
    rows: Range<usize>,
    cols: usize,
    /// C at row 0 and this part's first column.
    out: Out,
    row_scratch: &'a mut [f32],
}

impl WithSimd for Task<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self {
            a, rows, mut out, ..
        } = self;
        let nr = kernel::columns::<S>();
        for from in (0..a.cols).step_by(DEPTH) {
            let k = from..a.cols.min(from + DEPTH);
            let packed = a.col_stride != 1;
            if packed {
                pack_rows(a, &rows, &k, self.row_scratch);
            }
            for (p, panel) in self.panels.chunks_exact(nr * a.cols).enumerate() {
                let cols = nr.min(self.cols - p * nr);
                for first in rows.clone().step_by(ROWS) {
                    let left = if packed {
                        Left {
                            at: self.row_scratch[(first - rows.start) * k.len()..].as_ptr(),
                            row: 1,
                            k: ROWS,
                        }
                    } else {
                        Left {
                            at: a.data[first * a.row_stride + from..].as_ptr(),
                            row: a.row_stride,
                            k: 1,
                        }
                    };
                    let count = ROWS.min(rows.end - first);
                    // SAFETY: views check their extents, panels and scratch were made for this
                    // product, and this part of C belongs to this task alone.
                    unsafe {
                        let out = Out {
                            at: out.at.add(first * out.row + p * nr),
                            ..out
                        };
                        let b = panel.as_ptr().add(from * nr);
                        kernel::product(simd, k.len(), left, b, out, count, cols);
                    }
                }
            }
            out.add = true;
        }
    }
}

/// Clears C where a product of no steps leaves it: the kernels write only with the first block.
///
/// # Safety
/// As [`gemm_raw`].
unsafe fn clear(c: *mut f32, row_stride: usize, rows: usize, cols: usize) {
    for row in 0..rows {
        // SAFETY: the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(c.add(row * row_stride), cols) }.fill(0.0);
    }
}

/// C = alpha·A·B (+ C when `add`) over C `[rows, cols]` with rows `row_stride` apart at `c`,
/// on this thread.
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
    if a.cols == 0 && !add {
        // SAFETY: the caller's promise.
        return unsafe { clear(c, row_stride, a.rows, b.cols) };
    }
    let nr = panel_columns();
    let panel = nr * a.cols;
    with_scratch(&PANEL_SCRATCH, b.cols.div_ceil(nr) * panel, |panels| {
        for (p, panel) in panels.chunks_exact_mut(panel.max(1)).enumerate() {
            pack_panel(b, p * nr, nr, panel);
        }
        for first in (0..a.rows).step_by(TASK.0) {
            task(
                a,
                panels,
                first..a.rows.min(first + TASK.0),
                b.cols,
                Out {
                    at: c,
                    row: row_stride,
                    alpha,
                    add,
                },
            );
        }
    });
}

fn task(a: View, panels: &[f32], rows: Range<usize>, cols: usize, out: Out) {
    let scratch = if a.col_stride == 1 {
        0
    } else {
        rows.len().next_multiple_of(ROWS) * DEPTH
    };
    with_scratch(&ROW_SCRATCH, scratch, |row_scratch| {
        Arch::new().dispatch(Task {
            a,
            panels,
            rows,
            cols,
            out,
            row_scratch,
        });
    });
}

/// C = alpha·A·B (+ C when `add`), on this thread; C contiguous row-major.
pub(super) fn gemm_serial(c: &mut [f32], add: bool, alpha: f32, a: View, b: View) {
    assert_eq!(c.len(), a.rows * b.cols, "output size");
    // SAFETY: `c` is exclusively borrowed and of exactly the size written.
    unsafe { gemm_raw(c.as_mut_ptr(), b.cols, add, alpha, a, b) }
}

/// Rows and panels of C in one task: a few tasks a thread, as long as each is worth its start. Near
/// squares read least.
fn task_size(m: usize, panels: usize, nr: usize, k: usize) -> (usize, usize) {
    let mut size = (TASK.0.min(m.next_multiple_of(ROWS)), TASK.1.min(panels));
    let enough = 4 * rayon::current_num_threads();
    while m.div_ceil(size.0) * panels.div_ceil(size.1) < enough
        && size.0 * size.1 * nr * k > 4 * SMALL
    {
        if size.0 > ROWS && size.0 >= size.1 * nr {
            size.0 = (size.0 / 2).next_multiple_of(ROWS);
        } else if size.1 > 1 {
            size.1 = size.1.div_ceil(2);
        } else {
            break;
        }
    }
    size
}

/// C = alpha·A·B (+ C when `add`) on the thread pool; C contiguous row-major.
pub(super) fn gemm(c: &mut [f32], add: bool, alpha: f32, a: View, b: View) {
    gemm_then(c, add, alpha, a, b, |_, _, _| {});
}

/// As [`gemm`]. Each finished part of a row of C is handed to `then(row, first column, part)` while
/// it is still in the cache.
pub(super) fn gemm_then(
    c: &mut [f32],
    add: bool,
    alpha: f32,
    a: View,
    b: View,
    then: impl Fn(usize, usize, &mut [f32]) + Sync,
) {
    assert_eq!(c.len(), a.rows * b.cols, "output size");
    assert_eq!(a.cols, b.rows, "inner dimensions");
    let (m, n, k) = (a.rows, b.cols, a.cols);
    if k == 0 && !add {
        c.fill(0.0);
    }
    let nr = panel_columns();
    let count = n.div_ceil(nr);
    let small = m * n * k < SMALL;
    let mut panels = Memory::stale(count * nr * k);
    let pack = |(p, panel): (usize, &mut [f32])| pack_panel(b, p * nr, nr, panel);
    if small {
        panels
            .chunks_exact_mut((nr * k).max(1))
            .enumerate()
            .for_each(pack);
    } else {
        panels
            .par_chunks_exact_mut(nr * k)
            .enumerate()
            .for_each(pack);
    }
    let (rows, wide) = task_size(m, count, nr, k);
    let (tasks_m, tasks_n) = (m.div_ceil(rows.max(1)), count.div_ceil(wide.max(1)));
    let at = Disjoint(c.as_mut_ptr());
    let run = |index: usize| {
        let first = (index / tasks_n) * rows;
        let panel = (index % tasks_n) * wide;
        let cols = panel * nr..n.min((panel + wide) * nr);
        let part = first..m.min(first + rows);
        let out = Out {
            at: at.at(cols.start),
            row: n,
            alpha,
            add,
        };
        let panels = &panels[panel * nr * k..(panel + wide).min(count) * nr * k];
        task(a, panels, part.clone(), cols.len(), out);
        vectorised(
            #[inline(always)]
            || {
                for row in part {
                    // SAFETY: tasks partition C, and C is exclusively borrowed for the whole call.
                    let part = unsafe {
                        std::slice::from_raw_parts_mut(at.at(row * n + cols.start), cols.len())
                    };
                    then(row, cols.start, part);
                }
            },
        );
    };
    if small {
        (0..tasks_m * tasks_n).for_each(run);
    } else {
        (0..tasks_m * tasks_n).into_par_iter().for_each(run);
    }
}

/// C = A·B over contiguous row-major C `[rows, b.cols]`, where A is never there as a whole: `fill`
/// writes its rows `range` into the memory it is given, once for each block of rows, and all blocks
/// share the packed B.
pub(super) fn gemm_from(
    c: &mut [f32],
    rows: usize,
    b: View,
    fill: impl Fn(Range<usize>, &mut [f32]) + Sync,
) {
    assert_eq!(c.len(), rows * b.cols, "output size");
    let (n, k) = (b.cols, b.rows);
    if k == 0 {
        return c.fill(0.0);
    }
    let nr = panel_columns();
    let mut panels = Memory::stale(n.div_ceil(nr) * nr * k);
    panels
        .par_chunks_exact_mut(nr * k)
        .enumerate()
        .for_each(|(p, panel)| pack_panel(b, p * nr, nr, panel));
    let mut block = TASK.0;
    while block > ROWS && rows.div_ceil(block) < 4 * rayon::current_num_threads() {
        block = (block / 2).next_multiple_of(ROWS);
    }
    let at = Disjoint(c.as_mut_ptr());
    (0..rows.div_ceil(block)).into_par_iter().for_each(|index| {
        let range = index * block..rows.min((index + 1) * block);
        with_scratch(&BLOCK_SCRATCH, range.len() * k, |made| {
            fill(range.clone(), made);
            let out = Out {
                at: at.at(range.start * n),
                row: n,
                alpha: 1.0,
                add: false,
            };
            let a = View::new(made, range.len(), k);
            task(a, &panels, 0..range.len(), n, out);
        });
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(n: usize, seed: u32) -> Vec<f32> {
        let mut x = seed;
        std::iter::repeat_with(|| {
            x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (x >> 8) as f32 / 8_388_608.0 - 1.0
        })
        .take(n)
        .collect()
    }

    /// Every way to read the operands, at sizes around the kernel's and the blocks' edges, against
    /// f64: each product's relative error is at most (k + 1) ε.
    #[test]
    fn equals_the_definition_at_every_edge() {
        let sizes = [
            (1, 1, 1),
            (6, 64, 256),
            (7, 65, 257),
            (5, 15, 3),
            (197, 197, 64),
            (13, 128, 513),
            (200, 33, 300),
            (193, 385, 40),
            (3, 500, 1),
            (2, 3, 0),
            (70, 129, 70),
        ]; // fmt: skip
        for (case, (m, n, k)) in sizes.into_iter().enumerate() {
            let (a, b) = (values(m * k, 1), values(k * n, 2));
            let start = values(m * n, 3);
            for (a_t, b_t, add) in [
                (false, false, false),
                (true, false, true),
                (false, true, true),
                (true, true, false),
            ] {
                let a = |i: usize, j: usize| if a_t { a[j * m + i] } else { a[i * k + j] };
                let b = |i: usize, j: usize| if b_t { b[j * k + i] } else { b[i * n + j] };
                let va = {
                    let data: Vec<f32> = values(m * k, 1);
                    data
                };
                let vb = values(k * n, 2);
                let va = if a_t {
                    View::new(&va, k, m).t()
                } else {
                    View::new(&va, m, k)
                };
                let vb = if b_t {
                    View::new(&vb, n, k).t()
                } else {
                    View::new(&vb, k, n)
                };
                let mut serial = start.clone();
                gemm_serial(&mut serial, add, 0.5, va, vb);
                let mut c = start.clone();
                gemm(&mut c, add, 0.5, va, vb);
                assert_eq!(serial, c, "case {case}: tasks must not matter");
                for i in 0..m {
                    for j in 0..n {
                        let terms = (0..k).map(|l| f64::from(a(i, l)) * f64::from(b(l, j)));
                        let (sum, size) = terms.fold((0.0, 0.0), |s, t| (s.0 + t, s.1 + t.abs()));
                        let old = if add {
                            f64::from(start[i * n + j])
                        } else {
                            0.0
                        };
                        let want = 0.5 * sum + old;
                        let bound = (k + 2) as f64 * f64::from(f32::EPSILON) * (size + old.abs());
                        let got = f64::from(c[i * n + j]);
                        assert!(
                            (got - want).abs() <= bound,
                            "case {case} [{i}, {j}]: {got} {want}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn a_row_alone_has_the_bits_it_has_among_others() {
        let (m, n, k) = (50, 70, 600);
        let (a, b) = (values(m * k, 4), values(n * k, 5));
        let mut all = vec![0.0; m * n];
        gemm(
            &mut all,
            false,
            1.0,
            View::new(&a, m, k),
            View::new(&b, n, k).t(),
        );
        let mut one = vec![0.0; n];
        let row = View::new(&a[31 * k..32 * k], 1, k);
        gemm(&mut one, false, 1.0, row, View::new(&b, n, k).t());
        assert_eq!(one, all[31 * n..32 * n]);
    }

    #[test]
    fn rows_made_on_demand_give_the_bits_of_rows_in_memory() {
        for (m, n, k) in [(1, 1, 1), (500, 70, 600), (13, 5, 27), (4, 3, 0)] {
            let (a, b) = (values(m * k, 8), values(n * k, 9));
            let vb = View::new(&b, n, k).t();
            let mut whole = vec![0.0; m * n];
            gemm(&mut whole, false, 1.0, View::new(&a, m, k), vb);
            let mut made = vec![7.0; m * n];
            gemm_from(&mut made, m, vb, |rows, out| {
                out.copy_from_slice(&a[rows.start * k..rows.end * k]);
            });
            assert_eq!(whole, made);
        }
    }

    #[test]
    fn each_part_of_c_is_handed_on_once() {
        let (m, n, k) = (100, 200, 30);
        let (a, b) = (values(m * k, 6), values(k * n, 7));
        let (va, vb) = (View::new(&a, m, k), View::new(&b, k, n));
        let mut plain = vec![0.0; m * n];
        gemm(&mut plain, false, 1.0, va, vb);
        let mut c = vec![0.0; m * n];
        gemm_then(&mut c, false, 1.0, va, vb, |row, first, part| {
            for (j, x) in part.iter_mut().enumerate() {
                *x += (row * n + first + j) as f32;
            }
        });
        for (i, (x, p)) in c.iter().zip(plain).enumerate() {
            assert_eq!(*x, p + i as f32);
        }
    }
}
