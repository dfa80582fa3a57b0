//! Gradients of streamed similarity losses: each tile of logits is computed again, turned into
//! coefficients C in place, and multiplied into the gradient at once.

use super::Cpu;
use super::gemm::{View, gemm_serial};
use super::math::{exp, sum};
use super::memory::Memory;
use super::parallel::{one_by_one, vectorised};
use super::relation::{Operands, TILE, operands, row_block, segments};
use super::storage::{accumulator, f32s, target};
use crate::backend::{Pair, RelationBackward, Result, RowStats, Side, Slot, shape_error};
use crate::tensor::Tensor;
use rayon::prelude::*;
use std::ops::Range;

const OP: &str = "relation_backward";

/// Of each row, its largest logit and the factor of exp(a − max); see `RowStats::softmax`.
#[derive(Clone, Copy)]
pub(super) struct Softmax<'a> {
    pub(super) max: &'a [f32],
    inverse: &'a [f32],
}

impl<'a> Softmax<'a> {
    pub(super) fn new(stats: &'a Tensor, rows: usize) -> Result<Self> {
        if stats.shape() != [2, rows] {
            let detail = format!("statistics {:?} for {rows} rows", stats.shape());
            return shape_error(OP, detail);
        }
        let (max, inverse) = f32s(OP, stats)?.split_at(rows);
        Ok(Self { max, inverse })
    }

    #[inline(always)]
    pub(super) fn slice(self, range: Range<usize>) -> Self {
        Self {
            max: &self.max[range.clone()],
            inverse: &self.inverse[range],
        }
    }

    /// The probability of the logit `a` in row `i`.
    #[inline(always)]
    pub(super) fn at(self, i: usize, a: f32) -> f32 {
        exp(a - self.max[i]) * self.inverse[i]
    }
}

/// A [`Side`]'s memory.
#[derive(Clone, Copy)]
struct Direction<'a> {
    student: Softmax<'a>,
    teacher: Softmax<'a>,
    /// Of each anchor, without a teacher its cross-entropy ℓ_i.
    value: &'a [f32],
    coef: &'a [f32],
}

impl<'a> Direction<'a> {
    /// `rows` is the number of this direction's anchors. Without a teacher its statistics are never
    /// read; the student's stand in for the length.
    fn new(side: &'a Side, rows: usize, teacher: bool) -> Result<Self> {
        let student = Softmax::new(&side.stats.softmax, rows)?;
        let teacher = match &side.stats.teacher_softmax {
            Some(t) => Softmax::new(t, rows)?,
            None if teacher => return shape_error(OP, "no teacher statistics for the backward"),
            None => student,
        };
        let coef = f32s(OP, &side.coef)?;
        if coef.len() != rows {
            return shape_error(OP, format!("{} coefficients for {rows} rows", coef.len()));
        }
        let value = values(&side.stats, rows)?;
        Ok(Self {
            student,
            teacher,
            value,
            coef,
        })
    }

    fn slice(self, range: Range<usize>) -> Self {
        Self {
            student: self.student.slice(range.clone()),
            teacher: self.teacher.slice(range.clone()),
            value: &self.value[range.clone()],
            coef: &self.coef[range],
        }
    }

    /// k (P_ii − 1) of the first anchor and its own class.
    fn own(self) -> f32 {
        self.coef[0] * residual(self.value[0])
    }
}

/// The values of a relation's `rows` anchors.
pub(super) fn values(stats: &RowStats, rows: usize) -> Result<&[f32]> {
    let value = f32s(OP, &stats.value)?;
    if value.len() != rows {
        return shape_error(OP, format!("{} values for {rows} rows", value.len()));
    }
    Ok(value)
}

/// P_ii − 1 = e^{−ℓ_i} − 1 of an anchor whose cross-entropy is ℓ_i. The difference itself would lose what a
/// nearly certain P_ii lacks of 1, and that is all of its gradient.
pub(super) fn residual(cross_entropy: f32) -> f32 {
    (-cross_entropy).exp_m1()
}

/// Turns part of one row of cosines c into coefficients C in place, the teacher's cosines t beside
/// it; `row` holds the anchor alone, `col` the part's columns. Returns Σ_j (P_ij − T_ij) (c_ij − c₀)
/// where T is the teacher's softmax, or nothing without a teacher.
///
/// Both softmaxes sum to 1, so any c₀ gives the same sum; c₀ = max_i/α, the row's largest cosine, keeps
/// the rounding of the softmaxes' sums from multiplying cosines near 1.
#[inline(always)]
fn coefficients<const TEACHER: bool, const COL: bool>(
    c: &mut [f32],
    t: &[f32],
    scales: (f32, f32),
    center: f32,
    row: Direction,
    col: Direction,
    work: &mut [f32],
) -> f32 {
    let len = c.len();
    let t = if TEACHER { &t[..len] } else { t };
    let col = if COL { col.slice(0..len) } else { col };
    let row = row.slice(0..1);
    let work = &mut work[..len];
    for j in 0..len {
        let a = scales.0 * c[j];
        let b = if TEACHER { scales.1 * t[j] } else { 0.0 };
        let mut p = row.student.at(0, a);
        if TEACHER {
            p -= row.teacher.at(0, b);
        }
        work[j] = p * (c[j] - center);
        let mut out = row.coef[0] * p;
        if COL {
            let mut p = col.student.at(j, a);
            if TEACHER {
                p -= col.teacher.at(j, b);
            }
            out += col.coef[j] * p;
        }
        c[j] = out;
    }
    sum(work, |x| x)
}

