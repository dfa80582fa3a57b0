//! Second derivatives of a relation's cross-entropies, streamed: the products w of features with tangents
//! are tiles beside those of the cosines. See `Backend::relation_curvature`; `loss/gd.rs` derives it.

use super::Cpu;
use super::gemm::{View, gemm_serial};
use super::math::sum;
use super::memory::Memory;
use super::parallel::{one_by_one, vectorised};
use super::relation::{Operands, TILE, row_block};
use super::relation_backward::{Softmax, residual, values};
use super::storage::{accumulator, f32s, target};
use crate::backend::{Grad, HessianProduct, RelationCurvature, Result, Slot, shape_error};
use crate::tensor::Tensor;
use rayon::prelude::*;
use std::ops::Range;

const OP: &str = "relation_curvature";

/// One side of a relation: features and what they are moved by.
#[derive(Clone, Copy)]
struct Points<'a> {
    x: &'a [f32],
    tangent: &'a [f32],
    n: usize,
    width: usize,
}

impl<'a> Points<'a> {
    fn new(x: &'a [f32], tangent: &'a Tensor, n: usize, width: usize) -> Result<Self> {
        if tangent.shape() != [n, width] {
            let detail = format!("tangent {:?} for features [{n}, {width}]", tangent.shape());
            return shape_error(OP, detail);
        }
        Ok(Self {
            x,
            tangent: f32s(OP, tangent)?,
            n,
            width,
        })
    }

    fn rows(&self, of: &'a [f32], rows: &Range<usize>) -> View<'a> {
        View::new(&of[rows.start * self.width..], rows.len(), self.width)
    }
}

/// The operands of one call, seen from the side whose gradient is made.
#[derive(Clone, Copy)]
struct Curvature<'a> {
    own: Points<'a>,
    other: Points<'a>,
    /// Of each anchor.
    softmax: Softmax<'a>,
    /// Of each anchor, its cross-entropy.
    value: &'a [f32],
    /// w_ii and ρ_i of each anchor, once known.
    own_w: &'a [f32],
    means: &'a [f32],
    scale: f32,
    coef: f32,
}

/// The tiles of a block of rows.
struct Tiles {
    /// Cosines, then D.
    c: Memory,
    /// w, then coef E.
    w: Memory,
    work: Vec<f32>,
}

impl Tiles {
    fn new(rows: usize, columns: usize) -> Self {
        let columns = TILE.min(columns);
        Self {
            c: Memory::stale(rows * columns),
            w: Memory::stale(rows * columns),
            work: vec![0.0; columns],
        }
    }
}

