//! The Euclidean norm of all gradients together.

use super::device::{Address, Kernel};
use super::sum::Partials;
use super::table::{BUFFERS, Entry, packs};
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
        buffers: [Address; BUFFERS],
        count: i32,
        padding: i32,
    }
}

impl Entry for GradNormEntry {
    fn elements(&self) -> usize {
        self.n as usize
    }

    fn addresses(&mut self) -> Vec<&mut Address> {
        vec![&mut self.grad]
    }

    fn begin(&mut self, chunk: i64) {
        self.first = chunk;
    }
}

impl GradNorm for Gpu {
    fn grad_norm(&self, grads: &[&Tensor]) -> Result<Tensor> {
        let (mut entries, mut operands) = (Vec::new(), Vec::new());
        for grad in grads.iter().filter(|grad| !grad.is_empty()) {
            let operand = self.read(OP, grad, DType::F32)?;
            entries.push(GradNormEntry {
                grad: operand.at(),
                n: grad.len() as i64,
                first: 0,
            });
            operands.push(operand);
        }
        if entries.is_empty() {
            return self.zero_tensor(&[1], DType::F32);
        }
        let packs = packs(self, entries);
        let chunks = packs.iter().map(|pack| pack.chunks());
        let partials = Partials::new(self, chunks.sum())?;
        let mut to = partials.at();
        for pack in packs {
            let table = pack.upload(self)?;
            let arguments = GradNormArguments {
                table: table.at(),
                partials: to,
                buffers: pack.buffers,
                count: pack.count(),
                padding: 0,
            };
            let kernel = Kernel::new(OP, "grad_norm_f32");
            self.launch(kernel, pack.launch(), &arguments)?;
            to += 8 * pack.chunks() as Address;
        }
        let (norm, at) = self.empty(&[1], DType::F32)?;
        partials.finish_root(self, at)?;
        Ok(norm)
    }
}
