//! AdamW, and clamping.

use super::Cpu;
use super::parallel::vectorised;
use super::storage::{f32s, f32s_mut};
use crate::backend::{AdamW, AdamWStep, AdamWTensor, Result, shape_error};
use crate::tensor::Tensor;
use rayon::prelude::*;

/// Elements per task.
const CHUNK: usize = 16 * 1024;

impl AdamW for Cpu {
    fn adamw(&self, tensors: &mut [AdamWTensor], step: AdamWStep) -> Result<()> {
        const OP: &str = "adamw";
        let t = step.step as i32;
        let correction1 = 1.0 - f64::from(step.beta1).powi(t);
        let correction2_sqrt = (1.0 - f64::from(step.beta2).powi(t)).sqrt();
        let mut step_size = (f64::from(step.lr) / correction1) as f32;
        let mut inverse_correction2 = (1.0 / correction2_sqrt) as f32;
        let mut grad_scale = match step.clip {
            Some(clip) => match f32s(OP, clip.norm)? {
                [norm] => (clip.max / (norm + 1e-6)).min(1.0),
                _ => return shape_error(OP, format!("norm {:?}", clip.norm.shape())),
            },
            None => 1.0,
        };
        if let Some(numbers) = step.scaled {
            let &[_, size, inverse, factor, taken] = f32s(OP, numbers)? else {
                return shape_error(OP, format!("scaled {:?}", numbers.shape()));
            };
            if taken == 0.0 {
                return Ok(());
            }
            (step_size, inverse_correction2, grad_scale) = (size, inverse, factor);
        }
        for tensor in tensors {
            let n = tensor.param.len();
            if [tensor.grad.len(), tensor.m.len(), tensor.v.len()] != [n; 3] {
                let detail = format!(
                    "param {:?}, grad {:?}",
                    tensor.param.shape(),
                    tensor.grad.shape()
                );
                return shape_error(OP, detail);
            }
            let keep = 1.0 - step.lr * tensor.weight_decay;
            let grad = f32s(OP, tensor.grad)?;
            let (m, v) = (f32s_mut(OP, tensor.m)?, f32s_mut(OP, tensor.v)?);
            f32s_mut(OP, tensor.param)?
                .par_chunks_mut(CHUNK)
                .zip(grad.par_chunks(CHUNK))
                .zip(m.par_chunks_mut(CHUNK).zip(v.par_chunks_mut(CHUNK)))
                .for_each(|((p, g), (m, v))| {
                    vectorised(
                        #[inline(always)]
                        || {
                            for (((p, g), m), v) in
                                p.iter_mut().zip(g).zip(m.iter_mut()).zip(v.iter_mut())
                            {
                                let g = g * grad_scale;
                                *m = step.beta1.mul_add(*m, (1.0 - step.beta1) * g);
                                *v = step.beta2.mul_add(*v, (1.0 - step.beta2) * g * g);
                                let denominator = v.sqrt().mul_add(inverse_correction2, step.eps);
                                *p = p.mul_add(keep, -step_size * (*m / denominator));
                            }
                        },
                    );
                });
        }
        Ok(())
    }

    fn clamp(&self, x: &mut Tensor, low: f32, high: f32) -> Result<()> {
        for v in f32s_mut("clamp", x)? {
            *v = v.clamp(low, high);
        }
        Ok(())
    }
}
