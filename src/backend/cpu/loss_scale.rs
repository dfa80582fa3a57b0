//! Dynamic loss scaling.

use super::Cpu;
use super::storage::{f32s, f32s_mut};
use crate::backend::{LossScale, LossScaleState, Result, ScaledStep, Storage, shape_error};
use crate::tensor::Tensor;

const OP: &str = "loss_scale";

impl LossScale for Cpu {
    fn loss_scale(&self, state: &mut LossScaleState, of: ScaledStep) -> Result<(Tensor, Tensor)> {
        let &[norm] = f32s(OP, of.norm)? else {
            return shape_error(OP, format!("norm {:?}", of.norm.shape()));
        };
        let shapes = format!("{:?} and {:?}", state.scale.shape(), state.counts.shape());
        let [scale] = f32s_mut(OP, &mut state.scale)? else {
            return shape_error(OP, shapes);
        };
        let [good, taken, skipped, powers @ ..] = f32s_mut(OP, &mut state.counts)? else {
            return shape_error(OP, shapes);
        };
        let [b1, b1_low, b2, b2_low] = powers else {
            return shape_error(OP, shapes);
        };
        let unscaled = norm / *scale;
        let mut numbers = [of.lr, 0.0, 0.0, 0.0, 0.0];
        if norm.is_finite() {
            *taken += 1.0;
            let power = |high: &mut f32, low: &mut f32, beta: f32| {
                let product = (f64::from(*high) + f64::from(*low)) * f64::from(beta);
                *high = product as f32;
                *low = (product - f64::from(*high)) as f32;
                1.0 - product
            };
            let correction1 = power(b1, b1_low, of.beta1);
            let correction2 = power(b2, b2_low, of.beta2);
            let clip = of
                .max_norm
                .map_or(1.0, |max| (max / (unscaled + 1e-6)).min(1.0));
            numbers = [
                of.lr,
                (f64::from(of.lr) / correction1) as f32,
                (1.0 / correction2.sqrt()) as f32,
                clip / *scale,
                1.0,
            ];
            *good += 1.0;
            if *good >= of.scaling.interval as f32 {
                let grown = *scale * of.scaling.growth;
                if grown.is_finite() {
                    *scale = grown;
                }
                *good = 0.0;
            }
        } else {
            *skipped += 1.0;
            *good = 0.0;
            *scale *= of.scaling.backoff;
        }
        Ok((
            self.upload(&[5], &numbers)?,
            self.upload(&[1], &[unscaled])?,
        ))
    }
}
