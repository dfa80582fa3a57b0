//! Batch normalisation over all but the last dimension, with the residual and the ReLU that follow it.

use super::Cpu;
use super::memory::Memory;
use super::parallel::{over_rows, rows_per_task, vectorised};
use super::storage::{accumulator, f32s, overwritten, tensor};
use crate::backend::{
    BatchNorm, BatchNormBackward, BatchNormForward, Moments, Result, Slot, Storage,
};
use crate::tensor::Tensor;
use rayon::prelude::*;

const OP: &str = "batch_norm";

/// Rows that are summed in f32, one after the other, before their sum goes on in f64: so few that
/// rounding stays near ε.
fn group(width: usize) -> usize {
    rows_per_task(width).clamp(32, 256)
}

impl BatchNorm for Cpu {
    /// Groups of rows that fit the cache are read twice, for the mean and for what deviates from it; the
    /// deviations' own sum corrects what rounding took from the mean (Chan, Golub and LeVeque, *The American
    /// Statistician* 37(3), 1983, eq. 1.7). The groups are joined in order by the same paper's eq. 2.1.
    /// Nowhere are two large numbers subtracted.
    fn batch_moments(&self, x: &Tensor) -> Result<Moments> {
        let (rows, width) = (x.rows(), x.width());
        let xs = f32s(OP, x)?;
        let group = group(width);
        let groups: Vec<Group> = xs
            .par_chunks((group * width).max(1))
            .map(|x| {
                vectorised(
                    #[inline(always)]
                    || Group::of(x, width),
                )
            })
            .collect();
        let (mut mean, mut variance) = (vec![0.0f32; width], vec![0.0f32; width]);
        for c in 0..width {
            let (mut n, mut m, mut s) = (0.0f64, 0.0f64, 0.0f64);
            for group in &groups {
                let count = group.count as f64;
                let [mean, off, squares] =
                    [&group.mean, &group.off, &group.squares].map(|v| f64::from(v[c]));
                let delta = mean + off / count - m;
                m += delta * count / (n + count);
                s += squares - off * off / count + delta * delta * n * count / (n + count);
                n += count;
            }
            (mean[c], variance[c]) = (m as f32, (s / rows as f64) as f32);
        }
        Ok(Moments {
            mean: tensor(&[width], mean),
            variance: tensor(&[width], variance),
        })
    }

    fn batch_norm(&self, of: BatchNormForward) -> Result<Tensor> {
        let BatchNormForward {
            x,
            gamma,
            beta,
            moments,
            eps,
            residual,
            relu,
        } = of;
        let (rows, width) = (x.rows(), x.width());
        let (xs, gamma, beta) = (f32s(OP, x)?, f32s(OP, gamma)?, f32s(OP, beta)?);
        let residual = residual.map(|r| f32s(OP, r)).transpose()?;
        let (mean, rstd) = (f32s(OP, &moments.mean)?, rstd(moments, eps)?);
        let scale: Vec<f32> = gamma.iter().zip(&rstd).map(|(g, r)| g * r).collect();
        let mut y = Memory::stale(rows * width);
        over_rows(
            &mut y,
            width,
            #[inline(always)]
            |first, y| {
                let at = first * width;
                for (y, x) in y.chunks_exact_mut(width).zip(xs[at..].chunks_exact(width)) {
                    let channel = mean.iter().zip(&scale).zip(beta);
                    for ((y, x), ((m, s), b)) in y.iter_mut().zip(x).zip(channel) {
                        *y = (x - m).mul_add(*s, *b);
                    }
                }
                if let Some(residual) = residual {
                    for (y, r) in y.iter_mut().zip(&residual[at..]) {
                        *y += r;
                    }
                }
                if relu {
                    for y in y {
                        *y = if *y > 0.0 { *y } else { 0.0 };
                    }
                }
            },
        );
        Ok(tensor(x.shape(), y))
    }

