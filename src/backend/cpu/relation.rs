//! Streaming similarity losses: logits a_ij = α x_i·y_j exist one tile at a time, and each row keeps
//! only its log-sum-exp. Memory is O(n·width) for any number of rows; see [`Pair`] and [`RowStats`].
//!
//! Tasks are blocks of rows, cut by the shape alone, and a row's tiles are met from left to right,
//! so every sum has one order whatever the number of threads.

use super::gemm::{View, gemm_serial};
use super::math::{exp, max, sum};
use super::parallel::vectorised;
use super::storage::{accumulator, f32s, target, tensor};
use crate::backend::{Pair, Relation, Result, RowStats, Side, Slot, shape_error};
use rayon::prelude::*;
use std::ops::Range;

const OP: &str = "relation";

/// Columns of a tile. Two tiles (student's, teacher's) of the largest row block make 1 MiB: they
/// stay in the second-level cache, and packing the columns is paid for by many rows.
const TILE: usize = 512;

/// Partial sums of a reduction; see `math`.
const LANES: usize = 16;

/// Rows of one task: few enough to feed a few dozen cores at a batch of 1024, many enough to
/// amortise packing the columns at large ones.
fn row_block(n: usize) -> usize {
    (n / 16).next_multiple_of(16).clamp(32, 256)
}

/// A [`Relation`]'s memory.
#[derive(Clone, Copy)]
struct Operands<'a> {
    x: &'a [f32],
    y: &'a [f32],
    n: usize,
    m: usize,
    width: usize,
    scale: f32,
}

impl<'a> Operands<'a> {
    fn new(r: &'a Relation) -> Result<Self> {
        let (xs, ys) = (r.x.shape(), r.y.shape());
        if xs.len() != 2 || ys.len() != 2 || xs[1] != ys[1] || r.scale.len() != 1 {
            let detail = format!("x {xs:?}, y {ys:?}, scale {:?}", r.scale.shape());
            return shape_error(OP, detail + ": want [n, width], [m, width], [1]");
        }
        Ok(Self {
            x: f32s(OP, &r.x)?,
            y: f32s(OP, &r.y)?,
            n: xs[0],
            m: ys[0],
            width: xs[1],
            scale: f32s(OP, &r.scale)?[0],
        })
    }

    fn x_rows(&self, rows: &Range<usize>) -> View<'a> {
        View::new(&self.x[rows.start * self.width..], rows.len(), self.width)
    }

    fn y_rows(&self, cols: &Range<usize>) -> View<'a> {
        View::new(&self.y[cols.start * self.width..], cols.len(), self.width)
    }

    /// The cosines x_i·y_j of a tile, row-major into the front of `out`.
    fn cosines(&self, rows: &Range<usize>, cols: &Range<usize>, out: &mut [f32]) {
        let out = &mut out[..rows.len() * cols.len()];
        gemm_serial(out, false, 1.0, self.x_rows(rows), self.y_rows(cols).t());
    }
}

/// Student and teacher of a [`Pair`], checked against each other.
fn operands(pair: &Pair) -> Result<(Operands<'_>, Option<Operands<'_>>)> {
    let student = Operands::new(&pair.student)?;
    let teacher = pair.teacher.as_ref().map(Operands::new).transpose()?;
    match &teacher {
        Some(t) if (t.n, t.m) != (student.n, student.m) => shape_error(
            OP,
            format!(
                "student {}×{}, teacher {}×{}",
                student.n, student.m, t.n, t.m
            ),
        ),
        None if student.m < student.n => shape_error(
            OP,
            format!("{} rows, but only {} classes", student.n, student.m),
        ),
        _ => Ok((student, teacher)),
    }
}

/// What of a tile's row takes part: all of it, or the two sides of the left-out diagonal.
fn segments(i: usize, cols: &Range<usize>, skip_diagonal: bool) -> [Range<usize>; 2] {
    if skip_diagonal && cols.contains(&i) {
        [0..i - cols.start, i - cols.start + 1..cols.len()]
    } else {
        [0..cols.len(), 0..0]
    }
}