impl Curvature<'_> {
    /// c_ij = x_i·y_j and w_ij = u_i·y_j + x_i·z_j of a tile.
    fn tiles(&self, rows: &Range<usize>, cols: &Range<usize>, tiles: &mut Tiles) {
        let (own, other) = (&self.own, &self.other);
        let area = rows.len() * cols.len();
        let (x, u) = (own.rows(own.x, rows), own.rows(own.tangent, rows));
        let (y, z) = (other.rows(other.x, cols), other.rows(other.tangent, cols));
        gemm_serial(&mut tiles.c[..area], false, 1.0, x, y.t());
        gemm_serial(&mut tiles.w[..area], false, 1.0, u, y.t());
        gemm_serial(&mut tiles.w[..area], true, 1.0, x, z.t());
    }

    /// w_ii and ρ_i = Σ_j P_ij w_ij − w_ii = Σ_{j≠i} P_ij w_ij + (P_ii − 1) w_ii of the anchors `rows`: both
    /// terms are as small as what P_ii lacks of 1.
    fn means(&self, rows: Range<usize>, out: &mut [[f32; 2]]) {
        let m = self.other.n;
        let mut tiles = Tiles::new(rows.len(), m);
        let mut sums = vec![0.0f64; rows.len()];
        for start in (0..m).step_by(TILE) {
            let cols = start..m.min(start + TILE);
            self.tiles(&rows, &cols, &mut tiles);
            let Tiles { c, w, work } = &mut tiles;
            vectorised(
                #[inline(always)]
                || {
                    for (r, total) in sums.iter_mut().enumerate() {
                        let line = r * cols.len()..(r + 1) * cols.len();
                        let softmax = self.softmax.slice(rows.start + r..rows.start + r + 1);
                        let (c, w) = (&c[line.clone()], &w[line]);
                        let work = &mut work[..c.len()];
                        for ((out, c), w) in work.iter_mut().zip(c).zip(w) {
                            *out = softmax.at(0, self.scale * c) * w;
                        }
                        let i = rows.start + r;
                        if cols.contains(&i) {
                            let k = i - cols.start;
                            out[r][0] = w[k];
                            work[k] = 0.0;
                        }
                        *total += f64::from(sum(work, |x| x));
                    }
                },
            );
        }
        for ((i, [own, mean]), total) in rows.zip(out).zip(sums) {
            *mean = (total + f64::from(residual(self.value[i])) * f64::from(*own)) as f32;
        }
    }

    /// Turns a tile into D and coef E, the block's rows being the anchors. Returns its part of dscale.
    ///
    /// D's rows sum to 0, so Σ_j D_ij c_ij = Σ_j D_ij (c_ij − c₀) with c₀ the row's largest cosine, which
    /// keeps roundings of D from multiplying cosines near 1; and Σ_j E_ij w_ij = ρ_i.
    #[inline(always)]
    fn along(&self, rows: &Range<usize>, cols: &Range<usize>, tiles: &mut Tiles) -> f64 {
        let inverse = if self.scale == 0.0 {
            0.0
        } else {
            1.0 / self.scale
        };
        let mut dscale = 0.0;
        for (r, i) in rows.clone().enumerate() {
            let line = r * cols.len()..(r + 1) * cols.len();
            let (c, w) = (&mut tiles.c[line.clone()], &mut tiles.w[line]);
            let work = &mut tiles.work[..c.len()];
            let softmax = self.softmax.slice(i..i + 1);
            let (own_w, mean) = (self.own_w[i], self.means[i]);
            let center = softmax.max[0] * inverse;
            let own = cols
                .contains(&i)
                .then(|| (i - cols.start, c[i - cols.start]));
            for ((work, c), w) in work.iter_mut().zip(c.iter_mut()).zip(w.iter_mut()) {
                let p = self.coef * softmax.at(0, self.scale * *c);
                let d = self.scale * p * ((*w - own_w) - mean);
                *work = d * (*c - center);
                (*c, *w) = (d, p);
            }
            if let Some((k, cosine)) = own {
                self.own(i, &mut c[k], &mut w[k]);
                work[k] = c[k] * (cosine - center) + self.coef * mean;
            }
            dscale += f64::from(sum(work, |x| x));
        }
        dscale
    }

    /// D_ii and coef E_ii of anchor `i`, where `e` holds coef P_ii.
    #[inline(always)]
    fn own(&self, i: usize, d: &mut f32, e: &mut f32) {
        *d = -self.scale * *e * self.means[i];
        *e = self.coef * residual(self.value[i]);
    }

    /// The same where the block's rows are the candidates and the tile's columns the anchors.
    #[inline(always)]
    fn across(&self, rows: &Range<usize>, cols: &Range<usize>, tiles: &mut Tiles) {
        let len = cols.len();
        let softmax = self.softmax.slice(cols.clone());
        let (own_w, means) = (&self.own_w[cols.clone()], &self.means[cols.clone()]);
        let (own_w, means) = (&own_w[..len], &means[..len]);
        for (r, j) in rows.clone().enumerate() {
            let line = r * len..(r + 1) * len;
            let (c, w) = (&mut tiles.c[line.clone()], &mut tiles.w[line]);
            let (c, w) = (&mut c[..len], &mut w[..len]);
            for i in 0..len {
                let p = self.coef * softmax.at(i, self.scale * c[i]);
                (c[i], w[i]) = (self.scale * p * ((w[i] - own_w[i]) - means[i]), p);
            }
            if cols.contains(&j) {
                self.own(j, &mut c[j - cols.start], &mut w[j - cols.start]);
            }
        }
    }

    /// Adds into (or with `add` false writes) the gradient of a block of this side's rows,
    /// α Σ_j (D_ij y_j + coef E_ij z_j), and returns its part of dscale, which belongs to the anchors.
    fn block(
        &self,
        rows: Range<usize>,
        mut out: Option<&mut [f32]>,
        add: bool,
        anchors: bool,
    ) -> f64 {
        let m = self.other.n;
        let mut tiles = Tiles::new(rows.len(), m);
        let mut dscale = 0.0;
        for start in (0..m).step_by(TILE) {
            let cols = start..m.min(start + TILE);
            self.tiles(&rows, &cols, &mut tiles);
            let both = &mut tiles;
            dscale += vectorised(
                #[inline(always)]
                || {
                    if anchors {
                        return self.along(&rows, &cols, both);
                    }
                    self.across(&rows, &cols, both);
                    0.0
                },
            );
            let Some(out) = out.as_deref_mut() else {
                continue;
            };
            let other = &self.other;
            let (d, e) = (
                View::new(&tiles.c, rows.len(), cols.len()),
                View::new(&tiles.w, rows.len(), cols.len()),
            );
            let (y, z) = (other.rows(other.x, &cols), other.rows(other.tangent, &cols));
            gemm_serial(out, add || start > 0, self.scale, d, y);
            gemm_serial(out, true, self.scale, e, z);
        }
        dscale
    }

    /// The gradient of one side by blocks of its rows, if wanted, and the sum of dscale's parts.
    fn side(&self, slot: Slot, anchors: bool) -> Result<f64> {
        let (n, width) = (self.own.n, self.own.width);
        let out = slot
            .map(|slot: &mut Grad| target(OP, slot, &[n, width]))
            .transpose()?;
        let add = out.as_ref().is_some_and(|(_, add)| *add);
        let block = row_block(n);
        let chunks: Vec<Option<&mut [f32]>> = match out {
            Some((out, _)) => out.chunks_mut((block * width).max(1)).map(Some).collect(),
            None => (0..n.div_ceil(block)).map(|_| None).collect(),
        };
        let partials: Vec<f64> = one_by_one(chunks.into_par_iter().enumerate())
            .map(|(k, out)| self.block(k * block..n.min((k + 1) * block), out, add, anchors))
            .collect();
        Ok(partials.iter().sum())
    }
}

