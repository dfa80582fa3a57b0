//! AdamW over all parameters at once, and clamping.

use super::device::{Address, Kernel, Launch};
use super::operand::{Operand, optional};
use super::table::{BUFFERS, Entry, packs};
use super::{Gpu, arguments};
use crate::backend::{AdamW, AdamWStep, AdamWTensor, Result, shape_error};
use crate::tensor::{DType, Tensor};

arguments! {
    struct AdamWEntry in "adamw" {
        param: Address,
        grad: Address,
        m: Address,
        v: Address,
        low: Address,
        n: i64,
        first: i64,
        weight_decay: f32,
        padding: i32,
    }

    struct AdamWArguments in "adamw" {
        table: Address,
        numbers: Address,
        norm: Address,
        buffers: [Address; BUFFERS],
        count: i32,
        beta1: f32,
        beta2: f32,
        eps: f32,
        max_norm: f32,
        padding: i32,
    }

    struct ClampArguments in "adamw" {
        x: Address,
        n: i64,
        low: f32,
        high: f32,
    }
}

impl Entry for AdamWEntry {
    fn elements(&self) -> usize {
        self.n as usize
    }

    fn addresses(&mut self) -> Vec<&mut Address> {
        vec![
            &mut self.param,
            &mut self.grad,
            &mut self.m,
            &mut self.v,
            &mut self.low,
        ]
    }

    fn begin(&mut self, chunk: i64) {
        self.first = chunk;
    }
}

impl AdamW for Gpu {
    fn adamw(&self, tensors: &mut [AdamWTensor], step: AdamWStep) -> Result<()> {
        const OP: &str = "adamw";
        let clip = step.clip.filter(|_| step.scaled.is_none());
        if let Some(clip) = clip.filter(|clip| clip.norm.len() != 1) {
            return shape_error(OP, format!("norm {:?}", clip.norm.shape()));
        }
        if let Some(scaled) = step.scaled.filter(|scaled| scaled.len() != 5) {
            return shape_error(OP, format!("scaled {:?}", scaled.shape()));
        }
        let (mut entries, mut grads) = (Vec::new(), Vec::new());
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
            if n == 0 {
                continue;
            }
            let grad = self.read(OP, tensor.grad, DType::F32)?;
            let (param, low) = self.write_both(OP, tensor.param)?;
            entries.push(AdamWEntry {
                param,
                grad: grad.at(),
                m: self.write(OP, tensor.m)?,
                v: self.write(OP, tensor.v)?,
                low,
                n: n as i64,
                first: 0,
                weight_decay: tensor.weight_decay,
                padding: 0,
            });
            grads.push(grad);
        }
        let norm = clip.map(|clip| self.read(OP, clip.norm, DType::F32));
        let norm = norm.transpose()?;
        let t = step.step as i32;
        let correction1 = 1.0 - f64::from(step.beta1).powi(t);
        let correction2 = 1.0 - f64::from(step.beta2).powi(t);
        let lr = f64::from(step.lr);
        let numbers = [
            step.lr,
            (lr / correction1) as f32,
            (1.0 / correction2.sqrt()) as f32,
            1.0,
            1.0,
        ];
        let scaled = step.scaled.map(|scaled| self.read(OP, scaled, DType::F32));
        let scaled = scaled.transpose()?;
        let own = match scaled {
            Some(_) => None,
            None => Some(self.input(bytemuck::cast_slice(&numbers))?),
        };
        let own_at = own.as_ref().map_or(0, |own| own.at());
        let numbers = scaled.as_ref().map_or(own_at, Operand::at);
        for pack in packs(self, entries) {
            let table = pack.upload(self)?;
            let arguments = AdamWArguments {
                table: table.at(),
                numbers,
                norm: optional(&norm),
                buffers: pack.buffers,
                count: pack.count(),
                beta1: step.beta1,
                beta2: step.beta2,
                eps: step.eps,
                max_norm: clip.map_or(0.0, |clip| clip.max),
                padding: 0,
            };
            let kernel = Kernel::new(OP, "adamw_f32");
            self.launch(kernel, pack.launch(), &arguments)?;
        }
        Ok(())
    }

    fn clamp(&self, x: &mut Tensor, low: f32, high: f32) -> Result<()> {
        let n = x.len();
        let arguments = ClampArguments {
            x: self.write("clamp", x)?,
            n: n as i64,
            low,
            high,
        };
        let kernel = Kernel::new("adamw", "clamp_f32");
        let launch = Launch::spread(n, 256 * 4);
        self.launch(kernel, launch, &arguments)
    }
}
