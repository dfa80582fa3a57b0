//! How work is cut for the thread pool: always by the shape of the data, never by the number of
//! threads, so that every sum has one order and every run the same bits.

use pulp::Arch;
use rayon::iter::MaxLen;
use rayon::prelude::*;

/// Elements that one task should at least handle, so that its start costs nothing.
const GRAIN: usize = 16 * 1024;

/// Rows per task for rows of `width` elements.
pub(super) fn rows_per_task(width: usize) -> usize {
    (GRAIN / width.max(1)).max(1)
}

/// Tasks that go to the threads one by one. Left to itself rayon gives a thread up to a quarter of them as
/// one piece; but threads are seldom equally fast, and at the end all wait for the last piece.
pub(super) fn one_by_one<I: IndexedParallelIterator>(tasks: I) -> MaxLen<I> {
    tasks.with_max_len(1)
}

/// Runs `body` compiled for the widest vectors that the processor has.
#[inline(always)]
pub(super) fn vectorised<R>(body: impl FnOnce() -> R) -> R {
    Arch::new().dispatch(body)
}

/// Calls `body(first_row, rows_of_out)` for consecutive groups of rows of `out`, in parallel.
pub(super) fn over_rows(out: &mut [f32], width: usize, body: impl Fn(usize, &mut [f32]) + Sync) {
    let rows = rows_per_task(width);
    let chunks = out.par_chunks_mut((rows * width).max(1)).enumerate();
    one_by_one(chunks).for_each(|(i, chunk)| {
        vectorised(
            #[inline(always)]
            || body(i * rows, chunk),
        )
    });
}

/// As [`over_rows`] over two outputs with the same number of rows.
pub(super) fn over_rows2(
    a: &mut [f32],
    a_width: usize,
    b: &mut [f32],
    b_width: usize,
    body: impl Fn(usize, &mut [f32], &mut [f32]) + Sync,
) {
    let rows = rows_per_task(a_width.max(b_width));
    let chunks = a
        .par_chunks_mut((rows * a_width).max(1))
        .zip(b.par_chunks_mut((rows * b_width).max(1)))
        .enumerate();
    one_by_one(chunks).for_each(|(i, (a, b))| {
        vectorised(
            #[inline(always)]
            || body(i * rows, a, b),
        )
    });
}

/// sum += factor · x.
pub(super) fn add_scaled(sum: &mut [f32], x: &[f32], factor: f32) {
    over_rows(
        sum,
        1,
        #[inline(always)]
        |first, sum| {
            for (s, x) in sum.iter_mut().zip(&x[first..]) {
                *s += factor * x;
            }
        },
    );
}

/// out_c += Σ_r term(r)_c over `rows` rows, where `add(r, partial)` adds row r's terms. Rows are
/// grouped by fixed size and the groups' partial sums added in order.
pub(super) fn column_sums(rows: usize, out: &mut [f32], add: impl Fn(usize, &mut [f32]) + Sync) {
    let width = out.len();
    let group = rows_per_task(width).max(32);
    let partials: Vec<Vec<f32>> = one_by_one((0..rows.div_ceil(group)).into_par_iter())
        .map(|g| {
            let mut partial = vec![0.0; width];
            vectorised(
                #[inline(always)]
                || {
                    for r in g * group..((g + 1) * group).min(rows) {
                        add(r, &mut partial);
                    }
                },
            );
            partial
        })
        .collect();
    for partial in partials {
        for (o, p) in out.iter_mut().zip(partial) {
            *o += p;
        }
    }
}

/// A pointer that tasks writing disjoint elements may share.
#[derive(Clone, Copy)]
pub(super) struct Disjoint(pub *mut f32);
// SAFETY: only handed to tasks that write elements no other task reads or writes; each use says why.
unsafe impl Send for Disjoint {}
// SAFETY: as above.
unsafe impl Sync for Disjoint {}

impl Disjoint {
    /// The pointer moved on by `offset` elements. A method, so that closures capture the wrapper.
    pub(super) fn at(self, offset: usize) -> *mut f32 {
        self.0.wrapping_add(offset)
    }
}
