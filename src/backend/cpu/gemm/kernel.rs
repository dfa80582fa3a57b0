//! The innermost part of a matrix product: a few rows of C in registers.
//!
//! One call computes ROWS × (V vectors) of C over a range of k: per k it loads V vectors of B and
//! broadcasts one element of A a row. With 32 vector registers, 6 × 4 accumulators leave eight for
//! the operands, and 24 multiply-adds stand against ten loads.

use bytemuck::Pod;
use pulp::Simd;

/// Rows of C that one call holds.
pub(super) const ROWS: usize = 6;

/// Vectors of C's columns that one call holds, for a processor with `S`'s registers.
pub(super) const fn vectors<S: Simd>() -> usize {
    if S::REGISTER_COUNT >= 32 { 4 } else { 2 }
}

/// Columns of a packed panel of B.
pub(super) const fn columns<S: Simd>() -> usize {
    vectors::<S>() * S::F32_LANES
}

/// A few rows of A in memory, from their first element on.
#[derive(Clone, Copy)]
pub(super) enum Left<E> {
    /// Rows this far apart; a row's steps of k are contiguous.
    Rows(*const E, usize),
    /// [`ROWS`] rows side by side, step by step of k.
    Packed(*const E),
}

#[cfg(target_arch = "x86_64")]
impl<E> Left<E> {
    /// The first element, and the distances between rows and between steps of k.
    pub(super) fn strides(self) -> (*const E, usize, usize) {
        match self {
            Self::Rows(at, row) => (at, row, 1),
            Self::Packed(at) => (at, 1, ROWS),
        }
    }
}

/// Where results go: C = alpha · sum, or C += alpha · sum.
#[derive(Clone, Copy)]
pub(super) struct Out {
    pub(super) at: *mut f32,
    pub(super) row: usize,
    pub(super) alpha: f32,
    pub(super) add: bool,
}

/// What a matrix holds per step of k.
pub(in crate::backend::cpu) trait Element: Pod + Send + Sync {
    /// C's `rows` × `cols` corner over `k` steps; `b` is a packed panel, [`columns`] a step.
    ///
    /// # Safety
    /// `a`, `b` and `out` must be valid for `rows` ≤ [`ROWS`], `cols` ≤ [`columns`] and `k`.
    unsafe fn product<S: Simd>(
        simd: S,
        k: usize,
        a: Left<Self>,
        b: *const Self,
        out: Out,
        rows: usize,
        cols: usize,
    );
}

impl Element for f32 {
    #[inline(always)]
    unsafe fn product<S: Simd>(
        simd: S,
        k: usize,
        a: Left<f32>,
        b: *const f32,
        out: Out,
        rows: usize,
        cols: usize,
    ) {
        // SAFETY: the caller's promise, passed on.
        unsafe {
            let wide = cols.div_ceil(S::F32_LANES);
            match (vectors::<S>(), wide) {
                (_, 1) => by_rows::<S, 1>(simd, k, a, b, out, rows, cols),
                (_, 2) => by_rows::<S, 2>(simd, k, a, b, out, rows, cols),
                (4, 3) => by_rows::<S, 3>(simd, k, a, b, out, rows, cols),
                (4, 4) => by_rows::<S, 4>(simd, k, a, b, out, rows, cols),
                _ => unreachable!("a panel has at most as many vectors"),
            }
        }
    }
}

/// # Safety
/// As [`Element::product`].
#[inline(always)]
unsafe fn by_rows<S: Simd, const V: usize>(
    simd: S,
    k: usize,
    a: Left<f32>,
    b: *const f32,
    out: Out,
    rows: usize,
    cols: usize,
) {
    // SAFETY: the caller's promise, passed on.
    unsafe {
        match rows {
            1 => registers::<S, V, 1>(simd, k, a, b, out, cols),
            2 => registers::<S, V, 2>(simd, k, a, b, out, cols),
            3 => registers::<S, V, 3>(simd, k, a, b, out, cols),
            4 => registers::<S, V, 4>(simd, k, a, b, out, cols),
            5 => registers::<S, V, 5>(simd, k, a, b, out, cols),
            _ => registers::<S, V, ROWS>(simd, k, a, b, out, cols),
        }
    }
}

/// Which cache memory is asked into.
#[derive(Clone, Copy)]
pub(super) enum Cache {
    First,
    Second,
}

