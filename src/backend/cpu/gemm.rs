//! Matrix products: C = alpha·A·B (+ C).
//!
//! As in BLIS (Van Zee and van de Geijn, *ACM TOMS* 41(3), 2015): B is packed once into panels as wide
//! as the kernel's registers, all tasks share it, and k goes by in blocks so that a panel's part stays
//! in the second-level cache. A is read in place unless it is transposed.
//!
//! An element of C is a sum of blocks of [`DEPTH`] products, each block summed in order: neither the
//! number of threads nor the size of C has a say. So packed and padded batches, or a row alone and
//! among others, give the same bits.

mod bf16;
mod kernel;
mod pack;

use super::memory::Memory;
use super::parallel::{Disjoint, one_by_one, vectorised};
pub(super) use bf16::available as bf16_available;
use kernel::{Cache, Element, Left, Out, ROWS, prefetch};
use pack::{group_size, pack_panel, pack_rows};
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;
use std::cell::Cell;
use std::ops::Range;

/// Steps of k in one block: a panel's part (64 KiB with AVX-512) and a task's rows of A (192 KiB) fit
/// the second-level cache, and C is read and written once for 256 multiply-adds an element.
const DEPTH: usize = 256;

/// Largest task: rows and columns of C, twice as many columns where rows of A are packed, for they are packed
/// once for all of them. A part of C (144 KiB) waits in the second-level cache for the next block of k.
const TASK: (usize, usize) = (16 * ROWS, 384);

/// Tasks a thread from which on none is halved any more.
const TASKS: usize = 8;

/// Elements of A made at a time by [`gemm_from`], to stay in the second-level cache.
const MADE: usize = 64 * 1024;

/// Multiply-adds below which a product is not worth a second thread.
const SMALL: usize = 64 * 64 * 64;

/// In which numbers products are taken; their sums are f32 always.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Products {
    #[default]
    F32,
    /// Operands rounded to bf16; only where [`bf16_available`].
    Bf16,
}

/// A strided view of a matrix in a slice. One of its strides is 1.
#[derive(Clone, Copy)]
pub(super) struct View<'a, E = f32> {
    data: &'a [E],
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
}

impl<E> View<'_, E> {
    /// Whether elements of a column, not of a row, are contiguous.
    fn is_transposed(&self) -> bool {
        self.col_stride != 1
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

thread_local! {
    /// Where a thread packs its rows of A, and a serial product its B.
    static ROW_SCRATCH: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
    static PANEL_SCRATCH: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
    /// Where a thread makes rows of an A that exists nowhere else.
    static BLOCK_SCRATCH: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
}

/// Lends `body` at least `len` elements of the thread's scratch memory.
fn with_scratch<E: Element>(
    scratch: &'static std::thread::LocalKey<Cell<Vec<f32>>>,
    len: usize,
    body: impl FnOnce(&mut [E]),
) {
    let mut memory = scratch.take();
    if memory.len() < len {
        memory.resize(len, 0.0);
    }
    body(bytemuck::cast_slice_mut(&mut memory[..len]));
    scratch.set(memory);
}

/// Part of C, computed by one thread.
struct Task<'a, E> {
    a: View<'a, E>,
    /// B's panels from this part's first column on, each `a.cols` steps deep.
    panels: &'a [E],
    rows: Range<usize>,
    cols: usize,
    /// C at row 0 and this part's first column.
    out: Out,
    row_scratch: &'a mut [E],
}