/// ln Σ exp under way: `sum` is relative to the largest logit so far. Within a tile sums are f32 (at
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

    fn value(self) -> f64 {
        f64::from(self.max) + self.sum.ln()
    }
}

/// One row's state in the forward pass.
#[derive(Clone, Copy)]
struct Row {
    student: LogSum,
    teacher: LogSum,
    /// Σ e^{b − max b} ((b − max b) − (a − max a)): around the maxima, where the weight lies, these
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
        self.student.sum += f64::from(sum(a, |a| exp(a - top)));
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
        let (mut sa, mut sb, mut cross) = ([0.0; LANES], [0.0; LANES], [0.0; LANES]);
        let mut add = |l: usize, a: f32, b: f32| {
            let (a, b) = (a - top_a, b - top_b);
            let q = exp(b);
            sa[l] += exp(a);
            sb[l] += q;
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
        self.student.sum += f64::from(sa.iter().sum::<f32>());
        self.teacher.sum += f64::from(sb.iter().sum::<f32>());
        self.cross += f64::from(cross.iter().sum::<f32>());
    }

    /// KL(q ‖ p) = Σ q (b − a) − B + A, from which both maxima cancel before anything is rounded:
    /// with one candidate, or equal logits, it is 0 to the bit.
    fn divergence(&self) -> f64 {
        let kl = self.cross / self.teacher.sum + (self.student.sum.ln() - self.teacher.sum.ln());
        if kl < 0.0 { 0.0 } else { kl } // not max: a NaN must stay one
    }
}

/// Statistics of every row of `pair`.
pub(super) fn forward(pair: &Pair) -> Result<RowStats> {
    let (student, teacher) = operands(pair)?;
    let (n, m) = (student.n, student.m);
    // Per row: A, B, value.
    let mut stats = vec![[0.0f32; 3]; n];
    let block = row_block(n);
    // A row without candidates (a lone anchor without its diagonal) knows nothing: all zero.
    let candidates = if pair.skip_diagonal && n <= m {
        m.saturating_sub(1)
    } else {
        m
    };
    if candidates > 0 {
        stats
            .par_chunks_mut(block)
            .enumerate()
            .for_each(|(k, out)| {
                let rows = k * block..k * block + out.len();
                let area = out.len() * TILE.min(m);
                let mut a = vec![0.0; area];
                let mut b = vec![0.0; if teacher.is_some() { area } else { 0 }];
                let mut state = vec![Row::EMPTY; out.len()];
                for start in (0..m).step_by(TILE) {
                    let cols = start..m.min(start + TILE);
                    student.cosines(&rows, &cols, &mut a);
                    if let Some(t) = &teacher {
                        t.cosines(&rows, &cols, &mut b);
                    }
                    vectorised(
                        #[inline(always)]
                        || {
                            for (r, state) in state.iter_mut().enumerate() {
                                let i = rows.start + r;
                                let line = r * cols.len()..(r + 1) * cols.len();
                                let a = &mut a[line.clone()];
                                a.iter_mut().for_each(|c| *c *= student.scale);
                                if cols.contains(&i) {
                                    state.own = a[i - cols.start];
                                }
                                let b = teacher.as_ref().map(|t| {
                                    let b = &mut b[line];
                                    b.iter_mut().for_each(|c| *c *= t.scale);
                                    b
                                });
                                for part in segments(i, &cols, pair.skip_diagonal) {
                                    match &b {
                                        _ if part.is_empty() => {}
                                        Some(b) => state.absorb_both(&a[part.clone()], &b[part]),
                                        None => state.absorb(&a[part]),
                                    }
                                }
                            }
                        },
                    );
                }
                for (out, row) in out.iter_mut().zip(&state) {
                    let lse = row.student.value();
                    *out = if teacher.is_some() {
                        [
                            lse as f32,
                            row.teacher.value() as f32,
                            row.divergence() as f32,
                        ]
                    } else {
                        // A − a_ii with the large parts subtracted first.
                        let ce = f64::from(row.student.max) - f64::from(row.own);
                        [lse as f32, 0.0, (ce + row.student.sum.ln()) as f32]
                    };
                }
            });
    }
    let column = |c: usize| tensor(&[n], stats.iter().map(|s| s[c]).collect());
    Ok(RowStats {
        lse: column(0),
        teacher_lse: teacher.map(|_| column(1)),
        value: column(2),
    })
}

