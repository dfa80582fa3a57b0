//! Mean squared difference of two tensors.

use super::Cpu;
use super::parallel::{over_rows, vectorised};
use super::storage::{accumulator, f32s, tensor};
use crate::backend::{Mse, Result, Slot, shape_error};
use crate::tensor::Tensor;
use rayon::prelude::*;

const OP: &str = "mse";

/// Elements whose squares one f32 reduction sums; such sums are added in f64, in order.
const CHUNK: usize = 4096;

fn operands<'a>(x: &'a Tensor, y: &'a Tensor) -> Result<(&'a [f32], &'a [f32])> {
    if x.shape() != y.shape() {
        return shape_error(OP, format!("{:?} and {:?}", x.shape(), y.shape()));
    }
    Ok((f32s(OP, x)?, f32s(OP, y)?))
}

impl Mse for Cpu {
    /// Σ (x − y)² / len, `[1]`; 0 of nothing.
    fn mse(&self, x: &Tensor, y: &Tensor) -> Result<Tensor> {
        let (x, y) = operands(x, y)?;
        let partials: Vec<f32> = x
            .par_chunks(CHUNK)
            .zip(y.par_chunks(CHUNK))
            .map(|(x, y)| {
                vectorised(
                    #[inline(always)]
                    || super::math::sum2(x, y, |x, y| (x - y) * (x - y)),
                )
            })
            .collect();
        let total: f64 = partials.into_iter().map(f64::from).sum();
        Ok(tensor(&[1], vec![(total / x.len().max(1) as f64) as f32]))
    }

    /// dx += dy · 2 (x − y) / len.
    fn mse_backward(&self, dy: &Tensor, x: &Tensor, y: &Tensor, dx: Slot) -> Result<()> {
        let Some(slot) = dx else { return Ok(()) };
        let shape = x.shape();
        let (x, y) = operands(x, y)?;
        let factor = match f32s(OP, dy)? {
            [dy] => dy * 2.0 / x.len().max(1) as f32,
            dy => {
                return shape_error(
                    OP,
                    format!("gradient of {} elements for a scalar", dy.len()),
                );
            }
        };
        over_rows(
            accumulator(OP, slot, shape)?,
            1,
            #[inline(always)]
            |first, out| {
                let end = first + out.len();
                for ((out, x), y) in out.iter_mut().zip(&x[first..end]).zip(&y[first..end]) {
                    *out += factor * (x - y);
                }
            },
        );
        Ok(())
    }
}
