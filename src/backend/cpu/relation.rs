//! Streaming similarity losses: logits a_ij = α x_i·y_j exist one tile at a time, and each row keeps
//! only its largest logit and the sum of exponentials beside it. Memory is O(n·width) for any number of rows; see [`Pair`] and [`RowStats`].
//!
//! Tasks are blocks of rows, cut by the shape alone, and a row's tiles are met from left to right,
//! so every sum has one order whatever the number of threads.

use super::Cpu;
use super::gemm::{View, gemm_serial};
use super::math::{exp, max, sum};
use super::memory::Memory;
use super::parallel::{one_by_one, vectorised};
use super::storage::{f32s, tensor};
use crate::backend::{Logits, Pair, Relation, Result, RowStats, shape_error};
use rayon::prelude::*;
use std::ops::Range;

const OP: &str = "relation";

/// Columns of a tile. Two tiles (student's, teacher's) of the largest row block make 1 MiB: they
/// stay in the second-level cache, and packing the columns is paid for by many rows.
pub(super) const TILE: usize = 512;

/// Partial sums of a reduction; see `math`.
const LANES: usize = 16;

/// Rows of one task: few enough to feed a few dozen cores at a batch of 1024, many enough to
/// amortise packing the columns at large ones.
pub(super) fn row_block(n: usize) -> usize {
    (n / 16).next_multiple_of(16).clamp(32, 256)
}

/// A [`Relation`]'s memory.
#[derive(Clone, Copy)]
pub(super) struct Operands<'a> {
    pub(super) x: &'a [f32],
    pub(super) y: &'a [f32],
    pub(super) n: usize,
    pub(super) m: usize,
    pub(super) width: usize,
    pub(super) scale: f32,
}

impl<'a> Operands<'a> {
    pub(super) fn new(op: &'static str, r: &'a Logits) -> Result<Self> {
        let (xs, ys) = (r.x.shape(), r.y.shape());
        if xs.len() != 2 || ys.len() != 2 || xs[1] != ys[1] || r.scale.len() != 1 {
            let detail = format!("x {xs:?}, y {ys:?}, scale {:?}", r.scale.shape());
            return shape_error(op, detail + ": want [n, width], [m, width], [1]");
        }
        Ok(Self {
            x: f32s(op, &r.x)?,
            y: f32s(op, &r.y)?,
            n: xs[0],
            m: ys[0],
            width: xs[1],
            scale: f32s(op, &r.scale)?[0],
        })
    }

    pub(super) fn x_rows(&self, rows: &Range<usize>) -> View<'a> {
        View::new(&self.x[rows.start * self.width..], rows.len(), self.width)
    }

    pub(super) fn y_rows(&self, cols: &Range<usize>) -> View<'a> {
        View::new(&self.y[cols.start * self.width..], cols.len(), self.width)
    }

    /// The cosines x_i·y_j of a tile, row-major into the front of `out`.
    pub(super) fn cosines(&self, rows: &Range<usize>, cols: &Range<usize>, out: &mut [f32]) {
        let out = &mut out[..rows.len() * cols.len()];
        gemm_serial(out, false, 1.0, self.x_rows(rows), self.y_rows(cols).t());
    }
}

/// Student and teacher of a [`Pair`], operands of `op`, checked against each other.
pub(super) fn operands<'a>(
    op: &'static str,
    pair: &'a Pair,
) -> Result<(Operands<'a>, Option<Operands<'a>>)> {
    let student = Operands::new(op, &pair.student)?;
    let teacher = pair.teacher.as_ref();
    let teacher = teacher.map(|t| Operands::new(op, t)).transpose()?;
    match &teacher {
        Some(t) if (t.n, t.m) != (student.n, student.m) => shape_error(
            op,
            format!(
                "student {}×{}, teacher {}×{}",
                student.n, student.m, t.n, t.m
            ),
        ),
        None if student.m < student.n => shape_error(
            op,
            format!("{} rows, but only {} classes", student.n, student.m),
        ),
        _ => Ok((student, teacher)),
    }
}

/// What of a tile's row takes part: all of it, or the two sides of the left-out diagonal.
pub(super) fn segments(i: usize, cols: &Range<usize>, skip_diagonal: bool) -> [Range<usize>; 2] {
    if skip_diagonal && cols.contains(&i) {
        [0..i - cols.start, i - cols.start + 1..cols.len()]
    } else {
        [0..cols.len(), 0..0]
    }
}