/// A [`Side`]'s memory.
#[derive(Clone, Copy)]
struct Direction<'a> {
    lse: &'a [f32],
    teacher_lse: &'a [f32],
    coef: &'a [f32],
}

impl<'a> Direction<'a> {
    /// `rows` is the number of this direction's anchors. Without a teacher its log-sum-exps are
    /// never read; the student's stand in for the length.
    fn new(side: &'a Side, rows: usize, teacher: bool) -> Result<Self> {
        let lse = f32s(OP, &side.stats.lse)?;
        let teacher_lse = match &side.stats.teacher_lse {
            Some(t) => f32s(OP, t)?,
            None if teacher => return shape_error(OP, "no teacher statistics for the backward"),
            None => lse,
        };
        let coef = f32s(OP, &side.coef)?;
        if [lse.len(), teacher_lse.len(), coef.len()] != [rows; 3] {
            let detail = format!("statistics {}, coefficients {}", lse.len(), coef.len());
            return shape_error(OP, format!("{detail} for {rows} rows"));
        }
        Ok(Self {
            lse,
            teacher_lse,
            coef,
        })
    }

    fn slice(self, range: Range<usize>) -> Self {
        Self {
            lse: &self.lse[range.clone()],
            teacher_lse: &self.teacher_lse[range.clone()],
            coef: &self.coef[range],
        }
    }
}

/// Turns part of one row of cosines c into coefficients C in place, the teacher's cosines t beside
/// it; `row` holds the anchor alone, `col` the part's columns. Returns Σ_j (P_ij − T_ij) (c_ij − c₀)
/// where T is the teacher's softmax, or nothing without a teacher.
///
/// Both softmaxes sum to 1, so any c₀ gives the same sum; c₀ = A_i/α keeps the rounding of A_i, which
/// scales a whole row of P, from multiplying cosines near 1.
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
    let (lse, teacher_lse, coef) = if COL {
        (&col.lse[..len], &col.teacher_lse[..len], &col.coef[..len])
    } else {
        (col.lse, col.teacher_lse, col.coef)
    };
    let work = &mut work[..len];
    let (row_lse, row_teacher, row_coef) = (row.lse[0], row.teacher_lse[0], row.coef[0]);
    for j in 0..len {
        let a = scales.0 * c[j];
        let b = if TEACHER { scales.1 * t[j] } else { 0.0 };
        let mut p = exp(a - row_lse);
        if TEACHER {
            p -= exp(b - row_teacher);
        }
        work[j] = p * (c[j] - center);
        let mut out = row_coef * p;
        if COL {
            let mut p = exp(a - lse[j]);
            if TEACHER {
                p -= exp(b - teacher_lse[j]);
            }
            out += coef[j] * p;
        }
        c[j] = out;
    }
    sum(work, |x| x)
}

