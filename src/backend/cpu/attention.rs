//! Softmax attention over packed sequences, one task per (sequence, head).
//!
//! Queries go by in blocks of at most [`BLOCK`] rows, whose logits against all keys live in the
//! task's scratch only; what stays is one log-sum-exp a row.

use super::Cpu;
use super::gemm::{View, gemm_raw, gemm_serial};
use super::math;
use super::memory::Memory;
use super::parallel::{Disjoint, one_by_one, vectorised};
use super::storage::{f32s, target, tensor};
use crate::backend::{Attention, AttentionBackward, Result, Segments, Slot};
use crate::tensor::Tensor;
use rayon::prelude::*;

const OP: &str = "attention";
const BLOCK: usize = 256;

/// One head of one sequence.
struct Head<'a> {
    qkv: &'a [f32],
    /// First token and number of tokens.
    start: usize,
    len: usize,
    /// Head width and model width.
    dim: usize,
    width: usize,
    head: usize,
    causal: bool,
}

impl<'a> Head<'a> {
    /// Rows `from..to` of q (part 0), k (1) or v (2).
    fn part(&self, part: usize, from: usize, to: usize) -> View<'a> {
        let row = 3 * self.width;
        let first = (self.start + from) * row + part * self.width + self.head * self.dim;
        View::strided(&self.qkv[first..], to - from, self.dim, row)
    }

    fn scale(&self) -> f32 {
        1.0 / (self.dim as f32).sqrt()
    }

    /// Keys that queries `from..to` can see: a causal block needs none beyond its last row.
    fn keys(&self, to: usize) -> usize {
        if self.causal { to } else { self.len }
    }

    /// Logits of queries `from..to` against their keys, row-major `[to - from, keys]`.
    fn logits(&self, from: usize, to: usize, out: &mut [f32]) {
        let keys = self.keys(to);
        gemm_serial(
            out,
            false,
            self.scale(),
            self.part(0, from, to),
            self.part(1, 0, keys).t(),
        );
    }

    /// Number of keys that query `row` sees.
    fn visible(&self, row: usize) -> usize {
        if self.causal { row + 1 } else { self.len }
    }
}

/// Calls `body(task, head)` for every (sequence, head) in parallel.
fn over_heads(
    qkv: &[f32],
    segments: &Segments,
    heads: usize,
    width: usize,
    causal: bool,
    body: impl Fn(Head) + Sync,
) {
    let offsets = segments.offsets();
    one_by_one((0..segments.count() * heads).into_par_iter()).for_each(|task| {
        let (segment, head) = (task / heads, task % heads);
        let (start, end) = (offsets[segment], offsets[segment + 1]);
        body(Head {
            qkv,
            start,
            len: end - start,
            dim: width / heads,
            width,
            head,
            causal,
        });
    });
}

impl Attention for Cpu {
    fn attention(
        &self,
        qkv: &Tensor,
        segments: &Segments,
        heads: usize,
        causal: bool,
    ) -> Result<(Tensor, Tensor)> {
        let (total, width) = (qkv.rows(), qkv.width() / 3);
        let mut out = Memory::stale(total * width);
        let mut lse = vec![0.0; heads * total];
        let (out_at, lse_at) = (Disjoint(out.as_mut_ptr()), Disjoint(lse.as_mut_ptr()));
        over_heads(f32s(OP, qkv)?, segments, heads, width, causal, |h| {
            let mut scratch = Memory::stale(BLOCK.min(h.len) * h.len);
            for from in (0..h.len).step_by(BLOCK) {
                let to = (from + BLOCK).min(h.len);
                let keys = h.keys(to);
                let p = &mut scratch[..(to - from) * keys];
                h.logits(from, to, p);
                vectorised(
                    #[inline(always)]
                    || {
                        for (r, row) in p.chunks_exact_mut(keys).enumerate() {
                            let (seen, hidden) = row.split_at_mut(h.visible(from + r));
                            let max = math::max(seen);
                            for v in seen.iter_mut() {
                                *v = math::exp(*v - max);
                            }
                            let sum = math::sum(seen, |v| v);
                            let inverse = 1.0 / sum;
                            for v in seen.iter_mut() {
                                *v *= inverse;
                            }
                            hidden.fill(0.0);
                            // SAFETY: one element per (head, token), written by this task alone.
                            unsafe {
                                *lse_at.at(h.head * total + h.start + from + r) = max + sum.ln()
                            };
                        }
                    },
                );
                let to_row = out_at.at((h.start + from) * width + h.head * h.dim);
                // SAFETY: this head's columns of this sequence's rows belong to this task alone.
                unsafe {
                    let p = View::new(p, to - from, keys);
                    gemm_raw(to_row, width, false, 1.0, p, h.part(2, 0, keys));
                }
            }
        });
        Ok((tensor(&[total, width], out), tensor(&[heads, total], lse)))
    }