/// Asks for a cache line at each 64 bytes from `at` on, `bytes` bytes in all, which may be outside any object.
#[inline(always)]
pub(super) fn prefetch<E>(cache: Cache, at: *const E, bytes: usize) {
    #[cfg(target_arch = "x86_64")]
    for line in (0..bytes).step_by(64) {
        use std::arch::x86_64::{_MM_HINT_T0, _MM_HINT_T1, _mm_prefetch};
        let at = at.cast::<i8>().wrapping_add(line);
        // SAFETY: a prefetch reads nothing and never faults.
        unsafe {
            match cache {
                Cache::First => _mm_prefetch::<_MM_HINT_T0>(at),
                Cache::Second => _mm_prefetch::<_MM_HINT_T1>(at),
            }
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (cache, at, bytes);
}

/// Asks for the cache line at `at`, which may be outside any object.
#[inline(always)]
fn prefetch_for_writing(at: *const f32) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch reads nothing and never faults.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_ET0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_ET0>(at.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}

/// sum += A·B over `k` steps, `U` of them in one round of the loop. A processor whose core another thread
/// shares has few instructions to spare beside the multiply-adds: an address is made once a round, not
/// once a step. `a(k, r)` reads row r.
///
/// # Safety
/// As [`Element::product`].
#[inline(always)]
unsafe fn steps<S: Simd, const V: usize, const R: usize, const U: usize>(
    simd: S,
    sum: &mut [[S::f32s; V]; R],
    k: usize,
    mut b: *const f32,
    a: impl Fn(usize, usize) -> f32,
) {
    // SAFETY: the caller's promise, step by step.
    unsafe {
        let rounds = k / U;
        for round in 0..rounds {
            for u in 0..U {
                let at = b.add(u * columns::<S>());
                step(simd, sum, at, |r| a(round * U + u, r));
            }
            b = b.add(U * columns::<S>());
        }
        for k in rounds * U..k {
            step(simd, sum, b, |r| a(k, r));
            b = b.add(columns::<S>());
        }
    }
}

/// sum += one column of A times one row of B.
///
/// # Safety
/// `b` must be valid for `V` vectors.
#[inline(always)]
unsafe fn step<S: Simd, const V: usize, const R: usize>(
    simd: S,
    sum: &mut [[S::f32s; V]; R],
    b: *const f32,
    a: impl Fn(usize) -> f32,
) {
    let mut row = [simd.splat_f32s(0.0); V];
    for (v, row) in row.iter_mut().enumerate() {
        // SAFETY: the caller's promise.
        *row = unsafe { b.add(v * S::F32_LANES).cast::<S::f32s>().read_unaligned() };
    }
    for (r, sum) in sum.iter_mut().enumerate() {
        let x = simd.splat_f32s(a(r));
        for (sum, row) in sum.iter_mut().zip(row) {
            *sum = simd.mul_add_e_f32s(x, row, *sum);
        }
    }
}

/// # Safety
/// As [`Element::product`].
#[inline(always)]
unsafe fn registers<S: Simd, const V: usize, const R: usize>(
    simd: S,
    k: usize,
    a: Left<f32>,
    b: *const f32,
    out: Out,
    cols: usize,
) {
    let lanes = S::F32_LANES;
    // The sums take thousands of cycles; by then their place in C is in the cache.
    for r in 0..R {
        for v in 0..V {
            prefetch_for_writing(out.at.wrapping_add(r * out.row + v * lanes));
        }
    }
    let mut sum = [[simd.splat_f32s(0.0); V]; R];
    // SAFETY: the caller's promise on `a` and `b`.
    unsafe {
        match a {
            Left::Rows(at, row) => {
                let rows: [*const f32; R] = std::array::from_fn(|r| at.add(r * row));
                steps::<S, V, R, 8>(simd, &mut sum, k, b, |k, r| *rows[r].add(k));
            }
            Left::Packed(at) => {
                steps::<S, V, R, 4>(simd, &mut sum, k, b, |k, r| *at.add(k * ROWS + r));
            }
        }
    }
    let alpha = simd.splat_f32s(out.alpha);
    let at = |r: usize, v: usize| out.at.wrapping_add(r * out.row + v * lanes);
    // A whole tile has a path of its own without choices inside: its loops unroll, and the sums never
    // leave the registers before they are written.
    if cols == V * lanes && out.add {
        for (r, sum) in sum.into_iter().enumerate() {
            for (v, sum) in sum.into_iter().enumerate() {
                let at = at(r, v).cast::<S::f32s>();
                // SAFETY: `R` rows of `out` have `cols` elements.
                unsafe {
                    at.write_unaligned(simd.mul_add_e_f32s(alpha, sum, at.read_unaligned()));
                }
            }
        }
    } else if cols == V * lanes {
        for (r, sum) in sum.into_iter().enumerate() {
            for (v, sum) in sum.into_iter().enumerate() {
                let at = at(r, v).cast::<S::f32s>();
                // SAFETY: as above.
                unsafe { at.write_unaligned(simd.mul_f32s(alpha, sum)) };
            }
        }
    } else {
        for (r, sum) in sum.into_iter().enumerate() {
            for (v, sum) in sum.into_iter().enumerate() {
                let valid = cols.saturating_sub(v * lanes).min(lanes);
                // SAFETY: row `r` of `out` has `cols` elements, of which `valid` begin at v · lanes.
                let at = unsafe { std::slice::from_raw_parts_mut(at(r, v), valid) };
                let y = if out.add {
                    simd.mul_add_e_f32s(alpha, sum, simd.partial_load_f32s(at))
                } else {
                    simd.mul_f32s(alpha, sum)
                };
                simd.partial_store_f32s(at, y);
            }
        }
    }
}
