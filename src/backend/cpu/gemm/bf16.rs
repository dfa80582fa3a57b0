//! Products of bf16 numbers with f32 sums, by AVX512-BF16's `vdpbf16ps`: per lane, two products of
//! neighbouring steps of k are added to the sum in one instruction, twice the rate of f32.

use super::View;
use super::kernel::{Element, Left, Out};
use crate::backend::cpu::memory::Memory;
use crate::backend::cpu::parallel::over_rows;
use bytemuck::{Pod, Zeroable};
use pulp::Simd;

/// Two neighbouring steps of k as bf16, the earlier one in the low half.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(transparent)]
pub(in crate::backend::cpu) struct Steps(u32);

/// Whether this processor has the instruction.
pub(in crate::backend::cpu) fn available() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512cd")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512bf16")
    }
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// The bits of `x` rounded to bf16, to the nearest and to even on ties, in the high half. Not-a-number
/// stays so.
#[inline(always)]
fn rounded(x: f32) -> u32 {
    let bits = x.to_bits();
    let up = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) & 0xffff_0000;
    let quiet = (bits | 0x0040_0000) & 0xffff_0000;
    if x.is_nan() { quiet } else { up }
}

#[inline(always)]
fn steps(first: f32, second: f32) -> f32 {
    f32::from_bits(rounded(first) >> 16 | rounded(second))
}

/// An operand of a product in bf16.
pub(super) struct Operand {
    memory: Memory,
    others: usize,
    steps: usize,
    other_stride: usize,
    step_stride: usize,
}

impl Operand {
    /// A, which has k along its columns.
    pub(super) fn left(a: View) -> Self {
        convert(a, false)
    }

    /// B, which has k along its rows.
    pub(super) fn right(b: View) -> Self {
        convert(b, true)
    }

    /// This operand as A: its rows by steps of k.
    pub(super) fn as_left(&self) -> View<'_, Steps> {
        View {
            data: bytemuck::cast_slice(&self.memory),
            rows: self.others,
            cols: self.steps,
            row_stride: self.other_stride,
            col_stride: self.step_stride,
        }
    }

    /// This operand as B.
    pub(super) fn as_right(&self) -> View<'_, Steps> {
        self.as_left().t()
    }
}

/// `a` with k along its columns, or with `along_rows` along its rows. An odd last step is paired with a
/// zero.
fn convert(a: View, along_rows: bool) -> Operand {
    let (k, others) = match along_rows {
        true => (a.rows, a.cols),
        false => (a.cols, a.rows),
    };
    let (k_stride, stride) = match along_rows {
        true => (a.row_stride, a.col_stride),
        false => (a.col_stride, a.row_stride),
    };
    let half = k.div_ceil(2);
    let mut out = Memory::stale(half * others);
    let (other_stride, step_stride) = if k_stride == 1 {
        (half, 1)
    } else {
        (1, others)
    };
    if out.is_empty() {
        // Nothing to write, and rows of no elements cannot be counted.
    } else if k_stride == 1 {
        over_rows(
            &mut out,
            half,
            #[inline(always)]
            |first, out| {
                for (r, out) in out.chunks_exact_mut(half).enumerate() {
                    let row = &a.data[(first + r) * stride..][..k];
                    let (pairs, last) = row.as_chunks::<2>();
                    for (out, [x, y]) in out.iter_mut().zip(pairs) {
                        *out = steps(*x, *y);
                    }
                    if let ([x], Some(out)) = (last, out.last_mut()) {
                        *out = steps(*x, 0.0);
                    }
                }
            },
        );
    } else {
        over_rows(
            &mut out,
            others,
            #[inline(always)]
            |first, out| {
                for (s, out) in out.chunks_exact_mut(others).enumerate() {
                    let at = 2 * (first + s);
                    let x = &a.data[at * k_stride..][..others];
                    if at + 1 < k {
                        let y = &a.data[(at + 1) * k_stride..][..others];
                        for ((out, x), y) in out.iter_mut().zip(x).zip(y) {
                            *out = steps(*x, *y);
                        }
                    } else {
                        for (out, x) in out.iter_mut().zip(x) {
                            *out = steps(*x, 0.0);
                        }
                    }
                }
            },
        );
    }
    Operand {
        memory: out,
        others,
        steps: half,
        other_stride,
        step_stride,
    }
}

