//! Layer normalisation over the last dimension.

use super::Cpu;
use super::math;
use super::memory::Memory;
use super::parallel::{column_sums, over_rows, over_rows2};
use super::storage::{accumulator, f32s, tensor};
use crate::backend::{LayerNorm, LayerNormBackward, LayerNormOutput, Result, Slot};
use crate::tensor::Tensor;

const OP: &str = "layer_norm";

impl LayerNorm for Cpu {
    fn layer_norm(
        &self,
        x: &Tensor,
        gamma: &Tensor,
        beta: &Tensor,
        eps: f32,
    ) -> Result<LayerNormOutput> {
        let (rows, width) = (x.rows(), x.width());
        let (xs, gamma, beta) = (f32s(OP, x)?, f32s(OP, gamma)?, f32s(OP, beta)?);
        let mut y = Memory::stale(rows * width);
        let mut stats = vec![0.0; rows * 2];
        over_rows2(
            &mut y,
            width,
            &mut stats,
            2,
            #[inline(always)]
            |first, y, stats| {
                let rows = y.chunks_exact_mut(width).zip(stats.chunks_exact_mut(2));
                for (r, (y, stats)) in rows.enumerate() {
                    let x = &xs[(first + r) * width..][..width];
                    let mean = math::sum(x, |v| v) / width as f32;
                    let variance = math::sum(x, |v| (v - mean) * (v - mean)) / width as f32;
                    let rstd = 1.0 / (variance + eps).sqrt();
                    stats.copy_from_slice(&[mean, rstd]);
                    for (((y, x), g), b) in y.iter_mut().zip(x).zip(gamma).zip(beta) {
                        *y = ((x - mean) * rstd).mul_add(*g, *b);
                    }
                }
            },
        );
        let (mean, rstd): (Vec<_>, Vec<_>) = stats.chunks_exact(2).map(|s| (s[0], s[1])).unzip();
        Ok(LayerNormOutput {
            y: tensor(x.shape(), y),
            mean: tensor(&[rows], mean),
            rstd: tensor(&[rows], rstd),
        })
    }

    fn layer_norm_backward(
        &self,
        of: LayerNormBackward,
        dx: Slot,
        dgamma: Slot,
        dbeta: Slot,
    ) -> Result<()> {
        let LayerNormBackward {
            dy,
            x,
            gamma,
            mean,
            rstd,
        } = of;
        let (rows, width) = (x.rows(), x.width());
        let (dy, xs, g) = (f32s(OP, dy)?, f32s(OP, x)?, f32s(OP, gamma)?);
        let (mean, rstd) = (f32s(OP, mean)?, f32s(OP, rstd)?);
        if let Some(dx) = dx {
            over_rows(
                accumulator(OP, dx, x.shape())?,
                width,
                #[inline(always)]
                |first, dx| {
                    let mut scaled = vec![0.0; width];
                    let mut normal = vec![0.0; width];
                    for (r, dx) in dx.chunks_exact_mut(width).enumerate() {
                        let row = first + r;
                        let at = row * width..(row + 1) * width;
                        for (((s, n), (dy, g)), x) in scaled
                            .iter_mut()
                            .zip(normal.iter_mut())
                            .zip(dy[at.clone()].iter().zip(g))
                            .zip(&xs[at])
                        {
                            *s = dy * g;
                            *n = (x - mean[row]) * rstd[row];
                        }
                        let m1 = math::sum(&scaled, |v| v) / width as f32;
                        let m2 = math::dot(&scaled, &normal) / width as f32;
                        for ((dx, s), n) in dx.iter_mut().zip(&scaled).zip(&normal) {
                            *dx += rstd[row] * (s - m1 - n * m2);
                        }
                    }
                },
            );
        }
        if let Some(dgamma) = dgamma {
            column_sums(
                rows,
                accumulator(OP, dgamma, gamma.shape())?,
                #[inline(always)]
                |r, sum| {
                    let at = r * width..(r + 1) * width;
                    for ((s, dy), x) in sum.iter_mut().zip(&dy[at.clone()]).zip(&xs[at]) {
                        *s += dy * (x - mean[r]) * rstd[r];
                    }
                },
            );
        }
        if let Some(dbeta) = dbeta {
            column_sums(
                rows,
                accumulator(OP, dbeta, gamma.shape())?,
                #[inline(always)]
                |r, sum| {
                    for (s, dy) in sum.iter_mut().zip(&dy[r * width..]) {
                        *s += dy;
                    }
                },
            );
        }
        Ok(())
    }
}
