//! The weights of the intra-modal loss.

use super::Info;
use crate::backend::{Op, Result, lacking};
use crate::tensor::Tensor;
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

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

/// The weighted mean of per-anchor divergences, and its derivatives.
pub trait IntraWeighting: Info {
    /// The weighted mean of per-anchor divergences d `[n]` under `weights`: the loss `[1]`, its
    /// derivative g `[n]` by each d, and for [`IntraWeights::Clip`] the derivative `[n]` by each
    /// entry of `weights_from` (the anchors' cross-entropies).
    fn intra_weights(
        &self,
        d: &Tensor,
        weights: IntraWeights,
        weights_from: Option<&Tensor>,
    ) -> Result<(Tensor, Tensor, Option<Tensor>)> {
        let _ = (weights, weights_from);
        lacking(self, Op::IntraWeighting, d)
    }
}
