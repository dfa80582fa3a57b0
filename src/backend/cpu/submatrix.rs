//! Rows and columns out of a matrix, times their factors.

use super::Cpu;
use super::embedding::check_indices;
use super::memory::Memory;
use super::parallel::{column_sums, over_rows};
use super::storage::{accumulator, f32s, i32s, tensor};
use crate::backend::{Result, Selection, Slot, Submatrix};
use crate::tensor::Tensor;

const OP: &str = "submatrix";

/// The two indices, known to be within x.
fn indices<'a>(
    x: &Tensor,
    rows: &'a Tensor,
    columns: &'a Tensor,
) -> Result<(&'a [i32], &'a [i32])> {
    let (rows, columns) = (i32s(OP, rows)?, i32s(OP, columns)?);
    check_indices(OP, rows, x.rows())?;
    check_indices(OP, columns, x.width())?;
    Ok((rows, columns))
}

fn factors(scale: Option<&Tensor>) -> Result<Option<&[f32]>> {
    scale.map(|s| f32s(OP, s)).transpose()
}

fn at(scale: Option<&[f32]>, i: usize) -> f32 {
    scale.map_or(1.0, |s| s[i])
}

impl Submatrix for Cpu {
    fn submatrix(&self, of: Selection) -> Result<Tensor> {
        let Selection {
            x,
            rows,
            columns,
            r,
            c,
        } = of;
        let (width, n) = (x.width(), columns.len());
        let shape = match x.shape() {
            [_] => vec![n],
            _ => vec![rows.len(), n],
        };
        let (rows, columns) = indices(x, rows, columns)?;
        let (x, r, c) = (f32s(OP, x)?, factors(r)?, factors(c)?);
        let mut y = Memory::stale(rows.len() * n);
        over_rows(
            &mut y,
            n,
            #[inline(always)]
            |first, y| {
                for (i, y) in (first..).zip(y.chunks_exact_mut(n)) {
                    let line = &x[rows[i] as usize * width..][..width];
                    let factor = at(r, i);
                    for (j, y) in y.iter_mut().enumerate() {
                        *y = factor * at(c, j) * line[columns[j] as usize];
                    }
                }
            },
        );
        Ok(tensor(&shape, y))
    }

    fn submatrix_backward(
        &self,
        dy: &Tensor,
        of: Selection,
        dx: Slot,
        dr: Slot,
        dc: Slot,
    ) -> Result<()> {
        let Selection {
            x,
            rows,
            columns,
            r,
            c,
        } = of;
        let (width, n) = (x.width(), columns.len());
        let (rows, columns) = indices(x, rows, columns)?;
        let (dy, r, c) = (f32s(OP, dy)?, factors(r)?, factors(c)?);
        if let Some(dx) = dx {
            let mut place = vec![None; x.rows()];
            for (i, &row) in rows.iter().enumerate() {
                place[row as usize] = Some(i);
            }
            over_rows(
                accumulator(OP, dx, x.shape())?,
                width,
                #[inline(always)]
                |first, dx| {
                    for (place, dx) in place[first..].iter().zip(dx.chunks_exact_mut(width)) {
                        let Some(i) = *place else { continue };
                        let factor = at(r, i);
                        for (j, dy) in dy[i * n..][..n].iter().enumerate() {
                            dx[columns[j] as usize] += factor * at(c, j) * dy;
                        }
                    }
                },
            );
        }
        let x = f32s(OP, x)?;
        let line = |i: usize| &x[rows[i] as usize * width..][..width];
        if let Some(dr) = dr {
            let dr = accumulator(OP, dr, &[rows.len()])?;
            for (i, dr) in dr.iter_mut().enumerate() {
                let (line, dy) = (line(i), &dy[i * n..][..n]);
                let terms = dy.iter().enumerate();
                let sum: f32 = terms
                    .map(|(j, dy)| at(c, j) * dy * line[columns[j] as usize])
                    .sum();
                *dr += sum;
            }
        }
        if let Some(dc) = dc {
            column_sums(
                rows.len(),
                accumulator(OP, dc, &[n])?,
                #[inline(always)]
                |i, sum| {
                    let (line, factor) = (line(i), at(r, i));
                    for (j, (sum, dy)) in sum.iter_mut().zip(&dy[i * n..]).enumerate() {
                        *sum += factor * dy * line[columns[j] as usize];
                    }
                },
            );
        }
        Ok(())
    }
}
