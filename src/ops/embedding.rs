//! out_r = table[ids_r] + positions[pos_r]: table `[vocab, width]`, positions `[context, width]`, ids
//! and pos `[rows]` (i32), out `[rows, width]`.

use super::{Result, shape_error, slot};
use crate::autodiff::{Tape, Var};
use crate::backend::EmbeddingBackward;
use crate::tensor::Tensor;

/// Token embedding plus position embedding of packed texts.
///
/// # Errors
/// If the widths differ, or an id or a position is outside its table.
pub fn embedding(
    tape: &Tape,
    table: &Var,
    positions: &Var,
    ids: &Tensor,
    pos: &Tensor,
) -> Result<Var> {
    if table.value().width() != positions.value().width() || ids.shape() != pos.shape() {
        let detail = format!(
            "table {:?} with positions {:?}, ids {:?} with {:?}",
            table.shape(),
            positions.shape(),
            ids.shape(),
            pos.shape()
        );
        return shape_error("embedding", detail);
    }
    let y = tape
        .backend()
        .embedding(table.value(), positions.value(), ids, pos)?;
    // Each row of a table gathers the gradients of all places where it was used.
    let (t, p, ids, pos) = (table.clone(), positions.clone(), ids.clone(), pos.clone());
    Ok(tape.record(y, &[table, positions], move |tape, grads, dy| {
        let (mut dt, mut dp) = (grads.take(&t), grads.take(&p));
        let (vocab, context) = (t.value().rows(), p.value().rows());
        tape.backend().embedding_backward(
            EmbeddingBackward {
                dy: &dy,
                ids: &ids,
                pos: &pos,
                vocab,
                context,
            },
            slot(&mut dt),
            slot(&mut dp),
        )?;
        grads.put(&t, dt);
        grads.put(&p, dp);
        Ok(())
    }))
}
