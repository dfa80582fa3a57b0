//! Device memory as tensor storage, the checked ways from a tensor to an address, and the slots of gradients.

use super::device::{Address, Device, Kernel, Launch};
use super::{Gpu, spread};
use crate::backend::{Error, Grad, Result, Slot, shape_error};
use crate::tensor::{DType, Storage, Tensor};
use bytemuck::{Pod, Zeroable};
use std::any::Any;
use std::sync::{Arc, OnceLock};

/// An allocation, given back when dropped. The device reuses it only for later work of the same stream, so it
/// may be dropped right after the launch that reads it.
#[derive(Debug)]
pub(super) struct Memory {
    device: Arc<dyn Device>,
    at: Address,
    bytes: usize,
}

impl Memory {
    pub(super) fn at(&self) -> Address {
        self.at
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.device.free(self.at, self.bytes);
    }
}

/// The elements of a tensor.
#[derive(Debug)]
pub(super) struct Buffer {
    memory: Memory,
    /// f32 elements rounded to bf16, made at first use; whoever writes the elements renews or drops it.
    low: OnceLock<Memory>,
    /// What the host knows of i32 elements.
    index: Option<Index>,
}

impl Storage for Buffer {
    fn size(&self) -> usize {
        self.memory.bytes
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }
}

/// Row numbers, which come from the host and stay known there: they are checked against their table without
/// waiting for the device.
#[derive(Debug)]
pub(super) struct Index {
    values: Box<[i32]>,
    scatter: OnceLock<Scatter>,
}

/// The places of an index by the row that they name: row `rows[k]` is named at
/// `order[starts[k]..starts[k + 1]]`, ascending.
#[derive(Debug)]
pub(super) struct Scatter {
    /// Places in the index.
    places: usize,
    /// The number of different rows, then room for as many `rows` and (one more) `starts` as there are places, then
    /// `order`; i32.
    memory: Memory,
}

impl Scatter {
    fn new(gpu: &Gpu, index: &[i32]) -> Result<Self> {
        let mut order: Vec<i32> = (0..index.len() as i32).collect();
        order.sort_by_key(|&place| index[place as usize]);
        let (mut rows, mut starts) = (Vec::new(), Vec::new());
        for (at, &place) in order.iter().enumerate() {
            let row = index[place as usize];
            if rows.last() != Some(&row) {
                rows.push(row);
                starts.push(at as i32);
            }
        }
        starts.push(index.len() as i32);
        let (places, distinct) = (index.len(), rows.len() as i32);
        rows.resize(places, 0);
        starts.resize(places + 1, 0);
        let all = [vec![distinct], rows, starts, order].concat();
        let memory = gpu.input(bytemuck::cast_slice(&all))?;
        Ok(Self { places, memory })
    }

    pub(super) fn distinct(&self) -> Address {
        self.memory.at
    }

    pub(super) fn rows(&self) -> Address {
        self.distinct() + 4
    }

    pub(super) fn starts(&self) -> Address {
        self.rows() + 4 * self.places as u64
    }

    pub(super) fn order(&self) -> Address {
        self.starts() + 4 * (self.places as u64 + 1)
    }
}

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
            Some(value) => gpu.add_into(self.slot, value),
            None => Ok(()),
        }
    }
}

/// [`Target::at`] of a gradient that may be unwanted: 0 then.
pub(super) fn target_address(target: &Option<Target>) -> Address {
    target.as_ref().map_or(0, Target::at)
}

/// [`Target::add`] for a kernel's arguments.
pub(super) fn target_add(target: &Option<Target>) -> u32 {
    target.as_ref().is_some_and(Target::add).into()
}

/// [`Target::done`] of each target that there is.
pub(super) fn done<const N: usize>(gpu: &Gpu, targets: [Option<Target>; N]) -> Result<()> {
    targets.into_iter().flatten().try_for_each(|t| t.done(gpu))
}

fn tensor(shape: &[usize], dtype: DType, memory: Memory, index: Option<Index>) -> Tensor {
    let low = OnceLock::new();
    Tensor::new(shape, dtype, Arc::new(Buffer { memory, low, index }))
}

fn dtype_error<T>(op: &'static str, expected: DType, got: DType) -> Result<T> {
    Err(Error::DType { op, expected, got })
}

impl Gpu {
    /// Memory for `bytes` bytes, of any content.
    pub(super) fn allocate(&self, bytes: usize) -> Result<Memory> {
        let at = self.device.allocate(bytes)?;
        let device = self.device.clone();
        Ok(Memory { device, at, bytes })
    }

    /// Memory that holds `bytes`.
    pub(super) fn input(&self, bytes: &[u8]) -> Result<Memory> {
        let memory = Memory {
            at: self.device.allocate_input(bytes.len())?,
            device: self.device.clone(),
            bytes: bytes.len(),
        };
        self.device.upload(memory.at, bytes)?;
        Ok(memory)
    }

    /// A tensor of any content, and where its elements lie.
    pub(super) fn empty(&self, shape: &[usize], dtype: DType) -> Result<(Tensor, Address)> {
        let memory = self.allocate(shape.iter().product::<usize>() * dtype.size())?;
        let at = memory.at;
        Ok((tensor(shape, dtype, memory, None), at))
    }

    pub(super) fn upload_f32(&self, shape: &[usize], data: &[f32]) -> Result<Tensor> {
        let memory = self.input(bytemuck::cast_slice(data))?;
        Ok(tensor(shape, DType::F32, memory, None))
    }