    /// With P the probabilities, D_i = Σ_c dO_ic O_ic (which equals Σ_j P_ij dP_ij):
    /// dV = Pᵀ dO, dP = dO Vᵀ, dS = P ∘ (dP − D), dQ = s dS K, dK = s dSᵀ Q.
    fn attention_backward(&self, of: AttentionBackward, dqkv: Slot) -> Result<()> {
        let AttentionBackward {
            dout,
            qkv,
            out,
            lse,
            segments,
            heads,
            causal,
        } = of;
        let Some(dqkv) = dqkv else { return Ok(()) };
        let (total, width) = (qkv.rows(), qkv.width() / 3);
        let (dout, out, lse) = (f32s(OP, dout)?, f32s(OP, out)?, f32s(OP, lse)?);
        let (grad, add) = target(OP, dqkv, qkv.shape())?;
        let grad = Disjoint(grad.as_mut_ptr());
        over_heads(f32s(OP, qkv)?, segments, heads, width, causal, |h| {
            let mut p = Memory::stale(BLOCK.min(h.len) * h.len);
            let mut ds = Memory::stale(p.len());
            let at = |part: usize, row: usize| {
                grad.at((h.start + row) * 3 * width + part * width + h.head * h.dim)
            };
            for from in (0..h.len).step_by(BLOCK) {
                let to = (from + BLOCK).min(h.len);
                let keys = h.keys(to);
                let (p, ds) = (&mut p[..(to - from) * keys], &mut ds[..(to - from) * keys]);
                h.logits(from, to, p);
                let first = (h.start + from) * width + h.head * h.dim;
                let d_rows = View::strided(&dout[first..], to - from, h.dim, width);
                gemm_serial(ds, false, 1.0, d_rows, h.part(2, 0, keys).t());
                vectorised(
                    #[inline(always)]
                    || {
                        let rows = p.chunks_exact_mut(keys).zip(ds.chunks_exact_mut(keys));
                        for (r, (p, ds)) in rows.enumerate() {
                            let row = first + r * width;
                            let d = math::dot(&dout[row..row + h.dim], &out[row..row + h.dim]);
                            let lse = lse[h.head * total + h.start + from + r];
                            let seen = h.visible(from + r);
                            for (p, ds) in p[..seen].iter_mut().zip(&mut ds[..seen]) {
                                *p = math::exp(*p - lse);
                                *ds = *p * (*ds - d);
                            }
                            p[seen..].fill(0.0);
                            ds[seen..].fill(0.0);
                        }
                    },
                );
                let (p, ds) = (
                    View::new(p, to - from, keys),
                    View::new(ds, to - from, keys),
                );
                let later = add || from > 0;
                // A causal block touches fewer keys than a later one: those rows are still unwritten,
                // so the first block of a fresh gradient must clear them.
                // SAFETY: this head's columns of this sequence's rows belong to this task alone.
                unsafe {
                    if !later {
                        for row in keys..h.len {
                            std::slice::from_raw_parts_mut(at(1, row), h.dim).fill(0.0);
                            std::slice::from_raw_parts_mut(at(2, row), h.dim).fill(0.0);
                        }
                    }
                    let stride = 3 * width;
                    gemm_raw(at(0, from), stride, add, h.scale(), ds, h.part(1, 0, keys));
                    gemm_raw(
                        at(1, 0),
                        stride,
                        later,
                        h.scale(),
                        ds.t(),
                        h.part(0, from, to),
                    );
                    gemm_raw(at(2, 0), stride, later, 1.0, p.t(), d_rows);
                }
            }
        });
        Ok(())
    }
}