impl<E: Element> WithSimd for Task<'_, E> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self {
            a, rows, mut out, ..
        } = self;
        let nr = kernel::columns::<S>();
        let groups = rows.len().div_ceil(ROWS).max(1);
        for from in (0..a.cols).step_by(DEPTH) {
            let k = from..a.cols.min(from + DEPTH);
            let packed = a.is_transposed();
            if packed {
                pack_rows(a, &rows, &k, self.row_scratch);
            }
            for (p, panel) in self.panels.chunks_exact(nr * a.cols).enumerate() {
                let cols = nr.min(self.cols - p * nr);
                let ahead = panel.as_ptr().wrapping_add(nr * (a.cols + from));
                for (group, first) in rows.clone().step_by(ROWS).enumerate() {
                    // The part of the next panel that comes next, and the rows that no panel has read yet.
                    let share = k.len() * nr / groups;
                    let ahead = ahead.wrapping_add(group * share);
                    prefetch(Cache::Second, ahead, share * size_of::<E>());
                    if p == 0 && !packed {
                        for row in first + ROWS..rows.end.min(first + 2 * ROWS) {
                            let ahead = &a.data[row * a.row_stride + from..][..k.len()];
                            prefetch(Cache::Second, ahead.as_ptr(), size_of_val(ahead));
                        }
                    }
                    let left = if packed {
                        let at = &self.row_scratch[group * group_size::<E>(k.len())..];
                        Left::Packed(at.as_ptr())
                    } else {
                        let at = &a.data[first * a.row_stride + from..];
                        Left::Rows(at.as_ptr(), a.row_stride)
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
                        E::product(simd, k.len(), left, b, out, count, cols);
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

fn task<E: Element>(a: View<E>, panels: &[E], rows: Range<usize>, cols: usize, out: Out) {
    let scratch = if a.is_transposed() {
        rows.len().div_ceil(ROWS) * group_size::<E>(DEPTH)
    } else {
        0
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
fn task_size(m: usize, panels: usize, nr: usize, k: usize, packed: bool) -> (usize, usize) {
    let columns = if packed { 2 * TASK.1 } else { TASK.1 };
    let mut size = (
        TASK.0.min(m.max(1).next_multiple_of(ROWS)),
        (columns / nr).clamp(1, panels.max(1)),
    );
    let enough = TASKS * rayon::current_num_threads();
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

/// C = A·B (+ C when `add`) on the thread pool; C contiguous row-major.
pub(super) fn gemm(products: Products, c: &mut [f32], add: bool, a: View, b: View) {
    gemm_then(products, c, add, a, b, |_, _, _| {});
}

/// As [`gemm`]. Each finished part of a row of C is handed to `then(row, first column, part)` while
/// it is still in the cache.
pub(super) fn gemm_then(
    products: Products,
    c: &mut [f32],
    add: bool,
    a: View,
    b: View,
    then: impl Fn(usize, usize, &mut [f32]) + Sync,
) {
    match products {
        Products::F32 => on_the_pool(c, add, a, b, then),
        Products::Bf16 => {
            let (a, b) = (bf16::Operand::left(a), bf16::Operand::right(b));
            on_the_pool(c, add, a.as_left(), b.as_right(), then);
        }
    }
}

fn on_the_pool<E: Element>(
    c: &mut [f32],
    add: bool,
    a: View<E>,
    b: View<E>,
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
    let mut memory = Memory::stale(count * nr * k);
    let panels: &mut [E] = bytemuck::cast_slice_mut(&mut memory);
    let pack = |(p, panel): (usize, &mut [E])| pack_panel(b, p * nr, nr, panel);
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
    let panels: &[E] = panels;
    let (rows, wide) = task_size(m, count, nr, k, a.is_transposed());
    let (tasks_m, tasks_n) = (m.div_ceil(rows), count.div_ceil(wide));
    let at = Disjoint(c.as_mut_ptr());
    let run = |index: usize| {
        let first = (index / tasks_n) * rows;
        let panel = (index % tasks_n) * wide;
        let cols = panel * nr..n.min((panel + wide) * nr);
        let part = first..m.min(first + rows);
        let out = Out {
            at: at.at(cols.start),
            row: n,
            alpha: 1.0,
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
        one_by_one((0..tasks_m * tasks_n).into_par_iter()).for_each(run);
    }
}

/// C = A·B over contiguous row-major C `[rows, b.cols]`, where A is never there as a whole: `fill`
/// writes its rows `range` into the memory it is given, once for each block of rows, and all blocks
/// share the packed B.
pub(super) fn gemm_from(
    products: Products,
    c: &mut [f32],
    rows: usize,
    b: View,
    fill: impl Fn(Range<usize>, &mut [f32]) + Sync,
) {
    let k = b.rows;
    let made = |range: Range<usize>, then: &dyn Fn(View)| {
        with_scratch(&BLOCK_SCRATCH, range.len() * k, |made: &mut [f32]| {
            fill(range.clone(), made);
            then(View::new(made, range.len(), k));
        });
    };
    match products {
        Products::F32 => by_blocks(c, rows, b, |range, multiply| made(range, multiply)),
        Products::Bf16 => {
            let b = bf16::Operand::right(b);
            by_blocks(c, rows, b.as_right(), |range, multiply| {
                made(range, &|a| multiply(bf16::Operand::left(a).as_left()));
            });
        }
    }
}

/// The blocks of [`gemm_from`]: `left` hands the rows `range` of A to its second argument.
fn by_blocks<E: Element>(
    c: &mut [f32],
    rows: usize,
    b: View<E>,
    left: impl Fn(Range<usize>, &dyn Fn(View<E>)) + Sync,
) {
    assert_eq!(c.len(), rows * b.cols, "output size");
    let (n, k) = (b.cols, b.rows);
    if k == 0 {
        return c.fill(0.0);
    }
    let nr = panel_columns();
    let mut memory = Memory::stale(n.div_ceil(nr) * nr * k);
    let panels: &mut [E] = bytemuck::cast_slice_mut(&mut memory);
    panels
        .par_chunks_exact_mut(nr * k)
        .enumerate()
        .for_each(|(p, panel)| pack_panel(b, p * nr, nr, panel));
    let panels: &[E] = panels;
    let mut block = (MADE / k).clamp(8 * ROWS, TASK.0).next_multiple_of(ROWS);
    while block > ROWS && rows.div_ceil(block) < 4 * rayon::current_num_threads() {
        block = (block / 2).next_multiple_of(ROWS);
    }
    let at = Disjoint(c.as_mut_ptr());
    let blocks = (0..rows.div_ceil(block)).into_par_iter();
    one_by_one(blocks).for_each(|index| {
        let range = index * block..rows.min((index + 1) * block);
        let out = Out {
            at: at.at(range.start * n),
            row: n,
            alpha: 1.0,
            add: false,
        };
        let count = range.len();
        left(range, &|a| task(a, panels, 0..count, n, out));
    });
}

#[cfg(test)]
mod tests;