    pub(super) fn upload_index(&self, shape: &[usize], data: &[i32]) -> Result<Tensor> {
        let index = Index {
            values: data.into(),
            scatter: OnceLock::new(),
        };
        let memory = self.input(bytemuck::cast_slice(data))?;
        Ok(tensor(shape, DType::I32, memory, Some(index)))
    }

    /// The values of an f32 or bf16 tensor.
    pub(super) fn values(&self, tensor: &Tensor) -> Result<Vec<f32>> {
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
            got => dtype_error("download", DType::F32, got),
        }
    }

    pub(super) fn zero_tensor(&self, shape: &[usize], dtype: DType) -> Result<Tensor> {
        let (tensor, at) = self.empty(shape, dtype)?;
        self.device.clear(at, tensor.len() * dtype.size())?;
        Ok(tensor)
    }

    pub(super) fn copy_of(&self, tensor: &Tensor) -> Result<Tensor> {
        let from = self.buffer("copy", tensor)?;
        if let Some(index) = &from.index {
            return self.upload_index(tensor.shape(), &index.values);
        }
        let (copy, at) = self.empty(tensor.shape(), tensor.dtype())?;
        self.device
            .copy(from.memory.at, at, tensor.len() * tensor.dtype().size())?;
        Ok(copy)
    }

    fn buffer<'a>(&self, op: &'static str, t: &'a Tensor) -> Result<&'a Buffer> {
        match t.storage().as_any().downcast_ref::<Buffer>() {
            Some(buffer) if Arc::ptr_eq(&buffer.memory.device, &self.device) => Ok(buffer),
            _ => Err(Error::Foreign {
                op,
                backend: self.name,
            }),
        }
    }

    /// The elements of an f32 or bf16 tensor as `dtype`, one of the two.
    pub(super) fn read<'a>(
        &self,
        op: &'static str,
        t: &'a Tensor,
        dtype: DType,
    ) -> Result<Operand<'a>> {
        let buffer = self.buffer(op, t)?;
        let (at, cast) = match (t.dtype(), dtype) {
            (have, want) if have == want => (buffer.memory.at, None),
            (DType::F32, DType::BF16) => (self.low(buffer, t.len())?, None),
            (DType::BF16, DType::F32) => {
                let memory = self.allocate(t.len() * 4)?;
                self.cast("cast_bf16_f32", buffer.memory.at, memory.at, t.len())?;
                (memory.at, Some(memory))
            }
            (got, expected) => return dtype_error(op, expected, got),
        };
        Ok(Operand {
            at,
            _tensor: t,
            _cast: cast,
        })
    }

    /// The bf16 copy of f32 elements.
    fn low(&self, buffer: &Buffer, len: usize) -> Result<Address> {
        if let Some(low) = buffer.low.get() {
            return Ok(low.at);
        }
        let memory = self.allocate(len * 2)?;
        self.cast("cast_f32_bf16", buffer.memory.at, memory.at, len)?;
        Ok(buffer.low.get_or_init(|| memory).at)
    }

    /// The elements of an index of rows below `bound`.
    pub(super) fn read_index(&self, op: &'static str, t: &Tensor, bound: usize) -> Result<Address> {
        let buffer = self.buffer(op, t)?;
        let Some(index) = &buffer.index else {
            return dtype_error(op, DType::I32, t.dtype());
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
            return dtype_error(op, DType::I32, t.dtype());
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

    /// The elements of an f32 tensor that nobody shares, for writing; a bf16 copy is dropped.
    pub(super) fn write(&self, op: &'static str, t: &mut Tensor) -> Result<Address> {
        let dtype = t.dtype();
        if dtype != DType::F32 {
            return dtype_error(op, DType::F32, dtype);
        }
        let buffer = self.buffer_mut(op, t)?;
        buffer.low.take();
        Ok(buffer.memory.at)
    }

    /// As [`Gpu::write`] for a kernel that renews the bf16 copy, if there is one, beside the elements:
    /// its address, or 0.
    pub(super) fn write_both(
        &self,
        op: &'static str,
        t: &mut Tensor,
    ) -> Result<(Address, Address)> {
        let dtype = t.dtype();
        if dtype != DType::F32 {
            return dtype_error(op, DType::F32, dtype);
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

    /// The elements of `t` for adding into: storage of its own if it was shared, no bf16 copy.
    fn own(&self, op: &'static str, t: &mut Tensor) -> Result<Address> {
        if t.storage_mut().is_none() {
            *t = self.copy_of(t)?;
        }
        let buffer = self.buffer_mut(op, t)?;
        buffer.low.take();
        Ok(buffer.memory.at)
    }

    /// `slot += value`; see [`crate::backend::Backend::accumulate`].
    pub(super) fn add_into(&self, slot: &mut Grad, value: Tensor) -> Result<()> {
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
            (DType::F32 | DType::BF16, got) | (got, _) => {
                return dtype_error(OP, DType::F32, got);
            }
        };
        let to = self.own(OP, sum)?;
        self.cast(entry, self.buffer(OP, &value)?.memory.at, to, value.len())
    }

    /// Runs an entry of `cuda/storage.cu` over `len` elements.
    fn cast(&self, entry: &'static str, from: Address, to: Address, len: usize) -> Result<()> {
        #[repr(C)]
        #[derive(Clone, Copy, Pod, Zeroable)]
        struct Move {
            from: Address,
            to: Address,
            n: i64,
        }
        let kernel = Kernel {
            module: "storage",
            entry,
        };
        let launch = Launch {
            grid: spread(len, 256 * 8),
            block: 256,
            shared: 0,
        };
        let n = len as i64;
        self.launch(kernel, launch, &Move { from, to, n })
    }
}