/// A running ln Σ exp: `sum` is relative to the largest logit so far. Within a tile sums are f32 (at
/// most 32 terms a lane); across tiles f64.
#[derive(Clone, Copy)]
struct LogSum {
    max: f32,
    sum: f64,
}

impl LogSum {
    const EMPTY: Self = Self {
        max: f32::NEG_INFINITY,
        sum: 0.0,
    };

    /// Raises the reference to the largest of `logits`; what was summed must shrink by the result.
    #[inline(always)]
    fn raise(&mut self, logits: &[f32]) -> f64 {
        let top = max(logits);
        if top <= self.max {
            return 1.0;
        }
        let shrink = (f64::from(self.max) - f64::from(top)).exp();
        self.max = top;
        self.sum *= shrink;
        shrink
    }

    /// Of a row's [`RowStats::softmax`].
    fn softmax(self) -> [f32; 2] {
        [self.max, (1.0 / self.sum) as f32]
    }
}

/// One row's state in the forward pass.
#[derive(Clone, Copy)]
struct Row {
    student: LogSum,
    teacher: LogSum,
    /// Σ e^{b − max b} ((b − max b) − (a − max a)): around the maxima, where the weight is, these
    /// differences are small and lose nothing.
    cross: f64,
    /// a_ii.
    own: f32,
}

impl Row {
    const EMPTY: Self = Self {
        student: LogSum::EMPTY,
        teacher: LogSum::EMPTY,
        cross: 0.0,
        own: 0.0,
    };

    #[inline(always)]
    fn absorb(&mut self, a: &[f32]) {
        self.student.raise(a);
        let top = self.student.max;
        // Counted apart for the sake of small cross-entropies; see `absorb_both`.
        let tops = sum(a, |a| if a == top { 1.0 } else { 0.0 });
        let rest = sum(a, |a| if a == top { 0.0 } else { exp(a - top) });
        self.student.sum += f64::from(tops) + f64::from(rest);
    }

    /// Student and teacher go through the same operations in the same order: equal logits give
    /// equal sums to the bit, and so a divergence of exactly 0.
    #[inline(always)]
    fn absorb_both(&mut self, a: &[f32], b: &[f32]) {
        let before = *self;
        self.student.raise(a);
        let shrink = self.teacher.raise(b);
        let (top_a, top_b) = (self.student.max, self.teacher.max);
        if before.teacher.sum > 0.0 {
            // Each earlier difference moves by how much further b's maximum fell back than a's.
            let drift = (f64::from(before.teacher.max) - f64::from(top_b))
                - (f64::from(before.student.max) - f64::from(top_a));
            self.cross = shrink * (before.cross + before.teacher.sum * drift);
        }
        // The largest logits are counted, the others summed apart: beside a 1 they would lose their last
        // bits, of which a divergence between two rows that are nearly certain consists.
        let (mut tops_a, mut tops_b) = ([0.0; LANES], [0.0; LANES]);
        let (mut sa, mut sb, mut cross) = ([0.0; LANES], [0.0; LANES], [0.0; LANES]);
        let mut add = |l: usize, a: f32, b: f32| {
            let (a, b) = (a - top_a, b - top_b);
            let (p, q) = (exp(a), exp(b));
            tops_a[l] += if a == 0.0 { 1.0 } else { 0.0 };
            tops_b[l] += if b == 0.0 { 1.0 } else { 0.0 };
            sa[l] += if a == 0.0 { 0.0 } else { p };
            sb[l] += if b == 0.0 { 0.0 } else { q };
            cross[l] += q * (b - a);
        };
        let (a_main, a_tail) = a.as_chunks::<LANES>();
        let (b_main, b_tail) = b.as_chunks::<LANES>();
        for (a, b) in a_main.iter().zip(b_main) {
            for l in 0..LANES {
                add(l, a[l], b[l]);
            }
        }
        for (l, (&a, &b)) in a_tail.iter().zip(b_tail).enumerate() {
            add(l, a, b);
        }
        let sum = |lanes: [f32; LANES]| f64::from(lanes.iter().sum::<f32>());
        self.student.sum += sum(tops_a) + sum(sa);
        self.teacher.sum += sum(tops_b) + sum(sb);
        self.cross += f64::from(cross.iter().sum::<f32>());
    }