impl Element for Steps {
    #[inline(always)]
    unsafe fn product<S: Simd>(
        _: S,
        k: usize,
        a: Left<Steps>,
        b: *const Steps,
        out: Out,
        rows: usize,
        cols: usize,
    ) {
        // SAFETY: the caller's promise, passed on; such elements exist only where `available`.
        #[cfg(target_arch = "x86_64")]
        unsafe {
            match cols.div_ceil(16) {
                1 => x86::by_rows::<1>(k, a, b, out, rows, cols),
                2 => x86::by_rows::<2>(k, a, b, out, rows, cols),
                3 => x86::by_rows::<3>(k, a, b, out, rows, cols),
                _ => x86::by_rows::<4>(k, a, b, out, rows, cols),
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = (k, a, b, out, rows, cols);
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::super::kernel::ROWS;
    use super::{Left, Out, Steps};
    use std::arch::x86_64::*;

    /// # Safety
    /// As `Element::product`, on a processor with AVX512-BF16.
    #[inline(always)]
    pub(super) unsafe fn by_rows<const V: usize>(
        k: usize,
        a: Left<Steps>,
        b: *const Steps,
        out: Out,
        rows: usize,
        cols: usize,
    ) {
        // SAFETY: the caller's promise, passed on.
        unsafe {
            match rows {
                1 => registers::<V, 1>(k, a, b, out, cols),
                2 => registers::<V, 2>(k, a, b, out, cols),
                3 => registers::<V, 3>(k, a, b, out, cols),
                4 => registers::<V, 4>(k, a, b, out, cols),
                5 => registers::<V, 5>(k, a, b, out, cols),
                _ => registers::<V, ROWS>(k, a, b, out, cols),
            }
        }
    }

    /// # Safety
    /// As [`by_rows`].
    #[target_feature(enable = "avx512f,avx512bf16")]
    unsafe fn registers<const V: usize, const R: usize>(
        k: usize,
        a: Left<Steps>,
        mut b: *const Steps,
        out: Out,
        cols: usize,
    ) {
        let (mut a, row, step) = a.strides();
        let mut sum = [[_mm512_setzero_ps(); V]; R];
        for _ in 0..k {
            let mut column = [_mm512_setzero_si512(); V];
            for (v, column) in column.iter_mut().enumerate() {
                // SAFETY: a step of a panel is 64 elements.
                *column = unsafe { _mm512_loadu_si512(b.add(16 * v).cast()) };
            }
            for (r, sum) in sum.iter_mut().enumerate() {
                // SAFETY: the caller's promise on `a`.
                let x = _mm512_set1_epi32(unsafe { (*a.add(r * row)).0 } as i32);
                for (sum, column) in sum.iter_mut().zip(column) {
                    // SAFETY: both types are 64 plain bytes.
                    let (x, y) = unsafe {
                        (
                            std::mem::transmute::<__m512i, __m512bh>(x),
                            std::mem::transmute::<__m512i, __m512bh>(column),
                        )
                    };
                    *sum = _mm512_dpbf16_ps(*sum, x, y);
                }
            }
            // SAFETY: at most one element after the last step.
            unsafe {
                a = a.add(step);
                b = b.add(64);
            }
        }
        let alpha = _mm512_set1_ps(out.alpha);
        for (r, sum) in sum.into_iter().enumerate() {
            for (v, sum) in sum.into_iter().enumerate() {
                let valid = cols.saturating_sub(16 * v).min(16) as u32;
                let mask = ((1u32 << valid) - 1) as __mmask16;
                // SAFETY: row `r` of `out` has `cols` elements, of which `valid` begin at 16 v.
                unsafe {
                    let at = out.at.add(r * out.row + 16 * v);
                    let y = if out.add {
                        _mm512_fmadd_ps(alpha, sum, _mm512_maskz_loadu_ps(mask, at))
                    } else {
                        _mm512_mul_ps(alpha, sum)
                    };
                    _mm512_mask_storeu_ps(at, mask, y);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ties, the largest numbers, infinities and not-a-numbers, as the `half` crate rounds them.
    #[test]
    fn rounds_to_nearest_even() {
        let special = [
            0.0,
            -0.0,
            1.0,
            f32::MAX,
            f32::MIN,
            f32::INFINITY,
            f32::NEG_INFINITY,
            f32::MIN_POSITIVE,
            1e-45,
            f32::from_bits(0x3f80_8000),
            f32::from_bits(0x3f81_8000),
            f32::from_bits(0x7f7f_8000),
        ]; // fmt: skip
        let many = (0..100_000u32).map(|i| f32::from_bits(i.wrapping_mul(0x9e37_79b9)));
        for x in special.into_iter().chain(many.filter(|x| !x.is_nan())) {
            let want = u32::from(half::bf16::from_f32(x).to_bits()) << 16;
            assert_eq!(rounded(x), want, "{x:e}");
        }
        for bits in [0x7fc0_0000, 0x7f80_0001, 0xffff_ffff] {
            assert!(f32::from_bits(rounded(f32::from_bits(bits))).is_nan());
        }
    }
}