    fn batch_norm_backward(
        &self,
        of: BatchNormBackward,
        dx: Slot,
        dgamma: Slot,
        dbeta: Slot,
        dresidual: Slot,
    ) -> Result<()> {
        let BatchNormBackward {
            dy,
            x,
            y,
            gamma,
            moments,
            eps,
            of_batch,
        } = of;
        let (rows, width) = (x.rows(), x.width());
        let (xs, gamma) = (f32s(OP, x)?, f32s(OP, gamma)?);
        let (mean, rstd) = (f32s(OP, &moments.mean)?, rstd(moments, eps)?);
        let rows_of_group = (group(width) * width).max(1);
        let groups = xs.par_chunks(rows_of_group);
        let (passed, sums): (Tensor, Vec<[Vec<f32>; 2]>) = match y {
            None => {
                let g = f32s(OP, dy)?.par_chunks(rows_of_group);
                let sums = groups.zip(g).map(|(x, g)| channel_sums(x, g, mean));
                (dy.clone(), sums.collect())
            }
            Some(y) => {
                let (dy, y) = (f32s(OP, dy)?, f32s(OP, y)?);
                let mut g = Memory::stale(dy.len());
                let of_dy = dy
                    .par_chunks(rows_of_group)
                    .zip(y.par_chunks(rows_of_group));
                let sums = groups.zip(g.par_chunks_mut(rows_of_group)).zip(of_dy);
                let sums = sums.map(|((x, g), (dy, y))| {
                    through_relu(dy, y, g);
                    channel_sums(x, g, mean)
                });
                let sums = sums.collect();
                (tensor(x.shape(), g), sums)
            }
        };
        let g = f32s(OP, &passed)?;
        let total = |which: usize, c: usize| -> f64 {
            sums.iter().map(|sums| f64::from(sums[which][c])).sum()
        };
        let (of_n, of_g): (Vec<f32>, Vec<f32>) = (0..width)
            .map(|c| {
                (
                    (total(0, c) * f64::from(rstd[c])) as f32,
                    total(1, c) as f32,
                )
            })
            .unzip();
        for (slot, sums) in [(dgamma, &of_n), (dbeta, &of_g)] {
            if let Some(slot) = slot {
                for (d, s) in accumulator(OP, slot, &[width])?.iter_mut().zip(sums) {
                    *d += s;
                }
            }
        }
        if let Some(dx) = dx {
            // dx = a g + b (x − mean) + c with constants of the channel.
            let share = if of_batch { 1.0 / rows as f32 } else { 0.0 };
            let a: Vec<f32> = gamma.iter().zip(&rstd).map(|(g, r)| g * r).collect();
            let of = |s: &[f32]| a.iter().zip(s).map(|(a, s)| -a * s * share).collect();
            let (mut b, c): (Vec<f32>, Vec<f32>) = (of(&of_n), of(&of_g));
            for (b, r) in b.iter_mut().zip(&rstd) {
                *b *= r;
            }
            let (dx, add) = overwritten(OP, dx, x.shape())?;
            over_rows(
                dx,
                width,
                #[inline(always)]
                |first, dx| {
                    let at = first * width;
                    let rows = xs[at..]
                        .chunks_exact(width)
                        .zip(g[at..].chunks_exact(width));
                    for (dx, (x, g)) in dx.chunks_exact_mut(width).zip(rows) {
                        for i in 0..width {
                            let d = a[i].mul_add(g[i], b[i].mul_add(x[i] - mean[i], c[i]));
                            dx[i] = if add { dx[i] + d } else { d };
                        }
                    }
                },
            );
        }
        match dresidual {
            Some(slot) => self.accumulate(slot, passed),
            None => Ok(()),
        }
    }
}

/// Sums over some rows, by channel.
struct Group {
    count: usize,
    /// About the mean.
    mean: Vec<f32>,
    /// Σ (x − mean), of which there would be nothing but for rounding.
    off: Vec<f32>,
    /// Σ (x − mean)².
    squares: Vec<f32>,
}

impl Group {
    #[inline(always)]
    fn of(x: &[f32], width: usize) -> Self {
        let count = x.len() / width;
        let [mut mean, mut off, mut squares] = [(); 3].map(|()| vec![0.0f32; width]);
        for x in x.chunks_exact(width) {
            for (m, x) in mean.iter_mut().zip(x) {
                *m += x;
            }
        }
        for m in &mut mean {
            *m /= count as f32;
        }
        for x in x.chunks_exact(width) {
            for (((s, o), m), x) in squares.iter_mut().zip(&mut off).zip(&mean).zip(x) {
                let d = x - m;
                *o += d;
                *s = d.mul_add(d, *s);
            }
        }
        Self {
            count,
            mean,
            off,
            squares,
        }
    }
}

/// 1/√(variance + ε) of each channel.
fn rstd(moments: &Moments, eps: f32) -> Result<Vec<f32>> {
    let variance = f32s(OP, &moments.variance)?;
    Ok(variance.iter().map(|v| (v + eps).sqrt().recip()).collect())
}

/// g = dy where the ReLU passed, else 0.
fn through_relu(dy: &[f32], y: &[f32], g: &mut [f32]) {
    vectorised(
        #[inline(always)]
        || {
            for ((g, dy), y) in g.iter_mut().zip(dy).zip(y) {
                *g = if *y > 0.0 { *dy } else { 0.0 };
            }
        },
    );
}

/// Σ g (x − mean) and Σ g of each channel.
fn channel_sums(x: &[f32], g: &[f32], mean: &[f32]) -> [Vec<f32>; 2] {
    let width = mean.len();
    let [mut of_x, mut of_g] = [(); 2].map(|()| vec![0.0f32; width]);
    vectorised(
        #[inline(always)]
        || {
            for (x, g) in x.chunks_exact(width).zip(g.chunks_exact(width)) {
                let sums = of_x.iter_mut().zip(&mut of_g);
                for (((n, s), (x, g)), m) in sums.zip(x.iter().zip(g)).zip(mean) {
                    *n = g.mul_add(x - m, *n);
                    *s += g;
                }
            }
        },
    );
    [of_x, of_g]
}
