//! Attention of one query an image, one task an image.

use super::Cpu;
use super::math;
use super::parallel::{over_rows, over_rows2};
use super::storage::{accumulator, f32s, tensor};
use crate::backend::{AttentionPool, AttentionPoolBackward, Result, Slot};
use crate::tensor::Tensor;

const OP: &str = "attention_pool";

impl AttentionPool for Cpu {
    fn attention_pool(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        heads: usize,
    ) -> Result<(Tensor, Tensor)> {
        let (batch, width) = (q.rows(), q.width());
        let (tokens, dim) = (k.rows() / batch.max(1), width / heads);
        let scale = 1.0 / (dim as f32).sqrt();
        let (qs, ks, vs) = (f32s(OP, q)?, f32s(OP, k)?, f32s(OP, v)?);
        let mut out = vec![0.0; batch * width];
        let mut probabilities = vec![0.0; batch * heads * tokens];
        over_rows2(
            &mut out,
            width,
            &mut probabilities,
            heads * tokens,
            #[inline(always)]
            |first, out, probabilities| {
                let images = out
                    .chunks_exact_mut(width)
                    .zip(probabilities.chunks_exact_mut(heads * tokens));
                for (r, (out, p)) in images.enumerate() {
                    let image = first + r;
                    for (head, p) in p.chunks_exact_mut(tokens).enumerate() {
                        let column = head * dim;
                        let part = |x: usize| (image * tokens + x) * width + column;
                        let q = &qs[image * width + column..][..dim];
                        for (t, p) in p.iter_mut().enumerate() {
                            *p = scale * math::dot(q, &ks[part(t)..][..dim]);
                        }
                        let max = math::max(p);
                        for p in p.iter_mut() {
                            *p = math::exp(*p - max);
                        }
                        let inverse = 1.0 / math::sum(p, |p| p);
                        let out = &mut out[column..column + dim];
                        for (t, p) in p.iter_mut().enumerate() {
                            *p *= inverse;
                            for (o, v) in out.iter_mut().zip(&vs[part(t)..]) {
                                *o = p.mul_add(*v, *o);
                            }
                        }
                    }
                }
            },
        );
        Ok((
            tensor(&[batch, width], out),
            tensor(&[batch, heads, tokens], probabilities),
        ))
    }

    fn attention_pool_backward(
        &self,
        of: AttentionPoolBackward,
        dq: Slot,
        dk: Slot,
        dv: Slot,
    ) -> Result<()> {
        let AttentionPoolBackward {
            dout,
            q,
            k,
            v,
            probabilities,
        } = of;
        let (width, tokens) = (q.width(), probabilities.width());
        let heads = probabilities.rows() / q.rows().max(1);
        let dim = width / heads;
        let scale = 1.0 / (dim as f32).sqrt();
        let (dout, qs) = (f32s(OP, dout)?, f32s(OP, q)?);
        let (ks, vs, ps) = (f32s(OP, k)?, f32s(OP, v)?, f32s(OP, probabilities)?);
        // dS = P ∘ (dP − Σ P dP), dP = dO·v: tiny, [batch, heads, tokens].
        let mut ds = vec![0.0; ps.len()];
        over_rows(
            &mut ds,
            tokens,
            #[inline(always)]
            |first, ds| {
                for (r, ds) in ds.chunks_exact_mut(tokens).enumerate() {
                    let (image, head) = ((first + r) / heads, (first + r) % heads);
                    let p = &ps[(first + r) * tokens..][..tokens];
                    let d = &dout[image * width + head * dim..][..dim];
                    for (t, ds) in ds.iter_mut().enumerate() {
                        let v = &vs[(image * tokens + t) * width + head * dim..][..dim];
                        *ds = math::dot(d, v);
                    }
                    let mean = math::dot(p, ds);
                    for (ds, p) in ds.iter_mut().zip(p) {
                        *ds = p * (*ds - mean);
                    }
                }
            },
        );
        if let Some(dq) = dq {
            over_rows(
                accumulator(OP, dq, q.shape())?,
                dim,
                #[inline(always)]
                |first, dq| {
                    for (r, dq) in dq.chunks_exact_mut(dim).enumerate() {
                        let (image, head) = ((first + r) / heads, (first + r) % heads);
                        for (t, ds) in ds[(first + r) * tokens..][..tokens].iter().enumerate() {
                            let k = &ks[(image * tokens + t) * width + head * dim..][..dim];
                            for (dq, k) in dq.iter_mut().zip(k) {
                                *dq = (scale * ds).mul_add(*k, *dq);
                            }
                        }
                    }
                },
            );
        }
        // A key's and a value's row is its image's query and output gradient, weighed head by head.
        let spread = |slot: Slot, weights: &[f32], factor: f32, from: &[f32]| -> Result<()> {
            let Some(slot) = slot else { return Ok(()) };
            over_rows(
                accumulator(OP, slot, k.shape())?,
                dim,
                #[inline(always)]
                |first, d| {
                    for (r, d) in d.chunks_exact_mut(dim).enumerate() {
                        let (token, head) = ((first + r) / heads, (first + r) % heads);
                        let (image, t) = (token / tokens, token % tokens);
                        let weight = factor * weights[(image * heads + head) * tokens + t];
                        for (d, x) in d.iter_mut().zip(&from[image * width + head * dim..]) {
                            *d = weight.mul_add(*x, *d);
                        }
                    }
                },
            );
            Ok(())
        };
        spread(dk, &ds, scale, qs)?;
        spread(dv, ps, 1.0, dout)
    }
}
