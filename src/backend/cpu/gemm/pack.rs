//! Operands rearranged for the kernel: B into panels as wide as its registers, rows of a transposed A into
//! groups of [`ROWS`].

use super::super::parallel::vectorised;
use super::View;
use super::kernel::{Cache, Element, ROWS, prefetch};
use std::ops::Range;

/// Steps of k by which packing asks ahead for memory: of A a dozen cache lines a step, of B one or a few. From
/// step to step it jumps a row of the matrix, which is further than processors foresee.
const AHEAD_A: usize = 8;
const AHEAD_B: usize = 16;

/// Packs `nr` columns of B from `first` on, step by step of k; columns beyond B hold anything, and only
/// reach lanes that are never stored.
pub(super) fn pack_panel<E: Element>(b: View<E>, first: usize, nr: usize, out: &mut [E]) {
    vectorised(
        #[inline(always)]
        || {
            if !b.is_transposed() {
                copy_panel(b, first, nr, out);
            } else if nr.is_multiple_of(4) {
                transpose_panel::<E, 4>(b, first, nr, out);
            } else {
                transpose_panel::<E, 1>(b, first, nr, out);
            }
        },
    );
}

#[inline(always)]
fn copy_panel<E: Element>(b: View<E>, first: usize, nr: usize, out: &mut [E]) {
    let cols = nr.min(b.cols - first);
    for (k, out) in out.chunks_exact_mut(nr).enumerate() {
        let ahead = (k + AHEAD_B) * b.row_stride + first;
        let ahead = b.data.as_ptr().wrapping_add(ahead);
        prefetch(Cache::First, ahead, cols * size_of::<E>());
        out[..cols].copy_from_slice(&b.data[k * b.row_stride + first..][..cols]);
    }
}

/// `SIDE` columns and steps, a divisor of `nr`, are transposed in registers at a time.
#[inline(always)]
fn transpose_panel<E: Element, const SIDE: usize>(
    b: View<E>,
    first: usize,
    nr: usize,
    out: &mut [E],
) {
    /// Steps that are transposed together: their part of the panel stays in the first-level cache.
    const STEPS: usize = 64;
    let last = b.cols - 1;
    for (block, out) in out.chunks_mut(nr * STEPS).enumerate() {
        let steps = out.len() / nr;
        for from in (0..nr).step_by(SIDE) {
            let columns: [&[E]; SIDE] = std::array::from_fn(|j| {
                let column = (first + from + j).min(last) * b.col_stride;
                &b.data[column + block * STEPS..][..steps]
            });
            for column in columns {
                let ahead = column.as_ptr().wrapping_add(STEPS);
                prefetch(Cache::First, ahead, STEPS * size_of::<E>());
            }
            let mut squares = out.chunks_exact_mut(SIDE * nr);
            for (square, out) in squares.by_ref().enumerate() {
                // Read whole before any is written: so these are moves between registers.
                let square: [[E; SIDE]; SIDE] = std::array::from_fn(|j| {
                    *columns[j][square * SIDE..]
                        .first_chunk()
                        .expect("a side of steps")
                });
                let out = &mut out[from..];
                for i in 0..SIDE {
                    let row: [E; SIDE] = std::array::from_fn(|j| square[j][i]);
                    *out[i * nr..].first_chunk_mut().expect("a side of columns") = row;
                }
            }
            let rest = squares.into_remainder().chunks_exact_mut(nr);
            for (i, out) in (steps / SIDE * SIDE..).zip(rest) {
                out[from..][..SIDE].copy_from_slice(&columns.map(|column| column[i]));
            }
        }
    }
}

/// Elements from one group of [`ROWS`] packed rows to the next. They are filled side by side, step by
/// step: a cache line between them keeps groups of 256 steps from sharing the same few cache sets.
pub(super) const fn group_size<E>(steps: usize) -> usize {
    ROWS * steps + 64 / size_of::<E>()
}

/// Packs `rows` of a transposed A over the steps `k`, [`ROWS`] by [`ROWS`].
#[inline(always)]
pub(super) fn pack_rows<E: Element>(
    a: View<E>,
    rows: &Range<usize>,
    k: &Range<usize>,
    out: &mut [E],
) {
    let group = group_size::<E>(k.len());
    for (step, k) in k.clone().enumerate() {
        let row = &a.data[k * a.col_stride..][rows.clone()];
        let ahead = row.as_ptr().wrapping_add(AHEAD_A * a.col_stride);
        prefetch(Cache::First, ahead, size_of_val(row));
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
