//! Σ_k weight_k · term_k, in the low type if all terms are.

use super::device::{Address, Launch};
use super::operand::done;
use super::{Gpu, arguments, instance};
use crate::backend::{Result, Slot, WeightedSum, shape_error};
use crate::tensor::{DType, Tensor};

const OP: &str = "weighted_sum";

/// Terms of a launch: with the result seven buffers, where eight can be bound everywhere.
const TERMS: usize = 6;

arguments! {
    struct WeightedSumArguments in "weighted_sum" {
        terms: [Address; TERMS],
        weights: [f32; TERMS],
        y: Address,
        n: i64,
        count: i32,
        add: i32,
    }
}

/// y = Σ, or y += Σ if `add`, of at most [`TERMS`] terms of `n` elements.
fn sum_into(
    gpu: &Gpu,
    terms: &[(&Tensor, f32)],
    dtype: DType,
    n: usize,
    y: Address,
    add: bool,
) -> Result<()> {
    let mut arguments = WeightedSumArguments {
        terms: [0; TERMS],
        weights: [0.0; TERMS],
        y,
        n: n as i64,
        count: terms.len() as i32,
        add: add.into(),
    };
    // A cast operand lives until the launch.
    let mut operands = Vec::with_capacity(terms.len());
    for (k, (term, weight)) in terms.iter().enumerate() {
        let operand = gpu.read(OP, term, dtype)?;
        arguments.terms[k] = operand.at();
        arguments.weights[k] = *weight;
        operands.push(operand);
    }
    let launch = Launch::spread(n, 256 * 16 / dtype.size());
    gpu.launch(
        instance!("weighted_sum", "weighted_sum", dtype),
        launch,
        &arguments,
    )
}

impl WeightedSum for Gpu {
    fn weighted_sum(&self, terms: &[(&Tensor, f32)]) -> Result<Tensor> {
        let Some((first, _)) = terms.first() else {
            return shape_error(OP, "no terms");
        };
        let low = self.low_type();
        let dtype = match terms.iter().all(|(t, _)| t.dtype() == low) {
            true => low,
            false => DType::F32,
        };
        let (y, y_at) = self.empty(first.shape(), dtype)?;
        for (i, part) in terms.chunks(TERMS).enumerate() {
            sum_into(self, part, dtype, first.len(), y_at, i > 0)?;
        }
        Ok(y)
    }

    /// dx += factor · dy.
    fn scale_backward(&self, dy: &Tensor, factor: f32, dx: Slot) -> Result<()> {
        let dtype = dy.dtype();
        let Some(dx) = self.target(OP, dx, dy.shape(), dtype)? else {
            return Ok(());
        };
        sum_into(self, &[(dy, factor)], dtype, dy.len(), dx.at(), dx.add())?;
        done(self, [Some(dx)])
    }
}
