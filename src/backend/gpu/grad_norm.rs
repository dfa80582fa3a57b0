//! The Euclidean norm of all gradients together.

use super::adamw::{chunks, launch};
use super::device::{Address, Kernel};
use super::sum::Partials;
use super::{Gpu, arguments};
use crate::backend::{GradNorm, Result};
use crate::tensor::{DType, Tensor};

const OP: &str = "grad_norm";

arguments! {
    struct GradNormEntry in "grad_norm" {
        grad: Address,
        n: i64,
        first: i64,
    }

    struct GradNormArguments in "grad_norm" {
        table: Address,
        partials: Address,
        count: i32,
        padding: i32,
    }
}

impl GradNorm for Gpu {
    fn grad_norm(&self, grads: &[&Tensor]) -> Result<Tensor> {
        let (mut entries, mut operands, mut total) = (Vec::new(), Vec::new(), 0);
        for grad in grads.iter().filter(|grad| !grad.is_empty()) {
            let operand = self.read(OP, grad, DType::F32)?;
            entries.push(GradNormEntry {
                grad: operand.at(),
                n: grad.len() as i64,
                first: chunks(&mut total, grad.len()),
            });
            operands.push(operand);
        }
        if entries.is_empty() {
            return self.zero_tensor(&[1], DType::F32);
        }
        let partials = Partials::new(self, total)?;
        let table = self.input(bytemuck::cast_slice(&entries))?;
        let arguments = GradNormArguments {
            table: table.at(),
            partials: partials.at(),
            count: entries.len() as i32,
            padding: 0,
        };
        let kernel = Kernel::new(OP, "grad_norm_f32");
        self.launch(kernel, launch(total), &arguments)?;
        let (norm, at) = self.empty(&[1], DType::F32)?;
        partials.finish_root(self, at)?;
        Ok(norm)
    }
}
