//! Token and position embeddings.

use super::{Info, Slot};
use crate::backend::{Op, Result, lacking};
use crate::tensor::Tensor;

/// What [`Embedding::embedding_backward`] reads.
#[derive(Clone, Copy, Debug)]
pub struct EmbeddingBackward<'a> {
    /// `[rows, width]`.
    pub dy: &'a Tensor,
    /// `[rows]` i32.
    pub ids: &'a Tensor,
    /// `[rows]` i32.
    pub pos: &'a Tensor,
    /// Rows of the token table.
    pub vocab: usize,
    /// Rows of the position table.
    pub context: usize,
}

/// Rows of two tables, added.
pub trait Embedding: Info {
    /// `out_r = table[ids_r] + positions[pos_r]`. table `[vocab, width]`, positions `[context, width]`; ids, pos
    /// `[rows]` i32.
    fn embedding(
        &self,
        table: &Tensor,
        positions: &Tensor,
        ids: &Tensor,
        pos: &Tensor,
    ) -> Result<Tensor> {
        let _ = (positions, ids, pos);
        lacking(self, Op::Embedding, table)
    }

    /// Scatters dy into both tables, in a fixed order.
    fn embedding_backward(
        &self,
        of: EmbeddingBackward,
        dtable: Slot,
        dpositions: Slot,
    ) -> Result<()> {
        let _ = (dtable, dpositions);
        lacking(self, Op::Embedding, of.dy)
    }
}
