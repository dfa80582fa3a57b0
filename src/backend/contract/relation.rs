//! Similarity losses, streamed: what all of them share.

use super::Info;
use crate::backend::{Op, Result, lacking};
use crate::tensor::Tensor;

/// Logits a_ij = scale · x_i·y_j between two sets of unit features, never stored as a matrix.
#[derive(Clone, Debug)]
pub struct Logits {
    /// Anchors, `[n, width]`.
    pub x: Tensor,
    /// Candidates, `[m, width]`.
    pub y: Tensor,
    /// α, `[1]`, already exponentiated.
    pub scale: Tensor,
}

/// A student's logits and what they should look like.
#[derive(Clone, Debug)]
pub struct Pair {
    /// Whose rows are trained.
    pub student: Logits,
    /// Whose softmax rows are the target; without a teacher the target of row i is class i.
    pub teacher: Option<Logits>,
    /// Leaves j = i out of every sum: intra-modal relations look at negatives only.
    pub skip_diagonal: bool,
}

/// What one streaming pass over the rows of a [`Pair`] yields.
#[derive(Clone, Debug)]
pub struct RowStats {
    /// Of the student, `[2, n]`: the largest logit of each row, max_i, and after those
    /// 1 / Σ_j exp(a_ij − max_i), so that p_ij = exp(a_ij − max_i) times it.
    ///
    /// Kept apart because their one number A_i = ln Σ_j exp a_ij, of size up to α, would be rounded by
    /// ε α: a factor on the whole row of p, which where it cancels against q is all that is left.
    pub softmax: Tensor,
    /// The same of the teacher.
    pub teacher_softmax: Option<Tensor>,
    /// With a teacher, KL(q_i ‖ p_i); without, the cross-entropy A_i − a_ii. `[n]`
    pub value: Tensor,
}

/// The forward pass over rows of logits.
pub trait Relation: Info {
    /// Streams the rows of `pair` and returns their statistics; see [`RowStats`].
    fn relation(&self, pair: &Pair) -> Result<RowStats> {
        lacking(self, Op::Relation, &pair.student.x)
    }
}