/// The gradients of the rows `rows`: adds into (or with `add` false writes) `dx` and returns the
/// block's part of dscale.
fn backward_block(
    pair: &Pair,
    (student, teacher): (&Operands, Option<&Operands>),
    (row, col): (Direction, Option<Direction>),
    rows: Range<usize>,
    mut dx: Option<&mut [f32]>,
    add: bool,
) -> f64 {
    let m = student.m;
    let area = rows.len() * TILE.min(m);
    let mut c = vec![0.0; area];
    let mut t = vec![0.0; if teacher.is_some() { area } else { 0 }];
    let mut work = vec![0.0; TILE.min(m)];
    let scales = (student.scale, teacher.map_or(0.0, |t| t.scale));
    let inverse = if student.scale == 0.0 {
        0.0
    } else {
        1.0 / student.scale
    };
    let mut dscale = 0.0;
    for start in (0..m).step_by(TILE) {
        let cols = start..m.min(start + TILE);
        student.cosines(&rows, &cols, &mut c);
        if let Some(teacher) = teacher {
            teacher.cosines(&rows, &cols, &mut t);
        }
        vectorised(
            #[inline(always)]
            || {
                for (r, i) in rows.clone().enumerate() {
                    let line = r * cols.len()..(r + 1) * cols.len();
                    let c = &mut c[line.clone()];
                    let t = if teacher.is_some() { &t[line] } else { &[][..] };
                    let anchor = row.slice(i..i + 1);
                    let center = anchor.lse[0] * inverse;
                    let own = cols.contains(&i).then(|| i - cols.start);
                    let own_cosine = own.map_or(0.0, |k| c[k]);
                    let mut slope = 0.0f64;
                    for part in segments(i, &cols, pair.skip_diagonal) {
                        if part.is_empty() {
                            continue;
                        }
                        let absolute = start + part.start..start + part.end;
                        let columns = col.map_or(anchor, |col| col.slice(absolute));
                        let (c, t) = (&mut c[part.clone()], t.get(part).unwrap_or_default());
                        let w = &mut work;
                        slope += f64::from(match (teacher.is_some(), col.is_some()) {
                            (false, false) => coefficients::<false, false>(
                                c, t, scales, center, anchor, columns, w,
                            ),
                            (false, true) => coefficients::<false, true>(
                                c, t, scales, center, anchor, columns, w,
                            ),
                            (true, false) => coefficients::<true, false>(
                                c, t, scales, center, anchor, columns, w,
                            ),
                            (true, true) => {
                                coefficients::<true, true>(c, t, scales, center, anchor, columns, w)
                            }
                        });
                    }
                    if let Some(k) = own {
                        if teacher.is_none() {
                            // The target of row i is class i: T_ii = 1.
                            c[k] -= anchor.coef[0] + col.map_or(0.0, |col| col.coef[i]);
                            slope -= f64::from(own_cosine - center);
                        } else if pair.skip_diagonal {
                            c[k] = 0.0;
                        }
                    }
                    dscale += f64::from(anchor.coef[0]) * slope;
                }
            },
        );
        if let Some(dx) = dx.as_deref_mut() {
            let c = View::new(&c, rows.len(), cols.len());
            gemm_serial(
                dx,
                add || start > 0,
                student.scale,
                c,
                student.y_rows(&cols),
            );
        }
    }
    dscale
}

/// Gradients with respect to the anchors and the scale; see `Backend::relation_backward`.
pub(super) fn backward(
    pair: &Pair,
    row: &Side,
    col: Option<&Side>,
    dx: Slot,
    dscale: Slot,
) -> Result<()> {
    if dx.is_none() && dscale.is_none() {
        return Ok(());
    }
    let (student, teacher) = operands(pair)?;
    let (n, m, width) = (student.n, student.m, student.width);
    let row = Direction::new(row, n, teacher.is_some())?;
    let col = col
        .map(|c| Direction::new(c, m, teacher.is_some()))
        .transpose()?;
    let dx = dx.map(|slot| target(OP, slot, &[n, width])).transpose()?;
    let add = dx.as_ref().is_some_and(|(_, add)| *add);
    let block = row_block(n);
    let chunks: Vec<Option<&mut [f32]>> = match dx {
        Some((dx, _)) => dx.chunks_mut((block * width).max(1)).map(Some).collect(),
        None => (0..n.div_ceil(block)).map(|_| None).collect(),
    };
    let partials: Vec<f64> = chunks
        .into_par_iter()
        .enumerate()
        .map(|(k, dx)| {
            let rows = k * block..n.min((k + 1) * block);
            backward_block(
                pair,
                (&student, teacher.as_ref()),
                (row, col),
                rows,
                dx,
                add,
            )
        })
        .collect();
    if let Some(slot) = dscale {
        accumulator(OP, slot, pair.student.scale.shape())?[0] +=
            partials.iter().sum::<f64>() as f32;
    }
    Ok(())
}