impl RelationCurvature for Cpu {
    /// See `Backend::relation_curvature`.
    fn relation_curvature(
        &self,
        of: HessianProduct,
        dx: Slot,
        dy: Slot,
        dscale: Slot,
    ) -> Result<()> {
        let HessianProduct {
            logits,
            stats,
            tangent,
            coef,
        } = of;
        let (u, z) = tangent;

        if dx.is_none() && dy.is_none() && dscale.is_none() {
            return Ok(());
        }
        let Operands {
            x,
            y,
            n,
            m,
            width,
            scale,
        } = Operands::new(OP, logits)?;
        if m < n {
            return shape_error(OP, format!("{n} rows, but only {m} classes"));
        }
        let anchors = Points::new(x, u, n, width)?;
        let candidates = Points::new(y, z, m, width)?;
        let mut means = vec![[0.0; 2]; n];
        let call = Curvature {
            own: anchors,
            other: candidates,
            softmax: Softmax::new(&stats.softmax, n)?,
            value: values(stats, n)?,
            own_w: &[],
            means: &[],
            scale,
            coef,
        };
        let block = row_block(n);
        one_by_one(means.par_chunks_mut(block).enumerate())
            .for_each(|(k, out)| call.means(k * block..k * block + out.len(), out));
        let (own_w, means): (Vec<f32>, Vec<f32>) =
            means.iter().map(|[w, mean]| (*w, *mean)).unzip();
        let call = Curvature {
            own_w: &own_w,
            means: &means,
            ..call
        };
        if dx.is_some() || dscale.is_some() {
            let total = call.side(dx, true)?;
            if let Some(slot) = dscale {
                accumulator(OP, slot, logits.scale.shape())?[0] += total as f32;
            }
        }
        if dy.is_some() {
            let call = Curvature {
                own: candidates,
                other: anchors,
                ..call
            };
            call.side(dy, false)?;
        }
        Ok(())
    }
}
