//! The weighted mean of per-anchor divergences and its derivatives, in f64 and in order: one pass
//! over n numbers, which no thread pool would make faster.

use super::Cpu;
use super::storage::{f32s, tensor};
use crate::backend::{IntraWeighting, IntraWeights, Result, shape_error};
use crate::tensor::Tensor;

const OP: &str = "intra_weights";

/// Below this a sum of divergences counts as this constant: weights stay finite, and a student
/// equal to its teacher gets loss 0 and gradient 0.
const FLOOR: f64 = 1e-12;

impl IntraWeighting for Cpu {
    /// L = Σ w_i d_i, g_i = ∂L/∂d_i, and for [`IntraWeights::Clip`] h_i = ∂L/∂ℓ_i.
    ///
    /// With S = Σd (or Σℓ), where ↯ marks a stopped gradient:
    /// - divergence: L = Σd²/S, g_i = 2 d_i/S − Σd²/S² = (2 d_i − L)/S
    /// - stable:     L = Σd²/↯S, g_i = 2 d_i/S
    /// - detached:   L = Σ ↯(d_i/S) d_i, g_i = d_i/S
    /// - uniform:    L = Σd/n, g_i = 1/n
    /// - clip:       L = Σℓd/S, g_i = ℓ_i/S, h_i = d_i/S − Σℓd/S² = (d_i − L)/S
    ///
    /// Where the floor holds, S is a constant, and its share of the derivative is gone.
    fn intra_weights(
        &self,
        d: &Tensor,
        weights: IntraWeights,
        weights_from: Option<&Tensor>,
    ) -> Result<(Tensor, Tensor, Option<Tensor>)> {
        let d = f32s(OP, d)?;
        let n = d.len();
        let l = match (weights, weights_from) {
            (IntraWeights::Clip, Some(l)) => f32s(OP, l)?,
            (IntraWeights::Clip, None) => {
                return shape_error(OP, "clip weights need cross-entropies");
            }
            _ => d,
        };
        if l.len() != n {
            return shape_error(OP, format!("{n} divergences, {} cross-entropies", l.len()));
        }
        let total: f64 = l.iter().map(|&l| f64::from(l)).sum();
        let floored = total < FLOOR;
        let s = if floored { FLOOR } else { total };
        let product: f64 = l
            .iter()
            .zip(d)
            .map(|(&l, &d)| f64::from(l) * f64::from(d))
            .sum();
        let mut loss = product / s;
        let own = if floored { 0.0 } else { loss };
        let map = |f: &dyn Fn(f64) -> f64, from: &[f32]| {
            tensor(
                &[n],
                from.iter()
                    .map(|&x| f(f64::from(x)) as f32)
                    .collect::<Vec<_>>(),
            )
        };
        let mut h = None;
        let g = match weights {
            IntraWeights::Divergence => map(&|d| (2.0 * d - own) / s, d),
            IntraWeights::Stable => map(&|d| 2.0 * d / s, d),
            IntraWeights::Detached => map(&|d| d / s, d),
            IntraWeights::Uniform => {
                let mean = 1.0 / n.max(1) as f64;
                loss = total * mean;
                map(&|_| mean, d)
            }
            IntraWeights::Clip => {
                // Cross-entropies of 0 everywhere say nothing about how to weigh: no pull on them.
                h = Some(map(&|d| if floored { 0.0 } else { (d - loss) / s }, d));
                map(&|l| l / s, l)
            }
        };
        Ok((tensor(&[1], vec![loss as f32]), g, h))
    }
}
