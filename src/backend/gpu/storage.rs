//! Tensors in and out of device memory, and their moves within it.

use super::device::{Address, Kernel, Launch};
use super::memory::{Index, tensor};
use super::{Gpu, arguments, fetch};
use crate::backend::{Fetch, Grad, Result, Storage, shape_error};
use crate::tensor::{DType, Tensor};
use std::sync::OnceLock;

arguments! {
    struct MoveArguments in "storage" {
        source: Address,
        to: Address,
        n: i64,
    }
}

pub(super) fn checked(op: &'static str, shape: &[usize], len: usize) -> Result<()> {
    if shape.iter().product::<usize>() != len {
        return shape_error(op, format!("{len} values for shape {shape:?}"));
    }
    Ok(())
}

impl Storage for Gpu {
    fn upload(&self, shape: &[usize], data: &[f32]) -> Result<Tensor> {
        checked("upload", shape, data.len())?;
        let memory = self.input(bytemuck::cast_slice(data))?;
        Ok(tensor(shape, DType::F32, memory, None))
    }

    fn upload_i32(&self, shape: &[usize], data: &[i32]) -> Result<Tensor> {
        checked("upload_i32", shape, data.len())?;
        let index = Index {
            values: data.into(),
            scatter: OnceLock::new(),
        };
        let memory = self.input(bytemuck::cast_slice(data))?;
        Ok(tensor(shape, DType::I32, memory, Some(index)))
    }

    fn download(&self, tensor: &Tensor) -> Result<Vec<f32>> {
        let at = self.buffer("download", tensor)?.memory.at;
        match tensor.dtype() {
            DType::F32 => {
                let mut values = vec![0f32; tensor.len()];
                self.device
                    .download(at, bytemuck::cast_slice_mut(&mut values))?;
                Ok(values)
            }
            DType::BF16 => {
                let mut values = vec![half::bf16::ZERO; tensor.len()];
                self.device
                    .download(at, bytemuck::cast_slice_mut(&mut values))?;
                Ok(values.into_iter().map(half::bf16::to_f32).collect())
            }
            DType::F16 => {
                let mut values = vec![half::f16::ZERO; tensor.len()];
                self.device
                    .download(at, bytemuck::cast_slice_mut(&mut values))?;
                Ok(values.into_iter().map(half::f16::to_f32).collect())
            }
            DType::I32 => Err(self.unsupported_type("download", tensor)),
        }
    }

    fn fetch(&self, tensors: &[&Tensor]) -> Result<Fetch> {
        fetch::fetch(self, tensors)
    }

    fn zeros(&self, shape: &[usize]) -> Result<Tensor> {
        self.zero_tensor(shape, DType::F32)
    }

    fn copy(&self, tensor: &Tensor) -> Result<Tensor> {
        let from = self.buffer("copy", tensor)?;
        if let Some(index) = &from.index {
            return self.upload_i32(tensor.shape(), &index.values);
        }
        let (copy, at) = self.empty(tensor.shape(), tensor.dtype())?;
        self.device
            .copy(from.memory.at, at, tensor.len() * tensor.dtype().size())?;
        Ok(copy)
    }

    fn accumulate(&self, slot: &mut Grad, value: Tensor) -> Result<()> {
        const OP: &str = "accumulate";
        let Some(sum) = slot else {
            *slot = Some(value);
            return Ok(());
        };
        if sum.shape() != value.shape() {
            let detail = format!("{:?} += {:?}", sum.shape(), value.shape());
            return shape_error(OP, detail);
        }
        let entry = match (value.dtype(), sum.dtype()) {
            (DType::F32, DType::F32) => "accumulate_f32_f32",
            (DType::F32, DType::BF16) => "accumulate_f32_bf16",
            (DType::BF16, DType::F32) => "accumulate_bf16_f32",
            (DType::BF16, DType::BF16) => "accumulate_bf16_bf16",
            (DType::F32, DType::F16) => "accumulate_f32_f16",
            (DType::F16, DType::F32) => "accumulate_f16_f32",
            (DType::F16, DType::F16) => "accumulate_f16_f16",
            _ => return Err(self.unsupported_type(OP, &value)),
        };
        let to = self.own(OP, sum)?;
        self.cast(entry, self.buffer(OP, &value)?.memory.at, to, value.len())
    }
}

impl Gpu {
    /// Runs an entry of `storage` over `len` elements.
    pub(super) fn cast(
        &self,
        entry: &'static str,
        source: Address,
        to: Address,
        len: usize,
    ) -> Result<()> {
        let kernel = Kernel::new("storage", entry);
        let launch = Launch::spread(len, 256 * 8);
        let n = len as i64;
        self.launch(kernel, launch, &MoveArguments { source, to, n })
    }
}
