//! The norm of all gradients together.

use super::parallel::vectorised;
use super::storage::{f32s, tensor};
use super::{Cpu, math};
use crate::backend::{GradNorm, Result};
use crate::tensor::Tensor;
use rayon::prelude::*;

impl GradNorm for Cpu {
    fn grad_norm(&self, grads: &[&Tensor]) -> Result<Tensor> {
        let mut total = 0.0;
        for grad in grads {
            let partials: Vec<f64> = f32s("grad_norm", grad)?
                .par_chunks(4096)
                .map(|chunk| {
                    f64::from(vectorised(
                        #[inline(always)]
                        || math::dot(chunk, chunk),
                    ))
                })
                .collect();
            total += partials.iter().sum::<f64>();
        }
        Ok(tensor(&[1], vec![total.sqrt() as f32]))
    }
}
