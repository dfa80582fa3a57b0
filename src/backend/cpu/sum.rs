//! Sums, and products with a scalar.

use super::Cpu;
use super::storage::{f32s, tensor};
use crate::backend::{Result, Sum, shape_error};
use crate::tensor::Tensor;

impl Sum for Cpu {
    fn sum(&self, x: &Tensor, factor: f32) -> Result<Tensor> {
        let total: f64 = f32s("sum", x)?.iter().map(|&v| f64::from(v)).sum();
        Ok(tensor(&[1], vec![(total * f64::from(factor)) as f32]))
    }

    fn scale_by(
        &self,
        scalar: &Tensor,
        factor: f32,
        x: Option<&Tensor>,
        n: usize,
    ) -> Result<Tensor> {
        let &[s] = f32s("scale_by", scalar)? else {
            return shape_error("scale_by", format!("scalar of shape {:?}", scalar.shape()));
        };
        let factor = s * factor;
        let y = match x {
            Some(x) => f32s("scale_by", x)?.iter().map(|v| v * factor).collect(),
            None => vec![factor; n],
        };
        Ok(tensor(&[n], y))
    }
}
