//! The weighted mean of per-anchor divergences and its derivatives.

use super::device::{Address, Kernel, Launch};
use super::{Gpu, arguments};
use crate::backend::{IntraWeighting, IntraWeights, Result, shape_error};
use crate::tensor::{DType, Tensor};

const OP: &str = "intra_weights";

arguments! {
    struct IntraWeightsArguments in "intra_weights" {
        d: Address,
        l: Address,
        loss: Address,
        g: Address,
        h: Address,
        n: i64,
        weights: i32,
        padding: i32,
    }
}

impl IntraWeighting for Gpu {
    fn intra_weights(
        &self,
        d: &Tensor,
        weights: IntraWeights,
        weights_from: Option<&Tensor>,
    ) -> Result<(Tensor, Tensor, Option<Tensor>)> {
        let n = d.len();
        let l = match (weights, weights_from) {
            (IntraWeights::Clip, Some(l)) => l,
            (IntraWeights::Clip, None) => {
                return shape_error(OP, "clip weights need cross-entropies");
            }
            _ => d,
        };
        if l.len() != n {
            return shape_error(OP, format!("{n} divergences, {} cross-entropies", l.len()));
        }
        let (d, l) = (self.read(OP, d, DType::F32)?, self.read(OP, l, DType::F32)?);
        let (loss, loss_at) = self.empty(&[1], DType::F32)?;
        let (g, g_at) = self.empty(&[n], DType::F32)?;
        let (h, h_at) = match weights {
            IntraWeights::Clip => {
                let (h, at) = self.empty(&[n], DType::F32)?;
                (Some(h), at)
            }
            _ => (None, 0),
        };
        let arguments = IntraWeightsArguments {
            d: d.at(),
            l: l.at(),
            loss: loss_at,
            g: g_at,
            h: h_at,
            n: n as i64,
            // The order of the kernel's `Weights`.
            weights: match weights {
                IntraWeights::Divergence => 0,
                IntraWeights::Stable => 1,
                IntraWeights::Detached => 2,
                IntraWeights::Uniform => 3,
                IntraWeights::Clip => 4,
            },
            padding: 0,
        };
        let kernel = Kernel::new(OP, "intra_weights_f32");
        let launch = Launch::blocks([1, 1, 1], 512);
        self.launch(kernel, launch, &arguments)?;
        Ok((loss, g, h))
    }
}
