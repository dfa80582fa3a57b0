//! The checked ways from a tensor to an address: operands that a kernel reads, tensors that it writes, slots of gradients.

use super::Gpu;
use super::device::Address;
use super::memory::{Buffer, Memory, Scatter};
use crate::backend::{Error, Grad, Result, Slot, Storage, shape_error, unsupported};
use crate::tensor::{DType, Tensor};
use std::sync::Arc;

/// An operand in the element type that a kernel takes. Keeps a cast alive, and borrows the tensor.
pub(super) struct Operand<'a> {
    at: Address,
    _tensor: &'a Tensor,
    _cast: Option<Memory>,
}

impl Operand<'_> {
    pub(super) fn at(&self) -> Address {
        self.at
    }
}

/// The address of an operand that may be absent: 0 then.
pub(super) fn optional(operand: &Option<Operand>) -> Address {
    operand.as_ref().map_or(0, Operand::at)
}

/// Where a kernel puts a gradient. [`Target::done`] follows the launch.
#[must_use]
pub(super) struct Target<'a> {
    slot: &'a mut Grad,
    /// Written in place of the slot's tensor, whose elements are of another type.
    aside: Option<Tensor>,
    at: Address,
    add: bool,
}

impl Target<'_> {
    pub(super) fn at(&self) -> Address {
        self.at
    }

    /// Whether the slot holds a sum to add to; else every element is to be written.
    pub(super) fn add(&self) -> bool {
        self.add
    }

    /// Adds what was written aside.
    pub(super) fn done(self, gpu: &Gpu) -> Result<()> {
        match self.aside {
            Some(value) => gpu.accumulate(self.slot, value),
            None => Ok(()),
        }
    }
}

/// [`Target::at`] of a gradient that may be unwanted: 0 then.
pub(super) fn target_address(target: &Option<Target>) -> Address {
    target.as_ref().map_or(0, Target::at)
}

/// [`Target::add`] for a kernel's arguments.
pub(super) fn target_add(target: &Option<Target>) -> i32 {
    target.as_ref().is_some_and(Target::add).into()
}

/// [`Target::done`] of each target that there is.
pub(super) fn done<const N: usize>(gpu: &Gpu, targets: [Option<Target>; N]) -> Result<()> {
    targets.into_iter().flatten().try_for_each(|t| t.done(gpu))
}

fn not_an_index(op: &'static str, t: &Tensor) -> Error {
    Error::DType {
        op,
        expected: DType::I32,
        got: t.dtype(),
    }
}

impl Gpu {
    /// The answer to an operand of an element type that `op` does not take.
    pub(super) fn unsupported_type(&self, op: &'static str, t: &Tensor) -> Error {
        unsupported(self.name, op, t.dtype(), t.shape(), "")
    }

    pub(super) fn buffer<'a>(&self, op: &'static str, t: &'a Tensor) -> Result<&'a Buffer> {
        match t.storage().as_any().downcast_ref::<Buffer>() {
            Some(buffer) if Arc::ptr_eq(&buffer.memory.device, &self.device) => Ok(buffer),
            _ => Err(Error::Foreign {
                op,
                backend: self.name,
            }),
        }
    }

