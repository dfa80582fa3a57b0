//! Dynamic loss scaling: one thread decides, and nobody waits.

use super::device::{Address, Kernel, Launch};
use super::{Gpu, arguments};
use crate::backend::{LossScale, LossScaleState, Result, ScaledStep, shape_error};
use crate::tensor::{DType, Tensor};

const OP: &str = "loss_scale";

arguments! {
    struct LossScaleArguments in "loss_scale" {
        norm: Address,
        scale: Address,
        counts: Address,
        numbers: Address,
        unscaled: Address,
        lr: f32,
        beta1: f32,
        beta2: f32,
        max_norm: f32,
        growth: f32,
        backoff: f32,
        interval: f32,
        clip: i32,
    }
}

impl LossScale for Gpu {
    fn loss_scale(&self, state: &mut LossScaleState, of: ScaledStep) -> Result<(Tensor, Tensor)> {
        let lengths = [of.norm.len(), state.scale.len(), state.counts.len()];
        if lengths != [1, 1, 7] {
            let detail = format!("norm, scale and counts of {lengths:?} numbers, not [1, 1, 7]");
            return shape_error(OP, detail);
        }
        let norm = self.read(OP, of.norm, DType::F32)?;
        let (numbers, numbers_at) = self.empty(&[5], DType::F32)?;
        let (unscaled, unscaled_at) = self.empty(&[1], DType::F32)?;
        let arguments = LossScaleArguments {
            norm: norm.at(),
            scale: self.write(OP, &mut state.scale)?,
            counts: self.write(OP, &mut state.counts)?,
            numbers: numbers_at,
            unscaled: unscaled_at,
            lr: of.lr,
            beta1: of.beta1,
            beta2: of.beta2,
            max_norm: of.max_norm.unwrap_or(0.0),
            growth: of.scaling.growth,
            backoff: of.scaling.backoff,
            interval: of.scaling.interval as f32,
            clip: of.max_norm.is_some().into(),
        };
        let kernel = Kernel::new(OP, "loss_scale_f32");
        self.launch(kernel, Launch::blocks([1, 1, 1], 1), &arguments)?;
        Ok((numbers, unscaled))
    }
}
