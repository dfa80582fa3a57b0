//! Host memory as tensor storage, and the checked ways from a tensor to slices.

use super::Cpu;
use super::memory::Memory;
use super::parallel::add_scaled;
use crate::backend::{self, Error, Grad, Result, shape_error, unsupported};
use crate::tensor::{DType, Storage, Tensor};
use std::any::Any;
use std::sync::Arc;

/// Values in host memory.
#[derive(Debug)]
pub(super) enum Buffer {
    F32(Memory),
    I32(Vec<i32>),
}

impl Storage for Buffer {
    fn size(&self) -> usize {
        match self {
            Buffer::F32(v) => v.len() * 4,
            Buffer::I32(v) => v.len() * 4,
        }
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }
}

/// A tensor that owns `data`.
pub(super) fn tensor(shape: &[usize], data: impl Into<Memory>) -> Tensor {
    Tensor::new(shape, DType::F32, Arc::new(Buffer::F32(data.into())))
}

/// A tensor that owns `data`.
pub(super) fn tensor_i32(shape: &[usize], data: Vec<i32>) -> Tensor {
    Tensor::new(shape, DType::I32, Arc::new(Buffer::I32(data)))
}

fn foreign(op: &'static str) -> Error {
    Error::Foreign {
        op,
        backend: Cpu::NAME,
    }
}

/// The elements of an f32 tensor.
pub(super) fn f32s<'a>(op: &'static str, t: &'a Tensor) -> Result<&'a [f32]> {
    match t.storage().as_any().downcast_ref::<Buffer>() {
        Some(Buffer::F32(v)) => Ok(&v[..t.len()]),
        Some(_) => Err(unsupported(Cpu::NAME, op, t.dtype(), t.shape(), "")),
        None => Err(foreign(op)),
    }
}

/// The elements of an i32 tensor.
pub(super) fn i32s<'a>(op: &'static str, t: &'a Tensor) -> Result<&'a [i32]> {
    match t.storage().as_any().downcast_ref::<Buffer>() {
        Some(Buffer::I32(v)) => Ok(&v[..t.len()]),
        Some(_) => Err(Error::DType {
            op,
            expected: DType::I32,
            got: t.dtype(),
        }),
        None => Err(foreign(op)),
    }
}

/// The elements of an unshared f32 tensor, for writing.
pub(super) fn f32s_mut<'a>(op: &'static str, t: &'a mut Tensor) -> Result<&'a mut [f32]> {
    let (len, dtype) = (t.len(), t.dtype());
    let storage = t.storage_mut().ok_or(Error::Shared { op })?;
    match storage.as_any_mut().downcast_mut::<Buffer>() {
        Some(Buffer::F32(v)) => Ok(&mut v[..len]),
        Some(_) => Err(unsupported(Cpu::NAME, op, dtype, &[len], "")),
        None => Err(foreign(op)),
    }
}

/// The slot's elements, for adding into: an empty slot becomes zeros of `shape`. A slot whose
/// tensor is shared with a value still alive (a gradient that was moved in from an identity) gets
/// storage of its own first.
pub(super) fn accumulator<'a>(
    op: &'static str,
    slot: &'a mut Grad,
    shape: &[usize],
) -> Result<&'a mut [f32]> {
    if let Some(t) = slot {
        if t.shape() != shape {
            return shape_error(
                op,
                format!("gradient {:?} into slot {:?}", shape, t.shape()),
            );
        }
        if t.storage_mut().is_none() {
            *slot = Some(tensor(shape, Memory::copy_of(f32s(op, t)?)));
        }
    } else {
        *slot = Some(tensor(shape, Memory::zeros(shape.iter().product())));
    }
    match slot {
        Some(t) => f32s_mut(op, t),
        None => Err(Error::Shared { op }),
    }
}

/// As [`accumulator`], telling beside the elements whether they hold a sum so far (`true`) or
/// nothing yet: a matrix product then writes instead of adding.
pub(super) fn target<'a>(
    op: &'static str,
    slot: &'a mut Grad,
    shape: &[usize],
) -> Result<(&'a mut [f32], bool)> {
    let add = slot.is_some();
    Ok((accumulator(op, slot, shape)?, add))
}

/// As [`target`] for kernels that write every element when nothing is summed yet: those of an empty slot
/// are then of any value, which saves a pass over them.
pub(super) fn overwritten<'a>(
    op: &'static str,
    slot: &'a mut Grad,
    shape: &[usize],
) -> Result<(&'a mut [f32], bool)> {
    let add = slot.is_some();
    if !add {
        *slot = Some(tensor(shape, Memory::stale(shape.iter().product())));
    }
    Ok((accumulator(op, slot, shape)?, add))
}

pub(super) fn checked(op: &'static str, shape: &[usize], len: usize) -> Result<()> {
    if shape.iter().product::<usize>() != len {
        return shape_error(op, format!("{len} values for shape {shape:?}"));
    }
    Ok(())
}

impl backend::Storage for Cpu {
    fn upload(&self, shape: &[usize], data: &[f32]) -> Result<Tensor> {
        checked("upload", shape, data.len())?;
        Ok(tensor(shape, Memory::copy_of(data)))
    }

    fn upload_i32(&self, shape: &[usize], data: &[i32]) -> Result<Tensor> {
        checked("upload_i32", shape, data.len())?;
        Ok(tensor_i32(shape, data.to_vec()))
    }

    fn download(&self, tensor: &Tensor) -> Result<Vec<f32>> {
        Ok(f32s("download", tensor)?.to_vec())
    }

    fn zeros(&self, shape: &[usize]) -> Result<Tensor> {
        Ok(tensor(shape, Memory::zeros(shape.iter().product())))
    }

    fn copy(&self, from: &Tensor) -> Result<Tensor> {
        let values = Memory::copy_of(f32s("copy", from)?);
        Ok(tensor(from.shape(), values))
    }

    fn accumulate(&self, slot: &mut Grad, value: Tensor) -> Result<()> {
        let Some(sum) = slot else {
            *slot = Some(value);
            return Ok(());
        };
        if sum.shape() != value.shape() {
            return shape_error(
                "accumulate",
                format!("{:?} += {:?}", sum.shape(), value.shape()),
            );
        }
        let shape = value.shape().to_vec();
        let (sum, value) = (
            accumulator("accumulate", slot, &shape)?,
            f32s("accumulate", &value)?,
        );
        add_scaled(sum, value, 1.0);
        Ok(())
    }
}