    /// The elements of a tensor of f32 or the low type as `dtype`, one of the two.
    pub(super) fn read<'a>(
        &self,
        op: &'static str,
        t: &'a Tensor,
        dtype: DType,
    ) -> Result<Operand<'a>> {
        let buffer = self.buffer(op, t)?;
        let low = self.low_type();
        let (at, cast) = match (t.dtype(), dtype) {
            (DType::F32, DType::F32) => (buffer.memory.at, None),
            (DType::F32, to) if to == low => (self.low(buffer, t.len())?, None),
            (from, to) if from == low && to == low => (buffer.memory.at, None),
            (from, DType::F32) if from == low => {
                let memory = self.allocate(t.len() * 4)?;
                let entry = match low {
                    DType::F16 => "cast_f16_f32",
                    _ => "cast_bf16_f32",
                };
                self.cast(entry, buffer.memory.at, memory.at, t.len())?;
                (memory.at, Some(memory))
            }
            _ => return Err(self.unsupported_type(op, t)),
        };
        Ok(Operand {
            at,
            _tensor: t,
            _cast: cast,
        })
    }

    /// The low copy of f32 elements.
    fn low(&self, buffer: &Buffer, len: usize) -> Result<Address> {
        if let Some(low) = buffer.low.get() {
            return Ok(low.at);
        }
        let memory = self.allocate(len * 2)?;
        let entry = match self.low_type() {
            DType::F16 => "cast_f32_f16",
            _ => "cast_f32_bf16",
        };
        self.cast(entry, buffer.memory.at, memory.at, len)?;
        Ok(buffer.low.get_or_init(|| memory).at)
    }

    /// The elements of an index of rows below `bound`.
    pub(super) fn read_index(&self, op: &'static str, t: &Tensor, bound: usize) -> Result<Address> {
        let buffer = self.buffer(op, t)?;
        let Some(index) = &buffer.index else {
            return Err(not_an_index(op, t));
        };
        let outside = |&&i: &&i32| usize::try_from(i).map_or(true, |i| i >= bound);
        match index.values.iter().find(outside) {
            Some(&bad) => Err(Error::Index {
                op,
                index: bad.into(),
                bound,
            }),
            None => Ok(buffer.memory.at),
        }
    }

    /// The places of an index by row, all rows below `bound`; sorted once.
    pub(super) fn scatter<'a>(
        &self,
        op: &'static str,
        t: &'a Tensor,
        bound: usize,
    ) -> Result<&'a Scatter> {
        self.read_index(op, t, bound)?;
        let Some(index) = &self.buffer(op, t)?.index else {
            return Err(not_an_index(op, t));
        };
        match index.scatter.get() {
            Some(scatter) => Ok(scatter),
            None => {
                let scatter = Scatter::new(self, &index.values)?;
                Ok(index.scatter.get_or_init(|| scatter))
            }
        }
    }

    fn buffer_mut<'a>(&self, op: &'static str, t: &'a mut Tensor) -> Result<&'a mut Buffer> {
        self.buffer(op, t)?;
        let storage = t.storage_mut().ok_or(Error::Shared { op })?;
        let backend = self.name;
        let buffer = storage.as_any_mut().downcast_mut::<Buffer>();
        buffer.ok_or(Error::Foreign { op, backend })
    }

    /// The elements of an unshared f32 tensor, for writing; a low copy is dropped.
    pub(super) fn write(&self, op: &'static str, t: &mut Tensor) -> Result<Address> {
        if t.dtype() != DType::F32 {
            return Err(self.unsupported_type(op, t));
        }
        let buffer = self.buffer_mut(op, t)?;
        buffer.low.take();
        Ok(buffer.memory.at)
    }

    /// As [`Gpu::write`] for a kernel that renews the low copy, if there is one, beside the elements:
    /// its address, or 0.
    pub(super) fn write_both(
        &self,
        op: &'static str,
        t: &mut Tensor,
    ) -> Result<(Address, Address)> {
        if t.dtype() != DType::F32 {
            return Err(self.unsupported_type(op, t));
        }
        let buffer = self.buffer_mut(op, t)?;
        let low = buffer.low.get().map_or(0, Memory::at);
        Ok((buffer.memory.at, low))
    }

    /// Where a kernel puts a gradient of `shape` whose elements it makes as `dtype`. A slot whose tensor is
    /// shared with a value still alive gets storage of its own first.
    pub(super) fn target<'a>(
        &self,
        op: &'static str,
        slot: Slot<'a>,
        shape: &[usize],
        dtype: DType,
    ) -> Result<Option<Target<'a>>> {
        let Some(slot) = slot else { return Ok(None) };
        let (at, add, aside) = match slot {
            None => {
                let (tensor, at) = self.empty(shape, dtype)?;
                *slot = Some(tensor);
                (at, false, None)
            }
            Some(t) if t.shape() != shape => {
                let detail = format!("gradient {shape:?} into slot {:?}", t.shape());
                return shape_error(op, detail);
            }
            Some(t) if t.dtype() != dtype => {
                let (tensor, at) = self.empty(shape, dtype)?;
                (at, false, Some(tensor))
            }
            Some(t) => (self.own(op, t)?, true, None),
        };
        Ok(Some(Target {
            slot,
            aside,
            at,
            add,
        }))
    }

    /// The elements of `t` for adding into: storage of its own if it was shared, no low copy.
    pub(super) fn own(&self, op: &'static str, t: &mut Tensor) -> Result<Address> {
        if t.storage_mut().is_none() {
            *t = self.copy(t)?;
        }
        let buffer = self.buffer_mut(op, t)?;
        buffer.low.take();
        Ok(buffer.memory.at)
    }
}