/// The operands of one backward call.
#[derive(Clone, Copy)]
struct Backward<'a> {
    student: Operands<'a>,
    teacher: Option<Operands<'a>>,
    row: Direction<'a>,
    col: Option<Direction<'a>>,
    skip_diagonal: bool,
}

impl Backward<'_> {
    /// Turns a tile's cosines c into coefficients in place; returns its part of dscale. TEACHER and
    /// COL say which of the optional operands there are.
    #[inline(always)]
    fn tile<const TEACHER: bool, const COL: bool>(
        &self,
        rows: &Range<usize>,
        cols: &Range<usize>,
        c: &mut [f32],
        t: &[f32],
        work: &mut [f32],
    ) -> f64 {
        let scales = (self.student.scale, self.teacher.map_or(0.0, |t| t.scale));
        let inverse = if scales.0 == 0.0 { 0.0 } else { 1.0 / scales.0 };
        let mut dscale = 0.0;
        for (r, i) in rows.clone().enumerate() {
            let line = r * cols.len()..(r + 1) * cols.len();
            let c = &mut c[line.clone()];
            let t = if TEACHER { &t[line] } else { t };
            let anchor = self.row.slice(i..i + 1);
            let center = anchor.student.max[0] * inverse;
            let own = cols.contains(&i).then(|| i - cols.start);
            let own_cosine = own.map_or(0.0, |k| c[k]);
            let mut slope = 0.0f64;
            for part in segments(i, cols, self.skip_diagonal) {
                if part.is_empty() {
                    continue;
                }
                let absolute = cols.start + part.start..cols.start + part.end;
                let columns = self.col.map_or(anchor, |col| col.slice(absolute));
                let t = if TEACHER { &t[part.clone()] } else { t };
                slope += f64::from(coefficients::<TEACHER, COL>(
                    &mut c[part],
                    t,
                    scales,
                    center,
                    anchor,
                    columns,
                    work,
                ));
            }
            if let Some(k) = own {
                if !TEACHER {
                    // The target of row i is class i: T_ii = 1.
                    c[k] = anchor.own() + self.col.map_or(0.0, |col| col.slice(i..i + 1).own());
                    slope -= f64::from(own_cosine - center);
                } else if self.skip_diagonal {
                    c[k] = 0.0;
                }
            }
            dscale += f64::from(anchor.coef[0]) * slope;
        }
        dscale
    }

    /// The gradients of the rows `rows`: adds into (or with `add` false writes) `dx` and returns
    /// the block's part of dscale.
    fn block(&self, rows: Range<usize>, mut dx: Option<&mut [f32]>, add: bool) -> f64 {
        let m = self.student.m;
        let area = rows.len() * TILE.min(m);
        let mut c = Memory::stale(area);
        let mut t = Memory::stale(if self.teacher.is_some() { area } else { 0 });
        let mut work = vec![0.0; TILE.min(m)];
        let mut dscale = 0.0;
        for start in (0..m).step_by(TILE) {
            let cols = start..m.min(start + TILE);
            self.student.cosines(&rows, &cols, &mut c);
            if let Some(teacher) = &self.teacher {
                teacher.cosines(&rows, &cols, &mut t);
            }
            let (r, k, c, work) = (&rows, &cols, &mut c[..], &mut work[..]);
            dscale += vectorised(
                #[inline(always)]
                || match (self.teacher.is_some(), self.col.is_some()) {
                    (false, false) => self.tile::<false, false>(r, k, c, &t, work),
                    (false, true) => self.tile::<false, true>(r, k, c, &t, work),
                    (true, false) => self.tile::<true, false>(r, k, c, &t, work),
                    (true, true) => self.tile::<true, true>(r, k, c, &t, work),
                },
            );
            if let Some(dx) = dx.as_deref_mut() {
                let (c, y) = (
                    View::new(c, rows.len(), cols.len()),
                    self.student.y_rows(&cols),
                );
                gemm_serial(dx, add || start > 0, self.student.scale, c, y);
            }
        }
        dscale
    }
}

impl RelationBackward for Cpu {
    /// Gradients with respect to the anchors and the scale; see `Backend::relation_backward`.
    fn relation_backward(
        &self,
        pair: &Pair,
        row: &Side,
        col: Option<&Side>,
        dx: Slot,
        dscale: Slot,
    ) -> Result<()> {
        if dx.is_none() && dscale.is_none() {
            return Ok(());
        }
        let (student, teacher) = operands(OP, pair)?;
        let (n, m, width) = (student.n, student.m, student.width);
        let row = Direction::new(row, n, teacher.is_some())?;
        let col = col
            .map(|c| Direction::new(c, m, teacher.is_some()))
            .transpose()?;
        let skip_diagonal = pair.skip_diagonal;
        let call = Backward {
            student,
            teacher,
            row,
            col,
            skip_diagonal,
        };
        let dx = dx.map(|slot| target(OP, slot, &[n, width])).transpose()?;
        let add = dx.as_ref().is_some_and(|(_, add)| *add);
        let block = row_block(n);
        let chunks: Vec<Option<&mut [f32]>> = match dx {
            Some((dx, _)) => dx.chunks_mut((block * width).max(1)).map(Some).collect(),
            None => (0..n.div_ceil(block)).map(|_| None).collect(),
        };
        let partials: Vec<f64> = one_by_one(chunks.into_par_iter().enumerate())
            .map(|(k, dx)| {
                let rows = k * block..n.min((k + 1) * block);
                call.block(rows, dx, add)
            })
            .collect();
        if let Some(slot) = dscale {
            accumulator(OP, slot, pair.student.scale.shape())?[0] +=
                partials.iter().sum::<f64>() as f32;
        }
        Ok(())
    }
}
