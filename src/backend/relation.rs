//! The operands of the relation kernels, which all similarity losses share.

use crate::tensor::Tensor;
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// Logits a_ij = scale · x_i·y_j between two sets of unit features, never stored as a matrix.
#[derive(Clone, Debug)]
pub struct Relation {
    /// Anchors, `[n, width]`.
    pub x: Tensor,
    /// Candidates, `[m, width]`.
    pub y: Tensor,
    /// α, `[1]`, already exponentiated.
    pub scale: Tensor,
}

/// A student's relation and what it should look like.
#[derive(Clone, Debug)]
pub struct Pair {
    /// Whose rows are trained.
    pub student: Relation,
    /// Whose softmax rows are the target; without a teacher the target of row i is class i.
    pub teacher: Option<Relation>,
    /// Leaves j = i out of every sum: intra-modal relations look at negatives only.
    pub skip_diagonal: bool,
}

/// What one streaming pass over the rows of a [`Pair`] yields.
#[derive(Clone, Debug)]
pub struct RowStats {
    /// Of the student, `[2, n]`: the largest logit of each row, max_i, and behind those
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

/// One direction of a relation loss in the backward pass.
#[derive(Clone, Debug)]
pub struct Side {
    /// The statistics of that direction's forward pass.
    pub stats: RowStats,
    /// ∂L/∂value_i including the upstream gradient, `[n]`.
    pub coef: Tensor,
}

/// How anchors of the intra-modal loss are weighted; `--intra-weights`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum IntraWeights {
    /// w_i = d_i / Σd, differentiated through.
    #[default]
    #[value(help = "By their divergence, differentiated through")]
    Divergence,
    /// w_i = d_i / stop(Σd).
    #[value(help = "By their divergence over a constant sum")]
    Stable,
    /// w_i = stop(d_i / Σd).
    #[value(help = "By their divergence, as constants")]
    Detached,
    /// w_i = 1/N.
    #[value(help = "All the same")]
    Uniform,
    /// w_i = ℓ_i / Σℓ with the anchor's own contrastive cross-entropy ℓ_i.
    #[value(help = "By their contrastive cross-entropy")]
    Clip,
}