    /// KL(q ‖ p) = Σ q (b − a) − B + A, from which both maxima cancel before anything is rounded:
    /// with one candidate, or equal logits, it is 0 to the bit.
    fn divergence(&self) -> f64 {
        let kl = self.cross / self.teacher.sum + (self.student.sum.ln() - self.teacher.sum.ln());
        if kl < 0.0 { 0.0 } else { kl } // not max: a NaN must stay one
    }
}

/// Adds the tile of columns `cols` to the rows' states. Each operand is its scale and the tile's
/// cosines, which become logits in place.
#[inline(always)]
fn absorb_tile(
    state: &mut [Row],
    first: usize,
    cols: &Range<usize>,
    (scale, a): (f32, &mut [f32]),
    mut teacher: Option<(f32, &mut [f32])>,
    skip_diagonal: bool,
) {
    for (r, state) in state.iter_mut().enumerate() {
        let i = first + r;
        let line = r * cols.len()..(r + 1) * cols.len();
        let a = &mut a[line.clone()];
        a.iter_mut().for_each(|c| *c *= scale);
        if cols.contains(&i) {
            state.own = a[i - cols.start];
        }
        let b = teacher.as_mut().map(|(scale, b)| {
            let b = &mut b[line];
            b.iter_mut().for_each(|c| *c *= *scale);
            b
        });
        for part in segments(i, cols, skip_diagonal) {
            match &b {
                _ if part.is_empty() => {}
                Some(b) => state.absorb_both(&a[part.clone()], &b[part]),
                None => state.absorb(&a[part]),
            }
        }
    }
}

impl Relation for Cpu {
    /// Statistics of every row of `pair`.
    fn relation(&self, pair: &Pair) -> Result<RowStats> {
        let (student, teacher) = operands(OP, pair)?;
        let (n, m, skip) = (student.n, student.m, pair.skip_diagonal);
        // Per row: the student's softmax, the teacher's, the value.
        let mut stats = vec![[0.0f32; 5]; n];
        let block = row_block(n);
        // A row without candidates (a lone anchor without its diagonal) knows nothing: all zero.
        let candidates = if skip && n <= m {
            m.saturating_sub(1)
        } else {
            m
        };
        if candidates > 0 {
            one_by_one(stats.par_chunks_mut(block).enumerate()).for_each(|(k, out)| {
                let rows = k * block..k * block + out.len();
                let area = out.len() * TILE.min(m);
                let mut a = Memory::stale(area);
                let mut b = Memory::stale(if teacher.is_some() { area } else { 0 });
                let mut state = vec![Row::EMPTY; out.len()];
                for start in (0..m).step_by(TILE) {
                    let cols = start..m.min(start + TILE);
                    student.cosines(&rows, &cols, &mut a);
                    if let Some(t) = &teacher {
                        t.cosines(&rows, &cols, &mut b);
                    }
                    let b = &mut b;
                    vectorised(
                        #[inline(always)]
                        || {
                            let teacher = teacher.as_ref().map(|t| (t.scale, &mut b[..]));
                            let student = (student.scale, &mut a[..]);
                            absorb_tile(&mut state, rows.start, &cols, student, teacher, skip);
                        },
                    );
                }
                for (out, row) in out.iter_mut().zip(&state) {
                    let [max, inverse] = row.student.softmax();
                    *out = if teacher.is_some() {
                        let [teacher_max, teacher_inverse] = row.teacher.softmax();
                        let value = row.divergence() as f32;
                        [max, inverse, teacher_max, teacher_inverse, value]
                    } else {
                        // A − a_ii with the large parts subtracted first.
                        let ce = f64::from(row.student.max) - f64::from(row.own);
                        let value = (ce + row.student.sum.ln()) as f32;
                        [max, inverse, 0.0, 0.0, value]
                    };
                }
            });
        }
        let column = |c: usize| stats.iter().map(move |s| s[c]);
        let both = |c: usize| tensor(&[2, n], column(c).chain(column(c + 1)).collect::<Vec<_>>());
        Ok(RowStats {
            softmax: both(0),
            teacher_softmax: teacher.map(|_| both(2)),
            value: tensor(&[n], column(4).collect::<Vec<_>>()),
        })
    }
}
