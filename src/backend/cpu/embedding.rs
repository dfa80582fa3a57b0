//! Table look-ups and their scatter.

use super::Cpu;
use super::memory::Memory;
use super::parallel::over_rows;
use super::storage::{accumulator, f32s, i32s, tensor};
use crate::backend::{Embedding, EmbeddingBackward, Error, Result, Slot};
use crate::tensor::Tensor;

const OP: &str = "embedding";

pub(super) fn check_indices(op: &'static str, index: &[i32], bound: usize) -> Result<()> {
    match index
        .iter()
        .find(|&&i| usize::try_from(i).map_or(true, |i| i >= bound))
    {
        Some(&bad) => Err(Error::Index {
            op,
            index: bad.into(),
            bound,
        }),
        None => Ok(()),
    }
}

impl Embedding for Cpu {
    fn embedding(
        &self,
        table: &Tensor,
        positions: &Tensor,
        ids: &Tensor,
        pos: &Tensor,
    ) -> Result<Tensor> {
        let width = table.width();
        let (ids, pos) = (i32s(OP, ids)?, i32s(OP, pos)?);
        check_indices(OP, ids, table.rows())?;
        check_indices(OP, pos, positions.rows())?;
        let (table, positions) = (f32s(OP, table)?, f32s(OP, positions)?);
        let mut y = Memory::stale(ids.len() * width);
        over_rows(
            &mut y,
            width,
            #[inline(always)]
            |first, y| {
                for (r, y) in y.chunks_exact_mut(width).enumerate() {
                    let token = &table[ids[first + r] as usize * width..][..width];
                    let position = &positions[pos[first + r] as usize * width..][..width];
                    for ((y, t), p) in y.iter_mut().zip(token).zip(position) {
                        *y = t + p;
                    }
                }
            },
        );
        Ok(tensor(&[ids.len(), width], y))
    }

    fn embedding_backward(
        &self,
        of: EmbeddingBackward,
        dtable: Slot,
        dpositions: Slot,
    ) -> Result<()> {
        scatter(OP, of.dy, of.ids, of.vocab, dtable)?;
        scatter(OP, of.dy, of.pos, of.context, dpositions)
    }
}

/// d[index_r] += dy_r for all r in order, into a table of `rows` rows.
pub(super) fn scatter(
    op: &'static str,
    dy: &Tensor,
    index: &Tensor,
    rows: usize,
    slot: Slot,
) -> Result<()> {
    let Some(slot) = slot else { return Ok(()) };
    let width = dy.width();
    let (dy, index) = (f32s(op, dy)?, i32s(op, index)?);
    check_indices(op, index, rows)?;
    let table = accumulator(op, slot, &[rows, width])?;
    for (dy, &i) in dy.chunks_exact(width).zip(index) {
        for (t, d) in table[i as usize * width..][..width].iter_mut().zip(dy) {
            *t += d;
        }
    }
    Ok(())
}
